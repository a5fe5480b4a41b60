-- Alert rules: what is accepted, in which form it is stored, and what is refused.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
UPDATE monitoring.jobs SET enabled = false WHERE name = 'evaluate_alerts';
-- the worker may be about to run it; it has taken note when the job is no longer listed
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM monitoring.status WHERE database = current_database() AND job = 'evaluate_alerts');
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;

CREATE FUNCTION pg_temp.fails(statement text) RETURNS TABLE (code text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	code := 'none';
	RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN NEXT;
END $$;

-- the signature users write, and everything in its stored form
SELECT monitoring.create_alert_rule('plain', 'ar_latency_seconds', 'p95', '5 minutes', '>', 0.5) > 0 AS created;
SELECT monitoring.create_alert_rule('full', 'ar_latency_seconds', 'avg', '1 minute', '!=', -2, '30 seconds', 'P1',
	'{"status": 500, "cached": false, "none": null}', '{route,method,route}', '{"summary": "{{route}}", "runbook": 7}',
	keep_firing_for => '1 minute', max_age => '0', extra_labels => '{"team": "shop"}') > 0 AS created;
SELECT monitoring.create_alert_rule('hysteresis', 'ar_latency_seconds', 'avg', '1 minute', '<=', 1, severity => 'Warning',
	resolve_threshold => 2, receivers => '{}') > 0 AS created;
SELECT monitoring.create_slow_query_rule('slow', '1500 ms', labels => '{"database": "shop"}') > 0 AS created;
\x on
SELECT name, kind, metric, fn, over, op, threshold, resolve_threshold, pending_for, keep_firing_for, max_age, severity, labels,
	by, extra_labels, annotations, receivers, enabled, owner = current_user AS mine, state, pending, firing, last_error
FROM monitoring.alert_rules WHERE name IN ('plain', 'full', 'hysteresis', 'slow') ORDER BY id;
\x off
SELECT s, monitoring.canonical_severity(s) FROM unnest('{p0,P1,p2,P3,P4,warning,CRITICAL,high,medium,low,info}'::text[]) AS s;

-- refused
\pset format unaligned
\t on
SELECT f.* FROM unnest(ARRAY[
	$$'plain', 'm', 'avg', '1 minute', '>', 1$$,
	$$NULL, 'm', 'avg', '1 minute', '>', 1$$,
	$$E'a\nb', 'm', 'avg', '1 minute', '>', 1$$,
	$$'x', 'm', 'avg', '1 minute', '~', 1$$,
	$$'x', 'm', 'avg', '1 minute', NULL, 1$$,
	$$'x', 'm', 'average', '1 minute', '>', 1$$,
	$$'x', 'm', NULL, '1 minute', '>', 1$$,
	$$'x', 'no metric', 'avg', '1 minute', '>', 1$$,
	$$'x', NULL, 'avg', '1 minute', '>', 1$$,
	$$'x', 'm', 'avg', '-1 minute', '>', 1$$,
	$$'x', 'm', 'avg', '0', '>', 1$$,
	$$'x', 'm', 'avg', '1 minute', '>', 'NaN'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 'Infinity'$$,
	$$'x', 'm', 'avg', '1 minute', '>', NULL$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, '-1 second'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, keep_firing_for => '-1 second'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, max_age => NULL$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, severity => 'awful'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, labels => '[1]'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, labels => '{"a": {"b": 1}}'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, labels => '{"a": "b\r\nc"}'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, labels => jsonb_build_object('a', repeat('x', 5000))$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, annotations => '{"a": []}'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, by => '{a,NULL}'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, resolve_threshold => 2$$,
	$$'x', 'm', 'avg', '1 minute', '<', 1, resolve_threshold => 0$$,
	$$'x', 'm', 'avg', '1 minute', '=', 1, resolve_threshold => 0$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, receivers => '{nobody}'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, kind => 'magic'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, kind => 'slow_query'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, every => '0'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, repeat_every => '-1 hour'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, no_data => 'panic'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, on_error => NULL$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, max_instances => 0$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, params => '[]'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, params => jsonb_build_object('a', repeat('x', 70000))$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, runbook_url => 'javascript:alert(1)'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, runbook_url => 'https://a b'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, runbook_url => 'https://a/' || repeat('b', 2000)$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, active_times => '{"times": [{"start": "25:00", "end": "26:00"}]}'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, active_times => '{"location": "Mars/Olympus"}'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, parent => 'nosuch'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, parent => 'x'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, threshold_sql => 'SELEKT 1'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, threshold_sql => 'SELECT 1 AS a, 2 AS b'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, threshold_sql => 'DELETE FROM pg_class RETURNING 1'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, impact_sql => 'SELECT 1; SELECT 2'$$,
	$$'x', 'm', 'avg', '1 minute', '>', 1, impact_sql => 'SELECT n FROM public.nosuch'$$
]) AS arguments
CROSS JOIN LATERAL pg_temp.fails('SELECT monitoring.create_alert_rule(' || arguments || ')') AS f;

-- changes
SELECT monitoring.update_alert_rule('full', '{"threshold": 3, "op": ">", "severity": "p0", "by": ["b", "a"], "over": "2 minutes"}');
SELECT monitoring.update_alert_rule('full', '{"threshold": 3}');
SELECT op, threshold, severity, by_labels, over, version FROM monitoring.alert_rule_defs WHERE name = 'full';
SELECT monitoring.enable_alert_rule('full', false);
SELECT enabled, state FROM monitoring.alert_rules WHERE name = 'full';
SELECT monitoring.enable_alert_rule('full');
SELECT enabled, state FROM monitoring.alert_rules WHERE name = 'full';
SELECT f.* FROM unnest(ARRAY[
	$$monitoring.update_alert_rule('full', '{"name": "other"}')$$,
	$$monitoring.update_alert_rule('full', '[]')$$,
	$$monitoring.update_alert_rule('full', '{"over": "-1 second"}')$$,
	$$monitoring.update_alert_rule('full', '{"threshold": "NaN"}')$$,
	$$monitoring.update_alert_rule('nosuch', '{}')$$,
	$$monitoring.enable_alert_rule('nosuch')$$,
	$$monitoring.drop_alert_rule('nosuch')$$,
	$$monitoring.create_slow_query_rule('x', '-1 second')$$,
	$$monitoring.evaluate_alerts('infinity')$$,
	$$monitoring.evaluate_alerts(NULL)$$,
	$$monitoring.update_alert_rule('full', '{"kind": "slow_query"}')$$,
	$$monitoring.update_alert_rule('full', '{"max_instances": "many"}')$$
]) AS call
CROSS JOIN LATERAL pg_temp.fails('SELECT ' || call) AS f;
-- JSON of the wrong type is told by the name of the parameter
SELECT c, f.message FROM unnest(ARRAY['{"threshold": "high"}', '{"threshold": 1e999}', '{"resolve_threshold": [1]}', '{"over": "soon"}', '{"every": {}}', '{"by": "route"}', '{"by": [1]}',
	'{"receivers": "web"}', '{"max_instances": 1e10}', '{"max_instances": 1.5}', '{"enabled": "no"}', '{"enabled": 1}', '{"severity": true}', '{"metric": ["m"]}', '{"labels": [1]}',
	'{"slo": "nosuch"}', '{"extra_labels": {"severity": "low"}}', '{"extra_labels": {"alertname": "x"}}']) AS c
CROSS JOIN LATERAL pg_temp.fails(format('SELECT monitoring.update_alert_rule(''full'', %L)', c)) AS f;
SELECT f.* FROM pg_temp.fails($$SELECT monitoring.create_alert_rule('x', 'm', 'last', '1 minute', '>', 1, slo => 'nosuch')$$) AS f;
SELECT f.* FROM pg_temp.fails($$SELECT monitoring.preview_rule('full', '{"threshold": "high"}')$$) AS f;

-- what a rule may have besides
SELECT monitoring.create_alert_rule('rest', 'ar_latency_seconds', 'avg', '1 minute', '>', 1, every => '1 minute', repeat_every => '1 hour', no_data => 'alert',
	on_error => 'alerting', max_instances => 7, runbook_url => 'https://runbooks.example/rest', impact_sql => 'SELECT 1 AS users', parent => 'plain',
	active_times => '{"weekdays": ["monday:friday"], "location": "Europe/Berlin"}', threshold_sql => 'SELECT ''a'' AS tenant, 3 AS most', pack => 'web', enabled => false) > 0 AS created;
\x on
SELECT every, repeat_every, no_data, on_error, max_instances, runbook_url, impact_sql, active_times, parent, threshold_sql, params, slo, pack, enabled
FROM monitoring.alert_rules WHERE name = 'rest';
\x off
-- parents do not go in a circle; one that is gone is nobody's parent
SELECT monitoring.update_alert_rule('plain', '{"parent": "full"}');
SELECT f.* FROM unnest('{rest,plain,nosuch}'::text[]) AS parent
CROSS JOIN LATERAL pg_temp.fails(format('SELECT monitoring.update_alert_rule(%L, %L)', 'full', jsonb_build_object('parent', parent))) AS f;
SELECT monitoring.update_alert_rule('full', '{"parent": "hysteresis"}');
SELECT monitoring.drop_alert_rule('hysteresis');
SELECT monitoring.update_alert_rule('full', '{"threshold": 4}');
SELECT monitoring.update_alert_rule('rest', '{"parent": null, "every": null, "active_times": null}');
SELECT name, parent, every, active_times FROM monitoring.alert_rules WHERE name IN ('full', 'plain', 'rest') ORDER BY name;

-- a kind's functions must exist, return what is read and must not run with the rights of the extension's owner unless they are his
SELECT f.* FROM pg_temp.fails($$INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('k', 'public.nosuch')$$) AS f;
CREATE FUNCTION public.ar_values(at timestamptz, rule_ids bigint[]) RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb)
LANGUAGE sql AS $$ SELECT r, '{}'::jsonb, 7::float8, NULL::jsonb FROM unnest(rule_ids) AS r $$;
SELECT f.* FROM pg_temp.fails($$INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('k', 'public.ar_values')$$) AS f;
DROP FUNCTION public.ar_values;
CREATE ROLE regress_alert_author;
CREATE FUNCTION public.ar_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$ SELECT r, '{}'::jsonb, 7::float8, NULL::jsonb, NULL::text FROM unnest(rule_ids) AS r $$;
ALTER FUNCTION public.ar_values OWNER TO regress_alert_author;
SELECT f.* FROM pg_temp.fails($$INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('k', 'public.ar_values')$$) AS f;
ALTER FUNCTION public.ar_values SECURITY DEFINER;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('k', 'public.ar_values');
SELECT monitoring.create_alert_rule('by_kind', NULL, NULL, '1 minute', '>=', 7, kind => 'k') > 0 AS created;
SELECT monitoring.evaluate_alerts();
SELECT rule, state, value FROM monitoring.alerts WHERE rule = 'by_kind';
-- taking the right away later is an error of the kind's rules
ALTER FUNCTION public.ar_values SECURITY INVOKER;
SELECT monitoring.evaluate_alerts();
SELECT name, state, last_error FROM monitoring.alert_rules WHERE name = 'by_kind';

-- texts are filled in once, and what is filled in is only text
SELECT monitoring.fill_text(t, '{"a": "{{b}}", "b": "secret", "value": "1.5", "e": ""}')
FROM unnest('{plain,"","{{a}}","{{ a }}-{{$labels.b}}-{{ $value }}","{{nosuch}} {{e}}|","{{a}}{{a}}","{{","}}{{","{{{a}}}","{{a b}}","{{ {{a}} }}"}'::text[]) AS t;

-- nobody gets a rule in another's name by having code run in his session
SELECT monitoring.grant_access('regress_alert_author', 'admin');
GRANT CREATE ON SCHEMA public TO regress_alert_author;
SET ROLE regress_alert_author;
CREATE FUNCTION public.ar_trick(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_setting('ar.trick', true) = 'on' THEN
		PERFORM monitoring.create_alert_rule('trick', NULL, NULL, '1 minute', '>', 1, kind => 'k');
	END IF;
	RETURN i;
END $$;
CREATE TABLE public.ar_table (i integer);
INSERT INTO public.ar_table VALUES (1);
CREATE INDEX ON public.ar_table (public.ar_trick(i));
SELECT monitoring.create_alert_rule('own', 'm', 'avg', '1 minute', '>', 1) > 0 AS created;
RESET ROLE;
SET ar.trick = 'on';
SELECT f.* FROM pg_temp.fails('ANALYZE public.ar_table') AS f;
RESET ar.trick;
SELECT name, owner FROM monitoring.alert_rules WHERE name IN ('own', 'trick');
DROP TABLE public.ar_table;
DROP FUNCTION public.ar_trick;
REVOKE CREATE ON SCHEMA public FROM regress_alert_author;
SELECT monitoring.revoke_access('regress_alert_author');

SELECT monitoring.drop_alert_rule(name) FROM monitoring.alert_rules ORDER BY id;
DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'k';
DROP FUNCTION public.ar_values;
DROP ROLE regress_alert_author;
SELECT count(*) FROM monitoring.alert_rules;
SELECT count(*) FROM monitoring.alert_states;
TRUNCATE monitoring.alert_history;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
