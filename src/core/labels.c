/*-------------------------------------------------------------------------
 *
 * labels.c
 *	  Canonical labels and the identity of a series.
 *
 * A label's value is text, as in every other metrics system: 500 and "500"
 * must not become two series because one client sends a number.
 *
 *-------------------------------------------------------------------------
 */
#include "core/core.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#define MAX_METRIC_NAME 200
#define MAX_LABELS 64
#define MAX_LABEL_BYTES 4096

static void
bad_labels(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid labels"),
			 errdetail_internal("%s", detail),
			 errhint("Labels are a JSON object whose values are text, numbers or "
					 "booleans, such as {\"route\": \"/cart\", \"status\": 200}.")));
}

/* Replace a scalar label value by its text; false for null, which is no label at all. */
static bool
scalar_to_string(JsonbValue *v)
{
	switch (v->type)
	{
		case jbvString:
			return true;
		case jbvNumeric:
			v->val.string.val = DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
			break;
		case jbvBool:
			v->val.string.val = v->val.boolean ? "true" : "false";
			break;
		case jbvNull:
			return false;
		default:
			bad_labels("A label's value is an object or an array.");
	}
	v->type = jbvString;
	v->val.string.len = strlen(v->val.string.val);
	return true;
}

static void
check_label_text(const JsonbValue *v)
{
	for (int i = 0; i < v->val.string.len; i++)
		if ((unsigned char) v->val.string.val[i] < 0x20 || v->val.string.val[i] == 0x7f)
			bad_labels("A label holds a control character.");
}

/*
 * Names that come from elsewhere may hold anything: control characters, and, of
 * other databases or of files, another encoding.  A database without an encoding
 * is taken to mean UTF-8, as those do who read labels.
 */
bool
mon_clean_label(char *text, int len)
{
	int encoding = GetDatabaseEncoding() == PG_SQL_ASCII ? PG_UTF8 : GetDatabaseEncoding();
	bool changed = false;

	for (int i = 0; i < len;)
	{
		unsigned char c = (unsigned char) text[i];
		int bytes = 1;

		if (IS_HIGHBIT_SET(c))
			bytes = pg_encoding_verifymbchar(encoding, text + i, len - i);
		if (bytes < 1 || c < 0x20 || c == 0x7f)
		{
			text[i] = '?';
			bytes = 1;
			changed = true;
		}
		i += bytes;
	}
	return changed;
}

Jsonb *
mon_labels_canonical(Jsonb *labels)
{
	MonJsonbState state = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue key, value;
	Jsonb *canonical;

	if (!JB_ROOT_IS_OBJECT(labels))
		bad_labels("The labels are not an object.");
	if (JB_ROOT_COUNT(labels) > MAX_LABELS)
		bad_labels("There are more than 64 labels.");
	if (VARSIZE_ANY_EXHDR(labels) > MAX_LABEL_BYTES)
		bad_labels("The labels take more than 4096 bytes.");

	mon_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	it = JsonbIteratorInit(&labels->root);
	(void) JsonbIteratorNext(&it, &value, false);
	while ((token = JsonbIteratorNext(&it, &key, true)) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &value, true);
		if (!scalar_to_string(&value))
			continue;
		check_label_text(&key);
		check_label_text(&value);
		mon_push_jsonb(&state, WJB_KEY, &key);
		mon_push_jsonb(&state, WJB_VALUE, &value);
	}
	mon_push_jsonb(&state, WJB_END_OBJECT, NULL);
	canonical = JsonbValueToJsonb(state.result);
	/* The text of a number may be much longer than the number. */
	if (VARSIZE_ANY_EXHDR(canonical) > MAX_LABEL_BYTES)
		bad_labels("The labels take more than 4096 bytes.");
	return canonical;
}

char *
mon_labels_text(Jsonb *canonical)
{
	return JsonbToCString(NULL, &canonical->root, VARSIZE(canonical));
}

int64
mon_series_id(const char *metric, int metric_len, const char *labels_text, int labels_len)
{
	uint64 h = hash_bytes_extended((const unsigned char *) metric, metric_len, 0);

	return (int64) hash_bytes_extended((const unsigned char *) labels_text, labels_len, h);
}

void
mon_check_metric_name(const char *name, int len)
{
	bool ok = len > 0 && len <= MAX_METRIC_NAME;

	for (int i = 0; ok && i < len; i++)
	{
		char c = name[i];

		ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':' ||
			(i > 0 && c >= '0' && c <= '9');
	}
	if (!ok)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_NAME),
			 errmsg("invalid metric name \"%.*s\"", pg_mbcliplen(name, len, MAX_METRIC_NAME), name),
			 errdetail("A metric name matches [a-zA-Z_:][a-zA-Z0-9_:]* and has at most %d "
					   "characters.",
					   MAX_METRIC_NAME)));
}
