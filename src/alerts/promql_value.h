/*-------------------------------------------------------------------------
 *
 * promql_value.h
 *	  What an expression of Prometheus comes down to: see promql_value.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ALERTS_PROMQL_VALUE_H
#define ALERTS_PROMQL_VALUE_H

#include "alerts/promql.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

typedef struct Reading
{
	PromSlice metric;
	PromText fn;
	PromSlice over;
	const PromNode *selector;
	const PromLabel *by;
	bool by_all;        /* one value per series */
	const char *across; /* aggregation of the series' values; NULL: pooled */
	bool counts;        /* events: none is zero, not nothing */
	bool buckets;       /* of a histogram, which only histogram_quantile() reads */
	bool sum;           /* of a histogram, to be divided by its count */
} Reading;

typedef struct Value
{
	bool is_number;
	double number;
	bool absent; /* absent(reading) */
	bool has_divisor;
	Reading reading;
	Reading divisor;
	double multiply; /* the value is this times the reading, */
	double add;      /* plus this */
} Value;

typedef struct Translator
{
	PromAlloc alloc;
	PromText reason;
} Translator;

/* The value of an expression; false if there is none, and the reason is in the translator. */
extern bool prom_translate_value(Translator *t, const PromNode *n, Value *v);

/* Note why a part is not translated; always false. */
extern bool prom_refuse(Translator *t, const PromNode *n, const char *why);

extern bool prom_same_slice(PromSlice a, PromSlice b);
extern bool prom_same_labels(const PromLabel *a, const PromLabel *b);
extern bool prom_same_reading(const Reading *a, const Reading *b);

/* Whether it is nothing but a reading. */
extern bool prom_is_plain_reading(const Value *v);

extern bool prom_is_percentile(const Reading *r);

#endif /* ALERTS_PROMQL_VALUE_H */
