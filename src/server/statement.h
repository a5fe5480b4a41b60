/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  Statements as this slice's files see them: identity, counters, memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_STATEMENT_H
#define MONITORING_STATEMENT_H

#include "core/core.h"
#include "sketch/sketch.h"

typedef struct StatementKey
{
	int64 queryid;
	Oid dbid;
	Oid userid;
	bool toplevel; /* sent by a client, not run inside a function */
} StatementKey;

/* The columns of take_statements() and live_statements() follow these two lists. */
typedef enum StatementCount
{
	STATEMENT_CALLS, /* that ended well */
	STATEMENT_ERRORS,
	STATEMENT_CANCELS, /* of the statement or by a timeout: 57014 */
	STATEMENT_PLANS,
	STATEMENT_ROWS,
	STATEMENT_SHARED_HIT, /* blocks, here and below */
	STATEMENT_SHARED_READ,
	STATEMENT_SHARED_DIRTIED,
	STATEMENT_SHARED_WRITTEN,
	STATEMENT_LOCAL_HIT,
	STATEMENT_LOCAL_READ,
	STATEMENT_LOCAL_DIRTIED,
	STATEMENT_LOCAL_WRITTEN,
	STATEMENT_TEMP_READ,
	STATEMENT_TEMP_WRITTEN,
	STATEMENT_WAL_RECORDS,
	STATEMENT_WAL_FPI,
	STATEMENT_WAL_BYTES,
	STATEMENT_JIT_FUNCTIONS,
	STATEMENT_COUNTS
} StatementCount;

typedef enum StatementTime
{
	STATEMENT_EXECUTION, /* of what ended well */
	STATEMENT_FAILED,    /* of what did not */
	STATEMENT_PLANNING,
	STATEMENT_IO_READ,
	STATEMENT_IO_WRITE,
	STATEMENT_JIT,
	STATEMENT_TIMES
} StatementTime;

typedef struct StatementCounters
{
	int64 n[STATEMENT_COUNTS];
	double seconds[STATEMENT_TIMES];
} StatementCounters;

/* Where the text of a statement is, as the server passes it around. */
typedef struct StatementSource
{
	const char *text;
	int location; /* -1 unknown */
	int len;      /* 0 to the end */
	bool keep_numbers;
} StatementSource;

/* What was counted of a statement and is not stored; text is null if stored or not known. */
typedef struct StatementRow
{
	StatementKey key;
	StatementCounters counters;
	ExpoSketch latency;
	char *text;
} StatementRow;

/* ---- statement_registry.c ---- */

extern void mon_statement_registry_init(void);

/*
 * Count something of a statement of this session; a latency below zero is none.
 * Raises nothing.
 */
extern void mon_statement_add(const StatementKey *key, const StatementSource *source,
							  const StatementCounters *counters, double latency);

/*
 * Hand over what was counted in this database and has not been stored by a
 * snapshot numbered `stored` or below, as part of snapshot `seq`.  The caller
 * sees to it that there is one snapshot of a database at a time, and that
 * `stored` has committed.  Rows are palloc'd; their sketches and texts are the
 * registry's own and stay until the next snapshot.
 */
extern StatementRow *mon_statements_take(uint64 stored, uint64 seq, int *nrows);

/* A copy of what no snapshot up to `stored` holds; changes nothing.  Everything palloc'd. */
extern StatementRow *mon_statements_copy(uint64 stored, int *nrows);

/* Forget all statements of a database. */
extern void mon_statements_forget(Oid dbid);

typedef struct StatementRegistryState
{
	int capacity;
	int entries; /* of all databases */
	int databases;
	uint64 evicted; /* entries that made room with something not stored: see "others" */
	uint64 lost;    /* executions that could not even be counted there */
} StatementRegistryState;

extern StatementRegistryState mon_statement_registry_state(void);

/* ---- statement_hooks.c ---- */

extern void mon_statement_hooks_init(void);

#endif /* MONITORING_STATEMENT_H */
