/*-------------------------------------------------------------------------
 *
 * policy.c
 *	  Outbound safety: host allow-list, address classes, request syntax.
 *
 * The address is checked on the socket address that is about to be connected
 * to, never on the name, so that a name which resolves differently the second
 * time gains nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "policy.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- host names ---- */

/* A piece of a string, not terminated. */
typedef struct Text
{
	const char *s;
	size_t len;
} Text;

static bool
skip_prefix(Text *t, const char *prefix)
{
	size_t len = strlen(prefix);

	if (t->len < len || strncasecmp(t->s, prefix, len) != 0)
		return false;
	t->s += len;
	t->len -= len;
	return true;
}

static Text
trimmed(Text t)
{
	while (t.len > 0 && (isspace((unsigned char) *t.s) || *t.s == '"'))
		t.s++, t.len--;
	while (t.len > 0 && (isspace((unsigned char) t.s[t.len - 1]) || t.s[t.len - 1] == '"'))
		t.len--;
	return t;
}

/* An IPv6 address without its brackets; a name without the dot that only says it is complete. */
static Text
bare_host(Text t)
{
	if (t.len > 1 && t.s[0] == '[' && t.s[t.len - 1] == ']')
	{
		t.s++;
		t.len -= 2;
	}
	else if (t.len > 0 && t.s[t.len - 1] == '.')
		t.len--;
	return t;
}

/* Take ":port" off an entry; 0 if it has none, -1 if that is not a port. */
static int
take_port(Text *t)
{
	size_t at = t->len;
	int port = 0;

	while (at > 0 && t->s[at - 1] != ':' && t->s[at - 1] != ']')
		at--;
	if (at == 0 || t->s[at - 1] != ':')
		return 0;
	if (t->s[0] != '[' && memchr(t->s, ':', at - 1))
		return 0; /* an IPv6 address without brackets */
	if (at == t->len || t->len - at > 5)
		return -1;
	for (size_t i = at; i < t->len; i++)
	{
		if (!isdigit((unsigned char) t->s[i]))
			return -1;
		port = port * 10 + (t->s[i] - '0');
	}
	t->len = at - 1;
	return port > 0 ? port : -1;
}

static const char *const schemes[] = {"http://", "https://", "smtp://", "smtps://"};

static bool
entry_matches(Text entry, const char *scheme, Text host, int port)
{
	int only_port;

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (skip_prefix(&entry, schemes[i]))
		{
			size_t len = strlen(schemes[i]) - 3;

			if (strlen(scheme) != len || strncmp(scheme, schemes[i], len) != 0)
				return false;
			break;
		}
	only_port = take_port(&entry);
	if (only_port != 0 && only_port != port)
		return false;
	entry = bare_host(entry);

	if (entry.len == 1 && entry.s[0] == '*')
		return true;
	if (entry.len > 2 && entry.s[0] == '*' && entry.s[1] == '.')
	{
		entry.s++;
		entry.len--;
		return host.len > entry.len &&
			strncasecmp(host.s + host.len - entry.len, entry.s, entry.len) == 0;
	}
	return entry.len > 0 && entry.len == host.len && strncasecmp(host.s, entry.s, host.len) == 0;
}

bool
policy_host_allowed(const char *list, const char *scheme, const char *host, int port)
{
	Text given = {host, strlen(host)};
	Text name = bare_host(given);

	if (name.len == 0)
		return false;
	while (*list)
	{
		Text entry = {list, strcspn(list, ",")};

		if (entry_matches(trimmed(entry), scheme, name, port))
			return true;
		list += entry.len + (list[entry.len] == ',');
	}
	return false;
}

/* ---- addresses ---- */

static const struct
{
	uint32_t net;
	int bits;
} private_v4[] = {
	{0x00000000, 8},  /* 0.0.0.0/8 this network */
	{0x0a000000, 8},  /* 10.0.0.0/8 private */
	{0x64400000, 10}, /* 100.64.0.0/10 carrier-grade NAT */
	{0x7f000000, 8},  /* 127.0.0.0/8 loopback */
	{0xa9fe0000, 16}, /* 169.254.0.0/16 link-local, cloud metadata */
	{0xac100000, 12}, /* 172.16.0.0/12 private */
	{0xc0000000, 24}, /* 192.0.0.0/24 protocol assignments */
	{0xc0000200, 24}, /* 192.0.2.0/24 documentation */
	{0xc0586300, 24}, /* 192.88.99.0/24 6to4 relays */
	{0xc0a80000, 16}, /* 192.168.0.0/16 private */
	{0xc6120000, 15}, /* 198.18.0.0/15 benchmarks */
	{0xc6336400, 24}, /* 198.51.100.0/24 documentation */
	{0xcb007100, 24}, /* 203.0.113.0/24 documentation */
	{0xe0000000, 3},  /* 224.0.0.0/3 multicast, reserved, broadcast */
};

static bool
v4_private(uint32_t host_order)
{
	for (size_t i = 0; i < sizeof(private_v4) / sizeof(private_v4[0]); i++)
	{
		uint32_t mask = ~UINT32_C(0) << (32 - private_v4[i].bits);

		if ((host_order & mask) == private_v4[i].net)
			return true;
	}
	return false;
}

static uint32_t
v4_at(const uint8_t *b)
{
	return (uint32_t) b[0] << 24 | (uint32_t) b[1] << 16 | (uint32_t) b[2] << 8 | b[3];
}

static bool
v6_private(const uint8_t b[16])
{
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b};
	static const uint8_t nat64_local[6] = {0, 0x64, 0xff, 0x9b, 0, 1};

	if (memcmp(b, mapped, 12) == 0 || memcmp(b, nat64, 12) == 0)
		return v4_private(v4_at(b + 12));
	if (memcmp(b, nat64_local, 6) == 0)
		return true;

	/* 6to4 embeds an IPv4 address. */
	if (b[0] == 0x20 && b[1] == 0x02)
		return v4_private(v4_at(b + 2));

	/* Protocol assignments, 2001::/23: Teredo, which hides an IPv4 address, benchmarks, ORCHID. */
	if (b[0] == 0x20 && b[1] == 0x01 && (b[2] & 0xfe) == 0)
		return true;

	/* Documentation, 2001:db8::/32 and 3fff::/20. */
	if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8)
		return true;
	if (b[0] == 0x3f && b[1] == 0xff && (b[2] & 0xf0) == 0)
		return true;

	/*
	 * Public unicast is 2000::/3 alone.  Loopback, unspecified, v4-compatible,
	 * unique local (fc00::/7), link-local (fe80::/10), site-local and
	 * multicast all lie outside it.
	 */
	return (b[0] & 0xe0) != 0x20;
}

bool
policy_address_private(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
	{
		struct sockaddr_in in;

		memcpy(&in, addr, sizeof(in));
		return v4_private(ntohl(in.sin_addr.s_addr));
	}
	if (addr->sa_family == AF_INET6)
	{
		struct sockaddr_in6 in6;

		memcpy(&in6, addr, sizeof(in6));
		return v6_private(in6.sin6_addr.s6_addr);
	}
	return true;
}

bool
policy_ip_private(const char *ip)
{
	char text[INET6_ADDRSTRLEN];
	size_t len = strcspn(ip, "%");
	struct in_addr v4;
	struct in6_addr v6;

	if (len >= sizeof(text))
		return true;
	memcpy(text, ip, len);
	text[len] = '\0';

	if (inet_pton(AF_INET, text, &v4) == 1)
		return v4_private(ntohl(v4.s_addr));
	if (inet_pton(AF_INET6, text, &v6) == 1)
		return v6_private(v6.s6_addr);
	return true;
}

bool
policy_host_private(const char *host)
{
	Text given = {host, strlen(host)};
	Text name = bare_host(given);
	char text[256];
	struct in_addr v4;
	struct in6_addr v6;
	size_t len;

	if (name.len == 0 || name.len >= sizeof(text))
		return true;
	memcpy(text, name.s, name.len);
	text[name.len] = '\0';
	len = strcspn(text, "%");
	if (name.len >= 9 && strcasecmp(text + name.len - 9, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, text, &v4) == 1)
		return v4_private(ntohl(v4.s_addr));
	text[len] = '\0';
	return inet_pton(AF_INET6, text, &v6) == 1 && v6_private(v6.s6_addr);
}

/* ---- syntax ---- */

bool
policy_url_ok(const char *url, size_t len)
{
	if (len == 0 || len > 4096)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) url[i] <= 0x20 || (unsigned char) url[i] >= 0x7f || url[i] == '\\')
			return false;
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (len > strlen(schemes[i]) && strncasecmp(url, schemes[i], strlen(schemes[i])) == 0)
			return true;
	return false;
}

bool
policy_method_ok(const char *method, size_t len)
{
	if (len == 0 || len > 16)
		return false;
	for (size_t i = 0; i < len; i++)
		if (method[i] < 'A' || method[i] > 'Z')
			return false;
	return !(len == 7 && memcmp(method, "CONNECT", 7) == 0);
}

/* Headers that say how the message is framed or routed belong to the sender. */
static bool
header_is_ours(const char *name, size_t len)
{
	static const char *const ours[] = {"host",
									   "content-length",
									   "transfer-encoding",
									   "connection",
									   "upgrade",
									   "te",
									   "trailer",
									   "expect",
									   "keep-alive",
									   "proxy-authorization",
									   "proxy-connection"};

	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (strlen(ours[i]) == len && strncasecmp(ours[i], name, len) == 0)
			return true;
	return false;
}

bool
policy_header_ok(const char *name, size_t name_len, const char *value, size_t value_len)
{
	if (name_len == 0 || name_len > 128 || value_len > 8192 || header_is_ours(name, name_len))
		return false;
	for (size_t i = 0; i < name_len; i++)
		if (!isalnum((unsigned char) name[i]) && !(name[i] && strchr("!#$%&'*+-.^_`|~", name[i])))
			return false;
	for (size_t i = 0; i < value_len; i++)
		if (((unsigned char) value[i] < 0x20 && value[i] != '\t') ||
			(unsigned char) value[i] == 0x7f)
			return false;
	return true;
}

bool
policy_path_ok(const char *path, size_t len)
{
	if (len < 2 || len > 4096 || path[0] != '/')
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) path[i] < 0x20 || path[i] == 0x7f)
			return false;
	return true;
}

bool
policy_proxy_ok(const char *url, size_t len)
{
	if (len > 1024 ||
		!((len > 7 && strncasecmp(url, "http://", 7) == 0) ||
		  (len > 8 && strncasecmp(url, "https://", 8) == 0)))
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) url[i] <= 0x20 || (unsigned char) url[i] >= 0x7f)
			return false;
	return true;
}

/* ---- mail ---- */

bool
policy_mail_address_ok(const char *address, size_t len)
{
	size_t at = 0;

	if (len < 3 || len > 320)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) address[i] <= 0x20 || (unsigned char) address[i] == 0x7f ||
			strchr("<>,;()\\", address[i]))
			return false;
		if (address[i] == '@')
			at = i;
	}
	return at > 0 && at < len - 1;
}

bool
policy_mail_path_ok(const char *path)
{
	if (path[0] == '/')
		path++;
	for (size_t i = 0; path[i]; i++)
		if (i >= 255 || (!isalnum((unsigned char) path[i]) && path[i] != '.' && path[i] != '-'))
			return false;
	return true;
}

char *
policy_mail_text(const char *text, size_t len, size_t *result_len)
{
	char *result = malloc(2 * len + 3);
	size_t n = 0, line = 0;

	if (!result)
		return NULL;
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '\r' || text[i] == '\n')
		{
			result[n++] = '\r';
			result[n++] = '\n';
			line = 0;
			if (text[i] == '\r' && i + 1 < len && text[i + 1] == '\n')
				i++;
		}
		else if (text[i] == '\0' || ++line > 998)
		{
			free(result);
			return NULL;
		}
		else
			result[n++] = text[i];
	}
	if (line > 0)
	{
		result[n++] = '\r';
		result[n++] = '\n';
	}
	*result_len = n;
	return result;
}

/* ---- what a body says about when to try again ---- */

/* A number without sign or exponent, rounded up; -1 if there is none. */
static long
seconds_at(const char *p, const char *end, long most)
{
	long seconds = 0;
	bool more = false;

	if (p == end || !isdigit((unsigned char) *p))
		return -1;
	for (; p < end && isdigit((unsigned char) *p); p++)
	{
		seconds = seconds * 10 + (*p - '0');
		if (seconds >= most)
			return most;
	}
	if (p < end && *p == '.')
		for (p++; p < end && isdigit((unsigned char) *p); p++)
			more = more || *p != '0';
	return seconds + more;
}

long
policy_retry_after(const char *body, size_t len, long most)
{
	static const char key[] = "\"retry_after\"";
	const char *end = body + len;

	for (const char *p = body; (size_t) (end - p) > sizeof(key) - 1; p++)
	{
		if (memcmp(p, key, sizeof(key) - 1) != 0)
			continue;
		p += sizeof(key) - 1;
		while (p < end && strchr(" \t\r\n", *p) && *p)
			p++;
		if (p == end || *p != ':')
			return -1;
		for (p++; p < end && strchr(" \t\r\n", *p) && *p;)
			p++;
		return seconds_at(p, end, most);
	}
	return -1;
}
