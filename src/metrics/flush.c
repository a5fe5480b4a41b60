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
#include "core/transaction.h"
#include "metrics/catalog.h"
#include "metrics/define.h"
#include "metrics/late.h"
#include "metrics/levels.h"
#include "metrics/metrics_internal.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define LOCKTAG_CLASS 77 /* class of our advisory locks; SQL functions use 1 and 2 */
#define SWEEP_USECS (60 * USECS_PER_SEC)
/* Without anything to write, flush_state is still advanced this often: compaction goes by it. */
#define IDLE_STATE_USECS (60 * USECS_PER_SEC)

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
	uint64 seq; /* of this flush */
	TimestampTz sealed_at;
	uint64 flushed; /* already written, perhaps by this very transaction */
	bool wait;      /* for who is defining a metric */
	SealedSlot *sealed;
	int nsealed;
	int maxsealed;
	MonSeries **fresh; /* series without a row in series_catalog */
	int nfresh;
	int maxfresh;
} SealState;

/* Set while the top-level transaction has a flush that will commit with it. */
static uint64 completing_seq = 0;
/* Whether this transaction has locked storage. */
static bool storage_locked = false;
static MonTransactionPart flush_part;
/* The last transaction that flushed: what it wrote is not committed while it runs. */
static TransactionId flushing_xid = InvalidTransactionId;

/* ---- state ---- */

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
	StorageState state;

	if (mon_registry_next_seq(db) > 0)
		return;
	mon_latest_storage_state(&state);
	mon_advance_sequence(db, state.seq);
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

/* Those of a flush that failed are left to the next one. */
static void
leave_open(MonSeries *s, uint64 flushed)
{
	mon_series_lock(s, LW_EXCLUSIVE);
	for (MonSlot *slot = s->slots; slot; slot = slot->older)
		if (slot->seq > flushed)
			slot->seq = 0;
	s->persist_seq = 0;
	mon_series_unlock(s);
}

static void
seal_series(MonSeries *s, void *arg)
{
	SealState *state = arg;
	int before = state->nsealed;

	if (s->slots == NULL)
		return;
	if (!state->wait && !s->persisted && s->metric->definers > 0)
	{
		leave_open(s, state->flushed); /* its row in the catalog is locked */
		return;
	}
	mon_series_lock(s, LW_EXCLUSIVE);
	for (MonSlot *slot = s->slots; slot; slot = slot->older)
	{
		if (slot->seq > 0 && slot->seq <= state->flushed)
			continue;
		slot->seq = state->seq; /* those of a flush that failed, too */
		remember_slot(state, s, slot);
	}
	if (state->nsealed > before && !s->persisted)
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

/* Enter the series that this flush is the first to write into the catalogs. */
static void
write_catalog(const SealState *state)
{
	CatalogEntry *entries = palloc_extended(sizeof(CatalogEntry) * (state->nfresh + 1),
											MCXT_ALLOC_HUGE);

	for (int i = 0; i < state->nfresh; i++)
	{
		MonSeries *s = state->fresh[i];

		entries[i].series_id = s->id;
		entries[i].metric = s->metric->name;
		entries[i].kind = s->kind;
		entries[i].labels = s->labels;
		entries[i].observations = 0;
	}
	mon_catalog_write(entries, state->nfresh);
}

void
mon_segment_write(const char *table, SegmentBuilder *b, TimestampTz start, uint64 seq, int part)
{
	Oid types[9] = {TEXTOID, TIMESTAMPTZOID, INT8OID,  INT4OID, INT4OID,
					INT8OID, INT8OID,        BYTEAOID, BYTEAOID};
	Datum values[9] = {CStringGetTextDatum(table),
					   TimestampTzGetDatum(start),
					   Int64GetDatum(seq),
					   Int32GetDatum(part),
					   Int32GetDatum(b->nseries),
					   Int64GetDatum(b->first_id),
					   Int64GetDatum(b->last_id),
					   mon_segment_column(&b->directory),
					   mon_segment_column(&b->points)};
	char *insert = psprintf("INSERT INTO monitoring.%s (slot_start, seq, part, series, first_id, "
							"last_id, directory, points) VALUES ($2, $3, $4, $5, $6, $7, $8, $9)",
							table);

	if (part == 0)
		mon_storage_execute("SELECT monitoring.ensure_partition($1, $2)", 2, types, values);
	mon_storage_execute(insert, 9, types, values);
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

/*
 * Write the sealed slots from i on, those of minutes that are not compacted yet:
 * a row per slot of time, or several when there are many series.
 */
static void
write_segments(SealState *state, int i)
{
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext, "segment",
												  ALLOCSET_DEFAULT_SIZES);
	TimestampTz previous = DT_NOBEGIN;
	int part = 0;

	while (i < state->nsealed)
	{
		MemoryContext old = MemoryContextSwitchTo(row_cxt);
		const SealedSlot *first = &state->sealed[i];
		SegmentBuilder b;

		CHECK_FOR_INTERRUPTS();
		if (first->start != previous)
			part = 0;
		previous = first->start;
		mon_segment_begin(&b);
		do
		{
			SealedSlot *e = &state->sealed[i++];
			MonPoint p;

			mon_point_from_slot(&p, e->series->kind, e->slot);
			mon_segment_add(&b, e->id, &p);
		} while (i < state->nsealed && b.nseries < SERIES_PER_SEGMENT &&
				 state->sealed[i].start == first->start && state->sealed[i].nth == first->nth);
		mon_segment_write("segments", &b, first->start, state->seq, part++);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_cxt);
	}
	MemoryContextDelete(row_cxt);
}

/* Slots whose minute is compacted already: the clock stepped back, or flushes failed for long. */
static int
write_late_slots(SealState *state, TimestampTz minutes)
{
	ExpoAllocator alloc = mon_palloc_allocator(CurrentMemoryContext);
	LatePoint *late;
	int n = 0;

	while (n < state->nsealed && state->sealed[n].start < minutes)
		n++;
	if (n == 0)
		return 0;
	late = palloc_extended(sizeof(LatePoint) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		SealedSlot *e = &state->sealed[i];

		late[i].series_id = e->id;
		mon_point_from_slot(&late[i].point, e->series->kind, e->slot);
		if (e->series->kind == MON_DISTRIBUTION)
		{
			/* A copy in our own memory, since it will be taken over. */
			expo_init(&late[i].point.sketch, e->slot->sketch.scale);
			expo_copy(&late[i].point.sketch, &e->slot->sketch, &alloc);
		}
	}
	mon_late_write(late, n);
	return n;
}

static void
advance_state(uint64 seq, TimestampTz sealed_at)
{
	Oid types[2] = {INT8OID, TIMESTAMPTZOID};
	Datum values[2] = {Int64GetDatum(seq), TimestampTzGetDatum(sealed_at)};

	mon_storage_execute(
		"INSERT INTO monitoring.flush_state (only_row, seq, sealed_at) VALUES (true, $1, $2) "
		"ON CONFLICT (only_row) DO UPDATE SET seq = EXCLUDED.seq, "
		"sealed_at = EXCLUDED.sealed_at, flushed_at = pg_catalog.clock_timestamp()",
		2, types, values);
}

bool
mon_lock_storage(StorageLock lock, bool wait)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, lock, LOCKTAG_CLASS);
	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	storage_locked = true;
	mon_transaction_join(&flush_part);
	return true;
}

static void
seal(SealState *state, MonDb *db)
{
	state->maxsealed = state->maxfresh = 1024;
	state->sealed = palloc(sizeof(SealedSlot) * state->maxsealed);
	state->fresh = palloc(sizeof(MonSeries *) * state->maxfresh);
	mon_seal_lock(LW_EXCLUSIVE);
	state->seq = db->next_seq++;
	mon_seal_unlock();
	state->sealed_at = GetCurrentTimestamp();
	mon_index_lock(LW_SHARED);
	mon_registry_each(MyDatabaseId, seal_series, state);
	mon_index_unlock();
	sort_sealed(state);
}

/*
 * Returns the number of points written; -1 when another flush is under way.
 * With `always` something is written in any case.
 */
int64
mon_flush_now(bool wait, bool always)
{
	MonDb *db;
	StorageState stored;
	SealState state = {0};
	MonGap gap;
	bool has_gap;

	mon_record_push();
	db = mon_registry_db(MyDatabaseId);
	if (!db)
		return 0;
	if (!mon_lock_storage(LOCK_FLUSH, wait))
		return -1;

	mon_latest_storage_state(&stored);
	state.wait = wait;
	state.flushed = stored.seq;
	mon_advance_sequence(db, state.flushed);
	if (!TransactionIdIsValid(flushing_xid) || flushing_xid != GetTopTransactionIdIfAny())
		mon_registry_drop_sealed(MyDatabaseId, state.flushed);
	has_gap = mon_gap_find(db, stored.sealed_at, &gap);
	seal(&state, db);

	SPI_connect();
	if (!always && !has_gap && state.nsealed == 0 &&
		stored.sealed_at > state.sealed_at - IDLE_STATE_USECS && !mon_catalog_announced())
	{
		SPI_finish();
		return 0;
	}
	if (has_gap)
		mon_gap_write(&gap);
	mon_catalog_take_announced();
	write_catalog(&state);
	write_segments(&state, write_late_slots(&state, stored.minutes));
	advance_state(state.seq, state.sealed_at);
	SPI_finish();

	flushing_xid = GetTopTransactionId();
	if (GetCurrentTransactionNestLevel() == 1)
		completing_seq = state.seq;
	return state.nsealed;
}

/* Nobody else could flush until somebody remembers the prepared transaction. */
static void
refuse_prepare(void)
{
	if (storage_locked)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has flushed, compacted or deleted "
						"metrics")));
}

/* At commit free what was written; if this is missed, the next flush does it. */
static void
flush_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_PREPARE)
		refuse_prepare();
	if (event == XACT_EVENT_COMMIT && completing_seq > 0)
	{
		MonDb *db = mon_registry_db(MyDatabaseId);

		mon_registry_drop_sealed(MyDatabaseId, completing_seq);
		if (db)
		{
			pg_atomic_fetch_add_u64(&db->flushes, 1);
			db->gap_checked = true;
		}
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
	{
		completing_seq = 0;
		storage_locked = false;
	}
}

void
mon_metrics_init(void)
{
	mon_registry_init();
	mon_record_init();
	mon_define_init();
	mon_late_init();
	mon_catalog_init();
	/* At the end of a transaction the last is first: what was flushed is dropped before series are forgotten. */
	mon_manage_init();
	mon_transaction_register(&flush_part, flush_at_end, NULL);
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

	/*
	 * The worker's commits do not wait for the disk.  Whoever asks for a flush may
	 * rely on what was flushed before, too, once his own commit is on disk.
	 */
	PG_RETURN_INT64(mon_flush_now(true, true));
}

/* Forget the databases that are gone, and series that nobody uses. */
static void
sweep(TimestampTz now)
{
	static TimestampTz last_sweep = 0;
	ListCell *lc;

	if (now >= last_sweep && now - last_sweep < SWEEP_USECS)
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
	(void) mon_flush_now(false, false);
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
	Datum values[15];
	bool nulls[15] = {0};
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
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->expired));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->overflow));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->refused));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->flushes));
	values[i++] = Int64GetDatum(pg_atomic_read_u64(&db->slots_merged));
	values[i++] = Int64GetDatum(db->next_seq);
	Assert(i == lengthof(values));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}
