/*-------------------------------------------------------------------------
 *
 * read_fn.c
 *	  The functions of value() and query(): their names and what they compute.
 *
 * A function is a name, a percentile (p95, p99.9) or a name with a number as
 * its argument: share_below(0.5).
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include <ctype.h>
#include <math.h>

#include "fmgr.h"
#include "utils/builtins.h"

#define APDEX_FACTOR 4 /* tolerated are values up to so many times the threshold */

typedef struct FnInfo
{
	const char *name;
	ReadFnKind kind;
	int metric_kinds;
	bool needs_sketch;
	bool has_argument;
} FnInfo;

static const FnInfo read_functions[] = {
	{"count", FN_COUNT, FOR_ALL},
	{"sum", FN_SUM, FOR_ALL},
	{"avg", FN_AVG, FOR_ALL},
	{"min", FN_MIN, FOR_GAUGE | FOR_DISTRIBUTION},
	{"max", FN_MAX, FOR_GAUGE | FOR_DISTRIBUTION},
	{"first", FN_FIRST, FOR_GAUGE},
	{"last", FN_LAST, FOR_GAUGE},
	{"delta", FN_DELTA, FOR_GAUGE},
	{"rate", FN_RATE, FOR_COUNTER | FOR_DISTRIBUTION},
	{"increase", FN_INCREASE, FOR_COUNTER | FOR_DISTRIBUTION},
	{"series", FN_SERIES, FOR_ALL},
	{"stddev", FN_STDDEV, FOR_DISTRIBUTION, true},
	{"share_below", FN_SHARE_BELOW, FOR_DISTRIBUTION, true, true},
	{"apdex", FN_APDEX, FOR_DISTRIBUTION, true, true},
};

/* ---- names ---- */

/* A finite number that fills the string; spaces around it are allowed. */
static bool
parse_number(const char *s, int len, double *number)
{
	char *copy = pnstrdup(s, len);
	char *end;

	if (strspn(copy, "0123456789+-.eE \t\r\n") != (size_t) len)
		return false;
	*number = strtod(copy, &end);
	return end != copy && end[strspn(end, " \t\r\n")] == '\0' && isfinite(*number);
}

/* p50, p99.9: p and a decimal number of 0..100 */
static bool
parse_percentile(const char *s, ReadFn *fn)
{
	double p;

	if (s[0] != 'p' || strspn(s + 1, "0123456789.") != strlen(s + 1) ||
		!isdigit((unsigned char) s[1]) || strlen(s) >= 20 ||
		!parse_number(s + 1, strlen(s + 1), &p) || p > 100)
		return false;
	mon_percentile_fn(p / 100, fn);
	return true;
}

static void
parse_argument(const FnInfo *info, const char *s, ReadFn *fn)
{
	const char *open = s + strlen(info->name);
	int len = strlen(open);

	if (len < 2 || open[0] != '(' || open[len - 1] != ')' ||
		!parse_number(open + 1, len - 2, &fn->argument))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("function \"%s\" needs a number in parentheses", info->name),
				 errhint("For example: %s(0.5).", info->name)));
	if (info->kind == FN_APDEX && !(fn->argument > 0 && fn->argument <= 4e307))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the threshold of apdex must be greater than zero and at most 4e307")));
}

void
mon_parse_fn(text *name, ReadFn *fn)
{
	char *s = text_to_cstring(name);
	size_t len = strcspn(s, "(");

	memset(fn, 0, sizeof(*fn));
	if (parse_percentile(s, fn))
	{
		fn->name = s;
		return;
	}
	fn->name = s;
	for (int i = 0; i < lengthof(read_functions); i++)
	{
		const FnInfo *info = &read_functions[i];

		if (strlen(info->name) != len || memcmp(info->name, s, len) != 0 ||
			(s[len] != '\0' && !info->has_argument))
			continue;
		fn->kind = info->kind;
		fn->metric_kinds = info->metric_kinds;
		fn->needs_sketch = info->needs_sketch;
		if (info->has_argument)
			parse_argument(info, s, fn);
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown function \"%s\"", s),
			 errhint("Use count, sum, avg, min, max, first, last, delta, rate, increase, series, "
					 "stddev, share_below(x), apdex(t) or a percentile such as p50, p95 or "
					 "p99.9.")));
}

void
mon_percentile_fn(double q, ReadFn *fn)
{
	fn->kind = FN_PERCENTILE;
	fn->argument = q;
	fn->metric_kinds = FOR_DISTRIBUTION;
	fn->needs_sketch = true;
	fn->name = "percentile";
}

void
mon_sketch_fn(ReadFn *fn)
{
	fn->kind = FN_SKETCH;
	fn->metric_kinds = FOR_DISTRIBUTION;
	fn->needs_sketch = true;
	fn->name = "sketch";
}

char *
mon_fn_kind_problem(const ReadFn *fn, const char *metric, MonMetricKind kind)
{
	if (fn->metric_kinds & (1 << (kind - 1)))
		return NULL;
	return psprintf(_("function \"%s\" cannot be used on metric \"%s\""), fn->name, metric);
}

void
mon_last_at_fn(ReadFn *fn)
{
	fn->kind = FN_LAST_AT;
	fn->metric_kinds = FOR_ALL;
	fn->name = "last_observed";
}

void
mon_check_fn_kind(const ReadFn *fn, const char *metric, MonMetricKind kind)
{
	static const char *const kinds[] = {"", "counter", "gauge", "distribution"};
	char *problem = mon_fn_kind_problem(fn, metric, kind);

	if (!problem)
		return;
	if (fn->kind == FN_SKETCH)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("metric \"%s\" has no sketches", metric),
				 errdetail("The metric is a %s; only distributions have.", kinds[kind])));
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg_internal("%s", problem),
			 errdetail("The metric is a %s.", kinds[kind]),
			 errhint("Counters have count, sum, avg, rate, increase and series; gauges count, sum, "
					 "avg, min, max, first, last, delta and series; distributions all but first, "
					 "last and delta.")));
}

/* ---- values ---- */

/* The mean of the shares of satisfied values and of those that are at least tolerated. */
static double
apdex(const ExpoSketch *s, double threshold)
{
	uint64 satisfied = expo_count_below(s, threshold);
	uint64 tolerated = expo_count_below(s, threshold * APDEX_FACTOR);

	return ((double) satisfied + (double) tolerated) / 2 / (double) s->count;
}

bool
mon_fn_value(const ReadFn *fn, const MonPoint *c, double seconds, double *value)
{
	if (c->count == 0)
		return false;
	switch (fn->kind)
	{
		case FN_COUNT:
		case FN_SERIES: /* what its cells count: see mon_read_add() */
			*value = c->count;
			break;
		case FN_SUM:
			*value = c->sum;
			break;
		case FN_AVG:
			*value = c->sum / c->count;
			break;
		case FN_MIN:
			*value = c->min;
			break;
		case FN_MAX:
			*value = c->max;
			break;
		case FN_FIRST:
			*value = c->first;
			break;
		case FN_LAST:
			*value = c->last;
			break;
		case FN_DELTA:
			*value = c->last - c->first;
			break;
		case FN_INCREASE:
		case FN_RATE:
			*value = c->kind == MON_COUNTER ? c->sum : c->count;
			if (fn->kind == FN_RATE)
				*value /= seconds;
			break;
		case FN_STDDEV:
			*value = expo_stddev(&c->sketch);
			break;
		case FN_SHARE_BELOW:
			*value = (double) expo_count_below(&c->sketch, fn->argument) / (double) c->count;
			break;
		case FN_APDEX:
			*value = apdex(&c->sketch, fn->argument);
			break;
		case FN_PERCENTILE:
			*value = expo_quantile(&c->sketch, fn->argument);
			break;
		case FN_SKETCH:
		case FN_LAST_AT:
			return false;
	}
	return true;
}

PG_FUNCTION_INFO_V1(mon_check_fn);
/* check_fn(fn text): error unless it is a function that value() knows */
Datum
mon_check_fn(PG_FUNCTION_ARGS)
{
	ReadFn fn;

	mon_parse_fn(PG_GETARG_TEXT_PP(0), &fn);
	PG_RETURN_VOID();
}
