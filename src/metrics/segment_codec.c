/*-------------------------------------------------------------------------
 *
 * segment_codec.c
 *	  Directory and points of a segment; the format is in segment_codec.h.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/segment_codec.h"

#include <math.h>
#include <string.h>

#define MAX_VARINT 10
#define KIND_MASK 0x0f
#define SHORT_FLAG 0x10 /* counter: whole sum; gauge: one value */
#define MAX_WHOLE ((double) (UINT64_C(1) << 53))

/* ---- numbers ---- */

static uint8_t *
put_bytes(uint8_t *p, uint64_t x, int n)
{
	for (int i = 0; i < n; i++)
		*p++ = (uint8_t) (x >> (8 * i));
	return p;
}

static uint64_t
get_bytes(const uint8_t *p, int n)
{
	uint64_t x = 0;

	for (int i = 0; i < n; i++)
		x |= (uint64_t) p[i] << (8 * i);
	return x;
}

static uint8_t *
put_varint(uint8_t *p, uint64_t x)
{
	for (; x >= 0x80; x >>= 7)
		*p++ = (uint8_t) (x | 0x80);
	*p++ = (uint8_t) x;
	return p;
}

static uint8_t *
put_double(uint8_t *p, double d)
{
	uint64_t bits;

	memcpy(&bits, &d, sizeof(bits));
	return put_bytes(p, bits, 8);
}

/* ---- writing ---- */

size_t
segment_point_bound(const SegmentPoint *p)
{
	if (p->kind == SEGMENT_DISTRIBUTION)
		return 1 + expo_encoded_bound(&p->sketch);
	return 1 + 3 * MAX_VARINT + 5 * 8;
}

static uint8_t *
put_counter(uint8_t *to, const SegmentPoint *p)
{
	bool whole = p->sum >= 0 && p->sum < MAX_WHOLE && p->sum == (double) (uint64_t) p->sum &&
		!signbit(p->sum);

	*to++ = (uint8_t) (SEGMENT_COUNTER | (whole ? SHORT_FLAG : 0));
	to = put_varint(to, p->count);
	return whole ? put_varint(to, (uint64_t) p->sum) : put_double(to, p->sum);
}

static uint8_t *
put_gauge(uint8_t *to, const SegmentPoint *p)
{
	*to++ = (uint8_t) (SEGMENT_GAUGE | (p->count == 1 ? SHORT_FLAG : 0));
	to = put_varint(to, p->last_us);
	if (p->count == 1)
		return put_double(to, p->last);
	to = put_varint(to, p->count);
	to = put_varint(to, p->first_us);
	to = put_double(to, p->sum);
	to = put_double(to, p->min);
	to = put_double(to, p->max);
	to = put_double(to, p->first);
	return put_double(to, p->last);
}

size_t
segment_point_encode(const SegmentPoint *p, uint8_t *buf)
{
	switch (p->kind)
	{
		case SEGMENT_COUNTER:
			return put_counter(buf, p) - buf;
		case SEGMENT_GAUGE:
			return put_gauge(buf, p) - buf;
		default:
			*buf = SEGMENT_DISTRIBUTION;
			return 1 + expo_encode(&p->sketch, buf + 1);
	}
}

/* ---- reading ---- */

typedef struct Reader
{
	const uint8_t *p;
	const uint8_t *end;
	bool bad;
} Reader;

static uint64_t
get_varint(Reader *r)
{
	uint64_t x = 0;

	for (int shift = 0; shift < 7 * MAX_VARINT && r->p < r->end; shift += 7)
	{
		uint8_t byte = *r->p++;

		x |= (uint64_t) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return x;
	}
	r->bad = true;
	return 0;
}

/* Sums may have overflown; anything else is finite. */
static double
get_sum(Reader *r)
{
	uint64_t bits;
	double d;

	if (r->end - r->p < 8)
	{
		r->bad = true;
		return 0;
	}
	bits = get_bytes(r->p, 8);
	r->p += 8;
	memcpy(&d, &bits, sizeof(d));
	return d;
}

static double
get_double(Reader *r)
{
	double d = get_sum(r);

	if (!isfinite(d))
		r->bad = true;
	return d;
}

static void
get_counter(Reader *r, bool whole, SegmentPoint *p)
{
	p->count = get_varint(r);
	p->sum = whole ? (double) get_varint(r) : get_sum(r);
}

static void
get_gauge(Reader *r, bool single, SegmentPoint *p)
{
	p->last_us = get_varint(r);
	if (single)
	{
		p->count = 1;
		p->first_us = p->last_us;
		p->sum = p->min = p->max = p->first = p->last = get_double(r);
		return;
	}
	p->count = get_varint(r);
	r->bad |= p->count == 1; /* is written short */
	p->first_us = get_varint(r);
	p->sum = get_sum(r);
	p->min = get_double(r);
	p->max = get_double(r);
	p->first = get_double(r);
	p->last = get_double(r);
}

static int
get_sketch(Reader *r, SegmentPoint *p, const ExpoAllocator *alloc)
{
	size_t used;
	int rc = expo_decode(&p->sketch, r->p, r->end - r->p, &used, alloc);

	if (rc != EXPO_OK)
		return rc;
	r->p += used;
	p->count = p->sketch.count;
	p->sum = p->sketch.sum;
	p->min = p->sketch.min;
	p->max = p->sketch.max;
	return EXPO_OK;
}

int
segment_point_decode(const uint8_t *buf, size_t len, SegmentPoint *p, const ExpoAllocator *alloc)
{
	Reader r = {buf, buf + len, false};
	uint8_t head = len > 0 ? *r.p++ : 0;
	bool flag = (head & SHORT_FLAG) != 0;
	int rc = EXPO_OK;

	memset(p, 0, sizeof(*p));
	expo_init(&p->sketch, EXPO_DEFAULT_SCALE);
	p->kind = head & KIND_MASK;
	switch (p->kind)
	{
		case SEGMENT_COUNTER:
			get_counter(&r, flag, p);
			break;
		case SEGMENT_GAUGE:
			get_gauge(&r, flag, p);
			break;
		case SEGMENT_DISTRIBUTION:
			rc = get_sketch(&r, p, alloc);
			break;
		default:
			r.bad = true;
	}
	if (rc == EXPO_OK && (r.bad || r.p != r.end || p->count == 0 || p->count > EXPO_MAX_COUNT))
		rc = EXPO_ERR_CORRUPT;
	if (rc != EXPO_OK)
		expo_free(&p->sketch, alloc);
	return rc;
}

/* ---- directory ---- */

void
segment_entry_put(uint8_t *entry, int64_t id, uint32_t offset)
{
	put_bytes(put_bytes(entry, (uint64_t) id, 8), offset, 4);
}

int64_t
segment_entry_id(const uint8_t *directory, size_t i)
{
	return (int64_t) get_bytes(directory + i * SEGMENT_DIRECTORY_ENTRY, 8);
}

uint32_t
segment_entry_offset(const uint8_t *directory, size_t i)
{
	return (uint32_t) get_bytes(directory + i * SEGMENT_DIRECTORY_ENTRY + 8, 4);
}

bool
segment_entry_range(const uint8_t *directory, size_t n, size_t i, size_t points_len,
					uint32_t *offset, uint32_t *end)
{
	*offset = segment_entry_offset(directory, i);
	*end = i + 1 < n ? segment_entry_offset(directory, i + 1) : (uint32_t) points_len;
	return *offset < *end && *end <= points_len;
}
