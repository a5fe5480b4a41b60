/*-------------------------------------------------------------------------
 *
 * transfer.c
 *	  One request of the sender.
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

/* Take an option's value, once; false if it is not one that may stand there. */
static bool
set_option(char **to, const char *value, size_t len, bool good)
{
	if (*to || !good)
		return false;
	*to = copy_string(value, len);
	return *to != NULL;
}

static bool
text_is(const char *s, size_t len, const char *what)
{
	return len == strlen(what) && memcmp(s, what, len) == 0;
}

/* What goes to the mail server as a line, or a part of one. */
static bool
credential_ok(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) s[i] < 0x20 || s[i] == 0x7f)
			return false;
	return len > 0 && len <= 8192;
}

static bool
add_recipient(Transfer *t, const char *value, size_t len)
{
	char *address = policy_mail_address_ok(value, len) ? copy_string(value, len) : NULL;
	struct curl_slist *list = address ? curl_slist_append(t->mail_rcpt, address) : NULL;

	free(address);
	if (list)
		t->mail_rcpt = list;
	t->n_rcpt++;
	return list != NULL;
}

/* One option; false if it is refused. */
static bool
take_option(Transfer *t, const char *name, size_t name_len, const char *value, size_t len)
{
#define IS(what) text_is(name, name_len, what)
	if (IS("ca_file"))
		return set_option(&t->ca_file, value, len, policy_path_ok(value, len));
	if (IS("cert_file"))
		return set_option(&t->cert_file, value, len, policy_path_ok(value, len));
	if (IS("key_file"))
		return set_option(&t->key_file, value, len, policy_path_ok(value, len));
	if (IS("proxy"))
		return set_option(&t->proxy, value, len, policy_proxy_ok(value, len));
	if (IS("username"))
		return set_option(&t->username, value, len, credential_ok(value, len));
	if (IS("password"))
		return set_option(&t->password, value, len, credential_ok(value, len));
	if (IS("mail_from"))
		return set_option(&t->mail_from, value, len, policy_mail_address_ok(value, len));
	if (IS("mail_rcpt"))
		return add_recipient(t, value, len);
	if (IS("min_tls"))
	{
		t->tls13 = text_is(value, len, "1.3");
		return t->tls13 || text_is(value, len, "1.2");
	}
	if (IS("until"))
		return set_option(&t->until, value, len,
						  len > 0 && len <= 4096 && memchr(value, '\0', len) == NULL);
	if (IS("send_hex"))
		return dialogue_take_hex(t, value, len);
	if (IS("http2"))
		return t->no_http2 = text_is(value, len, "never");
	if (IS("starttls"))
	{
		t->no_starttls = text_is(value, len, "never");
		return t->no_starttls || text_is(value, len, "required");
	}
#undef IS
	return false;
}

/* Names and values up to the last of them, each given to `take`; false if one was refused. */
static bool
parse_pairs(Transfer *t, SenderReader *r,
			bool (*take)(Transfer *, const char *, size_t, const char *, size_t))
{
	uint32_t n = sender_get_u32(r);
	bool good = true;

	for (uint32_t i = 0; i < n && !r->bad; i++)
	{
		size_t name_len, value_len;
		const char *name = sender_get_str(r, &name_len);
		const char *value = sender_get_str(r, &value_len);

		if (!r->bad && !take(t, name, name_len, value, value_len))
			good = false;
	}
	return good;
}

Transfer *
transfer_parse(SenderReader *r, bool probe)
{
	Transfer *t = calloc(1, sizeof(*t));
	size_t len;
	bool headers_ok, options_ok;
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
		t->malformed = "the method or a header is malformed";
	t->url = get_copy(r, &len);
	if (t->url && !policy_url_ok(t->url, len))
		t->malformed = "the url is not a plain http, https, smtp or smtps url";
	t->body = get_copy(r, &t->body_len);
	headers_ok = parse_pairs(t, r, add_header);
	options_ok = parse_pairs(t, r, take_option);
	if (probe && !probe_parse(t, r))
		t->malformed = "there is no such probe";

	/* No "Expect: 100-continue": it costs a round trip or a second of waiting. */
	list = curl_slist_append(t->headers, "Expect:");
	if (list)
		t->headers = list;

	if (r->bad || r->p != r->end || !list || !t->allowed_hosts || !t->method || !t->url || !t->body)
	{
		transfer_free(t);
		return NULL;
	}
	if (!t->malformed && !headers_ok)
		t->malformed = "the method or a header is malformed";
	if (!t->malformed && !options_ok)
		t->malformed = "an option, such as a mail address or the proxy, is malformed";
	return t;
}

bool
transfer_refuse(SenderOutcome *out, const char *why)
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
	char *port;

	t->parsed = curl_url();
	if (!t->parsed || curl_url_set(t->parsed, CURLUPART_URL, t->url, 0) != CURLUE_OK)
		return false;
	t->host = url_part(t->parsed, CURLUPART_HOST, 0);
	port = url_part(t->parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT);
	if (port)
		t->port = atoi(port);
	free(port);
	t->scheme = url_part(t->parsed, CURLUPART_SCHEME, 0);
	t->mail = t->scheme && strncmp(t->scheme, "smtp", 4) == 0;
	for (char *c = t->host; c && *c; c++)
		*c = tolower((unsigned char) *c);
	return t->host != NULL && t->scheme != NULL;
}

bool
transfer_check(Transfer *t, SenderOutcome *out)
{
	const char *why;

	if (t->malformed)
		return transfer_refuse(out, t->malformed);
	if (!parse_url(t))
		return transfer_refuse(out, "the url cannot be parsed");
	if (url_has(t->parsed, CURLUPART_USER) || url_has(t->parsed, CURLUPART_PASSWORD))
		return transfer_refuse(out, "the url holds credentials");
	if (t->mail != (strcmp(t->method, "SMTP") == 0))
		return transfer_refuse(out, "the method does not fit the url");
	if (!policy_host_allowed(t->allowed_hosts, t->scheme, t->host, t->port))
	{
		transfer_refuse(out, "");
		snprintf(out->error, sizeof(out->error),
				 "%s://%.200s:%d is not in monitoring.allowed_hosts", t->scheme, t->host, t->port);
		return false;
	}
	if (t->proxy && !t->allow_private && policy_host_private(t->host))
		return transfer_refuse(
			out, "the host is not public and monitoring.allow_private_networks is off");
	if (t->mail && (why = mail_check(t)) != NULL)
		return transfer_refuse(out, why);
	if (t->total_ms == 0 || t->total_ms > SENDER_MAX_TIMEOUT_MS)
		t->total_ms = SENDER_MAX_TIMEOUT_MS;
	if (t->connect_ms == 0 || t->connect_ms > t->total_ms)
		t->connect_ms = t->total_ms;
	return true;
}

/* May it go to this address?  A proxy, which the server's administrator names, may be anywhere. */
static bool
address_allowed(Transfer *t, bool is_private, const char *ip)
{
	const char *why = NULL;

	if (t->proxy)
		return true;
	if (is_private && !t->allow_private)
		why = "not public and monitoring.allow_private_networks is off";
	else if (!is_private && t->no_starttls && strcmp(t->scheme, "smtp") == 0)
		why = "public, where starttls cannot be never";
	if (!why)
		return true;
	t->denied = true;
	t->denied_why = why;
	snprintf(t->denied_ip, sizeof(t->denied_ip), "%s", ip);
	return false;
}

static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *addr)
{
	Transfer *t = arg;
	char ip[64];

	if (purpose != CURLSOCKTYPE_IPCXN)
		return CURL_SOCKET_BAD;
	if (getnameinfo(&addr->addr, addr->addrlen, ip, sizeof(ip), NULL, 0, NI_NUMERICHOST) != 0)
		snprintf(ip, sizeof(ip), "of unknown family");
	if (t->probe && probe_address(t, ip))
		return CURL_SOCKET_BAD;
	if (!address_allowed(t, policy_address_private(&addr->addr), ip))
		return CURL_SOCKET_BAD;
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
	if (!address_allowed(t, policy_ip_private(primary_ip), primary_ip))
	{
		t->tried = false;
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
	if (t->mail)
	{
		mail_reply(t, data, len);
		return len;
	}
	if (t->probe)
		probe_header(t, data, len);

	/* An empty line ends the headers; after an interim response more follow. */
	if (len > 0 && (data[0] == '\r' || data[0] == '\n'))
	{
		long status = 0;

		curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
		t->headers_done = status >= 200 && status <= 999;
		t->status = status;
	}
	return len;
}

/*
 * The body is not kept, as nothing in it may be shown; a bounded one is read so
 * that the connection can be used again.  Some say only there when to try again.
 */
static size_t
on_body(char *data, size_t size, size_t n, void *arg)
{
	Transfer *t = arg;

	if (t->status == 429)
	{
		size_t room = sizeof(t->kept) - t->kept_len;
		size_t len = size * n < room ? size * n : room;

		memcpy(t->kept + t->kept_len, data, len);
		t->kept_len += len;
	}
	t->body_bytes += size * n;
	if (t->probe && !probe_body(t, data, size * n))
		return 0;
	return t->body_bytes > MAX_RESPONSE_BODY ? 0 : size * n;
}

static CURLcode
set_safety(Transfer *t)
{
	CURL *e = t->easy;
	CURLcode rc = CURLE_OK;

#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, "http,https,smtp,smtps");
#else
	SET(CURLOPT_PROTOCOLS,
		(long) (CURLPROTO_HTTP | CURLPROTO_HTTPS | CURLPROTO_SMTP | CURLPROTO_SMTPS));
#endif
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, t->proxy ? t->proxy : "");
	SET(CURLOPT_NOPROXY, "");
	SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long) (t->tls13 ? CURL_SSLVERSION_TLSv1_3 : CURL_SSLVERSION_TLSv1_2));
	if (t->ca_file)
	{
		SET(CURLOPT_CAINFO, t->ca_file);
		SET(CURLOPT_CAPATH, NULL);
	}
	if (t->cert_file)
		SET(CURLOPT_SSLCERT, t->cert_file);
	if (t->key_file)
		SET(CURLOPT_SSLKEY, t->key_file);
	SET(CURLOPT_NOSIGNAL, 1L);

	/* Leave a name that does not resolve in time to its thread: waiting for that would hold up all others. */
#if LIBCURL_VERSION_NUM >= 0x075700
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif
	return rc;
}

static CURLcode
set_http_request(Transfer *t)
{
	CURL *e = t->easy;
	CURLcode rc = CURLE_OK;

	SET(CURLOPT_HTTPHEADER, t->headers);
	SET(CURLOPT_USERAGENT, "postgresql-monitoring/1.0");
	SET(CURLOPT_HTTP_VERSION,
		(long) (t->no_http2 ? CURL_HTTP_VERSION_1_1 : CURL_HTTP_VERSION_2TLS));
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
	return rc;
}

static CURLcode
set_request(Transfer *t)
{
	CURL *e = t->easy;
	CURLcode rc = t->mail ? mail_set_request(t) : set_http_request(t);

	SET(CURLOPT_CURLU, t->parsed);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) t->connect_ms);
	SET(CURLOPT_TIMEOUT_MS, (long) (t->total_ms > t->spent_ms ? t->total_ms - t->spent_ms : 1));
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
	if (rc == CURLE_OK && t->probe)
		rc = probe_set_request(t);
	return rc;
}

bool
transfer_prepare(Transfer *t, SenderOutcome *out)
{
	t->easy = curl_easy_init();
	if (t->easy && set_safety(t) == CURLE_OK && set_request(t) == CURLE_OK)
		return true;
	transfer_refuse(out, "the sender is out of memory");
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

	if (t->headers_done)
	{
		snprintf(out->error, sizeof(out->error), "the response did not end within %.6g s",
				 t->total_ms / 1e3);
		return;
	}
	snprintf(out->error, sizeof(out->error), "no %s within %.6g s",
			 in_all ? "response" : "connection", (in_all ? t->total_ms : t->connect_ms) / 1e3);
}

static uint8_t
protocol_of(const Transfer *t)
{
	long version = 0;

	curl_easy_getinfo(t->easy, CURLINFO_HTTP_VERSION, &version);
	switch (version)
	{
		case CURL_HTTP_VERSION_1_0:
			return SENDER_HTTP_1_0;
		case CURL_HTTP_VERSION_2_0:
			return SENDER_HTTP_2;
		case CURL_HTTP_VERSION_3:
			return SENDER_HTTP_3;
		default:
			return SENDER_HTTP_1_1;
	}
}

static void
http_finish(const Transfer *t, SenderOutcome *out)
{
	curl_off_t retry_after = 0;

	curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry_after);
	if (retry_after <= 0 && t->kept_len > 0)
		retry_after = policy_retry_after(t->kept, t->kept_len, SENDER_MAX_RETRY_AFTER);
	out->kind = SENDER_RESPONSE;
	out->status = (uint32_t) t->status;
	out->protocol = protocol_of(t);
	if (retry_after > 0)
		out->retry_after = retry_after > SENDER_MAX_RETRY_AFTER ? SENDER_MAX_RETRY_AFTER
																: retry_after;
	if (t->status >= 300 && t->status < 400 && !t->probe)
		snprintf(out->error, sizeof(out->error), "HTTP status %ld: redirects are not followed",
				 t->status);
	else if (t->status >= 400)
		snprintf(out->error, sizeof(out->error), "HTTP status %ld", t->status);
}

void
transfer_finish(Transfer *t, CURLcode code, uint64_t now_us, SenderOutcome *out)
{
	memset(out, 0, sizeof(*out));
	out->latency_us = now_us - t->started_us;
	out->retry_after = -1;
	out->bytes = t->header_bytes + t->body_bytes;
	if (out->bytes > SENDER_MAX_RESPONSE)
		out->bytes = SENDER_MAX_RESPONSE;
	out->begun = t->mail ? t->body_sent > 0 : t->connected;

	/* Final unless an address that is allowed was there too: it may answer the next time. */
	if (t->denied && !t->tried && !t->headers_done)
	{
		transfer_refuse(out, "");
		snprintf(out->error, sizeof(out->error), "address %s is %s", t->denied_ip, t->denied_why);
		return;
	}

	if (probe_connects_only(t))
	{
		probe_finish(t, code, out);
		if (out->kind == SENDER_RESPONSE)
			return;
	}

	/*
	 * Once the response's headers are there, its status decides, however its body
	 * ends; but for a probe, which is there to look, unless we ended it.
	 */
	if (t->headers_done && (!t->probe || code == CURLE_OK || code == CURLE_WRITE_ERROR))
	{
		http_finish(t, out);
		return;
	}
	if (t->mail && mail_finish(t, code, out))
		return;

	out->kind = SENDER_NETWORK;
	if (t->header_bytes > MAX_RESPONSE_HEADERS)
		snprintf(out->error, sizeof(out->error), "the response has more than 64 kB of headers");
	else if (code == CURLE_USE_SSL_FAILED)
		snprintf(out->error, sizeof(out->error), "the mail server does not offer STARTTLS");
	else if (code == CURLE_OPERATION_TIMEDOUT)
		set_timeout_error(t, out);
	else
		set_curl_error(t, code, out);
}

void
transfer_forget_url(Transfer *t)
{
	if (t->easy)
		curl_easy_cleanup(t->easy);
	curl_url_cleanup(t->parsed);
	free(t->scheme);
	free(t->host);
	t->easy = NULL;
	t->parsed = NULL;
	t->scheme = t->host = NULL;
	t->headers_done = t->denied = t->tried = t->connected = false;
	t->header_bytes = t->body_bytes = t->kept_len = 0;
	t->status = 0;
	t->errbuf[0] = '\0';
}

void
transfer_free(Transfer *t)
{
	transfer_forget_url(t);
	probe_free(t);
	curl_slist_free_all(t->headers);
	free(t->allowed_hosts);
	free(t->method);
	free(t->url);
	free(t->body);
	curl_slist_free_all(t->mail_rcpt);
	free(t->ca_file);
	free(t->cert_file);
	free(t->key_file);
	free(t->proxy);
	free(t->username);
	free(t->password);
	free(t->mail_from);
	free(t);
}
