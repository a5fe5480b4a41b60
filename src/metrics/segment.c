/*-------------------------------------------------------------------------
 *
 * segment.c
 *	  The stored form of a flush: a directory and the points it leads to.
 *
 * directory	per series, by ascending id: int64 id, uint32 offset of its point
 *				(both little-endian), so that one series is found by bisection
 *				and the two columns can be read by slices
 * points		per series: kind (1 byte), then
 *				  counter	   varint count, float8 sum
 *				  gauge		   varint count, float8 sum, min, max, last,
 *							   varint microseconds from the slot's start to last
 *				  distribution the encoded sketch (expo_encode)
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include "port/pg_bswap.h"

#define DIRECTORY_ENTRY 12
#define MAX_VARINT 10

static inline uint64
to_little_endian64(uint64 x)
{
#ifdef WORDS_BIGENDIAN
	return pg_bswap64(x);
#else
	return x;
#endif
}

static inline uint32
to_little_endian32(uint32 x)
{
#ifdef WORDS_BIGENDIAN
	return pg_bswap32(x);
#else
	return x;
#endif
}

/* ---- writing ---- */

static void
put_varint(StringInfo buf, uint64 x)
{
	while (x >= 0x80)
	{
		appendStringInfoCharMacro(buf, (char) (x | 0x80));
		x >>= 7;
	}
	appendStringInfoCharMacro(buf, (char) x);
}

static void
put_double(StringInfo buf, double d)
{
	uint64 bits;

	memcpy(&bits, &d, sizeof(bits));
	bits = to_little_endian64(bits);
	appendBinaryStringInfo(buf, (char *) &bits, sizeof(bits));
}

/* The two buffers start with room for a varlena header, so that they can be stored as they are. */
void
mon_segment_begin(SegmentBuilder *b)
{
	initStringInfo(&b->directory);
	appendStringInfoSpaces(&b->directory, VARHDRSZ);
	initStringInfo(&b->points);
	appendStringInfoSpaces(&b->points, VARHDRSZ);
	b->nseries = 0;
}

static void
put_sketch(StringInfo buf, const ExpoSketch *sketch)
{
	size_t bound = expo_encoded_bound(sketch);

	enlargeStringInfo(buf, bound);
	buf->len += expo_encode(sketch, (uint8_t *) buf->data + buf->len);
}

/* Append a series' point; ids must ascend. */
void
mon_segment_add(SegmentBuilder *b, int64 series_id, MonMetricKind kind, const MonSlot *slot)
{
	uint64 id = to_little_endian64((uint64) series_id);
	uint32 offset = to_little_endian32(b->points.len - VARHDRSZ);

	appendBinaryStringInfo(&b->directory, (char *) &id, sizeof(id));
	appendBinaryStringInfo(&b->directory, (char *) &offset, sizeof(offset));
	b->nseries++;

	appendStringInfoCharMacro(&b->points, (char) kind);
	switch (kind)
	{
		case MON_COUNTER:
			put_varint(&b->points, slot->count);
			put_double(&b->points, slot->sum);
			break;
		case MON_GAUGE:
			put_varint(&b->points, slot->count);
			put_double(&b->points, slot->sum);
			put_double(&b->points, slot->min);
			put_double(&b->points, slot->max);
			put_double(&b->points, slot->last);
			put_varint(&b->points, Max(slot->last_at - slot->start, 0));
			break;
		case MON_DISTRIBUTION:
			put_sketch(&b->points, &slot->sketch);
			break;
	}
}

/* ---- reading ---- */

typedef struct Reader
{
	const uint8 *p;
	const uint8 *end;
} Reader;

static void
corrupt(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a stored metrics segment is corrupt"),
			 errhint("Restore the table monitoring.segments, or delete the damaged row.")));
}

static uint64
get_varint(Reader *r)
{
	uint64 x = 0;

	for (int shift = 0; shift < 7 * MAX_VARINT; shift += 7)
	{
		uint8 byte;

		if (r->p >= r->end)
			break;
		byte = *r->p++;
		x |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return x;
	}
	corrupt();
	return 0;
}

static double
get_double(Reader *r)
{
	uint64 bits;
	double d;

	if (r->end - r->p < (ptrdiff_t) sizeof(bits))
		corrupt();
	memcpy(&bits, r->p, sizeof(bits));
	r->p += sizeof(bits);
	bits = to_little_endian64(bits);
	memcpy(&d, &bits, sizeof(d));
	return d;
}

static int64
directory_id(const char *directory, int i)
{
	uint64 id;

	memcpy(&id, directory + (Size) i * DIRECTORY_ENTRY, sizeof(id));
	return (int64) to_little_endian64(id);
}

static uint32
directory_offset(const char *directory, int i)
{
	uint32 offset;

	memcpy(&offset, directory + (Size) i * DIRECTORY_ENTRY + sizeof(uint64), sizeof(offset));
	return to_little_endian32(offset);
}

bool
mon_segment_find(const char *directory, Size directory_len, int64 series_id, int *hint,
				 uint32 *offset, uint32 *end, Size points_len)
{
	int n = directory_len / DIRECTORY_ENTRY;
	int lo = *hint;
	int hi = n;

	if (directory_len % DIRECTORY_ENTRY != 0)
		corrupt();
	/* Ids are asked for in ascending order: look near the last one first. */
	for (int step = 1; step < hi - lo; step *= 2)
		if (directory_id(directory, lo + step) >= series_id)
			hi = lo + step + 1;
		else
			lo += step;
	while (lo < hi)
	{
		int mid = lo + (hi - lo) / 2;

		if (directory_id(directory, mid) < series_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	*hint = lo;
	if (lo >= n || directory_id(directory, lo) != series_id)
		return false;

	*offset = directory_offset(directory, lo);
	*end = lo + 1 < n ? directory_offset(directory, lo + 1) : points_len;
	if (*offset >= *end || *end > points_len)
		corrupt();
	return true;
}

static void
decode_sketch(Reader *r, MonPoint *point, const ExpoAllocator *alloc)
{
	size_t used;
	int rc;

	expo_init(&point->sketch, EXPO_DEFAULT_SCALE);
	rc = expo_decode(&point->sketch, r->p, r->end - r->p, &used, alloc);
	if (rc != EXPO_OK || point->sketch.count == 0)
		corrupt();
	point->count = point->sketch.count;
	point->sum = point->sketch.sum;
	point->min = point->sketch.min;
	point->max = point->sketch.max;
}

void
mon_segment_decode(const char *data, Size len, TimestampTz start, MonPoint *point,
				   const ExpoAllocator *alloc)
{
	Reader r = {(const uint8 *) data, (const uint8 *) data + len};

	memset(point, 0, sizeof(*point));
	point->start = start;
	point->last_at = start;
	point->kind = len > 0 ? *r.p++ : 0;
	switch (point->kind)
	{
		case MON_COUNTER:
			point->count = get_varint(&r);
			point->sum = get_double(&r);
			break;
		case MON_GAUGE:
			point->count = get_varint(&r);
			point->sum = get_double(&r);
			point->min = get_double(&r);
			point->max = get_double(&r);
			point->last = get_double(&r);
			point->last_at = start + (TimestampTz) get_varint(&r);
			break;
		case MON_DISTRIBUTION:
			decode_sketch(&r, point, alloc);
			break;
		default:
			corrupt();
	}
}
