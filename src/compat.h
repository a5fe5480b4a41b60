/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Differences between the PostgreSQL majors we build against (15 to 18).
 *
 * This is the only file that may test PG_VERSION_NUM; everything else uses
 * the names defined here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_COMPAT_H
#define MONITORING_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "monitoring needs PostgreSQL 15 or later"
#endif

/* Minor releases whose ABI break was reverted in the next one. */
#if PG_VERSION_NUM == 150009 || PG_VERSION_NUM == 160005 || PG_VERSION_NUM == 170001
#error "this minor release of PostgreSQL has a reverted ABI break; install a later one"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17 renamed the process number and moved it out of PGPROC. */
#if PG_VERSION_NUM < 170000
#include "storage/proc.h"
#define MonMyProcNumber (MyProc->pgprocno)
#else
#include "storage/procnumber.h"
#include "storage/proc.h"
#define MonMyProcNumber MyProcNumber
#endif

/* 18 dropped execute_once from ExecutorRun. */
#if PG_VERSION_NUM < 180000
#define MON_EXECUTOR_RUN_PARAMS                                                                    \
	QueryDesc *queryDesc, ScanDirection direction, uint64 count, bool execute_once
#define MON_EXECUTOR_RUN_ARGS queryDesc, direction, count, execute_once
#else
#define MON_EXECUTOR_RUN_PARAMS QueryDesc *queryDesc, ScanDirection direction, uint64 count
#define MON_EXECUTOR_RUN_ARGS queryDesc, direction, count
#endif

#if PG_VERSION_NUM >= 180000
#define MON_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "monitoring", .version = "1.0")
#else
#define MON_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#endif /* MONITORING_COMPAT_H */
