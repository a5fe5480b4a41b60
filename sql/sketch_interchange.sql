-- Sketches to and from OTLP exponential, Prometheus native and classic histograms.
SET search_path = public, monitoring;
SET extra_float_digits = 1;
SELECT setseed(0.2718);

-- SQLSTATE, detail and hint of what a statement raises.
CREATE FUNCTION pg_temp.attempt(statement text) RETURNS text LANGUAGE plpgsql AS
$$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ' ' || SQLERRM || ' / ' || detail || CASE WHEN hint = '' THEN ' / no hint' ELSE '' END;
END
$$;

-- The forms themselves.
SELECT jsonb_pretty(to_otlp(sketch(x))) FROM unnest(ARRAY[2, 2.02, 2.05, 0, -2.03]) x;
SELECT jsonb_pretty(to_prometheus(sketch(x))) FROM unnest(ARRAY[2, 2.02, 2.05, 2.02, 3, 0, -2.03]) x;
SELECT to_otlp('QAAA'), to_prometheus('QAAA');
SELECT to_otlp(NULL), from_otlp(NULL), to_prometheus(NULL), from_prometheus(NULL);

-- The example of Prometheus' specification: -2 -> 3, -1 -> 5, 2 -> 1, 4 -> 3, 5 -> 2.
CREATE TEMP TABLE example AS SELECT from_prometheus('{"schema": 0, "count": 14, "sum": 77.5, "zero_count": 0, "zero_threshold": 0,
	"positive_spans": [{"offset": -2, "length": 2}, {"offset": 2, "length": 1}, {"offset": 1, "length": 2}],
	"positive_deltas": [3, 2, -4, 2, -1]}') AS s;
SELECT to_otlp(s) FROM example;
SELECT to_prometheus(s) FROM example;
SELECT from_prometheus(to_prometheus(s)) = s AS same, sketch_count(s), percentiles(s, '{0,0.5,1}') FROM example;

-- Sketches of every kind: signs, zeroes, constants, all of the range of doubles, coarse ones, large counts.
CREATE TEMP TABLE sketches AS
SELECT kind, n, sketch(CASE kind
	WHEN 'lognormal' THEN exp(3 * sqrt(-2 * ln(1 - a)) * cos(2 * pi() * b))
	WHEN 'signs' THEN (a - 0.3) * exp(9 * b)
	WHEN 'negative' THEN -exp(20 * a)
	WHEN 'zeroes' THEN CASE WHEN a < 0.4 THEN 0 ELSE b - 0.5 END
	WHEN 'zero' THEN 0
	WHEN 'constant' THEN n * 0.7
	WHEN 'integers' THEN floor(100 * a)
	WHEN 'wide' THEN 10 ^ (60 * a - 30)
	WHEN 'coarse' THEN 10 ^ (600 * a - 300) * CASE WHEN b < 0.5 THEN 1 ELSE -1 END
	WHEN 'subnormal' THEN 4.9406564584124654e-324 * floor(1 + 1e6 * a * b * b)
	WHEN 'extreme' THEN (ARRAY[1.7976931348623157e308, -1.7976931348623157e308, 4.9406564584124654e-324, 0, 1])[1 + floor(5 * a)::int]
	WHEN 'powers' THEN 2.0 ^ floor(40 * a - 20)
	END) AS s
FROM unnest(ARRAY['lognormal', 'signs', 'negative', 'zeroes', 'zero', 'constant', 'integers', 'wide', 'coarse', 'subnormal',
	'extreme', 'powers']) kind, generate_series(1, 20) n, LATERAL (SELECT random() AS a, random() AS b FROM generate_series(1, n * n)) r
GROUP BY kind, n;
INSERT INTO sketches SELECT 'empty', 0, 'QAAA';
INSERT INTO sketches SELECT 'large', n, merged.s FROM generate_series(1, 5) n,
	LATERAL (SELECT from_otlp(jsonb_build_object('count', (n * 1000000000000000003)::text, 'sum', 7, 'scale', 6 - n,
		'positive', jsonb_build_object('offset', -n, 'bucketCounts', jsonb_build_array(n::text, 0, n * 1000000000000000000, 2 * n)))) AS s) merged;
INSERT INTO sketches SELECT 'scale', scale, from_otlp(jsonb_build_object('scale', scale, 'count', 6, 'sum', -0.5, 'zeroCount', 1,
	'positive', '{"offset": -2, "bucketCounts": [1, 2]}'::jsonb, 'negative', '{"offset": -1, "bucketCounts": [2]}'::jsonb))
FROM generate_series(-10, 8) scale;
SELECT kind, count(*), round(min(max_relative_error(s))::numeric, 6) AS finest, round(max(max_relative_error(s))::numeric, 6) AS coarsest
FROM sketches GROUP BY kind ORDER BY kind;

-- OTLP and back: the same bytes; also through text, and as 64-bit integers without quotes.
SELECT kind, bool_and(from_otlp(to_otlp(s)) = s) AS same, bool_and(from_otlp(to_otlp(s)::text::jsonb) = s) AS as_text,
	   bool_and(from_otlp(regexp_replace(to_otlp(s)::text, '"(\d+)"', '\1', 'g')::jsonb) = s) AS as_numbers
FROM sketches GROUP BY kind ORDER BY kind;

-- Prometheus and back: the same but for min and max, which are then within the error of the percentiles.
SELECT kind, bool_and(to_otlp(t) - '{min,max}'::text[] = to_otlp(s) - '{min,max}'::text[]) AS same,
	   bool_and(from_prometheus(to_prometheus(t)) = t) AS stable,
	   bool_and(sketch_count(s) = 0 OR abs(sketch_min(t) - sketch_min(s)) <= (max_relative_error(s) + 1e-15) * abs(sketch_min(s))
				AND abs(sketch_max(t) - sketch_max(s)) <= (max_relative_error(s) + 1e-15) * abs(sketch_max(s))) AS ends_in_bound
FROM sketches, from_prometheus(CASE WHEN kind <> 'scale' OR n >= -4 THEN to_prometheus(s) END) t
WHERE t IS NOT NULL AND kind NOT IN ('subnormal', 'extreme') GROUP BY kind ORDER BY kind;
SELECT bool_and(to_otlp(t) - '{min,max}'::text[] = to_otlp(s) - '{min,max}'::text[] AND t::text::sketch = t) AS same
FROM sketches, from_prometheus(to_prometheus(s)) t WHERE kind IN ('subnormal', 'extreme');
SELECT n, pg_temp.attempt(format('SELECT to_prometheus(%L)', s)) FROM sketches WHERE kind = 'scale' AND n IN (-10, -5, -4) ORDER BY n;

-- Spans and deltas against the dense form, by the definition of both.
CREATE TEMP TABLE forms AS
SELECT kind, n, sign, to_prometheus(s) -> (sign || '_spans') AS spans, to_prometheus(s) -> (sign || '_deltas') AS deltas, to_otlp(s) -> sign AS buckets
FROM sketches, unnest(ARRAY['positive', 'negative']) sign WHERE n % 5 = 0 AND kind <> 'scale';
CREATE TEMP TABLE spans AS
SELECT kind, n, sign, i, length, start + before AS start, before AS skip FROM (
	SELECT kind, n, sign, i, (span ->> 'length')::int AS length, sum((span ->> 'offset')::int) OVER w AS start,
		   sum((span ->> 'length')::int) OVER w - (span ->> 'length')::int AS before
	FROM forms, jsonb_array_elements(spans) WITH ORDINALITY e (span, i) WINDOW w AS (PARTITION BY kind, n, sign ORDER BY i)) t;
CREATE TEMP TABLE sparse AS
SELECT kind, n, sign, skip + k AS at, start + k - 1 AS bucket FROM spans, generate_series(1, length) k;
CREATE TEMP TABLE counts AS
SELECT kind, n, sign, k AS at, sum(delta::numeric) OVER (PARTITION BY kind, n, sign ORDER BY k) AS count
FROM forms, jsonb_array_elements_text(deltas) WITH ORDINALITY e (delta, k);
CREATE TEMP TABLE dense AS
SELECT kind, n, sign, (buckets ->> 'offset')::int + k - 1 AS bucket, count::numeric
FROM forms, jsonb_array_elements_text(buckets -> 'bucketCounts') WITH ORDINALITY e (count, k) WHERE count <> '0';
ANALYZE sparse;
ANALYZE counts;
ANALYZE dense;
SELECT count(*) > 2000 AS many, count(*) FILTER (WHERE s.count IS DISTINCT FROM d.count) AS different
FROM (SELECT kind, n, sign, bucket - 1 AS bucket, count FROM sparse FULL JOIN counts USING (kind, n, sign, at)) s
	FULL JOIN dense d USING (kind, n, sign, bucket);

-- Points made by the definition of OTLP, at any scale: the sketch of the values, or its like at scale 8.
CREATE FUNCTION pg_temp.buckets(v float8[], scale int) RETURNS jsonb LANGUAGE sql AS
$$
	WITH counts AS (SELECT ceil(ln(x) / ln(2::float8) * 2.0 ^ scale)::int - 1 AS index, count(*) FROM unnest(v) x WHERE x > 0 GROUP BY 1),
		ends AS (SELECT min(index) AS lo, max(index) AS hi FROM counts)
	SELECT jsonb_build_object('offset', min(i), 'bucketCounts', jsonb_agg(coalesce(count, 0)::text ORDER BY i))
	FROM ends, generate_series(lo, hi) i LEFT JOIN counts ON index = i
$$;
CREATE FUNCTION pg_temp.point(v float8[], scale int) RETURNS jsonb LANGUAGE sql AS
$$
	SELECT jsonb_build_object('count', count(*)::text, 'scale', scale, 'zeroCount', (count(*) FILTER (WHERE x = 0))::text,
		'sum', sketch_sum(sketch(x)), 'min', min(x), 'max', max(x), 'positive', pg_temp.buckets(v, scale),
		'negative', pg_temp.buckets(array_agg(-x), scale))
	FROM unnest(v) x
$$;
CREATE TEMP TABLE samples AS
SELECT n, array_agg(CASE WHEN n % 2 = 0 THEN a ELSE round((a - 0.4)::numeric, 2)::float8 END * 1.7) AS v
FROM generate_series(1, 10) n, LATERAL (SELECT 0.05 + random() AS a FROM generate_series(1, 200)) r GROUP BY n;
SELECT bool_and(from_otlp(pg_temp.point(v, 6)) = (SELECT sketch(x) FROM unnest(v) x)) AS same FROM samples;
SELECT scale, bool_and(from_otlp(pg_temp.point(v, scale)) = from_otlp(pg_temp.point(v, least(scale, 8)))) AS exact,
	   round(max(max_relative_error(from_otlp(pg_temp.point(v, scale))))::numeric, 6) AS error
FROM samples, generate_series(-3, 12, 3) scale WHERE n <= 4 GROUP BY scale ORDER BY scale;
SELECT to_otlp(from_otlp('{"scale": 20, "count": 3, "sum": 3, "positive": {"offset": -1048577, "bucketCounts": [1, 1, 1]}}'));

-- A fold of a wide point is the same as that of its values.
SELECT from_otlp(jsonb_build_object('scale', 6, 'count', 2, 'sum', 1e30, 'min', 1e-30, 'max', 1e30, 'positive',
	jsonb_build_object('offset', -6379, 'bucketCounts', '[1]'::jsonb || (SELECT jsonb_agg(0) FROM generate_series(1, 12755)) || '[1]'::jsonb)))
	= (SELECT sketch(x) FROM unnest(ARRAY[1e-30, 1e30]) x) AS same;

-- What may be missing, and empty buckets at the ends.
SELECT to_otlp(from_otlp('{"scale": 0, "count": 2, "positive": {"offset": 1, "bucketCounts": [0, 0, 2, 0, 0]}, "negative": null}'));
SELECT to_otlp(from_otlp('{"scale": 0, "count": 2, "positive": {"offset": 1, "bucketCounts": []}, "negative": {"bucketCounts": [2]}}'));
SELECT from_otlp('{"timeUnixNano": "1"}') = from_otlp('{"scale": 0}') AS empty, sketch_count(from_otlp('{"count": "0"}'));
SELECT sketch_sum(from_otlp('{"count": 1, "zeroCount": 1, "sum": "NaN"}')), sketch_sum(from_otlp('{"count": "1.0", "zeroCount": "1", "sum": "-Infinity"}'));

-- The zero bucket counts as zero, whatever its width.
SELECT to_otlp(from_otlp('{"scale": 0, "count": 3, "sum": 2.4, "zeroCount": 2, "zeroThreshold": 0.25, "min": 0.2, "max": 2,
	"positive": {"bucketCounts": [1]}}'));

-- A minimum or maximum of the neighbouring bucket is brought into the outermost one, of another bucket refused.
SELECT to_otlp(from_otlp('{"scale": 0, "count": 2, "sum": 3, "min": 1, "max": 2.0000000000000004, "positive": {"bucketCounts": [2]}}'));
SELECT pg_temp.attempt($$SELECT from_otlp('{"scale": 0, "count": 2, "sum": 3, "min": 1, "max": 4.1, "positive": {"bucketCounts": [2]}}')$$);
SELECT pg_temp.attempt($$SELECT from_otlp('{"scale": 0, "count": 2, "sum": 3, "min": -1, "max": 2, "positive": {"bucketCounts": [2]}}')$$);
SELECT pg_temp.attempt($$SELECT from_otlp('{"scale": 0, "count": 2, "sum": 3, "min": 1.7, "max": 1.6, "positive": {"bucketCounts": [2]}}')$$);

-- Bad OTLP points.
SELECT input, pg_temp.attempt(format('SELECT from_otlp(%L)', input)) FROM unnest(ARRAY[
	'null', '1', '[]', '"x"', '{}', '{"dataPoints": []}',
	'{"count": true}', '{"count": -1}', '{"count": "-1"}', '{"count": 1.5}', '{"count": "1e3"}', '{"count": " 1"}', '{"count": ""}',
	'{"count": "18446744073709551615"}', '{"count": 1e400}', '{"count": []}', '{"count": 5, "zeroCount": 4}', '{"count": 4, "zeroCount": 5}',
	'{"scale": -11, "count": 0}', '{"scale": 2147483648, "count": 0}', '{"scale": "x", "count": 0}', '{"scale": 0.5, "count": 0}',
	'{"count": 0, "positive": []}', '{"count": 0, "positive": 5}', '{"count": 0, "positive": {"bucketCounts": {}}}',
	'{"count": 0, "positive": {"bucketCounts": [[]]}}', '{"count": 0, "positive": {"bucketCounts": ["a"]}}',
	'{"count": 0, "positive": {"bucketCounts": [null]}}', '{"count": 0, "negative": {"bucketCounts": [-1]}}',
	'{"count": 2, "positive": {"offset": 2147483647, "bucketCounts": [0, 2]}}', '{"count": 1, "positive": {"offset": 2147483648, "bucketCounts": [1]}}',
	'{"count": 1, "positive": {"offset": -2147483648, "bucketCounts": [1]}}', '{"count": 1, "positive": {"offset": -2147483649, "bucketCounts": [1]}}',
	'{"count": 1, "scale": 2147483647, "positive": {"offset": 5, "bucketCounts": [1]}, "min": 3}',
	'{"count": 1, "scale": 0, "positive": {"offset": 1024, "bucketCounts": [1]}}', '{"count": 1, "scale": 0, "positive": {"offset": -1076, "bucketCounts": [1]}}',
	'{"count": 0, "positive": {"bucketCounts": ["9223372036854775807", "9223372036854775807"]}}',
	'{"count": 1, "zeroCount": 1, "sum": {}}', '{"count": 1, "zeroCount": 1, "sum": "0x10"}', '{"count": 1, "zeroCount": 1, "sum": "1 "}',
	'{"count": 1, "zeroCount": 1, "min": "NaN"}', '{"count": 1, "zeroCount": 1, "max": "Infinity"}', '{"count": 1, "zeroCount": 1, "max": 1e999}',
	'{"count": 1, "zeroCount": 1, "zeroThreshold": -1}', '{"count": 1, "zeroCount": 1, "zeroThreshold": "NaN"}', '{"count": 0, "sum": 1}'
]) WITH ORDINALITY u (input, n) ORDER BY n;

-- Bad Prometheus histograms; a span of 2^31 buckets costs nothing.
SELECT input, pg_temp.attempt(format('SELECT from_prometheus(%L)', input)) FROM unnest(ARRAY[
	'[1]', '{}', '{"count": 0}', '{"schema": -5, "count": 0}', '{"schema": 9, "count": 0}', '{"schema": -53, "count": 0, "custom_values": [1]}',
	'{"schema": 0, "count": 1}', '{"schema": 0, "positive_spans": {}}', '{"schema": 0, "positive_spans": [1]}', '{"schema": 0, "positive_spans": [[]]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 0, "length": 1}]}', '{"schema": 0, "count": 1, "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 0, "length": 2147483648}]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 0, "length": 4294967295}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 0, "length": 1}, {"offset": 0, "length": 2147483648}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 0, "length": 4294967296}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 0, "length": -1}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 2147483647, "length": 1}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": -2147483648, "length": 1}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": -2147483649, "length": 1}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 0, "length": 1}, {"offset": -1, "length": 1}], "positive_deltas": [1, 0]}',
	'{"schema": 0, "count": 1, "positive_spans": [{"offset": 1025, "length": 1}], "positive_deltas": [1]}',
	'{"schema": 0, "count": 1, "negative_spans": [{"offset": 0, "length": 2}], "negative_deltas": [1, -2]}',
	'{"schema": 0, "count": 1, "negative_spans": [{"offset": 0, "length": 2}], "negative_deltas": [9223372036854775807, 1]}',
	'{"schema": 0, "count": 1, "negative_spans": [{"offset": 0, "length": 1}], "negative_deltas": [1.5]}',
	'{"schema": 0, "count": 1, "zero_count": 1, "sum": true}', '{"schema": 0, "count": 1, "zero_count": 1, "zero_threshold": -1}'
]) WITH ORDINALITY u (input, n) ORDER BY n;
SELECT from_prometheus('{"schema": 0, "count": 1, "sum": 1, "positive_spans": [{"offset": -5, "length": 0}, {"offset": 5, "length": 1},
	{"offset": 7, "length": 0}], "positive_deltas": [1]}') = from_prometheus('{"schema": 0, "count": "1", "sum": "1",
	"positive_spans": [{"offset": 0, "length": 1}], "positive_deltas": ["1"], "negative_spans": null}') AS empty_spans;

-- Any number of a form replaced by anything: refused, or a sketch that reads back as itself.
CREATE TEMP TABLE mutated AS
SELECT form, pg_temp.attempt(format('SELECT 1 / (s::text::sketch = s AND from_otlp(to_otlp(s)) = s AND percentile(s, 0.5) IS NOT NULL)::int FROM from_%s(%L) s',
	form, regexp_replace(text, '"?-?[0-9][0-9.e+-]*"?', value, 1, i))) AS result
FROM sketches, LATERAL (VALUES ('otlp', to_otlp(s)::text), ('prometheus', to_prometheus(s)::text)) f (form, text),
	unnest(ARRAY['-1', '0', '1', '"3"', '1.5', '255', '-2147483648', '2147483648', '9223372036854775807', '1e308', '-1e-320', '1e-400',
				 '"NaN"', '"-Infinity"', 'null', '[]', '{}', 'true']) value,
	generate_series(1, least(regexp_count(text, '"?-?[0-9][0-9.e+-]*"?'), 15)) i
WHERE kind IN ('signs', 'extreme', 'coarse', 'integers') AND n = 3;
SELECT form, bool_and(result ~ '^(22003|22023) [^/]* / [^/]+$' OR result = 'accepted') AS safe,
	   count(*) FILTER (WHERE result ~ '^22023') > 100 AS invalid, count(*) FILTER (WHERE result ~ '^22003') > 100 AS out_of_range,
	   count(*) FILTER (WHERE result = 'accepted') > 50 AS accepted
FROM mutated GROUP BY form ORDER BY form;
SELECT DISTINCT result FROM mutated WHERE NOT (result ~ '^(22003|22023) [^/]* / [^/]+$' OR result = 'accepted');

-- Classic histograms: where the values go.
SELECT to_otlp(from_buckets('{1, 4, 8}', '{1, 0, 0, 0}')) - '{positive}'::text[] AS first, percentile(from_buckets('{1, 4}', '{0, 1, 0}'), 0.5) AS inner,
	   percentile(from_buckets('{1, 4}', '{0, 0, 1}'), 0.5) AS above, percentile(from_buckets('{-4, -1}', '{1, 0, 0}'), 0.5) AS below,
	   percentile(from_buckets('{-4, -1}', '{0, 1, 0}'), 0.5) AS negative, percentile(from_buckets('{-4, 2}', '{0, 1, 0}'), 0.5) AS across,
	   percentile(from_buckets('{0}', '{1, 0}'), 0.5) AS up_to_zero, percentile(from_buckets('{0, 5}', '{0, 1, 0}'), 0.5) AS from_zero;
SELECT sketch_count(s), sketch_sum(s), sketch_sum(from_buckets('{1, 2}', '{3, 4, 5}')) AS estimated, sketch_min(s), sketch_max(s)
FROM from_buckets('{1, 2}', '{3, 4, 5}', 17.5) s;
SELECT from_buckets('{1, 2}', '{3, 4, 5}', 17.5) = from_cumulative_buckets('{1, 2, Infinity}', '{3, 7, 12}', 17.5) AS same;
SELECT from_buckets(NULL, '{1}'), from_buckets('{1}', NULL), from_cumulative_buckets(NULL, '{1}'), from_cumulative_buckets('{1}', NULL),
	   from_buckets('{1}', '{0, 0}') = 'QAAA' AS empty, from_buckets_relative_error(NULL), from_buckets_relative_error('{1}', NULL, 0.5);
SELECT sketch_count(from_buckets('{1, 2}', '{0, 9223372036854775807, 0}'));

-- Bad classic histograms.
SELECT arguments, pg_temp.attempt(format('SELECT from_buckets(%s)', arguments)) FROM unnest(ARRAY[
	$$'{}', '{5}'$$, $$'{1}', '{1}'$$, $$'{1}', '{1, 2, 3}'$$, $$'{1, 1}', '{1, 2, 3}'$$, $$'{2, 1}', '{1, 2, 3}'$$, $$'{NaN}', '{1, 2}'$$,
	$$'{1, Infinity}', '{1, 2, 3}'$$, $$'{1, NULL}', '{1, 2, 3}'$$, $$'{1}', '{1, NULL}'$$, $$'{{1, 2}}', '{1, 2, 3}'$$,
	$$'{1}', '{-1, 2}'$$, $$'{1}', '{9223372036854775807, 1}'$$, $$'{1}', '{0, 0}', 1$$]) WITH ORDINALITY u (arguments, n) ORDER BY n;
SELECT arguments, pg_temp.attempt(format('SELECT from_cumulative_buckets(%s)', arguments)) FROM unnest(ARRAY[
	$$'{}', '{}'$$, $$'{Infinity}', '{1}'$$, $$'{1}', '{1}'$$, $$'{1, Infinity}', '{1}'$$, $$'{1, Infinity}', '{2, 1}'$$, $$'{1, Infinity}', '{-2, 1}'$$,
	$$'{Infinity, Infinity}', '{1, 1}'$$]) WITH ORDINALITY u (arguments, n) ORDER BY n;
SELECT pg_temp.attempt($$SELECT from_buckets_relative_error('{1}', '{1, 1}', 1.5)$$), pg_temp.attempt($$SELECT from_buckets_relative_error('{}')$$);

-- The error stated: (hi - lo) / (hi + lo) of the bucket, then the sketch's own on top.
SELECT round(from_buckets_relative_error('{1, 3}')::numeric, 6) AS error, round((1.5 * (1 + max_relative_error(sketch(1))) - 1)::numeric, 6) AS formula;
SELECT from_buckets_relative_error('{5}'), from_buckets_relative_error('{-1, 1}');
SELECT q, from_buckets_relative_error('{1, 2, 2.2}', '{10, 10, 10, 10}', q) FROM unnest(ARRAY[0, 0.25, 0.26, 0.5, 0.6, 0.75, 0.8, 1]) q;

-- Against brute force: every percentile of the values is within the error stated for it.
CREATE TEMP TABLE histograms AS
SELECT name, bounds FROM (VALUES
	('web', ARRAY[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]::float8[]),
	('otel', ARRAY[0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000]),
	('signs', ARRAY[-100, -30, -10, -1, -0.5, 0.25, 1, 2, 4, 8, 200]),
	('negative', ARRAY[-1000, -50, -7, -0.1]),
	('narrow', (SELECT array_agg(1.002 ^ i) FROM generate_series(1, 2000) i))) v (name, bounds);
CREATE TEMP TABLE observed AS
SELECT name, x FROM histograms, LATERAL (SELECT CASE name
	WHEN 'web' THEN exp(1.5 * sqrt(-2 * ln(1 - a)) * cos(2 * pi() * b) - 1)
	WHEN 'otel' THEN 20000 * a ^ 6
	WHEN 'signs' THEN 300 * (a - 0.5) ^ 3 * 8
	WHEN 'negative' THEN -exp(9 * a - 2)
	WHEN 'narrow' THEN 70 * a END AS x
	FROM (SELECT random() AS a, random() AS b FROM generate_series(1, 5000)) r) v
-- the ends of every bucket are the worst case
UNION ALL SELECT name, b FROM histograms, unnest(bounds) b, generate_series(1, 100) WHERE name <> 'narrow'
UNION ALL SELECT name, b + abs(b) * 1e-15 FROM histograms, unnest(bounds) b, generate_series(1, 100) WHERE name <> 'narrow';
CREATE TEMP TABLE counted AS
SELECT name, bounds, (SELECT array_agg(coalesce(c.count, 0) ORDER BY i) FROM generate_series(0, cardinality(bounds)) i
	LEFT JOIN (SELECT bucket, count(*) FROM observed o,
			   LATERAL (SELECT count(*) AS bucket FROM unnest(h.bounds) b WHERE o.x > b) p WHERE o.name = h.name GROUP BY bucket) c ON c.bucket = i) AS counts
FROM histograms h;
CREATE TEMP TABLE compared AS
SELECT name, q, exact, percentile(from_buckets(bounds, counts), q) AS estimate, from_buckets_relative_error(bounds, counts, q) AS error,
	   from_buckets_relative_error(bounds) AS inner_error
FROM counted JOIN (SELECT name, unnest(percentile_disc(f) WITHIN GROUP (ORDER BY x)) AS exact, unnest(f) AS q
	FROM observed, (SELECT array_agg(i / 250.0::float8 ORDER BY i) AS f FROM generate_series(0, 250) i) f GROUP BY name, f) e USING (name);
SELECT name, count(*), bool_and(abs(estimate - exact) <= error * abs(exact) * (1 + 1e-12)) AS in_bound,
	   max(abs(estimate - exact) / abs(exact)) FILTER (WHERE error < 1) > 0.9 * max(error) FILTER (WHERE error < 1) AS near,
	   round(max(error) FILTER (WHERE error < 1)::numeric, 3) AS stated, bool_and(error <= inner_error) FILTER (WHERE error < 1) AS in_inner,
	   count(*) FILTER (WHERE error = 1) > 0 AS open, count(*) FILTER (WHERE error = 'Infinity') > 0 AS unbounded
FROM compared GROUP BY name ORDER BY name;
SELECT name, sketch_count(s) = (SELECT count(*) FROM observed o WHERE o.name = c.name) AS count,
	   s = from_cumulative_buckets(bounds || 'Infinity'::float8, (SELECT array_agg(up_to ORDER BY i)
		   FROM (SELECT i, sum(n) OVER (ORDER BY i)::bigint AS up_to FROM unnest(counts) WITH ORDINALITY u (n, i)) t)) AS cumulative
FROM counted c, from_buckets(bounds, counts) s ORDER BY name;

-- Usable in indexes and parallel plans, by viewers only.
SELECT p.oid::regprocedure, provolatile, proisstrict, proparallel, has_function_privilege('pg_monitor', p.oid, 'EXECUTE') AS viewer
FROM pg_proc p WHERE pronamespace = 'monitoring'::regnamespace AND proname ~ '^(to|from)_(otlp|prometheus|buckets|cumulative)' ORDER BY p.oid::regprocedure::text COLLATE "C";
