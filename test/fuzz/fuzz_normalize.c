/*-------------------------------------------------------------------------
 *
 * fuzz_normalize.c
 *	  libFuzzer target: texts of statements without their literals, and messages of
 *	  errors without their values.
 *
 * The first byte gives the options, and which of the two; the second the size of
 * the output.  Any input, also cut anywhere, must stay within the output; unless
 * identifiers in quotes or hints are in a statement, no quote may be left, and of
 * a message no digit.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE /* memmem */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/normalize.h"
#include "signals/fingerprint.h"

static void
check(bool good)
{
	if (!good)
		abort();
}

static void
fuzz_message(const char *message, size_t len, char *out, size_t out_size)
{
	size_t n = mon_parameterize(message, len, out, out_size);

	check(n < out_size && out[n] == '\0');
	for (size_t i = 0; i < n; i++)
		check(out[i] < '0' || out[i] > '9');
	(void) mon_template_tells(message, len);
}

static void
fuzz_statement(const char *sql, size_t len, unsigned flags, char *out, size_t out_size)
{
	NormalizeOptions options = {.keep_numbers = flags & 1, .backslash_in_literals = flags & 2};
	size_t n = mon_normalize_statement(sql, len, &options, out, out_size);

	check(n < out_size && out[n] == '\0');
	if (!memchr(sql, '"', len) && !memmem(sql, len, "/*+", 3))
		check(!memchr(out, '\'', n));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text, *out;
	size_t len, out_size;

	if (size < 2)
		return 0;
	out_size = 1 + data[1] * 8;
	len = size - 2;

	/* Of exactly this size, so that the sanitizer sees what is read or written beyond. */
	text = malloc(len ? len : 1);
	out = malloc(out_size);
	check(text && out);
	memcpy(text, data + 2, len);
	if (data[0] & 4)
		fuzz_message(text, len, out, out_size);
	else
		fuzz_statement(text, len, data[0], out, out_size);
	free(text);
	free(out);
	return 0;
}
