/*-------------------------------------------------------------------------
 *
 * chunk_codec.c
 *	  The stored form of a chunk: one stream of bits, the lowest bit of a byte
 *	  first, the last byte filled up with zeroes.
 *
 *	  2 bits	version (1)
 *	  2 bits	kind
 *	  1 bit		the units are consecutive: 6 bits first unit, 6 bits number of
 *				points less one; or not: 64 bits, one for each unit
 *	  1 bit		of a gauge: every point saw one value; then there is no column
 *				but of that value
 *	  column	counts
 *	  values	columns of doubles: of a counter the sum; of a distribution min,
 *				max, sum; of a gauge last, first, min, max, sum
 *	  sketches	of a distribution: see chunk_codec_sketches.c
 *
 * Columns hold integers (see chunk_codec_columns.c).  Doubles become integers in one
 * of two ways, the shorter one for all columns of the chunk:
 *
 * decimal	1 bit set, 5 bits exponent: value = integer * 10^exponent, rounded
 *			to double.  Before each column 1 bit: doubles are off by some steps,
 *			as sums of fractions are; then a column of these follows it.
 * binary	1 bit clear: the double's bits, so ordered that doubles that are close
 *			are close as integers.  Before each column 6 bits: that many low bits
 *			of every number are zero and left out, as of what was a float4.
 *
 * Columns may be written as differences from what those before them let expect:
 * first from the last value before, min and max from first and last, the sum
 * from count, min and max.  Expectations are integer arithmetic or single IEEE
 * operations in a fixed order, the same on every machine.
 *
 * Min and max also tell where the buckets of the sketch begin and end: so they
 * cost only the bits that their bucket leaves open.  And no scalar depends on
 * buckets, which a read of scalars does not touch.
 *
 * The encoder has one way to write points.  The decoder takes any input.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/chunk_codec_internal.h"

#include <math.h>

#define VERSION 1

#define NAN_BITS UINT64_C(0x7FF8000000000000)

/* ---- doubles as integers ---- */

/* Powers of ten that are exact doubles, and integers. */
static const int64_t power_of_ten[] = {1,
									   10,
									   100,
									   1000,
									   10000,
									   100000,
									   1000000,
									   10000000,
									   100000000,
									   1000000000,
									   INT64_C(10000000000),
									   INT64_C(100000000000),
									   INT64_C(1000000000000),
									   INT64_C(10000000000000),
									   INT64_C(100000000000000),
									   INT64_C(1000000000000000)};

#define MAX_EXPONENT 9
#define MIN_EXPONENT (-15)
#define EXPONENT_BITS 5

/* Integers up to this are exact doubles. */
#define MAX_INTEGER (INT64_C(1) << 53)

/* A sum of many fractions is off by this much at most before other ways are better. */
#define MAX_STEPS (1 << 16)

/* Ascending with the double; 0 for 0, -1 for -0. */
static uint64_t
ordered(double v)
{
	uint64_t bits = expo_bits(v);

	return bits >> 63 ? bits ^ (uint64_t) INT64_MAX : bits;
}

static double
from_ordered(uint64_t x)
{
	return expo_from_bits(x >> 63 ? x ^ (uint64_t) INT64_MAX : x);
}

/* The same number of low bits off and on again, of one that has them zero as a magnitude. */
static inline uint64_t
cut(uint64_t x, int bits)
{
	return (uint64_t) ((int64_t) x >> bits);
}

static inline uint64_t
uncut(uint64_t x, int bits)
{
	return x << bits | (x >> 63 ? (UINT64_C(1) << bits) - 1 : 0);
}

static double
from_decimal(int64_t integer, int exponent)
{
	if (exponent < 0)
		return (double) integer / (double) power_of_ten[-exponent];
	return (double) integer * (double) power_of_ten[exponent];
}

/* The integer of v and how many doubles v is off; false when that is far. */
static bool
to_decimal(double v, int exponent, uint64_t *integer, uint64_t *steps)
{
	double scaled = exponent < 0 ? v * (double) power_of_ten[-exponent]
								 : v / (double) power_of_ten[exponent];

	if (!(fabs(scaled) < (double) MAX_INTEGER))
		return false;
	*integer = (uint64_t) (int64_t) rint(scaled);
	*steps = ordered(v) - ordered(from_decimal((int64_t) *integer, exponent));
	return *steps + MAX_STEPS <= 2 * MAX_STEPS;
}

/* ---- columns of doubles ---- */

typedef enum Role
{
	LAST,
	FIRST,
	MIN,
	MAX,
	SUM,
	NROLES
} Role;

/* In the order in which they are stored. */
typedef struct Layout
{
	int n;
	Role roles[NROLES];
} Layout;

static const Layout layouts[] = {[CHUNK_COUNTER] = {1, {SUM}},
								 [CHUNK_GAUGE] = {5, {LAST, FIRST, MIN, MAX, SUM}},
								 [CHUNK_DISTRIBUTION] = {3, {MIN, MAX, SUM}}};
static const Layout single_layout = {1, {LAST}};

/* The chunk as integers, on its way to and from points. */
typedef struct Columns
{
	int kind;
	int n;
	bool single;
	const Layout *layout;
	uint64_t count[CHUNK_MAX_UNITS];
	bool decimal;
	int exponent;
	bool off[NROLES];                          /* decimal: there are steps */
	uint64_t integer[NROLES][CHUNK_MAX_UNITS]; /* by role */
	uint64_t steps[NROLES][CHUNK_MAX_UNITS];
} Columns;

/* count times the middle of min and max; of a counter the count. */
static void
expect_sum(const Columns *c, uint64_t *expected)
{
	for (int i = 0; i < c->n; i++)
	{
		uint64_t count = c->count[i];
		uint64_t power;

		if (c->kind == CHUNK_COUNTER && !c->decimal)
			expected[i] = ordered((double) count);
		else if (c->kind == CHUNK_COUNTER)
		{
			power = (uint64_t) power_of_ten[c->exponent < 0 ? -c->exponent : c->exponent];
			expected[i] = c->exponent < 0 ? count * power : count / power;
		}
		else if (c->decimal)
		{
			uint64_t twice = count * (c->integer[MIN][i] + c->integer[MAX][i]);

			expected[i] = (uint64_t) ((int64_t) twice >> 1);
		}
		else
		{
			double both = from_ordered(c->integer[MIN][i]) + from_ordered(c->integer[MAX][i]);

			expected[i] = ordered(both * 0.5 * (double) count);
		}
	}
}

/* What the columns before this one let expect. */
static ChunkGuess
expect(const Columns *c, Role role, uint64_t *expected)
{
	const uint64_t *last = c->integer[LAST];
	const uint64_t *first = c->integer[FIRST];
	const uint64_t *min = c->integer[MIN];

	if (role == SUM)
	{
		expect_sum(c, expected);
		return GUESS_NEAR;
	}
	if (c->kind == CHUNK_DISTRIBUTION && role == MAX)
	{
		memcpy(expected, min, c->n * sizeof(*expected));
		return GUESS_ABOVE;
	}
	if (c->kind != CHUNK_GAUGE || role == LAST)
		return GUESS_NONE;
	for (int i = 0; i < c->n; i++)
	{
		bool rising = (int64_t) last[i] > (int64_t) first[i];

		if (role == FIRST)
			expected[i] = last[i > 0 ? i - 1 : 0];
		else if (role == MIN)
			expected[i] = rising ? first[i] : last[i];
		else
			expected[i] = rising ? last[i] : first[i];
	}
	return role == FIRST ? GUESS_NEAR : role == MIN ? GUESS_BELOW : GUESS_ABOVE;
}

/* ---- encoding ---- */

static double
point_double(int kind, const ChunkPoint *p, Role role)
{
	bool is_distribution = kind == CHUNK_DISTRIBUTION;
	double sum = is_distribution ? p->sketch.sum : p->sum;

	switch (role)
	{
		case LAST:
			return p->last;
		case FIRST:
			return p->first;
		case MIN:
			return is_distribution ? p->sketch.min : p->min;
		case MAX:
			return is_distribution ? p->sketch.max : p->max;
		default:
			/* of NaNs there are many, and which one it is depends on the machine */
			return isnan(sum) ? expo_from_bits(NAN_BITS) : sum;
	}
}

static bool
is_single(int kind, const ChunkPoint *points, int n)
{
	for (int i = 0; i < n; i++)
	{
		uint64_t bits = expo_bits(points[i].last);

		if (kind != CHUNK_GAUGE || points[i].count != 1 || expo_bits(points[i].first) != bits ||
			expo_bits(points[i].min) != bits || expo_bits(points[i].max) != bits ||
			expo_bits(points[i].sum) != bits)
			return false;
	}
	return true;
}

static bool
fill_decimal(Columns *c, const ChunkPoint *points)
{
	for (int r = 0; r < c->layout->n; r++)
	{
		Role role = c->layout->roles[r];
		uint64_t off = 0;

		for (int i = 0; i < c->n; i++)
		{
			if (!to_decimal(point_double(c->kind, &points[i], role), c->exponent,
							&c->integer[role][i], &c->steps[role][i]))
				return false;
			off |= c->steps[role][i];
		}
		c->off[role] = off != 0;
	}
	return true;
}

/* The integers of the coarsest power of ten; false when no power fits all. */
static bool
find_decimal(Columns *c, const ChunkPoint *points)
{
	c->decimal = true;
	for (c->exponent = MAX_EXPONENT; c->exponent >= MIN_EXPONENT; c->exponent--)
		if (fill_decimal(c, points))
			return true;
	return false;
}

static void
fill_binary(Columns *c, const ChunkPoint *points)
{
	c->decimal = false;
	for (int r = 0; r < c->layout->n; r++)
		for (int i = 0; i < c->n; i++)
		{
			Role role = c->layout->roles[r];

			c->integer[role][i] = ordered(point_double(c->kind, &points[i], role));
		}
}

/* Low bits that no number of a binary column has. */
static int
zero_bits(const uint64_t *x, int n)
{
	uint64_t any = 0;

	for (int i = 0; i < n; i++)
		any |= x[i] >> 63 ? ~x[i] : x[i];
	return any == 0 ? 0 : __builtin_ctzll(any);
}

static void
put_binary(ChunkWriter *out, const Columns *c, Role role, ChunkGuess guess, uint64_t *expected)
{
	uint64_t x[CHUNK_MAX_UNITS] = {0};
	int bits = zero_bits(c->integer[role], c->n);

	for (int i = 0; i < c->n; i++)
	{
		x[i] = cut(c->integer[role][i], bits);
		expected[i] = cut(expected[i], bits);
	}
	chunk_put(out, (uint64_t) bits, 6);
	chunk_put_column(out, x, c->n, guess, expected);
}

static void
put_decimal(ChunkWriter *out, const Columns *c, Role role, ChunkGuess guess, uint64_t *expected)
{
	chunk_put(out, c->off[role], 1);
	chunk_put_column(out, c->integer[role], c->n, guess, expected);
	if (c->off[role])
		chunk_put_column(out, c->steps[role], c->n, GUESS_NONE, NULL);
}

static void
put_values(ChunkWriter *out, const Columns *c)
{
	chunk_put(out, c->decimal, 1);
	if (c->decimal)
		chunk_put(out, (uint64_t) (c->exponent - MIN_EXPONENT), EXPONENT_BITS);
	for (int r = 0; r < c->layout->n; r++)
	{
		Role role = c->layout->roles[r];
		uint64_t expected[CHUNK_MAX_UNITS] = {0};
		ChunkGuess guess = expect(c, role, expected);

		if (c->decimal)
			put_decimal(out, c, role, guess, expected);
		else
			put_binary(out, c, role, guess, expected);
	}
}

static uint64_t
values_bits(const Columns *c)
{
	ChunkWriter counting = {{NULL, 0, 0}, 0};

	put_values(&counting, c);
	return counting.total;
}

/* Decimal or binary, whichever is shorter. */
static void
fill_values(Columns *c, const ChunkPoint *points)
{
	uint64_t decimal_bits = find_decimal(c, points) ? values_bits(c) : UINT64_MAX;
	int exponent = c->exponent;

	fill_binary(c, points);
	if (decimal_bits <= values_bits(c))
	{
		c->decimal = true;
		c->exponent = exponent;
		fill_decimal(c, points);
	}
}

static void
put_units(ChunkWriter *out, const ChunkPoint *points, int n)
{
	uint64_t units = 0;
	bool consecutive = points[n - 1].unit - points[0].unit == n - 1;

	chunk_put(out, consecutive, 1);
	if (consecutive)
	{
		chunk_put(out, points[0].unit, 6);
		chunk_put(out, (uint64_t) (n - 1), 6);
		return;
	}
	for (int i = 0; i < n; i++)
		units |= UINT64_C(1) << points[i].unit;
	chunk_put_long(out, units, 64);
}

size_t
chunk_encoded_bound(int kind, const ChunkPoint *points, int n)
{
	/* header, count, values and their steps */
	size_t bound = 16 + (1 + 2 * NROLES) * CHUNK_COLUMN_BOUND(n);

	return bound + (kind == CHUNK_DISTRIBUTION ? chunk_sketches_bound(points, n) : 0);
}

size_t
chunk_encode(int kind, const ChunkPoint *points, int n, uint8_t *buf)
{
	ChunkWriter out = {{buf, 0, 0}, 0};
	Columns c;

	c.kind = kind;
	c.n = n;
	c.single = is_single(kind, points, n);
	c.layout = c.single ? &single_layout : &layouts[kind];
	for (int i = 0; i < n; i++)
		c.count[i] = kind == CHUNK_DISTRIBUTION ? points[i].sketch.count : points[i].count;
	fill_values(&c, points);

	chunk_put(&out, VERSION, 2);
	chunk_put(&out, (uint64_t) kind, 2);
	put_units(&out, points, n);
	if (kind == CHUNK_GAUGE)
		chunk_put(&out, c.single, 1);
	if (!c.single)
		chunk_put_column(&out, c.count, n, GUESS_NONE, NULL);
	put_values(&out, &c);
	if (kind == CHUNK_DISTRIBUTION)
		chunk_put_sketches(&out, points, n);
	return (size_t) (expo_flush_bits(&out.w) - buf);
}

/* ---- decoding ---- */

static bool
get_units(ExpoBitReader *br, uint64_t *units, int *n)
{
	uint64_t consecutive;
	uint64_t first;
	uint64_t last;

	if (!chunk_get(br, 1, &consecutive))
		return false;
	if (!consecutive)
	{
		if (!chunk_get_long(br, 64, units))
			return false;
		*n = __builtin_popcountll(*units);
		return *n > 0;
	}
	if (!chunk_get(br, 6, &first) || !chunk_get(br, 6, &last) || first + last >= CHUNK_MAX_UNITS)
		return false;
	*units = (UINT64_MAX >> (63 - last)) << first;
	*n = (int) last + 1;
	return true;
}

/* What every stored chunk begins with; clears the points. */
static bool
get_header(ExpoBitReader *br, Columns *c, ChunkPoint *points)
{
	uint64_t version;
	uint64_t kind;
	uint64_t single = 0;
	uint64_t units;
	int n;
	ChunkPoint empty = {0};

	if (!chunk_get(br, 2, &version) || version != VERSION || !chunk_get(br, 2, &kind) ||
		kind < CHUNK_COUNTER || kind > CHUNK_DISTRIBUTION || !get_units(br, &units, &n) ||
		(kind == CHUNK_GAUGE && !chunk_get(br, 1, &single)))
		return false;
	c->kind = (int) kind;
	c->single = single;
	c->layout = single ? &single_layout : &layouts[kind];
	c->n = n;
	expo_init(&empty.sketch, EXPO_DEFAULT_SCALE);
	for (int i = 0; i < n; i++, units &= units - 1)
	{
		points[i] = empty;
		points[i].unit = (uint8_t) __builtin_ctzll(units);
	}
	return true;
}

static bool
get_counts(ExpoBitReader *br, Columns *c, ChunkPoint *points)
{
	if (!c->single && !chunk_get_column(br, c->count, c->n, GUESS_NONE, NULL))
		return false;
	for (int i = 0; i < c->n; i++)
	{
		points[i].count = c->single ? 1 : c->count[i];
		if (points[i].count == 0 || points[i].count > EXPO_MAX_COUNT)
			return false;
	}
	return true;
}

static bool
get_binary(ExpoBitReader *br, Columns *c, Role role, ChunkGuess guess, uint64_t *expected)
{
	uint64_t *x = c->integer[role];
	uint64_t bits;

	if (!chunk_get(br, 6, &bits))
		return false;
	for (int i = 0; i < c->n && bits > 0; i++)
		expected[i] = cut(expected[i], (int) bits);
	if (!chunk_get_column(br, x, c->n, guess, expected))
		return false;
	for (int i = 0; i < c->n && bits > 0; i++)
		x[i] = uncut(x[i], (int) bits);
	return true;
}

static bool
get_decimal(ExpoBitReader *br, Columns *c, Role role, ChunkGuess guess, const uint64_t *expected)
{
	const uint64_t *x = c->integer[role];
	uint64_t off;
	bool good = true;

	if (!chunk_get(br, 1, &off) || !chunk_get_column(br, c->integer[role], c->n, guess, expected))
		return false;
	for (int i = 0; i < c->n; i++)
		good &= x[i] + MAX_INTEGER <= 2 * (uint64_t) MAX_INTEGER;
	c->off[role] = off;
	return good && (!off || chunk_get_column(br, c->steps[role], c->n, GUESS_NONE, NULL));
}

static bool
get_columns(ExpoBitReader *br, Columns *c)
{
	uint64_t decimal;
	uint64_t exponent = 0;

	if (!chunk_get(br, 1, &decimal) || (decimal && !chunk_get(br, EXPONENT_BITS, &exponent)) ||
		exponent > MAX_EXPONENT - MIN_EXPONENT)
		return false;
	c->decimal = decimal;
	c->exponent = (int) exponent + MIN_EXPONENT;
	for (int r = 0; r < c->layout->n; r++)
	{
		Role role = c->layout->roles[r];
		uint64_t expected[CHUNK_MAX_UNITS] = {0};
		ChunkGuess guess = expect(c, role, expected);

		if (!(c->decimal ? get_decimal(br, c, role, guess, expected)
						 : get_binary(br, c, role, guess, expected)))
			return false;
	}
	return true;
}

static void
column_doubles(const Columns *c, Role role, double *v)
{
	const uint64_t *x = c->integer[role];

	if (!c->decimal)
		for (int i = 0; i < c->n; i++)
			v[i] = from_ordered(x[i]);
	else
		for (int i = 0; i < c->n; i++)
			v[i] = from_decimal((int64_t) x[i], c->exponent);
	if (c->decimal && c->off[role])
		for (int i = 0; i < c->n; i++)
			v[i] = from_ordered(ordered(v[i]) + c->steps[role][i]);
}

static inline double *
field(ChunkPoint *p, Role role)
{
	return role == LAST ? &p->last
		: role == FIRST ? &p->first
		: role == MIN   ? &p->min
		: role == MAX   ? &p->max
						: &p->sum;
}

/* A column's numbers into the points; only a sum may have overflown. */
static bool
set_doubles(const Columns *c, Role role, ChunkPoint *points)
{
	double v[CHUNK_MAX_UNITS];
	bool good = true;

	column_doubles(c, role, v);
	for (int i = 0; i < c->n; i++)
	{
		good &= expo_is_finite(v[i]);
		if (role == SUM && isnan(v[i]))
			v[i] = expo_from_bits(NAN_BITS);
	}
	for (int i = 0; i < c->n; i++)
		*field(&points[i], role) = v[i];
	for (int i = 0; i < c->n && c->single; i++)
		points[i].sum = points[i].min = points[i].max = points[i].first = v[i];
	return good || role == SUM;
}

static bool
get_values(ExpoBitReader *br, Columns *c, ChunkPoint *points)
{
	if (!get_columns(br, c))
		return false;
	for (int r = 0; r < c->layout->n; r++)
		if (!set_doubles(c, c->layout->roles[r], points))
			return false;
	for (int i = 0; i < c->n && c->kind == CHUNK_DISTRIBUTION; i++)
	{
		/* a sketch has no negative zero */
		points[i].min += 0.0;
		points[i].max += 0.0;
		points[i].sum += 0.0;
		if (points[i].min > points[i].max)
			return false;
	}
	return true;
}

/* Nothing is left but the zeroes that fill up the last byte. */
static bool
is_at_end(const ExpoBitReader *br)
{
	return br->r->p == br->r->end && br->n < 8 && br->bits == 0;
}

int
chunk_decode(const uint8_t *buf, size_t len, bool sketches, ChunkPoint *points, int *n, int *kind,
			 const ExpoAllocator *alloc)
{
	ExpoReader r = {buf, buf + len};
	ExpoBitReader br = {&r, 0, 0};
	Columns c;

	*n = 0;
	if (!get_header(&br, &c, points))
		return EXPO_ERR_CORRUPT;
	*n = c.n;
	*kind = c.kind;
	if (!get_counts(&br, &c, points) || !get_values(&br, &c, points))
		return EXPO_ERR_CORRUPT;
	if (c.kind == CHUNK_DISTRIBUTION && !sketches)
		return EXPO_OK;
	if (c.kind == CHUNK_DISTRIBUTION)
	{
		int rc = chunk_get_sketches(&br, points, c.n, alloc);

		if (rc != EXPO_OK)
			return rc;
	}
	return is_at_end(&br) ? EXPO_OK : EXPO_ERR_CORRUPT;
}
