/*-------------------------------------------------------------------------
 *
 * fingerprint.h
 *	  What two errors have in common, in plain C.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_FINGERPRINT_H
#define MONITORING_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>

/* Whether a message's format says what happened, rather than "%s". */
extern bool mon_template_tells(const char *template, size_t len);

/* A message without its values, size bytes at most with the terminating zero.  Returns the length. */
extern size_t mon_parameterize(const char *message, size_t len, char *out, size_t size);

#endif /* MONITORING_FINGERPRINT_H */
