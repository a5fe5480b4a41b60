-- When a group of alerts is sent: Alertmanager's decision table row by row, then the life of groups on virtual time. Everything
-- is rolled back; the real clock is far behind, so that no worker comes in between.
\set VERBOSITY terse
\pset format unaligned
SET client_min_messages = warning;

-- told: was the receiver told before, of how many firing alerts; firing and resolved alerts now, and how many of them it was not told of
SELECT row_number() OVER () AS n, t.*, monitoring.send_reason(t.told, t.told_firing, t.firing, t.new_firing, t.resolved, t.new_resolved, t.send_resolved, t.repeat_due) AS reason
FROM (VALUES
	-- never told: only firing alerts are worth it
	(false, 0, 1, 1, 0, 0, true, false), (false, 0, 2, 2, 1, 1, true, true), (false, 0, 0, 0, 1, 1, true, true), (false, 0, 0, 0, 0, 0, true, true),
	-- new firing alerts, also while others are resolved, also when all that were known are
	(true, 1, 2, 1, 0, 0, true, false), (true, 1, 2, 1, 1, 1, false, false), (true, 0, 1, 1, 0, 0, true, false), (true, 0, 1, 1, 1, 1, true, false),
	-- nothing fires: told once, whatever send_resolved says; and not when nobody knew that something fired
	(true, 1, 0, 0, 1, 1, true, false), (true, 1, 0, 0, 1, 1, false, false), (true, 0, 0, 0, 1, 1, true, true), (true, 0, 0, 0, 1, 0, true, true),
	-- some resolved: only to those who want to know, and only once
	(true, 2, 1, 0, 1, 1, true, false), (true, 2, 1, 0, 1, 1, false, false), (true, 2, 1, 0, 1, 0, true, false),
	-- fired and resolved beside others that fire
	(true, 1, 1, 0, 1, 1, true, false),
	-- nothing changed: the repeat interval decides
	(true, 1, 1, 0, 0, 0, true, false), (true, 1, 1, 0, 0, 0, true, true), (true, 2, 1, 0, 1, 1, false, true), (true, 2, 1, 0, 0, 0, true, true),
	-- everything suppressed
	(true, 2, 0, 0, 0, 0, true, true)
) AS t (told, told_firing, firing, new_firing, resolved, new_resolved, send_resolved, repeat_due);

SELECT every, a, monitoring.next_tick('2030-01-07 10:00+00', every, a::timestamptz) - '2030-01-07 10:00+00' AS tick
FROM (VALUES ('5 min'::interval, '2030-01-07 10:00+00'), ('5 min', '2030-01-07 10:00:01+00'), ('5 min', '2030-01-07 10:05+00'), ('5 min', '2030-01-07 14:01+00'),
	('7.5 s', '2030-01-07 10:00:08+00'), ('5 min', '2030-01-07 09:52+00'), ('0', '2030-01-07 10:00:08+00')) AS t (every, a);
SELECT digest, monitoring.next_digest(digest, '2030-01-09 10:20+00') AT TIME ZONE 'UTC' AS due
FROM unnest('{1 min,1 hour,1 day,7 days}'::interval[]) AS digest;

BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
SELECT monitoring.create_receiver('all', 'webhook', 'https://a.example.com/'), monitoring.create_receiver('firing', 'webhook', 'https://b.example.com/', '{"send_resolved": false}');
SELECT monitoring.update_route('medium', '{"group_wait": "30 s", "group_interval": "5 min", "repeat_interval": "12 min"}');
SELECT pg_temp.rule('a'), pg_temp.rule('b');

-- group_wait collects, group_interval spaces, repeat_interval is rounded up to intervals: 12 minutes become 15
SAVEPOINT s;
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT pg_temp.fire('a', 'y');
SELECT * FROM pg_temp.at('29 s');
SELECT * FROM pg_temp.at('30 s');
SELECT pg_temp.fire('a', 'z'), pg_temp.ok('a', 'y'), pg_temp.fire('b', 'x');
SELECT * FROM pg_temp.at('31 s');
SELECT group_key, route, firing, resolved, to_char(flushed_at, 'HH24:MI:SS') AS flushed, to_char(due_at, 'HH24:MI:SS') AS due, notified FROM monitoring.notification_groups ORDER BY id;
SELECT * FROM pg_temp.at('61 s');
SELECT * FROM pg_temp.at('5 min 29 s');
SELECT * FROM pg_temp.at('5 min 30 s');
SELECT * FROM pg_temp.at('15 min');
SELECT * FROM pg_temp.at('16 min');
SELECT * FROM pg_temp.at('20 min 29 s');
SELECT * FROM pg_temp.at('20 min 30 s');
-- the end, told at the next interval, and the group is gone
SELECT pg_temp.ok('a', 'x', 'z');
SELECT * FROM pg_temp.at('21 min');
SELECT * FROM pg_temp.at('25 min 30 s');
SELECT labels ->> 'alertname' AS rule, opened_at IS NULL AS empty, to_char(due_at, 'HH24:MI:SS') AS due FROM monitoring.alert_groups ORDER BY id;
-- a new episode is a first notification again, after group_wait
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('26 min');
SELECT * FROM pg_temp.at('26 min 30 s');
SELECT pg_temp.ok('a'), pg_temp.ok('b');
SELECT * FROM pg_temp.at('27 min');
SELECT * FROM pg_temp.at('40 min');
SELECT * FROM pg_temp.at('2 hours');
SELECT (SELECT count(*) FROM monitoring.alert_groups) AS groups, (SELECT count(*) FROM monitoring.alert_group_members) AS members, (SELECT count(*) FROM monitoring.alert_group_receivers) AS known;
ROLLBACK TO s;

-- what fires and ends before anybody was told is not told; nor is a flap within an interval, unless another alert fires beside it
SELECT pg_temp.fire('a');
SELECT * FROM pg_temp.at('0 s');
SELECT pg_temp.ok('a');
SELECT * FROM pg_temp.at('10 s');
SELECT * FROM pg_temp.at('30 s');
SELECT count(*) AS groups FROM monitoring.alert_groups;
SELECT pg_temp.fire('a');
SELECT * FROM pg_temp.at('60 s');
SELECT * FROM pg_temp.at('90 s');
SELECT pg_temp.ok('a');
SELECT * FROM pg_temp.at('2 min');
SELECT pg_temp.fire('a');
SELECT * FROM pg_temp.at('3 min');
SELECT * FROM pg_temp.at('6 min 30 s');
SELECT pg_temp.fire('a', 'y');
SELECT * FROM pg_temp.at('7 min');
SELECT pg_temp.ok('a', 'y');
SELECT * FROM pg_temp.at('8 min');
SELECT * FROM pg_temp.at('11 min 30 s');
-- the episodes: what was told and what was known already
SELECT kind, details ->> 'status' AS status, details -> 'receivers' -> 'all' ->> 'reason' AS reason, count(*) FROM monitoring.alert_events
WHERE at >= '2030-01-07' AND kind <> 'routed' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
ROLLBACK TO s;

-- Silences, inhibition and snoozing take alerts away when the group is due: what is held back is told at the first interval
-- at which it no longer is.
SELECT monitoring.create_silence('{"host": "x"}', '10 min', at => '2030-01-07') > 0;
SELECT pg_temp.fire('a', 'x', 'y');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
SELECT group_key, firing, suppressed, notified FROM monitoring.notification_groups;
SELECT * FROM pg_temp.at('5 min 30 s');
SELECT * FROM pg_temp.at('10 min 29 s');
SELECT * FROM pg_temp.at('10 min 30 s');
-- what begins later keeps the repetition and the end of x from being told, and those of y not
SELECT monitoring.create_silence('{"host": "x"}', '1 hour', at => '2030-01-07 00:11+00') > 0;
SELECT pg_temp.ok('a', 'x');
SELECT * FROM pg_temp.at('12 min');
SELECT * FROM pg_temp.at('15 min 30 s');
SELECT * FROM pg_temp.at('25 min 30 s');
SELECT pg_temp.ok('a', 'y');
SELECT * FROM pg_temp.at('26 min');
SELECT * FROM pg_temp.at('30 min 30 s');
-- whoever was not told of the end is told that it fires again (Alertmanager would wait for the repeat interval)
SELECT monitoring.update_route('medium', '{"repeat_interval": "10 hours"}');
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('2 hours');
SELECT * FROM pg_temp.at('2 hours 30 s');
SELECT monitoring.create_silence('{"host": "x"}', '1 hour', at => '2030-01-07 02:01+00') > 0;
SELECT pg_temp.ok('a', 'x');
SELECT * FROM pg_temp.at('2 hours 2 min');
SELECT * FROM pg_temp.at('2 hours 6 min');
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('4 hours');
SELECT * FROM pg_temp.at('4 hours 30 s');
SELECT at - '2030-01-07' AS after, kind, details ->> 'reason' AS reason, details ->> 'silence' IS NOT NULL AS silence FROM monitoring.alert_events
WHERE kind IN ('suppressed', 'unsuppressed') AND at >= '2030-01-07' ORDER BY id;
ROLLBACK TO s;
SELECT monitoring.create_inhibition_rule('site down', '{"alertname": "b"}', '{"alertname": "a"}', '{host}');
SELECT pg_temp.fire('a', 'x', 'y'), pg_temp.fire('b', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
SELECT pg_temp.ok('b', 'x');
SELECT * FROM pg_temp.at('1 min');
SELECT * FROM pg_temp.at('5 min 30 s');
ROLLBACK TO s;

-- told of, then quiet while others are told of: told again at the first interval at which nothing holds it back
SELECT monitoring.update_route('medium', '{"repeat_interval": "10 hours"}');
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
SELECT monitoring.create_silence('{"host": "x"}', '10 min', at => '2030-01-07 00:01+00') > 0;
SELECT pg_temp.fire('a', 'y');
SELECT * FROM pg_temp.at('2 min');
SELECT * FROM pg_temp.at('5 min 30 s');
SELECT * FROM pg_temp.at('10 min 30 s');
SELECT * FROM pg_temp.at('15 min 30 s');
SELECT * FROM pg_temp.at('20 min 30 s');
ROLLBACK TO s;
-- what people take back counts at once where there is no interval
SELECT pg_temp.rule('own', 'low', '{all}');
CREATE FUNCTION pg_temp.x() RETURNS bigint LANGUAGE sql AS $$ SELECT alert_id FROM monitoring.alerts WHERE state = 'firing' AND labels ->> 'host' = 'x' $$;
SELECT pg_temp.fire('own', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT monitoring.snooze_alert(pg_temp.x(), '1 hour', at => '2030-01-07 00:00:01+00');
SELECT pg_temp.fire('own', 'y');
SELECT * FROM pg_temp.at('2 s');
SELECT monitoring.unsnooze_alert(pg_temp.x(), at => '2030-01-07 00:00:03+00');
SELECT * FROM pg_temp.at('3 s');
SELECT monitoring.dismiss_alert(pg_temp.x(), at => '2030-01-07 00:00:04+00'), pg_temp.ok('own', 'y');
SELECT * FROM pg_temp.at('5 s');
SELECT monitoring.undismiss_alert(pg_temp.x(), at => '2030-01-07 00:00:06+00');
SELECT * FROM pg_temp.at('6 s');
SELECT monitoring.create_silence('{"host": "x"}', '1 hour', at => '2030-01-07 00:00:07+00') > 0, pg_temp.fire('own', 'y');
SELECT * FROM pg_temp.at('8 s');
SELECT monitoring.expire_silence(max(id), at => '2030-01-07 00:00:09+00') FROM monitoring.silence_defs;
SELECT * FROM pg_temp.at('9 s');
SELECT monitoring.create_inhibition_rule('y', '{"host": "y"}', '{"host": "x"}'), pg_temp.fire('own', 'z');
SELECT * FROM pg_temp.at('10 s');
SELECT monitoring.drop_inhibition_rule('y');
SELECT * FROM pg_temp.at('11 s');
SELECT pg_temp.ok('own', 'y', 'z'), monitoring.acknowledge_alert(pg_temp.x(), at => '2030-01-07 00:00:12+00');
SELECT * FROM pg_temp.at('12 s');
SELECT * FROM pg_temp.at('5 hours');
SELECT monitoring.unacknowledge_alert(pg_temp.x(), at => '2030-01-07 05:00:01+00');
SELECT * FROM pg_temp.at('5 hours 1 s');
ROLLBACK TO s;

-- acknowledged: no repetition, but news and the end are told; and once it expires, what is overdue is repeated
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
SELECT monitoring.acknowledge_alert(alert_id, until => '2030-01-07 00:32+00', at => '2030-01-07 00:01+00') FROM monitoring.alerts;
SELECT * FROM pg_temp.at('15 min 30 s');
SELECT * FROM pg_temp.at('20 min 30 s');
SELECT pg_temp.fire('a', 'y');
SELECT * FROM pg_temp.at('21 min');
SELECT * FROM pg_temp.at('25 min 30 s');
SELECT monitoring.acknowledge_alert(alert_id, at => '2030-01-07 00:26+00') FROM monitoring.alerts WHERE labels ->> 'host' = 'y';
SELECT * FROM pg_temp.at('30 min 30 s');
SELECT * FROM pg_temp.at('35 min 30 s');
SELECT * FROM pg_temp.at('40 min 30 s');
SELECT monitoring.acknowledge_alert(alert_id, at => '2030-01-07 00:41+00') FROM monitoring.alerts WHERE labels ->> 'host' = 'x';
SELECT * FROM pg_temp.at('1 hour 30 s');
SELECT pg_temp.ok('a', 'x', 'y');
SELECT * FROM pg_temp.at('1 hour 1 min');
SELECT * FROM pg_temp.at('1 hour 5 min 30 s');
ROLLBACK TO s;

-- mute and active times count when the group is due, across a change of the clocks (Berlin: 31 March 2030, 02:00 becomes 03:00)
SELECT monitoring.set_time_interval('night', '{"times": [{"start": "01:00", "end": "04:00"}], "location": "Europe/Berlin"}');
SELECT monitoring.create_route('berlin', '{"alertname": "a"}', mute_times => '{night}', group_wait => '0', group_interval => '10 min', place => 1) > 0;
SELECT monitoring.create_route('berlin day', '{"alertname": "b"}', active_times => '{night}', group_wait => '0', group_interval => '10 min', place => 1) > 0;
SELECT pg_temp.fire('a'), pg_temp.fire('b');
SELECT * FROM pg_temp.at('2030-03-31 00:30+00'::timestamptz - '2030-01-07');
SELECT * FROM pg_temp.at('2030-03-31 00:40+00'::timestamptz - '2030-01-07');
SELECT * FROM pg_temp.at('2030-03-31 01:50+00'::timestamptz - '2030-01-07');
SELECT * FROM pg_temp.at('2030-03-31 02:00+00'::timestamptz - '2030-01-07');
SELECT pg_temp.ok('a'), pg_temp.ok('b');
SELECT * FROM pg_temp.at('2030-03-31 02:10+00'::timestamptz - '2030-01-07');
SELECT kind, details ->> 'reason' AS reason, count(*) FROM monitoring.alert_events WHERE kind ~ 'suppressed' AND at >= '2030-01-07' GROUP BY 1, 2 ORDER BY 1, 2;
ROLLBACK TO s;

-- a rule's cooldown instead of the route's repeat interval: of the same alert nobody is told again before it, also when it comes back
SELECT pg_temp.rule('c', repeat_every => '1 hour');
SELECT pg_temp.fire('c');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
SELECT * FROM pg_temp.at('30 min 30 s');
SELECT pg_temp.ok('c');
SELECT * FROM pg_temp.at('31 min');
SELECT * FROM pg_temp.at('35 min 30 s');
SELECT pg_temp.fire('c');
SELECT * FROM pg_temp.at('40 min');
SELECT * FROM pg_temp.at('40 min 30 s');
SELECT * FROM pg_temp.at('55 min 30 s');
SELECT * FROM pg_temp.at('1 hour 29 s');
SELECT * FROM pg_temp.at('1 hour 5 min');
SELECT * FROM pg_temp.at('2 hours');
SELECT * FROM pg_temp.at('2 hours 6 min');
SELECT at - '2030-01-07' AS after, kind, details ->> 'reason' AS reason FROM monitoring.alert_events WHERE kind ~ 'suppressed' AND at >= '2030-01-07' ORDER BY id;
ROLLBACK TO s;

-- rules with receivers of their own: at once, each change; a rule that is dropped tells the end, with the next evaluation
SELECT pg_temp.rule('own', 'low', '{all}'), pg_temp.rule('none', 'critical', '{}');
SELECT pg_temp.fire('own'), pg_temp.fire('none');
SELECT * FROM pg_temp.at('0 s');
SELECT pg_temp.fire('own', 'y');
SELECT * FROM pg_temp.at('1 s');
SELECT pg_temp.ok('own', 'y');
SELECT * FROM pg_temp.at('2 s');
SELECT * FROM pg_temp.at('4 hours 1 s');
SELECT * FROM pg_temp.at('4 hours 2 s');
SELECT monitoring.update_alert_rule('own', '{"receivers": ["firing"]}');
SELECT * FROM pg_temp.at('4 hours 3 s');
SELECT monitoring.update_alert_rule('own', '{"receivers": []}');
SELECT * FROM pg_temp.at('4 hours 4 s');
SELECT monitoring.update_alert_rule('own', '{"receivers": null, "severity": "critical"}');
SELECT * FROM pg_temp.at('4 hours 5 s');
SELECT * FROM pg_temp.at('5 hours');
SELECT monitoring.drop_alert_rule('own');
SELECT * FROM pg_temp.at('6 hours');
ROLLBACK TO s;

-- receivers that come and go: a new one is told of what fires at the next interval, a disabled one of nothing, and when it
-- is back of what it has missed and still holds
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
SELECT monitoring.create_receiver('late', 'webhook', 'https://c.example.com/'), monitoring.enable_receiver('all', false), monitoring.drop_receiver('firing');
SELECT * FROM pg_temp.at('1 min');
SELECT pg_temp.fire('a', 'y');
SELECT * FROM pg_temp.at('2 min');
SELECT * FROM pg_temp.at('5 min 30 s');
SELECT monitoring.enable_receiver('all');
SELECT pg_temp.ok('a', 'x');
SELECT * FROM pg_temp.at('6 min');
SELECT * FROM pg_temp.at('10 min 30 s');
ROLLBACK TO s;

-- routes that change while alerts fire: they are routed anew; whoever was told through a route is told the end, and nothing else
SELECT pg_temp.fire('a', 'x'), pg_temp.fire('b', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
SELECT monitoring.create_route('a', '{"alertname": "a"}', receivers => '{firing}', group_wait => '0', place => 1) > 0;
SELECT * FROM pg_temp.at('1 min');
SELECT r.name, m.state, m.told_at IS NOT NULL AS told FROM monitoring.alert_group_members AS m JOIN monitoring.alert_groups AS g ON g.id = m.group_id JOIN monitoring.routes AS r ON r.id = g.route_id ORDER BY 1, 2;
SELECT * FROM pg_temp.at('15 min 30 s');
SELECT monitoring.drop_route('a');
SELECT pg_temp.fire('a', 'y');
SELECT * FROM pg_temp.at('16 min');
SELECT * FROM pg_temp.at('20 min 30 s');
SELECT monitoring.update_route('medium', '{"receivers": ["firing"]}');
SELECT pg_temp.ok('a', 'x', 'y');
SELECT * FROM pg_temp.at('21 min');
SELECT * FROM pg_temp.at('25 min 30 s');
SELECT * FROM pg_temp.at('26 min');
ROLLBACK TO s;

-- continue: two groups, each with its times; a route with all labels gives each alert a group
SELECT monitoring.create_route('first', '{"alertname": {"=~": "a|b"}}', receivers => '{all}', group_by => '{}', group_wait => '0', continue_matching => true, place => 1) > 0;
SELECT monitoring.create_route('second', '{"alertname": {"!=": "c"}}', receivers => '{firing}', group_by => '{...}', group_wait => '10 s', place => 2) > 0;
SELECT pg_temp.fire('a', 'x', 'y'), pg_temp.fire('b', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('10 s');
SELECT group_key, route FROM monitoring.notification_groups ORDER BY id;
ROLLBACK TO s;

-- after an outage what is due is sent once, and then at its intervals; a transaction that fails leaves nothing of a notification
SELECT pg_temp.fire('a', 'x');
SELECT * FROM pg_temp.at('0 s');
SAVEPOINT t;
SELECT * FROM pg_temp.at('6 hours');
ROLLBACK TO t;
SELECT * FROM pg_temp.at('6 hours');
SELECT * FROM pg_temp.at('6 hours 1 s');
SELECT pg_temp.fire('a', 'y');
SELECT * FROM pg_temp.at('6 hours 1 min');
SELECT * FROM pg_temp.at('6 hours 5 min');
-- a clock that is set back delays nothing that is new
SELECT pg_temp.fire('a', 'z');
SELECT * FROM pg_temp.at('1 hour');
SELECT * FROM pg_temp.at('1 hour 4 min');
SELECT * FROM pg_temp.at('1 hour 5 min');
ROLLBACK TO s;

-- a notification is bounded: a hundred alerts, news first, and a quarter of a megabyte
SELECT pg_temp.rule('many', 'critical');
SELECT pg_temp.fire('many', VARIADIC ARRAY(SELECT 'h' || lpad(n::text, 3, '0') FROM generate_series(1, 150) AS n));
SELECT receiver, status, reason, left(alerts, 30) || ' ...' AS alerts, more FROM pg_temp.at('0 s');
SELECT pg_temp.fire('many', 'new'), pg_temp.ok('many', 'h149');
SELECT receiver, status, reason, left(alerts, 50) || ' ...' AS alerts, more FROM pg_temp.at('1 min');
SELECT cardinality(alert_ids), (monitoring.format_webhook(jsonb_build_object('url', 'x', 'config', '{}'::jsonb), payload)).body::jsonb -> 'truncatedAlerts' AS truncated
FROM monitoring.outbox WHERE at >= '2030-01-07' ORDER BY id DESC LIMIT 1;
SELECT monitoring.update_alert_rule('many', jsonb_build_object('annotations', jsonb_build_object('summary', repeat('{{host}} ', 1500))));
SELECT pg_temp.ok('many', VARIADIC ARRAY(SELECT 'h' || lpad(n::text, 3, '0') FROM generate_series(1, 150) AS n)), pg_temp.fire('many', VARIADIC ARRAY(SELECT 'g' || n FROM generate_series(1, 60) AS n));
SELECT receiver, status, reason, more FROM pg_temp.at('2 min');
SELECT bool_and(octet_length(payload::text) < 300000) AS bounded, min(jsonb_array_length(payload -> 'alerts')) > 10 AS listed FROM monitoring.outbox WHERE at >= '2030-01-07 00:02+00';
ROLLBACK TO s;

-- groups that are not due are not looked at: their alerts could be anything
SELECT pg_temp.fire('a', 'x', 'y'), pg_temp.fire('b', 'x');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('30 s');
UPDATE monitoring.alert_group_members SET suppressed_by = 'test';
SELECT * FROM pg_temp.at('1 min');
SELECT * FROM pg_temp.at('5 min 29 s');
SELECT suppressed_by, count(*) FROM monitoring.alert_group_members GROUP BY 1;
ROLLBACK TO s;

-- alerts are related by the group that they came to, also once it is gone; not by a digest, nor by a rule that is grouped otherwise
CREATE FUNCTION pg_temp.related(rule text, host text) RETURNS TABLE (related text, same_group boolean, shared text) LANGUAGE sql AS $$
	SELECT c.rule || ' ' || (c.labels ->> 'host'), c.same_group, c.shared_labels::text
	FROM monitoring.alert_history AS h CROSS JOIN LATERAL monitoring.correlated_alerts(h.alert_id) AS c
	WHERE h.rule_name = related.rule AND h.labels ->> 'host' = related.host AND h.to_state = 'firing' AND h.at >= '2030-01-07' ORDER BY 1
$$;
SELECT pg_temp.rule('c', 'low'), pg_temp.rule('d', 'low'), pg_temp.rule('own', 'high', '{all}'), pg_temp.rule('none', 'high', '{}');
SELECT monitoring.create_route('site', '{"host": {"=~": "s.*"}}', group_by => '{site,host}', place => 1) > 0;
SELECT monitoring.update_alert_rule('b', '{"extra_labels": {"site": "1"}}');
SELECT pg_temp.fire('a', 'x', 'y', 's', 's2'), pg_temp.fire('b', 'z', 's'), pg_temp.fire('c', 'v'), pg_temp.fire('d', 'w'), pg_temp.fire('own', 'o1', 'o2'), pg_temp.fire('none', 'n1', 'n2');
SELECT * FROM pg_temp.at('0 s');
DELETE FROM pg_temp.breach;
SELECT count(*) FROM pg_temp.at('1 s');
SELECT count(*) FROM pg_temp.at('1 hour');
SELECT count(*) AS groups FROM monitoring.alert_groups;
SELECT 'a x' AS of, * FROM pg_temp.related('a', 'x');
SELECT 'a s' AS of, * FROM pg_temp.related('a', 's');
SELECT 'b s' AS of, * FROM pg_temp.related('b', 's');
SELECT 'c v' AS of, * FROM pg_temp.related('c', 'v');
SELECT 'own o1' AS of, * FROM pg_temp.related('own', 'o1');
SELECT 'none n1' AS of, * FROM pg_temp.related('none', 'n1');
ROLLBACK;
