
-- collectors, server: what all databases of a server have in common.
--
-- Names and labels are those of postgres_exporter where it has one; those with
-- the label database are ours and are what the packs of rules read. Columns that
-- exist in some versions only are taken from the row as JSON.

-- The numbers of a row of statistics, as readings: prefix + column + suffix.
CREATE FUNCTION monitoring.row_readings(prefix text, fields jsonb, suffix text, kind text, labels jsonb, since timestamptz DEFAULT NULL)
RETURNS SETOF monitoring.reading
LANGUAGE sql STABLE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
	SELECT prefix || f.key || suffix, row_readings.kind, row_readings.labels, f.value::float8, row_readings.since
	FROM jsonb_each(fields) AS f WHERE jsonb_typeof(f.value) = 'number'
$$;
COMMENT ON FUNCTION monitoring.row_readings(text, jsonb, text, text, jsonb, timestamptz) IS 'Each number of a row, given as a JSON object, as the reading of a metric that is named after its column.';

CREATE FUNCTION monitoring.collect_server(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY SELECT v.metric, 'gauge', v.labels, v.value, NULL::timestamptz FROM (VALUES
		('pg_up', '{}'::jsonb, 1::float8),
		('pg_static', jsonb_build_object('version', split_part(version(), ' on ', 1), 'short_version', split_part(current_setting('server_version'), ' ', 1)), 1),
		('pg_postmaster_start_time_seconds', '{}', extract(epoch FROM pg_postmaster_start_time())::float8),
		('pg_replication_is_replica', '{}', pg_is_in_recovery()::int),
		('pg_settings_loaded_timestamp_seconds', '{}', extract(epoch FROM pg_conf_load_time())::float8)) AS v (metric, labels, value);
END $$;
COMMENT ON FUNCTION monitoring.collect_server(timestamptz) IS 'Collector: that the server is up, its version, when it started.';

CREATE FUNCTION monitoring.collect_sessions(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH sessions AS MATERIALIZED (
		SELECT coalesce(d.datname, '') AS datname, coalesce(s.state, '') AS state, coalesce(r.rolname, '') AS usename, coalesce(s.application_name, '') AS application_name,
			coalesce(s.backend_type, '') AS backend_type, coalesce(s.wait_event_type, '') AS wait_event_type, coalesce(s.wait_event, '') AS wait_event,
			extract(epoch FROM collect_sessions.at - s.xact_start)::float8 AS tx, extract(epoch FROM collect_sessions.at - s.state_change)::float8 AS in_state,
			s.pid, s.backend_type = 'client backend' AS client, s.backend_xmin
		FROM pg_stat_get_activity(NULL) AS s
		LEFT JOIN pg_database AS d ON d.oid = s.datid
		LEFT JOIN pg_roles AS r ON r.oid = s.usesysid
		WHERE s.pid <> pg_backend_pid()
	), databases AS MATERIALIZED (
		SELECT d.datname::text FROM pg_database AS d WHERE d.datallowconn AND NOT d.datistemplate
	), grouped AS (
		SELECT s.datname, s.state, s.usename, s.application_name, s.backend_type, s.wait_event_type, s.wait_event, count(*) AS n, max(greatest(s.tx, 0)) AS tx
		FROM sessions AS s WHERE s.datname <> '' GROUP BY 1, 2, 3, 4, 5, 6, 7
	), ranked AS (
		SELECT g.*, row_number() OVER (ORDER BY g.n DESC, g.tx DESC NULLS LAST) <= 200 AS kept FROM grouped AS g
	), bounded AS MATERIALIZED (
		SELECT jsonb_build_object('datname', k.datname, 'state', k.state, 'usename', k.usename, 'application_name', k.application_name,
				'backend_type', k.backend_type, 'wait_event_type', k.wait_event_type, 'wait_event', k.wait_event) AS labels, sum(k.n) AS n, max(k.tx) AS tx
		FROM (SELECT r.datname, r.state, r.n, r.tx, CASE WHEN r.kept THEN r.usename ELSE 'others' END AS usename,
				CASE WHEN r.kept THEN left(r.application_name, 100) ELSE 'others' END AS application_name, CASE WHEN r.kept THEN r.backend_type ELSE 'others' END AS backend_type,
				CASE WHEN r.kept THEN r.wait_event_type ELSE '' END AS wait_event_type, CASE WHEN r.kept THEN r.wait_event ELSE '' END AS wait_event FROM ranked AS r) AS k
		GROUP BY k.datname, k.state, k.usename, k.application_name, k.backend_type, k.wait_event_type, k.wait_event
	), states AS (
		SELECT d.datname, st.state
		FROM databases AS d CROSS JOIN unnest(ARRAY['active', 'idle', 'idle in transaction', 'idle in transaction (aborted)', 'fastpath function call', 'disabled']) AS st (state)
	), per_database AS MATERIALIZED (
		SELECT d.datname, coalesce(max(s.tx) FILTER (WHERE s.backend_type NOT IN ('walsender', 'autovacuum worker')), 0) AS tx,
			coalesce(max(s.in_state) FILTER (WHERE s.state LIKE 'idle in transaction%'), 0) AS idle_tx
		FROM databases AS d LEFT JOIN sessions AS s ON s.datname = d.datname GROUP BY 1
	), limits AS (
		SELECT current_setting('max_connections')::float8 AS connections, current_setting('autovacuum_max_workers')::float8 AS workers
	)
	SELECT v.metric, 'gauge', b.labels, v.value, NULL::timestamptz
	FROM bounded AS b CROSS JOIN LATERAL (VALUES ('pg_stat_activity_count', b.n::float8), ('pg_stat_activity_max_tx_duration', coalesce(b.tx, 0))) AS v (metric, value)
	UNION ALL
	SELECT v.metric, 'gauge', jsonb_build_object('datname', st.datname, 'state', st.state, 'usename', '', 'application_name', '', 'backend_type', '',
		'wait_event_type', '', 'wait_event', ''), 0, NULL
	FROM states AS st CROSS JOIN unnest(ARRAY['pg_stat_activity_count', 'pg_stat_activity_max_tx_duration']) AS v (metric)
	WHERE NOT EXISTS (SELECT FROM sessions AS s WHERE s.datname = st.datname AND s.state = st.state)
	UNION ALL
	SELECT 'pg_connections', 'gauge', jsonb_build_object('database', st.datname, 'state', st.state),
		(SELECT count(*) FROM sessions AS s WHERE s.client AND s.datname = st.datname AND s.state = st.state), NULL
	FROM states AS st
	UNION ALL
	SELECT 'pg_connections_used_ratio', 'gauge', '{}', (SELECT count(*) FROM sessions AS s WHERE s.client) / l.connections, NULL FROM limits AS l
	UNION ALL
	SELECT v.metric, 'gauge', jsonb_build_object('database', p.datname), greatest(v.value, 0), NULL
	FROM per_database AS p CROSS JOIN LATERAL (VALUES ('pg_longest_transaction_seconds', p.tx), ('pg_longest_idle_transaction_seconds', p.idle_tx)) AS v (metric, value)
	UNION ALL
	SELECT 'pg_autovacuum_workers_busy', 'gauge', '{}', w.n, NULL FROM (SELECT count(*) AS n FROM sessions AS s WHERE s.backend_type = 'autovacuum worker') AS w
	UNION ALL
	SELECT 'pg_autovacuum_workers_busy_ratio', 'gauge', '{}', (SELECT count(*) FROM sessions AS s WHERE s.backend_type = 'autovacuum worker') / l.workers, NULL FROM limits AS l;

	RETURN QUERY
	SELECT v.metric, 'gauge', jsonb_build_object('database', d.datname), v.value, NULL::timestamptz
	FROM pg_database AS d
	LEFT JOIN (SELECT p.database, count(*) AS n, max(extract(epoch FROM collect_sessions.at - p.prepared)) AS age FROM pg_prepared_xacts AS p GROUP BY 1) AS x ON x.database = d.datname
	CROSS JOIN LATERAL (VALUES ('pg_prepared_transactions', coalesce(x.n, 0)::float8), ('pg_oldest_prepared_transaction_seconds', greatest(coalesce(x.age, 0), 0)::float8)) AS v (metric, value)
	WHERE d.datallowconn AND NOT d.datistemplate;
END $$;
COMMENT ON FUNCTION monitoring.collect_sessions(timestamptz) IS 'Collector: sessions by state, their share of the limit, the longest transactions, prepared transactions, workers of autovacuum. At most 200 groups of sessions have series of their own.';

CREATE FUNCTION monitoring.listed_databases() RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.datid FROM pg_stat_database AS s ORDER BY s.datid <> 0, s.xact_commit + s.xact_rollback DESC, s.datid LIMIT 101
$$;
COMMENT ON FUNCTION monitoring.listed_databases() IS 'Databases that have counters of their own among the metrics: the 100 with the most transactions, and 0 for what all have in common.';

CREATE FUNCTION monitoring.collect_databases(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH stats AS MATERIALIZED (
		SELECT jsonb_build_object('datid', s.datid::text, 'datname', coalesce(s.datname, '')) AS labels, coalesce(s.datname, '') AS datname, s.datid,
			s.numbackends, s.stats_reset, s.xact_commit, s.xact_rollback, s.blks_hit, s.blks_read, s.temp_bytes, s.deadlocks,
			to_jsonb(s) - '{datid,datname,numbackends,stats_reset,checksum_last_failure,session_time,active_time,idle_in_transaction_time}'::text[] AS fields,
			s.session_time / 1000 AS session_seconds, s.active_time / 1000 AS active_seconds, s.idle_in_transaction_time / 1000 AS idle_seconds
		FROM pg_stat_database AS s WHERE s.datid IN (SELECT monitoring.listed_databases())
	), oldest AS MATERIALIZED (
		SELECT d.datname, d.datconnlimit, age(d.datfrozenxid) AS xids, mxid_age(d.datminmxid) AS multixacts
		FROM pg_database AS d WHERE d.datallowconn ORDER BY greatest(age(d.datfrozenxid), mxid_age(d.datminmxid)) DESC, d.oid LIMIT 500
	)
	SELECT r.* FROM stats AS s CROSS JOIN LATERAL monitoring.row_readings('pg_stat_database_', s.fields, '', 'counter', s.labels, s.stats_reset) AS r
	UNION ALL
	SELECT 'pg_stat_database_' || v.name, v.kind, s.labels, v.value, s.stats_reset
	FROM stats AS s CROSS JOIN LATERAL (VALUES
		('numbackends', 'gauge', s.numbackends::float8),
		('stats_reset', 'gauge', extract(epoch FROM s.stats_reset)::float8),
		('active_time_seconds_total', 'counter', s.active_seconds),
		('session_time_seconds_total', 'counter', s.session_seconds),
		('idle_in_transaction_time_seconds_total', 'counter', s.idle_seconds)) AS v (name, kind, value)
	UNION ALL
	SELECT v.metric, 'counter', v.labels || jsonb_build_object('database', s.datname), v.value, s.stats_reset
	FROM stats AS s CROSS JOIN LATERAL (VALUES
		('pg_transactions_total', '{"outcome": "committed"}'::jsonb, s.xact_commit::float8),
		('pg_transactions_total', '{"outcome": "rolled_back"}', s.xact_rollback),
		('pg_block_reads_total', '{"outcome": "hit"}', s.blks_hit),
		('pg_block_reads_total', '{"outcome": "miss"}', s.blks_read),
		('pg_deadlocks_total', '{}', s.deadlocks),
		('pg_temp_bytes_total', '{}', s.temp_bytes)) AS v (metric, labels, value)
	WHERE s.datid <> 0
	UNION ALL
	SELECT r.metric, 'counter', r.labels, r.value, r.since
	FROM (SELECT x.datid, x.datname, to_jsonb(x) - 'datid' AS fields FROM pg_stat_database_conflicts AS x) AS c
	CROSS JOIN LATERAL monitoring.row_readings('pg_stat_database_conflicts_', c.fields, '', 'counter',
		jsonb_build_object('datid', c.datid::text, 'datname', c.datname), (c.fields ->> 'stats_reset')::timestamptz) AS r
	WHERE c.datid IN (SELECT monitoring.listed_databases())
	UNION ALL
	SELECT v.metric, 'gauge', jsonb_build_object('datname', o.datname), v.value, NULL
	FROM oldest AS o CROSS JOIN LATERAL (VALUES
		('pg_database_connection_limit', o.datconnlimit::float8),
		('pg_database_wraparound_age_datfrozenxid_seconds', o.xids),
		('pg_database_wraparound_age_datminmxid_seconds', o.multixacts)) AS v (metric, value)
	UNION ALL
	SELECT v.metric, 'gauge', jsonb_build_object('database', o.datname), v.value, NULL
	FROM oldest AS o CROSS JOIN LATERAL (VALUES ('pg_xid_age', o.xids::float8), ('pg_multixact_age', o.multixacts::float8)) AS v (metric, value)
	UNION ALL
	SELECT 'pg_roles_connection_limit', 'gauge', jsonb_build_object('rolname', a.rolname), a.rolconnlimit, NULL
	FROM pg_roles AS a WHERE a.rolcanlogin AND a.rolconnlimit >= 0;
END $$;
COMMENT ON FUNCTION monitoring.collect_databases(timestamptz) IS 'Collector: pg_stat_database and pg_stat_database_conflicts, all columns, of the listed databases; ages of transaction ids and multixacts, and limits of connections, of the 500 oldest; limits of roles. Times are in milliseconds where the name does not say seconds, as in postgres_exporter.';

CREATE FUNCTION monitoring.collect_locks(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH held AS MATERIALIZED (
		SELECT l.pid, l.database, l.mode, l.granted, l.waitstart, l.fastpath FROM pg_lock_status() AS l
		WHERE l.pid IS DISTINCT FROM pg_backend_pid()
	), counted AS (
		SELECT h.database, h.mode, count(*) AS n FROM held AS h GROUP BY 1, 2
	), waiting AS MATERIALIZED (
		-- locks on transactions belong to no database: their waiters do
		SELECT a.datid, count(DISTINCT h.pid) AS n, max(extract(epoch FROM collect_locks.at - h.waitstart)) AS longest
		FROM held AS h JOIN pg_stat_get_activity(NULL) AS a ON a.pid = h.pid
		WHERE NOT h.granted GROUP BY 1
	), databases AS MATERIALIZED (
		SELECT d.oid, d.datname FROM pg_database AS d
		WHERE d.datallowconn AND NOT d.datistemplate AND d.oid IN (SELECT monitoring.listed_databases())
	)
	SELECT 'pg_locks_count', 'gauge', jsonb_build_object('datname', d.datname, 'mode', lower(m.mode)), coalesce(c.n, 0)::float8, NULL::timestamptz
	FROM databases AS d
	CROSS JOIN unnest(ARRAY['AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
		'ExclusiveLock', 'AccessExclusiveLock', 'SIReadLock']) AS m (mode)
	LEFT JOIN counted AS c ON c.database = d.oid AND c.mode = m.mode
	UNION ALL
	SELECT v.metric, 'gauge', jsonb_build_object('database', d.datname), greatest(v.value, 0), NULL
	FROM databases AS d LEFT JOIN waiting AS w ON w.datid = d.oid
	CROSS JOIN LATERAL (VALUES ('pg_locks_waiting', coalesce(w.n, 0)::float8), ('pg_lock_longest_wait_seconds', coalesce(w.longest, 0)::float8)) AS v (metric, value)
	UNION ALL
	SELECT 'pg_locks_used_ratio', 'gauge', '{}', (SELECT count(*) FROM held AS h WHERE NOT h.fastpath)
		/ (current_setting('max_locks_per_transaction')::float8 * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)), NULL;

	IF to_regclass('pg_catalog.pg_stat_lock') IS NOT NULL THEN
		RETURN QUERY EXECUTE $query$
			SELECT r.metric, r.kind, r.labels, r.value, r.since
			FROM pg_catalog.pg_stat_lock AS s
			CROSS JOIN LATERAL monitoring.row_readings('pg_stat_lock_', pg_catalog.to_jsonb(s) - 'locktype', '_total', 'counter',
				pg_catalog.jsonb_build_object('locktype', s.locktype), s.stats_reset) AS r
		$query$;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.collect_locks(timestamptz) IS 'Collector: locks by mode and their share of the lock table, sessions that wait for one, and how long; pg_stat_lock (19 and later), all columns (times in milliseconds).';

-- pg_stat_bgwriter lost most of its columns to pg_stat_checkpointer in 17. Both families are there then.
CREATE FUNCTION monitoring.collect_checkpoints(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bgwriter jsonb;
	checkpointer jsonb;
BEGIN
	SELECT to_jsonb(b) INTO bgwriter FROM pg_stat_bgwriter AS b;
	IF to_regclass('pg_catalog.pg_stat_checkpointer') IS NOT NULL THEN
		EXECUTE 'SELECT to_jsonb(c) FROM pg_catalog.pg_stat_checkpointer AS c' INTO checkpointer;
	END IF;
	RETURN QUERY
	SELECT r.* FROM monitoring.row_readings('pg_stat_bgwriter_', bgwriter, '_total', 'counter', '{}', (bgwriter ->> 'stats_reset')::timestamptz) AS r
	UNION ALL
	SELECT r.* FROM monitoring.row_readings('pg_stat_checkpointer_', checkpointer, '_total', 'counter', '{}', (checkpointer ->> 'stats_reset')::timestamptz) AS r
	UNION ALL
	-- the family of before under its old names
	SELECT r.* FROM monitoring.row_readings('pg_stat_bgwriter_', jsonb_build_object('checkpoints_timed', checkpointer -> 'num_timed',
			'checkpoints_req', checkpointer -> 'num_requested', 'checkpoint_write_time', checkpointer -> 'write_time',
			'checkpoint_sync_time', checkpointer -> 'sync_time', 'buffers_checkpoint', checkpointer -> 'buffers_written'),
		'_total', 'counter', '{}', (checkpointer ->> 'stats_reset')::timestamptz) AS r
	WHERE checkpointer IS NOT NULL
	UNION ALL
	SELECT 'pg_checkpoints_total', 'counter', v.labels, v.value::float8, (coalesce(checkpointer, bgwriter) ->> 'stats_reset')::timestamptz
	FROM (VALUES ('{"cause": "timed"}'::jsonb, coalesce(checkpointer ->> 'num_timed', bgwriter ->> 'checkpoints_timed')),
		('{"cause": "requested"}', coalesce(checkpointer ->> 'num_requested', bgwriter ->> 'checkpoints_req'))) AS v (labels, value)
	UNION ALL
	SELECT v.name, 'gauge', '{}', extract(epoch FROM (v.fields ->> 'stats_reset')::timestamptz)::float8, NULL
	FROM (VALUES ('pg_stat_bgwriter_stats_reset_seconds', bgwriter), ('pg_stat_checkpointer_stats_reset_seconds', checkpointer)) AS v (name, fields)
	UNION ALL
	SELECT 'pg_last_checkpoint_timestamp_seconds', 'gauge', '{}', extract(epoch FROM c.checkpoint_time)::float8, NULL FROM pg_control_checkpoint() AS c;
END $$;
COMMENT ON FUNCTION monitoring.collect_checkpoints(timestamptz) IS 'Collector: checkpointer and background writer. From 17 on both families of names exist: pg_stat_checkpointer and, for what was there before, pg_stat_bgwriter. Times are in milliseconds.';

CREATE FUNCTION monitoring.collect_wal(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	wal jsonb;
	archiver pg_stat_archiver;
BEGIN
	SELECT to_jsonb(w) INTO wal FROM pg_stat_wal AS w;
	SELECT a.* INTO archiver FROM pg_stat_archiver AS a;
	RETURN QUERY
	SELECT r.* FROM monitoring.row_readings('pg_stat_wal_', wal, '_total', 'counter', '{}', (wal ->> 'stats_reset')::timestamptz) AS r
	UNION ALL
	SELECT 'pg_wal_bytes_total', 'counter', '{}', (wal ->> 'wal_bytes')::float8, (wal ->> 'stats_reset')::timestamptz
	UNION ALL
	SELECT v.metric, v.kind, '{}', v.value, archiver.stats_reset
	FROM (VALUES
		('pg_stat_archiver_archived_count', 'counter', archiver.archived_count::float8),
		('pg_stat_archiver_failed_count', 'counter', archiver.failed_count),
		('pg_stat_archiver_last_archive_age', 'gauge', extract(epoch FROM collect_wal.at - archiver.last_archived_time)::float8),
		('pg_archive_failed_total', 'counter', archiver.failed_count)) AS v (metric, kind, value);
END $$;
COMMENT ON FUNCTION monitoring.collect_wal(timestamptz) IS 'Collector: pg_stat_wal, all columns (times in milliseconds), and pg_stat_archiver.';

CREATE FUNCTION monitoring.collect_wal_files(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT v.metric, 'gauge', '{}'::jsonb, v.value, NULL::timestamptz
	FROM (SELECT count(*)::float8 AS n, coalesce(sum(f.size), 0)::float8 AS bytes FROM pg_ls_waldir() AS f WHERE f.name ~ '^[0-9A-F]{24}$') AS w
	CROSS JOIN LATERAL (VALUES ('pg_wal_segments', w.n), ('pg_wal_size_bytes', w.bytes),
		('pg_wal_used_ratio', w.bytes / (SELECT s.setting::float8 * 1048576 FROM pg_settings AS s WHERE s.name = 'max_wal_size'))) AS v (metric, value)
	UNION ALL
	SELECT 'pg_wal_ready_files', 'gauge', '{}', count(*) FILTER (WHERE f.name LIKE '%.ready'), NULL FROM pg_ls_archive_statusdir() AS f
	UNION ALL
	SELECT v.metric, 'gauge', '{}', v.value, NULL
	FROM (SELECT count(*)::float8 AS n, coalesce(sum(f.size), 0)::float8 AS bytes FROM pg_ls_tmpdir() AS f) AS t
	CROSS JOIN LATERAL (VALUES ('pg_temp_files', t.n), ('pg_temp_files_bytes', t.bytes)) AS v (metric, value);
END $$;
COMMENT ON FUNCTION monitoring.collect_wal_files(timestamptz) IS 'Collector: files of the write-ahead log, those that wait to be archived, and temporary files of the default tablespace.';

CREATE FUNCTION monitoring.collect_replication(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	replica boolean := pg_is_in_recovery();
	here pg_lsn := CASE WHEN replica THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END;
BEGIN
	RETURN QUERY
	WITH senders AS MATERIALIZED (
		SELECT s.*, l.slot_name, CASE WHEN count(*) OVER (PARTITION BY s.application_name) = 1 THEN s.application_name
				ELSE s.application_name || ' ' || s.pid END AS standby
		FROM pg_stat_replication AS s LEFT JOIN pg_replication_slots AS l ON l.active_pid = s.pid
	), named AS MATERIALIZED (
		SELECT s.*, jsonb_build_object('application_name', s.application_name, 'client_addr', coalesce(host(s.client_addr), ''), 'state', s.state,
				'slot_name', coalesce(s.slot_name, ''), 'pid', s.pid::text) AS labels FROM senders AS s
	)
	SELECT v.metric, 'gauge', v.labels, v.value, NULL::timestamptz
	FROM named AS n CROSS JOIN LATERAL (VALUES
		('pg_stat_replication_pg_current_wal_lsn_bytes', n.labels, (here - '0/0')::float8),
		('pg_stat_replication_pg_wal_lsn_diff', n.labels, (here - n.replay_lsn)::float8),
		('pg_stat_replication_write_lag_seconds', n.labels, extract(epoch FROM n.write_lag)::float8),
		('pg_stat_replication_flush_lag_seconds', n.labels, extract(epoch FROM n.flush_lag)::float8),
		('pg_stat_replication_replay_lag_seconds', n.labels, extract(epoch FROM n.replay_lag)::float8),
		('pg_stat_replication_sync_state', n.labels || jsonb_build_object('sync_state', n.sync_state), 1),
		('pg_replication_lag_bytes', jsonb_build_object('standby', n.standby), greatest(here - n.replay_lsn, 0)::float8),
		-- nothing to replay is no lag
		('pg_replication_lag_seconds', jsonb_build_object('standby', n.standby),
			CASE WHEN n.replay_lsn >= here THEN 0 ELSE coalesce(extract(epoch FROM n.replay_lag), 0) END::float8)) AS v (metric, labels, value)
	UNION ALL
	SELECT 'pg_replication_standbys', 'gauge', jsonb_build_object('sync_state', st.state), (SELECT count(*) FROM senders AS s WHERE s.sync_state = st.state AND s.state = 'streaming'), NULL
	FROM unnest(ARRAY['async', 'potential', 'sync', 'quorum']) AS st (state)
	UNION ALL
	SELECT v.metric, 'gauge', '{}', v.value, NULL
	FROM (SELECT pg_last_xact_replay_timestamp() AS replayed) AS p CROSS JOIN LATERAL (VALUES
		('pg_replication_lag_seconds', CASE WHEN replica THEN CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
			ELSE greatest(extract(epoch FROM collect_replication.at - p.replayed), 0) END END::float8),
		('pg_replication_last_replay_seconds', CASE WHEN replica THEN extract(epoch FROM p.replayed) END::float8)) AS v (metric, value)
	UNION ALL
	SELECT v.metric, 'gauge', v.labels, v.value, NULL
	FROM pg_replication_slots AS l
	-- inactive_since and invalidation_reason: since 17
	CROSS JOIN LATERAL (SELECT jsonb_build_object('slot_name', l.slot_name, 'slot_type', l.slot_type) AS labels, to_jsonb(l) AS fields) AS t
	CROSS JOIN LATERAL (VALUES
		('pg_replication_slots_active', jsonb_build_object('slot_name', l.slot_name, 'database', coalesce(l.database, '')), l.active::int::float8),
		('pg_replication_slots_pg_wal_lsn_diff', jsonb_build_object('slot_name', l.slot_name, 'database', coalesce(l.database, '')), (here - l.restart_lsn)::float8),
		('pg_replication_slots_slot_current_wal_lsn', t.labels, (here - '0/0')::float8),
		('pg_replication_slots_slot_confirmed_flush_lsn', t.labels, (l.confirmed_flush_lsn - '0/0')::float8),
		('pg_replication_slots_slot_is_active', t.labels, l.active::int),
		('pg_replication_slots_safe_wal_size_bytes', t.labels, l.safe_wal_size),
		('pg_replication_slots_inactive_seconds', t.labels, greatest(extract(epoch FROM collect_replication.at - (t.fields ->> 'inactive_since')::timestamptz), 0)),
		('pg_replication_slots_invalidated', t.labels || jsonb_build_object('reason', t.fields -> 'invalidation_reason'), CASE WHEN t.fields ->> 'invalidation_reason' IS NOT NULL THEN 1 END),
		('pg_replication_slots_wal_status', t.labels || jsonb_build_object('wal_status', l.wal_status), 1),
		('pg_replication_slot_retained_bytes', jsonb_build_object('slot', l.slot_name), greatest(here - l.restart_lsn, 0)::float8)) AS v (metric, labels, value)
	UNION ALL
	SELECT r.metric, 'counter', r.labels, r.value, r.since
	FROM pg_stat_replication_slots AS s
	CROSS JOIN LATERAL monitoring.row_readings('pg_stat_replication_slots_', to_jsonb(s) - 'slot_name', '_total', 'counter',
		jsonb_build_object('slot_name', s.slot_name), s.stats_reset) AS r;
END $$;
COMMENT ON FUNCTION monitoring.collect_replication(timestamptz) IS 'Collector: standbys and how far they are behind, whether they are synchronous; slots and what they retain; decoding of logical slots; on a standby, its own lag.';

CREATE FUNCTION monitoring.collect_subscriptions(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH mine AS MATERIALIZED (
		SELECT s.oid, s.subname, s.subenabled FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid WHERE d.datname = current_database()
	)
	SELECT v.metric, 'gauge', jsonb_build_object('subname', s.subname, 'datname', current_database()), v.value, NULL::timestamptz
	FROM mine AS s LEFT JOIN pg_stat_get_subscription(NULL) AS w ON w.subid = s.oid AND w.relid IS NULL
	CROSS JOIN LATERAL (VALUES
		('pg_stat_subscription_enabled', s.subenabled::int::float8),
		('pg_stat_subscription_running', (w.pid IS NOT NULL)::int),
		('pg_stat_subscription_lag_bytes', (w.received_lsn - w.latest_end_lsn)::float8),
		('pg_stat_subscription_last_message_age_seconds', extract(epoch FROM collect_subscriptions.at - w.last_msg_receipt_time)::float8)) AS v (metric, value)
	-- one worker of apply; those that are parallel or synchronize a table have rows of their own
	WHERE w.pid IS NULL OR w.received_lsn IS NOT NULL
	UNION ALL
	SELECT r.metric, 'counter', r.labels, r.value, r.since
	FROM pg_stat_subscription_stats AS t
	JOIN mine AS s ON s.oid = t.subid
	CROSS JOIN LATERAL monitoring.row_readings('pg_stat_subscription_', to_jsonb(t) - 'subid', '_total', 'counter',
		jsonb_build_object('subname', s.subname, 'datname', current_database()), t.stats_reset) AS r;
END $$;
COMMENT ON FUNCTION monitoring.collect_subscriptions(timestamptz) IS 'Collector: subscriptions of the database: whether they run, how far behind they are, errors and conflicts.';

CREATE FUNCTION monitoring.collect_slru(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT r.* FROM pg_stat_slru AS s
	CROSS JOIN LATERAL monitoring.row_readings('pg_stat_slru_', to_jsonb(s) - 'name', '_total', 'counter', jsonb_build_object('name', s.name), s.stats_reset) AS r;
END $$;
COMMENT ON FUNCTION monitoring.collect_slru(timestamptz) IS 'Collector: pg_stat_slru, all columns.';

CREATE FUNCTION monitoring.collect_io(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF to_regclass('pg_catalog.pg_stat_io') IS NULL THEN
		RETURN;
	END IF;
	-- what has never happened has no series yet
	RETURN QUERY EXECUTE $query$
		SELECT r.metric, r.kind, r.labels, r.value, r.since
		FROM pg_catalog.pg_stat_io AS s
		CROSS JOIN LATERAL monitoring.row_readings('pg_stat_io_', pg_catalog.to_jsonb(s) - '{backend_type,object,context,op_bytes}'::text[], '_total', 'counter',
			pg_catalog.jsonb_build_object('backend_type', s.backend_type, 'object', s.object, 'context', s.context), s.stats_reset) AS r
		WHERE r.value > 0
	$query$;
	IF to_regclass('pg_catalog.pg_aios') IS NOT NULL THEN
		RETURN QUERY EXECUTE $query$
			SELECT 'pg_aios', 'gauge', pg_catalog.jsonb_build_object('operation', coalesce(a.operation, ''), 'state', pg_catalog.lower(a.state)),
				pg_catalog.count(*)::float8, NULL::timestamptz
			FROM pg_catalog.pg_aios AS a GROUP BY 3
		$query$;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.collect_io(timestamptz) IS 'Collector: pg_stat_io (16 and later), all columns that are not zero, times in milliseconds; asynchronous reads and writes under way (18 and later).';

CREATE FUNCTION monitoring.collect_database_sizes(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT v.metric, 'gauge', v.labels, s.bytes, NULL::timestamptz
	FROM (
		-- one that is dropped meanwhile has no description
		SELECT d.datname, CASE WHEN pg_describe_object('pg_database'::regclass, d.oid, 0) IS NOT NULL AND has_database_privilege(d.oid, 'CONNECT')
			THEN pg_database_size(d.oid) END::float8 AS bytes
		FROM pg_database AS d WHERE d.datallowconn) AS s
	CROSS JOIN LATERAL (VALUES ('pg_database_size_bytes', jsonb_build_object('datname', s.datname)), ('pg_database_bytes', jsonb_build_object('database', s.datname))) AS v (metric, labels);
END $$;
COMMENT ON FUNCTION monitoring.collect_database_sizes(timestamptz) IS 'Collector: sizes of databases. Every file of a database is looked at: a second or so for 100,000 tables.';

CREATE FUNCTION monitoring.collect_horizon(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT 'pg_xmin_horizon_age', 'gauge', jsonb_build_object('holder', h.holder), max(h.age)::float8, NULL::timestamptz
	FROM (SELECT CASE WHEN a.backend_type = 'walsender' THEN 'standby' ELSE 'session' END AS holder, greatest(age(a.backend_xmin), age(a.backend_xid)) AS age
			FROM pg_stat_get_activity(NULL) AS a WHERE a.pid <> pg_backend_pid()
		UNION ALL SELECT 'slot', greatest(age(l.xmin), age(l.catalog_xmin)) FROM pg_replication_slots AS l
		UNION ALL SELECT 'prepared transaction', age(p.transaction) FROM pg_prepared_xact() AS p
		UNION ALL SELECT x, 0 FROM unnest(ARRAY['session', 'standby', 'slot', 'prepared transaction']) AS x) AS h
	GROUP BY h.holder;
END $$;
COMMENT ON FUNCTION monitoring.collect_horizon(timestamptz) IS 'Collector: how many transactions ago what vacuum must keep began, by who holds it back.';

CREATE FUNCTION monitoring.collect_settings(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH settings AS MATERIALIZED (
		SELECT s.name, s.setting, s.unit, s.vartype, s.pending_restart FROM pg_settings AS s
	), numbers AS (
		SELECT regexp_replace(s.name, '[^a-zA-Z0-9_]', '_', 'g') AS name, CASE s.vartype WHEN 'bool' THEN (s.setting = 'on')::int ELSE s.setting::float8 END AS value,
			u.suffix, u.factor
		FROM settings AS s
		LEFT JOIN (VALUES ('ms', '_seconds', 0.001), ('s', '_seconds', 1), ('min', '_seconds', 60), ('h', '_seconds', 3600), ('d', '_seconds', 86400), ('us', '_seconds', 0.000001),
			('B', '_bytes', 1), ('kB', '_bytes', 1024), ('MB', '_bytes', 1048576), ('8kB', '_bytes', 8192), ('16kB', '_bytes', 16384), ('32kB', '_bytes', 32768),
			('4kB', '_bytes', 4096), ('1MB', '_bytes', 1048576), ('2MB', '_bytes', 2097152)) AS u (unit, suffix, factor) ON u.unit = s.unit
		WHERE s.vartype IN ('bool', 'integer', 'real') AND (s.unit IS NULL OR u.unit IS NOT NULL)
	)
	SELECT 'pg_settings_' || n.name || coalesce(n.suffix, ''), 'gauge', '{}'::jsonb,
		-- -1 is no amount but a word: off, or by another setting
		CASE WHEN n.value < 0 THEN n.value ELSE n.value * coalesce(n.factor, 1) END, NULL::timestamptz
	FROM numbers AS n
	UNION ALL
	SELECT 'pg_settings_pending_restart', 'gauge', '{}', count(*) FILTER (WHERE s.pending_restart), NULL FROM settings AS s;
END $$;
COMMENT ON FUNCTION monitoring.collect_settings(timestamptz) IS 'Collector: settings that are numbers or booleans, in base units, and how many wait for a restart.';

INSERT INTO monitoring.collectors (name, function, scope, every, description) VALUES
	('server', 'monitoring.collect_server', 'server', '10 seconds', 'that the server is up, its version, its start'),
	('sessions', 'monitoring.collect_sessions', 'server', '10 seconds', 'sessions by state, long and idle transactions, prepared transactions'),
	('databases', 'monitoring.collect_databases', 'server', '10 seconds', 'transactions, blocks, rows, temporary files, deadlocks, conflicts; ages of transaction ids'),
	('locks', 'monitoring.collect_locks', 'server', '10 seconds', 'locks and who waits for one'),
	('checkpoints', 'monitoring.collect_checkpoints', 'server', '30 seconds', 'checkpointer and background writer'),
	('wal', 'monitoring.collect_wal', 'server', '10 seconds', 'write-ahead log and archiver'),
	('wal_files', 'monitoring.collect_wal_files', 'server', '1 minute', 'files of the write-ahead log, and temporary ones'),
	('replication', 'monitoring.collect_replication', 'server', '10 seconds', 'standbys, slots, lag'),
	('slru', 'monitoring.collect_slru', 'server', '1 minute', 'caches of transaction states'),
	('io', 'monitoring.collect_io', 'server', '1 minute', 'pg_stat_io'),
	('horizon', 'monitoring.collect_horizon', 'server', '30 seconds', 'what keeps vacuum from removing rows'),
	('settings', 'monitoring.collect_settings', 'server', '5 minutes', 'settings'),
	('subscriptions', 'monitoring.collect_subscriptions', 'database', '30 seconds', 'subscriptions of logical replication');
INSERT INTO monitoring.collectors (name, function, scope, every, cost_limit, description) VALUES
	('database_sizes', 'monitoring.collect_database_sizes', 'server', '5 minutes', '3 seconds', 'sizes of databases');
