-- alerts, rule kinds: functions that give the values of all rules of a kind in one statement, and those that check a rule
-- when it is saved.
--
-- Rules that read the same share one reading. What cannot be evaluated is a row with an error, so that other rules of
-- the kind are not disturbed.

----------------------------------------------------------------------------------------------------------------------
-- Checks of what rules of several kinds have
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_rule_params(rule jsonb, allowed text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text := (SELECT min(k) FROM jsonb_object_keys(rule -> 'params') AS k WHERE k <> ALL (allowed));
BEGIN
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'an alert rule of kind % takes no parameter "%"', rule ->> 'kind', left(bad, 100)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = CASE WHEN allowed = '{}' THEN 'Its params are empty.' ELSE 'Its params are ' || array_to_string(allowed, ', ') || '.' END;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_params(jsonb, text[]) IS 'Raises 22023 if a rule''s params hold anything but what is allowed. For the check functions of kinds.';

CREATE FUNCTION monitoring.check_rule_interval(rule jsonb, param text, longest interval DEFAULT '10 years') RETURNS interval
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
DECLARE
	length interval;
BEGIN
	length := (rule -> 'params' ->> param)::interval;
	IF length <= '0' OR length > longest THEN
		RAISE EXCEPTION 'out of range' USING ERRCODE = 'interval_field_overflow';
	END IF;
	RETURN length;
EXCEPTION WHEN data_exception THEN
	RAISE EXCEPTION 'parameter "%" of an alert rule must be an interval longer than zero and at most %', param, longest
		USING ERRCODE = 'invalid_parameter_value', HINT = 'Give text such as "1 week".';
END $$;
COMMENT ON FUNCTION monitoring.check_rule_interval(jsonb, text, interval) IS 'A parameter of a rule as an interval; null if it has none. Error 22023 unless it is one, longer than zero and at most longest.';

CREATE FUNCTION monitoring.check_rule_number(rule jsonb, param text, lowest float8, highest float8) RETURNS float8
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	given jsonb := rule -> 'params' -> param;
	number float8;
BEGIN
	IF given IS NULL THEN
		RETURN NULL;
	ELSIF jsonb_typeof(given) = 'number' THEN
		BEGIN
			number := given::float8;
		EXCEPTION WHEN numeric_value_out_of_range THEN
			number := NULL; -- JSON has numbers that are none of ours
		END;
	END IF;
	IF NOT coalesce(number BETWEEN lowest AND highest, false) THEN
		RAISE EXCEPTION 'parameter "%" of an alert rule must be a number between % and %', param, lowest, highest
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN number;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_number(jsonb, text, float8, float8) IS 'A parameter of a rule as a number; null if it has none. Error 22023 unless it is a number between the bounds.';

CREATE FUNCTION monitoring.check_metric_name(metric text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF metric !~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$' THEN
		RAISE EXCEPTION 'invalid metric name "%"', left(metric, 200)
			USING ERRCODE = 'invalid_name', DETAIL = 'A metric name matches [a-zA-Z_:][a-zA-Z0-9_:]* and has at most 200 characters.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_metric_name(text) IS 'Error 42602 unless it is the name of a metric, which need not exist.';

CREATE FUNCTION monitoring.check_rule_reading(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule ->> 'metric' IS NULL THEN
		RAISE EXCEPTION 'an alert rule of kind % needs a metric', rule ->> 'kind' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_metric_name(rule ->> 'metric');
	IF rule ->> 'fn' IS NULL THEN
		RAISE EXCEPTION 'an alert rule of kind % needs a function', rule ->> 'kind'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Functions are those of monitoring.value(), such as avg, rate or p95.';
	END IF;
	PERFORM monitoring.check_fn(rule ->> 'fn');
END $$;
COMMENT ON FUNCTION monitoring.check_rule_reading(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric or without a function that value() knows.';

CREATE FUNCTION monitoring.counts_events(fn text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN fn IN ('count', 'rate', 'increase');
COMMENT ON FUNCTION monitoring.counts_events(text) IS 'Whether a function of value() counts events, so that without data it is zero.';

----------------------------------------------------------------------------------------------------------------------
-- Queries that rules hold
----------------------------------------------------------------------------------------------------------------------

-- The settings are those of the worker, so that a query gives the same wherever it runs.
CREATE FUNCTION monitoring.run_rule_query(owner name, query text, timeout interval DEFAULT '1 second',
	max_rows integer DEFAULT 1000, any_columns boolean DEFAULT false, at timestamptz DEFAULT clock_timestamp(),
	over interval DEFAULT '0')
RETURNS TABLE (labels jsonb, value float8, "row" jsonb)
LANGUAGE c STRICT VOLATILE ROWS 100
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET row_security = on
AS 'MODULE_PATHNAME', 'mon_run_rule_query';
COMMENT ON FUNCTION monitoring.run_rule_query(name, text, interval, integer, boolean, timestamptz, interval) IS 'Run a query that a rule holds with the rights of its owner: a single SELECT that may use $1 (the time `at`) and $2 (the interval `over`). It can change nothing, whatever functions it calls, and cannot become another role. It sees names in pg_catalog only; others need their schema. One column is a number and becomes value, all others become labels (text, enums, booleans, UUIDs, addresses; nulls are left out, control characters become ?, each is cut off after 1024 bytes). With any_columns the whole row is given instead, as JSON. Errors: those of the query; canceled after timeout (57014); more than max_rows rows, or rows that are too large (54000); no or several numeric columns, a column of another type (42804), a label without a name (42611), labels that occur twice (21000); not a SELECT (0A000), several statements (42601); the caller has not the rights of owner (42501).';

CREATE FUNCTION monitoring.try_rule_query(owner name, query text, timeout interval DEFAULT '1 second',
	max_rows integer DEFAULT 1000, any_columns boolean DEFAULT false, at timestamptz DEFAULT clock_timestamp(),
	over interval DEFAULT '0')
RETURNS TABLE (labels jsonb, value float8, "row" jsonb, error text)
LANGUAGE c STRICT VOLATILE ROWS 100
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET row_security = on
AS 'MODULE_PATHNAME', 'mon_try_rule_query';
COMMENT ON FUNCTION monitoring.try_rule_query(name, text, interval, integer, boolean, timestamptz, interval) IS 'As run_rule_query, but when the query fails the result is one row with the error''s message. The session''s own statement timeout and pg_cancel_backend() remain errors.';

CREATE FUNCTION monitoring.check_rule_query(owner name, query text, timeout interval DEFAULT '1 second',
	max_rows integer DEFAULT 1000, any_columns boolean DEFAULT false, at timestamptz DEFAULT clock_timestamp(),
	over interval DEFAULT '0')
RETURNS void
LANGUAGE c STRICT VOLATILE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET row_security = on
AS 'MODULE_PATHNAME', 'mon_check_rule_query';
COMMENT ON FUNCTION monitoring.check_rule_query(name, text, interval, integer, boolean, timestamptz, interval) IS 'Plan a query as run_rule_query would run it, as its owner, without running it: raises what can be known, such as bad syntax, names that do not exist, missing rights and columns that do not fit. Errors as run_rule_query.';

CREATE FUNCTION monitoring.check_reading_params(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	conditions jsonb := rule -> 'params' -> 'where';
BEGIN
	IF jsonb_typeof(conditions) <> 'object' OR jsonb_path_exists(conditions, '$.* ? (@.type() != "object")') THEN
		RAISE EXCEPTION 'parameter "where" of an alert rule must be an object of conditions on labels'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example {"status": {"=~": "5.."}}; labels with one value are the rule''s labels.';
	END IF;
	PERFORM monitoring.check_selector(conditions);
	IF EXISTS (SELECT FROM jsonb_object_keys(conditions) AS k WHERE rule -> 'selector' ? k) THEN
		RAISE EXCEPTION 'a label cannot be both in labels and in "where" of an alert rule' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule -> 'params' -> 'multiply' = '0' THEN
		RAISE EXCEPTION 'parameter "multiply" of an alert rule must not be zero' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_rule_number(rule, 'multiply', -1e300, 1e300), monitoring.check_rule_number(rule, 'add', -1e300, 1e300);
END $$;
COMMENT ON FUNCTION monitoring.check_reading_params(jsonb) IS 'Checks the params "where", "multiply" and "add" of a rule that reads a metric: 22023, 2201B or 54000 for what is not valid.';

CREATE FUNCTION monitoring.scaled(value float8, params jsonb) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN params ? 'multiply' THEN (params ->> 'multiply')::float8 * value ELSE value END
	+ coalesce((params ->> 'add')::float8, 0);
COMMENT ON FUNCTION monitoring.scaled(float8, jsonb) IS 'A reading as a rule compares it: times "multiply", plus "add" of its params.';

----------------------------------------------------------------------------------------------------------------------
-- metric and slow_query
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.metric_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- rules that differ in operator, threshold or severity only share one request
	WITH requests AS MATERIALIZED (
		SELECT row_number() OVER () AS request, r.*
		FROM (
			SELECT d.metric, d.fn, d.over, d.selector, d.by_labels, d.params, array_agg(d.id) AS rules,
				d.fn IN ('count', 'rate', 'increase') AS counts
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (metric_rule_values.rule_ids)
			GROUP BY d.metric, d.fn, d.over, d.selector, d.by_labels, d.params
		) AS r
	), read AS MATERIALIZED (
		SELECT v.request, v.series_labels, v.value, v.error
		FROM monitoring.read_values(
			ARRAY(
				SELECT ROW(r.metric, r.fn, r.over, r.selector || coalesce(r.params -> 'where', '{}'),
					CASE WHEN r.params ? 'across' THEN '{...}' ELSE r.by_labels END, NULL)::monitoring.value_request
				FROM requests AS r
				ORDER BY r.request
			), metric_rule_values.at) AS v
	), readings AS MATERIALIZED (
		SELECT r.rules, r.counts, v.series_labels, v.value, v.error
		FROM read AS v
		JOIN requests AS r ON r.request = v.request
		WHERE r.params = '{}' OR v.error IS NOT NULL
		UNION ALL
		SELECT r.rules, r.counts, v.series_labels, monitoring.scaled(v.value, r.params), NULL
		FROM requests AS r
		CROSS JOIN LATERAL (
			SELECT o.series_labels, o.value FROM read AS o
			WHERE o.request = r.request AND o.error IS NULL AND NOT r.params ? 'across'
			UNION ALL
			SELECT l.series_labels, CASE r.params ->> 'across' WHEN 'sum' THEN sum(o.value) WHEN 'avg' THEN avg(o.value)
				WHEN 'min' THEN min(o.value) WHEN 'max' THEN max(o.value) WHEN 'count' THEN count(*) END
			FROM read AS o
			CROSS JOIN LATERAL (
				SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS series_labels
				FROM jsonb_each(o.series_labels) AS e
				WHERE e.key = ANY (r.by_labels)
			) AS l
			WHERE o.request = r.request AND o.error IS NULL AND r.params ? 'across'
			GROUP BY l.series_labels
		) AS v
		WHERE r.params <> '{}'
	)
	SELECT r.id, v.series_labels, v.value, NULL::jsonb, v.error
	FROM readings AS v
	CROSS JOIN LATERAL unnest(v.rules) AS r (id)
	UNION ALL
	-- Where events are counted, none means zero: an alert must not wait for the next one to know that they ended, and
	-- one that says that there are too few must not wait for the first.
	SELECT e.rule_id, e.series_labels, monitoring.scaled(0, e.params), NULL, NULL
	FROM (
		SELECT d.id AS rule_id, s.series_labels, d.params
		FROM monitoring.alert_rule_defs AS d
		JOIN monitoring.alert_states AS s ON s.rule_id = d.id AND s.state <> 'resolved' AND s.origin = 'value'
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase')
		UNION
		SELECT d.id, '{}', d.params
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase') AND d.by_labels = '{}'
			AND EXISTS (SELECT FROM monitoring.metric_catalog AS m WHERE m.metric = d.metric)
	) AS e
	WHERE NOT EXISTS (
		SELECT FROM readings AS v
		CROSS JOIN LATERAL unnest(v.rules) AS r (id)
		WHERE v.counts AND (r.id, v.series_labels) = (e.rule_id, e.series_labels))
$$;
COMMENT ON FUNCTION monitoring.metric_rule_values(timestamptz, bigint[]) IS 'Rule kind metric: fn of a metric''s values in the window that ends at `at`, one row per rule and group of series with data; with the parameter across the sum, avg, min, max or count of what fn gives for each series. Without data, count, rate and increase are zero for pending and firing alerts, and for rules that do not group once their metric is known.';

CREATE FUNCTION monitoring.check_metric_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	across text := rule -> 'params' ->> 'across';
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{where,across,multiply,add}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_reading_params(rule);
	IF across NOT IN ('sum', 'avg', 'min', 'max', 'count') THEN
		RAISE EXCEPTION 'unknown way "%" to add up series', left(across, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Across series there are sum, avg, min, max and count.';
	ELSIF across IS NOT NULL AND rule -> 'by_labels' ? '...' THEN
		RAISE EXCEPTION 'an alert rule with one alert per series cannot take series together' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_metric_rule(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric, without a function that value() knows, or with params that are not valid; 2201B for a bad regular expression.';

CREATE FUNCTION monitoring.slow_query_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.over, d.selector, d.threshold
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (slow_query_rule_values.rule_ids)
	), active AS MATERIALIZED (
		SELECT r.id, r.over, r.threshold, s.series_labels
		FROM rules AS r
		JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved' AND s.origin = 'value'
	), statements AS MATERIALIZED (
		SELECT r.over, jsonb_build_object('database', v.database, 'queryid', v.queryid::text) AS series_labels, v.max_seconds,
			jsonb_build_object('query', left(v.query, 1000), 'calls', v.calls) AS details
		FROM (SELECT d.over, min(d.threshold) AS at_least FROM rules AS d GROUP BY d.over) AS r
		CROSS JOIN LATERAL monitoring.slow_query_values(slow_query_rule_values.at, r.over, r.at_least,
			ARRAY(SELECT (a.series_labels ->> 'queryid')::bigint FROM active AS a WHERE a.over = r.over)) AS v
	)
	SELECT r.id, s.series_labels, s.max_seconds, s.details, NULL::text
	FROM rules AS r
	JOIN statements AS s ON s.over = r.over AND s.series_labels @> r.selector
	UNION ALL
	-- a statement that does not run is not slow
	SELECT a.id, a.series_labels, 0, NULL, NULL
	FROM active AS a
	WHERE a.threshold > 0 AND NOT EXISTS (
		SELECT FROM statements AS s WHERE s.over = a.over AND s.series_labels = a.series_labels)
$$;
COMMENT ON FUNCTION monitoring.slow_query_rule_values(timestamptz, bigint[]) IS 'Rule kind slow_query: seconds of each statement''s longest execution within the window that ends at `at`, with labels database and queryid and details query and calls. Statements below every threshold are left out unless they have an alert; that of one that did not run at all gets 0.';

CREATE FUNCTION monitoring.check_slow_query_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{}');
	IF rule ->> 'op' NOT IN ('>', '>=') OR rule ->> 'resolve_threshold' IS NOT NULL THEN
		RAISE EXCEPTION 'a slow-query rule compares with > or >= and has no resolve threshold'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	ELSIF (rule ->> 'threshold')::float8 < 0 OR rule ->> 'threshold_sql' IS NOT NULL THEN
		RAISE EXCEPTION 'a slow-query rule''s threshold is one number that is not negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'by_labels' <> '[]' THEN
		RAISE EXCEPTION 'a slow-query rule takes no metric, function or grouping'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_slow_query_rule(jsonb) IS 'Raises 22023 for a slow-query rule with an operator that finds fast ones, a resolve threshold, a negative threshold, a metric, a function, params or labels to group by.';

----------------------------------------------------------------------------------------------------------------------
-- sql: any query
----------------------------------------------------------------------------------------------------------------------

-- Not random(): a query can set its seed, so that the same rules would come last each time.
CREATE FUNCTION monitoring.turn(rule_id bigint, at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashint8extended(rule_id, (date_part('epoch', at) * 1e6)::bigint);
COMMENT ON FUNCTION monitoring.turn(bigint, timestamptz) IS 'Orders rules in another way at each time, so that none is always the last.';

-- Queries may be slow: together they have ten seconds, in an order that is another one each time.
CREATE FUNCTION monitoring.sql_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH start AS MATERIALIZED (
		SELECT clock_timestamp() AS t
	), rules AS MATERIALIZED (
		SELECT d.id, d.owner, d.params, d.max_instances, d.over
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (sql_rule_values.rule_ids)
		ORDER BY monitoring.turn(d.id, sql_rule_values.at)
	)
	SELECT r.id, q.labels, q.value, NULL::jsonb, q.error
	FROM rules AS r
	CROSS JOIN start AS s
	CROSS JOIN LATERAL (
		SELECT least(coalesce((r.params ->> 'timeout')::interval, '1 second'), s.t + '10 seconds' - clock_timestamp()) AS left_over OFFSET 0
	) AS t
	CROSS JOIN LATERAL (
		SELECT f.labels, f.value, f.error
		FROM monitoring.try_rule_query(r.owner::name, r.params ->> 'query', t.left_over, r.max_instances, false, sql_rule_values.at, r.over) AS f
		WHERE t.left_over > '0'
		UNION ALL
		SELECT NULL, NULL, 'the queries of other rules took too long'
		WHERE t.left_over <= '0'
	) AS q
$$;
COMMENT ON FUNCTION monitoring.sql_rule_values(timestamptz, bigint[]) IS 'Rule kind sql: what each rule''s query gives, run as its owner with run_rule_query.';

CREATE FUNCTION monitoring.check_sql_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{query,timeout}');
	IF jsonb_typeof(rule -> 'params' -> 'query') IS DISTINCT FROM 'string' THEN
		RAISE EXCEPTION 'an alert rule of kind sql needs the parameter "query"'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example params => ''{"query": "SELECT state, count(*) FROM shop.orders GROUP BY state"}''.';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'selector' <> '{}' OR rule -> 'by_labels' <> '[]' THEN
		RAISE EXCEPTION 'an alert rule of kind sql takes no metric, function, labels or grouping'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Its query does all that; labels to be attached to alerts are extra_labels.';
	END IF;
	PERFORM monitoring.check_rule_interval(rule, 'timeout', '10 seconds');
	PERFORM monitoring.check_rule_query((rule ->> 'owner')::name, rule -> 'params' ->> 'query', '5 seconds', over => (rule ->> 'over')::interval);
END $$;
COMMENT ON FUNCTION monitoring.check_sql_rule(jsonb) IS 'Raises 22023 for a rule without a query, with a bad timeout, or with a metric, a function, labels or grouping; otherwise what check_rule_query raises for its query.';

----------------------------------------------------------------------------------------------------------------------
-- absence: how long nothing has been observed
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.absence_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH readings AS MATERIALIZED (
		SELECT r.rules, o.series_labels, o.observed_at
		FROM (
			SELECT d.metric, d.over, d.selector, d.by_labels, array_agg(d.id) AS rules
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (absence_rule_values.rule_ids)
			GROUP BY d.metric, d.over, d.selector, d.by_labels
		) AS r
		CROSS JOIN LATERAL monitoring.last_observed(r.metric, r.over, r.selector, r.by_labels, absence_rule_values.at) AS o
	)
	SELECT u.id, r.series_labels, date_part('epoch', absence_rule_values.at - r.observed_at),
		jsonb_build_object('observed_at', r.observed_at), NULL::text
	FROM readings AS r
	CROSS JOIN LATERAL unnest(r.rules) AS u (id)
	UNION ALL
	-- of a group only what the window has seen is known; a metric has been there before, or there is nothing to miss
	SELECT d.id, '{}', date_part('epoch', d.over), NULL, NULL
	FROM monitoring.alert_rule_defs AS d
	WHERE d.id = ANY (absence_rule_values.rule_ids) AND d.by_labels = '{}'
		AND NOT EXISTS (SELECT FROM readings AS r WHERE d.id = ANY (r.rules))
		AND EXISTS (SELECT FROM monitoring.series_catalog AS s WHERE s.metric = d.metric AND monitoring.labels_match(s.labels, d.selector))
$$;
COMMENT ON FUNCTION monitoring.absence_rule_values(timestamptz, bigint[]) IS 'Rule kind absence: seconds since the last observation of each group of series that was observed in the rule''s window; the length of the window for a rule that does not group and whose series were observed before it.';

CREATE FUNCTION monitoring.check_absence_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{}');
	IF rule ->> 'metric' IS NULL OR rule ->> 'fn' IS NOT NULL THEN
		RAISE EXCEPTION 'an alert rule of kind absence needs a metric and takes no function' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_metric_name(rule ->> 'metric');
	IF rule ->> 'op' NOT IN ('>', '>=') OR (rule ->> 'threshold')::float8 <= 0
		OR (rule ->> 'threshold')::float8 >= date_part('epoch', (rule ->> 'over')::interval) THEN
		RAISE EXCEPTION 'an alert rule of kind absence compares with > or >= to a number of seconds that is shorter than its window'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The window, such as ''1 day'', is how long something that fell silent is remembered.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_absence_rule(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric, with a function or params, with an operator that finds what is not absent, or with a threshold that its window cannot reach.';

----------------------------------------------------------------------------------------------------------------------
-- change: against an earlier window
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.change_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET enable_nestloop = off SET jit = off AS $$
	WITH parts AS MATERIALIZED (
		SELECT dense_rank() OVER (ORDER BY d.metric, d.fn, d.over, d.selector, d.by_labels, w.shift) AS request, d.id, w.earlier, w.shift,
			d.metric, d.fn, d.over, d.selector, d.by_labels, coalesce(d.params ->> 'mode', 'ratio') AS mode,
			CASE WHEN monitoring.counts_events(d.fn) THEN 0::float8 END AS silence
		FROM monitoring.alert_rule_defs AS d
		CROSS JOIN LATERAL (VALUES (false, interval '0'), (true, coalesce((d.params ->> 'shift')::interval, '7 days'))) AS w (earlier, shift)
		WHERE d.id = ANY (change_rule_values.rule_ids)
	), read AS MATERIALIZED (
		SELECT v.request, v.series_labels, v.value, v.error
		FROM monitoring.read_values(
			ARRAY(
				SELECT DISTINCT ON (p.request) ROW(p.metric, p.fn, p.over, p.selector, p.by_labels, p.shift)::monitoring.value_request
				FROM parts AS p
				ORDER BY p.request
			), change_rule_values.at) AS v
	), values AS MATERIALIZED (
		SELECT coalesce(n.id, e.id) AS id, coalesce(n.mode, e.mode) AS mode, coalesce(n.series_labels, e.series_labels) AS series_labels,
			coalesce(n.value, e.silence) AS value, coalesce(e.value, n.silence) AS previous
		FROM (SELECT p.id, p.mode, p.silence, r.series_labels, r.value
			FROM parts AS p JOIN read AS r ON r.request = p.request WHERE NOT p.earlier AND r.error IS NULL) AS n
		FULL JOIN (SELECT p.id, p.mode, p.silence, r.series_labels, r.value
			FROM parts AS p JOIN read AS r ON r.request = p.request WHERE p.earlier AND r.error IS NULL) AS e
			ON e.id = n.id AND e.series_labels = n.series_labels
	), shown AS (
		SELECT v.id, v.mode, v.series_labels, v.value, v.previous FROM values AS v
		UNION ALL
		-- neither now nor then: what is counted has not changed
		SELECT p.id, p.mode, s.series_labels, 0, 0
		FROM parts AS p
		JOIN monitoring.alert_states AS s ON s.rule_id = p.id AND s.state <> 'resolved' AND s.origin = 'value'
		WHERE NOT p.earlier AND p.silence IS NOT NULL
			AND NOT EXISTS (SELECT FROM values AS v WHERE v.id = p.id AND v.series_labels = s.series_labels)
	)
	SELECT v.id, v.series_labels,
		CASE v.mode WHEN 'difference' THEN v.value - v.previous WHEN 'percent' THEN 100 * (v.value - v.previous) / nullif(abs(v.previous), 0)
			ELSE v.value / nullif(v.previous, 0) END,
		jsonb_build_object('current', v.value, 'previous', v.previous), NULL::text
	FROM shown AS v
	UNION ALL
	SELECT p.id, NULL, NULL, NULL, r.error FROM parts AS p JOIN read AS r ON r.request = p.request WHERE NOT p.earlier AND r.error IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.change_rule_values(timestamptz, bigint[]) IS 'Rule kind change: fn of a metric''s values in the window compared with the window that ends shift earlier, as ratio, difference or percent, one row per rule and group with data in one of them. Where events are counted, no data is zero. There is no ratio and no percentage of zero.';

CREATE FUNCTION monitoring.check_change_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{shift,mode}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_rule_interval(rule, 'shift');
	IF coalesce(rule -> 'params' ->> 'mode', 'ratio') NOT IN ('ratio', 'difference', 'percent') THEN
		RAISE EXCEPTION 'unknown mode "%" of a change', left(rule -> 'params' ->> 'mode', 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes are ratio, difference and percent.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_change_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, with a bad shift, or with a mode other than ratio, difference and percent; 42602 for a bad metric name.';

----------------------------------------------------------------------------------------------------------------------
-- ratio: of two metrics, or of one by different labels
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.ratio_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	-- numerators and denominators: rules share what they have in common, such as the number of all requests
	WITH parts AS MATERIALIZED (
		SELECT dense_rank() OVER (ORDER BY p.metric, p.fn, d.over, p.selector, d.by_labels) AS request, d.id, p.numerator,
			p.metric, p.fn, d.over, p.selector, d.by_labels, d.params,
			CASE WHEN monitoring.counts_events(d.fn) THEN 0::float8 END AS silence,
			coalesce((d.params ->> 'min_denominator')::float8, 0) AS least
		FROM monitoring.alert_rule_defs AS d
		CROSS JOIN LATERAL (VALUES
			(true, d.metric, d.fn, d.selector || coalesce(d.params -> 'where', '{}')),
			(false, coalesce(d.params ->> 'metric', d.metric), coalesce(d.params ->> 'fn', d.fn), coalesce(d.params -> 'labels', '{}'))
		) AS p (numerator, metric, fn, selector)
		WHERE d.id = ANY (ratio_rule_values.rule_ids)
	), read AS MATERIALIZED (
		SELECT v.request, v.series_labels, v.value, v.error
		FROM monitoring.read_values(
			ARRAY(
				SELECT DISTINCT ON (p.request) ROW(p.metric, p.fn, p.over, p.selector, p.by_labels, NULL)::monitoring.value_request
				FROM parts AS p
				ORDER BY p.request
			), ratio_rule_values.at) AS v
	)
	SELECT d.id, d.series_labels, monitoring.scaled(coalesce(n.value, d.silence) / d.value, d.params),
		jsonb_build_object('numerator', coalesce(n.value, d.silence), 'denominator', d.value), NULL::text
	FROM (SELECT p.id, p.params, p.silence, r.series_labels, r.value
		FROM parts AS p JOIN read AS r ON r.request = p.request
		WHERE NOT p.numerator AND r.value <> 0 AND r.value >= p.least) AS d
	LEFT JOIN (SELECT p.id, r.series_labels, r.value
		FROM parts AS p JOIN read AS r ON r.request = p.request
		WHERE p.numerator AND r.error IS NULL) AS n ON n.id = d.id AND n.series_labels = d.series_labels
	UNION ALL
	SELECT p.id, NULL, NULL, NULL, r.error FROM parts AS p JOIN read AS r ON r.request = p.request WHERE r.error IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.ratio_rule_values(timestamptz, bigint[]) IS 'Rule kind ratio: fn of the rule''s metric and labels, divided by that of the metric, fn and labels in its params, one row per rule and group whose denominator is not zero nor below min_denominator. A numerator that counts events is zero without data.';

CREATE FUNCTION monitoring.check_ratio_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	params jsonb := rule -> 'params';
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{where,metric,fn,labels,min_denominator,multiply,add}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_reading_params(rule);
	PERFORM monitoring.check_metric_name(params ->> 'metric'), monitoring.check_fn(params ->> 'fn');
	PERFORM monitoring.check_rule_number(rule, 'min_denominator', 0, 1e300);
	IF (coalesce(params ->> 'metric', rule ->> 'metric'), coalesce(params ->> 'fn', rule ->> 'fn'), coalesce(params -> 'labels', '{}'))
		= (rule ->> 'metric', rule ->> 'fn', (rule -> 'selector') || coalesce(params -> 'where', '{}')) THEN
		RAISE EXCEPTION 'a ratio of something to itself is always one'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the metric, fn or labels of the denominator in params.';
	END IF;
	PERFORM monitoring.check_matchers(params -> 'labels', 'the labels of a ratio''s denominator') WHERE params ? 'labels';
END $$;
COMMENT ON FUNCTION monitoring.check_ratio_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, for a denominator that is the numerator, or labels or min_denominator that are not valid; 42602 for a bad metric name; 2201B for a bad regular expression.';

----------------------------------------------------------------------------------------------------------------------
-- composite: of other rules
----------------------------------------------------------------------------------------------------------------------

-- A group is a combination of the values of the rule's "by" labels that an alert of a member has. An alert that lacks some
-- of these labels counts for every group that it does not contradict.
CREATE FUNCTION monitoring.composite_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.selector, d.by_labels, d.params ? 'all' AS needs_all, coalesce(d.params -> 'all', d.params -> 'any') AS names
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (composite_rule_values.rule_ids)
	), members AS MATERIALIZED (
		SELECT r.id, r.selector, r.by_labels, n.name, d.id AS member, d AS rule
		FROM rules AS r
		CROSS JOIN LATERAL (SELECT DISTINCT jsonb_array_elements_text(r.names)) AS n (name)
		LEFT JOIN monitoring.alert_rule_defs AS d ON d.name = n.name
	), firing AS MATERIALIZED (
		SELECT DISTINCT m.id, m.name, l.labels
		FROM members AS m
		CROSS JOIN LATERAL (
			SELECT a.labels
			FROM monitoring.alert_states AS s
			CROSS JOIN LATERAL (SELECT monitoring.alert_labels(m.rule, s.series_labels) AS labels) AS a
			WHERE s.rule_id = m.member AND s.state = 'firing' AND s.origin = 'value'
				AND (m.selector = '{}' OR monitoring.labels_match(a.labels, m.selector))
			-- that there is one is all that matters
			LIMIT CASE WHEN m.by_labels = '{}' THEN 1 END
		) AS s
		CROSS JOIN LATERAL (
			SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS labels
			FROM jsonb_each(s.labels) AS e
			WHERE e.key = ANY (m.by_labels)
		) AS l
	), groups AS (
		SELECT f.id, f.labels FROM firing AS f JOIN rules AS r ON r.id = f.id WHERE f.labels ?& r.by_labels
		UNION
		SELECT r.id, '{}' FROM rules AS r WHERE r.by_labels = '{}'
		UNION
		SELECT r.id, s.series_labels
		FROM rules AS r
		JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved' AND s.origin = 'value'
	)
	SELECT g.id, g.labels, (CASE WHEN r.needs_all THEN c.firing = c.members ELSE c.firing > 0 END)::integer, jsonb_build_object('firing', c.names), NULL::text
	FROM groups AS g
	JOIN rules AS r ON r.id = g.id
	CROSS JOIN LATERAL (
		SELECT count(*) AS members, count(f.name) AS firing, coalesce(jsonb_agg(f.name ORDER BY f.name) FILTER (WHERE f.name IS NOT NULL), '[]') AS names
		FROM members AS m
		LEFT JOIN (SELECT DISTINCT o.id, o.name FROM firing AS o WHERE o.id = g.id AND g.labels @> o.labels) AS f
			ON f.id = m.id AND f.name = m.name
		WHERE m.id = g.id
	) AS c
	WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.id = g.id AND m.member IS NULL)
	UNION ALL
	SELECT m.id, NULL, NULL, NULL, format('rule "%s" does not exist', m.name)
	FROM members AS m
	WHERE m.member IS NULL
$$;
COMMENT ON FUNCTION monitoring.composite_rule_values(timestamptz, bigint[]) IS 'Rule kind composite: 1 while all, or any, of the named rules have a firing alert that matches the rule''s labels, otherwise 0; one row per combination of the values of the labels in by.';

CREATE FUNCTION monitoring.check_composite_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	params jsonb := rule -> 'params';
	names jsonb := coalesce(params -> 'all', params -> 'any');
	bad text;
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{all,any}');
	IF (params ? 'all') = (params ? 'any') OR jsonb_typeof(names) <> 'array' OR jsonb_array_length(names) = 0
		OR EXISTS (SELECT FROM jsonb_array_elements(names) AS n WHERE jsonb_typeof(n) <> 'string') THEN
		RAISE EXCEPTION 'an alert rule of kind composite needs the names of rules as "all" or as "any"'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For example params => ''{"all": ["slow checkout", "many errors"]}''.';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL THEN
		RAISE EXCEPTION 'an alert rule of kind composite takes no metric or function' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT monitoring.alert_breach(rule ->> 'op', 1, (rule ->> 'threshold')::float8)
		OR monitoring.alert_breach(rule ->> 'op', 0, (rule ->> 'threshold')::float8) THEN
		RAISE EXCEPTION 'an alert rule of kind composite must compare so that 1 is a breach and 0 is none'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the operator > and the threshold 0.';
	END IF;

	SELECT min(n) INTO bad
	FROM jsonb_array_elements_text(names) AS n
	WHERE n <> rule ->> 'name' AND NOT EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.name = n);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', bad USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
	END IF;

	WITH RECURSIVE below AS (
		SELECT n AS name FROM jsonb_array_elements_text(names) AS n
		UNION
		SELECT n.name
		FROM below AS b
		JOIN monitoring.alert_rule_defs AS d ON d.name = b.name AND d.name <> rule ->> 'name' AND d.kind = rule ->> 'kind'
		CROSS JOIN LATERAL monitoring.rule_members(d.params) AS n (name)
	)
	SELECT b.name INTO bad FROM below AS b WHERE b.name = rule ->> 'name';
	IF FOUND THEN
		RAISE EXCEPTION 'composite rule "%" cannot be made of itself', rule ->> 'name'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It is among its members, or among theirs.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_composite_rule(jsonb) IS 'Raises 22023 for a composite rule without members, with both "all" and "any", with a metric or function, with a comparison that does not tell 1 from 0, or that would be a member of itself; 42704 for a member that does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- The kinds
----------------------------------------------------------------------------------------------------------------------

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin, evaluation_order, every) VALUES
	('metric', 'monitoring.metric_rule_values', 'monitoring.check_metric_rule', 'A function of a metric''s values in the window. params: where (conditions on labels), across (sum, avg, min, max or count of the series), multiply (1), add (0).', true, 0, NULL),
	('slow_query', 'monitoring.slow_query_rule_values', 'monitoring.check_slow_query_rule', 'The longest execution of each statement within the window, in seconds.', true, 0, NULL),
	('sql', 'monitoring.sql_rule_values', 'monitoring.check_sql_rule', 'What a query gives: a numeric column is the value, the others are labels. params: query, timeout (1 second).', true, 0, '10 seconds'),
	('absence', 'monitoring.absence_rule_values', 'monitoring.check_absence_rule', 'Seconds since the metric was last observed.', true, 0, '10 seconds'),
	('change', 'monitoring.change_rule_values', 'monitoring.check_change_rule', 'A function of a metric''s values in the window compared with the same window earlier. params: shift (7 days), mode (ratio, difference or percent).', true, 0, NULL),
	('ratio', 'monitoring.ratio_rule_values', 'monitoring.check_ratio_rule', 'A function of a metric''s values divided by another one. params, of the denominator: metric, fn (those of the rule), labels, min_denominator (0); of the ratio: where, multiply (1), add (0).', true, 0, NULL),
	('composite', 'monitoring.composite_rule_values', 'monitoring.check_composite_rule', '1 while all, or any, of other rules fire, otherwise 0. params: all or any, names of rules.', true, 100, NULL);
