-- sessions and locks: what needs no second session. Real ones are in test/t/044_activity.pl.
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
\set VERBOSITY terse

-- modes of locks: the server's table, which is symmetric
SELECT held.mode, count(*) FILTER (WHERE monitoring.lock_conflicts(held.mode, wanted.mode)) AS conflicts,
	bool_and(monitoring.lock_conflicts(held.mode, wanted.mode) = monitoring.lock_conflicts(wanted.mode, held.mode)) AS symmetric
FROM unnest('{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::text[])
	WITH ORDINALITY AS held (mode, i)
CROSS JOIN unnest('{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::text[]) AS wanted (mode)
GROUP BY held.mode, held.i ORDER BY held.i;
SELECT monitoring.lock_conflicts('SIReadLock', 'AccessShareLock');

SELECT s, monitoring.duration_text(s) FROM unnest('{-1,0,0.04,9.99,10,119.9,120,7199,7200,172799,172800,1e9}'::float8[]) AS s;

SELECT monitoring.without_literals($$SELECT 'secret', 17 /* note */ FROM t WHERE a = E'x\'y'$$);
SELECT monitoring.without_literals(''), length(monitoring.without_literals(repeat('select a from t; ', 10000))) < 8192;

SELECT monitoring.lock_object('relation', (SELECT oid FROM pg_database WHERE datname = current_database()), 'monitoring.jobs'::regclass, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	monitoring.lock_object('tuple', (SELECT oid FROM pg_database WHERE datname = current_database()), 'pg_class'::regclass, 3, 4::smallint, NULL, NULL, NULL, NULL, NULL),
	monitoring.lock_object('relation', 1, 1259, NULL, NULL, NULL, NULL, NULL, NULL, NULL) LIKE 'relation 1259 of database %' AS elsewhere,
	monitoring.lock_object('transactionid', NULL, NULL, NULL, NULL, '77', NULL, NULL, NULL, NULL),
	monitoring.lock_object('virtualxid', NULL, NULL, NULL, NULL, NULL, '3/7', NULL, NULL, NULL);
SELECT monitoring.lock_object('advisory', 1, NULL, NULL, NULL, NULL, NULL, 1, 2, 1::smallint), monitoring.lock_object('advisory', 1, NULL, NULL, NULL, NULL, NULL, 1, 2, 2::smallint),
	monitoring.lock_object('object', 1, NULL, NULL, NULL, NULL, NULL, 'pg_proc'::regclass, 5, 0::smallint), monitoring.lock_object('frozenid', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

-- rows of the user's beside those that came with the extension
INSERT INTO monitoring.kill_rules (position, application, verdict, reason) VALUES (1, '^payroll', 'never', 'It pays people.');
SELECT position, application, builtin FROM monitoring.kill_rules ORDER BY position LIMIT 2;
INSERT INTO monitoring.kill_rules (position, verdict, reason) VALUES (2, 'perhaps', '');
DELETE FROM monitoring.kill_rules WHERE NOT builtin;
UPDATE monitoring.session_limits SET warning = '-1 s';
SELECT problem, warning, critical, ignored_applications FROM monitoring.session_limits ORDER BY problem COLLATE "C";

-- this session is no problem of its own
BEGIN;
SELECT count(*) FROM monitoring.problem_sessions_at(clock_timestamp() + interval '1 year') WHERE pid = pg_backend_pid();
COMMIT;
SELECT scope, connections > 0 FROM monitoring.connection_pool WHERE scope = 'server';

-- minutes that are stored: which are in a window, and whose they are
BEGIN;
SET LOCAL monitoring.track_statements = 'none';
SELECT monitoring.ensure_partition('wait_minutes', '2031-01-01 12:00') IS NOT NULL;
CREATE ROLE regress_monitoring_waits;
INSERT INTO monitoring.wait_minutes (bucket, in_database, userid, queryid, backend_type, wait_event_type, wait_event, samples, seconds) VALUES
	('2031-01-01 12:01', true, 'regress_monitoring_waits'::regrole, 11, 'client backend', 'CPU', 'CPU', 60, 60),
	('2031-01-01 12:01', true, 'regress_monitoring_waits'::regrole, 12, 'client backend', 'Lock', 'transactionid', 30, 30),
	('2031-01-01 12:02', true, 'regress_monitoring_waits'::regrole, 12, 'client backend', 'Lock', 'transactionid', 90, 45),
	('2031-01-01 12:02', false, 0, 0, 'checkpointer', 'IO', 'DataFileFlush', 3, 1.5);
SELECT bucket, database = current_database() AS here, username, queryid, wait_event, samples FROM monitoring.wait_history WHERE bucket > '2031-01-01' ORDER BY bucket, wait_event COLLATE "C";
SELECT since, until, p.wait_event, p.samples, p.seconds, round(p.share::numeric, 3) AS share
FROM (VALUES ('2031-01-01 12:00'::timestamptz, '2031-01-01 12:02'::timestamptz), ('2031-01-01 12:00', '2031-01-01 12:01'),
	('2031-01-01 12:00:59', '2031-01-01 12:01'), ('2031-01-01 12:01', '2031-01-01 12:01:01'), ('2031-01-01 12:02', '2031-01-01 12:03')) AS w (since, until)
LEFT JOIN LATERAL monitoring.wait_profile(w.since, w.until) AS p ON true
ORDER BY since, until, p.seconds DESC;
SELECT wait_event, seconds FROM monitoring.wait_profile('2031-01-01', '2031-01-02', 12);
SELECT wait_event, seconds FROM monitoring.wait_profile('2031-01-01', '2031-01-02', username => 'regress_monitoring_waits');
SELECT queryid, query, seconds, wait_event, wait_seconds, share FROM monitoring.statement_waits_over('5 min', '2031-01-01 12:05') ORDER BY queryid;
ROLLBACK;
SELECT monitoring.roll_up_waits('infinity');
SELECT monitoring.roll_up_waits(NULL);
