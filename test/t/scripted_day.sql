-- What 053_scripted_day.pl runs: a day of metrics, of people who act and change what is configured, and of evaluations, as rows
-- of public.steps, each a transaction of its own; and what has become of it, as lines of text. Times are virtual: the day
-- that began three days ago. psql variable seed: what happens when.
CREATE EXTENSION monitoring;
-- Evaluations are steps of the day; nobody sends anything.
UPDATE monitoring.jobs SET enabled = false WHERE name IN ('evaluate_alerts', 'dispatch', 'server_metrics', 'statements');
SELECT setseed(:seed);

----------------------------------------------------------------------------------------------------------------------
-- Metrics: what they are usually, and when they are otherwise (null: nothing is observed)
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE public.day AS SELECT date_trunc('day', clock_timestamp(), 'UTC') - interval '3 days' AS start;
CREATE TABLE public.series (id int GENERATED ALWAYS AS IDENTITY, metric text, kind text, labels jsonb, usual float8, wobble float8);
CREATE TABLE public.spells (series int, since int, until int, value float8);
INSERT INTO public.series (metric, kind, labels, usual, wobble)
SELECT 'cpu_ratio', 'gauge', jsonb_build_object('host', 'h' || n), 0.4, 0.2 FROM generate_series(1, 4) AS n
UNION ALL SELECT 'disk_ratio', 'gauge', jsonb_build_object('host', 'h' || n), 0.5, 0.02 FROM generate_series(1, 2) AS n
UNION ALL SELECT 'requests_total', 'counter', jsonb_build_object('service', s), 100, 20 FROM unnest('{shop,blog}'::text[]) AS s
UNION ALL SELECT 'errors_total', 'counter', jsonb_build_object('service', s), 1, 1 FROM unnest('{shop,blog}'::text[]) AS s
UNION ALL SELECT 'latency_seconds', 'distribution', jsonb_build_object('route', r), 0.1, 0.1 FROM unnest('{/,/cart,/pay}'::text[]) AS r
UNION ALL SELECT 'queue_depth', 'gauge', jsonb_build_object('queue', q), 10, 10 FROM unnest('{mail,pdf}'::text[]) AS q
UNION ALL SELECT 'sockets', 'gauge', '{"endpoint": "chat"}', 500, 50
UNION ALL SELECT 'sessions', 'gauge', jsonb_build_object('shop', s), 20, 10 FROM unnest('{north,south}'::text[]) AS s;
-- some are short and flap, some last; now and then a series falls silent
INSERT INTO public.spells
SELECT s.id, b.since, b.since + 6 + (random() * CASE WHEN random() < 0.3 THEN 120 ELSE 30 END)::int,
	CASE WHEN random() < 0.25 AND s.kind <> 'counter' THEN NULL
		WHEN s.metric IN ('cpu_ratio', 'disk_ratio') THEN 0.85 + random() * 0.2
		WHEN s.metric = 'requests_total' THEN s.usual * 0.3 WHEN s.metric = 'errors_total' THEN 5 + random() * 40
		WHEN s.metric = 'latency_seconds' THEN 0.4 + random() WHEN s.metric = 'sockets' THEN 50 + random() * 300
		WHEN s.metric = 'sessions' THEN 40 + random() * 30 ELSE 80 + random() * 100 END
FROM public.series AS s
CROSS JOIN LATERAL (SELECT (random() * 1400 + 0 * s.id)::int AS since FROM generate_series(1, 7)) AS b;

CREATE FUNCTION public.observe(t timestamptz) RETURNS void LANGUAGE sql AS $$
	WITH clock AS (
		SELECT (extract(epoch FROM t - d.start) / 60)::int AS minute FROM public.day AS d
	), observed AS (
		SELECT s.metric, s.kind, s.labels, n, coalesce(p.value, s.usual) + s.wobble * sin(c.minute * 0.37 + s.id + n * 0.2) / 2 AS value
		FROM public.series AS s
		CROSS JOIN clock AS c
		CROSS JOIN generate_series(1, CASE s.kind WHEN 'distribution' THEN 5 ELSE 1 END) AS n
		LEFT JOIN LATERAL (
			SELECT p.value, true AS other FROM public.spells AS p
			WHERE p.series = s.id AND c.minute BETWEEN p.since AND p.until ORDER BY p.since LIMIT 1) AS p ON true
		WHERE p.other IS NULL OR p.value IS NOT NULL
	)
	-- numbers whose sums do not depend on the order
	SELECT count(monitoring.record_at(o.metric, CASE o.kind WHEN 'counter' THEN round(greatest(o.value, 0)) ELSE round(greatest(o.value, 0.01) * 1024) / 1024 END,
		t - interval '1 minute', o.labels, o.kind)) FROM observed AS o
$$;
CREATE TABLE public.stock (at timestamptz, item text, amount int);
INSERT INTO public.stock SELECT d.start + h * interval '1 hour', i, (random() * 20)::int FROM public.day AS d, generate_series(0, 23) AS h, unnest('{tea,cups}'::text[]) AS i;

----------------------------------------------------------------------------------------------------------------------
-- Rules, routes and people
----------------------------------------------------------------------------------------------------------------------

SELECT count(monitoring.create_receiver(n, 'webhook', 'https://' || n || '.example.com/', CASE n WHEN 'firing' THEN '{"send_resolved": false}' ELSE '{}' END::jsonb))
FROM unnest('{all,ops,firing,ann,bob}'::text[]) AS n;
SELECT monitoring.set_contact('Ann', '{ann}'), monitoring.set_contact('Bob', '{bob}'), monitoring.create_schedule('ops', 'Europe/Berlin');
SELECT monitoring.set_schedule_layer('ops', 1, '{Ann,Bob}', d.start - interval '1 day', '7 hours'),
	monitoring.override_schedule('ops', 'Bob', d.start + interval '9 hours', d.start + interval '11 hours') FROM public.day AS d;
SELECT monitoring.set_escalation_policy('critical', '[{"delay": "9 minutes", "schedules": ["ops"]}, {"delay": "12 minutes", "receivers": ["*"]}]', 1),
	monitoring.set_escalation_policy('web', '[{"delay": "15 minutes", "contacts": ["Bob"]}, {"delay": "15 minutes", "receivers": ["ops"]}]');
SELECT monitoring.set_time_interval('nights', '{"times": [{"start": "22:00", "end": "24:00"}, {"start": "00:00", "end": "05:00"}]}');
SELECT monitoring.create_route('web', '{"team": "web"}', receivers => '{ops,firing}', group_by => '{alertname,service}', group_wait => '4 minutes', group_interval => '10 minutes',
		repeat_interval => '1 hour', escalation_policy => 'web', continue_matching => true, place => 1) > 0,
	monitoring.create_route('web low', '{"severity": {"=~": "low|medium"}}', parent => 'web', mute_times => '{nights}', escalation_policy => '') > 0,
	monitoring.create_route('everything', '{"host": {"exists": true}}', receivers => '{firing}', group_by => '{...}', group_wait => '1 minute', continue_matching => true, place => 2) > 0;
SELECT monitoring.update_route('low', '{"digest": "2 hours"}'), monitoring.update_route('root', '{"repeat_interval": "90 minutes"}'), monitoring.update_route('medium', '{"group_wait": "6 minutes"}');
SELECT monitoring.create_inhibition_rule('melting', '{"alertname": "cpu melting"}', '{"alertname": "cpu high"}', '{host}'),
	monitoring.create_component('shop', selector => '{"service": "shop"}');
SELECT monitoring.set_incident_policy('high', '{high}', '{"team": "web"}', '{service}', '20 minutes', place => 1);

SELECT
	monitoring.create_alert_rule('cpu high', 'cpu_ratio', 'avg', '9 minutes', '>', 0.85, '6 minutes', by => '{host}', resolve_threshold => 0.7, keep_firing_for => '9 minutes',
		extra_labels => '{"team": "ops"}', annotations => '{"summary": "{{host}}: {{value}}"}') > 0,
	monitoring.create_alert_rule('cpu melting', 'cpu_ratio', 'last', '6 minutes', '>', 0.97, by => '{host}', severity => 'critical', annotations => '{"summary": "{{host}} melts"}') > 0,
	monitoring.create_alert_rule('cpu by table', 'cpu_ratio', 'max', '6 minutes', '>', 2, by => '{host}', severity => 'low',
		threshold_sql => $$SELECT host, limit_ratio FROM (VALUES ('h1', 0.9), ('h2', 0.95)) AS l (host, limit_ratio)$$) > 0,
	monitoring.create_alert_rule('office hours', 'cpu_ratio', 'avg', '15 minutes', '>', 0.8, by => '{host}', severity => 'info', active_times => '{"times": [{"start": "08:00", "end": "18:00"}]}') > 0,
	monitoring.create_alert_rule('host silent', 'cpu_ratio', NULL, '2 hours', '>', 540, by => '{host}', kind => 'absence', severity => 'high') > 0,
	monitoring.create_alert_rule('disk fills', 'disk_ratio', 'last', '3 hours', '>', 1, by => '{host}', kind => 'forecast', params => '{"horizon": "1 hour"}', severity => 'high') > 0,
	monitoring.create_alert_rule('errors', 'errors_total', 'increase', '15 minutes', '>', 0.1, '3 minutes', by => '{service}', kind => 'ratio', severity => 'high',
		params => '{"metric": "requests_total", "fn": "increase", "min_denominator": 50}', extra_labels => '{"team": "web"}', annotations => '{"summary": "{{service}}: {{value}}, {{users}} users"}',
		impact_sql => $$SELECT * FROM (VALUES ('shop', 500), ('blog', 20)) AS u (service, users)$$) > 0,
	monitoring.create_alert_rule('latency', 'latency_seconds', 'p95', '12 minutes', '>', 0.5, '3 minutes', by => '{route}', resolve_threshold => 0.4, extra_labels => '{"team": "web"}') > 0,
	monitoring.create_alert_rule('queue deep', 'queue_depth', 'last', '6 minutes', '>', 100, by => '{queue}', no_data => 'alert', max_age => '6 minutes', severity => 'high') > 0,
	monitoring.create_alert_rule('queue gone', 'queue_depth', 'max', '6 minutes', '>', 150, '6 minutes', labels => '{"queue": "pdf"}', no_data => 'alerting', max_age => '9 minutes', severity => 'low') > 0,
	monitoring.create_alert_rule('queue kept', 'queue_depth', 'min', '9 minutes', '>', 90, by => '{queue}', no_data => 'keep') > 0,
	monitoring.create_alert_rule('sockets lost', 'sockets', 'last', '6 minutes', '<', 0.6, by => '{endpoint}', kind => 'change', params => '{"shift": "30 minutes"}', severity => 'critical') > 0,
	monitoring.create_alert_rule('sessions', 'sessions', 'last', '6 minutes', '>', 45, by => '{shop}', receivers => '{ops}', repeat_every => '45 minutes') > 0,
	monitoring.create_alert_rule('stock', NULL, NULL, '1 hour', '<', 4, kind => 'sql', severity => 'low',
		params => jsonb_build_object('query', 'SELECT s.item, s.amount FROM public.stock AS s WHERE s.at <= $1 AND s.at > $1 - $2')) > 0,
	monitoring.create_alert_rule('breaks', NULL, NULL, '1 hour', '>', 30, kind => 'sql', severity => 'medium', on_error => 'alert',
		params => jsonb_build_object('query', $$SELECT 100.0 / (s.amount / 4) AS share FROM public.stock AS s WHERE s.at <= $1 AND s.at > $1 - $2 AND s.item = 'tea'$$)) > 0,
	monitoring.create_slo('availability', '{"metric": "requests_total"}', '{"metric": "requests_total"}', 0.9, over => '1 day', with_rules => false);
SELECT monitoring.create_alert_rule('site down', NULL, NULL, '1 minute', '>', 0, kind => 'composite', params => '{"all": ["errors", "latency"]}', severity => 'critical', extra_labels => '{"service": "shop"}') > 0,
	monitoring.create_alert_rule('anything', NULL, NULL, '1 minute', '>', 0, '10 minutes', kind => 'composite', params => '{"any": ["cpu high", "queue deep", "site down"]}', severity => 'medium') > 0,
	monitoring.update_alert_rule('latency', '{"parent": "sockets lost"}');

----------------------------------------------------------------------------------------------------------------------
-- The script
----------------------------------------------------------------------------------------------------------------------

-- What people do: $1 is the time.
CREATE TABLE public.acts (id int GENERATED ALWAYS AS IDENTITY, often int, what text);
INSERT INTO public.acts (often, what) VALUES
	(28, $$SELECT monitoring.acknowledge_alerts('{"severity": "critical"}', at => $1)$$),
	(12, $$SELECT monitoring.acknowledge_alerts('{"alertname": "cpu high"}', $1 + interval '40 minutes', 'a while', at => $1)$$),
	(12, $$SELECT monitoring.unacknowledge_alert(a.alert_id, at => $1) FROM (SELECT alert_id FROM monitoring.alerts WHERE state = 'firing' ORDER BY rule, labels LIMIT 3) AS a$$),
	(10, $$SELECT monitoring.snooze_alerts('{"team": "web"}', '25 minutes', at => $1)$$),
	(6, $$SELECT monitoring.unsnooze_alert(a.alert_id, at => $1) FROM (SELECT alert_id FROM monitoring.alerts WHERE state = 'firing' ORDER BY rule, labels) AS a$$),
	(8, $$SELECT monitoring.dismiss_alerts('{"alertname": {"=~": "queue.*"}}', at => $1)$$),
	(6, $$SELECT monitoring.undismiss_alert(a.alert_id, at => $1) FROM (SELECT alert_id FROM monitoring.alerts WHERE state = 'firing' AND rule ~ 'queue' ORDER BY rule, labels) AS a$$),
	(8, $$SELECT monitoring.close_alerts('{"alertname": {"=~": "cpu.*|sessions"}}', 'enough', at => $1)$$),
	(8, $$SELECT monitoring.assign_alerts('{"severity": {"=~": "high|critical"}}', 'Ann', at => $1)$$),
	(6, $$SELECT monitoring.mark_false_positive(a.alert_id, comment => 'no', at => $1) FROM (SELECT alert_id FROM monitoring.alerts WHERE state = 'firing' ORDER BY rule, labels LIMIT 1) AS a$$),
	(6, $$SELECT monitoring.note_alert(a.alert_id, 'seen', at => $1) FROM (SELECT alert_id FROM monitoring.alerts ORDER BY rule, labels LIMIT 2) AS a$$),
	(8, $$SELECT monitoring.create_silence('{"host": "h1"}', '35 minutes', 'h1 now', at => $1)$$),
	(6, $$SELECT monitoring.create_silence('{"severity": {"!=": "critical"}, "team": "web"}', comment => 'later', starts_at => $1 + interval '20 minutes', ends_at => $1 + interval '50 minutes', at => $1)$$),
	(8, $$SELECT monitoring.expire_silence(s.id, at => $1) FROM (SELECT id FROM monitoring.silence_defs WHERE ends_at > $1 ORDER BY ends_at, id LIMIT 1) AS s$$),
	(4, $$SELECT monitoring.extend_silence(s.id, '15 minutes', at => $1) FROM (SELECT id FROM monitoring.silence_defs WHERE ends_at > $1 ORDER BY ends_at, id LIMIT 1) AS s$$),
	(4, $$SELECT monitoring.enable_inhibition_rule('melting', NOT enabled) FROM monitoring.inhibition_rules$$),
	(6, $$SELECT monitoring.update_route('web', jsonb_build_object('group_interval', CASE group_interval WHEN '10 minutes' THEN '7 minutes' ELSE '10 minutes' END)) FROM monitoring.route_tree WHERE name = 'web'$$),
	(4, $$SELECT monitoring.update_route('everything', jsonb_build_object('enabled', NOT enabled)) FROM monitoring.route_tree WHERE name = 'everything'$$),
	(4, $$SELECT monitoring.move_route('everything', place => 1 + (extract(minute FROM $1) / 20)::int)$$),
	(6, $$SELECT monitoring.enable_receiver('all', NOT enabled) FROM monitoring.receivers WHERE name = 'all'$$),
	(4, $$SELECT CASE WHEN EXISTS (SELECT FROM monitoring.receivers WHERE name = 'team-lead') THEN monitoring.drop_receiver('team-lead')::text ELSE monitoring.create_receiver('team-lead', 'webhook', 'https://lead.example.com/') END$$),
	(6, $$SELECT monitoring.update_alert_rule('cpu high', jsonb_build_object('pending_for', CASE pending_for WHEN '6 minutes' THEN '20 minutes' ELSE '6 minutes' END), $1) FROM monitoring.alert_rules WHERE name = 'cpu high'$$),
	(4, $$SELECT monitoring.update_alert_rule('latency', jsonb_build_object('threshold', 1.1 - threshold, 'resolve_threshold', null, 'severity', 'high'), $1) FROM monitoring.alert_rules WHERE name = 'latency'$$),
	(6, $$SELECT monitoring.enable_alert_rule('queue kept', NOT enabled, $1) FROM monitoring.alert_rules WHERE name = 'queue kept'$$),
	(4, $$SELECT monitoring.update_alert_rule('sessions', jsonb_build_object('receivers', CASE WHEN receivers IS NULL THEN '["ops", "firing"]'::jsonb END), $1) FROM monitoring.alert_rules WHERE name = 'sessions'$$),
	(4, $$SELECT CASE WHEN EXISTS (SELECT FROM monitoring.alert_rules WHERE name = 'extra') THEN monitoring.drop_alert_rule('extra', $1)::text
		ELSE monitoring.create_alert_rule('extra', 'cpu_ratio', 'avg', '8 minutes', '>', 0.55, severity => 'high', by => '{host}')::text IS NOT NULL || '' END$$),
	(6, $$SELECT monitoring.acknowledge_incident(i.id, 'mine', $1) FROM (SELECT id FROM monitoring.incidents WHERE status <> 'resolved' ORDER BY started_at, title LIMIT 1) AS i$$),
	(6, $$SELECT monitoring.update_incident(i.id, 'monitoring', 'better', severity => 'high', at => $1) FROM (SELECT id FROM monitoring.incidents WHERE status <> 'resolved' ORDER BY started_at, title LIMIT 1) AS i$$),
	(4, $$SELECT monitoring.resolve_incident(i.id, 'done', $1) FROM (SELECT id FROM monitoring.incidents WHERE status <> 'resolved' ORDER BY started_at, title LIMIT 1) AS i$$),
	(4, $$SELECT monitoring.set_incident_role(i.id, 'commander', 'Bob', $1), monitoring.note_incident(i.id, 'a note', $1) FROM (SELECT id FROM monitoring.incidents ORDER BY started_at DESC, title LIMIT 1) AS i$$),
	(4, $$SELECT monitoring.open_incident('by hand', 'high', labels => '{"service": "shop"}', at => $1)$$),
	(4, $$SELECT monitoring.set_component_status('shop', CASE WHEN extract(minute FROM $1) < 30 THEN 'degraded_performance' ELSE 'operational' END, 'x', $1)$$);

-- Each step's time in minutes since the day began; those of the same time in this order: recording, people, evaluation, a look.
CREATE TABLE public.steps (step int PRIMARY KEY, minute int NOT NULL, kind text NOT NULL, what text NOT NULL);
INSERT INTO public.steps
SELECT row_number() OVER (ORDER BY s.minute, s.rank, s.what), s.minute, s.kind, s.what
FROM (
	SELECT m AS minute, 1 AS rank, 'record' AS kind, 'SELECT public.observe($1)' AS what FROM generate_series(:every, 1440, :every) AS m
	UNION ALL
	SELECT (random() * (1436 / :every) + 0 * a.id)::int * :every + :every, 2, 'act', a.what FROM public.acts AS a CROSS JOIN generate_series(1, a.often)
	UNION ALL
	SELECT m, 3, 'evaluate', 'SELECT monitoring.evaluate_alerts($1)' FROM generate_series(:every, 1440, :every) AS m
	UNION ALL
	SELECT m, 4, 'look', 'SELECT public.look($1)' FROM generate_series(120, 1440, 120) AS m
) AS s;
-- The last step that has been taken: part of its transaction, so that one which was interrupted is taken again.
CREATE TABLE public.progress (step int NOT NULL, until int NOT NULL);
INSERT INTO public.progress VALUES (0, 0);

CREATE FUNCTION public.take_step() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	next_step public.steps;
BEGIN
	SELECT s.* INTO next_step FROM public.progress AS p JOIN public.steps AS s ON s.step = p.step + 1 AND s.step <= p.until FOR UPDATE OF p;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	EXECUTE next_step.what USING (SELECT d.start FROM public.day AS d) + next_step.minute * interval '1 minute';
	UPDATE public.progress AS p SET step = next_step.step;
	RETURN true;
END $$;
-- by a client, and by the worker
CREATE PROCEDURE public.take_steps() LANGUAGE plpgsql AS $$
BEGIN
	WHILE public.take_step() LOOP
		COMMIT;
	END LOOP;
END $$;
CREATE FUNCTION public.step_job(at timestamptz) RETURNS void LANGUAGE sql AS 'SELECT public.take_step()';
INSERT INTO monitoring.jobs (name, function, every, enabled) VALUES ('steps', 'public.step_job', '1 ms', false);

-- An evaluation that has been made, made again at the same time, as by somebody who does not know: nothing comes of it.
CREATE FUNCTION public.evaluate_again() RETURNS int LANGUAGE sql AS $$
	SELECT monitoring.evaluate_alerts(d.start + s.minute * interval '1 minute')
	FROM public.day AS d, public.progress AS p JOIN public.steps AS s ON s.step = p.step AND s.kind = 'evaluate'
$$;

----------------------------------------------------------------------------------------------------------------------
-- What has become of it: numbers from sequences, which have gaps after a crash, by what they stand for; no real clock
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE public.episode (alert_id bigint PRIMARY KEY, name text);
CREATE FUNCTION public.named(ids bigint[]) RETURNS jsonb LANGUAGE sql AS $$
	SELECT coalesce(jsonb_agg(coalesce(e.name, 'alert that never was') ORDER BY i.n), '[]') FROM unnest(ids) WITH ORDINALITY AS i (id, n) LEFT JOIN public.episode AS e ON e.alert_id = i.id
$$;
CREATE FUNCTION public.plain(doc jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE jsonb_typeof(doc)
		WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(e.key, CASE e.key
				WHEN 'alert_id' THEN public.named(ARRAY[e.value::bigint])
				WHEN 'alert_ids' THEN public.named(ARRAY(SELECT jsonb_array_elements_text(e.value)::bigint))
				ELSE public.plain(e.value) END), '{}')
			FROM jsonb_each(doc) AS e WHERE e.key <> ALL ('{group,notification,enqueued_at,silence,incident_id}'::text[]))
		WHEN 'array' THEN (SELECT coalesce(jsonb_agg(public.plain(a.value) ORDER BY a.n), '[]') FROM jsonb_array_elements(doc) WITH ORDINALITY AS a (value, n))
		ELSE doc END;
END $$;

CREATE FUNCTION public.name_episodes() RETURNS void LANGUAGE sql AS $$
	DELETE FROM public.episode;
	INSERT INTO public.episode
	SELECT h.alert_id, format('%s %s #%s', min(h.rule_name), min(h.series_labels::text), row_number() OVER (PARTITION BY h.fingerprint ORDER BY min(h.at), min(h.id)))
	FROM monitoring.alert_history AS h
	GROUP BY h.alert_id, h.fingerprint;
$$;
-- What comes and goes
CREATE FUNCTION public.standing() RETURNS TABLE (line text) LANGUAGE sql SET TimeZone = 'UTC' AS $$
	SELECT format('state %s', to_jsonb(s) - '{alert_id,rule_id}'::text[] || jsonb_build_object('alert', e.name))
	FROM monitoring.alert_states AS s JOIN public.episode AS e ON e.alert_id = s.alert_id
	UNION ALL
	SELECT format('escalation %s', to_jsonb(c) - 'alert_id' || jsonb_build_object('alert', e.name))
	FROM monitoring.escalations AS c LEFT JOIN public.episode AS e ON e.alert_id = c.alert_id
	UNION ALL
	SELECT format('group %s', to_jsonb(g) - '{id,key,route_id,rule_id}'::text[] || jsonb_build_object('route', r.name, 'rule', d.name,
		'members', (SELECT jsonb_agg(to_jsonb(m) - '{group_id,alert_id,rule_id,history_id,told_alert_id}'::text[]
				|| jsonb_build_object('alert', public.named(ARRAY[m.alert_id]), 'told', CASE WHEN m.told_alert_id IS NOT NULL THEN public.named(ARRAY[m.told_alert_id]) END) ORDER BY m.fingerprint)
			FROM monitoring.alert_group_members AS m WHERE m.group_id = g.id),
		'known', (SELECT jsonb_agg(to_jsonb(k) - '{group_id,firing,resolved}'::text[]
				|| jsonb_build_object('firing', ARRAY(SELECT unnest(k.firing) ORDER BY 1), 'resolved', ARRAY(SELECT unnest(k.resolved) ORDER BY 1)) ORDER BY k.receiver)
			FROM monitoring.alert_group_receivers AS k WHERE k.group_id = g.id)))
	FROM monitoring.alert_groups AS g
	LEFT JOIN monitoring.routes AS r ON r.id = g.route_id
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = g.rule_id
	UNION ALL
	SELECT format('asked %s %s', q.kind, d.name) FROM monitoring.routing_queue AS q LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = q.rule_id
$$;
-- is looked at every two hours, too.
CREATE TABLE public.looks (line text);
CREATE FUNCTION public.look(t timestamptz) RETURNS bigint LANGUAGE sql SET TimeZone = 'UTC' AS $$
	SELECT public.name_episodes();
	INSERT INTO public.looks SELECT format('at %s: %s', t, n.line) FROM public.standing() AS n;
	SELECT count(*) FROM public.looks
$$;

CREATE FUNCTION public.outcome() RETURNS TABLE (line text) LANGUAGE plpgsql SET TimeZone = 'UTC' AS $$
BEGIN
	PERFORM public.name_episodes();
	RETURN QUERY
	SELECT n.line FROM public.standing() AS n
	UNION ALL
	SELECT l.line FROM public.looks AS l
	UNION ALL
	SELECT format('history %s', to_jsonb(h) - '{id,alert_id,rule_id}'::text[] || jsonb_build_object('alert', e.name))
	FROM monitoring.alert_history AS h JOIN public.episode AS e ON e.alert_id = h.alert_id
	UNION ALL
	SELECT format('event %s %s %s', e.name, row_number() OVER (PARTITION BY v.alert_id ORDER BY v.id),
		public.plain(to_jsonb(v) - '{id,alert_id}'::text[]))
	FROM monitoring.alert_events AS v LEFT JOIN public.episode AS e ON e.alert_id = v.alert_id
	UNION ALL
	SELECT format('handling %s', to_jsonb(h) - 'alert_id' || jsonb_build_object('alert', e.name))
	FROM monitoring.alert_handling AS h LEFT JOIN public.episode AS e ON e.alert_id = h.alert_id
	UNION ALL
	SELECT format('evidence %s %s', v.at, public.named(v.alert_ids)) FROM monitoring.alert_evidence AS v
	UNION ALL
	SELECT format('incident %s', to_jsonb(i) - 'id' || jsonb_build_object(
		'alerts', (SELECT jsonb_agg(to_jsonb(a) - '{incident_id,alert_id}'::text[] || jsonb_build_object('alert', e.name) ORDER BY a.joined_at, e.name)
			FROM monitoring.incident_alerts AS a LEFT JOIN public.episode AS e ON e.alert_id = a.alert_id WHERE a.incident_id = i.id),
		'events', (SELECT jsonb_agg(public.plain(to_jsonb(v) - '{id,incident_id}'::text[]) ORDER BY v.id) FROM monitoring.incident_events AS v WHERE v.incident_id = i.id),
		'roles', (SELECT jsonb_object_agg(r.role, r.person) FROM monitoring.incident_roles AS r WHERE r.incident_id = i.id)))
	FROM monitoring.incident_defs AS i
	UNION ALL
	SELECT format('notification %s %s %s %s', o.receiver, o.group_key, row_number() OVER (PARTITION BY o.receiver, o.group_key ORDER BY o.id),
		public.plain(jsonb_build_object('at', o.at, 'alert', o.alert, 'status', o.status, 'state', o.state, 'attempts', o.attempts, 'alert_ids', o.alert_ids, 'payload', o.payload)))
	FROM monitoring.outbox AS o
	UNION ALL
	SELECT format('keys of notifications: %s of %s', count(DISTINCT o.idempotency_key), count(*)) FROM monitoring.outbox AS o
	UNION ALL
	SELECT format('rule %s', to_jsonb(d) - '{id,created_at,updated_at}'::text[]) FROM monitoring.alert_rule_defs AS d
	UNION ALL
	SELECT format('silence %s', to_jsonb(s) - 'id') FROM monitoring.silence_defs AS s
	UNION ALL
	SELECT format('status %s', to_jsonb(s)) FROM monitoring.component_statuses AS s
	UNION ALL
	SELECT format('route %s', to_jsonb(t) - '{id,parent_id}'::text[]) FROM monitoring.route_tree AS t
	UNION ALL
	SELECT format('evaluated %s', e.evaluated_at) FROM monitoring.evaluation_state AS e
	UNION ALL
	SELECT format('metric %s %s %s %s', s.metric, s.labels, monitoring.value(s.metric, 'count', '1 day', s.labels, d.start + interval '1 day'), monitoring.value(s.metric, 'sum', '1 day', s.labels, d.start + interval '1 day'))
	FROM public.series AS s, public.day AS d;
END $$;
