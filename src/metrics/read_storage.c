/*-------------------------------------------------------------------------
 *
 * read_storage.c
 *	  What storage holds of the series of a batch of reads.
 *
 * read_plan.c says which reads take which pieces of time from which table.  Rows
 * are fetched for all of them together, decoded once, and their points added to
 * each read that takes that time from there.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "metrics/scan.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define CHUNKS_PER_SLICE 12 /* out of line, that are read in the time that one slice takes */

static const char *const tables[READ_TABLES] = {"segments", "minutes", "chunks",
												"hourly",   "daily",   "late"};

/* A read of storage. */
typedef struct StorageRead
{
	ReadBatch *batch;
	ReadPlan *plan;
	MemoryContext row_cxt;  /* of one row */
	ReadTable table;        /* that is being read ... */
	int64 unit;             /* ... and what its points cover */
	MatchedSeries **series; /* of segments: those that are read, by ascending ids */
	int nseries;
	TimePieces *periods; /* of chunks: those that each class reads; normal */
} StorageRead;

/* Add a point to the reads that take its time from this table; the last one takes its sketch over. */
static void
add_point(StorageRead *r, MatchedSeries *m, MonPoint *p)
{
	for (SeriesUse *use = m->uses; use; use = use->next)
		if (mon_pieces_hold(&use->read->window->tables[r->table], p->start))
			mon_read_add(use, p, r->unit, use->next == NULL);
	expo_free(&p->sketch, &r->batch->alloc);
}

/* ---- what was deleted ---- */

static Datum
matched_ids(const ReadBatch *b)
{
	Datum *ids = palloc_extended(sizeof(Datum) * b->nmatched, MCXT_ALLOC_HUGE);

	for (int i = 0; i < b->nmatched; i++)
		ids[i] = Int64GetDatum(b->matched[i]->id);
	return PointerGetDatum(construct_array(ids, b->nmatched, INT8OID, 8, true, 'd'));
}

/* Note what was deleted of the matching series and is still in rows of several series. */
static void
note_deleted(ReadBatch *b)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {INT8ARRAYOID};
	Datum values[1];

	if (!mon_table_has_pages("deleted_series"))
		return;
	SPI_connect();
	values[0] = matched_ids(b);
	if (!plan)
	{
		plan = SPI_prepare("SELECT series_id, seq FROM monitoring.deleted_series "
						   "WHERE series_id OPERATOR(pg_catalog.=) ANY ($1)",
						   1, types);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what was deleted");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;
		MatchedSeries *m = mon_read_find(b, DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)));

		if (m)
			m->deleted_seq = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
	}
	SPI_finish();
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
	MonPoint p;

	mon_segment_decode(data, len, start, &p, &r->batch->alloc);
	add_point(r, m, &p);
}

/* Few of a segment's series: by slices of its columns. */
static void
add_segment_slices(StorageRead *r, const Datum *row, int from, int to)
{
	SegmentSlices slices;

	mon_segment_slices_open(&slices, row[SEGMENT_DIRECTORY], row[SEGMENT_POINTS],
							DatumGetInt64(row[SEGMENT_FIRST_ID]),
							DatumGetInt64(row[SEGMENT_LAST_ID]));
	for (int i = from; i < to; i++)
	{
		MatchedSeries *m = r->series[i];
		uint32 offset, end;
		bytea *slice;

		if (DatumGetInt64(row[SEGMENT_SEQ]) <= m->deleted_seq ||
			!mon_segment_slices_find(&slices, m->id, &offset, &end))
			continue;
		slice = DatumGetByteaPSlice(row[SEGMENT_POINTS], offset, end - offset);
		add_segment_point(r, m, VARDATA_ANY(slice), VARSIZE_ANY_EXHDR(slice),
						  DatumGetTimestampTz(row[SEGMENT_START]));
	}
}

static void
add_whole_segment(StorageRead *r, const Datum *row, int from, int to)
{
	bytea *directory = DatumGetByteaPP(row[SEGMENT_DIRECTORY]);
	bytea *points = DatumGetByteaPP(row[SEGMENT_POINTS]);
	SegmentReader reader;
	int hint = 0;

	mon_segment_open(&reader, VARDATA_ANY(directory), VARSIZE_ANY_EXHDR(directory),
					 VARSIZE_ANY_EXHDR(points));
	for (int i = from; i < to; i++)
	{
		MatchedSeries *m = r->series[i];
		uint32 offset, end;

		if (mon_segment_find(&reader, m->id, &hint, &offset, &end) &&
			DatumGetInt64(row[SEGMENT_SEQ]) > m->deleted_seq)
			add_segment_point(r, m, VARDATA_ANY(points) + offset, end - offset,
							  DatumGetTimestampTz(row[SEGMENT_START]));
	}
}

/* The first of the series whose id is not below a given one. */
static int
first_series(const StorageRead *r, int64 id)
{
	int lo = 0;
	int hi = r->nseries;

	while (lo < hi)
	{
		int mid = lo + (hi - lo) / 2;

		if (r->series[mid]->id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Whether so many series are read faster by slices than with the whole row. */
static bool
few_in_row(const Datum *row, int n)
{
	Size size = toast_raw_datum_size(row[SEGMENT_DIRECTORY]) +
		toast_raw_datum_size(row[SEGMENT_POINTS]);

	return n == 1 || (Size) n * CHUNKS_PER_SLICE * TOAST_MAX_CHUNK_SIZE <= size;
}

static void
add_segment_row(StorageRead *r, const Datum *row)
{
	int64 last_id = DatumGetInt64(row[SEGMENT_LAST_ID]);
	int from = first_series(r, DatumGetInt64(row[SEGMENT_FIRST_ID]));
	int to = from;

	while (to < r->nseries && r->series[to]->id <= last_id)
		to++;
	if (to == from)
		return;
	if (few_in_row(row, to - from))
		add_segment_slices(r, row, from, to);
	else
		add_whole_segment(r, row, from, to);
}

/* Add the rows of segments or minutes that start in a piece of time. */
static void
read_segment_rows(StorageRead *r, TimestampTz from, TimestampTz to)
{
	StorageScan scan;

	mon_scan_open(&scan, tables[r->table], segment_columns, SEGMENT_NCOLUMNS, SEGMENT_START, from,
				  to);
	while (mon_scan_next_partition(&scan))
	{
		mon_scan_begin(&scan, NULL, from, to, true);
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

static int
compare_times(const void *a, const void *b)
{
	TimestampTz x = *(const TimestampTz *) a;
	TimestampTz y = *(const TimestampTz *) b;

	return x < y ? -1 : x > y;
}

/* The times at which classes begin or end to read the table, ascending. */
static TimestampTz *
find_bounds(const StorageRead *r, int *n)
{
	TimestampTz *bounds;
	int max = 0;

	for (int i = 0; i < r->plan->nclasses; i++)
		max += 2 * r->plan->classes[i]->tables[r->table].n;
	bounds = palloc(sizeof(TimestampTz) * (max + 1));
	*n = 0;
	for (int i = 0; i < r->plan->nclasses; i++)
	{
		const TimePieces *p = &r->plan->classes[i]->tables[r->table];

		for (int j = 0; j < p->n; j++)
		{
			bounds[(*n)++] = p->pieces[j].from;
			bounds[(*n)++] = p->pieces[j].to;
		}
	}
	qsort(bounds, *n, sizeof(TimestampTz), compare_times);
	return bounds;
}

static int
compare_ids(const void *a, const void *b)
{
	int64 x = (*(MatchedSeries *const *) a)->id;
	int64 y = (*(MatchedSeries *const *) b)->id;

	return x < y ? -1 : x > y;
}

/* Have the series of the classes that read the table at a time at hand. */
static void
choose_series(StorageRead *r, TimestampTz t)
{
	const SeriesClass *only = NULL;
	int n = 0;

	r->nseries = 0;
	for (int i = 0; i < r->plan->nclasses; i++)
		if (mon_pieces_hold(&r->plan->classes[i]->tables[r->table], t))
		{
			only = r->plan->classes[i];
			r->nseries += only->nseries;
			n++;
		}
	if (n == 1)
		r->series = only->series;
	if (n <= 1)
		return;
	r->series = palloc_extended(sizeof(MatchedSeries *) * r->nseries, MCXT_ALLOC_HUGE);
	n = 0;
	for (int i = 0; i < r->plan->nclasses; i++)
	{
		const SeriesClass *c = r->plan->classes[i];

		if (!mon_pieces_hold(&c->tables[r->table], t))
			continue;
		memcpy(r->series + n, c->series, sizeof(MatchedSeries *) * c->nseries);
		n += c->nseries;
	}
	qsort(r->series, n, sizeof(MatchedSeries *), compare_ids);
}

/* Segments or minutes: a row holds many series, those of several classes too. */
static void
read_segments(StorageRead *r, ReadTable table, int64 unit)
{
	TimestampTz *bounds;
	int n;

	r->table = table;
	r->unit = unit;
	bounds = find_bounds(r, &n);
	for (int i = 0; i + 1 < n; i++)
	{
		if (bounds[i] == bounds[i + 1])
			continue;
		choose_series(r, bounds[i]);
		if (r->nseries > 0)
			read_segment_rows(r, bounds[i], bounds[i + 1]);
	}
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

/* What is done with a row of a series. */
typedef void (*ChunkRow)(StorageRead *r, MatchedSeries *m, const Datum *row);

static ChunkLevel
chunk_level(ReadTable table)
{
	switch (table)
	{
		case READ_HOURLY:
			return LEVEL_HOURLY;
		case READ_DAILY:
			return LEVEL_DAILY;
		default:
			return LEVEL_CHUNKS;
	}
}

static void
add_chunk(StorageRead *r, MatchedSeries *m, const Datum *row)
{
	ReadBatch *b = r->batch;
	TimestampTz period = DatumGetTimestampTz(row[CHUNK_PERIOD]);
	ChunkPoint points[CHUNK_MAX_UNITS];
	bytea *data = DatumGetByteaPP(row[CHUNK_DATA]);
	int n, kind;

	if (chunk_decode((uint8_t *) VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), b->needs_sketch,
					 points, &n, &kind, &b->alloc) != EXPO_OK)
		mon_chunk_corrupt(tables[r->table], m->id, period);
	for (int i = 0; i < n; i++)
	{
		MonPoint p;

		mon_point_from_chunk(&p, kind, &points[i], period, r->unit);
		add_point(r, m, &p);
	}
}

/* A row of late points: note it for the reads whose window it may be in. */
static void
note_late_row(StorageRead *r, MatchedSeries *m, const Datum *row)
{
	TimestampTz period = DatumGetTimestampTz(row[CHUNK_PERIOD]);

	for (SeriesUse *use = m->uses; use; use = use->next)
		if (period < use->read->to && period + USECS_PER_HOUR > use->read->from)
			use->read->has_late = true;
}

/* The periods that a class reads of a table. */
static TimePieces
class_periods(const StorageRead *r, const SeriesClass *c)
{
	ChunkLevel level = chunk_level(r->table);
	const TimePieces *p = &c->tables[r->table];
	TimePieces periods = {0};

	for (int i = 0; i < p->n; i++)
		mon_pieces_add(&periods, mon_period_start(level, p->pieces[i].from), p->pieces[i].to);
	mon_pieces_normalize(&periods);
	return periods;
}

/* The rows of the open partition: of one series, or of all (m = NULL). */
static void
scan_chunks(StorageRead *r, StorageScan *scan, MatchedSeries *m, TimePiece t, ChunkRow fn)
{
	mon_scan_begin(scan, m ? &m->id : NULL, t.from, t.to, m != NULL);
	while (mon_scan_next(scan))
	{
		MatchedSeries *found = m ? m
								 : mon_read_find(r->batch, DatumGetInt64(scan->values[CHUNK_ID]));
		MemoryContext old = MemoryContextSwitchTo(r->row_cxt);

		CHECK_FOR_INTERRUPTS();
		if (m ||
			(found &&
			 mon_pieces_hold(&r->periods[found->class->index],
							 DatumGetTimestampTz(scan->values[CHUNK_PERIOD]))))
			fn(r, found, scan->values);
		MemoryContextSwitchTo(old);
		MemoryContextReset(r->row_cxt);
	}
}

/* Whether the scan is for this piece, and the open partition may have rows of it. */
static bool
in_partition(const StorageScan *scan, TimePiece t)
{
	return t.from >= scan->from && t.to <= scan->to && t.from < scan->part_to &&
		t.to > scan->part_from;
}

/* How many looks into its index the open partition takes. */
static uint64
count_looks(const StorageRead *r, const StorageScan *scan)
{
	uint64 n = 0;

	for (int i = 0; i < r->plan->nclasses; i++)
		for (int j = 0; j < r->periods[i].n; j++)
			if (in_partition(scan, r->periods[i].pieces[j]))
				n += r->plan->classes[i]->nseries;
	return n;
}

static void
read_chunk_partition(StorageRead *r, StorageScan *scan, ChunkRow fn)
{
	BlockNumber pages = mon_scan_pages(scan);
	TimePiece all = {scan->from, scan->to};

	if (pages == 0)
		return;
	/* A look into the index costs about as much as a page. */
	if (pages < count_looks(r, scan))
	{
		scan_chunks(r, scan, NULL, all, fn);
		return;
	}
	for (int i = 0; i < r->plan->nclasses; i++)
	{
		const SeriesClass *c = r->plan->classes[i];

		for (int j = 0; j < r->periods[i].n; j++)
			if (in_partition(scan, r->periods[i].pieces[j]))
				for (int k = 0; k < c->nseries; k++)
					scan_chunks(r, scan, c->series[k], r->periods[i].pieces[j], fn);
	}
}

/* Give the rows of a table that the plan asks for to fn, each one once. */
static void
read_chunks(StorageRead *r, ReadTable table, ChunkRow fn)
{
	TimePieces all = {0};

	r->table = table;
	r->unit = mon_chunk_levels[chunk_level(table)].unit;
	r->periods = palloc(sizeof(TimePieces) * r->plan->nclasses);
	for (int i = 0; i < r->plan->nclasses; i++)
	{
		r->periods[i] = class_periods(r, r->plan->classes[i]);
		for (int j = 0; j < r->periods[i].n; j++)
			mon_pieces_add(&all, r->periods[i].pieces[j].from, r->periods[i].pieces[j].to);
	}
	mon_pieces_normalize(&all);
	for (int i = 0; i < all.n; i++)
	{
		StorageScan scan;

		mon_scan_open(&scan, tables[table], chunk_columns, CHUNK_NCOLUMNS, CHUNK_PERIOD,
					  all.pieces[i].from, all.pieces[i].to);
		while (mon_scan_next_partition(&scan))
			read_chunk_partition(r, &scan, fn);
		mon_scan_close(&scan);
	}
}

/* ---- all of it ---- */

/* Whether there are late points matters where the first or the last value is asked for. */
static void
note_late(StorageRead *r)
{
	for (int i = 0; i < r->batch->nreads; i++)
		if (mon_fn_is_ordered(&r->batch->reads[i]->fn))
		{
			read_chunks(r, READ_LATE, note_late_row);
			return;
		}
}

void
mon_read_storage(ReadBatch *b)
{
	MemoryContext old;
	StorageRead r = {b};

	if (b->nmatched == 0)
		return;
	old = MemoryContextSwitchTo(b->cxt);
	r.row_cxt = AllocSetContextCreate(b->cxt, "metrics row", ALLOCSET_DEFAULT_SIZES);
	note_deleted(b);
	r.plan = mon_read_plan(b);
	if (b->storage.compacted)
	{
		note_late(&r);
		r.plan = mon_read_plan_again(b, r.plan);
	}
	read_segments(&r, READ_SEGMENTS, SLOT_USECS);
	read_segments(&r, READ_MINUTES, USECS_PER_MINUTE);
	for (ReadTable table = READ_CHUNKS; table <= READ_LATE; table++)
		read_chunks(&r, table, add_chunk);
	MemoryContextSwitchTo(old);
}
