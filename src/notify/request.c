/*-------------------------------------------------------------------------
 *
 * request.c
 *	  Making requests: the formatter's call, its secrets, the sender's frame.
 *
 * Everything here belongs to one call; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/request.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "core/confined.h"
#include "outbound/sender/protocol.h"

#define FORMAT_TIMEOUT_MS 1000
#define MAX_REQUEST (512 * 1024)

/* Options of the sender that stand in a receiver's config under their own names. */
static const char *const config_options[] = {"ca_file", "cert_file", "min_tls", "starttls"};

/* ---- the formatter ---- */

static char *
column_text(int column)
{
	char *s = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return s == NULL ? NULL : mon_utf8_copy(s, strlen(s));
}

static char *
required_text(int column, const char *what)
{
	char *s = column_text(column);

	if (s == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the formatter returned no %s", what)));
	return s;
}

static void
add_pair(List **to, const char *name, int name_len, const char *value, int value_len)
{
	MonPair *pair = palloc(sizeof(MonPair));

	pair->name = mon_utf8_copy(name, name_len);
	pair->value = mon_utf8_copy(value, value_len);
	*to = lappend(*to, pair);
}

/* Of a mail the recipients may be an array. */
static List *
read_headers(Jsonb *headers, bool arrays)
{
	List *result = NIL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue key = {0}, value;
	bool in_array = false;

	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the formatter's headers are not an object")));
	it = JsonbIteratorInit(&headers->root);
	(void) JsonbIteratorNext(&it, &value, false);
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = value;
		else if ((token == WJB_VALUE || (token == WJB_ELEM && in_array)) && value.type == jbvString)
			add_pair(&result, key.val.string.val, key.val.string.len, value.val.string.val,
					 value.val.string.len);
		else if (token == WJB_BEGIN_ARRAY && arrays && !in_array)
			in_array = true;
		else if (token == WJB_END_ARRAY && in_array)
			in_array = false;
		else if (token != WJB_END_OBJECT || in_array)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("a header of the formatter is not text")));
	}
	return result;
}

static Size
pairs_length(const List *pairs)
{
	Size len = 0;
	ListCell *cell;

	foreach (cell, pairs)
	{
		MonPair *pair = lfirst(cell);

		len += strlen(pair->name) + strlen(pair->value) + 2 * sizeof(uint32);
	}
	return len;
}

typedef struct FormatterCall
{
	Oid function;
	Datum receiver;
	Datum notification;
	MonRequest *request;
	bool nothing;
} FormatterCall;

/*
 * Parsing and planning the call cost as much as most formatters do.  A plan may
 * have the formatter's own query in it, which the role had to be allowed to call.
 */
typedef struct FormatterPlanKey
{
	Oid function;
	Oid role;
} FormatterPlanKey;

typedef struct FormatterPlan
{
	FormatterPlanKey key;
	char *sql; /* the function may get another name */
	SPIPlanPtr plan;
} FormatterPlan;

static SPIPlanPtr
formatter_plan(Oid function)
{
	static HTAB *plans = NULL;
	static const HASHCTL how = {.keysize = sizeof(FormatterPlanKey),
								.entrysize = sizeof(FormatterPlan)};
	FormatterPlanKey key = {function, GetUserId()};
	Oid types[2] = {JSONBOID, JSONBOID};
	char *schema = get_namespace_name(get_func_namespace(function));
	char *name = get_func_name(function);
	char *sql;
	FormatterPlan *entry;
	SPIPlanPtr plan;
	bool found;

	if (schema == NULL || name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("the formatter is gone")));
	sql = psprintf("SELECT f.method::pg_catalog.text, f.url::pg_catalog.text, "
				   "f.headers::pg_catalog.jsonb, f.body::pg_catalog.text "
				   "FROM %s($1, $2) AS f",
				   quote_qualified_identifier(schema, name));

	if (plans == NULL)
		plans = hash_create("monitoring formatters", 32, &how, HASH_ELEM | HASH_BLOBS);
	entry = hash_search(plans, &key, HASH_FIND, NULL);
	if (entry && strcmp(entry->sql, sql) == 0)
		return entry->plan;

	plan = SPI_prepare(sql, 2, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare the call of a formatter");
	sql = MemoryContextStrdup(TopMemoryContext, sql);
	entry = hash_search(plans, &key, HASH_ENTER, &found);
	if (found)
	{
		SPI_freeplan(entry->plan);
		pfree(entry->sql);
	}
	entry->sql = sql;
	entry->plan = plan;
	return plan;
}

static void
call_formatter(void *arg)
{
	FormatterCall *call = arg;
	MonRequest *request = call->request;
	Datum args[2] = {call->receiver, call->notification};
	Datum headers;
	bool isnull;

	if (SPI_execute_plan(formatter_plan(call->function), args, NULL, false, 2) != SPI_OK_SELECT ||
		SPI_processed > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("the formatter returned more than one row")));
	call->nothing = SPI_processed == 0;
	if (call->nothing)
		return;

	request->method = required_text(1, "method");
	request->url = required_text(2, "url");
	request->body = column_text(4);
	if (request->body == NULL)
		request->body = pstrdup("");
	headers = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull);
	if (!isnull)
		request->headers = read_headers(DatumGetJsonbP(headers),
										strcmp(request->method, "SMTP") == 0);

	if (strlen(request->method) + strlen(request->url) + strlen(request->body) +
			pairs_length(request->headers) >
		MAX_REQUEST)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the formatter's request is larger than %d kB", MAX_REQUEST / 1024)));
}

/* The function's own fault, or one of the server that may be over the next time? */
static bool
is_transient(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION: /* among them the timeout */
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	}
}

/*
 * The formatter is anybody's code: it runs confined, as the role that registered
 * it.  Its error's message may quote the receiver's url or headers, so it is
 * shown nowhere.
 */
static MonRequestResult
format(const MonRequestSource *source, Jsonb *receiver, MonRequest *request, char **error)
{
	MonConfinement confinement = {.role = source->owner, .timeout_ms = FORMAT_TIMEOUT_MS};
	FormatterCall call = {source->function, JsonbPGetDatum(receiver), source->notification,
						  request};
	ErrorData *failure;

	if (!OidIsValid(source->function))
	{
		*error = pstrdup("the formatter of the receiver's kind does not exist");
		return MON_REQUEST_FAILED;
	}
	failure = mon_run_confined(&confinement, call_formatter, &call);
	if (failure == NULL)
		return call.nothing ? MON_REQUEST_NOTHING : MON_REQUEST_MADE;
	*error = psprintf(failure->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
						  ? "the formatter lacks something, such as a secret (SQLSTATE %s)"
						  : "the formatter failed with SQLSTATE %s",
					  unpack_sql_state(failure->sqlerrcode));
	return is_transient(failure->sqlerrcode) ? MON_REQUEST_LATER : MON_REQUEST_FAILED;
}

/* ---- options ---- */

/* A value of the receiver's config: text as it is, a boolean as true or false; NULL if it has none. */
static char *
config_value(Jsonb *receiver, const char *key)
{
	JsonbValue config, value;

	if (!getKeyJsonValueFromContainer(&receiver->root, "config", 6, &config) ||
		config.type != jbvBinary || !JsonContainerIsObject(config.val.binary.data) ||
		!getKeyJsonValueFromContainer(config.val.binary.data, key, strlen(key), &value))
		return NULL;
	if (value.type == jbvBool)
		return pstrdup(value.val.boolean ? "true" : "false");
	return value.type == jbvString ? mon_utf8_copy(value.val.string.val, value.val.string.len)
								   : NULL;
}

static void
add_option(MonRequest *request, const char *name, const char *value)
{
	if (value)
		add_pair(&request->options, name, strlen(name), value, strlen(value));
}

/* What the sender is told besides the request itself; false with *error if the key's file may not be used. */
static bool
set_options(const MonRequestSource *source, const MonSecrets *secrets, MonRequest *request,
			char **error)
{
	char *key_file = config_value(source->receiver, "key_file");
	char *http2 = config_value(source->receiver, "http2");

	for (int i = 0; i < lengthof(config_options); i++)
		add_option(request, config_options[i], config_value(source->receiver, config_options[i]));
	if (key_file && (key_file = mon_secrets_file(key_file, error)) == NULL)
		return false;
	add_option(request, "key_file", key_file);
	if (http2 && strcmp(http2, "false") == 0)
		add_option(request, "http2", "never");
	if (mon_proxy && mon_proxy[0])
		add_option(request, "proxy", mon_proxy);

	if (strcmp(request->method, "SMTP") == 0)
	{
		const char *username = mon_secrets_get(secrets, "username");
		const char *password = mon_secrets_get(secrets, "password");

		add_option(request, "username",
				   username ? username : config_value(source->receiver, "username"));
		add_option(request, "password", password);
	}
	return true;
}

/* A mail's headers are its envelope. */
static bool
set_envelope(MonRequest *request, char **error)
{
	ListCell *cell;

	foreach (cell, request->headers)
	{
		MonPair *header = lfirst(cell);

		if (strcmp(header->name, "From") == 0)
			add_option(request, "mail_from", header->value);
		else if (strcmp(header->name, "To") == 0)
			add_option(request, "mail_rcpt", header->value);
		else
		{
			*error = pstrdup("the envelope of a mail has another header than From and To");
			return false;
		}
	}
	request->headers = NIL;
	return true;
}

MonRequestResult
mon_request_make(const MonRequestSource *source, MonRequest *request, char **error)
{
	MonSecrets secrets;
	MonRequestResult result;

	memset(request, 0, sizeof(*request));
	if (!mon_secrets_read(source->receiver, &secrets, error))
		return MON_REQUEST_LATER;
	result = format(source, mon_secrets_place(source->receiver, &secrets), request, error);
	if (result != MON_REQUEST_MADE)
		return result;
	if (!set_options(source, &secrets, request, error))
		return MON_REQUEST_LATER;
	if (!mon_secrets_fill(&secrets, request, error) ||
		(strcmp(request->method, "SMTP") == 0 && !set_envelope(request, error)))
		return MON_REQUEST_FAILED;
	return MON_REQUEST_MADE;
}

/* ---- the frame ---- */

bool
mon_request_frame(const MonRequestSource *source, const MonRequest *request, uint64 tag,
				  StringInfo frame)
{
	int start = frame->len;

	mon_frame_begin(frame, SENDER_REQUEST, tag, source->connect_ms, source->total_ms);
	mon_frame_request(frame, request);
	return frame->len - start <= SENDER_MAX_FRAME;
}
