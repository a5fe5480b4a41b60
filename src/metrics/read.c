/*-------------------------------------------------------------------------
 *
 * read.c
 *	  One way to read metrics: memory and all levels of storage.
 *
 * A read sees nothing twice and misses nothing:
 *	1. copy the matching slots of the registry, in one piece as far as flushes
 *	   are concerned (seal lock), and note the number the next flush will have;
 *	2. hold off the dropping of partitions, then take a snapshot newer than the
 *	   copy and read from it how far storage has come: the last flush and the
 *	   watermarks of the levels;
 *	3. if a flush began after the copy and has committed by then, start over;
 *	4. drop the copied slots that this snapshot finds in storage;
 *	5. add what storage holds (read_storage.c), and what this transaction has
 *	   recorded and not published.
 *
 * Time: a point counts where it starts.  value() and its kin ask for every slot
 * of 10 seconds that overlaps the window.  Where only coarser points are left,
 * the edges are rounded outward to them.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "metrics/late.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define MAX_RETRIES 20
#define MAX_CELLS 500000                   /* buckets of all groups: bounds the memory of a read */
#define MAX_SEEN_BYTES (128 * 1024 * 1024) /* of all series' bitmaps of buckets */

typedef struct GroupEntry
{
	Jsonb *labels; /* hash key */
	int group;
	uint32 hash;
	char status;
} GroupEntry;

static inline bool
jsonb_same(const Jsonb *a, const Jsonb *b)
{
	return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
}

#define SH_PREFIX groups
#define SH_ELEMENT_TYPE GroupEntry
#define SH_KEY_TYPE Jsonb *
#define SH_KEY labels
#define SH_HASH_KEY(tb, k) hash_bytes((const unsigned char *) (k), VARSIZE(k))
#define SH_EQUAL(tb, a, b) jsonb_same(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, e) (e)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* A copied slot, and the copied series it belongs to. */
struct MemoryPoint
{
	MonPoint point;
	uint64 seq;
	int series;
};

struct MemorySeries
{
	int64 id;
	Jsonb *labels;
	MatchedSeries *match;
};

/* ---- selection ---- */

void
mon_read_metric_name(ReadState *state, text *metric, Jsonb *labels)
{
	mon_check_metric_name(VARDATA_ANY(metric), VARSIZE_ANY_EXHDR(metric));
	state->metric = text_to_cstring(metric);
	mon_selector_parse(&state->selector, labels);
}

void
mon_read_note_kind(ReadState *state, MonMetricKind kind)
{
	mon_check_fn_kind(&state->fn, state->metric, kind);
	state->kind = kind;
}

/* ---- groups ---- */

static Jsonb *
group_labels(const ReadState *state, Jsonb *labels)
{
	MonJsonbState built = {0};
	Datum *names;
	bool *nulls;
	int n;

	deconstruct_array(state->by, TEXTOID, -1, false, 'i', &names, &nulls, &n);
	mon_push_jsonb(&built, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
	{
		JsonbValue key, *value;

		if (nulls[i])
			continue;
		key.type = jbvString;
		key.val.string.val = VARDATA_ANY(DatumGetPointer(names[i]));
		key.val.string.len = VARSIZE_ANY_EXHDR(DatumGetPointer(names[i]));
		value = getKeyJsonValueFromContainer(&labels->root, key.val.string.val, key.val.string.len,
											 NULL);
		if (!value)
			continue;
		mon_push_jsonb(&built, WJB_KEY, &key);
		mon_push_jsonb(&built, WJB_VALUE, value);
	}
	mon_push_jsonb(&built, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(built.result);
}

static int
find_or_add_group(ReadState *state, Jsonb *labels)
{
	bool found;
	GroupEntry *entry = groups_insert(state->group_index, labels, &found);

	if (found)
		return entry->group;
	if (state->ngroups == state->maxgroups)
	{
		state->maxgroups *= 2;
		state->groups = repalloc_huge(state->groups, sizeof(ReadGroup) * (Size) state->maxgroups);
	}
	state->groups[state->ngroups].labels = labels;
	state->groups[state->ngroups].cells = NULL;
	entry->group = state->ngroups;
	return state->ngroups++;
}

static MonPoint *
make_cells(ReadState *state)
{
	MonPoint *cells;

	state->ncells += state->nbuckets;
	if (state->nbuckets > 1 && state->ncells > MAX_CELLS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the result has more than %d rows", MAX_CELLS),
				 errhint("Ask for a shorter range, a longer step, or fewer series.")));
	cells = MemoryContextAllocExtended(state->cxt, sizeof(MonPoint) * state->nbuckets,
									   MCXT_ALLOC_HUGE);
	for (int i = 0; i < state->nbuckets; i++)
		mon_point_init(&cells[i], state->kind);
	return cells;
}

/* Remember a matching series. */
MatchedSeries *
mon_read_match(ReadState *state, int64 id, Jsonb *labels)
{
	bool found;
	MatchedSeries *m = hash_search(state->series, &id, HASH_ENTER, &found);

	if (!found)
	{
		m->group = find_or_add_group(state, group_labels(state, labels));
		m->deleted_seq = 0;
		m->seen = NULL;
	}
	return m;
}

MatchedSeries *
mon_read_find(const ReadState *state, int64 id)
{
	return hash_search(state->series, &id, HASH_FIND, NULL);
}

ReadGroup *
mon_read_only_group(ReadState *state)
{
	if (state->ngroups == 0)
		find_or_add_group(state, group_labels(state, state->selector.equal));
	return &state->groups[0];
}

/* ---- adding up ---- */

/* The bucket where a point counts; the first one takes what was rounded outward. */
static int64
bucket_of(const ReadState *state, TimestampTz start)
{
	int64 after = Max(start, state->from) - state->origin;
	int64 bucket;

	if (state->nbuckets == 1 || after <= 0)
		return 0;
	bucket = after / state->step;
	if (state->split == 0)
		return bucket;
	return 2 * bucket + (after % state->step >= state->split);
}

/* Note that a series has data in a bucket; false when it is known. */
static bool
first_seen(ReadState *state, MatchedSeries *m, int64 bucket)
{
	uint64 bit = UINT64CONST(1) << (bucket % 64);

	if (!m->seen)
	{
		Size size = sizeof(uint64) * ((state->nbuckets + 63) / 64);

		state->seen_bytes += size;
		if (state->seen_bytes > MAX_SEEN_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many series and steps to count series"),
					 errhint("Ask for a shorter range, a longer step, or fewer series.")));
		m->seen = MemoryContextAllocZero(state->cxt, size);
	}
	if (m->seen[bucket / 64] & bit)
		return false;
	m->seen[bucket / 64] |= bit;
	return true;
}

/* Only gauges know the moment; of all else the end of the point is it, which minutes and hours note as its last microsecond. */
static void
note_last(MonPoint *cell, const MonPoint *p)
{
	TimestampTz last = p->last_at > p->start ? p->last_at : p->start + SLOT_USECS;

	if ((last + 1) % USECS_PER_SEC == 0)
		last++;
	cell->count += p->count;
	cell->last_at = Max(cell->last_at, last);
}

void
mon_read_add(ReadState *state, MatchedSeries *m, MonPoint *p)
{
	ReadGroup *g = &state->groups[m->group];
	int64 bucket;

	if (p->kind != state->kind)
		return;
	bucket = bucket_of(state, p->start);
	if (bucket >= state->nbuckets)
		return;
	if (!g->cells)
		g->cells = make_cells(state);
	if (state->fn.kind == FN_SERIES)
		g->cells[bucket].count += first_seen(state, m, bucket);
	else if (state->fn.kind == FN_LAST_AT)
		note_last(&g->cells[bucket], p);
	else
		mon_point_merge(&g->cells[bucket], p, state->fn.needs_sketch, &state->alloc);
}

static bool
wanted(const ReadState *state, TimestampTz start)
{
	return start >= state->from && start < state->to;
}

/* ---- memory ---- */

/* Copy a slot of the series that is being copied, if the window wants it. */
static void
copy_slot(ReadState *state, const MonSeries *s, const MonSlot *slot)
{
	MemoryPoint *mp;
	MonPoint *p;

	if (!wanted(state, slot->start))
		return;
	if (state->npoints == state->maxpoints)
	{
		state->maxpoints *= 2;
		state->points = repalloc_huge(state->points, sizeof(MemoryPoint) * (Size) state->maxpoints);
	}
	mp = &state->points[state->npoints];
	mp->seq = slot->seq;
	mp->series = state->nmemory;
	p = &mp->point;
	mon_point_from_slot(p, s->kind, slot);
	if (p->count == 0)
		return;
	if (s->kind == MON_DISTRIBUTION)
	{
		expo_init(&p->sketch, slot->sketch.scale);
		if (state->fn.needs_sketch)
			expo_copy(&p->sketch, &slot->sketch, &state->alloc);
	}
	state->npoints++;
}

static void
copy_series(ReadState *state, MonSeries *s)
{
	int before = state->npoints;
	MemorySeries *copy;

	if (!mon_selector_match(&state->selector, s->labels))
		return;
	mon_series_lock(s, LW_SHARED);
	for (MonSlot *slot = s->slots; slot; slot = slot->older)
		copy_slot(state, s, slot);
	mon_series_unlock(s);
	if (state->npoints == before)
		return;

	if (state->nmemory == state->maxmemory)
	{
		state->maxmemory *= 2;
		state->memory = repalloc_huge(state->memory,
									  sizeof(MemorySeries) * (Size) state->maxmemory);
	}
	copy = &state->memory[state->nmemory++];
	copy->id = s->id;
	copy->labels = palloc(VARSIZE(s->labels));
	memcpy(copy->labels, s->labels, VARSIZE(s->labels));
}

/*
 * Copy what the registry has of the metric; returns the next flush's number.
 * Under the locks nothing is done but copying: see match_copied_series().
 */
static uint64
copy_registry(ReadState *state, MonDb *db)
{
	MonMetric *metric;
	uint64 next_seq;
	MonMetricKind kind = 0;

	state->npoints = 0;
	state->nmemory = 0;
	mon_seal_lock(LW_SHARED);
	next_seq = db->next_seq;
	mon_index_lock(LW_SHARED);
	metric = mon_registry_find_metric(state->metric, MyDatabaseId);
	if (metric && metric->series)
	{
		kind = metric->kind;
		if (state->fn.metric_kinds & (1 << (kind - 1)))
			for (MonSeries *s = metric->series; s; s = s->next_in_metric)
				copy_series(state, s);
	}
	mon_index_unlock();
	mon_seal_unlock();

	if (kind != 0)
		mon_read_note_kind(state, kind);
	return next_seq;
}

static void
match_copied_series(ReadState *state)
{
	for (int i = 0; i < state->nmemory; i++)
	{
		CHECK_FOR_INTERRUPTS();
		state->memory[i].match = mon_read_match(state, state->memory[i].id,
												state->memory[i].labels);
	}
}

/* Add the copied slots that the segments seen by a snapshot do not hold. */
static void
add_copied_points(ReadState *state, uint64 flushed)
{
	for (int i = 0; i < state->npoints; i++)
	{
		MemoryPoint *mp = &state->points[i];

		if (mp->seq == 0 || mp->seq > flushed)
			mon_read_add(state, state->memory[mp->series].match, &mp->point);
	}
}

/* A point of this transaction's own; its sketch stays the owner's. */
static void
add_own_point(ReadState *state, const MonSeriesKey *key, MonPoint *p)
{
	ExpoSketch shared = p->sketch;

	if (strcmp(key->metric, state->metric) != 0 ||
		!mon_selector_match(&state->selector, (Jsonb *) key->labels) || !wanted(state, p->start) ||
		p->count == 0)
		return;
	mon_read_note_kind(state, key->kind);
	expo_init(&p->sketch, EXPO_DEFAULT_SCALE);
	if (key->kind == MON_DISTRIBUTION && state->fn.needs_sketch)
		expo_copy(&p->sketch, &shared, &state->alloc);
	mon_read_add(state, mon_read_match(state, key->id, (Jsonb *) key->labels), p);
}

/* What this transaction has recorded with monitoring.transactional. */
static void
add_own(const MonSeriesKey *key, const MonDelta *d, void *arg)
{
	MonPoint p;
	TimestampTz now = GetCurrentTimestamp();

	mon_point_init(&p, key->kind);
	p.start = d->slot ? d->slot : mon_floor_time(now, SLOT_USECS);
	p.first_at = d->first_at ? d->first_at : now;
	p.last_at = d->last_at ? d->last_at : now;
	p.count = d->count;
	p.sum = d->sum;
	p.min = d->min;
	p.max = d->max;
	p.first = d->first;
	p.last = d->last;
	if (d->sketch)
	{
		p.count = d->sketch->count;
		p.sum = d->sketch->sum;
		p.min = d->sketch->min;
		p.max = d->sketch->max;
		p.sketch = *d->sketch;
	}
	add_own_point(arg, key, &p);
}

/* What this transaction has observed in the past and not written yet. */
static void
add_own_late(const MonSeriesKey *key, const MonPoint *point, void *arg)
{
	MonPoint p = *point;

	p.start = mon_floor_time(p.start, USECS_PER_MINUTE);
	add_own_point(arg, key, &p);
}

static void
note_own_late(const MonSeriesKey *key, const MonPoint *point, void *arg)
{
	ReadState *state = arg;

	state->has_late |= strcmp(key->metric, state->metric) == 0;
}

/* ---- one read ---- */

static void
init_state(ReadState *state)
{
	HASHCTL ctl = {0};

	state->cxt = CurrentMemoryContext;
	state->alloc = mon_palloc_allocator(state->cxt);
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(MatchedSeries);
	ctl.hcxt = state->cxt;
	state->series = hash_create("monitoring series", 64, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	state->group_index = groups_create(state->cxt, 8, NULL);
	state->maxgroups = 8;
	state->groups = palloc(sizeof(ReadGroup) * state->maxgroups);
	state->maxmemory = 64;
	state->memory = palloc(sizeof(MemorySeries) * state->maxmemory);
	state->maxpoints = 64;
	state->points = palloc(sizeof(MemoryPoint) * state->maxpoints);
}

/* Copy memory, then take a snapshot that is consistent with it; leaves the snapshot active. */
static void
copy_and_snapshot(ReadState *state, MonDb *db)
{
	for (int i = 0; i < MAX_RETRIES; i++)
	{
		uint64 next_seq = copy_registry(state, db);

		PushActiveSnapshot(GetLatestSnapshot());
		mon_read_storage_state(&state->storage);
		if (state->storage.seq < next_seq)
			return;
		PopActiveSnapshot();
		mon_advance_sequence(db, state->storage.seq);
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("metrics were flushed too often during a read")));
}

/* Memory and storage, as of one moment. */
static void
read_memory_and_storage(ReadState *state)
{
	MonDb *db;

	mon_record_push();
	mon_registry_bump_tick();
	db = mon_registry_db(MyDatabaseId);
	if (!db)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("monitoring.shared_memory is exhausted")));
	mon_sync_sequence(db);

	mon_lock_levels();
	copy_and_snapshot(state, db);
	match_copied_series(state);
	mon_late_each(note_own_late, state);
	mon_read_storage(state);
	PopActiveSnapshot();
	add_copied_points(state, state->storage.seq);
	mon_record_each_transactional(add_own, state);
	mon_late_each(add_own_late, state);
}

/* Without the library in shared memory there is nothing but what is stored. */
static void
read_storage_only(ReadState *state)
{
	mon_lock_levels();
	PushActiveSnapshot(GetLatestSnapshot());
	mon_read_storage_state(&state->storage);
	mon_read_storage(state);
	PopActiveSnapshot();
}

void
mon_read(ReadState *state)
{
	init_state(state);
	if (mon_preloaded)
		read_memory_and_storage(state);
	else
		read_storage_only(state);
}
