/*-------------------------------------------------------------------------
 *
 * fingerprint_test.c
 *	  Unit tests of what errors have in common, as TAP.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "random_tap.h"
#include "signals/fingerprint.h"

static const struct
{
	const char *message;
	const char *without_values;
} messages[] = {
	{"order 4711 of \"bob\" is late", "order ? of ? is late"},
	{"can't send to a.b+c@example.com", "can't send to ?"},
	{"the user's 'quoted' text", "the user's ? text"},
	{"took 12.5s at 2031-01-01 12:30:59.1", "took ? at ? ?"},
	{"id 6ba7b810-9dad-11d1-80b4-00c04fd430c8 not found", "id ? not found"},
	{"table_2 of v12", "? of ?"},
	{"open \"quote", "open \"quote"},
	{"a-b/c: no value.", "a-b/c: no value."},
	{"`x` {1,2}", "? {?,?}"},
	{"\xc3\xbc 5", "\xc3\xbc ?"},
	{"", ""},
};

static const struct
{
	const char *template;
	bool tells;
} templates[] = {
	{"%s", false},
	{"%s: %s", false},
	{"%-*s %lld (%zu)", false},
	{"%s at or near \"%s\"", true},
	{"relation \"%s\" does not exist", true},
	{"division by zero", true},
	{"", false},
	{"%", false},
	{"%m", false},
};

static void
test_messages(void)
{
	bool good = true;

	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++)
	{
		char out[200];
		size_t n = mon_parameterize(messages[i].message, strlen(messages[i].message), out,
									sizeof(out));

		if (strcmp(out, messages[i].without_values) != 0 || n != strlen(out))
		{
			printf("# %s\n# is %s\n", messages[i].message, out);
			good = false;
		}
	}
	ok(good, "messages without their values");
}

static void
test_templates(void)
{
	bool good = true;

	for (size_t i = 0; i < sizeof(templates) / sizeof(templates[0]); i++)
		if (mon_template_tells(templates[i].template, strlen(templates[i].template)) !=
			templates[i].tells)
		{
			printf("# %s\n", templates[i].template);
			good = false;
		}
	ok(good, "formats that tell something and others");
}

/* Random bytes of what matters, in buffers of exactly their size. */
static void
test_random(void)
{
	static const char alphabet[] = "'\"`%aZ_09.-:@+/ ls\x80\xff";
	bool good = true;

	for (int round = 0; round < 200000; round++)
	{
		size_t len = next_random() % 30;
		size_t size = 1 + next_random() % 30;
		char *message = malloc(len ? len : 1);
		char *out = malloc(size);

		for (size_t i = 0; i < len; i++)
			message[i] = alphabet[next_random() % (sizeof(alphabet) - 1)];
		(void) mon_template_tells(message, len);
		good &= mon_parameterize(message, len, out, size) < size;
		free(message);
		free(out);
	}
	ok(good, "messages of every kind and size");
}

int
main(void)
{
	test_messages();
	test_templates();
	test_random();
	printf("1..%d\n", tests);
	return failures > 0;
}
