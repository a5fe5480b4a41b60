/*-------------------------------------------------------------------------
 *
 * functions.c
 *	  The functions that value(), query() and alert rules know by name.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

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
			fn->q = p / 100;
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown function \"%s\"", s),
			 errhint("Use count, sum, avg, min, max, last, rate, increase or a percentile such as "
					 "p50, p95 or p99.9.")));
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
