-- What people do with alerts, on virtual time in another century: until then every time is in the future.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set VERBOSITY terse
\i sql/no_evaluation.inc
-- what other tests have left
DELETE FROM monitoring.alert_history; DELETE FROM monitoring.alert_events; DELETE FROM monitoring.alert_handling;
\i sql/samples.inc
\set t0 '2100-01-01 00:00+00'
\set eval 'SELECT monitoring.evaluate_alerts(:''t0''::timestamptz + :''after''::interval);'
\set alerts 'SELECT rule, labels, state, acknowledged_by, acknowledged_at - :''t0''::timestamptz AS acknowledged, acknowledged_until - :''t0''::timestamptz AS until, assignee, false_positive, suppressed FROM monitoring.alerts ORDER BY rule, labels::text;'
\set quiet 'SELECT l.labels ->> ''alertname'' AS rule, l.labels ->> ''host'' AS host, s.reason, s.details FROM monitoring.alert_suppressions(NULL, :''t0''::timestamptz + :''after''::interval) AS s JOIN monitoring.alert_labels(NULL) AS l USING (alert_id) ORDER BY 1, 2, 3;'
-- the event of an alert, with its name and the role; not what the extension notes
\set events 'SELECT e.at - :''t0''::timestamptz AS after, e.kind, e.actor, e.details FROM monitoring.alert_events AS e WHERE e.actor IS NOT NULL ORDER BY e.id;'
SELECT setval('monitoring.alert_id_seq', 1000);
CREATE ROLE mon_test_alice;
CREATE ROLE mon_test_bob;
CREATE ROLE mon_test_reader;
SELECT monitoring.grant_access(r, 'responder') FROM unnest('{mon_test_alice,mon_test_bob}'::name[]) AS r;
SELECT monitoring.grant_access('mon_test_reader', 'viewer');
\t on

SELECT count(monitoring.create_alert_rule(n, NULL, NULL, '1 hour', '>', 10, kind => 'sample', receivers => '{}', pending_for => p::interval,
	severity => s, labels => '{"env": "prod"}', extra_labels => '{"team": "shop"}'))
FROM (VALUES ('disk', '0', 'high'), ('slow', '30 seconds', 'low')) AS r (n, p, s);
INSERT INTO samples VALUES ('disk', '{"host": "a"}', 20), ('disk', '{"host": "b"}', 20), ('slow', '{}', 20);
\set after 1s
:eval
:alerts
SELECT alert_id AS a FROM monitoring.alerts WHERE labels ->> 'host' = 'a' \gset
SELECT alert_id AS b FROM monitoring.alerts WHERE labels ->> 'host' = 'b' \gset
SELECT alert_id AS slow FROM monitoring.alerts WHERE rule = 'slow' \gset

-- acknowledged once: who comes second is told so
SET ROLE mon_test_alice;
SELECT monitoring.acknowledge_alert(:a, :'t0'::timestamptz + '1 hour', ' looking at it ', at => :'t0'::timestamptz + '2s');
SET ROLE mon_test_bob;
SELECT monitoring.acknowledge_alert(:a, :'t0'::timestamptz + '30 minutes', at => :'t0'::timestamptz + '3s');
SELECT monitoring.acknowledge_alert(:a, :'t0'::timestamptz + '1 hour', at => :'t0'::timestamptz + '3s');
-- for longer
SELECT monitoring.acknowledge_alert(:a, :'t0'::timestamptz + '2 hours', at => :'t0'::timestamptz + '4s');
RESET ROLE;
\set after 5s
:alerts
:quiet
-- it expires, and can then be acknowledged anew, this time until the alert is resolved
\set after 7199s
:quiet
\set after 7200s
:quiet
SELECT monitoring.acknowledge_alert(:a, at => :'t0'::timestamptz + '7200s');
SELECT monitoring.acknowledge_alert(:a, at => :'t0'::timestamptz + '7300s');
\set after '100 days'
:quiet
:events
-- taken back
SELECT monitoring.unacknowledge_alert(:a, 'not mine', at => :'t0'::timestamptz + '3 hours');
SELECT monitoring.unacknowledge_alert(:a, at => :'t0'::timestamptz + '3 hours');
SELECT monitoring.unacknowledge_alert(:b);
\set after '3 hours'
:quiet
SELECT acknowledged_at, first_acknowledged_at - :'t0' FROM monitoring.alert_handling WHERE alert_id = :a;

-- it ends with the episode: what comes back is another alert
SELECT monitoring.acknowledge_alert(:a, at => :'t0'::timestamptz + '3 hours'), monitoring.assign_alert(:a, 'carol', at => :'t0'::timestamptz + '3 hours');
UPDATE samples SET value = 1 WHERE labels = '{"host": "a"}';
\set after '4 hours'
:eval
:alerts
:quiet
UPDATE samples SET value = 30 WHERE labels = '{"host": "a"}';
\set after '4 hours 1s'
:eval
:alerts
:quiet
SELECT monitoring.acknowledge_alert(:a);
SELECT monitoring.note_alert(:a, E'it was\n\tthe backup', at => :'t0'::timestamptz + '5 hours');
SELECT alert_id AS a FROM monitoring.alerts WHERE labels ->> 'host' = 'a' \gset
DELETE FROM monitoring.alert_events;

-- assigned, snoozed, dismissed
SELECT monitoring.assign_alert(:a, 'carol', 'knows disks', :'t0'), monitoring.assign_alert(:a, 'carol', at => :'t0'), monitoring.assign_alert(:a, NULL, at => :'t0'),
	monitoring.assign_alert(:a, 'dave', at => :'t0');
SELECT monitoring.snooze_alert(:b, '10 minutes', 'after lunch', :'t0') - :'t0';
SELECT monitoring.snooze_alert(:b, '5 minutes', at => :'t0') - :'t0';
SELECT monitoring.dismiss_alert(:a, 'known', :'t0'), monitoring.dismiss_alert(:a, at => :'t0');
\set after 299s
:quiet
\set after 300s
:quiet
SELECT monitoring.snooze_alert(:b, '10 minutes', at => :'t0') - :'t0', monitoring.unsnooze_alert(:b, 'back', :'t0'::timestamptz + '1s'), monitoring.unsnooze_alert(:b, at => :'t0'::timestamptz + '1s'),
	monitoring.undismiss_alert(:a, 'no', :'t0'), monitoring.undismiss_alert(:a, at => :'t0');
\set after 1s
:quiet
:alerts
:events
DELETE FROM monitoring.alert_events;

-- many at once, by labels
SELECT monitoring.acknowledge_alerts('{"alertname": "disk"}', comment => 'all', at => :'t0'), monitoring.acknowledge_alerts('{"alertname": "disk"}', at => :'t0');
SELECT monitoring.snooze_alerts('{"severity": {"=~": "low|high"}, "host": {"!=": "a"}}', '1 hour', at => :'t0');
SELECT monitoring.assign_alerts('{"team": "shop"}', 'erin', at => :'t0'), monitoring.dismiss_alerts('{"host": "b"}', at => :'t0'), monitoring.dismiss_alerts('{"host": "nosuch"}');
:alerts
:events
DELETE FROM monitoring.alert_events;

-- resolved by hand: what still breaches begins anew, after pending_for
DELETE FROM monitoring.alert_history;
SELECT monitoring.close_alert(:a, 'fixed', :'t0'::timestamptz + '6 hours');
SELECT monitoring.close_alert(:slow, at => :'t0'::timestamptz + '6 hours');
:alerts
SELECT monitoring.close_alert(:a);
SELECT rule_name, from_state, to_state, reason, at - :'t0' AS after, value, threshold FROM monitoring.alert_history ORDER BY id;
\set after '6 hours 1s'
:eval
\set after '6 hours 32s'
:eval
SELECT rule, labels ->> 'host', state, fired_at - :'t0' AS fired, acknowledged_by, assignee FROM monitoring.alerts ORDER BY 1, 2;
-- one that recovers stays ended
UPDATE samples SET value = 1;
SELECT monitoring.close_alerts('{"alertname": {"exists": true}}', at => :'t0'::timestamptz + '7 hours');
\set after '7 hours 1s'
:eval
SELECT rule, labels ->> 'host', state FROM monitoring.alerts ORDER BY 1, 2;
SELECT version FROM monitoring.alert_rule_defs ORDER BY name;

-- false positives, also afterwards
SELECT monitoring.mark_false_positive(:b, true, 'the sensor', :'t0'::timestamptz + '7 hours 1s'), monitoring.mark_false_positive(:b, at => :'t0'::timestamptz + '7 hours 2s'),
	monitoring.mark_false_positive(:b, false, at => :'t0'::timestamptz + '7 hours 3s'), monitoring.mark_false_positive(:b, false, at => :'t0'::timestamptz + '7 hours 4s'),
	monitoring.mark_false_positive(:b, at => :'t0'::timestamptz + '7 hours 5s');
:alerts

-- the story of one alert
SELECT t.at - :'t0'::timestamptz AS after, t.kind, t.actor, t.details FROM monitoring.alert_timeline(:b) AS t WHERE t.actor IS NOT NULL OR t.details ? 'from';
SELECT count(*) FROM monitoring.alert_timeline(-1);

-- bad input
SELECT monitoring.acknowledge_alert(-1);
SELECT monitoring.acknowledge_alert(NULL);
SELECT monitoring.snooze_alert(:b, '1 hour');
UPDATE samples SET value = 20;
\set after '8 hours'
:eval
SELECT alert_id AS a FROM monitoring.alerts WHERE labels ->> 'host' = 'a' \gset
SELECT monitoring.acknowledge_alert(:a, now() - '1 hour'::interval);
SELECT monitoring.acknowledge_alert(:a, 'infinity');
SELECT monitoring.snooze_alert(:a, '-1 hour');
SELECT monitoring.snooze_alert(:a, '0');
SELECT monitoring.snooze_alert(:a, NULL);
SELECT monitoring.assign_alert(:a, '');
SELECT monitoring.assign_alert(:a, E'a\nb');
SELECT monitoring.note_alert(:a, '  ');
SELECT monitoring.note_alert(:a, repeat('x', 10001));
SELECT monitoring.note_alert(:a, E'\x01');
SELECT monitoring.acknowledge_alerts('5');
SELECT monitoring.acknowledge_alerts(NULL);
SELECT monitoring.acknowledge_alerts('{"host": {"=~": "("}}');
SELECT count(*) FROM monitoring.alerts WHERE acknowledged_at IS NOT NULL OR assignee IS NOT NULL;

-- who may: viewers read
SET ROLE mon_test_reader;
SELECT count(*) FROM monitoring.alerts;
SELECT count(*) > 0 FROM monitoring.alert_timeline(:b);
SELECT count(*) FROM monitoring.alert_suppressions(NULL);
SELECT monitoring.acknowledge_alert(:a);
SELECT monitoring.note_alert(:a, 'x');
SELECT monitoring.close_alerts('{}');
SELECT count(*) FROM monitoring.alert_handling;
SET ROLE mon_test_alice;
SELECT monitoring.acknowledge(ARRAY[:a], NULL, NULL, now(), 'somebody else');
SELECT monitoring.acknowledge_alert(:a, at => :'t0'::timestamptz + '8 hours');
RESET ROLE;
SELECT rule, acknowledged_by FROM monitoring.alerts WHERE acknowledged_at IS NOT NULL;

-- what was done is forgotten a day after history has, unless the alert is still there
SELECT count(*) FROM monitoring.alert_handling;
SELECT monitoring.forget_alerts(:'t0'::timestamptz + '91 days');
SELECT count(*) FROM monitoring.alert_handling;
SELECT monitoring.forget_alerts(:'t0'::timestamptz + '91 days 6 hours');
SELECT count(*) FROM monitoring.alert_handling;
SELECT monitoring.forget_alerts(:'t0'::timestamptz + '1000 days');
SELECT h.alert_id = :a, acknowledged_by FROM monitoring.alert_handling AS h;

SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'sample';
DROP FUNCTION public.sample_values;
DROP TABLE public.samples;
DELETE FROM monitoring.alert_history; DELETE FROM monitoring.alert_events; DELETE FROM monitoring.alert_handling;
SELECT count(monitoring.revoke_access(r)) FROM unnest('{mon_test_alice,mon_test_bob,mon_test_reader}'::name[]) AS r;
DROP ROLE mon_test_alice, mon_test_bob, mon_test_reader;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
