-- Many reads in one call: what each asks for, what it gets, and what it costs in the catalog.
-- At random and against an oracle, among other requests: test/t/022_reading.pl.
SET timezone = 'UTC';
SELECT date_trunc('hour', now()) - interval '3 hours' AS t \gset
SELECT count(monitoring.record_at('rv_seconds', i, :'t'::timestamptz + i * interval '1 minute', jsonb_build_object('half', i / 60, 'odd', i % 2)))
FROM generate_series(0, 119) i;
SELECT count(monitoring.record_at('rv_gauge', i, :'t'::timestamptz + i * interval '1 minute', '{"q": "a"}', 'gauge'))
FROM generate_series(0, 59) i;

-- every column of a request: window, selector, groups, shift; some share what is read, some have nothing
SELECT request, series_labels, round(value::numeric, 3) AS value, ceil(extract(epoch FROM newest - :'t') / 3600) AS newest_hours
FROM monitoring.read_values(ARRAY[
    ROW('rv_seconds', 'count', '2 hours', NULL, NULL, NULL),
    ROW('rv_seconds', 'max', '2 hours', '{}', '{}', '0'),
    ROW('rv_seconds', 'count', '1 hour', '{}', '{half,odd}', '1 hour'),
    ROW('rv_seconds', 'p50', '1 hour', '{"odd": 1}', '{odd}', '1 hour'),
    ROW('rv_seconds', 'series', '2 hours', '{"odd": {"=~": "0|1"}}', '{odd}', '0'),
    ROW('rv_nothing', 'p95', '2 hours', '{}', '{}', '0'),
    ROW('rv_seconds', 'p95', '2 hours', '{"odd": 7}', '{}', '0'),
    ROW('rv_gauge', 'last', '2 hours', '{"q": "a"}', '{q}', NULL),
    ROW('rv_gauge', 'first', '2 hours', '{"q": "a"}', '{q}', NULL),
    ROW('rv_gauge', 'last', '1 hour', '{"q": "a"}', '{q}', '90 minutes'),
    ROW('rv_seconds', 'count', '2 hours', NULL, NULL, NULL)
]::monitoring.value_request[], :'t'::timestamptz + '2 hours')
ORDER BY request, series_labels;
SELECT * FROM monitoring.read_values('{}', now());
SELECT * FROM monitoring.read_values(NULL, now());

-- the same as one by one
SELECT count(*) AS requests, count(*) FILTER (WHERE v.value IS DISTINCT FROM monitoring.value('rv_seconds', r.fn, r.over, r.labels, :'t'::timestamptz + '2 hours' - r.shift)) AS different
FROM (SELECT row_number() OVER () AS request, ROW('rv_seconds', f, o, l, NULL, s)::monitoring.value_request AS r, f AS fn, o AS over, l AS labels, s AS shift
      FROM unnest('{count,sum,p50,p99.9,stddev,series,rate,share_below(40)}'::text[]) f, unnest('{1 minute,17 minutes,2 hours}'::interval[]) o,
           unnest('{0,1 minute,1 hour}'::interval[]) s, unnest(ARRAY['{}', '{"odd": 1}', '{"half": {"!=": "1"}}', '{"half": 0, "odd": 0}']::jsonb[]) l) r
LEFT JOIN monitoring.read_values(
    ARRAY(SELECT ROW('rv_seconds', f, o, l, NULL, s)::monitoring.value_request
          FROM unnest('{count,sum,p50,p99.9,stddev,series,rate,share_below(40)}'::text[]) f, unnest('{1 minute,17 minutes,2 hours}'::interval[]) o,
               unnest('{0,1 minute,1 hour}'::interval[]) s, unnest(ARRAY['{}', '{"odd": 1}', '{"half": {"!=": "1"}}', '{"half": 0, "odd": 0}']::jsonb[]) l),
    :'t'::timestamptz + '2 hours') v USING (request);

-- how old the data is: from memory, as it is from storage
SELECT monitoring.increment('rv_total');
SELECT newest BETWEEN now() - interval '1 minute' AND clock_timestamp() AS newest
FROM monitoring.read_values(ARRAY[ROW('rv_total', 'sum', '5 minutes', NULL, NULL, NULL)::monitoring.value_request]);

-- one series of a thousand is one row of the catalog, wherever the others are
SELECT count(monitoring.increment('rv_many_total', i, jsonb_build_object('device', 'd' || i, 'room', 'r' || i % 10, 'site', 's'))) FROM generate_series(1, 1000) i;
CREATE FUNCTION pg_temp.rows_read(OUT read bigint) LANGUAGE sql AS $$
    SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_all_tables
    WHERE schemaname = 'monitoring' AND relname = 'series_catalog' $$;
SELECT monitoring.value('rv_many_total', 'sum', '1 hour', '{"device": "d77"}') AS in_memory, monitoring.value('rv_many_total', 'series', '1 hour') AS all_in_memory;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT monitoring.value('rv_many_total', 'sum', '1 hour', '{"site": "s", "device": "d77"}') AS stored;
SELECT pg_temp.rows_read();
COMMIT;
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT request, value FROM monitoring.read_values(ARRAY(SELECT ROW('rv_many_total', 'sum', '1 hour', jsonb_build_object('device', 'd' || i), NULL, NULL)::monitoring.value_request
    FROM generate_series(100, 500, 100) i)) ORDER BY 1;
SELECT pg_temp.rows_read();
COMMIT;
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT monitoring.value('rv_many_total', 'series', '1 hour', '{"room": "r3", "device": {"=~": "d.3"}}') AS conditions;
SELECT pg_temp.rows_read();
COMMIT;
-- deleted, and recorded anew: in memory, then stored
SELECT monitoring.delete_series('rv_many_total', '{"room": "r3"}');
SELECT monitoring.value('rv_many_total', 'series', '1 hour') AS series, monitoring.value('rv_many_total', 'sum', '1 hour', '{"device": "d33"}') AS deleted;
SELECT monitoring.increment('rv_many_total', 5, '{"device": "d33", "room": "r3", "site": "s"}');
SELECT monitoring.value('rv_many_total', 'sum', '1 hour', '{"device": "d33"}') AS in_memory;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('rv_many_total', 'sum', '1 hour', '{"device": "d33"}') AS stored, monitoring.value('rv_many_total', 'series', '1 hour') AS series;
-- a deletion that is rolled back
BEGIN;
SELECT monitoring.delete_series('rv_many_total', '{"device": "d77"}');
SELECT monitoring.increment('rv_many_total', 3, '{"device": "d77", "room": "r7", "site": "s"}');
SELECT monitoring.value('rv_many_total', 'sum', '1 hour', '{"device": "d77"}') AS within;
ROLLBACK;
SELECT monitoring.value('rv_many_total', 'sum', '1 hour', '{"device": "d77"}') AS after;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('rv_many_total', 'sum', '1 hour', '{"device": "d77"}') AS after;

-- errors say which request it is
\set VERBOSITY default
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'p95', '1 hour', NULL, NULL, NULL), ROW('rv_seconds', NULL, '1 hour', NULL, NULL, NULL)]::monitoring.value_request[]);
\echo :SQLSTATE
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'p95', '1 hour', NULL, NULL, NULL), NULL]::monitoring.value_request[]);
\echo :SQLSTATE
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'p951', '1 hour', NULL, NULL, NULL)]::monitoring.value_request[]);
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'p95', '0', NULL, NULL, NULL)]::monitoring.value_request[]);
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv seconds', 'p95', '1 hour', NULL, NULL, NULL)]::monitoring.value_request[]);
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'p95', '1 hour', '[]', NULL, NULL)]::monitoring.value_request[]);
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'p95', '1 hour', NULL, NULL, NULL)]::monitoring.value_request[], 'infinity');
SELECT * FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'p95', '1 hour', NULL, NULL, '300000 years')]::monitoring.value_request[]);
\echo :SQLSTATE
-- but for what is not known when a request is written: the others are answered
SELECT request, value > 0 AS value, newest IS NOT NULL AS newest, error
FROM monitoring.read_values(ARRAY[ROW('rv_seconds', 'count', '4 hours', NULL, NULL, NULL), ROW('rv_seconds', 'last', '4 hours', NULL, NULL, NULL),
    ROW('rv_total', 'p95', '4 hours', NULL, '{x}', NULL), ROW('rv_gauge', 'max', '4 hours', NULL, NULL, NULL)]::monitoring.value_request[]) ORDER BY 1;
