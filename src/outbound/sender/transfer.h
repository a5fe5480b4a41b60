/*-------------------------------------------------------------------------
 *
 * transfer.h
 *	  One request of the sender: parsing, policy, libcurl handle, outcome.
 *
 * What is special about mail is in mail.c.
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
	const char *malformed; /* why the request is refused, found while it was read */
	CURLU *parsed;         /* the url as libcurl reads it: what is checked is what is used */
	char *scheme;
	char *host; /* its host in lower case */
	int port;
	char *body;
	size_t body_len;
	size_t body_sent; /* of a mail, or in a dialogue */
	struct curl_slist *headers;

	/* options */
	char *ca_file;
	char *cert_file;
	char *key_file;
	char *proxy;
	char *username;
	char *password;
	char *mail_from;
	struct curl_slist *mail_rcpt;
	int n_rcpt;
	bool tls13;
	bool no_http2;
	bool no_starttls;

	/* of a probe (probe.c) */
	uint8_t probe; /* its sort; 0: this is none */
	uint8_t max_redirects;
	uint8_t redirects;
	bool unverified;   /* a second look at a certificate that is not good */
	uint32_t spent_ms; /* by what came before this hop */
	uint64_t dns_us;
	uint64_t connect_us;
	uint64_t tls_us;
	uint64_t first_byte_us;
	char certificate_error[SENDER_MAX_ERROR];
	char *addresses; /* each up to its bound in the protocol */
	size_t addresses_len;
	char *certificates;
	size_t certificates_len;
	char *seen_headers;
	size_t seen_headers_len;
	char *seen_body;
	size_t seen_body_len;
	char *until;      /* of a dialogue: what is waited for; NULL: nothing */
	bool talking;     /* the connection is there, and ours */
	uint64_t talk_us; /* since when */

	CURL *easy;
	uint64_t queued_us; /* monotonic */
	uint64_t started_us;
	size_t header_bytes;
	size_t body_bytes; /* of the response */
	bool headers_done; /* the final response's headers are complete */
	long status;       /* then: its status */
	char kept[4096];   /* beginning of the body of a response that says to try later */
	size_t kept_len;
	bool mail;        /* scheme smtp or smtps */
	int reply;        /* code of the mail server's last reply */
	char command[16]; /* that it was to */
	bool left;        /* we said goodbye */
	int refused_rcpt; /* recipients that it refused */
	int rcpt_reply;   /* to one of these; 4xx if there was one */
	bool tried;       /* a socket was opened */
	bool denied;      /* an address was refused, for this reason */
	const char *denied_why;
	bool connected; /* the request could be sent */
	char denied_ip[64];
	char errbuf[CURL_ERROR_SIZE];
} Transfer;

/* Takes the fields of a request frame; NULL only when out of memory or the frame is malformed. */
extern Transfer *transfer_parse(SenderReader *r, bool probe);

/* Check everything that needs no network; on false *out holds the refusal. */
extern bool transfer_check(Transfer *t, SenderOutcome *out);

/* Set an option of the handle e, unless one has failed before: rc is the result of all. */
#define SET(option, value)                                                                         \
	do                                                                                             \
	{                                                                                              \
		if (rc == CURLE_OK)                                                                        \
			rc = curl_easy_setopt(e, option, value);                                               \
	} while (0)

/* Make the libcurl handle; on false *out holds the failure. */
extern bool transfer_prepare(Transfer *t, SenderOutcome *out);

/* Say in *out that, and why, nothing was sent; false. */
extern bool transfer_refuse(SenderOutcome *out, const char *why);

extern void transfer_finish(Transfer *t, CURLcode code, uint64_t now_us, SenderOutcome *out);
extern void transfer_free(Transfer *t);

/* Free the handle and what was found out about the url, so that another can take its place. */
extern void transfer_forget_url(Transfer *t);

/* ---- probes (probe.c) ---- */

/* The probe's own fields; false if there is no such probe. */
extern bool probe_parse(Transfer *t, SenderReader *r);

/* Does it only connect, or not even that? */
extern bool probe_connects_only(const Transfer *t);

extern CURLcode probe_set_request(Transfer *t);

/* An address that is about to be connected to; true if that is all that was to be found out. */
extern bool probe_address(Transfer *t, const char *ip);

extern void probe_header(Transfer *t, const char *data, size_t len);

/* Part of the body; false when nothing more of it is wanted. */
extern bool probe_body(Transfer *t, const char *data, size_t len);

/* The outcome of what connects only. */
extern void probe_finish(Transfer *t, CURLcode code, SenderOutcome *out);

/*
 * After a hop: note its times.  True if it goes on: t->easy is another handle
 * now.  The old one must have been taken out of the multi handle.
 */
extern bool probe_goes_on(Transfer *t, CURLcode code, uint64_t now_us, SenderOutcome *out);

/* Note the times of a connection over which there will be a dialogue. */
extern void probe_connected(Transfer *t, uint64_t now_us);

extern void probe_free(Transfer *t);

/* ---- dialogues over a connection (dialogue.c) ---- */

extern bool dialogue_take_hex(Transfer *t, const char *hex, size_t len);

/* Now that there is a connection: is anything to be said or heard? */
extern bool dialogue_wanted(const Transfer *t, CURLcode code);

/* Say and hear what can be without waiting; false when it is over, *out has how. */
extern bool dialogue_goes_on(Transfer *t, uint64_t now_us, SenderOutcome *out);

/* Has what is waited for come with the last bytes, of which so many are new? */
extern bool dialogue_heard(const Transfer *t, size_t fresh);

extern curl_socket_t dialogue_socket(const Transfer *t);

/* ---- mail (mail.c) ---- */

/* Does the request make a mail?  NULL, or why not. */
extern const char *mail_check(Transfer *t);

extern CURLcode mail_set_request(Transfer *t);

/* One line of the mail server's. */
extern void mail_reply(Transfer *t, const char *line, size_t len);

/* True if a reply of the server decided; *out holds it.  Otherwise the mail server was not reached. */
extern bool mail_finish(const Transfer *t, CURLcode code, SenderOutcome *out);

#endif /* MONITORING_SENDER_TRANSFER_H */
