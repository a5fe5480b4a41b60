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

/* Entry of the background worker; its argument is the database's Oid. */
extern PGDLLEXPORT void mon_notifier_main(Datum arg);

/* Become this database's notifier; false if it has one.  Left at exit. */
extern bool mon_notifier_claim(Oid dboid);

/* The notifier works: forget earlier failures. */
extern void mon_notifier_healthy(void);

#endif /* MONITORING_NOTIFY_INTERNAL_H */
