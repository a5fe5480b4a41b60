/*-------------------------------------------------------------------------
 *
 * statement_registry.c
 *	  What statements did, in shared memory: counters and latency sketches.
 *
 * Each backend has slots of its own for the statements it ran last.  It alone
 * adds to them, under its own spinlock, which nobody else wants but for a
 * moment per snapshot: statements that all sessions run do not meet anywhere.
 * A slot moves into the registry when it is full or another statement needs it;
 * snapshots and readers look at the slots of all backends themselves, so nothing
 * is stranded in an idle session.
 *
 * The registry is cut into partitions by the hash of the statement.  The lock of
 * partition i guards its entries, and slots i of every backend against being
 * moved; the spinlock of a backend guards the contents of its slots while the
 * lock is held shared or not at all.  The lock of databases comes after those of
 * partitions, the allocator's after both.  Who frees the places of databases that
 * were dropped holds the lock of sweeping, before all others, without waiting.
 *
 * What a snapshot takes is sealed with its number and stays until the next one
 * finds in the tables that it has committed: so it is counted once, whether the
 * snapshot commits or not.  Sealed contents do not change but by snapshots, of
 * which there is one at a time per database.
 *
 * When a partition is full, the entry that was idle for longest goes; what of it
 * is not stored is added to its database's entry for others (queryid 0).
 *
 * Nothing on the way from the hooks raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "server/statement.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "core/normalize.h"
#include "metrics/metrics.h"
#include "miscadmin.h"

#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define PARTITIONS 32
#define WAYS 2                      /* slots of a backend per partition */
#define BUCKETS 64                  /* hash chains of a partition */
#define DATABASES 64                /* whose statements are kept */
#define SLOT_LATENCIES 24           /* executions of a slot before it moves */
#define TEXT_READ (256 * 1024)      /* bytes of a statement that are looked at */
#define TEXT_KEPT 8192              /* bytes of its text, the terminating zero included */
#define IDLE_USECS (USECS_PER_HOUR) /* after which a stored entry is forgotten */

typedef struct StatementSlot
{
	StatementKey key;
	uint32 hash;
	bool used;
	bool text_known; /* the registry, or the tables, have its text */
	uint32 used_at;  /* the owner's clock */
	int nlatencies;
	StatementCounters counters;
	double latency[SLOT_LATENCIES];
} StatementSlot;

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

static int max_statements = 5000;

static StatementShared *shared = NULL;
static StatementBackend *backends = NULL;

/* A snapshot of the current transaction: committed with it. */
static StatementDatabase *taken_db = NULL;
static uint64 taken_seq = 0;

#define PARTITION_LOCK(i) (&shared->locks[i].lock)
#define DATABASES_LOCK (&shared->locks[PARTITIONS].lock)
#define SWEEP_LOCK (&shared->locks[PARTITIONS + 1].lock)

/* ---- small parts ---- */

static uint32
hash_key(const StatementKey *key)
{
	return hash_combine(murmurhash32((uint32) key->queryid ^ (uint32) (key->queryid >> 32)),
						murmurhash32(key->userid * 2 + key->toplevel) ^ key->dbid);
}

static bool
same_key(const StatementKey *a, const StatementKey *b)
{
	return a->queryid == b->queryid && a->dbid == b->dbid && a->userid == b->userid &&
		a->toplevel == b->toplevel;
}

static void
add_counters(StatementCounters *to, const StatementCounters *from)
{
	for (int i = 0; i < STATEMENT_COUNTS; i++)
		to->n[i] += from->n[i];
	for (int i = 0; i < STATEMENT_TIMES; i++)
		to->seconds[i] += from->seconds[i];
}

/* Whether something happened: what runs has a call, an error, a cancellation or a plan. */
static bool
has_counts(const StatementCounters *c)
{
	return c->n[STATEMENT_CALLS] > 0 || c->n[STATEMENT_ERRORS] > 0 || c->n[STATEMENT_CANCELS] > 0 ||
		c->n[STATEMENT_PLANS] > 0;
}

static void *
shared_alloc(void *ctx, size_t size, size_t *actual)
{
	return mon_memory_alloc(size, actual, false);
}

static void
shared_free(void *ctx, void *ptr, size_t actual)
{
	mon_memory_free(ptr, actual);
}

static const ExpoAllocator shared_allocator = {shared_alloc, shared_free, NULL};

/* ---- databases ---- */

/* The caller holds the lock of databases exclusively, or does not mind missing a new one. */
static StatementDatabase *
find_database(Oid dbid)
{
	for (int i = 0; i < DATABASES; i++)
		if (shared->databases[i].dbid == dbid)
			return &shared->databases[i];
	return NULL;
}

static void
init_others(StatementDatabase *db)
{
	memset(&db->others, 0, sizeof(db->others));
	db->others.db = db;
	db->others.key.dbid = db->dbid;
	db->others.key.toplevel = true;
	db->others.text_stored = true;
	expo_init(&db->others.latency, EXPO_DEFAULT_SCALE);
	expo_init(&db->others.sealed_latency, EXPO_DEFAULT_SCALE);
}

static StatementDatabase *
get_database(Oid dbid)
{
	StatementDatabase *db = find_database(dbid);

	if (db)
		return db;
	LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
	db = find_database(dbid);
	if (!db && (db = find_database(InvalidOid)) != NULL)
	{
		pg_atomic_write_u64(&db->stored, 0);
		init_others(db);
		db->others.key.dbid = dbid;
		pg_write_barrier();
		db->dbid = dbid;
	}
	LWLockRelease(DATABASES_LOCK);
	return db;
}

static void
free_contents(StatementEntry *e)
{
	expo_free(&e->latency, &shared_allocator);
	expo_free(&e->sealed_latency, &shared_allocator);
	if (e->text)
		mon_memory_free(e->text, e->text_size);
}

/* What could not be kept apart is counted as others of its database. */
static void
add_to_others(StatementDatabase *db, const StatementCounters *counters, const ExpoSketch *latency)
{
	LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
	add_counters(&db->others.open, counters);
	(void) expo_merge(&db->others.latency, latency, &shared_allocator);
	LWLockRelease(DATABASES_LOCK);
}

/* ---- entries; the partition's lock is held exclusively ---- */

static StatementEntry *
find_entry(StatementPartition *p, const StatementKey *key, uint32 hash)
{
	StatementEntry *e = p->bucket[hash / PARTITIONS % BUCKETS];

	while (e && !(e->hash == hash && same_key(&e->key, key)))
		e = e->next;
	return e;
}

static void
remove_entry(StatementPartition *p, StatementEntry *e)
{
	StatementEntry **link = &p->bucket[e->hash / PARTITIONS % BUCKETS];

	while (*link != e)
		link = &(*link)->next;
	*link = e->next;
	free_contents(e);
	memset(e, 0, sizeof(*e));
	e->next = p->free;
	p->free = e;
}

/* Whether what a snapshot took of an entry need not be kept any longer. */
static bool
sealed_is_stored(const StatementEntry *e)
{
	return e->seq == 0 || e->seq <= pg_atomic_read_u64(&e->db->stored);
}

/* Make room: of the entries that a snapshot does not need, first those with nothing open, then the longest idle. */
static bool
evict_entry(StatementPartition *p)
{
	StatementEntry *victim = NULL;
	bool victim_open = true;

	for (int i = 0; i < p->nentries; i++)
	{
		StatementEntry *e = &p->entries[i];
		bool open;

		if (!e->db || !sealed_is_stored(e))
			continue;
		open = has_counts(&e->open) || (e->text && e->text_seq == 0);
		if (!victim || open < victim_open || (open == victim_open && e->used_at < victim->used_at))
		{
			victim = e;
			victim_open = open;
		}
	}
	if (!victim)
		return false;
	if (has_counts(&victim->open))
	{
		add_to_others(victim->db, &victim->open, &victim->latency);
		pg_atomic_fetch_add_u64(&shared->evicted, 1);
	}
	remove_entry(p, victim);
	return true;
}

static StatementEntry *
get_entry(StatementPartition *p, const StatementKey *key, uint32 hash)
{
	StatementEntry *e = find_entry(p, key, hash);
	StatementDatabase *db;

	if (e)
		return e;
	db = get_database(key->dbid);
	if (!db || (!p->free && !evict_entry(p)))
		return NULL;
	e = p->free;
	p->free = e->next;
	e->key = *key;
	e->hash = hash;
	e->db = db;
	expo_init(&e->latency, EXPO_DEFAULT_SCALE);
	expo_init(&e->sealed_latency, EXPO_DEFAULT_SCALE);
	e->next = p->bucket[hash / PARTITIONS % BUCKETS];
	p->bucket[hash / PARTITIONS % BUCKETS] = e;
	return e;
}

/* Give an entry the text of its statement, if there is memory for it. */
static void
set_text(StatementEntry *e, const char *text, Size len)
{
	e->text = mon_memory_alloc(len + 1, &e->text_size, false);
	if (e->text)
		memcpy(e->text, text, len + 1);
}

/* ---- slots ---- */

static void
slot_counted(StatementSlot *slot, StatementCounters *counters, ExpoSketch *latency,
			 const ExpoAllocator *alloc)
{
	add_counters(counters, &slot->counters);
	(void) expo_add_many(latency, slot->latency, slot->nlatencies, alloc);
}

static void
clear_slot(StatementSlot *slot)
{
	memset(&slot->counters, 0, sizeof(slot->counters));
	slot->nlatencies = 0;
}

/*
 * Move a slot into the registry; the partition's lock is held exclusively, and
 * the owner does not add to the slot meanwhile.
 */
static void
move_slot(StatementPartition *p, StatementSlot *slot)
{
	StatementEntry *e = get_entry(p, &slot->key, slot->hash);
	StatementDatabase *db;

	slot->text_known = e && (e->text || e->text_stored);
	if (e)
	{
		slot_counted(slot, &e->open, &e->latency, &shared_allocator);
		e->used_at = GetCurrentTimestamp();
	}
	else if ((db = get_database(slot->key.dbid)) != NULL)
	{
		LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
		slot_counted(slot, &db->others.open, &db->others.latency, &shared_allocator);
		LWLockRelease(DATABASES_LOCK);
	}
	else
		pg_atomic_fetch_add_u64(&shared->lost, slot->counters.n[STATEMENT_CALLS]);
	clear_slot(slot);
}

static void
publish_slot(int partition, StatementSlot *slot)
{
	LWLockAcquire(PARTITION_LOCK(partition), LW_EXCLUSIVE);
	if (has_counts(&slot->counters))
		move_slot(&shared->partition[partition], slot);
	LWLockRelease(PARTITION_LOCK(partition));
}

static StatementSlot *
find_slot(StatementSlot *ways, const StatementKey *key, uint32 hash)
{
	for (int i = 0; i < WAYS; i++)
		if (ways[i].used && ways[i].hash == hash && same_key(&ways[i].key, key))
			return &ways[i];
	return NULL;
}

/* A slot for another statement: a free one, or the one that was not used for longest. */
static StatementSlot *
assign_slot(StatementBackend *own, int partition, const StatementKey *key, uint32 hash)
{
	StatementSlot *ways = own->slot[partition];
	StatementSlot *slot = &ways[0];

	for (int i = 1; i < WAYS && slot->used; i++)
		if (!ways[i].used || (int32) (ways[i].used_at - slot->used_at) < 0)
			slot = &ways[i];
	if (slot->used)
		publish_slot(partition, slot);
	SpinLockAcquire(&own->mutex);
	slot->key = *key;
	slot->hash = hash;
	slot->text_known = false;
	slot->used = true;
	SpinLockRelease(&own->mutex);
	return slot;
}

/* See to it that the registry has the text of a statement. */
static void
register_text(int partition, StatementSlot *slot, const StatementSource *source)
{
	StatementPartition *p = &shared->partition[partition];
	NormalizeOptions options = {.keep_numbers = source->keep_numbers,
								.backslash_in_literals = MON_BACKSLASH_IN_LITERALS};
	char text[TEXT_KEPT];
	StatementEntry *e;
	bool known;

	LWLockAcquire(PARTITION_LOCK(partition), LW_SHARED);
	e = find_entry(p, &slot->key, slot->hash);
	known = e && (e->text || e->text_stored);
	LWLockRelease(PARTITION_LOCK(partition));

	if (!known && source->text)
	{
		const char *start = source->text + Max(source->location, 0);
		Size len = strnlen(start, source->len > 0 ? Min(source->len, TEXT_READ) : TEXT_READ);
		Size text_len = mon_normalize_statement(start, len, &options, text, sizeof(text));

		LWLockAcquire(PARTITION_LOCK(partition), LW_EXCLUSIVE);
		e = get_entry(p, &slot->key, slot->hash);
		if (e && !e->text && !e->text_stored)
			set_text(e, text, text_len);
		LWLockRelease(PARTITION_LOCK(partition));
	}
	slot->text_known = true;
}

/* After an error in what reads the registry its locks are held until the transaction is aborted. */
static bool
holds_lock(int partition)
{
	return LWLockHeldByMe(PARTITION_LOCK(partition)) || LWLockHeldByMe(DATABASES_LOCK);
}

void
mon_statement_add(const StatementKey *key, const StatementSource *source,
				  const StatementCounters *counters, double latency)
{
	static uint32 clock = 0;
	StatementBackend *own = &backends[MonMyProcNumber];
	uint32 hash = hash_key(key);
	int partition = hash % PARTITIONS;
	StatementSlot *slot = find_slot(own->slot[partition], key, hash);

	if (unlikely(!slot || !slot->text_known || slot->nlatencies == SLOT_LATENCIES))
	{
		if (holds_lock(partition))
		{
			pg_atomic_fetch_add_u64(&shared->lost, 1);
			return;
		}
		if (!slot)
			slot = assign_slot(own, partition, key, hash);
		if (slot->nlatencies == SLOT_LATENCIES)
			publish_slot(partition, slot);
		if (!slot->text_known)
			register_text(partition, slot, source);
	}

	SpinLockAcquire(&own->mutex);
	add_counters(&slot->counters, counters);
	if (latency >= 0)
		slot->latency[slot->nlatencies++] = latency;
	SpinLockRelease(&own->mutex);
	slot->used_at = ++clock;
}

/* ---- snapshots ---- */

/*
 * Seal what is open under a snapshot's number.  What an earlier snapshot took and
 * did not store is given out again.
 */
static void
seal_entry(StatementEntry *e, uint64 stored, uint64 seq)
{
	if (e->seq > 0 && e->seq <= stored)
	{
		memset(&e->sealed, 0, sizeof(e->sealed));
		expo_free(&e->sealed_latency, &shared_allocator);
		expo_init(&e->sealed_latency, EXPO_DEFAULT_SCALE);
		e->seq = 0;
	}
	if (e->text && e->text_seq > 0 && e->text_seq <= stored)
	{
		mon_memory_free(e->text, e->text_size);
		e->text = NULL;
		e->text_seq = 0;
		e->text_stored = true;
	}
	if (has_counts(&e->open))
	{
		add_counters(&e->sealed, &e->open);
		memset(&e->open, 0, sizeof(e->open));
		if (e->sealed_latency.count == 0)
		{
			ExpoSketch empty = e->sealed_latency;

			e->sealed_latency = e->latency;
			e->latency = empty;
		}
		else if (expo_merge(&e->sealed_latency, &e->latency, &shared_allocator))
		{
			expo_free(&e->latency, &shared_allocator);
			expo_init(&e->latency, EXPO_DEFAULT_SCALE);
		}
	}
	if (has_counts(&e->sealed))
		e->seq = seq;
	if (e->text)
		e->text_seq = seq;
}

static void
add_row(StatementRow *rows, int *nrows, const StatementEntry *e)
{
	StatementRow *row;

	if (e->seq == 0 && !e->text)
		return;
	row = &rows[(*nrows)++];
	row->key = e->key;
	row->counters = e->sealed;
	row->latency = e->sealed_latency;
	row->text = e->text;
}

/* Move what backends have of a partition and a database into its entries. */
static void
collect_slots(int partition, Oid dbid)
{
	for (int b = 0; b < MaxBackends; b++)
		for (int w = 0; w < WAYS; w++)
		{
			StatementBackend *backend = &backends[b];
			StatementSlot *slot = &backend->slot[partition][w];
			StatementSlot copy;

			if (!slot->used)
				continue;
			SpinLockAcquire(&backend->mutex);
			if (slot->key.dbid != dbid || !has_counts(&slot->counters))
			{
				SpinLockRelease(&backend->mutex);
				continue;
			}
			copy = *slot;
			clear_slot(slot);
			SpinLockRelease(&backend->mutex);

			move_slot(&shared->partition[partition], &copy);
			slot->text_known = copy.text_known;
		}
}

static void sweep_databases(void);

StatementRow *
mon_statements_take(uint64 stored, uint64 seq, int *nrows)
{
	Size capacity = (Size) shared->partition[0].nentries * PARTITIONS + 1;
	StatementRow *rows = palloc_extended(capacity * sizeof(StatementRow), MCXT_ALLOC_HUGE);
	TimestampTz idle_since = GetCurrentTimestamp() - IDLE_USECS;
	StatementDatabase *db = get_database(MyDatabaseId);

	*nrows = 0;
	if (!db)
		return rows;
	sweep_databases();
	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &shared->partition[i];

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(PARTITION_LOCK(i), LW_EXCLUSIVE);
		collect_slots(i, MyDatabaseId);
		for (int k = 0; k < p->nentries; k++)
		{
			StatementEntry *e = &p->entries[k];

			if (e->db != db)
				continue;
			seal_entry(e, stored, seq);
			if (e->seq == 0 && !e->text && e->used_at < idle_since)
				remove_entry(p, e);
			else
				add_row(rows, nrows, e);
		}
		LWLockRelease(PARTITION_LOCK(i));
	}
	LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
	seal_entry(&db->others, stored, seq);
	add_row(rows, nrows, &db->others);
	LWLockRelease(DATABASES_LOCK);
	taken_db = db;
	taken_seq = seq;
	return rows;
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (!taken_db)
		return;
	if (event == XACT_EVENT_COMMIT)
		pg_atomic_write_u64(&taken_db->stored, taken_seq);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		taken_db = NULL;
}

/* ---- reading ---- */

typedef struct CopiedStatement
{
	StatementKey key; /* hash key, zero-padded */
	StatementRow row;
} CopiedStatement;

static StatementRow *
copied_row(HTAB *copied, const StatementKey *key)
{
	StatementKey padded;
	CopiedStatement *c;
	bool found;

	memset(&padded, 0, sizeof(padded));
	padded.queryid = key->queryid;
	padded.dbid = key->dbid;
	padded.userid = key->userid;
	padded.toplevel = key->toplevel;
	c = hash_search(copied, &padded, HASH_ENTER, &found);
	if (!found)
	{
		memset(&c->row, 0, sizeof(c->row));
		c->row.key = *key;
		expo_init(&c->row.latency, EXPO_DEFAULT_SCALE);
	}
	return &c->row;
}

static void
copy_entry(HTAB *copied, const StatementEntry *e, uint64 stored, const ExpoAllocator *alloc)
{
	bool sealed = e->seq > stored;
	bool text = e->text && (e->text_seq == 0 || e->text_seq > stored);
	StatementRow *row;

	if (!sealed && !text && !has_counts(&e->open))
		return;
	row = copied_row(copied, &e->key);
	add_counters(&row->counters, &e->open);
	(void) expo_merge(&row->latency, &e->latency, alloc);
	if (sealed)
	{
		add_counters(&row->counters, &e->sealed);
		(void) expo_merge(&row->latency, &e->sealed_latency, alloc);
	}
	if (text)
		row->text = pstrdup(e->text);
}

static void
copy_slots(HTAB *copied, int partition, const ExpoAllocator *alloc)
{
	for (int b = 0; b < MaxBackends; b++)
		for (int w = 0; w < WAYS; w++)
		{
			StatementBackend *backend = &backends[b];
			StatementSlot copy;
			StatementRow *row;

			if (!backend->slot[partition][w].used)
				continue;
			SpinLockAcquire(&backend->mutex);
			copy = backend->slot[partition][w];
			SpinLockRelease(&backend->mutex);
			if (copy.key.dbid != MyDatabaseId || !has_counts(&copy.counters))
				continue;
			row = copied_row(copied, &copy.key);
			slot_counted(&copy, &row->counters, &row->latency, alloc);
		}
}

StatementRow *
mon_statements_copy(uint64 stored, int *nrows)
{
	HASHCTL ctl = {.keysize = sizeof(StatementKey),
				   .entrysize = sizeof(CopiedStatement),
				   .hcxt = CurrentMemoryContext};
	HTAB *copied = hash_create("statements", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ExpoAllocator alloc = mon_palloc_allocator(CurrentMemoryContext);
	StatementDatabase *db = find_database(MyDatabaseId);
	HASH_SEQ_STATUS seq;
	CopiedStatement *c;
	StatementRow *rows;

	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &shared->partition[i];

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(PARTITION_LOCK(i), LW_SHARED);
		for (int k = 0; db && k < p->nentries; k++)
			if (p->entries[k].db == db)
				copy_entry(copied, &p->entries[k], stored, &alloc);
		copy_slots(copied, i, &alloc);
		LWLockRelease(PARTITION_LOCK(i));
	}
	if (db)
	{
		LWLockAcquire(DATABASES_LOCK, LW_SHARED);
		copy_entry(copied, &db->others, stored, &alloc);
		LWLockRelease(DATABASES_LOCK);
	}

	*nrows = 0;
	rows = palloc_extended(Max(hash_get_num_entries(copied), 1) * sizeof(StatementRow),
						   MCXT_ALLOC_HUGE);
	hash_seq_init(&seq, copied);
	while ((c = hash_seq_search(&seq)) != NULL)
		rows[(*nrows)++] = c->row;
	return rows;
}

StatementRegistryState
mon_statement_registry_state(void)
{
	StatementRegistryState state = {.capacity = max_statements,
									.evicted = pg_atomic_read_u64(&shared->evicted),
									.lost = pg_atomic_read_u64(&shared->lost)};

	for (int i = 0; i < DATABASES; i++)
		state.databases += OidIsValid(shared->databases[i].dbid);
	for (int i = 0; i < PARTITIONS; i++)
	{
		LWLockAcquire(PARTITION_LOCK(i), LW_SHARED);
		for (int k = 0; k < shared->partition[i].nentries; k++)
			state.entries += shared->partition[i].entries[k].db != NULL;
		LWLockRelease(PARTITION_LOCK(i));
	}
	return state;
}

static void
forget_slots(int partition, Oid dbid)
{
	for (int b = 0; b < MaxBackends; b++)
		for (int w = 0; w < WAYS; w++)
		{
			StatementSlot *slot = &backends[b].slot[partition][w];

			SpinLockAcquire(&backends[b].mutex);
			if (slot->used && slot->key.dbid == dbid)
			{
				clear_slot(slot);
				slot->text_known = false;
			}
			SpinLockRelease(&backends[b].mutex);
		}
}

void
mon_statements_forget(Oid dbid)
{
	StatementDatabase *db = find_database(dbid);

	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &shared->partition[i];

		LWLockAcquire(PARTITION_LOCK(i), LW_EXCLUSIVE);
		forget_slots(i, dbid);
		for (int k = 0; db && k < p->nentries; k++)
			if (p->entries[k].db == db)
				remove_entry(p, &p->entries[k]);
		LWLockRelease(PARTITION_LOCK(i));
	}
	if (db)
	{
		LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
		free_contents(&db->others);
		init_others(db);
		LWLockRelease(DATABASES_LOCK);
	}
}

/* The place of a database that was dropped, of whose statements nobody will ask. */
static void
free_database(Oid dbid)
{
	StatementDatabase *db;

	if (!LWLockConditionalAcquire(SWEEP_LOCK, LW_EXCLUSIVE))
		return;
	mon_statements_forget(dbid);
	LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
	db = find_database(dbid);
	if (db)
		db->dbid = InvalidOid;
	LWLockRelease(DATABASES_LOCK);
	LWLockRelease(SWEEP_LOCK);
}

static void
sweep_databases(void)
{
	for (int i = 0; i < DATABASES; i++)
	{
		Oid dbid = shared->databases[i].dbid;

		if (OidIsValid(dbid) && !SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(dbid)))
			free_database(dbid);
	}
}

/* ---- memory ---- */

/* A partition gets more than its share, since hashes do not spread evenly. */
static int
entries_per_partition(void)
{
	return max_statements * 5 / 4 / PARTITIONS + 8;
}

static Size
registry_size(void)
{
	Size size = MAXALIGN(sizeof(StatementShared));

	size = add_size(size, mul_size(sizeof(StatementEntry), entries_per_partition() * PARTITIONS));
	return add_size(size, mul_size(sizeof(StatementBackend), MaxBackends));
}

static void
init_registry(LWLockPadded *locks)
{
	bool found;
	char *area = ShmemInitStruct("monitoring statements", registry_size(), &found);

	shared = (StatementShared *) area;
	area += MAXALIGN(sizeof(StatementShared));
	backends = (StatementBackend *) (area +
									 sizeof(StatementEntry) * entries_per_partition() * PARTITIONS);
	if (found)
		return;

	memset(shared, 0, registry_size());
	shared->locks = locks;
	pg_atomic_init_u64(&shared->evicted, 0);
	pg_atomic_init_u64(&shared->lost, 0);
	for (int i = 0; i < DATABASES; i++)
		pg_atomic_init_u64(&shared->databases[i].stored, 0);
	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &shared->partition[i];

		p->nentries = entries_per_partition();
		p->entries = (StatementEntry *) area + i * p->nentries;
		for (int k = 0; k < p->nentries; k++)
		{
			p->entries[k].next = p->free;
			p->free = &p->entries[k];
		}
	}
	for (int b = 0; b < MaxBackends; b++)
		SpinLockInit(&backends[b].mutex);
}

void
mon_statement_registry_init(void)
{
	static const MonShmemSlice slice = {.name = "monitoring statements",
										.size = registry_size,
										.init = init_registry,
										.nlocks = PARTITIONS + 2};

	DefineCustomIntVariable(
		"monitoring.max_statements", "Statements whose figures are kept in memory.",
		"When there are more, those that have not run for longest are counted "
		"together as others.",
		&max_statements, 5000, 100, 1000000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	mon_shmem_register(&slice);
	RegisterXactCallback(xact_callback, NULL);
}
