-- alerts, second part: rule kinds, and the evaluation that turns values into transitions.
--
-- An evaluation runs one statement per rule kind, whatever the number of rules: it reads the values of all enabled rules of
-- the kind, compares them with the stored states, and writes the states that change and their history. Outbox rows of all
-- kinds follow in the same transaction. Nothing changes, nothing is written.
--
-- Evaluations exclude each other by a lock on alert_rule_kinds that readers and writers of rules do not meet. It is a table
-- lock, not an advisory one, which any role could take and keep.

----------------------------------------------------------------------------------------------------------------------
-- Rule kinds
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
		JOIN monitoring.alert_states AS s ON s.rule_id = d.id AND s.state <> 'resolved'
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
		JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved'
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
			rule.selector || rule.extra_labels || (e.s).series_labels, (e.s).state,
			CASE (e.s).state WHEN 'firing' THEN 'resolved' ELSE 'inactive' END, end_alerts.reason, (e.s).value, rule.op,
			rule.threshold, monitoring.fill_annotations(rule, e.s), (e.s).details, (e.s).active_at, (e.s).fired_at,
			(e.s).fingerprint
		FROM ended AS e
		WHERE (e.s).state IN ('pending', 'firing')
		ORDER BY (e.s).alert_id
		RETURNING id
	)
	SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO transitions FROM written AS w;
	PERFORM monitoring.enqueue_notifications(transitions);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.end_alerts(monitoring.alert_rule_defs, text, timestamptz) IS 'End all alerts of a rule for a reason that is not their value, with history and notifications, and return how many were pending or firing.';

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

-- What the functions of kinds return is estimated far too low; sorting labels to merge them would cost more than all else.
CREATE FUNCTION monitoring.evaluate_rules(kind_function text, rule_ids bigint[], at timestamptz, had_error boolean)
RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_mergejoin = off AS $$
DECLARE
	transitions bigint[];
	unique_labels boolean;
	half integer := cardinality(rule_ids) / 2;
BEGIN
	-- $1 the time, $2 the rules
	EXECUTE format($statement$
	WITH compared AS (
		SELECT coalesce(o.rule_id, s.rule_id) AS rule_id, coalesce(o.series_labels, s.series_labels) AS series_labels,
			o.value AS new_value, o.details AS new_details, s.fingerprint, s.alert_id, s.state, s.value, s.details,
			s.active_at, s.fired_at, s.resolved_at, s.clear_since, s.missing_since, s.place
		FROM (
			SELECT f.rule_id, coalesce(f.series_labels, '{}') AS series_labels, nullif(f.value, 'NaN') AS value, f.details
			FROM %s($1, $2) AS f
		) AS o
		FULL JOIN (SELECT a.*, a.ctid AS place FROM monitoring.alert_states AS a WHERE a.rule_id = ANY ($2)) AS s
			ON s.rule_id = o.rule_id AND s.series_labels = o.series_labels
	), judged AS (
		SELECT c.*, d.name, d.version, d.pending_for, d.keep_firing_for, d.max_age,
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
				g.details, g.active_at, g.fired_at, g.resolved_at, g.clear_since, g.missing_since, g.place, g.name, g.version,
				g.pending_for, g.keep_firing_for, g.max_age, g.active, g.breach, g.since, g.clear,
				CASE WHEN g.breach IS NULL THEN coalesce(g.missing, $1) END AS missing
			FROM judged AS g
			WHERE g.state IS NOT NULL OR g.breach) AS j
	), changed AS MATERIALIZED (
		SELECT m.rule_id, m.version, m.place, m.state AS old_state, m.active, m.to_state,
			CASE WHEN m.to_state IN ('pending', 'firing') THEN 'breach' WHEN m.breach IS NULL THEN 'no_data' ELSE 'clear' END AS reason,
			ROW(m.rule_id,
				coalesce(m.fingerprint, left(encode(sha256(convert_to(m.name || E'\n' || m.series_labels::text, 'UTF8')), 'hex'), 16)),
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
	-- from here on nobody else writes these rules' states: what was read is what is changed
	), locked AS MATERIALIZED (
		SELECT d.id, d.version, d AS rule
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT c.rule_id FROM changed AS c) AND d.enabled
		FOR SHARE SKIP LOCKED
	), ready AS MATERIALIZED (
		SELECT c.*, l.rule FROM changed AS c JOIN locked AS l ON l.id = c.rule_id AND l.version = c.version
	), inserted AS (
		INSERT INTO monitoring.alert_states SELECT (r.next).* FROM ready AS r WHERE r.old_state IS NULL
		RETURNING 1
	), updated AS (
		UPDATE monitoring.alert_states AS s
		SET alert_id = (r.next).alert_id, state = (r.next).state, value = (r.next).value, details = (r.next).details,
			active_at = (r.next).active_at, fired_at = (r.next).fired_at, resolved_at = (r.next).resolved_at,
			clear_since = (r.next).clear_since, missing_since = (r.next).missing_since, updated_at = (r.next).updated_at
		FROM ready AS r
		WHERE s.ctid = r.place AND r.to_state NOT IN ('inactive', 'forgotten')
		RETURNING 1
	), deleted AS (
		DELETE FROM monitoring.alert_states AS s
		USING ready AS r
		WHERE s.ctid = r.place AND r.to_state IN ('inactive', 'forgotten')
		RETURNING 1
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT $1, (r.next).alert_id, r.rule_id, (r.rule).name, (r.rule).severity, (r.next).series_labels,
			(r.rule).selector || (r.rule).extra_labels || (r.next).series_labels,
			CASE WHEN r.active THEN r.old_state ELSE 'inactive' END, r.to_state, r.reason, (r.next).value, (r.rule).op,
			(r.rule).threshold, monitoring.fill_annotations(r.rule, r.next), (r.next).details, (r.next).active_at,
			(r.next).fired_at, (r.next).fingerprint
		FROM ready AS r
		WHERE r.to_state IS DISTINCT FROM r.old_state AND r.to_state <> 'forgotten'
		ORDER BY r.rule_id, (r.next).series_labels
		RETURNING id
	)
	SELECT (SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') FROM written AS w),
		(SELECT count(*) FROM ready)
			= (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated) + (SELECT count(*) FROM deleted)
	$statement$, kind_function) INTO transitions, unique_labels USING at, rule_ids;

	-- a new label set twice violates the primary key
	IF NOT unique_labels THEN
		RAISE EXCEPTION 'function % gave a value of the same labels twice', kind_function
			USING ERRCODE = 'cardinality_violation';
	END IF;
	IF had_error THEN
		PERFORM monitoring.note_rule_errors(rule_ids, NULL, at);
	END IF;
	RETURN transitions;
EXCEPTION WHEN OTHERS THEN
	-- what is no rule's fault: transaction state, serialization, full disk, connections, intervention, the system
	IF left(SQLSTATE, 2) IN ('25', '40', '57', '58') OR SQLSTATE IN ('53100', '53300') THEN
		RAISE;
	ELSIF half = 0 THEN
		PERFORM monitoring.note_rule_errors(rule_ids, SQLERRM, at);
		RETURN '{}';
	END IF;
	-- Halving finds the rule at fault; from then on it is evaluated apart from the others.
	RETURN monitoring.evaluate_rules(kind_function, rule_ids[:half], at, had_error)
		|| monitoring.evaluate_rules(kind_function, rule_ids[half + 1:], at, had_error);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_rules(text, bigint[], timestamptz, boolean) IS 'Evaluate rules of one kind in one statement: change their alerts'' states, write history and return its ids. A rule that fails gets its last_error and disturbs no other; had_error says that these rules have one, to be cleared on success.';

CREATE FUNCTION monitoring.evaluate_all_rules(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[] := '{}';
	kind_function text;
	rules record;
	failed_rule bigint;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of an evaluation must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.ensure_partition('alert_history', at);

	FOR rules IN
		SELECT k.kind, k.function,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NULL), '{}') AS good,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NOT NULL), '{}') AS failed
		FROM monitoring.alert_rule_kinds AS k
		JOIN monitoring.alert_rule_defs AS d ON d.kind = k.kind
		WHERE d.enabled
		GROUP BY k.kind, k.function
		ORDER BY k.evaluation_order, k.kind
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
	PERFORM monitoring.enqueue_notifications(transitions);
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
