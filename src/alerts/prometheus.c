/*-------------------------------------------------------------------------
 *
 * prometheus.c
 *	  translate_promql(): the condition of a Prometheus rule as a rule of ours.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "alerts/promql.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(mon_translate_promql);

/* translate_promql(expr text) */
Datum
mon_translate_promql(PG_FUNCTION_ARGS)
{
	text *expr = PG_GETARG_TEXT_PP(0);
	char *utf8 = pg_server_to_any(VARDATA_ANY(expr), VARSIZE_ANY_EXHDR(expr), PG_UTF8);
	size_t len = utf8 == VARDATA_ANY(expr) ? VARSIZE_ANY_EXHDR(expr) : strlen(utf8);
	char *json = prom_translate(utf8, len, palloc0);

	PG_RETURN_DATUM(DirectFunctionCall1(
		jsonb_in, CStringGetDatum(pg_any_to_server(json, strlen(json), PG_UTF8))));
}
