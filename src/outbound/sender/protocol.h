/*-------------------------------------------------------------------------
 *
 * protocol.h
 *	  What the notifier worker and the sender program say to each other.
 *
 * Plain C, included by both sides; neither the server's headers nor libcurl's
 * are needed here.  Both ends are built together and run on one machine, so
 * integers are in native byte order.
 *
 * Frame:    u32 length of what follows, u8 type, fields
 * String:   u32 length, bytes (no terminator)
 *
 * 'H' hello    sender -> worker: u32 protocol version; sent once, when ready
 * 'R' request  worker -> sender: u64 tag, u32 connect timeout (ms), u32 total
 *              timeout (ms), u8 allow private networks, str allowed hosts,
 *              str method, str url, str body, u32 n, n * (str name, str value),
 *              the headers, u32 n, n * (str name, str value), the options
 * 'O' outcome  sender -> worker: u64 tag, u8 kind, u32 HTTP status or SMTP
 *              reply code (0 = none), u64 latency (us), i64 Retry-After (s, -1 =
 *              none), u64 bytes of the response, u8 protocol, u8 1 if the
 *              request may have arrived, str error (printable ASCII, never holds
 *              a path, query or header)
 *
 * 'P' probe    worker -> sender: the fields of a request, u8 sort of probe, u8
 *              number of redirects that may be followed
 * 'A' answer   sender -> worker, to a probe: u64 tag, u8 kind, u32 HTTP status,
 *              u8 protocol, u8 redirects followed, u64 latency (us), u64 of it
 *              for looking the name up, connecting, the TLS handshake, waiting
 *              for the first byte (us), u64 bytes of the response, str error (as
 *              above), str what is wrong with the certificate (printable ASCII),
 *              str addresses (with blanks between them), str certificates (lines
 *              "Name:value", an empty one after each), str headers, str body;
 *              headers and body are as the peer sent them, cut off
 *
 * Options, each at most once but mail_rcpt:
 *   ca_file, cert_file, key_file   absolute paths
 *   min_tls                        1.2 (as without) or 1.3
 *   http2                          never
 *   proxy                          url of an HTTP proxy
 *   mail_from, mail_rcpt           envelope of a mail
 *   username, password             for the mail server
 *   starttls                       required (as without) or never
 *   until                          of a probe of sort t: what is waited for in
 *                                  what the peer says
 *   send_hex                       of such a probe: the body, in hexadecimal
 *
 * A probe of sort t connects, with TLS if its url is an https one, sends its
 * body, and reads up to `until`, the end or its bound; that is the answer's body.
 *
 * A mail has the method SMTP, a url smtp://host:port or smtps://host:port, no
 * headers, and as its body the whole message with its own.
 *
 * Every request gets exactly one outcome, in any order.  The sender exits at
 * end of file.  Whoever is sent anything else ends the conversation: the sender
 * exits, the worker ends the sender, which strangers may have taken over, and
 * sends again what was not answered.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SENDER_PROTOCOL_H
#define MONITORING_SENDER_PROTOCOL_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SENDER_PROTOCOL_VERSION 3

#define SENDER_MAX_FRAME (1024 * 1024) /* to the sender */
#define SENDER_MAX_ANSWER (128 * 1024) /* to the worker */
#define SENDER_MAX_ERROR 512           /* with its terminator */
#define SENDER_MAX_RETRY_AFTER (7 * 24 * 3600)
#define SENDER_MAX_TIMEOUT_MS 60000
#define SENDER_MAX_RESPONSE (1024 * 1024) /* bytes read of a response; the limits are lower */

/* Longest time a request may wait in the sender for a free connection. */
#define SENDER_MAX_QUEUE_MS 30000

/* Parallel transfers in all and to one host and port; more wait in the sender. */
#define SENDER_MAX_ACTIVE 256
#define SENDER_MAX_PER_HOST 32

#define SENDER_HELLO 'H'
#define SENDER_REQUEST 'R'
#define SENDER_OUTCOME 'O'
#define SENDER_PROBE 'P'
#define SENDER_ANSWER 'A'

/* Outcome kinds. */
#define SENDER_RESPONSE 'r' /* a response came; its status decides */
#define SENDER_NETWORK 'n'  /* no response: may be tried again */
#define SENDER_REFUSED 'x'  /* against policy or malformed: never sent */

/* Sorts of probes: a request and its response; a connection; with TLS; a name's addresses. */
#define SENDER_PROBE_HTTP 'h'
#define SENDER_PROBE_TCP 't'
#define SENDER_PROBE_TLS 's'
#define SENDER_PROBE_DNS 'd'

#define SENDER_MAX_REDIRECTS 10
#define SENDER_MAX_PROBE_HEADERS (16 * 1024)
#define SENDER_MAX_PROBE_BODY (64 * 1024)
#define SENDER_MAX_PROBE_TEXT 4096 /* of addresses and certificates */

/* Protocols: of a response one of these, otherwise 0. */
#define SENDER_HTTP_1_0 10
#define SENDER_HTTP_1_1 11
#define SENDER_HTTP_2 20
#define SENDER_HTTP_3 30
#define SENDER_SMTP 1

/* Bounded reading of a frame's fields; `bad` sticks once a field does not fit. */
typedef struct SenderReader
{
	const char *p;
	const char *end;
	bool bad;
} SenderReader;

static inline void
sender_get(SenderReader *r, void *dst, size_t n)
{
	if (r->bad || (size_t) (r->end - r->p) < n)
	{
		r->bad = true;
		memset(dst, 0, n);
		return;
	}
	memcpy(dst, r->p, n);
	r->p += n;
}

static inline uint8_t
sender_get_u8(SenderReader *r)
{
	uint8_t v;

	sender_get(r, &v, sizeof(v));
	return v;
}

static inline uint32_t
sender_get_u32(SenderReader *r)
{
	uint32_t v;

	sender_get(r, &v, sizeof(v));
	return v;
}

static inline uint64_t
sender_get_u64(SenderReader *r)
{
	uint64_t v;

	sender_get(r, &v, sizeof(v));
	return v;
}

/* The string stays in the frame; NULL with *len 0 when it does not fit. */
static inline const char *
sender_get_str(SenderReader *r, size_t *len)
{
	const char *s;
	uint32_t n = sender_get_u32(r);

	if (r->bad || (size_t) (r->end - r->p) < n)
	{
		r->bad = true;
		*len = 0;
		return NULL;
	}
	s = r->p;
	r->p += n;
	*len = n;
	return s;
}

typedef struct SenderOutcome
{
	uint64_t tag;
	uint8_t kind;
	uint32_t status;
	uint64_t latency_us;
	int64_t retry_after;
	uint64_t bytes;
	uint8_t protocol;
	bool begun; /* some of the request, or of the mail's text, was sent */
	char error[SENDER_MAX_ERROR];
} SenderOutcome;

/* Read the fields of an outcome, up to the end of the frame; false unless all are as described above. */
static inline bool
sender_get_outcome(SenderReader *r, SenderOutcome *o)
{
	size_t len;
	const char *error;
	uint8_t begun;

	o->tag = sender_get_u64(r);
	o->kind = sender_get_u8(r);
	o->status = sender_get_u32(r);
	o->latency_us = sender_get_u64(r);
	o->retry_after = (int64_t) sender_get_u64(r);
	o->bytes = sender_get_u64(r);
	o->protocol = sender_get_u8(r);
	begun = sender_get_u8(r);
	o->begun = begun == 1;
	error = sender_get_str(r, &len);
	if (r->bad || r->p != r->end || len >= SENDER_MAX_ERROR)
		return false;
	for (size_t i = 0; i < len; i++)
		if (error[i] < 0x20 || error[i] > 0x7e)
			return false;
	memcpy(o->error, error, len);
	o->error[len] = '\0';

	if (o->kind == SENDER_RESPONSE)
	{
		if (o->status < 100 || o->status > 999)
			return false;
		if (o->protocol != SENDER_HTTP_1_0 && o->protocol != SENDER_HTTP_1_1 &&
			o->protocol != SENDER_HTTP_2 && o->protocol != SENDER_HTTP_3 &&
			o->protocol != SENDER_SMTP)
			return false;
	}
	else if ((o->kind != SENDER_NETWORK && o->kind != SENDER_REFUSED) || o->status != 0 ||
			 o->protocol != 0)
		return false;
	if (o->bytes > SENDER_MAX_RESPONSE || begun > 1)
		return false;
	return o->latency_us <= 10 * SENDER_MAX_TIMEOUT_MS * UINT64_C(1000) && o->retry_after >= -1 &&
		o->retry_after <= SENDER_MAX_RETRY_AFTER;
}

/* What became of a probe; strings are in the frame. */
typedef struct SenderString
{
	const char *data;
	size_t len;
} SenderString;

typedef struct SenderAnswer
{
	uint64_t tag;
	uint8_t kind;
	uint32_t status;
	uint8_t protocol;
	uint8_t redirects;
	uint64_t latency_us;
	uint64_t dns_us;
	uint64_t connect_us;
	uint64_t tls_us;
	uint64_t first_byte_us;
	uint64_t bytes;
	SenderString error;
	SenderString certificate_error;
	SenderString addresses;
	SenderString certificates;
	SenderString headers;
	SenderString body;
} SenderAnswer;

static inline SenderString
sender_get_string(SenderReader *r, size_t most, bool printable)
{
	SenderString s;

	s.data = sender_get_str(r, &s.len);
	if (s.len > most)
		r->bad = true;
	for (size_t i = 0; !r->bad && printable && i < s.len; i++)
		if ((s.data[i] < 0x20 && s.data[i] != '\n') || s.data[i] > 0x7e)
			r->bad = true;
	return s;
}

/* Read the fields of an answer, up to the end of the frame; false unless all are as described above. */
static inline bool
sender_get_answer(SenderReader *r, SenderAnswer *a)
{
	a->tag = sender_get_u64(r);
	a->kind = sender_get_u8(r);
	a->status = sender_get_u32(r);
	a->protocol = sender_get_u8(r);
	a->redirects = sender_get_u8(r);
	a->latency_us = sender_get_u64(r);
	a->dns_us = sender_get_u64(r);
	a->connect_us = sender_get_u64(r);
	a->tls_us = sender_get_u64(r);
	a->first_byte_us = sender_get_u64(r);
	a->bytes = sender_get_u64(r);
	a->error = sender_get_string(r, SENDER_MAX_ERROR, true);
	a->certificate_error = sender_get_string(r, SENDER_MAX_ERROR, true);
	a->addresses = sender_get_string(r, SENDER_MAX_PROBE_TEXT, true);
	a->certificates = sender_get_string(r, SENDER_MAX_PROBE_TEXT, true);
	a->headers = sender_get_string(r, SENDER_MAX_PROBE_HEADERS, false);
	a->body = sender_get_string(r, SENDER_MAX_PROBE_BODY, false);
	if (r->bad || r->p != r->end || a->redirects > SENDER_MAX_REDIRECTS)
		return false;
	return (a->kind == SENDER_RESPONSE || a->kind == SENDER_NETWORK || a->kind == SENDER_REFUSED) &&
		a->status <= 999 && a->latency_us <= 10 * SENDER_MAX_TIMEOUT_MS * UINT64_C(1000);
}

#endif /* MONITORING_SENDER_PROTOCOL_H */
