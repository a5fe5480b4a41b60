-- Percentiles against percentile_disc, and their arguments.
SET extra_float_digits = 1;
SELECT setseed(0.42);

CREATE TEMP TABLE data AS
SELECT kind, CASE kind
	WHEN 'uniform' THEN 1 + 999 * a
	WHEN 'lognormal' THEN exp(sqrt(-2 * ln(1 - a)) * cos(2 * pi() * b))
	WHEN 'pareto' THEN 1 / (1 - a)
	WHEN 'constant' THEN 42.42
	WHEN 'zeroes' THEN CASE WHEN a < 0.3 THEN 0 ELSE exp(3 * b) END
	WHEN 'mixed' THEN sqrt(-2 * ln(1 - a)) * cos(2 * pi() * b)
	WHEN 'negative' THEN -exp(10 * a)
	WHEN 'tiny' THEN 1e-300 * (1 + a)
	END AS x
FROM (SELECT random() AS a, random() AS b FROM generate_series(1, 20000)) r,
	unnest(ARRAY['uniform', 'lognormal', 'pareto', 'constant', 'zeroes', 'mixed', 'negative', 'tiny']) kind;

-- Within the guaranteed error at every permille, and exact at both ends.
CREATE TEMP TABLE fractions AS SELECT array_agg(i / 1000.0::float8 ORDER BY i) AS q FROM generate_series(0, 1000) i;
WITH pairs AS (
	SELECT kind, unnest(monitoring.percentiles(monitoring.sketch(x), (SELECT q FROM fractions))) AS estimate,
		   unnest(percentile_disc((SELECT q FROM fractions)) WITHIN GROUP (ORDER BY x)) AS exact
	FROM data GROUP BY kind
)
SELECT kind, count(*), max(abs(estimate - exact) / nullif(abs(exact), 0)) <= 0.005416 IS NOT FALSE AS in_bound,
	   bool_and(estimate = 0) FILTER (WHERE exact = 0) AS zero_exact
FROM pairs GROUP BY kind ORDER BY kind;
SELECT kind, monitoring.percentile(monitoring.sketch(x), 0) = min(x) AS lowest, monitoring.percentile(monitoring.sketch(x), 1) = max(x) AS highest,
	   monitoring.sketch_count(monitoring.sketch(x)) = count(x) AS count,
	   abs(monitoring.sketch_sum(monitoring.sketch(x)) - sum(x)) <= 1e-12 * sum(abs(x)) AS sum
FROM data GROUP BY kind ORDER BY kind;

-- One value, and ranks of a few.
SELECT monitoring.percentiles(monitoring.sketch(3.7), '{0,0.5,1}');
SELECT percentile_disc(q) WITHIN GROUP (ORDER BY x) AS exact, round(monitoring.percentile(monitoring.sketch(x), q)::numeric, 1) AS estimate
FROM generate_series(10, 100, 10) x, unnest(ARRAY[0, 0.05, 0.1, 0.11, 0.5, 0.9, 0.91, 1]) q GROUP BY q ORDER BY q;

-- Shape and NULLs of the array form.
SELECT monitoring.percentiles(monitoring.sketch(5), '{}'), monitoring.percentiles(monitoring.sketch(5), '{0.1,NULL,1}'),
	   monitoring.percentiles(monitoring.sketch(5), '{{0.1,0.2},{0.3,0.4}}'), monitoring.percentiles(monitoring.sketch(5), '{NULL}'),
	   monitoring.percentiles(NULL, '{0.1}'), monitoring.percentiles(monitoring.sketch(5), NULL);

-- A fraction outside 0..1.
SELECT monitoring.percentile(monitoring.sketch(5), 95);
SELECT monitoring.percentile(monitoring.sketch(5), -0.01);
SELECT monitoring.percentile(monitoring.sketch(5), 'NaN');
SELECT monitoring.percentiles(monitoring.sketch(5), '{0.5,1.5}');

-- A sketch of too wide a range says that it is coarser.
SELECT monitoring.max_relative_error(monitoring.sketch(x)) > 0.01 AS coarser,
	   monitoring.percentiles(monitoring.sketch(x), '{0,1}')
FROM unnest(ARRAY[1e-20, 1, 1e20]) x;
