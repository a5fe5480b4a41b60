/*-------------------------------------------------------------------------
 *
 * segment.c
 *	  The stored form of a flush: a directory and the points it leads to.
 *
 * directory	per series, by ascending id: int64 id, uint32 offset of its point
 *				(both little-endian), so that one series is found by bisection
 *				and the two columns can be read by slices
 * points		per series: kind and flag (1 byte), then
 *				  counter	   varint count, then the sum as float8 or, with
 *							   the flag, as varint
 *				  gauge		   varint milliseconds from the start to last, then
 *							   with the flag one value as float8, else varint
 *							   count and float8 sum, min, max, first, last
 *				  distribution the encoded sketch (expo_encode)
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include <math.h>

#include "access/detoast.h"
#include "fmgr.h"
#include "port/pg_bswap.h"

#define MAX_VARINT 10
#define SLICE_ENTRIES 128 /* of a directory, read at once where not all of it is needed */
#define KIND_MASK 0x0f
#define SHORT_FLAG 0x10 /* counter: whole sum; gauge: one value */
#define MAX_WHOLE ((double) (UINT64CONST(1) << 53))

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
	b->first_id = b->last_id = 0;
}

static void
put_sketch(StringInfo buf, const ExpoSketch *sketch)
{
	size_t bound = expo_encoded_bound(sketch);

	enlargeStringInfo(buf, bound);
	buf->len += expo_encode(sketch, (uint8_t *) buf->data + buf->len);
}

void
mon_point_from_slot(MonPoint *p, MonMetricKind kind, const MonSlot *slot)
{
	memset(p, 0, sizeof(*p));
	p->kind = kind;
	p->start = slot->start;
	p->last_at = slot->last_at;
	if (kind == MON_DISTRIBUTION)
	{
		p->count = slot->sketch.count;
		p->sum = slot->sketch.sum;
		p->min = slot->sketch.min;
		p->max = slot->sketch.max;
		p->sketch = slot->sketch;
	}
	else
	{
		p->count = slot->count;
		p->sum = slot->sum;
		p->min = slot->min;
		p->max = slot->max;
		p->first = slot->first;
		p->last = slot->last;
	}
}

static void
put_kind(StringInfo buf, MonMetricKind kind, bool flag)
{
	appendStringInfoCharMacro(buf, (char) (kind | (flag ? SHORT_FLAG : 0)));
}

static void
put_counter(StringInfo buf, const MonPoint *p)
{
	bool whole = p->sum < MAX_WHOLE && p->sum == (double) (uint64) p->sum;

	put_kind(buf, MON_COUNTER, whole);
	put_varint(buf, p->count);
	if (whole)
		put_varint(buf, (uint64) p->sum);
	else
		put_double(buf, p->sum);
}

static void
put_gauge(StringInfo buf, const MonPoint *p)
{
	put_kind(buf, MON_GAUGE, p->count == 1);
	put_varint(buf, Max(p->last_at - p->start, 0) / 1000);
	if (p->count == 1)
	{
		put_double(buf, p->last);
		return;
	}
	put_varint(buf, p->count);
	put_double(buf, p->sum);
	put_double(buf, p->min);
	put_double(buf, p->max);
	put_double(buf, p->first);
	put_double(buf, p->last);
}

/* Append a series' point; ids must ascend. */
void
mon_segment_add(SegmentBuilder *b, int64 series_id, const MonPoint *p)
{
	uint64 id = to_little_endian64((uint64) series_id);
	uint32 offset = to_little_endian32(b->points.len - VARHDRSZ);

	if (b->nseries++ == 0)
		b->first_id = series_id;
	b->last_id = series_id;
	appendBinaryStringInfo(&b->directory, (char *) &id, sizeof(id));
	appendBinaryStringInfo(&b->directory, (char *) &offset, sizeof(offset));

	switch (p->kind)
	{
		case MON_COUNTER:
			put_counter(&b->points, p);
			break;
		case MON_GAUGE:
			put_gauge(&b->points, p);
			break;
		case MON_DISTRIBUTION:
			put_kind(&b->points, MON_DISTRIBUTION, false);
			put_sketch(&b->points, &p->sketch);
			break;
	}
}

Datum
mon_segment_column(StringInfo buf)
{
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
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

	memcpy(&id, directory + (Size) i * SEGMENT_DIRECTORY_ENTRY, sizeof(id));
	return (int64) to_little_endian64(id);
}

static uint32
directory_offset(const char *directory, int i)
{
	uint32 offset;

	memcpy(&offset, directory + (Size) i * SEGMENT_DIRECTORY_ENTRY + sizeof(uint64),
		   sizeof(offset));
	return to_little_endian32(offset);
}

void
mon_segment_open(SegmentReader *r, const char *directory, Size directory_len, Size points_len)
{
	if (directory_len % SEGMENT_DIRECTORY_ENTRY != 0)
		corrupt();
	r->directory = directory;
	r->nseries = directory_len / SEGMENT_DIRECTORY_ENTRY;
	r->points_len = points_len;
}

int64
mon_segment_entry(const SegmentReader *r, int i, uint32 *offset, uint32 *end)
{
	*offset = directory_offset(r->directory, i);
	*end = i + 1 < r->nseries ? directory_offset(r->directory, i + 1) : r->points_len;
	if (*offset >= *end || *end > r->points_len)
		corrupt();
	return directory_id(r->directory, i);
}

bool
mon_segment_find(const SegmentReader *r, int64 series_id, int *hint, uint32 *offset, uint32 *end)
{
	int lo = *hint;
	int hi = r->nseries;

	/* Ids are asked for in ascending order: look near the last one first. */
	for (int step = 1; step < hi - lo; step *= 2)
		if (directory_id(r->directory, lo + step) >= series_id)
			hi = lo + step + 1;
		else
			lo += step;
	while (lo < hi)
	{
		int mid = lo + (hi - lo) / 2;

		if (directory_id(r->directory, mid) < series_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	*hint = lo;
	return lo < r->nseries && mon_segment_entry(r, lo, offset, end) == series_id;
}

/* ---- reading by slices ---- */

void
mon_segment_slices_open(SegmentSlices *s, Datum directory, Datum points, int64 first_id,
						int64 last_id)
{
	Size len = toast_raw_datum_size(directory) - VARHDRSZ;

	if (len % SEGMENT_DIRECTORY_ENTRY != 0)
		corrupt();
	s->directory = directory;
	s->nseries = len / SEGMENT_DIRECTORY_ENTRY;
	s->points_len = toast_raw_datum_size(points) - VARHDRSZ;
	s->first_id = first_id;
	s->last_id = last_id;
	s->slice = NULL;
	s->from = s->to = 0;
}

/* Have some entries around a position at hand, at least that one and the next. */
static void
load_slice(SegmentSlices *s, int at)
{
	bytea *slice;

	if (at >= s->from && (at + 1 < s->to || (at < s->to && s->to == s->nseries)))
		return;
	s->from = Max(at - SLICE_ENTRIES / 2, 0);
	s->to = Min(s->from + SLICE_ENTRIES, s->nseries);
	slice = DatumGetByteaPSlice(s->directory, s->from * SEGMENT_DIRECTORY_ENTRY,
								(s->to - s->from) * SEGMENT_DIRECTORY_ENTRY);
	if (VARSIZE_ANY_EXHDR(slice) != (s->to - s->from) * SEGMENT_DIRECTORY_ENTRY)
		corrupt();
	s->slice = VARDATA_ANY(slice);
}

/* Where an id is to be expected among entries lo..hi, as ids are hashes. */
static int
expected_at(int64 id, int lo, int hi, double lo_id, double hi_id)
{
	double share = hi_id > lo_id ? ((double) id - lo_id) / (hi_id - lo_id) : 0;

	return lo + (int) ((hi - lo) * Max(Min(share, 1.0), 0.0));
}

bool
mon_segment_slices_find(SegmentSlices *s, int64 series_id, uint32 *offset, uint32 *end)
{
	int lo = 0;
	int hi = s->nseries - 1;
	double lo_id = s->first_id;
	double hi_id = s->last_id;

	while (lo <= hi)
	{
		int at = expected_at(series_id, lo, hi, lo_id, hi_id);
		int64 id;

		load_slice(s, at);
		/* Within the slice, bisect; an end of it that is passed narrows lo..hi. */
		for (int from = Max(lo, s->from), to = Min(hi, s->to - 1); from <= to;)
		{
			at = from + (to - from) / 2;
			id = directory_id(s->slice, at - s->from);
			if (id == series_id)
			{
				load_slice(s, at);
				*offset = directory_offset(s->slice, at - s->from);
				*end = at + 1 < s->nseries ? directory_offset(s->slice, at + 1 - s->from)
										   : s->points_len;
				if (*offset >= *end || *end > s->points_len)
					corrupt();
				return true;
			}
			if (id < series_id)
			{
				from = lo = at + 1;
				lo_id = id;
			}
			else
			{
				to = hi = at - 1;
				hi_id = id;
			}
		}
	}
	return false;
}

/* ---- points ---- */

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

static double
get_finite(Reader *r)
{
	double d = get_double(r);

	if (!isfinite(d))
		corrupt();
	return d;
}

static void
decode_counter(Reader *r, bool whole, MonPoint *point)
{
	point->count = get_varint(r);
	point->sum = whole ? (double) get_varint(r) : get_finite(r);
}

static void
decode_gauge(Reader *r, bool single, MonPoint *point)
{
	point->last_at = point->start + (TimestampTz) (get_varint(r) % USECS_PER_DAY) * 1000;
	if (single)
	{
		point->count = 1;
		point->sum = point->min = point->max = point->first = point->last = get_finite(r);
		return;
	}
	point->count = get_varint(r);
	point->sum = get_finite(r);
	point->min = get_finite(r);
	point->max = get_finite(r);
	point->first = get_finite(r);
	point->last = get_finite(r);
}

void
mon_segment_decode(const char *data, Size len, TimestampTz start, MonPoint *point,
				   const ExpoAllocator *alloc)
{
	Reader r = {(const uint8 *) data, (const uint8 *) data + len};
	uint8 head = len > 0 ? *r.p++ : 0;
	bool flag = (head & SHORT_FLAG) != 0;

	memset(point, 0, sizeof(*point));
	point->kind = head & KIND_MASK;
	point->start = start;
	point->last_at = start;
	switch (point->kind)
	{
		case MON_COUNTER:
			decode_counter(&r, flag, point);
			break;
		case MON_GAUGE:
			decode_gauge(&r, flag, point);
			break;
		case MON_DISTRIBUTION:
			decode_sketch(&r, point, alloc);
			break;
		default:
			corrupt();
	}
	if (point->count == 0)
		corrupt();
}
