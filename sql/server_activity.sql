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
