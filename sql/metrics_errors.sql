-- Bad input: a clear error with SQLSTATE and hint, nothing half-done.
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT monitoring.record('1bad', 1);
\echo :SQLSTATE
SELECT monitoring.record('', 1);
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '[1]');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '"a"');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '{"a": {"b": 1}}');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '{"a": [1]}');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '{"a": "line\nbreak"}');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, jsonb_build_object('a', repeat('x', 65536)));
\echo :SQLSTATE
SELECT monitoring.increment('err_x_total', -1);
\echo :SQLSTATE
SELECT monitoring.record('err_kind', 1);
\echo :SQLSTATE
SELECT monitoring.increment('err_kind');
\echo :SQLSTATE
SELECT monitoring.set_gauge('err_kind', 1);
\echo :SQLSTATE
SELECT monitoring.flush() >= 0;
\echo :SQLSTATE
SELECT monitoring.increment('err_kind');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'median');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'p101');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'p');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'last');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', '-1 minute');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', '0');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', at => 'infinity');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', labels => '[]');
\echo :SQLSTATE
SELECT monitoring.percentile('err_kind', 1.1);
\echo :SQLSTATE
SELECT monitoring.percentile('err_kind', -0.1);
\echo :SQLSTATE
SELECT monitoring.percentile('err_kind', 'NaN');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '2024-01-02', '2024-01-01', '1 hour');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '2024-01-01', '2025-01-01', '1 second');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '4714-11-24 00:00+00 BC', '294276-12-31 23:59:59+00', '1 day');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '2024-01-01', '2024-01-02', '-1 hour');
\echo :SQLSTATE
SELECT monitoring.grant_access('pg_monitor', 'boss');
\echo :SQLSTATE
SELECT monitoring.grant_access('nobody_of_that_name', 'viewer');
\echo :SQLSTATE
SELECT * FROM monitoring.apply_retention('infinity');
\echo :SQLSTATE
SELECT monitoring.ensure_partition('pg_class', now());
\echo :SQLSTATE
BEGIN READ ONLY;
SELECT monitoring.flush();
\echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT monitoring.value('err_kind', 'count');
\echo :SQLSTATE
COMMIT;
-- refused and counted, without an error in the application
SELECT refused AS refused_before FROM monitoring.self \gset
SELECT monitoring.record('err_kind', 'NaN'), monitoring.record('err_kind', 'Infinity'), monitoring.record('err_kind', '-Infinity');
\echo :SQLSTATE
SELECT refused - :refused_before AS refused FROM monitoring.self;
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count');
\echo :SQLSTATE
-- null arguments do nothing
SELECT monitoring.record(NULL, 1), monitoring.record('err_kind', NULL);
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count');
\echo :SQLSTATE
-- labels and names that would take memory: refused however they come
\set VERBOSITY terse
DO $$
DECLARE
    bad text;
BEGIN
    FOREACH bad IN ARRAY ARRAY['9a', 'a b', 'a-b', 'a.b', ' a', 'a ', U&'\00e4', 'a;', E'a\n', E'a\x7f', '"', repeat('a', 201), repeat(U&'\00e4', 70000)] LOOP
        BEGIN
            PERFORM monitoring.record(bad, 1);
            RAISE NOTICE 'taken: %', left(bad, 20);
        EXCEPTION WHEN invalid_name THEN
        END;
    END LOOP;
END $$;
SELECT monitoring.record(m, 1) IS NOT NULL AS taken FROM unnest(ARRAY[repeat('a', 200), '_', ':', 'a:B_9']) m;
DO $$
DECLARE
    bad jsonb;
BEGIN
    FOREACH bad IN ARRAY ARRAY['null', '1', 'true', '"a"', '[]', '[{}]', '{"a": {}}', '{"a": [1]}', '{"a": "\u0001"}', '{"a\u001f": 1}', '{"a": "\u007f"}',
                               jsonb_build_object('a', repeat('x', 65536)), jsonb_build_object(repeat('x', 65536), 'a'), jsonb_build_object('a', repeat('x', 10000000)),
                               (SELECT jsonb_object_agg('l' || i, i) FROM generate_series(1, 65) i), (SELECT jsonb_object_agg('l' || i, i) FROM generate_series(1, 10000) i),
                               -- numbers, whose text is long
                               '{"a": 1e100000}', '{"a": 1e-16000}', jsonb_build_object('a', repeat('9', 5000)::numeric)] LOOP
        BEGIN
            PERFORM monitoring.record('err_labels', 1, bad);
            RAISE NOTICE 'taken: %', left(bad::text, 20);
        EXCEPTION WHEN invalid_parameter_value THEN
        END;
        BEGIN
            PERFORM monitoring.record_batch('{err_labels,err_labels}', '{1,2}', ARRAY['{}', bad]);
            RAISE NOTICE 'taken in a batch: %', left(bad::text, 20);
        EXCEPTION WHEN invalid_parameter_value THEN
        END;
        BEGIN
            INSERT INTO monitoring.ingest (metric, value, labels, ts) VALUES ('err_labels', 1, bad, now() - interval '1 day');
            RAISE NOTICE 'inserted: %', left(bad::text, 20);
        EXCEPTION WHEN invalid_parameter_value THEN
        END;
    END LOOP;
END $$;
SELECT monitoring.record('err_labels', 1, (SELECT jsonb_object_agg('l' || i, i) FROM generate_series(1, 64) i));
SELECT monitoring.value('err_labels', 'count', '2 days'), count(*), max(length(labels::text)) < 4096 AS bounded FROM monitoring.series WHERE metric = 'err_labels';
SELECT monitoring.value('err_labels', 'count', labels => jsonb_build_object('l1', jsonb_build_object('=~', repeat('(a|b)*', 10000))));
SELECT monitoring.value('err_labels', 'count', labels => jsonb_build_object('l1', repeat('x', 65536)));
-- times: nothing of it is recorded, whatever the way
DO $$
DECLARE
    bad timestamptz;
BEGIN
    FOREACH bad IN ARRAY ARRAY['infinity', '-infinity', '4714-11-24 00:00+00 BC', '294276-12-31 23:59:59+00', clock_timestamp() + interval '2 minutes', clock_timestamp() - interval '91 days']::timestamptz[] LOOP
        BEGIN
            PERFORM monitoring.record_at('err_times', 1, bad);
            RAISE NOTICE 'taken: %', bad;
        EXCEPTION WHEN datetime_field_overflow THEN
        END;
        BEGIN
            PERFORM monitoring.record_batch('{err_times,err_times}', '{1,2}', times => ARRAY[now(), bad]);
            RAISE NOTICE 'taken in a batch: %', bad;
        EXCEPTION WHEN datetime_field_overflow THEN
        END;
        BEGIN
            PERFORM monitoring.record_json(jsonb_build_array(jsonb_build_object('metric', 'err_times', 'value', 1), jsonb_build_object('metric', 'err_times', 'value', 1, 'ts', bad)));
            RAISE NOTICE 'taken as JSON: %', bad;
        EXCEPTION WHEN datetime_field_overflow THEN
        END;
        BEGIN
            INSERT INTO monitoring.ingest (metric, value, ts) VALUES ('err_times', 1, bad);
            RAISE NOTICE 'inserted: %', bad;
        EXCEPTION WHEN datetime_field_overflow THEN
        END;
    END LOOP;
END $$;
SELECT monitoring.record_json(format('[{"metric": "err_times", "value": 1, "ts": %s}]', ts)::jsonb) FROM unnest('{1e300}'::text[]) ts;
SELECT monitoring.record_json('[{"metric": "err_times", "value": 1, "ts": -99999999999999999}]');
SELECT monitoring.value('err_times', 'count', '91 days');
-- in whatever order, however often: late observations make the same points
SELECT date_trunc('day', now(), 'UTC') - interval '3 days' AS d \gset
SELECT count(monitoring.record_at('err_order', i % 100, :'d'::timestamptz + i % 20 * interval '1 hour' + i % 50 * interval '1 second', '{"order": "up"}')) FROM generate_series(1, 2000) i;
SELECT count(monitoring.record_at('err_order', i % 100, :'d'::timestamptz + i % 20 * interval '1 hour' + i % 50 * interval '1 second', '{"order": "none"}')) FROM (SELECT i FROM generate_series(1, 1000) i ORDER BY md5(i::text)) s;
SELECT count(monitoring.record_at('err_order', i % 100, :'d'::timestamptz + i % 20 * interval '1 hour' + i % 50 * interval '1 second', '{"order": "none"}')) FROM (SELECT i FROM generate_series(1001, 2000) i ORDER BY md5(i::text)) s;
CREATE VIEW err_order AS
SELECT u.bucket, u.sketch::text = n.sketch::text AS same
FROM monitoring.sketches('err_order', date_trunc('day', now(), 'UTC') - interval '3 days', date_trunc('day', now(), 'UTC') - interval '2 days', '1 minute', '{"order": "up"}') u
FULL JOIN monitoring.sketches('err_order', date_trunc('day', now(), 'UTC') - interval '3 days', date_trunc('day', now(), 'UTC') - interval '2 days', '1 minute', '{"order": "none"}') n USING (bucket);
SELECT same, count(*) FROM err_order GROUP BY same ORDER BY same;
SELECT monitoring.compact() >= 0 AS compacted;
SELECT same, count(*) FROM err_order GROUP BY same ORDER BY same;
DROP VIEW err_order;
SELECT accepted = persisted + pending + dropped AS balanced FROM monitoring.self;
