/*-------------------------------------------------------------------------
 *
 * flush.c
 *	  Writing live metrics to segments, once and only once.
 *
 * A flush seals the open slots of its database with the next sequence number,
 * writes every sealed slot to monitoring.segments and advances flush_state.seq,
 * all in one transaction.  Sealed slots stay in memory until a later look at
 * flush_state shows that the number committed: whether a transaction was
 * aborted, its savepoint rolled back or its worker killed, the table alone
 * decides, so that nothing is lost and nothing doubled.
 *
 * Flushes of one database are serialised by a transaction-level heavyweight
 * lock; see metrics_internal.h for the others.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define LOCKTAG_CLASS 77 /* class of our advisory locks; SQL functions use 1 and 2 */
#define LOCK_FLUSH 1
#define SERIES_PER_SEGMENT 4096 /* so that a row stays easy to read by slices */
#define SWEEP_USECS (60 * USECS_PER_SEC)

/* A sealed slot to be written. */
typedef struct SealedSlot
{
	MonSeries *series;
	MonSlot *slot;
	int64 id;
	TimestampTz start;
	int nth; /* of the series' slots with this start */
} SealedSlot;

typedef struct SealState
{
	uint64 seq;     /* of this flush */
	uint64 flushed; /* already written, perhaps by this very transaction */
	SealedSlot *sealed;
	int nsealed;
	int maxsealed;
	MonSeries **fresh; /* series without a row in series_catalog */
	int nfresh;
	int maxfresh;
} SealState;

/* Set while the top-level transaction has a flush that will commit with it. */
static uint64 completing_seq = 0;
/* The last transaction that flushed: what it wrote is not committed while it runs. */
static TransactionId flushing_xid = InvalidTransactionId;

/* ---- flush_state ---- */

/* The number of the last flush that the active snapshot sees. */
uint64
mon_flushed_seq(void)
{
	static SPIPlanPtr plan = NULL;
	bool isnull;
	uint64 seq = 0;

	SPI_connect();
	if (!plan)
	{
		plan = SPI_prepare("SELECT seq FROM monitoring.flush_state", 0, NULL);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, NULL, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the state of flushes");
	if (SPI_processed > 0)
		seq = DatumGetInt64(
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return seq;
}

static uint64
latest_flushed_seq(void)
{
	uint64 seq;

	PushActiveSnapshot(GetLatestSnapshot());
	seq = mon_flushed_seq();
	PopActiveSnapshot();
	return seq;
}

/*
 * The number of the next flush is behind when others than this server have
 * flushed: the primary while we are a standby, or the database that a restored
 * dump comes from.
 */
void
mon_advance_sequence(MonDb *db, uint64 flushed)
{
	mon_seal_lock(LW_EXCLUSIVE);
	if (db->next_seq <= flushed)
		db->next_seq = flushed + 1;
	mon_seal_unlock();
}

/* After a start of the server the registry does not know yet where the sequence stands. */
void
mon_sync_sequence(MonDb *db)
{
	uint64 next_seq;

	mon_seal_lock(LW_SHARED);
	next_seq = db->next_seq;
	mon_seal_unlock();
	if (next_seq == 0)
		mon_advance_sequence(db, latest_flushed_seq());
}

/* ---- sealing ---- */

static void
remember_slot(SealState *state, MonSeries *s, MonSlot *slot)
{
	if (state->nsealed == state->maxsealed)
	{
		state->maxsealed *= 2;
		state->sealed = repalloc_huge(state->sealed, sizeof(SealedSlot) * (Size) state->maxsealed);
	}
	state->sealed[state->nsealed].series = s;
	state->sealed[state->nsealed].slot = slot;
	state->sealed[state->nsealed].id = s->id;
	state->sealed[state->nsealed].start = slot->start;
	state->sealed[state->nsealed].nth = 0;
	state->nsealed++;
}

static void
remember_fresh(SealState *state, MonSeries *s)
{
	if (state->nfresh == state->maxfresh)
	{
		state->maxfresh *= 2;
		state->fresh = repalloc_huge(state->fresh, sizeof(MonSeries *) * (Size) state->maxfresh);
	}
	state->fresh[state->nfresh++] = s;
	s->persist_seq = state->seq;
}

static void
seal_series(MonSeries *s, void *arg)
{
	SealState *state = arg;

	if (s->slots == NULL)
		return;
	mon_series_lock(s, LW_EXCLUSIVE);
	for (MonSlot *slot = s->slots; slot; slot = slot->older)
	{
		if (slot->seq > 0 && slot->seq <= state->flushed)
			continue;
		slot->seq = state->seq; /* those of a flush that failed, too */
		remember_slot(state, s, slot);
	}
	if (!s->persisted)
		remember_fresh(state, s);
	mon_series_unlock(s);
}

static int
compare_sealed(const void *a, const void *b)
{
	const SealedSlot *x = a;
	const SealedSlot *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	if (x->nth != y->nth)
		return x->nth < y->nth ? -1 : 1;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return 0;
}

/* ---- writing ---- */

static void
execute(const char *sql, int nargs, Oid *types, Datum *values)
{
	int rc = SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0);

	if (rc < 0)
		elog(ERROR, "could not write metrics: %s", SPI_result_code_string(rc));
}

/* Enter the series that this flush is the first to write into the catalogs. */
static void
write_catalog(const SealState *state)
{
	Oid types[4] = {INT8ARRAYOID, TEXTARRAYOID, INT2ARRAYOID, JSONBARRAYOID};
	Datum values[4];
	Datum *column[4];
	int n = state->nfresh;

	if (n == 0)
		return;
	for (int c = 0; c < 4; c++)
		column[c] = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		MonSeries *s = state->fresh[i];

		column[0][i] = Int64GetDatum(s->id);
		column[1][i] = CStringGetTextDatum(s->metric->name);
		column[2][i] = Int16GetDatum(s->kind);
		column[3][i] = JsonbPGetDatum(s->labels);
	}
	values[0] = PointerGetDatum(construct_array(column[0], n, INT8OID, 8, true, 'd'));
	values[1] = PointerGetDatum(construct_array(column[1], n, TEXTOID, -1, false, 'i'));
	values[2] = PointerGetDatum(construct_array(column[2], n, INT2OID, 2, true, 's'));
	values[3] = PointerGetDatum(construct_array(column[3], n, JSONBOID, -1, false, 'i'));

	execute("INSERT INTO monitoring.metric_catalog (metric, kind) "
			"SELECT DISTINCT ON (m) m, k FROM unnest($2, $3) AS u(m, k) "
			"ON CONFLICT (metric) DO NOTHING",
			4, types, values);
	execute("INSERT INTO monitoring.series_catalog (series_id, metric, labels) "
			"SELECT i, m, l FROM unnest($1, $2, $4) AS u(i, m, l) "
			"ON CONFLICT (series_id) DO NOTHING",
			4, types, values);
}

static Datum
finish_bytea(StringInfo buf)
{
	SET_VARSIZE(buf->data, buf->len);
	return PointerGetDatum(buf->data);
}

static void
write_segment(SegmentBuilder *b, TimestampTz start, uint64 seq, int part)
{
	Oid types[6] = {TIMESTAMPTZOID, INT8OID, INT4OID, INT4OID, BYTEAOID, BYTEAOID};
	Datum values[6] = {TimestampTzGetDatum(start),  Int64GetDatum(seq),
					   Int32GetDatum(part),         Int32GetDatum(b->nseries),
					   finish_bytea(&b->directory), finish_bytea(&b->points)};

	if (part == 0)
		execute("SELECT monitoring.ensure_partition('segments', $1)", 1, types, values);
	execute("INSERT INTO monitoring.segments (slot_start, seq, part, series, directory, points) "
			"VALUES ($1, $2, $3, $4, $5, $6)",
			6, types, values);
}

/*
 * Sort the sealed slots into the order they are written in.  Two slots of one
 * series with the same start (the clock moved, or a flush failed or came twice
 * within a slot) must go to different rows, so the first of every series come
 * first, then the second, and so on.
 */
static void
sort_sealed(SealState *state)
{
	bool again = false;

	qsort(state->sealed, state->nsealed, sizeof(SealedSlot), compare_sealed);
	for (int i = 1; i < state->nsealed; i++)
	{
		SealedSlot *e = &state->sealed[i];

		if (e->start == e[-1].start && e->id == e[-1].id)
		{
			e->nth = e[-1].nth + 1;
			again = true;
		}
	}
	if (again)
		qsort(state->sealed, state->nsealed, sizeof(SealedSlot), compare_sealed);
}

/* Write the sealed slots: a row per slot of time, or several when there are many series. */
static void
write_segments(SealState *state)
{
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext, "segment",
												  ALLOCSET_DEFAULT_SIZES);
	int i = 0;
	int part = 0;

	sort_sealed(state);
	while (i < state->nsealed)
	{
		MemoryContext old = MemoryContextSwitchTo(row_cxt);
		SealedSlot *first = &state->sealed[i];
		SegmentBuilder b;

		CHECK_FOR_INTERRUPTS();
		if (i == 0 || first[-1].start != first->start)
			part = 0;
		mon_segment_begin(&b);
		do
		{
			SealedSlot *e = &state->sealed[i++];

			mon_segment_add(&b, e->id, e->series->kind, e->slot);
		} while (i < state->nsealed && b.nseries < SERIES_PER_SEGMENT &&
				 state->sealed[i].start == first->start && state->sealed[i].nth == first->nth);
		write_segment(&b, first->start, state->seq, part++);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_cxt);
	}
	MemoryContextDelete(row_cxt);
}

static void
advance_state(uint64 seq)
{
	Oid type = INT8OID;
	Datum value = Int64GetDatum(seq);

	execute("INSERT INTO monitoring.flush_state (only_row, seq) VALUES (true, $1) "
			"ON CONFLICT (only_row) DO UPDATE SET seq = EXCLUDED.seq, "
			"flushed_at = pg_catalog.clock_timestamp()",
			1, &type, &value);
}

static bool
lock_flush(bool wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, LOCK_FLUSH, LOCKTAG_CLASS);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* Returns the number of points written; -1 when another flush is under way. */
static int64
flush(bool wait)
{
	MonDb *db;
	SealState state = {0};

	mon_record_push();
	db = mon_registry_db(MyDatabaseId);
	if (!db)
		return 0;
	if (!lock_flush(wait))
		return -1;

	state.flushed = latest_flushed_seq();
	mon_advance_sequence(db, state.flushed);
	if (!TransactionIdIsValid(flushing_xid) || flushing_xid != GetTopTransactionIdIfAny())
		mon_registry_drop_sealed(MyDatabaseId, state.flushed);

	state.maxsealed = state.maxfresh = 1024;
	state.sealed = palloc(sizeof(SealedSlot) * state.maxsealed);
	state.fresh = palloc(sizeof(MonSeries *) * state.maxfresh);
	mon_seal_lock(LW_EXCLUSIVE);
	state.seq = db->next_seq++;
	mon_index_lock(LW_SHARED);
	mon_registry_each(MyDatabaseId, seal_series, &state);
	mon_index_unlock();
	mon_seal_unlock();
	if (state.nsealed == 0)
		return 0;

	SPI_connect();
	write_catalog(&state);
	write_segments(&state);
	advance_state(state.seq);
	SPI_finish();

	flushing_xid = GetTopTransactionId();
	if (GetCurrentTransactionNestLevel() == 1)
		completing_seq = state.seq;
	return state.nsealed;
}

/* At commit free what was written; if this is missed, the next flush does it. */
static void
flush_xact_callback(XactEvent event, void *arg)
{
	if (completing_seq == 0)
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		MonDb *db = mon_registry_db(MyDatabaseId);

		mon_registry_drop_sealed(MyDatabaseId, completing_seq);
		if (db)
			pg_atomic_fetch_add_u64(&db->flushes, 1);
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		completing_seq = 0;
}

void
mon_metrics_init(void)
{
	mon_registry_init();
	mon_record_init();
	RegisterXactCallback(flush_xact_callback, NULL);
}

static void
require_writable(void)
{
	mon_require_preload();
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("metrics cannot be flushed on a standby"),
				 errdetail("What is recorded here stays in memory and can be read.")));
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("metrics cannot be flushed in a read-only transaction")));
}

PG_FUNCTION_INFO_V1(mon_flush);
/* flush() returns bigint: points written */
Datum
mon_flush(PG_FUNCTION_ARGS)
{
	require_writable();
	PG_RETURN_INT64(flush(true));
}

/* Forget the databases that are gone, and series that nobody uses. */
static void
sweep(TimestampTz now)
{
	static TimestampTz last_sweep = 0;
	ListCell *lc;

	if (now - last_sweep < SWEEP_USECS)
		return;
	last_sweep = now;
	foreach (lc, mon_registry_databases())
		if (!SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(lfirst_oid(lc))))
			mon_registry_forget(lfirst_oid(lc), true);
	mon_registry_sweep(now);
}

PG_FUNCTION_INFO_V1(mon_flush_job);
/* flush_job(at timestamptz): the worker's flush; leaves at once when another is under way */
Datum
mon_flush_job(PG_FUNCTION_ARGS)
{
	require_writable();
	(void) flush(false);
	sweep(GetCurrentTimestamp());
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mon_forget_database);
/* Called when the extension is created: nothing of an earlier one may remain. */
Datum
mon_forget_database(PG_FUNCTION_ARGS)
{
	if (mon_preloaded)
		mon_registry_forget(MyDatabaseId, false);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mon_self);
/* self_values(): one row of counters of this database and of the memory it shares */
Datum
mon_self(PG_FUNCTION_ARGS)
{
	TupleDesc tupdesc;
	Datum values[14];
	bool nulls[14] = {0};
	int64 metrics, series, slots, pending, persisted;
	Size used, total;
	MonDb *db;
	int i = 0;

	mon_require_preload();
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	mon_record_push();
	db = mon_registry_db(MyDatabaseId);
	if (!db)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("monitoring.shared_memory is exhausted")));
	mon_memory_usage(&used, &total);
	mon_registry_counts(MyDatabaseId, &metrics, &series, &slots, &pending, &persisted);

	values[i++] = Int64GetDatum(total);
	values[i++] = Int64GetDatum(used);
	values[i++] = Int64GetDatum(metrics);
	values[i++] = Int64GetDatum(series);
	values[i++] = Int64GetDatum(slots);
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->accepted));
	values[i++] = Int64GetDatum(persisted);
	values[i++] = Int64GetDatum(pending);
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->dropped));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->overflow));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->refused));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->flushes));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->slots_merged));
	values[i++] = Int64GetDatum(db->next_seq);
	Assert(i == lengthof(values));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}
