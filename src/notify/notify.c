/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  The notifier of a database: when there is one.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/request.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(mon_notify_dispatch);

const MonCompanionSort mon_notifier_sort = {"monitoring notifier", "mon_notifier_main"};

void
mon_notify_init(void)
{
	mon_companion_register(&mon_notifier_sort);
}

Datum
mon_notify_dispatch(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {TIMESTAMPTZOID, BOOLOID};
	Datum args[2] = {PG_GETARG_DATUM(0)};
	bool isnull, due;

	mon_require_preload();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the time of the dispatch must not be null")));
	if (RecoveryInProgress())
		PG_RETURN_VOID();

	args[1] = BoolGetDatum(mon_companion_running(&mon_notifier_sort, MyDatabaseId));
	SPI_connect();
	if (plan == NULL)
	{
		SPIPlanPtr p = SPI_prepare("SELECT monitoring.notify_has_work($1, $2)", 2, types);

		if (p == NULL || SPI_keepplan(p) != 0)
			elog(ERROR, "could not prepare the outbox query");
		plan = p;
	}
	if (SPI_execute_plan(plan, args, NULL, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not look for work in the outbox");
	due = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();

	if (due && !isnull)
		mon_companion_wake(&mon_notifier_sort, MyDatabaseId);
	PG_RETURN_VOID();
}
