
-- health, PostgreSQL: the checks of the server that are there from the start. They read the server's own views, so that
-- they work alone; names that differ between its versions are looked for when they run.

CREATE FUNCTION monitoring.checkpoint_counts(OUT timed bigint, OUT requested bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- PostgreSQL 17 moved them
	IF to_regclass('pg_catalog.pg_stat_checkpointer') IS NOT NULL THEN
		EXECUTE 'SELECT num_timed, num_requested FROM pg_catalog.pg_stat_checkpointer' INTO timed, requested;
	ELSE
		EXECUTE 'SELECT checkpoints_timed, checkpoints_req FROM pg_catalog.pg_stat_bgwriter' INTO timed, requested;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.checkpoint_counts() IS 'Checkpoints since statistics were reset: those that were due, and those that something asked for.';

CREATE FUNCTION monitoring.usable_connections() RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- 16 has further reserved ones
	SELECT greatest(1, sum(CASE s.name WHEN 'max_connections' THEN 1 ELSE -1 END * s.setting::integer))::integer
	FROM pg_settings AS s WHERE s.name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')
$$;
COMMENT ON FUNCTION monitoring.usable_connections() IS 'Connections that are there for roles without reserved ones.';

CREATE FUNCTION monitoring.wal_position() RETURNS pg_lsn
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
$$;
COMMENT ON FUNCTION monitoring.wal_position() IS 'Where the WAL is: written on a primary, replayed on a standby.';

CREATE FUNCTION monitoring.sequences_used() RETURNS TABLE (sequence regclass, used_ratio float8, owned_by text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT q.seqrelid::regclass, greatest(0, CASE WHEN q.seqincrement > 0
			THEN (v.last - q.seqmin::numeric) / nullif(least(q.seqmax, o.most)::numeric - q.seqmin, 0)
			ELSE (q.seqmax::numeric - v.last) / nullif(q.seqmax::numeric - greatest(q.seqmin, -o.most - 1), 0) END)::float8, o.owner
	FROM pg_sequence AS q
	CROSS JOIN LATERAL (SELECT monitoring.sequence_position(q.seqrelid)::numeric AS last) AS v
	-- the column that it is for may end before it does
	LEFT JOIN LATERAL (
		SELECT CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END AS most,
			format('%s.%I', a.attrelid::regclass, a.attname) AS owner
		FROM pg_depend AS d
		JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
		WHERE d.classid = 'pg_class'::regclass AND d.objid = q.seqrelid AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
		LIMIT 1) AS o ON true
	WHERE NOT q.seqcycle AND v.last IS NOT NULL
		AND (SELECT c.relpersistence FROM pg_class AS c WHERE c.oid = q.seqrelid) <> 't'
$$;
COMMENT ON FUNCTION monitoring.sequences_used() IS 'How much of each sequence, or of the type of the column that it is for, is used up; sequences that cycle, are temporary or have given nothing are left out.';

INSERT INTO monitoring.health_check_defs (name, kind, config, owner, every, timeout, retries, op, degraded, unhealthy, severity,
	depends_on, maintenance, labels, description, enabled, created_at, builtin)
SELECT c.name, 'sql', jsonb_build_object('query', c.query) || c.config, current_user, c.every::interval, '5 seconds', c.retries, c.op, c.degraded, c.unhealthy,
	c.severity, '{}', '{}', '{}', c.description, true, now(), true
FROM (VALUES
	('connections', '1 minute', 1, '>', 0.8, 0.95, 'high', '{}'::jsonb, 'share of the connections that are in use',
$q$SELECT count(*)::float8 / c.usable AS value, format('%s of %s connections are in use', count(*), c.usable) AS message
FROM pg_stat_activity AS a CROSS JOIN (SELECT monitoring.usable_connections() AS usable) AS c
WHERE a.backend_type = 'client backend' GROUP BY c.usable$q$),
	('cache_hit_ratio', '1 minute', 2, '<', 0.95, 0.9, 'low', '{"increase_over_seconds": 600, "min_total": 10000}', 'share of the blocks of this database found in shared buffers, in 10 minutes',
$q$SELECT blks_hit AS value, blks_hit + blks_read AS total FROM pg_stat_database WHERE datname = current_database()$q$),
	('commit_ratio', '1 minute', 2, '<', 0.9, 0.8, 'medium', '{"increase_over_seconds": 600, "min_total": 1000}', 'share of the transactions of this database that commit, in 10 minutes',
$q$SELECT xact_commit AS value, xact_commit + xact_rollback AS total FROM pg_stat_database WHERE datname = current_database()$q$),
	('xid_age', '10 minutes', 0, '>', 5e8, 1e9, 'critical', '{}', 'age of the oldest transaction id; at 2,146 million the server stops taking commands',
$q$SELECT age(datfrozenxid) AS value, format('the oldest transaction id in database %I has an age of %s', datname, age(datfrozenxid)) AS message
FROM pg_database ORDER BY 1 DESC LIMIT 1$q$),
	('multixact_age', '10 minutes', 0, '>', 5e8, 1e9, 'critical', '{}', 'age of the oldest multixact id',
$q$SELECT mxid_age(datminmxid) AS value, format('the oldest multixact id in database %I has an age of %s', datname, mxid_age(datminmxid)) AS message
FROM pg_database ORDER BY 1 DESC LIMIT 1$q$),
	('replication_lag', '30 seconds', 1, '>', 10, 60, 'high', '{}', 'seconds by which replay on standbys lags',
$q$SELECT extract(epoch FROM r.replay_lag)::float8 AS value, format('standby %s lags by %s s', coalesce(nullif(r.application_name, ''), r.pid::text), round(extract(epoch FROM r.replay_lag), 1)) AS message
FROM pg_stat_replication AS r WHERE r.state = 'streaming' AND r.replay_lag IS NOT NULL ORDER BY 1 DESC LIMIT 20$q$),
	('replication_lag_bytes', '30 seconds', 1, '>', 67108864, 1073741824, 'high', '{}', 'WAL that standbys have not replayed',
$q$SELECT pg_wal_lsn_diff(monitoring.wal_position(), r.replay_lsn)::float8 AS value,
	format('standby %s has not replayed %s', coalesce(nullif(r.application_name, ''), r.pid::text), pg_size_pretty(pg_wal_lsn_diff(monitoring.wal_position(), r.replay_lsn))) AS message
FROM pg_stat_replication AS r WHERE r.replay_lsn IS NOT NULL AND r.state <> 'backup' ORDER BY 1 DESC LIMIT 20$q$),
	('replication_slots', '1 minute', 1, '>', 1073741824, 10737418240, 'high', '{}', 'WAL that inactive slots keep, and slots that lose theirs',
$q$SELECT CASE WHEN NOT s.active THEN pg_wal_lsn_diff(monitoring.wal_position(), s.restart_lsn)::float8 END AS value,
	CASE WHEN s.wal_status = 'lost' THEN 'unhealthy' WHEN s.wal_status = 'unreserved' OR s.safe_wal_size < 0.2 * pg_size_bytes(current_setting('max_slot_wal_keep_size')) THEN 'degraded' ELSE 'healthy' END AS status,
	format('slot %I%s keeps %s of WAL (%s)', s.slot_name, CASE WHEN NOT s.active THEN ', which nobody reads,' END,
		coalesce(pg_size_pretty(pg_wal_lsn_diff(monitoring.wal_position(), s.restart_lsn)), 'no'), coalesce(s.wal_status, 'unused')) AS message
FROM pg_replication_slots AS s WHERE NOT s.temporary AND (s.restart_lsn IS NOT NULL OR s.wal_status IS NOT NULL) LIMIT 90$q$),
	('longest_transaction', '30 seconds', 0, '>', 300, 1800, 'medium', '{}', 'age of the oldest open transaction of a client',
$q$SELECT extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS value,
	format('pid %s (%s, %s) has been in a transaction for %s s', a.pid, a.usename, a.state, round(extract(epoch FROM clock_timestamp() - a.xact_start))) AS message
FROM pg_stat_activity AS a WHERE a.backend_type = 'client backend' AND a.xact_start IS NOT NULL ORDER BY a.xact_start LIMIT 5$q$),
	('idle_in_transaction', '30 seconds', 0, '>', 60, 600, 'medium', '{}', 'how long sessions have been idle in a transaction',
$q$SELECT extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS value,
	format('pid %s (%s, %s) has been idle in a transaction for %s s', a.pid, a.usename, a.application_name, round(extract(epoch FROM clock_timestamp() - a.state_change))) AS message
FROM pg_stat_activity AS a WHERE a.state LIKE 'idle in transaction%' ORDER BY a.state_change LIMIT 5$q$),
	('lock_wait', '10 seconds', 0, '>', 10, 60, 'high', '{}', 'how long sessions have been waiting for a lock',
$q$SELECT extract(epoch FROM clock_timestamp() - l.waitstart)::float8 AS value,
	format('pid %s has been waiting for a %s lock of %s for %s s', l.pid, l.mode, coalesce(l.relation::regclass::text, l.locktype), round(extract(epoch FROM clock_timestamp() - l.waitstart))) AS message
FROM pg_locks AS l WHERE NOT l.granted AND l.waitstart IS NOT NULL ORDER BY l.waitstart LIMIT 5$q$),
	('waiting_sessions', '10 seconds', 1, '>', 5, 20, 'high', '{}', 'sessions that wait for locks',
$q$SELECT count(*) AS value, format('%s sessions wait for locks', count(*)) AS message FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock'$q$),
	('deadlocks', '1 minute', 0, '>', 0, NULL, 'medium', '{"increase_over_seconds": 600}', 'deadlocks in this database in 10 minutes',
$q$SELECT deadlocks AS value FROM pg_stat_database WHERE datname = current_database()$q$),
	('temp_files', '5 minutes', 0, '>', 1073741824, 10737418240, 'low', '{"increase_over_seconds": 3600}', 'bytes that this database wrote to temporary files in an hour',
$q$SELECT temp_bytes AS value FROM pg_stat_database WHERE datname = current_database()$q$),
	('checkpoints_requested', '5 minutes', 0, '>', 0.3, 0.6, 'low', '{"increase_over_seconds": 3600, "min_total": 5}', 'share of checkpoints that were not due but asked for, in an hour',
$q$SELECT requested AS value, timed + requested AS total FROM monitoring.checkpoint_counts()$q$),
	('archiver', '1 minute', 0, '>', 0, 600, 'critical', '{}', 'seconds for which WAL could not be archived',
$q$SELECT CASE WHEN a.last_failed_time > coalesce(a.last_archived_time, '-infinity') AND current_setting('archive_mode') <> 'off'
		THEN extract(epoch FROM clock_timestamp() - coalesce(greatest(a.last_archived_time, a.stats_reset), a.last_failed_time))::float8 ELSE 0 END AS value,
	CASE WHEN a.last_failed_time > coalesce(a.last_archived_time, '-infinity') THEN format('%s could not be archived', a.last_failed_wal) ELSE 'nothing has failed' END AS message
FROM pg_stat_archiver AS a$q$),
	('dead_tuples', '10 minutes', 1, '>', 0.2, NULL, 'medium', '{}', 'dead rows of tables beyond twice the number at which autovacuum begins',
$q$SELECT t.n_dead_tup::float8 / (t.n_live_tup + t.n_dead_tup) AS value, format('%I.%I has %s dead rows', t.schemaname, t.relname, t.n_dead_tup) AS message
FROM pg_stat_all_tables AS t
WHERE t.n_dead_tup > 10000 AND t.n_dead_tup > 2 * monitoring.vacuum_due_at(NULL, t.n_live_tup)
ORDER BY t.n_dead_tup DESC LIMIT 20$q$),
	('table_bloat', '1 hour', 0, '>', NULL, NULL, 'low', '{}', 'estimated space that tables take and do not need: 40 % of 100 MB, 60 % of 1 GB',
$q$SELECT b.bloat_ratio AS value, CASE WHEN b.bloat_ratio > 0.6 AND b.bytes > 1073741824 THEN 'unhealthy' WHEN b.bloat_ratio > 0.4 THEN 'degraded' ELSE 'healthy' END AS status,
	format('%s: about %s of %s', b.relation, pg_size_pretty(b.bloat_bytes), pg_size_pretty(b.bytes)) AS message
FROM monitoring.table_bloat(104857600) AS b ORDER BY b.bloat_bytes DESC LIMIT 20$q$),
	('sequences', '10 minutes', 0, '>', 0.75, 0.9, 'high', '{}', 'share of sequences, or of the columns that they are for, that is used up',
$q$SELECT s.used_ratio AS value, format('sequence %s%s is used up to %s %%', s.sequence, ' of ' || s.owned_by, round(100 * s.used_ratio::numeric, 1)) AS message
FROM monitoring.sequences_used() AS s ORDER BY s.used_ratio DESC LIMIT 20$q$),
	('invalid_indexes', '10 minutes', 1, '>', NULL, NULL, 'medium', '{}', 'indexes that no query uses, as making them failed',
$q$SELECT 'degraded' AS status, format('index %s is invalid', i.indexrelid::regclass) AS message
FROM pg_index AS i
WHERE NOT i.indisvalid AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid OR p.relid = i.indrelid)
	AND (SELECT c.relkind FROM pg_class AS c WHERE c.oid = i.indexrelid) = 'i'
LIMIT 50$q$),
	('unvalidated_constraints', '10 minutes', 0, '>', NULL, NULL, 'info', '{}', 'constraints that old rows may break',
$q$SELECT 'degraded' AS status, format('constraint %I of %s is not validated', c.conname, c.conrelid::regclass) AS message
FROM pg_constraint AS c WHERE NOT c.convalidated AND c.contype IN ('c', 'f') LIMIT 50$q$),
	('prepared_transactions', '1 minute', 0, '>', 600, 3600, 'high', '{}', 'age of prepared transactions, which keep locks and dead rows',
$q$SELECT extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS value, format('transaction %L of %s was prepared %s s ago', p.gid, p.owner, round(extract(epoch FROM clock_timestamp() - p.prepared))) AS message
FROM pg_prepared_xacts AS p ORDER BY p.prepared LIMIT 5$q$),
	('autovacuum_busy', '1 minute', 0, '>', 900, NULL, 'medium', '{}', 'seconds for which all autovacuum workers have been busy',
$q$SELECT CASE WHEN count(*) >= current_setting('autovacuum_max_workers')::integer THEN extract(epoch FROM clock_timestamp() - max(a.xact_start))::float8 ELSE 0 END AS value,
	format('%s of %s autovacuum workers are busy', count(*), current_setting('autovacuum_max_workers')) AS message
FROM pg_stat_activity AS a WHERE a.backend_type = 'autovacuum worker'$q$),
	('disk_used', '1 minute', 1, '>', 0.8, 0.9, 'critical', '{"no_rows": "unknown"}', 'share of file systems that is used, as the metrics of the host have it',
$q$SELECT v.value, format('%s is used up to %s %%', v.series_labels ->> 'mount', round(100 * v.value::numeric, 1)) AS message
FROM monitoring.series_values('host_disk_used_ratio', 'last', '10 minutes', '{}', '{mount}', $1) AS v WHERE v.value IS NOT NULL ORDER BY v.value DESC LIMIT 20$q$),
	('checksum_failures', '5 minutes', 0, '>', NULL, 0, 'critical', '{}', 'pages whose checksum was wrong, since statistics were reset',
$q$SELECT d.checksum_failures AS value, format('%s pages of %s were damaged, the last one seen at %s', d.checksum_failures, coalesce(d.datname, 'shared tables'), d.checksum_last_failure) AS message
FROM pg_stat_database AS d WHERE d.checksum_failures > 0$q$),
	('pending_restart', '10 minutes', 0, '>', 0, NULL, 'info', '{}', 'settings that were changed and wait for a restart',
$q$SELECT count(*) AS value, coalesce(string_agg(s.name, ', ' ORDER BY s.name), 'none') AS message FROM pg_settings AS s WHERE s.pending_restart$q$),
	('monitoring_lag', '1 minute', 1, '>', 60, 300, 'high', '{}', 'seconds by which jobs of this extension are late, and jobs that fail',
$q$SELECT w.lag AS value, CASE WHEN w.job_state = 'failed' THEN 'degraded' ELSE 'healthy' END AS status,
	CASE WHEN w.job_state = 'failed' THEN format('job %I fails: %s', w.job, j.last_error) ELSE format('job %I is late by %s s', w.job, round(w.lag::numeric, 1)) END AS message
FROM monitoring.worker_status() AS w JOIN monitoring.jobs AS j ON j.name = w.job
WHERE w.datid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) AND w.job_state IS NOT NULL
ORDER BY w.job_state <> 'failed', w.lag DESC NULLS LAST LIMIT 5$q$)
) AS c (name, every, retries, op, degraded, unhealthy, severity, config, description, query);

-- not before: scripts of extensions run as restores do
CREATE TRIGGER restore BEFORE INSERT ON monitoring.health_check_defs
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.health_check_defs IS 'When a dump is restored its checks replace those of the extension.';
