-- What was recorded a moment ago is in the answer, whoever flushes meanwhile.
SET client_min_messages = warning;

SELECT count(monitoring.record('reg_latency_seconds', i / 1000.0, '{"route": "/cart"}')) FROM generate_series(1, 1000) i;
SELECT monitoring.record('reg_latency_seconds', 5, '{"route": "/pay", "status": 500}');
SELECT monitoring.value('reg_latency_seconds', 'count'),
       monitoring.value('reg_latency_seconds', 'count', labels => '{"route": "/cart"}'),
       monitoring.value('reg_latency_seconds', 'max'),
       monitoring.value('reg_latency_seconds', 'min');
-- percentiles are within the guaranteed error
SELECT q, abs(monitoring.percentile('reg_latency_seconds', q, labels => '{"route": "/cart"}') / (q) - 1) <= 0.005416 AS within
FROM unnest('{0.01, 0.5, 0.9, 0.99}'::float8[]) q;
SELECT monitoring.value('reg_latency_seconds', 'p50', labels => '{"route": "/cart"}')
     = monitoring.percentile('reg_latency_seconds', 0.5, labels => '{"route": "/cart"}') AS same;
-- numbers and text are the same label value
SELECT monitoring.value('reg_latency_seconds', 'count', labels => '{"status": "500"}'),
       monitoring.value('reg_latency_seconds', 'count', labels => '{"status": 500}');

SELECT monitoring.increment('reg_orders_total');
SELECT monitoring.increment('reg_orders_total', 41);
SELECT monitoring.value('reg_orders_total', 'sum'), monitoring.value('reg_orders_total', 'increase'),
       monitoring.value('reg_orders_total', 'count'),
       -- a window that ends 5 s into a slot covers 65 s
       round((monitoring.value('reg_orders_total', 'rate', '1 minute',
           at => date_bin('10 s', clock_timestamp(), '2000-01-01 00:00+00') + '15 s') * 65)::numeric, 6) AS per_65_seconds;
SELECT monitoring.set_gauge('reg_queue_length', 7);
SELECT monitoring.set_gauge('reg_queue_length', 3);
SELECT monitoring.value('reg_queue_length', f) FROM unnest('{last,min,max,avg,count}'::text[]) f;

-- flushing changes nothing
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('reg_latency_seconds', 'count'), monitoring.value('reg_orders_total', 'sum'), monitoring.value('reg_queue_length', 'last');
SELECT monitoring.record('reg_latency_seconds', 1, '{"route": "/cart"}');
SELECT monitoring.value('reg_latency_seconds', 'count');
BEGIN;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('reg_latency_seconds', 'count');
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('reg_latency_seconds', 'count');
ROLLBACK;
SELECT monitoring.value('reg_latency_seconds', 'count');
BEGIN;
SAVEPOINT s;
SELECT monitoring.flush() >= 0 AS flushed;
ROLLBACK TO s;
COMMIT;
SELECT monitoring.value('reg_latency_seconds', 'count');
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('reg_latency_seconds', 'count');

-- A rolled-back transaction's records count ...
BEGIN;
SELECT monitoring.increment('reg_attempts_total');
ROLLBACK;
SELECT monitoring.value('reg_attempts_total', 'sum');
-- ... unless they are to follow their transaction, savepoints included
SET monitoring.transactional = on;
BEGIN;
SELECT monitoring.increment('reg_attempts_total', 10);
SELECT monitoring.record('reg_trans_seconds', 1);
SELECT monitoring.value('reg_attempts_total', 'sum') AS own_pending_included, monitoring.value('reg_trans_seconds', 'count');
ROLLBACK;
SELECT monitoring.value('reg_attempts_total', 'sum'), monitoring.value('reg_trans_seconds', 'count');
BEGIN;
SELECT monitoring.increment('reg_attempts_total', 100);
SAVEPOINT a;
SELECT monitoring.increment('reg_attempts_total', 1000);
SELECT monitoring.record('reg_trans_seconds', 2);
SAVEPOINT b;
SELECT monitoring.increment('reg_attempts_total', 10000);
RELEASE b;
ROLLBACK TO a;
SAVEPOINT c;
SELECT monitoring.increment('reg_attempts_total', 100000);
SELECT monitoring.record('reg_trans_seconds', 3);
RELEASE c;
COMMIT;
SELECT monitoring.value('reg_attempts_total', 'sum'), monitoring.value('reg_trans_seconds', 'count'), monitoring.value('reg_trans_seconds', 'max');
RESET monitoring.transactional;

-- from PL/pgSQL and triggers
CREATE TABLE reg_orders (id int, amount float8);
CREATE FUNCTION reg_orders_metric() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM monitoring.record('reg_amount', NEW.amount, '{"source": "trigger"}');
    RETURN NEW;
END $$;
CREATE TRIGGER reg_orders_metric BEFORE INSERT ON reg_orders FOR EACH ROW EXECUTE FUNCTION reg_orders_metric();
INSERT INTO reg_orders SELECT i, i FROM generate_series(1, 500) i;
SELECT monitoring.value('reg_amount', 'count'), monitoring.value('reg_amount', 'sum');
DROP TABLE reg_orders;
DROP FUNCTION reg_orders_metric();

-- series by series, and over time
SELECT series_labels, value FROM monitoring.series_values('reg_latency_seconds', 'count', '5 minutes', '{}', '{route}', clock_timestamp()) ORDER BY 1;
SELECT series_labels, sum(value), count(*) FILTER (WHERE value IS NULL) AS gaps
FROM date_bin('10 s', now(), '2000-01-01 00:00+00') AS slot,
     monitoring.query('reg_latency_seconds', 'count', slot - interval '590 s', slot + interval '10 s', '1 minute', by => '{route}')
GROUP BY 1 ORDER BY 1;
SELECT count(*), count(value) FROM monitoring.query('reg_unknown', 'count', '2020-01-01', '2020-01-02', '1 hour');
SELECT monitoring.value('reg_unknown', 'p95') IS NULL AS no_data, monitoring.value('reg_latency_seconds', 'count', at => '2020-01-01') IS NULL AS before;

-- stored rows of very different size, added up in one result
SELECT monitoring.record('grown', 1);
SELECT monitoring.flush() >= 0 AS flushed;
SELECT count(monitoring.record('grown', i * 1.5)) FROM generate_series(1, 2000) i;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.record('grown', 1);
SELECT monitoring.flush() >= 0 AS flushed;
SELECT monitoring.value('grown', 'count'), monitoring.value('grown', 'sum'), monitoring.value('grown', 'max'),
	abs(monitoring.value('grown', 'p50') / 1500 - 1) < 0.01 AS p50;

SELECT metric, kind, series, overflowing FROM monitoring.metrics WHERE metric LIKE 'reg\_%' ORDER BY metric;
SELECT metric, labels, kind, live FROM monitoring.series WHERE metric = 'reg_latency_seconds' ORDER BY labels;
SELECT accepted = persisted + pending + dropped AS balanced, memory_used_bytes < memory_bytes AS bounded FROM monitoring.self;

-- A metric over its limit keeps its totals in the overflow series.
SELECT count(monitoring.increment('reg_bomb_total', 1, jsonb_build_object('user', i))) FROM generate_series(1, 12000) i;
SELECT monitoring.value('reg_bomb_total', 'sum'), monitoring.value('reg_bomb_total', 'sum', labels => '{"overflow": true}');
SELECT series, overflowing FROM monitoring.metrics WHERE metric = 'reg_bomb_total';
SELECT accepted = persisted + pending + dropped AS balanced FROM monitoring.self;

-- Many series are read from segments exactly as they were recorded.
SELECT count(monitoring.set_gauge('reg_many', i, jsonb_build_object('n', i))),
       count(monitoring.record('reg_many_seconds', i, jsonb_build_object('n', i))) FROM generate_series(1, 500) i;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT count(*), count(*) FILTER (WHERE value::text = series_labels ->> 'n') AS right
FROM monitoring.series_values('reg_many', 'last', '1 hour', '{}', '{n}', clock_timestamp());
SELECT count(*), count(*) FILTER (WHERE abs(value / (series_labels ->> 'n')::float8 - 1) <= 0.005415) AS right
FROM monitoring.series_values('reg_many_seconds', 'p50', '1 hour', '{}', '{n}', clock_timestamp());

-- Groups read from many segments stay apart.
DO $$ BEGIN FOR i IN 1..60 LOOP
    PERFORM monitoring.record('reg_groups_seconds', i, jsonb_build_object('k', i % 3)), monitoring.flush();
END LOOP; END $$;
SELECT series_labels, value FROM monitoring.series_values('reg_groups_seconds', 'sum', '1 hour', '{}', '{k}', clock_timestamp()) ORDER BY 1;
SELECT series_labels, round(value) AS p50 FROM monitoring.series_values('reg_groups_seconds', 'p50', '1 hour', '{}', '{k}', clock_timestamp()) ORDER BY 1;

-- Buckets begin with a slot when they are at least as long, and the slot of since is in the first.
SELECT min(bucket), max(bucket), count(*) FROM monitoring.query('reg_unknown', 'count', '2020-01-01 00:00:07+00', '2020-01-01 00:02+00', '10 s');
SELECT min(bucket), max(bucket), count(*) FROM monitoring.query('reg_unknown', 'count', '1990-01-01 00:00:07+00', '1990-01-01 00:02+00', '1 minute');
SELECT min(bucket), max(bucket), count(*) FROM monitoring.query('reg_unknown', 'count', '2020-01-01 00:00:07+00', '2020-01-01 00:00:17+00', '1 s');
SELECT count(*) FROM monitoring.query('reg_unknown', 'count', '4714-11-24 00:00+00 BC', '294276-12-31 23:59:59+00', '100 years');

-- Slots that flushes sealed and could not write share rows, however many there are of a series.
SELECT coalesce(max(seq), 0) AS before FROM monitoring.segments \gset
DO $$ BEGIN FOR i IN 1..20 LOOP
    PERFORM monitoring.increment('reg_sealed_total', 1, jsonb_build_object('k', k)) FROM generate_series(1, 50) k;
    BEGIN
        PERFORM monitoring.flush();
        RAISE EXCEPTION 'not written';
    EXCEPTION WHEN raise_exception THEN
    END;
END LOOP; END $$;
SELECT monitoring.flush() >= 0 AS flushed;
SELECT count(*) < 100 AS few_rows FROM monitoring.segments WHERE seq > :before;
SELECT monitoring.value('reg_sealed_total', 'sum', '1 hour');
