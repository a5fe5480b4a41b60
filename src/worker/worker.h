/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Launcher, database workers and their periodic jobs.
 *
 * Jobs are rows of monitoring.jobs; a slice adds its own with INSERT in its
 * SQL file, and the worker knows none of them by name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_WORKER_H
#define MONITORING_WORKER_H

#include "core/core.h"

extern void mon_worker_init(void);

/* Wake this database's worker now, e.g. because a job has become due.  Takes no heavyweight lock. */
extern void mon_worker_wake(Oid dboid, bool jobs_changed);

/*
 * The SQLSTATE of a job of this database that failed, the last time it ran, as
 * a disk is full or gives errors; 0 if there is none.
 */
extern int mon_worker_disk_error(Oid dboid);

/*
 * Another slice's worker that is connected to a database and must get out of
 * DDL's way with the database worker: stop() tells it to, active() says whether
 * it is still there.  Call from X_init().
 */
typedef struct MonCompanion
{
	void (*stop)(Oid dboid);
	bool (*active)(Oid dboid);
} MonCompanion;

extern void mon_worker_register_companion(const MonCompanion *companion);

/*
 * Whether DDL keeps our workers out of the database now.  A companion asks
 * after stop() and active() can find it and before it connects.
 */
extern bool mon_worker_kept_out(Oid dboid);

/*
 * The first that every worker of ours does: SIGHUP has it read the settings
 * again, as it does once anyhow; SIGTERM is for the handler given.
 */
extern void mon_worker_unblock_signals(pqsigfunc terminate);

/*
 * Session settings every worker of ours pins against ALTER DATABASE/ROLE SET:
 * synchronous_commit, read-write, isolation, TimeZone, jit, parallelism,
 * search_path, timeouts.  Call after connecting to the database.
 */
extern void mon_worker_pin_settings(bool durable);

/* Whether the server is being stopped, and not only one of its processes. */
extern bool mon_server_stopping(void);

#endif /* MONITORING_WORKER_H */
