/*-------------------------------------------------------------------------
 *
 * statement_hooks.c
 *	  Hooks of planner, executor and utility commands that count statements.
 *
 * A statement's measurements live in its executor state's memory and are found
 * by its query descriptor; a callback of that memory forgets them however the
 * statement ends.  What runs inside another statement (functions, triggers,
 * EXPLAIN) has a nesting level above zero.
 *
 * Time and resources are those between the beginning and the end of each call of
 * ExecutorRun and ExecutorFinish, so a portal that waits for its client takes no
 * time.  The server's counters are compared, not instrumented, which costs a
 * tenth and leaves EXPLAIN's instruments alone.
 *
 *-------------------------------------------------------------------------
 */
#include "server/slow_capture.h"
#include "server/statement.h"
#include "server/statement_prepared.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "executor/instrument.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "portability/instr_time.h"
#include "storage/bufmgr.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

typedef enum TrackStatements
{
	TRACK_NONE,
	TRACK_TOP,
	TRACK_ALL
} TrackStatements;

static const struct config_enum_entry track_options[] = {{"none", TRACK_NONE, false},
														 {"top", TRACK_TOP, false},
														 {"all", TRACK_ALL, false},
														 {NULL, 0, false}};

static int track_statements = TRACK_ALL;

/* The server's counters where a measurement began. */
typedef struct Mark
{
	instr_time time;
	BufferUsage buffers;
	WalUsage wal;
} Mark;

struct Execution;

/*
 * What is being measured, in the frame of the hook that measures it.  A FATAL
 * error ends the process without unwinding the stack: then these are looked at
 * where they are.
 */
typedef struct Running
{
	struct Running *outer;
	struct Execution *execution; /* NULL: planning, or a command */
	const StatementKey *key;
	const StatementSource *source;
	Mark mark;
} Running;

static Running *running = NULL; /* innermost */
static bool terminating = false;

/* A statement between ExecutorStart and ExecutorEnd. */
typedef struct Execution
{
	struct Execution *outer; /* the one that was started before */
	QueryDesc *query;
	StatementKey key;
	bool failed; /* and counted as such */
	Preparation preparation;
	double seconds;
	StatementCounters counters;
	MemoryContextCallback forget;
} Execution;

static Execution *executions = NULL; /* last started first */
static int nesting = 0;

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;
static planner_hook_type prev_planner = NULL;
static ExecutorStart_hook_type prev_ExecutorStart = NULL;
static ExecutorRun_hook_type prev_ExecutorRun = NULL;
static ExecutorFinish_hook_type prev_ExecutorFinish = NULL;
static ExecutorEnd_hook_type prev_ExecutorEnd = NULL;
static ProcessUtility_hook_type prev_ProcessUtility = NULL;
static emit_log_hook_type prev_emit_log = NULL;

/* ---- whether to count ---- */

static enum
{
	UNKNOWN,
	INSTALLED,
	NOT_INSTALLED
} extension = UNKNOWN;

static void
schema_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	extension = UNKNOWN;
}

/* Whether this database has the extension; the others' statements are nobody's to read. */
static bool
extension_installed(void)
{
	if (unlikely(extension == UNKNOWN))
	{
		if (!IsTransactionState())
			return false;
		extension = OidIsValid(get_namespace_oid(MON_SCHEMA, true)) ? INSTALLED : NOT_INSTALLED;
	}
	return extension == INSTALLED;
}

static inline bool
is_tracked(int64 queryid)
{
	if (queryid == 0 || track_statements == TRACK_NONE ||
		(nesting > 0 && track_statements == TRACK_TOP))
		return false;
	return !IsParallelWorker() && !creating_extension && extension_installed();
}

static inline StatementKey
current_key(int64 queryid)
{
	StatementKey key = {
		.queryid = queryid, .dbid = MyDatabaseId, .userid = GetUserId(), .toplevel = nesting == 0};

	return key;
}

/* ---- measuring ---- */

static inline void
mark_begin(Mark *mark)
{
	mark->buffers = pgBufferUsage;
	mark->wal = pgWalUsage;
	INSTR_TIME_SET_CURRENT(mark->time);
}

/* Add what has happened since the mark; returns the seconds. */
pg_attribute_hot static inline double
mark_end(const Mark *mark, StatementCounters *c)
{
	const BufferUsage *b = &mark->buffers;
	const BufferUsage *now = &pgBufferUsage;
	instr_time end;

	INSTR_TIME_SET_CURRENT(end);
	c->n[STATEMENT_SHARED_HIT] += now->shared_blks_hit - b->shared_blks_hit;
	c->n[STATEMENT_SHARED_READ] += now->shared_blks_read - b->shared_blks_read;
	c->n[STATEMENT_SHARED_DIRTIED] += now->shared_blks_dirtied - b->shared_blks_dirtied;
	c->n[STATEMENT_SHARED_WRITTEN] += now->shared_blks_written - b->shared_blks_written;
	c->n[STATEMENT_LOCAL_HIT] += now->local_blks_hit - b->local_blks_hit;
	c->n[STATEMENT_LOCAL_READ] += now->local_blks_read - b->local_blks_read;
	c->n[STATEMENT_LOCAL_DIRTIED] += now->local_blks_dirtied - b->local_blks_dirtied;
	c->n[STATEMENT_LOCAL_WRITTEN] += now->local_blks_written - b->local_blks_written;
	c->n[STATEMENT_TEMP_READ] += now->temp_blks_read - b->temp_blks_read;
	c->n[STATEMENT_TEMP_WRITTEN] += now->temp_blks_written - b->temp_blks_written;
	c->n[STATEMENT_WAL_RECORDS] += pgWalUsage.wal_records - mark->wal.wal_records;
	c->n[STATEMENT_WAL_FPI] += pgWalUsage.wal_fpi - mark->wal.wal_fpi;
	c->n[STATEMENT_WAL_BYTES] += pgWalUsage.wal_bytes - mark->wal.wal_bytes;
	if (track_io_timing)
	{
		c->seconds[STATEMENT_IO_READ] += mon_read_seconds(now) - mon_read_seconds(b);
		c->seconds[STATEMENT_IO_WRITE] += mon_write_seconds(now) - mon_write_seconds(b);
	}
	INSTR_TIME_SUBTRACT(end, mark->time);
	return INSTR_TIME_GET_DOUBLE(end);
}

static inline void
begin_running(Running *r, Execution *execution, const StatementKey *key,
			  const StatementSource *source)
{
	r->outer = running;
	r->execution = execution;
	r->key = key;
	r->source = source;
	mark_begin(&r->mark);
	running = r;
}

/* Add what it took; returns the seconds. */
static inline double
end_running(const Running *r, StatementCounters *c)
{
	running = r->outer;
	return mark_end(&r->mark, c);
}

static void
keep_if_slow(const SlowExecution *slow)
{
	if (unlikely(mon_is_slow(slow->seconds + slow->preparing)))
		mon_keep_slow_execution(slow);
}

/* Count a statement that ended by the error that is being thrown or logged. */
static void
add_failed(SlowExecution *failed, StatementCounters *c)
{
	failed->sqlstate = geterrcode();
	failed->terminated = terminating;
	c->n[failed->sqlstate == ERRCODE_QUERY_CANCELED ? STATEMENT_CANCELS : STATEMENT_ERRORS]++;
	c->seconds[STATEMENT_FAILED] += failed->seconds;
	mon_statement_add(failed->key, failed->source, c, -1);
	keep_if_slow(failed);
}

static void
add_jit(StatementCounters *c, const JitInstrumentation *jit)
{
	c->n[STATEMENT_JIT_FUNCTIONS] += jit->created_functions;
	c->seconds[STATEMENT_JIT] += INSTR_TIME_GET_DOUBLE(jit->generation_counter) +
		INSTR_TIME_GET_DOUBLE(jit->inlining_counter) +
		INSTR_TIME_GET_DOUBLE(jit->optimization_counter) +
		INSTR_TIME_GET_DOUBLE(jit->emission_counter);
}

/* ---- the statement that an executor call is about ---- */

pg_attribute_hot static pg_noinline Execution *
find_execution(const QueryDesc *query)
{
	Execution *e = executions;

	while (e && e->query != query)
		e = e->outer;
	return e;
}

/* Its memory goes. */
pg_attribute_hot static void
forget_execution(void *arg)
{
	Execution **link = &executions;

	while (*link && *link != arg)
		link = &(*link)->outer;
	if (*link)
		*link = (*link)->outer;
}

static inline StatementSource
executed_source(const QueryDesc *query)
{
	StatementSource source = {.text = query->sourceText,
							  .location = query->plannedstmt->stmt_location,
							  .len = query->plannedstmt->stmt_len};

	return source;
}

static SlowExecution
describe_execution(const Execution *e, const StatementSource *source)
{
	SlowExecution slow = {.key = &e->key,
						  .source = source,
						  .counters = &e->counters,
						  .started_at = e->preparation.started_at,
						  .seconds = e->seconds,
						  .preparing = e->preparation.preparing,
						  .planning = e->preparation.planning,
						  .query = e->query};

	return slow;
}

static void
execution_failed(Execution *e, const Running *r)
{
	StatementSource source = executed_source(e->query);
	double seconds = end_running(r, &e->counters);
	SlowExecution failed;

	if (e->failed)
		return;
	e->failed = true;
	e->seconds += seconds;
	failed = describe_execution(e, &source);
	failed.query = NULL;
	add_failed(&failed, &e->counters);
}

static void
execution_ended(Execution *e)
{
	StatementSource source = executed_source(e->query);
	EState *estate = e->query->estate;
	SlowExecution slow;

	if (estate->es_jit)
		add_jit(&e->counters, &estate->es_jit->instr);
	if (estate->es_jit_worker_instr)
		add_jit(&e->counters, estate->es_jit_worker_instr);
	e->counters.n[STATEMENT_CALLS]++;
	e->counters.seconds[STATEMENT_EXECUTION] += e->seconds;
	mon_statement_add(&e->key, &source, &e->counters, e->seconds);
	slow = describe_execution(e, &source);
	keep_if_slow(&slow);
}

/* ---- what comes before execution ---- */

/* Analysis opens tables, and so waits for their locks. */
static void
statement_post_parse_analyze(ParseState *pstate, Query *query, MonJumbleState *jstate)
{
	if (prev_post_parse_analyze)
		prev_post_parse_analyze(pstate, query, jstate);
	if (query->commandType != CMD_UTILITY && nesting == 0 && MyBackendType == B_BACKEND &&
		mon_message_is_new() && is_tracked(query->queryId))
		mon_note_analyzed(query->queryId);
}

/* ---- executor ---- */

/* A statement that cannot even be started, as for want of a right. */
static void
start_failed(QueryDesc *query)
{
	StatementKey key = current_key(query->plannedstmt->queryId);
	StatementSource source = executed_source(query);
	StatementCounters counters = {0};
	SlowExecution failed = {.key = &key, .source = &source, .counters = &counters};

	add_failed(&failed, &counters);
}

static void
start_execution(QueryDesc *query)
{
	Execution *e = MemoryContextAllocZero(query->estate->es_query_cxt, sizeof(Execution));

	e->query = query;
	e->key = current_key(query->plannedstmt->queryId);
	e->forget.func = forget_execution;
	e->forget.arg = e;
	e->preparation = mon_take_preparation(e->key.queryid, e->key.toplevel);
	MemoryContextRegisterResetCallback(query->estate->es_query_cxt, &e->forget);
	e->outer = executions;
	executions = e;
}

pg_attribute_hot static void
statement_ExecutorStart(QueryDesc *queryDesc, int eflags)
{
	bool tracked = !(eflags & EXEC_FLAG_EXPLAIN_ONLY) &&
		is_tracked(queryDesc->plannedstmt->queryId);

	PG_TRY();
	{
		if (prev_ExecutorStart)
			prev_ExecutorStart(queryDesc, eflags);
		else
			standard_ExecutorStart(queryDesc, eflags);
	}
	PG_CATCH();
	{
		if (tracked)
			start_failed(queryDesc);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (tracked)
		start_execution(queryDesc);
}

/* The statement that a call of the executor is about, which runs from now on; NULL: it is not counted. */
static inline Execution *
enter_executor(const QueryDesc *query, Running *r)
{
	Execution *e = find_execution(query);

	if (e)
		begin_running(r, e, NULL, NULL);
	nesting++;
	mon_executor_depth++;
	return e;
}

static inline void
leave_executor(Execution *e, const Running *r)
{
	nesting--;
	mon_executor_depth--;
	if (e)
		e->seconds += end_running(r, &e->counters);
}

static inline void
leave_executor_by_error(Execution *e, const Running *r)
{
	nesting--;
	mon_executor_depth--;
	if (e)
		execution_failed(e, r);
}

static inline void
executor_has_left(void)
{
	if (unlikely(mon_executor_left != NULL) && mon_executor_depth == 0)
		mon_executor_left();
}

pg_attribute_hot static void
statement_ExecutorRun(MON_EXECUTOR_RUN_PARAMS)
{
	Running r;
	Execution *e = enter_executor(queryDesc, &r);

	PG_TRY();
	{
		if (prev_ExecutorRun)
			prev_ExecutorRun(MON_EXECUTOR_RUN_ARGS);
		else
			standard_ExecutorRun(MON_EXECUTOR_RUN_ARGS);
	}
	PG_CATCH();
	{
		leave_executor_by_error(e, &r);
		PG_RE_THROW();
	}
	PG_END_TRY();
	leave_executor(e, &r);
	if (e)
		e->counters.n[STATEMENT_ROWS] += queryDesc->estate->es_processed;
	executor_has_left();
}

/* A query alone has nothing to finish: neither triggers nor a rest of what it changes. */
static inline bool
may_work_at_finish(const QueryDesc *query)
{
	return query->operation != CMD_SELECT || query->plannedstmt->hasModifyingCTE;
}

static void
run_finish(QueryDesc *queryDesc)
{
	if (prev_ExecutorFinish)
		prev_ExecutorFinish(queryDesc);
	else
		standard_ExecutorFinish(queryDesc);
}

pg_attribute_hot static void
statement_ExecutorFinish(QueryDesc *queryDesc)
{
	Execution *e;
	Running r;

	if (!may_work_at_finish(queryDesc))
	{
		run_finish(queryDesc);
		return;
	}
	e = enter_executor(queryDesc, &r);
	PG_TRY();
	{
		run_finish(queryDesc);
	}
	PG_CATCH();
	{
		leave_executor_by_error(e, &r);
		PG_RE_THROW();
	}
	PG_END_TRY();
	leave_executor(e, &r);
}

pg_attribute_hot static void
statement_ExecutorEnd(QueryDesc *queryDesc)
{
	Execution *e = find_execution(queryDesc);

	if (e && !e->failed)
		execution_ended(e);
	if (prev_ExecutorEnd)
		prev_ExecutorEnd(queryDesc);
	else
		standard_ExecutorEnd(queryDesc);
	executor_has_left();
}

/* ---- planner ---- */

/* What failed and is no execution. */
static void
utility_or_plan_failed(const Running *r)
{
	StatementCounters counters = {0};
	SlowExecution failed = {.key = r->key, .source = r->source, .counters = &counters};

	failed.seconds = end_running(r, &counters);
	add_failed(&failed, &counters);
}

static PlannedStmt *
statement_planner(MON_PLANNER_PARAMS)
{
	bool tracked = is_tracked(parse->queryId);
	StatementCounters counters = {0};
	StatementSource source = {query_string, parse->stmt_location, parse->stmt_len, false};
	StatementKey key = current_key(parse->queryId);
	PlannedStmt *result;
	Running r;

	if (tracked)
		begin_running(&r, NULL, &key, &source);
	nesting++;
	PG_TRY();
	{
		if (prev_planner)
			result = prev_planner(MON_PLANNER_ARGS);
		else
			result = standard_planner(MON_PLANNER_ARGS);
	}
	PG_CATCH();
	{
		nesting--;
		if (tracked)
			utility_or_plan_failed(&r);
		PG_RE_THROW();
	}
	PG_END_TRY();
	nesting--;
	if (tracked)
	{
		counters.n[STATEMENT_PLANS] = 1;
		counters.seconds[STATEMENT_PLANNING] = end_running(&r, &counters);
		mon_note_planned(key.queryid, counters.seconds[STATEMENT_PLANNING]);
		mon_statement_add(&key, &source, &counters, -1);
	}
	return result;
}

/* ---- utility commands ---- */

/*
 * PREPARE only keeps a statement, and what EXECUTE runs is counted by the executor
 * as if it had been sent itself.
 */
static bool
is_counted_utility(const Node *utility)
{
	return !IsA(utility, PrepareStmt) && !IsA(utility, ExecuteStmt);
}

/*
 * The identity of a command.  pg_stat_statements takes it away when it comes
 * before us, lest a query inside is counted as the command; parts of a command
 * have none.
 */
static int64
utility_queryid(const PlannedStmt *pstmt, const char *queryString, ProcessUtilityContext context)
{
	Query *query;

	if (pstmt->queryId != 0 || context == PROCESS_UTILITY_SUBCOMMAND || !IsQueryIdEnabled() ||
		track_statements == TRACK_NONE)
		return pstmt->queryId;
	query = makeNode(Query);
	query->commandType = CMD_UTILITY;
	query->utilityStmt = pstmt->utilityStmt;
	query->stmt_location = pstmt->stmt_location;
	query->stmt_len = pstmt->stmt_len;
	(void) MON_JUMBLE_QUERY(query, queryString);
	return query->queryId;
}

/* Whether numbers of a command are better shown: not where it holds a query. */
static bool
shows_numbers(const Node *utility)
{
	switch (nodeTag(utility))
	{
		case T_ExplainStmt:
		case T_DeclareCursorStmt:
		case T_CreateTableAsStmt:
		case T_CopyStmt:
		case T_CallStmt:
		case T_ViewStmt:
		case T_RuleStmt:
			return false;
		default:
			return true;
	}
}

static void
run_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
			DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest,
								qc);
}

/* Rows of commands whose result has some. */
static int64
utility_rows(const QueryCompletion *qc)
{
	if (!qc)
		return 0;
	switch (qc->commandTag)
	{
		case CMDTAG_COPY:
		case CMDTAG_FETCH:
		case CMDTAG_SELECT:
		case CMDTAG_REFRESH_MATERIALIZED_VIEW:
			return qc->nprocessed;
		default:
			return 0;
	}
}

static void
command_ended(const StatementKey *key, const StatementSource *source,
			  const StatementCounters *counters, double seconds)
{
	SlowExecution slow = {.key = key, .source = source, .counters = counters, .seconds = seconds};

	if (key->toplevel)
		mon_note_message_started();
	keep_if_slow(&slow);
}

static void
statement_ProcessUtility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
						 ProcessUtilityContext context, ParamListInfo params,
						 QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	bool counted = is_counted_utility(pstmt->utilityStmt);
	int64 queryid = counted ? utility_queryid(pstmt, queryString, context) : 0;
	bool tracked = is_tracked(queryid);
	StatementKey key = current_key(queryid);
	StatementSource source = {queryString, pstmt->stmt_location, pstmt->stmt_len,
							  shows_numbers(pstmt->utilityStmt)};
	StatementCounters counters = {0};
	double seconds;
	Running r;

	if (!counted)
	{
		run_utility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		return;
	}

	if (tracked)
		begin_running(&r, NULL, &key, &source);
	nesting++;
	PG_TRY();
	{
		run_utility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	}
	PG_CATCH();
	{
		nesting--;
		if (tracked)
			utility_or_plan_failed(&r);
		PG_RE_THROW();
	}
	PG_END_TRY();
	nesting--;
	if (tracked)
	{
		/* The command may have freed its own tree, as ROLLBACK does: pstmt is not looked at. */
		seconds = end_running(&r, &counters);
		counters.n[STATEMENT_CALLS] = 1;
		counters.n[STATEMENT_ROWS] = utility_rows(qc);
		counters.seconds[STATEMENT_EXECUTION] = seconds;
		mon_statement_add(&key, &source, &counters, seconds);
		command_ended(&key, &source, &counters, seconds);
	}
}

/* ---- the end of the process ---- */

/*
 * A FATAL error is caught by nobody: what it ends is counted when it is logged,
 * which is before the process lets go of anything.
 */
static void
statement_emit_log(ErrorData *edata)
{
	if (prev_emit_log)
		prev_emit_log(edata);
	if (likely(edata->elevel != FATAL))
		return;
	terminating = true;
	while (running)
	{
		if (running->execution)
			execution_failed(running->execution, running);
		else
			utility_or_plan_failed(running);
	}
}

void
mon_statement_hooks_init(void)
{
	DefineCustomEnumVariable("monitoring.track_statements", "Which statements are counted.",
							 "top: those that clients send; all: those inside functions, too.",
							 &track_statements, TRACK_ALL, track_options, PGC_SUSET, 0, NULL, NULL,
							 NULL);
	EnableQueryId();
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);

	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = statement_post_parse_analyze;
	prev_planner = planner_hook;
	planner_hook = statement_planner;
	prev_ExecutorStart = ExecutorStart_hook;
	ExecutorStart_hook = statement_ExecutorStart;
	prev_ExecutorRun = ExecutorRun_hook;
	ExecutorRun_hook = statement_ExecutorRun;
	prev_ExecutorFinish = ExecutorFinish_hook;
	ExecutorFinish_hook = statement_ExecutorFinish;
	prev_ExecutorEnd = ExecutorEnd_hook;
	ExecutorEnd_hook = statement_ExecutorEnd;
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = statement_ProcessUtility;
	prev_emit_log = emit_log_hook;
	emit_log_hook = statement_emit_log;
}
