-- Emergencies: what is kept ready for whom, what is checked, and who cannot be told. Everything is rolled back, so that no
-- notifier sees it. What is sent when is in test/t/039_emergency.pl.
\pset format unaligned
\pset tuples_only on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
UPDATE monitoring.receiver_defs SET enabled = false;
CREATE FUNCTION pg_temp.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text; hint text;
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE FUNCTION pg_temp.create(kind text, url text, config jsonb DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.try(format('SELECT monitoring.create_receiver(%L, %L, %L, %L)', kind, kind, url, '{"emergency": true}' || config))
$$;

-- Nobody is to be told: nothing is written to see whether that works, and no notifier stays for it.
SELECT * FROM monitoring.check_writing('2026-01-01 00:00:00+00');
SELECT monitoring.notify_has_work('2026-01-01 00:00:00+00', false);

-- Whoever is told by a request can be told; the database itself cannot help then.
SELECT pg_temp.create('webhook', 'https://a.example.com/'), pg_temp.create('slack', 'https://a.example.com/'), pg_temp.create('email', 'smtp://a.example.com', '{"from": "a@b.c", "to": "d@e.f"}'),
	pg_temp.create('twilio', NULL, '{"username": "AC00000000000000000000000000000000", "password": {"secret": "k"}, "from": "+15005550006", "to": "+15005550006"}'),
	pg_temp.create('pagerduty', NULL, '{"routing_key": {"secret": "k"}}');
SELECT pg_temp.create('notify', NULL, '{"channel": "c"}');
CREATE FUNCTION public.regress_on_emergency(jsonb) RETURNS void LANGUAGE sql AS '';
SELECT pg_temp.create('sql', NULL, '{"function": "public.regress_on_emergency"}');
SELECT pg_temp.create('heartbeat', 'https://a.example.com/');
SELECT pg_temp.try($$SELECT monitoring.create_receiver('bad', 'webhook', 'https://a.example.com/', '{"emergency": "yes"}')$$);
SELECT name, config ->> 'emergency' FROM monitoring.receivers WHERE name IN ('webhook', 'email') ORDER BY name;
SELECT monitoring.notify_has_work('2026-01-01 00:00:00+00', false), monitoring.notify_has_work('2026-01-01 00:00:00+00', true);

-- A message for each receiver and cause; enabled ones only.
SELECT monitoring.enable_receiver('twilio', false);
SELECT m.receiver, string_agg(m.reason, ' ' ORDER BY c.place), min(m.total_timeout) FROM monitoring.emergency_messages('2026-01-01 00:00:00+00', 'k') AS m
JOIN monitoring.emergency_causes AS c ON c.cause = m.reason GROUP BY m.receiver ORDER BY m.receiver;
SELECT m.reason, m.sqlstates, replace(m.notification #>> '{alerts,0,annotations,summary}', current_database(), 'DB'), m.notification #>> '{alerts,0,annotations,description}'
FROM monitoring.emergency_messages('2026-01-01 00:00:00+00', 'k') AS m WHERE m.receiver = 'webhook';
SELECT replace(jsonb_pretty(m.notification), current_database(), 'DB') ~ 'DB', m.notification ->> 'status', m.notification #>> '{alerts,0,startsAt}', m.notification #>> '{alerts,0,endsAt}',
	replace(m.notification ->> 'groupKey', current_database(), 'DB'), m.notification ->> 'idempotencyKey', m.notification -> 'commonLabels' ->> 'severity'
FROM monitoring.emergency_messages('2026-01-01 00:00:00+00', 'k', 'disk_full') AS m WHERE m.receiver = 'webhook'
UNION ALL
SELECT replace(jsonb_pretty(m.notification), current_database(), 'DB') ~ 'DB', m.notification ->> 'status', m.notification #>> '{alerts,0,startsAt}', m.notification #>> '{alerts,0,endsAt}',
	replace(m.notification ->> 'groupKey', current_database(), 'DB'), m.notification ->> 'idempotencyKey', m.notification -> 'commonLabels' ->> 'severity'
FROM monitoring.emergency_messages('2026-01-01 00:10:00+00', 'k', 'disk_full', '2026-01-01 00:00:00+00') AS m WHERE m.receiver = 'webhook';

-- The check writes, in a transaction that the notifier rolls back, and says when those who are to be told have changed.
CREATE TEMP TABLE seen AS SELECT * FROM monitoring.check_writing(clock_timestamp());
SELECT cause, error, version ~ '^[0-9a-f]{32}$' FROM seen;
SELECT count(*) FROM monitoring.outbox WHERE id = 0;
DELETE FROM monitoring.outbox WHERE id = 0;
SELECT s.version = w.version FROM seen AS s, monitoring.check_writing(clock_timestamp()) AS w;
DELETE FROM monitoring.outbox WHERE id = 0;
SELECT monitoring.set_receiver_secret('pagerduty', 'k', 's3cr3t');
SELECT s.version = w.version FROM seen AS s, monitoring.check_writing(clock_timestamp()) AS w;

-- What is over.
SELECT monitoring.note_emergency('2026-01-01 00:00:00+00', '2026-01-01 00:10:00+00', 'disk_full', 'No space left on device', '[{"receiver": "a", "delivered": 2, "failed": 0}, {"receiver": "b", "delivered": 0, "failed": 9, "error": "no answer"}]');
SELECT monitoring.note_emergency('2026-02-01 00:00:00+00', '2026-02-01 00:10:00+00', 'read_only', NULL, NULL);
SELECT * FROM monitoring.emergencies ORDER BY since, receiver;
SELECT monitoring.note_emergency('2027-05-01 00:00:00+00', '2027-05-01 00:10:00+00', 'read_only', NULL, NULL);
SELECT count(*) FROM monitoring.emergencies;
ROLLBACK;
