-- Which alerts become one incident, on virtual time; and what people do with the alerts of incidents. Rolled back.
\set VERBOSITY terse
\pset format unaligned
\pset null -
SET client_min_messages = warning;
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
SELECT monitoring.set_incident_policy('critical', selector => '{"alertname": {"=~": "Cor.*"}}');
CREATE FUNCTION pg_temp.crit(name text, severity text DEFAULT 'critical') RETURNS boolean LANGUAGE sql AS $$ SELECT pg_temp.rule(name, severity, receivers => '{}') $$;
CREATE FUNCTION pg_temp.fires(rule text, VARIADIC labels jsonb[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO pg_temp.breach SELECT rule, l FROM unnest(labels) AS l $$;
CREATE FUNCTION pg_temp.evaluate(after interval) RETURNS integer LANGUAGE sql AS $$ SELECT monitoring.evaluate_alerts('2030-01-07'::timestamptz + after) $$;
CREATE VIEW pg_temp.cases AS
	SELECT i.id - (SELECT min(id) FROM monitoring.incident_defs WHERE detected_at >= '2030-01-07') AS no, i.title, i.severity, i.status, i.labels, i.firing, i.alerts
	FROM monitoring.incidents AS i WHERE i.detected_at >= '2030-01-07';

-- at once: two that share a label, a third that shares another one with the second, two without anything in common, and two
-- without any such label; the gravest gives the title
SELECT pg_temp.crit('CorA'), pg_temp.crit('CorB'), pg_temp.crit('CorC', 'high');
SELECT monitoring.set_incident_policy('critical', '{critical,high}', '{"alertname": {"=~": "Cor.*"}}');
SELECT pg_temp.fires('CorA', '{"service": "shop", "host": "h1"}', '{"host": "h1", "database": "d1"}', '{"database": "d1"}', '{"host": "h7"}', '{"service": "h7"}');
SELECT pg_temp.fires('CorB', '{"region": "r"}');
SELECT pg_temp.fires('CorC', '{"region": "s"}', '{"tenant": "t", "slo": "x"}', '{"tenant": "t"}');
SELECT pg_temp.evaluate('0');
TABLE pg_temp.cases ORDER BY no;
-- one that joins an incident takes another with it that shares nothing with the incident; an incident grows graver
SELECT pg_temp.fires('CorB', '{"tenant": "t", "host": "h9"}', '{"host": "h9", "database": "d9"}');
SELECT pg_temp.evaluate('1 min');
SELECT * FROM pg_temp.cases WHERE labels ? 'tenant';
SELECT t.kind, t.details - 'alert_ids' AS details FROM monitoring.incidents AS i CROSS JOIN LATERAL monitoring.incident_timeline(i.id) AS t WHERE i.labels ? 'tenant';
-- the alert knows its incident
SELECT t.kind, t.details ->> 'incident_id' = m.incident_id::text AS same FROM monitoring.alerts AS a JOIN monitoring.incident_alerts AS m USING (alert_id)
CROSS JOIN LATERAL monitoring.alert_timeline(a.alert_id) AS t WHERE a.labels ->> 'host' = 'h9' AND t.kind <> 'firing' ORDER BY 2;
SELECT e.verdict FROM monitoring.alerts AS a CROSS JOIN LATERAL monitoring.explain_alert(a.alert_id, '2030-01-07') AS e WHERE a.labels ->> 'host' = 'h7' AND e.step = 'event';

-- a person moves an alert, which ends; its incident is not kept open by one that has ended or that never fires
SELECT i.id AS hosts FROM monitoring.incidents AS i WHERE i.labels = '{"host": "h7"}' AND i.resolved_at IS NULL \gset
SELECT a.alert_id AS moved FROM monitoring.alerts AS a WHERE a.labels ->> 'service' = 'h7' \gset
SELECT monitoring.attach_alert(:hosts, :moved, '2030-01-07 00:02');
SELECT kind, actor IS NOT NULL AS by_hand, details ? 'from' AS moved FROM monitoring.alert_timeline(:moved) WHERE kind = 'incident';
SELECT monitoring.create_alert_rule('CorPending', NULL, NULL, '1 minute', '>', 0, kind => 'breach', pending_for => '1 hour', receivers => '{}') > 0;
SELECT pg_temp.fire('CorPending');
SELECT pg_temp.evaluate('3 min');
SELECT monitoring.attach_alert(:hosts, (SELECT alert_id FROM monitoring.alerts WHERE rule = 'CorPending'), '2030-01-07 00:03');
SELECT title, status, firing, alerts FROM monitoring.incidents WHERE id = :hosts;
-- acknowledged while one of its alerts has been ended by hand, of which no evaluation knows yet
SELECT monitoring.close_alert(:moved, at => '2030-01-07 00:03:30');
SELECT monitoring.acknowledge_incident(:hosts, at => '2030-01-07 00:03:40');
SELECT rule, state, acknowledged_at IS NOT NULL AS acknowledged FROM monitoring.alerts JOIN monitoring.incident_alerts USING (alert_id) WHERE incident_id = :hosts ORDER BY 1, 2;
DELETE FROM pg_temp.breach WHERE labels ->> 'host' = 'h7' OR labels ->> 'service' = 'h7' OR rule = 'CorPending';
SELECT pg_temp.evaluate('4 min');
SELECT title, status, firing, alerts FROM monitoring.incidents WHERE id = :hosts;
-- one that has ended long ago can still be put where it belongs
SELECT pg_temp.evaluate('2 days');
SELECT monitoring.attach_alert((SELECT id FROM monitoring.incidents WHERE labels ? 'tenant'), :moved, '2030-01-09 00:00');
SELECT ended_at IS NOT NULL AS ended FROM monitoring.incident_alerts WHERE alert_id = :moved;

-- an alert was acknowledged, not the incident: that stays known when what was done about alerts is forgotten
DELETE FROM pg_temp.breach;
SELECT pg_temp.evaluate('3 days');
SELECT pg_temp.fires('CorA', '{"service": "old"}');
SELECT pg_temp.evaluate('3 days 1 min');
SELECT monitoring.acknowledge_alert(alert_id, at => '2030-01-10 00:05') FROM monitoring.alerts WHERE rule = 'CorA' AND state = 'firing';
DELETE FROM pg_temp.breach;
SELECT pg_temp.evaluate('3 days 10 min');
SELECT pg_temp.evaluate('5 days');
SELECT monitoring.forget_alerts('2030-05-01');
SELECT (SELECT count(*) FROM monitoring.alert_handling JOIN monitoring.incident_alerts USING (alert_id)) AS handled, acknowledged_at AT TIME ZONE 'UTC' AS acknowledged
FROM monitoring.incidents WHERE labels = '{"service": "old"}';
-- an incident that is over stays when its alerts are forgotten, and knows how many it had: what was done about them goes first
CREATE VIEW pg_temp.old AS
	SELECT i.alerts, i.firing, i.acknowledged_at IS NOT NULL AS acknowledged, (SELECT count(*) FROM monitoring.incident_alerts AS m WHERE m.incident_id = i.id) AS listed
	FROM monitoring.incidents AS i WHERE i.labels = '{"service": "old"}';
TABLE pg_temp.old;
SELECT monitoring.forget_alerts('2030-05-01');
TABLE pg_temp.old;
SELECT monitoring.forget_alerts('2030-05-01');
TABLE pg_temp.old;
-- one that is open keeps them all, and so does one that was resolved lately, or of which an alert still fires
SELECT pg_temp.fires('CorA', '{"service": "open"}', '{"service": "closed"}', '{"service": "late"}');
SELECT pg_temp.evaluate('5 days 1 min');
DELETE FROM pg_temp.breach WHERE labels ->> 'service' <> 'closed';
SELECT pg_temp.evaluate('5 days 2 min');
SELECT monitoring.update_incident(id, 'investigating', at => '2030-01-12 00:03') FROM monitoring.incidents WHERE labels = '{"service": "open"}';
SELECT monitoring.resolve_incident(id, at => '2030-01-12 00:03') FROM monitoring.incidents WHERE labels = '{"service": "closed"}';
UPDATE monitoring.incident_defs SET resolved_at = '2030-04-30' WHERE labels = '{"service": "late"}';
SELECT monitoring.forget_alerts('2030-05-01');
SELECT i.labels ->> 'service' AS service, count(m.alert_id) AS listed FROM monitoring.incidents AS i LEFT JOIN monitoring.incident_alerts AS m ON m.incident_id = i.id
WHERE i.labels ->> 'service' IN ('open', 'closed', 'late') GROUP BY 1 ORDER BY 1;
DELETE FROM pg_temp.breach;
SELECT pg_temp.evaluate('5 days 3 min');

-- thousands of hosts fall over, chains among them: an incident each, at once, and a bounded number of statements
SELECT pg_temp.fires('CorA', VARIADIC (SELECT array_agg(jsonb_build_object('host', 'n' || g)) FROM generate_series(1, 8000) AS g)),
	pg_temp.fires('CorB', VARIADIC (SELECT array_agg(jsonb_build_object('host', 'c' || g, 'database', 'c' || g / 3, 'service', 'c' || (g + 1) / 3)) FROM generate_series(1, 30) AS g));
SET LOCAL statement_timeout = '40s'; -- needs a second; when the work grew with the square it needed more
SELECT pg_temp.evaluate('6 days');
SET LOCAL statement_timeout = 0;
SELECT count(*) AS incidents, sum(alerts) AS alerts, max(alerts) AS most FROM monitoring.incidents WHERE detected_at = '2030-01-13';

-- times that no clock shows
SELECT count(*) AS incidents FROM monitoring.incident_metrics('2030-01-07', '2030-02-01') WHERE severity IS NULL;
SAVEPOINT s;
SELECT monitoring.open_incident('x', started_at => '-infinity');
ROLLBACK TO s;
SELECT monitoring.open_incident('x', at => 'infinity');
ROLLBACK TO s;
SELECT monitoring.open_incident('x', summary => repeat('x', 20000));
ROLLBACK;
