-- send: messages of applications, past rules and routes.

CREATE FUNCTION monitoring.send(receiver text, title text, body text DEFAULT '', labels jsonb DEFAULT '{}', severity text DEFAULT 'info')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	new_id bigint := nextval('monitoring.outbox_id_seq');
	config jsonb;
	takes_alerts boolean;
	key text := format('message:%s', new_id);
	title_labels jsonb;
BEGIN
	IF title IS NULL OR title !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a message''s title has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF octet_length(body) > 16384 THEN
		RAISE EXCEPTION 'the text of a message is too long'
			USING ERRCODE = 'program_limit_exceeded', DETAIL = 'It has at most 16384 bytes.';
	END IF;
	title_labels := monitoring.check_text_map(labels, 'labels', 4096)
		|| jsonb_build_object('alertname', title, 'severity', monitoring.canonical_severity(severity));
	SELECT r.config, k.takes_alerts INTO config, takes_alerts
	FROM monitoring.receiver_defs AS r JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind WHERE r.name = send.receiver;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF NOT takes_alerts THEN
		RAISE EXCEPTION 'receiver "%" takes no alerts or messages', receiver USING ERRCODE = 'wrong_object_type';
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox (id, created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	VALUES (new_id, now_at, receiver, key, title, 'message',
		monitoring.make_payload(receiver, key, 'firing', jsonb_build_object('alertname', title), jsonb_build_array(jsonb_build_object(
			'status', 'firing', 'labels', title_labels,
			'annotations', jsonb_strip_nulls(jsonb_build_object('summary', title, 'description', nullif(body, ''))),
			'startsAt', monitoring.format_time(now_at), 'endsAt', '0001-01-01T00:00:00Z', 'fingerprint', left(md5(key), 16))),
			'{"reason": "message"}'),
		now_at, now_at + monitoring.max_age(config));
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.send(text, text, text, jsonb, text) IS 'Send a message to a receiver if the transaction commits, and return the number of the notification; the view notifications shows its outcome. Receivers get it as an alert that fires with that title as its name, the text as its description, and is never resolved. One that is disabled gets it when it is enabled, unless it is too old by then. Errors: 22023 for a title, labels or severity that are not valid, 54000 for too much of them, 42704 if there is no such receiver, 42809 if it is a heartbeat.';
