-- alerts, groups: which alerts are told of together, and how they come into groups and leave them. dispatch.sql, which
-- follows, decides when who is told of a group.
--
-- A firing alert becomes a member of one group for each route that it takes (or of its rule's own group, where the rule names
-- receivers). A group has a time at which it is due; only groups that are due are looked at, and a group in which nothing can
-- change by itself is due when it is to be repeated. What each receiver was last told of a group is kept beside it and
-- written in the transaction that writes the outbox: after a crash nothing is told twice and nothing is left out.
--
-- All tables here but routing_queue are written by evaluations only, which exclude each other. What a session changes (it
-- drops a rule, edits a route, adds a receiver) goes through routing_queue, so that its transaction can stay open without
-- holding up anybody's notifications.

----------------------------------------------------------------------------------------------------------------------
-- Groups
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.routing_queue_id_seq;
COMMENT ON SEQUENCE monitoring.routing_queue_id_seq IS 'Order of what sessions ask for.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routing_queue_id_seq', '');

CREATE TABLE monitoring.routing_queue (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.routing_queue_id_seq'),
	kind text NOT NULL CHECK (kind IN ('transition', 'incident', 'wake', 'reroute', 'acknowledged')),
	history_at timestamptz,
	history_id bigint,
	rule_id bigint,
	alert_id bigint,
	CHECK ((kind IN ('transition', 'incident')) = (history_at IS NOT NULL AND history_id IS NOT NULL))
);
COMMENT ON TABLE monitoring.routing_queue IS 'What the next evaluation has to do: tell of transitions that sessions made (transition), keep an incident up to date that could not be changed when an alert came or went (incident), look at groups (wake), route what is firing anew (reroute), tell who wants to know that alerts are acknowledged (acknowledged).';
COMMENT ON COLUMN monitoring.routing_queue.id IS 'Order.';
COMMENT ON COLUMN monitoring.routing_queue.kind IS 'transition, incident, wake, reroute or acknowledged.';
COMMENT ON COLUMN monitoring.routing_queue.history_at IS 'Of a transition or incident: alert_history.at.';
COMMENT ON COLUMN monitoring.routing_queue.history_id IS 'Of a transition or incident: alert_history.id.';
COMMENT ON COLUMN monitoring.routing_queue.alert_id IS 'Of acknowledged: the alert (alerts.alert_id).';
COMMENT ON COLUMN monitoring.routing_queue.rule_id IS 'The rule whose alerts are routed anew, or whose groups are looked at; null: all.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routing_queue', '');

CREATE SEQUENCE monitoring.alert_groups_id_seq;
COMMENT ON SEQUENCE monitoring.alert_groups_id_seq IS 'Ids of groups of alerts.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_groups_id_seq', '');

CREATE TABLE monitoring.alert_groups (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.alert_groups_id_seq'),
	-- a hash: labels can be longer than an index entry
	key text COLLATE "C" NOT NULL UNIQUE,
	route_id bigint,
	rule_id bigint,
	group_key text NOT NULL,
	labels jsonb NOT NULL,
	opened_at timestamptz,
	flushed_at timestamptz,
	due_at timestamptz,
	CHECK ((route_id IS NULL) <> (rule_id IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX alert_groups_due ON monitoring.alert_groups (due_at);
COMMENT ON TABLE monitoring.alert_groups IS 'Groups of alerts that are notified together. One whose alerts have all ended goes, unless somebody must not be told of one of them again before a while.';
COMMENT ON COLUMN monitoring.alert_groups.id IS 'Number of the group.';
COMMENT ON COLUMN monitoring.alert_groups.key IS 'Hash of the route or rule and the labels.';
COMMENT ON COLUMN monitoring.alert_groups.route_id IS 'The route (routes.id), which may have been dropped since; null for a rule''s own group.';
COMMENT ON COLUMN monitoring.alert_groups.rule_id IS 'The rule whose own group it is, as it names receivers; null for a route''s.';
COMMENT ON COLUMN monitoring.alert_groups.group_key IS 'What receivers get as the key of the group.';
COMMENT ON COLUMN monitoring.alert_groups.labels IS 'The labels by which its alerts are grouped.';
COMMENT ON COLUMN monitoring.alert_groups.opened_at IS 'When its first alert came; null: all have ended.';
COMMENT ON COLUMN monitoring.alert_groups.flushed_at IS 'When it was last due; null: it still waits for further alerts.';
COMMENT ON COLUMN monitoring.alert_groups.due_at IS 'When it is looked at next; null: when an alert comes or goes.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_groups', '');

CREATE TABLE monitoring.alert_group_members (
	group_id bigint NOT NULL,
	fingerprint text COLLATE "C" NOT NULL,
	alert_id bigint NOT NULL,
	rule_id bigint NOT NULL,
	state text NOT NULL CHECK (state IN ('firing', 'resolved', 'moved', 'cooling')),
	history_at timestamptz NOT NULL,
	history_id bigint NOT NULL,
	told_at timestamptz,
	told_alert_id bigint,
	suppressed_by text,
	acknowledged boolean NOT NULL DEFAULT false,
	PRIMARY KEY (group_id, fingerprint)
) WITH (fillfactor = 50); -- room for a change of all rows of a page, which then touches no index
CREATE INDEX alert_group_members_alert ON monitoring.alert_group_members (alert_id);
COMMENT ON TABLE monitoring.alert_group_members IS 'The alerts of every group.';
COMMENT ON COLUMN monitoring.alert_group_members.group_id IS 'The group (alert_groups.id).';
COMMENT ON COLUMN monitoring.alert_group_members.fingerprint IS 'The alert; the same in every episode.';
COMMENT ON COLUMN monitoring.alert_group_members.alert_id IS 'The episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_group_members.rule_id IS 'The rule (alert_rules.id).';
COMMENT ON COLUMN monitoring.alert_group_members.state IS 'firing; resolved: its end is still to be told; moved: it goes to another group now, here only its end is told; cooling: it has ended, and is not told of again before the rule''s repeat_every.';
COMMENT ON COLUMN monitoring.alert_group_members.history_at IS 'The transition that made the state: alert_history.at.';
COMMENT ON COLUMN monitoring.alert_group_members.history_id IS 'The transition that made the state: alert_history.id.';
COMMENT ON COLUMN monitoring.alert_group_members.told_at IS 'When somebody was last told that it fires; null: never.';
COMMENT ON COLUMN monitoring.alert_group_members.told_alert_id IS 'The episode that somebody was last told of; null: none, or its end was told too.';
COMMENT ON COLUMN monitoring.alert_group_members.suppressed_by IS 'Why nobody is told of it now: a reason of alert_suppressions, mute_time, active_time or cooldown.';
COMMENT ON COLUMN monitoring.alert_group_members.acknowledged IS 'Whether somebody works on it: it is not repeated.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_group_members', '');

CREATE TABLE monitoring.alert_group_receivers (
	group_id bigint NOT NULL,
	receiver text NOT NULL,
	reason text NOT NULL,
	notified_at timestamptz NOT NULL,
	firing text[] COLLATE "C" NOT NULL,
	resolved text[] COLLATE "C" NOT NULL,
	kept_at timestamptz,
	acknowledged boolean NOT NULL DEFAULT false,
	PRIMARY KEY (group_id, receiver)
);
COMMENT ON TABLE monitoring.alert_group_receivers IS 'What each receiver was last told of a group, as long as there is the group: the notification log.';
COMMENT ON COLUMN monitoring.alert_group_receivers.group_id IS 'The group (alert_groups.id).';
COMMENT ON COLUMN monitoring.alert_group_receivers.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.alert_group_receivers.reason IS 'Why it was told, as send_reason gives it, or digest.';
COMMENT ON COLUMN monitoring.alert_group_receivers.notified_at IS 'When the group was due.';
COMMENT ON COLUMN monitoring.alert_group_receivers.firing IS 'Fingerprints of the alerts that it was told are firing.';
COMMENT ON COLUMN monitoring.alert_group_receivers.kept_at IS 'When it was last told that they still are, if its kind wants that (receiver_kinds.keep_alive).';
COMMENT ON COLUMN monitoring.alert_group_receivers.acknowledged IS 'Whether it was told that all of them are acknowledged, if its kind wants that (receiver_kinds.tell_acknowledged).';
COMMENT ON COLUMN monitoring.alert_group_receivers.resolved IS 'Fingerprints of the alerts that it was told are resolved.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_group_receivers', '');

CREATE TYPE monitoring.group_decision AS (
	group_id bigint,
	receiver text,
	reason text,
	send_resolved boolean,
	sends boolean,
	notification_id bigint
);
COMMENT ON TYPE monitoring.group_decision IS 'That a receiver is to be told of a group: why, whether resolved alerts are told too, whether anything is sent, and the number of the notification.';

----------------------------------------------------------------------------------------------------------------------
-- What sessions ask for
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.request_routing(kind text, rule_id bigint DEFAULT NULL) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO monitoring.routing_queue (kind, rule_id) VALUES (request_routing.kind, request_routing.rule_id)
$$;
COMMENT ON FUNCTION monitoring.request_routing(text, bigint) IS 'Have the next evaluation look at the groups (wake) or route what is firing anew (reroute), of one rule or of all.';

CREATE FUNCTION monitoring.queue_transitions(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO monitoring.routing_queue (kind, history_at, history_id)
	SELECT 'transition', queue_transitions.at, t FROM unnest(transitions) AS t
$$;
COMMENT ON FUNCTION monitoring.queue_transitions(bigint[], timestamptz) IS 'Have the next evaluation tell of transitions (alert_history.id) that this session made at that time. For whoever changes alerts outside an evaluation: it waits for no evaluation, and none waits for it.';

----------------------------------------------------------------------------------------------------------------------
-- Alerts come and go
----------------------------------------------------------------------------------------------------------------------

-- Without SET, so that they are inlined: names are looked up when they are made.
CREATE FUNCTION monitoring.next_tick(flushed_at timestamptz, every interval, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN every > '0' THEN flushed_at + pg_catalog.make_interval(secs =>
	(pg_catalog.ceil(extract(epoch FROM at - flushed_at) / extract(epoch FROM every)) * extract(epoch FROM every))::float8) ELSE at END;
COMMENT ON FUNCTION monitoring.next_tick(timestamptz, interval, timestamptz) IS 'The first of the times flushed_at, flushed_at + every, flushed_at + 2 every, ... that is not before `at`.';

CREATE FUNCTION monitoring.next_digest(digest interval, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.date_bin(digest, at, '2000-01-03 00:00:00+00') + digest;
COMMENT ON FUNCTION monitoring.next_digest(interval, timestamptz) IS 'When the next digest is due: full hours, days from midnight, weeks from Monday, in UTC.';

CREATE FUNCTION monitoring.alert_places(rule_ids bigint[], label_sets jsonb[])
RETURNS TABLE (n bigint, route_id bigint, rule_id bigint, key text, group_key text, labels jsonb, group_wait interval, digest interval)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	RETURN QUERY
	WITH alerts AS MATERIALIZED (
		SELECT a.n, a.rule_id, a.labels, d.receivers
		FROM unnest(rule_ids, label_sets) WITH ORDINALITY AS a (rule_id, labels, n)
		LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = a.rule_id
	), places AS MATERIALIZED (
		SELECT a.n, s.id AS route_id, 0 AS rule_id, s.route_key, s.group_wait, s.digest, CASE
				WHEN s.digest IS NOT NULL THEN '{}'
				WHEN s.group_by = '{...}' THEN a.labels
				ELSE monitoring.pick_labels(a.labels, s.group_by)
			END AS labels
		FROM alerts AS a
		JOIN monitoring.match_routes((SELECT array_agg(CASE WHEN o.receivers IS NULL THEN o.labels END ORDER BY o.n) FROM alerts AS o)) AS m
			ON m.n = a.n
		JOIN monitoring.route_settings() AS s ON s.id = m.route_id
		WHERE a.receivers IS NULL
		UNION ALL
		SELECT a.n, 0, a.rule_id, '{}', '0', NULL, jsonb_build_object('alertname', a.labels -> 'alertname')
		FROM alerts AS a
		WHERE a.receivers <> '{}'
	), alike AS MATERIALIZED (
		SELECT p.route_id, p.rule_id, p.group_wait, p.digest, p.labels, array_agg(p.n) AS places,
			left(encode(sha256(monitoring.utf8_bytes(concat_ws(' ', p.route_id, p.rule_id, p.digest IS NULL, p.labels))), 'hex'), 32) AS key,
			p.route_key || ':' || monitoring.labels_text(p.labels) AS group_key
		FROM places AS p
		GROUP BY p.route_id, p.rule_id, p.route_key, p.group_wait, p.digest, p.labels
	)
	-- the key of the group is part of an index of the outbox, and what is too long for an index could not be told at all
	SELECT unnest(a.places), nullif(a.route_id, 0), nullif(a.rule_id, 0), a.key,
		CASE WHEN octet_length(a.group_key) <= 1200 THEN a.group_key ELSE left(a.group_key, 250) || '... ' || a.key END,
		a.labels, a.group_wait, a.digest
	FROM alike AS a;
END $$;
COMMENT ON FUNCTION monitoring.alert_places(bigint[], jsonb[]) IS 'The groups to which alerts of these rules with these labels belong: one row per alert n (its place in the arrays) and route that it takes, or one for the rule''s own group.';

CREATE FUNCTION monitoring.group_about(group_ids bigint[]) RETURNS TABLE (group_id bigint, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT g.id, jsonb_strip_nulls(jsonb_build_object('group', g.id, 'group_key', g.group_key, 'route', r.name))
	FROM monitoring.alert_groups AS g
	LEFT JOIN monitoring.routes AS r ON r.id = g.route_id
	WHERE g.id = ANY (group_ids)
$$;
COMMENT ON FUNCTION monitoring.group_about(bigint[]) IS 'What events of alerts say about the groups that hold them: group, group_key and route (none for a rule''s own group).';

-- An alert that enters a group leaves no event: it is a member, and what it is told by names the group. Only of one that leaves
-- without anybody having been told of it there is an event, routed.
CREATE FUNCTION monitoring.entered_groups(alert_ids bigint[], since timestamptz DEFAULT '-infinity')
RETURNS TABLE (alert_id bigint, at timestamptz, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH members AS MATERIALIZED (
		SELECT m.alert_id, m.history_at, m.group_id FROM monitoring.alert_group_members AS m WHERE m.alert_id = ANY (alert_ids)
	)
	SELECT DISTINCT ON (e.alert_id, e.details -> 'group') e.alert_id, e.at, e.details
	FROM (
		SELECT m.alert_id, m.history_at AS at, g.details
		FROM members AS m
		JOIN monitoring.group_about((SELECT array_agg(DISTINCT o.group_id) FROM members AS o)) AS g ON g.group_id = m.group_id
		UNION ALL
		SELECT v.alert_id, v.at, v.details - '{status,enqueued_at,receivers}'::text[]
		FROM monitoring.alert_events AS v
		WHERE v.alert_id = ANY (alert_ids) AND v.at >= entered_groups.since AND v.kind IN ('routed', 'notified', 'digest', 'known')
	) AS e
	WHERE e.at >= entered_groups.since
	ORDER BY e.alert_id, e.details -> 'group', e.at
$$;
COMMENT ON FUNCTION monitoring.entered_groups(bigint[], timestamptz) IS 'The groups that alerts have come to since a time, with group, group_key and route.';

-- Nobody can estimate how many alerts fire at once, and in how many groups: what is computed is hashed; rows of tables are
-- looked up one by one (LATERAL with LIMIT, or by their place). Alerts that agree in all that routes look at go the same way,
-- so that is worked out once for all of them.
--
-- A group that is new, or had no alerts left, waits for group_wait unless an alert has been firing for longer than that
-- already. One that was looked at before is due at its next interval, one that still waits when it was going to be.
CREATE FUNCTION monitoring.group_firing(history_ids bigint[], history_ats timestamptz[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	times CONSTANT timestamptz[] := ARRAY(SELECT DISTINCT t FROM unnest(history_ats) AS t);
	names CONSTANT text[] := monitoring.routing_labels();
BEGIN
	-- an evaluation lets an alert fire once; sessions may have done so too
	IF cardinality(times) > 1 THEN
		SELECT array_agg(f.id), array_agg(f.at) INTO history_ids, history_ats
		FROM (SELECT DISTINCT ON (h.fingerprint) h.id, h.at
			FROM unnest(history_ids, history_ats) AS t (id, at)
			JOIN monitoring.alert_history AS h ON h.id = t.id AND h.at = t.at
			WHERE h.at = ANY (times) AND h.to_state = 'firing'
			ORDER BY h.fingerprint, h.id DESC) AS f;
	END IF;
	WITH fired AS MATERIALIZED (
		SELECT h.id, h.at, h.alert_id, h.rule_id, h.rule_name, h.severity, h.fingerprint,
			coalesce(h.fired_at, h.at) AS fired_at, monitoring.pick_labels(h.labels, names) AS labels
		FROM unnest(history_ids, history_ats) AS t (id, at)
		JOIN monitoring.alert_history AS h ON h.id = t.id AND h.at = t.at
		WHERE h.at = ANY (times) AND h.to_state = 'firing'
	), alike AS MATERIALIZED (
		SELECT row_number() OVER () AS n, f.rule_id, f.rule_name, f.severity, f.labels
		FROM (SELECT DISTINCT o.rule_id, o.rule_name, o.severity, o.labels FROM fired AS o) AS f
	), placed AS MATERIALIZED (
		SELECT a.rule_id AS alert_rule_id, a.rule_name, a.severity, a.labels AS alert_labels, p.*, g.id AS group_id
		FROM monitoring.alert_places((SELECT array_agg(o.rule_id ORDER BY o.n) FROM alike AS o),
			(SELECT array_agg(o.labels || jsonb_build_object('alertname', o.rule_name, 'severity', o.severity) ORDER BY o.n) FROM alike AS o)) AS p
		JOIN alike AS a ON a.n = p.n
		LEFT JOIN LATERAL (SELECT o.id FROM monitoring.alert_groups AS o WHERE o.key = p.key LIMIT 1) AS g ON true
	), joined AS MATERIALIZED (
		-- that a route anew finds an alert where it was is no news
		SELECT f.id AS history_id, f.at AS history_at, f.alert_id, f.rule_id, f.fingerprint, f.fired_at, p.key, m.place
		FROM fired AS f
		JOIN placed AS p ON p.alert_rule_id = f.rule_id AND p.rule_name = f.rule_name AND p.severity = f.severity AND p.alert_labels = f.labels
		LEFT JOIN LATERAL (SELECT o.ctid AS place, o.alert_id, o.state FROM monitoring.alert_group_members AS o
			WHERE o.group_id = p.group_id AND o.fingerprint = f.fingerprint LIMIT 1) AS m ON p.group_id IS NOT NULL
		WHERE m.alert_id IS DISTINCT FROM f.alert_id OR m.state <> 'firing'
	), groups AS MATERIALIZED (
		SELECT coalesce(j.group_id, nextval('monitoring.alert_groups_id_seq')) AS id, j.group_id IS NULL AS is_new, j.key, j.route_id,
			j.rule_id, j.group_key, j.labels, j.digest,
			CASE WHEN j.digest IS NOT NULL THEN monitoring.next_digest(j.digest, group_firing.at)
				WHEN j.fired_at + j.group_wait < group_firing.at THEN group_firing.at
				ELSE group_firing.at + j.group_wait END AS first_due
		FROM (SELECT p.*, k.fired_at
			FROM (SELECT o.key, min(o.fired_at) AS fired_at, min(o.history_id) AS history_id FROM joined AS o GROUP BY o.key) AS k
			JOIN (SELECT DISTINCT ON (o.key) o.key, o.group_id, o.route_id, o.rule_id, o.group_key, o.labels, o.digest, o.group_wait
				FROM placed AS o ORDER BY o.key) AS p ON p.key = k.key
			ORDER BY k.history_id, p.route_id) AS j
	), opened AS (
		INSERT INTO monitoring.alert_groups (id, key, route_id, rule_id, group_key, labels, opened_at, due_at)
		SELECT g.id, g.key, g.route_id, g.rule_id, g.group_key, g.labels, group_firing.at, g.first_due FROM groups AS g WHERE g.is_new
	), touched AS (
		UPDATE monitoring.alert_groups AS g
		SET opened_at = coalesce(g.opened_at, group_firing.at), flushed_at = CASE WHEN g.opened_at IS NOT NULL THEN g.flushed_at END,
			due_at = CASE
				WHEN g.opened_at IS NULL THEN n.first_due
				WHEN g.flushed_at IS NULL OR n.digest IS NOT NULL THEN least(g.due_at, n.first_due)
				ELSE least(g.due_at, monitoring.next_tick(g.flushed_at, coalesce(s.group_interval, '0'), group_firing.at)) END,
			group_key = n.group_key
		FROM groups AS n
		LEFT JOIN monitoring.route_settings() AS s ON s.id = n.route_id
		WHERE g.id = n.id AND NOT n.is_new
	), returned AS (
		UPDATE monitoring.alert_group_members AS m
		SET alert_id = j.alert_id, rule_id = j.rule_id, state = 'firing', history_at = j.history_at, history_id = j.history_id,
			suppressed_by = NULL, acknowledged = false
		FROM joined AS j
		WHERE m.ctid = ANY (ARRAY(SELECT o.place FROM joined AS o WHERE o.place IS NOT NULL)) AND m.ctid = j.place
	)
	INSERT INTO monitoring.alert_group_members (group_id, fingerprint, alert_id, rule_id, state, history_at, history_id)
	SELECT g.id, j.fingerprint, j.alert_id, j.rule_id, 'firing', j.history_at, j.history_id
	FROM joined AS j
	JOIN groups AS g ON g.key = j.key
	WHERE j.place IS NULL;
END $$;
COMMENT ON FUNCTION monitoring.group_firing(bigint[], timestamptz[], timestamptz) IS 'Make alerts whose transitions (alert_history.id and at) went to firing members of their groups.';

CREATE FUNCTION monitoring.group_resolved(history_ids bigint[], history_ats timestamptz[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	times CONSTANT timestamptz[] := ARRAY(SELECT DISTINCT t FROM unnest(history_ats) AS t);
BEGIN
	WITH ended AS MATERIALIZED (
		SELECT h.id, h.at, h.alert_id
		FROM unnest(history_ids, history_ats) AS t (id, at)
		JOIN monitoring.alert_history AS h ON h.id = t.id AND h.at = t.at
		WHERE h.at = ANY (times) AND h.from_state = 'firing' AND h.to_state = 'resolved'
	), changed AS (
		UPDATE monitoring.alert_group_members AS m
		SET state = 'resolved', history_at = e.at, history_id = e.id
		FROM ended AS e
		WHERE m.alert_id = ANY (ARRAY(SELECT o.alert_id FROM ended AS o)) AND m.alert_id = e.alert_id AND m.state IN ('firing', 'moved')
		RETURNING m.group_id
	)
	UPDATE monitoring.alert_groups AS g
	SET due_at = CASE WHEN s.digest IS NOT NULL THEN least(g.due_at, monitoring.next_digest(s.digest, group_resolved.at))
		ELSE least(g.due_at, monitoring.next_tick(g.flushed_at, coalesce(s.group_interval, '0'), group_resolved.at)) END
	FROM (SELECT DISTINCT c.group_id FROM changed AS c) AS c, monitoring.alert_groups AS o
	LEFT JOIN monitoring.route_settings() AS s ON s.id = o.route_id
	WHERE g.id = c.group_id AND o.id = c.group_id AND (g.flushed_at IS NOT NULL OR s.digest IS NOT NULL);
END $$;
COMMENT ON FUNCTION monitoring.group_resolved(bigint[], timestamptz[], timestamptz) IS 'Mark alerts whose transitions (alert_history.id and at) ended them as resolved in the groups that hold them, whatever the routes say now.';

CREATE FUNCTION monitoring.wake_groups(rule_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.alert_groups AS g
	SET due_at = least(g.due_at, monitoring.next_tick(g.flushed_at, s.group_interval, wake_groups.at))
	FROM monitoring.group_settings(ARRAY(SELECT o.id FROM monitoring.alert_groups AS o
		WHERE rule_ids IS NULL OR o.id IN (SELECT m.group_id FROM monitoring.alert_group_members AS m WHERE m.rule_id = ANY (rule_ids))), at) AS s
	WHERE s.group_id = g.id AND g.opened_at IS NOT NULL AND g.flushed_at IS NOT NULL AND s.digest IS NULL;
END $$;
COMMENT ON FUNCTION monitoring.wake_groups(bigint[], timestamptz) IS 'Have all groups, or those with alerts of these rules, looked at when their next interval begins: who is to be told may have changed.';

CREATE FUNCTION monitoring.reroute_alerts(rule_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	history_ids bigint[];
	history_ats timestamptz[];
BEGIN
	SELECT array_agg(f.history_id ORDER BY f.history_id), array_agg(f.history_at ORDER BY f.history_id) INTO history_ids, history_ats
	FROM (
		SELECT DISTINCT ON (m.alert_id) m.history_id, m.history_at
		FROM monitoring.alert_group_members AS m
		WHERE m.state IN ('firing', 'moved') AND (rule_ids IS NULL OR m.rule_id = ANY (rule_ids))
		ORDER BY m.alert_id
	) AS f;
	-- those of rules that told nobody are in no group
	SELECT history_ids || array_agg(h.id), history_ats || array_agg(h.at) INTO history_ids, history_ats
	FROM monitoring.alert_states AS s
	CROSS JOIN LATERAL (
		SELECT x.id, x.at FROM monitoring.alert_history AS x
		WHERE x.at = s.fired_at AND x.alert_id = s.alert_id AND x.to_state = 'firing' LIMIT 1) AS h
	WHERE s.state = 'firing' AND (rule_ids IS NULL OR s.rule_id = ANY (rule_ids)) AND NOT EXISTS (
		SELECT FROM monitoring.alert_group_members AS m WHERE m.alert_id = s.alert_id);

	-- All leave their groups first; those that find themselves in the same group again have not left it.
	WITH fired AS MATERIALIZED (
		SELECT row_number() OVER () AS n, h.alert_id, h.rule_id,
			h.labels || jsonb_build_object('alertname', h.rule_name, 'severity', h.severity) AS labels
		FROM unnest(history_ids, history_ats) AS t (id, at)
		CROSS JOIN LATERAL (SELECT * FROM monitoring.alert_history AS x WHERE x.at = t.at AND x.id = t.id LIMIT 1) AS h
	), places AS MATERIALIZED (
		SELECT f.alert_id, p.key
		FROM monitoring.alert_places((SELECT array_agg(o.rule_id ORDER BY o.n) FROM fired AS o),
			(SELECT array_agg(o.labels ORDER BY o.n) FROM fired AS o)) AS p
		JOIN fired AS f ON f.n = p.n
	), left_behind AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.told_alert_id IS NOT NULL AS told
		FROM monitoring.alert_group_members AS m
		JOIN monitoring.alert_groups AS g ON g.id = m.group_id
		WHERE m.state = 'firing' AND (rule_ids IS NULL OR m.rule_id = ANY (rule_ids))
			AND NOT EXISTS (SELECT FROM places AS p WHERE p.alert_id = m.alert_id AND p.key = g.key)
	), moved AS (
		UPDATE monitoring.alert_group_members AS m SET state = 'moved', suppressed_by = NULL
		FROM left_behind AS l
		WHERE l.told AND m.group_id = l.group_id AND m.fingerprint = l.fingerprint
	), gone AS (
		DELETE FROM monitoring.alert_group_members AS m
		USING left_behind AS l
		WHERE NOT l.told AND m.group_id = l.group_id AND m.fingerprint = l.fingerprint
	), noted AS (
		INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
		SELECT reroute_alerts.at, l.alert_id, 'routed', a.details
		FROM left_behind AS l
		JOIN monitoring.group_about((SELECT array_agg(DISTINCT o.group_id) FROM left_behind AS o WHERE NOT o.told)) AS a ON a.group_id = l.group_id
		WHERE NOT l.told
	)
	UPDATE monitoring.alert_groups AS g SET due_at = least(g.due_at, reroute_alerts.at)
	WHERE g.id IN (SELECT l.group_id FROM left_behind AS l WHERE NOT l.told);
	PERFORM monitoring.group_firing(history_ids, history_ats, at);
	PERFORM monitoring.wake_groups(rule_ids, at);
END $$;
COMMENT ON FUNCTION monitoring.reroute_alerts(bigint[], timestamptz) IS 'Let everything that is firing, of these rules or of all (null), take the routes as they are now. Who was told of an alert through a route that it no longer takes is still told when it ends, and nothing else.';
