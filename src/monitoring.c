/*-------------------------------------------------------------------------
 *
 * monitoring.c
 *	  Entry point of the library: settings, then one X_init() per slice.
 *
 * Without shared_preload_libraries only the settings and what needs no shared
 * memory exist: the sketch type works, the rest raises a clear error.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "core/core.h"
#include "core/transaction.h"
#include "health/health.h"
#include "metrics/metrics.h"
#include "notify/notify.h"
#include "outbound/secrets.h"
#include "server/server.h"
#include "signals/signals.h"
#include "worker/worker.h"

MON_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	mon_settings_init();
	mon_transaction_init();

	if (process_shared_preload_libraries_in_progress)
	{
		mon_shmem_init();
		mon_server_init();
		mon_metrics_init();
		/* Before those whose log hooks redact: theirs run first then. */
		mon_signals_init();
		mon_worker_init();
		mon_activity_sampler_init();
		mon_secrets_init();
		mon_health_init();
		mon_notify_init();
	}
	else if (creating_extension)
		/* Not an error: a dump may be restored before the server is configured. */
		ereport(WARNING,
				(errmsg("monitoring was not loaded at server start: nothing is recorded"),
				 errhint("Add monitoring to shared_preload_libraries and restart the server.")));

	mon_settings_finish();
}
