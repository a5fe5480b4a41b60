/*-------------------------------------------------------------------------
 *
 * request.h
 *	  From a claimed notification to a request with its secrets in place.
 *
 * mon_request_make() calls the formatter and puts the secrets where their
 * markers stand; mon_request_frame() packs the result for the sender, and
 * mon_local_make() keeps what the notifier does itself (NOTIFY, calls).
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_NOTIFY_REQUEST_H
#define MONITORING_NOTIFY_REQUEST_H

#include "notify/notify_internal.h"

#include "nodes/pg_list.h"
#include "outbound/secrets.h"

/* What the claim says about one notification. */
typedef struct MonRequestSource
{
	Oid function;               /* the formatter; InvalidOid if there is none of that name */
	const char *owner;          /* the role that it runs as */
	const char *receiver_owner; /* the role that a receiver's own function runs as */
	Jsonb *receiver;            /* name, kind, url, config */
	Datum notification;         /* jsonb */
	uint32 connect_ms;
	uint32 total_ms;
} MonRequestSource;

typedef enum MonRequestResult
{
	MON_REQUEST_MADE,
	MON_REQUEST_NOTHING, /* the formatter has nothing to send */
	MON_REQUEST_LATER,   /* failed, but may work the next time */
	MON_REQUEST_FAILED
} MonRequestResult;

/*
 * On failure *error is a text without secrets, palloc'd.  Needs an SPI
 * connection; the result is in its memory.
 */
extern MonRequestResult mon_request_make(const MonRequestSource *source, MonRequest *request,
										 char **error);

/* Append the request's frame, without its length, for the sender; false if it is too long. */
extern bool mon_request_frame(const MonRequestSource *source, const MonRequest *request, uint64 tag,
							  StringInfo frame);

/* ---- deliveries without a sender (local.c) ---- */

typedef struct MonLocal
{
	bool sql;  /* a call, otherwise NOTIFY */
	bool hung; /* took longer than it may */
	char *receiver;
	char *owner;  /* the role that a function runs as */
	char *target; /* function or channel */
	char *body;
	uint32 timeout_ms;
} MonLocal;

/* What is to be done for a request, to be freed; NULL if it is for the sender. */
extern MonLocal *mon_local_make(const MonRequest *request, const char *receiver, const char *owner,
								uint32 timeout_ms);
extern void mon_local_free(MonLocal *local);

/*
 * Do it, in a transaction with a snapshot and an SPI connection.  Returns the
 * outcome, with *error a text without secrets, palloc'd.
 */
extern const char *mon_local_deliver(MonLocal *local, char **error);

/* ---- secrets (receiver_secrets.c) ---- */

/*
 * Read the secrets that a receiver refers to, and give each a new marker.
 * False with *error, a text without secrets, if one is missing.  Needs an SPI
 * connection.
 */
extern bool mon_secrets_read(Jsonb *receiver, MonSecrets *secrets, char **error);

/* The receiver with markers in place of its secrets: what the formatter gets. */
extern Jsonb *mon_secrets_place(Jsonb *receiver, const MonSecrets *secrets);

#endif /* MONITORING_NOTIFY_REQUEST_H */
