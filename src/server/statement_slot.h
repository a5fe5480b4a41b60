/*-------------------------------------------------------------------------
 *
 * statement_slot.h
 *	  What a session has counted of a statement it ran of late.
 *
 * Each connection has many slots, so their numbers are narrow: times are
 * nanoseconds, which is what clocks give, and nothing is lost.  A number with the
 * highest bit set is not added, and a slot that has one is full: so none overflows.
 *
 * Who may touch a slot when is in statement_registry.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_STATEMENT_SLOT_H
#define MONITORING_STATEMENT_SLOT_H

#include "server/statement.h"

#define SLOT_LATENCIES 24             /* executions of a slot before it moves */
#define SLOT_LIMIT ((uint32) 1 << 31) /* of its numbers, and of those that are added */

typedef struct StatementSlot
{
	StatementKey key;
	uint32 hash;
	uint32 used_at; /* the owner's clock */
	bool used;
	bool text_known; /* the registry, or the tables, have its text */
	bool full;       /* is to move before anything is added */
	uint8 nlatencies;
	uint32 n[STATEMENT_COUNTS];
	uint32 ns[STATEMENT_TIMES];
	uint32 latency_ns[SLOT_LATENCIES];
} StatementSlot;

/* What is in a slot, in the width of the registry. */
typedef struct SlotContents
{
	StatementCounters counters;
	double latency[SLOT_LATENCIES];
} SlotContents;

static inline void
slot_contents(const StatementSlot *slot, SlotContents *c)
{
	for (int i = 0; i < STATEMENT_COUNTS; i++)
		c->counters.n[i] = slot->n[i];
	for (int i = 0; i < STATEMENT_TIMES; i++)
		c->counters.seconds[i] = slot->ns[i] / 1e9;
	for (int i = 0; i < slot->nlatencies; i++)
		c->latency[i] = slot->latency_ns[i] / 1e9;
}

static inline bool
slot_has_counts(const StatementSlot *slot)
{
	return (slot->n[STATEMENT_CALLS] | slot->n[STATEMENT_ERRORS] | slot->n[STATEMENT_CANCELS] |
			slot->n[STATEMENT_PLANS]) > 0;
}

static inline void
clear_slot(StatementSlot *slot)
{
	memset(slot->n, 0, sizeof(slot->n));
	memset(slot->ns, 0, sizeof(slot->ns));
	slot->nlatencies = 0;
	slot->full = false;
}

/* Whether numbers can be added to a slot. */
static inline bool
fits_slot(const StatementCounters *counters, double latency)
{
	uint64 all = 0;
	double longest = latency;
	bool backwards = false;

	for (int i = 0; i < STATEMENT_COUNTS; i++)
		all |= (uint64) counters->n[i];
	for (int i = 0; i < STATEMENT_TIMES; i++)
	{
		longest = Max(longest, counters->seconds[i]);
		backwards |= !(counters->seconds[i] >= 0);
	}
	return all < SLOT_LIMIT && longest < (SLOT_LIMIT - 1) / 1e9 && !backwards;
}

static inline void
add_to_slot(StatementSlot *slot, const StatementCounters *counters, double latency)
{
	uint32 all = 0;

	for (int i = 0; i < STATEMENT_COUNTS; i++)
	{
		slot->n[i] += (uint32) counters->n[i];
		all |= slot->n[i];
	}
	for (int i = 0; i < STATEMENT_TIMES; i++)
	{
		slot->ns[i] += (uint32) (counters->seconds[i] * 1e9 + 0.5);
		all |= slot->ns[i];
	}
	if (latency >= 0)
		slot->latency_ns[slot->nlatencies++] = (uint32) (latency * 1e9 + 0.5);
	slot->full = all >= SLOT_LIMIT || slot->nlatencies == SLOT_LATENCIES;
}

#endif /* MONITORING_STATEMENT_SLOT_H */
