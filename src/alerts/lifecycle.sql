-- alerts, lifecycle: what people do with alerts (acknowledge, assign, note, snooze, dismiss, resolve), and everything
-- that happened to them.
--
-- alert_states belongs to the evaluation, which changes its rows by their place under the rule's lock. What people do is kept
-- beside it, per episode: it ends with the episode, without anybody having to write. Nobody here waits for an evaluation, and
-- no evaluation waits for a transaction that somebody left open; only resolve_alert writes states, under the rule's lock.

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
	kind text NOT NULL CHECK (kind ~ '^[a-z][a-z_]{0,62}$'),
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
VALUES ('alert_events', '1 day', 2, '90 days', '{"PRIMARY KEY (at, id)",(alert_id)}');

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
