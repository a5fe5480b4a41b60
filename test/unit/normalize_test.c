/*-------------------------------------------------------------------------
 *
 * normalize_test.c
 *	  Unit tests of statements' texts without their literals, as TAP.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "core/normalize.h"
#include "random_tap.h"

static const struct
{
	const char *sql;
	const char *normalized;
} texts[] = {
	{"SELECT 1", "SELECT $1"},
	{"SELECT 'it''s', 2.5e-3 FROM t1", "SELECT $1, $2 FROM t1"},
	{"  select\n\t a  -- what 'this' is\n from /* 'a' /* nested */ ' */ b  ", "select a from b"},
	{"/*+ SeqScan(a) */ SELECT 1", "/*+ SeqScan(a) */ SELECT $1"},
	{"SELECT E'a\\'b', 'c\\', 'd'", "SELECT $1, $2, $3"},
	{"SELECT b'01', X'ff', n'x', U&'d\\0061', u&\"d'x\"", "SELECT $1, $2, $3, ..., u&\"d'x\""},
	{"SELECT 'a'\n  'b' , 'c' 'd'", "SELECT $1 , $2 $3"},
	{"SELECT $$it's$$, $a$ $$ ' $b$ $a$, $1, $2$x$", "SELECT $3, $4, $1, $2$5"},
	{"SELECT \"a'b\"\"c\" FROM \"T 1\"", "SELECT \"a'b\"\"c\" FROM \"T 1\""},
	{"SELECT a$1$, $7, 5", "SELECT a$1$, $7, $8"},
	{"SELECT * FROM t WHERE a IN (1,2,3,4,5) AND b IN ('x', 'y', 'z', 'v', 'w')",
	 "SELECT * FROM t WHERE a IN ($1,$2,$3,...) AND b IN ($4, $5, $6, ...)"},
	{"VALUES (1, 2, 3, 4, x, 5)", "VALUES ($1, $2, $3, ..., x, $4)"},
	{"SELECT f(1, 2, 3, 4, 5), \"g\" (1, x, 2, 3, 4, (5), 6)", "SELECT f($1, $2, $3, $4, $5), \"g\" ($6, x, $7, $8, $9, ($10), $11)"},
	{"SELECT f(x IN (1,2,3,4), 5, 6, 7, 8), 9", "SELECT f(x IN ($1,$2,$3,...), $4, $5, $6, $7), $8"},
	{"SELECT a[f(1,2,3,4)], f(ARRAY[1,2,3,4]) FROM t WHERE a in(1,2,3,4) ))))", "SELECT a[f($1,$2,$3,$4)], f(ARRAY[$5,$6,$7,...]) FROM t WHERE a in($8,$9,$10,...) ))))"},
	{"SELECT .5, 0x1F, -1_000, a1, a.b, 1..2", "SELECT $1, $2, -$3, a1, a.b, $4.$5"},
	{"SELECT '", "SELECT $1"},
	{"SELECT 'open secret", "SELECT $1"},
	{"SELECT $$open secret", "SELECT $1"},
	{"SELECT E'open\\", "SELECT $1"},
	{"SELECT 1 /* open 'secret", "SELECT $1"},
	{"ALTER ROLE a PASSWORD 'md5''secret' VALID UNTIL '2031-01-01'",
	 "ALTER ROLE a PASSWORD $1 VALID UNTIL $2"},
	{"SELECT 'secret'::text||'x'", "SELECT $1::text||$2"},
	{"SELECT '\xc3\xbc', \xc3\xbc", "SELECT $1, \xc3\xbc"},
	{"", ""},
	{"  -- nothing", ""},
};

static bool
normalizes(const char *sql, NormalizeOptions options, const char *wanted)
{
	char out[512];
	size_t n = mon_normalize_statement(sql, strlen(sql), &options, out, sizeof(out));

	if (n == strlen(out) && strcmp(out, wanted) == 0)
		return true;
	printf("# %s\n# is     %s\n# wanted %s\n", sql, out, wanted);
	return false;
}

static void
test_texts(void)
{
	bool good = true;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		good &= normalizes(texts[i].sql, (NormalizeOptions){0}, texts[i].normalized);
	ok(good, "literals of every kind become parameters");
	ok(normalizes(
		   "SET work_mem = 64; ALTER TABLE t ALTER a SET STATISTICS 500, ADD b text DEFAULT 'x'",
		   (NormalizeOptions){.keep_numbers = true},
		   "SET work_mem = 64; ALTER TABLE t ALTER a SET STATISTICS 500, ADD b text DEFAULT $1"),
	   "numbers are kept where they are asked for");
	ok(normalizes("SELECT 'a\\'b', 'c'", (NormalizeOptions){.backslash_in_literals = true},
				  "SELECT $1, $2"),
	   "backslashes count where standard_conforming_strings is off");
}

/* A text that does not fit ends after the last token that does. */
static void
test_bounds(void)
{
	const char *sql = "SELECT alpha, 'beta', \"gamma\" FROM delta";
	NormalizeOptions options = {0};
	char whole[64];
	size_t len = mon_normalize_statement(sql, strlen(sql), &options, whole, sizeof(whole));
	bool good = true;

	for (size_t size = 1; size <= len + 2; size++)
	{
		char *out = malloc(size);
		size_t n = mon_normalize_statement(sql, strlen(sql), &options, out, size);

		good &= n < size && out[n] == '\0' && strncmp(out, whole, n) == 0;
		good &= n == 0 || whole[n] == '\0' || strchr(" ,", whole[n]) != NULL || whole[n - 1] == ',';
		good &= size <= len || n == len;
		free(out);
	}
	ok(good, "output of every size");
}

/* Random bytes of what matters to the scanner, in a buffer of exactly their size. */
static void
test_random(void)
{
	static const char alphabet[] = "'\"$\\/*-+eEuU&aZ_09., \n\t\r;()\x80\xff";
	bool good = true;

	for (int round = 0; round < 200000 && good; round++)
	{
		size_t len = next_random() % 40;
		char *sql = malloc(len + 1);
		char out[64];
		NormalizeOptions options = {next_random() & 1, next_random() & 1};
		size_t n;

		for (size_t i = 0; i < len; i++)
			sql[i] = alphabet[next_random() % (sizeof(alphabet) - 1)];
		sql = realloc(sql, len ? len : 1);
		n = mon_normalize_statement(sql, len, &options, out, sizeof(out));
		good &= n < sizeof(out) && out[n] == '\0';
		if (!memchr(sql, '"', len) && !memchr(sql, '+', len))
			good &= memchr(out, '\'', n) == NULL;
		free(sql);
	}
	ok(good, "of random texts no literal is left");
}

int
main(void)
{
	test_texts();
	test_bounds();
	test_random();
	printf("1..%d\n", tests);
	return failures > 0;
}
