-- new and regressed statements, and reports, over stored intervals at virtual times
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET client_min_messages = warning;
\set VERBOSITY terse
BEGIN;
CREATE ROLE regress_monitoring_one;
SET LOCAL monitoring.track_statements = 'none';
SELECT monitoring.snapshot_statements('2031-01-01 00:00') >= 0 AS taken;
DELETE FROM monitoring.statement_deltas;
DELETE FROM monitoring.statement_texts;
DELETE FROM monitoring.statement_totals;
SELECT monitoring.ensure_partition(r, d) IS NOT NULL AS made
FROM (VALUES ('statement_hours', timestamptz '2031-01-01 12:00'), ('statement_hours', '2031-01-07 12:00'), ('statement_deltas', '2031-01-08 12:00'), ('slow_execution_log', '2031-01-05 12:00'), ('slow_execution_log', '2031-01-08 12:00'), ('server_errors', '2031-01-08 12:00')) AS v (r, d);
-- 100 executions in each of the 168 hours of a week, and in the hour after it, as the scenario says
CREATE TEMP TABLE scenario (q bigint, before float8, since_then float8, before_bytes bigint, now_bytes bigint, n int, now_n int, name text);
INSERT INTO scenario VALUES
	(21, 0.030, 0.030, 8192, 8192, 100, 100, 'as ever'),
	(22, 0.030, 0.060, 8192, 8192, 100, 100, 'twice as slow'),
	(23, 0.030, 0.059, 8192, 8192, 100, 100, 'nearly'),
	(24, 0.005, 0.019, 8192, 8192, 100, 100, 'slower, but fast'),
	(25, 0.030, 0.300, 8192, 8192, 100, 49, 'slower, too seldom'),
	(26, 0.030, 0.300, 8192, 8192, 0, 100, 'new'),
	(27, 0.030, 0.030, 8192, 8192 + 1048576, 100, 100, 'reads more'),
	(28, 0.030, 0.030, 8192, 16384, 100, 100, 'reads twice as little'),
	(29, 0.030, 0.030, 8192, 8192, 100, 250, 'often'),
	(30, 0.030, 0.120, 8192, 8192, 100, 100, 'another plan'),
	(31, 0.030, 0.030, 8192, 8192, 100, 100, 'another plan, no slower'),
	(32, 0.030, 0.120, 8192, 8192, 100, 100, 'the same plan');
ALTER TABLE scenario ADD before_sketch monitoring.sketch, ADD now_sketch monitoring.sketch;
UPDATE scenario SET before_sketch = (SELECT monitoring.sketch(before + 0 * g) FROM generate_series(1, n) AS g),
	now_sketch = (SELECT monitoring.sketch(since_then + 0 * g) FROM generate_series(1, now_n) AS g);
INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen) SELECT q, 'regress_monitoring_one'::regrole, name, '2031-01-01' FROM scenario;
INSERT INTO monitoring.statement_totals (queryid, userid, toplevel, first_seen, last_seen, calls)
SELECT q, 'regress_monitoring_one'::regrole, true, CASE WHEN n > 0 THEN '2031-01-01 01:00'::timestamptz ELSE '2031-01-08 00:30' END, '2031-01-08 01:00', n * 168 + now_n FROM scenario;
INSERT INTO monitoring.statement_hours (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, latency, shared_hit_bytes)
SELECT h, h - interval '1 hour', q, 'regress_monitoring_one'::regrole, true, n, n * before, before, before_sketch, n * before_bytes
FROM scenario, generate_series(timestamptz '2031-01-01 01:00', '2031-01-08 00:00', '1 hour') AS h WHERE n > 0;
INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, latency, shared_hit_bytes)
SELECT '2031-01-08 00:30', '2031-01-08 00:29', q, 'regress_monitoring_one'::regrole, true, now_n, now_n * since_then, since_then, now_sketch, now_n * now_bytes
FROM scenario;
UPDATE monitoring.statement_state SET snapshot_at = '2031-01-08 01:00', rolled_up_to = '2031-01-08 00:00';
INSERT INTO monitoring.slow_execution_log (at, started_at, queryid, toplevel, outcome, duration_seconds, preparing_seconds, planning_seconds, rows, shared_hit_bytes, shared_read_bytes,
	shared_dirtied_bytes, shared_written_bytes, local_read_bytes, local_written_bytes, temp_read_bytes, temp_written_bytes, wal_bytes, io_read_seconds, io_write_seconds, jit_seconds,
	wait_samples, waits, userid, username, database, application, pid, statement, plan_hash, plan, number)
SELECT t, t, q, true, 'ok', 1 + n, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, '{"Lock:relation": 2, "CPU": 1}', 'regress_monitoring_one'::regrole, 'regress_monitoring_one', 'shop', 'app', 1, 'text', p, 'plan ' || p, n
FROM (VALUES (timestamptz '2031-01-05 12:00', 30, 1, 1), ('2031-01-08 00:40', 30, 2, 2), ('2031-01-05 12:00', 31, 1, 3), ('2031-01-08 00:40', 31, 2, 4),
	('2031-01-05 12:00', 32, 1, 5), ('2031-01-05 12:00', 32, 2, 6), ('2031-01-08 00:40', 32, 2, 7)) AS v (t, q, p, n);
INSERT INTO monitoring.server_errors (at, last_at, occurrences, issue, severity, sqlstate, message, userid, database, pid, backend_type, queryid)
VALUES ('2031-01-08 00:30', '2031-01-08 00:31', 4, 99, 'ERROR', '22012', 'division by zero', 'regress_monitoring_one'::regrole, 'shop', 1, 'client backend', 30);

SELECT query, reasons, round(p95_ratio::numeric, 2) AS ratio, round(lost_seconds::numeric, 2) AS lost, calls, baseline_calls, round(p95_seconds::numeric, 3) AS p95, round(baseline_p95_seconds::numeric, 3) AS before,
	calls_per_hour AS hourly, baseline_max_calls_per_hour AS hourly_before, bytes_per_call AS bytes, baseline_bytes_per_call AS bytes_before, plan_changed
FROM monitoring.regressed_queries(at => '2031-01-08 01:00') ORDER BY queryid;
-- with other levels; a day later it is the history; before, nothing had changed
SELECT array_agg(query ORDER BY queryid) FROM monitoring.regressed_queries(at => '2031-01-08 01:00', min_ratio => 1.9, min_duration => '10 ms', min_calls => 40);
SELECT count(*) FROM monitoring.regressed_queries(at => '2031-01-08 00:29');
SELECT count(*) FROM monitoring.regressed_queries(at => '2031-01-09 01:00');
SELECT query, usernames, first_seen, calls, max_seconds FROM monitoring.new_queries('1 hour', '2031-01-08 01:00');
SELECT count(*) FROM monitoring.new_queries('1 hour', '2031-01-08 02:30');

-- a report adds up, and is what the views say
CREATE TEMP TABLE report AS SELECT monitoring.query_report(30, '3 days', '2031-01-08 01:00') AS r;
SELECT r ->> 'query' AS query, r ->> 'first_seen' AS first_seen, r #> '{totals,calls}' AS calls, jsonb_array_length(r -> 'hours') AS hours,
	(SELECT sum((h ->> 'calls')::int) FROM jsonb_array_elements(r -> 'hours') AS h) AS in_hours,
	(SELECT sum((u ->> 'calls')::int) FROM jsonb_array_elements(r -> 'users') AS u) AS of_users,
	(r #>> '{hours,-1,hour}') AS last_hour, round((r #>> '{hours,-1,p95_seconds}')::numeric, 3) AS p95, round((r #>> '{hours,0,p95_seconds}')::numeric, 3) AS before,
	r #> '{regressions,0,reasons}' AS regression, r -> 'waits' AS waits, r -> 'slow_execution_count' AS slow, r #>> '{slow_executions,0,username}' AS who
FROM report;
SELECT p.value FROM report, jsonb_array_elements(r -> 'plans') AS p;
SELECT e.value FROM report, jsonb_array_elements(r -> 'errors') AS e;
-- hours that are rolled up are taken once
SELECT (monitoring.query_report(21, '1 day', at) #>> '{totals,calls}')::int AS calls FROM (VALUES (timestamptz '2031-01-08 00:00'), ('2031-01-08 00:30'), ('2031-01-07 12:30')) AS v (at);
-- texts are hidden as everywhere
CREATE ROLE regress_monitoring_two;
SELECT monitoring.grant_access('regress_monitoring_two', 'viewer');
SET LOCAL ROLE regress_monitoring_two;
SELECT query, reasons, plan_changed FROM monitoring.regressed_queries(at => '2031-01-08 01:00') WHERE queryid = 30;
SELECT r ->> 'query' AS query, r #> '{totals,calls}' AS calls, r #>> '{plans,0,plan}' AS plan, r #>> '{errors,0,message}' AS message, r #>> '{slow_executions,0,statement}' AS statement
FROM (SELECT monitoring.query_report(30, '3 days', '2031-01-08 01:00') AS r) AS x;
RESET ROLE;
SELECT monitoring.query_report(17);
ROLLBACK;
