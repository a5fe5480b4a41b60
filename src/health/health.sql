
-- health: checks, their kinds and their states. health_run.sql, which follows, runs them.
--
-- A check's row says what to do, its row of health_check_states how it stands. What runs a check (the database worker, or
-- the prober for what goes through the network) writes the state and nothing else remembers anything.

CREATE TABLE monitoring.health_check_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
	function text NOT NULL,
	check_function text,
	config_keys text[] NOT NULL DEFAULT '{}',
	network boolean NOT NULL DEFAULT false,
	op text NOT NULL DEFAULT '>' CHECK (op IN ('>', '>=', '<', '<=')),
	degraded float8,
	unhealthy float8,
	description text NOT NULL DEFAULT '',
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.health_check_kinds IS 'Kinds of health checks. Each names a function(at timestamptz, definition jsonb, progress jsonb) returning jsonb that is called with the check''s row, and a null progress first. It returns the result: an object of any of value (number), status (healthy, degraded, unhealthy or unknown), message and details (object); the worse of status and of what the thresholds say about value counts. A kind with network may return {"request": {...}, "state": ...} instead: the request is made by a separate program, and the function is called again with progress {"state": ..., "answer": {...}}. Add a kind with CREATE FUNCTION and INSERT; a function that does not belong to the owner of the extension must be SECURITY DEFINER.';
COMMENT ON COLUMN monitoring.health_check_kinds.kind IS 'Name of the kind, as given to create_health_check.';
COMMENT ON COLUMN monitoring.health_check_kinds.function IS 'Schema-qualified name of the function that does it.';
COMMENT ON COLUMN monitoring.health_check_kinds.check_function IS 'Schema-qualified name of a function(definition jsonb) returning void that raises an error for a check that the kind cannot run; null: nothing to check.';
COMMENT ON COLUMN monitoring.health_check_kinds.config_keys IS 'Keys that the config of such a check may have.';
COMMENT ON COLUMN monitoring.health_check_kinds.network IS 'Whether such checks run in the prober, which alone makes requests; others run in the database worker.';
COMMENT ON COLUMN monitoring.health_check_kinds.op IS 'How a value compares with the thresholds of a check that does not say so itself.';
COMMENT ON COLUMN monitoring.health_check_kinds.degraded IS 'Threshold of a check that has none.';
COMMENT ON COLUMN monitoring.health_check_kinds.unhealthy IS 'Threshold of a check that has none.';
COMMENT ON COLUMN monitoring.health_check_kinds.description IS 'What the kind looks at.';
COMMENT ON COLUMN monitoring.health_check_kinds.builtin IS 'True for kinds that come with the extension; they are not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.health_check_kinds', 'WHERE NOT builtin');

CREATE TABLE monitoring.health_check_defs (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	kind text NOT NULL,
	config jsonb NOT NULL,
	owner name NOT NULL,
	every interval NOT NULL,
	timeout interval NOT NULL,
	retries integer NOT NULL,
	op text,
	degraded float8,
	unhealthy float8,
	severity text NOT NULL,
	depends_on text[] NOT NULL,
	maintenance text[] NOT NULL,
	labels jsonb NOT NULL,
	description text NOT NULL,
	enabled boolean NOT NULL,
	created_at timestamptz NOT NULL,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.health_check_defs IS 'Health checks; the view health_checks shows them, create_health_check explains the columns.';
COMMENT ON COLUMN monitoring.health_check_defs.name IS 'Name of the check.';
COMMENT ON COLUMN monitoring.health_check_defs.kind IS 'Its kind (health_check_kinds).';
COMMENT ON COLUMN monitoring.health_check_defs.config IS 'What the kind needs to know.';
COMMENT ON COLUMN monitoring.health_check_defs.owner IS 'Role whose rights its queries have.';
COMMENT ON COLUMN monitoring.health_check_defs.every IS 'Time between two runs.';
COMMENT ON COLUMN monitoring.health_check_defs.timeout IS 'Time a run may take.';
COMMENT ON COLUMN monitoring.health_check_defs.retries IS 'Bad results in a row, after the first, until the status becomes worse.';
COMMENT ON COLUMN monitoring.health_check_defs.op IS 'How the value compares with the thresholds; null: as the kind says.';
COMMENT ON COLUMN monitoring.health_check_defs.degraded IS 'Threshold; null: the kind''s.';
COMMENT ON COLUMN monitoring.health_check_defs.unhealthy IS 'Threshold; null: the kind''s.';
COMMENT ON COLUMN monitoring.health_check_defs.severity IS 'critical, high, medium, low or info: what it takes off the score, and the severity of its alert.';
COMMENT ON COLUMN monitoring.health_check_defs.depends_on IS 'Checks without which it cannot succeed.';
COMMENT ON COLUMN monitoring.health_check_defs.maintenance IS 'Named time intervals (mute_times) in which it does not count.';
COMMENT ON COLUMN monitoring.health_check_defs.labels IS 'Labels for its metrics and alerts.';
COMMENT ON COLUMN monitoring.health_check_defs.description IS 'What it is for.';
COMMENT ON COLUMN monitoring.health_check_defs.enabled IS 'False: it is not run.';
COMMENT ON COLUMN monitoring.health_check_defs.created_at IS 'Since when there is this check.';
COMMENT ON COLUMN monitoring.health_check_defs.builtin IS 'True for those that CREATE EXTENSION made; a dump that is restored takes their place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.health_check_defs', '');

CREATE TRIGGER keep_what_is_used BEFORE DELETE OR UPDATE OF kind ON monitoring.health_check_kinds
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') <> 'off')
	EXECUTE FUNCTION monitoring.keep_what_is_used('kind', 'health_check_defs');
COMMENT ON TRIGGER keep_what_is_used ON monitoring.health_check_kinds IS 'Refuses to take away what rows of health_check_defs name, unless a dump is being restored.';

-- Rows are made when a check is first looked at: a dump may bring checks alone.
CREATE TABLE monitoring.health_check_states (
	check_name text PRIMARY KEY,
	status text NOT NULL DEFAULT 'unknown',
	since timestamptz NOT NULL,
	confirmed text NOT NULL DEFAULT 'unknown',
	latest text,
	bad_results integer NOT NULL DEFAULT 0,
	failing_since timestamptz,
	suppressed_by text,
	in_maintenance boolean NOT NULL DEFAULT false,
	checked_at timestamptz,
	value float8,
	duration float8,
	message text,
	details jsonb,
	next_at timestamptz NOT NULL,
	leased_until timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE monitoring.health_check_states IS 'How every health check stands; the view health_status shows it.';
COMMENT ON COLUMN monitoring.health_check_states.check_name IS 'The check.';
COMMENT ON COLUMN monitoring.health_check_states.status IS 'healthy, degraded, unhealthy, unknown (no result yet), suppressed (what it depends on is unhealthy) or maintenance.';
COMMENT ON COLUMN monitoring.health_check_states.since IS 'Since when.';
COMMENT ON COLUMN monitoring.health_check_states.confirmed IS 'The status as its results alone say, after retries.';
COMMENT ON COLUMN monitoring.health_check_states.latest IS 'What the latest result says.';
COMMENT ON COLUMN monitoring.health_check_states.bad_results IS 'Results in a row that are worse than confirmed.';
COMMENT ON COLUMN monitoring.health_check_states.failing_since IS 'When the first of them began.';
COMMENT ON COLUMN monitoring.health_check_states.suppressed_by IS 'The unhealthy check that it depends on.';
COMMENT ON COLUMN monitoring.health_check_states.in_maintenance IS 'Whether it is maintained now.';
COMMENT ON COLUMN monitoring.health_check_states.checked_at IS 'When the latest run began.';
COMMENT ON COLUMN monitoring.health_check_states.value IS 'The latest value.';
COMMENT ON COLUMN monitoring.health_check_states.duration IS 'Seconds that the latest run took.';
COMMENT ON COLUMN monitoring.health_check_states.message IS 'What the latest run told.';
COMMENT ON COLUMN monitoring.health_check_states.details IS 'More of that.';
COMMENT ON COLUMN monitoring.health_check_states.next_at IS 'When the next run is due.';
COMMENT ON COLUMN monitoring.health_check_states.leased_until IS 'The prober is at it, and will be given up at that time.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.health_check_states', '');

CREATE TABLE monitoring.health_beats (
	check_name text PRIMARY KEY,
	at timestamptz NOT NULL,
	ok boolean NOT NULL,
	message text NOT NULL,
	reporter name NOT NULL
);
COMMENT ON TABLE monitoring.health_beats IS 'The latest sign of life of every check of the kind heartbeat.';
COMMENT ON COLUMN monitoring.health_beats.check_name IS 'The check.';
COMMENT ON COLUMN monitoring.health_beats.at IS 'When it came.';
COMMENT ON COLUMN monitoring.health_beats.ok IS 'Whether the job succeeded.';
COMMENT ON COLUMN monitoring.health_beats.message IS 'What it told.';
COMMENT ON COLUMN monitoring.health_beats.reporter IS 'Role that reported it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.health_beats', '');

CREATE TABLE monitoring.check_secrets (
	check_name text NOT NULL,
	key text NOT NULL CHECK (key ~ '^[a-z][a-z0-9_]{0,62}$'),
	source text NOT NULL CHECK (source IN ('value', 'file', 'environment')),
	value text NOT NULL,
	set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (check_name, key)
);
COMMENT ON TABLE monitoring.check_secrets IS 'Secrets of health checks: granted to nobody. pg_dump takes along references to files and environment variables; the secrets that stand here themselves only with monitoring.dump_secrets = on in its session. See the view health_check_secrets.';
COMMENT ON COLUMN monitoring.check_secrets.check_name IS 'The check.';
COMMENT ON COLUMN monitoring.check_secrets.key IS 'Name of the secret, as in {{name}} in the check''s config.';
COMMENT ON COLUMN monitoring.check_secrets.source IS 'value (it is in the next column), file or environment (that has the path, or the variable''s name).';
COMMENT ON COLUMN monitoring.check_secrets.value IS 'The secret, path or name.';
COMMENT ON COLUMN monitoring.check_secrets.set_at IS 'When it was set.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.check_secrets',
	$$WHERE source <> 'value' OR pg_catalog.current_setting('monitoring.dump_secrets', true) = 'on'$$);

CREATE TABLE monitoring.check_results (
	at timestamptz NOT NULL,
	check_name text NOT NULL,
	status text NOT NULL,
	value float8,
	duration float8 NOT NULL,
	message text,
	details jsonb
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.check_results IS 'Every result of every health check, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.check_results.at IS 'When the run began.';
COMMENT ON COLUMN monitoring.check_results.check_name IS 'The check.';
COMMENT ON COLUMN monitoring.check_results.status IS 'healthy, degraded, unhealthy or unknown, as this result alone says.';
COMMENT ON COLUMN monitoring.check_results.value IS 'What was compared with the thresholds.';
COMMENT ON COLUMN monitoring.check_results.duration IS 'Seconds that the run took.';
COMMENT ON COLUMN monitoring.check_results.message IS 'What it told.';
COMMENT ON COLUMN monitoring.check_results.details IS 'More of that, such as the phases of a request in seconds.';

CREATE SEQUENCE monitoring.check_transitions_id_seq;
COMMENT ON SEQUENCE monitoring.check_transitions_id_seq IS 'Numbers of transitions of health checks.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.check_transitions_id_seq', '');

CREATE TABLE monitoring.check_transitions (
	id bigint NOT NULL DEFAULT nextval('monitoring.check_transitions_id_seq'),
	at timestamptz NOT NULL,
	check_name text NOT NULL,
	from_status text NOT NULL,
	to_status text NOT NULL,
	message text
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.check_transitions IS 'Every change of the status of every health check, kept as long as retention_policies says (400 days).';
COMMENT ON COLUMN monitoring.check_transitions.id IS 'Number of the transition.';
COMMENT ON COLUMN monitoring.check_transitions.at IS 'When it changed: of one for the worse, when the first bad result began.';
COMMENT ON COLUMN monitoring.check_transitions.check_name IS 'The check.';
COMMENT ON COLUMN monitoring.check_transitions.from_status IS 'What it was.';
COMMENT ON COLUMN monitoring.check_transitions.to_status IS 'What it became.';
COMMENT ON COLUMN monitoring.check_transitions.message IS 'Why.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes) VALUES
	('check_results', '1 day', 2, '30 days', '{"(check_name, at)"}'),
	('check_transitions', '7 days', 1, '400 days', '{"PRIMARY KEY (at, id)","(check_name, at)"}');

----------------------------------------------------------------------------------------------------------------------
-- Checking definitions
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.health_kind_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF (SELECT p.prorettype FROM pg_proc AS p WHERE p.oid = to_regprocedure(
		monitoring.kind_function('a health check kind', NEW.function, 'timestamptz, jsonb, jsonb') || '(timestamptz, jsonb, jsonb)')) <> 'jsonb'::regtype THEN
		RAISE EXCEPTION 'function % of a health check kind does not return jsonb', NEW.function
			USING ERRCODE = 'invalid_function_definition';
	END IF;
	IF NEW.check_function IS NOT NULL THEN
		PERFORM monitoring.kind_function('a health check kind', NEW.check_function, 'jsonb');
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.health_kind_check() IS 'Trigger of health_check_kinds: the functions must exist (42883), run with their owner''s rights (42501) and return jsonb (42P13).';

CREATE TRIGGER health_kind_check BEFORE INSERT OR UPDATE ON monitoring.health_check_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.health_kind_check();
COMMENT ON TRIGGER health_kind_check ON monitoring.health_check_kinds IS 'Checks the functions that a kind names.';

CREATE FUNCTION monitoring.check_is_health_check(name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.health_check_defs AS d WHERE d.name = check_is_health_check.name) THEN
		RAISE EXCEPTION 'health check "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.health_checks lists them.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_is_health_check(text) IS 'Raises 42704 unless there is such a health check.';

-- A check may depend on its group or be a member of what it depends on; nothing may need itself.
CREATE FUNCTION monitoring.health_check_needs(definition monitoring.health_check_defs) RETURNS TABLE (needed text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE need (n) AS (
		SELECT p FROM unnest(definition.depends_on) AS p
		UNION
		SELECT m FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(definition.config -> 'members') = 'array' THEN definition.config -> 'members' ELSE '[]' END) AS m
		UNION
		SELECT e.n
		FROM need
		JOIN monitoring.health_check_defs AS d ON d.name = need.n
		CROSS JOIN LATERAL (SELECT unnest(d.depends_on)
			UNION ALL SELECT jsonb_array_elements_text(d.config -> 'members') WHERE jsonb_typeof(d.config -> 'members') = 'array') AS e (n)
	)
	SELECT need.n FROM need
$$;
COMMENT ON FUNCTION monitoring.health_check_needs(monitoring.health_check_defs) IS 'All checks that a check depends on or has as members, and those that these do.';

CREATE FUNCTION monitoring.check_check_secrets(definition monitoring.health_check_defs) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	secrets jsonb := definition.config -> 'secrets';
	places jsonb := CASE WHEN jsonb_typeof(definition.config -> 'steps') = 'array' THEN definition.config -> 'steps' ELSE '[]' END || definition.config;
	bad text;
BEGIN
	IF coalesce(jsonb_typeof(secrets), 'object') <> 'object' OR (SELECT count(*) > 20 FROM jsonb_object_keys(secrets)) THEN
		RAISE EXCEPTION 'key "secrets" of a health check is an object of at most 20 secrets' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(s.key) INTO bad FROM jsonb_each(secrets) AS s WHERE s.key !~ '^[a-z][a-z0-9_]{0,62}$' OR s.value IS DISTINCT FROM jsonb_build_object('secret', s.key);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'secret "%" of a health check has a name that is not allowed, or refers to another one', regexp_replace(left(bad, 100), '[^!-~]', '?', 'g')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Names have up to 63 small letters, digits and underscores, the first of them a letter.';
	END IF;
	-- where it would be told: in the text of an error, in a query, in what the next step looks at
	SELECT min(s) INTO bad FROM jsonb_object_keys(coalesce(secrets, '{}') || '{"basic_auth": 0}') AS s CROSS JOIN jsonb_array_elements(places) AS p
	WHERE secrets IS NOT NULL AND jsonb_typeof(p) = 'object'
		AND (p ->> 'query' LIKE '%{{' || s || '}}%' OR substring(p ->> 'url' FROM '^[^/]*//[^/?#]*') LIKE '%{{' || s || '}}%' OR p -> 'save' ? s);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'secret "%" of a health check stands where no secret may be', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Secrets go into headers, bodies, what is sent, and what follows the host of a url; steps save values under other names.';
	END IF;
	SELECT min(h.key) INTO bad FROM jsonb_array_elements(places) AS p CROSS JOIN jsonb_each(CASE WHEN jsonb_typeof(p -> 'headers') = 'object' THEN p -> 'headers' END) AS h
	WHERE h.key ~* '^(authorization|cookie)$|token|api-?key|secret' AND h.value #>> '{}' !~ '{{';
	IF bad IS NOT NULL THEN
		RAISE WARNING 'header "%" of health check "%" is stored as it is', bad, definition.name
			USING HINT = 'Put what is secret into "secrets", and {{name}} in its place.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_check_secrets(monitoring.health_check_defs) IS 'Raises 22023 for secrets of a check that have bad names or stand where they would be told; warns of headers that should be secrets.';

CREATE FUNCTION monitoring.take_check_secrets(config jsonb, OUT stripped jsonb, OUT secrets jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	stripped := config;
	secrets := '[]';
	IF jsonb_typeof(config -> 'secrets') = 'object' THEN
		PERFORM monitoring.hide_statement();
		SELECT jsonb_set(config, '{secrets}', t.stripped), t.secrets INTO stripped, secrets
		FROM monitoring.take_secrets(config -> 'secrets', ARRAY(SELECT k FROM jsonb_object_keys(config -> 'secrets') AS k)) AS t;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.take_check_secrets(jsonb) IS 'A check''s config with {"secret": name} in place of its secrets, and these as take_secrets() has them.';

CREATE FUNCTION monitoring.store_check_secrets(name text, secrets jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_secret(s ->> 'key', s ->> 'source', s ->> 'value') FROM jsonb_array_elements(secrets) AS s;
	DELETE FROM monitoring.check_secrets AS s
	WHERE s.check_name = store_check_secrets.name
		AND NOT EXISTS (SELECT FROM monitoring.health_check_defs AS d WHERE d.name = s.check_name AND d.config -> 'secrets' ? s.key);
	INSERT INTO monitoring.check_secrets AS s (check_name, key, source, value)
	SELECT store_check_secrets.name, n ->> 'key', n ->> 'source', n ->> 'value' FROM jsonb_array_elements(secrets) AS n
	ON CONFLICT ON CONSTRAINT check_secrets_pkey DO UPDATE SET source = excluded.source, value = excluded.value, set_at = excluded.set_at;
END $$;
COMMENT ON FUNCTION monitoring.store_check_secrets(text, jsonb) IS 'Store secrets of a check, and forget those that its config no longer has. Errors: 22023 for one that cannot be used.';

CREATE FUNCTION monitoring.check_health_check(definition monitoring.health_check_defs) RETURNS monitoring.health_check_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
DECLARE
	kind monitoring.health_check_kinds;
	bad text;
BEGIN
	IF definition.name IS NULL OR definition.name !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'a health check''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- it stays until we have committed
	SELECT * INTO kind FROM monitoring.health_check_kinds AS k WHERE k.kind = definition.kind FOR KEY SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown health check kind "%"', definition.kind USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Known kinds: ' || (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM monitoring.health_check_kinds AS k) || '.';
	ELSIF jsonb_typeof(definition.config) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'a health check''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	ELSIF octet_length(definition.config::text) > 65536 THEN
		RAISE EXCEPTION 'a health check''s config must not take more than 65536 bytes' USING ERRCODE = 'program_limit_exceeded';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(definition.config) AS k WHERE k <> ALL (kind.config_keys);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'a health check of kind % takes no key "%"', definition.kind, left(bad, 100)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = CASE WHEN kind.config_keys = '{}' THEN 'Its config is empty.' ELSE 'Its keys are ' || array_to_string(kind.config_keys, ', ') || '.' END;
	ELSIF coalesce(definition.every < '5 seconds' OR definition.every > '7 days', true) THEN
		RAISE EXCEPTION 'a health check runs every 5 seconds to 7 days' USING ERRCODE = 'invalid_parameter_value';
	ELSIF coalesce(definition.timeout < '10 milliseconds' OR definition.timeout > (CASE WHEN kind.network THEN interval '1 minute' ELSE '10 seconds' END), true) THEN
		RAISE EXCEPTION 'a health check of kind % has a timeout of 0.01 to % seconds', definition.kind, CASE WHEN kind.network THEN 60 ELSE 10 END
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF coalesce(definition.retries NOT BETWEEN 0 AND 100, true) THEN
		RAISE EXCEPTION 'a health check has 0 to 100 retries' USING ERRCODE = 'invalid_parameter_value';
	ELSIF definition.op NOT IN ('>', '>=', '<', '<=') THEN
		RAISE EXCEPTION 'unknown operator "%"', definition.op USING ERRCODE = 'invalid_parameter_value', HINT = 'Operators are >, >=, < and <=.';
	ELSIF definition.degraded = 'NaN' OR definition.unhealthy = 'NaN'
		OR (CASE WHEN coalesce(definition.op, kind.op) IN ('>', '>=') THEN definition.degraded > definition.unhealthy ELSE definition.degraded < definition.unhealthy END) THEN
		RAISE EXCEPTION 'what is unhealthy must be degraded, too' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'With > the threshold of unhealthy is the higher one, with < the lower one.';
	END IF;
	PERFORM monitoring.check_check_secrets(definition);
	definition.severity := monitoring.canonical_severity(definition.severity);
	definition.labels := monitoring.check_text_map(definition.labels, 'labels', 4096);
	IF definition.labels ?| '{check,check_severity,outcome}' THEN
		RAISE EXCEPTION 'labels "check", "check_severity" and "outcome" are taken' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	definition.depends_on := coalesce(definition.depends_on, '{}');
	definition.maintenance := coalesce(definition.maintenance, '{}');
	SELECT min(n.needed) INTO bad FROM monitoring.health_check_needs(definition) AS n
	WHERE n.needed IS NULL OR n.needed <> definition.name AND NOT EXISTS (SELECT FROM monitoring.health_check_defs AS d WHERE d.name = n.needed);
	IF FOUND AND bad IS NOT NULL THEN
		PERFORM monitoring.check_is_health_check(bad);
	ELSIF EXISTS (SELECT FROM monitoring.health_check_needs(definition) AS n WHERE n.needed = definition.name) THEN
		RAISE EXCEPTION 'health check "%" would depend on itself', definition.name USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(m) INTO bad FROM unnest(definition.maintenance) AS m
	WHERE NOT EXISTS (SELECT FROM monitoring.time_intervals AS t WHERE t.name = m);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'time interval "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Make it with set_time_interval; the view monitoring.mute_times lists them.';
	END IF;
	IF kind.check_function IS NOT NULL THEN
		EXECUTE format('SELECT %s($1)', monitoring.kind_function('a health check kind', kind.check_function, 'jsonb')) USING to_jsonb(definition);
	END IF;
	RETURN definition;
END $$;
COMMENT ON FUNCTION monitoring.check_health_check(monitoring.health_check_defs) IS 'A health check as it is stored; raises 22023 for anything that is not valid, 42704 for a check or a time interval that does not exist, 54000 for a config that is too long, and what the kind''s check_function raises.';

----------------------------------------------------------------------------------------------------------------------
-- For people
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_health_check(name text, kind text, config jsonb DEFAULT '{}', every interval DEFAULT '1 minute',
	timeout interval DEFAULT '5 seconds', retries integer DEFAULT 2, degraded float8 DEFAULT NULL, unhealthy float8 DEFAULT NULL,
	op text DEFAULT NULL, severity text DEFAULT 'high', depends_on text[] DEFAULT '{}', maintenance text[] DEFAULT '{}',
	labels jsonb DEFAULT '{}', description text DEFAULT '', enabled boolean DEFAULT true, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d monitoring.health_check_defs;
	taken record;
BEGIN
	taken := monitoring.take_check_secrets(config);
	d := ROW(name, kind, taken.stripped, monitoring.calling_role(), every, timeout, retries, op, degraded, unhealthy, severity,
		coalesce(depends_on, '{}'), coalesce(maintenance, '{}'), labels, coalesce(description, ''), coalesce(enabled, true), at, false);
	d := monitoring.check_health_check(d);
	INSERT INTO monitoring.health_check_defs SELECT (d).* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'health check "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	PERFORM monitoring.store_check_secrets(name, taken.secrets);
	INSERT INTO monitoring.health_check_states (check_name, since, next_at) VALUES (name, at, at)
	ON CONFLICT ON CONSTRAINT health_check_states_pkey DO NOTHING;
END $$;
COMMENT ON FUNCTION monitoring.create_health_check(text, text, jsonb, interval, interval, integer, float8, float8, text, text, text[], text[], jsonb, text, boolean, timestamptz) IS 'Create a health check. kind and its config: docs/health.md. It runs every so often (5 seconds to 7 days), each time for no longer than timeout (at most a minute, 10 seconds for what does not go through the network). A value for which "value op degraded" or "value op unhealthy" holds is degraded or unhealthy (null: the kind''s thresholds, or none). The status becomes worse when so many retries, at most 10 seconds apart, have been bad too, and better at once. While a check that it depends on is unhealthy it is suppressed: not run, and not failing. In the time intervals named by maintenance (set_time_interval), and while a silence that names the label check covers it, its status is maintenance. severity says what it takes off the score and what alert it makes. The caller becomes its owner: its queries have the caller''s rights. Errors: 22023 for anything that is not valid, 42704 for an unknown check or time interval, 42710 if the name is taken, 54000 for a config that is too long, and of a query what check_rule_query raises.';

CREATE FUNCTION monitoring.alter_health_check(name text, changes jsonb, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	keys CONSTANT text[] := '{config,every,timeout,retries,degraded,unhealthy,op,severity,depends_on,maintenance,labels,description,enabled}';
	before monitoring.health_check_defs;
	d monitoring.health_check_defs;
	taken record;
	bad text;
BEGIN
	taken := monitoring.take_check_secrets(CASE WHEN jsonb_typeof(changes) = 'object' THEN changes -> 'config' END);
	SELECT * INTO before FROM monitoring.health_check_defs AS h WHERE h.name = alter_health_check.name FOR UPDATE;
	IF NOT FOUND THEN
		PERFORM monitoring.check_is_health_check(name);
	ELSIF jsonb_typeof(changes) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'changes of a health check must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(changes) AS k WHERE k <> ALL (keys);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'a health check has no "%" that could be changed', left(bad, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Changes are of ' || array_to_string(keys, ', ') || '.';
	ELSIF changes ? 'config' AND jsonb_typeof(changes -> 'config') <> 'object' THEN
		RAISE EXCEPTION 'a health check''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	BEGIN
		d := jsonb_populate_record(before, changes - 'config');
	EXCEPTION WHEN data_exception THEN
		RAISE EXCEPTION 'a change of a health check has a value of the wrong type: %', SQLERRM USING ERRCODE = 'invalid_parameter_value';
	END;
	d.config := before.config || coalesce(taken.stripped, '{}');
	d.config := d.config - ARRAY(SELECT c.key FROM jsonb_each(d.config) AS c WHERE c.value = 'null');
	d.labels := coalesce(d.labels, '{}');
	d.description := coalesce(d.description, '');
	d.enabled := coalesce(d.enabled, true);
	-- who says what runs answers for it
	IF d.config <> before.config OR taken.secrets <> '[]' THEN
		d.owner := monitoring.calling_role();
	END IF;
	d := monitoring.check_health_check(d);
	UPDATE monitoring.health_check_defs AS h
	SET config = d.config, owner = d.owner, every = d.every, timeout = d.timeout, retries = d.retries, op = d.op, degraded = d.degraded,
		unhealthy = d.unhealthy, severity = d.severity, depends_on = d.depends_on, maintenance = d.maintenance, labels = d.labels,
		description = d.description, enabled = d.enabled
	WHERE h.name = d.name;
	PERFORM monitoring.store_check_secrets(name, taken.secrets);
	UPDATE monitoring.health_check_states AS s SET next_at = alter_health_check.at, leased_until = NULL, bad_results = 0, failing_since = NULL
	WHERE s.check_name = d.name;
END $$;
COMMENT ON FUNCTION monitoring.alter_health_check(text, jsonb, timestamptz) IS 'Change a health check: keys are the parameters of create_health_check but name and kind; null is the default. Of config single keys are changed, those that are null go, and who changes it becomes the check''s owner. It is run soon. Errors: 42704 if it does not exist, and those of create_health_check.';

CREATE FUNCTION monitoring.drop_health_check(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	user_of_it text;
BEGIN
	PERFORM monitoring.check_is_health_check(name);
	SELECT min(d.name) INTO user_of_it FROM monitoring.health_check_defs AS d
	WHERE drop_health_check.name = ANY (d.depends_on) OR d.config -> 'members' ? drop_health_check.name;
	IF user_of_it IS NOT NULL THEN
		RAISE EXCEPTION 'health check "%" is still needed', name USING ERRCODE = 'dependent_objects_still_exist',
			DETAIL = format('Health check "%s" depends on it or has it as a member.', user_of_it);
	END IF;
	DELETE FROM monitoring.health_beats AS b WHERE b.check_name = drop_health_check.name;
	DELETE FROM monitoring.check_secrets AS s WHERE s.check_name = drop_health_check.name;
	DELETE FROM monitoring.health_check_states AS s WHERE s.check_name = drop_health_check.name;
	DELETE FROM monitoring.health_check_defs AS d WHERE d.name = drop_health_check.name;
END $$;
COMMENT ON FUNCTION monitoring.drop_health_check(text) IS 'Drop a health check. Its results stay until retention drops them. Errors: 42704 if it does not exist, 2BP01 if another check depends on it or has it as a member.';

CREATE FUNCTION monitoring.set_check_secret(name text, key text, value text DEFAULT NULL, file text DEFAULT NULL, environment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	keys text[];
BEGIN
	PERFORM monitoring.hide_statement();
	PERFORM monitoring.check_is_health_check(name);
	IF num_nonnulls(value, file, environment) <> 1 THEN
		RAISE EXCEPTION 'a secret is either a value, in a file, or in an environment variable' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT ARRAY(SELECT k FROM jsonb_object_keys(d.config -> 'secrets') AS k ORDER BY k) INTO keys
	FROM monitoring.health_check_defs AS d WHERE d.name = set_check_secret.name FOR NO KEY UPDATE;
	IF key IS NULL OR key <> ALL (keys) THEN
		RAISE EXCEPTION 'health check "%" has no secret of that name', name USING ERRCODE = 'invalid_parameter_value',
			HINT = CASE WHEN keys = '{}' THEN 'Its config has no "secrets".' ELSE 'Its secrets: ' || array_to_string(keys, ', ') || '.' END;
	END IF;
	PERFORM monitoring.store_check_secrets(name, jsonb_build_array(jsonb_build_object('key', key,
		'source', CASE WHEN value IS NOT NULL THEN 'value' WHEN file IS NOT NULL THEN 'file' ELSE 'environment' END, 'value', coalesce(value, file, environment))));
	UPDATE monitoring.health_check_defs AS d SET owner = monitoring.calling_role() WHERE d.name = set_check_secret.name;
	UPDATE monitoring.health_check_states AS s SET next_at = set_check_secret.at WHERE s.check_name = set_check_secret.name;
END $$;
COMMENT ON FUNCTION monitoring.set_check_secret(text, text, text, text, text, timestamptz) IS 'Set or change a secret that a health check''s config names: its value, which should come as a bind parameter, or where the prober reads it at each use: a file in monitoring.secrets_directory, or an environment variable of the server whose name starts with MONITORING_SECRET_. A secret has up to 8192 bytes and no control character; a line break at the end of a file does not count. The check is run soon, and the caller becomes its owner. Errors: 42704 for an unknown check, 22023 otherwise.';

CREATE FUNCTION monitoring.report_heartbeat(name text, ok boolean DEFAULT true, message text DEFAULT '', at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.health_check_defs AS d WHERE d.name = report_heartbeat.name AND d.kind = 'heartbeat') THEN
		RAISE EXCEPTION 'health check "%" of kind heartbeat does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.health_checks lists them.';
	ELSIF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'a heartbeat has a finite time' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	INSERT INTO monitoring.health_beats AS b (check_name, at, ok, message, reporter)
	VALUES (report_heartbeat.name, report_heartbeat.at, coalesce(report_heartbeat.ok, false),
		left(regexp_replace(coalesce(report_heartbeat.message, ''), '[[:cntrl:]]', ' ', 'g'), 1000), monitoring.calling_role())
	ON CONFLICT ON CONSTRAINT health_beats_pkey DO UPDATE
	SET at = excluded.at, ok = excluded.ok, message = excluded.message, reporter = excluded.reporter
	WHERE b.at <= excluded.at;
	-- who reports does not wait for who looks
	UPDATE monitoring.health_check_states AS s SET next_at = report_heartbeat.at
	WHERE s.check_name = (
		SELECT h.check_name FROM monitoring.health_check_states AS h
		WHERE h.check_name = report_heartbeat.name AND h.next_at > report_heartbeat.at
			AND (NOT coalesce(report_heartbeat.ok, false) OR h.confirmed <> 'healthy')
		FOR UPDATE SKIP LOCKED);
END $$;
COMMENT ON FUNCTION monitoring.report_heartbeat(text, boolean, text, timestamptz) IS 'Report that a job outside ran, for a check of the kind heartbeat: ok, or failed with a message. The check is looked at soon when the job failed or had not been healthy. Errors: 42704 if there is no such check, 22023 for a time that is not finite.';

-- Headers, bodies and queries may hold credentials.
CREATE FUNCTION monitoring.shown_check_config(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(c.key, CASE
			WHEN c.key = 'headers' AND jsonb_typeof(c.value) = 'object' THEN (SELECT coalesce(jsonb_object_agg(h.key, '***'), '{}') FROM jsonb_each(c.value) AS h)
			WHEN c.key = 'secrets' AND jsonb_typeof(c.value) = 'object' THEN (SELECT coalesce(jsonb_object_agg(s, '***'), '{}') FROM jsonb_object_keys(c.value) AS s)
			WHEN c.key IN ('body', 'send', 'send_hex') THEN '"***"'
			WHEN c.key = 'url' THEN to_jsonb(regexp_replace(c.value #>> '{}', '[?#].*$', '?...'))
			WHEN c.key = 'steps' AND jsonb_typeof(c.value) = 'array' THEN (SELECT jsonb_agg(CASE WHEN jsonb_typeof(s) = 'object' THEN monitoring.shown_check_config(s) ELSE s END)
				FROM jsonb_array_elements(c.value) AS s)
			ELSE c.value END), '{}')
	FROM jsonb_each(config) AS c
$$;
COMMENT ON FUNCTION monitoring.shown_check_config(jsonb) IS 'A health check''s config as everybody may see it: without values of headers, bodies and what follows a url''s path.';

CREATE VIEW monitoring.health_checks AS
	SELECT d.name, d.kind, monitoring.shown_check_config(d.config) AS config, d.owner, d.every, d.timeout, d.retries,
		coalesce(d.op, k.op) AS op, coalesce(d.degraded, k.degraded) AS degraded, coalesce(d.unhealthy, k.unhealthy) AS unhealthy,
		d.severity, d.depends_on, d.maintenance, d.labels, d.description, d.enabled, d.created_at
	FROM monitoring.health_check_defs AS d
	LEFT JOIN monitoring.health_check_kinds AS k ON k.kind = d.kind;
COMMENT ON VIEW monitoring.health_checks IS 'Health checks as they are defined.';
COMMENT ON COLUMN monitoring.health_checks.config IS 'What the kind needs to know; values of headers and bodies, and what follows the path of a url, are not shown.';
COMMENT ON COLUMN monitoring.health_checks.degraded IS 'Threshold; null: none.';
COMMENT ON COLUMN monitoring.health_checks.unhealthy IS 'Threshold; null: none.';
COMMENT ON COLUMN monitoring.health_checks.severity IS 'What it takes off the score (health_weights), and the severity of its alert.';
COMMENT ON COLUMN monitoring.health_checks.maintenance IS 'Named time intervals in which it does not count.';
COMMENT ON COLUMN monitoring.health_checks.labels IS 'Labels of its metrics and alerts, besides check and check_severity.';
SELECT monitoring.inherit_comments('monitoring.health_checks', 'monitoring.health_check_defs');

CREATE VIEW monitoring.health_check_secrets AS
	SELECT d.name AS check_name, k AS key, s.source, CASE WHEN s.source <> 'value' THEN s.value END AS reference, s.set_at
	FROM monitoring.health_check_defs AS d
	CROSS JOIN LATERAL jsonb_object_keys(CASE WHEN jsonb_typeof(d.config -> 'secrets') = 'object' THEN d.config -> 'secrets' END) AS k
	LEFT JOIN monitoring.check_secrets AS s ON s.check_name = d.name AND s.key = k;
COMMENT ON VIEW monitoring.health_check_secrets IS 'The secrets that health checks name, and where they are; the secrets themselves are shown to nobody.';
COMMENT ON COLUMN monitoring.health_check_secrets.check_name IS 'The check.';
COMMENT ON COLUMN monitoring.health_check_secrets.key IS 'Name of the secret, as for set_check_secret.';
COMMENT ON COLUMN monitoring.health_check_secrets.source IS 'value, file or environment; null if it is not set: the check fails.';
COMMENT ON COLUMN monitoring.health_check_secrets.reference IS 'Path of the file, or name of the environment variable.';
COMMENT ON COLUMN monitoring.health_check_secrets.set_at IS 'When it was set.';
