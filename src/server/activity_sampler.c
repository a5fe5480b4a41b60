/*-------------------------------------------------------------------------
 *
 * activity_sampler.c
 *	  The process that looks every second at what active sessions wait for.
 *
 * It is connected to no database, runs no transaction and waits for no lock, so
 * it keeps time whatever the server is stuck in, also on a standby.  It reads the
 * shared arrays of processes and of their statuses where they are: a session's
 * status and wait event are taken together, under the status' change counter, so
 * that a session which goes idle meanwhile is not seen active and waiting for its
 * client.  Of a session that waits for a lock it asks who holds it only if the
 * lock table's partition is free at that moment.
 *
 *-------------------------------------------------------------------------
 */
#include "server/activity_internal.h"
#include "server/server.h"

#include "libpq/pqcomm.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "worker/worker.h"

#include <netinet/in.h>

#define CLASS_MASK 0xFF000000U
#define READ_ATTEMPTS 10 /* of a status that is being changed */
#define MAX_STEPS 1000   /* along the lists of one lock */
#define MAX_LOOKUPS 1000 /* of blockers, for each sample of all sessions */
#define MAX_SLEEP_MS 60000

int mon_activity_interval = 1000;

/* A sample of all sessions, before it is in shared memory. */
static ActivitySample *samples = NULL;
static int *procnos = NULL;

/* ---- who is active ---- */

/*
 * Whether a process does something or waits for something that it needs to go
 * on.  What waits for work, or a walsender for more of the log, does not.
 */
static bool
is_active(const ActivitySample *s)
{
	uint32 class = s->wait_event_info & CLASS_MASK;

	if (class == PG_WAIT_ACTIVITY)
		return false;
	switch (s->state)
	{
		case STATE_RUNNING:
		case STATE_FASTPATH:
			return s->backend_type != B_WAL_SENDER || class != PG_WAIT_CLIENT;
		case STATE_UNDEFINED: /* reports no state, as auxiliary processes */
		case STATE_DISABLED:
			return class != PG_WAIT_CLIENT && class != PG_WAIT_EXTENSION;
		default:
			return false;
	}
}

static void
copy_client(ActivitySample *s, const SockAddr *address)
{
	if (address->addr.ss_family == AF_INET)
	{
		s->client_family = 4;
		memcpy(s->client_address, &((const struct sockaddr_in *) &address->addr)->sin_addr, 4);
	}
	else if (address->addr.ss_family == AF_INET6)
	{
		s->client_family = 6;
		memcpy(s->client_address, &((const struct sockaddr_in6 *) &address->addr)->sin6_addr, 16);
	}
}

/* What a process does, from its own entries; the change counter vouches for the whole. */
static void
copy_status(ActivitySample *s, const PgBackendStatus *status, const PGPROC *proc)
{
	s->state = status->st_state;
	s->backend_type = status->st_backendType;
	s->wait_event_info = *(volatile uint32 *) &proc->wait_event_info;
	if (!is_active(s))
		return;
	s->xact_start = status->st_xact_start_timestamp;
	s->query_start = status->st_activity_start_timestamp;
	s->queryid = status->st_query_id;
	s->dbid = status->st_databaseid;
	s->userid = status->st_userid;
	s->client_family = 0;
	copy_client(s, &status->st_clientaddr);
	strlcpy(s->application, status->st_appname, sizeof(s->application));
}

/* False if the process is gone, idle, or changes too fast to be read. */
static bool
sample_process(ActivitySample *s, PgBackendStatus *status, const PGPROC *proc)
{
	for (int i = 0; i < READ_ATTEMPTS; i++)
	{
		int before;
		int after;

		pgstat_begin_read_activity((volatile PgBackendStatus *) status, before);
		if (status->st_procpid != s->pid)
			return false;
		copy_status(s, status, proc);
		pgstat_end_read_activity((volatile PgBackendStatus *) status, after);
		if (pgstat_read_activity_complete(before, after))
			return is_active(s);
	}
	return false;
}

/* ---- who is in the way ---- */

static bool
same_group(const PGPROC *a, const PGPROC *b)
{
	return a == b || (a->lockGroupLeader != NULL && a->lockGroupLeader == b->lockGroupLeader);
}

/* Who holds what a process waits for, or else waits before it; the lock's partition is locked. */
static int
find_blocker(const LOCK *lock, const PGPROC *waiter)
{
	LOCKMASK conflicts = GetLocksMethodTable(lock)->conflictTab[waiter->waitLockMode];
	int steps = 0;
	PROCLOCK *held;
	PGPROC *ahead;

	MON_FOREACH_PROCLOCK(held, (LOCK *) lock)
	{
		if (++steps > MAX_STEPS)
			return 0;
		if ((held->holdMask & conflicts) && !same_group(held->tag.myProc, waiter))
			return held->tag.myProc->pid ? held->tag.myProc->pid : ACTIVITY_BLOCKED_BY_PREPARED;
	}
	MON_FOREACH_WAITER(ahead, (LOCK *) lock)
	{
		if (ahead == waiter || ++steps > MAX_STEPS)
			return 0;
		if ((LOCKBIT_ON(ahead->waitLockMode) & conflicts) && !same_group(ahead, waiter))
			return ahead->pid;
	}
	return 0;
}

/*
 * The lock that a process waits for is read without a lock, to know which one
 * guards it: locks stay in shared memory, though as another one perhaps, so what
 * was read is compared once it cannot change.
 */
static int
blocker_of(PGPROC *waiter)
{
	LOCK *lock = *(LOCK *volatile *) &waiter->waitLock;
	LOCKTAG tag;
	LWLock *partition;
	int pid = 0;

	if (lock == NULL)
		return 0;
	tag = lock->tag;
	partition = LockHashPartitionLock(LockTagHashCode(&tag));
	if (!LWLockConditionalAcquire(partition, LW_SHARED))
		return 0;
	if (waiter->waitLock == lock && memcmp(&lock->tag, &tag, sizeof(tag)) == 0)
		pid = find_blocker(lock, waiter);
	LWLockRelease(partition);
	return pid;
}

/* ---- all of them ---- */

static int
leader_of(const PGPROC *proc)
{
	const PGPROC *leader = *(PGPROC *volatile *) &proc->lockGroupLeader;

	return leader != NULL && leader != proc ? leader->pid : 0;
}

static void
take_sample(void)
{
	PgBackendStatus *statuses = mon_backend_statuses();
	TimestampTz now = GetCurrentTimestamp();
	int lookups = 0;
	int n = 0;

	for (int i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC *proc = &ProcGlobal->allProcs[i];
		ActivitySample *s = &samples[n];
		PgBackendStatus *status;

		s->pid = *(volatile int *) &proc->pid;
		if (s->pid == 0 || s->pid == MyProcPid)
			continue;
		status = mon_backend_status(statuses, i, proc);
		if (status == NULL || !sample_process(s, status, proc))
			continue;
		s->at = now;
		s->interval_ms = mon_activity_interval;
		s->leader_pid = leader_of(proc);
		s->blocked_by_pid = 0;
		if ((s->wait_event_info & CLASS_MASK) == PG_WAIT_LOCK && lookups++ < MAX_LOOKUPS)
			s->blocked_by_pid = blocker_of(proc);
		procnos[n++] = i;
	}
	mon_activity_add(samples, procnos, n);
}

/* ---- the process ---- */

static void
sampler_start(void)
{
	mon_worker_unblock_signals(SignalHandlerForShutdownRequest);
	/* Without a status of its own it would neither find that of others nor be seen. */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	samples = MemoryContextAllocZero(TopMemoryContext,
									 ProcGlobal->allProcCount * sizeof(ActivitySample));
	procnos = MemoryContextAllocZero(TopMemoryContext, ProcGlobal->allProcCount * sizeof(int));
}

/* Milliseconds until the next sample is due, and when that is; a clock that stepped is followed. */
static long
time_to_sleep(TimestampTz *due)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz latest = TimestampTzPlusMilliseconds(now, mon_activity_interval);

	if (mon_activity_interval == 0)
		return MAX_SLEEP_MS;
	if (*due > latest)
		*due = latest;
	return *due <= now ? 0 : TimestampDifferenceMilliseconds(now, *due);
}

void
mon_activity_sampler_main(Datum arg)
{
	TimestampTz due = 0;

	sampler_start();
	while (!ShutdownRequestPending)
	{
		long sleep;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		sleep = time_to_sleep(&due);
		if (sleep == 0)
		{
			take_sample();
			due = Max(TimestampTzPlusMilliseconds(due, mon_activity_interval),
					  GetCurrentTimestamp());
			continue;
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, sleep,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		/* A cancel has nothing to cancel here. */
		HOLD_CANCEL_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		RESUME_CANCEL_INTERRUPTS();
		QueryCancelPending = false;
	}

	/* Exit status 0 would mean "never again"; say so only when the server goes, too. */
	proc_exit(mon_server_stopping() ? 0 : 1);
}

void
mon_activity_sampler_init(void)
{
	BackgroundWorker worker = {0};

	DefineCustomIntVariable("monitoring.activity_interval",
							"Time between two samples of what active sessions wait for.",
							"0 takes none.", &mon_activity_interval, 1000, 0, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	if (IsBinaryUpgrade)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "monitoring", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mon_activity_sampler_main",
			sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "monitoring sampler", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "monitoring sampler", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
