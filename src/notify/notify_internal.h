/*-------------------------------------------------------------------------
 *
 * notify_internal.h
 *	  Shared between notify.c (starting, formatting) and notifier.c (the worker).
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

typedef enum MonFormatResult
{
	MON_FORMAT_DONE,
	MON_FORMAT_LATER, /* failed, but may work the next time */
	MON_FORMAT_FAILED
} MonFormatResult;

/*
 * Call a formatter as `owner` and append the method, url, body and headers
 * (see sender/protocol.h) to `frame`.  On failure *error is a text without
 * secrets, palloc'd, and `frame` is as before.  Needs an SPI connection.
 */
extern MonFormatResult mon_notify_format(Oid function, const char *owner, Datum receiver,
										 Datum notification, StringInfo frame, char **error);

/* Fields of a frame. */
extern void mon_frame_u32(StringInfo frame, uint32 v);
extern void mon_frame_str(StringInfo frame, const char *s, int len);

#endif /* MONITORING_NOTIFY_INTERNAL_H */
