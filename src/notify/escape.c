/*-------------------------------------------------------------------------
 *
 * escape.c
 *	  Text for other people's formats: escaped, cleaned and cut in one pass.
 *
 * What comes out can neither close nor open anything in the format it is for.
 * Lengths count as the targets count: UTF-16 units after escaping.  A text is
 * cut between characters, never within one or within what one became, and says
 * by an ellipsis that it was.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(mon_escape_text);
PG_FUNCTION_INFO_V1(mon_text_units);

typedef struct Replacement
{
	char c;
	const char *with;
} Replacement;

typedef struct Style
{
	const char *name;
	const char *backslashed; /* get a backslash before them */
	Replacement replaced[6]; /* ends with c = 0 */
} Style;

static const Style styles[] = {
	{"text", "", {{0}}},
	{"slack", "", {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {0}}},
	{"html",
	 "",
	 {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}, {0}}},
	{"discord", "\\*_~`|<>[]@#", {{0}}},
	{"teams", "\\*_`[]", {{0}}},
};

static const Style *
find_style(const char *name)
{
	for (int i = 0; i < lengthof(styles); i++)
		if (strcmp(styles[i].name, name) == 0)
			return &styles[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown style of text \"%s\"", name),
			 errhint("Styles are text, slack, html, discord and teams.")));
	return NULL;
}

static int
char_length(const char *s, const char *end)
{
	return Min(pg_encoding_mblen(GetDatabaseEncoding(), s), (int) (end - s));
}

/* Characters outside the basic plane are two units, in UTF-8 four bytes. */
static int
char_units(const char *s, int len)
{
	return len == 4 && GetDatabaseEncoding() == PG_UTF8 ? 2 : 1;
}

static const char *
ellipsis(int *units)
{
	bool utf8 = GetDatabaseEncoding() == PG_UTF8;

	*units = utf8 ? 1 : 3;
	return utf8 ? "\xe2\x80\xa6" : "...";
}

/*
 * Controls that would reorder or hide the text around them: embeddings, overrides and isolates (U+202A..U+202E,
 * U+2066..U+2069), C1 controls, the byte order mark.  The marks that right-to-left text is written with stay.
 */
static bool
is_hidden_control(const char *s, int len)
{
	const unsigned char *u = (const unsigned char *) s;

	if (GetDatabaseEncoding() != PG_UTF8)
		return false;
	if (len == 2)
		return u[0] == 0xc2 && u[1] < 0xa0;
	if (len == 3 && u[0] == 0xe2)
		return (u[1] == 0x80 && u[2] >= 0xaa && u[2] <= 0xae) ||
			(u[1] == 0x81 && u[2] >= 0xa6 && u[2] <= 0xa9);
	return len == 3 && u[0] == 0xef && u[1] == 0xbb && u[2] == 0xbf;
}

/* U+2028 and U+2029 end lines as well. */
static bool
is_line_separator(const char *s, int len)
{
	return len == 3 && GetDatabaseEncoding() == PG_UTF8 && memcmp(s, "\xe2\x80", 2) == 0 &&
		((unsigned char) s[2] == 0xa8 || (unsigned char) s[2] == 0xa9);
}

/* What one character becomes: its length in `piece`, 0 for nothing. */
static int
escape_char(const Style *style, const char *s, int len, bool one_line, char *piece)
{
	char c = *s;

	if (len > 1)
	{
		if (is_hidden_control(s, len))
			return 0;
		if (!is_line_separator(s, len))
		{
			memcpy(piece, s, len);
			return len;
		}
		c = '\n';
	}
	if (c == '\r')
		return 0;
	if (c == '\n' || c == '\t')
		c = one_line ? ' ' : c;
	else if ((unsigned char) c < 0x20 || c == 0x7f)
		c = ' ';

	for (const Replacement *r = style->replaced; r->c; r++)
		if (r->c == c)
		{
			strcpy(piece, r->with);
			return strlen(piece);
		}
	len = 0;
	if (strchr(style->backslashed, c) != NULL)
		piece[len++] = '\\';
	piece[len++] = c;
	return len;
}

/* A carriage return alone ends a line too. */
static bool
is_lone_return(const char *s, const char *end)
{
	return *s == '\r' && !(s + 1 < end && s[1] == '\n');
}

Datum
mon_escape_text(PG_FUNCTION_ARGS)
{
	text *t = PG_GETARG_TEXT_PP(0);
	const Style *style = find_style(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	int max = PG_GETARG_INT32(2);
	bool one_line = PG_GETARG_BOOL(3);
	const char *s = VARDATA_ANY(t);
	const char *end = s + VARSIZE_ANY_EXHDR(t);
	int mark_units;
	const char *mark = ellipsis(&mark_units);
	int units = 0;
	int fits = 0; /* bytes after which the mark still fits */
	StringInfoData out;

	initStringInfo(&out);
	while (s < end)
	{
		char piece[16];
		int len = char_length(s, end);
		int piece_len = is_lone_return(s, end) ? escape_char(style, "\n", 1, one_line, piece)
											   : escape_char(style, s, len, one_line, piece);
		int n = piece_len == 0 ? 0 : len > 1 ? char_units(s, len) : piece_len;

		if (units + n > max)
		{
			out.len = fits;
			if (mark_units <= max)
				appendStringInfoString(&out, mark);
			break;
		}
		appendBinaryStringInfo(&out, piece, piece_len);
		units += n;
		if (units + mark_units <= max)
			fits = out.len;
		s += len;
	}
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

Datum
mon_text_units(PG_FUNCTION_ARGS)
{
	text *t = PG_GETARG_TEXT_PP(0);
	const char *s = VARDATA_ANY(t);
	const char *end = s + VARSIZE_ANY_EXHDR(t);
	int units = 0;

	while (s < end)
	{
		int len = char_length(s, end);

		units += char_units(s, len);
		s += len;
	}
	PG_RETURN_INT32(units);
}
