-- server: statements. The library's hooks count every execution in shared memory (src/server/statement_registry.c); a snapshot
-- writes what was counted since the one before, with a sketch of the latencies, and views add what no snapshot has yet.
--
-- A snapshot hands over what is in memory under its number, which it stores in statement_state in the same transaction: memory
-- keeps it until the next one finds that number committed. The row's lock is held during a snapshot, so there is one at a time.
--
-- Roles are stored by oid, databases not at all: each database keeps its own statements.

----------------------------------------------------------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.statement_state (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	seq bigint NOT NULL DEFAULT 0,
	watching_since timestamptz,
	snapshot_at timestamptz,
	statements integer NOT NULL DEFAULT 0,
	rolled_up_to timestamptz,
	purged_at timestamptz
);
COMMENT ON TABLE monitoring.statement_state IS 'One row: how far snapshots of statements have come. Its lock is held during a snapshot.';
COMMENT ON COLUMN monitoring.statement_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.statement_state.seq IS 'Number of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.watching_since IS 'When the extension was created.';
COMMENT ON COLUMN monitoring.statement_state.snapshot_at IS 'Time of the latest snapshot; null before the first.';
COMMENT ON COLUMN monitoring.statement_state.statements IS 'Statements that ran before the latest snapshot and after the one before.';
COMMENT ON COLUMN monitoring.statement_state.rolled_up_to IS 'Everything before is in statement_hours and statement_totals.';
COMMENT ON COLUMN monitoring.statement_state.purged_at IS 'Snapshot that last removed forgotten statements.';
INSERT INTO monitoring.statement_state (watching_since) VALUES (clock_timestamp());

-- What is zero is stored as null, which takes no room.
CREATE TABLE monitoring.statement_deltas (
	bucket timestamptz NOT NULL,
	since timestamptz NOT NULL,
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	toplevel boolean NOT NULL,
	max_seconds float8,
	latency monitoring.sketch,
	calls bigint, errors bigint, cancels bigint, plans bigint, rows bigint, shared_hit_bytes bigint,
	shared_read_bytes bigint, shared_dirtied_bytes bigint, shared_written_bytes bigint, local_hit_bytes bigint,
	local_read_bytes bigint, local_dirtied_bytes bigint, local_written_bytes bigint, temp_read_bytes bigint,
	temp_written_bytes bigint, wal_records bigint, wal_full_page_images bigint, wal_bytes bigint,
	jit_functions bigint, total_seconds float8, failed_seconds float8, planning_seconds float8,
	io_read_seconds float8, io_write_seconds float8, jit_seconds float8
) PARTITION BY RANGE (bucket);
COMMENT ON TABLE monitoring.statement_deltas IS 'What each statement that ran did between two snapshots. Zero is stored as null. Granted to nobody; see the view statement_history, which also explains the columns.';
CREATE TABLE monitoring.statement_hours (LIKE monitoring.statement_deltas) PARTITION BY RANGE (bucket);
COMMENT ON TABLE monitoring.statement_hours IS 'The same by the hour, kept for longer. Granted to nobody; see the view statement_hourly.';
COMMENT ON COLUMN monitoring.statement_deltas.bucket IS 'End of the interval.';
COMMENT ON COLUMN monitoring.statement_deltas.since IS 'Start of the interval.';
COMMENT ON COLUMN monitoring.statement_deltas.queryid IS 'Identity of the normalised statement, as in pg_stat_activity; 0: statements that had no room of their own.';
COMMENT ON COLUMN monitoring.statement_deltas.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_deltas.toplevel IS 'True if sent by a client, false if run inside a function or another statement.';
COMMENT ON COLUMN monitoring.statement_deltas.max_seconds IS 'Longest execution.';
COMMENT ON COLUMN monitoring.statement_deltas.latency IS 'Sketch of the execution times (seconds).';
COMMENT ON COLUMN monitoring.statement_deltas.calls IS 'Executions that ended well.';
COMMENT ON COLUMN monitoring.statement_deltas.errors IS 'Executions that ended with an error.';
COMMENT ON COLUMN monitoring.statement_deltas.cancels IS 'Executions that were cancelled, or ran into a timeout.';
COMMENT ON COLUMN monitoring.statement_deltas.plans IS 'Times it was planned.';
COMMENT ON COLUMN monitoring.statement_deltas.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_hit_bytes IS 'Bytes found in shared buffers.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_read_bytes IS 'Bytes read into shared buffers.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_written_bytes IS 'Bytes of shared buffers that the statement itself had to write.';
COMMENT ON COLUMN monitoring.statement_deltas.local_hit_bytes IS 'Bytes of temporary tables found in local buffers.';
COMMENT ON COLUMN monitoring.statement_deltas.local_read_bytes IS 'Bytes of temporary tables read.';
COMMENT ON COLUMN monitoring.statement_deltas.local_dirtied_bytes IS 'Bytes of local buffers dirtied.';
COMMENT ON COLUMN monitoring.statement_deltas.local_written_bytes IS 'Bytes of temporary tables written.';
COMMENT ON COLUMN monitoring.statement_deltas.temp_read_bytes IS 'Bytes read from temporary files.';
COMMENT ON COLUMN monitoring.statement_deltas.temp_written_bytes IS 'Bytes written to temporary files.';
COMMENT ON COLUMN monitoring.statement_deltas.wal_records IS 'Records of write-ahead log.';
COMMENT ON COLUMN monitoring.statement_deltas.wal_full_page_images IS 'Full page images in it.';
COMMENT ON COLUMN monitoring.statement_deltas.wal_bytes IS 'Bytes of write-ahead log.';
COMMENT ON COLUMN monitoring.statement_deltas.jit_functions IS 'Functions compiled just in time.';
COMMENT ON COLUMN monitoring.statement_deltas.total_seconds IS 'Time of the executions that ended well.';
COMMENT ON COLUMN monitoring.statement_deltas.failed_seconds IS 'Time of those that did not.';
COMMENT ON COLUMN monitoring.statement_deltas.planning_seconds IS 'Time of planning.';
COMMENT ON COLUMN monitoring.statement_deltas.io_read_seconds IS 'Time spent reading blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.statement_deltas.io_write_seconds IS 'Time spent writing blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.statement_deltas.jit_seconds IS 'Time spent in just-in-time compilation.';
COMMENT ON COLUMN monitoring.statement_hours.bucket IS 'End of the hour.';
COMMENT ON COLUMN monitoring.statement_hours.since IS 'Start of the hour.';
SELECT monitoring.inherit_comments('monitoring.statement_hours', 'monitoring.statement_deltas');

-- Equal buckets share one entry of the index; alert rules ask every second for what took 0.1 seconds or more.
INSERT INTO monitoring.retention_policies (relation, partition_step, keep, indexes)
VALUES ('statement_deltas', '1 day', '7 days', ARRAY['(bucket)', '(bucket) WHERE max_seconds >= 0.1::float8']),
	('statement_hours', '7 days', '60 days', ARRAY['(bucket)']);

CREATE TABLE monitoring.statement_totals (
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	toplevel boolean NOT NULL,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz,
	calls bigint NOT NULL DEFAULT 0,
	errors bigint NOT NULL DEFAULT 0,
	cancels bigint NOT NULL DEFAULT 0,
	rows bigint NOT NULL DEFAULT 0,
	total_seconds float8 NOT NULL DEFAULT 0,
	max_seconds float8,
	slowest_at timestamptz,
	PRIMARY KEY (queryid, userid, toplevel)
);
COMMENT ON TABLE monitoring.statement_totals IS 'Statements of this database since they were first seen, up to statement_state.rolled_up_to. Granted to nobody; see the view statements, which also explains the columns.';
COMMENT ON COLUMN monitoring.statement_totals.queryid IS 'Identity of the normalised statement; 0: statements that had no room of their own.';
COMMENT ON COLUMN monitoring.statement_totals.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_totals.toplevel IS 'True if sent by a client, false if run inside a function or another statement.';
COMMENT ON COLUMN monitoring.statement_totals.first_seen IS 'Snapshot that first had it.';
COMMENT ON COLUMN monitoring.statement_totals.last_seen IS 'End of the last interval in which it ran.';
COMMENT ON COLUMN monitoring.statement_totals.calls IS 'Executions that ended well.';
COMMENT ON COLUMN monitoring.statement_totals.errors IS 'Executions that ended with an error.';
COMMENT ON COLUMN monitoring.statement_totals.cancels IS 'Executions that were cancelled, or ran into a timeout.';
COMMENT ON COLUMN monitoring.statement_totals.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statement_totals.total_seconds IS 'Time of the executions that ended well.';
COMMENT ON COLUMN monitoring.statement_totals.max_seconds IS 'Longest execution.';
COMMENT ON COLUMN monitoring.statement_totals.slowest_at IS 'End of the interval that had it.';

CREATE TABLE monitoring.statement_texts (
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	query text NOT NULL CHECK (octet_length(query) <= 8192),
	first_seen timestamptz NOT NULL,
	PRIMARY KEY (queryid, userid)
);
COMMENT ON TABLE monitoring.statement_texts IS 'Text of each statement, once, as the role ran it first: at most 8192 bytes, without literals. Granted to nobody; see the view statement_queries.';
COMMENT ON COLUMN monitoring.statement_texts.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_texts.userid IS 'Role that ran it: texts that differ only in comments or names have the same queryid, and each role sees its own.';
COMMENT ON COLUMN monitoring.statement_texts.query IS 'The normalised text.';
COMMENT ON COLUMN monitoring.statement_texts.first_seen IS 'Snapshot that stored it.';

----------------------------------------------------------------------------------------------------------------------
-- Memory
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.take_statements(stored bigint, seq bigint)
RETURNS TABLE (queryid bigint, userid oid, toplevel boolean, calls bigint, errors bigint, cancels bigint, plans bigint, rows bigint, shared_hit_bytes bigint,
	shared_read_bytes bigint, shared_dirtied_bytes bigint, shared_written_bytes bigint, local_hit_bytes bigint,
	local_read_bytes bigint, local_dirtied_bytes bigint, local_written_bytes bigint, temp_read_bytes bigint,
	temp_written_bytes bigint, wal_records bigint, wal_full_page_images bigint, wal_bytes bigint,
	jit_functions bigint, total_seconds float8, failed_seconds float8, planning_seconds float8,
	io_read_seconds float8, io_write_seconds float8, jit_seconds float8,
	latency monitoring.sketch, query text)
LANGUAGE c VOLATILE STRICT ROWS 5000 AS 'MODULE_PATHNAME', 'mon_take_statements';
COMMENT ON FUNCTION monitoring.take_statements(bigint, bigint) IS 'What was counted of statements of this database and is in no snapshot up to the number `stored`, handed over to snapshot `seq`; and the texts of statements that have none in the tables. For snapshot_statements(), which sees to it that there is one at a time. Without the library preloaded: 55000.';

CREATE FUNCTION monitoring.live_statements(stored bigint)
RETURNS TABLE (queryid bigint, userid oid, toplevel boolean, calls bigint, errors bigint, cancels bigint, plans bigint, rows bigint, shared_hit_bytes bigint,
	shared_read_bytes bigint, shared_dirtied_bytes bigint, shared_written_bytes bigint, local_hit_bytes bigint,
	local_read_bytes bigint, local_dirtied_bytes bigint, local_written_bytes bigint, temp_read_bytes bigint,
	temp_written_bytes bigint, wal_records bigint, wal_full_page_images bigint, wal_bytes bigint,
	jit_functions bigint, total_seconds float8, failed_seconds float8, planning_seconds float8,
	io_read_seconds float8, io_write_seconds float8, jit_seconds float8,
	latency monitoring.sketch, query text)
LANGUAGE c STABLE STRICT ROWS 5000 AS 'MODULE_PATHNAME', 'mon_live_statements';
COMMENT ON FUNCTION monitoring.live_statements(bigint) IS 'What was counted of statements of this database and is in no snapshot up to the number `stored`, as take_statements() would give it; changes nothing. Texts of other roles'' statements are null without the rights of pg_read_all_stats. Without the library preloaded there are no rows.';

CREATE FUNCTION monitoring.forget_statements() RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mon_forget_statements';
COMMENT ON FUNCTION monitoring.forget_statements() IS 'Forget what is in memory of statements of this database and not stored.';
-- left by an extension of this database that was dropped
SELECT monitoring.forget_statements();

CREATE FUNCTION monitoring.statement_registry(OUT capacity integer, OUT entries integer, OUT evictions bigint, OUT lost bigint,
	OUT databases integer)
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mon_statement_registry';
COMMENT ON FUNCTION monitoring.statement_registry() IS 'Statements that memory is for and that it holds, of all databases; entries whose counts were added to those of others to make room, and executions that could not be counted at all, since the server started; databases that it has statements of, 64 at most. Null without the library preloaded.';

CREATE VIEW monitoring.statement_source AS
	SELECT r.capacity, r.entries, r.evictions, r.lost, t.setting AS track, s.watching_since, s.snapshot_at, s.statements,
		e.extversion AS pg_stat_statements,
		CASE
			WHEN r.capacity IS NULL THEN 'Add monitoring to shared_preload_libraries and restart the server.'
			WHEN q.setting = 'off' THEN 'Set compute_query_id to auto or on: statements have no identity without it.'
			WHEN t.setting = 'none' AND t.source <> 'session' THEN 'Set monitoring.track_statements to top or all.'
			WHEN r.evictions > 0 THEN 'Raise monitoring.max_statements: rare statements are counted together as others.'
		END AS hint
	FROM monitoring.statement_state AS s
	CROSS JOIN monitoring.statement_registry() AS r
	LEFT JOIN pg_catalog.pg_settings AS t ON t.name = 'monitoring.track_statements'
	LEFT JOIN pg_catalog.pg_settings AS q ON q.name = 'compute_query_id'
	LEFT JOIN pg_catalog.pg_extension AS e ON e.extname = 'pg_stat_statements';
COMMENT ON VIEW monitoring.statement_source IS 'One row: how statements are watched, and what to do if they are not.';
COMMENT ON COLUMN monitoring.statement_source.capacity IS 'Statements of the whole server that memory is for: monitoring.max_statements.';
COMMENT ON COLUMN monitoring.statement_source.entries IS 'Statements that it holds: those that ran within the hour.';
COMMENT ON COLUMN monitoring.statement_source.evictions IS 'Entries whose counts were added to those of others (queryid 0) to make room, since the server started.';
COMMENT ON COLUMN monitoring.statement_source.lost IS 'Executions that could not be counted at all since then.';
COMMENT ON COLUMN monitoring.statement_source.track IS 'Which statements are counted: monitoring.track_statements as this session has it.';
COMMENT ON COLUMN monitoring.statement_source.watching_since IS 'When the extension was created.';
COMMENT ON COLUMN monitoring.statement_source.snapshot_at IS 'Latest snapshot; null before the first.';
COMMENT ON COLUMN monitoring.statement_source.statements IS 'Statements that ran before it and after the one before.';
COMMENT ON COLUMN monitoring.statement_source.pg_stat_statements IS 'Version of that extension in this database, if any; see compare_statements().';
COMMENT ON COLUMN monitoring.statement_source.hint IS 'What to do; null if all is well.';

----------------------------------------------------------------------------------------------------------------------
-- Snapshots
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.purge_statements(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	purged integer;
BEGIN
	DELETE FROM monitoring.statement_totals AS t
	WHERE coalesce(t.last_seen, t.first_seen) < at - (
		SELECT r.keep FROM monitoring.retention_policies AS r WHERE r.relation = 'statement_hours');
	GET DIAGNOSTICS purged = ROW_COUNT;

	DELETE FROM monitoring.statement_texts AS x
	WHERE NOT EXISTS (SELECT FROM monitoring.statement_totals AS t WHERE t.queryid = x.queryid AND t.userid = x.userid);
	RETURN purged;
END $$;
COMMENT ON FUNCTION monitoring.purge_statements(timestamptz) IS 'Removes statements, with their texts, that have not run for as long as history by the hour is kept. Returns how many. Snapshots do it once an hour.';

-- The hours that are over become rows of statement_hours, and are added to the totals.
CREATE FUNCTION monitoring.roll_up_statements(since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	PERFORM monitoring.ensure_partition('statement_hours', h.bucket)
	FROM (SELECT DISTINCT date_trunc('hour', d.bucket - interval '1 microsecond', 'UTC') + interval '1 hour' AS bucket
		FROM monitoring.statement_deltas AS d
		WHERE d.bucket > roll_up_statements.since AND d.bucket <= roll_up_statements.until) AS h;

	INSERT INTO monitoring.statement_hours (bucket, since, queryid, userid, toplevel, max_seconds, latency,
		calls, errors, cancels, plans, rows, shared_hit_bytes, shared_read_bytes, shared_dirtied_bytes,
		shared_written_bytes, local_hit_bytes, local_read_bytes, local_dirtied_bytes, local_written_bytes,
		temp_read_bytes, temp_written_bytes, wal_records, wal_full_page_images, wal_bytes, jit_functions, total_seconds,
		failed_seconds, planning_seconds, io_read_seconds, io_write_seconds, jit_seconds)
	SELECT h.hour + interval '1 hour', h.hour, d.queryid, d.userid, d.toplevel, max(d.max_seconds), monitoring.merge(d.latency),
		nullif(sum(d.calls)::bigint, 0), nullif(sum(d.errors)::bigint, 0), nullif(sum(d.cancels)::bigint, 0),
			nullif(sum(d.plans)::bigint, 0), nullif(sum(d.rows)::bigint, 0), nullif(sum(d.shared_hit_bytes)::bigint, 0),
			nullif(sum(d.shared_read_bytes)::bigint, 0), nullif(sum(d.shared_dirtied_bytes)::bigint, 0),
			nullif(sum(d.shared_written_bytes)::bigint, 0), nullif(sum(d.local_hit_bytes)::bigint, 0),
			nullif(sum(d.local_read_bytes)::bigint, 0), nullif(sum(d.local_dirtied_bytes)::bigint, 0),
			nullif(sum(d.local_written_bytes)::bigint, 0), nullif(sum(d.temp_read_bytes)::bigint, 0),
			nullif(sum(d.temp_written_bytes)::bigint, 0), nullif(sum(d.wal_records)::bigint, 0),
			nullif(sum(d.wal_full_page_images)::bigint, 0), nullif(sum(d.wal_bytes)::bigint, 0),
			nullif(sum(d.jit_functions)::bigint, 0), nullif(sum(d.total_seconds), 0), nullif(sum(d.failed_seconds), 0),
			nullif(sum(d.planning_seconds), 0), nullif(sum(d.io_read_seconds), 0), nullif(sum(d.io_write_seconds), 0),
			nullif(sum(d.jit_seconds), 0)
	FROM monitoring.statement_deltas AS d
	-- an interval belongs to the hour in which it ended
	CROSS JOIN LATERAL (SELECT date_trunc('hour', d.bucket - interval '1 microsecond', 'UTC') AS hour) AS h
	WHERE d.bucket > roll_up_statements.since AND d.bucket <= roll_up_statements.until
	GROUP BY h.hour, d.queryid, d.userid, d.toplevel;

	INSERT INTO monitoring.statement_totals AS t (queryid, userid, toplevel, first_seen, last_seen,
		calls, errors, cancels, rows, total_seconds, max_seconds, slowest_at)
	SELECT d.queryid, d.userid, d.toplevel, min(d.bucket), max(d.bucket),
		coalesce(sum(d.calls), 0), coalesce(sum(d.errors), 0), coalesce(sum(d.cancels), 0), coalesce(sum(d.rows), 0),
		coalesce(sum(d.total_seconds), 0), max(d.max_seconds), (array_agg(d.bucket ORDER BY d.max_seconds DESC NULLS LAST))[1]
	FROM monitoring.statement_deltas AS d
	WHERE d.bucket > roll_up_statements.since AND d.bucket <= roll_up_statements.until
	GROUP BY d.queryid, d.userid, d.toplevel
	ON CONFLICT (queryid, userid, toplevel) DO UPDATE SET
		last_seen = excluded.last_seen, calls = t.calls + excluded.calls, errors = t.errors + excluded.errors,
		cancels = t.cancels + excluded.cancels, rows = t.rows + excluded.rows,
		total_seconds = t.total_seconds + excluded.total_seconds, max_seconds = greatest(t.max_seconds, excluded.max_seconds),
		slowest_at = CASE WHEN excluded.max_seconds > coalesce(t.max_seconds, -1) THEN excluded.slowest_at ELSE t.slowest_at END;
END $$;
COMMENT ON FUNCTION monitoring.roll_up_statements(timestamptz, timestamptz) IS 'Part of a snapshot: the intervals that ended in (since, until], both full hours, become rows of statement_hours and are added to statement_totals.';

CREATE FUNCTION monitoring.snapshot_statements(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET lock_timeout = '10s' AS $$
DECLARE
	state monitoring.statement_state;
	hour timestamptz := date_trunc('hour', at, 'UTC');
	written integer;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a snapshot must be a finite timestamp' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT * INTO STRICT state FROM monitoring.statement_state FOR UPDATE;

	PERFORM monitoring.ensure_partition('statement_deltas', at);
	WITH taken AS MATERIALIZED (
		SELECT t.* FROM monitoring.take_statements(state.seq, state.seq + 1) AS t
	), texts AS (
		INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen)
		SELECT DISTINCT ON (t.queryid, t.userid) t.queryid, t.userid, t.query, at
		FROM taken AS t
		WHERE t.query IS NOT NULL
		ON CONFLICT DO NOTHING
	), new AS (
		INSERT INTO monitoring.statement_totals (queryid, userid, toplevel, first_seen)
		SELECT t.queryid, t.userid, t.toplevel, at
		FROM taken AS t
		WHERE t.query IS NOT NULL OR t.queryid = 0
		ON CONFLICT DO NOTHING
	), deltas AS (
		INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, max_seconds, latency,
			calls, errors, cancels, plans, rows, shared_hit_bytes, shared_read_bytes, shared_dirtied_bytes,
			shared_written_bytes, local_hit_bytes, local_read_bytes, local_dirtied_bytes, local_written_bytes,
			temp_read_bytes, temp_written_bytes, wal_records, wal_full_page_images, wal_bytes, jit_functions,
			total_seconds, failed_seconds, planning_seconds, io_read_seconds, io_write_seconds, jit_seconds)
		SELECT at, least(coalesce(state.snapshot_at, state.watching_since), at), t.queryid, t.userid, t.toplevel,
			monitoring.sketch_max(t.latency), t.latency,
			nullif(t.calls, 0), nullif(t.errors, 0), nullif(t.cancels, 0), nullif(t.plans, 0), nullif(t.rows, 0),
			nullif(t.shared_hit_bytes, 0), nullif(t.shared_read_bytes, 0), nullif(t.shared_dirtied_bytes, 0),
			nullif(t.shared_written_bytes, 0), nullif(t.local_hit_bytes, 0), nullif(t.local_read_bytes, 0),
			nullif(t.local_dirtied_bytes, 0), nullif(t.local_written_bytes, 0), nullif(t.temp_read_bytes, 0),
			nullif(t.temp_written_bytes, 0), nullif(t.wal_records, 0), nullif(t.wal_full_page_images, 0), nullif(t.wal_bytes, 0),
			nullif(t.jit_functions, 0), nullif(t.total_seconds, 0), nullif(t.failed_seconds, 0), nullif(t.planning_seconds, 0),
			nullif(t.io_read_seconds, 0), nullif(t.io_write_seconds, 0), nullif(t.jit_seconds, 0)
		FROM taken AS t
		WHERE t.calls > 0 OR t.errors > 0 OR t.cancels > 0 OR t.plans > 0
		RETURNING 1
	)
	SELECT count(*) INTO written FROM deltas;

	IF state.rolled_up_to IS NULL THEN
		state.rolled_up_to := hour;
	ELSIF hour > state.rolled_up_to THEN
		PERFORM monitoring.roll_up_statements(state.rolled_up_to, hour);
		state.rolled_up_to := hour;
	END IF;
	IF state.purged_at IS NULL OR at >= state.purged_at + interval '1 hour' THEN
		PERFORM monitoring.purge_statements(at);
		state.purged_at := at;
	END IF;
	UPDATE monitoring.statement_state AS s SET
		seq = state.seq + 1, snapshot_at = at, statements = written, rolled_up_to = state.rolled_up_to, purged_at = state.purged_at;
	RETURN written;
END $$;
COMMENT ON FUNCTION monitoring.snapshot_statements(timestamptz) IS 'Stores what the statements of this database did since the last snapshot, and the texts of new ones; returns the number of statements that ran. Raises 22023 for a null or infinite time, 55P03 if another snapshot takes longer than 10 s, 55000 without the library preloaded.';

CREATE FUNCTION monitoring.snapshot_statements_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- a worker that only lets another one have its turn need not
	IF at < (SELECT s.snapshot_at FROM monitoring.statement_state AS s) + interval '30 seconds' AND NOT monitoring.server_stopping() THEN
		RETURN;
	END IF;
	PERFORM monitoring.snapshot_statements(at);
END $$;
COMMENT ON FUNCTION monitoring.snapshot_statements_job(timestamptz) IS 'Job of the worker: snapshot_statements(at), unless the last one was less than 30 seconds before and the server goes on.';

INSERT INTO monitoring.jobs (name, function, every, priority, run_at_shutdown)
	VALUES ('statements', 'monitoring.snapshot_statements_job', '1 minute', 30, true);

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE VIEW monitoring.statement_queries AS
	SELECT t.queryid, t.userid, pg_catalog.pg_get_userbyid(t.userid) AS username,
		CASE WHEN a.everything OR t.userid = a.userid THEN t.query ELSE '<insufficient privilege>' END AS query, t.first_seen
	FROM monitoring.statement_texts AS t
	CROSS JOIN (
		SELECT r.oid AS userid, pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS everything
		FROM pg_catalog.pg_roles AS r
		WHERE r.rolname = current_user
	) AS a;
COMMENT ON VIEW monitoring.statement_queries IS 'Texts of statements. As in pg_stat_statements, you see those that you ran; with the rights of pg_read_all_stats, all.';
COMMENT ON COLUMN monitoring.statement_queries.queryid IS 'Identity of the normalised statement, as in pg_stat_statements and pg_stat_activity.';
COMMENT ON COLUMN monitoring.statement_queries.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_queries.username IS 'Name of that role.';
COMMENT ON COLUMN monitoring.statement_queries.query IS 'Text without literals, at most 8192 bytes; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.statement_queries.first_seen IS 'Snapshot that stored it.';

-- The columns of both are those of their tables, with zero for what is stored as null.
DO $$
DECLARE
	counters text := (
		SELECT string_agg(format('coalesce(d.%1$I, 0) AS %1$I', a.attname), ', ' ORDER BY a.attnum)
		FROM pg_catalog.pg_attribute AS a
		WHERE a.attrelid = 'monitoring.statement_deltas'::pg_catalog.regclass AND a.attnum > 0
			AND a.attname NOT IN ('bucket', 'since', 'queryid', 'userid', 'toplevel', 'max_seconds', 'latency'));
	v record;
BEGIN
	FOR v IN SELECT * FROM (VALUES ('statement_history', 'statement_deltas'), ('statement_hourly', 'statement_hours')) AS v (name, source)
	LOOP
		EXECUTE format(
			'CREATE VIEW monitoring.%I AS
				SELECT d.bucket, d.since, d.queryid, d.userid, pg_catalog.pg_get_userbyid(d.userid) AS username, d.toplevel,
					d.total_seconds / nullif(d.calls, 0) AS mean_seconds, d.max_seconds, d.latency, %s
				FROM monitoring.%I AS d', v.name, counters, v.source);
	END LOOP;
END $$;
COMMENT ON VIEW monitoring.statement_history IS 'What every statement that ran did between two snapshots, a minute apart by default, for 7 days. What came after the latest snapshot is in statement_live.';
COMMENT ON COLUMN monitoring.statement_history.username IS 'Name of that role.';
COMMENT ON COLUMN monitoring.statement_history.mean_seconds IS 'Mean time of the executions that ended well.';
COMMENT ON COLUMN monitoring.statement_history.latency IS 'Sketch of the execution times (seconds): percentile(latency, 0.95), merge(latency).';
SELECT monitoring.inherit_comments('monitoring.statement_history', 'monitoring.statement_deltas');

COMMENT ON VIEW monitoring.statement_hourly IS 'What every statement that ran did in an hour, for 60 days.';
COMMENT ON COLUMN monitoring.statement_hourly.bucket IS 'End of the hour.';
COMMENT ON COLUMN monitoring.statement_hourly.since IS 'Start of the hour.';
SELECT monitoring.inherit_comments('monitoring.statement_hourly', 'monitoring.statement_history');

CREATE VIEW monitoring.statement_live AS
	SELECT statement_timestamp() AS bucket,
		(SELECT coalesce(s.snapshot_at, s.watching_since) FROM monitoring.statement_state AS s) AS since, l.queryid, l.userid,
		pg_catalog.pg_get_userbyid(l.userid) AS username, l.toplevel, l.total_seconds / nullif(l.calls, 0) AS mean_seconds,
		monitoring.sketch_max(l.latency) AS max_seconds, l.latency,
		l.calls, l.errors, l.cancels, l.plans, l.rows, l.shared_hit_bytes, l.shared_read_bytes, l.shared_dirtied_bytes,
		l.shared_written_bytes, l.local_hit_bytes, l.local_read_bytes, l.local_dirtied_bytes, l.local_written_bytes,
		l.temp_read_bytes, l.temp_written_bytes, l.wal_records, l.wal_full_page_images, l.wal_bytes, l.jit_functions,
		l.total_seconds, l.failed_seconds, l.planning_seconds, l.io_read_seconds, l.io_write_seconds, l.jit_seconds, l.query
	FROM monitoring.live_statements((SELECT s.seq FROM monitoring.statement_state AS s)) AS l
	WHERE l.calls > 0 OR l.errors > 0 OR l.cancels > 0 OR l.plans > 0;
COMMENT ON VIEW monitoring.statement_live IS 'What statements did since the latest snapshot, from memory, in the shape of statement_history.';
COMMENT ON COLUMN monitoring.statement_live.bucket IS 'Now.';
COMMENT ON COLUMN monitoring.statement_live.since IS 'Time of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_live.query IS 'Text of a statement that has none in statement_queries yet; null otherwise, and for other roles'' statements without the rights of pg_read_all_stats.';
SELECT monitoring.inherit_comments('monitoring.statement_live', 'monitoring.statement_history');

CREATE VIEW monitoring.statement_clock AS
	SELECT s.snapshot_at, s.rolled_up_to, r.keep AS intervals_kept
	FROM monitoring.statement_state AS s
	LEFT JOIN monitoring.retention_policies AS r ON r.relation = 'statement_deltas';
COMMENT ON VIEW monitoring.statement_clock IS 'One row: how far the history of statements goes.';
COMMENT ON COLUMN monitoring.statement_clock.snapshot_at IS 'Latest snapshot; null before the first. What came later is in statement_live.';
COMMENT ON COLUMN monitoring.statement_clock.rolled_up_to IS 'Hours that ended by then are in statement_hourly.';
COMMENT ON COLUMN monitoring.statement_clock.intervals_kept IS 'How long statement_history goes back.';

-- Part of the query that calls it: what that does not ask for, sketches above all, is not read.
CREATE FUNCTION monitoring.statement_intervals(over interval, at timestamptz)
RETURNS TABLE (bucket timestamptz, queryid bigint, userid oid, calls bigint, errors bigint, cancels bigint, max_seconds float8,
	latency monitoring.sketch, total_seconds float8, planning_seconds float8, rows bigint, shared_hit_bytes bigint, shared_read_bytes bigint,
	temp_written_bytes bigint, wal_bytes bigint, io_read_seconds float8, io_write_seconds float8, query text)
LANGUAGE sql STABLE
BEGIN ATOMIC
	-- full hours come from statement_hourly so far as it goes, and where the intervals are not kept any more
	WITH bounds AS (
		SELECT b.since,
			CASE WHEN b.since < statement_intervals.at - s.intervals_kept THEN date_trunc('hour', b.since, 'UTC')
				ELSE date_trunc('hour', b.since - interval '1 microsecond', 'UTC') + interval '1 hour' END AS hours_from,
			least(date_trunc('hour', statement_intervals.at, 'UTC'), s.rolled_up_to) AS hours_to
		FROM monitoring.statement_clock AS s
		CROSS JOIN (SELECT greatest(statement_intervals.at - statement_intervals.over, '2000-01-01 00:00Z') AS since) AS b
		WHERE statement_intervals.over IS NOT NULL
		-- there is one row, which the planner would not know
		LIMIT 1
	)
	SELECT h.bucket, h.queryid, h.userid, h.calls, h.errors, h.cancels, h.max_seconds, h.latency, h.total_seconds, h.planning_seconds, h.rows,
		h.shared_hit_bytes, h.shared_read_bytes, h.temp_written_bytes, h.wal_bytes, h.io_read_seconds, h.io_write_seconds, NULL
	FROM bounds AS b
	JOIN monitoring.statement_hourly AS h ON h.bucket > b.hours_from AND h.bucket <= b.hours_to
	UNION ALL
	SELECT d.bucket, d.queryid, d.userid, d.calls, d.errors, d.cancels, d.max_seconds, d.latency, d.total_seconds, d.planning_seconds, d.rows,
		d.shared_hit_bytes, d.shared_read_bytes, d.temp_written_bytes, d.wal_bytes, d.io_read_seconds, d.io_write_seconds, NULL
	FROM bounds AS b
	JOIN monitoring.statement_history AS d ON d.bucket > b.since AND d.bucket <= statement_intervals.at
		AND (b.hours_from < b.hours_to AND d.bucket > b.hours_from AND d.bucket <= b.hours_to) IS NOT TRUE
	UNION ALL
	SELECT statement_intervals.at, l.queryid, l.userid, l.calls, l.errors, l.cancels, l.max_seconds, l.latency, l.total_seconds, l.planning_seconds, l.rows,
		l.shared_hit_bytes, l.shared_read_bytes, l.temp_written_bytes, l.wal_bytes, l.io_read_seconds, l.io_write_seconds, l.query
	FROM bounds AS b
	-- the clock goes on between the caller's look at it and ours
	JOIN monitoring.statement_live AS l ON l.since < statement_intervals.at AND l.bucket > b.since
		AND l.bucket <= statement_intervals.at + interval '1 minute';
END;
COMMENT ON FUNCTION monitoring.statement_intervals(interval, timestamptz) IS 'What statements did in the window (at - over, at], a row for each hour, interval between snapshots, or what came since, that statements_over() adds up.';

CREATE FUNCTION monitoring.statement_sums(over interval, at timestamptz)
RETURNS TABLE (queryid bigint, userid oid, calls bigint, errors bigint, cancels bigint, max_seconds float8, total_seconds float8, shared_bytes bigint,
	temp_written_bytes bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT i.queryid, i.userid, sum(i.calls)::bigint, sum(i.errors)::bigint, sum(i.cancels)::bigint, max(i.max_seconds), sum(i.total_seconds),
		sum(i.shared_hit_bytes + i.shared_read_bytes)::bigint, sum(i.temp_written_bytes)::bigint
	FROM monitoring.statement_intervals(statement_sums.over, statement_sums.at) AS i
	GROUP BY i.queryid, i.userid
$$;
COMMENT ON FUNCTION monitoring.statement_sums(interval, timestamptz) IS 'What of statements_over() costs little: neither percentiles nor texts. To find the statements for which to ask that function.';

CREATE FUNCTION monitoring.statements_over(over interval, at timestamptz DEFAULT clock_timestamp(), queryids bigint[] DEFAULT NULL)
RETURNS TABLE (queryid bigint, username name, query text, calls bigint, errors bigint, cancels bigint, mean_seconds float8,
	p50_seconds float8, p95_seconds float8, p99_seconds float8, max_seconds float8, total_seconds float8, share_of_total_time float8,
	planning_seconds float8, rows bigint, shared_hit_bytes bigint, shared_read_bytes bigint, temp_written_bytes bigint,
	wal_bytes bigint, io_read_seconds float8, io_write_seconds float8, last_seen timestamptz, slowest_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH sums AS (
		SELECT i.queryid, i.userid, sum(i.calls)::bigint AS calls, sum(i.errors)::bigint AS errors, sum(i.cancels)::bigint AS cancels,
			monitoring.merge(i.latency) AS latency, max(i.max_seconds) AS max_seconds, sum(i.total_seconds) AS total_seconds,
			sum(i.planning_seconds) AS planning_seconds, sum(i.rows)::bigint AS rows, sum(i.shared_hit_bytes)::bigint AS shared_hit_bytes,
			sum(i.shared_read_bytes)::bigint AS shared_read_bytes, sum(i.temp_written_bytes)::bigint AS temp_written_bytes,
			sum(i.wal_bytes)::bigint AS wal_bytes, sum(i.io_read_seconds) AS io_read_seconds, sum(i.io_write_seconds) AS io_write_seconds,
			max(i.bucket) AS last_seen, max(i.query) AS query,
			-- the bucket of the largest; to sort for it would take most of the time
			max(ARRAY[coalesce(i.max_seconds, -1), extract(epoch FROM i.bucket)::float8]) AS slowest,
			sum(sum(i.total_seconds)) OVER () AS everything
		FROM monitoring.statement_intervals(statements_over.over, statements_over.at) AS i
		WHERE statements_over.queryids IS NULL OR i.queryid IN (SELECT unnest(statements_over.queryids))
		GROUP BY i.queryid, i.userid
	)
	SELECT s.queryid, pg_get_userbyid(s.userid),
		CASE WHEN s.queryid = 0 THEN '<others>' ELSE coalesce(q.query, s.query) END,
		s.calls, s.errors, s.cancels, s.total_seconds / nullif(s.calls, 0), p.p[1], p.p[2], p.p[3], s.max_seconds, s.total_seconds,
		s.total_seconds / nullif(CASE WHEN statements_over.queryids IS NULL THEN s.everything ELSE (
			SELECT sum(i.total_seconds) FROM monitoring.statement_intervals(statements_over.over, statements_over.at) AS i) END, 0),
		s.planning_seconds, s.rows, s.shared_hit_bytes, s.shared_read_bytes,
		s.temp_written_bytes, s.wal_bytes, s.io_read_seconds, s.io_write_seconds, s.last_seen, to_timestamp(s.slowest[2])
	FROM sums AS s
	LEFT JOIN monitoring.statement_queries AS q ON q.queryid = s.queryid AND q.userid = s.userid
	CROSS JOIN LATERAL monitoring.percentiles(s.latency, '{0.5,0.95,0.99}') AS p (p)
	ORDER BY s.total_seconds DESC
$$;
COMMENT ON FUNCTION monitoring.statements_over(interval, timestamptz, bigint[]) IS 'What each statement did in a window of time, (at - over, at], per role, costliest first: executions, errors, percentiles with the sketch''s error of 0.55 %, share of the time of all (ratio 0..1), resources. What was counted a moment ago is in it. Intervals belong to the window in which they end; beyond 7 days the window is widened to full hours. queryids: only these statements, which takes less time; null: all.';

CREATE VIEW monitoring.statements AS
	WITH parts AS (
		SELECT t.queryid, t.userid, t.calls, t.errors, t.cancels, t.rows, t.total_seconds, t.max_seconds, t.first_seen, t.last_seen,
			t.slowest_at, NULL AS query
		FROM monitoring.statement_totals AS t
		UNION ALL
		SELECT d.queryid, d.userid, d.calls, d.errors, d.cancels, d.rows, d.total_seconds, d.max_seconds, d.bucket, d.bucket, d.bucket, NULL
		FROM monitoring.statement_history AS d
		WHERE d.bucket > (SELECT s.rolled_up_to FROM monitoring.statement_state AS s)
		UNION ALL
		SELECT l.queryid, l.userid, l.calls, l.errors, l.cancels, l.rows, l.total_seconds, l.max_seconds, l.bucket, l.bucket, l.bucket, l.query
		FROM monitoring.statement_live AS l
	), sums AS (
		SELECT p.queryid, p.userid, sum(p.calls)::bigint AS calls, sum(p.errors)::bigint AS errors, sum(p.cancels)::bigint AS cancels,
			sum(p.rows)::bigint AS rows, sum(p.total_seconds) AS total_seconds, max(p.max_seconds) AS max_seconds,
			min(p.first_seen) AS first_seen, max(p.last_seen) AS last_seen,
			(array_agg(p.slowest_at ORDER BY p.max_seconds DESC NULLS LAST))[1] AS slowest_at, max(p.query) AS query
		FROM parts AS p
		GROUP BY p.queryid, p.userid
	)
	SELECT s.queryid, pg_catalog.current_database()::text AS database, pg_catalog.pg_get_userbyid(s.userid) AS username,
		CASE WHEN s.queryid = 0 THEN '<others>' ELSE coalesce(q.query, s.query) END AS query,
		s.calls, s.errors, s.cancels, s.total_seconds / nullif(s.calls, 0) AS mean_seconds, s.max_seconds, s.total_seconds, s.rows,
		s.total_seconds / nullif(sum(s.total_seconds) OVER (), 0) AS share_of_total_time, s.first_seen, s.last_seen, s.slowest_at
	FROM sums AS s
	LEFT JOIN monitoring.statement_queries AS q ON q.queryid = s.queryid AND q.userid = s.userid
	WHERE s.calls > 0 OR s.errors > 0 OR s.cancels > 0;
COMMENT ON VIEW monitoring.statements IS 'Every statement of this database that ran while being watched, one row per statement and role, since first_seen. For percentiles and resources of a window of time see statements_over().';
COMMENT ON COLUMN monitoring.statements.database IS 'This database.';
COMMENT ON COLUMN monitoring.statements.username IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statements.query IS 'Its text, as in the view statement_queries.';
COMMENT ON COLUMN monitoring.statements.mean_seconds IS 'Mean time of an execution.';
COMMENT ON COLUMN monitoring.statements.total_seconds IS 'Time of all executions.';
COMMENT ON COLUMN monitoring.statements.share_of_total_time IS 'Ratio 0..1 of total_seconds to that of all statements watched.';
COMMENT ON COLUMN monitoring.statements.first_seen IS 'Snapshot that first had the statement.';
COMMENT ON COLUMN monitoring.statements.slowest_at IS 'End of the interval that had its longest execution.';
SELECT monitoring.inherit_comments('monitoring.statements', 'monitoring.statement_totals');

CREATE FUNCTION monitoring.slow_queries_over(over interval, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (queryid bigint, database text, username name, query text, calls bigint, mean_seconds float8, p95_seconds float8,
	max_seconds float8, total_seconds float8, rows bigint, share_of_total_time float8, last_seen timestamptz, slowest_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.queryid, current_database()::text, s.username, s.query, s.calls, s.mean_seconds, s.p95_seconds, s.max_seconds,
		s.total_seconds, s.rows, s.share_of_total_time, s.last_seen, s.slowest_at
	FROM (SELECT extract(epoch FROM coalesce(nullif(current_setting('monitoring.slow_query_threshold', true), ''), '1s')::interval)::float8) AS t (threshold)
	CROSS JOIN LATERAL monitoring.statements_over(slow_queries_over.over, slow_queries_over.at, ARRAY(
		SELECT c.queryid FROM monitoring.statement_sums(slow_queries_over.over, slow_queries_over.at) AS c WHERE c.max_seconds >= t.threshold)) AS s
	WHERE s.max_seconds >= t.threshold
	ORDER BY s.total_seconds DESC
$$;
COMMENT ON FUNCTION monitoring.slow_queries_over(interval, timestamptz) IS 'Statements of which an execution in the window (at - over, at] took monitoring.slow_query_threshold or longer, costliest first. Columns as in statements_over().';

CREATE VIEW monitoring.slow_queries AS
	SELECT s.queryid, s.database, s.username, s.query, s.calls, s.mean_seconds, s.p95_seconds, s.max_seconds, s.total_seconds, s.rows,
		s.share_of_total_time, s.last_seen, s.slowest_at
	FROM monitoring.slow_queries_over('1 day') AS s;
COMMENT ON VIEW monitoring.slow_queries IS 'Statements of which an execution in the last 24 hours took monitoring.slow_query_threshold or longer. For other windows see slow_queries_over().';
COMMENT ON COLUMN monitoring.slow_queries.p95_seconds IS '95th percentile of the time of an execution, within 0.55 %.';
SELECT monitoring.inherit_comments('monitoring.slow_queries', 'monitoring.statements');

-- How many statements are in memory the planner does not know: a nested loop over them would be slow.
CREATE FUNCTION monitoring.slow_query_values(at timestamptz, over interval, at_least float8 DEFAULT 0,
	also bigint[] DEFAULT '{}')
RETURNS TABLE (queryid bigint, database text, max_seconds float8, calls bigint, query text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH live AS MATERIALIZED (
		SELECT l.queryid, l.max_seconds, l.calls, l.query
		FROM monitoring.statement_live AS l
		-- the clock goes on between the caller's look at it and ours
		WHERE l.since < slow_query_values.at AND l.bucket > slow_query_values.at - slow_query_values.over
			AND l.bucket <= slow_query_values.at + interval '1 minute' AND l.calls > 0
	), candidate AS MATERIALIZED (
		SELECT h.queryid
		FROM monitoring.statement_history AS h
		WHERE slow_query_values.at_least >= 0.1 AND h.max_seconds >= 0.1::float8
			AND h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			AND h.max_seconds >= slow_query_values.at_least
		UNION
		SELECT h.queryid
		FROM monitoring.statement_history AS h
		WHERE (slow_query_values.at_least >= 0.1) IS NOT TRUE
			AND h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			AND h.max_seconds >= slow_query_values.at_least
		UNION
		SELECT l.queryid FROM live AS l WHERE l.max_seconds >= slow_query_values.at_least
		UNION
		SELECT unnest(slow_query_values.also)
	)
	SELECT w.queryid, current_database()::text, w.max_seconds, w.calls,
		CASE WHEN w.queryid = 0 THEN '<others>' ELSE coalesce(q.query, w.query) END
	FROM (
		SELECT i.queryid, max(i.max_seconds) AS max_seconds, sum(i.calls)::bigint AS calls, max(i.query) AS query
		FROM (
			SELECT h.queryid, h.max_seconds, h.calls, NULL AS query
			FROM candidate AS c
			JOIN monitoring.statement_history AS h ON h.queryid = c.queryid
			WHERE h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			UNION ALL
			SELECT l.queryid, l.max_seconds, l.calls, l.query
			FROM candidate AS c
			JOIN live AS l ON l.queryid = c.queryid
		) AS i
		GROUP BY i.queryid
	) AS w
	LEFT JOIN LATERAL (
		SELECT t.query
		FROM monitoring.statement_queries AS t
		WHERE t.queryid = w.queryid
		ORDER BY t.query = '<insufficient privilege>', t.first_seen
		LIMIT 1
	) AS q ON true
	WHERE w.max_seconds >= slow_query_values.at_least OR w.queryid = ANY (slow_query_values.also)
$$;
COMMENT ON FUNCTION monitoring.slow_query_values(timestamptz, interval, float8, bigint[]) IS 'For alert rules: per statement, over all roles, its longest execution (seconds) in (at - over, at], the executions in the window, and the text. Statements below at_least seconds are left out, except those whose queryid is in also.';

----------------------------------------------------------------------------------------------------------------------
-- Beside pg_stat_statements
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.statement_source_function(name text, arguments text, OUT function text, OUT columns text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format('%I.%I', n.nspname, p.proname), p.proargnames
	FROM pg_extension AS e
	JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
		AND d.classid = 'pg_proc'::regclass
	JOIN pg_proc AS p ON p.oid = d.objid AND p.proname = $1 AND oidvectortypes(p.proargtypes) = $2
	JOIN pg_namespace AS n ON n.oid = p.pronamespace
	WHERE e.extname = 'pg_stat_statements'
$$;
COMMENT ON FUNCTION monitoring.statement_source_function(text, text) IS 'Qualified, quoted name and argument names of the function (name, argument types) of pg_stat_statements, wherever it is installed; nulls if there is none.';

CREATE FUNCTION monitoring.statement_source_columns(columns text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(format(CASE WHEN 'toplevel' = ANY (columns) THEN '%1$s AS %3$I' ELSE '%2$s AS %3$I' END,
			coalesce(v.expression, '0'), format(m.merged, coalesce(v.expression, '0')), m.target), ', ' ORDER BY m.position)
		|| CASE WHEN 'toplevel' = ANY (columns) THEN ', s.toplevel' ELSE ', true AS toplevel' END
		|| CASE WHEN 'stats_since' = ANY (columns) THEN ', s.stats_since' ELSE ', NULL::timestamptz AS stats_since' END
	FROM (VALUES
		(1, 'calls', '{calls}'::text[], '(%s)', 'sum(%s)::bigint'),
		(2, 'total_seconds', '{total_time,total_exec_time}', '(%s) / 1000', 'sum(%s)'),
		(3, 'min_seconds', '{min_time,min_exec_time}', '(%s) / 1000', 'min(%s)'),
		(4, 'max_seconds', '{max_time,max_exec_time}', '(%s) / 1000', 'max(%s)'),
		(5, 'rows', '{rows}', '(%s)', 'sum(%s)::bigint'),
		(6, 'planning_seconds', '{total_plan_time}', '(%s) / 1000', 'sum(%s)'),
		(7, 'shared_hit_bytes', '{shared_blks_hit}', '(%s) * $6', 'sum(%s)::bigint'),
		(8, 'shared_read_bytes', '{shared_blks_read}', '(%s) * $6', 'sum(%s)::bigint'),
		(9, 'shared_dirtied_bytes', '{shared_blks_dirtied}', '(%s) * $6', 'sum(%s)::bigint'),
		(10, 'shared_written_bytes', '{shared_blks_written}', '(%s) * $6', 'sum(%s)::bigint'),
		(11, 'temp_read_bytes', '{temp_blks_read}', '(%s) * $6', 'sum(%s)::bigint'),
		(12, 'temp_written_bytes', '{temp_blks_written}', '(%s) * $6', 'sum(%s)::bigint'),
		(13, 'io_read_seconds', '{blk_read_time,shared_blk_read_time,local_blk_read_time,temp_blk_read_time}', '(%s) / 1000', 'sum(%s)'),
		(14, 'io_write_seconds', '{blk_write_time,shared_blk_write_time,local_blk_write_time,temp_blk_write_time}', '(%s) / 1000', 'sum(%s)'),
		(15, 'wal_bytes', '{wal_bytes}', '(%s)::bigint', 'sum(%s)::bigint'),
		(16, 'jit_seconds', '{jit_generation_time,jit_inlining_time,jit_optimization_time,jit_emission_time,jit_deform_time}', '(%s) / 1000', 'sum(%s)')
	) AS m (position, target, sources, form, merged)
	CROSS JOIN LATERAL (
		SELECT replace(m.form, '%s', string_agg(format('s.%I', c.name), ' + ')) AS expression
		FROM unnest(m.sources) AS c (name)
		WHERE c.name = ANY (columns)
	) AS v
$$;
COMMENT ON FUNCTION monitoring.statement_source_columns(text[]) IS 'Select list that turns the given columns of pg_stat_statements (alias s), which differ between versions, into ours: seconds and bytes, zero for what the version does not have. $6 is the block size. Without the column toplevel a statement may have two rows, which the list adds up.';

CREATE FUNCTION monitoring.compare_statements()
RETURNS TABLE (queryid bigint, username name, toplevel boolean, query text, calls bigint, total_seconds float8, rows bigint,
	pg_stat_statements_calls bigint, pg_stat_statements_seconds float8, pg_stat_statements_rows bigint, stats_since timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	source record;
BEGIN
	SELECT * INTO source FROM monitoring.statement_source_function('pg_stat_statements', 'boolean') AS f
	WHERE f.function IS NOT NULL AND EXISTS (SELECT FROM pg_settings AS p WHERE p.name = 'pg_stat_statements.max');
	IF source.function IS NULL THEN
		RAISE EXCEPTION 'pg_stat_statements is not in use in this database' USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'Add pg_stat_statements to shared_preload_libraries, restart the server, and run CREATE EXTENSION pg_stat_statements.';
	END IF;
	RETURN QUERY EXECUTE format($query$
		WITH theirs AS (
			SELECT s.userid, s.queryid, %1$s
			FROM %2$s(false) AS s
			WHERE s.dbid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) AND s.queryid IS NOT NULL
			%3$s
		), ours AS (
			SELECT t.queryid, t.username, sum(t.calls)::bigint AS calls, sum(t.total_seconds) AS total_seconds, sum(t.rows)::bigint AS rows,
				max(t.query) AS query
			FROM monitoring.statements AS t
			GROUP BY t.queryid, t.username
		)
		SELECT coalesce(o.queryid, s.queryid), coalesce(o.username, pg_get_userbyid(s.userid)), s.toplevel, o.query, o.calls,
			o.total_seconds, o.rows, s.calls, s.total_seconds, s.rows, s.stats_since
		FROM ours AS o
		FULL JOIN theirs AS s ON s.queryid = o.queryid AND pg_get_userbyid(s.userid) = o.username
	$query$, monitoring.statement_source_columns(source.columns), source.function,
		CASE WHEN 'toplevel' = ANY (source.columns) THEN '' ELSE 'GROUP BY s.userid, s.queryid' END)
	USING NULL, NULL, NULL, NULL, NULL, current_setting('block_size')::bigint;
END $$;
COMMENT ON FUNCTION monitoring.compare_statements() IS 'Every statement of this database as we counted it since first_seen, over both levels, beside what pg_stat_statements holds, a row for each of its levels. Needs the rights of pg_read_all_stats to see others'' statements there. Without pg_stat_statements: 55000.';
