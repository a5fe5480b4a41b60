/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the libFuzzer targets share: checks and an allocator with a bound.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdlib.h>
#include <string.h>

#include "sketch/expo_sketch.h"

/* Two signs, each with an old and a new block while it grows. */
#define SKETCH_BOUND (2 * 2 * EXPO_MAX_BUCKETS * sizeof(uint64_t))

/* Of all sketches that a target holds at a time. */
extern const size_t memory_bound;

static size_t in_use = 0;

static void *
fuzz_alloc(void *ctx, size_t size, size_t *actual)
{
	(void) ctx;
	in_use += size;
	if (in_use > memory_bound)
		abort();
	*actual = size;
	return malloc(size);
}

static void
fuzz_free(void *ctx, void *ptr, size_t actual)
{
	(void) ctx;
	in_use -= actual;
	free(ptr);
}

static const ExpoAllocator heap = {fuzz_alloc, fuzz_free, NULL};

static void
check(int good)
{
	if (!good)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif /* FUZZ_H */
