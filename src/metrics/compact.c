/*-------------------------------------------------------------------------
 *
 * compact.c
 *	  Compaction: segments -> minutes -> chunks -> hourly -> daily.
 *
 * Each step replaces: what it writes is a function of what it reads, written
 * together with the watermark that makes readers look there instead.  Long
 * steps go through the series in order of their ids, a batch at a time, and
 * remember in compaction_state where to go on; until the last batch is done the
 * watermark stays, and readers do not look at what is there already.
 *
 * Rows of monitoring.late are worked into chunks (compact_late.c), and deleted
 * in the same transaction, when the segments of their hour have been dropped: as
 * long as there are any, reads take the edges of a window from them, and the
 * late rows must be found beside.
 *
 * What is damaged stops nothing: steps leave it out, with a warning, and it
 * stays where it is for check_storage() to find.
 *
 * Locks (heavyweight, see metrics_internal.h): LOCK_COMPACT throughout, and
 * LOCK_FLUSH where minutes are made, since a flush decides by their watermark
 * what is late.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/compact.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define SERIES_PER_BATCH 1024
#define BUDGET_MS 1000
/* Minutes are compacted this long after they ended, so that records made with a recent time are not late. */
#define GRACE_USECS USECS_PER_MINUTE

/* A point found in segments or minutes. */
typedef struct Entry
{
	int64 id;
	TimestampTz start;
	const char *data;
	uint32 len;
} Entry;

typedef struct Entries
{
	Entry *entry;
	int n;
	int max;
} Entries;

/* A series of which everything up to a flush was deleted. */
typedef struct DeletedSeries
{
	int64 id; /* hash key */
	int64 seq;
} DeletedSeries;

bool
mon_compaction_out_of_time(const Compaction *c)
{
	instr_time taken;

	if (c->budget_ms == 0)
		return false;
	INSTR_TIME_SET_CURRENT(taken);
	INSTR_TIME_SUBTRACT(taken, c->began);
	return INSTR_TIME_GET_MILLISEC(taken) >= c->budget_ms;
}

/* Tell what a step has left out. */
void
mon_compaction_warn(Compaction *c, const char *table, TimestampTz since)
{
	if (c->damaged > 0)
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("compaction of metrics leaves out what is damaged"),
				 errdetail("Table monitoring.%s, from %s on: " INT64_FORMAT " points or rows.",
						   table, timestamptz_to_str(since), c->damaged),
				 errhint("See monitoring.check_storage().")));
	c->damaged = 0;
}

/* ---- state ---- */

static void
store_state(const StorageState *s)
{
	Oid types[7] = {TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
					INT8OID,        INT8OID,        INT8OID};
	Datum values[7];
	char nulls[8] = "       ";

	values[0] = TimestampTzGetDatum(s->minutes);
	for (int i = 0; i < CHUNK_LEVELS; i++)
	{
		values[1 + i] = TimestampTzGetDatum(s->complete[i]);
		values[4 + i] = Int64GetDatum(s->next_series[i]);
		nulls[4 + i] = s->in_progress[i] ? ' ' : 'n';
	}
	if (SPI_execute_with_args(
			"INSERT INTO monitoring.compaction_state (only_row, minutes, chunks, hourly, daily, "
			"chunks_next, hourly_next, daily_next) VALUES (true, $1, $2, $3, $4, $5, $6, $7) "
			"ON CONFLICT (only_row) DO UPDATE SET minutes = EXCLUDED.minutes, "
			"chunks = EXCLUDED.chunks, hourly = EXCLUDED.hourly, daily = EXCLUDED.daily, "
			"chunks_next = EXCLUDED.chunks_next, hourly_next = EXCLUDED.hourly_next, "
			"daily_next = EXCLUDED.daily_next",
			7, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not store the state of compaction");
}

/* The earliest row of a table at or after a time; DT_NOEND when there is none. */
static TimestampTz
next_row_time(const char *table, const char *column, TimestampTz from)
{
	Datum value = TimestampTzGetDatum(from);
	Oid type = TIMESTAMPTZOID;
	bool isnull;
	Datum found;

	if (SPI_execute_with_args(psprintf("SELECT min(%s) FROM monitoring.%s WHERE %s OPERATOR("
									   "pg_catalog.>=) $1",
									   column, table, column),
							  1, &type, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read metrics");
	found = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_freetuptable(SPI_tuptable);
	return isnull ? DT_NOEND : DatumGetTimestampTz(found);
}

/*
 * The first run: nothing is compacted, and nothing before the first segment
 * exists.  No flush may write an earlier one meanwhile.
 */
static void
begin_state(StorageState *s, TimestampTz until)
{
	TimestampTz first;

	(void) mon_lock_storage(LOCK_FLUSH, true);
	first = next_row_time("segments", "slot_start", DT_NOBEGIN);
	s->minutes = mon_floor_time(Min(first, until), USECS_PER_MINUTE);
	for (int i = 0; i < CHUNK_LEVELS; i++)
		s->complete[i] = mon_period_start(i, s->minutes);
	s->compacted = true;
}

/* ---- gathering ---- */

static void
add_entry(Entries *list, int64 id, TimestampTz start, const char *data, uint32 len)
{
	if (list->n == list->max)
	{
		list->max = list->max ? list->max * 2 : 1024;
		list->entry = list->entry
			? repalloc_huge(list->entry, sizeof(Entry) * (Size) list->max)
			: palloc_extended(sizeof(Entry) * (Size) list->max, MCXT_ALLOC_HUGE);
	}
	list->entry[list->n].id = id;
	list->entry[list->n].start = start;
	list->entry[list->n].data = data;
	list->entry[list->n].len = len;
	list->n++;
}

static bool
is_deleted(const Compaction *c, int64 id, int64 seq)
{
	DeletedSeries *d = c->deleted ? hash_search(c->deleted, &id, HASH_FIND, NULL) : NULL;

	return d && seq <= d->seq;
}

static void
add_segment_entries(Compaction *c, Entries *list, HeapTuple tuple, TupleDesc desc, int64 lo,
					int64 hi)
{
	bool isnull;
	TimestampTz start = DatumGetTimestampTz(SPI_getbinval(tuple, desc, 1, &isnull));
	int64 seq = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
	bytea *directory = DatumGetByteaPCopy(SPI_getbinval(tuple, desc, 3, &isnull));
	bytea *points = DatumGetByteaPCopy(SPI_getbinval(tuple, desc, 4, &isnull));
	SegmentReader r;

	if (!mon_segment_try_open(&r, VARDATA_ANY(directory), VARSIZE_ANY_EXHDR(directory),
							  VARSIZE_ANY_EXHDR(points)))
	{
		c->damaged++;
		return;
	}
	for (int i = 0; i < r.nseries; i++)
	{
		int64 id;
		uint32 offset, end;

		if (!mon_segment_try_entry(&r, i, &id, &offset, &end))
			c->damaged++;
		else if (id >= lo && id <= hi && !is_deleted(c, id, seq))
			add_entry(list, id, start, VARDATA_ANY(points) + offset, end - offset);
	}
}

static int
compare_entries(const void *a, const void *b)
{
	const Entry *x = a;
	const Entry *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->start < y->start ? -1 : x->start > y->start;
}

/* The points of a range of series and time in segments or minutes, by series and time. */
static void
gather(Compaction *c, Entries *list, const char *table, TimestampTz from, TimestampTz to, int64 lo,
	   int64 hi)
{
	Oid types[4] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum values[4] = {TimestampTzGetDatum(from), TimestampTzGetDatum(to), Int64GetDatum(lo),
					   Int64GetDatum(hi)};
	char *query = psprintf("SELECT slot_start, seq, directory, points FROM monitoring.%s "
						   "WHERE slot_start OPERATOR(pg_catalog.>=) $1 "
						   "AND slot_start OPERATOR(pg_catalog.<) $2 "
						   "AND last_id OPERATOR(pg_catalog.>=) $3 "
						   "AND first_id OPERATOR(pg_catalog.<=) $4",
						   table);
	Portal portal = SPI_cursor_open_with_args(NULL, query, 4, types, values, NULL, false, 0);

	do
	{
		SPI_cursor_fetch(portal, true, 20);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			CHECK_FOR_INTERRUPTS();
			add_segment_entries(c, list, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, lo, hi);
		}
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
	qsort(list->entry, list->n, sizeof(Entry), compare_entries);
}

static bool
decode_entry(Compaction *c, const Entry *e, MonPoint *p)
{
	ExpoAllocator alloc = mon_palloc_allocator(c->series_cxt);

	if (mon_segment_try_decode(e->data, e->len, e->start, p, &alloc))
		return true;
	c->damaged++;
	return false;
}

/* ---- segments to minutes ---- */

/*
 * Merge the entries of one series from i on into one point, which has a count of
 * 0 when all are damaged; returns the next i.
 */
static int
merge_minute(Compaction *c, const Entries *list, int i, MonPoint *merged)
{
	ExpoAllocator alloc = mon_palloc_allocator(c->series_cxt);
	int64 id = list->entry[i].id;

	merged->count = 0;
	for (; i < list->n && list->entry[i].id == id; i++)
	{
		MonPoint p;

		if (!decode_entry(c, &list->entry[i], &p))
			continue;
		if (merged->count == 0)
			mon_point_init(merged, p.kind);
		if (p.kind == merged->kind)
			mon_point_merge(merged, &p, true, &alloc);
	}
	return i;
}

static void
compact_minute(Compaction *c, TimestampTz minute)
{
	Entries list = {0};
	SegmentBuilder b;
	int part = 0;

	gather(c, &list, "segments", minute, minute + USECS_PER_MINUTE, PG_INT64_MIN, PG_INT64_MAX);
	for (int i = 0; i < list.n;)
	{
		mon_segment_begin(&b);
		while (i < list.n && b.nseries < SERIES_PER_SEGMENT)
		{
			int64 id = list.entry[i].id;
			MonPoint merged;

			CHECK_FOR_INTERRUPTS();
			i = merge_minute(c, &list, i, &merged);
			merged.start = minute;
			if (merged.count > 0)
				mon_segment_add(&b, id, &merged);
			MemoryContextReset(c->series_cxt);
		}
		if (b.nseries == 0)
			break;
		mon_segment_write("minutes", &b, minute, c->state.seq, part++);
		c->rows++;
	}
	mon_compaction_warn(c, "segments", minute);
	MemoryContextReset(c->cxt);
}

/* Compact the minutes that ended before `until`; true when there were any. */
static bool
compact_minutes(Compaction *c, TimestampTz until)
{
	TimestampTz before = c->state.minutes;

	until = mon_floor_time(until, USECS_PER_MINUTE);
	while (c->state.minutes < until && !mon_compaction_out_of_time(c))
	{
		TimestampTz next = next_row_time("segments", "slot_start", c->state.minutes);

		next = Min(mon_floor_time(Min(next, until), USECS_PER_MINUTE), until);
		if (next < until)
		{
			compact_minute(c, next);
			next += USECS_PER_MINUTE;
		}
		c->state.minutes = next;
	}
	return c->state.minutes > before;
}

/* ---- minutes to chunks ---- */

/* Series ids are hashes, so that equal ranges hold about equally many. */
static int64
batch_end(TimestampTz hour, int64 lo)
{
	Oid types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum values[2] = {TimestampTzGetDatum(hour), TimestampTzGetDatum(hour + USECS_PER_HOUR)};
	int64 batches;
	bool isnull;
	uint64 width;

	if (SPI_execute_with_args("SELECT coalesce(max(n), 0) FROM (SELECT sum(series) AS n "
							  "FROM monitoring.minutes WHERE slot_start OPERATOR(pg_catalog.>=) $1 "
							  "AND slot_start OPERATOR(pg_catalog.<) $2 GROUP BY slot_start) AS m",
							  2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read metrics");
	batches = 1 +
		DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) /
			SERIES_PER_BATCH;
	SPI_freetuptable(SPI_tuptable);
	if (batches == 1)
		return PG_INT64_MAX;
	width = PG_UINT64_MAX / batches;
	if ((uint64) PG_INT64_MAX - (uint64) lo <= width)
		return PG_INT64_MAX;
	return (int64) ((uint64) lo + width);
}

/* The rows of a table of chunks for one period and a range of series. */
static void
fetch_period(ChunkRows *rows, const char *table, TimestampTz period, int64 lo, int64 hi)
{
	Oid types[3] = {TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum values[3] = {TimestampTzGetDatum(period), Int64GetDatum(lo), Int64GetDatum(hi)};

	mon_rows_fetch(rows,
				   psprintf("SELECT series_id, period, 0::bigint, data FROM monitoring.%s "
							"WHERE period OPERATOR(pg_catalog.=) $1 "
							"AND series_id OPERATOR(pg_catalog.>=) $2 "
							"AND series_id OPERATOR(pg_catalog.<=) $3 ORDER BY 1",
							table),
				   3, types, values, 0);
}

/*
 * Add the rows of one series and period from i on, and note those that could be
 * read in *added, if given; returns the next i.
 */
int
mon_compaction_add_rows(Compaction *c, ChunkBuilder *b, const ChunkRows *rows, int i, int64 id,
						ChunkRows *added)
{
	for (; i < rows->n && rows->row[i].id == id && rows->row[i].period == b->period; i++)
	{
		const ChunkRow *row = &rows->row[i];

		if (!mon_builder_add_chunk(b, b->level, b->period, row->data))
			c->damaged++;
		else if (added)
			mon_rows_add(added, id, row->period, row->seq, NULL);
	}
	return i;
}

void
mon_compaction_add_built(ChunkRows *built, int64 id, ChunkBuilder *b)
{
	bytea *data = mon_builder_finish(b);

	if (data)
		mon_rows_add(built, id, b->period, 0, data);
}

/* Build the chunks of a range of series for an hour. */
static void
build_chunks(Compaction *c, TimestampTz hour, int64 lo, int64 hi)
{
	Entries list = {0};
	ChunkRows stored = {0}; /* none, unless the state was lost */
	ChunkRows built = {0};
	ChunkBuilder *b = palloc(sizeof(ChunkBuilder));
	int i = 0, k = 0;

	gather(c, &list, "minutes", hour, hour + USECS_PER_HOUR, lo, hi);
	fetch_period(&stored, "chunks", hour, lo, hi);
	while (i < list.n || k < stored.n)
	{
		int64 id = PG_INT64_MAX;

		CHECK_FOR_INTERRUPTS();
		if (i < list.n)
			id = Min(id, list.entry[i].id);
		if (k < stored.n)
			id = Min(id, stored.row[k].id);

		mon_builder_begin(b, LEVEL_CHUNKS, hour, c->series_cxt);
		for (; i < list.n && list.entry[i].id == id; i++)
		{
			MonPoint p;

			if (decode_entry(c, &list.entry[i], &p))
				mon_builder_add(b, &p);
		}
		k = mon_compaction_add_rows(c, b, &stored, k, id, NULL);
		mon_compaction_add_built(&built, id, b);
		MemoryContextReset(c->series_cxt);
	}
	mon_rows_replace(LEVEL_CHUNKS, &built);
	c->rows += built.n;
	mon_compaction_warn(c, "minutes", hour);
	MemoryContextReset(c->cxt);
}

/* Move a level's mark of progress past a batch; at the end of a period its watermark. */
static void
advance(StorageState *s, ChunkLevel level, bool period_done, int64 last_id)
{
	if (period_done)
	{
		s->complete[level] = mon_period_end(level, s->complete[level]);
		s->in_progress[level] = false;
	}
	else
	{
		s->in_progress[level] = true;
		s->next_series[level] = last_id + 1;
	}
}

/*
 * Whether a level can take over another period, given how far the finer one is
 * complete.  Periods of which that holds nothing are passed over.
 */
static bool
is_due(StorageState *s, ChunkLevel level, const char *finer, const char *column,
	   TimestampTz finer_complete)
{
	TimestampTz next;

	if (mon_period_end(level, s->complete[level]) > finer_complete)
		return false;
	if (s->in_progress[level])
		return true;
	next = Min(next_row_time(finer, column, s->complete[level]), finer_complete);
	s->complete[level] = Max(s->complete[level], mon_period_start(level, next));
	return mon_period_end(level, s->complete[level]) <= finer_complete;
}

static void
compact_chunks(Compaction *c)
{
	StorageState *s = &c->state;

	while (!mon_compaction_out_of_time(c) &&
		   is_due(s, LEVEL_CHUNKS, "minutes", "slot_start", s->minutes))
	{
		TimestampTz hour = s->complete[LEVEL_CHUNKS];
		int64 lo = s->in_progress[LEVEL_CHUNKS] ? s->next_series[LEVEL_CHUNKS] : PG_INT64_MIN;
		int64 hi = batch_end(hour, lo);

		build_chunks(c, hour, lo, hi);
		advance(s, LEVEL_CHUNKS, hi == PG_INT64_MAX, hi);
	}
}

/* ---- chunks to hourly, hourly to daily ---- */

/* Add the rows of the finer level for one series and period from i on; returns the next i. */
int
mon_compaction_add_finer(Compaction *c, ChunkBuilder *b, const ChunkRows *rows, int i, int64 id)
{
	for (; i < rows->n && rows->row[i].id == id &&
		 mon_period_start(b->level, rows->row[i].period) == b->period;
		 i++)
		if (!mon_builder_add_chunk(b, b->level - 1, rows->row[i].period, rows->row[i].data))
			c->damaged++;
	return i;
}

/* Roll up rows of the finer level, ordered by series and period. */
static void
roll_up(Compaction *c, ChunkLevel level, const ChunkRows *source)
{
	ChunkBuilder *b = palloc(sizeof(ChunkBuilder));
	ChunkRows built = {0};

	for (int i = 0; i < source->n;)
	{
		int64 id = source->row[i].id;

		CHECK_FOR_INTERRUPTS();
		mon_builder_begin(b, level, mon_period_start(level, source->row[i].period), c->series_cxt);
		i = mon_compaction_add_finer(c, b, source, i, id);
		mon_compaction_add_built(&built, id, b);
		MemoryContextReset(c->series_cxt);
	}
	mon_rows_replace(level, &built);
	c->rows += built.n;
}

/* A batch of a period; true when it was the last one. */
static bool
roll_up_batch(Compaction *c, ChunkLevel level, TimestampTz period, int64 lo, int64 *last)
{
	const char *finer = mon_chunk_levels[level - 1].table;
	Oid types[4] = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT4OID};
	Datum values[4] = {TimestampTzGetDatum(period),
					   TimestampTzGetDatum(mon_period_end(level, period)), Int64GetDatum(lo),
					   Int32GetDatum(SERIES_PER_BATCH / 4)};
	ChunkRows source = {0};
	int64 series = 0;

	mon_rows_fetch(&source,
				   psprintf("SELECT series_id, period, 0::bigint, data FROM monitoring.%s "
							"WHERE period OPERATOR(pg_catalog.>=) $1 "
							"AND period OPERATOR(pg_catalog.<) $2 "
							"AND series_id IN (SELECT DISTINCT series_id FROM monitoring.%s "
							"WHERE period OPERATOR(pg_catalog.>=) $1 "
							"AND period OPERATOR(pg_catalog.<) $2 "
							"AND series_id OPERATOR(pg_catalog.>=) $3 "
							"ORDER BY series_id LIMIT $4) ORDER BY 1, 2",
							finer, finer),
				   4, types, values, 0);
	for (int i = 0; i < source.n; i++)
		if (i == 0 || source.row[i].id != source.row[i - 1].id)
			series++;
	roll_up(c, level, &source);
	mon_compaction_warn(c, finer, period);
	*last = source.n > 0 ? source.row[source.n - 1].id : PG_INT64_MAX;
	MemoryContextReset(c->cxt);
	return series < SERIES_PER_BATCH / 4 || *last == PG_INT64_MAX;
}

static void
compact_level(Compaction *c, ChunkLevel level)
{
	StorageState *s = &c->state;

	while (!mon_compaction_out_of_time(c) &&
		   is_due(s, level, mon_chunk_levels[level - 1].table, "period", s->complete[level - 1]))
	{
		int64 lo = s->in_progress[level] ? s->next_series[level] : PG_INT64_MIN;
		int64 last;
		bool done = roll_up_batch(c, level, s->complete[level], lo, &last);

		advance(s, level, done, last);
	}
}

/* ---- deleted series ---- */

static void
load_deleted(Compaction *c)
{
	HASHCTL ctl = {0};

	/* Not with the caller's snapshot: who deleted may have committed while we waited for the lock. */
	if (SPI_execute("SELECT series_id, seq FROM monitoring.deleted_series", false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read what was deleted");
	if (SPI_processed > 0)
	{
		ctl.keysize = sizeof(int64);
		ctl.entrysize = sizeof(DeletedSeries);
		ctl.hcxt = CurrentMemoryContext;
		c->deleted = hash_create("deleted series", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		int64 id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
		DeletedSeries *d = hash_search(c->deleted, &id, HASH_ENTER, NULL);

		d->seq = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Once no row of segments or minutes is as old, what was deleted needs no note. */
static void
forget_deleted(Compaction *c)
{
	Oid type = TIMESTAMPTZOID;
	Datum before = TimestampTzGetDatum(
		Min(mon_oldest_partition("segments"), mon_oldest_partition("minutes")));

	if (c->deleted &&
		SPI_execute_with_args("DELETE FROM monitoring.deleted_series "
							  "WHERE deleted_at OPERATOR(pg_catalog.<) $1",
							  1, &type, &before, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not forget what was deleted");
}

/* ---- one run ---- */

static void
begin_compaction(Compaction *c, TimestampTz until)
{
	memset(c, 0, sizeof(*c));
	SPI_connect();
	c->series_cxt = AllocSetContextCreate(CurrentMemoryContext, "compaction series",
										  ALLOCSET_DEFAULT_SIZES);
	load_deleted(c);
	c->cxt = AllocSetContextCreate(CurrentMemoryContext, "compaction", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(c->cxt);
	mon_latest_storage_state(&c->state);
	c->stored = c->state;
	if (!c->state.compacted)
		begin_state(&c->state, until);
}

static void
finish_compaction(Compaction *c)
{
	if (memcmp(&c->state, &c->stored, sizeof(StorageState)) != 0)
		store_state(&c->state);
	SPI_finish();
}

static void
require_writable(void)
{
	mon_require_preload();
	PreventCommandIfReadOnly("compact()");
	PreventCommandDuringRecovery("compact()");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("compact() must run in a READ COMMITTED transaction")));
}

/* Everything but minutes.  Late rows, which may come without end, are last: the rest does. */
static void
compact_levels(Compaction *c)
{
	compact_chunks(c);
	compact_level(c, LEVEL_HOURLY);
	compact_level(c, LEVEL_DAILY);
	mon_compact_late(c);
	forget_deleted(c);
}

PG_FUNCTION_INFO_V1(mon_compact);
/* compact(at timestamptz) returns bigint: rows written */
Datum
mon_compact(PG_FUNCTION_ARGS)
{
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(0);
	Compaction c;

	require_writable();
	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("at must be a finite time")));
	mon_lock_storage(LOCK_COMPACT, true);
	mon_flush_now(true, false);
	begin_compaction(&c, at);
	compact_minutes(&c, at);
	compact_levels(&c);
	finish_compaction(&c);
	PG_RETURN_INT64(c.rows);
}

/*
 * Minutes if any are due, else the rest: so that the flush lock is held shortly.
 * The rest, too, while somebody else holds that for long.
 */
static void
run_job(TimestampTz at)
{
	Compaction c;
	TimestampTz until;

	begin_compaction(&c, at);
	if (c.state.sealed_at != DT_NOBEGIN)
	{
		/* From now on, so that every run does something. */
		c.budget_ms = BUDGET_MS;
		INSTR_TIME_SET_CURRENT(c.began);
		until = Min(at, c.state.sealed_at) - GRACE_USECS;
		if (c.state.minutes < mon_floor_time(until, USECS_PER_MINUTE) &&
			mon_lock_storage(LOCK_FLUSH, false))
			compact_minutes(&c, until);
		else
			compact_levels(&c);
		finish_compaction(&c);
	}
	else
		SPI_finish();
}

PG_FUNCTION_INFO_V1(mon_compact_job);
/* compact_job(at timestamptz): a bounded amount of compaction */
Datum
mon_compact_job(PG_FUNCTION_ARGS)
{
	require_writable();
	if (mon_lock_storage(LOCK_COMPACT, false))
		run_job(PG_GETARG_TIMESTAMPTZ(0));
	PG_RETURN_VOID();
}
