-- What goes wrong around alerts must not keep anybody from being told: on virtual time, rolled back.
\set VERBOSITY terse
\pset format unaligned
\pset null -
SET client_min_messages = warning;
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
\i sql/fails.inc
SELECT monitoring.create_receiver('all', 'webhook', 'https://a.example.com/'), monitoring.create_receiver('ann', 'webhook', 'https://b.example.com/');

-- time zones that the server knew once: a mute time mutes nothing, active times are now, a schedule goes by UTC
SELECT monitoring.set_time_interval('gone', '{"times": [{"start": "00:00", "end": "24:00"}], "location": "Europe/Berlin"}');
UPDATE monitoring.time_intervals SET spec = jsonb_set(spec, '{0,location}', '"Nowhere/Gone"') WHERE name = 'gone';
SELECT name, active FROM monitoring.mute_times WHERE name = 'gone';
SELECT monitoring.set_contact('Ann', '{ann}'), monitoring.create_schedule('ops', 'Europe/Berlin'), monitoring.create_schedule('dropped');
SELECT monitoring.set_schedule_layer('ops', 1, '{Ann}', '2030-01-01', active_times => '{"years": ["2030"], "location": "Europe/Berlin"}');
UPDATE monitoring.schedules SET time_zone = 'Nowhere/Gone' WHERE name = 'ops';
UPDATE monitoring.schedule_layers SET active_times = jsonb_set(active_times, '{0,location}', '"Nowhere/Gone"') WHERE schedule = 'ops';
SELECT monitoring.who_is_on_call('ops', '2030-01-07');
-- and a schedule that is dropped while a policy comes to name it
SELECT monitoring.set_escalation_policy('steps', '[{"schedules": ["ops", "dropped"]}]');
DELETE FROM monitoring.schedules WHERE name = 'dropped';
SELECT monitoring.create_route('muted', '{"team": "a"}', receivers => '{all}', group_wait => '0', mute_times => '{gone}', place => 1, escalation_policy => 'steps') > 0,
	monitoring.create_route('active', '{"team": "b"}', receivers => '{all}', group_wait => '0', active_times => '{gone}', place => 1) > 0;
SELECT pg_temp.rule('a', extra_labels => '{"team": "a"}'), pg_temp.rule('b', extra_labels => '{"team": "b"}');
SELECT monitoring.update_alert_rule('b', '{"active_times": {"years": ["2030"], "location": "Europe/Berlin"}}');
UPDATE monitoring.alert_rule_defs SET active_times = jsonb_set(active_times, '{0,location}', '"Nowhere/Gone"') WHERE name = 'b';
SELECT pg_temp.fire('a'), pg_temp.fire('b');
SELECT * FROM pg_temp.at('0 s');
SELECT * FROM pg_temp.at('1 min');
SELECT e.verdict FROM monitoring.alerts AS a CROSS JOIN LATERAL monitoring.explain_alert(a.alert_id, '2030-01-07') AS e WHERE a.rule = 'b' AND e.step = 'rule';

-- evidence that goes on for ever, writes, or asks for more than there is
CREATE FUNCTION public.evidence_forever(at timestamptz) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		BEGIN
			PERFORM pg_sleep(1);
		EXCEPTION WHEN query_canceled THEN
		END;
	END LOOP;
END $$;
CREATE FUNCTION public.evidence_writes(at timestamptz) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
	DELETE FROM monitoring.alert_states RETURNING '1'::jsonb $$;
CREATE FUNCTION public.evidence_nothing(at timestamptz) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
INSERT INTO monitoring.evidence_kinds (name, function, place)
SELECT e, 'public.evidence_' || e, 1 FROM unnest('{forever,writes,nothing}'::text[]) AS e;
SELECT pg_temp.fire('a', 'y');
SET LOCAL statement_timeout = '100s';
SELECT * FROM pg_temp.at('2 min');
SET LOCAL statement_timeout = 0;
SELECT monitoring.evidence_of(max(alert_id)) -> 'failed' AS failed, monitoring.evidence_of(max(alert_id)) ? 'nothing' AS has_nothing FROM monitoring.alerts WHERE rule = 'a';
DELETE FROM monitoring.evidence_kinds WHERE NOT builtin;

-- what would overflow, or take for ever, when it is evaluated is refused when it is saved
SELECT f.* FROM unnest(ARRAY[
	$$monitoring.update_alert_rule('a', '{"repeat_every": "200000 years"}')$$, $$monitoring.update_alert_rule('a', '{"over": "200000 years"}')$$,
	$$monitoring.update_alert_rule('a', '{"pending_for": "101 years"}')$$, $$monitoring.update_alert_rule('a', '{"max_age": "100 years"}')$$,
	$$monitoring.set_escalation_policy('x', '[{"delay": "401 days", "receivers": ["*"]}]')$$,
	$$monitoring.set_escalation_policy('x', '[{"receivers": [], "contacts": null}]')$$,
	$$monitoring.set_incident_policy('x', within => '200000 years')$$,
	$$monitoring.set_incident_policy('x', selector => '{"host": {"=~": "(a{1,200}){1,200}"}}')$$, $$monitoring.set_incident_policy('x', selector => '[]')$$,
	$$monitoring.create_component('x', selector => '{"host": {"=~": "(.)\\1"}}')$$, $$monitoring.create_component('x', selector => '3')$$
	]) AS s CROSS JOIN LATERAL pg_temp.fails('SELECT ' || s) AS f;

-- A rule can be disabled, and changed, when what it names is gone: its receiver, its table, its owner.
CREATE TABLE public.faults_orders (n integer);
CREATE ROLE regress_faults;
GRANT USAGE ON SCHEMA public TO regress_faults;
GRANT SELECT ON public.faults_orders TO regress_faults;
SELECT monitoring.create_receiver('gone', 'webhook', 'https://c.example.com/');
SELECT monitoring.create_alert_rule('orders', NULL, NULL, '1 hour', '>', 0, kind => 'sql', receivers => '{gone}', params => '{"query": "SELECT count(*) FROM public.faults_orders"}') > 0;
SELECT monitoring.drop_receiver('gone');
SELECT monitoring.update_alert_rule('orders', '{"threshold": 3}');
SELECT f.* FROM pg_temp.fails($$SELECT monitoring.update_alert_rule('orders', '{"receivers": ["gone", "nobody"]}')$$) AS f;
UPDATE monitoring.alert_rule_defs SET owner = 'regress_faults' WHERE name = 'orders';
DROP TABLE public.faults_orders;
DROP OWNED BY regress_faults;
DROP ROLE regress_faults;
SELECT f.* FROM pg_temp.fails($$SELECT monitoring.update_alert_rule('orders', '{"threshold": 4, "enabled": false}')$$) AS f;
SELECT monitoring.enable_alert_rule('orders', false);
SELECT threshold, enabled FROM monitoring.alert_rules WHERE name = 'orders';

-- An alert that is ended by hand does not make its rule an edited one.
CREATE FUNCTION pg_temp.resolve_one(rule text) RETURNS boolean LANGUAGE sql AS $$
	INSERT INTO monitoring.alert_states (rule_id, fingerprint, series_labels, alert_id, state, active_at, fired_at, updated_at, threshold)
	SELECT d.id, 'x', '{}', nextval('monitoring.alert_id_seq'), 'firing', '2030-01-07', '2030-01-07', '2030-01-07', 1 FROM monitoring.alert_rule_defs AS d WHERE d.name = rule;
	SELECT monitoring.close_alert(currval('monitoring.alert_id_seq'), at => '2030-01-07 01:00');
$$;
SELECT count(*) > 0 AS installed FROM monitoring.install_rules('host');
SELECT pg_temp.resolve_one(min(name)) FROM monitoring.alert_rules WHERE pack = 'host';
SELECT edited FROM monitoring.list_packs() WHERE pack = 'host';
SELECT outcome, count(*) > 0 FROM monitoring.remove_rules('host') GROUP BY 1;
SELECT monitoring.create_slo('faults', '{"metric": "faults_total", "labels": {"outcome": "ok"}}', '{"metric": "faults_total"}', 0.99);
SELECT pg_temp.resolve_one('faults: budget burns fast');
SELECT monitoring.update_slo('faults', '{"over": "7 days"}');
SELECT DISTINCT params #>> '{windows,0,factor}' AS factor, version FROM monitoring.alert_rule_defs WHERE slo = 'faults' ORDER BY 1;

-- Labels that are filled in are so wherever an alert is told of, and in rules of rules.
SELECT monitoring.create_alert_rule('filled', NULL, NULL, '1 minute', '>', 0, kind => 'breach', extra_labels => '{"team": "a", "site": "at-{{host}}"}', annotations => '{"summary": "{{site}}"}') > 0,
	monitoring.create_alert_rule('both', NULL, NULL, '1 minute', '>', 0, kind => 'composite', by => '{site}', params => '{"all": ["filled"]}', receivers => '{}') > 0;
SELECT monitoring.create_route('sited', '{"site": "at-z"}', receivers => '{ann}', place => 1) > 0;
SELECT pg_temp.fire('filled', 'w');
SELECT * FROM pg_temp.at('10 min');
SELECT * FROM pg_temp.at('11 min');
SELECT labels ->> 'site' AS site FROM monitoring.alerts WHERE rule = 'both';
SELECT receiver, payload #>> '{alerts,0,labels,site}' AS site, payload #>> '{alerts,0,annotations,summary}' AS summary FROM monitoring.outbox WHERE at >= '2030-01-07 00:10' ORDER BY id;
SELECT route, receiver, group_key FROM monitoring.simulate_alert('filled', '{"host": "z"}', '2030-01-07 02:00');
SELECT payload #>> '{alerts,0,labels,site}' AS site FROM monitoring.outbox WHERE at = '2030-01-07 02:00' ORDER BY id LIMIT 1;

-- Very many alerts in a group, and one more when receivers know them: work of seconds that once grew with the square.
SELECT count(monitoring.create_receiver('r' || g, 'webhook', 'https://r.example.com/')) FROM generate_series(1, 6) AS g;
SELECT monitoring.create_route('many', '{"alertname": "many"}', receivers => '{r1,r2,r3,r4,r5,r6}', group_wait => '0', group_interval => '1 s', place => 1) > 0;
CREATE TEMP TABLE many AS SELECT 20000 AS n;
CREATE FUNCTION pg_temp.many_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text) LANGUAGE sql AS $$
	SELECT rule_ids[1], jsonb_build_object('host', 'h' || g), 1, NULL::jsonb, NULL::text FROM pg_temp.many AS m CROSS JOIN generate_series(1, m.n) AS g
$$;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('many', 'pg_temp.many_values');
SELECT monitoring.create_alert_rule('many', NULL, NULL, '1 minute', '>', 0, kind => 'many', max_instances => 100000) > 0;
SET LOCAL statement_timeout = '5 min'; -- needs seconds; when the work grew with the square it needed more
SELECT receiver, reason, more FROM pg_temp.at('1 day') WHERE more > 0;
UPDATE many SET n = n + 1;
SELECT receiver, reason, left(alerts, 11) AS first, more FROM pg_temp.at('1 day 2 s') WHERE more > 0;
-- nobody is paged twenty thousand times when nobody acts on them
SELECT monitoring.set_escalation_policy('steps', '[{"delay": "5 minutes", "receivers": ["r1", "r2"]}]');
SELECT monitoring.update_route('many', '{"escalation_policy": "steps"}');
UPDATE monitoring.alert_groups SET due_at = '2030-01-08 00:01' WHERE labels ->> 'alertname' = 'many';
SELECT count(*) FROM pg_temp.at('1 day 1 min');
SELECT receiver, reason, left(alerts, 7) AS first, array_length(string_to_array(alerts, ','), 1) AS listed, more FROM pg_temp.at('1 day 6 min') WHERE reason = 'escalation';
SELECT count(*), count(DISTINCT alert_id) FROM monitoring.alert_events WHERE kind = 'escalated' AND at = '2030-01-08 00:06';
SET LOCAL statement_timeout = 0;

-- labels longer than an entry of an index
SELECT monitoring.create_route('long', '{"alertname": "long"}', receivers => '{all}', group_wait => '0', group_by => '{...}', place => 1) > 0;
SELECT pg_temp.rule('long');
SELECT pg_temp.fire('long', (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 110) AS g), (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 111) AS g));
SELECT receiver, reason, left(alerts, 10) AS alert FROM pg_temp.at('2 days') WHERE alerts LIKE 'long%' ORDER BY length(alerts);
SELECT count(DISTINCT group_key), max(octet_length(group_key)) < 300 AS short FROM monitoring.alert_groups WHERE labels ->> 'alertname' = 'long';
ROLLBACK;
