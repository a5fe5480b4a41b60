/*-------------------------------------------------------------------------
 *
 * fuzz_normalize.c
 *	  libFuzzer target: texts of statements without their literals.
 *
 * The first byte gives the options, the second the size of the output.  Any
 * input, also cut anywhere, must stay within the output; unless identifiers in
 * quotes or hints are in it, no quote may be left.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE /* memmem */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/normalize.h"

static void
check(bool good)
{
	if (!good)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	NormalizeOptions options;
	char *sql, *out;
	size_t len, out_size, n;

	if (size < 2)
		return 0;
	options.keep_numbers = data[0] & 1;
	options.backslash_in_literals = data[0] & 2;
	out_size = 1 + data[1] * 8;
	len = size - 2;

	/* Of exactly this size, so that the sanitizer sees what is read or written beyond. */
	sql = malloc(len ? len : 1);
	out = malloc(out_size);
	check(sql && out);
	memcpy(sql, data + 2, len);
	n = mon_normalize_statement(sql, len, &options, out, out_size);
	check(n < out_size && out[n] == '\0');
	if (!memchr(sql, '"', len) && !memmem(sql, len, "/*+", 3))
		check(!memchr(out, '\'', n));
	free(sql);
	free(out);
	return 0;
}
