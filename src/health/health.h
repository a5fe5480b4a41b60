/*-------------------------------------------------------------------------
 *
 * health.h
 *	  Health checks: what of them is C is the prober, which looks at things
 *	  through the network.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_HEALTH_H
#define MONITORING_HEALTH_H

#include "core/core.h"

extern void mon_health_init(void);

#endif /* MONITORING_HEALTH_H */
