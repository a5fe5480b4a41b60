/*-------------------------------------------------------------------------
 *
 * transfer.c
 *	  One HTTP request of the sender.
 *
 * Addresses are checked twice: when a socket is opened, and again before a
 * request goes out, because a connection kept alive from a time with other
 * settings opens no socket.
 *
 *-------------------------------------------------------------------------
 */
#include "transfer.h"

#include <ctype.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "policy.h"

#if LIBCURL_VERSION_NUM < 0x075000
#error "libcurl 7.80 or later is needed"
#endif

#define MAX_RESPONSE_HEADERS (64 * 1024)
#define MAX_RESPONSE_BODY (64 * 1024)

static char *
copy_string(const char *s, size_t len)
{
	char *copy = malloc(len + 1);

	if (copy)
	{
		if (len > 0)
			memcpy(copy, s, len);
		copy[len] = '\0';
	}
	return copy;
}

static char *
get_copy(SenderReader *r, size_t *len)
{
	const char *s = sender_get_str(r, len);

	return r->bad ? NULL : copy_string(s, *len);
}

/* Append "name: value"; libcurl wants "name;" for an empty value.  False if refused or out of memory. */
static bool
add_header(Transfer *t, const char *name, size_t name_len, const char *value, size_t value_len)
{
	struct curl_slist *list;
	char *line;

	if (!policy_header_ok(name, name_len, value, value_len))
		return false;
	line = malloc(name_len + value_len + 3);
	if (!line)
		return false;
	if (value_len > 0)
		sprintf(line, "%.*s: %.*s", (int) name_len, name, (int) value_len, value);
	else
		sprintf(line, "%.*s;", (int) name_len, name);
	list = curl_slist_append(t->headers, line);
	free(line);
	if (list)
		t->headers = list;
	return list != NULL;
}

Transfer *
transfer_parse(SenderReader *r)
{
	Transfer *t = calloc(1, sizeof(*t));
	uint32_t nheaders;
	size_t len;
	bool headers_ok = true;
	struct curl_slist *list;

	if (!t)
		return NULL;
	t->tag = sender_get_u64(r);
	t->connect_ms = sender_get_u32(r);
	t->total_ms = sender_get_u32(r);
	t->allow_private = sender_get_u8(r) != 0;
	t->allowed_hosts = get_copy(r, &len);
	t->method = get_copy(r, &len);
	if (t->method && !policy_method_ok(t->method, len))
		t->method[0] = '\0';
	t->url = get_copy(r, &len);
	if (t->url && !policy_url_ok(t->url, len))
		t->url[0] = '\0';
	t->body = get_copy(r, &t->body_len);

	nheaders = sender_get_u32(r);
	for (uint32_t i = 0; i < nheaders && !r->bad; i++)
	{
		size_t name_len, value_len;
		const char *name = sender_get_str(r, &name_len);
		const char *value = sender_get_str(r, &value_len);

		if (!r->bad && !add_header(t, name, name_len, value, value_len))
			headers_ok = false;
	}

	/* No "Expect: 100-continue": it costs a round trip or a second of waiting. */
	list = curl_slist_append(t->headers, "Expect:");
	if (list)
		t->headers = list;

	if (r->bad || !list || !t->allowed_hosts || !t->method || !t->url || !t->body)
	{
		transfer_free(t);
		return NULL;
	}
	if (!headers_ok)
		t->method[0] = '\0';
	return t;
}

static bool
refuse(SenderOutcome *out, const char *why)
{
	memset(out, 0, sizeof(*out));
	out->kind = SENDER_REFUSED;
	out->retry_after = -1;
	snprintf(out->error, sizeof(out->error), "%s", why);
	return false;
}

static char *
url_part(CURLU *url, CURLUPart part, unsigned int flags)
{
	char *value = NULL, *copy = NULL;

	if (curl_url_get(url, part, &value, flags) == CURLUE_OK)
		copy = copy_string(value, strlen(value));
	curl_free(value);
	return copy;
}

static bool
url_has(CURLU *url, CURLUPart part)
{
	char *value = url_part(url, part, 0);

	free(value);
	return value != NULL;
}

/* Split the url by libcurl's own parser, as a second one could disagree with it. */
static bool
parse_url(Transfer *t)
{
	char *port, *scheme;

	t->parsed = curl_url();
	if (!t->parsed || curl_url_set(t->parsed, CURLUPART_URL, t->url, 0) != CURLUE_OK)
		return false;
	t->host = url_part(t->parsed, CURLUPART_HOST, 0);
	port = url_part(t->parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT);
	if (port)
		t->port = atoi(port);
	free(port);
	scheme = url_part(t->parsed, CURLUPART_SCHEME, 0);
	t->https = scheme && strcmp(scheme, "https") == 0;
	free(scheme);
	for (char *c = t->host; c && *c; c++)
		*c = tolower((unsigned char) *c);
	return t->host != NULL;
}

bool
transfer_check(Transfer *t, SenderOutcome *out)
{
	if (t->url[0] == '\0')
		return refuse(out, "the url is not a plain http or https url");
	if (t->method[0] == '\0')
		return refuse(out, "the method or a header is malformed");
	if (!parse_url(t))
		return refuse(out, "the url cannot be parsed");
	if (url_has(t->parsed, CURLUPART_USER) || url_has(t->parsed, CURLUPART_PASSWORD))
		return refuse(out, "the url holds credentials");
	if (!policy_host_allowed(t->allowed_hosts, t->https, t->host, t->port))
	{
		refuse(out, "");
		snprintf(out->error, sizeof(out->error),
				 "%s://%.200s:%d is not in monitoring.allowed_hosts", t->https ? "https" : "http",
				 t->host, t->port);
		return false;
	}
	if (t->total_ms == 0 || t->total_ms > SENDER_MAX_TIMEOUT_MS)
		t->total_ms = SENDER_MAX_TIMEOUT_MS;
	if (t->connect_ms == 0 || t->connect_ms > t->total_ms)
		t->connect_ms = t->total_ms;
	return true;
}

static void
deny_address(Transfer *t, const char *ip)
{
	t->denied = true;
	snprintf(t->denied_ip, sizeof(t->denied_ip), "%s", ip);
}

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *addr)
{
	Transfer *t = arg;

	if (purpose != CURLSOCKTYPE_IPCXN)
		return CURL_SOCKET_BAD;
	if (!t->allow_private && policy_address_private(&addr->addr))
	{
		char ip[64];

		if (getnameinfo(&addr->addr, addr->addrlen, ip, sizeof(ip), NULL, 0, NI_NUMERICHOST) != 0)
			snprintf(ip, sizeof(ip), "of unknown family");
		deny_address(t, ip);
		return CURL_SOCKET_BAD;
	}
	t->tried = true;
	return socket(addr->family, addr->socktype | SOCK_CLOEXEC, addr->protocol);
}

static int
before_request(void *arg, char *primary_ip, char *local_ip, int primary_port, int local_port)
{
	Transfer *t = arg;

	(void) local_ip;
	(void) primary_port;
	(void) local_port;
	if (!t->allow_private && policy_ip_private(primary_ip))
	{
		t->tried = false;
		deny_address(t, primary_ip);
		return CURL_PREREQFUNC_ABORT;
	}
	t->connected = true;
	return CURL_PREREQFUNC_OK;
}

static size_t
on_header(char *data, size_t size, size_t n, void *arg)
{
	Transfer *t = arg;
	size_t len = size * n;

	t->header_bytes += len;
	if (t->header_bytes > MAX_RESPONSE_HEADERS)
		return 0;

	/* An empty line ends the headers; after an interim response more follow. */
	if (len > 0 && (data[0] == '\r' || data[0] == '\n'))
	{
		long status = 0;

		curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
		t->headers_done = status >= 200 && status <= 999;
	}
	return len;
}

/* The body is not kept, as nothing in it may be shown; a bounded one is read so that the connection can be used again. */
static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	Transfer *t = arg;

	(void) data;
	t->body_bytes += size * n;
	return t->body_bytes > MAX_RESPONSE_BODY ? 0 : size * n;
}

static CURLcode
set_safety(CURL *e)
{
	CURLcode rc = CURLE_OK;

#define SET(option, value)                                                                         \
	do                                                                                             \
	{                                                                                              \
		if (rc == CURLE_OK)                                                                        \
			rc = curl_easy_setopt(e, option, value);                                               \
	} while (0)
#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
	SET(CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_NOSIGNAL, 1L);

	/* Leave a name that does not resolve in time to its thread: waiting for that would hold up all others. */
#if LIBCURL_VERSION_NUM >= 0x075700
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif
	return rc;
}

static CURLcode
set_request(Transfer *t)
{
	CURL *e = t->easy;
	CURLcode rc = CURLE_OK;

	SET(CURLOPT_CURLU, t->parsed);
	SET(CURLOPT_HTTPHEADER, t->headers);
	SET(CURLOPT_USERAGENT, "postgresql-monitoring/1.0");
	if (strcmp(t->method, "GET") == 0 && t->body_len == 0)
		SET(CURLOPT_HTTPGET, 1L);
	else
	{
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) t->body_len);
		SET(CURLOPT_POSTFIELDS, t->body);
		if (strcmp(t->method, "POST") != 0)
			SET(CURLOPT_CUSTOMREQUEST, t->method);
	}
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) t->connect_ms);
	SET(CURLOPT_TIMEOUT_MS, (long) t->total_ms);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_OPENSOCKETDATA, t);
	SET(CURLOPT_PREREQFUNCTION, before_request);
	SET(CURLOPT_PREREQDATA, t);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, t);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, t);
	SET(CURLOPT_ERRORBUFFER, t->errbuf);
	SET(CURLOPT_PRIVATE, t);
#undef SET
	return rc;
}

bool
transfer_prepare(Transfer *t, SenderOutcome *out)
{
	t->easy = curl_easy_init();
	if (t->easy && set_safety(t->easy) == CURLE_OK && set_request(t) == CURLE_OK)
		return true;
	refuse(out, "the sender is out of memory");
	out->kind = SENDER_NETWORK;
	return false;
}

/* libcurl's own words, unless they quote what follows the host in the url: tokens live there. */
static void
set_curl_error(Transfer *t, CURLcode code, SenderOutcome *out)
{
	const char *text = t->errbuf[0] ? t->errbuf : curl_easy_strerror(code);
	const char *rest = strstr(t->url, "://");

	if (rest)
		rest = strpbrk(rest + 3, "/?#");
	if (rest && rest[1] && strstr(text, rest + 1))
		text = curl_easy_strerror(code);
	snprintf(out->error, sizeof(out->error), "%s", text);
}

/* The limit that was reached, rather than the time it took. */
static void
set_timeout_error(Transfer *t, SenderOutcome *out)
{
	bool in_all = t->connected || out->latency_us >= t->total_ms * UINT64_C(1000);

	snprintf(out->error, sizeof(out->error), "no %s within %.6g s",
			 in_all ? "response" : "connection", (in_all ? t->total_ms : t->connect_ms) / 1e3);
}

void
transfer_finish(Transfer *t, CURLcode code, uint64_t now_us, SenderOutcome *out)
{
	long status = 0;
	curl_off_t retry_after = 0;

	memset(out, 0, sizeof(*out));
	out->latency_us = now_us - t->started_us;
	out->retry_after = -1;

	/* Final unless an address that is allowed was there too: it may answer the next time. */
	if (t->denied && !t->tried && !t->headers_done)
	{
		refuse(out, "");
		snprintf(out->error, sizeof(out->error),
				 "address %s is not public and monitoring.allow_private_networks is off",
				 t->denied_ip);
		return;
	}

	/* Once the response's headers are there, its status decides, however its body ends. */
	if (t->headers_done)
	{
		curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
		curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry_after);
		out->kind = SENDER_RESPONSE;
		out->status = (uint32_t) status;
		if (retry_after > 0)
			out->retry_after = retry_after > SENDER_MAX_RETRY_AFTER ? SENDER_MAX_RETRY_AFTER
																	: retry_after;
		if (status >= 300 && status < 400)
			snprintf(out->error, sizeof(out->error), "HTTP status %ld: redirects are not followed",
					 status);
		else if (status >= 400)
			snprintf(out->error, sizeof(out->error), "HTTP status %ld", status);
		return;
	}

	out->kind = SENDER_NETWORK;
	if (t->header_bytes > MAX_RESPONSE_HEADERS)
		snprintf(out->error, sizeof(out->error), "the response has more than 64 kB of headers");
	else if (code == CURLE_OPERATION_TIMEDOUT)
		set_timeout_error(t, out);
	else
		set_curl_error(t, code, out);
}

void
transfer_free(Transfer *t)
{
	if (t->easy)
		curl_easy_cleanup(t->easy);
	curl_slist_free_all(t->headers);
	curl_url_cleanup(t->parsed);
	free(t->allowed_hosts);
	free(t->method);
	free(t->url);
	free(t->host);
	free(t->body);
	free(t);
}
