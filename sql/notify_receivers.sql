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

-- unknown receivers
SELECT pg_temp.try($$SELECT monitoring.enable_receiver('nobody')$$);
SELECT pg_temp.try($$SELECT monitoring.drop_receiver('nobody')$$);
SELECT pg_temp.try($$SELECT monitoring.test_receiver('nobody')$$);
SELECT monitoring.enable_receiver('ops', false);
SELECT pg_temp.try($$SELECT monitoring.test_receiver('ops')$$);

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
-- and stays as long as there are receivers of it
SELECT pg_temp.try($$DELETE FROM monitoring.receiver_kinds WHERE kind = 'webhook'$$);
ROLLBACK;
