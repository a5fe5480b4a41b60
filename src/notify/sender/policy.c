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
#include <string.h>
#include <strings.h>

/* ---- host names ---- */

static bool
entry_matches(const char *entry, size_t len, const char *host, size_t host_len)
{
	if (len == 1 && entry[0] == '*')
		return true;
	if (len > 2 && entry[0] == '*' && entry[1] == '.')
	{
		entry++;
		len--;
		return host_len > len && strncasecmp(host + host_len - len, entry, len) == 0;
	}
	return len == host_len && strncasecmp(host, entry, len) == 0;
}

bool
policy_host_allowed(const char *list, const char *host)
{
	size_t host_len = strlen(host);

	/* A trailing dot only says that the name is complete. */
	if (host_len > 0 && host[host_len - 1] == '.')
		host_len--;
	if (host_len > 1 && host[0] == '[' && host[host_len - 1] == ']')
	{
		host++;
		host_len -= 2;
	}
	if (host_len == 0)
		return false;

	while (*list)
	{
		size_t len = strcspn(list, ",");
		const char *entry = list;

		list += len + (list[len] == ',');
		while (len > 0 && (isspace((unsigned char) *entry) || *entry == '"'))
			entry++, len--;
		while (len > 0 && (isspace((unsigned char) entry[len - 1]) || entry[len - 1] == '"'))
			len--;
		if (len > 1 && entry[0] == '[' && entry[len - 1] == ']')
			entry++, len -= 2;
		if (len > 0 && entry_matches(entry, len, host, host_len))
			return true;
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

	/* 6to4 embeds an IPv4 address; Teredo hides one. */
	if (b[0] == 0x20 && b[1] == 0x02)
		return v4_private(v4_at(b + 2));
	if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0)
		return true;

	/* Documentation, 2001:db8::/32. */
	if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8)
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

/* ---- syntax ---- */

bool
policy_url_ok(const char *url, size_t len)
{
	if (len == 0 || len > 4096)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) url[i] <= 0x20 || (unsigned char) url[i] >= 0x7f || url[i] == '\\')
			return false;
	return (len > 7 && strncasecmp(url, "http://", 7) == 0) ||
		(len > 8 && strncasecmp(url, "https://", 8) == 0);
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
