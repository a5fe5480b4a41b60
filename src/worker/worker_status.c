/*-------------------------------------------------------------------------
 *
 * worker_status.c
 *	  Shared memory of the workers: set-up, waking, and what status shows.
 *
 * mon_workers->lock guards all of it.  It is held for copying only.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker_internal.h"

#include <math.h>
#include <stdio.h>

#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/pidfile.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define STATUS_COLUMNS 12

MonWorkerControl *mon_workers = NULL;

PG_FUNCTION_INFO_V1(mon_worker_status);
PG_FUNCTION_INFO_V1(mon_server_stopping_sql);

static Size
worker_shmem_size(void)
{
	return add_size(offsetof(MonWorkerControl, guards), mul_size(MaxBackends, sizeof(MonGuard)));
}

static void
worker_shmem_startup(LWLockPadded *locks)
{
	bool found;

	mon_workers = ShmemInitStruct("monitoring workers", worker_shmem_size(), &found);
	if (found)
		return;
	memset(mon_workers, 0, worker_shmem_size());
	mon_workers->lock = &locks[0].lock;
	mon_crash_guard_startup();
}

void
mon_worker_shmem_register(void)
{
	MonShmemSlice slice = {
		.name = "monitoring workers",
		.size = worker_shmem_size,
		.init = worker_shmem_startup,
		.nlocks = 1,
	};

	mon_shmem_register(&slice);
}

/* Caller holds no lock of ours.  Safe in transaction callbacks: cannot fail. */
void
mon_launcher_wake(void)
{
	LWLockAcquire(mon_workers->lock, LW_SHARED);
	if (mon_workers->launcher_latch)
		SetLatch(mon_workers->launcher_latch);
	LWLockRelease(mon_workers->lock);
}

void
mon_worker_wake(Oid dboid, bool jobs_changed)
{
	if (mon_workers == NULL)
		return;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (slot->dboid != dboid)
			continue;
		slot->woken = true;
		slot->jobs_changed |= jobs_changed;
		if (slot->latch)
			SetLatch(slot->latch);
		break;
	}
	LWLockRelease(mon_workers->lock);
}

bool
mon_is_disk_error(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_DISK_FULL || sqlerrcode == ERRCODE_IO_ERROR;
}

int
mon_worker_disk_error(Oid dboid)
{
	int code = 0;

	if (mon_workers == NULL)
		return 0;
	LWLockAcquire(mon_workers->lock, LW_SHARED);
	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		for (int j = 0; slot->dboid == dboid && j < slot->njobs; j++)
			if (slot->jobs[j].failed && mon_is_disk_error(slot->jobs[j].code))
				code = slot->jobs[j].code;
	}
	LWLockRelease(mon_workers->lock);
	return code;
}

#define POSTMASTER_PID_FILE "postmaster.pid" /* relative to the data directory, where we run */

/*
 * Whether the postmaster is shutting down.  It says so in its pid file before
 * it signals anybody, and nowhere else that we could see.  (Our working
 * directory is the data directory.)
 */
bool
mon_server_stopping(void)
{
	FILE *file = AllocateFile(POSTMASTER_PID_FILE, "r");
	char line[MAXPGPATH];
	bool stopping = false;

	if (file == NULL)
		return false;
	for (int n = 1; fgets(line, sizeof(line), file) != NULL; n++)
		if (n == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	FreeFile(file);
	return stopping;
}

static const char *
slot_state_name(const MonWorkerSlot *slot)
{
	switch (slot->state)
	{
		case MON_SLOT_STARTING:
			return "starting";
		case MON_SLOT_IDLE:
			return "idle";
		case MON_SLOT_RUNNING:
			return "running";
		case MON_SLOT_PRESENT:
		case MON_SLOT_LEFT:
			return "waiting";
		case MON_SLOT_STOPPED:
			return mon_database_guarded(slot->dboid) ? "standing aside" : "restarting";
		default:
			return "restarting";
	}
}

static const char *
job_state_name(const MonWorkerSlot *slot, int job, TimestampTz now)
{
	if (slot->running == job && slot->state == MON_SLOT_RUNNING)
		return "running";
	if (mon_job_is_put_off(slot->dboid, NameStr(slot->jobs[job].name), now))
		return "put off";
	if (slot->jobs[job].runs == 0)
		return "new";
	return slot->jobs[job].failed ? "failed" : "ok";
}

static void
put_worker(ReturnSetInfo *rsinfo, const char *kind, Oid dboid, int pid, const char *state,
		   TimestampTz since, const MonWorkerSlot *slot, int job, TimestampTz now)
{
	Datum values[STATUS_COLUMNS] = {0};
	bool nulls[STATUS_COLUMNS];

	memset(nulls, true, sizeof(nulls));
#define PUT(column, datum) (values[column] = (datum), nulls[column] = false)
	PUT(0, CStringGetTextDatum(kind));
	if (OidIsValid(dboid))
		PUT(1, ObjectIdGetDatum(dboid));
	if (pid != 0)
		PUT(2, Int32GetDatum(pid));
	PUT(3, CStringGetTextDatum(state));
	if (since != 0)
		PUT(4, TimestampTzGetDatum(since));
	if (slot != NULL && job >= 0)
	{
		const MonJobStats *stats = &slot->jobs[job];
		double overdue = 0;

		if (stats->interval > 0 && slot->running != job)
			overdue = (double) (now - (stats->anchor + stats->interval)) / USECS_PER_SEC;

		PUT(5, CStringGetTextDatum(NameStr(stats->name)));
		PUT(6, CStringGetTextDatum(job_state_name(slot, job, now)));
		PUT(9, Int64GetDatum(stats->runs));
		PUT(10, Int64GetDatum(stats->failures));
		PUT(11, Float8GetDatum(fmax(stats->lag, fmax(overdue, 0))));
		if (stats->last_run != 0)
		{
			PUT(7, TimestampTzGetDatum(stats->last_run));
			PUT(8, Float8GetDatum(stats->duration));
		}
	}
#undef PUT
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * worker_status(): the launcher, then a row per worker and job.  Works on a
 * copy, so that no lock is held while rows are formed.
 */
Datum
mon_worker_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();
	MonWorkerSlot *slot = palloc(sizeof(MonWorkerSlot));
	int launcher_pid;
	TimestampTz launcher_since;

	mon_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	/* In pg_upgrade there are no workers. */
	if (mon_workers == NULL)
		return (Datum) 0;

	LWLockAcquire(mon_workers->lock, LW_SHARED);
	launcher_pid = mon_workers->launcher_pid;
	launcher_since = mon_workers->launcher_since;
	LWLockRelease(mon_workers->lock);
	put_worker(rsinfo, "launcher", InvalidOid, launcher_pid,
			   launcher_pid != 0 ? "running" : "not running", launcher_since, NULL, -1, now);

	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		const char *state = NULL;

		LWLockAcquire(mon_workers->lock, LW_SHARED);
		memcpy(slot, &mon_workers->slots[i], sizeof(MonWorkerSlot));
		if (slot->state != MON_SLOT_FREE && slot->state != MON_SLOT_ABSENT)
			state = slot_state_name(slot);
		LWLockRelease(mon_workers->lock);

		if (state == NULL || slot->probe)
			continue;
		for (int job = slot->njobs > 0 ? 0 : -1; job < slot->njobs; job++)
			put_worker(rsinfo, "database worker", slot->dboid, slot->pid, state, slot->since, slot,
					   job, now);
	}
	return (Datum) 0;
}

/* server_stopping() */
Datum
mon_server_stopping_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(mon_server_stopping());
}
