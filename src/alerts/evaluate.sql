-- alerts, second part: the evaluation that turns the values of rule kinds into transitions.
--
-- An evaluation runs one statement per rule kind, whatever the number of rules: it reads the values of all enabled rules of
-- the kind, compares them with the stored states, and writes the states that change and their history. Outbox rows of all
-- kinds follow in the same transaction. Nothing changes, nothing is written.
--
-- Evaluations exclude each other by a lock on alert_rule_kinds that readers and writers of rules do not meet. It is a table
-- lock, not an advisory one, which any role could take and keep.

----------------------------------------------------------------------------------------------------------------------
-- The transition of one alert: pure functions, which the planner takes into the statement that uses them
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_breach(op text, value float8, bound float8) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE op WHEN '>' THEN value > bound WHEN '>=' THEN value >= bound WHEN '<' THEN value < bound
	WHEN '<=' THEN value <= bound WHEN '=' THEN value = bound WHEN '<>' THEN value <> bound END;
COMMENT ON FUNCTION monitoring.alert_breach(text, float8, float8) IS 'Whether value op bound holds; null without a value.';

CREATE FUNCTION monitoring.alert_verdict(at timestamptz, missing_since timestamptz, breach boolean, inactive boolean, failed boolean,
	max_age interval, no_data text, on_error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN inactive THEN 'end'
	WHEN failed THEN CASE on_error WHEN 'ok' THEN 'clear' WHEN 'alerting' THEN 'breach' ELSE 'keep' END
	WHEN breach THEN 'breach'
	WHEN NOT breach THEN 'clear'
	WHEN at - coalesce(missing_since, at) < max_age THEN 'keep'
	ELSE CASE no_data WHEN 'ok' THEN CASE WHEN max_age = '0' THEN 'clear' ELSE 'end' END
		WHEN 'alerting' THEN 'breach' ELSE 'keep' END
END;
COMMENT ON FUNCTION monitoring.alert_verdict(timestamptz, timestamptz, boolean, boolean, boolean, interval, text, text) IS 'How a pending or firing alert is judged: breach, clear, keep (it stays as it is) or end (at once), by whether its value breaches (null: there is none), whether the rule is outside its active times, whether it failed, and by its policies. With a max_age of 0 no value is a fine one.';

CREATE FUNCTION monitoring.next_alert_state(at timestamptz, state text, verdict text, fresh_breach boolean, since timestamptz,
	clear_since timestamptz, resolved_at timestamptz, pending_for interval, keep_firing_for interval) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN state IN ('pending', 'firing') THEN CASE
		WHEN verdict = 'keep' THEN state
		WHEN verdict = 'breach' THEN CASE WHEN state = 'firing' OR at - since >= pending_for THEN 'firing' ELSE 'pending' END
		WHEN state = 'pending' THEN 'inactive'
		WHEN verdict = 'end' OR at - coalesce(clear_since, at) >= keep_firing_for THEN 'resolved'
		ELSE 'firing'
	END
	WHEN fresh_breach THEN CASE WHEN pending_for = '0' THEN 'firing' ELSE 'pending' END
	WHEN state = 'resolved' THEN CASE WHEN at - resolved_at < '1 day' THEN 'resolved' ELSE 'forgotten' END
END;
COMMENT ON FUNCTION monitoring.next_alert_state(timestamptz, text, text, boolean, timestamptz, timestamptz, timestamptz, interval, interval) IS 'The state that an alert goes to: pending, firing, resolved; inactive: a pending one ends; forgotten: a resolved one is a day old; null: there is and will be none. fresh_breach: a value breaches, which begins an alert where there is none.';

----------------------------------------------------------------------------------------------------------------------
-- One statement for many rules
----------------------------------------------------------------------------------------------------------------------

-- Queries may be slow: together they have three seconds, in an order that is another one each time.
CREATE FUNCTION monitoring.rule_thresholds(rule_ids bigint[], at timestamptz)
RETURNS TABLE (rule_id bigint, names text[], labels jsonb, threshold float8, error text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = auto SET enable_nestloop = on
SET enable_mergejoin = on AS $$
DECLARE
	stop_at CONSTANT timestamptz := clock_timestamp() + '3 seconds';
	rule record;
BEGIN
	FOR rule IN
		SELECT d.id, d.owner::name, d.threshold_sql, d.over
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (rule_ids) AND d.threshold_sql IS NOT NULL
		ORDER BY monitoring.turn(d.id, rule_thresholds.at)
	LOOP
		IF clock_timestamp() < stop_at THEN
			RETURN QUERY
				SELECT rule.id, ARRAY(SELECT jsonb_object_keys(q.labels)), q.labels, q.value, 'threshold_sql: ' || coalesce(q.error,
					CASE WHEN q.value IS NULL OR q.value IN ('NaN', 'Infinity', '-Infinity')
						THEN format('no finite threshold for %s', q.labels) END)
				FROM monitoring.try_rule_query(rule.owner, rule.threshold_sql, '1 second', 10000, false, rule_thresholds.at,
					rule.over) AS q;
		ELSE
			RETURN QUERY SELECT rule.id, NULL::text[], NULL::jsonb, NULL::float8,
				'threshold_sql: the queries of other rules took too long';
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.rule_thresholds(bigint[], timestamptz) IS 'Thresholds that the rules'' threshold_sql gives, with the names of their labels; or why it gives none; all queries together have three seconds.';

CREATE FUNCTION monitoring.rule_values(source text, rule_ids bigint[], at timestamptz, failure text)
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE plpgsql ROWS 10000 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = auto SET enable_nestloop = on
SET enable_mergejoin = on AS $$
BEGIN
	IF source IS NOT NULL THEN
		RETURN QUERY EXECUTE format('SELECT f.rule_id, f.series_labels, f.value, f.details, f.error FROM %s($1, $2) AS f', source)
			USING at, rule_ids;
	ELSIF failure IS NOT NULL THEN
		RETURN QUERY SELECT u.id, NULL::jsonb, NULL::float8, NULL::jsonb, failure FROM unnest(rule_ids) AS u (id);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.rule_values(text, bigint[], timestamptz, text) IS 'Values of rules as the function of their kind gives them; without a function, the failure as an error of each.';

CREATE FUNCTION monitoring.note_rule_errors(rule_ids bigint[], errors text[], at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	UPDATE monitoring.alert_rule_defs AS d
	SET last_error = n.error, last_error_at = CASE WHEN n.error IS NOT NULL THEN at END
	FROM unnest(rule_ids, errors) AS n (id, error)
	WHERE d.id = n.id AND d.id IN (
		SELECT e.id FROM monitoring.alert_rule_defs AS e WHERE e.id = ANY (rule_ids) FOR NO KEY UPDATE SKIP LOCKED)
$$;
COMMENT ON FUNCTION monitoring.note_rule_errors(bigint[], text[], timestamptz) IS 'Set or clear (null) the errors of rules that nobody is editing.';

-- The plan is made once per session and is right for any number of rules and alerts: everything is hashed.
CREATE FUNCTION monitoring.run_evaluation(source text, rule_ids bigint[], at timestamptz, failure text DEFAULT NULL,
	inactive boolean DEFAULT false, purpose text DEFAULT 'record', OUT transitions bigint[], OUT shown jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_nestloop = off
SET enable_mergejoin = off SET jit = off SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
	repeated text;
	noted bigint[];
	errors text[];
BEGIN
	WITH observed AS MATERIALIZED (
		SELECT f.rule_id, coalesce(f.series_labels, '{}') AS series_labels, nullif(f.value, 'NaN') AS value,
			CASE WHEN jsonb_typeof(f.details) = 'object' THEN f.details END AS details,
			CASE WHEN jsonb_typeof(f.series_labels) <> 'object' THEN format('labels %s are not an object', f.series_labels)
				ELSE f.error END AS error
		FROM monitoring.rule_values(source, rule_ids, at, failure) AS f
	), thresholds AS MATERIALIZED (
		SELECT t.rule_id, t.names, t.labels, t.threshold, t.error
		FROM monitoring.rule_thresholds(rule_ids, at) AS t
		WHERE NOT inactive
	), rules AS MATERIALIZED (
		SELECT d.id, d.name, d.version, d.op, d.threshold, d.resolve_threshold, d.pending_for, d.keep_firing_for, d.max_age, d.no_data,
			d.on_error, d.last_error, coalesce(o.known, 0) AS known,
			coalesce(o.error, t.error,
				CASE WHEN o.label_sets > d.max_instances
					THEN format('more than max_instances (%s) label sets', d.max_instances) END) AS error
		FROM monitoring.alert_rule_defs AS d
		LEFT JOIN (
			SELECT g.rule_id, count(*) AS label_sets, count(g.value) AS known, min(g.error) AS error
			FROM observed AS g
			GROUP BY g.rule_id
		) AS o ON o.rule_id = d.id
		LEFT JOIN (SELECT l.rule_id, min(l.error) AS error FROM thresholds AS l GROUP BY l.rule_id) AS t ON t.rule_id = d.id
		WHERE d.id IN (SELECT u.id FROM unnest(rule_ids) AS u (id)) AND d.enabled
	-- the threshold with the most labels, all of which the alert has
	), own AS MATERIALIZED (
		SELECT DISTINCT ON (o.rule_id, o.series_labels) o.rule_id, o.series_labels, t.threshold
		FROM (SELECT DISTINCT l.rule_id, l.names FROM thresholds AS l) AS n
		JOIN monitoring.alert_rule_defs AS d ON d.id = n.rule_id
		JOIN observed AS o ON o.rule_id = n.rule_id
		JOIN thresholds AS t ON t.rule_id = n.rule_id AND t.names = n.names AND t.labels = (
			SELECT coalesce(jsonb_object_agg(a.name, monitoring.alert_labels(d, o.series_labels) -> a.name), '{}') FROM unnest(n.names) AS a (name))
		ORDER BY o.rule_id, o.series_labels, cardinality(t.names) DESC, t.names
	), known AS (
		SELECT s.*, s.ctid AS place
		FROM monitoring.alert_states AS s
		WHERE s.rule_id IN (SELECT u.id FROM unnest(rule_ids) AS u (id))
	-- alerts that tell of missing data or an error
	), policies AS (
		SELECT r.id AS rule_id, jsonb_build_object('reason', p.origin) AS series_labels, p.origin,
			CASE p.origin WHEN 'rule_error' THEN jsonb_build_object('error', r.error) END AS details
		FROM rules AS r
		CROSS JOIN LATERAL (
			SELECT 'rule_error' AS origin WHERE r.error IS NOT NULL AND r.on_error IN ('alerting', 'alert')
			UNION ALL
			SELECT 'no_data' WHERE r.error IS NULL AND r.known = 0 AND r.no_data IN ('alerting', 'alert')) AS p
		WHERE NOT inactive AND (p.origin = 'rule_error' AND r.on_error = 'alert' OR NOT EXISTS (
			SELECT FROM monitoring.alert_states AS a
			WHERE a.rule_id = r.id AND a.origin = 'value' AND a.state IN ('pending', 'firing')))
		-- UNION: alerts may differ in this very label
		UNION
		SELECT k.rule_id, k.series_labels || '{"reason": "no_data"}', 'no_data', NULL
		FROM rules AS r
		JOIN monitoring.alert_states AS k ON k.rule_id = r.id
		WHERE NOT inactive AND r.error IS NULL AND r.no_data = 'alert'
			AND k.origin = 'value' AND k.state IN ('pending', 'firing')
			AND NOT EXISTS (
				SELECT FROM observed AS o
				WHERE o.rule_id = k.rule_id AND o.series_labels = k.series_labels AND o.value IS NOT NULL)
	), compared AS (
		SELECT coalesce(i.rule_id, k.rule_id) AS rule_id, coalesce(i.series_labels, k.series_labels) AS series_labels,
			coalesce(i.origin, k.origin) AS origin, i.rule_id IS NOT NULL AS present, i.value AS new_value, i.details AS new_details,
			i.threshold AS own_threshold, k.fingerprint, k.alert_id, k.state, k.value, k.details, k.active_at, k.fired_at,
			k.resolved_at, k.clear_since, k.missing_since, k.threshold, k.place
		FROM (
			SELECT o.rule_id, o.series_labels, 'value' AS origin, o.value, o.details, w.threshold
			FROM observed AS o
			LEFT JOIN own AS w ON w.rule_id = o.rule_id AND w.series_labels = o.series_labels
			WHERE o.error IS NULL
			UNION ALL
			SELECT p.rule_id, p.series_labels, p.origin, NULL, p.details, NULL FROM policies AS p
		) AS i
		FULL JOIN known AS k ON k.rule_id = i.rule_id AND k.series_labels = i.series_labels AND k.origin = i.origin
	-- OFFSET 0: each step is computed once, not wherever a later one refers to it
	), judged AS NOT MATERIALIZED (
		SELECT c.*, r.name, r.version, r.keep_firing_for, r.max_age, r.no_data, r.on_error,
			coalesce(c.own_threshold, r.threshold) AS bound,
			c.state IN ('pending', 'firing') AS active,
			r.error IS NOT NULL AND c.origin <> 'rule_error' AS failed,
			CASE WHEN c.origin <> 'value' THEN c.present
				ELSE monitoring.alert_breach(r.op, c.new_value,
					CASE WHEN c.state = 'firing' AND r.resolve_threshold IS NOT NULL THEN
						CASE WHEN c.own_threshold IS NULL THEN r.resolve_threshold
							ELSE c.own_threshold + (r.resolve_threshold - r.threshold) END
						ELSE coalesce(c.own_threshold, r.threshold) END) END AS breach,
			CASE c.origin WHEN 'no_data' THEN r.max_age + CASE r.no_data WHEN 'alerting' THEN r.pending_for ELSE '0' END
				ELSE r.pending_for END AS pending_for
		FROM compared AS c
		JOIN rules AS r ON r.id = c.rule_id
		OFFSET 0
	), verdicts AS (
		SELECT j.*,
			-- never in the future, should the clock have been set back
			CASE WHEN j.active AND j.active_at <= at THEN j.active_at ELSE at END AS since,
			CASE WHEN j.clear_since > at THEN at ELSE j.clear_since END AS clear,
			CASE WHEN j.missing_since > at THEN at ELSE j.missing_since END AS missing,
			monitoring.alert_verdict(at, j.missing_since, j.breach, inactive, j.failed, j.max_age, j.no_data,
				j.on_error) AS verdict
		FROM judged AS j
		WHERE j.state IS NOT NULL OR j.breach
		OFFSET 0
	), moved AS (
		SELECT v.*,
			monitoring.next_alert_state(at, v.state, v.verdict, v.breach AND NOT inactive AND NOT v.failed,
				v.since, v.clear, v.resolved_at, v.pending_for, v.keep_firing_for) AS to_state
		FROM verdicts AS v
		OFFSET 0
	), timed AS (
		SELECT m.*,
			CASE WHEN m.to_state = 'firing' THEN
				CASE m.verdict WHEN 'keep' THEN m.clear WHEN 'clear' THEN coalesce(m.clear, at) END END AS next_clear_since,
			CASE WHEN m.to_state IN ('pending', 'firing') THEN
				CASE WHEN m.failed THEN m.missing WHEN m.breach IS NULL THEN coalesce(m.missing, at) END END AS next_missing_since
		FROM moved AS m
	), changed AS MATERIALIZED (
		SELECT t.rule_id, t.version, t.place, t.series_labels, t.origin, t.state AS old_state, t.active, t.to_state,
			CASE WHEN inactive THEN 'inactive_hours' WHEN t.failed THEN 'rule_error' WHEN t.breach IS NULL THEN 'no_data'
				WHEN NOT t.breach THEN 'clear' WHEN t.origin = 'value' THEN 'breach' ELSE t.origin END AS reason,
			coalesce(t.fingerprint, monitoring.alert_fingerprint(t.name, t.series_labels, t.origin)) AS fingerprint, t.alert_id,
			coalesce(t.new_value, t.value) AS value,
			CASE WHEN t.new_details IS NULL THEN t.details WHEN t.state = 'firing' AND t.details ? 'impact'
				THEN t.new_details || jsonb_build_object('impact', t.details -> 'impact') ELSE t.new_details END AS details,
			CASE WHEN t.new_value IS NULL THEN coalesce(t.threshold, t.bound) ELSE t.bound END AS threshold, t.since AS active_at,
			CASE WHEN t.to_state = 'firing' AND t.state IS DISTINCT FROM 'firing' THEN at
				WHEN t.active THEN t.fired_at END AS fired_at,
			CASE WHEN t.to_state = 'resolved' THEN at END AS resolved_at,
			t.next_clear_since AS clear_since, t.next_missing_since AS missing_since
		FROM timed AS t
		WHERE t.to_state IS DISTINCT FROM t.state
			OR t.active AND (t.since IS DISTINCT FROM t.active_at OR t.next_clear_since IS DISTINCT FROM t.clear_since
				OR t.next_missing_since IS DISTINCT FROM t.missing_since)
	-- from here on nobody else writes these rules' states: what was read is what is changed
	), locked AS MATERIALIZED (
		SELECT d.id, d.version
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT DISTINCT c.rule_id FROM changed AS c) AND d.enabled
		FOR SHARE SKIP LOCKED
	), ready AS MATERIALIZED (
		SELECT c.rule_id, c.place, c.series_labels, c.origin, c.old_state, c.active, c.to_state, c.reason, c.fingerprint,
			CASE WHEN c.active THEN c.alert_id ELSE nextval('monitoring.alert_id_seq') END AS alert_id, c.value, c.details,
			c.threshold, c.active_at, c.fired_at, c.resolved_at, c.clear_since, c.missing_since
		FROM changed AS c
		JOIN locked AS l ON l.id = c.rule_id AND l.version = c.version
	), inserted AS (
		INSERT INTO monitoring.alert_states (rule_id, fingerprint, series_labels, alert_id, state, value, details, active_at, fired_at,
			resolved_at, clear_since, missing_since, updated_at, threshold, origin)
		SELECT r.rule_id, r.fingerprint, r.series_labels, r.alert_id, r.to_state, r.value, r.details, r.active_at, r.fired_at,
			r.resolved_at, r.clear_since, r.missing_since, at, r.threshold, r.origin
		FROM ready AS r
		WHERE r.old_state IS NULL
		ON CONFLICT DO NOTHING -- the same labels twice, as is found below
		RETURNING 1
	), updated AS (
		UPDATE monitoring.alert_states AS s
		SET alert_id = r.alert_id, state = r.to_state, value = r.value, details = r.details, active_at = r.active_at,
			fired_at = r.fired_at, resolved_at = r.resolved_at, clear_since = r.clear_since, missing_since = r.missing_since,
			updated_at = at, threshold = r.threshold
		FROM ready AS r
		WHERE s.ctid = r.place AND r.to_state NOT IN ('inactive', 'forgotten')
		RETURNING 1
	), deleted AS (
		DELETE FROM monitoring.alert_states AS s
		USING ready AS r
		WHERE s.ctid = r.place AND r.to_state IN ('inactive', 'forgotten')
		RETURNING 1
	), transitions AS NOT MATERIALIZED (
		SELECT r.*, CASE WHEN r.active THEN r.old_state ELSE 'inactive' END AS from_state
		FROM ready AS r
		WHERE r.to_state IS DISTINCT FROM r.old_state AND r.to_state <> 'forgotten'
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT at, t.alert_id, d.id, d.name, d.severity, t.series_labels,
			monitoring.alert_labels(d, t.series_labels), t.from_state, t.to_state, t.reason, t.value, d.op, t.threshold,
			monitoring.fill_annotations(d, ROW(t.rule_id, t.fingerprint, t.series_labels, t.alert_id, t.to_state, t.value, t.details,
				t.active_at, t.fired_at, t.resolved_at, t.clear_since, t.missing_since, at, t.threshold,
				t.origin)::monitoring.alert_states),
			t.details, t.active_at, t.fired_at, t.fingerprint
		FROM transitions AS t
		JOIN monitoring.alert_rule_defs AS d ON d.id = t.rule_id
		WHERE purpose = 'record'
		-- by rule and labels, these before the same with more: one text, since a second key is dug out of its row for each comparison
		ORDER BY (lpad(d.id::text, 19, '0') || rtrim(t.series_labels::text, '}')) COLLATE "C"
		RETURNING id
	)
	SELECT (SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') FROM written AS w),
		CASE purpose
			WHEN 'simulate' THEN (
				SELECT jsonb_agg(u.shown ORDER BY u.series_labels NULLS FIRST)
				FROM (
					SELECT NULL::jsonb AS series_labels, jsonb_build_object(
						'from_state', CASE WHEN r.last_error IS NULL THEN 'ok' ELSE 'error' END,
						'to_state', CASE WHEN r.error IS NULL THEN 'ok' ELSE 'error' END, 'reason', r.error) AS shown
					FROM rules AS r
					WHERE r.id = ANY (n.ids)
					UNION ALL
					SELECT t.series_labels, jsonb_build_object('labels', monitoring.alert_labels(d, t.series_labels),
						'from_state', t.from_state, 'to_state', t.to_state, 'reason', t.reason, 'value', t.value,
						'threshold', t.threshold, 'details', t.details)
					FROM transitions AS t
					JOIN monitoring.alert_rule_defs AS d ON d.id = t.rule_id
				) AS u)
			WHEN 'show' THEN (
				SELECT jsonb_agg(u.shown ORDER BY u.series_labels NULLS FIRST)
				FROM (
					SELECT NULL::jsonb AS series_labels, jsonb_build_object('error', r.error) AS shown
					FROM rules AS r
					WHERE r.error IS NOT NULL
					UNION ALL
					SELECT j.series_labels, jsonb_build_object('labels', monitoring.alert_labels(d, j.series_labels), 'value', j.new_value,
						'threshold', j.bound, 'breach', j.breach, 'details', j.new_details)
					FROM judged AS j
					JOIN rules AS r ON r.id = j.rule_id
					JOIN monitoring.alert_rule_defs AS d ON d.id = j.rule_id
					WHERE j.present AND (r.error IS NULL OR j.origin <> 'value')
				) AS u)
		END,
		CASE WHEN (SELECT count(*) FROM ready)
				<> (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated) + (SELECT count(*) FROM deleted)
			THEN coalesce((
				SELECT min(r.series_labels::text)
				FROM (SELECT t.series_labels FROM ready AS t GROUP BY t.rule_id, t.fingerprint, t.series_labels HAVING count(*) > 1) AS r), '')
		END,
		n.ids, n.errors
	INTO transitions, shown, repeated, noted, errors
	FROM (
		SELECT array_agg(r.id ORDER BY r.id) AS ids, array_agg(left(r.error, 1000) ORDER BY r.id) AS errors
		FROM rules AS r
		WHERE NOT inactive AND left(r.error, 1000) IS DISTINCT FROM r.last_error
	) AS n;

	IF repeated = '' THEN
		RAISE EXCEPTION 'alerts were changed while they were evaluated'
			USING ERRCODE = 'serialization_failure', HINT = 'Only evaluations, and functions that lock the rule, may write monitoring.alert_states.';
	ELSIF repeated IS NOT NULL THEN
		RAISE EXCEPTION 'function % gave the labels % twice', source, repeated USING ERRCODE = 'cardinality_violation';
	END IF;
	IF noted IS NOT NULL THEN
		PERFORM monitoring.note_rule_errors(noted, errors, at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.run_evaluation(text, bigint[], timestamptz, text, boolean, text) IS 'Evaluate rules with the values from source in one statement: change their alerts'' states, write history and return its ids, note errors. Without a source the rules failed, or (inactive) are outside their active times. purpose: record; simulate, which returns the transitions instead of writing history; show, which returns the values that were compared.';

CREATE FUNCTION monitoring.evaluation_may_fail(sqlstate text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN left(sqlstate, 2) NOT IN ('25', '40', '57', '58') AND sqlstate NOT IN ('53100', '53300');
COMMENT ON FUNCTION monitoring.evaluation_may_fail(text) IS 'Whether an error can be a rule''s fault: transaction state, serialization, full disk, connections, intervention and the system are not.';

CREATE FUNCTION monitoring.evaluate_rules(kind_function text, rule_ids bigint[], at timestamptz) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	half integer := cardinality(rule_ids) / 2;
BEGIN
	RETURN (monitoring.run_evaluation(kind_function, rule_ids, at)).transitions;
EXCEPTION WHEN OTHERS THEN
	IF NOT monitoring.evaluation_may_fail(SQLSTATE) THEN
		RAISE;
	ELSIF half = 0 THEN
		RETURN (monitoring.run_evaluation(NULL, rule_ids, at, SQLERRM)).transitions;
	END IF;
	-- Halving finds the rule at fault; from then on it is evaluated apart from the others.
	RETURN monitoring.evaluate_rules(kind_function, rule_ids[:half], at)
		|| monitoring.evaluate_rules(kind_function, rule_ids[half + 1:], at);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_rules(text, bigint[], timestamptz) IS 'Evaluate rules of one kind in one statement. A rule that fails gets its last_error, its alerts become what its on_error says, and it disturbs no other.';

CREATE FUNCTION monitoring.failed_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.id, NULL::jsonb, NULL::float8, NULL::jsonb, d.last_error
	FROM monitoring.alert_rule_defs AS d
	WHERE d.id = ANY (failed_rule_values.rule_ids)
$$;
COMMENT ON FUNCTION monitoring.failed_rule_values(timestamptz, bigint[]) IS 'As the function of a rule kind: the error that each rule had last.';

CREATE FUNCTION monitoring.evaluate_failed_rules(kind_function text, rule_ids bigint[], at timestamptz) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[] := '{}';
	-- One statement each, so a bounded number at a time: turns by the time need no memory of whose it is.
	tried bigint[];
	one bigint;
BEGIN
	RETURN (monitoring.run_evaluation(kind_function, rule_ids, at)).transitions;
EXCEPTION WHEN OTHERS THEN
	IF NOT monitoring.evaluation_may_fail(SQLSTATE) THEN
		RAISE;
	END IF;
	tried := ARRAY(SELECT f FROM unnest(rule_ids) AS f ORDER BY monitoring.turn(f, at) LIMIT 20);
	FOREACH one IN ARRAY tried LOOP
		transitions := transitions || monitoring.evaluate_rules(kind_function, ARRAY[one], at);
	END LOOP;
	-- for the others it is the same error still
	RETURN transitions || (monitoring.run_evaluation('monitoring.failed_rule_values',
		ARRAY(SELECT f FROM unnest(rule_ids) AS f WHERE f <> ALL (tried)), at)).transitions;
END $$;
COMMENT ON FUNCTION monitoring.evaluate_failed_rules(text, bigint[], timestamptz) IS 'Evaluate rules that failed before: together if their function tells their errors, else up to twenty one by one; for the others it is the same error still.';

----------------------------------------------------------------------------------------------------------------------
-- Transitions that no value makes
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.end_alerts(rule monitoring.alert_rule_defs, reason text, at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[];
BEGIN
	PERFORM monitoring.ensure_partition('alert_history', at);
	WITH ended AS (
		DELETE FROM monitoring.alert_states AS s WHERE s.rule_id = rule.id RETURNING s
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT end_alerts.at, (e.s).alert_id, rule.id, rule.name, rule.severity, (e.s).series_labels,
			monitoring.alert_labels(rule, (e.s).series_labels), (e.s).state,
			CASE (e.s).state WHEN 'firing' THEN 'resolved' ELSE 'inactive' END, end_alerts.reason, (e.s).value, rule.op,
			(e.s).threshold, monitoring.fill_annotations(rule, e.s), (e.s).details, (e.s).active_at, (e.s).fired_at,
			(e.s).fingerprint
		FROM ended AS e
		WHERE (e.s).state IN ('pending', 'firing')
		ORDER BY (e.s).alert_id
		RETURNING id
	)
	SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO transitions FROM written AS w;
	PERFORM monitoring.queue_transitions(transitions, at);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.end_alerts(monitoring.alert_rule_defs, text, timestamptz) IS 'End all alerts of a rule for a reason that is not their value, with history and notifications, and return how many were pending or firing.';

CREATE FUNCTION monitoring.demote_alerts(rule monitoring.alert_rule_defs, at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[];
BEGIN
	PERFORM monitoring.ensure_partition('alert_history', at);
	WITH early AS MATERIALIZED (
		SELECT s AS old_state FROM monitoring.alert_states AS s
		WHERE s.rule_id = rule.id AND s.state = 'firing' AND s.origin = 'value' AND s.clear_since IS NULL
			AND demote_alerts.at - s.active_at < rule.pending_for
	), demoted AS (
		UPDATE monitoring.alert_states AS s
		SET state = 'pending', alert_id = nextval('monitoring.alert_id_seq'), fired_at = NULL, updated_at = demote_alerts.at
		FROM early AS e
		WHERE s.rule_id = rule.id AND s.fingerprint = (e.old_state).fingerprint
		RETURNING s AS new_state, e.old_state
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT demote_alerts.at, (t.s).alert_id, rule.id, rule.name, rule.severity, (t.s).series_labels,
			monitoring.alert_labels(rule, (t.s).series_labels), t.from_state, t.to_state, 'rule_changed', (t.s).value, rule.op,
			(t.s).threshold, monitoring.fill_annotations(rule, t.s), (t.s).details, (t.s).active_at, (t.s).fired_at,
			(t.s).fingerprint
		FROM demoted AS d
		CROSS JOIN LATERAL (VALUES (d.old_state, 'firing', 'resolved'), (d.new_state, 'inactive', 'pending'))
			AS t (s, from_state, to_state)
		ORDER BY t.to_state DESC, (t.s).alert_id
		RETURNING id
	)
	SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO transitions FROM written AS w;
	PERFORM monitoring.queue_transitions(transitions, at);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.demote_alerts(monitoring.alert_rule_defs, timestamptz) IS 'After pending_for was raised: firing alerts whose breach has not lasted that long are resolved, and go on as pending ones whose breach began when it did.';

CREATE FUNCTION monitoring.restart_timers(at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	UPDATE monitoring.alert_states AS s
	SET active_at = CASE s.state WHEN 'pending' THEN at ELSE s.active_at END,
		clear_since = CASE WHEN s.clear_since IS NOT NULL THEN at END,
		missing_since = CASE WHEN s.missing_since IS NOT NULL THEN at END,
		updated_at = at
	WHERE (s.state = 'pending' OR s.state = 'firing' AND (s.clear_since IS NOT NULL OR s.missing_since IS NOT NULL))
		AND s.rule_id IN (SELECT d.id FROM monitoring.alert_rule_defs AS d FOR SHARE SKIP LOCKED)
$$;
COMMENT ON FUNCTION monitoring.restart_timers(timestamptz) IS 'Let all running timers of alerts start over. A rule that is being edited keeps its own.';

----------------------------------------------------------------------------------------------------------------------
-- Evaluation
----------------------------------------------------------------------------------------------------------------------

-- One query tells of all alerts: a row is about those that have its value in every column that is a label of theirs.
CREATE FUNCTION monitoring.note_impacts(transition_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	stop_at CONSTANT timestamptz := clock_timestamp() + '3 seconds';
	rule monitoring.alert_rule_defs;
	found_rows jsonb[];
	failure text;
BEGIN
	FOR rule IN
		SELECT d.* FROM monitoring.alert_rule_defs AS d
		WHERE d.impact_sql IS NOT NULL AND d.id IN (
			SELECT h.rule_id
			FROM unnest(transition_ids) AS t (id)
			JOIN monitoring.alert_history AS h ON h.id = t.id
			WHERE h.at = note_impacts.at AND h.to_state = 'firing')
		ORDER BY monitoring.turn(d.id, note_impacts.at)
	LOOP
		IF clock_timestamp() < stop_at THEN
			SELECT array_agg(q.row), min(q.error) INTO found_rows, failure
			FROM monitoring.try_rule_query(rule.owner::name, rule.impact_sql, '1 second', 1000, true, note_impacts.at, rule.over) AS q;
		ELSE
			failure := 'the queries of other rules took too long';
		END IF;
		WITH impacts AS (
			SELECT h.id, h.alert_id,
				CASE WHEN failure IS NOT NULL THEN jsonb_build_object('error', failure)
					ELSE coalesce((
						SELECT jsonb_strip_nulls(f.row)
						FROM unnest(found_rows) AS f (row)
						CROSS JOIN LATERAL (
							SELECT count(*) AS labels, coalesce(bool_and(c.value = h.labels ->> c.key), true) AS fits
							FROM jsonb_each_text(f.row) AS c
							WHERE h.labels ? c.key AND c.value IS NOT NULL) AS m
						WHERE m.fits AND octet_length(f.row::text) <= 8192
						ORDER BY m.labels DESC, f.row
						LIMIT 1), '{}') END AS impact
			FROM monitoring.alert_history AS h
			WHERE h.rule_id = rule.id AND h.at = note_impacts.at AND h.id = ANY (transition_ids) AND h.to_state = 'firing'
		), states AS (
			UPDATE monitoring.alert_states AS s
			SET details = coalesce(s.details, '{}') || jsonb_build_object('impact', i.impact)
			FROM impacts AS i
			WHERE s.alert_id = i.alert_id
			RETURNING i.id, s AS state
		)
		UPDATE monitoring.alert_history AS h
		SET details = (s.state).details, annotations = monitoring.fill_annotations(rule, s.state)
		FROM states AS s
		WHERE h.at = note_impacts.at AND h.id = s.id;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.note_impacts(bigint[], timestamptz) IS 'Ask the impact_sql of rules whose alerts fire and keep the answers in details.impact, where annotations find them. What goes wrong is kept as details.impact.error; all queries together have three seconds.';

-- The phase spreads rules of the same interval over it; a name's hash is the same on every server.
CREATE FUNCTION monitoring.rule_is_due(every interval, name text, previous timestamptz, at timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN every IS NULL OR previous IS NULL OR at < previous
	OR floor(date_part('epoch', at) / date_part('epoch', every) - hashtext(name) / 4294967296.0::float8)
		> floor(date_part('epoch', previous) / date_part('epoch', every) - hashtext(name) / 4294967296.0::float8);
COMMENT ON FUNCTION monitoring.rule_is_due(interval, text, timestamptz, timestamptz) IS 'Whether a multiple of the rule''s interval, shifted by a phase that depends on its name, lies after the previous evaluation and not after this one; true without an interval, if the previous evaluation is not known, and after the clock was set back.';

CREATE FUNCTION monitoring.previous_evaluation() RETURNS timestamptz
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_previous_evaluation';
COMMENT ON FUNCTION monitoring.previous_evaluation() IS 'Time of this session''s last evaluation that was not rolled back; null: it has made none.';

CREATE FUNCTION monitoring.remember_evaluation(at timestamptz) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_remember_evaluation';
COMMENT ON FUNCTION monitoring.remember_evaluation(timestamptz) IS 'Let previous_evaluation() return this time from now on, unless the transaction is rolled back; null: as if there had been no evaluation, so that all rules are due.';

CREATE FUNCTION monitoring.note_evaluation(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	last_one timestamptz := (SELECT e.evaluated_at FROM monitoring.evaluation_state AS e);
BEGIN
	PERFORM monitoring.remember_evaluation(at);
	IF at - last_one > '1 hour' THEN
		PERFORM monitoring.restart_timers(at);
	END IF;
	IF last_one IS NULL THEN
		INSERT INTO monitoring.evaluation_state (evaluated_at) VALUES (at);
	ELSIF at < last_one OR at - last_one >= '1 minute' THEN
		UPDATE monitoring.evaluation_state SET evaluated_at = at;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.note_evaluation(timestamptz) IS 'Keep the time of an evaluation, in the table once a minute. When the last one was more than an hour ago, what alerts did meanwhile is not known: timers start over.';

CREATE FUNCTION monitoring.rule_members(params jsonb) RETURNS SETOF text
LANGUAGE sql IMMUTABLE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT m.name
	FROM unnest('{all,any}'::text[]) AS k (key)
	CROSS JOIN LATERAL jsonb_array_elements_text(
		CASE jsonb_typeof(params -> k.key) WHEN 'array' THEN params -> k.key ELSE '[]' END) AS m (name)
$$;
COMMENT ON FUNCTION monitoring.rule_members(jsonb) IS 'Names of the rules that a rule of rules is made of, by its params.';

CREATE FUNCTION monitoring.rule_depths() RETURNS TABLE (rule_id bigint, depth integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
	RETURN QUERY
	WITH RECURSIVE rules AS MATERIALIZED (
		SELECT d.id, d.name, ARRAY(SELECT monitoring.rule_members(d.params)) AS members
		FROM monitoring.alert_rule_defs AS d
		JOIN monitoring.alert_rule_kinds AS k ON k.kind = d.kind
		WHERE k.evaluation_order > 0
	), above AS (
		SELECT r.id, r.name, 0 AS depth FROM rules AS r
		UNION
		SELECT r.id, r.name, a.depth + 1 FROM above AS a JOIN rules AS r ON a.name = ANY (r.members) WHERE a.depth < 20
	)
	SELECT a.id, max(a.depth) FROM above AS a GROUP BY a.id;
END $$;
COMMENT ON FUNCTION monitoring.rule_depths() IS 'Of rules that read other rules'' alerts: how many of these lie on the longest way down. They are evaluated from the bottom up.';

CREATE FUNCTION monitoring.follow_up(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF transitions <> '{}' THEN
		PERFORM monitoring.note_impacts(transitions, at);
		PERFORM monitoring.capture_evidence(transitions, at);
	END IF;
	PERFORM monitoring.route_alerts(transitions, at);
END $$;
COMMENT ON FUNCTION monitoring.follow_up(bigint[], timestamptz) IS 'What an evaluation does about its transitions: impact, evidence, notifications.';

CREATE FUNCTION monitoring.evaluate_all_rules(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	transitions bigint[] := '{}';
	previous timestamptz := monitoring.previous_evaluation();
	inactive bigint[];
	kind_function text;
	rules record;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of an evaluation must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- in the order of the names, as all who need both take their locks
	PERFORM monitoring.ensure_partition('alert_events', at);
	PERFORM monitoring.ensure_partition('alert_history', at);
	PERFORM monitoring.note_evaluation(at);
	PERFORM monitoring.take_raised_alerts(at);

	-- better an alert too many than none because of a time zone that is gone
	inactive := ARRAY(SELECT d.id FROM monitoring.alert_rule_defs AS d
		WHERE d.enabled AND d.active_times IS NOT NULL AND NOT monitoring.time_matches(d.active_times, evaluate_all_rules.at, true));
	IF cardinality(inactive) > 0 THEN
		transitions := (monitoring.run_evaluation(NULL, inactive, at, inactive => true)).transitions;
	END IF;

	FOR rules IN
		SELECT k.kind, k.function,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NULL), '{}') AS good,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NOT NULL), '{}') AS failed
		FROM monitoring.alert_rule_kinds AS k
		JOIN monitoring.alert_rule_defs AS d ON d.kind = k.kind
		LEFT JOIN monitoring.rule_depths() AS b ON b.rule_id = d.id
		WHERE d.enabled AND d.id <> ALL (inactive) AND monitoring.rule_is_due(coalesce(d.every, k.every), d.name, previous, evaluate_all_rules.at)
		GROUP BY k.kind, k.function, b.depth
		ORDER BY k.evaluation_order, b.depth, k.kind
	LOOP
		BEGIN
			kind_function := monitoring.kind_function('an alert rule kind', rules.function, 'timestamptz, bigint[]');
		EXCEPTION WHEN undefined_function OR insufficient_privilege OR syntax_error OR invalid_schema_name OR undefined_object THEN
			transitions := transitions || (monitoring.run_evaluation(NULL, rules.good || rules.failed, at, SQLERRM)).transitions;
			CONTINUE;
		END;
		IF cardinality(rules.good) > 0 THEN
			transitions := transitions || monitoring.evaluate_rules(kind_function, rules.good, at);
		END IF;
		IF cardinality(rules.failed) > 0 THEN
			transitions := transitions || monitoring.evaluate_failed_rules(kind_function, rules.failed, at);
		END IF;
	END LOOP;
	PERFORM monitoring.follow_up(transitions, at);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_all_rules(timestamptz) IS 'What evaluate_alerts does once it has the lock that keeps evaluations apart.';

CREATE FUNCTION monitoring.evaluate_alerts(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
	BEGIN
		LOCK TABLE monitoring.alert_rule_kinds IN SHARE UPDATE EXCLUSIVE MODE;
	EXCEPTION WHEN lock_not_available THEN
		RAISE NOTICE 'another evaluation of the alert rules is under way';
		RETURN 0;
	END;
	RETURN monitoring.evaluate_all_rules(at);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_alerts(timestamptz) IS 'Evaluate all enabled alert rules as of the given time and return the number of transitions. Alerts that do not change write nothing. A second call waits up to 5 seconds for one that is running, then returns 0 with a notice. Error 22023 for a time that is not finite.';

-- The worker has more to do than to wait; that evaluations do not happen must show.
CREATE FUNCTION monitoring.evaluate_alerts_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
	BEGIN
		LOCK TABLE monitoring.alert_rule_kinds IN SHARE UPDATE EXCLUSIVE MODE;
	EXCEPTION WHEN lock_not_available THEN
		RAISE EXCEPTION 'another evaluation of the alert rules is under way'
			USING ERRCODE = 'lock_not_available',
				HINT = 'A session that has called monitoring.evaluate_alerts() must end its transaction.';
	END;
	PERFORM monitoring.evaluate_all_rules(at);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_alerts_job(timestamptz) IS 'The job that evaluates the alert rules every monitoring.evaluation_interval. Error 55P03 if another evaluation does not end within half a second.';

INSERT INTO monitoring.jobs (name, function, setting, priority)
VALUES ('evaluate_alerts', 'monitoring.evaluate_alerts_job', 'monitoring.evaluation_interval', 50);

-- What applications raise does not wait for the next evaluation. If one is under way it will be taken by the one after that.
CREATE FUNCTION monitoring.evaluate_raised_alerts(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	names text[];
	ids bigint[];
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.raised_queue) THEN
		RETURN;
	END IF;
	BEGIN
		LOCK TABLE monitoring.alert_rule_kinds IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
	EXCEPTION WHEN lock_not_available THEN
		RETURN;
	END;
	PERFORM monitoring.ensure_partition('alert_events', at);
	PERFORM monitoring.ensure_partition('alert_history', at);
	names := monitoring.take_raised_alerts(at);
	ids := ARRAY(SELECT d.id FROM monitoring.alert_rule_defs AS d
		WHERE d.name = ANY (names) AND d.kind = 'raised' AND d.enabled
			AND coalesce(monitoring.time_matches(d.active_times, evaluate_raised_alerts.at, true), true));
	IF cardinality(ids) > 0 THEN
		PERFORM monitoring.follow_up(monitoring.evaluate_rules('monitoring.raised_rule_values', ids, at), at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.evaluate_raised_alerts(timestamptz) IS 'Evaluate the rules of what applications have raised or ended since the last evaluation, unless one is under way. A job that runs when they commit.';

INSERT INTO monitoring.jobs (name, function, setting, priority, run_on_wake)
VALUES ('evaluate_raised', 'monitoring.evaluate_raised_alerts', 'monitoring.evaluation_interval', 45, true);
