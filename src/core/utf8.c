/*-------------------------------------------------------------------------
 *
 * utf8.c
 *	  Texts of the database as UTF-8, whatever its encoding, without errors.
 *
 * What goes out is UTF-8.  A database may hold what is none: in SQL_ASCII any
 * bytes, elsewhere bytes that the encoding has but Unicode has not.  An alert must
 * not be lost for one of them, so each is written as %E9, which has no meaning
 * anywhere a text may go.
 *
 *-------------------------------------------------------------------------
 */
#include "core/core.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(mon_utf8_bytes);

static void
append_bytes(StringInfo to, const char *s, int len)
{
	for (int i = 0; i < len; i++)
		appendStringInfo(to, "%%%02X", (unsigned char) s[i]);
}

/* Of bytes whose encoding nobody knows: what is UTF-8 already. */
static void
append_valid(StringInfo to, const char *s, int len)
{
	const char *end = s + len;

	while (s < end)
	{
		int n = pg_utf_mblen((const unsigned char *) s);

		if (n <= end - s && pg_utf8_islegal((const unsigned char *) s, n))
			appendBinaryStringInfo(to, s, n);
		else
		{
			n = 1;
			append_bytes(to, s, n);
		}
		s += n;
	}
}

/* By the encoding's conversion, which stops at what it cannot convert. */
static void
append_converted(StringInfo to, Oid conversion, const char *s, int len)
{
	int encoding = GetDatabaseEncoding();
	const char *end = s + len;
	int room = len * MAX_CONVERSION_GROWTH + 1;
	char *out = palloc(room);

	while (s < end)
	{
		s += pg_do_encoding_conversion_buf(conversion, encoding, PG_UTF8, (unsigned char *) s,
										   end - s, (unsigned char *) out, room, true);
		appendStringInfoString(to, out);
		if (s < end)
		{
			int n = Min(pg_encoding_mblen(encoding, s), (int) (end - s));

			append_bytes(to, s, n);
			s += n;
		}
	}
	pfree(out);
}

char *
mon_utf8_copy(const char *s, int len)
{
	int encoding = GetDatabaseEncoding();
	Oid conversion = InvalidOid;
	StringInfoData copy;

	if (encoding == PG_UTF8)
		return pnstrdup(s, len);
	initStringInfo(&copy);
	if (encoding != PG_SQL_ASCII)
		conversion = FindDefaultConversionProc(encoding, PG_UTF8);
	if (OidIsValid(conversion))
		append_converted(&copy, conversion, s, len);
	else
		append_valid(&copy, s, len);
	return copy.data;
}

Datum
mon_utf8_bytes(PG_FUNCTION_ARGS)
{
	text *t = PG_GETARG_TEXT_PP(0);

	if (GetDatabaseEncoding() == PG_UTF8)
		PG_RETURN_BYTEA_P(cstring_to_text_with_len(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)));
	PG_RETURN_BYTEA_P(cstring_to_text(mon_utf8_copy(VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t))));
}
