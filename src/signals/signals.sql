
-- signals: errors, log-ins and changes that the server itself saw, on their way from shared memory into tables.
--
-- Hooks write into a buffer; the worker of each database takes what belongs to it every second. What belongs to no
-- database (log-ins, errors of the postmaster and of databases without the extension) goes to the database at work with
-- the lowest oid.

CREATE TABLE monitoring.signal_state (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	seq bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE monitoring.signal_state IS 'One row: the number of the latest drain. What shared memory has of drains up to it is stored. Its lock is held during a drain.';
COMMENT ON COLUMN monitoring.signal_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.signal_state.seq IS 'Number of the latest drain that committed.';
INSERT INTO monitoring.signal_state DEFAULT VALUES;

CREATE TYPE monitoring.execution_facts AS (
	started_at timestamptz, toplevel boolean, outcome text, sqlstate text, blocked_by_pid integer, wait_samples bigint, waits jsonb, plan_hash bigint,
	duration_seconds float8, preparing_seconds float8, planning_seconds float8, rows float8, shared_hit_bytes float8,
	shared_read_bytes float8, shared_dirtied_bytes float8, shared_written_bytes float8, local_read_bytes float8,
	local_written_bytes float8, temp_read_bytes float8, temp_written_bytes float8, wal_bytes float8, io_read_seconds float8,
	io_write_seconds float8, jit_seconds float8
);
COMMENT ON TYPE monitoring.execution_facts IS 'What was measured of a slow execution; the view slow_executions explains it.';

CREATE TYPE monitoring.signal AS (
	kind text, at timestamptz, level text, code text, issue bigint, title text, place text, queryid bigint, dbid oid, userid oid,
	pid integer, backend_type text, number bigint,
	template text, message text, detail text, hint text, statement text, context text, schema_name text, table_name text,
	column_name text, datatype_name text, constraint_name text,
	execution monitoring.execution_facts, correlation_id text, traceparent text, plan text, login text, database text, application text, client text
);
COMMENT ON TYPE monitoring.signal IS 'What a hook has seen, as take_signals() gives it.';

CREATE FUNCTION monitoring.signals_waiting() RETURNS boolean
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'mon_signals_waiting_sql';
COMMENT ON FUNCTION monitoring.signals_waiting() IS 'Whether there may be something to drain. Tells the server that this database has a worker. Error 55000: not preloaded.';

CREATE FUNCTION monitoring.take_signals(stored bigint, max integer) RETURNS SETOF monitoring.signal
LANGUAGE C STRICT VOLATILE ROWS 100 AS 'MODULE_PATHNAME', 'mon_take_signals';
COMMENT ON FUNCTION monitoring.take_signals(bigint, integer) IS 'Takes at most max signals of this database out of shared memory, for drain number stored + 1, in their order. They are gone once that number has committed in signal_state; until then the next drain gets them again. Call with the row of signal_state locked only.';

CREATE FUNCTION monitoring.signal_counts(everything boolean,
	OUT place integer, OUT kind text, OUT level text, OUT code text, OUT dbid oid, OUT total bigint, OUT dropped bigint,
	OUT fresh bigint, OUT fresh_dropped bigint)
RETURNS SETOF record
LANGUAGE C STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_signal_counts_sql';
COMMENT ON FUNCTION monitoring.signal_counts(boolean) IS 'Signals counted since the server started, by kind, level (severity; of failed log-ins the SQLSTATE), code (SQLSTATE; outcome; class of change) and database: all of the server, or those that this database''s worker has to record. fresh is what is not recorded yet. An empty code of errors: too many different ones.';

CREATE FUNCTION monitoring.signal_recorded(place integer, total bigint, dropped bigint) RETURNS void
LANGUAGE C STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_signal_recorded';
COMMENT ON FUNCTION monitoring.signal_recorded(integer, bigint, bigint) IS 'Notes that a row of signal_counts() is recorded up to these numbers.';

CREATE FUNCTION monitoring.signal_buffer(OUT capacity integer, OUT in_use integer) RETURNS record
LANGUAGE C STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_signal_buffer';
COMMENT ON FUNCTION monitoring.signal_buffer() IS 'Places of monitoring.log_buffer, and how many hold something that is not stored yet.';

----------------------------------------------------------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.server_errors (
	at timestamptz NOT NULL,
	last_at timestamptz NOT NULL,
	occurrences integer NOT NULL,
	issue bigint NOT NULL,
	severity text NOT NULL,
	sqlstate text NOT NULL,
	message text NOT NULL,
	detail text,
	hint text,
	statement text,
	context text,
	schema_name text,
	table_name text,
	column_name text,
	datatype_name text,
	constraint_name text,
	userid oid,
	username text,
	database text,
	application text,
	client text,
	pid integer NOT NULL,
	backend_type text NOT NULL,
	queryid bigint
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.server_errors IS 'Errors that the server logged. Granted to nobody; see the view recent_errors, which also explains the columns.';
COMMENT ON COLUMN monitoring.server_errors.at IS 'When it happened; of several alike, the first.';
COMMENT ON COLUMN monitoring.server_errors.last_at IS 'The last of them.';
COMMENT ON COLUMN monitoring.server_errors.occurrences IS 'How many the row stands for: one session''s errors alike in everything, stored by the same drain.';
COMMENT ON COLUMN monitoring.server_errors.issue IS 'What it is an instance of: error_issues.issue.';
COMMENT ON COLUMN monitoring.server_errors.severity IS 'LOG, WARNING, ERROR, FATAL or PANIC.';
COMMENT ON COLUMN monitoring.server_errors.sqlstate IS 'SQLSTATE.';
COMMENT ON COLUMN monitoring.server_errors.message IS 'Message, at most 1000 bytes.';
COMMENT ON COLUMN monitoring.server_errors.detail IS 'Detail, at most 400 bytes.';
COMMENT ON COLUMN monitoring.server_errors.hint IS 'Hint, at most 200 bytes.';
COMMENT ON COLUMN monitoring.server_errors.statement IS 'What the client had sent, without literals, at most 1000 bytes.';
COMMENT ON COLUMN monitoring.server_errors.context IS 'Where in functions it happened, without texts in quotes, at most 600 bytes.';
COMMENT ON COLUMN monitoring.server_errors.schema_name IS 'Schema of what it is about.';
COMMENT ON COLUMN monitoring.server_errors.table_name IS 'Table of what it is about.';
COMMENT ON COLUMN monitoring.server_errors.column_name IS 'Column of what it is about.';
COMMENT ON COLUMN monitoring.server_errors.datatype_name IS 'Data type that it is about.';
COMMENT ON COLUMN monitoring.server_errors.constraint_name IS 'Constraint that it is about.';
COMMENT ON COLUMN monitoring.server_errors.userid IS 'Role with whose rights it ran; null for none.';
COMMENT ON COLUMN monitoring.server_errors.username IS 'Name of that role, or else the name that the client gave.';
COMMENT ON COLUMN monitoring.server_errors.database IS 'Database.';
COMMENT ON COLUMN monitoring.server_errors.application IS 'Name of the application.';
COMMENT ON COLUMN monitoring.server_errors.client IS 'Address of the client.';
COMMENT ON COLUMN monitoring.server_errors.pid IS 'Process.';
COMMENT ON COLUMN monitoring.server_errors.backend_type IS 'Kind of process, as in pg_stat_activity.';
COMMENT ON COLUMN monitoring.server_errors.queryid IS 'Identity of the statement, as in pg_stat_statements.';

CREATE TABLE monitoring.error_issue_states (
	issue bigint NOT NULL,
	database text NOT NULL,
	severity text NOT NULL,
	sqlstate text NOT NULL,
	title text NOT NULL,
	place text,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	occurrences bigint NOT NULL,
	users text[] NOT NULL,
	last_message text,
	last_userid oid,
	state text NOT NULL DEFAULT 'unresolved' CHECK (state IN ('unresolved', 'resolved', 'ignored')),
	state_at timestamptz,
	state_by text,
	comment text,
	regressions integer NOT NULL DEFAULT 0,
	regressed_at timestamptz,
	not_stored bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (issue, database)
);
COMMENT ON TABLE monitoring.error_issue_states IS 'Errors alike, as one row each. Granted to nobody; see the view error_issues, which also explains the columns.';
COMMENT ON COLUMN monitoring.error_issue_states.issue IS 'Fingerprint of what they have in common.';
COMMENT ON COLUMN monitoring.error_issue_states.database IS 'Database; empty for none.';
COMMENT ON COLUMN monitoring.error_issue_states.severity IS 'Severity of the latest.';
COMMENT ON COLUMN monitoring.error_issue_states.sqlstate IS 'SQLSTATE.';
COMMENT ON COLUMN monitoring.error_issue_states.title IS 'The message without values.';
COMMENT ON COLUMN monitoring.error_issue_states.place IS 'Constraint, table, type or function.';
COMMENT ON COLUMN monitoring.error_issue_states.first_seen IS 'First time.';
COMMENT ON COLUMN monitoring.error_issue_states.last_seen IS 'Latest time.';
COMMENT ON COLUMN monitoring.error_issue_states.occurrences IS 'How often.';
COMMENT ON COLUMN monitoring.error_issue_states.users IS 'Roles that met it, at most 100.';
COMMENT ON COLUMN monitoring.error_issue_states.last_message IS 'Message of the latest.';
COMMENT ON COLUMN monitoring.error_issue_states.last_userid IS 'Role that met the latest.';
COMMENT ON COLUMN monitoring.error_issue_states.state IS 'unresolved, resolved or ignored.';
COMMENT ON COLUMN monitoring.error_issue_states.state_at IS 'When somebody decided that.';
COMMENT ON COLUMN monitoring.error_issue_states.state_by IS 'Who did.';
COMMENT ON COLUMN monitoring.error_issue_states.comment IS 'What he said.';
COMMENT ON COLUMN monitoring.error_issue_states.regressions IS 'How often it came back after it had been resolved.';
COMMENT ON COLUMN monitoring.error_issue_states.not_stored IS 'How many of its occurrences have no row: more than monitoring.errors_per_issue in a minute.';
COMMENT ON COLUMN monitoring.error_issue_states.regressed_at IS 'When it did last.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.error_issue_states', '');

CREATE TABLE monitoring.login_attempts (
	at timestamptz NOT NULL,
	last_at timestamptz NOT NULL,
	attempts integer NOT NULL,
	outcome text NOT NULL,
	reason text NOT NULL,
	sqlstate text,
	message text,
	username text,
	database text,
	client text,
	application text,
	pid integer NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.login_attempts IS 'Log-ins to the server. Granted to nobody; see the view logins, which also explains the columns.';
COMMENT ON COLUMN monitoring.login_attempts.at IS 'The first of those that the row stands for.';
COMMENT ON COLUMN monitoring.login_attempts.last_at IS 'The last of them.';
COMMENT ON COLUMN monitoring.login_attempts.attempts IS 'How many: alike in all but the process, and stored by the same drain.';
COMMENT ON COLUMN monitoring.login_attempts.outcome IS 'ok or failed.';
COMMENT ON COLUMN monitoring.login_attempts.reason IS 'Why it failed; of others the method of authentication.';
COMMENT ON COLUMN monitoring.login_attempts.sqlstate IS 'SQLSTATE of the error.';
COMMENT ON COLUMN monitoring.login_attempts.message IS 'The error.';
COMMENT ON COLUMN monitoring.login_attempts.username IS 'Name given.';
COMMENT ON COLUMN monitoring.login_attempts.database IS 'Database asked for.';
COMMENT ON COLUMN monitoring.login_attempts.client IS 'Address it came from.';
COMMENT ON COLUMN monitoring.login_attempts.application IS 'Name of the application.';
COMMENT ON COLUMN monitoring.login_attempts.pid IS 'Process of the last.';

CREATE TABLE monitoring.change_log (
	at timestamptz NOT NULL,
	class text NOT NULL,
	command text NOT NULL,
	statement text NOT NULL,
	value text,
	userid oid,
	username text,
	login text,
	database text,
	application text,
	client text,
	pid integer NOT NULL,
	number bigint NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.change_log IS 'Changes of schema, rights, roles, settings and databases. Granted to nobody; see the view changes, which also explains the columns.';
COMMENT ON COLUMN monitoring.change_log.at IS 'When it was committed.';
COMMENT ON COLUMN monitoring.change_log.class IS 'schema, grant, role, setting or database.';
COMMENT ON COLUMN monitoring.change_log.command IS 'The command, such as ALTER TABLE.';
COMMENT ON COLUMN monitoring.change_log.statement IS 'Its text without literals.';
COMMENT ON COLUMN monitoring.change_log.value IS 'New value of a setting, if it is a number or a boolean.';
COMMENT ON COLUMN monitoring.change_log.userid IS 'Role with whose rights it ran.';
COMMENT ON COLUMN monitoring.change_log.username IS 'Name of that role.';
COMMENT ON COLUMN monitoring.change_log.login IS 'Role that had logged in.';
COMMENT ON COLUMN monitoring.change_log.database IS 'Database it was made in.';
COMMENT ON COLUMN monitoring.change_log.application IS 'Name of the application.';
COMMENT ON COLUMN monitoring.change_log.client IS 'Address of the client.';
COMMENT ON COLUMN monitoring.change_log.pid IS 'Process.';
COMMENT ON COLUMN monitoring.change_log.number IS 'Order within the same instant.';

CREATE TABLE monitoring.slow_execution_log (
	at timestamptz NOT NULL,
	started_at timestamptz NOT NULL,
	queryid bigint NOT NULL,
	toplevel boolean NOT NULL,
	outcome text NOT NULL,
	sqlstate text,
	duration_seconds float8 NOT NULL,
	preparing_seconds float8 NOT NULL,
	planning_seconds float8 NOT NULL,
	rows bigint NOT NULL,
	shared_hit_bytes bigint NOT NULL,
	shared_read_bytes bigint NOT NULL,
	shared_dirtied_bytes bigint NOT NULL,
	shared_written_bytes bigint NOT NULL,
	local_read_bytes bigint NOT NULL,
	local_written_bytes bigint NOT NULL,
	temp_read_bytes bigint NOT NULL,
	temp_written_bytes bigint NOT NULL,
	wal_bytes bigint NOT NULL,
	io_read_seconds float8 NOT NULL,
	io_write_seconds float8 NOT NULL,
	jit_seconds float8 NOT NULL,
	wait_samples bigint NOT NULL,
	waits jsonb,
	blocked_by_pid integer,
	userid oid,
	username text,
	login text,
	database text NOT NULL,
	application text,
	client text,
	pid integer NOT NULL,
	correlation_id text,
	traceparent text,
	statement text NOT NULL,
	plan_hash bigint,
	plan text,
	number bigint NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.slow_execution_log IS 'Executions that took monitoring.slow_query_threshold or longer. Granted to nobody; see the view slow_executions.';
COMMENT ON COLUMN monitoring.slow_execution_log.at IS 'When it ended.';
COMMENT ON COLUMN monitoring.slow_execution_log.started_at IS 'When it began to be executed; of one that a client sent, after preparing_seconds.';
COMMENT ON COLUMN monitoring.slow_execution_log.queryid IS 'Identity of the statement, as in pg_stat_activity and in the view statements.';
COMMENT ON COLUMN monitoring.slow_execution_log.toplevel IS 'True if sent by a client, false if run inside a function or another statement.';
COMMENT ON COLUMN monitoring.slow_execution_log.outcome IS 'ok, error, cancelled (also by a timeout) or terminated (with its session).';
COMMENT ON COLUMN monitoring.slow_execution_log.sqlstate IS 'SQLSTATE of the error that it ended by.';
COMMENT ON COLUMN monitoring.slow_execution_log.duration_seconds IS 'Time of the execution, without that in which a portal waits for its client.';
COMMENT ON COLUMN monitoring.slow_execution_log.preparing_seconds IS 'Time from the arrival of the statement to the begin of its execution: parsing, planning, and waiting for locks on tables. Exact to a tick of the kernel (4 ms as a rule) unless monitoring.slow_query_threshold is below 100 ms. Of those inside functions, planning only.';
COMMENT ON COLUMN monitoring.slow_execution_log.planning_seconds IS 'Time of planning; 0 if it had a plan.';
COMMENT ON COLUMN monitoring.slow_execution_log.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.slow_execution_log.shared_hit_bytes IS 'Bytes found in shared buffers.';
COMMENT ON COLUMN monitoring.slow_execution_log.shared_read_bytes IS 'Bytes read into shared buffers.';
COMMENT ON COLUMN monitoring.slow_execution_log.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied.';
COMMENT ON COLUMN monitoring.slow_execution_log.shared_written_bytes IS 'Bytes of shared buffers that it had to write itself.';
COMMENT ON COLUMN monitoring.slow_execution_log.local_read_bytes IS 'Bytes of temporary tables read.';
COMMENT ON COLUMN monitoring.slow_execution_log.local_written_bytes IS 'Bytes of temporary tables written.';
COMMENT ON COLUMN monitoring.slow_execution_log.temp_read_bytes IS 'Bytes read from temporary files.';
COMMENT ON COLUMN monitoring.slow_execution_log.temp_written_bytes IS 'Bytes written to temporary files.';
COMMENT ON COLUMN monitoring.slow_execution_log.wal_bytes IS 'Bytes of write-ahead log.';
COMMENT ON COLUMN monitoring.slow_execution_log.io_read_seconds IS 'Time spent reading blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.slow_execution_log.io_write_seconds IS 'Time spent writing blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.slow_execution_log.jit_seconds IS 'Time spent in just-in-time compilation.';
COMMENT ON COLUMN monitoring.slow_execution_log.wait_samples IS 'How often its session was looked at meanwhile; 0 if it was not.';
COMMENT ON COLUMN monitoring.slow_execution_log.waits IS 'What it was found at, and how often: {"Lock:relation": 12, "CPU": 3}; at most 8.';
COMMENT ON COLUMN monitoring.slow_execution_log.blocked_by_pid IS 'Session that it waited for, the latest; -1: a prepared transaction.';
COMMENT ON COLUMN monitoring.slow_execution_log.userid IS 'Role with whose rights it ran.';
COMMENT ON COLUMN monitoring.slow_execution_log.username IS 'Name of that role.';
COMMENT ON COLUMN monitoring.slow_execution_log.login IS 'Role that had logged in.';
COMMENT ON COLUMN monitoring.slow_execution_log.database IS 'Database.';
COMMENT ON COLUMN monitoring.slow_execution_log.application IS 'Name of the application.';
COMMENT ON COLUMN monitoring.slow_execution_log.client IS 'Address of the client.';
COMMENT ON COLUMN monitoring.slow_execution_log.pid IS 'Process.';
COMMENT ON COLUMN monitoring.slow_execution_log.correlation_id IS 'monitoring.correlation_id of the session at the end.';
COMMENT ON COLUMN monitoring.slow_execution_log.traceparent IS 'W3C trace context that a comment of the statement gave: /*traceparent=''00-...''*/.';
COMMENT ON COLUMN monitoring.slow_execution_log.statement IS 'Its text, at most 4096 bytes; without literals unless monitoring.slow_query_literals was on.';
COMMENT ON COLUMN monitoring.slow_execution_log.plan_hash IS 'What plans of the same shape have in common; null without a plan.';
COMMENT ON COLUMN monitoring.slow_execution_log.plan IS 'Its plan as EXPLAIN shows it, at most 8192 bytes, with monitoring.slow_query_plans on.';
COMMENT ON COLUMN monitoring.slow_execution_log.number IS 'Order within the same instant.';

INSERT INTO monitoring.retention_policies (relation, partition_step, keep, indexes) VALUES
	('server_errors', '1 day', '30 days', '{(at),"(issue, at)"}'),
	('login_attempts', '1 day', '90 days', '{(at)}'),
	('change_log', '7 days', '400 days', '{(at)}'),
	('slow_execution_log', '1 day', '14 days', '{(at),"(queryid, at)"}');

----------------------------------------------------------------------------------------------------------------------
-- Draining
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.login_failure_reason(sqlstate text, template text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN sqlstate = '28P01' THEN 'password'
		WHEN sqlstate = '28000' AND template ~ 'pg_hba.conf|host rejected' THEN 'pg_hba'
		WHEN sqlstate = '28000' AND template ~ '^role .* does not exist' THEN 'role'
		WHEN sqlstate = '28000' AND template ~ 'not permitted to log in' THEN 'nologin'
		WHEN sqlstate = '28000' THEN 'authentication'
		WHEN sqlstate = '3D000' THEN 'database'
		WHEN sqlstate = '53300' THEN 'too_many_connections'
		WHEN sqlstate = '42501' THEN 'not_permitted'
		WHEN sqlstate IN ('57P03', '57P01', '57P02') THEN 'server_not_ready'
		WHEN sqlstate LIKE '08%' THEN 'protocol'
		WHEN sqlstate = '57014' THEN 'timeout'
		ELSE 'other'
	END
$$;
COMMENT ON FUNCTION monitoring.login_failure_reason(text, text) IS 'Why a log-in failed, by the SQLSTATE of the error and the format of its message: password, role, nologin, pg_hba, authentication, database, not_permitted, too_many_connections, server_not_ready, protocol, timeout, other.';

CREATE FUNCTION monitoring.login_refusal_reason(method text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN method IN ('password', 'md5', 'scram-sha-256') THEN 'password' ELSE 'authentication' END
$$;
COMMENT ON FUNCTION monitoring.login_refusal_reason(text) IS 'Why authentication with this method failed: password, or authentication for methods without one.';

CREATE FUNCTION monitoring.record_signal_counts() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET monitoring.transactional = off AS $$
DECLARE
	c record;
	labels jsonb;
BEGIN
	-- What is recorded stays recorded whatever becomes of the transaction, and so does the note that it is.
	FOR c IN SELECT s.*, d.datname FROM monitoring.signal_counts(false) AS s LEFT JOIN pg_database AS d ON d.oid = s.dbid LOOP
		CASE c.kind
		WHEN 'error' THEN
			labels := jsonb_build_object('database', coalesce(c.datname, ''), 'severity', c.level, 'sqlstate', c.code, 'sqlstate_class', left(c.code, 2));
			PERFORM monitoring.increment('pg_errors_total', c.fresh, labels);
			IF c.fresh_dropped > 0 THEN
				PERFORM monitoring.increment('pg_errors_not_stored_total', c.fresh_dropped, labels);
			END IF;
		WHEN 'login' THEN
			PERFORM monitoring.increment('pg_logins_total', c.fresh, jsonb_build_object('outcome', CASE c.code WHEN 'ok' THEN 'ok' ELSE 'failed' END));
			IF c.code <> 'ok' THEN
				PERFORM monitoring.increment('pg_login_failures_total', c.fresh, jsonb_build_object('reason',
					CASE c.code WHEN 'refused' THEN 'password' ELSE monitoring.login_failure_reason(c.level, '') END));
			END IF;
		WHEN 'execution' THEN
			labels := jsonb_build_object('database', coalesce(c.datname, ''));
			PERFORM monitoring.increment('pg_slow_executions_total', c.fresh, labels);
			IF c.fresh_dropped > 0 THEN
				PERFORM monitoring.increment('pg_slow_executions_not_stored_total', c.fresh_dropped, labels);
			END IF;
		ELSE
			PERFORM monitoring.increment('pg_changes_total', c.fresh, jsonb_build_object('database', coalesce(c.datname, ''), 'class', c.code));
		END CASE;
		PERFORM monitoring.signal_recorded(c.place, c.total, c.dropped);
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.record_signal_counts() IS 'Records as metrics what has been counted since the last time: pg_errors_total, pg_errors_not_stored_total, pg_logins_total, pg_login_failures_total, pg_slow_executions_total, pg_slow_executions_not_stored_total, pg_changes_total.';

CREATE FUNCTION monitoring.store_signals(taken monitoring.signal[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH named AS MATERIALIZED (
		SELECT s.*, coalesce(d.datname, s.database, '') AS dbname, CASE s.userid WHEN 0 THEN s.login ELSE pg_get_userbyid(s.userid) END AS username, nullif(s.userid, 0) AS role
		FROM unnest(taken) AS s
		LEFT JOIN pg_database AS d ON d.oid = s.dbid
	), alike AS MATERIALIZED (
		SELECT min(n.at) AS at, max(n.at) AS last_at, count(*) AS occurrences, n.issue, n.level, n.code, coalesce(n.message, '') AS message, n.detail, n.hint, n.statement, n.context,
			n.schema_name, n.table_name, n.column_name, n.datatype_name, n.constraint_name, n.role, n.username, n.dbname,
			n.application, n.client, n.pid, n.backend_type, n.queryid,
			row_number() OVER (PARTITION BY n.issue, n.dbname ORDER BY min(n.number)) AS place, min(n.number) AS number
		FROM named AS n
		WHERE n.kind = 'error'
		GROUP BY n.issue, n.level, n.code, n.message, n.detail, n.hint, n.statement, n.context, n.schema_name, n.table_name, n.column_name,
			n.datatype_name, n.constraint_name, n.role, n.username, n.dbname, n.application, n.client, n.pid, n.backend_type, n.queryid
	), lately AS MATERIALIZED (
		SELECT i.issue, i.dbname, count(e.at) AS stored
		FROM (SELECT a.issue, a.dbname, min(a.at) AS at FROM alike AS a GROUP BY a.issue, a.dbname) AS i
		LEFT JOIN monitoring.server_errors AS e ON e.issue = i.issue AND e.database = i.dbname
			AND e.at > i.at - interval '1 minute' AND e.at <= i.at + interval '1 minute'
		GROUP BY i.issue, i.dbname
	), limited AS MATERIALIZED (
		SELECT a.*, l.stored + a.place <= current_setting('monitoring.errors_per_issue')::integer AS kept
		FROM alike AS a
		JOIN lately AS l ON l.issue = a.issue AND l.dbname = a.dbname
	), stored AS (
		INSERT INTO monitoring.server_errors (at, last_at, occurrences, issue, severity, sqlstate, message, detail, hint, statement, context,
			schema_name, table_name, column_name, datatype_name, constraint_name, userid, username, database, application, client, pid,
			backend_type, queryid)
		SELECT a.at, a.last_at, a.occurrences, a.issue, a.level, a.code, a.message, a.detail, a.hint, a.statement, a.context, a.schema_name,
			a.table_name, a.column_name, a.datatype_name, a.constraint_name, a.role, a.username, a.dbname, a.application, a.client, a.pid,
			a.backend_type, a.queryid
		FROM limited AS a
		WHERE a.kept
		ORDER BY a.number
	), grouped AS (
		INSERT INTO monitoring.error_issue_states AS i (issue, database, severity, sqlstate, title, place, first_seen, last_seen, occurrences,
			users, last_message, last_userid, not_stored)
		SELECT n.issue, n.dbname, (array_agg(n.level ORDER BY n.number DESC))[1], n.code, min(n.title),
			coalesce(min(n.constraint_name), min(concat_ws('.', n.schema_name, n.table_name, n.column_name)) FILTER (WHERE n.table_name IS NOT NULL),
				min(concat_ws('.', n.schema_name, n.datatype_name)) FILTER (WHERE n.datatype_name IS NOT NULL), min(n.place)),
			min(n.at), max(n.at), count(*), coalesce((array_agg(DISTINCT n.username) FILTER (WHERE n.username IS NOT NULL))[:100], '{}'),
			(array_agg(n.message ORDER BY n.number DESC))[1], (array_agg(n.role ORDER BY n.number DESC))[1],
			coalesce((SELECT sum(a.occurrences) FROM limited AS a WHERE a.issue = n.issue AND a.dbname = n.dbname AND NOT a.kept), 0)
		FROM (SELECT m.*, max(m.number) OVER (PARTITION BY m.issue, m.dbname) AS last FROM named AS m WHERE m.kind = 'error') AS n
		GROUP BY n.issue, n.dbname, n.code
		ON CONFLICT (issue, database) DO UPDATE SET
			severity = excluded.severity,
			first_seen = least(i.first_seen, excluded.first_seen), last_seen = greatest(i.last_seen, excluded.last_seen),
			occurrences = i.occurrences + excluded.occurrences, not_stored = i.not_stored + excluded.not_stored,
			users = ARRAY(SELECT u FROM unnest(i.users || excluded.users) AS u GROUP BY u ORDER BY u LIMIT 100),
			last_message = excluded.last_message, last_userid = excluded.last_userid,
			-- what happened before somebody said that it was resolved does not count
			regressions = i.regressions + (i.state = 'resolved' AND excluded.last_seen > i.state_at)::integer,
			regressed_at = CASE WHEN i.state = 'resolved' AND excluded.last_seen > i.state_at THEN excluded.last_seen ELSE i.regressed_at END,
			state = CASE WHEN i.state = 'resolved' AND excluded.last_seen > i.state_at THEN 'unresolved' ELSE i.state END
	), logins AS (
		INSERT INTO monitoring.login_attempts (at, last_at, attempts, outcome, reason, sqlstate, message, username, database, client, application, pid)
		SELECT min(n.at), max(n.at), count(*), CASE n.code WHEN 'ok' THEN 'ok' ELSE 'failed' END,
			CASE n.code WHEN 'ok' THEN coalesce(n.template, '') WHEN 'refused' THEN monitoring.login_refusal_reason(n.template)
				ELSE monitoring.login_failure_reason(n.level, n.template) END,
			nullif(n.level, ''), n.message, n.login, n.database, n.client, n.application, max(n.pid)
		FROM named AS n
		WHERE n.kind = 'login'
		GROUP BY n.code, n.level, n.template, n.message, n.login, n.database, n.client, n.application
	), executions AS (
		INSERT INTO monitoring.slow_execution_log
		SELECT n.at, (n.execution).started_at, n.queryid, (n.execution).toplevel,
			(n.execution).outcome, (n.execution).sqlstate, (n.execution).duration_seconds, (n.execution).preparing_seconds, (n.execution).planning_seconds,
			(n.execution).rows, (n.execution).shared_hit_bytes, (n.execution).shared_read_bytes, (n.execution).shared_dirtied_bytes,
			(n.execution).shared_written_bytes, (n.execution).local_read_bytes, (n.execution).local_written_bytes,
			(n.execution).temp_read_bytes, (n.execution).temp_written_bytes, (n.execution).wal_bytes, (n.execution).io_read_seconds,
			(n.execution).io_write_seconds, (n.execution).jit_seconds, (n.execution).wait_samples, (n.execution).waits,
			(n.execution).blocked_by_pid, n.role, n.username, n.login, n.dbname, n.application, n.client, n.pid, n.correlation_id,
			n.traceparent, coalesce(n.statement, ''), (n.execution).plan_hash, n.plan, n.number
		FROM named AS n
		WHERE n.kind = 'execution'
	)
	INSERT INTO monitoring.change_log (at, class, command, statement, value, userid, username, login, database, application, client, pid, number)
	SELECT n.at, n.code, coalesce(n.template, ''), coalesce(n.statement, ''), n.detail, n.role, n.username, n.login, n.dbname, n.application,
		n.client, n.pid, n.number
	FROM named AS n
	WHERE n.kind = 'change'
$$;
COMMENT ON FUNCTION monitoring.store_signals(monitoring.signal[]) IS 'Writes signals into server_errors, error_issue_states, login_attempts, slow_execution_log and change_log. An issue that was resolved before it happened again is unresolved from then on, and counted as a regression.';

CREATE FUNCTION monitoring.drain_signals(max integer DEFAULT 4096) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	stored bigint;
	taken monitoring.signal[];
	one monitoring.signal;
BEGIN
	SELECT s.seq INTO stored FROM monitoring.signal_state AS s FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN 0;
	END IF;
	PERFORM monitoring.record_signal_counts();
	SELECT array_agg(t) INTO taken FROM monitoring.take_signals(stored, max) AS t;
	IF taken IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM monitoring.ensure_partition(p.relation, p.day)
	FROM (SELECT DISTINCT CASE s.kind WHEN 'error' THEN 'server_errors' WHEN 'login' THEN 'login_attempts'
			WHEN 'execution' THEN 'slow_execution_log' ELSE 'change_log' END AS relation,
			date_trunc('day', s.at, 'UTC') AS day
		FROM unnest(taken) AS s
		-- as all who need several take their locks
		ORDER BY 1, 2) AS p;
	BEGIN
		PERFORM monitoring.store_signals(taken);
	-- one that cannot be stored must not keep the others in memory for ever
	EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
		FOREACH one IN ARRAY taken LOOP
			BEGIN
				PERFORM monitoring.store_signals(ARRAY[one]);
			EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
				RAISE WARNING 'a signal (%) could not be stored: %', one.kind, SQLERRM;
			END;
		END LOOP;
	END;
	UPDATE monitoring.signal_state AS s SET seq = stored + 1;
	RETURN cardinality(taken);
END $$;
COMMENT ON FUNCTION monitoring.drain_signals(integer) IS 'Stores at most max of the errors, log-ins, changes and slow executions that this database''s worker has to store, and records how many there were; returns how many were stored, 0 also while another session is at it. The worker does it every second.';

CREATE FUNCTION monitoring.drain_signals_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF monitoring.signals_waiting() THEN
		PERFORM monitoring.drain_signals();
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drain_signals_job(timestamptz) IS 'Job of the worker: drain_signals() if there may be something.';

INSERT INTO monitoring.jobs (name, function, every, priority, durable, run_at_shutdown)
	VALUES ('signals', 'monitoring.drain_signals_job', '1 second', 8, false, true);
