-- alerts, setting changes: which settings of the server, of databases and of roles have changed, and when. What goes wrong
-- has often just been changed.
--
-- Nobody tells when a setting changes. So what is in force is remembered, and compared when the configuration has been
-- loaded anew or ALTER DATABASE or ALTER ROLE have written something; finding out whether that is so reads a few rows.

CREATE TABLE monitoring.setting_changes (
	at timestamptz NOT NULL,
	scope text NOT NULL,
	name text NOT NULL,
	old_value text,
	new_value text
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.setting_changes IS 'Changes of settings in the configuration files, on the command line, and by ALTER DATABASE and ALTER ROLE, kept as long as retention_policies says (400 days).';
COMMENT ON COLUMN monitoring.setting_changes.at IS 'When the configuration with the change was loaded or the server started; of databases and roles when it was noticed, at most a minute later.';
COMMENT ON COLUMN monitoring.setting_changes.scope IS 'server, or the database and role that the setting is for.';
COMMENT ON COLUMN monitoring.setting_changes.name IS 'The setting.';
COMMENT ON COLUMN monitoring.setting_changes.old_value IS 'What it was, as it was written; null: it was not set. (hidden) for what may hold secrets.';
COMMENT ON COLUMN monitoring.setting_changes.new_value IS 'What it is since then; null: it is not set any more.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('setting_changes', '30 days', 1, '400 days', '{(at)}');

-- Not dumped: another server has other settings, and starts to compare with its own.
CREATE TABLE monitoring.known_settings (
	scope text,
	name text,
	value text,
	digest bytea NOT NULL,
	PRIMARY KEY (scope, name)
);
COMMENT ON TABLE monitoring.known_settings IS 'Settings as they were when note_settings() last compared them.';
COMMENT ON COLUMN monitoring.known_settings.scope IS 'server, or the database and role that the setting is for.';
COMMENT ON COLUMN monitoring.known_settings.name IS 'The setting.';
COMMENT ON COLUMN monitoring.known_settings.value IS 'Its value as it may be shown.';
COMMENT ON COLUMN monitoring.known_settings.digest IS 'Hash of its value.';

CREATE TABLE monitoring.settings_seen (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	started_at timestamptz NOT NULL,
	loaded_at timestamptz NOT NULL,
	stored bytea NOT NULL
);
COMMENT ON TABLE monitoring.settings_seen IS 'Which state of the configuration note_settings() last compared. No row before the first time.';
COMMENT ON COLUMN monitoring.settings_seen.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.settings_seen.started_at IS 'When the server had started.';
COMMENT ON COLUMN monitoring.settings_seen.loaded_at IS 'When it had loaded its configuration.';
COMMENT ON COLUMN monitoring.settings_seen.stored IS 'Hash of what ALTER DATABASE and ALTER ROLE had stored.';

CREATE FUNCTION monitoring.shown_setting(name text, value text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- What applications set may be anything, what commands and connections are given as well; numbers are no secrets.
	SELECT CASE WHEN value IS NULL THEN NULL
		WHEN name ~* 'conninfo|command|pass|secret|token|key|credential|auth'
			AND coalesce((SELECT s.vartype FROM pg_settings AS s WHERE s.name = shown_setting.name), 'string') = 'string' THEN '(hidden)'
		WHEN strpos(name, '.') > 0 AND name NOT LIKE 'monitoring.%'
			AND coalesce((SELECT s.vartype FROM pg_settings AS s WHERE s.name = shown_setting.name), 'string') = 'string' THEN '(hidden)'
		ELSE left(value, 500) END
$$;
COMMENT ON FUNCTION monitoring.shown_setting(text, text) IS 'The value of a setting as people may see it: (hidden) for texts that may hold secrets, which are those of applications and extensions, and those whose name speaks of commands, connections, keys and the like.';

CREATE FUNCTION monitoring.settings_in_force() RETURNS TABLE (scope text, name text, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'server', f.name, f.setting
	FROM pg_file_settings AS f
	WHERE f.applied AND NOT EXISTS (SELECT FROM pg_settings AS s WHERE s.name = f.name AND s.source = 'command line')
	UNION ALL
	SELECT 'server', s.name, s.reset_val FROM pg_settings AS s WHERE s.source = 'command line'
	UNION ALL
	-- what waits for a restart is in force as it was
	SELECT DISTINCT k.scope, k.name, NULL
	FROM pg_file_settings AS f
	JOIN monitoring.known_settings AS k ON k.scope = 'server' AND k.name = f.name
	WHERE f.error IS NOT NULL AND NOT EXISTS (SELECT FROM pg_file_settings AS a WHERE a.name = f.name AND a.applied)
	UNION ALL
	SELECT concat_ws(' in ', CASE WHEN d.setrole <> 0 THEN format('role %s', r.rolname) END,
			CASE WHEN d.setdatabase <> 0 THEN format('database %s', current_database()) END),
		split_part(c.setting, '=', 1), substr(c.setting, strpos(c.setting, '=') + 1)
	FROM pg_db_role_setting AS d
	CROSS JOIN unnest(d.setconfig) AS c (setting)
	LEFT JOIN pg_roles AS r ON r.oid = d.setrole
	WHERE d.setdatabase IN (0, (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database()))
$$;
COMMENT ON FUNCTION monitoring.settings_in_force() IS 'The settings that the configuration files, the command line, and ALTER DATABASE and ALTER ROLE give, those of other databases left out. A null value: what is in the file waits for a restart, and what was known is in force.';

CREATE FUNCTION monitoring.note_settings(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	now_stored CONSTANT bytea := (SELECT sha256(monitoring.utf8_bytes(coalesce(string_agg(s::text, ',' ORDER BY s.setdatabase, s.setrole), '')))
		FROM pg_db_role_setting AS s);
	seen monitoring.settings_seen;
	first_time boolean;
	changed_at timestamptz;
BEGIN
	SELECT * INTO seen FROM monitoring.settings_seen;
	first_time := NOT FOUND;
	-- a session that has not loaded the latest configuration knows nothing new
	IF NOT first_time AND pg_postmaster_start_time() = seen.started_at AND pg_conf_load_time() <= seen.loaded_at AND now_stored = seen.stored THEN
		RETURN;
	END IF;
	IF first_time THEN
		INSERT INTO monitoring.settings_seen (started_at, loaded_at, stored) VALUES (pg_postmaster_start_time(), pg_conf_load_time(), now_stored)
		ON CONFLICT DO NOTHING;
	ELSE
		UPDATE monitoring.settings_seen AS e
		SET started_at = pg_postmaster_start_time(), loaded_at = greatest(pg_conf_load_time(), seen.loaded_at), stored = now_stored
		WHERE e.only_row IN (SELECT o.only_row FROM monitoring.settings_seen AS o FOR UPDATE SKIP LOCKED);
	END IF;
	IF NOT FOUND THEN
		RETURN; -- somebody else is comparing them
	END IF;
	changed_at := least(at, greatest(pg_postmaster_start_time(), pg_conf_load_time()));
	PERFORM monitoring.ensure_partition('setting_changes', at);
	PERFORM monitoring.ensure_partition('setting_changes', changed_at);

	WITH now AS MATERIALIZED (
		SELECT f.scope, f.name, f.value IS NULL AS waits, monitoring.shown_setting(f.name, f.value) AS value,
			sha256(monitoring.utf8_bytes(coalesce(f.value, ''))) AS digest
		FROM monitoring.settings_in_force() AS f
	), changes AS MATERIALIZED (
		SELECT coalesce(n.scope, k.scope) AS scope, coalesce(n.name, k.name) AS name, k.value AS old_value, n.value AS new_value, n.digest
		FROM now AS n
		FULL JOIN monitoring.known_settings AS k ON k.scope = n.scope AND k.name = n.name
		WHERE n.waits IS NOT TRUE AND n.digest IS DISTINCT FROM k.digest
	), removed AS (
		DELETE FROM monitoring.known_settings AS k USING changes AS c WHERE k.scope = c.scope AND k.name = c.name AND c.digest IS NULL
	), kept AS (
		INSERT INTO monitoring.known_settings AS k (scope, name, value, digest)
		SELECT c.scope, c.name, c.new_value, c.digest FROM changes AS c WHERE c.digest IS NOT NULL
		ON CONFLICT ON CONSTRAINT known_settings_pkey DO UPDATE SET value = excluded.value, digest = excluded.digest
	)
	INSERT INTO monitoring.setting_changes (at, scope, name, old_value, new_value)
	SELECT CASE c.scope WHEN 'server' THEN changed_at ELSE note_settings.at END, c.scope, c.name, c.old_value, c.new_value
	FROM changes AS c
	WHERE NOT first_time
	ORDER BY c.scope, c.name;
END $$;
COMMENT ON FUNCTION monitoring.note_settings(timestamptz) IS 'Compare the settings in force with those that were known, and keep what has changed in setting_changes. Does nothing as long as neither the configuration was loaded nor ALTER DATABASE or ALTER ROLE wrote anything since the last time. A job, and part of taking evidence.';

INSERT INTO monitoring.jobs (name, function, every, priority) VALUES ('settings', 'monitoring.note_settings', '1 minute', 80);
