/*-------------------------------------------------------------------------
 *
 * crash_guard.c
 *	  Keeps a job in which the server crashes from crashing it over and over.
 *
 * After a crash of any process the postmaster starts all of them anew, with
 * new shared memory, and the worker would run the same job again at once: a
 * server that is down more than up.  What outlives the crash is the memory of
 * the postmaster.  Before it gives up the old shared memory it notes which
 * jobs were running, and puts the notes into the new one.  A job that was
 * running at two crashes, and has come to no end between them, is put off, for
 * longer each time.  Which process crashed is not known here: a job that was
 * running by accident loses some time and no more.
 *
 * MonWorkerControl.suspects is guarded by mon_workers->lock; `remembered` is
 * of use in the postmaster only, whose children inherit and ignore it.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker_internal.h"

#include "miscadmin.h"
#include "storage/ipc.h"

#define HARMLESS_CRASHES 1 /* it was probably something else */
#define FIRST_PUT_OFF_US (10 * USECS_PER_SEC)
#define MAX_PUT_OFF_US USECS_PER_HOUR
#define GROWTH 4

static MonSuspect remembered[MON_MAX_SUSPECTS];

static MonSuspect *
find_suspect(Oid dboid, const char *job)
{
	for (int i = 0; i < MON_MAX_SUSPECTS; i++)
	{
		MonSuspect *suspect = &mon_workers->suspects[i];

		if (suspect->dboid == dboid && strncmp(NameStr(suspect->job), job, NAMEDATALEN) == 0)
			return suspect;
	}
	return NULL;
}

/* How long a job is put off after so many crashes in a row. */
static int64
put_off_us(int crashes)
{
	int64 us = FIRST_PUT_OFF_US;

	if (crashes <= HARMLESS_CRASHES)
		return 0;
	for (int i = HARMLESS_CRASHES + 1; i < crashes && us < MAX_PUT_OFF_US; i++)
		us *= GROWTH;
	return Min(us, MAX_PUT_OFF_US);
}

/* With no place left nothing is noted: as it would be without this file. */
static void
note_crash(Oid dboid, const char *job)
{
	MonSuspect *suspect = find_suspect(dboid, job);

	if (suspect == NULL && (suspect = find_suspect(InvalidOid, "")) != NULL)
	{
		suspect->dboid = dboid;
		/* one that is damaged may have no end */
		memcpy(NameStr(suspect->job), job, NAMEDATALEN - 1);
	}
	if (suspect == NULL)
		return;
	suspect->crashes++;
	suspect->told = false;
	suspect->until = GetCurrentTimestamp() + put_off_us(suspect->crashes);
}

/* In the postmaster, when nobody else uses the shared memory; what it holds may be damaged. */
static void
note_running_jobs(int code, Datum arg)
{
	if (code == 0)
		return;
	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (slot->state == MON_SLOT_RUNNING && slot->running >= 0 && slot->running < MON_MAX_JOBS)
			note_crash(slot->dboid, NameStr(slot->jobs[slot->running].name));
	}
	memcpy(remembered, mon_workers->suspects, sizeof(remembered));
}

/* Called where the postmaster sets up shared memory, new and zeroed. */
void
mon_crash_guard_startup(void)
{
	memcpy(mon_workers->suspects, remembered, sizeof(remembered));
	if (!IsUnderPostmaster)
		on_shmem_exit(note_running_jobs, (Datum) 0);
}

/* Until when a job of this database is put off; 0 if it is not. */
TimestampTz
mon_job_put_off(const char *job, TimestampTz now)
{
	TimestampTz until = 0;
	int crashes = 0;
	MonSuspect *suspect;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	suspect = find_suspect(MyDatabaseId, job);
	if (suspect != NULL && put_off_us(suspect->crashes) > 0)
	{
		/* The clock may have stepped back. */
		suspect->until = Min(suspect->until, now + put_off_us(suspect->crashes));
		until = suspect->until;
		if (!suspect->told)
			crashes = suspect->crashes;
		suspect->told = true;
	}
	LWLockRelease(mon_workers->lock);

	if (crashes > 0)
		ereport(WARNING,
				(errmsg("monitoring job \"%s\" is put off for " INT64_FORMAT " seconds", job,
						Max(until - now, 0) / USECS_PER_SEC),
				 errdetail("It was running when the server crashed, %d times in a row.", crashes),
				 errhint("If it is the cause, disable it: UPDATE monitoring.jobs SET enabled = "
						 "false WHERE name = '%s'.",
						 job)));
	return until;
}

/* The job has come to an end, so that it is no cause of crashes. */
void
mon_job_ended(const char *job)
{
	MonSuspect *suspect;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	suspect = find_suspect(MyDatabaseId, job);
	if (suspect != NULL)
		memset(suspect, 0, sizeof(MonSuspect));
	LWLockRelease(mon_workers->lock);
}

/* For status, in any process. */
bool
mon_job_is_put_off(Oid dboid, const char *job, TimestampTz now)
{
	MonSuspect *suspect;
	bool put_off;

	LWLockAcquire(mon_workers->lock, LW_SHARED);
	suspect = find_suspect(dboid, job);
	put_off = suspect != NULL && suspect->until > now;
	LWLockRelease(mon_workers->lock);
	return put_off;
}
