-- Objectives: events, budgets, burn-rate rules, and the components of a status page, all on virtual time.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SET TimeZone = 'UTC';
\i sql/no_evaluation.inc

\i sql/fails.inc

-- Ten days of traffic that end at the full hour: every 10 minutes 1000 requests, of which every second time one fails; in the
-- last 30 minutes half of them do.
CREATE TEMP TABLE clock AS SELECT date_trunc('hour', clock_timestamp()) - interval '2 hours' AS now;
SELECT monitoring.define_metric('so_requests_total', 'counter');
SELECT monitoring.define_metric('so_latency_seconds', 'distribution');
SELECT count(monitoring.record_at('so_requests_total', CASE outcome WHEN 'failed' THEN bad ELSE 1000 - bad END, t,
	jsonb_build_object('outcome', outcome), 'counter'))
FROM clock, generate_series(now - interval '10 days', now - interval '10 minutes', '10 minutes') AS t,
	LATERAL (SELECT CASE WHEN t >= now - interval '30 minutes' THEN 500 ELSE extract(minute FROM t)::integer / 10 % 2 END AS bad) AS b,
	unnest('{ok,failed}'::text[]) AS outcome;
-- 90 fast and 10 slow ones an hour
SELECT count(monitoring.record_at('so_latency_seconds', CASE WHEN i <= 90 THEN 0.1 ELSE 3 END, t + i * interval '1 second'))
FROM clock, generate_series(now - interval '2 days', now - interval '1 hour', '1 hour') AS t, generate_series(1, 100) AS i;

SELECT monitoring.create_slo('availability', '{"metric": "so_requests_total", "labels": {"outcome": "ok"}}',
	'{"metric": "so_requests_total"}', 0.999);
SELECT monitoring.create_slo('speed', NULL, '{"metric": "so_latency_seconds"}', 0.95, latency_threshold => 0.5, over => '1 day',
	with_rules => false);
SELECT monitoring.create_slo('quiet', '{"metric": "so_nothing_total"}', '{"metric": "so_nothing_total"}', with_rules => false);
SELECT name, good, total, latency_threshold, objective, over, owner = current_user AS mine FROM monitoring.slos ORDER BY name;

-- the rules it made
SELECT name, kind, severity, params FROM monitoring.alert_rules WHERE slo = 'availability' ORDER BY name;

-- 10 days * 144 * 1000 requests, of which 718 + 1500 are bad
SELECT slo, good, total, round(sli::numeric, 6) AS sli, round(budget_events) AS budget, round(budget_remaining::numeric, 4) AS remaining,
	round(burn_1h::numeric, 2) AS burn_1h, round(burn_6h::numeric, 2) AS burn_6h, round(burn_3d::numeric, 2) AS burn_3d,
	exhausts_at = now AS exhausted_now, state
FROM clock, monitoring.slo_status(NULL, now);
-- the oracle for the first line
SELECT 1440000 - (718 + 1500) AS good, round(1 - (718 + 1500) / 1440000.0, 6) AS sli,
	round(1 - ((718 + 1500) / 1440000.0) / 0.001, 4) AS remaining, round((1 + 1500) / 6000.0 / 0.001, 2) AS burn_1h,
	round((16 + 1500) / 36000.0 / 0.001, 2) AS burn_6h;
-- a little before, half of the budget was left, and it was to last
SELECT slo, round(budget_remaining::numeric, 2) AS remaining, round(burn_6h::numeric, 2) AS burn_6h, exhausts_at IS NULL AS lasts, state
FROM clock, monitoring.slo_status('availability', now - interval '31 minutes');
-- With the first 500 failures a little is left, which goes at the pace of the last 6 hours.
SELECT slo, round(extract(epoch FROM exhausts_at - at) / 3600, 1) AS hours_left,
	round((budget_remaining / burn_6h * 30 * 24)::numeric, 1) AS oracle, state
FROM clock, LATERAL (SELECT now - interval '21 minutes' AS at) AS a, monitoring.slo_status('availability', at);

SELECT bucket = now - (2 - n) * interval '1 day' AS place, good, total, round(sli::numeric, 6) AS sli, round(budget_remaining::numeric, 4) AS remaining
FROM clock, LATERAL (SELECT h.*, row_number() OVER (ORDER BY h.bucket) - 1 AS n
	FROM monitoring.slo_history('availability', now - interval '2 days', now) AS h) AS h ORDER BY bucket;
SELECT good, total, round(sli::numeric, 3) AS sli FROM clock, monitoring.slo_history('speed', now - interval '1 day', now, '12 hours') ORDER BY bucket;

-- The rules fire while both windows burn, and not before.
SELECT monitoring.evaluate_alerts(now - interval '31 minutes') FROM clock;
SELECT count(*) AS alerts FROM monitoring.alerts WHERE rule LIKE 'availability:%';
SELECT monitoring.evaluate_alerts(now) FROM clock;
SELECT rule, state, labels, round(value::numeric, 2) AS value, annotations ->> 'summary' AS summary, jsonb_object_keys(details -> 'burn_rates') AS windows
FROM monitoring.alerts WHERE rule LIKE 'availability:%' ORDER BY 1, 6;
-- an hour of good traffic: the short windows are clear, so is the fast alert
SELECT count(monitoring.record_at('so_requests_total', 1000, t, '{"outcome": "ok"}', 'counter'))
FROM clock, generate_series(now, now + interval '50 minutes', '10 minutes') AS t;
SELECT monitoring.evaluate_alerts(now + interval '1 hour') FROM clock;
SELECT rule, state FROM monitoring.alerts WHERE rule LIKE 'availability:%' ORDER BY 1;

-- a changed objective changes its rules, but not edited ones
SELECT monitoring.update_alert_rule('availability: budget burns', '{"severity": "low"}');
SELECT monitoring.update_slo('availability', '{"objective": 0.9, "over": "7 days"}');
SELECT name, severity, params -> 'windows' AS windows FROM monitoring.alert_rules WHERE slo = 'availability' ORDER BY name;
SELECT * FROM monitoring.sla_report((SELECT now - interval '1 day' FROM clock), (SELECT now FROM clock)) WHERE kind = 'objective';

-- refused
\pset format unaligned
\t on
SELECT f.* FROM unnest(ARRAY[
	$$monitoring.create_slo('availability', '{"metric": "m"}', '{"metric": "m"}')$$,
	$$monitoring.create_slo(NULL, '{"metric": "m"}', '{"metric": "m"}')$$,
	$$monitoring.create_slo('x', NULL, '{"metric": "m"}')$$,
	$$monitoring.create_slo('x', '{"metric": "m"}', NULL)$$,
	$$monitoring.create_slo('x', '{"metric": "no metric"}', '{"metric": "m"}')$$,
	$$monitoring.create_slo('x', '{"metric": "m", "fn": "sum"}', '{"metric": "m"}')$$,
	$$monitoring.create_slo('x', '[]', '{"metric": "m"}')$$,
	$$monitoring.create_slo('x', '{"metric": "m"}', '{"metric": "m"}', 1)$$,
	$$monitoring.create_slo('x', '{"metric": "m"}', '{"metric": "m"}', 'NaN')$$,
	$$monitoring.create_slo('x', '{"metric": "m"}', '{"metric": "m"}', over => '-1 day')$$,
	$$monitoring.create_slo('x', '{"metric": "so_requests_total"}', '{"metric": "m"}', latency_threshold => 1)$$,
	$$monitoring.create_slo('x', NULL, '{"metric": "m"}', latency_threshold => -1)$$,
	$$monitoring.create_slo('x', '{"metric": "m"}', '{"metric": "m"}', min_events => -1)$$,
	$$monitoring.update_slo('y', '{}')$$,
	$$monitoring.update_slo('speed', '{"name": "z"}')$$,
	$$monitoring.update_slo('speed', '{"objective": 2}')$$,
	$$monitoring.drop_slo('y')$$,
	$$monitoring.slo_history('y', now() - interval '1 day')$$,
	$$monitoring.create_alert_rule('x', NULL, NULL, '1 day', '>', 1, kind => 'burn_rate', params => '{"slo": "y"}')$$,
	$$monitoring.create_alert_rule('x', NULL, NULL, '1 day', '>', 1, kind => 'burn_rate', params => '{"slo": "speed"}')$$,
	$$monitoring.create_alert_rule('x', NULL, NULL, '1 day', '>', 1, kind => 'burn_rate', params => '{"slo": "speed", "windows": [{"long": "1 hour", "short": "2 hours", "factor": 1}]}')$$,
	$$monitoring.create_alert_rule('x', NULL, NULL, '1 day', '<', 1, kind => 'burn_rate', params => '{"slo": "speed", "windows": [{"long": "1 hour", "short": "5 minutes", "factor": 1}]}')$$
	]) AS s CROSS JOIN LATERAL pg_temp.fails('SELECT ' || s) AS f;
\t off
\pset format aligned

-- dropping an objective drops what watches it
SELECT monitoring.drop_slo('availability');
SELECT count(*) AS rules FROM monitoring.alert_rules WHERE slo = 'availability';

----------------------------------------------------------------------------------------------------------------------
-- Components
----------------------------------------------------------------------------------------------------------------------
SELECT monitoring.create_component('checkout', 'Paying', '{"service": "so_shop"}', place => 1, at => now - interval '100 days') FROM clock;
SELECT monitoring.create_component('blog', objective => 0.99, place => 2, at => now - interval '12 hours') FROM clock;
-- 24 hours: 2 h of maintenance, 1 h of a major outage by hand, and a critical alert for half an hour, of which 10 minutes are within the outage
SELECT monitoring.set_component_status('checkout', s, m, now + t) FROM clock, (VALUES
	('under_maintenance', 'upgrade', interval '-20 hours'), ('operational', '', '-18 hours'),
	('major_outage', 'we know', '-10 hours'), ('operational', '', '-9 hours')) AS v (s, m, t);
SELECT monitoring.define_metric('so_down', 'gauge');
SELECT monitoring.create_alert_rule('shop down', 'so_down', 'last', '1 minute', '>', 0, severity => s, labels => '{"service": "so_shop"}', receivers => '{}')
	IS NOT NULL AS created FROM (VALUES ('critical')) AS v (s);
SELECT count(monitoring.record_at('so_down', v, now + t, '{"service": "so_shop"}', 'gauge'))
FROM clock, (VALUES (1, interval '-9 hours -10 minutes'), (0, '-8 hours -40 minutes')) AS v (v, t);
SELECT monitoring.evaluate_alerts(now - interval '9 hours 9 minutes 50 seconds') FROM clock;
SELECT component, status, since = now - interval '10 hours' AS since_outage, message, uptime_90d IS NOT NULL AS known
FROM clock, monitoring.status_page(now - interval '9 hours 9 minutes');
SELECT component, status, message FROM clock, monitoring.status_page(now - interval '8 hours 50 minutes');
SELECT monitoring.evaluate_alerts(now - interval '8 hours 39 minutes 50 seconds') FROM clock;
SELECT component, status, since FROM clock, monitoring.status_page(now);
SELECT component, status FROM clock, monitoring.status_page(now - interval '19 hours');
-- down from -10:00:00 to -8:39:50, 4810 s of 22 hours
SELECT component, round(uptime::numeric, 6) AS uptime, downtime, maintenance, outages, objective, met FROM clock, monitoring.component_uptime(now - interval '1 day', now);
SELECT round(1 - 4810 / (22 * 3600.0), 6) AS uptime;
SELECT * FROM monitoring.sla_report((SELECT now - interval '1 day' FROM clock), (SELECT now FROM clock)) WHERE kind = 'component' AND name = 'blog';
-- what was out of order before there was the component is no downtime of it
SELECT monitoring.create_component('young', place => 3, selector => '{"service": "so_shop"}', at => now - interval '9 hours') FROM clock;
SELECT a.component, round(a.uptime::numeric, 4) AS uptime, a.downtime, a.outages, round((1 - extract(epoch FROM a.downtime) / 32400)::numeric, 4) AS expected
FROM clock, monitoring.component_uptime(now - interval '1 day', now) AS a WHERE a.component = 'young';
SELECT uptime FROM clock, monitoring.component_uptime(now - interval '1 day', now - interval '9 hours 10 minutes') WHERE component = 'young';
SELECT monitoring.drop_component('young');
\pset format unaligned
\t on
SELECT f.* FROM unnest(ARRAY[
	$$monitoring.create_component('checkout')$$, $$monitoring.create_component('')$$, $$monitoring.create_component('x', objective => 1)$$,
	$$monitoring.create_component('x', selector => '{"a": {"=~": "("}}')$$,
	$$monitoring.set_component_status('nothing', 'operational')$$, $$monitoring.set_component_status('blog', 'fine')$$,
	$$monitoring.drop_component('nothing')$$]) AS s CROSS JOIN LATERAL pg_temp.fails('SELECT ' || s) AS f;
DELETE FROM monitoring.component_status_kinds WHERE status = 'major_outage';
SELECT monitoring.drop_component('blog');
SELECT monitoring.drop_component('checkout');
SELECT monitoring.drop_slo(name) FROM monitoring.slos;
SELECT monitoring.drop_alert_rule('shop down');
DELETE FROM monitoring.alert_history WHERE rule_name ~ '^(availability: |shop down$)';
