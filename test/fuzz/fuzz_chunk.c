/*-------------------------------------------------------------------------
 *
 * fuzz_chunk.c
 *	  libFuzzer target: decoding of chunks.
 *
 * Any input must be an error or points that encode and decode to the same again;
 * its scalars read alone must be those of the whole, and memory stays within
 * what the sketches of as many points can take.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "metrics/chunk_codec.h"

/* Two chunks are live at a time. */
const size_t memory_bound = 2 * CHUNK_MAX_UNITS * SKETCH_BOUND;

typedef struct Chunk
{
	int kind;
	int n;
	ChunkPoint points[CHUNK_MAX_UNITS];
} Chunk;

static int
decode(const uint8_t *data, size_t len, int sketches, Chunk *c)
{
	int rc = chunk_decode(data, len, sketches, c->points, &c->n, &c->kind, &heap);

	check(rc == EXPO_OK || rc == EXPO_ERR_CORRUPT);
	check(c->n <= CHUNK_MAX_UNITS && (rc != EXPO_OK || c->n > 0));
	return rc;
}

static void
free_points(Chunk *c)
{
	for (int i = 0; i < c->n; i++)
		expo_free(&c->points[i].sketch, &heap);
}

static void
check_same_scalars(const Chunk *x, const Chunk *y)
{
	check(x->kind == y->kind && x->n == y->n);
	for (int i = 0; i < x->n; i++)
	{
		const ChunkPoint *p = &x->points[i];
		const ChunkPoint *q = &y->points[i];

		/* bits: a sum may be NaN */
		check(p->unit == q->unit && p->count == q->count &&
			  memcmp(&p->sum, &q->sum, offsetof(ChunkPoint, sketch) - offsetof(ChunkPoint, sum)) ==
				  0);
	}
}

static void
check_valid(const Chunk *c)
{
	for (int i = 0; i < c->n; i++)
	{
		const ChunkPoint *p = &c->points[i];

		check(p->unit < CHUNK_MAX_UNITS && (i == 0 || p->unit > c->points[i - 1].unit));
		check(p->count > 0 && p->count <= EXPO_MAX_COUNT);
		if (c->kind == CHUNK_DISTRIBUTION)
		{
			double median = expo_quantile(&p->sketch, 0.5);

			check(p->sketch.count == p->count && median >= p->min && median <= p->max);
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static Chunk first;
	static Chunk second;

	if (decode(data, size, 1, &first) == EXPO_OK)
	{
		size_t bound = chunk_encoded_bound(first.kind, first.points, first.n);
		uint8_t *one = malloc(bound);
		uint8_t *two = malloc(bound);
		size_t len = chunk_encode(first.kind, first.points, first.n, one);

		check(len <= bound);
		check_valid(&first);
		check(decode(one, len, 1, &second) == EXPO_OK);
		check_same_scalars(&first, &second);
		check(chunk_encode(second.kind, second.points, second.n, two) == len &&
			  memcmp(one, two, len) == 0);
		free_points(&second);
		check(decode(data, size, 0, &second) == EXPO_OK);
		check_same_scalars(&first, &second);
		free(one);
		free(two);
	}
	else
		decode(data, size, 0, &second);
	free_points(&first);
	check(in_use == 0);
	return 0;
}
