/*-------------------------------------------------------------------------
 *
 * define.h
 *	  Definitions of metrics: kind, limit and resolution.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_DEFINE_H
#define METRICS_DEFINE_H

#include "metrics/metrics_internal.h"

extern void mon_define_init(void);

/* The definition that the catalog holds; false when the metric is not there. */
extern bool mon_stored_definition(const char *metric, MetricDefinition *def);

#endif /* METRICS_DEFINE_H */
