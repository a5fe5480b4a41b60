/*-------------------------------------------------------------------------
 *
 * signals.h
 *	  What happens in the server and is worth a row: errors, log-ins, changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SIGNALS_H
#define MONITORING_SIGNALS_H

extern void mon_signals_init(void);

#endif /* MONITORING_SIGNALS_H */
