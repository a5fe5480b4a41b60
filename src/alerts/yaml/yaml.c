/*-------------------------------------------------------------------------
 *
 * yaml.c
 *	  yaml_document(): a YAML text as jsonb.
 *
 * A library of its own, loaded when it is called: a server that is started
 * with "monitoring" must not fail to start because libyaml is not there.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "alerts/yaml/yaml_json.h"

MON_MODULE_MAGIC;

static char *
read_yaml(text *yaml)
{
	YamlError error = {0};
	char *utf8 = pg_server_to_any(VARDATA_ANY(yaml), VARSIZE_ANY_EXHDR(yaml), PG_UTF8);
	size_t len = utf8 == VARDATA_ANY(yaml) ? VARSIZE_ANY_EXHDR(yaml) : strlen(utf8);
	char *json = yaml_to_json(utf8, len, &error);

	if (json)
		return json;
	if (error.line > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("the text is no YAML document that can be read"),
				 errdetail("Line %zu: %s.", error.line, error.message)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("the text is no YAML document that can be read"),
			 errdetail("It is not valid: %s.", error.message)));
	return NULL;
}

PG_FUNCTION_INFO_V1(mon_yaml_document);
/* yaml_document(yaml text) */
Datum
mon_yaml_document(PG_FUNCTION_ARGS)
{
	char *json = read_yaml(PG_GETARG_TEXT_PP(0));
	Datum result = 0;

	PG_TRY();
	{
		char *ours = pg_any_to_server(json, strlen(json), PG_UTF8);

		result = DirectFunctionCall1(jsonb_in, CStringGetDatum(ours));
	}
	PG_FINALLY();
	{
		free(json);
	}
	PG_END_TRY();
	PG_RETURN_DATUM(result);
}
