/*-------------------------------------------------------------------------
 *
 * job_list.h
 *	  The jobs of a database as its worker knows them: see job_list.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_JOB_LIST_H
#define MONITORING_JOB_LIST_H

#include "worker/worker_internal.h"

#include "nodes/pg_list.h"

#define MON_MAX_SLEEP_MS 60000 /* the list is read at least this often */

typedef struct MonJob
{
	char *name;
	char *call; /* quoted name of the function */
	char *owner;
	char *setting;           /* that gives the interval, or NULL */
	int64 interval;          /* microseconds; 0 when the setting gives none */
	const char *no_interval; /* why not */
	int timeout;             /* ms */
	bool durable;
	bool run_at_shutdown;
	bool run_on_wake;
	const char *last_state;
	char *last_error;
	TimestampTz at;    /* of this run */
	const char *error; /* of this run */
	int code;          /* its SQLSTATE */
} MonJob;

/* The enabled jobs, MonJob, in the order they run. */
extern List *mon_job_list(void);

/* It is to be read again. */
extern void mon_job_list_outdated(void);

/* It could not be read: there is none. */
extern void mon_job_list_forget(void);

/*
 * Read the list if that is due; returns whether it is a new one, to be entered
 * once the transaction has committed.  The caller has locked the extension.
 */
extern bool mon_job_list_refresh(void);

/* Make the slot's jobs those of the list; what stays keeps its counters. */
extern void mon_job_list_enter(MonWorkerSlot *slot);

/* A job's counters in the slot of the calling worker; NULL if it has no place there. */
extern MonJobStats *mon_job_stats(MonWorkerSlot *slot, const char *name);

/* How the latest run ended, as the job's row has it now. */
extern void mon_job_remember_outcome(MonJob *job);

#endif /* MONITORING_JOB_LIST_H */
