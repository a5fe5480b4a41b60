/*-------------------------------------------------------------------------
 *
 * promql.h
 *	  Expressions of Prometheus alerting rules, as rules of ours.
 *
 * Plain C without the server.  Whoever calls gives the allocator: it returns
 * zeroed memory, never NULL, and nothing is freed here.
 *
 * promql_parse.c	text -> tree
 * promql_value.c	tree -> value that a rule can compare
 * promql_rule.c	tree -> rule, or why there is none
 * promql_regex.c	RE2's regular expressions -> PostgreSQL's
 * promql_text.c	strings that grow, JSON
 *
 *-------------------------------------------------------------------------
 */
#ifndef ALERTS_PROMQL_H
#define ALERTS_PROMQL_H

#include <stdbool.h>
#include <stddef.h>

#define PROM_MAX_EXPR 65536
#define PROM_MAX_DEPTH 64
#define PROM_MAX_NODES 1000

typedef void *(*PromAlloc)(size_t size);

/* ---- promql_text.c ---- */

typedef struct PromText
{
	PromAlloc alloc;
	char *s; /* ends with a zero byte */
	size_t len;
	size_t room;
} PromText;

extern void prom_text_init(PromText *t, PromAlloc alloc);
extern void prom_append(PromText *t, const char *s, size_t len);
extern void prom_appends(PromText *t, const char *s);
/* What "%.17g" gives, or less where that says the same. */
extern void prom_append_number(PromText *t, double number);
/* A JSON string. */
extern void prom_append_json(PromText *t, const char *s, size_t len);

/* ---- promql_parse.c ---- */

typedef enum PromKind
{
	PROM_NUMBER,
	PROM_STRING,
	PROM_SELECTOR, /* metric{matchers}, with a range when it has one */
	PROM_CALL,
	PROM_AGGREGATE,
	PROM_BINARY,
	PROM_NEGATIVE,
	PROM_SUBQUERY
} PromKind;

/* A piece of the expression, or of memory that lasts as long as the tree. */
typedef struct PromSlice
{
	const char *s;
	size_t len;
} PromSlice;

typedef struct PromMatcher
{
	PromSlice label;
	char op[3]; /* =, !=, =~ or !~ */
	PromSlice value;
	struct PromMatcher *next;
} PromMatcher;

typedef struct PromLabel
{
	PromSlice name;
	struct PromLabel *next;
} PromLabel;

typedef enum PromGrouping
{
	PROM_UNGROUPED,
	PROM_BY,
	PROM_WITHOUT,
	PROM_ON,
	PROM_IGNORING
} PromGrouping;

typedef struct PromNode
{
	PromKind kind;
	PromSlice source;
	PromSlice name; /* of a metric, function, aggregation or operator */
	double number;
	PromMatcher *matchers;
	PromSlice range;    /* of a selector: 5m; empty when there is none */
	bool shifted;       /* offset or @ */
	bool has_group;     /* group_left or group_right */
	bool has_bool;      /* the modifier of a comparison */
	PromGrouping group; /* of an aggregation or a binary operation */
	PromLabel *labels;  /* that it names */
	struct PromNode *args;
	struct PromNode *next; /* among the arguments of the same node */
} PromNode;

/* The tree of an expression; NULL when it is none, with what is wrong in `error`. */
extern PromNode *prom_parse(const char *expr, size_t len, PromAlloc alloc, PromText *error);
extern bool prom_is(PromSlice s, const char *word);

/* ---- promql_regex.c ---- */

/* The same as a regular expression of PostgreSQL; false when there is none that is known to be the same. */
extern bool prom_regex(PromSlice re, PromText *out);

/* ---- promql_rule.c ---- */

/*
 * The condition of an alerting rule as parameters of create_alert_rule, a JSON
 * object; or an object with one member, "reason", when there is no rule that
 * says the same.
 */
extern char *prom_translate(const char *expr, size_t len, PromAlloc alloc);

#endif /* ALERTS_PROMQL_H */
