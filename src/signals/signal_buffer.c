/*-------------------------------------------------------------------------
 *
 * signal_buffer.c
 *	  Slots for signals and counters in shared memory.
 *
 * Slots are claimed by compare-and-swap on their state, found from a ticket
 * onward; there is no head that a slow consumer could block, since every
 * database's worker takes its own and in any order.  A quarter of them is kept
 * for log-ins and changes, which a storm of errors must not crowd out.  Slow
 * executions have slots of their own, with room for a plan.
 *
 * Everything is also counted, by kind, level, code and database, before room is
 * looked for: the totals are right whatever is dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "signals/signals.h"
#include "signals/client.h"
#include "signals/signals_internal.h"

#include "core/core.h"
#include "core/normalize.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/pg_shmem.h"
#include "storage/shmem.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define MAX_PROBES 64
#define COUNTERS 1024
#define COUNTER_PROBES 32
#define DRAINERS 64
#define HOME_USECS                                                                                 \
	(60 * USECS_PER_SEC) /* a database that has not drained for so long is not the home */
#define ORPHAN_USECS (300 * USECS_PER_SEC)  /* nor are its signals left to it */
#define FORGET_USECS (3600 * USECS_PER_SEC) /* nor is its place */
#define SCANNED_OF_STATEMENT (16 * 1024)
#define SCANNED_OF_EXECUTION (256 * 1024)

enum
{
	SLOT_FREE,
	SLOT_WRITING,
	SLOT_READY,
	SLOT_TAKEN
};

/* Counters are made by whoever counts first; two for the same thing add up. */
typedef struct Counter
{
	pg_atomic_uint32 state; /* SLOT_FREE, SLOT_WRITING, SLOT_READY */
	SignalKind kind;
	int level;
	int code;
	Oid dbid;
	pg_atomic_uint64 total;
	pg_atomic_uint64 dropped;
	pg_atomic_uint64 recorded; /* written by workers only */
	pg_atomic_uint64 recorded_dropped;
} Counter;

/* A database that has a worker. */
typedef struct Drainer
{
	pg_atomic_uint32 dbid;
	pg_atomic_uint64 drained_at;
} Drainer;

typedef struct SignalBuffer
{
	pg_atomic_uint64 next_number;
	pg_atomic_uint32 tickets[SIGNAL_KINDS];
	pg_atomic_uint64 published;                /* moves whenever something is to be drained */
	Counter counters[COUNTERS + SIGNAL_KINDS]; /* the last: of what has no counter */
	Drainer drainers[DRAINERS];
} SignalBuffer;

static const uint16 text_limit[SIGNAL_TEXTS] = {
	[TEXT_TEMPLATE] = 300,   [TEXT_MESSAGE] = 1000,   [TEXT_DETAIL] = 400,    [TEXT_HINT] = 200,
	[TEXT_STATEMENT] = 1000, [TEXT_CONTEXT] = 600,    [TEXT_SCHEMA] = 64,     [TEXT_TABLE] = 64,
	[TEXT_COLUMN] = 64,      [TEXT_DATATYPE] = 64,    [TEXT_CONSTRAINT] = 64, [TEXT_USER] = 64,
	[TEXT_DATABASE] = 64,    [TEXT_APPLICATION] = 64, [TEXT_CLIENT] = 64};

StaticAssertDecl(300 + 1000 + 400 + 200 + 1000 + 600 + 9 * 64 <= SIGNAL_TEXT_BYTES,
				 "texts at their limits have room");

/* A slow execution's are longer. */
static const uint16 execution_text_limit[SIGNAL_TEXTS] = {
	[TEXT_STATEMENT] = EXECUTION_STATEMENT_BYTES,
	[TEXT_EXECUTION] = sizeof(ExecutionFacts),
	[TEXT_CORRELATION] = 128,
	[TEXT_TRACEPARENT] = 64,
	[TEXT_PLAN] = EXECUTION_PLAN_BYTES,
	[TEXT_USER] = 64,
	[TEXT_DATABASE] = 64,
	[TEXT_APPLICATION] = 64,
	[TEXT_CLIENT] = 64};

StaticAssertDecl(EXECUTION_STATEMENT_BYTES + sizeof(ExecutionFacts) + 128 + 64 +
						 EXECUTION_PLAN_BYTES + 4 * 64 <=
					 EXECUTION_TEXT_BYTES,
				 "texts of a slow execution at their limits have room");

static int log_buffer = 4096; /* kB */

static SignalBuffer *buffer = NULL;
static pg_atomic_uint32 *states = NULL;
static char *slots = NULL;

/* Slots of errors come first, then those of log-ins and changes, then those of slow executions. */
static int nslots = 0;
static int nerror_slots = 0;
static int nsmall_slots = 0;

#define SMALL_SLOT MAXALIGN(offsetof(Signal, texts) + SIGNAL_TEXT_BYTES)
#define EXECUTION_SLOT MAXALIGN(offsetof(Signal, texts) + EXECUTION_TEXT_BYTES)

static Size
slot_size(int place)
{
	return place < nsmall_slots ? SMALL_SLOT : EXECUTION_SLOT;
}

static Signal *
slot_at(int place)
{
	int small = Min(place, nsmall_slots);

	return (Signal *) (slots + small * SMALL_SLOT + (place - small) * EXECUTION_SLOT);
}

/* ---- shared memory ---- */

static int
small_slots_of_setting(void)
{
	return Max((int) ((Size) log_buffer * 1024 / SMALL_SLOT), 16);
}

/* A quarter of the setting, on top of it. */
static int
execution_slots_of_setting(void)
{
	return Max((int) ((Size) log_buffer * 256 / EXECUTION_SLOT), 16);
}

static Size
buffer_size(void)
{
	Size size = MAXALIGN(sizeof(SignalBuffer));

	int small = small_slots_of_setting();
	int executions = execution_slots_of_setting();

	size = add_size(size, MAXALIGN(mul_size(small + executions, sizeof(pg_atomic_uint32))));
	size = add_size(size, mul_size(small, SMALL_SLOT));
	return add_size(size, mul_size(executions, EXECUTION_SLOT));
}

static void
counter_init(Counter *c)
{
	pg_atomic_init_u32(&c->state, SLOT_FREE);
	pg_atomic_init_u64(&c->total, 0);
	pg_atomic_init_u64(&c->dropped, 0);
	pg_atomic_init_u64(&c->recorded, 0);
	pg_atomic_init_u64(&c->recorded_dropped, 0);
}

static void
buffer_reset(SignalBuffer *b, pg_atomic_uint32 *all_states)
{
	pg_atomic_init_u64(&b->next_number, 1);
	for (int i = 0; i < SIGNAL_KINDS; i++)
		pg_atomic_init_u32(&b->tickets[i], 0);
	pg_atomic_init_u64(&b->published, 0);
	for (int i = 0; i < COUNTERS + SIGNAL_KINDS; i++)
		counter_init(&b->counters[i]);
	for (int i = 0; i < SIGNAL_KINDS; i++)
	{
		Counter *c = &b->counters[COUNTERS + i];

		c->kind = i;
		c->level = c->code = 0;
		c->dbid = InvalidOid;
		pg_atomic_write_u32(&c->state, SLOT_READY);
	}
	for (int i = 0; i < DRAINERS; i++)
	{
		pg_atomic_init_u32(&b->drainers[i].dbid, InvalidOid);
		pg_atomic_init_u64(&b->drainers[i].drained_at, 0);
	}
	for (int i = 0; i < nslots; i++)
		pg_atomic_init_u32(&all_states[i], SLOT_FREE);
}

/* The postmaster may have something to log when its segment is gone already. */
static void
forget_buffer(int code, Datum arg)
{
	buffer = NULL;
}

static void
buffer_attach(LWLockPadded *locks)
{
	bool found;
	char *memory;
	SignalBuffer *b;

	nsmall_slots = small_slots_of_setting();
	nerror_slots = nsmall_slots * 3 / 4;
	nslots = nsmall_slots + execution_slots_of_setting();
	memory = ShmemInitStruct("monitoring signals", buffer_size(), &found);
	b = (SignalBuffer *) memory;
	states = (pg_atomic_uint32 *) (memory + MAXALIGN(sizeof(SignalBuffer)));
	slots = (char *) states + MAXALIGN(nslots * sizeof(pg_atomic_uint32));
	if (!found)
		buffer_reset(b, states);
	on_shmem_exit(forget_buffer, (Datum) 0);
	buffer = b;
}

/* Some processes of the server detach from shared memory. */
static bool
usable(void)
{
	return buffer != NULL && UsedShmemSegAddr != NULL;
}

void
mon_signal_buffer_init(void)
{
	static const MonShmemSlice slice = {"monitoring signals", buffer_size, buffer_attach, 0};

	DefineCustomIntVariable(
		"monitoring.log_buffer", "Memory for errors, log-ins and changes that are not stored yet.",
		"Slow executions have a quarter as much on top of it. What finds no room is counted and "
		"not stored; a worker stores what is there every second.",
		&log_buffer, 4096, 128, MAX_KILOBYTES / 4, PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
	mon_shmem_register(&slice);
}

/* ---- counters ---- */

static bool
counts(const Counter *c, SignalKind kind, int level, int code, Oid dbid)
{
	return c->kind == kind && c->level == level && c->code == code && c->dbid == dbid;
}

static Counter *
find_counter(SignalKind kind, int level, int code, Oid dbid)
{
	uint32 hash = ((uint32) code * 31 + (uint32) dbid) * 31 + (uint32) (kind * 64 + level);

	hash = (hash ^ (hash >> 16)) * 0x45d9f3b;
	hash ^= hash >> 16;
	for (int i = 0; i < COUNTER_PROBES; i++)
	{
		Counter *c = &buffer->counters[(hash + i) % COUNTERS];
		uint32 state = pg_atomic_read_u32(&c->state);

		if (state == SLOT_FREE && pg_atomic_compare_exchange_u32(&c->state, &state, SLOT_WRITING))
		{
			c->kind = kind;
			c->level = level;
			c->code = code;
			c->dbid = dbid;
			pg_write_barrier();
			pg_atomic_write_u32(&c->state, SLOT_READY);
			return c;
		}
		pg_read_barrier();
		if (state == SLOT_READY && counts(c, kind, level, code, dbid))
			return c;
	}
	return &buffer->counters[COUNTERS + kind];
}

/* ---- slots, as hooks use them ---- */

/* The slots that a kind may use. */
static int
slots_of_kind(SignalKind kind, int *first)
{
	switch (kind)
	{
		case SIGNAL_ERROR:
			*first = 0;
			return nerror_slots;
		case SIGNAL_EXECUTION:
			*first = nsmall_slots;
			return nslots - nsmall_slots;
		default:
			*first = nerror_slots;
			return nsmall_slots - nerror_slots;
	}
}

static Signal *
claim_slot(SignalKind kind)
{
	int first;
	int n = slots_of_kind(kind, &first);
	uint32 ticket = pg_atomic_fetch_add_u32(&buffer->tickets[kind], 1);

	for (int i = 0; i < Min(n, MAX_PROBES); i++)
	{
		int place = first + (ticket + i) % n;
		uint32 expected = SLOT_FREE;

		if (pg_atomic_read_u32(&states[place]) == SLOT_FREE &&
			pg_atomic_compare_exchange_u32(&states[place], &expected, SLOT_WRITING))
		{
			Signal *s = slot_at(place);

			s->place = place;
			return s;
		}
	}
	return NULL;
}

Signal *
mon_signal_begin(SignalKind kind, int level, int code)
{
	Oid dbid = kind == SIGNAL_LOGIN ? InvalidOid : MyDatabaseId;
	Counter *counter;
	Signal *s;
	int context;

	if (!usable())
		return NULL;
	counter = find_counter(kind, level, code, dbid);
	pg_atomic_fetch_add_u64(&counter->total, 1);
	s = claim_slot(kind);
	if (!s)
	{
		pg_atomic_fetch_add_u64(&counter->dropped, 1);
		pg_atomic_fetch_add_u64(&buffer->published, 1);
		return NULL;
	}

	s->number = pg_atomic_fetch_add_u64(&buffer->next_number, 1);
	s->at = GetCurrentTimestamp();
	s->queryid = (int64) pgstat_get_my_query_id();
	s->kind = kind;
	s->level = level;
	s->code = code;
	s->dbid = dbid;
	GetUserIdAndSecContext(&s->userid, &context);
	s->pid = MyProcPid;
	s->backend_type = IsPostmasterEnvironment && !IsUnderPostmaster ? -1 : (int) MyBackendType;
	s->encoding = GetDatabaseEncoding();
	s->taken_by = InvalidOid;
	s->taken_seq = 0;
	memset(s->len, 0, sizeof(s->len));
	s->used = 0;
	return s;
}

void
mon_signal_count_omitted(SignalKind kind, int code, int n)
{
	Counter *counter;

	if (!usable())
		return;
	counter = find_counter(kind, 0, code, MyDatabaseId);
	pg_atomic_fetch_add_u64(&counter->total, n);
	pg_atomic_fetch_add_u64(&counter->dropped, n);
	pg_atomic_fetch_add_u64(&buffer->published, 1);
}

static size_t
limit_of(const Signal *s, SignalText which)
{
	return s->kind == SIGNAL_EXECUTION ? execution_text_limit[which] : text_limit[which];
}

/* Texts are written in the order of the enum, each once. */
void
mon_signal_bytes(Signal *s, SignalText which, const char *text, size_t len)
{
	len = Min(len, limit_of(s, which));
	memcpy(s->texts + s->used, text, len);
	s->len[which] = len;
	s->used += len;
}

void
mon_signal_text(Signal *s, SignalText which, const char *text)
{
	if (text)
		mon_signal_bytes(s, which, text, strnlen(text, limit_of(s, which)));
}

/* Where the word password begins. */
static const char *
find_password_word(const char *text, size_t len)
{
	static const char word[] = "password";
	size_t word_len = sizeof(word) - 1;

	for (size_t i = 0; i + word_len <= len; i++)
		if ((text[i] | 0x20) == 'p' && pg_strncasecmp(text + i, word, word_len) == 0)
			return text + i;
	return NULL;
}

const char *
mon_find_password(const char *sql, size_t len)
{
	const char *word = find_password_word(sql, len);

	return word ? word + strlen("password") : NULL;
}

/*
 * Literals are gone; what follows the word PASSWORD should have been one, but
 * statements that fail may be wrong in just that.
 */
static size_t
cut_password(const char *sql, size_t len)
{
	const char *at = sql;
	const char *end = sql + len;

	while ((at = mon_find_password(at, end - at)) != NULL)
	{
		const char *value = at;

		while (value < end && (*value == ' ' || *value == '='))
			value++;
		if (value > at && value < end && *value != '$' && *value != ',' && *value != ')' &&
			pg_strncasecmp(value, "null", Min(4, end - value)) != 0)
			return value - sql;
	}
	return len;
}

void
mon_signal_statement(Signal *s, const char *sql, size_t len, bool keep_numbers)
{
	NormalizeOptions options = {.keep_numbers = keep_numbers,
								.backslash_in_literals = MON_BACKSLASH_IN_LITERALS};
	size_t scanned = Min(len,
						 s->kind == SIGNAL_EXECUTION ? SCANNED_OF_EXECUTION : SCANNED_OF_STATEMENT);
	char *out = s->texts + s->used;
	size_t n = mon_normalize_statement(sql, scanned, &options, out, limit_of(s, TEXT_STATEMENT));

	n = cut_password(out, n);
	while (n > 0 && (out[n - 1] == ';' || out[n - 1] == ' '))
		n--;
	s->len[TEXT_STATEMENT] = n;
	s->used += n;
}

/* What is known of the session comes last in the enum. */
void
mon_signal_publish(Signal *s)
{
	if (MyProcPort)
	{
		mon_signal_text(s, TEXT_USER, MyProcPort->user_name);
		mon_signal_text(s, TEXT_DATABASE, MyProcPort->database_name);
		mon_signal_text(s, TEXT_APPLICATION,
						application_name && application_name[0] ? application_name
																: MyProcPort->application_name);
		mon_signal_text(s, TEXT_CLIENT, MyProcPort->remote_host);
	}
	else
		mon_signal_text(s, TEXT_APPLICATION, application_name);
	pg_write_barrier();
	pg_atomic_write_u32(&states[s->place], SLOT_READY);
	pg_atomic_fetch_add_u64(&buffer->published, 1);
}

/* ---- whose signals are whose ---- */

static bool
drained_within(const Drainer *d, TimestampTz now, int64 usecs)
{
	TimestampTz at = (TimestampTz) pg_atomic_read_u64(&unconstify(Drainer *, d)->drained_at);

	return at > now - usecs && at <= now + usecs;
}

static Drainer *
find_drainer(Oid dbid)
{
	for (int i = 0; i < DRAINERS; i++)
		if (pg_atomic_read_u32(&buffer->drainers[i].dbid) == dbid)
			return &buffer->drainers[i];
	return NULL;
}

static void
announce_drainer(TimestampTz now)
{
	Drainer *d = find_drainer(MyDatabaseId);

	for (int i = 0; d == NULL && i < DRAINERS; i++)
	{
		Drainer *other = &buffer->drainers[i];
		uint32 dbid = pg_atomic_read_u32(&other->dbid);

		if ((dbid == InvalidOid || !drained_within(other, now, FORGET_USECS)) &&
			pg_atomic_compare_exchange_u32(&other->dbid, &dbid, MyDatabaseId))
			d = other;
	}
	if (d)
		pg_atomic_write_u64(&d->drained_at, now);
}

/* The database that keeps what belongs to none: that with the lowest oid of those at work. */
static bool
is_home(TimestampTz now)
{
	for (int i = 0; i < DRAINERS; i++)
	{
		Drainer *d = &buffer->drainers[i];
		Oid dbid = pg_atomic_read_u32(&d->dbid);

		if (OidIsValid(dbid) && dbid < MyDatabaseId && drained_within(d, now, HOME_USECS))
			return false;
	}
	return true;
}

bool
mon_signals_home(TimestampTz now)
{
	return is_home(now);
}

static bool
is_mine(Oid dbid, bool home, TimestampTz now)
{
	const Drainer *d;

	if (dbid == MyDatabaseId)
		return true;
	if (!home)
		return false;
	if (!OidIsValid(dbid))
		return true;
	d = find_drainer(dbid);
	return d == NULL || !drained_within(d, now, ORPHAN_USECS);
}

/* ---- slots, as workers use them ---- */

/*
 * Whether there may be anything new.  What a failed drain has left counts: only
 * its success moves the mark.
 */
static uint64 seen_published = 0;
static uint64 drained_published = 0;

bool
mon_signals_waiting(void)
{
	TimestampTz now = GetCurrentTimestamp();
	static TimestampTz looked_at = 0;

	if (!usable())
		return false;
	announce_drainer(now);
	seen_published = pg_atomic_read_u64(&buffer->published);
	/* Of others' databases something may become ours by the mere passing of time. */
	if (seen_published == drained_published && now >= looked_at && now - looked_at < HOME_USECS)
		return false;
	looked_at = now;
	return true;
}

static int
compare_signals(const void *a, const void *b)
{
	uint64 x = (*(Signal *const *) a)->number;
	uint64 y = (*(Signal *const *) b)->number;

	return x < y ? -1 : x > y;
}

/* Whether the slot, which is taken, is now ours to take: after a drain of ours that failed. */
static bool
left_by_failed_drain(int place, uint64 stored)
{
	Signal *s = slot_at(place);

	if (s->taken_by == MyDatabaseId && s->taken_seq > stored)
		return true;
	if (s->taken_by == MyDatabaseId ||
		(OidIsValid(s->taken_by) &&
		 !SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(s->taken_by))))
		pg_atomic_write_u32(&states[place], SLOT_FREE);
	return false;
}

static bool
take_slot(int place, uint64 stored, bool home, TimestampTz now)
{
	uint32 state = pg_atomic_read_u32(&states[place]);
	Signal *s = slot_at(place);

	pg_read_barrier();
	if (state == SLOT_TAKEN)
	{
		if (!left_by_failed_drain(place, stored))
			return false;
	}
	else if (state != SLOT_READY || !is_mine(s->dbid, home, now) ||
			 !pg_atomic_compare_exchange_u32(&states[place], &state, SLOT_TAKEN))
		return false;
	s->taken_seq = stored + 1;
	pg_write_barrier();
	s->taken_by = MyDatabaseId;
	return true;
}

Signal **
mon_signals_take(uint64 stored, int max, int *n)
{
	TimestampTz now = GetCurrentTimestamp();
	bool home;
	Signal **taken;

	*n = 0;
	if (!usable())
		return NULL;
	home = is_home(now);
	taken = palloc_extended(sizeof(Signal *) * nslots, MCXT_ALLOC_HUGE);
	for (int i = 0; i < nslots && *n < max; i++)
	{
		/* memory first: what is taken must not be lost for want of it */
		Signal *copy;

		if (pg_atomic_read_u32(&states[i]) < SLOT_READY)
			continue;
		copy = palloc(slot_size(i));
		if (take_slot(i, stored, home, now))
		{
			memcpy(copy, slot_at(i), slot_size(i));
			taken[(*n)++] = copy;
		}
		else
			pfree(copy);
	}
	qsort(taken, *n, sizeof(Signal *), compare_signals);
	/* more may be left than one drain stores */
	drained_published = *n < max ? seen_published : 0;
	return taken;
}

void
mon_signals_drain_failed(void)
{
	drained_published = 0;
}

void
mon_signals_free_taken(uint64 seq)
{
	if (!usable())
		return;
	for (int i = 0; i < nslots; i++)
		if (pg_atomic_read_u32(&states[i]) == SLOT_TAKEN)
		{
			const Signal *s = slot_at(i);

			pg_read_barrier();
			if (s->taken_by == MyDatabaseId && s->taken_seq == seq)
			{
				pg_memory_barrier();
				pg_atomic_write_u32(&states[i], SLOT_FREE);
			}
		}
}

SignalCount *
mon_signal_counts(bool all, int *n)
{
	TimestampTz now = GetCurrentTimestamp();
	SignalCount *found = palloc(sizeof(SignalCount) * lengthof(buffer->counters));
	bool home;

	*n = 0;
	if (!usable())
		return found;
	home = is_home(now);
	for (int i = 0; i < lengthof(buffer->counters); i++)
	{
		Counter *c = &buffer->counters[i];
		SignalCount *f = &found[*n];

		if (pg_atomic_read_u32(&c->state) != SLOT_READY)
			continue;
		pg_read_barrier();
		f->place = i;
		f->kind = c->kind;
		f->level = c->level;
		f->code = c->code;
		f->dbid = c->dbid;
		f->dropped = pg_atomic_read_u64(&c->dropped);
		pg_read_barrier();
		f->total = pg_atomic_read_u64(&c->total);
		f->recorded = pg_atomic_read_u64(&c->recorded);
		f->recorded_dropped = pg_atomic_read_u64(&c->recorded_dropped);
		if (f->total > 0 &&
			(all ||
			 ((f->total > f->recorded || f->dropped > f->recorded_dropped) &&
			  is_mine(c->dbid, home, now))))
			(*n)++;
	}
	return found;
}

void
mon_signal_count_recorded(int place, uint64 total, uint64 dropped)
{
	if (!usable() || place < 0 || place >= lengthof(buffer->counters))
		return;
	pg_atomic_write_u64(&buffer->counters[place].recorded, total);
	pg_atomic_write_u64(&buffer->counters[place].recorded_dropped, dropped);
}

int
mon_signal_capacity(int *in_use)
{
	*in_use = 0;
	if (!usable())
		return 0;
	for (int i = 0; i < nslots; i++)
		*in_use += pg_atomic_read_u32(&states[i]) != SLOT_FREE;
	return nslots;
}
