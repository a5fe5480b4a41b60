/*-------------------------------------------------------------------------
 *
 * expo_internal.h
 *	  What the plain C files of the sketch share, and the codec of chunks with them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EXPO_INTERNAL_H
#define EXPO_INTERNAL_H

#include <string.h>

#include "expo_sketch.h"

#define EXPO_LIKELY(x) __builtin_expect((x) != 0, 1)
#define EXPO_UNLIKELY(x) __builtin_expect((x) != 0, 0)

#define EXPO_MANTISSA ((UINT64_C(1) << 52) - 1)
#define EXPO_SIGN (UINT64_C(1) << 63)
#define EXPO_INF_BITS UINT64_C(0x7FF0000000000000)

/* Counters of the smallest block: one octave at the default scale. */
#define EXPO_MIN_CAP 64

/* The tables of expo_table.h, defined in expo_index.c. */
extern const uint64_t expo_boundary[258] __attribute__((visibility("hidden")));
extern const uint16_t expo_linear[512] __attribute__((visibility("hidden")));

static inline uint64_t
expo_bits(double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof(bits));
	return bits;
}

static inline double
expo_from_bits(uint64_t bits)
{
	double v;

	memcpy(&v, &bits, sizeof(v));
	return v;
}

static inline bool
expo_is_finite(double v)
{
	return (expo_bits(v) & ~EXPO_SIGN) < EXPO_INF_BITS;
}

/* Where a mantissa lies among the 256 steps of its octave: -1 for an exact power of two. */
static inline int32_t
expo_step(uint64_t bits)
{
	uint32_t k = expo_linear[(bits >> 43) & 511];

	return (int32_t) (k + ((bits & EXPO_MANTISSA) >= expo_boundary[k + 1])) - 1;
}

/* Index at scale 8 of a positive normal double. */
static inline int32_t
expo_index8(uint64_t bits)
{
	return ((int32_t) (bits >> 52) - 1023) * 256 + expo_step(bits);
}

static inline bool
expo_is_empty(const ExpoBuckets *b)
{
	return b->lo > b->hi;
}

static inline uint64_t
expo_get(const ExpoBuckets *b, int32_t index)
{
	int32_t at = index - b->first;

	return b->width == 4 ? ((const uint32_t *) b->counts)[at] : ((const uint64_t *) b->counts)[at];
}

/* Values in all buckets of a sign. */
static inline uint64_t
expo_total(const ExpoBuckets *b)
{
	uint64_t total = 0;

	for (int32_t i = b->lo; i <= b->hi; i++)
		total += expo_get(b, i);
	return total;
}

/* ---- expo_sketch.c ---- */

/*
 * Before n more values go into the signs asked for: have a block for each, with
 * counters wide enough.  The only step that can fail, and it changes no content.
 */
extern bool expo_prepare(ExpoSketch *s, uint64_t n, bool pos, bool neg, const ExpoAllocator *a);

/*
 * Make room for the buckets lo..hi (indexes at the scale at entry) beside those
 * populated, and count them as populated.  Slides, grows or, when a larger block
 * is refused or the span passes EXPO_MAX_BUCKETS, lowers s->scale.
 */
extern void expo_fit(ExpoSketch *s, ExpoBuckets *b, int32_t lo, int32_t hi, const ExpoAllocator *a);

/*
 * The first block of a sign that will hold lo..hi (indexes at s->scale, spanning
 * at most EXPO_MAX_BUCKETS), all counters zero; both ends count as populated.  May
 * lower s->scale as expo_fit(); false when not even the smallest block was given.
 */
extern bool expo_begin(ExpoSketch *s, ExpoBuckets *b, int32_t lo, int32_t hi, bool wide,
					   const ExpoAllocator *a);

#endif /* EXPO_INTERNAL_H */
