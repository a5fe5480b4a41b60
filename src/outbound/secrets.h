/*-------------------------------------------------------------------------
 *
 * secrets.h
 *	  Secrets of requests: where they are read, and how they get where a marker
 *	  stands.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SECRETS_H
#define MONITORING_SECRETS_H

#include "outbound/outbound.h"

#define MON_MARKER_LENGTH 32

typedef struct MonSecret
{
	char *key;
	char marker[MON_MARKER_LENGTH + 1]; /* stands for it until the request is made */
	char *value;                        /* UTF-8 */
} MonSecret;

typedef struct MonSecrets
{
	int n;
	MonSecret *secrets;
} MonSecrets;

/*
 * Read a secret from its source (value, file, environment; NULL: it is not set)
 * and add it, with this marker or, if that is NULL, a new one.  False with
 * *error, a text without secrets.
 */
extern bool mon_secrets_add(MonSecrets *secrets, const char *key, const char *marker,
							const char *source, const char *value, char **error);

/*
 * If there are a username, as a secret or given, and a secret password: add what
 * HTTP's basic authentication makes of them.
 */
extern void mon_secrets_add_basic_auth(MonSecrets *secrets, const char *username,
									   const char *marker);

/* The secret of that key; NULL if there is none. */
extern const char *mon_secrets_get(const MonSecrets *secrets, const char *key);

/* Put the secrets into a request; false with *error if the result would be too long. */
extern bool mon_secrets_fill(const MonSecrets *secrets, MonRequest *request, char **error);

/* Is the file, a palloc'd real path of which is returned, in monitoring.secrets_directory?  NULL with *error if not. */
extern char *mon_secrets_file(const char *path, char **error);

extern void mon_secrets_init(void);

#endif /* MONITORING_SECRETS_H */
