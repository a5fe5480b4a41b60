-- Errors, log-ins and changes: what is made of signals, without the hooks. Those are tested in test/t/055_errors.pl.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET client_min_messages = warning;
\set VERBOSITY terse
BEGIN;
CREATE ROLE regress_monitoring_err;
CREATE ROLE regress_monitoring_seer;
SELECT monitoring.grant_access('regress_monitoring_seer', 'viewer');
SELECT monitoring.ensure_partition(r, '2031-01-01 12:00') IS NOT NULL AS made FROM unnest('{server_errors,login_attempts,change_log}'::text[]) AS r;

CREATE FUNCTION pg_temp.error(n integer, issue bigint, title text, message text, seconds numeric, role text DEFAULT 'regress_monitoring_err',
	sqlstate text DEFAULT '22012', tab text DEFAULT NULL, con text DEFAULT NULL, level text DEFAULT 'ERROR') RETURNS monitoring.signal
LANGUAGE sql AS $$
	SELECT ROW('error', timestamptz '2031-01-01 12:00' + seconds * interval '1 s', level, sqlstate, issue, title, NULL, NULL,
		0, coalesce((SELECT r.oid FROM pg_roles AS r WHERE r.rolname = role), 0), 100, 'client backend', n,
		title, message, NULL, NULL, 'SELECT $1', NULL, CASE WHEN tab <> '' THEN 'public' END, tab, NULL, NULL, con, NULL, NULL, NULL, NULL, role, 'shop', 'app', '[local]')::monitoring.signal
$$;

-- errors alike are one row, issues one each; those of nobody too
SELECT monitoring.store_signals(ARRAY[
	pg_temp.error(1, 11, 'division by zero', 'division by zero', 1), pg_temp.error(2, 11, 'division by zero', 'division by zero', 2),
	pg_temp.error(3, 12, 'duplicate key %s', 'duplicate key 5', 3, tab => 'item', con => 'item_key', sqlstate => '23505'),
	pg_temp.error(4, 12, 'duplicate key %s', 'duplicate key 6', 4, tab => 'item', con => 'item_key', sqlstate => '23505', role => 'regress_monitoring_seer'),
	pg_temp.error(5, 13, 'worse', 'worse', 5, role => NULL, level => 'FATAL')]);
SELECT at, last_at, occurrences, issue, severity, sqlstate, message, statement, table_name, constraint_name, username, database, application
FROM monitoring.recent_errors WHERE at > '2031-01-01' ORDER BY at;
SELECT issue, database, severity, sqlstate, title, place, state, first_seen, last_seen, occurrences, user_count, users, last_message, regressions
FROM monitoring.error_issues WHERE issue < 20 ORDER BY issue;

-- states, and what comes after and before
SELECT monitoring.resolve_error_issue(11, 'fixed', '2031-01-01 12:01'), monitoring.ignore_error_issue(12, 'never mind', '2031-01-01 12:01');
SELECT monitoring.store_signals(ARRAY[pg_temp.error(6, 11, 'division by zero', 'division by zero', 59), pg_temp.error(7, 12, 'duplicate key %s', 'duplicate key 7', 90)]);
SELECT issue, state, occurrences, regressions, regressed_at, comment FROM monitoring.error_issues WHERE issue < 20 ORDER BY issue;
SELECT monitoring.store_signals(ARRAY[pg_temp.error(8, 11, 'division by zero', 'division by zero', 61), pg_temp.error(9, 11, 'division by zero', 'division by zero', 62)]);
SELECT issue, state, occurrences, regressions, regressed_at, comment FROM monitoring.error_issues WHERE issue < 20 ORDER BY issue;
SELECT monitoring.reopen_error_issue(12);
SELECT issue, state, state_by = current_user AS mine FROM monitoring.error_issues WHERE issue = 12;
SAVEPOINT s;
SELECT monitoring.resolve_error_issue(99);
ROLLBACK TO s;
SELECT monitoring.resolve_error_issue(11, at => 'infinity');
ROLLBACK TO s;

-- counts over a window, open at its beginning
SELECT * FROM monitoring.error_counts(over => '1 minute', at => '2031-01-01 12:01:01');
SELECT * FROM monitoring.error_counts('{username,constraint_name}', '1 hour', '2031-01-01 12:30');
SELECT * FROM monitoring.error_counts('{}', '1 hour', '2031-01-01 12:30');
SELECT * FROM monitoring.error_counts('{message}');
ROLLBACK TO s;
SELECT jsonb_pretty(monitoring.error_evidence('2031-01-01 12:05'));

-- of errors alike so many rows a minute; all are counted
SAVEPOINT s;
SET LOCAL monitoring.errors_per_issue = 3;
SELECT monitoring.store_signals(array_agg(pg_temp.error(n, 21, 'a storm', 'a storm of ' || n, 3600 + n))) FROM generate_series(1, 5) AS n;
SELECT monitoring.store_signals(array_agg(pg_temp.error(n, 21, 'a storm', 'a storm of ' || n, 3600 + n)) || pg_temp.error(40, 22, 'another', 'another', 3640)) FROM generate_series(11, 15) AS n;
SELECT monitoring.store_signals(ARRAY[pg_temp.error(99, 21, 'a storm', 'a storm of later', 3699)]);
SELECT issue, message FROM monitoring.server_errors WHERE issue IN (21, 22) ORDER BY at;
SELECT issue, occurrences, not_stored, last_message FROM monitoring.error_issue_states WHERE issue IN (21, 22) ORDER BY issue;
ROLLBACK TO s;

-- log-ins and changes
SELECT code, template, monitoring.login_failure_reason(code, template) FROM (VALUES
	('28P01', 'password authentication failed for user "%s"'), ('28000', 'no pg_hba.conf entry for host "%s", user "%s", database "%s", %s'),
	('28000', 'role "%s" does not exist'), ('28000', 'role "%s" is not permitted to log in'), ('28000', 'Peer authentication failed for user "%s"'), ('3D000', 'x'),
	('53300', 'sorry, too many clients already'), ('57P03', 'x'), ('42501', 'x'), ('08P01', 'x'), ('57014', 'x'), ('XX000', NULL), (NULL, NULL)) AS v (code, template);
SELECT monitoring.store_signals(array_agg(ROW('login', timestamptz '2031-01-01 12:00' + n * interval '1 s', level, code, NULL, NULL, NULL, NULL, 0, 0, n, 'client backend', n,
	template, message, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'eve', 'shop', NULL, '192.0.2.1')::monitoring.signal))
FROM (VALUES (1, '', 'ok', 'md5', NULL), (2, '', 'refused', 'scram-sha-256', NULL), (3, '', 'refused', 'scram-sha-256', NULL), (4, '3D000', 'failed', 'database "%s" does not exist', 'database "x" does not exist'),
	(5, '', 'refused', 'peer', NULL)) AS v (n, level, code, template, message);
SELECT at, last_at, attempts, outcome, reason, sqlstate, message, username, database, client FROM monitoring.logins WHERE at > '2031-01-01' ORDER BY at;
SELECT monitoring.store_signals(ARRAY[ROW('change', '2031-01-01 12:00', '', 'role', NULL, NULL, NULL, NULL, 0, 10, 5, 'client backend', 1,
	'ALTER ROLE', NULL, NULL, NULL, 'ALTER ROLE a SUPERUSER', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'eve', 'shop', 'psql', '192.0.2.1')::monitoring.signal]);
SELECT at, class, command, statement, value, login, database, application, client FROM monitoring.changes WHERE at > '2031-01-01';

-- what a viewer sees
SET LOCAL ROLE regress_monitoring_seer;
SELECT issue, message, detail, statement, client FROM monitoring.recent_errors WHERE at > '2031-01-01' ORDER BY at;
SELECT issue, title, last_message FROM monitoring.error_issues WHERE issue < 20 ORDER BY issue;
SELECT count(*) FROM monitoring.logins;
SELECT command, statement, client FROM monitoring.changes WHERE at > '2031-01-01';
SELECT sum(occurrences) FROM monitoring.error_counts('{}', '1 hour', '2031-01-01 12:30');
SELECT monitoring.resolve_error_issue(11);
ROLLBACK;
