/*-------------------------------------------------------------------------
 *
 * read_fn.c
 *	  The functions of value() and query(): their names and what they compute.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "fmgr.h"
#include "utils/builtins.h"

static const struct
{
	const char *name;
	ReadFnKind kind;
	int metric_kinds;
} read_functions[] = {
	{"count", FN_COUNT, FOR_COUNTER | FOR_GAUGE | FOR_DISTRIBUTION},
	{"sum", FN_SUM, FOR_COUNTER | FOR_GAUGE | FOR_DISTRIBUTION},
	{"avg", FN_AVG, FOR_COUNTER | FOR_GAUGE | FOR_DISTRIBUTION},
	{"min", FN_MIN, FOR_GAUGE | FOR_DISTRIBUTION},
	{"max", FN_MAX, FOR_GAUGE | FOR_DISTRIBUTION},
	{"last", FN_LAST, FOR_GAUGE},
	{"rate", FN_RATE, FOR_COUNTER | FOR_DISTRIBUTION},
	{"increase", FN_INCREASE, FOR_COUNTER | FOR_DISTRIBUTION},
};

/* ---- functions ---- */

void
mon_parse_fn(text *name, ReadFn *fn)
{
	char *s = text_to_cstring(name);

	fn->name = s;
	for (int i = 0; i < lengthof(read_functions); i++)
		if (strcmp(s, read_functions[i].name) == 0)
		{
			fn->kind = read_functions[i].kind;
			fn->metric_kinds = read_functions[i].metric_kinds;
			return;
		}
	if (s[0] == 'p' && strlen(s) > 1 && strlen(s) < 20 &&
		strspn(s + 1, "0123456789.") == strlen(s) - 1 && s[1] != '.' &&
		strchr(s, '.') == strrchr(s, '.'))
	{
		double p = DatumGetFloat8(DirectFunctionCall1(float8in, CStringGetDatum(s + 1)));

		if (p <= 100)
		{
			fn->kind = FN_PERCENTILE;
			fn->metric_kinds = FOR_DISTRIBUTION;
			fn->argument = p / 100;
			fn->needs_sketch = true;
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown function \"%s\"", s),
			 errhint("Use count, sum, avg, min, max, last, rate, increase or a percentile such as "
					 "p50, p95 or p99.9.")));
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
mon_check_fn_kind(const ReadFn *fn, const char *metric, MonMetricKind kind)
{
	static const char *const kinds[] = {"", "counter", "gauge", "distribution"};

	if (fn->metric_kinds & (1 << (kind - 1)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("function \"%s\" cannot be used on metric \"%s\"", fn->name, metric),
			 errdetail("The metric is a %s.", kinds[kind]),
			 errhint("Counters have count, sum, avg, rate and increase; gauges count, sum, "
					 "avg, min, max and last; distributions all but last.")));
}

bool
mon_fn_value(const ReadFn *fn, const MonPoint *c, double seconds, double *value)
{
	if (c->count == 0)
		return false;
	switch (fn->kind)
	{
		case FN_COUNT:
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
		case FN_LAST:
			*value = c->last;
			break;
		case FN_INCREASE:
		case FN_RATE:
			*value = c->kind == MON_COUNTER ? c->sum : c->count;
			if (fn->kind == FN_RATE)
				*value /= seconds;
			break;
		case FN_PERCENTILE:
			*value = expo_quantile(&c->sketch, fn->argument);
			break;
	}
	return true;
}

PG_FUNCTION_INFO_V1(mon_check_fn);
/* check_fn(fn text): error unless it is a function that value() knows */
Datum
mon_check_fn(PG_FUNCTION_ARGS)
{
	ReadFn fn = {0};

	mon_parse_fn(PG_GETARG_TEXT_PP(0), &fn);
	PG_RETURN_VOID();
}
