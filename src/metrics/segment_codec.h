/*-------------------------------------------------------------------------
 *
 * segment_codec.h
 *	  Directory and points of a segment, in plain C without server headers, so
 *	  that they are fuzzed without a server.
 *
 * directory	per series, by ascending id: int64 id, uint32 offset of its point
 *				(both little-endian), so that one series is found by bisection
 *				and the two columns can be read by slices
 * points		per series: kind and flag (1 byte), then
 *				  counter	   varint count, then the sum as float8 or, with
 *							   the flag, as varint
 *				  gauge		   varint microseconds from the start to last, then
 *							   with the flag one value as float8, else varint
 *							   count, varint microseconds to first, and float8
 *							   sum, min, max, first, last
 *				  distribution the encoded sketch (expo_encode)
 *
 *-------------------------------------------------------------------------
 */
#ifndef SEGMENT_CODEC_H
#define SEGMENT_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sketch/expo_sketch.h"

#define SEGMENT_DIRECTORY_ENTRY 12 /* bytes */

/* Kinds as in MonMetricKind. */
#define SEGMENT_COUNTER 1
#define SEGMENT_GAUGE 2
#define SEGMENT_DISTRIBUTION 3

typedef struct SegmentPoint
{
	int kind;
	uint64_t first_us; /* gauge: microseconds from the start to first, and to last */
	uint64_t last_us;
	uint64_t count;
	double sum, min, max, first,
		last;          /* finite but for sums that have overflown; a counter has its sum only */
	ExpoSketch sketch; /* distributions; holds the rest too */
} SegmentPoint;

extern size_t segment_point_bound(const SegmentPoint *p);
extern size_t segment_point_encode(const SegmentPoint *p, uint8_t *buf);

/*
 * Decode a point that takes all of the bytes.  Any byte string is safe input.
 * Returns EXPO_OK or one of EXPO_ERR_*; a sketch is the caller's to free.
 */
extern int segment_point_decode(const uint8_t *buf, size_t len, SegmentPoint *p,
								const ExpoAllocator *alloc);

extern void segment_entry_put(uint8_t *entry, int64_t id, uint32_t offset);
extern int64_t segment_entry_id(const uint8_t *directory, size_t i);
extern uint32_t segment_entry_offset(const uint8_t *directory, size_t i);

/* Where the point of the i-th of n entries lies; false when the directory is corrupt. */
extern bool segment_entry_range(const uint8_t *directory, size_t n, size_t i, size_t points_len,
								uint32_t *offset, uint32_t *end);

#endif /* SEGMENT_CODEC_H */
