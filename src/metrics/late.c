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

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
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
} PendingSeries;

/* In pending_cxt, a child of TopTransactionContext; NULL when there is none. */
static MemoryContext pending_cxt = NULL;
static HTAB *pending = NULL;
static HTAB *pending_series = NULL;

/* Observations that a subtransaction has written, in TopTransactionContext. */
typedef struct Written
{
	struct Written *next;
	SubTransactionId subid;
	uint64 count;
} Written;

static Written *written = NULL;

/* ---- catalogs ---- */

static int
compare_entries(const void *a, const void *b)
{
	int64 x = ((const CatalogEntry *) a)->series_id;
	int64 y = ((const CatalogEntry *) b)->series_id;

	return x < y ? -1 : x > y;
}

/* In order of the ids, so that two writers cannot wait for each other in a circle. */
void
mon_catalog_write(CatalogEntry *entries, int n)
{
	Oid types[4] = {INT8ARRAYOID, TEXTARRAYOID, INT2ARRAYOID, JSONBARRAYOID};
	Datum values[4];
	Datum *column[4];

	if (n == 0)
		return;
	qsort(entries, n, sizeof(CatalogEntry), compare_entries);
	for (int c = 0; c < 4; c++)
		column[c] = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		column[0][i] = Int64GetDatum(entries[i].series_id);
		column[1][i] = CStringGetTextDatum(entries[i].metric);
		column[2][i] = Int16GetDatum(entries[i].kind);
		column[3][i] = JsonbPGetDatum(entries[i].labels);
	}
	values[0] = PointerGetDatum(construct_array(column[0], n, INT8OID, 8, true, 'd'));
	values[1] = PointerGetDatum(construct_array(column[1], n, TEXTOID, -1, false, 'i'));
	values[2] = PointerGetDatum(construct_array(column[2], n, INT2OID, 2, true, 's'));
	values[3] = PointerGetDatum(construct_array(column[3], n, JSONBOID, -1, false, 'i'));

	mon_storage_execute("INSERT INTO monitoring.metric_catalog (metric, kind) "
						"SELECT DISTINCT ON (m) m, k FROM unnest($2, $3) AS u(m, k) ORDER BY m "
						"ON CONFLICT (metric) DO NOTHING",
						4, types, values);
	mon_storage_execute("INSERT INTO monitoring.series_catalog (series_id, metric, labels) "
						"SELECT i, m, l FROM unnest($1, $2, $4) AS u(i, m, l) ORDER BY i "
						"ON CONFLICT (series_id) DO NOTHING",
						4, types, values);
}

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

/* ---- what was written, for the account ---- */

static void
add_written(SubTransactionId subid, uint64 count)
{
	Written *w = written;

	while (w && w->subid != subid)
		w = w->next;
	if (!w)
	{
		w = MemoryContextAllocZero(TopTransactionContext, sizeof(Written));
		w->subid = subid;
		w->next = written;
		written = w;
	}
	w->count += count;
}

/* A subtransaction ended: what it wrote is its parent's, or has gone. */
static void
end_written(SubTransactionId subid, SubTransactionId parent, bool commit)
{
	for (Written **link = &written; *link; link = &(*link)->next)
	{
		Written *w = *link;

		if (w->subid != subid)
			continue;
		*link = w->next;
		if (commit)
			add_written(parent, w->count);
		pfree(w);
		return;
	}
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
		s->key.labels = labels;
		s->key.metric = MemoryContextStrdup(pending_cxt, key->metric);
	}
	return &s->key;
}

static void
write_pending_catalog(void)
{
	int n = hash_get_num_entries(pending_series);
	CatalogEntry *entries = palloc_extended(sizeof(CatalogEntry) * (n + 1), MCXT_ALLOC_HUGE);
	HASH_SEQ_STATUS seq;
	PendingSeries *s;

	n = 0;
	hash_seq_init(&seq, pending_series);
	while ((s = hash_seq_search(&seq)) != NULL)
	{
		entries[n].series_id = s->key.id;
		entries[n].metric = s->key.metric;
		entries[n].kind = s->key.kind;
		entries[n].labels = s->key.labels;
		n++;
	}
	mon_catalog_write(entries, n);
}

/* Take the points of a subtransaction out of memory and write them. */
static void
write_pending_points(SubTransactionId subid)
{
	LatePoint *points = palloc_extended(sizeof(LatePoint) * (hash_get_num_entries(pending) + 1),
										MCXT_ALLOC_HUGE);
	HASH_SEQ_STATUS seq;
	PendingPoint *p;
	uint64 count = 0;
	int n = 0;

	hash_seq_init(&seq, pending);
	while ((p = hash_seq_search(&seq)) != NULL)
	{
		if (p->key.subid != subid)
			continue;
		points[n].series_id = p->key.series_id;
		points[n].point = p->point;
		count += p->point.count;
		n++;
		hash_search(pending, &p->key, HASH_REMOVE, NULL);
	}
	mon_late_write(points, n);
	add_written(subid, count);
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

	if (!pending)
		return;
	XactReadOnly = false; /* an error restores it with the (sub)transaction */
	mon_become_owner(&caller);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	write_pending_catalog();
	write_pending_points(GetCurrentSubTransactionId());
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
	one.start = one.last_at = at;
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
count_written(void)
{
	MonDb *db = written ? mon_registry_db(MyDatabaseId) : NULL;

	for (Written *w = written; db && w; w = w->next)
	{
		pg_atomic_fetch_add_u64(&db->accepted, w->count);
		pg_atomic_fetch_add_u64(&db->persisted, w->count);
	}
}

static void
late_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		write_pending();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		count_written();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE || event == XACT_EVENT_ABORT)
	{
		written = NULL; /* these go with the transaction */
		pending_cxt = NULL;
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
late_subxact_callback(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
					  void *arg)
{
	bool commit = event == SUBXACT_EVENT_PRE_COMMIT_SUB;

	if (!commit && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	if (pending)
		end_pending(mySubid, parentSubid, commit);
	end_written(mySubid, parentSubid, commit);
}

void
mon_late_init(void)
{
	RegisterXactCallback(late_xact_callback, NULL);
	RegisterSubXactCallback(late_subxact_callback, NULL);
}
