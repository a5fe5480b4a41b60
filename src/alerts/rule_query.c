/*-------------------------------------------------------------------------
 *
 * rule_query.c
 *	  Queries that are part of alert rules and health checks, run as their owners:
 *	  run_rule_query(), try_rule_query() and check_rule_query().
 *
 * A query gives one row per alert: a numeric column is the value, all others are
 * labels.  Rows are looked at one by one as the executor makes them, so that a
 * query of too many rows ends early and is never kept in memory.
 *
 * $1 is the time of the evaluation and $2 the rule's window.
 *
 *-------------------------------------------------------------------------
 */
#include "core/core.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "core/confined.h"
#include "core/labels_hash.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define MAX_LABEL_BYTES 1024                /* of one label; the rest is cut off */
#define MAX_ROW_BYTES (64 * 1024)           /* of a row that is wanted whole */
#define MAX_RESULT_BYTES (16 * 1024 * 1024) /* of the labels of all rows */
#define MAX_TIMEOUT_MS (3600 * 1000)

/* A query and where its rows go. */
typedef struct RuleQuery
{
	DestReceiver pub; /* first: the executor's view of it */
	const char *sql;
	Datum params[2];  /* time, window */
	bool any_columns; /* rows are wanted whole */
	int max_rows;
	bool check_only;
	ReturnSetInfo *rsinfo;

	/* while it runs */
	MemoryContext cxt;
	MemoryContext row_cxt;
	TupleDesc desc;
	int value_column; /* index; -1: none */
	Oid value_type;
	FmgrInfo *output; /* functions of the labels' types */
	FmgrInfo to_jsonb;
	labels_hash *seen; /* label sets so far */
	int nrows;
	Size bytes;
} RuleQuery;

/* ---- columns ---- */

static bool
is_number(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return true;
		default:
			return false;
	}
}

/* Types whose values tell things apart: text, enums, booleans, addresses, oids and their kin, UUIDs. */
static bool
is_label(Oid type)
{
	char category;
	bool preferred;

	get_type_category_preferred(type, &category, &preferred);
	return strchr("SEBIN", category) != NULL || type == CHAROID || type == UUIDOID;
}

static void
check_label_column(TupleDesc desc, int column)
{
	Form_pg_attribute att = TupleDescAttr(desc, column);
	const char *name = NameStr(att->attname);

	if (!is_label(getBaseType(att->atttypid)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s is neither a number nor a label", name,
						format_type_be(att->atttypid)),
				 errhint("Cast it to text for a label, or turn it into a number.")));
	if (name[0] == '\0' || strcmp(name, "?column?") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_DEFINITION),
				 errmsg("column %d of the query needs a name, which is that of the label",
						column + 1)));
	for (int i = 0; i < column; i++)
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("two columns of the query are named \"%s\"", name)));
}

/* Find the column of the value; all others must do as labels. */
static int
find_value_column(TupleDesc desc)
{
	int value = -1;

	for (int i = 0; i < desc->natts; i++)
	{
		if (!is_number(getBaseType(TupleDescAttr(desc, i)->atttypid)))
			check_label_column(desc, i);
		else if (value >= 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("the query has more than one numeric column: \"%s\" and \"%s\"",
							NameStr(TupleDescAttr(desc, value)->attname),
							NameStr(TupleDescAttr(desc, i)->attname)),
					 errhint("One is the value; cast the others to text if they are labels.")));
		else
			value = i;
	}
	if (value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH), errmsg("the query has no numeric column"),
				 errhint("One column is the value that is compared with the threshold.")));
	return value;
}

/* ---- rows ---- */

static float8
number(Oid type, Datum value)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		case INT8OID:
			return (float8) DatumGetInt64(value);
		case FLOAT4OID:
			return DatumGetFloat4(value);
		case FLOAT8OID:
			return DatumGetFloat8(value);
		default:
			return DatumGetFloat8(DirectFunctionCall1(numeric_float8, value));
	}
}

/* Bytes of a value, before it is fetched and decompressed. */
static Size
value_bytes(Form_pg_attribute att, Datum value)
{
	return att->attlen == -1 ? toast_raw_datum_size(value) : 64;
}

/*
 * What people typed may be part of a label: a long or odd name must not put the
 * rule in error.
 */
static void
label_text(RuleQuery *q, int column, Datum value, JsonbValue *label)
{
	Form_pg_attribute att = TupleDescAttr(q->desc, column);
	char *s;

	if (value_bytes(att, value) > MAX_ROW_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("label \"%s\" of the query takes more than %d bytes", NameStr(att->attname),
						MAX_ROW_BYTES)));
	s = OutputFunctionCall(&q->output[column], value);
	label->type = jbvString;
	label->val.string.val = s;
	label->val.string.len = pg_mbcliplen(s, strlen(s), MAX_LABEL_BYTES);
	for (int i = 0; i < label->val.string.len; i++)
		if ((unsigned char) s[i] < 0x20 || s[i] == 0x7f)
			s[i] = '?';
}

static Jsonb *
row_labels(RuleQuery *q, TupleTableSlot *slot)
{
	MonJsonbState built = {0};

	mon_push_jsonb(&built, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < q->desc->natts; i++)
	{
		JsonbValue key, label;

		if (i == q->value_column || slot->tts_isnull[i])
			continue;
		key.type = jbvString;
		key.val.string.val = NameStr(TupleDescAttr(q->desc, i)->attname);
		key.val.string.len = strlen(key.val.string.val);
		mon_push_jsonb(&built, WJB_KEY, &key);
		label_text(q, i, slot->tts_values[i], &label);
		mon_push_jsonb(&built, WJB_VALUE, &label);
	}
	mon_push_jsonb(&built, WJB_END_OBJECT, NULL);
	return mon_labels_canonical(JsonbValueToJsonb(built.result));
}

static void
note_labels(RuleQuery *q, Jsonb *labels)
{
	Jsonb *copy = MemoryContextAlloc(q->cxt, VARSIZE(labels));
	bool found;

	memcpy(copy, labels, VARSIZE(labels));
	q->bytes += VARSIZE(labels);
	if (q->bytes > MAX_RESULT_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the labels of the query take more than %d MB",
						MAX_RESULT_BYTES / (1024 * 1024))));
	(void) labels_insert(q->seen, copy, &found);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("the query gave the labels %s twice",
						JsonbToCString(NULL, &copy->root, VARSIZE(copy))),
				 errhint("Group by the columns that are labels.")));
}

static Datum
whole_row(RuleQuery *q, TupleTableSlot *slot)
{
	Size bytes = 0;
	HeapTuple tuple;

	for (int i = 0; i < q->desc->natts; i++)
		if (!slot->tts_isnull[i])
			bytes += value_bytes(TupleDescAttr(q->desc, i), slot->tts_values[i]);
	if (bytes > MAX_ROW_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a row of the query takes more than %d bytes", MAX_ROW_BYTES)));
	tuple = heap_form_tuple(q->desc, slot->tts_values, slot->tts_isnull);
	return FunctionCall1(&q->to_jsonb, HeapTupleGetDatum(tuple));
}

static void
put_row(RuleQuery *q, TupleTableSlot *slot)
{
	Datum values[4] = {0};
	bool nulls[4] = {true, true, true, true};

	if (q->any_columns)
	{
		values[2] = whole_row(q, slot);
		nulls[2] = false;
	}
	else
	{
		Jsonb *labels = row_labels(q, slot);

		note_labels(q, labels);
		values[0] = JsonbPGetDatum(labels);
		nulls[0] = false;
		nulls[1] = slot->tts_isnull[q->value_column];
		if (!nulls[1])
			values[1] = Float8GetDatum(number(q->value_type, slot->tts_values[q->value_column]));
	}
	tuplestore_putvalues(q->rsinfo->setResult, q->rsinfo->setDesc, values, nulls);
}

/* ---- the executor's receiver ---- */

static void
start_rows(DestReceiver *self, int operation, TupleDesc desc)
{
	RuleQuery *q = (RuleQuery *) self;

	q->cxt = CurrentMemoryContext;
	q->row_cxt = AllocSetContextCreate(q->cxt, "row of a stored query", ALLOCSET_DEFAULT_SIZES);
	q->desc = CreateTupleDescCopy(desc);
	q->seen = labels_create(q->cxt, 64, NULL);
	if (q->any_columns)
	{
		Param *arg = makeNode(Param);

		arg->paramtype = RECORDOID;
		BlessTupleDesc(q->desc);
		fmgr_info(F_TO_JSONB, &q->to_jsonb);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(arg), InvalidOid,
												 InvalidOid, COERCE_EXPLICIT_CALL),
						   &q->to_jsonb);
		return;
	}

	q->value_column = find_value_column(q->desc);
	q->value_type = getBaseType(TupleDescAttr(q->desc, q->value_column)->atttypid);
	q->output = palloc0(sizeof(FmgrInfo) * q->desc->natts);
	for (int i = 0; i < q->desc->natts; i++)
	{
		Oid function;
		bool varlena;

		getTypeOutputInfo(TupleDescAttr(q->desc, i)->atttypid, &function, &varlena);
		fmgr_info(function, &q->output[i]);
	}
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RuleQuery *q = (RuleQuery *) self;
	MemoryContext old;

	if (q->nrows++ == q->max_rows)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the query returned more than %d rows", q->max_rows)));
	MemoryContextReset(q->row_cxt);
	old = MemoryContextSwitchTo(q->row_cxt);
	slot_getallattrs(slot);
	put_row(q, slot);
	MemoryContextSwitchTo(old);
	return true;
}

static void
end_rows(DestReceiver *self)
{
}

/* ---- running ---- */

/* One SELECT; what else it must not do, the read-only transaction refuses in words that fit. */
static TupleDesc
check_statement(SPIPlanPtr plan)
{
	List *sources = SPI_plan_get_plan_sources(plan);
	CachedPlanSource *source;
	ListCell *lc;

	if (list_length(sources) != 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR), errmsg("a stored query must be a single statement")));
	source = linitial(sources);
	if (source->commandTag != CMDTAG_SELECT || source->resultDesc == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a stored query must be a SELECT")));
	foreach (lc, source->query_list)
	{
		Query *query = lfirst_node(Query, lc);

		if (query->hasModifyingCTE)
			ereport(ERROR,
					(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
					 errmsg("a stored query must only read")));
	}
	return source->resultDesc;
}

static ParamListInfo
query_params(const RuleQuery *q)
{
	static const Oid types[2] = {TIMESTAMPTZOID, INTERVALOID};
	ParamListInfo params = makeParamList(2);

	for (int i = 0; i < 2; i++)
	{
		params->params[i].value = q->params[i];
		params->params[i].isnull = false;
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = types[i];
	}
	return params;
}

/* Plan it and open its tables, so that missing rights show; run nothing. */
static void
open_only(SPIPlanPtr plan, const RuleQuery *q, TupleDesc desc)
{
	if (!q->any_columns)
		(void) find_value_column(desc);
	SPI_cursor_close(SPI_cursor_open_with_paramlist(NULL, plan, query_params(q), false));
}

static void
execute_query(SPIPlanPtr plan, RuleQuery *q)
{
	SPIExecuteOptions options = {0};

	q->pub.receiveSlot = receive_row;
	q->pub.rStartup = start_rows;
	q->pub.rShutdown = end_rows;
	q->pub.rDestroy = end_rows;
	q->pub.mydest = DestTuplestore;
	options.params = query_params(q);
	options.tcount = (uint64) q->max_rows + 1;
	options.dest = &q->pub;
	if (SPI_execute_plan_extended(plan, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not run a stored query");
}

static void
run(void *arg)
{
	RuleQuery *q = arg;
	Oid types[2] = {TIMESTAMPTZOID, INTERVALOID};
	SPIPlanPtr plan;
	TupleDesc desc;

	SPI_connect();
	plan = SPI_prepare(q->sql, 2, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare a stored query: %s", SPI_result_code_string(SPI_result));
	desc = check_statement(plan);
	if (q->check_only)
		open_only(plan, q, desc);
	else
		execute_query(plan, q);
	SPI_finish();
}

/* ---- the SQL functions ---- */

static int
timeout_ms(const Interval *timeout)
{
	double ms = (timeout->time +
				 ((double) timeout->day + (double) timeout->month * DAYS_PER_MONTH) *
					 USECS_PER_DAY) /
		1000;

	if (ms <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the timeout of a query must be longer than zero")));
	return (int) Min(Max(ms, 1), MAX_TIMEOUT_MS);
}

/* Arguments: owner, query, timeout, max_rows, any_columns, at, over */
static ErrorData *
run_confined(FunctionCallInfo fcinfo, RuleQuery *q)
{
	MonConfinement confinement = {.role = NameStr(*PG_GETARG_NAME(0)), .read_only = true};
	ErrorData *error;

	mon_check_confined_caller(fcinfo, confinement.role, "query");
	q->sql = text_to_cstring(PG_GETARG_TEXT_PP(1));
	confinement.timeout_ms = timeout_ms(PG_GETARG_INTERVAL_P(2));
	q->max_rows = PG_GETARG_INT32(3);
	q->any_columns = PG_GETARG_BOOL(4);
	q->params[0] = PG_GETARG_DATUM(5);
	q->params[1] = PG_GETARG_DATUM(6);
	if (q->max_rows < 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("max_rows must not be negative")));
	error = mon_run_confined(&confinement, run, q);
	if (error && mon_error_is_cancel(error))
		ReThrowError(error);
	return error;
}

PG_FUNCTION_INFO_V1(mon_run_rule_query);
/* run_rule_query(...) -> (labels, value, row) */
Datum
mon_run_rule_query(PG_FUNCTION_ARGS)
{
	RuleQuery q = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	ErrorData *error;

	InitMaterializedSRF(fcinfo, 0);
	error = run_confined(fcinfo, &q);
	if (error)
		ReThrowError(error);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(mon_try_rule_query);
/* try_rule_query(...) -> (labels, value, row, error) */
Datum
mon_try_rule_query(PG_FUNCTION_ARGS)
{
	RuleQuery q = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	ErrorData *error;

	InitMaterializedSRF(fcinfo, 0);
	error = run_confined(fcinfo, &q);
	if (error)
	{
		Datum values[4] = {0};
		bool nulls[4] = {true, true, true, false};

		values[3] = CStringGetTextDatum(
			error->detail ? psprintf("%s: %s", error->message, error->detail) : error->message);
		tuplestore_clear(q.rsinfo->setResult);
		tuplestore_putvalues(q.rsinfo->setResult, q.rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(mon_check_rule_query);
/* check_rule_query(...): what can be known without running it */
Datum
mon_check_rule_query(PG_FUNCTION_ARGS)
{
	RuleQuery q = {.check_only = true};
	ErrorData *error = run_confined(fcinfo, &q);

	if (error)
		ReThrowError(error);
	PG_RETURN_VOID();
}
