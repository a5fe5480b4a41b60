/*-------------------------------------------------------------------------
 *
 * resolver.c
 *	  Preloaded in place of the system's resolver, for tests.
 *
 * $TEST_HOSTS holds "name=answers" items separated by spaces; answers are
 * addresses separated by "|", of which each look-up gets the next (the last
 * one stays), or "slow", which takes a minute.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*getaddrinfo_fn)(const char *, const char *, const struct addrinfo *,
							  struct addrinfo **);

static atomic_int lookups;

/* The n-th answer, or the last one. */
static void
pick_answer(char *answers, int n, char *answer, size_t size)
{
	char *end;

	while (n-- > 0 && strchr(answers, '|'))
		answers = strchr(answers, '|') + 1;
	strncpy(answer, answers, size - 1);
	answer[size - 1] = '\0';
	end = strchr(answer, '|');
	if (end)
		*end = '\0';
}

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
			struct addrinfo **res)
{
	getaddrinfo_fn real = (getaddrinfo_fn) dlsym(RTLD_NEXT, "getaddrinfo");
	char *list = getenv("TEST_HOSTS") ? strdup(getenv("TEST_HOSTS")) : NULL;
	char answer[64];

	for (char *save, *item = list ? strtok_r(list, " ", &save) : NULL; item && node;
		 item = strtok_r(NULL, " ", &save))
	{
		char *equals = strchr(item, '=');

		if (!equals || strlen(node) != (size_t) (equals - item) ||
			strncmp(node, item, equals - item) != 0)
			continue;
		if (strcmp(equals + 1, "slow") == 0)
		{
			sleep(60);
			return EAI_AGAIN;
		}
		pick_answer(equals + 1, atomic_fetch_add(&lookups, 1), answer, sizeof(answer));
		node = answer;
		break;
	}
	free(list);
	return real(node, service, hints, res);
}
