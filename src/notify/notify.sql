-- notify: receivers, outbox, formatters. The notifier worker (notifier.c) claims rows of the outbox, lets the receiver
-- kind's function turn each into a request, sends it through the sender program, and records the outcome. All decisions
-- (what is due, what is tried again and when, what is given up) are made here.

----------------------------------------------------------------------------------------------------------------------
-- Receiver kinds: rows naming a formatter
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
	function text NOT NULL,
	config_keys text[] NOT NULL DEFAULT '{}',
	description text NOT NULL DEFAULT '',
	owner name NOT NULL DEFAULT current_user,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.receiver_kinds IS 'Kinds of receivers. Each names a formatter function(receiver jsonb, notification jsonb) returning TABLE (method text, url text, headers jsonb, body text) with exactly one row; it runs with the rights of the row''s owner. Add a kind with CREATE FUNCTION and INSERT.';
COMMENT ON COLUMN monitoring.receiver_kinds.kind IS 'Name of the kind, as given to create_receiver.';
COMMENT ON COLUMN monitoring.receiver_kinds.function IS 'Schema-qualified name of the formatter.';
COMMENT ON COLUMN monitoring.receiver_kinds.config_keys IS 'Keys that a receiver''s config may hold besides those every kind takes.';
COMMENT ON COLUMN monitoring.receiver_kinds.description IS 'What the kind sends.';
COMMENT ON COLUMN monitoring.receiver_kinds.owner IS 'Role that the formatter runs as; you must be a member of it.';
COMMENT ON COLUMN monitoring.receiver_kinds.builtin IS 'True for kinds that come with the extension; they are not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_kinds', 'WHERE NOT builtin');

CREATE FUNCTION monitoring.receiver_kind_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT pg_has_role(current_user, NEW.owner, 'MEMBER') THEN
		RAISE EXCEPTION 'permission denied to let a formatter run as role "%"', NEW.owner
			USING ERRCODE = 'insufficient_privilege';
	END IF;
	IF to_regprocedure(NEW.function || '(jsonb,jsonb)') IS NULL THEN
		RAISE EXCEPTION 'formatter %(jsonb, jsonb) does not exist', NEW.function
			USING ERRCODE = 'undefined_function', HINT = 'Give the schema too, as in myschema.format_mykind.';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.receiver_kind_check() IS 'Trigger of receiver_kinds: the formatter must exist (42883) and the writer must be a member of the owner (42501).';

CREATE TRIGGER receiver_kind_check BEFORE INSERT OR UPDATE ON monitoring.receiver_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.receiver_kind_check();
COMMENT ON TRIGGER receiver_kind_check ON monitoring.receiver_kinds IS 'Checks formatter and owner.';

----------------------------------------------------------------------------------------------------------------------
-- Receivers
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_defs (
	name text PRIMARY KEY,
	kind text NOT NULL REFERENCES monitoring.receiver_kinds (kind),
	url text NOT NULL,
	config jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE monitoring.receiver_defs IS 'Receivers with their full urls and configuration, which hold secrets: granted to nobody. See the view receivers.';
COMMENT ON COLUMN monitoring.receiver_defs.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_defs.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receiver_defs.url IS 'Where notifications go; may hold a token.';
COMMENT ON COLUMN monitoring.receiver_defs.config IS 'Options, as described for create_receiver.';
COMMENT ON COLUMN monitoring.receiver_defs.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receiver_defs.created_at IS 'When the receiver was created.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_defs', '');

-- Written out rather than in functions: who may read a view need not be able to call what it calls.
CREATE VIEW monitoring.receivers AS
	SELECT r.name, r.kind,
		coalesce(substring(r.url FROM '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]+(?=[/?#]|$)'), '') || '/…' AS url,
		(SELECT coalesce(jsonb_object_agg(e.key, CASE
				WHEN e.key = ANY ('{timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved}'::text[])
					THEN e.value ELSE '"***"'::jsonb END), '{}')
			FROM jsonb_each(r.config) AS e) AS config,
		r.enabled, r.created_at
	FROM monitoring.receiver_defs AS r;
COMMENT ON VIEW monitoring.receivers IS 'Receivers of notifications, secrets redacted.';
COMMENT ON COLUMN monitoring.receivers.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receivers.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receivers.url IS 'Scheme and host.';
COMMENT ON COLUMN monitoring.receivers.config IS 'Options; values that may be secrets show as ***.';
COMMENT ON COLUMN monitoring.receivers.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receivers.created_at IS 'When the receiver was created.';

CREATE FUNCTION monitoring.check_receiver_url(url text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	authority text := substring(url FROM '^[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)');
BEGIN
	IF url IS NULL OR octet_length(url) > 4096 THEN
		RAISE EXCEPTION 'a receiver needs a url of at most 4096 bytes' USING ERRCODE = 'invalid_parameter_value';
	ELSIF url ~ '[^!-~]' OR strpos(url, E'\\') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds a space, a control character, a backslash or a non-ASCII character'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Percent-encode such characters.';
	ELSIF authority IS NULL THEN
		RAISE EXCEPTION 'the receiver''s url must start with http:// or https://'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF strpos(authority, '@') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds credentials'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Put them into the config, as in {"headers": {"Authorization": "..."}}.';
	ELSIF authority !~ '^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$' THEN
		RAISE EXCEPTION 'the receiver''s url has no valid host' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_url(text) IS 'Raises 22023 unless the text is an http or https url without credentials, spaces or control characters.';

CREATE FUNCTION monitoring.check_receiver_config(config jsonb, kind_keys text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	known text[] := '{headers,timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved}'::text[] || kind_keys;
	bad text;
BEGIN
	IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	SELECT min(k) INTO bad FROM jsonb_object_keys(config) AS k WHERE k <> ALL (known);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in the receiver''s config', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Known keys: ' || array_to_string(known, ', ') || '.';
	END IF;

	SELECT min(e.key) INTO bad
	FROM jsonb_each(config) AS e
	JOIN (VALUES ('timeout_seconds', 0.01, 60), ('connect_timeout_seconds', 0.01, 60), ('max_attempts', 1, 100),
		('max_age_seconds', 1, 86400)) AS b (key, low, high) ON b.key = e.key
	WHERE CASE WHEN jsonb_typeof(e.value) = 'number' THEN (e.value)::numeric NOT BETWEEN b.low AND b.high ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is out of range', bad
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'timeout_seconds and connect_timeout_seconds take 0.01 to 60, max_attempts 1 to 100, max_age_seconds 1 to 86400.';
	END IF;

	IF config ? 'send_resolved' AND jsonb_typeof(config -> 'send_resolved') <> 'boolean' THEN
		RAISE EXCEPTION 'key "send_resolved" in the receiver''s config must be true or false'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;

	IF config ? 'headers' THEN
		IF jsonb_typeof(config -> 'headers') <> 'object' THEN
			RAISE EXCEPTION 'key "headers" in the receiver''s config must be an object'
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		SELECT min(h.key) INTO bad
		FROM jsonb_each(config -> 'headers') AS h
		WHERE h.key !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$'
			OR lower(h.key) = ANY ('{idempotency-key,host,content-length,transfer-encoding,connection,upgrade,te,trailer,expect,keep-alive,proxy-authorization,proxy-connection}'::text[])
			OR jsonb_typeof(h.value) <> 'string' OR (h.value #>> '{}') ~ '[\x01-\x08\x0a-\x1f\x7f]'
			OR octet_length(h.value #>> '{}') > 8192;
		IF bad IS NOT NULL THEN
			RAISE EXCEPTION 'header "%" in the receiver''s config is not allowed', regexp_replace(left(bad, 128), '[^!-~]', '?', 'g')
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'A header''s value is text without control characters; headers that frame, route or identify the request cannot be set.';
		END IF;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_config(jsonb, text[]) IS 'Raises 22023 unless the config is an object of known keys with values in range.';

CREATE FUNCTION monitoring.create_receiver(name text, kind text, url text, config jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kind_keys text[];
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a receiver''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT k.config_keys INTO kind_keys FROM monitoring.receiver_kinds AS k WHERE k.kind = create_receiver.kind;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown receiver kind "%"', kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Known kinds: ' || (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM monitoring.receiver_kinds AS k) || '.';
	END IF;
	PERFORM monitoring.check_receiver_url(url);
	PERFORM monitoring.check_receiver_config(config, kind_keys);

	INSERT INTO monitoring.receiver_defs AS r (name, kind, url, config)
	VALUES (create_receiver.name, create_receiver.kind, create_receiver.url, create_receiver.config)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	PERFORM monitoring.request_routing('wake');
	RETURN name;
END $$;
COMMENT ON FUNCTION monitoring.create_receiver(text, text, text, jsonb) IS 'Create a receiver of notifications and return its name. Every enabled receiver gets the alerts of routes that name none; of what is firing already it is told when its groups are looked at next. The url''s host must be in monitoring.allowed_hosts when something is sent. Config keys of every kind, with defaults: headers (object of text), timeout_seconds (15) and connect_timeout_seconds (5) of one attempt, 0.01 to 60, max_attempts (10), 1 to 100, max_age_seconds (3600) after which a notification is given up, 1 to 86400, send_resolved (true). The url is http or https without credentials. Errors: 22023 for a bad name, kind, url or config, 42710 if it exists.';

CREATE FUNCTION monitoring.enable_receiver(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.receiver_defs AS r SET enabled = coalesce(enable_receiver.enabled, true)
	WHERE r.name = enable_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.enable_receiver(text, boolean) IS 'Enable or disable a receiver. A disabled one gets no new alerts; what is queued waits until it is enabled or too old. Once enabled it is told of what fired meanwhile and still does, and of the end of alerts that it knew of. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.drop_receiver(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.receiver_defs AS r WHERE r.name = drop_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	UPDATE monitoring.outbox AS o SET state = 'dead', lease_until = NULL, error = 'the receiver was dropped'
	WHERE o.receiver = drop_receiver.name AND o.state IN ('queued', 'sending', 'failed');
END $$;
COMMENT ON FUNCTION monitoring.drop_receiver(text) IS 'Drop a receiver; what is still queued for it becomes dead. Rules and routes that name it keep the name; a rule tells nobody under it until there is such a receiver again, a route tells every enabled receiver when none that it names exists. Error 42704 if it does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- Outbox
----------------------------------------------------------------------------------------------------------------------

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
	state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sending', 'sent', 'failed', 'dead')),
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
COMMENT ON COLUMN monitoring.outbox.status IS 'firing, resolved or test.';
COMMENT ON COLUMN monitoring.outbox.alert_ids IS 'The alerts (alerts.alert_id) that it lists.';
COMMENT ON COLUMN monitoring.outbox.payload IS 'What the formatter gets: group key, labels, annotations and alerts.';
COMMENT ON COLUMN monitoring.outbox.state IS 'queued; sending (claimed until lease_until); failed (tried again at next_attempt_at); sent; dead (given up).';
COMMENT ON COLUMN monitoring.outbox.attempts IS 'Attempts begun.';
COMMENT ON COLUMN monitoring.outbox.next_attempt_at IS 'Not tried before this time.';
COMMENT ON COLUMN monitoring.outbox.expires_at IS 'Given up at this time.';
COMMENT ON COLUMN monitoring.outbox.lease_until IS 'While sending: when the claim ends and the row may be sent again.';
COMMENT ON COLUMN monitoring.outbox.http_status IS 'Status of the last response; null if none came.';
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
	error text
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.delivery_attempts IS 'Every attempt to deliver a notification, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.delivery_attempts.at IS 'When the attempt ended.';
COMMENT ON COLUMN monitoring.delivery_attempts.notification_id IS 'The notification (notifications.id).';
COMMENT ON COLUMN monitoring.delivery_attempts.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.delivery_attempts.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN monitoring.delivery_attempts.outcome IS 'response (http_status says which), network (no response), refused (against the outbound rules), unformattable (the formatter failed; call it by hand for its message), unformatted (it failed, but may work the next time), postponed (formatters of other notifications took too long), lost (the sender or the notifier ended before the outcome was known).';
COMMENT ON COLUMN monitoring.delivery_attempts.http_status IS 'Status of the response; null if none came.';
COMMENT ON COLUMN monitoring.delivery_attempts.latency IS 'Seconds the attempt took; null if nothing was sent.';
COMMENT ON COLUMN monitoring.delivery_attempts.error IS 'Why it failed; holds no secrets.';

-- Of the outbox only unfinished rows are in the indexes besides the key: their size follows the backlog, not the
-- history. They serve a receiver's rows in order, earlier rows of a group, and rows that become too old.
INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes) VALUES
	('outbox', '1 day', 2, '30 days', ARRAY['PRIMARY KEY (created_at, id)',
		$$(receiver, id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(receiver, group_key, id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(expires_at) WHERE state IN ('queued', 'sending', 'failed')$$]),
	('delivery_attempts', '1 day', 2, '30 days', '{(notification_id)}');

CREATE VIEW monitoring.notifications AS
	SELECT o.id, o.receiver, o.alert, o.status, o.state, o.attempts, o.http_status, o.error, o.created_at, o.sent_at,
		o.latency, CASE WHEN o.state IN ('queued', 'failed') THEN o.next_attempt_at END AS next_attempt_at,
		o.idempotency_key, o.alert_ids, o.at, o.group_key, o.payload ->> 'reason' AS reason
	FROM monitoring.outbox AS o;
COMMENT ON VIEW monitoring.notifications IS 'Notifications with the state of their delivery, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.notifications.id IS 'Number of the notification, as test_receiver returns it.';
COMMENT ON COLUMN monitoring.notifications.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.notifications.alert IS 'Name of the alert rule; of the route where it tells of several.';
COMMENT ON COLUMN monitoring.notifications.status IS 'firing, resolved or test.';
COMMENT ON COLUMN monitoring.notifications.state IS 'queued, sending, sent, failed (will be tried again) or dead (given up).';
COMMENT ON COLUMN monitoring.notifications.attempts IS 'Attempts begun.';
COMMENT ON COLUMN monitoring.notifications.http_status IS 'HTTP status of the last response; null if none came.';
COMMENT ON COLUMN monitoring.notifications.error IS 'Why the last attempt failed.';
COMMENT ON COLUMN monitoring.notifications.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN monitoring.notifications.sent_at IS 'When it was delivered.';
COMMENT ON COLUMN monitoring.notifications.latency IS 'Seconds the last attempt took.';
COMMENT ON COLUMN monitoring.notifications.next_attempt_at IS 'When it is tried next; null if it is being sent or finished.';
COMMENT ON COLUMN monitoring.notifications.idempotency_key IS 'Key that the receiver sees in every attempt.';
COMMENT ON COLUMN monitoring.notifications.alert_ids IS 'The alerts that it lists.';
COMMENT ON COLUMN monitoring.notifications.at IS 'Time of the evaluation that made it; null for a test.';
COMMENT ON COLUMN monitoring.notifications.group_key IS 'Group of alerts that it tells of.';
COMMENT ON COLUMN monitoring.notifications.reason IS 'Why the group was told of, such as first notification or repeat interval elapsed.';

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

CREATE FUNCTION monitoring.test_receiver(name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	new_id bigint := nextval('monitoring.outbox_id_seq');
	max_age float8;
	is_enabled boolean;
	key text := format('{}:{alertname="TestNotification",test="%s"}', new_id);
	labels jsonb := '{"alertname": "TestNotification", "severity": "info"}';
BEGIN
	SELECT coalesce((r.config ->> 'max_age_seconds')::float8, 3600), r.enabled INTO max_age, is_enabled
	FROM monitoring.receiver_defs AS r WHERE r.name = test_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF NOT is_enabled THEN
		RAISE EXCEPTION 'receiver "%" is disabled', name
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Enable it with monitoring.enable_receiver.';
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox (id, created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	VALUES (new_id, now_at, name, key, 'TestNotification', 'test',
		monitoring.make_payload(name, key, 'firing', '{"alertname": "TestNotification"}', jsonb_build_array(jsonb_build_object(
			'status', 'firing', 'labels', labels,
			'annotations', '{"summary": "Test notification of monitoring: this receiver works."}'::jsonb,
			'startsAt', monitoring.format_time(now_at), 'endsAt', '0001-01-01T00:00:00Z',
			'fingerprint', left(md5(labels::text), 16)))),
		now_at, now_at + make_interval(secs => max_age));
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.test_receiver(text) IS 'Enqueue a test notification and return its id; the notifier sends it about a second after commit, and notifications shows the outcome. Errors: 42704 if the receiver does not exist, 55000 if it is disabled.';

----------------------------------------------------------------------------------------------------------------------
-- Delivery: called by the notifier
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.notify_has_work(at timestamptz, running boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			CROSS JOIN LATERAL (
				SELECT FROM monitoring.outbox AS o
				WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= notify_has_work.at
					AND o.created_at > notify_has_work.at - interval '2 days'
					AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
						WHERE e.receiver = o.receiver AND e.group_key = o.group_key AND e.id < o.id
							AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_has_work.at - interval '2 days')
				LIMIT 1) AS due
			WHERE r.enabled)
		OR EXISTS (
			SELECT FROM monitoring.outbox AS o
			WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_has_work.at AND coalesce(o.lease_until <= notify_has_work.at, true))
		OR (NOT running AND EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			JOIN monitoring.outbox AS o ON o.receiver = r.name
			WHERE o.state = 'sending'));
END $$;
COMMENT ON FUNCTION monitoring.notify_has_work(timestamptz, boolean) IS 'Is a notification due, or too old, at that time? When no notifier is running, what is marked as being sent is work too: its notifier is gone.';

CREATE FUNCTION monitoring.notify_claim(at timestamptz, max_rows integer, per_receiver integer)
RETURNS TABLE (created_at timestamptz, id bigint, attempt integer, format_function oid, format_owner name,
	receiver jsonb, notification jsonb, connect_timeout float8, total_timeout float8)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	UPDATE monitoring.outbox AS o
	SET state = 'dead', lease_until = NULL,
		error = coalesce(o.error || '; ', '') || format('given up, too old (attempts: %s)', o.attempts)
	WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_claim.at
		AND coalesce(o.lease_until <= notify_claim.at, true);

	-- Nothing lives for more than a day (max_age_seconds): two days of partitions hold all that is unfinished. The
	-- receivers take turns, so that those whose requests hang do not keep the others from what is left of max_rows.
	RETURN QUERY
	WITH due AS MATERIALIZED (
		SELECT d.created_at, d.id, r.name, r.kind, r.url, r.config
		FROM monitoring.receiver_defs AS r
		CROSS JOIN LATERAL (
			SELECT count(*) AS sending FROM monitoring.outbox AS s
			WHERE s.receiver = r.name AND s.state = 'sending' AND s.lease_until > notify_claim.at
				AND s.created_at > notify_claim.at - interval '2 days') AS busy
		CROSS JOIN LATERAL (
			SELECT o.created_at, o.id FROM monitoring.outbox AS o
			WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= notify_claim.at
				AND o.created_at > notify_claim.at - interval '2 days'
				AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
					WHERE e.receiver = o.receiver AND e.group_key = o.group_key AND e.id < o.id
						AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_claim.at - interval '2 days')
			ORDER BY o.id
			LIMIT greatest(per_receiver - busy.sending, 0)
			FOR UPDATE OF o SKIP LOCKED) AS d
		WHERE r.enabled
		ORDER BY busy.sending + row_number() OVER (PARTITION BY r.name ORDER BY d.id), d.id
		LIMIT max_rows
	), timed AS (
		SELECT d.*, coalesce((d.config ->> 'connect_timeout_seconds')::float8, 5) AS connect_timeout,
			coalesce((d.config ->> 'timeout_seconds')::float8, 15) AS total_timeout
		FROM due AS d
	)
	UPDATE monitoring.outbox AS o
	SET state = 'sending', attempts = o.attempts + 1,
		lease_until = notify_claim.at + make_interval(secs => t.total_timeout + 60),
		next_attempt_at = notify_claim.at + make_interval(secs => t.total_timeout + 60)
	FROM timed AS t
	JOIN monitoring.receiver_kinds AS k ON k.kind = t.kind
	WHERE o.created_at = t.created_at AND o.id = t.id
	RETURNING o.created_at, o.id, o.attempts, to_regprocedure(k.function || '(jsonb,jsonb)')::oid, k.owner,
		jsonb_build_object('name', t.name, 'kind', t.kind, 'url', t.url, 'config', t.config),
		o.payload || jsonb_build_object('idempotencyKey', o.idempotency_key, 'id', o.id),
		t.connect_timeout, t.total_timeout;
END $$;
COMMENT ON FUNCTION monitoring.notify_claim(timestamptz, integer, integer) IS 'Mark as dead what is too old; claim due notifications, at most max_rows in all and so many that per_receiver are under way to each receiver, skipping any with an unfinished earlier one in its group. The claim ends with the lease, a minute after the timeout.';

CREATE FUNCTION monitoring.notify_record(at timestamptz, outcomes jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.ensure_partition('delivery_attempts', at);

	WITH outcome AS (
		SELECT b.created_at, b.id, b.receiver, b.attempts, b.expires_at, x.outcome, x.http_status, x.latency, x.error,
			coalesce((r.config ->> 'max_attempts')::integer, 10) AS max_attempts,
			CASE
				WHEN x.outcome = 'response' AND x.http_status BETWEEN 200 AND 299 THEN 'sent'
				WHEN x.outcome IN ('network', 'unformatted', 'postponed', 'lost') OR x.http_status IN (408, 425, 429) OR x.http_status >= 500 THEN 'failed'
				ELSE 'dead'
			END AS verdict,
			-- Full jitter spreads receivers that failed together; Retry-After is a floor.
			notify_record.at + make_interval(secs => greatest(x.retry_after,
				random() * least(300, 2 ^ least(b.attempts - 1, 20)))) AS next_at
		FROM jsonb_to_recordset(outcomes) AS x (created_at timestamptz, id bigint, attempt integer, outcome text,
			http_status integer, latency float8, retry_after float8, error text)
		JOIN monitoring.outbox AS b ON b.created_at = x.created_at AND b.id = x.id
			AND b.state = 'sending' AND b.attempts = x.attempt
		LEFT JOIN monitoring.receiver_defs AS r ON r.name = b.receiver
	), decided AS (
		-- What was lost or postponed may be another notification's fault: only its age ends that.
		SELECT o.*, o.verdict = 'failed' AND o.attempts >= o.max_attempts AND o.outcome NOT IN ('lost', 'postponed') AS exhausted,
			o.verdict = 'failed' AND o.next_at >= o.expires_at AS too_late
		FROM outcome AS o
	), changed AS (
		UPDATE monitoring.outbox AS b
		SET state = CASE WHEN d.exhausted OR d.too_late THEN 'dead' ELSE d.verdict END,
			lease_until = NULL, next_attempt_at = d.next_at, http_status = d.http_status, latency = d.latency,
			sent_at = CASE WHEN d.verdict = 'sent' THEN notify_record.at END,
			error = CASE
				WHEN d.exhausted THEN d.error || format('; given up (attempts: %s)', d.attempts)
				WHEN d.too_late THEN d.error || format('; given up, too old (attempts: %s)', d.attempts)
				ELSE d.error END
		FROM decided AS d
		WHERE b.created_at = d.created_at AND b.id = d.id
	)
	INSERT INTO monitoring.delivery_attempts (at, notification_id, receiver, attempt, outcome, http_status, latency, error)
	SELECT notify_record.at, d.id, d.receiver, d.attempts, d.outcome, d.http_status, d.latency, d.error FROM decided AS d;
END $$;
COMMENT ON FUNCTION monitoring.notify_record(timestamptz, jsonb) IS 'Record outcomes of attempts: 2xx is sent; no response, 408, 425, 429 and 5xx are tried again after a random delay that doubles up to 300 s and is at least what Retry-After asks, as is what could not be formatted for now or was lost; anything else is dead. Outcomes of claims that have ended are ignored.';

CREATE FUNCTION monitoring.notify_release(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	claims jsonb;
BEGIN
	SELECT jsonb_agg(jsonb_build_object('created_at', o.created_at, 'id', o.id, 'attempt', o.attempts, 'outcome', 'lost',
		'error', 'the notifier ended before the outcome was known'))
	INTO claims
	FROM monitoring.outbox AS o WHERE o.state = 'sending';
	IF claims IS NOT NULL THEN
		PERFORM monitoring.notify_record(at, claims);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.notify_release(timestamptz) IS 'Record what a notifier that is gone had claimed as lost, to be tried again with the usual delay; a database has one notifier at a time, so a new one calls this first.';

CREATE FUNCTION monitoring.notify_dispatch(at timestamptz) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_notify_dispatch';
COMMENT ON FUNCTION monitoring.notify_dispatch(timestamptz) IS 'Start this database''s notifier, or wake it, if a notification is due at that time. A periodic job.';

INSERT INTO monitoring.jobs (name, function, setting, priority, run_on_wake)
VALUES ('dispatch', 'monitoring.notify_dispatch', 'monitoring.evaluation_interval', 60, true);

CREATE TRIGGER wake_worker AFTER INSERT ON monitoring.outbox
	FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker();
COMMENT ON TRIGGER wake_worker ON monitoring.outbox IS 'New notifications are dispatched at commit.';

----------------------------------------------------------------------------------------------------------------------
-- Formatters
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.format_webhook(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'POST', receiver ->> 'url',
		'{"Content-Type": "application/json"}'::jsonb || coalesce(receiver -> 'config' -> 'headers', '{}')
			|| jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey'),
		jsonb_build_object(
			'version', '4',
			'groupKey', notification -> 'groupKey',
			'truncatedAlerts', coalesce(notification -> 'truncatedAlerts', '0'),
			'status', notification -> 'status',
			'receiver', notification -> 'receiver',
			'groupLabels', notification -> 'groupLabels',
			'commonLabels', notification -> 'commonLabels',
			'commonAnnotations', notification -> 'commonAnnotations',
			'externalURL', '',
			'alerts', (SELECT jsonb_agg(jsonb_build_object(
					'status', a.value -> 'status', 'labels', a.value -> 'labels', 'annotations', a.value -> 'annotations',
					'startsAt', a.value -> 'startsAt', 'endsAt', a.value -> 'endsAt', 'generatorURL', '',
					'fingerprint', a.value -> 'fingerprint') ORDER BY a.ordinality)
				FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a))::text
$$;
COMMENT ON FUNCTION monitoring.format_webhook(jsonb, jsonb) IS 'Formatter of the kind webhook: the body of Alertmanager''s webhook, version 4, with an Idempotency-Key header.';

CREATE FUNCTION monitoring.slack_escape(t text, max_length integer) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	WITH piece AS (
		SELECT c.n, replace(replace(replace(c.ch, '&', '&amp;'), '<', '&lt;'), '>', '&gt;') AS e
		FROM string_to_table(left(t, max_length + 1), NULL) WITH ORDINALITY AS c (ch, n)
	), running AS (
		SELECT p.n, p.e, sum(length(p.e)) OVER (ORDER BY p.n) AS so_far, sum(length(p.e)) OVER () AS total FROM piece AS p
	)
	SELECT coalesce(string_agg(r.e, '' ORDER BY r.n) FILTER (WHERE r.so_far <= max_length - (r.total > max_length)::integer), '')
		|| CASE WHEN max(r.total) > max_length THEN '…' ELSE '' END
	FROM running AS r
$$;
COMMENT ON FUNCTION monitoring.slack_escape(text, integer) IS 'Text for Slack with & < > escaped, so that it can neither link nor mention; cut to so many characters after escaping, marked by an ellipsis.';

CREATE FUNCTION monitoring.format_slack(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH alert AS (
		SELECT a.ordinality AS n, a.value -> 'labels' AS labels, a.value -> 'annotations' AS annotations,
			coalesce(a.value -> 'annotations' ->> 'summary', a.value -> 'annotations' ->> 'description', a.value -> 'labels' ->> 'alertname')
				|| CASE WHEN a.value ->> 'status' <> notification ->> 'status' THEN format(' (%s)', a.value ->> 'status') ELSE '' END AS summary,
			CASE WHEN a.value ->> 'value' IS NOT NULL THEN concat_ws(' ', 'value', a.value ->> 'value',
				'(threshold ' || (a.value ->> 'op') || ' ' || (a.value ->> 'threshold') || ')') END AS reading,
			(SELECT string_agg(l.key || '=' || l.value, ', ' ORDER BY l.key COLLATE "C")
				FROM jsonb_each_text(a.value -> 'labels') AS l WHERE l.key <> 'alertname') AS label_text
		FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a
	), title AS (
		SELECT format('[%s] %s', upper(notification ->> 'status') || CASE WHEN m.n > 1 THEN ':' || m.n ELSE '' END,
			coalesce(notification -> 'groupLabels' ->> 'alertname', 'digest of ' || (notification -> 'digest' ->> 'route'),
				notification -> 'commonLabels' ->> 'alertname', monitoring.labels_text(notification -> 'groupLabels'))) AS t, m.n
		FROM (SELECT count(*) + coalesce((notification ->> 'truncatedAlerts')::bigint, 0) AS n FROM alert) AS m
	)
	-- The pieces keep Slack's limits: header 150 characters, section 3000.
	SELECT 'POST', receiver ->> 'url',
		'{"Content-Type": "application/json"}'::jsonb || coalesce(receiver -> 'config' -> 'headers', '{}')
			|| jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey'),
		jsonb_build_object(
			'text', (SELECT monitoring.slack_escape(title.t || ': ' || (SELECT summary FROM alert WHERE n = 1), 500) FROM title),
			'blocks', jsonb_build_array(
				jsonb_build_object('type', 'header', 'text', jsonb_build_object('type', 'plain_text',
					'text', (SELECT monitoring.slack_escape(title.t, 150) FROM title))))
			|| (SELECT jsonb_agg(jsonb_build_object('type', 'section', 'text', jsonb_build_object('type', 'mrkdwn',
					'text', concat_ws(E'\n', '*' || monitoring.slack_escape(a.summary, 1000) || '*',
						monitoring.slack_escape(a.reading, 200), monitoring.slack_escape(a.label_text, 1500)))) ORDER BY a.n)
				FROM alert AS a WHERE a.n <= 10)
			|| (SELECT CASE WHEN title.n > 10 THEN jsonb_build_array(jsonb_build_object('type', 'section', 'text',
					jsonb_build_object('type', 'mrkdwn', 'text', format('… and %s more', title.n - 10)))) ELSE '[]' END
				FROM title))::text
$$;
COMMENT ON FUNCTION monitoring.format_slack(jsonb, jsonb) IS 'Formatter of the kind slack: a message for an incoming webhook, with fall-back text, a header and a section for each of the first ten alerts.';

INSERT INTO monitoring.receiver_kinds (kind, function, description, builtin) VALUES
	('webhook', 'monitoring.format_webhook', 'JSON body of Alertmanager''s webhook, version 4', true),
	('slack', 'monitoring.format_slack', 'message for a Slack incoming webhook', true);
