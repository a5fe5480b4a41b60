-- Silences: matchers, states, and which alerts they hold, on virtual time in another century.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set VERBOSITY terse
\i sql/no_evaluation.inc
\i sql/samples.inc
\set t0 '2100-01-01 00:00+00'
\set eval 'SELECT monitoring.evaluate_alerts(:''t0''::timestamptz + :''after''::interval);'
\set held 'SELECT s.silence_id - :first + 1 AS silence, string_agg(l.labels ->> ''host'', '' '' ORDER BY l.labels ->> ''host'') FROM monitoring.silenced_alerts(:''t0''::timestamptz + :''after''::interval) AS s JOIN monitoring.alert_labels(NULL) AS l USING (alert_id) GROUP BY 1 ORDER BY 1;'
SELECT setval('monitoring.silence_id_seq', 1000);
CREATE ROLE mon_test_alice;
CREATE ROLE mon_test_reader;
SELECT monitoring.grant_access('mon_test_alice', 'responder'), monitoring.grant_access('mon_test_reader', 'viewer');
\t on

SELECT count(monitoring.create_alert_rule(n, NULL, NULL, '1 hour', '>', 10, kind => 'sample', receivers => '{}', severity => s, pending_for => p::interval, labels => '{"env": "prod"}'))
FROM (VALUES ('disk', 'critical', '0'), ('slow', 'low', '0'), ('later', 'low', '1 hour')) AS r (n, s, p);
INSERT INTO samples SELECT 'disk', jsonb_build_object('host', 'web-' || n, 'dc', 'eu'), 20 FROM generate_series(1, 3) AS n;
INSERT INTO samples VALUES ('slow', '{"host": "db-1", "rack": ""}', 20), ('slow', '{"host": "web-10"}', 20), ('later', '{"host": "web-1"}', 20);
\set after 1s
:eval

-- every operator; a missing label is an empty one
SELECT nextval('monitoring.silence_id_seq') + 1 AS first \gset
CREATE TABLE public.cases (id bigint, matchers jsonb);
INSERT INTO cases SELECT monitoring.create_silence(m::jsonb, '1 hour', at => :'t0'), m::jsonb FROM unnest(ARRAY[
	'{"host": "web-1"}', '{"host": {"=": "web-1"}}', '{"host": {"!=": "web-1"}, "env": "prod"}', '{"host": {"=~": "web-."}}', '{"host": {"=~": "web-.*"}, "alertname": "slow"}',
	'{"host": {"=~": "eb-1"}}', '{"host": {"!~": "web-.*"}, "env": "prod"}', '{"host": {"=~": "web-.*", "!~": ".*[23]"}}', '{"severity": "critical", "dc": {"!=": "us"}}',
	'{"severity": {"=~": "critical|low"}, "dc": ""}', '{"severity": {"exists": true}, "dc": {"=": ""}}', '{"env": "prod", "rack": {"exists": true}}', '{"env": "prod", "rack": {"=~": ".+"}}', '{"env": "prod", "rack": {"exists": false}}',
	'{"nosuch": {"=~": ".+"}}', '{"nosuch": "x"}', '{"env": {"=~": "(?i)PROD"}, "dc": {"!~": ""}}', '{"alertname": {"exists": true}}']) AS m;
:held
-- the same as one by one
SELECT s.id - :first + 1, l.labels ->> 'host' FROM cases AS s CROSS JOIN monitoring.alert_labels(NULL) AS l WHERE l.state = 'firing' AND monitoring.labels_match(l.labels, s.matchers)
EXCEPT SELECT s.silence_id - :first + 1, l.labels ->> 'host' FROM monitoring.silenced_alerts(:'t0') AS s JOIN monitoring.alert_labels(NULL) AS l USING (alert_id);
DELETE FROM monitoring.silence_defs;

-- the same on random labels and selectors: what the index finds, and what trying all pairs does
SELECT setseed(0.5);
CREATE TABLE public.label_sets AS
	SELECT n, (SELECT jsonb_object_agg(k, v) FROM (SELECT 'l' || (random() * 4)::int AS k, (array['', 'a', 'b', 'ab', 'abc'])[1 + (random() * 4)::int + 0 * n] AS v FROM generate_series(0, (random() * 4)::int + 0 * n)) AS p) AS labels
	FROM generate_series(1, 200) AS n;
CREATE TABLE public.selectors AS
	SELECT n, (SELECT jsonb_object_agg(k, jsonb_build_object(o, v)) FROM (
		SELECT 'l' || (random() * 5)::int AS k, (array['=', '!=', '=~', '!~'])[1 + floor(random() * 4)::int] AS o, (array['', 'a', 'b', 'a.*', '.+', 'ab|b', 'zz'])[1 + floor(random() * 7)::int + 0 * n] AS v
		FROM generate_series(0, (random() * 2)::int + 0 * n)) AS p) AS selector
	FROM generate_series(1, 300) AS n;
INSERT INTO public.selectors VALUES (301, '{}'), (302, '{"l1": "a", "l2": {"exists": true}}'), (303, '{"l1": {"exists": false}}'), (304, '{"l1": ""}'), (305, '{"l1": "a", "l2": "b"}');
CREATE TEMP TABLE found AS SELECT m.* FROM (SELECT array_agg(labels ORDER BY n) AS labels FROM label_sets) AS l, (SELECT array_agg(selector ORDER BY n) AS selectors FROM selectors) AS s,
	monitoring.match_labels(l.labels, s.selectors) AS m;
CREATE TEMP TABLE tried AS SELECT l.n::int AS labels_no, s.n AS selector_no FROM label_sets AS l, selectors AS s WHERE monitoring.labels_match(l.labels, s.selector);
SELECT count(*) > 1000, count(DISTINCT labels_no) > 100, count(DISTINCT selector_no) > 100, count(*) = count(DISTINCT (labels_no, selector_no)) FROM found;
SELECT count(*) FROM (TABLE found EXCEPT TABLE tried) AS d;
SELECT count(*) FROM (TABLE tried EXCEPT TABLE found) AS d;
SELECT count(*) FROM (SELECT labels_no, min(selector_no) FROM found GROUP BY 1 EXCEPT
	SELECT m.* FROM (SELECT array_agg(labels ORDER BY n) AS labels FROM label_sets) AS l, (SELECT array_agg(selector ORDER BY n) AS selectors FROM selectors) AS s, monitoring.match_labels(l.labels, s.selectors, true) AS m) AS d;
SELECT * FROM monitoring.match_labels('{}', '{}');
SELECT * FROM monitoring.match_labels(ARRAY['{"a": 1, "b": true, "c": null}', '{}']::jsonb[], ARRAY['{"a": "1", "b": "true"}', NULL, '{"a": {"!=": "1"}}', '{"c": {"exists": true}}']::jsonb[]);
SELECT * FROM monitoring.match_labels(ARRAY['5']::jsonb[], '{}');
SELECT * FROM monitoring.match_labels(ARRAY[NULL]::jsonb[], '{}');
SELECT * FROM monitoring.match_labels('{}', ARRAY['{"a": {"~": "x"}}']::jsonb[]);
DROP TABLE public.label_sets, public.selectors, public.cases;

-- pending, active, expired; the end is excluded
SET ROLE mon_test_alice;
SELECT monitoring.create_silence('{"host": "web-1"}', '1 hour', ' new disks ', :'t0'::timestamptz + '1 hour', at => :'t0') AS first \gset
SELECT monitoring.create_silence('{"host": {"=~": "web-.*"}}', comment => 'move', starts_at => :'t0', ends_at => :'t0'::timestamptz + '90 minutes', at => :'t0') - :first;
RESET ROLE;
\set after 3599s
:held
\set after 1h
:held
\set after 5399s
:held
\set after 5400s
:held
\set after 7200s
:held
-- why: the one that lasts longest is told of
SELECT l.labels ->> 'host', s.reason, s.details - 'silence' FROM monitoring.alert_suppressions(NULL, :'t0'::timestamptz + '1 hour') AS s JOIN monitoring.alert_labels(NULL) AS l USING (alert_id) ORDER BY 1, l.state;
SELECT n, (SELECT count(*) FROM monitoring.alert_suppressions(NULL, :'t0'::timestamptz + n * '1 second'::interval)) FROM unnest('{-1,0,5399,5400,7199,7200}'::int[]) AS n;
SELECT s.reason, s.details ->> 'comment' FROM monitoring.alerts AS a CROSS JOIN monitoring.alert_suppressions(ARRAY[a.alert_id], :'t0'::timestamptz + '1 hour') AS s WHERE a.labels ->> 'host' = 'web-2';
SELECT id - :first AS id, state, matchers, starts_at, ends_at, created_by, comment, alerts, created_at, updated_by, updated_at FROM monitoring.silences ORDER BY id;

-- extended and ended
SELECT monitoring.extend_silence(:first, '1 hour', :'t0');
SET ROLE mon_test_alice;
SELECT monitoring.expire_silence(:first + 1, :'t0'::timestamptz + '10 minutes');
RESET ROLE;
SELECT monitoring.expire_silence(:first, :'t0'::timestamptz + '20 minutes');
\set after 10m
:held
SELECT id - :first AS id, starts_at - :'t0', ends_at - :'t0', updated_by = current_user, updated_at - :'t0' FROM monitoring.silences ORDER BY id;
SELECT monitoring.expire_silence(:first, :'t0'::timestamptz + '20 minutes');
SELECT monitoring.extend_silence(:first, '1 hour', :'t0'::timestamptz + '20 minutes');
SELECT monitoring.extend_silence(-1, '1 hour');
SELECT monitoring.expire_silence(NULL);
DELETE FROM monitoring.silence_defs;

-- by the real clock
SELECT monitoring.create_silence('{"host": "web-1"}', '1 hour') AS first \gset
SELECT monitoring.create_silence('{"host": {"=~": "web-.*"}}', '1 hour', starts_at => clock_timestamp() + '1 day') - :first;
SELECT monitoring.create_silence('{"host": {"=~": "web-.*"}}', '1 hour', at => clock_timestamp() - '10 minutes'::interval) - :first;
SELECT monitoring.expire_silence(:first + 2, clock_timestamp() - '1 minute'::interval);
SELECT id - :first AS id, state, alerts FROM monitoring.silences ORDER BY id;
SELECT labels ->> 'host', rule, state, suppressed FROM monitoring.alerts ORDER BY 1, 2;
SELECT monitoring.acknowledge_alerts('{"alertname": "disk"}');
SELECT suppressed, count(*) FROM monitoring.alerts GROUP BY 1 ORDER BY 1;
SELECT monitoring.expire_silence(:first);
SELECT suppressed, count(*) FROM monitoring.alerts GROUP BY 1 ORDER BY 1;

-- an alert that ended, and one whose rule is gone, are known by their labels for two days
SELECT alert_id AS a FROM monitoring.alerts WHERE rule = 'disk' AND labels ->> 'host' = 'web-3' \gset
SELECT monitoring.create_silence('{"host": "web-3"}', ends_at => '2101-01-01', at => :'t0') > 0;
SELECT monitoring.close_alert(:a, at => :'t0'::timestamptz + '3 hours');
SELECT reason FROM monitoring.alert_suppressions(ARRAY[:a], :'t0'::timestamptz + '4 hours') ORDER BY 1;
SELECT monitoring.drop_alert_rule('disk');
SELECT alert_id = :a, state, labels FROM monitoring.alert_labels(ARRAY[:a, -1], :'t0'::timestamptz + '4 hours');
SELECT reason FROM monitoring.alert_suppressions(ARRAY[:a], :'t0'::timestamptz + '2 days') ORDER BY 1;
SELECT reason FROM monitoring.alert_suppressions(ARRAY[:a], :'t0'::timestamptz + '3 days') ORDER BY 1;
SELECT count(*) FROM monitoring.alert_suppressions('{}');

-- bad input
SELECT monitoring.create_silence('{}', '1 hour');
SELECT monitoring.create_silence('{"host": {"!=": "web-1"}}', '1 hour');
SELECT monitoring.create_silence('{"host": {"=~": ".*"}}', '1 hour');
SELECT monitoring.create_silence('{"host": ""}', '1 hour');
SELECT monitoring.create_silence('[]', '1 hour');
SELECT monitoring.create_silence(NULL, '1 hour');
SELECT monitoring.create_silence('{"host": "x"}');
SELECT monitoring.create_silence('{"host": "x"}', '1 hour', ends_at => '2100-01-01');
SELECT monitoring.create_silence('{"host": "x"}', '-1 hour');
SELECT monitoring.create_silence('{"host": "x"}', '0');
SELECT monitoring.create_silence('{"host": "x"}', starts_at => '2100-01-02', ends_at => '2100-01-01');
SELECT monitoring.create_silence('{"host": "x"}', starts_at => '2100-01-01', ends_at => '2100-01-01');
SELECT monitoring.create_silence('{"host": "x"}', starts_at => '2020-01-01', ends_at => '2020-01-02');
SELECT monitoring.create_silence('{"host": "x"}', ends_at => 'infinity');
SELECT monitoring.create_silence('{"host": "x"}', '1 hour', starts_at => '-infinity');
SELECT monitoring.create_silence('{"host": {"~": "x"}}', '1 hour');
SELECT monitoring.create_silence('{"host": {"=~": 5}}', '1 hour');
SELECT monitoring.create_silence('{"host": ["a"]}', '1 hour');
SELECT monitoring.create_silence(jsonb_build_object('host', jsonb_build_object('=~', repeat('x', 65536))), '1 hour');
SELECT monitoring.create_silence('{"host": "x"}', '1 hour', E'a\x02');
-- regular expressions that blow up
SELECT monitoring.create_silence('{"host": {"=~": "("}}', '1 hour');
SELECT monitoring.create_silence('{"host": {"=~": "(.*)(.*)\\1\\2"}}', '1 hour');
SELECT monitoring.create_silence('{"host": {"=~": "(((x{1,255}){1,255}){1,255})"}}', '1 hour');
SELECT monitoring.create_silence('{"host": {"=~": "((x{1,20}){1,20}){1,20}"}}', '1 hour');
SELECT monitoring.create_silence('{"host": {"=~": "(((x|y|z)*)*){1,200}"}}', '1 hour');
SELECT monitoring.create_silence(jsonb_build_object('host', jsonb_build_object('=~', (SELECT string_agg(md5(n::text), '|') FROM generate_series(1, 1000) AS n))), '1 hour');
SELECT monitoring.create_silence(jsonb_build_object('host', jsonb_build_object('=~', (SELECT string_agg(md5(n::text), '|') FROM generate_series(1, 200) AS n))), '1 hour') > 0;

-- who may
SET ROLE mon_test_reader;
SELECT count(*) > 0 FROM monitoring.silences;
SELECT monitoring.create_silence('{"host": "x"}', '1 hour');
SELECT monitoring.expire_silence(:first);
SELECT count(*) FROM monitoring.silence_defs;
SET ROLE mon_test_alice;
SELECT monitoring.set_time_interval('x', '{}');
SELECT monitoring.create_inhibition_rule('x', '{"a": "b"}', '{"c": "d"}');
RESET ROLE;

-- forgotten a day after history
SELECT monitoring.forget_alerts(clock_timestamp() + '90 days');
SELECT count(*) FROM monitoring.silences WHERE id = :first + 2;
SELECT monitoring.forget_alerts(clock_timestamp() + '91 days');
SELECT count(*) FROM monitoring.silences WHERE id = :first + 2;
SELECT count(*) FROM monitoring.silences WHERE id = :first + 1;

SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'sample';
DROP FUNCTION public.sample_values;
DROP TABLE public.samples;
DELETE FROM monitoring.alert_history; DELETE FROM monitoring.alert_events; DELETE FROM monitoring.alert_handling; DELETE FROM monitoring.silence_defs;
SELECT count(monitoring.revoke_access(r)) FROM unnest('{mon_test_alice,mon_test_reader}'::name[]) AS r;
DROP ROLE mon_test_alice, mon_test_reader;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
