-- server: what pg_stat_statements knows, as history. Every snapshot writes, for the statements of this database, what
-- was added to their counters since the snapshot before. The row of statement_state is locked by every snapshot, so
-- that two at once cannot count the same increase twice; nothing else here takes a lock.
--
-- Roles are stored by oid, databases not at all: pg_stat_statements shows the whole cluster, but each database keeps
-- only its own statements. A copy of the database (CREATE DATABASE ... TEMPLATE) is recognised by its oid.

----------------------------------------------------------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.statement_state (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	dbid oid,
	version text,
	baseline_at timestamptz,
	snapshot_at timestamptz,
	statements integer NOT NULL DEFAULT 0,
	stats_reset timestamptz,
	resets bigint NOT NULL DEFAULT 0,
	dealloc bigint,
	evictions bigint NOT NULL DEFAULT 0,
	evicted_at timestamptz,
	texts_at timestamptz,
	texts_seconds float8 NOT NULL DEFAULT 0,
	texts_error text,
	purged_at timestamptz
);
COMMENT ON TABLE monitoring.statement_state IS 'One row: how far the snapshots of pg_stat_statements have come. Its lock is held during a snapshot. See the view statement_source.';
COMMENT ON COLUMN monitoring.statement_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.statement_state.dbid IS 'Database that the counters are from; another one means that this database is a copy.';
COMMENT ON COLUMN monitoring.statement_state.version IS 'Version of pg_stat_statements that they are from; each counts other things.';
COMMENT ON COLUMN monitoring.statement_state.baseline_at IS 'Time of the first snapshot, before which nothing was watched.';
COMMENT ON COLUMN monitoring.statement_state.snapshot_at IS 'Time of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.statements IS 'Statements of this database in the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.stats_reset IS 'Time of the last reset of all of pg_stat_statements, as of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.resets IS 'Resets of all statements noticed.';
COMMENT ON COLUMN monitoring.statement_state.dealloc IS 'Counter dealloc of pg_stat_statements_info as of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.evictions IS 'Times that pg_stat_statements threw its least used entries out to make room, since the baseline.';
COMMENT ON COLUMN monitoring.statement_state.evicted_at IS 'Snapshot that last noticed evictions.';
COMMENT ON COLUMN monitoring.statement_state.texts_at IS 'Snapshot that last read query texts.';
COMMENT ON COLUMN monitoring.statement_state.texts_seconds IS 'How long that took.';
COMMENT ON COLUMN monitoring.statement_state.texts_error IS 'Why it could not; null: it could.';
COMMENT ON COLUMN monitoring.statement_state.purged_at IS 'Snapshot that last removed forgotten statements.';
INSERT INTO monitoring.statement_state DEFAULT VALUES;

-- Half of each page is left free, so that every snapshot's updates stay in their page and touch no index.
CREATE TABLE monitoring.statement_counters (
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	toplevel boolean NOT NULL,
	present boolean NOT NULL DEFAULT true,
	stats_since timestamptz,
	calls bigint NOT NULL,
	total_seconds float8 NOT NULL,
	min_seconds float8 NOT NULL,
	max_seconds float8 NOT NULL,
	rows bigint NOT NULL,
	planning_seconds float8 NOT NULL,
	shared_hit_bytes bigint NOT NULL,
	shared_read_bytes bigint NOT NULL,
	shared_dirtied_bytes bigint NOT NULL,
	shared_written_bytes bigint NOT NULL,
	temp_read_bytes bigint NOT NULL,
	temp_written_bytes bigint NOT NULL,
	io_read_seconds float8 NOT NULL,
	io_write_seconds float8 NOT NULL,
	wal_bytes bigint NOT NULL,
	jit_seconds float8 NOT NULL,
	watched_calls bigint NOT NULL,
	watched_seconds float8 NOT NULL,
	watched_rows bigint NOT NULL,
	watched_max_seconds float8 NOT NULL,
	slowest_interval_seconds float8 NOT NULL,
	slowest_interval_at timestamptz,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz,
	PRIMARY KEY (queryid, userid, toplevel)
) WITH (fillfactor = 45);
COMMENT ON TABLE monitoring.statement_counters IS 'Statements of this database: the counters of pg_stat_statements as last read, which the next snapshot is compared with, and what was watched since. Granted to nobody; see the views statements and slow_queries.';
COMMENT ON COLUMN monitoring.statement_counters.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_counters.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_counters.toplevel IS 'True if sent by a client, false if run inside a function; always true before pg_stat_statements 1.9.';
COMMENT ON COLUMN monitoring.statement_counters.present IS 'False once pg_stat_statements no longer has the entry; when it comes back, it counts from zero.';
COMMENT ON COLUMN monitoring.statement_counters.stats_since IS 'When the entry began to count; null before pg_stat_statements 1.11.';
COMMENT ON COLUMN monitoring.statement_counters.calls IS 'Executions, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.total_seconds IS 'Execution time, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.min_seconds IS 'Shortest execution of the entry, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.max_seconds IS 'Longest execution of the entry, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.rows IS 'Rows returned or affected, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.planning_seconds IS 'Planning time (pg_stat_statements.track_planning), as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_hit_bytes IS 'Bytes found in shared buffers, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_read_bytes IS 'Bytes read into shared buffers, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_written_bytes IS 'Bytes of shared buffers written, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.temp_read_bytes IS 'Bytes read from temporary files, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.temp_written_bytes IS 'Bytes written to temporary files, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.io_read_seconds IS 'Time spent reading blocks (track_io_timing), as last read.';
COMMENT ON COLUMN monitoring.statement_counters.io_write_seconds IS 'Time spent writing blocks (track_io_timing), as last read.';
COMMENT ON COLUMN monitoring.statement_counters.wal_bytes IS 'Bytes of write-ahead log, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.jit_seconds IS 'Time spent in just-in-time compilation, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.watched_calls IS 'Executions since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.watched_seconds IS 'Execution time since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.watched_rows IS 'Rows since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.watched_max_seconds IS 'Longest execution known to have happened since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.slowest_interval_seconds IS 'Largest mean execution time of one interval since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.slowest_interval_at IS 'End of that interval.';
COMMENT ON COLUMN monitoring.statement_counters.first_seen IS 'First snapshot that had the statement.';
COMMENT ON COLUMN monitoring.statement_counters.last_seen IS 'Last snapshot before which it had run; null if it has not run since the baseline.';

-- What is zero is stored as null, which takes no room.
CREATE TABLE monitoring.statement_deltas (
	bucket timestamptz NOT NULL,
	since timestamptz NOT NULL,
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	toplevel boolean NOT NULL,
	calls bigint NOT NULL CHECK (calls > 0),
	total_seconds float8 NOT NULL,
	max_seconds float8,
	rows bigint,
	planning_seconds float8,
	shared_hit_bytes bigint,
	shared_read_bytes bigint,
	shared_dirtied_bytes bigint,
	shared_written_bytes bigint,
	temp_read_bytes bigint,
	temp_written_bytes bigint,
	io_read_seconds float8,
	io_write_seconds float8,
	wal_bytes bigint,
	jit_seconds float8
) PARTITION BY RANGE (bucket);
COMMENT ON TABLE monitoring.statement_deltas IS 'What each statement that ran added to its counters between two snapshots. Zero is stored as null. Granted to nobody; see the view statement_history, which also explains the columns.';
COMMENT ON COLUMN monitoring.statement_deltas.bucket IS 'End of the interval: the time of the snapshot.';
COMMENT ON COLUMN monitoring.statement_deltas.since IS 'Start of the interval: the time of the snapshot before.';
COMMENT ON COLUMN monitoring.statement_deltas.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_deltas.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_deltas.toplevel IS 'True if sent by a client, false if run inside a function.';
COMMENT ON COLUMN monitoring.statement_deltas.calls IS 'Executions that ended in the interval.';
COMMENT ON COLUMN monitoring.statement_deltas.total_seconds IS 'Their time together.';
COMMENT ON COLUMN monitoring.statement_deltas.max_seconds IS 'Longest execution, where it can be told.';
COMMENT ON COLUMN monitoring.statement_deltas.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statement_deltas.planning_seconds IS 'Planning time.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_hit_bytes IS 'Bytes found in shared buffers.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_read_bytes IS 'Bytes read into shared buffers.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_written_bytes IS 'Bytes of shared buffers that the statement itself had to write.';
COMMENT ON COLUMN monitoring.statement_deltas.temp_read_bytes IS 'Bytes read from temporary files.';
COMMENT ON COLUMN monitoring.statement_deltas.temp_written_bytes IS 'Bytes written to temporary files.';
COMMENT ON COLUMN monitoring.statement_deltas.io_read_seconds IS 'Time spent reading blocks.';
COMMENT ON COLUMN monitoring.statement_deltas.io_write_seconds IS 'Time spent writing blocks.';
COMMENT ON COLUMN monitoring.statement_deltas.wal_bytes IS 'Bytes of write-ahead log.';
COMMENT ON COLUMN monitoring.statement_deltas.jit_seconds IS 'Time spent in just-in-time compilation.';

-- Windows of time (equal values share one entry), and the statements of 0.1 seconds or more on average, which alert rules
-- ask for every second.
INSERT INTO monitoring.retention_policies (relation, partition_step, keep, indexes)
VALUES ('statement_deltas', '1 day', '7 days',
        ARRAY['(bucket)', '(bucket) WHERE total_seconds >= calls * 0.1::float8']);

CREATE TABLE monitoring.statement_texts (
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	query text NOT NULL CHECK (octet_length(query) <= 8192),
	first_seen timestamptz NOT NULL,
	PRIMARY KEY (queryid, userid)
);
COMMENT ON TABLE monitoring.statement_texts IS 'Text of each statement, once, as the role ran it first: at most 8192 bytes, passwords removed. Granted to nobody; see the view statement_queries.';
COMMENT ON COLUMN monitoring.statement_texts.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_texts.userid IS 'Role that ran it: texts that differ only in comments or names have the same queryid, and PostgreSQL shows each role its own.';
COMMENT ON COLUMN monitoring.statement_texts.query IS 'The normalised text.';
COMMENT ON COLUMN monitoring.statement_texts.first_seen IS 'Snapshot that stored it.';

----------------------------------------------------------------------------------------------------------------------
-- The source
----------------------------------------------------------------------------------------------------------------------

CREATE VIEW monitoring.statement_source AS
	SELECT e.oid IS NOT NULL AS installed, e.extversion AS version, n.nspname AS schema,
		p.setting IS NOT NULL AS preloaded, p.setting::integer AS capacity, t.setting AS track,
		s.baseline_at AS watching_since, s.snapshot_at, s.statements, s.resets, s.evictions, s.evicted_at,
		CASE
			WHEN p.setting IS NULL THEN
				'Add pg_stat_statements to shared_preload_libraries and restart the server.'
			WHEN e.oid IS NULL THEN
				'Run CREATE EXTENSION pg_stat_statements in this database.'
			WHEN q.setting = 'off' THEN
				'Set compute_query_id to auto or on: statements have no identity without it.'
			WHEN t.setting = 'none' AND t.source <> 'session' THEN
				'Set pg_stat_statements.track to top or all.'
			WHEN s.evicted_at > s.snapshot_at - interval '1 hour' THEN
				'Raise pg_stat_statements.max: entries are thrown out to make room, so statements that run rarely may be missed.'
			WHEN s.texts_error IS NOT NULL THEN
				'Texts of statements cannot be read: ' || s.texts_error
		END AS hint
	FROM monitoring.statement_state AS s
	LEFT JOIN pg_catalog.pg_extension AS e ON e.extname = 'pg_stat_statements'
	LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
	-- settings that only a loaded library has are not in pg_settings otherwise
	LEFT JOIN pg_catalog.pg_settings AS p ON p.name = 'pg_stat_statements.max'
	LEFT JOIN pg_catalog.pg_settings AS t ON t.name = 'pg_stat_statements.track'
	LEFT JOIN pg_catalog.pg_settings AS q ON q.name = 'compute_query_id';
COMMENT ON VIEW monitoring.statement_source IS 'One row: whether statements of this database can be watched, and what to do if not.';
COMMENT ON COLUMN monitoring.statement_source.installed IS 'True if the extension pg_stat_statements is installed in this database.';
COMMENT ON COLUMN monitoring.statement_source.version IS 'Its version.';
COMMENT ON COLUMN monitoring.statement_source.schema IS 'Its schema.';
COMMENT ON COLUMN monitoring.statement_source.preloaded IS 'True if the server has loaded its library.';
COMMENT ON COLUMN monitoring.statement_source.capacity IS 'Statements it keeps for the whole server: pg_stat_statements.max.';
COMMENT ON COLUMN monitoring.statement_source.track IS 'Which statements it counts: pg_stat_statements.track as this session has it.';
COMMENT ON COLUMN monitoring.statement_source.watching_since IS 'First snapshot; null before.';
COMMENT ON COLUMN monitoring.statement_source.snapshot_at IS 'Latest snapshot; null before the first.';
COMMENT ON COLUMN monitoring.statement_source.statements IS 'Statements of this database in the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_source.resets IS 'Resets of all statements noticed since.';
COMMENT ON COLUMN monitoring.statement_source.evictions IS 'Times that pg_stat_statements made room by throwing entries out, since then; counted from version 1.9 on.';
COMMENT ON COLUMN monitoring.statement_source.evicted_at IS 'Snapshot that last noticed evictions.';
COMMENT ON COLUMN monitoring.statement_source.hint IS 'What to do; null if all is well.';

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

----------------------------------------------------------------------------------------------------------------------
-- Snapshots
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.statement_snapshot_query(source text, columns text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format($query$
		WITH source AS MATERIALIZED (
			SELECT s.userid, s.queryid, %1$s
			FROM %2$s(false) AS s
			WHERE s.dbid = $3 AND s.queryid IS NOT NULL
			%3$s
		),
		-- a counter that continues the one we know; any that went back began anew
		delta AS MATERIALIZED (
			SELECT s.*, c.queryid IS NULL AS anew,
				CASE WHEN $4 THEN 0 ELSE s.calls - coalesce(c.calls, 0) END AS d_calls,
				CASE WHEN $4 THEN 0 ELSE s.total_seconds - coalesce(c.total_seconds, 0) END AS d_seconds,
				CASE WHEN $4 THEN 0 ELSE s.rows - coalesce(c.rows, 0) END AS d_rows,
				CASE WHEN NOT $4 AND (c.queryid IS NULL OR s.max_seconds > c.max_seconds) THEN s.max_seconds END AS d_max,
				s.planning_seconds - coalesce(c.planning_seconds, 0) AS d_planning,
				s.shared_hit_bytes - coalesce(c.shared_hit_bytes, 0) AS d_hit,
				s.shared_read_bytes - coalesce(c.shared_read_bytes, 0) AS d_read,
				s.shared_dirtied_bytes - coalesce(c.shared_dirtied_bytes, 0) AS d_dirtied,
				s.shared_written_bytes - coalesce(c.shared_written_bytes, 0) AS d_written,
				s.temp_read_bytes - coalesce(c.temp_read_bytes, 0) AS d_temp_read,
				s.temp_written_bytes - coalesce(c.temp_written_bytes, 0) AS d_temp_written,
				s.io_read_seconds - coalesce(c.io_read_seconds, 0) AS d_io_read,
				s.io_write_seconds - coalesce(c.io_write_seconds, 0) AS d_io_write,
				s.wal_bytes - coalesce(c.wal_bytes, 0) AS d_wal,
				s.jit_seconds - coalesce(c.jit_seconds, 0) AS d_jit
			FROM source AS s
			LEFT JOIN monitoring.statement_counters AS c
				ON c.queryid = s.queryid AND c.userid = s.userid AND c.toplevel = s.toplevel AND c.present AND NOT $5
				AND CASE
					WHEN s.stats_since IS NOT NULL THEN s.stats_since IS NOT DISTINCT FROM c.stats_since
					ELSE s.total_seconds >= c.total_seconds AND s.min_seconds <= c.min_seconds AND s.max_seconds >= c.max_seconds
				END
				AND s.calls >= c.calls AND s.rows >= c.rows
			WHERE $4 OR c.queryid IS NULL OR s.calls <> c.calls
		),
		known AS (
			UPDATE monitoring.statement_counters AS c SET
				present = true, stats_since = d.stats_since, calls = d.calls, total_seconds = d.total_seconds,
				min_seconds = d.min_seconds, max_seconds = d.max_seconds, rows = d.rows,
				planning_seconds = d.planning_seconds, shared_hit_bytes = d.shared_hit_bytes,
				shared_read_bytes = d.shared_read_bytes, shared_dirtied_bytes = d.shared_dirtied_bytes,
				shared_written_bytes = d.shared_written_bytes, temp_read_bytes = d.temp_read_bytes,
				temp_written_bytes = d.temp_written_bytes, io_read_seconds = d.io_read_seconds,
				io_write_seconds = d.io_write_seconds, wal_bytes = d.wal_bytes, jit_seconds = d.jit_seconds,
				watched_calls = c.watched_calls + d.d_calls, watched_seconds = c.watched_seconds + d.d_seconds,
				watched_rows = c.watched_rows + d.d_rows,
				watched_max_seconds = greatest(c.watched_max_seconds, d.d_max),
				slowest_interval_seconds = greatest(c.slowest_interval_seconds, d.d_seconds / nullif(d.d_calls, 0)),
				slowest_interval_at = CASE WHEN d.d_calls > 0 AND (c.slowest_interval_at IS NULL
					OR d.d_seconds / d.d_calls > c.slowest_interval_seconds) THEN $1 ELSE c.slowest_interval_at END,
				last_seen = CASE WHEN d.d_calls > 0 THEN $1 ELSE c.last_seen END
			FROM delta AS d
			WHERE c.queryid = d.queryid AND c.userid = d.userid AND c.toplevel = d.toplevel
		),
		added AS (
			INSERT INTO monitoring.statement_counters
			SELECT d.queryid, d.userid, d.toplevel, true, d.stats_since, d.calls, d.total_seconds, d.min_seconds,
				d.max_seconds, d.rows, d.planning_seconds, d.shared_hit_bytes, d.shared_read_bytes,
				d.shared_dirtied_bytes, d.shared_written_bytes, d.temp_read_bytes, d.temp_written_bytes,
				d.io_read_seconds, d.io_write_seconds, d.wal_bytes, d.jit_seconds,
				d.d_calls, d.d_seconds, d.d_rows, CASE WHEN d.d_calls > 0 THEN d.d_max ELSE 0 END,
				CASE WHEN d.d_calls > 0 THEN d.d_seconds / d.d_calls ELSE 0 END,
				CASE WHEN d.d_calls > 0 THEN $1 END, $1, CASE WHEN d.d_calls > 0 THEN $1 END
			FROM delta AS d
			WHERE d.anew AND NOT EXISTS (SELECT FROM monitoring.statement_counters AS c
				WHERE c.queryid = d.queryid AND c.userid = d.userid AND c.toplevel = d.toplevel)
		),
		gone AS (
			UPDATE monitoring.statement_counters AS c SET present = false
			WHERE c.present AND NOT EXISTS (SELECT FROM source AS s
				WHERE s.queryid = c.queryid AND s.userid = c.userid AND s.toplevel = c.toplevel)
		),
		written AS (
			INSERT INTO monitoring.statement_deltas
			SELECT $1, $2, d.queryid, d.userid, d.toplevel, d.d_calls, d.d_seconds, d.d_max, nullif(d.d_rows, 0),
				nullif(d.d_planning, 0), nullif(d.d_hit, 0), nullif(d.d_read, 0), nullif(d.d_dirtied, 0),
				nullif(d.d_written, 0), nullif(d.d_temp_read, 0), nullif(d.d_temp_written, 0),
				nullif(d.d_io_read, 0), nullif(d.d_io_write, 0), nullif(d.d_wal, 0), nullif(d.d_jit, 0)
			FROM delta AS d
			WHERE d.d_calls > 0
			RETURNING 1
		)
		SELECT (SELECT count(*)::integer FROM source), (SELECT count(*)::integer FROM written)
	$query$, monitoring.statement_source_columns(columns), source,
		CASE WHEN 'toplevel' = ANY (columns) THEN '' ELSE 'GROUP BY s.userid, s.queryid' END)
$$;
COMMENT ON FUNCTION monitoring.statement_snapshot_query(text, text[]) IS 'The one statement that a snapshot is, for a source function with the given columns. Parameters: $1 time, $2 time of the snapshot before, $3 database, $4 baseline (note the counters, whatever they added), $5 everything was reset, $6 block size. Returns the numbers of statements read and of deltas written.';

CREATE FUNCTION monitoring.clip_text(value text, max_bytes integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	cut text := left(value, max_bytes);
	excess integer;
BEGIN
	-- a character has at most four bytes, so this never cuts more than needed
	LOOP
		excess := octet_length(cut) - max_bytes;
		EXIT WHEN excess <= 0 OR cut = '';
		cut := left(cut, -((excess + 3) / 4));
	END LOOP;
	RETURN cut;
END $$;
COMMENT ON FUNCTION monitoring.clip_text(text, integer) IS 'The longest beginning of the text that has at most max_bytes (1 or more) bytes, cut between characters.';

-- Utility statements are not normalised, so that a password may stand in them.
CREATE FUNCTION monitoring.redact_statement(query text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN strpos(query, '''') > 0 AND query ~* '(set_receiver_secret|create_receiver|alter_receiver)'
		THEN lower(substring(query FROM '(?i)(set_receiver_secret|create_receiver|alter_receiver)')) || '***'
		ELSE regexp_replace(regexp_replace(query,
		-- PASSWORD 'x', e'x' with escapes, or dollar-quoted; to the end if the literal was cut off
		'(\mpassword\s*)(''(''''|[^''])*(''|$)|e''(\\.|''''|[^''\\])*(''|$)|\$(\w*)\$.*(\$\7\$|$))', '\1''***''', 'gi'),
		-- in a connection string
		'(\mpassword=)(''''.*''''|[^\s'',;)$]+)', '\1***', 'gi')
		END
$$;
COMMENT ON FUNCTION monitoring.redact_statement(text) IS 'The text of a statement with passwords, in PASSWORD clauses and connection strings, replaced by ***; of one that gives literals to set_receiver_secret, create_receiver or alter_receiver only that name.';

CREATE FUNCTION monitoring.fetch_statement_texts(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	source text := (SELECT f.function FROM monitoring.statement_source_function('pg_stat_statements', 'boolean') AS f);
	fetched integer;
BEGIN
	IF source IS NULL THEN
		RETURN 0;
	END IF;
	EXECUTE format($query$
		INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen)
		SELECT DISTINCT ON (s.queryid, s.userid) s.queryid, s.userid,
			monitoring.clip_text(monitoring.redact_statement(monitoring.clip_text(s.query, 65536)), 8192), $1
		FROM %s(true) AS s
		WHERE s.dbid = $2 AND s.query IS NOT NULL
		  AND EXISTS (SELECT FROM monitoring.statement_counters AS c
			WHERE c.queryid = s.queryid AND c.userid = s.userid AND c.present)
		  AND NOT EXISTS (SELECT FROM monitoring.statement_texts AS t
			WHERE t.queryid = s.queryid AND t.userid = s.userid)
		ON CONFLICT DO NOTHING
	$query$, source) USING at, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
	GET DIAGNOSTICS fetched = ROW_COUNT;
	RETURN fetched;
END $$;
COMMENT ON FUNCTION monitoring.fetch_statement_texts(timestamptz) IS 'Stores the texts of statements that have none yet; returns how many. Makes pg_stat_statements read its whole file of texts.';

CREATE FUNCTION monitoring.purge_statements(at timestamptz, max_forgotten integer DEFAULT 20000) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	purged integer;
BEGIN
	WITH forgotten AS (
		SELECT c.ctid, coalesce(c.last_seen, c.first_seen) AS seen,
			row_number() OVER (ORDER BY coalesce(c.last_seen, c.first_seen) DESC) AS place
		FROM monitoring.statement_counters AS c
		WHERE NOT c.present
	)
	DELETE FROM monitoring.statement_counters AS c
	USING forgotten AS f
	WHERE c.ctid = f.ctid AND (f.place > max_forgotten OR f.seen < at - (
		SELECT r.keep FROM monitoring.retention_policies AS r WHERE r.relation = 'statement_deltas'));
	GET DIAGNOSTICS purged = ROW_COUNT;

	DELETE FROM monitoring.statement_texts AS t
	WHERE NOT EXISTS (SELECT FROM monitoring.statement_counters AS c WHERE c.queryid = t.queryid AND c.userid = t.userid);
	RETURN purged;
END $$;
COMMENT ON FUNCTION monitoring.purge_statements(timestamptz, integer) IS 'Removes statements, with their texts, that pg_stat_statements no longer has and that have not run for as long as history is kept, or that are not among the max_forgotten last seen ones of these. Returns how many. Snapshots do it once an hour.';

-- A function's rows are estimated far too low here: nested loops over them would be slow, and compiling never pays.
CREATE FUNCTION monitoring.snapshot_statements(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off SET lock_timeout = '10s' AS $$
DECLARE
	own oid := (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
	state monitoring.statement_state;
	source record;
	info text;
	reset_at timestamptz;
	reset_after timestamptz;
	dealloc_now bigint;
	first boolean;
	baseline boolean;
	version_now text := (SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'pg_stat_statements');
	was_reset boolean;
	wanted boolean;
	started timestamptz;
	text_problem text;
	found_statements integer;
	written integer;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a snapshot must be a finite timestamp' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN
		RAISE EXCEPTION 'permission denied to read the statements of other roles'
			USING ERRCODE = 'insufficient_privilege', HINT = 'Grant pg_read_all_stats to the role.';
	END IF;

	-- pg_settings has the setting only if the server has loaded the library
	SELECT * INTO source FROM monitoring.statement_source_function('pg_stat_statements', 'boolean') AS f
	WHERE f.function IS NOT NULL AND EXISTS (SELECT FROM pg_settings AS p WHERE p.name = 'pg_stat_statements.max');
	IF source.function IS NULL THEN
		RETURN 0;
	END IF;

	SELECT * INTO STRICT state FROM monitoring.statement_state FOR UPDATE;
	SELECT f.function INTO info FROM monitoring.statement_source_function('pg_stat_statements_info', '') AS f;
	IF info IS NOT NULL THEN
		EXECUTE format('SELECT i.stats_reset, i.dealloc FROM %s() AS i', info) INTO reset_at, dealloc_now;
	END IF;

	first := state.dbid IS DISTINCT FROM own;
	-- another version counts other things and splits entries differently: no difference to the old numbers is an increase
	baseline := first OR state.version IS DISTINCT FROM version_now;
	was_reset := NOT baseline AND reset_at IS DISTINCT FROM state.stats_reset AND reset_at IS NOT NULL;
	IF first THEN
		DELETE FROM monitoring.statement_counters;
	END IF;

	PERFORM monitoring.ensure_partition('statement_deltas', at);
	EXECUTE monitoring.statement_snapshot_query(source.function, source.columns)
		INTO found_statements, written
		USING at, least(state.snapshot_at, at), own, baseline, was_reset, current_setting('block_size')::bigint;
	IF info IS NOT NULL THEN
		EXECUTE format('SELECT i.stats_reset FROM %s() AS i', info) INTO reset_after;
		IF reset_after IS DISTINCT FROM reset_at THEN
			RAISE EXCEPTION 'pg_stat_statements was reset during a snapshot'
				USING ERRCODE = 'serialization_failure', DETAIL = 'Nothing was stored; the next snapshot will notice the reset.';
		END IF;
	END IF;

	UPDATE monitoring.statement_state AS s SET
		dbid = own, version = version_now, baseline_at = CASE WHEN first THEN at ELSE s.baseline_at END, snapshot_at = at,
		statements = found_statements, stats_reset = reset_at, dealloc = dealloc_now,
		resets = s.resets + was_reset::integer,
		evictions = s.evictions + CASE WHEN first THEN 0 WHEN was_reset THEN dealloc_now
			ELSE greatest(coalesce(dealloc_now - s.dealloc, 0), 0) END,
		evicted_at = CASE WHEN NOT first AND dealloc_now > CASE WHEN was_reset THEN 0 ELSE s.dealloc END THEN at
			ELSE s.evicted_at END;

	-- Texts cost reading the file of all texts, so that takes at most a hundredth of the time.
	wanted := EXISTS (
		SELECT FROM monitoring.statement_counters AS c
		WHERE c.present AND NOT EXISTS (SELECT FROM monitoring.statement_texts AS t
			WHERE t.queryid = c.queryid AND t.userid = c.userid));
	IF wanted AND (state.texts_at IS NULL OR at < state.texts_at
		OR at >= state.texts_at + least(state.texts_seconds * 100, 3600) * interval '1 s') THEN
		started := clock_timestamp();
		BEGIN
			PERFORM monitoring.fetch_statement_texts(at);
			text_problem := NULL;
		-- one text of another database that this one's encoding cannot hold makes all unreadable
		EXCEPTION WHEN data_exception OR program_limit_exceeded OR out_of_memory THEN
			text_problem := left(SQLERRM, 500);
		END;
		UPDATE monitoring.statement_state
			SET texts_at = at, texts_seconds = extract(epoch FROM clock_timestamp() - started), texts_error = text_problem;
	END IF;

	IF state.purged_at IS NULL OR at >= state.purged_at + interval '1 hour' THEN
		PERFORM monitoring.purge_statements(at);
		UPDATE monitoring.statement_state SET purged_at = at;
	END IF;
	RETURN written;
END $$;
COMMENT ON FUNCTION monitoring.snapshot_statements(timestamptz) IS 'Stores what the statements of this database added to their counters in pg_stat_statements since the last snapshot, and the texts of new ones; returns the number of statements that ran. The first snapshot only notes the counters. Entries that were reset or evicted count from zero. Without pg_stat_statements it does nothing and returns 0; see the view statement_source. Raises 22023 for a null or infinite time, 40001 if pg_stat_statements is reset meanwhile, 42501 without the rights of pg_read_all_stats, 55P03 if another snapshot takes longer than 10 s.';

CREATE FUNCTION monitoring.snapshot_statements_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.snapshot_statements(at);
END $$;
COMMENT ON FUNCTION monitoring.snapshot_statements_job(timestamptz) IS 'Job of the worker: snapshot_statements(at).';

INSERT INTO monitoring.jobs (name, function, every, priority)
	VALUES ('statements', 'monitoring.snapshot_statements_job', '10 seconds', 30);

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
COMMENT ON COLUMN monitoring.statement_queries.query IS 'Normalised text, at most 8192 bytes, passwords replaced by ***; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.statement_queries.first_seen IS 'Snapshot that stored it.';

CREATE VIEW monitoring.statement_history AS
	SELECT d.bucket, d.since, d.queryid, d.userid, pg_catalog.pg_get_userbyid(d.userid) AS username, d.toplevel,
		d.calls, d.total_seconds / d.calls AS mean_seconds, d.max_seconds, d.total_seconds,
		coalesce(d.rows, 0) AS rows, coalesce(d.planning_seconds, 0) AS planning_seconds,
		coalesce(d.shared_hit_bytes, 0) AS shared_hit_bytes, coalesce(d.shared_read_bytes, 0) AS shared_read_bytes,
		coalesce(d.shared_dirtied_bytes, 0) AS shared_dirtied_bytes,
		coalesce(d.shared_written_bytes, 0) AS shared_written_bytes,
		coalesce(d.temp_read_bytes, 0) AS temp_read_bytes, coalesce(d.temp_written_bytes, 0) AS temp_written_bytes,
		coalesce(d.io_read_seconds, 0) AS io_read_seconds, coalesce(d.io_write_seconds, 0) AS io_write_seconds,
		coalesce(d.wal_bytes, 0) AS wal_bytes, coalesce(d.jit_seconds, 0) AS jit_seconds
	FROM monitoring.statement_deltas AS d;
COMMENT ON VIEW monitoring.statement_history IS 'What every statement that ran did between two snapshots, 10 s apart by default, for 7 days. What a version of pg_stat_statements does not count is 0.';
COMMENT ON COLUMN monitoring.statement_history.bucket IS 'End of the interval.';
COMMENT ON COLUMN monitoring.statement_history.since IS 'Start of the interval.';
COMMENT ON COLUMN monitoring.statement_history.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_history.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_history.username IS 'Name of that role.';
COMMENT ON COLUMN monitoring.statement_history.toplevel IS 'True if sent by a client, false if run inside a function.';
COMMENT ON COLUMN monitoring.statement_history.calls IS 'Executions that ended in the interval.';
COMMENT ON COLUMN monitoring.statement_history.mean_seconds IS 'Their mean time.';
COMMENT ON COLUMN monitoring.statement_history.max_seconds IS 'Longest execution, where it can be told: it was the longest since the entry began to count. Null otherwise.';
COMMENT ON COLUMN monitoring.statement_history.total_seconds IS 'Their time together.';
COMMENT ON COLUMN monitoring.statement_history.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statement_history.planning_seconds IS 'Planning time; needs pg_stat_statements.track_planning.';
COMMENT ON COLUMN monitoring.statement_history.shared_hit_bytes IS 'Bytes found in shared buffers.';
COMMENT ON COLUMN monitoring.statement_history.shared_read_bytes IS 'Bytes read into shared buffers.';
COMMENT ON COLUMN monitoring.statement_history.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied.';
COMMENT ON COLUMN monitoring.statement_history.shared_written_bytes IS 'Bytes of shared buffers that the statement itself had to write.';
COMMENT ON COLUMN monitoring.statement_history.temp_read_bytes IS 'Bytes read from temporary files.';
COMMENT ON COLUMN monitoring.statement_history.temp_written_bytes IS 'Bytes written to temporary files.';
COMMENT ON COLUMN monitoring.statement_history.io_read_seconds IS 'Time spent reading blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.statement_history.io_write_seconds IS 'Time spent writing blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.statement_history.wal_bytes IS 'Bytes of write-ahead log.';
COMMENT ON COLUMN monitoring.statement_history.jit_seconds IS 'Time spent in just-in-time compilation.';

CREATE VIEW monitoring.statements AS
	SELECT c.queryid, pg_catalog.current_database()::text AS database, c.username, q.query, c.calls,
		c.total_seconds / c.calls AS mean_seconds, c.max_interval_mean_seconds,
		greatest(c.max_seconds, c.max_interval_mean_seconds) AS max_seconds, c.total_seconds, c.rows,
		c.total_seconds / nullif(sum(c.total_seconds) OVER (), 0) AS share_of_total_time,
		c.first_seen, c.last_seen, c.slowest_at
	FROM (
		SELECT c.queryid, c.userid, pg_catalog.pg_get_userbyid(c.userid) AS username, sum(c.watched_calls)::bigint AS calls,
			sum(c.watched_seconds) AS total_seconds, sum(c.watched_rows)::bigint AS rows,
			max(c.slowest_interval_seconds) AS max_interval_mean_seconds, max(c.watched_max_seconds) AS max_seconds,
			min(c.first_seen) AS first_seen, max(c.last_seen) AS last_seen,
			(array_agg(c.slowest_interval_at ORDER BY c.slowest_interval_seconds DESC))[1] AS slowest_at
		FROM monitoring.statement_counters AS c
		WHERE c.watched_calls > 0
		GROUP BY c.queryid, c.userid
	) AS c
	LEFT JOIN monitoring.statement_queries AS q ON q.queryid = c.queryid AND q.userid = c.userid;
COMMENT ON VIEW monitoring.statements IS 'Every statement of this database that ran while being watched, one row per statement and role, since first_seen.';
COMMENT ON COLUMN monitoring.statements.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statements.database IS 'This database.';
COMMENT ON COLUMN monitoring.statements.username IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statements.query IS 'Its text, as in the view statement_queries; null if not read yet.';
COMMENT ON COLUMN monitoring.statements.calls IS 'Executions.';
COMMENT ON COLUMN monitoring.statements.mean_seconds IS 'Mean time of an execution.';
COMMENT ON COLUMN monitoring.statements.max_interval_mean_seconds IS 'Mean time of an execution in the slowest interval between two snapshots.';
COMMENT ON COLUMN monitoring.statements.max_seconds IS 'Longest execution known: at least max_interval_mean_seconds, and exact when it was the longest since pg_stat_statements began to count the statement. What happened before first_seen does not enter.';
COMMENT ON COLUMN monitoring.statements.total_seconds IS 'Time of all executions.';
COMMENT ON COLUMN monitoring.statements.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statements.share_of_total_time IS 'Ratio 0..1 of total_seconds to that of all statements watched.';
COMMENT ON COLUMN monitoring.statements.first_seen IS 'First snapshot that had the statement.';
COMMENT ON COLUMN monitoring.statements.last_seen IS 'Last snapshot before which it had run.';
COMMENT ON COLUMN monitoring.statements.slowest_at IS 'End of the slowest interval.';

CREATE VIEW monitoring.slow_queries AS
	SELECT s.queryid, s.database, s.username, s.query, s.calls, s.mean_seconds, s.max_interval_mean_seconds, s.max_seconds,
		s.total_seconds, s.rows, s.share_of_total_time, s.first_seen, s.last_seen, s.slowest_at
	FROM monitoring.statements AS s
	WHERE s.max_interval_mean_seconds >= extract(epoch FROM
		coalesce(nullif(pg_catalog.current_setting('monitoring.slow_query_threshold', true), ''), '1s')::interval);
COMMENT ON VIEW monitoring.slow_queries IS 'Statements whose mean time in at least one interval between two snapshots reached monitoring.slow_query_threshold. A statement that has not run for as long as history is kept, and that pg_stat_statements forgot, leaves the view.';
COMMENT ON COLUMN monitoring.slow_queries.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.slow_queries.database IS 'This database.';
COMMENT ON COLUMN monitoring.slow_queries.username IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.slow_queries.query IS 'Its text, as in the view statement_queries; null if not read yet.';
COMMENT ON COLUMN monitoring.slow_queries.calls IS 'Executions since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.mean_seconds IS 'Mean time of an execution since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.max_interval_mean_seconds IS 'Mean time of an execution in the slowest interval between two snapshots.';
COMMENT ON COLUMN monitoring.slow_queries.max_seconds IS 'Longest execution known, as in the view statements.';
COMMENT ON COLUMN monitoring.slow_queries.total_seconds IS 'Time of all executions since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.rows IS 'Rows returned or affected since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.share_of_total_time IS 'Ratio 0..1 of total_seconds to that of all statements watched.';
COMMENT ON COLUMN monitoring.slow_queries.first_seen IS 'First snapshot that had the statement.';
COMMENT ON COLUMN monitoring.slow_queries.last_seen IS 'Last snapshot before which it had run.';
COMMENT ON COLUMN monitoring.slow_queries.slowest_at IS 'End of the slowest interval.';

CREATE FUNCTION monitoring.slow_queries_over(over interval, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (queryid bigint, database text, username name, query text, calls bigint, mean_seconds float8,
	max_interval_mean_seconds float8, max_seconds float8, total_seconds float8, rows bigint, share_of_total_time float8,
	first_seen timestamptz, last_seen timestamptz, slowest_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT w.queryid, current_database()::text, w.username, q.query, w.calls, w.total_seconds / w.calls, w.slowest,
		greatest(w.max_seconds, w.slowest), w.total_seconds, w.rows, w.total_seconds / nullif(w.everything, 0),
		w.first_seen, w.last_seen, w.slowest_at
	FROM (
		SELECT h.queryid, h.userid, h.username, sum(h.calls)::bigint AS calls, sum(h.total_seconds) AS total_seconds,
			sum(h.rows)::bigint AS rows, max(h.mean_seconds) AS slowest, max(h.max_seconds) AS max_seconds,
			sum(sum(h.total_seconds)) OVER () AS everything, min(h.bucket) AS first_seen, max(h.bucket) AS last_seen,
			(array_agg(h.bucket ORDER BY h.mean_seconds DESC))[1] AS slowest_at
		FROM monitoring.statement_history AS h
		WHERE h.bucket > slow_queries_over.at - slow_queries_over.over AND h.bucket <= slow_queries_over.at
		GROUP BY h.queryid, h.userid, h.username
	) AS w
	LEFT JOIN monitoring.statement_queries AS q ON q.queryid = w.queryid AND q.userid = w.userid
	WHERE w.slowest >= extract(epoch FROM
		coalesce(nullif(current_setting('monitoring.slow_query_threshold', true), ''), '1s')::interval)
	ORDER BY w.total_seconds DESC
$$;
COMMENT ON FUNCTION monitoring.slow_queries_over(interval, timestamptz) IS 'The view slow_queries for one window of time, the intervals that end in (at - over, at]: calls, times, share, first and last seen are those of the window. Costliest first.';

CREATE FUNCTION monitoring.slow_query_values(at timestamptz, over interval, at_least float8 DEFAULT 0,
	also bigint[] DEFAULT '{}')
RETURNS TABLE (queryid bigint, database text, mean_seconds float8, calls bigint, query text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- A statement's mean over all roles can only be at_least if that of one of them is.
	WITH candidate AS MATERIALIZED (
		SELECT h.queryid
		FROM monitoring.statement_history AS h
		WHERE slow_query_values.at_least >= 0.1 AND h.total_seconds >= h.calls * 0.1::float8
			AND h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			AND h.total_seconds >= h.calls * slow_query_values.at_least * (1 - 1e-9)
		UNION
		SELECT h.queryid
		FROM monitoring.statement_history AS h
		WHERE (slow_query_values.at_least >= 0.1) IS NOT TRUE
			AND h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			AND h.total_seconds >= h.calls * slow_query_values.at_least * (1 - 1e-9)
		UNION
		SELECT unnest(slow_query_values.also)
	)
	SELECT w.queryid, current_database()::text, w.slowest, w.calls, q.query
	FROM (
		SELECT i.queryid, max(i.mean_seconds) AS slowest, sum(i.calls)::bigint AS calls
		FROM (
			SELECT h.queryid, sum(h.calls) AS calls, sum(h.total_seconds) / sum(h.calls) AS mean_seconds
			FROM candidate AS c
			JOIN monitoring.statement_history AS h ON h.queryid = c.queryid
			WHERE h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			GROUP BY h.queryid, h.bucket
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
	WHERE w.slowest >= slow_query_values.at_least OR w.queryid = ANY (slow_query_values.also)
$$;
COMMENT ON FUNCTION monitoring.slow_query_values(timestamptz, interval, float8, bigint[]) IS 'For alert rules: per statement, over all roles, the mean execution time (seconds) of its slowest interval that ended in (at - over, at], the executions in the window, and the text. Statements below at_least seconds are left out, except those whose queryid is in also.';
