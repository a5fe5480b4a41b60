/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  What slices have to do at the end of transactions, through one callback.
 *
 * Most transactions have nothing to do with us, and a callback that finds so
 * costs as much as one that does something: its code is in no cache.  So slices
 * join the transactions that they take part in, and all others are done after
 * one look.
 *
 *-------------------------------------------------------------------------
 */
#include "core/transaction.h"

#define MAX_PARTS 32

uint32 mon_transaction_joined = 0;

static const MonTransactionPart *parts[MAX_PARTS];
static int nparts = 0;

void
mon_transaction_register(MonTransactionPart *part, XactCallback at_end, SubXactCallback at_subend)
{
	if (nparts >= MAX_PARTS)
		elog(FATAL, "too many slices take part in transactions");
	part->at_end = at_end;
	part->at_subend = at_subend;
	part->bit = (uint32) 1 << nparts;
	parts[nparts++] = part;
}

static bool
is_end(XactEvent event)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
			return true;
		default:
			return false;
	}
}

pg_attribute_hot static void
at_transaction_end(XactEvent event, void *arg)
{
	uint32 joined = mon_transaction_joined;

	if (likely(joined == 0))
		return;
	if (is_end(event))
		mon_transaction_joined = 0;
	for (int i = nparts - 1; i >= 0; i--)
		if (joined & parts[i]->bit)
			parts[i]->at_end(event, NULL);
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (likely(mon_transaction_joined == 0))
		return;
	for (int i = nparts - 1; i >= 0; i--)
		if ((mon_transaction_joined & parts[i]->bit) && parts[i]->at_subend)
			parts[i]->at_subend(event, mine, parent, NULL);
}

void
mon_transaction_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
}
