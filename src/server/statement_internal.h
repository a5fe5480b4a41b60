/*-------------------------------------------------------------------------
 *
 * statement_internal.h
 *	  The memory of statements, between those who count (statement_registry.c) and
 *	  those who read, store and forget (statement_snapshot.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_STATEMENT_INTERNAL_H
#define MONITORING_STATEMENT_INTERNAL_H

#include "server/statement_slot.h"

#include "storage/lwlock.h"
#include "storage/spin.h"

#define PARTITIONS 32
#define WAYS 2       /* slots of a backend per partition */
#define BUCKETS 64   /* hash chains of a partition */
#define DATABASES 64 /* whose statements are kept */

typedef struct StatementBackend
{
	slock_t mutex;
	StatementSlot slot[PARTITIONS][WAYS];
} StatementBackend;

struct StatementDatabase;

typedef struct StatementEntry
{
	struct StatementEntry *next;  /* hash chain, or free list */
	struct StatementDatabase *db; /* null: free */
	StatementKey key;
	uint32 hash;
	TimestampTz used_at;
	StatementCounters open;
	ExpoSketch latency;
	uint64 seq; /* snapshot that took what follows; 0: none */
	StatementCounters sealed;
	ExpoSketch sealed_latency;
	char *text; /* null: unknown, or stored */
	Size text_size;
	bool text_stored;
	uint64 text_seq; /* snapshot that took it */
} StatementEntry;

typedef struct StatementDatabase
{
	Oid dbid;                /* 0: free */
	pg_atomic_uint64 stored; /* latest snapshot that is known to have committed */
	StatementEntry others;
} StatementDatabase;

typedef struct StatementPartition
{
	StatementEntry *bucket[BUCKETS];
	StatementEntry *free;
	StatementEntry *entries;
	int nentries;
} StatementPartition;

typedef struct StatementShared
{
	LWLockPadded *locks; /* one per partition, then those of databases and of sweeping */
	pg_atomic_uint64 evicted;
	pg_atomic_uint64 lost;
	StatementDatabase databases[DATABASES];
	StatementPartition partition[PARTITIONS];
} StatementShared;

extern StatementShared *mon_statement_shared;
extern StatementBackend *mon_statement_backends;
extern const ExpoAllocator mon_statement_allocator;

#define PARTITION_LOCK(i) (&mon_statement_shared->locks[i].lock)
#define DATABASES_LOCK (&mon_statement_shared->locks[PARTITIONS].lock)
#define SWEEP_LOCK (&mon_statement_shared->locks[PARTITIONS + 1].lock)

static inline void
add_counters(StatementCounters *to, const StatementCounters *from)
{
	for (int i = 0; i < STATEMENT_COUNTS; i++)
		to->n[i] += from->n[i];
	for (int i = 0; i < STATEMENT_TIMES; i++)
		to->seconds[i] += from->seconds[i];
}

/* Whether something happened: what runs has a call, an error, a cancellation or a plan. */
static inline bool
has_counts(const StatementCounters *c)
{
	return c->n[STATEMENT_CALLS] > 0 || c->n[STATEMENT_ERRORS] > 0 || c->n[STATEMENT_CANCELS] > 0 ||
		c->n[STATEMENT_PLANS] > 0;
}

/* ---- statement_registry.c ---- */

/* The caller holds the lock of databases exclusively, or does not mind missing a new one. */
extern StatementDatabase *mon_statement_find_database(Oid dbid);

/* Makes a place for it if there is room; else NULL. */
extern StatementDatabase *mon_statement_get_database(Oid dbid);

/* The lock of databases is held exclusively by the callers of these. */
extern void mon_statement_init_others(StatementDatabase *db);
extern void mon_statement_free_contents(StatementEntry *e);

/* The partition's lock is held exclusively by the callers of these. */
extern void mon_statement_remove_entry(StatementPartition *p, StatementEntry *e);

/* Move a slot, to which its owner does not add meanwhile, into the registry. */
extern void mon_statement_move_slot(StatementPartition *p, StatementSlot *slot);

/* ---- statement_snapshot.c ---- */

extern void mon_statement_snapshot_init(void);

#endif /* MONITORING_STATEMENT_INTERNAL_H */
