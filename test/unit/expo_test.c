/*-------------------------------------------------------------------------
 *
 * expo_test.c
 *	  Unit and property tests of the sketch's plain C part, as TAP.
 *
 *	  expo_test TABLE	TABLE: what expo_table.py prints now
 *
 * The oracle of an index is a comparison of 128-bit products, of a percentile
 * the sorted values.  Random numbers come from a generator with a fixed seed.
 *
 *-------------------------------------------------------------------------
 */
#include "unit_test.h"

/* ---- encoded form, the way to compare sketches ---- */

typedef struct Bytes
{
	uint8_t *data;
	size_t len;
} Bytes;

static Bytes
encode(const ExpoSketch *s)
{
	size_t bound = expo_encoded_bound(s);
	Bytes b = {malloc(bound), 0};

	b.len = expo_encode(s, b.data);
	if (b.len > bound)
		abort();
	return b;
}

/* Equal encoded forms; the sum left out unless asked for, since it may be rounded differently. */
static bool
same(const ExpoSketch *x, const ExpoSketch *y, bool with_sum)
{
	ExpoSketch a = *x;
	ExpoSketch b = *y;
	Bytes p;
	Bytes q;
	bool equal;

	if (!with_sum)
		a.sum = b.sum = 0;
	p = encode(&a);
	q = encode(&b);
	equal = p.len == q.len && memcmp(p.data, q.data, p.len) == 0;
	free(p.data);
	free(q.data);
	return equal;
}

static bool
survives_codec(const ExpoSketch *s)
{
	Bytes b = encode(s);
	uint8_t *exact = malloc(b.len); /* no slack, so that overreading shows */
	ExpoSketch back;
	size_t used = 0;
	bool good;

	memcpy(exact, b.data, b.len);
	expo_init(&back, EXPO_DEFAULT_SCALE);
	good = expo_decode(&back, exact, b.len, &used, &heap) == EXPO_OK && used == b.len &&
		same(s, &back, true) && back.count == s->count && back.scale == s->scale &&
		back.min == s->min && back.max == s->max &&
		(back.sum == s->sum || (isnan(s->sum) && isnan(back.sum)));
	expo_free(&back, &heap);
	free(exact);
	free(b.data);
	return good;
}

/* ---- index ---- */

/* The table in the repository against a fresh one. */
static bool
same_file(const char *a, const char *b)
{
	FILE *f = fopen(a, "r");
	FILE *g = fopen(b, "r");
	int c;
	int d;
	bool equal = f && g;

	do
	{
		c = equal ? getc(f) : EOF;
		d = equal ? getc(g) : EOF;
		equal = equal && c == d;
	} while (equal && c != EOF);
	if (f)
		fclose(f);
	if (g)
		fclose(g);
	return equal;
}

/* Index at scale 2 by squaring exactly: v^4 against powers of two, mantissas of up to 26 bits. */
static int32_t
index_by_power(double v)
{
	int e;
	double f = frexp(v, &e); /* v = f * 2^e, f in [0.5, 1) */
	unsigned __int128 m = (unsigned __int128) ldexp(f, 26);
	unsigned __int128 m4 = m * m * m * m; /* f^4 * 2^104 */
	int32_t k = 0;

	/* largest k with f^4 > 2^(k-4), k in 0..3 or -1 */
	while (k < 4 && m4 > (unsigned __int128) 1 << (104 - 4 + k))
		k++;
	return e * 4 - 4 + k - 1;
}

static void
test_index(const char *fresh_table)
{
	bool good = true;
	bool shifts = true;
	bool bounds = true;
	bool spec = true;

	ok(same_file(EXPO_TABLE, fresh_table), "the table is what its generator makes");

	for (int i = 0; i < 200000; i++)
	{
		double v = ldexp((double) (next_random() >> 38 | 1 << 25),
						 (int) (next_random() % 200) - 100);

		good = good && expo_index(v, 2) == index_by_power(v);
	}
	ok(good, "index equals the one of exact powers");

	for (int i = 0; i < 200000; i++)
	{
		double v = any_double();

		for (int scale = EXPO_MIN_SCALE; scale < EXPO_MAX_SCALE; scale++)
			shifts = shifts && expo_index(v, scale) == expo_index(v, scale + 1) >> 1;
	}
	ok(shifts, "a coarser index is the finer one halved, over all doubles");

	for (int scale = EXPO_MIN_SCALE; scale <= EXPO_MAX_SCALE; scale++)
		for (int32_t i = expo_index(DBL_MIN, scale) + 2; i <= expo_index(DBL_MAX, scale); i++)
		{
			double b = expo_bound(i, scale);

			bounds = bounds && expo_index(b, scale) == i - 1 &&
				expo_index(nextafter(b, INFINITY), scale) == i;
		}
	ok(bounds, "every bound of the normal range separates its buckets, at every scale");

	for (int e = -1074; e <= 1023; e++)
		spec = spec && expo_index(ldexp(1, e), 0) == e - 1 &&
			expo_index(ldexp(1, e), 6) == e * 64 - 1;
	ok(spec, "exact powers of two belong to the bucket they close");

	ok(expo_bound(0, 6) == 1 && expo_bound(64, 6) == 2 && expo_bound(-64, 6) == 0.5 &&
		   expo_bound(1, 0) == 2 && expo_bound(1, -1) == 4 && expo_bound(INT32_MAX, 0) == DBL_MAX &&
		   expo_bound(INT32_MIN, 0) == 0 && expo_bound(-1074, 0) == DBL_TRUE_MIN &&
		   expo_bound(-1075, 0) == 0 && expo_bound(1024, 0) == DBL_MAX,
	   "bounds of powers of two, overflow and underflow");
}

/* ---- data ---- */

#define NVALUES 20000

static double values[NVALUES];

static void
generate(Generator make)
{
	for (int i = 0; i < NVALUES; i++)
		values[i] = make();
}

static int
compare_doubles(const void *a, const void *b)
{
	double x = *(const double *) a;
	double y = *(const double *) b;

	return (x > y) - (x < y);
}

/* ---- properties ---- */

static bool
is_fast_path_same(void)
{
	ExpoSketch one;
	ExpoSketch many;
	bool good = true;

	expo_init(&one, EXPO_DEFAULT_SCALE);
	expo_init(&many, EXPO_DEFAULT_SCALE);
	for (int i = 0; i < NVALUES; i++)
		good = good && expo_add(&one, values[i], 1, &heap);
	for (size_t i = 0; i < NVALUES;)
	{
		size_t n = 1 + next_random() % 700;

		n = n < NVALUES - i ? n : NVALUES - i;
		good = good && expo_add_many(&many, values + i, n, &heap) == n;
		i += n;
	}
	good = good && same(&one, &many, false) && one.count == NVALUES;
	if (isfinite(one.sum) && isfinite(many.sum))
		good = good && fabs(one.sum - many.sum) <= 1e-9 * (fabs(one.min) + fabs(one.max)) * NVALUES;
	expo_free(&one, &heap);
	expo_free(&many, &heap);
	return good;
}

static bool
is_error_bounded(void)
{
	ExpoSketch s;
	double bound;
	bool good = true;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	expo_add_many(&s, values, NVALUES, &heap);
	bound = expo_max_relative_error(&s) * (1 + 1e-12);
	qsort(values, NVALUES, sizeof(double), compare_doubles);
	for (int i = 0; i <= 1000; i++)
	{
		double q = i / 1000.0;
		int rank = (int) ceil(q * NVALUES);
		double exact = values[rank > 0 ? rank - 1 : 0];
		double got = expo_quantile(&s, q);

		if (fabs(exact) >= DBL_MIN)
			good = good && fabs(got - exact) <= bound * fabs(exact);
		good = good && got >= s.min && got <= s.max && (exact != 0 || got == 0);
	}
	good = good && expo_quantile(&s, 0) == values[0] && expo_quantile(&s, 1) == values[NVALUES - 1];
	expo_free(&s, &heap);
	return good;
}

#define NPARTS 16

/* Merge the parts in a random order, as sketches or encoded, one by one or in pairs. */
static void
merge_parts(const ExpoSketch *parts, ExpoSketch *all)
{
	ExpoSketch heaps[NPARTS];
	int n = NPARTS;

	for (int i = 0; i < n; i++)
		expo_copy(&heaps[i], &parts[i], &heap);
	while (n > 1)
	{
		int i = (int) (next_random() % n);
		ExpoSketch taken = heaps[i];
		ExpoSketch *into;

		heaps[i] = heaps[--n];
		into = &heaps[next_random() % n];
		if (next_random() & 1)
			expo_merge(into, &taken, &heap);
		else
		{
			Bytes b = encode(&taken);
			size_t used;

			if (expo_merge_encoded(into, b.data, b.len, &used, &heap) != EXPO_OK)
				abort();
			free(b.data);
		}
		expo_free(&taken, &heap);
	}
	*all = heaps[0];
}

static bool
is_merge_exact(void)
{
	ExpoSketch whole;
	ExpoSketch parts[NPARTS];
	bool good = true;

	expo_init(&whole, EXPO_DEFAULT_SCALE);
	expo_add_many(&whole, values, NVALUES, &heap);
	for (int i = 0; i < NPARTS; i++)
		expo_init(&parts[i], EXPO_DEFAULT_SCALE);
	for (int i = 0; i < NVALUES; i++)
		expo_add(&parts[next_random() % (next_random() % NPARTS + 1)], values[i], 1, &heap);
	for (int round = 0; round < 20; round++)
	{
		ExpoSketch all;

		merge_parts(parts, &all);
		good = good && same(&whole, &all, false);
		expo_free(&all, &heap);
	}
	for (int i = 0; i < NPARTS; i++)
		expo_free(&parts[i], &heap);
	expo_free(&whole, &heap);
	return good;
}

static bool
is_downscale_exact(void)
{
	ExpoSketch fine;
	bool good = true;

	for (int scale = EXPO_MAX_SCALE; scale > EXPO_MIN_SCALE; scale--)
	{
		ExpoSketch coarse;

		expo_init(&fine, scale);
		expo_init(&coarse, scale - 1);
		expo_add_many(&fine, values, NVALUES, &heap);
		expo_add_many(&coarse, values, NVALUES, &heap);
		expo_downscale(&fine, scale - 1);
		good = good && same(&fine, &coarse, true) && survives_codec(&fine);
		expo_free(&coarse, &heap);
		expo_free(&fine, &heap);
	}
	return good;
}

/* Every length from nothing on, where the two modes take turns. */
static bool
is_codec_exact(void)
{
	ExpoSketch s;
	bool good;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	good = survives_codec(&s);
	for (int i = 0; i < NVALUES; i++)
	{
		expo_add(&s, values[i], 1, &heap);
		if (i < 300 || i % 1000 == 0)
			good = good && survives_codec(&s);
	}
	expo_free(&s, &heap);
	return good;
}

static void
test_properties(void)
{
	char name[100];

	for (size_t i = 0; i < NGENERATORS; i++)
	{
		generate(generators[i].make);
#define PROPERTY(check, text)                                                                      \
	snprintf(name, sizeof(name), "%s: %s", generators[i].name, text);                              \
	ok(check(), name)
		PROPERTY(is_fast_path_same, "adding many is adding one by one");
		PROPERTY(is_merge_exact, "merging in any order gives the bytes of all values");
		PROPERTY(is_downscale_exact, "down-scaling is recording at the lower scale");
		PROPERTY(is_codec_exact, "decoding gives back what was encoded");
		PROPERTY(is_error_bounded, "percentiles keep the guaranteed error");
	}
}

/* ---- single cases ---- */

static void
test_empty(void)
{
	ExpoSketch s;
	double q[2] = {0.5, 1};
	double out[2] = {0, 0};

	expo_init(&s, EXPO_DEFAULT_SCALE);
	expo_quantiles(&s, q, 2, out);
	ok(isnan(expo_quantile(&s, 0.5)) && isnan(out[0]) && isnan(out[1]), "no percentile of nothing");
	ok(s.count == 0 && s.min > s.max && blocks == 0, "an empty sketch has no memory");
	ok(fabs(expo_max_relative_error(&s) - 0.005415) < 1e-6, "guaranteed error at scale 6");
}

static void
test_refused_values(void)
{
	ExpoSketch s;
	double batch[5] = {1, 2, NAN, 3, 4};

	expo_init(&s, EXPO_DEFAULT_SCALE);
	ok(!expo_add(&s, NAN, 1, &heap) && !expo_add(&s, INFINITY, 1, &heap) &&
		   !expo_add(&s, -INFINITY, 1, &heap) && s.count == 0,
	   "NaN and infinities are refused");
	ok(expo_add_many(&s, batch, 5, &heap) == 2 && s.count == 2 && s.sum == 3,
	   "a batch ends before a NaN");
	batch[2] = -INFINITY;
	ok(expo_add_many(&s, batch + 2, 3, &heap) == 0 && s.count == 2,
	   "nothing of a batch that starts badly");
	ok(expo_add(&s, 5, 0, &heap) && s.count == 2 && s.max == 2, "zero times is nothing");
	ok(!expo_add(&s, 5, EXPO_MAX_COUNT - 1, &heap) && s.count == 2, "the count cannot overflow");
	ok(expo_add(&s, 5, EXPO_MAX_COUNT - 2, &heap) && s.count == EXPO_MAX_COUNT,
	   "but reach its limit");
	expo_free(&s, &heap);

	expo_init(&s, EXPO_DEFAULT_SCALE);
	expo_add(&s, -0.0, 1, &heap);
	batch[0] = batch[1] = -0.0;
	expo_add_many(&s, batch, 2, &heap);
	ok(s.zero_count == 3 && !signbit(s.min) && !signbit(s.max) && !signbit(s.sum) &&
		   expo_quantile(&s, 0.5) == 0 && survives_codec(&s),
	   "negative zero is zero");
	expo_free(&s, &heap);
}

static void
test_extremes(void)
{
	ExpoSketch s;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	expo_add(&s, DBL_TRUE_MIN, 1, &heap);
	expo_add(&s, DBL_MAX, 3, &heap);
	expo_add(&s, -DBL_MAX, 1, &heap);
	ok(s.min == -DBL_MAX && s.max == DBL_MAX && isinf(s.sum) && survives_codec(&s) &&
		   s.scale == 0 && expo_quantile(&s, 0.3) == DBL_TRUE_MIN,
	   "the whole range of doubles in one sketch");
	expo_free(&s, &heap);

	expo_init(&s, EXPO_DEFAULT_SCALE);
	expo_add(&s, 1, 1, &heap);
	expo_add(&s, 1.8e19, 1, &heap);
	ok(s.scale == 6, "a span of 4096 buckets keeps the scale");
	expo_add(&s, 1.9e19, 1, &heap);
	ok(s.scale == 5 && expo_max_relative_error(&s) > 0.0108, "a wider one lowers it and says so");
	expo_free(&s, &heap);
}

/* Counters widen where the count passes four bytes, wherever that happens. */
static void
test_width(void)
{
	ExpoSketch a;
	ExpoSketch b;
	bool good;

	expo_init(&a, EXPO_DEFAULT_SCALE);
	expo_init(&b, EXPO_DEFAULT_SCALE);
	expo_add(&a, 1, UINT32_MAX, &heap);
	good = a.pos.width == 4;
	expo_add(&a, 1.001, 1, &heap);
	expo_add(&a, -7, 5, &heap);
	good = good && a.pos.width == 8 && a.neg.width == 8;
	ok(good && survives_codec(&a) && fabs(expo_quantile(&a, 0.5) - 1) < 0.00542,
	   "counters of eight bytes");

	for (int i = 0; i < 300; i++)
	{
		expo_add(&b, i + 1, 1, &heap);
		expo_add(&a, i + 1, 1, &heap);
	}
	{
		ExpoSketch c;

		expo_copy(&c, &b, &heap);
		expo_add(&c, 1, UINT32_MAX, &heap);
		expo_add(&c, 1.001, 1, &heap);
		expo_add(&c, -7, 5, &heap);
		ok(same(&a, &c, true), "widening before and after gives the same");
		expo_downscale(&c, 0);
		expo_downscale(&a, 0);
		ok(same(&a, &c, true) && survives_codec(&a), "folding wide counters");
		expo_free(&c, &heap);
	}
	expo_free(&a, &heap);
	expo_free(&b, &heap);
}

/* With an allocator that gives up after n blocks. */
static void
test_refused_memory(void)
{
	bool refused = true;
	bool coarse = true;
	bool wide = true;

	for (long n = 0; n < 12; n++)
	{
		ExpoSketch s;

		expo_init(&s, EXPO_DEFAULT_SCALE);
		budget = n;
		if (n == 0)
		{
			double batch[3] = {0, 0, 7};

			refused = !expo_add(&s, 1, 1, &heap) && !expo_add(&s, -1, 1, &heap) && s.count == 0 &&
				expo_add_many(&s, batch, 3, &heap) == 2 && s.count == 2;
		}
		else
		{
			uint64_t added = 0;

			generate(gen_any);
			for (int i = 0; i < 2000; i++)
				added += expo_add(&s, values[i], 1, &heap);
			coarse = coarse && s.count == added && added >= (n > 1 ? 2000 : 500) &&
				s.scale >= EXPO_MIN_SCALE;
			expo_add(&s, s.max, UINT32_MAX, &heap);
			wide = wide && s.pos.width != 4 && s.count == added + UINT32_MAX;
		}
		budget = -1;
		coarse = coarse && survives_codec(&s);
		expo_free(&s, &heap);
	}
	ok(refused, "no block at all: nothing is taken but zeroes");
	ok(coarse, "refused growth lowers the resolution and loses nothing");
	ok(wide, "refused widening is done in place");
}

static void
test_many_quantiles(void)
{
	ExpoSketch s;
	double q[200];
	double out[200];
	bool good = true;

	generate(gen_mixed);
	expo_init(&s, EXPO_DEFAULT_SCALE);
	expo_add_many(&s, values, NVALUES, &heap);
	for (int i = 0; i < 200; i++)
		q[i] = i % 7 == 0 ? 0.5 : uniform();
	expo_quantiles(&s, q, 200, out);
	for (int i = 0; i < 200; i++)
		good = good && out[i] == expo_quantile(&s, q[i]);
	ok(good, "many percentiles in any order are those asked for one by one");
	expo_free(&s, &heap);
}

static void
test_sizes(void)
{
	static const struct
	{
		int n;
		size_t mean;
	} sizes[] = {{1, 12}, {17, 38}, {167, 96}, {1000, 450}, {10000, 640}};
	bool good = true;

	for (int i = 0; i < 5; i++)
	{
		size_t total = 0;

		for (int round = 0; round < 50; round++)
		{
			ExpoSketch s;
			Bytes b;

			generate(gen_lognormal);
			expo_init(&s, EXPO_DEFAULT_SCALE);
			expo_add_many(&s, values, sizes[i].n, &heap);
			b = encode(&s);
			total += b.len;
			free(b.data);
			expo_free(&s, &heap);
		}
		printf("# %d lognormal values: %.1f bytes\n", sizes[i].n, total / 50.0);
		good = good && total <= sizes[i].mean * 50;
	}
	ok(good, "encoded sizes");
}

/* ---- corrupt input ---- */

/* Whatever it is: no crash, bounded memory, and what is accepted has one canonical form. */
static bool
digest(const uint8_t *data, size_t len)
{
	ExpoSketch s;
	ExpoSketch into;
	size_t used;
	bool good = true;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	expo_init(&into, EXPO_DEFAULT_SCALE);
	expo_add(&into, 3, 7, &heap);
	if (expo_decode(&s, data, len, &used, &heap) == EXPO_OK)
		good = used <= len && survives_codec(&s);
	expo_merge_encoded(&into, data, len, &used, &heap);
	expo_free(&s, &heap);
	expo_free(&into, &heap);
	return good;
}

static bool
is_cut_refused(const Bytes *b)
{
	bool good = true;

	for (size_t len = 0; len < b->len; len++)
	{
		uint8_t *cut = malloc(len ? len : 1);
		ExpoSketch s;
		size_t used;

		memcpy(cut, b->data, len);
		expo_init(&s, EXPO_DEFAULT_SCALE);
		good = good && expo_decode(&s, cut, len, &used, &heap) == EXPO_ERR_CORRUPT;
		free(cut);
	}
	return good;
}

static void
test_corrupt(void)
{
	bool cut = true;
	bool flipped = true;
	bool noise = true;

	for (size_t g = 0; g < NGENERATORS; g++)
		for (int n = 1; n <= 1000; n *= 10)
		{
			ExpoSketch s;
			Bytes b;

			generate(generators[g].make);
			expo_init(&s, EXPO_DEFAULT_SCALE);
			expo_add_many(&s, values, n, &heap);
			b = encode(&s);
			cut = cut && is_cut_refused(&b);
			for (int i = 0; i < 3000; i++)
			{
				size_t at = next_random() % b.len;
				uint8_t was = b.data[at];

				b.data[at] = (uint8_t) next_random();
				flipped = flipped && digest(b.data, b.len);
				b.data[at] = was;
			}
			free(b.data);
			expo_free(&s, &heap);
		}
	for (int i = 0; i < 200000; i++)
	{
		uint8_t data[64];

		for (int j = 0; j < 64; j++)
			data[j] = (uint8_t) next_random();
		data[0] = (data[0] & 0x3F) | 0x40;
		noise = noise && digest(data, next_random() % 65);
	}
	ok(cut, "every truncation is refused");
	ok(flipped, "every damaged byte is refused or leaves a valid sketch");
	ok(noise, "so is noise");
}

/* ---- counts below a value, standard deviation ---- */

static double
share_of(const double *v, int n, double x)
{
	int below = 0;

	for (int i = 0; i < n; i++)
		below += v[i] <= x;
	return (double) below / n;
}

/* The estimate lies between the true shares a little below and above x. */
static bool
share_is_good(const ExpoSketch *s, const double *v, int n, double x)
{
	double got = (double) expo_count_below(s, x) / n;

	return got >= share_of(v, n, x - fabs(x) * 0.0055) &&
		got <= share_of(v, n, x + fabs(x) * 0.0055);
}

static bool
stddev_is_good(const ExpoSketch *s, const double *v, int n)
{
	long double sum = 0, squares = 0, deviations = 0;

	for (int i = 0; i < n; i++)
	{
		sum += v[i];
		squares += (long double) v[i] * v[i];
	}
	for (int i = 0; i < n; i++)
		deviations += (v[i] - sum / n) * (v[i] - sum / n);
	return fabsl(expo_stddev(s) - sqrtl(deviations / n)) <=
		expo_max_relative_error(s) * sqrtl(squares / n) * 1.000001L;
}

static void
test_stats(void)
{
	enum
	{
		N = 1000
	};
	double v[N];
	bool shares = true;
	bool bounds = true;
	bool spread = true;
	ExpoSketch s;

	for (int round = 0; round < 40; round++)
	{
		expo_init(&s, EXPO_DEFAULT_SCALE);
		for (int i = 0; i < N; i++)
		{
			v[i] = exp(normal() * (1 + round % 4)) * (round % 3 == 0 && uniform() < 0.4 ? -1 : 1);
			if (round % 5 == 0 && uniform() < 0.1)
				v[i] = 0;
			expo_add(&s, v[i], 1, &heap);
		}
		for (int i = 0; i < N; i += 7)
			shares &= share_is_good(&s, v, N, v[i]) && share_is_good(&s, v, N, v[i] * 1.003);
		for (int i = -640; i <= 640; i += 13)
		{
			double bound = expo_bound(i, EXPO_DEFAULT_SCALE);

			bounds &= (double) expo_count_below(&s, bound) / N == share_of(v, N, bound);
		}
		bounds &= (double) expo_count_below(&s, 0) / N == share_of(v, N, 0) &&
			expo_count_below(&s, s.max) == N && expo_count_below(&s, s.min - 1) == 0;
		spread &= stddev_is_good(&s, v, N);
		expo_free(&s, &heap);
	}
	ok(shares, "the share of values up to x is that up to a value within 0.55 %");
	ok(bounds, "and exact at bounds of buckets, zero and the extremes");
	ok(spread, "the standard deviation is within the error times the root mean square");

	expo_init(&s, EXPO_DEFAULT_SCALE);
	ok(isnan(expo_stddev(&s)) && expo_count_below(&s, 1) == 0, "nothing of nothing");
	expo_add(&s, 3.7, 5, &heap);
	ok(expo_stddev(&s) == 0, "equal values do not spread");
	expo_add(&s, -1e308, 5, &heap);
	ok(expo_stddev(&s) > 4.9e307 && expo_stddev(&s) < 5.1e307, "large ones do not overflow");
	expo_free(&s, &heap);
}

int
main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	test_index(argv[1]);
	test_empty();
	test_refused_values();
	test_extremes();
	test_width();
	test_refused_memory();
	test_many_quantiles();
	test_stats();
	test_properties();
	test_sizes();
	test_corrupt();
	ok(blocks == 0, "all memory was given back");
	printf("1..%d\n", tests);
	return failures > 0;
}
