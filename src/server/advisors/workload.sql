-- advisors of the workload: statements, caches, connections, slots.

CREATE FUNCTION monitoring.find_cache_misses(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'database', quote_ident(current_database()), CASE WHEN r.hits < (thresholds ->> 'medium_ratio')::float8 THEN 'medium' ELSE 'low' END, 1 - r.hits,
		format('%s %% of the pages that were read were not in shared_buffers.', round(((1 - r.hits) * 100)::numeric, 1)),
		jsonb_build_object('hit_ratio', round(r.hits::numeric, 4), 'read_bytes', r.read * b.size, 'over_seconds', c.seconds, 'shared_buffers', current_setting('shared_buffers')),
		NULL::float8, NULL, NULL, NULL
	FROM monitoring.counters_since(find_cache_misses.at) AS c
	CROSS JOIN (SELECT current_setting('block_size')::float8 AS size) AS b
	CROSS JOIN LATERAL (SELECT (c.counters ->> 'blks_read')::float8 AS read,
		(c.counters ->> 'blks_hit')::float8 / nullif((c.counters ->> 'blks_hit')::float8 + (c.counters ->> 'blks_read')::float8, 0) AS hits) AS r
	WHERE r.read * b.size >= (thresholds ->> 'min_read_bytes')::float8 AND r.hits < (thresholds ->> 'low_ratio')::float8
	UNION ALL
	SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	FROM monitoring.counters_since(find_cache_misses.at) AS c
	WHERE c.seconds IS NULL OR c.seconds < 3600
$$;
COMMENT ON FUNCTION monitoring.find_cache_misses(timestamptz, jsonb) IS 'Advisor cache_misses, from the counters of the last hours. Thresholds: min_read_bytes, low_ratio and medium_ratio of hits.';

CREATE FUNCTION monitoring.find_slow_statements(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH statements AS (
		SELECT s.queryid, sum(s.calls) AS calls, sum(s.total_seconds) AS total, sum(s.share_of_total_time) AS share, max(s.p95_seconds) AS p95,
			max(s.max_seconds) AS longest, sum(s.rows) AS rows, sum(s.shared_read_bytes) AS read, sum(s.temp_written_bytes) AS temp
		FROM monitoring.statements_over('1 day', find_slow_statements.at, ARRAY(
			SELECT c.queryid FROM monitoring.statement_sums('1 day', find_slow_statements.at) AS c GROUP BY c.queryid
			HAVING sum(c.calls) >= (thresholds ->> 'min_calls')::float8 AND sum(c.total_seconds) >= (thresholds ->> 'min_seconds')::float8)) AS s
		WHERE s.queryid <> 0 AND s.calls > 0
		GROUP BY s.queryid
	)
	SELECT 'statement', s.queryid::text, CASE WHEN s.share >= (thresholds ->> 'high_share')::float8 THEN 'high' ELSE 'medium' END, least(s.share, 1),
		format('A statement took %s %% of the time of all in a day: %s calls of %s ms on average, 95 %% below %s ms.', round((s.share * 100)::numeric, 1), s.calls,
			round((s.total / s.calls * 1000)::numeric, 1), round((s.p95 * 1000)::numeric, 1)),
		jsonb_build_object('calls', s.calls, 'total_seconds', round(s.total::numeric, 3), 'share_of_total_time', round(s.share::numeric, 4),
			'mean_seconds', round((s.total / s.calls)::numeric, 6), 'p95_seconds', round(s.p95::numeric, 6), 'max_seconds', round(s.longest::numeric, 6),
			'rows', s.rows, 'shared_read_bytes', s.read, 'temp_written_bytes', s.temp),
		s.total, 'seconds_per_day', NULL, NULL
	FROM statements AS s
	WHERE (s.total / s.calls >= (thresholds ->> 'min_mean_seconds')::float8 AND s.share >= (thresholds ->> 'min_share')::float8
			OR s.p95 >= (thresholds ->> 'p95_seconds')::float8)
$$;
COMMENT ON FUNCTION monitoring.find_slow_statements(timestamptz, jsonb) IS 'Advisor slow_statements, of the last day. Thresholds: min_calls; min_seconds of all calls; min_mean_seconds and min_share of the time of all statements, or p95_seconds; high_share.';

CREATE FUNCTION monitoring.find_spilling_statements(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT ON (s.queryid) 'statement', s.queryid::text, 'medium', s.temp_written_bytes / nullif(sum(s.temp_written_bytes) OVER (), 0)::float8,
		format('A statement wrote %s to temporary files in a day, %s a call.', pg_size_pretty(s.temp_written_bytes), pg_size_pretty(n.each::bigint)),
		jsonb_build_object('calls', s.calls, 'temp_written_bytes', s.temp_written_bytes, 'bytes_per_call', round(n.each::numeric), 'role', s.username,
			'work_mem', current_setting('work_mem')),
		s.temp_written_bytes::float8, 'bytes_per_day',
		-- in memory it takes about twice the room that it takes on disk
		CASE WHEN n.each * 2 <= (thresholds ->> 'max_work_mem')::float8
			THEN format('ALTER ROLE %I IN DATABASE %I SET work_mem = %L;', s.username, current_database(),
				greatest(ceil(n.each * 2 / 1048576), ceil(monitoring.setting_bytes('work_mem') / 1048576)) || 'MB') END,
		NULL
	FROM monitoring.statements_over('1 day', find_spilling_statements.at, ARRAY(
		SELECT c.queryid FROM monitoring.statement_sums('1 day', find_spilling_statements.at) AS c
		WHERE c.temp_written_bytes >= (thresholds ->> 'min_bytes')::float8)) AS s
	CROSS JOIN LATERAL (SELECT s.temp_written_bytes / greatest(s.calls, 1)::float8 AS each) AS n
	WHERE s.queryid <> 0 AND s.temp_written_bytes >= (thresholds ->> 'min_bytes')::float8
	ORDER BY s.queryid, s.temp_written_bytes DESC
$$;
COMMENT ON FUNCTION monitoring.find_spilling_statements(timestamptz, jsonb) IS 'Advisor spilling_statements, of the last day. Thresholds: min_bytes written to temporary files; max_work_mem in bytes that may be proposed.';

CREATE FUNCTION monitoring.find_connection_use(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH facts AS MATERIALIZED (
		SELECT count(*) FILTER (WHERE a.backend_type = 'client backend')::float8 AS used,
			count(*) FILTER (WHERE a.backend_type = 'client backend' AND a.state = 'idle'
				AND a.state_change < find_connection_use.at - (thresholds ->> 'idle_for')::interval)::float8 AS idle,
			-- those that are reserved for others by 16
			current_setting('max_connections')::float8 - current_setting('superuser_reserved_connections')::float8
				- coalesce(current_setting('reserved_connections', true)::float8, 0) AS available
		FROM pg_stat_activity AS a
	), sessions AS (
		SELECT c.seconds, (c.counters ->> 'sessions')::float8 AS opened, (c.counters ->> 'session_time')::float8 / 1000 AS lived
		FROM monitoring.counters_since(find_connection_use.at) AS c
	)
	SELECT 'server', 'connections', CASE WHEN f.used / f.available >= (thresholds ->> 'critical_ratio')::float8 THEN 'critical' ELSE 'high' END,
		least(f.used / f.available, 1), format('%s of %s connections are in use; when none is left, nobody can log in.', f.used, f.available),
		jsonb_build_object('used', f.used, 'available', f.available, 'idle', f.idle), NULL::float8, NULL, NULL, NULL
	FROM facts AS f
	WHERE f.used / f.available >= (thresholds ->> 'high_ratio')::float8
	UNION ALL
	SELECT 'server', 'idle connections', 'low', f.idle / f.used,
		format('%s of %s sessions have done nothing for %s: a connection pooler needs fewer.', f.idle, f.used, thresholds ->> 'idle_for'),
		jsonb_build_object('used', f.used, 'idle', f.idle), f.idle, 'connections', NULL, NULL
	FROM facts AS f
	WHERE f.idle >= (thresholds ->> 'min_idle')::float8 AND f.idle >= f.used * (thresholds ->> 'idle_ratio')::float8
	UNION ALL
	SELECT 'database', quote_ident(current_database()), 'low', least(s.opened / s.seconds / 100, 1),
		format('%s sessions a second are opened and live for %s s on average: a connection pooler saves opening them.', round((s.opened / s.seconds)::numeric, 1),
			round((s.lived / s.opened)::numeric, 2)),
		jsonb_build_object('opened', s.opened, 'over_seconds', s.seconds, 'mean_session_seconds', round((s.lived / s.opened)::numeric, 3)),
		s.opened * 86400 / s.seconds, 'connections_per_day', NULL, NULL
	FROM sessions AS s
	WHERE s.seconds >= 3600 AND s.opened / s.seconds >= (thresholds ->> 'opened_per_second')::float8
		AND s.lived / nullif(s.opened, 0) <= (thresholds ->> 'short_seconds')::float8
	UNION ALL
	SELECT (monitoring.setting_advice('max_connections', greatest(ceil(f.used * 2 / 50) * 50, 100)::text, 'info', 0.2,
		format('%s connections are allowed and %s are in use: each that is allowed takes shared memory, and nothing bounds a rush.',
			current_setting('max_connections'), f.used), jsonb_build_object('used', f.used))).*
	FROM facts AS f
	WHERE current_setting('max_connections')::float8 >= (thresholds ->> 'many_connections')::float8 AND f.used < current_setting('max_connections')::float8 / 10
$$;
COMMENT ON FUNCTION monitoring.find_connection_use(timestamptz, jsonb) IS 'Advisor connection_use. Thresholds: high_ratio, critical_ratio of those that are allowed; idle_for (interval), min_idle, idle_ratio of sessions; opened_per_second and short_seconds of a session''s life; many_connections that are allowed.';

CREATE FUNCTION monitoring.find_inactive_slots(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'replication slot', quote_ident(s.slot_name),
		CASE WHEN s.wal_status = 'lost' OR b.bytes >= (thresholds ->> 'high_bytes')::float8 OR s.wal_status = 'unreserved' THEN 'high' ELSE 'medium' END,
		least(b.bytes / (thresholds ->> 'high_bytes')::float8, 1),
		CASE WHEN s.wal_status = 'lost' THEN format('Replication slot %I has lost WAL that its reader needs.', s.slot_name)
			ELSE format('Nobody reads replication slot %I, and the server keeps %s of WAL for it.', s.slot_name, pg_size_pretty(b.bytes::bigint)) END,
		jsonb_build_object('kept_bytes', b.bytes, 'wal_status', s.wal_status, 'type', s.slot_type, 'database', s.database, 'safe_wal_bytes', s.safe_wal_size),
		b.bytes, 'bytes', format('SELECT pg_drop_replication_slot(%L);', s.slot_name),
		format('SELECT NOT EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.slot_name = %L AND NOT s.active) AS fixed', s.slot_name)
	FROM pg_replication_slots AS s
	CROSS JOIN LATERAL (
		SELECT CASE WHEN NOT pg_is_in_recovery() THEN coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0) ELSE 0 END::float8 AS bytes) AS b
	WHERE NOT s.active AND NOT s.temporary AND (b.bytes >= (thresholds ->> 'min_bytes')::float8 OR s.wal_status IN ('unreserved', 'lost'))
$$;
COMMENT ON FUNCTION monitoring.find_inactive_slots(timestamptz, jsonb) IS 'Advisor inactive_slots. Thresholds: min_bytes and high_bytes of WAL that is kept.';

INSERT INTO monitoring.advisors (name, function, category, every, thresholds, description, builtin) VALUES
	('cache_misses', 'monitoring.find_cache_misses', 'workload', '6 hours', '{"min_read_bytes": 1073741824, "low_ratio": 0.95, "medium_ratio": 0.9}',
		'Less than 95 % of the pages in shared_buffers, of a day with 1 GB of reads or more.', true),
	('slow_statements', 'monitoring.find_slow_statements', 'workload', '6 hours',
		'{"min_calls": 10, "min_seconds": 60, "min_mean_seconds": 0.02, "min_share": 0.1, "p95_seconds": 1, "high_share": 0.5}',
		'Statements that took a tenth of the time of all in a day, of 20 ms or more each, or of which 5 % take a second; high from half of it.', true),
	('spilling_statements', 'monitoring.find_spilling_statements', 'workload', '1 day', '{"min_bytes": 1073741824, "max_work_mem": 268435456}',
		'Statements that wrote 1 GB or more to temporary files in a day.', true),
	('connection_use', 'monitoring.find_connection_use', 'workload', '10 minutes',
		'{"high_ratio": 0.8, "critical_ratio": 0.95, "idle_for": "10 minutes", "min_idle": 50, "idle_ratio": 0.8, "opened_per_second": 1, "short_seconds": 1, "many_connections": 500}',
		'Connections that run out, sessions that are idle or short: what a pooler is for.', true),
	('inactive_slots', 'monitoring.find_inactive_slots', 'workload', '1 hour', '{"min_bytes": 1073741824, "high_bytes": 10737418240}',
		'Replication slots that nobody reads and that keep 1 GB of WAL or more, or have lost some.', true);
