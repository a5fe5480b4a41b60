/*-------------------------------------------------------------------------
 *
 * metrics.h
 *	  Recording and reading of metrics: what other slices may use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_METRICS_H
#define MONITORING_METRICS_H

#include "core/core.h"

typedef enum MonMetricKind
{
	MON_COUNTER = 1,
	MON_GAUGE = 2,
	MON_DISTRIBUTION = 3
} MonMetricKind;

extern void mon_metrics_init(void);

/*
 * observe.c: record one observation, made at a time; what SQL's record_at() does,
 * with its errors.  False when the value is refused.
 */
extern bool mon_observe(const char *metric, const Jsonb *labels, MonMetricKind kind, TimestampTz at,
						double value);

/*
 * memory.c: a block of the memory reserved by monitoring.shared_memory, or NULL
 * if there is none.  Its true size, needed to free it, goes to *actual; `reserve`
 * allows drawing on what is kept for totals.  Raises no error.
 */
extern void *mon_memory_alloc(Size size, Size *actual, bool reserve);
extern void mon_memory_free(void *ptr, Size actual);

#endif /* MONITORING_METRICS_H */
