/*-------------------------------------------------------------------------
 *
 * link.c
 *	  The sender program: starting it, ending it, talking to it.
 *
 * It is a child process on the other end of a socket pair (see
 * sender/protocol.h).  libcurl is not in the server: the worst a peer can do is to
 * end the child, which is started again.
 *
 * What is asked and answered is its user's matter (MonLinkUser).  Local to the
 * process; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "outbound/outbound.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"

#include "core/core.h"

#define HELLO_PATIENCE_MS 10000
#define MAX_BACKOFF_MS 30000

typedef struct Sender
{
	pid_t pid; /* 0: not running */
	pgsocket sock;
	bool ready; /* said hello */
	int64 started;
	int64 next_start;
	int failures; /* ends without a single outcome, in a row */
	bool told;    /* it was logged that it cannot be started */
	StringInfoData in;
	StringInfoData out;
	int out_done; /* bytes of `out` already written */
} Sender;

static Sender sender = {.sock = PGINVALID_SOCKET};
static bool just_ready = false;
static const MonLinkUser *user;

int64
mon_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64
mon_backoff_ms(int failures)
{
	return Min(MAX_BACKOFF_MS, INT64CONST(100) << Min(failures, 10));
}

static void
close_all_but_stdio(void)
{
	long limit;

#if defined(__linux__) && defined(SYS_close_range)
	if (syscall(SYS_close_range, 3, ~0U, 0) == 0)
		return;
#endif
	limit = sysconf(_SC_OPEN_MAX);
	for (long fd = 3; fd < (limit > 0 ? Min(limit, 65536) : 1024); fd++)
		close(fd);
}

/* In the child: only async-signal-safe calls until exec. */
static void
exec_sender(int sock, const char *path, pid_t parent)
{
	char *argv[] = {"monitoring_sender", NULL};
	char *envp[] = {NULL}; /* no proxies, no preloads, no paths */
	sigset_t none;
	int devnull;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);

	/* Signals to the worker's process group, such as a formatter's timeout, are not for the sender. */
	(void) setpgid(0, 0);
#ifdef __linux__
	prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
	if (getppid() != parent)
		_exit(126);

	devnull = open("/dev/null", O_WRONLY);
	if (dup2(sock, STDIN_FILENO) < 0 || dup2(sock, STDOUT_FILENO) < 0 || devnull < 0 ||
		dup2(devnull, STDERR_FILENO) < 0 || chdir("/") < 0)
		_exit(126);
	close_all_but_stdio();
	execve(path, argv, envp);
	_exit(127);
}

static void
sender_stop(void)
{
	if (sender.sock != PGINVALID_SOCKET)
	{
		closesocket(sender.sock);
		sender.sock = PGINVALID_SOCKET;
		ReleaseExternalFD();
	}
	if (sender.pid > 0)
	{
		kill(sender.pid, SIGKILL);
		while (waitpid(sender.pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	sender.pid = 0;
	sender.ready = false;
	resetStringInfo(&sender.in);
	resetStringInfo(&sender.out);
	sender.out_done = 0;
}

static void
sender_stop_at_exit(int code, Datum arg)
{
	sender_stop();
}

static void
sender_back_off(void)
{
	sender.next_start = mon_now_ms() + mon_backoff_ms(sender.failures++);
}

/* A socket pair, neither end of which other children of ours inherit. */
static bool
make_pair(int *pair)
{
	if (!AcquireExternalFD())
		return false;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
	{
		ReleaseExternalFD();
		return false;
	}
	for (int i = 0; i < 2; i++)
		(void) fcntl(pair[i], F_SETFD, FD_CLOEXEC);
	return true;
}

/* What cannot be started may be missing for hours: one line, not one for each attempt. */
static bool
is_news(void)
{
	bool news = sender.ready || !sender.told;

	sender.told = !sender.ready;
	return news;
}

static void
sender_start(void)
{
	char path[MAXPGPATH];
	int pair[2];
	sigset_t all, old;
	pid_t parent = getpid();

	snprintf(path, sizeof(path), "%s/monitoring_sender", pkglib_path);
	if (!make_pair(pair))
	{
		if (is_news())
			ereport(LOG,
					(errcode_for_socket_access(),
					 errmsg("could not make a socket pair for the monitoring sender: %m")));
		sender_back_off();
		return;
	}

	/* No handler of ours may run in the child. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	sender.pid = fork();
	if (sender.pid == 0)
		exec_sender(pair[1], path, parent);
	sigprocmask(SIG_SETMASK, &old, NULL);
	closesocket(pair[1]);
	sender.sock = pair[0];
	if (sender.pid < 0 || !pg_set_noblock(sender.sock))
	{
		if (is_news())
			ereport(LOG,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("could not start the monitoring sender: %m")));
		sender_stop();
		sender_back_off();
		return;
	}
	sender.started = mon_now_ms();
}

/* The sender ended or is stuck: nobody will answer what is in flight. */
static void
sender_lost(const char *why)
{
	if (is_news())
		ereport(LOG,
				(errmsg("the monitoring sender %s", why),
				 sender.ready ? 0
							  : errhint("Is \"%s/monitoring_sender\" installed and executable?",
										pkglib_path)));
	sender_stop();
	user->lost();
	sender_back_off();
}

static bool
take_hello(SenderReader *r)
{
	if (sender.ready || sender_get_u32(r) != SENDER_PROTOCOL_VERSION || r->bad || r->p != r->end)
		return false;
	sender.ready = true;
	just_ready = true;
	return true;
}

static bool
take_frame(const char *data, uint32 len)
{
	SenderReader r = {.p = data, .end = data + len};
	uint8 type = sender_get_u8(&r);

	if (type == SENDER_HELLO)
		return take_hello(&r);
	if (!user->answer(type, &r))
		return false;
	sender.failures = 0;
	return true;
}

/* Take whole frames off the input; false if it is not our protocol. */
static bool
take_frames(void)
{
	int at = 0;

	while (sender.in.len - at >= (int) sizeof(uint32))
	{
		uint32 len;

		memcpy(&len, sender.in.data + at, sizeof(len));
		if (len == 0 || len > SENDER_MAX_ANSWER)
			return false;
		if (sender.in.len - at - sizeof(len) < len)
			break;
		if (!take_frame(sender.in.data + at + sizeof(len), len))
			return false;
		at += sizeof(len) + len;
	}
	memmove(sender.in.data, sender.in.data + at, sender.in.len - at);
	sender.in.len -= at;
	return true;
}

static void
sender_read(void)
{
	for (;;)
	{
		ssize_t n;

		CHECK_FOR_INTERRUPTS();
		enlargeStringInfo(&sender.in, 65536);
		n = recv(sender.sock, sender.in.data + sender.in.len, 65536, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n <= 0)
		{
			sender_lost("ended");
			return;
		}
		sender.in.len += n;
		if (!take_frames())
		{
			sender_lost("sent a malformed frame");
			return;
		}
	}
}

void
mon_link_write(void)
{
	while (sender.sock != PGINVALID_SOCKET && sender.out_done < sender.out.len)
	{
		ssize_t n = send(sender.sock, sender.out.data + sender.out_done,
						 sender.out.len - sender.out_done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n < 0)
		{
			sender_lost("ended");
			return;
		}
		sender.out_done += n;
	}
	resetStringInfo(&sender.out);
	sender.out_done = 0;
}

static void
tend(void)
{
	int64 now = mon_now_ms();

	if (sender.pid == 0)
	{
		if (now >= sender.next_start)
			sender_start();
		return;
	}
	sender_read();
	if (sender.pid == 0)
		return;
	if (!sender.ready && now - sender.started > HELLO_PATIENCE_MS)
	{
		sender_lost("did not get ready");
		return;
	}
	if (user->stuck())
	{
		sender_lost("did not answer in time");
		return;
	}
	mon_link_write();
}

bool
mon_link_tend(void)
{
	bool ready;

	tend();
	ready = just_ready;
	just_ready = false;
	return ready;
}

bool
mon_link_ready(void)
{
	return sender.ready;
}

bool
mon_link_running(void)
{
	return sender.pid != 0;
}

/* ---- frames ---- */

void
mon_frame_u32(StringInfo frame, uint32 v)
{
	appendBinaryStringInfo(frame, (char *) &v, sizeof(v));
}

void
mon_frame_str(StringInfo frame, const char *s, int len)
{
	mon_frame_u32(frame, len);
	appendBinaryStringInfo(frame, s, len);
}

void
mon_frame_text(StringInfo frame, const char *s)
{
	mon_frame_str(frame, s, strlen(s));
}

static void
frame_pairs(StringInfo frame, const List *pairs)
{
	ListCell *cell;

	mon_frame_u32(frame, list_length(pairs));
	foreach (cell, pairs)
	{
		MonPair *pair = lfirst(cell);

		mon_frame_text(frame, pair->name);
		mon_frame_text(frame, pair->value);
	}
}

void
mon_frame_begin(StringInfo frame, char type, uint64 tag, uint32 connect_ms, uint32 total_ms)
{
	char allow_private = mon_allow_private_networks;

	appendBinaryStringInfo(frame, &type, 1);
	appendBinaryStringInfo(frame, (char *) &tag, sizeof(tag));
	mon_frame_u32(frame, connect_ms);
	mon_frame_u32(frame, total_ms);
	appendBinaryStringInfo(frame, &allow_private, 1);
	mon_frame_text(frame, mon_allowed_hosts ? mon_allowed_hosts : "");
}

void
mon_frame_request(StringInfo frame, const MonRequest *request)
{
	mon_frame_text(frame, request->method);
	mon_frame_text(frame, request->url);
	mon_frame_text(frame, request->body);
	frame_pairs(frame, request->headers);
	frame_pairs(frame, request->options);
}

StringInfo
mon_link_frames(void)
{
	return &sender.out;
}

void
mon_link_wait(long timeout)
{
	int events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;

	/* A moment that has passed meanwhile: a negative timeout would be none. */
	timeout = Max(timeout, 0);
	if (sender.sock != PGINVALID_SOCKET)
	{
		events |= WL_SOCKET_READABLE;
		if (sender.out_done < sender.out.len)
			events |= WL_SOCKET_WRITEABLE;
	}
	else
		timeout = Min(timeout, Max(sender.next_start - mon_now_ms(), 1));
	(void) WaitLatchOrSocket(MyLatch, events, sender.sock, timeout, PG_WAIT_EXTENSION);
}

void
mon_link_init(const MonLinkUser *link_user)
{
	user = link_user;
	initStringInfo(&sender.in);
	initStringInfo(&sender.out);
	before_shmem_exit(sender_stop_at_exit, (Datum) 0);
}
