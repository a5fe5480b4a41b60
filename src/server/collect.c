/*-------------------------------------------------------------------------
 *
 * collect.c
 *	  Runs collectors: rows of monitoring.collectors that name functions
 *	  which read the server, the database or the host.
 *
 * A collector runs as its owner, confined (core/confined.h): read-only, for as
 * long as its cost limit, without waiting for locks.  What it gives is compared
 * with what it gave before, and recorded: gauges as they are, counters by what
 * they have grown.  The values before are in collector_runs and are replaced in
 * the transaction in which the observations are recorded, which follow it
 * (monitoring.transactional): a run that is rolled back counts nothing, and the
 * next one counts it once.
 *
 * The row of collector_runs is locked while its collector runs, so that two
 * sessions never run the same one.
 *
 *-------------------------------------------------------------------------
 */
#include "server/collect.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/confined.h"
#include "signals/signals.h"

PG_FUNCTION_INFO_V1(mon_collect);
PG_FUNCTION_INFO_V1(mon_is_home);

/* Readings by what they are of. */
typedef struct PositionEntry
{
	uint64 id;
	int position;
	char status;
} PositionEntry;

#define SH_PREFIX positions
#define SH_ELEMENT_TYPE PositionEntry
#define SH_KEY_TYPE uint64
#define SH_KEY id
#define SH_HASH_KEY(tb, k) ((uint32) (k))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* ---- calling a collector's function ---- */

typedef struct Call
{
	const Collector *collector;
	TimestampTz at;
	Readings *readings;
	MemoryContext cxt;
} Call;

/* Plans are kept by the text of the call: the functions are few and stay. */
typedef struct CallPlan
{
	char *call;
	SPIPlanPtr plan;
	struct CallPlan *next;
} CallPlan;

static CallPlan *call_plans = NULL;

static SPIPlanPtr
plan_call(const char *call)
{
	Oid argtypes[1] = {TIMESTAMPTZOID};
	CallPlan *known;
	SPIPlanPtr plan;

	for (known = call_plans; known; known = known->next)
		if (strcmp(known->call, call) == 0)
			return known->plan;
	plan = SPI_prepare(
		psprintf("SELECT r.metric, r.kind, r.labels, r.value, r.since FROM %s($1) AS r", call), 1,
		argtypes);
	if (plan == NULL)
		elog(ERROR, "could not prepare the call of %s", call);
	SPI_keepplan(plan);
	known = MemoryContextAlloc(TopMemoryContext, sizeof(CallPlan));
	known->call = MemoryContextStrdup(TopMemoryContext, call);
	known->plan = plan;
	known->next = call_plans;
	call_plans = known;
	return plan;
}

static Datum
column(HeapTuple tuple, int number, const char *name, bool may_be_null, bool *isnull)
{
	Datum value = SPI_getbinval(tuple, SPI_tuptable->tupdesc, number, isnull);

	if (*isnull && !may_be_null)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("column %s of a reading is null", name)));
	return value;
}

static MonMetricKind
reading_kind(const text *kind)
{
	int len = VARSIZE_ANY_EXHDR(kind);

	if (len == 7 && memcmp(VARDATA_ANY(kind), "counter", 7) == 0)
		return MON_COUNTER;
	if (len == 5 && memcmp(VARDATA_ANY(kind), "gauge", 5) == 0)
		return MON_GAUGE;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a reading is of kind counter or gauge, not \"%s\"", text_to_cstring(kind))));
	return 0;
}

/* Names of tables and the like may hold anything; labels may not. */
static Jsonb *
clean_labels(Jsonb *labels, bool *cleaned)
{
	MonJsonbState clean = {0};
	JsonbIterator *it = JsonbIteratorInit(&labels->root);
	JsonbIteratorToken token;
	JsonbValue v;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token == WJB_VALUE && v.type == jbvString)
		{
			v.val.string.val = pnstrdup(v.val.string.val, v.val.string.len);
			*cleaned |= mon_clean_label(v.val.string.val, v.val.string.len);
		}
		mon_push_jsonb(&clean, token, token < WJB_BEGIN_ARRAY ? &v : NULL);
	}
	return *cleaned ? JsonbValueToJsonb(clean.result) : labels;
}

/* Readings without a value are left out; what a counter starts from is not known for all. */
static void
take_row(Readings *readings, HeapTuple tuple)
{
	Reading *r = &readings->rows[readings->n];
	Datum value;
	bool isnull;

	value = column(tuple, 4, "value", true, &isnull);
	if (isnull || !isfinite(DatumGetFloat8(value)))
		return;
	r->value = DatumGetFloat8(value);
	value = column(tuple, 1, "metric", false, &isnull);
	r->metric = text_to_cstring(DatumGetTextPP(value));
	r->kind = reading_kind(DatumGetTextPP(column(tuple, 2, "kind", false, &isnull)));
	value = column(tuple, 3, "labels", true, &isnull);
	r->cleaned = false;
	r->labels = mon_labels_canonical(
		isnull ? DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")))
			   : clean_labels(DatumGetJsonbPCopy(value), &r->cleaned));
	readings->has_cleaned |= r->cleaned;
	value = column(tuple, 5, "since", true, &isnull);
	r->since = isnull ? 0 : DatumGetTimestampTz(value);
	readings->has_since |= !isnull;
	readings->n++;
}

static uint64
reading_id(const char *metric, const Jsonb *labels)
{
	return hash_combine64(hash_bytes_extended((const unsigned char *) metric, strlen(metric), 0),
						  hash_bytes_extended((const unsigned char *) labels, VARSIZE(labels), 0));
}

/*
 * Two names may be the same once they are cleaned: what is called so counts, or
 * else the first.  Whoever names tables must not be able to stop a collector.
 */
static void
leave_out_namesakes(Readings *readings)
{
	positions_hash *seen = positions_create(CurrentMemoryContext, readings->n + 16, NULL);
	bool found;
	int n = 0;

	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < readings->n; i++)
		{
			Reading *r = &readings->rows[i];

			if (r->cleaned != (pass == 1))
				continue;
			(void) positions_insert(seen, reading_id(r->metric, r->labels), &found);
			r->left_out = r->cleaned && found;
		}
	for (int i = 0; i < readings->n; i++)
		if (!readings->rows[i].left_out)
			readings->rows[n++] = readings->rows[i];
	readings->n = n;
}

static void
call_function(void *arg)
{
	Call *call = arg;
	Datum values[1] = {TimestampTzGetDatum(call->at)};
	MemoryContext old;

	(void) set_config_option("lock_timeout", psprintf("%d", COLLECTOR_LOCK_MS), PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	SPI_connect();
	if (SPI_execute_plan(plan_call(call->collector->call), values, NULL, true,
						 COLLECTOR_MAX_ROWS + 1) != SPI_OK_SELECT)
		elog(ERROR, "could not call the function of a collector");
	if (SPI_processed > COLLECTOR_MAX_ROWS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the collector gave more than %d readings", COLLECTOR_MAX_ROWS)));
	old = MemoryContextSwitchTo(call->cxt);
	call->readings->rows = palloc(sizeof(Reading) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
		take_row(call->readings, SPI_tuptable->vals[i]);
	if (call->readings->has_cleaned)
		leave_out_namesakes(call->readings);
	MemoryContextSwitchTo(old);
	SPI_finish();
}

ErrorData *
mon_collector_read(const Collector *collector, TimestampTz at, Readings *readings)
{
	MonConfinement confinement = {
		.role = collector->owner, .timeout_ms = collector->cost_limit, .read_only = true};
	Call call = {collector, at, readings, CurrentMemoryContext};

	memset(readings, 0, sizeof(Readings));
	if (collector->refused)
	{
		ErrorData *error = palloc0(sizeof(ErrorData));

		error->sqlerrcode = ERRCODE_INSUFFICIENT_PRIVILEGE;
		error->message = pstrdup(collector->refused);
		return error;
	}
	return mon_run_confined(&confinement, call_function, &call);
}

/* ---- what was read before ---- */

/* Of all readings in their order, with their kinds. */
static int64
layout_of(const Readings *readings)
{
	uint64 layout = readings->n;

	for (int i = 0; i < readings->n; i++)
		layout = hash_combine64(layout,
								reading_id(readings->rows[i].metric, readings->rows[i].labels) +
									readings->rows[i].kind);
	return (int64) layout;
}

/* The values of the run before, in the order that its layout says. */
typedef struct Previous
{
	bool any;
	int64 layout;
	int n;
	double *values;
	TimestampTz *since; /* NULL: of none is it known */
	TimestampTz at;
} Previous;

static Datum
spi_column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

/* Elements of an array of 8-byte values, palloc'd in cxt; NULL for a null. */
static void *
array_column(int number, int *n, MemoryContext cxt)
{
	bool isnull;
	Datum datum = spi_column(number, &isnull);
	ArrayType *array;
	void *copy;

	*n = 0;
	if (isnull)
		return NULL;
	array = DatumGetArrayTypeP(datum);
	*n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	copy = MemoryContextAlloc(cxt, sizeof(int64) * Max(*n, 1));
	memcpy(copy, ARR_DATA_PTR(array), sizeof(int64) * *n);
	return copy;
}

static void
load_previous(const char *name, Previous *p, MemoryContext cxt)
{
	static SPIPlanPtr plan = NULL;
	Oid argtypes[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	bool isnull;
	int nsince;

	memset(p, 0, sizeof(Previous));
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT layout, readings, since, read_at"
						   "  FROM monitoring.collector_runs WHERE name = $1",
						   1, argtypes);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, values, NULL, false, 1) != SPI_OK_SELECT || SPI_processed == 0)
		return;
	p->layout = DatumGetInt64(spi_column(1, &isnull));
	p->any = !isnull;
	p->values = array_column(2, &p->n, cxt);
	p->since = array_column(3, &nsince, cxt);
	if (nsince != p->n)
		p->since = NULL;
	p->at = DatumGetTimestampTz(spi_column(4, &isnull));
	p->any = p->any && p->values != NULL && !isnull;
}

/* Positions of what was read before, where the readings are no longer the same. */
static positions_hash *
load_positions(const char *name, int n)
{
	Oid argtypes[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	positions_hash *positions = positions_create(CurrentMemoryContext, n + 16, NULL);
	Datum *metrics, *labels;
	int nmetrics, nlabels;
	bool isnull, found;

	if (SPI_execute_with_args("SELECT metrics, labels FROM monitoring.collector_series"
							  " WHERE name = $1",
							  1, argtypes, values, NULL, false, 1) != SPI_OK_SELECT ||
		SPI_processed == 0)
		return positions;
	deconstruct_array(DatumGetArrayTypeP(spi_column(1, &isnull)), TEXTOID, -1, false, TYPALIGN_INT,
					  &metrics, NULL, &nmetrics);
	deconstruct_array(DatumGetArrayTypeP(spi_column(2, &isnull)), JSONBOID, -1, false, TYPALIGN_INT,
					  &labels, NULL, &nlabels);
	for (int i = 0; i < Min(Min(nmetrics, nlabels), n); i++)
		positions_insert(positions,
						 reading_id(TextDatumGetCString(metrics[i]), DatumGetJsonbP(labels[i])),
						 &found)
			->position = i;
	return positions;
}

/* ---- recording ---- */

/*
 * What a counter has grown by.  Lower than before, or counted since another
 * time: it was reset, and all of it is new.  Where it is known to have been
 * counting all along, lower means that something it adds up has gone, and
 * nothing is new.  Of one that is seen for the first time only what it has
 * counted since the last run is new, if it says that it began after that.
 */
static double
increase(const Reading *r, const Previous *p, int position)
{
	TimestampTz since;

	if (position < 0)
		return p->any && r->since > p->at && !TIMESTAMP_NOT_FINITE(r->since) ? r->value : 0;
	since = p->since ? p->since[position] : 0;
	if (r->since != since && r->since != 0 && !TIMESTAMP_NOT_FINITE(r->since))
		return r->value;
	if (r->value >= p->values[position])
		return r->value - p->values[position];
	return r->since == 0 ? r->value : 0;
}

static void
check_twice(const Readings *readings)
{
	positions_hash *seen = positions_create(CurrentMemoryContext, readings->n + 16, NULL);
	bool found;

	for (int i = 0; i < readings->n; i++)
	{
		const Reading *r = &readings->rows[i];

		(void) positions_insert(seen, reading_id(r->metric, r->labels), &found);
		if (found)
			ereport(
				ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("the collector gave %s%s twice", r->metric, mon_labels_text(r->labels))));
	}
}

static void
record_readings(const Readings *readings, const Previous *p, positions_hash *positions,
				TimestampTz at)
{
	for (int i = 0; i < readings->n; i++)
	{
		const Reading *r = &readings->rows[i];
		double value = r->value;

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (r->kind == MON_COUNTER)
		{
			int position = p->any ? i : -1;

			if (positions)
			{
				PositionEntry *known = positions_lookup(positions,
														reading_id(r->metric, r->labels));

				position = known ? known->position : -1;
			}
			value = Max(increase(r, p, position), 0);
		}
		mon_observe(r->metric, r->labels, r->kind, at, value);
	}
}

/* ---- storing ---- */

static Datum
array_of(Datum *elements, int n, Oid type)
{
	bool byval = type == FLOAT8OID || type == TIMESTAMPTZOID;

	return PointerGetDatum(construct_array(elements, n, type, byval ? 8 : -1, byval,
										   byval ? TYPALIGN_DOUBLE : TYPALIGN_INT));
}

static void
store_series(const char *name, const Readings *readings)
{
	Oid argtypes[4] = {TEXTOID, TEXTARRAYOID, BOOLARRAYOID, JSONBARRAYOID};
	Datum *metrics = palloc(sizeof(Datum) * Max(readings->n, 1));
	Datum *counters = palloc(sizeof(Datum) * Max(readings->n, 1));
	Datum *labels = palloc(sizeof(Datum) * Max(readings->n, 1));
	Datum values[4];

	for (int i = 0; i < readings->n; i++)
	{
		metrics[i] = CStringGetTextDatum(readings->rows[i].metric);
		counters[i] = BoolGetDatum(readings->rows[i].kind == MON_COUNTER);
		labels[i] = JsonbPGetDatum(readings->rows[i].labels);
	}
	values[0] = CStringGetTextDatum(name);
	values[1] = array_of(metrics, readings->n, TEXTOID);
	values[2] = PointerGetDatum(
		construct_array(counters, readings->n, BOOLOID, sizeof(bool), true, TYPALIGN_CHAR));
	values[3] = array_of(labels, readings->n, JSONBOID);
	if (SPI_execute_with_args(
			"INSERT INTO monitoring.collector_series AS s (name, metrics, counters, labels)"
			" VALUES ($1, $2, $3, $4)"
			" ON CONFLICT (name) DO UPDATE SET metrics = EXCLUDED.metrics,"
			" counters = EXCLUDED.counters, labels = EXCLUDED.labels",
			4, argtypes, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store the series of a collector");
}

static void
store_values(const char *name, const Readings *readings, int64 layout, TimestampTz at)
{
	static SPIPlanPtr plan = NULL;
	Oid argtypes[5] = {TEXTOID, INT8OID, FLOAT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZOID};
	Datum *numbers = palloc(sizeof(Datum) * Max(readings->n, 1));
	Datum *since = palloc(sizeof(Datum) * Max(readings->n, 1));
	char nulls[5] = {' ', ' ', ' ', readings->has_since ? ' ' : 'n', ' '};
	Datum values[5];

	for (int i = 0; i < readings->n; i++)
	{
		numbers[i] = Float8GetDatum(readings->rows[i].value);
		since[i] = TimestampTzGetDatum(readings->rows[i].since);
	}
	if (plan == NULL)
	{
		plan = SPI_prepare("UPDATE monitoring.collector_runs"
						   "   SET layout = $2, readings = $3, since = $4, read_at = $5"
						   " WHERE name = $1",
						   5, argtypes);
		SPI_keepplan(plan);
	}
	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum(layout);
	values[2] = array_of(numbers, readings->n, FLOAT8OID);
	values[3] = readings->has_since ? array_of(since, readings->n, TIMESTAMPTZOID) : (Datum) 0;
	values[4] = TimestampTzGetDatum(at);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store what a collector has read");
}

typedef struct Run
{
	const Collector *collector;
	Readings readings;
	TimestampTz at;
	double seconds;
} Run;

/* Compare, record and store. */
static void
take_readings(Run *run)
{
	Readings *readings = &run->readings;
	const char *name = run->collector->name;
	int64 layout = layout_of(readings);
	positions_hash *positions = NULL;
	Previous previous;

	SPI_connect();
	load_previous(name, &previous, CurrentMemoryContext);
	if (!previous.any || previous.layout != layout || previous.n != readings->n)
	{
		check_twice(readings);
		if (previous.any)
			positions = load_positions(name, previous.n);
		store_series(name, readings);
	}
	record_readings(readings, &previous, positions, run->at);
	store_values(name, readings, layout, run->at);
	SPI_finish();
}

/* What is wrong with readings must not keep others from being stored. */
static ErrorData *
in_subtransaction(Run *run)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner resowner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		take_readings(run);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = resowner;
	return error;
}

/* How it went; collector_runs knows when it is run next. */
static void
note_outcome(const Run *run, const ErrorData *error)
{
	static SPIPlanPtr plan = NULL;
	Oid argtypes[6] = {TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, FLOAT8OID, INT4OID};
	char nulls[6] = {' ', ' ', ' ', error ? ' ' : 'n', ' ', ' '};
	Datum values[6];
	const char *outcome = "ok";

	if (error)
		outcome = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ? "locked" : "failed";
	if (run->seconds * 1000 >= run->collector->cost_limit)
		outcome = "slow";
	SPI_connect();
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT monitoring.note_collector($1, $2, $3, $4, $5, $6)", 6, argtypes);
		SPI_keepplan(plan);
	}
	values[0] = CStringGetTextDatum(run->collector->name);
	values[1] = TimestampTzGetDatum(run->at);
	values[2] = CStringGetTextDatum(outcome);
	values[3] = error ? CStringGetTextDatum(error->message) : (Datum) 0;
	values[4] = Float8GetDatum(run->seconds);
	values[5] = Int32GetDatum(run->readings.n);
	if (SPI_execute_plan(plan, values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not note the outcome of a collector");
	SPI_finish();
}

Jsonb *
mon_collector_labels(const char *collector)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "{\"collector\": ");
	escape_json(&text, collector);
	appendStringInfoChar(&text, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data)));
}

static void
observe_run(const Run *run, bool success)
{
	Jsonb *labels = mon_collector_labels(run->collector->name);

	mon_observe("pg_scrape_collector_duration_seconds", labels, MON_GAUGE, run->at, run->seconds);
	mon_observe("pg_scrape_collector_success", labels, MON_GAUGE, run->at, success);
}

/* Returns the number of readings. */
static int
run_collector(const Collector *collector, TimestampTz at)
{
	Run run = {.collector = collector, .at = at};
	ErrorData *error;
	instr_time began, taken;

	INSTR_TIME_SET_CURRENT(began);
	error = mon_collector_read(collector, at, &run.readings);
	if (error == NULL)
		error = in_subtransaction(&run);
	INSTR_TIME_SET_CURRENT(taken);
	INSTR_TIME_SUBTRACT(taken, began);
	run.seconds = INSTR_TIME_GET_DOUBLE(taken);
	/* The session is to end what it does: that is no outcome of the collector's. */
	if (error && mon_error_is_cancel(error))
		ReThrowError(error);
	observe_run(&run, error == NULL);
	note_outcome(&run, error);
	return error ? 0 : run.readings.n;
}

/* ---- SQL ---- */

static char *
copy_column(HeapTuple tuple, int number, MemoryContext cxt)
{
	char *value = SPI_getvalue(tuple, SPI_tuptable->tupdesc, number);

	return value ? MemoryContextStrdup(cxt, value) : NULL;
}

int
mon_collectors_found(Collector **collectors, MemoryContext cxt)
{
	int n = SPI_processed;

	*collectors = MemoryContextAlloc(cxt, sizeof(Collector) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		Collector *c = &(*collectors)[i];
		bool isnull;

		c->name = copy_column(tuple, 1, cxt);
		c->call = copy_column(tuple, 2, cxt);
		c->owner = copy_column(tuple, 3, cxt);
		c->cost_limit = DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 4, &isnull));
		c->refused = copy_column(tuple, 5, cxt);
	}
	return n;
}

static void
refuse_unknown_collectors(Datum names)
{
	Oid argtype = TEXTARRAYOID;

	if (SPI_execute_with_args(
			"SELECT n.name FROM unnest($1) AS n (name)"
			" WHERE n.name NOT IN (SELECT c.name FROM monitoring.collectors AS c)",
			1, &argtype, &names, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the collectors");
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("collector \"%s\" does not exist",
						SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
				 errhint("The view monitoring.collector_status lists them.")));
}

Datum
mon_collect(PG_FUNCTION_ARGS)
{
	Oid argtypes[2] = {TEXTARRAYOID, TIMESTAMPTZOID};
	Datum values[2];
	char nulls[2] = {PG_ARGISNULL(0) ? 'n' : ' ', ' '};
	MemoryContext cxt = CurrentMemoryContext;
	MemoryContext run_cxt;
	Collector *collectors;
	TimestampTz at;
	int64 readings = 0;
	int n;

	mon_require_preload();
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("the time must not be null")));
	if (PG_ARGISNULL(0) && !mon_collect_enabled)
		PG_RETURN_INT64(0);
	at = PG_GETARG_TIMESTAMPTZ(1);
	values[0] = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);
	values[1] = TimestampTzGetDatum(at);
	SPI_connect();
	if (!PG_ARGISNULL(0))
		refuse_unknown_collectors(values[0]);
	if (SPI_execute_with_args("SELECT name, call, owner, cost_limit, refused"
							  "  FROM monitoring.due_collectors($1, $2)",
							  2, argtypes, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the collectors");
	n = mon_collectors_found(&collectors, cxt);
	SPI_finish();

	run_cxt = AllocSetContextCreate(cxt, "monitoring collector", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(run_cxt);
		readings += run_collector(&collectors[i], at);
		MemoryContextSwitchTo(cxt);
		MemoryContextReset(run_cxt);
	}
	PG_RETURN_INT64(readings);
}

Datum
mon_is_home(PG_FUNCTION_ARGS)
{
	mon_require_preload();
	PG_RETURN_BOOL(mon_signals_home(GetCurrentTimestamp()));
}
