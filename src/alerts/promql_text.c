/*-------------------------------------------------------------------------
 *
 * promql_text.c
 *	  Strings that grow, and JSON in them.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/promql.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
prom_text_init(PromText *t, PromAlloc alloc)
{
	t->alloc = alloc;
	t->room = 64;
	t->len = 0;
	t->s = alloc(t->room);
	t->s[0] = '\0';
}

void
prom_append(PromText *t, const char *s, size_t len)
{
	if (len >= t->room - t->len)
	{
		size_t room = 2 * (t->len + len + 1);
		char *larger = t->alloc(room);

		memcpy(larger, t->s, t->len);
		t->s = larger;
		t->room = room;
	}
	memcpy(t->s + t->len, s, len);
	t->len += len;
	t->s[t->len] = '\0';
}

void
prom_appends(PromText *t, const char *s)
{
	prom_append(t, s, strlen(s));
}

void
prom_append_number(PromText *t, double number)
{
	char text[40];

	for (int digits = 15; digits <= 17; digits++)
	{
		snprintf(text, sizeof(text), "%.*g", digits, number);
		if (strtod(text, NULL) == number)
			break;
	}
	prom_appends(t, text);
}

void
prom_append_json(PromText *t, const char *s, size_t len)
{
	prom_append(t, "\"", 1);
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = s[i];
		char escape[8];

		if (c == '"' || c == '\\')
		{
			prom_append(t, "\\", 1);
			prom_append(t, s + i, 1);
		}
		else if (c < 0x20)
		{
			snprintf(escape, sizeof(escape), "\\u%04x", c);
			prom_appends(t, escape);
		}
		else
			prom_append(t, s + i, 1);
	}
	prom_append(t, "\"", 1);
}
