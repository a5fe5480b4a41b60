/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  record_values(), record_batch(), record_json(): many observations a call.
 *
 * A call records all or nothing: everything that can be wrong raises its error
 * before the first observation is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/record.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#define CHUNK 1024 /* values looked at at a time */

/* ---- a batch ---- */

typedef struct Batch
{
	Observation *items;
	int n;
	int current;       /* which one is being read, for error messages */
	MemoryContext tmp; /* of one item */
	ErrorContextCallback callback;
} Batch;

static void
batch_error_context(void *arg)
{
	errcontext("element %d of the batch", ((Batch *) arg)->current + 1);
}

static void
begin_batch(Batch *b, int n)
{
	b->items = palloc_extended(sizeof(Observation) * Max(n, 1), MCXT_ALLOC_HUGE);
	b->n = n;
	b->current = 0;
	b->tmp = AllocSetContextCreate(CurrentMemoryContext, "batch element", ALLOCSET_SMALL_SIZES);
	b->callback.callback = batch_error_context;
	b->callback.arg = b;
	b->callback.previous = error_context_stack;
	error_context_stack = &b->callback;
}

static void
check_items(Batch *b)
{
	for (b->current = 0; b->current < b->n; b->current++)
	{
		if (b->current % CHUNK == 0)
			CHECK_FOR_INTERRUPTS();
		mon_observation_check(&b->items[b->current], NULL);
	}
}

/* Late ones first: they are written in this transaction, which could still fail. */
static int64
record_items(Batch *b, bool late, bool look_up)
{
	int64 recorded = 0;

	for (b->current = 0; b->current < b->n; b->current++)
	{
		Observation *o = &b->items[b->current];

		if (o->late != late)
			continue;
		if (look_up)
			o->ref = mon_find_ref(o->key, o->kind);
		recorded += mon_observation_record(o);
	}
	return recorded;
}

/* Check and record all; returns how many were recorded. */
static int64
record_batch(Batch *b)
{
	uint64 generation = mon_refs_generation;
	int64 recorded;
	bool forgotten;

	check_items(b);
	/* So many series that references had to be forgotten: look each up again. */
	forgotten = mon_refs_generation != generation && b->n > 0;
	recorded = record_items(b, true, forgotten);
	recorded += record_items(b, false, forgotten);
	error_context_stack = b->callback.previous;
	return recorded;
}

/* ---- arrays ---- */

/* The elements of a one-dimensional array without nulls; NULL when the argument is null. */
static Datum *
get_elements(FunctionCallInfo fcinfo, int arg, const char *name, int *n)
{
	ArrayType *array;
	Oid type;
	int16 len;
	bool byval;
	char align;
	Datum *elements;
	bool *nulls;

	if (PG_ARGISNULL(arg))
		return NULL;
	array = PG_GETARG_ARRAYTYPE_P(arg);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be a one-dimensional array", name)));
	type = ARR_ELEMTYPE(array);
	get_typlenbyvalalign(type, &len, &byval, &align);
	deconstruct_array(array, type, len, byval, align, &elements, &nulls, n);
	for (int i = 0; ARR_HASNULL(array) && i < *n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("element %d of %s is null", i + 1, name)));
	return elements;
}

static Datum *
get_equal_elements(FunctionCallInfo fcinfo, int arg, const char *name, int n)
{
	int m;
	Datum *elements = get_elements(fcinfo, arg, name, &m);

	if (elements && m != n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("the arrays of a batch must have equal lengths"),
				 errdetail("The length of metrics is %d, that of %s is %d.", n, name, m)));
	return elements;
}

/* {} as jsonb bytes */
static const uint32 no_labels = JB_FOBJECT;

PG_FUNCTION_INFO_V1(mon_record_batch);
/* record_batch(metrics text[], observations float8[], labels jsonb[], kinds text[], times timestamptz[]) */
Datum
mon_record_batch(PG_FUNCTION_ARGS)
{
	Datum *metrics, *values, *labels, *kinds, *times;
	Batch b;
	int n;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("metrics and observations must not be null")));
	metrics = get_elements(fcinfo, 0, "metrics", &n);
	values = get_equal_elements(fcinfo, 1, "observations", n);
	labels = get_equal_elements(fcinfo, 2, "labels", n);
	kinds = get_equal_elements(fcinfo, 3, "kinds", n);
	times = get_equal_elements(fcinfo, 4, "times", n);

	begin_batch(&b, n);
	for (; b.current < n; b.current++)
	{
		Observation *o = &b.items[b.current];
		struct varlena *metric = (struct varlena *) DatumGetPointer(metrics[b.current]);

		memset(o, 0, sizeof(Observation));
		o->key.metric = VARDATA_ANY(metric);
		o->key.metric_len = VARSIZE_ANY_EXHDR(metric);
		o->key.labels = labels ? VARDATA_ANY(DatumGetPointer(labels[b.current]))
							   : (const char *) &no_labels;
		o->key.labels_len = labels ? VARSIZE_ANY_EXHDR(DatumGetPointer(labels[b.current]))
								   : sizeof(no_labels);
		o->value = DatumGetFloat8(values[b.current]);
		o->kind = MON_DISTRIBUTION;
		if (kinds)
			o->kind = mon_parse_kind(VARDATA_ANY(DatumGetPointer(kinds[b.current])),
									 VARSIZE_ANY_EXHDR(DatumGetPointer(kinds[b.current])));
		o->timed = times != NULL;
		if (times)
			o->at = DatumGetTimestampTz(times[b.current]);
	}
	PG_RETURN_INT64(record_batch(&b));
}

PG_FUNCTION_INFO_V1(mon_record_values);
/* record_values(metric text, observations float8[], labels jsonb) */
Datum
mon_record_values(PG_FUNCTION_ARGS)
{
	struct varlena *metric = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(0));
	struct varlena *labels = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(2));
	ArrayType *array = PG_GETARG_ARRAYTYPE_P(1);
	int n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	const double *values = (const double *) ARR_DATA_PTR(array);
	double finite[CHUNK];
	int64 recorded = 0;
	SeriesRef *ref;

	if (array_contains_nulls(array))
	{
		int ignored;

		(void) get_elements(fcinfo, 1, "observations", &ignored);
	}
	ref = mon_cached_ref(fcinfo->flinfo, mon_ref_key(metric, labels), MON_DISTRIBUTION);
	for (int i = 0; i < n; i += CHUNK)
	{
		int end = Min(n, i + CHUNK);
		int m = 0;

		for (int k = i; k < end; k++)
		{
			finite[m] = values[k];
			m += isfinite(values[k]) != 0;
		}
		if (ref)
			mon_record_take_values(ref, finite, m);
		else
			mon_count_dropped(m);
		recorded += m;
	}
	mon_count_refused(n - recorded);
	PG_RETURN_INT64(recorded);
}

/* ---- JSON ---- */

static void
bad_element(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid observation"),
			 errdetail_internal("%s", detail),
			 errhint("An observation is an object such as {\"metric\": \"http_request_seconds\", "
					 "\"value\": 0.2, \"labels\": {\"route\": \"/cart\"}}, with \"kind\" and "
					 "\"ts\" if need be.")));
}

/* A member of an object; NULL when it is not there or null. */
static JsonbValue *
get_member(JsonbContainer *object, const char *name, int *found, JsonbValue *result)
{
	JsonbValue *v = getKeyJsonValueFromContainer(object, name, strlen(name), result);

	if (v)
		(*found)++;
	return v && v->type != jbvNull ? v : NULL;
}

static double
json_number(const JsonbValue *v)
{
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(v->val.numeric)));
}

/* A time: a timestamp with time zone as text, or the seconds since 1970. */
static TimestampTz
json_time(const JsonbValue *v)
{
	if (v->type == jbvNumeric)
		return DatumGetTimestampTz(
			DirectFunctionCall1(float8_timestamptz, Float8GetDatum(json_number(v))));
	if (v->type != jbvString)
		bad_element("The member \"ts\" is neither text nor a number.");
	return DatumGetTimestampTz(DirectFunctionCall3(
		timestamptz_in, CStringGetDatum(pnstrdup(v->val.string.val, v->val.string.len)),
		ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

static void
read_object(Observation *o, JsonbContainer *object)
{
	JsonbValue member;
	JsonbValue *v;
	int found = 0;

	memset(o, 0, sizeof(Observation));
	v = get_member(object, "metric", &found, &member);
	if (!v || v->type != jbvString)
		bad_element("The member \"metric\" is missing or not text.");
	o->key.metric = v->val.string.val;
	o->key.metric_len = v->val.string.len;

	v = get_member(object, "value", &found, &member);
	if (!v || v->type != jbvNumeric)
		bad_element("The member \"value\" is missing or not a number.");
	o->value = json_number(v);

	v = get_member(object, "labels", &found, &member);
	if (v && v->type != jbvBinary)
		bad_element("The member \"labels\" is not an object.");
	o->key.labels = v ? (const char *) v->val.binary.data : (const char *) &no_labels;
	o->key.labels_len = v ? v->val.binary.len : sizeof(no_labels);

	v = get_member(object, "kind", &found, &member);
	if (v && v->type != jbvString)
		bad_element("The member \"kind\" is not text.");
	o->kind = v ? mon_parse_kind(v->val.string.val, v->val.string.len) : MON_DISTRIBUTION;

	v = get_member(object, "ts", &found, &member);
	o->timed = v != NULL;
	if (v)
		o->at = json_time(v);
	if (found != JsonContainerSize(object))
		bad_element("It has members other than metric, value, labels, kind and ts.");
}

PG_FUNCTION_INFO_V1(mon_record_json);
/* record_json(batch jsonb) */
Datum
mon_record_json(PG_FUNCTION_ARGS)
{
	Jsonb *jsonb = PG_GETARG_JSONB_P(0);
	MemoryContext old;
	JsonbIterator *it;
	JsonbValue v;
	Batch b;

	if (!JB_ROOT_IS_ARRAY(jsonb) || JB_ROOT_IS_SCALAR(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a batch must be a JSON array of objects")));
	begin_batch(&b, JB_ROOT_COUNT(jsonb));
	it = JsonbIteratorInit(&jsonb->root);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &v, true) == WJB_ELEM)
	{
		if (v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
			bad_element("It is not an object.");
		old = MemoryContextSwitchTo(b.tmp);
		read_object(&b.items[b.current], v.val.binary.data);
		b.current++;
		MemoryContextSwitchTo(old);
		MemoryContextReset(b.tmp);
	}
	PG_RETURN_INT64(record_batch(&b));
}
