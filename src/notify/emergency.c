/*-------------------------------------------------------------------------
 *
 * emergency.c
 *	  Word that the database cannot write, from the notifier's memory.
 *
 * A full disk, a database that is read-only, or transaction ids that run out
 * keep alerts from the outbox.  So while all is well the notifier of a
 * database that has receivers for emergencies makes messages for each of them
 * and each cause, with their secrets, and keeps them in its own memory.  It
 * tries to write every few seconds.  When that fails it sends the messages,
 * once per monitoring.emergency_interval, and when it works again, their end.
 * For that it needs no more than its sender, which runs already.
 *
 * Whether writing works is tried by a row for the outbox that is rolled back,
 * and told by the jobs of the database worker, which write elsewhere; how much
 * room is left on the volumes is asked of the operating system.
 *
 * All of this is the notifier's own; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/notifier.h"

#include <sys/statvfs.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "worker/worker.h"

#define CHECK_MS 10000 /* how often writing is tried, or a fifth of the interval */
#define CHECK_TIMEOUT_MS 2000
#define RENEW_MS 60000       /* messages are made anew, with their time and what is in files */
#define RENEW_BUDGET_MS 2000 /* what that may take */
#define FIRST_RETRY_MS 1000
#define MAX_RETRY_AFTER_MS 3600000 /* more than that is not waited for */
#define ANSWER_PATIENCE_MS 15000   /* on top of all the request may take */
#define DOUBTFUL_CHECKS 3          /* failures of unknown cause, in a row, until one is believed */
#define SOUND_CHECKS 2             /* successes until the end is believed */
#define END_PATIENCE_MS 3600000    /* how long the end is tried to be told */
#define MAX_TARGETS 64
#define MAX_NAME 64 /* of a cause */

typedef struct Message
{
	char *cause;
	char *sqlstates;         /* errors that have this cause, with blanks between them */
	MonRequestSource source; /* its timeouts */
	MonRequest *request;
} Message;

typedef struct Target
{
	char *receiver;
	List *messages;  /* of Message, the gravest cause first */
	Message *ending; /* says that it is over */
	int64 next_at;   /* PG_INT64_MAX: never again */
	bool under_way;
	uint32 serial;
	int64 deadline; /* the sender is stuck if it has not answered by then */
	int tries;      /* failures in a row */
	int delivered;
	int failed;
	char error[SENDER_MAX_ERROR];
} Target;

typedef enum Phase
{
	WELL,
	EMERGENCY,
	ENDING /* the end of one is being told */
} Phase;

/* What a look at the database found. */
typedef struct Finding
{
	bool busy;              /* somebody alters the extension: nothing is known */
	char version[MAX_NAME]; /* of those who are to be told; empty: nobody */
	char cause[MAX_NAME];   /* empty: none */
	char reason[SENDER_MAX_ERROR];
} Finding;

static MemoryContext messages_cxt = NULL;
static Target *targets = NULL; /* in messages_cxt, as all that they have */
static int n_targets = 0;
static char key[MON_KEY_LEN + 1];   /* stands for the idempotency key in all messages */
static char version[MAX_NAME] = ""; /* of the receivers that they are for */
static int64 renewed_at = 0;

static Phase phase = WELL;
static bool armed = false; /* there is somebody to tell */
static int64 next_check = 0;
static int doubtful = 0;
static int sound = 0;
static TimestampTz since;
static TimestampTz until;
static int64 end_patience;
static Finding trouble; /* of this emergency */
static uint32 last_serial = 0;

/* ---- transactions ---- */

/*
 * Run body(arg) in a transaction, which is rolled back unless it is to be kept.
 * False, with cause and reason of *finding, if there was an error.
 */
static bool
in_transaction(void (*body)(void *arg), void *arg, bool keep, Finding *finding)
{
	MemoryContext cxt = CurrentMemoryContext;
	ErrorData *volatile error = NULL;

	QueryCancelPending = false;
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		enable_timeout_after(STATEMENT_TIMEOUT, CHECK_TIMEOUT_MS);
		finding->busy = !mon_hold_extension();
		if (!finding->busy)
		{
			SPI_connect();
			PushActiveSnapshot(GetTransactionSnapshot());
			body(arg);
			PopActiveSnapshot();
			SPI_finish();
		}
		disable_timeout(STATEMENT_TIMEOUT, false);
		if (keep)
			CommitTransactionCommand();
		else
			AbortCurrentTransaction();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);

	if (error == NULL)
		return true;
	strlcpy(finding->cause, unpack_sql_state(error->sqlerrcode), sizeof(finding->cause));
	snprintf(finding->reason, sizeof(finding->reason), "%.*s",
			 pg_mbcliplen(error->message, strlen(error->message), sizeof(finding->reason) - 1),
			 error->message);
	return false;
}

/* ---- messages ---- */

static void
make_key(char *to)
{
	uint8 r[16];

	if (!pg_strong_random(r, sizeof(r)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random bytes")));
	snprintf(to, MON_KEY_LEN + 1,
			 "%02x%02x%02x%02x-%02x%02x-4%01x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0], r[1],
			 r[2], r[3], r[4], r[5], r[6] & 0xf, r[7], (r[8] & 0x3f) | 0x80, r[9], r[10], r[11],
			 r[12], r[13], r[14], r[15]);
}

static List *
copy_pairs(const List *pairs)
{
	List *copy = NIL;
	ListCell *cell;

	foreach (cell, pairs)
	{
		MonPair *from = lfirst(cell);
		MonPair *to = palloc(sizeof(MonPair));

		to->name = pstrdup(from->name);
		to->value = pstrdup(from->value);
		copy = lappend(copy, to);
	}
	return copy;
}

static MonRequest *
copy_request(const MonRequest *from)
{
	MonRequest *to = palloc0(sizeof(MonRequest));

	to->method = pstrdup(from->method);
	to->url = pstrdup(from->url);
	to->body = pstrdup(from->body);
	to->headers = copy_pairs(from->headers);
	to->options = copy_pairs(from->options);
	return to;
}

static Target *
find_target(Target *among, int n, const char *receiver)
{
	for (int i = 0; i < n; i++)
		if (strcmp(among[i].receiver, receiver) == 0)
			return &among[i];
	return NULL;
}

/* What is to be made, and where it goes. */
typedef struct Making
{
	MemoryContext cxt;
	Target *targets;
	int n;
	const char *key; /* stands for the idempotency key in them */
	bool ending;     /* the message of the end, for those who know of the beginning */
	bool quiet;      /* do not log again what cannot be made */
	char *told_of;   /* the receiver that was logged last */
} Making;

/* Once for each receiver: they come one after the other. */
static bool
is_news(Making *making, const char *receiver)
{
	bool news = !making->quiet &&
		(making->told_of == NULL || strcmp(making->told_of, receiver) != 0);

	if (news)
		making->told_of = pstrdup(receiver);
	return news;
}

static uint32
column_ms(HeapTuple row, TupleDesc desc, int column)
{
	bool isnull;
	double ms = DatumGetFloat8(SPI_getbinval(row, desc, column, &isnull)) * 1000;

	return (uint32) Min(Max(ms, 1), SENDER_MAX_TIMEOUT_MS);
}

/* One row of emergency_messages(): format it, and keep the request. */
static void
make_message(Making *making, HeapTuple row, TupleDesc desc)
{
	char *receiver = SPI_getvalue(row, desc, 1);
	Target *target = find_target(making->targets, making->n, receiver);
	MonRequestSource source = {0};
	MonRequest request;
	MemoryContext old;
	Message *message;
	Datum function;
	bool isnull;
	char *error = "it is not sent by the sender";

	if (making->ending && (target == NULL || target->delivered == 0))
		return;
	if (target == NULL && making->n >= MAX_TARGETS)
	{
		if (!making->quiet)
			ereport(LOG,
					(errmsg("monitoring can tell no more than %d receivers of emergencies",
							MAX_TARGETS)));
		making->quiet = true;
		return;
	}
	function = SPI_getbinval(row, desc, 4, &isnull);
	source.function = isnull ? InvalidOid : DatumGetObjectId(function);
	source.owner = NameStr(*DatumGetName(SPI_getbinval(row, desc, 5, &isnull)));
	source.receiver = DatumGetJsonbP(SPI_getbinval(row, desc, 6, &isnull));
	source.notification = SPI_getbinval(row, desc, 7, &isnull);
	source.connect_ms = column_ms(row, desc, 8);
	source.total_ms = column_ms(row, desc, 9);
	if (mon_request_make(&source, &request, &error) != MON_REQUEST_MADE ||
		strcmp(request.method, "NOTIFY") == 0 || strcmp(request.method, "SQL") == 0)
	{
		if (is_news(making, receiver))
			ereport(LOG,
					(errmsg("monitoring could not make the message about emergencies for "
							"receiver \"%s\": %s",
							receiver, error)));
		return;
	}

	old = MemoryContextSwitchTo(making->cxt);
	if (target == NULL)
	{
		target = &making->targets[making->n++];
		target->receiver = pstrdup(receiver);
	}
	message = palloc0(sizeof(Message));
	message->cause = pstrdup(SPI_getvalue(row, desc, 2));
	message->sqlstates = pstrdup(SPI_getvalue(row, desc, 3));
	message->source.connect_ms = source.connect_ms;
	message->source.total_ms = source.total_ms;
	message->request = copy_request(&request);
	if (making->ending)
		target->ending = message;
	else
		target->messages = lappend(target->messages, message);
	MemoryContextSwitchTo(old);
}

static void
make_messages(void *arg)
{
	Making *making = arg;
	Oid types[4] = {TIMESTAMPTZOID, TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum args[4] = {TimestampTzGetDatum(GetCurrentTimestamp()), CStringGetTextDatum(making->key),
					 0, 0};
	char nulls[5] = "  nn";
	SPITupleTable *table;
	uint64 n, made;
	int64 budget;

	if (making->ending)
	{
		args[0] = TimestampTzGetDatum(until);
		args[2] = CStringGetTextDatum(trouble.cause);
		args[3] = TimestampTzGetDatum(since);
		nulls[2] = nulls[3] = ' ';
	}
	if (SPI_execute_with_args("SELECT * FROM monitoring.emergency_messages($1, $2, $3, $4)", 4,
							  types, args, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the messages about emergencies");
	table = SPI_tuptable;
	n = SPI_processed;

	/* Each formatter has a timeout of its own. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	budget = mon_now_ms() + RENEW_BUDGET_MS;
	for (made = 0; made < n && mon_now_ms() < budget && !ShutdownRequestPending; made++)
		make_message(making, table->vals[made], table->tupdesc);
	if (made < n && !making->quiet && !ShutdownRequestPending)
		ereport(
			LOG,
			(errmsg("monitoring made only " UINT64_FORMAT " of " UINT64_FORMAT
					" messages about emergencies within %d s",
					made, n, RENEW_BUDGET_MS / 1000),
			 errdetail("From receiver \"%s\" on there are none.",
					   SPI_getvalue(table->vals[made], table->tupdesc, 1)),
			 errhint("A formatter takes long, or there are too many receivers for emergencies.")));
}

/* Make the messages for all causes; what there was is kept if that fails. */
static void
renew(const char *new_version)
{
	static bool failed = false;
	char new_key[MON_KEY_LEN + 1];
	Making making = {.key = new_key};
	Finding finding = {0};
	MemoryContext old;

	making.cxt = AllocSetContextCreate(TopMemoryContext, "monitoring emergency messages",
									   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(making.cxt);
	making.targets = palloc0(MAX_TARGETS * sizeof(Target));
	MemoryContextSwitchTo(old);
	making.quiet = strcmp(version, new_version) == 0;
	renewed_at = mon_now_ms();
	make_key(new_key);
	if (!in_transaction(make_messages, &making, false, &finding) || finding.busy)
	{
		if (!finding.busy && !failed)
			ereport(LOG,
					(errmsg("monitoring could not make the messages about emergencies: %s",
							finding.reason)));
		failed = !finding.busy;
		MemoryContextDelete(making.cxt);
		return;
	}
	failed = false;
	if (messages_cxt)
		MemoryContextDelete(messages_cxt);
	messages_cxt = making.cxt;
	targets = making.targets;
	n_targets = making.n;
	strlcpy(key, new_key, sizeof(key));
	strlcpy(version, new_version, sizeof(version));
}

/* ---- is it one? ---- */

static void
look_at_database(void *arg)
{
	Finding *finding = arg;
	Oid types[1] = {TIMESTAMPTZOID};
	Datum args[1] = {TimestampTzGetDatum(GetCurrentTimestamp())};
	char *text;

	if (SPI_execute_with_args(
			"SELECT w.version, w.cause, w.error FROM monitoring.check_writing($1) AS w", 1, types,
			args, NULL, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not try to write");
	if ((text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)) != NULL)
		strlcpy(finding->version, text, sizeof(finding->version));
	if ((text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2)) != NULL)
		strlcpy(finding->cause, text, sizeof(finding->cause));
	if ((text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3)) != NULL)
		strlcpy(finding->reason, text, sizeof(finding->reason));
}

/* The messages know which errors have which cause: any receiver's will do. */
static const char *
cause_of_error(const char *sqlstate)
{
	ListCell *cell;

	foreach (cell, n_targets > 0 ? targets[0].messages : NIL)
	{
		Message *message = lfirst(cell);

		if (strstr(message->sqlstates, sqlstate))
			return message->cause;
	}
	return "unwritable";
}

/* True, and noted in *finding, if there is less room on a volume than there should be. */
static bool
volume_is_full(const char *path, Finding *finding)
{
	struct statvfs fs;
	uint64 free_kb;

	if (statvfs(path, &fs) != 0)
		return false;
	free_kb = (uint64) fs.f_bavail * (fs.f_frsize / 512) / 2;
	if (free_kb >= (uint64) mon_min_free_disk)
		return false;
	strlcpy(finding->cause, "low_disk", sizeof(finding->cause));
	snprintf(finding->reason, sizeof(finding->reason),
			 UINT64_FORMAT " kB are free on the volume of %s", free_kb, path);
	return true;
}

static bool
a_volume_is_full(Finding *finding)
{
	DIR *dir;
	struct dirent *entry;
	bool full = volume_is_full(".", finding) || volume_is_full("pg_wal", finding);

	if (full || (dir = AllocateDir("pg_tblspc")) == NULL)
		return full;
	while (!full && (entry = ReadDirExtended(dir, "pg_tblspc", LOG)) != NULL)
	{
		char path[MAXPGPATH];

		snprintf(path, sizeof(path), "pg_tblspc/%s", entry->d_name);
		full = entry->d_name[0] != '.' && volume_is_full(path, finding);
	}
	FreeDir(dir);
	return full;
}

/* Try to write; what is wrong goes into *finding. */
static void
look(Finding *finding)
{
	int code;

	if (!in_transaction(look_at_database, finding, false, finding))
	{
		char sqlstate[6];

		strlcpy(sqlstate, finding->cause, sizeof(sqlstate));
		strlcpy(finding->version, version, sizeof(finding->version));
		if (n_targets == 0)
			renew("");
		strlcpy(finding->cause, cause_of_error(sqlstate), sizeof(finding->cause));
		return;
	}
	if (finding->busy || finding->cause[0] || !finding->version[0])
		return;
	if (a_volume_is_full(finding))
		return;
	if ((code = mon_worker_disk_error(MyDatabaseId)) != 0)
	{
		strlcpy(finding->cause, cause_of_error(unpack_sql_state(code)), sizeof(finding->cause));
		snprintf(finding->reason, sizeof(finding->reason),
				 "a job of the worker failed with SQLSTATE %s", unpack_sql_state(code));
	}
}

/* ---- beginning and end ---- */

/* Place of a cause among those of the messages: the gravest is 0. */
static int
gravity(const char *cause)
{
	int place = 0;
	ListCell *cell;

	foreach (cell, n_targets > 0 ? targets[0].messages : NIL)
	{
		if (strcmp(((Message *) lfirst(cell))->cause, cause) == 0)
			break;
		place++;
	}
	return place;
}

static void
begin_emergency(const Finding *finding, int64 now)
{
	if (phase == WELL)
		since = GetCurrentTimestamp();
	phase = EMERGENCY;
	trouble = *finding;
	for (int i = 0; i < n_targets; i++)
	{
		targets[i].next_at = now;
		targets[i].tries = 0;
	}
	ereport(LOG,
			(errmsg("monitoring found that the database cannot write: %s", trouble.reason),
			 errdetail("Receivers that are told from memory: %d.", n_targets)));
}

static void
end_emergency(int64 now)
{
	Finding finding = {0};
	Making making = {
		.cxt = messages_cxt, .targets = targets, .n = n_targets, .key = key, .ending = true};

	until = GetCurrentTimestamp();
	if (n_targets > 0 && (!in_transaction(make_messages, &making, false, &finding) || finding.busy))
		return; /* with the next look */
	phase = ENDING;
	end_patience = now + END_PATIENCE_MS;
	for (int i = 0; i < n_targets; i++)
	{
		targets[i].next_at = targets[i].delivered > 0 ? now : PG_INT64_MAX;
		targets[i].tries = 0;
	}
	ereport(LOG, (errmsg("monitoring found that the database can write again")));
}

static void
note_emergency(void *arg)
{
	Oid types[5] = {TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID};
	Datum args[5];
	StringInfoData told;

	initStringInfo(&told);
	appendStringInfoChar(&told, '[');
	for (int i = 0; i < n_targets; i++)
	{
		Target *t = &targets[i];

		appendStringInfoString(&told, i > 0 ? ",{\"receiver\":" : "{\"receiver\":");
		escape_json(&told, t->receiver);
		appendStringInfo(&told, ",\"delivered\":%d,\"failed\":%d", t->delivered, t->failed);
		if (t->error[0])
		{
			appendStringInfoString(&told, ",\"error\":");
			escape_json(&told, t->error);
		}
		appendStringInfoChar(&told, '}');
	}
	appendStringInfoChar(&told, ']');
	args[0] = TimestampTzGetDatum(since);
	args[1] = TimestampTzGetDatum(until);
	args[2] = CStringGetTextDatum(trouble.cause);
	args[3] = CStringGetTextDatum(trouble.reason);
	args[4] = DirectFunctionCall1(jsonb_in, CStringGetDatum(told.data));
	if (SPI_execute_with_args("SELECT monitoring.note_emergency($1, $2, $3, $4, $5)", 5, types,
							  args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not take down an emergency");
}

/* All have been told of the end, or it has been tried for long: take it down. */
static void
close_emergency(int64 now)
{
	Finding finding = {0};

	for (int i = 0; i < n_targets; i++)
		if (targets[i].under_way || (targets[i].next_at != PG_INT64_MAX && now < end_patience))
			return;
	if (in_transaction(note_emergency, NULL, true, &finding) && !finding.busy)
	{
		phase = WELL;
		renewed_at = 0;
	}
}

static void
check(int64 now)
{
	Finding finding = {0};

	look(&finding);
	if (finding.busy)
		return;
	armed = finding.version[0] || n_targets > 0;
	if (finding.cause[0])
	{
		sound = 0;
		if (strcmp(finding.cause, "unwritable") == 0 && phase == WELL &&
			++doubtful < DOUBTFUL_CHECKS)
			return;
		if (phase != EMERGENCY || gravity(finding.cause) < gravity(trouble.cause))
			begin_emergency(&finding, now);
		return;
	}
	doubtful = 0;
	sound++;
	if (phase == EMERGENCY && sound >= SOUND_CHECKS)
		end_emergency(now);
	if (phase == ENDING)
		close_emergency(now);
	if (phase == WELL && (strcmp(finding.version, version) != 0 || now - renewed_at >= RENEW_MS))
	{
		renew(finding.version);
		armed = n_targets > 0;
	}
}

/* ---- sending ---- */

/* Every message has a key of its own, of the same length as what stands for it. */
static void
replace_key(char *text, const char *new_key)
{
	for (char *at = strstr(text, key); at; at = strstr(at + MON_KEY_LEN, key))
		memcpy(at, new_key, MON_KEY_LEN);
}

/* What a target is to be told now. */
static Message *
message_for(const Target *target)
{
	Message *message = target->ending;
	ListCell *cell;

	if (phase == ENDING)
		return message;
	foreach (cell, target->messages)
	{
		message = lfirst(cell);
		if (strcmp(message->cause, trouble.cause) == 0)
			break;
	}
	return message;
}

static void
send_to(int index, int64 now, StringInfo out)
{
	Target *target = &targets[index];
	Message *message = message_for(target);
	MonRequest *request;
	char new_key[MON_KEY_LEN + 1];
	StringInfoData frame;
	ListCell *cell;

	if (message == NULL)
	{
		target->next_at = PG_INT64_MAX;
		return;
	}
	request = copy_request(message->request);
	make_key(new_key);
	foreach (cell, request->headers)
	{
		MonPair *header = lfirst(cell);

		replace_key(header->value, new_key);
	}
	if (strcmp(request->method, "SMTP") == 0)
		replace_key(request->body, new_key);

	initStringInfo(&frame);
	target->serial = ++last_serial;
	if (!mon_request_frame(&message->source, request,
						   (uint64) target->serial << 32 | (uint32) (MON_EMERGENCY_TAG + index),
						   &frame))
	{
		target->next_at = PG_INT64_MAX;
		return;
	}
	mon_frame_u32(out, frame.len);
	appendBinaryStringInfo(out, frame.data, frame.len);
	target->under_way = true;
	target->deadline = now + message->source.total_ms + SENDER_MAX_QUEUE_MS + ANSWER_PATIENCE_MS;
}

static void
delivery_failed(Target *target, const char *error, int64 retry_after_ms)
{
	int64 pause = Min((int64) FIRST_RETRY_MS << Min(target->tries, 20), mon_emergency_interval);

	if (target->tries++ == 0)
		ereport(LOG,
				(errmsg("monitoring could not tell receiver \"%s\" of an emergency: %s",
						target->receiver, error)));
	target->failed++;
	strlcpy(target->error, error, sizeof(target->error));
	target->next_at = mon_now_ms() + Max(pause, Min(retry_after_ms, MAX_RETRY_AFTER_MS));
}

bool
mon_emergency_outcome(const SenderOutcome *o)
{
	uint32 index = (uint32) o->tag - MON_EMERGENCY_TAG;
	Target *target = &targets[index];

	if (index >= (uint32) n_targets || !target->under_way ||
		target->serial != (uint32) (o->tag >> 32))
		return false;
	target->under_way = false;
	if (o->kind == SENDER_RESPONSE && o->error[0] == '\0' && o->status < 400)
	{
		target->delivered++;
		target->tries = 0;
		target->next_at = phase == ENDING ? PG_INT64_MAX : mon_now_ms() + mon_emergency_interval;
	}
	else if (o->kind == SENDER_NETWORK || o->status == 408 || o->status == 425 ||
			 o->status == 429 || o->status >= 500)
		delivery_failed(target, o->error, o->retry_after * 1000);
	else
		delivery_failed(target, o->error, mon_emergency_interval);
	return true;
}

void
mon_emergency_lost(void)
{
	for (int i = 0; i < n_targets; i++)
		if (targets[i].under_way)
		{
			targets[i].under_way = false;
			delivery_failed(&targets[i], "the sender ended before it answered", 0);
		}
}

bool
mon_emergency_stuck(void)
{
	for (int i = 0; i < n_targets; i++)
		if (targets[i].under_way && mon_now_ms() > targets[i].deadline)
			return true;
	return false;
}

bool
mon_emergency_armed(void)
{
	return armed || phase != WELL;
}

void
mon_emergency_tend(void)
{
	int64 now = mon_now_ms();

	if (now >= next_check)
	{
		check(now);
		next_check = mon_now_ms() + Max(Min(CHECK_MS, mon_emergency_interval / 5), 500);
	}
	if (phase == WELL || !mon_link_ready())
		return;
	for (int i = 0; i < n_targets; i++)
		if (!targets[i].under_way && now >= targets[i].next_at)
			send_to(i, now, mon_link_frames());
	mon_link_write();
}
