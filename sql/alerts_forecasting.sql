-- Anomalies, trends and forecasts against plain computations over the raw values, and how often rules of these kinds are wrong.
SET client_min_messages = warning;
\i sql/no_evaluation.inc
SET TimeZone = 'UTC';
SELECT date_trunc('hour', clock_timestamp()) - '1 day'::interval AS t0 \gset
SET monitoring_test.t0 = :'t0';
\t on
CREATE FUNCTION pg_temp.at(after interval) RETURNS timestamptz LANGUAGE sql AS $$ SELECT current_setting('monitoring_test.t0')::timestamptz + after $$;
-- the same numbers on every run: 0..1, and normally distributed
CREATE FUNCTION pg_temp.uniform(n bigint, stream int) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
	SELECT ((hashint8extended(n, stream) & 9007199254740991)::float8 + 0.5) / 9007199254740992
$$;
CREATE FUNCTION pg_temp.normal(n bigint, stream int) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
	SELECT sqrt(-2 * ln(pg_temp.uniform(n, 2 * stream))) * cos(2 * pi() * pg_temp.uniform(n, 2 * stream + 1))
$$;
CREATE FUNCTION pg_temp.close_to(a float8, b float8) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
	SELECT abs(a - b) <= 1e-8 * greatest(1, abs(a), abs(b))
$$;
CREATE TEMP TABLE raw (metric text, g text, t timestamptz, v float8);
CREATE FUNCTION pg_temp.store(kind text) RETURNS bigint LANGUAGE sql AS $$
	SELECT monitoring.record_batch(array_agg(r.metric), array_agg(r.v), array_agg(jsonb_build_object('g', r.g)), array_agg(store.kind), array_agg(r.t)) FROM raw AS r
$$;

----------------------------------------------------------------------------------------------------------------------
-- scores
----------------------------------------------------------------------------------------------------------------------

-- a value every ten minutes around the same time of five weeks and of five days
INSERT INTO raw
SELECT 'af_load', g, pg_temp.at(n * '10 minutes'::interval), 100 + 20 * sin(n / 144.0 * 2 * pi()) + 3 * pg_temp.normal(n, ascii(g))
FROM unnest('{a,b,c}'::text[]) AS g, generate_series(-5 * 1008 - 100, -1) AS n
WHERE (n + 5 * 1008) % 1008 NOT BETWEEN 50 AND 100 OR n > -5 * 144 - 100;
-- b: the last two windows of half an hour are far too high, one value of the past is far out; c: a week is missing
UPDATE raw SET v = v + 60 WHERE g = 'b' AND t >= pg_temp.at('-1 hour');
UPDATE raw SET v = 10000 WHERE g = 'b' AND t = pg_temp.at('-7 days -10 minutes');
DELETE FROM raw WHERE g = 'c' AND t BETWEEN pg_temp.at('-15 days') AND pg_temp.at('-13 days');
SELECT pg_temp.store('gauge') > 0;

-- Windows of half an hour, twelve before and after; season 0 is now.
CREATE FUNCTION pg_temp.windows(period interval, seasons int, at timestamptz) RETURNS TABLE (g text, k int, p int, v float8) LANGUAGE sql AS $$
	SELECT r.g, k, p, avg(r.v)
	FROM generate_series(0, seasons) AS k, generate_series(0, 24) AS p, raw AS r
	WHERE r.t >= at - k * period + (p - 13) * '30 minutes'::interval AND r.t < at - k * period + (p - 12) * '30 minutes'::interval AND r.t < at
	GROUP BY r.g, k, p
$$;
CREATE FUNCTION pg_temp.plain_scores(period interval, seasons int, at timestamptz)
RETURNS TABLE (g text, value float8, expected float8, spread float8, score float8) LANGUAGE sql AS $$
	WITH windows AS MATERIALIZED (
		SELECT * FROM pg_temp.windows(period, seasons, at)
	), expected AS MATERIALIZED (
		SELECT w.g, w.p, percentile_cont(0.5) WITHIN GROUP (ORDER BY w.v) AS v, count(*) AS n FROM windows AS w WHERE w.k > 0 GROUP BY w.g, w.p
	), residuals AS (
		SELECT w.g, abs(w.v - (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY o.v) FROM windows AS o WHERE o.g = w.g AND o.p = w.p AND o.k > 0 AND o.k <> w.k)) AS r
		FROM windows AS w WHERE w.k > 0
	), spreads AS (
		SELECT r.g, 1.482602218505602 * percentile_cont(0.5) WITHIN GROUP (ORDER BY r.r) AS spread FROM residuals AS r GROUP BY r.g
	), points AS (
		SELECT w.g, w.p, w.v, e.v AS expected, (w.v - e.v) / greatest(s.spread, abs(e.v) / 100) AS z
		FROM windows AS w JOIN expected AS e USING (g, p) JOIN spreads AS s USING (g) WHERE w.k = 0 AND w.p BETWEEN 10 AND 12
	), ranked AS (
		SELECT p.*, row_number() OVER (PARTITION BY p.g ORDER BY abs(p.z) DESC) AS rank, nth_value(abs(p.z), 2) OVER (PARTITION BY p.g ORDER BY abs(p.z) DESC ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS second
		FROM points AS p
	)
	SELECT r.g, max(r.v) FILTER (WHERE r.p = 12), max(r.expected) FILTER (WHERE r.p = 12),
		(SELECT greatest(s.spread, abs(e.v) / 100) FROM spreads AS s, expected AS e WHERE s.g = r.g AND e.g = r.g AND e.p = 12),
		avg(CASE WHEN r.rank = 1 AND abs(r.z) > 2 * r.second THEN sign(r.z) * 2 * r.second ELSE r.z END)
	FROM ranked AS r GROUP BY r.g
$$;
SELECT a.series_labels, pg_temp.close_to(a.value, p.value) AS value, pg_temp.close_to(a.expected, p.expected) AS expected,
	pg_temp.close_to(a.spread, p.spread) AS spread, pg_temp.close_to(a.score, p.score) AS score
FROM monitoring.anomalies('af_load', 'avg', '30 minutes', by => '{g}', history => '35 days', at => pg_temp.at('0')) AS a
FULL JOIN pg_temp.plain_scores('7 days', 5, pg_temp.at('0')) AS p ON a.series_labels ->> 'g' = p.g ORDER BY 1;
-- whatever comes within the minute
SELECT a.series_labels, pg_temp.close_to(a.score, p.score) AS score
FROM monitoring.anomalies('af_load', 'avg', '30 minutes', by => '{g}', season => 'hour_of_day', history => '5 days', at => pg_temp.at('59 seconds')) AS a
FULL JOIN pg_temp.plain_scores('1 day', 5, pg_temp.at('0')) AS p ON a.series_labels ->> 'g' = p.g ORDER BY 1;
-- without seasons: all windows of the last day before the latest three
SELECT a.series_labels, pg_temp.close_to(a.expected, p.expected) AS expected, pg_temp.close_to(a.spread, p.spread) AS spread
FROM monitoring.anomalies('af_load', 'avg', '30 minutes', by => '{g}', season => 'none', history => '1 day', at => pg_temp.at('0')) AS a
JOIN (
	SELECT w.g, e.expected, 1.482602218505602 * percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(w.v - e.expected)) AS spread
	FROM (SELECT r.g, avg(r.v) AS v FROM raw AS r WHERE r.t >= pg_temp.at('-25 hours -30 minutes') AND r.t < pg_temp.at('-1 hour -30 minutes') GROUP BY r.g, date_bin('30 minutes', r.t, '2000-01-01')) AS w
	JOIN (SELECT s.g, percentile_cont(0.5) WITHIN GROUP (ORDER BY s.v) AS expected
		FROM (SELECT r.g, avg(r.v) AS v FROM raw AS r WHERE r.t >= pg_temp.at('-25 hours -30 minutes') AND r.t < pg_temp.at('-1 hour -30 minutes') GROUP BY r.g, date_bin('30 minutes', r.t, '2000-01-01')) AS s
		GROUP BY s.g) AS e USING (g)
	GROUP BY w.g, e.expected
) AS p ON a.series_labels ->> 'g' = p.g ORDER BY 1;
-- only what has enough history
SELECT string_agg(series_labels ->> 'g', ',' ORDER BY series_labels) FROM monitoring.anomalies('af_load', 'avg', '30 minutes', by => '{g}', history => '35 days', min_history => '35 days', at => pg_temp.at('0'));
SELECT count(*) FROM monitoring.anomalies('af_load', 'avg', '30 minutes', by => '{g}', history => '35 days', min_history => '36 days', at => pg_temp.at('0'));
SELECT count(*) FROM monitoring.anomalies('af_load', 'avg', '30 minutes', by => '{g}', at => pg_temp.at('-25 days'));
SELECT count(*) FROM monitoring.anomalies('af_nothing', 'avg');

-- rules: b is found, by its direction
SELECT monitoring.create_anomaly_rule('odd load ' || d, 'af_load', 'avg', '30 minutes', direction => d, by => '{g}', params => '{"history": "35 days"}') > 0
FROM unnest('{both,above,below}'::text[]) AS d;
SELECT monitoring.evaluate_alerts(pg_temp.at('0'));
SELECT rule, state, op, labels, value > 10 AS far, round((details ->> 'value')::numeric - (details ->> 'expected')::numeric) BETWEEN 55 AND 65 AS by_sixty,
	annotations ->> 'summary' LIKE 'avg of af_load was % standard deviations from %' AS summary
FROM monitoring.alerts ORDER BY rule;
SELECT d.name, v.series_labels, sign(round(v.value)) AS sign FROM monitoring.alert_rule_defs AS d, monitoring.anomaly_rule_values(pg_temp.at('0'), ARRAY(SELECT id FROM monitoring.alert_rules)) AS v
WHERE d.id = v.rule_id AND v.series_labels = '{"g": "b"}' ORDER BY d.id;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
SELECT monitoring.delete_series('af_load') > 0;
TRUNCATE raw;

-- events: a season without any is one of zero events for a group that is known
INSERT INTO raw SELECT 'af_errors', g, pg_temp.at(t - '2 minutes'::interval), n
FROM (VALUES ('old', '-21 days'::interval, 4), ('new', '0', 20), ('new', '-5 minutes', 20), ('new', '-10 minutes', 20),
	('known', '0', 20), ('known', '-5 minutes', 20), ('known', '-10 minutes', 20)) AS v (g, t, n);
SELECT pg_temp.store('counter');
SELECT monitoring.flush() >= 0;
UPDATE monitoring.series_catalog SET first_seen = pg_temp.at('-60 days') WHERE metric = 'af_errors' AND labels ->> 'g' = 'known';
SELECT series_labels, value, expected, spread, round(score::numeric, 6) AS score FROM monitoring.anomalies('af_errors', 'increase', by => '{g}', at => pg_temp.at('0')) ORDER BY 1;
SELECT series_labels, round(value::numeric, 6) AS value, round(score::numeric, 6) AS score FROM monitoring.anomalies('af_errors', 'rate', by => '{g}', at => pg_temp.at('0')) ORDER BY 1;
-- its alert ends when the events do
SELECT monitoring.create_anomaly_rule('odd errors', 'af_errors', 'increase', by => '{g}') > 0;
-- by default such rules are evaluated once a minute
SELECT monitoring.evaluate_alerts(pg_temp.at('1 minute')), monitoring.evaluate_alerts(pg_temp.at('1 minute 1 second')), monitoring.evaluate_alerts(pg_temp.at('30 minutes'));
SELECT labels, state, value FROM monitoring.alerts;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
SELECT monitoring.delete_series('af_errors') > 0;
TRUNCATE raw;

-- seasons follow the clock of a place: Berlin has put it forward on 29 March
SELECT n, until - ((places - 1) / 2) * '5 minutes'::interval AS latest FROM monitoring.season_windows('hour_of_week', '5 minutes', '14 days', 3, 'Europe/Berlin', '2026-03-30 10:00+02') WHERE n > 0;
SELECT season, over, (SELECT count(*) || ' x ' || max(places) FROM monitoring.season_windows(season, over::interval, NULL, 3, 'UTC', pg_temp.at('0')) WHERE n > 0) AS windows
FROM (VALUES ('hour_of_week', '1 minute'), ('hour_of_week', '5 minutes'), ('hour_of_week', '1 hour'), ('hour_of_week', '1 day'), ('hour_of_day', '1 hour'), ('hour_of_day', '3 hours'), ('none', '5 minutes'), ('none', '1 hour')) AS v (season, over);

-- what cannot be a rule
CREATE FUNCTION pg_temp.try(kind text, params jsonb, over interval DEFAULT '5 minutes', op text DEFAULT '>', threshold float8 DEFAULT 3, fn text DEFAULT 'avg') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; hint text;
BEGIN
	PERFORM monitoring.create_alert_rule('try', 'af_load', fn, over, op, threshold, kind => kind, params => params);
	RETURN 'created';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', state, message, nullif(hint, ''));
END $$;
SELECT pg_temp.try('anomaly', params) FROM unnest(ARRAY['{"season": "summer"}', '{"two_sided": "yes"}', '{"points": 0}', '{"points": 1.5}', '{"points": "3"}', '{"history": "1 day"}',
	'{"history": "long"}', '{"location": "Atlantis"}', '{"weeks": 3}', '{"season": "none", "history": "10 minutes"}']::jsonb[]) AS params;
SELECT pg_temp.try('anomaly', '{}', over => '10 seconds');
SELECT pg_temp.try('anomaly', '{}', over => '2 days');
SELECT pg_temp.try('anomaly', '{}', op => '<');
SELECT pg_temp.try('anomaly', '{}', op => '>', threshold => -3);
SELECT pg_temp.try('anomaly', '{"two_sided": true}', op => '<', threshold => -3);
SELECT pg_temp.try('anomaly', '{}', op => '<>');
SELECT pg_temp.try('anomaly', '{}', threshold => 0);
SELECT pg_temp.try('anomaly', '{}', fn => NULL);
SELECT pg_temp.try('forecast', params, over => '1 hour') FROM unnest(ARRAY['{}', '{"horizon": "-1 hour"}', '{"horizon": "soon"}', '{"horizon": "11 hours"}', '{"horizon": "1 hour", "step": "1 second"}', '{"horizon": "1 hour", "step": "30 minutes"}', '{"horizon": "1 hour", "over": 1}']::jsonb[]) AS params;
SELECT pg_temp.try('forecast', '{"horizon": "1 hour"}', over => '1 minute');
SELECT pg_temp.try('forecast', '{"horizon": "1 hour"}', over => '1 hour', op => '=');

----------------------------------------------------------------------------------------------------------------------
-- trends
----------------------------------------------------------------------------------------------------------------------

-- a: rises; b: only noise; c: falls, with a hole; d: too young; e: never changes
INSERT INTO raw
SELECT 'af_disk', g, pg_temp.at(n * '1 minute'::interval),
	CASE g WHEN 'a' THEN 50 + n * 0.2 + pg_temp.normal(n, 1) WHEN 'b' THEN 20 + pg_temp.normal(n, 2) WHEN 'c' THEN 10 - n * 0.1 + pg_temp.normal(n, 3) WHEN 'd' THEN n ELSE 7 END
FROM unnest('{a,b,c,d,e}'::text[]) AS g, generate_series(-120, -1) AS n
WHERE NOT (g = 'c' AND n BETWEEN -80 AND -50) AND NOT (g = 'd' AND n < -50);
SELECT pg_temp.store('gauge') > 0;
CREATE TEMP VIEW lines AS
	SELECT g, n, sum_y / n AS mean, slope, (sum_y - slope * sum_x) / n AS level, (n * sum_xy - sum_x * sum_y) ^ 2 / nullif((n * sum_xx - sum_x ^ 2) * (n * sum_yy - sum_y ^ 2), 0) AS r2
	FROM (
		SELECT g, count(*) AS n, sum(x) AS sum_x, sum(y) AS sum_y, sum(x * x) AS sum_xx, sum(x * y) AS sum_xy, sum(y * y) AS sum_yy,
			(count(*) * sum(x * y) - sum(x) * sum(y)) / (count(*) * sum(x * x) - sum(x) ^ 2) AS slope
		FROM (
			-- two minutes each, in the middle of them
			SELECT g, (extract(epoch FROM date_bin('2 minutes', t, '2000-01-01') - pg_temp.at('0')) + 60)::numeric AS x, avg(v)::numeric AS y
			FROM raw GROUP BY 1, 2
		) AS points
		GROUP BY g
	) AS sums;
SELECT t.series_labels, t.points = l.n AS points, pg_temp.close_to(t.mean, l.mean::float8) AS mean, pg_temp.close_to(t.level, l.level::float8) AS level,
	pg_temp.close_to(t.slope, l.slope::float8) AS slope, pg_temp.close_to(t.r2, coalesce(l.r2, 1)::float8) AS r2, t.steady
FROM monitoring.trend('af_disk', 'avg', '2 hours', by => '{g}', at => pg_temp.at('0')) AS t JOIN lines AS l ON l.g = t.series_labels ->> 'g' ORDER BY 1;
SELECT f.series_labels, pg_temp.close_to(f.value, CASE WHEN f.steady THEN l.level + 14400 * l.slope ELSE l.mean END::float8) AS value
FROM monitoring.forecast('af_disk', 'avg', '2 hours', '4 hours', by => '{g}', at => pg_temp.at('0')) AS f JOIN lines AS l ON l.g = f.series_labels ->> 'g' ORDER BY 1;
SELECT c.series_labels, c.crosses_at IS NOT NULL AS crosses,
	pg_temp.close_to(extract(epoch FROM c.crosses_at - pg_temp.at('0'))::float8, ((80 - l.level) / nullif(l.slope, 0))::float8) AS at
FROM monitoring.crosses_at('af_disk', 'avg', 80, '2 hours', by => '{g}', at => pg_temp.at('0')) AS c JOIN lines AS l ON l.g = c.series_labels ->> 'g' ORDER BY 1;
SELECT c.series_labels, c.crosses_at > pg_temp.at('0') AS future FROM monitoring.crosses_at('af_disk', 'avg', 0, '2 hours', by => '{g}', at => pg_temp.at('0')) AS c ORDER BY 1;
SELECT count(*) FROM monitoring.trend('af_nothing', 'avg', '2 hours');
-- counted events: none is zero, from the first one on
SELECT monitoring.record_at('af_jobs', n, pg_temp.at(n * '-5 minutes'::interval), kind => 'counter') IS NOT NULL FROM generate_series(1, 21, 2) AS n;
SELECT points, round(mean::numeric, 6) AS mean FROM monitoring.trend('af_jobs', 'increase', '2 hours', at => pg_temp.at('0'), step => '5 minutes');
SELECT monitoring.delete_series('af_jobs') > 0;
-- a rule: a will be above 80 in four hours
SELECT monitoring.create_forecast_rule('bad', 'af_disk', 'avg', 80, '-4 hours');
SELECT monitoring.create_forecast_rule('bad', 'af_disk', 'avg', 80, NULL);
SELECT monitoring.create_forecast_rule('full soon', 'af_disk', 'avg', 80, '4 hours', '2 hours', by => '{g}', pending_for => '0') > 0;
SELECT monitoring.create_alert_rule('empty soon', 'af_disk', 'avg', '2 hours', '<', 0, by => '{g}', kind => 'forecast', params => '{"horizon": "4 hours"}', severity => 'high') > 0;
SELECT monitoring.evaluate_alerts(pg_temp.at('0'));
SELECT rule, state, severity, labels, round(value) AS value, (details ->> 'crosses_at')::timestamptz BETWEEN pg_temp.at('2 hours') AND pg_temp.at('4 hours') AS soon,
	annotations ->> 'summary' LIKE 'avg of af_disk will be % in %, it reaches 80 at %' AS summary
FROM monitoring.alerts ORDER BY rule DESC, labels;
SELECT name, over, pending_for, params FROM monitoring.alert_rules ORDER BY id;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
SELECT monitoring.delete_series('af_disk') > 0;
TRUNCATE raw;

-- capacity: what is used up when. One disk grows by 0.04 a day, one is full, one only changes with the day; connections are steady.
SELECT metric, fn, at_most, by_labels, over FROM monitoring.capacity_resources ORDER BY resource;
SELECT count(monitoring.record_at(m.metric, m.value, pg_temp.at(n * '1 hour'::interval), m.labels, 'gauge'))
FROM generate_series(-168, 0) AS n CROSS JOIN LATERAL (VALUES
	('host_disk_used_ratio', 0.5 + (n + 168) / 24.0 * 0.04, '{"host": "af", "mount": "/data"}'::jsonb), ('host_disk_used_ratio', 1, '{"host": "af", "mount": "/full"}'),
	('host_disk_used_ratio', 0.5 + 0.2 * sin(n / 12.0 * pi()), '{"host": "af", "mount": "/tmp"}'), ('pg_connections_used_ratio', 0.25, '{}'),
	('pg_xid_age', 144483647 + (n + 168) / 24.0 * 1e8, '{"database": "af"}'), ('pg_table_bytes', 1e9 - (n + 168) * 1e6, '{"database": "af", "table": "shrinks"}')) AS m (metric, value, labels);
SELECT resource, labels, round(used::numeric, 3) AS used, at_most, round(growth_per_day::numeric, 3) AS growth, round((extract(epoch FROM exhausted_at - pg_temp.at('0')) / 86400)::numeric, 2) AS days
FROM monitoring.capacity(at => pg_temp.at('0'));
SELECT resource, labels ->> 'mount' AS mount FROM monitoring.capacity('disk', pg_temp.at('0'));
SELECT count(*) FROM monitoring.capacity('nothing');
INSERT INTO monitoring.capacity_resources (resource, metric, fn, at_most, by_labels, over) VALUES ('af', 'pg_xid_age', 'max', 1e9, '{}', '3 days');
SELECT resource, used >= 8e8 AS used, round((extract(epoch FROM exhausted_at - pg_temp.at('0')) / 86400)::numeric, 1) AS days FROM monitoring.capacity('af', pg_temp.at('0'));
DELETE FROM monitoring.capacity_resources WHERE NOT builtin;
SELECT count(monitoring.delete_series(m)) FROM unnest('{host_disk_used_ratio,pg_connections_used_ratio,pg_xid_age,pg_table_bytes}'::text[]) AS m;

----------------------------------------------------------------------------------------------------------------------
-- how often they are wrong, by the defaults
----------------------------------------------------------------------------------------------------------------------

-- Ten series, nine weeks of hours: days and weeks differ, the noise is normally distributed. In the last week some are shifted by five
-- standard deviations for a day.
INSERT INTO raw
SELECT 'af_season', g::text, pg_temp.at(n * '1 hour'::interval), 200 + 80 * sin(n / 24.0 * 2 * pi()) + 30 * sin(n / 168.0 * 2 * pi()) + 10 * pg_temp.normal(n, 10 + g)
	+ CASE WHEN g % 2 = 0 AND n BETWEEN -24 - 7 * g AND -1 - 7 * g THEN 50 ELSE 0 END
FROM generate_series(1, 10) AS g, generate_series(-9 * 168, -1) AS n;
SELECT pg_temp.store('gauge') > 0;
CREATE TEMP TABLE scores AS
SELECT (a.series_labels ->> 'g')::int AS g, n, abs(a.score) > 3.25 AS breach, (a.series_labels ->> 'g')::int % 2 = 0 AND n BETWEEN -23 - 7 * (a.series_labels ->> 'g')::int AND 2 - 7 * (a.series_labels ->> 'g')::int AS shifted
FROM generate_series(-167, 0) AS n, monitoring.anomalies('af_season', 'avg', '1 hour', by => '{g}', at => pg_temp.at(n * '1 hour'::interval)) AS a;
SELECT count(*) FILTER (WHERE breach AND NOT shifted) AS false_points, count(*) FILTER (WHERE NOT shifted) AS points,
	count(DISTINCT g) FILTER (WHERE breach AND n BETWEEN -23 - 7 * g AND -21 - 7 * g) AS found_within_three, count(DISTINCT g) FILTER (WHERE g % 2 = 0) AS shifts
FROM scores;
SELECT monitoring.delete_series('af_season') > 0;
TRUNCATE raw;

-- Twenty disks that fill up in three hours, twenty that only vary, twenty that follow the time of day; a value a minute.
INSERT INTO raw
SELECT 'af_fill', g::text, pg_temp.at(n * '1 minute'::interval), CASE WHEN g <= 20 THEN 80 + (n - 180) / 6.0 WHEN g <= 40 THEN 70 ELSE 60 + 8 * sin((n / 1440.0 + g / 20.0) * 2 * pi()) END + 2 * pg_temp.normal(n, 100 + g)
FROM generate_series(1, 60) AS g, generate_series(-240, -1) AS n;
SELECT pg_temp.store('gauge') > 0;
SELECT CASE WHEN (series_labels ->> 'g')::int <= 20 THEN 'fills' WHEN (series_labels ->> 'g')::int <= 40 THEN 'varies' ELSE 'follows the day' END AS disk,
	count(*) FILTER (WHERE value > 80) AS alerts, count(*) AS series, round(max(abs(extract(epoch FROM c.crosses_at - pg_temp.at('0')) / 3600 - 3)) FILTER (WHERE (series_labels ->> 'g')::int <= 20), 1) AS hours_off
FROM monitoring.forecast('af_fill', 'last', '4 hours', '4 hours', by => '{g}', at => pg_temp.at('0'))
JOIN monitoring.crosses_at('af_fill', 'last', 80, '4 hours', by => '{g}', at => pg_temp.at('0')) AS c USING (series_labels)
GROUP BY 1 ORDER BY 1;
SELECT monitoring.delete_series('af_fill') > 0;

TRUNCATE monitoring.alert_history;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
