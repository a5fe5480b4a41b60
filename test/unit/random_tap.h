/*-------------------------------------------------------------------------
 *
 * random_tap.h
 *	  What the unit tests of the plain C code share: TAP, and random numbers
 *	  from a fixed seed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef RANDOM_TAP_H
#define RANDOM_TAP_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

static int tests = 0;
static int failures = 0;

static void
ok(bool good, const char *name)
{
	printf("%s %d - %s\n", good ? "ok" : "not ok", ++tests, name);
	failures += !good;
}

/* ---- random numbers (splitmix64) ---- */

static uint64_t seed = 1;

static uint64_t
next_random(void)
{
	uint64_t z = (seed += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static inline double
uniform(void)
{
	return (double) (next_random() >> 11) * 0x1p-53;
}

static inline double
normal(void)
{
	return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
}

#endif /* RANDOM_TAP_H */
