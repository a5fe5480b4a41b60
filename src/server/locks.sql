
-- locks: who waits for whom, and whom to send away.

CREATE FUNCTION monitoring.without_literals(query text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_without_literals';
COMMENT ON FUNCTION monitoring.without_literals(text) IS 'The text of a statement with parameters instead of its literals, without comments, at most 8191 bytes: what may be shown and kept of what somebody else runs.';

CREATE FUNCTION monitoring.duration_text(seconds float8) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN seconds < 10 THEN round(greatest(seconds, 0)::numeric, 1) || ' s'
		WHEN seconds < 120 THEN floor(seconds) || ' s'
		WHEN seconds < 7200 THEN floor(seconds / 60) || ' min'
		WHEN seconds < 172800 THEN floor(seconds / 3600) || ' h'
		ELSE floor(seconds / 86400) || ' days'
	END
$$;
COMMENT ON FUNCTION monitoring.duration_text(float8) IS 'A duration (seconds) for people, in its largest whole unit.';

CREATE FUNCTION monitoring.lock_conflicts(held text, wanted text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE held
		WHEN 'AccessShareLock' THEN wanted = 'AccessExclusiveLock'
		WHEN 'RowShareLock' THEN wanted IN ('ExclusiveLock', 'AccessExclusiveLock')
		WHEN 'RowExclusiveLock' THEN wanted IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		WHEN 'ShareUpdateExclusiveLock' THEN wanted NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
		WHEN 'ShareLock' THEN wanted NOT IN ('AccessShareLock', 'RowShareLock', 'ShareLock')
		WHEN 'ShareRowExclusiveLock' THEN wanted NOT IN ('AccessShareLock', 'RowShareLock')
		WHEN 'ExclusiveLock' THEN wanted <> 'AccessShareLock'
		WHEN 'AccessExclusiveLock' THEN true
	END
$$;
COMMENT ON FUNCTION monitoring.lock_conflicts(text, text) IS 'Whether who holds a lock in one mode is in the way of who wants it in another; modes as in pg_locks. Null for a mode that does not exist.';

CREATE FUNCTION monitoring.lock_object(locktype text, database oid, relation oid, page integer, tuple smallint, transactionid xid, virtualxid text,
	classid oid, objid oid, objsubid smallint) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN locktype = 'advisory' AND objsubid = 1 THEN format('advisory lock %s', (classid::bigint << 32) | objid::bigint)
		WHEN locktype = 'advisory' THEN format('advisory lock (%s, %s)', classid::bigint, objid::bigint)
		WHEN relation IS NOT NULL THEN
			CASE locktype WHEN 'relation' THEN '' WHEN 'tuple' THEN format('row (%s,%s) of ', page, tuple)
				WHEN 'page' THEN format('page %s of ', page) WHEN 'extend' THEN 'extension of ' ELSE locktype || ' of ' END
			|| CASE WHEN database IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())) THEN relation::regclass::text
				ELSE format('relation %s of database %s', relation, (SELECT d.datname FROM pg_database AS d WHERE d.oid = database)) END
		WHEN transactionid IS NOT NULL THEN format('transaction %s', transactionid)
		WHEN virtualxid IS NOT NULL THEN format('virtual transaction %s', virtualxid)
		WHEN classid IS NOT NULL THEN format('%s %s of catalog %s', locktype, objid, classid::regclass)
		ELSE locktype
	END
$$;
COMMENT ON FUNCTION monitoring.lock_object(text, oid, oid, integer, smallint, xid, text, oid, oid, smallint) IS 'What a row of pg_locks is about, in words.';

-- Each session that waits has one parent: of those in its way one that does not wait itself, or else the one that has waited for
-- longest. So there are as many rows as sessions, where all paths would be exponentially many. Prepared transactions are nodes below zero.
CREATE FUNCTION monitoring.blocking_tree_at(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (path text, depth integer, pid integer, gid text, database name, username name, application text, state text,
	blocks integer, blocked_by integer[], waiting_since timestamptz, wait_seconds float8, lock_type text, lock_mode text, object text,
	xact_seconds float8, state_seconds float8, query text, deadlock boolean, description text, root_pid integer, backend_type text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' SET jit = off AS $$
	WITH RECURSIVE locks AS MATERIALIZED (
		SELECT l.* FROM pg_locks AS l
	), sessions AS MATERIALIZED (
		SELECT a.* FROM pg_stat_activity AS a
	), waiting AS MATERIALIZED (
		SELECT DISTINCT ON (w.node) w.*
		FROM (SELECT coalesce(s.leader_pid, l.pid)::bigint AS node, l.*
			FROM locks AS l
			LEFT JOIN sessions AS s ON s.pid = l.pid
			WHERE NOT l.granted) AS w
		ORDER BY w.node, w.waitstart
	), edges AS MATERIALIZED (
		SELECT DISTINCT w.node, CASE WHEN b.pid > 0 THEN b.pid::bigint ELSE coalesce(p.node, 0) END AS blocker
		FROM waiting AS w
		CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b (pid)
		LEFT JOIN LATERAL (
			-- what a prepared transaction has locked goes with its own identity
			SELECT -min(i.transactionid::text::bigint) AS node
			FROM locks AS h
			JOIN locks AS i ON i.virtualtransaction = h.virtualtransaction AND i.pid IS NULL AND i.granted AND i.locktype = 'transactionid'
			WHERE b.pid = 0 AND h.granted AND h.pid IS NULL AND monitoring.lock_conflicts(h.mode, w.mode)
				AND (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid::text, h.classid, h.objid, h.objsubid)
				IS NOT DISTINCT FROM
					(w.locktype, w.database, w.relation, w.page, w.tuple, w.virtualxid, w.transactionid::text, w.classid, w.objid, w.objsubid)
			GROUP BY h.virtualtransaction
		) AS p ON true
	), blocking AS MATERIALIZED (
		SELECT e.node, array_agg(greatest(e.blocker, 0)::integer ORDER BY e.blocker) AS blockers FROM edges AS e GROUP BY e.node
	), parents AS MATERIALIZED (
		SELECT DISTINCT ON (e.node) e.node, e.blocker
		FROM edges AS e
		LEFT JOIN waiting AS w ON w.node = e.blocker
		WHERE e.blocker <> e.node
		ORDER BY e.node, w.node IS NULL DESC, w.waitstart, e.blocker
	), above AS (
		SELECT p.node, p.blocker AS ancestor FROM parents AS p
		UNION
		SELECT a.node, p.blocker FROM above AS a JOIN parents AS p ON p.node = a.ancestor
	), circles AS MATERIALIZED (
		-- who is above himself; what is above him is the circle, and its first is taken as the root
		SELECT a.node, a.node = min(a.ancestor) AS first FROM above AS a GROUP BY a.node HAVING bool_or(a.node = a.ancestor)
	), tree AS (
		SELECT r.node AS root, r.node, ARRAY[r.node] AS nodes
		FROM (SELECT p.blocker AS node FROM parents AS p EXCEPT SELECT p.node FROM parents AS p
			UNION ALL
			SELECT c.node FROM circles AS c WHERE c.first) AS r
		UNION ALL
		SELECT t.root, p.node, t.nodes || p.node
		FROM tree AS t
		JOIN parents AS p ON p.blocker = t.node
		WHERE p.node <> ALL (t.nodes)
	), below AS MATERIALIZED (
		SELECT n.node, count(*) - 1 AS sessions
		FROM tree AS t
		CROSS JOIN LATERAL unnest(t.nodes) AS n (node)
		GROUP BY n.node
	), named AS (
		SELECT t.*, s.pid, s.datname, s.usename, s.application_name, s.state, s.xact_start, s.state_change, s.query AS text, s.backend_type,
			x.gid, x.prepared, x.owner, x.database AS x_database, b.sessions, w.waitstart, w.locktype, w.mode,
			extract(epoch FROM blocking_tree_at.at - coalesce(w.waitstart, blocking_tree_at.at))::float8 AS waited,
			coalesce(
				(SELECT monitoring.lock_object(h.locktype, h.database, h.relation, h.page, h.tuple, NULL, NULL, NULL, NULL, NULL)
					FROM locks AS h WHERE w.locktype = 'transactionid' AND h.pid = w.pid AND h.locktype = 'tuple' AND h.granted LIMIT 1),
				CASE WHEN w.node IS NOT NULL THEN
					monitoring.lock_object(w.locktype, w.database, w.relation, w.page, w.tuple, w.transactionid, w.virtualxid, w.classid, w.objid, w.objsubid)
				END) AS object,
			coalesce(e.blockers, '{}') AS blockers,
			EXISTS (SELECT FROM circles AS c WHERE c.node = t.node) AS circle
		FROM tree AS t
		JOIN below AS b ON b.node = t.node
		LEFT JOIN sessions AS s ON s.pid = t.node
		LEFT JOIN pg_prepared_xacts AS x ON t.node < 0 AND x.transaction::text::bigint = -t.node
		LEFT JOIN waiting AS w ON w.node = t.node
		LEFT JOIN blocking AS e ON e.node = t.node
	), phrased AS (
		SELECT n.*,
			CASE WHEN n.node < 0 THEN format('prepared transaction %L of %s', n.gid, n.owner)
				ELSE format('pid %s (%s)', n.node, concat_ws(', ', nullif(n.application_name, ''), n.usename, nullif(n.backend_type, 'client backend')))
			END AS who,
			CASE WHEN n.node < 0 THEN format('is neither committed nor rolled back since %s',
					monitoring.duration_text(extract(epoch FROM blocking_tree_at.at - n.prepared)::float8))
				WHEN n.state IN ('active', 'fastpath function call') THEN format('runs a statement for %s',
					monitoring.duration_text(extract(epoch FROM blocking_tree_at.at - n.state_change)::float8))
				ELSE format('is %s for %s', coalesce(n.state, 'there'),
					monitoring.duration_text(extract(epoch FROM blocking_tree_at.at - coalesce(n.state_change, n.xact_start))::float8))
			END AS doing
		FROM named AS n
	)
	SELECT (SELECT string_agg(CASE WHEN u.node < 0 THEN 'prepared ' || -u.node ELSE u.node::text END, ' > ' ORDER BY u.i)
			FROM unnest(p.nodes) WITH ORDINALITY AS u (node, i)),
		cardinality(p.nodes) - 1, CASE WHEN p.node > 0 THEN p.node::integer END, p.gid, coalesce(p.datname, p.x_database), coalesce(p.usename, p.owner),
		p.application_name, CASE WHEN p.node < 0 THEN 'prepared' ELSE p.state END, p.sessions::integer, p.blockers, p.waitstart,
		CASE WHEN p.mode IS NOT NULL THEN p.waited END, p.locktype, p.mode, p.object,
		extract(epoch FROM blocking_tree_at.at - coalesce(p.xact_start, p.prepared))::float8,
		extract(epoch FROM blocking_tree_at.at - coalesce(p.state_change, p.prepared))::float8,
		CASE WHEN p.text = '<insufficient privilege>' THEN p.text ELSE monitoring.without_literals(p.text) END,
		p.circle,
		CASE
			WHEN p.circle THEN format('%s waits %s for %s on %s in a circle: the server cancels one of them after deadlock_timeout', p.who,
				monitoring.duration_text(p.waited), p.mode, p.object)
			WHEN p.mode IS NULL THEN format('%s %s and blocks %s', p.who, p.doing,
				CASE p.sessions WHEN 1 THEN '1 session' ELSE p.sessions || ' sessions' END)
			ELSE format('%s waits %s for %s on %s, behind %s%s', p.who, monitoring.duration_text(p.waited), p.mode, p.object,
				CASE WHEN p.nodes[cardinality(p.nodes) - 1] < 0 THEN 'a prepared transaction'
					ELSE 'pid ' || p.nodes[cardinality(p.nodes) - 1] END,
				CASE p.sessions WHEN 0 THEN '' WHEN 1 THEN ', and blocks 1 session' ELSE format(', and blocks %s sessions', p.sessions) END)
		END,
		CASE WHEN p.root > 0 THEN p.root::integer END, p.backend_type
	FROM phrased AS p
	ORDER BY (SELECT b.sessions FROM below AS b WHERE b.node = p.root) DESC, p.root, p.nodes
$$;
COMMENT ON FUNCTION monitoring.blocking_tree_at(timestamptz) IS 'Sessions that wait for locks and those in their way, each below the one that blocks it; for the columns see the view blocking_tree. Durations are until at. Does not wait behind a lock for longer than a second (55P03).';

CREATE VIEW monitoring.blocking_tree AS
	SELECT t.path, t.depth, t.pid, t.gid, t.database, t.username, t.application, t.state, t.blocks, t.blocked_by, t.waiting_since,
		t.wait_seconds, t.lock_type, t.lock_mode, t.object, t.xact_seconds, t.state_seconds, t.query, t.deadlock, t.description,
		t.root_pid, t.backend_type
	FROM monitoring.blocking_tree_at() AS t;
COMMENT ON VIEW monitoring.blocking_tree IS 'Who waits for whom: one row per session that waits for a lock or is in the way of one, those that block most first, each followed by what it blocks. Sessions of all databases.';
COMMENT ON COLUMN monitoring.blocking_tree.path IS 'Process ids from the root down to this session.';
COMMENT ON COLUMN monitoring.blocking_tree.depth IS 'Sessions above it; 0: a root.';
COMMENT ON COLUMN monitoring.blocking_tree.pid IS 'Process id; null for a prepared transaction.';
COMMENT ON COLUMN monitoring.blocking_tree.gid IS 'Name of the prepared transaction.';
COMMENT ON COLUMN monitoring.blocking_tree.database IS 'Its database.';
COMMENT ON COLUMN monitoring.blocking_tree.username IS 'Its role.';
COMMENT ON COLUMN monitoring.blocking_tree.application IS 'application_name.';
COMMENT ON COLUMN monitoring.blocking_tree.state IS 'As in pg_stat_activity, or prepared.';
COMMENT ON COLUMN monitoring.blocking_tree.blocks IS 'Sessions below it.';
COMMENT ON COLUMN monitoring.blocking_tree.blocked_by IS 'All that are in its way, as pg_blocking_pids() has them; 0: a prepared transaction.';
COMMENT ON COLUMN monitoring.blocking_tree.waiting_since IS 'Since when it waits; null for a root, and for a moment when a wait has just begun.';
COMMENT ON COLUMN monitoring.blocking_tree.wait_seconds IS 'The same as a duration.';
COMMENT ON COLUMN monitoring.blocking_tree.lock_type IS 'Type of the lock it waits for, as in pg_locks.';
COMMENT ON COLUMN monitoring.blocking_tree.lock_mode IS 'Mode in which it wants the lock.';
COMMENT ON COLUMN monitoring.blocking_tree.object IS 'What the lock is about, in words; of a transaction that is waited for because of a row, the row.';
COMMENT ON COLUMN monitoring.blocking_tree.xact_seconds IS 'Age of its transaction.';
COMMENT ON COLUMN monitoring.blocking_tree.state_seconds IS 'For how long it has been in its state.';
COMMENT ON COLUMN monitoring.blocking_tree.query IS 'Its latest statement without literals; hidden as in pg_stat_activity.';
COMMENT ON COLUMN monitoring.blocking_tree.deadlock IS 'Whether it waits for itself by way of others.';
COMMENT ON COLUMN monitoring.blocking_tree.description IS 'The row as a sentence.';
COMMENT ON COLUMN monitoring.blocking_tree.root_pid IS 'Process id of the root; null if that is a prepared transaction.';
COMMENT ON COLUMN monitoring.blocking_tree.backend_type IS 'As in pg_stat_activity.';

----------------------------------------------------------------------------------------------------------------------
-- Whom to send away
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.kill_rule_defs (
	position integer PRIMARY KEY,
	backend_type text,
	application text,
	query text,
	verdict text NOT NULL CHECK (verdict IN ('never', 'unsafe')),
	reason text NOT NULL,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.kill_rule_defs IS 'The rows of the view kill_rules, which also explains the columns, and by which they are changed.';
COMMENT ON COLUMN monitoring.kill_rule_defs.position IS 'Order.';
COMMENT ON COLUMN monitoring.kill_rule_defs.backend_type IS 'Pattern for the backend type.';
COMMENT ON COLUMN monitoring.kill_rule_defs.application IS 'Pattern for application_name.';
COMMENT ON COLUMN monitoring.kill_rule_defs.query IS 'Pattern for the text of the statement.';
COMMENT ON COLUMN monitoring.kill_rule_defs.verdict IS 'never or unsafe.';
COMMENT ON COLUMN monitoring.kill_rule_defs.reason IS 'Why, as a sentence.';
COMMENT ON COLUMN monitoring.kill_rule_defs.builtin IS 'Came with the extension: not dumped.';
INSERT INTO monitoring.kill_rule_defs VALUES
	(100, '^walsender$', NULL, NULL, 'never', 'It feeds a standby or a subscriber.', true),
	(110, '^autovacuum worker$', NULL, 'to prevent wraparound', 'never', 'It keeps the server from running out of transaction ids.', true),
	(120, '^(?!client backend$|parallel worker$|autovacuum worker$)', NULL, NULL, 'never', 'It is a process of the server or of an extension, which would start it again.', true),
	(130, NULL, '^(pg_dump|pg_restore|pg_basebackup)', NULL, 'unsafe', 'A backup or restore would fail and have to begin anew.', true),
	(140, NULL, NULL, '^\s*(create\s+(unique\s+)?index|reindex|drop\s+index).*concurrently', 'unsafe', 'It would leave an invalid index behind.', true),
	(150, NULL, NULL, '^\s*(vacuum|cluster|reindex|create\s+(unique\s+)?index|alter\s+table|refresh)', 'unsafe', 'Its work so far would be lost.', true),
	(160, NULL, NULL, '^<insufficient privilege>$', 'never', 'What it does is hidden from you.', true);
SELECT pg_catalog.pg_extension_config_dump('monitoring.kill_rule_defs', 'WHERE NOT builtin');

CREATE VIEW monitoring.kill_rules AS
	SELECT k.position, k.backend_type, k.application, k.query, k.verdict, k.reason, k.builtin
	FROM monitoring.kill_rule_defs AS k;
COMMENT ON VIEW monitoring.kill_rules IS 'Sessions that kill_advice warns of: insert rows of your own. A row speaks of the sessions that match all of its patterns that are not null (regular expressions, upper and lower case alike); of several that do, the one with the lowest position counts.';
COMMENT ON COLUMN monitoring.kill_rules.position IS 'Order; those that came with the extension have 100 and above.';
COMMENT ON COLUMN monitoring.kill_rules.verdict IS 'never: no command is suggested; unsafe: it is, but marked.';
SELECT monitoring.inherit_comments('monitoring.kill_rules', 'monitoring.kill_rule_defs');

CREATE FUNCTION monitoring.kill_advice_at(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (rank integer, pid integer, gid text, action text, safe boolean, frees integer, frees_wait_seconds float8, command text,
	evidence text, caution text, database name, username name, application text, state text, query text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' SET jit = off AS $$
	WITH tree AS MATERIALIZED (
		SELECT t.*, row_number() OVER () AS row FROM monitoring.blocking_tree_at(kill_advice_at.at) AS t
	), candidates AS (
		-- a root, or what queues for a whole table and keeps others behind it
		SELECT t.*, w.seconds AS freed_seconds, a.backend_xid IS NOT NULL AS has_written,
			a.query AS text, a.wait_event
		FROM tree AS t
		LEFT JOIN pg_stat_activity AS a ON a.pid = t.pid
		CROSS JOIN LATERAL (SELECT coalesce(sum(b.wait_seconds), 0) AS seconds FROM tree AS b WHERE starts_with(b.path, t.path || ' > ')) AS w
		WHERE t.blocks > 0 AND NOT t.deadlock AND t.pid IS DISTINCT FROM pg_backend_pid()
			AND (t.depth = 0 OR t.lock_type = 'relation' AND t.lock_mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock'))
	), judged AS (
		SELECT c.*, r.verdict, r.reason,
			CASE
				WHEN r.verdict = 'never' THEN 'none'
				WHEN c.gid IS NOT NULL OR c.pid IS NULL THEN 'rollback prepared'
				WHEN c.state IN ('active', 'fastpath function call') OR c.backend_type = 'autovacuum worker' THEN 'cancel'
				ELSE 'terminate'
			END AS what
		FROM candidates AS c
		LEFT JOIN LATERAL (
			SELECT k.verdict, k.reason
			FROM monitoring.kill_rules AS k
			WHERE c.pid IS NOT NULL AND (k.backend_type IS NULL OR c.backend_type ~* k.backend_type)
				AND (k.application IS NULL OR c.application ~* k.application) AND (k.query IS NULL OR c.text ~* k.query)
			ORDER BY k.position LIMIT 1
		) AS r ON true
	)
	SELECT (row_number() OVER (ORDER BY j.what = 'none', j.blocks DESC, j.freed_seconds DESC, j.state = 'active', j.row))::integer,
		j.pid, j.gid, j.what,
		j.what IN ('cancel', 'terminate') AND j.verdict IS NULL,
		j.blocks, j.freed_seconds,
		CASE j.what
			WHEN 'cancel' THEN format('SELECT pg_cancel_backend(%s)', j.pid)
			WHEN 'terminate' THEN format('SELECT pg_terminate_backend(%s)', j.pid)
			WHEN 'rollback prepared' THEN format('ROLLBACK PREPARED %L', j.gid)
		END,
		format('%s, %s in all.', j.description,
			CASE WHEN j.blocks = 1 THEN 'which has waited ' ELSE 'which have waited ' END || monitoring.duration_text(j.freed_seconds)),
		nullif(concat_ws(' ', j.reason,
			CASE WHEN j.what = 'rollback prepared' THEN format('Ask its transaction manager first: it may have decided to commit. To be run in database %I.', j.database) END,
			CASE WHEN j.what IN ('cancel', 'terminate') AND j.has_written THEN 'What its transaction has written is rolled back.' END,
			CASE WHEN j.what = 'cancel' AND j.has_written THEN 'Locks taken before a savepoint stay; if others still wait, end the session.' END,
			CASE WHEN j.what = 'terminate' AND j.state = 'idle' THEN 'It is in no transaction: what it holds are advisory locks of the session.' END), ''),
		j.database, j.username, j.application, j.state, j.query
	FROM judged AS j
	ORDER BY 1
$$;
COMMENT ON FUNCTION monitoring.kill_advice_at(timestamptz) IS 'Whom to cancel or end so that most sessions can go on; for the columns see the view kill_advice. Changes nothing. Durations are until at.';

CREATE VIEW monitoring.kill_advice AS
	SELECT k.rank, k.pid, k.gid, k.action, k.safe, k.frees, k.frees_wait_seconds, k.command, k.evidence, k.caution, k.database, k.username,
		k.application, k.state, k.query
	FROM monitoring.kill_advice_at() AS k;
COMMENT ON VIEW monitoring.kill_advice IS 'Whom to cancel or end so that most sessions that wait for locks can go on, what frees most first. What is never to be touched (replication, wraparound, processes of the server) comes last, without a command.';
COMMENT ON COLUMN monitoring.kill_advice.rank IS 'From 1.';
COMMENT ON COLUMN monitoring.kill_advice.pid IS 'Process id; null for a prepared transaction.';
COMMENT ON COLUMN monitoring.kill_advice.gid IS 'Name of the prepared transaction.';
COMMENT ON COLUMN monitoring.kill_advice.action IS 'cancel (its statement), terminate (the session: one that runs no statement cannot be cancelled), rollback prepared, or none.';
COMMENT ON COLUMN monitoring.kill_advice.safe IS 'Whether nothing speaks against it but that its transaction is lost; see caution.';
COMMENT ON COLUMN monitoring.kill_advice.frees IS 'Sessions that wait behind it. Those that wait for each other, too, go on one after the other.';
COMMENT ON COLUMN monitoring.kill_advice.frees_wait_seconds IS 'What these have waited so far, added up.';
COMMENT ON COLUMN monitoring.kill_advice.command IS 'The SQL that does it; needs the rights of pg_signal_backend, for superusers'' sessions a superuser.';
COMMENT ON COLUMN monitoring.kill_advice.evidence IS 'Why, as a sentence.';
COMMENT ON COLUMN monitoring.kill_advice.caution IS 'What is lost, and what speaks against it; see the view kill_rules.';
COMMENT ON COLUMN monitoring.kill_advice.database IS 'Its database.';
COMMENT ON COLUMN monitoring.kill_advice.username IS 'Its role.';
COMMENT ON COLUMN monitoring.kill_advice.application IS 'application_name.';
COMMENT ON COLUMN monitoring.kill_advice.state IS 'As in pg_stat_activity, or prepared.';
COMMENT ON COLUMN monitoring.kill_advice.query IS 'Its latest statement without literals; hidden as in pg_stat_activity.';
