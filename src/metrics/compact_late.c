/*-------------------------------------------------------------------------
 *
 * compact_late.c
 *	  Late rows are worked into chunks, and into the coarser rows that hold these.
 *
 * Called by compact.c, under its lock.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/compact.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define LATE_PER_BATCH 1000

/* ---- what changes in hours that were rolled up ---- */

/* Whether a coarser level holds a period already, wholly or so far as this series. */
static bool
rolled_up(const StorageState *s, ChunkLevel level, TimestampTz period, int64 id)
{
	return period < s->complete[level] ||
		(period == s->complete[level] && s->in_progress[level] && id < s->next_series[level]);
}

/*
 * Whether the rows of a period are not written any more: retention has dropped
 * them, and one made of late points alone would pass for all there was.  What is
 * late goes to the coarser level only.
 */
static bool
is_dropped(const StorageState *s, ChunkLevel level, TimestampTz period, int64 id)
{
	return period < s->dropped[level] &&
		(level == LEVEL_DAILY || rolled_up(s, level + 1, mon_period_start(level + 1, period), id));
}

/* The rows of a level within periods of series, which begin and end as given. */
static void
fetch_periods(ChunkRows *rows, ChunkLevel level, const ChunkRows *begin, const ChunkRows *end)
{
	Oid types[3] = {INT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID};
	Datum values[3] = {mon_rows_ids(begin, false), mon_rows_periods(begin), mon_rows_periods(end)};

	mon_rows_fetch(rows,
				   psprintf("SELECT t.series_id, t.period, 0::bigint, t.data "
							"FROM unnest($1, $2, $3) AS u(i, s, e) JOIN monitoring.%s AS t "
							"ON t.series_id OPERATOR(pg_catalog.=) u.i "
							"AND t.period OPERATOR(pg_catalog.>=) u.s "
							"AND t.period OPERATOR(pg_catalog.<) u.e ORDER BY 1, 2",
							mon_chunk_levels[level].table),
				   3, types, values, 0);
}

/* The periods of a coarser level that hold changed ones and are rolled up already. */
static void
list_changed_periods(const Compaction *c, ChunkLevel level, const ChunkRows *change,
					 ChunkRows *begin, ChunkRows *end)
{
	for (int i = 0; i < change->n; i++)
	{
		int64 id = change->row[i].id;
		TimestampTz period = mon_period_start(level, change->row[i].period);

		if (!rolled_up(&c->state, level, period, id) ||
			(begin->n > 0 && begin->row[begin->n - 1].id == id &&
			 begin->row[begin->n - 1].period == period))
			continue;
		mon_rows_add(begin, id, period, 0, NULL);
		mon_rows_add(end, id, mon_period_end(level, period), 0, NULL);
	}
}

/* Position of the first row at or after i of a series and from a time on. */
static int
seek_row(const ChunkRows *rows, int i, int64 id, TimestampTz from)
{
	while (i < rows->n &&
		   (rows->row[i].id < id || (rows->row[i].id == id && rows->row[i].period < from)))
		i++;
	return i;
}

/*
 * Make the rows of a coarser level anew for those series and periods that have
 * changed in the finer one.  `change` is what was worked in there; *carried, what
 * that is in this level.
 */
static void
refresh_level(Compaction *c, ChunkLevel level, const ChunkRows *change, ChunkRows *carried)
{
	ChunkRows begin = {0}, end = {0};
	ChunkRows finer = {0}, stored = {0}, built = {0};
	ChunkBuilder *b = palloc(sizeof(ChunkBuilder));
	ChunkBuilder *before = palloc(sizeof(ChunkBuilder));
	ChunkBuilder *added = palloc(sizeof(ChunkBuilder));
	int f = 0, s = 0, a = 0;

	list_changed_periods(c, level, change, &begin, &end);
	if (begin.n == 0)
		return;
	fetch_periods(&finer, level - 1, &begin, &end);
	fetch_periods(&stored, level, &begin, &end);
	for (int i = 0; i < begin.n; i++)
	{
		int64 id = begin.row[i].id;
		TimestampTz period = begin.row[i].period;

		CHECK_FOR_INTERRUPTS();
		mon_builder_begin(b, level, period, c->series_cxt);
		mon_builder_begin(before, level, period, c->series_cxt);
		mon_builder_begin(added, level, period, c->series_cxt);
		f = mon_compaction_add_finer(c, b, &finer, seek_row(&finer, f, id, period), id);
		s = mon_compaction_add_rows(c, before, &stored, seek_row(&stored, s, id, period), id, NULL);
		a = mon_compaction_add_finer(c, added, change, seek_row(change, a, id, period), id);
		mon_compaction_add_built(carried, id, added);
		mon_builder_keep(b, before, added);
		if (!is_dropped(&c->state, level, period, id))
			mon_compaction_add_built(&built, id, b);
		MemoryContextReset(c->series_cxt);
	}
	mon_rows_replace(level, &built);
	c->rows += built.n;
}

/* ---- late points ---- */

/* Late rows of earlier periods may be worked in: chunks hold them, segments do not any more. */
static TimestampTz
late_before(const Compaction *c)
{
	TimestampTz oldest = mon_oldest_partition("segments");

	if (oldest > DT_NOBEGIN && oldest < DT_NOEND)
		oldest = mon_floor_time(oldest, USECS_PER_HOUR);
	return Min(oldest, c->state.complete[LEVEL_CHUNKS]);
}

/* The next late rows that may be worked in, after one that was seen before. */
static void
fetch_late(const Compaction *c, const ChunkRow *after, ChunkRows *late)
{
	Oid types[4] = {TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID, INT8OID};
	Datum values[4] = {TimestampTzGetDatum(late_before(c)), Int64GetDatum(after->id),
					   TimestampTzGetDatum(after->period), Int64GetDatum(after->seq)};

	mon_rows_fetch(late,
				   "SELECT series_id, period, seq, data FROM monitoring.late "
				   "WHERE period OPERATOR(pg_catalog.<) $1 "
				   "AND ROW(series_id, period, seq) OPERATOR(pg_catalog.>) ROW($2, $3, $4) "
				   "ORDER BY 1, 2, 3",
				   4, types, values, LATE_PER_BATCH);
}

/* The chunks that late rows belong to. */
static void
fetch_chunks_of(const ChunkRows *late, ChunkRows *stored)
{
	Oid types[2] = {INT8ARRAYOID, TIMESTAMPTZARRAYOID};
	Datum values[2] = {mon_rows_ids(late, false), mon_rows_periods(late)};

	mon_rows_fetch(stored,
				   "SELECT t.series_id, t.period, 0::bigint, t.data "
				   "FROM (SELECT DISTINCT i, p FROM unnest($1, $2) AS u(i, p)) AS u "
				   "JOIN monitoring.chunks AS t ON t.series_id OPERATOR(pg_catalog.=) u.i "
				   "AND t.period OPERATOR(pg_catalog.=) u.p ORDER BY 1, 2",
				   2, types, values, 0);
}

/*
 * Work a batch of late rows into chunks, or make these; false when there was
 * none.  *after is where to go on: what is damaged, or belongs to a chunk that
 * is, stays for somebody to repair it.
 */
static bool
compact_late_batch(Compaction *c, ChunkRow *after)
{
	ChunkRows late = {0}, stored = {0}, built = {0}, worked_in = {0};
	ChunkRows change = {0}, hours = {0}, days = {0};
	ChunkBuilder *b = palloc(sizeof(ChunkBuilder));
	ChunkBuilder *added = palloc(sizeof(ChunkBuilder));
	int k = 0;

	fetch_late(c, after, &late);
	if (late.n == 0)
		return false;
	*after = late.row[late.n - 1];
	fetch_chunks_of(&late, &stored);
	for (int i = 0; i < late.n;)
	{
		int64 id = late.row[i].id;
		TimestampTz period = late.row[i].period;
		ChunkRows readable = {0};
		int64 before = c->damaged;
		int64 damaged;

		CHECK_FOR_INTERRUPTS();
		mon_builder_begin(b, LEVEL_CHUNKS, period, c->series_cxt);
		mon_builder_begin(added, LEVEL_CHUNKS, period, c->series_cxt);
		k = mon_compaction_add_rows(c, b, &stored, seek_row(&stored, k, id, period), id, NULL);
		damaged = c->damaged - before;
		(void) mon_compaction_add_rows(c, added, &late, i, id, NULL);
		c->damaged = before + damaged; /* the same rows again */
		i = mon_compaction_add_rows(c, b, &late, i, id, &readable);
		if (damaged == 0 && readable.n > 0)
		{
			if (!is_dropped(&c->state, LEVEL_CHUNKS, period, id))
				mon_compaction_add_built(&built, id, b);
			mon_compaction_add_built(&change, id, added);
			for (int r = 0; r < readable.n; r++)
				mon_rows_add(&worked_in, id, period, readable.row[r].seq, NULL);
		}
		MemoryContextReset(c->series_cxt);
	}
	mon_rows_replace(LEVEL_CHUNKS, &built);
	c->rows += built.n;
	mon_rows_delete_late(&worked_in);
	refresh_level(c, LEVEL_HOURLY, &change, &hours);
	refresh_level(c, LEVEL_DAILY, &hours, &days);
	MemoryContextReset(c->cxt);
	return true;
}

/* The worker comes by every few seconds: it need not say so each time. */
static void
warn_late(Compaction *c)
{
	static TimestampTz warned_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (c->damaged > 0 && now - warned_at > USECS_PER_HOUR)
	{
		mon_compaction_warn(c, "late", DT_NOBEGIN);
		warned_at = now;
	}
	c->damaged = 0;
}

void
mon_compact_late(Compaction *c)
{
	ChunkRow after = {PG_INT64_MIN, DT_NOBEGIN, PG_INT64_MIN, NULL};

	while (!mon_compaction_out_of_time(c) && compact_late_batch(c, &after))
		;
	warn_late(c);
}
