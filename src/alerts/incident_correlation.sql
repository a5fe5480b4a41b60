-- incidents, correlation: which of the alerts that fire belong together, and which incident they become or join.
--
-- A policy says of which alerts incidents are opened and which labels tell that two alerts have one cause. An alert that fires
-- joins the open incident with which it shares most of these labels, if that incident is recent; otherwise it opens one, with
-- those that fire together with it and share a label. An evaluation does that for all alerts at once. Evaluations do not run
-- beside each other, so no two open the same incident.
--
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
