/*-------------------------------------------------------------------------
 *
 * statement_prepared.c
 *	  What came before the execution of a statement.
 *
 * Analysis, which waits for the locks of tables, and planning happen before
 * there is an execution to add them to, and in other messages of the client when
 * it prepares statements.  The last few are kept by their queryid until an
 * execution takes them.
 *
 *-------------------------------------------------------------------------
 */
#include "server/statement_prepared.h"

#include <time.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/* What was analysed or planned lately and has not been started since. */
typedef struct Prepared
{
	int64 queryid;
	TimestampTz sent_at;      /* analysed with the message that a client sent then */
	double parsing;           /* from then to the end of analysis, where locks are waited for */
	TimestampTz planned_with; /* message, likewise */
	double planning;
} Prepared;

#define PREPARED 8
#define ROUGH_THRESHOLD_MS 100
#define UNIX_TO_POSTGRES_SECS ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

static Prepared prepared[PREPARED];
static int last_prepared = 0;
/* That have a queryid: none, as a rule, when plans are made once and kept. */
static int nprepared = 0;
static TimestampTz started_with = 0; /* message whose first statement has been started */

static Prepared *
find_prepared(int64 queryid)
{
	for (int i = 0; nprepared > 0 && i < PREPARED; i++)
		if (prepared[i].queryid == queryid)
			return &prepared[i];
	return NULL;
}

static Prepared *
note_prepared(int64 queryid)
{
	Prepared *p = find_prepared(queryid);

	if (!p)
	{
		last_prepared = (last_prepared + 1) % PREPARED;
		p = &prepared[last_prepared];
		if (p->queryid == 0)
			nprepared++;
		memset(p, 0, sizeof(*p));
		p->queryid = queryid;
	}
	return p;
}

static double
seconds_between(TimestampTz since, TimestampTz until)
{
	return (until - since) / (double) USECS_PER_SEC;
}

bool
mon_message_is_new(void)
{
	return GetCurrentStatementStartTimestamp() != started_with;
}

void
mon_note_message_started(void)
{
	started_with = GetCurrentStatementStartTimestamp();
}

void
mon_note_analyzed(int64 queryid)
{
	Prepared *p = note_prepared(queryid);

	p->sent_at = GetCurrentStatementStartTimestamp();
	p->parsing = seconds_between(p->sent_at, GetCurrentTimestamp());
}

void
mon_note_planned(int64 queryid, double seconds)
{
	Prepared *p = note_prepared(queryid);

	p->planned_with = GetCurrentStatementStartTimestamp();
	p->planning = seconds;
}

/*
 * Now, of a message that was sent then.  Where only long executions are kept, a
 * clock will do that may be behind by a tick of the kernel, 10 ms at most: it
 * takes a quarter of the time, which every statement pays.
 */
static TimestampTz
now_since(TimestampTz sent_at)
{
#ifdef CLOCK_REALTIME_COARSE
	if (mon_slow_query_threshold >= ROUGH_THRESHOLD_MS)
	{
		struct timespec now;

		clock_gettime(CLOCK_REALTIME_COARSE, &now);
		return Max(sent_at,
				   (now.tv_sec - UNIX_TO_POSTGRES_SECS) * USECS_PER_SEC + now.tv_nsec / 1000);
	}
#endif
	return GetCurrentTimestamp();
}

/* Of the statements of one message, what came before the first is known as a whole: it was sent then. */
pg_attribute_hot Preparation
mon_take_preparation(int64 queryid, bool toplevel)
{
	TimestampTz sent_at = GetCurrentStatementStartTimestamp();
	Prepared *p = find_prepared(queryid);
	Preparation taken = {0};

	if (p)
		taken.preparing = taken.planning = p->planning;
	if (toplevel && MyBackendType == B_BACKEND)
	{
		taken.started_at = now_since(sent_at);
		if (sent_at != started_with)
		{
			taken.preparing = seconds_between(sent_at, taken.started_at);
			if (p && p->sent_at != sent_at)
				taken.preparing += p->parsing;
			if (p && p->planned_with != sent_at)
				taken.preparing += p->planning;
		}
		started_with = sent_at;
	}
	if (p)
	{
		p->queryid = 0;
		nprepared--;
	}
	return taken;
}
