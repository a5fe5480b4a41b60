/*-------------------------------------------------------------------------
 *
 * classic_histogram.c
 *	  Sketches from histograms with explicit bounds.
 *
 * Such a histogram knows of a value only between which two bounds it lies.
 * Each bucket becomes one value, which stands for all of it: between bounds of
 * one sign that with the same relative error at both ends, 2*lo*hi/(lo+hi);
 * where a bound is zero or of the other sign the middle, which halves the
 * absolute error; where there is no bound the only one there is.
 *
 *-------------------------------------------------------------------------
 */
#include "sketch/sketch.h"

#include <math.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"

#include "sketch/expo_internal.h"
#include "sketch/histogram.h"
#include "sketch/sketch_internal.h"

PG_FUNCTION_INFO_V1(mon_sketch_from_buckets);
PG_FUNCTION_INFO_V1(mon_sketch_from_cumulative_buckets);
PG_FUNCTION_INFO_V1(mon_buckets_relative_error);
PG_FUNCTION_INFO_V1(mon_buckets_percentile_error);

static const MonHistogramFormat classic = {
	"classic histogram",
	"Give ascending bounds and the number of values up to each, with one more for those above the "
	"last, such as '{0.1, 0.5, 1}' and '{7, 12, 3, 0}'."};

static const MonHistogramFormat cumulative = {
	"cumulative histogram",
	"Give ascending bounds that end with Infinity and the number of values up to each of them, "
	"such as '{0.1, 0.5, 1, Infinity}' and '{7, 19, 22, 22}'."};

typedef struct Classic
{
	const MonHistogramFormat *format;
	const double *bounds; /* nbounds of them, finite and ascending */
	int nbounds;
	const int64 *counts; /* one more than bounds; not cumulative */
} Classic;

static void *
array_elements(const MonHistogramFormat *f, ArrayType *array, const char *name, int *n)
{
	if (ARR_NDIM(array) > 1)
		mon_invalid_histogram(f, psprintf("The %s are an array of more than one dimension.", name));
	if (array_contains_nulls(array))
		mon_invalid_histogram(f, psprintf("The %s contain NULL.", name));
	*n = ARR_NDIM(array) == 0 ? 0 : ARR_DIMS(array)[0];
	return ARR_DATA_PTR(array);
}

static void
check_bounds(const Classic *c)
{
	if (c->nbounds == 0)
		mon_invalid_histogram(c->format,
							  "There is no finite bound, so nothing is known of any value.");
	for (int i = 0; i < c->nbounds; i++)
	{
		if (!expo_is_finite(c->bounds[i]))
			mon_invalid_histogram(c->format, "A bound is not finite.");
		if (i > 0 && c->bounds[i] <= c->bounds[i - 1])
			mon_invalid_histogram(c->format, "The bounds do not ascend.");
	}
}

static void
check_number_of_counts(const MonHistogramFormat *f, int ncounts, int expected)
{
	if (ncounts != expected)
		mon_invalid_histogram(f,
							  psprintf("The number of counts is %d, not %d.", ncounts, expected));
}

static void
check_counts(const Classic *c)
{
	for (int i = 0; i <= c->nbounds; i++)
		if (c->counts[i] < 0)
			mon_invalid_histogram(c->format, "A count is negative.");
}

static Classic
get_bounds(FunctionCallInfo fcinfo)
{
	Classic c = {.format = &classic};

	c.bounds = array_elements(&classic, PG_GETARG_ARRAYTYPE_P(0), "bounds", &c.nbounds);
	check_bounds(&c);
	return c;
}

static Classic
get_classic(FunctionCallInfo fcinfo)
{
	Classic c = get_bounds(fcinfo);
	int ncounts;

	c.counts = array_elements(&classic, PG_GETARG_ARRAYTYPE_P(1), "counts", &ncounts);
	check_number_of_counts(&classic, ncounts, c.nbounds + 1);
	check_counts(&c);
	return c;
}

/* Each count less the one before. */
static const int64 *
differences(const int64 *sums, int n)
{
	int64 *counts = palloc(sizeof(int64) * n);

	for (int i = 0; i < n; i++)
	{
		if (sums[i] < 0 || (i > 0 && sums[i] < sums[i - 1]))
			mon_invalid_histogram(&cumulative, "The counts do not ascend from zero.");
		counts[i] = i > 0 ? sums[i] - sums[i - 1] : sums[i];
	}
	return counts;
}

static Classic
get_cumulative(FunctionCallInfo fcinfo)
{
	Classic c = {.format = &cumulative};
	int ncounts;
	const int64 *sums;

	c.bounds = array_elements(&cumulative, PG_GETARG_ARRAYTYPE_P(0), "bounds", &c.nbounds);
	sums = array_elements(&cumulative, PG_GETARG_ARRAYTYPE_P(1), "counts", &ncounts);
	check_number_of_counts(&cumulative, ncounts, c.nbounds);
	if (c.nbounds == 0 || c.bounds[c.nbounds - 1] != INFINITY)
		mon_invalid_histogram(&cumulative, "The last bound is not Infinity.");
	c.nbounds--;
	check_bounds(&c);
	c.counts = differences(sums, ncounts);
	return c;
}

/* The bucket (lo, hi] of a classic histogram. */
typedef struct Bounds
{
	double lo, hi;
} Bounds;

/* A first bucket up to a positive bound starts at zero, as histograms of durations and sizes do. */
static Bounds
classic_bucket(const Classic *c, int i)
{
	Bounds b;

	b.hi = i < c->nbounds ? c->bounds[i] : INFINITY;
	b.lo = i > 0 ? c->bounds[i - 1] : b.hi > 0 ? 0 : -INFINITY;
	return b;
}

/* The ratio of the bounds when they have one sign, less than 1; else 0. */
static double
bounds_ratio(Bounds b)
{
	if (b.lo > 0)
		return b.lo / b.hi;
	return b.hi < 0 ? b.hi / b.lo : 0;
}

/* The value that stands for those of a bucket. */
static double
classic_value(Bounds b)
{
	double ratio = bounds_ratio(b);

	if (isinf(b.hi))
		return b.lo;
	if (isinf(b.lo))
		return b.hi;
	if (ratio > 0)
		return (b.lo > 0 ? b.lo : b.hi) / (0.5 + 0.5 * ratio); /* 2*lo*hi/(lo+hi) */
	return b.lo / 2 + b.hi / 2;
}

/* How far that is at most from any value of the bucket, as a ratio of that one. */
static double
classic_error(Bounds b)
{
	double ratio = bounds_ratio(b);

	if (isinf(b.hi))
		return b.lo >= 0 ? 1 : INFINITY;
	if (isinf(b.lo))
		return 1;
	return ratio > 0 ? (1 - ratio) / (1 + ratio) : INFINITY;
}

/* Between bounds of one sign the sketch's error comes on top: of a value up to 1 + error times the true one. */
static double
error_in_sketch(Bounds b, const ExpoSketch *s)
{
	double error = classic_error(b);

	return bounds_ratio(b) > 0 ? (1 + error) * (1 + expo_max_relative_error(s)) - 1 : error;
}

static void
add_values(const Classic *c, ExpoSketch *s, int i, int64 n)
{
	ExpoAllocator alloc = mon_palloc_allocator(CurrentMemoryContext);

	CHECK_FOR_INTERRUPTS();
	if (!expo_add(s, classic_value(classic_bucket(c, i)), (uint64_t) n, &alloc))
		mon_histogram_out_of_range(c->format, "The counts add up to more than 2^63 - 1.");
}

static ExpoSketch
build_classic(const Classic *c)
{
	ExpoSketch s;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	for (int i = 0; i <= c->nbounds; i++)
		add_values(c, &s, i, c->counts[i]);
	return s;
}

static Datum
sketch_of_classic(FunctionCallInfo fcinfo, const Classic *c)
{
	ExpoSketch s = build_classic(c);

	if (!PG_ARGISNULL(2))
	{
		double sum = PG_GETARG_FLOAT8(2);

		if (s.count == 0 && sum != 0)
			mon_invalid_histogram(c->format, "The sum of no values is not zero.");
		s.sum = sum + 0.0;
	}
	return mon_sketch_datum(&s);
}

/* from_buckets(bounds float8[], counts bigint[], sum float8); the sum may be NULL */
Datum
mon_sketch_from_buckets(PG_FUNCTION_ARGS)
{
	Classic c;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	c = get_classic(fcinfo);
	PG_RETURN_DATUM(sketch_of_classic(fcinfo, &c));
}

/* from_cumulative_buckets(bounds float8[], counts bigint[], sum float8); the sum may be NULL */
Datum
mon_sketch_from_cumulative_buckets(PG_FUNCTION_ARGS)
{
	Classic c;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	c = get_cumulative(fcinfo);
	PG_RETURN_DATUM(sketch_of_classic(fcinfo, &c));
}

/* from_buckets_relative_error(bounds float8[]): of the buckets whose two bounds have one sign */
Datum
mon_buckets_relative_error(PG_FUNCTION_ARGS)
{
	Classic c = get_bounds(fcinfo);
	ExpoSketch s;
	double worst = -1;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	for (int i = 0; i <= c.nbounds; i++)
		add_values(&c, &s, i, 1);
	for (int i = 0; i <= c.nbounds; i++)
		if (bounds_ratio(classic_bucket(&c, i)) > 0)
			worst = Max(worst, error_in_sketch(classic_bucket(&c, i), &s));
	if (worst < 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(worst);
}

/* from_buckets_relative_error(bounds float8[], counts bigint[], q float8) */
Datum
mon_buckets_percentile_error(PG_FUNCTION_ARGS)
{
	Classic c = get_classic(fcinfo);
	double q = PG_GETARG_FLOAT8(2);
	ExpoSketch s;
	uint64_t seen = 0;
	int i = 0;

	mon_check_fraction(q);
	s = build_classic(&c);
	if (s.count == 0)
		PG_RETURN_NULL();
	for (; i < c.nbounds; i++)
	{
		seen += (uint64_t) c.counts[i];
		if (seen >= expo_rank(&s, q))
			break;
	}
	PG_RETURN_FLOAT8(error_in_sketch(classic_bucket(&c, i), &s));
}
