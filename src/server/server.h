/*-------------------------------------------------------------------------
 *
 * server.h
 *	  What the server knows: statements, activity.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SERVER_H
#define MONITORING_SERVER_H

#include "core/core.h"

extern void mon_server_init(void);

/* After the launcher's: where there is no worker slot for both, the launcher shall have it. */
extern void mon_activity_sampler_init(void);

#endif /* MONITORING_SERVER_H */
