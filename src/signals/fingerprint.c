/*-------------------------------------------------------------------------
 *
 * fingerprint.c
 *	  What two errors have in common, in plain C.
 *
 * Most messages come with the format that they were made from, which is the same
 * whatever the values.  RAISE and the like have none that tells anything; of
 * those the message is taken without what looks like a value: texts in quotes,
 * words with digits, addresses.
 *
 *-------------------------------------------------------------------------
 */
#include "signals/fingerprint.h"

#include <string.h>

static bool
is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char) c >= 0x80;
}

static bool
is_word(char c)
{
	return is_letter(c) || (c >= '0' && c <= '9') || c == '_';
}

/* Within a word when word characters follow: 1.5, 2031-01-01, a@example.com, 12:30. */
static bool
is_joint(char c)
{
	return c == '.' || c == '-' || c == ':' || c == '@' || c == '+' || c == '/';
}

bool
mon_template_tells(const char *template, size_t len)
{
	int letters = 0;

	for (size_t i = 0; i < len; i++)
	{
		if (template[i] == '%' && i + 1 < len)
		{
			/* past flags and length to the conversion itself */
			do
				i++;
			while (i + 1 < len && !is_letter(template[i]));
			while (i + 1 < len && (template[i] == 'l' || template[i] == 'z' || template[i] == 'h'))
				i++;
		}
		else if (is_letter(template[i]))
			letters++;
	}
	return letters >= 3;
}

static size_t
word_length(const char *word, size_t len, bool *value)
{
	size_t n = 0;

	*value = false;
	while (n < len &&
		   (is_word(word[n]) || (is_joint(word[n]) && n + 1 < len && is_word(word[n + 1]))))
	{
		*value |= (word[n] >= '0' && word[n] <= '9') || word[n] == '@';
		n++;
	}
	return n;
}

/* Length of the text in quotes that begins here; 0 for an apostrophe or what does not end. */
static size_t
quoted_length(const char *message, size_t at, size_t len)
{
	const char *end;

	if (message[at] != '"' && message[at] != '\'' && message[at] != '`')
		return 0;
	if (at > 0 && message[at] != '"' && is_word(message[at - 1]))
		return 0;
	end = memchr(message + at + 1, message[at], len - at - 1);
	return end ? (size_t) (end - (message + at)) + 1 : 0;
}

size_t
mon_parameterize(const char *message, size_t len, char *out, size_t size)
{
	size_t n = 0;
	size_t i = 0;

	while (i < len && n + 1 < size)
	{
		size_t take = quoted_length(message, i, len);
		bool value = take > 0;

		if (!value && is_word(message[i]))
			take = word_length(message + i, len - i, &value);
		if (take == 0)
			take = 1;
		if (value)
			out[n++] = '?';
		else
		{
			if (n + take >= size)
				break;
			memcpy(out + n, message + i, take);
			n += take;
		}
		i += take;
	}
	out[n] = '\0';
	return n;
}
