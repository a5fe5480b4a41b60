/*-------------------------------------------------------------------------
 *
 * exposition.c
 *	  prometheus_exposition(): what collectors have read last, in the text
 *	  format of Prometheus.
 *
 * Counters are the totals of their sources, as exporters give them.  On a
 * standby nothing is collected; there the collectors are run for the answer.
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
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(mon_prometheus_exposition);

typedef struct Line
{
	const char *metric;
	const char *labels; /* {name="value",...} or empty */
	const char *help;
	bool counter;
	double value;
} Line;

typedef struct Lines
{
	Line *items;
	int n;
	int capacity;
	MemoryContext cxt;
} Lines;

/* ---- text ---- */

static void
append_label_name(StringInfo buf, const char *name, int len)
{
	if (len == 0 || isdigit((unsigned char) name[0]))
		appendStringInfoChar(buf, '_');
	for (int i = 0; i < len; i++)
		appendStringInfoChar(buf, isalnum((unsigned char) name[i]) ? name[i] : '_');
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

static const char *
labels_text(Jsonb *labels)
{
	StringInfoData buf;
	JsonbIterator *it = JsonbIteratorInit(&labels->root);
	JsonbIteratorToken token;
	JsonbValue v;

	initStringInfo(&buf);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			appendStringInfoChar(&buf, buf.len == 0 ? '{' : ',');
			append_label_name(&buf, v.val.string.val, v.val.string.len);
		}
		else if (token == WJB_VALUE && v.type == jbvString)
		{
			appendStringInfoString(&buf, "=\"");
			append_escaped(&buf, v.val.string.val, v.val.string.len, true);
			appendStringInfoChar(&buf, '"');
		}
	}
	if (buf.len > 0)
		appendStringInfoChar(&buf, '}');
	return buf.data;
}

static void
add_line(Lines *lines, const char *metric, Jsonb *labels, const char *help, bool counter,
		 double value)
{
	MemoryContext old = MemoryContextSwitchTo(lines->cxt);
	Line *line;

	if (lines->n == lines->capacity)
	{
		lines->capacity = Max(lines->capacity * 2, 1024);
		lines->items = lines->items ? repalloc(lines->items, sizeof(Line) * lines->capacity)
									: palloc(sizeof(Line) * lines->capacity);
	}
	line = &lines->items[lines->n++];
	line->metric = pstrdup(metric);
	line->labels = labels_text(labels);
	line->help = help;
	line->counter = counter;
	line->value = value;
	MemoryContextSwitchTo(old);
}

static int
compare_lines(const void *a, const void *b)
{
	const Line *x = a;
	const Line *y = b;
	int order = strcmp(x->metric, y->metric);

	return order != 0 ? order : strcmp(x->labels, y->labels);
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

		if (before && compare_lines(before, line) == 0)
			continue;
		if (!before || strcmp(before->metric, line->metric) != 0)
		{
			appendStringInfo(out, "# HELP %s ", line->metric);
			append_escaped(out, line->help, strlen(line->help), false);
			appendStringInfo(out, "\n# TYPE %s %s\n", line->metric,
							 line->counter ? "counter" : "gauge");
		}
		appendStringInfo(out, "%s%s ", line->metric, line->labels);
		if (line->value == rint(line->value) && fabs(line->value) < 1e15)
			appendStringInfo(out, INT64_FORMAT "\n", (int64) line->value);
		else
			appendStringInfo(out, "%.17g\n", line->value);
	}
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
	char *help = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
	Datum *metrics, *counters, *labels, *values;
	int n[4];

	help = MemoryContextStrdup(lines->cxt, help ? help : "");
	array_column(tuple, 2, TEXTOID, -1, false, TYPALIGN_INT, &metrics, &n[0]);
	array_column(tuple, 3, BOOLOID, 1, true, TYPALIGN_CHAR, &counters, &n[1]);
	array_column(tuple, 4, JSONBOID, -1, false, TYPALIGN_INT, &labels, &n[2]);
	array_column(tuple, 5, FLOAT8OID, sizeof(float8), true, TYPALIGN_DOUBLE, &values, &n[3]);
	for (int i = 0; i < Min(Min(n[0], n[1]), Min(n[2], n[3])); i++)
		add_line(lines, TextDatumGetCString(metrics[i]), DatumGetJsonbP(labels[i]), help,
				 DatumGetBool(counters[i]), DatumGetFloat8(values[i]));
}

/* What is older than a few of its intervals is no longer so. */
static void
add_all_stored(Lines *lines, TimestampTz at)
{
	static SPIPlanPtr plan = NULL;
	Oid argtypes[1] = {TIMESTAMPTZOID};
	Datum values[1] = {TimestampTzGetDatum(at)};

	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT c.description, s.metrics, s.counters, s.labels, r.readings"
						   "  FROM monitoring.collectors AS c"
						   "  JOIN monitoring.collector_runs AS r ON r.name = c.name"
						   "  JOIN monitoring.collector_series AS s ON s.name = c.name"
						   " WHERE r.read_at > $1 - greatest(c.every * 3, interval '1 minute')",
						   1, argtypes);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what collectors have read");
	for (uint64 i = 0; i < SPI_processed; i++)
		add_stored(lines, SPI_tuptable->vals[i]);
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
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		error = mon_collector_read(&collectors[i], at, &readings);
		if (error != NULL)
			continue;
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
