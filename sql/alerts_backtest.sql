-- Trying rules: what a rule would say now, what it would have done, and that nothing of it is kept.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
\i sql/no_evaluation.inc
CREATE FUNCTION pg_temp.fails(statement text) RETURNS TABLE (code text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	code := 'none';
	RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN NEXT;
END $$;
SELECT date_trunc('hour', clock_timestamp()) - '12 hours'::interval AS t0 \gset

-- an hour with two slow spells on one route, and errors on another, which count as none when there are none
SELECT count(monitoring.record_at('ab_seconds', CASE WHEN n BETWEEN 10 AND 25 OR n BETWEEN 40 AND 44 THEN 3 ELSE 1 END,
	:'t0'::timestamptz + n * '1 minute'::interval + '30 seconds'::interval, '{"route": "/a"}')) FROM generate_series(0, 59) AS n;
SELECT count(monitoring.record_at('ab_seconds', 1, :'t0'::timestamptz + n * '1 minute'::interval + '30 seconds'::interval, '{"route": "/b"}')) FROM generate_series(0, 59) AS n;
SELECT count(monitoring.record_at('ab_errors_total', 5, :'t0'::timestamptz + n * '1 minute'::interval + '30 seconds'::interval, '{"route": "/b"}', 'counter')) FROM generate_series(20, 22) AS n;
SELECT :'t0'::timestamptz + '1 minute'::interval AS since, :'t0'::timestamptz + '60 minutes'::interval AS until \gset

\pset format unaligned
\pset fieldsep ' | '
-- a rule that is not stored
SELECT extract(epoch FROM at - :'t0')::int / 60 AS minute, labels, from_state, to_state, reason, value, threshold
FROM monitoring.backtest_rule('new', :'since', :'until', definition => '{"metric": "ab_seconds", "fn": "avg", "over": "1 minute", "op": ">",
	"threshold": 2, "pending_for": "5 minutes", "keep_firing_for": "2 minutes", "by": ["route"]}');
SELECT labels, value, op, threshold, breach FROM monitoring.preview_rule('new', '{"metric": "ab_seconds", "fn": "avg", "over": "1 minute", "op": ">",
	"threshold": 2, "by": ["route"], "extra_labels": {"team": "shop"}}', :'t0'::timestamptz + '12 minutes'::interval);

-- a stored one, and changes of it; also while it is disabled
SELECT monitoring.create_alert_rule('errors', 'ab_errors_total', 'increase', '2 minutes', '>', 4, by => '{route}', enabled => false) > 0;
SELECT extract(epoch FROM at - :'t0')::int / 60 AS minute, labels, to_state, reason, value FROM monitoring.backtest_rule('errors', :'since', :'until', '1 minute');
SELECT extract(epoch FROM at - :'t0')::int / 60 AS minute, labels, to_state, reason, value FROM monitoring.backtest_rule('errors', :'since', :'until', '1 minute', '{"threshold": 9}');
SELECT extract(epoch FROM at - :'t0')::int / 60 AS minute, to_state, value FROM monitoring.backtest_rule('errors', :'since', :'until', '10 minutes');
SELECT labels, value, breach FROM monitoring.preview_rule('errors', '{"by": []}', :'t0'::timestamptz + '22 minutes'::interval);
SELECT count(*) FROM monitoring.preview_rule('errors', at => :'t0'::timestamptz + '40 minutes'::interval);

-- the same as evaluations at those times make, whatever the rule: values, gaps and rules of all kinds
SELECT count(monitoring.record_at('ab_gaps', n * n * h % 11, :'t0'::timestamptz + n * '1 minute'::interval + '30 seconds'::interval,
	jsonb_build_object('host', h))) FROM generate_series(0, 59) AS n, generate_series(1, 3) AS h WHERE (n + h) * (n / 7) % 5 > 1;
CREATE FUNCTION public.ab_check(since timestamptz, until timestamptz, step interval) RETURNS TABLE (rules bigint, transitions bigint, differences bigint)
LANGUAGE plpgsql AS $$
DECLARE
	moment timestamptz := since;
BEGIN
	WHILE moment <= until LOOP
		PERFORM monitoring.evaluate_alerts(moment);
		moment := moment + step;
	END LOOP;
	CREATE TEMP TABLE stored AS SELECT * FROM monitoring.alert_states;
	RETURN QUERY
	WITH expected AS (
		SELECT h.rule_name, h.at, h.labels, h.from_state, h.to_state, h.reason, h.value, h.threshold, h.details FROM monitoring.alert_history AS h
	), found AS (
		SELECT r.name, b.* FROM monitoring.alert_rules AS r CROSS JOIN LATERAL monitoring.backtest_rule(r.name, since, until, step) AS b
	)
	SELECT (SELECT count(DISTINCT e.rule_name) FROM expected AS e), (SELECT count(*) FROM expected),
		(SELECT count(*) FROM ((TABLE expected EXCEPT ALL TABLE found) UNION ALL (TABLE found EXCEPT ALL TABLE expected)) AS d);
END $$;
SELECT monitoring.drop_alert_rule('errors');
TRUNCATE monitoring.alert_history, monitoring.evaluation_state;
SELECT count(monitoring.create_alert_rule('gaps ' || n, 'ab_gaps', f, '2 minutes', o, 5, p, by => b::text[], resolve_threshold => CASE WHEN o = '>' THEN r END,
	keep_firing_for => k, no_data => d, max_age => m))
FROM (SELECT row_number() OVER () AS n, * FROM unnest('{avg,max}'::text[]) AS f, unnest('{>,<}'::text[]) AS o, unnest('{0,3 minutes}'::interval[]) AS p,
	unnest(ARRAY['{}', '{host}']) AS b, unnest('{3,5}'::float8[]) AS r, unnest('{0,2 minutes}'::interval[]) AS k, unnest('{ok,alert}'::text[]) AS d,
	unnest('{1 minute}'::interval[]) AS m) AS c WHERE n % 10 = 0;
SELECT * FROM public.ab_check(:'since', :'until', '1 minute');
-- trials leave nothing behind
SELECT (SELECT count(*) FROM (TABLE stored EXCEPT TABLE monitoring.alert_states) AS d) AS states,
	(SELECT count(*) FROM monitoring.alert_rule_defs WHERE name NOT LIKE 'gaps%') AS rules,
	(SELECT count(*) FROM monitoring.outbox) AS notifications;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- rules that cannot be evaluated
CREATE FUNCTION public.ab_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE plpgsql AS $$
BEGIN
	IF extract(minute FROM at) = 3 THEN
		RAISE EXCEPTION 'minute three';
	END IF;
	RETURN QUERY SELECT r, '{}'::jsonb, extract(minute FROM at)::float8, '{"a": 1}'::jsonb, CASE extract(minute FROM at) WHEN 2 THEN 'minute two' END
		FROM unnest(rule_ids) AS r;
END $$;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('ab', 'public.ab_values');
SELECT extract(epoch FROM at - :'t0')::int / 60 AS minute, labels, from_state, to_state, reason, value, details
FROM monitoring.backtest_rule('x', :'t0', :'t0'::timestamptz + '6 minutes'::interval, '1 minute',
	'{"kind": "ab", "over": "1 minute", "op": ">", "threshold": 0, "on_error": "alert"}');
SELECT p.* FROM generate_series(1, 3) AS n CROSS JOIN LATERAL monitoring.preview_rule('x',
	'{"kind": "ab", "over": "1 minute", "op": ">", "threshold": 0}', :'t0'::timestamptz + n * '1 minute'::interval) AS p ORDER BY n;

-- rules made of rules are evaluated from the bottom up, and so are copies of them
CREATE FUNCTION public.ab_any(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$
	SELECT d.id, '{}'::jsonb, count(s.rule_id)::float8, NULL::jsonb, NULL::text
	FROM monitoring.alert_rule_defs AS d
	LEFT JOIN monitoring.alert_rule_defs AS m ON d.params -> 'any' ? m.name
	LEFT JOIN monitoring.alert_states AS s ON s.rule_id = m.id AND s.state = 'firing'
	WHERE d.id = ANY (rule_ids)
	GROUP BY d.id
$$;
INSERT INTO monitoring.alert_rule_kinds (kind, function, evaluation_order) VALUES ('ab_any', 'public.ab_any', 1);
SELECT count(monitoring.create_alert_rule(n, m, 'avg', '1 minute', '>', 0, p::interval, kind => k, params => v::jsonb))
FROM (VALUES ('c top', NULL, '0', 'ab_any', '{"any": ["b middle"]}'), ('b middle', NULL, '2 minutes', 'ab_any', '{"any": ["a slow"]}'),
	('a slow', NULL, '1 minute', 'ab', '{}')) AS r (n, m, p, k, v);
SELECT n AS minute, monitoring.evaluate_alerts(:'t0'::timestamptz + n * '1 minute'::interval) AS transitions FROM generate_series(4, 9) AS n;
SELECT extract(epoch FROM at - :'t0')::int / 60 AS minute, rule_name, to_state, value FROM monitoring.alert_history ORDER BY id;
SELECT extract(epoch FROM at - :'t0')::int / 60 AS minute, to_state, value FROM monitoring.backtest_rule('c top', :'t0'::timestamptz + '4 minutes'::interval, :'t0'::timestamptz + '9 minutes'::interval);
SELECT labels, value FROM monitoring.preview_rule('c top');
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

-- refused
SELECT f.* FROM unnest(ARRAY[
	$$preview_rule('nosuch')$$,
	$$preview_rule('x', '[]')$$,
	$$preview_rule('x', '{"metric": "m", "fn": "average", "over": "1 minute", "op": ">", "threshold": 1}')$$,
	$$preview_rule('x', '{"metric": "m", "fn": "avg", "over": "1 minute", "op": ">", "threshold": 1, "name": "y"}')$$,
	$$preview_rule('x', '{"metric": "m", "fn": "avg", "over": "1 minute", "op": ">", "threshold": 1}', 'infinity')$$,
	$$backtest_rule('nosuch', now() - '1 hour'::interval)$$,
	$$backtest_rule('x', now() + '1 hour'::interval, definition => '{"metric": "m", "fn": "avg", "over": "1 minute", "op": ">", "threshold": 1}')$$,
	$$backtest_rule('x', '-infinity', definition => '{"metric": "m", "fn": "avg", "over": "1 minute", "op": ">", "threshold": 1}')$$,
	$$backtest_rule('x', now() - '1 hour'::interval, step => '-1 second', definition => '{"metric": "m", "fn": "avg", "over": "1 minute", "op": ">", "threshold": 1}')$$,
	$$backtest_rule('x', '2030-01-01 00:00', '2030-01-01 02:46:40', '1 second', '{"metric": "m", "fn": "avg", "over": "1 minute", "op": ">", "threshold": 1}')$$
]) AS call CROSS JOIN LATERAL pg_temp.fails('SELECT * FROM monitoring.' || call) AS f;
-- a query is tried with the rights of who tries it, not with those of the rule's owner
CREATE ROLE regress_alert_tester;
SELECT monitoring.grant_access('regress_alert_tester', 'admin');
CREATE TABLE public.ab_secret (n float8);
SELECT monitoring.create_alert_rule('owned', 'ab_gaps', 'avg', '1 minute', '>', 5) > 0;
SET ROLE regress_alert_tester;
SELECT f.* FROM pg_temp.fails($$SELECT * FROM monitoring.preview_rule('owned', '{"threshold_sql": "SELECT n FROM public.ab_secret"}')$$) AS f;
SELECT f.* FROM pg_temp.fails($$SELECT monitoring.update_alert_rule('owned', '{"threshold_sql": "SELECT n FROM public.ab_secret"}')$$) AS f;
SELECT monitoring.update_alert_rule('owned', '{"threshold_sql": "SELECT 7"}');
RESET ROLE;
SELECT name, owner FROM monitoring.alert_rules;
SELECT monitoring.drop_alert_rule('owned');
SELECT monitoring.revoke_access('regress_alert_tester');
DROP ROLE regress_alert_tester;

DELETE FROM monitoring.alert_rule_kinds WHERE kind IN ('ab', 'ab_any');
DROP FUNCTION public.ab_values, public.ab_any, public.ab_check;
DROP TABLE public.ab_secret;
TRUNCATE monitoring.alert_history, monitoring.alert_states;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
