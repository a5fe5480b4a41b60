-- statements: history and views over stored intervals. The real source is tested in test/t/040_statements.pl.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
\set VERBOSITY terse

-- without pg_stat_statements: no error, a hint
SELECT installed, version, watching_since, hint IS NOT NULL AS has_hint FROM monitoring.statement_source;
SELECT monitoring.snapshot_statements('2031-01-01 00:00:00');
SELECT monitoring.snapshot_statements(NULL);
SELECT monitoring.snapshot_statements('infinity');

-- texts are cut between characters
SELECT n, octet_length(monitoring.clip_text(repeat('é', 10), n)) AS two, octet_length(monitoring.clip_text(repeat('€', 10), n)) AS three,
	octet_length(monitoring.clip_text(repeat('x', 10), n)) AS one
FROM unnest('{1,2,3,4,9,10,11,20,29,30,31}'::integer[]) AS n;
SELECT octet_length(monitoring.clip_text('x' || repeat('é', 100000), 8192));

-- passwords
SELECT monitoring.redact_statement(q) FROM (VALUES
	(1, $q$ALTER ROLE a PASSWORD 'x''y' VALID UNTIL '2031-01-01'$q$),
	(2, $q$CREATE USER a encrypted password E'x\'y''z\\' LOGIN$q$),
	(3, $q$ALTER ROLE a PASSWORD 'x\' LOGIN$q$),
	(4, $q$ALTER ROLE a PASSWORD$$x'y$$ LOGIN$q$),
	(5, $q$ALTER ROLE a PASSWORD $p$x$$y$p$ LOGIN$q$),
	(6, $q$ALTER ROLE a PASSWORD 'cut off$q$),
	(7, $q$CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'x')$q$),
	(8, $q$CREATE SUBSCRIPTION s CONNECTION 'host=h password=x user=u' PUBLICATION p$q$),
	(9, $q$SELECT 1 FROM u WHERE password=$1 AND password_hash = $2 AND password = f($3)$q$),
	(10, $q$ALTER ROLE a PASSWORD NULL$q$)) AS v (n, q) ORDER BY n;

-- the columns of different versions
SELECT c.version, m.source
FROM (VALUES ('1.4', '{userid,dbid,queryid,query,calls,total_time,min_time,max_time,rows,blk_read_time}'::text[]),
	('1.10', '{toplevel,calls,total_plan_time,total_exec_time,blk_read_time,temp_blk_read_time,jit_inlining_time,jit_emission_time}'),
	('1.11', '{toplevel,calls,total_exec_time,shared_blk_read_time,local_blk_read_time,temp_blk_read_time,stats_since}')) AS c (version, columns),
	regexp_split_to_table(monitoring.statement_source_columns(c.columns), ', ') WITH ORDINALITY AS m (source, position)
WHERE m.source ~ ' AS (calls|total_seconds|planning_seconds|io_read_seconds|jit_seconds|toplevel|stats_since)$|^s\.'
ORDER BY c.version COLLATE "C", m.position;

-- slow is what was slow in an interval: not 11 and 12, whose sum or longest execution is large; 13 in one of two
BEGIN;
CREATE ROLE regress_monitoring_one;
CREATE ROLE regress_monitoring_two;
GRANT USAGE ON SCHEMA monitoring TO regress_monitoring_one;
GRANT SELECT ON monitoring.slow_queries, monitoring.statement_history, monitoring.statement_queries TO regress_monitoring_one;
GRANT EXECUTE ON FUNCTION monitoring.slow_queries_over(interval, timestamptz),
	monitoring.slow_query_values(timestamptz, interval, float8, bigint[]) TO regress_monitoring_one;
SET LOCAL monitoring.slow_query_threshold = '500ms';
SELECT monitoring.ensure_partition('statement_deltas', '2031-01-01 12:00') IS NOT NULL AS made;
INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, rows)
SELECT t, t - interval '10 s', q, r::regrole, true, c, s, m, n
FROM (VALUES
	('2031-01-01 12:00:10'::timestamptz, 11, 'regress_monitoring_one', 100, 0.4, 0.3, NULL::bigint),
	('2031-01-01 12:00:20', 11, 'regress_monitoring_one', 100, 9.6, NULL, 7),
	('2031-01-01 12:00:10', 12, 'regress_monitoring_one', 10000, 40, 0.45, 1),
	('2031-01-01 12:00:10', 13, 'regress_monitoring_two', 1, 0.6, 0.6, 5),
	('2031-01-01 12:00:20', 13, 'regress_monitoring_two', 999, 1.4, NULL, 5),
	('2031-01-01 12:00:20', 13, 'regress_monitoring_one', 1, 0.0, NULL, 5),
	('2031-01-01 12:00:30', 14, 'regress_monitoring_one', 2, 1.0, 0.5, 2)) AS v (t, q, r, c, s, m, n);
INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen)
SELECT q, r::regrole, 'select ' || q, '2031-01-01 12:00:10'
FROM (VALUES (13, 'regress_monitoring_two'), (14, 'regress_monitoring_one')) AS v (q, r);

SELECT queryid, username, query, calls, mean_seconds, max_interval_mean_seconds, max_seconds, total_seconds, rows,
	round(share_of_total_time::numeric, 4) AS share, first_seen, last_seen, slowest_at
FROM monitoring.slow_queries_over('1 minute', '2031-01-01 12:01:00') ORDER BY queryid;
-- the window is (at - over, at]
SELECT over, at, array_agg(queryid ORDER BY queryid)
FROM (VALUES ('10 s'::interval, '2031-01-01 12:00:20'::timestamptz), ('10 s', '2031-01-01 12:00:19'), ('10 s', '2031-01-01 12:00:20.000001'),
	('20 s', '2031-01-01 12:00:30'), ('10 s', '2031-01-01 13:00:00')) AS w (over, at)
LEFT JOIN LATERAL monitoring.slow_query_values(w.at, w.over) ON true
GROUP BY over, at ORDER BY over, at;
-- for alert rules: over all roles, slowest interval of the statement
SELECT queryid, mean_seconds, calls, query FROM monitoring.slow_query_values('2031-01-01 12:01:00', '1 minute') ORDER BY queryid;
SELECT queryid, mean_seconds, calls, query FROM monitoring.slow_query_values('2031-01-01 12:01:00', '1 minute', 0.5) ORDER BY queryid;

-- other roles' texts are hidden, as in pg_stat_statements
SET LOCAL ROLE regress_monitoring_one;
SELECT queryid, query FROM monitoring.slow_queries_over('1 minute', '2031-01-01 12:01:00') ORDER BY queryid;
SELECT queryid, query FROM monitoring.slow_query_values('2031-01-01 12:01:00', '1 minute', 0.5) ORDER BY queryid;
SAVEPOINT a;
SELECT * FROM monitoring.statement_texts;
ROLLBACK TO a;
RESET ROLE;
GRANT pg_read_all_stats TO regress_monitoring_one;
SET LOCAL ROLE regress_monitoring_one;
SELECT queryid, query FROM monitoring.slow_queries_over('1 minute', '2031-01-01 12:01:00') ORDER BY queryid;
RESET ROLE;

-- forgotten statements: too old, or beyond the number kept; those still present stay
DELETE FROM monitoring.statement_counters;
INSERT INTO monitoring.statement_counters
SELECT n, 'regress_monitoring_one'::regrole, true, n = 1, NULL, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n, n, n, n, n,
	t, t - interval '1 hour', t
FROM (SELECT n, '2031-01-10 00:00'::timestamptz - (10 - n) * interval '1 day' AS t FROM generate_series(1, 10) AS n) AS v;
INSERT INTO monitoring.statement_texts SELECT n, 'regress_monitoring_one'::regrole, 'select ' || n, '2031-01-01' FROM generate_series(1, 10) AS n;
SELECT monitoring.purge_statements('2031-01-10 00:00', 5);
SELECT c.queryid, q.query FROM monitoring.statement_counters AS c LEFT JOIN monitoring.statement_queries AS q USING (queryid, userid) ORDER BY 1;
SELECT queryid, calls, mean_seconds, max_seconds, round(share_of_total_time::numeric, 4) AS share, first_seen, last_seen
FROM monitoring.slow_queries ORDER BY queryid;
ROLLBACK;
