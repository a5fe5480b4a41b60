/*-------------------------------------------------------------------------
 *
 * read_memory.c
 *	  What the registry and this transaction hold of the series of a read.
 *
 * Under the locks nothing is done but copying.  The series that the catalog has
 * are found by their ids.  Those that it may not have yet are in a list of their
 * metric, which is short but for the first seconds of many new series.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "metrics/late.h"
#include "metrics/registry_internal.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define SERIES_PER_LOCK 256 /* copied without letting others in */

/* A copied slot. */
typedef struct MemoryPoint
{
	MonPoint point;
	MatchedSeries *series;
} MemoryPoint;

/* A series that the catalog may not have. */
typedef struct FreshSeries
{
	int64 id;
	ReadMetric *metric;
	Jsonb *labels;
} FreshSeries;

/* ---- series ---- */

/* Copy the fresh series of a metric; index lock held. */
static List *
copy_fresh(List *fresh, ReadMetric *read, const MonMetric *metric)
{
	for (const MonSeries *s = metric->fresh; s; s = s->next_fresh)
	{
		FreshSeries *copy = palloc(sizeof(FreshSeries));

		copy->id = s->id;
		copy->metric = read;
		copy->labels = palloc(VARSIZE(s->labels));
		memcpy(copy->labels, s->labels, VARSIZE(s->labels));
		fresh = lappend(fresh, copy);
	}
	return fresh;
}

/* Learn of the metrics what the registry knows, and enter the fresh series that match. */
static void
match_fresh(ReadBatch *b)
{
	MemoryContext cxt = AllocSetContextCreate(b->cxt, "fresh series", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	MonMetricKind *kinds = palloc0(sizeof(MonMetricKind) * b->nmetrics);
	MonMetricKind *kind = kinds;
	List *fresh = NIL;
	ListCell *lc;

	mon_index_lock(LW_SHARED);
	for (ReadMetric *m = b->metric_list; m; m = m->next, kind++)
	{
		const MonMetric *metric = mon_registry_find_metric(m->name, MyDatabaseId);

		if (!metric || !metric->series)
			continue;
		*kind = metric->kind;
		fresh = copy_fresh(fresh, m, metric);
	}
	mon_index_unlock();

	kind = kinds;
	for (ReadMetric *m = b->metric_list; m; m = m->next, kind++)
		if (*kind != 0)
			mon_read_note_kind(m, *kind);
	foreach (lc, fresh)
	{
		FreshSeries *s = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		(void) mon_read_match(b, s->metric, s->id, s->labels);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}

/* ---- slots ---- */

static bool
is_wanted(const ReadBatch *b, const MatchedSeries *m, const MonSlot *slot)
{
	if (slot->seq > 0 && slot->seq <= b->storage.seq)
		return false;
	for (const SeriesUse *use = m->uses; use; use = use->next)
		if (mon_read_wants(use->read, slot->start))
			return true;
	return false;
}

static void
copy_slot(ReadBatch *b, MatchedSeries *m, const MonSeries *s, const MonSlot *slot)
{
	MemoryPoint *copy;
	MonPoint *p;

	if (b->npoints == b->maxpoints)
	{
		b->maxpoints = Max(2 * b->maxpoints, 64);
		b->points = b->points ? repalloc_huge(b->points, sizeof(MemoryPoint) * (Size) b->maxpoints)
							  : palloc(sizeof(MemoryPoint) * b->maxpoints);
	}
	copy = &b->points[b->npoints];
	copy->series = m;
	p = &copy->point;
	mon_point_from_slot(p, s->kind, slot);
	if (p->count == 0)
		return;
	if (s->kind == MON_DISTRIBUTION)
	{
		expo_init(&p->sketch, slot->sketch.scale);
		if (b->needs_sketch)
			expo_copy(&p->sketch, &slot->sketch, &b->alloc);
	}
	b->npoints++;
}

/* Copy the slots of a series; index lock held. */
static void
copy_series(ReadBatch *b, MatchedSeries *m)
{
	const MonSeries *s = mon_series_find(m->id);

	if (!s)
		return;
	mon_series_lock(s, LW_SHARED);
	for (const MonSlot *slot = s->slots; slot; slot = slot->older)
		if (is_wanted(b, m, slot))
			copy_slot(b, m, s, slot);
	mon_series_unlock(s);
}

void
mon_read_copy_memory(ReadBatch *b)
{
	MemoryContext old;

	match_fresh(b);
	old = MemoryContextSwitchTo(b->cxt);
	b->npoints = 0;
	for (int i = 0; i < b->nmatched; i += SERIES_PER_LOCK)
	{
		CHECK_FOR_INTERRUPTS();
		mon_index_lock(LW_SHARED);
		for (int j = i; j < Min(i + SERIES_PER_LOCK, b->nmatched); j++)
			copy_series(b, b->matched[j]);
		mon_index_unlock();
	}
	MemoryContextSwitchTo(old);
}

/* Add a point of memory to the reads that want it; the last one takes its sketch over. */
static void
add_to_reads(MatchedSeries *m, MonPoint *p, int64 unit)
{
	for (SeriesUse *use = m->uses; use; use = use->next)
		if (mon_read_wants(use->read, p->start))
			mon_read_add(use, p, unit, use->next == NULL);
}

/* ---- this transaction's own ---- */

static ReadMetric *
find_metric(const ReadBatch *b, const char *name)
{
	return hash_search(b->metrics, name, HASH_FIND, NULL);
}

/* A point of this transaction's own; its sketch stays the owner's. */
static void
add_own_point(ReadBatch *b, const MonSeriesKey *key, MonPoint *p, int64 unit)
{
	ReadMetric *metric = find_metric(b, key->metric);
	MatchedSeries *m;
	ExpoSketch shared = p->sketch;

	if (!metric || p->count == 0)
		return;
	m = mon_read_match(b, metric, key->id, (Jsonb *) key->labels);
	if (!m)
		return;
	mon_read_note_kind(metric, key->kind);
	expo_init(&p->sketch, EXPO_DEFAULT_SCALE);
	if (key->kind == MON_DISTRIBUTION && b->needs_sketch)
		expo_copy(&p->sketch, &shared, &b->alloc);
	add_to_reads(m, p, unit);
}

/* What this transaction has recorded with monitoring.transactional. */
static void
add_own(const MonSeriesKey *key, const MonDelta *d, void *arg)
{
	MonPoint p;
	TimestampTz now = GetCurrentTimestamp();

	mon_point_init(&p, key->kind);
	p.start = d->slot ? d->slot : mon_floor_time(now, SLOT_USECS);
	p.first_at = d->first_at ? d->first_at : now;
	p.last_at = d->last_at ? d->last_at : now;
	p.count = d->count;
	p.sum = d->sum;
	p.min = d->min;
	p.max = d->max;
	p.first = d->first;
	p.last = d->last;
	if (d->sketch)
	{
		p.count = d->sketch->count;
		p.sum = d->sketch->sum;
		p.min = d->sketch->min;
		p.max = d->sketch->max;
		p.sketch = *d->sketch;
	}
	add_own_point(arg, key, &p, SLOT_USECS);
}

/* What this transaction has observed in the past and not written yet. */
static void
add_own_late(const MonSeriesKey *key, const MonPoint *point, void *arg)
{
	MonPoint p = *point;

	p.start = mon_floor_time(p.start, USECS_PER_MINUTE);
	add_own_point(arg, key, &p, USECS_PER_MINUTE);
}

static void
note_own_late(const MonSeriesKey *key, const MonPoint *point, void *arg)
{
	ReadMetric *metric = find_metric(arg, key->metric);

	if (!metric)
		return;
	for (SeriesLookup *l = metric->lookups; l; l = l->next_in_metric)
		for (ReadState *r = l->reads; r; r = r->next_in_lookup)
			r->has_late = true;
}

void
mon_read_note_own_late(ReadBatch *b)
{
	mon_late_each(note_own_late, b);
}

void
mon_read_add_memory(ReadBatch *b)
{
	MemoryContext old = MemoryContextSwitchTo(b->cxt);

	for (int i = 0; i < b->npoints; i++)
	{
		CHECK_FOR_INTERRUPTS();
		add_to_reads(b->points[i].series, &b->points[i].point, SLOT_USECS);
	}
	mon_record_each_transactional(add_own, b);
	mon_late_each(add_own_late, b);
	MemoryContextSwitchTo(old);
}
