/*-------------------------------------------------------------------------
 *
 * promql_parse.c
 *	  PromQL, by recursive descent.
 *
 * The whole language is parsed, so that what cannot be translated can be
 * named; whether types fit is not asked here.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/promql.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct Parser
{
	PromAlloc alloc;
	const char *expr;
	const char *p;
	const char *end;
	const char *last; /* end of what was last taken */
	int depth;
	int nodes;
	PromText *error;
} Parser;

static const char *const aggregations[] = {
	"sum",    "avg",  "min",     "max",      "count",        "group",  "stddev",
	"stdvar", "topk", "bottomk", "quantile", "count_values", "limitk", "limit_ratio",
};

/* By precedence, lowest first; longer ones before their beginnings. */
static const struct
{
	const char *name;
	int precedence;
} operators[] = {
	{"or", 1}, {"and", 2}, {"unless", 2}, {"==", 3}, {"!=", 3}, {"<=", 3}, {">=", 3},    {"<", 3},
	{">", 3},  {"+", 4},   {"-", 4},      {"*", 5},  {"/", 5},  {"%", 5},  {"atan2", 5}, {"^", 6},
};

#define COMPARISON 3
#define SUM 4
#define POWER 6
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static PromNode *parse_expr(Parser *ps, int least);

bool
prom_is(PromSlice s, const char *word)
{
	return strlen(word) == s.len && strncasecmp(s.s, word, s.len) == 0;
}

/* ---- characters ---- */

/* What is wrong is said once, by who notices it first. */
static void *
fail(Parser *ps, const char *what)
{
	size_t left = ps->end - ps->p;

	if (ps->error->len > 0)
		return NULL;
	prom_appends(ps->error, what);
	if (left == 0)
	{
		prom_appends(ps->error, " at the end");
		return NULL;
	}
	left = left > 40 ? 40 : left;
	while (left > 0 && left < (size_t) (ps->end - ps->p) && (ps->p[left] & 0xC0) == 0x80)
		left--;
	prom_appends(ps->error, " at \"");
	prom_append(ps->error, ps->p, left);
	prom_appends(ps->error, "\"");
	return NULL;
}

static void
skip_space(Parser *ps)
{
	while (ps->p < ps->end)
	{
		if (*ps->p == '#')
			while (ps->p < ps->end && *ps->p != '\n')
				ps->p++;
		else if (strchr(" \t\r\n", *ps->p) && *ps->p != '\0')
			ps->p++;
		else
			break;
	}
}

static bool
is_name_start(char c)
{
	return isalpha((unsigned char) c) || c == '_' || c == ':';
}

static bool
is_name(char c)
{
	return is_name_start(c) || isdigit((unsigned char) c);
}

static bool
looking_at(Parser *ps, const char *s)
{
	size_t len = strlen(s);

	skip_space(ps);
	return (size_t) (ps->end - ps->p) >= len && memcmp(ps->p, s, len) == 0;
}

static bool
take(Parser *ps, const char *s)
{
	if (!looking_at(ps, s))
		return false;
	ps->p += strlen(s);
	ps->last = ps->p;
	return true;
}

static bool
need(Parser *ps, const char *s)
{
	char what[] = "\"?\" is missing";

	if (take(ps, s))
		return true;
	what[1] = s[0];
	fail(ps, what);
	return false;
}

/* The name that comes next, empty when there is none; it is not taken yet. */
static PromSlice
peek_name(Parser *ps)
{
	PromSlice name;

	skip_space(ps);
	name.s = ps->p;
	name.len = 0;
	if (ps->p < ps->end && is_name_start(*ps->p))
		while (ps->p + name.len < ps->end && is_name(ps->p[name.len]))
			name.len++;
	return name;
}

static void
take_name(Parser *ps, PromSlice name)
{
	ps->p = ps->last = name.s + name.len;
}

static bool
take_word(Parser *ps, const char *word)
{
	PromSlice name = peek_name(ps);

	if (!prom_is(name, word))
		return false;
	take_name(ps, name);
	return true;
}

static PromNode *
make_node(Parser *ps, PromKind kind, const char *start)
{
	PromNode *n = ps->alloc(sizeof(PromNode));

	ps->nodes++;
	n->kind = kind;
	n->source.s = start;
	return n;
}

static PromNode *
close_node(Parser *ps, PromNode *n)
{
	n->source.len = ps->last - n->source.s;
	return n;
}

/* ---- literals ---- */

static void
append_codepoint(PromText *t, unsigned long c)
{
	char b[4];

	if (c < 0x80)
	{
		b[0] = c;
		prom_append(t, b, 1);
	}
	else if (c < 0x800)
	{
		b[0] = 0xC0 | (c >> 6);
		b[1] = 0x80 | (c & 0x3F);
		prom_append(t, b, 2);
	}
	else if (c < 0x10000)
	{
		b[0] = 0xE0 | (c >> 12);
		b[1] = 0x80 | ((c >> 6) & 0x3F);
		b[2] = 0x80 | (c & 0x3F);
		prom_append(t, b, 3);
	}
	else
	{
		b[0] = 0xF0 | (c >> 18);
		b[1] = 0x80 | ((c >> 12) & 0x3F);
		b[2] = 0x80 | ((c >> 6) & 0x3F);
		b[3] = 0x80 | (c & 0x3F);
		prom_append(t, b, 4);
	}
}

/* \x41, \u20ac, \U0001f600 or \101: a character that text can hold; false for others. */
static bool
take_code(Parser *ps, PromText *t, int digits, int base)
{
	char text[9];
	char *end;
	unsigned long c;

	if (ps->end - ps->p < digits)
		return false;
	memcpy(text, ps->p, digits);
	text[digits] = '\0';
	if (!isxdigit((unsigned char) text[0]))
		return false;
	c = strtoul(text, &end, base);
	/* bytes above 0x7f are no characters */
	if (*end || c == 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) || (digits <= 3 && c > 0x7F))
		return false;
	ps->p += digits;
	append_codepoint(t, c);
	return true;
}

static bool
take_escape(Parser *ps, PromText *t)
{
	static const char letters[] = "abfnrtv\\'\"";
	static const char meant[] = "\a\b\f\n\r\t\v\\'\"";
	const char *found;
	char c;

	if (ps->p == ps->end)
		return false;
	c = *ps->p;
	if (c >= '0' && c <= '7')
		return take_code(ps, t, 3, 8);
	ps->p++;
	found = c ? strchr(letters, c) : NULL;
	if (found)
		prom_append(t, &meant[found - letters], 1);
	return found || (c == 'x' && take_code(ps, t, 2, 16)) ||
		(c == 'u' && take_code(ps, t, 4, 16)) || (c == 'U' && take_code(ps, t, 8, 16));
}

static bool
take_string(Parser *ps, PromSlice *value)
{
	PromText t;
	char quote;

	skip_space(ps);
	if (ps->p == ps->end || !strchr("\"'`", *ps->p) || *ps->p == '\0')
	{
		fail(ps, "a string is missing");
		return false;
	}
	quote = *ps->p++;
	prom_text_init(&t, ps->alloc);
	while (ps->p < ps->end && *ps->p != quote)
	{
		if (*ps->p == '\\' && quote != '`')
		{
			ps->p++;
			if (!take_escape(ps, &t))
			{
				fail(ps, "bad escape in a string");
				return false;
			}
		}
		else
			prom_append(&t, ps->p++, 1);
	}
	if (ps->p == ps->end)
	{
		fail(ps, "a string does not end");
		return false;
	}
	ps->last = ++ps->p;
	value->s = t.s;
	value->len = t.len;
	return true;
}

static PromNode *
parse_number(Parser *ps)
{
	PromNode *n = make_node(ps, PROM_NUMBER, ps->p);
	char text[64];
	size_t len = 0;
	char *end;

	/* strtod() needs an end, and takes less as a number than it could take here: no "nan(...)", no hexadecimal fractions */
	while (len < sizeof(text) - 1 && ps->p + len < ps->end)
	{
		char c = ps->p[len];

		if (!isalnum((unsigned char) c) && c != '.' &&
			!((c == '+' || c == '-') && len > 0 && tolower((unsigned char) ps->p[len - 1]) == 'e' &&
			  strncasecmp(ps->p, "0x", 2) != 0))
			break;
		text[len++] = c;
	}
	text[len] = '\0';
	n->number = strtod(text, &end);
	if (len == 0 || *end || strpbrk(text, "pP") ||
		(strncasecmp(text, "0x", 2) == 0 && strchr(text, '.')))
		return fail(ps, "bad number");
	ps->last = ps->p += len;
	return close_node(ps, n);
}

/* 5m, 1h30m, 500ms; what comes in brackets and after offset. */
static bool
take_duration(Parser *ps, PromSlice *range)
{
	static const char *const units[] = {"ms", "s", "m", "h", "d", "w", "y"};
	const char *start;

	skip_space(ps);
	start = ps->p;
	while (ps->p < ps->end && isdigit((unsigned char) *ps->p))
	{
		size_t i;

		while (ps->p < ps->end && isdigit((unsigned char) *ps->p))
			ps->p++;
		for (i = 0; i < COUNT_OF(units); i++)
		{
			size_t len = strlen(units[i]);

			if ((size_t) (ps->end - ps->p) >= len && memcmp(ps->p, units[i], len) == 0)
				break;
		}
		if (i == COUNT_OF(units))
			break;
		ps->p += strlen(units[i]);
		ps->last = ps->p;
	}
	range->s = start;
	range->len = ps->p - start;
	if (range->len > 0 && ps->last == ps->p)
		return true;
	fail(ps, "bad duration");
	return false;
}

/* ---- lists ---- */

static bool
parse_matcher(Parser *ps, PromNode *n, PromMatcher ***tail)
{
	static const char *const ops[] = {"=~", "!~", "!=", "="};
	PromMatcher *m = ps->alloc(sizeof(PromMatcher));
	size_t i;

	skip_space(ps);
	if (ps->p < ps->end && (*ps->p == '"' || *ps->p == '\''))
	{
		if (!take_string(ps, &m->label))
			return false;
		/* {"name of a metric", ...} */
		if (n->name.len == 0 && !looking_at(ps, "=") && !looking_at(ps, "!"))
		{
			n->name = m->label;
			return true;
		}
	}
	else
	{
		m->label = peek_name(ps);
		take_name(ps, m->label);
	}
	for (i = 0; i < COUNT_OF(ops); i++)
		if (m->label.len > 0 && take(ps, ops[i]))
			break;
	if (i == COUNT_OF(ops))
	{
		fail(ps, "bad matcher");
		return false;
	}
	strcpy(m->op, ops[i]);
	if (!take_string(ps, &m->value))
		return false;
	if (prom_is(m->label, "__name__") && strcmp(m->op, "=") == 0 && n->name.len == 0)
	{
		n->name = m->value;
		return true;
	}
	**tail = m;
	*tail = &m->next;
	return true;
}

static bool
parse_matchers(Parser *ps, PromNode *n)
{
	PromMatcher **tail = &n->matchers;

	if (!take(ps, "{"))
		return true;
	while (!take(ps, "}"))
		if (!parse_matcher(ps, n, &tail) ||
			(!take(ps, ",") && !looking_at(ps, "}") && !need(ps, "}")))
			return false;
	return true;
}

static bool
parse_labels(Parser *ps, PromLabel **labels)
{
	if (!need(ps, "("))
		return false;
	while (!take(ps, ")"))
	{
		PromLabel *l = ps->alloc(sizeof(PromLabel));

		l->name = peek_name(ps);
		if (l->name.len == 0)
		{
			fail(ps, "the name of a label is missing");
			return false;
		}
		take_name(ps, l->name);
		*labels = l;
		labels = &l->next;
		if (!take(ps, ",") && !looking_at(ps, ")") && !need(ps, ")"))
			return false;
	}
	return true;
}

static bool
parse_args(Parser *ps, PromNode *n)
{
	PromNode **tail = &n->args;

	if (!need(ps, "("))
		return false;
	while (!take(ps, ")"))
	{
		*tail = parse_expr(ps, 1);
		if (!*tail)
			return false;
		tail = &(*tail)->next;
		if (!take(ps, ",") && !looking_at(ps, ")") && !need(ps, ")"))
			return false;
	}
	return true;
}

/* ---- expressions ---- */

static bool
take_grouping(Parser *ps, PromNode *n)
{
	if (take_word(ps, "by"))
		n->group = PROM_BY;
	else if (take_word(ps, "without"))
		n->group = PROM_WITHOUT;
	else
		return true;
	return parse_labels(ps, &n->labels);
}

static bool
is_aggregation(PromSlice name)
{
	for (size_t i = 0; i < COUNT_OF(aggregations); i++)
		if (prom_is(name, aggregations[i]))
			return true;
	return false;
}

static PromNode *
parse_call(Parser *ps, PromSlice name)
{
	PromNode *n = make_node(ps, PROM_CALL, name.s);

	n->name = name;
	if (is_aggregation(name))
	{
		n->kind = PROM_AGGREGATE;
		if (!take_grouping(ps, n) || !parse_args(ps, n) ||
			(n->group == PROM_UNGROUPED && !take_grouping(ps, n)))
			return NULL;
	}
	else if (!parse_args(ps, n))
		return NULL;
	return close_node(ps, n);
}

/* Whether a name is that of a function or aggregation: what comes after it tells. */
static bool
is_call(Parser *ps, PromSlice name)
{
	const char *start = ps->p;
	bool call;

	take_name(ps, name);
	call = looking_at(ps, "(");
	if (!call && is_aggregation(name))
	{
		PromSlice word = peek_name(ps);

		call = prom_is(word, "by") || prom_is(word, "without");
	}
	if (!call)
		ps->p = start;
	return call;
}

static PromNode *
parse_primary(Parser *ps)
{
	PromNode *n;
	PromSlice name = peek_name(ps);

	if (looking_at(ps, "("))
	{
		const char *start = ps->p;

		(void) take(ps, "(");
		n = parse_expr(ps, 1);
		if (!n || !need(ps, ")"))
			return NULL;
		n->source.s = start; /* is shown with its parentheses */
		return close_node(ps, n);
	}
	if (name.len == 0 && ps->p < ps->end && (isdigit((unsigned char) *ps->p) || *ps->p == '.'))
		return parse_number(ps);
	if (prom_is(name, "inf") || prom_is(name, "nan"))
		return parse_number(ps);
	if (name.len == 0 && (looking_at(ps, "\"") || looking_at(ps, "'") || looking_at(ps, "`")))
	{
		n = make_node(ps, PROM_STRING, ps->p);
		return take_string(ps, &n->name) ? close_node(ps, n) : NULL;
	}
	if (name.len > 0 && is_call(ps, name))
		return parse_call(ps, name);
	if (name.len == 0 && !looking_at(ps, "{"))
		return fail(ps, "an expression is missing");
	n = make_node(ps, PROM_SELECTOR, ps->p);
	n->name = name;
	take_name(ps, name);
	return parse_matchers(ps, n) ? close_node(ps, n) : NULL;
}

/* [5m], [1h:1m], offset 1h, @ 1600000000 */
static PromNode *
parse_modifiers(Parser *ps, PromNode *n)
{
	PromSlice unused;
	PromNode *outer;

	for (;;)
	{
		if (take(ps, "["))
		{
			outer = n;
			if (n->kind != PROM_SELECTOR || n->range.len > 0)
			{
				outer = make_node(ps, PROM_SUBQUERY, n->source.s);
				outer->args = n;
			}
			if (!take_duration(ps, &outer->range))
				return NULL;
			if (take(ps, ":"))
			{
				outer->kind = PROM_SUBQUERY;
				if (!looking_at(ps, "]") && !take_duration(ps, &unused))
					return NULL;
			}
			if (!need(ps, "]"))
				return NULL;
			n = outer;
		}
		else if (take_word(ps, "offset"))
		{
			(void) take(ps, "-");
			if (!take_duration(ps, &unused))
				return NULL;
			n->shifted = true;
		}
		else if (take(ps, "@"))
		{
			PromNode *at = parse_expr(ps, POWER);

			if (!at)
				return NULL;
			n->shifted = true;
		}
		else
			return n;
		close_node(ps, n);
	}
}

static PromNode *
parse_unary(Parser *ps)
{
	const char *start;
	PromNode *n;

	skip_space(ps);
	start = ps->p;
	if (take(ps, "-"))
	{
		n = make_node(ps, PROM_NEGATIVE, start);
		n->args = parse_expr(ps, POWER);
		return n->args ? close_node(ps, n) : NULL;
	}
	if (take(ps, "+"))
		return parse_expr(ps, POWER);
	n = parse_primary(ps);
	return n ? parse_modifiers(ps, n) : NULL;
}

/* bool, on (a), ignoring (a), group_left (b) */
static bool
parse_matching(Parser *ps, PromNode *n)
{
	PromLabel *unused = NULL;

	n->has_bool = take_word(ps, "bool");
	if (take_word(ps, "on"))
		n->group = PROM_ON;
	else if (take_word(ps, "ignoring"))
		n->group = PROM_IGNORING;
	if (n->group != PROM_UNGROUPED && !parse_labels(ps, &n->labels))
		return false;
	if (!take_word(ps, "group_left") && !take_word(ps, "group_right"))
		return true;
	n->has_group = true;
	return !looking_at(ps, "(") || parse_labels(ps, &unused);
}

/* The operator that comes next; its place in the list, or -1.  It is not taken yet. */
static int
peek_operator(Parser *ps)
{
	PromSlice word = peek_name(ps);

	for (size_t i = 0; i < COUNT_OF(operators); i++)
		if (isalpha((unsigned char) operators[i].name[0]) ? prom_is(word, operators[i].name)
														  : looking_at(ps, operators[i].name))
			return i;
	return -1;
}

static PromNode *
parse_expr(Parser *ps, int least)
{
	PromNode *left;

	if (++ps->depth > PROM_MAX_DEPTH)
		return fail(ps, "the expression is nested too deeply");
	left = parse_unary(ps);
	while (left)
	{
		int op = peek_operator(ps);
		PromNode *n;

		if (op < 0 || operators[op].precedence < least)
			break;
		/* a chain is as deep as it is long */
		if (ps->nodes > PROM_MAX_NODES)
			return fail(ps, "the expression has too many parts");
		n = make_node(ps, PROM_BINARY, left->source.s);
		n->name.s = operators[op].name;
		n->name.len = strlen(operators[op].name);
		ps->p += n->name.len;
		if (!parse_matching(ps, n))
			return NULL;
		n->args = left;
		/* a power's right side may be another one, all others go from left to right */
		left->next = parse_expr(ps, operators[op].precedence + (operators[op].precedence < POWER));
		left = left->next ? close_node(ps, n) : NULL;
	}
	ps->depth--;
	return left;
}

PromNode *
prom_parse(const char *expr, size_t len, PromAlloc alloc, PromText *error)
{
	Parser ps = {
		.alloc = alloc, .expr = expr, .p = expr, .end = expr + len, .last = expr, .error = error};
	PromNode *n;

	if (len > PROM_MAX_EXPR)
	{
		prom_appends(error, "the expression is too long");
		return NULL;
	}
	n = parse_expr(&ps, 1);
	skip_space(&ps);
	if (n && ps.p < ps.end)
		return fail(&ps, "an operator is missing");
	return n;
}
