/*-------------------------------------------------------------------------
 *
 * activity.h
 *	  What sessions wait for, as the sampler has seen it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_ACTIVITY_H
#define MONITORING_ACTIVITY_H

#include "core/core.h"

typedef struct MonWaitShare
{
	uint32 wait_event_info; /* 0: none, it was on a CPU */
	uint32 samples;
} MonWaitShare;

/* When there are more than eight wait events, the samples of further ones are in the total only. */
typedef struct MonActivityProfile
{
	int nwaits;
	MonWaitShare waits[8];
	uint32 samples;
	int blocked_by_pid; /* latest session that held a lock it waited for; 0: none, -1: a prepared transaction */
} MonActivityProfile;

/*
 * What this session was seen doing since then, with nothing if it was not
 * sampled.  Takes no lock, allocates nothing and raises nothing.  What goes back
 * further than the statement that the client sent is known as far as the history
 * in memory reaches.
 */
extern void mon_activity_profile(TimestampTz since, MonActivityProfile *profile);

#endif /* MONITORING_ACTIVITY_H */
