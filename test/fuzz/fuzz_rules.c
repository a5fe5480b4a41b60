/*-------------------------------------------------------------------------
 *
 * fuzz_rules.c
 *	  libFuzzer target: rule files of Prometheus, as YAML and as expressions.
 *
 * The first byte chooses one of them.  Any input must give JSON that begins and
 * ends as such, or an error with a message.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "alerts/promql.h"
#include "alerts/yaml/yaml_json.h"

typedef struct Block
{
	struct Block *next;
	double data[];
} Block;

static Block *blocks = NULL;

static void *
allocate(size_t size)
{
	Block *b = calloc(1, sizeof(Block) + size);

	if (!b)
		abort();
	b->next = blocks;
	blocks = b;
	return b->data;
}

static void
check(bool good)
{
	if (!good)
		abort();
}

static void
fuzz_expr(const char *expr, size_t len)
{
	char *json = prom_translate(expr, len, allocate);

	check(json[0] == '{' && json[strlen(json) - 1] == '}');
	while (blocks)
	{
		Block *next = blocks->next;

		free(blocks);
		blocks = next;
	}
}

static void
fuzz_yaml(const char *yaml, size_t len)
{
	YamlError error = {0};
	char *json = yaml_to_json(yaml, len, &error);

	check(json ? json[0] != '\0' && error.message[0] == '\0' : error.message[0] != '\0');
	free(json);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] % 2 == 0)
		fuzz_expr((const char *) data + 1, size - 1);
	else
		fuzz_yaml((const char *) data + 1, size - 1);
	return 0;
}
