-- Rules of ours as rule files for Prometheus: what each kind of reading becomes, what cannot be said there, and the way back.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
\pset format unaligned
\t on
BEGIN;
DELETE FROM monitoring.alert_rule_defs;
SELECT count(monitoring.define_metric(m, k)) FROM (VALUES ('pe_requests_total', 'counter'), ('pe_seconds', 'distribution'), ('pe_temperature', 'gauge')) AS d (m, k);
CREATE FUNCTION pg_temp.rule(name text, metric text, fn text, op text DEFAULT '>', threshold float8 DEFAULT 5, over interval DEFAULT '5 minutes', by text[] DEFAULT '{}',
	labels jsonb DEFAULT '{}', params jsonb DEFAULT '{}', kind text DEFAULT 'metric') RETURNS boolean LANGUAGE sql AS $$
	SELECT monitoring.create_alert_rule(name, metric, fn, over, op, threshold, by => by, labels => labels, params => params, kind => kind) > 0
$$;
CREATE FUNCTION pg_temp.shown() RETURNS TABLE (rule text, status text, expr text, reason text) LANGUAGE sql AS $$
	SELECT e.rule, e.status, e.definition ->> 'expr', e.reason FROM monitoring.export_prometheus_rules() AS e
$$;

-- every function of every kind of metric, of one group, of some and of each series
SELECT count(pg_temp.rule(concat_ws(' ', m, f, by), m, f, by => by))
FROM (VALUES ('pe_requests_total', '{rate,increase,sum,avg,count}'::text[]), ('pe_seconds', '{rate,increase,count,sum,avg,p95,p99.9,max,share_below(1),stddev}'),
	('pe_temperature', '{last,delta,min,max,sum,count,avg,first}')) AS d (m, fs)
CROSS JOIN unnest(fs) AS f CROSS JOIN unnest(ARRAY['{}', '{site,room}', '{...}']) AS b (t) CROSS JOIN LATERAL (SELECT b.t::text[] AS by) AS y;
SELECT * FROM pg_temp.shown() ORDER BY rule COLLATE "C";
DELETE FROM monitoring.alert_rule_defs;

-- what series add up to, conditions on labels, what is done to the value, ratios
SELECT pg_temp.rule('across', 'pe_temperature', 'last', by => '{site}', params => '{"across": "sum"}', over => '90 seconds');
SELECT pg_temp.rule('across of means', 'pe_seconds', 'avg', by => '{site}', params => '{"across": "max"}');
SELECT pg_temp.rule('across of percentiles', 'pe_seconds', 'p50', params => '{"across": "count"}', over => '1 day');
SELECT pg_temp.rule('labels', 'pe_requests_total', 'rate', labels => '{"site": "a \"b\" \\", "n": 5}', params => '{"where": {"code": {"=~": "5..|4\\.1", "!=": "503"}, "x": {"exists": true}, "y": {"exists": false}, "z": {"!~": "a+"}}}');
SELECT pg_temp.rule('regex ' || n, 'pe_requests_total', 'rate', params => jsonb_build_object('where', jsonb_build_object('x', jsonb_build_object('=~', re))))
FROM unnest(ARRAY['\d+', '(?i)a', '[[.a.]]', 'a(?=b)', 'a{2,3}', '[[:digit:]]+']) WITH ORDINALITY AS r (re, n);
SELECT pg_temp.rule('label name', 'pe_requests_total', 'rate', labels => '{"a.b": "c"}');
SELECT pg_temp.rule('by name', 'pe_requests_total', 'rate', by => '{a-b}');
SELECT pg_temp.rule('scaled', 'pe_temperature', 'last', '>=', 50, by => '{...}', params => '{"multiply": 1.8, "add": 32}');
SELECT pg_temp.rule('less', 'pe_temperature', 'max', '<', -0.5, params => '{"add": -3}');
SELECT pg_temp.rule('equal', 'pe_temperature', 'last', '=', 1e9, by => '{...}');
SELECT pg_temp.rule('unequal', 'pe_temperature', 'last', '<>', 1.5e-7, by => '{...}');
SELECT pg_temp.rule('latest of many', 'pe_temperature', 'last', '=', 1, by => '{site}');
SELECT pg_temp.rule('nothing comes', 'pe_requests_total', 'increase', '<=', 0, over => '10 minutes');
SELECT pg_temp.rule('nothing of a site', 'pe_requests_total', 'increase', '<=', 0, over => '10 minutes', by => '{site}');
SELECT pg_temp.rule('errors', 'pe_requests_total', 'increase', '>', 0.05, by => '{site}', labels => '{"code": "500"}', params => '{"labels": {}, "min_denominator": 20}', kind => 'ratio');
SELECT pg_temp.rule('successes', 'pe_requests_total', 'increase', '<', 99, labels => '{"code": "200"}', params => '{"labels": {}, "multiply": 100}', kind => 'ratio');
SELECT pg_temp.rule('of a mean', 'pe_requests_total', 'rate', '>', 2, params => '{"metric": "pe_seconds", "fn": "avg"}', kind => 'ratio');
SELECT pg_temp.rule('absent', 'pe_seconds', NULL, '>', 600, '1 day', labels => '{"site": "a"}', kind => 'absence');
SELECT pg_temp.rule('absent sites', 'pe_seconds', NULL, '>', 600, '1 day', by => '{site}', kind => 'absence');
SELECT pg_temp.rule('not recorded', 'pe_new', 'avg');
SELECT pg_temp.rule('not recorded but named', 'pe_new_total', 'rate');
SELECT pg_temp.rule('change', 'pe_requests_total', 'rate', kind => 'change');
SELECT monitoring.create_alert_rule('sql', NULL, NULL, '1 minute', '>', 0, kind => 'sql', params => '{"query": "SELECT 1"}') > 0;
SELECT monitoring.create_alert_rule('thresholds', 'pe_temperature', 'max', '5 minutes', '>', 1, threshold_sql => 'SELECT 1') > 0;
SELECT * FROM pg_temp.shown();
DELETE FROM monitoring.alert_rule_defs;

-- times, labels, texts; what is left out; the file
SELECT monitoring.create_alert_rule('all of it', 'pe_requests_total', 'rate', '1 hour', '>', 1234.5678, '90 seconds', 'P1', '{"site": "a"}', '{room}',
	'{"summary": "{{room}}: {{value}} > {{threshold}} {{severity}} {{alertname}} {{ $labels.site }}", "bad-name": "x"}', 1000, '1 day', '{}', extra_labels => '{"team": "{{room}} team", "a.b": "c"}',
	every => '1 minute', repeat_every => '1 hour', no_data => 'alert', on_error => 'alert', runbook_url => 'https://r.example/', impact_sql => 'SELECT 1 AS n',
	active_times => '{"weekdays": ["monday"]}', max_age => '0') > 0;
SELECT monitoring.create_alert_rule('resting', 'pe_requests_total', 'rate', '1 hour', '>', 1, enabled => false) > 0;
SELECT monitoring.create_alert_rule('plain', 'pe_requests_total', 'rate', '1 hour', '>', 1) > 0;
SELECT rule, status, reason FROM monitoring.export_prometheus_rules();
SELECT monitoring.prometheus_rule_file();
SELECT monitoring.prometheus_rule_file('{nosuch}');
SELECT monitoring.promql_duration(d) FROM unnest('{0,1 ms,1500 ms,90 s,1 h,36 h,7 days,1 month}'::interval[]) AS d;
DELETE FROM monitoring.alert_rule_defs;

-- there and back again: what is imported is what was exported
SELECT pg_temp.rule('a', 'pe_requests_total', 'rate', by => '{site}', labels => '{"env": "p"}', params => '{"where": {"code": {"=~": "5.."}}}');
SELECT pg_temp.rule('b', 'pe_seconds', 'p95', '>=', 0.5, by => '{route}');
SELECT pg_temp.rule('c', 'pe_seconds', 'avg', by => '{route}');
SELECT pg_temp.rule('d', 'pe_temperature', 'last', '<', 3, by => '{...}');
SELECT pg_temp.rule('e', 'pe_temperature', 'last', by => '{site}', params => '{"across": "avg"}');
SELECT pg_temp.rule('f', 'pe_requests_total', 'increase', '>', 0.1, by => '{site}', labels => '{"code": "500"}', params => '{"labels": {}}', kind => 'ratio');
SELECT pg_temp.rule('g', 'pe_temperature', 'max', '>', 9, '1 hour', by => '{site}');
CREATE TEMP TABLE here AS SELECT name, metric, fn, over, op, threshold, kind, by, labels, params FROM monitoring.alert_rules;
CREATE TEMP TABLE file AS SELECT monitoring.prometheus_rule_file() AS text;
DELETE FROM monitoring.alert_rule_defs;
SELECT i.rule, i.status, i.reason FROM file, monitoring.import_prometheus_rules(text) AS i;
SELECT h.*, r.metric, r.fn, r.over, r.op, r.threshold, r.kind, r.by, r.labels, r.params
FROM here AS h JOIN monitoring.alert_rules AS r USING (name)
WHERE (h.metric, h.fn, h.over, h.op, h.threshold, h.kind, h.by, h.labels, h.params) IS DISTINCT FROM (r.metric, r.fn, r.over, r.op, r.threshold, r.kind, r.by, r.labels, r.params)
ORDER BY name;
ROLLBACK;
