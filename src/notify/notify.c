/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  Starting and waking notifiers.
 *
 * Every database has at most one notifier.  The shared array of slots says
 * who it is; the slice's only lock guards all of it.  SetLatch() is called
 * under that lock, so that the latch's owner cannot be gone.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/request.h"

#include <signal.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "worker/worker.h"

#define SHMEM_NAME "monitoring notifiers"
#define START_PATIENCE_MS 10000 /* a started worker claims its slot by then */
#define MAX_BACKOFF_S 60

typedef struct NotifierSlot
{
	Oid dboid; /* InvalidOid: free */
	pid_t pid; /* 0: none, or still starting */
	Latch *latch;
	TimestampTz not_before; /* start none before this time */
	int failures;           /* exits with an error in a row */
} NotifierSlot;

typedef struct NotifierSlots
{
	int nslots;
	bool told_no_worker; /* the lack of worker slots was logged */
	NotifierSlot slots[FLEXIBLE_ARRAY_MEMBER];
} NotifierSlots;

static NotifierSlots *shared = NULL;
static LWLock *lock = NULL;
static NotifierSlot *my_slot = NULL;

PG_FUNCTION_INFO_V1(mon_notify_dispatch);

/* ---- shared memory ---- */

static Size
slots_size(void)
{
	return add_size(offsetof(NotifierSlots, slots),
					mul_size(sizeof(NotifierSlot), Max(max_worker_processes, 1)));
}

static void
slots_init(LWLockPadded *locks)
{
	bool found;

	my_slot = NULL;
	lock = &locks[0].lock;
	shared = ShmemInitStruct(SHMEM_NAME, slots_size(), &found);
	if (!found)
	{
		memset(shared, 0, slots_size());
		shared->nslots = Max(max_worker_processes, 1);
	}
}

/* End the notifier of a database that DDL wants for itself. */
static void
stop_notifier(Oid dboid)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nslots; i++)
		if (shared->slots[i].dboid == dboid && shared->slots[i].pid != 0)
			kill(shared->slots[i].pid, SIGTERM);
	LWLockRelease(lock);
}

static bool
notifier_active(Oid dboid)
{
	bool active = false;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->nslots && !active; i++)
		active = shared->slots[i].dboid == dboid && shared->slots[i].pid != 0;
	LWLockRelease(lock);
	return active;
}

void
mon_notify_init(void)
{
	static const MonShmemSlice slice = {
		.name = SHMEM_NAME, .size = slots_size, .init = slots_init, .nlocks = 1};

	static const MonCompanion companion = {stop_notifier, notifier_active};

	mon_shmem_register(&slice);
	mon_worker_register_companion(&companion);
	mon_secrets_init();
}

/* This database's slot; a free one if it has none, or one whose notifier is long gone; NULL if all are taken. */
static NotifierSlot *
find_slot(Oid dboid, TimestampTz now)
{
	NotifierSlot *usable = NULL;

	for (int i = 0; i < shared->nslots; i++)
	{
		NotifierSlot *s = &shared->slots[i];

		if (s->dboid == dboid)
			return s;
		if (!usable && (!OidIsValid(s->dboid) || (s->pid == 0 && s->not_before < now)))
			usable = s;
	}
	if (usable)
	{
		memset(usable, 0, sizeof(*usable));
		usable->dboid = dboid;
	}
	return usable;
}

static void
leave_slot(int code, Datum arg)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	my_slot->pid = 0;
	my_slot->latch = NULL;
	if (code == 0)
		my_slot->dboid = InvalidOid;
	else
	{
		int delay = Min(MAX_BACKOFF_S, 1 << Min(my_slot->failures, 6));

		my_slot->failures++;
		my_slot->not_before = GetCurrentTimestamp() + delay * USECS_PER_SEC;
	}
	LWLockRelease(lock);
	my_slot = NULL;
}

bool
mon_notifier_claim(Oid dboid)
{
	NotifierSlot *slot;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_slot(dboid, GetCurrentTimestamp());
	if (slot && slot->pid == 0)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		my_slot = slot;
	}
	LWLockRelease(lock);

	if (!my_slot)
		return false;
	/* Before we connect, so that it runs after we have been disconnected. */
	on_shmem_exit(leave_slot, (Datum) 0);
	return true;
}

void
mon_notifier_healthy(void)
{
	/* Only this process writes the field while it owns the slot. */
	my_slot->failures = 0;
}

/* ---- starting ---- */

static bool
register_worker(Oid dboid)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "monitoring", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mon_notifier_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "monitoring notifier", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "monitoring notifier", BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

/* Wake this database's notifier, or start one if it has none and may have one now. */
static void
wake_or_start(Oid dboid)
{
	TimestampTz now = GetCurrentTimestamp();
	NotifierSlot *slot;
	bool start = false;
	bool tell = false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_slot(dboid, now);
	if (slot && slot->pid != 0)
		SetLatch(slot->latch);
	else if (slot && slot->not_before <= now)
	{
		slot->not_before = now + START_PATIENCE_MS * INT64CONST(1000);
		start = true;
	}
	LWLockRelease(lock);

	if (!start)
		return;
	start = register_worker(dboid);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	tell = !start && !shared->told_no_worker;
	shared->told_no_worker = !start;
	if (!start && (slot = find_slot(dboid, now)) != NULL)
		slot->not_before = 0;
	LWLockRelease(lock);

	/* Once, not every second: the next dispatch tries again anyway. */
	if (tell)
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start the monitoring notifier: no free background worker"),
				 errhint("Consider increasing max_worker_processes.")));
}

static bool
is_running(Oid dboid)
{
	bool running = false;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
		if (shared->slots[i].dboid == dboid)
			running = shared->slots[i].pid != 0;
	LWLockRelease(lock);
	return running;
}

Datum
mon_notify_dispatch(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {TIMESTAMPTZOID, BOOLOID};
	Datum args[2] = {PG_GETARG_DATUM(0)};
	bool isnull, due;

	mon_require_preload();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the time of the dispatch must not be null")));
	if (RecoveryInProgress())
		PG_RETURN_VOID();

	args[1] = BoolGetDatum(is_running(MyDatabaseId));
	SPI_connect();
	if (plan == NULL)
	{
		SPIPlanPtr p = SPI_prepare("SELECT monitoring.notify_has_work($1, $2)", 2, types);

		if (p == NULL || SPI_keepplan(p) != 0)
			elog(ERROR, "could not prepare the outbox query");
		plan = p;
	}
	if (SPI_execute_plan(plan, args, NULL, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not look for work in the outbox");
	due = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();

	if (due && !isnull)
		wake_or_start(MyDatabaseId);
	PG_RETURN_VOID();
}
