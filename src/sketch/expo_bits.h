/*-------------------------------------------------------------------------
 *
 * expo_bits.h
 *	  Streams of bits, for the codecs of sketches and of chunks.
 *
 * The lowest bit of a byte comes first, whatever the machine's byte order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EXPO_BITS_H
#define EXPO_BITS_H

#include "expo_internal.h"

static inline int
expo_log2_floor(uint64_t v)
{
	return 63 - __builtin_clzll(v | 1);
}

static inline uint64_t
expo_zigzag(int64_t v)
{
	return ((uint64_t) v << 1) ^ -(uint64_t) (v < 0);
}

static inline int64_t
expo_unzigzag(uint64_t v)
{
	return (int64_t) ((v >> 1) ^ -(v & 1));
}

typedef struct ExpoBitWriter
{
	uint8_t *p;
	uint64_t bits;
	int n; /* bits waiting, less than 8 between calls */
} ExpoBitWriter;

/* n <= 56 */
static inline void
expo_put_bits(ExpoBitWriter *w, uint64_t bits, int n)
{
	w->bits |= bits << w->n;
	w->n += n;
	for (; w->n >= 8; w->n -= 8, w->bits >>= 8)
		*w->p++ = (uint8_t) w->bits;
}

/* The last byte, filled up with zeroes; returns where the next one goes. */
static inline uint8_t *
expo_flush_bits(ExpoBitWriter *w)
{
	if (w->n > 0)
		*w->p++ = (uint8_t) w->bits;
	w->bits = 0;
	w->n = 0;
	return w->p;
}

typedef struct ExpoReader
{
	const uint8_t *p;
	const uint8_t *end;
} ExpoReader;

typedef struct ExpoBitReader
{
	ExpoReader *r;
	uint64_t bits; /* zero above the n bits in hand */
	int n;
} ExpoBitReader;

/* Take as many whole bytes as fit: at least 56 bits in hand unless the input ends. */
static inline void
expo_refill(ExpoBitReader *br)
{
	ExpoReader *r = br->r;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	if (EXPO_LIKELY(r->end - r->p >= 8 && br->n < 56))
	{
		uint64_t word;
		int bytes = (63 - br->n) / 8;

		memcpy(&word, r->p, sizeof(word));
		br->bits |= (word & ((UINT64_C(1) << (8 * bytes)) - 1)) << br->n;
		br->n += 8 * bytes;
		r->p += bytes;
		return;
	}
#endif
	while (br->n <= 55 && r->p < r->end)
	{
		br->bits |= (uint64_t) *r->p++ << br->n;
		br->n += 8;
	}
}

#endif /* EXPO_BITS_H */
