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

#endif /* MONITORING_METRICS_H */
