/*-------------------------------------------------------------------------
 *
 * change_hook.c
 *	  Changes of the schema, of rights, roles and settings: who made them.
 *
 * An event trigger would neither see roles, databases and settings nor what is
 * done while somebody has disabled it.  A change happens when its transaction
 * commits, so commands wait until then, a bounded number of them; those of
 * subtransactions that are rolled back are forgotten.
 *
 *-------------------------------------------------------------------------
 */
#include "signals/signals_internal.h"
#include "core/transaction.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "core/core.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/cmdtag.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#define MAX_PENDING 256
#define MAX_STATEMENT (16 * 1024) /* bytes of it that are looked at */

typedef enum ChangeClass
{
	CHANGE_NONE = -1,
	CHANGE_SCHEMA,
	CHANGE_GRANT,
	CHANGE_ROLE,
	CHANGE_SETTING,
	CHANGE_DATABASE
} ChangeClass;

typedef struct Change
{
	ChangeClass class;
	const char *tag;
	Oid userid;
	char setting[32]; /* new value, if it may be shown */
} Change;

typedef struct PendingChange
{
	struct PendingChange *next;
	int level; /* of subtransactions */
	Change change;
	size_t len;
	char statement[];
} PendingChange;

static bool capture_changes = true;

static PendingChange *pending = NULL; /* latest first, in TopTransactionContext */
static int npending = 0;
static int nomitted = 0;
static MonTransactionPart change_part;

static ProcessUtility_hook_type previous_utility_hook = NULL;

static bool
is_temporary(const RangeVar *relation)
{
	return relation && relation->relpersistence == RELPERSISTENCE_TEMP;
}

/* Whose a table is decides who may do what with it. */
static bool
changes_owner(const AlterTableStmt *alter)
{
	ListCell *cell;

	foreach (cell, alter->cmds)
		if (lfirst_node(AlterTableCmd, cell)->subtype == AT_ChangeOwner)
			return true;
	return false;
}

static ChangeClass
classify(Node *parsetree)
{
	switch (nodeTag(parsetree))
	{
		case T_GrantStmt:
		case T_GrantRoleStmt:
		case T_AlterDefaultPrivilegesStmt:
		case T_AlterOwnerStmt:
			return CHANGE_GRANT;
		case T_CreateRoleStmt:
		case T_AlterRoleStmt:
		case T_DropRoleStmt:
		case T_ReassignOwnedStmt:
		case T_DropOwnedStmt:
			return CHANGE_ROLE;
		case T_AlterSystemStmt:
		case T_AlterRoleSetStmt:
		case T_AlterDatabaseSetStmt:
			return CHANGE_SETTING;
		case T_CreatedbStmt:
		case T_DropdbStmt:
		case T_AlterDatabaseStmt:
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
			return CHANGE_DATABASE;
		case T_CreateStmt:
			return is_temporary(((CreateStmt *) parsetree)->relation) ? CHANGE_NONE : CHANGE_SCHEMA;
		case T_CreateTableAsStmt:
			return is_temporary(((CreateTableAsStmt *) parsetree)->into->rel) ? CHANGE_NONE
																			  : CHANGE_SCHEMA;
		case T_AlterTableStmt:
			return changes_owner((AlterTableStmt *) parsetree) ? CHANGE_GRANT : CHANGE_SCHEMA;
		case T_RefreshMatViewStmt:
		case T_CheckPointStmt:
			return CHANGE_NONE;
		default:
			return GetCommandLogLevel(parsetree) == LOGSTMT_DDL ? CHANGE_SCHEMA : CHANGE_NONE;
	}
}

/* What another command or an extension's script consists of is not told again. */
static bool
is_own_command(ProcessUtilityContext context)
{
	return context != PROCESS_UTILITY_SUBCOMMAND && !creating_extension &&
		!InitializingParallelWorker;
}

/*
 * The new value of a setting, if it can be no secret: a number with its unit, or a
 * boolean.  The statement itself is shown without it.
 */
static void
read_setting(Node *parsetree, char *value, size_t size)
{
	VariableSetStmt *set = NULL;
	char *text;
	size_t digits, unit;
	bool boolean;

	if (IsA(parsetree, AlterSystemStmt))
		set = ((AlterSystemStmt *) parsetree)->setstmt;
	else if (IsA(parsetree, AlterRoleSetStmt))
		set = ((AlterRoleSetStmt *) parsetree)->setstmt;
	else if (IsA(parsetree, AlterDatabaseSetStmt))
		set = ((AlterDatabaseSetStmt *) parsetree)->setstmt;
	if (!set || set->kind != VAR_SET_VALUE || (text = ExtractSetVariableArgs(set)) == NULL)
		return;
	digits = strspn(text, "-.0123456789");
	unit = strlen(text + digits);
	if (digits > 0 ? unit <= 3 : parse_bool(text, &boolean))
		strlcpy(value, text, size);
}

/* Partitions of this extension's tables come and go; nobody has changed anything. */
static bool
is_housekeeping(const char *text, size_t len)
{
	static const char schema[] = " monitoring.";
	const char *end = text + len;

	for (const char *c = text; c + sizeof(schema) <= end; c++)
		if (memcmp(c, schema, sizeof(schema) - 1) == 0)
		{
			size_t name;

			c += sizeof(schema) - 1;
			name = strspn(c, "abcdefghijklmnopqrstuvwxyz_0123456789");
			for (const char *p = c; p + 15 <= Min(c + name, end); p++)
				if (p[0] == '_' && p[1] == 'p' && strspn(p + 2, "0123456789") == 12 && p[14] == '_')
					return true;
		}
	return false;
}

static void
note_change(const Change *change, const char *text, size_t len)
{
	PendingChange *p;

	mon_transaction_join(&change_part);
	if (npending >= MAX_PENDING)
	{
		nomitted++;
		return;
	}
	p = MemoryContextAlloc(TopTransactionContext, offsetof(PendingChange, statement) + len);
	p->change = *change;
	p->level = GetCurrentTransactionNestLevel();
	p->len = len;
	memcpy(p->statement, text, len);
	p->next = pending;
	pending = p;
	npending++;
}

static void
run_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
			DestReceiver *dest, QueryCompletion *qc)
{
	if (previous_utility_hook)
		previous_utility_hook(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest,
							  qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest,
								qc);
}

static void
note_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			 ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *queryEnv,
			 DestReceiver *dest, QueryCompletion *qc)
{
	Change change = {.class = CHANGE_NONE};
	int location = Max(pstmt->stmt_location, 0);
	int len = pstmt->stmt_len;
	const char *text;
	size_t text_len;

	if (capture_changes && is_own_command(context))
		change.class = classify(pstmt->utilityStmt);
	if (change.class != CHANGE_NONE)
	{
		change.tag = GetCommandTagName(CreateCommandTag(pstmt->utilityStmt));
		change.userid = GetUserId();
		read_setting(pstmt->utilityStmt, change.setting, sizeof(change.setting));
	}
	run_utility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);

	/* The command may have freed its own tree, and ended the transaction that it began in. */
	if (change.class == CHANGE_NONE || !IsTransactionState())
		return;
	text = queryString + location;
	text_len = strnlen(text, len > 0 ? Min(len, MAX_STATEMENT) : MAX_STATEMENT);
	if (change.class != CHANGE_SCHEMA || context == PROCESS_UTILITY_TOPLEVEL ||
		!is_housekeeping(text, text_len))
		note_change(&change, text, text_len);
}

/* ---- the end of a transaction ---- */

static void
publish_change(const PendingChange *p)
{
	Signal *s = mon_signal_begin(SIGNAL_CHANGE, 0, p->change.class);

	if (!s)
		return;
	s->userid = p->change.userid;
	mon_signal_text(s, TEXT_TEMPLATE, p->change.tag);
	mon_signal_text(s, TEXT_DETAIL, p->change.setting);
	mon_signal_statement(s, p->statement, p->len, true);
	mon_signal_publish(s);
}

static PendingChange *
reversed(PendingChange *latest)
{
	PendingChange *first = NULL;

	while (latest)
	{
		PendingChange *next = latest->next;

		latest->next = first;
		first = latest;
		latest = next;
	}
	return first;
}

static void
change_at_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			for (PendingChange *p = reversed(pending); p; p = p->next)
				publish_change(p);
			if (nomitted > 0)
				mon_signal_count_omitted(SIGNAL_CHANGE, CHANGE_SCHEMA, nomitted);
			break;
		case XACT_EVENT_ABORT:
			break;
		default:
			return;
	}
	pending = NULL;
	npending = nomitted = 0;
}

static void
change_at_subend(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (PendingChange *p = pending; p && p->level >= level; p = p->next)
			p->level = level - 1;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		for (; pending && pending->level >= level; pending = pending->next)
			npending--;
}

void
mon_change_hook_init(void)
{
	DefineCustomBoolVariable("monitoring.capture_changes",
							 "Changes of the schema, of rights, roles and settings are kept.", NULL,
							 &capture_changes, true, PGC_SUSET, 0, NULL, NULL, NULL);
	previous_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = note_utility;
	mon_transaction_register(&change_part, change_at_end, change_at_subend);
}
