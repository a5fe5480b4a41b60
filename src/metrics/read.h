/*-------------------------------------------------------------------------
 *
 * read.h
 *	  What the files that read metrics share.
 *
 * read_fn.c	functions such as p95 and what they give for a cell
 * read.c		one read: memory and all levels of storage, in one snapshot
 * read_sql.c	value(), percentile(), query() and their kin
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
	FN_LAST,
	FN_RATE,
	FN_INCREASE,
	FN_PERCENTILE
} ReadFnKind;

#define FOR_COUNTER 1
#define FOR_GAUGE 2
#define FOR_DISTRIBUTION 4

typedef struct ReadFn
{
	ReadFnKind kind;
	double argument;  /* of a percentile: q, 0..1 */
	int metric_kinds; /* FOR_ bits */
	bool needs_sketch;
	const char *name;
} ReadFn;

/* ereport(ERROR) 22023 when it is unknown. */
extern void mon_parse_fn(text *name, ReadFn *fn);
extern void mon_percentile_fn(double q, ReadFn *fn);
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
	int nbuckets;
	double seconds; /* that rates divide by */

	MemoryContext cxt; /* owns everything below */
	ExpoAllocator alloc;
	MonMetricKind kind; /* of the metric; 0 when it is unknown */
	StorageState storage;
	TimestampTz piece_from; /* of the chunks being read: points that start in it */
	TimestampTz piece_to;
	HTAB *series;
	MatchedSeries *matched; /* the same in ascending order of ids */
	int nmatched;
	struct groups_hash *group_index;
	ReadGroup *groups;
	int ngroups;
	int maxgroups;
	int64 ncells;
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

#endif /* METRICS_READ_H */
