-- formatters, paging: what wakes people: pagerduty, opsgenie, twilio.

CREATE FUNCTION monitoring.format_pagerduty(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 100);
	first jsonb := message -> 'alerts' -> 0;
	shown integer := jsonb_array_length(message -> 'alerts');
	details jsonb := (SELECT coalesce(jsonb_agg(jsonb_build_object('status', a.value -> 'status', 'severity', a.value -> 'severity',
			'text', monitoring.alert_text(config, message, a.value, 'text', 2000),
			'startsAt', a.value -> 'startsAt', 'endsAt', a.value -> 'endsAt', 'alert_id', a.value -> 'alert_id') ORDER BY a.ordinality), '[]')
		FROM jsonb_array_elements(message -> 'alerts') WITH ORDINALITY AS a);
	event jsonb := jsonb_build_object('routing_key', monitoring.receiver_secret(receiver, 'routing_key'),
		'event_action', CASE WHEN message ->> 'status' = 'resolved' THEN 'resolve'
			WHEN message ->> 'reason' = 'acknowledged' THEN 'acknowledge' ELSE 'trigger' END,
		'dedup_key', monitoring.group_hash(notification));
	result jsonb := event;
BEGIN
	WHILE event ->> 'event_action' = 'trigger' LOOP
		result := event || jsonb_strip_nulls(jsonb_build_object('client', 'monitoring', 'client_url', monitoring.safe_link(message ->> 'external_url'),
			'links', (SELECT coalesce(jsonb_agg(jsonb_build_object('href', l.value ->> 'url', 'text', left(l.value ->> 'text', 100)) ORDER BY l.ordinality), '[]')
				FROM jsonb_array_elements(first -> 'links') WITH ORDINALITY AS l),
			'payload', jsonb_build_object(
				'summary', coalesce(nullif(monitoring.message_title(config, message, 'text', 200)
					|| coalesce(': ' || monitoring.escape_text(coalesce(message ->> 'text', first ->> 'summary'), 'text', 820, true), ''), ''), 'alert'),
				'source', coalesce(config ->> 'source', nullif(monitoring.escape_text(first -> 'label_map' ->> 'instance', 'text', 500, true), ''), current_database()::text),
				'severity', CASE message ->> 'severity' WHEN 'critical' THEN 'critical' WHEN 'high' THEN 'error' WHEN 'medium' THEN 'warning' ELSE 'info' END,
				'timestamp', first ->> 'startsAt',
				'component', monitoring.escape_text(coalesce(config ->> 'component', first -> 'label_map' ->> 'service'), 'text', 200, true),
				'group', monitoring.escape_text(message ->> 'group', 'text', 500, true),
				'class', monitoring.escape_text(message ->> 'name', 'text', 200, true),
				'custom_details', jsonb_build_object('firing', message -> 'firing', 'resolved', message -> 'resolved', 'reason', message -> 'reason',
					'evidence', monitoring.escape_text(message ->> 'evidence', 'text', 2000), 'more', (message ->> 'count')::bigint - shown,
					'alerts', (SELECT coalesce(jsonb_agg(a.value ORDER BY a.ordinality), '[]')
						FROM jsonb_array_elements(details) WITH ORDINALITY AS a WHERE a.ordinality <= shown)))));
		-- An event takes 512,000 bytes; some of them are for the key and what goes out of Unicode beyond it.
		EXIT WHEN shown = 0 OR octet_length(monitoring.utf8_bytes(result::text)) <= 480000;
		shown := shown * 3 / 4;
	END LOOP;
	RETURN QUERY SELECT 'POST', CASE WHEN receiver ->> 'url' ~ '/v2/enqueue/?$' THEN monitoring.base_url(receiver, NULL)
			ELSE monitoring.base_url(receiver, 'https://events.pagerduty.com') || '/v2/enqueue' END,
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'), result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_pagerduty(jsonb, jsonb) IS 'Formatter of the kind pagerduty: an event of version 2. A group of alerts is an incident there: triggered, acknowledged when somebody has acknowledged all its alerts, resolved when all have ended. At most 512,000 bytes.';

CREATE FUNCTION monitoring.check_pagerduty(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, k, false, '^.{1,200}$', 'A text of 1 to 200 characters.') FROM unnest('{source,component}'::text[]) AS k;
END $$;
COMMENT ON FUNCTION monitoring.check_pagerduty(jsonb) IS 'Check of a config of the kind pagerduty.';

CREATE FUNCTION monitoring.format_opsgenie(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 20);
	first jsonb := message -> 'alerts' -> 0;
	alias text := monitoring.group_hash(notification);
	action text := CASE WHEN message ->> 'status' = 'resolved' THEN 'close' WHEN message ->> 'reason' = 'acknowledged' THEN 'acknowledge' END;
	result jsonb;
BEGIN
	-- message 130, alias 512, description 15,000, 20 tags of 50, all details 8000, entity 512, source 100 characters
	IF action IS NOT NULL THEN
		result := jsonb_strip_nulls(jsonb_build_object('source', 'monitoring', 'user', monitoring.escape_text(first ->> 'acknowledged_by', 'text', 100, true),
			'note', monitoring.message_title(config, message, 'text', 300)));
	ELSE
		result := jsonb_strip_nulls(jsonb_build_object('message', coalesce(nullif(monitoring.message_title(config, message, 'text', 130), ''), 'alert'),
			'alias', alias, 'description', array_to_string(monitoring.message_texts(config, message, 'text', 4000, 14500), E'\n\n'),
			'responders', config -> 'responders',
			'tags', (SELECT jsonb_agg(t.tag ORDER BY t.n) FROM (
				SELECT c.value AS tag, c.ordinality AS n FROM jsonb_array_elements_text(config -> 'tags') WITH ORDINALITY AS c
				UNION ALL SELECT message ->> 'severity', 100 WHERE message ->> 'severity' IS NOT NULL ORDER BY n LIMIT 20) AS t),
			'details', (SELECT jsonb_object_agg(d.key, d.value) FROM (
				SELECT monitoring.escape_text(l.key, 'text', 100, true) AS key, monitoring.escape_text(l.value, 'text', 200, true) AS value
				FROM jsonb_each_text(notification -> 'commonLabels') AS l ORDER BY l.key LIMIT 20) AS d)
				|| jsonb_strip_nulls(jsonb_build_object('runbook_url', first -> 'runbook_url', 'console_url', first -> 'console_url')),
			'entity', monitoring.escape_text(first -> 'label_map' ->> 'instance', 'text', 500, true), 'source', 'monitoring',
			'priority', CASE message ->> 'severity' WHEN 'critical' THEN 'P1' WHEN 'high' THEN 'P2' WHEN 'medium' THEN 'P3' WHEN 'low' THEN 'P4' ELSE 'P5' END));
	END IF;
	RETURN QUERY SELECT 'POST', monitoring.base_url(receiver, 'https://api.opsgenie.com') || '/v2/alerts'
			|| coalesce('/' || alias || '/' || action || '?identifierType=alias', ''),
		monitoring.request_headers(receiver, notification, jsonb_build_object('Content-Type', 'application/json',
			'Authorization', 'GenieKey ' || monitoring.receiver_secret(receiver, 'api_key'))), result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_opsgenie(jsonb, jsonb) IS 'Formatter of the kind opsgenie: a group of alerts is an alert there, found by its alias: created, acknowledged when somebody has acknowledged all of it, closed.';

CREATE FUNCTION monitoring.check_opsgenie(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	IF config ? 'tags' AND (CASE jsonb_typeof(config -> 'tags') WHEN 'array' THEN jsonb_array_length(config -> 'tags') > 19
		OR jsonb_path_exists(config -> 'tags', 'strict $[*] ? (@.type() != "string" || !(@ like_regex "^.{1,50}$"))') ELSE true END) THEN
		RAISE EXCEPTION 'key "tags" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'An array of at most 19 texts of 1 to 50 characters.';
	ELSIF config ? 'responders' AND (CASE jsonb_typeof(config -> 'responders') WHEN 'array' THEN jsonb_array_length(config -> 'responders') > 50
		OR EXISTS (SELECT FROM jsonb_array_elements(config -> 'responders') AS r
			WHERE r.value ->> 'type' IS NULL OR r.value ->> 'type' NOT IN ('team', 'user', 'escalation', 'schedule')) ELSE true END) THEN
		RAISE EXCEPTION 'key "responders" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'An array of at most 50 objects, as in [{"type": "team", "name": "ops"}]; types are team, user, escalation and schedule.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_opsgenie(jsonb) IS 'Check of a config of the kind opsgenie.';

CREATE FUNCTION monitoring.format_twilio(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 1);
	first jsonb := message -> 'alerts' -> 0;
	room integer := coalesce((config ->> 'max_length')::integer, 480);
	title text := monitoring.message_title(config, message, 'text', least(room, 200));
	content text := title;
BEGIN
	IF room > length(title) + 20 THEN
		content := concat_ws(E'\n', title, CASE WHEN config ? 'text' AND first IS NOT NULL
			THEN monitoring.alert_text(config, message, first, 'text', room - monitoring.text_units(title) - 1)
			ELSE monitoring.escape_text(coalesce(message ->> 'text', concat_ws(', ', first ->> 'summary', first ->> 'reading')), 'text',
				room - monitoring.text_units(title) - 1) END);
	END IF;
	RETURN QUERY SELECT 'POST', format('%s/2010-04-01/Accounts/%s/Messages.json', monitoring.base_url(receiver, 'https://api.twilio.com'),
			coalesce(config ->> 'account_sid', config ->> 'username')),
		monitoring.request_headers(receiver, notification, jsonb_build_object('Content-Type', 'application/x-www-form-urlencoded',
			'Authorization', 'Basic ' || monitoring.receiver_secret(receiver, 'basic_auth'))),
		monitoring.form_encode(jsonb_strip_nulls(jsonb_build_object('To', config ->> 'to', 'From', config ->> 'from',
			'MessagingServiceSid', config ->> 'messaging_service_sid', 'Body', content)));
END $$;
COMMENT ON FUNCTION monitoring.format_twilio(jsonb, jsonb) IS 'Formatter of the kind twilio: an SMS of at most max_length (480) characters.';

CREATE FUNCTION monitoring.check_twilio(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'username', true, '^(AC|SK)[0-9a-fA-F]{32}$', 'The SID of the account (AC...) or of an API key (SK...); its secret is the key password.');
	PERFORM monitoring.check_config_text(config, 'account_sid', left(config ->> 'username', 2) = 'SK', '^AC[0-9a-fA-F]{32}$', 'The SID of the account (AC...).');
	PERFORM monitoring.check_config_text(config, 'to', true, '^(whatsapp:)?\+[1-9][0-9]{4,14}$', 'A telephone number, as in +4930123456.');
	PERFORM monitoring.check_config_text(config, 'from', NOT config ? 'messaging_service_sid', '^((whatsapp:)?\+?[0-9]{3,15}|[A-Za-z0-9 ]{1,11})$', 'A telephone number or a name of at most 11 letters and digits; or give messaging_service_sid.');
	PERFORM monitoring.check_config_text(config, 'messaging_service_sid', false, '^MG[0-9a-fA-F]{32}$', 'The SID of a messaging service (MG...).');
	IF config ? 'max_length' AND (CASE WHEN jsonb_typeof(config -> 'max_length') = 'number'
		THEN (config ->> 'max_length')::numeric NOT BETWEEN 40 AND 1600 OR (config ->> 'max_length')::numeric % 1 <> 0 ELSE true END) THEN
		RAISE EXCEPTION 'key "max_length" in the receiver''s config is out of range' USING ERRCODE = 'invalid_parameter_value', HINT = 'It takes 40 to 1600.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_twilio(jsonb) IS 'Check of a config of the kind twilio.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, url_required, config_check, ambiguous, tell_acknowledged, end_tests, description, builtin) VALUES
	('pagerduty', 'monitoring.format_pagerduty', '{title,text,source,component}', '{routing_key}', false, 'monitoring.check_pagerduty', 'repeat', true, true,
		'event for PagerDuty', true),
	('opsgenie', 'monitoring.format_opsgenie', '{title,text,responders,tags}', '{api_key}', false, 'monitoring.check_opsgenie', 'repeat', true, true,
		'alert for Opsgenie', true),
	('twilio', 'monitoring.format_twilio', '{username,account_sid,from,to,messaging_service_sid,max_length,title,text}', '{password}', false,
		'monitoring.check_twilio', 'never', false, false, 'SMS through Twilio', true);
