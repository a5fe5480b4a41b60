-- alerts, dispatch: when who is told of a group of alerts, decided as Alertmanager decides it.
--
-- A look at the groups that are due is a few statements over all of them: what is suppressed, who is to be told
-- (send_reason is the table of decisions), the outbox, what was told, what has ended, when next. Nobody can estimate how many
-- alerts there are in a group and how many of them a receiver knows: everything is hashed, with tables read by group_id.

----------------------------------------------------------------------------------------------------------------------
-- When to send
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.send_reason(told boolean, told_firing bigint, firing bigint, new_firing bigint, resolved bigint,
	new_resolved bigint, send_resolved boolean, repeat_due boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	-- nothing left once what is suppressed has been taken away
	WHEN firing + resolved = 0 THEN NULL
	WHEN NOT told THEN CASE WHEN firing > 0 THEN 'first notification' END
	WHEN new_firing > 0 THEN CASE WHEN told_firing = 0 THEN 'first notification' ELSE 'new alerts added' END
	-- whatever send_resolved says: what the receiver was told must be forgotten
	WHEN firing = 0 THEN CASE WHEN told_firing > 0 THEN 'all alerts resolved' END
	WHEN send_resolved AND new_resolved > 0 THEN 'some alerts resolved'
	WHEN repeat_due THEN 'repeat interval elapsed'
END;
COMMENT ON FUNCTION monitoring.send_reason(boolean, bigint, bigint, bigint, bigint, bigint, boolean, boolean) IS 'Alertmanager''s decision whether a receiver is told of a group: the reason, or null. told: whether it was told before, told_firing: of how many firing alerts; firing and resolved: the group''s alerts now, without suppressed ones; new_firing and new_resolved: those of them that it was not told of; send_resolved: whether it wants to know of resolved ones; repeat_due: whether the repeat interval has elapsed (and an alert is not acknowledged).';

CREATE FUNCTION monitoring.group_settings(group_ids bigint[], at timestamptz)
RETURNS TABLE (group_id bigint, tick timestamptz, told text[], group_interval interval, repeat_interval interval, digest interval,
	escalation_policy text, muted_by text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH groups AS MATERIALIZED (
		SELECT g.id, g.due_at, g.route_id, g.rule_id FROM monitoring.alert_groups AS g WHERE g.id = ANY (group_ids)
	), tree AS MATERIALIZED (
		SELECT * FROM monitoring.route_settings()
	), routes AS MATERIALIZED (
		SELECT t.*, monitoring.receivers_told(t.receivers, false) AS told, monitoring.muted_by(t.mute_times, t.active_times, group_settings.at) AS muted_by
		FROM tree AS t
		WHERE t.id IN (SELECT g.route_id FROM groups AS g)
	), rules AS MATERIALIZED (
		SELECT d.id, monitoring.receivers_told(d.receivers, true) AS told
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT g.rule_id FROM groups AS g) AND d.receivers IS NOT NULL
	)
	-- Of a route or rule that is gone the end of its alerts is still told. An evaluation comes a little late; intervals count
	-- from when the group was due, unless that is long ago.
	SELECT g.id, CASE WHEN group_settings.at - g.due_at < coalesce(r.digest, r.group_interval, '0') THEN least(g.due_at, group_settings.at)
			ELSE group_settings.at END,
		coalesce(r.told, d.told, '{}'), coalesce(r.group_interval, '0'), coalesce(r.repeat_interval, root.repeat_interval), r.digest,
		r.escalation_policy, r.muted_by
	FROM groups AS g
	LEFT JOIN routes AS r ON r.id = g.route_id
	LEFT JOIN rules AS d ON d.id = g.rule_id
	CROSS JOIN (SELECT t.repeat_interval FROM tree AS t WHERE t.parent_id IS NULL) AS root;
END $$;
COMMENT ON FUNCTION monitoring.group_settings(bigint[], timestamptz) IS 'What holds for groups at a time: when their intervals begin if they are looked at now (tick), the receivers to be told, the intervals, and why the route is quiet, if it is.';

CREATE FUNCTION monitoring.refresh_suppressions(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH members AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.state, m.suppressed_by, m.acknowledged, s.muted_by,
			m.state = 'firing' AND m.told_alert_id IS DISTINCT FROM m.alert_id
				AND m.told_at + r.repeat_every > s.tick AS cooling
		FROM monitoring.alert_group_members AS m
		JOIN monitoring.group_settings(group_ids, refresh_suppressions.at) AS s ON s.group_id = m.group_id
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = m.rule_id AND r.repeat_every IS NOT NULL
		WHERE m.group_id = ANY (group_ids) AND m.state IN ('firing', 'resolved')
	), reasons AS MATERIALIZED (
		SELECT s.alert_id, bool_or(s.reason = 'acknowledged') AS acknowledged,
			(array_agg(s.reason ORDER BY s.reason) FILTER (WHERE s.reason <> 'acknowledged'))[1] AS reason,
			(array_agg(s.details ORDER BY s.reason) FILTER (WHERE s.reason <> 'acknowledged'))[1] AS details
		FROM monitoring.alert_suppressions(ARRAY(SELECT DISTINCT m.alert_id FROM members AS m), refresh_suppressions.at) AS s
		GROUP BY s.alert_id
	), judged AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.suppressed_by AS old_reason, r.details,
			coalesce(m.muted_by, r.reason, CASE WHEN m.cooling THEN 'cooldown' END) AS reason,
			coalesce(r.acknowledged, false) AS acknowledged
		FROM members AS m
		LEFT JOIN reasons AS r ON r.alert_id = m.alert_id
		WHERE (m.suppressed_by, m.acknowledged)
			IS DISTINCT FROM (coalesce(m.muted_by, r.reason, CASE WHEN m.cooling THEN 'cooldown' END), coalesce(r.acknowledged, false))
	), changed AS (
		UPDATE monitoring.alert_group_members AS m
		SET suppressed_by = j.reason, acknowledged = j.acknowledged
		FROM judged AS j
		WHERE m.group_id = j.group_id AND m.fingerprint = j.fingerprint AND m.group_id = ANY (group_ids)
	)
	INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
	SELECT refresh_suppressions.at, j.alert_id, CASE WHEN j.reason IS NULL THEN 'unsuppressed' ELSE 'suppressed' END,
		jsonb_build_object('group', j.group_id, 'reason', coalesce(j.reason, j.old_reason)) || coalesce(j.details, '{}')
	FROM judged AS j
	WHERE j.reason IS DISTINCT FROM j.old_reason
	ORDER BY j.alert_id, j.group_id;
END $$;
COMMENT ON FUNCTION monitoring.refresh_suppressions(bigint[], timestamptz) IS 'Note which alerts of groups nobody is told of now and why, and which are acknowledged; changes become events of the alerts.';

-- What a notification of a group is about: members that are not suppressed; of a digest, what nobody has been told of. Without
-- SET, so that it is inlined. place is where the row lies.
CREATE FUNCTION monitoring.listed_members(group_ids bigint[], at timestamptz)
RETURNS TABLE (group_id bigint, fingerprint text, alert_id bigint, rule_id bigint, state text, news boolean, acknowledged boolean,
	history_at timestamptz, history_id bigint, tick timestamptz, place tid)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT m.group_id, m.fingerprint, m.alert_id, m.rule_id, m.state, m.state = 'resolved' OR m.told_alert_id IS DISTINCT FROM m.alert_id,
		m.acknowledged, m.history_at, m.history_id, s.tick, m.ctid
	FROM monitoring.alert_group_members AS m
	JOIN monitoring.group_settings(group_ids, listed_members.at) AS s ON s.group_id = m.group_id
	WHERE m.group_id = ANY (group_ids) AND m.suppressed_by IS NULL AND m.state IN ('firing', 'resolved')
		AND (s.digest IS NULL OR m.state = 'resolved' OR m.told_alert_id IS DISTINCT FROM m.alert_id);
END;
COMMENT ON FUNCTION monitoring.listed_members(bigint[], timestamptz) IS 'The alerts of groups that a notification would be about: those that are not suppressed; for a digest, those that are news.';

CREATE FUNCTION monitoring.group_decisions(group_ids bigint[], at timestamptz) RETURNS SETOF monitoring.group_decision
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	RETURN QUERY
	WITH settings AS MATERIALIZED (
		SELECT * FROM monitoring.group_settings(group_ids, group_decisions.at)
	), listed AS MATERIALIZED (
		SELECT l.group_id, l.fingerprint, l.state, CASE WHEN l.state = 'firing' AND NOT l.acknowledged
				THEN coalesce(r.repeat_every, s.repeat_interval) END AS repeat_every
		FROM monitoring.listed_members(group_ids, group_decisions.at) AS l
		JOIN settings AS s ON s.group_id = l.group_id
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = l.rule_id AND r.repeat_every IS NOT NULL
	), totals AS MATERIALIZED (
		SELECT l.group_id, count(*) FILTER (WHERE l.state = 'firing') AS firing, count(*) FILTER (WHERE l.state = 'resolved') AS resolved,
			min(l.repeat_every) AS repeat_every
		FROM listed AS l
		GROUP BY l.group_id
	), entries AS MATERIALIZED (
		SELECT e.* FROM monitoring.alert_group_receivers AS e WHERE e.group_id = ANY (group_ids)
	), heard AS MATERIALIZED (
		SELECT e.group_id, e.receiver, 'firing' AS state, unnest(e.firing) AS fingerprint FROM entries AS e
		UNION ALL
		SELECT e.group_id, e.receiver, 'resolved', unnest(e.resolved) FROM entries AS e
	), known AS MATERIALIZED (
		SELECT h.group_id, h.receiver, count(*) FILTER (WHERE l.state = 'firing') AS firing, count(*) FILTER (WHERE l.state = 'resolved') AS resolved
		FROM heard AS h
		JOIN listed AS l ON l.group_id = h.group_id AND l.fingerprint = h.fingerprint AND l.state = h.state
		GROUP BY h.group_id, h.receiver
	), targets AS MATERIALIZED (
		SELECT s.group_id, t.receiver, true AS current FROM settings AS s CROSS JOIN LATERAL unnest(s.told) AS t (receiver)
		UNION ALL
		-- who was told that alerts are firing, and would not be told now, is told when they have ended
		SELECT e.group_id, e.receiver, false
		FROM entries AS e
		JOIN settings AS s ON s.group_id = e.group_id
		WHERE e.firing <> '{}' AND e.receiver <> ALL (s.told)
	), reasons AS MATERIALIZED (
		SELECT t.group_id, t.receiver, o.firing, r.send_resolved,
			CASE WHEN s.digest IS NOT NULL THEN CASE WHEN t.current THEN 'digest' END
				ELSE monitoring.send_reason(e.group_id IS NOT NULL, coalesce(cardinality(e.firing), 0), o.firing, o.firing - coalesce(k.firing, 0),
					o.resolved, o.resolved - coalesce(k.resolved, 0), r.send_resolved, e.notified_at + o.repeat_every <= s.tick) END AS reason,
			t.current
		FROM targets AS t
		JOIN settings AS s ON s.group_id = t.group_id
		JOIN totals AS o ON o.group_id = t.group_id
		JOIN (SELECT d.name, coalesce((d.config ->> 'send_resolved')::boolean, true) AS send_resolved
			FROM monitoring.receiver_defs AS d WHERE d.enabled) AS r ON r.name = t.receiver
		LEFT JOIN entries AS e ON e.group_id = t.group_id AND e.receiver = t.receiver
		LEFT JOIN known AS k ON k.group_id = t.group_id AND k.receiver = t.receiver
	)
	SELECT d.group_id, d.receiver, d.reason, d.send_resolved, d.firing > 0 OR d.send_resolved,
		CASE WHEN d.firing > 0 OR d.send_resolved THEN nextval('monitoring.outbox_id_seq') END
	FROM (SELECT r.* FROM reasons AS r WHERE r.reason IS NOT NULL AND (r.current OR r.reason = 'all alerts resolved')
		ORDER BY r.group_id, r.receiver) AS d;
END $$;
COMMENT ON FUNCTION monitoring.group_decisions(bigint[], timestamptz) IS 'Which receivers are to be told of which of these groups at a time, and why. Those who are not to be told are left out.';

----------------------------------------------------------------------------------------------------------------------
-- Sending
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.cut_annotations(annotations jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_object_agg(a.key, left(a.value, 500))
	FROM (SELECT e.key, e.value FROM jsonb_each_text(annotations) AS e ORDER BY e.key = 'summary' DESC, e.key LIMIT 20) AS a
$$;
COMMENT ON FUNCTION monitoring.cut_annotations(jsonb) IS 'At most twenty annotations of at most 500 characters each, the summary among them.';

CREATE FUNCTION monitoring.alert_document(status text, rule_name text, severity text, labels jsonb, annotations jsonb, value float8,
	op text, threshold float8, fired_at timestamptz, at timestamptz, fingerprint text, alert_id bigint DEFAULT NULL, details jsonb DEFAULT NULL)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_build_object(
	'status', status,
	'labels', labels || pg_catalog.jsonb_build_object('alertname', rule_name, 'severity', severity),
	'annotations', CASE WHEN pg_catalog.jsonb_typeof(details -> 'reading') = 'string' THEN pg_catalog.jsonb_build_object('reading', details -> 'reading')
			WHEN value IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('value', value::text) END
		|| CASE WHEN pg_catalog.octet_length(annotations::text) <= 16384 THEN annotations ELSE monitoring.cut_annotations(annotations) END,
	'startsAt', pg_catalog.to_char(coalesce(fired_at, at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
	'endsAt', CASE WHEN status = 'firing' THEN '0001-01-01T00:00:00Z'
		ELSE pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END,
	'fingerprint', fingerprint)
	|| monitoring.alert_reading(pg_catalog.to_jsonb(value::text), op, pg_catalog.to_jsonb(threshold::text), details)
	|| CASE WHEN alert_id IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('alert_id', alert_id) END
	|| CASE WHEN details -> 'impact' IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('impact', details -> 'impact') END;
COMMENT ON FUNCTION monitoring.alert_document(text, text, text, jsonb, jsonb, float8, text, float8, timestamptz, timestamptz, text, bigint, jsonb) IS 'An alert as receivers get it. Annotations of more than 16 kB are cut.';

-- Without SET, so that it is inlined.
CREATE FUNCTION monitoring.member_document(alert_id bigint, state text, history_at timestamptz, history_id bigint, acknowledged boolean)
RETURNS TABLE (document jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT x.document || CASE WHEN member_document.acknowledged THEN jsonb_build_object('acknowledged', (
			SELECT jsonb_build_object('by', n.acknowledged_by, 'until', n.acknowledged_until)
			FROM monitoring.alert_handling AS n WHERE n.alert_id = member_document.alert_id)) ELSE '{}' END
	FROM (
		SELECT monitoring.alert_document(member_document.state, h.rule_name, h.severity, h.labels, h.annotations, h.value, h.op, h.threshold,
			h.fired_at, h.at, h.fingerprint, h.alert_id, h.details) AS document
		FROM monitoring.alert_history AS h
		WHERE h.at = member_document.history_at AND h.id = member_document.history_id
		UNION ALL
		-- history has been dropped meanwhile
		SELECT monitoring.alert_document(member_document.state, d.name, d.severity, monitoring.alert_labels(d, s.series_labels),
			monitoring.fill_annotations(d, s), s.value, d.op, s.threshold, s.fired_at, member_document.history_at, s.fingerprint,
			s.alert_id, s.details)
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		WHERE s.alert_id = member_document.alert_id
		LIMIT 1) AS x;
END;
COMMENT ON FUNCTION monitoring.member_document(bigint, text, timestamptz, bigint, boolean) IS 'A member of a group as receivers get it, by its transition (alert_history); no row when nothing is known of it any more.';

-- A notification lists at most 100 alerts and 256 kB of them, news first.
CREATE FUNCTION monitoring.enqueue_decisions(decisions monitoring.group_decision[], at timestamptz, now_at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	group_ids CONSTANT bigint[] := ARRAY(SELECT DISTINCT d.group_id FROM unnest(decisions) AS d WHERE d.sends);
BEGIN
	PERFORM monitoring.ensure_partition('outbox', now_at);
	WITH decided AS MATERIALIZED (
		SELECT d.* FROM unnest(decisions) AS d WHERE d.sends
	), listed AS MATERIALIZED (
		SELECT l.group_id, l.alert_id, l.state = 'firing' AS firing, l.acknowledged, l.history_at, l.history_id,
			CASE WHEN NOT l.news THEN 3 WHEN l.state = 'resolved' THEN 2 ELSE 1 END AS news
		FROM monitoring.listed_members(group_ids, enqueue_decisions.at) AS l
	-- the first hundred of a group are among the first hundred of each state
	), first_ones AS (
		SELECT s.*, row_number() OVER (PARTITION BY s.group_id ORDER BY s.news, s.history_at, s.history_id) AS place
		FROM (
			SELECT l.*, row_number() OVER (PARTITION BY l.group_id, l.firing ORDER BY l.news, l.history_at, l.history_id) AS place_in_state
			FROM listed AS l) AS s
		WHERE s.place_in_state <= 100
	), totals AS MATERIALIZED (
		SELECT l.group_id, count(*) FILTER (WHERE l.firing) AS firing, count(*) FILTER (WHERE NOT l.firing) AS resolved
		FROM listed AS l
		GROUP BY l.group_id
	), documents AS MATERIALIZED (
		SELECT l.group_id, l.alert_id, l.firing, l.place, x.document, octet_length(x.document::text) AS bytes
		FROM (SELECT * FROM first_ones AS i WHERE i.place <= 100 OR i.firing) AS l
		CROSS JOIN LATERAL monitoring.member_document(l.alert_id, CASE WHEN l.firing THEN 'firing' ELSE 'resolved' END, l.history_at, l.history_id, l.acknowledged) AS x
	), chosen AS MATERIALIZED (
		SELECT c.group_id, c.receiver, c.send_resolved, count(*) AS listed, bool_or(c.firing) AS firing,
			array_agg(c.alert_id ORDER BY c.place) AS alert_ids, jsonb_agg(c.document ORDER BY c.place) AS alerts,
			CASE WHEN min(c.document -> 'labels' ->> 'alertname') = max(c.document -> 'labels' ->> 'alertname')
				THEN min(c.document -> 'labels' ->> 'alertname') END AS alert
		FROM (SELECT d.group_id, d.receiver, d.send_resolved, x.alert_id, x.firing, x.place, x.document,
				sum(x.bytes) OVER (PARTITION BY d.group_id, d.receiver ORDER BY x.place) AS bytes,
				row_number() OVER (PARTITION BY d.group_id, d.receiver ORDER BY x.place) AS n
			FROM decided AS d
			JOIN documents AS x ON x.group_id = d.group_id AND (d.send_resolved OR x.firing)) AS c
		WHERE c.n <= 100 AND (c.bytes <= 262144 OR c.n = 1)
		GROUP BY c.group_id, c.receiver, c.send_resolved
	)
	INSERT INTO monitoring.outbox (id, created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT d.notification_id, now_at, enqueue_decisions.at, d.receiver, g.group_key, coalesce(c.alert, r.name, ''), x.status, c.alert_ids,
		monitoring.make_payload(d.receiver, g.group_key, x.status, g.labels, c.alerts, jsonb_strip_nulls(jsonb_build_object(
			'truncatedAlerts', t.firing + CASE WHEN d.send_resolved THEN t.resolved ELSE 0 END - c.listed, 'reason', d.reason,
			'digest', CASE WHEN d.reason = 'digest' THEN jsonb_build_object('route', r.name,
				'since', monitoring.format_time(coalesce(g.flushed_at, g.opened_at)), 'until', monitoring.format_time(enqueue_decisions.at)) END))),
		now_at, now_at + monitoring.max_age(f.config)
	FROM decided AS d
	JOIN chosen AS c ON c.group_id = d.group_id AND c.receiver = d.receiver
	CROSS JOIN LATERAL (SELECT CASE WHEN c.firing THEN 'firing' ELSE 'resolved' END) AS x (status)
	JOIN totals AS t ON t.group_id = d.group_id
	JOIN monitoring.alert_groups AS g ON g.id = d.group_id
	JOIN monitoring.receiver_defs AS f ON f.name = d.receiver
	LEFT JOIN monitoring.routes AS r ON r.id = g.route_id
	ORDER BY d.notification_id;
	PERFORM monitoring.tell_other_ends(decisions, at, now_at);
END $$;
COMMENT ON FUNCTION monitoring.enqueue_decisions(monitoring.group_decision[], timestamptz, timestamptz) IS 'Write the outbox rows of decisions of an evaluation, in their order; now_at is the real time.';

CREATE FUNCTION monitoring.tell_other_ends(decisions monitoring.group_decision[], at timestamptz, now_at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	ids CONSTANT bigint[] := ARRAY(SELECT d.notification_id FROM unnest(decisions) AS d
		JOIN monitoring.receiver_defs AS f ON f.name = d.receiver
		JOIN monitoring.receiver_kinds AS k ON k.kind = f.kind AND k.keep_alive IS NOT NULL
		JOIN monitoring.outbox AS o ON o.created_at = tell_other_ends.now_at AND o.id = d.notification_id AND o.payload -> 'truncatedAlerts' > '0'
		WHERE d.sends AND d.send_resolved);
BEGIN
	IF ids = '{}' THEN
		RETURN;
	END IF;
	WITH decided AS MATERIALIZED (
		SELECT d.group_id, d.receiver, d.notification_id, d.reason FROM unnest(decisions) AS d WHERE d.notification_id = ANY (ids)
	), told AS MATERIALIZED (
		SELECT d.group_id, d.receiver, a.alert_id
		FROM decided AS d
		JOIN monitoring.outbox AS o ON o.created_at = tell_other_ends.now_at AND o.id = d.notification_id
		CROSS JOIN LATERAL unnest(o.alert_ids) AS a (alert_id)
	), ended AS MATERIALIZED (
		SELECT l.group_id, l.alert_id, l.history_at, l.history_id, x.document
		FROM monitoring.listed_members(ARRAY(SELECT DISTINCT d.group_id FROM decided AS d), tell_other_ends.at) AS l
		CROSS JOIN LATERAL monitoring.member_document(l.alert_id, 'resolved', l.history_at, l.history_id, l.acknowledged) AS x
		WHERE l.state = 'resolved'
	), listed AS MATERIALIZED (
		SELECT d.group_id, d.receiver, d.reason, e.alert_id, e.document,
			row_number() OVER so_far AS place, sum(octet_length(e.document::text)) OVER so_far AS bytes
		FROM decided AS d
		JOIN ended AS e ON e.group_id = d.group_id
		WHERE NOT EXISTS (SELECT FROM told AS t WHERE t.group_id = d.group_id AND t.receiver = d.receiver AND t.alert_id = e.alert_id)
		WINDOW so_far AS (PARTITION BY d.group_id, d.receiver ORDER BY e.history_at, e.history_id)
	), parts AS (
		SELECT l.group_id, l.receiver, l.reason, (l.place - 1) / 100 + l.bytes / 200000 AS part, array_agg(l.alert_id ORDER BY l.place) AS alert_ids,
			jsonb_agg(l.document ORDER BY l.place) AS alerts
		FROM listed AS l
		GROUP BY l.group_id, l.receiver, l.reason, (l.place - 1) / 100 + l.bytes / 200000
	)
	INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT now_at, tell_other_ends.at, p.receiver, g.group_key, coalesce(g.labels ->> 'alertname', p.alerts -> 0 -> 'labels' ->> 'alertname', ''), 'also resolved', p.alert_ids,
		monitoring.make_payload(p.receiver, g.group_key, 'resolved', g.labels, p.alerts, jsonb_build_object('reason', p.reason)),
		now_at, now_at + monitoring.max_age(f.config)
	FROM parts AS p
	JOIN monitoring.alert_groups AS g ON g.id = p.group_id
	JOIN monitoring.receiver_defs AS f ON f.name = p.receiver
	ORDER BY p.group_id, p.receiver, p.part;
END $$;
COMMENT ON FUNCTION monitoring.tell_other_ends(monitoring.group_decision[], timestamptz, timestamptz) IS 'Tell receivers that keep what they know (receiver_kinds.keep_alive) of all alerts that have ended and for which the notification of a decision had no room, at most a hundred and about 200 kB in each; now_at is the real time at which that was enqueued.';

CREATE FUNCTION monitoring.record_decisions(group_ids bigint[], decisions monitoring.group_decision[], at timestamptz, now_at timestamptz)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	-- An alert that ended and fired again before its group was due is no news to anybody.
	WITH told AS MATERIALIZED (
		SELECT d.group_id, bool_or(d.reason <> 'new alerts added' AND d.reason !~ 'resolved$') AS whole_group,
			max(CASE WHEN d.reason = 'digest' THEN 'digest' ELSE 'notified' END) AS kind,
			jsonb_object_agg(d.receiver, jsonb_build_object('notification', d.notification_id, 'reason', d.reason))
				FILTER (WHERE d.reason <> 'all alerts resolved') AS of_firing,
			jsonb_object_agg(d.receiver, jsonb_build_object('notification', d.notification_id, 'reason', d.reason))
				FILTER (WHERE d.sends AND d.send_resolved) AS of_resolved
		FROM unnest(decisions) AS d
		GROUP BY d.group_id
	-- made once for a group, not for each of its alerts
	), texts AS MATERIALIZED (
		SELECT a.group_id, a.details || '{"status": "firing"}' AS known,
			a.details || jsonb_build_object('status', 'firing', 'enqueued_at', now_at, 'receivers', t.of_firing) AS of_firing,
			a.details || jsonb_build_object('status', 'resolved', 'enqueued_at', now_at, 'receivers', t.of_resolved) AS of_resolved
		FROM monitoring.group_about(group_ids) AS a
		LEFT JOIN told AS t ON t.group_id = a.group_id
	), listed AS MATERIALIZED (
		SELECT l.group_id, l.fingerprint, l.alert_id, l.state, l.tick, l.place, t.kind, t.group_id IS NOT NULL AS decided,
			coalesce(CASE WHEN l.state = 'resolved' THEN t.of_resolved IS NOT NULL
				ELSE t.of_firing IS NOT NULL AND (l.news OR t.whole_group) END, false) AS told
		FROM monitoring.listed_members(group_ids, record_decisions.at) AS l
		LEFT JOIN told AS t ON t.group_id = l.group_id
	), marked AS (
		UPDATE monitoring.alert_group_members AS m
		SET told_at = CASE WHEN l.told THEN l.tick ELSE m.told_at END, told_alert_id = m.alert_id
		FROM listed AS l
		WHERE m.ctid = ANY (ARRAY(SELECT o.place FROM listed AS o WHERE o.state = 'firing')) AND m.ctid = l.place
			AND (l.told OR m.told_alert_id <> m.alert_id)
		RETURNING m.group_id, m.alert_id, l.told
	), known AS (
		SELECT l.group_id, l.tick, coalesce(array_agg(l.fingerprint) FILTER (WHERE l.state = 'firing'), '{}') AS firing,
			coalesce(array_agg(l.fingerprint) FILTER (WHERE l.state = 'resolved'), '{}') AS resolved
		FROM listed AS l
		WHERE l.decided
		GROUP BY l.group_id, l.tick
	), noted AS (
		INSERT INTO monitoring.alert_group_receivers AS e (group_id, receiver, reason, notified_at, firing, resolved)
		SELECT d.group_id, d.receiver, d.reason, k.tick,
			CASE WHEN d.reason = 'digest' THEN '{}' ELSE k.firing END, CASE WHEN d.reason = 'digest' THEN '{}' ELSE k.resolved END
		FROM unnest(decisions) AS d
		JOIN known AS k ON k.group_id = d.group_id
		ON CONFLICT (group_id, receiver) DO UPDATE
		SET reason = excluded.reason, notified_at = excluded.notified_at, firing = excluded.firing, resolved = excluded.resolved,
			kept_at = NULL, acknowledged = e.acknowledged AND excluded.firing <> '{}'
	)
	INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
	SELECT record_decisions.at, e.alert_id, e.kind,
		CASE e.status WHEN 'firing' THEN t.of_firing WHEN 'resolved' THEN t.of_resolved ELSE t.known END
	FROM (
		SELECT l.alert_id, l.group_id, l.kind, l.state AS status FROM listed AS l WHERE l.told
		UNION ALL
		SELECT m.alert_id, m.group_id, 'known', 'known' FROM marked AS m WHERE NOT m.told
	) AS e
	JOIN texts AS t ON t.group_id = e.group_id
	ORDER BY e.group_id;
END $$;
COMMENT ON FUNCTION monitoring.record_decisions(bigint[], monitoring.group_decision[], timestamptz, timestamptz) IS 'Note what the receivers know of groups once decisions have been carried out; what an alert''s receivers were told becomes an event of the alert. now_at is the real time at which that was enqueued.';

CREATE FUNCTION monitoring.remove_ended(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH ended AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.state, m.suppressed_by, coalesce(m.told_at + r.repeat_every > s.tick, false) AS cooling,
			m.state = 'resolved' AND m.told_alert_id IS DISTINCT FROM m.alert_id AS untold
		FROM monitoring.alert_group_members AS m
		JOIN monitoring.group_settings(group_ids, remove_ended.at) AS s ON s.group_id = m.group_id
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = m.rule_id AND r.repeat_every IS NOT NULL
		WHERE m.group_id = ANY (group_ids)
			-- a digest that may not be sent now lists them the next time
			AND (m.state = 'cooling' OR m.state = 'resolved' AND NOT (s.digest IS NOT NULL AND s.muted_by IS NOT NULL))
	), noted AS (
		INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
		SELECT remove_ended.at, n.alert_id, 'routed', a.details
		FROM ended AS n
		JOIN monitoring.group_about(group_ids) AS a ON a.group_id = n.group_id
		WHERE n.untold
	), forgotten AS (
		-- A receiver that was not told of the end is told when the alert fires again; Alertmanager would leave it at that
		-- until the repeat interval has elapsed.
		UPDATE monitoring.alert_group_receivers AS e
		SET firing = ARRAY(SELECT unnest(e.firing) EXCEPT SELECT n.fingerprint FROM ended AS n WHERE n.group_id = e.group_id AND n.suppressed_by IS NOT NULL)
		WHERE e.firing <> '{}' AND e.group_id IN (SELECT n.group_id FROM ended AS n WHERE n.state = 'resolved' AND n.suppressed_by IS NOT NULL)
	), kept AS (
		UPDATE monitoring.alert_group_members AS m SET state = 'cooling', told_alert_id = NULL, suppressed_by = NULL
		FROM ended AS n
		WHERE m.group_id = n.group_id AND m.fingerprint = n.fingerprint AND n.cooling AND n.state = 'resolved' AND m.group_id = ANY (group_ids)
	)
	DELETE FROM monitoring.alert_group_members AS m
	USING ended AS n
	WHERE m.group_id = n.group_id AND m.fingerprint = n.fingerprint AND NOT n.cooling AND m.group_id = ANY (group_ids);
END $$;
COMMENT ON FUNCTION monitoring.remove_ended(bigint[], timestamptz) IS 'Take resolved alerts out of groups once they have been looked at, told or not; those that must not be told of again for a while stay as cooling.';

CREATE FUNCTION monitoring.schedule_groups(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH state AS MATERIALIZED (
		SELECT s.group_id, s.tick, s.group_interval, s.repeat_interval, s.digest, s.told,
			count(*) FILTER (WHERE m.state <> 'cooling') AS alive,
			-- What keeps an alert quiet may end by itself. One that was told of before may be missing in what was told since;
			-- a digest tells of nothing again.
			bool_or(m.state = 'resolved' OR m.state = 'firing' AND m.suppressed_by IS NOT NULL
				AND (s.digest IS NULL OR m.told_alert_id IS DISTINCT FROM m.alert_id)) AS waiting,
			min(coalesce(r.repeat_every, s.repeat_interval)) FILTER (WHERE m.state = 'firing') AS repeat_every,
			max(m.told_at + r.repeat_every) FILTER (WHERE m.state = 'cooling') AS cool_at
		FROM monitoring.group_settings(group_ids, schedule_groups.at) AS s
		LEFT JOIN monitoring.alert_group_members AS m ON m.group_id = s.group_id AND m.group_id = ANY (group_ids)
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = m.rule_id AND r.repeat_every IS NOT NULL
		GROUP BY s.group_id, s.tick, s.group_interval, s.repeat_interval, s.digest, s.told
	), known AS MATERIALIZED (
		SELECT e.group_id, min(e.notified_at) AS notified_at
		FROM monitoring.alert_group_receivers AS e
		JOIN state AS s ON s.group_id = e.group_id
		WHERE e.group_id = ANY (group_ids) AND e.receiver = ANY (s.told)
		GROUP BY e.group_id
	), planned AS MATERIALIZED (
		SELECT s.group_id, s.tick, s.alive > 0 AS open, CASE
			WHEN s.alive = 0 THEN s.cool_at
			WHEN s.digest IS NOT NULL THEN CASE WHEN s.waiting THEN monitoring.next_digest(s.digest, schedule_groups.at) END
			WHEN s.waiting THEN s.tick + p.pause
			ELSE greatest(s.tick + p.pause, monitoring.next_tick(s.tick, s.group_interval,
				coalesce(k.notified_at, s.tick) + coalesce(s.repeat_every, s.repeat_interval)))
			END AS due_at
		FROM state AS s
		LEFT JOIN known AS k ON k.group_id = s.group_id
		CROSS JOIN LATERAL (SELECT CASE WHEN s.group_interval > '0' THEN s.group_interval ELSE interval '10 seconds' END) AS p (pause)
	), gone AS (
		DELETE FROM monitoring.alert_groups AS g USING planned AS p WHERE g.id = p.group_id AND NOT p.open AND p.due_at IS NULL
	), unknown AS (
		DELETE FROM monitoring.alert_group_receivers AS e USING planned AS p WHERE e.group_id = p.group_id AND NOT p.open AND e.group_id = ANY (group_ids)
	)
	UPDATE monitoring.alert_groups AS g
	SET flushed_at = p.tick, opened_at = CASE WHEN p.open THEN g.opened_at END, due_at = p.due_at
	FROM planned AS p
	WHERE g.id = p.group_id AND (p.open OR p.due_at IS NOT NULL);
END $$;
COMMENT ON FUNCTION monitoring.schedule_groups(bigint[], timestamptz) IS 'When groups that have been looked at are due again: after group_interval while an alert waits to be told or is suppressed, otherwise when they are to be repeated. A group whose alerts have ended goes; one that has to remember some of them for a while stays that long.';

CREATE FUNCTION monitoring.flush_groups(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- the rest is the next evaluation's
	due bigint[] := ARRAY(SELECT g.id FROM monitoring.alert_groups AS g WHERE g.due_at <= flush_groups.at ORDER BY g.due_at LIMIT 10000);
	decisions monitoring.group_decision[];
	now_at timestamptz := clock_timestamp();
BEGIN
	IF due = '{}' THEN
		RETURN 0;
	END IF;
	PERFORM monitoring.refresh_suppressions(due, at);
	decisions := ARRAY(SELECT d FROM monitoring.group_decisions(due, at) AS d);
	IF decisions <> '{}' THEN
		PERFORM monitoring.enqueue_decisions(decisions, at, now_at);
	END IF;
	PERFORM monitoring.record_decisions(due, decisions, at, now_at);
	PERFORM monitoring.start_escalations(due, at);
	PERFORM monitoring.tell_acknowledged(due, at);
	PERFORM monitoring.remove_ended(due, at);
	PERFORM monitoring.schedule_groups(due, at);
	RETURN cardinality(decisions);
END $$;
COMMENT ON FUNCTION monitoring.flush_groups(timestamptz) IS 'Look at the groups that are due, at most 10,000 of them, and tell their receivers what Alertmanager would tell them. Returns how many receivers of groups were told.';

CREATE FUNCTION monitoring.tell_again(group_ids bigint[], receivers text[], reason text, at timestamptz, now_at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.ensure_partition('outbox', now_at);
	WITH told AS MATERIALIZED (
		SELECT DISTINCT t.group_id, t.receiver FROM unnest(group_ids, receivers) AS t (group_id, receiver)
	), listed AS MATERIALIZED (
		SELECT t.group_id, t.receiver, m.alert_id, x.document,
			row_number() OVER so_far AS place, sum(octet_length(x.document::text)) OVER so_far AS bytes
		FROM told AS t
		JOIN monitoring.alert_group_receivers AS e ON e.group_id = t.group_id AND e.receiver = t.receiver
		JOIN monitoring.alert_group_members AS m ON m.group_id = t.group_id AND m.state IN ('firing', 'moved') AND m.fingerprint = ANY (e.firing)
		LEFT JOIN monitoring.alert_handling AS n ON n.alert_id = m.alert_id
		CROSS JOIN LATERAL monitoring.member_document(m.alert_id, 'firing', m.history_at, m.history_id,
			n.acknowledged_at IS NOT NULL AND coalesce(n.acknowledged_until > tell_again.at, true)) AS x
		WINDOW so_far AS (PARTITION BY t.group_id, t.receiver ORDER BY m.history_at, m.history_id)
	), parts AS (
		SELECT l.group_id, l.receiver, (l.place - 1) / 100 + l.bytes / 200000 AS part, array_agg(l.alert_id ORDER BY l.place) AS alert_ids,
			jsonb_agg(l.document ORDER BY l.place) AS alerts
		FROM listed AS l
		GROUP BY l.group_id, l.receiver, (l.place - 1) / 100 + l.bytes / 200000
	)
	INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT now_at, tell_again.at, p.receiver, g.group_key, coalesce(g.labels ->> 'alertname', p.alerts -> 0 -> 'labels' ->> 'alertname', ''), tell_again.reason, p.alert_ids,
		monitoring.make_payload(p.receiver, g.group_key, 'firing', g.labels, p.alerts, jsonb_build_object('reason', tell_again.reason)),
		now_at, now_at + monitoring.max_age(f.config)
	FROM parts AS p
	JOIN monitoring.alert_groups AS g ON g.id = p.group_id
	JOIN monitoring.receiver_defs AS f ON f.name = p.receiver
	ORDER BY p.group_id, p.receiver, p.part;
END $$;
COMMENT ON FUNCTION monitoring.tell_again(bigint[], text[], text, timestamptz, timestamptz) IS 'Tell receivers (the n-th of the n-th group) again which of the alerts that they know of still fire, whatever is suppressed now, at most a hundred and about 200 kB in each notification, whose status is the reason; now_at is the real time.';

CREATE FUNCTION monitoring.keep_alive(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	group_ids bigint[];
	receivers text[];
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.receiver_kinds AS k JOIN monitoring.receiver_defs AS r ON r.kind = k.kind WHERE k.keep_alive IS NOT NULL AND r.enabled) THEN
		RETURN;
	END IF;
	-- What was told is not all there is when it was more than fits into one notification. While an earlier one waits there
	-- is no sense in another.
	WITH due AS (
		UPDATE monitoring.alert_group_receivers AS e SET kept_at = keep_alive.at
		FROM (SELECT r.name, coalesce(make_interval(secs => (r.config ->> 'keep_alive_seconds')::float8), k.keep_alive) AS every
			FROM monitoring.receiver_defs AS r JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
			WHERE k.keep_alive IS NOT NULL AND r.enabled) AS r
		WHERE e.receiver = r.name AND e.firing <> '{}'
			AND (greatest(e.kept_at, e.notified_at) + r.every <= keep_alive.at OR e.kept_at IS NULL AND cardinality(e.firing) > 100)
		RETURNING e.group_id, e.receiver
	)
	SELECT array_agg(d.group_id ORDER BY d.group_id, d.receiver), array_agg(d.receiver ORDER BY d.group_id, d.receiver) INTO group_ids, receivers
	FROM due AS d
	JOIN monitoring.alert_groups AS g ON g.id = d.group_id
	WHERE NOT EXISTS (SELECT FROM monitoring.outbox AS o
		WHERE o.receiver || E'\n' || o.group_key = d.receiver || E'\n' || g.group_key AND o.state IN ('queued', 'sending', 'failed')
			AND o.status = 'still firing');
	IF group_ids IS NOT NULL THEN
		PERFORM monitoring.tell_again(group_ids, receivers, 'still firing', at, clock_timestamp());
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.keep_alive(timestamptz) IS 'Tell receivers that would take silence for the end of an alert (receiver_kinds.keep_alive) what still fires of what they were told, once the interval has passed; also what is acknowledged or suppressed meanwhile.';

CREATE FUNCTION monitoring.tell_acknowledged(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ids bigint[];
	receivers text[];
BEGIN
	WITH known AS MATERIALIZED (
		SELECT e.group_id, e.receiver, bool_and(n.acknowledged_at IS NOT NULL AND coalesce(n.acknowledged_until > tell_acknowledged.at, true)) AS acknowledged
		FROM monitoring.alert_group_receivers AS e
		JOIN monitoring.receiver_defs AS r ON r.name = e.receiver AND r.enabled
		JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.tell_acknowledged
		JOIN monitoring.alert_group_members AS m ON m.group_id = e.group_id AND m.state = 'firing' AND m.fingerprint = ANY (e.firing)
		LEFT JOIN monitoring.alert_handling AS n ON n.alert_id = m.alert_id
		WHERE e.group_id = ANY (group_ids)
		GROUP BY e.group_id, e.receiver
	), changed AS (
		UPDATE monitoring.alert_group_receivers AS e SET acknowledged = k.acknowledged
		FROM known AS k
		WHERE e.group_id = k.group_id AND e.receiver = k.receiver AND e.acknowledged <> k.acknowledged
		RETURNING e.group_id, e.receiver, e.acknowledged
	)
	SELECT array_agg(c.group_id ORDER BY c.group_id, c.receiver), array_agg(c.receiver ORDER BY c.group_id, c.receiver) INTO ids, receivers
	FROM changed AS c WHERE c.acknowledged;
	IF ids IS NOT NULL THEN
		PERFORM monitoring.tell_again(ids, receivers, 'acknowledged', at, clock_timestamp());
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.tell_acknowledged(bigint[], timestamptz) IS 'Tell receivers that want to know it (receiver_kinds.tell_acknowledged) which of these groups are acknowledged: every alert of them that they know of.';

-- Plans for the arrays at hand: one that suits a single alert takes hours for 100,000.
CREATE FUNCTION monitoring.route_alerts(transitions bigint[], at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off SET work_mem = '64MB' AS $$
DECLARE
	history_ids bigint[];
	history_ats timestamptz[];
	kinds text[];
	rerouted bigint[];
	woken bigint[];
	late_ids bigint[];
	late_ats timestamptz[];
	taken_care_of bigint[];
	told integer;
BEGIN
	WITH asked AS (
		DELETE FROM monitoring.routing_queue AS q RETURNING q.id, q.kind, q.history_at, q.history_id, q.rule_id, q.alert_id
	)
	SELECT array_agg(q.history_id ORDER BY q.id) FILTER (WHERE q.kind = 'transition'),
		array_agg(q.history_at ORDER BY q.id) FILTER (WHERE q.kind = 'transition'), array_agg(DISTINCT q.kind),
		CASE WHEN bool_and(q.rule_id IS NOT NULL) FILTER (WHERE q.kind = 'reroute') THEN array_agg(q.rule_id) FILTER (WHERE q.kind = 'reroute') END,
		CASE WHEN bool_and(q.rule_id IS NOT NULL) FILTER (WHERE q.kind = 'wake') THEN array_agg(q.rule_id) FILTER (WHERE q.kind = 'wake') END,
		array_agg(q.history_id) FILTER (WHERE q.kind = 'incident'), array_agg(q.history_at) FILTER (WHERE q.kind = 'incident'),
		array_agg(q.alert_id) FILTER (WHERE q.kind = 'acknowledged')
	INTO history_ids, history_ats, kinds, rerouted, woken, late_ids, late_ats, taken_care_of
	FROM asked AS q;
	-- what has failed for an hour is given up
	PERFORM monitoring.update_incidents(array_agg(u.id), u.at, true) FROM unnest(late_ids, late_ats) AS u (id, at)
	WHERE u.at > route_alerts.at - '1 hour'::interval
	GROUP BY u.at ORDER BY u.at;
	history_ids := history_ids || transitions;
	history_ats := history_ats || array_fill(at, ARRAY[coalesce(cardinality(transitions), 0)]);

	IF history_ids <> '{}' OR kinds <> '{}' OR EXISTS (SELECT FROM monitoring.alert_groups AS g WHERE g.due_at <= route_alerts.at) THEN
		PERFORM monitoring.ensure_partition('alert_events', at);
	END IF;
	IF history_ids <> '{}' THEN
		PERFORM monitoring.ensure_partition('outbox', clock_timestamp());
		PERFORM monitoring.update_incidents(array_agg(u.id), u.at) FROM unnest(history_ids, history_ats) AS u (id, at) GROUP BY u.at;
		PERFORM monitoring.end_escalations(history_ids, history_ats, at);
		PERFORM monitoring.group_resolved(history_ids, history_ats, at);
		PERFORM monitoring.group_firing(history_ids, history_ats, at);
	END IF;
	IF 'reroute' = ANY (kinds) THEN
		PERFORM monitoring.reroute_alerts(rerouted, at);
	END IF;
	IF 'wake' = ANY (kinds) THEN
		PERFORM monitoring.wake_groups(woken, at);
	END IF;
	PERFORM monitoring.escalate(at);
	told := monitoring.flush_groups(at);
	IF taken_care_of <> '{}' THEN
		PERFORM monitoring.tell_acknowledged(ARRAY(SELECT DISTINCT m.group_id FROM monitoring.alert_group_members AS m WHERE m.alert_id = ANY (taken_care_of)), at);
	END IF;
	PERFORM monitoring.keep_alive(at);
	RETURN told;
END $$;
COMMENT ON FUNCTION monitoring.route_alerts(bigint[], timestamptz) IS 'What an evaluation does about incidents and notifications: let alerts of transitions (alert_history.id) that it made at that time take their routes, do what sessions asked for, and tell the receivers of groups that are due. Evaluations only; sessions use queue_transitions.';

CREATE VIEW monitoring.notification_groups AS
	SELECT g.id, g.group_key, r.name AS route, d.name AS rule, g.labels, m.firing, m.resolved, m.suppressed, g.opened_at, g.flushed_at, g.due_at,
		e.notified_at, coalesce(e.receivers, '{}') AS notified
	FROM monitoring.alert_groups AS g
	LEFT JOIN monitoring.routes AS r ON r.id OPERATOR(pg_catalog.=) g.route_id
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.id OPERATOR(pg_catalog.=) g.rule_id
	CROSS JOIN LATERAL (
		SELECT pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing') AS firing,
			pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'resolved') AS resolved,
			pg_catalog.count(a.suppressed_by) AS suppressed
		FROM monitoring.alert_group_members AS a
		WHERE a.group_id OPERATOR(pg_catalog.=) g.id) AS m
	CROSS JOIN LATERAL (
		SELECT pg_catalog.max(a.notified_at) AS notified_at,
			pg_catalog.array_agg(a.receiver ORDER BY a.receiver) FILTER (WHERE a.firing OPERATOR(pg_catalog.<>) '{}') AS receivers
		FROM monitoring.alert_group_receivers AS a
		WHERE a.group_id OPERATOR(pg_catalog.=) g.id) AS e
	WHERE g.opened_at IS NOT NULL;
COMMENT ON VIEW monitoring.notification_groups IS 'Groups of alerts that are notified together, and when that happens next.';
COMMENT ON COLUMN monitoring.notification_groups.id IS 'Number of the group.';
COMMENT ON COLUMN monitoring.notification_groups.group_key IS 'Key of the group, as receivers get it.';
COMMENT ON COLUMN monitoring.notification_groups.route IS 'Route that made it; null for a rule''s own group.';
COMMENT ON COLUMN monitoring.notification_groups.rule IS 'Rule whose own group it is; null for a route''s.';
COMMENT ON COLUMN monitoring.notification_groups.labels IS 'Labels by which its alerts are grouped.';
COMMENT ON COLUMN monitoring.notification_groups.firing IS 'Number of firing alerts.';
COMMENT ON COLUMN monitoring.notification_groups.resolved IS 'Number of resolved alerts whose end is still to be told.';
COMMENT ON COLUMN monitoring.notification_groups.suppressed IS 'Number of alerts of which nobody is told (silence, inhibition, mute time and so on), when the group was last looked at.';
COMMENT ON COLUMN monitoring.notification_groups.opened_at IS 'When its first alert came.';
COMMENT ON COLUMN monitoring.notification_groups.flushed_at IS 'When it was last looked at; null: it still waits for further alerts.';
COMMENT ON COLUMN monitoring.notification_groups.due_at IS 'When it is looked at next; null: when an alert comes or goes.';
COMMENT ON COLUMN monitoring.notification_groups.notified_at IS 'When somebody was last told of it.';
COMMENT ON COLUMN monitoring.notification_groups.notified IS 'Receivers that know of firing alerts in it.';
