/*-------------------------------------------------------------------------
 *
 * chunk_sizes.c
 *	  Sizes and speeds of chunks of 60 one-minute points, as a table: section
 *	  "codec" of bench.py, which compiles it.
 *
 * Bytes are per point and without the row (about 1.4 more a point).  The bound
 * of a distribution of random doubles is the entropy of what a point holds: the
 * buckets given the true distribution, what min and max add to their buckets,
 * and the sum given all of these.  Times are the best of many runs.
 *
 *-------------------------------------------------------------------------
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "metrics/chunk_codec.h"

#define POINTS 60
#define CHUNKS 20
#define RUNS 40
#define MAX_PER_POINT 10000

static uint64_t seed = 1;

static double
uniform(void)
{
	uint64_t z = (seed += UINT64_C(0x9E3779B97F4A7C15)); /* splitmix64 */

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return (double) ((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static double
normal(void)
{
	return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
}

static void *
heap_alloc(void *ctx, size_t size, size_t *actual)
{
	(void) ctx;
	*actual = size;
	return malloc(size);
}

static void
heap_free(void *ctx, void *ptr, size_t actual)
{
	(void) ctx;
	(void) actual;
	free(ptr);
}

static const ExpoAllocator heap = {heap_alloc, heap_free, NULL};

/* ---- what is measured ---- */

static double walk = 1000;

static double
integer_walk(void)
{
	return walk += floor(uniform() * 11) - 5;
}

static double
tenths_walk(void)
{
	return round(integer_walk()) / 10;
}

static double
double_walk(void)
{
	return walk += normal();
}

static double
float4_walk(void)
{
	return (double) (float) double_walk();
}

static double
constant(void)
{
	return 42;
}

static double
one(void)
{
	return 1;
}

static double
cents(void)
{
	return floor(uniform() * 10000) / 100;
}

static double
bytes_sent(void)
{
	return floor(exp(7 + normal()));
}

static double
lognormal(void)
{
	return exp(normal());
}

/* Durations around 50 ms. */
static double
microseconds(void)
{
	return round(50000 * exp(normal())) / 1e6;
}

static double
milliseconds(void)
{
	return round(50 * exp(normal()) + 0.5) / 1e3;
}

static double
normal_100(void)
{
	return 100 + 10 * normal();
}

static double
two_sided(void)
{
	return uniform() < 0.1 ? 0 : 5 * normal();
}

typedef struct Case
{
	const char *name;
	int kind;
	double (*value)(void);
	int per_point;
	bool has_bound;
} Case;

static const Case cases[] = {
	{"gauge, integer walk, 1 sample", CHUNK_GAUGE, integer_walk, 1, false},
	{"gauge, integer walk, 6 samples", CHUNK_GAUGE, integer_walk, 6, false},
	{"gauge, walk in tenths, 1 sample", CHUNK_GAUGE, tenths_walk, 1, false},
	{"gauge, walk in tenths, 6 samples", CHUNK_GAUGE, tenths_walk, 6, false},
	{"gauge, walk of doubles, 1 sample", CHUNK_GAUGE, double_walk, 1, false},
	{"gauge, walk of doubles, 6 samples", CHUNK_GAUGE, double_walk, 6, false},
	{"gauge, walk of float4, 1 sample", CHUNK_GAUGE, float4_walk, 1, false},
	{"gauge, constant, 6 samples", CHUNK_GAUGE, constant, 6, false},
	{"counter, increments of 1", CHUNK_COUNTER, one, 170, false},
	{"counter, bytes", CHUNK_COUNTER, bytes_sent, 17, false},
	{"counter, cents", CHUNK_COUNTER, cents, 17, false},
	{"counter, random doubles", CHUNK_COUNTER, lognormal, 17, false},
	{"distribution, lognormal doubles", CHUNK_DISTRIBUTION, lognormal, 17, true},
	{"distribution, lognormal doubles", CHUNK_DISTRIBUTION, lognormal, 170, true},
	{"distribution, lognormal doubles", CHUNK_DISTRIBUTION, lognormal, 1000, true},
	{"distribution, lognormal doubles", CHUNK_DISTRIBUTION, lognormal, 10000, true},
	{"distribution, microseconds", CHUNK_DISTRIBUTION, microseconds, 17, false},
	{"distribution, microseconds", CHUNK_DISTRIBUTION, microseconds, 170, false},
	{"distribution, milliseconds", CHUNK_DISTRIBUTION, milliseconds, 17, false},
	{"distribution, milliseconds", CHUNK_DISTRIBUTION, milliseconds, 170, false},
	{"distribution, milliseconds", CHUNK_DISTRIBUTION, milliseconds, 10000, false},
	{"distribution, bytes", CHUNK_DISTRIBUTION, bytes_sent, 170, false},
	{"distribution, normal doubles", CHUNK_DISTRIBUTION, normal_100, 170, false},
	{"distribution, both signs, zeroes", CHUNK_DISTRIBUTION, two_sided, 170, false},
	{"distribution, constant", CHUNK_DISTRIBUTION, constant, 170, false},
};

static void
fill(const Case *c, ChunkPoint *p, int unit)
{
	double v[MAX_PER_POINT];

	*p = (ChunkPoint){.unit = (uint8_t) unit, .count = (uint64_t) c->per_point};
	expo_init(&p->sketch, EXPO_DEFAULT_SCALE);
	for (int i = 0; i < c->per_point; i++)
	{
		v[i] = c->value();
		p->sum += v[i];
	}
	p->min = p->max = p->first = v[0];
	p->last = v[c->per_point - 1];
	for (int i = 0; i < c->per_point; i++)
	{
		p->min = fmin(p->min, v[i]);
		p->max = fmax(p->max, v[i]);
	}
	if (c->kind == CHUNK_DISTRIBUTION)
		expo_add_many(&p->sketch, v, (size_t) c->per_point, &heap);
}

static double
bucket_width(int32_t index)
{
	return expo_bound(index + 1, EXPO_DEFAULT_SCALE) - expo_bound(index, EXPO_DEFAULT_SCALE);
}

static double
spacing(double v)
{
	return nextafter(v, INFINITY) - v;
}

/* Bits of a lognormal sketch; every bucket is inside one octave. */
static double
entropy(const ExpoSketch *s)
{
	double bits = -lgamma((double) s->count + 1) / M_LN2;
	double variance = 0;
	int32_t ends[2] = {expo_index(s->min, s->scale), expo_index(s->max, s->scale)};

	for (int32_t i = s->pos.lo; i <= s->pos.hi; i++)
	{
		double n = ((uint32_t *) s->pos.counts)[i - s->pos.first];
		double p = 0.5 *
			(erf(log(expo_bound(i + 1, s->scale)) * M_SQRT1_2) -
			 erf(log(expo_bound(i, s->scale)) * M_SQRT1_2));

		bits += n == 0 ? 0 : lgamma(n + 1) / M_LN2 - n * log2(p);
		variance += n * bucket_width(i) * bucket_width(i) / 12;
	}
	for (int i = 0; i < 2; i++)
	{
		bits += log2(bucket_width(ends[i]) / spacing(expo_bound(ends[i], s->scale)));
		variance -= bucket_width(ends[i]) * bucket_width(ends[i]) / 12;
	}
	return bits + 0.5 * log2(2 * M_PI * M_E * variance) - log2(spacing(s->sum));
}

/* ---- measuring ---- */

static double
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}

static void
free_sketches(ChunkPoint *points, int n)
{
	for (int i = 0; i < n; i++)
		expo_free(&points[i].sketch, &heap);
}

static double
time_encode(int kind, const ChunkPoint *points, uint8_t *buf)
{
	double best = INFINITY;

	for (int run = 0; run < RUNS; run++)
	{
		double start = now_ns();

		chunk_encode(kind, points, POINTS, buf);
		best = fmin(best, now_ns() - start);
	}
	return best / POINTS;
}

static double
time_decode(const uint8_t *buf, size_t len, bool sketches)
{
	static ChunkPoint points[CHUNK_MAX_UNITS];
	double best = INFINITY;

	for (int run = 0; run < RUNS; run++)
	{
		double start = now_ns();
		int n;
		int kind;

		if (chunk_decode(buf, len, sketches, points, &n, &kind, &heap) != EXPO_OK)
			abort();
		free_sketches(points, n);
		best = fmin(best, now_ns() - start);
	}
	return best / POINTS;
}

static void
measure(const Case *c)
{
	static ChunkPoint points[POINTS];
	double bytes = 0;
	double bound = 0;
	double encode = 0;
	double scalars = 0;
	double all = 0;

	for (int chunk = 0; chunk < CHUNKS; chunk++)
	{
		uint8_t *buf;
		size_t len;

		for (int i = 0; i < POINTS; i++)
		{
			fill(c, &points[i], i);
			bound += c->has_bound ? entropy(&points[i].sketch) / 8 : 0;
		}
		buf = malloc(chunk_encoded_bound(c->kind, points, POINTS));
		len = chunk_encode(c->kind, points, POINTS, buf);
		bytes += (double) len;
		encode += time_encode(c->kind, points, buf) / CHUNKS;
		scalars += time_decode(buf, len, false) / CHUNKS;
		all += time_decode(buf, len, true) / CHUNKS;
		free(buf);
		free_sketches(points, POINTS);
	}
	printf("%-34s %6d %8.2f ", c->name, c->per_point, bytes / CHUNKS / POINTS);
	if (c->has_bound)
		printf("%8.2f", bound / CHUNKS / POINTS);
	else
		printf("%8s", "");
	printf(" %9.0f %9.0f %9.0f\n", encode, scalars, all);
}

int
main(void)
{
	printf("%-34s %6s %8s %8s %9s %9s %9s\n", "60 points of", "values", "bytes", "bound", "encode",
		   "scalars", "decode");
	printf("%-34s %6s %8s %8s %9s %9s %9s\n", "", "each", "a point", "", "ns", "ns", "ns");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		measure(&cases[i]);
	return 0;
}
