/*-------------------------------------------------------------------------
 *
 * late.c
 *	  Observations that come after their time: record_at() for the past, and
 *	  slots that were flushed when their minute was already compacted.
 *
 * They become rows of monitoring.late, one per series and hour, in the format
 * of chunks.  Reads add them to what the levels hold; compaction works them in
 * and deletes them in one transaction, so nothing counts twice.
 *
 * What record_at() observes follows the transaction that calls it, as rows do:
 * it is kept in memory per subtransaction and written before commit.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/late.h"
#include "core/transaction.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "metrics/catalog.h"
#include "metrics/levels.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define MAX_PENDING 20000 /* minute points kept in memory before they are written */
#define ROWS_PER_INSERT 1000

typedef struct PendingKey
{
	int64 series_id;
	TimestampTz minute;
	SubTransactionId subid;
} PendingKey;

typedef struct PendingPoint
{
	PendingKey key; /* hash key */
	MonSeriesKey series;
	MonPoint point;
} PendingPoint;

typedef struct PendingSeries
{
	int64 id; /* hash key */
	MonSeriesKey key;
	int64 observations; /* about to be written */
} PendingSeries;

/* In pending_cxt, a child of TopTransactionContext; NULL when there is none. */
static MemoryContext pending_cxt = NULL;
static HTAB *pending = NULL;
static MonTransactionPart late_part;
static HTAB *pending_series = NULL;

/* ---- writing ---- */

static int
compare_points(const void *a, const void *b)
{
	const LatePoint *x = a;
	const LatePoint *y = b;

	if (x->series_id != y->series_id)
		return x->series_id < y->series_id ? -1 : 1;
	if (x->point.start != y->point.start)
		return x->point.start < y->point.start ? -1 : 1;
	return 0;
}

static void
insert_rows(Datum *ids, Datum *periods, Datum *data, int n)
{
	Oid types[3] = {INT8ARRAYOID, TIMESTAMPTZARRAYOID, BYTEAARRAYOID};
	Datum values[3] = {
		PointerGetDatum(construct_array(ids, n, INT8OID, 8, true, 'd')),
		PointerGetDatum(construct_array(periods, n, TIMESTAMPTZOID, 8, true, 'd')),
		PointerGetDatum(construct_array(data, n, BYTEAOID, -1, false, 'i')),
	};

	mon_storage_execute("INSERT INTO monitoring.late (series_id, period, data) "
						"SELECT i, p, d FROM unnest($1, $2, $3) AS u(i, p, d)",
						3, types, values);
}

/* Encode the points from i on that share series and hour; returns the next i. */
static int
encode_group(LatePoint *points, int n, int i, MemoryContext cxt, Datum *period, Datum *data)
{
	ChunkBuilder *b = palloc(sizeof(ChunkBuilder));
	int64 id = points[i].series_id;
	TimestampTz hour = mon_period_start(LEVEL_CHUNKS, points[i].point.start);
	MemoryContext old;

	mon_builder_begin(b, LEVEL_CHUNKS, hour, cxt);
	for (; i < n && points[i].series_id == id &&
		 mon_period_start(LEVEL_CHUNKS, points[i].point.start) == hour;
		 i++)
		mon_builder_add(b, &points[i].point);
	old = MemoryContextSwitchTo(cxt);
	*data = PointerGetDatum(mon_builder_finish(b));
	MemoryContextSwitchTo(old);
	*period = TimestampTzGetDatum(hour);
	pfree(b);
	return i;
}

void
mon_late_write(LatePoint *points, int n)
{
	Datum ids[ROWS_PER_INSERT];
	Datum periods[ROWS_PER_INSERT];
	Datum data[ROWS_PER_INSERT];
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "late points",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	int rows = 0;
	int i = 0;

	qsort(points, n, sizeof(LatePoint), compare_points);
	while (i < n)
	{
		CHECK_FOR_INTERRUPTS();
		ids[rows] = Int64GetDatum(points[i].series_id);
		i = encode_group(points, n, i, cxt, &periods[rows], &data[rows]);
		if (++rows == ROWS_PER_INSERT || i == n)
		{
			MemoryContextSwitchTo(cxt);
			insert_rows(ids, periods, data, rows);
			MemoryContextSwitchTo(old);
			MemoryContextReset(cxt);
			rows = 0;
		}
	}
	MemoryContextDelete(cxt);
}

/* ---- what record_at() has observed ---- */

static void
forget_pending(void)
{
	if (pending_cxt)
		MemoryContextDelete(pending_cxt);
	pending_cxt = NULL;
	pending = NULL;
	pending_series = NULL;
}

static void
begin_pending(void)
{
	HASHCTL ctl = {0};

	mon_transaction_join(&late_part);
	pending_cxt = AllocSetContextCreate(TopTransactionContext, "monitoring late points",
										ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = pending_cxt;
	ctl.keysize = sizeof(PendingKey);
	ctl.entrysize = sizeof(PendingPoint);
	pending = hash_create("late points", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(PendingSeries);
	pending_series = hash_create("late series", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* A copy of the key that lives as long as the pending points. */
static const MonSeriesKey *
remember_series(const MonSeriesKey *key)
{
	bool found;
	PendingSeries *s = hash_search(pending_series, &key->id, HASH_ENTER, &found);

	if (!found)
	{
		Jsonb *labels = MemoryContextAlloc(pending_cxt, VARSIZE(key->labels));

		memcpy(labels, key->labels, VARSIZE(key->labels));
		s->key = *key;
		s->observations = 0;
		s->key.labels = labels;
		s->key.metric = MemoryContextStrdup(pending_cxt, key->metric);
	}
	return &s->key;
}

/* Take the points of a subtransaction out of memory; *n says how many there are. */
static LatePoint *
take_pending_points(SubTransactionId subid, int *n)
{
	LatePoint *points = palloc_extended(sizeof(LatePoint) * (hash_get_num_entries(pending) + 1),
										MCXT_ALLOC_HUGE);
	HASH_SEQ_STATUS seq;
	PendingPoint *p;

	*n = 0;
	hash_seq_init(&seq, pending);
	while ((p = hash_seq_search(&seq)) != NULL)
	{
		PendingSeries *s;

		if (p->key.subid != subid)
			continue;
		s = hash_search(pending_series, &p->key.series_id, HASH_FIND, NULL);
		s->observations += p->point.count;
		points[*n].series_id = p->key.series_id;
		points[*n].point = p->point;
		(*n)++;
		hash_search(pending, &p->key, HASH_REMOVE, NULL);
	}
	return points;
}

/* Announce the series of the points that were taken. */
static void
announce_series(void)
{
	int n = hash_get_num_entries(pending_series);
	CatalogEntry *entries = palloc_extended(sizeof(CatalogEntry) * (n + 1), MCXT_ALLOC_HUGE);
	HASH_SEQ_STATUS seq;
	PendingSeries *s;

	n = 0;
	hash_seq_init(&seq, pending_series);
	while ((s = hash_seq_search(&seq)) != NULL)
	{
		if (s->observations == 0)
			continue; /* of another subtransaction, or one that was rolled back */
		entries[n].series_id = s->key.id;
		entries[n].metric = s->key.metric;
		entries[n].kind = s->key.kind;
		entries[n].labels = s->key.labels;
		entries[n].observations = s->observations;
		s->observations = 0;
		n++;
	}
	mon_catalog_announce(entries, n);
}

/*
 * Write as the owner of the tables: callers need no right to them.  A
 * transaction that was set read-only after it had recorded keeps what it has,
 * as it keeps the rows it wrote.
 */
static void
write_pending(void)
{
	OwnerScope caller;
	bool read_only = XactReadOnly;
	LatePoint *points;
	int n;

	if (!pending)
		return;
	XactReadOnly = false; /* an error restores it with the (sub)transaction */
	mon_become_owner(&caller);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	points = take_pending_points(GetCurrentSubTransactionId(), &n);
	announce_series();
	mon_late_write(points, n);
	SPI_finish();
	PopActiveSnapshot();
	mon_restore_caller(&caller);
	XactReadOnly = read_only;
	if (hash_get_num_entries(pending) == 0)
		forget_pending();
}

void
mon_late_observe(const MonSeriesKey *key, int scale, TimestampTz at, double value)
{
	PendingKey k;
	PendingPoint *p;
	MonPoint one;
	ExpoAllocator alloc;
	bool found;

	if (!pending)
		begin_pending();
	alloc = mon_palloc_allocator(pending_cxt);
	memset(&k, 0, sizeof(k));
	k.series_id = key->id;
	k.minute = mon_floor_time(at, USECS_PER_MINUTE);
	k.subid = GetCurrentSubTransactionId();
	p = hash_search(pending, &k, HASH_ENTER, &found);
	if (!found)
	{
		p->series = *remember_series(key);
		mon_point_init(&p->point, key->kind);
		expo_init(&p->point.sketch, scale);
	}

	mon_point_init(&one, key->kind);
	one.start = one.first_at = one.last_at = at;
	one.count = 1;
	one.sum = one.min = one.max = one.first = one.last = value;
	mon_point_merge(&p->point, &one, false, &alloc);
	if (key->kind == MON_DISTRIBUTION)
		expo_add(&p->point.sketch, value, 1, &alloc);

	/* While other processes work for this statement, nothing can be written. */
	if (hash_get_num_entries(pending) >= MAX_PENDING && !IsInParallelMode())
		write_pending();
}

void
mon_late_each(void (*fn)(const MonSeriesKey *key, const MonPoint *point, void *arg), void *arg)
{
	HASH_SEQ_STATUS seq;
	PendingPoint *p;

	if (!pending)
		return;
	hash_seq_init(&seq, pending);
	while ((p = hash_seq_search(&seq)) != NULL)
		fn(&p->series, &p->point, arg);
}

/* ---- end of transactions ---- */

static void
late_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		write_pending();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE || event == XACT_EVENT_ABORT)
	{
		pending_cxt = NULL; /* it goes with the transaction */
		pending = NULL;
		pending_series = NULL;
	}
}

/* A subtransaction's points become its parent's, or go. */
static void
end_pending(SubTransactionId subid, SubTransactionId parent, bool commit)
{
	ExpoAllocator alloc = mon_palloc_allocator(pending_cxt);
	HASH_SEQ_STATUS seq;
	PendingPoint *p;

	hash_seq_init(&seq, pending);
	while ((p = hash_seq_search(&seq)) != NULL)
	{
		if (p->key.subid != subid)
			continue;
		if (commit)
		{
			PendingKey k = p->key;
			PendingPoint *outer;
			bool found;

			k.subid = parent;
			outer = hash_search(pending, &k, HASH_ENTER, &found);
			if (!found)
			{
				outer->series = p->series;
				mon_point_init(&outer->point, p->point.kind);
			}
			mon_point_merge(&outer->point, &p->point, true, &alloc);
		}
		expo_free(&p->point.sketch, &alloc);
		hash_search(pending, &p->key, HASH_REMOVE, NULL);
	}
}

static void
late_at_subend(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
			   void *arg)
{
	bool commit = event == SUBXACT_EVENT_PRE_COMMIT_SUB;

	if (!commit && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	if (pending)
		end_pending(mySubid, parentSubid, commit);
}

void
mon_late_init(void)
{
	mon_transaction_register(&late_part, late_at_end, late_at_subend);
}
