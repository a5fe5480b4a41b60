-- Stored metrics: compaction through the levels, late observations, deleting, what it costs. Compaction runs by hand here.
SET client_min_messages = warning;
SET timezone = 'UTC';
UPDATE monitoring.jobs SET enabled = false WHERE name IN ('compact', 'flush');
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM monitoring.status WHERE database = current_database() AND job IN ('compact', 'flush'));
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
-- other tests have made partitions of other times
SELECT monitoring.compact() >= 0 AS compacted;
SELECT count(*) > 0 AS applied FROM monitoring.apply_retention();
-- whatever the hour is, those of the days are over
SELECT date_trunc('day', clock_timestamp()) - interval '3 days' AS d \gset

-- two days of a gauge at one minute and a distribution at ten, recorded late
SELECT count(monitoring.record_at('st_level', m, :'d'::timestamptz + m * interval '1 minute', '{"host": "a"}', 'gauge'))
FROM generate_series(0, 2879) m;
SELECT count(monitoring.record_at('st_seconds', m + 1, :'d'::timestamptz + m * interval '10 minutes', '{"host": "a"}'))
FROM generate_series(0, 287) m;
SELECT count(monitoring.record_at('st_seconds', 1000, :'d'::timestamptz + m * interval '10 minutes', '{"host": "b"}'))
FROM generate_series(0, 143) m;
CREATE VIEW st_reads AS
SELECT q.bucket, q.value AS count, s.value AS sum, l.value AS last, p.value BETWEEN 0.9945 * 144 AND 1.0055 * 144 AS p50
FROM monitoring.query('st_level', 'count', :'d', :'d'::timestamptz + interval '2 days', '1 day') q
JOIN monitoring.query('st_level', 'sum', :'d', :'d'::timestamptz + interval '2 days', '1 day') s USING (bucket)
JOIN monitoring.query('st_level', 'last', :'d', :'d'::timestamptz + interval '2 days', '1 day') l USING (bucket)
CROSS JOIN monitoring.query('st_seconds', 'p50', :'d', :'d'::timestamptz + interval '2 days', '2 days', '{"host": "a"}') p;
SELECT count, sum, last, p50 FROM st_reads ORDER BY bucket;
SELECT count(*) > 0 AS late FROM monitoring.late l JOIN monitoring.series s USING (series_id) WHERE s.metric LIKE 'st\_%';
-- compacted: the same answers from chunks and from hourly points
SELECT monitoring.compact() > 0 AS compacted;
SELECT count(*) AS late FROM monitoring.late l JOIN monitoring.series s USING (series_id) WHERE s.metric LIKE 'st\_%';
SELECT count, sum, last, p50 FROM st_reads ORDER BY bucket;
SELECT sum(value), count(*) FROM monitoring.query('st_level', 'count', :'d', :'d'::timestamptz + interval '2 days', '1 hour');
SELECT sum(value), count(value) FROM monitoring.query('st_level', 'count', :'d', :'d'::timestamptz + interval '2 days', '1 minute');
-- those of days are made when a month is over
SELECT level, series, points FROM monitoring.storage_usage WHERE metric = 'st_level' AND level <> 'daily' ORDER BY level;
-- later still
SELECT monitoring.record_at('st_level', 100000, :'d'::timestamptz + interval '90 seconds', '{"host": "a"}', 'gauge');
SELECT count, sum FROM st_reads ORDER BY bucket;
SELECT monitoring.compact() > 0 AS compacted;
SELECT count, sum FROM st_reads ORDER BY bucket;
SELECT value FROM monitoring.query('st_level', 'max', :'d', :'d'::timestamptz + interval '3 minutes', '1 minute');
SELECT value FROM monitoring.query('st_level', 'max', :'d', :'d'::timestamptz + interval '2 hours', '1 hour');
SELECT * FROM monitoring.check_storage();

-- now, through segments and minutes; compacting as of later makes what follows late, and late it stays while there are segments
SELECT monitoring.set_gauge('st_now', 1), monitoring.increment('st_now_total', 5);
SELECT monitoring.flush() >= 0 AS flushed;
-- what was first and last in the current slot follows its times through all levels
SELECT date_bin('10 s', clock_timestamp(), '2000-01-01') AS slot \gset
SELECT count(monitoring.record_at('st_order', t, :'slot'::timestamptz + t * interval '1 s', kind => 'gauge')) FROM unnest('{5,7,6}'::float8[]) t;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT count(monitoring.record_at('st_order', t, :'slot'::timestamptz + t * interval '1 s', kind => 'gauge')) FROM unnest('{3,2,4}'::float8[]) t;
SELECT monitoring.value('st_order', 'first', '1 hour'), monitoring.value('st_order', 'last', '1 hour');
SELECT monitoring.compact(clock_timestamp() + interval '5 minutes') >= 0 AS compacted;
SELECT monitoring.value('st_order', 'first', '1 hour'), monitoring.value('st_order', 'last', '1 hour');
SELECT count(*) > 0 AS compacted FROM monitoring.compaction_state WHERE minutes > now();
SELECT monitoring.set_gauge('st_now', 2), monitoring.increment('st_now_total', 7);
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('st_now', 'count', '1 hour'), monitoring.value('st_now', 'last', '1 hour'), monitoring.value('st_now_total', 'sum', '1 hour');
SELECT count(*) AS late FROM monitoring.late l JOIN monitoring.series s USING (series_id) WHERE s.metric LIKE 'st\_%';
SELECT monitoring.compact(clock_timestamp() + interval '3 hours') >= 0 AS compacted;
SELECT monitoring.value('st_order', 'first', '1 hour'), monitoring.value('st_order', 'last', '1 hour');
SELECT monitoring.value('st_now', 'count', '1 hour'), monitoring.value('st_now', 'last', '1 hour'), monitoring.value('st_now_total', 'sum', '1 hour');
SELECT count(*) AS late FROM monitoring.late l JOIN monitoring.series s USING (series_id) WHERE s.metric LIKE 'st\_%';

-- deleting: of some series, of a metric; what comes after counts
SELECT monitoring.delete_series('st_seconds', '{"host": {"=~": "[b-z]"}}');
SELECT labels FROM monitoring.series WHERE metric = 'st_seconds';
SELECT monitoring.value('st_seconds', 'count', '4 days');
SELECT monitoring.reset('st_now');
SELECT monitoring.value('st_now', 'count', '1 hour');
SELECT monitoring.set_gauge('st_now', 3);
SELECT monitoring.value('st_now', 'count', '1 hour'), monitoring.value('st_now', 'last', '1 hour');
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('st_now', 'count', '1 hour'), monitoring.value('st_now', 'last', '1 hour');
BEGIN;
SELECT monitoring.reset('st_now');
SELECT monitoring.value('st_now', 'count', '1 hour');
ROLLBACK;
SELECT monitoring.value('st_now', 'count', '1 hour');
-- what is recorded between two deletions of a transaction comes after the first, and what was new does not come back
SELECT monitoring.increment('st_twice_total'), monitoring.flush() >= 0 AS flushed;
BEGIN;
SELECT monitoring.delete_series('st_twice_total');
SELECT monitoring.increment('st_twice_total', 5), monitoring.increment('st_fresh_total');
SELECT monitoring.delete_series('st_fresh_total');
SELECT monitoring.delete_series('st_unknown_total');
COMMIT;
SELECT monitoring.value('st_twice_total', 'sum'), monitoring.value('st_fresh_total', 'sum') AS gone;
SELECT metric FROM monitoring.series WHERE metric ~ '^st_(twice|fresh)';
SELECT * FROM monitoring.check_storage();
SELECT accepted = persisted + pending + dropped AS balanced FROM monitoring.self;

-- refused
\set VERBOSITY terse
SELECT monitoring.record_at('st_level', 1, clock_timestamp() + interval '1 hour', '{}', 'gauge');
SELECT monitoring.record_at('st_level', 1, '2001-01-01', '{}', 'gauge');
SELECT monitoring.record_at('st_level', 1, 'infinity', '{}', 'gauge');
SELECT monitoring.record_at('st_level', 1, clock_timestamp(), '{}', 'summary');
SELECT monitoring.reset('st_unknown');
SELECT monitoring.delete_series('st_seconds', '[]');
SELECT monitoring.compact('-infinity');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT monitoring.compact();
ROLLBACK;
BEGIN READ ONLY;
SELECT monitoring.compact();
ROLLBACK;
DROP VIEW st_reads;
UPDATE monitoring.jobs SET enabled = true WHERE name IN ('compact', 'flush');
