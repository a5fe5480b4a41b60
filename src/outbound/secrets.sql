
-- outbound, secrets: what all have in common that keep secrets for requests (checks, receivers). A config names them, tables that
-- are granted to nobody have them, and C code (outbound/secrets.c) puts them into requests that are ready.

CREATE FUNCTION monitoring.hide_statement() RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_hide_statement';
COMMENT ON FUNCTION monitoring.hide_statement() IS 'Take the text of the statement under way, which may hold a secret, out of pg_stat_activity and of what is logged of it from now on. Functions that take secrets call it.';

CREATE FUNCTION monitoring.take_secrets(config jsonb, secret_keys text[], OUT stripped jsonb, OUT secrets jsonb)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	spec record;
	key text;
	source text;
BEGIN
	stripped := config;
	secrets := '[]';
	IF jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
		RETURN;
	END IF;
	FOR spec IN
		SELECT ARRAY[e.key] AS path, e.value, e.key AS name, jsonb_typeof(e.value) = 'string' AS plain
		FROM jsonb_each(config) AS e WHERE e.key = ANY (secret_keys || 'url'::text)
		UNION ALL
		SELECT ARRAY['headers', h.key], h.value, 'header.' || h.key, false
		FROM jsonb_each(CASE WHEN jsonb_typeof(config -> 'headers') = 'object' THEN config -> 'headers' END) AS h
		WHERE jsonb_typeof(h.value) = 'object'
	LOOP
		IF spec.plain THEN
			source := 'value';
		ELSE
			SELECT min(k) INTO source FROM jsonb_object_keys(CASE WHEN jsonb_typeof(spec.value) = 'object' THEN spec.value END) AS k;
			IF source IS NULL OR source <> ALL ('{value,file,environment,secret}'::text[]) OR spec.value - source <> '{}'
				OR jsonb_typeof(spec.value -> source) <> 'string'
			THEN
				RAISE EXCEPTION 'secret "%" is malformed', regexp_replace(left(spec.name, 128), '[^!-~]', '?', 'g')
					USING ERRCODE = 'invalid_parameter_value',
						HINT = 'It is one of {"file": path}, {"environment": name}, {"value": text} and {"secret": key}.';
			END IF;
		END IF;
		key := CASE source WHEN 'secret' THEN spec.value ->> 'secret' ELSE spec.name END;
		IF key !~ '^[A-Za-z][A-Za-z0-9_.-]{0,199}$' OR key = 'basic_auth' THEN
			RAISE EXCEPTION 'key "%" of a secret is not allowed', regexp_replace(left(key, 128), '[^!-~]', '?', 'g')
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'A key has up to 200 letters, digits, underscores, dots and hyphens, the first of them a letter.';
		END IF;
		stripped := jsonb_set(stripped, spec.path, jsonb_build_object('secret', key));
		IF source <> 'secret' THEN
			secrets := secrets || jsonb_build_object('key', key, 'source', source,
				'value', CASE WHEN spec.plain THEN spec.value #>> '{}' ELSE spec.value ->> source END);
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.take_secrets(jsonb, text[]) IS 'A config with {"secret": key} in place of its secrets, which are the values of these keys, url and those headers that are objects; and the secrets as an array of objects with key, source and value. Errors: 22023 for a malformed secret.';

CREATE FUNCTION monitoring.check_secret(key text, source text, value text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF source = 'value' AND (value = '' OR octet_length(value) > 8192 OR value ~ '[\x01-\x1f\x7f]') THEN
		RAISE EXCEPTION 'secret "%" must have 1 to 8192 bytes, none of them a control character', key
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF source = 'file' AND (value !~ '^/[^[:cntrl:]]+$' OR octet_length(value) > 1000) THEN
		RAISE EXCEPTION 'the file of secret "%" must be an absolute path without control characters', key
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It has to be in monitoring.secrets_directory.';
	ELSIF source = 'environment' AND value !~ '^MONITORING_SECRET_[A-Za-z0-9_]{1,100}$' THEN
		RAISE EXCEPTION 'the environment variable of secret "%" must have a name that starts with MONITORING_SECRET_', key
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_secret(text, text, text) IS 'Raises 22023 for a secret that cannot be used: a value that is empty, too long or has a control character, a path that is not absolute, a variable that has another name than such have.';
