/*-------------------------------------------------------------------------
 *
 * sketch_agg.c
 *	  The aggregates sketch(float8) and merge(sketch).
 *
 * Both work on a SketchState in the aggregate's memory context; the combine,
 * serialise, deserialise and final functions are the same for both.  Values are
 * collected in an array first and added in batches, which is several times
 * faster than one by one, and lets a group of few values live without counters.
 *
 *-------------------------------------------------------------------------
 */
#include "sketch/sketch.h"

#include "fmgr.h"
#include "utils/memutils.h"

#include "sketch/sketch_internal.h"

#define FIRST_VALUES 8
#define MAX_VALUES 256

typedef struct SketchState
{
	double *values; /* not yet in the sketch */
	int nvalues;
	int capacity; /* of values; 0 for merge() until something needs it */
	MemoryContext cxt;
	ExpoSketch sketch;
} SketchState;

PG_FUNCTION_INFO_V1(mon_sketch_trans);
PG_FUNCTION_INFO_V1(mon_sketch_merge_trans);
PG_FUNCTION_INFO_V1(mon_sketch_combine);
PG_FUNCTION_INFO_V1(mon_sketch_serialize);
PG_FUNCTION_INFO_V1(mon_sketch_deserialize);
PG_FUNCTION_INFO_V1(mon_sketch_final);

static SketchState *
new_state(FunctionCallInfo fcinfo, int scale)
{
	MemoryContext cxt;
	SketchState *state;

	if (!AggCheckCallContext(fcinfo, &cxt))
		elog(ERROR, "aggregate function called in non-aggregate context");
	state = MemoryContextAllocZero(cxt, sizeof(SketchState));
	state->cxt = cxt;
	expo_init(&state->sketch, scale);
	return state;
}

static void
too_many(void)
{
	ereport(ERROR, errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			errmsg("a sketch cannot hold more than %lld values", (long long) PG_INT64_MAX));
}

/* Move the collected values into the sketch. */
static void
flush_values(SketchState *state)
{
	ExpoAllocator alloc = mon_palloc_allocator(state->cxt);

	if (expo_add_many(&state->sketch, state->values, state->nvalues, &alloc) != state->nvalues)
		too_many();
	state->nvalues = 0;
}

/* The array is full: a longer one while the group is small, the sketch from then on. */
static void
make_room(SketchState *state)
{
	if (state->capacity == 0)
	{
		state->capacity = FIRST_VALUES;
		state->values = MemoryContextAlloc(state->cxt, sizeof(double) * state->capacity);
	}
	else if (state->capacity < MAX_VALUES)
	{
		state->capacity *= 2;
		state->values = repalloc(state->values, sizeof(double) * state->capacity);
	}
	else
		flush_values(state);
}

static void
refuse_value(void)
{
	ereport(
		ERROR, errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
		errmsg("a sketch cannot hold NaN or infinite values"),
		errhint("Leave them out: sketch(x) FILTER (WHERE x > '-Infinity' AND x < 'Infinity')."));
}

/* sketch(float8): the most frequently called function of this file. */
Datum
mon_sketch_trans(PG_FUNCTION_ARGS)
{
	SketchState *state;
	double value;

	if (likely(!PG_ARGISNULL(0)))
		state = (SketchState *) PG_GETARG_POINTER(0);
	else if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	else
		state = new_state(fcinfo, EXPO_DEFAULT_SCALE);

	if (likely(!PG_ARGISNULL(1)))
	{
		value = PG_GETARG_FLOAT8(1);
		if (unlikely(!(value - value == 0))) /* false for NaN and infinities only */
			refuse_value();
		if (unlikely(state->nvalues == state->capacity))
			make_room(state);
		state->values[state->nvalues++] = value;
	}
	PG_RETURN_POINTER(state);
}

static void
merge_bytes(SketchState *state, const void *data, size_t len)
{
	ExpoAllocator alloc = mon_palloc_allocator(state->cxt);
	size_t used;
	int rc = expo_merge_encoded(&state->sketch, data, len, &used, &alloc);

	if (rc == EXPO_ERR_RANGE)
		too_many();
	if (rc != EXPO_OK || used != len)
		mon_sketch_corrupt();
}

/* merge(sketch): the lowest scale wins, so the state starts with the highest. */
Datum
mon_sketch_merge_trans(PG_FUNCTION_ARGS)
{
	SketchState *state;
	struct varlena *datum;

	if (!PG_ARGISNULL(0))
		state = (SketchState *) PG_GETARG_POINTER(0);
	else if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	else
		state = new_state(fcinfo, EXPO_MAX_SCALE);

	if (!PG_ARGISNULL(1))
	{
		datum = PG_GETARG_VARLENA_PP(1);
		merge_bytes(state, VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));
		PG_FREE_IF_COPY(datum, 1);
	}
	PG_RETURN_POINTER(state);
}

Datum
mon_sketch_combine(PG_FUNCTION_ARGS)
{
	SketchState *state;
	SketchState *other;
	ExpoAllocator alloc;

	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	other = (SketchState *) PG_GETARG_POINTER(1);
	flush_values(other);
	state = PG_ARGISNULL(0) ? new_state(fcinfo, other->sketch.scale)
							: (SketchState *) PG_GETARG_POINTER(0);
	alloc = mon_palloc_allocator(state->cxt);
	if (!expo_merge(&state->sketch, &other->sketch, &alloc))
		too_many();
	PG_RETURN_POINTER(state);
}

Datum
mon_sketch_serialize(PG_FUNCTION_ARGS)
{
	SketchState *state = (SketchState *) PG_GETARG_POINTER(0);

	flush_values(state);
	PG_RETURN_BYTEA_P(mon_sketch_encode(&state->sketch));
}

/* For the combine function only, which copies: so in the current, short-lived context. */
Datum
mon_sketch_deserialize(PG_FUNCTION_ARGS)
{
	struct varlena *datum = PG_GETARG_VARLENA_PP(0);
	SketchState *state = palloc0(sizeof(SketchState));

	if (!AggCheckCallContext(fcinfo, NULL))
		elog(ERROR, "aggregate function called in non-aggregate context");
	state->cxt = CurrentMemoryContext;
	expo_init(&state->sketch, EXPO_MAX_SCALE);
	merge_bytes(state, VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));
	PG_RETURN_POINTER(state);
}

/* Moving collected values into the sketch does not change what the state means. */
Datum
mon_sketch_final(PG_FUNCTION_ARGS)
{
	SketchState *state;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = (SketchState *) PG_GETARG_POINTER(0);
	flush_values(state);
	PG_RETURN_DATUM(mon_sketch_datum(&state->sketch));
}
