-- Alerts that applications raise, and messages that they send.
SET client_min_messages = warning;
SET timezone = 'UTC';
SELECT current_database() AS before \gset
CREATE DATABASE regress_monitoring_raised;
\c regress_monitoring_raised
SET client_min_messages = warning;
SET timezone = 'UTC';
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false;
COMMIT;
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION pg_temp.states() RETURNS TABLE (name text, state text, severity text, labels jsonb, annotations jsonb) LANGUAGE sql AS $$
	SELECT a.rule, a.state, a.severity, a.labels, a.annotations FROM monitoring.alerts AS a ORDER BY 1, 4::text
$$;
CREATE FUNCTION pg_temp.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''));
END $$;
-- raised, kept, one of two ended, ended twice, ended before it was known
SELECT monitoring.raise_alert('payment provider down', '{"provider": "a", "n": 1}', 'critical', 'No payments for 5 minutes', 'Error <500>');
SELECT monitoring.raise_alert('payment provider down', '{"provider": "b"}', summary => 'What {{provider}} is, {{value}}');
SELECT monitoring.evaluate_alerts('2030-01-01 00:00:00');
SELECT * FROM pg_temp.states();
SELECT name, kind, severity, enabled FROM monitoring.alert_rules;
-- in place of a value: who raised it, in every view and to every kind of receivers
SELECT reading = 'raised by ' || current_user FROM monitoring.alerts;
SELECT x.step, replace(x.verdict, current_user, 'me'), x.details ? 'threshold', replace(x.details ->> 'reading', current_user, 'me')
FROM monitoring.alerts AS a CROSS JOIN LATERAL monitoring.explain_alert(a.alert_id, '2030-01-01 00:01:00') WITH ORDINALITY AS x (step, verdict, details, n)
WHERE a.labels ->> 'provider' = 'a' AND x.step IN ('value', 'transition') ORDER BY x.n;
SELECT t.kind, t.details - 'reading', replace(t.details ->> 'reading', current_user, 'me')
FROM monitoring.alerts AS a CROSS JOIN LATERAL monitoring.alert_timeline(a.alert_id) AS t WHERE a.labels ->> 'provider' = 'a' AND t.kind IN ('pending', 'firing');
SELECT replace(r -> 'alerts' -> 0 ->> 'reading', current_user, 'me'), r -> 'alerts' -> 0 ? 'value' FROM monitoring.incident_report((SELECT min(id) FROM monitoring.incidents)) AS r;
CREATE FUNCTION pg_temp.requests() RETURNS TABLE (kind text, says boolean, still boolean) LANGUAGE sql AS $$
	SELECT k.kind, position('raised by ' || current_user IN b.body) > 0, b.body ~ 'threshold|"value"'
	FROM monitoring.receiver_kinds AS k
	CROSS JOIN LATERAL (SELECT jsonb_build_object('name', 'x', 'kind', k.kind, 'url', 'https://example.com/42', 'config', jsonb_build_object('from', 'a@example.com', 'to', 'b@example.com',
			'function', 'a.b', 'channel', 'c', 'username', 'AC', 'basic_auth', 'x') || (SELECT jsonb_object_agg(s, 'x') FROM unnest(k.secret_keys || '{chat_id}'::text[]) AS s)) AS receiver) AS r
	CROSS JOIN LATERAL monitoring.run_formatter(k.function, k.owner, r.receiver,
		monitoring.notification_of_alert('x', (SELECT min(alert_id) FROM monitoring.alerts)) || '{"id": 1, "idempotencyKey": "00000000-0000-0000-0000-000000000000"}') AS f
	CROSS JOIN LATERAL (SELECT CASE k.kind WHEN 'twilio' THEN replace(f ->> 'body', '%20', ' ')
		WHEN 'email' THEN convert_from(decode(substring(f ->> 'body' FROM E'base64\r\n\r\n(.*?)--'), 'base64'), 'UTF8') ELSE f ->> 'body' END AS body) AS b
	WHERE k.takes_alerts ORDER BY 1
$$;
SELECT * FROM pg_temp.requests();
SELECT monitoring.evaluate_alerts('2030-01-01 02:00:00');
SELECT monitoring.raise_alert('payment provider down', '{"provider": "b"}', summary => 'still down');
SELECT monitoring.resolve_alert('payment provider down', '{"n": "1", "provider": "a"}');
SELECT monitoring.evaluate_alerts('2030-01-01 02:00:10');
SELECT * FROM pg_temp.states();
SELECT monitoring.resolve_alert('payment provider down', '{"provider": "a", "n": 1}'), monitoring.resolve_alert('never heard of');
SELECT monitoring.evaluate_alerts('2030-01-01 02:00:20');
-- the last call of those that are committed together
SELECT monitoring.raise_alert('flutter'), monitoring.resolve_alert('flutter');
SELECT monitoring.resolve_alert('flutter two'), monitoring.raise_alert('flutter two', severity => 'P0');
BEGIN;
SELECT monitoring.raise_alert('rolled back');
ROLLBACK;
SELECT monitoring.evaluate_alerts('2030-01-01 02:00:30');
SELECT name, state, severity, annotations FROM pg_temp.states();
-- for a time
SELECT monitoring.raise_alert('for an hour', lasts => '1 hour', at => '2030-01-01 02:00:40');
SELECT monitoring.evaluate_alerts('2030-01-01 02:00:40');
SELECT monitoring.evaluate_alerts('2030-01-01 03:00:39');
SELECT name, state FROM pg_temp.states();
SELECT monitoring.evaluate_alerts('2030-01-01 03:00:41');
SELECT name, state FROM pg_temp.states();
SELECT count(*) FROM monitoring.raised_alerts;
-- a rule that was there first: its own severity, texts, times and receivers
SELECT monitoring.create_alert_rule('stock is low', NULL, NULL, '1 minute', '>', 0, kind => 'raised', severity => 'low', pending_for => '1 minute',
	annotations => '{"summary": "{{sku}}: {{summary}}, says {{caller}}"}') > 0;
SELECT monitoring.raise_alert('stock is low', '{"sku": "x"}', 'critical', 'two left');
SELECT monitoring.evaluate_raised_alerts('2030-01-01 03:30:00');
SELECT name, state, severity FROM pg_temp.states() WHERE name = 'stock is low';
SELECT monitoring.evaluate_alerts('2030-01-01 03:31:00');
SELECT state, severity, annotations ->> 'summary' = 'x: two left, says ' || current_user FROM pg_temp.states() WHERE name = 'stock is low';
-- evaluated apart from the others, and not twice
SELECT monitoring.resolve_alert('stock is low', '{"sku": "x"}');
SELECT monitoring.evaluate_raised_alerts('2030-01-01 03:32:00');
SELECT monitoring.evaluate_alerts('2030-01-01 03:32:01');
SELECT count(*) FROM monitoring.raised_queue;
SELECT to_state, count(*) FROM monitoring.alert_history GROUP BY 1 ORDER BY 1;
-- bad input
SELECT monitoring.create_alert_rule('of a metric', 'm', 'avg', '1 minute', '>', 0) > 0;
SELECT pg_temp.try($$SELECT monitoring.raise_alert('of a metric')$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert(E'a\nb')$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert(NULL)$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert('x', '[]')$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert('x', '{"a": {}}')$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert('x', jsonb_build_object('a', repeat('x', 5000)))$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert('x', severity => 'terrible')$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert('x', summary => repeat('x', 5000))$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert('x', lasts => '-1 s')$$);
SELECT pg_temp.try($$SELECT monitoring.raise_alert('x', at => 'infinity')$$);
SELECT pg_temp.try($$SELECT monitoring.create_alert_rule('x', 'm', 'avg', '1 minute', '>', 0, kind => 'raised')$$);
SELECT pg_temp.try($$SELECT monitoring.create_alert_rule('x', NULL, NULL, '1 minute', '<', 0, kind => 'raised')$$);
-- messages
SELECT monitoring.create_receiver('desk', 'webhook', 'https://desk.example.com/', '{"max_age_seconds": 60}');
SELECT monitoring.enable_receiver('desk', false);
SELECT monitoring.send('desk', 'Import done', E'12 files\nno errors', '{"batch": 7}') > 0;
SELECT alert, status, state, expires_at - created_at, payload -> 'alerts' #- '{0,startsAt}' #- '{0,fingerprint}' FROM monitoring.outbox ORDER BY id;
BEGIN;
SELECT monitoring.send('desk', 'never') > 0;
ROLLBACK;
SELECT count(*) FROM monitoring.outbox WHERE alert = 'never';
SELECT pg_temp.try($$SELECT monitoring.send('nobody', 'x')$$);
SELECT pg_temp.try($$SELECT monitoring.send('desk', E'a\rb')$$);
SELECT pg_temp.try($$SELECT monitoring.send('desk', NULL)$$);
SELECT pg_temp.try($$SELECT monitoring.send('desk', 'x', repeat('x', 20000))$$);
SELECT pg_temp.try($$SELECT monitoring.send('desk', 'x', severity => 'awful')$$);
-- who may
CREATE ROLE regress_monitoring_app;
SELECT monitoring.grant_access('regress_monitoring_app', 'writer');
SET ROLE regress_monitoring_app;
SELECT pg_temp.try($$SELECT monitoring.raise_alert('by the app')$$);
SELECT pg_temp.try($$SELECT monitoring.resolve_alert('by the app')$$);
SELECT pg_temp.try($$SELECT monitoring.close_alert(1)$$);
SELECT pg_temp.try($$SELECT monitoring.send('desk', 'x')$$);
RESET ROLE;
SELECT monitoring.revoke_access('regress_monitoring_app');
DROP ROLE regress_monitoring_app;
\c :before
DROP DATABASE regress_monitoring_raised WITH (FORCE);
