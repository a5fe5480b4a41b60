/*-------------------------------------------------------------------------
 *
 * read.c
 *	  value(), percentile(), query(), series_values(): one way to read.
 *
 * A read unites memory and segments without seeing anything twice:
 *	1. copy the matching slots of the registry, in one piece as far as flushes
 *	   are concerned (seal lock), and note the number the next flush will have;
 *	2. take a snapshot newer than the copy and read flush_state.seq from it;
 *	3. if a flush began after the copy and has committed by then, start over;
 *	4. drop the copied slots that this snapshot finds in the segments;
 *	5. add what the segments hold, and what this transaction has recorded and
 *	   not published.
 *
 * Time: a slot is 10 seconds wide.  value() and its kin take every slot that
 * overlaps (at - over, at]; query() puts a slot into the bucket where it starts.
 * So that neither counts what is not its own, a rate is divided by the time that
 * the slots cover, and the buckets of query() begin with a slot.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include <math.h>

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define MAX_RETRIES 20
#define MAX_BUCKETS 100000
#define MAX_CELLS 1000000    /* buckets of all groups: bounds the memory of a read */
#define SLICED_READS_UP_TO 8 /* series; for more, whole segments are read */

/* A bucket of a group: what its points add up to. */
typedef struct Cell
{
	uint64 count;
	double sum, min, max, last;
	TimestampTz last_at;
	ExpoSketch *sketch;
} Cell;

/* The series that have the same labels, as far as the labels are grouped by. */
typedef struct ReadGroup
{
	Jsonb *labels;
	Cell *cells; /* NULL until there is data */
} ReadGroup;

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

/* A series that matches the selector, by id. */
typedef struct MatchedSeries
{
	int64 id; /* hash key */
	int group;
} MatchedSeries;

/* A copied slot, and the copied series it belongs to. */
typedef struct MemoryPoint
{
	MonPoint point;
	uint64 seq;
	int series;
} MemoryPoint;

typedef struct MemorySeries
{
	int64 id;
	Jsonb *labels;
	int group;
} MemorySeries;

/* One read. */
typedef struct ReadState
{
	const char *metric;
	Jsonb *selector;
	ArrayType *by;
	ReadFn fn;
	TimestampTz first_slot; /* slots with first_slot < start <= last_slot */
	TimestampTz last_slot;
	TimestampTz origin; /* buckets start here; unused when there is one */
	int64 step;
	int nbuckets;
	double seconds;     /* that rate divides by */
	MonMetricKind kind; /* of the metric; 0 when it is unknown */

	MemoryContext cxt; /* owns everything below */
	ExpoAllocator alloc;
	bool select_all;
	HTAB *series;
	MatchedSeries *matched; /* the same by ascending id */
	int nmatched;
	groups_hash *group_index;
	ReadGroup *groups;
	int ngroups;
	int maxgroups;
	int64 ncells;
	MemorySeries *memory; /* copied from the registry */
	int nmemory;
	int maxmemory;
	MemoryPoint *points;
	int npoints;
	int maxpoints;
} ReadState;

/* ---- kinds ---- */

/* Note the metric's kind; ereport(ERROR) when the function does not go with it. */
static void
note_kind(ReadState *state, MonMetricKind kind)
{
	static const char *const kinds[] = {"", "counter", "gauge", "distribution"};

	state->kind = kind;
	if (state->fn.metric_kinds & (1 << (kind - 1)))
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_WRONG_OBJECT_TYPE),
		 errmsg("function \"%s\" cannot be used on metric \"%s\"", state->fn.name, state->metric),
		 errdetail("The metric is a %s.", kinds[kind]),
		 errhint("Counters have count, sum, avg, rate and increase; gauges count, sum, "
				 "avg, min, max and last; distributions all but last.")));
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

static Cell *
make_cells(ReadState *state)
{
	Cell *cells;

	state->ncells += state->nbuckets;
	if (state->nbuckets > 1 && state->ncells > MAX_CELLS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the result has more than %d rows", MAX_CELLS),
				 errhint("Ask for a shorter range, a longer step, or fewer series.")));
	/* not the current context: while segments are read, that lasts for one row only */
	cells = MemoryContextAllocExtended(state->cxt, sizeof(Cell) * state->nbuckets,
									   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < state->nbuckets; i++)
	{
		cells[i].min = INFINITY;
		cells[i].max = -INFINITY;
		cells[i].last_at = DT_NOBEGIN;
	}
	return cells;
}

/* Remember a matching series; returns its group. */
static int
match_series(ReadState *state, int64 id, Jsonb *labels)
{
	bool found;
	MatchedSeries *m = hash_search(state->series, &id, HASH_ENTER, &found);

	if (!found)
		m->group = find_or_add_group(state, group_labels(state, labels));
	return m->group;
}

static bool
labels_match(const ReadState *state, Jsonb *labels)
{
	JsonbIterator *have, *want;

	if (state->select_all)
		return true;
	have = JsonbIteratorInit(&labels->root);
	want = JsonbIteratorInit(&state->selector->root);
	return JsonbDeepContains(&have, &want);
}

/* ---- adding up ---- */

/* Called in the memory context of a segment's row too, so what it keeps goes to state->cxt. */
static void
add_point(ReadState *state, int group, const MonPoint *p)
{
	ReadGroup *g = &state->groups[group];
	int bucket = 0;
	Cell *c;

	if (p->start <= state->first_slot || p->start > state->last_slot)
		return;
	if (state->nbuckets > 1)
		bucket = Max(p->start - state->origin, 0) / state->step;
	if (bucket >= state->nbuckets)
		return;

	if (!g->cells)
		g->cells = make_cells(state);
	c = &g->cells[bucket];
	c->count += p->count;
	c->sum += p->sum;
	c->min = Min(c->min, p->min);
	c->max = Max(c->max, p->max);
	if (p->last_at >= c->last_at)
	{
		c->last = p->last;
		c->last_at = p->last_at;
	}
	if (p->kind == MON_DISTRIBUTION && state->fn.kind == FN_PERCENTILE)
	{
		if (!c->sketch)
		{
			c->sketch = MemoryContextAlloc(state->cxt, sizeof(ExpoSketch));
			expo_init(c->sketch, p->sketch.scale);
		}
		expo_merge(c->sketch, &p->sketch, &state->alloc);
	}
}

static bool
cell_value(const ReadState *state, const Cell *c, double *value)
{
	if (c->count == 0)
		return false;
	switch (state->fn.kind)
	{
		case FN_COUNT:
			*value = c->count;
			break;
		case FN_SUM:
			*value = c->sum;
			break;
		case FN_AVG:
			*value = c->sum / c->count;
			break;
		case FN_MIN:
			*value = c->min;
			break;
		case FN_MAX:
			*value = c->max;
			break;
		case FN_LAST:
			*value = c->last;
			break;
		case FN_INCREASE:
		case FN_RATE:
			*value = state->kind == MON_COUNTER ? c->sum : c->count;
			if (state->fn.kind == FN_RATE)
				*value /= state->seconds;
			break;
		case FN_PERCENTILE:
			if (!c->sketch)
				return false;
			*value = expo_quantile(c->sketch, state->fn.q);
			break;
	}
	return true;
}

static bool
group_value(const ReadState *state, const ReadGroup *g, int bucket, double *value)
{
	return g->cells && cell_value(state, &g->cells[bucket], value);
}

/* ---- memory ---- */

/* Copy a slot of the series that is being copied, if the window wants it. */
static void
copy_slot(ReadState *state, const MonSeries *s, const MonSlot *slot)
{
	MemoryPoint *mp;
	MonPoint *p;

	if (slot->start <= state->first_slot || slot->start > state->last_slot)
		return;
	if (state->npoints == state->maxpoints)
	{
		state->maxpoints *= 2;
		state->points = repalloc_huge(state->points, sizeof(MemoryPoint) * (Size) state->maxpoints);
	}
	mp = &state->points[state->npoints];
	memset(mp, 0, sizeof(*mp));
	mp->seq = slot->seq;
	mp->series = state->nmemory;
	p = &mp->point;
	p->kind = s->kind;
	p->start = slot->start;
	p->last_at = slot->last_at;
	if (s->kind == MON_DISTRIBUTION)
	{
		if (slot->sketch.count == 0)
			return;
		p->count = slot->sketch.count;
		p->sum = slot->sketch.sum;
		p->min = slot->sketch.min;
		p->max = slot->sketch.max;
		expo_init(&p->sketch, slot->sketch.scale);
		if (state->fn.kind == FN_PERCENTILE)
			expo_copy(&p->sketch, &slot->sketch, &state->alloc);
	}
	else
	{
		p->count = slot->count;
		p->sum = slot->sum;
		p->min = slot->min;
		p->max = slot->max;
		p->last = slot->last;
	}
	state->npoints++;
}

static void
copy_series(ReadState *state, MonSeries *s)
{
	int before = state->npoints;
	MemorySeries *copy;

	if (!labels_match(state, s->labels))
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
	if (metric)
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

/* What this transaction has recorded with monitoring.transactional. */
static void
add_own(const MonSeriesKey *key, const MonDelta *d, void *arg)
{
	ReadState *state = arg;
	MonPoint p = {0};
	TimestampTz now = GetCurrentTimestamp();

	if (strcmp(key->metric, state->metric) != 0 || !labels_match(state, (Jsonb *) key->labels))
		return;
	note_kind(state, key->kind);
	p.kind = key->kind;
	p.start = now - now % SLOT_USECS;
	p.last_at = now;
	p.count = d->count;
	p.sum = d->sum;
	p.min = d->min;
	p.max = d->max;
	p.last = d->last;
	if (d->sketch)
	{
		p.count = d->sketch->count;
		p.sum = d->sketch->sum;
		p.min = d->sketch->min;
		p.max = d->sketch->max;
		p.sketch = *d->sketch;
	}
	if (p.count > 0)
		add_point(state, match_series(state, key->id, (Jsonb *) key->labels), &p);
}

/* ---- segments ---- */

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

/* Find the series of the metric that match, stored ones too; checks the function. */
static void
match_stored_series(ReadState *state)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {TEXTOID, JSONBOID};
	Datum values[2] = {CStringGetTextDatum(state->metric), JsonbPGetDatum(state->selector)};

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

		if (i == 0)
			note_kind(state, DatumGetInt16(SPI_getbinval(tuple, desc, 3, &isnull)));
		match_series(state, DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
					 DatumGetJsonbPCopy(SPI_getbinval(tuple, desc, 2, &isnull)));
		MemoryContextSwitchTo(old);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* One row of monitoring.segments; temporary memory is the caller's to reset. */
static void
add_segment(ReadState *state, TimestampTz start, Datum directory_datum, Datum points_datum)
{
	bytea *directory = DatumGetByteaPP(directory_datum);
	Size points_len = toast_raw_datum_size(points_datum) - VARHDRSZ;
	bytea *points = state->nmatched > SLICED_READS_UP_TO ? DatumGetByteaPP(points_datum) : NULL;
	int hint = 0;

	for (int i = 0; i < state->nmatched; i++)
	{
		const MatchedSeries *m = &state->matched[i];
		uint32 offset, end;
		const char *data;
		MonPoint p;

		if (!mon_segment_find(VARDATA_ANY(directory), VARSIZE_ANY_EXHDR(directory), m->id, &hint,
							  &offset, &end, points_len))
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

static void
add_segment_rows(ReadState *state, MemoryContext row_cxt)
{
	TupleDesc desc = SPI_tuptable->tupdesc;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		MemoryContext old = MemoryContextSwitchTo(row_cxt);
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		add_segment(state, DatumGetTimestampTz(SPI_getbinval(tuple, desc, 1, &isnull)),
					SPI_getbinval(tuple, desc, 2, &isnull), SPI_getbinval(tuple, desc, 3, &isnull));
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_cxt);
	}
}

/* Add what segments hold; the caller's snapshot decides which. */
static void
read_segments(ReadState *state)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum values[2] = {TimestampTzGetDatum(state->first_slot),
					   TimestampTzGetDatum(state->last_slot)};
	MemoryContext row_cxt;
	Portal portal;

	if (state->nmatched == 0)
		return;
	if (!plan)
	{
		plan = SPI_prepare("SELECT slot_start, directory, points FROM monitoring.segments "
						   "WHERE slot_start OPERATOR(pg_catalog.>) $1 "
						   "AND slot_start OPERATOR(pg_catalog.<=) $2",
						   2, types);
		SPI_keepplan(plan);
	}
	row_cxt = AllocSetContextCreate(state->cxt, "segment row", ALLOCSET_DEFAULT_SIZES);
	portal = SPI_cursor_open(NULL, plan, values, NULL, true);
	do
	{
		SPI_cursor_fetch(portal, true, 50);
		add_segment_rows(state, row_cxt);
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
	MemoryContextDelete(row_cxt);
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
	state->select_all = JB_ROOT_COUNT(state->selector) == 0;
	state->group_index = groups_create(state->cxt, 8, NULL);
	state->maxgroups = 8;
	state->groups = palloc(sizeof(ReadGroup) * state->maxgroups);
	state->maxmemory = 64;
	state->memory = palloc(sizeof(MemorySeries) * state->maxmemory);
	state->maxpoints = 64;
	state->points = palloc(sizeof(MemoryPoint) * state->maxpoints);
}

/* Copy memory, then take a snapshot that is consistent with it; leaves the snapshot active. */
static uint64
copy_and_snapshot(ReadState *state, MonDb *db)
{
	for (int i = 0; i < MAX_RETRIES; i++)
	{
		uint64 next_seq = copy_registry(state, db);
		uint64 flushed;

		PushActiveSnapshot(GetLatestSnapshot());
		flushed = mon_flushed_seq();
		if (flushed < next_seq)
			return flushed;
		PopActiveSnapshot();
		mon_advance_sequence(db, flushed);
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("metrics were flushed too often during a read")));
	return 0;
}

static void
read_metric(ReadState *state)
{
	MonDb *db;
	uint64 flushed;

	mon_require_preload();
	mon_record_push();
	mon_registry_bump_tick();
	init_state(state);
	db = mon_registry_db(MyDatabaseId);
	if (!db)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("monitoring.shared_memory is exhausted")));
	mon_sync_sequence(db);

	flushed = copy_and_snapshot(state, db);
	match_copied_series(state);
	SPI_connect();
	match_stored_series(state);
	MemoryContextSwitchTo(state->cxt);
	sort_matched(state);
	read_segments(state);
	SPI_finish();
	PopActiveSnapshot();
	MemoryContextSwitchTo(state->cxt);

	add_copied_points(state, flushed);
	mon_record_each_transactional(add_own, state);
}

/* ---- arguments ---- */

static int64
interval_usecs(const Interval *i, const char *what)
{
	double usecs = i->time + (double) i->day * USECS_PER_DAY +
		(double) i->month * DAYS_PER_MONTH * USECS_PER_DAY;

	if (usecs <= 0 || usecs > (double) DAYS_PER_YEAR * 100 * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the %s must be longer than zero and at most 100 years", what)));
	return (int64) usecs;
}

static void
check_finite(TimestampTz t, const char *what)
{
	if (TIMESTAMP_NOT_FINITE(t))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("%s must be a finite time", what)));
}

static void
set_metric(ReadState *state, text *metric, Jsonb *labels)
{
	mon_check_metric_name(VARDATA_ANY(metric), VARSIZE_ANY_EXHDR(metric));
	state->metric = text_to_cstring(metric);
	state->selector = mon_labels_canonical(labels);
}

/* The start of the slot that a time belongs to; C's remainder is negative before 2000. */
static TimestampTz
slot_of(TimestampTz t)
{
	int64 into = t % SLOT_USECS;

	return t - (into < 0 ? into + SLOT_USECS : into);
}

static void
set_window(ReadState *state, const Interval *over, TimestampTz at)
{
	int64 usecs = interval_usecs(over, "window");
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz covered_until;

	check_finite(at, "at");
	state->first_slot = at - usecs - SLOT_USECS;
	state->last_slot = at;
	covered_until = Max(at, Min(slot_of(at) + SLOT_USECS, now));
	state->seconds = (covered_until - slot_of(at - usecs)) / (double) USECS_PER_SEC;
	state->nbuckets = 1;
}

static Datum
single_value(FunctionCallInfo fcinfo, ReadState *state)
{
	double value;

	state->by = construct_empty_array(TEXTOID);
	read_metric(state);
	if (state->ngroups == 0 || !group_value(state, &state->groups[0], 0, &value))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(value);
}

/* ---- the SQL functions ---- */

PG_FUNCTION_INFO_V1(mon_value);
/* value(metric text, fn text, over interval, labels jsonb, at timestamptz) */
Datum
mon_value(PG_FUNCTION_ARGS)
{
	ReadState state = {0};

	set_metric(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(3));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(4));
	return single_value(fcinfo, &state);
}

PG_FUNCTION_INFO_V1(mon_percentile);
/* percentile(metric text, q float8, over interval, labels jsonb, at timestamptz) */
Datum
mon_percentile(PG_FUNCTION_ARGS)
{
	ReadState state = {0};
	double q = PG_GETARG_FLOAT8(1);

	if (!(q >= 0 && q <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("percentile value %g is not between 0 and 1", q),
				 errhint("The 95th percentile is 0.95.")));
	set_metric(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(3));
	state.fn.kind = FN_PERCENTILE;
	state.fn.q = q;
	state.fn.metric_kinds = FOR_DISTRIBUTION;
	state.fn.name = "percentile";
	set_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(4));
	return single_value(fcinfo, &state);
}

PG_FUNCTION_INFO_V1(mon_series_values);
/* series_values(metric, fn, over, labels, by, at): one row per group with data */
Datum
mon_series_values(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ReadState state = {0};

	set_metric(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(3));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_window(&state, PG_GETARG_INTERVAL_P(2), PG_GETARG_TIMESTAMPTZ(5));
	state.by = PG_GETARG_ARRAYTYPE_P(4);
	read_metric(&state);

	InitMaterializedSRF(fcinfo, 0);
	for (int g = 0; g < state.ngroups; g++)
	{
		double value;
		Datum values[2];
		bool nulls[2] = {false, false};

		if (!group_value(&state, &state.groups[g], 0, &value))
			continue;
		values[0] = JsonbPGetDatum(state.groups[g].labels);
		values[1] = Float8GetDatum(value);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static void
set_range(ReadState *state, TimestampTz since, TimestampTz until, const Interval *step)
{
	uint64 n;

	check_finite(since, "since");
	check_finite(until, "until");
	state->step = interval_usecs(step, "step");
	if (until <= since)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("until must be later than since")));
	if (state->step >= SLOT_USECS)
		since = slot_of(since);
	/* unsigned: the range of timestamps is wider than an int64 */
	n = ((uint64) until - (uint64) since + state->step - 1) / state->step;
	if (n > MAX_BUCKETS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the range has more than %d steps", MAX_BUCKETS),
				 errhint("Ask for a shorter range or a longer step.")));
	state->nbuckets = n;
	state->origin = since;
	state->seconds = Max(state->step, SLOT_USECS) / (double) USECS_PER_SEC;
	state->first_slot = since - SLOT_USECS;
	state->last_slot = until - 1;
}

static void
put_buckets(const ReadState *state, const ReadGroup *g, ReturnSetInfo *rsinfo)
{
	for (int b = 0; b < state->nbuckets; b++)
	{
		double value = 0;
		Datum values[3];
		bool nulls[3] = {false, false, false};

		values[0] = TimestampTzGetDatum(state->origin + b * state->step);
		values[1] = JsonbPGetDatum(g->labels);
		nulls[2] = !group_value(state, g, b, &value);
		values[2] = Float8GetDatum(value);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(mon_query);
/* query(metric, fn, since, until, step, labels, by) -> (bucket, series_labels, value) */
Datum
mon_query(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ReadState state = {0};
	bool ungrouped;

	set_metric(&state, PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(5));
	mon_parse_fn(PG_GETARG_TEXT_PP(1), &state.fn);
	set_range(&state, PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_TIMESTAMPTZ(3), PG_GETARG_INTERVAL_P(4));
	state.by = PG_GETARG_ARRAYTYPE_P(6);
	read_metric(&state);

	/* Without grouping there is always one group, so that a chart shows its gaps. */
	ungrouped = ArrayGetNItems(ARR_NDIM(state.by), ARR_DIMS(state.by)) == 0;
	if (ungrouped && state.ngroups == 0)
		find_or_add_group(&state, group_labels(&state, state.selector));

	InitMaterializedSRF(fcinfo, 0);
	for (int g = 0; g < state.ngroups; g++)
		if (ungrouped || state.groups[g].cells)
			put_buckets(&state, &state.groups[g], rsinfo);
	return (Datum) 0;
}
