/*-------------------------------------------------------------------------
 *
 * expo_sketch.c
 *	  Adding, merging, down-scaling and percentiles.
 *
 * Each sign has one block of counters, dense over a window of indexes.  The
 * block slides and grows with the data.  The scale is the largest at which both
 * signs span at most EXPO_MAX_BUCKETS: it depends on what was added, never on
 * the order, hence merging in any order gives the same buckets.  Only an
 * allocator that refuses memory makes it lower.
 *
 * Counters are four bytes wide as long as the whole count fits in four bytes;
 * so no sum of counters can overflow when buckets are folded.
 *
 * No locks here: who shares a sketch between processes guards it.
 *
 *-------------------------------------------------------------------------
 */
#include "expo_internal.h"

#include <float.h>
#include <math.h>

/* Values handled at once: they stay in the first-level cache between passes. */
#define BATCH 256

/* Quantiles answered per pass over the buckets. */
#define QUANTILES_PER_PASS 32

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

void
expo_init(ExpoSketch *s, int scale)
{
	memset(s, 0, sizeof(*s));
	s->scale = (int8_t) scale;
	s->min = INFINITY;
	s->max = -INFINITY;
	s->pos.lo = s->neg.lo = 1; /* lo > hi: empty */
}

static void
free_block(ExpoBuckets *b, const ExpoAllocator *a)
{
	if (b->counts)
		a->free(a->ctx, b->counts, (size_t) b->cap * b->width);
}

void
expo_free(ExpoSketch *s, const ExpoAllocator *a)
{
	free_block(&s->pos, a);
	free_block(&s->neg, a);
	expo_init(s, s->scale);
}

/* ---- blocks of counters ---- */

static int32_t
span(const ExpoBuckets *b)
{
	return b->hi - b->lo + 1;
}

static void *
counter(const ExpoBuckets *b, int32_t index)
{
	return (char *) b->counts + (ptrdiff_t) (index - b->first) * b->width;
}

/* The window's start that leaves the same slack at both ends of lo..hi. */
static int32_t
centred(int32_t lo, int32_t hi, int32_t cap)
{
	return lo - (cap - (hi - lo + 1)) / 2;
}

/* Move the populated counters inside the block so that its window starts at `first`. */
static void
slide(ExpoBuckets *b, int32_t first)
{
	size_t size = (size_t) span(b) * b->width;
	char *from;
	char *to;

	if (expo_is_empty(b) || first == b->first)
	{
		b->first = first;
		return;
	}
	from = counter(b, b->lo);
	b->first = first;
	to = counter(b, b->lo);
	memmove(to, from, size);
	if (to > from)
		memset(from, 0, MIN((size_t) (to - from), size));
	else
	{
		char *stale = MAX(to + size, from);

		memset(stale, 0, from + size - stale);
	}
}

/* Replace the block by one with room for lo..hi, the populated range included; false if refused. */
static bool
grow(ExpoBuckets *b, int32_t lo, int32_t hi, uint8_t width, const ExpoAllocator *a)
{
	ExpoBuckets old = *b;
	int32_t cap = EXPO_MIN_CAP;
	size_t actual;
	void *counts;

	while (cap < hi - lo + 1)
		cap *= 2;
	counts = a->alloc(a->ctx, (size_t) cap * width, &actual);
	if (!counts)
		return false;

	memset(counts, 0, actual);
	b->counts = counts;
	b->width = width;
	b->cap = (int32_t) (actual / width);
	b->first = centred(lo, hi, b->cap);
	if (!expo_is_empty(b))
	{
		if (old.width == width)
			memcpy(counter(b, b->lo), counter(&old, b->lo), (size_t) span(b) * width);
		else
			for (int32_t i = b->lo; i <= b->hi; i++)
				*(uint64_t *) counter(b, i) = expo_get(&old, i);
	}
	free_block(&old, a);
	return true;
}

#define FOLD(type)                                                                                 \
	do                                                                                             \
	{                                                                                              \
		type *counts = b->counts;                                                                  \
		int32_t from = b->lo - b->first;                                                           \
		int32_t to = 0;                                                                            \
		type sum = 0;                                                                              \
		for (int32_t i = b->lo; i <= b->hi; i++, from++)                                           \
		{                                                                                          \
			type c = counts[from];                                                                 \
			counts[from] = 0;                                                                      \
			if ((i >> shift) - lo != to)                                                           \
			{                                                                                      \
				counts[to] = sum;                                                                  \
				to = (i >> shift) - lo;                                                            \
				sum = 0;                                                                           \
			}                                                                                      \
			sum += c;                                                                              \
		}                                                                                          \
		counts[to] = sum;                                                                          \
	} while (0)

/* Add up 2^shift neighbours each, in place: a target never lies behind its sources. */
static void
fold(ExpoBuckets *b, int shift)
{
	int32_t lo = b->lo >> shift;

	if (expo_is_empty(b))
		return;
	if (b->width == 4)
		FOLD(uint32_t);
	else
		FOLD(uint64_t);
	b->first = b->lo = lo;
	b->hi >>= shift;
}

void
expo_downscale(ExpoSketch *s, int scale)
{
	if (scale < EXPO_MIN_SCALE)
		scale = EXPO_MIN_SCALE;
	if (scale >= s->scale)
		return;
	fold(&s->pos, s->scale - scale);
	fold(&s->neg, s->scale - scale);
	s->scale = (int8_t) scale;
}

void
expo_fit(ExpoSketch *s, ExpoBuckets *b, int32_t lo, int32_t hi, const ExpoAllocator *a)
{
	for (;;)
	{
		int scale = s->scale;

		if (!expo_is_empty(b))
		{
			lo = MIN(lo, b->lo);
			hi = MAX(hi, b->hi);
		}
		if (hi - lo < EXPO_MAX_BUCKETS)
		{
			if (lo >= b->first && hi - b->first < b->cap)
				break;
			if (hi - lo < b->cap)
			{
				slide(b, centred(lo, hi, b->cap));
				break;
			}
			if (grow(b, lo, hi, b->width, a))
				break;
		}
		/* Ends at the latest at the lowest scale, where three buckets hold every double. */
		expo_downscale(s, scale - 1);
		lo >>= scale - s->scale;
		hi >>= scale - s->scale;
	}
	b->lo = lo;
	b->hi = hi;
}

static void
widen(ExpoSketch *s, ExpoBuckets *b, const ExpoAllocator *a)
{
	uint64_t *wide;
	uint32_t *narrow;

	if (b->cap == 0 || b->width == 8)
		return;
	if (grow(b, b->first, b->first + b->cap - 1, 8, a))
		return;

	/* Refused: fold until half of the block holds all, then widen from the top down. */
	while (span(b) > b->cap / 2)
		expo_downscale(s, s->scale - 1);
	slide(b, b->lo);
	wide = b->counts;
	narrow = b->counts;
	for (int32_t i = span(b) - 1; i >= 0; i--)
		wide[i] = narrow[i];
	b->width = 8;
	b->cap /= 2;
}

bool
expo_prepare(ExpoSketch *s, uint64_t n, bool pos, bool neg, const ExpoAllocator *a)
{
	uint8_t width = 4;

	if (n > EXPO_MAX_COUNT - s->count)
		return false;
	if (EXPO_UNLIKELY(s->count + n > UINT32_MAX))
		width = 8;
	if (pos && s->pos.cap == 0 && !grow(&s->pos, 0, 0, width, a))
		return false;
	if (neg && s->neg.cap == 0 && !grow(&s->neg, 0, 0, width, a))
		return false;
	if (EXPO_UNLIKELY(width == 8))
	{
		widen(s, &s->pos, a);
		widen(s, &s->neg, a);
	}
	return true;
}

bool
expo_begin(ExpoSketch *s, ExpoBuckets *b, int32_t lo, int32_t hi, bool wide, const ExpoAllocator *a)
{
	uint8_t width = wide ? 8 : 4;

	if (!grow(b, lo, hi, width, a) && !grow(b, 0, 0, width, a))
		return false;
	expo_fit(s, b, lo, hi, a);
	return true;
}

/* ---- adding ---- */

static void
add_to(ExpoBuckets *b, int32_t index, uint64_t n)
{
	if (b->width == 4)
		*(uint32_t *) counter(b, index) += (uint32_t) n;
	else
		*(uint64_t *) counter(b, index) += n;
}

bool
expo_add(ExpoSketch *s, double v, uint64_t n, const ExpoAllocator *a)
{
	if (!expo_is_finite(v) || !expo_prepare(s, n, v > 0, v < 0, a))
		return false;
	if (n == 0)
		return true;

	if (v == 0)
	{
		v = 0; /* no negative zero in min and max */
		s->zero_count += n;
	}
	else
	{
		ExpoBuckets *b = v > 0 ? &s->pos : &s->neg;
		int32_t index = expo_index(fabs(v), s->scale);

		expo_fit(s, b, index, index, a);
		add_to(b, expo_index(fabs(v), s->scale), n);
	}
	s->count += n;
	s->sum += v * (double) n;
	s->min = MIN(s->min, v);
	s->max = MAX(s->max, v);
	return true;
}

/* Count n positive values whose buckets are known to be in the window. */
static void
count_values(ExpoBuckets *b, const double *v, size_t n, int scale, bool normal)
{
	int shift = EXPO_MAX_SCALE - scale;

	if (EXPO_UNLIKELY(!normal || b->width == 8))
		for (size_t i = 0; i < n; i++)
			add_to(b, expo_index(v[i], scale), 1);
	else
	{
		uint32_t *counts = b->counts;
		int32_t first = b->first;

		for (size_t i = 0; i < n; i++)
			counts[(expo_index8(expo_bits(v[i])) >> shift) - first]++;
	}
}

typedef struct Summary
{
	double sum, min, max;
} Summary;

/* Four accumulators each: one would wait for its own last result. */
static Summary
summarize(const double *v, size_t n)
{
	double sum[4] = {0, 0, 0, 0};
	double min[4] = {v[0], v[0], v[0], v[0]};
	double max[4] = {v[0], v[0], v[0], v[0]};
	Summary all;
	size_t i = 0;

	for (; i + 4 <= n; i += 4)
		for (int j = 0; j < 4; j++)
		{
			double x = v[i + j];

			sum[j] += x;
			min[j] = x < min[j] ? x : min[j];
			max[j] = x > max[j] ? x : max[j];
		}
	for (; i < n; i++)
	{
		sum[0] += v[i];
		min[0] = v[i] < min[0] ? v[i] : min[0];
		max[0] = v[i] > max[0] ? v[i] : max[0];
	}
	all.sum = (sum[0] + sum[1]) + (sum[2] + sum[3]);
	all.min = MIN(MIN(min[0], min[1]), MIN(min[2], min[3]));
	all.max = MAX(MAX(max[0], max[1]), MAX(max[2], max[3]));
	return all;
}

/* The values of one sign of a batch, as magnitudes. */
typedef struct Part
{
	const double *v;
	size_t n;
	double min, max;
} Part;

static void
fit_part(ExpoSketch *s, ExpoBuckets *b, const Part *part, const ExpoAllocator *a)
{
	if (part->n > 0)
		expo_fit(s, b, expo_index(part->min, s->scale), expo_index(part->max, s->scale), a);
}

static void
count_part(ExpoSketch *s, ExpoBuckets *b, const Part *part)
{
	if (part->n > 0)
		count_values(b, part->v, part->n, s->scale, part->min >= DBL_MIN);
}

/* All or nothing of a batch of finite values. */
static bool
add_parts(ExpoSketch *s, const Part *pos, const Part *neg, size_t n, const Summary *sum,
		  const ExpoAllocator *a)
{
	if (!expo_prepare(s, n, pos->n > 0, neg->n > 0, a))
		return false;
	fit_part(s, &s->pos, pos, a);
	fit_part(s, &s->neg, neg, a); /* may lower the scale of both */
	count_part(s, &s->pos, pos);
	count_part(s, &s->neg, neg);
	s->zero_count += n - pos->n - neg->n;
	s->count += n;
	s->sum += sum->sum;
	s->min = MIN(s->min, sum->min + 0.0);
	s->max = MAX(s->max, sum->max + 0.0);
	return true;
}

static Part
make_part(const double *v, size_t n)
{
	Part part = {v, n, 0, 0};

	if (n > 0)
	{
		Summary sum = summarize(v, n);

		part.min = sum.min;
		part.max = sum.max;
	}
	return part;
}

/* A batch with zeroes or both signs: split it without branches. */
static bool
add_mixed(ExpoSketch *s, const double *v, size_t n, const Summary *sum, const ExpoAllocator *a)
{
	double values[2][BATCH];
	size_t npos = 0;
	size_t nneg = 0;
	Part pos;
	Part neg;

	for (size_t i = 0; i < n; i++)
	{
		values[0][npos] = v[i];
		npos += v[i] > 0;
		values[1][nneg] = -v[i];
		nneg += v[i] < 0;
	}
	pos = make_part(values[0], npos);
	neg = make_part(values[1], nneg);
	return add_parts(s, &pos, &neg, n, sum, a);
}

static bool
add_batch(ExpoSketch *s, const double *v, size_t n, const ExpoAllocator *a)
{
	Summary sum = summarize(v, n);
	Part all = {v, n, sum.min, sum.max};
	Part none = {NULL, 0, 0, 0};

	/* Infinite and NaN inputs show in the sum; so does an overflow, which is no reason to refuse. */
	if (EXPO_UNLIKELY(!expo_is_finite(sum.sum)))
		return false;
	if (EXPO_LIKELY(sum.min > 0))
		return add_parts(s, &all, &none, n, &sum, a);
	return add_mixed(s, v, n, &sum, a);
}

size_t
expo_add_many(ExpoSketch *s, const double *v, size_t n, const ExpoAllocator *a)
{
	size_t done = 0;

	while (done < n)
	{
		size_t batch = MIN(n - done, BATCH);

		if (EXPO_LIKELY(add_batch(s, v + done, batch, a)))
			done += batch;
		else
			for (; batch > 0; batch--, done++)
				if (!expo_add(s, v[done], 1, a))
					return done;
	}
	return done;
}

/* ---- merging ---- */

static void
merge_buckets(ExpoBuckets *to, const ExpoBuckets *from, int shift)
{
	if (expo_is_empty(from))
		return;
	if (shift == 0 && to->width == 4 && from->width == 4)
	{
		uint32_t *d = counter(to, from->lo);
		const uint32_t *c = counter(from, from->lo);
		int32_t n = span(from);

		for (int32_t i = 0; i < n; i++)
			d[i] += c[i];
		return;
	}
	for (int32_t i = from->lo; i <= from->hi; i++)
		add_to(to, i >> shift, expo_get(from, i));
}

static void
fit_merge(ExpoSketch *dst, ExpoBuckets *to, const ExpoSketch *src, const ExpoBuckets *from,
		  const ExpoAllocator *a)
{
	int shift = src->scale - dst->scale;

	if (!expo_is_empty(from))
		expo_fit(dst, to, from->lo >> shift, from->hi >> shift, a);
}

bool
expo_merge(ExpoSketch *dst, const ExpoSketch *src, const ExpoAllocator *a)
{
	if (!expo_prepare(dst, src->count, !expo_is_empty(&src->pos), !expo_is_empty(&src->neg), a))
		return false;
	expo_downscale(dst, src->scale);
	fit_merge(dst, &dst->pos, src, &src->pos, a);
	fit_merge(dst, &dst->neg, src, &src->neg, a);
	merge_buckets(&dst->pos, &src->pos, src->scale - dst->scale);
	merge_buckets(&dst->neg, &src->neg, src->scale - dst->scale);
	dst->zero_count += src->zero_count;
	dst->count += src->count;
	dst->sum += src->sum;
	dst->min = MIN(dst->min, src->min);
	dst->max = MAX(dst->max, src->max);
	return true;
}

bool
expo_copy(ExpoSketch *dst, const ExpoSketch *src, const ExpoAllocator *a)
{
	expo_init(dst, src->scale);
	if (expo_merge(dst, src, a))
		return true;
	expo_free(dst, a);
	return false;
}

/* ---- percentiles ---- */

/* Written so that nothing overflows. */
double
expo_representative(int32_t index, int scale)
{
	double lo = expo_bound(index, scale);
	double hi = expo_bound(index + 1, scale);

	return lo > 0 ? lo / (0.5 + 0.5 * (lo / hi)) : hi;
}

typedef struct Wanted
{
	uint64_t rank; /* 1..count */
	size_t at;     /* where the answer goes */
} Wanted;

typedef struct Walk
{
	const ExpoSketch *s;
	const Wanted *next, *end; /* sorted by rank */
	uint64_t seen;            /* values passed so far */
	double *out;
} Walk;

static void
answer(Walk *w, double value)
{
	value = MAX(w->s->min, MIN(w->s->max, value));
	for (; w->next < w->end && w->next->rank <= w->seen; w->next++)
		w->out[w->next->at] = value;
}

static void
walk_up(Walk *w, const ExpoBuckets *b)
{
	for (int32_t i = b->lo; i <= b->hi && w->next < w->end; i++)
	{
		w->seen += expo_get(b, i);
		if (w->seen >= w->next->rank)
			answer(w, expo_representative(i, w->s->scale));
	}
}

static void
walk_down(Walk *w, const ExpoBuckets *b)
{
	for (int32_t i = b->hi; i >= b->lo && w->next < w->end; i--)
	{
		w->seen += expo_get(b, i);
		if (w->seen >= w->next->rank)
			answer(w, -expo_representative(i, w->s->scale));
	}
}

uint64_t
expo_rank(const ExpoSketch *s, double q)
{
	double rank = ceil(q * (double) s->count);

	/* written so that NaN and overflow end up inside 1..count */
	if (!(rank > 1))
		return 1;
	return rank < (double) s->count ? (uint64_t) rank : s->count;
}

/* Keep wanted[0..n] sorted by rank while adding one. */
static void
insert_wanted(Wanted *wanted, size_t n, Wanted w)
{
	for (; n > 0 && wanted[n - 1].rank > w.rank; n--)
		wanted[n] = wanted[n - 1];
	wanted[n] = w;
}

static void
quantiles_pass(const ExpoSketch *s, const double *q, size_t n, double *out)
{
	Wanted wanted[QUANTILES_PER_PASS];
	size_t nwanted = 0;
	Walk w = {s, wanted, wanted, 0, out};

	for (size_t i = 0; i < n; i++)
	{
		Wanted next = {expo_rank(s, q[i]), i};

		if (next.rank == 1)
			out[i] = s->min; /* the extremes are known exactly */
		else if (next.rank == s->count)
			out[i] = s->max;
		else
			insert_wanted(wanted, nwanted++, next);
	}
	w.end = wanted + nwanted;
	walk_down(&w, &s->neg);
	w.seen += s->zero_count;
	answer(&w, 0);
	walk_up(&w, &s->pos);
}

void
expo_quantiles(const ExpoSketch *s, const double *q, size_t n, double *out)
{
	for (size_t i = 0; i < n; i += QUANTILES_PER_PASS)
		if (s->count > 0)
			quantiles_pass(s, q + i, MIN(n - i, QUANTILES_PER_PASS), out + i);
		else
			for (size_t j = i; j < MIN(n, i + QUANTILES_PER_PASS); j++)
				out[j] = NAN;
}

double
expo_quantile(const ExpoSketch *s, double q)
{
	double value;

	expo_quantiles(s, &q, 1, &value);
	return value;
}

double
expo_max_relative_error(const ExpoSketch *s)
{
	/* (b-1)/(b+1) with b = 2^(2^-scale), which may overflow, is a hyperbolic tangent */
	return tanh(ldexp(M_LN2 / 2, -s->scale));
}
