/*-------------------------------------------------------------------------
 *
 * policy.h
 *	  Where the sender may connect to, and what may stand in a request.
 *
 * Pure functions without libcurl, so that they can be tested on their own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SENDER_POLICY_H
#define MONITORING_SENDER_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/*
 * Does the comma-separated list allow the host?  An entry is "name", "*.suffix"
 * or "*", with "https://" before it if only that is allowed, and ":port" after
 * it if only that port is.  Empty allows none.
 */
extern bool policy_host_allowed(const char *list, bool https, const char *host, int port);

/*
 * Is the address anything but a public unicast one: loopback, private,
 * link-local, shared, unspecified, multicast, reserved, or an IPv6 form that
 * carries an IPv4 address of such a kind?  Unknown families count as private.
 */
extern bool policy_address_private(const struct sockaddr *addr);

/* The same for a numeric address as text; anything unparsable counts as private. */
extern bool policy_ip_private(const char *ip);

extern bool policy_url_ok(const char *url, size_t len);
extern bool policy_method_ok(const char *method, size_t len);
extern bool policy_header_ok(const char *name, size_t name_len, const char *value,
							 size_t value_len);

#endif /* MONITORING_SENDER_POLICY_H */
