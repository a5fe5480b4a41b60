/*-------------------------------------------------------------------------
 *
 * activity_internal.h
 *	  The history of active sessions, between the sampler and those who read it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_ACTIVITY_INTERNAL_H
#define MONITORING_ACTIVITY_INTERNAL_H

#include "server/activity.h"

#define ACTIVITY_BLOCKED_BY_PREPARED (-1)

/* An active session at a moment. */
typedef struct ActivitySample
{
	TimestampTz at;
	TimestampTz xact_start; /* 0: in none */
	TimestampTz query_start;
	int64 queryid;      /* 0: unknown */
	uint32 interval_ms; /* what the sample stands for */
	int pid;
	int leader_pid;     /* of a parallel worker; 0: it is none */
	int blocked_by_pid; /* as in MonActivityProfile */
	Oid dbid;
	Oid userid;
	uint32 wait_event_info;
	int16 backend_type;
	int16 state;
	uint8 client_family; /* 4, 6; 0: no address */
	uint8 client_address[16];
	char application[NAMEDATALEN];
} ActivitySample;

/* ---- activity_history.c ---- */

extern void mon_activity_history_init(void);

/*
 * For the sampler alone.  Add samples, and what they say of each backend to its
 * profile: procno[i] is the process number of samples[i], or -1 if it is none
 * that has one.
 */
extern void mon_activity_add(const ActivitySample *samples, const int *procno, int n);

typedef struct ActivityHistoryState
{
	TimestampTz epoch; /* when this memory was made: numbers start anew */
	uint64 next;       /* number of the sample that comes next; the first is 1 */
	uint64 oldest;     /* that is still there */
	int capacity;
	TimestampTz sampled_at; /* latest look at the sessions; 0: none yet */
} ActivityHistoryState;

extern ActivityHistoryState mon_activity_history_state(void);

/* Copy sample number seq; false if it has been overwritten or is yet to come. */
extern bool mon_activity_get(uint64 seq, ActivitySample *sample);

/* ---- activity_sampler.c ---- */

extern int mon_activity_interval; /* ms; 0: off */

extern PGDLLEXPORT void mon_activity_sampler_main(Datum arg);

#endif /* MONITORING_ACTIVITY_INTERNAL_H */
