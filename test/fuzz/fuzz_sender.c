/*-------------------------------------------------------------------------
 *
 * fuzz_sender.c
 *	  libFuzzer target: what the sender reads from the worker, what the worker
 *	  reads from the sender, and the policy in between.
 *
 * The first byte chooses one of them.  Any input must be refused or give a
 * request without line breaks to an allowed host, or an outcome or an answer in
 * its bounds; an address is judged alike in all of its forms; of what a peer
 * sends so much is kept as there is room for, and what is waited for is found
 * however it comes in pieces.
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "outbound/sender/policy.h"
#include "outbound/sender/transfer.h"

static void
check(bool good)
{
	if (!good)
		abort();
}

static bool
one_line(const char *s)
{
	return strpbrk(s, "\r\n") == NULL;
}

/* Lines end with CR LF, and nothing else is one of them. */
static void
check_mail(const Transfer *t)
{
	check(t->mail_from && one_line(t->mail_from) && t->n_rcpt >= 1);
	check(t->body_len == 0 || t->body[t->body_len - 1] == '\n');
	for (size_t i = 0; i < t->body_len; i++)
	{
		check(t->body[i] != '\0');
		check(t->body[i] != '\r' || (i + 1 < t->body_len && t->body[i + 1] == '\n'));
		check(t->body[i] != '\n' || (i > 0 && t->body[i - 1] == '\r'));
	}
}

static void
fuzz_request(SenderReader r, bool probe)
{
	Transfer *t = transfer_parse(&r, probe);
	SenderOutcome out;

	if (!t)
		return;
	if (transfer_check(t, &out))
	{
		check(t->url[0] && one_line(t->url) && t->method[0] && one_line(t->method));
		check(policy_host_allowed(t->allowed_hosts, t->scheme, t->host, t->port));
		check(t->total_ms >= 1 && t->total_ms <= SENDER_MAX_TIMEOUT_MS);
		check(t->connect_ms >= 1 && t->connect_ms <= t->total_ms);
		check(t->mail == (strncmp(t->scheme, "smtp", 4) == 0));
		for (struct curl_slist *h = t->headers; h; h = h->next)
			check(one_line(h->data) && strpbrk(h->data, ":;"));
		for (struct curl_slist *a = t->mail_rcpt; a; a = a->next)
			check(one_line(a->data) && !strpbrk(a->data, "<> "));
		if (t->mail)
			check_mail(t);
		check(!t->proxy || one_line(t->proxy));
		check(!probe || (t->probe && t->max_redirects <= SENDER_MAX_REDIRECTS));
		check(probe || !t->probe);
	}
	else
		check(out.kind == SENDER_REFUSED && out.status == 0 && out.error[0]);
	transfer_free(t);
}

static void
fuzz_outcome(SenderReader r)
{
	SenderOutcome o;

	if (!sender_get_outcome(&r, &o))
		return;
	check(strlen(o.error) < SENDER_MAX_ERROR && o.status <= 999);
	check(o.retry_after >= -1 && o.retry_after <= SENDER_MAX_RETRY_AFTER);
	for (const char *c = o.error; *c; c++)
		check(*c >= 0x20 && *c <= 0x7e);
}

static void
fuzz_address(SenderReader r)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	char text[INET6_ADDRSTRLEN];
	uint8_t *b = in6.sin6_addr.s6_addr;

	sender_get(&r, b, 16);
	inet_ntop(AF_INET6, b, text, sizeof(text));
	check(policy_ip_private(text) == policy_address_private((struct sockaddr *) &in6));

	/* The last four bytes on their own, mapped, behind NAT64. */
	memcpy(&in.sin_addr, b + 12, 4);
	memcpy(b, "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
	check(policy_address_private((struct sockaddr *) &in) ==
		  policy_address_private((struct sockaddr *) &in6));
	memcpy(b, "\0\x64\xff\x9b\0\0\0\0\0\0\0\0", 12);
	check(policy_address_private((struct sockaddr *) &in) ==
		  policy_address_private((struct sockaddr *) &in6));
}

/* A host and a list as two strings. */
static void
fuzz_hosts(SenderReader r)
{
	size_t n = r.end - r.p;
	char *list = malloc(n + 1), *host;

	memcpy(list, r.p, n);
	list[n] = '\0';
	host = memchr(list, '\n', n);
	if (host)
	{
		*host++ = '\0';
		(void) policy_host_allowed(list, "https", host, 443);
		check(!policy_host_allowed("", "https", host, 443));
		if (!policy_host_allowed("*", "https", host, 443))
			check(!policy_host_allowed(list, "https", host, 443));
		(void) policy_ip_private(host);
		(void) policy_host_private(host);
	}
	free(list);
}

/* What a mail server replies, and what a body says about later. */
static void
fuzz_replies(SenderReader r)
{
	Transfer t = {.n_rcpt = 2};
	SenderOutcome out = {.kind = SENDER_NETWORK};
	long seconds = policy_retry_after(r.p, r.end - r.p, 1000);

	check(seconds >= -1 && seconds <= 1000);
	strcpy(t.command, "RCPT");
	while (r.p < r.end)
	{
		const char *end = memchr(r.p, '\n', r.end - r.p);
		size_t len = end ? end - r.p + 1 : r.end - r.p;

		mail_reply(&t, r.p, len);
		r.p += len;
	}
	if (mail_finish(&t, CURLE_SEND_ERROR, &out))
		check(out.status >= 400 && out.status <= 599 && out.protocol == SENDER_SMTP);
}

static void
check_string(SenderString s, size_t most, bool printable)
{
	check(s.len <= most);
	for (size_t i = 0; printable && i < s.len; i++)
		check(s.data[i] == '\n' || (s.data[i] >= 0x20 && s.data[i] <= 0x7e));
}

static void
fuzz_answer(SenderReader r)
{
	SenderAnswer a;

	if (!sender_get_answer(&r, &a))
		return;
	check(a.status <= 999 && a.redirects <= SENDER_MAX_REDIRECTS);
	check_string(a.error, SENDER_MAX_ERROR, true);
	check_string(a.certificate_error, SENDER_MAX_ERROR, true);
	check_string(a.addresses, SENDER_MAX_PROBE_TEXT, true);
	check_string(a.certificates, SENDER_MAX_PROBE_TEXT, true);
	check_string(a.headers, SENDER_MAX_PROBE_HEADERS, false);
	check_string(a.body, SENDER_MAX_PROBE_BODY, false);
}

/* Pieces of headers, body and addresses: a byte that says what, one how long, one how often. */
static void
fuzz_peer(SenderReader r)
{
	Transfer t = {.probe = SENDER_PROBE_HTTP};

	while (!r.bad && r.p < r.end)
	{
		uint8_t what = sender_get_u8(&r), len = sender_get_u8(&r), times = sender_get_u8(&r);
		char piece[256] = {0};

		sender_get(&r, piece, len);
		for (int i = 0; !r.bad && i <= times; i++)
		{
			if (what % 3 == 0)
				probe_header(&t, piece, len);
			else if (what % 3 == 1)
				check(probe_body(&t, piece, len) == (t.seen_body_len < SENDER_MAX_PROBE_BODY));
			else
				(void) probe_address(&t, piece);
		}
		check(t.seen_headers_len <= SENDER_MAX_PROBE_HEADERS);
		check(t.seen_body_len <= SENDER_MAX_PROBE_BODY);
		check_string((SenderString){t.addresses, t.addresses_len}, SENDER_MAX_PROBE_TEXT, true);
	}
	probe_free(&t);
}

/* What is waited for, up to a NUL; what is to be sent, in hexadecimal, up to another; then pieces, each behind its length. */
static void
fuzz_dialogue(SenderReader r)
{
	Transfer t = {.probe = SENDER_PROBE_TCP};
	const char *end = memchr(r.p, '\0', r.end - r.p);
	const char *hex_end = end ? memchr(end + 1, '\0', r.end - end - 1) : NULL;
	size_t len, hex_len;
	bool heard = false, there = false;

	if (!hex_end || end == r.p)
		return;
	t.until = strdup(r.p);
	len = end - r.p;
	hex_len = hex_end - end - 1;
	if (dialogue_take_hex(&t, end + 1, hex_len))
	{
		char back[3];

		check(t.body_len == hex_len / 2);
		for (size_t i = 0; i < t.body_len; i++)
		{
			snprintf(back, sizeof(back), "%02x", (unsigned char) t.body[i]);
			check(back[0] == (end[1 + 2 * i] | 0x20) || back[0] == end[1 + 2 * i]);
			check(back[1] == (end[2 + 2 * i] | 0x20) || back[1] == end[2 + 2 * i]);
		}
	}
	for (r.p = hex_end + 1; !r.bad && r.p < r.end && !heard;)
	{
		uint8_t n = sender_get_u8(&r);

		if ((size_t) (r.end - r.p) < n)
			break;
		(void) probe_body(&t, r.p, n);
		heard = dialogue_heard(&t, n);
		r.p += n;
	}
	for (size_t i = 0; i + len <= t.seen_body_len && !there; i++)
		there = memcmp(t.seen_body + i, t.until, len) == 0;
	check(heard == there);
	free(t.body);
	probe_free(&t);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	SenderReader r = {.p = (const char *) data, .end = (const char *) data + size};

	switch (sender_get_u8(&r) % 9)
	{
		case 0:
			fuzz_request(r, false);
			break;
		case 1:
			fuzz_outcome(r);
			break;
		case 2:
			fuzz_address(r);
			break;
		case 3:
			fuzz_replies(r);
			break;
		case 4:
			fuzz_request(r, true);
			break;
		case 5:
			fuzz_answer(r);
			break;
		case 6:
			fuzz_peer(r);
			break;
		case 7:
			fuzz_dialogue(r);
			break;
		default:
			fuzz_hosts(r);
			break;
	}
	return 0;
}
