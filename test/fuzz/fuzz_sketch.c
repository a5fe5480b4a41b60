/*-------------------------------------------------------------------------
 *
 * fuzz_sketch.c
 *	  libFuzzer target: decoding and merging of encoded sketches.
 *
 * Any input must be an error or a sketch whose encoded form is canonical,
 * decodes to the same again and answers percentiles inside [min, max]; memory
 * stays within the bound of two blocks of EXPO_MAX_BUCKETS wide counters.
 *
 *-------------------------------------------------------------------------
 */
#include "fuzz.h"

/* Three sketches at most live at a time, a fourth while it grows. */
const size_t memory_bound = 4 * SKETCH_BOUND;

/* Encode, decode, encode: the same bytes. */
static void
check_canonical(const ExpoSketch *s)
{
	size_t bound = expo_encoded_bound(s);
	uint8_t *first = malloc(bound);
	uint8_t *second = malloc(bound);
	size_t len = expo_encode(s, first);
	size_t used;
	ExpoSketch again;

	check(len <= bound);
	expo_init(&again, EXPO_DEFAULT_SCALE);
	check(expo_decode(&again, first, len, &used, &heap) == EXPO_OK && used == len);
	check(expo_encode(&again, second) == len && memcmp(first, second, len) == 0);
	expo_free(&again, &heap);
	free(first);
	free(second);
}

static void
check_percentiles(const ExpoSketch *s)
{
	double q[5] = {0, 0.01, 0.5, 0.999, 1};
	double out[5];

	expo_quantiles(s, q, 5, out);
	for (int i = 0; i < 5 && s->count > 0; i++)
		check(out[i] >= s->min && out[i] <= s->max && (i == 0 || out[i] >= out[i - 1]));
}

/* Two encoded sketches in a row, as in a segment, merged both ways. */
static void
check_merge(const uint8_t *data, size_t size, size_t used)
{
	ExpoSketch a;
	ExpoSketch b;
	size_t rest;

	expo_init(&a, EXPO_MAX_SCALE);
	expo_init(&b, EXPO_MAX_SCALE);
	if (expo_merge_encoded(&a, data, used, &rest, &heap) == EXPO_OK &&
		expo_merge_encoded(&a, data + used, size - used, &rest, &heap) == EXPO_OK)
	{
		check(expo_merge_encoded(&b, data + used, size - used, &rest, &heap) == EXPO_OK);
		check(expo_merge_encoded(&b, data, used, &rest, &heap) == EXPO_OK);
		check(a.scale == b.scale && a.count == b.count && a.min == b.min && a.max == b.max);
		a.sum = b.sum = 0;
		check_canonical(&a);
	}
	expo_free(&a, &heap);
	expo_free(&b, &heap);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ExpoSketch s;
	size_t used;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	if (expo_decode(&s, data, size, &used, &heap) == EXPO_OK)
	{
		check(used <= size);
		check_canonical(&s);
		check_percentiles(&s);
		check_merge(data, size, used);
		expo_downscale(&s, s.scale - 2);
		check_canonical(&s);
	}
	expo_free(&s, &heap);
	check(in_use == 0);
	return 0;
}
