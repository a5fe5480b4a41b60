/*-------------------------------------------------------------------------
 *
 * record.h
 *	  What the files that record share: references to series, what is pending
 *	  in them, and observations on their way there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_RECORD_H
#define METRICS_RECORD_H

#include "metrics/metrics_internal.h"

#include "fmgr.h"

#define PENDING_MIN 8
#define PENDING_MAX 256 /* values a reference collects before it pushes */

/* A backend's reference to a series, with what it has not pushed yet. */
typedef struct SeriesRef
{
	/* key: the bytes the caller passed */
	int metric_len;
	int labels_len;
	char *bytes; /* metric, then labels, as passed */

	MonSeriesKey key;
	MonSeries *series; /* may have been reclaimed: mon_registry_add() checks */
	uint32 room_tick;  /* when `series` was looked up */
	struct SeriesRef *next_dirty;
	bool dirty;
	TimestampTz slot; /* of what is pending, when its time was given; else 0 */
	MonDelta delta;   /* scalars */
	double *values;   /* distributions */
	int nvalues;
	int capacity;
	struct TransPending *trans;
} SeriesRef;

/* A metric and labels as the caller passed them: the labels are the bytes of a jsonb. */
typedef struct RefKey
{
	const char *metric;
	const char *labels;
	int metric_len;
	int labels_len;
} RefKey;

static inline RefKey
mon_ref_key(const struct varlena *metric, const struct varlena *labels)
{
	RefKey key = {VARDATA_ANY(metric), VARDATA_ANY(labels), VARSIZE_ANY_EXHDR(metric),
				  VARSIZE_ANY_EXHDR(labels)};

	return key;
}

/* ---- refs.c ---- */

/* Moves when all references are forgotten. */
extern uint64 mon_refs_generation;

/*
 * The reference of a series.  Errors: invalid name or labels, another kind,
 * library not preloaded.  NULL when monitoring.transactional holds as many
 * references as a backend may have: the observation is to be counted as dropped.
 */
extern SeriesRef *mon_find_ref(RefKey key, MonMetricKind kind);
/* The same; a series that this call site used last costs a comparison. */
extern SeriesRef *mon_cached_ref(FmgrInfo *flinfo, RefKey key, MonMetricKind kind);

extern MonMetricKind mon_parse_kind(const char *name, int len);
pg_noreturn extern void mon_wrong_kind(const char *metric, MonMetricKind is, MonMetricKind wanted);

/* ---- record.c ---- */

extern void mon_record_reset_delta(MonDelta *d);
/* Whether references are in use until the transaction ends. */
extern bool mon_record_holds_refs(void);

/* Take finite values: one that was observed at a time (0: now), or many of a distribution. */
extern void mon_record_take(SeriesRef *ref, TimestampTz at, double value);
extern void mon_record_take_values(SeriesRef *ref, const double *values, size_t n);

/* ---- observe.c ---- */

/* An observation as it was passed. */
typedef struct Observation
{
	RefKey key;
	MonMetricKind kind;
	bool timed; /* its time was given ... */
	bool late;  /* ... and is too long ago for memory */
	TimestampTz at;
	double value;
	SeriesRef *ref;
} Observation;

/* Look up the series; everything that can be wrong with an observation raises its error here. */
extern void mon_observation_check(Observation *o, FmgrInfo *flinfo);
/* Record it; false when the value is NaN or infinite, which is counted as refused. */
extern bool mon_observation_record(Observation *o);
extern void mon_count_refused(uint64 n);
extern void mon_count_dropped(uint64 n);

#endif /* METRICS_RECORD_H */
