-- Incidents and evidence, on virtual time.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SET TimeZone = 'UTC';
\i sql/no_evaluation.inc

\i sql/fails.inc

CREATE TEMP TABLE clock AS SELECT date_trunc('hour', clock_timestamp()) - interval '6 hours' AS t0;
DELETE FROM monitoring.incident_defs;
-- the policy that is there from the start, for the alerts of this test
SELECT name, severities, selector, correlate_by, within, auto_resolve, enabled FROM monitoring.incident_policies;
SELECT monitoring.set_incident_policy('critical', selector => '{"alertname": {"=~": "In(Down|Slow)"}}');
SELECT monitoring.define_metric('in_down', 'gauge');
-- what of which service is wrong from minute to minute
CREATE FUNCTION pg_temp.set(minute integer, down jsonb) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(monitoring.record_at('in_down', (d.value)::float8, clock.t0 + minute * interval '1 minute', jsonb_build_object('service', split_part(d.key, '/', 1),
		'host', split_part(d.key, '/', 2)), 'gauge'))
	FROM clock, jsonb_each_text(down) AS d
$$;
CREATE FUNCTION pg_temp.evaluate(minute integer) RETURNS integer LANGUAGE sql AS $$
	SELECT monitoring.evaluate_alerts(t0 + minute * interval '1 minute') FROM clock
$$;
CREATE FUNCTION pg_temp.minute(t timestamptz) RETURNS numeric LANGUAGE sql AS $$
	SELECT round(extract(epoch FROM t - t0) / 60, 2) FROM clock
$$;
SELECT monitoring.create_alert_rule('InDown', 'in_down', 'last', '1 minute', '>', 0, pending_for => '2 minutes', severity => 'critical',
	by => '{service,host}', annotations => '{"summary": "{{service}} on {{host}} is down"}', receivers => '{}', max_age => '10 minutes') > 0 AS created;
SELECT monitoring.create_alert_rule('InSlow', 'in_down', 'last', '1 minute', '>', 1, severity => 'medium', by => '{service,host}', receivers => '{}') > 0 AS created;
SELECT monitoring.mark_deployment('in_shop', 'v7', description => 'new cart', at => t0 - interval '30 minutes') FROM clock;

----------------------------------------------------------------------------------------------------------------------
-- Alerts open and join incidents
----------------------------------------------------------------------------------------------------------------------
SELECT pg_temp.set(0, '{"shop/a": 1}'), pg_temp.evaluate(0);
SELECT pg_temp.set(2, '{"shop/a": 1}'), pg_temp.evaluate(2);
-- the same service, the same host: both join; neither is shared: another incident
SELECT pg_temp.set(3, '{"shop/a": 1, "shop/b": 1, "mail/a": 1, "fax/z": 1}'), pg_temp.evaluate(3);
SELECT pg_temp.set(5, '{"shop/a": 1, "shop/b": 1, "mail/a": 1, "fax/z": 1}'), pg_temp.evaluate(5);
SELECT i.title, i.severity, i.status, i.source, i.labels, pg_temp.minute(i.started_at) AS started, pg_temp.minute(i.detected_at) AS detected,
	i.firing, i.alerts, i.created_by
FROM monitoring.incidents AS i ORDER BY i.id;
-- the medium rule fires and opens none
SELECT pg_temp.set(6, '{"shop/a": 2, "shop/b": 1, "mail/a": 1, "fax/z": 1}'), pg_temp.evaluate(6);
SELECT count(*) AS firing FROM monitoring.alerts WHERE state = 'firing' AND rule LIKE 'In%';
SELECT count(*) AS incidents, sum(alerts) AS alerts FROM monitoring.incidents;

-- people
CREATE TEMP TABLE first AS SELECT min(id) AS id FROM monitoring.incidents;
SELECT monitoring.acknowledge_incident(id, 'on it', t0 + interval '7 minutes') FROM first, clock;
SELECT monitoring.set_incident_role(id, 'commander', 'Ada', t0 + interval '7 minutes') FROM first, clock;
SELECT monitoring.set_incident_role(id, 'scribe', 'Bob', t0 + interval '7 minutes') FROM first, clock;
SELECT monitoring.set_incident_role(id, 'scribe', NULL, t0 + interval '8 minutes') FROM first, clock;
SELECT monitoring.update_incident(id, 'identified', 'A bad release', summary => 'v7 broke *the* cart', at => t0 + interval '9 minutes') FROM first, clock;
SELECT monitoring.link_incident(id, 'https://chat.example.com/room/7', 'chat', t0 + interval '9 minutes') FROM first, clock;
SELECT monitoring.note_incident(id, 'rolling back', t0 + interval '10 minutes') FROM first, clock;
SELECT monitoring.update_incident(id, 'monitoring', 'Rolled back', severity => 'P1', at => t0 + interval '11 minutes') FROM first, clock;
SELECT severity, status, summary, roles, pg_temp.minute(acknowledged_at) AS acknowledged, pg_temp.minute(mitigated_at) AS mitigated, resolved_at
FROM monitoring.incidents WHERE id = (SELECT id FROM first);
SELECT labels, state, acknowledged_by IS NOT NULL AS acknowledged FROM monitoring.alerts WHERE rule = 'InDown' ORDER BY labels;

-- the last alert takes the incident with it, not the first
SELECT pg_temp.set(12, '{"shop/a": 0, "shop/b": 0, "mail/a": 1, "fax/z": 1}'), pg_temp.evaluate(12);
SELECT status, firing, alerts FROM monitoring.incidents ORDER BY id;
SELECT pg_temp.set(13, '{"shop/a": 0, "shop/b": 0, "mail/a": 0, "fax/z": 1}'), pg_temp.evaluate(13);
SELECT status, firing, alerts, pg_temp.minute(resolved_at) AS resolved FROM monitoring.incidents ORDER BY id;
SELECT pg_temp.minute(at) AS minute, kind, actor = current_user AS by_hand, details - 'alert_ids' - 'incident_id' - 'alert_id' AS details
FROM first, LATERAL monitoring.incident_timeline(first.id) WHERE kind NOT LIKE 'alert %';
-- a new alert of the same service opens a new one
SELECT pg_temp.set(20, '{"shop/a": 1}'), pg_temp.evaluate(20);
SELECT pg_temp.set(22, '{"shop/a": 1}'), pg_temp.evaluate(22);
SELECT status, labels, firing, pg_temp.minute(started_at) AS started FROM monitoring.incidents ORDER BY id;
-- an alert that ends for lack of data ends its incident too
SELECT pg_temp.evaluate(40);
SELECT status, pg_temp.minute(resolved_at) AS resolved FROM monitoring.incidents ORDER BY id;

----------------------------------------------------------------------------------------------------------------------
-- By hand, and policies
----------------------------------------------------------------------------------------------------------------------
SELECT monitoring.open_incident('Warehouse offline', 'high', labels => '{"service": "stock"}', started_at => t0 + interval '50 minutes',
	at => t0 + interval '60 minutes') - id AS number FROM clock, first;
SELECT pg_temp.set(61, '{"stock/c": 1}'), pg_temp.evaluate(61);
SELECT pg_temp.set(63, '{"stock/c": 1}'), pg_temp.evaluate(63);
SELECT title, severity, source, labels, firing, alerts, created_by = current_user AS mine FROM monitoring.incidents WHERE title = 'Warehouse offline';
-- one opened by hand is resolved by hand
SELECT pg_temp.set(65, '{"stock/c": 0}'), pg_temp.evaluate(65);
SELECT status, firing FROM monitoring.incidents WHERE title = 'Warehouse offline';
SELECT monitoring.resolve_incident(id, 'power is back', t0 + interval '70 minutes') FROM clock, monitoring.incidents WHERE title = 'Warehouse offline';
-- opened again
SELECT monitoring.update_incident(id, 'investigating', at => t0 + interval '80 minutes') FROM clock, monitoring.incidents WHERE title = 'Warehouse offline';
SELECT status, resolved_at, mitigated_at FROM monitoring.incidents WHERE title = 'Warehouse offline';
SELECT monitoring.resolve_incident(id, at => t0 + interval '90 minutes') FROM clock, monitoring.incidents WHERE title = 'Warehouse offline';

SELECT monitoring.set_incident_policy('medium', '{P2}', '{"service": {"=~": "sh.*"}}', '{}', '1 hour', auto_resolve => false, place => 1);
SELECT monitoring.set_incident_policy('critical', selector => '{"alertname": {"=~": "In(Down|Slow)"}}', enabled => false);
SELECT pg_temp.set(100, '{"shop/a": 2, "mail/a": 2}'), pg_temp.evaluate(100);
SELECT pg_temp.set(102, '{"shop/a": 2, "mail/a": 2}'), pg_temp.evaluate(102);
SELECT title, severity, labels, alerts FROM monitoring.incidents WHERE detected_at >= (SELECT t0 + interval '100 minutes' FROM clock) ORDER BY id;
SELECT pg_temp.set(103, '{"shop/a": 0, "mail/a": 0}'), pg_temp.evaluate(103);
SELECT status, firing FROM monitoring.incidents WHERE detected_at >= (SELECT t0 + interval '100 minutes' FROM clock) ORDER BY id;

----------------------------------------------------------------------------------------------------------------------
-- Reports and figures
----------------------------------------------------------------------------------------------------------------------
SELECT r ->> 'title' AS title, r -> 'seconds_to_detect' AS detect, r -> 'seconds_to_acknowledge' AS acknowledge, r -> 'seconds_to_mitigate' AS mitigate,
	r -> 'seconds_to_resolve' AS resolve, jsonb_array_length(r -> 'alerts') AS alerts, jsonb_array_length(r -> 'timeline') > 10 AS has_timeline,
	r #>> '{deployments,0,version}' AS deployed, r -> 'evidence' ? 'at' AS has_evidence
FROM (SELECT monitoring.incident_report(id) AS r FROM first) AS r;
SELECT monitoring.write_post_mortem(id, E'Test the *cart*.', t0 + interval '2 hours') FROM first, clock;
SELECT regexp_replace(regexp_replace(line, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME', 'g'), 'Incident \d+|id \d+|ids .*|by .*', 'X', 'g') AS line
FROM first, string_to_table(monitoring.incident_report_markdown(first.id), E'\n') AS line
WHERE line !~ 'alert ';
SELECT severity, incidents, resolved, mttd, mttd_median, mtta, mttr_median, downtime, mtbf
FROM clock, monitoring.incident_metrics(t0, t0 + interval '2 hours');
-- one that goes on from before is no failure of the period, but its downtime counts; without a failure there is no time between them
CREATE TEMP TABLE early AS SELECT monitoring.open_incident('in_early', 'info', at => '2001-01-01 00:00+00') AS id;
SELECT monitoring.resolve_incident(id, at => '2001-01-01 06:00+00') FROM early;
SELECT monitoring.resolve_incident(monitoring.open_incident('in_later', 'info', at => '2001-01-01 08:00+00'), at => '2001-01-01 09:00+00');
SELECT p.since, p.until, m.incidents, m.resolved, m.mttr, m.downtime, m.mtbf
FROM (VALUES ('2001-01-01 04:00+00'::timestamptz, '2001-01-01 12:00+00'::timestamptz), ('2001-01-01 02:00+00', '2001-01-01 04:00+00'),
	('2001-01-01 05:00+00', '2001-01-01 08:30+00'), ('2001-01-01 06:00+00', '2001-01-01 07:00+00')) AS p (since, until)
LEFT JOIN LATERAL monitoring.incident_metrics(p.since, p.until) AS m ON m.severity = 'info' ORDER BY p.since, p.until;
DELETE FROM monitoring.incident_defs WHERE title IN ('in_early', 'in_later');
SELECT n, a, f.* FROM unnest('{incident_metrics,deployment_metrics,sla_report,alert_statistics}'::text[]) AS n,
	unnest(ARRAY['now(), now()', 'now(), now() - interval ''1 day''', 'now(), NULL', '''-infinity'', now()']) AS a,
	pg_temp.fails(format('SELECT count(*) FROM monitoring.%s(%s)', n, a)) AS f ORDER BY n, a;
-- policies
SELECT monitoring.set_incident_policy('in_more', '{high}', place => 5);
SELECT name FROM monitoring.incident_policies ORDER BY place, name;
SELECT monitoring.drop_incident_policy('in_more');
SELECT name FROM monitoring.incident_policies ORDER BY place, name;
SELECT * FROM pg_temp.fails($$SELECT monitoring.drop_incident_policy('in_more')$$);

-- what these figures are made of
SELECT detected_at - started_at AS to_detect, acknowledged_at - detected_at AS to_acknowledge, resolved_at - started_at AS to_resolve
FROM monitoring.incidents ORDER BY id;
SELECT monitoring.mark_deployment('in_shop', 'v8', at => t0 + interval '3 hours') FROM clock;
SELECT monitoring.mark_deployment('in_mail', 'v1', 'failed', at => t0 + interval '3 hours') FROM clock;
SELECT service, deployments, round(per_day::numeric, 2) AS per_day, failures, round(change_failure_rate::numeric, 2) AS rate
FROM clock, monitoring.deployment_metrics(t0 - interval '1 day', t0 + interval '4 hours') WHERE service IS NULL OR service LIKE 'in_%';

----------------------------------------------------------------------------------------------------------------------
-- Evidence
----------------------------------------------------------------------------------------------------------------------
SELECT monitoring.scrub_sql(q) FROM (VALUES
	($q$SELECT * FROM t1 WHERE a = 'it''s' AND b IN (1, 2.5, -3e5, .5, 0x1F) AND c2 = $1 -- secret$q$),
	($q$INSERT INTO x VALUES (E'a\'b', 'open$q$), ($q$select "1", x1 /* c */ , '' || 'y'$q$), ('DO $x$ secret'), ('')) AS v (q);
-- one snapshot for all that fired at once
SELECT count(*) AS snapshots, sum(cardinality(alert_ids)) AS alerts FROM monitoring.alert_evidence
WHERE alert_ids && ARRAY(SELECT h.alert_id FROM monitoring.alert_history AS h WHERE h.rule_name LIKE 'In%');
SELECT e #>> '{deployments,0,service}' AS deployed, octet_length(e::text) < 33000 AS bounded, e ? 'failed' AS failed
FROM (SELECT monitoring.evidence_of(m.alert_id) AS e FROM monitoring.incident_alerts AS m, first WHERE m.incident_id = first.id ORDER BY m.alert_id LIMIT 1) AS e;
-- evidence that fails, is too large, or is of somebody's own
CREATE FUNCTION public.in_broken(at timestamptz) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(1 / (extract(epoch FROM at) * 0)) $$;
CREATE FUNCTION public.in_large(at timestamptz) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(repeat('x', 40000)) $$;
CREATE FUNCTION public.in_own(at timestamptz) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"mine": 1}'::jsonb $$;
INSERT INTO monitoring.evidence_kinds (name, function, place) VALUES ('broken', 'public.in_broken', 1), ('large', 'public.in_large', 2), ('own', 'public.in_own', 3);
SELECT e -> 'failed' AS failed, e -> 'truncated' AS truncated, e -> 'own' AS own FROM monitoring.take_evidence() AS e;
DELETE FROM monitoring.evidence_kinds WHERE NOT builtin;
SELECT monitoring.evidence_of(-1) IS NULL AS unknown;

\pset format unaligned
\t on
SELECT f.* FROM unnest(ARRAY[
	$$monitoring.open_incident('')$$, $$monitoring.open_incident('x', 'awful')$$, $$monitoring.open_incident('x', started_at => now() + interval '1 day')$$,
	$$monitoring.update_incident(-1, 'resolved')$$, $$monitoring.update_incident((SELECT id FROM first), 'fine')$$,
	$$monitoring.update_incident((SELECT id FROM first), title => E'a\nb')$$,
	$$monitoring.acknowledge_incident(-1)$$, $$monitoring.note_incident((SELECT id FROM first), '')$$,
	$$monitoring.link_incident((SELECT id FROM first), 'javascript:alert(1)')$$, $$monitoring.set_incident_role((SELECT id FROM first), '', 'x')$$,
	$$monitoring.attach_alert((SELECT id FROM first), -1)$$, $$monitoring.incident_report(-1)$$,
	$$monitoring.set_incident_policy('x', '{awful}')$$, $$monitoring.set_incident_policy('x', within => '-1 hour')$$,
	$$monitoring.mark_deployment('', 'v1')$$, $$monitoring.mark_deployment('x', 'v1', 'unknown')$$]) AS s CROSS JOIN LATERAL pg_temp.fails('SELECT ' || s) AS f;
\t off
SELECT monitoring.drop_alert_rule('InDown');
SELECT monitoring.drop_alert_rule('InSlow');
DELETE FROM monitoring.incident_policies WHERE name = 'medium';
SELECT monitoring.set_incident_policy('critical');
DELETE FROM monitoring.alert_history WHERE rule_name ~ '^In(Down|Slow)$';
