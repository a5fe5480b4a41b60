/*-------------------------------------------------------------------------
 *
 * signals_internal.h
 *	  The buffer in shared memory between the hooks and the workers.
 *
 * Hooks run anywhere: in the postmaster and auxiliary processes, before a
 * backend has a PGPROC, out of memory, within errors.  So nothing that they call
 * here takes a lock, allocates or raises; all they share is atomics.
 *
 * A slot belongs to whoever moved its state on: a hook from free to writing, a
 * worker from ready to taken.  Taken slots are free again once the table
 * signal_state shows that the transaction which stored them has committed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIGNALS_INTERNAL_H
#define SIGNALS_INTERNAL_H

#include "compat.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"

typedef enum SignalKind
{
	SIGNAL_ERROR,
	SIGNAL_LOGIN,
	SIGNAL_CHANGE,
	SIGNAL_KINDS
} SignalKind;

typedef enum SignalText
{
	TEXT_TEMPLATE,
	TEXT_MESSAGE,
	TEXT_DETAIL,
	TEXT_HINT,
	TEXT_STATEMENT,
	TEXT_CONTEXT,
	TEXT_SCHEMA,
	TEXT_TABLE,
	TEXT_COLUMN,
	TEXT_DATATYPE,
	TEXT_CONSTRAINT,
	TEXT_USER,     /* whom the session logged in as */
	TEXT_DATABASE, /* as the client asked for it */
	TEXT_APPLICATION,
	TEXT_CLIENT, /* address */
	SIGNAL_TEXTS
} SignalText;

#define SIGNAL_TEXT_BYTES 4096 /* holds every text at its limit: see signal_buffer.c */

typedef struct Signal
{
	uint64 number; /* order */
	TimestampTz at;
	int64 queryid;
	SignalKind kind;
	int level;  /* of errors: elevel */
	int code;   /* of errors: the SQLSTATE as elog.h packs it; of log-ins: LoginOutcome */
	Oid dbid;   /* invalid: of no database, as far as the process knew */
	Oid userid; /* whose rights it ran with; invalid: of no role */
	int pid;
	int backend_type; /* -1: postmaster */
	int encoding;     /* of the texts */
	Oid taken_by;     /* database whose worker has taken it ... */
	uint64 taken_seq; /* ... in which drain */
	uint16 len[SIGNAL_TEXTS];
	uint16 used;
	char texts[SIGNAL_TEXT_BYTES]; /* one after the other */
} Signal;

typedef enum LoginOutcome
{
	LOGIN_OK,
	LOGIN_REFUSED, /* by authentication; its method is in TEXT_TEMPLATE */
	LOGIN_FAILED   /* by an error, which is in TEXT_TEMPLATE and TEXT_MESSAGE */
} LoginOutcome;

/* What was counted and not yet recorded as metrics, of one kind, level, code and database. */
typedef struct SignalCount
{
	int place;
	SignalKind kind;
	int level;
	int code;
	Oid dbid;
	uint64 total; /* since the start of the server */
	uint64 dropped;
	uint64 recorded;
	uint64 recorded_dropped;
} SignalCount;

/* ---- signal_buffer.c ---- */

extern void mon_signal_buffer_init(void);

/*
 * Count a signal and reserve its slot, with everything filled in that is the same
 * for all; NULL if there is no room, no shared memory or the kind is not kept.
 * mon_signal_publish() hands it over.
 */
extern Signal *mon_signal_begin(SignalKind kind, int level, int code);
extern void mon_signal_text(Signal *s, SignalText which, const char *text);
extern void mon_signal_bytes(Signal *s, SignalText which, const char *text, size_t len);
extern void mon_signal_statement(Signal *s, const char *sql, size_t len, bool keep_numbers);
extern void mon_signal_publish(Signal *s);
/* Count what there was never any room for. */
extern void mon_signal_count_omitted(SignalKind kind, int code, int n);
/* Where the value of a password would stand if the statement is about one; NULL if it is not. */
extern const char *mon_find_password(const char *sql, size_t len);

/* For the worker of this database. */
extern bool mon_signals_waiting(void);
/* Palloc'd copies, in order, of at most `max` signals that no drain up to `stored` has stored. */
extern Signal **mon_signals_take(uint64 stored, int max, int *n);
extern void mon_signals_free_taken(uint64 seq);
extern void mon_signals_drain_failed(void);
/* Counts of the whole server, or of those that this database's worker is to record. */
extern SignalCount *mon_signal_counts(bool all, int *n);
extern void mon_signal_count_recorded(int place, uint64 total, uint64 dropped);
extern int mon_signal_capacity(int *in_use);

/* ---- error_hook.c, login_hook.c, change_hook.c ---- */

extern void mon_error_hook_init(void);
extern void mon_login_hook_init(void);
extern void mon_change_hook_init(void);

/* Whether this session's failed log-in has been noted. */
extern bool mon_login_noted;
/* A session that ends before it began: by this error. */
extern void mon_note_failed_login(const ErrorData *edata);

#endif /* SIGNALS_INTERNAL_H */
