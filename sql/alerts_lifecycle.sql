-- Alerts from breach to end, on virtual time: gauges are set now and evaluated as of times that start a minute from now,
-- so that it does not matter how long the test takes.
SET client_min_messages = warning;
\i sql/no_evaluation.inc
SELECT clock_timestamp() + '1 minute' AS t0 \gset
\set history 'SELECT rule_name, to_char(at - :''t0'', ''HH24:MI:SS'') AS after, series_labels, from_state, to_state, reason, value FROM monitoring.alert_history ORDER BY id;'
\set eval 'SELECT monitoring.evaluate_alerts(:''t0''::timestamptz + :''after''::interval);'
\set state 'SELECT rule, state, value, to_char(active_at - :''t0'', ''HH24:MI:SS'') AS active, to_char(fired_at - :''t0'', ''HH24:MI:SS'') AS fired, to_char(resolved_at - :''t0'', ''HH24:MI:SS'') AS resolved FROM monitoring.alerts ORDER BY rule, labels;'
\t on

-- without data nothing happens
SELECT monitoring.create_alert_rule('waits', 'al_queue', 'last', '1 hour', '>', 10, pending_for => '30 seconds') > 0;
SELECT monitoring.create_alert_rule('at_once', 'al_queue', 'last', '1 hour', '>', 10, severity => 'critical',
	annotations => '{"summary": "{{queue}}{{value}} is over {{threshold}} ({{severity}}, {{alertname}})"}',
	labels => '{"site": "a"}', extra_labels => '{"team": "shop"}') > 0;
\set after 1s
:eval

-- pending, then firing when the breach has lasted long enough
SELECT monitoring.set_gauge('al_queue', 20, '{"site": "a"}');
\set after 2s
:eval
\set after 31s
:eval
\set after 32s
:eval
:state
SELECT labels, annotations FROM monitoring.alerts WHERE rule = 'at_once';

-- a new value is no transition; the end is
SELECT monitoring.set_gauge('al_queue', 30, '{"site": "a"}');
\set after 33s
:eval
SELECT monitoring.set_gauge('al_queue', 10, '{"site": "a"}');
\set after 40s
:eval
:state
\set after 41s
:eval

-- a breach that ends while pending, and then a second episode of both
SELECT monitoring.set_gauge('al_queue', 11, '{"site": "a"}');
\set after 50s
:eval
SELECT monitoring.set_gauge('al_queue', 0, '{"site": "a"}');
\set after 60s
:eval
SELECT monitoring.set_gauge('al_queue', 12, '{"site": "a"}');
\set after 70s
:eval
:history
SELECT rule_name, count(DISTINCT alert_id) AS episodes, count(DISTINCT fingerprint) AS fingerprints
FROM monitoring.alert_history WHERE to_state IN ('firing', 'resolved') GROUP BY rule_name;

-- the clock set back, by less than an outage: the timers start over, nothing gets stuck
\set after '-3000s'
:eval
:state
\set after '-2970s'
:eval
:state

-- rules that end: disabled, changed, dropped
TRUNCATE monitoring.alert_history;
SELECT monitoring.enable_alert_rule('at_once', false);
SELECT rule_name, from_state, to_state, reason, value FROM monitoring.alert_history ORDER BY id;
\set after 71s
:eval
SELECT monitoring.enable_alert_rule('at_once', true);
\set after 72s
:eval
SELECT monitoring.update_alert_rule('at_once', '{"labels": {"site": "b"}}');
SELECT monitoring.drop_alert_rule('waits');
SELECT rule_name, from_state, to_state, reason, value FROM monitoring.alert_history ORDER BY id;
:state
SELECT monitoring.drop_alert_rule('at_once');
TRUNCATE monitoring.alert_history;

-- resolve threshold: fires above 90, stays until 80
SELECT monitoring.create_alert_rule('hysteresis', 'al_disk', 'last', '1 hour', '>', 90, resolve_threshold => 80) > 0;
SELECT v, monitoring.set_gauge('al_disk', v),
	monitoring.evaluate_alerts(:'t0'::timestamptz + make_interval(secs => n)) AS transitions,
	(SELECT state FROM monitoring.alerts) AS was
FROM unnest('{85,91,85,81,80,85,95}'::float8[]) WITH ORDINALITY AS t (v, n) ORDER BY n;
:state
SELECT monitoring.drop_alert_rule('hysteresis');
TRUNCATE monitoring.alert_history;

-- keep_firing_for: must be clear for 10 seconds on end
SELECT monitoring.create_alert_rule('keeps', 'al_load', 'last', '1 hour', '>=', 5, keep_firing_for => '10 seconds') > 0;
SELECT n, v, monitoring.set_gauge('al_load', v),
	monitoring.evaluate_alerts(:'t0'::timestamptz + make_interval(secs => n)) AS transitions
FROM (VALUES (1, 5), (2, 4), (11, 4), (11.5, 5), (12, 4), (21, 4), (22, 4), (23, 4)) AS t (n, v) ORDER BY n;
:history
SELECT monitoring.drop_alert_rule('keeps');
TRUNCATE monitoring.alert_history;

-- every operator at its boundary
SELECT monitoring.set_gauge('al_ops', 5);
SELECT count(monitoring.create_alert_rule(format('op %s %s', op, t), 'al_ops', 'last', '1 hour', op, t))
FROM unnest('{>,>=,<,<=,=,==,<>,!=}'::text[]) AS op, unnest('{4,5,6}'::float8[]) AS t;
\set after 1s
:eval
SELECT rule FROM monitoring.alerts ORDER BY rule COLLATE "C";
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- one alert per group; one recovers, one loses its data and ends after max_age, a pending one without data does not fire
SELECT monitoring.create_alert_rule('groups', 'al_jobs', 'last', '5 minutes', '>', 1, by => '{queue}', max_age => '2 minutes') > 0;
SELECT monitoring.create_alert_rule('no data', 'al_jobs', 'last', '5 minutes', '>', 1, '90 seconds', labels => '{"queue": "mail"}',
	max_age => '2 minutes') > 0;
SELECT monitoring.set_gauge('al_jobs', 2, '{"queue": "mail", "host": "a"}');
SELECT monitoring.set_gauge('al_jobs', 3, '{"queue": "{{value}}", "host": "a"}');
SELECT monitoring.set_gauge('al_jobs', 1, '{"queue": "fine", "host": "a"}');
SELECT monitoring.set_gauge('al_jobs', 4, '{"host": "a"}');
\set after 1s
:eval
SELECT monitoring.set_gauge('al_jobs', 0, '{"queue": "{{value}}", "host": "a"}');
\set after 2s
:eval
\set after 400s
:eval
SELECT DISTINCT missing_since - :'t0'::timestamptz FROM monitoring.alert_states WHERE state <> 'resolved';
\set after 519s
:eval
\set after 520s
:eval
:history
-- the row of a resolved alert is kept for a day
\set after '24 hours 519s'
:eval
SELECT count(*) FROM monitoring.alert_states;
\set after '24 hours 520s'
:eval
SELECT count(*) FROM monitoring.alert_states;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- where events are counted, none is zero, not unknown
SELECT monitoring.increment('al_errors_total', 7);
SELECT monitoring.create_alert_rule('errors', 'al_errors_total', 'increase', '5 minutes', '>', 5) > 0;
\set after 1s
:eval
\set after 400s
:eval
:history
SELECT monitoring.drop_alert_rule('errors');
TRUNCATE monitoring.alert_history;

-- too few events: no event is the fewest; of a metric that nobody recorded yet nothing is known, nor of groups without data
SELECT monitoring.flush() >= 0;
SELECT count(monitoring.create_alert_rule(n, m, 'increase', '5 minutes', '<', 1, by => b::text[]))
FROM (VALUES ('too few', 'al_errors_total', '{}'), ('unknown', 'al_nosuch_total', '{}'), ('groups', 'al_errors_total', '{route}')) AS t (n, m, b);
\set after 1s
:eval
\set after 400s
:eval
:history
SELECT monitoring.increment('al_errors_total', 1);
\set after 2s
:eval
:history
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
TRUNCATE monitoring.alert_history;

-- statements: a firing alert follows its statement when that is slow no more, and ends as clear, after keep_firing_for
SELECT monitoring.create_slow_query_rule('slow', '1 second', '10 seconds', keep_firing_for => '20 seconds',
	annotations => '{"summary": "{{query}} {{value}}"}') > 0;
SELECT count(monitoring.ensure_partition('statement_deltas', :'t0'::timestamptz + n * '20 seconds'::interval)) FROM generate_series(0, 1) AS n;
INSERT INTO monitoring.statement_texts VALUES (7001, 10, 'select seven', :'t0');
INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds)
SELECT :'t0'::timestamptz + n * '10 seconds'::interval, :'t0'::timestamptz + (n - 1) * '10 seconds'::interval, 7001, 10, true, 4, s, s / 4.0
FROM (VALUES (1, 8), (2, 2)) AS v (n, s);
SELECT n, monitoring.evaluate_alerts(:'t0'::timestamptz + n * '10 seconds'::interval) AS transitions FROM generate_series(1, 5) AS n;
SELECT from_state, to_state, reason, value, annotations ->> 'summary' AS summary FROM monitoring.alert_history ORDER BY id;
SELECT monitoring.drop_alert_rule('slow');
DELETE FROM monitoring.statement_deltas WHERE queryid = 7001;
DELETE FROM monitoring.statement_texts WHERE queryid = 7001;

TRUNCATE monitoring.alert_history;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
