/*-------------------------------------------------------------------------
 *
 * database_worker.c
 *	  Runs the periodic jobs of one database: the rows of monitoring.jobs.
 *
 * Each job runs in a transaction of its own, as the row's owner and with its
 * own timeout; an error ends that transaction and no more.  Between jobs the
 * worker has no transaction and no snapshot.  The schedule lives in the slot
 * in shared memory, so that a worker goes on where the one before stopped; a
 * missed run is made once, not as often as it was missed.
 *
 * Before it touches anything of the extension a transaction locks the
 * extension without waiting.  DROP EXTENSION locks it first, too, so the two
 * never wait for each other in a circle.
 *
 * Query cancels (pg_cancel_backend, timeouts, and the first SIGTERM) count in
 * transactions only; between them they are held off, since an error there
 * would end the process without its last jobs.
 *
 * The slot is written under mon_workers->lock by its worker; stop, leave and
 * woken are set by others.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/job_list.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define RETRY_MS 1000         /* the extension is locked, or its jobs can't be read */
#define SHUTDOWN_JOB_MS 10000 /* a job's time at shutdown, at most */
#define CLIENTS_WAIT_MS 3000  /* for sessions to hand over what they have, at shutdown */
#define WATCH_MS 1000         /* how often a job that takes long is looked after */
#define OVERRUN_MS                                                                                 \
	5000 /* a job that goes on for so long after its timeout is ended with the worker */
#define SHUTDOWN_WATCHES 3                 /* a job that is to make way has so many WATCH_MS */
#define DISK_RETRY_US (10 * USECS_PER_SEC) /* a job that met a full disk is tried again by then */
#define RETELL_MS 60000 /* an outcome that could not be recorded is tried, and logged, again */

typedef enum ExtensionState
{
	EXTENSION_ABSENT,
	EXTENSION_BUSY, /* somebody drops or alters it */
	EXTENSION_USABLE
} ExtensionState;

typedef void (*TransactionBody)(void *arg);

static MonWorkerSlot *my_slot = NULL;
static uint32 my_generation = 0;
static MonSlotState my_outcome = MON_SLOT_FAILED;
static MemoryContext cycle_cxt = NULL; /* reset in every cycle */
static bool load_error_logged = false;

/* Set while a transaction may be cancelled to let us shut down. */
static volatile sig_atomic_t cancelable = false;

/* For watch_transaction(); by the clock that does not step. */
static TimeoutId watch_timeout;
static instr_time began;
static int overrun_ms = 0;
static int watches_since_sigterm = 0;

/* ---- the slot ---- */

/* False if the slot isn't, or is no longer, meant for this process. */
static bool
claim_slot(const MonWorkerTask *task)
{
	MonWorkerSlot *slot = &mon_workers->slots[task->slot];
	bool mine;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	mine = slot->generation == task->generation && slot->state == MON_SLOT_STARTING;
	if (mine && slot->stop)
	{
		slot->state = MON_SLOT_STOPPED;
		mine = false;
	}
	else if (mine)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->since = GetCurrentTimestamp();
	}
	LWLockRelease(mon_workers->lock);

	if (!mine)
		mon_launcher_wake();
	else
	{
		my_slot = slot;
		my_generation = task->generation;
	}
	return mine;
}

/* Runs when this process has already left the list of those connected to the database. */
static void
release_slot(int code, Datum arg)
{
	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	if (my_slot->generation == my_generation)
	{
		if (my_outcome == MON_SLOT_FAILED && my_slot->stop)
			my_outcome = MON_SLOT_STOPPED;
		my_slot->state = my_outcome;
		my_slot->pid = 0;
		my_slot->latch = NULL;
		my_slot->running = -1;
	}
	LWLockRelease(mon_workers->lock);
	mon_launcher_wake();
}

static void
leave_with(MonSlotState outcome)
{
	my_outcome = outcome;
	proc_exit(0);
}

static bool
slot_flag(const bool *flag)
{
	bool value;

	LWLockAcquire(mon_workers->lock, LW_SHARED);
	value = *flag;
	LWLockRelease(mon_workers->lock);
	return value;
}

static bool
take_woken(void)
{
	bool woken;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	woken = my_slot->woken;
	if (my_slot->jobs_changed)
		mon_job_list_outdated();
	my_slot->woken = my_slot->jobs_changed = false;
	LWLockRelease(mon_workers->lock);
	return woken;
}

/* ---- transactions ---- */

/* The first SIGTERM ends the running job and makes the worker shut down in order. */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int save_errno = errno;

	ShutdownRequestPending = true;
	if (cancelable)
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * A job can catch its cancellation and go on.  It must not be able to hold up
 * DDL, the server's shutdown or the other jobs: in the end the worker goes.
 */
static void
watch_transaction(void)
{
	bool making_way = ShutdownRequestPending && my_outcome == MON_SLOT_FAILED;
	instr_time taken;

	INSTR_TIME_SET_CURRENT(taken);
	INSTR_TIME_SUBTRACT(taken, began);
	if (making_way ? ++watches_since_sigterm >= SHUTDOWN_WATCHES
				   : INSTR_TIME_GET_MILLISEC(taken) > overrun_ms)
		mon_die();
}

/* Caller is in a transaction, to whose end the lock lasts. */
static ExtensionState
lock_extension(void)
{
	Oid extension = get_extension_oid(MON_SCHEMA, true);
	LOCKTAG tag;

	if (!OidIsValid(extension))
		return EXTENSION_ABSENT;
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, extension, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return EXTENSION_BUSY;
	/* It may have gone just before. */
	AcceptInvalidationMessages();
	return get_extension_oid(MON_SCHEMA, true) == extension ? EXTENSION_USABLE : EXTENSION_ABSENT;
}

/*
 * Run body(arg) in a transaction that may take timeout ms.  Returns NULL, or
 * the error, in cycle_cxt, after the transaction has been rolled back.  As in
 * autovacuum, a caught error leaves the process as it was between jobs.
 */
static ErrorData *
in_transaction(TransactionBody body, void *arg, int timeout)
{
	ErrorData *volatile error = NULL;

	/* A cancel that came too late for the job it was meant for. */
	QueryCancelPending = false;
	cancelable = true;
	watches_since_sigterm = 0;
	if (ShutdownRequestPending && my_outcome == MON_SLOT_FAILED)
	{
		cancelable = false;
		return NULL;
	}

	RESUME_CANCEL_INTERRUPTS();
	PG_TRY();
	{
		TimestampTz now = GetCurrentTimestamp();

		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		INSTR_TIME_SET_CURRENT(began);
		overrun_ms = timeout + OVERRUN_MS;
		enable_timeout_every(watch_timeout, now + WATCH_MS * INT64CONST(1000), WATCH_MS);
		enable_timeout_after(STATEMENT_TIMEOUT, timeout);
		PushActiveSnapshot(GetTransactionSnapshot());
		body(arg);
		PopActiveSnapshot();
		disable_timeout(STATEMENT_TIMEOUT, false);
		CommitTransactionCommand();
		cancelable = false;
		HOLD_CANCEL_INTERRUPTS();
		disable_timeout(watch_timeout, false);
	}
	PG_CATCH();
	{
		cancelable = false;
		HOLD_INTERRUPTS();
		HOLD_CANCEL_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		disable_timeout(watch_timeout, false);
		QueryCancelPending = false;
		MemoryContextSwitchTo(cycle_cxt);
		error = CopyErrorData();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(cycle_cxt);
	return error;
}

/* ---- the list of jobs ---- */

/* What load_jobs() found. */
typedef struct JobsState
{
	ExtensionState extension;
	bool read; /* the list is a new one */
} JobsState;

static void
refresh_jobs(void *arg)
{
	JobsState *state = arg;

	state->extension = lock_extension();
	if (state->extension == EXTENSION_USABLE)
		state->read = mon_job_list_refresh();
}

/* Bring the list of jobs up to date; false when there is none to be had now. */
static bool
load_jobs(void)
{
	JobsState state = {EXTENSION_BUSY, false};
	ErrorData *error = in_transaction(refresh_jobs, &state, RETRY_MS * 10);

	if (error != NULL)
	{
		mon_job_list_forget();
		if (!load_error_logged && !ShutdownRequestPending)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("monitoring could not read its jobs: %s", error->message)));
		load_error_logged = true;
		return false;
	}
	load_error_logged = false;
	if (state.extension == EXTENSION_ABSENT)
		leave_with(MON_SLOT_ABSENT);
	if (state.read)
		mon_job_list_enter(my_slot);
	return state.extension == EXTENSION_USABLE;
}

/* ---- running a job ---- */

/*
 * As the job's owner.  Someone who is not a superuser gets no chance to become
 * one through the worker's session, nor to leave work for its end.
 */
static void
become_owner(const char *owner)
{
	Oid role = get_role_oid(owner, false);

	SetUserIdAndSecContext(role,
						   superuser_arg(role)
							   ? SECURITY_LOCAL_USERID_CHANGE
							   : SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

/*
 * Nobody but the job's owner and superusers may decide what runs with the
 * owner's rights, not even by dropping the function so that another takes its
 * name.  A SECURITY DEFINER function has its own owner's rights.
 */
static void
check_function(const MonJob *job)
{
	static SPIPlanPtr plan = NULL;
	Oid argtypes[2] = {TEXTOID, OIDOID};
	Datum values[2];
	const char *signature = psprintf("%s(timestamp with time zone)", job->call);
	bool isnull;

	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT p.prosecdef OR p.proowner = $2 OR o.rolsuper"
						   "  FROM pg_proc p JOIN pg_authid o ON o.oid = p.proowner"
						   " WHERE p.oid = to_regprocedure($1)",
						   2, argtypes);
		SPI_keepplan(plan);
	}
	values[0] = CStringGetTextDatum(signature);
	values[1] = ObjectIdGetDatum(get_role_oid(job->owner, false));
	SPI_execute_plan(plan, values, NULL, true, 1);
	if (SPI_processed == 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("function %s does not exist", signature)));
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s belongs neither to role \"%s\", as which it would run, "
						"nor to a superuser",
						signature, job->owner)));
}

/* The list of jobs may be some time old when others have run before this one. */
static bool
still_enabled(const MonJob *job)
{
	static SPIPlanPtr plan = NULL;
	Oid argtypes[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(job->name)};

	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT FROM monitoring.jobs WHERE name = $1 AND enabled", 1, argtypes);
		SPI_keepplan(plan);
	}
	SPI_execute_plan(plan, values, NULL, true, 1);
	return SPI_processed > 0;
}

static void
job_body(void *arg)
{
	MonJob *job = arg;
	Oid argtypes[1] = {TIMESTAMPTZOID};
	Datum values[1] = {TimestampTzGetDatum(job->at)};
	Oid save_user;
	int save_context;
	int guc_level;

	if (lock_extension() != EXTENSION_USABLE)
		return;

	if (!job->durable)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);

	SPI_connect();
	if (!still_enabled(job))
	{
		SPI_finish();
		return;
	}
	check_function(job);

	GetUserIdAndSecContext(&save_user, &save_context);
	become_owner(job->owner);
	guc_level = NewGUCNestLevel();
	SPI_execute_with_args(psprintf("SELECT %s($1)", job->call), 1, argtypes, values, NULL, false,
						  0);

	/* Whatever the job has SET, the next one starts from our settings. */
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(save_user, save_context);
	SPI_finish();
}

/* The row says how the latest run ended; it is written when that changes. */
static void
outcome_body(void *arg)
{
	MonJob *job = arg;
	Oid argtypes[3] = {TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum values[3];
	char nulls[3] = {' ', job->error ? ' ' : 'n', ' '};

	if (lock_extension() != EXTENSION_USABLE)
	{
		mon_job_list_outdated();
		return;
	}
	values[0] = CStringGetTextDatum(job->name);
	values[1] = job->error ? CStringGetTextDatum(job->error) : (Datum) 0;
	values[2] = TimestampTzGetDatum(job->at);
	SPI_connect();
	SPI_execute_with_args(
		"UPDATE monitoring.jobs"
		"   SET last_state = CASE WHEN $2 IS NULL THEN 'ok' ELSE 'failed' END,"
		"       last_error = coalesce($2, last_error),"
		"       last_error_at = CASE WHEN $2 IS NULL THEN last_error_at ELSE $3 END"
		" WHERE name = $1",
		3, argtypes, values, nulls, false, 0);
	SPI_finish();
}

/*
 * Whether the same could be neither recorded nor, therefore, remembered in the
 * row a moment ago: what fails every second on a full disk is told once a minute.
 */
static bool
told_lately(MonJobStats *stats, const char *job_error)
{
	uint32 hash = job_error ? hash_bytes((const unsigned char *) job_error, strlen(job_error)) : 0;
	TimestampTz now = GetCurrentTimestamp();
	bool told;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	told = stats->told == hash && !mon_time_passed(stats->told_at, now, RETELL_MS);
	if (!told)
	{
		stats->told = hash;
		stats->told_at = now;
	}
	LWLockRelease(mon_workers->lock);
	return told;
}

static void
write_outcome(MonJob *job, MonJobStats *stats)
{
	bool was_failed = job->last_state && strcmp(job->last_state, "failed") == 0;
	bool was_ok = job->last_state && strcmp(job->last_state, "ok") == 0;
	ErrorData *error;

	if (job->error ? was_failed && job->last_error && strcmp(job->error, job->last_error) == 0
				   : was_ok)
		return;
	if (told_lately(stats, job->error))
		return;

	if (job->error)
		ereport(LOG, (errmsg("monitoring job \"%s\" failed: %s", job->name, job->error)));
	else if (was_failed)
		ereport(LOG, (errmsg("monitoring job \"%s\" works again", job->name)));

	error = in_transaction(outcome_body, job, RETRY_MS * 10);
	if (error)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("monitoring could not record the outcome of job \"%s\": %s", job->name,
						error->message)));
	else
		mon_job_remember_outcome(job);
}

static void
run_job(MonJob *job, TimestampTz due, int timeout)
{
	MonJobStats *stats = mon_job_stats(my_slot, job->name);
	TimestampTz start = GetCurrentTimestamp();
	ErrorData *error;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	my_slot->state = MON_SLOT_RUNNING;
	my_slot->running = stats - my_slot->jobs;
	LWLockRelease(mon_workers->lock);
	pgstat_report_activity(STATE_RUNNING, psprintf("monitoring job %s", job->name));

	job->at = start;
	job->error = NULL;
	job->code = 0;
	if (job->interval <= 0)
		job->error = psprintf("setting \"%s\" %s", job->setting ? job->setting : "",
							  job->no_interval ? job->no_interval : "does not exist");
	else if ((error = in_transaction(job_body, job, timeout)) != NULL)
	{
		job->error = error->message;
		job->code = error->sqlerrcode;
	}

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	my_slot->state = MON_SLOT_IDLE;
	my_slot->running = -1;
	stats->runs++;
	stats->last_run = start;
	stats->duration = (double) Max(GetCurrentTimestamp() - start, 0) / USECS_PER_SEC;
	stats->lag = (double) Max(start - due, 0) / USECS_PER_SEC;
	stats->failed = job->error != NULL;
	stats->code = job->code;
	if (stats->failed)
		stats->failures++;
	/* Keep the beat, but make up for no more than one missed run. */
	stats->anchor = start - due < job->interval && start >= due ? due : start;
	/* Room may be made at any time, and until then others take us for one who cannot write. */
	if (stats->failed && mon_is_disk_error(stats->code) && job->interval > DISK_RETRY_US)
		stats->anchor = start + DISK_RETRY_US - job->interval;
	LWLockRelease(mon_workers->lock);

	mon_job_ended(job->name);

	/* Of the session, as DISCARD ALL does it. */
	LockReleaseAll(USER_LOCKMETHOD, true);

	/* Cancelled to make way, or not even begun: nothing is known about the job. */
	if (!(ShutdownRequestPending && my_outcome == MON_SLOT_FAILED))
		write_outcome(job, stats);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

static void
reload_if_asked(void)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		mon_job_list_outdated(); /* their intervals may be settings */
	}
}

/* When the job is due; if the clock has stepped back its beat begins anew. */
static TimestampTz
job_due(const MonJob *job, MonJobStats *stats, TimestampTz now)
{
	int64 interval = job->interval > 0 ? job->interval : MON_MAX_SLEEP_MS * INT64CONST(1000);

	if (stats->anchor > now)
	{
		LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
		stats->anchor = now;
		LWLockRelease(mon_workers->lock);
	}
	return stats->anchor + interval;
}

/* Run what is due; returns when to look again. */
static TimestampTz
run_cycle(void)
{
	bool woken = take_woken();
	bool usable = load_jobs();
	TimestampTz wake_at = GetCurrentTimestamp() +
		(usable ? MON_MAX_SLEEP_MS : RETRY_MS) * INT64CONST(1000);
	ListCell *lc;

	if (!usable)
		return wake_at;
	foreach (lc, mon_job_list())
	{
		MonJob *job = lfirst(lc);
		MonJobStats *stats = mon_job_stats(my_slot, job->name);
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz due;

		if (ShutdownRequestPending)
			break;
		if (stats == NULL)
			continue;
		due = job_due(job, stats, now);
		if (due <= now || (woken && job->run_on_wake))
		{
			TimestampTz put_off = mon_job_put_off(job->name, now);

			if (put_off <= now)
				run_job(job, Min(due, now), job->timeout);
			due = Max(job_due(job, stats, GetCurrentTimestamp()), put_off);
		}
		wake_at = Min(wake_at, due);
		CHECK_FOR_INTERRUPTS();
		reload_if_asked();
	}
	return wake_at;
}

/* ---- the end ---- */

/*
 * The server goes down and so do all sessions.  Let those of this database
 * hand over what they hold before the last jobs run.
 */
static void
wait_for_clients(void)
{
	TimestampTz start = GetCurrentTimestamp();

	while (CountDBConnections(MyDatabaseId) > 0 &&
		   !mon_time_passed(start, GetCurrentTimestamp(), CLIENTS_WAIT_MS))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The jobs that leave things in order. */
static void
run_shutdown_jobs(void)
{
	ListCell *lc;

	MemoryContextReset(cycle_cxt);
	MemoryContextSwitchTo(cycle_cxt);
	if (!load_jobs())
		return;
	foreach (lc, mon_job_list())
	{
		MonJob *job = lfirst(lc);
		TimestampTz now = GetCurrentTimestamp();

		if (job->run_at_shutdown && mon_job_stats(my_slot, job->name) != NULL &&
			mon_job_put_off(job->name, now) <= now)
			run_job(job, now, Min(job->timeout, SHUTDOWN_JOB_MS));
	}
}

/*
 * SIGTERM while the last jobs run, whose time is bounded: postmaster and
 * launcher may both send one, and neither may lose what is being written.
 * Only DDL that waits for the database ends the process at once.
 */
static void
handle_late_sigterm(SIGNAL_ARGS)
{
	if (my_slot->stop)
		mon_die();
}

static void
shut_down(MonSlotState outcome)
{
	my_outcome = outcome;
	pqsignal(SIGTERM, handle_late_sigterm);
	if (!slot_flag(&my_slot->stop))
	{
		if (outcome == MON_SLOT_STOPPED && mon_server_stopping())
			wait_for_clients();
		run_shutdown_jobs();
	}
	proc_exit(0);
}

/* ---- main ---- */

static void
find_extension(void *arg)
{
	MonSlotState *found = arg;

	*found = OidIsValid(get_extension_oid(MON_SCHEMA, true)) ? MON_SLOT_PRESENT : MON_SLOT_ABSENT;
}

static void
check_extension(void)
{
	MonSlotState found = MON_SLOT_STOPPED; /* unless we get to look */
	ErrorData *error = in_transaction(find_extension, &found, RETRY_MS * 10);

	if (error)
		ThrowErrorData(error);
	if (found == MON_SLOT_ABSENT || my_slot->probe)
		leave_with(found);
}

static void
worker_start(void)
{
	MonWorkerTask task;

	memcpy(&task, MyBgworkerEntry->bgw_extra, sizeof(task));
	mon_worker_unblock_signals(die);

	if (!claim_slot(&task))
		proc_exit(0);
	/* Before we connect, so that it runs after we have been disconnected. */
	on_shmem_exit(release_slot, (Datum) 0);

	BackgroundWorkerInitializeConnectionByOid(task.dboid, InvalidOid, 0);
	HOLD_CANCEL_INTERRUPTS();
	watch_timeout = RegisterTimeout(USER_TIMEOUT, watch_transaction);
	pqsignal(SIGTERM, handle_sigterm);
	mon_worker_pin_settings(true);
	cycle_cxt = AllocSetContextCreate(TopMemoryContext, "monitoring worker cycle",
									  ALLOCSET_DEFAULT_SIZES);
	check_extension();

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	my_slot->state = MON_SLOT_IDLE;
	LWLockRelease(mon_workers->lock);
	/* Others may wait for a place, and now know that this one is taken. */
	mon_launcher_wake();
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
mon_database_worker_main(Datum arg)
{
	worker_start();

	for (;;)
	{
		TimestampTz wake_at;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		reload_if_asked();

		MemoryContextReset(cycle_cxt);
		MemoryContextSwitchTo(cycle_cxt);
		wake_at = run_cycle();

		if (ShutdownRequestPending)
			shut_down(MON_SLOT_STOPPED);
		if (slot_flag(&my_slot->leave))
			shut_down(MON_SLOT_LEFT);

		(void) WaitLatch(
			MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
			Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wake_at), MON_MAX_SLEEP_MS),
			PG_WAIT_EXTENSION);
	}
}
