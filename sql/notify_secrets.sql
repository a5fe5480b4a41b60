-- Secrets of receivers: what is taken, where it is stored and shown, and what formatters get. Everything is rolled back,
-- so that no notifier sees it; test/t/033_notify_secrets.pl sends.
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

CREATE FUNCTION public.format_paging(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql AS $$ SELECT 'POST', receiver ->> 'url', '{}'::jsonb, receiver::text $$;
INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, description)
VALUES ('paging', 'public.format_paging', '{room,username}', '{token,password}', 'a kind with secrets');

-- every way to give one
SELECT monitoring.create_receiver('ops', 'paging', 'https://pager.example.com/in', '{"room": "r", "username": "u",
	"token": "t0ken", "password": {"file": "/etc/monitoring/password"},
	"headers": {"X-Plain": "plain", "X-Value": {"value": "v4lue"}, "X-Env": {"environment": "MONITORING_SECRET_X"}, "X-Later": {"secret": "later"}}}');
SELECT monitoring.create_receiver('hook', 'webhook', config => '{"url": "https://hooks.example.com/t0ken"}');
SELECT monitoring.create_receiver('later', 'webhook', config => '{"url": {"secret": "where"}}');
SELECT name, url, config FROM monitoring.receivers WHERE name IN ('ops', 'hook', 'later') ORDER BY name;
SELECT receiver, key, source, reference FROM monitoring.secrets WHERE receiver IN ('ops', 'hook', 'later') ORDER BY 1, 2;
SELECT receiver, key, source, value FROM monitoring.receiver_secrets WHERE receiver IN ('ops', 'hook', 'later') ORDER BY 1, 2;
-- what could not be used is said when it is saved, and where one looks
SELECT receiver, key, problem FROM monitoring.secrets WHERE receiver IN ('ops', 'hook', 'later') ORDER BY 1, 2;
SELECT receiver, problem FROM monitoring.receiver_health WHERE receiver IN ('ops', 'hook', 'later') ORDER BY 1;
SELECT name, url, config::text ~ 't0ken|v4lue' AS tells FROM monitoring.receiver_defs WHERE name IN ('ops', 'hook', 'later') ORDER BY name;

-- what formatters get in a preview, and what the notifier gives them
SELECT monitoring.redacted_receiver('ops');
SELECT monitoring.redacted_receiver('hook');
SELECT monitoring.redacted_receiver('nobody');
SELECT monitoring.place_secrets('{"name": "x", "url": "https://a/", "config": {"a": {"secret": "k"}, "b": {"secret": "missing"}, "c": {"d": 1}, "headers": {"H": {"secret": "k"}, "P": "p"}}}', '{"k": "MARK"}');

-- set later, changed, dropped
SELECT monitoring.set_receiver_secret('ops', 'later', 's');
SELECT monitoring.set_receiver_secret('ops', 'token', file => '/run/secrets/token');
SELECT monitoring.set_receiver_secret('later', 'where', 'https://hooks.example.com/x');
SELECT receiver, key, source, reference FROM monitoring.secrets WHERE receiver IN ('ops', 'later') ORDER BY 1, 2;
SELECT monitoring.drop_receiver_secret('ops', 'token');
SELECT key, source, set_at IS NOT NULL AS set FROM monitoring.secrets WHERE receiver = 'ops' AND key = 'token';
SELECT pg_temp.try($$SELECT monitoring.drop_receiver_secret('ops', 'token')$$);

-- altering: what is no longer referred to is forgotten
SELECT monitoring.alter_receiver('ops', '{"password": null, "token": {"value": "other"}, "headers": {"X-Value": {"secret": "header.X-Value"}}}');
SELECT key, source, value FROM monitoring.receiver_secrets WHERE receiver = 'ops' ORDER BY 1;
SELECT monitoring.alter_receiver('hook', url => 'https://hooks.example.com/plain');
SELECT url, config FROM monitoring.receiver_defs WHERE name = 'hook';
SELECT count(*) FROM monitoring.receiver_secrets WHERE receiver = 'hook';
SELECT monitoring.alter_receiver('hook', '{"url": {"environment": "MONITORING_SECRET_HOOK"}}');
SELECT url, config FROM monitoring.receiver_defs WHERE name = 'hook';
SELECT monitoring.drop_receiver('ops');
SELECT count(*) FROM monitoring.receiver_secrets WHERE receiver = 'ops';

-- bad ones
SELECT c AS config, pg_temp.try(format('SELECT monitoring.create_receiver(''x'', ''paging'', ''https://example.com/'', %L)', c)) AS outcome
FROM unnest(ARRAY['{"token": 1}', '{"token": null}', '{"token": {}}', '{"token": {"file": "/a", "value": "b"}}', '{"token": {"file": 1}}', '{"token": {"pipe": "x"}}',
	'{"token": ""}', '{"token": "a\nb"}', '{"token": {"value": "a\rb"}}', '{"token": {"file": "relative"}}', '{"token": {"file": "/a\nb"}}',
	'{"token": {"environment": "PATH"}}', '{"token": {"environment": "MONITORING_SECRET_"}}', '{"token": {"secret": "a b"}}', '{"token": {"secret": "basic_auth"}}',
	'{"headers": {"X-A": {}}}', '{"headers": {"X-A": {"value": "a\r\nb"}}}', '{"headers": {"X&A": {"value": "a"}}}',
	'{"url": {"value": "https://example.com/"}}']) WITH ORDINALITY AS t (c, n) ORDER BY n;
SELECT pg_temp.try(format('SELECT monitoring.create_receiver(''x%s'', ''paging'', ''https://example.com/'', %L)', n, jsonb_build_object('token', repeat('x', n)))) AS outcome
FROM generate_series(8192, 8193) AS n;
SELECT pg_temp.try($$SELECT monitoring.create_receiver('x2', 'webhook', config => '{"url": "ftp://s3cret@example.com/"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_receiver('x2', 'webhook', config => '{"url": {"value": "https://s3cret@example.com/"}}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_receiver('x2', 'webhook')$$);
SELECT pg_temp.try($$SELECT monitoring.set_receiver_secret('nobody', 'k', 'v')$$);
SELECT pg_temp.try($$SELECT monitoring.set_receiver_secret('later', 'nowhere', 'v')$$);
SELECT pg_temp.try($$SELECT monitoring.set_receiver_secret('later', NULL, 'v')$$);
SELECT pg_temp.try($$SELECT monitoring.set_receiver_secret('later', 'where')$$);
SELECT pg_temp.try($$SELECT monitoring.set_receiver_secret('later', 'where', 'v', file => '/x')$$);
SELECT pg_temp.try($$SELECT monitoring.set_receiver_secret('later', 'where', 'gopher://example.com/')$$);

-- options of connections
SELECT c AS config, pg_temp.try(format('SELECT monitoring.create_receiver(''tls'' || %s, ''webhook'', ''https://example.com/'', %L)', n, c)) AS outcome
FROM unnest(ARRAY['{"ca_file": "/etc/ca.pem", "cert_file": "/etc/c.pem", "key_file": "/etc/k.pem", "min_tls": "1.3", "http2": false}',
	'{"ca_file": "ca.pem"}', '{"ca_file": "/etc/ca\n.pem"}', '{"ca_file": 1}', '{"key_file": "/etc/k.pem"}', '{"cert_file": "/etc/c.pem"}',
	'{"min_tls": "1.1"}', '{"min_tls": 1.2}', '{"http2": "no"}', '{"starttls": "never"}', '{"proxy": "http://proxy.example.com"}']) WITH ORDINALITY AS t (c, n) ORDER BY n;
SELECT config FROM monitoring.receivers WHERE name = 'tls1';

-- who may see them
CREATE ROLE regress_notify_viewer;
SELECT monitoring.grant_access('regress_notify_viewer', 'viewer');
SET ROLE regress_notify_viewer;
SELECT count(*) > 0 AS seen FROM monitoring.secrets;
SAVEPOINT s;
SELECT count(*) FROM monitoring.receiver_secrets;
ROLLBACK TO s;
SELECT monitoring.set_receiver_secret('later', 'where', 'v');
ROLLBACK;
