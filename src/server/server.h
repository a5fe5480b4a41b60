/*-------------------------------------------------------------------------
 *
 * server.h
 *	  What the server knows: statements.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SERVER_H
#define MONITORING_SERVER_H

#include "core/core.h"

extern void mon_server_init(void);

#endif /* MONITORING_SERVER_H */
