/*-------------------------------------------------------------------------
 *
 * main.c
 *	  monitoring_sender: the program that talks to strangers.
 *
 * A worker starts it, writes requests and probes to its standard input and
 * reads what became of them from its standard output (see protocol.h).  It knows nothing
 * of the database: whatever a peer does to it, the server goes on.
 *
 * One thread, one libcurl multi handle.  Transfers beyond the bounds wait in
 * our own queue rather than in libcurl's, where waiting would count against
 * their timeouts.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "transfer.h"

#define MAX_QUEUED 1024 /* then reading pauses */
#define WAIT_MS 1000
#define IDLE_WAIT_MS 600000 /* with nothing under way only the worker can have news */

typedef struct Buffer
{
	char *data;
	size_t len;
	size_t cap;
} Buffer;

static CURLM *multi;
static Transfer *queue_head;
static Transfer *queue_tail;
static int nqueued;
static Transfer *active_head;
static int nactive;
static int ntalking; /* of these, over connections that are ours */
static Buffer input;
static Buffer output;

/* Out of memory or a broken protocol: the worker sees the end and sends again. */
static void
die(int code)
{
	_exit(code);
}

static uint64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void
buffer_reserve(Buffer *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 65536;

	while (cap - b->len < more)
		cap *= 2;
	if (cap != b->cap)
	{
		b->data = realloc(b->data, cap);
		if (!b->data)
			die(3);
		b->cap = cap;
	}
}

static void
buffer_add(Buffer *b, const void *data, size_t len)
{
	buffer_reserve(b, len);
	memcpy(b->data + b->len, data, len);
	b->len += len;
}

static void
buffer_consume(Buffer *b, size_t len)
{
	memmove(b->data, b->data + len, b->len - len);
	b->len -= len;
}

static void
put_hello(void)
{
	uint32_t len = 1 + sizeof(uint32_t);
	uint32_t version = SENDER_PROTOCOL_VERSION;
	uint8_t type = SENDER_HELLO;

	buffer_add(&output, &len, sizeof(len));
	buffer_add(&output, &type, 1);
	buffer_add(&output, &version, sizeof(version));
}

static void
put_outcome(uint64_t tag, const SenderOutcome *o)
{
	uint32_t error_len = strlen(o->error);
	uint32_t len = 1 + 8 + 1 + 4 + 8 + 8 + 8 + 1 + 1 + 4 + error_len;
	uint8_t type = SENDER_OUTCOME;
	uint8_t begun = o->begun;

	buffer_add(&output, &len, sizeof(len));
	buffer_add(&output, &type, 1);
	buffer_add(&output, &tag, sizeof(tag));
	buffer_add(&output, &o->kind, 1);
	buffer_add(&output, &o->status, sizeof(o->status));
	buffer_add(&output, &o->latency_us, sizeof(o->latency_us));
	buffer_add(&output, &o->retry_after, sizeof(o->retry_after));
	buffer_add(&output, &o->bytes, sizeof(o->bytes));
	buffer_add(&output, &o->protocol, 1);
	buffer_add(&output, &begun, 1);
	buffer_add(&output, &error_len, sizeof(error_len));
	buffer_add(&output, o->error, error_len);
}

static void
put_string(const char *data, size_t len)
{
	uint32_t n = len;

	buffer_add(&output, &n, sizeof(n));
	if (len > 0)
		buffer_add(&output, data, len);
}

static void
put_answer(const Transfer *t, const SenderOutcome *o)
{
	const uint64_t figures[] = {o->latency_us, t->dns_us,        t->connect_us,
								t->tls_us,     t->first_byte_us, o->bytes};
	size_t at = output.len;
	uint32_t len = 0;
	uint8_t type = SENDER_ANSWER;

	buffer_add(&output, &len, sizeof(len));
	buffer_add(&output, &type, 1);
	buffer_add(&output, &t->tag, sizeof(t->tag));
	buffer_add(&output, &o->kind, 1);
	buffer_add(&output, &o->status, sizeof(o->status));
	buffer_add(&output, &o->protocol, 1);
	buffer_add(&output, &t->redirects, 1);
	buffer_add(&output, figures, sizeof(figures));
	put_string(o->error, strlen(o->error));
	put_string(t->certificate_error, strlen(t->certificate_error));
	put_string(t->addresses, t->addresses_len);
	put_string(t->certificates, t->certificates_len);
	put_string(t->seen_headers, t->seen_headers_len);
	put_string(t->seen_body, t->seen_body_len);
	len = output.len - at - sizeof(len);
	memcpy(output.data + at, &len, sizeof(len));
}

/* Only printable ASCII leaves the sender, whatever a peer, a resolver or a url put into a message. */
static void
answer(Transfer *t, SenderOutcome *o)
{
	for (char *c = o->error; *c; c++)
		if (*c < 0x20 || *c > 0x7e)
			*c = '?';
	if (t->probe)
		put_answer(t, o);
	else
		put_outcome(t->tag, o);
	transfer_free(t);
}

static void
accept_request(SenderReader *r, bool probe)
{
	Transfer *t = transfer_parse(r, probe);
	SenderOutcome out;

	if (!t)
		die(4);
	if (!transfer_check(t, &out))
	{
		answer(t, &out);
		return;
	}
	t->queued_us = now_us();
	if (queue_tail)
		queue_tail->next = t;
	else
		queue_head = t;
	queue_tail = t;
	nqueued++;
}

/* Take whole frames off the input buffer. */
static void
parse_input(void)
{
	size_t at = 0;

	while (input.len - at >= sizeof(uint32_t))
	{
		uint32_t len;
		uint8_t type;
		SenderReader r;

		memcpy(&len, input.data + at, sizeof(len));
		if (len == 0 || len > SENDER_MAX_FRAME)
			die(4);
		if (input.len - at - sizeof(len) < len)
			break;
		r.p = input.data + at + sizeof(len);
		r.end = r.p + len;
		r.bad = false;
		type = sender_get_u8(&r);
		if (type != SENDER_REQUEST && type != SENDER_PROBE)
			die(4);
		accept_request(&r, type == SENDER_PROBE);
		at += sizeof(len) + len;
	}
	if (at > 0)
		buffer_consume(&input, at);
}

static void
read_input(void)
{
	for (int i = 0; i < 16 && nqueued < MAX_QUEUED; i++)
	{
		ssize_t n;

		buffer_reserve(&input, 65536);
		n = read(STDIN_FILENO, input.data + input.len, input.cap - input.len);
		if (n == 0)
			die(0); /* the worker is gone */
		if (n < 0)
		{
			if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
				return;
			die(5);
		}
		input.len += n;
		parse_input();
	}
}

static void
write_output(void)
{
	while (output.len > 0)
	{
		ssize_t n = write(STDOUT_FILENO, output.data, output.len);

		if (n < 0)
		{
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				return;
			die(5);
		}
		buffer_consume(&output, n);
	}
}

static int
active_to_host(const Transfer *other)
{
	int n = 0;

	for (Transfer *t = active_head; t; t = t->next)
		n += t->port == other->port && strcmp(t->host, other->host) == 0;
	return n;
}

static void
start_transfer(Transfer *t)
{
	SenderOutcome out;

	t->started_us = now_us();
	if (!transfer_prepare(t, &out))
	{
		answer(t, &out);
		return;
	}
	if (curl_multi_add_handle(multi, t->easy) != CURLM_OK)
		die(3);
	t->next = active_head;
	active_head = t;
	nactive++;
}

static void
expire_queued(Transfer *t)
{
	SenderOutcome out;

	memset(&out, 0, sizeof(out));
	out.kind = SENDER_NETWORK;
	out.retry_after = -1;
	snprintf(out.error, sizeof(out.error), "no free connection to the host within %d s",
			 SENDER_MAX_QUEUE_MS / 1000);
	answer(t, &out);
}

/* Start what the bounds allow, in order of arrival for each host. */
static void
start_queued(void)
{
	Transfer **link = &queue_head;
	Transfer *prev = NULL;
	uint64_t now = now_us();

	while (*link)
	{
		Transfer *t = *link;
		bool expired = now - t->queued_us > SENDER_MAX_QUEUE_MS * UINT64_C(1000);
		bool start = !expired && nactive < SENDER_MAX_ACTIVE &&
			active_to_host(t) < SENDER_MAX_PER_HOST;

		if (!start && !expired)
		{
			prev = t;
			link = &t->next;
			continue;
		}
		*link = t->next;
		if (queue_tail == t)
			queue_tail = prev;
		t->next = NULL;
		nqueued--;
		if (start)
			start_transfer(t);
		else
			expire_queued(t);
	}
}

static void
end_transfer(Transfer *t, SenderOutcome *out)
{
	Transfer **link = &active_head;

	while (*link != t)
		link = &(*link)->next;
	*link = t->next;
	nactive--;
	ntalking -= t->talking;
	answer(t, out);
}

static void
finish_done(void)
{
	CURLMsg *msg;
	int left;

	while ((msg = curl_multi_info_read(multi, &left)))
	{
		Transfer *t;
		SenderOutcome out;
		CURLcode code = msg->data.result;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &t);
		if (dialogue_wanted(t, code))
		{
			/* The handle stays, as it has the connection. */
			probe_connected(t, now_us());
			ntalking++;
			continue;
		}
		transfer_finish(t, code, now_us(), &out);
		curl_multi_remove_handle(multi, t->easy);
		if (t->probe && probe_goes_on(t, code, now_us(), &out))
		{
			if (curl_multi_add_handle(multi, t->easy) != CURLM_OK)
				die(3);
			continue;
		}
		end_transfer(t, &out);
	}
}

static void
talk(void)
{
	Transfer *next;

	for (Transfer *t = ntalking > 0 ? active_head : NULL; t; t = next)
	{
		SenderOutcome out;

		next = t->next;
		if (!t->talking || dialogue_goes_on(t, now_us(), &out))
			continue;
		curl_multi_remove_handle(multi, t->easy);
		end_transfer(t, &out);
	}
}

/* Until when may we wait, for those that talk? */
static int
patience_ms(void)
{
	uint64_t now = now_us();
	uint64_t least = WAIT_MS * UINT64_C(1000);

	if (nactive + nqueued == 0)
		return IDLE_WAIT_MS;
	for (Transfer *t = ntalking > 0 ? active_head : NULL; t; t = t->next)
	{
		uint64_t end = t->started_us + t->total_ms * UINT64_C(1000);

		if (t->talking && (end <= now || end - now < least))
			least = end <= now ? 0 : end - now;
	}
	return (int) ((least + 999) / 1000);
}

static void
wait_for_work(void)
{
	static struct curl_waitfd fds[2 + SENDER_MAX_ACTIVE];
	unsigned int n = 0;

	if (nqueued < MAX_QUEUED)
	{
		fds[n].fd = STDIN_FILENO;
		fds[n].events = CURL_WAIT_POLLIN;
		fds[n++].revents = 0;
	}
	if (output.len > 0)
	{
		fds[n].fd = STDOUT_FILENO;
		fds[n].events = CURL_WAIT_POLLOUT;
		fds[n++].revents = 0;
	}
	for (Transfer *t = ntalking > 0 ? active_head : NULL; t; t = t->next)
	{
		curl_socket_t sock = t->talking ? dialogue_socket(t) : CURL_SOCKET_BAD;

		if (sock == CURL_SOCKET_BAD)
			continue;
		fds[n].fd = sock;
		fds[n].events = CURL_WAIT_POLLIN | (t->body_sent < t->body_len ? CURL_WAIT_POLLOUT : 0);
		fds[n++].revents = 0;
	}
	if (curl_multi_poll(multi, fds, n, patience_ms(), NULL) != CURLM_OK)
		die(6);
}

/* Requests hold secrets and peers send hostile bytes: leave no core file, gain no rights. */
static void
harden(void)
{
	struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
#ifdef __linux__
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#endif
	signal(SIGPIPE, SIG_IGN);
}

static void
set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		die(5);
}

int
main(void)
{
	int running;

	harden();
	set_nonblocking(STDIN_FILENO);
	set_nonblocking(STDOUT_FILENO);
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(multi = curl_multi_init()))
		die(3);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) SENDER_MAX_ACTIVE);
	put_hello();

	for (;;)
	{
		read_input();
		start_queued();
		if (curl_multi_perform(multi, &running) != CURLM_OK)
			die(6);
		finish_done();
		talk();
		start_queued();
		write_output();
		wait_for_work();
	}
}
