/*-------------------------------------------------------------------------
 *
 * statement_registry.c
 *	  What statements did, in shared memory: counters and latency sketches.
 *
 * Each backend has slots of its own for the statements it ran last.  It alone
 * adds to them, under its own spinlock, which nobody else wants but for a
 * moment per snapshot: statements that all sessions run do not meet anywhere.
 * A slot moves into the registry when it is full or another statement needs it, and
 * what is too large for one is counted there at once (statement_slot.h);
 * snapshots and readers look at the slots of all backends themselves, so nothing
 * is stranded in an idle session.
 *
 * The registry is cut into partitions by the hash of the statement.  The lock of
 * partition i guards its entries, and slots i of every backend against being
 * moved; the spinlock of a backend guards the contents of its slots while the
 * lock is held shared or not at all.  The lock of databases comes after those of
 * partitions, the allocator's after both.  Snapshots, readers and what forgets are
 * in statement_snapshot.c.
 *
 * When a partition is full, the entry that was idle for longest goes; what of it
 * is not stored is added to its database's entry for others (queryid 0).
 *
 * Nothing on the way from the hooks raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "server/statement_internal.h"

#include "common/hashfn.h"
#include "core/normalize.h"
#include "metrics/metrics.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#define TEXT_READ (256 * 1024) /* bytes of a statement that are looked at */
#define TEXT_KEPT 8192         /* bytes of its text, the terminating zero included */

static int max_statements = 5000;

StatementShared *mon_statement_shared = NULL;
StatementBackend *mon_statement_backends = NULL;

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

const ExpoAllocator mon_statement_allocator = {shared_alloc, shared_free, NULL};

/* ---- databases ---- */

/* The caller holds the lock of databases exclusively, or does not mind missing a new one. */
StatementDatabase *
mon_statement_find_database(Oid dbid)
{
	for (int i = 0; i < DATABASES; i++)
		if (mon_statement_shared->databases[i].dbid == dbid)
			return &mon_statement_shared->databases[i];
	return NULL;
}

void
mon_statement_init_others(StatementDatabase *db)
{
	memset(&db->others, 0, sizeof(db->others));
	db->others.db = db;
	db->others.key.dbid = db->dbid;
	db->others.key.toplevel = true;
	db->others.text_stored = true;
	expo_init(&db->others.latency, EXPO_DEFAULT_SCALE);
	expo_init(&db->others.sealed_latency, EXPO_DEFAULT_SCALE);
}

StatementDatabase *
mon_statement_get_database(Oid dbid)
{
	StatementDatabase *db = mon_statement_find_database(dbid);

	if (db)
		return db;
	LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
	db = mon_statement_find_database(dbid);
	if (!db && (db = mon_statement_find_database(InvalidOid)) != NULL)
	{
		pg_atomic_write_u64(&db->stored, 0);
		mon_statement_init_others(db);
		db->others.key.dbid = dbid;
		pg_write_barrier();
		db->dbid = dbid;
	}
	LWLockRelease(DATABASES_LOCK);
	return db;
}

void
mon_statement_free_contents(StatementEntry *e)
{
	expo_free(&e->latency, &mon_statement_allocator);
	expo_free(&e->sealed_latency, &mon_statement_allocator);
	if (e->text)
		mon_memory_free(e->text, e->text_size);
}

/* What could not be kept apart is counted as others of its database. */
static void
add_to_others(StatementDatabase *db, const StatementCounters *counters, const ExpoSketch *latency)
{
	LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
	add_counters(&db->others.open, counters);
	(void) expo_merge(&db->others.latency, latency, &mon_statement_allocator);
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

void
mon_statement_remove_entry(StatementPartition *p, StatementEntry *e)
{
	StatementEntry **link = &p->bucket[e->hash / PARTITIONS % BUCKETS];

	while (*link != e)
		link = &(*link)->next;
	*link = e->next;
	mon_statement_free_contents(e);
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
		pg_atomic_fetch_add_u64(&mon_statement_shared->evicted, 1);
	}
	mon_statement_remove_entry(p, victim);
	return true;
}

static StatementEntry *
get_entry(StatementPartition *p, const StatementKey *key, uint32 hash)
{
	StatementEntry *e = find_entry(p, key, hash);
	StatementDatabase *db;

	if (e)
		return e;
	db = mon_statement_get_database(key->dbid);
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

/*
 * Count in the registry; the partition's lock is held exclusively.  Returns whether
 * the text is there.
 */
static bool
count(StatementPartition *p, const StatementKey *key, uint32 hash,
	  const StatementCounters *counters, const double *latency, int nlatencies)
{
	StatementEntry *e = get_entry(p, key, hash);
	StatementDatabase *db;

	if (e)
	{
		add_counters(&e->open, counters);
		(void) expo_add_many(&e->latency, latency, nlatencies, &mon_statement_allocator);
		e->used_at = GetCurrentTimestamp();
	}
	else if ((db = mon_statement_get_database(key->dbid)) != NULL)
	{
		LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
		add_counters(&db->others.open, counters);
		(void) expo_add_many(&db->others.latency, latency, nlatencies, &mon_statement_allocator);
		LWLockRelease(DATABASES_LOCK);
	}
	else
		pg_atomic_fetch_add_u64(&mon_statement_shared->lost, counters->n[STATEMENT_CALLS]);
	return e && (e->text || e->text_stored);
}

/* ---- slots ---- */

/*
 * Move a slot into the registry; the partition's lock is held exclusively, and
 * the owner does not add to the slot meanwhile.
 */
void
mon_statement_move_slot(StatementPartition *p, StatementSlot *slot)
{
	SlotContents c;

	slot_contents(slot, &c);
	slot->text_known = count(p, &slot->key, slot->hash, &c.counters, c.latency, slot->nlatencies);
	clear_slot(slot);
}

static void
publish_slot(int partition, StatementSlot *slot)
{
	LWLockAcquire(PARTITION_LOCK(partition), LW_EXCLUSIVE);
	if (slot_has_counts(slot))
		mon_statement_move_slot(&mon_statement_shared->partition[partition], slot);
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
register_text(int partition, const StatementKey *key, uint32 hash, const StatementSource *source)
{
	StatementPartition *p = &mon_statement_shared->partition[partition];
	NormalizeOptions options = {.keep_numbers = source->keep_numbers,
								.backslash_in_literals = MON_BACKSLASH_IN_LITERALS};
	char text[TEXT_KEPT];
	StatementEntry *e;
	bool known;

	LWLockAcquire(PARTITION_LOCK(partition), LW_SHARED);
	e = find_entry(p, key, hash);
	known = e && (e->text || e->text_stored);
	LWLockRelease(PARTITION_LOCK(partition));

	if (!known && source->text)
	{
		const char *start = source->text + Max(source->location, 0);
		Size len = strnlen(start, source->len > 0 ? Min(source->len, TEXT_READ) : TEXT_READ);
		Size text_len = mon_normalize_statement(start, len, &options, text, sizeof(text));

		LWLockAcquire(PARTITION_LOCK(partition), LW_EXCLUSIVE);
		e = get_entry(p, key, hash);
		if (e && !e->text && !e->text_stored)
			set_text(e, text, text_len);
		LWLockRelease(PARTITION_LOCK(partition));
	}
}

/* After an error in what reads the registry its locks are held until the transaction is aborted. */
static bool
holds_lock(int partition)
{
	return LWLockHeldByMe(PARTITION_LOCK(partition)) || LWLockHeldByMe(DATABASES_LOCK);
}

/* What is too large for a slot: a statement that took seconds can wait for a lock. */
static void
add_to_registry(int partition, const StatementKey *key, uint32 hash, const StatementSource *source,
				const StatementCounters *counters, double latency)
{
	bool text_known;

	LWLockAcquire(PARTITION_LOCK(partition), LW_EXCLUSIVE);
	text_known = count(&mon_statement_shared->partition[partition], key, hash, counters, &latency,
					   latency >= 0);
	LWLockRelease(PARTITION_LOCK(partition));
	if (!text_known)
		register_text(partition, key, hash, source);
}

pg_attribute_hot void
mon_statement_add(const StatementKey *key, const StatementSource *source,
				  const StatementCounters *counters, double latency)
{
	static uint32 clock = 0;
	StatementBackend *own = &mon_statement_backends[MonMyProcNumber];
	uint32 hash = hash_key(key);
	int partition = hash % PARTITIONS;
	StatementSlot *slot = find_slot(own->slot[partition], key, hash);
	bool fits = fits_slot(counters, latency);

	if (unlikely(!slot || !slot->text_known || slot->full || !fits))
	{
		if (holds_lock(partition))
		{
			pg_atomic_fetch_add_u64(&mon_statement_shared->lost, 1);
			return;
		}
		if (!fits)
		{
			add_to_registry(partition, key, hash, source, counters, latency);
			return;
		}
		if (!slot)
			slot = assign_slot(own, partition, key, hash);
		if (slot->full)
			publish_slot(partition, slot);
		if (!slot->text_known)
			register_text(partition, key, hash, source);
		slot->text_known = true;
	}

	SpinLockAcquire(&own->mutex);
	add_to_slot(slot, counters, latency);
	SpinLockRelease(&own->mutex);
	slot->used_at = ++clock;
}

/* ---- memory ---- */

StatementRegistryState
mon_statement_registry_state(void)
{
	StatementRegistryState state = {.capacity = max_statements,
									.evicted = pg_atomic_read_u64(&mon_statement_shared->evicted),
									.lost = pg_atomic_read_u64(&mon_statement_shared->lost)};

	for (int i = 0; i < DATABASES; i++)
		state.databases += OidIsValid(mon_statement_shared->databases[i].dbid);
	for (int i = 0; i < PARTITIONS; i++)
	{
		LWLockAcquire(PARTITION_LOCK(i), LW_SHARED);
		for (int k = 0; k < mon_statement_shared->partition[i].nentries; k++)
			state.entries += mon_statement_shared->partition[i].entries[k].db != NULL;
		LWLockRelease(PARTITION_LOCK(i));
	}
	return state;
}

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

	mon_statement_shared = (StatementShared *) area;
	area += MAXALIGN(sizeof(StatementShared));
	mon_statement_backends = (StatementBackend *) (area +
												   sizeof(StatementEntry) *
													   entries_per_partition() * PARTITIONS);
	if (found)
		return;

	memset(mon_statement_shared, 0, registry_size());
	mon_statement_shared->locks = locks;
	pg_atomic_init_u64(&mon_statement_shared->evicted, 0);
	pg_atomic_init_u64(&mon_statement_shared->lost, 0);
	for (int i = 0; i < DATABASES; i++)
		pg_atomic_init_u64(&mon_statement_shared->databases[i].stored, 0);
	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &mon_statement_shared->partition[i];

		p->nentries = entries_per_partition();
		p->entries = (StatementEntry *) area + i * p->nentries;
		for (int k = 0; k < p->nentries; k++)
		{
			p->entries[k].next = p->free;
			p->free = &p->entries[k];
		}
	}
	for (int b = 0; b < MaxBackends; b++)
		SpinLockInit(&mon_statement_backends[b].mutex);
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
	mon_statement_snapshot_init();
}
