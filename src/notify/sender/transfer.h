/*-------------------------------------------------------------------------
 *
 * transfer.h
 *	  One HTTP request of the sender: parsing, policy, libcurl handle, outcome.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SENDER_TRANSFER_H
#define MONITORING_SENDER_TRANSFER_H

#include <curl/curl.h>

#include "protocol.h"

typedef struct Transfer
{
	struct Transfer *next; /* in the queue or among the active ones */
	uint64_t tag;
	uint32_t connect_ms;
	uint32_t total_ms;
	bool allow_private;
	char *allowed_hosts;
	char *method;
	char *url;
	CURLU *parsed; /* the url as libcurl reads it: what is checked is what is used */
	char *host;    /* its host in lower case */
	int port;
	bool https;
	char *body;
	size_t body_len;
	struct curl_slist *headers;

	CURL *easy;
	uint64_t queued_us; /* monotonic */
	uint64_t started_us;
	size_t header_bytes;
	size_t body_bytes; /* of the response */
	bool headers_done; /* the final response's headers are complete */
	bool tried;        /* a socket was opened */
	bool denied;       /* an address was refused */
	bool connected;    /* the request could be sent */
	char denied_ip[64];
	char errbuf[CURL_ERROR_SIZE];
} Transfer;

/* Takes the fields of a request frame; NULL only when out of memory or the frame is malformed. */
extern Transfer *transfer_parse(SenderReader *r);

/* Check everything that needs no network; on false *out holds the refusal. */
extern bool transfer_check(Transfer *t, SenderOutcome *out);

/* Make the libcurl handle; on false *out holds the failure. */
extern bool transfer_prepare(Transfer *t, SenderOutcome *out);

extern void transfer_finish(Transfer *t, CURLcode code, uint64_t now_us, SenderOutcome *out);
extern void transfer_free(Transfer *t);

#endif /* MONITORING_SENDER_TRANSFER_H */
