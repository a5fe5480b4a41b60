
-- sessions: those that have gone on for too long, what holds back vacuum, and how many there are against the limits.

CREATE TABLE monitoring.session_limit_defs (
	problem text PRIMARY KEY,
	warning interval CHECK (warning > '0'),
	critical interval CHECK (critical > '0'),
	ignored_applications text,
	description text NOT NULL
);
COMMENT ON TABLE monitoring.session_limit_defs IS 'The rows of the view session_limits, which also explains the columns, and by which they are changed.';
COMMENT ON COLUMN monitoring.session_limit_defs.problem IS 'Name of the problem.';
COMMENT ON COLUMN monitoring.session_limit_defs.warning IS 'From here on it is worth a warning; null: never.';
COMMENT ON COLUMN monitoring.session_limit_defs.critical IS 'From here on it is critical; null: never.';
COMMENT ON COLUMN monitoring.session_limit_defs.ignored_applications IS 'Regular expression: sessions whose application_name matches are left out; null: none.';
COMMENT ON COLUMN monitoring.session_limit_defs.description IS 'What the problem is.';
INSERT INTO monitoring.session_limit_defs VALUES
	('long transaction', '5 minutes', '30 minutes', '^(pg_dump|pg_restore)', 'A transaction keeps vacuum from removing what was deleted since it began.'),
	('idle in transaction', '1 minute', '10 minutes', NULL, 'A client has begun a transaction and does nothing; what it has locked stays locked.'),
	('lock wait', '10 seconds', '1 minute', NULL, 'A session waits for a lock; see blocking_tree.'),
	('client does not read', '1 minute', '10 minutes', '^(pg_dump|pg_restore)', 'A statement waits for its client to take the result.'),
	('synchronous replication', '10 seconds', '1 minute', NULL, 'A commit waits for a standby.'),
	('prepared transaction', '10 minutes', '1 hour', NULL, 'A transaction was prepared and neither committed nor rolled back.');

SELECT pg_catalog.pg_extension_config_dump('monitoring.session_limit_defs', '');

CREATE TRIGGER restore BEFORE INSERT ON monitoring.session_limit_defs
FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
EXECUTE FUNCTION monitoring.take_over('problem', 'warning', 'critical', 'ignored_applications');
COMMENT ON TRIGGER restore ON monitoring.session_limit_defs IS 'Takes over changed limits when a dump is restored.';

CREATE VIEW monitoring.session_limits AS
	SELECT l.problem, l.warning, l.critical, l.ignored_applications, l.description
	FROM monitoring.session_limit_defs AS l;
COMMENT ON VIEW monitoring.session_limits IS 'What problem_sessions finds: update it to change the limits.';
SELECT monitoring.inherit_comments('monitoring.session_limits', 'monitoring.session_limit_defs');

----------------------------------------------------------------------------------------------------------------------
-- What has gone on for too long
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.problem_sessions_at(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (problem text, level text, seconds float8, pid integer, gid text, database name, username name, application text, client inet,
	state text, wait_event_type text, wait_event text, blocks integer, xmin_age integer, query text, description text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' SET jit = off AS $$
	WITH sessions AS MATERIALIZED (
		SELECT a.* FROM pg_stat_activity AS a WHERE a.backend_type IN ('client backend', 'parallel worker') AND a.leader_pid IS NULL
	), tree AS MATERIALIZED (
		SELECT t.* FROM monitoring.blocking_tree_at(problem_sessions_at.at) AS t
	), found AS (
		SELECT 'long transaction' AS problem, s.pid, s.xact_start AS since FROM sessions AS s WHERE s.xact_start IS NOT NULL
		UNION ALL
		SELECT 'idle in transaction', s.pid, s.state_change FROM sessions AS s WHERE s.state IN ('idle in transaction', 'idle in transaction (aborted)')
		UNION ALL
		SELECT 'lock wait', t.pid, t.waiting_since FROM tree AS t WHERE t.depth > 0 OR t.deadlock
		UNION ALL
		SELECT 'client does not read', s.pid, s.query_start FROM sessions AS s WHERE s.state = 'active' AND s.wait_event = 'ClientWrite'
		UNION ALL
		SELECT 'synchronous replication', s.pid, s.query_start FROM sessions AS s WHERE s.state = 'active' AND s.wait_event = 'SyncRep'
	), described AS (
		SELECT f.problem, f.since, s.pid, NULL AS gid, s.datname, s.usename, s.application_name, s.client_addr, s.state, s.wait_event_type,
			s.wait_event, t.blocks, age(s.backend_xmin) AS xmin_age, s.query
		FROM found AS f
		JOIN sessions AS s ON s.pid = f.pid
		LEFT JOIN tree AS t ON t.pid = f.pid
		WHERE s.pid <> pg_backend_pid()
		UNION ALL
		SELECT 'prepared transaction', x.prepared, NULL, x.gid, x.database, x.owner, '', NULL, 'prepared', NULL, NULL, t.blocks, age(x.transaction), NULL
		FROM pg_prepared_xacts AS x
		LEFT JOIN tree AS t ON t.gid = x.gid
	), measured AS (
		SELECT d.*, l.warning, l.critical, l.description, extract(epoch FROM problem_sessions_at.at - d.since)::float8 AS seconds
		FROM described AS d
		JOIN monitoring.session_limits AS l ON l.problem = d.problem
		WHERE coalesce(d.application_name, '') !~ l.ignored_applications OR l.ignored_applications IS NULL
	)
	SELECT m.problem, CASE WHEN m.seconds >= extract(epoch FROM m.critical) THEN 'critical' ELSE 'warning' END,
		m.seconds, m.pid, m.gid, m.datname, m.usename, m.application_name, m.client_addr, m.state, m.wait_event_type, m.wait_event,
		coalesce(m.blocks, 0), m.xmin_age,
		CASE WHEN m.query = '<insufficient privilege>' THEN m.query ELSE monitoring.without_literals(m.query) END,
		format('%s: %s for %s%s. %s', m.problem,
			CASE WHEN m.gid IS NOT NULL THEN format('%L', m.gid)
				ELSE format('pid %s (%s)', m.pid, concat_ws(', ', nullif(m.application_name, ''), m.usename, m.datname)) END,
			monitoring.duration_text(m.seconds),
			CASE WHEN m.blocks > 0 THEN format(', which blocks %s', m.blocks) ELSE '' END, m.description)
	FROM measured AS m
	WHERE m.seconds >= extract(epoch FROM least(m.warning, m.critical))
	ORDER BY 2, m.blocks DESC NULLS LAST, m.seconds DESC
$$;
COMMENT ON FUNCTION monitoring.problem_sessions_at(timestamptz) IS 'Sessions that have been in a state for longer than session_limits allows; for the columns see the view problem_sessions. Durations are until at.';

CREATE VIEW monitoring.problem_sessions AS
	SELECT p.problem, p.level, p.seconds, p.pid, p.gid, p.database, p.username, p.application, p.client, p.state, p.wait_event_type,
		p.wait_event, p.blocks, p.xmin_age, p.query, p.description
	FROM monitoring.problem_sessions_at() AS p;
COMMENT ON VIEW monitoring.problem_sessions IS 'Sessions and prepared transactions that have gone on for too long, as session_limits has it, critical ones first. A session can have several problems. What other roles'' sessions do is hidden without the rights of pg_read_all_stats.';
COMMENT ON COLUMN monitoring.problem_sessions.problem IS 'Name of the problem, as in session_limits.';
COMMENT ON COLUMN monitoring.problem_sessions.level IS 'critical or warning.';
COMMENT ON COLUMN monitoring.problem_sessions.seconds IS 'For how long; of a client that does not read and of a commit that waits for a standby, age of the statement.';
COMMENT ON COLUMN monitoring.problem_sessions.pid IS 'Process id; null for a prepared transaction.';
COMMENT ON COLUMN monitoring.problem_sessions.gid IS 'Name of the prepared transaction.';
COMMENT ON COLUMN monitoring.problem_sessions.database IS 'Its database.';
COMMENT ON COLUMN monitoring.problem_sessions.username IS 'Its role.';
COMMENT ON COLUMN monitoring.problem_sessions.application IS 'application_name.';
COMMENT ON COLUMN monitoring.problem_sessions.client IS 'Address of the client; null over a Unix socket.';
COMMENT ON COLUMN monitoring.problem_sessions.state IS 'As in pg_stat_activity, or prepared.';
COMMENT ON COLUMN monitoring.problem_sessions.wait_event_type IS 'As in pg_stat_activity.';
COMMENT ON COLUMN monitoring.problem_sessions.wait_event IS 'As in pg_stat_activity.';
COMMENT ON COLUMN monitoring.problem_sessions.blocks IS 'Sessions that wait behind it.';
COMMENT ON COLUMN monitoring.problem_sessions.xmin_age IS 'Transactions since the oldest that it may still look at: vacuum removes nothing that was deleted since.';
COMMENT ON COLUMN monitoring.problem_sessions.query IS 'Its latest statement without literals; hidden as in pg_stat_activity.';
COMMENT ON COLUMN monitoring.problem_sessions.description IS 'The row as a sentence.';

CREATE VIEW monitoring.xmin_holders AS
	SELECT h.kind, h.name, h.pid, h.database, h.username, h.xmin_age, h.catalog_xmin_age, h.since,
		h.remedy
	FROM (
		SELECT CASE a.backend_type WHEN 'walsender' THEN 'standby' ELSE 'session' END AS kind,
			coalesce(nullif(a.application_name, ''), a.backend_type) AS name, a.pid, a.datname AS database, a.usename AS username,
			pg_catalog.age(a.backend_xmin) AS xmin_age, NULL::integer AS catalog_xmin_age, a.xact_start AS since,
			CASE a.backend_type WHEN 'walsender' THEN 'Look for long queries on the standby, or turn off its hot_standby_feedback.'
				WHEN 'client backend' THEN 'End the transaction: see problem_sessions and kill_advice.'
				ELSE 'It ends by itself.' END AS remedy
		FROM pg_catalog.pg_stat_activity AS a
		WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
		UNION ALL
		SELECT 'slot', s.slot_name, s.active_pid, s.database, NULL, pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin), NULL,
			CASE WHEN s.active THEN 'Look why its consumer does not get on.' ELSE pg_catalog.format('If nobody needs it: SELECT pg_drop_replication_slot(%L).', s.slot_name) END
		FROM pg_catalog.pg_replication_slots AS s
		WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
		UNION ALL
		SELECT 'prepared transaction', x.gid, NULL, x.database, x.owner, pg_catalog.age(x.transaction), NULL, x.prepared,
			pg_catalog.format('Commit it or roll it back in database %I.', x.database)
		FROM pg_catalog.pg_prepared_xacts AS x
	) AS h
	ORDER BY greatest(h.xmin_age, h.catalog_xmin_age) DESC;
COMMENT ON VIEW monitoring.xmin_holders IS 'What keeps vacuum from removing dead rows: sessions, standbys, replication slots and prepared transactions that still look at old ones, the oldest first.';
COMMENT ON COLUMN monitoring.xmin_holders.kind IS 'session, standby, slot or prepared transaction.';
COMMENT ON COLUMN monitoring.xmin_holders.name IS 'application_name or backend type, name of the slot or of the prepared transaction.';
COMMENT ON COLUMN monitoring.xmin_holders.pid IS 'Process id, if there is one.';
COMMENT ON COLUMN monitoring.xmin_holders.database IS 'Its database.';
COMMENT ON COLUMN monitoring.xmin_holders.username IS 'Its role.';
COMMENT ON COLUMN monitoring.xmin_holders.xmin_age IS 'Transactions since the oldest whose effects it may not see.';
COMMENT ON COLUMN monitoring.xmin_holders.catalog_xmin_age IS 'The same for rows of catalogs alone, as logical slots have it.';
COMMENT ON COLUMN monitoring.xmin_holders.since IS 'Start of its transaction, if known.';
COMMENT ON COLUMN monitoring.xmin_holders.remedy IS 'What to do.';

----------------------------------------------------------------------------------------------------------------------
-- How many there are
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.connection_pool_at(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (scope text, name text, connections integer, active integer, waiting integer, idle integer, idle_in_transaction integer,
	max_connections integer, used_ratio float8, longest_idle_seconds float8, hint text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
	WITH sessions AS MATERIALIZED (
		SELECT a.datname, a.usename, nullif(a.application_name, '') AS application, a.state, a.wait_event_type, a.state_change
		FROM pg_stat_activity AS a
		WHERE a.backend_type = 'client backend'
	), named AS (
		SELECT v.scope, v.name, s.state, s.wait_event_type, s.state_change
		FROM sessions AS s
		CROSS JOIN LATERAL (VALUES ('server', 'all'), ('database', s.datname::text), ('role', s.usename::text),
			('application', coalesce(s.application, '')), ('state', coalesce(s.state, 'hidden'))) AS v (scope, name)
	), counted AS (
		SELECT n.scope, n.name, count(*)::integer AS connections,
			(count(*) FILTER (WHERE n.state IN ('active', 'fastpath function call')))::integer AS active,
			(count(*) FILTER (WHERE n.state = 'active' AND n.wait_event_type = 'Lock'))::integer AS waiting,
			(count(*) FILTER (WHERE n.state = 'idle'))::integer AS idle,
			(count(*) FILTER (WHERE n.state LIKE 'idle in transaction%'))::integer AS in_transaction,
			max(extract(epoch FROM connection_pool_at.at - n.state_change)) FILTER (WHERE n.state = 'idle') AS longest_idle
		FROM named AS n
		GROUP BY n.scope, n.name
	), limited AS (
		SELECT c.*, CASE c.scope
				WHEN 'server' THEN current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
					- coalesce(current_setting('reserved_connections', true), '0')::integer
				WHEN 'database' THEN (SELECT nullif(d.datconnlimit, -1) FROM pg_database AS d WHERE d.datname = c.name)
				WHEN 'role' THEN (SELECT nullif(r.rolconnlimit, -1) FROM pg_roles AS r WHERE r.rolname = c.name)
			END AS most
		FROM counted AS c
	)
	SELECT l.scope, l.name, l.connections, l.active, l.waiting, l.idle, l.in_transaction, l.most, l.connections / nullif(l.most, 0)::float8,
		l.longest_idle::float8,
		CASE
			WHEN l.waiting >= 5 AND l.waiting * 2 > l.active THEN 'Most active sessions wait for locks: see blocking_tree.'
			WHEN l.in_transaction >= 5 AND l.in_transaction * 2 > l.connections THEN 'Most sessions are idle in transaction: the application should commit sooner, or set idle_in_transaction_session_timeout.'
			WHEN l.connections >= l.most * 0.8 AND l.idle * 2 > l.connections THEN 'Nearly full, mostly of idle sessions: make the pools of clients smaller, or put a pooler such as PgBouncer in front.'
			WHEN l.connections >= l.most * 0.8 AND l.scope = 'server' THEN 'Nearly full: raise max_connections, or put a pooler such as PgBouncer in front.'
			WHEN l.connections >= l.most * 0.8 THEN 'Nearly full: raise its CONNECTION LIMIT, or see who needs so many.'
			WHEN l.scope = 'application' AND l.idle >= 50 AND l.idle > l.connections * 0.9 THEN 'Its pool is larger than it needs.'
		END
	FROM limited AS l
	ORDER BY array_position(ARRAY['server', 'database', 'role', 'application', 'state'], l.scope), l.connections DESC, l.name
$$;
COMMENT ON FUNCTION monitoring.connection_pool_at(timestamptz) IS 'Client connections against their limits; for the columns see the view connection_pool. Durations are until at.';

CREATE VIEW monitoring.connection_pool AS
	SELECT c.scope, c.name, c.connections, c.active, c.waiting, c.idle, c.idle_in_transaction, c.max_connections, c.used_ratio,
		c.longest_idle_seconds, c.hint
	FROM monitoring.connection_pool_at() AS c;
COMMENT ON VIEW monitoring.connection_pool IS 'Client connections of the whole server against their limits: a row for the server, and one for each database, role, application and state that has some.';
COMMENT ON COLUMN monitoring.connection_pool.scope IS 'server, database, role, application or state: each has all connections.';
COMMENT ON COLUMN monitoring.connection_pool.name IS 'Which one; of the server, all. Sessions whose state one may not see have the state hidden, and are connections only.';
COMMENT ON COLUMN monitoring.connection_pool.connections IS 'Client connections.';
COMMENT ON COLUMN monitoring.connection_pool.active IS 'Of these, run a statement.';
COMMENT ON COLUMN monitoring.connection_pool.waiting IS 'Of the active, wait for a lock.';
COMMENT ON COLUMN monitoring.connection_pool.idle IS 'Wait for their client, in no transaction.';
COMMENT ON COLUMN monitoring.connection_pool.idle_in_transaction IS 'Wait for their client, in a transaction.';
COMMENT ON COLUMN monitoring.connection_pool.max_connections IS 'How many there may be: max_connections without those reserved, CONNECTION LIMIT of the database or role; null: no limit of its own.';
COMMENT ON COLUMN monitoring.connection_pool.used_ratio IS 'Connections to that limit, ratio 0..1.';
COMMENT ON COLUMN monitoring.connection_pool.longest_idle_seconds IS 'Since when the session idles that has idled for longest, seconds.';
COMMENT ON COLUMN monitoring.connection_pool.hint IS 'What to do; null if nothing.';
