
-- health, running: what becomes of a result, whose turn it is, and the kinds that need no network.
--
-- The row of a check's state is locked by who runs it or records its result. Workers never wait for one: a check that
-- somebody holds is left for the next time, so nothing can go round in a circle. Suppression and maintenance concern several
-- checks and are set by refresh_health_checks() for all of them.

CREATE FUNCTION monitoring.health_rank(status text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE status WHEN 'healthy' THEN 0 WHEN 'degraded' THEN 1 WHEN 'unhealthy' THEN 2 END;
COMMENT ON FUNCTION monitoring.health_rank(text) IS 'healthy 0, degraded 1, unhealthy 2, others null.';

CREATE FUNCTION monitoring.health_verdict(value float8, op text, degraded float8, unhealthy float8) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN value IS NULL THEN NULL
	WHEN monitoring.alert_breach(op, value, unhealthy) THEN 'unhealthy'
	WHEN monitoring.alert_breach(op, value, degraded) THEN 'degraded'
	ELSE 'healthy' END;
COMMENT ON FUNCTION monitoring.health_verdict(float8, text, float8, float8) IS 'What thresholds say about a value; null if there is none.';

CREATE FUNCTION monitoring.health_status_of(definition monitoring.health_check_defs, result jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce((
		SELECT s.status
		FROM (VALUES (result ->> 'status'), (monitoring.health_verdict((result ->> 'value')::float8, coalesce(definition.op, k.op),
				coalesce(definition.degraded, k.degraded), coalesce(definition.unhealthy, k.unhealthy)))) AS s (status)
		WHERE monitoring.health_rank(s.status) IS NOT NULL AND result ->> 'status' IS DISTINCT FROM 'unknown'
		ORDER BY monitoring.health_rank(s.status) DESC LIMIT 1), 'unknown')
	FROM monitoring.health_check_kinds AS k
	WHERE k.kind = definition.kind
$$;
COMMENT ON FUNCTION monitoring.health_status_of(monitoring.health_check_defs, jsonb) IS 'What a result of a check means: the worse of its status and of what the thresholds say about its value; unknown if it has neither, or says so.';

----------------------------------------------------------------------------------------------------------------------
-- Suppression, maintenance, transitions
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.health_parents() RETURNS TABLE (check_name text, parent text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- the usual case; the set-up of the recursion takes a third of a millisecond
	IF NOT EXISTS (SELECT FROM monitoring.health_check_defs AS d WHERE d.depends_on <> '{}') THEN
		RETURN;
	END IF;
	RETURN QUERY
	WITH RECURSIVE parent AS (
		SELECT d.name, n.needed FROM monitoring.health_check_defs AS d CROSS JOIN unnest(d.depends_on) AS n (needed)
		UNION
		SELECT parent.name, n.needed
		FROM parent
		JOIN monitoring.health_check_defs AS d ON d.name = parent.needed
		CROSS JOIN unnest(d.depends_on) AS n (needed)
	)
	SELECT parent.name, parent.needed FROM parent JOIN monitoring.health_check_defs AS d ON d.name = parent.needed AND d.enabled;
END $$;
COMMENT ON FUNCTION monitoring.health_parents() IS 'The enabled checks on which each check depends, and those on which these do.';

CREATE FUNCTION monitoring.maintained_checks(at timestamptz) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT d.name
	FROM monitoring.health_check_defs AS d
	WHERE d.maintenance <> '{}' AND EXISTS (
		SELECT FROM monitoring.time_intervals AS t WHERE t.name = ANY (d.maintenance) AND monitoring.time_matches(t.spec, maintained_checks.at, false))
	UNION
	-- A silence of alerts in general is no maintenance: what it hides has happened.
	SELECT d.name
	FROM monitoring.silence_defs AS s
	JOIN monitoring.health_check_defs AS d ON monitoring.labels_match(d.labels || jsonb_build_object('check', d.name, 'check_severity', d.severity), s.matchers)
	WHERE s.starts_at <= maintained_checks.at AND s.ends_at > maintained_checks.at AND s.matchers ? 'check';
END $$;
COMMENT ON FUNCTION monitoring.maintained_checks(timestamptz) IS 'The checks whose maintenance it is at a time: by a time interval that they name, or by a silence with a matcher of the label check.';

CREATE FUNCTION monitoring.record_check_metrics(at timestamptz, names text[] DEFAULT NULL) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.set_gauge('check_up', CASE s.status WHEN 'healthy' THEN 1 WHEN 'degraded' THEN 0.5 ELSE 0 END,
		d.labels || jsonb_build_object('check', d.name, 'check_severity', d.severity))
	FROM monitoring.health_check_states AS s
	JOIN monitoring.health_check_defs AS d ON d.name = s.check_name
	WHERE d.enabled AND monitoring.health_rank(s.status) IS NOT NULL AND (names IS NULL OR d.name = ANY (names));
$$;
COMMENT ON FUNCTION monitoring.record_check_metrics(timestamptz, text[]) IS 'Record check_up of these checks (null: all) that are healthy, degraded or unhealthy; of others there is nothing to record, so that rules do not see what is suppressed or maintained.';

CREATE FUNCTION monitoring.refresh_health_checks(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	changed text[];
BEGIN
	INSERT INTO monitoring.health_check_states (check_name, since, next_at)
	SELECT d.name, refresh_health_checks.at, refresh_health_checks.at FROM monitoring.health_check_defs AS d
	WHERE NOT EXISTS (SELECT FROM monitoring.health_check_states AS s WHERE s.check_name = d.name)
	ORDER BY d.name
	ON CONFLICT DO NOTHING;

	WITH parent AS MATERIALIZED (
		SELECT p.check_name, min(p.parent) AS parent
		FROM monitoring.health_parents() AS p
		JOIN monitoring.health_check_states AS o ON o.check_name = p.parent
		WHERE o.confirmed = 'unhealthy' AND o.suppressed_by IS NULL
		GROUP BY p.check_name
	), standing AS (
		SELECT s.check_name, s.status AS was, s.since, s.confirmed, s.message, s.failing_since, s.suppressed_by AS suppressed_before, s.in_maintenance AS maintained_before,
			p.parent AS suppressed_by,
			d.name IN (SELECT m FROM monitoring.maintained_checks(refresh_health_checks.at) AS m) AS in_maintenance
		FROM monitoring.health_check_states AS s
		JOIN monitoring.health_check_defs AS d ON d.name = s.check_name
		LEFT JOIN parent AS p ON p.check_name = s.check_name
		WHERE d.enabled
	), becomes AS (
		SELECT t.*, CASE WHEN t.in_maintenance THEN 'maintenance' WHEN t.suppressed_by IS NOT NULL THEN 'suppressed' ELSE t.confirmed END AS status
		FROM standing AS t
	), change AS MATERIALIZED (
		SELECT b.*, CASE WHEN b.status <> b.was THEN
				-- what has become bad has been so since the first bad result
				greatest(b.since, CASE WHEN b.status IN ('degraded', 'unhealthy') AND b.was IN ('unknown', 'healthy', 'degraded') THEN coalesce(b.failing_since, refresh_health_checks.at)
					ELSE refresh_health_checks.at END)
			END AS changed_at
		FROM becomes AS b
		WHERE b.status <> b.was OR b.suppressed_by IS DISTINCT FROM b.suppressed_before OR b.in_maintenance <> b.maintained_before
	), locked AS MATERIALIZED (
		SELECT s.check_name FROM monitoring.health_check_states AS s WHERE s.check_name IN (SELECT c.check_name FROM change AS c)
		FOR UPDATE SKIP LOCKED
	), updated AS (
		UPDATE monitoring.health_check_states AS s
		SET status = c.status, since = coalesce(c.changed_at, s.since), suppressed_by = c.suppressed_by, in_maintenance = c.in_maintenance,
			-- what no longer is suppressed is looked at first
			next_at = CASE WHEN c.suppressed_by IS NULL AND c.suppressed_before IS NOT NULL THEN least(s.next_at, refresh_health_checks.at) ELSE s.next_at END
		FROM change AS c
		JOIN locked AS l USING (check_name)
		WHERE s.check_name = c.check_name AND s.status = c.was
		RETURNING c.check_name, c.changed_at, c.was, c.status, CASE WHEN c.status = 'suppressed' THEN format('check "%s" is unhealthy', c.suppressed_by) ELSE c.message END AS why
	), noted AS (
		INSERT INTO monitoring.check_transitions (at, check_name, from_status, to_status, message)
		SELECT u.changed_at, u.check_name, u.was, u.status, u.why FROM updated AS u WHERE u.changed_at IS NOT NULL ORDER BY u.check_name
		RETURNING check_name
	)
	SELECT array_agg(n.check_name) INTO changed FROM noted AS n;
	IF changed IS NOT NULL THEN
		PERFORM monitoring.record_check_metrics(at, changed);
	END IF;
	RETURN coalesce(cardinality(changed), 0);
END $$;
COMMENT ON FUNCTION monitoring.refresh_health_checks(timestamptz) IS 'Bring the status of all checks up to date with their confirmed results, with what they depend on, and with maintenance; note transitions. Returns how many there were.';

----------------------------------------------------------------------------------------------------------------------
-- Results
----------------------------------------------------------------------------------------------------------------------

-- Those it depends on are asked first: may this one be called bad already?
CREATE FUNCTION monitoring.health_parents_are_well(name text, failing_since timestamptz, at timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	waits boolean;
BEGIN
	SELECT bool_or(s.latest IS DISTINCT FROM 'healthy' AND s.latest IS DISTINCT FROM 'degraded' OR s.checked_at < health_parents_are_well.failing_since)
	INTO waits
	FROM monitoring.health_parents() AS p
	JOIN monitoring.health_check_states AS s ON s.check_name = p.parent
	WHERE p.check_name = name;
	IF coalesce(waits, false) THEN
		UPDATE monitoring.health_check_states AS s SET next_at = health_parents_are_well.at
		WHERE s.check_name IN (
			SELECT o.check_name FROM monitoring.health_check_states AS o
			WHERE o.next_at > health_parents_are_well.at AND o.checked_at < health_parents_are_well.failing_since
				AND o.check_name IN (SELECT p.parent FROM monitoring.health_parents() AS p WHERE p.check_name = name)
			FOR UPDATE SKIP LOCKED);
	END IF;
	RETURN NOT coalesce(waits, false);
END $$;
COMMENT ON FUNCTION monitoring.health_parents_are_well(text, timestamptz, timestamptz) IS 'Whether all checks that one depends on have succeeded since it began to fail; those that have not run since are made due.';

CREATE FUNCTION monitoring.record_check_result(name text, result jsonb, began timestamptz, duration float8, at timestamptz DEFAULT clock_timestamp())
RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	d monitoring.health_check_defs;
	s monitoring.health_check_states;
	found_status text;
	worse boolean;
	retry_every interval;
BEGIN
	SELECT * INTO d FROM monitoring.health_check_defs AS h WHERE h.name = record_check_result.name;
	SELECT * INTO s FROM monitoring.health_check_states AS h WHERE h.check_name = record_check_result.name FOR UPDATE SKIP LOCKED;
	IF d.name IS NULL OR s.check_name IS NULL THEN
		RETURN NULL; -- dropped meanwhile, or somebody changes it
	END IF;
	found_status := monitoring.health_status_of(d, result);
	worse := monitoring.health_rank(found_status) > coalesce(monitoring.health_rank(s.confirmed), 0);
	retry_every := least(d.every, interval '10 seconds');
	s.leased_until := NULL;
	-- The beat goes on where it was; what was missed is not made up for. Who has asked for a run since this one began gets another.
	s.next_at := CASE WHEN began < at AND s.next_at > began AND s.next_at <= at + d.every THEN s.next_at
		WHEN s.next_at BETWEEN began - d.every / 2 AND began THEN s.next_at + d.every
		ELSE began + d.every END;
	IF worse THEN
		s.bad_results := s.bad_results + 1;
		s.failing_since := coalesce(s.failing_since, began);
		IF s.bad_results > d.retries AND (s.bad_results > d.retries + 10 OR monitoring.health_parents_are_well(name, s.failing_since, at)) THEN
			s.confirmed := found_status;
			s.bad_results := 0;
		ELSE
			s.next_at := least(s.next_at, began + retry_every);
		END IF;
	ELSIF found_status <> 'unknown' THEN
		s.confirmed := found_status;
		s.bad_results := 0;
		s.failing_since := NULL;
	END IF;
	UPDATE monitoring.health_check_states AS h
	SET confirmed = s.confirmed, latest = found_status, bad_results = s.bad_results, failing_since = s.failing_since, checked_at = began,
		value = (result ->> 'value')::float8, duration = record_check_result.duration, message = left(result ->> 'message', 1000),
		details = result -> 'details', next_at = s.next_at, leased_until = NULL
	WHERE h.check_name = d.name;
	INSERT INTO monitoring.check_results (at, check_name, status, value, duration, message, details)
	VALUES (began, d.name, found_status, (result ->> 'value')::float8, record_check_result.duration, left(result ->> 'message', 1000), result -> 'details');
	PERFORM monitoring.record('check_duration_seconds', record_check_result.duration, d.labels || jsonb_build_object('check', d.name, 'outcome', found_status));
	RETURN found_status;
END $$;
COMMENT ON FUNCTION monitoring.record_check_result(text, jsonb, timestamptz, float8, timestamptz) IS 'Record what a run of a check found: its history, what it confirms after retries, and when it is due again. Returns its status; null if the check is gone, or another transaction holds it. refresh_health_checks() follows.';

CREATE FUNCTION monitoring.ensure_check_partitions(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.ensure_partition('check_results', at);
	PERFORM monitoring.ensure_partition('check_transitions', t)
	FROM (SELECT ensure_check_partitions.at UNION
		SELECT s.failing_since FROM monitoring.health_check_states AS s WHERE s.failing_since IS NOT NULL) AS p (t);
END $$;
COMMENT ON FUNCTION monitoring.ensure_check_partitions(timestamptz) IS 'Make the partitions that results and transitions of a time go into.';

----------------------------------------------------------------------------------------------------------------------
-- Kinds without network
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_config_number(definition jsonb, key text, lowest float8, highest float8) RETURNS float8
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	given jsonb := definition -> 'config' -> key;
	number float8;
BEGIN
	IF given IS NULL THEN
		RETURN NULL;
	ELSIF jsonb_typeof(given) = 'number' AND given::numeric BETWEEN lowest::numeric AND highest::numeric THEN
		number := given::float8;
	END IF;
	IF number IS NULL THEN
		RAISE EXCEPTION 'key "%" of a health check must be a number between % and %', key, lowest, highest USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN number;
END $$;
COMMENT ON FUNCTION monitoring.check_config_number(jsonb, text, float8, float8) IS 'A number in the config of a check; null if it has none. Error 22023 unless it is a number between the bounds.';

CREATE FUNCTION monitoring.check_config_text(definition jsonb, key text, needed boolean DEFAULT false, max_length integer DEFAULT 2000) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	given jsonb := definition -> 'config' -> key;
BEGIN
	IF given IS NULL AND needed THEN
		RAISE EXCEPTION 'a health check of kind % needs "%" in its config', definition ->> 'kind', key USING ERRCODE = 'invalid_parameter_value';
	ELSIF given IS NOT NULL AND (jsonb_typeof(given) <> 'string' OR length(given #>> '{}') NOT BETWEEN 1 AND max_length) THEN
		RAISE EXCEPTION 'key "%" of a health check must be text of 1 to % characters', key, max_length USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN given #>> '{}';
END $$;
COMMENT ON FUNCTION monitoring.check_config_text(jsonb, text, boolean, integer) IS 'A text in the config of a check; null if it has none. Error 22023 if it is missing though needed, empty, too long or no text.';

-- ---- sql ----

CREATE FUNCTION monitoring.check_sql_check(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	no_rows text := monitoring.check_config_text(definition, 'no_rows');
BEGIN
	PERFORM monitoring.check_config_text(definition, 'query', true, 32768);
	PERFORM monitoring.check_config_number(definition, 'increase_over_seconds', 5, 604800);
	PERFORM monitoring.check_config_number(definition, 'min_total', 0, 1e18);
	IF no_rows NOT IN ('healthy', 'degraded', 'unhealthy', 'unknown') THEN
		RAISE EXCEPTION 'key "no_rows" of a health check is healthy, degraded, unhealthy or unknown' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_rule_query((definition ->> 'owner')::name, definition -> 'config' ->> 'query', '5 seconds', any_columns => true);
END $$;
COMMENT ON FUNCTION monitoring.check_sql_check(jsonb) IS 'Raises 22023 for a check of kind sql without a query or with bad keys; otherwise what check_rule_query raises for its query.';

-- The values of counters are in the results: the oldest one within the time is what they have increased since.
CREATE FUNCTION monitoring.counter_increase(definition jsonb, counter float8, total float8, at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	over float8 := (definition -> 'config' ->> 'increase_over_seconds')::float8;
	before record;
	more float8;
	more_total float8;
	counters jsonb := jsonb_strip_nulls(jsonb_build_object('counter', counter, 'counter_total', total));
BEGIN
	SELECT r.at, (r.details ->> 'counter')::float8 AS counter, (r.details ->> 'counter_total')::float8 AS total INTO before
	FROM monitoring.check_results AS r
	WHERE r.check_name = definition ->> 'name' AND r.at >= counter_increase.at - make_interval(secs => over) AND r.at < counter_increase.at
		AND r.details ? 'counter'
	ORDER BY r.at LIMIT 1;
	IF before.counter IS NULL THEN
		RETURN jsonb_build_object('status', 'healthy', 'message', 'counting from now on', 'details', counters);
	END IF;
	-- a counter that was reset has counted from zero since
	more := CASE WHEN counter < before.counter THEN counter ELSE counter - before.counter END;
	more_total := CASE WHEN total < before.total OR counter < before.counter THEN total ELSE total - before.total END;
	counters := counters || jsonb_strip_nulls(jsonb_build_object('increase', more, 'increase_total', more_total,
		'seconds', extract(epoch FROM counter_increase.at - before.at)));
	IF total IS NULL THEN
		RETURN jsonb_build_object('value', more, 'details', counters);
	ELSIF more_total < greatest((definition -> 'config' ->> 'min_total')::float8, 1) THEN
		RETURN jsonb_build_object('status', 'healthy', 'message', format('too few to tell: %s', more_total), 'details', counters);
	END IF;
	RETURN jsonb_build_object('value', more / more_total, 'details', counters);
END $$;
COMMENT ON FUNCTION monitoring.counter_increase(jsonb, float8, float8, timestamptz) IS 'The result of a check whose query gives a counter, or two whose ratio counts: what they have increased by within increase_over_seconds.';

CREATE FUNCTION monitoring.run_sql_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
DECLARE
	d monitoring.health_check_defs := jsonb_populate_record(NULL::monitoring.health_check_defs, definition);
	counting boolean := d.config ? 'increase_over_seconds';
	result jsonb;
	found_rows bigint;
BEGIN
	WITH answer AS MATERIALIZED (
		SELECT q.row AS r, q.error,
			-- the column value, or the only one there is
			coalesce(q.row -> 'value', CASE WHEN NOT q.row ?| '{value,status,message,total}' THEN (SELECT e.value FROM jsonb_each(q.row) AS e LIMIT 1) END) AS v
		FROM monitoring.try_rule_query(d.owner, d.config ->> 'query', d.timeout, 100, true, run_sql_check.at, d.every) AS q
	), judged AS (
		SELECT a.error, CASE WHEN a.error IS NOT NULL THEN jsonb_build_object('status', 'unhealthy', 'message', a.error, 'details', jsonb_build_object('error', true))
			WHEN counting AND jsonb_typeof(a.v) = 'number' THEN monitoring.counter_increase(definition, a.v::float8, (a.r ->> 'total')::float8, run_sql_check.at)
			ELSE jsonb_strip_nulls(jsonb_build_object('value', CASE WHEN jsonb_typeof(a.v) = 'number' THEN a.v
					WHEN jsonb_typeof(a.v) = 'string' AND a.v #>> '{}' ~ '^(-?Infinity|NaN)$' THEN a.v END,
				'status', coalesce(lower(a.r ->> 'status'), CASE a.v WHEN 'true' THEN 'healthy' WHEN 'false' THEN 'unhealthy' WHEN 'null' THEN 'healthy' END),
				'message', a.r ->> 'message')) END
			|| CASE WHEN a.r ? 'message' AND a.error IS NULL AND counting THEN jsonb_build_object('message', a.r ->> 'message') ELSE '{}' END AS one
		FROM answer AS a
	), ranked AS (
		SELECT j.one, monitoring.health_status_of(d, j.one) AS status,
			row_number() OVER (ORDER BY monitoring.health_rank(monitoring.health_status_of(d, j.one)) DESC NULLS LAST,
				CASE WHEN coalesce(d.op, '>') IN ('>', '>=') THEN -(j.one ->> 'value')::float8 ELSE (j.one ->> 'value')::float8 END) AS place,
			count(*) OVER () AS n
		FROM judged AS j
	)
	SELECT max(r.n), (array_agg(r.one ORDER BY r.place))[1]
		|| jsonb_strip_nulls(jsonb_build_object(
			'message', string_agg(r.one ->> 'message', '; ' ORDER BY r.place) FILTER (WHERE r.place = 1 OR r.place <= 5 AND r.status IN ('degraded', 'unhealthy')),
			'details', CASE WHEN max(r.n) > 1 THEN jsonb_build_object('rows', max(r.n)) END || coalesce((array_agg(r.one -> 'details' ORDER BY r.place))[1], '{}'),
			'status', (array_agg(r.status ORDER BY r.place))[1]))
	INTO found_rows, result
	FROM ranked AS r;
	IF coalesce(found_rows, 0) = 0 THEN
		RETURN jsonb_build_object('status', coalesce(d.config ->> 'no_rows', 'healthy'));
	END IF;
	RETURN result || CASE WHEN result ? 'message' OR NOT result ? 'value' THEN '{}'
		ELSE jsonb_build_object('message', 'value ' || monitoring.short_number((result ->> 'value')::float8)) END;
END $$;
COMMENT ON FUNCTION monitoring.run_sql_check(timestamptz, jsonb, jsonb) IS 'Kind sql: run the query as the check''s owner (run_rule_query), judge each row, and let the worst count.';

-- ---- heartbeat ----

CREATE FUNCTION monitoring.check_heartbeat_check(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF definition ->> 'unhealthy' IS NULL AND definition ->> 'degraded' IS NULL THEN
		RAISE EXCEPTION 'a health check of kind heartbeat needs a threshold'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'unhealthy and degraded are seconds since the last heartbeat.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_heartbeat_check(jsonb) IS 'Raises 22023 for a check of kind heartbeat without a threshold.';

CREATE FUNCTION monitoring.run_heartbeat_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'value', round(greatest(extract(epoch FROM run_heartbeat_check.at - coalesce(b.at, (definition ->> 'created_at')::timestamptz)), 0), 3),
		'status', CASE WHEN NOT b.ok THEN 'unhealthy' END,
		'message', CASE WHEN b.at IS NULL THEN 'no heartbeat yet'
			WHEN NOT b.ok THEN 'the job failed' || coalesce(': ' || nullif(b.message, ''), '')
			ELSE coalesce(nullif(b.message, ''), 'ok') END))
	FROM (SELECT) AS one
	LEFT JOIN monitoring.health_beats AS b ON b.check_name = definition ->> 'name'
$$;
COMMENT ON FUNCTION monitoring.run_heartbeat_check(timestamptz, jsonb, jsonb) IS 'Kind heartbeat: seconds since the last report_heartbeat(), before the first one since the check was created; unhealthy if that said so.';

-- ---- group ----

CREATE FUNCTION monitoring.check_group_check(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	members jsonb := definition -> 'config' -> 'members';
	mode text := coalesce(monitoring.check_config_text(definition, 'mode'), 'worst');
	quorum float8 := monitoring.check_config_number(definition, 'quorum', 1, 1000);
BEGIN
	IF coalesce(jsonb_typeof(members), '') <> 'array' OR jsonb_array_length(members) NOT BETWEEN 1 AND 1000
		OR jsonb_path_exists(members, '$[*] ? (@.type() != "string")') THEN
		RAISE EXCEPTION 'a health check of kind group needs "members", an array of 1 to 1000 names of checks' USING ERRCODE = 'invalid_parameter_value';
	ELSIF mode NOT IN ('worst', 'all', 'any', 'quorum') THEN
		RAISE EXCEPTION 'unknown mode "%"', mode USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes are worst, all, any and quorum.';
	ELSIF (mode = 'quorum') <> (quorum IS NOT NULL) OR quorum <> trunc(quorum) THEN
		RAISE EXCEPTION 'the mode quorum, and it alone, needs "quorum", a whole number' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_group_check(jsonb) IS 'Raises 22023 for a check of kind group without members, with an unknown mode, or with a quorum that does not fit the mode.';

CREATE FUNCTION monitoring.run_group_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH member AS (
		SELECT s.check_name, s.confirmed AS status, monitoring.health_rank(s.confirmed) AS rank
		FROM monitoring.health_check_states AS s
		JOIN monitoring.health_check_defs AS d ON d.name = s.check_name
		WHERE definition -> 'config' -> 'members' ? s.check_name AND d.enabled AND s.suppressed_by IS NULL AND NOT s.in_maintenance AND s.confirmed <> 'unknown'
	), counted AS (
		SELECT count(*) AS n, count(*) FILTER (WHERE m.rank < 2) AS up, max(m.rank) AS worst,
			string_agg(m.check_name || ' is ' || m.status, ', ' ORDER BY m.rank DESC, m.check_name) FILTER (WHERE m.rank > 0) AS why
		FROM member AS m
	)
	SELECT jsonb_build_object('message', coalesce(c.why, format('%s of %s members are up', c.up, c.n)), 'details', jsonb_build_object('members', c.n, 'up', c.up),
		'status', CASE WHEN c.n = 0 THEN 'unknown'
			WHEN mode = 'worst' THEN CASE c.worst WHEN 0 THEN 'healthy' WHEN 1 THEN 'degraded' ELSE 'unhealthy' END
			WHEN c.up < needed THEN 'unhealthy'
			WHEN c.worst > 0 THEN 'degraded'
			ELSE 'healthy' END)
	FROM counted AS c
	CROSS JOIN LATERAL (SELECT coalesce(definition -> 'config' ->> 'mode', 'worst') AS mode) AS m
	CROSS JOIN LATERAL (SELECT CASE m.mode WHEN 'all' THEN c.n WHEN 'any' THEN 1 ELSE (definition -> 'config' ->> 'quorum')::float8 END AS needed) AS q
$$;
COMMENT ON FUNCTION monitoring.run_group_check(timestamptz, jsonb, jsonb) IS 'Kind group: as its worst member (worst); unhealthy unless all, any or a quorum of its members are up, degraded as soon as one of them is not healthy. Members that are disabled, suppressed, maintained or unknown do not count.';

INSERT INTO monitoring.health_check_kinds (kind, function, check_function, config_keys, network, op, degraded, unhealthy, description, builtin) VALUES
	('sql', 'monitoring.run_sql_check', 'monitoring.check_sql_check', '{query,no_rows,increase_over_seconds,min_total}', false, '>', NULL, NULL,
		'what a query gives', true),
	('heartbeat', 'monitoring.run_heartbeat_check', 'monitoring.check_heartbeat_check', '{}', false, '>', NULL, NULL,
		'a job outside that calls report_heartbeat()', true),
	('group', 'monitoring.run_group_check', 'monitoring.check_group_check', '{members,mode,quorum}', false, '>', NULL, NULL,
		'other checks', true);

----------------------------------------------------------------------------------------------------------------------
-- Running
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.call_health_kind(definition monitoring.health_check_defs, at timestamptz, progress jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	outcome jsonb;
BEGIN
	EXECUTE format('SELECT %s($1, $2, $3)', monitoring.kind_function('a health check kind', 
			(SELECT k.function FROM monitoring.health_check_kinds AS k WHERE k.kind = definition.kind), 'timestamptz, jsonb, jsonb'))
		INTO outcome USING at, to_jsonb(definition), progress;
	IF jsonb_typeof(outcome) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'the function of kind % returned no object', definition.kind USING ERRCODE = 'invalid_function_definition';
	END IF;
	-- what is no number must fail here, where it is the check's fault
	PERFORM (outcome ->> 'value')::float8;
	RETURN outcome;
EXCEPTION WHEN OTHERS THEN
	IF NOT monitoring.evaluation_may_fail(SQLSTATE) THEN
		RAISE;
	END IF;
	RETURN jsonb_build_object('status', 'unhealthy', 'message', SQLERRM, 'details', jsonb_build_object('error', true));
END $$;
COMMENT ON FUNCTION monitoring.call_health_kind(monitoring.health_check_defs, timestamptz, jsonb) IS 'Call the function of a check''s kind; an error of it is a result that is unhealthy.';

CREATE FUNCTION monitoring.due_health_checks(at timestamptz, network boolean) RETURNS SETOF monitoring.health_check_defs
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.*
	FROM monitoring.health_check_states AS s
	JOIN monitoring.health_check_defs AS d ON d.name = s.check_name
	JOIN monitoring.health_check_kinds AS k ON k.kind = d.kind
	WHERE d.enabled AND k.network = due_health_checks.network AND s.suppressed_by IS NULL
		-- one that is due later than it can be was noted before the clock stepped back
		AND (s.next_at <= due_health_checks.at OR s.next_at > due_health_checks.at + d.every)
		AND (s.leased_until IS NULL OR s.leased_until <= due_health_checks.at OR s.leased_until > due_health_checks.at + interval '10 minutes')
	-- groups last: they look at the others
	ORDER BY d.kind = 'group', s.next_at, d.name
$$;
COMMENT ON FUNCTION monitoring.due_health_checks(timestamptz, boolean) IS 'The checks that are to run at a time, in the prober (network) or in the database worker.';

-- The worker has other things to do, such as alerts. A pass takes two seconds, or the time of one check that takes longer; after
-- such a one four times as long must pass until the next.
CREATE FUNCTION monitoring.slow_check_may_run(at timestamptz) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(bool_and(s.checked_at + s.duration * interval '5 seconds' <= slow_check_may_run.at), true)
	FROM monitoring.health_check_states AS s
	JOIN monitoring.health_check_defs AS d ON d.name = s.check_name
	JOIN monitoring.health_check_kinds AS k ON k.kind = d.kind
	WHERE NOT k.network AND s.duration >= 1 AND s.checked_at <= slow_check_may_run.at
$$;
COMMENT ON FUNCTION monitoring.slow_check_may_run(timestamptz) IS 'Whether a check that needs no network and takes a second or more may run: those before it took up to a fifth of the time.';

CREATE FUNCTION monitoring.run_health_checks(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	one record;
	d monitoring.health_check_defs;
	result jsonb;
	began timestamptz;
	took float8;
	time_left interval;
	slow_one_may_run boolean := monitoring.slow_check_may_run(at);
	started CONSTANT timestamptz := clock_timestamp();
	n integer := 0;
BEGIN
	PERFORM monitoring.ensure_check_partitions(at);
	PERFORM monitoring.refresh_health_checks(at);
	FOR one IN
		SELECT due.def, coalesce(s.duration >= 1, false) AS slow, s.duration IS NULL AS new
		FROM (SELECT h AS def, row_number() OVER () AS place FROM monitoring.due_health_checks(at, false) AS h) AS due
		JOIN monitoring.health_check_states AS s ON s.check_name = (due.def).name
		-- first those known to be quick, last those of which nothing is known
		ORDER BY new, slow, due.place
	LOOP
		d := one.def;
		time_left := interval '2 seconds' - (clock_timestamp() - started);
		-- none begins that would hardly have time; of those known to be slow there is one, with all of its own
		EXIT WHEN time_left < interval '0.5 seconds';
		CONTINUE WHEN one.slow AND NOT slow_one_may_run;
		slow_one_may_run := slow_one_may_run AND NOT one.slow;
		PERFORM FROM monitoring.health_check_states AS s WHERE s.check_name = d.name FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		IF NOT one.slow THEN
			d.timeout := least(d.timeout, CASE WHEN one.new THEN interval '0.5 seconds' ELSE time_left END);
		END IF;
		began := clock_timestamp();
		result := monitoring.call_health_kind(d, at, NULL);
		took := extract(epoch FROM clock_timestamp() - began)::float8;
		IF d.timeout < (one.def).timeout AND took >= extract(epoch FROM d.timeout) THEN
			-- its turn is among the slow ones
			UPDATE monitoring.health_check_states AS s SET duration = greatest(took, 1) WHERE s.check_name = d.name;
			CONTINUE;
		END IF;
		PERFORM monitoring.record_check_result(d.name, result, at, took, at);
		n := n + 1;
	END LOOP;
	IF n > 0 THEN
		PERFORM monitoring.refresh_health_checks(at);
	END IF;
	RETURN n;
END $$;
COMMENT ON FUNCTION monitoring.run_health_checks(timestamptz) IS 'Run the checks that are due and need no network, for two seconds in all, or for the time of one that took a second or more the last time; and bring the status of all checks up to date. Returns how many ran.';

CREATE FUNCTION monitoring.run_health_checks_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.run_health_checks(at);
	-- before this job runs again
	IF monitoring.next_probe_in(at) < 6 THEN
		PERFORM monitoring.wake_prober();
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.run_health_checks_job(timestamptz) IS 'Run the checks that are due, and see to it that there is a prober for the others. A periodic job.';

CREATE FUNCTION monitoring.run_health_check(name text, at timestamptz DEFAULT clock_timestamp()) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d monitoring.health_check_defs;
	result jsonb;
	began timestamptz := clock_timestamp();
	found_status text;
BEGIN
	PERFORM monitoring.check_is_health_check(name);
	SELECT * INTO d FROM monitoring.health_check_defs AS h WHERE h.name = run_health_check.name;
	PERFORM monitoring.ensure_check_partitions(at);
	PERFORM monitoring.refresh_health_checks(at);
	IF (SELECT k.network FROM monitoring.health_check_kinds AS k WHERE k.kind = d.kind) THEN
		UPDATE monitoring.health_check_states AS s SET next_at = run_health_check.at WHERE s.check_name = d.name;
		PERFORM monitoring.wake_prober();
		RETURN '{"status": "enqueued"}';
	END IF;
	PERFORM FROM monitoring.health_check_states AS s WHERE s.check_name = d.name FOR UPDATE;
	result := monitoring.call_health_kind(d, at, NULL);
	found_status := monitoring.record_check_result(d.name, result, at, extract(epoch FROM clock_timestamp() - began)::float8, at);
	PERFORM monitoring.refresh_health_checks(at);
	RETURN result || jsonb_build_object('status', found_status);
END $$;
COMMENT ON FUNCTION monitoring.run_health_check(text, timestamptz) IS 'Run a check now. What needs no network runs at once, and its result is returned (status, value, message, details) and counts as any other; of what goes through the network the status is "enqueued", and health_status shows the result when it is there. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.record_health(at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.record_check_metrics(record_health.at);
	SELECT monitoring.set_gauge('health_score', monitoring.health_score(record_health.at));
$$;
COMMENT ON FUNCTION monitoring.record_health(timestamptz) IS 'Record check_up and health_score, also of what has not changed: rules look at the last minutes. A periodic job.';

INSERT INTO monitoring.jobs (name, function, every, priority, timeout) VALUES
	('health_checks', 'monitoring.run_health_checks_job', '5 seconds', 45, '20 seconds'),
	('health_metrics', 'monitoring.record_health', '1 minute', 46, '10 seconds');
