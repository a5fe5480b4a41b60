/*-------------------------------------------------------------------------
 *
 * expo_sketch.h
 *	  Base-2 exponential histogram in plain C: no server headers, so that it
 *	  is unit-tested and fuzzed without a server.
 *
 * Bucket i of scale s holds values in (2^(i/2^s), 2^((i+1)/2^s)] (the index of
 * OpenTelemetry's exponential histogram; exact powers of two belong to the
 * bucket they close).  Negative values are mirrored.  Memory comes from the
 * caller's allocator, which may refuse (return NULL): the sketch then halves
 * its resolution instead of failing, and says so in its error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EXPO_SKETCH_H
#define EXPO_SKETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPO_MAX_SCALE 8
#define EXPO_MIN_SCALE (-10)
#define EXPO_DEFAULT_SCALE 6
#define EXPO_MAX_BUCKETS 4096                 /* span of one sign before down-scaling */
#define EXPO_MAX_COUNT ((uint64_t) INT64_MAX) /* values of a sketch */

typedef struct ExpoAllocator
{
	/* size rounded up into *actual, a multiple of 8; NULL when refused */
	void *(*alloc)(void *ctx, size_t size, size_t *actual);
	void (*free)(void *ctx, void *ptr, size_t actual);
	void *ctx;
} ExpoAllocator;

/* Dense counters of one sign: counts[k] is bucket index `first + k`. */
typedef struct ExpoBuckets
{
	int32_t first;  /* index of counts[0] */
	int32_t lo, hi; /* lowest and highest populated index; lo > hi when empty */
	int32_t cap;    /* counters allocated */
	uint8_t width;  /* bytes of a counter: 4 or 8 */
	void *counts;
} ExpoBuckets;

typedef struct ExpoSketch
{
	int8_t scale;
	uint64_t count; /* all values, zeroes included */
	uint64_t zero_count;
	double sum, min, max; /* min > max when empty */
	ExpoBuckets pos, neg;
} ExpoSketch;

extern void expo_init(ExpoSketch *s, int scale);
extern void expo_free(ExpoSketch *s, const ExpoAllocator *a);

/* Bucket index of a finite v > 0 at the scale (-10..8); exact, integer arithmetic only. */
extern int32_t expo_index(double v, int scale);
/* Lower bound of a bucket: 2^(index/2^scale), 0 on underflow, DBL_MAX on overflow. */
extern double expo_bound(int32_t index, int scale);
/* The value whose relative error is the same at both ends of the bucket: 2*lo*hi/(lo+hi). */
extern double expo_representative(int32_t index, int scale);

/*
 * Record v `n` times.  Returns false, leaving s unchanged, only when not even
 * one block of counters could be had; also for a v that is not finite and when
 * the count would pass EXPO_MAX_COUNT.
 */
extern bool expo_add(ExpoSketch *s, double v, uint64_t n, const ExpoAllocator *a);
/* The same for an array of values, the fast path of batches; returns how many were taken. */
extern size_t expo_add_many(ExpoSketch *s, const double *v, size_t n, const ExpoAllocator *a);
extern bool expo_merge(ExpoSketch *dst, const ExpoSketch *src, const ExpoAllocator *a);
extern bool expo_copy(ExpoSketch *dst, const ExpoSketch *src, const ExpoAllocator *a);
extern void expo_downscale(ExpoSketch *s, int scale);

/*
 * Value of rank ceil(q*count) (percentile_disc), as 2*lo*hi/(lo+hi) of its
 * bucket clamped to [min, max].  NaN when the sketch is empty.
 */
extern uint64_t expo_rank(const ExpoSketch *s, double q);
extern double expo_quantile(const ExpoSketch *s, double q);
/* The same for many q in any order, in one pass. */
extern void expo_quantiles(const ExpoSketch *s, const double *q, size_t n, double *out);
/*
 * How many values are <= x: exactly for an x outside [min, max), for 0 and for
 * an upper bound of a positive bucket, else as if all values of the bucket that
 * holds x were its representative.
 */
extern uint64_t expo_count_below(const ExpoSketch *s, double x);
/*
 * Standard deviation of the population, NaN when empty.  It is off by at most
 * expo_max_relative_error() times the root mean square of the values, since it
 * is a norm of their differences.
 */
extern double expo_stddev(const ExpoSketch *s);
/* Guaranteed relative error of the sketch's percentiles: (base-1)/(base+1) in the normal range. */
extern double expo_max_relative_error(const ExpoSketch *s);

/*
 * Serialised form: version and mode byte, scale, varint counts, sum/min/max
 * (exact), then buckets of each sign as tokens varint((count-1)<<1|gap)[gap]
 * or, when smaller, Rice-coded sorted indexes.  Equal contents give equal bytes.
 */
extern size_t expo_encoded_bound(const ExpoSketch *s);
extern size_t expo_encode(const ExpoSketch *s, uint8_t *buf);
/*
 * Decode into an initialised empty sketch.  Any byte string is safe input.
 * Returns 0, or one of EXPO_ERR_*.  *used is the number of bytes consumed.
 */
#define EXPO_OK 0
#define EXPO_ERR_CORRUPT 1
#define EXPO_ERR_MEMORY 2
#define EXPO_ERR_RANGE 3 /* more than EXPO_MAX_COUNT values */
extern int expo_decode(ExpoSketch *s, const uint8_t *buf, size_t len, size_t *used,
					   const ExpoAllocator *a);
/*
 * Merge an encoded sketch into dst without building the intermediate one.  After
 * EXPO_ERR_CORRUPT dst may hold a part of it and is good for expo_free() only.
 */
extern int expo_merge_encoded(ExpoSketch *dst, const uint8_t *buf, size_t len, size_t *used,
							  const ExpoAllocator *a);

#endif /* EXPO_SKETCH_H */
