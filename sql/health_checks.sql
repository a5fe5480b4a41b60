-- Health checks: those of PostgreSQL itself, what queries may give, score, bad input, rights. All of it is rolled back.
\i sql/health.inc
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

-- ---- PostgreSQL's own ----

SELECT name, every, severity, op, degraded, unhealthy FROM monitoring.health_checks ORDER BY name;
SELECT pg_temp.run_checks(clock_timestamp()) > 0 AS ran;
-- none fails for an error, whatever this server is like
SELECT name, message FROM monitoring.health_status WHERE details ? 'error';
SELECT count(*) AS "never run" FROM monitoring.health_status WHERE checked_at IS NULL;
-- Those that this session or other tests of the server cannot bring about are healthy.
SELECT name, status FROM monitoring.health_status
WHERE name IN ('xid_age', 'multixact_age', 'replication_lag', 'replication_lag_bytes', 'replication_slots', 'prepared_transactions', 'checksum_failures',
	'archiver', 'autovacuum_busy', 'connections', 'sequences', 'invalid_indexes') ORDER BY name;

-- what they are there for
CREATE TABLE public.hc_t (id smallserial PRIMARY KEY, n int) WITH (autovacuum_enabled = off);
SELECT setval('public.hc_t_id_seq', 30000) > 0 AS set;
ALTER TABLE public.hc_t ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
CREATE INDEX hc_broken ON public.hc_t (n);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.hc_broken'::regclass;
SELECT r ->> 'status', r ->> 'message' FROM monitoring.run_health_check('sequences') AS r;
SELECT r ->> 'status', r ->> 'message' FROM monitoring.run_health_check('unvalidated_constraints') AS r;
SELECT r ->> 'status', r ->> 'message' FROM monitoring.run_health_check('invalid_indexes') AS r;
-- bloat: 100,000 narrow rows in 200 MB, as the catalogs say
ANALYZE public.hc_t;
INSERT INTO public.hc_t (id, n) SELECT i, i FROM generate_series(1, 1000) AS i;
ANALYZE public.hc_t;
UPDATE pg_class SET relpages = 25600, reltuples = 100000 WHERE oid = 'public.hc_t'::regclass;
SELECT relation, bytes, bloat_bytes BETWEEN 200000000 AND 209715200 AS most_of_it, bloat_ratio > 0.95 AS nearly_all FROM monitoring.table_bloat() AS b WHERE relation = 'public.hc_t'::regclass;
SELECT r ->> 'status', r ->> 'message' ~ '^public.hc_t: about [0-9]+ MB of 200 MB' FROM monitoring.run_health_check('table_bloat') AS r;
-- an honest estimate where there is none
UPDATE pg_class SET relpages = 1 + 100000 / 226, reltuples = 100000 WHERE oid = 'public.hc_t'::regclass;
SELECT bloat_ratio < 0.05 AS no_bloat FROM monitoring.table_bloat(1) AS b WHERE relation = 'public.hc_t'::regclass;
SELECT monitoring.set_gauge('host_disk_used_ratio', 0.999, '{"mount": "/data"}');
SELECT r ->> 'status', r ->> 'message' ~ '^/data is used up to 99.9 %' FROM monitoring.run_health_check('disk_used', clock_timestamp() + interval '1 second') AS r;

-- ---- what a query may give ----

CREATE FUNCTION pg_temp.result(query text, more jsonb DEFAULT '{}', degraded float8 DEFAULT NULL, unhealthy float8 DEFAULT NULL, op text DEFAULT '>') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r jsonb;
BEGIN
	PERFORM monitoring.create_health_check('hc try', 'sql', jsonb_build_object('query', query) || more, degraded => degraded, unhealthy => unhealthy, op => op, retries => 0);
	r := monitoring.run_health_check('hc try');
	PERFORM monitoring.drop_health_check('hc try');
	RETURN concat_ws(' | ', r ->> 'status', r ->> 'value', r ->> 'message');
END $$;
SELECT pg_temp.result('SELECT true');
SELECT pg_temp.result('SELECT false');
SELECT pg_temp.result('SELECT NULL::boolean');
SELECT pg_temp.result('SELECT 5', '{}', 4, 6);
SELECT pg_temp.result('SELECT 5 AS n', '{}', 6, 5, '<=');
SELECT pg_temp.result('SELECT 7.5 AS value, ''seven and a half'' AS message', '{}', 4, 6);
SELECT pg_temp.result('SELECT 5');
SELECT pg_temp.result('SELECT ''Infinity''::float8 AS value', '{}', 4, 6);
SELECT pg_temp.result('SELECT ''degraded'' AS status, ''so so'' AS message, 1 AS value', '{}', 4, 6);
SELECT pg_temp.result('SELECT ''degraded'' AS status, 9 AS value', '{}', 4, 6);
SELECT pg_temp.result('SELECT ''unknown'' AS status');
SELECT pg_temp.result('SELECT ''nonsense'' AS status');
SELECT pg_temp.result('SELECT i AS value, ''row '' || i AS message FROM generate_series(1, 7) AS i', '{}', 4, 6);
SELECT pg_temp.result('SELECT 1 WHERE false');
SELECT pg_temp.result('SELECT 1 WHERE false', '{"no_rows": "unhealthy"}');
SELECT pg_temp.result('SELECT 1 / (SELECT count(*) FROM pg_class WHERE oid = 0)');
SELECT pg_temp.result('SELECT i AS value FROM generate_series(1, 101) AS i');
SELECT pg_temp.result('SELECT set_config(''search_path'', ''public'', false)');
SHOW search_path;
SELECT pg_temp.result('SELECT nextval(''public.hc_t_id_seq'')');
SELECT monitoring.create_health_check('hc slow', 'sql', '{"query": "SELECT pg_sleep(10)"}', timeout => '20 milliseconds', retries => 0);
SELECT monitoring.run_health_check('hc slow');
SELECT monitoring.drop_health_check('hc slow');

-- ---- counters ----

CREATE TABLE public.hc_counter (hits bigint, total bigint);
INSERT INTO public.hc_counter VALUES (1000, 1000);
SELECT monitoring.create_health_check('hc ratio', 'sql', '{"query": "SELECT hits AS value, total FROM public.hc_counter", "increase_over_seconds": 600, "min_total": 100}',
	op => '<', degraded => 0.9, unhealthy => 0.5, retries => 0);
SELECT monitoring.create_health_check('hc increase', 'sql', '{"query": "SELECT hits AS value FROM public.hc_counter", "increase_over_seconds": 600}', degraded => 50, unhealthy => 500, retries => 0);
CREATE TEMP TABLE start AS SELECT date_trunc('day', clock_timestamp()) + interval '5 hours' AS t;
CREATE FUNCTION pg_temp.count(seconds float8, hits bigint, total bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	moment timestamptz := (SELECT t FROM start) + make_interval(secs => seconds);
	a jsonb; b jsonb;
BEGIN
	UPDATE public.hc_counter SET hits = count.hits, total = count.total;
	a := monitoring.run_health_check('hc ratio', moment);
	b := monitoring.run_health_check('hc increase', moment);
	RETURN format('%s %s %s; %s %s', a ->> 'status', a ->> 'value', a ->> 'message', b ->> 'status', b ->> 'value');
END $$;
SELECT pg_temp.count(0, 1000, 1000);
SELECT pg_temp.count(60, 1010, 1020);
SELECT pg_temp.count(120, 1090, 1200);
SELECT pg_temp.count(180, 1095, 1400);
-- the first is too old by now
SELECT pg_temp.count(630, 1095, 1400);
-- reset
SELECT pg_temp.count(690, 600, 601);

-- ---- score ----

SAVEPOINT score;
DELETE FROM monitoring.health_check_states;
DELETE FROM monitoring.health_check_defs;
SELECT monitoring.create_health_check('hc ' || s, 'sql', '{"query": "SELECT 5"}', degraded => 10, unhealthy => 20, retries => 0, severity => s)
FROM unnest('{critical,high,medium,low,info}'::text[]) AS s;
CREATE FUNCTION pg_temp.score() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	moment timestamptz := (SELECT max(next_at) FROM monitoring.health_check_states);
	h jsonb;
BEGIN
	PERFORM pg_temp.run_checks(moment);
	h := monitoring.health(moment);
	RETURN format('%s %s %s %s', h ->> 'status', h ->> 'score', h -> 'counts', jsonb_path_query_array(h, '$.deductions[*].check'));
END $$;
CREATE FUNCTION pg_temp.give(names text[], n int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM monitoring.alter_health_check('hc ' || s, jsonb_build_object('config', jsonb_build_object('query', 'SELECT ' || n))) FROM unnest(names) AS s;
	RETURN pg_temp.score();
END $$;
SELECT pg_temp.score();
SELECT pg_temp.give('{info}', 25);
SELECT pg_temp.give('{low}', 15);
SELECT pg_temp.give('{medium}', 25);
SELECT pg_temp.give('{high}', 15);
SELECT pg_temp.give('{high}', 25);
SELECT pg_temp.give('{critical}', 25);
UPDATE monitoring.health_weights SET unhealthy = 90 WHERE severity = 'critical';
SELECT monitoring.health_score();
UPDATE monitoring.health_weights SET unhealthy = 40 WHERE severity = 'critical';
SELECT pg_temp.give('{critical,high,medium,low,info}', 5);
-- nobody runs them
SELECT h ->> 'status', h ->> 'score', jsonb_path_query_array(h, '$.deductions[*].why') FROM monitoring.health((SELECT max(next_at) FROM monitoring.health_check_states) + interval '1 hour') AS h;
SELECT check_name, points, status, severity FROM monitoring.health_deductions((SELECT max(next_at) FROM monitoring.health_check_states) + interval '1 hour');
SELECT monitoring.alter_health_check('hc ' || s, '{"enabled": false}') FROM unnest('{critical,high,medium,low,info}'::text[]) AS s;
SELECT monitoring.health((SELECT max(next_at) FROM monitoring.health_check_states) + interval '1 hour') - 'at';
ROLLBACK TO SAVEPOINT score;

-- ---- bad input ----

SELECT pg_temp.try($$SELECT monitoring.create_health_check(NULL, 'sql')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check(E'a\nb', 'sql')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'telepathy')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', NULL)$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '[]')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": 1}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1", "colour": "red"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELEC 1"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "DELETE FROM monitoring.jobs"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1", "no_rows": "fine"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1", "increase_over_seconds": 1e400}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', every => '1 second')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', every => NULL)$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', timeout => '11 seconds')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', retries => -1)$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', op => '=')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', degraded => 2, unhealthy => 1)$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', degraded => 'NaN')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', severity => 'dire')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', labels => '{"check": "y"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', depends_on => '{nobody}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', depends_on => '{x}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}', maintenance => '{never}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('connections', 'sql', '{"query": "SELECT 1"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'heartbeat')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'group', '{"members": []}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'group', '{"members": ["nobody"]}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'group', '{"members": ["connections"], "mode": "most"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'group', '{"members": ["connections"], "mode": "quorum"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'group', '{"members": ["connections"], "quorum": 1}')$$);
SELECT pg_temp.try($$SELECT monitoring.alter_health_check('nobody', '{}')$$);
SELECT pg_temp.try($$SELECT monitoring.alter_health_check('connections', '{"kind": "group"}')$$);
SELECT pg_temp.try($$SELECT monitoring.alter_health_check('connections', '{"retries": "many"}')$$);
SELECT pg_temp.try($$SELECT monitoring.alter_health_check('connections', '{"degraded": 0.99}')$$);
SELECT pg_temp.try($$SELECT monitoring.drop_health_check('nobody')$$);
SELECT pg_temp.try($$SELECT monitoring.run_health_check('nobody')$$);
SELECT pg_temp.try($$SELECT monitoring.report_heartbeat('connections')$$);
SELECT pg_temp.try($$SELECT monitoring.uptime('nobody', now() - interval '1 day')$$);
SELECT pg_temp.try($$SELECT monitoring.uptime('connections', now(), now() - interval '1 day')$$);
SELECT pg_temp.try($$INSERT INTO monitoring.health_check_kinds (kind, function) VALUES ('x', 'public.nothing')$$);
SELECT pg_temp.try($$DELETE FROM monitoring.health_check_kinds WHERE kind = 'sql'$$);

-- ---- bad input: kinds of the network ----

SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "ftp://example.com/"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://me:pw@example.com/"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "headers": {"X": 1}}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "method": "get"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "expect_status": [99]}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "max_redirects": 11}')$$);
SELECT pg_temp.try(format('SELECT monitoring.create_health_check(%L, %L, %L)', 'x', 'http', jsonb_build_object('url', 'http://example.com/') || v.config::jsonb))
FROM (VALUES ('{"url": "http://example.com:0"}'), ('{"url": "http://example.com:65536/"}'), ('{"url": "http://[::1]:x/"}'), ('{"url": "http://example.com:?a"}'),
	('{"headers": {"A b": "x"}}'), ('{"headers": {"": "x"}}'), ('{"headers": {"X\r\nY": "x"}}'), ('{"headers": {"X": "x\r\nY: y"}}'),
	('{"expect_status": []}'), ('{"expect_status": ["300-200"]}')) AS v (config);
SAVEPOINT ports;
SELECT monitoring.create_health_check('port ' || v.url, 'http', jsonb_build_object('url', v.url, 'headers', '{"X-A_b": "x y"}'::jsonb, 'expect_status', '[200, "204-204"]'::jsonb))
FROM (VALUES ('http://[::1]/a:b'), ('http://[::1]:8080?a:b'), ('http://example.com:65535#:x')) AS v (url);
ROLLBACK TO ports;
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "match": "("}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "match": "(a)\\1"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "min_headers_grade": "G"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/", "ca_file": "ca.pem"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'http', '{"url": "http://example.com/"}', timeout => '61 seconds')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'tcp', '{"host": "example.com"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'tcp', '{"host": "example.com/x", "port": 80}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'tcp', '{"host": "example.com", "port": 0}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'dns', '{"host": "example.com", "expect": "1.2.3.4"}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'tls', '{}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'synthetic', '{"steps": []}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'synthetic', '{"steps": [{}]}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'synthetic', '{"steps": [{"url": "http://example.com/", "query": "SELECT 1"}]}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'synthetic', '{"steps": [{"url": "http://example.com/", "save": {"x": "column:y"}}]}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'synthetic', '{"steps": [{"url": "http://example.com/", "save": {"x": "json:$["}}]}')$$);
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'synthetic', '{"steps": [{"url": "http://example.com/", "colour": "red"}]}')$$);
-- what a value could do where it is put
SELECT s.style, monitoring.fill_values('<{{v}}|{{w}}|{{x}}>', jsonb_build_object('v', E'a''b"c\\d&\n{{w}}', 'w', ' OR true --'), s.style) FROM unnest('{sql,json,url,text}'::text[]) AS s (style);
-- what a peer could say
SELECT monitoring.certificate_days(E'Expire date:nonsense\n', now()) IS NULL;
SELECT monitoring.certificate_days(E'Expire date:Jan 11 00:00:00 2030 GMT\n\nExpire date:2030-01-06 00:00:00 GMT\n', '2030-01-01');
SELECT * FROM monitoring.security_headers(E'Strict-Transport-Security: max-age=300\r\nX-Frame-Options: DENY\r\nno colon\r\n: empty\r\n');
SELECT monitoring.saved_values('{"x": "json:$.a.b"}', '{"body": "not JSON"}'), monitoring.saved_values('{"x": "json:$.a.b"}', '{"body": "{\"a\": {\"b\": 5}}"}');

-- ---- rights ----

CREATE ROLE hc_admin;
CREATE ROLE hc_viewer;
SELECT monitoring.grant_access('hc_admin', 'admin');
SELECT monitoring.grant_access('hc_viewer', 'viewer');
SET LOCAL ROLE hc_admin;
SELECT monitoring.create_health_check('hc mine', 'sql', '{"query": "SELECT current_user = ''hc_admin''"}', retries => 0);
SELECT monitoring.run_health_check('hc mine') ->> 'status';
SELECT pg_temp.try($$SELECT monitoring.create_health_check('hc theirs', 'sql', '{"query": "SELECT count(*) FROM pg_catalog.pg_authid"}')$$);
-- a threshold can be changed without taking the query over
SELECT monitoring.alter_health_check('xid_age', '{"degraded": 4e8}');
SELECT owner = 'hc_admin', degraded FROM monitoring.health_checks WHERE name = 'xid_age';
SET LOCAL ROLE hc_viewer;
SELECT pg_temp.try($$SELECT monitoring.create_health_check('x', 'sql', '{"query": "SELECT 1"}')$$);
SELECT pg_temp.try($$SELECT monitoring.run_health_check('connections')$$);
SELECT pg_temp.try($$SELECT * FROM monitoring.health_check_defs$$);
SELECT (monitoring.health() ->> 'score')::int BETWEEN 0 AND 100 AS score, count(*) > 20 AS checks FROM monitoring.health_status;
SELECT count(*) > 20 AS results FROM monitoring.check_results;
RESET ROLE;

-- ---- a kind of one's own ----

CREATE FUNCTION public.hc_dice(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('value', definition -> 'config' -> 'eyes') $$;
INSERT INTO monitoring.health_check_kinds (kind, function, config_keys, degraded, unhealthy) VALUES ('dice', 'public.hc_dice', '{eyes}', 3, 5);
SELECT monitoring.create_health_check('hc dice', 'dice', '{"eyes": 4}', retries => 0);
SELECT monitoring.run_health_check('hc dice') ->> 'status';
SELECT monitoring.alter_health_check('hc dice', '{"config": {"eyes": "many"}}');
SELECT monitoring.run_health_check('hc dice');
ROLLBACK;
UPDATE monitoring.jobs SET enabled = true WHERE name IN ('health_checks', 'health_metrics', 'evaluate_alerts');
