/*-------------------------------------------------------------------------
 *
 * fill.c
 *	  Texts with {{name}} in them, filled in from a JSON object.
 *
 * One pass: what is filled in is never read again, so that a label's value
 * cannot ask for another. Nothing is evaluated. What one call fills in is
 * bounded: a thousand holes must not make megabytes of a long label.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

PG_FUNCTION_INFO_V1(mon_fill_text);
PG_FUNCTION_INFO_V1(mon_fill_texts);

#define MAX_FILLED_BYTES (64 * 1024)
#define LEFT_OUT "..."

typedef struct Filler
{
	JsonbContainer *vars;
	int left; /* bytes that may still be filled in */
} Filler;

/* The text of a member as ->> gives it; NULL when there is none. */
static char *
member_text(JsonbContainer *vars, const char *name, int name_len, int *len)
{
	JsonbValue buffer;
	JsonbValue *v = getKeyJsonValueFromContainer(vars, name, name_len, &buffer);
	char *text;

	if (v == NULL || v->type == jbvNull)
		return NULL;
	switch (v->type)
	{
		case jbvString:
			*len = v->val.string.len;
			return v->val.string.val;
		case jbvNumeric:
			text = DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
			break;
		case jbvBool:
			text = v->val.boolean ? "true" : "false";
			break;
		default:
			text = JsonbToCString(NULL, v->val.binary.data, v->val.binary.len);
			break;
	}
	*len = strlen(text);
	return text;
}

static bool
starts_with(const char *s, int len, const char *prefix)
{
	return len >= strlen(prefix) && memcmp(s, prefix, strlen(prefix)) == 0;
}

/* Strip what surrounds the name in a hole: braces, spaces, and Prometheus's $ or $labels. */
static void
hole_name(const char **name, int *len)
{
	while (*len > 0 && strchr("{ ", **name) != NULL)
	{
		(*name)++;
		(*len)--;
	}
	while (*len > 0 && strchr("} ", (*name)[*len - 1]) != NULL)
		(*len)--;
	if (starts_with(*name, *len, "$labels."))
	{
		*name += strlen("$labels.");
		*len -= strlen("$labels.");
	}
	else if (starts_with(*name, *len, "$"))
	{
		(*name)++;
		(*len)--;
	}
}

/* Append the value of a hole, or the hole itself when nothing is known by its name. */
static void
append_hole(StringInfo out, const char *hole, int hole_len, Filler *f)
{
	const char *name = hole;
	int name_len = hole_len;
	int len;
	char *text;

	hole_name(&name, &name_len);
	text = member_text(f->vars, name, name_len, &len);
	if (text == NULL)
		appendBinaryStringInfo(out, hole, hole_len);
	else if (len > f->left)
		appendStringInfoString(out, LEFT_OUT);
	else
	{
		appendBinaryStringInfo(out, text, len);
		f->left -= len;
	}
}

static const char *
find(const char *s, const char *end, char brace)
{
	for (; s + 1 < end; s++)
		if (s[0] == brace && s[1] == brace)
			return s;
	return NULL;
}

static void
fill(StringInfo out, const char *text, int len, Filler *f)
{
	const char *end = text + len;

	for (;;)
	{
		const char *open = find(text, end, '{');
		const char *close = open ? find(open + 2, end, '}') : NULL;

		if (close == NULL)
			break;
		appendBinaryStringInfo(out, text, open - text);
		append_hole(out, open, close + 2 - open, f);
		text = close + 2;
	}
	appendBinaryStringInfo(out, text, end - text);
}

static Filler
make_filler(Jsonb *vars)
{
	Filler f = {.vars = &vars->root, .left = MAX_FILLED_BYTES};

	if (!JB_ROOT_IS_OBJECT(vars))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("what is filled into a text must be a JSON object")));
	return f;
}

Datum
mon_fill_text(PG_FUNCTION_ARGS)
{
	text *template = PG_GETARG_TEXT_PP(0);
	Filler f = make_filler(PG_GETARG_JSONB_P(1));
	StringInfoData out;

	initStringInfo(&out);
	fill(&out, VARDATA_ANY(template), VARSIZE_ANY_EXHDR(template), &f);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

Datum
mon_fill_texts(PG_FUNCTION_ARGS)
{
	Jsonb *texts = PG_GETARG_JSONB_P(0);
	Filler f = make_filler(PG_GETARG_JSONB_P(1));
	MonJsonbState state = {0};
	JsonbIterator *it = JsonbIteratorInit(&texts->root);
	JsonbIteratorToken token;
	JsonbValue v;

	if (!JB_ROOT_IS_OBJECT(texts))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("texts to fill in must be a JSON object")));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_VALUE && v.type == jbvString)
		{
			StringInfoData out;

			initStringInfo(&out);
			fill(&out, v.val.string.val, v.val.string.len, &f);
			v.val.string.val = out.data;
			v.val.string.len = out.len;
		}
		mon_push_jsonb(&state, token, token == WJB_KEY || token == WJB_VALUE ? &v : NULL);
	}
	PG_RETURN_JSONB_P(JsonbValueToJsonb(state.result));
}
