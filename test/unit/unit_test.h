/*-------------------------------------------------------------------------
 *
 * unit_test.h
 *	  What the unit tests of sketches and chunks share: an allocator that can
 *	  refuse, generators of values.
 *
 *-------------------------------------------------------------------------
 */
#ifndef UNIT_TEST_H
#define UNIT_TEST_H

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "random_tap.h"
#include "sketch/expo_sketch.h"

/* Any positive finite double, subnormals included, each exponent equally likely. */
static double
any_double(void)
{
	uint64_t bits;
	double v;

	do
		bits = next_random() >> 1;
	while (bits == 0 || bits >= UINT64_C(0x7FF0000000000000));
	memcpy(&v, &bits, sizeof(v));
	return v;
}

/* ---- allocators ---- */

static long blocks = 0;
static long budget = -1; /* allocations until the allocator refuses; -1 = never */

static void *
test_alloc(void *ctx, size_t size, size_t *actual)
{
	(void) ctx;
	if (budget == 0)
		return NULL;
	if (budget > 0)
		budget--;
	blocks++;
	*actual = size;
	return malloc(size);
}

static void
test_free(void *ctx, void *ptr, size_t actual)
{
	(void) ctx;
	blocks--;
	memset(ptr, 0x7F, actual); /* a wrong size shows in the address sanitizer */
	free(ptr);
}

static const ExpoAllocator heap = {test_alloc, test_free, NULL};

/* ---- data ---- */

typedef double (*Generator)(void);

static double
gen_uniform(void)
{
	return 1 + uniform() * 999;
}

static double
gen_lognormal(void)
{
	return exp(normal());
}

static double
gen_pareto(void)
{
	return pow(1 - uniform(), -1.0);
}

static double
gen_constant(void)
{
	return 42.42;
}

static double
gen_zeroes(void)
{
	return next_random() % 3 ? gen_lognormal() : 0;
}

static double
gen_mixed(void)
{
	return normal() * 100;
}

static double
gen_negative(void)
{
	return -gen_lognormal();
}

static double
gen_integer(void)
{
	return (double) (next_random() % 100000);
}

static double
gen_any(void)
{
	return next_random() & 1 ? any_double() : -any_double();
}

static double
gen_edges(void)
{
	return expo_bound((int32_t) (next_random() % 2000), 6) *
		(next_random() & 1 ? 1 : 1 + DBL_EPSILON);
}

static const struct
{
	const char *name;
	Generator make;
} generators[] = {
	{"uniform", gen_uniform},    {"lognormal", gen_lognormal}, {"Pareto", gen_pareto},
	{"constant", gen_constant},  {"with zeroes", gen_zeroes},  {"both signs", gen_mixed},
	{"negative", gen_negative},  {"integers", gen_integer},    {"all doubles", gen_any},
	{"bucket edges", gen_edges},
};

#define NGENERATORS (sizeof(generators) / sizeof(generators[0]))

#endif /* UNIT_TEST_H */
