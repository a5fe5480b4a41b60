/*-------------------------------------------------------------------------
 *
 * rows.c
 *	  The registry as rows: live_series().
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

typedef struct LiveSeries
{
	int64 id;
	char *metric;
	MonMetricKind kind;
	Jsonb *labels;
	bool is_overflow;
	int nslots;
	TimestampTz last_used;
} LiveSeries;

static void
copy_live_series(MonSeries *s, void *arg)
{
	List **copies = arg;
	LiveSeries *copy = palloc(sizeof(LiveSeries));

	copy->id = s->id;
	copy->metric = pstrdup(s->metric->name);
	copy->kind = s->kind;
	copy->labels = palloc(VARSIZE(s->labels));
	memcpy(copy->labels, s->labels, VARSIZE(s->labels));
	copy->is_overflow = s->is_overflow;
	mon_series_lock(s, LW_SHARED);
	copy->nslots = s->nslots;
	copy->last_used = s->last_used;
	mon_series_unlock(s);
	*copies = lappend(*copies, copy);
}

PG_FUNCTION_INFO_V1(mon_live_series);
/* live_series(): the series of this database that are in memory */
Datum
mon_live_series(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	List *copies = NIL;
	ListCell *lc;

	mon_require_preload();
	mon_record_push();
	InitMaterializedSRF(fcinfo, 0);

	/* A tuplestore may go to disk, so it is not filled under the lock. */
	mon_index_lock(LW_SHARED);
	mon_registry_each(MyDatabaseId, copy_live_series, &copies);
	mon_index_unlock();
	foreach (lc, copies)
	{
		LiveSeries *s = lfirst(lc);
		Datum values[7];
		bool nulls[7] = {false};

		values[0] = Int64GetDatum(s->id);
		values[1] = CStringGetTextDatum(s->metric);
		values[2] = Int16GetDatum(s->kind);
		values[3] = JsonbPGetDatum(s->labels);
		values[4] = BoolGetDatum(s->is_overflow);
		values[5] = Int32GetDatum(s->nslots);
		values[6] = TimestampTzGetDatum(s->last_used);
		nulls[6] = s->last_used == 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
