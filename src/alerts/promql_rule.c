/*-------------------------------------------------------------------------
 *
 * promql_rule.c
 *	  The condition of a Prometheus alerting rule as a rule of ours.
 *
 * An alert compares a value (promql_value.c) with a number, or tells that there
 * is none.  Where a comparison would say something else here than in Prometheus,
 * there is no rule either, but the reason.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/promql_value.h"

#include <math.h>
#include <string.h>

typedef struct Condition
{
	Value value;
	const char *op;
	double threshold;
} Condition;

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
		if (o != m && prom_same_slice(o->label, m->label))
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
			first = first && !prom_same_slice(o->label, m->label);
		if (!first)
			continue;
		prom_appends(out, out->s[out->len - 1] == '{' ? "" : ", ");
		prom_append_json(out, m->label.s, m->label.len);
		prom_appends(out, ": {");
		for (const PromMatcher *o = m; o; o = o->next)
			if (prom_same_slice(o->label, m->label))
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
		return prom_refuse(t, n, "the number must be finite");
	if (r->buckets || r->sum)
		return prom_refuse(
			t, n, "of a histogram only its count, its mean and its quantiles are translated");
	if (strcmp(op, "<>") == 0 && (v->has_divisor || prom_is_percentile(r)))
		return prom_refuse(t, n, "in Prometheus this holds of no number at all, too");
	if (zero_breaches && r->counts && (r->by_all || (!v->has_divisor && r->by)))
		return prom_refuse(
			t, n, "a group without events has no value here, so that it would not be found");
	if (zero_breaches && strcmp(r->fn.s, "count") == 0)
		return prom_refuse(t, n, "without values the count is zero here and nothing in Prometheus");
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
		return prom_refuse(t, n, "\"bool\" makes a number of every comparison");
	if (!prom_translate_value(t, n->args, &left) || !prom_translate_value(t, n->args->next, &right))
		return false;
	if (left.is_number == right.is_number)
		return prom_refuse(t, n, "one side of the comparison must be a number");
	turned = left.is_number;
	for (size_t i = 0; i < COUNT_OF(comparisons); i++)
		if (prom_is(n->name, turned ? comparisons[i].turned : comparisons[i].op))
			c->op = comparisons[i].ours;
	c->threshold = turned ? left.number : right.number;
	c->value = turned ? right : left;
	if (!c->value.absent)
		return check_comparison(t, n, &c->value, c->op, c->threshold);
	if (!compares(c->op, 1, c->threshold))
		return prom_refuse(t, n, "absent() is 1 or nothing, so this never holds");
	return true;
}

/* a / b > 0.9 and b > 0: of zero there is no ratio here anyway. */
static bool
translate_guarded(Translator *t, const PromNode *n, Condition *c)
{
	const PromNode *guard = n->args->next;
	Condition g = {0};

	if (!prom_is(n->name, "and") || !is_comparison(n->args) || !is_comparison(guard))
		return prom_translate_value(t, n, &c->value);
	if (!translate_comparison(t, n->args, c) || !translate_comparison(t, guard, &g))
		return false;
	if (c->value.divisor.selector && prom_is_plain_reading(&g.value) &&
		prom_same_reading(&c->value.divisor, &g.value.reading) && strcmp(g.op, ">") == 0 &&
		g.threshold == 0 && !n->has_group &&
		(n->group == PROM_UNGROUPED ||
		 (n->group == PROM_ON && !g.value.reading.by_all &&
		  prom_same_labels(n->labels, g.value.reading.by))))
		return true;
	return prom_translate_value(t, n, &g.value); /* says why not */
}

static bool
translate_condition(Translator *t, const PromNode *n, Condition *c)
{
	if (n->shifted)
		return prom_translate_value(t, n, &c->value);
	if (is_comparison(n))
		return translate_comparison(t, n, c);
	if (n->kind == PROM_BINARY)
		return translate_guarded(t, n, c) &&
			(c->op || prom_refuse(t, n, "there is no comparison with a number"));
	if (!prom_translate_value(t, n, &c->value))
		return false;
	if (!c->value.absent)
		return prom_refuse(t, n, "there is no comparison with a number");
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
