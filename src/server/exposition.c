/*-------------------------------------------------------------------------
 *
 * exposition.c
 *	  prometheus_exposition(): what collectors have read last, in the text
 *	  format of Prometheus.
 *
 * Counters are the totals of their sources, as exporters give them.  On a
 * standby nothing is collected; there the collectors are run for the answer.
 *
 * One line that Prometheus does not take costs the whole scrape, so there is
 * none: names are made those that it allows, no series is there twice, and
 * texts are valid in the encoding (mon_clean_label).
 *
 *-------------------------------------------------------------------------
 */
#include "server/collect.h"

#include <math.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/confined.h"

PG_FUNCTION_INFO_V1(mon_prometheus_exposition);

typedef struct Line
{
	const char *metric;
	const char *labels; /* {name="value",...} or empty */
	const char *help;
	bool counter;
	double value;
	int number; /* of those of the same name and labels the first counts */
} Line;

typedef struct Lines
{
	Line *items;
	int n;
	int capacity;
	MemoryContext cxt;
} Lines;

/* ---- text ---- */

/* Not those of the locale. */
static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The name as Prometheus takes it, another than those before it. */
static char *
label_name(const JsonbValue *key, char **before, int n)
{
	const char *given = key->val.string.val;
	int len = key->val.string.len;
	char *name = palloc(len + n + 8);
	char *end = name;

	/* What begins with two underscores is Prometheus' own. */
	if (len > 1 && given[0] == '_' && given[1] == '_')
		end = stpcpy(end, "label");
	else if (len == 0 || !is_letter(given[0]))
		*end++ = '_';
	for (int i = 0; i < len; i++)
		*end++ = is_letter(given[i]) || is_digit(given[i]) ? given[i] : '_';
	*end = '\0';
	for (int i = 0; i < n; i++)
		if (strcmp(before[i], name) == 0)
		{
			/* at most once for each of them */
			end = stpcpy(end, "_");
			i = -1;
		}
	return name;
}

static void
append_escaped(StringInfo buf, const char *text, int len, bool quotes)
{
	for (int i = 0; i < len; i++)
	{
		if (text[i] == '\n')
			appendStringInfoString(buf, "\\n");
		else
		{
			if (text[i] == '\\' || (quotes && text[i] == '"'))
				appendStringInfoChar(buf, '\\');
			appendStringInfoChar(buf, text[i]);
		}
	}
}

/* A label without a value is none to Prometheus: two series may differ by less than it seems. */
static const char *
labels_text(Jsonb *labels, MemoryContext cxt)
{
	char **names = palloc(sizeof(char *) * (JB_ROOT_COUNT(labels) + 1));
	JsonbIterator *it = JsonbIteratorInit(&labels->root);
	JsonbValue key, v;
	StringInfoData buf;
	const char *text;
	int n = 0;

	initStringInfo(&buf);
	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &v, true);
		if (v.type != jbvString || v.val.string.len == 0)
			continue;
		names[n] = label_name(&key, names, n);
		appendStringInfo(&buf, "%c%s=\"", n == 0 ? '{' : ',', names[n]);
		append_escaped(&buf, v.val.string.val, v.val.string.len, true);
		appendStringInfoChar(&buf, '"');
		n++;
	}
	if (n > 0)
		appendStringInfoChar(&buf, '}');
	text = MemoryContextStrdup(cxt, buf.data);
	pfree(buf.data);
	return text;
}

/* What a metric is about, as it stands in the text. */
static const char *
help_text(const char *description, MemoryContext cxt)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_escaped(&buf, description, strlen(description), false);
	(void) mon_clean_label(buf.data, buf.len);
	return MemoryContextStrdup(cxt, buf.data);
}

static void
add_line(Lines *lines, const char *metric, Jsonb *labels, const char *help, bool counter,
		 double value)
{
	Line *line;

	if (lines->n == lines->capacity)
	{
		lines->capacity = Max(lines->capacity * 2, 1024);
		lines->items = lines->items
			? repalloc(lines->items, sizeof(Line) * lines->capacity)
			: MemoryContextAlloc(lines->cxt, sizeof(Line) * lines->capacity);
	}
	line = &lines->items[lines->n++];
	line->metric = MemoryContextStrdup(lines->cxt, metric);
	line->labels = labels_text(labels, lines->cxt);
	line->help = help;
	line->counter = counter;
	line->value = value;
	line->number = lines->n;
}

static int
compare_series(const Line *x, const Line *y)
{
	int order = strcmp(x->metric, y->metric);

	return order != 0 ? order : strcmp(x->labels, y->labels);
}

static int
compare_lines(const void *a, const void *b)
{
	const Line *x = a;
	const Line *y = b;
	int order = compare_series(x, y);

	return order != 0 ? order : x->number - y->number;
}

/* A metric's lines stand together, below what it is; no series is there twice. */
static void
append_lines(StringInfo out, Lines *lines)
{
	if (lines->n > 0)
		qsort(lines->items, lines->n, sizeof(Line), compare_lines);
	for (int i = 0; i < lines->n; i++)
	{
		const Line *line = &lines->items[i];
		const Line *before = i > 0 ? line - 1 : NULL;

		if (before && compare_series(before, line) == 0)
			continue;
		if (!before || strcmp(before->metric, line->metric) != 0)
			appendStringInfo(out, "# HELP %s %s\n# TYPE %s %s\n", line->metric, line->help,
							 line->metric, line->counter ? "counter" : "gauge");
		appendStringInfo(out, "%s%s ", line->metric, line->labels);
		if (line->value == rint(line->value) && fabs(line->value) < 1e15)
			appendStringInfo(out, INT64_FORMAT "\n", (int64) line->value);
		else
			appendStringInfo(out, "%.17g\n", line->value);
	}
}

/* Also of those that gave nothing: how a collector's run went. */
static void
add_run(Lines *lines, const char *collector, double seconds, bool success)
{
	Jsonb *labels = mon_collector_labels(collector);

	add_line(lines, "pg_scrape_collector_duration_seconds", labels,
			 "how long the latest run of a collector took", false, seconds);
	add_line(lines, "pg_scrape_collector_success", labels,
			 "whether the latest run of a collector gave anything", false, success);
}

/* ---- what was read last ---- */

static void
array_column(HeapTuple tuple, int number, Oid type, int16 len, bool byval, char align,
			 Datum **elements, int *n)
{
	bool isnull;
	Datum datum = SPI_getbinval(tuple, SPI_tuptable->tupdesc, number, &isnull);

	*n = 0;
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(datum), type, len, byval, align, elements, NULL, n);
}

static void
add_stored(Lines *lines, HeapTuple tuple)
{
	const char *help = help_text(SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1), lines->cxt);
	Datum *metrics, *counters, *labels, *values;
	int n[4];

	array_column(tuple, 2, TEXTOID, -1, false, TYPALIGN_INT, &metrics, &n[0]);
	array_column(tuple, 3, BOOLOID, 1, true, TYPALIGN_CHAR, &counters, &n[1]);
	array_column(tuple, 4, JSONBOID, -1, false, TYPALIGN_INT, &labels, &n[2]);
	array_column(tuple, 5, FLOAT8OID, sizeof(float8), true, TYPALIGN_DOUBLE, &values, &n[3]);
	for (int i = 0; i < Min(Min(n[0], n[1]), Min(n[2], n[3])); i++)
		add_line(lines, TextDatumGetCString(metrics[i]), DatumGetJsonbP(labels[i]), help,
				 DatumGetBool(counters[i]), DatumGetFloat8(values[i]));
}

/*
 * What is older than a few of its intervals is no longer so.  How a run went is
 * told until the next one is due: of those that are left out for long, too.
 */
static void
add_all_stored(Lines *lines, TimestampTz at)
{
	static SPIPlanPtr plan = NULL;
	Oid argtypes[1] = {TIMESTAMPTZOID};
	Datum values[1] = {TimestampTzGetDatum(at)};

	if (plan == NULL)
	{
		plan = SPI_prepare(
			"SELECT c.description, s.metrics, s.counters, s.labels, r.readings,"
			"       c.name, r.seconds, r.last_error_at IS DISTINCT FROM r.ran_at,"
			"       coalesce(r.read_at > $1 - a.age, false), r.ran_at > $1 - a.age OR r.due_at > $1"
			"  FROM monitoring.collectors AS c"
			"  JOIN monitoring.collector_runs AS r ON r.name = c.name"
			"  LEFT JOIN monitoring.collector_series AS s ON s.name = c.name"
			" CROSS JOIN LATERAL (SELECT greatest(c.every * 3, interval '1 minute') AS age) AS a"
			" WHERE r.ran_at IS NOT NULL AND c.enabled"
			"   AND (c.scope = 'database' OR monitoring.is_home())"
			" ORDER BY c.name",
			1, argtypes);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what collectors have read");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		if (DatumGetBool(SPI_getbinval(tuple, desc, 9, &isnull)))
			add_stored(lines, tuple);
		if (DatumGetBool(SPI_getbinval(tuple, desc, 10, &isnull)))
			add_run(lines, SPI_getvalue(tuple, desc, 6),
					DatumGetFloat8(SPI_getbinval(tuple, desc, 7, &isnull)),
					DatumGetBool(SPI_getbinval(tuple, desc, 8, &isnull)));
	}
}

/* ---- what is read now ---- */

static void
add_fresh(Lines *lines, TimestampTz at)
{
	Collector *collectors;
	int n;

	if (SPI_execute("SELECT c.name, (SELECT string_agg(quote_ident(i), '.')"
					"                FROM unnest(parse_ident(c.function)) AS i), c.owner::text,"
					"       ceil(extract(epoch FROM c.cost_limit) * 1000)::int,"
					"       monitoring.collector_refusal(c.function, c.owner)"
					"  FROM monitoring.collectors AS c WHERE c.enabled ORDER BY c.name",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the collectors");
	n = mon_collectors_found(&collectors, lines->cxt);
	for (int i = 0; i < n; i++)
	{
		Readings readings = {0};
		instr_time began, taken;
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		INSTR_TIME_SET_CURRENT(began);
		error = mon_collector_read(&collectors[i], at, &readings);
		INSTR_TIME_SET_CURRENT(taken);
		INSTR_TIME_SUBTRACT(taken, began);
		add_run(lines, collectors[i].name, INSTR_TIME_GET_DOUBLE(taken), error == NULL);
		/* The session is to end what it does: the rest is of no use. */
		if (error && mon_error_is_cancel(error))
			ReThrowError(error);
		for (int k = 0; k < readings.n; k++)
			add_line(lines, readings.rows[k].metric, readings.rows[k].labels, collectors[i].name,
					 readings.rows[k].kind == MON_COUNTER, readings.rows[k].value);
	}
}

/* prometheus_exposition(at timestamptz) */
Datum
mon_prometheus_exposition(PG_FUNCTION_ARGS)
{
	Lines lines = {.cxt = CurrentMemoryContext};
	StringInfoData out;

	initStringInfo(&out);
	SPI_connect();
	if (RecoveryInProgress())
		add_fresh(&lines, PG_GETARG_TIMESTAMPTZ(0));
	else
		add_all_stored(&lines, PG_GETARG_TIMESTAMPTZ(0));
	SPI_finish();
	append_lines(&out, &lines);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
