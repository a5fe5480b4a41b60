/*-------------------------------------------------------------------------
 *
 * notify.h
 *	  Outbox and delivery of notifications: what other slices may use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_NOTIFY_H
#define MONITORING_NOTIFY_H

#include "core/core.h"

extern void mon_notify_init(void);

#endif /* MONITORING_NOTIFY_H */
