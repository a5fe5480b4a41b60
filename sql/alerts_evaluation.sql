-- How evaluation works: one statement per kind, unchanged alerts write nothing, a failing rule fails alone.
SET client_min_messages = warning;
\i sql/no_evaluation.inc
SELECT clock_timestamp() + '1 minute' AS t0 \gset
\t on
SELECT monitoring.set_gauge('ae_queue', n, jsonb_build_object('queue', n)) FROM generate_series(1, 4) AS n;

CREATE FUNCTION public.ae_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$
	SELECT d.id, '{}'::jsonb, 1 / d.threshold, NULL::jsonb, NULL::text FROM monitoring.alert_rule_defs AS d WHERE d.id = ANY (rule_ids)
$$;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('ae', 'public.ae_values');

-- 10 rules, then 1,000, of the same two readings: calls made within one evaluation
SET track_functions = 'all';
CREATE FUNCTION pg_temp.calls() RETURNS TABLE (function text, calls bigint) LANGUAGE sql AS $$
	SELECT funcname::text, f.calls FROM pg_stat_xact_user_functions AS f
	WHERE schemaname = 'monitoring' AND funcname IN ('evaluate_rules', 'metric_rule_values', 'read_values')
	ORDER BY 1
$$;
SELECT count(monitoring.create_alert_rule('shared ' || n, 'ae_queue', 'last', '1 hour', '>', n % 2, by => CASE n % 3 WHEN 0 THEN '{host,queue}' ELSE '{queue}' END::text[]))
FROM generate_series(1, 10) AS n;
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT monitoring.evaluate_alerts(:'t0');
SELECT * FROM pg_temp.calls();
COMMIT;
SELECT count(monitoring.create_alert_rule('shared ' || n, 'ae_queue', 'last', '1 hour', '>', n + 10, by => CASE n % 3 WHEN 0 THEN '{host,queue}' ELSE '{queue}' END::text[]))
FROM generate_series(11, 1000) AS n;
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '1 second'::interval);
SELECT * FROM pg_temp.calls();
COMMIT;
SELECT state, count(*) FROM monitoring.alerts GROUP BY state ORDER BY state;

-- nothing changed, nothing written, though the values did change
CREATE TEMP TABLE before AS SELECT xmin::text AS x, ctid AS c, * FROM monitoring.alert_states;
CREATE TEMP TABLE rules_before AS SELECT xmin::text AS x, xmax::text AS y, id FROM monitoring.alert_rule_defs;
SELECT monitoring.set_gauge('ae_queue', n * n, jsonb_build_object('queue', n)) FROM generate_series(1, 4) AS n;
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT sum(monitoring.evaluate_alerts(:'t0'::timestamptz + n * '10 milliseconds'::interval)) FROM generate_series(101, 125) AS n;
SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS written FROM pg_stat_xact_user_tables
WHERE schemaname = 'monitoring' AND n_tup_ins + n_tup_upd + n_tup_del > 0;
SELECT pg_current_xact_id_if_assigned() IS NULL AS read_only;
COMMIT;
SELECT count(*) FROM (SELECT xmin::text AS x, ctid AS c, * FROM monitoring.alert_states EXCEPT TABLE before) AS changed;
SELECT count(*) FROM (SELECT xmin::text AS x, xmax::text AS y, id FROM monitoring.alert_rule_defs EXCEPT TABLE rules_before) AS changed;
-- one of four groups changes: only its rows are written
SELECT monitoring.set_gauge('ae_queue', 0, '{"queue": 1}');
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '3 seconds'::interval) AS transitions;
SELECT series_labels, state, count(*) FROM monitoring.alert_states AS s
WHERE NOT EXISTS (SELECT FROM before AS b WHERE b.c = s.ctid AND b.x = s.xmin::text) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- rules in error: 1/0 for a threshold of zero
SELECT count(monitoring.create_alert_rule('kind ' || n, NULL, NULL, '1 minute', '>', n - 4, kind => 'ae')) FROM generate_series(1, 10) AS n;
SELECT monitoring.evaluate_alerts(:'t0');
SELECT name, state, last_error, last_error_at = :'t0' AS since FROM monitoring.alert_rules WHERE state <> 'ok' ORDER BY id;
-- the error is written when it changes
SELECT xmin::text AS x FROM monitoring.alert_rule_defs WHERE name = 'kind 4' \gset
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '1 second'::interval);
SELECT xmin::text = :'x' AS unchanged FROM monitoring.alert_rule_defs WHERE name = 'kind 4';
-- and goes when the rule works again
CREATE OR REPLACE FUNCTION public.ae_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$
	SELECT d.id, '{}'::jsonb, 1, NULL::jsonb, NULL::text FROM monitoring.alert_rule_defs AS d WHERE d.id = ANY (rule_ids)
$$;
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '2 seconds'::interval);
SELECT name, state, last_error FROM monitoring.alert_rules WHERE name = 'kind 4';
-- the same label set twice is an error of the rule, its state is kept
CREATE OR REPLACE FUNCTION public.ae_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$
	SELECT d.id, '{"a": "b"}'::jsonb, 99, NULL::jsonb, NULL::text FROM monitoring.alert_rule_defs AS d, generate_series(1, 1 + (d.name = 'kind 5')::int)
	WHERE d.id = ANY (rule_ids) AND d.name IN ('kind 5', 'kind 6')
$$;
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '3 seconds'::interval);
SELECT name, state, left(last_error, 55), firing FROM monitoring.alert_rules WHERE name IN ('kind 5', 'kind 6') ORDER BY id;
-- also when the label set is known; and what such a function lacks or cannot do is no other rule's business
CREATE OR REPLACE FUNCTION public.ae_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.id = ANY (rule_ids) AND d.name = 'kind 7') THEN
		RAISE EXCEPTION 'not ready' USING ERRCODE = 'object_not_in_prerequisite_state';
	ELSIF EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.id = ANY (rule_ids) AND d.name = 'kind 8') THEN
		RAISE EXCEPTION 'too much' USING ERRCODE = 'out_of_memory';
	END IF;
	RETURN QUERY SELECT d.id, '{"a": "b"}'::jsonb, -99::float8, NULL::jsonb, NULL::text
		FROM monitoring.alert_rule_defs AS d, generate_series(1, 1 + (d.name = 'kind 6')::int)
		WHERE d.id = ANY (rule_ids) AND d.name IN ('kind 6', 'kind 9');
END $$;
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '3500 milliseconds'::interval);
SELECT name, state, last_error, firing FROM monitoring.alert_rules WHERE name IN ('kind 6', 'kind 7', 'kind 8', 'kind 9') ORDER BY id;
SELECT count(*) FROM monitoring.alert_history WHERE rule_name = 'kind 6' AND to_state = 'resolved';

-- two that differ in the label that says that there is no data are told of in one alert
CREATE OR REPLACE FUNCTION public.ae_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$
	SELECT d.id, jsonb_build_object('reason', n), 99, NULL::jsonb, NULL::text
	FROM monitoring.alert_rule_defs AS d, generate_series(1, 2) AS n WHERE d.id = ANY (rule_ids) AND d.name = 'kind 10'
$$;
SELECT monitoring.update_alert_rule('kind 10', '{"no_data": "alert", "max_age": "50 milliseconds"}');
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '3600 milliseconds'::interval);
CREATE OR REPLACE FUNCTION public.ae_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$ SELECT 0::bigint, '{}'::jsonb, 0::float8, NULL::jsonb, NULL::text WHERE false $$;
SELECT sum(monitoring.evaluate_alerts(:'t0'::timestamptz + n * interval '100 milliseconds')) AS transitions FROM generate_series(37, 39) AS n;
SELECT a.state, a.labels, r.last_error FROM monitoring.alert_rules AS r JOIN monitoring.alerts AS a ON a.rule = r.name WHERE r.name = 'kind 10' ORDER BY 2;

-- the function is gone
ALTER FUNCTION public.ae_values RENAME TO ae_gone;
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + '4 seconds'::interval);
SELECT state, last_error, count(*) FROM monitoring.alert_rules GROUP BY 1, 2;
SELECT count(*) FROM monitoring.alert_states;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'ae';
DROP FUNCTION public.ae_gone;
TRUNCATE monitoring.alert_history;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
