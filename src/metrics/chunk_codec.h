/*-------------------------------------------------------------------------
 *
 * chunk_codec.h
 *	  Chunks: the points of one series over one period, in plain C without
 *	  server headers, so that they are unit-tested and fuzzed without a server.
 *
 * The same form serves every level: an hour of minutes, a day of hours, a month
 * of days.  A point is what one unit of the period saw; units without data have
 * no point.  Scalars come first and sketches last, so that a read of counts or
 * sums decodes no sketch.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CHUNK_CODEC_H
#define CHUNK_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sketch/expo_sketch.h"

#define CHUNK_MAX_UNITS 64

/* Kinds as in MonMetricKind. */
#define CHUNK_COUNTER 1
#define CHUNK_GAUGE 2
#define CHUNK_DISTRIBUTION 3

typedef struct ChunkPoint
{
	uint8_t unit; /* minute of the hour, hour of the day, day of the month; below CHUNK_MAX_UNITS */
	uint64_t count;
	double sum;
	double min, max, first, last; /* gauges; a distribution has min and max only */
	ExpoSketch sketch;            /* distributions; holds count, sum, min and max too */
} ChunkPoint;

/*
 * Encode 1..CHUNK_MAX_UNITS points in ascending order of unit.  Counts are
 * 1..EXPO_MAX_COUNT, doubles finite but for sums, which may have overflown.  A
 * distribution's count, sum, min and max are taken from its sketch.  Every bit
 * comes back (of a NaN sum only that it is one).  Equal points give equal bytes.
 */
extern size_t chunk_encoded_bound(int kind, const ChunkPoint *points, int n);
extern size_t chunk_encode(int kind, const ChunkPoint *points, int n, uint8_t *buf);

/*
 * Decoding.  Any byte string is safe input.  chunk_decode() fills n points of
 * at most CHUNK_MAX_UNITS; without sketches they have an empty sketch and `alloc`
 * is not used, with them each sketch is the caller's to free, after an error too.
 * When memory for more is refused, sketches are down-scaled as when recorded.
 * Returns EXPO_OK or one of EXPO_ERR_*.
 */
extern int chunk_decode(const uint8_t *buf, size_t len, bool sketches, ChunkPoint *points, int *n,
						int *kind, const ExpoAllocator *alloc);

#endif /* CHUNK_CODEC_H */
