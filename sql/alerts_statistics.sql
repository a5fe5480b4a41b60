-- Figures about alerts over periods of virtual time, and what is related to an alert.
SET client_min_messages = warning;
SET timezone = 'UTC';
\set VERBOSITY terse
\i sql/no_evaluation.inc
\i sql/samples.inc
\set t0 '2100-01-01 00:00+00'
-- the value of an alert at a minute, and what evaluations make of it
CREATE FUNCTION pg_temp.step(minute int, changes jsonb) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.samples AS s SET value = c.value::float8 FROM jsonb_each_text(changes) AS c WHERE c.key = s.rule || coalesce(s.labels ->> 'host', '');
	RETURN monitoring.evaluate_alerts('2100-01-01 00:00+00'::timestamptz + minute * '1 minute'::interval);
END $$;
CREATE FUNCTION pg_temp.at(minute numeric) RETURNS timestamptz LANGUAGE sql AS $$ SELECT '2100-01-01 00:00+00'::timestamptz + minute * '1 minute'::interval $$;
CREATE FUNCTION pg_temp.alert(rule text, host text DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$ SELECT a.alert_id FROM monitoring.alerts AS a WHERE a.rule = $1 AND a.labels ->> 'host' IS NOT DISTINCT FROM $2 $$;
SELECT setval('monitoring.alert_id_seq', 1000);
\t on
SELECT monitoring.create_alert_rule(n, NULL, NULL, '1 hour', '>', 10, kind => 'sample', receivers => '{}', severity => s, pending_for => p::interval, extra_labels => l::jsonb)
FROM (VALUES ('disk', 'critical', '2 minutes', '{"team": "ops"}'), ('slow', 'low', '0', '{"team": "web"}'), ('calm', 'info', '0', '{}')) AS r (n, s, p, l) \g /dev/null
INSERT INTO samples VALUES ('disk', '{"host": "a", "dc": "eu"}', 0), ('disk', '{"host": "b", "dc": "eu"}', 0), ('slow', '{"host": "a"}', 0), ('calm', '{}', 0);

-- nothing happened
SELECT * FROM monitoring.alert_statistics(:'t0', pg_temp.at(600));
SELECT * FROM monitoring.alert_counts;

-- disk a: breach at 0, fires at 2, acknowledged at 5, ends at 30
SELECT pg_temp.step(0, '{"diska": 20}'), pg_temp.step(2, '{}');
SELECT monitoring.acknowledge_alert(pg_temp.alert('disk', 'a'), at => pg_temp.at(5));
-- slow: fires at 10, 15 and 22, two minutes each; unacknowledged
SELECT pg_temp.step(10, '{"slowa": 20}'), pg_temp.step(12, '{"slowa": 0}'), pg_temp.step(15, '{"slowa": 20}'), pg_temp.step(17, '{"slowa": 0}'), pg_temp.step(22, '{"slowa": 20}'), pg_temp.step(24, '{"slowa": 0}');
SELECT pg_temp.step(30, '{"diska": 0}');
-- disk b: breach at 33, fires at 35, acknowledged at 45, taken back, acknowledged again, ends at 60
SELECT pg_temp.step(33, '{"diskb": 20}'), pg_temp.step(35, '{}');
SELECT monitoring.acknowledge_alert(pg_temp.alert('disk', 'b'), at => pg_temp.at(45)), monitoring.unacknowledge_alert(pg_temp.alert('disk', 'b'), at => pg_temp.at(50)), monitoring.acknowledge_alert(pg_temp.alert('disk', 'b'), at => pg_temp.at(55));
SELECT pg_temp.step(60, '{"diskb": 0}');
-- disk a again: pending only
SELECT pg_temp.step(70, '{"diska": 20}'), pg_temp.step(71, '{"diska": 0}');
-- slow again: fires at 100 and goes on; marked as false positive
SELECT pg_temp.step(100, '{"slowa": 20}');
SELECT monitoring.mark_false_positive(pg_temp.alert('slow', 'a'), at => pg_temp.at(101));

SELECT rule, labels ->> 'host', active_at - :'t0', fired_at - :'t0', ended_at - :'t0', firing_seconds, acknowledged_at - :'t0', false_positive, refired FROM monitoring.alert_episodes(:'t0', pg_temp.at(120)) ORDER BY fired_at;
\x on
SELECT * FROM monitoring.alert_statistics(:'t0', pg_temp.at(120));
\x off
-- by severity and by other labels; of a narrower idea of flapping
SELECT name, firings, firing_seconds, noise_ratio FROM monitoring.alert_statistics(:'t0', pg_temp.at(120), 'severity');
SELECT name, firings, firing_seconds, flapping_ratio FROM monitoring.alert_statistics(:'t0', pg_temp.at(120), 'team', '4 minutes');
SELECT name, firings FROM monitoring.alert_statistics(:'t0', pg_temp.at(120), 'nosuch');
-- parts of the time: what began before counts only with the time in which it fired
SELECT name, firings, firing_seconds, acknowledged, resolved FROM monitoring.alert_statistics(pg_temp.at(16), pg_temp.at(23));
SELECT name, firings, firing_seconds, acknowledged, resolved FROM monitoring.alert_statistics(pg_temp.at(40), pg_temp.at(110));
-- at the end of that period, what came later had not happened
SELECT name, firings, firing_seconds, acknowledged, mtta_seconds, resolved, noise_ratio FROM monitoring.alert_statistics(:'t0', pg_temp.at(4));
SELECT name, firings, firing_seconds FROM monitoring.alert_statistics(pg_temp.at(61), pg_temp.at(99));
-- consecutive periods add up
SELECT p.name, sum(p.firings), sum(p.firing_seconds), t.firings, t.firing_seconds
FROM generate_series(0, 119) AS n CROSS JOIN LATERAL monitoring.alert_statistics(pg_temp.at(n), pg_temp.at(n + 1)) AS p
JOIN monitoring.alert_statistics(:'t0', pg_temp.at(120)) AS t ON t.name = p.name
GROUP BY p.name, t.firings, t.firing_seconds ORDER BY 1;
-- the last seven days
SELECT name, firings FROM monitoring.alert_statistics(until => pg_temp.at(120));
SELECT rule, labels ->> 'host', firings, refirings, flapping_ratio, last_fired_at - :'t0' FROM monitoring.flapping_alerts(:'t0', pg_temp.at(120));
SELECT count(*) FROM monitoring.flapping_alerts(:'t0', pg_temp.at(120), '2 minutes');
\t off
SELECT * FROM monitoring.alert_counts;
\t on
SELECT monitoring.acknowledge_alerts('{"alertname": "slow"}', at => pg_temp.at(120));
SELECT severity, firing, acknowledged, suppressed FROM monitoring.alert_counts WHERE firing > 0;

-- the story of disk b, and of an alert that did not fire
SELECT t.at - :'t0' AS after, t.kind, t.actor = current_user AS by_me, t.details FROM monitoring.alert_history AS h CROSS JOIN monitoring.alert_timeline(h.alert_id) AS t
WHERE h.rule_name = 'disk' AND h.labels ->> 'host' = 'b' AND h.to_state = 'firing' AND (t.actor IS NOT NULL OR t.details ? 'from');
SELECT t.at - :'t0' AS after, t.kind FROM monitoring.alert_history AS h CROSS JOIN monitoring.alert_timeline(h.alert_id) AS t WHERE h.to_state = 'inactive' AND (t.actor IS NOT NULL OR t.details ? 'from');

-- what fired at about the same time and has something in common
SELECT alert_id AS b FROM monitoring.alert_history WHERE rule_name = 'disk' AND labels ->> 'host' = 'a' AND to_state = 'firing' \gset
SELECT rule, labels ->> 'host' AS host, fired_at - :'t0' AS fired, same_group, shared_labels FROM monitoring.correlated_alerts(:b);
SELECT rule, labels ->> 'host' AS host, fired_at - :'t0' AS fired, same_group, shared_labels FROM monitoring.correlated_alerts(:b, '1 hour');
SELECT rule, labels ->> 'host' AS host, same_group, shared_labels FROM monitoring.correlated_alerts(:b, '1 hour', '{dc}');
SELECT count(*) FROM monitoring.correlated_alerts(:b, '0');

-- bad input
SELECT * FROM monitoring.alert_statistics(:'t0', :'t0');
SELECT * FROM monitoring.alert_statistics(pg_temp.at(2), pg_temp.at(1));
SELECT * FROM monitoring.alert_statistics('-infinity', :'t0');
SELECT * FROM monitoring.alert_statistics(:'t0', NULL);
SELECT * FROM monitoring.alert_statistics(:'t0', pg_temp.at(1), flap_within => '-1 s');
SELECT * FROM monitoring.correlated_alerts(-1);
SELECT * FROM monitoring.correlated_alerts(:b, '-1 s');

SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'sample';
DROP FUNCTION public.sample_values;
DROP TABLE public.samples;
DELETE FROM monitoring.alert_history; DELETE FROM monitoring.alert_events; DELETE FROM monitoring.alert_handling;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
