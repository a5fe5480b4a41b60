/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  What slices have to do at the end of transactions: see transaction.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_TRANSACTION_H
#define MONITORING_TRANSACTION_H

#include "core/core.h"

#include "access/xact.h"

/* What a slice has to do; zeroed until it is made known. */
typedef struct MonTransactionPart
{
	XactCallback at_end;
	SubXactCallback at_subend;
	uint32 bit;
} MonTransactionPart;

/* Parts that have joined the current transaction, as bits. */
extern uint32 mon_transaction_joined;

/*
 * Make a part known, when the library is loaded; those made known last are called
 * first.  The callbacks are what the server would be given; the second may be NULL.
 */
extern void mon_transaction_register(MonTransactionPart *part, XactCallback at_end,
									 SubXactCallback at_subend);

/*
 * Have a part called at all events of the current transaction from now on, up to
 * its end.  One that joins while it is called at the end joins the next one.
 */
static inline void
mon_transaction_join(const MonTransactionPart *part)
{
	mon_transaction_joined |= part->bit;
}

extern void mon_transaction_init(void);

#endif /* MONITORING_TRANSACTION_H */
