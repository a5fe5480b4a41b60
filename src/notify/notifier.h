/*-------------------------------------------------------------------------
 *
 * notifier.h
 *	  Shared by the files of the notifier worker: what is in flight (in_flight.c),
 *	  emergencies (emergency.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_NOTIFY_NOTIFIER_H
#define MONITORING_NOTIFY_NOTIFIER_H

#include "notify/request.h"

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#include "outbound/sender/protocol.h"

#define MAX_IN_FLIGHT SENDER_MAX_ACTIVE

/* ---- what is claimed (in_flight.c) ---- */

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
} InFlight;

extern InFlight mon_in_flight[MAX_IN_FLIGHT];
extern int mon_n_in_flight;
extern int mon_n_local; /* of them */

/* JSON array under construction; kept until its transaction has committed. */
extern StringInfoData mon_outcomes;

/* An entry that is not used, with a serial number of its own; it is used once its `used` is set and it is counted. */
extern InFlight *mon_entry_new(void);
extern void mon_entry_use(InFlight *f);
extern void mon_entry_clear(InFlight *f);

/* The last serial number given. */
extern uint32 mon_last_serial(void);

/* What was queued since the serial number: its time begins now, or it never was. */
extern void mon_entries_settle(uint32 serial, bool committed);

/* Append an outcome: what the sender says, what it has nothing to say to, what was done here. */
extern void mon_outcome_answer(StringInfo to, const InFlight *f, const SenderOutcome *o);
extern void mon_outcome_add(StringInfo to, const InFlight *f, const char *outcome,
							const char *error);
extern void mon_outcome_local(StringInfo to, const InFlight *f, const char *outcome,
							  const char *error, double seconds);

/* How the notifier takes what the sender says. */
extern const MonLinkUser mon_notifier_link;

/* ---- emergencies (emergency.c) ---- */

#define MON_KEY_LEN 36            /* of an idempotency key */
#define MON_EMERGENCY_TAG 0x10000 /* their tags begin here */

/* Look after the database if it is time, and send what is to be sent. */
extern void mon_emergency_tend(void);

/* There is somebody to tell: the notifier stays. */
extern bool mon_emergency_armed(void);

/* An answer to one of its requests; false if there is no such request. */
extern bool mon_emergency_outcome(const SenderOutcome *o);

/* The sender ended: nobody will answer what is under way. */
extern void mon_emergency_lost(void);

/* Has the sender left one unanswered for too long? */
extern bool mon_emergency_stuck(void);

#endif /* MONITORING_NOTIFY_NOTIFIER_H */
