-- alerts, backtest: what a rule would say now, and what it would have done.
--
-- A trial evaluates a copy of the rule, with the statement that evaluates rules, in a subtransaction that is rolled back: no
-- stored state is touched, and nobody else sees the copy.

CREATE FUNCTION monitoring.trial_copy(rule monitoring.alert_rule_defs) RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	rule.id := nextval('monitoring.alert_rule_defs_id_seq');
	rule.name := left(rule.name, 150) || ' ' || gen_random_uuid();
	rule.last_error := NULL;
	rule.last_error_at := NULL;
	RETURN rule;
END $$;
COMMENT ON FUNCTION monitoring.trial_copy(monitoring.alert_rule_defs) IS 'The rule under another id and name, as if it had never been evaluated.';

CREATE FUNCTION monitoring.trial_members(trial monitoring.alert_rule_defs) RETURNS SETOF monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	copies monitoring.alert_rule_defs[];
	names jsonb;
BEGIN
	WITH RECURSIVE members AS (
		SELECT m.name FROM monitoring.rule_members(trial.params) AS m (name)
		UNION
		SELECT n.name
		FROM members AS m
		JOIN monitoring.alert_rule_defs AS d ON d.name = m.name
		JOIN monitoring.alert_rule_kinds AS k ON k.kind = d.kind AND k.evaluation_order > 0
		CROSS JOIN LATERAL monitoring.rule_members(d.params) AS n (name)
	), copied AS MATERIALIZED (
		SELECT d.name, monitoring.trial_copy(d) AS copy FROM monitoring.alert_rule_defs AS d JOIN members AS m ON m.name = d.name
	)
	SELECT array_agg(c.copy), jsonb_object_agg(c.name, (c.copy).name) INTO copies, names FROM copied AS c;

	copies := coalesce(copies, '{}') || trial;
	FOR i IN 1 .. cardinality(copies) LOOP
		copies[i].params := copies[i].params || (
			SELECT coalesce(jsonb_object_agg(k.key, (
				SELECT jsonb_agg(coalesce(names -> m.name, to_jsonb(m.name)))
				FROM jsonb_array_elements_text(copies[i].params -> k.key) AS m (name))), '{}')
			FROM unnest('{all,any}'::text[]) AS k (key)
			WHERE jsonb_typeof(copies[i].params -> k.key) = 'array');
	END LOOP;
	RETURN QUERY SELECT c.* FROM unnest(copies) AS c;
END $$;
COMMENT ON FUNCTION monitoring.trial_members(monitoring.alert_rule_defs) IS 'Copies of all rules that a rule of rules is made of, and itself, made of the copies.';

CREATE FUNCTION monitoring.trial_rule(rule_name text, definition jsonb) RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	stored monitoring.alert_rule_defs;
	rule monitoring.alert_rule_defs;
BEGIN
	SELECT d.* INTO stored FROM monitoring.alert_rule_defs AS d WHERE d.name = rule_name;
	IF FOUND THEN
		rule := monitoring.change_rule(stored, definition, '{kind}');
	ELSIF definition = '{}' THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', rule_name
			USING ERRCODE = 'undefined_object', HINT = 'Give the definition of a rule that is not stored yet.';
	ELSE
		rule := monitoring.change_rule(jsonb_populate_record(NULL::monitoring.alert_rule_defs, jsonb_build_object('name', rule_name)
			|| '{"kind": "metric", "pending_for": "0", "keep_firing_for": "0", "max_age": "5 minutes", "severity": "medium",
				"selector": {}, "by_labels": [], "extra_labels": {}, "annotations": {}, "params": {}, "no_data": "ok",
				"on_error": "keep", "max_instances": 1000}'), definition);
	END IF;
	IF (rule.params, rule.impact_sql, rule.threshold_sql)
		IS DISTINCT FROM (stored.params, stored.impact_sql, stored.threshold_sql) THEN
		rule.owner := monitoring.calling_role();
	END IF;
	rule := monitoring.check_alert_rule(rule);
	rule.enabled := true;
	rule.version := 1;
	rule.edited := false;
	rule.created_at := clock_timestamp();
	rule.updated_at := rule.created_at;
	RETURN monitoring.trial_copy(rule);
END $$;
COMMENT ON FUNCTION monitoring.trial_rule(text, jsonb) IS 'A copy of a rule, with changes, or a new rule, under a name of its own, to be inserted and rolled back. Errors as create_alert_rule; 42704 for a rule that is not stored and has no definition.';

CREATE FUNCTION monitoring.run_trial(rule monitoring.alert_rule_defs, at timestamptz, purpose text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kind_function text;
BEGIN
	IF rule.active_times IS NOT NULL AND NOT monitoring.time_matches(rule.active_times, at, true) THEN
		RETURN (monitoring.run_evaluation(NULL, ARRAY[rule.id], at, inactive => true, purpose => run_trial.purpose)).shown;
	END IF;
	SELECT k.function INTO kind_function FROM monitoring.alert_rule_kinds AS k WHERE k.kind = rule.kind;
	RETURN (monitoring.run_evaluation(monitoring.kind_function('an alert rule kind', kind_function, 'timestamptz, bigint[]'), ARRAY[rule.id], at,
		purpose => run_trial.purpose)).shown;
EXCEPTION WHEN OTHERS THEN
	IF NOT monitoring.evaluation_may_fail(SQLSTATE) THEN
		RAISE;
	END IF;
	RETURN (monitoring.run_evaluation(NULL, ARRAY[rule.id], at, SQLERRM, purpose => run_trial.purpose)).shown;
END $$;
COMMENT ON FUNCTION monitoring.run_trial(monitoring.alert_rule_defs, timestamptz, text) IS 'Evaluate one rule at a time as evaluate_alerts would, and return what run_evaluation shows for this purpose.';

CREATE FUNCTION monitoring.preview_rule(rule text, definition jsonb DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (labels jsonb, value float8, op text, threshold float8, breach boolean, details jsonb, error text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	trial monitoring.alert_rule_defs := monitoring.trial_rule(rule, definition);
	shown jsonb;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a preview must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	BEGIN
		INSERT INTO monitoring.alert_rule_defs SELECT trial.*;
		shown := monitoring.run_trial(trial, at, 'show');
		RAISE EXCEPTION 'end of the trial' USING ERRCODE = 'MON01';
	EXCEPTION WHEN SQLSTATE 'MON01' THEN
	END;
	RETURN QUERY
		SELECT s.labels, s.value, trial.op, s.threshold, s.breach, s.details, s.error
		FROM jsonb_to_recordset(shown) AS s (labels jsonb, value float8, threshold float8, breach boolean, details jsonb, error text);
END $$;
COMMENT ON FUNCTION monitoring.preview_rule(text, jsonb, timestamptz) IS 'What a rule finds at a time, without saving anything: one row per label set with its value and whether it breaches the threshold, or one with the error. definition is a JSON object of parameters of create_alert_rule as for update_alert_rule: all that a new rule needs, or the changes to the stored rule of this name. Errors as create_alert_rule, but not for a parent.';

CREATE FUNCTION monitoring.backtest_rule(rule text, since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	step interval DEFAULT NULL, definition jsonb DEFAULT '{}')
RETURNS TABLE (at timestamptz, labels jsonb, from_state text, to_state text, reason text, value float8, threshold float8, details jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	max_steps CONSTANT integer := 10000;
	max_transitions CONSTANT integer := 100000;
	trial monitoring.alert_rule_defs := monitoring.trial_rule(rule, definition);
	moment timestamptz := since;
	found jsonb;
	transitions jsonb[] := '{}';
	moments timestamptz[] := '{}';
	total integer := 0;
	members monitoring.alert_rule_defs[];
	member monitoring.alert_rule_defs;
BEGIN
	IF since IS NULL OR until IS NULL OR NOT isfinite(since) OR NOT isfinite(until) OR until <= since THEN
		RAISE EXCEPTION 'a backtest must end after it begins' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	step := coalesce(step, greatest(trial.every, '1 minute', make_interval(secs => ceil(date_part('epoch', until - since) / 1440))));
	IF step <= '0' THEN
		RAISE EXCEPTION 'the step of a backtest must be longer than zero' USING ERRCODE = 'invalid_parameter_value';
	ELSIF date_part('epoch', until - since) / date_part('epoch', step) >= max_steps THEN
		RAISE EXCEPTION 'a backtest cannot have more than % steps', max_steps
			USING ERRCODE = 'program_limit_exceeded', HINT = 'Give a longer step or a shorter time.';
	END IF;

	BEGIN
		IF EXISTS (SELECT FROM monitoring.alert_rule_kinds AS k WHERE k.kind = trial.kind AND k.evaluation_order > 0) THEN
			members := ARRAY(SELECT m FROM monitoring.trial_members(trial) AS m);
			INSERT INTO monitoring.alert_rule_defs SELECT m.* FROM unnest(members) AS m;
			members := ARRAY(SELECT m FROM unnest(members) AS m LEFT JOIN monitoring.rule_depths() AS b ON b.rule_id = m.id
				WHERE m.id <> trial.id AND m.enabled ORDER BY b.depth NULLS FIRST);
		ELSE
			INSERT INTO monitoring.alert_rule_defs SELECT trial.*;
			members := '{}';
		END IF;
		WHILE moment <= until LOOP
			FOREACH member IN ARRAY members LOOP
				PERFORM monitoring.run_trial(member, moment, 'simulate');
			END LOOP;
			found := monitoring.run_trial(trial, moment, 'simulate');
			IF found IS NOT NULL THEN
				transitions := transitions || found;
				moments := moments || moment;
				total := total + jsonb_array_length(found);
				IF total > max_transitions THEN
					RAISE EXCEPTION 'the rule makes more than % transitions', max_transitions
						USING ERRCODE = 'program_limit_exceeded', HINT = 'Give a shorter time.';
				END IF;
			END IF;
			moment := moment + step;
		END LOOP;
		RAISE EXCEPTION 'end of the trial' USING ERRCODE = 'MON01';
	EXCEPTION WHEN SQLSTATE 'MON01' THEN
	END;
	RETURN QUERY
		SELECT f.moment, s.labels, s.from_state, s.to_state, s.reason, s.value, s.threshold, s.details
		FROM unnest(moments, transitions) WITH ORDINALITY AS f (moment, found, n)
		CROSS JOIN LATERAL ROWS FROM (jsonb_to_recordset(f.found) AS (labels jsonb, from_state text, to_state text, reason text,
			value float8, threshold float8, details jsonb)) WITH ORDINALITY
			AS s (labels, from_state, to_state, reason, value, threshold, details, m)
		ORDER BY f.n, s.m;
END $$;
COMMENT ON FUNCTION monitoring.backtest_rule(text, timestamptz, timestamptz, interval, jsonb) IS 'The transitions that a rule would have made, had it been evaluated at since, since + step, and so on until the end, with the metrics that are stored; it starts without alerts. A row without labels says that the rule was in error (to_state error, reason the error) or no longer. step: by default a minute, or the rule''s "every" if that is longer, and not more than 1,440 steps. definition as in preview_rule: to try changes of the stored rule of this name, or a rule that is not stored. Queries and other rules give what they give now, unless they look at the time. Errors: 22023 for times that are not finite or not in order, 54000 for more than 10,000 steps or 100,000 transitions, others as create_alert_rule.';

