-- Batches, the view ingest, definitions.
\set balance 'SELECT accepted = persisted + pending + dropped AS balanced FROM monitoring.self'

-- record_values(): one series, many values
SELECT monitoring.record_values('bat_values', ARRAY(SELECT i::float8 FROM generate_series(1, 100000) i), '{"r": 1}');
SELECT monitoring.value('bat_values', 'count'), monitoring.value('bat_values', 'sum'), monitoring.value('bat_values', 'max'),
       abs(monitoring.value('bat_values', 'p50') / 50000 - 1) < 0.005416 AS p50;
SELECT refused AS refused_before FROM monitoring.self \gset
SELECT monitoring.record_values('bat_values', '{1, NaN, 2, Infinity, -Infinity, 3}', '{"r": 1}');
SELECT monitoring.value('bat_values', 'count'), refused - :refused_before AS refused FROM monitoring.self;
SELECT monitoring.record_values('bat_values', '{}'), monitoring.record_values('bat_values', NULL) IS NULL AS strict;

-- record_batch(): many series
SELECT monitoring.record_batch('{bat_d,bat_c,bat_g,bat_d}', '{1,2,3,4}', '{"{}","{}","{\"q\": 1}","{}"}',
                               '{distribution,counter,gauge,distribution}', ARRAY[now(), now(), now(), now() - interval '20 minutes']);
SELECT monitoring.record_batch('{bat_d,bat_d}', '{5,NaN}');
SELECT monitoring.record_batch('{}', '{}');
SELECT monitoring.value('bat_d', 'count', '10 minutes'), monitoring.value('bat_d', 'sum', '1 hour'), monitoring.value('bat_c', 'sum'),
       monitoring.value('bat_g', 'last', labels => '{"q": 1}');

-- More series than a backend keeps references of: each counts once.
SELECT monitoring.record_batch(array_agg('bat_many'::text), array_agg(1::float8), array_agg(jsonb_build_object('i', i)), array_agg('counter'::text))
FROM generate_series(1, 40000) i;
SELECT monitoring.value('bat_many', 'sum'), monitoring.value('bat_many', 'sum', labels => '{"overflow": "true"}');

-- record_json()
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 6}, {"metric": "bat_c", "value": 1.5, "kind": "counter", "labels": null},
    {"metric": "bat_g", "value": -4, "kind": "gauge", "labels": {"q": 1}, "ts": null}, {"metric": "bat_d", "value": 7, "labels": {"z": true}}]');
SELECT monitoring.record_json(jsonb_build_array(jsonb_build_object('metric', 'bat_d', 'value', 8, 'ts', now() - interval '20 minutes'),
    jsonb_build_object('metric', 'bat_d', 'value', 9, 'ts', extract(epoch FROM now()))));
SELECT monitoring.record_json('[]');
SELECT monitoring.value('bat_d', 'count', '10 minutes'), monitoring.value('bat_d', 'sum', '1 hour'), monitoring.value('bat_c', 'sum'),
       monitoring.value('bat_g', 'last', labels => '{"q": 1}');
SELECT monitoring.value('bat_d', 'count', labels => '{"z": "true"}');

-- The view
INSERT INTO monitoring.ingest VALUES ('ing_d', 1, '{"k": "v"}', 'distribution', now()), ('ing_c', 2, NULL, 'counter', NULL),
    ('ing_g', 3, '{}', 'gauge', now()), ('ing_d', 4, '{"k": "v"}', NULL, now() - interval '20 minutes')
RETURNING metric, value, labels, kind, ts IS NULL AS now;
INSERT INTO monitoring.ingest (metric, value) SELECT 'ing_d', i FROM generate_series(1, 10) i;
COPY monitoring.ingest FROM stdin;
ing_d	1	{"k": "v"}	distribution	\N
ing_c	2	{}	counter	\N
ing_d	NaN	{}	\N	\N
\.
COPY monitoring.ingest (value, metric) FROM stdin WITH (FORMAT csv);
7,ing_d
8,ing_d
\.
PREPARE ing AS INSERT INTO monitoring.ingest (metric, value, labels) VALUES ($1, $2, $3);
EXECUTE ing('ing_d', 1, '{}');
EXECUTE ing('ing_d', 1, '{}');
SELECT monitoring.value('ing_d', 'count', '10 minutes'), monitoring.value('ing_d', 'count', '1 hour'), monitoring.value('ing_c', 'sum'),
       monitoring.value('ing_g', 'last');
SELECT * FROM monitoring.ingest;
:balance;

-- Mistakes: nothing of the batch is recorded, and the error says which element it was.
SELECT monitoring.record_values('bat_values', '{1,NULL,3}');
SELECT monitoring.record_values('not valid', '{1}');
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1}');
SELECT monitoring.record_batch('{bat_d}', '{1}', '{}');
SELECT monitoring.record_batch('{{bat_d}}', '{1}');
SELECT monitoring.record_batch(NULL, '{1}');
SELECT monitoring.record_batch('{bat_d}', NULL);
SELECT monitoring.record_batch('{bat_d,NULL}', '{1,2}');
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1,2}', '{NULL,"{}"}');
SELECT monitoring.record_batch('{bat_d,no-name}', '{1,2}');
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1,2}', '{"{}","[]"}');
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1,2}', kinds => '{distribution,summary}');
SELECT monitoring.record_batch('{bat_d,bat_c}', '{1,2}');
SELECT monitoring.record_batch('{bat_new,bat_new}', '{1,2}', kinds => '{counter,gauge}');
SELECT monitoring.record_batch('{bat_d,bat_c}', '{1,-2}', kinds => '{distribution,counter}');
\set VERBOSITY sqlstate
SELECT monitoring.record_values('bat_values', '{1,NULL,3}');
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1}');
SELECT monitoring.record_batch('{bat_d,bat_c}', '{1,2}');
INSERT INTO monitoring.ingest (metric) VALUES ('ing_bad');
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1,2}', times => ARRAY[now(), now() + interval '1 hour']);
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1,2}', times => ARRAY[now(), now() - interval '10 years']);
SELECT monitoring.record_batch('{bat_d,bat_d}', '{1,2}', times => ARRAY[now(), 'infinity']);
\set VERBOSITY default
SELECT monitoring.record_json('{"metric": "bat_d", "value": 1}');
SELECT monitoring.record_json('3');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, 2]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d"}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d", "value": "1"}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": 5, "value": 1}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d", "value": 1, "label": {}}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d", "value": 1, "labels": "x"}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d", "value": 1, "labels": [1]}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d", "value": 1e400}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d", "value": 1, "ts": "yesterdays"}]');
SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}, {"metric": "bat_d", "value": 1, "ts": true}]');
SELECT monitoring.value('bat_values', 'count'), monitoring.value('bat_d', 'count', '1 hour'), monitoring.value('bat_c', 'sum'),
       monitoring.value('bat_new', 'sum') IS NULL AS none;
COPY monitoring.ingest (metric, value, labels) FROM stdin;
ing_bad	1	{}
ing bad	1	{}
\.
COPY monitoring.ingest (metric, value, labels) FROM stdin;
ing_bad	1	{}
ing_bad	1	{"a": {}}
\.
COPY monitoring.ingest (metric, value) FROM stdin;
ing_bad	\N
\.
COPY monitoring.ingest (value) FROM stdin;
1
\.
COPY monitoring.ingest (metric, value) FROM stdin;
ing_bad	x
\.
INSERT INTO monitoring.ingest (metric, value, kind) VALUES ('ing_bad', 1, 'summary');
INSERT INTO monitoring.ingest (metric, value, kind) VALUES ('ing_bad', -1, 'counter');
UPDATE monitoring.ingest SET value = 1;
DELETE FROM monitoring.ingest;
SELECT monitoring.ingest_row();
CREATE VIEW bat_other AS SELECT 1 AS metric;
CREATE TRIGGER t INSTEAD OF INSERT ON bat_other FOR EACH ROW EXECUTE FUNCTION monitoring.ingest_row();
INSERT INTO bat_other VALUES (1);
DROP VIEW bat_other;

-- Bombs: a clear error, or the overflow series.
SELECT monitoring.record('bomb', 1, jsonb_build_object('a', repeat('x', 65536)));
SELECT monitoring.record('bomb', 1, (SELECT jsonb_object_agg('l' || i, i) FROM generate_series(1, 10000) i));
SELECT monitoring.record('bomb', 1, jsonb_build_object('a', E'a\nb'));
SELECT monitoring.record('bomb', 1, jsonb_build_object(E'a\x7f', 'b'));
SELECT monitoring.record(repeat('ö', 150), 1);
SELECT monitoring.record_values('bomb', '{1}', '[]');
SELECT monitoring.value('bomb', 'count') IS NULL AS nothing;
-- A series that is called as the overflow series is the overflow series.
SELECT monitoring.increment('bomb_total', 1, '{"overflow": "true"}');
SELECT count(monitoring.increment('bomb_total', 1, jsonb_build_object('n', i))) FROM generate_series(1, 10500) i;
SELECT monitoring.value('bomb_total', 'sum'), monitoring.value('bomb_total', 'sum', labels => '{"overflow": "true"}');
SELECT dropped FROM monitoring.self;

-- Definitions
SELECT monitoring.define_metric('def_seconds', 'distribution', 'seconds', 'How long it takes', 2, 8);
SELECT metric, kind, series, live_series, unit, description, max_series, scale FROM monitoring.metrics WHERE metric = 'def_seconds';
SELECT count(monitoring.record('def_seconds', 1 + i / 1000.0, jsonb_build_object('n', i % 4))) FROM generate_series(1, 1000) i;
SELECT labels, overflow FROM monitoring.series WHERE metric = 'def_seconds' ORDER BY labels;
SELECT monitoring.max_relative_error(monitoring.sketch(i)) / 4 AS scale_8 FROM generate_series(1, 2) i \gset
-- scale 8 bounds the error at a quarter of what scale 6 does
SELECT abs(monitoring.value('def_seconds', 'p50') / 1.5 - 1) < :scale_8 * 1.01 AS exact;
-- a higher limit is heeded by sessions that have met the old one
SELECT monitoring.define_metric('def_seconds', 'distribution', 'seconds', 'How long it really takes', 10, 2);
SELECT count(monitoring.record('def_seconds', 2, jsonb_build_object('n', i % 4))) FROM generate_series(1, 1000) i;
SELECT labels, overflow FROM monitoring.series WHERE metric = 'def_seconds' ORDER BY labels;
SELECT monitoring.value('def_seconds', 'count'), description, max_series, scale FROM monitoring.metrics WHERE metric = 'def_seconds';
-- an aborted definition changes nothing, and frees the name
BEGIN;
SELECT monitoring.define_metric('def_other', 'gauge');
SELECT monitoring.set_gauge('def_other', 1, '{"of": "the transaction"}');
SELECT monitoring.increment('def_other');
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT monitoring.define_metric('def_free', 'gauge', max_series => 1);
ROLLBACK TO a;
SELECT monitoring.increment('def_free', 1, jsonb_build_object('n', i)) FROM generate_series(1, 2) i;
COMMIT;
SELECT metric, kind, series, max_series, overflowing FROM monitoring.metrics WHERE metric LIKE 'def\_%' ORDER BY 1;
SELECT monitoring.define_metric('def_free', 'gauge');
SELECT monitoring.define_metric('def free', 'gauge');
SELECT monitoring.define_metric('def_bad', 'summary');
SELECT monitoring.define_metric('def_bad', 'gauge', scale => 9);
SELECT monitoring.define_metric('def_bad', 'gauge', scale => -1);
SELECT monitoring.define_metric('def_bad', 'gauge', max_series => 0);
SELECT monitoring.define_metric('def_bad', NULL);
SELECT monitoring.delete_series('def_seconds') > 0 AS deleted;
SELECT metric, kind, series, scale FROM monitoring.metrics WHERE metric = 'def_seconds';
SELECT monitoring.record('def_seconds', 1);
SELECT monitoring.set_gauge('def_seconds', 1);

-- transactional: savepoints, exception blocks, times
SET monitoring.transactional = on;
BEGIN;
SELECT monitoring.increment('tx_total');
SAVEPOINT a;
SELECT monitoring.increment('tx_total', 10);
SAVEPOINT b;
SELECT monitoring.record_batch('{tx_total,tx_total}', '{100,100}', kinds => '{counter,counter}', times => ARRAY[now(), now() - interval '40 seconds']);
RELEASE b;
ROLLBACK TO a;
SELECT monitoring.increment('tx_total', 1000);
SELECT monitoring.record_values('tx_values', '{1,2,3}');
SELECT monitoring.value('tx_total', 'sum'), monitoring.value('tx_values', 'count');
COMMIT;
SELECT monitoring.value('tx_total', 'sum'), monitoring.value('tx_values', 'count');
DO $$
BEGIN
    FOR i IN 1 .. 100 LOOP
        BEGIN
            PERFORM monitoring.increment('tx_block_total');
            INSERT INTO monitoring.ingest VALUES ('tx_block', i, DEFAULT, DEFAULT, now() - interval '40 seconds'), ('tx_block', i, DEFAULT, DEFAULT, DEFAULT);
            IF i % 4 = 0 THEN
                RAISE division_by_zero;
            END IF;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
END
$$;
SELECT monitoring.value('tx_block_total', 'sum'), monitoring.value('tx_block', 'count'), monitoring.value('tx_block', 'sum');
BEGIN;
SELECT monitoring.increment('tx_total');
ROLLBACK;
COPY monitoring.ingest (metric, value) FROM stdin;
tx_copy	1
tx copy	1
\.
SELECT monitoring.value('tx_total', 'sum'), monitoring.value('tx_copy', 'count') IS NULL AS whole_copy;
BEGIN;
SELECT monitoring.define_metric('tx_prepared', 'gauge');
PREPARE TRANSACTION 'bat';
-- more series than a backend keeps references of, held to the end of the transaction
BEGIN;
SELECT monitoring.record_batch(array_agg('tx_many'::text), array_agg(1::float8), array_agg(jsonb_build_object('i', i)), array_agg('counter'::text))
FROM generate_series(1, 40000) i;
SELECT sum(total_bytes) < 100000000 AS bounded FROM pg_backend_memory_contexts WHERE name LIKE 'monitoring%' OR name = 'TopTransactionContext';
COMMIT;
SELECT monitoring.value('tx_many', 'sum');
RESET monitoring.transactional;

-- what is late follows the transaction always
BEGIN;
SELECT monitoring.record_at('late_total', 1, now() - interval '1 hour', kind => 'counter');
SAVEPOINT a;
SELECT count(monitoring.record_at('late_total', 1, now() - interval '1 hour' - i * interval '1 minute', jsonb_build_object('i', i % 100), 'counter'))
FROM generate_series(1, 25000) i;
ROLLBACK TO a;
SELECT monitoring.value('late_total', 'sum', '2 hours');
RELEASE a;
SET TRANSACTION READ ONLY;
COMMIT;
SELECT monitoring.value('late_total', 'sum', '2 hours');
SELECT monitoring.flush() >= 0 AS flushed;
SELECT accepted, persisted FROM monitoring.self \gset before_
BEGIN;
SAVEPOINT a;
SELECT count(monitoring.record_at('late_total', 1, now() - interval '1 hour' - i * interval '1 minute', kind => 'counter')) FROM generate_series(1, 25000) i;
ROLLBACK TO a;
SAVEPOINT a;
SELECT count(monitoring.record_at('late_total', 1, now() - interval '1 hour' - i * interval '1 minute', kind => 'counter')) FROM generate_series(1, 21000) i;
RELEASE a;
COMMIT;
-- what was rolled back is not in the account; a flush that was neither
BEGIN;
SAVEPOINT a;
SELECT monitoring.flush() >= 0 AS flushed;
ROLLBACK TO a;
COMMIT;
BEGIN;
SAVEPOINT a;
SELECT monitoring.flush() >= 0 AS flushed;
RELEASE a;
COMMIT;
SELECT accepted - :before_accepted >= 21000 AND accepted - :before_accepted < 25000 AS counted FROM monitoring.self;
BEGIN READ ONLY;
SELECT monitoring.record('late_recent', 1);
SELECT monitoring.record_at('late_recent', 1, clock_timestamp() - interval '1 second');
\set VERBOSITY terse
SELECT monitoring.record_at('late_total', 1, now() - interval '1 hour', kind => 'counter');
ROLLBACK;
SELECT monitoring.value('late_recent', 'count');

-- No catalog look-up per call: what has been called before touches no page at all.
CREATE FUNCTION pages(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement INTO plan;
    RETURN (plan->0->'Plan'->>'Shared Hit Blocks')::bigint + (plan->0->'Plan'->>'Shared Read Blocks')::bigint;
END
$$;
SELECT s, pages(s) * 0 AS warm, pages(s) AS pages
FROM unnest(ARRAY[
    $$SELECT monitoring.record('bat_d', i, '{"z": true}') FROM generate_series(1, 1000) i$$,
    $$SELECT monitoring.increment('bat_c', i, jsonb_build_object('z', i % 10)) FROM generate_series(1, 1000) i$$,
    $$SELECT monitoring.record_at('bat_g', i, clock_timestamp(), '{}', 'gauge') FROM generate_series(1, 1000) i$$,
    $$SELECT monitoring.record_batch('{bat_d,bat_c}', '{1,2}', kinds => '{distribution,counter}') FROM generate_series(1, 100) i$$,
    $$SELECT monitoring.record_json('[{"metric": "bat_d", "value": 1}]') FROM generate_series(1, 100) i$$,
    $$SELECT monitoring.record_values('bat_values', '{1,2,3}') FROM generate_series(1, 100) i$$,
    $$INSERT INTO monitoring.ingest (metric, value, labels) SELECT 'bat_d', i, jsonb_build_object('z', i % 10) FROM generate_series(1, 1000) i$$]) s;
DROP FUNCTION pages(text);

-- Writers
CREATE ROLE regress_bat_writer;
SELECT monitoring.grant_access('regress_bat_writer', 'writer');
SET ROLE regress_bat_writer;
SELECT monitoring.record_values('bat_values', '{1}'), monitoring.record_batch('{bat_d}', '{1}'), monitoring.record_json('[]');
INSERT INTO monitoring.ingest (metric, value) VALUES ('bat_d', 1) RETURNING metric;
SELECT monitoring.record_at('bat_d', 1, now() - interval '1 hour');
SELECT monitoring.define_metric('bat_d', 'distribution');
RESET ROLE;
SELECT monitoring.revoke_access('regress_bat_writer');
DROP ROLE regress_bat_writer;
:balance;
