/*-------------------------------------------------------------------------
 *
 * signal.h
 *	  How hooks hand over what they have seen: a slot in shared memory.
 *
 * Hooks run anywhere: in the postmaster and auxiliary processes, before a
 * backend has a PGPROC, out of memory, within errors.  So nothing that they call
 * here takes a lock, allocates or raises; all they share is atomics.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SIGNAL_H
#define MONITORING_SIGNAL_H

#include "compat.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"

typedef enum SignalKind
{
	SIGNAL_ERROR,
	SIGNAL_LOGIN,
	SIGNAL_CHANGE,
	SIGNAL_EXECUTION, /* of a statement that was slow */
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
	TEXT_EXECUTION, /* not a text: an ExecutionFacts */
	TEXT_CORRELATION,
	TEXT_TRACEPARENT,
	TEXT_PLAN,
	TEXT_USER,     /* whom the session logged in as */
	TEXT_DATABASE, /* as the client asked for it */
	TEXT_APPLICATION,
	TEXT_CLIENT, /* address */
	SIGNAL_TEXTS
} SignalText;

/* The columns of the type monitoring.execution_facts end with this list. */
typedef enum ExecutionMeasure
{
	EXECUTION_SECONDS,
	EXECUTION_PREPARING,
	EXECUTION_PLANNING,
	EXECUTION_ROWS,
	EXECUTION_SHARED_HIT, /* bytes, here and below */
	EXECUTION_SHARED_READ,
	EXECUTION_SHARED_DIRTIED,
	EXECUTION_SHARED_WRITTEN,
	EXECUTION_LOCAL_READ,
	EXECUTION_LOCAL_WRITTEN,
	EXECUTION_TEMP_READ,
	EXECUTION_TEMP_WRITTEN,
	EXECUTION_WAL,
	EXECUTION_IO_READ, /* seconds, here and below */
	EXECUTION_IO_WRITE,
	EXECUTION_JIT,
	EXECUTION_MEASURES
} ExecutionMeasure;

#define EXECUTION_WAITS 8

typedef struct ExecutionFacts
{
	TimestampTz started_at;
	int64 plan_hash; /* 0: no plan */
	int sqlstate;    /* of the error that it ended by; 0: it ended well */
	bool toplevel;
	bool terminated;    /* with its session */
	int blocked_by_pid; /* 0: nobody */
	uint32 samples;     /* of waiting, all */
	int nwaits;
	uint32 wait_event[EXECUTION_WAITS]; /* 0: on a CPU */
	uint32 wait_samples[EXECUTION_WAITS];
	double measure[EXECUTION_MEASURES];
} ExecutionFacts;

#define SIGNAL_TEXT_BYTES 4096 /* holds every text at its limit: see signal_buffer.c */
#define EXECUTION_TEXT_BYTES 14336
#define EXECUTION_STATEMENT_BYTES 4096
#define EXECUTION_PLAN_BYTES 8192

typedef struct Signal
{
	uint64 number; /* order */
	TimestampTz at;
	int64 queryid;
	SignalKind kind;
	int place;  /* its slot */
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
	char texts[FLEXIBLE_ARRAY_MEMBER]; /* one after the other */
} Signal;

/*
 * Count a signal and reserve its slot, with everything filled in that is the same
 * for all; NULL if there is no room, no shared memory or the kind is not kept.
 * mon_signal_publish() hands it over.
 */
extern Signal *mon_signal_begin(SignalKind kind, int level, int code);
/* Texts come in the order of the enum. */
extern void mon_signal_text(Signal *s, SignalText which, const char *text);
extern void mon_signal_bytes(Signal *s, SignalText which, const char *text, size_t len);
extern void mon_signal_statement(Signal *s, const char *sql, size_t len, bool keep_numbers);
extern void mon_signal_publish(Signal *s);
/* Count what there was never any room for. */
extern void mon_signal_count_omitted(SignalKind kind, int code, int n);
/* Where the value of a password would stand if the statement is about one; NULL if it is not. */
extern const char *mon_find_password(const char *sql, size_t len);

#endif /* MONITORING_SIGNAL_H */
