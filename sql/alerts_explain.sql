-- Why somebody was told of an alert or not, as recorded; and simulated alerts.
\set VERBOSITY terse
\pset format unaligned
\pset null -
SET client_min_messages = warning;
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
CREATE FUNCTION pg_temp.explain(rule text, after interval, steps text[] DEFAULT NULL) RETURNS TABLE (step text, verdict text, details jsonb) LANGUAGE sql AS $$
	SELECT e.step, e.verdict, e.details - '{group,notification,at,kind,over,max_age,no_data,on_error,fingerprint,alert_id,silence,next_attempt_at,sent_at,tries,enqueued_at}'::text[]
	FROM (SELECT alert_id FROM monitoring.alert_history AS h WHERE h.rule_name = explain.rule AND h.at >= '2030-01-07' ORDER BY id DESC LIMIT 1) AS a
	CROSS JOIN LATERAL monitoring.explain_alert(a.alert_id, '2030-01-07'::timestamptz + after) AS e
	WHERE (steps IS NULL OR e.step = ANY (steps)) AND e.verdict !~ '^(incident|escalated)'
$$;
SELECT monitoring.create_receiver('all', 'webhook', 'https://a.example.com/'), monitoring.create_receiver('firing', 'webhook', 'https://b.example.com/', '{"send_resolved": false}');
SELECT pg_temp.rule('crit', 'critical', extra_labels => '{"team": "shop"}'), pg_temp.rule('med'), pg_temp.rule('own', 'low', '{all}'), pg_temp.rule('low', 'low'), pg_temp.rule('none', 'low', '{}'),
	monitoring.create_alert_rule('waits', NULL, NULL, '1 minute', '>', 0, kind => 'breach', pending_for => '10 min') > 0;
SELECT pg_temp.fire('crit'), pg_temp.fire('med'), pg_temp.fire('own'), pg_temp.fire('low'), pg_temp.fire('none'), pg_temp.fire('waits');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.explain('crit', '1 s');
SELECT * FROM pg_temp.explain('waits', '1 s');
SELECT * FROM pg_temp.explain('med', '1 s', '{route,group,suppression,notification,next}');
SELECT * FROM pg_temp.explain('own', '1 s', '{route,group,suppression,notification,next}');
SELECT * FROM pg_temp.explain('low', '1 s', '{route,group,suppression,notification,next}');
SELECT * FROM pg_temp.explain('none', '1 s', '{route,group,suppression,notification,next}');

-- the outcome of the deliveries
UPDATE monitoring.outbox SET state = 'sending', attempts = 1 WHERE at >= '2030-01-07';
SELECT monitoring.notify_record(clock_timestamp(), jsonb_agg(jsonb_build_object('created_at', o.created_at, 'id', o.id, 'attempt', 1, 'outcome', 'response',
	'http_status', CASE o.receiver WHEN 'all' THEN 200 ELSE 503 END, 'error', CASE o.receiver WHEN 'firing' THEN 'HTTP status 503' END)))
FROM monitoring.outbox AS o WHERE o.at >= '2030-01-07';
SELECT * FROM pg_temp.explain('crit', '1 s', '{notification}');
SELECT e.verdict, jsonb_array_length(e.details -> 'tries') AS tries FROM monitoring.alerts AS a CROSS JOIN LATERAL monitoring.explain_alert(a.alert_id) AS e
WHERE a.rule = 'crit' AND e.step = 'notification';

-- acknowledged, silenced, snoozed; what holds it back and what did
SELECT monitoring.acknowledge_alert(alert_id, at => '2030-01-07 00:00:10+00') FROM monitoring.alerts WHERE rule = 'crit';
SELECT monitoring.create_silence('{"alertname": "med"}', '1 hour', 'known', at => '2030-01-07 00:00+00') > 0;
SELECT * FROM pg_temp.at('15 min');
SELECT * FROM pg_temp.at('4 hours');
SELECT step, verdict FROM pg_temp.explain('crit', '4 hours', '{group,suppression,event,next}');
SELECT step, verdict, details - 'by' FROM pg_temp.explain('med', '30 min', '{group,suppression,event,notification,next}');
SELECT step, verdict FROM pg_temp.explain('med', '4 hours', '{suppression,event,notification}');
-- the end: told, and on record afterwards
SELECT pg_temp.ok('crit'), pg_temp.ok('med'), pg_temp.ok('waits');
SELECT * FROM pg_temp.at('4 hours 10 s');
SELECT step, verdict FROM pg_temp.explain('crit', '4 hours 11 s', '{alert,value,group,next}');
SELECT * FROM pg_temp.at('4 hours 1 min');
SELECT step, verdict FROM pg_temp.explain('crit', '4 hours 2 min', '{alert,value,transition,route,group,event,notification,next}');
SELECT * FROM pg_temp.at('2 days');
SELECT step, verdict FROM pg_temp.explain('crit', '2 days', '{alert,value,group,notification,next}');
-- one that fires and ends before anybody is told: its group is gone, its route is known
SELECT pg_temp.rule('brief'), pg_temp.fire('brief');
SELECT * FROM pg_temp.at('2 days 1 min');
SELECT pg_temp.ok('brief');
SELECT * FROM pg_temp.at('2 days 2 min');
SELECT * FROM pg_temp.at('2 days 20 min');
SELECT * FROM pg_temp.explain('brief', '2 days 21 min', '{route,group,event,notification,next}');
-- a rule that is dropped; an alert of nobody; nobody to tell
SELECT monitoring.drop_alert_rule('own');
SELECT step, verdict FROM pg_temp.explain('own', '2 days', '{rule,value,transition,next}');
SELECT monitoring.enable_receiver('all', false), monitoring.enable_receiver('firing', false);
SELECT pg_temp.fire('crit');
SELECT * FROM pg_temp.at('3 days');
SELECT step, verdict FROM pg_temp.explain('crit', '3 days', '{group,notification,next}');
SAVEPOINT s;
SELECT * FROM monitoring.explain_alert(-1);
ROLLBACK TO s;

-- a simulated alert goes the whole way at once, and touches nothing
SELECT monitoring.enable_receiver('all'), monitoring.enable_receiver('firing');
CREATE TEMP TABLE before AS SELECT s.* FROM monitoring.alert_states AS s;
SELECT route, receiver, waits, held_back_by, group_key, cardinality(notifications) FROM monitoring.simulate_alert('crit', '{"host": "q"}', '2030-01-10');
SELECT receiver, alert, status, payload ->> 'status' AS told, group_key LIKE '{}/{severity="critical"}:{alertname="crit"} (simulated %)' AS own_group, payload -> 'alerts' AS alerts
FROM monitoring.outbox WHERE at = '2030-01-10' AND status = 'test' ORDER BY id;
SELECT route, receiver, waits, held_back_by, group_key, cardinality(notifications) FROM monitoring.simulate_alert('med', at => '2030-01-07 00:30+00');
SELECT route, receiver, waits, held_back_by, group_key, cardinality(notifications) FROM monitoring.simulate_alert('low', at => '2030-01-07 00:30+00');
SELECT * FROM monitoring.simulate_alert('none');
SELECT count(*) AS changed FROM (TABLE before EXCEPT TABLE monitoring.alert_states) AS d;
SAVEPOINT s;
SELECT * FROM monitoring.simulate_alert('nobody');
ROLLBACK TO s;
SELECT * FROM monitoring.simulate_alert('crit', '{"host": ["q"]}');
ROLLBACK;
