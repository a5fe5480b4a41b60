/*-------------------------------------------------------------------------
 *
 * registry_internal.h
 *	  What registry.c and reclaim.c share: the registry's layout in memory.
 *
 * All of it is guarded by the index lock unless it says otherwise.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_REGISTRY_INTERNAL_H
#define METRICS_REGISTRY_INTERNAL_H

#include "metrics/metrics_internal.h"

#define METRIC_BUCKETS 4096

typedef struct Registry
{
	pg_atomic_uint32 tick;      /* moves when a reader wants recent data */
	pg_atomic_uint32 room_tick; /* moves when metrics may have room for more series */
	pg_atomic_uint32 kind_tick; /* moves when metrics may come back with another kind */
	uint32 next_lockno;
	uint32 series_mask;
	uint32 hand;             /* bucket of series where a standby looks next for what has expired */
	TimestampTz room_at;     /* when it last looked for room */
	MonStart start;          /* fixed, like the next */
	TimestampTz started_at;  /* this life of shared memory began */
	TimestampTz promoted_at; /* first use after recovery, of a standby that was (seal lock) */
	MonDb *dbs;
	MonSeries *free_series;
	MonMetric *free_metrics;
	MonMetric *metrics[METRIC_BUCKETS];
	MonSeries *series[FLEXIBLE_ARRAY_MEMBER];
} Registry;

extern Registry *mon_registry;

/* ---- registry.c ---- */
extern MonDb *mon_db_find(Oid dboid);
extern MonDb *mon_db_find_or_create(Oid dboid);
extern void mon_db_reset(MonDb *db, Oid dboid);
extern MonMetric **mon_metric_bucket(const char *name, Oid dboid);
extern MonSeries **mon_series_bucket(int64 id, Oid dboid);
/* Of this backend's database. */
extern MonSeries *mon_series_find(int64 id);

/* The list of a metric's series that series_catalog may not have. */
extern void mon_fresh_add(MonSeries *s);
extern void mon_fresh_remove(MonSeries *s);

/* ---- reclaim.c ---- */

/*
 * On a standby: look through some buckets of series for what has expired, so
 * that there may be room.  Pointers to series and metrics are not valid after it.
 */
extern bool mon_standby_make_room(bool needed);

#endif /* METRICS_REGISTRY_INTERNAL_H */
