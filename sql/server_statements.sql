-- statements: history and views over stored intervals. What counts statements is tested in test/t/040_statements.pl.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
\set VERBOSITY terse

SELECT monitoring.snapshot_statements(NULL);
SELECT monitoring.snapshot_statements('infinity');

-- the columns of different versions of pg_stat_statements, and none of it
SELECT c.version, m.source
FROM (VALUES ('1.4', '{userid,dbid,queryid,query,calls,total_time,min_time,max_time,rows,blk_read_time}'::text[]),
	('1.10', '{toplevel,calls,total_plan_time,total_exec_time,blk_read_time,temp_blk_read_time,jit_inlining_time,jit_emission_time}'),
	('1.11', '{toplevel,calls,total_exec_time,shared_blk_read_time,local_blk_read_time,temp_blk_read_time,stats_since}')) AS c (version, columns),
	regexp_split_to_table(monitoring.statement_source_columns(c.columns), ', ') WITH ORDINALITY AS m (source, position)
WHERE m.source ~ ' AS (calls|total_seconds|rows|toplevel|stats_since)$|^s\.'
ORDER BY c.version COLLATE "C", m.position;
SELECT * FROM monitoring.compare_statements();

-- slow is what took long once; snapshots at virtual times, of which the first takes what this session has done
BEGIN;
CREATE ROLE regress_monitoring_one;
CREATE ROLE regress_monitoring_two;
SELECT monitoring.grant_access('regress_monitoring_one', 'viewer');
SET LOCAL monitoring.slow_query_threshold = '500ms';
SET LOCAL monitoring.track_statements = 'none';
SELECT monitoring.snapshot_statements('2031-01-01 12:00:00') > 0 AS taken;
DELETE FROM monitoring.statement_deltas;
DELETE FROM monitoring.statement_texts;
DELETE FROM monitoring.statement_totals;
INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, errors, total_seconds, max_seconds, latency, rows)
SELECT t, t - interval '10 s', q, r::regrole, true, cardinality(s), e, (SELECT sum(x) FROM unnest(s) AS x), (SELECT max(x) FROM unnest(s) AS x),
	(SELECT monitoring.sketch(x) FROM unnest(s) AS x), n
FROM (VALUES
	('2031-01-01 12:00:10'::timestamptz, 11, 'regress_monitoring_one', array_fill(0.004::float8, '{100}'), NULL, NULL::bigint),
	('2031-01-01 12:00:20', 11, 'regress_monitoring_one', array_fill(0.096::float8, '{100}'), 3, 7),
	('2031-01-01 12:00:10', 12, 'regress_monitoring_one', array_fill(0.45::float8, '{1000}'), NULL, 1),
	('2031-01-01 12:00:10', 13, 'regress_monitoring_two', '{0.6}', NULL, 5),
	('2031-01-01 12:00:20', 13, 'regress_monitoring_two', array_fill(0.001::float8, '{999}'), NULL, 5),
	('2031-01-01 12:00:20', 13, 'regress_monitoring_one', '{0}', NULL, 5),
	('2031-01-01 12:00:30', 14, 'regress_monitoring_one', '{0.5,0.4}', NULL, 2),
	('2031-01-01 12:00:30', 0, 'regress_monitoring_one', '{0.5}', NULL, 1)) AS v (t, q, r, s, e, n);
INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen)
SELECT q, r::regrole, 'select ' || q, '2031-01-01 12:00:10'
FROM (VALUES (13, 'regress_monitoring_two'), (14, 'regress_monitoring_one')) AS v (q, r);
SELECT monitoring.snapshot_statements('2031-01-01 12:01:00') AS written;

SELECT queryid, username, query, calls, errors, round(mean_seconds::numeric, 4) AS mean, round(p50_seconds::numeric, 3) AS p50,
	round(p99_seconds::numeric, 3) AS p99, max_seconds AS max, round(total_seconds::numeric, 3) AS total, rows,
	round(share_of_total_time::numeric, 4) AS share, last_seen, slowest_at
FROM monitoring.statements_over('1 minute', '2031-01-01 12:01:00') ORDER BY queryid, username;
-- some of them: the same rows, shares are of the time of all
SELECT a.queryid, a.username, a.share_of_total_time > 0 AS share,
	to_jsonb(s) - 'share_of_total_time' = to_jsonb(a) - 'share_of_total_time' AND abs(s.share_of_total_time - a.share_of_total_time) < 1e-9 AS same
FROM monitoring.statements_over('1 minute', '2031-01-01 12:01:00') AS a
LEFT JOIN monitoring.statements_over('1 minute', '2031-01-01 12:01:00', '{13,0,99,NULL,13}') AS s ON s.queryid = a.queryid AND s.username = a.username
ORDER BY a.queryid, a.username;
SELECT count(*) FROM monitoring.statements_over('1 minute', '2031-01-01 12:01:00', '{}');
SELECT count(*) FROM monitoring.statements_over(NULL, '2031-01-01 12:01:00');
SELECT count(*) AS rows, count(*) FILTER (WHERE (u.calls, u.errors, u.cancels, u.max_seconds, u.total_seconds, u.shared_bytes, u.temp_written_bytes)
	IS NOT DISTINCT FROM (a.calls, a.errors, a.cancels, a.max_seconds, a.total_seconds, a.shared_hit_bytes + a.shared_read_bytes, a.temp_written_bytes)) AS same
FROM monitoring.statement_sums('1 minute', '2031-01-01 12:01:00') AS u
FULL JOIN monitoring.statements_over('1 minute', '2031-01-01 12:01:00') AS a ON a.queryid = u.queryid AND a.username = pg_get_userbyid(u.userid);
SELECT queryid, username, calls, max_seconds FROM monitoring.slow_queries_over('1 minute', '2031-01-01 12:01:00') ORDER BY queryid, username;
-- the window is (at - over, at]
SELECT over, at, array_agg(queryid ORDER BY queryid)
FROM (VALUES ('10 s'::interval, '2031-01-01 12:00:20'::timestamptz), ('10 s', '2031-01-01 12:00:19'), ('10 s', '2031-01-01 12:00:20.000001'),
	('20 s', '2031-01-01 12:00:30'), ('10 s', '2031-01-01 12:01:00')) AS w (over, at)
LEFT JOIN LATERAL monitoring.slow_query_values(w.at, w.over) ON true
GROUP BY over, at ORDER BY over, at;
-- for alert rules: over all roles, longest execution of the statement
SELECT queryid, max_seconds, calls, query FROM monitoring.slow_query_values('2031-01-01 12:01:00', '1 minute') ORDER BY queryid;
SELECT queryid, max_seconds, calls, query FROM monitoring.slow_query_values('2031-01-01 12:01:00', '1 minute', 0.5) ORDER BY queryid;
SELECT queryid, max_seconds FROM monitoring.slow_query_values('2031-01-01 12:01:00', '1 minute', 0.5, '{11}') ORDER BY queryid;

-- other roles' texts are hidden, as in pg_stat_statements
SET LOCAL ROLE regress_monitoring_one;
SELECT queryid, query FROM monitoring.slow_queries_over('1 minute', '2031-01-01 12:01:00') ORDER BY queryid;
SELECT queryid, query FROM monitoring.slow_query_values('2031-01-01 12:01:00', '1 minute', 0.5) ORDER BY queryid;
SAVEPOINT a;
SELECT * FROM monitoring.statement_texts;
ROLLBACK TO a;
SELECT monitoring.take_statements(0, 1);
ROLLBACK TO a;
RESET ROLE;
GRANT pg_read_all_stats TO regress_monitoring_one;
SET LOCAL ROLE regress_monitoring_one;
SELECT queryid, query FROM monitoring.slow_queries_over('1 minute', '2031-01-01 12:01:00') ORDER BY queryid;
RESET ROLE;

-- hours: written once they are over, and read instead of the intervals; totals follow
SELECT monitoring.snapshot_statements('2031-01-01 13:00:00') AS written;
SELECT bucket, since, queryid, calls, errors, monitoring.sketch_count(latency) AS count, max_seconds AS max FROM monitoring.statement_hourly
WHERE username = 'regress_monitoring_one' ORDER BY queryid;
SELECT snapshot_at, rolled_up_to FROM monitoring.statement_clock;
SELECT queryid, username, calls, errors, round(total_seconds::numeric, 3) AS total, max_seconds AS max, first_seen, last_seen, slowest_at
FROM monitoring.statements WHERE queryid BETWEEN 11 AND 14 ORDER BY queryid, username;
DELETE FROM monitoring.statement_deltas;
SELECT queryid, username, calls, errors, round(p99_seconds::numeric, 3) AS p99 FROM monitoring.statements_over('2 hours', '2031-01-01 13:30:00')
WHERE queryid BETWEEN 11 AND 14 ORDER BY queryid, username;
-- an interval after the hour adds to it
INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, latency)
SELECT '2031-01-01 13:20:00', '2031-01-01 13:19:00', 11, 'regress_monitoring_one'::regrole, true, 1, 3, 3, monitoring.sketch(3);
SELECT queryid, calls, max_seconds FROM monitoring.statements_over('2 hours', '2031-01-01 13:30:00') WHERE queryid = 11;
SELECT queryid, calls, max_seconds, slowest_at FROM monitoring.statements WHERE queryid = 11;
SELECT monitoring.snapshot_statements('2031-01-01 14:00:00') AS written;
SELECT queryid, calls, max_seconds, slowest_at FROM monitoring.statements WHERE queryid = 11;
SELECT bucket, calls FROM monitoring.statement_hourly WHERE queryid = 11 ORDER BY bucket;

-- what has not run for as long as hours are kept is forgotten, with its text
SELECT monitoring.purge_statements('2031-03-02 12:00:25');
SELECT queryid, query FROM monitoring.statements AS s WHERE queryid BETWEEN 11 AND 14 ORDER BY queryid, username;
SELECT count(*) FROM monitoring.statement_texts;
ROLLBACK;
