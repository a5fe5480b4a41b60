/*-------------------------------------------------------------------------
 *
 * promql_value.c
 *	  An expression of Prometheus as a value that a rule of ours can compare.
 *
 * It is a number, or a reading (a function of a metric's values, by labels) that
 * may be divided by another one, times a factor plus a summand.  What does not
 * come down to this is refused, and the part at fault is named.
 *
 * Readings count values as they are recorded here: a counter holds what was
 * added, and a distribution is what Prometheus keeps as _bucket, _sum and _count.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/promql_value.h"

#include <math.h>
#include <string.h>

#define MAX_SHOWN 100

/* How far back Prometheus looks for a gauge's last value. */
#define LOOKBACK "5m"

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

bool
prom_refuse(Translator *t, const PromNode *n, const char *why)
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

bool
prom_same_slice(PromSlice a, PromSlice b)
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
		if (prom_same_slice(labels->name, name))
			return true;
	return false;
}

bool
prom_same_labels(const PromLabel *a, const PromLabel *b)
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
		if (!prom_same_slice(a->label, b->label) || strcmp(a->op, b->op) != 0 ||
			!prom_same_slice(a->value, b->value))
			return false;
	return !a && !b;
}

bool
prom_same_reading(const Reading *a, const Reading *b)
{
	return prom_same_slice(a->metric, b->metric) && strcmp(a->fn.s, b->fn.s) == 0 &&
		prom_same_slice(a->over, b->over) &&
		same_matchers(a->selector->matchers, b->selector->matchers) &&
		prom_same_labels(a->by, b->by) && a->by_all == b->by_all && a->across == b->across &&
		a->buckets == b->buckets && a->sum == b->sum;
}

bool
prom_is_plain_reading(const Value *v)
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
			return prom_refuse(t, n, "the name of the metric must be given");
		for (const PromMatcher *o = m->next; o; o = o->next)
			if (prom_same_slice(m->label, o->label) && strcmp(m->op, o->op) == 0)
				return prom_refuse(t, n, "a label has two matchers of the same kind");
		prom_text_init(&re, t->alloc);
		if (m->op[1] == '~' && !prom_regex(m->value, &re))
			return prom_refuse(t, n, "a regular expression may not mean the same in PostgreSQL");
	}
	return true;
}

static bool
read_selector(Translator *t, const PromNode *n, bool with_range, Value *v)
{
	if (n->kind == PROM_SUBQUERY)
		return prom_refuse(t, n, "subqueries are not translated");
	if (n->kind != PROM_SELECTOR)
		return prom_refuse(t, n, "this must be a metric");
	if (n->shifted)
		return prom_refuse(t, n, "offset and @ are not translated");
	if (n->name.len == 0)
		return prom_refuse(t, n, "the name of the metric must be given");
	if (with_range != (n->range.len > 0))
		return prom_refuse(
			t, n, with_range ? "a range such as [5m] is missing" : "a range needs a function");
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
		return prom_refuse(t, n,
						   "a counter's total is not kept, only what was added (rate, increase)");
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

	if (!prom_translate_value(t, share, &v))
		return false;
	if (!v.is_number || !(v.number >= 0 && v.number <= 1))
		return prom_refuse(t, n, "the share must be a number from 0 to 1");
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
		if (!prom_same_slice(labels->name, name))
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

	if (!prom_translate_value(t, n->args->next, v))
		return false;
	if (!prom_is_plain_reading(v) || !r->buckets || r->across)
		return prom_refuse(
			t, n, "histogram_quantile() is translated of rate(x_bucket[...]) and of its sum by le");
	if (!r->by_all && !has_label(r->by, slice("le")))
		return prom_refuse(t, n, "the sum must be by le");
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
		return prom_refuse(t, n, "predict_linear() is no line of ours; see rule kind forecast");
	return prom_refuse(t, n, "this function is not translated");
}

/* ---- aggregations ---- */

static const char *const aggregations[] = {"sum", "avg", "min", "max", "count"};

/* Series that count events have no value while there are none: whether that changes the result. */
static bool
can_aggregate_events(const char *aggregation)
{
	return strcmp(aggregation, "sum") == 0 || strcmp(aggregation, "max") == 0;
}

bool
prom_is_percentile(const Reading *r)
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
		return prom_refuse(t, n, "this aggregation is not translated");
	if (n->group == PROM_WITHOUT)
		return prom_refuse(t, n, "\"without\" is not translated; \"by\" is");
	if (!prom_translate_value(t, n->args, v))
		return false;
	if (v->is_number || v->absent || v->has_divisor || !r->by_all)
		return prom_refuse(t, n, "only a function of one metric can be aggregated");
	if (v->add != 0 || (v->multiply != 1 && (v->multiply < 0 || strcmp(aggregation, "count") == 0)))
		return prom_refuse(t, n, "arithmetic within an aggregation is not translated");
	if (r->counts && !can_aggregate_events(aggregation))
		return prom_refuse(
			t, n,
			"series without events have no value here, so only sum and max of them are the same");
	if (prom_is_percentile(r) && strcmp(aggregation, "max") != 0 && strcmp(aggregation, "min") != 0)
		return prom_refuse(t, n, "only min and max of percentiles are translated");
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
		!a->across && prom_same_reading(&sum, b);
}

static bool
divide(Translator *t, const PromNode *n, Value *v, const Value *by)
{
	Reading *r = &v->reading;
	const Reading *d = &by->reading;

	if (v->is_number || v->absent || v->has_divisor || v->add != 0 || by->absent ||
		by->has_divisor || by->add != 0 || by->multiply == 0)
		return prom_refuse(t, n, "only one reading divided by another is translated");
	if (n->has_group ||
		(n->group == PROM_ON && (r->by_all || !prom_same_labels(n->labels, r->by))) ||
		n->group == PROM_IGNORING)
		return prom_refuse(t, n, "both sides of a ratio must have the same labels");
	if (r->by_all != d->by_all || !prom_same_labels(r->by, d->by))
		return prom_refuse(t, n, "both sides of a ratio must have the same labels");
	if (!prom_same_slice(r->over, d->over))
		return prom_refuse(t, n, "both sides of a ratio must have the same range");
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
		return prom_refuse(
			t, n,
			"a ratio of aggregated series is translated only of sums of rate() and increase()");
	if (r->sum || d->sum || r->buckets || d->buckets)
		return prom_refuse(
			t, n, "of a histogram only its count, its mean and its quantiles are translated");
	if (prom_same_reading(r, d))
		return prom_refuse(t, n, "a ratio of something to itself is always one");
	v->has_divisor = true;
	return true;
}

/* (a - b) / a is 1 - b / a. */
static bool
divide_difference(Translator *t, const PromNode *n, const Value *by, Value *v)
{
	const PromNode *left = n->args;
	Value whole;

	if (!prom_translate_value(t, left->args, &whole) ||
		!prom_translate_value(t, left->args->next, v))
		return false;
	if (!prom_is_plain_reading(&whole) || !prom_is_plain_reading(v) || !prom_is_plain_reading(by) ||
		!prom_same_reading(&whole.reading, &by->reading))
		return prom_refuse(t, left,
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
		return prom_refuse(
			t, n, "\"and\", \"or\" and \"unless\" are not translated; see rule kind composite");
	if (strpbrk(n->name.s, "<>=") || n->name.s[0] == '!')
		return prom_refuse(t, n, "a comparison can only be the last thing that is done");
	if (prom_is(n->name, "/") && is_difference(left))
		return prom_translate_value(t, right, &b) && divide_difference(t, n, &b, v);
	if (!prom_translate_value(t, left, v) || !prom_translate_value(t, right, &b))
		return false;
	if (v->is_number && b.is_number)
	{
		if (fold_numbers(n->name, v->number, b.number, &v->number))
			return true;
		return prom_refuse(t, n, "this operator is not translated");
	}
	if (!v->is_number && !b.is_number)
	{
		if (!prom_is(n->name, "/"))
			return prom_refuse(
				t, n, "arithmetic with several metrics is not translated, but for a ratio");
		return divide(t, n, v, &b);
	}
	if (v->absent || b.absent)
		return prom_refuse(t, n, "arithmetic with absent() is not translated");
	if (v->is_number)
	{
		double number = v->number;

		*v = b;
		if (!combine_number(n->name, v, number, true))
			return prom_refuse(t, n, "this arithmetic is not translated");
		return true;
	}
	if (!combine_number(n->name, v, b.number, false))
		return prom_refuse(t, n, "this arithmetic is not translated");
	return true;
}

bool
prom_translate_value(Translator *t, const PromNode *n, Value *v)
{
	memset(v, 0, sizeof(*v));
	if (n->shifted)
		return prom_refuse(t, n, "offset and @ are not translated");
	switch (n->kind)
	{
		case PROM_NUMBER:
			v->is_number = true;
			v->number = n->number;
			return true;
		case PROM_NEGATIVE:
			if (!prom_translate_value(t, n->args, v))
				return false;
			if (v->absent)
				return prom_refuse(t, n, "arithmetic with absent() is not translated");
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
			return prom_refuse(t, n, "subqueries are not translated");
		case PROM_STRING:
			break;
	}
	return prom_refuse(t, n, "a text is nothing to compare");
}
