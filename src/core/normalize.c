/*-------------------------------------------------------------------------
 *
 * normalize.c
 *	  Texts of statements without their literals.
 *
 * The server's own scanner raises errors on what is not SQL, and a text that
 * was cut off is not; hooks may not raise any.  So this one knows just enough of
 * the lexical structure of PostgreSQL's SQL to tell literals from the rest, and
 * takes an unterminated literal to go on to the end.
 *
 *-------------------------------------------------------------------------
 */
#include "core/normalize.h"

#include <stdio.h>
#include <string.h>

#define SHOWN_OF_LIST 3 /* literals of a list that are kept apart */
#define MAX_PARAMETER 100000

typedef enum TokenKind
{
	TOKEN_END,
	TOKEN_LITERAL, /* text in quotes of any kind */
	TOKEN_NUMBER,
	TOKEN_PARAMETER,
	TOKEN_COMMA,
	TOKEN_OTHER
} TokenKind;

typedef struct Scanner
{
	const char *at;
	const char *end;
	bool backslash_in_literals;
	bool blank; /* blanks or comments come before the token */
	const char *token;
	size_t token_len;
} Scanner;

/* What encloses the current token: parentheses of calls, whose arguments are no list, or others. */
typedef struct Nesting
{
	int depth;
	unsigned long long calls; /* a bit per depth */
} Nesting;

typedef struct Output
{
	char *buf;
	size_t len;
	size_t size;
	bool full;
} Output;

/* ---- scanning ---- */

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
is_name_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
		(unsigned char) c >= 0x80;
}

static bool
is_name(char c)
{
	return is_name_start(c) || is_digit(c);
}

static char
peek(const Scanner *s, size_t ahead)
{
	return (size_t) (s->end - s->at) > ahead ? s->at[ahead] : '\0';
}

static void
skip_line(Scanner *s)
{
	while (s->at < s->end && *s->at != '\n' && *s->at != '\r')
		s->at++;
}

/* Past a comment between slash and star, which may hold others. */
static void
skip_comment(Scanner *s)
{
	int depth = 0;

	do
	{
		if (peek(s, 0) == '/' && peek(s, 1) == '*')
		{
			depth++;
			s->at += 2;
		}
		else if (peek(s, 0) == '*' && peek(s, 1) == '/')
		{
			depth--;
			s->at += 2;
		}
		else
			s->at++;
	} while (depth > 0 && s->at < s->end);
}

/* Past blanks and comments, up to a hint. */
static void
skip_blanks(Scanner *s)
{
	s->blank = false;
	while (s->at < s->end)
	{
		if (is_space(*s->at))
			s->at++;
		else if (*s->at == '-' && peek(s, 1) == '-')
			skip_line(s);
		else if (*s->at == '/' && peek(s, 1) == '*' && peek(s, 2) != '+')
			skip_comment(s);
		else
			return;
		s->blank = true;
	}
}

/* Past a closing quote; a doubled one stands for itself. */
static void
skip_quoted(Scanner *s, char quote, bool backslash)
{
	s->at++;
	while (s->at < s->end)
	{
		if (backslash && *s->at == '\\' && s->at + 1 < s->end)
			s->at += 2;
		else if (*s->at != quote)
			s->at++;
		else if (peek(s, 1) == quote)
			s->at += 2;
		else
		{
			s->at++;
			return;
		}
	}
}

/* Whether only blanks with a line break among them stand between here and a quote. */
static const char *
continued_literal(const Scanner *s)
{
	const char *p = s->at;
	bool newline = false;

	while (p < s->end && is_space(*p))
		newline |= *p == '\n' || *p == '\r', p++;
	return newline && p < s->end && *p == '\'' ? p : NULL;
}

static void
skip_literal(Scanner *s, bool backslash)
{
	const char *more;

	skip_quoted(s, '\'', backslash);
	while ((more = continued_literal(s)) != NULL)
	{
		s->at = more;
		skip_quoted(s, '\'', backslash);
	}
}

/* Length of the opening $tag$ here, 0 if it is none. */
static size_t
dollar_quote(const Scanner *s)
{
	size_t n = 1;

	if (is_digit(peek(s, 1)))
		return 0;
	while (is_name(peek(s, n)))
		n++;
	return peek(s, n) == '$' ? n + 1 : 0;
}

static void
skip_dollar_quoted(Scanner *s, size_t tag_len)
{
	const char *tag = s->at;

	for (s->at += tag_len; s->at < s->end; s->at++)
		if (*s->at == '$' && (size_t) (s->end - s->at) >= tag_len &&
			memcmp(s->at, tag, tag_len) == 0)
		{
			s->at += tag_len;
			return;
		}
}

/* Past a number: decimal, with a fraction or exponent, or in another base. */
static void
skip_number(Scanner *s)
{
	/* No blank has to stand between a number and what follows it, but none of ours is read as one then. */
	while (s->at < s->end)
	{
		char c = *s->at;

		if ((c == '+' || c == '-') && (s->at[-1] == 'e' || s->at[-1] == 'E') &&
			is_digit(peek(s, 1)))
			s->at++;
		else if (c == '.' && peek(s, 1) == '.')
			return;
		else if (is_name(c) || c == '.')
			s->at++;
		else
			return;
	}
}

static TokenKind
scan_name(Scanner *s)
{
	char first = *s->at;
	char next = peek(s, 1);

	if (next == '\'' && strchr("eEbBxXnN", first))
	{
		s->at++;
		skip_literal(s, first == 'e' || first == 'E' || s->backslash_in_literals);
		return TOKEN_LITERAL;
	}
	if ((first == 'u' || first == 'U') && next == '&' && (peek(s, 2) == '\'' || peek(s, 2) == '"'))
	{
		s->at += 2;
		if (*s->at == '"')
		{
			skip_quoted(s, '"', false);
			return TOKEN_OTHER;
		}
		skip_literal(s, false);
		return TOKEN_LITERAL;
	}
	while (s->at < s->end && (is_name(*s->at) || *s->at == '$'))
		s->at++;
	return TOKEN_OTHER;
}

static TokenKind
scan_dollar(Scanner *s)
{
	size_t tag_len = dollar_quote(s);

	if (tag_len > 0)
	{
		skip_dollar_quoted(s, tag_len);
		return TOKEN_LITERAL;
	}
	s->at++;
	if (!is_digit(peek(s, 0)))
		return TOKEN_OTHER;
	while (is_digit(peek(s, 0)))
		s->at++;
	return TOKEN_PARAMETER;
}

static TokenKind
scan_token(Scanner *s)
{
	char c = *s->at;

	if (c == '\'')
	{
		skip_literal(s, s->backslash_in_literals);
		return TOKEN_LITERAL;
	}
	if (c == '"')
	{
		skip_quoted(s, '"', false);
		return TOKEN_OTHER;
	}
	if (c == '$')
		return scan_dollar(s);
	if (is_digit(c) || (c == '.' && is_digit(peek(s, 1))))
	{
		s->at++;
		skip_number(s);
		return TOKEN_NUMBER;
	}
	if (is_name_start(c))
		return scan_name(s);
	if (c == '/' && peek(s, 1) == '*')
	{
		skip_comment(s);
		return TOKEN_OTHER;
	}
	s->at++;
	return c == ',' ? TOKEN_COMMA : TOKEN_OTHER;
}

static TokenKind
next_token(Scanner *s)
{
	TokenKind kind;

	skip_blanks(s);
	if (s->at >= s->end)
		return TOKEN_END;
	s->token = s->at;
	kind = scan_token(s);
	if (s->at > s->end)
		s->at = s->end;
	s->token_len = s->at - s->token;
	return kind;
}

/* ---- writing ---- */

static void
write_token(Output *o, bool blank, const char *token, size_t len)
{
	size_t space = blank && o->len > 0;

	if (o->full || o->len + space + len >= o->size)
	{
		o->full = true;
		return;
	}
	if (space)
		o->buf[o->len++] = ' ';
	memcpy(o->buf + o->len, token, len);
	o->len += len;
}

static int
parameter_number(const Scanner *s)
{
	int n = 0;

	for (size_t i = 1; i < s->token_len && n <= MAX_PARAMETER; i++)
		n = n * 10 + (s->token[i] - '0');
	return n <= MAX_PARAMETER ? n : 0;
}

/* The highest parameter that the text has. */
static int
highest_parameter(Scanner s)
{
	int highest = 0;
	TokenKind kind;

	while ((kind = next_token(&s)) != TOKEN_END)
		if (kind == TOKEN_PARAMETER && parameter_number(&s) > highest)
			highest = parameter_number(&s);
	return highest;
}

/* ---- lists ---- */

static bool
is_keyword(const char *token, size_t len, const char *keyword)
{
	if (len != strlen(keyword))
		return false;
	for (size_t i = 0; i < len; i++)
		if ((token[i] | 0x20) != keyword[i])
			return false;
	return true;
}

/* Whether a parenthesis after this token opens the arguments of a call. */
static bool
names_function(const char *token, size_t len)
{
	if (len == 0 || (!is_name_start(*token) && *token != '"'))
		return false;
	return !is_keyword(token, len, "in") && !is_keyword(token, len, "values");
}

static void
follow_nesting(Nesting *n, char c, bool after_function)
{
	if (c == '(' || c == '[')
	{
		n->depth++;
		if (n->depth < 64)
			n->calls = (n->calls & ~(1ULL << n->depth)) |
				((unsigned long long) (c == '(' && after_function) << n->depth);
	}
	else if ((c == ')' || c == ']') && n->depth > 0)
		n->depth--;
}

static bool
within_call(const Nesting *n)
{
	return n->depth > 0 && n->depth < 64 && (n->calls >> n->depth & 1);
}

size_t
mon_normalize_statement(const char *sql, size_t len, const NormalizeOptions *options, char *out,
						size_t size)
{
	Scanner s = {
		.at = sql, .end = sql + len, .backslash_in_literals = options->backslash_in_literals};
	Output o = {.buf = out, .size = size};
	int parameter = highest_parameter(s);
	int in_list = 0; /* literals with nothing but commas between them, so far */
	Nesting nesting = {0};
	bool after_function = false;
	TokenKind before = TOKEN_END;
	TokenKind kind;

	while (!o.full && (kind = next_token(&s)) != TOKEN_END)
	{
		bool literal = kind == TOKEN_LITERAL || (kind == TOKEN_NUMBER && !options->keep_numbers);

		if (literal)
		{
			char name[16];

			in_list = before == TOKEN_COMMA && !within_call(&nesting) ? in_list + 1 : 1;
			if (in_list <= SHOWN_OF_LIST)
				write_token(&o, s.blank, name, snprintf(name, sizeof(name), "$%d", ++parameter));
			else if (in_list == SHOWN_OF_LIST + 1)
				write_token(&o, s.blank, "...", 3);
		}
		else if (kind == TOKEN_COMMA)
		{
			if (before != TOKEN_LITERAL)
				in_list = 0;
			/* The comma before what is not shown is not shown either, except the first. */
			if (in_list <= SHOWN_OF_LIST)
				write_token(&o, s.blank, s.token, s.token_len);
		}
		else
		{
			if (before == TOKEN_COMMA && in_list > SHOWN_OF_LIST)
				write_token(&o, false, ",", 1);
			in_list = 0;
			write_token(&o, s.blank, s.token, s.token_len);
			if (s.token_len == 1)
				follow_nesting(&nesting, *s.token, after_function);
		}
		after_function = kind == TOKEN_OTHER && names_function(s.token, s.token_len);
		before = literal ? TOKEN_LITERAL : kind;
	}
	out[o.len] = '\0';
	return o.len;
}
