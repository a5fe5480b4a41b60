/*-------------------------------------------------------------------------
 *
 * prober.c
 *	  The prober: a background worker that makes the requests of a database's
 *	  health checks.
 *
 * SQL says what is to be requested and what the answers mean (network.sql);
 * the requests are made by the sender program (outbound/link.c).  No transaction
 * is open meanwhile.  A check is taken with a lease: when the prober dies, it is
 * run again after that.  A target that hangs has its timeout, which the sender
 * keeps, and holds up nobody.
 *
 * Everything here is local to the process; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "health/health.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbound/secrets.h"
#include "worker/worker.h"

#define MAX_PROBES 64
#define POLL_MS 1000
#define BUSY_MS 100
#define MAX_IDLE_S 120     /* when the next check is later, another process will do it */
#define MAX_SLEEP_MS 30000 /* who makes a check due wakes us; this is for clocks that jump */
#define CONNECT_MS 5000
#define ANSWER_PATIENCE_MS 15000 /* on top of all that a probe may take */
#define MAX_FAILURES 20          /* then a new process tries */

typedef struct Probe
{
	bool used;
	bool answered;
	uint32 serial; /* tells a late answer from that of the entry's new use */
	char *check;
	char *state; /* JSON, or NULL */
	TimestampTz began;
	uint32 total_ms;
	int64 deadline; /* the sender is stuck if it has not answered by then */
	char *answer;   /* JSON */
} Probe;

static Probe probes[MAX_PROBES];
static int n_probes = 0;
static int n_answered = 0;
static uint32 last_serial = 0;
static int64 next_step = 0; /* no transaction before this, as the last one failed */

static const MonCompanionSort prober_sort = {"monitoring prober", "mon_prober_main"};

PG_FUNCTION_INFO_V1(mon_wake_prober);
extern PGDLLEXPORT void mon_prober_main(Datum arg);

void
mon_health_init(void)
{
	mon_companion_register(&prober_sort);
}

Datum
mon_wake_prober(PG_FUNCTION_ARGS)
{
	mon_require_preload();
	if (!RecoveryInProgress())
		mon_companion_wake(&prober_sort, MyDatabaseId);
	PG_RETURN_VOID();
}

/* ---- entries ---- */

static void
forget_probe(Probe *p)
{
	pfree(p->check);
	if (p->state)
		pfree(p->state);
	if (p->answer)
		pfree(p->answer);
	n_answered -= p->answered;
	n_probes--;
	memset(p, 0, sizeof(*p));
}

static void
set_answer(Probe *p, const char *json)
{
	p->answer = MemoryContextStrdup(TopMemoryContext, json);
	p->answered = true;
	n_answered++;
}

/* What was queued since the serial number: its time begins now, or it never was. */
static void
settle_probes(uint32 serial, bool committed)
{
	for (int i = 0; i < MAX_PROBES; i++)
	{
		Probe *p = &probes[i];

		if (!p->used || (int32) (p->serial - serial) <= 0)
			continue;
		if (committed)
			p->deadline = mon_now_ms() + p->total_ms + SENDER_MAX_QUEUE_MS + ANSWER_PATIENCE_MS;
		else
			forget_probe(p);
	}
}

/* ---- what the sender says ---- */

/* Bytes of a stranger's as text of this database: what cannot be that becomes a question mark. */
static char *
text_of(SenderString s)
{
	char *text = palloc(s.len + 1);
	bool utf8 = GetDatabaseEncoding() == PG_UTF8;

	for (size_t i = 0; i < s.len;)
	{
		unsigned char c = s.data[i];
		int len = c < 0x80 ? 1 : pg_utf_mblen((const unsigned char *) s.data + i);
		bool good = c < 0x80
			? c != 0
			: utf8 && i + len <= s.len && pg_utf8_islegal((const unsigned char *) s.data + i, len);

		if (good)
			memcpy(text + i, s.data + i, len);
		else
		{
			len = 1;
			text[i] = '?';
		}
		i += len;
	}
	text[s.len] = '\0';
	return text;
}

static void
add_text(StringInfo to, const char *key, SenderString s)
{
	char *text = text_of(s);

	appendStringInfo(to, ",\"%s\":", key);
	escape_json(to, text);
	pfree(text);
}

static const char *
kind_name(uint8 kind)
{
	return kind == SENDER_RESPONSE ? "response" : kind == SENDER_REFUSED ? "refused" : "network";
}

static void
describe_answer(StringInfo to, const SenderAnswer *a)
{
	appendStringInfo(to,
					 "{\"kind\":\"%s\",\"status\":%u,\"protocol\":%.1f,\"redirects\":%d,"
					 "\"seconds\":%.6f,\"dns\":%.6f,\"connect\":%.6f,\"tls\":%.6f,"
					 "\"first_byte\":%.6f,\"bytes\":" UINT64_FORMAT,
					 kind_name(a->kind), a->status, a->protocol / 10.0, a->redirects,
					 a->latency_us / 1e6, a->dns_us / 1e6, a->connect_us / 1e6, a->tls_us / 1e6,
					 a->first_byte_us / 1e6, (uint64) a->bytes);
	add_text(to, "error", a->error);
	add_text(to, "certificate_error", a->certificate_error);
	add_text(to, "addresses", a->addresses);
	add_text(to, "certificates", a->certificates);
	add_text(to, "headers", a->headers);
	add_text(to, "body", a->body);
	appendStringInfoChar(to, '}');
}

static bool
take_answer(uint8 type, SenderReader *r)
{
	SenderAnswer a;
	StringInfoData json;
	uint32 slot;
	Probe *p;

	if (type != SENDER_ANSWER || !sender_get_answer(r, &a))
		return false;
	slot = (uint32) a.tag;
	if (slot >= MAX_PROBES)
		return false;
	p = &probes[slot];
	if (!p->used || p->answered || p->serial != (uint32) (a.tag >> 32))
		return false;
	initStringInfo(&json);
	describe_answer(&json, &a);
	set_answer(p, json.data);
	pfree(json.data);
	return true;
}

static void
sender_lost(void)
{
	for (int i = 0; i < MAX_PROBES; i++)
		if (probes[i].used && !probes[i].answered)
			set_answer(&probes[i],
					   "{\"kind\":\"lost\",\"error\":\"the sender ended before it answered\"}");
}

static bool
sender_stuck(void)
{
	int64 now = mon_now_ms();

	for (int i = 0; i < MAX_PROBES; i++)
		if (probes[i].used && !probes[i].answered && now > probes[i].deadline)
			return true;
	return false;
}

static const MonLinkUser link_user = {take_answer, sender_lost, sender_stuck};

/* ---- requests ---- */

typedef enum ProbeColumn
{
	CHECK_NAME = 1,
	STATE,
	BEGAN,
	SECONDS,
	SORT,
	METHOD,
	URL,
	BODY,
	HEADER_NAMES,
	HEADER_VALUES,
	OPTION_NAMES,
	OPTION_VALUES,
	REDIRECTS,
	PROXY,
	SECRET_KEYS, /* null: there are none */
	SECRET_MARKERS,
	SECRET_SOURCES, /* null: it is not set */
	SECRET_VALUES
} ProbeColumn;

/* Requests go out as UTF-8, whatever the database's encoding. */
static char *
utf8_of(const char *s)
{
	return mon_utf8_copy(s, strlen(s));
}

static List *
pairs_of(HeapTuple row, TupleDesc desc, int names_column, int values_column)
{
	Datum *names, *values;
	int n, m;
	bool isnull;
	List *pairs = NIL;

	deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(row, desc, names_column, &isnull)), TEXTOID,
					  -1, false, TYPALIGN_INT, &names, NULL, &n);
	deconstruct_array(DatumGetArrayTypeP(SPI_getbinval(row, desc, values_column, &isnull)), TEXTOID,
					  -1, false, TYPALIGN_INT, &values, NULL, &m);
	for (int i = 0; i < Min(n, m); i++)
	{
		MonPair *pair = palloc(sizeof(MonPair));

		pair->name = utf8_of(TextDatumGetCString(names[i]));
		pair->value = utf8_of(TextDatumGetCString(values[i]));
		pairs = lappend(pairs, pair);
	}
	return pairs;
}

static char **
texts_of(HeapTuple row, TupleDesc desc, int column, int *n)
{
	Datum *values, array;
	bool *nulls, isnull;
	char **texts;

	*n = 0;
	array = SPI_getbinval(row, desc, column, &isnull);
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls,
					  n);
	texts = palloc(*n * sizeof(char *));
	for (int i = 0; i < *n; i++)
		texts[i] = nulls[i] ? NULL : TextDatumGetCString(values[i]);
	return texts;
}

/* Put secrets where their markers stand; false with *error, which has none of them. */
static bool
add_secrets(HeapTuple row, TupleDesc desc, MonRequest *request, char **error)
{
	MonSecrets secrets = {0, NULL};
	int n, m;
	char **keys = texts_of(row, desc, SECRET_KEYS, &n);
	char **markers = texts_of(row, desc, SECRET_MARKERS, &m);
	char **sources = texts_of(row, desc, SECRET_SOURCES, &m);
	char **values = texts_of(row, desc, SECRET_VALUES, &m);

	for (int i = 0; i < n; i++)
	{
		if (strcmp(keys[i], "basic_auth") == 0)
			mon_secrets_add_basic_auth(&secrets, NULL, markers[i]);
		else if (!mon_secrets_add(&secrets, keys[i], markers[i], sources[i], values[i], error))
			return false;
	}
	return mon_secrets_fill(&secrets, request, error);
}

/* The key of a certificate is as secret as what else the server's account can read. */
static bool
check_key_file(MonRequest *request, char **error)
{
	ListCell *cell;

	foreach (cell, request->options)
	{
		MonPair *option = lfirst(cell);

		if (strcmp(option->name, "key_file") == 0 &&
			(option->value = mon_secrets_file(option->value, error)) == NULL)
			return false;
	}
	return true;
}

/* False with *error, which has no secret, if it cannot be made. */
static bool
make_request(HeapTuple row, TupleDesc desc, MonRequest *request, char **error)
{
	bool isnull;

	request->method = utf8_of(SPI_getvalue(row, desc, METHOD));
	request->url = utf8_of(SPI_getvalue(row, desc, URL));
	request->body = utf8_of(SPI_getvalue(row, desc, BODY));
	request->headers = pairs_of(row, desc, HEADER_NAMES, HEADER_VALUES);
	request->options = pairs_of(row, desc, OPTION_NAMES, OPTION_VALUES);
	if (!check_key_file(request, error) || !add_secrets(row, desc, request, error))
		return false;
	if (DatumGetBool(SPI_getbinval(row, desc, PROXY, &isnull)) && mon_proxy && mon_proxy[0])
	{
		MonPair *pair = palloc(sizeof(MonPair));

		pair->name = pstrdup("proxy");
		pair->value = utf8_of(mon_proxy);
		request->options = lappend(request->options, pair);
	}
	return true;
}

/* What never went out: why, as if the sender had refused it. */
static void
refuse(Probe *p, const char *why)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"kind\":\"refused\",\"error\":");
	escape_json(&json, why);
	appendStringInfoChar(&json, '}');
	set_answer(p, json.data);
	pfree(json.data);
}

static Probe *
new_probe(HeapTuple row, TupleDesc desc)
{
	Probe *p = probes;
	char *state = SPI_getvalue(row, desc, STATE);
	bool isnull;
	double ms = DatumGetFloat8(SPI_getbinval(row, desc, SECONDS, &isnull)) * 1000;

	while (p < probes + MAX_PROBES && p->used)
		p++;
	if (p == probes + MAX_PROBES)
		elog(ERROR, "too many probes under way");
	p->check = MemoryContextStrdup(TopMemoryContext, SPI_getvalue(row, desc, CHECK_NAME));
	p->state = state ? MemoryContextStrdup(TopMemoryContext, state) : NULL;
	p->began = DatumGetTimestampTz(SPI_getbinval(row, desc, BEGAN, &isnull));
	p->total_ms = (uint32) Min(Max(ms, 1), SENDER_MAX_TIMEOUT_MS);
	p->serial = ++last_serial;
	p->used = true;
	n_probes++;
	return p;
}

/* The rows of the query that has just run, as frames for the sender. */
static void
queue_probes(void)
{
	SPITupleTable *table = SPI_tuptable;
	uint64 n = SPI_processed;

	for (uint64 i = 0; i < n; i++)
	{
		HeapTuple row = table->vals[i];
		Probe *p = new_probe(row, table->tupdesc);
		MonRequest request = {0};
		StringInfoData frame;
		char tail[2];
		char *error = NULL;
		bool isnull;

		if (!make_request(row, table->tupdesc, &request, &error))
		{
			refuse(p, error);
			continue;
		}
		initStringInfo(&frame);
		mon_frame_begin(&frame, SENDER_PROBE, (uint64) p->serial << 32 | (p - probes),
						Min(CONNECT_MS, p->total_ms), p->total_ms);
		mon_frame_request(&frame, &request);
		tail[0] = SPI_getvalue(row, table->tupdesc, SORT)[0];
		tail[1] = (char) DatumGetInt32(SPI_getbinval(row, table->tupdesc, REDIRECTS, &isnull));
		appendBinaryStringInfo(&frame, tail, 2);
		if (frame.len > SENDER_MAX_FRAME)
			refuse(p, "the request is too long");
		else
		{
			mon_frame_u32(mon_link_frames(), frame.len);
			appendBinaryStringInfo(mon_link_frames(), frame.data, frame.len);
		}
		pfree(frame.data);
	}
}

/* ---- transactions ---- */

typedef struct Step
{
	uint32 serial;  /* answers up to this one are dealt with */
	double next_in; /* seconds until the next check is due; negative: there is none */
} Step;

static void
answer_probes(TimestampTz at)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {JSONBOID, TIMESTAMPTZOID};
	Datum args[2];
	StringInfoData answers;

	if (n_answered == 0)
		return;
	initStringInfo(&answers);
	for (int i = 0; i < MAX_PROBES; i++)
	{
		Probe *p = &probes[i];

		if (!p->answered)
			continue;
		appendStringInfoString(&answers, answers.len == 0 ? "[" : ",");
		appendStringInfoString(&answers, "{\"check\":");
		escape_json(&answers, p->check);
		appendStringInfo(&answers, ",\"began\":\"%s\",\"state\":%s,\"answer\":%s}",
						 timestamptz_to_str(p->began), p->state ? p->state : "null", p->answer);
	}
	appendStringInfoChar(&answers, ']');
	args[0] = DirectFunctionCall1(jsonb_in, CStringGetDatum(answers.data));
	args[1] = TimestampTzGetDatum(at);
	mon_step_execute(&plan, "SELECT * FROM monitoring.answer_probes($1, $2)", 2, types, args,
					 SPI_OK_SELECT);
	queue_probes();
}

/* Take answers, record results, begin what is due. */
static void
step_body(TimestampTz at, void *arg)
{
	static SPIPlanPtr begin_plan = NULL, next_plan = NULL;
	Oid types[2] = {TIMESTAMPTZOID, INT4OID};
	Datum args[2] = {TimestampTzGetDatum(at)};
	Step *step = arg;
	bool isnull;

	answer_probes(at);
	if (mon_link_ready() && n_probes < MAX_PROBES)
	{
		args[1] = Int32GetDatum(MAX_PROBES - n_probes);
		mon_step_execute(&begin_plan, "SELECT * FROM monitoring.begin_probes($1, $2)", 2, types,
						 args, SPI_OK_SELECT);
		queue_probes();
	}
	mon_step_execute(&next_plan, "SELECT monitoring.next_probe_in($1)", 1, types, args,
					 SPI_OK_SELECT);
	step->next_in = DatumGetFloat8(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (isnull)
		step->next_in = -1;
}

/* A transaction that fails keeps the answers, and nothing of what it began goes out. */
static StepResult
database_step(Step *step)
{
	static int failures = 0;
	int queued = mon_link_frames()->len;
	StepResult result;

	step->serial = last_serial;
	result = mon_step("running health checks", step_body, step);
	if (result == STEP_DONE)
	{
		for (int i = 0; i < MAX_PROBES; i++)
			if (probes[i].answered && (int32) (probes[i].serial - step->serial) <= 0)
				forget_probe(&probes[i]);
		failures = 0;
	}
	settle_probes(step->serial, result == STEP_DONE);
	if (result != STEP_DONE)
		mon_link_frames()->len = queued;
	if (result == STEP_FAILED)
	{
		next_step = mon_now_ms() + mon_backoff_ms(failures);
		if (failures++ >= MAX_FAILURES)
			proc_exit(1);
	}
	return result;
}

/* ---- the worker ---- */

/* When to look again, if no answer comes and nobody wakes us before. */
static int64
look_in_ms(const Step *step)
{
	if (!mon_link_ready() || step->next_in < 0)
		return POLL_MS;
	return Min(Max((int64) (step->next_in * 1000) + 1, POLL_MS), MAX_SLEEP_MS);
}

static void
probe(void)
{
	Step step = {0, 0};
	int64 next_look = 0;

	while (!ShutdownRequestPending)
	{
		StepResult result = STEP_DONE;
		bool woken = MyLatch->is_set;
		int64 now;

		mon_step_signals();
		if (mon_link_tend() || woken || n_answered > 0)
			next_look = 0;
		now = mon_now_ms();
		if (now >= next_step && now >= next_look)
		{
			result = database_step(&step);
			if (result == STEP_GONE)
				return;
			if (result == STEP_DONE && mon_link_ready())
				mon_companion_healthy();
			next_look = mon_now_ms() + look_in_ms(&step);
			mon_link_write();
			if (result == STEP_DONE && n_probes == 0 &&
				(step.next_in < 0 || step.next_in > MAX_IDLE_S))
				return;
		}
		now = mon_now_ms();
		if (result == STEP_BUSY)
			mon_link_wait(BUSY_MS);
		else if (n_probes > 0) /* a sender that is stuck is to be noticed */
			mon_link_wait(Min(Max(Max(next_look, next_step) - now, 1), POLL_MS));
		else
			mon_link_wait(Max(Max(next_look, next_step) - now, 1));
	}
}

void
mon_prober_main(Datum arg)
{
	Oid dboid = DatumGetObjectId(arg);
	MemoryContext context;

	mon_worker_unblock_signals(die);

	if (!mon_companion_claim(&prober_sort, dboid) || mon_worker_kept_out(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	context = AllocSetContextCreate(TopMemoryContext, "monitoring prober", ALLOCSET_DEFAULT_SIZES);
	mon_step_init(context);
	MemoryContextSwitchTo(context);
	mon_link_init(&link_user);

	probe();

	/* One that never got a sender is not to be followed by the next at once. */
	proc_exit(mon_link_ready() || ShutdownRequestPending ? 0 : 1);
}
