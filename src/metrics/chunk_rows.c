/*-------------------------------------------------------------------------
 *
 * chunk_rows.c
 *	  Rows of chunks, hourly, daily and late, fetched and written in batches.
 *
 * To be called between SPI_connect() and SPI_finish().
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/chunk_rows.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

void
mon_rows_add(ChunkRows *rows, int64 id, TimestampTz period, int64 seq, bytea *data)
{
	if (rows->n == rows->max)
	{
		rows->max = rows->max ? rows->max * 2 : 256;
		rows->row = rows->row ? repalloc_huge(rows->row, sizeof(ChunkRow) * (Size) rows->max)
							  : palloc(sizeof(ChunkRow) * rows->max);
	}
	rows->row[rows->n].id = id;
	rows->row[rows->n].period = period;
	rows->row[rows->n].seq = seq;
	rows->row[rows->n].data = data;
	rows->n++;
}

/* Run a query for (series_id, period, seq, data) in order of the first two. */
void
mon_rows_fetch(ChunkRows *rows, const char *query, int nargs, Oid *types, Datum *values, long limit)
{
	if (SPI_execute_with_args(query, nargs, types, values, NULL, false, limit) != SPI_OK_SELECT)
		elog(ERROR, "could not read metrics");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		mon_rows_add(rows, DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
					 DatumGetTimestampTz(SPI_getbinval(tuple, desc, 2, &isnull)),
					 DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull)),
					 DatumGetByteaPCopy(SPI_getbinval(tuple, desc, 4, &isnull)));
	}
	SPI_freetuptable(SPI_tuptable);
}

Datum
mon_rows_ids(const ChunkRows *rows, bool seq)
{
	Datum *d = palloc(sizeof(Datum) * (rows->n + 1));

	for (int i = 0; i < rows->n; i++)
		d[i] = Int64GetDatum(seq ? rows->row[i].seq : rows->row[i].id);
	return PointerGetDatum(construct_array(d, rows->n, INT8OID, 8, true, 'd'));
}

Datum
mon_rows_periods(const ChunkRows *rows)
{
	Datum *d = palloc(sizeof(Datum) * (rows->n + 1));

	for (int i = 0; i < rows->n; i++)
		d[i] = TimestampTzGetDatum(rows->row[i].period);
	return PointerGetDatum(construct_array(d, rows->n, TIMESTAMPTZOID, 8, true, 'd'));
}

static Datum
data_array(const ChunkRows *rows)
{
	Datum *d = palloc(sizeof(Datum) * (rows->n + 1));

	for (int i = 0; i < rows->n; i++)
		d[i] = PointerGetDatum(rows->row[i].data);
	return PointerGetDatum(construct_array(d, rows->n, BYTEAOID, -1, false, 'i'));
}

static void
ensure_partitions(const char *table, const ChunkRows *rows)
{
	Oid types[2] = {TEXTOID, TIMESTAMPTZARRAYOID};
	Datum values[2] = {CStringGetTextDatum(table), mon_rows_periods(rows)};

	if (SPI_execute_with_args("SELECT monitoring.ensure_partition($1, p) "
							  "FROM (SELECT DISTINCT p FROM unnest($2) AS u(p)) AS d",
							  2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not make partitions");
	SPI_freetuptable(SPI_tuptable);
}

/* Replace rows of a level. */
void
mon_rows_replace(ChunkLevel level, const ChunkRows *rows)
{
	const char *table = mon_chunk_levels[level].table;
	Oid types[3] = {INT8ARRAYOID, TIMESTAMPTZARRAYOID, BYTEAARRAYOID};
	Datum values[3];

	if (rows->n == 0)
		return;
	ensure_partitions(table, rows);
	values[0] = mon_rows_ids(rows, false);
	values[1] = mon_rows_periods(rows);
	values[2] = data_array(rows);
	if (SPI_execute_with_args(psprintf("DELETE FROM monitoring.%s AS t USING unnest($1, $2) AS "
									   "u(i, p) WHERE t.series_id OPERATOR(pg_catalog.=) u.i "
									   "AND t.period OPERATOR(pg_catalog.=) u.p",
									   table),
							  2, types, values, NULL, false, 0) != SPI_OK_DELETE ||
		SPI_execute_with_args(psprintf("INSERT INTO monitoring.%s (series_id, period, data) "
									   "SELECT i, p, d FROM unnest($1, $2, $3) AS u(i, p, d)",
									   table),
							  3, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write metrics");
}

void
mon_rows_delete_late(const ChunkRows *late)
{
	Oid types[3] = {INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID};
	Datum values[3];

	if (late->n == 0)
		return;
	values[0] = mon_rows_ids(late, false);
	values[1] = mon_rows_periods(late);
	values[2] = mon_rows_ids(late, true);
	if (SPI_execute_with_args("DELETE FROM monitoring.late AS t USING unnest($1, $2, $3) AS "
							  "u(i, p, s) WHERE t.series_id OPERATOR(pg_catalog.=) u.i "
							  "AND t.period OPERATOR(pg_catalog.=) u.p "
							  "AND t.seq OPERATOR(pg_catalog.=) u.s",
							  3, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete late metrics");
}
