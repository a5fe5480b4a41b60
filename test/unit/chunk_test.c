/*-------------------------------------------------------------------------
 *
 * chunk_test.c
 *	  Unit and property tests of the codec of chunks, as TAP.
 *
 * Whatever is encoded must come back bit by bit, from a buffer without slack,
 * with and without its sketches, and encode to the same bytes again.
 *
 *-------------------------------------------------------------------------
 */
#include "unit_test.h"

#include "metrics/chunk_codec.h"

typedef struct Chunk
{
	int kind;
	int n;
	ChunkPoint points[CHUNK_MAX_UNITS];
} Chunk;

static void
free_points(ChunkPoint *points, int n)
{
	for (int i = 0; i < n; i++)
		expo_free(&points[i].sketch, &heap);
}

static uint64_t
bits_of(double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof(bits));
	return bits;
}

/* Any finite double, each exponent equally likely, zeroes of both signs now and then. */
static double
any_number(void)
{
	double v = next_random() % 8 ? any_double() : 0;

	return next_random() & 1 ? v : -v;
}

/* ---- there and back ---- */

static uint8_t *
encode(const Chunk *c, size_t *len)
{
	size_t bound = chunk_encoded_bound(c->kind, c->points, c->n);
	uint8_t *buf = malloc(bound);
	uint8_t *exact; /* no slack, so that overreading shows */

	*len = chunk_encode(c->kind, c->points, c->n, buf);
	if (*len > bound)
		abort();
	exact = malloc(*len);
	memcpy(exact, buf, *len);
	free(buf);
	return exact;
}

static bool
same_sketch(const ExpoSketch *x, const ExpoSketch *y)
{
	uint8_t *p = malloc(expo_encoded_bound(x));
	uint8_t *q = malloc(expo_encoded_bound(y));
	size_t len = expo_encode(x, p);
	bool equal = expo_encode(y, q) == len && memcmp(p, q, len) == 0 && x->scale == y->scale &&
		x->count == y->count && x->zero_count == y->zero_count;

	free(p);
	free(q);
	return equal;
}

static bool
same_bits(double x, double y)
{
	return bits_of(x) == bits_of(y) || (isnan(x) && isnan(y));
}

static bool
same_scalars(int kind, const ChunkPoint *x, const ChunkPoint *y)
{
	if (x->unit != y->unit || x->count != y->count || !same_bits(x->sum, y->sum))
		return false;
	if (kind != CHUNK_COUNTER && (!same_bits(x->min, y->min) || !same_bits(x->max, y->max)))
		return false;
	return kind != CHUNK_GAUGE || (same_bits(x->first, y->first) && same_bits(x->last, y->last));
}

static bool
same_points(const Chunk *x, const Chunk *y, bool sketches)
{
	if (x->kind != y->kind || x->n != y->n)
		return false;
	for (int i = 0; i < x->n; i++)
	{
		const ExpoSketch *s = &y->points[i].sketch;

		if (!same_scalars(x->kind, &x->points[i], &y->points[i]))
			return false;
		if (sketches && x->kind == CHUNK_DISTRIBUTION
				? !same_sketch(&x->points[i].sketch, s)
				: s->count != 0 || s->pos.counts || s->neg.counts)
			return false;
	}
	return true;
}

/* The number of bytes, or 0 when something did not come back. */
static size_t
survives(const Chunk *c)
{
	size_t len;
	uint8_t *data = encode(c, &len);
	uint8_t *again;
	size_t again_len;
	Chunk back;
	bool good = chunk_decode(data, len, false, back.points, &back.n, &back.kind, NULL) == EXPO_OK &&
		same_points(c, &back, false);

	good = good &&
		chunk_decode(data, len, true, back.points, &back.n, &back.kind, &heap) == EXPO_OK &&
		same_points(c, &back, true);
	if (good)
	{
		again = encode(&back, &again_len);
		good = again_len == len && memcmp(again, data, len) == 0;
		free(again);
	}
	free_points(back.points, back.n);
	free(data);
	return good ? len : 0;
}

/* ---- data ---- */

/* Consecutive units from some start, or some of all. */
static void
set_units(Chunk *c, bool consecutive)
{
	int unit = (int) (next_random() % (CHUNK_MAX_UNITS - c->n + 1));

	for (int i = 0; i < c->n; i++)
	{
		c->points[i].unit = (uint8_t) unit++;
		if (!consecutive && unit < CHUNK_MAX_UNITS - (c->n - 1 - i) && next_random() % 2)
			unit++;
	}
}

static void
clear(Chunk *c, int kind, int n)
{
	memset(c, 0, sizeof(*c));
	c->kind = kind;
	c->n = n;
	for (int i = 0; i < n; i++)
	{
		c->points[i].unit = (uint8_t) i;
		expo_init(&c->points[i].sketch, EXPO_DEFAULT_SCALE);
	}
}

static void
observe(Chunk *c, ChunkPoint *p, double v)
{
	p->min = p->count == 0 ? v : fmin(p->min, v);
	p->max = p->count == 0 ? v : fmax(p->max, v);
	p->first = p->count == 0 ? v : p->first;
	p->last = v;
	p->sum += v;
	p->count++;
	if (c->kind == CHUNK_DISTRIBUTION)
		expo_add(&p->sketch, v, 1, &heap);
}

/* Scalars of a distribution are those of its sketch. */
static void
take_scalars(ChunkPoint *p)
{
	p->count = p->sketch.count;
	p->sum = p->sketch.sum;
	p->min = p->sketch.min;
	p->max = p->sketch.max;
}

static void
generate(Chunk *c, int kind, int n, Generator make, int per_point, int scale)
{
	clear(c, kind, n);
	for (int i = 0; i < n; i++)
	{
		ChunkPoint *p = &c->points[i];

		p->sketch.scale = (int8_t) scale;
		for (int j = 0; j < per_point; j++)
			observe(c, p, make());
		if (kind == CHUNK_DISTRIBUTION)
			take_scalars(p);
	}
}

static double walk;

static double
gen_walk(void)
{
	return walk += (double) (next_random() % 11) - 5;
}

static double
gen_tenths(void)
{
	return (double) (next_random() % 1000) / 10;
}

static double
gen_thousands(void)
{
	return (double) (next_random() % 1000) * 1000;
}

static double
gen_float(void)
{
	return (double) (float) normal();
}

static double
gen_one(void)
{
	return 1;
}

static double
gen_milliseconds(void)
{
	return round(50 * exp(normal()) + 0.5) / 1000;
}

static double
gen_microseconds(void)
{
	return round(50000 * exp(normal())) / 1000000;
}

/* ---- tests ---- */

static bool
survive_all(int kind, Generator make)
{
	static const int sizes[] = {1, 2, 7, 60, CHUNK_MAX_UNITS};
	static const int per_point[] = {1, 2, 6, 100};
	bool good = true;

	for (int s = 0; s < 5; s++)
		for (int p = 0; p < 4; p++)
			for (int consecutive = 0; consecutive < 2; consecutive++)
			{
				Chunk c;

				generate(&c, kind, sizes[s], make, per_point[p], EXPO_DEFAULT_SCALE);
				set_units(&c, consecutive);
				good = good && survives(&c) > 0;
				free_points(c.points, c.n);
			}
	return good;
}

static void
test_generators(void)
{
	static const char *const kinds[] = {"", "counter", "gauge", "distribution"};

	for (size_t g = 0; g < NGENERATORS; g++)
		for (int kind = CHUNK_COUNTER; kind <= CHUNK_DISTRIBUTION; kind++)
		{
			char name[80];

			snprintf(name, sizeof(name), "%s, %s: comes back", kinds[kind], generators[g].name);
			ok(survive_all(kind, generators[g].make), name);
		}
}

/* Numbers that have nothing to do with each other, a point's minimum above its maximum included. */
static void
test_any_scalars(void)
{
	bool good = true;

	for (int run = 0; run < 2000; run++)
	{
		Chunk c;

		clear(&c, run % 2 ? CHUNK_GAUGE : CHUNK_COUNTER, 1 + (int) (next_random() % 64));
		for (int i = 0; i < c.n; i++)
		{
			ChunkPoint *p = &c.points[i];

			p->count = 1 + (next_random() >> (1 + next_random() % 63)) % EXPO_MAX_COUNT;
			p->sum = any_number();
			p->min = any_number();
			p->max = any_number();
			p->first = any_number();
			p->last = any_number();
		}
		good = good && survives(&c) > 0;
	}
	ok(good, "any finite doubles and any counts come back");
}

static const double special[] = {
	0.0,  -0.0,  DBL_TRUE_MIN, -DBL_TRUE_MIN, DBL_MIN, DBL_MAX, -DBL_MAX, 1,     0.1,
	1e15, -1e22, 0x1p53,       0x1p53 + 2,    -0x1p53, 0x1p62,  1e-15,    1e-16, 123456.789};

#define NSPECIAL (int) (sizeof(special) / sizeof(special[0]))

/* Every pair, as a constant with one exception. */
static void
test_special_scalars(void)
{
	bool good = true;

	for (int a = 0; a < NSPECIAL; a++)
		for (int b = 0; b < NSPECIAL; b++)
			for (int count = 1; count <= 2; count++)
			{
				Chunk c;

				clear(&c, CHUNK_GAUGE, 20);
				for (int i = 0; i < c.n; i++)
				{
					double v = i == 7 ? special[b] : special[a];

					c.points[i].count = (uint64_t) count;
					c.points[i].sum = c.points[i].min = c.points[i].max = v;
					c.points[i].first = c.points[i].last = v;
				}
				good = good && survives(&c) > 0;
				c.kind = CHUNK_COUNTER;
				good = good && survives(&c) > 0;
			}
	ok(good, "special doubles come back");
}

/* One far from all others, which must not make these longer. */
static void
test_outliers(void)
{
	bool good = true;

	for (int shift = 8; shift < 63; shift++)
	{
		Chunk c;

		generate(&c, CHUNK_COUNTER, 60, gen_one, 1, EXPO_DEFAULT_SCALE);
		for (int i = 0; i < c.n; i++)
			c.points[i].sum = (double) (c.points[i].count = 3 + next_random() % 4);
		c.points[20].count = UINT64_C(1) << shift;
		c.points[40].sum = ldexp(1, shift);
		good = good && survives(&c) > 0 && survives(&c) < 120;
	}
	ok(good, "outliers come back and make no other number longer");
}

static void
test_infinite_sums(void)
{
	Chunk c;
	bool good;

	clear(&c, CHUNK_GAUGE, 3);
	for (int i = 0; i < 3; i++)
		c.points[i] = (ChunkPoint){.unit = (uint8_t) i, .count = EXPO_MAX_COUNT, .max = DBL_MAX};
	c.points[0].sum = INFINITY;
	c.points[1].sum = -INFINITY;
	c.points[2].sum = -(double) NAN;
	good = survives(&c) > 0;

	clear(&c, CHUNK_DISTRIBUTION, 3);
	expo_add(&c.points[0].sketch, DBL_MAX, 3, &heap);
	expo_add(&c.points[1].sketch, -DBL_MAX, 3, &heap);
	expo_add(&c.points[2].sketch, -DBL_MAX, 3, &heap);
	expo_add(&c.points[2].sketch, DBL_MAX, 3, &heap);
	for (int i = 0; i < 3; i++)
		take_scalars(&c.points[i]);
	ok(good && isinf(c.points[0].sum) && isnan(c.points[2].sum) && survives(&c) > 0,
	   "sums that overflew come back");
	free_points(c.points, c.n);
}

/* Every generator at other scales, down-scaled afterwards, and with different scales in one chunk. */
static void
test_scales(void)
{
	bool good = true;

	for (size_t g = 0; g < NGENERATORS; g++)
		for (int scale = EXPO_MIN_SCALE; scale <= EXPO_MAX_SCALE; scale++)
		{
			Chunk c;

			generate(&c, CHUNK_DISTRIBUTION, 10, generators[g].make, 50, scale);
			good = good && survives(&c) > 0;
			for (int i = 0; i < c.n; i++)
				expo_downscale(&c.points[i].sketch, scale - i % 3);
			good = good && survives(&c) > 0;
			free_points(c.points, c.n);
		}
	ok(good, "sketches of every scale come back");
}

/* Few values, as many as buckets, and many in one point after another. */
static void
test_changing_density(void)
{
	bool good = true;

	for (size_t g = 0; g < NGENERATORS; g++)
	{
		Chunk c;

		clear(&c, CHUNK_DISTRIBUTION, 20);
		for (int i = 0; i < c.n; i++)
		{
			int values = i % 4 == 0 ? 1 : i % 4 == 1 ? 20 : i % 4 == 2 ? 600 : 20000;

			for (int j = 0; j < values; j++)
				expo_add(&c.points[i].sketch, generators[g].make(), 1, &heap);
			take_scalars(&c.points[i]);
		}
		good = good && survives(&c) > 0;
		free_points(c.points, c.n);
	}
	ok(good, "points of every density in one chunk come back");
}

static void
test_huge_counts(void)
{
	Chunk c;
	bool good = true;

	clear(&c, CHUNK_DISTRIBUTION, 50);
	for (int i = 0; i < c.n; i++)
	{
		ExpoSketch *s = &c.points[i].sketch;

		for (int j = 0; j < 1 + i; j++)
			expo_add(s, any_number() * 0x1p-500, next_random() >> (8 + next_random() % 56), &heap);
		expo_add(s, exp(normal()), 1, &heap);
		take_scalars(&c.points[i]);
	}
	good = survives(&c) > 0;
	free_points(c.points, c.n);

	clear(&c, CHUNK_DISTRIBUTION, 2);
	expo_add(&c.points[0].sketch, 1, EXPO_MAX_COUNT, &heap);
	expo_add(&c.points[1].sketch, 1, EXPO_MAX_COUNT - 1, &heap);
	expo_add(&c.points[1].sketch, 1e6, 1, &heap);
	for (int i = 0; i < c.n; i++)
		take_scalars(&c.points[i]);
	good = good && survives(&c) > 0 && survives(&c) < 100;
	free_points(c.points, c.n);
	ok(good, "huge counts come back");
}

/* Refuse from every step on: two blocks are needed for each of 20 points; nothing leaks. */
static void
test_refused_memory(void)
{
	Chunk c;
	size_t len;
	uint8_t *data;
	long used;
	bool good = true;
	bool enough = false;

	generate(&c, CHUNK_DISTRIBUTION, 20, gen_mixed, 200, EXPO_DEFAULT_SCALE);
	data = encode(&c, &len);
	used = blocks;
	for (long given = 0; !enough; given++)
	{
		Chunk back;
		int rc;

		budget = given;
		rc = chunk_decode(data, len, true, back.points, &back.n, &back.kind, &heap);
		enough = budget > 0; /* some is left */
		budget = -1;
		good = good && back.n == c.n && rc == (given < 40 ? EXPO_ERR_MEMORY : EXPO_OK);
		free_points(back.points, back.n);
		good = good && blocks == used;
	}
	ok(good, "refused memory is an error, and nothing leaks");
	free(data);
	free_points(c.points, c.n);
}

/* Blocks larger than the smallest are refused. */
static void *
small_alloc(void *ctx, size_t size, size_t *actual)
{
	return size > 256 ? NULL : test_alloc(ctx, size, actual);
}

static void
test_small_memory(void)
{
	static const ExpoAllocator small = {small_alloc, test_free, NULL};
	Chunk c;
	Chunk back;
	size_t len;
	uint8_t *data;
	bool good;

	generate(&c, CHUNK_DISTRIBUTION, 20, gen_mixed, 200, EXPO_DEFAULT_SCALE);
	data = encode(&c, &len);
	good = chunk_decode(data, len, true, back.points, &back.n, &back.kind, &small) == EXPO_OK;
	for (int i = 0; i < c.n; i++)
	{
		expo_downscale(&c.points[i].sketch, back.points[i].sketch.scale);
		good = good && back.points[i].sketch.scale < EXPO_DEFAULT_SCALE &&
			same_sketch(&c.points[i].sketch, &back.points[i].sketch);
	}
	ok(good, "little memory gives the same sketch, down-scaled");
	free_points(c.points, c.n);
	free_points(back.points, back.n);
	free(data);
}

/* ---- sizes: of 60 points, without what a row costs ---- */

static void
check_size(int kind, Generator make, int per_point, double limit, const char *what)
{
	Chunk c;
	double bytes;
	char name[120];

	walk = 1000;
	generate(&c, kind, 60, make, per_point, EXPO_DEFAULT_SCALE);
	bytes = (double) survives(&c) / c.n;
	snprintf(name, sizeof(name), "%s, %d values: %.2f of at most %.2f bytes a point", what,
			 per_point, bytes, limit);
	ok(bytes > 0 && bytes <= limit, name);
	free_points(c.points, c.n);
}

static void
test_sizes(void)
{
	check_size(CHUNK_GAUGE, gen_walk, 1, 0.7, "gauge, integer walk");
	check_size(CHUNK_GAUGE, gen_walk, 6, 2.6, "gauge, integer walk");
	check_size(CHUNK_GAUGE, gen_constant, 6, 0.5, "gauge, constant");
	check_size(CHUNK_GAUGE, gen_tenths, 1, 1.5, "gauge, tenths");
	check_size(CHUNK_GAUGE, gen_thousands, 1, 1.5, "gauge, thousands");
	check_size(CHUNK_GAUGE, gen_float, 1, 4.7, "gauge, float4");
	check_size(CHUNK_COUNTER, gen_one, 170, 0.2, "counter, ones");
	check_size(CHUNK_COUNTER, gen_integer, 17, 2.7, "counter, integers");
	check_size(CHUNK_COUNTER, gen_tenths, 17, 2.2, "counter, tenths");
	check_size(CHUNK_DISTRIBUTION, gen_lognormal, 17, 32.6, "distribution, lognormal");
	check_size(CHUNK_DISTRIBUTION, gen_lognormal, 170, 83.5, "distribution, lognormal");
	check_size(CHUNK_DISTRIBUTION, gen_lognormal, 10000, 340, "distribution, lognormal");
	check_size(CHUNK_DISTRIBUTION, gen_milliseconds, 17, 15.5, "distribution, milliseconds");
	check_size(CHUNK_DISTRIBUTION, gen_milliseconds, 170, 68, "distribution, milliseconds");
	check_size(CHUNK_DISTRIBUTION, gen_milliseconds, 10000, 255, "distribution, milliseconds");
	check_size(CHUNK_DISTRIBUTION, gen_microseconds, 170, 71, "distribution, microseconds");
	check_size(CHUNK_DISTRIBUTION, gen_constant, 170, 0.5, "distribution, constant");
}

/* ---- the stored form stays what it is ---- */

static bool
has_bytes(const Chunk *c, const char *hex)
{
	size_t len;
	uint8_t *data = encode(c, &len);
	char text[400] = "";
	bool equal;

	for (size_t i = 0; i < len && i < 190; i++)
		sprintf(text + 2 * i, "%02x", data[i]);
	equal = strcmp(text, hex) == 0;
	if (!equal)
		printf("# is %s\n", text);
	free(data);
	return equal;
}

static void
test_form(void)
{
	Chunk c;

	clear(&c, CHUNK_GAUGE, 3);
	for (int i = 0; i < 3; i++)
		observe(&c, &c.points[i], 20.5 + i);
	ok(has_bytes(&c, "191076ac90d02c05"), "bytes of a gauge");

	clear(&c, CHUNK_COUNTER, 2);
	c.points[1].unit = 59;
	observe(&c, &c.points[0], 2.0 / 3);
	observe(&c, &c.points[1], 7);
	ok(has_bytes(&c, "25000000000000000100020173abaaaaaaaaaaaa0000000000006001"),
	   "bytes of a counter");

	clear(&c, CHUNK_DISTRIBUTION, 4);
	for (int i = 0; i < 60; i++)
	{
		observe(&c, &c.points[0], i + 1);
		observe(&c, &c.points[1], i % 3 == 0 ? 5 : 80);
		observe(&c, &c.points[2], 100 + i % 8);
		observe(&c, &c.points[3], i - 20);
	}
	for (int i = 0; i < 4; i++)
		take_scalars(&c.points[i]);
	ok(has_bytes(&c,
				 "1d180070c07f0a215084bedfcd61b73cecdc42ee7e80002030150048210040000002a040"
				 "c16028c22923ee6e6a66262272f9e5fddff7eddbb66dbbb6eb1a00000200001cff2600d9"
				 "3d151501049a6a195dba6ac4ff6fefee668a5c7e79fff70520a0512ca3a55346fcfff62e"),
	   "bytes of a distribution");
	free_points(c.points, c.n);
}

/* ---- damaged input ---- */

/* An error, or points that are themselves encoded and decoded. */
static bool
digest(const uint8_t *data, size_t len)
{
	Chunk c;
	bool good = true;
	int rc = chunk_decode(data, len, true, c.points, &c.n, &c.kind, &heap);

	if (rc == EXPO_OK)
		good = c.n > 0 && survives(&c) > 0;
	else
		good = rc == EXPO_ERR_CORRUPT;
	free_points(c.points, c.n);
	if (chunk_decode(data, len, false, c.points, &c.n, &c.kind, NULL) == EXPO_OK)
		for (int i = 0; i < c.n; i++)
			good = good && c.points[i].count > 0 && isfinite(c.points[i].min) &&
				isfinite(c.points[i].max) && isfinite(c.points[i].first) &&
				isfinite(c.points[i].last);
	return good;
}

static bool
is_cut_refused(const uint8_t *data, size_t len)
{
	bool good = true;

	for (size_t cut = 0; cut < len; cut += 1 + len / 300)
	{
		uint8_t *part = malloc(cut ? cut : 1);
		Chunk c;

		memcpy(part, data, cut);
		good = good &&
			chunk_decode(part, cut, true, c.points, &c.n, &c.kind, &heap) == EXPO_ERR_CORRUPT;
		free_points(c.points, c.n);
		free(part);
	}
	return good;
}

static bool
is_longer_refused(const uint8_t *data, size_t len)
{
	uint8_t *longer = malloc(len + 1);
	Chunk c;
	bool good;

	memcpy(longer, data, len);
	longer[len] = 0;
	good = chunk_decode(longer, len + 1, true, c.points, &c.n, &c.kind, &heap) == EXPO_ERR_CORRUPT;
	free_points(c.points, c.n);
	free(longer);
	return good;
}

static void
test_corrupt(void)
{
	bool cut = true;
	bool longer = true;
	bool flipped = true;
	bool noise = true;

	for (size_t g = 0; g < NGENERATORS; g++)
		for (int run = 0; run < 12; run++)
		{
			static const int per_point[] = {1, 6, 100, 3000};
			Chunk c;
			size_t len;
			uint8_t *data;

			generate(&c, CHUNK_COUNTER + run % 3, run / 3 == 3 ? 3 : 10, generators[g].make,
					 per_point[run / 3], EXPO_DEFAULT_SCALE);
			set_units(&c, run % 2);
			data = encode(&c, &len);
			cut = cut && is_cut_refused(data, len);
			longer = longer && is_longer_refused(data, len);
			for (int i = 0; i < 300; i++)
			{
				/* the numbers that steer the rest are at the front */
				size_t at = next_random() % (i % 2 ? len : len < 40 ? len : 40);
				uint8_t was = data[at];

				data[at] ^= (uint8_t) (1 << next_random() % 8);
				flipped = flipped && digest(data, len);
				data[at] = was;
			}
			free(data);
			free_points(c.points, c.n);
		}
	for (int i = 0; i < 200000; i++)
	{
		uint8_t data[64];

		for (int j = 0; j < 64; j++)
			data[j] = (uint8_t) (next_random() & (i % 2 ? next_random() : UINT64_MAX));
		data[0] = (uint8_t) ((data[0] & ~3) | 1);
		noise = noise && digest(data, next_random() % 65);
	}
	ok(cut, "every truncation is refused");
	ok(longer, "so is a byte too much");
	ok(flipped, "every flipped bit is refused or leaves valid points");
	ok(noise, "so is noise");
}

/* Scalars do not depend on the sketches behind them. */
static void
test_scalars_alone(void)
{
	Chunk c;
	Chunk back;
	size_t len;
	uint8_t *data;
	size_t shortest;
	bool good = true;

	generate(&c, CHUNK_DISTRIBUTION, 60, gen_lognormal, 170, EXPO_DEFAULT_SCALE);
	data = encode(&c, &len);
	for (shortest = len; shortest > 0; shortest--)
		if (chunk_decode(data, shortest, false, back.points, &back.n, &back.kind, NULL) != EXPO_OK)
			break;
		else
			good = good && same_points(&c, &back, false);
	ok(good && shortest < len / 3, "scalars are read without what follows them");
	free(data);
	free_points(c.points, c.n);
}

static void
test_version(void)
{
	Chunk c;
	Chunk back;
	size_t len;
	uint8_t *data;
	bool good = true;

	clear(&c, CHUNK_GAUGE, 1);
	observe(&c, &c.points[0], 1.5);
	data = encode(&c, &len);
	for (int version = 0; version < 4; version++)
	{
		data[0] = (uint8_t) ((data[0] & ~3) | version);
		good = good &&
			(version == 1) ==
				(chunk_decode(data, len, true, back.points, &back.n, &back.kind, &heap) == EXPO_OK);
	}
	ok(good, "another version is refused");
	data[0] &= (uint8_t) ~(3 << 2);
	ok(chunk_decode(data, len, true, back.points, &back.n, &back.kind, &heap) == EXPO_ERR_CORRUPT,
	   "so is another kind");
	free(data);
}

int
main(void)
{
	test_generators();
	test_any_scalars();
	test_special_scalars();
	test_outliers();
	test_infinite_sums();
	test_scales();
	test_changing_density();
	test_huge_counts();
	test_refused_memory();
	test_small_memory();
	test_sizes();
	test_form();
	test_scalars_alone();
	test_version();
	test_corrupt();
	ok(blocks == 0, "all memory was given back");
	printf("1..%d\n", tests);
	return failures > 0;
}
