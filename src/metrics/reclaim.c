/*-------------------------------------------------------------------------
 *
 * reclaim.c
 *	  What leaves the registry: slots that are stored, series and metrics that
 *	  nobody uses, databases that are gone, and what expires on a standby.
 *
 * Locks are described in metrics_internal.h.  Nothing here raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/registry_internal.h"

#include "access/xlog.h"
#include "utils/timestamp.h"

#define BUCKETS_PER_LOCK 64 /* of metrics, walked without letting others in */
#define SERIES_IDLE_USECS (15 * 60 * USECS_PER_SEC) /* reclaimed when idle for longer */

/* Buckets of series that a standby looks through: for each new series, and when there is no room. */
#define BUCKETS_PER_SERIES 64
#define BUCKETS_FOR_ROOM 4096
#define ROOM_RETRY_USECS (10 * 1000) /* after a look that was in vain */

/* ---- metrics ---- */

/* A metric without series costs memory; one with a definition of its own stays. */
static bool
metric_is_idle(const MonMetric *m)
{
	return !m->series && m->definers == 0 && m->max_series == 0 && m->scale == EXPO_DEFAULT_SCALE;
}

static void
free_metric(MonMetric *m)
{
	m->dboid = InvalidOid;
	m->next = mon_registry->free_metrics;
	mon_registry->free_metrics = m;
}

/* ---- slots that are stored ---- */

typedef struct DropSealed
{
	uint64 seq;
	int max_slots; /* of a series; beyond, sealed ones are merged */
	bool dropped;  /* some were */
	bool stored;   /* some fresh series are in the catalog now */
} DropSealed;

static void
drop_sealed(MonSeries *s, void *arg)
{
	DropSealed *drop = arg;
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
			if (!drop->dropped)
				pg_atomic_fetch_add_u64(&s->db->drops, 1);
			drop->dropped = true;
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
	drop->stored |= s->persisted && s->fresh_link;
	while (s->nslots > drop->max_slots && mon_slots_merge_oldest(s, true))
		;
	mon_series_unlock(s);
}

/* Take the series that are in the catalog from the lists of those that may not be. */
static void
prune_fresh(Oid dboid)
{
	bool pruned = false;

	for (int i = 0; i < METRIC_BUCKETS; i++)
	{
		if (i % BUCKETS_PER_LOCK == 0)
			mon_index_lock(LW_EXCLUSIVE);
		for (MonMetric *m = mon_registry->metrics[i]; m; m = m->next)
		{
			MonSeries *next;

			for (MonSeries *s = m->dboid == dboid ? m->fresh : NULL; s; s = next)
			{
				next = s->next_fresh;
				if (!s->persisted)
					continue;
				if (!pruned)
					pg_atomic_fetch_add_u64(&s->db->prunes, 1);
				pruned = true;
				mon_fresh_remove(s);
			}
		}
		if ((i + 1) % BUCKETS_PER_LOCK == 0)
			mon_index_unlock();
	}
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
	if (drop.stored)
		prune_fresh(dboid);
}

/* ---- series ---- */

/* Take a series off the lists that it is on, and what it has.  Index and series lock held exclusively. */
static void
free_series(MonSeries *s)
{
	MonMetric *m = s->metric;
	MonSeries **link = mon_series_bucket(s->id, s->dboid);

	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	if (s->prev_in_metric)
		s->prev_in_metric->next_in_metric = s->next_in_metric;
	else
		m->series = s->next_in_metric;
	if (s->next_in_metric)
		s->next_in_metric->prev_in_metric = s->prev_in_metric;
	if (m->overflow == s)
		m->overflow = NULL;
	else
		m->nseries--;
	mon_fresh_remove(s);

	while (s->slots)
	{
		MonSlot *slot = s->slots;

		s->slots = slot->older;
		mon_slot_free(s, slot);
	}
	mon_memory_free(s->labels, VARSIZE(s->labels));
	s->labels = NULL;
	s->dboid = InvalidOid;
	s->next = mon_registry->free_series;
	mon_registry->free_series = s;
}

/*
 * Free a series that has nothing in memory, is safely stored or was never, and
 * was used last before a time.  All of that under its lock: who has a pointer
 * to it may just be adding to it.
 */
static bool
free_idle_series(MonSeries *s, TimestampTz used_before)
{
	bool idle;

	mon_series_lock(s, LW_EXCLUSIVE);
	idle = s->slots == NULL && (s->persisted || s->persist_seq == 0) && s->last_used < used_before;
	if (idle)
		free_series(s);
	mon_series_unlock(s);
	if (idle)
		pg_atomic_fetch_add_u32(&mon_registry->room_tick, 1);
	return idle;
}

/*
 * Before the deletion commits, so that a reader who no longer finds the series
 * in the catalog finds it here.  If it rolls back, the next flush enters again
 * what is there, which changes nothing.
 */
void
mon_registry_unpersist_series(int64 id)
{
	MonSeries *s;

	mon_index_lock(LW_EXCLUSIVE);
	s = mon_series_find(id);
	if (s)
	{
		mon_series_lock(s, LW_EXCLUSIVE);
		s->persisted = false;
		s->persist_seq = 0;
		mon_series_unlock(s);
		mon_fresh_add(s);
	}
	mon_index_unlock();
}

void
mon_registry_forget_series(int64 id)
{
	MonSeries *s;

	mon_index_lock(LW_EXCLUSIVE);
	s = mon_series_find(id);
	if (s)
	{
		mon_series_lock(s, LW_EXCLUSIVE);
		if (s->slots == NULL)
			free_series(s);
		mon_series_unlock(s);
	}
	mon_index_unlock();
}

/* ---- databases ---- */

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
		MonMetric **link = &mon_registry->metrics[i];

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

				mon_series_lock(s, LW_EXCLUSIVE);
				free_series(s);
				mon_series_unlock(s);
			}
			*link = m->next;
			free_metric(m);
		}
	}
	db = gone ? mon_db_find(dboid) : mon_db_find_or_create(dboid);
	if (db)
	{
		mon_db_reset(db, gone ? InvalidOid : dboid);
		db->gap_checked = true; /* a new extension has lost nothing */
	}
	mon_index_unlock();
	mon_seal_unlock();
	mon_registry_bump_kind_tick();
}

/* ---- what has been idle ---- */

static void
sweep_metric(MonMetric *m, TimestampTz now)
{
	MonSeries *next;

	for (MonSeries *s = m->series; s; s = next)
	{
		next = s->next_in_metric;
		(void) free_idle_series(s, now - SERIES_IDLE_USECS);
	}
}

/* The series of a bucket of metrics, then metrics without any. */
static void
sweep_bucket(MonMetric **link, TimestampTz now)
{
	while (*link)
	{
		MonMetric *m = *link;

		sweep_metric(m, now);
		if (metric_is_idle(m) && m->idle)
		{
			*link = m->next;
			free_metric(m);
			continue;
		}
		m->idle = metric_is_idle(m);
		link = &m->next;
	}
}

void
mon_registry_sweep(TimestampTz now)
{
	for (int i = 0; i < METRIC_BUCKETS; i++)
	{
		if (i % BUCKETS_PER_LOCK == 0)
			mon_index_lock(LW_EXCLUSIVE);
		sweep_bucket(&mon_registry->metrics[i], now);
		if ((i + 1) % BUCKETS_PER_LOCK == 0)
			mon_index_unlock();
	}
}

/* ---- a standby ---- */

static void
free_metric_if_idle(MonMetric *m)
{
	MonMetric **link = mon_metric_bucket(m->name, m->dboid);

	if (!metric_is_idle(m))
		return;
	while (*link != m)
		link = &(*link)->next;
	*link = m->next;
	free_metric(m);
}

/* Free the slots of a series that have expired, and the series if it has no others. */
static bool
expire_series(MonSeries *s, TimestampTz until)
{
	MonMetric *m = s->metric;
	bool expired;

	mon_series_lock(s, LW_EXCLUSIVE);
	expired = mon_slots_expire(s, until);
	mon_series_unlock(s);
	if (!free_idle_series(s, expired ? DT_NOEND : until))
		return expired;
	free_metric_if_idle(m);
	return true;
}

/*
 * Nobody flushes on a standby, so nothing is freed but by those who need room.
 * They look through a bounded number of buckets, and go on where the last one
 * stopped, so that none of them waits long and everything is come by in the end.
 */
bool
mon_standby_make_room(bool needed)
{
	uint32 buckets = needed ? BUCKETS_FOR_ROOM : BUCKETS_PER_SERIES;
	bool freed = false;
	TimestampTz now;

	if (!RecoveryInProgress())
		return false;
	now = GetCurrentTimestamp();
	if (needed && now >= mon_registry->room_at && now < mon_registry->room_at + ROOM_RETRY_USECS)
		return false;
	for (uint32 i = Min(buckets, mon_registry->series_mask + 1); i > 0; i--)
	{
		MonSeries *next;

		for (MonSeries *s = mon_registry->series[mon_registry->hand]; s; s = next)
		{
			next = s->next;
			freed |= expire_series(s, mon_standby_keeps_after(now));
		}
		mon_registry->hand = (mon_registry->hand + 1) & mon_registry->series_mask;
	}
	if (needed && !freed)
		mon_registry->room_at = now;
	if (freed)
		pg_atomic_fetch_add_u32(&mon_registry->room_tick, 1);
	return freed;
}
