-- Functions, top, compare, rolling and sketches on known values; their errors.
-- More, at random and against an oracle: test/t/022_reading.pl.
SET timezone = 'UTC';
SELECT date_trunc('hour', now()) - interval '3 hours' AS t \gset

-- 1..100 in the first hour, 101..200 in the second, at each minute some
SELECT count(monitoring.record_at('rd_seconds', i, t + i * interval '36 seconds', jsonb_build_object('half', i / 101, 'odd', i % 2)))
FROM (SELECT :'t'::timestamptz AS t) t, generate_series(0, 199) i;
SELECT count(monitoring.record_at('rd_gauge', (i * 7) % 40 - 20, t + i * interval '90 seconds', '{"q": "a"}', 'gauge'))
FROM (SELECT :'t'::timestamptz AS t) t, generate_series(0, 79) i;
SELECT count(monitoring.record_at('rd_total', 2, t + i * interval '1 minute', jsonb_build_object('k', i % 3), 'counter'))
FROM (SELECT :'t'::timestamptz AS t) t, generate_series(0, 119) i;

-- every function
SELECT f AS fn, round(monitoring.value('rd_seconds', f, '2 hours', at => :'t'::timestamptz + '2 hours')::numeric, 3) AS value
FROM unnest('{count,sum,avg,min,max,rate,increase,series,stddev,p0,p50,p99.9,p100,share_below(64),share_below( 128 ),share_below(-1),share_below(1e3),apdex(16)}'::text[]) f;
SELECT f AS fn, round(monitoring.value('rd_gauge', f, '2 hours', at => :'t'::timestamptz + '2 hours')::numeric, 3) AS value
FROM unnest('{count,sum,avg,min,max,first,last,delta,series}'::text[]) f;
SELECT f AS fn, round(monitoring.value('rd_total', f, '1 hour 59 minutes 50 seconds', at => :'t'::timestamptz + '1 hour 59 minutes 59.999999 seconds')::numeric, 3) AS value
FROM unnest('{count,sum,avg,rate,increase,series}'::text[]) f;
SELECT monitoring.value('rd_seconds', f) FROM unnest('{stddev,share_below(1),apdex(1),series}'::text[]) f;  -- no data

-- the best
SELECT * FROM monitoring.top('rd_seconds', 'max', '{half,odd}', '2 hours', at => :'t'::timestamptz + '2 hours');
SELECT * FROM monitoring.top('rd_seconds', 'max', '{half,odd}', '2 hours', 1, '{"half": {"!=": "1"}}', :'t'::timestamptz + '2 hours');
SELECT * FROM monitoring.top('rd_total', 'sum', '{k}', '2 hours', 2, at => :'t'::timestamptz + '2 hours');  -- equal ones by label
SELECT count(*) FROM monitoring.top('rd_total', 'sum', '{k}', '2 hours', 0);

-- now and before
SELECT * FROM monitoring.compare('rd_seconds', 'count', '1 hour', '1 hour', at => :'t'::timestamptz + '1 hour 59 minutes');
SELECT * FROM monitoring.compare('rd_seconds', 'max', '59 minutes', '1 hour', '{"odd": 1}', '{half}', :'t'::timestamptz + '1 hour 59 minutes');
SELECT * FROM monitoring.compare('rd_nothing', 'max');

-- moving windows: of twice the step, of half of it, of one and a half
SELECT extract(epoch FROM bucket - :'t')::int / 60 AS minute, value
FROM monitoring.rolling('rd_seconds', 'count', :'t', :'t'::timestamptz + interval '2 hours', '30 minutes', '1 hour');
SELECT extract(epoch FROM bucket - :'t')::int / 60 AS minute, value
FROM monitoring.rolling('rd_seconds', 'count', :'t', :'t'::timestamptz + interval '2 hours', '30 minutes', '15 minutes');
SELECT extract(epoch FROM bucket - :'t')::int / 60 AS minute, series_labels, round(value::numeric) AS p100
FROM monitoring.rolling('rd_seconds', 'p100', :'t', :'t'::timestamptz + interval '2 hours', '30 minutes', '45 minutes', by => '{half}')
ORDER BY series_labels, bucket;
SELECT extract(epoch FROM bucket - :'t')::int / 60 AS minute, value
FROM monitoring.rolling('rd_seconds', 'series', :'t'::timestamptz + interval '30 minutes', :'t'::timestamptz + interval '2 hours', '30 minutes', '40 minutes');
SELECT count(*), count(value) FROM monitoring.rolling('rd_nothing', 'p95', :'t', :'t'::timestamptz + interval '2 hours', '30 minutes', '1 hour');

-- sketches
SELECT monitoring.sketch_count(s), monitoring.sketch_max(s), monitoring.sketch_stddev(s) BETWEEN 57 AND 58.5 AS stddev,
       monitoring.share_below(s, 64) AS below_64
FROM monitoring.sketch_over('rd_seconds', '2 hours', at => :'t'::timestamptz + '2 hours') s;
SELECT extract(epoch FROM bucket - :'t')::int / 60 AS minute, monitoring.sketch_count(sketch), monitoring.percentile(sketch, 1)
FROM monitoring.sketches('rd_seconds', :'t', :'t'::timestamptz + interval '150 minutes', '30 minutes', '{"half": 1}');
SELECT monitoring.sketch_over('rd_seconds') IS NULL AS nothing, monitoring.sketch_stddev(monitoring.sketch(x)) IS NULL AS empty
FROM generate_series(1, 0) x;

-- errors
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT monitoring.check_fn(f) FROM unnest('{"share_below"}'::text[]) f;
SELECT monitoring.check_fn('share_below()');
SELECT monitoring.check_fn('share_below(1');
SELECT monitoring.check_fn('share_below(1)) ');
SELECT monitoring.check_fn('share_below(nan)');
SELECT monitoring.check_fn('share_below(1e999)');
SELECT monitoring.check_fn('share_below(0x10)');
SELECT monitoring.check_fn('apdex(0)');
SELECT monitoring.check_fn('apdex(-1)');
SELECT monitoring.check_fn('apdex(1e308)');
SELECT monitoring.check_fn('count(1)');
SELECT monitoring.check_fn('p');
SELECT monitoring.check_fn('p100.1');
SELECT monitoring.check_fn('p9.9.9');
SELECT monitoring.check_fn('');
\echo :SQLSTATE
SELECT monitoring.value('rd_gauge', 'stddev');
SELECT monitoring.value('rd_seconds', 'delta');
SELECT monitoring.value('rd_total', 'first');
SELECT monitoring.sketch_over('rd_gauge');
\echo :SQLSTATE
SELECT * FROM monitoring.top('rd_total', 'sum', '{k}', '2 hours', -1);
SELECT * FROM monitoring.rolling('rd_total', 'sum', :'t', :'t'::timestamptz + interval '1 hour', '1 minute', '0');
SELECT * FROM monitoring.rolling('rd_total', 'sum', :'t', :'t'::timestamptz + interval '1 hour', '1 second', '10 years');
SELECT * FROM monitoring.rolling('rd_total', 'sum', '4714-11-25 BC', '4714-11-26 BC', '1 hour', '10 days');
SELECT monitoring.share_below(monitoring.sketch(1), 'NaN');
\echo :SQLSTATE

-- rules take every function
SELECT monitoring.create_alert_rule('rd ' || f, 'rd_seconds', f, '5 minutes', '>', 1) IS NOT NULL AS made
FROM unnest('{stddev,apdex(0.5),share_below(0.5),series}'::text[]) f;
SELECT count(*) FROM (SELECT monitoring.drop_alert_rule(name) FROM monitoring.alert_rules WHERE name LIKE 'rd %') d;
