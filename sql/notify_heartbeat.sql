-- Heartbeats on virtual time: when they are sent and when not, who may not get alerts, and what is refused. Everything is
-- rolled back, so that no notifier sees it.
\pset format unaligned
\pset tuples_only on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
UPDATE monitoring.receiver_defs SET enabled = false;
UPDATE monitoring.jobs SET enabled = false;
-- later than anything that the worker remembers
CREATE TEMP TABLE start AS SELECT date_trunc('day', clock_timestamp()) + interval '10 days' AS t;
CREATE FUNCTION pg_temp.at(seconds float8) RETURNS timestamptz LANGUAGE sql AS $$ SELECT t + seconds * interval '1 s' FROM pg_temp.start $$;
CREATE FUNCTION pg_temp.evaluated(seconds float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE monitoring.evaluation_state SET evaluated_at = pg_temp.at(seconds);
	IF NOT FOUND THEN INSERT INTO monitoring.evaluation_state (evaluated_at) VALUES (pg_temp.at(seconds)); END IF;
END $$;
-- the job, and what it has left: what waits to be sent and how the heartbeat stands
CREATE FUNCTION pg_temp.tick(seconds float8, evaluated_before float8 DEFAULT 0) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_temp.evaluated(seconds - evaluated_before);
	PERFORM monitoring.send_heartbeats(pg_temp.at(seconds));
	RETURN QUERY SELECT regexp_replace(concat_ws(' | ', h.name, h.state, 'next ' || extract(epoch FROM h.next_at - pg_temp.at(0))::int,
			'waiting: ' || (SELECT string_agg(coalesce(o.payload ->> 'lagging', 'ok'), ', ' ORDER BY o.id) FROM monitoring.outbox AS o WHERE o.receiver = h.name AND o.state = 'queued'),
			'lagging: ' || h.lagging, 'since ' || extract(epoch FROM h.lagging_since - pg_temp.at(0))::int), '(at|since) \S+Z', '\1 then', 'g')
	FROM monitoring.heartbeats AS h ORDER BY h.name;
END $$;
CREATE FUNCTION pg_temp.sent() RETURNS void LANGUAGE sql AS $$
	UPDATE monitoring.outbox SET state = 'sent', attempts = 1, http_status = 200, sent_at = clock_timestamp() WHERE status = 'heartbeat' AND state = 'queued'
$$;
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

-- Every minute, and none of it late: what is not sent yet makes way for the next.
SELECT monitoring.create_heartbeat('alive', 'https://hc.example.com/ping/secret-token', fail_url => 'https://hc.example.com/ping/secret-token/fail');
SELECT name, url, every, state, max_evaluation_lag, max_delivery_lag, tells_why, enabled FROM monitoring.heartbeats;
SELECT pg_temp.tick(0);
SELECT pg_temp.tick(30);
SELECT pg_temp.sent();
SELECT pg_temp.tick(59.9);
SELECT pg_temp.tick(62);
SELECT count(*) AS "what arrived is not kept for ever" FROM monitoring.outbox WHERE receiver = 'alive';
SELECT pg_temp.tick(122);
SELECT o.state, o.error FROM monitoring.outbox AS o WHERE receiver = 'alive' ORDER BY id;
SELECT expires_at - created_at FROM monitoring.outbox WHERE receiver = 'alive' AND state = 'queued';
SELECT pg_temp.sent();
-- the beat goes on where it was, but what was missed is not made up for
SELECT pg_temp.tick(185);
SELECT pg_temp.tick(1000);
-- the clock steps back by a day: it is not silent until then
SELECT pg_temp.tick(-86400);
SELECT pg_temp.tick(1060);

-- Evaluation lags: no sign, then word of it, once a minute.
SELECT pg_temp.sent();
SELECT pg_temp.tick(1120, 180);
SELECT pg_temp.sent();
SELECT pg_temp.tick(1180, 180.1);
SELECT pg_temp.tick(1185, 185.1);
SELECT pg_temp.sent();
SELECT pg_temp.tick(1190, 190.1);
SELECT pg_temp.tick(1245, 245.1);
SELECT state, last_sent IS NOT NULL, next_at IS NULL FROM monitoring.heartbeats;
-- as soon as it is evaluated again
SELECT pg_temp.tick(1250);
SELECT pg_temp.sent();

-- Delivery lags: the oldest notification that an enabled receiver waits for counts, tests do not, nor those that wait on purpose.
SELECT monitoring.create_receiver('pager', 'webhook', 'https://pager.example.com/');
SELECT monitoring.ensure_partition('outbox', t) IS NOT NULL FROM start;
INSERT INTO monitoring.outbox (created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
SELECT pg_temp.at(1200), 'pager', 'g', 'rule', 'test', '{}', pg_temp.at(1200), pg_temp.at(9999);
SELECT pg_temp.tick(1390);
SELECT pg_temp.sent();
INSERT INTO monitoring.outbox (created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
SELECT pg_temp.at(1300), 'pager', 'g', 'rule', 'firing', '{}', pg_temp.at(1300), pg_temp.at(9999);
SELECT pg_temp.tick(1480);
SELECT pg_temp.sent();
SELECT pg_temp.tick(1540);
SELECT monitoring.enable_receiver('pager', false);
SELECT pg_temp.tick(1545);
SELECT pg_temp.sent();
SELECT monitoring.enable_receiver('pager');
SELECT monitoring.alter_receiver('alive', '{"max_delivery_lag_seconds": 3600, "every_seconds": 20}');
SELECT pg_temp.tick(1606);
SELECT pg_temp.sent();
SELECT pg_temp.tick(1627);

-- What was given up has not got through, until something arrives or the receiver is changed.
CREATE FUNCTION pg_temp.lag() RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(regexp_replace(monitoring.heartbeat_lag('{"max_delivery_lag_seconds": 3600}', pg_temp.at(1627)), 'notification \d+|\S+Z', '...', 'g'), 'all is well')
$$;
UPDATE monitoring.outbox SET state = 'sending', attempts = 1 WHERE receiver = 'pager' AND status = 'firing';
SELECT monitoring.notify_record(clock_timestamp(), jsonb_agg(jsonb_build_object('created_at', o.created_at, 'id', o.id, 'attempt', 1, 'outcome', 'response', 'http_status', 410, 'error', 'HTTP status 410')))
FROM monitoring.outbox AS o WHERE receiver = 'pager' AND state = 'sending';
SELECT pg_temp.lag();
SELECT regexp_replace(pg_temp.tick(1648), 'notification \d+', 'notification N');
SELECT monitoring.enable_receiver('pager', false);
SELECT pg_temp.lag();
SELECT monitoring.enable_receiver('pager');
SELECT pg_temp.lag();

-- What is sent, and nothing but that.
SELECT f.* FROM monitoring.receiver_defs AS r, monitoring.format_heartbeat(jsonb_build_object('name', r.name, 'url', r.url, 'config', '{"fail_url": "https://f.example.com/"}'::jsonb),
	'{"status": "heartbeat", "idempotencyKey": "k"}') AS f WHERE r.name = 'alive';
SELECT f.method, f.url, f.body FROM monitoring.format_heartbeat('{"url": "https://a.example.com/", "config": {"fail_url": "https://f.example.com/"}}',
	'{"status": "heartbeat", "idempotencyKey": "k", "lagging": "why"}') AS f;
SELECT f.* FROM monitoring.format_heartbeat('{"url": "https://a.example.com/", "config": {"method": "GET"}}', '{"status": "heartbeat", "idempotencyKey": "k"}') AS f;
SELECT f.* FROM unnest('{test,firing,message}'::text[]) AS s, monitoring.format_heartbeat('{"url": "https://a.example.com/", "config": {}}', jsonb_build_object('status', s)) AS f;
SELECT * FROM monitoring.preview_notification('alive');

-- No alert goes there, whatever names it.
SELECT monitoring.receivers_told('{*}', false), monitoring.receivers_told('{alive,pager}', false), monitoring.receivers_told('{alive}', false);

SELECT pg_temp.try($$SELECT monitoring.send('alive', 'hello')$$);
SELECT pg_temp.try($$SELECT monitoring.alter_receiver('pager', '{"fallback": "alive"}')$$);
SELECT pg_temp.try($$SELECT monitoring.set_contact('ann', '{pager,alive}')$$);

SELECT pg_temp.try($$SELECT monitoring.create_route('to nobody', receivers => '{pager,alive}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_alert_rule('to nobody', 'queue', 'last', '1 minute', '>', 5, receivers => '{alive}')$$);
SELECT monitoring.create_receiver('was here', 'webhook', 'https://pager.example.com/');
SELECT monitoring.create_alert_rule('named', 'queue', 'last', '1 minute', '>', 5, receivers => '{was here}') > 0;
SELECT pg_temp.try($$SELECT monitoring.update_alert_rule('named', '{"receivers": ["alive"]}')$$);
SELECT monitoring.drop_receiver('was here');
SELECT pg_temp.try($$SELECT monitoring.create_heartbeat('was here', 'https://hc.example.com/')$$);

-- Disabled, and gone.
SELECT monitoring.enable_heartbeat('alive', false);
SELECT regexp_replace(pg_temp.tick(1700), 'notification \d+', 'notification N');
SELECT monitoring.enable_heartbeat('alive');
SELECT pg_temp.tick(1701);
SELECT pg_temp.try($$SELECT monitoring.drop_heartbeat('pager')$$);
SELECT pg_temp.try($$SELECT monitoring.enable_heartbeat('nobody')$$);
SELECT monitoring.drop_heartbeat('alive');
SELECT count(*) FROM monitoring.heartbeats;
SELECT state, error FROM monitoring.outbox WHERE receiver = 'alive' AND state = 'dead';

-- What cannot be one. No secret is in the message.
SELECT pg_temp.try(format('SELECT monitoring.create_heartbeat(%L, %s)', 'h', more)) FROM unnest(ARRAY[
	$$'ftp://a.example.com/'$$, $$'https://user:s3cr3t@a.example.com/'$$, $$E'https://a.example.com/\r\nX: y'$$, $$NULL$$,
	$$'https://a.example.com/', '9 seconds'$$, $$'https://a.example.com/', '2 days'$$, $$'https://a.example.com/', NULL$$,
	$$'https://a.example.com/', max_delivery_lag => '-1 s'$$, $$'https://a.example.com/', fail_url => 'file:///s3cr3t'$$,
	$$'https://a.example.com/', fail_url => 'https://u:s3cr3t@a.example.com/'$$, $$'https://a.example.com/', config => '{"method": "DELETE"}'$$,
	$$'https://a.example.com/', config => '{"title": "x"}'$$, $$'https://a.example.com/', config => '[]'$$]) AS more;
SELECT pg_temp.try($$SELECT monitoring.create_heartbeat('pager', 'https://a.example.com/')$$);
SELECT pg_temp.try($$SELECT monitoring.create_heartbeat('filed', NULL, config => '{"url": {"environment": "MONITORING_SECRET_HC"}}')$$);
SELECT name, url, state FROM monitoring.heartbeats;
ROLLBACK;
