/*-------------------------------------------------------------------------
 *
 * scan.h
 *	  Rows of the tables of storage, straight from their indexes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_SCAN_H
#define METRICS_SCAN_H

#include "metrics/metrics_internal.h"

#include "access/genam.h"
#include "access/skey.h"
#include "partitioning/partdefs.h"
#include "utils/relcache.h"

#define SCAN_COLUMNS 6

typedef struct StorageScan
{
	Relation parent;
	const char *const *names; /* of the columns, by which values[] is ordered */
	int ncolumns;
	TimestampTz from, to; /* rows whose time (names[time_column]) is from <= t < to ... */
	int time_column;
	PartitionDesc partitions; /* as they were when it was opened */
	int next_partition;
	Relation rel;                   /* open now: a partition, or the parent if it has none ... */
	TimestampTz part_from, part_to; /* ... and the times it may hold */
	Oid index;                      /* its primary key; rows are found without it, too */
	AttrNumber attnums[SCAN_COLUMNS];
	SysScanDesc scan;
	Datum values[SCAN_COLUMNS]; /* of the row; they point into it */
} StorageScan;

/* Whether a table that is empty most of the time may have rows. */
extern bool mon_table_has_pages(const char *table);
/*
 * Open a table of ours for rows of a piece of time.  The lock on it is kept
 * until the transaction ends, so that no partition is dropped meanwhile.
 */
extern void mon_scan_open(StorageScan *s, const char *table, const char *const *names, int ncolumns,
						  int time_column, TimestampTz from, TimestampTz to);
extern void mon_scan_close(StorageScan *s);
/* Go to the next partition that may hold such rows; false after the last one. */
extern bool mon_scan_next_partition(StorageScan *s);
extern BlockNumber mon_scan_pages(const StorageScan *s);
/*
 * Begin with the rows of the partition from a piece of time: those with an id in
 * the first column, or all.
 */
extern void mon_scan_begin(StorageScan *s, const int64 *id, TimestampTz from, TimestampTz to,
						   bool use_index);
/* The next row; at the end the scan of the partition has ended, too. */
extern bool mon_scan_next(StorageScan *s);

/*
 * One row of a table as last committed, found by the text in the column names[0];
 * false when there is none.  The values are palloc'd.
 *
 * The transaction's own snapshot may be older than what was said since, and at
 * SERIALIZABLE a look with it would make others' commits depend on ours.
 */
extern bool mon_committed_row(const char *table, const char *key, const char *const *names,
							  int ncolumns, Datum *values, bool *nulls);

#endif /* METRICS_SCAN_H */
