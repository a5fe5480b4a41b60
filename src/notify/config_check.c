/*-------------------------------------------------------------------------
 *
 * config_check.c
 *	  Calling the function with which a kind of receivers checks a config.
 *
 * create_receiver() runs with the rights of the extension's owner; the function
 * is anybody's code and runs confined, as the role that registered the kind.
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

#define CHECK_TIMEOUT_MS 1000

typedef struct CheckCall
{
	const char *sql;
	Datum config;
} CheckCall;

static void
call_check(void *arg)
{
	CheckCall *call = arg;
	Oid types[1] = {JSONBOID};

	SPI_connect();
	if (SPI_execute_with_args(call->sql, 1, types, &call->config, NULL, false, 1) < 0)
		elog(ERROR, "could not check the config");
	SPI_finish();
}

Datum
mon_run_config_check(PG_FUNCTION_ARGS)
{
	MonConfinement confinement = {.timeout_ms = CHECK_TIMEOUT_MS};
	CheckCall call;
	Oid function;
	ErrorData *failure;

	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("function, owner and config must not be null")));

	function = DatumGetObjectId(DirectFunctionCall1(
		regprocedurein,
		CStringGetDatum(psprintf("%s(jsonb)", text_to_cstring(PG_GETARG_TEXT_PP(0))))));
	confinement.role = NameStr(*PG_GETARG_NAME(1));
	call.sql = psprintf("SELECT %s($1)",
						quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
												   get_func_name(function)));
	call.config = PG_GETARG_DATUM(2);
	failure = mon_run_confined(&confinement, call_check, &call);
	if (failure != NULL)
		ReThrowError(failure);
	PG_RETURN_VOID();
}
