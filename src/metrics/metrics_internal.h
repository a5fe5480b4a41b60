/*-------------------------------------------------------------------------
 *
 * metrics_internal.h
 *	  The registry of live series and what the files of this folder share.
 *
 * Lock order: seal lock, index lock, one series lock, memory lock.
 *
 *	seal lock	 the numbers of the flushes to come
 *	index lock	 the hash chains, the metrics' lists of series and the free lists
 *	series lock	 (one of a fixed set, by the series' number) a series' slots and
 *				 all they own; a series that was reclaimed has dboid 0
 *	memory lock	 the buddy allocator
 *
 * A sealed slot is freed by who holds the flush lock, and read by it without any
 * other.  On a standby nobody flushes: slots that are not sealed expire there, by
 * who holds the series lock, so that a promotion meanwhile does no harm.
 *
 * MonSeries, MonMetric and MonDb never change type once allocated, so that a
 * stale pointer in a backend's cache can be followed and checked under lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_METRICS_INTERNAL_H
#define MONITORING_METRICS_INTERNAL_H

#include "metrics/metrics.h"

#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "sketch/expo_sketch.h"

#define SLOT_USECS (10 * USECS_PER_SEC) /* width of a slot */
#define MAX_SKEW_USECS USECS_PER_MINUTE /* how far in the future, or in the past in memory */
#define MAX_SLOTS 60                    /* slots a series may hold before the oldest are merged */
#define METRIC_NAME_MAX 200

/* Counters of one database; cumulative since the server started. */
typedef struct MonDb
{
	struct MonDb *next;
	Oid dboid; /* 0 = free */
	/* the sequence number that the next flush will seal with; 0 = not known yet (seal lock) */
	uint64 next_seq;
	TimestampTz
		since;        /* nothing observed in this database from then on was lost; does not change */
	bool gap_checked; /* whether something was before has been noted: see gaps.c (LOCK_FLUSH) */
	pg_atomic_uint64 accepted;  /* observations taken into the registry */
	pg_atomic_uint64 persisted; /* of these, written to segments that committed */
	pg_atomic_uint64 overflow;  /* of these, recorded in an overflow series */
	pg_atomic_uint64 refused;   /* NaN or infinite values */
	pg_atomic_uint64 dropped;   /* no memory, not even for the overflow series; or expired */
	pg_atomic_uint64 expired;   /* of these, in slots that a standby has let go */
	pg_atomic_uint64 flushes;
	pg_atomic_uint64 slots_merged; /* slots made coarser because no flush came */
	/* for read.c */
	pg_atomic_uint64 drops;  /* moves before stored slots are freed ... */
	pg_atomic_uint64 prunes; /* ... and before series leave the lists of fresh ones */
} MonDb;

/* What was observed in one slot of time; immutable once sealed (seq > 0). */
typedef struct MonSlot
{
	struct MonSlot *older;
	TimestampTz start;    /* multiple of SLOT_USECS */
	uint64 seq;           /* flush that sealed it, 0 while open */
	TimestampTz first_at; /* gauge: when `first` was set, and `last` */
	TimestampTz last_at;
	uint64 count; /* scalars; a distribution counts in its sketch */
	double sum, min, max, first, last;
	ExpoSketch sketch; /* allocated for distributions only: see slot_size() */
} MonSlot;

typedef struct MonMetric
{
	struct MonMetric *next; /* hash chain, or free list */
	Oid dboid;              /* 0 = free */
	MonMetricKind kind;     /* anything while there is neither a series nor a definer */
	int8 scale;             /* of new sketches */
	bool full_logged;
	bool idle;                /* had no series at the last sweep */
	int max_series;           /* 0 = monitoring.max_series */
	int nseries;              /* overflow series not counted */
	int definers;             /* transactions that are defining it */
	struct MonSeries *series; /* list through next_in_metric */
	struct MonSeries *fresh;  /* through next_fresh: those that may not be in series_catalog */
	struct MonSeries *overflow;
	char name[METRIC_NAME_MAX + 1];
} MonMetric;

typedef struct MonSeries
{
	struct MonSeries *next; /* hash chain, or free list */
	struct MonSeries *next_in_metric;
	struct MonSeries *prev_in_metric;
	struct MonSeries *next_fresh;
	struct MonSeries *
		*fresh_link; /* what points to it in the list of fresh ones; NULL = not in it */
	MonMetric *metric;
	MonDb *db;
	int64 id;
	Oid dboid; /* 0 = free */
	uint32 lockno;
	MonMetricKind kind;
	bool is_overflow;
	bool persisted;     /* has a row in series_catalog that committed */
	uint64 persist_seq; /* flush that wrote the row */
	int nslots;
	MonSlot *slots; /* newest first */
	TimestampTz last_used;
	Jsonb *labels; /* canonical; a block of the allocator */
} MonSeries;

/* What define_metric() says that matters to recording. */
typedef struct MetricDefinition
{
	MonMetricKind kind;
	int max_series; /* 0 = monitoring.max_series */
	int8 scale;
} MetricDefinition;

/* Identity of a series as a backend keeps it, and what its metric is made with. */
typedef struct MonSeriesKey
{
	MonMetricKind kind;
	int8 scale;
	int max_series;
	int64 id;
	const char *metric;
	const Jsonb *labels;
} MonSeriesKey;

/* Observations on their way into a slot. */
typedef struct MonDelta
{
	TimestampTz slot; /* start of the slot they belong to; 0 = the current one */
	uint64 count;
	double sum, min, max, first, last;
	TimestampTz first_at; /* of first and last, 0 = when they get there */
	TimestampTz last_at;
	const double *values; /* distribution: raw values ... */
	int nvalues;
	const ExpoSketch *sketch; /* ... or a sketch of them */
} MonDelta;

/* How this server came to run, as far as memory is concerned. */
typedef enum MonStart
{
	START_CLEAN,   /* nothing that was in memory is lost */
	START_CRASH,   /* there was no clean stop */
	START_RESIDUE, /* there was, but what it left cannot be read */
	START_STANDBY, /* from a backup or a primary's log: memory is another server's */
	START_RESTORE
} MonStart;

/* ---- memory.c: buddy allocator over the reserved area ---- */
extern Size mon_memory_overhead(Size area);
extern void mon_memory_setup(char *area, Size size);
extern void mon_memory_attach(char *area, LWLock *lock);
extern void mon_memory_usage(Size *used, Size *total);

/* ---- registry.c, reclaim.c ---- */
extern void mon_registry_init(void);
extern MonDb *mon_registry_db(Oid dboid);
/* How this server started, and since when its tables can be written. */
extern MonStart mon_registry_start(TimestampTz *writable_since);
extern uint64 mon_registry_next_seq(MonDb *db);
extern uint32 mon_registry_tick(void);
extern void mon_registry_bump_tick(void);
extern MonMetric *mon_registry_find_metric(const char *name, Oid dboid);
/* The definition of a metric that has series, or is being defined. */
extern bool mon_registry_definition(const char *name, MetricDefinition *def);
/* Keep a metric in memory while it is defined; made by its stored definition if it is new. */
extern bool mon_registry_pin(const char *name, const MetricDefinition *stored);
extern void mon_registry_unpin(const char *name, const MetricDefinition *def);
/* Moves when metrics may have room for more series. */
extern uint32 mon_registry_room_tick(void);
/* Moves when series were deleted: their metric may come back with another kind. */
extern uint32 mon_registry_kind_tick(void);
extern void mon_registry_bump_kind_tick(void);
/* The scale that a series' sketches begin with. */
extern int mon_registry_scale(MonSeries *series, const MonSeriesKey *key);
/* Whether nobody has said yet that the metric of this overflow series is full. */
extern bool mon_registry_first_overflow(MonSeries *series);
extern const Jsonb *mon_overflow_labels(void);
extern MonSeries *mon_registry_series(const MonSeriesKey *key);
extern bool mon_registry_add(MonSeries *series, const MonSeriesKey *key, const MonDelta *delta,
							 TimestampTz now);
extern List *mon_registry_databases(void);
extern void mon_registry_forget(Oid dboid, bool gone);
extern void mon_registry_sweep(TimestampTz now);

extern void mon_seal_lock(LWLockMode mode);
extern void mon_seal_unlock(void);
extern void mon_index_lock(LWLockMode mode);
extern void mon_index_unlock(void);
extern void mon_series_lock(const MonSeries *series, LWLockMode mode);
extern void mon_series_unlock(const MonSeries *series);

/* Call fn for every series of the database; index lock held shared. */
extern void mon_registry_each(Oid dboid, void (*fn)(MonSeries *series, void *arg), void *arg);
/* A series is about to be deleted from the catalog: if it is in use, it will be entered again. */
extern void mon_registry_unpersist_series(int64 id);
/* It was deleted: take it out unless it is in use. */
extern void mon_registry_forget_series(int64 id);
/* Free the slots sealed by flushes up to seq. */
extern void mon_registry_drop_sealed(Oid dboid, uint64 seq);
extern void mon_registry_counts(Oid dboid, int64 *metrics, int64 *series, int64 *slots,
								int64 *pending, int64 *persisted);

/* Slots that began up to this time expire on a standby. */
static inline TimestampTz
mon_standby_keeps_after(TimestampTz now)
{
	return now - mon_standby_keep * INT64CONST(1000);
}

/* ---- slots.c: series lock held ---- */

/* Add to the slot of the delta's time; what found no memory stays in *rest (false). */
extern bool mon_slots_add(MonSeries *s, MonDelta *rest, TimestampTz now);
/*
 * Merge the two oldest slots that are both open or both sealed; false when
 * there is no such pair.
 */
extern bool mon_slots_merge_oldest(MonSeries *s, bool sealed);
/* Put back a slot that a stop has left; false without memory. */
extern bool mon_slot_restore(MonSeries *s, const MonSlot *saved, const uint8 *sketch,
							 size_t sketch_len);
/* Free the slots that no flush has sealed and that began up to a time; whether there were any. */
extern bool mon_slots_expire(MonSeries *s, TimestampTz until);
/* Free a slot that is off the list. */
extern void mon_slot_free(MonSeries *s, MonSlot *slot);

/* For residue.c: the postmaster alone calls these. */
extern void mon_registry_each_db(void (*fn)(MonDb *db, void *arg), void *arg);
extern void mon_registry_restore_db(Oid dboid, uint64 next_seq);
/* Count observations that there is no memory for. */
extern void mon_registry_restore_lost(Oid dboid, uint64 n);
extern MonSeries *mon_registry_restore_series(Oid dboid, const MonSeriesKey *key, bool overflow);

/* ---- residue.c ---- */

/* Read what the last stop left in memory, and see to it that this one leaves the same. */
extern MonStart mon_residue_init(void);

/* ---- gaps.c ---- */

/* Time in which observations may have been made that are lost. */
typedef struct MonGap
{
	TimestampTz since;
	TimestampTz until;
	const char *reason;
} MonGap;

/*
 * Whether there is one to be noted with the first flush of a database since the
 * server started; stored_until is what the flush before has sealed.
 */
extern bool mon_gap_find(const MonDb *db, TimestampTz stored_until, MonGap *gap);
/* Between SPI_connect() and SPI_finish(). */
extern void mon_gap_write(const MonGap *gap);

/* ---- record.c ---- */
extern void mon_record_init(void);
/* Move this backend's own records into the registry. */
extern void mon_record_push(void);
/* Call fn for what this transaction has recorded and not yet published (monitoring.transactional). */
extern void mon_record_each_transactional(void (*fn)(const MonSeriesKey *key, const MonDelta *delta,
													 void *arg),
										  void *arg);

/* ---- segment.c ---- */

/* One series' observations of one slot or of several merged: what reads add up. */
typedef struct MonPoint
{
	MonMetricKind kind;
	TimestampTz start;
	TimestampTz first_at; /* of first and last */
	TimestampTz last_at;
	uint64 count;
	double sum, min, max, first, last;
	ExpoSketch sketch; /* distributions */
} MonPoint;

/* The point of a slot; shares the slot's sketch. */
extern void mon_point_from_slot(MonPoint *p, MonMetricKind kind, const MonSlot *slot);

#define SERIES_PER_SEGMENT 4096 /* so that a row stays easy to read by slices */

typedef struct SegmentBuilder
{
	StringInfoData directory; /* both start with room for a varlena header */
	StringInfoData points;
	int nseries;
	int64 first_id, last_id;
} SegmentBuilder;

extern void mon_segment_begin(SegmentBuilder *b);
extern void mon_segment_add(SegmentBuilder *b, int64 series_id, const MonPoint *p);
/* One of the two columns as a bytea. */
extern Datum mon_segment_column(StringInfo buf);

/* A stored segment, as a reader sees it. */
typedef struct SegmentReader
{
	const uint8_t *directory;
	int nseries;
	Size points_len;
} SegmentReader;

extern void mon_segment_open(SegmentReader *r, const char *directory, Size directory_len,
							 Size points_len);
/*
 * Find a series; false when it is not there.  `hint` carries the position from
 * one id to the next larger one.
 */
extern bool mon_segment_find(const SegmentReader *r, int64 series_id, int *hint, uint32 *offset,
							 uint32 *end);
/* The same for a stored segment of which only slices of the two columns are read. */
typedef struct SegmentSlices
{
	Datum directory;
	int nseries;
	Size points_len;
	int64 first_id, last_id;
	const uint8_t *slice; /* entries from <= i < to of the directory */
	int from, to;
} SegmentSlices;

extern void mon_segment_slices_open(SegmentSlices *s, Datum directory, Datum points, int64 first_id,
									int64 last_id);
extern bool mon_segment_slices_find(SegmentSlices *s, int64 series_id, uint32 *offset, uint32 *end);
extern void mon_segment_decode(const char *data, Size len, TimestampTz start, MonPoint *point,
							   const ExpoAllocator *alloc);
/* The same, for who goes on without what is damaged: false instead of an error. */
extern bool mon_segment_try_open(SegmentReader *r, const char *directory, Size directory_len,
								 Size points_len);
extern bool mon_segment_try_entry(const SegmentReader *r, int i, int64 *id, uint32 *offset,
								  uint32 *end);
extern bool mon_segment_try_decode(const char *data, Size len, TimestampTz start, MonPoint *point,
								   const ExpoAllocator *alloc);

/* Insert a built segment into a table, and its partition when it is the first part. */
extern void mon_segment_write(const char *table, SegmentBuilder *b, TimestampTz start, uint64 seq,
							  int part);

/* ---- flush.c ---- */

/* Locks on a database's storage, held to the end of the transaction. */
typedef enum StorageLock
{
	LOCK_FLUSH = 1,  /* flush, and what must not run beside it */
	LOCK_COMPACT = 2 /* compaction; taken before LOCK_FLUSH */
} StorageLock;

extern bool mon_lock_storage(StorageLock lock, bool wait);

/*
 * Flush; returns the number of points written, -1 when another flush is under
 * way.  With `always` the transaction has something to commit in any case.
 */
extern int64 mon_flush_now(bool wait, bool always);

/* Make sure that next_seq is known: after a start of the server it is not. */
extern void mon_sync_sequence(MonDb *db);
extern void mon_advance_sequence(MonDb *db, uint64 flushed);

#endif /* MONITORING_METRICS_INTERNAL_H */
