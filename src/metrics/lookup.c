/*-------------------------------------------------------------------------
 *
 * lookup.c
 *	  Finding series in the catalog by metric and labels.
 *
 * An index of series_catalog holds a term for each label of a series: a hash of
 * metric, name and value.  Series that have all the labels asked for are those
 * that have all their terms.  So finding a few among many costs what the few do,
 * for the first read of a session, on a standby and after a restore as well.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/lookup.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

/* ---- terms ---- */

static inline uint32
hash_string(const JsonbValue *v)
{
	return hash_bytes((const unsigned char *) v->val.string.val, v->val.string.len);
}

PG_FUNCTION_INFO_V1(mon_label_terms);
/* label_terms(metric text, labels jsonb) returns int[] */
Datum
mon_label_terms(PG_FUNCTION_ARGS)
{
	text *metric = PG_GETARG_TEXT_PP(0);
	Jsonb *labels = PG_GETARG_JSONB_P(1);
	uint32 hash = hash_bytes((const unsigned char *) VARDATA_ANY(metric),
							 VARSIZE_ANY_EXHDR(metric));
	Datum *terms;
	JsonbIterator *it;
	JsonbValue name, value;
	int n = 0;

	if (!JB_ROOT_IS_OBJECT(labels))
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(INT4OID));
	terms = palloc(sizeof(Datum) * (JB_ROOT_COUNT(labels) + 1));
	it = JsonbIteratorInit(&labels->root);
	(void) JsonbIteratorNext(&it, &value, false);
	while (JsonbIteratorNext(&it, &name, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type == jbvString)
			terms[n++] = Int32GetDatum(
				(int32) hash_combine(hash_combine(hash, hash_string(&name)), hash_string(&value)));
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(terms, n, INT4OID, sizeof(int32), true, 'i'));
}

/* ---- finding ---- */

/*
 * OFFSET 0 keeps the planner to the one way that is right whatever the size: for
 * each query a look into the index.
 */
#define FIND_SERIES(condition)                                                                     \
	"SELECT u.n, s.series_id, s.labels "                                                           \
	"FROM unnest($1, $2) WITH ORDINALITY AS u(metric, labels, n) "                                 \
	"CROSS JOIN LATERAL (SELECT c.series_id, c.labels FROM monitoring.series_catalog c "           \
	"WHERE " condition " OFFSET 0) s"

typedef enum Statement
{
	FIND_ALL,
	FIND_BY_LABELS,
	FIND_LATE,
	FIND_KINDS
} Statement;

static const char *const statements[] = {
	FIND_SERIES("c.metric OPERATOR(pg_catalog.=) u.metric"),
	FIND_SERIES("monitoring.label_terms(c.metric, c.labels) OPERATOR(pg_catalog.@>) "
				"monitoring.label_terms(u.metric, u.labels)"),
	"SELECT u.n, s.series_id, s.labels, s.kind FROM unnest($1) WITH ORDINALITY AS u(metric, n) "
	"CROSS JOIN LATERAL (SELECT c.series_id, c.labels, c.kind FROM monitoring.late_series c "
	"WHERE c.metric OPERATOR(pg_catalog.=) u.metric OFFSET 0) s",
	"SELECT u.n, k.kind FROM unnest($1) WITH ORDINALITY AS u(metric, n) "
	"CROSS JOIN LATERAL (SELECT c.kind FROM monitoring.metric_catalog c "
	"WHERE c.metric OPERATOR(pg_catalog.=) u.metric OFFSET 0) k",
};

static void
turn_off(const char *setting)
{
	(void) set_config_option(setting, "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
}

/*
 * The plan is made once, whatever the tables hold at that time: a scan of a whole
 * catalog for each query must not be in it.  What it is thought to cost grows with
 * the catalog, but it is not worth compiling.
 */
static void
execute(Statement statement, Datum *values)
{
	static SPIPlanPtr plans[lengthof(statements)];
	Oid types[2] = {TEXTARRAYOID, JSONBARRAYOID};
	int nest = NewGUCNestLevel();

	turn_off("enable_seqscan");
	turn_off("jit");
	if (!plans[statement])
	{
		plans[statement] = SPI_prepare_cursor(statements[statement],
											  statement <= FIND_BY_LABELS ? 2 : 1, types,
											  CURSOR_OPT_GENERIC_PLAN);
		SPI_keepplan(plans[statement]);
	}
	if (SPI_execute_plan(plans[statement], values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the catalog of series");
	AtEOXact_GUC(true, nest);
}

static Datum
text_array(const char *const *strings, int n)
{
	Datum *elements = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		elements[i] = CStringGetTextDatum(strings[i]);
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, 'i'));
}

static Datum
metrics_of(const LookupQuery *queries, int n)
{
	const char **metrics = palloc(sizeof(char *) * n);

	for (int i = 0; i < n; i++)
		metrics[i] = queries[i].metric;
	return text_array(metrics, n);
}

static Datum
column(uint64 row, int column)
{
	bool isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);
}

static void
find(Statement statement, const LookupQuery *queries, int n, LookupFound found, void *arg)
{
	Datum *labels;
	Datum values[2];

	if (n == 0)
		return;
	labels = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
		labels[i] = JsonbPGetDatum(queries[i].equal);
	values[0] = metrics_of(queries, n);
	values[1] = PointerGetDatum(construct_array(labels, n, JSONBOID, -1, false, 'i'));
	execute(statement, values);
	for (uint64 i = 0; i < SPI_processed; i++)
		found(&queries[DatumGetInt64(column(i, 1)) - 1], DatumGetInt64(column(i, 2)),
			  DatumGetJsonbP(column(i, 3)), arg);
	SPI_freetuptable(SPI_tuptable);
}

void
mon_lookup_series(LookupQuery *queries, int n, LookupFound found, void *arg)
{
	int nall = 0;

	/* Those without labels first. */
	for (int i = 0; i < n; i++)
		if (JB_ROOT_COUNT(queries[i].equal) == 0)
		{
			LookupQuery q = queries[i];

			queries[i] = queries[nall];
			queries[nall++] = q;
		}
	find(FIND_ALL, queries, nall, found, arg);
	find(FIND_BY_LABELS, queries + nall, n - nall, found, arg);
}

void
mon_lookup_late(const LookupQuery *queries, int n, LateFound found, void *arg)
{
	Datum values[1] = {metrics_of(queries, n)};

	execute(FIND_LATE, values);
	for (uint64 i = 0; i < SPI_processed; i++)
		found(&queries[DatumGetInt64(column(i, 1)) - 1], DatumGetInt16(column(i, 4)),
			  DatumGetInt64(column(i, 2)), DatumGetJsonbP(column(i, 3)), arg);
	SPI_freetuptable(SPI_tuptable);
}

void
mon_lookup_kinds(const char *const *metrics, int n, MonMetricKind *kinds)
{
	Datum values[1] = {text_array(metrics, n)};

	memset(kinds, 0, sizeof(MonMetricKind) * n);
	execute(FIND_KINDS, values);
	for (uint64 i = 0; i < SPI_processed; i++)
		kinds[DatumGetInt64(column(i, 1)) - 1] = DatumGetInt16(column(i, 2));
	SPI_freetuptable(SPI_tuptable);
}
