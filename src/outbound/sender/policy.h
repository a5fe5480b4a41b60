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
 * or "*", with "https://" or another scheme before it if only that is allowed,
 * and ":port" after it if only that port is.  Empty allows none.
 */
extern bool policy_host_allowed(const char *list, const char *scheme, const char *host, int port);

/*
 * Is the address anything but a public unicast one: loopback, private,
 * link-local, shared, unspecified, multicast, reserved, or an IPv6 form that
 * carries an IPv4 address of such a kind?  Unknown families count as private.
 */
extern bool policy_address_private(const struct sockaddr *addr);

/* The same for a numeric address as text; anything unparsable counts as private. */
extern bool policy_ip_private(const char *ip);

/* Is the host of a url an address that is not public, or this machine's name?  For what a proxy resolves. */
extern bool policy_host_private(const char *host);

extern bool policy_url_ok(const char *url, size_t len);
extern bool policy_method_ok(const char *method, size_t len);
extern bool policy_header_ok(const char *name, size_t name_len, const char *value,
							 size_t value_len);

/* A path of a file, a proxy's url. */
extern bool policy_path_ok(const char *path, size_t len);
extern bool policy_proxy_ok(const char *url, size_t len);

/* An address of a mail's envelope: no display name, no angle brackets, no spaces. */
extern bool policy_mail_address_ok(const char *address, size_t len);

/* The greeting's name, the only path that a mail server's url may have; with its slash, or empty. */
extern bool policy_mail_path_ok(const char *path);

/*
 * A mail's text with CR LF at the end of each line, malloc'd; NULL if it has a
 * NUL or a line of more than 998 bytes, or when out of memory.
 */
extern char *policy_mail_text(const char *text, size_t len, size_t *result_len);

/*
 * The number of seconds behind "retry_after" in the beginning of a JSON body,
 * rounded up, at most `most`; -1 if there is none.
 */
extern long policy_retry_after(const char *body, size_t len, long most);

#endif /* MONITORING_SENDER_POLICY_H */
