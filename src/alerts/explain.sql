-- alerts, explanation: why somebody was told of an alert or not, and a way to try out how an alert would get to people.
--
-- explain_alert computes nothing anew: it reads what the evaluation and the dispatch have decided and recorded. Only what
-- holds back an alert now is asked of the functions that the dispatch asks.

CREATE FUNCTION monitoring.explain_value(alert_id bigint, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
			WHEN s.origin = 'no_data' THEN 'no data'
			WHEN s.origin = 'rule_error' THEN 'the rule is in error'
			WHEN s.state = 'resolved' THEN coalesce(r.said || '; it ended', format('it ended with %s', coalesce(v.value, 'no value')))
			WHEN s.missing_since IS NOT NULL THEN format('no data since %s; the last value was %s', monitoring.format_time(s.missing_since), coalesce(v.value, 'none'))
			WHEN s.clear_since IS NOT NULL THEN format('%s no longer holds; kept firing for %s since %s',
				coalesce(r.said, concat_ws(' ', coalesce(v.value, 'no value'), d.op, v.resolve_threshold)), d.keep_firing_for, monitoring.format_time(s.clear_since))
			WHEN s.state = 'pending' THEN format('%s; it fires at %s', coalesce(r.said, concat_ws(' ', v.value, d.op, v.threshold, 'holds')),
				monitoring.format_time(s.active_at + d.pending_for))
			ELSE coalesce(r.said, concat_ws(' ', v.value, d.op, v.resolve_threshold, 'holds')) END,
		jsonb_strip_nulls(monitoring.alert_reading(to_jsonb(s.value::text), d.op, to_jsonb(s.threshold::text), s.details)
			|| jsonb_build_object('resolve_threshold', d.resolve_threshold::text,
				'at', s.updated_at, 'active_at', s.active_at, 'missing_since', s.missing_since, 'clear_since', s.clear_since, 'details', s.details))
	FROM monitoring.alert_states AS s
	JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
	CROSS JOIN LATERAL (SELECT monitoring.alert_reading(NULL, NULL, NULL, s.details) ->> 'reading' AS said) AS r
	CROSS JOIN LATERAL (SELECT monitoring.short_number(s.value) AS value, monitoring.short_number(s.threshold) AS threshold,
		monitoring.short_number(coalesce(d.resolve_threshold, s.threshold)) AS resolve_threshold) AS v
	WHERE s.alert_id = explain_value.alert_id
$$;
COMMENT ON FUNCTION monitoring.explain_value(bigint, timestamptz) IS 'Part of explain_alert: the value of an alert at its last change and the comparison; no row once the alert is forgotten.';

CREATE FUNCTION monitoring.explain_rule(rule_id bigint, rule_name text, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
			WHEN d.id IS NULL THEN 'it has been dropped'
			WHEN NOT d.enabled THEN 'it is disabled'
			WHEN d.active_times IS NOT NULL AND NOT monitoring.time_matches(d.active_times, explain_rule.at, true) THEN 'it is not evaluated outside its active times'
			WHEN d.last_error IS NOT NULL THEN 'it cannot be evaluated: ' || d.last_error
			ELSE 'it is evaluated' END,
		jsonb_strip_nulls(jsonb_build_object('rule', rule_name, 'kind', d.kind, 'metric', d.metric, 'fn', d.fn, 'over', d.over, 'every', d.every,
			'pending_for', nullif(d.pending_for, '0'), 'keep_firing_for', nullif(d.keep_firing_for, '0'), 'max_age', d.max_age, 'no_data', d.no_data,
			'on_error', d.on_error, 'last_error_at', d.last_error_at, 'receivers', to_jsonb(d.receivers), 'repeat_every', d.repeat_every))
	FROM (SELECT) AS one
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = explain_rule.rule_id
$$;
COMMENT ON FUNCTION monitoring.explain_rule(bigint, text, timestamptz) IS 'Part of explain_alert: the state of the rule.';

CREATE FUNCTION monitoring.explain_routes(alert_id bigint) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN e.details ? 'route' THEN format('%s, as %s fits', e.details ->> 'route', regexp_replace(e.details ->> 'group_key', '\}:\{.*$', '}'))
			ELSE 'past the routes, to the receivers of the rule' END,
		e.details - 'route' || jsonb_build_object('at', e.at)
	FROM monitoring.entered_groups(ARRAY[explain_routes.alert_id]) AS e
	ORDER BY e.at, e.details -> 'group'
$$;
COMMENT ON FUNCTION monitoring.explain_routes(bigint) IS 'Part of explain_alert: the routes that an alert took when it fired.';

CREATE FUNCTION monitoring.explain_groups(alert_id bigint, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE m.state
			WHEN 'resolved' THEN 'its end is told when the group is due'
			WHEN 'moved' THEN 'it goes another way now; here only its end is told'
			WHEN 'cooling' THEN 'it has ended, and is not told of again before the rule''s repeat_every'
			ELSE CASE
				WHEN m.suppressed_by IS NOT NULL THEN 'held back: ' || m.suppressed_by
				WHEN g.flushed_at IS NULL THEN 'it waits for further alerts'
				WHEN m.told_alert_id IS DISTINCT FROM m.alert_id THEN 'it is told when the group is due'
				WHEN m.acknowledged THEN 'told; not repeated, as it is acknowledged'
				ELSE 'told' END END
			|| coalesce('; due at ' || monitoring.format_time(g.due_at), ''),
		jsonb_strip_nulls(jsonb_build_object('group', g.id, 'group_key', g.group_key, 'route', r.name, 'alerts', (
				SELECT count(*) FROM monitoring.alert_group_members AS o WHERE o.group_id = g.id AND o.state = 'firing'),
			'opened_at', g.opened_at, 'flushed_at', g.flushed_at, 'due_at', g.due_at, 'told_at', m.told_at, 'suppressed_by', m.suppressed_by,
			'group_interval', s.group_interval, 'repeat_interval', coalesce(d.repeat_every, s.repeat_interval), 'digest', s.digest,
			'receivers', to_jsonb(s.told), 'known_to', (SELECT jsonb_agg(e.receiver ORDER BY e.receiver)
				FROM monitoring.alert_group_receivers AS e WHERE e.group_id = g.id AND m.fingerprint = ANY (e.firing))))
	FROM monitoring.alert_group_members AS m
	JOIN monitoring.alert_groups AS g ON g.id = m.group_id
	JOIN monitoring.group_settings(ARRAY(SELECT o.group_id FROM monitoring.alert_group_members AS o WHERE o.alert_id = explain_groups.alert_id),
		explain_groups.at) AS s ON s.group_id = g.id
	LEFT JOIN monitoring.routes AS r ON r.id = g.route_id
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = m.rule_id
	WHERE m.alert_id = explain_groups.alert_id
	ORDER BY g.id
$$;
COMMENT ON FUNCTION monitoring.explain_groups(bigint, timestamptz) IS 'Part of explain_alert: the groups that hold an alert and when they are due.';

CREATE FUNCTION monitoring.explain_suppressions(alert_id bigint, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.reason, s.details
	FROM monitoring.alert_suppressions(ARRAY[explain_suppressions.alert_id], explain_suppressions.at) AS s
	UNION ALL
	SELECT g.muted_by, jsonb_build_object('group', g.group_id)
	FROM monitoring.group_settings(ARRAY(SELECT o.group_id FROM monitoring.alert_group_members AS o WHERE o.alert_id = explain_suppressions.alert_id),
		explain_suppressions.at) AS g
	WHERE g.muted_by IS NOT NULL
	UNION ALL
	SELECT 'cooldown', jsonb_build_object('group', m.group_id, 'until', m.told_at + d.repeat_every)
	FROM monitoring.alert_group_members AS m
	JOIN monitoring.alert_rule_defs AS d ON d.id = m.rule_id
	WHERE m.alert_id = explain_suppressions.alert_id AND m.state = 'firing' AND m.told_alert_id IS DISTINCT FROM m.alert_id
		AND m.told_at + d.repeat_every > explain_suppressions.at
$$;
COMMENT ON FUNCTION monitoring.explain_suppressions(bigint, timestamptz) IS 'Part of explain_alert: what holds an alert back at that time.';

CREATE FUNCTION monitoring.explain_notifications(alert_id bigint) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
			WHEN r.key IS NULL THEN 'nobody: it fired again before the group was due, and its receivers know that it fires'
			WHEN r.value ->> 'notification' IS NULL THEN format('%s was not told that it is %s: it does not want to know', r.key, e.details ->> 'status')
			ELSE format('%s: %s, %s', r.key, e.details ->> 'status', coalesce(o.state, 'no longer on record')) END,
		jsonb_strip_nulls(jsonb_build_object('at', e.at, 'group', e.details -> 'group', 'reason', r.value ->> 'reason', 'notification', r.value -> 'notification',
			'attempts', o.attempts, 'http_status', o.http_status, 'error', o.error, 'sent_at', o.sent_at,
			'next_attempt_at', CASE WHEN o.state IN ('queued', 'failed') THEN o.next_attempt_at END, 'tries', (
				SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('at', a.at, 'outcome', a.outcome, 'http_status', a.http_status, 'error', a.error))
					ORDER BY a.attempt)
				FROM monitoring.delivery_attempts AS a
				WHERE a.notification_id = (r.value ->> 'notification')::bigint AND a.at >= (e.details ->> 'enqueued_at')::timestamptz)))
	FROM monitoring.alert_events AS e
	LEFT JOIN LATERAL jsonb_each(e.details -> 'receivers') AS r ON true
	LEFT JOIN LATERAL (
		SELECT * FROM monitoring.outbox AS b
		WHERE b.created_at = (e.details ->> 'enqueued_at')::timestamptz AND b.id = (r.value ->> 'notification')::bigint) AS o ON true
	WHERE e.alert_id = explain_notifications.alert_id AND e.kind IN ('notified', 'digest', 'known')
	ORDER BY e.id, r.key
$$;
COMMENT ON FUNCTION monitoring.explain_notifications(bigint) IS 'Part of explain_alert: who was told of an alert, why and with which outcome.';

CREATE FUNCTION monitoring.explain_next(last monitoring.alert_history, receivers text[], at timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN last.to_state = 'pending' THEN 'it fires when its breach has lasted long enough; then it takes its routes'
		WHEN receivers = '{}' THEN 'nobody is told: the rule names no receivers'
		WHEN EXISTS (SELECT FROM monitoring.routing_queue AS q WHERE q.history_id = last.id) THEN 'the next evaluation notes its end'
		WHEN m.groups IS NULL THEN 'nothing'
		WHEN last.to_state = 'resolved' THEN 'its end is told, to those who were told of it, at ' || coalesce(monitoring.format_time(m.due_at), 'the next digest')
		WHEN NOT m.heard THEN 'nobody is told: no receiver of its routes is enabled'
		WHEN m.held THEN 'it is told once nothing holds it back; the group is looked at again at ' || coalesce(monitoring.format_time(m.due_at), 'the next digest')
		WHEN m.waits THEN 'it is told at ' || coalesce(monitoring.format_time(m.due_at), 'the next digest')
		WHEN m.due_at IS NULL THEN 'its end is told in the next digest after it'
		WHEN m.acknowledged THEN 'its end is told; it is not repeated while it is acknowledged'
		ELSE 'it is repeated at ' || monitoring.format_time(m.due_at) || ', if it still fires and is not acknowledged' END
	FROM (
		SELECT max(g.id) AS groups, min(g.due_at) AS due_at, bool_and(o.acknowledged) AS acknowledged,
			bool_or(o.state = 'firing' AND o.told_alert_id IS DISTINCT FROM o.alert_id) AS waits, bool_and(o.suppressed_by IS NOT NULL) AS held,
			bool_or(s.told <> '{}') AS heard
		FROM monitoring.alert_group_members AS o
		JOIN monitoring.alert_groups AS g ON g.id = o.group_id
		JOIN monitoring.group_settings(ARRAY(SELECT i.group_id FROM monitoring.alert_group_members AS i WHERE i.alert_id = last.alert_id), explain_next.at) AS s
			ON s.group_id = g.id
		WHERE o.alert_id = last.alert_id AND o.state IN ('firing', 'resolved', 'moved')) AS m
$$;
COMMENT ON FUNCTION monitoring.explain_next(monitoring.alert_history, text[], timestamptz) IS 'Part of explain_alert: what happens next. last is the alert''s last transition, receivers those of its rule.';

CREATE FUNCTION monitoring.explain_alert(alert_id bigint, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (step text, verdict text, details jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	last monitoring.alert_history;
	receivers text[];
BEGIN
	PERFORM monitoring.check_alert(explain_alert.alert_id, true);
	SELECT h.* INTO last FROM monitoring.alert_history AS h WHERE h.alert_id = explain_alert.alert_id ORDER BY h.id DESC LIMIT 1;
	SELECT d.receivers INTO receivers FROM monitoring.alert_rule_defs AS d WHERE d.id = last.rule_id;

	RETURN QUERY SELECT 'alert', format('%s since %s', last.to_state, monitoring.format_time(last.at)), jsonb_build_object('rule', last.rule_name,
		'severity', last.severity, 'labels', last.labels, 'fingerprint', last.fingerprint);
	RETURN QUERY SELECT 'rule', r.* FROM monitoring.explain_rule(last.rule_id, last.rule_name, explain_alert.at) AS r;
	RETURN QUERY SELECT 'value', v.* FROM monitoring.explain_value(explain_alert.alert_id, explain_alert.at) AS v;
	RETURN QUERY SELECT 'transition', format('%s to %s: %s', h.from_state, h.to_state, h.reason), jsonb_strip_nulls(jsonb_build_object('at', h.at)
			|| monitoring.alert_reading(to_jsonb(h.value::text), h.op, to_jsonb(h.threshold::text), h.details))
		FROM (SELECT * FROM monitoring.alert_history AS t WHERE t.alert_id = explain_alert.alert_id ORDER BY t.id DESC LIMIT 20) AS h
		ORDER BY h.id;
	RETURN QUERY SELECT 'route', r.* FROM monitoring.explain_routes(explain_alert.alert_id) AS r;
	RETURN QUERY SELECT 'group', g.* FROM monitoring.explain_groups(explain_alert.alert_id, explain_alert.at) AS g;
	RETURN QUERY SELECT 'suppression', s.* FROM monitoring.explain_suppressions(explain_alert.alert_id, explain_alert.at) AS s;
	RETURN QUERY SELECT 'event', 'incident', i.details || jsonb_build_object('at', i.at) FROM monitoring.incident_joined(explain_alert.alert_id) AS i;
	RETURN QUERY SELECT 'event', e.kind || coalesce(': ' || (e.details ->> 'reason'), '') || coalesce(' by ' || e.actor, ''), e.details - 'reason' || jsonb_build_object('at', e.at)
		FROM monitoring.alert_events AS e
		WHERE e.alert_id = explain_alert.alert_id AND e.kind NOT IN ('routed', 'notified', 'digest', 'known')
		ORDER BY e.id;
	RETURN QUERY SELECT 'notification', n.* FROM monitoring.explain_notifications(explain_alert.alert_id) AS n;
	RETURN QUERY SELECT 'next', monitoring.explain_next(last, receivers, explain_alert.at), '{}'::jsonb;
END $$;
COMMENT ON FUNCTION monitoring.explain_alert(bigint, timestamptz) IS 'Why somebody was told of an alert or not, read from what was decided. Steps: alert (its state), rule, value (the comparison), transition (each), route (each that it took, and why), group (its times and receivers), suppression (what holds it back at that time: silence, inhibition, parent, snoozed, dismissed, acknowledged, mute_time, active_time, cooldown), event (what else happened), notification (to whom, why and with which outcome), next. Error 42704 if there is no such alert.';

----------------------------------------------------------------------------------------------------------------------
-- Trying it out
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.simulated_document(rule monitoring.alert_rule_defs, series_labels jsonb, status text, at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state monitoring.alert_states;
	annotations jsonb;
BEGIN
	state.series_labels := series_labels;
	state.value := rule.threshold;
	state.threshold := rule.threshold;
	state.origin := 'value';
	annotations := monitoring.fill_annotations(rule, state);
	RETURN monitoring.alert_document(status, rule.name, rule.severity,
		monitoring.alert_labels(rule, series_labels) || '{"simulated": "true"}',
		annotations || jsonb_build_object('summary', concat_ws(' ', '[SIMULATED]', coalesce(annotations ->> 'summary', 'This is no real alert.'))),
		state.value, rule.op, rule.threshold, at, at, left(encode(sha256(monitoring.utf8_bytes('simulated' || rule.name || series_labels::text)), 'hex'), 16));
END $$;
COMMENT ON FUNCTION monitoring.simulated_document(monitoring.alert_rule_defs, jsonb, text, timestamptz) IS 'A simulated alert of a rule as receivers get it, marked by its label and its summary.';

CREATE FUNCTION monitoring.simulated_suppression(rule_id bigint, labels jsonb, at timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT min(s.reason)
	FROM (
		SELECT 'silence' AS reason
		FROM monitoring.silence_defs AS d
		WHERE d.starts_at <= simulated_suppression.at AND d.ends_at > simulated_suppression.at
			AND monitoring.labels_match(simulated_suppression.labels, d.matchers)
		UNION ALL
		SELECT i.reason FROM monitoring.inhibited_alerts('{-1}', ARRAY[simulated_suppression.labels], simulated_suppression.at) AS i
		UNION ALL
		SELECT p.reason FROM monitoring.alerts_with_firing_parent('{-1}', ARRAY[simulated_suppression.rule_id], ARRAY[simulated_suppression.labels],
			simulated_suppression.at) AS p) AS s
$$;
COMMENT ON FUNCTION monitoring.simulated_suppression(bigint, jsonb, timestamptz) IS 'What would hold back an alert of a rule with these labels: silence, inhibition or parent; null: nothing.';

CREATE FUNCTION monitoring.simulate_alert(rule text, labels jsonb DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (route text, receiver text, waits interval, held_back_by text, group_key text, notifications bigint[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition monitoring.alert_rule_defs;
	all_labels jsonb;
	suppression text;
	now_at timestamptz := clock_timestamp();
	place record;
	target record;
BEGIN
	SELECT d.* INTO definition FROM monitoring.alert_rule_defs AS d WHERE d.name = simulate_alert.rule;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', simulate_alert.rule
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
	END IF;
	labels := monitoring.check_text_map(simulate_alert.labels, 'labels', 4096);
	all_labels := monitoring.alert_labels(definition, labels)
		|| jsonb_build_object('alertname', definition.name, 'severity', definition.severity);
	suppression := monitoring.simulated_suppression(definition.id, all_labels, at);
	PERFORM monitoring.ensure_partition('outbox', now_at);

	FOR place IN
		SELECT s.name, p.group_key, p.labels, CASE WHEN p.rule_id IS NULL THEN monitoring.receivers_told(s.receivers, false)
				ELSE monitoring.receivers_told(definition.receivers, true) END AS told,
			CASE WHEN p.digest IS NULL THEN p.group_wait ELSE monitoring.next_digest(p.digest, simulate_alert.at) - simulate_alert.at END AS waits,
			coalesce(suppression, monitoring.muted_by(s.mute_times, s.active_times, simulate_alert.at)) AS held_back_by
		FROM monitoring.alert_places(ARRAY[definition.id], ARRAY[all_labels]) AS p
		LEFT JOIN monitoring.route_settings() AS s ON s.id = p.route_id
		ORDER BY s.place
	LOOP
		FOR target IN
			SELECT t.name, r.config FROM (SELECT NULL) AS one
			LEFT JOIN unnest(place.told) AS t (name) ON true
			LEFT JOIN monitoring.receiver_defs AS r ON r.name = t.name
			ORDER BY t.name
		LOOP
			route := place.name;
			receiver := target.name;
			waits := place.waits;
			held_back_by := place.held_back_by;
			group_key := place.group_key;
			notifications := NULL;
			IF receiver IS NOT NULL AND held_back_by IS NULL THEN
				WITH sent AS (
					INSERT INTO monitoring.outbox AS o (created_at, at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
					SELECT now_at, simulate_alert.at, target.name, k.key, definition.name, 'test',
						monitoring.make_payload(target.name, k.key, s.status, place.labels,
							jsonb_build_array(monitoring.simulated_document(definition, simulate_alert.labels, s.status, simulate_alert.at)),
							'{"simulated": true}'),
						now_at, now_at + monitoring.max_age(target.config)
					FROM (VALUES (1, 'firing'), (2, 'resolved')) AS s (n, status)
					-- a key of its own, so that nothing real is opened or closed by it
					CROSS JOIN (SELECT place.group_key || ' (simulated ' || monitoring.format_time(now_at) || ')') AS k (key)
					WHERE s.status = 'firing' OR coalesce((target.config ->> 'send_resolved')::boolean, true)
					ORDER BY s.n
					RETURNING o.id)
				SELECT array_agg(s.id ORDER BY s.id) INTO notifications FROM sent AS s;
			END IF;
			RETURN NEXT;
		END LOOP;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.simulate_alert(text, jsonb, timestamptz) IS 'Send an alert of a rule, with these labels besides the rule''s own, the way that it would take: it fires and is resolved at once, marked by the label simulated="true" and its summary. The rule''s alerts are not touched. One row per route and receiver: how long a real alert would wait, what would hold it back (then nothing is sent), and the numbers of the notifications, whose outcome the view notifications shows. No row: nobody would be told. Errors: 42704 if there is no such rule, 22023 for bad labels.';
