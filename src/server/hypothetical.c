/*-------------------------------------------------------------------------
 *
 * hypothetical.c
 *	  What the planner would do if there were an index: hypothetical_plans().
 *
 * The index is made by the extension hypopg, in this session's memory only, and
 * is gone when the function ends.  Statements are planned twice by EXPLAIN,
 * without and with it, and never run: as normalised texts they have parameters,
 * so it is the generic plan of a prepared statement that is asked for.
 *
 * A text that users have written is planned as the owner of the index's table,
 * confined (core/confined.h): read-only, for a bounded time, giving up at once
 * where a lock is held.  Planning evaluates what is immutable or stable, so a
 * statement is planned only if all its tables, those below them, and what is in
 * views belong to that owner or to the system, and it calls none but the server's
 * own functions: no code of anybody else can have the owner's rights here,
 * wherever names lead.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/prepare.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "core/confined.h"

PG_FUNCTION_INFO_V1(mon_hypothetical_plans);

#define PLAN_TIMEOUT_MS 500
#define LOCK_TIMEOUT "10"
/* In the session's list of prepared statements for as long as it is explained. */
#define PREPARED "monitoring: planned, not run"

typedef struct Trial
{
	const char *hypopg; /* its schema, quoted */
	Oid relation;
	Oid owner;
	const char *definition;
	MemoryContext cxt;
	Datum known; /* hypothetical indexes that were there before */
	char *index_name;
	int64 index_bytes;
	/* one statement */
	const char *query;
	const char *search_path;
	bool with_index;
	bool stored;
	char *plan;
} Trial;

/* ---- what may be planned ---- */

typedef struct Look
{
	Oid owner;
	Oid relation;
	bool mentions_relation;
} Look;

static void
refuse(const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("the statement is not planned"),
			 errdetail_internal("%s", why)));
}

static bool
is_users_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

static void
check_relation(Oid relid, const Look *look)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class class;
	bool allowed;

	if (!HeapTupleIsValid(tuple))
		refuse("A table is gone.");
	class = (Form_pg_class) GETSTRUCT(tuple);
	allowed = (class->relkind == RELKIND_RELATION || class->relkind == RELKIND_PARTITIONED_TABLE ||
			   class->relkind == RELKIND_MATVIEW || class->relkind == RELKIND_VIEW) &&
		(class->relowner == look->owner || relid < FirstNormalObjectId);
	ReleaseSysCache(tuple);
	if (!allowed)
		refuse("It reads what does not belong to the owner of the table.");
}

static void
check_range_table_entry(const RangeTblEntry *rte, Look *look)
{
	ListCell *cell;

	if (rte->rtekind != RTE_RELATION)
		return;
	if (rte->relid == look->relation)
		look->mentions_relation = true;
	foreach (cell, find_all_inheritors(rte->relid, NoLock, NULL))
		check_relation(lfirst_oid(cell), look);
}

static bool
look_at(Node *node, void *context)
{
	Look *look = context;

	if (node == NULL)
		return false;
	check_stack_depth();
	if (IsA(node, Query))
	{
		ListCell *cell;

		foreach (cell, ((Query *) node)->rtable)
			check_range_table_entry(lfirst_node(RangeTblEntry, cell), look);
		return query_tree_walker((Query *) node, look_at, context, 0);
	}
	if (check_functions_in_node(node, is_users_function, NULL) ||
		(IsA(node, TableSampleClause) &&
		 is_users_function(((TableSampleClause *) node)->tsmhandler, NULL)))
		refuse("It calls functions that do not come with the server.");
	return expression_tree_walker(node, look_at, context);
}

static void
check_queries(List *queries, const Trial *trial)
{
	Look look = {.owner = trial->owner, .relation = trial->relation};
	ListCell *cell;

	foreach (cell, queries)
		look_at(lfirst(cell), &look);
	if (!look.mentions_relation)
		refuse("By the names in it that is not a statement about the table.");
}

static RawStmt *
parse_one(const char *query)
{
	List *statements = pg_parse_query(query);
	RawStmt *raw;

	if (list_length(statements) != 1)
		refuse("It is not one statement.");
	raw = linitial_node(RawStmt, statements);
	if (!(IsA(raw->stmt, SelectStmt) && ((SelectStmt *) raw->stmt)->intoClause == NULL) &&
		!IsA(raw->stmt, InsertStmt) && !IsA(raw->stmt, UpdateStmt) && !IsA(raw->stmt, DeleteStmt) &&
		!IsA(raw->stmt, MergeStmt))
		refuse("It is no SELECT, INSERT, UPDATE, DELETE or MERGE.");
	return raw;
}

/* ---- planning ---- */

static void
set_locally(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
}

/* PREPARE is not for code that is confined, and so done by hand; returns the number of parameters. */
static int
prepare(Trial *trial)
{
	RawStmt *raw = parse_one(trial->query);
	CachedPlanSource *source = CreateCachedPlan(raw, trial->query, CreateCommandTag(raw->stmt));
	Oid *types = NULL;
	int ntypes = 0;
	List *queries = pg_analyze_and_rewrite_varparams(raw, trial->query, &types, &ntypes, NULL);

	for (int i = 0; i < ntypes; i++)
		if (!OidIsValid(types[i]) || types[i] == UNKNOWNOID)
			refuse("The type of a parameter is not known.");
	check_queries(queries, trial);
	CompleteCachedPlan(source, queries, NULL, types, ntypes, NULL, NULL, CURSOR_OPT_PARALLEL_OK,
					   true);
	if (FetchPreparedStatement(PREPARED, false) != NULL)
		refuse("A prepared statement has the name that is needed.");
	StorePreparedStatement(PREPARED, source, false);
	trial->stored = true;
	return ntypes;
}

static void
explain(void *arg)
{
	Trial *trial = arg;
	StringInfoData command;
	int nparams;

	set_locally("search_path", trial->search_path);
	set_locally("lock_timeout", LOCK_TIMEOUT);
	set_locally("plan_cache_mode", "force_generic_plan");
	set_locally("hypopg.enabled", trial->with_index ? "on" : "off");
	nparams = prepare(trial);
	initStringInfo(&command);
	appendStringInfo(&command, "EXPLAIN (FORMAT JSON) EXECUTE %s", quote_identifier(PREPARED));
	for (int i = 0; i < nparams; i++)
		appendStringInfoString(&command, i == 0 ? "(NULL" : ", NULL");
	if (nparams > 0)
		appendStringInfoChar(&command, ')');
	SPI_connect();
	if (SPI_execute(command.data, false, 0) < 0 || SPI_processed != 1)
		elog(ERROR, "could not explain a statement");
	trial->plan = MemoryContextStrdup(
		trial->cxt, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
}

/* ---- the index ---- */

static Datum
select_one(const Trial *trial, const char *format, int nargs, Oid *types, Datum *values,
		   bool *isnull)
{
	char *command = psprintf(format, trial->hypopg, trial->hypopg);

	if (SPI_execute_with_args(command, nargs, types, values, NULL, false, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not call hypopg");
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
}

/* Before anything is made: what is there is somebody else's and stays. */
static void
remember_known(void *arg)
{
	Trial *trial = arg;
	MemoryContext old;
	Datum known;
	bool isnull;

	SPI_connect();
	known = select_one(trial,
					   "SELECT COALESCE(pg_catalog.array_agg(h.indexrelid), "
					   "'{}'::pg_catalog.oid[]) FROM %s.hypopg() AS h",
					   0, NULL, NULL, &isnull);
	old = MemoryContextSwitchTo(trial->cxt);
	trial->known = PointerGetDatum(PG_DETOAST_DATUM_COPY(known));
	MemoryContextSwitchTo(old);
	SPI_finish();
}

static void
make_index(void *arg)
{
	Trial *trial = arg;
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(trial->definition)};
	Datum index;
	bool isnull;

	set_locally("lock_timeout", LOCK_TIMEOUT);
	SPI_connect();
	index = select_one(trial, "SELECT h.indexrelid FROM %s.hypopg_create_index($1) AS h", 1, types,
					   values, &isnull);
	types[0] = OIDOID;
	values[0] = index;
	trial->index_bytes = DatumGetInt64(
		select_one(trial, "SELECT %s.hypopg_relation_size($1)", 1, types, values, &isnull));
	trial->index_name = MemoryContextStrdup(
		trial->cxt,
		TextDatumGetCString(select_one(
			trial,
			"SELECT h.indexname::pg_catalog.text FROM %s.hypopg() AS h WHERE h.indexrelid = $1", 1,
			types, values, &isnull)));
	SPI_finish();
}

static void
drop_index(void *arg)
{
	Trial *trial = arg;
	Oid types[1] = {OIDARRAYOID};
	bool isnull;

	SPI_connect();
	(void) select_one(trial,
					  "SELECT pg_catalog.count(%s.hypopg_drop_index(h.indexrelid))"
					  " FROM %s.hypopg() AS h WHERE h.indexrelid <> ALL ($1)",
					  1, types, &trial->known, &isnull);
	SPI_finish();
}

/* ---- the function ---- */

static ErrorData *
confined(const char *role, void (*body)(void *arg), Trial *trial)
{
	MonConfinement how = {
		.role = role, .timeout_ms = PLAN_TIMEOUT_MS, .read_only = true, .nested = true};
	ErrorData *error = mon_run_confined(&how, body, trial);

	if (trial->stored)
		DropPreparedStatement(PREPARED, false);
	trial->stored = false;
	return error;
}

static ErrorData *
plan_statement(Trial *trial, bool with_index, const char *role, Datum *plan)
{
	ErrorData *error;

	trial->with_index = with_index;
	error = confined(role, explain, trial);
	if (!error)
		*plan = CStringGetTextDatum(trial->plan);
	return error;
}

/* One row for each statement; stops at a cancel, which it returns. */
static ErrorData *
plan_statements(Trial *trial, ArrayType *queries, ReturnSetInfo *rsinfo)
{
	char *role = GetUserNameFromId(trial->owner, false);
	Datum *texts;
	bool *text_nulls;
	int ntexts;

	deconstruct_array(queries, TEXTOID, -1, false, TYPALIGN_INT, &texts, &text_nulls, &ntexts);
	for (int i = 0; i < ntexts; i++)
	{
		Datum values[6] = {Int32GetDatum(i + 1)};
		bool nulls[6] = {false, true, true, false, false, true};
		ErrorData *error;

		/* no interrupt is served outside of what is confined: the index would stay */
		if (text_nulls[i])
			continue;
		trial->query = TextDatumGetCString(texts[i]);
		error = plan_statement(trial, false, role, &values[1]);
		if (!error)
			error = plan_statement(trial, true, role, &values[2]);
		if (error && mon_error_is_cancel(error))
			return error;
		values[3] = CStringGetTextDatum(trial->index_name);
		values[4] = Int64GetDatum(trial->index_bytes);
		if (error)
			values[5] = CStringGetTextDatum(
				error->detail ? psprintf("%s: %s", error->message, error->detail) : error->message);
		nulls[1] = nulls[2] = error != NULL;
		nulls[5] = error == NULL;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return NULL;
}

/* hypothetical_plans(relation, definition, queries, search_path, hypopg) */
Datum
mon_hypothetical_plans(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Trial trial = {.relation = PG_GETARG_OID(0),
				   .definition = text_to_cstring(PG_GETARG_TEXT_PP(1)),
				   .search_path = text_to_cstring(PG_GETARG_TEXT_PP(3)),
				   .hypopg = quote_identifier(NameStr(*PG_GETARG_NAME(4))),
				   .cxt = CurrentMemoryContext};
	char *self = GetUserNameFromId(GetUserId(), false);
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(trial.relation));
	ErrorData *error;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("there is no such table")));
	trial.owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	mon_check_confined_caller(fcinfo, GetUserNameFromId(trial.owner, false), "statement");
	InitMaterializedSRF(fcinfo, 0);

	error = confined(self, remember_known, &trial);
	if (error)
		ReThrowError(error);
	error = confined(self, make_index, &trial);
	if (!error)
		error = plan_statements(&trial, PG_GETARG_ARRAYTYPE_P(2), rsinfo);
	/* a cancel that is on its way comes after it */
	HOLD_INTERRUPTS();
	drop_index(&trial);
	RESUME_INTERRUPTS();
	if (error)
		ReThrowError(error);
	return (Datum) 0;
}
