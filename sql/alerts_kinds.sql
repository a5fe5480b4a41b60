-- What each kind of rule finds, on a time of the test's own: the numbers are worked out by hand.
SET client_min_messages = warning;
\i sql/no_evaluation.inc
SELECT date_trunc('hour', clock_timestamp()) - '2 days'::interval AS t0 \gset
SET monitoring_test.t0 = :'t0';
\t on
CREATE FUNCTION pg_temp.at(after interval) RETURNS timestamptz LANGUAGE sql AS $$ SELECT current_setting('monitoring_test.t0')::timestamptz + after $$;
CREATE FUNCTION pg_temp.values(kind text, after interval)
RETURNS TABLE (name text, series_labels jsonb, value numeric, details jsonb, error text) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT d.name, v.series_labels, round(v.value::numeric, 6), v.details, v.error
		FROM monitoring.alert_rule_defs AS d, monitoring.%I($1, ARRAY(SELECT e.id FROM monitoring.alert_rule_defs AS e WHERE e.kind = $2)) AS v
		WHERE d.id = v.rule_id ORDER BY d.name, v.series_labels', kind || '_rule_values') USING pg_temp.at(after), kind;
END $$;
CREATE FUNCTION pg_temp.states() RETURNS TABLE (name text, state text, labels jsonb, value numeric, error text) LANGUAGE sql AS $$
	SELECT r.name, coalesce(a.state, r.state), a.labels, round(a.value::numeric, 6), r.last_error
	FROM monitoring.alert_rules AS r LEFT JOIN monitoring.alerts AS a ON a.rule = r.name ORDER BY r.name, a.labels
$$;
CREATE FUNCTION pg_temp.try(kind text, params jsonb, metric text DEFAULT 'ak_requests_total', fn text DEFAULT 'increase', over interval DEFAULT '10 minutes',
	op text DEFAULT '>', threshold float8 DEFAULT 5, name text DEFAULT 'try', labels jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	PERFORM monitoring.create_alert_rule(name, metric, fn, over, op, threshold, kind => kind, params => params, labels => labels);
	RETURN 'created';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', state, message, nullif(hint, ''));
END $$;

-- counters by route and class of status: a minute's events a row
SELECT monitoring.record_at('ak_requests_total', n, pg_temp.at(after), labels, 'counter')
FROM (VALUES
	-- the last ten minutes
	(60, '-4 minutes'::interval, '{"route": "/cart", "status_class": "2xx"}'::jsonb), (20, '-2 minutes', '{"route": "/cart", "status_class": "5xx"}'),
	(40, '-3 minutes', '{"route": "/home", "status_class": "2xx"}'),
	(5, '-3 minutes', '{"route": "/rare", "status_class": "5xx"}'),
	-- the same a day before
	(10, '-1 day -4 minutes', '{"route": "/cart", "status_class": "2xx"}'), (80, '-1 day -5 minutes', '{"route": "/gone", "status_class": "2xx"}'),
	(80, '-1 day -5 minutes', '{"route": "/home", "status_class": "2xx"}')) AS v (n, after, labels);
SELECT monitoring.record_at('ak_stock', n, pg_temp.at(after), labels, 'gauge')
FROM (VALUES (6, '-1 minute'::interval, '{"item": "a"}'::jsonb), (9, '-1 minute', '{"item": "b"}'), (10, '-1 hour -1 minute', '{"item": "a"}'),
	(0, '-1 hour -1 minute', '{"item": "b"}')) AS v (n, after, labels);

-- change
SELECT monitoring.create_alert_rule('change ' || mode, 'ak_requests_total', 'increase', '10 minutes', '>', 5, by => '{route}', kind => 'change',
	params => jsonb_build_object('shift', '1 day', 'mode', mode)) > 0
FROM unnest('{ratio,difference,percent}'::text[]) AS mode;
SELECT monitoring.create_alert_rule('change of stock', 'ak_stock', 'last', '10 minutes', '<', 0.7, by => '{item}', kind => 'change', params => '{"shift": "1 hour"}') > 0;
SELECT name, series_labels, value, details FROM pg_temp.values('change', '0');
SELECT monitoring.evaluate_alerts(pg_temp.at('0'));
SELECT name, state, labels, value FROM pg_temp.states();
-- an alert about what is counted ends when nothing comes any more; an hour later there is stock to compare with, but none to be compared
SELECT name, series_labels, value FROM pg_temp.values('change', '1 hour') WHERE name <> 'change of stock';
SELECT count(*) FROM pg_temp.values('change', '1 hour') WHERE name = 'change of stock' AND value IS NOT NULL;
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

-- ratio: the share of errors; against another metric; too few to tell
SELECT monitoring.create_alert_rule('errors', 'ak_requests_total', 'increase', '10 minutes', '>', 0.1, by => '{route}', labels => '{"status_class": "5xx"}',
	kind => 'ratio', params => '{"labels": {}}') > 0;
SELECT monitoring.create_alert_rule('errors of many', 'ak_requests_total', 'increase', '10 minutes', '>', 0.1, by => '{route}', labels => '{"status_class": "5xx"}',
	kind => 'ratio', params => '{"labels": {}, "min_denominator": 40}') > 0;
SELECT monitoring.create_alert_rule('errors of all', 'ak_requests_total', 'increase', '10 minutes', '>', 0.1, labels => '{"status_class": "5xx"}',
	kind => 'ratio', params => '{"labels": {"route": {"!=": "/rare"}}}') > 0;
SELECT monitoring.create_alert_rule('requests per item', 'ak_requests_total', 'increase', '10 minutes', '>', 100, kind => 'ratio',
	params => '{"metric": "ak_stock", "fn": "avg"}') > 0;
SELECT name, series_labels, value, details FROM pg_temp.values('ratio', '0');
SELECT monitoring.evaluate_alerts(pg_temp.at('0'));
SELECT name, state, labels, value FROM pg_temp.states();
SELECT count(*) FROM pg_temp.values('ratio', '1 hour');
SELECT b.at - pg_temp.at('0') AS after, labels, from_state, to_state, reason, round(value::numeric, 6) AS value
FROM monitoring.backtest_rule('errors of many', pg_temp.at('-6 minutes'), pg_temp.at('20 minutes'), '2 minutes') AS b;
SELECT labels, value, breach FROM monitoring.preview_rule('no rule yet', '{"kind": "ratio", "metric": "ak_requests_total", "fn": "increase", "over": "10 minutes",
	"op": ">", "threshold": 0.1, "labels": {"status_class": "2xx"}, "by": ["route"], "params": {"labels": {}}}', pg_temp.at('0')) ORDER BY labels;
-- a function that does not go with a metric is the fault of the rules that ask for it, whichever part of them does
SELECT monitoring.create_alert_rule('no percentile', 'ak_requests_total', 'p95', '10 minutes', '>', 1, kind => 'ratio', params => '{"metric": "ak_stock", "fn": "avg"}') > 0;
SELECT monitoring.create_alert_rule('none below', 'ak_requests_total', 'increase', '10 minutes', '>', 1, kind => 'ratio', params => '{"metric": "ak_stock", "fn": "p95"}') > 0;
SELECT monitoring.create_alert_rule('no percentile of then', 'ak_requests_total', 'p95', '10 minutes', '>', 1, kind => 'change') > 0;
SELECT monitoring.create_alert_rule('as always', 'ak_requests_total', 'increase', '10 minutes', '>=', 0, kind => 'change', params => '{"shift": "10 minutes"}') > 0;
SELECT monitoring.evaluate_alerts(pg_temp.at('7 minutes'));
SELECT name, state, error FROM pg_temp.states();
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

-- absence: each group that the window has seen; the metric itself
SELECT monitoring.create_alert_rule('silent route', 'ak_requests_total', NULL, '1 day', '>', 300, by => '{route}', kind => 'absence') > 0;
SELECT monitoring.create_alert_rule('silent shop', 'ak_requests_total', NULL, '1 hour', '>', 300, kind => 'absence', labels => '{"status_class": "5xx"}') > 0;
SELECT monitoring.create_alert_rule('never seen', 'ak_nothing', NULL, '1 hour', '>', 300, kind => 'absence') > 0;
-- to the end of the minute in which it was observed
SELECT name, series_labels, value FROM pg_temp.values('absence', '0');
-- also from hours that have been compacted
SELECT monitoring.compact(pg_temp.at('1 day')) >= 0;
SELECT name, series_labels, value FROM pg_temp.values('absence', '4 minutes 30 seconds');
SELECT name, series_labels, value, details ->> 'observed_at' IS NULL AS forgotten FROM pg_temp.values('absence', '59 minutes');
SELECT name, series_labels, value, details ->> 'observed_at' IS NULL AS forgotten FROM pg_temp.values('absence', '62 minutes');
SELECT monitoring.evaluate_alerts(pg_temp.at('4 minutes 30 seconds'));
SELECT monitoring.evaluate_alerts(pg_temp.at('62 minutes'));
SELECT name, state, labels, value FROM pg_temp.states();
SELECT monitoring.record_at('ak_requests_total', 1, pg_temp.at('62 minutes'), '{"route": "/cart", "status_class": "5xx"}', 'counter');
SELECT monitoring.evaluate_alerts(pg_temp.at('63 minutes'));
SELECT name, state, labels, value FROM pg_temp.states() WHERE state <> 'firing';
SELECT observed_at - pg_temp.at('0') FROM monitoring.last_observed('ak_requests_total', '2 hours', '{"status_class": "5xx"}', at => pg_temp.at('1 hour'));
SELECT series_labels, observed_at - pg_temp.at('0') FROM monitoring.last_observed('ak_requests_total', '2 hours', by => '{route}', at => pg_temp.at('1 hour')) ORDER BY 1;
SELECT count(*) FROM monitoring.last_observed('ak_nothing');
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

-- sql: rows are alerts; what one query does is no other's business
CREATE SCHEMA ak;
CREATE TABLE ak.orders (state text, tenant text, amount numeric, at timestamptz);
INSERT INTO ak.orders SELECT 'stuck', t, 10, pg_temp.at('-5 minutes') FROM unnest('{x,x,y}'::text[]) AS t;
INSERT INTO ak.orders VALUES ('stuck', NULL, 'NaN', pg_temp.at('-5 minutes')), ('done', 'x', 5, pg_temp.at('-5 minutes')), ('stuck', 'z', 5, pg_temp.at('-2 hours'));
SELECT monitoring.create_alert_rule('stuck orders', NULL, NULL, '1 hour', '>', 9, kind => 'sql', extra_labels => '{"team": "shop"}', max_age => '0',
	params => '{"query": "SELECT tenant, sum(amount) FROM ak.orders WHERE state = ''stuck'' AND at BETWEEN $1 - $2 AND $1 GROUP BY tenant"}') > 0;
SELECT monitoring.create_alert_rule('one order', NULL, NULL, '1 hour', '>', 9, kind => 'sql', params => '{"query": "SELECT amount / 0 FROM ak.orders"}') > 0;
SELECT monitoring.create_alert_rule('every order', NULL, NULL, '1 hour', '>', 9, kind => 'sql', max_instances => 2,
	params => '{"query": "SELECT tenant || row_number() OVER () AS tenant, 1 FROM ak.orders"}') > 0;
SELECT monitoring.create_alert_rule('slow', NULL, NULL, '1 hour', '>', 9, kind => 'sql', params => '{"query": "SELECT pg_sleep(600)::text AS t, 1", "timeout": "20 milliseconds"}') > 0;
SELECT name, series_labels, value, error FROM pg_temp.values('sql', '0');
SELECT monitoring.evaluate_alerts(pg_temp.at('0'));
SELECT name, state, labels, value, error FROM pg_temp.states();
SELECT b.at - pg_temp.at('0') AS after, labels, to_state, value FROM monitoring.backtest_rule('stuck orders', pg_temp.at('-2 hours 10 minutes'), pg_temp.at('0'), '10 minutes') AS b;
-- a row that is gone ends its alert once max_age is over; errors leave states alone and go when the query works
UPDATE ak.orders SET state = 'done' WHERE tenant = 'x';
SELECT monitoring.update_alert_rule('every order', '{"max_instances": 10}');
SELECT monitoring.evaluate_alerts(pg_temp.at('1 minute'));
SELECT name, state, labels, value, error FROM pg_temp.states() WHERE name <> 'slow';
DROP TABLE ak.orders;
SELECT monitoring.evaluate_alerts(pg_temp.at('2 minutes'));
SELECT name, state, labels, error FROM pg_temp.states() WHERE name <> 'slow';
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;
-- what can be known is said when a rule is saved
SELECT pg_temp.try('sql', '{}', NULL, NULL);
SELECT pg_temp.try('sql', '{"query": "SELECT 1"}');
SELECT pg_temp.try('sql', '{"query": "SELECT 1", "querry": 1}', NULL, NULL);
SELECT pg_temp.try('sql', '{"query": "SELECT 1", "timeout": "1 minute"}', NULL, NULL);
SELECT pg_temp.try('sql', '{"query": "SELECT 1", "timeout": "soon"}', NULL, NULL);
SELECT pg_temp.try('sql', '{"query": "SELECT 1"}', NULL, NULL, labels => '{"a": "b"}');
SELECT pg_temp.try('sql', '{"query": "SELECT count(*) FROM ak.orders"}', NULL, NULL);
SELECT pg_temp.try('sql', '{"query": "SELECT 1 AS a, 2 AS b"}', NULL, NULL);
SELECT pg_temp.try('sql', '{"query": "DELETE FROM pg_class RETURNING 1"}', NULL, NULL);
SELECT pg_temp.try('sql', '{"query": "SELECT 1; SELECT 2"}', NULL, NULL);
SELECT pg_temp.try('change', '{"shift": "-1 day"}');
SELECT pg_temp.try('change', '{"mode": "half"}');
SELECT pg_temp.try('change', '{}', NULL);
SELECT pg_temp.try('change', '{}', 'no name');
SELECT pg_temp.try('change', '{}', fn => 'middle');
SELECT pg_temp.try('ratio', '{}');
SELECT pg_temp.try('ratio', '{"metric": "no name"}');
SELECT pg_temp.try('ratio', '{"fn": "middle"}');
SELECT pg_temp.try('ratio', '{"labels": {"a": {"=~": "("}}}');
SELECT pg_temp.try('ratio', '{"labels": {"a": "b"}, "min_denominator": "many"}');
SELECT n, pg_temp.try('ratio', format('{"labels": {"a": "b"}, "min_denominator": %s}', n)::jsonb) FROM unnest(ARRAY['1e999', '1e-400', '-1', 'null', '[1]']) AS n;
SELECT pg_temp.try('metric', '{"multiply": -1e999}');
SELECT pg_temp.try('absence', '{}');
SELECT pg_temp.try('absence', '{}', fn => NULL, threshold => 600);
SELECT pg_temp.try('absence', '{}', fn => NULL, op => '<');
SELECT pg_temp.try('metric', '{"step": "1 minute"}');
SELECT count(*) FROM monitoring.alert_rules;

-- composite: of what fires, by labels that alerts share
SELECT monitoring.set_gauge('ak_level', 1, l) FROM unnest(ARRAY['{"host": "a", "disk": "1"}', '{"host": "a", "disk": "2"}', '{"host": "b", "disk": "1"}']::jsonb[]) AS l;
SELECT clock_timestamp() AS now \gset
SET monitoring_test.t0 = :'now';
SELECT monitoring.create_alert_rule('disks', 'ak_level', 'last', '1 hour', '>', 0, by => '{host,disk}') > 0;
SELECT monitoring.create_alert_rule('hosts', 'ak_level', 'max', '1 hour', '>', 0, by => '{host}', labels => '{"disk": "2"}') > 0;
SELECT monitoring.create_alert_rule('site', 'ak_level', 'max', '1 hour', '>', 5) > 0;
SELECT monitoring.create_alert_rule('all', NULL, NULL, '1 minute', '>', 0, kind => 'composite', params => '{"all": ["disks", "hosts"]}', by => '{host}') > 0;
SELECT monitoring.create_alert_rule('any', NULL, NULL, '1 minute', '>', 0, kind => 'composite', params => '{"any": ["disks", "hosts"]}', by => '{host}') > 0;
SELECT monitoring.create_alert_rule('all three', NULL, NULL, '1 minute', '>', 0, kind => 'composite', params => '{"all": ["disks", "hosts", "site"]}', by => '{host}') > 0;
SELECT monitoring.create_alert_rule('all at all', NULL, NULL, '1 minute', '>', 0, kind => 'composite', params => '{"all": ["disks", "hosts"]}') > 0;
SELECT monitoring.create_alert_rule('all of b', NULL, NULL, '1 minute', '>', 0, kind => 'composite', params => '{"all": ["disks", "hosts"]}', labels => '{"host": "b"}') > 0;
-- of composites: evaluated after them, whatever they are called
SELECT monitoring.create_alert_rule('a composite of composites', NULL, NULL, '1 minute', '>', 0, kind => 'composite', params => '{"all": ["any", "all at all"]}') > 0;
SELECT monitoring.evaluate_alerts(pg_temp.at('1 second'));
SELECT d.name, v.series_labels, v.value, v.details FROM monitoring.alert_rule_defs AS d,
	monitoring.composite_rule_values(pg_temp.at('1 second'), ARRAY(SELECT e.id FROM monitoring.alert_rule_defs AS e WHERE e.kind = 'composite')) AS v
WHERE d.id = v.rule_id ORDER BY d.id, v.series_labels;
SELECT name, state, labels FROM pg_temp.states() WHERE name NOT IN ('disks', 'hosts', 'site');
SELECT d.name, c.depth FROM monitoring.rule_depths() AS c JOIN monitoring.alert_rule_defs AS d ON d.id = c.rule_id ORDER BY d.id;
SELECT labels, from_state, to_state FROM monitoring.backtest_rule('a composite of composites', pg_temp.at('0'), pg_temp.at('3 seconds'), '1 second');
-- an alert without the label counts for every group
SELECT monitoring.update_alert_rule('site', '{"threshold": 0}');
SELECT monitoring.evaluate_alerts(pg_temp.at('2 seconds'));
SELECT name, state, labels FROM pg_temp.states() WHERE name = 'all three';
-- they end as their members do
SELECT monitoring.update_alert_rule('hosts', '{"threshold": 10}');
SELECT monitoring.evaluate_alerts(pg_temp.at('3 seconds'));
SELECT name, state, labels, value FROM pg_temp.states() WHERE name NOT IN ('disks', 'hosts', 'site');
-- circles, members that do not exist, what is no composite
SELECT pg_temp.try('composite', '{"all": ["try"]}', NULL, NULL, threshold => 0);
SELECT pg_temp.try('composite', '{"all": ["disks", "nobody"]}', NULL, NULL, threshold => 0);
SELECT pg_temp.try('composite', '{"all": []}', NULL, NULL, threshold => 0);
SELECT pg_temp.try('composite', '{"all": ["disks"], "any": ["disks"]}', NULL, NULL, threshold => 0);
SELECT pg_temp.try('composite', '{"any": ["disks"], "by": ["host"]}', NULL, NULL, threshold => 0);
SELECT pg_temp.try('composite', '{"any": [1]}', NULL, NULL, threshold => 0);
SELECT pg_temp.try('composite', '{"any": ["disks"]}', NULL, NULL, threshold => 1);
SELECT pg_temp.try('composite', '{"any": ["disks"]}', NULL, NULL, op => '>=', threshold => 1);
\set VERBOSITY terse
SELECT monitoring.update_alert_rule('any', '{"params": {"any": ["disks", "a composite of composites"]}}');
\set VERBOSITY default
SELECT monitoring.drop_alert_rule('hosts');
SELECT monitoring.evaluate_alerts(pg_temp.at('4 seconds'));
SELECT name, error FROM pg_temp.states() WHERE error IS NOT NULL;
SELECT monitoring.enable_alert_rule('disks', false);
SELECT monitoring.evaluate_alerts(pg_temp.at('5 seconds'));
SELECT name, state, value FROM pg_temp.states() WHERE name = 'try';
SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules;

-- a kind of somebody's own, who is no superuser
CREATE ROLE mon_test_kinds;
SELECT monitoring.grant_access('mon_test_kinds', 'admin');
GRANT INSERT, SELECT, DELETE ON monitoring.alert_rule_kinds TO mon_test_kinds;
GRANT CREATE ON SCHEMA ak TO mon_test_kinds;
GRANT USAGE ON SCHEMA ak TO mon_test_kinds;
SET ROLE mon_test_kinds;
CREATE TABLE ak.levels (name text, level float8);
INSERT INTO ak.levels VALUES ('oil', 3), ('water', 7);
CREATE FUNCTION ak.level_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$
	SELECT r.id, jsonb_build_object('name', l.name, 'as', current_user), l.level, NULL::jsonb, NULL::text FROM unnest(rule_ids) AS r (id), ak.levels AS l
$$;
CREATE FUNCTION ak.check_level(rule jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM 1 / (rule -> 'params' ->> 'divisor')::integer;
END $$;
\set VERBOSITY terse
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('level', 'ak.level_values');
ALTER FUNCTION ak.level_values SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function) VALUES ('level', 'ak.level_values', 'ak.check_level');
SELECT monitoring.create_alert_rule('level', NULL, NULL, '1 minute', '<', 5, kind => 'level', params => '{"divisor": 0}');
SELECT monitoring.create_alert_rule('level', NULL, NULL, '1 minute', '<', 5, kind => 'level', params => '{"divisor": 1}') > 0;
SELECT monitoring.evaluate_alerts(pg_temp.at('6 seconds'));
SELECT a.rule, a.state, a.labels, a.value FROM monitoring.alerts AS a WHERE a.rule = 'level';
-- his queries have his rights, and nobody changes them for him
SELECT monitoring.create_alert_rule('secret', NULL, NULL, '1 minute', '>', 0, kind => 'sql', params => '{"query": "SELECT count(*) FROM pg_authid"}');
SELECT monitoring.create_alert_rule('mine', NULL, NULL, '1 minute', '>', 0, kind => 'sql', params => '{"query": "SELECT current_user, count(*) FROM ak.levels"}') > 0;
SELECT monitoring.evaluate_alerts(pg_temp.at('17 seconds'));
SELECT a.rule, a.labels, a.value FROM monitoring.alerts AS a WHERE a.rule = 'mine';
-- a kind stays as long as there are rules of it
DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'level';
RESET ROLE;
UPDATE monitoring.alert_rule_kinds SET kind = 'levels' WHERE kind = 'level';
UPDATE monitoring.alert_rule_kinds SET kind = 'level', description = 'his own' WHERE kind = 'level' RETURNING kind, description;
SET ROLE mon_test_kinds;
SELECT monitoring.drop_alert_rule(name) FROM monitoring.alert_rules;
DELETE FROM monitoring.alert_rule_kinds WHERE kind = 'level';
RESET ROLE;
\set VERBOSITY default
REVOKE ALL ON monitoring.alert_rule_kinds FROM mon_test_kinds;
SELECT monitoring.revoke_access('mon_test_kinds');
DROP SCHEMA ak CASCADE;
DROP ROLE mon_test_kinds;
SELECT count(monitoring.delete_series(m)) FROM unnest('{ak_requests_total,ak_stock,ak_level}'::text[]) AS m;
TRUNCATE monitoring.alert_history;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts';
