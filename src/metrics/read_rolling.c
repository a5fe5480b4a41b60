/*-------------------------------------------------------------------------
 *
 * read_rolling.c
 *	  Windows that move over the cells of a read.
 *
 * Nothing is taken out of a sum again: minima could not be, and sums would
 * drift.  The cells are cut into blocks as wide as a window.  A window is then
 * the end of one block and the beginning of the next: sums from each cell to the
 * end of its block are made in place, those from the beginning of the next block
 * grow along.  So each cell is merged three times, however wide the window is.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "miscadmin.h"
#include "utils/memutils.h"

typedef struct Roll
{
	ReadState *state;
	MonPoint *cells; /* from the first window on */
	int ncells;
	int width;
	int block;       /* start of the block whose cells are sums to its end */
	MonPoint prefix; /* sum of cells of the next block ... */
	int prefix_end;  /* ... before this one */
	MonPoint sum;    /* of a window */
} Roll;

static void
clear(Roll *r, MonPoint *p)
{
	expo_free(&p->sketch, &r->state->batch->alloc);
	mon_point_init(p, r->state->kind);
}

static void
merge_copy(Roll *r, MonPoint *into, const MonPoint *from)
{
	mon_point_merge_copy(into, from, r->state->fn.needs_sketch, &r->state->batch->alloc);
}

/* Go to the block that begins at a cell. */
static void
enter_block(Roll *r, int block)
{
	int end = Min(block + r->width, r->ncells);

	for (int i = r->block; i < block; i++)
		clear(r, &r->cells[i]);
	for (int i = end - 2; i >= block; i--)
		merge_copy(r, &r->cells[i], &r->cells[i + 1]);
	r->block = block;
	clear(r, &r->prefix);
	r->prefix_end = end;
}

/* The sum of the window that begins at a cell, not before the last one. */
static const MonPoint *
window_sum(Roll *r, int start)
{
	int end = Min(start + r->width, r->ncells);

	while (start >= r->block + r->width)
		enter_block(r, r->block + r->width);
	for (; r->prefix_end < end; r->prefix_end++)
		merge_copy(r, &r->prefix, &r->cells[r->prefix_end]);
	if (r->prefix.count == 0)
		return &r->cells[start];
	if (r->cells[start].count == 0)
		return &r->prefix;
	clear(r, &r->sum);
	merge_copy(r, &r->sum, &r->cells[start]);
	merge_copy(r, &r->sum, &r->prefix);
	return &r->sum;
}

void
mon_roll(ReadState *state, const ReadGroup *g, const ReadWindows *w,
		 void (*emit)(int window, const MonPoint *sum, void *arg), void *arg)
{
	Roll r = {state, g->cells + w->first, state->nbuckets - w->first, w->width};

	mon_point_init(&r.prefix, state->kind);
	mon_point_init(&r.sum, state->kind);
	enter_block(&r, 0);
	for (int i = 0; i < w->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		emit(i, window_sum(&r, i * w->stride), arg);
	}
	clear(&r, &r.prefix);
	clear(&r, &r.sum);
}

/* Count a series in all windows that hold one of its cells. */
static void
count_series(const ReadState *state, const ReadWindows *w, const SeriesUse *use, int *changes)
{
	int counted = 0; /* windows before this one */

	for (int cell = 0; cell < state->nbuckets; cell++)
	{
		int at = cell - w->first;
		int from, to;

		if (!(use->seen[cell / 64] & (UINT64CONST(1) << (cell % 64))) || at < 0)
			continue;
		from = Max(counted, (at - w->width + w->stride) / w->stride);
		to = Min(at / w->stride + 1, w->n);
		if (from >= to)
			continue;
		changes[from]++;
		changes[to]--;
		counted = to;
	}
}

int **
mon_roll_series(ReadState *state, const ReadWindows *w)
{
	const ReadBatch *b = state->batch;
	int **counts = MemoryContextAllocExtended(b->cxt, sizeof(int *) * (state->ngroups + 1),
											  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	for (int i = 0; i < b->nmatched; i++)
		for (SeriesUse *use = b->matched[i]->uses; use; use = use->next)
		{
			if (use->read != state || !use->seen)
				continue;
			if (!counts[use->group])
				counts[use->group] = MemoryContextAllocZero(b->cxt, sizeof(int) * (w->n + 1));
			count_series(state, w, use, counts[use->group]);
		}
	for (int g = 0; g < state->ngroups; g++)
		for (int i = 1; counts[g] && i < w->n; i++)
			counts[g][i] += counts[g][i - 1];
	return counts;
}
