/*-------------------------------------------------------------------------
 *
 * observe.c
 *	  record(), increment(), set_gauge(), record_at(): one observation at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/late.h"
#include "metrics/levels.h"
#include "metrics/record.h"

#include <math.h>

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#define REFRESH_RETENTION_USECS USECS_PER_MINUTE

void
mon_count_refused(uint64 n)
{
	MonDb *db = n > 0 ? mon_registry_db(MyDatabaseId) : NULL;

	if (db)
		pg_atomic_fetch_add_u64(&db->refused, n);
}

void
mon_count_dropped(uint64 n)
{
	MonDb *db = mon_registry_db(MyDatabaseId);

	if (db)
	{
		pg_atomic_fetch_add_u64(&db->accepted, n);
		pg_atomic_fetch_add_u64(&db->dropped, n);
	}
}

/* ---- checks ---- */

static inline void
check_increment(double by)
{
	if (unlikely(by < 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a counter cannot be incremented by a negative number"),
				 errhint("Use set_gauge() for what goes up and down.")));
}

/* The oldest time that one-minute points are kept of. */
static TimestampTz
oldest_allowed(TimestampTz now)
{
	static TimestampTz looked_at = 0;
	static int64 keep = 0;

	if (now - looked_at > REFRESH_RETENTION_USECS || now < looked_at)
	{
		keep = mon_retention_usecs("chunks");
		looked_at = now;
	}
	return now - keep;
}

/* What is too long ago for memory is written at the end of the transaction. */
static void
check_late(TimestampTz at, TimestampTz now)
{
	if (at < oldest_allowed(now))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an observation is older than one-minute points are kept"),
				 errdetail("Its time is %s.", timestamptz_to_str(at)),
				 errhint("See the row \"chunks\" of monitoring.retention_policies.")));
	if (XactReadOnly || RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("an observation of the past cannot be recorded in a read-only "
						"transaction"),
				 errdetail("What was observed more than a minute ago is written to tables.")));
	if (IsParallelWorker())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("an observation of the past cannot be recorded in a parallel worker"),
				 errhint("Mark the function that records as PARALLEL RESTRICTED or UNSAFE.")));
}

/* Whether a time is too long ago for memory. */
static bool
check_time(TimestampTz at)
{
	TimestampTz now = GetCurrentTimestamp();

	if (TIMESTAMP_NOT_FINITE(at) || at > now + MAX_SKEW_USECS)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an observation cannot be made in the future"),
				 errdetail("Its time is %s.", timestamptz_to_str(at))));
	if (at >= now - MAX_SKEW_USECS)
		return false;
	check_late(at, now);
	return true;
}

void
mon_observation_check(Observation *o, FmgrInfo *flinfo)
{
	o->ref = flinfo ? mon_cached_ref(flinfo, o->key, o->kind) : mon_find_ref(o->key, o->kind);
	if (o->kind == MON_COUNTER)
		check_increment(o->value);
	o->late = o->timed && check_time(o->at);
}

bool
mon_observation_record(Observation *o)
{
	if (unlikely(!isfinite(o->value)))
	{
		mon_count_refused(1);
		return false;
	}
	if (unlikely(!o->ref))
	{
		mon_count_dropped(1);
		return true;
	}
	if (o->late)
	{
		mon_late_observe(&o->ref->key, mon_registry_scale(o->ref->series, &o->ref->key), o->at,
						 o->value);
		return true;
	}
	mon_record_take(o->ref, o->timed ? o->at : 0, o->value);
	return true;
}

bool
mon_observe(const char *metric, const Jsonb *labels, MonMetricKind kind, TimestampTz at,
			double value)
{
	Observation o = {
		.key = {metric, (const char *) &labels->root, strlen(metric), VARSIZE(labels) - VARHDRSZ},
		.kind = kind,
		.timed = true,
		.at = at,
		.value = value};

	mon_observation_check(&o, NULL);
	return mon_observation_record(&o);
}

/* ---- the SQL functions ---- */

/* metric text, value float8, labels jsonb */
static inline void
observe(FunctionCallInfo fcinfo, MonMetricKind kind)
{
	struct varlena *metric = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(0));
	struct varlena *labels = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(2));
	SeriesRef *ref = mon_cached_ref(fcinfo->flinfo, mon_ref_key(metric, labels), kind);
	double value = PG_GETARG_FLOAT8(1);

	if (kind == MON_COUNTER)
		check_increment(value);
	if (unlikely(!isfinite(value)))
		mon_count_refused(1);
	else if (likely(ref))
		mon_record_take(ref, 0, value);
	else
		mon_count_dropped(1);
}

PG_FUNCTION_INFO_V1(mon_record);
/* record(metric text, value float8, labels jsonb) */
Datum
mon_record(PG_FUNCTION_ARGS)
{
	observe(fcinfo, MON_DISTRIBUTION);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mon_increment);
/* increment(metric text, by float8, labels jsonb) */
Datum
mon_increment(PG_FUNCTION_ARGS)
{
	observe(fcinfo, MON_COUNTER);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mon_set_gauge);
/* set_gauge(metric text, value float8, labels jsonb) */
Datum
mon_set_gauge(PG_FUNCTION_ARGS)
{
	observe(fcinfo, MON_GAUGE);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mon_record_at);
/* record_at(metric text, value float8, at timestamptz, labels jsonb, kind text) */
Datum
mon_record_at(PG_FUNCTION_ARGS)
{
	struct varlena *metric = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(0));
	struct varlena *labels = PG_DETOAST_DATUM_PACKED(PG_GETARG_DATUM(3));
	text *kind = PG_GETARG_TEXT_PP(4);
	Observation o = {.key = mon_ref_key(metric, labels),
					 .kind = mon_parse_kind(VARDATA_ANY(kind), VARSIZE_ANY_EXHDR(kind)),
					 .value = PG_GETARG_FLOAT8(1),
					 .timed = true,
					 .at = PG_GETARG_TIMESTAMPTZ(2)};

	mon_observation_check(&o, fcinfo->flinfo);
	(void) mon_observation_record(&o);
	PG_RETURN_VOID();
}
