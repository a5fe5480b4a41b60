/*-------------------------------------------------------------------------
 *
 * signals_internal.h
 *	  The buffer in shared memory between the hooks and the workers.
 *
 * A slot belongs to whoever moved its state on: a hook from free to writing, a
 * worker from ready to taken.  Taken slots are free again once the table
 * signal_state shows that the transaction which stored them has committed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIGNALS_INTERNAL_H
#define SIGNALS_INTERNAL_H

#include "signals/signal.h"

typedef enum LoginOutcome
{
	LOGIN_OK,
	LOGIN_REFUSED, /* by authentication; its method is in TEXT_TEMPLATE */
	LOGIN_FAILED   /* by an error, which is in TEXT_TEMPLATE and TEXT_MESSAGE */
} LoginOutcome;

/* What was counted and not yet recorded as metrics, of one kind, level, code and database. */
typedef struct SignalCount
{
	int place;
	SignalKind kind;
	int level;
	int code;
	Oid dbid;
	uint64 total; /* since the start of the server */
	uint64 dropped;
	uint64 recorded;
	uint64 recorded_dropped;
} SignalCount;

/* ---- signal_buffer.c ---- */

extern void mon_signal_buffer_init(void);

/* For the worker of this database. */
extern bool mon_signals_waiting(void);
/* Palloc'd copies, in order, of at most `max` signals that no drain up to `stored` has stored. */
extern Signal **mon_signals_take(uint64 stored, int max, int *n);
extern void mon_signals_free_taken(uint64 seq);
extern void mon_signals_drain_failed(void);
/* Counts of the whole server, or of those that this database's worker is to record. */
extern SignalCount *mon_signal_counts(bool all, int *n);
extern void mon_signal_count_recorded(int place, uint64 total, uint64 dropped);
extern int mon_signal_capacity(int *in_use);

/* ---- error_hook.c, login_hook.c, change_hook.c ---- */

extern void mon_error_hook_init(void);
extern void mon_login_hook_init(void);
extern void mon_change_hook_init(void);

/* Whether this session's failed log-in has been noted. */
extern bool mon_login_noted;
/* A session that ends before it began: by this error. */
extern void mon_note_failed_login(const ErrorData *edata);

#endif /* SIGNALS_INTERNAL_H */
