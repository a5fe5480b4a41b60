/*-------------------------------------------------------------------------
 *
 * last_evaluation.c
 *	  When this session last evaluated the alert rules.
 *
 * Which rules are due follows from the time of the evaluation before: nothing
 * needs to be written for that.  A setting of the session would not do, since a
 * worker takes back what a job has set.  What a transaction remembers counts
 * only once it has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "core/core.h"
#include "core/transaction.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/timestamp.h"

static TimestampTz last = DT_NOBEGIN;                         /* DT_NOBEGIN: none */
static TimestampTz pending;                                   /* of the current transaction, */
static SubTransactionId pending_in = InvalidSubTransactionId; /* by which part of it */
static MonTransactionPart part;

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && pending_in != InvalidSubTransactionId)
		last = pending;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		pending_in = InvalidSubTransactionId;
}

/* What has begun after a subtransaction, and not ended before it, is part of it. */
static void
at_subtransaction_end(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && pending_in >= id)
		pending_in = InvalidSubTransactionId;
}

PG_FUNCTION_INFO_V1(mon_remember_evaluation);
/* remember_evaluation(at): null forgets */
Datum
mon_remember_evaluation(PG_FUNCTION_ARGS)
{
	if (part.bit == 0)
		mon_transaction_register(&part, at_transaction_end, at_subtransaction_end);
	mon_transaction_join(&part);
	pending = PG_ARGISNULL(0) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(0);
	pending_in = GetCurrentSubTransactionId();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(mon_previous_evaluation);
/* previous_evaluation() */
Datum
mon_previous_evaluation(PG_FUNCTION_ARGS)
{
	TimestampTz at = pending_in != InvalidSubTransactionId ? pending : last;

	if (TIMESTAMP_IS_NOBEGIN(at))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(at);
}
