/*-------------------------------------------------------------------------
 *
 * slow_capture.c
 *	  Executions that are slow: which of them are kept, and what of them.
 *
 * All are counted.  Of many, so many are kept as monitoring.slow_query_rate
 * allows, and of one statement a quarter of that, lest it crowds out the others:
 * at first all, then one by one with time between them.  A cell is the time at
 * which its allowance will have been earned (the generic cell rate algorithm),
 * moved on by compare-and-swap; no lock, nothing to be cleaned up.
 *
 * Called from hooks, within errors too.  Only the plan allocates, which is asked
 * for when the execution has ended well, and which catches its own errors.
 *
 *-------------------------------------------------------------------------
 */
#include "server/slow_capture.h"

#include "common/hashfn.h"
#include "core/normalize.h"
#include "server/activity.h"
#include "signals/signal.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#define CELLS 256 /* statements that share one share its allowance */
#define CELL_TRIES 16
#define BURST_USECS USECS_PER_MINUTE
#define COMMENT_BYTES 2048 /* of the begin and the end of a text that are searched for comments */

typedef struct SlowShared
{
	pg_atomic_uint64 all;
	pg_atomic_uint64 cell[CELLS];
} SlowShared;

static int rate = 120; /* kept per minute */
static bool keep_literals = false;
static bool keep_plans = false;
static char *correlation_id = NULL;

static SlowShared *shared = NULL;

/* ---- whether to keep ---- */

/* Take one of what may be had every `interval` microseconds; saved up for a minute. */
static bool
take_allowance(pg_atomic_uint64 *cell, int64 now, int64 interval)
{
	for (int i = 0; i < CELL_TRIES; i++)
	{
		uint64 seen = pg_atomic_read_u64(cell);
		int64 earned = (int64) seen;

		/* of the past, or of before the clock was set back */
		if (earned < now || earned > now + 2 * BURST_USECS + interval)
			earned = now;
		if (earned - now > Max(BURST_USECS - interval, 0))
			return false;
		if (pg_atomic_compare_exchange_u64(cell, &seen, (uint64) (earned + interval)))
			return true;
	}
	return false;
}

static bool
is_allowed(const StatementKey *key, int64 now)
{
	int64 interval;
	uint32 hash;

	if (!shared || rate == 0)
		return false;
	interval = USECS_PER_MINUTE / rate;
	hash = murmurhash32((uint32) key->queryid ^ (uint32) (key->queryid >> 32) ^ key->dbid);
	return take_allowance(&shared->cell[hash % CELLS], now, 4 * interval) &&
		take_allowance(&shared->all, now, interval);
}

/* ---- trace context ---- */

#define TRACEPARENT_LEN 55 /* 00-32 digits-16 digits-00 */

static bool
is_traceparent(const char *text)
{
	for (int i = 0; i < TRACEPARENT_LEN; i++)
	{
		bool dash = i == 2 || i == 35 || i == 52;
		char c = text[i];

		if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
	}
	return true;
}

/* traceparent='00-...', as sqlcommenter puts it into a comment. */
static const char *
find_traceparent(const char *text, size_t len)
{
	static const char name[] = "traceparent='";
	const size_t name_len = sizeof(name) - 1;
	bool comment = false;

	for (size_t i = 0; i + name_len + TRACEPARENT_LEN < len; i++)
	{
		if (text[i] == '/' && text[i + 1] == '*')
			comment = true;
		else if (text[i] == '*' && text[i + 1] == '/')
			comment = false;
		else if (comment && text[i] == 't' && memcmp(text + i, name, name_len) == 0 &&
				 is_traceparent(text + i + name_len) &&
				 text[i + name_len + TRACEPARENT_LEN] == '\'')
			return text + i + name_len;
	}
	return NULL;
}

static void
put_traceparent(Signal *s, const char *text, size_t len)
{
	const char *found = find_traceparent(text, Min(len, COMMENT_BYTES));

	if (!found && len > COMMENT_BYTES)
		found = find_traceparent(text + len - COMMENT_BYTES, COMMENT_BYTES);
	if (found)
		mon_signal_bytes(s, TEXT_TRACEPARENT, found, TRACEPARENT_LEN);
}

/* ---- what is kept ---- */

static void
put_waits(ExecutionFacts *facts, TimestampTz since)
{
	MonActivityProfile profile;

	StaticAssertStmt(lengthof(profile.waits) <= EXECUTION_WAITS, "waits of a profile fit");
	mon_activity_profile(since, &profile);
	facts->samples = profile.samples;
	facts->blocked_by_pid = profile.blocked_by_pid;
	facts->nwaits = profile.nwaits;
	for (int i = 0; i < profile.nwaits; i++)
	{
		facts->wait_event[i] = profile.waits[i].wait_event_info;
		facts->wait_samples[i] = profile.waits[i].samples;
	}
}

static void
put_measures(double *m, const SlowExecution *slow)
{
	const int64 *n = slow->counters->n;
	const double *seconds = slow->counters->seconds;

	m[EXECUTION_SECONDS] = slow->seconds;
	m[EXECUTION_PREPARING] = slow->preparing;
	m[EXECUTION_PLANNING] = slow->planning;
	m[EXECUTION_ROWS] = n[STATEMENT_ROWS];
	m[EXECUTION_SHARED_HIT] = (double) n[STATEMENT_SHARED_HIT] * BLCKSZ;
	m[EXECUTION_SHARED_READ] = (double) n[STATEMENT_SHARED_READ] * BLCKSZ;
	m[EXECUTION_SHARED_DIRTIED] = (double) n[STATEMENT_SHARED_DIRTIED] * BLCKSZ;
	m[EXECUTION_SHARED_WRITTEN] = (double) n[STATEMENT_SHARED_WRITTEN] * BLCKSZ;
	m[EXECUTION_LOCAL_READ] = (double) n[STATEMENT_LOCAL_READ] * BLCKSZ;
	m[EXECUTION_LOCAL_WRITTEN] = (double) n[STATEMENT_LOCAL_WRITTEN] * BLCKSZ;
	m[EXECUTION_TEMP_READ] = (double) n[STATEMENT_TEMP_READ] * BLCKSZ;
	m[EXECUTION_TEMP_WRITTEN] = (double) n[STATEMENT_TEMP_WRITTEN] * BLCKSZ;
	m[EXECUTION_WAL] = n[STATEMENT_WAL_BYTES];
	m[EXECUTION_IO_READ] = seconds[STATEMENT_IO_READ];
	m[EXECUTION_IO_WRITE] = seconds[STATEMENT_IO_WRITE];
	m[EXECUTION_JIT] = seconds[STATEMENT_JIT];
}

/* Literals only by the setting, and never in what may set a password. */
static void
put_statement(Signal *s, const StatementSource *source, const char *text, size_t len)
{
	size_t looked_at = Min(len, EXECUTION_STATEMENT_BYTES);

	if (keep_literals && mon_find_password(text, looked_at) == NULL)
		mon_signal_bytes(s, TEXT_STATEMENT, text, looked_at);
	else
		mon_signal_statement(s, text, len, source->keep_numbers);
}

static const char *
statement_text(const StatementSource *source, size_t *len)
{
	const char *text = source->text ? source->text : "";
	size_t all = strlen(text);
	size_t from = source->location > 0 ? Min((size_t) source->location, all) : 0;

	*len = source->len > 0 ? Min((size_t) source->len, all - from) : all - from;
	while (*len > 0 && strchr(" \t\r\n", text[from]))
	{
		from++;
		(*len)--;
	}
	return text + from;
}

static void
keep(const SlowExecution *slow, TimestampTz now)
{
	static char plan[EXECUTION_PLAN_BYTES];
	size_t plan_len = 0;
	ExecutionFacts facts = {0};
	const char *text;
	size_t len;
	Signal *s;

	/* First, as it takes long: a slot that is being written is nobody's. */
	if (keep_plans && slow->query)
		plan_len = mon_slow_plan(slow->query, keep_literals, plan, sizeof(plan), &facts.plan_hash);
	facts.started_at = slow->started_at ? slow->started_at
										: now - (TimestampTz) (slow->seconds * USECS_PER_SEC);
	facts.sqlstate = slow->sqlstate;
	facts.toplevel = slow->key->toplevel;
	facts.terminated = slow->terminated;
	put_waits(&facts, facts.started_at - (TimestampTz) (slow->preparing * USECS_PER_SEC));
	put_measures(facts.measure, slow);
	text = statement_text(slow->source, &len);

	s = mon_signal_begin(SIGNAL_EXECUTION, 0, 0);
	if (!s)
		return;
	s->at = now;
	s->queryid = slow->key->queryid;
	s->userid = slow->key->userid;
	put_statement(s, slow->source, text, len);
	mon_signal_bytes(s, TEXT_EXECUTION, (const char *) &facts, sizeof(facts));
	if (correlation_id && correlation_id[0])
		mon_signal_text(s, TEXT_CORRELATION, correlation_id);
	put_traceparent(s, text, len);
	mon_signal_bytes(s, TEXT_PLAN, plan, plan_len);
	mon_signal_publish(s);
}

void
mon_keep_slow_execution(const SlowExecution *slow)
{
	TimestampTz now = GetCurrentTimestamp();

	if (is_allowed(slow->key, now))
		keep(slow, now);
	else
		mon_signal_count_omitted(SIGNAL_EXECUTION, 0, 1);
}

/* ---- settings and memory ---- */

static Size
slow_size(void)
{
	return sizeof(SlowShared);
}

static void
init_slow(LWLockPadded *locks)
{
	bool found;
	SlowShared *s = ShmemInitStruct("monitoring slow executions", slow_size(), &found);

	if (!found)
	{
		pg_atomic_init_u64(&s->all, 0);
		for (int i = 0; i < CELLS; i++)
			pg_atomic_init_u64(&s->cell[i], 0);
	}
	shared = s;
}

void
mon_slow_capture_init(void)
{
	static const MonShmemSlice slice = {
		.name = "monitoring slow executions", .size = slow_size, .init = init_slow};

	DefineCustomIntVariable("monitoring.slow_query_rate",
							"Slow executions that are kept per minute, of the whole server.",
							"A quarter of it of the same statement. All are counted.", &rate, 120,
							0, 60000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("monitoring.slow_query_literals",
							 "Slow executions are kept with the literals of their texts and plans.",
							 NULL, &keep_literals, false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("monitoring.slow_query_plans",
							 "Slow executions are kept with their plans.", NULL, &keep_plans, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("monitoring.correlation_id",
							   "What the application calls that for which the session works now.",
							   "It is kept with slow executions.", &correlation_id, "", PGC_USERSET,
							   0, NULL, NULL, NULL);
	mon_shmem_register(&slice);
}
