-- Queries that rules hold: run as their owner, confined, and nothing remains of what they did.
SET client_min_messages = warning;
CREATE ROLE mon_test_author;
CREATE ROLE mon_test_other;
CREATE SCHEMA mon_test AUTHORIZATION mon_test_author;
SET ROLE mon_test_author;
CREATE TYPE mon_test.size AS ENUM ('small', 'large');
CREATE TABLE mon_test.orders (n int, state text, size mon_test.size);
INSERT INTO mon_test.orders VALUES (1, 'new', 'small'), (2, 'paid', 'large'), (3, NULL, 'large');
CREATE SEQUENCE mon_test.numbers;
CREATE FUNCTION mon_test.execute(sql text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE sql; RETURN 1; END $$;
CREATE FUNCTION mon_test.add() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO mon_test.orders VALUES (9); RETURN 1; END $$;
-- catches every cancel and goes on
CREATE FUNCTION mon_test.stubborn() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		BEGIN
			LOOP
				BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END;
			END LOOP;
		EXCEPTION WHEN query_canceled THEN NULL;
		END;
	END LOOP;
END $$;
CREATE FUNCTION mon_test.catches() RETURNS int LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(600); RETURN 1; EXCEPTION WHEN query_canceled THEN RAISE EXCEPTION 'something else'; END $$;
CREATE FUNCTION mon_test.cancels() RETURNS int LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not a real cancel' USING ERRCODE = 'query_canceled'; END $$;
RESET ROLE;
\t on

CREATE FUNCTION pg_temp.run(query text, timeout interval DEFAULT '30 seconds')
RETURNS TABLE (labels jsonb, value float8, error text) LANGUAGE sql AS $$
	SELECT r.labels, r.value, r.error
	FROM monitoring.try_rule_query('mon_test_author', run.query, run.timeout, 1000, false, '2026-01-01 12:00+00', '1 hour') AS r
$$;
CREATE TEMP TABLE settings_before AS SELECT name, setting FROM pg_settings;

-- values and labels
SELECT * FROM pg_temp.run('SELECT state, size, n FROM mon_test.orders');
SELECT * FROM pg_temp.run('SELECT extract(epoch FROM $1 - $2) - extract(epoch FROM ''2026-01-01 11:00+00''::timestamptz)');
SELECT * FROM pg_temp.run('TABLE mon_test.orders');
SELECT * FROM pg_temp.run('SELECT 1 WHERE false');
SELECT * FROM pg_temp.run('SELECT ''no value'' AS t, NULL::int AS v UNION ALL SELECT ''NaN'', ''NaN''::float8 UNION ALL SELECT ''Infinity'', ''Infinity''');
SELECT * FROM pg_temp.run('SELECT 1e300::numeric');
SELECT left(error, 4), right(error, 43) FROM pg_temp.run('SELECT 1e400');
SELECT * FROM pg_temp.run($$SELECT E'a\nb' AS t, true AS b, 5::oid AS o, 'pg_catalog.pg_class'::regclass AS r, 'x'::"char" AS c,
	'10.0.0.1'::inet AS i, '00000000-0000-0000-0000-000000000001'::uuid AS u, 2::smallint AS v$$);
SELECT length(labels ->> 't'), value FROM pg_temp.run('SELECT repeat(''x'', 5000) AS t, 1');
-- columns
SELECT * FROM pg_temp.run('SELECT state, n, n + 1 AS m FROM mon_test.orders');
SELECT * FROM pg_temp.run('SELECT state FROM mon_test.orders');
SELECT * FROM pg_temp.run('SELECT now(), 1');
SELECT * FROM pg_temp.run('SELECT ''a'', 1');
SELECT * FROM pg_temp.run('SELECT ''a'' AS t, ''b'' AS t, 1');
-- rows
SELECT * FROM pg_temp.run('SELECT size, n FROM mon_test.orders');
SELECT * FROM pg_temp.run('SELECT g::text AS g, g FROM generate_series(1, 1000000) AS g');
SELECT * FROM pg_temp.run('SELECT repeat(''x'', 100000) AS t, 1');
SELECT * FROM pg_temp.run((SELECT 'SELECT ' || string_agg('repeat(''x'', 1000) AS l' || n, ', ') || ', 1' FROM generate_series(1, 10) AS n));
-- statements
SELECT * FROM pg_temp.run('SELEKT 1');
SELECT * FROM pg_temp.run('');
SELECT * FROM pg_temp.run('SELECT 1; DROP TABLE mon_test.orders');
SELECT * FROM pg_temp.run('SELECT n FROM orders');
SELECT * FROM pg_temp.run('SELECT $3');
SELECT * FROM pg_temp.run('EXPLAIN SELECT 1');
SELECT * FROM pg_temp.run('SELECT 1 AS n INTO mon_test.copy');
SELECT * FROM pg_temp.run('DROP TABLE mon_test.orders');
SELECT * FROM pg_temp.run('SELECT 1 / n FROM (VALUES (0)) AS v (n)');
-- writes
SELECT * FROM pg_temp.run('DELETE FROM mon_test.orders RETURNING n');
SELECT * FROM pg_temp.run('WITH d AS (DELETE FROM mon_test.orders RETURNING n) SELECT n FROM d');
SELECT * FROM pg_temp.run('SELECT n FROM (SELECT n FROM mon_test.orders FOR UPDATE) AS o');
SELECT * FROM pg_temp.run('SELECT mon_test.add()');
SELECT * FROM pg_temp.run('SELECT nextval(''mon_test.numbers'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''CREATE TABLE mon_test.made ()'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''CREATE TEMP TABLE made ()'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''SET TRANSACTION READ WRITE'')');
SELECT * FROM pg_temp.run('SELECT set_config(''transaction_read_only'', ''off'', true), 1');
-- becoming somebody else, leaving something behind
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''RESET ROLE'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''SET SESSION AUTHORIZATION mon_test_other'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''DECLARE c CURSOR WITH HOLD FOR SELECT 1'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''DECLARE c CURSOR FOR SELECT 1'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''PREPARE p AS SELECT 1'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''LISTEN mon_test'')');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''LOCK TABLE mon_test.orders'')');
SELECT * FROM pg_temp.run('SELECT set_config(''work_mem'', ''77MB'', false) AS a, set_config(''search_path'', ''public'', false) AS b, 1');
SELECT * FROM pg_temp.run('SELECT rolname, 1 FROM pg_authid');
-- time
SELECT * FROM pg_temp.run('SELECT pg_sleep(600)::text AS t, 1', '50 milliseconds');
SELECT * FROM pg_temp.run('SELECT mon_test.stubborn()', '50 milliseconds');
SELECT * FROM pg_temp.run('SELECT mon_test.catches()', '50 milliseconds');
SELECT * FROM pg_temp.run('SELECT mon_test.cancels()');

-- nothing of that remains
SELECT count(*) FROM mon_test.orders;
SELECT last_value, is_called FROM mon_test.numbers;
SELECT b.name, b.setting, s.setting FROM settings_before AS b JOIN pg_settings AS s USING (name) WHERE b.setting <> s.setting;
SELECT count(*) FROM pg_class WHERE relname IN ('made', 'copy');
SELECT current_user = session_user AS same_user, current_setting('transaction_read_only') AS read_only;
SELECT count(*) FROM pg_cursors;
SELECT count(*) FROM pg_prepared_statements;
SELECT count(*) FROM pg_listening_channels();
SELECT count(*) FROM pg_locks WHERE relation = 'mon_test.orders'::regclass;
-- within a transaction as well, which goes on
BEGIN;
CREATE TABLE mon_test.made_here (n int);
SELECT * FROM pg_temp.run('SELECT mon_test.add()');
SELECT * FROM pg_temp.run('SELECT mon_test.execute(''LOCK TABLE mon_test.orders'')');
SELECT * FROM pg_temp.run('SELECT mon_test.stubborn()', '50 milliseconds');
SELECT count(*) FROM pg_locks WHERE relation = 'mon_test.orders'::regclass AND mode = 'AccessExclusiveLock';
INSERT INTO mon_test.made_here VALUES (1);
SET LOCAL statement_timeout = '20s';
SELECT * FROM pg_temp.run('SELECT count(*) FROM mon_test.orders');
ROLLBACK;

-- the session's own timeout is no fault of the query, and none of the query's remains
SET statement_timeout = '50ms';
\set VERBOSITY sqlstate
SELECT * FROM pg_temp.run('SELECT pg_sleep(600)::text AS t, 1');
SET statement_timeout = '30s';
SELECT * FROM pg_temp.run('SELECT pg_sleep(600)::text AS t, 1', '50 milliseconds');
SELECT count(*) FROM generate_series(1, 100000);
RESET statement_timeout;

-- errors as errors; whole rows
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT n, state FROM mon_test.orders WHERE n < 3');
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT n, state FROM mon_test.orders', max_rows => 2);
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT mon_test.add()');
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT pg_sleep(600)::text AS t, 1', '50 milliseconds');
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT n, n * 1.5 AS m, ARRAY[n] AS a, state FROM mon_test.orders', any_columns => true);
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT repeat(''x'', 100000)', any_columns => true);
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT 1', '0');
SELECT * FROM monitoring.run_rule_query('mon_test_author', 'SELECT 1', max_rows => -1);
SELECT * FROM monitoring.run_rule_query('mon_test_nobody', 'SELECT 1');
SELECT error FROM monitoring.try_rule_query('mon_test_nobody', 'SELECT 1');
SELECT error FROM monitoring.try_rule_query(current_user, 'SELECT value FROM monitoring.run_rule_query(current_user, ''SELECT 1'')');

-- who may: nobody gets rights that are not his
GRANT EXECUTE ON FUNCTION monitoring.run_rule_query TO mon_test_other;
GRANT EXECUTE ON FUNCTION monitoring.try_rule_query TO mon_test_other;
GRANT EXECUTE ON FUNCTION monitoring.check_rule_query TO mon_test_other;
GRANT USAGE ON SCHEMA monitoring TO mon_test_other;
SELECT session_user AS superuser \gset
SET ROLE mon_test_other;
SELECT value FROM monitoring.run_rule_query('mon_test_other', 'SELECT 1');
SELECT value FROM monitoring.run_rule_query('mon_test_author', 'SELECT 1');
SELECT value FROM monitoring.try_rule_query(:'superuser', 'SELECT 1');
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT 1');
RESET ROLE;
GRANT mon_test_author TO mon_test_other;
SET ROLE mon_test_other;
SELECT value FROM monitoring.run_rule_query('mon_test_author', 'SELECT count(*) FROM mon_test.orders');
RESET ROLE;

-- what can be known without running it
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT pg_sleep(600)::text AS t, count(*) FROM mon_test.orders WHERE $1 < now() - $2');
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT n, n FROM mon_test.orders');
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT n, n FROM mon_test.orders', any_columns => true);
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT n FROM orders');
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT n FROM mon_test.orders FOR SHARE');
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT count(*) FROM pg_authid');
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT 1; SELECT 2');
SELECT monitoring.check_rule_query('mon_test_author', 'SELECT 1 / 0');
SELECT count(*) FROM pg_cursors;

\set VERBOSITY default
DROP SCHEMA mon_test CASCADE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA monitoring FROM mon_test_other;
REVOKE ALL ON SCHEMA monitoring FROM mon_test_other;
DROP ROLE mon_test_author, mon_test_other;
