/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings that more than one slice reads.
 *
 * Settings that size shared memory can only be defined while the postmaster
 * loads the library; the others exist in every session.
 *
 *-------------------------------------------------------------------------
 */
#include "core/core.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#define URL_CHARACTERS                                                                             \
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&*+,;=%"

int mon_executor_depth = 0;
void (*mon_executor_left)(void) = NULL;

int mon_shared_memory = 64 * 1024;
int mon_flush_interval = 10 * 1000;
int mon_evaluation_interval = 1000;
int mon_slow_query_threshold = 1000;
int mon_standby_keep = 600 * 1000;
int mon_max_series = 10000;
bool mon_collect_enabled = true;
int mon_collected_tables = 50;
bool mon_transactional = false;
char *mon_allowed_hosts = NULL;
bool mon_allow_private_networks = false;
char *mon_proxy = NULL;
char *mon_secrets_directory = NULL;
int mon_emergency_interval = 300 * 1000;
int mon_min_free_disk = 64 * 1024;
static bool dump_secrets = false; /* read by the condition of a dump */
static char *mon_external_url = NULL;

/* It is put into links of every format. */
static bool
mon_check_external_url(char **newval, void **extra, GucSource source)
{
	const char *url = *newval;

	if (*url == '\0')
		return true;
	if (strlen(url) <= 1000 &&
		(strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0) &&
		url[strspn(url, URL_CHARACTERS)] == '\0')
		return true;
	GUC_check_errdetail(
		"It must start with http:// or https://, have at most 1000 characters, and none that "
		"is quoted in links.");
	return false;
}

void
mon_settings_init(void)
{
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("monitoring.shared_memory",
								"Shared memory that keeps live metrics.",
								"When it is full, further series are recorded in their metric's "
								"overflow series.",
								&mon_shared_memory, 64 * 1024, 4 * 1024, MAX_KILOBYTES,
								PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("monitoring.flush_interval",
							"Time between two writes of live metrics to storage.", NULL,
							&mon_flush_interval, 10 * 1000, 100, 3600 * 1000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"monitoring.standby_keep", "How long a standby keeps what is recorded there.",
		"It is in memory only, until the standby is promoted.", &mon_standby_keep, 600 * 1000,
		10 * 1000, 600 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("monitoring.evaluation_interval",
							"Time between two evaluations of the alert rules.", NULL,
							&mon_evaluation_interval, 1000, 100, 3600 * 1000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("monitoring.slow_query_threshold",
							"A statement that takes this long or longer is slow.", NULL,
							&mon_slow_query_threshold, 1000, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("monitoring.max_series", "Series that one metric may have in memory.",
							"Further label sets are recorded in the metric's overflow series.",
							&mon_max_series, 10000, 1, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("monitoring.collect", "The collectors are run.",
							 "Off: only those that somebody runs by name.", &mon_collect_enabled,
							 true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"monitoring.collected_tables",
		"Tables, indexes and sequences of a database that have series of their own.",
		"So many of the largest tables, and of the most written.", &mon_collected_tables, 50, 0,
		500, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("monitoring.transactional",
							 "Metrics recorded in a transaction vanish when it rolls back.",
							 "Off by default: what was measured happened, even if the transaction "
							 "rolls back.",
							 &mon_transactional, false, PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomStringVariable(
		"monitoring.allowed_hosts", "Hosts that notifications may be sent to.",
		"Comma-separated host names; *.example.com is any host of that "
		"domain, * any host. With https:// before it only that scheme, with :443 "
		"after it only that port. Empty allows none.",
		&mon_allowed_hosts, "", PGC_SIGHUP, GUC_LIST_INPUT, NULL, NULL, NULL);

	DefineCustomStringVariable(
		"monitoring.external_url", "Address at which people reach the monitoring console.",
		"Notifications link to it. Empty: they have no such links.", &mon_external_url, "",
		PGC_SIGHUP, 0, mon_check_external_url, NULL, NULL);

	DefineCustomBoolVariable("monitoring.allow_private_networks",
							 "Notifications may go to loopback, private and link-local addresses.",
							 NULL, &mon_allow_private_networks, false, PGC_SIGHUP, 0, NULL, NULL,
							 NULL);

	DefineCustomStringVariable("monitoring.proxy", "HTTP proxy that notifications go through.",
							   "http:// or https:// with host, port and, if it wants them, user "
							   "and password. Empty for none; the environment is not asked.",
							   &mon_proxy, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	DefineCustomStringVariable(
		"monitoring.secrets_directory", "Directory of the files that hold secrets of receivers.",
		"No file elsewhere is read for a secret or a private key. Empty "
		"allows none.",
		&mon_secrets_directory, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"monitoring.emergency_interval",
		"Time between two messages that the database cannot write.",
		"Receivers whose config has emergency get them from the notifier's memory.",
		&mon_emergency_interval, 300 * 1000, 1000, 24 * 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL,
		NULL, NULL);

	DefineCustomIntVariable(
		"monitoring.min_free_disk",
		"Free space on a volume of the database below which there is an emergency.",
		"When the volume of the WAL is full, the server stops. 0 turns this off.",
		&mon_min_free_disk, 64 * 1024, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomBoolVariable("monitoring.dump_secrets",
							 "pg_dump takes along secrets that are stored in the database.",
							 "For the session of the dump: PGOPTIONS='-c "
							 "monitoring.dump_secrets=on'. References to files and environment "
							 "variables are always dumped.",
							 &dump_secrets, false, PGC_SUSET, 0, NULL, NULL, NULL);
}

void
mon_settings_finish(void)
{
	MarkGUCPrefixReserved("monitoring");
}
