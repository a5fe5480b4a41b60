/*-------------------------------------------------------------------------
 *
 * dialogue.c
 *	  What a probe says over a connection that it has made, and what it hears.
 *
 * libcurl makes the connection, with TLS if wanted, and leaves it to us.  What is
 * read is bounded, and ends with what is waited for, with the connection, or with
 * the probe's time.
 *
 *-------------------------------------------------------------------------
 */
#include "transfer.h"

#include <stdio.h>
#include <stdlib.h>

/* Take a text of hexadecimal digits for what is to be sent. */
bool
dialogue_take_hex(Transfer *t, const char *hex, size_t len)
{
	char *bytes = malloc(len / 2 + 1);

	if (!bytes || len == 0 || len % 2 != 0 || t->body_len > 0)
	{
		free(bytes);
		return false;
	}
	for (size_t i = 0; i < len; i++)
	{
		char c = hex[i] | 0x20;
		int digit = hex[i] >= '0' && hex[i] <= '9' ? hex[i] - '0'
			: c >= 'a' && c <= 'f'                 ? c - 'a' + 10
												   : -1;

		if (digit < 0)
		{
			free(bytes);
			return false;
		}
		bytes[i / 2] = (char) (i % 2 == 0 ? digit << 4 : (unsigned char) bytes[i / 2] | digit);
	}
	free(t->body);
	t->body = bytes;
	t->body_len = len / 2;
	return true;
}

bool
dialogue_wanted(const Transfer *t, CURLcode code)
{
	return t->probe == SENDER_PROBE_TCP && code == CURLE_OK && !t->talking &&
		(t->body_len > 0 || t->until);
}

/* Is what is waited for in the last bytes, of which so many are new? */
bool
dialogue_heard(const Transfer *t, size_t fresh)
{
	size_t len = strlen(t->until);
	size_t from;

	if (t->seen_body_len < len)
		return false;
	from = t->seen_body_len > fresh + len - 1 ? t->seen_body_len - fresh - (len - 1) : 0;
	for (size_t i = from; i + len <= t->seen_body_len; i++)
		if (memcmp(t->seen_body + i, t->until, len) == 0)
			return true;
	return false;
}

typedef enum Turn
{
	WAITING,
	OVER,
	BROKEN
} Turn;

static Turn
say(Transfer *t)
{
	while (t->body_sent < t->body_len)
	{
		size_t n = 0;
		CURLcode rc = curl_easy_send(t->easy, t->body + t->body_sent, t->body_len - t->body_sent,
									 &n);

		if (rc == CURLE_AGAIN)
			return WAITING;
		if (rc != CURLE_OK)
			return BROKEN;
		t->body_sent += n;
	}
	return OVER;
}

static Turn
hear(Transfer *t, uint64_t now_us)
{
	char buffer[4096];

	for (;;)
	{
		size_t n = 0;
		CURLcode rc = curl_easy_recv(t->easy, buffer, sizeof(buffer), &n);

		if (rc == CURLE_AGAIN)
			return WAITING;
		if (rc != CURLE_OK)
			return BROKEN;
		if (n == 0)
			return OVER;
		if (t->body_bytes == 0)
			t->first_byte_us = now_us - t->talk_us;
		t->body_bytes += n;
		if (!probe_body(t, buffer, n) || dialogue_heard(t, n))
			return OVER;
	}
}

bool
dialogue_goes_on(Transfer *t, uint64_t now_us, SenderOutcome *out)
{
	Turn turn = say(t);

	/* Who refuses may say so before all is sent. */
	if (turn != BROKEN && t->until)
		turn = hear(t, now_us);
	out->latency_us = now_us - t->started_us;
	if (turn == WAITING && out->latency_us < t->total_ms * UINT64_C(1000))
		return true;
	memset(out, 0, sizeof(*out));
	out->retry_after = -1;
	out->latency_us = now_us - t->started_us;
	out->bytes = t->body_bytes;
	out->begun = true;
	out->kind = turn == OVER ? SENDER_RESPONSE : SENDER_NETWORK;
	if (turn == WAITING)
		snprintf(out->error, sizeof(out->error), "no answer that ends within %.6g s",
				 t->total_ms / 1e3);
	else if (turn == BROKEN)
		snprintf(out->error, sizeof(out->error), "the connection broke");
	return false;
}

curl_socket_t
dialogue_socket(const Transfer *t)
{
	curl_socket_t sock = CURL_SOCKET_BAD;

	curl_easy_getinfo(t->easy, CURLINFO_ACTIVESOCKET, &sock);
	return sock;
}
