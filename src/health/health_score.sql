
-- health, results: status, score and uptime, for people and pages.

CREATE TABLE monitoring.health_weights (
	severity text PRIMARY KEY,
	unhealthy integer NOT NULL CHECK (unhealthy BETWEEN 0 AND 100),
	degraded integer NOT NULL CHECK (degraded BETWEEN 0 AND 100),
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.health_weights IS 'Points that a check takes off the health score of 100. Change them with UPDATE.';
COMMENT ON COLUMN monitoring.health_weights.severity IS 'Severity of the check.';
COMMENT ON COLUMN monitoring.health_weights.unhealthy IS 'Points when it is unhealthy.';
COMMENT ON COLUMN monitoring.health_weights.degraded IS 'Points when it is degraded.';
COMMENT ON COLUMN monitoring.health_weights.builtin IS 'True for those that CREATE EXTENSION made; a dump that is restored takes their place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.health_weights', '');
INSERT INTO monitoring.health_weights VALUES
	('critical', 40, 20, true), ('high', 25, 12, true), ('medium', 15, 7, true), ('low', 5, 2, true), ('info', 0, 0, true);

CREATE TRIGGER restore BEFORE INSERT ON monitoring.health_weights
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.health_weights IS 'When a dump is restored its weights replace those of the extension.';

CREATE FUNCTION monitoring.health_status_at(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (name text, kind text, severity text, status text, since timestamptz, latest text, value float8, message text, details jsonb,
	checked_at timestamptz, duration float8, next_at timestamptz, bad_results integer, suppressed_by text, overdue boolean, labels jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT d.name, d.kind, d.severity, CASE WHEN d.enabled THEN coalesce(s.status, 'unknown') ELSE 'disabled' END,
		CASE WHEN d.enabled THEN coalesce(s.since, d.created_at) END, s.latest, s.value, s.message, s.details, s.checked_at, s.duration,
		CASE WHEN d.enabled THEN s.next_at END, coalesce(s.bad_results, 0), CASE WHEN d.enabled THEN s.suppressed_by END,
		d.enabled AND s.suppressed_by IS NULL
			AND coalesce(s.next_at, d.created_at) < health_status_at.at - greatest(2 * d.every, interval '1 minute') - d.timeout, d.labels
	FROM monitoring.health_check_defs AS d
	LEFT JOIN monitoring.health_check_states AS s ON s.check_name = d.name
$$;
COMMENT ON FUNCTION monitoring.health_status_at(timestamptz) IS 'How every check stands; overdue: it has not run for two intervals, and a minute at least, after it was due at that time.';

CREATE VIEW monitoring.health_status AS
	SELECT s.name, s.kind, s.severity, s.status, s.since, s.latest, s.value, s.message, s.details, s.checked_at, s.duration, s.next_at,
		s.bad_results, s.suppressed_by, s.overdue, s.labels
	FROM monitoring.health_status_at() AS s
	ORDER BY monitoring.health_rank(s.status) DESC NULLS LAST, s.name;
COMMENT ON VIEW monitoring.health_status IS 'How every health check stands now, the worst first.';
COMMENT ON COLUMN monitoring.health_status.name IS 'Name of the check.';
COMMENT ON COLUMN monitoring.health_status.kind IS 'Its kind.';
COMMENT ON COLUMN monitoring.health_status.severity IS 'Its severity.';
COMMENT ON COLUMN monitoring.health_status.status IS 'healthy, degraded, unhealthy, unknown (no result yet), suppressed (what it depends on is unhealthy), maintenance or disabled.';
COMMENT ON COLUMN monitoring.health_status.latest IS 'What the latest result alone says, which may still have to be confirmed by retries.';
COMMENT ON COLUMN monitoring.health_status.value IS 'The latest value, in the unit of the check.';
COMMENT ON COLUMN monitoring.health_status.details IS 'More of that, such as the phases of a request in seconds.';
COMMENT ON COLUMN monitoring.health_status.duration IS 'Seconds that it took.';
COMMENT ON COLUMN monitoring.health_status.bad_results IS 'Results in a row that are worse than the status and not confirmed yet.';
COMMENT ON COLUMN monitoring.health_status.overdue IS 'It has not run for two intervals, and a minute at least, after it was due.';
COMMENT ON COLUMN monitoring.health_status.labels IS 'Labels of its metrics and alerts.';
SELECT monitoring.inherit_comments('monitoring.health_status', 'monitoring.health_check_states');

CREATE FUNCTION monitoring.health_deductions(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (check_name text, points integer, status text, severity text, since timestamptz, why text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT s.name, CASE s.status WHEN 'unhealthy' THEN w.unhealthy ELSE w.degraded END, s.status, s.severity, s.since, s.message
	FROM monitoring.health_status_at(health_deductions.at) AS s
	JOIN monitoring.health_weights AS w ON w.severity = s.severity
	WHERE s.status IN ('degraded', 'unhealthy')
	UNION ALL
	SELECT NULL, 20, 'unknown', 'high', min(s.next_at), format('%s checks have not run since they were due: is their worker running? See monitoring.status.', count(*))
	FROM monitoring.health_status_at(health_deductions.at) AS s
	WHERE s.overdue
	HAVING count(*) > 0
	ORDER BY 2 DESC, 1
$$;
COMMENT ON FUNCTION monitoring.health_deductions(timestamptz) IS 'What is taken off the health score, the most first: each check that is degraded or unhealthy with its points (health_weights) and what it told; and 20 points, without a check, when checks do not run.';

CREATE FUNCTION monitoring.health_score(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT greatest(0, 100 - coalesce(sum(d.points), 0))::integer FROM monitoring.health_deductions(health_score.at) AS d
$$;
COMMENT ON FUNCTION monitoring.health_score(timestamptz) IS 'Health of the whole, 0 to 100: 100 less the points of health_deductions().';

CREATE FUNCTION monitoring.health(at timestamptz DEFAULT clock_timestamp()) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET jit = off AS $$
	WITH deduction AS MATERIALIZED (
		SELECT * FROM monitoring.health_deductions(health.at)
	), stand AS MATERIALIZED (
		SELECT * FROM monitoring.health_status_at(health.at) AS s WHERE s.status <> 'disabled'
	), score AS (
		SELECT greatest(0, 100 - coalesce(sum(d.points), 0))::integer AS score,
			coalesce(bool_or(d.status <> 'degraded' AND d.severity IN ('critical', 'high') AND d.check_name IS NOT NULL), false) AS grave,
			coalesce(sum(d.points), 0) > 0 AS any_points
		FROM deduction AS d
	)
	SELECT jsonb_build_object(
		'status', CASE WHEN c.grave OR c.score < 50 THEN 'unhealthy' WHEN c.any_points THEN 'degraded' ELSE 'healthy' END,
		'score', c.score,
		'at', health.at,
		'deductions', (SELECT coalesce(jsonb_agg(jsonb_build_object('check', d.check_name, 'points', d.points, 'status', d.status, 'severity', d.severity,
			'since', d.since, 'why', d.why) ORDER BY d.points DESC, d.check_name), '[]') FROM deduction AS d),
		'counts', (SELECT coalesce(jsonb_object_agg(n.status, n.n), '{}') FROM (SELECT s.status, count(*) AS n FROM stand AS s GROUP BY s.status) AS n),
		'checks', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('name', s.name, 'kind', s.kind, 'severity', s.severity, 'status', s.status,
			'since', s.since, 'value', s.value, 'message', s.message, 'checked_at', s.checked_at)) ORDER BY s.name), '[]') FROM stand AS s))
	FROM score AS c
$$;
COMMENT ON FUNCTION monitoring.health(timestamptz) IS 'Health as JSON: status (unhealthy when a check of severity critical or high is, or the score is below 50; degraded when anything takes points off it; otherwise healthy), score (0 to 100), deductions (check, points, status, severity, since, why), counts of checks by status, and checks (name, kind, severity, status, since, value, message, checked_at).';

----------------------------------------------------------------------------------------------------------------------
-- Uptime
----------------------------------------------------------------------------------------------------------------------

-- Each transition ends a period in the status that it came from; the last period goes on.
CREATE FUNCTION monitoring.health_periods(since timestamptz, until timestamptz, check_name text DEFAULT NULL)
RETURNS TABLE (check_name text, status text, period tstzrange)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH ending AS (
		SELECT t.check_name, t.at AS ends, t.id, t.from_status AS status
		FROM monitoring.check_transitions AS t
		WHERE t.at >= health_periods.since AND (health_periods.check_name IS NULL OR t.check_name = health_periods.check_name)
		UNION ALL
		SELECT s.check_name, 'infinity', NULL, s.status
		FROM monitoring.health_check_states AS s
		WHERE health_periods.check_name IS NULL OR s.check_name = health_periods.check_name
	), period AS (
		SELECT e.check_name, e.status, e.ends, coalesce(lag(e.ends) OVER (PARTITION BY e.check_name ORDER BY e.ends, e.id), d.created_at) AS starts, d.created_at
		FROM ending AS e
		JOIN monitoring.health_check_defs AS d ON d.name = e.check_name
	)
	SELECT p.check_name, p.status, tstzrange(greatest(p.starts, health_periods.since), least(p.ends, health_periods.until))
	FROM period AS p
	WHERE greatest(p.starts, health_periods.since) < least(p.ends, health_periods.until)
$$;
COMMENT ON FUNCTION monitoring.health_periods(timestamptz, timestamptz, text) IS 'When each check (or one) was in which status between two times, since it was created.';

CREATE FUNCTION monitoring.health_uptime(since timestamptz, until timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (check_name text, uptime float8, downtime interval, degraded interval, maintenance interval, unknown interval, outages bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	PERFORM monitoring.check_period(since, until);
	RETURN QUERY
	SELECT d.name, t.up / nullif(t.up + t.down, 0), make_interval(secs => t.down), make_interval(secs => t.degraded), make_interval(secs => t.maintained),
		make_interval(secs => t.unknown), t.outages
	FROM monitoring.health_check_defs AS d
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(s.seconds) FILTER (WHERE p.status IN ('healthy', 'degraded')), 0) AS up,
			coalesce(sum(s.seconds) FILTER (WHERE p.status = 'unhealthy'), 0) AS down,
			coalesce(sum(s.seconds) FILTER (WHERE p.status = 'degraded'), 0) AS degraded,
			coalesce(sum(s.seconds) FILTER (WHERE p.status = 'maintenance'), 0) AS maintained,
			coalesce(sum(s.seconds) FILTER (WHERE p.status IN ('unknown', 'suppressed')), 0) AS unknown,
			count(*) FILTER (WHERE p.status = 'unhealthy') AS outages
		FROM monitoring.health_periods(health_uptime.since, health_uptime.until, d.name) AS p
		CROSS JOIN LATERAL (SELECT extract(epoch FROM upper(p.period) - lower(p.period))::float8 AS seconds) AS s) AS t
	ORDER BY d.name;
END $$;
COMMENT ON FUNCTION monitoring.health_uptime(timestamptz, timestamptz) IS 'Uptime of every check between two times: the share of the time in which it was not unhealthy, of the time in which it was healthy, degraded or unhealthy. Maintenance, suppression and what is unknown count neither way; null when nothing remains. outages counts the periods in which it was unhealthy. Error 22023 unless the second time is later.';

CREATE FUNCTION monitoring.uptime(check_name text, since timestamptz, until timestamptz DEFAULT clock_timestamp()) RETURNS float8
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	PERFORM monitoring.check_is_health_check(check_name);
	PERFORM monitoring.check_period(since, until);
	RETURN (SELECT coalesce(sum(s.seconds) FILTER (WHERE p.status <> 'unhealthy'), 0) / sum(s.seconds)
		FROM monitoring.health_periods(uptime.since, uptime.until, uptime.check_name) AS p
		CROSS JOIN LATERAL (SELECT extract(epoch FROM upper(p.period) - lower(p.period))::float8 AS seconds) AS s
		WHERE p.status IN ('healthy', 'degraded', 'unhealthy'));
END $$;
COMMENT ON FUNCTION monitoring.uptime(text, timestamptz, timestamptz) IS 'Uptime of a check between two times, as health_uptime() has it; null when nothing is known. Errors: 42704 if it does not exist, 22023 unless the second time is later.';
