
-- signals: executions of statements that were slow.

CREATE VIEW monitoring.slow_executions AS
	SELECT e.at, e.started_at, e.queryid, e.toplevel, e.outcome, e.sqlstate, e.duration_seconds, e.preparing_seconds,
		e.planning_seconds, e.rows, e.shared_hit_bytes, e.shared_read_bytes, e.shared_dirtied_bytes, e.shared_written_bytes,
		e.local_read_bytes, e.local_written_bytes, e.temp_read_bytes, e.temp_written_bytes, e.wal_bytes, e.io_read_seconds,
		e.io_write_seconds, e.jit_seconds, e.wait_samples, e.waits, e.blocked_by_pid, e.username, e.login, e.database,
		e.application, CASE WHEN a.everything OR e.userid = a.userid THEN e.client END AS client, e.pid,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.correlation_id END AS correlation_id,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.traceparent END AS traceparent,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.statement ELSE '<insufficient privilege>' END AS statement,
		e.plan_hash, CASE WHEN a.everything OR e.userid = a.userid THEN e.plan END AS plan, e.number
	FROM monitoring.slow_execution_log AS e
	CROSS JOIN (
		SELECT r.oid AS userid, pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS everything
		FROM pg_catalog.pg_roles AS r
		WHERE r.rolname = current_user
	) AS a;
COMMENT ON VIEW monitoring.slow_executions IS 'Executions of statements of this database that took monitoring.slow_query_threshold or longer, for 14 days, as many as monitoring.slow_query_rate allows; slow_execution_totals says how many there were. Others'' texts are shown with the rights of pg_read_all_stats only. Ask for a range of at.';
COMMENT ON COLUMN monitoring.slow_executions.username IS 'Role with whose rights it ran.';
COMMENT ON COLUMN monitoring.slow_executions.statement IS 'Its text, at most 4096 bytes, without literals unless monitoring.slow_query_literals was on; or <insufficient privilege>.';
SELECT monitoring.inherit_comments('monitoring.slow_executions', 'monitoring.slow_execution_log');

CREATE VIEW monitoring.slow_execution_totals AS
	SELECT coalesce(d.datname, '') AS database, sum(c.total)::bigint AS total, sum(c.dropped)::bigint AS not_stored
	FROM monitoring.signal_counts(true) AS c
	LEFT JOIN pg_catalog.pg_database AS d ON d.oid = c.dbid
	WHERE c.kind = 'execution'
	GROUP BY 1;
COMMENT ON VIEW monitoring.slow_execution_totals IS 'Slow executions of the whole server since it started, as shared memory counts them.';
COMMENT ON COLUMN monitoring.slow_execution_totals.database IS 'Database; empty for one that was dropped.';
COMMENT ON COLUMN monitoring.slow_execution_totals.total IS 'How many there were.';
COMMENT ON COLUMN monitoring.slow_execution_totals.not_stored IS 'How many of them have no row: more than monitoring.slow_query_rate allows, or no room in shared memory.';
