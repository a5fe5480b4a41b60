/*-------------------------------------------------------------------------
 *
 * notify_internal.h
 *	  Shared between notify.c (starting) and notifier.c (the worker); requests have request.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_NOTIFY_INTERNAL_H
#define MONITORING_NOTIFY_INTERNAL_H

#include "notify/notify.h"
#include "outbound/outbound.h"

/* Entry of the background worker; its argument is the database's Oid. */
extern PGDLLEXPORT void mon_notifier_main(Datum arg);

extern const MonCompanionSort mon_notifier_sort;

#endif /* MONITORING_NOTIFY_INTERNAL_H */
