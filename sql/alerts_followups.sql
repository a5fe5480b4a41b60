-- What is told besides news: that alerts are acknowledged, and that they still fire to who would take silence for their end.
-- On virtual time, rolled back; the real clock is far behind.
\set VERBOSITY terse
\pset format unaligned
SET client_min_messages = warning;
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
SELECT monitoring.create_receiver('am', 'alertmanager', 'http://am.example.com:9093'), monitoring.create_receiver('pd', 'pagerduty', config => '{"routing_key": "k"}'),
	monitoring.create_receiver('chat', 'slack', 'https://chat.example.com/');
SELECT monitoring.update_route('medium', '{"group_wait": "0 s", "group_interval": "5 min", "repeat_interval": "4 hours"}');
SELECT pg_temp.rule('a'), pg_temp.rule('b');
CREATE FUNCTION pg_temp.sent() RETURNS void LANGUAGE sql AS $$ UPDATE monitoring.outbox SET state = 'sent' WHERE state = 'queued' $$;
CREATE FUNCTION pg_temp.id(rule text, host text) RETURNS bigint LANGUAGE sql AS $$
	SELECT s.alert_id FROM monitoring.alert_states AS s JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id WHERE d.name = rule AND s.series_labels ->> 'host' = host
$$;
SELECT pg_temp.fire('a', 'x', 'y'), pg_temp.fire('b');
SELECT * FROM pg_temp.at('0 s');

-- Every two minutes, but not while the last one waits to be sent.
SELECT * FROM pg_temp.at('1 min 59 s');
SELECT * FROM pg_temp.at('2 min');
SELECT * FROM pg_temp.at('4 min');
SELECT pg_temp.sent();
SELECT * FROM pg_temp.at('6 min');
SELECT pg_temp.sent();
SELECT * FROM pg_temp.at('6 min 1 s');

-- Acknowledged: told once, when all of the group is; the other receiver is kept alive with it all the same.
SELECT monitoring.acknowledge_alert(pg_temp.id('a', 'x'), at => '2030-01-07 00:06:30+00');
SELECT * FROM pg_temp.at('6 min 31 s');
SELECT monitoring.acknowledge_alert(pg_temp.id('a', 'y'), at => '2030-01-07 00:06:32+00');
SELECT * FROM pg_temp.at('6 min 33 s');
SELECT * FROM pg_temp.at('6 min 34 s');
SELECT o.status, o.payload ->> 'status' AS told, o.payload -> 'alerts' -> 0 -> 'acknowledged' ->> 'by' = current_user AS by FROM monitoring.outbox AS o WHERE o.status = 'acknowledged' ORDER BY o.id;
SELECT pg_temp.sent();
SELECT * FROM pg_temp.at('8 min');
SELECT pg_temp.sent();
-- taken back and given again before it makes a difference: no news
SELECT monitoring.unacknowledge_alert(pg_temp.id('a', 'y'), at => '2030-01-07 00:08:30+00');
SELECT monitoring.acknowledge_alert(pg_temp.id('a', 'x'), until => '2030-01-07 00:30+00', at => '2030-01-07 00:08:31+00');
SELECT * FROM pg_temp.at('8 min 32 s');
SELECT monitoring.acknowledge_alert(pg_temp.id('a', 'y'), at => '2030-01-07 00:08:40+00');
SELECT * FROM pg_temp.at('8 min 41 s');

-- Silenced: still kept alive, as silence is told nobody.
SELECT monitoring.create_silence('{"alertname": "b"}', '1 hour', 'quiet', at => '2030-01-07 00:09+00') > 0;
SELECT pg_temp.sent();
SELECT * FROM pg_temp.at('10 min');
-- The end is told, and that is the end of it.
SELECT pg_temp.sent(), pg_temp.ok('a', 'x', 'y');
SELECT * FROM pg_temp.at('15 min');
SELECT pg_temp.sent(), pg_temp.ok('b');
SELECT * FROM pg_temp.at('15 min 1 s');
SELECT * FROM pg_temp.at('30 min');
-- A receiver that is disabled is not kept alive.
SELECT pg_temp.fire('a', 'z');
SELECT * FROM pg_temp.at('31 min');
SELECT pg_temp.sent(), monitoring.enable_receiver('am', false);
SELECT * FROM pg_temp.at('34 min');
ROLLBACK;

-- More alerts than one notification lists: the rest follows at once.
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
SELECT monitoring.create_receiver('am', 'alertmanager', 'http://am.example.com:9093', '{"keep_alive_seconds": 30}');
SELECT monitoring.update_route('medium', '{"group_wait": "0 s", "group_interval": "5 min", "repeat_interval": "4 hours"}');
SELECT pg_temp.rule('a');
INSERT INTO pg_temp.breach SELECT 'a', jsonb_build_object('host', n::text) FROM generate_series(1, 250) AS n;
CREATE FUNCTION pg_temp.enqueued(after interval) RETURNS TABLE (status text, alerts integer, more integer) LANGUAGE plpgsql AS $$
DECLARE
	last bigint := (SELECT max(o.id) FROM monitoring.outbox AS o);
BEGIN
	UPDATE monitoring.outbox AS o SET state = 'sent' WHERE o.state = 'queued';
	PERFORM monitoring.evaluate_all_rules('2030-01-07 00:00+00'::timestamptz + after);
	RETURN QUERY SELECT o.status, jsonb_array_length(o.payload -> 'alerts'), (o.payload ->> 'truncatedAlerts')::integer FROM monitoring.outbox AS o WHERE o.id > coalesce(last, 0) ORDER BY o.id;
END $$;
SELECT * FROM pg_temp.enqueued('0 s');
SELECT * FROM pg_temp.enqueued('1 s');
SELECT * FROM pg_temp.enqueued('30 s');
-- every one of them is told to end, once, also beside alerts that go on; receivers that keep nothing get one message
SELECT monitoring.create_receiver('hook', 'webhook', 'https://hook.example.com/');
SELECT count(*) AS before FROM monitoring.outbox \gset
DELETE FROM pg_temp.breach WHERE labels ->> 'host' <> '7';
SELECT * FROM pg_temp.enqueued('5 min');
SELECT receiver, a ->> 'status' AS status, count(*), count(DISTINCT a -> 'labels' ->> 'host') AS hosts
FROM (SELECT * FROM monitoring.outbox ORDER BY id OFFSET :before) AS o, jsonb_array_elements(o.payload -> 'alerts') AS a WHERE o.status <> 'still firing' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT status, payload ->> 'reason' AS reason, cardinality(alert_ids) FROM (SELECT * FROM monitoring.outbox ORDER BY id OFFSET :before) AS o WHERE receiver = 'am' ORDER BY id;
SELECT * FROM pg_temp.enqueued('6 min');
DELETE FROM pg_temp.breach;
SELECT * FROM pg_temp.enqueued('10 min');
SELECT * FROM pg_temp.enqueued('11 min');
ROLLBACK;
