/*-------------------------------------------------------------------------
 *
 * fast_receiver.c
 *	  An HTTP/1.1 receiver with keep-alive that is not the limit of what is sent to it.
 *
 * usage: fast_receiver LOG [PORT]
 *
 * Prints "port N" once it listens on 127.0.0.1.  Each request is a line of LOG
 * before it is answered: microseconds since 1970, path, Idempotency-Key.  The
 * path chooses the answer:
 *
 *   /wait/MS...     200 after so many milliseconds
 *   /fail/N...      503 for every Nth request, otherwise 200
 *   anything else   200
 *
 * One thread, one epoll set; the log is written once for all that was read, and
 * before any of it is answered.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 4096
#define MAX_INPUT (2 * 1024 * 1024)

typedef struct Connection
{
	bool open;
	char *input;
	size_t len;
	size_t cap;
	int answers;    /* to be sent at once */
	int64_t due_us; /* when the delayed answer is to be sent; 0: none */
	int status;
} Connection;

static Connection connections[MAX_FD];
static int highest;
static int poller;
static FILE *requests;
static long received;

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int
listen_on(int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
		listen(fd, 1024) < 0)
		die("listen");
	getsockname(fd, (struct sockaddr *) &address, &len);
	printf("port %d\n", ntohs(address.sin_port));
	fflush(stdout);
	return fd;
}

static void
watch(int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl");
}

static void
accept_all(int listener)
{
	int fd, on = 1;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
	{
		if (fd >= MAX_FD)
		{
			close(fd);
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		free(connections[fd].input);
		memset(&connections[fd], 0, sizeof(Connection));
		connections[fd].open = true;
		if (fd > highest)
			highest = fd;
		watch(fd);
	}
}

static void
end_connection(int fd)
{
	connections[fd].open = false;
	close(fd);
}

/* The value of a header in the head, which ends with an empty line; NULL if there is none. */
static const char *
header(const char *head, const char *name)
{
	size_t len = strlen(name);

	for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r';
		 line = strstr(line + 2, "\r\n"))
		if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':')
			return line + 3 + len + strspn(line + 3 + len, " ");
	return NULL;
}

static void
take_request(Connection *c, const char *head)
{
	const char *key = header(head, "Idempotency-Key");
	const char *path = strchr(head, ' ') + 1;
	long argument;

	received++;
	fprintf(requests, "%lld %.*s %.*s\n", (long long) now_us(), (int) strcspn(path, " "), path,
			key ? (int) strcspn(key, "\r") : 1, key ? key : "-");
	c->status = 200;
	if (sscanf(path, "/wait/%ld", &argument) == 1)
		c->due_us = now_us() + argument * 1000;
	else
		c->answers++;
	if (sscanf(path, "/fail/%ld", &argument) == 1 && received % argument == 0)
		c->status = 503;
}

/* Whole requests off the input; false if what is there can be none.  One that is delayed is the last for now. */
static bool
take_requests(Connection *c)
{
	while (c->len > 0 && c->due_us == 0 && c->answers == 0)
	{
		char *end = memmem(c->input, c->len, "\r\n\r\n", 4);
		const char *length;
		size_t total;

		if (!end)
			return c->len < MAX_INPUT;
		end[3] = '\0';
		length = header(c->input, "Content-Length");
		total = end + 4 - c->input + (length ? strtoul(length, NULL, 10) : 0);
		end[3] = '\n';
		if (total > MAX_INPUT)
			return false;
		if (c->len < total)
			return true;
		end[3] = '\0';
		take_request(c, c->input);
		memmove(c->input, c->input + total, c->len - total);
		c->len -= total;
	}
	return true;
}

static void
read_from(int fd)
{
	Connection *c = &connections[fd];

	for (;;)
	{
		ssize_t n;

		if (c->cap - c->len < 65536)
		{
			c->cap += 65536;
			c->input = realloc(c->input, c->cap);
			if (!c->input)
				die("realloc");
		}
		n = recv(fd, c->input + c->len, c->cap - c->len - 1, 0);
		if (n < 0)
			break;
		c->len += n;
		if (n == 0 || !take_requests(c))
		{
			end_connection(fd);
			return;
		}
	}
}

static void
answer(int fd)
{
	static const char *const good = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	static const char *const bad = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
	Connection *c = &connections[fd];
	const char *text = c->status == 200 ? good : bad;

	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		end_connection(fd);
}

/* Answer what may be answered; milliseconds until the next one is due, -1: none. */
static int
answer_all(void)
{
	int64_t next = -1;

	for (int fd = 0; fd <= highest; fd++)
	{
		Connection *c = &connections[fd];

		while (c->open && (c->answers > 0 || (c->due_us > 0 && c->due_us <= now_us())))
		{
			c->answers = 0;
			c->due_us = 0;
			answer(fd);
			if (c->open)
				take_requests(c);
			fflush(requests);
		}
		if (c->open && c->due_us > 0 && (next < 0 || c->due_us < next))
			next = c->due_us;
	}
	if (next < 0)
		return -1;
	next = (next - now_us()) / 1000 + 1;
	return next > 0 ? (int) next : 0;
}

int
main(int argc, char **argv)
{
	int listener;

	if (argc < 2 || !(requests = fopen(argv[1], "a")))
		die("usage: fast_receiver LOG [PORT]");
	poller = epoll_create1(EPOLL_CLOEXEC);
	listener = listen_on(argc > 2 ? atoi(argv[2]) : 0);
	watch(listener);
	for (;;)
	{
		struct epoll_event events[256];
		int timeout, n;

		timeout = answer_all();
		n = epoll_wait(poller, events, 256, timeout);
		for (int i = 0; i < n; i++)
			if (events[i].data.fd == listener)
				accept_all(listener);
			else if (connections[events[i].data.fd].open)
				read_from(events[i].data.fd);
		fflush(requests);
	}
}
