/*-------------------------------------------------------------------------
 *
 * read_sql.c
 *	  value(), percentile(), series_values(), query() and live_series().
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define MAX_BUCKETS 100000

/* ---- arguments ---- */

static int64
interval_usecs(const Interval *i, const char *what)
{
	double usecs = i->time + (double) i->day * USECS_PER_DAY +
		(double) i->month * DAYS_PER_MONTH * USECS_PER_DAY;

	if (usecs <= 0 || usecs > (double) DAYS_PER_YEAR * 100 * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the %s must be longer than zero and at most 100 years", what)));
	return (int64) usecs;
}

static void
check_finite(TimestampTz t, const char *what)
{
	if (TIMESTAMP_NOT_FINITE(t))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("%s must be a finite time", what)));
}

static void
set_window(ReadState *state, const Interval *over, TimestampTz at)
{
	int64 usecs = interval_usecs(over, "window");
	TimestampTz covered_until;

	check_finite(at, "at");
	state->from = mon_floor_time(at - usecs, SLOT_USECS);
	state->to = at + 1;
	/* The slots of the window cover more than it; the open one only what has passed. */
	covered_until = Max(at,
						Min(mon_floor_time(at, SLOT_USECS) + SLOT_USECS, GetCurrentTimestamp()));
	state->seconds = (covered_until - state->from) / (double) USECS_PER_SEC;
	state->nbuckets = 1;
}

static bool
group_value(const ReadState *state, const ReadGroup *g, int bucket, double *value)
{
	return g->cells && mon_fn_value(&state->fn, &g->cells[bucket], state->seconds, value);
}

static Datum
single_value(FunctionCallInfo fcinfo, ReadState *state)
{
	double value;

	state->by = construct_empty_array(TEXTOID);
	mon_read(state);
	if (state->ngroups == 0 || !group_value(state, &state->groups[0], 0, &value))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(value);
}

/* ---- the SQL functions ---- */

PG_FUNCTION_INFO_V1(mon_value);
/* value(metric text, fn text, over interval, labels jsonb, at timestamptz) */
Datum
mon_value(PG_FUNCTION_ARGS)
{
	ReadState state = {0};

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(3));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(4));
	return single_value(fcinfo, &state);
}

PG_FUNCTION_INFO_V1(mon_percentile);
/* percentile(metric text, q float8, over interval, labels jsonb, at timestamptz) */
Datum
mon_percentile(PG_FUNCTION_ARGS)
{
	ReadState state = {0};
	double q = PG_GETARG_FLOAT8(1);

	if (!(q >= 0 && q <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("percentile value %g is not between 0 and 1", q),
				 errhint("The 95th percentile is 0.95.")));
	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(3));
	mon_percentile_fn(q, &state.fn);
	set_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(4));
	return single_value(fcinfo, &state);
}

PG_FUNCTION_INFO_V1(mon_series_values);
/* series_values(metric, fn, over, labels, by, at): one row per group with data */
Datum
mon_series_values(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ReadState state = {0};

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(3));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(5));
	state.by = PG_GETARG_ARRAYTYPE_P(4);
	mon_read(&state);

	InitMaterializedSRF(fcinfo, 0);
	for (int g = 0; g < state.ngroups; g++)
	{
		double value;
		Datum values[2];
		bool nulls[2] = {false, false};

		if (!group_value(&state, &state.groups[g], 0, &value))
			continue;
		values[0] = JsonbPGetDatum(state.groups[g].labels);
		values[1] = Float8GetDatum(value);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static void
set_range(ReadState *state, TimestampTz since, TimestampTz until, const Interval *step)
{
	uint64 n;

	check_finite(since, "since");
	check_finite(until, "until");
	state->step = interval_usecs(step, "step");
	if (until <= since)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("until must be later than since")));
	if (state->step >= SLOT_USECS)
		since = mon_floor_time(since, SLOT_USECS);
	/* unsigned: the range of timestamps is wider than an int64 */
	n = ((uint64) until - (uint64) since + state->step - 1) / state->step;
	if (n > MAX_BUCKETS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the range has more than %d steps", MAX_BUCKETS),
				 errhint("Ask for a shorter range or a longer step.")));
	state->nbuckets = n;
	state->origin = since;
	state->seconds = Max(state->step, SLOT_USECS) / (double) USECS_PER_SEC;
	state->from = mon_floor_time(since, SLOT_USECS);
	state->to = until;
}

static void
put_buckets(const ReadState *state, const ReadGroup *g, ReturnSetInfo *rsinfo)
{
	for (int b = 0; b < state->nbuckets; b++)
	{
		double value = 0;
		Datum values[3];
		bool nulls[3] = {false, false, false};

		values[0] = TimestampTzGetDatum(state->origin + b * state->step);
		values[1] = JsonbPGetDatum(g->labels);
		nulls[2] = !group_value(state, g, b, &value);
		values[2] = Float8GetDatum(value);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(mon_query);
/* query(metric, fn, since, until, step, labels, by) -> (bucket, series_labels, value) */
Datum
mon_query(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ReadState state = {0};
	bool ungrouped;

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(5));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_range(&state, PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_TIMESTAMPTZ(3), PG_GETARG_INTERVAL_P(4));
	state.by = PG_GETARG_ARRAYTYPE_P(6);
	mon_read(&state);

	/* Without grouping there is always one group, so that a chart shows its gaps. */
	ungrouped = ArrayGetNItems(ARR_NDIM(state.by), ARR_DIMS(state.by)) == 0;
	if (ungrouped)
		(void) mon_read_only_group(&state);

	InitMaterializedSRF(fcinfo, 0);
	for (int g = 0; g < state.ngroups; g++)
		if (ungrouped || state.groups[g].cells)
			put_buckets(&state, &state.groups[g], rsinfo);
	return (Datum) 0;
}

/* ---- the registry as rows ---- */

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

	InitMaterializedSRF(fcinfo, 0);
	if (!mon_preloaded)
		return (Datum) 0;
	mon_record_push();

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
