/*-------------------------------------------------------------------------
 *
 * sender_test.c
 *	  Unit tests of the sender's policy and of the outcomes' decoder, as TAP.
 *
 * Address classes are checked at both ends of every range and one beyond.
 *
 *-------------------------------------------------------------------------
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "outbound/sender/policy.h"
#include "outbound/sender/protocol.h"

static int tests = 0;
static int failures = 0;

static void
ok(bool good, const char *name, const char *what)
{
	printf("%s %d - %s%s%s\n", good ? "ok" : "not ok", ++tests, name, what[0] ? ": " : "", what);
	failures += !good;
}

/* ---- addresses ---- */

/* As text, and as the socket address that connect() would get. */
static bool
is_private(const char *ip)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	bool as_text = policy_ip_private(ip);
	bool as_address;

	if (inet_pton(AF_INET, ip, &in.sin_addr) == 1)
		as_address = policy_address_private((struct sockaddr *) &in);
	else if (inet_pton(AF_INET6, ip, &in6.sin6_addr) == 1)
		as_address = policy_address_private((struct sockaddr *) &in6);
	else
		return as_text;
	if (as_text != as_address)
		ok(false, "text and address are judged alike", ip);
	return as_text;
}

static const char *const private_ips[] = {
	"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255",
	"127.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254",
	"169.254.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.255", "192.0.2.0",
	"192.0.2.255", "192.88.99.0", "192.88.99.255", "192.168.0.0", "192.168.255.255", "198.18.0.0",
	"198.19.255.255", "198.51.100.0", "198.51.100.255", "203.0.113.0", "203.0.113.255", "224.0.0.0",
	"239.255.255.255", "240.0.0.0", "255.255.255.255",
	/* IPv6 */
	"::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
	"::ffff:169.254.169.254", "::ffff:0.0.0.0", "::ffff:0:8.8.8.8", "64:ff9b::127.0.0.1",
	"64:ff9b::10.1.2.3", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "64:ff9b:1:ffff::1",
	"100::1", "2001::", "2001::1", "2001:2::1", "2001:10::1", "2001:1ff:ffff::1", "2001:db8::1",
	"2001:db8:ffff::1", "2002:7f00:1::1", "2002:a00:1::1", "2002:c0a8:101::1", "3fff::1",
	"3fff:fff:ffff::1", "1fff:ffff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1",
	"fdff:ffff::1", "fe80::1", "fe80::1%1", "febf::1", "fec0::1", "ff02::1", "ff0e::1",
	/* no numeric addresses */
	"", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", "1.2.3.4 ",
	"1234567890123456789012345678901234567890123456789"};

static const char *const public_ips[] = {
	"1.0.0.0",          "8.8.8.8",         "9.255.255.255",
	"11.0.0.0",         "100.63.255.255",  "100.128.0.0",
	"126.255.255.255",  "128.0.0.0",       "169.253.255.255",
	"169.255.0.0",      "172.15.255.255",  "172.32.0.0",
	"191.255.255.255",  "192.0.1.0",       "192.0.3.0",
	"192.88.98.255",    "192.88.100.0",    "192.167.255.255",
	"192.169.0.0",      "198.17.255.255",  "198.20.0.0",
	"198.51.99.255",    "198.51.101.0",    "203.0.112.255",
	"203.0.114.0",      "223.255.255.255", "::ffff:8.8.8.8",
	"64:ff9b::8.8.8.8", "2001:200::1",     "2001:4860:4860::8888",
	"2001:db7::1",      "2001:db9::1",     "2002:808:808::1",
	"2000::1",          "2606:4700::1",    "3ffe::1",
	"3fff:1000::1"};

static void
test_addresses(void)
{
	struct sockaddr other = {.sa_family = AF_UNIX};

	for (size_t i = 0; i < sizeof(private_ips) / sizeof(private_ips[0]); i++)
		ok(is_private(private_ips[i]), "not public", private_ips[i]);
	for (size_t i = 0; i < sizeof(public_ips) / sizeof(public_ips[0]); i++)
		ok(!is_private(public_ips[i]), "public", public_ips[i]);
	ok(policy_address_private(&other), "not public", "another address family");
}

/* ---- hosts ---- */

static const struct
{
	const char *list;
	const char *scheme;
	const char *host;
	int port;
	bool allowed;
} host_cases[] = {
	{"", "https", "a.com", 443, false},
	{",, ,", "https", "a.com", 443, false},
	{"*", "https", "a.com", 443, true},
	{"*", "https", "", 443, false},
	{"*", "https", ".", 443, false},
	{"a.com", "https", "a.com", 443, true},
	{"a.com", "http", "a.com", 80, true},
	{"a.com", "https", "A.Com.", 443, true},
	{"A.COM.", "https", "a.com", 443, true},
	{"a.com", "https", "b.a.com", 443, false},
	{"a.com", "https", "a.com.evil.org", 443, false},
	{"a.com", "https", "xa.com", 443, false},
	{"*.a.com", "https", "b.a.com", 443, true},
	{"*.a.com", "https", "c.b.a.com", 443, true},
	{"*.a.com", "https", "a.com", 443, false},
	{"*.a.com", "https", ".a.com", 443, false},
	{"*.a.com", "https", "xa.com", 443, false},
	{"*a.com", "https", "xa.com", 443, false},
	{"x.org , \"a.com\",b.com", "https", "a.com", 443, true},
	{"x.org,a.com", "https", "b.com", 443, false},
	{"127.0.0.1", "http", "127.0.0.1", 80, true},
	{"127.0.0.1", "http", "127.0.0.11", 80, false},
	{"::1", "http", "[::1]", 80, true},
	{"[::1]", "http", "[::1]", 80, true},
	{"[::1]:8080", "http", "[::1]", 8080, true},
	{"[::1]:8080", "http", "[::1]", 80, false},
	{"a.com:8443", "https", "a.com", 8443, true},
	{"a.com:8443", "https", "a.com", 443, false},
	{"*.a.com:8443", "https", "b.a.com", 8443, true},
	{"*:443", "https", "b.a.com", 443, true},
	{"*:443", "https", "b.a.com", 22, false},
	{"a.com:", "https", "a.com", 443, false},
	{"a.com:0", "https", "a.com", 0, false},
	{"a.com:x", "https", "a.com", 443, false},
	{"a.com:4294967739", "https", "a.com", 443, false},
	{"https://a.com", "https", "a.com", 443, true},
	{"https://a.com", "http", "a.com", 80, false},
	{"https://*", "http", "a.com", 80, false},
	{"HTTPS://a.com:444", "https", "a.com", 444, true},
	{"http://a.com", "http", "a.com", 80, true},
	{"http://a.com", "https", "a.com", 443, false},
	{"https://", "https", "a.com", 443, false},
	{"ftp://a.com", "https", "a.com", 443, false},
	{"a.com", "smtp", "a.com", 25, true},
	{"smtp://a.com", "smtp", "a.com", 587, true},
	{"smtp://a.com", "smtps", "a.com", 465, false},
	{"smtps://a.com:465", "smtps", "a.com", 465, true},
	{"smtps://a.com", "smtp", "a.com", 25, false},
	{"https://a.com", "smtps", "a.com", 443, false},
	{"http://a.com", "smtp", "a.com", 80, false},
};

static void
test_hosts(void)
{
	for (size_t i = 0; i < sizeof(host_cases) / sizeof(host_cases[0]); i++)
	{
		char what[128];

		snprintf(what, sizeof(what), "\"%s\" and %s://%s:%d", host_cases[i].list,
				 host_cases[i].scheme, host_cases[i].host, host_cases[i].port);
		ok(policy_host_allowed(host_cases[i].list, host_cases[i].scheme, host_cases[i].host,
							   host_cases[i].port) == host_cases[i].allowed,
		   host_cases[i].allowed ? "allowed" : "not allowed", what);
	}
}

/* ---- syntax ---- */

/* A literal with its length, so that it may hold a NUL. */
#define LIT(s) s, sizeof(s) - 1

static void
test_urls(void)
{
	char longest[4098];

	ok(policy_url_ok(LIT("http://a.com")), "url", "http");
	ok(policy_url_ok(LIT("HTTPS://a.com/x?y=z#w")), "url", "https");
	ok(policy_url_ok(LIT("smtp://a.com:587")), "url", "smtp");
	ok(policy_url_ok(LIT("SMTPS://a.com")), "url", "smtps");
	ok(!policy_url_ok(LIT("smtp://")), "no url", "nothing behind smtp");
	ok(!policy_url_ok(LIT("")), "no url", "empty");
	ok(!policy_url_ok(LIT("http://")), "no url", "nothing behind the scheme");
	ok(!policy_url_ok(LIT("a.com")), "no url", "no scheme");
	ok(!policy_url_ok(LIT("http:a.com")), "no url", "no slashes");
	ok(!policy_url_ok(LIT("file:///etc/passwd")), "no url", "file");
	ok(!policy_url_ok(LIT("gopher://a.com/")), "no url", "gopher");
	ok(!policy_url_ok(LIT("httpsx://a.com/")), "no url", "httpsx");
	ok(!policy_url_ok(LIT("http://a.com/ x")), "no url", "space");
	ok(!policy_url_ok(LIT("http://a.com/\r\nX: y")), "no url", "line break");
	ok(!policy_url_ok(LIT("http://a.com/\0x")), "no url", "NUL");
	ok(!policy_url_ok(LIT("http://a.com\\@b.com/")), "no url", "backslash");
	ok(!policy_url_ok(LIT("http://\xc3\xa4.com/")), "no url", "not ASCII");
	ok(!policy_url_ok(LIT("http://a.com/\x7f")), "no url", "DEL");

	memset(longest, 'a', sizeof(longest));
	memcpy(longest, "http://", 7);
	ok(policy_url_ok(longest, 4096), "url", "4096 bytes");
	ok(!policy_url_ok(longest, 4097), "no url", "4097 bytes");
}

static void
test_methods(void)
{
	ok(policy_method_ok(LIT("POST")), "method", "POST");
	ok(policy_method_ok(LIT("PUT")), "method", "PUT");
	ok(!policy_method_ok(LIT("")), "no method", "empty");
	ok(!policy_method_ok(LIT("post")), "no method", "lower case");
	ok(!policy_method_ok(LIT("CONNECT")), "no method", "CONNECT");
	ok(!policy_method_ok(LIT("POST / HTTP/1.1\r\n")), "no method", "line break");
	ok(!policy_method_ok(LIT("GET\0")), "no method", "NUL");
	ok(!policy_method_ok(LIT("ABCDEFGHIJKLMNOPQ")), "no method", "17 letters");
}

static void
test_headers(void)
{
	static const char *const ours[] = {"Host",
									   "CONTENT-LENGTH",
									   "transfer-encoding",
									   "Connection",
									   "Upgrade",
									   "TE",
									   "Trailer",
									   "Expect",
									   "Keep-Alive",
									   "Proxy-Authorization",
									   "Proxy-Connection"};
	char *big = calloc(1, 8193);

	memset(big, 'x', 8193);
	ok(policy_header_ok(LIT("X-Team"), LIT("shop \t\xc3\xa4")), "header", "X-Team");
	ok(policy_header_ok(LIT("X"), LIT("")), "header", "empty value");
	ok(policy_header_ok(LIT("X"), big, 8192), "header", "8192 bytes");
	ok(!policy_header_ok(LIT("X"), big, 8193), "no header", "8193 bytes");
	ok(!policy_header_ok(LIT(""), LIT("x")), "no header", "no name");
	ok(!policy_header_ok(LIT("X Y"), LIT("x")), "no header", "space in the name");
	ok(!policy_header_ok(LIT("X:"), LIT("x")), "no header", "colon in the name");
	ok(!policy_header_ok(LIT("X\r\nY"), LIT("x")), "no header", "line break in the name");
	ok(!policy_header_ok(LIT("X\0"), LIT("x")), "no header", "NUL in the name");
	ok(!policy_header_ok(LIT("\xc3\xa4"), LIT("x")), "no header", "name not ASCII");
	ok(!policy_header_ok(LIT("X"), LIT("a\r\nY: b")), "no header", "CR LF in the value");
	ok(!policy_header_ok(LIT("X"), LIT("a\nY: b")), "no header", "LF in the value");
	ok(!policy_header_ok(LIT("X"), LIT("a\rb")), "no header", "CR in the value");
	ok(!policy_header_ok(LIT("X"), LIT("a\0b")), "no header", "NUL in the value");
	ok(!policy_header_ok(LIT("X"), LIT("a\x7f")), "no header", "DEL in the value");
	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		ok(!policy_header_ok(ours[i], strlen(ours[i]), LIT("x")), "the sender's own", ours[i]);
	free(big);
}

/* ---- proxies and files ---- */

static void
test_options(void)
{
	static const char *const private_hosts[] = {"localhost", "LOCALHOST.", "x.localhost",
												"127.0.0.1", "[::1]",       "[fe80::1%1]",
												"10.0.0.1",  "",            "[64:ff9b::a00:1]"};
	static const char *const other_hosts[] = {"a.com", "8.8.8.8", "[2606:4700::1]", "1.2.3.4.5"};

	for (size_t i = 0; i < sizeof(private_hosts) / sizeof(private_hosts[0]); i++)
		ok(policy_host_private(private_hosts[i]), "private host", private_hosts[i]);
	for (size_t i = 0; i < sizeof(other_hosts) / sizeof(other_hosts[0]); i++)
		ok(!policy_host_private(other_hosts[i]), "no private host", other_hosts[i]);

	ok(policy_path_ok(LIT("/etc/ssl/a b.pem")), "path", "with a space");
	ok(!policy_path_ok(LIT("")), "no path", "empty");
	ok(!policy_path_ok(LIT("/")), "no path", "the root");
	ok(!policy_path_ok(LIT("a.pem")), "no path", "relative");
	ok(!policy_path_ok(LIT("/a\nb")), "no path", "line break");
	ok(!policy_path_ok(LIT("/a\0b")), "no path", "NUL");

	ok(policy_proxy_ok(LIT("http://user:p@proxy:3128")), "proxy", "http with credentials");
	ok(policy_proxy_ok(LIT("https://proxy")), "proxy", "https");
	ok(!policy_proxy_ok(LIT("socks5://proxy")), "no proxy", "socks5");
	ok(!policy_proxy_ok(LIT("proxy:3128")), "no proxy", "no scheme");
	ok(!policy_proxy_ok(LIT("http://proxy\r\nX: y")), "no proxy", "line break");
	ok(!policy_proxy_ok(LIT("http://")), "no proxy", "no host");
}

/* ---- mail ---- */

/* The text as it goes out; NULL if refused. */
static bool
mail_becomes(const char *text, size_t len, const char *expected)
{
	/* In memory of exactly that size. */
	char *exact = malloc(len + !len);
	char *result;
	size_t n = 0;
	bool good;

	memcpy(exact, text, len);
	result = policy_mail_text(exact, len, &n);
	free(exact);
	good = expected ? result && n == strlen(expected) && memcmp(result, expected, n) == 0 : !result;
	free(result);
	return good;
}

static void
test_mail(void)
{
	char line[1001];

	ok(policy_mail_address_ok(LIT("a@b")), "address", "shortest");
	ok(policy_mail_address_ok(LIT("o'neil+x@mail.example.com")), "address", "o'neil");
	ok(policy_mail_address_ok(LIT("j\xc3\xb6rg@b\xc3\xbc" "cher.example")), "address", "not ASCII");
	ok(policy_mail_address_ok(LIT("a@[192.0.2.1]")), "address", "literal");
	ok(!policy_mail_address_ok(LIT("")), "no address", "empty");
	ok(!policy_mail_address_ok(LIT("abc")), "no address", "no @");
	ok(!policy_mail_address_ok(LIT("@bc")), "no address", "no name");
	ok(!policy_mail_address_ok(LIT("ab@")), "no address", "no host");
	ok(!policy_mail_address_ok(LIT("A <a@b>")), "no address", "display name");
	ok(!policy_mail_address_ok(LIT("<a@b>")), "no address", "brackets");
	ok(!policy_mail_address_ok(LIT("a@b>\r\nDATA")), "no address", "line break");
	ok(!policy_mail_address_ok(LIT("a@b\0")), "no address", "NUL");
	ok(!policy_mail_address_ok(LIT("a@b,c@d")), "no address", "two");
	ok(!policy_mail_address_ok(LIT("a b@c")), "no address", "space");

	ok(policy_mail_path_ok(""), "mail path", "none");
	ok(policy_mail_path_ok("/"), "mail path", "slash");
	ok(policy_mail_path_ok("/db1.example.com"), "mail path", "name");
	ok(!policy_mail_path_ok("/a/b"), "no mail path", "two parts");
	ok(!policy_mail_path_ok("/a%0d%0a"), "no mail path", "percent");
	ok(!policy_mail_path_ok("/a b"), "no mail path", "space");

	ok(mail_becomes(LIT(""), ""), "mail", "empty");
	ok(mail_becomes(LIT("a"), "a\r\n"), "mail", "one line without end");
	ok(mail_becomes(LIT("a\nb\n"), "a\r\nb\r\n"), "mail", "LF");
	ok(mail_becomes(LIT("a\r\nb\r\n"), "a\r\nb\r\n"), "mail", "CR LF");
	ok(mail_becomes(LIT("a\rb\r"), "a\r\nb\r\n"), "mail", "CR");
	ok(mail_becomes(LIT("a\r\r\n\n\rb"), "a\r\n\r\n\r\n\r\nb\r\n"), "mail", "a mixture");
	ok(mail_becomes(LIT("\n.\n"), "\r\n.\r\n"), "mail", "a dot, which libcurl doubles");
	ok(mail_becomes(LIT("a\0b"), NULL), "no mail", "NUL");
	memset(line, 'x', sizeof(line));
	ok(!mail_becomes(line, 999, ""), "no mail", "a line of 999 bytes");
	ok(mail_becomes(line, 999, NULL), "no mail", "a line of 999 bytes is refused");
	memcpy(line + 998, "\r\n", 3);
	ok(mail_becomes(line, 998, line), "mail", "a line of 998 bytes");
}

/* ---- when to try again ---- */

static const struct
{
	const char *body;
	long seconds;
} retry_cases[] = {
	{"{\"message\": \"You are being rate limited.\", \"retry_after\": 64.57, \"global\": false}", 65},
	{"{\"ok\":false,\"error_code\":429,\"parameters\":{\"retry_after\":35}}", 35},
	{"{\"retry_after\" :\t 1.000 }", 1},
	{"{\"retry_after\":0.001}", 1},
	{"{\"retry_after\":0}", 0},
	{"{\"retry_after\":99999999999999999999}", 1000},
	{"{\"retry_after\":1000}", 1000},
	{"{\"retry_after\":999}", 999},
	{"{\"retry_after\":-1}", -1},
	{"{\"retry_after\":\"3\"}", -1},
	{"{\"retry_after\":null}", -1},
	{"{\"retry_after\"", -1},
	{"{\"retry_after\":", -1},
	{"{\"retry_after\": ", -1},
	{"{\"retry_after\" 3}", -1},
	{"{\"retry\":3}", -1},
	{"retry_after: 3", -1},
	{"", -1},
};

static void
test_retry_after(void)
{
	for (size_t i = 0; i < sizeof(retry_cases) / sizeof(retry_cases[0]); i++)
	{
		size_t len = strlen(retry_cases[i].body);
		char *exact = malloc(len + !len);

		memcpy(exact, retry_cases[i].body, len);
		ok(policy_retry_after(exact, len, 1000) == retry_cases[i].seconds, "retry_after",
		   retry_cases[i].body);
		free(exact);
	}
}

/* ---- outcomes ---- */

typedef struct Frame
{
	char data[2048];
	size_t len;
} Frame;

static void
put(Frame *f, const void *data, size_t len)
{
	memcpy(f->data + f->len, data, len);
	f->len += len;
}

static bool
decodes(uint8_t kind, uint32_t status, uint64_t latency, int64_t retry_after, uint64_t bytes,
		uint8_t protocol, const char *error, uint32_t error_len, size_t cut, size_t extra)
{
	Frame f = {.len = 0};
	uint8_t begun = 1;
	uint64_t tag = UINT64_C(0x0123456789abcdef);
	SenderReader r;
	SenderOutcome o;
	char *exact;
	bool good;

	put(&f, &tag, 8);
	put(&f, &kind, 1);
	put(&f, &status, 4);
	put(&f, &latency, 8);
	put(&f, &retry_after, 8);
	put(&f, &bytes, 8);
	put(&f, &protocol, 1);
	put(&f, &begun, 1);
	put(&f, &error_len, 4);
	put(&f, error, strlen(error));
	put(&f, "xxxx", extra);

	/* In memory of exactly that size, so that the sanitizer sees a step too far. */
	f.len -= cut;
	exact = malloc(f.len + !f.len);
	memcpy(exact, f.data, f.len);
	r = (SenderReader){.p = exact, .end = exact + f.len};
	good = sender_get_outcome(&r, &o);
	if (good)
		good = o.tag == tag && o.kind == kind && o.status == status && o.latency_us == latency &&
			o.retry_after == retry_after && o.bytes == bytes && o.protocol == protocol && o.begun &&
			strcmp(o.error, error) == 0;
	free(exact);
	return good;
}

static bool
decodes_outcome(uint8_t kind, uint32_t status, uint64_t latency, int64_t retry_after,
				const char *error)
{
	return decodes(kind, status, latency, retry_after, 100, status ? SENDER_HTTP_1_1 : 0, error,
				   strlen(error), 0, 0);
}

static void
test_outcomes(void)
{
	char text[SENDER_MAX_ERROR + 1];
	bool cut = false;

	ok(decodes_outcome('r', 200, 1234, -1, ""), "outcome", "200");
	ok(decodes_outcome('r', 429, 1, SENDER_MAX_RETRY_AFTER, "HTTP status 429"), "outcome", "429");
	ok(decodes_outcome('n', 0, 0, -1, "no response"), "outcome", "no response");
	ok(decodes_outcome('x', 0, 0, -1, "no"), "outcome", "refused");
	ok(!decodes_outcome('q', 0, 0, -1, "no"), "no outcome", "unknown kind");
	ok(!decodes_outcome('r', 0, 0, -1, ""), "no outcome", "response without a status");
	ok(!decodes_outcome('r', 99, 0, -1, ""), "no outcome", "status 99");
	ok(!decodes_outcome('r', 1000, 0, -1, ""), "no outcome", "status 1000");
	ok(!decodes_outcome('r', UINT32_MAX, 0, -1, ""), "no outcome", "status 4294967295");
	ok(!decodes_outcome('n', 200, 0, -1, ""), "no outcome", "a status without a response");
	ok(!decodes_outcome('n', 0, UINT64_MAX, -1, ""), "no outcome", "latency");
	ok(!decodes_outcome('r', 429, 0, -2, ""), "no outcome", "Retry-After -2");
	ok(!decodes_outcome('r', 429, 0, INT64_MAX, ""), "no outcome", "Retry-After without end");
	ok(!decodes_outcome('n', 0, 0, -1, "\xff"), "no outcome", "error not ASCII");
	ok(!decodes_outcome('n', 0, 0, -1, "a\nb"), "no outcome", "error with a line break");
	ok(!decodes('n', 0, 0, -1, 0, 0, "ab", 3, 0, 0), "no outcome", "error longer than the frame");
	ok(!decodes('n', 0, 0, -1, 0, 0, "ab", UINT32_MAX, 0, 0), "no outcome", "error of 4 GB");
	ok(!decodes('n', 0, 0, -1, 0, 0, "ab", 2, 0, 1), "no outcome", "something behind it");

	ok(decodes('r', 250, 0, -1, 0, SENDER_SMTP, "", 0, 0, 0), "outcome", "mail");
	ok(decodes('r', 200, 0, -1, SENDER_MAX_RESPONSE, SENDER_HTTP_2, "", 0, 0, 0), "outcome",
	   "longest response");
	ok(!decodes('r', 200, 0, -1, SENDER_MAX_RESPONSE + 1, SENDER_HTTP_2, "", 0, 0, 0), "no outcome",
	   "longer than what is read");
	ok(!decodes('r', 200, 0, -1, 0, 0, "", 0, 0, 0), "no outcome", "response by no protocol");
	ok(!decodes('r', 200, 0, -1, 0, 99, "", 0, 0, 0), "no outcome", "unknown protocol");
	ok(!decodes('n', 0, 0, -1, 0, SENDER_SMTP, "", 0, 0, 0), "no outcome",
	   "a protocol without a response");

	memset(text, 'x', sizeof(text));
	text[SENDER_MAX_ERROR] = '\0';
	ok(!decodes_outcome('n', 0, 0, -1, text), "no outcome", "error too long");
	text[SENDER_MAX_ERROR - 1] = '\0';
	ok(decodes_outcome('n', 0, 0, -1, text), "outcome", "longest error");

	for (size_t i = 1; i <= 43 + 11; i++)
		cut = cut || decodes('n', 0, 0, -1, 0, 0, "no response", 11, i, 0);
	ok(!cut, "no outcome", "every truncation");
}

int
main(void)
{
	test_addresses();
	test_hosts();
	test_urls();
	test_methods();
	test_headers();
	test_options();
	test_mail();
	test_retry_after();
	test_outcomes();
	printf("1..%d\n", tests);
	return failures > 0;
}
