/*-------------------------------------------------------------------------
 *
 * slots.c
 *	  The slots of a series in memory: opened, filled, merged, freed.
 *
 * Everything here is called with the series' lock held, raises no error and
 * allocates shared memory only.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include <math.h>

#include "access/xlog.h"
#include "utils/timestamp.h"

static void *
shared_alloc(void *ctx, size_t size, size_t *actual)
{
	return mon_memory_alloc(size, actual, *(bool *) ctx);
}

static void
shared_free(void *ctx, void *ptr, size_t actual)
{
	mon_memory_free(ptr, actual);
}

static Size
slot_size(MonMetricKind kind)
{
	return kind == MON_DISTRIBUTION ? sizeof(MonSlot) : offsetof(MonSlot, sketch);
}

void
mon_slot_free(MonSeries *s, MonSlot *slot)
{
	bool reserve = true;
	ExpoAllocator alloc = {shared_alloc, shared_free, &reserve};

	if (s->kind == MON_DISTRIBUTION)
		expo_free(&slot->sketch, &alloc);
	mon_memory_free(slot, slot_size(s->kind));
	s->nslots--;
}

bool
mon_slots_expire(MonSeries *s, TimestampTz until)
{
	MonSlot **link = &s->slots;
	bool any = false;

	while (*link)
	{
		MonSlot *slot = *link;
		uint64 count = s->kind == MON_DISTRIBUTION ? slot->sketch.count : slot->count;

		if (slot->seq > 0 || slot->start > until)
		{
			link = &slot->older;
			continue;
		}
		pg_atomic_fetch_add_u64(&s->db->dropped, count);
		pg_atomic_fetch_add_u64(&s->db->expired, count);
		*link = slot->older;
		mon_slot_free(s, slot);
		any = true;
	}
	return any;
}

static void
merge_scalars(MonSlot *into, const MonSlot *from)
{
	if (from->first_at <= into->first_at)
	{
		into->first = from->first;
		into->first_at = from->first_at;
	}
	into->count += from->count;
	into->sum += from->sum;
	into->min = Min(into->min, from->min);
	into->max = Max(into->max, from->max);
	if (from->last_at > into->last_at)
	{
		into->last = from->last;
		into->last_at = from->last_at;
	}
}

/*
 * Merge the two oldest slots that are both open or both sealed into the younger
 * one, which takes the older's start; false when there is no such pair.  Only
 * the flush may ask for sealed ones, since it reads them without lock.
 */
bool
mon_slots_merge_oldest(MonSeries *s, bool sealed)
{
	MonSlot *pair = NULL;
	MonSlot *old;
	bool reserve = true;
	ExpoAllocator alloc = {shared_alloc, shared_free, &reserve};

	for (MonSlot *slot = s->slots; slot && slot->older; slot = slot->older)
		if ((slot->seq > 0) == sealed && (slot->older->seq > 0) == sealed)
			pair = slot;
	if (!pair)
		return false;

	old = pair->older;
	if (s->kind == MON_DISTRIBUTION && !expo_merge(&pair->sketch, &old->sketch, &alloc))
		return false;
	merge_scalars(pair, old);
	pair->start = Min(pair->start, old->start);
	pair->older = old->older;
	mon_slot_free(s, old);
	pg_atomic_fetch_add_u64(&s->db->slots_merged, 1);
	return true;
}

/* A new slot, put where its start belongs. */
static MonSlot *
new_slot(MonSeries *s, TimestampTz start)
{
	Size actual;
	MonSlot *slot;
	MonSlot **link = &s->slots;

	if (s->nslots >= MAX_SLOTS)
		mon_slots_merge_oldest(s, false);
	slot = mon_memory_alloc(slot_size(s->kind), &actual, s->is_overflow);
	if (!slot && mon_slots_merge_oldest(s, false))
		slot = mon_memory_alloc(slot_size(s->kind), &actual, s->is_overflow);
	if (!slot)
		return NULL;

	memset(slot, 0, slot_size(s->kind));
	slot->start = start;
	slot->min = INFINITY;
	slot->max = -INFINITY;
	slot->first_at = DT_NOEND;
	slot->last_at = DT_NOBEGIN;
	if (s->kind == MON_DISTRIBUTION)
		expo_init(&slot->sketch, s->metric->scale);
	while (*link && (*link)->start > start)
		link = &(*link)->older;
	slot->older = *link;
	*link = slot;
	s->nslots++;
	return slot;
}

/* The slot that starts at a time given by the caller, or NULL. */
static MonSlot *
slot_at(MonSeries *s, TimestampTz start)
{
	for (MonSlot *slot = s->slots; slot && slot->start >= start; slot = slot->older)
		if (slot->start == start && slot->seq == 0)
			return slot;
	if (RecoveryInProgress())
		(void) mon_slots_expire(s, mon_standby_keeps_after(GetCurrentTimestamp()));
	return new_slot(s, start);
}

/*
 * The slot that observations made now belong to, or NULL.  A newer one is there
 * when somebody has recorded for the minute to come.  If it is newer than that,
 * the clock has stepped back: that does not open slots in the past.
 */
static MonSlot *
current_slot(MonSeries *s, TimestampTz now)
{
	TimestampTz start = now - now % SLOT_USECS;
	MonSlot *newest = s->slots;
	MonSlot *slot;

	if (newest && newest->seq == 0 && newest->start > now + MAX_SKEW_USECS)
		return newest;
	slot = slot_at(s, start);
	newest = s->slots;
	if (!slot && newest && newest->seq == 0)
	{
		pg_atomic_fetch_add_u64(&s->db->slots_merged, 1);
		return newest; /* coarser, but counted */
	}
	return slot;
}

/* Take what fits of *rest into the slot and leave the remainder in *rest. */
static bool
add_to_slot(MonSeries *s, MonSlot *slot, MonDelta *rest, TimestampTz now)
{
	bool reserve = s->is_overflow;
	ExpoAllocator alloc = {shared_alloc, shared_free, &reserve};
	TimestampTz first_at = rest->first_at ? rest->first_at : now;
	TimestampTz last_at = rest->last_at ? rest->last_at : now;

	if (s->kind == MON_DISTRIBUTION)
	{
		size_t taken;

		if (rest->sketch)
			return expo_merge(&slot->sketch, rest->sketch, &alloc);
		taken = expo_add_many(&slot->sketch, rest->values, rest->nvalues, &alloc);
		rest->values += taken;
		rest->nvalues -= taken;
		return rest->nvalues == 0;
	}
	if (first_at < slot->first_at)
	{
		slot->first = rest->first;
		slot->first_at = first_at;
	}
	slot->count += rest->count;
	slot->sum += rest->sum;
	slot->min = Min(slot->min, rest->min);
	slot->max = Max(slot->max, rest->max);
	if (last_at >= slot->last_at)
	{
		slot->last = rest->last;
		slot->last_at = last_at;
	}
	return true;
}

/* A slot without observations must not be flushed: a stored point has some. */
static void
drop_if_empty(MonSeries *s, MonSlot *slot)
{
	MonSlot **link = &s->slots;

	if (slot->seq > 0 || slot->count > 0 || (s->kind == MON_DISTRIBUTION && slot->sketch.count > 0))
		return;
	while (*link != slot)
		link = &(*link)->older;
	*link = slot->older;
	mon_slot_free(s, slot);
}

bool
mon_slots_add(MonSeries *s, MonDelta *rest, TimestampTz now)
{
	MonSlot *slot = rest->slot ? slot_at(s, rest->slot) : current_slot(s, now);

	if (!slot)
		return false;
	if (!add_to_slot(s, slot, rest, now))
	{
		drop_if_empty(s, slot);
		return false;
	}
	s->last_used = Max(s->last_used, now);
	return true;
}

bool
mon_slot_restore(MonSeries *s, const MonSlot *saved, const uint8 *sketch, size_t sketch_len)
{
	bool reserve = s->is_overflow;
	ExpoAllocator alloc = {shared_alloc, shared_free, &reserve};
	MonSlot *slot = new_slot(s, saved->start);
	size_t used;

	if (!slot)
		return false;
	slot->count = s->kind == MON_DISTRIBUTION ? 0 : saved->count;
	slot->sum = saved->sum;
	slot->min = saved->min;
	slot->max = saved->max;
	slot->first = saved->first;
	slot->last = saved->last;
	slot->first_at = saved->first_at;
	slot->last_at = saved->last_at;
	if (s->kind == MON_DISTRIBUTION &&
		expo_decode(&slot->sketch, sketch, sketch_len, &used, &alloc) != EXPO_OK)
	{
		expo_free(&slot->sketch, &alloc);
		expo_init(&slot->sketch, EXPO_DEFAULT_SCALE);
		drop_if_empty(s, slot);
		return false;
	}
	slot->seq = saved->seq;
	s->last_used = Max(s->last_used, saved->start);
	pg_atomic_fetch_add_u64(&s->db->accepted,
							s->kind == MON_DISTRIBUTION ? slot->sketch.count : slot->count);
	return true;
}
