/*-------------------------------------------------------------------------
 *
 * statement_prepared.h
 *	  What came before the execution of a statement: see statement_prepared.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_STATEMENT_PREPARED_H
#define MONITORING_STATEMENT_PREPARED_H

#include "core/core.h"

typedef struct Preparation
{
	TimestampTz started_at; /* of an execution that a client sent; 0 of others */
	double preparing;       /* seconds before that since it was sent, planning among them */
	double planning;
} Preparation;

/* Whether no statement of the client's current message has been started. */
extern bool mon_message_is_new(void);

extern void mon_note_message_started(void);

/* Analysis of a statement of the current message has ended. */
extern void mon_note_analyzed(int64 queryid);

extern void mon_note_planned(int64 queryid, double seconds);

/* How an execution that starts now has been prepared; what was noted of it is forgotten. */
extern Preparation mon_take_preparation(int64 queryid, bool toplevel);

#endif /* MONITORING_STATEMENT_PREPARED_H */
