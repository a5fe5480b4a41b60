-- Receivers: what is accepted and what is not. Everything is rolled back, so that no notifier sees it.
\pset format unaligned
\set VERBOSITY terse
BEGIN;
SET LOCAL client_min_messages = warning;

CREATE FUNCTION pg_temp.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(hint, ''));
END $$;

SELECT monitoring.create_receiver('ops', 'webhook', 'https://hooks.example.com:8443/services/T0/secret?x=1#f',
	'{"headers": {"Authorization": "Bearer secret"}, "timeout_seconds": 3, "send_resolved": false}');
SELECT monitoring.create_receiver('chat', 'slack', 'https://hooks.slack.com');
SELECT name, kind, url, config, enabled FROM monitoring.receivers WHERE name IN ('ops', 'chat') ORDER BY name;

-- names and kinds
SELECT pg_temp.try($$SELECT monitoring.create_receiver('ops', 'webhook', 'https://example.com/')$$);
SELECT pg_temp.try($$SELECT monitoring.create_receiver('', 'webhook', 'https://example.com/')$$);
SELECT pg_temp.try($$SELECT monitoring.create_receiver(E'a\nb', 'webhook', 'https://example.com/')$$);
SELECT pg_temp.try($$SELECT monitoring.create_receiver(NULL, 'webhook', 'https://example.com/')$$);
SELECT pg_temp.try($$SELECT monitoring.create_receiver('x', 'carrier_pigeon', 'https://example.com/')$$);

-- urls
SELECT left(u, 60) AS url, pg_temp.try(format('SELECT monitoring.create_receiver(''x'', ''webhook'', %L)', u)) AS outcome
FROM unnest(ARRAY['file:///etc/passwd', 'gopher://example.com/', 'ftp://example.com/', 'example.com', '', NULL,
	'https://user:password@example.com/', 'https://user@example.com/', E'https://example.com/\r\nX-Evil: 1',
	'https://example.com/a b', 'https://example.com/' || chr(228), 'https://', 'https:///path', 'https://exa mple/',
	'https://example.com\@evil.example/', 'https://a:b:c/', 'https://[::1', 'https://example.com:port/',
	'http://' || repeat('a', 5000)]) WITH ORDINALITY AS t (u, n) ORDER BY n;
SELECT pg_temp.try('SELECT monitoring.create_receiver(''six'', ''webhook'', ''http://[2001:db8::1]:8080/hook'')');
SELECT url FROM monitoring.receivers WHERE name = 'six';

-- config
SELECT c AS config, pg_temp.try(format('SELECT monitoring.create_receiver(''x'', ''webhook'', ''https://example.com/'', %L)', c)) AS outcome
FROM unnest(ARRAY['[]', '1', NULL, '{"timeout": 3}', '{"timeout_seconds": 0}', '{"timeout_seconds": 61}',
	'{"timeout_seconds": "3"}', '{"max_attempts": 0}', '{"max_age_seconds": 1e9}', '{"send_resolved": 1}',
	'{"headers": []}', '{"headers": {"X-A": 1}}', '{"headers": {"X A": "b"}}', '{"headers": {"Host": "b"}}',
	'{"headers": {"content-length": "0"}}', '{"headers": {"Idempotency-key": "mine"}}', '{"headers": {"X-A": "b\r\nX-Evil: 1"}}', '{"headers": {"X-A\r\nB": "b"}}',
	'{"headers": {"": "b"}}']) WITH ORDINALITY AS t (c, n) ORDER BY n;

-- what the kinds want; a null takes a key away
CREATE TEMP TABLE good (kind text, url text, config jsonb);
INSERT INTO good VALUES
	('slack', 'https://hooks.example.com/x', '{}'), ('discord', 'https://hooks.example.com/x', '{}'), ('teams', 'https://hooks.example.com/x', '{}'),
	('telegram', NULL, '{"chat_id": -100, "bot_token": "t"}'), ('alertmanager', 'http://am.example.com:9093', '{}'),
	('notify', NULL, '{"channel": "alerts"}'), ('sql', NULL, '{"function": "monitoring.labels_text"}'), ('sentry', 'https://o1.example.com/42', '{"public_key": "k"}'),
	('pagerduty', NULL, '{"routing_key": "k"}'), ('opsgenie', NULL, '{"api_key": "k"}'),
	('twilio', NULL, '{"username": "AC0123456789abcdef0123456789abcdef", "password": "p", "from": "+15550001", "to": "+4930123456"}'),
	('email', 'smtp://mail.example.com', '{"from": "mon@example.com", "to": "ops@example.com"}');
SELECT g.kind, pg_temp.try(format('SELECT monitoring.create_receiver(%L, %L, %L, %L)', 'good ' || g.kind, g.kind, g.url, g.config)) FROM good AS g ORDER BY 1;
SELECT v.kind, v.change, pg_temp.try(format('SELECT monitoring.alter_receiver(%L, %L, %L)', 'good ' || v.kind, v.change, v.url)) AS outcome
FROM (VALUES ('slack', '{"title": "{{sumary}}"}', NULL), ('slack', '{"title": "{{summary}"}', NULL), ('slack', '{"title": "a\nb"}', NULL), ('slack', '{"text": 1}', NULL), ('slack', '{"text": ""}', NULL),
	('slack', '{"text": "{{labels.any}} {{ $labels.thing }} {{annotations.x}} {{ $value }}"}', NULL), ('slack', '{"channel": "#x"}', NULL), ('slack', '[]', NULL), ('slack', '{}', 'smtp://mail.example.com'),
	('webhook', '{"title": "x"}', NULL),
	('discord', '{"username": ""}', NULL), ('discord', '{"avatar_url": "javascript:x"}', NULL), ('teams', '{"html": "x"}', NULL),
	('telegram', '{"chat_id": null}', NULL), ('telegram', '{"chat_id": "me"}', NULL), ('telegram', '{"message_thread_id": "x"}', NULL), ('telegram', '{"disable_notification": 1}', NULL),
	('telegram', '{}', 'https://proxy.example.com'), ('alertmanager', '{"keep_alive_seconds": 0}', NULL), ('alertmanager', '{"username": "a:b"}', NULL), ('alertmanager', '{"username": "a", "bearer_token": "t"}', NULL),
	('notify', '{"channel": null}', NULL), ('notify', '{"channel": "a\r\nb"}', NULL), ('notify', '{"channel": "0123456789012345678901234567890123456789012345678901234567890123456789"}', NULL),
	('sql', '{"function": "drop table x"}', NULL), ('sql', '{"function": "monitoring.no_such"}', NULL), ('sql', '{"function": null}', NULL),
	('sentry', '{}', 'https://o1.example.com/'), ('sentry', '{}', 'https://key@o1.example.com/42'), ('sentry', '{"environment": "a b"}', NULL),
	('pagerduty', '{"source": ""}', NULL), ('opsgenie', '{"tags": "x"}', NULL), ('opsgenie', '{"tags": [1]}', NULL), ('opsgenie', '{"responders": [{"name": "x"}]}', NULL), ('opsgenie', '{"responders": [{"type": "cat", "name": "x"}]}', NULL),
	('twilio', '{"to": "030 123"}', NULL), ('twilio', '{"from": null}', NULL), ('twilio', '{"from": null, "messaging_service_sid": "MG0123456789abcdef0123456789abcdef"}', NULL),
	('twilio', '{"username": "SK0123456789abcdef0123456789abcdef"}', NULL), ('twilio', '{"max_length": 10}', NULL), ('twilio', '{"max_length": 99.5}', NULL),
	('email', '{"to": null}', NULL), ('email', '{"to": []}', NULL), ('email', '{"to": [1]}', NULL), ('email', '{"from": "a@example.com, b@example.com"}', NULL),
	('email', '{"to": "a@example.com\r\nBcc: evil@example.com"}', NULL), ('email', '{"to": "Doe, Ann <ann@example.com>"}', NULL), ('email', '{"to": "\"Doe, Ann\" <ann@example.com>, bob@example.com"}', NULL),
	('email', '{"cc": "Ä. Öz <a@example.com>"}', NULL), ('email', '{"cc": "ä@example.com"}', NULL), ('email', '{"cc": "a@exämple.com"}', NULL), ('email', '{"cc": "a@b@c"}', NULL), ('email', '{"cc": "a@-x.com"}', NULL),
	('email', '{"cc": "<a@example.com"}', NULL), ('email', '{"cc": "\"x <a@example.com>"}', NULL), ('email', '{"cc": "a..b@example.com"}', NULL), ('email', '{"cc": "a@example.com,"}', NULL), ('email', '{"cc": "a b"}', NULL), ('email', '{"cc": "undisclosed-recipients:;"}', NULL),
	('email', '{}', 'https://mail.example.com'), ('email', '{}', 'smtp://u:p@mail.example.com'), ('email', '{}', 'smtp://mail.example.com/x'), ('email', '{}', 'smtps://mail.example.com:465')) AS v (kind, change, url);
-- far too much of it, and ports that are none: a clear error, and at once
SELECT v.kind, pg_temp.try(format('SELECT monitoring.alter_receiver(%L, %L, %L)', 'good ' || v.kind, v.change, v.url)) AS outcome
FROM (VALUES ('email', jsonb_build_object('to', repeat('a@b.c, ', 100000) || 'd@e.f'), NULL), ('email', jsonb_build_object('to', repeat('a@b.c, ', 5000) || 'd@e.f'), NULL),
	('email', jsonb_build_object('to', repeat('x', 1000000)), NULL), ('email', jsonb_build_object('to', repeat('"', 60000)), NULL),
	('slack', jsonb_build_object('text', repeat('x', 10000000)), NULL), ('slack', jsonb_build_object('headers', jsonb_build_object('X-A', repeat('x', 10000000))), NULL),
	('slack', '{}', 'https://a.example.com/' || repeat('x', 10000000)), ('slack', '{}', 'https://a.example.com:99999/'), ('slack', '{}', 'https://a.example.com:0/'),
	('slack', '{}', 'https://[::1]:65536/'), ('email', '{}', 'smtp://mail.example.com:70000')) AS v (kind, change, url);
SELECT url, config FROM monitoring.receivers WHERE name ~ '^good (slack|email|twilio|telegram|sentry)$' ORDER BY name;
SELECT b.* FROM monitoring.parse_mailboxes(' a@x.de,"B \"b\", \\" <b@x.de> , Ünal Öz<c@x.de>,<d@x.de>') AS b;

-- unknown receivers
SELECT pg_temp.try($$SELECT monitoring.alter_receiver('nobody')$$);
SELECT pg_temp.try($$SELECT * FROM monitoring.preview_notification('nobody')$$);
SELECT pg_temp.try($$SELECT * FROM monitoring.preview_notification('ops', -1)$$);
SELECT pg_temp.try($$SELECT monitoring.enable_receiver('nobody')$$);
SELECT pg_temp.try($$SELECT monitoring.drop_receiver('nobody')$$);
SELECT pg_temp.try($$SELECT monitoring.test_receiver('nobody')$$);
SELECT monitoring.enable_receiver('ops', false);
SELECT pg_temp.try($$SELECT monitoring.test_receiver('ops')$$);

-- previews show no secrets
SELECT name, p.method, p.url, p.headers, p.body ~ '\*\*\*' AS redacted FROM monitoring.receivers AS r CROSS JOIN LATERAL monitoring.preview_notification(r.name) AS p
WHERE name ~ '^good|ops$' ORDER BY name COLLATE "C";
SELECT bool_or(p::text ~ '"[tkp]"|secret') AS leaked FROM monitoring.receivers AS r CROSS JOIN LATERAL monitoring.preview_notification(r.name) AS p;
SELECT pg_temp.try($$SELECT monitoring.alter_receiver('good pagerduty', '{"routing_key": null}')$$), pg_temp.try($$SELECT * FROM monitoring.preview_notification('good pagerduty')$$);
-- the group is what it is called when it is routed
SELECT monitoring.ensure_partition('alert_history', clock_timestamp()) IS NOT NULL;
INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state, to_state, reason, op, threshold, annotations, active_at, fired_at, fingerprint)
SELECT t, -17, -17, 'a "quoted" name', 'high', '{}', '{}', 'inactive', 'firing', '', '>', 0, '{}', t, t, 'f' FROM clock_timestamp() AS t;
SELECT p.body::jsonb ->> 'groupKey' FROM monitoring.preview_notification('ops', -17) AS p;
-- what cannot be sent yet is said
SET LOCAL client_min_messages = notice;
SELECT monitoring.create_receiver('without key', 'opsgenie');
SELECT monitoring.create_receiver('key to come', 'opsgenie', config => '{"api_key": {"secret": "key"}}');
SET LOCAL client_min_messages = warning;

-- what checks a config is code of the kind's owner, and runs with no more than that role's rights
CREATE ROLE regress_notify_checker;
CREATE FUNCTION public.check_mine(config jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'checked as %: %', current_user, config; END $$;
CREATE FUNCTION public.check_reset(config jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; END $$;
INSERT INTO monitoring.receiver_kinds (kind, function, secret_keys, config_check, owner)
SELECT n, 'monitoring.format_webhook', '{token}', 'public.' || n, 'regress_notify_checker' FROM unnest('{check_mine,check_reset}'::text[]) AS n;
SELECT pg_temp.try(format('SELECT monitoring.create_receiver(''x'', %L, ''https://example.com/'', ''{"token": "s3cret"}'')', n)) FROM unnest('{check_mine,check_reset}'::text[]) AS n;
SELECT pg_temp.try($$INSERT INTO monitoring.receiver_kinds (kind, function, config_check) VALUES ('mine', 'monitoring.format_slack', 'public.no_such_function')$$);

-- who says where notifications go owns the receiver, since functions that they call run as that role; who changes anything else does not
CREATE ROLE regress_notify_admin;
SELECT monitoring.grant_access('regress_notify_admin', 'admin');
CREATE FUNCTION public.on_alert(notification jsonb) RETURNS void LANGUAGE sql RETURN NULL;
SELECT monitoring.create_receiver('calls', 'sql', config => '{"function": "public.on_alert"}');
SELECT owner = current_user AS own FROM monitoring.receivers WHERE name = 'calls';
SET LOCAL ROLE regress_notify_admin;
SELECT monitoring.alter_receiver('calls', '{"timeout_seconds": 1, "function": "public.on_alert"}');
RESET ROLE;
SELECT owner = current_user AS own FROM monitoring.receivers WHERE name = 'calls';
SET LOCAL ROLE regress_notify_admin;
SELECT monitoring.alter_receiver('calls', '{"function": "public.check_mine"}');
SELECT monitoring.create_receiver('hook', 'webhook', 'https://hook.example.com/');
RESET ROLE;
SELECT owner FROM monitoring.receivers WHERE name IN ('calls', 'hook') ORDER BY name;
SELECT monitoring.alter_receiver('hook', url => 'https://hook2.example.com/');
SELECT owner = current_user AS own FROM monitoring.receivers WHERE name = 'hook';

-- kinds: the formatter must exist, and its role must be one of the writer's
SELECT pg_temp.try($$INSERT INTO monitoring.receiver_kinds (kind, function) VALUES ('mine', 'public.no_such_function')$$);
CREATE ROLE regress_notify_user;
GRANT USAGE ON SCHEMA monitoring TO regress_notify_user;
GRANT INSERT ON monitoring.receiver_kinds TO regress_notify_user;
GRANT EXECUTE ON FUNCTION monitoring.receiver_kind_check() TO regress_notify_user;
SET LOCAL ROLE regress_notify_user;
SELECT pg_temp.try($$INSERT INTO monitoring.receiver_kinds (kind, function, owner) SELECT 'mine', 'monitoring.format_slack', rolname FROM pg_roles WHERE rolsuper ORDER BY oid LIMIT 1$$) ~ '^42501 . permission denied to let a formatter run as role' AS refused;
SELECT pg_temp.try('SELECT * FROM monitoring.receiver_defs');
SELECT pg_temp.try($$SELECT monitoring.create_receiver('x', 'webhook', 'https://example.com/')$$);
RESET ROLE;
-- what runs formatters and checks of configs runs them with nobody else's rights, whoever may call it
CREATE FUNCTION pg_temp.refused(command text) RETURNS boolean LANGUAGE sql AS $$
	SELECT pg_temp.try(format(command, (SELECT r.rolname FROM pg_roles AS r WHERE r.rolsuper ORDER BY r.oid LIMIT 1))) LIKE '42501 | permission denied to run a function as role%'
$$;
SET LOCAL ROLE regress_notify_admin;
SELECT pg_temp.refused($$SELECT monitoring.run_formatter('monitoring.format_slack', %L, '{}', '{}')$$), pg_temp.refused($$SELECT monitoring.run_config_check('monitoring.check_webhook', %L, '{}')$$);
SELECT pg_temp.try($$SELECT monitoring.run_config_check('monitoring.check_webhook', 'regress_notify_admin', '{}')$$);
RESET ROLE;
-- and stays as long as there are receivers of it
SELECT pg_temp.try($$DELETE FROM monitoring.receiver_kinds WHERE kind = 'webhook'$$);
ROLLBACK;
