/*-------------------------------------------------------------------------
 *
 * interchange.c
 *	  Sketches to and from OTLP exponential and Prometheus native histograms.
 *
 * Both have the sketch's own buckets, so that these conversions move counters
 * and lose nothing that the other form can hold.  Counts enter a sketch as
 * values at the upper bound of their bucket, which is in it; sum, min and max
 * are set afterwards.  A bucket below the normal range of doubles may hold no
 * double at all; that way its counts come into the nearest bucket that does.
 *
 * Whatever the input claims, memory is bounded by its own size and by
 * EXPO_MAX_BUCKETS: lengths are compared with what is there before any loop.
 *
 *-------------------------------------------------------------------------
 */
#include "sketch/sketch.h"

#include <ctype.h>
#include <float.h>
#include <math.h>

#include "common/int.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "sketch/expo_internal.h"
#include "sketch/histogram.h"
#include "sketch/sketch_internal.h"

#define MIN_SCHEMA (-4)
#define MAX_SCHEMA 8

/* A bucket's number in Prometheus, less that in OTLP and here. */
#define PROMETHEUS_SHIFT 1

PG_FUNCTION_INFO_V1(mon_sketch_to_otlp);
PG_FUNCTION_INFO_V1(mon_sketch_from_otlp);
PG_FUNCTION_INFO_V1(mon_sketch_to_prometheus);
PG_FUNCTION_INFO_V1(mon_sketch_from_prometheus);

static const MonHistogramFormat otlp = {
	"OTLP exponential histogram",
	"Give one element of exponentialHistogram.dataPoints, such as {\"count\": \"1\", \"sum\": 3, "
	"\"scale\": 6, \"positive\": {\"offset\": 101, \"bucketCounts\": [\"1\"]}}."};

static const MonHistogramFormat prometheus = {
	"Prometheus native histogram",
	"Give an object such as {\"schema\": 6, \"count\": 1, \"sum\": 3, \"positive_spans\": "
	"[{\"offset\": 102, \"length\": 1}], \"positive_deltas\": [1]}."};

void
mon_invalid_histogram(const MonHistogramFormat *f, const char *detail)
{
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid %s", f->name),
			errdetail_internal("%s", detail), errhint("%s", f->hint));
}

void
mon_histogram_out_of_range(const MonHistogramFormat *f, const char *detail)
{
	ereport(ERROR, errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			errmsg("%s is out of range", f->name), errdetail_internal("%s", detail),
			errhint("A sketch holds up to 2^63 - 1 finite values of type double precision, in "
					"buckets of scale %d or higher.",
					EXPO_MIN_SCALE));
}

/* ---- building a sketch ---- */

typedef struct Builder
{
	const MonHistogramFormat *format;
	ExpoSketch s;
	ExpoAllocator alloc;
	int scale; /* of the bucket numbers after the shift; s.scale may get lower */
	int shift; /* from the numbers given to that scale */
} Builder;

static Builder
new_builder(const MonHistogramFormat *f, int scale)
{
	Builder b = {.format = f, .alloc = mon_palloc_allocator(CurrentMemoryContext)};

	b.scale = Min(scale, EXPO_MAX_SCALE);
	b.shift = Min(scale - b.scale, 63);
	expo_init(&b.s, b.scale);
	return b;
}

static void
add_values(Builder *b, double value, int64 n)
{
	if (!expo_add(&b->s, value, (uint64_t) n, &b->alloc))
		mon_histogram_out_of_range(b->format, "The counts add up to more than 2^63 - 1.");
}

static void
add_bucket(Builder *b, bool negative, int64 number, int64 n)
{
	double value;

	if (n == 0)
		return;
	number >>= b->shift;
	if (number < expo_index(DBL_TRUE_MIN, b->scale) || number > expo_index(DBL_MAX, b->scale))
		mon_histogram_out_of_range(b->format,
								   "A bucket lies beyond the range of double precision.");
	value = expo_bound((int32_t) number + 1, b->scale);
	add_values(b, negative ? -value : value, n);
}

/* The doubles of a bucket, first < last but for the narrowest, and its representative value. */
typedef struct Range
{
	double first, last, middle;
} Range;

static Range
bucket_range(int32_t index, int scale)
{
	Range r;

	r.first = nextafter(expo_bound(index, scale), INFINITY);
	r.last = expo_bound(index + 1, scale);
	r.middle = Max(r.first, Min(r.last, expo_representative(index, scale)));
	return r;
}

/* Where the outermost bucket of a sketch is that has values. */
typedef enum Place
{
	PLACE_ZERO,
	PLACE_POSITIVE,
	PLACE_NEGATIVE
} Place;

/* *index is not set for PLACE_ZERO. */
static Place
outermost(const ExpoSketch *s, bool top, int32_t *index)
{
	bool positive = !expo_is_empty(&s->pos);
	bool negative = !expo_is_empty(&s->neg);

	if (positive && (top || (!negative && s->zero_count == 0)))
	{
		*index = top ? s->pos.hi : s->pos.lo;
		return PLACE_POSITIVE;
	}
	if (negative && (!top || s->zero_count == 0))
	{
		*index = top ? s->neg.lo : s->neg.hi;
		return PLACE_NEGATIVE;
	}
	return PLACE_ZERO;
}

static double
unknown_extreme(const ExpoSketch *s, bool top)
{
	int32_t index;
	Place place = outermost(s, top, &index);

	if (place == PLACE_ZERO)
		return 0;
	return place == PLACE_POSITIVE ? bucket_range(index, s->scale).middle
								   : -bucket_range(index, s->scale).middle;
}

/*
 * A minimum or maximum that came with the buckets, as the sketch may hold it: in
 * the outermost bucket.  Who computes bucket numbers with a logarithm is off by
 * one next to a bound, so a value of the neighbouring bucket is moved, too.
 */
static double
known_extreme(const Builder *b, bool top, double value, double zero_threshold)
{
	const ExpoSketch *s = &b->s;
	double magnitude;
	int32_t index;
	Place place = outermost(s, top, &index);
	Range r;

	if (place == PLACE_ZERO)
	{
		if (!(fabs(value) <= Max(zero_threshold, DBL_MIN)))
			mon_invalid_histogram(b->format,
								  top ? "The field \"max\" is not in the highest bucket."
									  : "The field \"min\" is not in the lowest bucket.");
		return 0;
	}
	magnitude = place == PLACE_POSITIVE ? value : -value;
	if (!(magnitude > expo_bound(index - 1, s->scale) &&
		  magnitude <= expo_bound(index + 2, s->scale)))
		mon_invalid_histogram(b->format,
							  top ? "The field \"max\" is not in the highest bucket."
								  : "The field \"min\" is not in the lowest bucket.");
	r = bucket_range(index, s->scale);
	magnitude = Max(r.first, Min(r.last, magnitude));
	return place == PLACE_POSITIVE ? magnitude : -magnitude;
}

static double
bucket_sum(const ExpoBuckets *b, int scale)
{
	double sum = 0;

	for (int32_t i = b->lo; i <= b->hi; i++)
		sum += (double) expo_get(b, i) * expo_representative(i, scale);
	return sum;
}

/* Sum, min and max when they are known; NULL when not. */
static void
set_numbers(Builder *b, const double *sum, const double *min, const double *max,
			double zero_threshold)
{
	ExpoSketch *s = &b->s;

	if (s->count == 0)
	{
		if (sum && *sum != 0)
			mon_invalid_histogram(b->format, "The sum of no values is not zero.");
		expo_init(s, s->scale);
		return;
	}
	s->sum = sum ? *sum : bucket_sum(&s->pos, s->scale) - bucket_sum(&s->neg, s->scale);
	s->min = min ? known_extreme(b, false, *min, zero_threshold) : unknown_extreme(s, false);
	s->max = max ? known_extreme(b, true, *max, zero_threshold) : unknown_extreme(s, true);
	if (s->min > s->max)
	{
		if (min && max)
			mon_invalid_histogram(b->format, "The field \"min\" is greater than \"max\".");
		if (min)
			s->max = s->min;
		else
			s->min = s->max;
	}
	s->sum += 0.0; /* no negative zeroes */
	s->min += 0.0;
	s->max += 0.0;
}

static void
check_count(const Builder *b, int64 count)
{
	if ((uint64_t) count != b->s.count)
		ereport(
			ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid %s", b->format->name),
			errdetail("The count is " INT64_FORMAT ", but the buckets hold " INT64_FORMAT ".",
					  count, (int64) b->s.count),
			errhint("The buckets have to be complete; a histogram that observed NaN or infinite "
					"values cannot become a sketch."));
}

/* ---- reading jsonb ---- */

/* False when there is no such field, or null, which means the same in protobuf's JSON. */
static bool
get_field(JsonbContainer *object, const char *name, JsonbValue *v)
{
	return getKeyJsonValueFromContainer(object, name, (int) strlen(name), v) && v->type != jbvNull;
}

/* A number as text, NUL-terminated; NULL for anything but a number or a string. */
static char *
number_text(const JsonbValue *v)
{
	if (v->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
	if (v->type == jbvString && v->val.string.len > 0 &&
		!isspace((unsigned char) *v->val.string.val))
		return pnstrdup(v->val.string.val, v->val.string.len);
	return NULL;
}

/* An integer in a JSON number or string; zeroes may follow a decimal point. */
static int64
integer_value(const MonHistogramFormat *f, const char *name, const JsonbValue *v, int64 min,
			  int64 max)
{
	char *text = number_text(v);
	bool integer = false;
	long long n = 0;

	errno = 0;
	if (text && (isdigit((unsigned char) *text) || *text == '-'))
	{
		char *end;

		n = strtoll(text, &end, 10);
		if (end != text && *end == '.')
			end += 1 + strspn(end + 1, "0");
		integer = end != text && *end == '\0';
	}
	if (!integer)
		mon_invalid_histogram(f, psprintf("The field \"%s\" is not an integer.", name));
	if (errno == ERANGE || n < min || n > max)
		mon_histogram_out_of_range(f,
								   psprintf("The field \"%s\" is not in the range " INT64_FORMAT
											" to " INT64_FORMAT ".",
											name, min, max));
	pfree(text);
	return n;
}

static int64
get_integer(const MonHistogramFormat *f, JsonbContainer *object, const char *name, int64 min,
			int64 max)
{
	JsonbValue v;

	return get_field(object, name, &v) ? integer_value(f, name, &v, min, max) : 0;
}

/* A double in a JSON number or string; false when there is none. */
static bool
get_double(const MonHistogramFormat *f, JsonbContainer *object, const char *name, double *value)
{
	JsonbValue v;
	char *text;
	char *end;

	if (!get_field(object, name, &v))
		return false;
	text = number_text(&v);
	*value = text ? strtod(text, &end) : 0;
	if (!text || end == text || *end != '\0' || strpbrk(text, "xX("))
		mon_invalid_histogram(f, psprintf("The field \"%s\" is not a number.", name));
	pfree(text);
	return true;
}

static bool
get_finite(const MonHistogramFormat *f, JsonbContainer *object, const char *name, double *value)
{
	if (!get_double(f, object, name, value))
		return false;
	if (!expo_is_finite(*value))
		mon_histogram_out_of_range(f, psprintf("The field \"%s\" is not finite.", name));
	return true;
}

static double
get_zero_threshold(const MonHistogramFormat *f, JsonbContainer *object, const char *name)
{
	double threshold = 0;

	if (get_finite(f, object, name, &threshold) && threshold < 0)
		mon_invalid_histogram(f, psprintf("The field \"%s\" is negative.", name));
	return threshold;
}

static JsonbContainer *
root_object(const MonHistogramFormat *f, Jsonb *json)
{
	if (!JB_ROOT_IS_OBJECT(json))
		mon_invalid_histogram(f, "It is not a JSON object.");
	return &json->root;
}

/* The object or NULL when there is none. */
static JsonbContainer *
get_object(const MonHistogramFormat *f, JsonbContainer *object, const char *name)
{
	JsonbValue v;

	if (!get_field(object, name, &v))
		return NULL;
	if (v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
		mon_invalid_histogram(f, psprintf("The field \"%s\" is not an object.", name));
	return v.val.binary.data;
}

/* An array's elements one by one. */
typedef struct Elements
{
	JsonbIterator *it; /* NULL: there is no array */
	uint32 n;
} Elements;

static Elements
get_array(const MonHistogramFormat *f, JsonbContainer *object, const char *name)
{
	Elements e = {NULL, 0};
	JsonbValue v;

	if (!get_field(object, name, &v))
		return e;
	if (v.type != jbvBinary || !JsonContainerIsArray(v.val.binary.data))
		mon_invalid_histogram(f, psprintf("The field \"%s\" is not an array.", name));
	e.n = JsonContainerSize(v.val.binary.data);
	e.it = JsonbIteratorInit(v.val.binary.data);
	(void) JsonbIteratorNext(&e.it, &v, true); /* WJB_BEGIN_ARRAY */
	return e;
}

static bool
next_element(Elements *e, JsonbValue *v)
{
	CHECK_FOR_INTERRUPTS();
	return e->it && JsonbIteratorNext(&e->it, v, true) == WJB_ELEM;
}

/* ---- writing jsonb ---- */

static void
push_key(MonJsonbState *state, const char *key)
{
	JsonbValue v = {.type = jbvString};

	v.val.string.val = unconstify(char *, key);
	v.val.string.len = (int) strlen(key);
	mon_push_jsonb(state, WJB_KEY, &v);
}

static void
push_string(MonJsonbState *state, JsonbIteratorToken token, const char *text)
{
	JsonbValue v = {.type = jbvString};

	v.val.string.val = pstrdup(text);
	v.val.string.len = (int) strlen(text);
	mon_push_jsonb(state, token, &v);
}

static void
push_integer(MonJsonbState *state, JsonbIteratorToken token, int64 n)
{
	JsonbValue v = {.type = jbvNumeric};

	v.val.numeric = int64_to_numeric(n);
	mon_push_jsonb(state, token, &v);
}

/* protobuf's JSON has 64-bit integers as strings: a double could not hold them. */
static void
push_uint64_string(MonJsonbState *state, JsonbIteratorToken token, uint64_t n)
{
	char text[24];

	snprintf(text, sizeof(text), UINT64_FORMAT, (uint64) n);
	push_string(state, token, text);
}

/* The shortest digits that read back as the same double; strings for what JSON has no number. */
static void
push_double(MonJsonbState *state, double value)
{
	JsonbValue v = {.type = jbvNumeric};
	char text[DOUBLE_SHORTEST_DECIMAL_LEN];

	double_to_shortest_decimal_buf(value, text);
	if (!expo_is_finite(value))
	{
		push_string(state, WJB_VALUE, text);
		return;
	}
	v.val.numeric = DatumGetNumeric(DirectFunctionCall3(
		numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	mon_push_jsonb(state, WJB_VALUE, &v);
}

static void
key_integer(MonJsonbState *state, const char *key, int64 n)
{
	push_key(state, key);
	push_integer(state, WJB_VALUE, n);
}

static void
key_double(MonJsonbState *state, const char *key, double value)
{
	push_key(state, key);
	push_double(state, value);
}

static void
key_uint64_string(MonJsonbState *state, const char *key, uint64_t n)
{
	push_key(state, key);
	push_uint64_string(state, WJB_VALUE, n);
}

/* ---- OTLP ---- */

static void
push_otlp_buckets(MonJsonbState *state, const char *key, const ExpoBuckets *b)
{
	if (expo_is_empty(b))
		return;
	push_key(state, key);
	mon_push_jsonb(state, WJB_BEGIN_OBJECT, NULL);
	key_integer(state, "offset", b->lo);
	push_key(state, "bucketCounts");
	mon_push_jsonb(state, WJB_BEGIN_ARRAY, NULL);
	for (int32_t i = b->lo; i <= b->hi; i++)
		push_uint64_string(state, WJB_ELEM, expo_get(b, i));
	mon_push_jsonb(state, WJB_END_ARRAY, NULL);
	mon_push_jsonb(state, WJB_END_OBJECT, NULL);
}

/* to_otlp(sketch) */
Datum
mon_sketch_to_otlp(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);
	MonJsonbState state = {0};

	mon_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	key_uint64_string(&state, "count", s.count);
	key_double(&state, "sum", s.sum);
	key_integer(&state, "scale", s.scale);
	key_uint64_string(&state, "zeroCount", s.zero_count);
	key_integer(&state, "zeroThreshold", 0);
	push_otlp_buckets(&state, "positive", &s.pos);
	push_otlp_buckets(&state, "negative", &s.neg);
	if (s.count > 0)
	{
		key_double(&state, "min", s.min);
		key_double(&state, "max", s.max);
	}
	mon_push_jsonb(&state, WJB_END_OBJECT, NULL);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(state.result));
}

static void
add_otlp_buckets(Builder *b, JsonbContainer *object, const char *key, bool negative)
{
	JsonbContainer *buckets = get_object(b->format, object, key);
	int64 number;
	Elements counts;
	JsonbValue v;

	if (!buckets)
		return;
	number = get_integer(b->format, buckets, "offset", PG_INT32_MIN, PG_INT32_MAX);
	counts = get_array(b->format, buckets, "bucketCounts");
	for (; next_element(&counts, &v); number++)
		add_bucket(b, negative, number,
				   integer_value(b->format, "bucketCounts", &v, 0, PG_INT64_MAX));
}

/* Fields may be missing when they are zero, but what has none of these is something else. */
static void
check_is_otlp(JsonbContainer *object)
{
	JsonbValue v;

	if (!get_field(object, "count", &v) && !get_field(object, "scale", &v) &&
		!get_field(object, "timeUnixNano", &v))
		mon_invalid_histogram(
			&otlp, "It has none of the fields \"count\", \"scale\" and \"timeUnixNano\".");
}

/* from_otlp(jsonb) */
Datum
mon_sketch_from_otlp(PG_FUNCTION_ARGS)
{
	JsonbContainer *object = root_object(&otlp, PG_GETARG_JSONB_P(0));
	Builder b;
	double threshold;
	double sum, min, max;
	bool has_sum, has_min, has_max;

	check_is_otlp(object);
	b = new_builder(&otlp, (int) get_integer(&otlp, object, "scale", EXPO_MIN_SCALE, PG_INT32_MAX));
	threshold = get_zero_threshold(&otlp, object, "zeroThreshold");
	add_values(&b, 0, get_integer(&otlp, object, "zeroCount", 0, PG_INT64_MAX));
	add_otlp_buckets(&b, object, "positive", false);
	add_otlp_buckets(&b, object, "negative", true);
	check_count(&b, get_integer(&otlp, object, "count", 0, PG_INT64_MAX));

	has_sum = get_double(&otlp, object, "sum", &sum);
	has_min = get_finite(&otlp, object, "min", &min);
	has_max = get_finite(&otlp, object, "max", &max);
	set_numbers(&b, has_sum ? &sum : NULL, has_min ? &min : NULL, has_max ? &max : NULL, threshold);
	PG_RETURN_DATUM(mon_sketch_datum(&b.s));
}

/* ---- Prometheus ---- */

/* The first bucket after a gap, or after i, that holds values; past the last one when there is none. */
static int32_t
next_populated(const ExpoBuckets *b, int32_t i)
{
	while (i <= b->hi && expo_get(b, i) == 0)
		i++;
	return i;
}

static int32_t
next_empty(const ExpoBuckets *b, int32_t i)
{
	while (i <= b->hi && expo_get(b, i) > 0)
		i++;
	return i;
}

/* Offsets count from the end of the span before; that of the first is a bucket's number. */
static void
push_spans(MonJsonbState *state, const char *key, const ExpoBuckets *b)
{
	int32_t previous = -PROMETHEUS_SHIFT;

	push_key(state, key);
	mon_push_jsonb(state, WJB_BEGIN_ARRAY, NULL);
	for (int32_t i = next_populated(b, b->lo); i <= b->hi; i = next_populated(b, previous))
	{
		int32_t end = next_empty(b, i);

		mon_push_jsonb(state, WJB_BEGIN_OBJECT, NULL);
		key_integer(state, "offset", (int64) i - previous);
		key_integer(state, "length", (int64) end - i);
		mon_push_jsonb(state, WJB_END_OBJECT, NULL);
		previous = end;
	}
	mon_push_jsonb(state, WJB_END_ARRAY, NULL);
}

static void
push_deltas(MonJsonbState *state, const char *key, const ExpoBuckets *b)
{
	int64 previous = 0;

	push_key(state, key);
	mon_push_jsonb(state, WJB_BEGIN_ARRAY, NULL);
	for (int32_t i = b->lo; i <= b->hi; i++)
	{
		int64 count = (int64) expo_get(b, i);

		if (count == 0)
			continue;
		push_integer(state, WJB_ELEM, count - previous);
		previous = count;
	}
	mon_push_jsonb(state, WJB_END_ARRAY, NULL);
}

/* to_prometheus(sketch) */
Datum
mon_sketch_to_prometheus(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);
	MonJsonbState state = {0};

	if (s.scale < MIN_SCHEMA)
		ereport(ERROR, errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				errmsg("a sketch of scale %d cannot become a %s", s.scale, prometheus.name),
				errdetail("The lowest schema of Prometheus is %d.", MIN_SCHEMA),
				errhint("Use monitoring.to_otlp(), which has no such limit."));
	mon_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	key_integer(&state, "schema", s.scale);
	key_double(&state, "zero_threshold", 0);
	key_integer(&state, "zero_count", (int64) s.zero_count);
	key_integer(&state, "count", (int64) s.count);
	key_double(&state, "sum", s.sum);
	push_spans(&state, "positive_spans", &s.pos);
	push_deltas(&state, "positive_deltas", &s.pos);
	push_spans(&state, "negative_spans", &s.neg);
	push_deltas(&state, "negative_deltas", &s.neg);
	mon_push_jsonb(&state, WJB_END_OBJECT, NULL);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(state.result));
}

typedef struct Span
{
	int64 offset, length;
} Span;

static bool
next_span(const MonHistogramFormat *f, Elements *spans, bool first, Span *span)
{
	JsonbValue v;

	if (!next_element(spans, &v))
		return false;
	if (v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
		mon_invalid_histogram(f, "A span is not an object with an offset and a length.");
	span->offset = get_integer(f, v.val.binary.data, "offset", first ? PG_INT32_MIN : 0,
							   PG_INT32_MAX);
	span->length = get_integer(f, v.val.binary.data, "length", 0, PG_UINT32_MAX);
	return true;
}

/* The next bucket's count; deltas is known to have another element. */
static int64
next_count(const MonHistogramFormat *f, Elements *deltas, int64 count)
{
	JsonbValue v;
	int64 delta;

	(void) next_element(deltas, &v);
	delta = integer_value(f, "deltas", &v, -PG_INT64_MAX, PG_INT64_MAX);
	if (pg_add_s64_overflow(count, delta, &count))
		mon_histogram_out_of_range(f, "The deltas add up to more than 2^63 - 1.");
	if (count < 0)
		mon_invalid_histogram(f, "The deltas add up to a negative count.");
	return count;
}

static void
add_spans(Builder *b, JsonbContainer *object, const char *spans_key, const char *deltas_key,
		  bool negative)
{
	Elements spans = get_array(b->format, object, spans_key);
	Elements deltas = get_array(b->format, object, deltas_key);
	int64 left = deltas.n;
	int64 number = -PROMETHEUS_SHIFT;
	int64 count = 0;
	Span span;

	for (bool first = true; next_span(b->format, &spans, first, &span); first = false)
	{
		left -= span.length;
		if (left < 0)
			break;
		number += span.offset;
		for (; span.length > 0; span.length--, number++)
		{
			count = next_count(b->format, &deltas, count);
			add_bucket(b, negative, number, count);
		}
	}
	if (left != 0)
		mon_invalid_histogram(
			b->format,
			psprintf("The lengths of \"%s\" do not add up to the number of \"%s\".", spans_key,
					 deltas_key));
}

static int
get_schema(JsonbContainer *object)
{
	JsonbValue v;
	int64 schema;

	if (!get_field(object, "schema", &v))
		mon_invalid_histogram(&prometheus, "It has no field \"schema\".");
	schema = integer_value(&prometheus, "schema", &v, PG_INT32_MIN, PG_INT32_MAX);
	if (schema < MIN_SCHEMA || schema > MAX_SCHEMA)
		ereport(ERROR, errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				errmsg("schema " INT64_FORMAT " of a %s is not supported", schema, prometheus.name),
				errdetail("Exponential buckets have a schema of %d to %d.", MIN_SCHEMA, MAX_SCHEMA),
				errhint("For custom buckets (schema -53) use monitoring.from_buckets()."));
	return (int) schema;
}

/* from_prometheus(jsonb) */
Datum
mon_sketch_from_prometheus(PG_FUNCTION_ARGS)
{
	JsonbContainer *object = root_object(&prometheus, PG_GETARG_JSONB_P(0));
	Builder b = new_builder(&prometheus, get_schema(object));
	double sum;
	bool has_sum;

	(void) get_zero_threshold(&prometheus, object, "zero_threshold");
	add_values(&b, 0, get_integer(&prometheus, object, "zero_count", 0, PG_INT64_MAX));
	add_spans(&b, object, "positive_spans", "positive_deltas", false);
	add_spans(&b, object, "negative_spans", "negative_deltas", true);
	check_count(&b, get_integer(&prometheus, object, "count", 0, PG_INT64_MAX));
	has_sum = get_double(&prometheus, object, "sum", &sum);
	set_numbers(&b, has_sum ? &sum : NULL, NULL, NULL, 0);
	PG_RETURN_DATUM(mon_sketch_datum(&b.s));
}
