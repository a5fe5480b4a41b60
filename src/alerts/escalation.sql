-- alerts, escalation: who is told next when nobody acts on an alert.
--
-- The escalation of an alert begins when somebody is first told of it through a route with a policy. Its state is a row that
-- says which step is due when; a step that is due tells its targets, unless somebody has acknowledged the alert or is not to
-- be told of it. Evaluations only write these rows.

CREATE TABLE monitoring.escalation_policies (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	repeats integer NOT NULL DEFAULT 0 CHECK (repeats BETWEEN 0 AND 100),
	description text NOT NULL DEFAULT '',
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.escalation_policies IS 'Escalation policies, which routes name. Use set_escalation_policy and drop_escalation_policy to change them.';
COMMENT ON COLUMN monitoring.escalation_policies.name IS 'Name of the policy.';
COMMENT ON COLUMN monitoring.escalation_policies.repeats IS 'How often all steps are gone through again.';
COMMENT ON COLUMN monitoring.escalation_policies.description IS 'What it is for.';
COMMENT ON COLUMN monitoring.escalation_policies.builtin IS 'True for the policy that CREATE EXTENSION made; a dump that is restored takes its place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.escalation_policies', '');

-- No foreign keys: pg_restore -j fills the tables of an extension in any order.
CREATE TABLE monitoring.escalation_steps (
	policy text NOT NULL,
	step integer NOT NULL CHECK (step > 0),
	delay interval NOT NULL CHECK (delay >= '0'),
	receivers text[] NOT NULL DEFAULT '{}',
	contacts text[] NOT NULL DEFAULT '{}',
	schedules text[] NOT NULL DEFAULT '{}',
	builtin boolean NOT NULL DEFAULT false,
	PRIMARY KEY (policy, step)
);
COMMENT ON TABLE monitoring.escalation_steps IS 'Steps of escalation policies.';
COMMENT ON COLUMN monitoring.escalation_steps.policy IS 'The policy.';
COMMENT ON COLUMN monitoring.escalation_steps.step IS 'Number of the step, from 1.';
COMMENT ON COLUMN monitoring.escalation_steps.delay IS 'How long after the step before, or after the alert was first told.';
COMMENT ON COLUMN monitoring.escalation_steps.receivers IS 'Receivers that are told; an asterisk stands for all. When none of those named exists, all are.';
COMMENT ON COLUMN monitoring.escalation_steps.contacts IS 'People that are told.';
COMMENT ON COLUMN monitoring.escalation_steps.schedules IS 'Schedules whose person on call is told.';
COMMENT ON COLUMN monitoring.escalation_steps.builtin IS 'True for the step that CREATE EXTENSION made; a dump that is restored takes its place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.escalation_steps', '');

CREATE TABLE monitoring.escalations (
	alert_id bigint PRIMARY KEY,
	policy text NOT NULL,
	step integer NOT NULL,
	round integer NOT NULL,
	due_at timestamptz NOT NULL,
	told text[] NOT NULL DEFAULT '{}',
	message_key text,
	group_labels jsonb
) WITH (fillfactor = 70);
COMMENT ON TABLE monitoring.escalations IS 'Firing alerts with an escalation policy, and which step comes next unless somebody acts.';
COMMENT ON COLUMN monitoring.escalations.alert_id IS 'The alert (alerts.alert_id).';
COMMENT ON COLUMN monitoring.escalations.policy IS 'The policy.';
COMMENT ON COLUMN monitoring.escalations.step IS 'The step that comes next.';
COMMENT ON COLUMN monitoring.escalations.round IS 'How often all steps have been gone through.';
COMMENT ON COLUMN monitoring.escalations.due_at IS 'When it comes; infinity: all steps have been taken.';
COMMENT ON COLUMN monitoring.escalations.told IS 'Receivers that steps have told, and that are told of the end.';
COMMENT ON COLUMN monitoring.escalations.message_key IS 'Group of the messages to them; null: none yet.';
COMMENT ON COLUMN monitoring.escalations.group_labels IS 'Labels of that group.';
CREATE INDEX escalations_due_at ON monitoring.escalations (due_at);
SELECT pg_catalog.pg_extension_config_dump('monitoring.escalations', '');

INSERT INTO monitoring.escalation_policies VALUES ('critical', 0, 'Critical alerts that nobody has acknowledged after 15 minutes.', true);
INSERT INTO monitoring.escalation_steps (policy, step, delay, receivers, builtin) VALUES ('critical', 1, '15 minutes', '{*}', true);

CREATE TRIGGER restore BEFORE INSERT ON monitoring.escalation_policies
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.escalation_policies IS 'When a dump is restored its policies replace those of the extension.';

CREATE TRIGGER restore BEFORE INSERT ON monitoring.escalation_steps
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.escalation_steps IS 'When a dump is restored its steps replace those of the extension.';

----------------------------------------------------------------------------------------------------------------------
-- Setting up
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.set_escalation_policy(name text, steps jsonb, repeats integer DEFAULT 0, description text DEFAULT '')
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'an escalation policy''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF steps IS NULL OR jsonb_typeof(steps) <> 'array' OR jsonb_array_length(steps) NOT BETWEEN 1 AND 50
		OR jsonb_path_exists(steps, '$[*] ? (@.type() != "object")') THEN
		RAISE EXCEPTION 'the steps of an escalation policy must be a list of 1 to 50 objects' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example: [{"delay": "15 minutes", "schedules": ["backend"]}, {"delay": "30 minutes", "receivers": ["management"]}].';
	ELSIF repeats IS NULL OR repeats NOT BETWEEN 0 AND 100 THEN
		RAISE EXCEPTION 'an escalation policy repeats its steps 0 to 100 times' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_array_elements(steps) AS s CROSS JOIN jsonb_object_keys(s) AS k
	WHERE k <> ALL ('{delay,receivers,contacts,schedules}'::text[]);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in a step of an escalation policy', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Keys are delay, receivers, contacts and schedules.';
	ELSIF EXISTS (SELECT FROM jsonb_array_elements(steps) AS s
		WHERE NOT EXISTS (SELECT FROM unnest('{receivers,contacts,schedules}'::text[]) AS k WHERE s -> k <> '[]' AND jsonb_typeof(s -> k) = 'array')) THEN
		RAISE EXCEPTION 'a step of an escalation policy must tell somebody' USING ERRCODE = 'invalid_parameter_value';
	ELSIF EXISTS (SELECT FROM jsonb_array_elements(steps) AS s WHERE (s ->> 'delay')::interval < '0' OR (s ->> 'delay')::interval > '400 days') THEN
		RAISE EXCEPTION 'the delay of a step is between zero and 400 days' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	INSERT INTO monitoring.escalation_policies AS p VALUES (set_escalation_policy.name, set_escalation_policy.repeats,
		coalesce(set_escalation_policy.description, ''))
	ON CONFLICT ON CONSTRAINT escalation_policies_pkey DO UPDATE SET repeats = excluded.repeats, description = excluded.description;
	DELETE FROM monitoring.escalation_steps AS s WHERE s.policy = set_escalation_policy.name;
	INSERT INTO monitoring.escalation_steps (policy, step, delay, receivers, contacts, schedules)
	SELECT set_escalation_policy.name, s.n, coalesce((s.step ->> 'delay')::interval, '0'),
		ARRAY(SELECT jsonb_array_elements_text(coalesce(s.step -> 'receivers', '[]'))),
		ARRAY(SELECT jsonb_array_elements_text(coalesce(s.step -> 'contacts', '[]'))),
		ARRAY(SELECT jsonb_array_elements_text(coalesce(s.step -> 'schedules', '[]')))
	FROM jsonb_array_elements(steps) WITH ORDINALITY AS s (step, n);
	IF repeats > 0 AND NOT EXISTS (SELECT FROM monitoring.escalation_steps AS s WHERE s.policy = set_escalation_policy.name AND s.delay > '0') THEN
		RAISE EXCEPTION 'steps that are repeated need a delay' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	PERFORM monitoring.check_contacts(s.contacts) FROM monitoring.escalation_steps AS s WHERE s.policy = set_escalation_policy.name;
	SELECT min(n) INTO bad FROM monitoring.escalation_steps AS s CROSS JOIN unnest(s.schedules) AS n
	WHERE s.policy = set_escalation_policy.name AND NOT EXISTS (SELECT FROM monitoring.schedules AS d WHERE d.name = n);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'schedule "%" does not exist', bad USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.set_escalation_policy(text, jsonb, integer, text) IS 'Create or change an escalation policy. steps is a list of objects with delay (after the step before, the first after the alert was first told) and whom to tell: receivers ("*" for all), contacts, schedules (whoever is on call then). repeats: how often all steps are gone through again. Alerts that are being escalated go on with the steps as they are now. Errors: 22023 for anything that is not valid, 42704 for an unknown contact or schedule.';

CREATE FUNCTION monitoring.drop_escalation_policy(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	used text;
BEGIN
	-- as who edits a route does: none comes that names it
	LOCK TABLE monitoring.routes IN SHARE ROW EXCLUSIVE MODE;
	SELECT min(r.name) INTO used FROM monitoring.routes AS r WHERE r.escalation_policy = drop_escalation_policy.name;
	IF used IS NOT NULL THEN
		RAISE EXCEPTION 'escalation policy "%" is still needed', name
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('Route "%s" names it.', used);
	END IF;
	DELETE FROM monitoring.escalation_steps AS s WHERE s.policy = drop_escalation_policy.name;
	DELETE FROM monitoring.escalation_policies AS p WHERE p.name = drop_escalation_policy.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'escalation policy "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_escalation_policy(text) IS 'Drop an escalation policy; what it was escalating is not escalated further. Errors: 42704 if there is none of this name, 2BP01 while a route names it.';

----------------------------------------------------------------------------------------------------------------------
-- What evaluations do
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.start_escalations(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	INSERT INTO monitoring.escalations (alert_id, policy, step, round, due_at)
	SELECT a.alert_id, a.policy, f.step, 0, start_escalations.at + f.delay
	FROM (
		SELECT m.alert_id, min(s.escalation_policy) AS policy
		FROM monitoring.group_settings(group_ids, start_escalations.at) AS s
		JOIN monitoring.alert_group_members AS m ON m.group_id = s.group_id AND m.group_id = ANY (group_ids)
		WHERE s.escalation_policy IS NOT NULL AND m.state = 'firing' AND m.told_alert_id = m.alert_id
			AND NOT EXISTS (SELECT FROM monitoring.escalations AS e WHERE e.alert_id = m.alert_id)
		GROUP BY m.alert_id) AS a
	JOIN (SELECT DISTINCT ON (o.policy) o.policy, o.step, o.delay FROM monitoring.escalation_steps AS o ORDER BY o.policy, o.step) AS f
		ON f.policy = a.policy
	ORDER BY a.alert_id;
END $$;
COMMENT ON FUNCTION monitoring.start_escalations(bigint[], timestamptz) IS 'Begin to escalate the alerts of groups that somebody has been told of, or that came back before anybody was told of their end, where the route has a policy; of several the first by name. One that is being escalated, or has been, stays as it is.';

CREATE FUNCTION monitoring.end_escalations(history_ids bigint[], history_ats timestamptz[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	times CONSTANT timestamptz[] := ARRAY(SELECT DISTINCT t FROM unnest(history_ats) AS t);
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.escalations) THEN
		RETURN;
	END IF;
	WITH over AS MATERIALIZED (
		SELECT h.alert_id, h.at, h.id
		FROM unnest(history_ids, history_ats) AS u (id, at)
		JOIN monitoring.alert_history AS h ON h.id = u.id AND h.at = u.at
		WHERE h.at = ANY (times) AND h.from_state = 'firing' AND h.to_state <> 'firing'
	), ended AS MATERIALIZED (
		DELETE FROM monitoring.escalations AS e
		USING over AS o
		WHERE e.alert_id = ANY (ARRAY(SELECT i.alert_id FROM over AS i)) AND e.alert_id = o.alert_id
		RETURNING e.alert_id, e.policy, e.told, e.message_key, e.group_labels, o.at, o.id
	), listed AS MATERIALIZED (
		SELECT e.*, t.receiver, row_number() OVER (PARTITION BY t.receiver, e.message_key ORDER BY e.alert_id) AS place
		FROM ended AS e
		CROSS JOIN LATERAL unnest(e.told) AS t (receiver)
	), messages AS (
		SELECT l.receiver, l.message_key, l.policy, l.group_labels, max(l.place) - count(*) FILTER (WHERE l.place <= 100) AS more,
			array_agg(l.alert_id ORDER BY l.place) FILTER (WHERE l.place <= 100) AS ids,
			CASE WHEN min(h.rule_name) = max(h.rule_name) THEN min(h.rule_name) ELSE l.policy END AS alert,
			jsonb_agg(monitoring.alert_document('resolved', h.rule_name, h.severity, h.labels, h.annotations, h.value, h.op, h.threshold,
				h.fired_at, h.at, h.fingerprint, h.alert_id, h.details) ORDER BY l.place) FILTER (WHERE l.place <= 100) AS alerts
		FROM listed AS l
		JOIN monitoring.alert_history AS h ON h.at = l.at AND h.id = l.id AND h.at = ANY (times)
		GROUP BY l.receiver, l.message_key, l.policy, l.group_labels
	), others AS (
		SELECT DISTINCT t.receiver, e.message_key
		FROM monitoring.escalations AS e
		CROSS JOIN LATERAL unnest(e.told) AS t (receiver)
		WHERE e.message_key IN (SELECT m.message_key FROM messages AS m) AND NOT EXISTS (SELECT FROM ended AS d WHERE d.alert_id = e.alert_id)
	)
	INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT n.now_at, end_escalations.at, m.receiver, m.message_key, m.alert, s.status, m.ids,
		monitoring.make_payload(m.receiver, m.message_key, s.status, m.group_labels, m.alerts, jsonb_build_object('truncatedAlerts', m.more,
			'reason', CASE s.status WHEN 'firing' THEN 'some alerts resolved' ELSE 'all alerts resolved' END,
			'escalation', jsonb_build_object('policy', m.policy))),
		n.now_at, n.now_at + monitoring.max_age(r.config)
	FROM messages AS m
	JOIN monitoring.receiver_defs AS r ON r.name = m.receiver AND r.enabled
	LEFT JOIN others AS o ON o.receiver = m.receiver AND o.message_key = m.message_key
	CROSS JOIN LATERAL (SELECT CASE WHEN o.receiver IS NULL THEN 'resolved' ELSE 'firing' END AS status) AS s
	CROSS JOIN (SELECT clock_timestamp() AS now_at) AS n
	WHERE coalesce((r.config ->> 'send_resolved')::boolean, true)
	ORDER BY m.ids[1], m.receiver;
END $$;
COMMENT ON FUNCTION monitoring.end_escalations(bigint[], timestamptz[], timestamptz) IS 'End the escalations of alerts that ended in these transitions (alert_history), and tell those receivers of it that steps had told, in one message for each group with at most 100 alerts.';

CREATE FUNCTION monitoring.escalation_receivers(step monitoring.escalation_steps, at timestamptz)
RETURNS TABLE (receiver text, via text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT ON (t.receiver) t.receiver, t.via
	FROM (
		SELECT r AS receiver, NULL AS via, 0 AS place FROM unnest(monitoring.receivers_told((step).receivers, false)) AS r
		UNION ALL
		SELECT r, p.person, 1
		FROM (SELECT unnest((step).contacts) AS person
			UNION SELECT monitoring.who_is_on_call(s.name, escalation_receivers.at) FROM monitoring.schedules AS s WHERE s.name = ANY ((step).schedules)) AS p
		JOIN monitoring.contacts AS c ON c.name = p.person
		CROSS JOIN LATERAL unnest(monitoring.receivers_told(c.receivers, true)) AS r
	) AS t
	ORDER BY t.receiver, t.place, t.via
$$;
COMMENT ON FUNCTION monitoring.escalation_receivers(monitoring.escalation_steps, timestamptz) IS 'The receivers that a step tells at a time, and through which person.';

-- One message per group of alerts and receiver, as when they were first told of: a storm must not become a storm of pages.
CREATE FUNCTION monitoring.tell_escalated(alert_ids bigint[], step monitoring.escalation_steps, at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	target record;
BEGIN
	FOR target IN SELECT * FROM monitoring.escalation_receivers(step, at) LOOP
		WITH escalated AS MATERIALIZED (
			SELECT DISTINCT ON (a.id) a.id, g.group_key, g.labels
			FROM unnest(alert_ids) AS a (id)
			LEFT JOIN monitoring.alert_group_members AS m ON m.alert_id = a.id AND m.state = 'firing'
			LEFT JOIN monitoring.alert_groups AS g ON g.id = m.group_id
			ORDER BY a.id, g.id
		), placed AS MATERIALIZED (
			SELECT e.id, e.group_key, e.labels, row_number() OVER (PARTITION BY e.group_key ORDER BY e.id) AS place,
				count(*) OVER (PARTITION BY e.group_key) AS number
			FROM escalated AS e
		), documents AS MATERIALIZED (
			SELECT p.group_key, p.labels, p.id, p.place, p.number, d.name, monitoring.alert_document('firing', d.name, d.severity,
				monitoring.alert_labels(d, s.series_labels), monitoring.fill_annotations(d, s), s.value, d.op, s.threshold, s.fired_at,
				tell_escalated.at, s.fingerprint, s.alert_id, s.details) AS document
			FROM placed AS p
			CROSS JOIN LATERAL (SELECT * FROM monitoring.alert_states AS o WHERE o.alert_id = p.id LIMIT 1) AS s
			JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
			WHERE p.place <= 100
		), bounded AS (
			SELECT d.*, sum(octet_length(d.document::text)) OVER (PARTITION BY d.group_key ORDER BY d.place) AS bytes FROM documents AS d
		), noted AS (
			UPDATE monitoring.escalations AS x
			SET told = CASE WHEN target.receiver = ANY (x.told) THEN x.told ELSE x.told || target.receiver END,
				message_key = coalesce(x.message_key, left(format('escalation/%s/%s', (tell_escalated.step).policy, e.group_key), 400)),
				group_labels = coalesce(x.group_labels, e.labels, '{}')
			FROM escalated AS e
			WHERE x.alert_id = e.id
		), messages AS (
			SELECT left(format('escalation/%s/%s', (step).policy, b.group_key), 400) AS key, coalesce(b.labels, '{}') AS labels, b.number - count(*) AS more,
				CASE WHEN min(b.name) = max(b.name) THEN min(b.name) ELSE (step).policy END AS alert,
				array_agg(b.id ORDER BY b.place) AS ids, jsonb_agg(b.document ORDER BY b.place) AS alerts
			FROM bounded AS b
			WHERE b.bytes <= 262144 OR b.place = 1
			GROUP BY b.group_key, b.labels, b.number
		)
		INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
		SELECT now_at, tell_escalated.at, target.receiver, m.key, m.alert, 'firing', m.ids,
			monitoring.make_payload(target.receiver, m.key, 'firing', m.labels, m.alerts,
				jsonb_strip_nulls(jsonb_build_object('truncatedAlerts', m.more, 'reason', 'escalation', 'escalation',
					jsonb_build_object('policy', (step).policy, 'step', (step).step, 'person', target.via)))),
			now_at, now_at + monitoring.max_age(r.config)
		FROM messages AS m
		JOIN monitoring.receiver_defs AS r ON r.name = target.receiver
		ORDER BY m.ids[1];
		PERFORM monitoring.add_alert_events(alert_ids, 'escalated', jsonb_strip_nulls(jsonb_build_object('policy', (step).policy,
			'step', (step).step, 'receiver', target.receiver, 'person', target.via)), at);
	END LOOP;
	IF NOT FOUND THEN
		PERFORM monitoring.add_alert_events(alert_ids, 'escalated', jsonb_build_object('policy', (step).policy, 'step', (step).step,
			'nobody', 'nobody is on call, or no receiver is enabled'), at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.tell_escalated(bigint[], monitoring.escalation_steps, timestamptz) IS 'Tell the targets of a step about alerts, in one message for each group with at most 100 of them and 256 kB, and note it with the alerts, also when there is nobody to tell.';

CREATE FUNCTION monitoring.escalate(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	due record;
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.escalations AS e WHERE e.due_at <= escalate.at) THEN
		RETURN;
	END IF;
	PERFORM monitoring.ensure_partition('outbox', clock_timestamp());
	-- Somebody works on it, or nobody is to be told: it is looked at again when that may have ended.
	UPDATE monitoring.escalations AS e
	SET due_at = escalate.at + interval '1 minute'
	FROM monitoring.alert_suppressions(ARRAY(SELECT d.alert_id FROM monitoring.escalations AS d WHERE d.due_at <= escalate.at), escalate.at) AS s
	WHERE e.alert_id = s.alert_id AND e.due_at <= escalate.at;

	FOR due IN
		SELECT s AS step, array_agg(e.alert_id ORDER BY e.alert_id) AS alert_ids
		FROM monitoring.escalations AS e
		JOIN monitoring.escalation_steps AS s ON s.policy = e.policy AND s.step = e.step
		WHERE e.due_at <= escalate.at
		GROUP BY s
	LOOP
		PERFORM monitoring.tell_escalated(due.alert_ids, due.step, at);
	END LOOP;

	-- the next step, or the first one of the next round, or the end
	UPDATE monitoring.escalations AS e
	SET step = coalesce(n.step, n.first, e.step), round = e.round + (n.step IS NULL)::integer,
		due_at = CASE WHEN n.step IS NOT NULL THEN escalate.at + n.delay
			WHEN e.round < n.repeats THEN escalate.at + n.first_delay ELSE 'infinity' END
	FROM (
		SELECT d.policy, d.step AS last, p.repeats, f.step AS first, f.delay AS first_delay, l.step, l.delay
		FROM (SELECT DISTINCT e.policy, e.step FROM monitoring.escalations AS e WHERE e.due_at <= escalate.at) AS d
		LEFT JOIN monitoring.escalation_policies AS p ON p.name = d.policy
		LEFT JOIN LATERAL (SELECT s.* FROM monitoring.escalation_steps AS s WHERE s.policy = d.policy ORDER BY s.step LIMIT 1) AS f ON true
		LEFT JOIN LATERAL (SELECT s.* FROM monitoring.escalation_steps AS s WHERE s.policy = d.policy AND s.step > d.step
			ORDER BY s.step LIMIT 1) AS l ON true
	) AS n
	WHERE e.policy = n.policy AND e.step = n.last AND e.due_at <= escalate.at;
END $$;
COMMENT ON FUNCTION monitoring.escalate(timestamptz) IS 'Take the steps of escalations that are due: of alerts that still fire, that nobody has acknowledged and that nothing suppresses. Alerts that are acknowledged or suppressed are looked at again every minute.';
