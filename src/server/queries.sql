
-- server: which statements are new, which have become slower, and all that is known of one.

CREATE FUNCTION monitoring.new_queries(over interval DEFAULT '1 day', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (queryid bigint, usernames name[], query text, first_seen timestamptz, calls bigint, errors bigint, mean_seconds float8,
	p95_seconds float8, max_seconds float8, total_seconds float8, share_of_total_time float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH firsts AS (
		SELECT s.queryid, min(s.first_seen) AS first_seen
		FROM monitoring.statements AS s
		WHERE s.queryid <> 0
		GROUP BY s.queryid
		HAVING min(s.first_seen) > new_queries.at - new_queries.over
			-- the clock goes on between the caller's look at it and ours
			AND min(s.first_seen) <= new_queries.at + interval '1 minute'
	)
	SELECT w.queryid, array_agg(w.username ORDER BY w.username), min(w.query), f.first_seen, sum(w.calls)::bigint, sum(w.errors)::bigint,
		sum(w.total_seconds) / nullif(sum(w.calls), 0), max(w.p95_seconds), max(w.max_seconds), sum(w.total_seconds), sum(w.share_of_total_time)
	FROM firsts AS f
	JOIN monitoring.statements_over(new_queries.over, new_queries.at, ARRAY(SELECT n.queryid FROM firsts AS n)) AS w ON w.queryid = f.queryid
	GROUP BY w.queryid, f.first_seen
	ORDER BY sum(w.total_seconds) DESC NULLS LAST, w.queryid
$$;
COMMENT ON FUNCTION monitoring.new_queries(interval, timestamptz) IS 'Statements that no role ran before (at - over, at], as far as is known, and what they did in it, costliest first. p95_seconds is that of the role for which it is highest. One that did not run for 60 days is forgotten, and then new; right after CREATE EXTENSION all are.';

-- How many of them memory and tables have the planner does not know: a nested loop over them would be slow.
CREATE FUNCTION monitoring.regressed_queries(over interval DEFAULT '1 hour', at timestamptz DEFAULT clock_timestamp(),
	baseline interval DEFAULT '7 days', min_ratio float8 DEFAULT 2, min_duration interval DEFAULT '20 ms', min_calls bigint DEFAULT 50)
RETURNS TABLE (queryid bigint, username name, query text, reasons text[], p95_ratio float8, lost_seconds float8, calls bigint,
	baseline_calls bigint, p95_seconds float8, baseline_p95_seconds float8, mean_seconds float8, baseline_mean_seconds float8,
	calls_per_hour float8, baseline_max_calls_per_hour float8, bytes_per_call float8, baseline_bytes_per_call float8, plan_changed boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH candidates AS MATERIALIZED (
		SELECT c.queryid, c.userid
		FROM monitoring.statement_sums(regressed_queries.over, regressed_queries.at) AS c
		CROSS JOIN (SELECT extract(epoch FROM regressed_queries.min_duration)::float8 AS floor) AS f
		WHERE c.calls >= regressed_queries.min_calls AND c.calls > 0 AND c.queryid <> 0
			-- no reason can hold for the others, whatever they did before: most statements, whose hours need not be read
			AND (c.max_seconds >= f.floor OR c.total_seconds >= f.floor * regressed_queries.min_calls OR c.shared_bytes >= 1048576 * c.calls)
	), latest AS MATERIALIZED (
		SELECT s.queryid, s.username, s.query, s.calls, s.p95_seconds, s.mean_seconds, s.total_seconds,
			s.calls * 3600 / extract(epoch FROM regressed_queries.over)::float8 AS calls_per_hour,
			(s.shared_hit_bytes + s.shared_read_bytes)::float8 / s.calls AS bytes_per_call
		FROM monitoring.statements_over(regressed_queries.over, regressed_queries.at, ARRAY(SELECT c.queryid FROM candidates AS c)) AS s
		JOIN candidates AS c ON c.queryid = s.queryid AND pg_get_userbyid(c.userid) = s.username
	), hours AS (
		SELECT h.queryid, h.username, h.bucket, sum(h.calls) AS calls, monitoring.merge(h.latency) AS latency,
			sum(h.total_seconds) AS total_seconds, sum(h.shared_hit_bytes + h.shared_read_bytes) AS bytes
		FROM latest AS l
		JOIN monitoring.statement_hourly AS h ON h.queryid = l.queryid AND h.username = l.username
		WHERE h.bucket > regressed_queries.at - regressed_queries.over - regressed_queries.baseline
			AND h.bucket <= regressed_queries.at - regressed_queries.over
		GROUP BY h.queryid, h.username, h.bucket
	), earlier AS (
		SELECT h.queryid, h.username, sum(h.calls)::bigint AS calls, monitoring.percentile(monitoring.merge(h.latency), 0.95) AS p95_seconds,
			sum(h.total_seconds) / nullif(sum(h.calls), 0)::float8 AS mean_seconds, max(h.calls)::float8 AS max_calls_per_hour,
			sum(h.bytes)::float8 / nullif(sum(h.calls), 0)::float8 AS bytes_per_call
		FROM hours AS h
		GROUP BY h.queryid, h.username
		HAVING sum(h.calls) >= regressed_queries.min_calls
	), plans AS (
		SELECT p.queryid, p.username, NOT array_agg(p.plan_hash) FILTER (WHERE p.late) <@ array_agg(p.plan_hash) FILTER (WHERE NOT p.late) AS changed
		FROM (
			SELECT DISTINCT e.queryid, e.username::name AS username, e.plan_hash, e.at > regressed_queries.at - regressed_queries.over AS late
			FROM monitoring.slow_executions AS e
			WHERE e.plan_hash IS NOT NULL AND e.at > regressed_queries.at - regressed_queries.over - regressed_queries.baseline
				AND e.at <= regressed_queries.at
		) AS p
		GROUP BY p.queryid, p.username
	), compared AS (
		SELECT l.*, e.calls AS baseline_calls, e.p95_seconds AS baseline_p95, e.mean_seconds AS baseline_mean, e.max_calls_per_hour,
			e.bytes_per_call AS baseline_bytes, p.changed AS plan_changed,
			extract(epoch FROM regressed_queries.min_duration)::float8 AS floor
		FROM latest AS l
		JOIN earlier AS e ON e.queryid = l.queryid AND e.username = l.username
		LEFT JOIN plans AS p ON p.queryid = l.queryid AND p.username = l.username
	)
	SELECT c.queryid, c.username, c.query, r.reasons, c.p95_seconds / nullif(c.baseline_p95, 0),
		(c.mean_seconds - c.baseline_mean) * c.calls, c.calls, c.baseline_calls, c.p95_seconds, c.baseline_p95, c.mean_seconds, c.baseline_mean,
		c.calls_per_hour, c.max_calls_per_hour, c.bytes_per_call, c.baseline_bytes, c.plan_changed
	FROM compared AS c
	CROSS JOIN LATERAL (
		SELECT array_remove(ARRAY[
			CASE WHEN c.p95_seconds >= regressed_queries.min_ratio * c.baseline_p95 AND c.p95_seconds >= c.floor THEN 'p95' END,
			CASE WHEN c.mean_seconds >= regressed_queries.min_ratio * c.baseline_mean AND c.mean_seconds >= c.floor THEN 'mean' END,
			CASE WHEN c.calls_per_hour >= regressed_queries.min_ratio * c.max_calls_per_hour AND c.total_seconds >= c.floor * regressed_queries.min_calls
				THEN 'calls' END,
			CASE WHEN c.bytes_per_call >= regressed_queries.min_ratio * c.baseline_bytes AND c.bytes_per_call - c.baseline_bytes >= 1048576
				THEN 'buffers' END
		], NULL) AS found
	) AS f
	CROSS JOIN LATERAL (
		SELECT f.found || CASE WHEN c.plan_changed THEN '{plan}'::text[] ELSE '{}' END AS reasons
	) AS r
	WHERE f.found <> '{}'
	ORDER BY (c.mean_seconds - c.baseline_mean) * c.calls DESC, c.queryid, c.username
$$;
COMMENT ON FUNCTION monitoring.regressed_queries(interval, timestamptz, interval, float8, interval, bigint) IS 'Statements that do worse in (at - over, at] than before, per role, those that lose most time first, compared with their own full hours of the `baseline` before it. reasons: p95, mean: min_ratio times as long and min_duration or longer; calls: min_ratio times those of the busiest hour, and min_calls times min_duration in all; buffers: min_ratio times and 1 MB more per execution; plan, besides one of those: slow executions had plans that they had not before (null plan_changed: none is known; see monitoring.slow_query_plans). Both sides need min_calls executions. lost_seconds: what the difference of the means comes to.';

CREATE FUNCTION monitoring.query_report(queryid bigint, over interval DEFAULT '7 days', at timestamptz DEFAULT clock_timestamp()) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
	starts CONSTANT timestamptz := query_report.at - query_report.over;
	report jsonb;
BEGIN
	WITH parts AS MATERIALIZED (
		SELECT h.since AS hour, h.username, h.toplevel, h.calls, h.errors, h.cancels, h.rows, h.latency, h.max_seconds, h.total_seconds,
			h.planning_seconds, h.shared_hit_bytes, h.shared_read_bytes, h.temp_written_bytes, h.wal_bytes, h.io_read_seconds, h.io_write_seconds
		FROM monitoring.statement_hourly AS h
		CROSS JOIN monitoring.statement_clock AS c
		WHERE h.queryid = query_report.queryid AND h.bucket > starts AND h.bucket <= least(query_report.at, c.rolled_up_to)
		UNION ALL
		SELECT date_trunc('hour', d.bucket - interval '1 microsecond', 'UTC'), d.username, d.toplevel, d.calls, d.errors, d.cancels, d.rows, d.latency,
			d.max_seconds, d.total_seconds, d.planning_seconds, d.shared_hit_bytes, d.shared_read_bytes, d.temp_written_bytes, d.wal_bytes,
			d.io_read_seconds, d.io_write_seconds
		FROM monitoring.statement_history AS d
		CROSS JOIN monitoring.statement_clock AS c
		WHERE d.queryid = query_report.queryid AND d.bucket > starts AND d.bucket <= query_report.at
			-- hours that are rolled up are taken as such, and the last one so far as it goes
			AND (d.bucket > c.rolled_up_to OR d.bucket > date_trunc('hour', query_report.at, 'UTC')) IS NOT FALSE
		UNION ALL
		SELECT date_trunc('hour', query_report.at, 'UTC'), l.username, l.toplevel, l.calls, l.errors, l.cancels, l.rows, l.latency, l.max_seconds,
			l.total_seconds, l.planning_seconds, l.shared_hit_bytes, l.shared_read_bytes, l.temp_written_bytes, l.wal_bytes,
			l.io_read_seconds, l.io_write_seconds
		FROM monitoring.statement_live AS l
		WHERE l.queryid = query_report.queryid AND l.since < query_report.at AND l.bucket > starts
			AND l.bucket <= query_report.at + interval '1 minute'
	), sums AS (
		SELECT p.hour, p.username, sum(p.calls) AS calls, sum(p.errors) AS errors, sum(p.cancels) AS cancels, sum(p.rows) AS rows,
			monitoring.merge(p.latency) AS latency, max(p.max_seconds) AS max_seconds, sum(p.total_seconds) AS total_seconds,
			sum(p.planning_seconds) AS planning_seconds, sum(p.shared_hit_bytes) AS shared_hit_bytes, sum(p.shared_read_bytes) AS shared_read_bytes,
			sum(p.temp_written_bytes) AS temp_written_bytes, sum(p.wal_bytes) AS wal_bytes, sum(p.io_read_seconds) AS io_read_seconds,
			sum(p.io_write_seconds) AS io_write_seconds, sum(p.calls) FILTER (WHERE p.toplevel) AS toplevel_calls
		FROM parts AS p
		-- one row of all, one of each hour, one of each role
		GROUP BY GROUPING SETS ((), (p.hour), (p.username))
	), figures AS (
		SELECT s.hour, s.username, s.total_seconds, jsonb_build_object('calls', s.calls, 'errors', s.errors, 'cancels', s.cancels, 'rows', s.rows,
			'mean_seconds', s.total_seconds / nullif(s.calls, 0)::float8, 'p50_seconds', p.p[1], 'p95_seconds', p.p[2], 'p99_seconds', p.p[3],
			'max_seconds', s.max_seconds, 'total_seconds', s.total_seconds, 'planning_seconds', s.planning_seconds,
			'shared_hit_bytes', s.shared_hit_bytes, 'shared_read_bytes', s.shared_read_bytes, 'temp_written_bytes', s.temp_written_bytes,
			'wal_bytes', s.wal_bytes, 'io_read_seconds', s.io_read_seconds, 'io_write_seconds', s.io_write_seconds,
			'toplevel_calls', coalesce(s.toplevel_calls, 0)) AS figures
		FROM sums AS s
		CROSS JOIN LATERAL monitoring.percentiles(s.latency, '{0.5,0.95,0.99}') AS p (p)
	), slow AS MATERIALIZED (
		SELECT e.*
		FROM monitoring.slow_executions AS e
		WHERE e.queryid = query_report.queryid AND e.at > starts AND e.at <= query_report.at
	)
	SELECT jsonb_build_object(
		'queryid', query_report.queryid::text,
		'database', current_database(),
		'since', starts, 'until', query_report.at,
		'query', s.query, 'first_seen', s.first_seen, 'last_seen', s.last_seen,
		'totals', (SELECT f.figures FROM figures AS f WHERE f.hour IS NULL AND f.username IS NULL),
		'users', (SELECT coalesce(jsonb_agg(f.figures || jsonb_build_object('username', f.username) ORDER BY f.total_seconds DESC), '[]')
			FROM figures AS f WHERE f.username IS NOT NULL),
		'hours', (SELECT coalesce(jsonb_agg(f.figures || jsonb_build_object('hour', f.hour) ORDER BY f.hour), '[]')
			FROM figures AS f WHERE f.hour IS NOT NULL),
		'regressions', (SELECT coalesce(jsonb_agg(to_jsonb(r) - 'queryid' - 'query'), '[]')
			FROM monitoring.regressed_queries(at => query_report.at) AS r WHERE r.queryid = query_report.queryid),
		'slow_executions', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(l) - '{queryid,database,plan,number}'::text[]) ORDER BY l.at DESC), '[]')
			FROM (SELECT * FROM slow ORDER BY slow.duration_seconds DESC LIMIT 20) AS l),
		'slow_execution_count', (SELECT count(*) FROM slow),
		'waits', (SELECT coalesce(jsonb_object_agg(w.event, w.samples), '{}') FROM (
			SELECT x.key AS event, sum(x.value::bigint) AS samples FROM slow AS o CROSS JOIN LATERAL jsonb_each_text(o.waits) AS x GROUP BY x.key) AS w),
		'plans', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.last_at DESC), '[]') FROM (
			SELECT o.plan_hash::text AS plan_hash, count(*) AS executions, min(o.at) AS first_at, max(o.at) AS last_at, avg(o.duration_seconds) AS mean_seconds,
				(array_agg(o.plan ORDER BY o.at DESC))[1] AS plan
			FROM slow AS o WHERE o.plan_hash IS NOT NULL GROUP BY o.plan_hash) AS p),
		'errors', (SELECT coalesce(jsonb_agg(to_jsonb(x) ORDER BY x.occurrences DESC), '[]') FROM (
			SELECT e.sqlstate, e.issue::text AS issue, sum(e.occurrences) AS occurrences, max(e.last_at) AS last_at,
				(array_agg(e.message ORDER BY e.last_at DESC))[1] AS message
			FROM monitoring.recent_errors AS e
			WHERE e.queryid = query_report.queryid AND e.at > starts AND e.at <= query_report.at
			GROUP BY e.sqlstate, e.issue) AS x))
	INTO report
	FROM (SELECT min(t.query) FILTER (WHERE t.query <> '<insufficient privilege>') AS readable, min(t.first_seen) AS first_seen, max(t.last_seen) AS last_seen,
			coalesce(min(t.query) FILTER (WHERE t.query <> '<insufficient privilege>'), min(t.query)) AS query
		FROM monitoring.statements AS t WHERE t.queryid = query_report.queryid HAVING count(*) > 0) AS s;
	IF report IS NULL THEN
		RAISE EXCEPTION 'there is no statement %', query_report.queryid
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.statements has those of this database.';
	END IF;
	RETURN report;
END $$;
COMMENT ON FUNCTION monitoring.query_report(bigint, interval, timestamptz) IS 'All that is known of a statement in (at - over, at], as JSON: query, first_seen, last_seen; totals, users and hours, each with calls, errors, percentiles and resources; regressions (of the last hour before at); the 20 longest of slow_executions, and how many there were; waits during them (samples by event), plans, and errors. Units are seconds and bytes; what is a 64-bit number is a text. Error 42704: no such statement.';
