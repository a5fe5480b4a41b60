-- receivers: whom to notify and how: kinds, which are rows naming a formatter, and receivers with their configuration.

----------------------------------------------------------------------------------------------------------------------
-- Receiver kinds: rows naming a formatter
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
	function text NOT NULL,
	config_keys text[] NOT NULL DEFAULT '{}',
	secret_keys text[] NOT NULL DEFAULT '{}',
	url_required boolean NOT NULL DEFAULT true,
	schemes text[] NOT NULL DEFAULT '{http,https}',
	config_check text,
	ambiguous text NOT NULL DEFAULT 'repeat' CHECK (ambiguous IN ('repeat', 'never')),
	tell_acknowledged boolean NOT NULL DEFAULT false,
	end_tests boolean NOT NULL DEFAULT false,
	keep_alive interval CHECK (keep_alive > '0'),
	timeout_seconds float8 NOT NULL DEFAULT 15 CHECK (timeout_seconds BETWEEN 0.01 AND 60),
	takes_alerts boolean NOT NULL DEFAULT true,
	needs_sender boolean NOT NULL DEFAULT true,
	description text NOT NULL DEFAULT '',
	owner name NOT NULL DEFAULT current_user,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.receiver_kinds IS 'Kinds of receivers. Each names a formatter function(receiver jsonb, notification jsonb) returning TABLE (method text, url text, headers jsonb, body text) with one row, or none when there is nothing to be sent; it runs with the rights of the row''s owner. Methods are those of HTTP, and SMTP (headers From and To are the envelope), NOTIFY (the url is a channel, the body its payload) and SQL (the url is the name of a function(jsonb), the body its argument; it runs as the receiver''s owner). Add a kind with CREATE FUNCTION and INSERT.';
COMMENT ON COLUMN monitoring.receiver_kinds.kind IS 'Name of the kind, as given to create_receiver.';
COMMENT ON COLUMN monitoring.receiver_kinds.function IS 'Schema-qualified name of the formatter.';
COMMENT ON COLUMN monitoring.receiver_kinds.config_keys IS 'Keys that a receiver''s config may hold besides those every kind takes.';
COMMENT ON COLUMN monitoring.receiver_kinds.secret_keys IS 'Keys of the config that hold secrets; the formatter gets a marker in place of each.';
COMMENT ON COLUMN monitoring.receiver_kinds.url_required IS 'Whether a receiver needs a url; otherwise the formatter knows one.';
COMMENT ON COLUMN monitoring.receiver_kinds.schemes IS 'Schemes that a receiver''s url may have.';
COMMENT ON COLUMN monitoring.receiver_kinds.config_check IS 'Schema-qualified name of a function(config jsonb) that raises an error for a config that will not do, with the url as a member and secrets replaced by ***; it runs with the rights of the row''s owner. Null: none.';
COMMENT ON COLUMN monitoring.receiver_kinds.ambiguous IS 'What to do when nobody knows whether a notification arrived: repeat it, or never.';
COMMENT ON COLUMN monitoring.receiver_kinds.tell_acknowledged IS 'Whether such receivers are told that all alerts of a group have been acknowledged.';
COMMENT ON COLUMN monitoring.receiver_kinds.end_tests IS 'Whether such receivers keep open what they are told of, and so are told of the end of a test.';
COMMENT ON COLUMN monitoring.receiver_kinds.keep_alive IS 'How often such receivers are told again what is firing, whatever the routes say, because they would take silence for its end; config key keep_alive_seconds overrides it. Null: never.';
COMMENT ON COLUMN monitoring.receiver_kinds.timeout_seconds IS 'How long an attempt may take unless the receiver''s config says.';
COMMENT ON COLUMN monitoring.receiver_kinds.takes_alerts IS 'Whether alerts go to such receivers. When false, routes and rules cannot name them.';
COMMENT ON COLUMN monitoring.receiver_kinds.needs_sender IS 'Whether requests go out by the sender program. False for kinds whose methods are NOTIFY and SQL alone: they do not wait for it.';
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
	IF NEW.config_check IS NOT NULL AND to_regprocedure(NEW.config_check || '(jsonb)') IS NULL THEN
		RAISE EXCEPTION 'function %(jsonb), which is to check configs, does not exist', NEW.config_check
			USING ERRCODE = 'undefined_function', HINT = 'Give the schema too, as in myschema.check_mykind.';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.receiver_kind_check() IS 'Trigger of receiver_kinds: the functions must exist (42883) and the writer must be a member of the owner (42501).';

CREATE TRIGGER receiver_kind_check BEFORE INSERT OR UPDATE ON monitoring.receiver_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.receiver_kind_check();
COMMENT ON TRIGGER receiver_kind_check ON monitoring.receiver_kinds IS 'Checks formatter and owner.';

CREATE TRIGGER keep_what_is_used BEFORE DELETE OR UPDATE OF kind ON monitoring.receiver_kinds
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') <> 'off')
	EXECUTE FUNCTION monitoring.keep_what_is_used('kind', 'receiver_defs');
COMMENT ON TRIGGER keep_what_is_used ON monitoring.receiver_kinds IS 'Refuses to take away what rows of receiver_defs name, unless a dump is being restored.';

----------------------------------------------------------------------------------------------------------------------
-- Receivers
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_defs (
	name text PRIMARY KEY,
	kind text NOT NULL,
	url text,
	config jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	owner name NOT NULL DEFAULT current_user
);
COMMENT ON TABLE monitoring.receiver_defs IS 'Receivers with their full urls and configuration, which may hold secrets: granted to nobody. See the view receivers.';
COMMENT ON COLUMN monitoring.receiver_defs.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_defs.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receiver_defs.url IS 'Where notifications go; may hold a token. Null: where the kind says, or a secret (config.url).';
COMMENT ON COLUMN monitoring.receiver_defs.config IS 'Options, as described for create_receiver; {"secret": key} stands for a row of receiver_secrets.';
COMMENT ON COLUMN monitoring.receiver_defs.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receiver_defs.created_at IS 'When the receiver was created.';
COMMENT ON COLUMN monitoring.receiver_defs.changed_at IS 'When it was created, changed, enabled or given a secret: what it failed with before does not count any more.';
COMMENT ON COLUMN monitoring.receiver_defs.owner IS 'Role that said where notifications go: functions that they call run as it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_defs', '');

-- Written out rather than in functions: who may read a view need not be able to call what it calls.
CREATE VIEW monitoring.receivers AS
	SELECT r.name, r.kind,
		CASE WHEN r.config ? 'url' THEN '***'
			WHEN r.url IS NOT NULL THEN coalesce(substring(r.url FROM '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]+(?=[/?#]|$)'), '')
				|| CASE WHEN r.url ~ '^smtp' THEN '' ELSE '/...' END
		END AS url,
		(SELECT coalesce(jsonb_object_agg(e.key, CASE
				WHEN e.key = ANY ('{timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved,ca_file,cert_file,key_file,
						min_tls,http2,starttls,rate_per_second,burst,breaker_failures,fallback,fallback_after_seconds,emergency}'::text[])
					OR jsonb_typeof(e.value) = 'object' AND jsonb_typeof(e.value -> 'secret') = 'string' AND e.value - 'secret' = '{}'
					OR k.builtin AND e.key = ANY (k.config_keys)
					THEN e.value ELSE '"***"'::jsonb END), '{}')
			FROM jsonb_each(r.config) AS e) AS config,
		r.enabled, r.created_at, r.owner
	FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind;
COMMENT ON VIEW monitoring.receivers IS 'Receivers of notifications, secrets redacted.';
COMMENT ON COLUMN monitoring.receivers.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receivers.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receivers.url IS 'Scheme and host; null: where the kind says; *** if all of it is a secret.';
COMMENT ON COLUMN monitoring.receivers.config IS 'Options; values that may be secrets show as ***, {"secret": key} is one of the view secrets.';
COMMENT ON COLUMN monitoring.receivers.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receivers.created_at IS 'When the receiver was created.';
COMMENT ON COLUMN monitoring.receivers.owner IS 'Role that created it, or was the last to change url or config beyond the keys that every kind takes: functions that notifications call (kind sql) run as it.';

CREATE FUNCTION monitoring.max_age(config jsonb) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.make_interval(secs => coalesce((config ->> 'max_age_seconds')::float8, 3600));
COMMENT ON FUNCTION monitoring.max_age(jsonb) IS 'How long after it was enqueued a notification to a receiver with this config is given up.';

CREATE FUNCTION monitoring.check_receiver_url(url text, schemes text[] DEFAULT '{http,https}') RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	scheme text := lower(substring(url FROM '^([A-Za-z][A-Za-z0-9+.-]*)://'));
	authority text := substring(url FROM '^[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)');
BEGIN
	IF url IS NULL OR octet_length(url) > 4096 THEN
		RAISE EXCEPTION 'a receiver needs a url of at most 4096 bytes' USING ERRCODE = 'invalid_parameter_value';
	ELSIF url ~ '[^!-~]' OR strpos(url, E'\\') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds a space, a control character, a backslash or a non-ASCII character'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Percent-encode such characters.';
	ELSIF authority IS NULL OR scheme <> ALL (schemes) THEN
		RAISE EXCEPTION 'the receiver''s url must start with %', array_to_string(schemes, ':// or ') || '://'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF strpos(authority, '@') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds credentials'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = CASE WHEN scheme ~ '^smtp' THEN 'Put them into the config, as username and password.'
					ELSE 'Put them into the config, as in {"headers": {"Authorization": {"value": "..."}}}.' END;
	ELSIF authority !~ '^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$' THEN
		RAISE EXCEPTION 'the receiver''s url has no valid host' USING ERRCODE = 'invalid_parameter_value';
	ELSIF coalesce(substring(authority FROM ':([0-9]+)$')::integer NOT BETWEEN 1 AND 65535, false) THEN
		RAISE EXCEPTION 'the port in the receiver''s url is not one of 1 to 65535' USING ERRCODE = 'invalid_parameter_value';
	ELSIF scheme ~ '^smtp' AND url !~ '^[^/]*//[^/?#]*/?$' THEN
		RAISE EXCEPTION 'the url of a mail server is scheme, host and port only' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_url(text, text[]) IS 'Raises 22023 unless the text is a url of one of these schemes without credentials, spaces or control characters.';

CREATE FUNCTION monitoring.check_receiver_config(config jsonb, kind_keys text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	known text[] := '{headers,timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved,ca_file,cert_file,key_file,
		min_tls,http2,rate_per_second,burst,breaker_failures,fallback,fallback_after_seconds,emergency}'::text[] || kind_keys;
	bad text;
BEGIN
	IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	-- A url stands here only as a secret.
	SELECT min(k) INTO bad FROM jsonb_object_keys(config) AS k WHERE k <> ALL (known || 'url'::text);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in the receiver''s config', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Known keys: ' || array_to_string(known, ', ') || '.';
	END IF;

	SELECT min(e.key) INTO bad
	FROM jsonb_each(config) AS e
	JOIN (VALUES ('timeout_seconds', 0.01, 60, false), ('connect_timeout_seconds', 0.01, 60, false), ('max_attempts', 1, 100, true),
		('max_age_seconds', 1, 86400, false), ('rate_per_second', 0.001, 10000, false), ('burst', 1, 10000, false),
		('breaker_failures', 0, 1000, true), ('fallback_after_seconds', 0, 86400, false)) AS b (key, low, high, whole) ON b.key = e.key
	WHERE CASE WHEN jsonb_typeof(e.value) = 'number'
			THEN (e.value)::numeric NOT BETWEEN b.low AND b.high OR b.whole AND (e.value)::numeric % 1 <> 0 ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is out of range', bad
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'timeout_seconds and connect_timeout_seconds take 0.01 to 60, max_attempts 1 to 100, max_age_seconds 1 to 86400, rate_per_second 0.001 to 10000, burst 1 to 10000, breaker_failures 0 to 1000, fallback_after_seconds 0 to 86400.';
	END IF;

	SELECT min(e.key) INTO bad FROM jsonb_each(config) AS e
	WHERE e.key = ANY ('{send_resolved,http2,emergency}'::text[]) AND jsonb_typeof(e.value) <> 'boolean';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config must be true or false', bad
			USING ERRCODE = 'invalid_parameter_value';
	END IF;

	SELECT min(e.key) INTO bad FROM jsonb_each(config) AS e
	WHERE e.key = ANY ('{ca_file,cert_file,key_file}'::text[])
		AND NOT (jsonb_typeof(e.value) = 'string' AND (e.value #>> '{}') ~ '^/[^[:cntrl:]]+$' AND octet_length(e.value #>> '{}') <= 1000);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config must be an absolute path without control characters', bad
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF (config ? 'key_file') <> (config ? 'cert_file') THEN
		RAISE EXCEPTION 'a client certificate is a cert_file and a key_file' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'min_tls' AND (config -> 'min_tls') NOT IN ('"1.2"', '"1.3"') THEN
		RAISE EXCEPTION 'key "min_tls" in the receiver''s config must be "1.2" or "1.3"' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'starttls' AND (config -> 'starttls') NOT IN ('"required"', '"never"') THEN
		RAISE EXCEPTION 'key "starttls" in the receiver''s config must be "required" or "never"' USING ERRCODE = 'invalid_parameter_value';
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
			OR jsonb_typeof(h.value) NOT IN ('string', 'object')
			OR jsonb_typeof(h.value) = 'string' AND (h.value #>> '{}') ~ '[\x01-\x08\x0a-\x1f\x7f]'
			OR octet_length(h.value #>> '{}') > 8192;
		IF bad IS NOT NULL THEN
			RAISE EXCEPTION 'header "%" in the receiver''s config is not allowed', regexp_replace(left(bad, 128), '[^!-~]', '?', 'g')
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'A header''s value is text of at most 8192 bytes without control characters; headers that frame, route or identify the request cannot be set.';
		END IF;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_config(jsonb, text[]) IS 'Raises 22023 unless the config is an object of known keys with values in range.';

CREATE FUNCTION monitoring.run_config_check(function text, owner name, config jsonb) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_run_config_check';
COMMENT ON FUNCTION monitoring.run_config_check(text, name, jsonb) IS 'Call a kind''s config_check as the kind''s owner, for at most ten seconds; what it raises is raised; 42501 if the caller has not the rights of that owner.';

CREATE FUNCTION monitoring.check_receiver(kind text, url text, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k monitoring.receiver_kinds;
BEGIN
	SELECT * INTO k FROM monitoring.receiver_kinds AS r WHERE r.kind = check_receiver.kind;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown receiver kind "%"', kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Known kinds: ' || (SELECT string_agg(r.kind, ', ' ORDER BY r.kind) FROM monitoring.receiver_kinds AS r) || '.';
	END IF;
	IF config ? 'url' AND url IS NOT NULL THEN
		RAISE EXCEPTION 'the receiver has a url and another one in its config' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT coalesce(config ? 'url', false) AND (k.url_required OR url IS NOT NULL) THEN
		PERFORM monitoring.check_receiver_url(url, k.schemes);
	END IF;
	PERFORM monitoring.check_receiver_config(config, k.config_keys || k.secret_keys);
	IF config ? 'fallback' AND NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r
		WHERE jsonb_typeof(check_receiver.config -> 'fallback') = 'string' AND r.name = check_receiver.config ->> 'fallback') THEN
		RAISE EXCEPTION 'receiver "%", which is to be the fallback, does not exist', config ->> 'fallback'
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	PERFORM monitoring.check_takes_alerts(ARRAY[config ->> 'fallback']);
	IF k.config_check IS NOT NULL THEN
		PERFORM monitoring.run_config_check(k.config_check, k.owner, jsonb_strip_nulls(jsonb_build_object('url', url)) || config
			|| (SELECT coalesce(jsonb_object_agg(s.key, '***'), '{}') FROM unnest(k.secret_keys) AS s (key) WHERE config ? s.key));
	END IF;
	IF config -> 'emergency' = 'true' THEN
		IF NOT monitoring.can_be_told_of_emergencies(k, url, config) THEN
			RAISE EXCEPTION 'a receiver of kind "%" cannot be told of emergencies', kind
				USING ERRCODE = 'invalid_parameter_value', HINT = 'It needs the database itself, or takes no alerts.';
		END IF;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver(text, text, jsonb) IS 'Raises 22023 unless there can be a receiver of this kind with this url and config, in which secrets stand as {"secret": key}, 42704 if its fallback does not exist, and 42809 if that takes no alerts.';

CREATE FUNCTION monitoring.create_receiver(name text, kind text, url text DEFAULT NULL, config jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	taken record;
BEGIN
	PERFORM monitoring.hide_statement();
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a receiver''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- it stays until we have committed
	PERFORM FROM monitoring.receiver_kinds AS k WHERE k.kind = create_receiver.kind FOR KEY SHARE;
	SELECT * INTO taken FROM monitoring.take_secrets(config,
		(SELECT k.secret_keys FROM monitoring.receiver_kinds AS k WHERE k.kind = create_receiver.kind));
	PERFORM monitoring.check_receiver(kind, url, taken.stripped);
	IF NOT (SELECT k.takes_alerts FROM monitoring.receiver_kinds AS k WHERE k.kind = create_receiver.kind)
		AND monitoring.who_names_receiver(name) IS NOT NULL THEN
		RAISE EXCEPTION 'a receiver that takes no alerts cannot be called "%"', name
			USING ERRCODE = 'wrong_object_type', DETAIL = format('The %s names that receiver.', monitoring.who_names_receiver(name));
	END IF;
	INSERT INTO monitoring.receiver_defs AS r (name, kind, url, config, owner)
	VALUES (create_receiver.name, create_receiver.kind, create_receiver.url, taken.stripped, monitoring.calling_role())
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	PERFORM monitoring.store_secret(name, s ->> 'key', s ->> 'source', s ->> 'value') FROM jsonb_array_elements(taken.secrets) AS s;
	PERFORM monitoring.request_routing('wake');
	PERFORM monitoring.warn_of_secrets(name);
	BEGIN
		PERFORM monitoring.preview_notification(name) FROM monitoring.receiver_kinds AS k
		WHERE k.kind = create_receiver.kind AND k.builtin AND k.secret_keys <> '{}';
	EXCEPTION
		WHEN object_not_in_prerequisite_state THEN
			RAISE NOTICE '%', SQLERRM USING HINT = 'Nothing can be sent until it is given, by monitoring.set_receiver_secret.';
		WHEN OTHERS THEN
			NULL; -- a formatter that fails is seen when it is to send something
	END;
	RETURN name;
END $$;
COMMENT ON FUNCTION monitoring.create_receiver(text, text, text, jsonb) IS 'Create a receiver of notifications and return its name. A notice says if a secret is missing without which nothing can be sent, a warning if one is in a file or variable that cannot be used now. Every enabled receiver gets the alerts of routes that name none; of what is firing already it is told when its groups are looked at next. The url''s host must be in monitoring.allowed_hosts when something is sent. Config keys of every kind, with defaults: headers (object of text), timeout_seconds (15, of a function 5) and connect_timeout_seconds (5) of one attempt, 0.01 to 60, max_attempts (10), 1 to 100, max_age_seconds (3600) after which a notification is given up, 1 to 86400, send_resolved (true), ca_file (instead of the system''s certificate authorities), cert_file and key_file (client certificate; the key in monitoring.secrets_directory), min_tls ("1.2" or "1.3"), http2 (true), rate_per_second (no limit), 0.001 to 10000, and burst (a second''s, at least 1), 1 to 10000, breaker_failures (5): after so many failures in a row it is paused, at first for a second, then for up to five minutes, and tried with one notification; 0 to 1000, 0: never; emergency (false): it is told, from the notifier''s memory, when the database cannot write, and when it can again; fallback (none): a receiver that gets what could not be delivered, and after fallback_after_seconds (300) of failing, 0 to 86400, all that waits. Each kind''s own keys are in docs/receivers.md. Secrets can be: the kind''s secret_keys, headers, and url in place of the argument; each is {"file": path}, {"environment": name}, {"value": text}, or {"secret": key} to be given to set_receiver_secret; text is a value where it cannot be anything else. The url is http or https (of e-mail smtp or smtps) without credentials; kinds with a fixed address need none. Errors: 22023 for a bad name, kind, url or config, 42704 if the fallback does not exist, 42809 if that takes no alerts or if routes or rules name a heartbeat, 42710 if it exists.';

CREATE FUNCTION monitoring.alter_receiver(name text, config jsonb DEFAULT '{}', url text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r monitoring.receiver_defs;
	taken record;
BEGIN
	PERFORM monitoring.hide_statement();
	SELECT * INTO r FROM monitoring.receiver_defs AS d WHERE d.name = alter_receiver.name FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	r.config := r.config || config;
	r.config := r.config - ARRAY(SELECT c.key FROM jsonb_each(r.config) AS c WHERE c.value = 'null');
	IF url IS NOT NULL AND NOT config ? 'url' THEN
		r.config := r.config - 'url';
	END IF;
	r.url := CASE WHEN config -> 'url' <> 'null' THEN url ELSE coalesce(url, r.url) END;
	SELECT * INTO taken FROM monitoring.take_secrets(r.config,
		(SELECT k.secret_keys FROM monitoring.receiver_kinds AS k WHERE k.kind = r.kind));
	PERFORM monitoring.check_receiver(r.kind, r.url, taken.stripped);
	-- Who says where notifications go answers for it: a function that they call runs with their rights.
	UPDATE monitoring.receiver_defs AS d
	SET url = r.url, config = taken.stripped, changed_at = clock_timestamp(), owner = CASE WHEN d.url IS DISTINCT FROM r.url OR EXISTS (
			SELECT FROM monitoring.receiver_kinds AS k CROSS JOIN LATERAL unnest(k.config_keys || k.secret_keys || '{url,headers}') AS e (key)
			WHERE k.kind = d.kind AND d.config -> e.key IS DISTINCT FROM taken.stripped -> e.key)
		THEN monitoring.calling_role() ELSE d.owner END
	WHERE d.name = alter_receiver.name;
	PERFORM monitoring.store_secret(name, s ->> 'key', s ->> 'source', s ->> 'value') FROM jsonb_array_elements(taken.secrets) AS s;
	DELETE FROM monitoring.receiver_secrets AS s
	WHERE s.receiver = alter_receiver.name AND s.key NOT IN (SELECT k FROM monitoring.secret_keys(taken.stripped) AS k);
	PERFORM monitoring.warn_of_secrets(name);
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.alter_receiver(text, jsonb, text) IS 'Change keys of a receiver''s config (those that are null go) and, unless it is null, its url. What is queued goes out as the receiver is then, and at once if it was paused for failing. Who changes the url, the headers or a key of the receiver''s kind becomes its owner. Errors: 42704 if it does not exist, and those of create_receiver.';

CREATE FUNCTION monitoring.enable_receiver(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.receiver_defs AS r SET enabled = coalesce(enable_receiver.enabled, true), changed_at = clock_timestamp()
	WHERE r.name = enable_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.enable_receiver(text, boolean) IS 'Enable or disable a receiver. A disabled one gets no new alerts; what is queued waits until it is enabled or too old. Enabling one that is enabled ends a pause for failing. Once enabled it is told of what fired meanwhile and still does, and of the end of alerts that it knew of. Error 42704 if it does not exist.';

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
