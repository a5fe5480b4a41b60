-- Escalation and on-call schedules, on virtual time.
\set VERBOSITY terse
\pset format unaligned
\pset null -
SET client_min_messages = warning;
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
SET TimeZone = 'UTC';
CREATE FUNCTION pg_temp.escalated(after interval) RETURNS TABLE (told text, minute numeric) LANGUAGE sql AS $$
	SELECT e.details ->> 'step' || ': ' || coalesce(e.details ->> 'receiver', 'nobody') || coalesce(' for ' || (e.details ->> 'person'), ''),
		round(extract(epoch FROM e.at - '2030-01-07') / 60)
	FROM monitoring.alert_events AS e
	WHERE e.kind = 'escalated' AND e.at = '2030-01-07'::timestamptz + after ORDER BY 1
$$;
-- evaluate every minute between two times, and tell what was escalated
CREATE FUNCTION pg_temp.run(since interval, until interval) RETURNS TABLE (told text, minute numeric) LANGUAGE plpgsql AS $$
DECLARE
	t interval := since;
BEGIN
	WHILE t <= until LOOP
		PERFORM monitoring.evaluate_alerts('2030-01-07'::timestamptz + t);
		RETURN QUERY SELECT * FROM pg_temp.escalated(t);
		t := t + interval '1 minute';
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.alert(rule text) RETURNS bigint LANGUAGE sql AS $$ SELECT max(a.alert_id) FROM monitoring.alerts AS a WHERE a.rule = alert.rule $$;
SELECT count(monitoring.create_receiver(n, 'webhook', 'https://' || n || '.example.com/')) FROM unnest('{ann,bob,cid,boss,all}'::text[]) AS n;
SELECT count(monitoring.set_contact(initcap(n), ARRAY[n])) FROM unnest('{ann,bob,cid}'::text[]) AS n;

----------------------------------------------------------------------------------------------------------------------
-- On call
----------------------------------------------------------------------------------------------------------------------
SELECT monitoring.create_schedule('ops', 'Europe/Berlin');
SELECT monitoring.set_schedule_layer('ops', 1, '{Ann,Bob}', '2030-01-07 09:00 Europe/Berlin', '7 days');
-- nobody before it begins, hand-over every Monday at nine, local time, also after the clocks change (31 March 2030)
SELECT t, monitoring.who_is_on_call('ops', t::timestamptz) FROM unnest('{2030-01-07 07:59 UTC,2030-01-07 08:00 UTC,2030-01-14 07:59 UTC,2030-01-14 08:00 UTC,2030-01-21 08:00 UTC,2030-03-25 07:59 UTC,2030-03-25 08:00 UTC,2030-04-01 06:59 UTC,2030-04-01 07:00 UTC}'::text[]) AS t;
-- a higher layer for nights
SELECT monitoring.set_schedule_layer('ops', 2, '{Cid}', '2030-01-07 00:00 UTC', '1 day', '{"times": [{"start": "22:00", "end": "24:00"}, {"start": "00:00", "end": "06:00"}], "location": "Europe/Berlin"}');
SELECT t, monitoring.who_is_on_call('ops', t::timestamptz) FROM unnest('{2030-01-08 20:59 UTC,2030-01-08 21:00 UTC,2030-01-09 04:59 UTC,2030-01-09 05:00 UTC}'::text[]) AS t;
-- somebody stands in
SELECT monitoring.override_schedule('ops', 'Bob', '2030-01-08 20:00 UTC', '2030-01-08 23:00 UTC') > 0 AS overridden;
SELECT person, starts_at, ends_at FROM monitoring.on_call_shifts('ops', '2030-01-08 12:00 UTC', '2030-01-09 12:00 UTC');
SELECT * FROM monitoring.on_call_gaps('2030-01-06 00:00 UTC', '2030-01-08 00:00 UTC');
SELECT monitoring.create_schedule('office');
SELECT monitoring.set_schedule_layer('office', 1, '{Ann}', '2030-01-07 00:00 UTC', '1 day', '{"weekdays": ["monday:friday"], "times": [{"start": "09:00", "end": "17:00"}]}');
SELECT * FROM monitoring.on_call_gaps('2030-01-10 12:00 UTC', '2030-01-14 12:00 UTC') WHERE schedule = 'office';

----------------------------------------------------------------------------------------------------------------------
-- Escalation
----------------------------------------------------------------------------------------------------------------------
SELECT monitoring.set_escalation_policy('steps', '[{"delay": "5 minutes", "schedules": ["ops"]}, {"delay": "10 minutes", "contacts": ["Ann", "Bob"]}, {"delay": "10 minutes", "receivers": ["boss"]}]');
SELECT monitoring.create_route('escalating', '{"team": "shop"}', receivers => '{all}', group_wait => '0', escalation_policy => 'steps', place => 1) > 0 AS created;
SELECT pg_temp.rule('down', 'high', extra_labels => '{"team": "shop"}'), pg_temp.rule('crit', 'critical');
-- Monday 0:00 UTC: nights are Cid's
SELECT pg_temp.fire('down');
SELECT * FROM pg_temp.run('0', '40 min');
SELECT o.receiver, o.status, o.alert, o.payload -> 'escalation' AS escalation, extract(minute FROM o.at) AS minute, o.payload #>> '{alerts,0,labels,team}' AS team
FROM monitoring.outbox AS o WHERE o.at >= '2030-01-07' ORDER BY o.at, o.receiver;
-- when it ends, so does its escalation; another episode begins anew
SELECT pg_temp.ok('down');
SELECT * FROM pg_temp.run('41 min', '42 min');
SELECT count(*) AS escalations FROM monitoring.escalations;
SELECT pg_temp.fire('down');
SELECT * FROM pg_temp.run('50 min', '60 min');
-- acknowledged before the second step: nothing more, until that expires
SELECT monitoring.acknowledge_alert(pg_temp.alert('down'), '2030-01-07 01:20 UTC', at => '2030-01-07 01:00:30 UTC');
SELECT * FROM pg_temp.run('61 min', '85 min');
SELECT monitoring.acknowledge_alert(pg_temp.alert('down'), at => '2030-01-07 01:25:30 UTC');
SELECT * FROM pg_temp.run('86 min', '120 min');
-- taken back
SELECT monitoring.unacknowledge_alert(pg_temp.alert('down'), at => '2030-01-07 02:00:30 UTC');
SELECT * FROM pg_temp.run('121 min', '125 min');
-- all steps have been taken: not again while it fires, whatever is repeated
SELECT * FROM pg_temp.run('5 h', '5 h 5 min');
-- a policy that repeats, changed while it runs
SELECT pg_temp.ok('down');
SELECT * FROM pg_temp.run('5 h 10 min', '5 h 11 min');
-- those whom the steps told are told of the end
SELECT o.receiver, o.status, o.payload ->> 'reason' AS reason, jsonb_path_query_array(o.payload, '$.alerts[*].status') AS alerts,
	o.group_key = (SELECT max(f.group_key) FROM monitoring.outbox AS f WHERE f.payload ->> 'reason' = 'escalation' AND f.receiver = o.receiver) AS same_group
FROM monitoring.outbox AS o WHERE o.payload ? 'escalation' AND o.at BETWEEN '2030-01-07 05:10' AND '2030-01-07 05:11' ORDER BY o.receiver;
SELECT monitoring.set_escalation_policy('steps', '[{"delay": "2 minutes", "receivers": ["nobody is called so"]}, {"delay": "1 minute", "receivers": ["boss"]}]', 1);
SELECT pg_temp.fire('down');
SELECT * FROM pg_temp.run('6 h', '6 h 15 min');
-- silenced: nobody is told
SELECT pg_temp.ok('down');
SELECT * FROM pg_temp.run('7 h', '7 h');
SELECT pg_temp.fire('down');
SELECT * FROM pg_temp.run('7 h 10 min', '7 h 11 min');
SELECT monitoring.create_silence('{"team": "shop"}', '19 minutes', 'works', at => '2030-01-07 07:11 UTC') > 0 AS silenced;
SELECT * FROM pg_temp.run('7 h 12 min', '7 h 35 min');
-- the seeded policy: critical alerts, after fifteen minutes, to all
SELECT pg_temp.fire('crit');
SELECT * FROM pg_temp.run('8 h', '8 h 16 min') WHERE minute >= 480;
-- nobody on call
SELECT monitoring.set_escalation_policy('steps', '[{"schedules": ["office"]}]');
SELECT pg_temp.ok('down');
SELECT * FROM pg_temp.run('30 h', '30 h');
SELECT pg_temp.fire('down');
SELECT * FROM pg_temp.run('42 h', '42 h 2 min');

----------------------------------------------------------------------------------------------------------------------
-- Refused
----------------------------------------------------------------------------------------------------------------------
\i sql/fails.inc
SELECT f.* FROM unnest(ARRAY[
	$$monitoring.set_contact('', '{ann}')$$, $$monitoring.set_contact('X', '{nobody}')$$, $$monitoring.drop_contact('Ann')$$, $$monitoring.drop_contact('X')$$,
	$$monitoring.create_schedule('ops')$$, $$monitoring.create_schedule('x', 'Mars/Base')$$, $$monitoring.create_schedule('x', 'GMT')$$, $$monitoring.drop_schedule('office')$$, $$monitoring.drop_schedule('x')$$,
	$$monitoring.set_schedule_layer('x', 1, '{Ann}', now())$$, $$monitoring.set_schedule_layer('ops', 1, '{X}', now())$$,
	$$monitoring.set_schedule_layer('ops', 1, '{Ann}', now(), '-1 day')$$, $$monitoring.set_schedule_layer('ops', 1, '{Ann}', now(), ends_at => now() - interval '1 day')$$,
	$$monitoring.set_schedule_layer('ops', 1, '{Ann}', now(), active_times => '{"weekdays": ["someday"]}')$$,
	$$monitoring.override_schedule('ops', 'Ann', '2030-01-08 22:00 UTC', '2030-01-09 UTC')$$, $$monitoring.override_schedule('ops', 'Ann', '2030-02-02 UTC', '2030-02-01 UTC')$$,
	$$monitoring.override_schedule('ops', 'X', '2030-02-01 UTC', '2030-02-02 UTC')$$, $$monitoring.drop_override(-1)$$,
	$$monitoring.who_is_on_call('x')$$, $$monitoring.on_call_shifts('ops', now(), now() + interval '2 years')$$,
	$$monitoring.set_escalation_policy('', '[]')$$, $$monitoring.set_escalation_policy('x', '[]')$$, $$monitoring.set_escalation_policy('x', '[{"delay": "1 minute"}]')$$,
	$$monitoring.set_escalation_policy('x', '[{"delay": "-1 minute", "receivers": ["*"]}]')$$, $$monitoring.set_escalation_policy('x', '[{"delay": "soon", "receivers": ["*"]}]')$$,
	$$monitoring.set_escalation_policy('x', '[{"receivers": ["*"]}]', 3)$$, $$monitoring.set_escalation_policy('x', '[{"contacts": ["X"]}]')$$,
	$$monitoring.set_escalation_policy('x', '[{"schedules": ["x"]}]')$$, $$monitoring.set_escalation_policy('x', '[{"pager": 1}]')$$,
	$$monitoring.drop_escalation_policy('steps')$$, $$monitoring.drop_escalation_policy('x')$$]) AS s CROSS JOIN LATERAL pg_temp.fails('SELECT ' || s) AS f;
ROLLBACK;
