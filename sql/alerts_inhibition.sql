-- Alerts kept quiet by others that fire: inhibition rules, with Alertmanager's cases, and parents of rules.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set VERBOSITY terse
\i sql/no_evaluation.inc
\i sql/samples.inc
\set eval 'SELECT count(*) FROM (SELECT monitoring.evaluate_alerts(''2100-01-01''::timestamptz + n * ''1 s''::interval) FROM nextval(''public.step'') AS n) AS e;'
\set quiet 'SELECT l.labels - ''{severity}''::text[] AS alert, s.reason, s.details ->> ''rule'' AS rule, b.labels - ''{severity}''::text[] AS by FROM monitoring.alert_labels(NULL) AS l JOIN monitoring.alert_suppressions(NULL) AS s USING (alert_id) JOIN monitoring.alert_labels(NULL) AS b ON b.alert_id = (s.details ->> ''alert_id'')::bigint ORDER BY 1, 2;'
CREATE SEQUENCE public.step;
\t on
-- every label set is an alert of the rule a
SELECT monitoring.create_alert_rule('a', NULL, NULL, '1 hour', '>', 10, kind => 'sample', receivers => '{}') > 0;

-- no source: nothing is quiet
SELECT monitoring.create_inhibition_rule('r1', '{"s1": "1"}', '{"t1": "1"}', '{e}'), monitoring.create_inhibition_rule('r2', '{"s2": "1"}', '{"t2": "1"}', '{e}');
INSERT INTO samples SELECT 'a', l::jsonb, 20 FROM unnest('{"{\"t1\": \"1\", \"e\": \"1\"}","{\"t2\": \"1\", \"e\": \"1\"}"}'::text[]) AS l;
:eval
:quiet
-- a source of each, of which the second is a target too; then targets: plain, with noise, of both rules, of none, source and target, with another e
INSERT INTO samples SELECT 'a', l::jsonb, 20 FROM unnest(ARRAY['{"s1": "1", "t1": "2", "e": "1"}', '{"s2": "1", "t2": "1", "e": "1", "n": "source"}',
	'{"t1": "1", "t3": "1", "e": "1"}', '{"t1": "1", "t2": "1", "e": "1"}', '{"t1": "0", "e": "1"}', '{"s1": "1", "t1": "1", "e": "1"}', '{"s2": "1", "t2": "1", "e": "1"}', '{"t1": "1", "e": "0"}']) AS l;
:eval
:quiet
-- the source ends
DELETE FROM samples WHERE labels = '{"s1": "1", "t1": "2", "e": "1"}';
:eval
SELECT count(*) FROM monitoring.alerts WHERE state = 'resolved';
UPDATE monitoring.alert_rule_defs SET max_age = '0';
:eval
:quiet
TRUNCATE samples;
:eval

-- a missing label equals an empty one; no labels to be equal: any source will do
SELECT monitoring.drop_inhibition_rule('r1'), monitoring.drop_inhibition_rule('r2');
SELECT monitoring.create_inhibition_rule('dc and host', '{"role": "switch"}', '{"role": {"!=": "switch"}}', '{host,dc,dc}');
INSERT INTO samples SELECT 'a', l::jsonb, 20 FROM unnest(ARRAY['{"role": "switch", "dc": "eu"}', '{"role": "web", "dc": "eu"}', '{"role": "web", "dc": "eu", "host": ""}', '{"role": "web", "dc": "eu", "host": "x"}', '{"role": "web"}', '{"dc": "eu"}']) AS l;
:eval
:quiet
SELECT monitoring.create_inhibition_rule('all', '{"role": "switch"}', '{"role": "web"}');
:quiet
SELECT monitoring.enable_inhibition_rule('dc and host', false);
:quiet
SELECT monitoring.drop_inhibition_rule('all'), monitoring.enable_inhibition_rule('dc and host');
-- a source that is itself quiet keeps others quiet; one that only pends does not
SELECT monitoring.create_silence('{"role": "switch"}', '1 hour') > 0, monitoring.acknowledge_alerts('{"role": "switch"}');
SELECT l.labels ->> 'role' AS role, l.labels ->> 'host' AS host, string_agg(s.reason, ' ' ORDER BY s.reason) FROM monitoring.alert_labels(NULL) AS l JOIN monitoring.alert_suppressions(NULL) AS s USING (alert_id) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT labels ->> 'role', labels ->> 'host', suppressed FROM monitoring.alerts WHERE state = 'firing' ORDER BY labels::text;
UPDATE monitoring.alert_states SET state = 'pending' WHERE series_labels ->> 'role' = 'switch';
:quiet
SELECT name, source, target, equal, enabled, created_by = current_user FROM monitoring.inhibition_rules;
SELECT monitoring.drop_inhibition_rule('dc and host');
DELETE FROM samples; DELETE FROM monitoring.silence_defs;
:eval

-- by name and severity of the rule
SELECT monitoring.create_alert_rule(n, NULL, NULL, '1 hour', '>', 10, kind => 'sample', receivers => '{}', severity => s, max_age => '0', extra_labels => '{"team": "db"}')
FROM (VALUES ('full', 'critical'), ('filling', 'low')) AS r (n, s) \g /dev/null
SELECT monitoring.create_inhibition_rule('severity', '{"severity": "critical", "alertname": {"=~": "fu.*"}}', '{"severity": {"=~": "low|info"}, "alertname": "filling"}', '{disk,team}');
INSERT INTO samples SELECT r, jsonb_build_object('disk', d), 20 FROM (VALUES ('full', 'sda'), ('filling', 'sda'), ('filling', 'sdb')) AS v (r, d);
:eval
:quiet
SELECT monitoring.drop_inhibition_rule('severity');
TRUNCATE samples;
:eval

-- the same on random alerts and rules as what trying all pairs finds
SELECT setseed(0.25);
INSERT INTO samples SELECT 'a', l, 20 FROM (SELECT DISTINCT (SELECT coalesce(jsonb_object_agg('l' || k, v), '{}') FROM (SELECT k, (array['a', 'b', ''])[1 + floor(random() * 3)::int + 0 * n] AS v FROM generate_series(0, 3) AS k WHERE random() < 0.7 + 0 * n) AS p) AS l
	FROM generate_series(1, 60) AS n) AS x;
:eval
SELECT monitoring.create_inhibition_rule('r' || n, jsonb_build_object('l' || n % 4, jsonb_build_object(o[1 + floor(random() * 4)::int], (array['a', 'b', '.*', 'a|b'])[1 + floor(random() * 4)::int])),
	jsonb_build_object('l' || (n / 4) % 4, jsonb_build_object(o[1 + floor(random() * 4)::int], 'a')), ARRAY(SELECT 'l' || k FROM generate_series(0, 4) AS k WHERE random() < 0.5 + 0 * n))
FROM generate_series(1, 40) AS n, (VALUES ('{=,!=,=~,!~}'::text[])) AS v (o) \g /dev/null
CREATE TEMP TABLE pairs AS
	SELECT DISTINCT t.alert_id, i.name, s.alert_id AS source
	FROM monitoring.inhibition_rules AS i, monitoring.alert_labels(NULL) AS s, monitoring.alert_labels(NULL) AS t
	WHERE monitoring.labels_match(s.labels, i.source) AND monitoring.labels_match(t.labels, i.target)
		AND NOT (monitoring.labels_match(t.labels, i.source) AND monitoring.labels_match(s.labels, i.target))
		AND NOT EXISTS (SELECT FROM unnest(i.equal) AS e WHERE coalesce(s.labels ->> e, '') <> coalesce(t.labels ->> e, ''));
DO $$
DECLARE
	rule text;
	wrong bigint := 0;
	found bigint := 0;
BEGIN
	-- one rule at a time, since an alert names one of those that inhibit it
	FOR rule IN SELECT name FROM monitoring.inhibition_rules LOOP
		PERFORM monitoring.enable_inhibition_rule(name, name = rule) FROM monitoring.inhibition_rules;
		wrong := wrong + (SELECT count(*) FROM (SELECT alert_id FROM monitoring.alert_suppressions(NULL) EXCEPT SELECT alert_id FROM pairs WHERE name = rule) AS d)
			+ (SELECT count(*) FROM (SELECT alert_id FROM pairs WHERE name = rule EXCEPT SELECT alert_id FROM monitoring.alert_suppressions(NULL)) AS d)
			+ (SELECT count(*) FROM monitoring.alert_suppressions(NULL) AS s WHERE NOT EXISTS (SELECT FROM pairs AS p WHERE p.alert_id = s.alert_id AND p.source = (s.details ->> 'alert_id')::bigint AND p.name = rule));
		found := found + (SELECT count(*) FROM monitoring.alert_suppressions(NULL));
	END LOOP;
	IF wrong > 0 OR found < 100 THEN
		RAISE EXCEPTION '% wrong, % found', wrong, found;
	END IF;
END $$;
SELECT count(monitoring.enable_inhibition_rule(name)) FROM monitoring.inhibition_rules;
SELECT count(*) FROM (SELECT alert_id FROM monitoring.alert_suppressions(NULL) EXCEPT SELECT alert_id FROM pairs) AS d;
SELECT count(*) FROM (SELECT alert_id FROM pairs EXCEPT SELECT alert_id FROM monitoring.alert_suppressions(NULL)) AS d;
-- asked for one by one, too
SELECT count(*) FROM monitoring.alert_labels(NULL) AS l WHERE EXISTS (SELECT FROM monitoring.alert_suppressions(ARRAY[l.alert_id])) <> (l.alert_id IN (SELECT alert_id FROM pairs));
SELECT count(monitoring.drop_inhibition_rule(name)) FROM monitoring.inhibition_rules;
TRUNCATE samples;
:eval

-- bad input
SELECT monitoring.create_inhibition_rule('', '{"a": "b"}', '{"c": "d"}');
SELECT monitoring.create_inhibition_rule('x', '{}', '{"c": "d"}');
SELECT monitoring.create_inhibition_rule('x', '{"a": "b"}', NULL);
SELECT monitoring.create_inhibition_rule('x', '{"a": {"=~": "(a)\\1"}}', '{"c": "d"}');
SELECT monitoring.create_inhibition_rule('x', '{"a": "b"}', '{"c": "d"}', '{a,NULL}');
SELECT monitoring.create_inhibition_rule('x', '{"a": "b"}', '{"c": "d"}', NULL);
SELECT monitoring.create_inhibition_rule('x', '{"a": "b"}', '{"c": "d"}');
SELECT monitoring.create_inhibition_rule('x', '{"a": "b"}', '{"c": "d"}');
SELECT monitoring.drop_inhibition_rule('x');
SELECT monitoring.drop_inhibition_rule('x');
SELECT monitoring.enable_inhibition_rule('x');

-- parents: host -> db -> query; they must agree on the labels that both have
SELECT monitoring.create_alert_rule(n, NULL, NULL, '1 hour', '>', 10, kind => 'sample', receivers => '{}', max_age => '0', parent => p, labels => s::jsonb)
FROM (VALUES ('host', NULL, '{}'), ('db', 'host', '{}'), ('query', 'db', '{"app": "shop"}'), ('other', NULL, '{}')) AS v (n, p, s) \g /dev/null
INSERT INTO samples VALUES ('db', '{"host": "a", "db": "x"}', 20), ('db', '{"host": "b", "db": "x"}', 20), ('query', '{"db": "x", "q": "1"}', 20), ('query', '{"db": "y", "host": "a"}', 20), ('query', '{"q": "2"}', 20),
	('query', '{"db": "z", "host": "c"}', 20), ('other', '{"host": "a"}', 20);
:eval
:quiet
-- over two generations
INSERT INTO samples VALUES ('host', '{"host": "a"}', 20), ('host', '{"host": "c"}', 20);
:eval
:quiet
-- a parent without labels in common is the parent of all
DELETE FROM samples WHERE rule IN ('host', 'db');
INSERT INTO samples VALUES ('db', '{}', 20);
:eval
:quiet
SELECT rule, labels ->> 'db', suppressed FROM monitoring.alerts WHERE state = 'firing' ORDER BY 1, 2;
-- a parent that is acknowledged still is one; one that ended is not
SELECT monitoring.acknowledge_alerts('{"alertname": "db"}');
SELECT suppressed, count(*) FROM monitoring.alerts WHERE state = 'firing' GROUP BY 1 ORDER BY 1;
SELECT monitoring.close_alerts('{"alertname": "db"}', at => '2100-01-02');
SELECT suppressed, count(*) FROM monitoring.alerts WHERE state = 'firing' GROUP BY 1 ORDER BY 1;
-- a rule that is gone is nobody's parent
SELECT monitoring.drop_alert_rule('db');
:quiet

SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'sample';
DROP FUNCTION public.sample_values;
DROP TABLE public.samples;
DROP SEQUENCE public.step;
DELETE FROM monitoring.alert_history; DELETE FROM monitoring.alert_events; DELETE FROM monitoring.alert_handling;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
