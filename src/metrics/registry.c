/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  The shared registry of live series: find, create, add, count; what has gone
 *	  is reclaimed by reclaim.c.
 *
 * Locks are described in metrics_internal.h.  What transaction callbacks call
 * (mon_registry_add, _series, _db, _drop_sealed) raises no error and allocates
 * no backend memory.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/registry_internal.h"

#include <math.h>

#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"

#define SERIES_LOCKS 128
#define BYTES_PER_SERIES_BUCKET 1024

enum
{
	LOCK_SEAL,
	LOCK_INDEX,
	LOCK_MEMORY,
	LOCK_FIRST_SERIES,
	LOCK_COUNT = LOCK_FIRST_SERIES + SERIES_LOCKS
};

Registry *mon_registry = NULL;
static LWLockPadded *locks = NULL;
/* While the postmaster restores what a stop has left. */
static Oid restoring_db = InvalidOid;

static inline Oid
own_db(void)
{
	return OidIsValid(restoring_db) ? restoring_db : MyDatabaseId;
}

static Size
series_buckets(void)
{
	return pg_nextpower2_64((Size) mon_shared_memory * 1024 / BYTES_PER_SERIES_BUCKET);
}

static Size
registry_header_size(void)
{
	return MAXALIGN(offsetof(Registry, series) + series_buckets() * sizeof(MonSeries *));
}

static Size
registry_size(void)
{
	Size area = (Size) mon_shared_memory * 1024;

	return registry_header_size() + area + mon_memory_overhead(area);
}

static void
registry_shmem_init(LWLockPadded *slice_locks)
{
	bool found;
	char *area;

	mon_registry = ShmemInitStruct("monitoring registry", registry_size(), &found);
	area = (char *) mon_registry + registry_header_size();
	locks = slice_locks;
	if (!found)
	{
		memset(mon_registry, 0, registry_header_size());
		pg_atomic_init_u32(&mon_registry->tick, 0);
		pg_atomic_init_u32(&mon_registry->room_tick, 0);
		pg_atomic_init_u32(&mon_registry->kind_tick, 0);
		mon_registry->series_mask = series_buckets() - 1;
		mon_memory_setup(area, registry_size() - registry_header_size());
	}
	mon_memory_attach(area, &locks[LOCK_MEMORY].lock);
	if (!found)
	{
		mon_registry->started_at = GetCurrentTimestamp();
		mon_registry->start = mon_residue_init();
	}
}

void
mon_registry_init(void)
{
	MonShmemSlice slice = {"monitoring registry", registry_size, registry_shmem_init, LOCK_COUNT};

	mon_shmem_register(&slice);
}

/* ---- locks ---- */

void
mon_seal_lock(LWLockMode mode)
{
	LWLockAcquire(&locks[LOCK_SEAL].lock, mode);
}

void
mon_seal_unlock(void)
{
	LWLockRelease(&locks[LOCK_SEAL].lock);
}

void
mon_index_lock(LWLockMode mode)
{
	LWLockAcquire(&locks[LOCK_INDEX].lock, mode);
}

void
mon_index_unlock(void)
{
	LWLockRelease(&locks[LOCK_INDEX].lock);
}

void
mon_series_lock(const MonSeries *series, LWLockMode mode)
{
	LWLockAcquire(&locks[LOCK_FIRST_SERIES + series->lockno].lock, mode);
}

void
mon_series_unlock(const MonSeries *series)
{
	LWLockRelease(&locks[LOCK_FIRST_SERIES + series->lockno].lock);
}

/* ---- the tick: a reader's wish for recent data ---- */

uint32
mon_registry_tick(void)
{
	return pg_atomic_read_u32(&mon_registry->tick);
}

void
mon_registry_bump_tick(void)
{
	pg_atomic_fetch_add_u32(&mon_registry->tick, 1);
}

uint32
mon_registry_room_tick(void)
{
	return pg_atomic_read_u32(&mon_registry->room_tick);
}

uint32
mon_registry_kind_tick(void)
{
	return pg_atomic_read_u32(&mon_registry->kind_tick);
}

void
mon_registry_bump_kind_tick(void)
{
	pg_atomic_fetch_add_u32(&mon_registry->kind_tick, 1);
}

/* ---- allocation of the type-stable structs (index lock held exclusively) ---- */

static void *
alloc_zeroed(Size size, bool reserve)
{
	Size actual;
	void *ptr = mon_memory_alloc(size, &actual, reserve);

	if (ptr)
		memset(ptr, 0, size);
	return ptr;
}

MonDb *
mon_db_find(Oid dboid)
{
	MonDb *db = mon_registry->dbs;

	while (db && db->dboid != dboid)
		db = db->next;
	return db;
}

void
mon_db_reset(MonDb *db, Oid dboid)
{
	db->dboid = dboid;
	db->next_seq = 0;
	db->since = GetCurrentTimestamp();
	db->gap_checked = false;
	pg_atomic_init_u64(&db->accepted, 0);
	pg_atomic_init_u64(&db->persisted, 0);
	pg_atomic_init_u64(&db->overflow, 0);
	pg_atomic_init_u64(&db->refused, 0);
	pg_atomic_init_u64(&db->dropped, 0);
	pg_atomic_init_u64(&db->expired, 0);
	pg_atomic_init_u64(&db->flushes, 0);
	pg_atomic_init_u64(&db->slots_merged, 0);
	pg_atomic_init_u64(&db->drops, 0);
	pg_atomic_init_u64(&db->prunes, 0);
}

MonDb *
mon_db_find_or_create(Oid dboid)
{
	MonDb *db = mon_db_find(dboid);

	if (db)
		return db;
	db = mon_db_find(InvalidOid); /* of a database that is gone */
	if (!db)
	{
		db = alloc_zeroed(sizeof(MonDb), true);
		if (!db)
			return NULL;
		db->next = mon_registry->dbs;
		mon_registry->dbs = db;
	}
	mon_db_reset(db, dboid);
	return db;
}

/* The counters of a database, made on first use; NULL only when there is no memory at all. */
MonDb *
mon_registry_db(Oid dboid)
{
	MonDb *db;

	mon_index_lock(LW_SHARED);
	db = mon_db_find(dboid);
	mon_index_unlock();
	if (!db)
	{
		mon_index_lock(LW_EXCLUSIVE);
		db = mon_db_find_or_create(dboid);
		mon_index_unlock();
	}
	return db;
}

uint64
mon_registry_next_seq(MonDb *db)
{
	uint64 seq;

	mon_seal_lock(LW_SHARED);
	seq = db->next_seq;
	mon_seal_unlock();
	return seq;
}

/*
 * After a promotion tables can be written from the first call on, which is the
 * first flush in any database.
 */
MonStart
mon_registry_start(TimestampTz *writable_since)
{
	*writable_since = mon_registry->started_at;
	if (mon_registry->start == START_STANDBY || mon_registry->start == START_RESTORE)
	{
		mon_seal_lock(LW_EXCLUSIVE);
		if (mon_registry->promoted_at == 0)
			mon_registry->promoted_at = GetCurrentTimestamp();
		*writable_since = mon_registry->promoted_at;
		mon_seal_unlock();
	}
	return mon_registry->start;
}

/* ---- metrics ---- */

MonMetric **
mon_metric_bucket(const char *name, Oid dboid)
{
	uint32 h = hash_bytes((const unsigned char *) name, strlen(name));

	return &mon_registry->metrics[hash_combine(h, dboid) % METRIC_BUCKETS];
}

/* Index lock held. */
MonMetric *
mon_registry_find_metric(const char *name, Oid dboid)
{
	MonMetric *m = *mon_metric_bucket(name, dboid);

	while (m && (m->dboid != dboid || strcmp(m->name, name) != 0))
		m = m->next;
	return m;
}

bool
mon_registry_definition(const char *name, MetricDefinition *def)
{
	MonMetric *m;
	bool known;

	mon_index_lock(LW_SHARED);
	m = mon_registry_find_metric(name, own_db());
	known = m && (m->series || m->definers > 0);
	if (known)
	{
		def->kind = m->kind;
		def->max_series = m->max_series;
		def->scale = m->scale;
	}
	mon_index_unlock();
	return known;
}

static MonMetric *
create_metric(const char *name, MonMetricKind kind, int max_series, int scale)
{
	MonMetric **bucket = mon_metric_bucket(name, own_db());
	MonMetric *m = mon_registry->free_metrics;

	if (m)
	{
		mon_registry->free_metrics = m->next;
		memset(m, 0, sizeof(MonMetric));
	}
	else if ((m = alloc_zeroed(sizeof(MonMetric), true)) == NULL)
		return NULL;

	m->dboid = own_db();
	m->kind = kind;
	m->max_series = max_series;
	m->scale = scale;
	strlcpy(m->name, name, sizeof(m->name));
	m->next = *bucket;
	*bucket = m;
	return m;
}

/* The metric of a key; NULL when it has another kind, or no memory. */
static MonMetric *
find_or_create_metric(const MonSeriesKey *key)
{
	MonMetric *m = mon_registry_find_metric(key->metric, own_db());

	if (!m)
		return create_metric(key->metric, key->kind, key->max_series, key->scale);
	if (!m->series && m->definers == 0)
		m->kind = key->kind;
	m->idle = false;
	return m->kind == key->kind ? m : NULL;
}

bool
mon_registry_pin(const char *name, const MetricDefinition *stored)
{
	MonMetric *m;

	mon_index_lock(LW_EXCLUSIVE);
	m = mon_registry_find_metric(name, own_db());
	if (!m)
		m = create_metric(name, stored->kind, stored->max_series, stored->scale);
	else if (!m->series && m->definers == 0)
		m->kind = stored->kind;
	if (m)
		m->definers++;
	mon_index_unlock();
	return m != NULL;
}

/* The transaction that pinned it ended: with a new definition, or without (NULL). */
void
mon_registry_unpin(const char *name, const MetricDefinition *def)
{
	MonMetric *m;

	mon_index_lock(LW_EXCLUSIVE);
	m = mon_registry_find_metric(name, own_db());
	if (m && m->definers > 0)
	{
		m->definers--;
		if (def)
		{
			m->max_series = def->max_series;
			m->scale = def->scale;
			m->full_logged = false;
			pg_atomic_fetch_add_u32(&mon_registry->room_tick, 1);
		}
	}
	mon_index_unlock();
}

/* ---- series ---- */

MonSeries **
mon_series_bucket(int64 id, Oid dboid)
{
	return &mon_registry->series[hash_combine((uint32) id, dboid) & mon_registry->series_mask];
}

MonSeries *
mon_series_find(int64 id)
{
	MonSeries *s = *mon_series_bucket(id, own_db());

	while (s && (s->id != id || s->dboid != own_db()))
		s = s->next;
	return s;
}

static MonSeries *
take_series_struct(bool reserve)
{
	MonSeries *s = mon_registry->free_series;
	uint32 lockno;

	if (s)
	{
		mon_registry->free_series = s->next;
		lockno = s->lockno; /* fixed for the life of the struct */
	}
	else
	{
		if ((s = alloc_zeroed(sizeof(MonSeries), reserve)) == NULL)
			return NULL;
		lockno = mon_registry->next_lockno++ % SERIES_LOCKS;
	}
	memset(s, 0, sizeof(MonSeries));
	s->lockno = lockno;
	return s;
}

void
mon_fresh_add(MonSeries *s)
{
	MonMetric *m = s->metric;

	if (s->fresh_link)
		return;
	s->next_fresh = m->fresh;
	s->fresh_link = &m->fresh;
	if (m->fresh)
		m->fresh->fresh_link = &s->next_fresh;
	m->fresh = s;
}

void
mon_fresh_remove(MonSeries *s)
{
	if (!s->fresh_link)
		return;
	*s->fresh_link = s->next_fresh;
	if (s->next_fresh)
		s->next_fresh->fresh_link = s->fresh_link;
	s->fresh_link = NULL;
}

static MonSeries *
create_series(MonMetric *metric, int64 id, const Jsonb *labels, bool overflow)
{
	MonSeries **bucket = mon_series_bucket(id, own_db());
	MonDb *db = mon_db_find_or_create(own_db());
	Size actual;
	Jsonb *copy;
	MonSeries *s;

	if (!db || (copy = mon_memory_alloc(VARSIZE(labels), &actual, overflow)) == NULL)
		return NULL;
	if ((s = take_series_struct(overflow)) == NULL)
	{
		mon_memory_free(copy, actual);
		return NULL;
	}
	memcpy(copy, labels, VARSIZE(labels));

	s->metric = metric;
	s->db = db;
	s->id = id;
	s->dboid = own_db();
	s->kind = metric->kind;
	s->last_used = GetCurrentTimestamp();
	s->is_overflow = overflow;
	s->labels = copy;
	s->next = *bucket;
	*bucket = s;
	s->next_in_metric = metric->series;
	if (metric->series)
		metric->series->prev_in_metric = s;
	metric->series = s;
	mon_fresh_add(s);
	if (overflow)
		metric->overflow = s;
	else
		metric->nseries++;
	return s;
}

/*
 * The labels {"overflow": "true"} as jsonb, spelt out here because this must
 * work where nothing may be allocated.
 */
const Jsonb *
mon_overflow_labels(void)
{
	static pg_attribute_aligned(8) char image[64];
	struct varlena *varlena = (struct varlena *) image;
	Jsonb *jsonb = (Jsonb *) image;

	if (jsonb->root.header == 0)
	{
		JEntry *entries = jsonb->root.children;

		entries[0] = JENTRY_ISSTRING | JENTRY_HAS_OFF | 8;
		entries[1] = JENTRY_ISSTRING | 4;
		memcpy((char *) &entries[2], "overflowtrue", 12);
		SET_VARSIZE(varlena, offsetof(Jsonb, root.children) + 2 * sizeof(JEntry) + 12);
		jsonb->root.header = JB_FOBJECT | 1;
	}
	return jsonb;
}

static int64
overflow_id(const char *metric)
{
	return mon_series_id(metric, strlen(metric), "{\"overflow\": \"true\"}", 20);
}

static MonSeries *
overflow_series(MonMetric *metric)
{
	if (!metric->overflow)
		(void) create_series(metric, overflow_id(metric->name), mon_overflow_labels(), true);
	return metric->overflow;
}

/* The series itself; NULL when there is no room for it, or it is the overflow series. */
static MonSeries *
find_or_create_series(const MonSeriesKey *key)
{
	MonSeries *s = mon_series_find(key->id);
	MonMetric *metric;
	int limit;

	if (s)
		return s;
	(void) mon_standby_make_room(false);
	if ((metric = find_or_create_metric(key)) == NULL)
		return NULL;
	limit = metric->max_series > 0 ? metric->max_series : mon_max_series;
	if (metric->nseries >= limit || key->id == overflow_id(metric->name))
		return NULL;
	return create_series(metric, key->id, key->labels, false);
}

/*
 * Find or make a series.  Over the metric's limit, or without memory, it is the
 * metric's overflow series; NULL when not even that can be had.
 */
MonSeries *
mon_registry_series(const MonSeriesKey *key)
{
	MonSeries *s;
	MonMetric *metric;

	mon_index_lock(LW_SHARED);
	s = mon_series_find(key->id);
	mon_index_unlock();
	if (s)
		return s;

	mon_index_lock(LW_EXCLUSIVE);
	s = find_or_create_series(key);
	if (!s && mon_standby_make_room(true))
		s = find_or_create_series(key);
	if (!s && (metric = find_or_create_metric(key)) != NULL)
		s = overflow_series(metric);
	mon_index_unlock();
	return s;
}

int
mon_registry_scale(MonSeries *series, const MonSeriesKey *key)
{
	int scale = key->scale;

	if (!series)
		return scale;
	mon_series_lock(series, LW_SHARED);
	if (series->dboid == own_db())
		scale = series->metric->scale;
	mon_series_unlock(series);
	return scale;
}

bool
mon_registry_first_overflow(MonSeries *series)
{
	bool first = false;

	mon_index_lock(LW_EXCLUSIVE);
	if (series->dboid == own_db() && series->is_overflow && !series->metric->full_logged)
		first = series->metric->full_logged = true;
	mon_index_unlock();
	return first;
}

/* ---- adding observations ---- */

static uint64
delta_count(const MonDelta *d)
{
	return d->sketch ? d->sketch->count : d->values ? (uint64) d->nvalues : d->count;
}

/* Whether a series is still the one that a backend remembers; series lock held. */
static bool
is_series_of(const MonSeries *series, const MonSeriesKey *key)
{
	return series->dboid == own_db() && (series->id == key->id || series->is_overflow) &&
		series->kind == key->kind && strcmp(series->metric->name, key->metric) == 0;
}

/* On a standby there may be memory to be had from what has expired. */
static bool
add_with_room(MonSeries *series, const MonSeriesKey *key, MonDelta *rest, TimestampTz now)
{
	bool done = false;

	if (!RecoveryInProgress())
		return false;
	mon_index_lock(LW_EXCLUSIVE);
	if (mon_standby_make_room(true))
	{
		mon_series_lock(series, LW_EXCLUSIVE);
		if (is_series_of(series, key))
			done = mon_slots_add(series, rest, now);
		mon_series_unlock(series);
	}
	mon_index_unlock();
	return done;
}

/* The rest of a delta that its own series had no memory for. */
static bool
add_to_overflow(const MonSeriesKey *key, MonDelta *rest, TimestampTz now)
{
	MonMetric *metric;
	MonSeries *overflow = NULL;
	bool done = false;

	mon_index_lock(LW_EXCLUSIVE);
	/* The series may have been reclaimed, and stand for something else by now. */
	metric = mon_registry_find_metric(key->metric, own_db());
	if (metric && metric->kind == key->kind)
		overflow = overflow_series(metric);
	if (overflow)
	{
		mon_series_lock(overflow, LW_EXCLUSIVE);
		done = mon_slots_add(overflow, rest, now);
		mon_series_unlock(overflow);
	}
	mon_index_unlock();
	return done;
}

/*
 * Add observations to a series.  False when `series` was reclaimed meanwhile
 * (the caller looks it up again).  What cannot be stored for lack of memory
 * goes to the overflow series, or is counted as dropped.
 */
bool
mon_registry_add(MonSeries *series, const MonSeriesKey *key, const MonDelta *delta, TimestampTz now)
{
	MonDelta rest = *delta;
	uint64 n = delta_count(delta);
	uint64 left;
	MonDb *db;
	bool is_overflow;
	bool done;

	mon_series_lock(series, LW_EXCLUSIVE);
	is_overflow = series->is_overflow;
	if (!is_series_of(series, key))
	{
		mon_series_unlock(series);
		return false;
	}
	db = series->db;
	done = mon_slots_add(series, &rest, now);
	mon_series_unlock(series);

	pg_atomic_fetch_add_u64(&db->accepted, n);
	if (is_overflow)
		pg_atomic_fetch_add_u64(&db->overflow, n);
	if (done || add_with_room(series, key, &rest, now))
		return true;

	left = delta_count(&rest);
	if (!is_overflow && add_to_overflow(key, &rest, now))
		pg_atomic_fetch_add_u64(&db->overflow, left);
	else
		pg_atomic_fetch_add_u64(&db->dropped, delta_count(&rest));
	return true;
}

/* ---- traversal ---- */

void
mon_registry_each(Oid dboid, void (*fn)(MonSeries *series, void *arg), void *arg)
{
	for (int i = 0; i < METRIC_BUCKETS; i++)
		for (MonMetric *m = mon_registry->metrics[i]; m; m = m->next)
			if (m->dboid == dboid)
				for (MonSeries *s = m->series; s; s = s->next_in_metric)
					fn(s, arg);
}

/* The databases that something was recorded in; palloc'd. */
List *
mon_registry_databases(void)
{
	List *result = NIL;

	mon_index_lock(LW_SHARED);
	for (MonDb *db = mon_registry->dbs; db; db = db->next)
		if (OidIsValid(db->dboid))
			result = lappend_oid(result, db->dboid);
	mon_index_unlock();
	return result;
}

/*
 * Count what a database has in memory.  The index lock is held exclusively, and
 * `persisted` read under it, so that no flush moves slots between the two.
 */
void
mon_registry_counts(Oid dboid, int64 *metrics, int64 *series, int64 *slots, int64 *pending,
					int64 *persisted)
{
	MonDb *db;

	*metrics = *series = *slots = *pending = *persisted = 0;
	mon_index_lock(LW_EXCLUSIVE);
	if ((db = mon_db_find(dboid)) != NULL)
		*persisted = pg_atomic_read_u64(&db->persisted);
	for (int i = 0; i < METRIC_BUCKETS; i++)
		for (MonMetric *m = mon_registry->metrics[i]; m; m = m->next)
		{
			if (m->dboid != dboid)
				continue;
			(*metrics)++;
			for (MonSeries *s = m->series; s; s = s->next_in_metric)
			{
				(*series)++;
				mon_series_lock(s, LW_SHARED);
				for (MonSlot *slot = s->slots; slot; slot = slot->older)
				{
					(*slots)++;
					*pending += s->kind == MON_DISTRIBUTION ? slot->sketch.count : slot->count;
				}
				mon_series_unlock(s);
			}
		}
	mon_index_unlock();
}

/* ---- what a stop has left: see residue.c ---- */

void
mon_registry_each_db(void (*fn)(MonDb *db, void *arg), void *arg)
{
	for (MonDb *db = mon_registry->dbs; db; db = db->next)
		if (OidIsValid(db->dboid))
			fn(db, arg);
}

void
mon_registry_restore_db(Oid dboid, uint64 next_seq)
{
	MonDb *db = mon_db_find_or_create(dboid);

	if (db)
		db->next_seq = next_seq;
}

void
mon_registry_restore_lost(Oid dboid, uint64 n)
{
	MonDb *db = mon_db_find(dboid);

	if (db)
	{
		pg_atomic_fetch_add_u64(&db->accepted, n);
		pg_atomic_fetch_add_u64(&db->dropped, n);
	}
}

/* NULL when there is no memory for it. */
MonSeries *
mon_registry_restore_series(Oid dboid, const MonSeriesKey *key, bool overflow)
{
	MonMetric *metric;
	MonSeries *s = NULL;

	restoring_db = dboid;
	metric = find_or_create_metric(key);
	if (metric)
		s = create_series(metric, key->id, key->labels, overflow);
	restoring_db = InvalidOid;
	return s;
}
