/*-------------------------------------------------------------------------
 *
 * segment.c
 *	  Segments as rows: building them, and looking into them.
 *
 * The format is described in segment_codec.h.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"
#include "metrics/segment_codec.h"

#include "access/detoast.h"
#include "fmgr.h"

#define MAX_OFFSET_USECS (1000 * USECS_PER_DAY) /* in a slot; what is damaged may say anything */
#define SLICE_ENTRIES 128 /* of a directory, read at once where not all of it is needed */

/* ---- writing ---- */

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

void
mon_point_from_slot(MonPoint *p, MonMetricKind kind, const MonSlot *slot)
{
	memset(p, 0, sizeof(*p));
	p->kind = kind;
	p->start = slot->start;
	p->first_at = slot->first_at;
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

/* Append a series' point; ids must ascend. */
void
mon_segment_add(SegmentBuilder *b, int64 series_id, const MonPoint *p)
{
	uint8_t entry[SEGMENT_DIRECTORY_ENTRY];
	SegmentPoint point = {0};

	point.kind = p->kind;
	point.first_us = Max(p->first_at - p->start, 0);
	point.last_us = Max(p->last_at - p->start, 0);
	point.count = p->count;
	point.sum = p->sum;
	point.min = p->min;
	point.max = p->max;
	point.first = p->first;
	point.last = p->last;
	point.sketch = p->sketch;

	if (b->nseries++ == 0)
		b->first_id = series_id;
	b->last_id = series_id;
	segment_entry_put(entry, series_id, b->points.len - VARHDRSZ);
	appendBinaryStringInfo(&b->directory, (char *) entry, sizeof(entry));
	enlargeStringInfo(&b->points, segment_point_bound(&point));
	b->points.len += segment_point_encode(&point, (uint8_t *) b->points.data + b->points.len);
}

Datum
mon_segment_column(StringInfo buf)
{
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
}

/* ---- reading ---- */

static void
corrupt(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a stored metrics segment is corrupt"),
			 errhint("monitoring.check_storage() lists what is damaged; delete or restore these "
					 "rows.")));
}

bool
mon_segment_try_open(SegmentReader *r, const char *directory, Size directory_len, Size points_len)
{
	r->directory = (const uint8_t *) directory;
	r->nseries = directory_len / SEGMENT_DIRECTORY_ENTRY;
	r->points_len = points_len;
	return directory_len % SEGMENT_DIRECTORY_ENTRY == 0;
}

void
mon_segment_open(SegmentReader *r, const char *directory, Size directory_len, Size points_len)
{
	if (!mon_segment_try_open(r, directory, directory_len, points_len))
		corrupt();
}

bool
mon_segment_try_entry(const SegmentReader *r, int i, int64 *id, uint32 *offset, uint32 *end)
{
	*id = segment_entry_id(r->directory, i);
	return segment_entry_range(r->directory, r->nseries, i, r->points_len, offset, end);
}

/* The series at a position, and where its point lies. */
static int64
segment_entry(const SegmentReader *r, int i, uint32 *offset, uint32 *end)
{
	int64 id;

	if (!mon_segment_try_entry(r, i, &id, offset, end))
		corrupt();
	return id;
}

bool
mon_segment_find(const SegmentReader *r, int64 series_id, int *hint, uint32 *offset, uint32 *end)
{
	int lo = *hint;
	int hi = r->nseries;

	/* Ids are asked for in ascending order: look near the last one first. */
	for (int step = 1; step < hi - lo; step *= 2)
		if (segment_entry_id(r->directory, lo + step) >= series_id)
			hi = lo + step + 1;
		else
			lo += step;
	while (lo < hi)
	{
		int mid = lo + (hi - lo) / 2;

		if (segment_entry_id(r->directory, mid) < series_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	*hint = lo;
	return lo < r->nseries && segment_entry(r, lo, offset, end) == series_id;
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
	s->slice = (const uint8_t *) VARDATA_ANY(slice);
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
			id = segment_entry_id(s->slice, at - s->from);
			if (id == series_id)
			{
				load_slice(s, at);
				*offset = segment_entry_offset(s->slice, at - s->from);
				*end = at + 1 < s->nseries ? segment_entry_offset(s->slice, at + 1 - s->from)
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

bool
mon_segment_try_decode(const char *data, Size len, TimestampTz start, MonPoint *point,
					   const ExpoAllocator *alloc)
{
	SegmentPoint p;

	if (segment_point_decode((const uint8_t *) data, len, &p, alloc) != EXPO_OK)
		return false;
	point->kind = p.kind;
	point->start = start;
	point->first_at = start + (TimestampTz) Min(p.first_us, MAX_OFFSET_USECS);
	point->last_at = start + (TimestampTz) Min(p.last_us, MAX_OFFSET_USECS);
	point->count = p.count;
	point->sum = p.sum;
	point->min = p.min;
	point->max = p.max;
	point->first = p.first;
	point->last = p.last;
	point->sketch = p.sketch;
	return true;
}

void
mon_segment_decode(const char *data, Size len, TimestampTz start, MonPoint *point,
				   const ExpoAllocator *alloc)
{
	if (!mon_segment_try_decode(data, len, start, point, alloc))
		corrupt();
}
