-- alerts, incidents: what belongs together of the alerts that fire, and what people do about it. Which alerts those are is
-- decided in incident_correlation.sql; what is learned from them is in incident_reports.sql.
--
-- People change an incident under its row's lock, for which no evaluation waits: what concerns the incident is left to the
-- next one, by way of routing_queue.

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
COMMENT ON COLUMN monitoring.incidents.acknowledged_at IS 'When somebody took it on, or acknowledged one of its alerts.';
COMMENT ON COLUMN monitoring.incidents.firing IS 'Number of its alerts that are firing.';
COMMENT ON COLUMN monitoring.incidents.alerts IS 'Number of its alerts.';
COMMENT ON COLUMN monitoring.incidents.roles IS 'Who does what.';
COMMENT ON COLUMN monitoring.incidents.reviewed IS 'Whether it has a post-mortem.';
SELECT monitoring.inherit_comments('monitoring.incidents', 'monitoring.incident_defs');

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
