/*-------------------------------------------------------------------------
 *
 * record.c
 *	  What a backend has recorded and not yet published.
 *
 * A backend keeps a reference per series it has used (refs.c) and collects its
 * observations there without any lock.  They move to the shared registry
 *	- when a top-level statement ends, and at commit and at abort;
 *	- when a reader has asked for recent data (the registry's tick), or a
 *	  second has passed, in a statement that goes on recording;
 *	- when a reference holds as many values as it can.
 * So an idle session strands nothing, and nothing waits at commit but for a
 * short series lock.
 *
 * With monitoring.transactional they are kept per subtransaction level instead
 * and move at commit only.
 *
 * Callbacks at the end of a transaction must not raise errors: pushing neither
 * allocates backend memory nor touches catalogs.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/record.h"
#include "core/transaction.h"

#include <math.h>

#include "access/parallel.h"
#include "access/xact.h"
#include "metrics/levels.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define CLOCK_EVERY 64       /* observations between two looks at the clock */
#define VALUES_PER_PUSH 1024 /* of an array, so that the series lock is held for microseconds */

/* What a transaction recorded of a series and slot at one subtransaction level. */
typedef struct TransPending
{
	struct TransPending *next;  /* all, newest first */
	struct TransPending *outer; /* the same series, before it */
	SeriesRef *ref;
	int level;
	MonDelta delta;
	ExpoSketch sketch;
} TransPending;

static SeriesRef *dirty_list = NULL;
static TransPending *trans_list = NULL;
static MonTransactionPart record_part;
static uint32 seen_tick = 0;
static int clock_countdown = CLOCK_EVERY;
static TimestampTz last_push_at = 0;

/* ---- pushing to the registry ---- */

void
mon_record_reset_delta(MonDelta *d)
{
	memset(d, 0, sizeof(MonDelta));
	d->min = INFINITY;
	d->max = -INFINITY;
}

static void
publish(SeriesRef *ref, const MonDelta *delta, TimestampTz now)
{
	uint32 room_tick = mon_registry_room_tick();

	/* What went to an overflow series may have a place of its own by now. */
	if (ref->series && ref->series->is_overflow && ref->room_tick != room_tick)
		ref->series = NULL;
	/* A series can be reclaimed between look-up and use, if hardly twice. */
	for (int i = 0; i < 3; i++)
	{
		if (ref->series && mon_registry_add(ref->series, &ref->key, delta, now))
			return;
		ref->room_tick = room_tick;
		ref->series = mon_registry_series(&ref->key);
		if (!ref->series)
			break;
	}
	mon_count_dropped(delta->sketch       ? delta->sketch->count
						  : delta->values ? (uint64) delta->nvalues
										  : delta->count);
}

static void
push_ref(SeriesRef *ref, TimestampTz now)
{
	if (ref->key.kind == MON_DISTRIBUTION)
	{
		MonDelta d;

		if (ref->nvalues == 0)
			return;
		mon_record_reset_delta(&d);
		d.slot = ref->slot;
		d.values = ref->values;
		d.nvalues = ref->nvalues;
		publish(ref, &d, ref->slot ? ref->slot : now);
		ref->nvalues = 0;
	}
	else if (ref->delta.count > 0)
	{
		ref->delta.slot = ref->slot;
		publish(ref, &ref->delta, ref->slot ? ref->slot : now);
		mon_record_reset_delta(&ref->delta);
	}
}

void
mon_record_push(void)
{
	TimestampTz now;

	if (!dirty_list)
		return;
	now = GetCurrentTimestamp();
	while (dirty_list)
	{
		SeriesRef *ref = dirty_list;

		dirty_list = ref->next_dirty;
		ref->dirty = false;
		push_ref(ref, now);
	}
	clock_countdown = CLOCK_EVERY;
	last_push_at = now;
	mon_executor_left = NULL;
}

/* Called now and then while a statement goes on recording. */
static void
look_at_clock(void)
{
	TimestampTz now = GetCurrentTimestamp();

	clock_countdown = CLOCK_EVERY;
	if (now - last_push_at >= USECS_PER_SEC || now < last_push_at)
		mon_record_push();
}

static inline void
mark_dirty(SeriesRef *ref)
{
	if (!ref->dirty)
	{
		ref->dirty = true;
		ref->next_dirty = dirty_list;
		dirty_list = ref;
		mon_transaction_join(&record_part);
		/* A portal may be left open after a statement for as long as the client likes. */
		mon_executor_left = mon_record_push;
	}
	if (unlikely(mon_registry_tick() != seen_tick))
	{
		seen_tick = mon_registry_tick();
		mon_record_push();
	}
	else if (unlikely(--clock_countdown <= 0))
		look_at_clock();
}

/* ---- transactional records ---- */

static void *
no_oom_alloc(void *ctx, size_t size, size_t *actual)
{
	*actual = size;
	return MemoryContextAllocExtended(ctx, size, MCXT_ALLOC_NO_OOM);
}

static void
cxt_free(void *ctx, void *ptr, size_t actual)
{
	pfree(ptr);
}

static ExpoAllocator
trans_allocator(void)
{
	ExpoAllocator a = {no_oom_alloc, cxt_free, TopTransactionContext};

	return a;
}

/* The entry of a series, slot and level; at one level there are few slots. */
static TransPending *
find_trans(SeriesRef *ref, int level, TimestampTz slot)
{
	TransPending *p = ref->trans;

	while (p && p->level > level)
		p = p->outer;
	while (p && p->level == level && p->delta.slot != slot)
		p = p->outer;
	return p && p->level == level ? p : NULL;
}

static TransPending *
trans_pending(SeriesRef *ref, TimestampTz slot)
{
	int level = GetCurrentTransactionNestLevel();
	TransPending *p = find_trans(ref, level, slot);

	if (p)
		return p;
	if (IsParallelWorker())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("metrics cannot be recorded in a parallel worker with "
						"monitoring.transactional on"),
				 errhint("Mark the function that records as PARALLEL RESTRICTED or UNSAFE.")));
	p = MemoryContextAllocZero(TopTransactionContext, sizeof(TransPending));
	p->ref = ref;
	p->level = level;
	mon_record_reset_delta(&p->delta);
	p->delta.slot = slot;
	expo_init(&p->sketch, mon_registry_scale(ref->series, &ref->key));
	p->outer = ref->trans;
	p->next = trans_list;
	ref->trans = p;
	trans_list = p;
	mon_transaction_join(&record_part);
	return p;
}

static void
merge_delta(MonDelta *into, const MonDelta *from)
{
	if (from->count == 0)
		return;
	if (into->count == 0 || from->first_at < into->first_at)
	{
		into->first = from->first;
		into->first_at = from->first_at;
	}
	if (into->count == 0 || from->last_at >= into->last_at)
	{
		into->last = from->last;
		into->last_at = from->last_at;
	}
	into->count += from->count;
	into->sum += from->sum;
	into->min = Min(into->min, from->min);
	into->max = Max(into->max, from->max);
}

/* Free an entry that is off the list. */
static void
free_trans(TransPending *p)
{
	ExpoAllocator alloc = trans_allocator();
	TransPending **link = &p->ref->trans;

	while (*link != p)
		link = &(*link)->outer;
	*link = p->outer;
	expo_free(&p->sketch, &alloc);
	pfree(p);
}

static void
abort_level(int level)
{
	while (trans_list && trans_list->level >= level)
	{
		TransPending *p = trans_list;

		trans_list = p->next;
		free_trans(p);
	}
}

/* A subtransaction's records become its parent's. */
static void
commit_level(int level)
{
	ExpoAllocator alloc = trans_allocator();
	TransPending **link = &trans_list;

	while (*link && (*link)->level >= level)
	{
		TransPending *p = *link;
		TransPending *outer = find_trans(p->ref, level - 1, p->delta.slot);

		if (outer && expo_merge(&outer->sketch, &p->sketch, &alloc))
		{
			merge_delta(&outer->delta, &p->delta);
			*link = p->next;
			free_trans(p);
		}
		else
			link = &p->next;
	}
	/* What is left has no counterpart at the outer level, or no memory to be merged. */
	for (TransPending *p = trans_list; p && p->level >= level; p = p->next)
		p->level = level - 1;
}

static void
publish_transactional(void)
{
	TimestampTz now;

	if (!trans_list)
		return;
	now = GetCurrentTimestamp();
	while (trans_list)
	{
		TransPending *p = trans_list;

		if (p->ref->key.kind == MON_DISTRIBUTION)
			p->delta.sketch = &p->sketch;
		publish(p->ref, &p->delta, p->delta.slot ? p->delta.slot : now);
		trans_list = p->next;
		free_trans(p);
	}
}

bool
mon_record_holds_refs(void)
{
	return trans_list != NULL;
}

void
mon_record_each_transactional(void (*fn)(const MonSeriesKey *key, const MonDelta *delta, void *arg),
							  void *arg)
{
	for (TransPending *p = trans_list; p; p = p->next)
	{
		if (p->ref->key.kind == MON_DISTRIBUTION)
			p->delta.sketch = &p->sketch;
		fn(&p->ref->key, &p->delta, arg);
	}
}

/* ---- taking observations ---- */

/* Without a time (0) they come in the order of the calls. */
static inline void
add_scalar(MonDelta *d, TimestampTz at, double value)
{
	bool only = d->count++ == 0;

	if (only || at < d->first_at)
	{
		d->first = value;
		d->first_at = at;
	}
	d->sum += value;
	d->min = Min(d->min, value);
	d->max = Max(d->max, value);
	if (only || at >= d->last_at)
	{
		d->last = value;
		d->last_at = at;
	}
}

/* The slot that an observation with a time belongs to, 0 for the current one. */
static inline TimestampTz
slot_of(TimestampTz at)
{
	return at == 0 ? 0 : mon_floor_time(at, SLOT_USECS);
}

static void
take_transactional(SeriesRef *ref, TimestampTz at, const double *values, size_t n)
{
	TransPending *p = trans_pending(ref, slot_of(at));
	ExpoAllocator alloc = mon_palloc_allocator(TopTransactionContext);

	if (ref->key.kind == MON_DISTRIBUTION)
	{
		if (expo_add_many(&p->sketch, values, n, &alloc) < n)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("a distribution has too many observations")));
		return;
	}
	for (size_t i = 0; i < n; i++)
		add_scalar(&p->delta, at, values[i]);
}

/* Make room for one more value. */
static void
grow_values(SeriesRef *ref)
{
	if (ref->capacity < PENDING_MAX)
	{
		ref->values = repalloc(ref->values, sizeof(double) * 2 * ref->capacity);
		ref->capacity *= 2;
	}
	else
		push_ref(ref, GetCurrentTimestamp());
}

void
mon_record_take(SeriesRef *ref, TimestampTz at, double value)
{
	/* Not left to the push, which may come when another slot has begun. */
	TimestampTz slot = slot_of(at);

	if (unlikely(mon_transactional))
	{
		take_transactional(ref, at, &value, 1);
		return;
	}
	if (unlikely(ref->slot != slot))
	{
		push_ref(ref, GetCurrentTimestamp());
		ref->slot = slot;
	}
	if (ref->key.kind == MON_DISTRIBUTION)
	{
		if (unlikely(ref->nvalues == ref->capacity))
			grow_values(ref);
		ref->values[ref->nvalues++] = value;
	}
	else
		add_scalar(&ref->delta, at, value);
	mark_dirty(ref);
}

/* Many values of a distribution go to the registry without a stop here. */
void
mon_record_take_values(SeriesRef *ref, const double *values, size_t n)
{
	TimestampTz now;

	if (unlikely(mon_transactional))
	{
		take_transactional(ref, 0, values, n);
		return;
	}
	now = GetCurrentTimestamp();
	while (n > 0)
	{
		MonDelta d;

		mon_record_reset_delta(&d);
		d.values = values;
		d.nvalues = Min(n, VALUES_PER_PUSH);
		publish(ref, &d, now);
		values += d.nvalues;
		n -= d.nvalues;
	}
}

/* ---- transaction and executor callbacks ---- */

static void
record_at_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			mon_record_push();
			publish_transactional();
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			mon_record_push();
			break;
		case XACT_EVENT_ABORT:
			mon_record_push();
			abort_level(0);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (trans_list)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has recorded metrics with "
								"monitoring.transactional on"),
						 errhint("Turn monitoring.transactional off for transactions that are "
								 "prepared.")));
			break;
		default:
			break;
	}
}

static void
record_at_subend(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
				 void *arg)
{
	if (!trans_list)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		abort_level(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		commit_level(GetCurrentTransactionNestLevel());
}

void
mon_record_init(void)
{
	mon_transaction_register(&record_part, record_at_end, record_at_subend);
}
