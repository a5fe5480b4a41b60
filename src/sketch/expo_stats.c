/*-------------------------------------------------------------------------
 *
 * expo_stats.c
 *	  What else than percentiles can be said about the values of a sketch:
 *	  how many are at most x, and how far they spread.
 *
 * Every value is taken for its bucket's representative, which is within the
 * sketch's relative error of it.
 *
 *-------------------------------------------------------------------------
 */
#include "expo_internal.h"

#include <math.h>

static uint64_t
count_range(const ExpoBuckets *b, int32_t lo, int32_t hi)
{
	uint64_t n = 0;

	if (lo < b->lo)
		lo = b->lo;
	if (hi > b->hi)
		hi = b->hi;
	for (int32_t i = lo; i <= hi; i++)
		n += expo_get(b, i);
	return n;
}

uint64_t
expo_count_below(const ExpoSketch *s, double x)
{
	int32_t index;

	/* The extremes are known exactly. */
	if (s->count == 0 || x < s->min)
		return 0;
	if (x >= s->max)
		return s->count;
	if (x < 0)
	{
		index = expo_index(-x, s->scale);
		if (x < -expo_representative(index, s->scale))
			index++;
		return count_range(&s->neg, index, s->neg.hi);
	}
	if (x == 0)
		return count_range(&s->neg, s->neg.lo, s->neg.hi) + s->zero_count;
	index = expo_index(x, s->scale);
	if (x < expo_representative(index, s->scale))
		index--;
	return count_range(&s->neg, s->neg.lo, s->neg.hi) + s->zero_count +
		count_range(&s->pos, s->pos.lo, index);
}

/* Welford's sums, in units of the largest magnitude so that no square overflows. */
typedef struct Spread
{
	const ExpoSketch *s;
	double unit;
	double n, mean, squares;
} Spread;

static void
spread_add(Spread *w, double value, uint64_t count)
{
	double v = fmax(w->s->min, fmin(w->s->max, value)) / w->unit;
	double delta = v - w->mean;

	if (count == 0)
		return;
	w->n += (double) count;
	w->mean += delta * ((double) count / w->n);
	w->squares += delta * (v - w->mean) * (double) count;
}

double
expo_stddev(const ExpoSketch *s)
{
	Spread w = {s, fmax(fabs(s->min), fabs(s->max)), 0, 0, 0};

	if (s->count == 0)
		return NAN;
	if (s->min == s->max)
		return 0;
	for (int32_t i = s->neg.hi; i >= s->neg.lo; i--)
		spread_add(&w, -expo_representative(i, s->scale), expo_get(&s->neg, i));
	spread_add(&w, 0, s->zero_count);
	for (int32_t i = s->pos.lo; i <= s->pos.hi; i++)
		spread_add(&w, expo_representative(i, s->scale), expo_get(&s->pos, i));
	return sqrt(w.squares / w.n) * w.unit;
}
