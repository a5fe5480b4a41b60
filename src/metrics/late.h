/*-------------------------------------------------------------------------
 *
 * late.h
 *	  Observations that come after their time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_LATE_H
#define METRICS_LATE_H

#include "metrics/metrics_internal.h"

/* A point to be entered into monitoring.late, and its series. */
typedef struct LatePoint
{
	int64 series_id;
	MonPoint point; /* the sketch is palloc'd and taken over */
} LatePoint;

extern void mon_late_init(void);

/* Write points into monitoring.late, in the current transaction; sorts the array. */
extern void mon_late_write(LatePoint *points, int n);

/*
 * Observe a value in the past.  It is kept in backend memory and written when
 * the transaction commits, or before when there is much of it.  Its sketch is
 * made with the given scale.
 */
extern void mon_late_observe(const MonSeriesKey *key, int scale, TimestampTz at, double value);

/* Call fn for the points of this transaction that are not written yet. */
extern void mon_late_each(void (*fn)(const MonSeriesKey *key, const MonPoint *point, void *arg),
						  void *arg);

#endif /* METRICS_LATE_H */
