/*-------------------------------------------------------------------------
 *
 * chunk_rows.h
 *	  Rows of chunks, hourly, daily and late, fetched and written in batches.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_CHUNK_ROWS_H
#define METRICS_CHUNK_ROWS_H

#include "metrics/levels.h"

/* A row of a table of chunks; seq only for those of monitoring.late. */
typedef struct ChunkRow
{
	int64 id;
	TimestampTz period;
	int64 seq;
	bytea *data;
} ChunkRow;

typedef struct ChunkRows
{
	ChunkRow *row;
	int n;
	int max;
} ChunkRows;

/* All memory is the current context's; a list begins as {0}. */
extern void mon_rows_add(ChunkRows *rows, int64 id, TimestampTz period, int64 seq, bytea *data);
/* Append what a query for (series_id, period, seq, data) gives. */
extern void mon_rows_fetch(ChunkRows *rows, const char *query, int nargs, Oid *types, Datum *values,
						   long limit);
/* Columns as arrays: the ids or the seqs, and the periods. */
extern Datum mon_rows_ids(const ChunkRows *rows, bool seq);
extern Datum mon_rows_periods(const ChunkRows *rows);
/* Put rows in the place of those of the same series and period. */
extern void mon_rows_replace(ChunkLevel level, const ChunkRows *rows);
extern void mon_rows_delete_late(const ChunkRows *late);

#endif /* METRICS_CHUNK_ROWS_H */
