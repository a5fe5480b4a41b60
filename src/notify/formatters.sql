-- formatters: what the functions that turn a notification into a request have in common. Those of the built-in kinds, and
-- the checks of their configs, are in formatters/.
--
-- PL/pgSQL keeps plans from call to call, which SQL functions do not. A secret stands in the config as a marker.

----------------------------------------------------------------------------------------------------------------------
-- Requests
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.request_headers(receiver jsonb, notification jsonb, own jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN own || coalesce(receiver -> 'config' -> 'headers', '{}')
	|| pg_catalog.jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey');
COMMENT ON FUNCTION monitoring.request_headers(jsonb, jsonb, jsonb) IS 'Headers of a request: the formatter''s own, those of the receiver''s config, and the Idempotency-Key.';

CREATE FUNCTION monitoring.authorization_header(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN config ? 'bearer_token' THEN pg_catalog.jsonb_build_object('Authorization', 'Bearer ' || (config ->> 'bearer_token'))
	WHEN config ? 'basic_auth' THEN pg_catalog.jsonb_build_object('Authorization', 'Basic ' || (config ->> 'basic_auth'))
	ELSE '{}' END;
COMMENT ON FUNCTION monitoring.authorization_header(jsonb) IS 'The Authorization header that a config asks for; none without bearer_token or username and password.';

CREATE FUNCTION monitoring.receiver_secret(receiver jsonb, key text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF receiver -> 'config' ->> key IS NULL THEN
		RAISE EXCEPTION 'receiver "%" has no "%"', receiver ->> 'name', key USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	RETURN receiver -> 'config' ->> key;
END $$;
COMMENT ON FUNCTION monitoring.receiver_secret(jsonb, text) IS 'The marker of a secret of a receiver. Error 55000 if it has none.';

CREATE FUNCTION monitoring.base_url(receiver jsonb, standard text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.rtrim(coalesce(receiver ->> 'url', standard), '/');
COMMENT ON FUNCTION monitoring.base_url(jsonb, text) IS 'The receiver''s url, or the standard one, without a slash at its end.';

CREATE FUNCTION monitoring.group_hash(notification jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.encode(pg_catalog.sha256(monitoring.utf8_bytes(coalesce(notification ->> 'groupKey', ''))), 'hex');
COMMENT ON FUNCTION monitoring.group_hash(jsonb) IS 'The group of a notification as 64 hexadecimal digits, for receivers that bound the length of keys.';

CREATE FUNCTION monitoring.form_encode(fields jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(f.key || '=' || coalesce(v.encoded, ''), '&' ORDER BY f.key)
	FROM jsonb_each_text(fields) AS f
	CROSS JOIN LATERAL monitoring.utf8_bytes(f.value) AS u (bytes)
	CROSS JOIN LATERAL (
		SELECT string_agg(CASE WHEN b.byte < 128 AND chr(b.low) ~ '^[A-Za-z0-9._~-]$' THEN chr(b.low) ELSE '%' || upper(lpad(to_hex(b.byte), 2, '0')) END, '' ORDER BY n.n) AS encoded
		FROM generate_series(0, length(u.bytes) - 1) AS n (n)
		CROSS JOIN LATERAL (SELECT greatest(get_byte(u.bytes, n.n) & 127, 1) AS low, get_byte(u.bytes, n.n) AS byte) AS b) AS v
	WHERE f.value IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.form_encode(jsonb) IS 'An object of texts as the body of a form (application/x-www-form-urlencoded).';

CREATE FUNCTION monitoring.hex_colour(colour integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '#' || pg_catalog.lpad(pg_catalog.to_hex(colour), 6, '0');
COMMENT ON FUNCTION monitoring.hex_colour(integer) IS 'A colour as in #FF0000, in small letters.';

----------------------------------------------------------------------------------------------------------------------
-- Checks of configs
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_config_text(config jsonb, key text, required boolean, pattern text, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT config ? key THEN
		IF required THEN
			RAISE EXCEPTION 'key "%" is missing in the receiver''s config', key USING ERRCODE = 'invalid_parameter_value', HINT = hint;
		END IF;
	ELSIF jsonb_typeof(config -> key) <> 'string' OR (config ->> key) ~ '[\x01-\x1f\x7f]' OR (config ->> key) !~ pattern THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is not valid', key USING ERRCODE = 'invalid_parameter_value', HINT = hint;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_config_text(jsonb, text, boolean, text, text) IS 'Raises 22023 with the hint unless a key of a config is text without control characters that matches, or is missing and not required.';

CREATE FUNCTION monitoring.check_templates(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_template(t.key, config -> t.key, t.max_length)
	FROM (VALUES ('title', 200), ('text', 1000), ('html', 10000)) AS t (key, max_length)
	WHERE config ? t.key;
END $$;
COMMENT ON FUNCTION monitoring.check_templates(jsonb) IS 'Raises 22023 unless title, text and html of a config are templates.';

----------------------------------------------------------------------------------------------------------------------
-- Preview
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.redact_url(url text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.regexp_replace(url, '^([A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)[/?#].+$', '\1/***');
COMMENT ON FUNCTION monitoring.redact_url(text) IS 'A url with *** for path, query and fragment.';

CREATE FUNCTION monitoring.run_formatter(function text, owner name, receiver jsonb, notification jsonb) RETURNS jsonb
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_run_formatter';
COMMENT ON FUNCTION monitoring.run_formatter(text, name, jsonb, jsonb) IS 'Call a formatter as its kind''s owner, for at most a second; its row as an object, null if there is none. What it raises is raised; 42501 if the caller has not the rights of that owner.';

CREATE FUNCTION monitoring.notification_of_alert(receiver text, alert_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	alert jsonb;
	group_labels jsonb;
BEGIN
	SELECT monitoring.alert_document(CASE WHEN h.to_state = 'resolved' THEN 'resolved' ELSE 'firing' END, h.rule_name, h.severity, h.labels, h.annotations,
		h.value, h.op, h.threshold, h.fired_at, h.at, h.fingerprint, h.alert_id, h.details) INTO alert
	FROM monitoring.alert_history AS h
	WHERE h.alert_id = notification_of_alert.alert_id
	ORDER BY h.at DESC, h.id DESC
	LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert % does not exist', alert_id USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.alerts lists alerts.';
	END IF;
	group_labels := jsonb_build_object('alertname', alert -> 'labels' -> 'alertname');
	RETURN monitoring.make_payload(receiver, '{}:' || monitoring.labels_text(group_labels), alert ->> 'status',
		group_labels, jsonb_build_array(alert), '{"reason": "preview"}');
END $$;
COMMENT ON FUNCTION monitoring.notification_of_alert(text, bigint) IS 'A notification to a receiver about one alert (alerts.alert_id) as it is or was last. Error 42704 if there is no such alert.';

CREATE FUNCTION monitoring.preview_notification(receiver text, alert_id bigint DEFAULT NULL)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r monitoring.receiver_defs;
	k monitoring.receiver_kinds;
	redacted jsonb;
	request jsonb;
	secret_url text;
BEGIN
	SELECT * INTO r FROM monitoring.receiver_defs AS d WHERE d.name = preview_notification.receiver;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', preview_notification.receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	SELECT * INTO STRICT k FROM monitoring.receiver_kinds AS i WHERE i.kind = r.kind;
	redacted := monitoring.redacted_receiver(r.name);
	IF redacted -> 'config' ? 'headers' THEN
		redacted := jsonb_set(redacted, '{config,headers}',
			(SELECT coalesce(jsonb_object_agg(h.key, '***'), '{}') FROM jsonb_object_keys(redacted -> 'config' -> 'headers') AS h (key)));
	END IF;
	request := monitoring.run_formatter(k.function, k.owner, redacted,
		CASE WHEN alert_id IS NULL THEN monitoring.test_notification(r.name, 0, clock_timestamp()) ELSE monitoring.notification_of_alert(r.name, alert_id) END
			|| CASE WHEN k.takes_alerts THEN '{}' ELSE '{"status": "heartbeat"}' END::jsonb
			|| jsonb_build_object('id', 0, 'idempotencyKey', '00000000-0000-0000-0000-000000000000'));
	-- path and query of a url are often all that one needs to know to write there
	secret_url := rtrim(r.url, '/');
	RETURN QUERY SELECT f.method, coalesce(replace(f.url, secret_url, monitoring.redact_url(secret_url)), f.url),
		coalesce(replace(f.headers::text, secret_url, monitoring.redact_url(secret_url))::jsonb, f.headers),
		coalesce(replace(f.body, secret_url, monitoring.redact_url(secret_url)), f.body)
	FROM jsonb_to_record(request) AS f (method text, url text, headers jsonb, body text)
	WHERE request IS NOT NULL;
END $$;
COMMENT ON FUNCTION monitoring.preview_notification(text, bigint) IS 'The exact request that a receiver would get about an alert (alerts.alert_id), or as a test, with *** for secrets and the path of its url; no row: nothing would be sent. Nothing is sent. Errors: 42704 for an unknown receiver or alert, and those of the kind''s formatter.';
