/*-------------------------------------------------------------------------
 *
 * drain.c
 *	  Signals on their way from shared memory into tables.
 *
 * A drain takes slots, stores their contents and advances signal_state.seq in one
 * transaction, whose row lock keeps others out.  The table alone decides whether
 * what was taken is stored: see signals_internal.h.
 *
 * Texts come from anywhere, in any encoding and cut anywhere; they are made valid
 * here.
 *
 *-------------------------------------------------------------------------
 */
#include "signals/signals.h"
#include "core/transaction.h"
#include "signals/fingerprint.h"
#include "signals/signals_internal.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "core/core.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(mon_signals_waiting_sql);
PG_FUNCTION_INFO_V1(mon_take_signals);
PG_FUNCTION_INFO_V1(mon_signal_counts_sql);
PG_FUNCTION_INFO_V1(mon_signal_recorded);
PG_FUNCTION_INFO_V1(mon_signal_buffer);

static const char *const kind_names[SIGNAL_KINDS] = {"error", "login", "change", "execution"};
static const char *const login_outcomes[] = {"ok", "refused", "failed"};
static const char *const change_classes[] = {"schema", "grant", "role", "setting", "database"};

static uint64 completing_seq = 0; /* of a drain that commits with this transaction */
static MonTransactionPart drain_part;

/* ---- texts ---- */

/* Valid in the database's encoding; what is not becomes question marks. */
static char *
clean(const char *text, size_t len, int encoding)
{
	bool ours = encoding == GetDatabaseEncoding() || encoding == PG_SQL_ASCII;
	char *out = palloc(len + 1);
	size_t n = 0;

	for (size_t i = 0; i < len;)
	{
		int chars = ours ? pg_encoding_mblen(GetDatabaseEncoding(), text + i) : 1;

		if (text[i] != '\0' && (ours || !IS_HIGHBIT_SET(text[i])) && i + chars <= len &&
			pg_verify_mbstr(GetDatabaseEncoding(), text + i, chars, true))
		{
			memcpy(out + n, text + i, chars);
			n += chars;
			i += chars;
		}
		else
		{
			out[n++] = '?';
			i++;
		}
	}
	out[n] = '\0';
	return out;
}

/* A character that the limit has cut leaves no question mark. */
static size_t
without_cut_character(const char *text, size_t len, int encoding)
{
	size_t n = 0;

	while (n < len)
	{
		int chars = pg_encoding_mblen(encoding, text + n);

		if (n + chars > len)
			break;
		n += chars;
	}
	return n;
}

static const char *
text_start(const Signal *s, SignalText which)
{
	const char *at = s->texts;

	for (int i = 0; i < which; i++)
		at += s->len[i];
	return at;
}

/* NULL if the signal has none. */
static char *
get_text(const Signal *s, SignalText which)
{
	const char *text = text_start(s, which);
	size_t len = s->len[which];

	if (len == 0)
		return NULL;
	if (s->encoding == GetDatabaseEncoding())
		len = without_cut_character(text, len, s->encoding);
	return clean(text, len, s->encoding);
}

/* ---- what errors have in common ---- */

static char *
parameterized(const char *message)
{
	size_t size = strlen(message) + 1;
	char *out = palloc(size);

	mon_parameterize(message, size - 1, out, size);
	return out;
}

/* The latest function or the like of the context, without the number of the line. */
static char *
context_title(const char *context)
{
	return context ? parameterized(pnstrdup(context, strcspn(context, "\n"))) : NULL;
}

/* What the issue is called: the message's format, or what is left of the message. */
static char *
error_title(const char *template, const char *message)
{
	if (template && mon_template_tells(template, strlen(template)))
		return pstrdup(template);
	return message ? parameterized(message) : pstrdup("");
}

static uint64
add_to_hash(uint64 hash, const char *text)
{
	size_t len = text ? strlen(text) + 1 : 1;

	return hash_combine64(hash,
						  hash_bytes_extended((const unsigned char *) (text ? text : ""), len, 0));
}

static int64
fingerprint(const Signal *s, const char *title, const char *place, char **texts)
{
	static const SignalText names[] = {TEXT_SCHEMA, TEXT_TABLE, TEXT_COLUMN, TEXT_DATATYPE,
									   TEXT_CONSTRAINT};
	uint64 hash = add_to_hash(0, unpack_sql_state(s->code));

	hash = add_to_hash(hash, title);
	hash = add_to_hash(hash, place);
	for (int i = 0; i < lengthof(names); i++)
		hash = add_to_hash(hash, texts[names[i]]);
	return (int64) (hash & PG_INT64_MAX);
}

/* ---- rows ---- */

#define TAKEN_COLUMNS (13 + SIGNAL_TEXTS)

static const char *
code_name(SignalKind kind, int code)
{
	switch (kind)
	{
		case SIGNAL_ERROR:
			return unpack_sql_state(code);
		case SIGNAL_LOGIN:
			return login_outcomes[Min((unsigned) code, lengthof(login_outcomes) - 1)];
		case SIGNAL_EXECUTION:
			return "";
		default:
			return change_classes[Min((unsigned) code, lengthof(change_classes) - 1)];
	}
}

static const char *
level_name(SignalKind kind, int level)
{
	if (kind == SIGNAL_LOGIN)
		return level ? unpack_sql_state(level) : "";
	if (kind != SIGNAL_ERROR)
		return "";
	return level >= PANIC ? "PANIC"
		: level == FATAL  ? "FATAL"
		: level == ERROR  ? "ERROR"
		: level == 0      ? ""
		: level == LOG    ? "LOG"
						  : "WARNING";
}

static void
put_text(Datum *value, bool *null, const char *text)
{
	*null = text == NULL;
	*value = text ? CStringGetTextDatum(text) : (Datum) 0;
}

/* {"Lock:relation": 12, "CPU": 3} */
static Datum
waits_json(const ExecutionFacts *facts)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < facts->nwaits; i++)
	{
		const char *type = pgstat_get_wait_event_type(facts->wait_event[i]);
		const char *event = pgstat_get_wait_event(facts->wait_event[i]);

		if (i > 0)
			appendStringInfoString(&json, ", ");
		escape_json(&json, type && event ? psprintf("%s:%s", type, event) : "CPU");
		appendStringInfo(&json, ": %u", facts->wait_samples[i]);
	}
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

#define FACTS_COLUMNS (8 + EXECUTION_MEASURES)

static const char *
execution_outcome(const ExecutionFacts *facts)
{
	if (facts->terminated)
		return "terminated";
	if (facts->sqlstate == 0)
		return "ok";
	return facts->sqlstate == ERRCODE_QUERY_CANCELED ? "cancelled" : "error";
}

/* What was measured of an execution, as the composite type of the column it goes to. */
static void
put_execution(Datum *value, bool *null, const Signal *s, Oid type)
{
	ExecutionFacts facts;
	TupleDesc desc;
	Datum values[FACTS_COLUMNS];
	bool nulls[FACTS_COLUMNS] = {0};
	int k = 0;

	*null = s->len[TEXT_EXECUTION] != sizeof(facts);
	if (*null)
		return;
	memcpy(&facts, text_start(s, TEXT_EXECUTION), sizeof(facts));
	values[k++] = TimestampTzGetDatum(facts.started_at);
	values[k++] = BoolGetDatum(facts.toplevel);
	values[k++] = CStringGetTextDatum(execution_outcome(&facts));
	put_text(&values[k], &nulls[k], facts.sqlstate ? unpack_sql_state(facts.sqlstate) : NULL);
	k++;
	nulls[k] = facts.blocked_by_pid == 0;
	values[k++] = Int32GetDatum(facts.blocked_by_pid);
	values[k++] = Int64GetDatum((int64) facts.samples);
	nulls[k] = facts.samples == 0;
	values[k++] = facts.samples == 0 ? (Datum) 0 : waits_json(&facts);
	nulls[k] = facts.plan_hash == 0;
	values[k++] = Int64GetDatum(facts.plan_hash);
	for (int i = 0; i < EXECUTION_MEASURES; i++)
		values[k++] = Float8GetDatum(facts.measure[i]);
	desc = lookup_rowtype_tupdesc(type, -1);
	if (desc->natts != FACTS_COLUMNS)
		elog(ERROR, "monitoring.execution_facts is not of this library");
	*value = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	ReleaseTupleDesc(desc);
}

static void
put_signal(ReturnSetInfo *rsinfo, const Signal *s)
{
	Datum values[TAKEN_COLUMNS];
	bool nulls[TAKEN_COLUMNS] = {0};
	char *texts[SIGNAL_TEXTS];
	char *title = NULL;
	char *place = NULL;
	int k = 0;

	for (int i = 0; i < SIGNAL_TEXTS; i++)
		texts[i] = i == TEXT_EXECUTION ? NULL : get_text(s, i);
	if (s->kind == SIGNAL_ERROR)
	{
		title = error_title(texts[TEXT_TEMPLATE], texts[TEXT_MESSAGE]);
		/* Formats tell the code they come from; others need its place. */
		if (!texts[TEXT_TEMPLATE] || strcmp(title, texts[TEXT_TEMPLATE]) != 0)
			place = context_title(texts[TEXT_CONTEXT]);
	}
	put_text(&values[k], &nulls[k], kind_names[s->kind]), k++;
	values[k++] = TimestampTzGetDatum(s->at);
	put_text(&values[k], &nulls[k], level_name(s->kind, s->level)), k++;
	put_text(&values[k], &nulls[k], code_name(s->kind, s->code)), k++;
	nulls[k] = s->kind != SIGNAL_ERROR;
	values[k] = nulls[k] ? (Datum) 0 : Int64GetDatum(fingerprint(s, title, place, texts));
	k++;
	put_text(&values[k], &nulls[k], title), k++;
	put_text(&values[k], &nulls[k], place), k++;
	nulls[k] = s->queryid == 0;
	values[k++] = Int64GetDatum(s->queryid);
	values[k++] = ObjectIdGetDatum(s->dbid);
	values[k++] = ObjectIdGetDatum(s->userid);
	values[k++] = Int32GetDatum(s->pid);
	put_text(&values[k], &nulls[k],
			 s->backend_type < 0 ? "postmaster"
								 : GetBackendTypeDesc((BackendType) s->backend_type)),
		k++;
	values[k++] = Int64GetDatum((int64) s->number);
	for (int i = 0; i < SIGNAL_TEXTS; i++, k++)
	{
		if (i == TEXT_EXECUTION)
			put_execution(&values[k], &nulls[k], s, TupleDescAttr(rsinfo->setDesc, k)->atttypid);
		else
			put_text(&values[k], &nulls[k], texts[i]);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* signals_waiting() */
Datum
mon_signals_waiting_sql(PG_FUNCTION_ARGS)
{
	mon_require_preload();
	PG_RETURN_BOOL(mon_signals_waiting());
}

/* take_signals(stored bigint, max integer) */
Datum
mon_take_signals(PG_FUNCTION_ARGS)
{
	int64 stored = PG_GETARG_INT64(0);
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext, "signal",
												  ALLOCSET_DEFAULT_SIZES);
	Signal **taken;
	int n;

	mon_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	mon_transaction_join(&drain_part);
	taken = mon_signals_take(stored, PG_GETARG_INT32(1), &n);
	for (int i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(row_cxt);

		put_signal((ReturnSetInfo *) fcinfo->resultinfo, taken[i]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_cxt);
		pfree(taken[i]);
	}
	MemoryContextDelete(row_cxt);
	if (GetCurrentTransactionNestLevel() == 1)
		completing_seq = stored + 1;
	return (Datum) 0;
}

/* signal_counts(everything boolean) */
Datum
mon_signal_counts_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SignalCount *found;
	int n;

	mon_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	found = mon_signal_counts(PG_GETARG_BOOL(0), &n);
	for (int i = 0; i < n; i++)
	{
		const SignalCount *c = &found[i];
		bool other = c->code == 0 && c->level == 0 && c->kind == SIGNAL_ERROR;
		Datum values[9];
		bool nulls[9] = {0};

		values[0] = Int32GetDatum(c->place);
		values[1] = CStringGetTextDatum(kind_names[c->kind]);
		values[2] = CStringGetTextDatum(level_name(c->kind, c->level));
		values[3] = CStringGetTextDatum(other ? "" : code_name(c->kind, c->code));
		values[4] = ObjectIdGetDatum(c->dbid);
		values[5] = Int64GetDatum((int64) c->total);
		values[6] = Int64GetDatum((int64) c->dropped);
		values[7] = Int64GetDatum((int64) (c->total - c->recorded));
		values[8] = Int64GetDatum((int64) (c->dropped - c->recorded_dropped));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* signal_recorded(place integer, total bigint, dropped bigint) */
Datum
mon_signal_recorded(PG_FUNCTION_ARGS)
{
	mon_require_preload();
	mon_signal_count_recorded(PG_GETARG_INT32(0), PG_GETARG_INT64(1), PG_GETARG_INT64(2));
	PG_RETURN_VOID();
}

/* signal_buffer() */
Datum
mon_signal_buffer(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {0};
	int in_use;

	mon_require_preload();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int32GetDatum(mon_signal_capacity(&in_use));
	values[1] = Int32GetDatum(in_use);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* What a prepared transaction has taken stays so until the table shows how it ended. */
static void
drain_at_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT && completing_seq > 0)
		mon_signals_free_taken(completing_seq);
	else if (event != XACT_EVENT_COMMIT)
		mon_signals_drain_failed();
	completing_seq = 0;
}

void
mon_signals_init(void)
{
	mon_signal_buffer_init();
	mon_error_hook_init();
	mon_login_hook_init();
	mon_change_hook_init();
	mon_transaction_register(&drain_part, drain_at_end, NULL);
}
