/*-------------------------------------------------------------------------
 *
 * chunk_codec_sketches.c
 *	  The buckets of a distribution's points.
 *
 *	  1 bit		columns follow: some scale is not the default, or there are
 *				zeroes or negative values
 *	  columns	scale, number of negative values, number of zeroes
 *	  buckets	of each point: of the positive, then of the negative values
 *
 * Where the buckets begin and end follows from min and max, and is stored (12
 * bits of span) only for the end next to zero of values that have it inside.
 * Nothing more is needed for a single bucket; else follow two bits of mode and:
 *
 * values	codes of each value's index less the one before, without the first and
 *			the last value.  k follows from how dense this part of the axis was in
 *			the points before, so that it suits the peak as well as the tails.
 * pairs	for each populated bucket but the last the code of its count and the
 *			code of the empty buckets behind it
 * dense	for each bucket but the last the code of its count
 *
 * A count is written as its difference from a moving average; its k and the one
 * of the gaps follow a moving average of the numbers written.  All in integer
 * arithmetic: reader and writer come to the same on every machine.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/chunk_codec_internal.h"

#include <float.h>
#include <math.h>

typedef enum Mode
{
	MODE_VALUES,
	MODE_PAIRS,
	MODE_DENSE,
	NMODES
} Mode;

#define SPAN_BITS 12 /* of EXPO_MAX_BUCKETS - 1 */

/* More values than this are shorter as pairs, and products with their number stay small. */
#define MAX_VALUES 65535

/* ---- how dense the points before were ---- */

#define CELL_BITS 4 /* buckets of a cell: a quarter of an octave */
#define CELLS 512   /* of the axis modulo; the cells of a sketch do not meet */
#define SPAN_CELLS (EXPO_MAX_BUCKETS / (1 << CELL_BITS) + 1)

typedef struct History
{
	uint32_t cells[CELLS]; /* values of points in MODE_VALUES */
	uint64_t total;
} History;

/* An expectation before there is a history: that many values, spread evenly. */
#define PRIOR_VALUES 4

/* The best k for the gaps of n values in a cell whose share of the history is known. */
static inline int
gap_k(uint64_t values, uint64_t total, uint64_t n, uint64_t span)
{
	/* floor(log2(mean + 1/2)) is the best k for gaps with a geometric distribution */
	uint64_t mean = ((total + PRIOR_VALUES) * span) << (CELL_BITS + 1);
	uint64_t per = n *
		(values * span + (PRIOR_VALUES << CELL_BITS)); /* n <= MAX_VALUES: no overflow */
	int k;

	mean += per;
	per <<= 1;
	if (mean < per)
		return 0;
	k = expo_log2_floor(mean) - expo_log2_floor(per);
	k -= mean < per << k;
	return k < SPAN_BITS ? k : SPAN_BITS;
}

/* k of each cell of lo..hi */
static void
gap_ks(const History *h, int32_t lo, int32_t hi, uint64_t n, uint8_t *ks)
{
	int32_t first = lo >> CELL_BITS;
	uint64_t span = (uint64_t) (hi - lo) + 1;

	for (int32_t cell = first; cell <= hi >> CELL_BITS; cell++)
		ks[cell - first] = (uint8_t) gap_k(h->cells[(uint32_t) cell % CELLS], h->total, n, span);
}

/* ---- moving averages ---- */

/*
 * Times 16; those that set a k times 16 ln 2, about 11, so that k is a mere
 * logarithm: the best one for numbers with a geometric distribution of that mean.
 */
typedef struct Averages
{
	int64_t gap;   /* empty buckets between two */
	int64_t count; /* of a bucket */
	int64_t rest;  /* what is written of a count */
} Averages;

#define COUNT_UNIT 16
#define K_UNIT 11

/* What goes into an average is limited, and k with it to less than CODE_MAX_K. */
#define AVERAGE_LIMIT (UINT64_C(1) << 31)

static Averages
first_averages(uint64_t n, uint64_t span)
{
	uint64_t gap = span / (n < span ? n : span);
	uint64_t count = n / span;
	Averages a;

	if (count > AVERAGE_LIMIT)
		count = AVERAGE_LIMIT;
	a.gap = (int64_t) gap * K_UNIT;
	a.count = (int64_t) count * COUNT_UNIT;
	a.rest = (int64_t) count * K_UNIT;
	return a;
}

static inline void
adapt(int64_t *average, uint64_t v, int unit)
{
	if (EXPO_UNLIKELY(v > AVERAGE_LIMIT))
		v = AVERAGE_LIMIT;
	*average += ((int64_t) v * unit - *average) >> 2;
}

static inline int
average_k(int64_t average)
{
	return expo_log2_floor((uint64_t) average | 16) - 4;
}

/* Numbers next to the expected one come first, above and below in turn. */
static inline uint64_t
fold_count(uint64_t v, uint64_t expected)
{
	return v < 2 * expected ? expo_zigzag((int64_t) (v - expected)) : v;
}

static inline uint64_t
unfold_count(uint64_t v, uint64_t expected)
{
	return v < 2 * expected ? expected + (uint64_t) expo_unzigzag(v) : v;
}

/* The count to expect, less the lowest possible. */
static inline uint64_t
expected_count(const Averages *a, uint64_t lowest)
{
	uint64_t count = (uint64_t) (a->count + 8) >> 4;

	return count > lowest ? count - lowest : 0;
}

/* ---- encoding ---- */

/* The populated buckets of one sign. */
typedef struct Source
{
	uint64_t n; /* values */
	int32_t lo, hi;
	int npopulated;
	int32_t index[EXPO_MAX_BUCKETS];
	uint64_t count[EXPO_MAX_BUCKETS];
	uint8_t ks[SPAN_CELLS];
} Source;

static void
fill_source(Source *src, const ExpoBuckets *b, uint64_t n)
{
	int npopulated = 0;

	for (int32_t i = b->lo; i <= b->hi; i++)
	{
		uint64_t count = expo_get(b, i);

		src->index[npopulated] = i;
		src->count[npopulated] = count;
		npopulated += count != 0;
	}
	src->n = n;
	src->lo = b->lo;
	src->hi = b->hi;
	src->npopulated = npopulated;
}

static void
put_values(ChunkWriter *out, const Source *src)
{
	int32_t first = src->lo >> CELL_BITS;
	int last = src->npopulated - 1;

	for (int i = 0; i <= last; i++)
	{
		uint64_t repeats = src->count[i] - 1;
		int k = src->ks[(src->index[i] >> CELL_BITS) - first];

		if (i > 0 && (i < last || repeats > 0))
			chunk_put_code(out, (uint64_t) (src->index[i] - src->index[i - 1]),
						   src->ks[(src->index[i - 1] >> CELL_BITS) - first]);
		/* the last value is not written, nor is the first */
		for (repeats -= i == last && repeats > 0; repeats > 0; repeats--)
			chunk_put_code(out, 0, k);
	}
}

static void
put_count(ChunkWriter *out, Averages *a, uint64_t count, uint64_t lowest)
{
	uint64_t v = fold_count(count - lowest, expected_count(a, lowest));

	chunk_put_code(out, v, average_k(a->rest));
	adapt(&a->count, count, COUNT_UNIT);
	adapt(&a->rest, v, K_UNIT);
}

static void
put_pairs(ChunkWriter *out, const Source *src)
{
	Averages a = first_averages(src->n, (uint64_t) (src->hi - src->lo) + 1);

	for (int i = 0; i < src->npopulated - 1; i++)
	{
		uint64_t gap = (uint64_t) (src->index[i + 1] - src->index[i] - 1);

		put_count(out, &a, src->count[i], 1);
		chunk_put_code(out, gap, average_k(a.gap));
		adapt(&a.gap, gap, K_UNIT);
	}
}

static void
put_dense(ChunkWriter *out, const Source *src)
{
	Averages a = first_averages(src->n, (uint64_t) (src->hi - src->lo) + 1);

	for (int i = 0; i < src->npopulated - 1; i++)
	{
		put_count(out, &a, src->count[i], 0);
		for (int32_t gap = src->index[i + 1] - src->index[i] - 1; gap > 0; gap--)
			put_count(out, &a, 0, 0);
	}
}

static void
put_mode(ChunkWriter *out, const Source *src, Mode mode)
{
	chunk_put(out, mode, 2);
	if (mode == MODE_VALUES)
		put_values(out, src);
	else if (mode == MODE_PAIRS)
		put_pairs(out, src);
	else
		put_dense(out, src);
}

/* Of the modes that stand a chance the shortest. */
static Mode
choose_mode(const Source *src)
{
	uint64_t npopulated = (uint64_t) src->npopulated;
	bool worth[NMODES];
	Mode best = MODE_VALUES;
	uint64_t best_bits = UINT64_MAX;

	worth[MODE_VALUES] = src->n <= MAX_VALUES && src->n < 16 * npopulated + 64;
	worth[MODE_PAIRS] = !worth[MODE_VALUES] || 2 * npopulated < src->n;
	worth[MODE_DENSE] = (uint64_t) (src->hi - src->lo) < src->n;
	if (!worth[MODE_PAIRS] && !worth[MODE_DENSE])
		return MODE_VALUES;
	for (Mode mode = MODE_VALUES; mode < NMODES; mode++)
	{
		ChunkWriter counting = {{NULL, 0, 0}, 0};

		if (!worth[mode])
			continue;
		put_mode(&counting, src, mode);
		if (counting.total < best_bits)
		{
			best = mode;
			best_bits = counting.total;
		}
	}
	return best;
}

static void
remember(History *h, const Source *src)
{
	for (int i = 0; i < src->npopulated; i++)
		h->cells[(uint32_t) (src->index[i] >> CELL_BITS) % CELLS] += (uint32_t) src->count[i];
	h->total += src->n;
}

static void
put_buckets(ChunkWriter *out, History *h, const ExpoBuckets *b, uint64_t n)
{
	Source src;
	Mode mode;

	if (n == 0 || b->lo == b->hi)
		return;
	fill_source(&src, b, n);
	if (n <= MAX_VALUES)
		gap_ks(h, b->lo, b->hi, n, src.ks);
	mode = choose_mode(&src);
	put_mode(out, &src, mode);
	if (mode == MODE_VALUES)
		remember(h, &src);
}

/* Numbers of values, and what is not told by min and max. */
typedef struct Shape
{
	int scale;
	uint64_t pos, neg, zero;
} Shape;

static void
put_shapes(ChunkWriter *out, const Shape *shapes, int n)
{
	uint64_t column[3][CHUNK_MAX_UNITS];
	bool plain = true;

	for (int i = 0; i < n; i++)
	{
		column[0][i] = (uint64_t) shapes[i].scale;
		column[1][i] = shapes[i].neg;
		column[2][i] = shapes[i].zero;
		plain &= shapes[i].scale == EXPO_DEFAULT_SCALE && shapes[i].neg == 0 && shapes[i].zero == 0;
	}
	chunk_put(out, !plain, 1);
	for (int c = 0; c < 3 && !plain; c++)
		chunk_put_column(out, column[c], n, GUESS_NONE, NULL);
}

void
chunk_put_sketches(ChunkWriter *out, const ChunkPoint *points, int n)
{
	Shape shapes[CHUNK_MAX_UNITS];
	History pos = {{0}, 0};
	History neg = {{0}, 0};

	for (int i = 0; i < n; i++)
	{
		const ExpoSketch *s = &points[i].sketch;

		shapes[i].scale = s->scale;
		shapes[i].neg = expo_total(&s->neg);
		shapes[i].zero = s->zero_count;
		shapes[i].pos = s->count - s->zero_count - shapes[i].neg;
	}
	put_shapes(out, shapes, n);
	for (int i = 0; i < n; i++)
	{
		const Shape *shape = &shapes[i];
		const ExpoSketch *s = &points[i].sketch;

		if (shape->pos > 0 && (shape->neg > 0 || shape->zero > 0))
			chunk_put(out, (uint64_t) (s->pos.hi - s->pos.lo), SPAN_BITS);
		if (shape->neg > 0 && (shape->pos > 0 || shape->zero > 0))
			chunk_put(out, (uint64_t) (s->neg.hi - s->neg.lo), SPAN_BITS);
		put_buckets(out, &pos, &s->pos, shape->pos);
		put_buckets(out, &neg, &s->neg, shape->neg);
	}
}

/* A bucket costs at most a code of a count and one of a gap, in any mode that is chosen. */
static size_t
buckets_bound(const ExpoBuckets *b, uint64_t count)
{
	uint64_t span = expo_is_empty(b) ? 0 : (uint64_t) (b->hi - b->lo) + 1;

	return (size_t) (span < count ? span : count) * (2 * CODE_MAX_BITS / 8 + 1) + 2;
}

size_t
chunk_sketches_bound(const ChunkPoint *points, int n)
{
	size_t bound = 1 + 3 * CHUNK_COLUMN_BOUND(n);

	for (int i = 0; i < n; i++)
	{
		const ExpoSketch *s = &points[i].sketch;

		bound += buckets_bound(&s->pos, s->count) + buckets_bound(&s->neg, s->count);
	}
	return bound;
}

/* ---- decoding ---- */

static bool
get_shapes(ExpoBitReader *br, const ChunkPoint *points, Shape *shapes, int n)
{
	uint64_t column[3][CHUNK_MAX_UNITS];
	uint64_t full;

	if (!chunk_get(br, 1, &full))
		return false;
	for (int c = 0; c < 3 && full; c++)
		if (!chunk_get_column(br, column[c], n, GUESS_NONE, NULL))
			return false;
	for (int i = 0; i < n; i++)
	{
		uint64_t count = points[i].count;
		Shape positive = {EXPO_DEFAULT_SCALE, count, 0, 0};

		shapes[i] = positive;
		if (!full)
			continue;
		if ((int64_t) column[0][i] < EXPO_MIN_SCALE || (int64_t) column[0][i] > EXPO_MAX_SCALE ||
			column[1][i] > count || column[2][i] > count - column[1][i])
			return false;
		shapes[i].scale = (int) column[0][i];
		shapes[i].neg = column[1][i];
		shapes[i].zero = column[2][i];
		shapes[i].pos = count - column[1][i] - column[2][i];
	}
	return true;
}

/* Does this number of values of each sign go with min and max? */
static bool
is_shape_of(const Shape *shape, double min, double max)
{
	return (shape->neg > 0        ? min < 0
				: shape->zero > 0 ? min == 0
								  : min > 0) &&
		(shape->pos > 0        ? max > 0
			 : shape->zero > 0 ? max == 0
							   : max < 0);
}

/* Buckets being filled, by indexes at the stored scale. */
typedef struct Target
{
	ExpoBuckets *b;
	History *history;
	uint64_t n;
	int32_t lo, hi;
	int shift; /* to the scale that memory allows */
} Target;

static inline void
add_to_target(Target *t, int32_t index, uint64_t n)
{
	int32_t at = (index >> t->shift) - t->b->first;

	if (EXPO_LIKELY(t->b->width == 4))
		((uint32_t *) t->b->counts)[at] += (uint32_t) n;
	else
		((uint64_t *) t->b->counts)[at] += n;
}

/*
 * The ends of one sign: `outer` is min or max as a magnitude, `inner` the other
 * one when it has the same sign, else 0, and the span is stored.
 */
static bool
get_ends(ExpoBitReader *br, Target *t, int scale, double outer, double inner)
{
	uint64_t span;

	if (t->n == 0)
		return true;
	t->hi = expo_index(outer, scale);
	if (inner > 0)
		t->lo = expo_index(inner, scale);
	else
	{
		if (!chunk_get(br, SPAN_BITS, &span))
			return false;
		t->lo = t->hi - (int32_t) span;
	}
	return t->lo >= expo_index(DBL_TRUE_MIN, scale) && t->hi - t->lo < EXPO_MAX_BUCKETS &&
		(t->lo == t->hi || t->n > 1);
}

static inline void
add_value(Target *t, int32_t index, bool plain)
{
	if (plain)
		((uint32_t *) t->b->counts)[index - t->b->first]++;
	else
		add_to_target(t, index, 1);
	t->history->cells[(uint32_t) (index >> CELL_BITS) % CELLS]++;
}

/* plain: narrow counters at the stored scale; a constant where this is inlined, since it is hot. */
static inline bool
get_values_into(ExpoBitReader *br, Target *t, const uint8_t *ks, bool plain)
{
	int32_t first = t->lo >> CELL_BITS;
	int32_t index = t->lo;

	for (uint64_t left = t->n - 2; left > 0; left--)
	{
		uint64_t gap;

		if (!chunk_get_code(br, ks[(index >> CELL_BITS) - first], &gap) ||
			gap > (uint64_t) (t->hi - index))
			return false;
		index += (int32_t) gap;
		add_value(t, index, plain);
	}
	add_value(t, t->lo, plain);
	add_value(t, t->hi, plain);
	t->history->total += t->n;
	return true;
}

static bool
get_values(ExpoBitReader *br, const Target *target)
{
	uint8_t ks[SPAN_CELLS];
	ExpoBitReader local = *br; /* in registers */
	Target t = *target;
	ExpoBuckets b = *t.b;
	bool good;

	if (t.n > MAX_VALUES)
		return false;
	gap_ks(t.history, t.lo, t.hi, t.n, ks);
	t.b = &b;
	if (b.width == 4 && t.shift == 0)
		good = get_values_into(&local, &t, ks, true);
	else
		good = get_values_into(&local, &t, ks, false);
	*br = local;
	return good;
}

/* At most `limit`. */
static inline bool
get_count(ExpoBitReader *br, Averages *a, uint64_t lowest, uint64_t limit, uint64_t *count)
{
	uint64_t v;

	if (!chunk_get_code(br, average_k(a->rest), &v))
		return false;
	*count = unfold_count(v, expected_count(a, lowest)) + lowest;
	adapt(&a->count, *count, COUNT_UNIT);
	adapt(&a->rest, v, K_UNIT);
	return *count <= limit && *count >= lowest;
}

static bool
get_counts(ExpoBitReader *br, Target *target, bool dense)
{
	ExpoBitReader local = *br; /* in registers */
	Target t = *target;
	Averages a = first_averages(t.n, (uint64_t) (t.hi - t.lo) + 1);
	uint64_t left = t.n;
	int32_t index = t.lo;

	while (index < t.hi)
	{
		uint64_t count;
		uint64_t gap = 0;

		/* the outermost buckets are populated */
		if (!get_count(&local, &a, !dense, left - 1, &count) || (count == 0 && index == t.lo))
			return false;
		add_to_target(&t, index, count);
		left -= count;
		if (!dense)
		{
			if (!chunk_get_code(&local, average_k(a.gap), &gap) || gap >= (uint64_t) (t.hi - index))
				return false;
			adapt(&a.gap, gap, K_UNIT);
		}
		index += 1 + (int32_t) gap;
	}
	add_to_target(&t, t.hi, left);
	*br = local;
	return true;
}

static bool
get_buckets(ExpoBitReader *br, Target *t)
{
	uint64_t mode;

	if (t->n == 0)
		return true;
	if (t->lo == t->hi)
	{
		add_to_target(t, t->lo, t->n);
		return true;
	}
	return chunk_get(br, 2, &mode) && mode < NMODES &&
		(mode == MODE_VALUES ? get_values(br, t) : get_counts(br, t, mode == MODE_DENSE));
}

/* Blocks for both signs, before anything is counted: either may lower the scale. */
static bool
begin(ExpoSketch *s, Target *pos, Target *neg, int scale, const ExpoAllocator *alloc)
{
	bool wide = s->count > UINT32_MAX;

	if (pos->n > 0 && !expo_begin(s, pos->b, pos->lo, pos->hi, wide, alloc))
		return false;
	if (neg->n > 0 &&
		!expo_begin(s, neg->b, neg->lo >> (scale - s->scale), neg->hi >> (scale - s->scale), wide,
					alloc))
		return false;
	pos->shift = neg->shift = scale - s->scale;
	return true;
}

static int
get_sketch(ExpoBitReader *br, ChunkPoint *point, const Shape *shape, History *histories,
		   const ExpoAllocator *alloc)
{
	ExpoSketch *s = &point->sketch;
	Target pos = {&s->pos, &histories[0], shape->pos, 0, 0, 0};
	Target neg = {&s->neg, &histories[1], shape->neg, 0, 0, 0};

	expo_init(s, shape->scale);
	if (!is_shape_of(shape, point->min, point->max) ||
		!get_ends(br, &pos, shape->scale, point->max, point->min) ||
		!get_ends(br, &neg, shape->scale, -point->min, -point->max))
		return EXPO_ERR_CORRUPT;
	s->count = point->count;
	if (!begin(s, &pos, &neg, shape->scale, alloc))
		return EXPO_ERR_MEMORY;
	if (!get_buckets(br, &pos) || !get_buckets(br, &neg))
		return EXPO_ERR_CORRUPT;
	s->zero_count = shape->zero;
	s->sum = point->sum;
	s->min = point->min;
	s->max = point->max;
	return EXPO_OK;
}

int
chunk_get_sketches(ExpoBitReader *br, ChunkPoint *points, int n, const ExpoAllocator *alloc)
{
	Shape shapes[CHUNK_MAX_UNITS];
	History histories[2] = {{{0}, 0}, {{0}, 0}};

	if (!get_shapes(br, points, shapes, n))
		return EXPO_ERR_CORRUPT;
	for (int i = 0; i < n; i++)
	{
		int rc = get_sketch(br, &points[i], &shapes[i], histories, alloc);

		if (rc != EXPO_OK)
		{
			expo_free(&points[i].sketch, alloc);
			return rc;
		}
	}
	return EXPO_OK;
}
