-- formatters, services: what programs read: webhook, alertmanager, notify, sql, sentry.

CREATE FUNCTION monitoring.webhook_body(notification jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	external_url text := rtrim(coalesce(current_setting('monitoring.external_url', true), ''), '/');
BEGIN
	RETURN jsonb_build_object(
		'version', '4',
		'groupKey', notification -> 'groupKey',
		'truncatedAlerts', coalesce(notification -> 'truncatedAlerts', '0'),
		'status', notification -> 'status',
		'receiver', notification -> 'receiver',
		'groupLabels', coalesce(notification -> 'groupLabels', '{}'),
		'commonLabels', coalesce(notification -> 'commonLabels', '{}'),
		'commonAnnotations', coalesce(notification -> 'commonAnnotations', '{}'),
		'externalURL', external_url,
		'notification_reason', coalesce(notification ->> 'reason', ''),
		'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object(
				'status', a.value -> 'status', 'labels', a.value -> 'labels', 'annotations', a.value -> 'annotations',
				'startsAt', a.value -> 'startsAt', 'endsAt', a.value -> 'endsAt', 'fingerprint', a.value -> 'fingerprint',
				'generatorURL', CASE WHEN external_url <> '' AND a.value ->> 'alert_id' IS NOT NULL
					THEN external_url || '/#/alerts/' || (a.value ->> 'alert_id') ELSE '' END) ORDER BY a.ordinality), '[]')
			FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a))
		|| CASE WHEN notification ? 'title' OR notification ? 'text' THEN jsonb_build_object('title', monitoring.escape_text(notification ->> 'title', 'text', 1000),
			'text', monitoring.escape_text(notification ->> 'text', 'text', 100000)) ELSE '{}' END;
END $$;
COMMENT ON FUNCTION monitoring.webhook_body(jsonb) IS 'The body of Alertmanager''s webhook, version 4; with title and text where an application said them.';

CREATE FUNCTION monitoring.format_webhook(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
BEGIN
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'::jsonb || monitoring.authorization_header(config))
			|| CASE WHEN config ? 'signing_secret' THEN jsonb_build_object('X-Signature-SHA256', 'hmac-sha256:' || (config ->> 'signing_secret')) ELSE '{}' END,
		monitoring.webhook_body(notification)::text;
END $$;
COMMENT ON FUNCTION monitoring.format_webhook(jsonb, jsonb) IS 'Formatter of the kind webhook: the body of Alertmanager''s webhook, version 4, with an Idempotency-Key header and, if there is a signing_secret, the hexadecimal HMAC-SHA256 of the body as X-Signature-SHA256.';

CREATE FUNCTION monitoring.check_webhook(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_config_text(config, 'username', false, '^[^:]{1,255}$', 'A user name for basic authentication, without a colon.');
	IF config ? 'bearer_token' AND config ? 'username' THEN
		RAISE EXCEPTION 'the receiver''s config has both username and bearer_token' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_webhook(jsonb) IS 'Check of a config of the kind webhook.';

CREATE FUNCTION monitoring.prometheus_labels(labels jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(regexp_replace(regexp_replace(l.key, '[^a-zA-Z0-9_]', '_', 'g'), '^(?=[0-9])', '_'), l.value ORDER BY l.key DESC), '{}')
	FROM jsonb_each_text(CASE WHEN jsonb_typeof(labels) = 'object' THEN labels ELSE '{}' END) AS l
	WHERE l.value <> '' AND l.key <> ''
$$;
COMMENT ON FUNCTION monitoring.prometheus_labels(jsonb) IS 'Labels or annotations under names that Prometheus and Alertmanager take (letters, digits and underscores), without empty ones.';

CREATE FUNCTION monitoring.format_alertmanager(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	external_url text := rtrim(nullif(current_setting('monitoring.external_url', true), ''), '/');
	-- Who is not told again takes an alert for ended at that time: four times as long as until it is told again.
	ends_at text := monitoring.format_time(coalesce((notification ->> 'now')::timestamptz, clock_timestamp())
		+ 4 * make_interval(secs => coalesce((config ->> 'keep_alive_seconds')::float8, 120)));
	base text := monitoring.base_url(receiver, NULL);
	result jsonb := (SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
			'labels', monitoring.prometheus_labels(a.value -> 'labels'),
			'annotations', monitoring.prometheus_labels(a.value -> 'annotations'),
			'startsAt', a.value -> 'startsAt',
			'endsAt', CASE WHEN a.value ->> 'status' = 'firing' THEN ends_at ELSE a.value ->> 'endsAt' END,
			'generatorURL', external_url || '/#/alerts/' || (a.value ->> 'alert_id'))) ORDER BY a.ordinality)
		FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a);
BEGIN
	RETURN QUERY SELECT 'POST', CASE WHEN base ~ '/api/v2/alerts$' THEN base ELSE base || '/api/v2/alerts' END,
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'::jsonb || monitoring.authorization_header(config)),
		result::text
	WHERE result IS NOT NULL;
END $$;
COMMENT ON FUNCTION monitoring.format_alertmanager(jsonb, jsonb) IS 'Formatter of the kind alertmanager: the alerts for Alertmanager''s API v2. What fires ends by itself unless it is told again; that happens every two minutes, or keep_alive_seconds.';

CREATE FUNCTION monitoring.check_alertmanager(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_webhook(config);
	IF config ? 'keep_alive_seconds' AND (CASE WHEN jsonb_typeof(config -> 'keep_alive_seconds') = 'number'
		THEN (config ->> 'keep_alive_seconds')::numeric NOT BETWEEN 1 AND 3600 ELSE true END) THEN
		RAISE EXCEPTION 'key "keep_alive_seconds" in the receiver''s config is out of range'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It takes 1 to 3600.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_alertmanager(jsonb) IS 'Check of a config of the kind alertmanager.';

CREATE FUNCTION monitoring.format_notify(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	message jsonb := monitoring.message(notification, 100);
	shown integer := jsonb_array_length(message -> 'alerts');
	alerts jsonb := (SELECT coalesce(jsonb_agg(jsonb_build_object('status', a.value -> 'status', 'severity', a.value -> 'severity',
			'alertname', monitoring.escape_text(a.value ->> 'alertname', 'text', 200), 'summary', monitoring.escape_text(a.value ->> 'summary', 'text', 300),
			'alert_id', a.value -> 'alert_id', 'fingerprint', a.value -> 'fingerprint', 'startsAt', a.value -> 'startsAt') ORDER BY a.ordinality), '[]')
		FROM jsonb_array_elements(message -> 'alerts') WITH ORDINALITY AS a);
	result jsonb;
BEGIN
	-- NOTIFY takes less than 8000 bytes: the alerts that fit, and how many more there are.
	LOOP
		result := jsonb_build_object('id', notification -> 'id', 'status', message -> 'status', 'severity', message -> 'severity',
			'title', monitoring.message_title(receiver -> 'config', message, 'text', 300), 'text', monitoring.escape_text(message ->> 'text', 'text', 500),
			'groupKey', monitoring.escape_text(notification ->> 'groupKey', 'text', 300), 'group', monitoring.group_hash(notification),
			'receiver', left(notification ->> 'receiver', 200), 'reason', message -> 'reason',
			'alerts', (SELECT coalesce(jsonb_agg(a.value ORDER BY a.ordinality), '[]')
				FROM jsonb_array_elements(alerts) WITH ORDINALITY AS a WHERE a.ordinality <= shown),
			'more', (message ->> 'count')::bigint - shown);
		EXIT WHEN shown = 0 OR octet_length(monitoring.utf8_bytes(result::text)) <= 7900;
		shown := shown * 7 / 8;
	END LOOP;
	RETURN QUERY SELECT 'NOTIFY', receiver -> 'config' ->> 'channel', '{}'::jsonb, result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_notify(jsonb, jsonb) IS 'Formatter of the kind notify: a JSON payload of at most 7900 bytes for a channel of LISTEN.';

CREATE FUNCTION monitoring.check_notify(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'channel', true, '^.+$', 'The name of the channel, as in {"channel": "alerts"}.');
	IF octet_length(config ->> 'channel') > 63 THEN
		RAISE EXCEPTION 'key "channel" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A channel''s name has at most 63 bytes.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_notify(jsonb) IS 'Check of a config of the kind notify.';

CREATE FUNCTION monitoring.format_sql(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY SELECT 'SQL', receiver -> 'config' ->> 'function', '{}'::jsonb,
		(monitoring.webhook_body(notification) || jsonb_build_object('id', notification -> 'id', 'idempotencyKey', notification -> 'idempotencyKey',
			'alerts', coalesce(notification -> 'alerts', '[]'), 'title', monitoring.message(notification, 0) -> 'title'))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_sql(jsonb, jsonb) IS 'Formatter of the kind sql: the argument of a function(jsonb): the body of the kind webhook with id, idempotencyKey and title, the alerts with all that is known of them.';

CREATE FUNCTION monitoring.check_sql(config jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_config_text(config, 'function', true, '^[^(]{1,63}\.[^(]{1,63}$', 'The name of a function(jsonb) with its schema, as in {"function": "shop.on_alert"}.');
	IF to_regprocedure((config ->> 'function') || '(jsonb)') IS NULL THEN
		RAISE EXCEPTION 'function %(jsonb) does not exist', config ->> 'function'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the schema too, as in shop.on_alert.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_sql(jsonb) IS 'Check of a config of the kind sql.';

CREATE FUNCTION monitoring.format_sentry(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 20);
	event_id text := replace(lower(notification ->> 'idempotencyKey'), '-', '');
	now_at timestamptz := coalesce((notification ->> 'now')::timestamptz, clock_timestamp());
	dsn text[] := regexp_match(monitoring.base_url(receiver, NULL), '^(https?://[^?#]*)/([0-9]+)$');
	event jsonb;
BEGIN
	IF message ->> 'status' <> 'firing' THEN
		RETURN; -- an issue there ends by not coming again
	END IF;
	event_id := CASE WHEN event_id ~ '^[0-9a-f]{32}$' THEN event_id ELSE md5(coalesce(event_id, '')) END;
	event := jsonb_strip_nulls(jsonb_build_object('event_id', event_id,
		'timestamp', coalesce(message -> 'alerts' -> 0 ->> 'startsAt', monitoring.format_time(now_at)),
		'platform', 'other', 'logger', 'monitoring',
		'level', CASE message ->> 'severity' WHEN 'critical' THEN 'fatal' WHEN 'high' THEN 'error' WHEN 'medium' THEN 'warning' ELSE 'info' END,
		'environment', config ->> 'environment', 'release', config ->> 'release',
		'server_name', monitoring.escape_text(message -> 'alerts' -> 0 -> 'label_map' ->> 'instance', 'text', 200, true),
		'transaction', monitoring.escape_text(message ->> 'name', 'text', 200, true),
		'fingerprint', jsonb_build_array(monitoring.group_hash(notification)),
		'logentry', jsonb_build_object('formatted', monitoring.message_title(config, message, 'text', 500)
			|| coalesce(E'\n' || nullif(array_to_string(monitoring.message_texts(config, message, 'text', 2000, 7000), E'\n\n'), ''), '')),
		'tags', (SELECT jsonb_object_agg(t.key, t.value) FROM (
			SELECT left(regexp_replace(l.key, '[^a-zA-Z0-9_.:-]', '_', 'g'), 32) AS key, monitoring.escape_text(l.value, 'text', 200, true) AS value
			FROM jsonb_each_text(notification -> 'commonLabels') AS l WHERE l.value <> '' LIMIT 50) AS t),
		'extra', jsonb_build_object('groupKey', monitoring.escape_text(notification ->> 'groupKey', 'text', 1000), 'reason', message -> 'reason',
			'count', message -> 'count', 'console', message -> 'alerts' -> 0 -> 'console_url', 'runbook', message -> 'alerts' -> 0 -> 'runbook_url')));
	RETURN QUERY SELECT 'POST', dsn[1] || '/api/' || dsn[2] || '/envelope/',
		monitoring.request_headers(receiver, notification, jsonb_build_object('Content-Type', 'application/x-sentry-envelope',
			'X-Sentry-Auth', 'Sentry sentry_version=7, sentry_client=monitoring/1.0, sentry_key=' || monitoring.receiver_secret(receiver, 'public_key'))),
		jsonb_build_object('event_id', event_id, 'sent_at', monitoring.format_time(now_at))::text || E'\n'
			|| jsonb_build_object('type', 'event', 'content_type', 'application/json', 'length', octet_length(monitoring.utf8_bytes(event::text)))::text || E'\n'
			|| event::text || E'\n';
END $$;
COMMENT ON FUNCTION monitoring.format_sentry(jsonb, jsonb) IS 'Formatter of the kind sentry: an event in an envelope; groups of alerts become issues. Nothing is sent of what is resolved.';

CREATE FUNCTION monitoring.check_sentry(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'environment', false, '^[^/ ]{1,64}$', 'The name of an environment has 1 to 64 characters, without spaces and slashes.');
	PERFORM monitoring.check_config_text(config, 'release', false, '^[^/\\]{1,200}$', 'A release has 1 to 200 characters, without slashes.');
	IF config ->> 'url' !~ '^https?://[^?#]*/[0-9]+/?$' THEN
		RAISE EXCEPTION 'the receiver''s url must end with the number of the project'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is the DSN without the key and the @: https://o1.ingest.sentry.io/42 with the key in public_key.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_sentry(jsonb) IS 'Check of a config of the kind sentry.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, url_required, config_check, keep_alive, end_tests, timeout_seconds, needs_sender, description, builtin) VALUES
	('webhook', 'monitoring.format_webhook', '{username}', '{password,bearer_token,signing_secret}', true, 'monitoring.check_webhook', NULL, false, 15, true,
		'JSON body of Alertmanager''s webhook, version 4', true),
	('alertmanager', 'monitoring.format_alertmanager', '{username,keep_alive_seconds}', '{password,bearer_token}', true,
		'monitoring.check_alertmanager', '2 minutes', true, 15, true, 'alerts for the API of an Alertmanager, kept alive', true),
	('notify', 'monitoring.format_notify', '{channel,title}', '{}', false, 'monitoring.check_notify', NULL, false, 15, false, 'payload for LISTEN', true),
	('sql', 'monitoring.format_sql', '{function}', '{}', false, 'monitoring.check_sql', NULL, false, 5, false, 'call of a function(jsonb)', true),
	('sentry', 'monitoring.format_sentry', '{title,text,environment,release}', '{public_key}', true, 'monitoring.check_sentry', NULL, false, 15, true,
		'event for a project of Sentry', true);
