/*-------------------------------------------------------------------------
 *
 * local.c
 *	  Deliveries that need no sender: NOTIFY, and calls of functions.
 *
 * Both are done by the notifier in the transaction that records the outcome, so
 * that what they do in the database is done exactly once.  Functions are
 * anybody's code: they run confined, as the role that owns the receiver.
 *
 * Everything here belongs to one call; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/request.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"

#include "core/confined.h"

#define NOTIFY_TIMEOUT_MS 1000

MonLocal *
mon_local_make(const MonRequest *request, const char *receiver, const char *owner,
			   uint32 timeout_ms)
{
	bool sql = strcmp(request->method, "SQL") == 0;
	MemoryContext old;
	MonLocal *local;

	if (!sql && strcmp(request->method, "NOTIFY") != 0)
		return NULL;
	old = MemoryContextSwitchTo(TopMemoryContext);
	local = palloc(sizeof(MonLocal));
	local->sql = sql;
	local->receiver = pstrdup(receiver);
	local->owner = pstrdup(owner);
	local->target = pstrdup(request->url);
	local->body = pstrdup(request->body);
	local->timeout_ms = sql ? timeout_ms : NOTIFY_TIMEOUT_MS;
	local->hung = false;
	MemoryContextSwitchTo(old);
	return local;
}

void
mon_local_free(MonLocal *local)
{
	pfree(local->receiver);
	pfree(local->owner);
	pfree(local->target);
	pfree(local->body);
	pfree(local);
}

/* Requests are UTF-8, whatever the database's encoding. */
static char *
server_text(const char *utf8)
{
	return pg_any_to_server(utf8, strlen(utf8), PG_UTF8);
}

static void
call_function(const MonLocal *local)
{
	Oid function = DatumGetObjectId(DirectFunctionCall1(
		regprocedurein,
		CStringGetDatum(psprintf("%s(pg_catalog.jsonb)", server_text(local->target)))));
	char *schema = get_namespace_name(get_func_namespace(function));
	char *name = get_func_name(function);
	Oid types[1] = {JSONBOID};
	Datum args[1] = {DirectFunctionCall1(jsonb_in, CStringGetDatum(server_text(local->body)))};

	if (schema == NULL || name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("the function is gone")));
	if (SPI_execute_with_args(psprintf("SELECT %s($1)", quote_qualified_identifier(schema, name)),
							  1, types, args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not call the function of a receiver");
}

static void
perform(void *arg)
{
	const MonLocal *local = arg;

	if (local->sql)
		call_function(local);
	else
		Async_Notify(server_text(local->target), server_text(local->body));
}

/* Will the same call fail the same way the next time?  What functions raise by themselves may not. */
static bool
is_final(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_CARDINALITY_VIOLATION:
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
			return true;
		default:
			return false;
	}
}

/* As mon_run_confined() says it; an error of that code may also be the function's own. */
static bool
took_too_long(const ErrorData *failure)
{
	return failure->sqlerrcode == ERRCODE_QUERY_CANCELED && failure->funcname == NULL;
}

/*
 * Its error's message may quote what only the owner may see, so it is shown
 * nowhere.
 */
const char *
mon_local_deliver(MonLocal *local, char **error)
{
	MonConfinement confinement = {.role = local->owner, .timeout_ms = local->timeout_ms};
	ErrorData *failure = mon_run_confined(&confinement, perform, local);

	/* Advisory locks of the session would outlast the transaction. */
	LockReleaseSession(USER_LOCKMETHOD);
	*error = pstrdup("");
	if (failure == NULL)
		return "delivered";
	if (mon_error_is_cancel(failure))
		ReThrowError(failure);
	if (took_too_long(failure))
	{
		local->hung = true;
		*error = psprintf("the function took longer than %.6g s", local->timeout_ms / 1e3);
		return "raised";
	}
	*error = psprintf("%s failed with SQLSTATE %s", local->sql ? "the function" : "NOTIFY",
					  unpack_sql_state(failure->sqlerrcode));
	return is_final(failure->sqlerrcode) ? "rejected" : "raised";
}
