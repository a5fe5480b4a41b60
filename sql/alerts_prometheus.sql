-- Rule files of Prometheus, and what rules can do for them.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SET TimeZone = 'UTC';
\i sql/no_evaluation.inc

CREATE FUNCTION pg_temp.fails(statement text) RETURNS TABLE (code text, message text, detail text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	code := 'none';
	RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN NEXT;
END $$;

-- a file with one of everything
CREATE TEMP TABLE file (text text);
INSERT INTO file VALUES ($$
groups:
- name: shop
  interval: 30s
  limit: 10
  labels: {team: shop, tier: "1"}
  rules:
  - record: pm:errors:rate5m
    expr: sum by (service) (rate(pm_requests_total{code=~"5.."}[5m]))
  - alert: PmErrors
    expr: |
      sum by (service) (rate(pm_requests_total{code=~"5..", env="prod"}[5m]))
        / sum by (service) (rate(pm_requests_total{env="prod"}[5m])) * 100 > 5
      and sum by (service) (rate(pm_requests_total{env="prod"}[5m])) > 0
    for: 1m30s
    keep_firing_for: 5m
    labels: {severity: page, tier: "2", where: "{{ $labels.service }}"}
    annotations:
      summary: '{{ $labels.service }} fails: {{ $value | humanizePercentage }}, {{ printf "%.2f" $value }}'
      description: "LABELS = {{ $labels }}"
      runbook_url: https://runbooks.example/errors
  - alert: PmSlow
    expr: histogram_quantile(0.95, sum(rate(pm_request_seconds_bucket[5m])) by (le, route)) > 0.5
    labels: {severity: warning}
  - alert: PmSlow
    expr: histogram_quantile(0.95, sum(rate(pm_request_seconds_bucket[5m])) by (le, route)) > 2
    labels: {severity: critical}
- name: host
  rules:
  - {alert: PmSilent, expr: 'absent(pm_beat{host="a"})', for: 0s, annotations: {runbook_url: 'https://runbooks.example/{{ $labels.host }}'}}
  - {alert: PmRecorded, expr: 'pm:errors:rate5m > 1'}
  - {alert: PmOtherRecorded, expr: 'other:errors:rate5m > 1'}
  - {alert: PmDown, expr: 'up == 0'}
  - {alert: PmBoth, expr: 'pm_beat > 1 and pm_other > 1'}
  - {alert: PmSyntax, expr: 'pm_beat >'}
  - {alert: PmTicket, expr: 'pm_beat > 1', labels: {severity: ticket}}
  - {alert: PmLabel, expr: 'pm_beat > 1', labels: {v: '{{ $value }}'}}
  - {alert: PmKey, expr: 'pm_beat > 1', colour: red}
  - {alert: PmFor, expr: 'pm_beat > 1', for: soon}
  - {alert: PmKind, expr: 'pm_gauge_total > 1'}
  - {alert: PmTwin, expr: 'pm_beat > 1'}
  - {alert: PmTwin, expr: 'pm_beat > 2'}
- name: later
  query_offset: 1m
  rules:
  - {alert: PmLater, expr: 'pm_beat > 1'}
$$);
SELECT rule_group, rule, status, reason FROM monitoring.import_prometheus_rules((SELECT text FROM file), dry_run => true);
SELECT count(*) AS none FROM monitoring.alert_rules WHERE name LIKE 'Pm%';
SELECT rule, status FROM monitoring.import_prometheus_rules((SELECT text FROM file), severities => '{"ticket": "low"}') WHERE definition IS NOT NULL;
SELECT jsonb_pretty(monitoring.export_rules('{PmErrors,PmSlow (critical),PmSilent}') -> 'rules');
SELECT name, severity FROM monitoring.alert_rules WHERE name LIKE 'Pm%' ORDER BY name;
-- again: nothing; with another threshold: that one
SELECT status, count(*) FROM monitoring.import_prometheus_rules((SELECT text FROM file)) WHERE definition IS NOT NULL GROUP BY 1;
SELECT rule, status FROM monitoring.import_prometheus_rules((SELECT replace(text, '> 0.5', '> 0.6') FROM file), true) WHERE status IN ('updated', 'unchanged');
SELECT threshold FROM monitoring.alert_rules WHERE name = 'PmSlow (warning)';
SELECT rule, status, reason FROM monitoring.import_prometheus_rules('{"groups": [{"name": "g", "rules": [{"alert": "PmSilent", "expr": "pm_beat > 1"}]}]}', true);
-- a resource of Kubernetes, groups without rules
SELECT rule, status FROM monitoring.import_prometheus_rules('{"kind": "PrometheusRule", "spec": {"groups": [{"name": "none"}, {"name": "null", "rules": null},
	{"name": "g", "rules": [{"alert": "PmKubernetes", "expr": "pm_beat > 1"}]}]}}', dry_run => true);
-- a metric that is recorded here under such a name, and of another kind
SELECT monitoring.set_gauge('other:errors:rate5m', 1), monitoring.increment('pm_other'), monitoring.flush() > 0 AS flushed;
SELECT rule, status, reason FROM monitoring.import_prometheus_rules('{"groups": [{"name": "g", "rules": [
	{"alert": "PmOther", "expr": "other:errors:rate5m > 1"}, {"alert": "PmCounter", "expr": "pm_other > 1"}]}]}', dry_run => true);

-- what is no rule file
SELECT left(f.text, 30) AS file, e.* FROM (VALUES ('[]'), (''), ('groups: 1'), ('groups: [1]'), ('groups: [{rules: []}]'), ('groups: [{name: [a], rules: []}]'),
	('groups: [{name: a, rules: {}}]'), ('groups: [{name: a, rules: [1]}]'), (E'groups:\n\t- name: a'), ('groups: &a [*a]'), (repeat('[', 100)),
	('{groups: [], groups: []}'), (repeat(' ', 5000000))) AS f (text)
	CROSS JOIN LATERAL pg_temp.fails(format('SELECT * FROM monitoring.import_prometheus_rules(%L)', f.text)) AS e;
SELECT * FROM pg_temp.fails($$SELECT * FROM monitoring.import_prometheus_rules('groups: []', severities => '[]')$$);
SELECT d, monitoring.prometheus_duration(d) FROM unnest('{0,0s,5m,1h30m,500ms,1d,2w,1y}'::text[]) AS d;
SELECT d, e.* FROM unnest('{"",5,5x,m,1m1h,-5m,11y,99999999999s}'::text[]) AS d CROSS JOIN LATERAL pg_temp.fails(format('SELECT monitoring.prometheus_duration(%L)', d)) AS e;

-- what comes in is what comes out: expressions, evaluated
SELECT count(monitoring.drop_alert_rule(name)) > 0 AS dropped FROM monitoring.alert_rules WHERE name LIKE 'Pm%';
CREATE TEMP TABLE moment AS SELECT date_trunc('minute', now()) - interval '10 minutes' AS t;
SELECT count(monitoring.record_at('pm_gauge', v, t, jsonb_build_object('host', h, 'disk', d), 'gauge'))
FROM moment, (VALUES ('a', 'x', 1), ('a', 'y', 3), ('b', 'x', 10)) AS g (h, d, v);
SELECT count(monitoring.record_at('pm_size', 20, t, jsonb_build_object('host', h, 'disk', d), 'gauge'))
FROM moment, (VALUES ('a', 'x'), ('a', 'y'), ('b', 'x')) AS g (h, d);
SELECT count(monitoring.record_at('pm_events_total', n, t, jsonb_build_object('host', h, 'code', c), 'counter'))
FROM moment, (VALUES ('a', '200', 90), ('a', '503', 10), ('b', '200', 50), ('b', '404', 5)) AS g (h, c, n);
CREATE TEMP TABLE expressions (n serial, expr text);
INSERT INTO expressions (expr) VALUES ('pm_gauge > 0'), ('pm_gauge{disk!="x"} > 0'), ('pm_gauge{host=~"a|c",disk="x"} > 0'), ('sum by (host) (pm_gauge) > 0'),
	('avg(pm_gauge) > 0'), ('min(pm_gauge) > 0'), ('max by (disk) (pm_gauge) > 0'), ('count by (host) (pm_gauge) > 0'), ('-2 * pm_gauge{host="b"} + 1 < 0'),
	('pm_gauge / pm_size * 100 > 0'), ('(pm_size - pm_gauge) / pm_size > 0'), ('sum by (host) (increase(pm_events_total{code=~"5.."}[5m])) > 0'),
	('sum by (host) (increase(pm_events_total{code!~"2.."}[5m])) / sum by (host) (increase(pm_events_total[5m])) >= 0'), ('max(increase(pm_events_total[5m])) > 0');
SELECT e.expr, p.labels, p.value
FROM expressions AS e
CROSS JOIN moment AS m
CROSS JOIN LATERAL (SELECT definition FROM monitoring.import_prometheus_rules(
	jsonb_build_object('groups', jsonb_build_array(jsonb_build_object('name', 'g', 'rules', jsonb_build_array(jsonb_build_object('alert', 'PmValue', 'expr', e.expr)))))::text,
	dry_run => true)) AS d
CROSS JOIN LATERAL monitoring.preview_rule('PmValue', d.definition - 'name', m.t + interval '30 seconds') AS p
ORDER BY e.n, p.labels;

-- one alert per series; its end, and its keep_firing_for, when the value is not there any more
SELECT rule, status FROM monitoring.import_prometheus_rules($$
groups:
- name: g
  rules:
  - {alert: PmFull, expr: 'pm_gauge > 2', keep_firing_for: 2m, labels: {disk_name: '{{ $labels.disk }}'}, annotations: {summary: '{{ $labels.host }} {{ $value }}'}}
  - {alert: PmWaits, expr: 'pm_gauge > 2', for: 10m}
$$);
SELECT monitoring.evaluate_alerts(t + s * interval '1 second') AS transitions FROM moment, unnest('{30,300,420,530,540}'::int[]) AS s;
SELECT h.rule_name, h.at - m.t AS after, h.labels, h.from_state, h.to_state, h.reason, h.annotations ->> 'summary' AS summary
FROM monitoring.alert_history AS h, moment AS m WHERE h.rule_name LIKE 'Pm%' ORDER BY h.at, h.rule_name, h.labels;

-- params that make no sense
SELECT p, e.* FROM (VALUES ('{"where": []}'), ('{"where": {"a": "b"}}'), ('{"where": {"a": {"~": "b"}}}'), ('{"where": {"a": {"=~": "("}}}'), ('{"where": {"host": {"!=": "b"}}}'),
	('{"across": "median"}'), ('{"multiply": 0}'), ('{"multiply": "x"}'), ('{"add": 1e301}'), ('{"colour": 1}')) AS v (p)
CROSS JOIN LATERAL pg_temp.fails(format('SELECT monitoring.create_alert_rule(''PmBad'', ''m'', ''last'', ''5 minutes'', ''>'', 1, labels => ''{"host": "a"}'', params => %L)', p)) AS e;
SELECT * FROM pg_temp.fails($$SELECT monitoring.create_alert_rule('PmBad', 'm', 'last', '5 minutes', '>', 1, by => '{...}', params => '{"across": "sum"}')$$);
SELECT * FROM pg_temp.fails($$SELECT monitoring.create_alert_rule('PmBad', 'm', 'last', '5 minutes', '>', 1, kind => 'ratio', params => '{"where": {"a": {"=": "b"}}, "labels": {"a": {"=": "b"}}}')$$);

SELECT count(monitoring.drop_alert_rule(name)) > 0 AS dropped FROM monitoring.alert_rules WHERE name LIKE 'Pm%';
