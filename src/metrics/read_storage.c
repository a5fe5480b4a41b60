/*-------------------------------------------------------------------------
 *
 * read_storage.c
 *	  What storage holds of the series of a read: each piece of time from the
 *	  coarsest level that is exact for it, and late rows for all of it.
 *
 * A level is exact for a read whose buckets begin and end where the level's
 * points do.  Where the finer level is dropped already, a coarser one serves
 * although it is not exact: edges are rounded outward to its points.  No piece
 * of time is read from two levels.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "metrics/scan.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define SLICED_READS_UP_TO 8 /* series; for more, whole segments are read */

typedef enum ReadLevel
{
	READ_SLOTS,
	READ_MINUTES,
	READ_HOURS,
	READ_DAYS
} ReadLevel;

static const int64 level_units[] = {SLOT_USECS, USECS_PER_MINUTE, USECS_PER_HOUR, USECS_PER_DAY};

/* A read of storage. */
typedef struct StorageRead
{
	ReadState *state;
	MemoryContext row_cxt;           /* of one row */
	TimestampTz gone[READ_DAYS + 1]; /* before it this level is the finest that is left */
} StorageRead;

/* ---- the series ---- */

static int
compare_matched(const void *a, const void *b)
{
	int64 x = (*(MatchedSeries *const *) a)->id;
	int64 y = (*(MatchedSeries *const *) b)->id;

	return x < y ? -1 : x > y;
}

static void
sort_matched(ReadState *state)
{
	HASH_SEQ_STATUS seq;
	MatchedSeries *m;

	state->nmatched = 0;
	state->matched = palloc_extended(
		sizeof(MatchedSeries *) * (hash_get_num_entries(state->series) + 1), MCXT_ALLOC_HUGE);
	hash_seq_init(&seq, state->series);
	while ((m = hash_seq_search(&seq)) != NULL)
		state->matched[state->nmatched++] = m;
	qsort(state->matched, state->nmatched, sizeof(MatchedSeries *), compare_matched);
}

/* Note what was deleted of the matching series and is still in rows of several series. */
static void
note_deleted(ReadState *state)
{
	static SPIPlanPtr plan = NULL;

	if (!plan)
	{
		plan = SPI_prepare("SELECT series_id, seq FROM monitoring.deleted_series", 0, NULL);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what was deleted");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		MatchedSeries *m = mon_read_find(state,
										 DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)));

		if (m)
			m->deleted_seq = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
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
			"WHERE s.metric OPERATOR(pg_catalog.=) $1 AND s.labels OPERATOR(pg_catalog.@>) $2 "
			"UNION ALL SELECT l.series_id, l.labels, coalesce(m.kind, l.kind) "
			"FROM monitoring.late_series l LEFT JOIN monitoring.metric_catalog m "
			"ON m.metric OPERATOR(pg_catalog.=) l.metric "
			"WHERE l.metric OPERATOR(pg_catalog.=) $1 AND l.labels OPERATOR(pg_catalog.@>) $2",
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
			mon_read_note_kind(state, DatumGetInt16(SPI_getbinval(tuple, desc, 3, &isnull)));
		if (mon_selector_match(&state->selector, labels))
			(void) mon_read_match(state, DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
								  labels);
		MemoryContextSwitchTo(old);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* ---- segments and minutes ---- */

enum
{
	SEGMENT_START,
	SEGMENT_SEQ,
	SEGMENT_FIRST_ID,
	SEGMENT_LAST_ID,
	SEGMENT_DIRECTORY,
	SEGMENT_POINTS,
	SEGMENT_NCOLUMNS
};

static const char *const segment_columns[SEGMENT_NCOLUMNS] = {
	"slot_start", "seq", "first_id", "last_id", "directory", "points",
};

static void
add_segment_point(StorageRead *r, MatchedSeries *m, const char *data, Size len, TimestampTz start)
{
	ReadState *state = r->state;
	MonPoint p;

	mon_segment_decode(data, len, start, &p, &state->alloc);
	mon_read_add(state, m, &p);
	expo_free(&p.sketch, &state->alloc);
}

/* Few of a segment's series: by slices of its columns. */
static void
add_segment_slices(StorageRead *r, const Datum *row, int from, int to)
{
	ReadState *state = r->state;
	SegmentSlices slices;

	mon_segment_slices_open(&slices, row[SEGMENT_DIRECTORY], row[SEGMENT_POINTS],
							DatumGetInt64(row[SEGMENT_FIRST_ID]),
							DatumGetInt64(row[SEGMENT_LAST_ID]));
	for (int i = from; i < to; i++)
	{
		uint32 offset, end;
		bytea *slice;

		if (DatumGetInt64(row[SEGMENT_SEQ]) <= state->matched[i]->deleted_seq ||
			!mon_segment_slices_find(&slices, state->matched[i]->id, &offset, &end))
			continue;
		slice = DatumGetByteaPSlice(row[SEGMENT_POINTS], offset, end - offset);
		add_segment_point(r, state->matched[i], VARDATA_ANY(slice), VARSIZE_ANY_EXHDR(slice),
						  DatumGetTimestampTz(row[SEGMENT_START]));
	}
}

static void
add_whole_segment(StorageRead *r, const Datum *row, int from, int to)
{
	ReadState *state = r->state;
	bytea *directory = DatumGetByteaPP(row[SEGMENT_DIRECTORY]);
	bytea *points = DatumGetByteaPP(row[SEGMENT_POINTS]);
	SegmentReader reader;
	int hint = 0;

	mon_segment_open(&reader, VARDATA_ANY(directory), VARSIZE_ANY_EXHDR(directory),
					 VARSIZE_ANY_EXHDR(points));
	for (int i = from; i < to; i++)
	{
		uint32 offset, end;

		if (mon_segment_find(&reader, state->matched[i]->id, &hint, &offset, &end) &&
			DatumGetInt64(row[SEGMENT_SEQ]) > state->matched[i]->deleted_seq)
			add_segment_point(r, state->matched[i], VARDATA_ANY(points) + offset, end - offset,
							  DatumGetTimestampTz(row[SEGMENT_START]));
	}
}

/* The first of the matching series whose id is not below a given one. */
static int
first_matched(const ReadState *state, int64 id)
{
	int lo = 0;
	int hi = state->nmatched;

	while (lo < hi)
	{
		int mid = lo + (hi - lo) / 2;

		if (state->matched[mid]->id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void
add_segment_row(StorageRead *r, const Datum *row)
{
	ReadState *state = r->state;
	int64 last_id = DatumGetInt64(row[SEGMENT_LAST_ID]);
	int from = first_matched(state, DatumGetInt64(row[SEGMENT_FIRST_ID]));
	int to = from;

	while (to < state->nmatched && state->matched[to]->id <= last_id)
		to++;
	if (to == from)
		return;
	if (to - from <= SLICED_READS_UP_TO)
		add_segment_slices(r, row, from, to);
	else
		add_whole_segment(r, row, from, to);
}

/* Add the rows of segments or minutes that start in a piece of time. */
static void
read_segments(StorageRead *r, const char *table, TimestampTz from, TimestampTz to)
{
	StorageScan scan;

	mon_scan_open(&scan, table, segment_columns, SEGMENT_NCOLUMNS, SEGMENT_START, from, to);
	while (mon_scan_next_partition(&scan))
	{
		mon_scan_begin(&scan, NULL, true);
		while (mon_scan_next(&scan))
		{
			MemoryContext old = MemoryContextSwitchTo(r->row_cxt);

			CHECK_FOR_INTERRUPTS();
			add_segment_row(r, scan.values);
			MemoryContextSwitchTo(old);
			MemoryContextReset(r->row_cxt);
		}
	}
	mon_scan_close(&scan);
}

/* ---- chunks ---- */

enum
{
	CHUNK_ID,
	CHUNK_PERIOD,
	CHUNK_DATA,
	CHUNK_NCOLUMNS
};

static const char *const chunk_columns[CHUNK_NCOLUMNS] = {"series_id", "period", "data"};

/* Rows of chunks to be added: the points that start in from <= t < to. */
typedef struct ChunkRead
{
	const char *table;
	ChunkLevel level;
	TimestampTz from, to;
	bool only_look; /* for late rows, and note whether there are some */
} ChunkRead;

static void
add_chunk(StorageRead *r, const ChunkRead *c, MatchedSeries *m, const Datum *row)
{
	ReadState *state = r->state;
	TimestampTz period = DatumGetTimestampTz(row[CHUNK_PERIOD]);
	int64 unit = mon_chunk_levels[c->level].unit;
	ChunkPoint points[CHUNK_MAX_UNITS];
	bytea *data = DatumGetByteaPP(row[CHUNK_DATA]);
	int n, kind;

	if (chunk_decode((uint8_t *) VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), state->fn.needs_sketch,
					 points, &n, &kind, &state->alloc) != EXPO_OK)
		mon_chunk_corrupt(c->table, m->id, period);
	for (int i = 0; i < n; i++)
	{
		MonPoint p;

		mon_point_from_chunk(&p, kind, &points[i], period, unit);
		if (p.start >= c->from && p.start < c->to)
			mon_read_add(state, m, &p);
		expo_free(&p.sketch, &state->alloc);
	}
}

/* The rows of the open partition: of one series, or of all (m = NULL). */
static void
scan_chunks(StorageRead *r, const ChunkRead *c, StorageScan *scan, MatchedSeries *m)
{
	mon_scan_begin(scan, m ? &m->id : NULL, m != NULL);
	while (mon_scan_next(scan))
	{
		MatchedSeries *found = m ? m : mon_read_find(r->state, DatumGetInt64(scan->values[0]));
		MemoryContext old = MemoryContextSwitchTo(r->row_cxt);

		CHECK_FOR_INTERRUPTS();
		if (found && c->only_look)
			r->state->has_late = true;
		else if (found)
			add_chunk(r, c, found, scan->values);
		MemoryContextSwitchTo(old);
		MemoryContextReset(r->row_cxt);
	}
}

static void
read_chunk_table(StorageRead *r, const ChunkRead *c)
{
	ReadState *state = r->state;
	StorageScan scan;

	mon_scan_open(&scan, c->table, chunk_columns, CHUNK_NCOLUMNS, CHUNK_PERIOD,
				  mon_period_start(c->level, c->from), c->to);
	while (mon_scan_next_partition(&scan))
	{
		/* A look into the index costs about as much as a page. */
		if (mon_scan_pages(&scan) < state->nmatched)
			scan_chunks(r, c, &scan, NULL);
		else
			for (int i = 0; i < state->nmatched; i++)
				scan_chunks(r, c, &scan, state->matched[i]);
	}
	mon_scan_close(&scan);
}

static void
read_level(StorageRead *r, ChunkLevel level, TimestampTz from, TimestampTz to)
{
	ChunkRead c = {mon_chunk_levels[level].table, level, from, to};

	read_chunk_table(r, &c);
}

/* ---- the plan: which level serves which piece of time ---- */

/*
 * Whether points that wide tell what came first or last in a bucket: of several
 * series, or of a series and its late points, only the start of the point is known.
 */
static bool
order_is_known(const ReadState *state, int64 unit)
{
	switch (state->fn.kind)
	{
		case FN_FIRST:
		case FN_LAST:
		case FN_DELTA:
			return unit <= USECS_PER_MINUTE ||
				(!state->has_late && state->nmatched <= state->ngroups);
		case FN_LAST_AT:
			return unit <= USECS_PER_MINUTE;
		default:
			return true;
	}
}

static bool
exact_for(const ReadState *state, int64 unit)
{
	if (!order_is_known(state, unit))
		return false;
	return state->nbuckets == 1 ||
		(state->step % unit == 0 && state->split % unit == 0 &&
		 mon_floor_time(state->origin, unit) == state->origin);
}

/* Everything before it is in the level. */
static TimestampTz
complete_before(const ReadState *state, ReadLevel level)
{
	switch (level)
	{
		case READ_SLOTS:
			return DT_NOEND;
		case READ_MINUTES:
			return mon_floor_time(state->storage.minutes, USECS_PER_MINUTE);
		case READ_HOURS:
			return mon_floor_time(state->storage.complete[LEVEL_HOURLY], USECS_PER_HOUR);
		case READ_DAYS:
			return mon_floor_time(state->storage.complete[LEVEL_DAILY], USECS_PER_DAY);
	}
	return DT_NOBEGIN;
}

/*
 * How far back each level goes: by its oldest partition, but not beyond what
 * retention has dropped, of which a partition may have been made again.  A level
 * that has been dropped further than the next finer one serves nothing by that.
 */
static void
find_gone(StorageRead *r)
{
	const StorageState *s = &r->state->storage;
	TimestampTz oldest[READ_DAYS];

	oldest[READ_SLOTS] = mon_oldest_partition("segments");
	oldest[READ_MINUTES] = Max(
		s->dropped[LEVEL_CHUNKS],
		Min(mon_oldest_partition("minutes"), mon_oldest_partition("chunks")));
	oldest[READ_HOURS] = Max(s->dropped[LEVEL_HOURLY], mon_oldest_partition("hourly"));
	r->gone[READ_SLOTS] = DT_NOBEGIN;
	for (ReadLevel level = READ_MINUTES; level <= READ_DAYS; level++)
	{
		TimestampTz finer = oldest[level - 1];

		if (finer > DT_NOBEGIN && finer < DT_NOEND)
			finer = mon_ceil_time(finer, level_units[level]);
		r->gone[level] = Min(finer, complete_before(r->state, level));
	}
}

/* A piece of time from one level; its ends are multiples of the level's unit. */
static void
read_piece(StorageRead *r, ReadLevel level, TimestampTz from, TimestampTz to)
{
	TimestampTz chunked = r->state->storage.complete[LEVEL_CHUNKS];

	if (from >= to)
		return;
	switch (level)
	{
		case READ_SLOTS:
			read_segments(r, "segments", from, to);
			break;
		case READ_MINUTES:
			if (from < chunked)
				read_level(r, LEVEL_CHUNKS, from, Min(to, chunked));
			if (to > chunked)
				read_segments(r, "minutes", Max(from, chunked), to);
			break;
		case READ_HOURS:
			read_level(r, LEVEL_HOURLY, from, to);
			break;
		case READ_DAYS:
			read_level(r, LEVEL_DAILY, from, to);
			break;
	}
}

/* A piece of time from a level and finer ones; what is gone of this one is not asked for. */
static void
plan(StorageRead *r, ReadLevel level, TimestampTz from, TimestampTz to)
{
	int64 unit = level_units[level];
	TimestampTz gone = r->gone[level];
	TimestampTz lo, hi;

	if (from >= to)
		return;
	if (level == READ_SLOTS)
	{
		read_piece(r, level, from, to);
		return;
	}
	if (from < gone)
	{
		TimestampTz end = to < gone ? mon_ceil_time(to, unit) : gone;

		read_piece(r, level, mon_floor_time(from, unit), end);
		from = end;
		if (from >= to)
			return;
	}
	lo = mon_ceil_time(from, unit);
	hi = Min(to, complete_before(r->state, level));
	if (hi > DT_NOBEGIN)
		hi = mon_floor_time(hi, unit);
	if (lo >= hi || !exact_for(r->state, unit))
	{
		plan(r, level - 1, from, to);
		return;
	}
	plan(r, level - 1, from, lo);
	read_piece(r, level, lo, hi);
	plan(r, level - 1, hi, to);
}

/* ---- one read ---- */

static void
read_late(StorageRead *r, bool only_look)
{
	ReadState *state = r->state;
	ChunkRead c = {"late", LEVEL_CHUNKS, mon_floor_time(state->from, USECS_PER_MINUTE), state->to,
				   only_look};

	read_chunk_table(r, &c);
}

void
mon_read_storage(ReadState *state)
{
	StorageRead r = {state};

	SPI_connect();
	match_stored_series(state);
	MemoryContextSwitchTo(state->cxt);
	note_deleted(state);
	SPI_finish();
	sort_matched(state);
	if (state->nmatched == 0)
		return;

	r.row_cxt = AllocSetContextCreate(state->cxt, "metrics row", ALLOCSET_DEFAULT_SIZES);
	if (state->storage.compacted)
	{
		if (state->kind == MON_GAUGE)
			read_late(&r, true);
		find_gone(&r);
		plan(&r, READ_DAYS, state->from, state->to);
	}
	else
		read_piece(&r, READ_SLOTS, state->from, state->to);
	read_late(&r, false);
	MemoryContextDelete(r.row_cxt);
}
