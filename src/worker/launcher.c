/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: a worker for every database that has the extension.
 *
 * The launcher is connected to no database and sees shared catalogs only.
 * Whether a database has the extension only a process in it can tell, so it
 * starts a database worker, which ends at once if there is nothing to do.
 * What it learns it keeps in a local table; losing that by a restart costs a
 * new round of probes.  Workers that are still there are adopted by their
 * slots in shared memory, which only the launcher hands out.
 *
 * At most monitoring.max_workers run at a time.  When more databases want one
 * they take turns, like autovacuum's: the worker that has been there longest
 * finishes its cycle and leaves.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker_internal.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define SCAN_MS 60000 /* look through pg_database, unless woken before */
#define STAY_MS 5000  /* a worker's turn when databases queue */
#define FIRST_BACKOFF_MS 1000
#define MAX_BACKOFF_MS 60000
#define FIRST_REPROBE_MS 60000
#define MAX_REPROBE_MS 600000
#define HEALTHY_MS 60000 /* a worker that lived this long starts a new back-off */
#define CLAIM_MS 60000   /* an adopted slot must have been claimed by then */
#define NO_SLOT_RETRY_MS 10000

/* Since 15.4, 14.9: a database whose DROP was interrupted. */
#define CONNLIMIT_INVALID_DB (-2)

typedef enum DbKnown
{
	DB_UNKNOWN,
	DB_ABSENT,
	DB_PRESENT
} DbKnown;

typedef struct DbEntry
{
	Oid dboid;   /* hash key */
	bool listed; /* in the latest scan */
	DbKnown known;
	int failures; /* in a row; probes without result count too */
	TimestampTz next_try;
	TimestampTz last_served;
	int slot; /* of its running worker, or -1 */
	uint32 generation;
	BackgroundWorkerHandle *handle; /* NULL when adopted */
} DbEntry;

int mon_max_workers = 4;

static HTAB *databases = NULL;
static TimestampTz no_slot_until = 0; /* the server had no worker slot to give */
static bool no_slot_logged = false;

void
mon_worker_init(void)
{
	BackgroundWorker worker = {0};

	DefineCustomIntVariable("monitoring.max_workers", "Database workers that run at the same time.",
							"When more databases have the extension, they take turns.",
							&mon_max_workers, 4, 1, MON_MAX_DATABASES / 2, PGC_SIGHUP, 0, NULL,
							NULL, NULL);

	/* pg_upgrade must find nobody at work. */
	if (IsBinaryUpgrade)
		return;

	mon_worker_shmem_register();
	mon_ddl_guard_init();

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "monitoring", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mon_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "monitoring launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "monitoring launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

/* ms times 0.5 .. 1.5, as a time from now: what fails together shall not retry together. */
static TimestampTz
jittered(TimestampTz now, double ms)
{
	return now + (int64) (ms * 1000.0 * (0.5 + pg_prng_double(&pg_global_prng_state)));
}

static double
doubled(int first_ms, int max_ms, int times)
{
	double ms = first_ms;

	for (int i = 1; i < times && ms < max_ms; i++)
		ms *= 2;
	return Min(ms, max_ms);
}

static DbEntry *
remember_database(Oid dboid)
{
	bool found;
	DbEntry *db = hash_search(databases, &dboid, HASH_ENTER, &found);

	if (!found)
	{
		memset(db, 0, sizeof(DbEntry));
		db->dboid = dboid;
		db->slot = -1;
	}
	return db;
}

/* ---- which databases there are ---- */

static void
scan_databases(void)
{
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;
	HASH_SEQ_STATUS seq;
	DbEntry *db;

	hash_seq_init(&seq, databases);
	while ((db = hash_seq_search(&seq)) != NULL)
		db->listed = false;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (!form->datistemplate && form->datallowconn &&
			form->datconnlimit != CONNLIMIT_INVALID_DB)
			remember_database(form->oid)->listed = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	pgstat_report_stat(true);
}

/* Databases that somebody's DDL may have changed are due at once. */
static bool
take_rechecks(TimestampTz now)
{
	Oid oids[MON_MAX_RECHECKS];
	int n;
	bool all;
	HASH_SEQ_STATUS seq;
	DbEntry *db;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	n = mon_workers->nrechecks;
	all = mon_workers->recheck_all;
	memcpy(oids, mon_workers->rechecks, n * sizeof(Oid));
	mon_workers->nrechecks = 0;
	mon_workers->recheck_all = false;
	LWLockRelease(mon_workers->lock);

	for (int i = 0; i < n && !all; i++)
	{
		db = hash_search(databases, &oids[i], HASH_FIND, NULL);
		if (db)
		{
			db->next_try = now;
			db->failures = 0;
		}
	}
	if (all)
	{
		hash_seq_init(&seq, databases);
		while ((db = hash_seq_search(&seq)) != NULL)
		{
			db->next_try = now;
			db->failures = 0;
		}
	}
	return all || n > 0;
}

/* ---- what has become of the workers ---- */

/* After a restart of the launcher: the workers of the one before. */
static void
adopt_workers(void)
{
	LWLockAcquire(mon_workers->lock, LW_SHARED);
	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (mon_slot_active(slot))
		{
			DbEntry *db = remember_database(slot->dboid);

			db->slot = i;
			db->generation = slot->generation;
			db->listed = true; /* until the first scan says otherwise */
		}
	}
	LWLockRelease(mon_workers->lock);
}

/* A worker was asked for and will never come. */
static bool
never_came(const DbEntry *db, const MonWorkerSlot *slot, TimestampTz now)
{
	pid_t pid;

	if (slot->state != MON_SLOT_STARTING || slot->pid != 0)
		return false;
	if (db->handle)
		return GetBackgroundWorkerPid(db->handle, &pid) == BGWH_STOPPED;
	return mon_time_passed(slot->since, now, CLAIM_MS);
}

static void
worker_ended(DbEntry *db, MonSlotState state, TimestampTz started, bool stopped_for_ddl,
			 TimestampTz now)
{
	db->slot = -1;
	db->last_served = now;
	if (db->handle)
		pfree(db->handle);
	db->handle = NULL;

	switch (state)
	{
		case MON_SLOT_ABSENT:
			if (db->known != DB_ABSENT)
				db->failures = 0;
			db->known = DB_ABSENT;
			db->failures++;
			db->next_try = jittered(now, doubled(FIRST_REPROBE_MS, MAX_REPROBE_MS, db->failures));
			break;
		case MON_SLOT_PRESENT:
		case MON_SLOT_LEFT:
			db->known = DB_PRESENT;
			db->failures = 0;
			db->next_try = now;
			break;
		case MON_SLOT_STOPPED:
			db->failures = 0;
			db->next_try = stopped_for_ddl ? now : jittered(now, FIRST_BACKOFF_MS);
			break;
		default:
			if (mon_time_passed(started, now, HEALTHY_MS))
				db->failures = 0;
			db->failures++;
			db->next_try = jittered(now, doubled(FIRST_BACKOFF_MS, MAX_BACKOFF_MS, db->failures));
			break;
	}
}

static void
reap_database(DbEntry *db, TimestampTz now)
{
	MonWorkerSlot *slot = &mon_workers->slots[db->slot];
	MonSlotState state = MON_SLOT_FAILED;
	TimestampTz started = now;
	bool stopped_for_ddl = false;
	bool ended = true;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	if (slot->dboid == db->dboid && slot->generation == db->generation)
	{
		if (never_came(db, slot, now))
		{
			/* A late comer finds a generation that isn't his, and goes. */
			slot->generation = ++mon_workers->generation;
			slot->state = slot->stop ? MON_SLOT_STOPPED : MON_SLOT_FAILED;
		}
		ended = !mon_slot_active(slot);
		state = slot->state;
		started = slot->since;
		stopped_for_ddl = slot->stop;
		if (state == MON_SLOT_IDLE || state == MON_SLOT_RUNNING)
			db->known = DB_PRESENT;
		if (ended)
			slot->since = now;
		if (state == MON_SLOT_ABSENT)
			memset(slot, 0, sizeof(MonWorkerSlot));
	}
	LWLockRelease(mon_workers->lock);

	if (ended)
		worker_ended(db, state, started, stopped_for_ddl, now);
}

/* Forget databases that are gone, once no worker is left there. */
static void
forget_database(DbEntry *db)
{
	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (slot->dboid != db->dboid)
			continue;
		if (!mon_slot_active(slot))
			memset(slot, 0, sizeof(MonWorkerSlot));
		else
		{
			/* No longer ours to serve (a template now, say). */
			slot->leave = true;
			if (slot->latch)
				SetLatch(slot->latch);
		}
	}
	LWLockRelease(mon_workers->lock);

	if (db->slot < 0)
		hash_search(databases, &db->dboid, HASH_REMOVE, NULL);
}

static void
reap_workers(TimestampTz now)
{
	HASH_SEQ_STATUS seq;
	DbEntry *db;

	hash_seq_init(&seq, databases);
	while ((db = hash_seq_search(&seq)) != NULL)
	{
		if (db->slot >= 0)
			reap_database(db, now);
		if (!db->listed)
			forget_database(db);
	}
}

/* ---- starting workers ---- */

/*
 * The slot to use for a database: its own, a free one, or the one that has
 * been without a worker longest.  Caller holds the lock exclusively.
 */
static int
choose_slot(Oid dboid)
{
	int chosen = -1;

	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (slot->dboid == dboid)
			return i;
		if (mon_slot_active(slot))
			continue;
		if (chosen < 0 || slot->since < mon_workers->slots[chosen].since)
			chosen = i;
	}
	return chosen;
}

/* Take a slot for a worker to be; -1 if a guard is up. */
static int
prepare_slot(DbEntry *db, bool probe, TimestampTz now)
{
	int i = -1;

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	if (!mon_database_guarded(db->dboid))
		i = choose_slot(db->dboid);
	if (i >= 0)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (slot->dboid != db->dboid)
			memset(slot, 0, sizeof(MonWorkerSlot));
		slot->dboid = db->dboid;
		slot->generation = ++mon_workers->generation;
		slot->state = MON_SLOT_STARTING;
		slot->pid = 0;
		slot->latch = NULL;
		slot->since = now;
		slot->probe = probe;
		slot->stop = slot->leave = false;
		slot->running = -1;
		db->generation = slot->generation;
	}
	LWLockRelease(mon_workers->lock);
	return i;
}

static void
return_slot(int i, TimestampTz now)
{
	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	mon_workers->slots[i].state = mon_workers->slots[i].njobs > 0 ? MON_SLOT_LEFT : MON_SLOT_FREE;
	mon_workers->slots[i].since = now;
	LWLockRelease(mon_workers->lock);
}

static bool
start_worker(DbEntry *db, bool probe, TimestampTz now)
{
	BackgroundWorker worker = {0};
	MonWorkerTask task;
	MemoryContext old_cxt;
	bool registered;

	task.slot = prepare_slot(db, probe, now);
	if (task.slot < 0)
	{
		/* The end of the guard wakes us. */
		db->next_try = now + SCAN_MS * INT64CONST(1000);
		return false;
	}
	task.dboid = db->dboid;
	task.generation = db->generation;
	StaticAssertStmt(sizeof(task) <= BGW_EXTRALEN, "task does not fit into bgw_extra");

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &task, sizeof(task));
	strlcpy(worker.bgw_library_name, "monitoring", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mon_database_worker_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, BGW_MAXLEN, "monitoring worker for database %u", db->dboid);
	strlcpy(worker.bgw_type, "monitoring worker", sizeof(worker.bgw_type));

	old_cxt = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &db->handle);
	MemoryContextSwitchTo(old_cxt);
	if (registered)
	{
		db->slot = task.slot;
		no_slot_logged = false;
		return true;
	}

	db->handle = NULL;
	return_slot(task.slot, now);
	no_slot_until = now + NO_SLOT_RETRY_MS * INT64CONST(1000);
	if (!no_slot_logged)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("monitoring found no free worker slot for database %u", db->dboid),
				 errdetail("The launcher keeps trying."),
				 errhint("Consider increasing max_worker_processes.")));
	no_slot_logged = true;
	return false;
}

/* The database that has waited longest; first those known to have the extension. */
static DbEntry *
next_candidate(TimestampTz now, bool unprobed_only, TimestampTz *wake_at)
{
	DbEntry *best = NULL;
	HASH_SEQ_STATUS seq;
	DbEntry *db;

	hash_seq_init(&seq, databases);
	while ((db = hash_seq_search(&seq)) != NULL)
	{
		if (db->slot >= 0 || !db->listed || (unprobed_only && db->known == DB_PRESENT))
			continue;
		if (db->next_try > now)
			*wake_at = Min(*wake_at, db->next_try);
		else if (best == NULL || (db->known == DB_PRESENT) > (best->known == DB_PRESENT) ||
				 ((db->known == DB_PRESENT) == (best->known == DB_PRESENT) &&
				  db->last_served < best->last_served))
			best = db;
	}
	return best;
}

static int
count_waiting(TimestampTz now)
{
	int n = 0;
	HASH_SEQ_STATUS seq;
	DbEntry *db;

	hash_seq_init(&seq, databases);
	while ((db = hash_seq_search(&seq)) != NULL)
		if (db->slot < 0 && db->listed && db->known == DB_PRESENT && db->next_try <= now)
			n++;
	return n;
}

static void
count_active(int *workers, int *probes, int *leaving)
{
	*workers = *probes = *leaving = 0;
	LWLockAcquire(mon_workers->lock, LW_SHARED);
	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (!mon_slot_active(slot))
			continue;
		if (slot->probe)
			(*probes)++;
		else
			(*workers)++;
		if (slot->leave || slot->stop)
			(*leaving)++;
	}
	LWLockRelease(mon_workers->lock);
}

/* Ask the `wanted` workers that have been there longest to leave after their turn. */
static void
ask_to_leave(int wanted, int stay_ms, TimestampTz now, TimestampTz *wake_at)
{
	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	while (wanted-- > 0)
	{
		MonWorkerSlot *oldest = NULL;

		for (int i = 0; i < MON_MAX_DATABASES; i++)
		{
			MonWorkerSlot *slot = &mon_workers->slots[i];

			if (mon_slot_active(slot) && slot->latch != NULL && !slot->probe && !slot->leave &&
				!slot->stop && (oldest == NULL || slot->since < oldest->since))
				oldest = slot;
		}
		if (oldest == NULL)
			break;
		if (!mon_time_passed(oldest->since, now, stay_ms))
		{
			*wake_at = Min(*wake_at, oldest->since + stay_ms * INT64CONST(1000));
			break;
		}
		oldest->leave = true;
		SetLatch(oldest->latch);
	}
	LWLockRelease(mon_workers->lock);
}

/* Start what is due and can be; *wake_at becomes the time to look again. */
static void
start_workers(TimestampTz now, TimestampTz *wake_at)
{
	int workers;
	int probes;
	int leaving;
	int waiting;
	DbEntry *db;

	if (no_slot_until > now)
	{
		*wake_at = Min(*wake_at, no_slot_until);
		return;
	}

	count_active(&workers, &probes, &leaving);
	while (workers < mon_max_workers && (db = next_candidate(now, false, wake_at)) != NULL)
	{
		if (start_worker(db, false, now))
			workers++;
		else if (no_slot_until > now)
			return;
	}

	/* All places taken: one probe at a time may still look for more databases. */
	while (workers >= mon_max_workers && probes == 0 &&
		   (db = next_candidate(now, true, wake_at)) != NULL)
	{
		if (start_worker(db, true, now))
			probes++;
		else if (no_slot_until > now)
			return;
	}

	if (workers > mon_max_workers + leaving)
		ask_to_leave(workers - mon_max_workers - leaving, 0, now, wake_at);
	waiting = count_waiting(now);
	if (workers >= mon_max_workers && waiting > leaving)
		ask_to_leave(waiting - leaving, STAY_MS, now, wake_at);
}

/* ---- main ---- */

static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	mon_workers->launcher_pid = 0;
	mon_workers->launcher_latch = NULL;
	LWLockRelease(mon_workers->lock);
}

static void
launcher_start(void)
{
	HASHCTL info = {.keysize = sizeof(Oid), .entrysize = sizeof(DbEntry)};

	mon_worker_unblock_signals(SignalHandlerForShutdownRequest);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	mon_worker_pin_settings(false);

	databases = hash_create("monitoring databases", 64, &info, HASH_ELEM | HASH_BLOBS);

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	mon_workers->launcher_pid = MyProcPid;
	mon_workers->launcher_latch = MyLatch;
	mon_workers->launcher_since = GetCurrentTimestamp();
	LWLockRelease(mon_workers->lock);
	before_shmem_exit(launcher_exit, (Datum) 0);
	adopt_workers();
}

/* What was put off would have to wait for a time that comes a second time. */
static void
clock_stepped_back(void)
{
	no_slot_until = 0;
	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	mon_workers->recheck_all = true;
	LWLockRelease(mon_workers->lock);
}

void
mon_launcher_main(Datum arg)
{
	TimestampTz next_scan = 0;
	TimestampTz last_now = 0;

	launcher_start();

	while (!ShutdownRequestPending)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz wake_at;

		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		if (now < last_now)
			clock_stepped_back();
		last_now = now;
		reap_workers(now);
		if (take_rechecks(now) || now >= next_scan)
		{
			scan_databases();
			next_scan = now + SCAN_MS * INT64CONST(1000);
			/* Forget those that have vanished, and free their slots. */
			reap_workers(now);
		}
		wake_at = next_scan;
		start_workers(now, &wake_at);

		(void) WaitLatch(
			MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
			Min(Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wake_at)), SCAN_MS),
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
