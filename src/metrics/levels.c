/*-------------------------------------------------------------------------
 *
 * levels.c
 *	  Time, state and points of the levels of storage.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/levels.h"

#include <math.h>

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "metrics/scan.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "sketch/sketch.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

const ChunkLevelInfo mon_chunk_levels[CHUNK_LEVELS] = {
	{"chunks", USECS_PER_MINUTE},
	{"hourly", USECS_PER_HOUR},
	{"daily", USECS_PER_DAY},
};

/* ---- time ---- */

TimestampTz
mon_floor_time(TimestampTz t, int64 unit)
{
	int64 rest = t % unit;

	return t - (rest < 0 ? rest + unit : rest);
}

TimestampTz
mon_ceil_time(TimestampTz t, int64 unit)
{
	TimestampTz floor = mon_floor_time(t, unit);

	return floor == t ? t : floor + unit;
}

/* First day of the month that is `months` after the one holding t. */
static TimestampTz
month_start(TimestampTz t, int months)
{
	int day = (mon_floor_time(t, USECS_PER_DAY) / USECS_PER_DAY) + POSTGRES_EPOCH_JDATE;
	int y, m, d;

	j2date(day, &y, &m, &d);
	m += months;
	if (m > 12)
	{
		m -= 12;
		y++;
	}
	return (TimestampTz) (date2j(y, m, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
}

TimestampTz
mon_period_start(ChunkLevel level, TimestampTz t)
{
	if (level == LEVEL_DAILY)
		return month_start(t, 0);
	return mon_floor_time(t, level == LEVEL_CHUNKS ? USECS_PER_HOUR : USECS_PER_DAY);
}

TimestampTz
mon_period_end(ChunkLevel level, TimestampTz start)
{
	if (level == LEVEL_DAILY)
		return month_start(start, 1);
	return start + (level == LEVEL_CHUNKS ? USECS_PER_HOUR : USECS_PER_DAY);
}

/* ---- state ---- */

static TimestampTz
column_time(int column, TimestampTz missing)
{
	bool isnull;
	Datum d = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? missing : DatumGetTimestampTz(d);
}

static void
fill_storage_state(StorageState *state)
{
	HeapTuple tuple = SPI_tuptable->vals[0];
	TupleDesc desc = SPI_tuptable->tupdesc;
	bool isnull;

	state->seq = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	state->sealed_at = column_time(2, DT_NOBEGIN);
	state->minutes = column_time(3, DT_NOBEGIN);
	state->compacted = state->minutes != DT_NOBEGIN;
	for (int i = 0; i < CHUNK_LEVELS; i++)
	{
		state->complete[i] = column_time(4 + 2 * i, DT_NOBEGIN);
		state->next_series[i] = DatumGetInt64(SPI_getbinval(tuple, desc, 5 + 2 * i, &isnull));
		state->in_progress[i] = !isnull;
		state->dropped[i] = column_time(10 + i, DT_NOBEGIN);
	}
}

void
mon_storage_execute(const char *sql, int nargs, Oid *types, Datum *values)
{
	int rc = SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0);

	if (rc < 0)
		elog(ERROR, "could not write metrics: %s", SPI_result_code_string(rc));
}

void
mon_read_storage_state(StorageState *state)
{
	static SPIPlanPtr plan = NULL;

	memset(state, 0, sizeof(*state));
	state->sealed_at = state->minutes = DT_NOBEGIN;
	for (int i = 0; i < CHUNK_LEVELS; i++)
		state->complete[i] = state->dropped[i] = DT_NOBEGIN;

	SPI_connect();
	if (!plan)
	{
		plan = SPI_prepare("SELECT f.seq, f.sealed_at, c.minutes, c.chunks, c.chunks_next, "
						   "c.hourly, c.hourly_next, c.daily, c.daily_next, "
						   "d.chunks, d.hourly, d.daily FROM monitoring.flush_state f "
						   "LEFT JOIN monitoring.compaction_state c ON true CROSS JOIN ("
						   "SELECT max(r.dropped_before) FILTER ("
						   "WHERE r.relation OPERATOR(pg_catalog.=) 'chunks'::text) AS chunks, "
						   "max(r.dropped_before) FILTER ("
						   "WHERE r.relation OPERATOR(pg_catalog.=) 'hourly'::text) AS hourly, "
						   "max(r.dropped_before) FILTER ("
						   "WHERE r.relation OPERATOR(pg_catalog.=) 'daily'::text) AS daily "
						   "FROM monitoring.retention_policies r) AS d",
						   0, NULL);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, NULL, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the state of storage");
	if (SPI_processed > 0)
		fill_storage_state(state);
	SPI_finish();
}

/* GetLatestSnapshot() would refuse while other processes work for this statement. */
void
mon_push_latest_snapshot(void)
{
	PushActiveSnapshot(GetNonHistoricCatalogSnapshot(InvalidOid));
}

void
mon_latest_storage_state(StorageState *state)
{
	mon_push_latest_snapshot();
	mon_read_storage_state(state);
	PopActiveSnapshot();
}

static Oid
table_oid(const char *table)
{
	return get_relname_relid(table, get_namespace_oid(MON_SCHEMA, false));
}

void
mon_lock_levels(void)
{
	LockRelationOid(table_oid("segments"), AccessShareLock);
	LockRelationOid(table_oid("minutes"), AccessShareLock);
	for (int i = 0; i < CHUNK_LEVELS; i++)
		LockRelationOid(table_oid(mon_chunk_levels[i].table), AccessShareLock);
}

TimestampTz
mon_oldest_partition(const char *table)
{
	Oid relid = table_oid(table);
	Relation rel = table_open(relid, AccessShareLock);
	PartitionDesc desc = RelationGetPartitionDesc(rel, true);
	TimestampTz oldest = DT_NOEND;

	if (desc->nparts > 0 && desc->boundinfo->ndatums > 0)
		oldest = DatumGetTimestampTz(desc->boundinfo->datums[0][0]);
	table_close(rel, NoLock); /* no partition may go while we read */
	return oldest;
}

int64
mon_retention_usecs(const char *table)
{
	static const char *const columns[] = {"relation", "keep", "enabled"};
	Datum values[lengthof(columns)];
	bool nulls[lengthof(columns)];
	const Interval *keep;

	if (!mon_committed_row("retention_policies", table, columns, lengthof(columns), values,
						   nulls) ||
		!DatumGetBool(values[2]))
		return PG_INT64_MAX / 4;
	keep = DatumGetIntervalP(values[1]);
	/* As extract(epoch FROM keep) has it. */
	return keep->time +
		(keep->day + keep->month % MONTHS_PER_YEAR * DAYS_PER_MONTH) * USECS_PER_DAY +
		(int64) (keep->month / MONTHS_PER_YEAR * DAYS_PER_YEAR * USECS_PER_DAY);
}

void
mon_become_owner(OwnerScope *caller)
{
	GetUserIdAndSecContext(&caller->user, &caller->sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   caller->sec_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_NOFORCE_RLS);
}

void
mon_restore_caller(const OwnerScope *caller)
{
	SetUserIdAndSecContext(caller->user, caller->sec_context);
}

/* ---- points ---- */

void
mon_point_init(MonPoint *p, MonMetricKind kind)
{
	memset(p, 0, sizeof(*p));
	p->kind = kind;
	p->start = DT_NOEND;
	p->first_at = DT_NOEND;
	p->last_at = DT_NOBEGIN;
	p->min = INFINITY;
	p->max = -INFINITY;
	expo_init(&p->sketch, EXPO_DEFAULT_SCALE);
}

void
mon_point_merge(MonPoint *into, MonPoint *from, bool sketches, const ExpoAllocator *a)
{
	if (sketches && from->kind == MON_DISTRIBUTION)
	{
		if (into->count == 0)
		{
			expo_free(&into->sketch, a);
			into->sketch = from->sketch;
			expo_init(&from->sketch, EXPO_DEFAULT_SCALE);
		}
		else if (!expo_merge(&into->sketch, &from->sketch, a))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("a distribution has too many observations")));
	}
	into->count += from->count;
	into->sum += from->sum;
	into->min = Min(into->min, from->min);
	into->max = Max(into->max, from->max);
	into->start = Min(into->start, from->start);
	if (from->first_at < into->first_at)
	{
		into->first = from->first;
		into->first_at = from->first_at;
	}
	if (from->last_at >= into->last_at)
	{
		into->last = from->last;
		into->last_at = from->last_at;
	}
}

void
mon_point_merge_copy(MonPoint *into, const MonPoint *from, bool sketches, const ExpoAllocator *a)
{
	MonPoint copy = *from;

	if (from->count == 0)
		return;
	if (sketches && from->kind == MON_DISTRIBUTION && into->count == 0)
	{
		expo_free(&into->sketch, a);
		expo_copy(&into->sketch, &from->sketch, a);
		sketches = false;
	}
	mon_point_merge(into, &copy, sketches, a);
}

void
mon_point_from_chunk(MonPoint *p, int kind, const ChunkPoint *c, TimestampTz period, int64 unit)
{
	p->kind = kind;
	p->start = period + c->unit * unit;
	/* So that of the same minute what was there before is the first, and the later comer the last. */
	p->first_at = p->start + USECS_PER_MINUTE - 1;
	p->last_at = p->start + unit - 1;
	p->count = c->count;
	p->sum = c->sum;
	p->min = c->min;
	p->max = c->max;
	p->first = c->first;
	p->last = c->last;
	p->sketch = c->sketch;
}

void
mon_chunk_corrupt(const char *table, int64 series_id, TimestampTz period)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a stored chunk of metrics is corrupt"),
		 errdetail("Table monitoring.%s, series_id " INT64_FORMAT ", period %s.", table, series_id,
				   timestamptz_to_str(period)),
		 errhint(
			 "monitoring.check_storage() lists what is damaged; delete or restore these rows.")));
}

/* ---- chunk builder ---- */

void
mon_builder_begin(ChunkBuilder *b, ChunkLevel level, TimestampTz period, MemoryContext cxt)
{
	b->level = level;
	b->period = period;
	b->kind = 0;
	b->present = 0;
	b->alloc = mon_palloc_allocator(cxt);
}

/* Takes over the point's sketch. */
void
mon_builder_add(ChunkBuilder *b, MonPoint *p)
{
	int unit = (p->start - b->period) / mon_chunk_levels[b->level].unit;
	uint64 bit;

	Assert(unit >= 0 && unit < CHUNK_MAX_UNITS);
	bit = UINT64CONST(1) << unit;
	if (b->kind == 0)
		b->kind = p->kind;
	else if (b->kind != p->kind)
		return; /* a metric made anew with another kind: its series have other data */
	if (!(b->present & bit))
		mon_point_init(&b->points[unit], p->kind);
	b->present |= bit;
	mon_point_merge(&b->points[unit], p, true, &b->alloc);
}

bool
mon_builder_add_chunk(ChunkBuilder *b, ChunkLevel level, TimestampTz period, bytea *data)
{
	ChunkPoint points[CHUNK_MAX_UNITS];
	int n, kind;

	if (chunk_decode((uint8_t *) VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), true, points, &n,
					 &kind, &b->alloc) != EXPO_OK)
		return false;
	for (int i = 0; i < n; i++)
	{
		MonPoint p;

		mon_point_from_chunk(&p, kind, &points[i], period, mon_chunk_levels[level].unit);
		mon_builder_add(b, &p);
	}
	return true;
}

static inline MonPoint *
builder_point(ChunkBuilder *b, int unit)
{
	return b->present & (UINT64CONST(1) << unit) ? &b->points[unit] : NULL;
}

void
mon_builder_keep(ChunkBuilder *b, ChunkBuilder *before, ChunkBuilder *change)
{
	bool same_kind = b->kind == 0 || b->kind == before->kind;

	for (int unit = 0; unit < CHUNK_MAX_UNITS; unit++)
	{
		MonPoint *old = builder_point(before, unit);
		MonPoint *made = builder_point(b, unit);
		MonPoint *added = builder_point(change, unit);
		uint64 known = made ? made->count : 0;

		if (added)
			known -= Min(known, added->count);
		if (same_kind && old && old->count > known)
		{
			if (made)
				mon_point_init(made, made->kind);
			mon_builder_add(b, old);
			made = NULL;
		}
		if (added && !made)
			mon_builder_add(b, added);
	}
}

bytea *
mon_builder_finish(ChunkBuilder *b)
{
	ChunkPoint points[CHUNK_MAX_UNITS];
	int n = 0;
	bytea *result;

	for (int unit = 0; unit < CHUNK_MAX_UNITS; unit++)
	{
		MonPoint *p = &b->points[unit];
		ChunkPoint *c = &points[n];

		if (!(b->present & (UINT64CONST(1) << unit)))
			continue;
		c->unit = unit;
		c->count = p->count;
		c->sum = p->sum;
		c->min = p->min;
		c->max = p->max;
		c->first = p->first;
		c->last = p->last;
		c->sketch = p->sketch;
		n++;
	}
	if (n == 0)
		return NULL;
	result = palloc(VARHDRSZ + chunk_encoded_bound(b->kind, points, n));
	SET_VARSIZE(result, VARHDRSZ + chunk_encode(b->kind, points, n, (uint8_t *) VARDATA(result)));
	return result;
}
