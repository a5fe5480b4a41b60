/*-------------------------------------------------------------------------
 *
 * read_plan.c
 *	  Which level of storage serves which piece of time of a read.
 *
 * Each piece comes from the coarsest level that is exact for it: one whose points
 * begin and end where the read's buckets do.  Where the finer level is dropped
 * already, a coarser one serves although it is not exact: edges are rounded
 * outward to its points.  No piece of time is read from two levels.
 *
 * Reads of the same window share a plan; series that the same windows read are a
 * class, so that rows are fetched for all of them at once and for nobody else.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

typedef enum ReadLevel
{
	LEVEL_OF_SLOTS,
	LEVEL_OF_MINUTES,
	LEVEL_OF_HOURS,
	LEVEL_OF_DAYS
} ReadLevel;

static const int64 level_units[] = {SLOT_USECS, USECS_PER_MINUTE, USECS_PER_HOUR, USECS_PER_DAY};

/* What the plans of a batch's windows go by. */
typedef struct Planner
{
	const StorageState *storage;
	const TimestampTz *gone;
} Planner;

/* ---- pieces of time ---- */

void
mon_pieces_add(TimePieces *p, TimestampTz from, TimestampTz to)
{
	if (from >= to)
		return;
	if (p->n == p->max)
	{
		p->max = Max(2 * p->max, 4);
		p->pieces = p->pieces ? repalloc(p->pieces, sizeof(TimePiece) * p->max)
							  : palloc(sizeof(TimePiece) * p->max);
	}
	p->pieces[p->n].from = from;
	p->pieces[p->n++].to = to;
}

static int
compare_pieces(const void *a, const void *b)
{
	TimestampTz x = ((const TimePiece *) a)->from;
	TimestampTz y = ((const TimePiece *) b)->from;

	return x < y ? -1 : x > y;
}

/* Sort, and make one of those that touch. */
void
mon_pieces_normalize(TimePieces *p)
{
	int n = 0;

	if (p->n < 2)
		return;
	qsort(p->pieces, p->n, sizeof(TimePiece), compare_pieces);
	for (int i = 1; i < p->n; i++)
		if (p->pieces[i].from <= p->pieces[n].to)
			p->pieces[n].to = Max(p->pieces[n].to, p->pieces[i].to);
		else
			p->pieces[++n] = p->pieces[i];
	p->n = n + 1;
}

/* ---- levels ---- */

/*
 * Whether it matters in which order points come, and points wider than a minute
 * do not tell: of several series, or of a series and its late points, only the
 * start of the point is known.
 */
static bool
minutes_only(const ReadState *read)
{
	if (read->fn.kind == FN_LAST_AT)
		return true;
	return mon_fn_is_ordered(&read->fn) && (read->has_late || read->nseries > read->ngroups);
}

static bool
exact_for(const ReadWindow *w, int64 unit)
{
	const ReadState *read = w->example;

	if (w->minutes_only && unit > USECS_PER_MINUTE)
		return false;
	return read->nbuckets == 1 ||
		(read->step % unit == 0 && read->split % unit == 0 &&
		 mon_floor_time(read->origin, unit) == read->origin);
}

/* Everything before it is in the level. */
static TimestampTz
complete_before(const StorageState *storage, ReadLevel level)
{
	switch (level)
	{
		case LEVEL_OF_SLOTS:
			return DT_NOEND;
		case LEVEL_OF_MINUTES:
			return mon_floor_time(storage->minutes, USECS_PER_MINUTE);
		case LEVEL_OF_HOURS:
			return mon_floor_time(storage->complete[LEVEL_HOURLY], USECS_PER_HOUR);
		case LEVEL_OF_DAYS:
			return mon_floor_time(storage->complete[LEVEL_DAILY], USECS_PER_DAY);
	}
	return DT_NOBEGIN;
}

/*
 * How far back each level goes: by its oldest partition, but not beyond what
 * retention has dropped, of which a partition may have been made again.  A level
 * that has been dropped further than the next finer one serves nothing by that.
 */
static TimestampTz *
find_gone(const StorageState *storage)
{
	TimestampTz *gone = palloc(sizeof(TimestampTz) * (LEVEL_OF_DAYS + 1));
	TimestampTz oldest[LEVEL_OF_DAYS];

	oldest[LEVEL_OF_SLOTS] = mon_oldest_partition("segments");
	oldest[LEVEL_OF_MINUTES] = Max(
		storage->dropped[LEVEL_CHUNKS],
		Min(mon_oldest_partition("minutes"), mon_oldest_partition("chunks")));
	oldest[LEVEL_OF_HOURS] = Max(storage->dropped[LEVEL_HOURLY], mon_oldest_partition("hourly"));
	gone[LEVEL_OF_SLOTS] = DT_NOBEGIN;
	for (ReadLevel level = LEVEL_OF_MINUTES; level <= LEVEL_OF_DAYS; level++)
	{
		TimestampTz finer = oldest[level - 1];

		if (finer > DT_NOBEGIN && finer < DT_NOEND)
			finer = mon_ceil_time(finer, level_units[level]);
		gone[level] = Min(finer, complete_before(storage, level));
	}
	return gone;
}

/* ---- the plan of a window ---- */

/* A piece of time from one level; its ends are multiples of the level's unit. */
static void
add_piece(Planner *p, ReadWindow *w, ReadLevel level, TimestampTz from, TimestampTz to)
{
	TimestampTz chunked = p->storage->complete[LEVEL_CHUNKS];

	switch (level)
	{
		case LEVEL_OF_SLOTS:
			mon_pieces_add(&w->tables[READ_SEGMENTS], from, to);
			break;
		case LEVEL_OF_MINUTES:
			mon_pieces_add(&w->tables[READ_CHUNKS], from, Min(to, chunked));
			mon_pieces_add(&w->tables[READ_MINUTES], Max(from, chunked), to);
			break;
		case LEVEL_OF_HOURS:
			mon_pieces_add(&w->tables[READ_HOURLY], from, to);
			break;
		case LEVEL_OF_DAYS:
			mon_pieces_add(&w->tables[READ_DAILY], from, to);
			break;
	}
}

/* A piece of time from a level and finer ones; what is gone of this one is not asked for. */
static void
plan_piece(Planner *p, ReadWindow *w, ReadLevel level, TimestampTz from, TimestampTz to)
{
	int64 unit = level_units[level];
	TimestampTz gone = p->gone[level];
	TimestampTz lo, hi;

	if (from >= to)
		return;
	if (level == LEVEL_OF_SLOTS)
	{
		add_piece(p, w, level, from, to);
		return;
	}
	if (from < gone)
	{
		TimestampTz end = to < gone ? mon_ceil_time(to, unit) : gone;

		add_piece(p, w, level, mon_floor_time(from, unit), end);
		from = end;
		if (from >= to)
			return;
	}
	lo = mon_ceil_time(from, unit);
	hi = Min(to, complete_before(p->storage, level));
	if (hi > DT_NOBEGIN)
		hi = mon_floor_time(hi, unit);
	if (lo >= hi || !exact_for(w, unit))
	{
		plan_piece(p, w, level - 1, from, to);
		return;
	}
	plan_piece(p, w, level - 1, from, lo);
	add_piece(p, w, level, lo, hi);
	plan_piece(p, w, level - 1, hi, to);
}

static void
plan_window(Planner *p, ReadWindow *w)
{
	TimestampTz from = w->example->from;
	TimestampTz to = w->example->to;

	if (p->storage->compacted)
		plan_piece(p, w, LEVEL_OF_DAYS, from, to);
	else
		add_piece(p, w, LEVEL_OF_SLOTS, from, to);
	mon_pieces_add(&w->tables[READ_LATE], mon_floor_time(from, USECS_PER_MINUTE), to);
}

/* ---- windows ---- */

static int
compare_int64(int64 a, int64 b)
{
	return a < b ? -1 : a > b;
}

/* Order by what makes the plan. */
static int
compare_windows(const void *a, const void *b)
{
	const ReadState *x = *(ReadState *const *) a;
	const ReadState *y = *(ReadState *const *) b;
	int c;

	if ((c = compare_int64(x->from, y->from)) != 0 || (c = compare_int64(x->to, y->to)) != 0 ||
		(c = compare_int64(x->nbuckets, y->nbuckets)) != 0 ||
		(c = compare_int64(minutes_only(x), minutes_only(y))) != 0 || x->nbuckets == 1)
		return c;
	if ((c = compare_int64(x->origin, y->origin)) != 0 ||
		(c = compare_int64(x->step, y->step)) != 0)
		return c;
	return compare_int64(x->split, y->split);
}

static void
make_windows(ReadBatch *b, ReadPlan *plan)
{
	ReadState **reads = palloc(sizeof(ReadState *) * b->nreads);
	ReadWindow *w = NULL;

	memcpy(reads, b->reads, sizeof(ReadState *) * b->nreads);
	qsort(reads, b->nreads, sizeof(ReadState *), compare_windows);
	plan->windows = palloc0(sizeof(ReadWindow) * b->nreads);
	plan->nwindows = 0;
	for (int i = 0; i < b->nreads; i++)
	{
		if (!w || compare_windows(&reads[i - 1], &reads[i]) != 0)
		{
			w = &plan->windows[plan->nwindows];
			w->example = reads[i];
			w->minutes_only = minutes_only(reads[i]);
			w->index = plan->nwindows++;
		}
		reads[i]->window = w;
	}
}

/* ---- classes ---- */

typedef struct ClassEntry
{
	Bitmapset *windows; /* hash key */
	SeriesClass *class;
} ClassEntry;

static SeriesClass *
make_class(ReadPlan *plan, Bitmapset *windows)
{
	SeriesClass *c = palloc0(sizeof(SeriesClass));

	c->windows = bms_copy(windows);
	c->index = plan->nclasses;
	if (plan->nclasses == plan->maxclasses)
	{
		plan->maxclasses = Max(2 * plan->maxclasses, 8);
		plan->classes = plan->classes
			? repalloc(plan->classes, sizeof(SeriesClass *) * plan->maxclasses)
			: palloc(sizeof(SeriesClass *) * plan->maxclasses);
	}
	plan->classes[plan->nclasses++] = c;
	return c;
}

static void
add_to_class(SeriesClass *c, MatchedSeries *m)
{
	if (c->nseries == c->maxseries)
	{
		c->maxseries = Max(2 * c->maxseries, 8);
		c->series = c->series
			? repalloc_huge(c->series, sizeof(MatchedSeries *) * (Size) c->maxseries)
			: palloc(sizeof(MatchedSeries *) * c->maxseries);
	}
	c->series[c->nseries++] = m;
	m->class = c;
}

static int
compare_series(const void *a, const void *b)
{
	return compare_int64((*(MatchedSeries *const *) a)->id, (*(MatchedSeries *const *) b)->id);
}

/* Divide the matching series by the windows that read them. */
static void
make_classes(ReadBatch *b, ReadPlan *plan)
{
	HASHCTL ctl = {0};
	HTAB *index;

	ctl.keysize = sizeof(Bitmapset *);
	ctl.entrysize = sizeof(ClassEntry);
	ctl.hash = bitmap_hash;
	ctl.match = bitmap_match;
	ctl.hcxt = b->cxt;
	index = hash_create("classes of series", 16, &ctl,
						HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	plan->classes = NULL;
	plan->nclasses = plan->maxclasses = 0;
	for (int i = 0; i < b->nmatched; i++)
	{
		Bitmapset *windows = NULL;
		ClassEntry *entry;
		bool found;

		for (SeriesUse *use = b->matched[i]->uses; use; use = use->next)
			windows = bms_add_member(windows, use->read->window->index);
		entry = hash_search(index, &windows, HASH_ENTER, &found);
		if (!found)
		{
			entry->class = make_class(plan, windows);
			entry->windows = entry->class->windows;
		}
		add_to_class(entry->class, b->matched[i]);
		bms_free(windows);
	}
	for (int i = 0; i < plan->nclasses; i++)
		qsort(plan->classes[i]->series, plan->classes[i]->nseries, sizeof(MatchedSeries *),
			  compare_series);
}

static void
fill_classes(ReadPlan *plan)
{
	for (int i = 0; i < plan->nclasses; i++)
	{
		SeriesClass *c = plan->classes[i];

		for (ReadTable t = 0; t < READ_TABLES; t++)
		{
			for (int w = -1; (w = bms_next_member(c->windows, w)) >= 0;)
			{
				const TimePieces *p = &plan->windows[w].tables[t];

				for (int j = 0; j < p->n; j++)
					mon_pieces_add(&c->tables[t], p->pieces[j].from, p->pieces[j].to);
			}
			mon_pieces_normalize(&c->tables[t]);
		}
	}
}

static void
make_plan(ReadBatch *b, ReadPlan *plan)
{
	Planner p = {&b->storage, plan->gone};

	make_windows(b, plan);
	for (int i = 0; i < plan->nwindows; i++)
		plan_window(&p, &plan->windows[i]);
	make_classes(b, plan);
	fill_classes(plan);
}

ReadPlan *
mon_read_plan(ReadBatch *b)
{
	ReadPlan *plan = palloc0(sizeof(ReadPlan));

	if (b->storage.compacted)
		plan->gone = find_gone(&b->storage);
	make_plan(b, plan);
	return plan;
}

ReadPlan *
mon_read_plan_again(ReadBatch *b, ReadPlan *plan)
{
	bool again = false;

	for (int i = 0; i < b->nreads; i++)
		again |= minutes_only(b->reads[i]) != b->reads[i]->window->minutes_only;
	if (again)
		make_plan(b, plan);
	return plan;
}
