-- Which settings have changed: ALTER DATABASE and ALTER ROLE, what is hidden, and how it becomes evidence. All is rolled back.
\pset format unaligned
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET TimeZone = 'UTC';
SELECT monitoring.note_settings(clock_timestamp());
SELECT count(*) AS seen FROM monitoring.settings_seen;
BEGIN;
-- the worker does not compare meanwhile
SELECT FROM monitoring.settings_seen FOR UPDATE;
DELETE FROM monitoring.setting_changes;
CREATE ROLE mon_test_settings;
CREATE FUNCTION pg_temp.changes(at timestamptz) RETURNS TABLE (scope text, name text, old_value text, new_value text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM monitoring.note_settings($1);
	RETURN QUERY SELECT replace(c.scope, current_database(), 'D'), c.name, c.old_value, c.new_value FROM monitoring.setting_changes AS c WHERE c.at = $1
		ORDER BY c.scope, c.name;
END $$;
SELECT * FROM pg_temp.changes('2030-01-01 10:00');
DO $$ BEGIN
	EXECUTE format('ALTER DATABASE %I SET work_mem = ''5MB''', current_database());
	EXECUTE format('ALTER ROLE mon_test_settings IN DATABASE %I SET statement_timeout = ''3s''', current_database());
END $$;
ALTER ROLE mon_test_settings SET shop.token = 'very secret';
ALTER ROLE mon_test_settings SET search_path = 'a', 'b=c';
SELECT * FROM pg_temp.changes('2030-01-01 11:00');
SELECT * FROM pg_temp.changes('2030-01-01 11:01');
-- a hidden value changes as well; what is taken back is not set any more; the same value again is no change
ALTER ROLE mon_test_settings SET shop.token = 'other secret';
ALTER ROLE mon_test_settings SET search_path = 'a', 'b=c';
ALTER ROLE mon_test_settings RESET search_path;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''6MB''', current_database()); END $$;
SELECT * FROM pg_temp.changes('2030-01-01 12:00');
SELECT count(*) AS secrets FROM monitoring.known_settings AS k WHERE k::text ~ 'secret' AND k.name <> 'shop.token' OR k.value ~ 'secret';
-- as evidence: the last day, the latest first
SELECT c ->> 'at' AS at, c ->> 'name' AS name, c ->> 'from' AS from, c ->> 'to' AS to
FROM jsonb_array_elements(monitoring.setting_evidence('2030-01-02 11:30') -> 'changes') AS c;
SELECT coalesce(monitoring.setting_evidence('2030-01-05') ? 'changes', false) AS later;
-- and in the report of an incident, that of the day before until it ended
CREATE TEMP TABLE incident AS SELECT monitoring.open_incident('slow', at => '2030-01-01 11:30') AS id;
SELECT monitoring.resolve_incident(id, at => '2030-01-01 11:45') FROM incident;
SELECT c ->> 'at' AS at, c ->> 'name' AS name FROM incident, jsonb_array_elements(monitoring.incident_report(id) -> 'setting_changes') AS c;
SELECT replace(line, monitoring.markdown_text(current_database()), 'D') AS line
FROM incident, string_to_table(monitoring.incident_report_markdown(id), E'\n') AS line WHERE line ~ '2030-01-01 11:00|Settings';
-- who may see it
SELECT has_table_privilege('pg_monitor', 'monitoring.setting_changes', 'SELECT') AS viewer, has_table_privilege('pg_monitor', 'monitoring.known_settings', 'SELECT') AS known;
ROLLBACK;

SELECT name, monitoring.shown_setting(name, value) FROM (VALUES ('work_mem', '4MB'), ('primary_conninfo', 'password=x'), ('archive_command', 'x'),
	('password_encryption', 'md5'), ('scram_iterations', '1'), ('log_line_prefix', '%m'), ('shop.limit', '5'), ('monitoring.allowed_hosts', 'a.example'),
	('ssl_passphrase_command', 'x'), ('authentication_timeout', '1min'), ('work_mem', NULL), ('log_line_prefix', NULL)) AS s (name, value);
SELECT length(monitoring.shown_setting('log_line_prefix', repeat('x', 501)));
