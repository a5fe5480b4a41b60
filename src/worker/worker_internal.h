/*-------------------------------------------------------------------------
 *
 * worker_internal.h
 *	  Shared memory of the launcher and the database workers.
 *
 * Everything in MonWorkerControl is guarded by its lock.  Latches are those
 * of PGPROCs, which stay in shared memory: setting one whose owner has just
 * gone wakes a stranger for nothing and is harmless.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_WORKER_INTERNAL_H
#define MONITORING_WORKER_INTERNAL_H

#include "worker/worker.h"

#include "storage/latch.h"
#include "utils/timestamp.h"

#define MON_MAX_DATABASES 64 /* databases whose counters are kept */
#define MON_MAX_JOBS 64      /* jobs of one database */
#define MON_MAX_RECHECKS 16  /* databases to look at again, before "all" */
#define MON_MAX_SUSPECTS 64  /* jobs that were running when the server crashed */

typedef enum MonSlotState
{
	MON_SLOT_FREE = 0,
	/* a process is there, or will be */
	MON_SLOT_STARTING, /* asked for; the process has not claimed its slot or is connecting */
	MON_SLOT_IDLE,     /* waits for the next job */
	MON_SLOT_RUNNING,  /* runs a job */
	/* the process is gone, and why */
	MON_SLOT_ABSENT,  /* the database does not have the extension */
	MON_SLOT_PRESENT, /* it has: all that a probe wanted to know */
	MON_SLOT_LEFT,    /* gave its place to another database */
	MON_SLOT_STOPPED, /* SIGTERM */
	MON_SLOT_FAILED   /* anything else */
} MonSlotState;

typedef struct MonJobStats
{
	NameData name;
	int64 runs;
	int64 failures;
	TimestampTz last_run; /* start of the latest run, 0 if none */
	double duration;      /* seconds, of the latest run */
	double lag;           /* seconds by which the latest run started late */
	TimestampTz anchor;   /* when the latest run was due; the next is an interval later */
	int64 interval;       /* microseconds, 0 while unknown */
	bool failed;          /* outcome of the latest run */
	int code;             /* SQLSTATE of its error */
	uint32 told;          /* hash of the error that was last logged and to be recorded, 0 none */
	TimestampTz told_at;
} MonJobStats;

/*
 * One database.  The launcher alone gives slots to databases; a slot keeps
 * its counters when its worker ends, until another database needs it.
 */
typedef struct MonWorkerSlot
{
	Oid dboid;
	uint32 generation; /* of the worker the slot was last given to */
	MonSlotState state;
	int pid; /* 0 until the worker has claimed the slot and after its end */
	Latch *latch;
	TimestampTz since; /* start of the worker, or of its end */
	bool probe;        /* only look whether the extension is there */
	bool stop;         /* get out of DDL's way at once */
	bool leave;        /* end after this cycle: another database waits */
	bool woken;        /* mon_worker_wake() */
	bool jobs_changed; /* the list is to be read again */
	int running;       /* index of the running job, or -1 */
	int njobs;
	MonJobStats jobs[MON_MAX_JOBS];
} MonWorkerSlot;

/* A backend that keeps workers out of a database. */
typedef struct MonGuard
{
	Oid dboid;     /* until its transaction ends; InvalidOid: none */
	bool all;      /* more than one: out of every database */
	Oid restoring; /* until it has restored the dump of this database; InvalidOid: none */
} MonGuard;

/* A job that was running when the server crashed and has come to no end since. */
typedef struct MonSuspect
{
	Oid dboid; /* InvalidOid: place is free */
	NameData job;
	int crashes;
	TimestampTz until; /* it does not run before */
	bool told;         /* it is in the log */
} MonSuspect;

typedef struct MonWorkerControl
{
	LWLock *lock;
	int launcher_pid;
	Latch *launcher_latch;
	TimestampTz launcher_since;
	uint32 generation;
	bool recheck_all; /* look at every database again */
	int nrechecks;
	Oid rechecks[MON_MAX_RECHECKS];
	MonWorkerSlot slots[MON_MAX_DATABASES];
	MonSuspect suspects[MON_MAX_SUSPECTS];
	int nguards;
	MonGuard guards[FLEXIBLE_ARRAY_MEMBER]; /* by process number of the backend */
} MonWorkerControl;

/* worker_status.c */
extern MonWorkerControl *mon_workers;
extern void mon_worker_shmem_register(void);
extern void mon_launcher_wake(void);

/* A disk is full or gives errors. */
extern bool mon_is_disk_error(int sqlerrcode);

static inline bool
mon_slot_active(const MonWorkerSlot *slot)
{
	return slot->state >= MON_SLOT_STARTING && slot->state <= MON_SLOT_RUNNING;
}

/* Whether ms have passed; a time to come was noted before the clock stepped back: long ago. */
static inline bool
mon_time_passed(TimestampTz since, TimestampTz now, int ms)
{
	return since > now || TimestampDifferenceExceeds(since, now, ms);
}

/* launcher.c */
extern int mon_max_workers;
extern PGDLLEXPORT void mon_launcher_main(Datum arg);

/* database_worker.c */
extern PGDLLEXPORT void mon_database_worker_main(Datum arg);

/* What the launcher hands to a database worker in bgw_extra. */
typedef struct MonWorkerTask
{
	Oid dboid;
	uint32 generation;
	int slot;
} MonWorkerTask;

/* crash_guard.c */
extern void mon_crash_guard_startup(void);
extern TimestampTz mon_job_put_off(const char *job, TimestampTz now);
extern void mon_job_ended(const char *job);
extern bool mon_job_is_put_off(Oid dboid, const char *job, TimestampTz now);

/* ddl_guard.c */
extern void mon_ddl_guard_init(void);
extern bool mon_database_guarded(Oid dboid);

#endif /* MONITORING_WORKER_INTERNAL_H */
