/*-------------------------------------------------------------------------
 *
 * define.c
 *	  Definitions of metrics: from the catalog into the registry.
 *
 * A metric's definition is loaded when the metric comes into memory (refs.c)
 * and changed there when a transaction that called define_metric() commits.
 * While that runs the metric is pinned: it is in memory, so that nobody loads
 * what is about to change, and nobody gives it another kind.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/define.h"
#include "core/transaction.h"

#include "access/xact.h"
#include "fmgr.h"
#include "metrics/record.h"
#include "metrics/scan.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* A definition of this transaction, in TopTransactionContext. */
typedef struct PendingDefinition
{
	struct PendingDefinition *next; /* newest first */
	int level;                      /* of the subtransaction */
	bool pinned;
	MetricDefinition def;
	char metric[METRIC_NAME_MAX + 1];
} PendingDefinition;

static PendingDefinition *pending = NULL;
static MonTransactionPart define_part;

bool
mon_stored_definition(const char *metric, MetricDefinition *def)
{
	static const char *const columns[] = {"metric", "kind", "max_series", "scale"};
	Datum values[lengthof(columns)];
	bool nulls[lengthof(columns)];
	/* In this order: a flush may take it from here to there between the two looks. */
	bool announced = mon_committed_row("late_series", metric, columns, 2, values, nulls);

	if (announced)
	{
		def->kind = DatumGetInt16(values[1]);
		def->max_series = 0;
		def->scale = EXPO_DEFAULT_SCALE;
	}
	/* A definition that is under way is not looked for: it is pinned in memory. */
	if (!mon_committed_row("metric_catalog", metric, columns, lengthof(columns), values, nulls))
		return announced;
	def->kind = DatumGetInt16(values[1]);
	def->max_series = nulls[2] ? 0 : DatumGetInt32(values[2]);
	def->scale = DatumGetInt16(values[3]);
	return true;
}

/* ---- end of transactions: no errors from here ---- */

/* Apply or undo what is pending from a level on.  Older definitions first, so that the last one stays. */
static void
finish_pending(int level, bool commit)
{
	PendingDefinition *list = NULL;

	while (pending && pending->level >= level)
	{
		PendingDefinition *d = pending;

		pending = d->next;
		d->next = list;
		list = d;
	}
	for (; list; list = list->next)
		if (list->pinned)
			mon_registry_unpin(list->metric, commit ? &list->def : NULL);
}

static void
define_at_end(XactEvent event, void *arg)
{
	if (!pending)
		return;
	if (event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has called define_metric()")));
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		finish_pending(0, event == XACT_EVENT_COMMIT);
}

static void
define_at_subend(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
				 void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (!pending)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		finish_pending(level, false);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (PendingDefinition *d = pending; d && d->level >= level; d = d->next)
			d->level = level - 1;
}

void
mon_define_init(void)
{
	mon_transaction_register(&define_part, define_at_end, define_at_subend);
}

/* ---- SQL ---- */

static void
check_definition(const char *metric, int max_series, int scale)
{
	mon_check_metric_name(metric, strlen(metric));
	if (scale < 0 || scale > EXPO_MAX_SCALE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("scale %d is outside 0 to %d", scale, EXPO_MAX_SCALE),
				 errhint("A scale of 6 gives percentiles a relative error of at most 0.54 %%; each "
						 "step up halves it and doubles the memory.")));
	if (max_series <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_series must be greater than zero"),
				 errhint("Without it the setting monitoring.max_series holds.")));
}

PG_FUNCTION_INFO_V1(mon_pin_definition);
/* pin_definition(metric text, kind text, max_series int, scale int) returns smallint: the kind */
Datum
mon_pin_definition(PG_FUNCTION_ARGS)
{
	MetricDefinition def = {0};
	MetricDefinition stored = {0};
	PendingDefinition *d;
	char *metric;
	text *kind;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("metric, kind and scale must not be null")));
	metric = text_to_cstring(PG_GETARG_TEXT_PP(0));
	kind = PG_GETARG_TEXT_PP(1);
	check_definition(metric, PG_ARGISNULL(2) ? 1 : PG_GETARG_INT32(2), PG_GETARG_INT32(3));
	def.kind = mon_parse_kind(VARDATA_ANY(kind), VARSIZE_ANY_EXHDR(kind));
	def.max_series = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	def.scale = PG_GETARG_INT32(3);
	stored.kind = def.kind;
	stored.scale = EXPO_DEFAULT_SCALE;
	if (!mon_preloaded || !mon_registry_definition(metric, &stored))
		(void) mon_stored_definition(metric, &stored);
	if (stored.kind != def.kind)
		mon_wrong_kind(metric, stored.kind, def.kind);
	if (!mon_preloaded)
		PG_RETURN_INT16(def.kind);

	d = MemoryContextAllocZero(TopTransactionContext, sizeof(PendingDefinition));
	strlcpy(d->metric, metric, sizeof(d->metric));
	d->level = GetCurrentTransactionNestLevel();
	d->def = def;
	d->pinned = mon_registry_pin(metric, &stored);
	d->next = pending;
	pending = d;
	mon_transaction_join(&define_part);
	PG_RETURN_INT16(def.kind);
}
