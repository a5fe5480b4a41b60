/*-------------------------------------------------------------------------
 *
 * chunk_codec_internal.h
 *	  What the plain C files of chunks share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CHUNK_CODEC_INTERNAL_H
#define CHUNK_CODEC_INTERNAL_H

#include "metrics/chunk_codec.h"
#include "sketch/expo_bits.h"

/*
 * A code is a Rice code with a way out: quotient by 2^k as that many zero bits
 * and a one, then k bits of remainder; or, instead of CODE_ESCAPE zero bits or
 * more, CODE_ESCAPE zero bits, six bits of length less one and the number.
 */
#define CODE_ESCAPE 24
#define CODE_MAX_K 32
#define CODE_MAX_BITS (CODE_ESCAPE + 6 + 64)

/* Without buffer it only counts: so sizes are compared before a way is chosen. */
typedef struct ChunkWriter
{
	ExpoBitWriter w;
	uint64_t total; /* bits */
} ChunkWriter;

/* n <= 56 */
static inline void
chunk_put(ChunkWriter *out, uint64_t bits, int n)
{
	out->total += n;
	if (out->w.p)
		expo_put_bits(&out->w, bits, n);
}

static inline int
chunk_bit_length(uint64_t v)
{
	return expo_log2_floor(v) + 1;
}

static inline int
chunk_code_bits(uint64_t v, int k)
{
	uint64_t quotient = v >> k;

	return quotient < CODE_ESCAPE ? (int) quotient + 1 + k : CODE_ESCAPE + 6 + chunk_bit_length(v);
}

/* n <= 56 */
static inline bool
chunk_get(ExpoBitReader *br, int n, uint64_t *v)
{
	if (br->n < n)
	{
		expo_refill(br);
		if (br->n < n)
			return false;
	}
	*v = br->bits & ((UINT64_C(1) << n) - 1);
	br->bits >>= n;
	br->n -= n;
	return true;
}

extern void chunk_put_long(ChunkWriter *out, uint64_t bits, int n);
extern void chunk_put_escaped(ChunkWriter *out, uint64_t v);
extern bool chunk_get_long(ExpoBitReader *br, int n, uint64_t *v);
extern bool chunk_get_escaped(ExpoBitReader *br, uint64_t *v);

static inline void
chunk_put_code(ChunkWriter *out, uint64_t v, int k)
{
	uint64_t quotient = v >> k;
	uint64_t rest = v & ((UINT64_C(1) << k) - 1);

	if (EXPO_LIKELY(quotient < CODE_ESCAPE))
		chunk_put(out, (rest << 1 | 1) << quotient, (int) quotient + 1 + k);
	else
		chunk_put_escaped(out, v);
}

static inline bool
chunk_get_code(ExpoBitReader *br, int k, uint64_t *v)
{
	int zeroes;
	int length;

	if (br->n < CODE_ESCAPE + k)
		expo_refill(br);
	if (EXPO_UNLIKELY((br->bits & ((1 << CODE_ESCAPE) - 1)) == 0))
		return chunk_get_escaped(br, v);
	zeroes = __builtin_ctzll(br->bits);
	length = zeroes + 1 + k;
	if (EXPO_UNLIKELY(length > br->n))
		return false;
	*v = (uint64_t) zeroes << k | (br->bits >> (zeroes + 1) & ((UINT64_C(1) << k) - 1));
	br->bits >>= length;
	br->n -= length;
	return true;
}

/* ---- chunk_codec_columns.c: a number of each point ---- */

/* What a column may be told about its numbers. */
typedef enum ChunkGuess
{
	GUESS_NONE,
	GUESS_NEAR,  /* near the expected number */
	GUESS_ABOVE, /* not below it, as a rule */
	GUESS_BELOW  /* not above it, as a rule */
} ChunkGuess;

/* Room of a column of n numbers, in bytes. */
#define CHUNK_COLUMN_BOUND(n) (((n) + 3) * sizeof(uint64_t))

extern void chunk_put_column(ChunkWriter *out, const uint64_t *x, int n, ChunkGuess guess,
							 const uint64_t *expected);
extern bool chunk_get_column(ExpoBitReader *br, uint64_t *x, int n, ChunkGuess guess,
							 const uint64_t *expected);

/* ---- chunk_codec_sketches.c ---- */
extern size_t chunk_sketches_bound(const ChunkPoint *points, int n);
extern void chunk_put_sketches(ChunkWriter *out, const ChunkPoint *points, int n);
/* Fills each point's sketch, of which count, sum, min and max are known. */
extern int chunk_get_sketches(ExpoBitReader *br, ChunkPoint *points, int n,
							  const ExpoAllocator *alloc);

#endif /* CHUNK_CODEC_INTERNAL_H */
