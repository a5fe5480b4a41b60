
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
COMMENT ON COLUMN monitoring.slow_executions.at IS 'When it ended.';
COMMENT ON COLUMN monitoring.slow_executions.started_at IS 'When it began to be executed; of one that a client sent, after preparing_seconds.';
COMMENT ON COLUMN monitoring.slow_executions.queryid IS 'Identity of the statement, as in pg_stat_activity and in the view statements.';
COMMENT ON COLUMN monitoring.slow_executions.toplevel IS 'True if sent by a client, false if run inside a function or another statement.';
COMMENT ON COLUMN monitoring.slow_executions.outcome IS 'ok, error or cancelled (also by a timeout).';
COMMENT ON COLUMN monitoring.slow_executions.sqlstate IS 'SQLSTATE of the error that it ended by.';
COMMENT ON COLUMN monitoring.slow_executions.duration_seconds IS 'Time of the execution, without that in which a portal waits for its client.';
COMMENT ON COLUMN monitoring.slow_executions.preparing_seconds IS 'Time from the arrival of the statement to the begin of its execution: parsing, planning, and waiting for locks on tables. Of those inside functions, planning only.';
COMMENT ON COLUMN monitoring.slow_executions.planning_seconds IS 'Time of planning; 0 if it had a plan.';
COMMENT ON COLUMN monitoring.slow_executions.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.slow_executions.shared_hit_bytes IS 'Bytes found in shared buffers.';
COMMENT ON COLUMN monitoring.slow_executions.shared_read_bytes IS 'Bytes read into shared buffers.';
COMMENT ON COLUMN monitoring.slow_executions.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied.';
COMMENT ON COLUMN monitoring.slow_executions.shared_written_bytes IS 'Bytes of shared buffers that it had to write itself.';
COMMENT ON COLUMN monitoring.slow_executions.local_read_bytes IS 'Bytes of temporary tables read.';
COMMENT ON COLUMN monitoring.slow_executions.local_written_bytes IS 'Bytes of temporary tables written.';
COMMENT ON COLUMN monitoring.slow_executions.temp_read_bytes IS 'Bytes read from temporary files.';
COMMENT ON COLUMN monitoring.slow_executions.temp_written_bytes IS 'Bytes written to temporary files.';
COMMENT ON COLUMN monitoring.slow_executions.wal_bytes IS 'Bytes of write-ahead log.';
COMMENT ON COLUMN monitoring.slow_executions.io_read_seconds IS 'Time spent reading blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.slow_executions.io_write_seconds IS 'Time spent writing blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.slow_executions.jit_seconds IS 'Time spent in just-in-time compilation.';
COMMENT ON COLUMN monitoring.slow_executions.wait_samples IS 'How often its session was looked at meanwhile; 0 if it was not.';
COMMENT ON COLUMN monitoring.slow_executions.waits IS 'What it was found at, and how often: {"Lock:relation": 12, "CPU": 3}; at most 8.';
COMMENT ON COLUMN monitoring.slow_executions.blocked_by_pid IS 'Session that it waited for, the latest; -1: a prepared transaction.';
COMMENT ON COLUMN monitoring.slow_executions.username IS 'Role with whose rights it ran.';
COMMENT ON COLUMN monitoring.slow_executions.login IS 'Role that had logged in.';
COMMENT ON COLUMN monitoring.slow_executions.database IS 'Database.';
COMMENT ON COLUMN monitoring.slow_executions.application IS 'Name of the application.';
COMMENT ON COLUMN monitoring.slow_executions.client IS 'Address of the client.';
COMMENT ON COLUMN monitoring.slow_executions.pid IS 'Process.';
COMMENT ON COLUMN monitoring.slow_executions.correlation_id IS 'monitoring.correlation_id of the session at the end.';
COMMENT ON COLUMN monitoring.slow_executions.traceparent IS 'W3C trace context that a comment of the statement gave: /*traceparent=''00-...''*/.';
COMMENT ON COLUMN monitoring.slow_executions.statement IS 'Its text, at most 4096 bytes, without literals unless monitoring.slow_query_literals was on; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.slow_executions.plan_hash IS 'What plans of the same shape have in common; null without a plan.';
COMMENT ON COLUMN monitoring.slow_executions.plan IS 'Its plan as EXPLAIN shows it, at most 8192 bytes, with monitoring.slow_query_plans on.';
COMMENT ON COLUMN monitoring.slow_executions.number IS 'Order within the same instant.';

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
