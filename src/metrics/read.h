/*-------------------------------------------------------------------------
 *
 * read.h
 *	  What the files that read metrics share.
 *
 * read_fn.c		functions such as p95 and what they give for a cell
 * read.c			one read: memory and storage, in one snapshot
 * read_storage.c	what storage holds: which level serves which piece of time
 * scan.c			rows of the tables of storage
 * read_rolling.c	windows that move over the cells of a read
 * read_sql.c		value(), percentile(), query() and their kin
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_READ_H
#define METRICS_READ_H

#include "metrics/levels.h"
#include "metrics/selector.h"
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

typedef struct ReadFn
{
	ReadFnKind kind;
	double argument;  /* of a percentile: q, 0..1; of share_below and apdex: the number */
	int metric_kinds; /* FOR_ bits */
	bool needs_sketch;
	const char *name;
} ReadFn;

/* ereport(ERROR) 22023 when it is unknown. */
extern void mon_parse_fn(text *name, ReadFn *fn);
extern void mon_percentile_fn(double q, ReadFn *fn);
extern void mon_sketch_fn(ReadFn *fn);
extern void mon_last_at_fn(ReadFn *fn);
/* ereport(ERROR) 42809 when the function does not go with that kind of metric. */
extern void mon_check_fn_kind(const ReadFn *fn, const char *metric, MonMetricKind kind);
/* The function's value for a cell; false without data.  `seconds` is what rates divide by. */
extern bool mon_fn_value(const ReadFn *fn, const MonPoint *cell, double seconds, double *value);

/* ---- read.c ---- */

/* The series that have the same labels, as far as the labels are grouped by. */
typedef struct ReadGroup
{
	Jsonb *labels;
	MonPoint *cells; /* one per bucket: what its points add up to; NULL until there is data */
} ReadGroup;

/* A series that matches the selector, by id. */
typedef struct MatchedSeries
{
	int64 id; /* hash key */
	int group;
	int64 deleted_seq; /* what flushes up to this one stored is deleted */
	uint64 *seen;      /* FN_SERIES: bit per bucket with data; NULL until there is some */
} MatchedSeries;

typedef struct MemoryPoint MemoryPoint;
typedef struct MemorySeries MemorySeries;
struct groups_hash;

/* One read.  The first part is filled by the caller. */
typedef struct ReadState
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

	MemoryContext cxt; /* owns everything below */
	ExpoAllocator alloc;
	MonMetricKind kind; /* of the metric; 0 when it is unknown */
	StorageState storage;
	HTAB *series;
	MatchedSeries **matched; /* the same in ascending order of ids */
	int nmatched;
	struct groups_hash *group_index;
	ReadGroup *groups;
	int ngroups;
	int maxgroups;
	int64 ncells;
	Size seen_bytes;      /* of the bitmaps of all series */
	bool has_late;        /* there are late points: known before storage is read, for gauges */
	MemorySeries *memory; /* copied from the registry */
	int nmemory;
	int maxmemory;
	MemoryPoint *points;
	int npoints;
	int maxpoints;
} ReadState;

/* Set metric and selector, checked. */
extern void mon_read_metric_name(ReadState *state, text *metric, Jsonb *labels);
/* The group without labels, made when there is none. */
extern ReadGroup *mon_read_only_group(ReadState *state);
extern void mon_read(ReadState *state);

/* For read_storage.c. */
extern void mon_read_note_kind(ReadState *state, MonMetricKind kind);
extern MatchedSeries *mon_read_match(ReadState *state, int64 id, Jsonb *labels);
extern MatchedSeries *mon_read_find(const ReadState *state, int64 id);
/* Add a point of a matching series to its cell; its sketch may be taken over. */
extern void mon_read_add(ReadState *state, MatchedSeries *series, MonPoint *p);

/* ---- read_storage.c ---- */

/* Add what storage holds, as the active snapshot sees it. */
extern void mon_read_storage(ReadState *state);

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
