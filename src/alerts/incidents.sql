-- alerts, incidents: what belongs together of the alerts that fire, what people do about it, and what is learned from it.
--
-- A policy says of which alerts incidents are opened and which labels tell that two alerts have one cause. An alert that fires
-- joins the open incident with which it shares most of these labels, if that incident is recent; otherwise it opens one, with
-- those that fire together with it and share a label. An evaluation does that for all alerts at once. Evaluations do not run
-- beside each other, so no two open the same incident; people change an incident under its row's lock, for which no evaluation
-- waits: what concerns the incident is left to the next one, by way of routing_queue.

----------------------------------------------------------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.incident_policies (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	severities text[] NOT NULL,
	selector jsonb NOT NULL DEFAULT '{}',
	correlate_by text[] NOT NULL,
	within interval NOT NULL CHECK (within >= '0'),
	auto_resolve boolean NOT NULL DEFAULT true,
	place integer NOT NULL DEFAULT 0,
	enabled boolean NOT NULL DEFAULT true,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.incident_policies IS 'Of which alerts incidents are opened. The first policy that fits an alert takes it. Change them with set_incident_policy.';
COMMENT ON COLUMN monitoring.incident_policies.name IS 'Name of the policy.';
COMMENT ON COLUMN monitoring.incident_policies.severities IS 'Severities of the alerts.';
COMMENT ON COLUMN monitoring.incident_policies.selector IS 'Labels of the alerts (labels_match), alertname included.';
COMMENT ON COLUMN monitoring.incident_policies.correlate_by IS 'Labels that tell whether alerts belong together: they share one.';
COMMENT ON COLUMN monitoring.incident_policies.within IS 'How long after its latest alert an incident takes in further ones.';
COMMENT ON COLUMN monitoring.incident_policies.auto_resolve IS 'Whether an incident is resolved when all its alerts are.';
COMMENT ON COLUMN monitoring.incident_policies.place IS 'Order among the policies.';
COMMENT ON COLUMN monitoring.incident_policies.enabled IS 'False: opens nothing.';
COMMENT ON COLUMN monitoring.incident_policies.builtin IS 'True for the policy that CREATE EXTENSION made; a dump that is restored takes its place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_policies', '');

CREATE SEQUENCE monitoring.incident_id_seq;
COMMENT ON SEQUENCE monitoring.incident_id_seq IS 'Ids of incidents.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_id_seq', '');

CREATE TABLE monitoring.incident_defs (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.incident_id_seq'),
	title text NOT NULL,
	severity text NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low', 'info')),
	status text NOT NULL DEFAULT 'investigating' CHECK (status IN ('investigating', 'identified', 'monitoring', 'resolved')),
	source text NOT NULL CHECK (source IN ('alert', 'manual')),
	policy text,
	labels jsonb NOT NULL DEFAULT '{}',
	summary text NOT NULL DEFAULT '',
	started_at timestamptz NOT NULL,
	detected_at timestamptz NOT NULL,
	acknowledged_at timestamptz,
	mitigated_at timestamptz,
	resolved_at timestamptz,
	latest_alert_at timestamptz,
	post_mortem text,
	created_by text NOT NULL,
	forgotten_alerts bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
COMMENT ON TABLE monitoring.incident_defs IS 'Incidents; read the view incidents.';
COMMENT ON COLUMN monitoring.incident_defs.id IS 'Number of the incident.';
COMMENT ON COLUMN monitoring.incident_defs.title IS 'What it is about.';
COMMENT ON COLUMN monitoring.incident_defs.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.incident_defs.status IS 'investigating, identified, monitoring or resolved.';
COMMENT ON COLUMN monitoring.incident_defs.source IS 'alert or manual.';
COMMENT ON COLUMN monitoring.incident_defs.policy IS 'Policy that opened it; null for one that was opened by hand.';
COMMENT ON COLUMN monitoring.incident_defs.labels IS 'Labels by which alerts join it.';
COMMENT ON COLUMN monitoring.incident_defs.summary IS 'What is known, for readers.';
COMMENT ON COLUMN monitoring.incident_defs.started_at IS 'When the trouble began: when the first alert''s breach began.';
COMMENT ON COLUMN monitoring.incident_defs.detected_at IS 'When it was noticed: when the first alert fired.';
COMMENT ON COLUMN monitoring.incident_defs.acknowledged_at IS 'When somebody took it on; null: by acknowledging one of its alerts, or not yet.';
COMMENT ON COLUMN monitoring.incident_defs.mitigated_at IS 'When users no longer noticed it: when its status first became monitoring or resolved.';
COMMENT ON COLUMN monitoring.incident_defs.resolved_at IS 'When it was resolved.';
COMMENT ON COLUMN monitoring.incident_defs.latest_alert_at IS 'When an alert last joined it.';
COMMENT ON COLUMN monitoring.incident_defs.post_mortem IS 'What was learned.';
COMMENT ON COLUMN monitoring.incident_defs.created_by IS 'Role that opened it; monitoring for those opened by alerts.';
COMMENT ON COLUMN monitoring.incident_defs.forgotten_alerts IS 'How many of its alerts incident_alerts no longer has.';
CREATE INDEX incident_defs_open ON monitoring.incident_defs (id) WHERE resolved_at IS NULL;
CREATE INDEX incident_defs_detected_at ON monitoring.incident_defs (detected_at);
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_defs', '');

-- No foreign keys: pg_restore -j fills the tables of an extension in any order.
CREATE TABLE monitoring.incident_alerts (
	incident_id bigint NOT NULL,
	alert_id bigint PRIMARY KEY,
	joined_at timestamptz NOT NULL,
	ended_at timestamptz
) WITH (fillfactor = 50); -- room for the end of all alerts of a page, which then touches no index
CREATE INDEX incident_alerts_incident ON monitoring.incident_alerts (incident_id);
COMMENT ON TABLE monitoring.incident_alerts IS 'Alerts of incidents; of one that is resolved as long as alert_history keeps its rows.';
COMMENT ON COLUMN monitoring.incident_alerts.incident_id IS 'The incident.';
COMMENT ON COLUMN monitoring.incident_alerts.alert_id IS 'The alert (alerts.alert_id).';
COMMENT ON COLUMN monitoring.incident_alerts.joined_at IS 'When it joined.';
COMMENT ON COLUMN monitoring.incident_alerts.ended_at IS 'When the alert was resolved; null: it is firing.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_alerts', '');

CREATE SEQUENCE monitoring.incident_events_id_seq;
COMMENT ON SEQUENCE monitoring.incident_events_id_seq IS 'Ids of entries in the timelines of incidents.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_events_id_seq', '');

CREATE TABLE monitoring.incident_events (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.incident_events_id_seq'),
	incident_id bigint NOT NULL,
	at timestamptz NOT NULL,
	kind text NOT NULL CHECK (kind IN ('opened', 'alerts', 'status', 'severity', 'acknowledged', 'role', 'note', 'link', 'resolved', 'post_mortem')),
	actor text,
	details jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE monitoring.incident_events IS 'Timelines of incidents: every act, of people and of the extension.';
COMMENT ON COLUMN monitoring.incident_events.id IS 'Number of the entry, in order.';
COMMENT ON COLUMN monitoring.incident_events.incident_id IS 'The incident.';
COMMENT ON COLUMN monitoring.incident_events.at IS 'When it happened.';
COMMENT ON COLUMN monitoring.incident_events.kind IS 'opened, alerts, status, severity, acknowledged, role, note, link, resolved or post_mortem.';
COMMENT ON COLUMN monitoring.incident_events.actor IS 'Role that did it; null: the extension.';
COMMENT ON COLUMN monitoring.incident_events.details IS 'What belongs to it, such as message, from and to.';
CREATE INDEX incident_events_incident_id ON monitoring.incident_events (incident_id);
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_events', '');

CREATE TABLE monitoring.incident_roles (
	incident_id bigint NOT NULL,
	role text NOT NULL CHECK (role ~ '^[^[:cntrl:]]{1,100}$'),
	person text NOT NULL CHECK (person ~ '^[^[:cntrl:]]{1,200}$'),
	PRIMARY KEY (incident_id, role)
);
COMMENT ON TABLE monitoring.incident_roles IS 'Who does what in an incident.';
COMMENT ON COLUMN monitoring.incident_roles.incident_id IS 'The incident.';
COMMENT ON COLUMN monitoring.incident_roles.role IS 'The role, such as commander, communications or scribe.';
COMMENT ON COLUMN monitoring.incident_roles.person IS 'Who has it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_roles', '');

INSERT INTO monitoring.incident_policies (name, severities, correlate_by, within, builtin)
VALUES ('critical', '{critical}', '{service,database,host,slo,tenant}', '30 minutes', true);

CREATE TRIGGER restore BEFORE INSERT ON monitoring.incident_policies
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.incident_policies IS 'When a dump is restored its policies replace those of the extension.';

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE VIEW monitoring.incidents AS
	SELECT i.id, i.title, i.severity, i.status, i.source, i.labels, i.summary, i.started_at, i.detected_at,
		LEAST(i.acknowledged_at, a.acknowledged_at) AS acknowledged_at, i.mitigated_at, i.resolved_at,
		COALESCE(a.firing, 0) AS firing, COALESCE(a.alerts, 0) OPERATOR(pg_catalog.+) i.forgotten_alerts AS alerts,
		(SELECT pg_catalog.jsonb_object_agg(r.role, r.person) FROM monitoring.incident_roles AS r
			WHERE r.incident_id OPERATOR(pg_catalog.=) i.id) AS roles,
		i.post_mortem IS NOT NULL AS reviewed, i.created_by
	FROM monitoring.incident_defs AS i
	LEFT JOIN (
		SELECT m.incident_id, pg_catalog.count(*) AS alerts, pg_catalog.count(*) FILTER (WHERE m.ended_at IS NULL) AS firing,
			pg_catalog.min(h.first_acknowledged_at) AS acknowledged_at
		FROM monitoring.incident_alerts AS m
		LEFT JOIN monitoring.alert_handling AS h ON h.alert_id OPERATOR(pg_catalog.=) m.alert_id
		GROUP BY m.incident_id
	) AS a ON a.incident_id OPERATOR(pg_catalog.=) i.id;
COMMENT ON VIEW monitoring.incidents IS 'Incidents, open and resolved.';
COMMENT ON COLUMN monitoring.incidents.id IS 'Number of the incident.';
COMMENT ON COLUMN monitoring.incidents.title IS 'What it is about.';
COMMENT ON COLUMN monitoring.incidents.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.incidents.status IS 'investigating, identified, monitoring or resolved.';
COMMENT ON COLUMN monitoring.incidents.source IS 'alert or manual.';
COMMENT ON COLUMN monitoring.incidents.labels IS 'Labels by which alerts join it.';
COMMENT ON COLUMN monitoring.incidents.summary IS 'What is known.';
COMMENT ON COLUMN monitoring.incidents.started_at IS 'When the trouble began.';
COMMENT ON COLUMN monitoring.incidents.detected_at IS 'When it was noticed.';
COMMENT ON COLUMN monitoring.incidents.acknowledged_at IS 'When somebody took it on, or acknowledged one of its alerts.';
COMMENT ON COLUMN monitoring.incidents.mitigated_at IS 'When users no longer noticed it.';
COMMENT ON COLUMN monitoring.incidents.resolved_at IS 'When it was resolved.';
COMMENT ON COLUMN monitoring.incidents.firing IS 'Number of its alerts that are firing.';
COMMENT ON COLUMN monitoring.incidents.alerts IS 'Number of its alerts.';
COMMENT ON COLUMN monitoring.incidents.roles IS 'Who does what.';
COMMENT ON COLUMN monitoring.incidents.reviewed IS 'Whether it has a post-mortem.';
COMMENT ON COLUMN monitoring.incidents.created_by IS 'Role that opened it.';

CREATE FUNCTION monitoring.incident_timeline(incident_id bigint)
RETURNS TABLE (at timestamptz, kind text, actor text, details jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT t.at, t.kind, t.actor, t.details
	FROM (
		SELECT e.at, e.kind, e.actor, e.details, 0 AS source, e.id
		FROM monitoring.incident_events AS e
		WHERE e.incident_id = incident_timeline.incident_id
		UNION ALL
		SELECT e.at, 'alert ' || e.kind, e.actor, e.details || jsonb_build_object('alert_id', e.alert_id), 1, e.id
		FROM monitoring.incident_alerts AS m
		JOIN monitoring.alert_events AS e ON e.alert_id = m.alert_id
		WHERE m.incident_id = incident_timeline.incident_id
	) AS t
	ORDER BY t.at, t.source, t.id
$$;
COMMENT ON FUNCTION monitoring.incident_timeline(bigint) IS 'Everything that happened in an incident and to its alerts, in order. actor is null for what the extension did.';

-- An evaluation leaves no event with each of thousands of alerts: that they are part of an incident says the same.
CREATE FUNCTION monitoring.incident_joined(alert_id bigint) RETURNS TABLE (at timestamptz, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT m.joined_at, jsonb_build_object('incident_id', m.incident_id)
	FROM monitoring.incident_alerts AS m
	WHERE m.alert_id = incident_joined.alert_id AND NOT EXISTS (
		SELECT FROM monitoring.alert_events AS e
		WHERE e.alert_id = m.alert_id AND e.kind = 'incident' AND e.details @> jsonb_build_object('incident_id', m.incident_id))
$$;
COMMENT ON FUNCTION monitoring.incident_joined(bigint) IS 'When the extension made an alert part of its incident; no row if a person did, which is an event.';

----------------------------------------------------------------------------------------------------------------------
-- What people do
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.set_incident_policy(name text, severities text[] DEFAULT '{critical}', selector jsonb DEFAULT '{}',
	correlate_by text[] DEFAULT '{service,database,host,slo,tenant}', within interval DEFAULT '30 minutes',
	auto_resolve boolean DEFAULT true, place integer DEFAULT 0, enabled boolean DEFAULT true)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'an incident policy''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF within IS NULL OR within < '0' OR within > '100 years' THEN
		RAISE EXCEPTION 'the time within which alerts join an incident must not be negative, nor longer than 100 years'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF correlate_by IS NULL OR array_position(correlate_by, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'the labels that alerts of an incident share must be a list of names' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_matchers(coalesce(selector, '{}'), 'an incident policy''s selector');
	INSERT INTO monitoring.incident_policies AS p
	VALUES (set_incident_policy.name, ARRAY(SELECT monitoring.canonical_severity(s) FROM unnest(severities) AS s),
		coalesce(set_incident_policy.selector, '{}'), set_incident_policy.correlate_by, set_incident_policy.within,
		coalesce(set_incident_policy.auto_resolve, true), coalesce(set_incident_policy.place, 0), coalesce(set_incident_policy.enabled, true))
	ON CONFLICT ON CONSTRAINT incident_policies_pkey
	DO UPDATE SET severities = excluded.severities, selector = excluded.selector, correlate_by = excluded.correlate_by,
		within = excluded.within, auto_resolve = excluded.auto_resolve, place = excluded.place, enabled = excluded.enabled;
END $$;
COMMENT ON FUNCTION monitoring.set_incident_policy(text, text[], jsonb, text[], interval, boolean, integer, boolean) IS 'Create a policy, or change the one of this name: alerts of these severities whose labels match the selector open incidents; those that share one of the labels correlate_by with an open incident join it, until `within` after its latest alert. Alerts with none of these labels join by time alone. auto_resolve: it is resolved with its last alert. The first policy by place takes an alert. Error 22023 for anything that is not valid.';

CREATE FUNCTION monitoring.drop_incident_policy(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.incident_policies AS p WHERE p.name = drop_incident_policy.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'incident policy "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the table monitoring.incident_policies.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_incident_policy(text) IS 'Drop a policy. Incidents that it opened stay; those that are open are resolved by hand from then on. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.add_incident_event(incident_id bigint, kind text, details jsonb, at timestamptz, actor text DEFAULT NULL)
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO monitoring.incident_events (incident_id, at, kind, actor, details)
	VALUES (incident_id, at, kind, actor, jsonb_strip_nulls(details))
$$;
COMMENT ON FUNCTION monitoring.add_incident_event(bigint, text, jsonb, timestamptz, text) IS 'Write an entry into the timeline of an incident. actor: role that did it; null for the extension.';

CREATE FUNCTION monitoring.lock_incident(id bigint) RETURNS monitoring.incident_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	incident monitoring.incident_defs;
BEGIN
	SELECT i.* INTO incident FROM monitoring.incident_defs AS i WHERE i.id = lock_incident.id FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'incident % does not exist', id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.incidents.';
	END IF;
	RETURN incident;
END $$;
COMMENT ON FUNCTION monitoring.lock_incident(bigint) IS 'The incident of this number, locked for a change. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.open_incident(title text, severity text DEFAULT 'high', summary text DEFAULT '',
	labels jsonb DEFAULT '{}', started_at timestamptz DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	new_id bigint;
	actor text := monitoring.calling_role();
BEGIN
	IF coalesce(title, '') = '' OR length(title) > 500 OR title ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'an incident''s title has 1 to 500 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF at IS NULL OR NOT isfinite(at) OR NOT isfinite(started_at) THEN
		RAISE EXCEPTION 'an incident starts and is noticed at finite times' USING ERRCODE = 'invalid_parameter_value';
	ELSIF started_at > at THEN
		RAISE EXCEPTION 'an incident cannot start after it is noticed' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	summary := monitoring.check_comment(summary);
	INSERT INTO monitoring.incident_defs (title, severity, source, labels, summary, started_at, detected_at, acknowledged_at, created_by)
	VALUES (open_incident.title, monitoring.canonical_severity(open_incident.severity), 'manual',
		monitoring.check_text_map(open_incident.labels, 'labels', 4096), coalesce(open_incident.summary, ''),
		coalesce(open_incident.started_at, open_incident.at), open_incident.at, open_incident.at, actor)
	RETURNING id INTO new_id;
	PERFORM monitoring.add_incident_event(new_id, 'opened', jsonb_build_object('title', title), at, actor);
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.open_incident(text, text, text, jsonb, timestamptz, timestamptz) IS 'Open an incident by hand and return its number. Whoever opens it has taken it on. started_at: when the trouble began, if that was before. Errors: 22023 for anything that is not valid, 54000 for a summary of more than 10000 bytes.';

CREATE FUNCTION monitoring.update_incident(id bigint, status text DEFAULT NULL, message text DEFAULT NULL,
	severity text DEFAULT NULL, title text DEFAULT NULL, summary text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	old monitoring.incident_defs := monitoring.lock_incident(id);
	actor text := monitoring.calling_role();
	new_severity text := monitoring.canonical_severity(coalesce(severity, old.severity));
BEGIN
	IF status IS NOT NULL AND status NOT IN ('investigating', 'identified', 'monitoring', 'resolved') THEN
		RAISE EXCEPTION 'unknown status "%" of an incident', status
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Statuses are investigating, identified, monitoring and resolved.';
	ELSIF title = '' OR length(title) > 500 OR title ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'an incident''s title has 1 to 500 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	message := monitoring.check_comment(message);
	UPDATE monitoring.incident_defs AS i
	SET status = coalesce(update_incident.status, i.status), severity = new_severity,
		title = coalesce(update_incident.title, i.title), summary = coalesce(monitoring.check_comment(update_incident.summary), i.summary),
		mitigated_at = CASE WHEN update_incident.status IN ('monitoring', 'resolved') THEN coalesce(i.mitigated_at, update_incident.at)
			WHEN update_incident.status IS NULL THEN i.mitigated_at END,
		resolved_at = CASE WHEN update_incident.status = 'resolved' THEN coalesce(i.resolved_at, update_incident.at)
			WHEN update_incident.status IS NULL THEN i.resolved_at END
	WHERE i.id = old.id;
	IF new_severity <> old.severity THEN
		PERFORM monitoring.add_incident_event(id, 'severity', jsonb_build_object('from', old.severity, 'to', new_severity), at, actor);
	END IF;
	IF status = 'resolved' AND old.status <> 'resolved' THEN
		PERFORM monitoring.add_incident_event(id, 'resolved', jsonb_build_object('from', old.status, 'message', message), at, actor);
	ELSIF status <> old.status OR message IS NOT NULL THEN
		PERFORM monitoring.add_incident_event(id, 'status',
			jsonb_build_object('from', old.status, 'to', coalesce(status, old.status), 'message', message), at, actor);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.update_incident(bigint, text, text, text, text, text, timestamptz) IS 'Change an incident: its status (investigating, identified, monitoring, resolved), with a message for its readers, its severity, title or summary; what is null stays. A resolved incident that gets another status is open again. Errors: 42704 if it does not exist, 22023 for anything that is not valid, 54000 for texts of more than 10000 bytes.';

CREATE FUNCTION monitoring.resolve_incident(id bigint, message text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.update_incident(id, 'resolved', message, at => at)
$$;
COMMENT ON FUNCTION monitoring.resolve_incident(bigint, text, timestamptz) IS 'Resolve an incident; its alerts stay as they are. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.acknowledge_incident(id bigint, message text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	UPDATE monitoring.incident_defs AS i SET acknowledged_at = coalesce(i.acknowledged_at, acknowledge_incident.at)
	WHERE i.id = acknowledge_incident.id;
	PERFORM monitoring.add_incident_event(id, 'acknowledged', jsonb_build_object('message', monitoring.check_comment(message)), at, monitoring.calling_role());
	-- those that have ended meanwhile need nobody
	PERFORM monitoring.acknowledge(ARRAY(
			SELECT m.alert_id FROM monitoring.incident_alerts AS m
			JOIN monitoring.alert_states AS s ON s.alert_id = m.alert_id AND s.state <> 'resolved'
			WHERE m.incident_id = acknowledge_incident.id AND m.ended_at IS NULL),
		NULL, NULL, acknowledge_incident.at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.acknowledge_incident(bigint, text, timestamptz) IS 'Take an incident on: its firing alerts are acknowledged too. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.set_incident_role(id bigint, role text, person text, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	IF coalesce(role, '') !~ '^[^[:cntrl:]]{1,100}$' OR person !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'roles and persons of an incident are texts of at most 100 and 200 characters without control characters'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF person IS NULL THEN
		DELETE FROM monitoring.incident_roles AS r WHERE r.incident_id = set_incident_role.id AND r.role = set_incident_role.role;
	ELSE
		INSERT INTO monitoring.incident_roles AS r VALUES (set_incident_role.id, set_incident_role.role, set_incident_role.person)
		ON CONFLICT ON CONSTRAINT incident_roles_pkey DO UPDATE SET person = excluded.person;
	END IF;
	PERFORM monitoring.add_incident_event(id, 'role', jsonb_build_object('role', role, 'person', person), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.set_incident_role(bigint, text, text, timestamptz) IS 'Give somebody a role in an incident, such as commander; person null: nobody has it. Errors: 42704 if the incident does not exist, 22023 for control characters.';

CREATE FUNCTION monitoring.note_incident(id bigint, note text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	IF coalesce(note, '') = '' OR length(note) > 10000 THEN
		RAISE EXCEPTION 'a note has 1 to 10000 characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.add_incident_event(id, 'note', jsonb_build_object('note', note), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.note_incident(bigint, text, timestamptz) IS 'Write a note into the timeline of an incident. Errors: 42704 if it does not exist, 22023 for an empty or too long note.';

CREATE FUNCTION monitoring.link_incident(id bigint, url text, title text DEFAULT '', at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	IF coalesce(url, '') !~ '^https?://[!-~]+$' OR length(url) > 2000 OR title ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'a link is an http or https url without spaces' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.add_incident_event(id, 'link', jsonb_build_object('url', url, 'title', title), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.link_incident(bigint, text, text, timestamptz) IS 'Add a link to an incident, such as a chat room or a ticket. Errors: 42704 if it does not exist, 22023 for what is no http or https url.';

CREATE FUNCTION monitoring.attach_alert(id bigint, alert_id bigint, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	left_incident bigint := (SELECT m.incident_id FROM monitoring.incident_alerts AS m WHERE m.alert_id = attach_alert.alert_id);
	ended timestamptz;
BEGIN
	-- both, in the order of their numbers; evaluations write an incident's alerts only under its lock
	PERFORM monitoring.lock_incident(least(id, left_incident));
	PERFORM monitoring.lock_incident(greatest(id, left_incident));
	SELECT CASE WHEN h.to_state IN ('resolved', 'inactive') THEN h.at END INTO ended
	FROM monitoring.alert_history AS h WHERE h.alert_id = attach_alert.alert_id ORDER BY h.id DESC LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert % does not exist', alert_id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alerts.';
	END IF;
	INSERT INTO monitoring.incident_alerts AS m
	VALUES (attach_alert.id, attach_alert.alert_id, attach_alert.at, ended)
	ON CONFLICT ON CONSTRAINT incident_alerts_pkey
	DO UPDATE SET incident_id = excluded.incident_id, joined_at = excluded.joined_at, ended_at = excluded.ended_at;
	UPDATE monitoring.incident_defs AS i SET latest_alert_at = greatest(i.latest_alert_at, attach_alert.at) WHERE i.id = attach_alert.id;
	PERFORM monitoring.add_incident_event(id, 'alerts', jsonb_build_object('alert_ids', jsonb_build_array(alert_id), 'count', 1), at, monitoring.calling_role());
	PERFORM monitoring.add_alert_event(alert_id, 'incident',
		jsonb_strip_nulls(jsonb_build_object('incident_id', id, 'from', left_incident)), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.attach_alert(bigint, bigint, timestamptz) IS 'Make an alert part of an incident, taking it out of the one it may be part of. Error 42704 if either does not exist.';

CREATE FUNCTION monitoring.write_post_mortem(id bigint, markdown text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	UPDATE monitoring.incident_defs AS i SET post_mortem = markdown WHERE i.id = write_post_mortem.id;
	PERFORM monitoring.add_incident_event(id, 'post_mortem', '{}', at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.write_post_mortem(bigint, text, timestamptz) IS 'Keep what was learned from an incident, as Markdown; null removes it. Error 42704 if the incident does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- What the evaluation does
----------------------------------------------------------------------------------------------------------------------

-- Nobody can estimate how many alerts fire at once and have how much in common: everything is hashed, as in run_evaluation().

-- Alerts that fire in one evaluation, fall under one policy and have the same correlating labels.
CREATE TYPE monitoring.alike_alerts AS (
	policy text,
	within interval,
	labels jsonb,
	history_ids bigint[],
	alert_ids bigint[],
	started_at timestamptz,
	severity text,
	rule text,
	title text
);
COMMENT ON TYPE monitoring.alike_alerts IS 'Alerts that fired in one evaluation, fall under one incident policy and have the same correlating labels: their transitions and numbers, when the first breach began, and severity, rule and title of the gravest.';

-- Which policy takes an alert is found once for all that agree in what policies ask for.
CREATE FUNCTION monitoring.alike_alerts(transitions bigint[], at timestamptz, late boolean) RETURNS SETOF monitoring.alike_alerts
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
	WITH policies AS MATERIALIZED (
		SELECT p.*, row_number() OVER (ORDER BY p.place, p.name) AS turn FROM monitoring.incident_policies AS p WHERE p.enabled
	), asked AS MATERIALIZED (
		SELECT ARRAY(SELECT DISTINCT s FROM policies AS p CROSS JOIN LATERAL unnest(p.severities) AS s) AS severities,
			ARRAY(SELECT DISTINCT k FROM policies AS p CROSS JOIN LATERAL jsonb_object_keys(p.selector) AS k) AS names
	), fired AS MATERIALIZED (
		SELECT h.id, h.alert_id, h.active_at, h.severity, h.rule_name, h.labels, monitoring.pick_labels(h.labels, (SELECT a.names FROM asked AS a)) AS asked
		FROM unnest(transitions) AS t (id)
		JOIN monitoring.alert_history AS h ON h.id = t.id
		WHERE h.at = alike_alerts.at AND h.to_state = 'firing' AND h.severity = ANY ((SELECT a.severities FROM asked AS a)::text[])
			AND (NOT late OR EXISTS (SELECT FROM monitoring.alert_states AS s WHERE s.alert_id = h.alert_id AND s.state = 'firing'))
	), chosen AS MATERIALIZED (
		SELECT DISTINCT ON (f.severity, f.rule_name, f.asked) f.severity, f.rule_name, f.asked, p.name AS policy, p.within, p.correlate_by,
			array_position('{critical,high,medium,low,info}', f.severity)::bigint AS rank
		FROM (SELECT DISTINCT o.severity, o.rule_name, o.asked FROM fired AS o) AS f
		CROSS JOIN policies AS p
		WHERE f.severity = ANY (p.severities)
			AND (p.selector = '{}' OR monitoring.labels_match(f.asked || jsonb_build_object('alertname', f.rule_name), p.selector))
		ORDER BY f.severity, f.rule_name, f.asked, p.turn
	-- gravest: the rank of the severity above, the transition below
	), totals AS MATERIALIZED (
		SELECT s.policy, s.within, s.labels, array_agg(s.id) AS history_ids, array_agg(s.alert_id) AS alert_ids,
			min(s.active_at) AS started_at, min(s.id) AS first_id, min(s.rank << 56 | s.id) AS gravest
		FROM (SELECT f.id, f.alert_id, f.active_at, c.policy, c.within, c.rank, monitoring.pick_labels(f.labels, c.correlate_by) AS labels
			FROM fired AS f
			JOIN chosen AS c ON c.severity = f.severity AND c.rule_name = f.rule_name AND c.asked = f.asked) AS s
		GROUP BY s.policy, s.within, s.labels
	)
	-- those that know most come first, so that others can join them
	SELECT t.policy, t.within, (SELECT coalesce(jsonb_object_agg(l.key, l.value), '{}') FROM jsonb_each_text(t.labels) AS l),
		t.history_ids, t.alert_ids, t.started_at, f.severity, f.rule_name, left(coalesce(f.annotations ->> 'summary', f.rule_name), 500)
	FROM totals AS t
	CROSS JOIN LATERAL (SELECT * FROM monitoring.alert_history AS h WHERE h.at = alike_alerts.at AND h.id = t.gravest & (1::bigint << 56) - 1 LIMIT 1) AS f
	ORDER BY cardinality(ARRAY(SELECT jsonb_object_keys(t.labels))) DESC, t.first_id
$$;
COMMENT ON FUNCTION monitoring.alike_alerts(bigint[], timestamptz, boolean) IS 'The alerts that fired in these transitions (alert_history.id), all made at that time, and of which incidents are opened, taken together by their correlating labels. late: only those that still fire.';

CREATE FUNCTION monitoring.label_pairs(labels jsonb) RETURNS TABLE (key text, value text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 3 SET search_path = pg_catalog, pg_temp AS $$
	SELECT l.key, l.value FROM jsonb_each_text(labels) AS l UNION ALL SELECT '', '' WHERE labels = '{}'
$$;
COMMENT ON FUNCTION monitoring.label_pairs(jsonb) IS 'The pairs by which alerts and incidents are correlated: those of the labels, or a pair of empty texts for none.';

-- Alerts that share a label belong together, and so do those that share one with a third. In each round all take the lowest
-- number among those with which they share; chains that are longer than the rounds make incidents of their own.
CREATE FUNCTION monitoring.linked_alerts(alike monitoring.alike_alerts[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	leaders bigint[] := ARRAY(SELECT generate_series(1, cardinality(alike)));
	next_leaders bigint[];
	members bigint[];
	links bigint[];
BEGIN
	SELECT array_agg(p.n), array_agg(p.link) INTO members, links
	FROM (SELECT a.n, dense_rank() OVER (ORDER BY a.policy, l.key, l.value) AS link, count(*) OVER (PARTITION BY a.policy, l.key, l.value) AS sharing
		FROM unnest(alike) WITH ORDINALITY AS a (policy, within, labels, history_ids, alert_ids, started_at, severity, rule, title, n)
		CROSS JOIN LATERAL monitoring.label_pairs(a.labels) AS l) AS p
	WHERE p.sharing > 1;
	FOR round IN 1 .. 20 LOOP
		EXIT WHEN members IS NULL;
		next_leaders := ARRAY(
			SELECT least(a.leader, m.leader)
			FROM unnest(leaders) WITH ORDINALITY AS a (leader, n)
			LEFT JOIN (
				SELECT p.n, min(k.leader) AS leader
				FROM unnest(members, links) AS p (n, link)
				JOIN (SELECT q.link, min(leaders[q.n]) AS leader FROM unnest(members, links) AS q (n, link) GROUP BY q.link) AS k ON k.link = p.link
				GROUP BY p.n) AS m ON m.n = a.n
			ORDER BY a.n);
		EXIT WHEN next_leaders = leaders;
		leaders := next_leaders;
	END LOOP;
	RETURN leaders;
END $$;
COMMENT ON FUNCTION monitoring.linked_alerts(monitoring.alike_alerts[]) IS 'For each of these the place of the first with which it belongs together, as they share a label with each other or with others between them.';

CREATE FUNCTION monitoring.joined_incidents(alike monitoring.alike_alerts[], leaders bigint[], at timestamptz) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH pairs AS MATERIALIZED (
		SELECT a.n, a.policy, a.within, l.key, l.value
		FROM unnest(alike) WITH ORDINALITY AS a (policy, within, labels, history_ids, alert_ids, started_at, severity, rule, title, n)
		CROSS JOIN LATERAL monitoring.label_pairs(a.labels) AS l
	), known AS MATERIALIZED (
		SELECT i.id, i.policy, coalesce(i.latest_alert_at, i.detected_at) AS latest_at, l.key, l.value
		FROM monitoring.incident_defs AS i
		CROSS JOIN LATERAL monitoring.label_pairs(i.labels) AS l
		WHERE i.resolved_at IS NULL AND (i.policy IS NOT NULL OR i.labels <> '{}')
	), shared AS (
		SELECT p.n, k.id, count(*) AS number
		FROM pairs AS p
		JOIN known AS k ON k.key = p.key AND k.value = p.value AND coalesce(k.policy = p.policy, true) AND k.latest_at >= joined_incidents.at - p.within
		GROUP BY p.n, k.id
	), best AS (
		SELECT DISTINCT ON (s.n) s.n, s.id FROM shared AS s ORDER BY s.n, s.number DESC, s.id
	)
	SELECT array_agg(p.incident_id ORDER BY p.n)
	FROM (SELECT l.n, coalesce(b.id, min(b.id) OVER (PARTITION BY l.leader)) AS incident_id
		FROM unnest(leaders) WITH ORDINALITY AS l (leader, n)
		LEFT JOIN best AS b ON b.n = l.n) AS p
$$;
COMMENT ON FUNCTION monitoring.joined_incidents(monitoring.alike_alerts[], bigint[], timestamptz) IS 'For each of these the open incident, of its policy or opened by hand, with which it shares most labels, else the one that those join with which it belongs together; null: it needs a new one.';

-- An incident that somebody is changing takes in its alerts at the next evaluation.
CREATE FUNCTION monitoring.take_into_incidents(alike monitoring.alike_alerts[], leaders bigint[], joined bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	WITH entries AS MATERIALIZED (
		SELECT a.*, leaders[a.n] AS leader, joined[a.n] AS incident_id, array_position('{critical,high,medium,low,info}', a.severity) AS rank
		FROM unnest(alike) WITH ORDINALITY AS a (policy, within, labels, history_ids, alert_ids, started_at, severity, rule, title, n)
	), free AS MATERIALIZED (
		SELECT i.id, i.severity FROM monitoring.incident_defs AS i
		WHERE i.id = ANY (joined) AND i.resolved_at IS NULL
		FOR NO KEY UPDATE SKIP LOCKED
	), fresh AS MATERIALIZED (
		SELECT nextval('monitoring.incident_id_seq') AS id, e.leader
		FROM (SELECT DISTINCT n.leader FROM entries AS n WHERE n.incident_id IS NULL ORDER BY n.leader) AS e
	), placed AS MATERIALIZED (
		SELECT coalesce(f.id, w.id) AS id, w.id IS NOT NULL AS is_new, f.severity AS old_severity, e.*
		FROM entries AS e
		LEFT JOIN free AS f ON f.id = e.incident_id
		LEFT JOIN fresh AS w ON w.leader = e.leader AND e.incident_id IS NULL
	), members AS MATERIALIZED (
		SELECT p.id, m.alert_id FROM placed AS p CROSS JOIN LATERAL unnest(p.alert_ids) AS m (alert_id) WHERE p.id IS NOT NULL
	), taken AS MATERIALIZED (
		SELECT a.alert_id FROM monitoring.incident_alerts AS a WHERE a.alert_id = ANY (ARRAY(SELECT m.alert_id FROM members AS m))
	-- of each incident: the gravest that join it, of these the first; their labels; their alerts
	), leads AS (
		SELECT DISTINCT ON (p.id) p.id, p.is_new, p.old_severity, p.policy, p.severity, p.rank, p.rule, p.title, min(p.started_at) OVER (PARTITION BY p.id) AS started_at
		FROM placed AS p
		WHERE p.id IS NOT NULL
		ORDER BY p.id, p.rank, p.n
	), labels AS (
		SELECT p.id, jsonb_object_agg(l.key, l.value ORDER BY p.n DESC) AS labels FROM placed AS p CROSS JOIN LATERAL jsonb_each_text(p.labels) AS l GROUP BY p.id
	), alerts AS (
		SELECT m.id, array_agg(m.alert_id ORDER BY m.alert_id) AS ids FROM members AS m GROUP BY m.id
	), totals AS MATERIALIZED (
		SELECT l.*, coalesce(b.labels, '{}') AS labels, a.ids, l.rank < array_position('{critical,high,medium,low,info}', l.old_severity) AS graver
		FROM leads AS l
		JOIN alerts AS a ON a.id = l.id
		LEFT JOIN labels AS b ON b.id = l.id
	), opened AS (
		INSERT INTO monitoring.incident_defs (id, title, severity, source, policy, labels, started_at, detected_at, latest_alert_at, created_by)
		SELECT t.id, t.title, t.severity, 'alert', t.policy, t.labels, t.started_at, take_into_incidents.at, take_into_incidents.at, 'monitoring'
		FROM totals AS t
		WHERE t.is_new
	), grown AS (
		-- labels that it had not known tell more of its cause; an earlier breach tells when it began
		UPDATE monitoring.incident_defs AS i
		SET labels = t.labels || i.labels, latest_alert_at = greatest(i.latest_alert_at, take_into_incidents.at),
			started_at = least(i.started_at, t.started_at), severity = CASE WHEN t.graver THEN t.severity ELSE i.severity END
		FROM totals AS t
		WHERE i.id = t.id AND NOT t.is_new
	), joined_now AS (
		INSERT INTO monitoring.incident_alerts (incident_id, alert_id, joined_at)
		SELECT m.id, m.alert_id, take_into_incidents.at FROM members AS m
		WHERE NOT EXISTS (SELECT FROM taken AS t WHERE t.alert_id = m.alert_id)
	), postponed AS (
		INSERT INTO monitoring.routing_queue (kind, history_at, history_id)
		SELECT 'incident', take_into_incidents.at, h.id FROM placed AS p CROSS JOIN LATERAL unnest(p.history_ids) AS h (id) WHERE p.id IS NULL
	)
	INSERT INTO monitoring.incident_events (incident_id, at, kind, details)
	SELECT t.id, take_into_incidents.at, e.kind, e.details
	FROM totals AS t
	CROSS JOIN LATERAL (VALUES
		(1, 'opened', t.is_new, jsonb_build_object('policy', t.policy)),
		(2, 'severity', t.graver, jsonb_build_object('from', t.old_severity, 'to', t.severity)),
		(3, 'alerts', true, jsonb_build_object('alert_ids', to_jsonb(t.ids[:100]), 'count', cardinality(t.ids), 'alert', t.rule))
	) AS e (place, kind, holds, details)
	WHERE e.holds
	ORDER BY t.id, e.place;
END $$;
COMMENT ON FUNCTION monitoring.take_into_incidents(monitoring.alike_alerts[], bigint[], bigint[], timestamptz) IS 'Make alerts that fired at a time part of the incidents that they join, or of new ones, one for all that belong together.';

CREATE FUNCTION monitoring.end_incident_alerts(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH ended AS MATERIALIZED (
		SELECT h.id AS history_id, h.alert_id
		FROM unnest(transitions) AS t (id)
		JOIN monitoring.alert_history AS h ON h.id = t.id
		WHERE h.at = end_incident_alerts.at AND h.to_state IN ('resolved', 'inactive')
	), concerned AS MATERIALIZED (
		SELECT e.history_id, m.incident_id, m.ctid AS place
		FROM monitoring.incident_alerts AS m
		JOIN ended AS e ON e.alert_id = m.alert_id
		WHERE m.alert_id = ANY (ARRAY(SELECT o.alert_id FROM ended AS o)) AND m.ended_at IS NULL
	), free AS MATERIALIZED (
		SELECT i.id FROM monitoring.incident_defs AS i
		WHERE i.id = ANY (ARRAY(SELECT DISTINCT c.incident_id FROM concerned AS c))
		FOR NO KEY UPDATE SKIP LOCKED
	), sorted AS MATERIALIZED (
		SELECT c.*, f.id IS NULL AS busy FROM concerned AS c LEFT JOIN free AS f ON f.id = c.incident_id
	), postponed AS (
		INSERT INTO monitoring.routing_queue (kind, history_at, history_id)
		SELECT 'incident', end_incident_alerts.at, s.history_id FROM sorted AS s WHERE s.busy
	), closed AS (
		UPDATE monitoring.incident_alerts AS m SET ended_at = end_incident_alerts.at
		FROM sorted AS s
		WHERE m.ctid = ANY (ARRAY(SELECT o.place FROM sorted AS o WHERE NOT o.busy)) AND m.ctid = s.place
	), over AS (
		-- all that had not ended when this began do so now
		UPDATE monitoring.incident_defs AS i
		SET status = 'resolved', resolved_at = end_incident_alerts.at, mitigated_at = coalesce(i.mitigated_at, end_incident_alerts.at)
		FROM (SELECT s.incident_id, count(*) AS alerts FROM sorted AS s WHERE NOT s.busy GROUP BY s.incident_id) AS c
		CROSS JOIN LATERAL (SELECT count(*) AS alerts FROM monitoring.incident_alerts AS m WHERE m.incident_id = c.incident_id AND m.ended_at IS NULL) AS o
		WHERE i.id = c.incident_id AND o.alerts = c.alerts AND i.resolved_at IS NULL
			AND i.policy IN (SELECT p.name FROM monitoring.incident_policies AS p WHERE p.auto_resolve)
		RETURNING i.id
	)
	INSERT INTO monitoring.incident_events (incident_id, at, kind, details)
	SELECT o.id, end_incident_alerts.at, 'resolved', '{"message": "All its alerts are resolved."}' FROM over AS o ORDER BY o.id;
END $$;
COMMENT ON FUNCTION monitoring.end_incident_alerts(bigint[], timestamptz) IS 'Note that alerts of incidents ended in these transitions (alert_history.id), all made at that time, and resolve the incidents whose last ones they were, where their policy says so.';

CREATE FUNCTION monitoring.update_incidents(transitions bigint[], at timestamptz, late boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	alike monitoring.alike_alerts[];
	leaders bigint[];
BEGIN
	-- Incidents must not keep anybody from being told: what goes wrong with them is noted, and tried again.
	BEGIN
		PERFORM monitoring.end_incident_alerts(transitions, at);
		alike := ARRAY(SELECT a FROM monitoring.alike_alerts(transitions, at, late) AS a);
		IF alike <> '{}' THEN
			leaders := monitoring.linked_alerts(alike);
			PERFORM monitoring.take_into_incidents(alike, leaders, monitoring.joined_incidents(alike, leaders, at), at);
		END IF;
	EXCEPTION WHEN OTHERS THEN
		IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
			RAISE;
		END IF;
		RAISE WARNING 'could not keep incidents up to date: %', SQLERRM;
		INSERT INTO monitoring.routing_queue (kind, history_at, history_id) SELECT 'incident', at, t FROM unnest(transitions) AS t;
	END;
END $$;
COMMENT ON FUNCTION monitoring.update_incidents(bigint[], timestamptz, boolean) IS 'Open incidents for the alerts that fired in these transitions (alert_history.id), all made at that time, and resolve those whose alerts ended. What cannot be done now, as somebody is changing the incident or because of an error, which becomes a warning, is left to the next evaluation, then late.';

----------------------------------------------------------------------------------------------------------------------
-- What is learned
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.incident_report(id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	incident monitoring.incidents;
	report jsonb;
BEGIN
	SELECT i.* INTO incident FROM monitoring.incidents AS i WHERE i.id = incident_report.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'incident % does not exist', id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.incidents.';
	END IF;
	report := to_jsonb(incident) || jsonb_build_object(
		'seconds_to_detect', extract(epoch FROM incident.detected_at - incident.started_at),
		'seconds_to_acknowledge', extract(epoch FROM incident.acknowledged_at - incident.detected_at),
		'seconds_to_mitigate', extract(epoch FROM incident.mitigated_at - incident.started_at),
		'seconds_to_resolve', extract(epoch FROM incident.resolved_at - incident.started_at),
		'post_mortem', (SELECT d.post_mortem FROM monitoring.incident_defs AS d WHERE d.id = incident_report.id));
	RETURN report || jsonb_build_object(
		'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object('alert_id', a.alert_id, 'joined_at', a.joined_at, 'ended_at', a.ended_at,
				'rule', h.rule_name, 'severity', h.severity, 'labels', h.labels, 'value', h.value, 'op', h.op,
				'threshold', h.threshold, 'summary', h.annotations ->> 'summary', 'impact', h.details -> 'impact') ORDER BY a.joined_at, h.rule_name, h.labels::text, a.alert_id), '[]')
			FROM (SELECT m.* FROM monitoring.incident_alerts AS m WHERE m.incident_id = incident_report.id
				ORDER BY m.joined_at, m.alert_id LIMIT 200) AS a
			LEFT JOIN LATERAL (SELECT t.* FROM monitoring.alert_history AS t
				WHERE t.alert_id = a.alert_id AND t.to_state = 'firing' ORDER BY t.id LIMIT 1) AS h ON true),
		'timeline', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(t)) ORDER BY t.n), '[]')
			FROM (SELECT row_number() OVER () AS n, l.* FROM monitoring.incident_timeline(incident_report.id) AS l LIMIT 1000) AS t),
		'evidence', (SELECT monitoring.evidence_of(m.alert_id) FROM monitoring.incident_alerts AS m
			WHERE m.incident_id = incident_report.id ORDER BY m.joined_at, m.alert_id LIMIT 1),
		'deployments', (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.at), '[]') FROM monitoring.deployments AS d
			WHERE d.at > incident.started_at - interval '1 day' AND d.at <= coalesce(incident.resolved_at, 'infinity')),
		'setting_changes', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(c)) ORDER BY c.at, c.scope, c.name), '[]')
			FROM (SELECT h.* FROM monitoring.setting_changes AS h
				WHERE h.at > incident.started_at - interval '1 day' AND h.at <= coalesce(incident.resolved_at, 'infinity')
				ORDER BY h.at, h.scope, h.name LIMIT 100) AS c));
END $$;
COMMENT ON FUNCTION monitoring.incident_report(bigint) IS 'Everything about an incident as JSON: its fields, seconds to detect (from start), to acknowledge (from detection), to mitigate and to resolve (from start), its first 200 alerts, timeline, the evidence of its first alert, deployments and changes of settings (the first 100) from the day before, and post_mortem. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.markdown_text(t text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT regexp_replace(regexp_replace(t, '[[:cntrl:]]+', ' ', 'g'), '([\\`*_{}\[\]<>()#+!|~-])', '\\\1', 'g')
$$;
COMMENT ON FUNCTION monitoring.markdown_text(text) IS 'Text that stands for itself in Markdown, on one line.';

CREATE FUNCTION monitoring.incident_report_markdown(id bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
SET TimeZone = 'UTC' SET IntervalStyle = 'postgres' AS $$
	WITH report AS MATERIALIZED (
		SELECT monitoring.incident_report(incident_report_markdown.id) AS r
	)
	SELECT format(E'# Incident %s: %s\n\n', r ->> 'id', monitoring.markdown_text(r ->> 'title'))
		|| format(E'| | |\n|---|---|\n| Severity | %s |\n| Status | %s |\n', r ->> 'severity', r ->> 'status')
		|| (SELECT string_agg(format(E'| %s | %s |\n', f.name, coalesce(to_char((r ->> f.key)::timestamptz, 'YYYY-MM-DD HH24:MI:SS "UTC"'), '-')), '' ORDER BY f.n)
			FROM (VALUES (1, 'Started', 'started_at'), (2, 'Detected', 'detected_at'), (3, 'Acknowledged', 'acknowledged_at'),
				(4, 'Mitigated', 'mitigated_at'), (5, 'Resolved', 'resolved_at')) AS f (n, name, key))
		|| (SELECT string_agg(format(E'| %s | %s |\n', f.name, coalesce(make_interval(secs => round((r ->> f.key)::float8))::text, '-')), '' ORDER BY f.n)
			FROM (VALUES (1, 'Time to detect', 'seconds_to_detect'), (2, 'Time to acknowledge', 'seconds_to_acknowledge'),
				(3, 'Time to resolve', 'seconds_to_resolve')) AS f (n, name, key))
		|| coalesce((SELECT string_agg(format(E'| %s | %s |\n', monitoring.markdown_text(o.key), monitoring.markdown_text(o.value)), '' ORDER BY o.key)
			FROM jsonb_each_text(nullif(r -> 'roles', 'null')) AS o), '')
		|| CASE WHEN r ->> 'summary' <> '' THEN format(E'\n%s\n', monitoring.markdown_text(r ->> 'summary')) ELSE '' END
		|| E'\n## Alerts\n\n'
		|| coalesce((SELECT string_agg(format(E'- **%s** (%s) %s\n', monitoring.markdown_text(a ->> 'rule'), a ->> 'severity',
				coalesce(monitoring.markdown_text(a ->> 'summary'), '')), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'alerts') WITH ORDINALITY AS e (a, n)), E'None.\n')
		|| E'\n## Timeline\n\n'
		|| coalesce((SELECT string_agg(format(E'- %s %s%s%s\n', to_char((t ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'), t ->> 'kind',
				coalesce(' by ' || monitoring.markdown_text(t ->> 'actor'), ''),
				CASE WHEN nullif(t -> 'details', '{}') IS NOT NULL THEN ': ' || (SELECT string_agg(monitoring.markdown_text(d.key || ' ' || d.value), ', ' ORDER BY d.key)
					FROM jsonb_each_text(t -> 'details') AS d) ELSE '' END), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'timeline') WITH ORDINALITY AS e (t, n)), '')
		|| E'\n## Deployments of the day before\n\n'
		|| coalesce((SELECT string_agg(format(E'- %s %s %s (%s)\n', to_char((d ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'),
				monitoring.markdown_text(d ->> 'service'), monitoring.markdown_text(d ->> 'version'), d ->> 'outcome'), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'deployments') WITH ORDINALITY AS e (d, n)), E'None.\n')
		|| coalesce((SELECT E'\n## Settings changed since the day before\n\n' || string_agg(format(E'- %s %s %s: %s to %s\n',
				to_char((c ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'), monitoring.markdown_text(c ->> 'scope'), monitoring.markdown_text(c ->> 'name'),
				coalesce(monitoring.markdown_text(c ->> 'old_value'), 'not set'), coalesce(monitoring.markdown_text(c ->> 'new_value'), 'not set')), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'setting_changes') WITH ORDINALITY AS e (c, n)), '')
		|| E'\n## What we learned\n\n' || coalesce((r ->> 'post_mortem') || E'\n', E'Not written yet.\n')
	FROM report
$$;
COMMENT ON FUNCTION monitoring.incident_report_markdown(bigint) IS 'The report of an incident as Markdown, times in UTC, for a post-incident review. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.incident_metrics(since timestamptz, until timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (severity text, incidents bigint, resolved bigint, mttd interval, mttd_median interval, mttd_p90 interval,
	mtta interval, mtta_median interval, mtta_p90 interval, mttr interval, mttr_median interval, mttr_p90 interval,
	downtime interval, mtbf interval)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT monitoring.check_period(since, until);
	-- One that goes on from before is no failure of this time, but down it is.
	WITH incident AS MATERIALIZED (
		SELECT i.severity, i.resolved_at, i.detected_at >= incident_metrics.since AS within, i.detected_at - i.started_at AS to_detect,
			greatest(i.acknowledged_at - i.detected_at, '0') AS to_acknowledge, i.resolved_at - i.started_at AS to_resolve,
			tstzrange(greatest(i.started_at, incident_metrics.since),
				greatest(i.started_at, incident_metrics.since, least(i.resolved_at, incident_metrics.until))) AS period
		FROM monitoring.incidents AS i
		WHERE i.detected_at < incident_metrics.until
			AND (i.detected_at >= incident_metrics.since OR coalesce(i.resolved_at > incident_metrics.since, true))
	), counted AS (
		SELECT i.severity, count(*) FILTER (WHERE i.within) AS incidents, count(i.resolved_at) FILTER (WHERE i.within) AS resolved,
			avg(i.to_detect) FILTER (WHERE i.within) AS mttd,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_detect) FILTER (WHERE i.within) AS ttd,
			avg(i.to_acknowledge) FILTER (WHERE i.within) AS mtta,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_acknowledge) FILTER (WHERE i.within) AS tta,
			avg(i.to_resolve) FILTER (WHERE i.within) AS mttr,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_resolve) FILTER (WHERE i.within) AS ttr,
			range_agg(i.period) AS periods
		FROM incident AS i
		GROUP BY GROUPING SETS ((), (i.severity))
		HAVING count(*) > 0
	)
	SELECT c.severity, c.incidents, c.resolved, c.mttd, c.ttd[1], c.ttd[2], c.mtta, c.tta[1], c.tta[2], c.mttr, c.ttr[1], c.ttr[2],
		d.downtime, CASE WHEN c.incidents > 0 THEN (incident_metrics.until - incident_metrics.since - d.downtime) / c.incidents END
	FROM counted AS c
	CROSS JOIN LATERAL (SELECT coalesce(sum(upper(r) - lower(r)), '0') AS downtime FROM unnest(c.periods) AS r) AS d
	ORDER BY c.severity IS NOT NULL, array_position('{critical,high,medium,low,info}', c.severity)
$$;
COMMENT ON FUNCTION monitoring.incident_metrics(timestamptz, timestamptz) IS 'Figures about the incidents that were detected between two times, for all severities (null) and each: mean, median and 90th percentile of the times to detect (detected - started), to acknowledge (acknowledged - detected, of those that were) and to resolve (resolved - started, of those that are); downtime = the time in which one was going on, also one from before; mtbf = (time - downtime) / incidents, null without any. Error 22023 for times that are not finite or not in order.';

CREATE FUNCTION monitoring.deployment_metrics(since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	blamed_for interval DEFAULT '1 hour')
RETURNS TABLE (service text, deployments bigint, per_day float8, failures bigint, change_failure_rate float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT monitoring.check_period(since, until);
	SELECT d.service, count(*), count(*) / (extract(epoch FROM deployment_metrics.until - deployment_metrics.since)::float8 / 86400),
		count(*) FILTER (WHERE d.failed), count(*) FILTER (WHERE d.failed)::float8 / count(*)
	FROM (
		SELECT p.service, p.outcome <> 'ok' OR EXISTS (
				SELECT FROM monitoring.incident_defs AS i
				WHERE i.started_at >= p.at AND i.started_at < p.at + blamed_for
					AND coalesce(i.labels ->> 'service', p.service) = p.service) AS failed
		FROM monitoring.deployments AS p
		WHERE p.at >= deployment_metrics.since AND p.at < deployment_metrics.until
	) AS d
	GROUP BY GROUPING SETS ((), (d.service))
	HAVING count(*) > 0
	ORDER BY d.service NULLS FIRST
$$;
COMMENT ON FUNCTION monitoring.deployment_metrics(timestamptz, timestamptz, interval) IS 'Deployments between two times, of all services (null) and of each: how many, how many a day, and how many failed: those marked as failed or rolled back, and those within blamed_for of which an incident began that has the service''s label or none. Error 22023 for times that are not finite or not in order.';
