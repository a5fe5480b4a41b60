/*-------------------------------------------------------------------------
 *
 * job_list.c
 *	  The jobs of a database as its worker knows them.
 *
 * The rows of monitoring.jobs are read when a trigger says that they have
 * changed, when the settings have, and once a minute, since triggers can be
 * switched off.  What has become of the jobs is in the worker's slot in shared
 * memory, where the next worker finds it; the slot is written under
 * mon_workers->lock.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/job_list.h"

#include "common/pg_prng.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A first run is put off by up to a tenth of the interval, at most this. */
#define MAX_JITTER_MS 60000

static MemoryContext jobs_cxt = NULL; /* of the list, reset when it is read */
static List *jobs = NIL;
static bool jobs_stale = true; /* to be read */
static TimestampTz jobs_read_at = 0;

List *
mon_job_list(void)
{
	return jobs;
}

void
mon_job_list_outdated(void)
{
	jobs_stale = true;
}

void
mon_job_list_forget(void)
{
	jobs = NIL;
	jobs_stale = true;
}

/* ---- reading ---- */

static char *
column_text(HeapTuple tuple, TupleDesc desc, int column)
{
	char *value = SPI_getvalue(tuple, desc, column);

	return value ? MemoryContextStrdup(jobs_cxt, value) : NULL;
}

static bool
column_bool(HeapTuple tuple, TupleDesc desc, int column)
{
	bool isnull;

	return DatumGetBool(SPI_getbinval(tuple, desc, column, &isnull)) && !isnull;
}

static int64
column_int64(HeapTuple tuple, TupleDesc desc, int column)
{
	bool isnull;
	Datum datum = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(datum);
}

/* Microseconds; 0 unless it is a whole positive number of milliseconds. */
static int64
interval_of_setting(const char *value)
{
	char *end;
	long ms = strtol(value, &end, 10);

	return *value != '\0' && *end == '\0' && ms > 0 && ms <= INT_MAX ? ms * INT64CONST(1000) : 0;
}

static MonJob *
job_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	MonJob *job = MemoryContextAllocZero(jobs_cxt, sizeof(MonJob));

	job->name = column_text(tuple, desc, 1);
	job->call = column_text(tuple, desc, 2);
	job->owner = column_text(tuple, desc, 3);
	job->setting = column_text(tuple, desc, 4);
	job->interval = column_int64(tuple, desc, 5);
	job->timeout = (int) Min(column_int64(tuple, desc, 6), INT_MAX);
	job->durable = column_bool(tuple, desc, 7);
	job->run_at_shutdown = column_bool(tuple, desc, 8);
	job->run_on_wake = column_bool(tuple, desc, 9);
	job->last_state = column_text(tuple, desc, 10);
	job->last_error = column_text(tuple, desc, 11);

	/* Custom settings in ms: their plain number is in ms, too. */
	if (job->setting)
	{
		const char *value = GetConfigOption(job->setting, true, false);

		job->no_interval = value ? "is no positive number" : "does not exist";
		job->interval = value ? interval_of_setting(value) : 0;
	}
	return job;
}

static void
read_jobs(void)
{
	MemoryContext old_cxt;

	if (jobs_cxt == NULL)
		jobs_cxt = AllocSetContextCreate(TopMemoryContext, "monitoring jobs",
										 ALLOCSET_DEFAULT_SIZES);
	jobs = NIL;
	MemoryContextReset(jobs_cxt);

	SPI_connect();
	if (SPI_execute("SELECT name::text,"
					"       (SELECT string_agg(quote_ident(i), '.')"
					"        FROM unnest(parse_ident(function)) i),"
					"       owner::text, setting,"
					"       (extract(epoch FROM every) * 1000000)::bigint,"
					"       ceil(extract(epoch FROM timeout) * 1000)::bigint,"
					"       durable, run_at_shutdown, run_on_wake, last_state, last_error"
					"  FROM monitoring.jobs WHERE enabled ORDER BY priority, name",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read monitoring.jobs");
	old_cxt = MemoryContextSwitchTo(jobs_cxt);
	for (uint64 i = 0; i < SPI_processed; i++)
		jobs = lappend(jobs, job_from_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
	MemoryContextSwitchTo(old_cxt);
	SPI_finish();
}

bool
mon_job_list_refresh(void)
{
	if (!jobs_stale && !mon_time_passed(jobs_read_at, GetCurrentTimestamp(), MON_MAX_SLEEP_MS))
		return false;
	read_jobs();
	return true;
}

/* ---- the slot ---- */

/* Only the worker itself changes the jobs of its slot, so reading needs no lock. */
MonJobStats *
mon_job_stats(MonWorkerSlot *slot, const char *name)
{
	for (int i = 0; i < slot->njobs; i++)
		if (strcmp(NameStr(slot->jobs[i].name), name) == 0)
			return &slot->jobs[i];
	return NULL;
}

/* When a job that has never run is run first: soon, but not with all the others. */
static TimestampTz
first_anchor(TimestampTz now, int64 interval)
{
	double jitter = Min(interval / 10, MAX_JITTER_MS * INT64CONST(1000));

	return now - interval + (int64) (jitter * pg_prng_double(&pg_global_prng_state));
}

void
mon_job_list_enter(MonWorkerSlot *slot)
{
	static bool too_many_logged = false;
	TimestampTz now = GetCurrentTimestamp();
	MonJobStats *stats = palloc0(MON_MAX_JOBS * sizeof(MonJobStats));
	int n = 0;
	ListCell *lc;

	foreach (lc, jobs)
	{
		MonJob *job = lfirst(lc);
		MonJobStats *known = mon_job_stats(slot, job->name);

		if (n >= MON_MAX_JOBS)
		{
			if (!too_many_logged)
				ereport(WARNING,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("monitoring runs only the first %d jobs of the database",
								MON_MAX_JOBS)));
			too_many_logged = true;
			break;
		}
		if (known)
			stats[n] = *known;
		else
			namestrcpy(&stats[n].name, job->name);
		if (stats[n].anchor == 0 && job->interval > 0)
			stats[n].anchor = first_anchor(now, job->interval);
		stats[n].interval = job->interval;
		n++;
	}

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	memcpy(slot->jobs, stats, n * sizeof(MonJobStats));
	slot->njobs = n;
	LWLockRelease(mon_workers->lock);
	jobs_stale = false;
	jobs_read_at = now;
}

void
mon_job_remember_outcome(MonJob *job)
{
	job->last_state = job->error ? "failed" : "ok";
	if (job->error == NULL)
		return;
	if (job->last_error)
		pfree(job->last_error);
	job->last_error = MemoryContextStrdup(jobs_cxt, job->error);
}
