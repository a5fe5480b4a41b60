/*-------------------------------------------------------------------------
 *
 * read.c
 *	  One way to read metrics: memory and all levels of storage.
 *
 * A read sees nothing twice and misses nothing:
 *	1. hold off the dropping of partitions, take a snapshot and read from it how
 *	   far storage has come: the last flush and the watermarks of the levels;
 *	2. find the series in the catalog as the snapshot has it (lookup.c), and in
 *	   memory those that it may not have yet (read_memory.c);
 *	3. copy the slots of these series that no flush up to that one has stored;
 *	4. if stored slots have been freed meanwhile, start over: since nothing is
 *	   freed before everybody sees it in storage, what memory did not have any
 *	   more when the snapshot was taken is in the snapshot;
 *	5. add what storage holds (read_storage.c), then the copies, and what this
 *	   transaction has recorded and not published.
 *
 * Many reads do this together: each step is made once for all of them, and each
 * series and row is looked at once, whoever wants it.
 *
 * Time: a point counts where it starts.  value() and its kin ask for every slot
 * of 10 seconds that overlaps the window.  Where only coarser points are left,
 * the edges are rounded outward to them.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "catalog/pg_type.h"
#include "core/labels_hash.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "metrics/lookup.h"
#include "metrics/scan.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define MAX_RETRIES 20
#define MATCHES 3                          /* of these, begin with the catalog again */
#define MAX_CELLS 500000                   /* buckets of all groups: bounds the memory of a read */
#define MAX_SEEN_BYTES (128 * 1024 * 1024) /* of all series' bitmaps of buckets */

/* Lookups by what they ask for. */
typedef struct LookupKey
{
	const ReadMetric *metric;
	Jsonb *equal;
} LookupKey;

typedef struct LookupEntry
{
	LookupKey key;
	SeriesLookup *lookup;
	uint32 hash;
	char status;
} LookupEntry;

static inline uint32
lookup_hash(LookupKey k)
{
	return hash_combine(hash_bytes((const unsigned char *) &k.metric, sizeof(k.metric)),
						hash_bytes((const unsigned char *) k.equal, VARSIZE(k.equal)));
}

#define SH_PREFIX lookups
#define SH_ELEMENT_TYPE LookupEntry
#define SH_KEY_TYPE LookupKey
#define SH_KEY key
#define SH_HASH_KEY(tb, k) lookup_hash(k)
#define SH_EQUAL(tb, a, b) ((a).metric == (b).metric && labels_same((a).equal, (b).equal))
#define SH_STORE_HASH
#define SH_GET_HASH(tb, e) (e)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* ---- selection ---- */

int64
mon_interval_usecs(const Interval *i, const char *what)
{
	double usecs = i->time + (double) i->day * USECS_PER_DAY +
		(double) i->month * DAYS_PER_MONTH * USECS_PER_DAY;

	if (usecs <= 0 || usecs > (double) DAYS_PER_YEAR * 100 * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the %s must be longer than zero and at most 100 years", what)));
	return (int64) usecs;
}

void
mon_check_finite(TimestampTz t, const char *what)
{
	if (TIMESTAMP_NOT_FINITE(t))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("%s must be a finite time", what)));
}

void
mon_read_metric_name(ReadState *state, text *metric, Jsonb *labels)
{
	mon_check_metric_name(VARDATA_ANY(metric), VARSIZE_ANY_EXHDR(metric));
	state->metric = text_to_cstring(metric);
	mon_selector_parse(&state->selector, labels);
}

void
mon_read_note_kind(ReadMetric *metric, MonMetricKind kind)
{
	metric->kind = kind;
	for (SeriesLookup *l = metric->lookups; l; l = l->next_in_metric)
		for (ReadState *r = l->reads; r; r = r->next_in_lookup)
		{
			mon_check_fn_kind(&r->fn, metric->name, kind);
			r->kind = kind;
		}
}

void
mon_read_window(ReadState *state, const Interval *over, TimestampTz at)
{
	int64 usecs = mon_interval_usecs(over, "window");
	TimestampTz covered_until;

	mon_check_finite(at, "at");
	state->from = mon_floor_time(at - usecs, SLOT_USECS);
	state->to = at + 1;
	/* The slots of the window cover more than it; the open one only what has passed. */
	covered_until = Max(at,
						Min(mon_floor_time(at, SLOT_USECS) + SLOT_USECS, GetCurrentTimestamp()));
	state->seconds = (covered_until - state->from) / (double) USECS_PER_SEC;
	state->nbuckets = 1;
}

/* ---- groups ---- */

static Jsonb *
group_labels(const ReadState *state, Jsonb *labels)
{
	MonJsonbState built = {0};

	if (state->by_all)
		return labels;
	mon_push_jsonb(&built, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < state->nby; i++)
	{
		JsonbValue key, *value;

		key.type = jbvString;
		key.val.string.val = VARDATA_ANY(DatumGetPointer(state->by_names[i]));
		key.val.string.len = VARSIZE_ANY_EXHDR(DatumGetPointer(state->by_names[i]));
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

/* A group with a copy of labels. */
static int
add_group(ReadState *state, const Jsonb *labels)
{
	ReadGroup *g;

	if (state->ngroups == state->maxgroups)
	{
		state->maxgroups = Max(2 * state->maxgroups, state->nby > 0 ? 8 : 1);
		if (state->groups)
			state->groups = repalloc_huge(state->groups,
										  sizeof(ReadGroup) * (Size) state->maxgroups);
		else
			state->groups = MemoryContextAlloc(state->batch->cxt,
											   sizeof(ReadGroup) * state->maxgroups);
	}
	g = &state->groups[state->ngroups];
	g->labels = MemoryContextAlloc(state->batch->cxt, VARSIZE(labels));
	memcpy(g->labels, labels, VARSIZE(labels));
	g->cells = NULL;
	g->newest = DT_NOBEGIN;
	return state->ngroups++;
}

/* The group that a series with these labels belongs to. */
static int
find_or_add_group(ReadState *state, Jsonb *labels)
{
	bool found;
	LabelsEntry *entry;

	if (state->nby == 0)
		return state->ngroups > 0 ? 0 : add_group(state, group_labels(state, labels));
	if (!state->group_index)
		state->group_index = labels_create(state->batch->cxt, 8, NULL);
	entry = labels_insert(state->group_index, group_labels(state, labels), &found);
	if (!found)
	{
		entry->no = add_group(state, entry->labels);
		entry->labels = state->groups[entry->no].labels;
	}
	return entry->no;
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
	cells = MemoryContextAllocExtended(state->batch->cxt, sizeof(MonPoint) * state->nbuckets,
									   MCXT_ALLOC_HUGE);
	for (int i = 0; i < state->nbuckets; i++)
		mon_point_init(&cells[i], state->kind);
	return cells;
}

ReadGroup *
mon_read_only_group(ReadState *state)
{
	if (state->ngroups == 0)
		find_or_add_group(state, state->selector.equal);
	return &state->groups[0];
}

/* ---- series ---- */

MatchedSeries *
mon_read_find(const ReadBatch *b, int64 id)
{
	return hash_search(b->series, &id, HASH_FIND, NULL);
}

static MatchedSeries *
enter_series(ReadBatch *b, int64 id)
{
	bool found;
	MatchedSeries *m = hash_search(b->series, &id, HASH_ENTER, &found);

	if (found)
		return m;
	m->deleted_seq = 0;
	m->uses = NULL;
	if (b->nmatched == b->maxmatched)
	{
		b->maxmatched *= 2;
		b->matched = repalloc_huge(b->matched, sizeof(MatchedSeries *) * (Size) b->maxmatched);
	}
	b->matched[b->nmatched++] = m;
	return m;
}

/*
 * Enter a series for the reads of a lookup that it matches, which do not have it
 * yet.  What is left in the current context is of no use afterwards.
 */
static MatchedSeries *
match_lookup(ReadBatch *b, const SeriesLookup *lookup, int64 id, Jsonb *labels)
{
	MatchedSeries *m = NULL;

	if (!mon_labels_contain(labels, lookup->equal))
		return NULL;
	lookup->metric->has_series = true;
	for (ReadState *r = lookup->reads; r; r = r->next_in_lookup)
	{
		SeriesUse *use;

		if (!mon_selector_conditions(&r->selector, labels))
			continue;
		if (!m)
			m = enter_series(b, id);
		use = MemoryContextAlloc(b->cxt, sizeof(SeriesUse));
		use->read = r;
		use->group = find_or_add_group(r, labels);
		use->seen = NULL;
		use->next = m->uses;
		m->uses = use;
		r->nseries++;
	}
	return m;
}

MatchedSeries *
mon_read_match(ReadBatch *b, ReadMetric *metric, int64 id, Jsonb *labels)
{
	MatchedSeries *m = mon_read_find(b, id);
	MemoryContext old;

	if (m)
		return m;
	old = MemoryContextSwitchTo(b->match_cxt);
	for (SeriesLookup *l = metric->lookups; l; l = l->next_in_metric)
	{
		MatchedSeries *matched = match_lookup(b, l, id, labels);

		m = matched ? matched : m;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(b->match_cxt);
	return m;
}

static void
found_in_catalog(const LookupQuery *query, int64 id, Jsonb *labels, void *arg)
{
	ReadBatch *b = arg;
	MemoryContext old = MemoryContextSwitchTo(b->match_cxt);

	CHECK_FOR_INTERRUPTS();
	(void) match_lookup(b, query->owner, id, labels);
	MemoryContextSwitchTo(old);
	MemoryContextReset(b->match_cxt);
}

/* A series of late rows that the next flush will enter into the catalog, if it is not there. */
static void
found_late(const LookupQuery *query, MonMetricKind kind, int64 id, Jsonb *labels, void *arg)
{
	ReadMetric *metric = query->owner;

	CHECK_FOR_INTERRUPTS();
	(void) mon_read_match(arg, metric, id, labels);
	if (metric->late_kind == 0)
		metric->late_kind = kind;
}

static void
add_query(LookupQuery *queries, int *n, const char *metric, Jsonb *equal, void *owner)
{
	queries[*n].metric = metric;
	queries[*n].equal = equal;
	queries[(*n)++].owner = owner;
}

static void
find_late_series(ReadBatch *b)
{
	LookupQuery *queries = palloc(sizeof(LookupQuery) * b->nmetrics);
	int n = 0;

	for (ReadMetric *m = b->metric_list; m; m = m->next)
		add_query(queries, &n, m->name, NULL, m);
	mon_lookup_late(queries, n, found_late, b);
}

/* Find the stored series that match. */
static void
find_series(ReadBatch *b)
{
	LookupQuery *queries;
	int n = 0;

	SPI_connect();
	queries = palloc_extended(sizeof(LookupQuery) * b->nreads, MCXT_ALLOC_HUGE);
	for (ReadMetric *m = b->metric_list; m; m = m->next)
		for (SeriesLookup *l = m->lookups; l; l = l->next_in_metric)
			add_query(queries, &n, m->name, l->equal, l);
	mon_lookup_series(queries, n, found_in_catalog, b);
	if (mon_table_has_pages("late_series"))
		find_late_series(b);
	SPI_finish();
}

/* Metrics that are not in memory have their kind in the catalog. */
static void
find_kinds(ReadBatch *b)
{
	ReadMetric **unknown = palloc(sizeof(ReadMetric *) * b->nmetrics);
	const char **names = palloc(sizeof(char *) * b->nmetrics);
	MonMetricKind *kinds = palloc(sizeof(MonMetricKind) * b->nmetrics);
	int n = 0;

	for (ReadMetric *m = b->metric_list; m; m = m->next)
		if (m->has_series && m->kind == 0)
		{
			unknown[n] = m;
			names[n++] = m->name;
		}
	if (n == 0)
		return;
	SPI_connect();
	mon_lookup_kinds(names, n, kinds);
	SPI_finish();
	for (int i = 0; i < n; i++)
	{
		MonMetricKind kind = kinds[i] != 0 ? kinds[i] : unknown[i]->late_kind;

		if (kind != 0)
			mon_read_note_kind(unknown[i], kind);
	}
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
first_seen(ReadState *state, SeriesUse *use, int64 bucket)
{
	uint64 bit = UINT64CONST(1) << (bucket % 64);

	if (!use->seen)
	{
		Size size = sizeof(uint64) * ((state->nbuckets + 63) / 64);

		state->seen_bytes += size;
		if (state->seen_bytes > MAX_SEEN_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many series and steps to count series"),
					 errhint("Ask for a shorter range, a longer step, or fewer series.")));
		use->seen = MemoryContextAllocZero(state->batch->cxt, size);
	}
	if (use->seen[bucket / 64] & bit)
		return false;
	use->seen[bucket / 64] |= bit;
	return true;
}

/*
 * When a point was observed last.  Only gauges know the moment; of all else the
 * end of the point is it, which that of a gauge's minutes and hours is, too.
 */
static TimestampTz
last_of(const MonPoint *p, int64 unit)
{
	TimestampTz end = p->start + unit;

	return p->kind == MON_GAUGE && p->last_at + 1 < end ? p->last_at : end;
}

void
mon_read_add(SeriesUse *use, MonPoint *p, int64 unit, bool take)
{
	ReadState *state = use->read;
	ReadGroup *g = &state->groups[use->group];
	MonPoint *cell;
	int64 bucket;

	if (p->kind != state->kind)
		return;
	bucket = bucket_of(state, p->start);
	if (bucket >= state->nbuckets)
		return;
	if (!g->cells)
		g->cells = make_cells(state);
	g->newest = Max(g->newest, last_of(p, unit));
	cell = &g->cells[bucket];
	if (state->fn.kind == FN_SERIES)
		cell->count += first_seen(state, use, bucket);
	else if (state->fn.kind == FN_LAST_AT)
		cell->count += p->count; /* it is the group's newest */
	else if (take)
		mon_point_merge(cell, p, state->fn.needs_sketch, &state->batch->alloc);
	else
		mon_point_merge_copy(cell, p, state->fn.needs_sketch, &state->batch->alloc);
}

/* ---- reads ---- */

static ReadMetric *
enter_metric(ReadBatch *b, const char *name)
{
	bool found;
	ReadMetric *m = hash_search(b->metrics, name, HASH_ENTER, &found);

	if (!found)
	{
		m->kind = m->late_kind = 0;
		m->has_series = false;
		m->lookups = NULL;
		m->next = b->metric_list;
		b->metric_list = m;
		b->nmetrics++;
	}
	return m;
}

static SeriesLookup *
enter_lookup(ReadBatch *b, ReadMetric *metric, Jsonb *equal)
{
	bool found;
	LookupKey key = {metric, equal};
	LookupEntry *entry = lookups_insert(b->lookups, key, &found);

	if (!found)
	{
		SeriesLookup *l = palloc(sizeof(SeriesLookup));

		l->metric = metric;
		l->equal = equal;
		l->reads = NULL;
		l->next_in_metric = metric->lookups;
		metric->lookups = entry->lookup = l;
	}
	return entry->lookup;
}

/* What is grouped by: names of labels, or "..." for all of them, as in routes. */
static void
read_names(ReadState *r)
{
	bool *nulls;
	int n;

	r->nby = 0;
	r->by_all = false;
	if (ARR_NDIM(r->by) == 0)
		return;
	deconstruct_array(r->by, TEXTOID, -1, false, 'i', &r->by_names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		const void *name = DatumGetPointer(r->by_names[i]);

		if (nulls[i])
			continue;
		r->by_names[r->nby++] = r->by_names[i];
		r->by_all |= VARSIZE_ANY_EXHDR(name) == 3 && memcmp(VARDATA_ANY(name), "...", 3) == 0;
	}
}

static void
enter_read(ReadBatch *b, ReadState *r)
{
	r->batch = b;
	r->kind = 0;
	r->group_index = NULL;
	r->groups = NULL;
	r->ngroups = r->maxgroups = r->nseries = 0;
	r->ncells = r->seen_bytes = 0;
	r->has_late = false;
	r->window = NULL;
	read_names(r);
	r->lookup = enter_lookup(b, enter_metric(b, r->metric), r->selector.equal);
	r->next_in_lookup = r->lookup->reads;
	r->lookup->reads = r;
	b->needs_sketch |= r->fn.needs_sketch;
}

static HTAB *
make_hash(ReadBatch *b, const char *name, Size keysize, Size entrysize, int kind)
{
	HASHCTL ctl = {0};

	ctl.keysize = keysize;
	ctl.entrysize = entrysize;
	ctl.hcxt = b->cxt;
	return hash_create(name, Max(b->nreads, 16), &ctl, HASH_ELEM | kind | HASH_CONTEXT);
}

/* Begin to read, perhaps again. */
static void
begin(ReadBatch *b)
{
	MemoryContext old;

	if (b->cxt)
		MemoryContextReset(b->cxt);
	else
		b->cxt = AllocSetContextCreate(CurrentMemoryContext, "metrics read",
									   ALLOCSET_DEFAULT_SIZES);
	b->match_cxt = AllocSetContextCreate(b->cxt, "metrics match", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(b->cxt);
	b->alloc = mon_palloc_allocator(b->cxt);
	b->metrics = make_hash(b, "metrics", sizeof(((ReadMetric *) NULL)->name), sizeof(ReadMetric),
						   HASH_STRINGS);
	b->series = make_hash(b, "series", sizeof(int64), sizeof(MatchedSeries), HASH_BLOBS);
	b->lookups = lookups_create(b->cxt, Max(b->nreads, 4), NULL);
	b->metric_list = NULL;
	b->nmetrics = b->nmatched = b->npoints = 0;
	b->maxmatched = 64;
	b->matched = palloc(sizeof(MatchedSeries *) * b->maxmatched);
	b->maxpoints = 0;
	b->points = NULL;
	for (int i = 0; i < b->nreads; i++)
		enter_read(b, b->reads[i]);
	MemoryContextSwitchTo(old);
}

static void
take_snapshot(ReadBatch *b)
{
	mon_push_latest_snapshot();
	mon_read_storage_state(&b->storage);
}

/*
 * Find the series and copy memory, so that both agree with a snapshot; leaves it
 * active.  To match again is not needed unless series have left the lists of
 * those that the catalog may not have.  It is done a few times all the same:
 * then late points of series that came meanwhile are not missed either.
 */
static void
match_and_copy(ReadBatch *b, MonDb *db)
{
	uint64 matched = 0;

	for (int i = 0; i < MAX_RETRIES; i++)
	{
		uint64 drops = pg_atomic_read_u64(&db->drops);
		uint64 prunes = pg_atomic_read_u64(&db->prunes);

		pg_read_barrier();
		take_snapshot(b);
		if (i < MATCHES || prunes != matched)
		{
			begin(b);
			find_series(b);
			matched = prunes;
		}
		if (b->storage.seq < mon_registry_next_seq(db))
		{
			mon_read_copy_memory(b);
			pg_read_barrier();
			if (pg_atomic_read_u64(&db->drops) == drops &&
				pg_atomic_read_u64(&db->prunes) == matched)
				return;
		}
		else
			mon_advance_sequence(db, b->storage.seq);
		PopActiveSnapshot();
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("metrics were flushed too often during a read")));
}

/* Memory and storage, as of one moment. */
static void
read_memory_and_storage(ReadBatch *b)
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
	match_and_copy(b, db);
	find_kinds(b);
	mon_read_note_own_late(b);
	mon_read_storage(b);
	PopActiveSnapshot();
	mon_read_add_memory(b);
}

/* Without the library in shared memory there is nothing but what is stored. */
static void
read_storage_only(ReadBatch *b)
{
	mon_lock_levels();
	take_snapshot(b);
	begin(b);
	find_series(b);
	find_kinds(b);
	mon_read_storage(b);
	PopActiveSnapshot();
}

void
mon_read_batch(ReadState **reads, int n)
{
	ReadBatch *b = palloc0(sizeof(ReadBatch));

	b->reads = reads;
	b->nreads = n;
	if (n == 0)
		return;
	if (mon_preloaded)
		read_memory_and_storage(b);
	else
		read_storage_only(b);
}

void
mon_read(ReadState *state)
{
	ReadState **reads = palloc(sizeof(ReadState *));

	reads[0] = state;
	mon_read_batch(reads, 1);
}
