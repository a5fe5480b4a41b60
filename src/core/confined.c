/*-------------------------------------------------------------------------
 *
 * confined.c
 *	  Running code that users have stored, without being at its mercy.
 *
 * A function may catch the cancel that our timer sends and go on.  It is sent
 * again as soon as the subtransaction in which it was caught has ended, so each
 * block of such a function catches it once at most, and the call ends.
 *
 *-------------------------------------------------------------------------
 */
#include "core/confined.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

/* One that is part of another has a time of its own. */
typedef struct Level
{
	TimeoutId timer;
	bool active;
	volatile sig_atomic_t timed_out;
} Level;

static Level levels[2];
static bool registered = false;

static void
send_cancel(void)
{
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
cancel_outer(void)
{
	levels[0].timed_out = true;
	send_cancel();
}

static void
cancel_inner(void)
{
	levels[1].timed_out = true;
	send_cancel();
}

static bool
is_over(const Level *level)
{
	return level->active && level->timed_out;
}

static void
cancel_again(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && (is_over(&levels[0]) || is_over(&levels[1])))
		send_cancel();
}

static void
begin(Level *level, int timeout_ms)
{
	if (!registered)
	{
		levels[0].timer = RegisterTimeout(USER_TIMEOUT, cancel_outer);
		levels[1].timer = RegisterTimeout(USER_TIMEOUT, cancel_inner);
		RegisterSubXactCallback(cancel_again, NULL);
		registered = true;
	}
	level->timed_out = false;
	level->active = true;
	enable_timeout_after(level->timer, timeout_ms);
}

/*
 * Advisory locks of the session outlive the subtransaction.  Our workers take
 * none, so what is there in one is what the code took: what runs next must not
 * run under it.  A client's session may hold its own, and ends.
 */
static void
release_session_locks(void)
{
	if (MyBgworkerEntry && strcmp(MyBgworkerEntry->bgw_library_name, "monitoring") == 0)
		LockReleaseSession(USER_LOCKMETHOD);
}

/* A timer that went off at the last moment must not cancel what comes next. */
static void
end(Level *level)
{
	if (!level->active)
		return;
	disable_timeout(level->timer, false);
	level->active = false;
	if (level->timed_out && !is_over(&levels[0]))
		QueryCancelPending = false;
}

static void
describe_timeout(ErrorData *error, int timeout_ms)
{
	error->sqlerrcode = ERRCODE_QUERY_CANCELED;
	error->funcname = NULL;
	error->message = psprintf("canceled because it took longer than %d ms", timeout_ms);
	error->detail = NULL;
	error->hint = NULL;
}

ErrorData *
mon_run_confined(const MonConfinement *how, void (*body)(void *arg), void *arg)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner resowner = CurrentResourceOwner;
	ErrorData *volatile error = NULL; /* survives the longjmp */
	Level *volatile level = levels[0].active ? &levels[1] : &levels[0];

	if (level->active || (levels[0].active && !how->nested))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a stored query cannot run another one")));
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		Oid role = get_role_oid(how->role, false);
		Oid save_user;
		int save_context;
		int nest_level = NewGUCNestLevel();

		begin(level, how->timeout_ms);
		/* Unset by nothing but the end of the subtransaction. */
		if (how->read_only)
			XactReadOnly = true;
		GetUserIdAndSecContext(&save_user, &save_context);
		SetUserIdAndSecContext(role, save_context | SECURITY_RESTRICTED_OPERATION);
		body(arg);
		end(level);
		AtEOXact_GUC(false, nest_level);
		SetUserIdAndSecContext(save_user, save_context);

		if (how->read_only)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		end(level);
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (level->timed_out)
			describe_timeout(error, how->timeout_ms);
	}
	PG_END_TRY();

	release_session_locks();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = resowner;
	return error;
}

void
mon_check_confined_caller(FunctionCallInfo fcinfo, const char *role, const char *what)
{
	Oid role_id = get_role_oid(role, true);
	HeapTuple proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(fcinfo->flinfo->fn_oid));
	Oid owner;

	if (!HeapTupleIsValid(proc))
		elog(ERROR, "cache lookup failed for function %u", fcinfo->flinfo->fn_oid);
	owner = ((Form_pg_proc) GETSTRUCT(proc))->proowner;
	ReleaseSysCache(proc);
	if (GetUserId() != owner && OidIsValid(role_id) && !has_privs_of_role(GetUserId(), role_id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to run a %s as role \"%s\"", what, role)));
}

bool
mon_error_is_cancel(const ErrorData *error)
{
	/* Others may use its code: a server that a foreign table is on, or RAISE. */
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED && error->funcname != NULL &&
		strcmp(error->funcname, "ProcessInterrupts") == 0;
}
