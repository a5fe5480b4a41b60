/*-------------------------------------------------------------------------
 *
 * fuzz_segment.c
 *	  libFuzzer target: directories and points of segments.
 *
 * The first two bytes say how many entries the directory has, the rest is
 * directory and points.  Whatever they are, every range lies within the points,
 * and a point is an error or one that has one encoded form.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

#include "metrics/segment_codec.h"

/* A point and its copy. */
const size_t memory_bound = 2 * SKETCH_BOUND;

static void
check_point(const uint8_t *data, size_t len)
{
	SegmentPoint p, again;
	uint8_t *first, *second;
	size_t size;
	int rc = segment_point_decode(data, len, &p, &heap);

	check(rc == EXPO_OK || rc == EXPO_ERR_CORRUPT);
	if (rc != EXPO_OK)
		return;
	check(p.count > 0 && p.count <= EXPO_MAX_COUNT);
	first = malloc(segment_point_bound(&p));
	second = malloc(segment_point_bound(&p));
	size = segment_point_encode(&p, first);
	check(size <= segment_point_bound(&p));
	check(segment_point_decode(first, size, &again, &heap) == EXPO_OK);
	check(p.kind == again.kind && p.first_us == again.first_us && p.last_us == again.last_us &&
		  p.count == again.count);
	/* bytes, not values: a sum may be NaN */
	check(segment_point_encode(&again, second) == size && memcmp(first, second, size) == 0);
	expo_free(&p.sketch, &heap);
	expo_free(&again.sketch, &heap);
	free(first);
	free(second);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n;
	const uint8_t *points;
	size_t points_len;

	if (size < 2)
		return 0;
	n = data[0] | (size_t) data[1] << 8;
	data += 2;
	size -= 2;
	check_point(data, size);
	if (n > size / SEGMENT_DIRECTORY_ENTRY)
		n = size / SEGMENT_DIRECTORY_ENTRY;
	points = data + n * SEGMENT_DIRECTORY_ENTRY;
	points_len = size - n * SEGMENT_DIRECTORY_ENTRY;
	for (size_t i = 0; i < n; i++)
	{
		uint8_t entry[SEGMENT_DIRECTORY_ENTRY];
		uint32_t offset, end;

		segment_entry_put(entry, segment_entry_id(data, i), segment_entry_offset(data, i));
		check(memcmp(entry, data + i * SEGMENT_DIRECTORY_ENTRY, sizeof(entry)) == 0);
		if (segment_entry_range(data, n, i, points_len, &offset, &end))
			check_point(points + offset, end - offset);
	}
	return 0;
}
