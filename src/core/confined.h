/*-------------------------------------------------------------------------
 *
 * confined.h
 *	  Running code that users have stored: rules' queries, formatters.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_CONFINED_H
#define MONITORING_CONFINED_H

#include "compat.h"

#include "fmgr.h"

typedef struct MonConfinement
{
	const char *role; /* whose rights it has */
	int timeout_ms;   /* it is cancelled after that */
	bool read_only;   /* it can change nothing, and what it did besides is undone */
	bool nested;      /* it may be part of another such call, whose end comes first or later */
} MonConfinement;

/*
 * Call body(arg) in the security-restricted context of a role (it cannot change
 * role back), for a bounded time, in a subtransaction of its own.  Afterwards
 * user, settings, timeouts and whether the transaction may write are as before,
 * and a worker of ours holds no advisory lock that the code took for the session.
 * Returns NULL, or the error it ended with, palloc'd: ERRCODE_QUERY_CANCELED
 * with a message that says so if it took too long.
 *
 * What body palloc's in the caller's context stays.  Calls nest only where one
 * says so, and not deeper.
 */
extern ErrorData *mon_run_confined(const MonConfinement *how, void (*body)(void *arg), void *arg);

/*
 * For SQL functions that run what they are given as a role that they are given:
 * their owner does so for everybody, others may only use rights that they have.
 * Raises 42501, naming what.
 */
extern void mon_check_confined_caller(FunctionCallInfo fcinfo, const char *role, const char *what);

/* Is it somebody's cancel of the whole session's statement, and no fault of what ran? */
extern bool mon_error_is_cancel(const ErrorData *error);

#endif /* MONITORING_CONFINED_H */
