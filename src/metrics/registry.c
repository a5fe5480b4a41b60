/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  The shared registry of live series: find, create, add, seal, reclaim.
 *
 * Locks are described in metrics_internal.h.  What transaction callbacks call
 * (mon_registry_add, _series, _db, _drop_sealed) raises no error and allocates
 * no backend memory.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"

#define SERIES_LOCKS 128
#define METRIC_BUCKETS 4096
#define BYTES_PER_SERIES_BUCKET 1024
#define SERIES_IDLE_USECS (15 * 60 * USECS_PER_SEC) /* reclaimed when idle for longer */

enum
{
	LOCK_SEAL,
	LOCK_INDEX,
	LOCK_MEMORY,
	LOCK_FIRST_SERIES,
	LOCK_COUNT = LOCK_FIRST_SERIES + SERIES_LOCKS
};

typedef struct Registry
{
	pg_atomic_uint32 tick;      /* moves when a reader wants recent data */
	pg_atomic_uint32 room_tick; /* moves when metrics may have room for more series */
	pg_atomic_uint32 kind_tick; /* moves when metrics may come back with another kind */
	uint32 next_lockno;
	uint32 series_mask;
	MonStart start;          /* fixed, like the next */
	TimestampTz started_at;  /* this life of shared memory began */
	TimestampTz promoted_at; /* first use after recovery, of a standby that was (seal lock) */
	MonDb *dbs;
	MonSeries *free_series;
	MonMetric *free_metrics;
	MonMetric *metrics[METRIC_BUCKETS];
	MonSeries *series[FLEXIBLE_ARRAY_MEMBER];
} Registry;

static Registry *registry = NULL;
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

	registry = ShmemInitStruct("monitoring registry", registry_size(), &found);
	area = (char *) registry + registry_header_size();
	locks = slice_locks;
	if (!found)
	{
		memset(registry, 0, registry_header_size());
		pg_atomic_init_u32(&registry->tick, 0);
		pg_atomic_init_u32(&registry->room_tick, 0);
		pg_atomic_init_u32(&registry->kind_tick, 0);
		registry->series_mask = series_buckets() - 1;
		mon_memory_setup(area, registry_size() - registry_header_size());
	}
	mon_memory_attach(area, &locks[LOCK_MEMORY].lock);
	if (!found)
	{
		registry->started_at = GetCurrentTimestamp();
		registry->start = mon_residue_init();
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
	return pg_atomic_read_u32(&registry->tick);
}

void
mon_registry_bump_tick(void)
{
	pg_atomic_fetch_add_u32(&registry->tick, 1);
}

uint32
mon_registry_room_tick(void)
{
	return pg_atomic_read_u32(&registry->room_tick);
}

uint32
mon_registry_kind_tick(void)
{
	return pg_atomic_read_u32(&registry->kind_tick);
}

void
mon_registry_bump_kind_tick(void)
{
	pg_atomic_fetch_add_u32(&registry->kind_tick, 1);
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

static MonDb *
find_db(Oid dboid)
{
	MonDb *db = registry->dbs;

	while (db && db->dboid != dboid)
		db = db->next;
	return db;
}

static void
reset_db(MonDb *db, Oid dboid)
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
	pg_atomic_init_u64(&db->flushes, 0);
	pg_atomic_init_u64(&db->slots_merged, 0);
}

static MonDb *
find_or_create_db(Oid dboid)
{
	MonDb *db = find_db(dboid);

	if (db)
		return db;
	db = find_db(InvalidOid); /* of a database that is gone */
	if (!db)
	{
		db = alloc_zeroed(sizeof(MonDb), true);
		if (!db)
			return NULL;
		db->next = registry->dbs;
		registry->dbs = db;
	}
	reset_db(db, dboid);
	return db;
}

/* The counters of a database, made on first use; NULL only when there is no memory at all. */
MonDb *
mon_registry_db(Oid dboid)
{
	MonDb *db;

	mon_index_lock(LW_SHARED);
	db = find_db(dboid);
	mon_index_unlock();
	if (!db)
	{
		mon_index_lock(LW_EXCLUSIVE);
		db = find_or_create_db(dboid);
		mon_index_unlock();
	}
	return db;
}

/*
 * After a promotion tables can be written from the first call on, which is the
 * first flush in any database.
 */
MonStart
mon_registry_start(TimestampTz *writable_since)
{
	*writable_since = registry->started_at;
	if (registry->start == START_STANDBY || registry->start == START_RESTORE)
	{
		mon_seal_lock(LW_EXCLUSIVE);
		if (registry->promoted_at == 0)
			registry->promoted_at = GetCurrentTimestamp();
		*writable_since = registry->promoted_at;
		mon_seal_unlock();
	}
	return registry->start;
}

/* ---- metrics ---- */

static MonMetric **
metric_bucket(const char *name, Oid dboid)
{
	uint32 h = hash_bytes((const unsigned char *) name, strlen(name));

	return &registry->metrics[hash_combine(h, dboid) % METRIC_BUCKETS];
}

/* Index lock held. */
MonMetric *
mon_registry_find_metric(const char *name, Oid dboid)
{
	MonMetric *m = *metric_bucket(name, dboid);

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
	MonMetric **bucket = metric_bucket(name, own_db());
	MonMetric *m = registry->free_metrics;

	if (m)
	{
		registry->free_metrics = m->next;
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
			pg_atomic_fetch_add_u32(&registry->room_tick, 1);
		}
	}
	mon_index_unlock();
}

/* A metric without series costs memory; one with a definition of its own stays. */
static bool
metric_is_idle(MonMetric *m)
{
	bool idle = !m->series && m->definers == 0 && m->max_series == 0 &&
		m->scale == EXPO_DEFAULT_SCALE;
	bool was_idle = m->idle;

	m->idle = idle;
	return idle && was_idle;
}

static void
free_metric(MonMetric *m)
{
	m->dboid = InvalidOid;
	m->next = registry->free_metrics;
	registry->free_metrics = m;
}

/* ---- series ---- */

static MonSeries **
series_bucket(int64 id, Oid dboid)
{
	return &registry->series[hash_combine((uint32) id, dboid) & registry->series_mask];
}

static MonSeries *
find_series(int64 id)
{
	MonSeries *s = *series_bucket(id, own_db());

	while (s && (s->id != id || s->dboid != own_db()))
		s = s->next;
	return s;
}

static MonSeries *
take_series_struct(bool reserve)
{
	MonSeries *s = registry->free_series;
	uint32 lockno;

	if (s)
	{
		registry->free_series = s->next;
		lockno = s->lockno; /* fixed for the life of the struct */
	}
	else
	{
		if ((s = alloc_zeroed(sizeof(MonSeries), reserve)) == NULL)
			return NULL;
		lockno = registry->next_lockno++ % SERIES_LOCKS;
	}
	memset(s, 0, sizeof(MonSeries));
	s->lockno = lockno;
	return s;
}

static MonSeries *
create_series(MonMetric *metric, int64 id, const Jsonb *labels, bool overflow)
{
	MonSeries **bucket = series_bucket(id, own_db());
	MonDb *db = find_or_create_db(own_db());
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
	metric->series = s;
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
	s = find_series(key->id);
	mon_index_unlock();
	if (s)
		return s;

	mon_index_lock(LW_EXCLUSIVE);
	s = find_series(key->id);
	if (!s && (metric = find_or_create_metric(key)) != NULL)
	{
		int limit = metric->max_series > 0 ? metric->max_series : mon_max_series;

		if (metric->nseries < limit && key->id != overflow_id(metric->name))
			s = create_series(metric, key->id, key->labels, false);
		if (!s)
			s = overflow_series(metric);
	}
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

/* The rest of a delta that its own series had no memory for. */
static bool
add_to_overflow(MonSeries *series, MonDelta *rest, TimestampTz now)
{
	MonSeries *overflow = NULL;
	bool done = false;

	mon_index_lock(LW_EXCLUSIVE);
	if (series->dboid == own_db())
		overflow = overflow_series(series->metric);
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
	if (series->dboid != own_db() || (series->id != key->id && !is_overflow) ||
		series->kind != key->kind || strcmp(series->metric->name, key->metric) != 0)
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
	if (done)
		return true;

	left = delta_count(&rest);
	if (!is_overflow && add_to_overflow(series, &rest, now))
		pg_atomic_fetch_add_u64(&db->overflow, left);
	else
		pg_atomic_fetch_add_u64(&db->dropped, delta_count(&rest));
	return true;
}

/* ---- traversal, reclaiming ---- */

void
mon_registry_each(Oid dboid, void (*fn)(MonSeries *series, void *arg), void *arg)
{
	for (int i = 0; i < METRIC_BUCKETS; i++)
		for (MonMetric *m = registry->metrics[i]; m; m = m->next)
			if (m->dboid == dboid)
				for (MonSeries *s = m->series; s; s = s->next_in_metric)
					fn(s, arg);
}

typedef struct DropSealed
{
	uint64 seq;
	int max_slots; /* of a series; beyond, sealed ones are merged */
} DropSealed;

static void
drop_sealed(MonSeries *s, void *arg)
{
	const DropSealed *drop = arg;
	uint64 seq = drop->seq;
	MonSlot **link = &s->slots;

	if (s->slots == NULL && s->persisted)
		return;
	mon_series_lock(s, LW_EXCLUSIVE);
	while (*link)
	{
		MonSlot *slot = *link;

		if (slot->seq > 0 && slot->seq <= seq)
		{
			pg_atomic_fetch_add_u64(&s->db->persisted,
									s->kind == MON_DISTRIBUTION ? slot->sketch.count : slot->count);
			*link = slot->older;
			mon_slot_free(s, slot);
		}
		else
			link = &slot->older;
	}
	if (s->persist_seq > 0 && s->persist_seq <= seq)
		s->persisted = true;
	while (s->nslots > drop->max_slots && mon_slots_merge_oldest(s, true))
		;
	mon_series_unlock(s);
}

/*
 * Called by who holds the flush lock: nobody else reads sealed slots without a
 * lock.  While flushes fail, every one of them seals what has come since; before
 * that fills memory, series make do with one sealed slot.
 */
void
mon_registry_drop_sealed(Oid dboid, uint64 seq)
{
	DropSealed drop = {seq, MAX_SLOTS};
	Size used, total;

	mon_memory_usage(&used, &total);
	if (used > total / 4 * 3)
		drop.max_slots = 1;
	mon_index_lock(LW_SHARED);
	mon_registry_each(dboid, drop_sealed, &drop);
	mon_index_unlock();
}

/* Give a series back; it is already off its metric's list.  Index lock held exclusively. */
static void
free_series(MonSeries *s)
{
	MonSeries **link = series_bucket(s->id, s->dboid);

	while (*link != s)
		link = &(*link)->next;
	*link = s->next;

	mon_series_lock(s, LW_EXCLUSIVE);
	while (s->slots)
	{
		MonSlot *slot = s->slots;

		s->slots = slot->older;
		mon_slot_free(s, slot);
	}
	if (s->metric->overflow == s)
		s->metric->overflow = NULL;
	else
		s->metric->nseries--;
	mon_memory_free(s->labels, VARSIZE(s->labels));
	s->labels = NULL;
	s->dboid = InvalidOid;
	s->next = registry->free_series;
	registry->free_series = s;
	mon_series_unlock(s);
}

void
mon_registry_forget_series(int64 id)
{
	MonSeries *s;
	MonSeries **link;

	mon_index_lock(LW_EXCLUSIVE);
	s = find_series(id);
	if (s && s->slots == NULL)
	{
		for (link = &s->metric->series; *link != s; link = &(*link)->next_in_metric)
			;
		*link = s->next_in_metric;
		free_series(s);
	}
	else if (s)
	{
		mon_series_lock(s, LW_EXCLUSIVE);
		s->persisted = false;
		s->persist_seq = 0;
		mon_series_unlock(s);
	}
	mon_index_unlock();
}

/* The databases that something was recorded in; palloc'd. */
List *
mon_registry_databases(void)
{
	List *result = NIL;

	mon_index_lock(LW_SHARED);
	for (MonDb *db = registry->dbs; db; db = db->next)
		if (OidIsValid(db->dboid))
			result = lappend_oid(result, db->dboid);
	mon_index_unlock();
	return result;
}

/*
 * Forget everything of a database that was dropped (gone), or whose extension
 * was: then its counters start again, in the same place, since its backends
 * may hold pointers to it.
 */
void
mon_registry_forget(Oid dboid, bool gone)
{
	MonDb *db;

	mon_seal_lock(LW_EXCLUSIVE);
	mon_index_lock(LW_EXCLUSIVE);
	for (int i = 0; i < METRIC_BUCKETS; i++)
	{
		MonMetric **link = &registry->metrics[i];

		while (*link)
		{
			MonMetric *m = *link;

			if (m->dboid != dboid)
			{
				link = &m->next;
				continue;
			}
			while (m->series)
			{
				MonSeries *s = m->series;

				m->series = s->next_in_metric;
				free_series(s);
			}
			*link = m->next;
			free_metric(m);
		}
	}
	db = gone ? find_db(dboid) : find_or_create_db(dboid);
	if (db)
	{
		reset_db(db, gone ? InvalidOid : dboid);
		db->gap_checked = true; /* a new extension has lost nothing */
	}
	mon_index_unlock();
	mon_seal_unlock();
	mon_registry_bump_kind_tick();
}

/* Whether a series can be reclaimed: idle, and safely stored or never used at all. */
static bool
series_is_idle(const MonSeries *s, TimestampTz now)
{
	return s->slots == NULL && (s->persisted || s->persist_seq == 0) &&
		s->last_used < now - SERIES_IDLE_USECS;
}

static void
sweep_metric(MonMetric *m, TimestampTz now)
{
	MonSeries **link = &m->series;

	while (*link)
	{
		MonSeries *s = *link;

		if (series_is_idle(s, now))
		{
			*link = s->next_in_metric;
			free_series(s);
			pg_atomic_fetch_add_u32(&registry->room_tick, 1);
		}
		else
			link = &s->next_in_metric;
	}
}

/* Reclaim what has been idle: series, then metrics without any. */
void
mon_registry_sweep(TimestampTz now)
{
	mon_index_lock(LW_EXCLUSIVE);
	for (int i = 0; i < METRIC_BUCKETS; i++)
	{
		MonMetric **link = &registry->metrics[i];

		while (*link)
		{
			MonMetric *m = *link;

			sweep_metric(m, now);
			if (metric_is_idle(m))
			{
				*link = m->next;
				free_metric(m);
			}
			else
				link = &m->next;
		}
	}
	mon_index_unlock();
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
	if ((db = find_db(dboid)) != NULL)
		*persisted = pg_atomic_read_u64(&db->persisted);
	for (int i = 0; i < METRIC_BUCKETS; i++)
		for (MonMetric *m = registry->metrics[i]; m; m = m->next)
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
	for (MonDb *db = registry->dbs; db; db = db->next)
		if (OidIsValid(db->dboid))
			fn(db, arg);
}

void
mon_registry_restore_db(Oid dboid, uint64 next_seq)
{
	MonDb *db = find_or_create_db(dboid);

	if (db)
		db->next_seq = next_seq;
}

void
mon_registry_restore_lost(Oid dboid, uint64 n)
{
	MonDb *db = find_db(dboid);

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
