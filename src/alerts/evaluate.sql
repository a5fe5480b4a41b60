-- alerts, second part: rule kinds, and the evaluation that turns values into transitions.
--
-- An evaluation runs one statement per rule kind, whatever the number of rules: it reads the values of all enabled rules of
-- the kind, compares them with the stored states, and writes the states that change. History and outbox rows of all kinds
-- follow in the same transaction. Nothing changes, nothing is written.
--
-- Evaluations exclude each other by a lock on alert_rule_kinds that readers and writers of rules do not meet. It is a table
-- lock, not an advisory one, which any role could take and keep.

----------------------------------------------------------------------------------------------------------------------
-- Rule kinds
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.metric_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- rules that differ in operator, threshold or severity only share one reading
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.metric, d.fn, d.over, d.selector, d.by_labels
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (metric_rule_values.rule_ids)
	), readings AS MATERIALIZED (
		SELECT r.metric, r.fn, r.over, r.selector, r.by_labels, v.series_labels, v.value
		FROM (SELECT DISTINCT d.metric, d.fn, d.over, d.selector, d.by_labels FROM rules AS d) AS r
		CROSS JOIN LATERAL monitoring.series_values(r.metric, r.fn, r.over, r.selector, r.by_labels, metric_rule_values.at) AS v
	)
	SELECT r.id, v.series_labels, v.value, NULL::jsonb
	FROM rules AS r
	JOIN readings AS v ON (v.metric, v.fn, v.over, v.selector, v.by_labels) = (r.metric, r.fn, r.over, r.selector, r.by_labels)
	UNION ALL
	-- where events are counted, none means zero: an alert must not wait for the next one to know that they ended
	SELECT r.id, s.series_labels, 0, NULL
	FROM rules AS r
	JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved'
	WHERE r.fn IN ('count', 'rate', 'increase') AND NOT EXISTS (
		SELECT FROM readings AS v
		WHERE (v.metric, v.fn, v.over, v.selector, v.by_labels, v.series_labels)
			= (r.metric, r.fn, r.over, r.selector, r.by_labels, s.series_labels))
$$;
COMMENT ON FUNCTION monitoring.metric_rule_values(timestamptz, bigint[]) IS 'Rule kind metric: fn of a metric''s values in the window that ends at `at`, one row per rule and group of series with data. Without data, count, rate and increase of a pending or firing alert are zero.';

CREATE FUNCTION monitoring.check_metric_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule ->> 'metric' IS NULL OR rule ->> 'metric' !~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$' THEN
		RAISE EXCEPTION 'invalid metric name "%"', left(rule ->> 'metric', 200)
			USING ERRCODE = 'invalid_name', DETAIL = 'A metric name matches [a-zA-Z_:][a-zA-Z0-9_:]* and has at most 200 characters.';
	ELSIF rule ->> 'fn' IS NULL THEN
		RAISE EXCEPTION 'a metric rule needs a function'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Functions are those of monitoring.value(), such as avg, rate or p95.';
	END IF;
	PERFORM monitoring.check_fn(rule ->> 'fn');
END $$;
COMMENT ON FUNCTION monitoring.check_metric_rule(jsonb) IS 'Raises 42602 for a rule without a valid metric name, 22023 for one without a function that value() knows.';

CREATE FUNCTION monitoring.slow_query_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.over, d.selector, d.threshold
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (slow_query_rule_values.rule_ids)
	), statements AS MATERIALIZED (
		SELECT r.over, jsonb_build_object('database', v.database, 'queryid', v.queryid::text) AS series_labels, v.mean_seconds,
			jsonb_build_object('query', left(v.query, 1000), 'calls', v.calls) AS details
		FROM (SELECT d.over, min(d.threshold) AS at_least FROM rules AS d GROUP BY d.over) AS r
		CROSS JOIN LATERAL monitoring.slow_query_values(slow_query_rule_values.at, r.over, r.at_least) AS v
	)
	SELECT r.id, s.series_labels, s.mean_seconds, s.details
	FROM rules AS r
	JOIN statements AS s ON s.over = r.over AND s.series_labels @> r.selector
$$;
COMMENT ON FUNCTION monitoring.slow_query_rule_values(timestamptz, bigint[]) IS 'Rule kind slow_query: mean seconds of each statement in its slowest interval within the window that ends at `at`, with labels database and queryid and details query and calls. Statements below every threshold are left out.';

CREATE FUNCTION monitoring.check_slow_query_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule ->> 'op' NOT IN ('>', '>=') OR rule ->> 'resolve_threshold' IS NOT NULL THEN
		RAISE EXCEPTION 'a slow-query rule compares with > or >= and has no resolve threshold'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	ELSIF (rule ->> 'threshold')::float8 < 0 THEN
		RAISE EXCEPTION 'a slow-query rule''s threshold must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'by_labels' <> '[]' THEN
		RAISE EXCEPTION 'a slow-query rule takes no metric, function or grouping'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_slow_query_rule(jsonb) IS 'Raises 22023 for a slow-query rule with an operator that finds fast ones, a resolve threshold, a negative threshold, a metric, a function or labels to group by.';

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin) VALUES
	('metric', 'monitoring.metric_rule_values', 'monitoring.check_metric_rule', 'A function of a metric''s values in the window.', true),
	('slow_query', 'monitoring.slow_query_rule_values', 'monitoring.check_slow_query_rule', 'The mean execution time of each statement in its slowest interval within the window, in seconds.', true);

----------------------------------------------------------------------------------------------------------------------
-- Transitions
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_transition(rule monitoring.alert_rule_defs, state monitoring.alert_states, at timestamptz,
	from_state text, to_state text, reason text)
RETURNS monitoring.alert_history
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN ROW(NULL::bigint, at, state.alert_id, rule.id, rule.name, rule.severity, state.series_labels,
		rule.selector || rule.extra_labels || state.series_labels, from_state, to_state, reason, state.value, rule.op,
		rule.threshold, monitoring.fill_annotations(rule, state), state.details, state.active_at,
		state.fired_at, state.fingerprint)::monitoring.alert_history;
END $$;
COMMENT ON FUNCTION monitoring.alert_transition(monitoring.alert_rule_defs, monitoring.alert_states, timestamptz, text, text, text) IS 'The alert_history row of one transition, still without id.';

CREATE FUNCTION monitoring.write_transitions(transitions monitoring.alert_history[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ids bigint[];
	partition_at timestamptz;
BEGIN
	IF cardinality(transitions) = 0 THEN
		RETURN 0;
	END IF;
	FOR partition_at IN SELECT DISTINCT t.at FROM unnest(transitions) AS t LOOP
		PERFORM monitoring.ensure_partition('alert_history', partition_at);
	END LOOP;
	WITH written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT t.at, t.alert_id, t.rule_id, t.rule_name, t.severity, t.series_labels, t.labels, t.from_state, t.to_state,
			t.reason, t.value, t.op, t.threshold, t.annotations, t.details, t.active_at,
			t.fired_at, t.fingerprint
		FROM unnest(transitions) WITH ORDINALITY AS t
		ORDER BY t.ordinality
		RETURNING id
	)
	SELECT array_agg(w.id ORDER BY w.id) INTO ids FROM written AS w;
	PERFORM monitoring.enqueue_notifications(ids);
	RETURN cardinality(ids);
END $$;
COMMENT ON FUNCTION monitoring.write_transitions(monitoring.alert_history[]) IS 'Write transitions to alert_history, enqueue their notifications, and return how many there were.';

CREATE FUNCTION monitoring.end_alerts(rule monitoring.alert_rule_defs, reason text, at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions monitoring.alert_history[];
BEGIN
	WITH ended AS (
		DELETE FROM monitoring.alert_states AS s WHERE s.rule_id = rule.id RETURNING s
	)
	SELECT coalesce(array_agg(monitoring.alert_transition(rule, e.s, at, (e.s).state,
			CASE (e.s).state WHEN 'firing' THEN 'resolved' ELSE 'inactive' END, end_alerts.reason) ORDER BY (e.s).alert_id), '{}')
	INTO transitions
	FROM ended AS e
	WHERE (e.s).state IN ('pending', 'firing');
	RETURN monitoring.write_transitions(transitions);
END $$;
COMMENT ON FUNCTION monitoring.end_alerts(monitoring.alert_rule_defs, text, timestamptz) IS 'End all alerts of a rule for a reason that is not their value, and return how many were pending or firing.';

----------------------------------------------------------------------------------------------------------------------
-- Evaluation
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.note_rule_errors(rule_ids bigint[], error text, at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	UPDATE monitoring.alert_rule_defs AS d
	SET last_error = left(error, 1000), last_error_at = CASE WHEN error IS NOT NULL THEN at END
	WHERE d.id IN (
		SELECT e.id
		FROM monitoring.alert_rule_defs AS e
		WHERE e.id = ANY (note_rule_errors.rule_ids) AND e.last_error IS DISTINCT FROM left(note_rule_errors.error, 1000)
		FOR NO KEY UPDATE SKIP LOCKED)
$$;
COMMENT ON FUNCTION monitoring.note_rule_errors(bigint[], text, timestamptz) IS 'Set or clear (null) the error of rules where it changes.';

CREATE FUNCTION monitoring.evaluate_rules(kind_function text, rule_ids bigint[], at timestamptz, had_error boolean)
RETURNS monitoring.alert_history[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions monitoring.alert_history[];
	half integer := cardinality(rule_ids) / 2;
BEGIN
	-- $1 the time, $2 the rules
	EXECUTE format($statement$
	WITH observed AS (
		SELECT f.rule_id, coalesce(f.series_labels, '{}') AS series_labels, nullif(f.value, 'NaN') AS value, f.details
		FROM %s($1, $2) AS f
	), stored AS (
		SELECT s.* FROM monitoring.alert_states AS s WHERE s.rule_id = ANY ($2)
	), compared AS (
		SELECT coalesce(o.rule_id, s.rule_id) AS rule_id, coalesce(o.series_labels, s.series_labels) AS series_labels,
			o.value AS new_value, o.details AS new_details, s.fingerprint, s.alert_id, s.state, s.value, s.details,
			s.active_at, s.fired_at, s.resolved_at, s.clear_since, s.missing_since
		FROM observed AS o
		FULL JOIN stored AS s ON s.rule_id = o.rule_id AND s.series_labels = o.series_labels
	), judged AS (
		SELECT c.*, d AS rule, d.version, d.pending_for, d.keep_firing_for, d.max_age,
			c.state IS NOT NULL AND c.state <> 'resolved' AS active,
			CASE d.op
				WHEN '>' THEN c.new_value > b.bound
				WHEN '>=' THEN c.new_value >= b.bound
				WHEN '<' THEN c.new_value < b.bound
				WHEN '<=' THEN c.new_value <= b.bound
				WHEN '=' THEN c.new_value = b.bound
				WHEN '<>' THEN c.new_value <> b.bound
			END AS breach,
			-- never in the future, should the clock have been set back
			least(c.active_at, $1) AS since,
			least(c.clear_since, $1) AS clear,
			least(c.missing_since, $1) AS missing
		FROM compared AS c
		JOIN monitoring.alert_rule_defs AS d ON d.id = c.rule_id
		CROSS JOIN LATERAL (SELECT CASE WHEN c.state = 'firing' THEN coalesce(d.resolve_threshold, d.threshold)
			ELSE d.threshold END AS bound) AS b
		WHERE d.id = ANY ($2) AND d.enabled
	), moved AS (
		SELECT j.*,
			CASE
				WHEN NOT j.active AND j.breach THEN CASE WHEN j.pending_for = '0' THEN 'firing' ELSE 'pending' END
				WHEN NOT j.active THEN CASE WHEN $1 - j.resolved_at < '1 day' THEN 'resolved' ELSE 'forgotten' END
				WHEN j.breach THEN CASE WHEN $1 - j.since >= j.pending_for THEN 'firing' ELSE j.state END
				WHEN j.breach IS NULL AND $1 - j.missing < j.max_age THEN j.state
				WHEN j.state = 'pending' THEN 'inactive'
				WHEN j.breach IS NULL OR $1 - coalesce(j.clear, $1) >= j.keep_firing_for THEN 'resolved'
				ELSE 'firing'
			END AS to_state
		FROM (SELECT g.rule_id, g.series_labels, g.new_value, g.new_details, g.fingerprint, g.alert_id, g.state, g.value,
				g.details, g.active_at, g.fired_at, g.resolved_at, g.clear_since, g.missing_since, g.rule, g.version,
				g.pending_for, g.keep_firing_for, g.max_age, g.active, g.breach, g.since, g.clear,
				CASE WHEN g.breach IS NULL THEN coalesce(g.missing, $1) END AS missing
			FROM judged AS g
			WHERE g.state IS NOT NULL OR g.breach) AS j
	), changed AS MATERIALIZED (
		SELECT m.rule_id, m.version, m.rule, m.state AS old_state, m.active, m.to_state,
			CASE WHEN m.to_state IN ('pending', 'firing') THEN 'breach' WHEN m.breach IS NULL THEN 'no_data' ELSE 'clear' END AS reason,
			ROW(m.rule_id,
				coalesce(m.fingerprint, left(encode(sha256(convert_to((m.rule).name || E'\n' || m.series_labels::text, 'UTF8')), 'hex'), 16)),
				m.series_labels,
				CASE WHEN m.active THEN m.alert_id ELSE nextval('monitoring.alert_id_seq') END,
				m.to_state,
				coalesce(m.new_value, m.value),
				coalesce(m.new_details, m.details),
				CASE WHEN m.active THEN m.since ELSE $1 END,
				CASE WHEN m.to_state = 'firing' AND m.state IS DISTINCT FROM 'firing' THEN $1 WHEN m.active THEN m.fired_at END,
				CASE WHEN m.to_state = 'resolved' THEN $1 END,
				CASE WHEN m.to_state = 'firing' AND NOT coalesce(m.breach, false) THEN
					CASE WHEN m.breach IS NULL THEN m.clear ELSE coalesce(m.clear, $1) END END,
				CASE WHEN m.to_state IN ('pending', 'firing') THEN m.missing END,
				$1)::monitoring.alert_states AS next
		FROM moved AS m
		WHERE m.to_state IS DISTINCT FROM m.state
			OR m.active AND (
				m.since IS DISTINCT FROM m.active_at
				OR m.missing IS DISTINCT FROM m.missing_since
				OR CASE WHEN m.breach THEN m.clear_since IS NOT NULL WHEN m.breach IS NULL THEN m.clear IS DISTINCT FROM m.clear_since
					ELSE m.state = 'firing' AND coalesce(m.clear, $1) IS DISTINCT FROM m.clear_since END)
	), locked AS MATERIALIZED (
		SELECT d.id, d.version
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT c.rule_id FROM changed AS c) AND d.enabled
		FOR SHARE SKIP LOCKED
	), ready AS MATERIALIZED (
		SELECT c.* FROM changed AS c JOIN locked AS l ON l.id = c.rule_id AND l.version = c.version
	), inserted AS (
		INSERT INTO monitoring.alert_states SELECT (r.next).* FROM ready AS r WHERE r.old_state IS NULL
	), updated AS (
		UPDATE monitoring.alert_states AS s
		SET alert_id = (r.next).alert_id, state = (r.next).state, value = (r.next).value, details = (r.next).details,
			active_at = (r.next).active_at, fired_at = (r.next).fired_at, resolved_at = (r.next).resolved_at,
			clear_since = (r.next).clear_since, missing_since = (r.next).missing_since, updated_at = (r.next).updated_at
		FROM ready AS r
		WHERE r.old_state IS NOT NULL AND r.to_state NOT IN ('inactive', 'forgotten')
			AND s.rule_id = r.rule_id AND s.fingerprint = (r.next).fingerprint
	), deleted AS (
		DELETE FROM monitoring.alert_states AS s
		USING ready AS r
		WHERE r.to_state IN ('inactive', 'forgotten') AND s.rule_id = r.rule_id AND s.fingerprint = (r.next).fingerprint
	)
	SELECT coalesce(array_agg(monitoring.alert_transition(r.rule, r.next, $1,
		CASE WHEN r.active THEN r.old_state ELSE 'inactive' END, r.to_state, r.reason)
		ORDER BY r.rule_id, (r.next).series_labels), '{}')
	FROM ready AS r
	WHERE r.to_state IS DISTINCT FROM r.old_state AND r.to_state <> 'forgotten'
	$statement$, kind_function) INTO transitions USING at, rule_ids;

	IF had_error THEN
		PERFORM monitoring.note_rule_errors(rule_ids, NULL, at);
	END IF;
	RETURN transitions;
EXCEPTION WHEN OTHERS THEN
	-- what is no rule's fault: transaction state, serialization, resources, prerequisites, intervention, the system
	IF left(SQLSTATE, 2) IN ('25', '40', '53', '55', '57', '58') THEN
		RAISE;
	ELSIF half = 0 THEN
		PERFORM monitoring.note_rule_errors(rule_ids, SQLERRM, at);
		RETURN '{}';
	END IF;
	-- Halving finds the rule at fault; from then on it is evaluated apart from the others.
	RETURN monitoring.evaluate_rules(kind_function, rule_ids[:half], at, had_error)
		|| monitoring.evaluate_rules(kind_function, rule_ids[half + 1:], at, had_error);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_rules(text, bigint[], timestamptz, boolean) IS 'Evaluate rules of one kind in one statement: change their alerts'' states and return the transitions. A rule that fails gets its last_error and disturbs no other; had_error says that these rules have one, to be cleared on success.';

CREATE FUNCTION monitoring.evaluate_alerts(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
	transitions monitoring.alert_history[] := '{}';
	kind_function text;
	rules record;
	failed_rule bigint;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of an evaluation must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	BEGIN
		LOCK TABLE monitoring.alert_rule_kinds IN SHARE UPDATE EXCLUSIVE MODE;
	EXCEPTION WHEN lock_not_available THEN
		RAISE NOTICE 'another evaluation of the alert rules is under way';
		RETURN 0;
	END;

	FOR rules IN
		SELECT k.kind, k.function,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NULL), '{}') AS good,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NOT NULL), '{}') AS failed
		FROM monitoring.alert_rule_kinds AS k
		JOIN monitoring.alert_rule_defs AS d ON d.kind = k.kind
		WHERE d.enabled
		GROUP BY k.kind, k.function
		ORDER BY k.kind
	LOOP
		BEGIN
			kind_function := monitoring.alert_kind_function(rules.function, 'timestamptz, bigint[]');
		EXCEPTION WHEN undefined_function OR insufficient_privilege OR syntax_error OR invalid_schema_name OR undefined_object THEN
			PERFORM monitoring.note_rule_errors(rules.good || rules.failed, SQLERRM, at);
			CONTINUE;
		END;
		IF cardinality(rules.good) > 0 THEN
			transitions := transitions || monitoring.evaluate_rules(kind_function, rules.good, at, false);
		END IF;
		-- One statement each, so a bounded number at a time: a random choice needs no memory of whose turn it is.
		FOR failed_rule IN SELECT f FROM unnest(rules.failed) AS f ORDER BY random() LIMIT 20 LOOP
			transitions := transitions || monitoring.evaluate_rules(kind_function, ARRAY[failed_rule], at, true);
		END LOOP;
	END LOOP;
	RETURN monitoring.write_transitions(transitions);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_alerts(timestamptz) IS 'Evaluate all enabled alert rules as of the given time and return the number of transitions. Alerts that do not change write nothing. A second call waits up to 5 seconds for one that is running, then returns 0 with a notice. Error 22023 for a time that is not finite.';

CREATE FUNCTION monitoring.evaluate_alerts_job(at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.evaluate_alerts(at)
$$;
COMMENT ON FUNCTION monitoring.evaluate_alerts_job(timestamptz) IS 'The job that evaluates the alert rules every monitoring.evaluation_interval.';

INSERT INTO monitoring.jobs (name, function, setting, priority)
VALUES ('evaluate_alerts', 'monitoring.evaluate_alerts_job', 'monitoring.evaluation_interval', 50);
