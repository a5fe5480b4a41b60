/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between the PostgreSQL majors we build against (15 to 19).
 *
 * This is the only file that may test PG_VERSION_NUM; everything else uses
 * the names defined here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_COMPAT_H
#define MONITORING_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "monitoring needs PostgreSQL 15 or later"
#endif

/* Minor releases whose ABI break was reverted in the next one. */
#if PG_VERSION_NUM == 150009 || PG_VERSION_NUM == 160005 || PG_VERSION_NUM == 170001
#error "this minor release of PostgreSQL has a reverted ABI break; install a later one"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 16 moved it to the nodes, and looks at the tree of commands, too, instead of their text. */
#if PG_VERSION_NUM < 160000
#include "utils/queryjumble.h"
#define MON_JUMBLE_QUERY(query, text) JumbleQuery(query, text)
#else
#include "nodes/queryjumble.h"
#define MON_JUMBLE_QUERY(query, text) JumbleQuery(query)
#endif

/* 17 renamed the process number and moved it out of PGPROC. */
#if PG_VERSION_NUM < 170000
#include "storage/proc.h"
#define MonMyProcNumber (MyProc->pgprocno)
#else
#include "storage/procnumber.h"
#include "storage/proc.h"
#define MonMyProcNumber MyProcNumber
#endif

/* 17 keeps the status of processes by process number; before it was by backend id, auxiliary ones by type. */
#include "miscadmin.h"
#include "utils/backend_status.h"
#if PG_VERSION_NUM < 170000
#include "storage/backendid.h"
static inline PgBackendStatus *
mon_backend_statuses(void)
{
	return MyBEEntry - (MyBackendId - 1);
}

static inline PgBackendStatus *
mon_backend_status(PgBackendStatus *statuses, int procno, const PGPROC *proc)
{
	if (proc->backendId >= 1 && proc->backendId <= MaxBackends)
		return &statuses[proc->backendId - 1];
	for (int i = MaxBackends; i < MaxBackends + NUM_AUXPROCTYPES; i++)
		if (statuses[i].st_procpid == proc->pid)
			return &statuses[i];
	return NULL;
}
#else
static inline PgBackendStatus *
mon_backend_statuses(void)
{
	return MyBEEntry - MyProcNumber;
}

static inline PgBackendStatus *
mon_backend_status(PgBackendStatus *statuses, int procno, const PGPROC *proc)
{
	return &statuses[procno];
}
#endif

/*
 * 16 made dlists of the lists of a lock, 19 gave its queue a link of its own.
 * Each macro walks one of them, the lock's partition being locked.
 */
#include "storage/lock.h"
#if PG_VERSION_NUM < 160000
#define MON_FOREACH_PROCLOCK(proclock, lock)                                                       \
	for ((proclock) = (PROCLOCK *) SHMQueueNext(&(lock)->procLocks, &(lock)->procLocks,            \
												offsetof(PROCLOCK, lockLink));                     \
		 (proclock) != NULL;                                                                       \
		 (proclock) = (PROCLOCK *) SHMQueueNext(&(lock)->procLocks, &(proclock)->lockLink,         \
												offsetof(PROCLOCK, lockLink)))
#define MON_FOREACH_WAITER(proc, lock)                                                             \
	for ((proc) = (PGPROC *) SHMQueueNext(&(lock)->waitProcs.links, &(lock)->waitProcs.links,      \
										  offsetof(PGPROC, links));                                \
		 (proc) != NULL; (proc) = (PGPROC *) SHMQueueNext(                                         \
							 &(lock)->waitProcs.links, &(proc)->links, offsetof(PGPROC, links)))
#else
#if PG_VERSION_NUM < 190000
#define MON_WAIT_LINK links
#else
#define MON_WAIT_LINK waitLink
#endif
#define MON_FOREACH_PROCLOCK(proclock, lock)                                                       \
	for ((proclock) = dlist_is_empty(&(lock)->procLocks)                                           \
			 ? NULL                                                                                \
			 : dlist_head_element(PROCLOCK, lockLink, &(lock)->procLocks);                         \
		 (proclock) != NULL;                                                                       \
		 (proclock) = dlist_has_next(&(lock)->procLocks, &(proclock)->lockLink)                    \
			 ? dlist_container(PROCLOCK, lockLink, (proclock)->lockLink.next)                      \
			 : NULL)
#define MON_FOREACH_WAITER(proc, lock)                                                             \
	for ((proc) = dlist_is_empty(&(lock)->waitProcs.dlist)                                         \
			 ? NULL                                                                                \
			 : dlist_head_element(PGPROC, MON_WAIT_LINK, &(lock)->waitProcs.dlist);                \
		 (proc) != NULL; (proc) = dlist_has_next(&(lock)->waitProcs.dlist, &(proc)->MON_WAIT_LINK) \
			 ? dlist_container(PGPROC, MON_WAIT_LINK, (proc)->MON_WAIT_LINK.next)                  \
			 : NULL)
#endif

/* 18 dropped execute_once from ExecutorRun. */
#if PG_VERSION_NUM < 180000
#define MON_EXECUTOR_RUN_PARAMS                                                                    \
	QueryDesc *queryDesc, ScanDirection direction, uint64 count, bool execute_once
#define MON_EXECUTOR_RUN_ARGS queryDesc, direction, count, execute_once
#else
#define MON_EXECUTOR_RUN_PARAMS QueryDesc *queryDesc, ScanDirection direction, uint64 count
#define MON_EXECUTOR_RUN_ARGS queryDesc, direction, count
#endif

/* 17 tells local blocks from shared ones in the time of reading and writing. */
#include "executor/instrument.h"
static inline double
mon_read_seconds(const BufferUsage *b)
{
#if PG_VERSION_NUM < 170000
	double seconds = INSTR_TIME_GET_DOUBLE(b->blk_read_time);
#else
	double seconds = INSTR_TIME_GET_DOUBLE(b->shared_blk_read_time) +
		INSTR_TIME_GET_DOUBLE(b->local_blk_read_time);
#endif

	return seconds + INSTR_TIME_GET_DOUBLE(b->temp_blk_read_time);
}

static inline double
mon_write_seconds(const BufferUsage *b)
{
#if PG_VERSION_NUM < 170000
	double seconds = INSTR_TIME_GET_DOUBLE(b->blk_write_time);
#else
	double seconds = INSTR_TIME_GET_DOUBLE(b->shared_blk_write_time) +
		INSTR_TIME_GET_DOUBLE(b->local_blk_write_time);
#endif

	return seconds + INSTR_TIME_GET_DOUBLE(b->temp_blk_write_time);
}

/* 19 has no other literals than those of the standard. */
#include "parser/parser.h"
#if PG_VERSION_NUM < 190000
#define MON_BACKSLASH_IN_LITERALS (!standard_conforming_strings)
#else
#define MON_BACKSLASH_IN_LITERALS false
#endif

/* 19 passes the state of EXPLAIN to the planner. */
#if PG_VERSION_NUM < 190000
#define MON_PLANNER_PARAMS                                                                         \
	Query *parse, const char *query_string, int cursorOptions, ParamListInfo boundParams
#define MON_PLANNER_ARGS parse, query_string, cursorOptions, boundParams
#else
#define MON_PLANNER_PARAMS                                                                         \
	Query *parse, const char *query_string, int cursorOptions, ParamListInfo boundParams,          \
		ExplainState *es
#define MON_PLANNER_ARGS parse, query_string, cursorOptions, boundParams, es
#endif

/* 19 shows hooks what analysis has noted of literals, and no more. */
#if PG_VERSION_NUM < 190000
#define MonJumbleState JumbleState
#else
#define MonJumbleState const JumbleState
#endif

/* 18 split the header of EXPLAIN. */
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif

/* 18 spells it in front of the declaration. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 19 keeps the result of building a jsonb value in the state. */
#include "utils/jsonb.h"
#if PG_VERSION_NUM < 190000
typedef struct MonJsonbState
{
	JsonbParseState *parse;
	JsonbValue *result;
} MonJsonbState;

static inline void
mon_push_jsonb(MonJsonbState *state, JsonbIteratorToken token, JsonbValue *value)
{
	state->result = pushJsonbValue(&state->parse, token, value);
}
#else
typedef JsonbInState MonJsonbState;
#define mon_push_jsonb pushJsonbValue
#endif

/* 19 also tells die() who sent the signal; nobody did where we call it. */
#include "tcop/tcopprot.h"
static inline void
mon_die(void)
{
#if PG_VERSION_NUM < 190000
	die(SIGTERM);
#else
	pg_signal_info nobody = {0};

	die(SIGTERM, &nobody);
#endif
}

#if PG_VERSION_NUM >= 180000
#define MON_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "monitoring", .version = "1.0")
#else
#define MON_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#endif /* MONITORING_COMPAT_H */
