/*-------------------------------------------------------------------------
 *
 * signals.h
 *	  What happens in the server and is worth a row: errors, log-ins, changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SIGNALS_H
#define MONITORING_SIGNALS_H

#include "compat.h"

#include "datatype/timestamp.h"

extern void mon_signals_init(void);

/*
 * Whether this database keeps what belongs to none: of those whose workers were
 * there within a minute it has the lowest oid.
 */
extern bool mon_signals_home(TimestampTz now);

#endif /* MONITORING_SIGNALS_H */
