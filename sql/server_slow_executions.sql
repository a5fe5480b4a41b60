-- slow executions: what is kept of them, however they end, and who may see it
SET client_min_messages = warning;
\set VERBOSITY terse
CREATE SCHEMA sx;
CREATE TABLE sx.t AS SELECT g AS a, 'x' AS b FROM generate_series(1, 1000) AS g;
VACUUM ANALYZE sx.t;
-- On a machine that is busy anything may be slow.
CREATE VIEW sx.kept AS
	SELECT e.*, regexp_replace(e.statement, '^PREPARE p AS ', '') AS text
	FROM monitoring.slow_executions AS e
	WHERE e.application LIKE 'sx%' AND e.statement ~ 'pg_sleep|sx.slow|^DO';
-- Waits until so many executions of this test are stored.
CREATE FUNCTION sx.stored(n bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		PERFORM monitoring.drain_signals();
		IF (SELECT count(*) >= n FROM sx.kept) THEN
			RETURN true;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN false;
END $$;
CREATE FUNCTION sx.slow(seconds float8) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(seconds);
	RETURN 1;
END $$;

SET application_name = 'sx';
SET monitoring.correlation_id = 'order-17';
SET monitoring.slow_query_threshold = '30ms';
SELECT count(*), sx.slow(0.04) FROM sx.t WHERE b = 'secret' /*action='pay',traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/;
SELECT pg_sleep(0.04) /* traceparent='00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' is not one, nor is it in a */, 'traceparent=''00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01''' AS literal;
RESET monitoring.correlation_id;
-- errors, caught and not; a timeout; a rollback; what is prepared
SELECT a / (a - a), pg_sleep(0.04) FROM sx.t WHERE pg_sleep(0.04) IS NOT NULL LIMIT 1;
DO $$ BEGIN PERFORM 1 / (a - 1), pg_sleep(0.04) FROM sx.t WHERE pg_sleep(0.04) IS NOT NULL; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
SET statement_timeout = '50ms';
SELECT pg_sleep(10);
RESET statement_timeout;
BEGIN;
UPDATE sx.t SET b = 'y' WHERE a <= 10 AND pg_sleep(0.004) IS NOT NULL;
ROLLBACK;
PREPARE p AS SELECT pg_sleep($1);
EXECUTE p(0.04);
EXECUTE p(0.001);
-- literals and plans by settings; never a password
SET application_name = 'sx plan';
SET monitoring.slow_query_plans = on;
SELECT count(*), sx.slow(0.04) FROM sx.t WHERE b = 'secret' AND a > 4242;
SET monitoring.slow_query_literals = on;
SELECT count(*), sx.slow(0.04) FROM sx.t WHERE b = 'secret' AND a > 4242;
SELECT pg_sleep(0.04), 'my password is secret';
SET application_name = 'psql';
RESET monitoring.slow_query_threshold;
RESET monitoring.slow_query_plans;
RESET monitoring.slow_query_literals;
SELECT sx.stored(14);

SELECT toplevel, outcome, sqlstate, duration_seconds BETWEEN 0.03 AND 10 AS slow, preparing_seconds < 10 AND planning_seconds <= preparing_seconds AS prepared, rows, correlation_id, traceparent, text
FROM sx.kept WHERE application = 'sx' ORDER BY number;
SELECT statement, toplevel, regexp_replace(plan, '\(cost=[^)]*\)', '(cost)', 'g') AS plan
FROM sx.kept WHERE application = 'sx plan' ORDER BY number;
-- the same shape has the same hash, whatever the literals and whether they are shown
SELECT count(DISTINCT plan_hash), count(plan_hash) FROM monitoring.slow_executions WHERE application = 'sx plan' AND statement LIKE '%sx.t%';
SELECT bool_and(login = current_user AND username = current_user AND database = current_database() AND pid = pg_backend_pid() AND client <> ''
	AND started_at <= at AND queryid <> 0 AND wait_samples >= 0) AS known,
	bool_or(shared_hit_bytes > 0) AS read, bool_or(wal_bytes > 0) AS wrote
FROM monitoring.slow_executions WHERE application LIKE 'sx%';
SELECT total >= 14 AS counted, not_stored >= 0 AS honest FROM monitoring.slow_execution_totals WHERE database = current_database();
SELECT monitoring.value('pg_slow_executions_total', 'increase', '1 hour', jsonb_build_object('database', current_database())) >= 14 AS recorded;

-- the threshold is the role's, or the database's
SELECT format('ALTER ROLE %I IN DATABASE %I SET monitoring.slow_query_threshold = %L', current_user, current_database(), '25ms') \gexec
\c -
SET application_name = 'sx role';
SELECT pg_sleep(0.03);
SELECT format('ALTER ROLE %I IN DATABASE %I RESET monitoring.slow_query_threshold', current_user, current_database()) \gexec
SELECT format('ALTER DATABASE %I SET monitoring.slow_query_threshold = %L', current_database(), '28ms') \gexec
\c -
SET client_min_messages = warning;
SET application_name = 'sx database';
SELECT pg_sleep(0.03);
SELECT format('ALTER DATABASE %I RESET monitoring.slow_query_threshold', current_database()) \gexec
\c -
SET client_min_messages = warning;
\set VERBOSITY terse
SELECT sx.stored(16);
SELECT application, statement FROM sx.kept WHERE application IN ('sx role', 'sx database') ORDER BY number;

-- others see that there was something, and what they ran themselves
CREATE ROLE regress_monitoring_slow LOGIN;
SELECT monitoring.grant_access('regress_monitoring_slow', 'viewer');
SET ROLE regress_monitoring_slow;
SELECT count(*) = count(*) FILTER (WHERE statement = '<insufficient privilege>') AS hidden, count(*) > 0 AS some, count(plan) AS plans, count(client) AS clients, count(correlation_id) AS ids
FROM monitoring.slow_executions WHERE application = 'sx';
SET monitoring.slow_query_literals = on;
RESET ROLE;
GRANT pg_read_all_stats TO regress_monitoring_slow;
SET ROLE regress_monitoring_slow;
SELECT count(*) FILTER (WHERE statement = '<insufficient privilege>') AS hidden, count(client) > 0 AS clients FROM monitoring.slow_executions WHERE application = 'sx';
RESET ROLE;
SELECT monitoring.revoke_access('regress_monitoring_slow');
DROP ROLE regress_monitoring_slow;
DROP SCHEMA sx CASCADE;
