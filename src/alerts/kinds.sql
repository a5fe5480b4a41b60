-- alerts, rule kinds: functions that give the values of all rules of a kind in one statement, and those that check a rule
-- when it is saved.
--
-- Rules that read the same share one reading. What cannot be evaluated is a row with an error, so that other rules of
-- the kind are not disturbed.

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

----------------------------------------------------------------------------------------------------------------------
-- metric and slow_query
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.metric_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- rules that differ in operator, threshold or severity only share one reading
	WITH readings AS MATERIALIZED (
		SELECT r.rules, r.counts, v.series_labels, v.value
		FROM (
			SELECT d.metric, d.fn, d.over, d.selector, d.by_labels, array_agg(d.id) AS rules,
				d.fn IN ('count', 'rate', 'increase') AS counts
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (metric_rule_values.rule_ids)
			GROUP BY d.metric, d.fn, d.over, d.selector, d.by_labels
		) AS r
		CROSS JOIN LATERAL monitoring.series_values(r.metric, r.fn, r.over, r.selector, r.by_labels, metric_rule_values.at) AS v
	)
	SELECT r.id, v.series_labels, v.value, NULL::jsonb, NULL::text
	FROM readings AS v
	CROSS JOIN LATERAL unnest(v.rules) AS r (id)
	UNION ALL
	-- Where events are counted, none means zero: an alert must not wait for the next one to know that they ended, and
	-- one that says that there are too few must not wait for the first.
	SELECT e.rule_id, e.series_labels, 0, NULL, NULL
	FROM (
		SELECT d.id AS rule_id, s.series_labels
		FROM monitoring.alert_rule_defs AS d
		JOIN monitoring.alert_states AS s ON s.rule_id = d.id AND s.state <> 'resolved' AND s.origin = 'value'
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase')
		UNION
		SELECT d.id, '{}'
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase') AND d.by_labels = '{}'
			AND EXISTS (SELECT FROM monitoring.metric_catalog AS m WHERE m.metric = d.metric)
	) AS e
	WHERE NOT EXISTS (
		SELECT FROM readings AS v
		CROSS JOIN LATERAL unnest(v.rules) AS r (id)
		WHERE v.counts AND (r.id, v.series_labels) = (e.rule_id, e.series_labels))
$$;
COMMENT ON FUNCTION monitoring.metric_rule_values(timestamptz, bigint[]) IS 'Rule kind metric: fn of a metric''s values in the window that ends at `at`, one row per rule and group of series with data. Without data, count, rate and increase are zero for pending and firing alerts, and for rules that do not group once their metric is known.';

CREATE FUNCTION monitoring.check_metric_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule ->> 'metric' IS NULL THEN
		RAISE EXCEPTION 'a metric rule needs a metric' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ->> 'metric' !~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$' THEN
		RAISE EXCEPTION 'invalid metric name "%"', left(rule ->> 'metric', 200)
			USING ERRCODE = 'invalid_name', DETAIL = 'A metric name matches [a-zA-Z_:][a-zA-Z0-9_:]* and has at most 200 characters.';
	ELSIF rule ->> 'fn' IS NULL THEN
		RAISE EXCEPTION 'a metric rule needs a function'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Functions are those of monitoring.value(), such as avg, rate or p95.';
	END IF;
	PERFORM monitoring.check_fn(rule ->> 'fn');
END $$;
COMMENT ON FUNCTION monitoring.check_metric_rule(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric or without a function that value() knows.';

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
		SELECT r.over, jsonb_build_object('database', v.database, 'queryid', v.queryid::text) AS series_labels, v.mean_seconds,
			jsonb_build_object('query', left(v.query, 1000), 'calls', v.calls) AS details
		FROM (SELECT d.over, min(d.threshold) AS at_least FROM rules AS d GROUP BY d.over) AS r
		CROSS JOIN LATERAL monitoring.slow_query_values(slow_query_rule_values.at, r.over, r.at_least,
			ARRAY(SELECT (a.series_labels ->> 'queryid')::bigint FROM active AS a WHERE a.over = r.over)) AS v
	)
	SELECT r.id, s.series_labels, s.mean_seconds, s.details, NULL::text
	FROM rules AS r
	JOIN statements AS s ON s.over = r.over AND s.series_labels @> r.selector
	UNION ALL
	-- a statement that does not run is not slow
	SELECT a.id, a.series_labels, 0, NULL, NULL
	FROM active AS a
	WHERE a.threshold > 0 AND NOT EXISTS (
		SELECT FROM statements AS s WHERE s.over = a.over AND s.series_labels = a.series_labels)
$$;
COMMENT ON FUNCTION monitoring.slow_query_rule_values(timestamptz, bigint[]) IS 'Rule kind slow_query: mean seconds of each statement in its slowest interval within the window that ends at `at`, with labels database and queryid and details query and calls. Statements below every threshold are left out unless they have an alert; that of one that did not run at all gets 0.';

CREATE FUNCTION monitoring.check_slow_query_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
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
COMMENT ON FUNCTION monitoring.check_slow_query_rule(jsonb) IS 'Raises 22023 for a slow-query rule with an operator that finds fast ones, a resolve threshold, a negative threshold, a metric, a function or labels to group by.';

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin) VALUES
	('metric', 'monitoring.metric_rule_values', 'monitoring.check_metric_rule', 'A function of a metric''s values in the window.', true),
	('slow_query', 'monitoring.slow_query_rule_values', 'monitoring.check_slow_query_rule', 'The mean execution time of each statement in its slowest interval within the window, in seconds.', true);

