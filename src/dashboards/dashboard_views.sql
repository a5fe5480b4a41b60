-- dashboards: what comes with the extension. A view is the panels of one dashboard, then lines about what is no metric: alerts,
-- deliveries, workers, statements, sessions, log-ins. All lines have the same columns (dashboard_line), so that one table of a
-- dashboard program shows any of them.

----------------------------------------------------------------------------------------------------------------------
-- Lines about what is no metric
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.dashboard_alerts() RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE ROWS 6 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Alerts', 'alerts firing', jsonb_build_object('severity', c.severity), c.firing::float8, '',
		CASE WHEN c.firing = 0 THEN 'ok' WHEN c.severity = 'critical' THEN 'critical' WHEN c.severity IN ('high', 'medium') THEN 'warning' ELSE '' END,
		NULL, NULL::float8, format('%s acknowledged, %s held back, %s pending', c.acknowledged, c.suppressed, c.pending)
	FROM monitoring.alert_counts AS c
	WHERE c.firing > 0 OR c.severity IN ('critical', 'high')
	UNION ALL
	SELECT 'Alerts', 'incidents open', '{}', count(*), '', CASE WHEN count(*) = 0 THEN 'ok' ELSE 'warning' END,
		NULL, NULL, coalesce(string_agg(i.title, '; ' ORDER BY i.started_at), '')
	FROM (SELECT i.title, i.started_at FROM monitoring.incidents AS i WHERE i.resolved_at IS NULL ORDER BY i.started_at DESC LIMIT 10) AS i
$$;
COMMENT ON FUNCTION monitoring.dashboard_alerts() IS 'Lines of a dashboard: alerts firing, by severity (below high only if there are any), and the ten latest incidents that are open.';

CREATE FUNCTION monitoring.dashboard_health(at timestamptz DEFAULT clock_timestamp()) RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 6 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Health', 'health score', '{}'::jsonb, (h.health ->> 'score')::float8, 'of 100',
		CASE h.health ->> 'status' WHEN 'healthy' THEN 'ok' WHEN 'degraded' THEN 'warning' ELSE 'critical' END, NULL, NULL::float8,
		h.health ->> 'status'
	FROM (SELECT monitoring.health(at)) AS h
	UNION ALL
	(SELECT 'Health', 'health check', jsonb_build_object('check', d.check_name), -d.points, 'points',
		CASE d.status WHEN 'unhealthy' THEN 'critical' ELSE 'warning' END, NULL, NULL, coalesce(d.why, '')
	FROM monitoring.health_deductions(at) AS d
	ORDER BY d.points DESC, d.check_name LIMIT 10)
$$;
COMMENT ON FUNCTION monitoring.dashboard_health(timestamptz) IS 'Lines of a dashboard: the health score, then the ten checks that take most off it.';

CREATE FUNCTION monitoring.dashboard_sessions() RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	(SELECT 'Sessions', p.problem, jsonb_strip_nulls(jsonb_build_object('pid', p.pid, 'gid', p.gid, 'database', p.database, 'username', p.username)), p.seconds, 'seconds',
		p.level, NULL, NULL::float8, p.description
	FROM monitoring.problem_sessions AS p ORDER BY p.level = 'critical' DESC, p.seconds DESC LIMIT 10)
	UNION ALL
	(SELECT 'Sessions', 'what would free most', jsonb_strip_nulls(jsonb_build_object('pid', k.pid, 'gid', k.gid)), k.frees::float8, 'sessions', 'warning', NULL, NULL,
		concat_ws(': ', k.command, k.evidence)
	FROM monitoring.kill_advice AS k WHERE k.frees > 0 ORDER BY k.rank LIMIT 3)
$$;
COMMENT ON FUNCTION monitoring.dashboard_sessions() IS 'Lines of a dashboard: the ten worst of problem_sessions, and the three of kill_advice that would free most.';

CREATE FUNCTION monitoring.dashboard_delivery() RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Notifications', 'notifications waiting', jsonb_build_object('receiver', h.receiver), h.waiting::float8, '',
		CASE h.state WHEN 'ok' THEN 'ok' WHEN 'disabled' THEN '' WHEN 'broken' THEN 'critical' ELSE 'warning' END,
		NULL, NULL::float8, CASE WHEN h.failures = 0 THEN h.state ELSE format('%s, %s failures since %s', h.state, h.failures, h.failing_since) END
	FROM monitoring.receiver_health AS h
$$;
COMMENT ON FUNCTION monitoring.dashboard_delivery() IS 'Lines of a dashboard: receivers, what waits for each, and how it is.';

CREATE FUNCTION monitoring.dashboard_workers() RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Monitoring', 'jobs', '{}'::jsonb, count(*)::float8, '', CASE WHEN count(*) = 0 AND NOT pg_is_in_recovery() THEN 'critical' ELSE 'ok' END, NULL, NULL::float8,
		CASE WHEN pg_is_in_recovery() THEN 'a standby: they run on the primary' WHEN count(*) = 0 THEN 'no worker serves this database' ELSE format('longest run %s, latest %s', max(s.last_duration), max(s.last_run)) END
	FROM monitoring.status AS s WHERE s.database = current_database() AND s.job IS NOT NULL
	UNION ALL
	SELECT 'Monitoring', 'job fails', jsonb_build_object('job', s.job), s.failures, '', 'critical', NULL, NULL, coalesce(s.last_error, '')
	FROM monitoring.status AS s WHERE s.database = current_database() AND s.state = 'failed'
	UNION ALL
	SELECT 'Monitoring', 'metrics of the server', '{}', NULL, '', '', NULL, NULL, 'recorded in another database, the first that got the extension: see the dashboards there'
	WHERE NOT monitoring.is_home() AND NOT pg_is_in_recovery()
	UNION ALL
	SELECT 'Monitoring', v.item, '{}', v.value, v.unit, monitoring.threshold_status(v.value, v.warning, v.critical), NULL, NULL, v.description
	FROM monitoring.self AS s
	CROSS JOIN LATERAL (VALUES
		('memory of metrics', s.memory_used_ratio::float8, 'ratio', 0.8, 1.0, format('%s series; see monitoring.shared_memory', s.series)),
		('observations lost', (s.dropped + s.refused)::float8, '', 1, NULL, format('since the server started: %s dropped, %s refused', s.dropped, s.refused)),
		('series in overflow', s.overflow::float8, '', 1, NULL, 'metrics at their limit of series; see the view metrics')) AS v (item, value, unit, warning, critical, description)
$$;
COMMENT ON FUNCTION monitoring.dashboard_workers() IS 'Lines of a dashboard: the extension itself: jobs, those that fail, whether metrics of the server are elsewhere, memory, what was lost.';

CREATE FUNCTION monitoring.dashboard_statements(over interval DEFAULT '5 minutes', at timestamptz DEFAULT clock_timestamp(), lines integer DEFAULT 5)
RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 7 SET search_path = pg_catalog, pg_temp AS $$
	WITH statements AS MATERIALIZED (
		SELECT s.* FROM monitoring.statement_sums(over, at) AS s
	), costliest AS (
		SELECT c.*
		FROM monitoring.statements_over(over, at, ARRAY(SELECT s.queryid FROM statements AS s WHERE s.total_seconds > 0 ORDER BY s.total_seconds DESC LIMIT lines)) AS c
		WHERE c.total_seconds > 0
		ORDER BY c.total_seconds DESC, c.queryid LIMIT lines
	)
	SELECT 'Statements', v.item, '{}'::jsonb, v.value, v.unit, monitoring.threshold_status(v.value, v.warning, NULL), NULL, NULL::float8, v.description
	FROM (SELECT sum(s.calls) AS calls, sum(s.errors) AS errors, sum(s.cancels) AS cancels, sum(s.total_seconds) AS total_seconds, max(s.max_seconds) AS max_seconds,
			count(*) AS statements FROM statements AS s) AS t
	CROSS JOIN LATERAL (VALUES
		('statements run', coalesce(t.calls, 0) / nullif(extract(epoch FROM over)::float8, 0), 'per second', NULL::float8,
			format('%s different ones; %s failed, %s cancelled', t.statements, coalesce(t.errors, 0), coalesce(t.cancels, 0))),
		('time in statements', coalesce(t.total_seconds, 0) / nullif(extract(epoch FROM over)::float8, 0), 'sessions', NULL, 'sessions that were busy, on average'),
		('longest execution', coalesce(t.max_seconds, 0), 'seconds',
			extract(epoch FROM current_setting('monitoring.slow_query_threshold')::interval)::float8, 'see slow_queries')) AS v (item, value, unit, warning, description)
	UNION ALL
	SELECT 'Statements', 'p95 of a statement', jsonb_build_object('queryid', r.queryid::text, 'username', r.username), r.p95_seconds, 'seconds', '', NULL, NULL,
		format('%s %% of the time, %s calls: %s', round(100 * r.share_of_total_time::numeric, 1), r.calls, left(regexp_replace(r.query, '\s+', ' ', 'g'), 200))
	FROM costliest AS r
$$;
COMMENT ON FUNCTION monitoring.dashboard_statements(interval, timestamptz, integer) IS 'Lines of a dashboard: statements in the window that ends at a time, then those that took the most time.';

CREATE FUNCTION monitoring.dashboard_waits(over interval DEFAULT '5 minutes', at timestamptz DEFAULT clock_timestamp(), lines integer DEFAULT 5)
RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Waits', coalesce(w.wait_event_type, 'CPU'), jsonb_strip_nulls(jsonb_build_object('wait_event', w.wait_event)), w.average_sessions, 'sessions', '',
		NULL, NULL::float8, format('%s %% of the time of active sessions', round(100 * w.share::numeric, 1))
	FROM monitoring.wait_profile(at - over, at) AS w
	ORDER BY w.seconds DESC, w.wait_event LIMIT lines
$$;
COMMENT ON FUNCTION monitoring.dashboard_waits(interval, timestamptz, integer) IS 'Lines of a dashboard: what active sessions waited for in the window that ends at a time, as sessions on average.';

CREATE FUNCTION monitoring.dashboard_advice(lines integer DEFAULT 10) RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Advice', a.advisor, jsonb_build_object('finding', a.finding, 'object', a.object_name), a.gain, coalesce(a.gain_unit, ''),
		CASE WHEN a.severity = 'critical' THEN 'critical' WHEN a.severity IN ('high', 'medium') THEN 'warning' ELSE '' END, NULL, NULL::float8,
		left(a.summary, 300)
	FROM monitoring.advice AS a WHERE a.place <= lines ORDER BY a.place
$$;
COMMENT ON FUNCTION monitoring.dashboard_advice(integer) IS 'Lines of a dashboard: the findings of advisors that matter most, with their estimated gain.';

CREATE FUNCTION monitoring.dashboard_objectives(at timestamptz DEFAULT clock_timestamp()) RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Objectives', 'error budget left', jsonb_build_object('slo', s.slo), s.budget_remaining, 'ratio',
		monitoring.threshold_status(s.budget_remaining, 0.25, 0, true), NULL, NULL::float8,
		format('objective %s, so far %s', s.objective, coalesce(round(s.sli::numeric, 5)::text, 'unknown'))
	FROM monitoring.slo_status(NULL, at) AS s
$$;
COMMENT ON FUNCTION monitoring.dashboard_objectives(timestamptz) IS 'Lines of a dashboard: what is left of the error budgets of objectives.';

CREATE FUNCTION monitoring.dashboard_logins(at timestamptz DEFAULT clock_timestamp()) RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	WITH failed AS MATERIALIZED (
		SELECT l.username, coalesce(l.client::text, 'local') AS client, sum(l.attempts) AS attempts, max(l.last_at) AS last_at,
			string_agg(DISTINCT l.reason, ', ' ORDER BY l.reason) AS reasons
		FROM monitoring.logins AS l
		WHERE l.outcome = 'failed' AND l.at > dashboard_logins.at - interval '1 day' AND l.at <= dashboard_logins.at
		GROUP BY 1, 2
	)
	(SELECT 'Log-ins', 'log-ins failed, 24 hours', jsonb_build_object('username', f.username, 'client', f.client), f.attempts::float8, '',
		monitoring.threshold_status(f.attempts, 5, 50), NULL, NULL::float8, format('last at %s: %s', f.last_at, f.reasons)
	FROM failed AS f ORDER BY f.attempts DESC, f.last_at DESC LIMIT 10)
	UNION ALL
	SELECT 'Log-ins', 'log-ins failed, 24 hours', '{}', 0, '', 'ok', NULL, NULL, 'none' WHERE NOT EXISTS (SELECT FROM failed)
$$;
COMMENT ON FUNCTION monitoring.dashboard_logins(timestamptz) IS 'Lines of a dashboard: failed log-ins of the 24 hours before a time, by role and client, the ten with the most.';

CREATE FUNCTION monitoring.dashboard_changes(at timestamptz DEFAULT clock_timestamp()) RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Changes', c.command, jsonb_build_object('class', c.class, 'username', c.username), NULL::float8, '',
		CASE c.class WHEN 'role' THEN 'warning' WHEN 'grant' THEN 'warning' ELSE '' END, NULL, NULL::float8,
		format('%s: %s', c.at, left(regexp_replace(c.statement, '\s+', ' ', 'g'), 200))
	FROM (
		SELECT d.* FROM monitoring.changes AS d
		WHERE d.at > dashboard_changes.at - interval '1 day' AND d.at <= dashboard_changes.at
		ORDER BY d.class IN ('role', 'grant') DESC, d.at DESC LIMIT 10) AS c
	ORDER BY c.class IN ('role', 'grant') DESC, c.at DESC
$$;
COMMENT ON FUNCTION monitoring.dashboard_changes(timestamptz) IS 'Lines of a dashboard: changes of roles, rights, settings and schema of the 24 hours before a time: those of roles and rights first, then the latest.';

CREATE FUNCTION monitoring.dashboard_exposure() RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'Exposure', v.item, '{}'::jsonb, v.value, '', v.status, NULL, NULL::float8, v.description
	FROM (SELECT count(*) FILTER (WHERE r.rolsuper) AS superusers, count(*) FILTER (WHERE r.rolcreaterole AND NOT r.rolsuper) AS creators,
			string_agg(r.rolname, ', ' ORDER BY r.rolname) FILTER (WHERE r.rolsuper) AS names
		FROM pg_roles AS r WHERE r.rolcanlogin) AS r
	CROSS JOIN LATERAL (VALUES
		('superusers that can log in', r.superusers::float8, CASE WHEN r.superusers > 3 THEN 'warning' ELSE 'ok' END, left(r.names, 200)),
		('roles that can create roles', r.creators, '', ''),
		('connections without TLS', (SELECT count(*) FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a ON a.pid = s.pid WHERE NOT s.ssl AND a.client_addr IS NOT NULL
				AND NOT a.client_addr <<= '127.0.0.0/8' AND a.client_addr <> '::1'), '', 'from other hosts'),
		('TLS', CASE current_setting('ssl') WHEN 'on' THEN 1 ELSE 0 END,
			CASE WHEN current_setting('ssl') = 'on' OR current_setting('listen_addresses') IN ('', 'localhost', '127.0.0.1', '::1') THEN 'ok' ELSE 'warning' END, 'ssl = ' || current_setting('ssl')),
		('passwords', NULL, CASE current_setting('password_encryption') WHEN 'scram-sha-256' THEN 'ok' ELSE 'warning' END, 'password_encryption = ' || current_setting('password_encryption')))
		AS v (item, value, status, description)
$$;
COMMENT ON FUNCTION monitoring.dashboard_exposure() IS 'Lines of a dashboard: who could do the most harm, and what protects connections and passwords. Connections of others are seen by those who may read pg_stat_activity.';

----------------------------------------------------------------------------------------------------------------------
-- Panels
----------------------------------------------------------------------------------------------------------------------

INSERT INTO monitoring.dashboard_panel_defs (dashboard, sort_order, section, item, metric, fn, labels, of_labels, by, unit, warning, critical, low_is_bad,
	max_series, step, optional, builtin, description)
SELECT d.dashboard, 10 * row_number() OVER (), d.section, d.item, d.metric, d.fn,
	split_part(d.labels, ' of ', 1)::jsonb, nullif(split_part(d.labels, ' of ', 2), '')::jsonb,
	d.by::text[], d.unit, d.warning, d.critical, d.low_is_bad, d.max_series, d.step::interval, d.optional, true, d.description
FROM (VALUES
	('overview', 'Server', 'connections', 'pg_connections_used_ratio', 'last', '{}', '{}', 'ratio', 0.8::float8, 0.95::float8, false, 1, '5 minutes', false, 'of max_connections; see dashboard_operations'),
	('overview', 'Server', 'transactions', 'pg_transactions_total', 'rate', '{}', '{}', 'per second', NULL, NULL, false, 1, '5 minutes', false, 'of all databases'),
	('overview', 'Server', 'sessions that wait for locks', 'pg_locks_waiting', 'max', '{}', '{}', '', 5, 20, false, 1, '5 minutes', false, 'the most in one database; see blocking_tree'),
	('overview', 'Server', 'longest transaction', 'pg_longest_transaction_seconds', 'max', '{}', '{}', 'seconds', 300, 1800, false, 1, '5 minutes', false, 'holds back vacuum; see problem_sessions'),
	('overview', 'Server', 'cache hits', 'pg_block_reads_total', 'increase', '{"outcome": "hit"} of {}', '{database}', 'ratio', 0.9, 0.7, true, 1, '5 minutes', true, 'of the worst database'),
	('overview', 'Server', 'errors', 'pg_errors_total', 'increase', '{}', '{}', '', NULL, NULL, false, 1, '5 minutes', true, 'see error_issues'),
	('overview', 'Server', 'replication lag', 'pg_replication_lag_seconds', 'max', '{}', '{}', 'seconds', 10, 60, false, 1, '5 minutes', true, 'of the slowest standby'),
	('overview', 'Server', 'transaction ids', 'pg_xid_age', 'max', '{}', '{}', 'transactions', 500000000, 1000000000, false, 1, '5 minutes', false, 'age of the oldest; the server stops at 2.1 billion'),
	('overview', 'Host', 'cpu', 'host_cpu_used_ratio', 'avg', '{}', '{}', 'ratio', 0.8, 0.9, false, 1, '5 minutes', true, ''),
	('overview', 'Host', 'memory', 'host_memory_used_ratio', 'last', '{}', '{}', 'ratio', 0.8, 0.9, false, 1, '5 minutes', true, ''),
	('overview', 'Host', 'disk', 'host_disk_used_ratio', 'last', '{}', '{mount}', 'ratio', 0.85, 0.9, false, 1, '5 minutes', true, 'the fullest volume'),
	('overview', 'Applications', 'requests', 'http_server_request_duration_seconds', 'rate', '{}', '{}', 'per second', NULL, NULL, false, 1, '5 minutes', true, ''),
	('overview', 'Applications', 'request time, p95', 'http_server_request_duration_seconds', 'p95', '{}', '{}', 'seconds', 0.5, 2, false, 1, '5 minutes', true, ''),
	('overview', 'Applications', 'requests that fail', 'http_server_request_duration_seconds', 'increase', '{"status_class": "5xx"} of {}', '{}', 'ratio', 0.01, 0.02, false, 1, '5 minutes', true, ''),
	('overview', 'Applications', 'application errors', 'errors_total', 'increase', '{}', '{}', '', 10, 100, false, 1, '5 minutes', true, ''),

	('operations', 'Server', 'up', 'pg_up', 'min', '{}', '{}', '', 0.5, 0, true, 1, '5 minutes', false, ''),
	('operations', 'Server', 'connections', 'pg_connections_used_ratio', 'last', '{}', '{}', 'ratio', 0.8, 0.95, false, 1, '5 minutes', false, 'of max_connections; see connection_pool'),
	('operations', 'Server', 'sessions', 'pg_connections', 'last', '{}', '{state}', '', NULL, NULL, false, 6, '5 minutes', false, 'by state'),
	('operations', 'Server', 'transactions', 'pg_transactions_total', 'rate', '{}', '{outcome}', 'per second', NULL, NULL, false, 2, '5 minutes', false, ''),
	('operations', 'Server', 'longest transaction', 'pg_longest_transaction_seconds', 'max', '{}', '{database}', 'seconds', 300, 1800, false, 3, '5 minutes', false, 'see problem_sessions'),
	('operations', 'Server', 'longest idle in transaction', 'pg_longest_idle_transaction_seconds', 'max', '{}', '{database}', 'seconds', 60, 600, false, 3, '5 minutes', false, 'see kill_advice'),
	('operations', 'Server', 'sessions that wait for locks', 'pg_locks_waiting', 'max', '{}', '{database}', '', 5, 20, false, 3, '5 minutes', false, 'see blocking_tree'),
	('operations', 'Server', 'errors', 'pg_errors_total', 'increase', '{}', '{sqlstate_class}', '', NULL, NULL, false, 5, '5 minutes', true, 'see error_issues'),
	('operations', 'Host', 'cpu', 'host_cpu_used_ratio', 'avg', '{}', '{host}', 'ratio', 0.8, 0.9, false, 3, '5 minutes', true, ''),
	('operations', 'Host', 'load', 'host_load1', 'avg', '{}', '{host}', '', NULL, NULL, false, 3, '5 minutes', true, ''),
	('operations', 'Host', 'memory', 'host_memory_used_ratio', 'last', '{}', '{host}', 'ratio', 0.8, 0.9, false, 3, '5 minutes', true, ''),
	('operations', 'Host', 'swap', 'host_swap_used_bytes', 'last', '{}', '{host}', 'bytes', NULL, NULL, false, 3, '5 minutes', true, ''),
	('operations', 'Host', 'disk', 'host_disk_used_ratio', 'last', '{}', '{host,mount}', 'ratio', 0.85, 0.9, false, 5, '5 minutes', true, ''),
	('operations', 'Host', 'disk reads', 'host_disk_read_bytes_total', 'rate', '{}', '{host,device}', 'bytes per second', NULL, NULL, false, 3, '5 minutes', true, ''),
	('operations', 'Host', 'disk writes', 'host_disk_written_bytes_total', 'rate', '{}', '{host,device}', 'bytes per second', NULL, NULL, false, 3, '5 minutes', true, ''),
	('operations', 'Host', 'pressure', 'host_pressure_ratio', 'avg', '{}', '{host,resource}', 'ratio', NULL, NULL, false, 3, '5 minutes', true, 'time in which something waited'),
	('operations', 'Applications', 'requests', 'http_server_request_duration_seconds', 'rate', '{}', '{service}', 'per second', NULL, NULL, false, 5, '5 minutes', true, ''),
	('operations', 'Applications', 'request time, p95', 'http_server_request_duration_seconds', 'p95', '{}', '{service}', 'seconds', 0.5, 2, false, 5, '5 minutes', true, ''),
	('operations', 'Applications', 'requests that fail', 'http_server_request_duration_seconds', 'increase', '{"status_class": "5xx"} of {}', '{service}', 'ratio', 0.01, 0.02, false, 5, '5 minutes', true, ''),
	('operations', 'Applications', 'application errors', 'errors_total', 'increase', '{}', '{service}', '', 10, 100, false, 5, '5 minutes', true, ''),
	('operations', 'Applications', 'longest queue', 'queue_oldest_seconds', 'max', '{}', '{queue}', 'seconds', 60, 600, false, 5, '5 minutes', true, ''),

	('database', 'Load', 'transactions', 'pg_transactions_total', 'rate', '{}', '{database,outcome}', 'per second', NULL, NULL, false, 8, '5 minutes', false, ''),
	('database', 'Load', 'cache hits', 'pg_block_reads_total', 'increase', '{"outcome": "hit"} of {}', '{database}', 'ratio', 0.9, 0.7, true, 5, '5 minutes', true, ''),
	('database', 'Load', 'temporary files', 'pg_temp_bytes_total', 'rate', '{}', '{database}', 'bytes per second', NULL, NULL, false, 5, '5 minutes', true, 'sorts and hashes beyond work_mem'),
	('database', 'Load', 'deadlocks', 'pg_deadlocks_total', 'increase', '{}', '{database}', '', 1, NULL, false, 5, '5 minutes', true, ''),
	('database', 'Load', 'longest lock wait', 'pg_lock_longest_wait_seconds', 'max', '{}', '{database}', 'seconds', 10, 60, false, 5, '5 minutes', true, 'see blocking_tree'),
	('database', 'Log and checkpoints', 'write-ahead log', 'pg_wal_bytes_total', 'rate', '{}', '{}', 'bytes per second', NULL, NULL, false, 1, '5 minutes', true, ''),
	('database', 'Log and checkpoints', 'checkpoints', 'pg_checkpoints_total', 'increase', '{}', '{cause}', '', NULL, NULL, false, 2, '5 minutes', true, 'requested ones: raise max_wal_size'),
	('database', 'Log and checkpoints', 'archiving fails', 'pg_archive_failed_total', 'increase', '{}', '{}', '', 1, 5, false, 1, '5 minutes', true, ''),
	('database', 'Replication', 'lag', 'pg_replication_lag_seconds', 'max', '{}', '{standby}', 'seconds', 10, 60, false, 5, '5 minutes', true, ''),
	('database', 'Replication', 'log kept by slots', 'pg_replication_slot_retained_bytes', 'last', '{}', '{slot}', 'bytes', 1073741824, 10737418240, false, 5, '5 minutes', true, ''),
	('database', 'Space', 'databases', 'pg_database_bytes', 'last', '{}', '{database}', 'bytes', NULL, NULL, false, 5, '15 minutes', true, ''),
	('database', 'Space', 'largest tables', 'pg_table_bytes', 'last', '{}', '{database,table}', 'bytes', NULL, NULL, false, 5, '15 minutes', true, 'with indexes'),
	('database', 'Space', 'dead rows', 'pg_table_dead_tuples_ratio', 'last', '{}', '{database,table}', 'ratio', 0.2, 0.5, false, 5, '15 minutes', true, 'see advice'),
	('database', 'Limits', 'transaction ids', 'pg_xid_age', 'max', '{}', '{database}', 'transactions', 500000000, 1000000000, false, 5, '5 minutes', true, 'age of the oldest'),
	('database', 'Limits', 'sequences', 'pg_sequence_used_ratio', 'max', '{}', '{database,sequence}', 'ratio', 0.75, 0.9, false, 5, '15 minutes', true, 'part of the range that is used'),

	('security', 'Log-ins', 'log-ins to the server', 'pg_logins_total', 'increase', '{}', '{outcome}', '', NULL, NULL, false, 2, '1 hour', false, ''),
	('security', 'Log-ins', 'failures, by reason', 'pg_login_failures_total', 'increase', '{}', '{reason}', '', 10, 100, false, 5, '1 hour', true, ''),
	('security', 'Log-ins', 'log-ins to applications', 'logins_total', 'increase', '{}', '{outcome}', '', NULL, NULL, false, 5, '1 hour', true, ''),
	('security', 'Errors', 'permission denied', 'pg_errors_total', 'increase', '{"sqlstate": "42501"}', '{}', '', 10, 100, false, 1, '1 hour', true, 'see recent_errors'),
	('security', 'Errors', 'syntax errors', 'pg_errors_total', 'increase', '{"sqlstate": "42601"}', '{}', '', 100, 1000, false, 1, '1 hour', true, 'many may be attempts at SQL injection'),
	('security', 'Errors', 'rejected by rate limits', 'rate_limited_requests_total', 'increase', '{}', '{}', '', NULL, NULL, false, 1, '1 hour', true, ''),
	('security', 'Changes', 'changes', 'pg_changes_total', 'increase', '{}', '{class}', '', NULL, NULL, false, 5, '1 hour', true, 'of schema, rights, roles, settings')
) AS d (dashboard, section, item, metric, fn, labels, by, unit, warning, critical, low_is_bad, max_series, step, optional, description);

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

-- A view shows its parts one after the other.
DO $$
DECLARE
	v record;
BEGIN
	FOR v IN SELECT * FROM (VALUES
		('overview', $parts${dashboard_health(),dashboard_alerts(),dashboard('overview'),dashboard_statements(lines => 1),dashboard_advice(3),
			dashboard_objectives(),dashboard_delivery(),dashboard_workers()}$parts$::text[],
			'How everything is, a line for each thing: health, alerts, the server, the host, applications, statements, deliveries, the extension itself.'),
		('dashboard_operations', $parts${dashboard_health(),dashboard_alerts(),dashboard('operations'),dashboard_sessions(),dashboard_waits(lines => 3),
			dashboard_objectives(),dashboard_delivery(),dashboard_workers()}$parts$,
			'For those on call: alerts, health checks, server, host, applications, problem sessions, deliveries.'),
		('dashboard_database', $parts${dashboard('database'),dashboard_statements(),dashboard_waits(),dashboard_advice()}$parts$,
			'For DBAs: load, log, replication, space, limits, statements, waits, advice.'),
		('dashboard_security', $parts${dashboard('security'),dashboard_logins(),dashboard_changes(),dashboard_exposure()}$parts$,
			'Log-ins, denied access, changes of roles and rights, exposure.')
	) AS v (name, parts, comment)
	LOOP
		EXECUTE format(
			'CREATE VIEW monitoring.%I AS
				SELECT l.section, l.item, l.series_labels, l.value, l.unit, l.status, l.trend, l.day_before, l.description
				FROM (%s) AS l
				ORDER BY l.part, l.ordinality', v.name,
			(SELECT string_agg(format('SELECT %s AS part, p.* FROM monitoring.%s WITH ORDINALITY AS p', p.ordinality, p.part), ' UNION ALL ')
				FROM unnest(v.parts) WITH ORDINALITY AS p (part)));
		EXECUTE format('COMMENT ON VIEW monitoring.%I IS %L', v.name,
			format('%s Panels: dashboard ''%s''.', v.comment, replace(v.name, 'dashboard_', '')));
		PERFORM monitoring.inherit_comments(format('monitoring.%I', v.name), 'monitoring.dashboard_line');
	END LOOP;
END $$;
