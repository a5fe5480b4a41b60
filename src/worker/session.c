/*-------------------------------------------------------------------------
 *
 * session.c
 *	  How our workers begin: their signals, and settings that they do not
 *	  leave to the database's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker.h"

#include <signal.h>

#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"

static const struct
{
	const char *name;
	const char *value;
} pinned[] = {
	{"role", "none"},
	{"search_path", "pg_catalog, pg_temp"},
	{"TimeZone", "UTC"},
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "postgres"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"standard_conforming_strings", "on"},
	{"transform_null_equals", "off"},
	{"row_security", "on"},
	{"session_replication_role", "origin"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"default_table_access_method", "heap"},
	{"array_nulls", "on"},
	{"quote_all_identifiers", "off"},
	{"exit_on_error", "off"},
	{"restrict_nonsystem_relation_kind", ""}, /* in minor releases since August 2024 */
	{"plpgsql.extra_errors", "none"},
	{"plpgsql.extra_warnings", "none"},
	{"monitoring.transactional", "off"},
	{"jit", "off"},
	{"max_parallel_workers_per_gather", "0"},
	{"max_parallel_maintenance_workers", "0"},
	{"statement_timeout", "0"},
	{"lock_timeout", "5s"},
	{"idle_in_transaction_session_timeout", "0"},
	{"idle_session_timeout", "0"},
	{"transaction_timeout", "0"},            /* since 17 */
	{"monitoring.track_statements", "none"}, /* our own statements are not the users' */
	{"pg_stat_statements.track", "none"},
	{"auto_explain.log_min_duration", "-1"}, /* it would log parameters, which hold secrets */
};

void
mon_worker_unblock_signals(pqsigfunc terminate)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, terminate);
	BackgroundWorkerUnblockSignals();
	/* A reload since the fork is lost: until now the server has us ignore SIGHUP. */
	ConfigReloadPending = true;
}

void
mon_worker_pin_settings(bool durable)
{
	for (int i = 0; i < lengthof(pinned); i++)
		if (GetConfigOption(pinned[i].name, true, false) != NULL)
			SetConfigOption(pinned[i].name, pinned[i].value, PGC_SUSET, PGC_S_OVERRIDE);

	/* Nothing of ours waits for a standby. */
	SetConfigOption("synchronous_commit", durable ? "local" : "off", PGC_SUSET, PGC_S_OVERRIDE);
}
