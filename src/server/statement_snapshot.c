/*-------------------------------------------------------------------------
 *
 * statement_snapshot.c
 *	  What was counted of statements, for snapshots and readers; and forgetting it.
 *
 * What a snapshot takes is sealed with its number and stays until the next one
 * finds in the tables that it has committed: so it is counted once, whether the
 * snapshot commits or not.  Sealed contents do not change but by snapshots, of
 * which there is one at a time per database.
 *
 * Which lock guards what: see statement_registry.c.  Who frees the places of
 * databases that were dropped holds the lock of sweeping, before all others,
 * without waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "server/statement_internal.h"
#include "core/transaction.h"

#include "access/xact.h"
#include "metrics/metrics.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define IDLE_USECS (USECS_PER_HOUR) /* after which a stored entry is forgotten */

/* A snapshot of the current transaction: committed with it. */
static StatementDatabase *taken_db = NULL;
static uint64 taken_seq = 0;
static MonTransactionPart snapshot_part;

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
		expo_free(&e->sealed_latency, &mon_statement_allocator);
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
		else if (expo_merge(&e->sealed_latency, &e->latency, &mon_statement_allocator))
		{
			expo_free(&e->latency, &mon_statement_allocator);
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
			StatementBackend *backend = &mon_statement_backends[b];
			StatementSlot *slot = &backend->slot[partition][w];
			StatementSlot copy;

			if (!slot->used)
				continue;
			SpinLockAcquire(&backend->mutex);
			if (slot->key.dbid != dbid || !slot_has_counts(slot))
			{
				SpinLockRelease(&backend->mutex);
				continue;
			}
			copy = *slot;
			clear_slot(slot);
			SpinLockRelease(&backend->mutex);

			mon_statement_move_slot(&mon_statement_shared->partition[partition], &copy);
			slot->text_known = copy.text_known;
		}
}

static void sweep_databases(void);

StatementRow *
mon_statements_take(uint64 stored, uint64 seq, int *nrows)
{
	Size capacity = (Size) mon_statement_shared->partition[0].nentries * PARTITIONS + 1;
	StatementRow *rows = palloc_extended(capacity * sizeof(StatementRow), MCXT_ALLOC_HUGE);
	TimestampTz idle_since = GetCurrentTimestamp() - IDLE_USECS;
	StatementDatabase *db = mon_statement_get_database(MyDatabaseId);

	*nrows = 0;
	if (!db)
		return rows;
	sweep_databases();
	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &mon_statement_shared->partition[i];

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
				mon_statement_remove_entry(p, e);
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
	mon_transaction_join(&snapshot_part);
	return rows;
}

static void
snapshot_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		pg_atomic_write_u64(&taken_db->stored, taken_seq);
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
			StatementBackend *backend = &mon_statement_backends[b];
			StatementSlot copy;
			SlotContents c;
			StatementRow *row;

			if (!backend->slot[partition][w].used)
				continue;
			SpinLockAcquire(&backend->mutex);
			copy = backend->slot[partition][w];
			SpinLockRelease(&backend->mutex);
			if (copy.key.dbid != MyDatabaseId || !slot_has_counts(&copy))
				continue;
			slot_contents(&copy, &c);
			row = copied_row(copied, &copy.key);
			add_counters(&row->counters, &c.counters);
			(void) expo_add_many(&row->latency, c.latency, copy.nlatencies, alloc);
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
	StatementDatabase *db = mon_statement_find_database(MyDatabaseId);
	HASH_SEQ_STATUS seq;
	CopiedStatement *c;
	StatementRow *rows;

	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &mon_statement_shared->partition[i];

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

/* ---- forgetting ---- */

static void
forget_slots(int partition, Oid dbid)
{
	for (int b = 0; b < MaxBackends; b++)
		for (int w = 0; w < WAYS; w++)
		{
			StatementSlot *slot = &mon_statement_backends[b].slot[partition][w];

			SpinLockAcquire(&mon_statement_backends[b].mutex);
			if (slot->used && slot->key.dbid == dbid)
			{
				clear_slot(slot);
				slot->text_known = false;
			}
			SpinLockRelease(&mon_statement_backends[b].mutex);
		}
}

void
mon_statements_forget(Oid dbid)
{
	StatementDatabase *db = mon_statement_find_database(dbid);

	for (int i = 0; i < PARTITIONS; i++)
	{
		StatementPartition *p = &mon_statement_shared->partition[i];

		LWLockAcquire(PARTITION_LOCK(i), LW_EXCLUSIVE);
		forget_slots(i, dbid);
		for (int k = 0; db && k < p->nentries; k++)
			if (p->entries[k].db == db)
				mon_statement_remove_entry(p, &p->entries[k]);
		LWLockRelease(PARTITION_LOCK(i));
	}
	if (db)
	{
		LWLockAcquire(DATABASES_LOCK, LW_EXCLUSIVE);
		mon_statement_free_contents(&db->others);
		mon_statement_init_others(db);
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
	db = mon_statement_find_database(dbid);
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
		Oid dbid = mon_statement_shared->databases[i].dbid;

		if (OidIsValid(dbid) && !SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(dbid)))
			free_database(dbid);
	}
}

void
mon_statement_snapshot_init(void)
{
	mon_transaction_register(&snapshot_part, snapshot_at_end, NULL);
}
