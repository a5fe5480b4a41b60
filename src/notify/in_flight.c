/*-------------------------------------------------------------------------
 *
 * in_flight.c
 *	  What the notifier has claimed and not yet recorded, and what became of it.
 *
 * Local to the process; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/notifier.h"

#include "utils/json.h"

#define ANSWER_PATIENCE_MS 15000 /* on top of all the request may take */

InFlight mon_in_flight[MAX_IN_FLIGHT];
int mon_n_in_flight = 0;
int mon_n_local = 0;
StringInfoData mon_outcomes;
static uint32 last_serial = 0;

/* ---- entries ---- */

InFlight *
mon_entry_new(void)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
		if (!mon_in_flight[i].used)
		{
			mon_in_flight[i].serial = ++last_serial;
			return &mon_in_flight[i];
		}
	elog(ERROR, "too many notifications in flight");
	return NULL; /* keep compiler quiet */
}

void
mon_entry_use(InFlight *f)
{
	f->used = true;
	mon_n_in_flight++;
	mon_n_local += f->local != NULL;
}

void
mon_entry_clear(InFlight *f)
{
	if (f->local)
	{
		mon_local_free(f->local);
		mon_n_local--;
	}
	f->local = NULL;
	f->used = false;
	mon_n_in_flight--;
}

uint32
mon_last_serial(void)
{
	return last_serial;
}

void
mon_entries_settle(uint32 serial, bool committed)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &mon_in_flight[i];

		if (!f->used || (int32) (f->serial - serial) <= 0)
			continue;
		if (committed)
			f->deadline = mon_now_ms() + f->total_ms + SENDER_MAX_QUEUE_MS + ANSWER_PATIENCE_MS;
		else
			mon_entry_clear(f);
	}
}

/* ---- outcomes ---- */

static void
begin_outcome(StringInfo to, const InFlight *f, const char *outcome, const char *error)
{
	appendStringInfo(
		to, "%s{\"created_at\":\"%s\",\"id\":" INT64_FORMAT ",\"attempt\":%d,\"outcome\":\"%s\"",
		to->len == 0 ? "[" : ",", timestamptz_to_str(f->created_at), f->id, f->attempt, outcome);
	if (error[0])
	{
		appendStringInfoString(to, ",\"error\":");
		escape_json(to, error);
	}
}

/* What the sender has nothing to say to. */
void
mon_outcome_add(StringInfo to, const InFlight *f, const char *outcome, const char *error)
{
	begin_outcome(to, f, outcome, error);
	appendStringInfoChar(to, '}');
}

static const char *
protocol_name(uint8 protocol)
{
	switch (protocol)
	{
		case SENDER_HTTP_1_0:
			return "HTTP/1.0";
		case SENDER_HTTP_1_1:
			return "HTTP/1.1";
		case SENDER_HTTP_2:
			return "HTTP/2";
		case SENDER_HTTP_3:
			return "HTTP/3";
		default:
			return "SMTP";
	}
}

static const char *
outcome_name(uint8 kind)
{
	switch (kind)
	{
		case SENDER_RESPONSE:
			return "response";
		case SENDER_REFUSED:
			return "refused";
		default:
			return "network";
	}
}

void
mon_outcome_answer(StringInfo to, const InFlight *f, const SenderOutcome *o)
{
	begin_outcome(to, f, outcome_name(o->kind), o->error);
	if (o->status > 0)
		appendStringInfo(to, ",\"http_status\":%u,\"protocol\":\"%s\"", o->status,
						 protocol_name(o->protocol));
	if (o->latency_us > 0)
		appendStringInfo(to, ",\"latency\":%.6f", o->latency_us / 1e6);
	if (o->bytes > 0)
		appendStringInfo(to, ",\"bytes\":" UINT64_FORMAT, o->bytes);
	if (o->kind == SENDER_NETWORK && !o->begun)
		appendStringInfoString(to, ",\"connected\":false");
	if (o->retry_after >= 0)
		appendStringInfo(to, ",\"retry_after\":" INT64_FORMAT, o->retry_after);
	appendStringInfoChar(to, '}');
}

void
mon_outcome_local(StringInfo to, const InFlight *f, const char *outcome, const char *error,
				  double seconds)
{
	begin_outcome(to, f, outcome, error);
	appendStringInfo(to, ",\"protocol\":\"%s\",\"latency\":%.6f}", f->local->sql ? "SQL" : "NOTIFY",
					 seconds);
}

/* ---- what the sender says ---- */

static bool
take_answer(uint8 type, SenderReader *r)
{
	SenderOutcome o;
	uint32 slot;
	InFlight *f;

	if (type != SENDER_OUTCOME || !sender_get_outcome(r, &o))
		return false;
	slot = (uint32) o.tag;
	if (slot >= MON_EMERGENCY_TAG)
		return mon_emergency_outcome(&o);
	if (slot >= MAX_IN_FLIGHT)
		return false;
	f = &mon_in_flight[slot];
	if (!f->used || f->local || f->serial != (uint32) (o.tag >> 32))
		return false;
	mon_outcome_answer(&mon_outcomes, f, &o);
	mon_entry_clear(f);
	return true;
}

static void
sender_lost(void)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &mon_in_flight[i];

		if (!f->used || f->local)
			continue;
		mon_outcome_add(&mon_outcomes, f, "lost", "the sender ended before it answered");
		mon_entry_clear(f);
	}
	mon_emergency_lost();
}

static bool
sender_stuck(void)
{
	int64 now = mon_now_ms();

	for (int i = 0; i < MAX_IN_FLIGHT; i++)
		if (mon_in_flight[i].used && !mon_in_flight[i].local && now > mon_in_flight[i].deadline)
			return true;
	return mon_emergency_stuck();
}

const MonLinkUser mon_notifier_link = {take_answer, sender_lost, sender_stuck};
