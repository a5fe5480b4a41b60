/*-------------------------------------------------------------------------
 *
 * outbound.h
 *	  What workers that talk to strangers share: a worker of its own for each
 *	  database that needs one (companion.c), its transactions (step.c), and the
 *	  program that does the talking, at the other end of a socket (link.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_OUTBOUND_H
#define MONITORING_OUTBOUND_H

#include "compat.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "outbound/sender/protocol.h"

/* ---- workers (companion.c) ---- */

typedef struct MonCompanionSort
{
	const char *name;     /* of the process */
	const char *function; /* its entry, whose argument is the database's Oid */
} MonCompanionSort;

/* From X_init(). */
extern void mon_companion_register(const MonCompanionSort *sort);

/* Wake this database's worker, or start one if it has none and may have one now. */
extern void mon_companion_wake(const MonCompanionSort *sort, Oid dboid);
extern bool mon_companion_running(const MonCompanionSort *sort, Oid dboid);

/* In the worker: become this database's; false if it has one.  Left at exit. */
extern bool mon_companion_claim(const MonCompanionSort *sort, Oid dboid);

/* It works: forget earlier failures. */
extern void mon_companion_healthy(void);

/* ---- transactions (step.c) ---- */

typedef enum StepResult
{
	STEP_DONE,
	STEP_BUSY,   /* somebody alters the extension; try again soon */
	STEP_FAILED, /* with an error; try again later */
	STEP_GONE    /* the extension is gone */
} StepResult;

#define MON_STEP_TIMEOUT_MS 60000

/* Set the signal handlers and settings of a worker that is connected now. */
extern void mon_step_init(MemoryContext context);

/*
 * Run body in a transaction, with a snapshot and an SPI connection, while the
 * extension is held.  Afterwards the process is as it was, with the context of
 * mon_step_init() as the current one.
 */
extern StepResult mon_step(const char *activity, void (*body)(TimestampTz at, void *arg),
						   void *arg);

/* Hold the extension until the transaction ends; false if somebody alters it or it is gone. */
extern bool mon_hold_extension(void);

/* Clear the latch and do what signals ask for; resets the context of mon_step_init(). */
extern void mon_step_signals(void);

/* Run a prepared query with a plan that is kept. */
struct _SPI_plan;
extern void mon_step_execute(struct _SPI_plan **plan, const char *sql, int nargs, Oid *types,
							 Datum *args, int expected);

/* Monotonic milliseconds: intervals must not follow the wall clock's jumps. */
extern int64 mon_now_ms(void);

/* How long to wait after so many failures. */
extern int64 mon_backoff_ms(int failures);

/* ---- requests ---- */

/* A name with its value: a header, or an option of the sender. */
typedef struct MonPair
{
	char *name;
	char *value;
} MonPair;

/* All of it UTF-8, palloc'd, secrets included: to be shown nowhere. */
typedef struct MonRequest
{
	char *method;
	char *url;
	char *body;
	List *headers; /* of MonPair; a header with several values is there several times */
	List *options; /* of MonPair; see sender/protocol.h */
} MonRequest;

/* Fields of a frame: its beginning, with what is allowed now, and the request. */
extern void mon_frame_u32(StringInfo frame, uint32 v);
extern void mon_frame_str(StringInfo frame, const char *s, int len);
extern void mon_frame_text(StringInfo frame, const char *s);
extern void mon_frame_begin(StringInfo frame, char type, uint64 tag, uint32 connect_ms,
							uint32 total_ms);
extern void mon_frame_request(StringInfo frame, const MonRequest *request);

/* ---- the sender (link.c) ---- */

typedef struct MonLinkUser
{
	bool (*answer)(uint8 type, SenderReader *r); /* false: it is none of ours, end the sender */
	void (*lost)(void);                          /* nobody will answer what is under way */
	bool (*stuck)(void);                         /* it has left something unanswered for too long */
} MonLinkUser;

extern void mon_link_init(const MonLinkUser *link_user);

/* Start the sender if it may be; end it if it does not do its work; move bytes.  True if it has just become ready. */
extern bool mon_link_tend(void);
extern void mon_link_write(void);

/* It has said hello, or not yet or no more; it runs. */
extern bool mon_link_ready(void);
extern bool mon_link_running(void);

/* Frames for the sender: added to within a transaction, written after it, or cut off again. */
extern StringInfo mon_link_frames(void);

/* Wait for it, the latch or the timeout. */
extern void mon_link_wait(long timeout);

#endif /* MONITORING_OUTBOUND_H */
