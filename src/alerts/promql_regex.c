/*-------------------------------------------------------------------------
 *
 * promql_regex.c
 *	  Regular expressions of RE2 as such of PostgreSQL.
 *
 * Only what means the same in both is let through: other escapes, flags and
 * groups are refused.  The classes \d, \w and \s are spelt out, since they are
 * ASCII in RE2 and depend on the collation here.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/promql.h"

#include <ctype.h>
#include <string.h>

typedef struct Reader
{
	const char *p;
	const char *end;
	PromText *out;
} Reader;

static const struct
{
	char name;
	const char *members;
} classes[] = {{'d', "0-9"}, {'w', "0-9A-Za-z_"}, {'s', "\\t\\n\\f\\r "}};

static const char *
class_members(char name)
{
	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
		if (classes[i].name == tolower((unsigned char) name))
			return classes[i].members;
	return NULL;
}

/* What comes after a backslash. */
static bool
take_escape(Reader *r, bool in_brackets)
{
	const char *members;
	char c;

	if (r->p == r->end)
		return false;
	c = *r->p++;
	if (ispunct((unsigned char) c) || strchr("nrtfv", c))
	{
		prom_append(r->out, "\\", 1);
		prom_append(r->out, &c, 1);
		return c != '\0';
	}
	members = class_members(c);
	if (!members || (in_brackets && isupper((unsigned char) c)))
		return false;
	if (!in_brackets)
		prom_appends(r->out, isupper((unsigned char) c) ? "[^" : "[");
	prom_appends(r->out, members);
	if (!in_brackets)
		prom_appends(r->out, "]");
	return true;
}

/* [...]; the opening bracket is taken */
static bool
take_brackets(Reader *r)
{
	bool first = true;

	prom_append(r->out, "[", 1);
	if (r->p < r->end && *r->p == '^')
		prom_append(r->out, r->p++, 1);
	for (; r->p < r->end && (first || *r->p != ']'); first = false)
	{
		char c = *r->p++;

		if (c == '\\')
		{
			if (!take_escape(r, true))
				return false;
		}
		/* classes by name, and what PostgreSQL takes for one */
		else if (c == '[' && r->p < r->end && strchr(":.=", *r->p))
			return false;
		else
			prom_append(r->out, &c, 1);
	}
	if (r->p == r->end)
		return false;
	prom_append(r->out, r->p++, 1);
	return true;
}

/* ( is taken: only (? without flags, and groups */
static bool
take_group(Reader *r)
{
	prom_append(r->out, "(?:", 3);
	if (r->p < r->end && *r->p == '?')
	{
		if (r->end - r->p < 2 || r->p[1] != ':')
			return false;
		r->p += 2;
	}
	/* what would be a quantifier of nothing */
	return r->p == r->end || !strchr("*+?{", *r->p);
}

/* {2}, {2,} or {2,5}; as a text it means itself in RE2 and is not looked at further */
static bool
take_repetition(Reader *r)
{
	const char *start = r->p;

	while (r->p < r->end && (isdigit((unsigned char) *r->p) || *r->p == ','))
		r->p++;
	if (r->p == start || *start == ',' || r->p == r->end || *r->p != '}')
		return false;
	r->p++;
	prom_append(r->out, "{", 1);
	prom_append(r->out, start, r->p - start);
	return true;
}

bool
prom_regex(PromSlice re, PromText *out)
{
	Reader r = {.p = re.s, .end = re.s + re.len, .out = out};

	if (re.len >= 4 && memcmp(re.s, "(?i)", 4) == 0)
	{
		prom_append(out, re.s, 4);
		r.p += 4;
	}
	while (r.p < r.end)
	{
		char c = *r.p++;
		bool good = true;

		switch (c)
		{
			case '\\':
				good = take_escape(&r, false);
				break;
			case '[':
				good = take_brackets(&r);
				break;
			case '(':
				good = take_group(&r);
				break;
			case '{':
				good = take_repetition(&r);
				break;
			default:
				prom_append(out, &c, 1);
		}
		if (!good)
			return false;
	}
	return true;
}
