-- The type: text and binary form, equality, what is refused.
SET search_path = public, monitoring;
SET extra_float_digits = 1;

CREATE TEMP TABLE s AS
SELECT 'few' AS name, monitoring.sketch(x) AS sketch FROM unnest(ARRAY[1, 2, 3, 4.5]) x
UNION ALL SELECT 'one', monitoring.sketch(0.25)
UNION ALL SELECT 'zero', monitoring.sketch(0)
UNION ALL SELECT 'constant', monitoring.sketch(7) FROM generate_series(1, 1000)
UNION ALL SELECT 'signs', monitoring.sketch(x) FROM generate_series(-500, 500) x
UNION ALL SELECT 'many', monitoring.sketch(x * 0.01) FROM generate_series(1, 10000) x
UNION ALL SELECT 'wide', monitoring.sketch(x) FROM unnest(ARRAY[1e-300, 1, 1e300]) x;

SELECT name, monitoring.sketch_count(sketch), monitoring.sketch_sum(sketch), monitoring.sketch_avg(sketch),
	   monitoring.sketch_min(sketch), monitoring.sketch_max(sketch),
	   round(monitoring.max_relative_error(sketch)::numeric, 6) AS error
FROM s ORDER BY name;

-- Both forms give back the same sketch.
SELECT name, length(sketch::text) AS text, sketch::text::monitoring.sketch = sketch AS same FROM s ORDER BY name;
SELECT sketch FROM s WHERE name IN ('one', 'few') ORDER BY name;
CREATE TEMP TABLE copied (LIKE s);
\copy s TO 'results/sketch_type.bin' (FORMAT binary)
\copy copied FROM 'results/sketch_type.bin' (FORMAT binary)
SELECT count(*) AS same FROM s JOIN copied USING (name, sketch);

-- Equality and hashing.
SELECT count(*) FROM (SELECT sketch FROM s UNION SELECT sketch FROM copied) u;
SELECT monitoring.sketch(x ORDER BY x) = monitoring.sketch(x ORDER BY x DESC) AS same,
	   monitoring.sketch(x) <> monitoring.sketch(x + 1) AS different
FROM generate_series(1, 1000) x;

-- An empty sketch comes from outside only: no values, hence no percentiles.
SELECT monitoring.sketch_count('QAAA'), monitoring.sketch_sum('QAAA'), monitoring.sketch_avg('QAAA'),
	   monitoring.sketch_min('QAAA'), monitoring.sketch_max('QAAA'), monitoring.percentile('QAAA'::monitoring.sketch, 0.5),
	   monitoring.percentiles('QAAA', '{0.5}');

-- Malformed text and bytes.
CREATE FUNCTION pg_temp.attempt(statement text) RETURNS text LANGUAGE plpgsql AS
$$
BEGIN
	EXECUTE statement;
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT 'no base64!'::monitoring.sketch;
SELECT t, pg_temp.attempt(format('SELECT %L::monitoring.sketch', t))
FROM unnest(ARRAY['', 'QAAA', 'QAAAQAAA', 'AAAA', 'QAA', '////', 'T/8BgAE=', repeat('A', 100000)]) WITH ORDINALITY u (t, n)
WHERE length(t) < 100 ORDER BY n;
SELECT pg_temp.attempt(format('SELECT %L::monitoring.sketch', repeat('A', 100000)));

-- Every truncation of a sketch is refused.
SELECT name, count(*) FILTER (WHERE pg_temp.attempt(format('SELECT %L::monitoring.sketch',
	encode(substr(monitoring.sketch_send(sketch), 1, n), 'base64'))) LIKE '22P02%') = count(*) AS refused
FROM s, generate_series(0, octet_length(monitoring.sketch_send(sketch)) - 1) n
WHERE name IN ('few', 'signs', 'wide') GROUP BY name ORDER BY name;

-- Every other byte in its place is refused or makes a sketch that reads back as itself.
SELECT name, bool_and(result LIKE '22P02%' OR result = 'accepted') AS safe,
	   bool_or(result LIKE '22P02%') AS some_refused
FROM s, generate_series(0, octet_length(monitoring.sketch_send(sketch)) - 1) n, generate_series(0, 255, 5) byte,
	pg_temp.attempt(format('SELECT monitoring.percentiles(s, ''{0,0.5,1}''), 1 / (s::text::monitoring.sketch = s)::int FROM (SELECT %L::monitoring.sketch AS s) t',
		translate(encode(set_byte(monitoring.sketch_send(sketch), n, byte), 'base64'), E'\n', ''))) result
WHERE name IN ('few', 'signs', 'wide') GROUP BY name ORDER BY name;

-- No casts to text or bytea beside the input and output functions.
SELECT count(*) FROM pg_cast WHERE 'monitoring.sketch'::regtype IN (castsource, casttarget);
