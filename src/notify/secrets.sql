-- secrets: what receivers authenticate with. Formatters get markers in their place; the notifier (outbound/secrets.c) puts in
-- the secrets when the request is ready, and reads those that are in files or in its environment.

CREATE TABLE monitoring.receiver_secrets (
	receiver text NOT NULL,
	key text NOT NULL CHECK (key ~ '^[A-Za-z][A-Za-z0-9_.-]{0,199}$'),
	source text NOT NULL CHECK (source IN ('value', 'file', 'environment')),
	value text NOT NULL,
	set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (receiver, key)
);
COMMENT ON TABLE monitoring.receiver_secrets IS 'Secrets of receivers: granted to nobody. pg_dump takes along references to files and environment variables; the secrets that stand here themselves only with monitoring.dump_secrets = on in its session. See the view secrets.';
COMMENT ON COLUMN monitoring.receiver_secrets.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_secrets.key IS 'Key of the secret, as in {"secret": key} in the receiver''s config.';
COMMENT ON COLUMN monitoring.receiver_secrets.source IS 'value (it is in the next column), file or environment (that has the path, or the variable''s name).';
COMMENT ON COLUMN monitoring.receiver_secrets.value IS 'The secret, path or name.';
COMMENT ON COLUMN monitoring.receiver_secrets.set_at IS 'When it was set.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_secrets',
	$$WHERE source <> 'value' OR pg_catalog.current_setting('monitoring.dump_secrets', true) = 'on'$$);

-- In place of a foreign key: a parallel restore fills the tables in any order.
CREATE FUNCTION monitoring.forget_secrets() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.receiver_secrets AS s WHERE s.receiver = OLD.name;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION monitoring.forget_secrets() IS 'Trigger of receiver_defs: secrets go with their receiver.';

CREATE TRIGGER forget_secrets AFTER DELETE ON monitoring.receiver_defs
	FOR EACH ROW EXECUTE FUNCTION monitoring.forget_secrets();
COMMENT ON TRIGGER forget_secrets ON monitoring.receiver_defs IS 'Secrets go with their receiver.';

-- What a config names: a kind's secret keys, the url, headers.
CREATE FUNCTION monitoring.secret_keys(config jsonb) RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT e.value ->> 'secret' FROM jsonb_each(config) AS e
	WHERE e.key <> 'headers' AND jsonb_typeof(e.value) = 'object' AND e.value ->> 'secret' IS NOT NULL
	UNION
	SELECT h.value ->> 'secret' FROM jsonb_each(CASE WHEN jsonb_typeof(config -> 'headers') = 'object' THEN config -> 'headers' END) AS h
	WHERE jsonb_typeof(h.value) = 'object'
$$;
COMMENT ON FUNCTION monitoring.secret_keys(jsonb) IS 'The keys of the secrets that a receiver''s config refers to.';

CREATE FUNCTION monitoring.place_secrets(receiver jsonb, marks jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT receiver || jsonb_build_object('config', placed.config - 'url')
		|| CASE WHEN placed.config ? 'url' THEN jsonb_build_object('url', placed.config -> 'url') ELSE '{}' END
	FROM (
		SELECT coalesce(jsonb_object_agg(e.key, CASE
					WHEN e.key = 'headers' THEN (
						SELECT coalesce(jsonb_object_agg(h.key, CASE WHEN jsonb_typeof(h.value) = 'object'
							THEN coalesce(marks -> (h.value ->> 'secret'), '"***"') ELSE h.value END), '{}')
						FROM jsonb_each(e.value) AS h)
					WHEN jsonb_typeof(e.value) = 'object' AND e.value ->> 'secret' IS NOT NULL THEN coalesce(marks -> (e.value ->> 'secret'), '"***"')
					ELSE e.value END), '{}')
			|| CASE WHEN receiver -> 'config' ? 'username' AND receiver -> 'config' ? 'password'
				THEN jsonb_build_object('basic_auth', coalesce(marks -> 'basic_auth', '"***"')) ELSE '{}' END AS config
		FROM jsonb_each(receiver -> 'config') AS e) AS placed
$$;
COMMENT ON FUNCTION monitoring.place_secrets(jsonb, jsonb) IS 'A receiver (object with name, kind, url, config) as its formatter gets it: with marks, an object by keys, in place of the secrets, or *** where there is no mark. A config with username and password has basic_auth too.';

CREATE FUNCTION monitoring.redacted_receiver(name text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.place_secrets(jsonb_build_object('name', r.name, 'kind', r.kind, 'url', r.url, 'config', r.config), NULL)
	FROM monitoring.receiver_defs AS r WHERE r.name = redacted_receiver.name
$$;
COMMENT ON FUNCTION monitoring.redacted_receiver(text) IS 'The receiver as formatters get it, secrets redacted; null if there is none.';

CREATE FUNCTION monitoring.secret_problem(key text, source text, value text) RETURNS text
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'mon_secret_problem';
COMMENT ON FUNCTION monitoring.secret_problem(text, text, text) IS 'Why the notifier could not use a secret now (source null: it is not set; path: a file that only has to be in monitoring.secrets_directory); null: it could.';

CREATE FUNCTION monitoring.secret_problems(receiver text DEFAULT NULL) RETURNS TABLE (name text, key text, source text, problem text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.name, k.key, k.source, p.problem
	FROM monitoring.receiver_defs AS d
	CROSS JOIN LATERAL (
		SELECT n.key, s.source, s.value
		FROM monitoring.secret_keys(d.config) AS n (key)
		LEFT JOIN monitoring.receiver_secrets AS s ON s.receiver = d.name AND s.key = n.key
		UNION ALL
		SELECT 'key_file', 'path', d.config ->> 'key_file' WHERE d.config ? 'key_file') AS k
	CROSS JOIN LATERAL monitoring.secret_problem(k.key, k.source, k.value) AS p (problem)
	WHERE d.name = coalesce(secret_problems.receiver, d.name) AND k.source IS DISTINCT FROM 'value' AND p.problem IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.secret_problems(text) IS 'Secrets and key files of a receiver, or of all (null), that the notifier could not use now, and why; nothing is sent to their receivers until that is mended. source is value, file, environment, path (a key_file), or null for one that is not set.';

CREATE FUNCTION monitoring.warn_of_secrets(receiver text, key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	problem text;
BEGIN
	FOR problem IN
		SELECT p.problem FROM monitoring.secret_problems(receiver) AS p
		WHERE p.source IS NOT NULL AND p.key = coalesce(warn_of_secrets.key, p.key)
		ORDER BY p.key
	LOOP
		RAISE WARNING '%', problem USING HINT = 'Nothing can be sent until that is mended; the view monitoring.secrets shows when it is.';
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.warn_of_secrets(text, text) IS 'Warn whoever has just saved a receiver, or its secret of that key, of what the notifier could not read now.';

CREATE FUNCTION monitoring.store_secret(receiver text, key text, source text, value text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	def monitoring.receiver_defs;
BEGIN
	PERFORM monitoring.check_secret(key, source, value);
	SELECT d.* INTO def FROM monitoring.receiver_defs AS d WHERE d.name = store_secret.receiver;
	IF source = 'value' AND key = ANY (ARRAY[def.config -> 'url' ->> 'secret', def.config -> 'fail_url' ->> 'secret']) THEN
		PERFORM monitoring.check_receiver_url(value, (SELECT k.schemes FROM monitoring.receiver_kinds AS k WHERE k.kind = def.kind));
	END IF;
	INSERT INTO monitoring.receiver_secrets AS s (receiver, key, source, value)
	VALUES (store_secret.receiver, store_secret.key, store_secret.source, store_secret.value)
	ON CONFLICT ON CONSTRAINT receiver_secrets_pkey DO UPDATE SET source = EXCLUDED.source, value = EXCLUDED.value, set_at = EXCLUDED.set_at;
END $$;
COMMENT ON FUNCTION monitoring.store_secret(text, text, text, text) IS 'Check and store a secret of a receiver, or change it. Errors: 22023 for one that cannot be used.';

CREATE FUNCTION monitoring.set_receiver_secret(receiver text, key text, value text DEFAULT NULL, file text DEFAULT NULL, environment text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	def monitoring.receiver_defs;
	keys text[];
BEGIN
	PERFORM monitoring.hide_statement();
	SELECT d.* INTO def FROM monitoring.receiver_defs AS d WHERE d.name = set_receiver_secret.receiver FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF num_nonnulls(value, file, environment) <> 1 THEN
		RAISE EXCEPTION 'a secret is either a value, in a file, or in an environment variable' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	-- A key of the kind is used as soon as it is set.
	IF EXISTS (SELECT FROM monitoring.receiver_kinds AS k WHERE k.kind = def.kind AND set_receiver_secret.key = ANY (k.secret_keys))
		AND NOT def.config ? key
	THEN
		def.config := def.config || jsonb_build_object(key, jsonb_build_object('secret', key));
	END IF;
	keys := ARRAY(SELECT k FROM monitoring.secret_keys(def.config) AS k ORDER BY k);
	IF key IS NULL OR key <> ALL (keys) THEN
		RAISE EXCEPTION 'receiver "%" has no use for a secret of that key', receiver
			USING ERRCODE = 'invalid_parameter_value',
				HINT = CASE WHEN keys = '{}' THEN 'Its config refers to none; see create_receiver.' ELSE 'Its secrets: ' || array_to_string(keys, ', ') || '.' END;
	END IF;
	UPDATE monitoring.receiver_defs AS d SET config = def.config, changed_at = clock_timestamp() WHERE d.name = def.name;
	PERFORM monitoring.store_secret(receiver, key,
		CASE WHEN value IS NOT NULL THEN 'value' WHEN file IS NOT NULL THEN 'file' ELSE 'environment' END,
		coalesce(value, file, environment));
	PERFORM monitoring.warn_of_secrets(receiver, key);
END $$;
COMMENT ON FUNCTION monitoring.set_receiver_secret(text, text, text, text, text) IS 'Set or change a secret of a receiver: its value, which should come as a bind parameter, or where the notifier reads it at each use: a file in monitoring.secrets_directory, or an environment variable of the server whose name starts with MONITORING_SECRET_. The key is one that the receiver''s config refers to, or one of its kind''s secret_keys. A secret has up to 8192 bytes and no control character; a line break at the end of a file does not count. A warning says if a file or variable cannot be used now. Errors: 42704 for an unknown receiver, 22023 otherwise.';

CREATE FUNCTION monitoring.drop_receiver_secret(receiver text, key text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.receiver_secrets AS s WHERE s.receiver = drop_receiver_secret.receiver AND s.key = drop_receiver_secret.key;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" has no such secret', receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.secrets lists them.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_receiver_secret(text, text) IS 'Forget a secret. What the receiver''s config still refers to it for cannot be sent until it is set again. Error 42704 if it is not set.';

CREATE VIEW monitoring.secrets AS
	SELECT d.name AS receiver, k.key, s.source, CASE WHEN s.source <> 'value' THEN s.value END AS reference, s.set_at, p.problem
	FROM monitoring.receiver_defs AS d
	CROSS JOIN LATERAL (
		SELECT e.value ->> 'secret' AS key FROM jsonb_each(d.config) AS e
		WHERE e.key <> 'headers' AND jsonb_typeof(e.value) = 'object' AND e.value ->> 'secret' IS NOT NULL
		UNION
		SELECT h.value ->> 'secret' FROM jsonb_each(d.config -> 'headers') AS h WHERE jsonb_typeof(h.value) = 'object') AS k
	LEFT JOIN monitoring.receiver_secrets AS s ON s.receiver = d.name AND s.key = k.key
	LEFT JOIN monitoring.secret_problems() AS p ON p.name = d.name AND p.key = k.key;
COMMENT ON VIEW monitoring.secrets IS 'The secrets that receivers refer to, and where they are; the secrets themselves are shown to nobody.';
COMMENT ON COLUMN monitoring.secrets.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.secrets.key IS 'Key of the secret, as for set_receiver_secret.';
COMMENT ON COLUMN monitoring.secrets.source IS 'value, file or environment; null if it is not set: nothing can be sent.';
COMMENT ON COLUMN monitoring.secrets.reference IS 'Path of the file, or name of the environment variable.';
COMMENT ON COLUMN monitoring.secrets.set_at IS 'When it was set.';
COMMENT ON COLUMN monitoring.secrets.problem IS 'Why the notifier could not use it now, so that nothing can be sent; null: it could.';
