/*-------------------------------------------------------------------------
 *
 * expo_index.c
 *	  From a value to its bucket and back, exactly, in integer arithmetic.
 *
 * A logarithm in floating point is wrong next to a boundary, and differently
 * on every platform; then merging would not be exact.  Here the mantissa is
 * looked up in a table of the 256 boundaries of an octave (scale 8); coarser
 * scales are arithmetic shifts of that index.
 *
 *-------------------------------------------------------------------------
 */
#include "expo_internal.h"

#include <float.h>

#include "expo_table.h"

int32_t
expo_index(double v, int scale)
{
	uint64_t bits = expo_bits(v);
	int32_t index;

	if (EXPO_LIKELY(bits >> 52))
		index = expo_index8(bits);
	else
	{
		/* subnormal: bring the leading one to where a normal number has it */
		int shift = __builtin_clzll(bits | 1) - 11;

		index = (-1022 - shift) * 256 + expo_step(bits << shift);
	}
	return index >> (EXPO_MAX_SCALE - scale);
}

/*
 * The largest double that is not above the true bound, so that
 * expo_index(expo_bound(i)) is i - 1 wherever doubles are dense enough.
 */
double
expo_bound(int32_t index, int scale)
{
	int64_t index8 = (int64_t) index * (INT64_C(1) << (EXPO_MAX_SCALE - scale));
	int64_t exponent = index8 >> 8;
	uint64_t mantissa = expo_boundary[(index8 & 255) + 1] - 1;

	if (exponent > 1023)
		return DBL_MAX;
	if (exponent < -1074)
		return 0;
	if (exponent >= -1022)
		return expo_from_bits(((uint64_t) (exponent + 1023) << 52) | mantissa);
	return expo_from_bits((mantissa | (UINT64_C(1) << 52)) >> (-1022 - exponent));
}
