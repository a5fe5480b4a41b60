/*-------------------------------------------------------------------------
 *
 * step.c
 *	  The transactions of a worker that talks to strangers, and its signals.
 *
 * Such a worker has no transaction open while anything is sent.  Everything
 * here is local to the process; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "outbound/outbound.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "worker/worker.h"

#define SIGTERM_ECHO_MS 200 /* further SIGTERMs within this time are the same one */

static MemoryContext step_context;
static volatile sig_atomic_t cancelable = false;

void
mon_step_execute(struct _SPI_plan **plan, const char *sql, int nargs, Oid *types, Datum *args,
				 int expected)
{
	if (*plan == NULL)
	{
		SPIPlanPtr p = SPI_prepare(sql, nargs, types);

		if (p == NULL || SPI_keepplan(p) != 0)
			elog(ERROR, "could not prepare \"%s\"", sql);
		*plan = p;
	}
	if (SPI_execute_plan(*plan, args, NULL, false, 0) != expected)
		elog(ERROR, "could not execute \"%s\"", sql);
}

/*
 * Hold the extension for the length of the transaction.  DROP and ALTER
 * EXTENSION lock it first of all, so nothing of ours can vanish under us, and
 * as we never wait for them, they cannot deadlock with us.
 */
static StepResult
hold_extension(void)
{
	Oid extension = get_extension_oid("monitoring", true);
	LOCKTAG tag;

	if (!OidIsValid(extension))
		return STEP_GONE;
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, extension, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return STEP_BUSY;
	AcceptInvalidationMessages();
	return get_extension_oid("monitoring", true) == extension ? STEP_DONE : STEP_GONE;
}

bool
mon_hold_extension(void)
{
	return hold_extension() == STEP_DONE;
}

static StepResult
run_transaction(const char *activity, void (*body)(TimestampTz at, void *arg), void *arg)
{
	TimestampTz at = GetCurrentTimestamp();
	StepResult result;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, MON_STEP_TIMEOUT_MS);
	result = hold_extension();
	if (result == STEP_DONE)
	{
		pgstat_report_activity(STATE_RUNNING, activity);
		SPI_connect();
		PushActiveSnapshot(GetTransactionSnapshot());
		body(at, arg);
		SPI_finish();
		PopActiveSnapshot();
	}
	disable_timeout(STATEMENT_TIMEOUT, false);
	cancelable = false;
	CommitTransactionCommand();
	return result;
}

/*
 * One transaction.  As in autovacuum, a caught error leaves the process as it
 * was before.
 */
StepResult
mon_step(const char *activity, void (*body)(TimestampTz at, void *arg), void *arg)
{
	volatile StepResult result = STEP_FAILED;

	QueryCancelPending = false;
	cancelable = true;
	PG_TRY();
	{
		result = run_transaction(activity, body, arg);
	}
	PG_CATCH();
	{
		cancelable = false;
		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		if (!ShutdownRequestPending)
			EmitErrorReport();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(step_context);
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(step_context);
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	return result;
}

/*
 * First SIGTERM: end the transaction and take the last answers.  A second one
 * ends the process, unless it is the first one's echo: postmaster and
 * pg_terminate_backend() signal the process and then its process group.
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	static int64 told_at;
	int save_errno = errno;

	if (!ShutdownRequestPending)
		told_at = mon_now_ms();
	else if (mon_now_ms() - told_at > SIGTERM_ECHO_MS)
		mon_die();
	ShutdownRequestPending = true;
	if (cancelable)
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

void
mon_step_signals(void)
{
	ResetLatch(MyLatch);
	/* A cancel that found no transaction has nothing to cancel. */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	MemoryContextReset(step_context);
	MemoryContextSwitchTo(step_context);
}

void
mon_step_init(MemoryContext context)
{
	pqsignal(SIGTERM, handle_sigterm);
	mon_worker_pin_settings(true);
	step_context = AllocSetContextCreate(context, "monitoring worker step", ALLOCSET_DEFAULT_SIZES);
}
