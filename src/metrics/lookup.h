/*-------------------------------------------------------------------------
 *
 * lookup.h
 *	  Finding series in the catalog by metric and labels.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_LOOKUP_H
#define METRICS_LOOKUP_H

#include "metrics/metrics_internal.h"

/* Series of a metric that are looked for. */
typedef struct LookupQuery
{
	const char *metric;
	Jsonb *equal; /* labels they must have; canonical */
	void *owner;  /* the caller's */
} LookupQuery;

typedef void (*LookupFound)(const LookupQuery *query, int64 id, Jsonb *labels, void *arg);

/*
 * Call found() for each series and query that finds it, as the active snapshot
 * sees them; reorders the queries.  A hash decides, so others may be found, too:
 * the caller checks the labels.  Between SPI_connect() and SPI_finish().
 */
extern void mon_lookup_series(LookupQuery *queries, int n, LookupFound found, void *arg);

/* The same for series of late rows of the queries' metrics, whatever labels they ask for. */
typedef void (*LateFound)(const LookupQuery *query, MonMetricKind kind, int64 id, Jsonb *labels,
						  void *arg);
extern void mon_lookup_late(const LookupQuery *queries, int n, LateFound found, void *arg);

/* The kind of each metric, 0 = unknown. */
extern void mon_lookup_kinds(const char *const *metrics, int n, MonMetricKind *kinds);

#endif /* METRICS_LOOKUP_H */
