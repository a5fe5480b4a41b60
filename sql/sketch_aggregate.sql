-- The aggregates: NULLs, bad values, groups, windows, merging, parallel plans.
SET search_path = public, monitoring;

SELECT monitoring.sketch(x) IS NULL AS sketch, monitoring.merge(s) IS NULL AS merge
FROM (VALUES (NULL::float8, NULL::monitoring.sketch), (NULL, NULL)) v (x, s);
SELECT monitoring.sketch(1) IS NULL AS sketch WHERE false;
SELECT monitoring.sketch_count(monitoring.sketch(x)), monitoring.sketch_sum(monitoring.sketch(x))
FROM unnest(ARRAY[NULL, 1, NULL, 2, NULL]) x;

SELECT monitoring.sketch('NaN'::float8);
SELECT monitoring.sketch(x) FROM unnest(ARRAY[1, 'Infinity', 2]::float8[]) x;
SELECT monitoring.sketch(x) FROM unnest(ARRAY[1, '-Infinity', 2]::float8[]) x;
SELECT monitoring.sketch_count(monitoring.sketch(x) FILTER (WHERE x > '-Infinity' AND x < 'Infinity'))
FROM unnest(ARRAY[1, 'Infinity', '-Infinity', 'NaN', 2]::float8[]) x;

-- Values of other types; groups of every size around the batches.
SELECT monitoring.sketch_sum(monitoring.sketch(1::int)), monitoring.sketch_sum(monitoring.sketch(1.5::numeric));
SELECT count(*), bool_and(monitoring.sketch_count(s) = g AND monitoring.sketch_sum(s) = g * (g + 1) / 2 AND monitoring.sketch_max(s) = g) AS right
FROM (SELECT g, monitoring.sketch(x) AS s FROM generate_series(1, 600) g, generate_series(1, g) x GROUP BY g) t;

-- A window goes on after its value was taken.
SELECT bool_and(monitoring.sketch_count(s) = x AND monitoring.sketch_max(s) = x) AS right
FROM (SELECT x, monitoring.sketch(x) OVER (ORDER BY x) AS s FROM generate_series(1, 600) x) t;

-- Merging parts, in any order and grouping, is the sketch of the whole.
CREATE TABLE sketch_values AS
SELECT x, x % 97 AS part, (x::bigint * 7919 % 100003 - 30000)::float8 AS v FROM generate_series(1, 100000) x;
CREATE TEMP TABLE whole AS SELECT monitoring.sketch(v) AS s FROM sketch_values;
CREATE TEMP TABLE parts AS SELECT part, monitoring.sketch(v) AS s FROM sketch_values GROUP BY part;
SELECT monitoring.merge(s ORDER BY part) = (SELECT s FROM whole) AS ascending,
	   monitoring.merge(s ORDER BY part DESC) = (SELECT s FROM whole) AS descending
FROM parts;
SELECT monitoring.merge(s) = (SELECT s FROM whole) AS in_two_steps
FROM (SELECT monitoring.merge(s) AS s FROM parts GROUP BY part % 10) t;
SELECT monitoring.merge(p.s) = p.s AS alone FROM parts p WHERE part = 3 GROUP BY p.s;

-- Out of line, as a large sketch in a row is stored.
CREATE TEMP TABLE stored (s monitoring.sketch);
INSERT INTO stored SELECT monitoring.sketch(1.01 ^ (x % 4000) * x) FROM generate_series(1, 50000) x;
SELECT pg_column_size(s) > 2000 AS large, monitoring.sketch_count(s) FROM stored;
SELECT monitoring.sketch_count(monitoring.merge(s)) FROM (SELECT s FROM stored UNION ALL SELECT s FROM stored) t;

-- Coarse and fine sketches together: the coarser resolution.
SELECT monitoring.max_relative_error(monitoring.merge(s)) = max(monitoring.max_relative_error(s)) AS coarsest,
	   max(monitoring.max_relative_error(s)) > min(monitoring.max_relative_error(s)) AS different
FROM (SELECT monitoring.sketch(x) AS s FROM unnest(ARRAY[1, 1e50]) x UNION ALL SELECT monitoring.sketch(5)) t;

-- Too many values.
SELECT monitoring.merge(s) FROM unnest(ARRAY['Tw///////////38B/P//////////AQ==', 'Tw///////////38B/P//////////AQ==']::monitoring.sketch[]) s;

-- A parallel plan gives the same.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT monitoring.sketch(v) FROM sketch_values;
SELECT monitoring.sketch(v) = (SELECT s FROM whole) AS same FROM sketch_values;
CREATE TABLE sketch_parts AS SELECT * FROM parts;
EXPLAIN (COSTS OFF) SELECT monitoring.merge(s) FROM sketch_parts;
SELECT monitoring.merge(s) = (SELECT s FROM whole) AS same FROM sketch_parts;
DROP TABLE sketch_values, sketch_parts;
