/*-------------------------------------------------------------------------
 *
 * notifier.c
 *	  The notifier: a background worker that delivers a database's outbox.
 *
 * It claims due rows with a lease and commits, hands the requests to the
 * sender program, and records the outcomes in batches.  No transaction is
 * open while anything is sent.  A transaction that fails loses no outcome: it
 * is tried again.  What needs no sender (local.c) is done in the transaction
 * that records it, a call of a function in one of its own, and the sender and the
 * outbox are looked after between any two of these.  What is claimed when the worker or the sender dies is sent
 * again, with the same idempotency key; a worker that is told to go waits a
 * moment for answers, so that this stays rare.
 *
 * The sender is a child process on the other end of a socket pair (see
 * sender/protocol.h).  libcurl is not in the server: the worst a peer can do
 * is to end the child, which is started again.
 *
 * Everything here is local to the process; there is nothing to lock.
 *
 *-------------------------------------------------------------------------
 */
#include "notify/request.h"

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

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "notify/sender/protocol.h"
#include "worker/worker.h"

#define IDLE_EXIT_MS 10000
#define POLL_MS 1000 /* how often to look for due rows while there is no other reason to */
#define HELLO_PATIENCE_MS 10000
#define ANSWER_PATIENCE_MS 15000 /* on top of all the request may take */
#define DB_STEP_TIMEOUT_MS 60000
#define FORMAT_BUDGET_MS 2000 /* what one transaction may spend on formatting */
#define LOCAL_BUDGET_MS 50    /* after that long, see to the others first */
#define LAST_ANSWERS_MS 1000  /* how long to wait for answers when told to go */
#define BUSY_MS 100           /* somebody alters the extension: look again after that */
#define SIGTERM_ECHO_MS 200   /* further SIGTERMs within this time are the same one */
#define MAX_BACKOFF_MS 30000
#define MAX_STEP_FAILURES 20 /* then a new process tries */
#define MAX_IN_FLIGHT SENDER_MAX_ACTIVE
#define MAX_PER_RECEIVER 64 /* of one that answers; see receiver_allowances() */

typedef struct Sender
{
	pid_t pid; /* 0: not running */
	pgsocket sock;
	bool ready; /* said hello */
	int64 started;
	int64 next_start;
	int failures; /* ends without a single outcome, in a row */
	StringInfoData in;
	StringInfoData out;
	int out_done; /* bytes of `out` already written */
} Sender;

typedef struct InFlight
{
	bool used;
	uint32 serial; /* tells a late outcome from that of the entry's new use */
	TimestampTz created_at;
	int64 id;
	int32 attempt;
	uint32 total_ms;
	int64 deadline;  /* the sender is stuck if it has not answered by then */
	MonLocal *local; /* to be done here; NULL: the sender does it */
	char *receiver;  /* if so, whose it is */
} InFlight;

typedef enum StepResult
{
	STEP_DONE,
	STEP_BUSY,   /* somebody alters the extension; try again soon */
	STEP_FAILED, /* with an error; try again later */
	STEP_GONE    /* the extension is gone */
} StepResult;

static Sender sender = {.sock = PGINVALID_SOCKET};
static InFlight in_flight[MAX_IN_FLIGHT];
static int n_in_flight = 0;
static int n_local = 0; /* of them */
static uint32 last_serial = 0;
static StringInfoData
	outcomes; /* JSON array under construction; kept until its transaction has committed */
static int64 next_step = 0;    /* no transaction before this, as the last one failed */
static bool claim_now = false; /* do not wait for the next look at the outbox */
static MemoryContext step_context;
static volatile sig_atomic_t cancelable = false;

/* Monotonic milliseconds: intervals must not follow the wall clock's jumps. */
static int64
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- outcomes ---- */

static void
begin_outcome(StringInfo to, const InFlight *f, const char *outcome, const char *error)
{
	appendStringInfo(
		to, "%s{\"created_at\":\"%s\",\"id\":" INT64_FORMAT ",\"attempt\":%d,\"outcome\":\"%s\"",
		to->len == 0 ? "[" : ",", timestamptz_to_str(f->created_at), f->id, f->attempt, outcome);
	if (error[0])
	{
		appendStringInfoString(to, ",\"error\":");
		escape_json(to, error);
	}
}

/* What the sender has nothing to say to. */
static void
add_outcome(StringInfo to, const InFlight *f, const char *outcome, const char *error)
{
	begin_outcome(to, f, outcome, error);
	appendStringInfoChar(to, '}');
}

/* The entry is done with. */
static void
clear_entry(InFlight *f)
{
	if (f->local)
	{
		mon_local_free(f->local);
		pfree(f->receiver);
		n_local--;
	}
	f->local = NULL;
	f->used = false;
	n_in_flight--;
}

static const char *
protocol_name(uint8 protocol)
{
	switch (protocol)
	{
		case SENDER_HTTP_1_0:
			return "HTTP/1.0";
		case SENDER_HTTP_1_1:
			return "HTTP/1.1";
		case SENDER_HTTP_2:
			return "HTTP/2";
		case SENDER_HTTP_3:
			return "HTTP/3";
		default:
			return "SMTP";
	}
}

static const char *
outcome_name(uint8 kind)
{
	switch (kind)
	{
		case SENDER_RESPONSE:
			return "response";
		case SENDER_REFUSED:
			return "refused";
		default:
			return "network";
	}
}

static void
add_answer(StringInfo to, const InFlight *f, const SenderOutcome *o)
{
	begin_outcome(to, f, outcome_name(o->kind), o->error);
	if (o->status > 0)
		appendStringInfo(to, ",\"http_status\":%u,\"protocol\":\"%s\"", o->status,
						 protocol_name(o->protocol));
	if (o->latency_us > 0)
		appendStringInfo(to, ",\"latency\":%.6f", o->latency_us / 1e6);
	if (o->bytes > 0)
		appendStringInfo(to, ",\"bytes\":" UINT64_FORMAT, o->bytes);
	if (o->kind == SENDER_NETWORK && !o->begun)
		appendStringInfoString(to, ",\"connected\":false");
	if (o->retry_after >= 0)
		appendStringInfo(to, ",\"retry_after\":" INT64_FORMAT, o->retry_after);
	appendStringInfoChar(to, '}');
}

/* ---- the sender process ---- */

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

static int64
backoff_ms(int failures)
{
	return Min(MAX_BACKOFF_MS, INT64CONST(100) << Min(failures, 10));
}

static void
sender_back_off(void)
{
	sender.next_start = now_ms() + backoff_ms(sender.failures++);
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
		ereport(
			LOG,
			(errcode(ERRCODE_SYSTEM_ERROR), errmsg("could not start the monitoring sender: %m")));
		sender_stop();
		sender_back_off();
		return;
	}
	sender.started = now_ms();
}

/* The sender ended or is stuck: nobody will answer what is in flight. */
static void
sender_lost(const char *why)
{
	ereport(LOG,
			(errmsg("the monitoring sender %s", why),
			 sender.ready
				 ? 0
				 : errhint("Is \"%s/monitoring_sender\" installed and executable?", pkglib_path)));
	sender_stop();
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &in_flight[i];

		if (!f->used || f->local)
			continue;
		add_outcome(&outcomes, f, "lost", "the sender ended before it answered");
		clear_entry(f);
	}
	sender_back_off();
}

static bool
take_outcome(SenderReader *r)
{
	SenderOutcome o;
	uint32 slot;
	InFlight *f;

	if (!sender_get_outcome(r, &o))
		return false;
	slot = (uint32) o.tag;
	if (slot >= MAX_IN_FLIGHT)
		return false;
	f = &in_flight[slot];
	if (!f->used || f->local || f->serial != (uint32) (o.tag >> 32))
		return false;
	add_answer(&outcomes, f, &o);
	clear_entry(f);
	sender.failures = 0;
	return true;
}

static bool
take_hello(SenderReader *r)
{
	if (sender.ready || sender_get_u32(r) != SENDER_PROTOCOL_VERSION || r->bad || r->p != r->end)
		return false;
	sender.ready = true;
	claim_now = true;
	return true;
}

static bool
take_frame(const char *data, uint32 len)
{
	SenderReader r = {.p = data, .end = data + len};

	switch (sender_get_u8(&r))
	{
		case SENDER_HELLO:
			return take_hello(&r);
		case SENDER_OUTCOME:
			return take_outcome(&r);
		default:
			return false;
	}
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

static void
sender_write(void)
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

/* Start the sender if it may be; end it if it does not do its work; move bytes. */
static void
sender_tend(void)
{
	int64 now = now_ms();

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
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
		if (in_flight[i].used && !in_flight[i].local && now > in_flight[i].deadline)
		{
			sender_lost("did not answer in time");
			return;
		}
	sender_write();
}

/* ---- database ---- */

static void
execute(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types, Datum *args, int expected)
{
	if (*plan == NULL)
	{
		SPIPlanPtr p = SPI_prepare(sql, nargs, types);

		if (p == NULL || SPI_keepplan(p) != 0)
			elog(ERROR, "could not prepare \"%s\"", sql);
		*plan = p;
	}
	if (SPI_execute_plan(*plan, args, NULL, false, 0) != expected)
		elog(ERROR, "could not execute \"%s\"", sql);
}

static void
record_outcomes(TimestampTz at, StringInfo from)
{
	static SPIPlanPtr plan = NULL;
	Oid types[2] = {TIMESTAMPTZOID, JSONBOID};
	Datum args[2];

	if (from->len == 0)
		return;
	args[0] = TimestampTzGetDatum(at);
	args[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf("%s]", from->data)));
	execute(&plan, "SELECT monitoring.notify_record($1, $2)", 2, types, args, SPI_OK_SELECT);
}

static void
release_claims(TimestampTz at)
{
	static SPIPlanPtr plan = NULL;
	Oid types[1] = {TIMESTAMPTZOID};
	Datum args[1] = {TimestampTzGetDatum(at)};

	execute(&plan, "SELECT monitoring.notify_release($1)", 1, types, args, SPI_OK_SELECT);
}

static int
free_entry(void)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
		if (!in_flight[i].used)
			return i;
	elog(ERROR, "too many notifications in flight");
	return -1; /* keep compiler quiet */
}

static uint32
column_ms(HeapTuple row, TupleDesc desc, int column)
{
	bool isnull;
	double ms = DatumGetFloat8(SPI_getbinval(row, desc, column, &isnull)) * 1000;

	return (uint32) Min(Max(ms, 1), SENDER_MAX_TIMEOUT_MS);
}

/* Append the request of one claimed row to what the sender gets, or to `unsent` why there is none. */
static void
queue_request(HeapTuple row, TupleDesc desc, bool in_time, StringInfo unsent)
{
	int entry = free_entry();
	InFlight *f = &in_flight[entry];
	MonRequestSource source = {0};
	MonRequest request;
	StringInfoData frame;
	bool no_function, isnull;
	Datum function;
	char *error;

	f->created_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 1, &isnull));
	f->id = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
	f->attempt = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
	f->total_ms = column_ms(row, desc, 9);
	f->serial = ++last_serial;
	if (!in_time)
	{
		add_outcome(unsent, f, "postponed", "formatters of other notifications took too long");
		return;
	}

	function = SPI_getbinval(row, desc, 4, &no_function);
	source.function = no_function ? InvalidOid : DatumGetObjectId(function);
	source.owner = NameStr(*DatumGetName(SPI_getbinval(row, desc, 5, &isnull)));
	source.receiver = DatumGetJsonbP(SPI_getbinval(row, desc, 6, &isnull));
	source.notification = SPI_getbinval(row, desc, 7, &isnull);
	source.receiver_owner = NameStr(*DatumGetName(SPI_getbinval(row, desc, 10, &isnull)));
	source.connect_ms = column_ms(row, desc, 8);
	source.total_ms = f->total_ms;
	switch (mon_request_make(&source, &request, &error))
	{
		case MON_REQUEST_NOTHING:
			add_outcome(unsent, f, "nothing", "");
			return;
		case MON_REQUEST_LATER:
			add_outcome(unsent, f, "unformatted", error);
			return;
		case MON_REQUEST_FAILED:
			add_outcome(unsent, f, "unformattable", error);
			return;
		case MON_REQUEST_MADE:
			break;
	}

	f->local = mon_local_make(&request, source.receiver_owner, source.total_ms);
	if (f->local)
	{
		f->receiver = MemoryContextStrdup(TopMemoryContext, SPI_getvalue(row, desc, 11));
		f->used = true;
		n_in_flight++;
		n_local++;
		return;
	}

	initStringInfo(&frame);
	if (mon_request_frame(&source, &request, (uint64) f->serial << 32 | (uint32) entry, &frame))
	{
		mon_frame_u32(&sender.out, frame.len);
		appendBinaryStringInfo(&sender.out, frame.data, frame.len);
		f->used = true;
		n_in_flight++;
	}
	else
		add_outcome(unsent, f, "refused", "monitoring.allowed_hosts is too long");
	pfree(frame.data);
}

/* Claim due rows and queue their requests; they are written after the commit. */
static int
claim(TimestampTz at, int max_rows, StringInfo unsent)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {TIMESTAMPTZOID, INT4OID, INT4OID};
	Datum args[3] = {TimestampTzGetDatum(at), Int32GetDatum(max_rows),
					 Int32GetDatum(MAX_PER_RECEIVER)};
	SPITupleTable *table;
	uint64 n;
	int64 format_until;

	execute(&plan, "SELECT * FROM monitoring.notify_claim($1, $2, $3)", 3, types, args,
			SPI_OK_SELECT);
	table = SPI_tuptable;
	n = SPI_processed;

	/* Each formatter has a timeout of its own. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	format_until = now_ms() + FORMAT_BUDGET_MS;
	for (uint64 i = 0; i < n; i++)
	{
		/* A formatter may have swallowed the cancel. */
		if (ShutdownRequestPending)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED), errmsg("the notifier was told to end")));
		CHECK_FOR_INTERRUPTS();
		queue_request(table->vals[i], table->tupdesc, now_ms() < format_until, unsent);
	}
	enable_timeout_after(STATEMENT_TIMEOUT, DB_STEP_TIMEOUT_MS);
	return (int) n;
}

/*
 * Hold the extension for the length of the transaction.  DROP and ALTER
 * EXTENSION lock it first of all, so nothing of ours can vanish under us, and
 * as we never wait for them, they cannot deadlock with us.
 */
static StepResult
hold_extension(void)
{
	Oid extension = get_extension_oid("monitoring", true);
	LOCKTAG tag;

	if (!OidIsValid(extension))
		return STEP_GONE;
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, extension, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return STEP_BUSY;
	AcceptInvalidationMessages();
	return get_extension_oid("monitoring", true) == extension ? STEP_DONE : STEP_GONE;
}

typedef struct Step
{
	bool first;
	int max_rows;
	int claimed;
} Step;

/* Record outcomes, claim rows. */
static void
step_body(TimestampTz at, void *arg)
{
	Step *step = arg;
	StringInfoData unsent;

	initStringInfo(&unsent);
	if (step->first)
		release_claims(at);
	record_outcomes(at, &outcomes);
	if (step->max_rows > 0)
		step->claimed = claim(at, step->max_rows, &unsent);
	record_outcomes(at, &unsent);
}

static StepResult
run_transaction(void (*body)(TimestampTz at, void *arg), void *arg)
{
	TimestampTz at = GetCurrentTimestamp();
	StepResult result;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, DB_STEP_TIMEOUT_MS);
	result = hold_extension();
	if (result == STEP_DONE)
	{
		pgstat_report_activity(STATE_RUNNING, "delivering notifications");
		SPI_connect();
		PushActiveSnapshot(GetTransactionSnapshot());
		body(at, arg);
		SPI_finish();
		PopActiveSnapshot();
	}
	disable_timeout(STATEMENT_TIMEOUT, false);
	cancelable = false;
	CommitTransactionCommand();
	return result;
}

/*
 * One transaction.  As in autovacuum, a caught error leaves the process as it
 * was before.
 */
static StepResult
transaction(void (*body)(TimestampTz at, void *arg), void *arg)
{
	static int failures = 0;
	volatile StepResult result = STEP_FAILED;

	QueryCancelPending = false;
	cancelable = true;
	PG_TRY();
	{
		result = run_transaction(body, arg);
		failures = 0;
	}
	PG_CATCH();
	{
		cancelable = false;
		HOLD_INTERRUPTS();
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		if (!ShutdownRequestPending)
			EmitErrorReport();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(step_context);
		FlushErrorState();
		RESUME_INTERRUPTS();

		next_step = now_ms() + backoff_ms(failures);
		if (failures++ >= MAX_STEP_FAILURES)
			proc_exit(1);
	}
	PG_END_TRY();

	MemoryContextSwitchTo(step_context);
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	return result;
}

/* What was queued since the serial number: its time begins now, or it never was. */
static void
settle_claims(uint32 serial, bool committed)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &in_flight[i];

		if (!f->used || (int32) (f->serial - serial) <= 0)
			continue;
		if (committed)
			f->deadline = now_ms() + f->total_ms + SENDER_MAX_QUEUE_MS + ANSWER_PATIENCE_MS;
		else
			clear_entry(f);
	}
}

/* One that fails keeps the outcomes, and nothing of what it claimed goes out. */
static StepResult
database_step(bool first, int max_rows, int *claimed)
{
	Step step = {first, max_rows};
	uint32 serial = last_serial;
	int queued = sender.out.len;
	StepResult result = transaction(step_body, &step);

	if (result == STEP_DONE)
		resetStringInfo(&outcomes);
	settle_claims(serial, result != STEP_FAILED);
	if (result == STEP_FAILED)
		sender.out.len = queued;
	*claimed = result == STEP_FAILED ? 0 : step.claimed;
	return result;
}

/* ---- deliveries without the sender ---- */

typedef struct LocalStep
{
	InFlight *entry; /* a call; NULL: NOTIFY for all there are */
} LocalStep;

/* Deliver an entry that is still ours: its lease may have ended, its receiver may be gone. */
static void
deliver_entry(TimestampTz at, InFlight *f, StringInfo to)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {TIMESTAMPTZOID, INT8OID, INT4OID};
	Datum args[3] = {TimestampTzGetDatum(f->created_at), Int64GetDatum(f->id),
					 Int32GetDatum(f->attempt)};
	TimestampTz began;
	const char *outcome;
	char *error;
	bool isnull;

	execute(&plan, "SELECT monitoring.notify_hold($1, $2, $3)", 3, types, args, SPI_OK_SELECT);
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
		return;

	/* It has a timeout of its own. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	began = GetCurrentTimestamp();
	outcome = mon_local_deliver(f->local, &error);
	/* A function may have swallowed the cancel. */
	if (ShutdownRequestPending)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the notifier was told to end")));
	enable_timeout_after(STATEMENT_TIMEOUT, DB_STEP_TIMEOUT_MS);
	begin_outcome(to, f, outcome, error);
	appendStringInfo(to, ",\"protocol\":\"%s\",\"latency\":%.6f}", f->local->sql ? "SQL" : "NOTIFY",
					 Max(GetCurrentTimestamp() - began, 0) / 1e6);
}

static void
local_body(TimestampTz at, void *arg)
{
	LocalStep *step = arg;
	StringInfoData done;

	initStringInfo(&done);
	if (step->entry)
		deliver_entry(at, step->entry, &done);
	else
		for (int i = 0; i < MAX_IN_FLIGHT; i++)
			if (in_flight[i].local && !in_flight[i].local->sql)
				deliver_entry(at, &in_flight[i], &done);
	record_outcomes(GetCurrentTimestamp(), &done);
}

/* Try later what waits behind a call that hung. */
static void
postpone_others(const InFlight *hung)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &in_flight[i];

		if (f == hung || !f->local || strcmp(f->receiver, hung->receiver) != 0)
			continue;
		add_outcome(&outcomes, f, "postponed", "another call of the function took too long");
		clear_entry(f);
	}
}

/* A transaction that fails did nothing: its deliveries are tried later, without a fault of theirs. */
static void
deliver_and_record(LocalStep *step)
{
	StepResult result = transaction(local_body, step);

	if (result == STEP_BUSY)
		next_step = now_ms() + BUSY_MS;
	if (result == STEP_BUSY || ShutdownRequestPending)
		return;
	if (step->entry && step->entry->local->hung)
		postpone_others(step->entry);
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &in_flight[i];

		if (!f->local || (step->entry ? f != step->entry : f->local->sql))
			continue;
		if (result == STEP_FAILED)
			add_outcome(&outcomes, f, "postponed",
						"the transaction of the delivery failed; see the server's log");
		clear_entry(f);
	}
}

/* The oldest call, or NOTIFY if that is all there is to do; false if there is nothing. */
static bool
next_local(LocalStep *step)
{
	step->entry = NULL;
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
	{
		InFlight *f = &in_flight[i];

		if (f->local && !f->local->sql)
		{
			step->entry = NULL;
			return true;
		}
		if (f->local && (!step->entry || (int32) (f->serial - step->entry->serial) < 0))
			step->entry = f;
	}
	return step->entry != NULL;
}

/* For a while, or for one call that takes longer. */
static void
deliver_local(void)
{
	int64 until = now_ms() + LOCAL_BUDGET_MS;
	LocalStep step;

	while (now_ms() < until && now_ms() >= next_step && !ShutdownRequestPending &&
		   next_local(&step))
		deliver_and_record(&step);
}

/* Told to go: what is left is for the next notifier. */
static void
leave_local(void)
{
	for (int i = 0; i < MAX_IN_FLIGHT; i++)
		if (in_flight[i].local)
		{
			add_outcome(&outcomes, &in_flight[i], "postponed", "the notifier was told to end");
			clear_entry(&in_flight[i]);
		}
}

/* ---- the worker ---- */

/*
 * First SIGTERM: end the transaction and take the last answers.  A second one
 * ends the process, unless it is the first one's echo: postmaster and
 * pg_terminate_backend() signal the process and then its process group.
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	static int64 told_at;
	int save_errno = errno;

	if (!ShutdownRequestPending)
		told_at = now_ms();
	else if (now_ms() - told_at > SIGTERM_ECHO_MS)
		mon_die();
	ShutdownRequestPending = true;
	if (cancelable)
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

static void
wait_for_event(long timeout)
{
	int events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;

	if (sender.sock != PGINVALID_SOCKET)
	{
		events |= WL_SOCKET_READABLE;
		if (sender.out_done < sender.out.len)
			events |= WL_SOCKET_WRITEABLE;
	}
	else
		timeout = Min(timeout, Max(sender.next_start - now_ms(), 1));
	(void) WaitLatchOrSocket(MyLatch, events, sender.sock, timeout, PG_WAIT_EXTENSION);
}

/* Clear the latch and do what signals ask for. */
static void
handle_signals(void)
{
	ResetLatch(MyLatch);
	/* A cancel that found no transaction has nothing to cancel. */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	MemoryContextReset(step_context);
	MemoryContextSwitchTo(step_context);
}

/* Until told to go, until there was nothing to do for a while, or until the extension is gone. */
static void
deliver(void)
{
	int64 last_work = now_ms();
	int64 next_claim = 0;
	bool first = true;

	while (!ShutdownRequestPending)
	{
		StepResult result = STEP_DONE;
		int claimed = 0;
		bool woken = MyLatch->is_set;
		long timeout = POLL_MS;

		handle_signals();
		sender_tend();

		if (now_ms() >= next_step &&
			(outcomes.len > 0 || first || woken || claim_now || now_ms() >= next_claim))
		{
			bool worked = outcomes.len > 0;

			result = database_step(first, sender.ready ? MAX_IN_FLIGHT - n_in_flight : 0, &claimed);
			if (result == STEP_GONE)
				return;
			if (result == STEP_DONE)
			{
				first = false;
				claim_now = false;
				next_claim = now_ms() + POLL_MS;
				if (sender.ready)
					mon_notifier_healthy();
				if (worked || claimed > 0)
					last_work = now_ms();
				if (sender.sock != PGINVALID_SOCKET)
					sender_write();
			}
		}
		if (n_local > 0)
		{
			deliver_local();
			last_work = now_ms();
		}

		if (n_in_flight == 0 && outcomes.len == 0 && now_ms() - last_work > IDLE_EXIT_MS)
			return;
		if (result == STEP_BUSY)
			timeout = BUSY_MS;
		else if ((n_local > 0 || outcomes.len > 0) && now_ms() >= next_step)
			timeout = 0;
		else if (now_ms() < next_step)
			timeout = Min(timeout, next_step - now_ms());
		wait_for_event(timeout);
	}
}

/* Told to go: wait a moment for what is under way, and record what came. */
static void
take_last_answers(void)
{
	int64 until = now_ms() + LAST_ANSWERS_MS;
	int claimed;

	leave_local();
	while (n_in_flight > 0 && sender.pid != 0 && now_ms() < until)
	{
		handle_signals();
		sender_tend();
		if (n_in_flight > 0)
			wait_for_event(until - now_ms());
	}
	MemoryContextSwitchTo(step_context);
	if (outcomes.len > 0)
		(void) database_step(false, 0, &claimed);
}

void
mon_notifier_main(Datum arg)
{
	Oid dboid = DatumGetObjectId(arg);
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	if (!mon_notifier_claim(dboid) || mon_worker_kept_out(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	pqsignal(SIGTERM, handle_sigterm);
	mon_worker_pin_settings(true);

	context = AllocSetContextCreate(TopMemoryContext, "monitoring notifier",
									ALLOCSET_DEFAULT_SIZES);
	step_context = AllocSetContextCreate(context, "monitoring notifier step",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	initStringInfo(&sender.in);
	initStringInfo(&sender.out);
	initStringInfo(&outcomes);
	before_shmem_exit(sender_stop_at_exit, (Datum) 0);

	deliver();
	if (ShutdownRequestPending)
		take_last_answers();

	/* One that never got a sender is not to be followed by the next at once. */
	proc_exit(sender.ready || ShutdownRequestPending ? 0 : 1);
}
