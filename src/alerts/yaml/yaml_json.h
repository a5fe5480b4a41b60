/*-------------------------------------------------------------------------
 *
 * yaml_json.h
 *	  YAML as JSON.
 *
 * Plain C on libyaml.  Scalars become texts as they stand there, so that no is
 * not false and 1e3 not 1000; what is empty, ~ or null is null.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ALERTS_YAML_JSON_H
#define ALERTS_YAML_JSON_H

#include <stdbool.h>
#include <stddef.h>

#define YAML_MAX_BYTES (4 * 1024 * 1024)
#define YAML_MAX_DEPTH 32

typedef struct YamlError
{
	size_t line; /* 1-based; 0: not known */
	char message[200];
} YamlError;

/*
 * The only document of a YAML text in UTF-8, as JSON that the caller frees; of
 * one without a document "null".  NULL when it is no YAML, too deep or too
 * long, has several documents, aliases, tags of its own, a key twice, or when
 * memory is out.
 */
extern char *yaml_to_json(const char *yaml, size_t len, YamlError *error);

#endif /* ALERTS_YAML_JSON_H */
