-- Packs of rules, and rules as documents.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SET TimeZone = 'UTC';
\i sql/no_evaluation.inc

\i sql/fails.inc

-- every rule of every pack can be created, says what it is about, what it costs and what to do
SELECT pack, rules, installed, edited FROM monitoring.list_packs();
SELECT p.pack, i.outcome, count(*), min(i.error) AS error
FROM monitoring.list_packs() AS p CROSS JOIN LATERAL monitoring.install_rules(p.pack) AS i
GROUP BY p.pack, i.outcome ORDER BY p.pack;
SELECT count(*) AS without_texts FROM monitoring.alert_rules
WHERE pack IS NOT NULL AND NOT (annotations ?& '{summary,impact,runbook}');
SELECT count(*) AS without_metric FROM monitoring.alert_rules WHERE pack IS NOT NULL AND metric IS NULL AND kind NOT IN ('sql', 'slow_query');
SELECT pack, rules, installed, edited FROM monitoring.list_packs();
-- the thresholds that were asked for
SELECT name, fn, over, op, threshold, severity FROM monitoring.alert_rules
WHERE name IN ('HttpErrorRateHigh', 'HttpErrorRateCritical', 'ErrorsBurst', 'PaymentSuccessLow', 'PaymentFailuresHigh', 'PaymentFailuresCritical',
	'HttpLatencyHigh', 'HttpLatencyTail', 'HttpLatencyVeryHigh', 'PageLoadSlow', 'LcpSlow', 'ConnectionsHigh', 'CacheHitLow', 'MemoryHigh',
	'MemoryCritical', 'CpuHigh', 'CpuCritical', 'DiskHigh', 'HealthScoreLow', 'BookingConversionLow', 'OrdersStopped',
	'WebsocketConnectionsLost', 'InventoryLow', 'DatabaseDown', 'ReplicationLagHigh', 'XidAgeHigh', 'SlowQueries') ORDER BY name;

-- installed again nothing happens; what was edited outlives the pack
SELECT outcome, count(*) FROM monitoring.install_rules('web') GROUP BY 1;
SELECT monitoring.update_alert_rule('LcpPoor', '{"threshold": 5}');
SELECT rules, installed, edited FROM monitoring.list_packs() WHERE pack = 'web';
SELECT outcome, count(*) FROM monitoring.remove_rules('web') GROUP BY 1 ORDER BY 1;
SELECT name, threshold, pack FROM monitoring.alert_rules WHERE name LIKE 'Lcp%';
SELECT outcome, count(*) FROM monitoring.install_rules('web') GROUP BY 1 ORDER BY 1;

-- away and back again: the same document
CREATE TEMP TABLE document AS SELECT monitoring.export_rules() AS before;
SELECT count(*) > 60 AS many, count(*) FILTER (WHERE outcome <> 'unchanged') AS changed FROM document, monitoring.import_rules(before, true);
SELECT count(monitoring.drop_alert_rule(name)) > 60 AS dropped FROM monitoring.alert_rules;
SELECT count(*) > 60 AS many, count(*) FILTER (WHERE outcome <> 'created') AS others FROM document, monitoring.import_rules(before);
SELECT before -> 'rules' = monitoring.export_rules() -> 'rules' AS same FROM document;
SELECT jsonb_pretty(monitoring.export_rules('{HttpErrorRateHigh}', 'mine'));
-- a change in the document, a rule that is wrong, one that is new: each on its own
SELECT * FROM monitoring.import_rules('{"format": "monitoring alert rules", "version": 1, "rules": [
	{"name": "LcpPoor", "metric": "web_vitals_lcp_seconds", "fn": "p75", "over": "1 hour", "op": ">", "threshold": 6, "severity": "low"},
	{"name": "LcpSlow", "kind": "absence", "metric": "web_vitals_lcp_seconds", "over": "1 hour", "op": ">", "threshold": 6},
	{"name": "pk bad", "metric": "m", "fn": "average", "over": "1 hour", "op": ">", "threshold": 6},
	{"name": "pk unknown", "metric": "m", "fn": "avg", "over": "1 hour", "op": ">", "threshold": 6, "colour": "red"},
	{"name": "pk incomplete", "metric": "m"},
	{"metric": "m"},
	{"name": "pk types", "metric": "m", "fn": "avg", "over": "long", "op": ">", "threshold": "high"},
	{"name": "pk new", "metric": "m", "fn": "avg", "over": "1 hour", "op": ">", "threshold": 6, "by": ["a", "b"], "receivers": [], "labels": {"x": "y"}}]}', true);
SELECT name, threshold, severity, by, labels, receivers, annotations FROM monitoring.alert_rules WHERE name LIKE 'pk%' OR name = 'LcpPoor' ORDER BY name;
SELECT outcome FROM monitoring.import_rules(monitoring.export_rules('{pk new}'));

-- a pack of one's own
INSERT INTO monitoring.rule_packs (pack, document) SELECT 'mine', monitoring.export_rules('{pk new}');
SELECT monitoring.drop_alert_rule('pk new');
SELECT * FROM monitoring.install_rules('mine');
SELECT * FROM monitoring.remove_rules('mine');
DELETE FROM monitoring.rule_packs WHERE pack = 'mine';

\pset format unaligned
\t on
SELECT f.* FROM unnest(ARRAY[
	$$monitoring.install_rules('nothing')$$, $$monitoring.import_rules(NULL)$$, $$monitoring.import_rules('[]')$$,
	$$monitoring.import_rules('{"format": "monitoring alert rules", "version": 2, "rules": []}')$$,
	$$monitoring.import_rules('{"format": "monitoring alert rules", "version": 1, "rules": [1]}')$$,
	$$monitoring.import_rules('{"groups": []}')$$]) AS s CROSS JOIN LATERAL pg_temp.fails('SELECT ' || s) AS f;
SELECT count(monitoring.drop_alert_rule(name)) > 60 AS dropped FROM monitoring.alert_rules;
