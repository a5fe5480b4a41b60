/*-------------------------------------------------------------------------
 *
 * stored_calls.c
 *	  Calling the functions of a kind of receivers from SQL: the check of a
 *	  config, and the formatter for a preview.
 *
 * create_receiver() and preview_notification() run with the rights of the
 * extension's owner; these functions are anybody's code and run confined, as
 * the role that registered the kind.  Who calls this by hand may name only a
 * role whose rights they have.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "core/confined.h"

PG_FUNCTION_INFO_V1(mon_run_config_check);
PG_FUNCTION_INFO_V1(mon_run_formatter);

/* Who changes a receiver waits for the check, on a slow machine, too; a formatter has the time that the notifier gives it. */
#define CHECK_TIMEOUT_MS 10000
#define FORMAT_TIMEOUT_MS 1000

typedef struct StoredCall
{
	const char *sql;
	int nargs;
	Datum args[2];
	bool found;
	Datum result;
	MemoryContext cxt; /* where the result goes */
} StoredCall;

static void
call_function(void *arg)
{
	StoredCall *call = arg;
	Oid types[2] = {JSONBOID, JSONBOID};
	bool isnull;

	SPI_connect();
	if (SPI_execute_with_args(call->sql, call->nargs, types, call->args, NULL, false, 2) < 0)
		elog(ERROR, "could not call the function of a receiver kind");
	if (SPI_processed > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("the formatter returned more than one row")));
	if (call->nargs == 2 && SPI_processed == 1)
	{
		Datum d = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
		MemoryContext old = MemoryContextSwitchTo(call->cxt);

		call->found = !isnull;
		call->result = isnull ? (Datum) 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(d));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

/* Call the function that is the first argument, as the role that is the second, with the others. */
static void
run_stored(FunctionCallInfo fcinfo, const char *sql_format, const char *signature, int timeout_ms,
		   StoredCall *call)
{
	MonConfinement confinement = {.timeout_ms = timeout_ms};
	Oid function;
	ErrorData *failure;

	for (int i = 0; i < PG_NARGS(); i++)
		if (PG_ARGISNULL(i))
			ereport(
				ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("arguments must not be null")));

	function = DatumGetObjectId(DirectFunctionCall1(
		regprocedurein,
		CStringGetDatum(psprintf("%s%s", text_to_cstring(PG_GETARG_TEXT_PP(0)), signature))));
	confinement.role = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	mon_check_confined_caller(fcinfo, confinement.role, "function");
	call->sql = psprintf(
		sql_format,
		quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
								   get_func_name(function)));
	call->nargs = PG_NARGS() - 2;
	for (int i = 0; i < call->nargs; i++)
		call->args[i] = PG_GETARG_DATUM(i + 2);
	call->cxt = CurrentMemoryContext;
	failure = mon_run_confined(&confinement, call_function, call);
	if (failure != NULL)
		ReThrowError(failure);
}

Datum
mon_run_config_check(PG_FUNCTION_ARGS)
{
	StoredCall call = {0};

	run_stored(fcinfo, "SELECT %s($1)", "(jsonb)", CHECK_TIMEOUT_MS, &call);
	PG_RETURN_VOID();
}

Datum
mon_run_formatter(PG_FUNCTION_ARGS)
{
	StoredCall call = {0};

	run_stored(fcinfo, "SELECT pg_catalog.to_jsonb(f) FROM %s($1, $2) AS f", "(jsonb,jsonb)",
			   FORMAT_TIMEOUT_MS, &call);
	if (!call.found)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(call.result);
}
