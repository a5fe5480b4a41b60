-- A metric that is deleted and made anew with another kind, while every level of storage holds what it was.
-- a database of its own, where nothing but this test flushes and compacts
SELECT current_database() AS before \gset
CREATE DATABASE regress_monitoring_kinds;
\c regress_monitoring_kinds
SET client_min_messages = warning;
SET timezone = 'UTC';
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false;
COMMIT;
SELECT now() AS t, date_trunc('day', now()) + interval '2 days' AS tomorrow \gset

-- One observation in each level: daily, hourly, chunks, minutes, segments, late, memory.
CREATE FUNCTION kd_record(metric text, kind text, v float8, at timestamptz) RETURNS void LANGUAGE sql AS $$
    SELECT monitoring.record_at(metric, v, at - ago, '{"k": 1}', kind)
    FROM unnest('{75 days,40 days,3 days,26 hours,4 hours}'::interval[]) ago $$;
CREATE PROCEDURE kd_make(metric text, kind text, v float8, at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM kd_record(metric, kind, v, at);
    PERFORM monitoring.record_at(metric, v, clock_timestamp(), '{"k": 1}', kind), monitoring.flush();
    COMMIT;
    PERFORM monitoring.compact();
    PERFORM monitoring.compact(clock_timestamp() + interval '3 minutes');
    PERFORM monitoring.record_at(metric, v, clock_timestamp(), '{"k": 1}', kind), monitoring.flush();
    PERFORM kd_record(metric, kind, v, at);
    COMMIT;
    PERFORM monitoring.record_at(metric, v, clock_timestamp(), '{"k": 1}', kind);
END $$;
CREATE FUNCTION kd_look(metric text, fn text, tomorrow timestamptz)
RETURNS TABLE (value float8, by_minute float8, by_hour float8, by_day float8, by_month float8) LANGUAGE sql AS $$
    SELECT monitoring.value(metric, fn, '80 days'),
           (SELECT sum(q.value) FROM monitoring.query(metric, fn, tomorrow - interval '5 days', tomorrow, '1 minute') q),
           (SELECT sum(q.value) FROM monitoring.query(metric, fn, tomorrow - interval '80 days', tomorrow, '1 hour') q),
           (SELECT sum(q.value) FROM monitoring.query(metric, fn, tomorrow - interval '80 days', tomorrow, '1 day') q),
           (SELECT sum(q.value) FROM monitoring.query(metric, fn, tomorrow - interval '80 days', tomorrow, '30 days') q) $$;

CALL kd_make('kd_one', 'counter', 7, :'t');
SELECT string_agg(level, ' ' ORDER BY level) AS levels FROM monitoring.storage_usage WHERE metric = 'kd_one';
SELECT * FROM kd_look('kd_one', 'sum', :'tomorrow');
SELECT monitoring.delete_series('kd_one');
SELECT * FROM kd_look('kd_one', 'count', :'tomorrow');
CALL kd_make('kd_one', 'gauge', -2, :'t');
SELECT * FROM kd_look('kd_one', 'sum', :'tomorrow');
SELECT * FROM kd_look('kd_one', 'count', :'tomorrow');
SELECT monitoring.delete_series('kd_one');
CALL kd_make('kd_one', 'distribution', 100, :'t');
SELECT * FROM kd_look('kd_one', 'sum', :'tomorrow');
SELECT round(monitoring.value('kd_one', 'p50', '80 days')) BETWEEN 99 AND 101 AS p50, monitoring.value('kd_one', 'min', '80 days');
-- compacted wholly
SELECT monitoring.compact(clock_timestamp() + interval '3 hours') > 0 AS compacted;
-- the month may be over by then
SELECT monitoring.compact(clock_timestamp() + interval '40 days') >= 0 AS compacted;
SELECT * FROM kd_look('kd_one', 'sum', :'tomorrow');
SELECT * FROM kd_look('kd_one', 'count', :'tomorrow');
SELECT * FROM monitoring.check_storage();
SELECT metric, kind, series FROM monitoring.metrics WHERE metric = 'kd_one';
-- what does not go with the new kind
\set VERBOSITY terse
SELECT monitoring.value('kd_one', 'last', '1 hour');
SELECT monitoring.increment('kd_one');
SELECT monitoring.record_at('kd_one', 1, now() - interval '1 hour', kind => 'gauge');
SELECT monitoring.record_batch('{kd_two,kd_two}', '{1,2}', NULL, '{gauge,counter}');
SELECT monitoring.define_metric('kd_one', 'gauge');
-- a definition keeps its kind
SELECT monitoring.define_metric('kd_one', 'distribution');
SELECT monitoring.delete_series('kd_one');
SELECT monitoring.set_gauge('kd_one', 1);
SELECT accepted = persisted + pending + dropped AS balanced FROM monitoring.self;
\c :before
DROP DATABASE regress_monitoring_kinds WITH (FORCE);
