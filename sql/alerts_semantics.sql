-- What becomes of an alert: every part of a rule at its boundaries, on virtual time; and backtests say the same.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
\i sql/no_evaluation.inc

-- A kind whose values are written down: what a rule finds n seconds after t0.
CREATE TABLE public.as_feed (feed text, n numeric, labels jsonb, value float8, error text, raises text);
CREATE FUNCTION public.as_t0() RETURNS timestamptz LANGUAGE sql IMMUTABLE RETURN '2031-03-05 12:00:00+00'::timestamptz;
CREATE FUNCTION public.as_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE plpgsql AS $$
DECLARE
	found record;
BEGIN
	FOR found IN
		SELECT d.id, f.* FROM monitoring.alert_rule_defs AS d
		JOIN public.as_feed AS f ON f.feed = d.params ->> 'feed' AND public.as_t0() + make_interval(secs => f.n::float8) = as_values.at
		WHERE d.id = ANY (rule_ids)
	LOOP
		IF found.raises IS NOT NULL THEN
			RAISE EXCEPTION '%', found.raises;
		END IF;
		rule_id := found.id;
		series_labels := found.labels;
		value := found.value;
		error := found.error;
		RETURN NEXT;
	END LOOP;
END $$;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('as', 'public.as_values');

-- Play a feed through a rule, ten seconds a step. A step is a value; -: no row; null: a row without a value; E: an error;
-- X: the function raises an error; a=1,b=2: two label sets. @60 after it: at 60 seconds after t0. edit:{...}: change the rule.
-- Returned: the alerts after each step (p pending, F firing, r resolved, .: none), every transition, and whether a backtest
-- makes the same transitions.
CREATE FUNCTION public.as_play(options jsonb, steps text, OUT states text, OUT transitions text, OUT backtest text)
LANGUAGE plpgsql AS $$
DECLARE
	step text;
	sec numeric := 0;
	edited boolean := false;
BEGIN
	DELETE FROM monitoring.evaluation_state;
	DELETE FROM public.as_feed;
	PERFORM monitoring.remember_evaluation(NULL);
	PERFORM monitoring.create_alert_rule('rule', NULL, NULL, '1 minute', '>', 5, kind => 'as', params => '{"feed": "f"}', enabled => false);
	PERFORM monitoring.update_alert_rule('rule', options || '{"enabled": true}', public.as_t0());
	FOREACH step IN ARRAY string_to_array(steps, ' ') LOOP
		IF step LIKE 'edit:%' THEN
			PERFORM monitoring.update_alert_rule('rule', substr(step, 6)::jsonb, public.as_t0() + make_interval(secs => sec::float8));
			edited := true;
			states := concat_ws(' ', states, 'e');
			CONTINUE;
		END IF;
		sec := CASE WHEN step LIKE '%@%' THEN split_part(step, '@', 2)::numeric ELSE sec + 10 END;
		step := split_part(step, '@', 1);
		INSERT INTO public.as_feed (feed, n, labels, value, error, raises)
		SELECT 'f', sec,
			CASE WHEN p LIKE '%=%' THEN jsonb_build_object('l', split_part(p, '=', 1)) END,
			CASE WHEN p IN ('E', 'X', 'null') THEN NULL WHEN p LIKE '%=%' THEN nullif(split_part(p, '=', 2), 'null')::float8 ELSE p::float8 END,
			CASE WHEN p = 'E' THEN 'broken' END, CASE WHEN p = 'X' THEN 'raised' END
		FROM string_to_table(step, ',') AS p WHERE p <> '-';
		PERFORM monitoring.evaluate_alerts(public.as_t0() + make_interval(secs => sec::float8));
		states := concat_ws(' ', states, coalesce((
			SELECT string_agg(concat(s.series_labels ->> 'l', CASE s.origin WHEN 'no_data' THEN 'N' WHEN 'rule_error' THEN 'E' END,
				CASE s.state WHEN 'pending' THEN 'p' WHEN 'firing' THEN 'F' ELSE 'r' END), '+' ORDER BY s.series_labels::text)
			FROM monitoring.alert_states AS s), '.'));
	END LOOP;
	transitions := (SELECT string_agg(format('%s:%s%s>%s(%s)', extract(epoch FROM h.at - public.as_t0())::int,
			CASE WHEN h.series_labels <> '{}' THEN h.series_labels::text END, h.from_state, h.to_state, h.reason), ' ' ORDER BY h.id)
		FROM monitoring.alert_history AS h);
	IF edited OR steps LIKE '%@%' THEN
		backtest := '';
	ELSE
		backtest := CASE WHEN
			(SELECT jsonb_agg(to_jsonb(b) ORDER BY b.at, b.labels, b.to_state)
			FROM monitoring.backtest_rule('rule', public.as_t0() + '10 seconds'::interval, public.as_t0() + make_interval(secs => sec::float8),
				'10 seconds') AS b
			WHERE b.labels IS NOT NULL)
			IS NOT DISTINCT FROM
			(SELECT jsonb_agg(to_jsonb(w) ORDER BY w.at, w.labels, w.to_state)
			FROM (SELECT h.at, h.labels, h.from_state, h.to_state, h.reason, h.value, h.threshold, h.details FROM monitoring.alert_history AS h) AS w)
			THEN 'same' ELSE 'differs' END;
	END IF;
	PERFORM monitoring.drop_alert_rule('rule');
	DELETE FROM monitoring.alert_history;
	DELETE FROM monitoring.alert_states;
END $$;

\pset format unaligned
\pset fieldsep ' | '
-- the window's value against the threshold, for as long as pending_for and keep_firing_for say
SELECT c.options, c.steps, p.* FROM (VALUES
	(1, '{}', '5 5.1 5 6'),
	(2, '{"pending_for": "20 seconds"}', '6 6 6 4'),
	(3, '{"pending_for": "20.001 seconds"}', '6 6 6 6'),
	(4, '{"pending_for": "20 seconds"}', '6 6 4 6 6 4 6'),
	(5, '{"keep_firing_for": "20 seconds"}', '6 4 4 4 4'),
	(6, '{"keep_firing_for": "20 seconds"}', '6 4 4 6 4 4 4'),
	(7, '{"threshold": 9, "resolve_threshold": 7}', '9 10 8 7.1 7 8 10'),
	(8, '{"op": "<", "resolve_threshold": 7}', '5 4 6 6.9 7'),
	(9, '{"op": ">=", "resolve_threshold": 5}', '5 5 4'),
	(10, '{"op": "=", "threshold": 0}', '0 -0 1'),
	(11, '{}', 'a=6,b=4 a=4,b=6 a=6,b=6'),
	(12, '{}', 'Infinity -Infinity'),
	(13, '{"pending_for": "20 seconds", "keep_firing_for": "20 seconds"}', '6 6 6@30 6@5 4@10 4@30 4@40')
) AS c (n, options, steps) CROSS JOIN LATERAL public.as_play(c.options::jsonb, c.steps) AS p ORDER BY c.n;

-- without data: NaN and null are no data, and zero is not
SELECT c.options, c.steps, p.* FROM (VALUES
	(1, '{"max_age": "20 seconds"}', '6 - - - -'),
	(2, '{"max_age": "20 seconds"}', '6 NaN null - -'),
	(3, '{"max_age": "20 seconds"}', '6 - - 6 - - 4'),
	(4, '{"max_age": "0"}', '6 - 6'),
	(5, '{"max_age": "20 seconds", "pending_for": "20 seconds"}', '6 - - 6 4'),
	(6, '{"max_age": "20 seconds", "pending_for": "60 seconds"}', '6 - - - 6'),
	(7, '{"max_age": "20 seconds", "keep_firing_for": "30 seconds"}', '6 - 4 4 4 4'),
	(8, '{"max_age": "20 seconds", "keep_firing_for": "40 seconds"}', '6 4 - - -'),
	(9, '{"max_age": "20 seconds", "no_data": "alerting"}', '6 - - - - 4'),
	(10, '{"max_age": "20 seconds", "no_data": "alerting", "pending_for": "30 seconds"}', '6 - - - 4'),
	(11, '{"max_age": "20 seconds", "no_data": "alerting", "pending_for": "10 seconds"}', '4 - - - - 4 -'),
	(12, '{"max_age": "20 seconds", "no_data": "keep"}', '6 - - - - - 6 4'),
	(13, '{"max_age": "20 seconds", "no_data": "keep", "pending_for": "20 seconds"}', '6 - - - - - 6'),
	(14, '{"max_age": "20 seconds", "no_data": "alert"}', '6 - - - - 6 4'),
	(15, '{"max_age": "20 seconds", "no_data": "alert"}', '4 - - - 4 - 4'),
	(16, '{"max_age": "20 seconds", "no_data": "alert"}', 'a=6,b=6,c=4 a=6 a=6 a=6 a=6,b=4'),
	(17, '{"max_age": "20 seconds", "no_data": "alert"}', '- - - edit:{"no_data":"ok"} -'),
	(18, '{"max_age": "20 seconds"}', '4 - - -'),
	(19, '{"max_age": "20 seconds", "no_data": "alert", "keep_firing_for": "10 seconds"}', '- - - 4 4')
) AS c (n, options, steps) CROSS JOIN LATERAL public.as_play(c.options::jsonb, c.steps) AS p ORDER BY c.n;

-- errors: told, raised, too many label sets, the same label set twice
SELECT c.options, c.steps, p.* FROM (VALUES
	(1, '{}', '6 E X 6 4'),
	(2, '{"pending_for": "20 seconds"}', '6 E E 6'),
	(3, '{"on_error": "ok"}', '6 E 6'),
	(4, '{"on_error": "ok", "keep_firing_for": "20 seconds"}', '6 X E X'),
	(5, '{"on_error": "alerting"}', '6 E E 4'),
	(6, '{"on_error": "alerting", "pending_for": "20 seconds"}', '6 E E 4'),
	(7, '{"on_error": "alerting", "pending_for": "20 seconds"}', '4 E X E 4'),
	(8, '{"on_error": "alert"}', '6 E E 6 4'),
	(9, '{"on_error": "alert", "pending_for": "10 seconds"}', '4 X 4 X E X 4'),
	(10, '{"max_instances": 2}', 'a=6,b=6 a=4,b=4,c=6 a=6,b=4'),
	(11, '{"max_instances": 2, "on_error": "alert"}', 'a=6,b=6 a=4,b=4,c=6 a=6,b=4'),
	(12, '{}', 'a=6 a=4,a=6 a=4'),
	(13, '{"on_error": "alert"}', 'a=6,a=6 a=6'),
	(14, '{"on_error": "alert", "no_data": "alert", "max_age": "10 seconds"}', '6 - - E 6'),
	(15, '{"on_error": "ok", "no_data": "alert", "max_age": "10 seconds"}', '6 - - E 6'),
	(16, '{"on_error": "alert"}', 'E edit:{"on_error":"keep"} E')
) AS c (n, options, steps) CROSS JOIN LATERAL public.as_play(c.options::jsonb, c.steps) AS p ORDER BY c.n;

-- edits: pending_for raised takes a firing alert back, lowered lets a pending one fire; other changes leave timers alone, but
-- what is read about something else ends alerts
SELECT c.options, c.steps, p.* FROM (VALUES
	(1, '{"pending_for": "10 seconds"}', '6 6 edit:{"pending_for":"30s"} 6 6 6'),
	(2, '{"pending_for": "10 seconds"}', '6 6 6 6 edit:{"pending_for":"30s"} 6'),
	(3, '{"pending_for": "60 seconds"}', '6 6 6 edit:{"pending_for":"20s"} 6'),
	(4, '{"pending_for": "20 seconds"}', '6 6 edit:{"threshold":5.5,"severity":"high","extra_labels":{"x":"y"}} 6'),
	(5, '{"pending_for": "20 seconds"}', '6 edit:{"threshold":7} 6 8 8 8'),
	(6, '{}', '6 edit:{"threshold":7} 6'),
	(7, '{"keep_firing_for": "60 seconds"}', '6 4 edit:{"pending_for":"300s"} 4 edit:{"keep_firing_for":"20s"} 4'),
	(8, '{}', '6 edit:{"labels":{"x":"y"}} 6'),
	(9, '{}', '6 edit:{"params":{"feed":"other"}} -'),
	(10, '{"pending_for": "20 seconds"}', '6 edit:{"enabled":false} 6 edit:{"enabled":true} 6 6 6'),
	(11, '{"max_age": "10 seconds", "no_data": "alert"}', '- - edit:{"pending_for":"60s"} - 4')
) AS c (n, options, steps) CROSS JOIN LATERAL public.as_play(c.options::jsonb, c.steps) AS p ORDER BY c.n;

-- an outage of more than an hour lets timers start over, a shorter one and a restart of the session do not
SELECT c.options, c.steps, p.* FROM (VALUES
	(1, '{"pending_for": "2 hours"}', '6 6@3610 6@7209 6@7210'),
	(2, '{"pending_for": "2 hours"}', '6 6@3611 6@7210 6@10810 6@10811'),
	(3, '{"keep_firing_for": "2 hours"}', '6 4@20 4@4000 4@7600 4@11199 4@11200'),
	(4, '{"max_age": "2 hours"}', '6 -@20 -@4000 -@7600 -@11199 -@11200')
) AS c (n, options, steps) CROSS JOIN LATERAL public.as_play(c.options::jsonb, c.steps) AS p ORDER BY c.n;

-- a rule is evaluated when a multiple of its interval has passed; at once in a new session, and when the clock was set back
CREATE TABLE public.as_calls (rule bigint, at timestamptz);
CREATE FUNCTION public.as_logged(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$ INSERT INTO public.as_calls SELECT r, at FROM unnest(rule_ids) AS r RETURNING rule, '{}'::jsonb, 0::float8, NULL::jsonb, NULL::text $$;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('as_logged', 'public.as_logged');
SELECT count(monitoring.create_alert_rule('every ' || n, NULL, NULL, '1 minute', '>', 5, kind => 'as_logged', every => '1 minute')) FROM generate_series(1, 100) AS n;
SELECT monitoring.create_alert_rule('always', NULL, NULL, '1 minute', '>', 5, kind => 'as_logged') > 0;
SELECT monitoring.remember_evaluation(NULL);
SELECT sum(monitoring.evaluate_alerts(public.as_t0() + make_interval(secs => n))) FROM generate_series(0, 180) AS n;
SELECT d.name LIKE 'every%' AS every, count(DISTINCT d.id) AS rules, count(*) FILTER (WHERE c.before IS NULL AND c.at = public.as_t0()) AS at_once,
	count(*) FILTER (WHERE c.before = public.as_t0() AND c.at - c.before <= '1 minute') AS within_the_first_minute,
	min(c.at - c.before) FILTER (WHERE c.before > public.as_t0()) AS apart, max(c.at - c.before) FILTER (WHERE c.before > public.as_t0()) AS apart
FROM (SELECT rule, at, lag(at) OVER (PARTITION BY rule ORDER BY at) AS before FROM public.as_calls) AS c
JOIN monitoring.alert_rule_defs AS d ON d.id = c.rule
GROUP BY 1 ORDER BY 1;
SELECT max(rules) < 12 AS spread FROM (SELECT count(*) AS rules FROM public.as_calls WHERE at > public.as_t0() GROUP BY at) AS c;
TRUNCATE public.as_calls;
SELECT sum(monitoring.evaluate_alerts(public.as_t0() + make_interval(secs => n))) FROM unnest('{180,150,150,150}'::int[]) WITH ORDINALITY AS u (n, i);
SELECT at - public.as_t0() AS after, count(*) FROM public.as_calls GROUP BY 1 ORDER BY 1;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

-- rules take turns, whatever random() says
SELECT count(DISTINCT f.first) AS come_first, count(DISTINCT f.last) AS come_last
FROM generate_series(1, 200) AS n
CROSS JOIN LATERAL (
	SELECT (array_agg(id ORDER BY t))[1] AS first, (array_agg(id ORDER BY t DESC))[1] AS last
	FROM (SELECT id, monitoring.turn(id, public.as_t0() + make_interval(secs => n)) AS t FROM generate_series(1, 5) AS id) AS r) AS f;

-- an evaluation that is rolled back has not been
SELECT monitoring.remember_evaluation(NULL);
SELECT monitoring.previous_evaluation() IS NULL AS none;
SELECT monitoring.remember_evaluation('2030-01-01');
BEGIN;
SELECT monitoring.remember_evaluation('2030-01-02');
SAVEPOINT a;
SELECT monitoring.remember_evaluation('2030-01-03');
SELECT monitoring.previous_evaluation() = '2030-01-03' AS inner_one;
ROLLBACK TO a;
SELECT monitoring.previous_evaluation() < '2030-01-03' AS not_the_inner_one;
SELECT monitoring.remember_evaluation('2030-01-04');
ROLLBACK;
SELECT monitoring.previous_evaluation() = '2030-01-01' AS the_one_before;
BEGIN;
SAVEPOINT b;
SELECT monitoring.remember_evaluation('2030-01-05');
RELEASE b;
COMMIT;
SELECT monitoring.previous_evaluation() = '2030-01-05' AS committed;
SELECT monitoring.remember_evaluation(NULL);

-- outside active times a rule is not evaluated, and its alerts end; clocks go forward in the night to the 30th
INSERT INTO public.as_feed SELECT 'hours', extract(epoch FROM t - public.as_t0()), '{}', 6 FROM unnest('{2031-03-29 07:59:59+00,2031-03-29 08:00:00+00,
	2031-03-29 15:59:59+00,2031-03-29 16:00:00+00,2031-03-30 06:59:59+00,2031-03-30 07:00:00+00,2031-03-30 14:59:59+00,2031-03-30 15:00:00+00,
	2031-03-31 07:00:00+00}'::timestamptz[]) AS t;
SELECT monitoring.create_alert_rule('hours', NULL, NULL, '1 minute', '>', 5, kind => 'as', params => '{"feed": "hours"}',
	active_times => '{"times": [{"start": "09:00", "end": "17:00"}], "weekdays": ["saturday", "sunday"], "location": "Europe/Berlin"}') > 0;
SELECT (public.as_t0() + make_interval(secs => n::float8)) AT TIME ZONE 'UTC' AS utc, monitoring.evaluate_alerts(public.as_t0() + make_interval(secs => n::float8)) AS transitions
FROM (SELECT n FROM public.as_feed WHERE feed = 'hours' ORDER BY n) AS f;
SELECT at AT TIME ZONE 'UTC' AS utc, from_state, to_state, reason FROM monitoring.alert_history ORDER BY id;
-- a backtest keeps to them too
SELECT at AT TIME ZONE 'UTC' AS utc, from_state, to_state, reason FROM monitoring.backtest_rule('hours', '2031-03-29 15:59:59+00', '2031-03-29 16:00:01+00', '1 second');
SELECT monitoring.drop_alert_rule('hours');
TRUNCATE monitoring.alert_history;

-- thresholds from a table: the row with the most labels, all of which the alert has; resolve_threshold keeps its distance
CREATE TABLE public.as_limits (l text, region text, most float8);
INSERT INTO public.as_limits VALUES ('a', NULL, 10), ('b', NULL, 10), ('b', 'eu', 20), ('c', 'us', 1), (NULL, 'us', 0);
INSERT INTO public.as_feed SELECT 'limits', n, jsonb_build_object('l', l), v FROM (VALUES (10, 'a', 11), (10, 'b', 11), (10, 'c', 4), (10, 'd', 6),
	(20, 'a', 9.5), (20, 'b', 21), (20, 'c', 6), (20, 'd', 4.5), (30, 'a', 9), (30, 'b', 19), (30, 'c', 4), (30, 'd', 4)) AS f (n, l, v);
SELECT monitoring.create_alert_rule('limits', NULL, NULL, '1 minute', '>', 5, kind => 'as', params => '{"feed": "limits"}', resolve_threshold => 4,
	extra_labels => '{"region": "eu"}', threshold_sql => 'SELECT l, region, most FROM public.as_limits', annotations => '{"summary": "{{l}} {{value}} > {{threshold}}"}') > 0;
SELECT monitoring.evaluate_alerts(public.as_t0() + make_interval(secs => n)) AS transitions FROM unnest('{10,20,30}'::int[]) AS n;
SELECT extract(epoch FROM at - public.as_t0())::int AS at, labels ->> 'l' AS l, from_state, to_state, value, threshold, annotations ->> 'summary' AS summary
FROM monitoring.alert_history ORDER BY id;
SELECT labels, value, op, threshold, breach FROM monitoring.preview_rule('limits', at => public.as_t0() + '10 seconds'::interval);
SELECT labels ->> 'l' AS l, threshold FROM monitoring.alerts ORDER BY 1;
-- no finite threshold, two for the same labels, and a table that is gone are the rule's errors, and no other's
SELECT monitoring.create_alert_rule('other', NULL, NULL, '1 minute', '>', 4, kind => 'as', params => '{"feed": "limits"}') > 0;
INSERT INTO public.as_limits VALUES ('e', NULL, 'NaN');
SELECT monitoring.evaluate_alerts(public.as_t0() + '10 seconds'::interval) AS transitions;
SELECT name, last_error, firing FROM monitoring.alert_rules ORDER BY name;
UPDATE public.as_limits SET l = 'a', most = 3 WHERE l = 'e';
SELECT monitoring.evaluate_alerts(public.as_t0() + '20 seconds'::interval) AS transitions;
SELECT last_error FROM monitoring.alert_rules WHERE name = 'limits';
ALTER TABLE public.as_limits RENAME TO as_gone;
SELECT monitoring.evaluate_alerts(public.as_t0() + '20 seconds'::interval) AS transitions;
SELECT last_error FROM monitoring.alert_rules WHERE name = 'limits';
ALTER TABLE public.as_gone RENAME TO as_limits;
DELETE FROM public.as_limits WHERE most = 3;
SELECT monitoring.evaluate_alerts(public.as_t0() + '20 seconds'::interval) AS transitions;
SELECT last_error FROM monitoring.alert_rules WHERE name = 'limits';
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- what an alert costs: the row that fits it best; what goes wrong with it endangers nothing
CREATE TABLE public.as_costs (l text, users int, revenue numeric);
INSERT INTO public.as_costs VALUES ('a', 7, 12.5), (NULL, 100, 1000);
SELECT count(monitoring.create_alert_rule(n, NULL, NULL, '1 minute', '>', 5, kind => 'as', params => '{"feed": "limits"}', impact_sql => q,
	annotations => '{"summary": "{{l}}: {{users}} users"}', runbook_url => 'https://runbooks.example/{{l}}'))
FROM (VALUES ('costs', 'SELECT l, users, revenue FROM public.as_costs'), ('one row', 'SELECT sum(users) AS users FROM public.as_costs'),
	('no row', 'SELECT 1 AS users WHERE false'), ('broken', 'SELECT 1 / (count(*) - count(*)) AS users FROM public.as_costs')) AS r (n, q);
SELECT monitoring.evaluate_alerts(public.as_t0() + '10 seconds'::interval) AS transitions;
SELECT h.rule_name, h.series_labels, h.details = s.details AS stored, h.details, h.annotations FROM monitoring.alert_history AS h JOIN monitoring.alert_states AS s USING (alert_id)
WHERE h.series_labels ->> 'l' IN ('a', 'b') ORDER BY 1, 2;
-- it stays with the alert to its end
SELECT monitoring.evaluate_alerts(public.as_t0() + '30 seconds'::interval) AS transitions;
SELECT series_labels, details -> 'impact' AS impact FROM monitoring.alert_history WHERE rule_name = 'costs' AND to_state = 'resolved' ORDER BY 1;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- what kinds should not return
INSERT INTO public.as_feed VALUES ('odd', 10, '[1]', 6), ('fine', 10, '{"l": "a"}', 6);
SELECT count(monitoring.create_alert_rule(n, NULL, NULL, '1 minute', '>', 5, kind => 'as', params => jsonb_build_object('feed', n), every => '1 hour'))
FROM unnest('{odd,fine}'::text[]) AS n;
SELECT monitoring.remember_evaluation(NULL);
SELECT monitoring.evaluate_alerts(public.as_t0() + '10 seconds'::interval) AS transitions;
SELECT name, firing, last_error FROM monitoring.alert_rules ORDER BY name;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- a policy's alert says what it is about; labels are only text, and not much of them
INSERT INTO public.as_feed VALUES ('texts', 10, '{"l": "{{value}} {{$labels.m}}", "m": "\u003cscript\u003e"}', 6);
SELECT count(monitoring.create_alert_rule(n, NULL, NULL, '1 minute', '>', 5, kind => 'as', params => jsonb_build_object('feed', n), no_data => 'alert', max_age => '0',
	extra_labels => '{"team": "{{m}} of {{alertname}}", "site": "a"}',
	annotations => '{"summary": "{{l}}|{{ $labels.m }}|{{value}}|{{nosuch}}", "title": "{{alertname}} {{severity}} {{reason}} {{value}}"}'))
FROM unnest('{texts,silent}'::text[]) AS n;
SELECT monitoring.evaluate_alerts(public.as_t0() + '10 seconds'::interval) AS transitions;
SELECT monitoring.evaluate_alerts(public.as_t0() + '20 seconds'::interval) AS transitions;
SELECT rule_name, to_state, labels, annotations FROM monitoring.alert_history ORDER BY id;
SELECT labels FROM monitoring.alerts WHERE rule = 'texts' ORDER BY labels;
SELECT octet_length(monitoring.fill_text(repeat('{{a}}', 1000), jsonb_build_object('a', repeat('x', 4000)))) AS bytes,
	octet_length(monitoring.fill_texts(jsonb_build_object('1', repeat('{{a}}', 12), '2', repeat('{{a}}', 12)), jsonb_build_object('a', repeat('x', 4000)))::text) AS bytes;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

DELETE FROM monitoring.alert_rule_kinds WHERE kind LIKE 'as%';
DROP FUNCTION public.as_play, public.as_values, public.as_logged, public.as_t0;
DROP TABLE public.as_feed, public.as_calls, public.as_limits, public.as_costs;
TRUNCATE monitoring.alert_history, monitoring.alert_states;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
