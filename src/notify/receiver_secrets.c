/*-------------------------------------------------------------------------
 *
 * receiver_secrets.c
 *	  The secrets that a receiver refers to, and the markers that its formatter
 *	  gets in their place (outbound/secrets.c).
 *
 * Everything here belongs to one call; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/request.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"

/* Most receivers have none: look before asking the database. */
static bool
refers_to_secrets(Jsonb *receiver)
{
	JsonbIterator *it = JsonbIteratorInit(&receiver->root);
	JsonbIteratorToken token;
	JsonbValue value;

	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
		if (token == WJB_KEY && value.val.string.len == 6 &&
			memcmp(value.val.string.val, "secret", 6) == 0)
			return true;
	return false;
}

bool
mon_secrets_read(Jsonb *receiver, MonSecrets *secrets, char **error)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {JSONBOID};
	Datum args[1] = {JsonbPGetDatum(receiver)};
	SPITupleTable *table;
	char *username = NULL;
	uint64 n;

	secrets->n = 0;
	secrets->secrets = NULL;
	if (!refers_to_secrets(receiver))
		return true;
	if (plan == NULL)
	{
		SPIPlanPtr p = SPI_prepare("SELECT k, s.source, s.value, $1 -> 'config' ->> 'username' "
								   "FROM monitoring.secret_keys($1 -> 'config') AS k "
								   "LEFT JOIN monitoring.receiver_secrets AS s ON s.receiver = $1 "
								   "->> 'name' AND s.key = k",
								   1, types);

		if (p == NULL || SPI_keepplan(p) != 0)
			elog(ERROR, "could not prepare the query for secrets");
		plan = p;
	}
	if (SPI_execute_plan(plan, args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read secrets");
	table = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		char *key = SPI_getvalue(table->vals[i], table->tupdesc, 1);

		if (!mon_secrets_add(secrets, key, NULL, SPI_getvalue(table->vals[i], table->tupdesc, 2),
							 SPI_getvalue(table->vals[i], table->tupdesc, 3), error))
			return false;
		username = SPI_getvalue(table->vals[i], table->tupdesc, 4);
	}
	mon_secrets_add_basic_auth(secrets, username ? mon_utf8_copy(username, strlen(username)) : NULL,
							   NULL);
	return true;
}

Jsonb *
mon_secrets_place(Jsonb *receiver, const MonSecrets *secrets)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {JSONBOID, JSONBOID};
	Datum args[2];
	StringInfoData marks;
	bool isnull;

	if (secrets->n == 0)
		return receiver;
	initStringInfo(&marks);
	for (int i = 0; i < secrets->n; i++)
	{
		appendStringInfoChar(&marks, i == 0 ? '{' : ',');
		escape_json(&marks, secrets->secrets[i].key);
		appendStringInfo(&marks, ":\"%s\"", secrets->secrets[i].marker);
	}
	appendStringInfoChar(&marks, '}');

	if (plan == NULL)
	{
		SPIPlanPtr p = SPI_prepare("SELECT monitoring.place_secrets($1, $2)", 2, types);

		if (p == NULL || SPI_keepplan(p) != 0)
			elog(ERROR, "could not prepare the query that places secrets");
		plan = p;
	}
	args[0] = JsonbPGetDatum(receiver);
	args[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(marks.data));
	if (SPI_execute_plan(plan, args, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not place secrets");
	return DatumGetJsonbP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}
