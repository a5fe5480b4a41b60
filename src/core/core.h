/*-------------------------------------------------------------------------
 *
 * core.h
 *	  Settings, shared memory, labels and small helpers used by every slice.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_CORE_H
#define MONITORING_CORE_H

#include "compat.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "storage/lwlock.h"
#include "utils/jsonb.h"

#define MON_SCHEMA "monitoring"

/* ---- settings (settings.c) ---- */

extern int mon_shared_memory;        /* kB of shared memory for the registry */
extern int mon_flush_interval;       /* ms between flushes of metrics to segments */
extern int mon_evaluation_interval;  /* ms between evaluations of alert rules */
extern int mon_slow_query_threshold; /* ms; a statement at or above it is slow */
extern int mon_standby_keep;         /* ms that a standby keeps what is recorded there */
extern int mon_max_series;       /* series a metric may have before its overflow series is used */
extern bool mon_collect_enabled; /* collectors are run when they are due */
extern int mon_collected_tables; /* tables of a database that have series of their own */
extern bool mon_transactional;   /* records follow their transaction */
extern char *mon_allowed_hosts;  /* hosts that notifications may go to; '' = none */
extern bool mon_allow_private_networks; /* loopback and private addresses too */
extern char *mon_proxy;                 /* through which notifications go; '' = directly */
extern char *mon_secrets_directory;     /* where files with secrets are; '' = nowhere */
extern int mon_emergency_interval;      /* ms between messages about an emergency */
extern int mon_min_free_disk; /* kB free on a volume below which there is one; 0 = never */

/* First in _PG_init; mon_settings_finish() last, when every slice has defined its own. */
extern void mon_settings_init(void);
extern void mon_settings_finish(void);

/* ---- shared memory (shmem.c) ---- */

/*
 * A slice that needs shared memory calls mon_shmem_register() from its
 * X_init(), during shared_preload_libraries only.  size() is called when the
 * postmaster sizes its segment (MaxBackends is known by then), init() under
 * AddinShmemInitLock in the postmaster and, with EXEC_BACKEND, in every
 * process; it must do its own ShmemInitStruct().  Every slice gets `nlocks`
 * LWLocks in a named tranche.
 */
typedef struct MonShmemSlice
{
	const char *name; /* ShmemInitStruct and tranche name */
	Size (*size)(void);
	void (*init)(LWLockPadded *locks);
	int nlocks;
} MonShmemSlice;

extern void mon_shmem_init(void);
extern void mon_shmem_register(const MonShmemSlice *slice);

/* True if the library came through shared_preload_libraries. */
extern bool mon_preloaded;

/* ereport(ERROR) 55000 with a hint unless the library was preloaded. */
extern void mon_require_preload(void);

/* ---- executor (the hooks of the server slice) ---- */

/* Calls of the executor that the current one is within: 0 at the end of a statement that a client sent. */
extern int mon_executor_depth;

/* If set, called when an executor call returns that is not nested in another. */
extern void (*mon_executor_left)(void);

/* ---- labels (labels.c) ---- */

/*
 * Canonical labels: a jsonb object whose values are all strings.  Numbers and
 * booleans become their text, nulls are left out; anything else is an error
 * (22023).  The result is palloc'd; its bytes identify the label set.
 */
extern Jsonb *mon_labels_canonical(Jsonb *labels);

/* Put ? where a label must not have what a name has; true if there was any. */
extern bool mon_clean_label(char *text, int len);

/* Stable 64-bit identity of (metric, canonical labels), equal on every node. */
extern int64 mon_series_id(const char *metric, int metric_len, const char *labels_text,
						   int labels_len);

/* Text of canonical labels in jsonb's own key order; palloc'd. */
extern char *mon_labels_text(Jsonb *canonical);

/* ereport(ERROR) 22023 unless name is [a-zA-Z_:][a-zA-Z0-9_:]*, at most 200 bytes. */
extern void mon_check_metric_name(const char *name, int len);

/* ---- encodings (utf8.c) ---- */

/* A text of the database as UTF-8, palloc'd; what cannot be converted is written as %E9: no error. */
extern char *mon_utf8_copy(const char *s, int len);

#endif /* MONITORING_CORE_H */
