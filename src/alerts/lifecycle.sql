-- alerts, lifecycle: what people do with alerts (acknowledge, assign, note, snooze, dismiss, resolve), and everything
-- that happened to them.
--
-- alert_states belongs to the evaluation, which changes its rows by their place under the rule's lock. What people do is kept
-- beside it, per episode: it ends with the episode, without anybody having to write. Nobody here waits for an evaluation, and
-- no evaluation waits for a transaction that somebody left open; only close_alert writes states, under the rule's lock.

----------------------------------------------------------------------------------------------------------------------
-- What people did
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.alert_handling (
	alert_id bigint PRIMARY KEY,
	acknowledged_at timestamptz,
	acknowledged_by text,
	acknowledged_until timestamptz,
	first_acknowledged_at timestamptz,
	assignee text,
	snoozed_until timestamptz,
	snoozed_by text,
	dismissed_at timestamptz,
	dismissed_by text,
	false_positive boolean NOT NULL DEFAULT false,
	updated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.alert_handling IS 'What people did with an episode of an alert. A row only for episodes that somebody acted on; kept as long as alert_history.';
COMMENT ON COLUMN monitoring.alert_handling.alert_id IS 'Number of the episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_handling.acknowledged_at IS 'When it was acknowledged; null: it is not. Does not say whether acknowledged_until has passed.';
COMMENT ON COLUMN monitoring.alert_handling.acknowledged_by IS 'Role that acknowledged it.';
COMMENT ON COLUMN monitoring.alert_handling.acknowledged_until IS 'When the acknowledgement expires; null: when the alert is resolved.';
COMMENT ON COLUMN monitoring.alert_handling.first_acknowledged_at IS 'When it was acknowledged for the first time; stays when an acknowledgement is withdrawn.';
COMMENT ON COLUMN monitoring.alert_handling.assignee IS 'Who works on it; null: nobody.';
COMMENT ON COLUMN monitoring.alert_handling.snoozed_until IS 'Nobody is notified before this time.';
COMMENT ON COLUMN monitoring.alert_handling.snoozed_by IS 'Role that snoozed it.';
COMMENT ON COLUMN monitoring.alert_handling.dismissed_at IS 'When it was dismissed; null: it is not.';
COMMENT ON COLUMN monitoring.alert_handling.dismissed_by IS 'Role that dismissed it.';
COMMENT ON COLUMN monitoring.alert_handling.false_positive IS 'Whether somebody said that it should not have fired.';
COMMENT ON COLUMN monitoring.alert_handling.updated_at IS 'When the row last changed.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_handling', '');

----------------------------------------------------------------------------------------------------------------------
-- Everything that happened
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.alert_events_id_seq;
COMMENT ON SEQUENCE monitoring.alert_events_id_seq IS 'Ids of what happened to alerts.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_events_id_seq', '');

CREATE TABLE monitoring.alert_events (
	id bigint NOT NULL DEFAULT nextval('monitoring.alert_events_id_seq'),
	at timestamptz NOT NULL,
	alert_id bigint NOT NULL,
	-- those of which there are 100,000 at once come before the expression, which takes longer than all else about a row
	kind text NOT NULL CHECK (kind IN ('notified', 'known', 'suppressed', 'unsuppressed', 'routed', 'escalated') OR kind ~ '^[a-z][a-z_]{0,62}$'),
	actor text,
	details jsonb NOT NULL DEFAULT '{}'
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.alert_events IS 'What people and the extension did about alerts, besides their transitions (alert_history); kept as long as retention_policies says (90 days). alert_timeline() shows both.';
COMMENT ON COLUMN monitoring.alert_events.id IS 'Number of the event, in order.';
COMMENT ON COLUMN monitoring.alert_events.at IS 'When it happened.';
COMMENT ON COLUMN monitoring.alert_events.alert_id IS 'Number of the episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_events.kind IS 'What happened, such as acknowledged, note, notified or suppressed.';
COMMENT ON COLUMN monitoring.alert_events.actor IS 'Role that did it; null: the extension.';
COMMENT ON COLUMN monitoring.alert_events.details IS 'What belongs to it, such as a comment or the receiver.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('alert_events', '1 day', 2, '90 days', '{(alert_id)}');

CREATE FUNCTION monitoring.add_alert_events(alert_ids bigint[], kind text, details jsonb DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), actor text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(cardinality(alert_ids), 0) = 0 THEN
		RETURN;
	END IF;
	PERFORM monitoring.ensure_partition('alert_events', at);
	INSERT INTO monitoring.alert_events (at, alert_id, kind, actor, details)
	SELECT add_alert_events.at, a.id, add_alert_events.kind, add_alert_events.actor, coalesce(add_alert_events.details, '{}')
	FROM unnest(alert_ids) AS a (id)
	ORDER BY a.id;
END $$;
COMMENT ON FUNCTION monitoring.add_alert_events(bigint[], text, jsonb, timestamptz, text) IS 'Note that the same thing happened to each of these alerts. actor: role that did it; null for the extension.';

CREATE FUNCTION monitoring.add_alert_event(alert_id bigint, kind text, details jsonb DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), actor text DEFAULT NULL)
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.add_alert_events(ARRAY[alert_id], kind, details, at, actor)
$$;
COMMENT ON FUNCTION monitoring.add_alert_event(bigint, text, jsonb, timestamptz, text) IS 'Note that something happened to an alert. actor: role that did it; null for the extension.';

----------------------------------------------------------------------------------------------------------------------
-- Acting on alerts
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_comment(comment text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF octet_length(comment) > 10000 THEN
		RAISE EXCEPTION 'a comment must not take more than 10000 bytes' USING ERRCODE = 'program_limit_exceeded';
	ELSIF translate(comment, E'\n\t', '') ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'a comment must not hold control characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN nullif(btrim(comment), '');
END $$;
COMMENT ON FUNCTION monitoring.check_comment(text) IS 'The comment without spaces around it; null for none. Errors: 54000 beyond 10000 bytes, 22023 for control characters but newline and tab.';

CREATE FUNCTION monitoring.check_alert(alert_id bigint, ended boolean DEFAULT false) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF EXISTS (SELECT FROM monitoring.alert_states AS s WHERE s.alert_id = check_alert.alert_id AND s.state <> 'resolved') THEN
		RETURN ARRAY[alert_id];
	ELSIF NOT EXISTS (SELECT FROM monitoring.alert_history AS h WHERE h.alert_id = check_alert.alert_id) THEN
		RAISE EXCEPTION 'alert % does not exist', alert_id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alerts.';
	ELSIF NOT coalesce(ended, false) THEN
		RAISE EXCEPTION 'alert % has ended', alert_id USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'When it comes back, it is another alert with a number of its own.';
	END IF;
	RETURN ARRAY[alert_id];
END $$;
COMMENT ON FUNCTION monitoring.check_alert(bigint, boolean) IS 'The alert as a list of one. Errors: 42704 if there is no such alert, 55000 if it has ended and ended ones will not do.';

CREATE FUNCTION monitoring.current_alerts(matchers jsonb, at timestamptz) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ARRAY(
		SELECT a.ids[m.labels_no]
		FROM (SELECT array_agg(l.alert_id) AS ids, array_agg(l.labels) AS labels
			FROM monitoring.alert_labels(NULL, current_alerts.at) AS l) AS a
		CROSS JOIN LATERAL monitoring.match_labels(a.labels,
			ARRAY[monitoring.check_matchers(current_alerts.matchers, 'matchers')]) AS m
		ORDER BY 1)
$$;
COMMENT ON FUNCTION monitoring.current_alerts(jsonb, timestamptz) IS 'The pending and firing alerts whose labels match, alertname and severity included.';

-- Who comes second changes nothing and is told so. Rows are written in the order of their numbers, so that two who act on
-- many alerts at once do not wait for each other in a circle.
CREATE FUNCTION monitoring.acknowledge(alert_ids bigint[], until timestamptz, comment text, at timestamptz, actor text)
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changed bigint[];
BEGIN
	IF until <= at OR NOT isfinite(until) THEN
		RAISE EXCEPTION 'an acknowledgement must end in the future' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Without an end it lasts until the alert is resolved.';
	END IF;
	comment := monitoring.check_comment(comment);
	WITH written AS (
		INSERT INTO monitoring.alert_handling AS h
			(alert_id, acknowledged_at, acknowledged_by, acknowledged_until, first_acknowledged_at, updated_at)
		SELECT a.id, acknowledge.at, acknowledge.actor, acknowledge.until, acknowledge.at, acknowledge.at
		FROM unnest(acknowledge.alert_ids) AS a (id)
		ORDER BY a.id
		ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
		SET acknowledged_at = CASE WHEN h.acknowledged_until <= excluded.acknowledged_at THEN excluded.acknowledged_at
				ELSE coalesce(h.acknowledged_at, excluded.acknowledged_at) END,
			acknowledged_by = excluded.acknowledged_by, acknowledged_until = excluded.acknowledged_until,
			first_acknowledged_at = coalesce(h.first_acknowledged_at, excluded.first_acknowledged_at),
			updated_at = excluded.updated_at
		WHERE h.acknowledged_at IS NULL
			OR coalesce(h.acknowledged_until, 'infinity') < coalesce(excluded.acknowledged_until, 'infinity')
		RETURNING h.alert_id)
	SELECT array_agg(w.alert_id) INTO changed FROM written AS w;
	INSERT INTO monitoring.routing_queue (kind, alert_id) SELECT 'acknowledged', c FROM unnest(changed) AS c;
	PERFORM monitoring.add_alert_events(changed, 'acknowledged',
		jsonb_strip_nulls(jsonb_build_object('until', until, 'comment', comment)), at, actor);
	RETURN coalesce(cardinality(changed), 0);
END $$;
COMMENT ON FUNCTION monitoring.acknowledge(bigint[], timestamptz, text, timestamptz, text) IS 'Acknowledge alerts in the name of a role, and return how many were not acknowledged before, or not for that long.';

CREATE FUNCTION monitoring.acknowledge_alert(alert_id bigint, until timestamptz DEFAULT NULL, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.acknowledge(monitoring.check_alert(alert_id), until, comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.acknowledge_alert(bigint, timestamptz, text, timestamptz) IS 'Say that you take care of an alert: it is neither notified again nor escalated until it is resolved, or until a time. False: somebody has acknowledged it already, for at least as long. When it comes back it is another alert, which nobody has acknowledged. Errors: 42704 if there is no such alert, 55000 if it has ended, 22023 for a time that is not in the future.';

CREATE FUNCTION monitoring.acknowledge_alerts(matchers jsonb, until timestamptz DEFAULT NULL, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.acknowledge(monitoring.current_alerts(matchers, at), until, comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.acknowledge_alerts(jsonb, timestamptz, text, timestamptz) IS 'Acknowledge all pending and firing alerts whose labels match, such as {"alertname": "slow checkout"}, and return how many that changed. Errors as acknowledge_alert, and those of matchers.';

CREATE FUNCTION monitoring.wake_groups_of(alert_id bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.request_routing('wake', s.rule_id) FROM monitoring.alert_states AS s WHERE s.alert_id = wake_groups_of.alert_id
$$;
COMMENT ON FUNCTION monitoring.wake_groups_of(bigint) IS 'Have the next evaluation look at the groups of an alert''s rule: somebody may have to be told of it again.';

CREATE FUNCTION monitoring.unacknowledge_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id);
	comment := monitoring.check_comment(comment);
	UPDATE monitoring.alert_handling AS h
	SET acknowledged_at = NULL, acknowledged_by = NULL, acknowledged_until = NULL, updated_at = at
	WHERE h.alert_id = unacknowledge_alert.alert_id AND h.acknowledged_at IS NOT NULL
		AND coalesce(h.acknowledged_until > at, true);
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, 'unacknowledged', jsonb_strip_nulls(jsonb_build_object('comment', comment)),
			at, monitoring.calling_role());
		PERFORM monitoring.wake_groups_of(alert_id);
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.unacknowledge_alert(bigint, text, timestamptz) IS 'Take an acknowledgement back: the alert is notified again. False: there was none. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.assign(alert_ids bigint[], assignee text, comment text, at timestamptz, actor text)
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changed bigint[];
BEGIN
	IF assignee !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an assignee''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	comment := monitoring.check_comment(comment);
	WITH written AS (
		INSERT INTO monitoring.alert_handling AS h (alert_id, assignee, updated_at)
		SELECT a.id, assign.assignee, assign.at FROM unnest(assign.alert_ids) AS a (id) ORDER BY a.id
		ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
		SET assignee = excluded.assignee, updated_at = excluded.updated_at
		WHERE h.assignee IS DISTINCT FROM excluded.assignee
		RETURNING h.alert_id)
	SELECT array_agg(w.alert_id) INTO changed FROM written AS w;
	PERFORM monitoring.add_alert_events(changed, 'assigned',
		jsonb_build_object('assignee', assignee) || jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, actor);
	RETURN coalesce(cardinality(changed), 0);
END $$;
COMMENT ON FUNCTION monitoring.assign(bigint[], text, text, timestamptz, text) IS 'Assign alerts in the name of a role, and return how many changed hands.';

CREATE FUNCTION monitoring.assign_alert(alert_id bigint, assignee text, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.assign(monitoring.check_alert(alert_id), assignee, comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.assign_alert(bigint, text, text, timestamptz) IS 'Say who works on an alert (null: nobody); any name will do. False: it was so before. It is notified as before. Errors: 42704 if there is no such alert, 55000 if it has ended, 22023 for a name that is not valid.';

CREATE FUNCTION monitoring.assign_alerts(matchers jsonb, assignee text, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.assign(monitoring.current_alerts(matchers, at), assignee, comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.assign_alerts(jsonb, text, text, timestamptz) IS 'Assign all pending and firing alerts whose labels match, and return how many that changed. Errors as assign_alert, and those of matchers.';

CREATE FUNCTION monitoring.note_alert(alert_id bigint, note text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	note := monitoring.check_comment(note);
	IF note IS NULL THEN
		RAISE EXCEPTION 'a note must not be empty' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.add_alert_events(monitoring.check_alert(alert_id, ended => true), 'note',
		jsonb_build_object('comment', note), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.note_alert(bigint, text, timestamptz) IS 'Write a note into the timeline of an alert, also of one that has ended. Errors: 42704 if there is no such alert, 22023 for an empty note, 54000 for more than 10000 bytes.';

CREATE FUNCTION monitoring.snooze(alert_ids bigint[], duration interval, comment text, at timestamptz, actor text)
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF duration IS NULL OR duration <= '0' OR NOT isfinite(at + duration) THEN
		RAISE EXCEPTION 'an alert can be snoozed only for a time longer than zero' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	comment := monitoring.check_comment(comment);
	INSERT INTO monitoring.alert_handling AS h (alert_id, snoozed_until, snoozed_by, updated_at)
	SELECT a.id, snooze.at + snooze.duration, snooze.actor, snooze.at FROM unnest(snooze.alert_ids) AS a (id) ORDER BY a.id
	ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
	SET snoozed_until = excluded.snoozed_until, snoozed_by = excluded.snoozed_by, updated_at = excluded.updated_at;
	PERFORM monitoring.add_alert_events(alert_ids, 'snoozed',
		jsonb_strip_nulls(jsonb_build_object('until', at + duration, 'comment', comment)), at, actor);
	RETURN cardinality(alert_ids);
END $$;
COMMENT ON FUNCTION monitoring.snooze(bigint[], interval, text, timestamptz, text) IS 'Snooze alerts in the name of a role, and return how many.';

CREATE FUNCTION monitoring.snooze_alert(alert_id bigint, duration interval, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.snooze(monitoring.check_alert(alert_id), duration, comment, at, monitoring.calling_role());
	RETURN at + duration;
END $$;
COMMENT ON FUNCTION monitoring.snooze_alert(bigint, interval, text, timestamptz) IS 'Let nobody be notified of an alert for a time from now, longer or shorter than it was snoozed before, and return when that ends: if it still fires then, it is notified again. Errors: 42704 if there is no such alert, 55000 if it has ended, 22023 for a duration that is not longer than zero.';

CREATE FUNCTION monitoring.snooze_alerts(matchers jsonb, duration interval, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.snooze(monitoring.current_alerts(matchers, at), duration, comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.snooze_alerts(jsonb, interval, text, timestamptz) IS 'Snooze all pending and firing alerts whose labels match, and return how many. Alerts that fire later are not snoozed: create_silence holds them too. Errors as snooze_alert, and those of matchers.';

CREATE FUNCTION monitoring.unsnooze_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id);
	comment := monitoring.check_comment(comment);
	UPDATE monitoring.alert_handling AS h SET snoozed_until = NULL, snoozed_by = NULL, updated_at = at
	WHERE h.alert_id = unsnooze_alert.alert_id AND h.snoozed_until > at;
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, 'unsnoozed', jsonb_strip_nulls(jsonb_build_object('comment', comment)),
			at, monitoring.calling_role());
		PERFORM monitoring.wake_groups_of(alert_id);
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.unsnooze_alert(bigint, text, timestamptz) IS 'End the snoozing of an alert. False: it was not snoozed. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.dismiss(alert_ids bigint[], comment text, at timestamptz, actor text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changed bigint[];
BEGIN
	comment := monitoring.check_comment(comment);
	WITH written AS (
		INSERT INTO monitoring.alert_handling AS h (alert_id, dismissed_at, dismissed_by, updated_at)
		SELECT a.id, dismiss.at, dismiss.actor, dismiss.at FROM unnest(dismiss.alert_ids) AS a (id) ORDER BY a.id
		ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
		SET dismissed_at = excluded.dismissed_at, dismissed_by = excluded.dismissed_by, updated_at = excluded.updated_at
		WHERE h.dismissed_at IS NULL
		RETURNING h.alert_id)
	SELECT array_agg(w.alert_id) INTO changed FROM written AS w;
	PERFORM monitoring.add_alert_events(changed, 'dismissed', jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, actor);
	RETURN coalesce(cardinality(changed), 0);
END $$;
COMMENT ON FUNCTION monitoring.dismiss(bigint[], text, timestamptz, text) IS 'Dismiss alerts in the name of a role, and return how many were not dismissed before.';

CREATE FUNCTION monitoring.dismiss_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.dismiss(monitoring.check_alert(alert_id), comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.dismiss_alert(bigint, text, timestamptz) IS 'Say that an alert does not matter: nobody is notified of it any more until it is resolved, nor does anybody take care of it. False: it was dismissed before. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.dismiss_alerts(matchers jsonb, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.dismiss(monitoring.current_alerts(matchers, at), comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.dismiss_alerts(jsonb, text, timestamptz) IS 'Dismiss all pending and firing alerts whose labels match, and return how many that changed. Errors: those of matchers.';

CREATE FUNCTION monitoring.undismiss_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id);
	comment := monitoring.check_comment(comment);
	UPDATE monitoring.alert_handling AS h SET dismissed_at = NULL, dismissed_by = NULL, updated_at = at
	WHERE h.alert_id = undismiss_alert.alert_id AND h.dismissed_at IS NOT NULL;
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, 'undismissed', jsonb_strip_nulls(jsonb_build_object('comment', comment)),
			at, monitoring.calling_role());
		PERFORM monitoring.wake_groups_of(alert_id);
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.undismiss_alert(bigint, text, timestamptz) IS 'Take a dismissal back. False: the alert was not dismissed. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.mark_false_positive(alert_id bigint, false_positive boolean DEFAULT true, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id, ended => true);
	comment := monitoring.check_comment(comment);
	INSERT INTO monitoring.alert_handling AS h (alert_id, false_positive, updated_at)
	VALUES (mark_false_positive.alert_id, coalesce(mark_false_positive.false_positive, true), at)
	ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
	SET false_positive = excluded.false_positive, updated_at = excluded.updated_at
	WHERE h.false_positive <> excluded.false_positive;
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, CASE WHEN false_positive IS FALSE THEN 'true_positive' ELSE 'false_positive' END,
			jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, monitoring.calling_role());
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.mark_false_positive(bigint, boolean, text, timestamptz) IS 'Say that an alert should not have fired (or, with false, that it was right after all), also when it has ended; alert_statistics() counts them. It is notified as before. False: it was marked so before. Error 42704 if there is no such alert.';

----------------------------------------------------------------------------------------------------------------------
-- Resolving by hand
----------------------------------------------------------------------------------------------------------------------

-- An evaluation that read the states before it could lock the rule finds another version of it and leaves its alerts to the
-- next one.
CREATE FUNCTION monitoring.resolve(alert_ids bigint[], comment text, at timestamptz, actor text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rules bigint[];
	ended bigint[];
	transitions bigint[];
BEGIN
	comment := monitoring.check_comment(comment);
	-- in the order of the names, as all who need both take their locks
	PERFORM monitoring.ensure_partition('alert_events', at);
	PERFORM monitoring.ensure_partition('alert_history', at);
	SELECT array_agg(l.id) INTO rules
	FROM (SELECT d.id
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT s.rule_id FROM monitoring.alert_states AS s WHERE s.alert_id = ANY (resolve.alert_ids))
		ORDER BY d.id
		FOR NO KEY UPDATE) AS l;
	UPDATE monitoring.alert_rule_defs AS d SET version = d.version + 1 WHERE d.id = ANY (rules);

	WITH resolved AS (
		UPDATE monitoring.alert_states AS s
		SET state = 'resolved', resolved_at = resolve.at, clear_since = NULL, missing_since = NULL, updated_at = resolve.at
		WHERE s.alert_id = ANY (resolve.alert_ids) AND s.state = 'firing'
		RETURNING s, 'firing' AS from_state, 'resolved' AS to_state
	), forgotten AS (
		DELETE FROM monitoring.alert_states AS s
		WHERE s.alert_id = ANY (resolve.alert_ids) AND s.state = 'pending'
		RETURNING s, 'pending', 'inactive'
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT resolve.at, (e.s).alert_id, d.id, d.name, d.severity, (e.s).series_labels,
			monitoring.alert_labels(d, (e.s).series_labels), e.from_state, e.to_state, 'manual', (e.s).value, d.op,
			(e.s).threshold, monitoring.fill_annotations(d, e.s), (e.s).details, (e.s).active_at, (e.s).fired_at, (e.s).fingerprint
		FROM (SELECT * FROM resolved UNION ALL SELECT * FROM forgotten) AS e
		JOIN monitoring.alert_rule_defs AS d ON d.id = (e.s).rule_id
		ORDER BY (e.s).alert_id
		RETURNING id, alert_id)
	SELECT array_agg(w.alert_id), coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO ended, transitions FROM written AS w;
	PERFORM monitoring.add_alert_events(ended, 'resolved', jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, actor);
	PERFORM monitoring.queue_transitions(transitions, at);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.resolve(bigint[], text, timestamptz, text) IS 'End alerts in the name of a role, with history and notifications, and return how many were pending or firing.';

CREATE FUNCTION monitoring.close_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.resolve(monitoring.check_alert(alert_id), comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.close_alert(bigint, text, timestamptz) IS 'End an alert by hand; receivers are told that it is resolved. If its value still breaches the threshold, the next evaluation begins another one, which fires after the rule''s pending_for. False: it ended at the same moment. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.close_alerts(matchers jsonb, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.resolve(monitoring.current_alerts(matchers, at), comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.close_alerts(jsonb, text, timestamptz) IS 'End all pending and firing alerts whose labels match, and return how many. Errors: those of matchers.';

----------------------------------------------------------------------------------------------------------------------
-- What keeps alerts quiet
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.handled_alerts(alert_ids bigint[], at timestamptz)
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT h.alert_id, r.reason, jsonb_strip_nulls(r.details)
	FROM monitoring.alert_handling AS h
	CROSS JOIN LATERAL (VALUES
		('snoozed', h.snoozed_until > handled_alerts.at, jsonb_build_object('until', h.snoozed_until, 'by', h.snoozed_by)),
		('dismissed', h.dismissed_at IS NOT NULL, jsonb_build_object('at', h.dismissed_at, 'by', h.dismissed_by)),
		('acknowledged', h.acknowledged_at IS NOT NULL AND coalesce(h.acknowledged_until > handled_alerts.at, true),
			jsonb_build_object('at', h.acknowledged_at, 'by', h.acknowledged_by, 'until', h.acknowledged_until))
	) AS r (reason, holds, details)
	WHERE r.holds AND h.alert_id = ANY (handled_alerts.alert_ids)
$$;
COMMENT ON FUNCTION monitoring.handled_alerts(bigint[], timestamptz) IS 'Which of these alerts are quiet because somebody snoozed, dismissed or acknowledged them.';

CREATE FUNCTION monitoring.alert_suppressions(alert_ids bigint[], at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silences bigint[];
	matchers jsonb[];
	inhibits boolean := EXISTS (SELECT FROM monitoring.inhibition_rule_defs AS i WHERE i.enabled);
	depends boolean := EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.parent IS NOT NULL);
	ids bigint[];
	rules bigint[];
	labels jsonb[];
BEGIN
	-- the one that lasts longest is told of
	SELECT array_agg(s.id ORDER BY s.ends_at DESC, s.id), array_agg(s.matchers ORDER BY s.ends_at DESC, s.id)
	INTO silences, matchers
	FROM monitoring.silence_defs AS s
	WHERE s.starts_at <= alert_suppressions.at AND s.ends_at > alert_suppressions.at;

	-- labels are looked up only if something asks for them
	IF silences IS NOT NULL OR inhibits OR depends THEN
		SELECT array_agg(l.alert_id), array_agg(l.rule_id), array_agg(l.labels) INTO ids, rules, labels
		FROM monitoring.alert_labels(alert_suppressions.alert_ids, alert_suppressions.at) AS l;
	END IF;
	IF ids IS NOT NULL THEN
		RETURN QUERY
		SELECT ids[m.labels_no], 'silence', jsonb_build_object('silence', s.id, 'until', s.ends_at, 'by', s.created_by, 'comment', s.comment)
		FROM monitoring.match_labels(labels, matchers, true) AS m
		JOIN monitoring.silence_defs AS s ON s.id = silences[m.selector_no];
	END IF;
	IF ids IS NOT NULL AND inhibits THEN
		RETURN QUERY SELECT i.* FROM monitoring.inhibited_alerts(ids, labels, alert_suppressions.at) AS i;
	END IF;
	IF ids IS NOT NULL AND depends THEN
		RETURN QUERY SELECT p.* FROM monitoring.alerts_with_firing_parent(ids, rules, labels, alert_suppressions.at) AS p;
	END IF;
	RETURN QUERY SELECT h.* FROM monitoring.handled_alerts(coalesce(alert_suppressions.alert_ids,
		ARRAY(SELECT s.alert_id FROM monitoring.alert_handling AS g JOIN monitoring.alert_states AS s ON s.alert_id = g.alert_id
			WHERE s.state <> 'resolved')), alert_suppressions.at) AS h;
END $$;
COMMENT ON FUNCTION monitoring.alert_suppressions(bigint[], timestamptz) IS 'Why nobody is notified of these alerts (null: of all that are pending or firing) at a time, one row per alert and reason: silence, inhibition, parent, snoozed, dismissed or acknowledged. details say which silence, rule or person, and until when.';

CREATE FUNCTION monitoring.suppressed_now() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(a.alert_id, a.reasons), '{}')
	FROM (SELECT s.alert_id, string_agg(s.reason, ', ' ORDER BY s.reason COLLATE "C") AS reasons
		FROM monitoring.alert_suppressions(NULL) AS s
		GROUP BY s.alert_id) AS a
$$;
COMMENT ON FUNCTION monitoring.suppressed_now() IS 'Why nobody is notified now, by the number of the alert: an object of texts such as {"17": "acknowledged, silence"}.';

----------------------------------------------------------------------------------------------------------------------
-- The alerts
----------------------------------------------------------------------------------------------------------------------

-- The sub-select does not depend on the row: it runs once, and only if the column is read.
CREATE VIEW monitoring.alerts AS
	SELECT s.alert_id, d.name AS rule, d.severity, s.state,
		monitoring.alert_labels(d, s.series_labels) AS labels,
		s.value, d.op, s.threshold, s.active_at, s.fired_at, s.resolved_at,
		monitoring.fill_annotations(d, s) AS annotations, s.details, s.fingerprint, s.updated_at,
		CASE WHEN a.holds THEN h.acknowledged_at END AS acknowledged_at,
		CASE WHEN a.holds THEN h.acknowledged_by END AS acknowledged_by,
		CASE WHEN a.holds THEN h.acknowledged_until END AS acknowledged_until,
		h.assignee, COALESCE(h.false_positive, false) AS false_positive,
		(SELECT monitoring.suppressed_now()) OPERATOR(pg_catalog.->>) s.alert_id::pg_catalog.text AS suppressed,
		CASE WHEN pg_catalog.jsonb_typeof(s.details OPERATOR(pg_catalog.->) 'reading') OPERATOR(pg_catalog.=) 'string'
			THEN s.details OPERATOR(pg_catalog.->>) 'reading'
			ELSE pg_catalog.concat_ws(' ', s.value, d.op, s.threshold) END AS reading
	FROM monitoring.alert_states AS s
	JOIN monitoring.alert_rule_defs AS d ON d.id OPERATOR(pg_catalog.=) s.rule_id
	LEFT JOIN monitoring.alert_handling AS h ON h.alert_id OPERATOR(pg_catalog.=) s.alert_id
	CROSS JOIN LATERAL (SELECT COALESCE(h.acknowledged_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp(), true) AS holds) AS a;
COMMENT ON VIEW monitoring.alerts IS 'Alerts that are pending, firing, or were resolved within the last day.';
COMMENT ON COLUMN monitoring.alerts.rule IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.alerts.severity IS 'Severity of the rule.';
COMMENT ON COLUMN monitoring.alerts.labels IS 'All labels: the rule''s selector, its extra labels and those of the group.';
COMMENT ON COLUMN monitoring.alerts.op IS 'The rule''s operator.';
COMMENT ON COLUMN monitoring.alerts.annotations IS 'The rule''s annotations, filled in.';
COMMENT ON COLUMN monitoring.alerts.fingerprint IS 'Hash of the rule''s name and the group''s labels; the same in every episode.';
COMMENT ON COLUMN monitoring.alerts.updated_at IS 'Time of the evaluation that last changed the alert.';
COMMENT ON COLUMN monitoring.alerts.acknowledged_at IS 'Since when somebody takes care of it; null: nobody has acknowledged it, or no longer.';
COMMENT ON COLUMN monitoring.alerts.acknowledged_by IS 'Role that acknowledged it.';
COMMENT ON COLUMN monitoring.alerts.acknowledged_until IS 'When the acknowledgement expires; null: when the alert is resolved.';
COMMENT ON COLUMN monitoring.alerts.assignee IS 'Who works on it.';
COMMENT ON COLUMN monitoring.alerts.false_positive IS 'Whether somebody said that it should not have fired.';
COMMENT ON COLUMN monitoring.alerts.suppressed IS 'Why nobody is notified of it now, such as "acknowledged, silence"; alert_suppressions() knows more. Null: nothing keeps it quiet.';
COMMENT ON COLUMN monitoring.alerts.reading IS 'What it measured, for people: value, operator and threshold, or what its kind says in place of them, such as who raised it.';
SELECT monitoring.inherit_comments('monitoring.alerts', 'monitoring.alert_states');
