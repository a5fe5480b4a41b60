/*-------------------------------------------------------------------------
 *
 * ddl_guard.c
 *	  Getting out of the way of commands that our workers would block.
 *
 * DROP, RENAME and SET TABLESPACE of a database and CREATE DATABASE from a
 * template fail while anybody is connected to it; DROP and ALTER EXTENSION
 * could deadlock with a job.  Before such a command we put up a guard (no
 * worker is started there until the transaction ends) and stop the worker
 * that is there.  At the end of the transaction, either way, the guard falls
 * and the launcher looks at those databases again.
 *
 * A session that restores a dump keeps workers out until it ends: they would
 * make partitions and write rows that the dump is about to bring.  Like the
 * server itself, we know it by check_function_bodies, which pg_dump turns off
 * in what it writes.
 *
 * Guards and the slots' stop flags are set under mon_workers->lock, where the
 * launcher also looks before it starts a worker and a worker before it
 * connects: nobody slips through in between.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker_internal.h"
#include "core/transaction.h"

#include <signal.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define STOP_WAIT_MS 5000 /* as long as DROP DATABASE itself waits for others */

static ProcessUtility_hook_type prev_ProcessUtility = NULL;

/* What the end of this transaction has to do. */
static bool guarding = false;
static bool restoring = false;     /* lasts beyond the transaction */
static bool wake_launcher = false; /* on commit: look at this database again */
static bool wake_worker = false;   /* on commit: there is something to do for it */
static bool jobs_changed = false;  /* on commit: it reads the list of jobs again */
static MonTransactionPart guard_part;

PG_FUNCTION_INFO_V1(mon_wake_worker);

/* Caller holds mon_workers->lock. */
bool
mon_database_guarded(Oid dboid)
{
	if (mon_workers->nguards == 0)
		return false;
	for (int i = 0; i < MaxBackends; i++)
		if (mon_workers->guards[i].all || mon_workers->guards[i].dboid == dboid ||
			mon_workers->guards[i].restoring == dboid)
			return true;
	return false;
}

/* Caller holds mon_workers->lock exclusively. */
static void
add_recheck(Oid dboid)
{
	if (mon_workers->nrechecks < MON_MAX_RECHECKS)
		mon_workers->rechecks[mon_workers->nrechecks++] = dboid;
	else
		mon_workers->recheck_all = true;
}

#define MAX_COMPANIONS 4

static MonCompanion companions[MAX_COMPANIONS];
static int ncompanions = 0;

void
mon_worker_register_companion(const MonCompanion *companion)
{
	if (ncompanions >= MAX_COMPANIONS)
		elog(FATAL, "too many companions of the database worker");
	companions[ncompanions++] = *companion;
}

bool
mon_worker_kept_out(Oid dboid)
{
	bool guarded;

	LWLockAcquire(mon_workers->lock, LW_SHARED);
	guarded = mon_database_guarded(dboid);
	LWLockRelease(mon_workers->lock);
	return guarded;
}

/* Put up the guard and tell the worker to stop; its pid, or 0 when there is none. */
static void
put_up_guard(Oid dboid)
{
	MonGuard *guard = &mon_workers->guards[MonMyProcNumber];

	mon_transaction_join(&guard_part);
	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	if (!OidIsValid(guard->dboid))
	{
		guard->dboid = dboid;
		mon_workers->nguards++;
	}
	else if (guard->dboid != dboid)
		guard->all = true;
	guarding = true;

	for (int i = 0; i < MON_MAX_DATABASES; i++)
	{
		MonWorkerSlot *slot = &mon_workers->slots[i];

		if (slot->dboid != dboid || !mon_slot_active(slot) || slot->pid == MyProcPid)
			continue;
		slot->stop = true;
		if (slot->pid != 0)
			kill(slot->pid, SIGTERM);
	}
	LWLockRelease(mon_workers->lock);

	for (int i = 0; i < ncompanions; i++)
		companions[i].stop(dboid);
}

static bool
worker_active(Oid dboid)
{
	bool active = false;

	LWLockAcquire(mon_workers->lock, LW_SHARED);
	for (int i = 0; i < MON_MAX_DATABASES && !active; i++)
		active = mon_workers->slots[i].dboid == dboid && mon_slot_active(&mon_workers->slots[i]) &&
			mon_workers->slots[i].pid != MyProcPid && mon_workers->slots[i].pid != 0;
	LWLockRelease(mon_workers->lock);

	for (int i = 0; i < ncompanions && !active; i++)
		active = companions[i].active(dboid);
	return active;
}

/*
 * Keep our workers out of a database until the end of the transaction.  If a
 * worker does not go in time, the command itself says what stands in its way.
 */
static void
guard_database(Oid dboid)
{
	TimestampTz start = GetCurrentTimestamp();

	put_up_guard(dboid);
	while (worker_active(dboid) && !mon_time_passed(start, GetCurrentTimestamp(), STOP_WAIT_MS))
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * Whether the user may do such a thing to the database.  The command checks
 * that itself, later; until then nobody may stop workers that aren't his.
 */
static bool
may_disturb(Oid dboid, bool as_template)
{
	HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	bool allowed;

	if (!HeapTupleIsValid(tuple))
		return false;
	allowed = has_privs_of_role(GetUserId(), ((Form_pg_database) GETSTRUCT(tuple))->datdba) ||
		(as_template && ((Form_pg_database) GETSTRUCT(tuple))->datistemplate);
	ReleaseSysCache(tuple);

	if (allowed && as_template && !superuser())
	{
		tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
		allowed = HeapTupleIsValid(tuple) && ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		if (HeapTupleIsValid(tuple))
			ReleaseSysCache(tuple);
	}
	return allowed;
}

static void
guard_database_name(const char *name, bool as_template)
{
	Oid dboid = get_database_oid(name, true);

	if (OidIsValid(dboid) && may_disturb(dboid, as_template))
		guard_database(dboid);
}

static DefElem *
find_option(List *options, const char *name)
{
	ListCell *lc;

	foreach (lc, options)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

/* Owner of our extension in this database, InvalidOid when it isn't there. */
static Oid
extension_owner(void)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("monitoring"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

static void
guard_extension(void)
{
	Oid owner = extension_owner();

	if (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner))
		guard_database(MyDatabaseId);
}

/* Of the extension, or of its schema with all that is in it. */
static bool
drops_extension(DropStmt *stmt)
{
	ListCell *lc;

	if (stmt->removeType != OBJECT_EXTENSION && stmt->removeType != OBJECT_SCHEMA)
		return false;
	foreach (lc, stmt->objects)
		if (strcmp(strVal(lfirst(lc)), MON_SCHEMA) == 0)
			return true;
	return false;
}

/* ---- restoring a dump ---- */

static void
stop_restoring(void)
{
	MonGuard *guard = &mon_workers->guards[MonMyProcNumber];

	LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
	add_recheck(guard->restoring);
	guard->restoring = InvalidOid;
	mon_workers->nguards--;
	LWLockRelease(mon_workers->lock);
	restoring = false;
	mon_launcher_wake();
}

static void
restoring_session_ends(int code, Datum arg)
{
	if (restoring)
		stop_restoring();
}

/* The caller's privileges have been checked. */
static void
start_restoring(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(restoring_session_ends, (Datum) 0);
	registered = true;

	if (!restoring)
	{
		LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
		mon_workers->guards[MonMyProcNumber].restoring = MyDatabaseId;
		mon_workers->nguards++;
		LWLockRelease(mon_workers->lock);
		restoring = true;
	}
	guard_database(MyDatabaseId);
}

/* COPY FROM into one of our tables, by one of the sessions of pg_restore, say. */
static void
before_copy(CopyStmt *stmt)
{
	Oid owner;

	if (check_function_bodies || restoring || !stmt->is_from || stmt->relation == NULL ||
		stmt->relation->schemaname == NULL || strcmp(stmt->relation->schemaname, MON_SCHEMA) != 0)
		return;
	owner = extension_owner();
	if (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner))
		start_restoring();
}

static void
wake_launcher_on_commit(void)
{
	wake_launcher = true;
	mon_transaction_join(&guard_part);
}

static void
before_create_extension(CreateExtensionStmt *stmt)
{
	/* Another extension may bring ours along. */
	wake_launcher_on_commit();
	if (!check_function_bodies && superuser() && strcmp(stmt->extname, MON_SCHEMA) == 0)
		start_restoring();
}

static void
before_utility(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			guard_database_name(((DropdbStmt *) stmt)->dbname, false);
			break;
		case T_CreatedbStmt:
		{
			DefElem *option = find_option(((CreatedbStmt *) stmt)->options, "template");

			guard_database_name(option && option->arg ? defGetString(option) : "template1", true);
			/* A copy of a database has its extensions. */
			wake_launcher_on_commit();
			break;
		}
		case T_AlterDatabaseStmt:
			if (find_option(((AlterDatabaseStmt *) stmt)->options, "tablespace"))
				guard_database_name(((AlterDatabaseStmt *) stmt)->dbname, false);
			wake_launcher_on_commit();
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				guard_database_name(((RenameStmt *) stmt)->subname, false);
			break;
		case T_CreateExtensionStmt:
			before_create_extension((CreateExtensionStmt *) stmt);
			break;
		case T_CopyStmt:
			before_copy((CopyStmt *) stmt);
			break;
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) stmt)->extname, "monitoring") == 0)
				guard_extension();
			break;
		case T_DropStmt:
			if (drops_extension((DropStmt *) stmt))
				guard_extension();
			break;
		case T_DropOwnedStmt:
			/* Ours may be among what is owned. */
			guard_extension();
			break;
		default:
			break;
	}
}

static void
guard_ProcessUtility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
					 ProcessUtilityContext context, ParamListInfo params,
					 QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	before_utility(pstmt->utilityStmt);

	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest,
								qc);
}

/* Nothing here may throw: the transaction has ended. */
static void
guard_at_end(XactEvent event, void *arg)
{
	bool committed = event == XACT_EVENT_COMMIT;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;

	if (guarding || (wake_launcher && committed))
	{
		MonGuard *guard = &mon_workers->guards[MonMyProcNumber];

		LWLockAcquire(mon_workers->lock, LW_EXCLUSIVE);
		if (wake_launcher && committed)
			add_recheck(MyDatabaseId);
		if (guarding)
		{
			if (guard->all)
				mon_workers->recheck_all = true;
			else
				add_recheck(guard->dboid);
			guard->dboid = InvalidOid;
			guard->all = false;
			mon_workers->nguards--;
		}
		LWLockRelease(mon_workers->lock);
		mon_launcher_wake();
	}
	if (wake_worker && committed)
		mon_worker_wake(MyDatabaseId, jobs_changed);

	guarding = wake_launcher = wake_worker = jobs_changed = false;

	/* The session goes on with something else. */
	if (restoring && check_function_bodies)
		stop_restoring();
	if (restoring)
		mon_transaction_join(&guard_part);
}

/* Trigger: the worker is woken at commit; with any argument it reads its jobs again. */
Datum
mon_wake_worker(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("mon_wake_worker can only be called as a trigger")));
	if (mon_preloaded)
	{
		wake_worker = true;
		mon_transaction_join(&guard_part);
		jobs_changed |= trigger->tg_trigger->tgnargs > 0;
	}
	PG_RETURN_POINTER(NULL);
}

void
mon_ddl_guard_init(void)
{
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = guard_ProcessUtility;
	mon_transaction_register(&guard_part, guard_at_end, NULL);
}
