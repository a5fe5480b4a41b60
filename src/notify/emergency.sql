-- emergency: word that the database cannot write, which no outbox can hold. The notifier (emergency.c) keeps messages about it
-- ready, made while all is well, and sends them from its memory.

CREATE TABLE monitoring.emergency_causes (
	cause text PRIMARY KEY,
	place integer NOT NULL UNIQUE,
	sqlstates text[] NOT NULL DEFAULT '{}',
	summary text NOT NULL,
	description text NOT NULL
);
COMMENT ON TABLE monitoring.emergency_causes IS 'Why a database cannot write, and what is said of it.';
COMMENT ON COLUMN monitoring.emergency_causes.cause IS 'Name, the label cause of the alert.';
COMMENT ON COLUMN monitoring.emergency_causes.place IS 'Order.';
COMMENT ON COLUMN monitoring.emergency_causes.sqlstates IS 'Errors, of a write to the outbox, that tell of it.';
COMMENT ON COLUMN monitoring.emergency_causes.summary IS 'What is the matter.';
COMMENT ON COLUMN monitoring.emergency_causes.description IS 'What to do.';
-- emergency.c knows the names low_disk, read_only and unwritable
INSERT INTO monitoring.emergency_causes VALUES
	('disk_full', 1, '{53100}', 'No space is left on a disk of the database', 'Nothing can be written. Make room on the volume of the data directory or of the tablespace; do not delete files of the database.'),
	('low_disk', 2, '{}', 'Almost no space is left on a disk of the database', 'When the volume of the WAL is full, the server stops. Make room on the volumes of the data directory, of pg_wal and of the tablespace; look for replication slots and failing archive commands that keep WAL.'),
	('read_only', 3, '{25006}', 'The database is read-only', 'Transactions cannot write: default_transaction_read_only is on, for the server or for this database, or the server is a standby.'),
	('transaction_ids', 4, '{54000}', 'The database refuses to write, as transaction ids run out', 'Remove old prepared transactions, replication slots and long transactions, then VACUUM every table of the databases that the log names.'),
	('io_error', 5, '{58030,XX001,XX002}', 'The disk of the database gives errors', 'Reading or writing failed, or what was read is damaged. Look at the log of the server and at that of the operating system, and secure a copy before anything else.'),
	('unwritable', 6, '{}', 'The database cannot store notifications', 'Alerts are not delivered. The log of the server says why.');

CREATE TABLE monitoring.emergency_log (
	since timestamptz NOT NULL,
	until timestamptz NOT NULL,
	cause text NOT NULL,
	error text,
	told jsonb NOT NULL DEFAULT '[]'
);
COMMENT ON TABLE monitoring.emergency_log IS 'Times in which the database could not write. See the view emergencies.';
COMMENT ON COLUMN monitoring.emergency_log.since IS 'When it was noticed.';
COMMENT ON COLUMN monitoring.emergency_log.until IS 'When it could write again.';
COMMENT ON COLUMN monitoring.emergency_log.cause IS 'The first cause, one of emergency_causes.';
COMMENT ON COLUMN monitoring.emergency_log.error IS 'What was noticed.';
COMMENT ON COLUMN monitoring.emergency_log.told IS 'An object for each receiver: receiver, delivered, failed, error.';
-- Has no key, and old rows go, also where all tables are published.
ALTER TABLE monitoring.emergency_log REPLICA IDENTITY FULL;
SELECT pg_catalog.pg_extension_config_dump('monitoring.emergency_log', '');

CREATE VIEW monitoring.emergencies AS
	SELECT l.since, l.until, l.cause, l.error, t.receiver, t.delivered, t.failed, t.error AS delivery_error
	FROM monitoring.emergency_log AS l
	LEFT JOIN LATERAL jsonb_to_recordset(l.told) AS t (receiver text, delivered integer, failed integer, error text) ON true;
COMMENT ON VIEW monitoring.emergencies IS 'Times in which the database could not write, and whom the notifier told from its memory; written once they are over.';
COMMENT ON COLUMN monitoring.emergencies.since IS 'When it was noticed.';
COMMENT ON COLUMN monitoring.emergencies.until IS 'When it could write again.';
COMMENT ON COLUMN monitoring.emergencies.cause IS 'Why, one of emergency_causes.';
COMMENT ON COLUMN monitoring.emergencies.error IS 'What was noticed.';
COMMENT ON COLUMN monitoring.emergencies.receiver IS 'Name of a receiver; null: none was marked for emergencies.';
COMMENT ON COLUMN monitoring.emergencies.delivered IS 'Messages that it got.';
COMMENT ON COLUMN monitoring.emergencies.failed IS 'Attempts that failed.';
COMMENT ON COLUMN monitoring.emergencies.delivery_error IS 'Why the last of those failed.';

----------------------------------------------------------------------------------------------------------------------
-- What the notifier keeps ready
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.emergency_notification(receiver text, cause text, status text, since timestamptz, until timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.make_payload(emergency_notification.receiver, k.key, emergency_notification.status, k.labels,
		jsonb_build_array(jsonb_build_object('status', emergency_notification.status,
			'labels', k.labels || jsonb_build_object('severity', 'critical', 'cause', c.cause),
			'annotations', CASE WHEN emergency_notification.status = 'firing'
				THEN jsonb_build_object('summary', format('%s: %s', current_database(), c.summary), 'description', c.description)
				ELSE jsonb_build_object('summary', format('%s: the database can write again', current_database())) END,
			'startsAt', monitoring.format_time(since), 'endsAt', coalesce(monitoring.format_time(until), '0001-01-01T00:00:00Z'),
			'fingerprint', left(md5(k.key), 16))),
		jsonb_build_object('reason', 'emergency', 'id', 0))
	FROM monitoring.emergency_causes AS c
	CROSS JOIN LATERAL (
		SELECT l.labels, '{}:' || monitoring.labels_text(l.labels) AS key
		FROM (SELECT jsonb_build_object('alertname', 'DatabaseCannotWrite', 'datname', current_database())) AS l (labels)) AS k
	WHERE c.cause = emergency_notification.cause
$$;
COMMENT ON FUNCTION monitoring.emergency_notification(text, text, text, timestamptz, timestamptz) IS 'What a receiver is told of an emergency, or of its end. The group is the same whatever the cause, so that the end fits.';

CREATE FUNCTION monitoring.can_be_told_of_emergencies(kind monitoring.receiver_kinds, url text, config jsonb) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	request jsonb;
BEGIN
	request := monitoring.run_formatter(kind.function, kind.owner,
		monitoring.place_secrets(jsonb_build_object('name', '', 'kind', kind.kind, 'url', url, 'config', config), NULL),
		monitoring.emergency_notification('', 'disk_full', 'firing', clock_timestamp(), NULL) || '{"idempotencyKey": "00000000-0000-0000-0000-000000000000"}');
	RETURN kind.takes_alerts AND coalesce(request ->> 'method' NOT IN ('NOTIFY', 'SQL'), false);
EXCEPTION WHEN OTHERS THEN
	-- A secret may be set later; what a formatter cannot do is seen when it is to.
	RETURN kind.takes_alerts;
END $$;
COMMENT ON FUNCTION monitoring.can_be_told_of_emergencies(monitoring.receiver_kinds, text, jsonb) IS 'Whether the message about an emergency to such a receiver is a request that the sender sends, for which no database is needed.';

CREATE FUNCTION monitoring.emergency_messages(at timestamptz, idempotency_key text, cause text DEFAULT NULL, since timestamptz DEFAULT NULL)
RETURNS TABLE (receiver text, reason text, sqlstates text, format_function oid, format_owner name, document jsonb, notification jsonb,
	connect_timeout float8, total_timeout float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT r.name, c.cause, array_to_string(c.sqlstates, ' '), to_regprocedure(k.function || '(jsonb,jsonb)')::oid, k.owner,
		jsonb_build_object('name', r.name, 'kind', r.kind, 'url', r.url, 'config', r.config),
		monitoring.emergency_notification(r.name, c.cause, CASE WHEN emergency_messages.since IS NULL THEN 'firing' ELSE 'resolved' END,
			coalesce(emergency_messages.since, emergency_messages.at), CASE WHEN emergency_messages.since IS NOT NULL THEN emergency_messages.at END)
			|| jsonb_build_object('idempotencyKey', emergency_messages.idempotency_key),
		coalesce((r.config ->> 'connect_timeout_seconds')::float8, 5), coalesce((r.config ->> 'timeout_seconds')::float8, k.timeout_seconds)
	FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
	CROSS JOIN monitoring.emergency_causes AS c
	WHERE r.enabled AND r.config -> 'emergency' = 'true' AND (emergency_messages.cause IS NULL OR c.cause = emergency_messages.cause)
	ORDER BY r.name, c.place
$$;
COMMENT ON FUNCTION monitoring.emergency_messages(timestamptz, text, text, timestamptz) IS 'Notifications about every cause, or about one, of an emergency that begins at that time, or since then ends, for the enabled receivers whose config has emergency; with what is needed to format them.';

CREATE FUNCTION monitoring.check_writing(at timestamptz, OUT cause text, OUT error text, OUT version text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	SELECT md5(string_agg(concat_ws(' ', r.name, r.enabled, r.config, r.url, s.xmin), ',' ORDER BY r.name, s.key)) INTO version
	FROM monitoring.receiver_defs AS r
	LEFT JOIN monitoring.receiver_secrets AS s ON s.receiver = r.name
	WHERE r.enabled AND r.config -> 'emergency' = 'true';

	IF version IS NULL THEN
		RETURN;
	END IF;
	-- The worker's own transactions are writable whatever the setting.
	IF coalesce((SELECT split_part(c, '=', 2)::boolean FROM pg_db_role_setting AS d CROSS JOIN unnest(d.setconfig) AS c
			WHERE d.setrole = 0 AND d.setdatabase = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
				AND c LIKE 'default\_transaction\_read\_only=%'),
		(SELECT f.setting::boolean FROM pg_file_settings AS f WHERE f.name = 'default_transaction_read_only' AND f.applied), false) THEN
		cause := 'read_only';
		error := 'default_transaction_read_only is on';
		RETURN;
	END IF;
	PERFORM monitoring.ensure_partition('outbox', at);
	INSERT INTO monitoring.outbox (id, created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	VALUES (0, at, '', '', '', '', '{}', at, at);
END $$;
COMMENT ON FUNCTION monitoring.check_writing(timestamptz) IS 'Write to the outbox, for a transaction that is rolled back. Why nobody else can write, if it is known; and what the messages for emergencies depend on, as a hash: null if there is nobody to tell.';

CREATE FUNCTION monitoring.note_emergency(since timestamptz, until timestamptz, cause text, error text, told jsonb) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO monitoring.emergency_log (since, until, cause, error, told)
	VALUES (note_emergency.since, note_emergency.until, note_emergency.cause, note_emergency.error, coalesce(note_emergency.told, '[]'));
	DELETE FROM monitoring.emergency_log AS l WHERE l.until < note_emergency.until - interval '400 days'
$$;
COMMENT ON FUNCTION monitoring.note_emergency(timestamptz, timestamptz, text, text, jsonb) IS 'Take down an emergency that is over, and forget those of more than 400 days ago.';
