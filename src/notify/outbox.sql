-- outbox: notifications to send and sent, the attempts to deliver them, and what formatters get.

CREATE SEQUENCE monitoring.outbox_id_seq;
COMMENT ON SEQUENCE monitoring.outbox_id_seq IS 'Ids of notifications.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.outbox_id_seq', '');

CREATE TABLE monitoring.outbox (
	id bigint NOT NULL DEFAULT nextval('monitoring.outbox_id_seq'),
	created_at timestamptz NOT NULL,
	at timestamptz,
	receiver text NOT NULL,
	idempotency_key text NOT NULL DEFAULT gen_random_uuid(),
	group_key text NOT NULL,
	alert text NOT NULL,
	status text NOT NULL,
	alert_ids bigint[] NOT NULL DEFAULT '{}',
	payload jsonb NOT NULL,
	state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sending', 'sent', 'failed', 'dead', 'superseded', 'cancelled')),
	attempts integer NOT NULL DEFAULT 0,
	next_attempt_at timestamptz NOT NULL,
	expires_at timestamptz NOT NULL,
	lease_until timestamptz,
	http_status integer,
	error text,
	latency float8,
	sent_at timestamptz
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE monitoring.outbox IS 'Notifications to send and sent, one row per receiver and group of alerts; written in the transaction that changes the alerts. Times are the real clock''s, but for at.';
COMMENT ON COLUMN monitoring.outbox.id IS 'Number of the notification, in order of creation.';
COMMENT ON COLUMN monitoring.outbox.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN monitoring.outbox.at IS 'Time of the evaluation that made it; null for a test.';
COMMENT ON COLUMN monitoring.outbox.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.outbox.idempotency_key IS 'The same in every attempt, so that a receiver can drop repeats.';
COMMENT ON COLUMN monitoring.outbox.group_key IS 'Group of alerts; a receiver gets the notifications of a group in order, one at a time.';
COMMENT ON COLUMN monitoring.outbox.alert IS 'Name of the alert rule; of the route where it tells of several.';
COMMENT ON COLUMN monitoring.outbox.status IS 'firing, resolved, acknowledged, still firing (told again to a receiver that would take silence for the end), also resolved (what such a receiver''s notification had no room for), message, heartbeat or test.';
COMMENT ON COLUMN monitoring.outbox.alert_ids IS 'The alerts (alerts.alert_id) that it lists.';
COMMENT ON COLUMN monitoring.outbox.payload IS 'What the formatter gets: group key, labels, annotations and alerts.';
COMMENT ON COLUMN monitoring.outbox.state IS 'queued; sending (claimed until lease_until); failed (tried again at next_attempt_at); sent; dead (given up); superseded (a later one says it all); cancelled.';
COMMENT ON COLUMN monitoring.outbox.attempts IS 'Attempts begun.';
COMMENT ON COLUMN monitoring.outbox.next_attempt_at IS 'Not tried before this time.';
COMMENT ON COLUMN monitoring.outbox.expires_at IS 'Given up at this time.';
COMMENT ON COLUMN monitoring.outbox.lease_until IS 'While sending: when the claim ends and the row may be sent again.';
COMMENT ON COLUMN monitoring.outbox.http_status IS 'Status of the last response, of a mail server its last reply; null if none came.';
COMMENT ON COLUMN monitoring.outbox.error IS 'Why the last attempt failed; holds no secrets.';
COMMENT ON COLUMN monitoring.outbox.latency IS 'Seconds the last attempt took.';
COMMENT ON COLUMN monitoring.outbox.sent_at IS 'When it was delivered.';

CREATE TABLE monitoring.delivery_attempts (
	at timestamptz NOT NULL,
	notification_id bigint NOT NULL,
	receiver text NOT NULL,
	attempt integer NOT NULL,
	outcome text NOT NULL,
	http_status integer,
	latency float8,
	error text,
	bytes bigint,
	protocol text
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.delivery_attempts IS 'Every attempt to deliver a notification, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.delivery_attempts.at IS 'When the attempt ended.';
COMMENT ON COLUMN monitoring.delivery_attempts.notification_id IS 'The notification (notifications.id).';
COMMENT ON COLUMN monitoring.delivery_attempts.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.delivery_attempts.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN monitoring.delivery_attempts.outcome IS 'response (http_status says which), network (no response), refused (against the outbound rules), delivered (in this database: NOTIFY, or the function returned), raised (the function failed, and may not the next time), rejected (it failed for good), nothing (the formatter had nothing to send), unformattable (the formatter failed; call it by hand for its message), unformatted (it failed, or a secret could not be read, but may work the next time), postponed (formatters of other notifications took too long), lost (the sender or the notifier ended before the outcome was known).';
COMMENT ON COLUMN monitoring.delivery_attempts.http_status IS 'Status of the response, of a mail server its last reply; null if none came.';
COMMENT ON COLUMN monitoring.delivery_attempts.latency IS 'Seconds the attempt took; null if nothing was sent.';
COMMENT ON COLUMN monitoring.delivery_attempts.error IS 'Why it failed; holds no secrets.';
COMMENT ON COLUMN monitoring.delivery_attempts.bytes IS 'Bytes of the response that were read, headers included; null if none came.';
COMMENT ON COLUMN monitoring.delivery_attempts.protocol IS 'What the response came by: HTTP/1.0, HTTP/1.1, HTTP/2, HTTP/3 or SMTP; NOTIFY or SQL of what was done in the database; null if none came.';

-- Of the outbox only unfinished rows are in the indexes besides the key: their size follows the backlog, not the
-- history. They serve a receiver's rows in order, other rows of a group, rows that become too old, and what is being sent.
-- A group's have one expression for a key, and the last has none that another has: a planner without statistics, as of
-- every new day, must not take the index of all that a receiver waits for instead.
INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes) VALUES
	('outbox', '1 day', 2, '30 days', ARRAY['PRIMARY KEY (created_at, id)',
		$$(receiver, id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$((receiver || E'\n' || group_key), id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(expires_at) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(lease_until) WHERE state = 'sending'$$]),
	('delivery_attempts', '1 day', 2, '30 days', '{(notification_id)}');

-- The planner puts the bodies of these two in place of the calls, so that partial indexes and partitions serve.
CREATE FUNCTION monitoring.is_unfinished(state text, created_at timestamptz, at timestamptz) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- nothing lives for more than a day (max_age_seconds)
RETURN state IN ('queued', 'sending', 'failed') AND created_at > at - interval '2 days';
COMMENT ON FUNCTION monitoring.is_unfinished(text, timestamptz, timestamptz) IS 'Is a notification in this state, enqueued at that time, still to be sent? Two days of partitions hold all that are.';

CREATE FUNCTION monitoring.is_due(state text, created_at timestamptz, next_attempt_at timestamptz, at timestamptz) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- what was enqueued in the future is due: the clock has stepped back, and nobody is to wait until it has caught up
RETURN monitoring.is_unfinished(state, created_at, at)
	AND (next_attempt_at <= at OR created_at > at + interval '1 minute' AND state <> 'sending');
COMMENT ON FUNCTION monitoring.is_due(text, timestamptz, timestamptz, timestamptz) IS 'Is a notification to be sent at a time, once those before it in its group are finished?';

CREATE VIEW monitoring.notifications AS
	SELECT o.id, o.receiver, o.alert, o.status, o.state, o.attempts, o.http_status, o.error, o.created_at, o.sent_at,
		o.latency, CASE WHEN o.state IN ('queued', 'failed') THEN o.next_attempt_at END AS next_attempt_at,
		o.idempotency_key, o.alert_ids, o.at, o.group_key, o.payload ->> 'reason' AS reason
	FROM monitoring.outbox AS o;
COMMENT ON VIEW monitoring.notifications IS 'Notifications with the state of their delivery, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.notifications.id IS 'Number of the notification, as test_receiver returns it.';
COMMENT ON COLUMN monitoring.notifications.state IS 'queued, sending, sent, failed (will be tried again), dead (given up), superseded (a later one of its group says it all) or cancelled.';
COMMENT ON COLUMN monitoring.notifications.http_status IS 'HTTP status of the last response, of a mail server its last reply; null if none came.';
COMMENT ON COLUMN monitoring.notifications.next_attempt_at IS 'When it is tried next; null if it is being sent or finished.';
COMMENT ON COLUMN monitoring.notifications.idempotency_key IS 'Key that the receiver sees in every attempt.';
COMMENT ON COLUMN monitoring.notifications.alert_ids IS 'The alerts that it lists.';
COMMENT ON COLUMN monitoring.notifications.group_key IS 'Group of alerts that it tells of.';
COMMENT ON COLUMN monitoring.notifications.reason IS 'Why the group was told of, such as first notification or repeat interval elapsed.';
SELECT monitoring.inherit_comments('monitoring.notifications', 'monitoring.outbox');

----------------------------------------------------------------------------------------------------------------------
-- Enqueueing
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.format_time(t timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;
COMMENT ON FUNCTION monitoring.format_time(timestamptz) IS 'A time as RFC 3339 text in UTC, with milliseconds.';

CREATE FUNCTION monitoring.common_pairs(alerts jsonb, member text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	common jsonb := coalesce(alerts -> 0 -> member, '{}');
	other jsonb;
BEGIN
	FOR other IN SELECT a.value -> member FROM jsonb_array_elements(alerts) AS a LOOP
		IF NOT other @> common THEN
			common := (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(common) AS c WHERE other -> c.key = c.value);
		END IF;
	END LOOP;
	RETURN common;
END $$;
COMMENT ON FUNCTION monitoring.common_pairs(jsonb, text) IS 'The keys, with their values, that this member (labels or annotations) of all the alerts has in common.';

CREATE FUNCTION monitoring.make_payload(receiver text, group_key text, status text, group_labels jsonb, alerts jsonb, more jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_build_object('receiver', receiver, 'groupKey', group_key, 'status', status, 'groupLabels', group_labels,
	'commonLabels', monitoring.common_pairs(alerts, 'labels'), 'commonAnnotations', monitoring.common_pairs(alerts, 'annotations'),
	'truncatedAlerts', 0, 'alerts', alerts) || more;
COMMENT ON FUNCTION monitoring.make_payload(text, text, text, jsonb, jsonb, jsonb) IS 'What formatters get as notification: receiver, groupKey, status, groupLabels, commonLabels, commonAnnotations, truncatedAlerts (how many more there are) and alerts, each with status, labels, annotations, startsAt, endsAt, fingerprint, value, threshold, op; and what more holds: the reason, as send_reason gives it, and of a digest, digest with route, since and until. The idempotencyKey is added when it is sent.';

CREATE FUNCTION monitoring.test_notification(receiver text, id bigint, at timestamptz, status text DEFAULT 'firing') RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.make_payload(receiver, format('{}:{alertname="TestNotification",test="%s"}', id), status, '{"alertname": "TestNotification"}',
		jsonb_build_array(jsonb_build_object('status', status, 'labels', '{"alertname": "TestNotification", "severity": "info"}'::jsonb,
			'annotations', '{"summary": "Test notification of monitoring: this receiver works."}'::jsonb,
			'startsAt', monitoring.format_time(at), 'endsAt', CASE status WHEN 'firing' THEN '0001-01-01T00:00:00Z' ELSE monitoring.format_time(at) END,
			'fingerprint', '5f24dd0f417d744d')))
$$;
COMMENT ON FUNCTION monitoring.test_notification(text, bigint, timestamptz, text) IS 'The notification with which a receiver is tested, or (status resolved) is told that the test is over.';

CREATE FUNCTION monitoring.test_receiver(name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	new_id bigint := nextval('monitoring.outbox_id_seq');
	r monitoring.receiver_defs;
BEGIN
	SELECT * INTO r FROM monitoring.receiver_defs AS d WHERE d.name = test_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF NOT r.enabled THEN
		RAISE EXCEPTION 'receiver "%" is disabled', name
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Enable it with monitoring.enable_receiver.';
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	-- The end comes a minute later: a page that is over at once may ring nowhere.
	INSERT INTO monitoring.outbox (id, created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	SELECT CASE t.status WHEN 'firing' THEN new_id ELSE nextval('monitoring.outbox_id_seq') END, now_at, r.name, p.payload ->> 'groupKey',
		'TestNotification', 'test', p.payload, now_at + t.after, now_at + t.after + monitoring.max_age(r.config)
	FROM (VALUES (1, 'firing', interval '0', true), (2, 'resolved', interval '1 minute', false)) AS t (n, status, after, always)
	CROSS JOIN LATERAL monitoring.test_notification(r.name, new_id, now_at, t.status) AS p (payload)
	WHERE t.always OR (SELECT k.end_tests FROM monitoring.receiver_kinds AS k WHERE k.kind = r.kind)
	ORDER BY t.n;
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.test_receiver(text) IS 'Enqueue a test notification and return its id; the notifier sends it about a second after commit, and notifications shows the outcome. Receivers that would keep it open (kinds pagerduty, opsgenie, alertmanager; receiver_kinds.end_tests) are told a minute later that it is over, by a second notification. Errors: 42704 if the receiver does not exist, 55000 if it is disabled.';
