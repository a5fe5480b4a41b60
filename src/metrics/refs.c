/*-------------------------------------------------------------------------
 *
 * refs.c
 *	  A backend's references to the series it records, found by the bytes it
 *	  was called with: a look-up that hits parses nothing and reads no catalog.
 *
 * Both their number and their memory are bounded: when there are too many, all
 * are forgotten.  While monitoring.transactional holds on to them, what has no
 * reference yet goes to its metric's overflow series.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/define.h"
#include "metrics/record.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define MAX_REFS 16384                    /* references kept; beyond, all are forgotten */
#define MAX_REFS_BYTES (64 * 1024 * 1024) /* and their memory */
#define MAX_OVERFLOW_REFS 4096            /* more than MAX_REFS that overflow series may take */

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
static MemoryContext scratch_cxt = NULL; /* of one make_ref() */
static refs_hash *refs = NULL;
uint64 mon_refs_generation = 0;
static uint32 seen_kind_tick = 0;

/* ---- kinds ---- */

static const char *
kind_name(MonMetricKind kind)
{
	return kind == MON_COUNTER ? "counter" : kind == MON_GAUGE ? "gauge" : "distribution";
}

MonMetricKind
mon_parse_kind(const char *name, int len)
{
	for (MonMetricKind kind = MON_DISTRIBUTION; kind >= MON_COUNTER; kind--)
		if (strlen(kind_name(kind)) == len && memcmp(name, kind_name(kind), len) == 0)
			return kind;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown kind of metric \"%.*s\"", pg_mbcliplen(name, len, NAMEDATALEN), name),
			 errhint("Kinds are counter, gauge and distribution.")));
	return 0;
}

void
mon_wrong_kind(const char *metric, MonMetricKind is, MonMetricKind wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("metric \"%s\" is a %s, not a %s", metric, kind_name(is), kind_name(wanted)),
			 errhint("Record counters with increment(), gauges with set_gauge() and "
					 "distributions with record(), or choose another name.")));
}

/* Complete a key by its metric's definition; an error when that is of another kind. */
static void
apply_definition(MonSeriesKey *key)
{
	MetricDefinition def = {key->kind, 0, EXPO_DEFAULT_SCALE};

	if (!mon_registry_definition(key->metric, &def))
		(void) mon_stored_definition(key->metric, &def);
	if (def.kind != key->kind)
		mon_wrong_kind(key->metric, def.kind, key->kind);
	key->max_series = def.max_series;
	key->scale = def.scale;
}

/* ---- making and forgetting ---- */

/* Say once per metric that its further series are folded into one. */
static void
report_overflow(SeriesRef *ref)
{
	if (ref->series && ref->series->is_overflow && mon_registry_first_overflow(ref->series))
		ereport(LOG,
				(errmsg("metric \"%s\" has no room for further series", ref->key.metric),
				 errdetail("New label sets are recorded in its overflow series."),
				 errhint("Use fewer label values, or raise the metric's max_series "
						 "(define_metric()), monitoring.max_series or "
						 "monitoring.shared_memory.")));
}

static void
forget_refs(void)
{
	mon_record_push();
	if (mon_record_holds_refs())
		return;
	if (!refs_cxt)
	{
		refs_cxt = AllocSetContextCreate(TopMemoryContext, "monitoring series references",
										 ALLOCSET_DEFAULT_SIZES);
		scratch_cxt = AllocSetContextCreate(TopMemoryContext, "monitoring series reference",
											ALLOCSET_DEFAULT_SIZES);
	}
	MemoryContextReset(refs_cxt);
	refs = refs_create(refs_cxt, 64, NULL);
	mon_refs_generation++;
	seen_kind_tick = mon_registry_kind_tick();
}

/* A metric that was deleted may be made anew with another kind. */
static inline bool
refs_outdated(void)
{
	return seen_kind_tick != mon_registry_kind_tick();
}

static bool
refs_full(void)
{
	return refs->members >= MAX_REFS ||
		MemoryContextMemAllocated(refs_cxt, false) >= MAX_REFS_BYTES;
}

/* The caller's labels in canonical form, in the scratch context. */
static Jsonb *
canonical_labels(RefKey key)
{
	Jsonb *passed = palloc(VARHDRSZ + key.labels_len);

	SET_VARSIZE((struct varlena *) passed, VARHDRSZ + key.labels_len);
	memcpy(&passed->root, key.labels, key.labels_len);
	return mon_labels_canonical(passed);
}

/* Enter a reference; everything that can raise an error is done. */
static SeriesRef *
enter_ref(RefKey key, const MonSeriesKey *series)
{
	SeriesRef *ref = MemoryContextAllocZero(refs_cxt, sizeof(SeriesRef));
	Jsonb *labels = MemoryContextAlloc(refs_cxt, VARSIZE(series->labels));
	RefEntry *entry;
	bool found;

	memcpy(labels, series->labels, VARSIZE(series->labels));
	ref->bytes = MemoryContextAlloc(refs_cxt, key.metric_len + key.labels_len + 1);
	memcpy(ref->bytes, key.metric, key.metric_len);
	memcpy(ref->bytes + key.metric_len, key.labels, key.labels_len);
	ref->metric_len = key.metric_len;
	ref->labels_len = key.labels_len;
	ref->key = *series;
	ref->key.metric = MemoryContextStrdup(refs_cxt, series->metric);
	ref->key.labels = labels;
	mon_record_reset_delta(&ref->delta);
	if (series->kind == MON_DISTRIBUTION)
	{
		ref->capacity = PENDING_MIN;
		ref->values = MemoryContextAlloc(refs_cxt, sizeof(double) * PENDING_MIN);
	}
	ref->room_tick = mon_registry_room_tick();
	ref->series = mon_registry_series(&ref->key);

	key.metric = ref->bytes;
	key.labels = ref->bytes + key.metric_len;
	entry = refs_insert(refs, key, &found);
	entry->ref = ref;
	return ref;
}

static SeriesRef *
make_ref(RefKey key, MonMetricKind kind)
{
	MemoryContext old = MemoryContextSwitchTo(scratch_cxt);
	MonSeriesKey series = {.kind = kind};
	SeriesRef *ref;
	char *text;

	MemoryContextReset(scratch_cxt);
	mon_check_metric_name(key.metric, key.metric_len);
	series.metric = pnstrdup(key.metric, key.metric_len);
	series.labels = canonical_labels(key);
	apply_definition(&series);
	text = mon_labels_text((Jsonb *) series.labels);
	series.id = mon_series_id(series.metric, key.metric_len, text, strlen(text));
	ref = enter_ref(key, &series);
	MemoryContextSwitchTo(old);
	report_overflow(ref);
	return ref;
}

/* There is no room for references: that of the metric's overflow series, or NULL. */
static SeriesRef *
overflow_ref(RefKey key, MonMetricKind kind)
{
	MemoryContext old = MemoryContextSwitchTo(scratch_cxt);
	const Jsonb *labels = mon_overflow_labels();
	RefEntry *entry;

	MemoryContextReset(scratch_cxt);
	mon_check_metric_name(key.metric, key.metric_len);
	(void) canonical_labels(key); /* it is an error all the same */
	MemoryContextSwitchTo(old);

	key.labels = VARDATA(labels);
	key.labels_len = VARSIZE(labels) - VARHDRSZ;
	entry = refs_lookup(refs, key);
	if (entry)
		return entry->ref;
	return refs->members < MAX_REFS + MAX_OVERFLOW_REFS ? make_ref(key, kind) : NULL;
}

/* ---- finding ---- */

static SeriesRef *
find_ref(RefKey key, MonMetricKind kind)
{
	RefEntry *entry = refs_lookup(refs, key);

	if (entry)
		return entry->ref;
	if (refs_full())
		forget_refs();
	return refs_full() ? overflow_ref(key, kind) : make_ref(key, kind);
}

SeriesRef *
mon_find_ref(RefKey key, MonMetricKind kind)
{
	SeriesRef *ref;
	MonSeriesKey wanted;

	if (unlikely(!refs))
	{
		mon_require_preload();
		forget_refs();
	}
	else if (unlikely(refs_outdated()))
		forget_refs();
	ref = find_ref(key, kind);
	if (likely(!ref || ref->key.kind == kind))
		return ref;

	/* The wrong function, unless the metric was made anew meanwhile. */
	wanted = ref->key;
	wanted.kind = kind;
	apply_definition(&wanted);
	forget_refs();
	ref = find_ref(key, kind);
	if (ref && ref->key.kind != kind)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("metric \"%s\" changed its kind in this transaction", ref->key.metric)));
	return ref;
}

/* What fn_extra keeps: the last reference. */
typedef struct RefCache
{
	SeriesRef *ref;
	uint64 generation;
} RefCache;

SeriesRef *
mon_cached_ref(FmgrInfo *flinfo, RefKey key, MonMetricKind kind)
{
	RefCache *cache = flinfo->fn_extra;
	SeriesRef *ref;

	if (likely(cache && cache->generation == mon_refs_generation && !refs_outdated()))
	{
		ref = cache->ref;
		if (ref->metric_len == key.metric_len && ref->labels_len == key.labels_len &&
			ref->key.kind == kind && memcmp(ref->bytes, key.metric, key.metric_len) == 0 &&
			memcmp(ref->bytes + key.metric_len, key.labels, key.labels_len) == 0)
			return ref;
	}

	ref = mon_find_ref(key, kind);
	if (!ref)
		return NULL;
	if (!cache)
		cache = flinfo->fn_extra = MemoryContextAlloc(flinfo->fn_mcxt, sizeof(RefCache));
	cache->ref = ref;
	cache->generation = mon_refs_generation;
	return ref;
}
