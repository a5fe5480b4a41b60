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

#include "fmgr.h"
#include "miscadmin.h"

#include "core/core.h"
#include "health/health.h"
#include "metrics/metrics.h"
#include "notify/notify.h"
#include "server/server.h"
#include "signals/signals.h"
#include "worker/worker.h"

MON_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	mon_settings_init();

	if (process_shared_preload_libraries_in_progress)
	{
		mon_shmem_init();
		mon_server_init(); /* its hooks are to be inside those of metrics */
		mon_metrics_init();
		/* Before those whose log hooks redact: theirs run first then. */
		mon_signals_init();
		mon_worker_init();
		mon_activity_sampler_init();
		mon_health_init();
		mon_notify_init();
	}

	mon_settings_finish();
}
