/*-------------------------------------------------------------------------
 *
 * slow_capture.h
 *	  Executions that are slow, on their way into the buffer of signals.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SLOW_CAPTURE_H
#define MONITORING_SLOW_CAPTURE_H

#include "server/statement.h"

#include "executor/execdesc.h"

typedef struct SlowExecution
{
	const StatementKey *key;
	const StatementSource *source;
	const StatementCounters *counters;
	TimestampTz started_at; /* 0: when the time it took ago */
	double seconds;         /* of execution */
	double preparing;       /* before it */
	double planning;
	int sqlstate;     /* of the error that it ends by; 0: it ended well */
	bool terminated;  /* that error ends the session, too */
	QueryDesc *query; /* whose plan may be kept; NULL: none */
} SlowExecution;

/* Whether an execution that took so long is one. */
static inline bool
mon_is_slow(double seconds)
{
	return seconds * 1000 >= mon_slow_query_threshold;
}

/* Count it and, if there are not too many, keep it.  Raises nothing. */
extern void mon_keep_slow_execution(const SlowExecution *slow);

extern void mon_slow_capture_init(void);

/* ---- slow_plan.c ---- */

/*
 * The plan of an execution that has ended well, as EXPLAIN shows it, at most
 * `size` bytes with the terminating zero; without literals if so asked.  Returns
 * the length, 0 if there is none to be had, and a hash of the plan's shape.
 * Raises nothing but for want of memory for a subtransaction.
 */
extern size_t mon_slow_plan(QueryDesc *query, bool literals, char *out, size_t size, int64 *hash);

#endif /* MONITORING_SLOW_CAPTURE_H */
