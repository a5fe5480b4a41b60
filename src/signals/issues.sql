
-- signals, what people read: errors, issues, log-ins, changes. Texts with values in them are shown as PostgreSQL shows
-- statements: to those who ran them, and to pg_read_all_stats.

CREATE VIEW monitoring.recent_errors AS
	SELECT e.at, e.last_at, e.occurrences, e.issue, e.severity, e.sqlstate,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.message ELSE '<insufficient privilege>' END AS message,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.detail END AS detail,
		e.hint,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.statement ELSE '<insufficient privilege>' END AS statement,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.context END AS context,
		e.schema_name, e.table_name, e.column_name, e.datatype_name, e.constraint_name, e.username, e.database, e.application,
		CASE WHEN a.everything OR e.userid = a.userid THEN e.client END AS client, e.pid, e.backend_type, e.queryid
	FROM monitoring.server_errors AS e
	CROSS JOIN (
		SELECT r.oid AS userid, pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS everything
		FROM pg_catalog.pg_roles AS r
		WHERE r.rolname = current_user
	) AS a;
COMMENT ON VIEW monitoring.recent_errors IS 'Errors that the server logged, for 30 days; those of this database, and in one database those of none. Others'' texts are shown with the rights of pg_read_all_stats only. Ask for a range of at.';
COMMENT ON COLUMN monitoring.recent_errors.occurrences IS 'How many the row stands for: one session''s errors within about a second, alike in everything.';
COMMENT ON COLUMN monitoring.recent_errors.message IS 'Message, at most 1000 bytes; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.recent_errors.statement IS 'What the client had sent, without literals, at most 1000 bytes; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.recent_errors.username IS 'Role with whose rights it ran; before there was one, the name that the client gave.';
COMMENT ON COLUMN monitoring.recent_errors.database IS 'Database; before there was one, that which the client asked for; empty for none.';
SELECT monitoring.inherit_comments('monitoring.recent_errors', 'monitoring.server_errors');

CREATE VIEW monitoring.error_issues AS
	SELECT i.issue, i.database, i.severity, i.sqlstate, i.title, i.place, i.state, i.first_seen, i.last_seen, i.occurrences,
		cardinality(i.users) AS user_count, i.users,
		CASE WHEN a.everything OR i.last_userid = a.userid THEN i.last_message ELSE '<insufficient privilege>' END AS last_message,
		i.regressions, i.regressed_at, i.state_at, i.state_by, i.comment, i.not_stored
	FROM monitoring.error_issue_states AS i
	CROSS JOIN (
		SELECT r.oid AS userid, pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS everything
		FROM pg_catalog.pg_roles AS r
		WHERE r.rolname = current_user
	) AS a;
COMMENT ON VIEW monitoring.error_issues IS 'Errors alike in SQLSTATE, format of the message, table, column, type and constraint are one issue.';
COMMENT ON COLUMN monitoring.error_issues.issue IS 'Its number, from what they have in common: the same on every server of this version of PostgreSQL.';
COMMENT ON COLUMN monitoring.error_issues.title IS 'The message without values: its format in the source, untranslated, or what is left of a message that has none, such as that of RAISE.';
COMMENT ON COLUMN monitoring.error_issues.occurrences IS 'How often it was stored.';
COMMENT ON COLUMN monitoring.error_issues.not_stored IS 'How many of its occurrences have no row in recent_errors: more than monitoring.errors_per_issue in a minute.';
COMMENT ON COLUMN monitoring.error_issues.user_count IS 'Roles that met it; counted up to 100.';
COMMENT ON COLUMN monitoring.error_issues.users IS 'These roles.';
COMMENT ON COLUMN monitoring.error_issues.last_message IS 'Message of the latest; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.error_issues.state_at IS 'When somebody decided its state.';
SELECT monitoring.inherit_comments('monitoring.error_issues', 'monitoring.error_issue_states');

CREATE FUNCTION monitoring.set_error_issue_state(issue bigint, state text, comment text, at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	UPDATE monitoring.error_issue_states AS i
	SET state = set_error_issue_state.state, state_at = set_error_issue_state.at, state_by = monitoring.calling_role(),
		comment = left(set_error_issue_state.comment, 1000)
	WHERE i.issue = set_error_issue_state.issue;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no issue %', issue USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.set_error_issue_state(bigint, text, text, timestamptz) IS 'Sets the state of an issue: unresolved, resolved or ignored. Errors: no such issue (42704), no finite time (22023).';

CREATE FUNCTION monitoring.resolve_error_issue(issue bigint, comment text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT monitoring.set_error_issue_state(issue, 'resolved', comment, at) $$;
COMMENT ON FUNCTION monitoring.resolve_error_issue(bigint, text, timestamptz) IS 'The cause of an issue is gone, as of that time. If it happens again later, it is unresolved and counted as a regression. Error 42704: no such issue.';

CREATE FUNCTION monitoring.ignore_error_issue(issue bigint, comment text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT monitoring.set_error_issue_state(issue, 'ignored', comment, at) $$;
COMMENT ON FUNCTION monitoring.ignore_error_issue(bigint, text, timestamptz) IS 'Nobody is going to do anything about an issue; it stays ignored when it happens again. Error 42704: no such issue.';

CREATE FUNCTION monitoring.reopen_error_issue(issue bigint, comment text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$ SELECT monitoring.set_error_issue_state(issue, 'unresolved', comment, at) $$;
COMMENT ON FUNCTION monitoring.reopen_error_issue(bigint, text, timestamptz) IS 'An issue is unresolved after all. Error 42704: no such issue.';

CREATE FUNCTION monitoring.error_counts("by" text[] DEFAULT '{severity,sqlstate}', over interval DEFAULT '1 hour', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (error_labels jsonb, occurrences bigint, issues bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	allowed CONSTANT text[] := '{severity,sqlstate,username,database,application,backend_type,schema_name,table_name,column_name,datatype_name,constraint_name,issue,queryid}';
BEGIN
	IF "by" IS NULL OR NOT "by" <@ allowed THEN
		RAISE EXCEPTION 'errors cannot be counted by %', "by"
			USING ERRCODE = 'invalid_parameter_value', HINT = 'They can be by ' || array_to_string(allowed, ', ') || '.';
	END IF;
	RETURN QUERY
	SELECT l.labels, sum(e.occurrences)::bigint, count(DISTINCT e.issue), min(e.at), max(e.last_at)
	FROM monitoring.recent_errors AS e
	CROSS JOIN LATERAL (
		SELECT coalesce(jsonb_object_agg(k.key, k.value), '{}') AS labels
		FROM jsonb_each(jsonb_build_object('severity', e.severity, 'sqlstate', e.sqlstate, 'username', e.username, 'database', e.database,
			'application', e.application, 'backend_type', e.backend_type, 'schema_name', e.schema_name, 'table_name', e.table_name,
			'column_name', e.column_name, 'datatype_name', e.datatype_name, 'constraint_name', e.constraint_name, 'issue', e.issue,
			'queryid', e.queryid)) AS k
		WHERE k.key = ANY ("by")
	) AS l
	WHERE e.at > error_counts.at - over AND e.at <= error_counts.at
	GROUP BY l.labels
	ORDER BY 2 DESC, 1;
END $$;
COMMENT ON FUNCTION monitoring.error_counts(text[], interval, timestamptz) IS 'How many errors were stored in (at - over, at], by what is given: severity, sqlstate, username, database, application, backend_type, schema_name, table_name, column_name, datatype_name, constraint_name, issue, queryid. Most first. Error 22023 for anything else.';

CREATE VIEW monitoring.error_totals AS
	SELECT coalesce(d.datname, '') AS database, c.level AS severity, c.code AS sqlstate, sum(c.total)::bigint AS total, sum(c.dropped)::bigint AS not_stored
	FROM monitoring.signal_counts(true) AS c
	LEFT JOIN pg_catalog.pg_database AS d ON d.oid = c.dbid
	WHERE c.kind = 'error'
	GROUP BY 1, 2, 3;
COMMENT ON VIEW monitoring.error_totals IS 'Errors of the whole server since it started, as shared memory counts them.';
COMMENT ON COLUMN monitoring.error_totals.database IS 'Database; empty for none.';
COMMENT ON COLUMN monitoring.error_totals.severity IS 'LOG, WARNING, ERROR, FATAL or PANIC.';
COMMENT ON COLUMN monitoring.error_totals.sqlstate IS 'SQLSTATE; empty if there were too many different ones to be counted apart.';
COMMENT ON COLUMN monitoring.error_totals.total IS 'How many there were.';
COMMENT ON COLUMN monitoring.error_totals.not_stored IS 'How many of them found no room in monitoring.log_buffer, so that there is no row of them.';

CREATE VIEW monitoring.logins AS
	SELECT l.at, l.last_at, l.attempts, l.outcome, l.reason, l.sqlstate, l.message, l.username, l.database, l.client, l.application, l.pid
	FROM monitoring.login_attempts AS l
	WHERE pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE');
COMMENT ON VIEW monitoring.logins IS 'Log-ins to the server and those that failed, for 90 days, in one database of the server; empty without the rights of pg_read_all_stats.';
COMMENT ON COLUMN monitoring.logins.attempts IS 'How many: alike in all but the process, within about a second.';
COMMENT ON COLUMN monitoring.logins.outcome IS 'ok (authenticated) or failed.';
COMMENT ON COLUMN monitoring.logins.reason IS 'Why it failed: password, role, nologin, pg_hba, authentication, database, not_permitted, too_many_connections, server_not_ready, protocol, timeout, other. Of the others the method of authentication.';
COMMENT ON COLUMN monitoring.logins.sqlstate IS 'SQLSTATE of the error, if it was not authentication that failed.';
COMMENT ON COLUMN monitoring.logins.message IS 'That error.';
COMMENT ON COLUMN monitoring.logins.client IS 'Address it came from; [local] for a socket.';
SELECT monitoring.inherit_comments('monitoring.logins', 'monitoring.login_attempts');

CREATE VIEW monitoring.changes AS
	SELECT c.at, c.class, c.command,
		CASE WHEN a.everything OR c.userid = a.userid THEN c.statement ELSE '<insufficient privilege>' END AS statement,
		CASE WHEN a.everything OR c.userid = a.userid THEN c.value END AS value,
		c.username, c.login, c.database, c.application,
		CASE WHEN a.everything OR c.userid = a.userid THEN c.client END AS client, c.pid, c.number
	FROM monitoring.change_log AS c
	CROSS JOIN (
		SELECT r.oid AS userid, pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS everything
		FROM pg_catalog.pg_roles AS r
		WHERE r.rolname = current_user
	) AS a;
COMMENT ON VIEW monitoring.changes IS 'Changes of schema, rights, roles, settings and databases that were made in this database: who, when, what; for 400 days.';
COMMENT ON COLUMN monitoring.changes.statement IS 'Its text, at most 1000 bytes, without literals and so without passwords; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.changes.value IS 'New value of a setting, if it is a number or a boolean; others may be secret.';
COMMENT ON COLUMN monitoring.changes.username IS 'Role with whose rights it ran.';
COMMENT ON COLUMN monitoring.changes.login IS 'Role that had logged in; null for workers.';
SELECT monitoring.inherit_comments('monitoring.changes', 'monitoring.change_log');
