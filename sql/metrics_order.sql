-- What is first and last of a gauge follows the times given, whatever the order of the calls.
-- a database of its own: of a minute that another test has had compacted only the order of the minutes is known
SELECT current_database() AS before \gset
CREATE DATABASE regress_monitoring_order;
\c regress_monitoring_order
SET client_min_messages = warning;
SET timezone = 'UTC';
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false;
COMMIT;
-- the second t of a slot that has ended
SELECT date_bin('10 s', clock_timestamp() - interval '20 s', '2000-01-01') AS slot \gset
CREATE FUNCTION pg_temp.put(t float8, metric text DEFAULT 'ord', slot timestamptz DEFAULT :'slot') RETURNS void LANGUAGE sql AS
$$ SELECT monitoring.record_at(metric, t, slot + t * interval '1 s', kind => 'gauge') $$;
CREATE FUNCTION pg_temp.look(metric text DEFAULT 'ord') RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(fn || ' ' || coalesce(monitoring.value(metric, fn, '5 minutes')::text, '-'), ', ' ORDER BY o)
   FROM unnest('{first,last,delta,min,max,count}'::text[]) WITH ORDINALITY AS f (fn, o) $$;

-- in a statement, in several, and beside what a flush has stored
SELECT count(pg_temp.put(t)) FROM unnest('{5,3,7,4}'::float8[]) t;
SELECT pg_temp.look();
SELECT pg_temp.put(8);
SELECT pg_temp.put(2);
SELECT pg_temp.put(6);
SELECT pg_temp.look();
SELECT monitoring.flush() >= 0 AS flushed;
SELECT pg_temp.put(6);
SELECT pg_temp.look();
SELECT monitoring.flush() >= 0 AS flushed;
SELECT pg_temp.put(9), pg_temp.put(1);
SELECT pg_temp.put(2.5);
SELECT monitoring.flush() >= 0 AS flushed;
SELECT pg_temp.look();
-- of the same time the order of the calls counts
SELECT monitoring.record_at('ord_same', v, :'slot', kind => 'gauge') FROM unnest('{4,2,3}'::float8[]) v;
SELECT pg_temp.look('ord_same');
-- half a millisecond
SELECT pg_temp.put(5.0009, 'ord_short');
SELECT monitoring.flush() >= 0 AS flushed;
SELECT pg_temp.put(5.0004, 'ord_short');
SELECT pg_temp.look('ord_short');

-- batches
SELECT monitoring.record_batch(array_agg('ord_batch'::text), array_agg(t), NULL, array_agg('gauge'::text), array_agg(:'slot'::timestamptz + t * interval '1 s'))
FROM unnest('{5,9,3,7}'::float8[]) t;
INSERT INTO monitoring.ingest (metric, value, kind, ts) SELECT 'ord_batch', t, 'gauge', :'slot'::timestamptz + t * interval '1 s' FROM unnest('{8,2}'::float8[]) t;
SELECT pg_temp.look('ord_batch');

-- what follows its transaction, and what was recorded before
SELECT pg_temp.put(5, 'ord_tx');
SET monitoring.transactional = on;
BEGIN;
SELECT pg_temp.put(7, 'ord_tx'), pg_temp.put(4, 'ord_tx');
SAVEPOINT a;
SELECT pg_temp.put(3, 'ord_tx'), pg_temp.put(6, 'ord_tx');
SELECT pg_temp.look('ord_tx');
RELEASE a;
SAVEPOINT b;
SELECT pg_temp.put(8, 'ord_tx'), pg_temp.put(1, 'ord_tx');
ROLLBACK TO b;
SELECT pg_temp.look('ord_tx');
COMMIT;
RESET monitoring.transactional;
SELECT pg_temp.look('ord_tx');

-- a value without a time is of now, when that has come
SELECT monitoring.set_gauge('ord_now', 100), monitoring.set_gauge('ord_now', 200);
SELECT pg_temp.put(5, 'ord_now');
SELECT pg_temp.look('ord_now');
\c :before
DROP DATABASE regress_monitoring_order WITH (FORCE);
