/*-------------------------------------------------------------------------
 *
 * yaml_json.c
 *	  YAML as JSON: the events of libyaml's parser, written down.
 *
 * What is written is at most a constant times what is read: there are no
 * aliases.  Keys of a mapping are compared when it ends.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/yaml/yaml_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct Key
{
	char *text;
	size_t len;
} Key;

/* A mapping or sequence that is open. */
typedef struct Level
{
	bool mapping;
	bool value_next; /* a key has been written */
	size_t members;
	size_t first_key; /* of its keys */
} Level;

typedef struct Writer
{
	char *s;
	size_t len;
	size_t room;
	Level levels[YAML_MAX_DEPTH];
	int depth;
	Key *keys;
	size_t nkeys;
	size_t maxkeys;
	size_t documents;
	size_t line;
	YamlError *error;
} Writer;

static bool
fail(Writer *w, const char *message)
{
	w->error->line = w->line;
	snprintf(w->error->message, sizeof(w->error->message), "%s", message);
	return false;
}

/* ---- writing ---- */

static bool
append(Writer *w, const char *s, size_t len)
{
	if (len >= w->room - w->len)
	{
		size_t room = 2 * (w->len + len + 1);
		char *larger = realloc(w->s, room);

		if (!larger)
			return fail(w, "out of memory");
		w->s = larger;
		w->room = room;
	}
	memcpy(w->s + w->len, s, len);
	w->len += len;
	w->s[w->len] = '\0';
	return true;
}

static bool
append_text(Writer *w, const char *s, size_t len)
{
	bool good = append(w, "\"", 1);

	for (size_t i = 0; good && i < len; i++)
	{
		unsigned char c = s[i];
		char escape[8];

		if (c == '\0')
			return fail(w, "a zero byte");
		if (c == '"' || c == '\\')
			good = append(w, "\\", 1) && append(w, s + i, 1);
		else if (c < 0x20)
			good = append(w, escape, snprintf(escape, sizeof(escape), "\\u%04x", c));
		else
			good = append(w, s + i, 1);
	}
	return good && append(w, "\"", 1);
}

static bool
keep_key(Writer *w, const char *s, size_t len)
{
	Key *key;

	if (w->nkeys == w->maxkeys)
	{
		size_t room = w->maxkeys > 0 ? 2 * w->maxkeys : 64;
		Key *larger = realloc(w->keys, room * sizeof(Key));

		if (!larger)
			return fail(w, "out of memory");
		w->keys = larger;
		w->maxkeys = room;
	}
	key = &w->keys[w->nkeys];
	key->text = malloc(len + 1);
	if (!key->text)
		return fail(w, "out of memory");
	memcpy(key->text, s, len);
	key->len = len;
	w->nkeys++;
	return true;
}

static int
by_text(const void *a, const void *b)
{
	const Key *x = a;
	const Key *y = b;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(x->text, y->text, x->len);
}

static void
forget_keys(Writer *w, size_t first)
{
	while (w->nkeys > first)
		free(w->keys[--w->nkeys].text);
}

static bool
check_keys(Writer *w, size_t first)
{
	if (w->nkeys - first > 1)
		qsort(w->keys + first, w->nkeys - first, sizeof(Key), by_text);
	for (size_t i = first + 1; i < w->nkeys; i++)
		if (by_text(&w->keys[i - 1], &w->keys[i]) == 0)
		{
			char message[200];

			snprintf(message, sizeof(message), "the key \"%.*s\" occurs twice",
					 (int) (w->keys[i].len < 100 ? w->keys[i].len : 100), w->keys[i].text);
			return fail(w, message);
		}
	forget_keys(w, first);
	return true;
}

/* ---- events ---- */

/* What comes before a key or a value. */
static bool
begin_member(Writer *w, bool scalar)
{
	Level *level = w->depth > 0 ? &w->levels[w->depth - 1] : NULL;

	if (!level)
		return true;
	if (level->mapping && level->value_next)
	{
		level->value_next = false;
		return append(w, ": ", 2);
	}
	if (level->mapping && !scalar)
		return fail(w, "a key that is no text");
	level->value_next = level->mapping;
	return level->members++ == 0 || append(w, ", ", 2);
}

static bool
put_scalar(Writer *w, const yaml_event_t *e)
{
	const char *s = (const char *) e->data.scalar.value;
	size_t len = e->data.scalar.length;
	bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	bool key;

	if (!begin_member(w, true))
		return false;
	key = w->depth > 0 && w->levels[w->depth - 1].value_next;
	if (key)
		return keep_key(w, s, len) && append_text(w, s, len);
	if (plain &&
		(len == 0 || strcmp(s, "~") == 0 || strcmp(s, "null") == 0 || strcmp(s, "Null") == 0 ||
		 strcmp(s, "NULL") == 0))
		return append(w, "null", 4);
	return append_text(w, s, len);
}

static bool
open_level(Writer *w, bool mapping)
{
	Level *level;

	if (w->depth == YAML_MAX_DEPTH)
		return fail(w, "nested too deeply");
	if (!begin_member(w, false))
		return false;
	level = &w->levels[w->depth++];
	memset(level, 0, sizeof(*level));
	level->mapping = mapping;
	level->first_key = w->nkeys;
	return append(w, mapping ? "{" : "[", 1);
}

static bool
close_level(Writer *w)
{
	Level *level = &w->levels[--w->depth];

	if (level->mapping && !check_keys(w, level->first_key))
		return false;
	return append(w, level->mapping ? "}" : "]", 1);
}

/* Anchors do no harm as long as nothing refers to them. */
static bool
has_tag(const yaml_event_t *e)
{
	switch (e->type)
	{
		case YAML_SCALAR_EVENT:
			return e->data.scalar.tag != NULL;
		case YAML_SEQUENCE_START_EVENT:
			return e->data.sequence_start.tag != NULL;
		case YAML_MAPPING_START_EVENT:
			return e->data.mapping_start.tag != NULL;
		default:
			return false;
	}
}

static bool
put_event(Writer *w, const yaml_event_t *e)
{
	w->line = e->start_mark.line + 1;
	if (has_tag(e))
		return fail(w, "a tag (!)");
	switch (e->type)
	{
		case YAML_SCALAR_EVENT:
			return put_scalar(w, e);
		case YAML_SEQUENCE_START_EVENT:
			return open_level(w, false);
		case YAML_MAPPING_START_EVENT:
			return open_level(w, true);
		case YAML_SEQUENCE_END_EVENT:
		case YAML_MAPPING_END_EVENT:
			return close_level(w);
		case YAML_ALIAS_EVENT:
			return fail(w, "an alias (*)");
		case YAML_DOCUMENT_START_EVENT:
			return w->documents++ == 0 || fail(w, "a second document");
		default:
			return true;
	}
}

static bool
parser_failed(Writer *w, const yaml_parser_t *parser)
{
	w->line = parser->problem_mark.line + 1;
	if (parser->error == YAML_READER_ERROR)
		w->line = 0;
	return fail(w, parser->problem ? parser->problem : "out of memory");
}

static bool
write_events(Writer *w, yaml_parser_t *parser)
{
	bool done = false;

	while (!done)
	{
		yaml_event_t event;
		bool good;

		if (!yaml_parser_parse(parser, &event))
			return parser_failed(w, parser);
		good = put_event(w, &event);
		done = event.type == YAML_STREAM_END_EVENT;
		yaml_event_delete(&event);
		if (!good)
			return false;
	}
	return w->documents > 0 || append(w, "null", 4);
}

char *
yaml_to_json(const char *yaml, size_t len, YamlError *error)
{
	Writer w = {.error = error};
	yaml_parser_t parser;
	bool good;

	if (len > YAML_MAX_BYTES)
	{
		(void) fail(&w, "longer than 4 MB");
		return NULL;
	}
	if (!yaml_parser_initialize(&parser))
	{
		(void) fail(&w, "out of memory");
		return NULL;
	}
	yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&parser, (const unsigned char *) yaml, len);
	good = write_events(&w, &parser);
	yaml_parser_delete(&parser);
	forget_keys(&w, 0);
	free(w.keys);
	if (good)
		return w.s;
	free(w.s);
	return NULL;
}
