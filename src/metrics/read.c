/*-------------------------------------------------------------------------
 *
 * read.c
 *	  One way to read metrics: memory and all levels of storage.
 *
 * A read sees nothing twice and misses nothing:
 *	1. copy the matching slots of the registry, in one piece as far as flushes
 *	   are concerned (seal lock), and note the number the next flush will have;
 *	2. take a snapshot newer than the copy and read from it how far storage has
 *	   come: the last flush and the watermarks of the levels;
 *	3. if a flush began after the copy and has committed by then, start over;
 *	4. drop the copied slots that this snapshot finds in storage;
 *	5. add what storage holds: each piece of the time asked for from the coarsest
 *	   level that is exact for it (see plan()), late rows for all of it, and what
 *	   this transaction has recorded and not published.
 *
 * Time: a point counts where it starts.  value() and its kin ask for every slot
 * of 10 seconds that overlaps the window.  Where only coarser points are left,
 * the edges are rounded outward to them.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "metrics/late.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define MAX_RETRIES 20
#define MAX_CELLS 500000     /* buckets of all groups: bounds the memory of a read */
#define SLICED_READS_UP_TO 8 /* series; for more, whole segments are read */
#define IDS_UP_TO 1000       /* series that chunks are looked up for by id; for more, by period */

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
	int group;
};

/* ---- selection ---- */

void
mon_read_metric_name(ReadState *state, text *metric, Jsonb *labels)
{
	mon_check_metric_name(VARDATA_ANY(metric), VARSIZE_ANY_EXHDR(metric));
	state->metric = text_to_cstring(metric);
	mon_selector_parse(&state->selector, labels);
}

static void
note_kind(ReadState *state, MonMetricKind kind)
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

/* Remember a matching series; returns its group. */
static int
match_series(ReadState *state, int64 id, Jsonb *labels)
{
	bool found;
	MatchedSeries *m = hash_search(state->series, &id, HASH_ENTER, &found);

	if (!found)
	{
		m->group = find_or_add_group(state, group_labels(state, labels));
		m->deleted_seq = 0;
	}
	return m->group;
}

ReadGroup *
mon_read_only_group(ReadState *state)
{
	if (state->ngroups == 0)
		find_or_add_group(state, group_labels(state, state->selector.equal));
	return &state->groups[0];
}

/* ---- adding up ---- */

static void
add_point(ReadState *state, int group, MonPoint *p)
{
	ReadGroup *g = &state->groups[group];
	int64 bucket = 0;

	if (p->kind != state->kind)
		return;
	if (state->nbuckets > 1)
		bucket = Max(p->start - state->origin, 0) / state->step;
	if (bucket >= state->nbuckets)
		return;
	if (!g->cells)
		g->cells = make_cells(state);
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

	if (metric)
		note_kind(state, kind);
	return next_seq;
}

static void
match_copied_series(ReadState *state)
{
	for (int i = 0; i < state->nmemory; i++)
	{
		CHECK_FOR_INTERRUPTS();
		state->memory[i].group = match_series(state, state->memory[i].id, state->memory[i].labels);
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
			add_point(state, state->memory[mp->series].group, &mp->point);
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
	note_kind(state, key->kind);
	expo_init(&p->sketch, EXPO_DEFAULT_SCALE);
	if (key->kind == MON_DISTRIBUTION && state->fn.needs_sketch)
		expo_copy(&p->sketch, &shared, &state->alloc);
	add_point(state, match_series(state, key->id, (Jsonb *) key->labels), p);
}

/* What this transaction has recorded with monitoring.transactional. */
static void
add_own(const MonSeriesKey *key, const MonDelta *d, void *arg)
{
	MonPoint p;
	TimestampTz now = GetCurrentTimestamp();

	mon_point_init(&p, key->kind);
	p.start = d->slot ? d->slot : mon_floor_time(now, SLOT_USECS);
	p.last_at = d->slot ? d->slot : now;
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

/* ---- segments and minutes ---- */

static SPIPlanPtr
prepare(const char *query, int nargs, Oid *types)
{
	SPIPlanPtr plan = SPI_prepare(query, nargs, types);

	if (!plan)
		elog(ERROR, "could not prepare a read of metrics: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return plan;
}

static int
compare_matched(const void *a, const void *b)
{
	int64 x = ((const MatchedSeries *) a)->id;
	int64 y = ((const MatchedSeries *) b)->id;

	return x < y ? -1 : x > y;
}

static void
sort_matched(ReadState *state)
{
	HASH_SEQ_STATUS seq;
	MatchedSeries *m;

	state->nmatched = 0;
	state->matched = palloc_extended(
		sizeof(MatchedSeries) * (hash_get_num_entries(state->series) + 1), MCXT_ALLOC_HUGE);
	hash_seq_init(&seq, state->series);
	while ((m = hash_seq_search(&seq)) != NULL)
		state->matched[state->nmatched++] = *m;
	qsort(state->matched, state->nmatched, sizeof(MatchedSeries), compare_matched);
}

/* Note what was deleted of the matching series and is still in rows of several series. */
static void
note_deleted(ReadState *state)
{
	static SPIPlanPtr plan = NULL;

	if (!plan)
		plan = prepare("SELECT series_id, seq FROM monitoring.deleted_series", 0, NULL);
	if (SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what was deleted");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		bool isnull;
		int64 id = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
		MatchedSeries *m = hash_search(state->series, &id, HASH_FIND, NULL);

		if (m)
			m->deleted_seq = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Find the series of the metric that match, stored ones too; checks the function. */
static void
match_stored_series(ReadState *state)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {TEXTOID, JSONBOID};
	Datum values[2] = {CStringGetTextDatum(state->metric), JsonbPGetDatum(state->selector.equal)};

	if (!plan)
	{
		plan = SPI_prepare(
			"SELECT s.series_id, s.labels, m.kind FROM monitoring.series_catalog s "
			"JOIN monitoring.metric_catalog m ON m.metric OPERATOR(pg_catalog.=) s.metric "
			"WHERE s.metric OPERATOR(pg_catalog.=) $1 AND s.labels OPERATOR(pg_catalog.@>) $2",
			2, types);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the series catalog");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		MemoryContext old = MemoryContextSwitchTo(state->cxt);
		Jsonb *labels = DatumGetJsonbPCopy(SPI_getbinval(tuple, desc, 2, &isnull));

		if (i == 0)
			note_kind(state, DatumGetInt16(SPI_getbinval(tuple, desc, 3, &isnull)));
		if (mon_selector_match(&state->selector, labels))
			match_series(state, DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)), labels);
		MemoryContextSwitchTo(old);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* One row of segments or minutes; temporary memory is the caller's to reset. */
static void
add_segment_row(ReadState *state, HeapTuple tuple, TupleDesc desc)
{
	bool isnull;
	TimestampTz start = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 1, &isnull));
	int64 seq = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
	bytea *directory = DatumGetByteaPP(SPI_getbinval(tuple, desc, 3, &isnull));
	Datum points_datum = SPI_getbinval(tuple, desc, 4, &isnull);
	bytea *points = state->nmatched > SLICED_READS_UP_TO ? DatumGetByteaPP(points_datum) : NULL;
	SegmentReader r;
	int hint = 0;

	mon_segment_open(&r, VARDATA_ANY(directory), VARSIZE_ANY_EXHDR(directory),
					 toast_raw_datum_size(points_datum) - VARHDRSZ);
	for (int i = 0; i < state->nmatched; i++)
	{
		const MatchedSeries *m = &state->matched[i];
		uint32 offset, end;
		const char *data;
		MonPoint p;

		if (!mon_segment_find(&r, m->id, &hint, &offset, &end) || seq <= m->deleted_seq)
			continue;
		if (points)
			data = VARDATA_ANY(points) + offset;
		else
			data = VARDATA_ANY(DatumGetByteaPSlice(points_datum, offset, end - offset));
		mon_segment_decode(data, end - offset, start, &p, &state->alloc);
		add_point(state, m->group, &p);
		expo_free(&p.sketch, &state->alloc);
	}
}

/* Run a plan and hand every row over, with a memory context of its own. */
static void
for_each_row(ReadState *state, SPIPlanPtr plan, Datum *values,
			 void (*add)(ReadState *state, HeapTuple tuple, TupleDesc desc))
{
	MemoryContext row_cxt = AllocSetContextCreate(state->cxt, "metrics row",
												  ALLOCSET_DEFAULT_SIZES);
	Portal portal = SPI_cursor_open(NULL, plan, values, NULL, true);

	do
	{
		SPI_cursor_fetch(portal, true, 50);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			MemoryContext old = MemoryContextSwitchTo(row_cxt);

			CHECK_FOR_INTERRUPTS();
			add(state, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
			MemoryContextSwitchTo(old);
			MemoryContextReset(row_cxt);
		}
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
	MemoryContextDelete(row_cxt);
}

/* Add the rows of segments or minutes that start in a piece of time. */
static void
read_segments(ReadState *state, bool minutes, TimestampTz from, TimestampTz to)
{
	static SPIPlanPtr plans[2] = {NULL, NULL};
	Oid types[4] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum values[4] = {TimestampTzGetDatum(from), TimestampTzGetDatum(to),
					   Int64GetDatum(state->matched[0].id),
					   Int64GetDatum(state->matched[state->nmatched - 1].id)};

	if (!plans[minutes])
		plans[minutes] = prepare(
			psprintf("SELECT slot_start, seq, directory, points FROM monitoring.%s "
					 "WHERE slot_start OPERATOR(pg_catalog.>=) $1 "
					 "AND slot_start OPERATOR(pg_catalog.<) $2 "
					 "AND last_id OPERATOR(pg_catalog.>=) $3 "
					 "AND first_id OPERATOR(pg_catalog.<=) $4",
					 minutes ? "minutes" : "segments"),
			4, types);
	for_each_row(state, plans[minutes], values, add_segment_row);
}

/* ---- chunks ---- */

static void
add_chunk(ReadState *state, HeapTuple tuple, TupleDesc desc, ChunkLevel level, bool late)
{
	ChunkPoint points[CHUNK_MAX_UNITS];
	int64 unit = mon_chunk_levels[level].unit;
	bool isnull;
	int64 id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	TimestampTz period = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 2, &isnull));
	MatchedSeries *m = hash_search(state->series, &id, HASH_FIND, NULL);
	bytea *data;
	int n, kind;

	if (!m)
		return;
	data = DatumGetByteaPP(SPI_getbinval(tuple, desc, 3, &isnull));
	if (chunk_decode((uint8_t *) VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), state->fn.needs_sketch,
					 points, &n, &kind, &state->alloc) != EXPO_OK)
		mon_chunk_corrupt(late ? "late" : mon_chunk_levels[level].table, id, period);
	for (int i = 0; i < n; i++)
	{
		MonPoint p;

		mon_point_from_chunk(&p, kind, &points[i], period, unit);
		if (p.start >= state->piece_from && p.start < state->piece_to)
			add_point(state, m->group, &p);
		expo_free(&p.sketch, &state->alloc);
	}
}

static void
add_minute_chunk(ReadState *state, HeapTuple tuple, TupleDesc desc)
{
	add_chunk(state, tuple, desc, LEVEL_CHUNKS, false);
}

static void
add_hourly_chunk(ReadState *state, HeapTuple tuple, TupleDesc desc)
{
	add_chunk(state, tuple, desc, LEVEL_HOURLY, false);
}

static void
add_daily_chunk(ReadState *state, HeapTuple tuple, TupleDesc desc)
{
	add_chunk(state, tuple, desc, LEVEL_DAILY, false);
}

static void
add_late_chunk(ReadState *state, HeapTuple tuple, TupleDesc desc)
{
	add_chunk(state, tuple, desc, LEVEL_CHUNKS, true);
}

#define CHUNK_SOURCES (CHUNK_LEVELS + 1) /* the last one is monitoring.late */

static const struct
{
	const char *table;
	ChunkLevel level;
	void (*add)(ReadState *state, HeapTuple tuple, TupleDesc desc);
} chunk_sources[CHUNK_SOURCES] = {
	{"chunks", LEVEL_CHUNKS, add_minute_chunk},
	{"hourly", LEVEL_HOURLY, add_hourly_chunk},
	{"daily", LEVEL_DAILY, add_daily_chunk},
	{"late", LEVEL_CHUNKS, add_late_chunk},
};

static Datum
id_array(const ReadState *state)
{
	Datum *ids = palloc(sizeof(Datum) * state->nmatched);

	for (int i = 0; i < state->nmatched; i++)
		ids[i] = Int64GetDatum(state->matched[i].id);
	return PointerGetDatum(construct_array(ids, state->nmatched, INT8OID, 8, true, 'd'));
}

/* Add the points of a table of chunks that start in a piece of time. */
static void
read_chunks(ReadState *state, int source, TimestampTz from, TimestampTz to)
{
	static SPIPlanPtr plans[CHUNK_SOURCES][2];
	bool by_id = state->nmatched <= IDS_UP_TO;
	Oid types[3] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8ARRAYOID};
	Datum values[3] = {
		TimestampTzGetDatum(mon_period_start(chunk_sources[source].level, from)),
		TimestampTzGetDatum(to),
		0,
	};

	if (by_id)
		values[2] = id_array(state);
	if (!plans[source][by_id])
		plans[source][by_id] = prepare(
			psprintf("SELECT series_id, period, data FROM monitoring.%s "
					 "WHERE period OPERATOR(pg_catalog.>=) $1 "
					 "AND period OPERATOR(pg_catalog.<) $2%s",
					 chunk_sources[source].table,
					 by_id ? " AND series_id OPERATOR(pg_catalog.=) ANY ($3)" : ""),
			by_id ? 3 : 2, types);
	state->piece_from = from;
	state->piece_to = to;
	for_each_row(state, plans[source][by_id], values, chunk_sources[source].add);
}

/* ---- the plan: which level serves which piece of time ---- */

/* Whether buckets begin and end where points of that width do. */
static bool
exact_for(const ReadState *state, int64 unit)
{
	return state->nbuckets == 1 ||
		(state->step % unit == 0 && mon_floor_time(state->origin, unit) == state->origin);
}

/*
 * Slots of 10 seconds: the edges of the other levels, and what is not compacted
 * yet.  Where segments are dropped already, the minutes that hold the edge.
 */
static void
plan_slots(ReadState *state, TimestampTz from, TimestampTz to)
{
	TimestampTz oldest = mon_oldest_partition("segments");

	oldest = Min(mon_ceil_time(oldest, USECS_PER_MINUTE), state->storage.minutes);
	if (from < oldest)
	{
		TimestampTz lo = mon_floor_time(from, USECS_PER_MINUTE);
		TimestampTz hi = Min(mon_ceil_time(Min(to, oldest), USECS_PER_MINUTE), oldest);
		TimestampTz chunked = state->storage.complete[LEVEL_CHUNKS];

		if (lo < chunked)
			read_chunks(state, LEVEL_CHUNKS, lo, Min(hi, chunked));
		if (hi > chunked)
			read_segments(state, true, Max(lo, chunked), hi);
		from = hi;
	}
	if (from < to)
		read_segments(state, false, from, to);
}

static void
plan_minutes(ReadState *state, TimestampTz from, TimestampTz to)
{
	TimestampTz lo = mon_ceil_time(from, USECS_PER_MINUTE);
	TimestampTz hi = mon_floor_time(Min(to, state->storage.minutes), USECS_PER_MINUTE);
	TimestampTz chunked = state->storage.complete[LEVEL_CHUNKS];

	if (!state->storage.compacted || lo >= hi || !exact_for(state, USECS_PER_MINUTE))
	{
		plan_slots(state, from, to);
		return;
	}
	if (from < lo)
		plan_slots(state, from, lo);
	if (lo < chunked)
		read_chunks(state, LEVEL_CHUNKS, lo, Min(hi, chunked));
	if (hi > chunked)
		read_segments(state, true, Max(lo, chunked), hi);
	if (hi < to)
		plan_slots(state, hi, to);
}

/* Hours and days: the whole ones from this level, the edges from finer ones. */
static void
plan(ReadState *state, ChunkLevel level, TimestampTz from, TimestampTz to)
{
	int64 unit = mon_chunk_levels[level].unit;
	TimestampTz lo = mon_ceil_time(from, unit);
	TimestampTz hi = mon_floor_time(Min(to, state->storage.complete[level]), unit);

	if (level == LEVEL_CHUNKS)
	{
		plan_minutes(state, from, to);
		return;
	}
	if (!state->storage.compacted || lo >= hi || !exact_for(state, unit))
	{
		plan(state, level - 1, from, to);
		return;
	}
	if (from < lo)
		plan(state, level - 1, from, lo);
	read_chunks(state, level, lo, hi);
	if (hi < to)
		plan(state, level - 1, hi, to);
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

static void
read_storage(ReadState *state)
{
	SPI_connect();
	match_stored_series(state);
	MemoryContextSwitchTo(state->cxt);
	note_deleted(state);
	sort_matched(state);
	if (state->nmatched > 0)
	{
		plan(state, LEVEL_DAILY, state->from, state->to);
		read_chunks(state, CHUNK_SOURCES - 1, mon_floor_time(state->from, USECS_PER_MINUTE),
					state->to);
	}
	SPI_finish();
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

	copy_and_snapshot(state, db);
	match_copied_series(state);
	read_storage(state);
	PopActiveSnapshot();
	add_copied_points(state, state->storage.seq);
	mon_record_each_transactional(add_own, state);
	mon_late_each(add_own_late, state);
}

/* Without the library in shared memory there is nothing but what is stored. */
static void
read_storage_only(ReadState *state)
{
	PushActiveSnapshot(GetLatestSnapshot());
	mon_read_storage_state(&state->storage);
	read_storage(state);
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
