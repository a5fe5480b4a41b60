/*-------------------------------------------------------------------------
 *
 * read.h
 *	  What the files that read metrics share.
 *
 * read_fn.c		functions such as p95 and what they give for a cell
 * read.c			reads: memory and storage, in one snapshot
 * lookup.c		the series that match
 * read_memory.c	what the registry and this transaction hold of them
 * read_plan.c		which level of storage serves which piece of time
 * read_storage.c	what storage holds
 * scan.c			rows of the tables of storage
 * read_rolling.c	windows that move over the cells of a read
 * read_sql.c		value(), percentile(), query() and their kin
 * read_batch.c		read_values(): many at once
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_READ_H
#define METRICS_READ_H

#include "metrics/levels.h"
#include "metrics/selector.h"
#include "nodes/bitmapset.h"
#include "utils/array.h"
#include "utils/hsearch.h"

/* ---- read_fn.c ---- */

typedef enum ReadFnKind
{
	FN_COUNT,
	FN_SUM,
	FN_AVG,
	FN_MIN,
	FN_MAX,
	FN_FIRST,
	FN_LAST,
	FN_DELTA,
	FN_RATE,
	FN_INCREASE,
	FN_SERIES,
	FN_STDDEV,
	FN_SHARE_BELOW,
	FN_APDEX,
	FN_PERCENTILE,
	FN_SKETCH, /* the cell's sketch itself: sketch_over() */
	FN_LAST_AT /* when there was data last: last_observed() */
} ReadFnKind;

#define FOR_COUNTER 1
#define FOR_GAUGE 2
#define FOR_DISTRIBUTION 4
#define FOR_ALL (FOR_COUNTER | FOR_GAUGE | FOR_DISTRIBUTION)

typedef struct ReadFn
{
	ReadFnKind kind;
	double argument;  /* of a percentile: q, 0..1; of share_below and apdex: the number */
	int metric_kinds; /* FOR_ bits */
	bool needs_sketch;
	const char *name;
} ReadFn;

/* Whether it matters in which order points come. */
static inline bool
mon_fn_is_ordered(const ReadFn *fn)
{
	return fn->kind == FN_FIRST || fn->kind == FN_LAST || fn->kind == FN_DELTA;
}

/* ereport(ERROR) 22023 when it is unknown. */
extern void mon_parse_fn(text *name, ReadFn *fn);
extern void mon_percentile_fn(double q, ReadFn *fn);
extern void mon_sketch_fn(ReadFn *fn);
extern void mon_last_at_fn(ReadFn *fn);
/* What is wrong when the function does not go with that kind of metric; NULL: it does. */
extern char *mon_fn_kind_problem(const ReadFn *fn, const char *metric, MonMetricKind kind);
/* ereport(ERROR) 42809 then. */
extern void mon_check_fn_kind(const ReadFn *fn, const char *metric, MonMetricKind kind);
/* The function's value for a cell; false without data.  `seconds` is what rates divide by. */
extern bool mon_fn_value(const ReadFn *fn, const MonPoint *cell, double seconds, double *value);

/* ---- read.c ---- */

/* The series that have the same labels, as far as the labels are grouped by. */
typedef struct ReadGroup
{
	Jsonb *labels;
	MonPoint *cells;    /* one per bucket: what its points add up to; NULL until there is data */
	TimestampTz newest; /* no observation that counts is later */
} ReadGroup;

typedef struct ReadState ReadState;
typedef struct ReadBatch ReadBatch;
typedef struct ReadWindow ReadWindow;
struct labels_hash;
struct lookups_hash;

/* Reads of one metric that ask for the same labels. */
typedef struct SeriesLookup
{
	struct ReadMetric *metric;
	Jsonb *equal;
	ReadState *reads; /* through next_in_lookup */
	struct SeriesLookup *next_in_metric;
} SeriesLookup;

/* What a batch reads of one metric. */
typedef struct ReadMetric
{
	char name[METRIC_NAME_MAX + 1]; /* hash key */
	MonMetricKind kind;             /* 0 while it is unknown */
	MonMetricKind late_kind;        /* what late rows say, which the catalog may not have */
	bool has_series;                /* some have the labels that are asked for */
	SeriesLookup *lookups;
	struct ReadMetric *next;
} ReadMetric;

/* A series as one of the reads that it matches has it. */
typedef struct SeriesUse
{
	struct SeriesUse *next;
	ReadState *read;
	int group;
	uint64 *seen; /* FN_SERIES: bit per bucket with data; NULL until there is some */
} SeriesUse;

/* A series that some read matches, by id. */
typedef struct MatchedSeries
{
	int64 id;          /* hash key */
	int64 deleted_seq; /* what flushes up to this one stored is deleted */
	SeriesUse *uses;   /* at least one */
	struct SeriesClass *class;
} MatchedSeries;

/* One read.  The first part is filled by the caller. */
struct ReadState
{
	const char *metric;
	LabelSelector selector;
	ArrayType *by;
	ReadFn fn;
	TimestampTz from; /* points with from <= start < to */
	TimestampTz to;
	TimestampTz origin; /* buckets start here; unused when there is one */
	int64 step;
	int64 split; /* where each step is divided into two buckets; 0 = it is one */
	int nbuckets;
	double seconds; /* that rates divide by */

	ReadBatch *batch;
	SeriesLookup *lookup;
	ReadState *next_in_lookup;
	MonMetricKind kind; /* of the metric; 0 when it is unknown */
	Datum *by_names;
	int nby;
	bool by_all;                     /* one group per series */
	struct labels_hash *group_index; /* NULL when nothing is grouped by */
	ReadGroup *groups;
	int ngroups;
	int maxgroups;
	int nseries; /* that match */
	int64 ncells;
	Size seen_bytes;    /* of the bitmaps of all series */
	bool has_late;      /* there are late points: known before storage is read, for gauges */
	ReadWindow *window; /* how storage is read */
};

/* Reads that are made together: one look at memory, one snapshot, each row once. */
struct ReadBatch
{
	ReadState **reads;
	int nreads;
	bool needs_sketch; /* some read does */

	MemoryContext cxt;       /* owns everything below */
	MemoryContext match_cxt; /* of one series while it is matched */
	ExpoAllocator alloc;
	StorageState storage;
	HTAB *metrics;
	ReadMetric *metric_list;
	int nmetrics;
	struct lookups_hash *lookups;
	HTAB *series;
	MatchedSeries **matched; /* the same, in any order */
	int nmatched;
	int maxmatched;
	struct MemoryPoint *points; /* copied from the registry */
	int npoints;
	int maxpoints;
};

/* A length of time in microseconds; ereport(ERROR) 22023 unless it is longer than zero. */
extern int64 mon_interval_usecs(const Interval *i, const char *what);
extern void mon_check_finite(TimestampTz t, const char *what);
/* Set metric and selector, checked. */
extern void mon_read_metric_name(ReadState *state, text *metric, Jsonb *labels);
/* The group without labels, made when there is none. */
extern ReadGroup *mon_read_only_group(ReadState *state);
/* Have one bucket: the window of a length that ends at a time, in whole slots. */
extern void mon_read_window(ReadState *state, const Interval *over, TimestampTz at);
extern void mon_read(ReadState *state);
/* The same for many, which share the work. */
extern void mon_read_batch(ReadState **reads, int n);

/* For read_memory.c and read_storage.c. */

/* The kind of a metric is known: check what is asked for. */
extern void mon_read_note_kind(ReadMetric *metric, MonMetricKind kind);
/* A series of a metric, entered with the reads that it matches; NULL when there are none. */
extern MatchedSeries *mon_read_match(ReadBatch *batch, ReadMetric *metric, int64 id, Jsonb *labels);
extern MatchedSeries *mon_read_find(const ReadBatch *batch, int64 id);
/* Add a point of a series to its cell in a read; with `take` its sketch may be taken over. */
extern void mon_read_add(SeriesUse *use, MonPoint *p, int64 unit, bool take);

static inline bool
mon_read_wants(const ReadState *read, TimestampTz start)
{
	return start >= read->from && start < read->to;
}

/* ---- read_memory.c ---- */

/*
 * Enter series that the catalog may not have yet, and copy the slots of all that
 * match and that flushes up to the snapshot's have not stored.
 */
extern void mon_read_copy_memory(ReadBatch *batch);
/* Note which reads find late points of this transaction. */
extern void mon_read_note_own_late(ReadBatch *batch);
/* Add the copies, and what this transaction has recorded and not published. */
extern void mon_read_add_memory(ReadBatch *batch);

/* ---- read_plan.c ---- */

/* Where points are stored. */
typedef enum ReadTable
{
	READ_SEGMENTS,
	READ_MINUTES,
	READ_CHUNKS,
	READ_HOURLY,
	READ_DAILY,
	READ_LATE,
	READ_TABLES
} ReadTable;

/* Pieces of time, from <= t < to; ascending and apart once they are normal. */
typedef struct TimePiece
{
	TimestampTz from, to;
} TimePiece;

typedef struct TimePieces
{
	TimePiece *pieces;
	int n, max;
} TimePieces;

extern void mon_pieces_add(TimePieces *p, TimestampTz from, TimestampTz to);
extern void mon_pieces_normalize(TimePieces *p);

static inline bool
mon_pieces_hold(const TimePieces *p, TimestampTz t)
{
	for (int i = 0; i < p->n; i++)
		if (t >= p->pieces[i].from && t < p->pieces[i].to)
			return true;
	return false;
}

/* Reads that ask for the same time in the same way: what they take from each table. */
struct ReadWindow
{
	const ReadState *example;
	bool minutes_only; /* or slots: in coarser points the order is not known */
	int index;
	TimePieces tables[READ_TABLES];
};

/* Series that the same windows read. */
typedef struct SeriesClass
{
	Bitmapset *windows;
	int index;
	MatchedSeries **series; /* by ascending ids */
	int nseries, maxseries;
	TimePieces tables[READ_TABLES]; /* of all its windows; normal */
} SeriesClass;

typedef struct ReadPlan
{
	TimestampTz *gone; /* by level: before it the level is the finest that is left */
	ReadWindow *windows;
	int nwindows;
	SeriesClass **classes;
	int nclasses, maxclasses;
} ReadPlan;

/* Plan a batch, as far as late points do not matter. */
extern ReadPlan *mon_read_plan(ReadBatch *batch);
/* The plan once it is known which reads have late points. */
extern ReadPlan *mon_read_plan_again(ReadBatch *batch, ReadPlan *plan);

/* ---- read_storage.c ---- */

/* Add what storage holds of the matching series, as the active snapshot sees it. */
extern void mon_read_storage(ReadBatch *batch);

/* ---- read_rolling.c ---- */

/* Windows over the cells of a group: n of them, `width` cells each, that begin every `stride` cells. */
typedef struct ReadWindows
{
	int first; /* cell where the first one begins */
	int width;
	int stride;
	int n;
} ReadWindows;

/*
 * Give the sum of each window to emit(), in order; what it points to is not
 * kept.  Destroys the cells.
 */
extern void mon_roll(ReadState *state, const ReadGroup *g, const ReadWindows *w,
					 void (*emit)(int window, const MonPoint *sum, void *arg), void *arg);
/* FN_SERIES: the number of series with data, by group (NULL = none anywhere) and window. */
extern int **mon_roll_series(ReadState *state, const ReadWindows *w);

#endif /* METRICS_READ_H */
