/*-------------------------------------------------------------------------
 *
 * promql_rule.c
 *	  The condition of a Prometheus alerting rule as a rule of ours.
 *
 * An expression is a number, or a reading (a function of a metric's values,
 * by labels) that may be divided by another one, times a factor plus a summand;
 * an alert compares that with a number.  What does not come down to this has no
 * rule, and the part at fault is named.
 *
 * Readings count values as they are recorded here: a counter holds what was
 * added, and a distribution is what Prometheus keeps as _bucket, _sum and _count.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/promql.h"

#include <math.h>
#include <string.h>

#define MAX_SHOWN 100

/* How far back Prometheus looks for a gauge's last value. */
#define LOOKBACK "5m"

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

typedef struct Condition
{
	Value value;
	const char *op;
	double threshold;
} Condition;

typedef struct Translator
{
	PromAlloc alloc;
	PromText reason;
} Translator;

static bool translate(Translator *t, const PromNode *n, Value *v);

/* ---- reasons ---- */

static void
append_source(PromText *out, PromSlice source)
{
	size_t len = source.len > MAX_SHOWN ? MAX_SHOWN : source.len;

	while (len < source.len && len > 0 && (source.s[len] & 0xC0) == 0x80)
		len--;
	for (size_t i = 0; i < len; i++)
	{
		bool space = strchr(" \t\r\n", source.s[i]) != NULL;

		if (!space)
			prom_append(out, source.s + i, 1);
		else if (out->s[out->len - 1] != ' ')
			prom_append(out, " ", 1);
	}
	if (len < source.len)
		prom_appends(out, "...");
}

static bool
refuse(Translator *t, const PromNode *n, const char *why)
{
	prom_appends(&t->reason, why);
	prom_appends(&t->reason, ": ");
	append_source(&t->reason, n->source);
	return false;
}

/* ---- comparing parts ---- */

static PromSlice
slice(const char *s)
{
	PromSlice made = {s, strlen(s)};

	return made;
}

static bool
same_slice(PromSlice a, PromSlice b)
{
	return a.len == b.len && memcmp(a.s, b.s, a.len) == 0;
}

static bool
ends_with(PromSlice s, const char *end)
{
	size_t len = strlen(end);

	return s.len > len && memcmp(s.s + s.len - len, end, len) == 0;
}

static bool
has_label(const PromLabel *labels, PromSlice name)
{
	for (; labels; labels = labels->next)
		if (same_slice(labels->name, name))
			return true;
	return false;
}

static bool
same_labels(const PromLabel *a, const PromLabel *b)
{
	for (const PromLabel *l = a; l; l = l->next)
		if (!has_label(b, l->name))
			return false;
	for (const PromLabel *l = b; l; l = l->next)
		if (!has_label(a, l->name))
			return false;
	return true;
}

static bool
same_matchers(const PromMatcher *a, const PromMatcher *b)
{
	for (; a && b; a = a->next, b = b->next)
		if (!same_slice(a->label, b->label) || strcmp(a->op, b->op) != 0 ||
			!same_slice(a->value, b->value))
			return false;
	return !a && !b;
}

static bool
same_reading(const Reading *a, const Reading *b)
{
	return same_slice(a->metric, b->metric) && strcmp(a->fn.s, b->fn.s) == 0 &&
		same_slice(a->over, b->over) &&
		same_matchers(a->selector->matchers, b->selector->matchers) && same_labels(a->by, b->by) &&
		a->by_all == b->by_all && a->across == b->across && a->buckets == b->buckets &&
		a->sum == b->sum;
}

static bool
is_plain(const Value *v)
{
	return !v->is_number && !v->absent && !v->has_divisor && v->multiply == 1 && v->add == 0;
}

/* ---- selectors ---- */

static bool
check_matchers(Translator *t, const PromNode *n)
{
	for (const PromMatcher *m = n->matchers; m; m = m->next)
	{
		PromText re;

		if (prom_is(m->label, "__name__"))
			return refuse(t, n, "the name of the metric must be given");
		for (const PromMatcher *o = m->next; o; o = o->next)
			if (same_slice(m->label, o->label) && strcmp(m->op, o->op) == 0)
				return refuse(t, n, "a label has two matchers of the same kind");
		prom_text_init(&re, t->alloc);
		if (m->op[1] == '~' && !prom_regex(m->value, &re))
			return refuse(t, n, "a regular expression may not mean the same in PostgreSQL");
	}
	return true;
}

static bool
read_selector(Translator *t, const PromNode *n, bool with_range, Value *v)
{
	if (n->kind == PROM_SUBQUERY)
		return refuse(t, n, "subqueries are not translated");
	if (n->kind != PROM_SELECTOR)
		return refuse(t, n, "this must be a metric");
	if (n->shifted)
		return refuse(t, n, "offset and @ are not translated");
	if (n->name.len == 0)
		return refuse(t, n, "the name of the metric must be given");
	if (with_range != (n->range.len > 0))
		return refuse(t, n,
					  with_range ? "a range such as [5m] is missing" : "a range needs a function");
	if (!check_matchers(t, n))
		return false;
	memset(v, 0, sizeof(*v));
	v->multiply = 1;
	v->reading.metric = n->name;
	v->reading.selector = n;
	v->reading.by_all = true;
	prom_text_init(&v->reading.fn, t->alloc);
	return true;
}

static bool
check_not_total(Translator *t, const PromNode *n)
{
	if (ends_with(n->name, "_total") || ends_with(n->name, "_bucket") || ends_with(n->name, "_sum"))
		return refuse(t, n, "a counter's total is not kept, only what was added (rate, increase)");
	return true;
}

static bool
translate_gauge(Translator *t, const PromNode *n, Value *v)
{
	if (!read_selector(t, n, false, v))
		return false;
	if (!check_not_total(t, n))
		return false;
	prom_appends(&v->reading.fn, "last");
	v->reading.over = slice(LOOKBACK);
	return true;
}

/* ---- functions ---- */

static const struct
{
	const char *name;
	const char *fn;
} range_functions[] = {
	{"rate", "rate"},         {"increase", "increase"},     {"delta", "delta"},
	{"avg_over_time", "avg"}, {"min_over_time", "min"},     {"max_over_time", "max"},
	{"sum_over_time", "sum"}, {"count_over_time", "count"}, {"last_over_time", "last"},
};

/* x_bucket, x_sum and x_count are parts of the distribution x. */
static void
strip_suffix(Reading *r)
{
	static const char *const suffixes[] = {"_bucket", "_sum", "_count"};

	for (size_t i = 0; i < COUNT_OF(suffixes); i++)
		if (ends_with(r->metric, suffixes[i]))
		{
			r->metric.len -= strlen(suffixes[i]);
			r->buckets = i == 0;
			r->sum = i == 1;
			return;
		}
}

static bool
translate_range(Translator *t, const char *fn, const PromNode *selector, Value *v)
{
	if (!read_selector(t, selector, true, v))
		return false;
	v->reading.over = selector->range;
	v->reading.counts = strcmp(fn, "rate") == 0 || strcmp(fn, "increase") == 0;
	if (v->reading.counts)
		strip_suffix(&v->reading);
	else if (!check_not_total(t, selector))
		return false;
	prom_appends(&v->reading.fn, fn);
	return true;
}

/* The percentile that a share names: p95, p99.9. */
static bool
append_percentile(Translator *t, const PromNode *n, const PromNode *share, PromText *fn)
{
	Value v;

	if (!translate(t, share, &v))
		return false;
	if (!v.is_number || !(v.number >= 0 && v.number <= 1))
		return refuse(t, n, "the share must be a number from 0 to 1");
	prom_appends(fn, "p");
	/* 0.999 * 100 is 99.9 and something */
	prom_append_number(fn, round(v.number * 1e8) / 1e6);
	return true;
}

static bool
translate_quantile_over_time(Translator *t, const PromNode *n, Value *v)
{
	if (!translate_range(t, "", n->args->next, v))
		return false;
	return append_percentile(t, n, n->args, &v->reading.fn);
}

static const PromLabel *
without_label(Translator *t, const PromLabel *labels, PromSlice name)
{
	PromLabel *first = NULL;
	PromLabel **tail = &first;

	for (; labels; labels = labels->next)
		if (!same_slice(labels->name, name))
		{
			*tail = t->alloc(sizeof(PromLabel));
			(*tail)->name = labels->name;
			tail = &(*tail)->next;
		}
	return first;
}

static bool
translate_histogram_quantile(Translator *t, const PromNode *n, Value *v)
{
	Reading *r = &v->reading;

	if (!translate(t, n->args->next, v))
		return false;
	if (!is_plain(v) || !r->buckets || r->across)
		return refuse(
			t, n, "histogram_quantile() is translated of rate(x_bucket[...]) and of its sum by le");
	if (!r->by_all && !has_label(r->by, slice("le")))
		return refuse(t, n, "the sum must be by le");
	r->by = without_label(t, r->by, slice("le"));
	r->buckets = false;
	r->counts = false;
	r->fn.len = 0;
	return append_percentile(t, n, n->args, &r->fn);
}

static bool
translate_absent(Translator *t, const PromNode *n, bool over_time, Value *v)
{
	if (!read_selector(t, n->args, over_time, v))
		return false;
	if (!check_not_total(t, n->args))
		return false;
	v->absent = true;
	v->reading.over = over_time ? n->args->range : slice(LOOKBACK);
	v->reading.by_all = false;
	return true;
}

static int
count_args(const PromNode *n)
{
	int count = 0;

	for (const PromNode *a = n->args; a; a = a->next)
		count++;
	return count;
}

static bool
translate_call(Translator *t, const PromNode *n, Value *v)
{
	int nargs = count_args(n);

	for (size_t i = 0; i < COUNT_OF(range_functions) && nargs == 1; i++)
		if (prom_is(n->name, range_functions[i].name))
			return translate_range(t, range_functions[i].fn, n->args, v);
	if (prom_is(n->name, "histogram_quantile") && nargs == 2)
		return translate_histogram_quantile(t, n, v);
	if (prom_is(n->name, "quantile_over_time") && nargs == 2)
		return translate_quantile_over_time(t, n, v);
	if (prom_is(n->name, "absent") && nargs == 1)
		return translate_absent(t, n, false, v);
	if (prom_is(n->name, "absent_over_time") && nargs == 1)
		return translate_absent(t, n, true, v);
	if (prom_is(n->name, "predict_linear"))
		return refuse(t, n, "predict_linear() is no line of ours; see rule kind forecast");
	return refuse(t, n, "this function is not translated");
}

/* ---- aggregations ---- */

static const char *const aggregations[] = {"sum", "avg", "min", "max", "count"};

/* Series that count events have no value while there are none: whether that changes the result. */
static bool
can_aggregate_events(const char *aggregation)
{
	return strcmp(aggregation, "sum") == 0 || strcmp(aggregation, "max") == 0;
}

static bool
is_percentile(const Reading *r)
{
	return r->fn.s[0] == 'p';
}

static bool
translate_aggregation(Translator *t, const PromNode *n, Value *v)
{
	const char *aggregation = NULL;
	Reading *r = &v->reading;

	for (size_t i = 0; i < COUNT_OF(aggregations); i++)
		if (prom_is(n->name, aggregations[i]))
			aggregation = aggregations[i];
	if (!aggregation || count_args(n) != 1)
		return refuse(t, n, "this aggregation is not translated");
	if (n->group == PROM_WITHOUT)
		return refuse(t, n, "\"without\" is not translated; \"by\" is");
	if (!translate(t, n->args, v))
		return false;
	if (v->is_number || v->absent || v->has_divisor || !r->by_all)
		return refuse(t, n, "only a function of one metric can be aggregated");
	if (v->add != 0 || (v->multiply != 1 && (v->multiply < 0 || strcmp(aggregation, "count") == 0)))
		return refuse(t, n, "arithmetic within an aggregation is not translated");
	if (r->counts && !can_aggregate_events(aggregation))
		return refuse(
			t, n,
			"series without events have no value here, so only sum and max of them are the same");
	if (is_percentile(r) && strcmp(aggregation, "max") != 0 && strcmp(aggregation, "min") != 0)
		return refuse(t, n, "only min and max of percentiles are translated");
	r->by_all = false;
	r->by = n->labels;
	/* events are added up when they are counted together */
	if (!r->counts || strcmp(aggregation, "sum") != 0)
		r->across = aggregation;
	return true;
}

/* ---- arithmetic ---- */

static bool
fold_numbers(PromSlice op, double a, double b, double *result)
{
	if (prom_is(op, "+"))
		*result = a + b;
	else if (prom_is(op, "-"))
		*result = a - b;
	else if (prom_is(op, "*"))
		*result = a * b;
	else if (prom_is(op, "/"))
		*result = a / b;
	else if (prom_is(op, "%"))
		*result = fmod(a, b);
	else if (prom_is(op, "^"))
		*result = pow(a, b);
	else
		return false;
	return true;
}

static void
negate(Value *v)
{
	v->number = -v->number;
	v->multiply = -v->multiply;
	v->add = -v->add;
}

/* A reading and a number. */
static bool
combine_number(PromSlice op, Value *v, double number, bool number_first)
{
	if (prom_is(op, "*") || (prom_is(op, "/") && !number_first))
	{
		double factor = prom_is(op, "*") ? number : 1 / number;

		v->multiply = prom_is(op, "*") ? v->multiply * number : v->multiply / number;
		v->add = prom_is(op, "*") ? v->add * number : v->add / number;
		return factor != 0 && isfinite(factor);
	}
	if (prom_is(op, "-") && number_first)
	{
		negate(v);
		v->add += number;
		return true;
	}
	if (!prom_is(op, "+") && !prom_is(op, "-"))
		return false;
	v->add += prom_is(op, "+") ? number : -number;
	return true;
}

/* The mean of a distribution is its sum divided by its count. */
static bool
is_mean(const Reading *a, const Reading *b)
{
	Reading sum = *a;

	sum.sum = false;
	return a->sum && !b->sum && !b->buckets && ends_with(b->selector->name, "_count") &&
		!a->across && same_reading(&sum, b);
}

static bool
divide(Translator *t, const PromNode *n, Value *v, const Value *by)
{
	Reading *r = &v->reading;
	const Reading *d = &by->reading;

	if (v->is_number || v->absent || v->has_divisor || v->add != 0 || by->absent ||
		by->has_divisor || by->add != 0 || by->multiply == 0)
		return refuse(t, n, "only one reading divided by another is translated");
	if (n->has_group || (n->group == PROM_ON && (r->by_all || !same_labels(n->labels, r->by))) ||
		n->group == PROM_IGNORING)
		return refuse(t, n, "both sides of a ratio must have the same labels");
	if (r->by_all != d->by_all || !same_labels(r->by, d->by))
		return refuse(t, n, "both sides of a ratio must have the same labels");
	if (!same_slice(r->over, d->over))
		return refuse(t, n, "both sides of a ratio must have the same range");
	v->multiply /= by->multiply;
	v->divisor = *d;
	if (is_mean(r, d))
	{
		r->sum = false;
		r->counts = false;
		r->fn.len = 0;
		prom_appends(&r->fn, "avg");
		return true;
	}
	if (r->across || d->across)
		return refuse(
			t, n,
			"a ratio of aggregated series is translated only of sums of rate() and increase()");
	if (r->sum || d->sum || r->buckets || d->buckets)
		return refuse(t, n,
					  "of a histogram only its count, its mean and its quantiles are translated");
	if (same_reading(r, d))
		return refuse(t, n, "a ratio of something to itself is always one");
	v->has_divisor = true;
	return true;
}

/* (a - b) / a is 1 - b / a. */
static bool
divide_difference(Translator *t, const PromNode *n, const Value *by, Value *v)
{
	const PromNode *left = n->args;
	Value whole;

	if (!translate(t, left->args, &whole) || !translate(t, left->args->next, v))
		return false;
	if (!is_plain(&whole) || !is_plain(v) || !is_plain(by) ||
		!same_reading(&whole.reading, &by->reading))
		return refuse(t, left,
					  "arithmetic with several metrics is not translated, but for a ratio");
	if (!divide(t, n, v, by))
		return false;
	v->multiply = -1;
	v->add = 1;
	return true;
}

static bool
is_operand(const PromNode *n)
{
	if (n->kind == PROM_BINARY || n->kind == PROM_NEGATIVE)
		return false;
	for (const PromNode *a = n->args; a; a = a->next)
		if (a->kind != PROM_NUMBER && !is_operand(a))
			return false;
	return true;
}

/* a - b, of two metrics without further arithmetic. */
static bool
is_difference(const PromNode *n)
{
	return n->kind == PROM_BINARY && prom_is(n->name, "-") && n->group == PROM_UNGROUPED &&
		!n->has_group && n->args->kind != PROM_NUMBER && is_operand(n->args) &&
		n->args->next->kind != PROM_NUMBER && is_operand(n->args->next);
}

static bool
translate_binary(Translator *t, const PromNode *n, Value *v)
{
	const PromNode *left = n->args;
	const PromNode *right = left->next;
	Value b;

	if (prom_is(n->name, "and") || prom_is(n->name, "or") || prom_is(n->name, "unless"))
		return refuse(t, n,
					  "\"and\", \"or\" and \"unless\" are not translated; see rule kind composite");
	if (strpbrk(n->name.s, "<>=") || n->name.s[0] == '!')
		return refuse(t, n, "a comparison can only be the last thing that is done");
	if (prom_is(n->name, "/") && is_difference(left))
		return translate(t, right, &b) && divide_difference(t, n, &b, v);
	if (!translate(t, left, v) || !translate(t, right, &b))
		return false;
	if (v->is_number && b.is_number)
	{
		if (fold_numbers(n->name, v->number, b.number, &v->number))
			return true;
		return refuse(t, n, "this operator is not translated");
	}
	if (!v->is_number && !b.is_number)
	{
		if (!prom_is(n->name, "/"))
			return refuse(t, n,
						  "arithmetic with several metrics is not translated, but for a ratio");
		return divide(t, n, v, &b);
	}
	if (v->absent || b.absent)
		return refuse(t, n, "arithmetic with absent() is not translated");
	if (v->is_number)
	{
		double number = v->number;

		*v = b;
		if (!combine_number(n->name, v, number, true))
			return refuse(t, n, "this arithmetic is not translated");
		return true;
	}
	if (!combine_number(n->name, v, b.number, false))
		return refuse(t, n, "this arithmetic is not translated");
	return true;
}

static bool
translate(Translator *t, const PromNode *n, Value *v)
{
	memset(v, 0, sizeof(*v));
	if (n->shifted)
		return refuse(t, n, "offset and @ are not translated");
	switch (n->kind)
	{
		case PROM_NUMBER:
			v->is_number = true;
			v->number = n->number;
			return true;
		case PROM_NEGATIVE:
			if (!translate(t, n->args, v))
				return false;
			if (v->absent)
				return refuse(t, n, "arithmetic with absent() is not translated");
			negate(v);
			return true;
		case PROM_SELECTOR:
			return translate_gauge(t, n, v);
		case PROM_CALL:
			return translate_call(t, n, v);
		case PROM_AGGREGATE:
			return translate_aggregation(t, n, v);
		case PROM_BINARY:
			return translate_binary(t, n, v);
		case PROM_SUBQUERY:
			return refuse(t, n, "subqueries are not translated");
		case PROM_STRING:
			break;
	}
	return refuse(t, n, "a text is nothing to compare");
}

/* ---- the rule ---- */

static const struct
{
	const char *op;
	const char *turned;
	const char *ours;
} comparisons[] = {
	{">", "<", ">"},    {">=", "<=", ">="}, {"<", ">", "<"},
	{"<=", ">=", "<="}, {"==", "==", "="},  {"!=", "!=", "<>"},
};

static bool
compares(const char *op, double a, double b)
{
	bool equal = a == b;

	if (strcmp(op, "=") == 0)
		return equal;
	if (strcmp(op, "<>") == 0)
		return !equal;
	return (op[1] == '=' && equal) || (op[0] == '>' ? a > b : a < b);
}

static void
append_key(PromText *out, const char *key)
{
	prom_appends(out, out->s[out->len - 1] == '{' ? "\"" : ", \"");
	prom_appends(out, key);
	prom_appends(out, "\": ");
}

static void
append_member(PromText *out, const char *key, const char *value, size_t len)
{
	append_key(out, key);
	prom_append_json(out, value, len);
}

/* A matcher that a plain label says: ="" would not match a missing one. */
static bool
is_plain_label(const PromNode *selector, const PromMatcher *m)
{
	if (strcmp(m->op, "=") != 0 || m->value.len == 0)
		return false;
	for (const PromMatcher *o = selector->matchers; o; o = o->next)
		if (o != m && same_slice(o->label, m->label))
			return false;
	return true;
}

static bool
has_conditions(const PromNode *selector)
{
	for (const PromMatcher *m = selector->matchers; m; m = m->next)
		if (!is_plain_label(selector, m))
			return true;
	return false;
}

static void
append_labels(PromText *out, const PromNode *selector)
{
	for (const PromMatcher *m = selector->matchers; m; m = m->next)
		if (is_plain_label(selector, m))
		{
			prom_appends(out, out->s[out->len - 1] == '{' ? "" : ", ");
			prom_append_json(out, m->label.s, m->label.len);
			prom_appends(out, ": ");
			prom_append_json(out, m->value.s, m->value.len);
		}
}

static void
append_condition(PromText *out, const PromMatcher *m)
{
	append_key(out, m->op);
	if (m->op[1] == '~')
	{
		PromText re;

		prom_text_init(&re, out->alloc);
		(void) prom_regex(m->value, &re);
		prom_append_json(out, re.s, re.len);
	}
	else
		prom_append_json(out, m->value.s, m->value.len);
}

/* Conditions on labels, those on one label together. */
static void
append_conditions(PromText *out, const PromNode *selector)
{
	for (const PromMatcher *m = selector->matchers; m; m = m->next)
	{
		bool first = !is_plain_label(selector, m);

		for (const PromMatcher *o = selector->matchers; o != m; o = o->next)
			first = first && !same_slice(o->label, m->label);
		if (!first)
			continue;
		prom_appends(out, out->s[out->len - 1] == '{' ? "" : ", ");
		prom_append_json(out, m->label.s, m->label.len);
		prom_appends(out, ": {");
		for (const PromMatcher *o = m; o; o = o->next)
			if (same_slice(o->label, m->label))
				append_condition(out, o);
		prom_appends(out, "}");
	}
}

static void
append_by(PromText *out, const Reading *r)
{
	append_key(out, "by");
	if (r->by_all)
	{
		prom_appends(out, "[\"...\"]");
		return;
	}
	prom_appends(out, "[");
	for (const PromLabel *l = r->by; l; l = l->next)
	{
		prom_append_json(out, l->name.s, l->name.len);
		prom_appends(out, l->next ? ", " : "");
	}
	prom_appends(out, "]");
}

static void
append_params(PromText *out, const Value *v)
{
	const Reading *r = &v->reading;
	const Reading *d = &v->divisor;

	append_key(out, "params");
	prom_appends(out, "{");
	if (has_conditions(r->selector))
	{
		append_key(out, "where");
		prom_appends(out, "{");
		append_conditions(out, r->selector);
		prom_appends(out, "}");
	}
	if (r->across)
		append_member(out, "across", r->across, strlen(r->across));
	if (v->has_divisor)
	{
		append_member(out, "metric", d->metric.s, d->metric.len);
		append_member(out, "fn", d->fn.s, d->fn.len);
		append_key(out, "labels");
		prom_appends(out, "{");
		append_labels(out, d->selector);
		append_conditions(out, d->selector);
		prom_appends(out, "}");
	}
	if (v->multiply != 1 && !v->absent)
	{
		append_key(out, "multiply");
		prom_append_number(out, v->multiply);
	}
	if (v->add != 0)
	{
		append_key(out, "add");
		prom_append_number(out, v->add);
	}
	prom_appends(out, "}");
}

static void
append_rule(PromText *out, const Condition *c)
{
	const Value *v = &c->value;
	const Reading *r = &v->reading;
	const char *kind = v->absent ? "absence" : v->has_divisor ? "ratio" : "metric";

	prom_appends(out, "{");
	append_member(out, "kind", kind, strlen(kind));
	append_member(out, "metric", r->metric.s, r->metric.len);
	append_member(out, "over", r->over.s, r->over.len);
	append_key(out, "labels");
	prom_appends(out, "{");
	append_labels(out, r->selector);
	prom_appends(out, "}");
	if (!v->absent)
	{
		append_member(out, "fn", r->fn.s, r->fn.len);
		append_by(out, r);
		append_params(out, v);
		append_member(out, "op", c->op, strlen(c->op));
		append_key(out, "threshold");
		prom_append_number(out, c->threshold);
	}
	prom_appends(out, "}");
}

/* Whether a rule that compares a reading with a number says what Prometheus says. */
static bool
check_comparison(Translator *t, const PromNode *n, const Value *v, const char *op, double threshold)
{
	const Reading *r = &v->reading;
	bool zero_breaches = compares(op, v->add, threshold);

	if (!isfinite(threshold) || !isfinite(v->multiply) || !isfinite(v->add))
		return refuse(t, n, "the number must be finite");
	if (r->buckets || r->sum)
		return refuse(t, n,
					  "of a histogram only its count, its mean and its quantiles are translated");
	if (strcmp(op, "<>") == 0 && (v->has_divisor || is_percentile(r)))
		return refuse(t, n, "in Prometheus this holds of no number at all, too");
	if (zero_breaches && r->counts && (r->by_all || (!v->has_divisor && r->by)))
		return refuse(t, n,
					  "a group without events has no value here, so that it would not be found");
	if (zero_breaches && strcmp(r->fn.s, "count") == 0)
		return refuse(t, n, "without values the count is zero here and nothing in Prometheus");
	return true;
}

static bool
is_comparison(const PromNode *n)
{
	return n->kind == PROM_BINARY && (strchr("<>=", n->name.s[0]) || prom_is(n->name, "!="));
}

static bool
translate_comparison(Translator *t, const PromNode *n, Condition *c)
{
	Value left, right;
	bool turned;

	if (n->has_bool)
		return refuse(t, n, "\"bool\" makes a number of every comparison");
	if (!translate(t, n->args, &left) || !translate(t, n->args->next, &right))
		return false;
	if (left.is_number == right.is_number)
		return refuse(t, n, "one side of the comparison must be a number");
	turned = left.is_number;
	for (size_t i = 0; i < COUNT_OF(comparisons); i++)
		if (prom_is(n->name, turned ? comparisons[i].turned : comparisons[i].op))
			c->op = comparisons[i].ours;
	c->threshold = turned ? left.number : right.number;
	c->value = turned ? right : left;
	if (!c->value.absent)
		return check_comparison(t, n, &c->value, c->op, c->threshold);
	if (!compares(c->op, 1, c->threshold))
		return refuse(t, n, "absent() is 1 or nothing, so this never holds");
	return true;
}

/* a / b > 0.9 and b > 0: of zero there is no ratio here anyway. */
static bool
translate_guarded(Translator *t, const PromNode *n, Condition *c)
{
	const PromNode *guard = n->args->next;
	Condition g = {0};

	if (!prom_is(n->name, "and") || !is_comparison(n->args) || !is_comparison(guard))
		return translate(t, n, &c->value);
	if (!translate_comparison(t, n->args, c) || !translate_comparison(t, guard, &g))
		return false;
	if (c->value.divisor.selector && is_plain(&g.value) &&
		same_reading(&c->value.divisor, &g.value.reading) && strcmp(g.op, ">") == 0 &&
		g.threshold == 0 && !n->has_group &&
		(n->group == PROM_UNGROUPED ||
		 (n->group == PROM_ON && !g.value.reading.by_all &&
		  same_labels(n->labels, g.value.reading.by))))
		return true;
	return translate(t, n, &g.value); /* says why not */
}

static bool
translate_condition(Translator *t, const PromNode *n, Condition *c)
{
	if (n->shifted)
		return translate(t, n, &c->value);
	if (is_comparison(n))
		return translate_comparison(t, n, c);
	if (n->kind == PROM_BINARY)
		return translate_guarded(t, n, c) &&
			(c->op || refuse(t, n, "there is no comparison with a number"));
	if (!translate(t, n, &c->value))
		return false;
	if (!c->value.absent)
		return refuse(t, n, "there is no comparison with a number");
	return true;
}

char *
prom_translate(const char *expr, size_t len, PromAlloc alloc)
{
	Translator t = {.alloc = alloc};
	Condition c = {0};
	PromText out;
	PromNode *n;

	prom_text_init(&t.reason, alloc);
	prom_text_init(&out, alloc);
	n = prom_parse(expr, len, alloc, &t.reason);
	if (n && translate_condition(&t, n, &c))
		append_rule(&out, &c);
	else
	{
		prom_appends(&out, "{");
		append_member(&out, "reason", t.reason.s, t.reason.len);
		prom_appends(&out, "}");
	}
	return out.s;
}
