/*-------------------------------------------------------------------------
 *
 * read_sql.c
 *	  value(), percentile(), series_values(), last_observed(), query(), rolling(),
 *	  sketch_over(), sketches() and live_series().
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define MAX_BUCKETS 100000

/* ---- arguments ---- */

static void
too_many_steps(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("the range has more than %d steps", MAX_BUCKETS),
			 errhint("Ask for a shorter range or a longer step.")));
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
	mon_read_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(4));
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
	mon_read_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(4));
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
	mon_read_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(5));
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

PG_FUNCTION_INFO_V1(mon_last_observed);
/* last_observed(metric, over, labels, by, at): one row per group with data */
Datum
mon_last_observed(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ReadState state = {0};
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(4);

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(2));
	mon_last_at_fn(&state.fn);
	mon_read_window(&state, PG_GETARG_INTERVAL_P(1), at);
	state.by = PG_GETARG_ARRAYTYPE_P(3);
	mon_read(&state);

	InitMaterializedSRF(fcinfo, 0);
	for (int g = 0; g < state.ngroups; g++)
	{
		const ReadGroup *group = &state.groups[g];
		Datum values[2];
		bool nulls[2] = {false, false};

		if (!group->cells || group->cells[0].count == 0)
			continue;
		values[0] = JsonbPGetDatum(group->labels);
		values[1] = TimestampTzGetDatum(Min(group->newest, at));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(mon_sketch_over);
/* sketch_over(metric text, over interval, labels jsonb, at timestamptz) returns sketch */
Datum
mon_sketch_over(PG_FUNCTION_ARGS)
{
	ReadState state = {0};

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(2));
	mon_sketch_fn(&state.fn);
	mon_read_window(&state, PG_GETARG_INTERVAL_P(1), PG_GETARG_TIMESTAMPTZ(3));
	state.by = construct_empty_array(TEXTOID);
	mon_read(&state);
	if (state.ngroups == 0 || !state.groups[0].cells)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(mon_sketch_datum(&state.groups[0].cells[0].sketch));
}

/* ---- series of buckets ---- */

static void
set_range(ReadState *state, TimestampTz since, TimestampTz until, const Interval *step)
{
	uint64 n;

	mon_check_finite(since, "since");
	mon_check_finite(until, "until");
	state->step = mon_interval_usecs(step, "step");
	if (until <= since)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("until must be later than since")));
	if (state->step >= SLOT_USECS)
		since = mon_floor_time(since, SLOT_USECS);
	/* unsigned: the range of timestamps is wider than an int64 */
	n = ((uint64) until - (uint64) since + state->step - 1) / state->step;
	if (n > MAX_BUCKETS)
		too_many_steps();
	state->nbuckets = n;
	state->origin = since;
	state->seconds = Max(state->step, SLOT_USECS) / (double) USECS_PER_SEC;
	state->from = mon_floor_time(since, SLOT_USECS);
	state->to = until;
}

/* Rows of (bucket, series_labels, value) in the making. */
typedef struct BucketRows
{
	ReturnSetInfo *rsinfo;
	const ReadState *state;
	TimestampTz first; /* bucket */
	Jsonb *labels;
} BucketRows;

/* The row of a bucket; point NULL: there is no data. */
static void
put_bucket(int bucket, const MonPoint *point, void *arg)
{
	BucketRows *rows = arg;
	const ReadState *state = rows->state;
	Datum values[3];
	bool nulls[3] = {false, false, false};
	double value = 0;

	values[0] = TimestampTzGetDatum(rows->first + bucket * state->step);
	values[1] = JsonbPGetDatum(rows->labels);
	values[2] = 0;
	if (state->fn.kind == FN_SKETCH)
	{
		nulls[2] = !point || point->count == 0;
		if (!nulls[2])
			values[2] = mon_sketch_datum(&point->sketch);
	}
	else
	{
		nulls[2] = !point || !mon_fn_value(&state->fn, point, state->seconds, &value);
		values[2] = Float8GetDatum(value);
	}
	tuplestore_putvalues(rows->rsinfo->setResult, rows->rsinfo->setDesc, values, nulls);
	if (state->fn.kind == FN_SKETCH && !nulls[2])
		pfree(DatumGetPointer(values[2]));
}

/* Without grouping there is always one group, so that a chart shows its gaps. */
static bool
is_ungrouped(const ReadState *state)
{
	return ArrayGetNItems(ARR_NDIM(state->by), ARR_DIMS(state->by)) == 0;
}

static void
put_buckets(FunctionCallInfo fcinfo, ReadState *state)
{
	BucketRows rows = {(ReturnSetInfo *) fcinfo->resultinfo, state, state->origin};

	if (is_ungrouped(state))
		(void) mon_read_only_group(state);
	InitMaterializedSRF(fcinfo, 0);
	for (int g = 0; g < state->ngroups; g++)
	{
		const ReadGroup *group = &state->groups[g];

		CHECK_FOR_INTERRUPTS();
		if (!group->cells && !is_ungrouped(state))
			continue;
		rows.labels = group->labels;
		for (int b = 0; b < state->nbuckets; b++)
			put_bucket(b, group->cells ? &group->cells[b] : NULL, &rows);
	}
}

PG_FUNCTION_INFO_V1(mon_query);
/* query(metric, fn, since, until, step, labels, by) -> (bucket, series_labels, value) */
Datum
mon_query(PG_FUNCTION_ARGS)
{
	ReadState state = {0};

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(5));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_range(&state, PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_TIMESTAMPTZ(3), PG_GETARG_INTERVAL_P(4));
	state.by = PG_GETARG_ARRAYTYPE_P(6);
	mon_read(&state);
	put_buckets(fcinfo, &state);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(mon_sketches);
/* sketches(metric, since, until, step, labels, by) -> (bucket, series_labels, sketch) */
Datum
mon_sketches(PG_FUNCTION_ARGS)
{
	ReadState state = {0};

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(4));
	mon_sketch_fn(&state.fn);
	set_range(&state, PG_GETARG_TIMESTAMPTZ(1), PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_INTERVAL_P(3));
	state.by = PG_GETARG_ARRAYTYPE_P(5);
	mon_read(&state);
	put_buckets(fcinfo, &state);
	return (Datum) 0;
}

/* ---- moving windows ---- */

/*
 * Have cells before the first bucket, so that its window is whole.  Where the
 * window is no multiple of the step, each step is two cells, divided where
 * windows begin.
 */
static void
widen_range(ReadState *state, const Interval *over_arg, ReadWindows *w)
{
	int64 over = mon_interval_usecs(over_arg, "window");
	int64 whole = over / state->step;
	int64 rest = over % state->step;
	int64 lead = rest > 0 ? whole : whole - 1; /* steps before the first bucket */

	w->n = state->nbuckets;
	w->stride = rest > 0 ? 2 : 1;
	w->first = rest > 0 ? 1 : 0;
	if (lead > MAX_BUCKETS || (w->n + lead) * w->stride > MAX_BUCKETS)
		too_many_steps();
	w->width = rest > 0 ? 2 * whole + 1 : whole;
	state->split = rest > 0 ? state->step - rest : 0;
	state->nbuckets = (w->n + lead) * w->stride;
	if (state->origin < MIN_TIMESTAMP + lead * state->step)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("timestamp out of range")));
	state->origin -= lead * state->step;
	state->from = state->origin + state->split;
	state->seconds = Max(over, SLOT_USECS) / (double) USECS_PER_SEC;
}

static void
put_series_counts(BucketRows *rows, const int *counts, int n)
{
	for (int i = 0; i < n; i++)
	{
		MonPoint p = {0};

		p.count = counts ? counts[i] : 0;
		put_bucket(i, &p, rows);
	}
}

static void
put_windows(FunctionCallInfo fcinfo, ReadState *state, const ReadWindows *w, TimestampTz first)
{
	BucketRows rows = {(ReturnSetInfo *) fcinfo->resultinfo, state, first};
	int **series = state->fn.kind == FN_SERIES ? mon_roll_series(state, w) : NULL;

	if (is_ungrouped(state))
		(void) mon_read_only_group(state);
	InitMaterializedSRF(fcinfo, 0);
	for (int g = 0; g < state->ngroups; g++)
	{
		const ReadGroup *group = &state->groups[g];

		rows.labels = group->labels;
		if (!group->cells)
		{
			if (is_ungrouped(state))
				for (int i = 0; i < w->n; i++)
					put_bucket(i, NULL, &rows);
		}
		else if (series)
			put_series_counts(&rows, series[g], w->n);
		else
			mon_roll(state, group, w, put_bucket, &rows);
	}
}

PG_FUNCTION_INFO_V1(mon_rolling);
/* rolling(metric, fn, since, until, step, over, labels, by) -> (bucket, series_labels, value) */
Datum
mon_rolling(PG_FUNCTION_ARGS)
{
	ReadState state = {0};
	ReadWindows windows;
	TimestampTz first;

	mon_read_metric_name(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(6));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_range(&state, PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_TIMESTAMPTZ(3), PG_GETARG_INTERVAL_P(4));
	first = state.origin;
	widen_range(&state, PG_GETARG_INTERVAL_P(5), &windows);
	state.by = PG_GETARG_ARRAYTYPE_P(7);
	mon_read(&state);
	put_windows(fcinfo, &state, &windows, first);
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
