/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  What is special about probes: times of the phases, what the peer sent,
 *	  certificates, redirects.
 *
 * Nothing is used again, neither names nor connections, so that every phase is
 * measured.  Each hop of a redirect is checked as the first one was.  A
 * certificate that is not good ends the handshake; another connection, over
 * which nothing is sent, then tells when it expires.
 *
 *-------------------------------------------------------------------------
 */
#include "transfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "policy.h"

#define MAX_CERTIFICATES 8

bool
probe_parse(Transfer *t, SenderReader *r)
{
	static const char sorts[] = {SENDER_PROBE_HTTP, SENDER_PROBE_TCP, SENDER_PROBE_TLS,
								 SENDER_PROBE_DNS};

	t->probe = sender_get_u8(r);
	t->max_redirects = sender_get_u8(r);
	return memchr(sorts, t->probe, sizeof(sorts)) != NULL &&
		t->max_redirects <= SENDER_MAX_REDIRECTS;
}

bool
probe_connects_only(const Transfer *t)
{
	return t->probe != 0 && t->probe != SENDER_PROBE_HTTP;
}

CURLcode
probe_set_request(Transfer *t)
{
	CURL *e = t->easy;
	CURLcode rc = CURLE_OK;

	SET(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
	SET(CURLOPT_FRESH_CONNECT, 1L);
	/* Otherwise it would be closed before the dialogue; it ends with its handle all the same. */
	if (t->probe != SENDER_PROBE_TCP)
		SET(CURLOPT_FORBID_REUSE, 1L);
	/* A session that is taken up again shows no certificates. */
	SET(CURLOPT_SSL_SESSIONID_CACHE, 0L);
	SET(CURLOPT_CERTINFO, 1L);
	if (probe_connects_only(t))
	{
		SET(CURLOPT_CONNECT_ONLY, 1L);
		SET(CURLOPT_SSL_ENABLE_ALPN, 0L); /* what will be spoken need not be HTTP */
	}
	else if (strcmp(t->method, "HEAD") == 0)
		SET(CURLOPT_NOBODY, 1L);
	if (t->unverified)
	{
		SET(CURLOPT_SSL_VERIFYPEER, 0L);
		SET(CURLOPT_SSL_VERIFYHOST, 0L);
	}
	return rc;
}

/* Append as much as there is room for. */
static void
keep(char **to, size_t *to_len, size_t most, const char *data, size_t len)
{
	char *more;

	if (len > most - *to_len)
		len = most - *to_len;
	if (len == 0 || (more = realloc(*to, *to_len + len)) == NULL)
		return;
	memcpy(more + *to_len, data, len);
	*to = more;
	*to_len += len;
}

/* As keep(), with everything but printable ASCII and line feeds replaced. */
static void
keep_text(char **to, size_t *to_len, const char *data, size_t len)
{
	size_t before = *to_len;

	keep(to, to_len, SENDER_MAX_PROBE_TEXT, data, len);
	for (size_t i = before; i < *to_len; i++)
		if (((*to)[i] < 0x20 && (*to)[i] != '\n') || (*to)[i] > 0x7e)
			(*to)[i] = '?';
}

bool
probe_address(Transfer *t, const char *ip)
{
	if (t->addresses_len > 0)
		keep_text(&t->addresses, &t->addresses_len, " ", 1);
	keep_text(&t->addresses, &t->addresses_len, ip, strlen(ip));
	return t->probe == SENDER_PROBE_DNS;
}

/* A status line begins a response; an earlier one was interim. */
void
probe_header(Transfer *t, const char *data, size_t len)
{
	if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
		t->seen_headers_len = 0;
	else
		keep(&t->seen_headers, &t->seen_headers_len, SENDER_MAX_PROBE_HEADERS, data, len);
}

bool
probe_body(Transfer *t, const char *data, size_t len)
{
	keep(&t->seen_body, &t->seen_body_len, SENDER_MAX_PROBE_BODY, data, len);
	return t->seen_body_len < SENDER_MAX_PROBE_BODY;
}

void
probe_finish(Transfer *t, CURLcode code, SenderOutcome *out)
{
	bool found = t->probe == SENDER_PROBE_DNS ? t->addresses_len > 0 : code == CURLE_OK;

	out->kind = found ? SENDER_RESPONSE : SENDER_NETWORK;
}

/* ---- after a hop ---- */

static uint64_t
time_of(CURL *easy, CURLINFO info)
{
	curl_off_t us = 0;

	curl_easy_getinfo(easy, info, &us);
	return us > 0 ? us : 0;
}

static uint64_t
since(uint64_t later, uint64_t earlier)
{
	return later > earlier ? later - earlier : 0;
}

static void
note_times(Transfer *t)
{
	uint64_t dns = time_of(t->easy, CURLINFO_NAMELOOKUP_TIME_T);
	uint64_t connect = time_of(t->easy, CURLINFO_CONNECT_TIME_T);
	uint64_t tls = time_of(t->easy, CURLINFO_APPCONNECT_TIME_T);
	uint64_t first = time_of(t->easy, CURLINFO_STARTTRANSFER_TIME_T);

	t->dns_us += dns;
	t->connect_us += since(connect, dns);
	t->tls_us += since(tls, connect);
	t->first_byte_us += since(first, tls > connect ? tls : connect);
}

void
probe_connected(Transfer *t, uint64_t now_us)
{
	note_times(t);
	t->first_byte_us = 0;
	t->talking = true;
	t->talk_us = now_us;
}

static void
note_certificates(Transfer *t)
{
	static const char *const wanted[] = {"Subject:", "Issuer:", "Start date:", "Expire date:"};
	struct curl_certinfo *info = NULL;

	if (curl_easy_getinfo(t->easy, CURLINFO_CERTINFO, &info) != CURLE_OK || !info ||
		info->num_of_certs == 0)
		return;
	t->certificates_len = 0;
	for (int i = 0; i < info->num_of_certs && i < MAX_CERTIFICATES; i++)
	{
		for (struct curl_slist *line = info->certinfo[i]; line; line = line->next)
			for (size_t w = 0; w < sizeof(wanted) / sizeof(wanted[0]); w++)
				if (strncmp(line->data, wanted[w], strlen(wanted[w])) == 0)
				{
					keep_text(&t->certificates, &t->certificates_len, line->data,
							  strcspn(line->data, "\n"));
					keep_text(&t->certificates, &t->certificates_len, "\n", 1);
				}
		keep_text(&t->certificates, &t->certificates_len, "\n", 1);
	}
}

static bool
start_again(Transfer *t, SenderOutcome *out)
{
	return transfer_check(t, out) && transfer_prepare(t, out);
}

/* Once more, without trust, as only the certificate is wanted. */
static bool
look_at_certificate(Transfer *t, CURLcode code, SenderOutcome *out)
{
	if (t->probe != SENDER_PROBE_TLS || t->unverified || code != CURLE_PEER_FAILED_VERIFICATION)
		return false;
	snprintf(t->certificate_error, sizeof(t->certificate_error), "%s", out->error);
	for (char *c = t->certificate_error; *c; c++)
		if (*c < 0x20 || *c > 0x7e)
			*c = '?';
	t->unverified = true;
	transfer_forget_url(t);
	return start_again(t, out);
}

/* Headers, the body and the certificate may hold or prove what is for the first host alone. */
static bool
leave_host(Transfer *t, SenderOutcome *out)
{
	if (t->body_len > 0)
		return transfer_refuse(out, "a redirect would take the body to another host");
	curl_slist_free_all(t->headers);
	t->headers = curl_slist_append(NULL, "Expect:");
	return curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) == CURLE_OK &&
		curl_easy_setopt(t->easy, CURLOPT_SSLCERT, NULL) == CURLE_OK &&
		curl_easy_setopt(t->easy, CURLOPT_SSLKEY, NULL) == CURLE_OK;
}

static bool
become_get(Transfer *t)
{
	char *get = strdup("GET");

	if (!get)
		return false;
	free(t->method);
	t->method = get;
	t->body_len = 0;
	return true;
}

static bool
follow_redirect(Transfer *t, SenderOutcome *out)
{
	char *target = NULL, *copy, *host = t->host, *scheme = t->scheme;
	int port = t->port;
	long status = t->status;
	bool goes_on;

	if (t->probe != SENDER_PROBE_HTTP || t->max_redirects == 0 || status < 301 || status > 308 ||
		status == 304 || curl_easy_getinfo(t->easy, CURLINFO_REDIRECT_URL, &target) != CURLE_OK ||
		!target)
		return false;
	if (t->redirects >= t->max_redirects)
	{
		out->kind = SENDER_NETWORK;
		snprintf(out->error, sizeof(out->error), "more than %d redirects", t->max_redirects);
		return false;
	}
	if (!policy_url_ok(target, strlen(target)) || strncasecmp(target, "http", 4) != 0)
		return transfer_refuse(out, "a redirect leads to no plain http or https url");
	if (strcmp(scheme, "https") == 0 && strncasecmp(target, "https:", 6) != 0)
		return transfer_refuse(out, "a redirect leads from https to http");
	if ((copy = strdup(target)) == NULL)
		return false;
	free(t->url);
	t->url = copy;
	t->host = t->scheme = NULL; /* still needed */
	transfer_forget_url(t);
	t->redirects++;
	t->seen_headers_len = t->seen_body_len = 0;
	goes_on = status != 303 && (status > 303 || strcmp(t->method, "POST") != 0);
	goes_on = (goes_on || become_get(t)) && start_again(t, out);
	if (goes_on &&
		(strcmp(t->host, host) != 0 || t->port != port || strcmp(t->scheme, scheme) != 0))
		goes_on = leave_host(t, out);
	free(host);
	free(scheme);
	return goes_on;
}

bool
probe_goes_on(Transfer *t, CURLcode code, uint64_t now_us, SenderOutcome *out)
{
	uint64_t latency = now_us - t->started_us;
	bool goes_on;

	if (!t->unverified)
		note_times(t);
	note_certificates(t);
	t->spent_ms = latency / 1000;
	goes_on = look_at_certificate(t, code, out) || follow_redirect(t, out);
	out->latency_us = latency;
	return goes_on;
}

void
probe_free(Transfer *t)
{
	free(t->addresses);
	free(t->certificates);
	free(t->seen_headers);
	free(t->seen_body);
	free(t->until);
}
