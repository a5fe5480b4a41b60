-- Digests: one message with what has fired and ended, at full hours and days.
\set VERBOSITY terse
\pset format unaligned
SET client_min_messages = warning;
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
SELECT monitoring.create_receiver('all', 'webhook', 'https://a.example.com/'), monitoring.create_receiver('firing', 'webhook', 'https://b.example.com/', '{"send_resolved": false}');
SELECT pg_temp.rule('low a', 'low'), pg_temp.rule('low b', 'low'), pg_temp.rule('info', 'info');

-- fired, fired and ended, fired twice: each once, as it is; several rules in one message
SELECT pg_temp.fire('low a', 'x', 'y'), pg_temp.fire('low b', 'x'), pg_temp.fire('info', 'x');
SELECT * FROM pg_temp.at('10 min');
SELECT pg_temp.ok('low a', 'y'), pg_temp.ok('low b', 'x');
SELECT * FROM pg_temp.at('20 min');
SELECT pg_temp.fire('low b', 'x');
SELECT * FROM pg_temp.at('30 min');
SELECT group_key, route, firing, resolved, to_char(due_at, 'DD HH24:MI') AS due FROM monitoring.notification_groups ORDER BY id;
SELECT * FROM pg_temp.at('59 min 59 s');
SELECT * FROM pg_temp.at('1 hour');
SELECT alert, status, group_key, payload -> 'digest' AS digest FROM monitoring.outbox WHERE at >= '2030-01-07' AND receiver = 'all';
-- nothing new, no message; what ends is told in the digest after
SELECT * FROM pg_temp.at('2 hours');
SELECT to_char(due_at, 'DD HH24:MI') AS due FROM monitoring.notification_groups WHERE route = 'low';
SELECT pg_temp.ok('low a', 'x');
SELECT * FROM pg_temp.at('3 hours 30 min');
SELECT * FROM pg_temp.at('4 hours');
SELECT * FROM pg_temp.at('23 hours');
SELECT * FROM pg_temp.at('24 hours');

-- what is silenced at the time of a digest waits for the one after the silence
SELECT monitoring.create_silence('{"host": {"=~": "z|w"}}', '90 min', at => '2030-01-08') > 0;
SELECT pg_temp.fire('low a', 'z', 'w', 'v');
SELECT * FROM pg_temp.at('24 hours 10 min');
SELECT * FROM pg_temp.at('25 hours');
SELECT pg_temp.ok('low a', 'w');
SELECT * FROM pg_temp.at('25 hours 20 min');
SELECT * FROM pg_temp.at('26 hours');
SELECT * FROM pg_temp.at('27 hours');

-- an outage: one digest for all that was missed
SELECT pg_temp.ok('low a', 'z', 'v');
SELECT * FROM pg_temp.at('27 hours 10 min');
SELECT * FROM pg_temp.at('40 hours 20 min');

-- a route that is quiet at the time of the digest: nothing is lost
SELECT monitoring.set_time_interval('night', '{"times": [{"start": "20:00", "end": "24:00"}]}');
SELECT monitoring.update_route('low', '{"mute_times": ["night"]}');
SELECT pg_temp.fire('low a', 'n', 'm');
SELECT * FROM pg_temp.at('43 hours 30 min');
SELECT pg_temp.ok('low a', 'm');
SELECT * FROM pg_temp.at('44 hours 30 min');
SELECT * FROM pg_temp.at('45 hours');
SELECT * FROM pg_temp.at('48 hours');

-- a digest that is given up: what fires is routed anew, into groups
SELECT monitoring.update_route('low', '{"digest": "0", "mute_times": []}');
SELECT * FROM pg_temp.at('48 hours 1 min');
SELECT group_key, m.state, g.rule_id IS NULL AS by_route FROM monitoring.alert_groups AS g JOIN monitoring.alert_group_members AS m ON m.group_id = g.id ORDER BY g.id, m.state;
SELECT pg_temp.ok('low a', 'n');
SELECT * FROM pg_temp.at('48 hours 10 min');
SELECT * FROM pg_temp.at('49 hours');
ROLLBACK;
