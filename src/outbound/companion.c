/*-------------------------------------------------------------------------
 *
 * companion.c
 *	  Starting and waking the workers that talk to strangers for a database.
 *
 * Of each sort (notifier, prober) a database has at most one.  Shared arrays of
 * slots say who they are; the slice's only lock guards all of them.  SetLatch()
 * is called under that lock, so that the latch's owner cannot be gone.
 *
 *-------------------------------------------------------------------------
 */
#include "outbound/outbound.h"

#include <signal.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "core/core.h"
#include "worker/worker.h"

#define SHMEM_NAME "monitoring companions"
#define MAX_SORTS 4
#define START_PATIENCE_MS 10000 /* a started worker claims its slot by then */
#define RETRY_MS 5000           /* after there was no free background worker */
#define TELL_LACK_S 60          /* for so long after the last attempt that failed */
#define MAX_BACKOFF_S 60

typedef struct CompanionSlot
{
	Oid dboid; /* InvalidOid: free */
	pid_t pid; /* 0: none, or still starting */
	Latch *latch;
	TimestampTz not_before; /* start none before this time */
	TimestampTz since;      /* start of the process */
	int failures;           /* exits with an error in a row */
	bool no_worker;         /* there was no free background worker for it */
} CompanionSlot;

typedef struct CompanionSlots
{
	int nslots;                     /* of each sort */
	bool told_no_worker[MAX_SORTS]; /* the lack of worker slots was logged */
	CompanionSlot slots[FLEXIBLE_ARRAY_MEMBER];
} CompanionSlots;

static const MonCompanionSort *sorts[MAX_SORTS];
static int nsorts = 0;
static CompanionSlots *shared = NULL;
static LWLock *lock = NULL;
static CompanionSlot *my_slot = NULL;

PG_FUNCTION_INFO_V1(mon_companion_status);

/* ---- shared memory ---- */

static Size
slots_size(void)
{
	return add_size(offsetof(CompanionSlots, slots),
					mul_size(sizeof(CompanionSlot), nsorts * Max(max_worker_processes, 1)));
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

/* End those of a database that DDL wants for itself. */
static void
stop_companions(Oid dboid)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < nsorts * shared->nslots; i++)
		if (shared->slots[i].dboid == dboid && shared->slots[i].pid != 0)
			kill(shared->slots[i].pid, SIGTERM);
	LWLockRelease(lock);
}

static bool
companions_active(Oid dboid)
{
	bool active = false;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < nsorts * shared->nslots && !active; i++)
		active = shared->slots[i].dboid == dboid && shared->slots[i].pid != 0;
	LWLockRelease(lock);
	return active;
}

void
mon_companion_register(const MonCompanionSort *sort)
{
	static const MonShmemSlice slice = {
		.name = SHMEM_NAME, .size = slots_size, .init = slots_init, .nlocks = 1};
	static const MonCompanion companion = {stop_companions, companions_active};

	if (nsorts >= MAX_SORTS)
		elog(FATAL, "too many sorts of companions");
	if (nsorts == 0)
	{
		mon_shmem_register(&slice);
		mon_worker_register_companion(&companion);
	}
	sorts[nsorts++] = sort;
}

static int
sort_number(const MonCompanionSort *sort)
{
	for (int i = 0; i < nsorts; i++)
		if (sorts[i] == sort)
			return i;
	elog(ERROR, "unknown sort of companions");
	return 0; /* keep compiler quiet */
}

static CompanionSlot *
slots_of(const MonCompanionSort *sort)
{
	return &shared->slots[sort_number(sort) * shared->nslots];
}

/* This database's slot; a free one if it has none, or one whose worker is long gone; NULL if all are taken. */
static CompanionSlot *
find_slot(const MonCompanionSort *sort, Oid dboid, TimestampTz now)
{
	CompanionSlot *slots = slots_of(sort);
	CompanionSlot *usable = NULL;

	for (int i = 0; i < shared->nslots; i++)
	{
		CompanionSlot *s = &slots[i];

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
mon_companion_claim(const MonCompanionSort *sort, Oid dboid)
{
	CompanionSlot *slot;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_slot(sort, dboid, GetCurrentTimestamp());
	if (slot && slot->pid == 0)
	{
		slot->pid = MyProcPid;
		slot->since = GetCurrentTimestamp();
		slot->no_worker = false;
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
mon_companion_healthy(void)
{
	/* Only this process writes the field while it owns the slot. */
	my_slot->failures = 0;
}

/* ---- starting ---- */

static bool
register_worker(const MonCompanionSort *sort, Oid dboid)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "monitoring", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, sort->function, sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, sort->name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, sort->name, BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

void
mon_companion_wake(const MonCompanionSort *sort, Oid dboid)
{
	TimestampTz now = GetCurrentTimestamp();
	int number = sort_number(sort);
	CompanionSlot *slot;
	bool start = false;
	bool tell = false;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	slot = find_slot(sort, dboid, now);
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
	start = register_worker(sort, dboid);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	tell = !start && !shared->told_no_worker[number];
	shared->told_no_worker[number] = !start;
	if (!start && (slot = find_slot(sort, dboid, now)) != NULL && slot->pid == 0)
	{
		slot->no_worker = true;
		slot->not_before = now + RETRY_MS * INT64CONST(1000);
	}
	LWLockRelease(lock);

	/* Once, not with every attempt. */
	if (tell)
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start the %s: no free background worker", sort->name),
				 errhint("Consider increasing max_worker_processes.")));
}

/* ---- status ---- */

/* What status says about a slot; NULL: nothing. */
static const char *
slot_state(const CompanionSlot *s, TimestampTz now)
{
	if (s->dboid == InvalidOid)
		return NULL;
	if (s->pid != 0)
		return "running";
	if (s->no_worker)
		return now - s->not_before < TELL_LACK_S * USECS_PER_SEC ? "no free background worker"
																 : NULL;
	if (s->not_before <= now)
		return NULL;
	return s->failures > 0 ? "restarting" : "starting";
}

/* companion_status(): those that run, or should.  Works on a copy, so that no lock is held while rows are formed. */
Datum
mon_companion_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();
	CompanionSlot *slots;
	int n;

	mon_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	if (shared == NULL)
		return (Datum) 0;
	n = nsorts * shared->nslots;
	slots = palloc(n * sizeof(CompanionSlot));
	LWLockAcquire(lock, LW_SHARED);
	memcpy(slots, shared->slots, n * sizeof(CompanionSlot));
	LWLockRelease(lock);

	for (int i = 0; i < n; i++)
	{
		const char *state = slot_state(&slots[i], now);
		const char *name = sorts[i / shared->nslots]->name;
		Datum values[5] = {CStringGetTextDatum(name + strcspn(name, " ") + 1),
						   ObjectIdGetDatum(slots[i].dboid), Int32GetDatum(slots[i].pid)};
		bool nulls[5] = {false, false, slots[i].pid == 0, false, slots[i].pid == 0};

		if (state == NULL)
			continue;
		values[3] = CStringGetTextDatum(state);
		values[4] = TimestampTzGetDatum(slots[i].since);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

bool
mon_companion_running(const MonCompanionSort *sort, Oid dboid)
{
	CompanionSlot *slots = slots_of(sort);
	bool running = false;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
		if (slots[i].dboid == dboid)
			running = slots[i].pid != 0;
	LWLockRelease(lock);
	return running;
}
