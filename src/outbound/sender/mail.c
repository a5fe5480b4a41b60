/*-------------------------------------------------------------------------
 *
 * mail.c
 *	  What is special about requests that are mails.
 *
 * libcurl speaks SMTP; the server's replies, which tell what became of each
 * recipient, come to us line by line, and what they reply to through its trace.
 * Of that only the command's name is kept.
 *
 *-------------------------------------------------------------------------
 */
#include "transfer.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy.h"

#define MAX_RECIPIENTS 100

const char *
mail_check(Transfer *t)
{
	char *path = NULL, *more = NULL;
	bool plain;
	char *text;
	size_t len;

	/* libcurl takes the path for the name to greet with. */
	(void) curl_url_get(t->parsed, CURLUPART_PATH, &path, 0);
	plain = path && policy_mail_path_ok(path) &&
		curl_url_get(t->parsed, CURLUPART_QUERY, &more, 0) != CURLUE_OK &&
		curl_url_get(t->parsed, CURLUPART_FRAGMENT, &more, 0) != CURLUE_OK &&
		curl_url_get(t->parsed, CURLUPART_OPTIONS, &more, 0) != CURLUE_OK;
	curl_free(path);
	curl_free(more);
	if (!plain)
		return "the url of a mail server has nothing behind host and port but a name";
	if (!t->mail_from || t->n_rcpt == 0)
		return "a mail needs a sender and a recipient";
	if (t->n_rcpt > MAX_RECIPIENTS)
		return "a mail has more than 100 recipients";
	if (t->headers && t->headers->next)
		return "a mail has its headers in its body";
	if (t->no_starttls && t->proxy)
		return "starttls cannot be never behind a proxy";
	text = policy_mail_text(t->body, t->body_len, &len);
	if (!text)
		return "the mail has a NUL or a line of more than 998 bytes";
	free(t->body);
	t->body = text;
	t->body_len = len;
	return NULL;
}

static size_t
read_mail(char *buffer, size_t size, size_t n, void *arg)
{
	Transfer *t = arg;
	size_t len = t->body_len - t->body_sent;

	if (len > size * n)
		len = size * n;
	memcpy(buffer, t->body + t->body_sent, len);
	t->body_sent += len;
	return len;
}

/* Commands are words; what follows, and the lines of an authentication, is nobody's business. */
static int
on_trace(CURL *easy, curl_infotype type, char *data, size_t size, void *arg)
{
	static const char *const commands[] = {"EHLO", "HELO", "STARTTLS", "AUTH",
										   "MAIL", "RCPT", "DATA"};
	Transfer *t = arg;

	(void) easy;
	if (type != CURLINFO_HEADER_OUT)
		return 0;

	/* What comes after the farewell is no answer to the mail. */
	if (size > 4 && memcmp(data, "QUIT", 4) == 0)
		t->left = true;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
	{
		size_t len = strlen(commands[i]);

		if (size > len && memcmp(data, commands[i], len) == 0 && isspace((unsigned char) data[len]))
			snprintf(t->command, sizeof(t->command), "%s", commands[i]);
	}
	return 0;
}

void
mail_reply(Transfer *t, const char *line, size_t len)
{
	int code;

	if (t->left || len < 3 || !isdigit((unsigned char) line[0]) ||
		!isdigit((unsigned char) line[1]) || !isdigit((unsigned char) line[2]) ||
		(len > 3 && line[3] == '-'))
		return;
	code = (line[0] - '0') * 100 + (line[1] - '0') * 10 + (line[2] - '0');
	if (code < 200 || code > 599)
		return;
	t->reply = code;
	if (code >= 400 && strcmp(t->command, "RCPT") == 0)
	{
		t->refused_rcpt++;
		if (t->rcpt_reply == 0 || code < 500)
			t->rcpt_reply = code;
	}
}

/*
 * May the mail go over a connection that is there?  libcurl does not compare
 * how connections got their TLS by STARTTLS, or that they have none.  So only
 * mails with the settings that a mail server saw first share connections.
 */
static bool
may_share(const Transfer *t)
{
	static struct
	{
		char *server;
		char *settings;
	} seen[64];
	char server[512], settings[4096];
	int n;

	n = snprintf(server, sizeof(server), "%s://%s:%d %s", t->scheme, t->host, t->port,
				 t->proxy ? t->proxy : "");
	if (n >= (int) sizeof(server))
		return false;
	n = snprintf(settings, sizeof(settings), "%d%d %s:%s:%s", t->no_starttls, t->tls13,
				 t->ca_file ? t->ca_file : "", t->cert_file ? t->cert_file : "",
				 t->key_file ? t->key_file : "");
	if (n >= (int) sizeof(settings))
		return false;
	for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++)
	{
		if (!seen[i].server)
		{
			seen[i].server = strdup(server);
			seen[i].settings = strdup(settings);
			return seen[i].server && seen[i].settings;
		}
		if (strcmp(seen[i].server, server) == 0)
			return seen[i].settings && strcmp(seen[i].settings, settings) == 0;
	}
	return false;
}

CURLcode
mail_set_request(Transfer *t)
{
	CURL *e = t->easy;
	CURLcode rc = CURLE_OK;

	SET(CURLOPT_USE_SSL, (long) (t->no_starttls ? CURLUSESSL_NONE : CURLUSESSL_ALL));
	SET(CURLOPT_MAIL_FROM, t->mail_from);
	SET(CURLOPT_MAIL_RCPT, t->mail_rcpt);
#if LIBCURL_VERSION_NUM >= 0x080200
	SET(CURLOPT_MAIL_RCPT_ALLOWFAILS, 1L);
#else
	SET(CURLOPT_MAIL_RCPT_ALLLOWFAILS, 1L);
#endif
	SET(CURLOPT_UPLOAD, 1L);
	SET(CURLOPT_READFUNCTION, read_mail);
	SET(CURLOPT_READDATA, t);
	SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t) t->body_len);
	if (t->username && t->password)
	{
		SET(CURLOPT_USERNAME, t->username);
		SET(CURLOPT_PASSWORD, t->password);
	}
	if (t->proxy)
		SET(CURLOPT_HTTPPROXYTUNNEL, 1L);
	if (!may_share(t))
	{
		SET(CURLOPT_FRESH_CONNECT, 1L);
		SET(CURLOPT_FORBID_REUSE, 1L);
	}
	SET(CURLOPT_VERBOSE, 1L);
	SET(CURLOPT_DEBUGFUNCTION, on_trace);
	SET(CURLOPT_DEBUGDATA, t);
	return rc;
}

bool
mail_finish(const Transfer *t, CURLcode code, SenderOutcome *out)
{
	int reply = t->reply;

	if (code != CURLE_OK && reply < 400)
		return false;

	/* None of the recipients was taken: later, if that would do for one of them. */
	if (code != CURLE_OK && t->refused_rcpt == t->n_rcpt)
		reply = t->rcpt_reply;
	out->kind = SENDER_RESPONSE;
	out->status = (uint32_t) reply;
	out->protocol = SENDER_SMTP;
	if (code != CURLE_OK)
		snprintf(out->error, sizeof(out->error), "SMTP reply %d%s%s", reply,
				 t->command[0] ? " to " : "", t->command);
	else if (t->refused_rcpt > 0)
		snprintf(out->error, sizeof(out->error),
				 "%d of %d recipients were refused with SMTP reply %d", t->refused_rcpt, t->n_rcpt,
				 t->rcpt_reply);
	return true;
}
