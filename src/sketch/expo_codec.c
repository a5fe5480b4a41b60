/*-------------------------------------------------------------------------
 *
 * expo_codec.c
 *	  The serialised form of a sketch.
 *
 *	  byte 0	bits 7-6 version (1), bit 5 Rice mode, bit 4 byte 2 exists,
 *				bits 3-0 length of the sum
 *	  byte 1	lengths of min (high nibble) and max (low nibble)
 *	  byte 2	scale + 10, bit 5 zeroes follow, bit 6 negative values follow;
 *				left out for non-negative values without zeroes at scale 6
 *	  varint	positive values, [negative values], [zeroes]
 *	  bytes		sum, min, max
 *	  buckets	of the positive, then of the negative values
 *
 * Sum, min and max are exact: a double's bytes, the highest first, without the
 * zero bytes at the end.  Of min and max only the bytes that their bucket does
 * not tell are stored.  Length 15 says of max that it equals min, and of the
 * sum that it is then count * min; so a constant costs one number.
 *
 * Buckets start with the zigzag varint of the lowest index.  Token mode: for
 * each populated bucket varint((count - 1) << 1 | gap), and with gap the varint
 * of the number of empty buckets that follow, less one.  Rice mode, shorter
 * for few values: four bits k, then for every value but the first the Rice code
 * of its index less the index before it: quotient by 2^k as that many zero bits
 * and a one, then k bits of remainder; the lowest bit of a byte comes first.
 *
 * The encoder has one way to write a sketch.  The decoder takes any input:
 * each number is checked before it is used, and memory is bounded by
 * EXPO_MAX_BUCKETS whatever the input says.
 *
 *-------------------------------------------------------------------------
 */
#include "expo_bits.h"

#include <float.h>
#include <math.h>

#define VERSION_BITS (1 << 6)
#define VERSION_MASK (3 << 6)
#define RICE_BIT (1 << 5)
#define EXTENDED_BIT (1 << 4)
#define ZERO_BIT (1 << 5)
#define NEGATIVE_BIT (1 << 6)
#define SAME 15

#define MAX_RICE_K 15
#define MAX_VARINT 10

/* Two bytes of gap are enough for EXPO_MAX_BUCKETS. */
#define MAX_GAP 2

/* Everything but the buckets: three bytes, three counts, three doubles. */
#define MAX_HEADER (3 + 3 * MAX_VARINT + 3 * 8)

#define NAN_BITS UINT64_C(0x7FF8000000000000)

/* ---- what both directions share ---- */

/* Bytes of a double's low end that the bucket of that scale leaves open. */
static int
open_bytes(int scale)
{
	/* a bucket holds at most 2^47.5 doubles from scale 5 on, and 2^52 at scale 0 */
	return scale >= 5 ? 6 : scale >= 0 ? 7 : 8;
}

static uint64_t
low_bytes(uint64_t x, int n)
{
	return n == 8 ? x : x & ((UINT64_C(1) << (8 * n)) - 1);
}

/* The bucket of min or of max; false when that is zero. */
static bool
outermost(const ExpoSketch *s, bool top, int32_t *index)
{
	bool has_pos = !expo_is_empty(&s->pos);
	bool has_neg = !expo_is_empty(&s->neg);

	if (top ? has_pos : !has_neg && s->zero_count == 0)
		*index = top ? s->pos.hi : s->pos.lo;
	else if (top ? s->zero_count == 0 : has_neg)
		*index = top ? s->neg.lo : s->neg.hi;
	else
		return false;
	return true;
}

/* ---- encoding ---- */

static size_t
varint_size(uint64_t v)
{
	return (64 - __builtin_clzll(v | 1) + 6) / 7;
}

static uint8_t *
put_varint(uint8_t *p, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*p++ = (uint8_t) (v | 0x80);
	*p++ = (uint8_t) v;
	return p;
}

/* Bytes left of an n-byte number without the zero bytes at its low end. */
static int
significant(uint64_t x, int n)
{
	return x == 0 ? 0 : n - __builtin_ctzll(x) / 8;
}

static uint8_t *
put_bytes(uint8_t *p, uint64_t x, int n, int length)
{
	for (int i = 0; i < length; i++)
		*p++ = (uint8_t) (x >> (8 * (n - 1 - i)));
	return p;
}

/* What one sign costs in either mode. */
typedef struct Plan
{
	uint64_t total;
	size_t token_bytes;
	int k;
	uint64_t rice_bits;
} Plan;

/* Sizes of both modes; k is the best of three next to the logarithm of the mean distance. */
static Plan
plan_buckets(const ExpoBuckets *b, uint64_t total)
{
	Plan plan = {total, 0, 0, 0};
	uint64_t quotients[3] = {0, 0, 0};
	int32_t last = b->lo;
	int k;

	if (total == 0)
		return plan;
	k = expo_log2_floor((uint64_t) (b->hi - b->lo) / total);
	k = k > 0 ? k - 1 : 0;
	for (int32_t i = b->lo; i <= b->hi; i++)
	{
		uint64_t c = expo_get(b, i);

		if (c == 0)
			continue;
		plan.token_bytes += varint_size((c - 1) << 1);
		if (i - last > 1)
			plan.token_bytes += varint_size((uint64_t) (i - last - 2));
		for (int j = 0; j < 3; j++)
			quotients[j] += (uint64_t) (i - last) >> (k + j);
		last = i;
	}
	plan.rice_bits = UINT64_MAX;
	for (int j = 0; j < 3; j++)
	{
		/* cannot overflow: total < 2^63 / 64 or tokens are shorter anyway */
		uint64_t bits = total >> 32 ? UINT64_MAX
									: 4 + quotients[j] + (total - 1) * (uint64_t) (1 + k + j);

		if (bits < plan.rice_bits)
		{
			plan.rice_bits = bits;
			plan.k = k + j;
		}
	}
	return plan;
}

static size_t
rice_bytes(const Plan *plan)
{
	return plan->total == 0 ? 0 : plan->rice_bits / 8 + (plan->rice_bits % 8 != 0);
}

static uint8_t *
put_tokens(uint8_t *p, const ExpoBuckets *b)
{
	int32_t i = b->lo;

	while (i <= b->hi)
	{
		uint64_t token = (expo_get(b, i) - 1) << 1;
		int32_t next = i + 1;

		while (next <= b->hi && expo_get(b, next) == 0)
			next++;
		if (next == i + 1 || next > b->hi)
			p = put_varint(p, token);
		else
		{
			p = put_varint(p, token | 1);
			p = put_varint(p, (uint64_t) (next - i - 2));
		}
		i = next;
	}
	return p;
}

static uint8_t *
put_rice(uint8_t *p, const ExpoBuckets *b, int k)
{
	ExpoBitWriter w = {p, 0, 0};
	int32_t last = b->lo;
	uint64_t mask = (UINT64_C(1) << k) - 1;

	expo_put_bits(&w, (uint64_t) k, 4);
	for (int32_t i = b->lo; i <= b->hi; i++)
	{
		uint64_t repeats = expo_get(b, i);

		if (repeats == 0)
			continue;
		repeats -= i == b->lo; /* the first value is where the reader starts */
		for (; repeats > 0; repeats--)
		{
			uint64_t delta = (uint64_t) (i - last);
			uint64_t quotient = delta >> k;

			for (; quotient >= 32; quotient -= 32)
				expo_put_bits(&w, 0, 32);
			expo_put_bits(&w, UINT64_C(1) << quotient, (int) quotient + 1);
			expo_put_bits(&w, delta & mask, k);
			last = i;
		}
	}
	return expo_flush_bits(&w);
}

static uint8_t *
put_buckets(uint8_t *p, const ExpoBuckets *b, const Plan *plan, bool rice)
{
	if (plan->total == 0)
		return p;
	p = put_varint(p, expo_zigzag(b->lo));
	return rice ? put_rice(p, b, plan->k) : put_tokens(p, b);
}

static uint64_t
sum_bits(double sum)
{
	return isnan(sum) ? NAN_BITS : expo_bits(sum);
}

/* Sum, min and max as they are stored. */
typedef struct Numbers
{
	uint64_t sum, min, max;
	int sum_length, min_length, max_length;
	int open;
} Numbers;

static Numbers
plan_numbers(const ExpoSketch *s)
{
	Numbers n = {0, 0, 0, 0, 0, 0, open_bytes(s->scale)};
	int32_t index;

	if (s->count == 0)
		return n;
	if (outermost(s, false, &index))
		n.min = low_bytes(expo_bits(s->min) & ~EXPO_SIGN, n.open);
	n.min_length = significant(n.min, n.open);
	if (outermost(s, true, &index))
		n.max = low_bytes(expo_bits(s->max) & ~EXPO_SIGN, n.open);
	n.max_length = s->min == s->max ? SAME : significant(n.max, n.open);
	n.sum = sum_bits(s->sum);
	if (s->min == s->max && s->sum == s->min * (double) s->count)
		n.sum_length = SAME;
	else
		n.sum_length = significant(n.sum, 8);
	return n;
}

static uint8_t *
put_numbers(uint8_t *p, const Numbers *n)
{
	if (n->sum_length != SAME)
		p = put_bytes(p, n->sum, 8, n->sum_length);
	p = put_bytes(p, n->min, n->open, n->min_length);
	if (n->max_length != SAME)
		p = put_bytes(p, n->max, n->open, n->max_length);
	return p;
}

static size_t
buckets_bound(const ExpoBuckets *b, uint64_t count)
{
	uint64_t buckets;

	if (expo_is_empty(b))
		return 0;
	buckets = (uint64_t) (b->hi - b->lo) + 1;
	if (buckets > count)
		buckets = count;
	return MAX_VARINT + buckets * (varint_size(count << 1) + MAX_GAP);
}

size_t
expo_encoded_bound(const ExpoSketch *s)
{
	return MAX_HEADER + buckets_bound(&s->pos, s->count) + buckets_bound(&s->neg, s->count);
}

size_t
expo_encode(const ExpoSketch *s, uint8_t *buf)
{
	uint64_t negatives = expo_total(&s->neg);
	Plan pos = plan_buckets(&s->pos, s->count - s->zero_count - negatives);
	Plan neg = plan_buckets(&s->neg, negatives);
	bool rice = rice_bytes(&pos) + rice_bytes(&neg) < pos.token_bytes + neg.token_bytes;
	bool extended = s->scale != EXPO_DEFAULT_SCALE || s->zero_count > 0 || negatives > 0;
	Numbers numbers = plan_numbers(s);
	uint8_t *p = buf;

	*p++ = (uint8_t) (VERSION_BITS | (rice ? RICE_BIT : 0) | (extended ? EXTENDED_BIT : 0) |
					  numbers.sum_length);
	*p++ = (uint8_t) (numbers.min_length << 4 | numbers.max_length);
	if (extended)
		*p++ = (uint8_t) ((s->scale - EXPO_MIN_SCALE) | (s->zero_count > 0 ? ZERO_BIT : 0) |
						  (negatives > 0 ? NEGATIVE_BIT : 0));
	p = put_varint(p, pos.total);
	if (negatives > 0)
		p = put_varint(p, negatives);
	if (s->zero_count > 0)
		p = put_varint(p, s->zero_count);
	p = put_numbers(p, &numbers);
	p = put_buckets(p, &s->pos, &pos, rice);
	p = put_buckets(p, &s->neg, &neg, rice);
	return (size_t) (p - buf);
}

/* ---- decoding ---- */

static bool
get_long_varint(ExpoReader *r, uint64_t *v)
{
	uint64_t result = 0;

	for (int shift = 0; shift < 64 && r->p < r->end; shift += 7)
	{
		uint64_t byte = *r->p++;

		if (shift == 63 && byte > 1)
			return false;
		result |= (byte & 0x7F) << shift;
		if (byte < 0x80)
		{
			*v = result;
			return true;
		}
	}
	return false;
}

static inline bool
get_varint(ExpoReader *r, uint64_t *v)
{
	if (EXPO_LIKELY(r->p < r->end && *r->p < 0x80))
	{
		*v = *r->p++;
		return true;
	}
	return get_long_varint(r, v);
}

static bool
get_bytes(ExpoReader *r, int n, int length, uint64_t *x)
{
	*x = 0;
	if (length > n || length > r->end - r->p)
		return false;
	for (int i = 0; i < length; i++)
		*x |= (uint64_t) *r->p++ << (8 * (n - 1 - i));
	return true;
}

typedef struct Header
{
	bool rice;
	int scale;
	uint64_t pos, neg, zero, count;
	Numbers numbers;
} Header;

/* The third byte. */
static bool
get_extension(ExpoReader *r, Header *h, bool *zero, bool *neg)
{
	uint8_t byte;

	if (r->p == r->end)
		return false;
	byte = *r->p++;
	h->scale = (byte & 31) + EXPO_MIN_SCALE;
	*zero = byte & ZERO_BIT;
	*neg = byte & NEGATIVE_BIT;
	return byte < 0x80 && h->scale <= EXPO_MAX_SCALE;
}

static bool
get_counts(ExpoReader *r, Header *h, bool zero, bool neg)
{
	if (!get_varint(r, &h->pos) || (neg && !get_varint(r, &h->neg)) ||
		(zero && !get_varint(r, &h->zero)))
		return false;
	if (h->pos > EXPO_MAX_COUNT || h->neg > EXPO_MAX_COUNT - h->pos ||
		h->zero > EXPO_MAX_COUNT - h->pos - h->neg)
		return false;
	h->count = h->pos + h->neg + h->zero;
	return true;
}

static bool
get_numbers(ExpoReader *r, Header *h)
{
	Numbers *n = &h->numbers;

	n->open = open_bytes(h->scale);
	return get_bytes(r, 8, n->sum_length == SAME ? 0 : n->sum_length, &n->sum) &&
		get_bytes(r, n->open, n->min_length, &n->min) &&
		get_bytes(r, n->open, n->max_length == SAME ? 0 : n->max_length, &n->max) &&
		(n->sum_length != SAME || n->max_length == SAME);
}

static bool
get_header(ExpoReader *r, Header *h)
{
	uint8_t byte;
	bool zero = false;
	bool neg = false;

	memset(h, 0, sizeof(*h));
	h->scale = EXPO_DEFAULT_SCALE;
	if (r->end - r->p < 3)
		return false;
	byte = *r->p++;
	if ((byte & VERSION_MASK) != VERSION_BITS)
		return false;
	h->rice = byte & RICE_BIT;
	h->numbers.sum_length = byte & 15;
	h->numbers.min_length = *r->p >> 4;
	h->numbers.max_length = *r->p++ & 15;
	if ((byte & EXTENDED_BIT) && !get_extension(r, h, &zero, &neg))
		return false;
	return get_counts(r, h, zero, neg) && get_numbers(r, h);
}

/* Where decoded buckets of one sign go. */
typedef struct Target
{
	ExpoSketch *dst;
	ExpoBuckets *b;
	const ExpoAllocator *a;
	int scale;     /* of the encoded indexes */
	int shift;     /* from these to the target's */
	int32_t lo;    /* first encoded index */
	int32_t limit; /* no encoded index may pass this */
} Target;

/* Extend the target's populated range over the encoded indexes lo..index. */
static void
fit_target(Target *t, int32_t index)
{
	int shift = t->scale - t->dst->scale;

	expo_fit(t->dst, t->b, t->lo >> shift, index >> shift, t->a);
	t->shift = t->scale - t->dst->scale;
}

static inline void
add_to_target(Target *t, int32_t index, uint64_t n)
{
	ExpoBuckets *b = t->b;
	uint32_t at = (uint32_t) ((index >> t->shift) - b->first);

	if (EXPO_UNLIKELY(at >= (uint32_t) b->cap))
	{
		/* indexes ascend: what was added so far ends with the window at the latest */
		if (b->hi < b->first + b->cap - 1)
			b->hi = b->first + b->cap - 1;
		fit_target(t, index);
		at = (uint32_t) ((index >> t->shift) - b->first);
	}
	if (EXPO_LIKELY(b->width == 4))
		((uint32_t *) b->counts)[at] += (uint32_t) n;
	else
		((uint64_t *) b->counts)[at] += n;
}

static bool
read_tokens(Target *t, ExpoReader *r, uint64_t total, int32_t *index)
{
	for (;;)
	{
		uint64_t token;
		uint64_t gap = 0;

		if (!get_varint(r, &token) || (token >> 1) >= total)
			return false;
		add_to_target(t, *index, (token >> 1) + 1);
		total -= (token >> 1) + 1;
		if (total == 0)
			return (token & 1) == 0;
		if ((token & 1) && (!get_varint(r, &gap) || gap++ >= EXPO_MAX_BUCKETS))
			return false;
		*index += 1 + (int32_t) gap;
		if (*index > t->limit)
			return false;
	}
}

static bool
get_rice(ExpoBitReader *br, int k, int32_t *delta)
{
	int32_t quotient = 0;

	if (br->n < 32)
		expo_refill(br);
	while (br->bits == 0)
	{
		quotient += br->n;
		br->n = 0;
		expo_refill(br);
		if (br->n == 0 || quotient > EXPO_MAX_BUCKETS)
			return false;
	}
	{
		int zeroes = __builtin_ctzll(br->bits);

		quotient += zeroes;
		br->bits = br->bits >> zeroes >> 1;
		br->n -= zeroes + 1;
	}
	if (br->n < k)
		expo_refill(br);
	if (br->n < k || quotient > EXPO_MAX_BUCKETS)
		return false;
	*delta = (quotient << k) | (int32_t) (br->bits & ((UINT64_C(1) << k) - 1));
	br->bits >>= k;
	br->n -= k;
	return true;
}

static bool
read_rice(Target *t, ExpoReader *r, uint64_t total, int32_t *index)
{
	ExpoBitReader br = {r, 0, 0};
	int k;

	expo_refill(&br);
	if (br.n < 4)
		return false;
	k = br.bits & 15;
	br.bits >>= 4;
	br.n -= 4;
	for (;;)
	{
		int32_t delta;

		add_to_target(t, *index, 1);
		if (--total == 0)
			break;
		if (!get_rice(&br, k, &delta) || delta > t->limit - *index)
			return false;
		*index += delta;
	}
	r->p -= br.n / 8; /* whole bytes read ahead */
	return true;
}

/* One sign's buckets; *lo and *hi are the outermost encoded indexes. */
static bool
read_buckets(Target *t, ExpoReader *r, const Header *h, uint64_t total, int32_t *lo, int32_t *hi)
{
	uint64_t first;

	if (total == 0)
		return true;
	if (!get_varint(r, &first) || first > INT32_MAX)
		return false;
	*lo = (int32_t) expo_unzigzag(first);
	t->limit = expo_index(DBL_MAX, h->scale);
	if (*lo < expo_index(DBL_TRUE_MIN, h->scale) || *lo > t->limit)
		return false;
	if (t->limit - *lo >= EXPO_MAX_BUCKETS)
		t->limit = *lo + EXPO_MAX_BUCKETS - 1;

	t->scale = h->scale;
	t->lo = *hi = *lo;
	fit_target(t, *lo);
	if (!(h->rice ? read_rice(t, r, total, hi) : read_tokens(t, r, total, hi)))
		return false;
	fit_target(t, *hi);
	return true;
}

/* The double of the bucket whose low bytes are these; 0 when there is none. */
static double
complete(uint64_t low, int open, int32_t index, int scale)
{
	uint64_t from = expo_bits(expo_bound(index, scale)) + 1;
	uint64_t to = expo_bits(expo_bound(index + 1, scale));
	uint64_t bits = from + low_bytes(low - from, open);

	return bits >= from && bits <= to ? expo_from_bits(bits) : 0;
}

/* min or max from its stored bytes and the outermost buckets; false when they do not match. */
static bool
get_extreme(const ExpoSketch *outer, bool top, const Numbers *n, double *value)
{
	uint64_t low = top ? n->max : n->min;
	int32_t index;

	if (!outermost(outer, top, &index))
	{
		*value = 0;
		return low == 0;
	}
	*value = complete(low, n->open, index, outer->scale);
	if (*value == 0)
		return false;
	if (top ? expo_is_empty(&outer->pos) : !expo_is_empty(&outer->neg))
		*value = -*value;
	return true;
}

/* All values in one bucket, or all zero: only then can min equal max. */
static bool
is_one_place(const ExpoSketch *outer)
{
	int places = (outer->zero_count > 0) + !expo_is_empty(&outer->pos) +
		!expo_is_empty(&outer->neg);

	return places == 1 && (expo_is_empty(&outer->pos) || outer->pos.lo == outer->pos.hi) &&
		(expo_is_empty(&outer->neg) || outer->neg.lo == outer->neg.hi);
}

/* `outer` has the header's counts and outermost indexes; fill in min, max and sum. */
static bool
finish_numbers(ExpoSketch *outer, const Numbers *n)
{
	if (outer->count == 0)
		return n->sum == 0 && n->min_length == 0 && n->max_length == 0;
	if (!get_extreme(outer, false, n, &outer->min))
		return false;
	if (n->max_length == SAME && is_one_place(outer))
		outer->max = outer->min;
	else if (n->max_length == SAME || !get_extreme(outer, true, n, &outer->max) ||
			 outer->max < outer->min)
		return false;
	if (n->sum_length == SAME)
		outer->sum = outer->min * (double) outer->count;
	else
		outer->sum = expo_from_bits(n->sum) + 0.0; /* no negative zero */
	return true;
}

int
expo_merge_encoded(ExpoSketch *dst, const uint8_t *buf, size_t len, size_t *used,
				   const ExpoAllocator *a)
{
	ExpoReader r = {buf, buf + len};
	Header h;
	ExpoSketch outer; /* no counters, only the outermost indexes */
	Target pos = {.dst = dst, .b = &dst->pos, .a = a};
	Target neg = {.dst = dst, .b = &dst->neg, .a = a};

	if (!get_header(&r, &h))
		return EXPO_ERR_CORRUPT;
	if (h.count > EXPO_MAX_COUNT - dst->count)
		return EXPO_ERR_RANGE;
	if (!expo_prepare(dst, h.count, h.pos > 0, h.neg > 0, a))
		return EXPO_ERR_MEMORY;
	expo_downscale(dst, h.scale);
	expo_init(&outer, h.scale);
	outer.count = h.count;
	outer.zero_count = h.zero;
	if (!read_buckets(&pos, &r, &h, h.pos, &outer.pos.lo, &outer.pos.hi) ||
		!read_buckets(&neg, &r, &h, h.neg, &outer.neg.lo, &outer.neg.hi) ||
		!finish_numbers(&outer, &h.numbers))
		return EXPO_ERR_CORRUPT;

	dst->count += h.count;
	dst->zero_count += h.zero;
	dst->sum += outer.sum;
	dst->min = fmin(dst->min, outer.min);
	dst->max = fmax(dst->max, outer.max);
	*used = (size_t) (r.p - buf);
	return EXPO_OK;
}

int
expo_decode(ExpoSketch *s, const uint8_t *buf, size_t len, size_t *used, const ExpoAllocator *a)
{
	int rc;

	s->scale = EXPO_MAX_SCALE; /* takes the encoded one */
	rc = expo_merge_encoded(s, buf, len, used, a);
	if (rc != EXPO_OK)
		expo_free(s, a);
	return rc;
}
