/*-------------------------------------------------------------------------
 *
 * notifier.c
 *	  The notifier: a background worker that delivers a database's outbox.
 *
 * It claims due rows with a lease and commits, hands the requests to the
 * sender program (link.c), and records the outcomes in batches.  No transaction
 * is open while anything is sent.  A transaction that fails loses no outcome: it
 * is tried again.  What is claimed when the worker or the sender dies is sent
 * again, with the same idempotency key; a worker that is told to go waits a
 * moment for answers, so that this stays rare.
 *
 * What needs no sender (local.c) is done in the transaction that records it, a
 * call of a function in one of its own; the sender and the outbox are looked
 * after between any two of these.  It does not wait for a sender that is missing.
 *
 * Rows of the outbox that somebody has locked are not waited for: what became
 * of them is kept, and recorded when they are free.
 *
 * Everything here is local to the process; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/notifier.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "worker/worker.h"

#define IDLE_EXIT_MS 10000
#define POLL_MS 1000          /* how often to look for due rows while there is no other reason to */
#define FORMAT_BUDGET_MS 2000 /* what one transaction may spend on formatting */
#define LOCAL_BUDGET_MS 50    /* after that long, see to the others first */
#define LAST_ANSWERS_MS 1000  /* how long to wait for answers when told to go */
#define BUSY_MS 100           /* somebody alters the extension: look again after that */
#define REPLAN_MIN 64
#define REPLAN_MAX 8192
#define MAX_STEP_FAILURES 20 /* then a new process tries */
#define MAX_PER_RECEIVER 64  /* of one that answers; see receiver_allowances() */

static int64 next_step = 0;            /* no transaction before this, as the last one failed */
static bool claim_now = false;         /* do not wait for the next look at the outbox */
static StringInfoData locked_outcomes; /* as mon_outcomes, to be tried again with the next look */

/* ---- database ---- */

/* Move outcomes to the end of others. */
static void
move_outcomes(StringInfo to, StringInfo from)
{
	if (from->len == 0)
		return;
	if (to->len > 0)
		from->data[0] = ',';
	appendBinaryStringInfo(to, from->data, from->len);
	resetStringInfo(from);
}

/* Append the outcomes that the statement just executed returns: a JSON array, or null. */
static void
keep_returned(StringInfo to)
{
	char *array = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

	if (array == NULL)
		return;
	appendStringInfoChar(to, to->len == 0 ? '[' : ',');
	appendBinaryStringInfo(to, array + 1, strlen(array) - 2);
}

/* Record outcomes; *locked gets those of notifications that somebody has locked. */
static void
record_outcomes(TimestampTz at, StringInfo from, StringInfo locked)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {TIMESTAMPTZOID, JSONBOID};
	Datum args[2];

	if (from->len == 0)
		return;
	args[0] = TimestampTzGetDatum(at);
	args[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf("%s]", from->data)));
	mon_step_execute(&plan, "SELECT monitoring.notify_record($1, $2)", 2, types, args,
					 SPI_OK_SELECT);
	keep_returned(locked);
}

static void
release_claims(TimestampTz at, StringInfo locked)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {TIMESTAMPTZOID};
	Datum args[1] = {TimestampTzGetDatum(at)};

	mon_step_execute(&plan, "SELECT monitoring.notify_release($1)", 1, types, args, SPI_OK_SELECT);
	keep_returned(locked);
}

static bool
has_work(TimestampTz at)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {TIMESTAMPTZOID};
	Datum args[1] = {TimestampTzGetDatum(at)};
	bool isnull;

	mon_step_execute(&plan, "SELECT monitoring.notify_has_work($1)", 1, types, args, SPI_OK_SELECT);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

static uint32
column_ms(HeapTuple row, TupleDesc desc, int column)
{
	bool isnull;
	double ms = DatumGetFloat8(SPI_getbinval(row, desc, column, &isnull)) * 1000;

	return (uint32) Min(Max(ms, 1), SENDER_MAX_TIMEOUT_MS);
}

/* Append the request of one claimed row to what the sender gets, or to `unsent` why there is none. */
static void
queue_request(HeapTuple row, TupleDesc desc, bool in_time, StringInfo unsent)
{
	InFlight *f = mon_entry_new();
	uint32 entry = f - mon_in_flight;
	MonRequestSource source = {0};
	MonRequest request;
	StringInfoData frame;
	bool no_function, isnull;
	Datum function;
	char *error;

	f->created_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 1, &isnull));
	f->id = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
	f->attempt = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
	f->total_ms = column_ms(row, desc, 9);
	if (!in_time)
	{
		mon_outcome_add(unsent, f, "postponed", "formatters of other notifications took too long");
		return;
	}

	function = SPI_getbinval(row, desc, 4, &no_function);
	source.function = no_function ? InvalidOid : DatumGetObjectId(function);
	source.owner = NameStr(*DatumGetName(SPI_getbinval(row, desc, 5, &isnull)));
	source.receiver = DatumGetJsonbP(SPI_getbinval(row, desc, 6, &isnull));
	source.notification = SPI_getbinval(row, desc, 7, &isnull);
	source.receiver_owner = NameStr(*DatumGetName(SPI_getbinval(row, desc, 10, &isnull)));
	source.connect_ms = column_ms(row, desc, 8);
	source.total_ms = f->total_ms;
	switch (mon_request_make(&source, &request, &error))
	{
		case MON_REQUEST_NOTHING:
			mon_outcome_add(unsent, f, "nothing", "");
			return;
		case MON_REQUEST_LATER:
			mon_outcome_add(unsent, f, "unformatted", error);
			return;
		case MON_REQUEST_FAILED:
			mon_outcome_add(unsent, f, "unformattable", error);
			return;
		case MON_REQUEST_MADE:
			break;
	}

	f->local = mon_local_make(&request, SPI_getvalue(row, desc, 11), source.receiver_owner,
							  source.total_ms);
	if (f->local)
	{
		mon_entry_use(f);
		return;
	}
	if (!mon_link_ready())
	{
		mon_outcome_add(unsent, f, "postponed", "the sender is not ready");
		return;
	}

	initStringInfo(&frame);
	if (mon_request_frame(&source, &request, (uint64) f->serial << 32 | entry, &frame))
	{
		mon_frame_u32(mon_link_frames(), frame.len);
		appendBinaryStringInfo(mon_link_frames(), frame.data, frame.len);
		mon_entry_use(f);
	}
	else
		mon_outcome_add(unsent, f, "refused", "monitoring.allowed_hosts is too long");
	pfree(frame.data);
}

/*
 * Claim due rows and queue their requests; they are written after the commit.
 * While there is no sender, what needs none is not to wait for it.
 */
static int
claim(TimestampTz at, int max_rows, StringInfo unsent)
{
	static SPIPlanPtr plan = NULL;
	Oid types[4] = {TIMESTAMPTZOID, INT4OID, INT4OID, BOOLOID};
	Datum args[4] = {TimestampTzGetDatum(at), Int32GetDatum(max_rows),
					 Int32GetDatum(MAX_PER_RECEIVER), BoolGetDatum(mon_link_ready())};
	SPITupleTable *table;
	uint64 n;
	int64 format_until;

	mon_step_execute(&plan, "SELECT * FROM monitoring.notify_claim($1, $2, $3, $4)", 4, types, args,
					 SPI_OK_SELECT);
	table = SPI_tuptable;
	n = SPI_processed;

	/* Each formatter has a timeout of its own. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	format_until = mon_now_ms() + FORMAT_BUDGET_MS;
	for (uint64 i = 0; i < n; i++)
	{
		/* A formatter may have swallowed the cancel. */
		if (ShutdownRequestPending)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED), errmsg("the notifier was told to end")));
		CHECK_FOR_INTERRUPTS();
		queue_request(table->vals[i], table->tupdesc, mon_now_ms() < format_until, unsent);
	}
	enable_timeout_after(STATEMENT_TIMEOUT, MON_STEP_TIMEOUT_MS);
	return (int) n;
}

typedef struct Step
{
	bool first;
	int max_rows;
	int claimed;
	bool waiting;          /* there is work for a sender, which is not there */
	StringInfoData locked; /* outcomes that could not be recorded */
} Step;

/* Record outcomes, claim rows. */
static void
step_body(TimestampTz at, void *arg)
{
	Step *step = arg;
	StringInfoData unsent;

	initStringInfo(&unsent);
	if (step->first)
		release_claims(at, &step->locked);
	record_outcomes(at, &mon_outcomes, &step->locked);
	if (step->max_rows > 0)
		step->claimed = claim(at, step->max_rows, &unsent);
	record_outcomes(at, &unsent, &step->locked);
	step->waiting = !mon_link_ready() && has_work(at);
}

static StepResult
transaction(void (*body)(TimestampTz at, void *arg), void *arg)
{
	static int failures = 0;
	StepResult result = mon_step("delivering notifications", body, arg);

	if (result != STEP_FAILED)
		failures = 0;
	else
	{
		next_step = mon_now_ms() + mon_backoff_ms(failures);
		if (failures++ >= MAX_STEP_FAILURES && !mon_emergency_armed())
			proc_exit(1);
	}
	return result;
}

/*
 * The outbox is empty most of the time.  A plan made then would be kept for a
 * burst of thousands, as nothing but ANALYZE would end it, and that comes later.
 * So plans are made anew whenever twice as much has been claimed with them.
 */
static void
forget_old_plans(int claimed)
{
	static int64 used = 0;
	static int64 limit = REPLAN_MIN;

	used += claimed;
	if (claimed == 0 && mon_n_in_flight == 0)
		limit = REPLAN_MIN;
	if (used < limit)
		return;
	ResetPlanCache();
	used = 0;
	limit = Min(2 * limit, REPLAN_MAX);
}

/*
 * One that fails keeps the outcomes, and nothing of what it claimed goes out.
 * True in *worked if there was something to do, or is for a sender to come.
 */
static StepResult
database_step(bool first, int max_rows, bool *worked)
{
	Step step = {.first = first, .max_rows = max_rows};
	uint32 serial = mon_last_serial();
	int queued = mon_link_frames()->len;
	bool recorded = mon_outcomes.len > 0;
	StepResult result;

	initStringInfo(&step.locked);
	result = transaction(step_body, &step);
	if (result == STEP_DONE)
	{
		resetStringInfo(&mon_outcomes);
		move_outcomes(&locked_outcomes, &step.locked);
	}
	mon_entries_settle(serial, result != STEP_FAILED);
	if (result == STEP_FAILED)
	{
		mon_link_frames()->len = queued;
		step.claimed = 0;
	}
	forget_old_plans(step.claimed);
	*worked = recorded || step.claimed > 0 || step.waiting;
	return result;
}

/* ---- deliveries without the sender ---- */

typedef struct LocalStep
{
	InFlight *entry; /* a call; NULL: NOTIFY for all there are */
} LocalStep;

/* Deliver an entry that is still ours: its lease may have ended, its receiver may be gone. */
static void
deliver_entry(TimestampTz at, InFlight *f, StringInfo to)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {TIMESTAMPTZOID, INT8OID, INT4OID};
	Datum args[3] = {TimestampTzGetDatum(f->created_at), Int64GetDatum(f->id),
					 Int32GetDatum(f->attempt)};
	TimestampTz began;
	const char *outcome;
	char *error;
	bool isnull;

	mon_step_execute(&plan, "SELECT monitoring.notify_hold($1, $2, $3)", 3, types, args,
					 SPI_OK_SELECT);
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
		return;

	/* It has a timeout of its own. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	began = GetCurrentTimestamp();
	outcome = mon_local_deliver(f->local, &error);
	/* A function may have swallowed the cancel. */
	if (ShutdownRequestPending)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the notifier was told to end")));
	enable_timeout_after(STATEMENT_TIMEOUT, MON_STEP_TIMEOUT_MS);
	mon_outcome_local(to, f, outcome, error, Max(GetCurrentTimestamp() - began, 0) / 1e6);
}

static void
local_body(TimestampTz at, void *arg)
{
	LocalStep *step = arg;
	StringInfoData done, locked;

	initStringInfo(&done);
	initStringInfo(&locked);
	if (step->entry)
		deliver_entry(at, step->entry, &done);
	else
		for (int i = 0; i < MAX_IN_FLIGHT; i++)
			if (mon_in_flight[i].local && !mon_in_flight[i].local->sql)
				deliver_entry(at, &mon_in_flight[i], &done);
	/* They are held: none of them can be locked. */
	record_outcomes(GetCurrentTimestamp(), &done, &locked);
}

/* Try later what waits behind a call that hung. */
static void
postpone_others(const InFlight *hung)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &mon_in_flight[i];

		if (f == hung || !f->local || strcmp(f->local->receiver, hung->local->receiver) != 0)
			continue;
		mon_outcome_add(&mon_outcomes, f, "postponed",
						"another call of the function took too long");
		mon_entry_clear(f);
	}
}

/* A transaction that fails did nothing: its deliveries are tried later, without a fault of theirs. */
static void
deliver_and_record(LocalStep *step)
{
	StepResult result = transaction(local_body, step);

	if (result == STEP_BUSY)
		next_step = mon_now_ms() + BUSY_MS;
	if (result == STEP_BUSY || ShutdownRequestPending)
		return;
	if (step->entry && step->entry->local->hung)
		postpone_others(step->entry);
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &mon_in_flight[i];

		if (!f->local || (step->entry ? f != step->entry : f->local->sql))
			continue;
		if (result == STEP_FAILED)
			mon_outcome_add(&mon_outcomes, f, "postponed",
							"the transaction of the delivery failed; see the server's log");
		mon_entry_clear(f);
	}
}

/* The oldest call, or NOTIFY if that is all there is to do; false if there is nothing. */
static bool
next_local(LocalStep *step)
{
	step->entry = NULL;
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &mon_in_flight[i];

		if (f->local && !f->local->sql)
		{
			step->entry = NULL;
			return true;
		}
		if (f->local && (!step->entry || (int32) (f->serial - step->entry->serial) < 0))
			step->entry = f;
	}
	return step->entry != NULL;
}

/* For a while, or for one call that takes longer. */
static void
deliver_local(void)
{
	int64 until = mon_now_ms() + LOCAL_BUDGET_MS;
	LocalStep step;

	while (mon_now_ms() < until && mon_now_ms() >= next_step && !ShutdownRequestPending &&
		   next_local(&step))
		deliver_and_record(&step);
}

/* Told to go: what is left is for the next notifier. */
static void
leave_local(void)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
		if (mon_in_flight[i].local)
		{
			mon_outcome_add(&mon_outcomes, &mon_in_flight[i], "postponed",
							"the notifier was told to end");
			mon_entry_clear(&mon_in_flight[i]);
		}
}

/* ---- the worker ---- */

/* Until told to go, until there was nothing to do for a while, or until the extension is gone. */
static void
deliver(void)
{
	int64 last_work = mon_now_ms();
	int64 next_claim = 0;
	bool first = true;

	while (!ShutdownRequestPending)
	{
		StepResult result = STEP_DONE;
		bool worked;
		bool woken = MyLatch->is_set;
		long timeout = POLL_MS;

		mon_step_signals();
		if (mon_link_tend())
			claim_now = true;
		mon_emergency_tend();

		if (mon_now_ms() >= next_step &&
			(mon_outcomes.len > 0 || first || woken || claim_now || mon_now_ms() >= next_claim))
		{
			if (mon_now_ms() >= next_claim)
				move_outcomes(&mon_outcomes, &locked_outcomes);
			result = database_step(first, MAX_IN_FLIGHT - mon_n_in_flight, &worked);
			if (result == STEP_GONE)
				return;
			if (result == STEP_DONE)
			{
				first = false;
				claim_now = false;
				next_claim = mon_now_ms() + POLL_MS;
				mon_companion_healthy();
				if (worked)
					last_work = mon_now_ms();
				mon_link_write();
			}
		}
		if (mon_n_local > 0)
		{
			deliver_local();
			last_work = mon_now_ms();
		}

		if (mon_n_in_flight == 0 && mon_outcomes.len == 0 && locked_outcomes.len == 0 &&
			mon_now_ms() - last_work > IDLE_EXIT_MS && !mon_emergency_armed())
			return;
		if (result == STEP_BUSY)
			timeout = BUSY_MS;
		else if ((mon_n_local > 0 || mon_outcomes.len > 0) && mon_now_ms() >= next_step)
			timeout = 0;
		else if (mon_now_ms() < next_step)
			timeout = Min(timeout, next_step - mon_now_ms());
		mon_link_wait(timeout);
	}
}

/* Told to go: wait a moment for what is under way, and record what came. */
static void
take_last_answers(void)
{
	int64 until = mon_now_ms() + LAST_ANSWERS_MS;
	bool worked;

	leave_local();
	while (mon_n_in_flight > 0 && mon_link_running() && mon_now_ms() < until)
	{
		mon_step_signals();
		(void) mon_link_tend();
		if (mon_n_in_flight > 0)
			mon_link_wait(until - mon_now_ms());
	}
	move_outcomes(&mon_outcomes, &locked_outcomes);
	if (mon_outcomes.len > 0)
		(void) database_step(false, 0, &worked);
}

void
mon_notifier_main(Datum arg)
{
	Oid dboid = DatumGetObjectId(arg);
	MemoryContext context;

	mon_worker_unblock_signals(die);

	if (!mon_companion_claim(&mon_notifier_sort, dboid) || mon_worker_kept_out(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	context = AllocSetContextCreate(TopMemoryContext, "monitoring notifier",
									ALLOCSET_DEFAULT_SIZES);
	mon_step_init(context);
	MemoryContextSwitchTo(context);
	mon_link_init(&mon_notifier_link);
	initStringInfo(&mon_outcomes);
	initStringInfo(&locked_outcomes);

	deliver();
	if (ShutdownRequestPending)
		take_last_answers();
	proc_exit(0);
}
