/*-------------------------------------------------------------------------
 *
 * collect.h
 *	  What the files of the collectors share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SERVER_COLLECT_H
#define SERVER_COLLECT_H

#include "core/core.h"
#include "metrics/metrics.h"

#define COLLECTOR_MAX_ROWS 10000 /* readings of one run */
#define COLLECTOR_LOCK_MS 50     /* a collector waits for no lock longer than this */

/* One row of a collector's function. */
typedef struct Reading
{
	char *metric;
	MonMetricKind kind;
	Jsonb *labels;
	double value;
	TimestampTz since; /* of a counter: when it began; 0: unknown */
	bool cleaned;      /* a label is not what the function gave */
	bool left_out;     /* another one has its labels */
} Reading;

/* A row of monitoring.collectors. */
typedef struct Collector
{
	char *name;
	char *call; /* quoted name of the function */
	char *owner;
	int cost_limit; /* ms */
	char *refused;  /* why its function must not be called; NULL: it may */
} Collector;

typedef struct Readings
{
	Reading *rows;
	int n;
	bool has_since;
	bool has_cleaned;
} Readings;

/*
 * Call the collector's function as its owner, confined.  NULL, or the error.
 * The readings are palloc'd in the current context.
 */
extern ErrorData *mon_collector_read(const Collector *collector, TimestampTz at,
									 Readings *readings);

/* The enabled collectors that a query for (name, call, owner, cost_limit, refused) gives; SPI is connected. */
extern int mon_collectors_found(Collector **collectors, MemoryContext cxt);

/* {"collector": name} */
extern Jsonb *mon_collector_labels(const char *collector);

#endif /* SERVER_COLLECT_H */
