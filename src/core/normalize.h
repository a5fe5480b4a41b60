/*-------------------------------------------------------------------------
 *
 * normalize.h
 *	  Texts of statements without their literals, in plain C: no server headers,
 *	  so that it is unit-tested and fuzzed without a server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_NORMALIZE_H
#define MONITORING_NORMALIZE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct NormalizeOptions
{
	bool keep_numbers;          /* DDL and settings read badly without them */
	bool backslash_in_literals; /* standard_conforming_strings is off */
} NormalizeOptions;

/*
 * Write the text of a statement into out (size bytes, 1 or more) with every
 * literal replaced by a parameter, $1, $2 and so on after those that the text has
 * already; comments other than hints are left out, blanks between tokens become
 * one space, of more than three literals in a list only the first three are
 * shown, but of a function's arguments all.  A text that does not fit ends after the last whole token that does.
 * Any bytes are safe input, whole or cut anywhere; in an encoding whose multibyte
 * characters contain no ASCII bytes the output has whole characters only.
 * Returns the length; the terminating zero is not counted.
 */
extern size_t mon_normalize_statement(const char *sql, size_t len, const NormalizeOptions *options,
									  char *out, size_t size);

#endif /* MONITORING_NORMALIZE_H */
