/*-------------------------------------------------------------------------
 *
 * record.c
 *	  record(), increment(), set_gauge(): the hot path of recording.
 *
 * A backend keeps a reference per series it has used and collects its
 * observations there without any lock.  They move to the shared registry
 *	- when a top-level statement ends, and at commit and at abort;
 *	- when a reader has asked for recent data (the registry's tick), or a
 *	  second has passed, in a statement that goes on recording;
 *	- when a reference holds as many values as it can.
 * So an idle session strands nothing, and nothing waits at commit but for a
 * short series lock.
 *
 * With monitoring.transactional they are kept per subtransaction level instead
 * and move at commit only.
 *
 * Callbacks at the end of a transaction must not raise errors: pushing neither
 * allocates backend memory nor touches catalogs.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/late.h"
#include "metrics/levels.h"
#include "metrics/metrics_internal.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define PENDING_MIN 8
#define PENDING_MAX 256 /* values a reference collects before it pushes */
#define MAX_REFS 16384  /* references kept; beyond, all are forgotten */
#define CLOCK_EVERY 64  /* observations between two looks at the clock */

/* What a transaction recorded at one subtransaction level. */
typedef struct TransPending
{
	struct TransPending *next;  /* all, newest first */
	struct TransPending *outer; /* the same series at an outer level */
	struct SeriesRef *ref;
	int level;
	MonDelta delta;
	ExpoSketch sketch;
} TransPending;

/* A backend's reference to a series, with what it has not pushed yet. */
typedef struct SeriesRef
{
	/* key: the bytes the caller passed */
	uint32 hash;
	char status;
	int metric_len;
	int labels_len;
	char *bytes; /* metric, then labels, as passed */

	MonSeriesKey key;
	MonSeries *series; /* may have been reclaimed: mon_registry_add() checks */
	struct SeriesRef *next_dirty;
	bool dirty;
	TimestampTz slot; /* of what is pending, when record_at() gave one; else 0 */
	MonDelta delta;   /* scalars */
	double *values;   /* distributions */
	int nvalues;
	int capacity;
	TransPending *trans;
} SeriesRef;

typedef struct RefKey
{
	const char *metric;
	const char *labels;
	int metric_len;
	int labels_len;
} RefKey;

typedef struct RefEntry
{
	RefKey key;
	SeriesRef *ref;
	uint32 hash;
	char status;
} RefEntry;

static inline bool
ref_key_equal(RefKey a, RefKey b)
{
	return a.metric_len == b.metric_len && a.labels_len == b.labels_len &&
		memcmp(a.metric, b.metric, a.metric_len) == 0 &&
		memcmp(a.labels, b.labels, a.labels_len) == 0;
}

static inline uint32
ref_key_hash(RefKey k)
{
	return hash_combine(hash_bytes((const unsigned char *) k.metric, k.metric_len),
						hash_bytes((const unsigned char *) k.labels, k.labels_len));
}

#define SH_PREFIX refs
#define SH_ELEMENT_TYPE RefEntry
#define SH_KEY_TYPE RefKey
#define SH_KEY key
#define SH_HASH_KEY(tb, k) ref_key_hash(k)
#define SH_EQUAL(tb, a, b) ref_key_equal(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, e) (e)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static MemoryContext refs_cxt = NULL;
static refs_hash *refs = NULL;
static uint64 refs_generation = 0; /* moves when all references are forgotten */
static SeriesRef *dirty_list = NULL;
static TransPending *trans_list = NULL;
static uint32 seen_tick = 0;
static int clock_countdown = CLOCK_EVERY;
static TimestampTz last_push_at = 0;
static int run_depth = 0;

static ExecutorRun_hook_type prev_ExecutorRun = NULL;
static ExecutorFinish_hook_type prev_ExecutorFinish = NULL;
static ExecutorEnd_hook_type prev_ExecutorEnd = NULL;

/* ---- pushing to the registry ---- */

static void
reset_delta(MonDelta *d)
{
	memset(d, 0, sizeof(MonDelta));
	d->min = INFINITY;
	d->max = -INFINITY;
}

static void
publish(SeriesRef *ref, const MonDelta *delta, TimestampTz now)
{
	/* A series can be reclaimed between look-up and use, if hardly twice. */
	for (int i = 0; i < 3; i++)
	{
		if (ref->series && mon_registry_add(ref->series, &ref->key, delta, now))
			return;
		ref->series = mon_registry_series(&ref->key);
		if (!ref->series)
			break;
	}
	{
		MonDb *db = mon_registry_db(MyDatabaseId);
		uint64 n = delta->sketch ? delta->sketch->count
			: delta->values      ? delta->nvalues
								 : delta->count;

		if (db)
		{
			pg_atomic_fetch_add_u64(&db->accepted, n);
			pg_atomic_fetch_add_u64(&db->dropped, n);
		}
	}
}

static void
push_ref(SeriesRef *ref, TimestampTz now)
{
	if (ref->key.kind == MON_DISTRIBUTION)
	{
		MonDelta d;

		if (ref->nvalues == 0)
			return;
		reset_delta(&d);
		d.slot = ref->slot;
		d.values = ref->values;
		d.nvalues = ref->nvalues;
		publish(ref, &d, ref->slot ? ref->slot : now);
		ref->nvalues = 0;
	}
	else if (ref->delta.count > 0)
	{
		ref->delta.slot = ref->slot;
		publish(ref, &ref->delta, ref->slot ? ref->slot : now);
		reset_delta(&ref->delta);
	}
}

void
mon_record_push(void)
{
	TimestampTz now;

	if (!dirty_list)
		return;
	now = GetCurrentTimestamp();
	while (dirty_list)
	{
		SeriesRef *ref = dirty_list;

		dirty_list = ref->next_dirty;
		ref->dirty = false;
		push_ref(ref, now);
	}
	clock_countdown = CLOCK_EVERY;
	last_push_at = now;
}

/* Called now and then while a statement goes on recording. */
static void
look_at_clock(void)
{
	TimestampTz now = GetCurrentTimestamp();

	clock_countdown = CLOCK_EVERY;
	if (now - last_push_at >= USECS_PER_SEC)
		mon_record_push();
}

static inline void
mark_dirty(SeriesRef *ref)
{
	if (!ref->dirty)
	{
		ref->dirty = true;
		ref->next_dirty = dirty_list;
		dirty_list = ref;
	}
	if (unlikely(mon_registry_tick() != seen_tick))
	{
		seen_tick = mon_registry_tick();
		mon_record_push();
	}
	else if (unlikely(--clock_countdown <= 0))
		look_at_clock();
}

/* ---- transactional records ---- */

static void *
no_oom_alloc(void *ctx, size_t size, size_t *actual)
{
	*actual = size;
	return MemoryContextAllocExtended(ctx, size, MCXT_ALLOC_NO_OOM);
}

static void
cxt_free(void *ctx, void *ptr, size_t actual)
{
	pfree(ptr);
}

static ExpoAllocator
trans_allocator(void)
{
	ExpoAllocator a = {no_oom_alloc, cxt_free, TopTransactionContext};

	return a;
}

static TransPending *
trans_pending(SeriesRef *ref)
{
	int level = GetCurrentTransactionNestLevel();
	TransPending *p = ref->trans;

	if (p && p->level == level)
		return p;
	p = MemoryContextAllocZero(TopTransactionContext, sizeof(TransPending));
	p->ref = ref;
	p->level = level;
	reset_delta(&p->delta);
	expo_init(&p->sketch, EXPO_DEFAULT_SCALE);
	p->outer = ref->trans;
	p->next = trans_list;
	ref->trans = p;
	trans_list = p;
	return p;
}

static void
merge_delta(MonDelta *into, const MonDelta *from)
{
	if (into->count == 0)
		into->first = from->first;
	into->count += from->count;
	into->sum += from->sum;
	into->min = Min(into->min, from->min);
	into->max = Max(into->max, from->max);
	into->last = from->last;
}

/* Take the newest entry off the list. */
static TransPending *
pop_trans(void)
{
	TransPending *p = trans_list;

	trans_list = p->next;
	p->ref->trans = p->outer;
	return p;
}

static void
abort_level(int level)
{
	while (trans_list && trans_list->level >= level)
		pop_trans();
}

/* A subtransaction's records become its parent's. */
static void
commit_level(int level)
{
	ExpoAllocator alloc = trans_allocator();
	TransPending **link = &trans_list;

	while (*link && (*link)->level >= level)
	{
		TransPending *p = *link;

		if (p->outer && p->outer->level == level - 1 &&
			expo_merge(&p->outer->sketch, &p->sketch, &alloc))
		{
			merge_delta(&p->outer->delta, &p->delta);
			p->ref->trans = p->outer;
			*link = p->next;
		}
		else
		{
			p->level = level - 1;
			link = &p->next;
		}
	}
}

static void
publish_transactional(void)
{
	TimestampTz now;

	if (!trans_list)
		return;
	now = GetCurrentTimestamp();
	while (trans_list)
	{
		TransPending *p = pop_trans();

		if (p->ref->key.kind == MON_DISTRIBUTION)
			p->delta.sketch = &p->sketch;
		publish(p->ref, &p->delta, now);
	}
}

void
mon_record_each_transactional(void (*fn)(const MonSeriesKey *key, const MonDelta *delta, void *arg),
							  void *arg)
{
	for (TransPending *p = trans_list; p; p = p->next)
	{
		if (p->ref->key.kind == MON_DISTRIBUTION)
			p->delta.sketch = &p->sketch;
		fn(&p->ref->key, &p->delta, arg);
	}
}

/* ---- transaction and executor callbacks ---- */

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			mon_record_push();
			publish_transactional();
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			mon_record_push();
			break;
		case XACT_EVENT_ABORT:
			mon_record_push();
			abort_level(0);
			run_depth = 0;
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (trans_list)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has recorded metrics with "
								"monitoring.transactional on"),
						 errhint("Turn monitoring.transactional off for transactions that are "
								 "prepared.")));
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
				 void *arg)
{
	if (!trans_list)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		abort_level(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		commit_level(GetCurrentTransactionNestLevel());
}

static void
record_ExecutorRun(MON_EXECUTOR_RUN_PARAMS)
{
	run_depth++;
	PG_TRY();
	{
		if (prev_ExecutorRun)
			prev_ExecutorRun(MON_EXECUTOR_RUN_ARGS);
		else
			standard_ExecutorRun(MON_EXECUTOR_RUN_ARGS);
	}
	PG_FINALLY();
	{
		run_depth--;
	}
	PG_END_TRY();
}

static void
record_ExecutorFinish(QueryDesc *queryDesc)
{
	run_depth++;
	PG_TRY();
	{
		if (prev_ExecutorFinish)
			prev_ExecutorFinish(queryDesc);
		else
			standard_ExecutorFinish(queryDesc);
	}
	PG_FINALLY();
	{
		run_depth--;
	}
	PG_END_TRY();
}

static void
record_ExecutorEnd(QueryDesc *queryDesc)
{
	if (prev_ExecutorEnd)
		prev_ExecutorEnd(queryDesc);
	else
		standard_ExecutorEnd(queryDesc);

	if (dirty_list && run_depth == 0)
		mon_record_push();
}

void
mon_record_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
	prev_ExecutorRun = ExecutorRun_hook;
	ExecutorRun_hook = record_ExecutorRun;
	prev_ExecutorFinish = ExecutorFinish_hook;
	ExecutorFinish_hook = record_ExecutorFinish;
	prev_ExecutorEnd = ExecutorEnd_hook;
	ExecutorEnd_hook = record_ExecutorEnd;
}

/* ---- references ---- */

static const char *
kind_name(MonMetricKind kind)
{
	return kind == MON_COUNTER ? "counter" : kind == MON_GAUGE ? "gauge" : "distribution";
}

/* The stored kind of a metric that is not in memory; false when it is new. */
static bool
stored_kind(const char *metric, MonMetricKind *kind)
{
	Datum arg = CStringGetTextDatum(metric);
	Oid argtype = TEXTOID;
	bool found = false;
	OwnerScope caller;

	mon_become_owner(&caller);
	SPI_connect();
	if (SPI_execute_with_args("SELECT kind FROM monitoring.metric_catalog "
							  "WHERE metric OPERATOR(pg_catalog.=) $1",
							  1, &argtype, &arg, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the metric catalog");
	if (SPI_processed > 0)
	{
		bool isnull;

		*kind = DatumGetInt16(
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		found = true;
	}
	SPI_finish();
	mon_restore_caller(&caller);
	return found;
}

static void
check_kind(const char *metric, MonMetricKind wanted)
{
	MonMetricKind kind;

	if (!mon_registry_metric_kind(metric, &kind) && !stored_kind(metric, &kind))
		return;
	if (kind != wanted)
		ereport(
			ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("metric \"%s\" is a %s, not a %s", metric, kind_name(kind), kind_name(wanted)),
			 errhint("Record counters with increment(), gauges with set_gauge() and "
					 "distributions with record(), or choose another name.")));
}

/* Say once per metric that its further series are folded into one. */
static void
report_overflow(SeriesRef *ref)
{
	bool first = false;

	mon_index_lock(LW_EXCLUSIVE);
	if (ref->series->dboid == MyDatabaseId && ref->series->is_overflow &&
		!ref->series->metric->full_logged)
		first = ref->series->metric->full_logged = true;
	mon_index_unlock();
	if (first)
		ereport(LOG,
				(errmsg("metric \"%s\" has no room for further series", ref->key.metric),
				 errdetail("New label sets are recorded in its overflow series."),
				 errhint("Use fewer label values, or raise monitoring.max_series or "
						 "monitoring.shared_memory.")));
}

static void
forget_refs(void)
{
	mon_record_push();
	if (trans_list)
		return; /* in use; the next miss tries again */
	if (refs_cxt)
		MemoryContextReset(refs_cxt);
	else
		refs_cxt = AllocSetContextCreate(TopMemoryContext, "monitoring series references",
										 ALLOCSET_DEFAULT_SIZES);
	refs = refs_create(refs_cxt, 64, NULL);
	refs_generation++;
}

static SeriesRef *
make_ref(RefKey key, MonMetricKind kind, Datum labels)
{
	char *metric = pnstrdup(key.metric, key.metric_len);
	Jsonb *canonical = mon_labels_canonical(DatumGetJsonbP(labels));
	char *text = mon_labels_text(canonical);
	SeriesRef *ref;
	char *bytes;
	char *stored_metric;
	Jsonb *stored_labels;
	RefEntry *entry;
	bool found;

	mon_check_metric_name(key.metric, key.metric_len);
	check_kind(metric, kind);

	ref = MemoryContextAllocZero(refs_cxt, sizeof(SeriesRef));
	bytes = MemoryContextAlloc(refs_cxt, key.metric_len + key.labels_len + 1);
	memcpy(bytes, key.metric, key.metric_len);
	memcpy(bytes + key.metric_len, key.labels, key.labels_len);
	stored_metric = MemoryContextStrdup(refs_cxt, metric);
	stored_labels = MemoryContextAlloc(refs_cxt, VARSIZE(canonical));
	memcpy(stored_labels, canonical, VARSIZE(canonical));

	ref->metric_len = key.metric_len;
	ref->labels_len = key.labels_len;
	ref->bytes = bytes;
	ref->key.kind = kind;
	ref->key.metric = stored_metric;
	ref->key.labels = stored_labels;
	ref->key.id = mon_series_id(metric, key.metric_len, text, strlen(text));
	reset_delta(&ref->delta);
	if (kind == MON_DISTRIBUTION)
	{
		ref->capacity = PENDING_MIN;
		ref->values = MemoryContextAlloc(refs_cxt, sizeof(double) * PENDING_MIN);
	}
	ref->series = mon_registry_series(&ref->key);
	if (ref->series && ref->series->is_overflow)
		report_overflow(ref);

	key.metric = bytes;
	key.labels = bytes + key.metric_len;
	entry = refs_insert(refs, key, &found);
	entry->ref = ref;
	return ref;
}

/* What fn_extra keeps: the last reference, so that a constant series costs a comparison. */
typedef struct RecordCache
{
	SeriesRef *ref;
	uint64 generation;
} RecordCache;

static SeriesRef *
find_ref(FunctionCallInfo fcinfo, int labels_arg, MonMetricKind kind)
{
	RecordCache *cache = fcinfo->flinfo->fn_extra;
	struct varlena *metric = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(0));
	struct varlena *labels = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(labels_arg));
	RefKey key = {VARDATA_ANY(metric), VARDATA_ANY(labels), VARSIZE_ANY_EXHDR(metric),
				  VARSIZE_ANY_EXHDR(labels)};
	SeriesRef *ref;
	RefEntry *entry;

	if (likely(cache && cache->generation == refs_generation))
	{
		ref = cache->ref;
		if (ref->metric_len == key.metric_len && ref->labels_len == key.labels_len &&
			ref->key.kind == kind && memcmp(ref->bytes, key.metric, key.metric_len) == 0 &&
			memcmp(ref->bytes + key.metric_len, key.labels, key.labels_len) == 0)
			return ref;
	}

	mon_require_preload();
	if (!refs || refs->members >= MAX_REFS)
		forget_refs();
	entry = refs_lookup(refs, key);
	ref = entry ? entry->ref : NULL;
	if (ref && ref->key.kind != kind)
	{
		/* The wrong function, unless the extension was created anew meanwhile. */
		check_kind(ref->key.metric, kind);
		forget_refs();
		ref = NULL;
	}
	if (!ref)
		ref = make_ref(key, kind, PG_GETARG_DATUM(labels_arg));
	if (ref->key.kind != kind)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("metric \"%s\" changed its kind in this transaction", ref->key.metric)));

	if (!cache)
		cache = fcinfo->flinfo->fn_extra = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt,
															  sizeof(RecordCache));
	cache->ref = ref;
	cache->generation = refs_generation;
	return ref;
}

/* ---- the SQL functions ---- */

static void
refuse(void)
{
	MonDb *db = mon_registry_db(MyDatabaseId);

	if (db)
		pg_atomic_fetch_add_u64(&db->refused, 1);
}

/* What follows belongs to another slot than what is pending. */
static inline void
set_slot(SeriesRef *ref, TimestampTz slot)
{
	if (likely(ref->slot == slot))
		return;
	push_ref(ref, GetCurrentTimestamp());
	ref->slot = slot;
}

static void
record_value(SeriesRef *ref, double value)
{
	if (unlikely(mon_transactional))
	{
		TransPending *p = trans_pending(ref);
		ExpoAllocator alloc = mon_palloc_allocator(TopTransactionContext);

		expo_add(&p->sketch, value, 1, &alloc);
		return;
	}
	if (unlikely(ref->nvalues == ref->capacity))
	{
		if (ref->capacity < PENDING_MAX)
		{
			ref->capacity *= 2;
			ref->values = repalloc(ref->values, sizeof(double) * ref->capacity);
		}
		else
			push_ref(ref, GetCurrentTimestamp());
	}
	ref->values[ref->nvalues++] = value;
	mark_dirty(ref);
}

static void
record_scalar(SeriesRef *ref, double value)
{
	MonDelta *d = mon_transactional ? &trans_pending(ref)->delta : &ref->delta;

	if (d->count++ == 0)
		d->first = value;
	d->sum += value;
	d->min = Min(d->min, value);
	d->max = Max(d->max, value);
	d->last = value;
	if (!mon_transactional)
		mark_dirty(ref);
}

PG_FUNCTION_INFO_V1(mon_record);
/* record(metric text, value float8, labels jsonb) */
Datum
mon_record(PG_FUNCTION_ARGS)
{
	SeriesRef *ref = find_ref(fcinfo, 2, MON_DISTRIBUTION);
	double value = PG_GETARG_FLOAT8(1);

	if (unlikely(!isfinite(value)))
		refuse();
	else
	{
		set_slot(ref, 0);
		record_value(ref, value);
	}
	PG_RETURN_VOID();
}

static void
check_increment(double by)
{
	if (by < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a counter cannot be incremented by a negative number"),
				 errhint("Use set_gauge() for what goes up and down.")));
}

PG_FUNCTION_INFO_V1(mon_increment);
/* increment(metric text, by float8, labels jsonb) */
Datum
mon_increment(PG_FUNCTION_ARGS)
{
	SeriesRef *ref = find_ref(fcinfo, 2, MON_COUNTER);
	double by = PG_GETARG_FLOAT8(1);

	check_increment(by);
	if (unlikely(!isfinite(by)))
		refuse();
	else
	{
		set_slot(ref, 0);
		record_scalar(ref, by);
	}
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mon_set_gauge);
/* set_gauge(metric text, value float8, labels jsonb) */
Datum
mon_set_gauge(PG_FUNCTION_ARGS)
{
	SeriesRef *ref = find_ref(fcinfo, 2, MON_GAUGE);
	double value = PG_GETARG_FLOAT8(1);

	if (unlikely(!isfinite(value)))
		refuse();
	else
	{
		set_slot(ref, 0);
		record_scalar(ref, value);
	}
	PG_RETURN_VOID();
}

/* ---- observations with a time ---- */

#define MAX_SKEW_USECS USECS_PER_MINUTE /* how far in the future, or in the past in memory */
#define REFRESH_RETENTION_USECS USECS_PER_MINUTE

static MonMetricKind
parse_kind(text *name)
{
	char *s = text_to_cstring(name);

	for (MonMetricKind kind = MON_COUNTER; kind <= MON_DISTRIBUTION; kind++)
		if (strcmp(s, kind_name(kind)) == 0)
			return kind;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown kind of metric \"%s\"", s),
			 errhint("Kinds are counter, gauge and distribution.")));
	return 0;
}

/* The oldest time that one-minute points are kept of. */
static TimestampTz
oldest_allowed(TimestampTz now)
{
	static TimestampTz looked_at = 0;
	static int64 keep = 0;

	if (now - looked_at > REFRESH_RETENTION_USECS)
	{
		keep = mon_retention_usecs("chunks");
		looked_at = now;
	}
	return now - keep;
}

static void
check_time(TimestampTz at, TimestampTz now)
{
	if (TIMESTAMP_NOT_FINITE(at) || at > now + MAX_SKEW_USECS)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an observation cannot be made in the future"),
				 errdetail("Its time is %s.", timestamptz_to_str(at))));
	if (at < now - MAX_SKEW_USECS && at < oldest_allowed(now))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an observation is older than one-minute points are kept"),
				 errdetail("Its time is %s.", timestamptz_to_str(at)),
				 errhint("See the row \"chunks\" of monitoring.retention_policies.")));
}

/* Record an observation of a time: in memory if that is recent, else as a late one. */
static void
observe_at(SeriesRef *ref, double value, TimestampTz at)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz slot = at - at % SLOT_USECS;

	check_time(at, now);
	if (at < now - MAX_SKEW_USECS)
	{
		PreventCommandIfReadOnly("record_at()");
		PreventCommandDuringRecovery("record_at()");
		mon_late_observe(&ref->key, at, value);
		return;
	}
	set_slot(ref, slot == now - now % SLOT_USECS ? 0 : slot);
	if (ref->key.kind == MON_DISTRIBUTION)
		record_value(ref, value);
	else
		record_scalar(ref, value);
}

PG_FUNCTION_INFO_V1(mon_record_at);
/* record_at(metric text, value float8, at timestamptz, labels jsonb, kind text) */
Datum
mon_record_at(PG_FUNCTION_ARGS)
{
	MonMetricKind kind = parse_kind(PG_GETARG_TEXT_PP(4));
	SeriesRef *ref = find_ref(fcinfo, 3, kind);
	double value = PG_GETARG_FLOAT8(1);

	if (kind == MON_COUNTER)
		check_increment(value);
	if (unlikely(!isfinite(value)))
		refuse();
	else
		observe_at(ref, value, PG_GETARG_TIMESTAMPTZ(2));
	PG_RETURN_VOID();
}
