/*-------------------------------------------------------------------------
 *
 * levels.h
 *	  The levels of storage, from segments of 10 seconds to months of days.
 *
 * level		 table	   a row is				a point is		  complete before
 * segments		 segments  a flush's slot		10 s of a series  flush_state
 * minutes		 minutes   a minute				a minute		  minutes
 * chunks		 chunks	   a series' hour		a minute		  chunks
 * hourly		 hourly	   a series' day		an hour			  hourly
 * daily		 daily	   a series' month		a day			  daily
 *
 * The last column names the watermark in monitoring.compaction_state.  A level
 * is a pure function of the one above it in this list, plus the rows of
 * monitoring.late, which the transaction that works them in deletes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_LEVELS_H
#define METRICS_LEVELS_H

#include "metrics/chunk_codec.h"
#include "metrics/metrics_internal.h"

typedef enum ChunkLevel
{
	LEVEL_CHUNKS,
	LEVEL_HOURLY,
	LEVEL_DAILY
} ChunkLevel;

#define CHUNK_LEVELS 3

typedef struct ChunkLevelInfo
{
	const char *table;
	int64 unit; /* microseconds a point covers */
} ChunkLevelInfo;

extern const ChunkLevelInfo mon_chunk_levels[CHUNK_LEVELS];

/* Start of the period that holds t; start of the next one.  All in UTC. */
extern TimestampTz mon_period_start(ChunkLevel level, TimestampTz t);
extern TimestampTz mon_period_end(ChunkLevel level, TimestampTz start);

/* Round to a multiple of a unit of time that divides days. */
extern TimestampTz mon_floor_time(TimestampTz t, int64 unit);
extern TimestampTz mon_ceil_time(TimestampTz t, int64 unit);

/* How far storage has come, as one snapshot sees it. */
typedef struct StorageState
{
	uint64 seq;                         /* last flush */
	TimestampTz sealed_at;              /* when it sealed; DT_NOBEGIN before the first */
	bool compacted;                     /* the watermarks below exist */
	TimestampTz minutes;                /* complete before */
	TimestampTz complete[CHUNK_LEVELS]; /* complete before, per level of chunks */
	int64 next_series[CHUNK_LEVELS];    /* where work on the next period goes on ... */
	bool in_progress[CHUNK_LEVELS];     /* ... when it has begun */
	TimestampTz dropped[CHUNK_LEVELS];  /* rows of before it were dropped by retention */
} StorageState;

/* Read with the active snapshot. */
extern void mon_read_storage_state(StorageState *state);
/* Make a snapshot active that shows what has been committed by now, whatever the transaction's own shows. */
extern void mon_push_latest_snapshot(void);
/* Read with such a snapshot. */
extern void mon_latest_storage_state(StorageState *state);

/* Run a statement that writes metrics, between SPI_connect() and SPI_finish(). */
extern void mon_storage_execute(const char *sql, int nargs, Oid *types, Datum *values);

/*
 * Keep partitions of all levels from being dropped until the end of the
 * transaction.  Taken before a snapshot, so that this shows what had become of
 * those that are gone.
 */
extern void mon_lock_levels(void);

/* Lower bound of the oldest partition of a table; DT_NOEND when it has none. */
extern TimestampTz mon_oldest_partition(const char *table);

/* How long rows of a table are kept, by its retention policy; in microseconds. */
extern int64 mon_retention_usecs(const char *table);

/*
 * Act as the owner of our tables, for what a caller may do through us only.  An
 * error restores the caller as any end of a transaction does.
 */
typedef struct OwnerScope
{
	Oid user;
	int sec_context;
} OwnerScope;

extern void mon_become_owner(OwnerScope *caller);
extern void mon_restore_caller(const OwnerScope *caller);

/* ---- points ---- */

/* An empty point of a kind, into which others are merged. */
extern void mon_point_init(MonPoint *p, MonMetricKind kind);
/* Merge; `sketches` says whether those of distributions matter.  from's sketch may be taken over. */
extern void mon_point_merge(MonPoint *into, MonPoint *from, bool sketches, const ExpoAllocator *a);
/* Merge and leave the source as it is. */
extern void mon_point_merge_copy(MonPoint *into, const MonPoint *from, bool sketches,
								 const ExpoAllocator *a);
extern void mon_point_from_chunk(MonPoint *p, int kind, const ChunkPoint *c, TimestampTz period,
								 int64 unit);
pg_noreturn extern void mon_chunk_corrupt(const char *table, int64 series_id, TimestampTz period);

/* ---- chunk builder: the points of one series and period ---- */

typedef struct ChunkBuilder
{
	ChunkLevel level;
	TimestampTz period;
	MonMetricKind kind; /* 0 while empty */
	uint64 present;     /* bit per unit */
	MonPoint points[CHUNK_MAX_UNITS];
	ExpoAllocator alloc; /* of a context the caller resets */
} ChunkBuilder;

extern void mon_builder_begin(ChunkBuilder *b, ChunkLevel level, TimestampTz period,
							  MemoryContext cxt);
extern void mon_builder_add(ChunkBuilder *b, MonPoint *p);
/* Add every point of an encoded chunk of this or a finer level; none, and false, when it is corrupt. */
extern bool mon_builder_add_chunk(ChunkBuilder *b, ChunkLevel level, TimestampTz period,
								  bytea *data);
/*
 * b was made anew of the finer level after the points of `change` had been worked
 * in there, unless it was dropped.  Where `before`, the row as it is stored, has
 * more than the finer level knew, because that is damaged or was dropped, keep its
 * point and add the change.
 */
extern void mon_builder_keep(ChunkBuilder *b, ChunkBuilder *before, ChunkBuilder *change);
/* The encoded chunk, palloc'd; NULL when there is no point. */
extern bytea *mon_builder_finish(ChunkBuilder *b);

/* ---- manage.c ---- */
extern void mon_manage_init(void);

#endif /* METRICS_LEVELS_H */
