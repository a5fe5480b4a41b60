/*-------------------------------------------------------------------------
 *
 * activity_sql.c
 *	  The SQL functions over the history of active sessions, and over texts of sessions.
 *
 *-------------------------------------------------------------------------
 */
#include "server/activity_internal.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "core/normalize.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(mon_activity_samples);
PG_FUNCTION_INFO_V1(mon_wait_samples);
PG_FUNCTION_INFO_V1(mon_activity_buffer);
PG_FUNCTION_INFO_V1(mon_session_waits);
PG_FUNCTION_INFO_V1(mon_without_literals);

#define TEXT_SHOWN 8192 /* bytes of a statement's text, the terminating zero included */

/* A row that is being put together: values come one after the other. */
typedef struct Row
{
	int n;
	Datum values[20];
	bool nulls[20];
} Row;

static void
put(Row *row, Datum value)
{
	row->nulls[row->n] = false;
	row->values[row->n++] = value;
}

static void
put_null(Row *row)
{
	row->nulls[row->n] = true;
	row->values[row->n++] = (Datum) 0;
}

static void
put_text(Row *row, const char *text)
{
	if (text == NULL || *text == '\0')
		put_null(row);
	else
		put(row, CStringGetTextDatum(text));
}

static void
put_time(Row *row, TimestampTz t)
{
	if (t == 0)
		put_null(row);
	else
		put(row, TimestampTzGetDatum(t));
}

/* ---- names ---- */

static const char *
wait_type(uint32 wait_event_info)
{
	const char *type = pgstat_get_wait_event_type(wait_event_info);

	return type ? type : "CPU";
}

static const char *
wait_event(uint32 wait_event_info)
{
	const char *event = pgstat_get_wait_event(wait_event_info);

	return event ? event : "CPU";
}

/* As pg_stat_activity has it; what a background worker was is not known once it has ended. */
static const char *
backend_type(const ActivitySample *s)
{
	const char *type = NULL;

	if (s->leader_pid != 0)
		return "parallel worker";
	if (s->backend_type == B_BG_WORKER)
		type = GetBackgroundWorkerTypeByPid(s->pid);
	return type ? type : GetBackendTypeDesc(s->backend_type);
}

static const char *
state_name(int state)
{
	switch (state)
	{
		case STATE_RUNNING:
			return "active";
		case STATE_FASTPATH:
			return "fastpath function call";
		case STATE_DISABLED:
			return "disabled";
		default:
			return NULL;
	}
}

static void
put_client(Row *row, const ActivitySample *s)
{
	inet *address;

	if (s->client_family == 0)
	{
		put_null(row);
		return;
	}
	address = palloc0(sizeof(inet));
	ip_family(address) = s->client_family == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
	ip_bits(address) = ip_maxbits(address);
	memcpy(ip_addr(address), s->client_address, ip_addrsize(address));
	SET_INET_VARSIZE(address);
	put(row, InetPGetDatum(address));
}

/* ---- rows ---- */

static bool
may_see(const ActivitySample *s)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		has_privs_of_role(GetUserId(), s->userid);
}

static void
put_oid(Row *row, Oid oid)
{
	if (OidIsValid(oid))
		put(row, ObjectIdGetDatum(oid));
	else
		put_null(row);
}

static void
put_blocker(Row *row, const ActivitySample *s)
{
	if (s->blocked_by_pid == 0)
		put_null(row);
	else
		put(row,
			Int32GetDatum(s->blocked_by_pid == ACTIVITY_BLOCKED_BY_PREPARED ? 0
																			: s->blocked_by_pid));
}

/* What only the role itself and those who may see all have: as in pg_stat_activity. */
static void
put_private(Row *row, const ActivitySample *s)
{
	put_client(row, s);
	put_text(row, backend_type(s));
	put_text(row, state_name(s->state));
	put_text(row, wait_type(s->wait_event_info));
	put_text(row, wait_event(s->wait_event_info));
	if (s->queryid != 0)
		put(row, Int64GetDatum(s->queryid));
	else
		put_null(row);
	put_time(row, s->xact_start);
	put_time(row, s->query_start);
	if (s->leader_pid != 0)
		put(row, Int32GetDatum(s->leader_pid));
	else
		put_null(row);
	put_blocker(row, s);
}

static void
put_sample(Row *row, uint64 seq, const ActivitySample *s)
{
	put(row, Int64GetDatum(seq));
	put_time(row, s->at);
	put(row, Float8GetDatum(s->interval_ms / 1000.0));
	put(row, Int32GetDatum(s->pid));
	put_oid(row, s->dbid);
	put_oid(row, s->userid);
	put_text(row, s->application);
	if (may_see(s))
		put_private(row, s);
	else
		for (int i = 0; i < 10; i++)
			put_null(row);
}

static void
put_wait_sample(Row *row, uint64 seq, const ActivitySample *s)
{
	put(row, Int64GetDatum(seq));
	put_time(row, s->at);
	put(row, Float8GetDatum(s->interval_ms / 1000.0));
	put(row, ObjectIdGetDatum(s->dbid));
	put(row, ObjectIdGetDatum(s->userid));
	put(row, Int64GetDatum(s->queryid));
	put_text(row, backend_type(s));
	put_text(row, wait_type(s->wait_event_info));
	put_text(row, wait_event(s->wait_event_info));
}

static void
put_samples(FunctionCallInfo fcinfo, void (*put_one)(Row *, uint64, const ActivitySample *))
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ActivityHistoryState state = mon_activity_history_state();
	uint64 after = Max(PG_GETARG_INT64(0), 0);
	MemoryContext cxt;

	InitMaterializedSRF(fcinfo, 0);
	cxt = AllocSetContextCreate(CurrentMemoryContext, "activity sample", ALLOCSET_DEFAULT_SIZES);
	for (uint64 seq = Max(after + 1, state.oldest); seq < state.next; seq++)
	{
		ActivitySample s;
		Row row = {0};
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!mon_activity_get(seq, &s))
			continue;
		old = MemoryContextSwitchTo(cxt);
		put_one(&row, seq, &s);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	MemoryContextDelete(cxt);
}

/* activity_samples(after bigint) */
Datum
mon_activity_samples(PG_FUNCTION_ARGS)
{
	put_samples(fcinfo, put_sample);
	return (Datum) 0;
}

/* wait_samples(after bigint) */
Datum
mon_wait_samples(PG_FUNCTION_ARGS)
{
	put_samples(fcinfo, put_wait_sample);
	return (Datum) 0;
}

/* activity_buffer() */
Datum
mon_activity_buffer(PG_FUNCTION_ARGS)
{
	ActivityHistoryState state = mon_activity_history_state();
	Row row = {0};
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (state.capacity == 0)
		for (int i = 0; i < 5; i++)
			put_null(&row);
	else
	{
		put(&row, TimestampTzGetDatum(state.epoch));
		put(&row, Int64GetDatum(state.oldest));
		put(&row, Int64GetDatum(state.next - 1));
		put(&row, Int32GetDatum(state.capacity));
		put_time(&row, state.sampled_at);
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row.values, row.nulls));
}

/* session_waits(since timestamptz) */
Datum
mon_session_waits(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MonActivityProfile profile;

	mon_activity_profile(PG_GETARG_TIMESTAMPTZ(0), &profile);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < profile.nwaits; i++)
	{
		Row row = {0};

		put_text(&row, wait_type(profile.waits[i].wait_event_info));
		put_text(&row, wait_event(profile.waits[i].wait_event_info));
		put(&row, Int64GetDatum(profile.waits[i].samples));
		put(&row, Float8GetDatum((double) profile.waits[i].samples / profile.samples));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
	}
	return (Datum) 0;
}

/* without_literals(query text) */
Datum
mon_without_literals(PG_FUNCTION_ARGS)
{
	text *query = PG_GETARG_TEXT_PP(0);
	NormalizeOptions options = {.backslash_in_literals = MON_BACKSLASH_IN_LITERALS};
	char shown[TEXT_SHOWN];
	size_t len = mon_normalize_statement(VARDATA_ANY(query), VARSIZE_ANY_EXHDR(query), &options,
										 shown, sizeof(shown));

	PG_RETURN_TEXT_P(cstring_to_text_with_len(shown, len));
}
