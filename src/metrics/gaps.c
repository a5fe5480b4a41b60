/*-------------------------------------------------------------------------
 *
 * gaps.c
 *	  Time of which it is not known what was observed: rows of monitoring.gap_log.
 *
 * What is in memory is lost when the server ends without a clean stop.  All that
 * was sealed by the last flush that committed is stored, and all that is observed
 * once the database is in use again is kept; what lies between is a gap.  The first
 * flush after the start notes it, in the transaction that moves flush_state, so
 * that it is noted once and never forgotten.
 *
 * A standby that was promoted does not know what the primary had in memory, nor
 * what of its log has not arrived: that is a gap too, whatever the standby has
 * observed itself.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/levels.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

bool
mon_gap_find(const MonDb *db, TimestampTz stored_until, MonGap *gap)
{
	static const char *const reasons[] = {NULL, "crash", "residue", "promotion", "restore"};
	TimestampTz writable_since;
	MonStart start = mon_registry_start(&writable_since);

	/* A copy of a database that has flushed since the start has lost nothing of its own. */
	if (start == START_CLEAN || db->gap_checked || stored_until == DT_NOBEGIN ||
		stored_until >= writable_since)
		return false;
	gap->since = stored_until;
	gap->until = Max(writable_since, db->since);
	if (start == START_STANDBY || start == START_RESTORE)
		gap->until = writable_since;
	gap->reason = reasons[start];
	return true;
}

void
mon_gap_write(const MonGap *gap)
{
	Oid types[3] = {TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID};
	Datum values[3] = {TimestampTzGetDatum(gap->since), TimestampTzGetDatum(gap->until),
					   CStringGetTextDatum(gap->reason)};

	mon_storage_execute("INSERT INTO monitoring.gap_log AS g (since, until, reason) "
						"VALUES ($1, $2, $3) ON CONFLICT (since) DO UPDATE "
						"SET until = greatest(g.until, EXCLUDED.until)",
						3, types, values);
	/* The log grows here only, so this is where it is kept short. */
	mon_storage_execute("DELETE FROM monitoring.gap_log AS g USING monitoring.retention_policies r "
						"WHERE r.relation OPERATOR(pg_catalog.=) 'daily'::text AND r.enabled "
						"AND g.until OPERATOR(pg_catalog.<) "
						"($1 OPERATOR(pg_catalog.-) r.keep)",
						1, &types[1], &values[1]);
}
