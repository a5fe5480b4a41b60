/*-------------------------------------------------------------------------
 *
 * statement_sql.c
 *	  The SQL functions over the registry of statements.
 *
 *-------------------------------------------------------------------------
 */
#include "server/activity_internal.h"
#include "server/server.h"
#include "server/slow_capture.h"
#include "server/statement.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#define KEY_COLUMNS 3 /* queryid, userid, toplevel */
#define ROW_COLUMNS (KEY_COLUMNS + STATEMENT_COUNTS + STATEMENT_TIMES + 2)

PG_FUNCTION_INFO_V1(mon_take_statements);
PG_FUNCTION_INFO_V1(mon_live_statements);
PG_FUNCTION_INFO_V1(mon_forget_statements);
PG_FUNCTION_INFO_V1(mon_statement_registry);

static bool
is_blocks(StatementCount i)
{
	return i >= STATEMENT_SHARED_HIT && i <= STATEMENT_TEMP_WRITTEN;
}

static void
put_row(ReturnSetInfo *rsinfo, const StatementRow *row)
{
	Datum values[ROW_COLUMNS];
	bool nulls[ROW_COLUMNS] = {0};
	int k = 0;

	values[k++] = Int64GetDatum(row->key.queryid);
	values[k++] = ObjectIdGetDatum(row->key.userid);
	values[k++] = BoolGetDatum(row->key.toplevel);
	for (int i = 0; i < STATEMENT_COUNTS; i++)
		values[k++] = Int64GetDatum(row->counters.n[i] * (is_blocks(i) ? BLCKSZ : 1));
	for (int i = 0; i < STATEMENT_TIMES; i++)
		values[k++] = Float8GetDatum(row->counters.seconds[i]);
	nulls[k] = row->latency.count == 0;
	values[k] = nulls[k] ? (Datum) 0 : mon_sketch_datum(&row->latency);
	k++;
	/* A role may have had another client_encoding, but the text was converted before it was run. */
	nulls[k] = row->text == NULL || !pg_verifymbstr(row->text, strlen(row->text), true);
	values[k] = nulls[k] ? (Datum) 0 : CStringGetTextDatum(row->text);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_rows(FunctionCallInfo fcinfo, const StatementRow *rows, int nrows)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "statement row",
											  ALLOCSET_DEFAULT_SIZES);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < nrows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		CHECK_FOR_INTERRUPTS();
		put_row(rsinfo, &rows[i]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	MemoryContextDelete(cxt);
}

/* As pg_stat_statements: a role sees the texts of its own statements, and may be given the right to see all. */
static void
hide_texts(StatementRow *rows, int nrows)
{
	bool all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);

	for (int i = 0; i < nrows; i++)
		if (!all && rows[i].key.userid != GetUserId())
			rows[i].text = NULL;
}

/* take_statements(stored bigint, seq bigint) */
Datum
mon_take_statements(PG_FUNCTION_ARGS)
{
	int nrows;
	StatementRow *rows;

	mon_require_preload();
	rows = mon_statements_take(PG_GETARG_INT64(0), PG_GETARG_INT64(1), &nrows);
	put_rows(fcinfo, rows, nrows);
	return (Datum) 0;
}

/* live_statements(stored bigint) */
Datum
mon_live_statements(PG_FUNCTION_ARGS)
{
	int nrows;
	StatementRow *rows;

	if (!mon_preloaded)
	{
		put_rows(fcinfo, NULL, 0);
		return (Datum) 0;
	}
	rows = mon_statements_copy(PG_GETARG_INT64(0), &nrows);
	hide_texts(rows, nrows);
	put_rows(fcinfo, rows, nrows);
	return (Datum) 0;
}

/* forget_statements() */
Datum
mon_forget_statements(PG_FUNCTION_ARGS)
{
	if (mon_preloaded)
		mon_statements_forget(MyDatabaseId);
	PG_RETURN_VOID();
}

/* statement_registry() */
Datum
mon_statement_registry(PG_FUNCTION_ARGS)
{
	StatementRegistryState state;
	TupleDesc desc;
	Datum values[5] = {0};
	bool nulls[5] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!mon_preloaded)
	{
		memset(nulls, true, sizeof(nulls));
		return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
	}
	state = mon_statement_registry_state();
	values[0] = Int32GetDatum(state.capacity);
	values[1] = Int32GetDatum(state.entries);
	values[2] = Int64GetDatum(state.evicted);
	values[3] = Int64GetDatum(state.lost);
	values[4] = Int32GetDatum(state.databases);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

void
mon_server_init(void)
{
	mon_statement_registry_init();
	mon_slow_capture_init();
	mon_statement_hooks_init();
	mon_activity_history_init();
}
