-- advisors of settings: what is dangerous, and what does not fit the machine and the load.
--
-- Rules of thumb are those of PostgreSQL's documentation (chapters "Resource Consumption", "WAL Configuration", "Routine Vacuuming").

CREATE FUNCTION monitoring.machine(OUT memory_bytes float8, OUT huge_pages bigint, OUT rotating boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	meminfo text;
	bound float8;
	path text;
BEGIN
	-- only superusers may read files; without the figures there are no findings that need them
	IF NOT has_function_privilege('pg_read_file(text, bigint, bigint, boolean)', 'EXECUTE') THEN
		RETURN;
	END IF;
	meminfo := pg_read_file('/proc/meminfo', 0, 65536, true);
	memory_bytes := substring(meminfo FROM 'MemTotal:\s+(\d+) kB')::float8 * 1024;
	huge_pages := substring(meminfo FROM 'HugePages_Total:\s+(\d+)')::bigint;
	-- a container has less
	FOREACH path IN ARRAY '{/sys/fs/cgroup/memory.max,/sys/fs/cgroup/memory/memory.limit_in_bytes}'::text[] LOOP
		bound := substring(pg_read_file(path, 0, 64, true) FROM '^\d+')::float8;
		memory_bytes := least(memory_bytes, bound);
	END LOOP;
	SELECT bool_or(pg_read_file(format('/sys/block/%s/queue/rotational', d.name), 0, 8, true) LIKE '1%') INTO rotating
	FROM pg_ls_dir('/sys/block', true, false) AS d (name)
	WHERE d.name !~ '^(loop|ram|zram|sr|fd|dm-|md)';
EXCEPTION WHEN system_error OR io_error OR insufficient_privilege OR undefined_file THEN
	RETURN;
END $$;
COMMENT ON FUNCTION monitoring.machine() IS 'For advisors: memory of the machine or container in bytes, huge pages that are set aside, and whether there is a disk that rotates; null: not known.';

CREATE FUNCTION monitoring.setting_bytes(name text) RETURNS float8
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.setting::float8 * CASE s.unit WHEN '8kB' THEN 8192 WHEN 'kB' THEN 1024 WHEN 'MB' THEN 1048576 ELSE current_setting('block_size')::float8 END
	FROM pg_settings AS s WHERE s.name = setting_bytes.name
$$;
COMMENT ON FUNCTION monitoring.setting_bytes(text) IS 'For advisors: a setting of memory in bytes.';

CREATE FUNCTION monitoring.setting_advice(name text, proposed text, severity text, impact float8, summary text, evidence jsonb) RETURNS monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ('setting', s.name, severity, impact, summary,
		jsonb_build_object('value', current_setting(s.name), 'proposed', proposed, 'source', s.source) || coalesce(evidence, '{}'), NULL, NULL,
		format('ALTER SYSTEM SET %I = %L;%sSELECT pg_reload_conf();', s.name, proposed, E'\n')
			|| CASE WHEN s.context = 'postmaster' THEN E'\n-- takes effect when the server is restarted' ELSE '' END,
		-- as the server itself understands the value
		NULL)::monitoring.advice_row
	FROM pg_settings AS s
	WHERE s.name = setting_advice.name AND s.context <> 'internal'
$$;
COMMENT ON FUNCTION monitoring.setting_advice(text, text, text, float8, text, jsonb) IS 'For advisors: a finding about a setting and the value that it should have.';

CREATE FUNCTION monitoring.find_dangerous_settings(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT (monitoring.setting_advice(r.name, r.good, r.severity, r.impact, r.summary, '{}')).*
	FROM (VALUES
		('fsync', 'on', 'critical', 1, 'fsync is off: after a crash of the machine the whole database can be lost.'),
		('full_page_writes', 'on', 'critical', 0.9, 'full_page_writes is off: a crash of the machine can leave pages that are half old.'),
		('zero_damaged_pages', 'off', 'critical', 0.8, 'zero_damaged_pages is on: damaged pages are emptied and their rows lost.'),
		('ignore_checksum_failure', 'off', 'critical', 0.7, 'ignore_checksum_failure is on: damaged pages are used as if they were whole.'),
		('ignore_invalid_pages', 'off', 'critical', 0.6, 'ignore_invalid_pages is on: recovery goes on over pages that are missing.'),
		('autovacuum', 'on', 'high', 0.9, 'autovacuum is off: tables grow, statistics age, and the server will stop to prevent wraparound.'),
		('track_counts', 'on', 'high', 0.8, 'track_counts is off: autovacuum does not know what to do.'),
		('track_activities', 'on', 'low', 0.5, 'track_activities is off: nobody sees what sessions do.'),
		('track_io_timing', 'on', 'info', 0.3, 'track_io_timing is off: how long reads and writes take is not known. pg_test_timing tells what it costs here.')
	) AS r (name, good, severity, impact, summary)
	WHERE current_setting(r.name) <> r.good
	UNION ALL
	SELECT 'server', 'checksums', 'low', 0.4,
		'Data checksums are off: what disks and controllers damage is noticed late, if at all. pg_checksums --enable switches them on while the server is down.',
		jsonb_build_object('value', 'off'), NULL, NULL, NULL, 'SELECT current_setting(''data_checksums'') = ''on'' AS fixed'
	WHERE current_setting('data_checksums') = 'off'
	UNION ALL
	SELECT 'server', 'damaged pages', 'critical', 1,
		format('%s pages of database %I had wrong checksums: the storage damages data.', d.checksum_failures, d.datname),
		jsonb_build_object('failures', d.checksum_failures, 'last', d.checksum_last_failure), NULL, NULL, NULL, NULL
	FROM pg_stat_database AS d
	WHERE d.datname = current_database() AND d.checksum_failures > 0
$$;
COMMENT ON FUNCTION monitoring.find_dangerous_settings(timestamptz, jsonb) IS 'Advisor dangerous_settings: what loses data or leaves the server blind.';

CREATE FUNCTION monitoring.find_memory_settings(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH facts AS MATERIALIZED (
		SELECT m.memory_bytes AS memory, m.huge_pages, monitoring.setting_bytes('shared_buffers') AS buffers,
			monitoring.setting_bytes('effective_cache_size') AS cache, monitoring.setting_bytes('work_mem') AS work,
			monitoring.setting_bytes('maintenance_work_mem') AS maintenance,
			(SELECT sum(t.bytes) FROM monitoring.advised_tables() AS t) AS data, c.seconds,
			(c.counters ->> 'temp_bytes')::float8 AS temp_bytes, (c.counters ->> 'temp_files')::float8 AS temp_files,
			(thresholds ->> 'temp_bytes_per_hour')::float8 AS temp_limit, (thresholds ->> 'min_memory')::float8 AS min_memory
		FROM monitoring.machine() AS m
		CROSS JOIN monitoring.counters_since(find_memory_settings.at) AS c
	), figures AS (
		SELECT f.*, jsonb_build_object('memory_bytes', f.memory, 'table_bytes', f.data) AS evidence FROM facts AS f
	)
	SELECT (monitoring.setting_advice('shared_buffers', floor(f.memory / 4 / 1048576) || 'MB', 'medium', 0.6,
		format('shared_buffers is %s, less than a tenth of the memory, and the tables do not fit. A quarter of it is a usual beginning.', pg_size_pretty(f.buffers::bigint)),
		f.evidence)).*
	FROM figures AS f
	WHERE f.memory >= f.min_memory AND f.buffers < f.memory / 10 AND f.data > f.buffers
	UNION ALL
	SELECT (monitoring.setting_advice('shared_buffers', floor(f.memory / 4 / 1048576) || 'MB', 'medium', 0.7,
		format('shared_buffers is %s: more than %s %% of the memory leaves too little for everything else.', pg_size_pretty(f.buffers::bigint), 60), f.evidence)).*
	FROM figures AS f
	WHERE f.buffers > f.memory * 0.6
	UNION ALL
	SELECT (monitoring.setting_advice('effective_cache_size', floor(f.memory * 0.7 / 1048576) || 'MB', 'low', 0.4,
		format('effective_cache_size is %s: the planner takes the machine for %s than it is.', pg_size_pretty(f.cache::bigint),
			CASE WHEN f.cache < f.memory THEN 'smaller' ELSE 'larger' END), f.evidence)).*
	FROM figures AS f
	WHERE f.memory >= f.min_memory AND (f.cache < f.memory * 0.3 OR f.cache > f.memory)
	UNION ALL
	-- so much that the sessions of a busy moment do not need all of it
	SELECT (monitoring.setting_advice('work_mem',
		floor(least(f.work * 4, greatest(f.work, f.memory / 4 / current_setting('max_connections')::float8)) / 1024) || 'kB', 'medium', 0.5,
		format('Sorts and hashes wrote %s an hour to temporary files, since work_mem is %s.', pg_size_pretty((f.temp_bytes * 3600 / f.seconds)::bigint),
			pg_size_pretty(f.work::bigint)),
		f.evidence || jsonb_build_object('temp_bytes', f.temp_bytes, 'temp_files', f.temp_files, 'over_seconds', f.seconds))).*
	FROM figures AS f
	WHERE f.seconds >= 3600 AND f.temp_bytes * 3600 / f.seconds >= f.temp_limit AND f.memory / 4 / current_setting('max_connections')::float8 > f.work * 1.2
	UNION ALL
	SELECT (monitoring.setting_advice('maintenance_work_mem', floor(least(f.memory / 16, 2147483648) / 1048576) || 'MB', 'info', 0.3,
		format('maintenance_work_mem is %s: vacuum and index builds of large tables go several times over their indexes.', pg_size_pretty(f.maintenance::bigint)),
		f.evidence)).*
	FROM figures AS f
	WHERE f.memory >= f.min_memory * 4 AND f.maintenance <= 67108864 AND f.data >= (thresholds ->> 'large_data')::float8
	UNION ALL
	SELECT 'setting', 'huge_pages', 'low', 0.3,
		format('shared_buffers of %s are in small pages: no huge pages are set aside (vm.nr_hugepages).', pg_size_pretty(f.buffers::bigint)),
		f.evidence || jsonb_build_object('value', current_setting('huge_pages'), 'huge_pages', f.huge_pages), NULL, NULL, NULL, NULL
	FROM figures AS f
	WHERE f.huge_pages = 0 AND f.buffers >= (thresholds ->> 'many_buffers')::float8 AND current_setting('huge_pages') <> 'off'
$$;
COMMENT ON FUNCTION monitoring.find_memory_settings(timestamptz, jsonb) IS 'Advisor memory_settings. Thresholds, in bytes: min_memory of the machine, temp_bytes_per_hour, large_data, many_buffers.';

CREATE FUNCTION monitoring.find_load_settings(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH facts AS MATERIALIZED (
		SELECT c.seconds, (c.counters ->> 'checkpoints_requested')::float8 AS requested, (c.counters ->> 'checkpoints_timed')::float8 AS timed,
			m.rotating, monitoring.setting_bytes('max_wal_size') AS wal
		FROM monitoring.counters_since(find_load_settings.at) AS c
		CROSS JOIN monitoring.machine() AS m
	)
	SELECT (monitoring.setting_advice('max_wal_size', floor(f.wal * 2 / 1048576) || 'MB',
		CASE WHEN f.requested / (f.requested + f.timed) > (thresholds ->> 'medium_requested_ratio')::float8 THEN 'medium' ELSE 'low' END, 0.5,
		format('%s of %s checkpoints came because max_wal_size (%s) was full: each makes pages be written whole again.', f.requested, f.requested + f.timed,
			pg_size_pretty(f.wal::bigint)),
		jsonb_build_object('requested', f.requested, 'timed', f.timed, 'over_seconds', f.seconds))).*
	FROM facts AS f
	WHERE f.requested >= (thresholds ->> 'min_requested')::float8
		AND f.requested / nullif(f.requested + f.timed, 0) > (thresholds ->> 'low_requested_ratio')::float8
	UNION ALL
	SELECT (monitoring.setting_advice('checkpoint_completion_target', '0.9', 'low', 0.3,
		'Checkpoints write in a hurry: checkpoint_completion_target is below its default.', '{}')).*
	WHERE current_setting('checkpoint_completion_target')::float8 < 0.9
	UNION ALL
	SELECT (monitoring.setting_advice('random_page_cost', '1.1', 'info', 0.3,
		'No disk of this machine rotates, but the planner reckons that random reads cost four times as much as sequential ones.', '{}')).*
	FROM facts AS f
	WHERE NOT f.rotating AND current_setting('random_page_cost')::float8 >= 4
	UNION ALL
	SELECT (monitoring.setting_advice('autovacuum_max_workers', (current_setting('autovacuum_max_workers')::integer * 2)::text, 'medium', 0.5,
		format('All %s autovacuum workers are busy, and %s tables of this database wait for one.', w.running, w.waiting),
		jsonb_build_object('running', w.running, 'waiting', w.waiting))).*
	FROM (
		SELECT (SELECT count(*) FROM pg_stat_activity AS a WHERE a.backend_type = 'autovacuum worker') AS running,
			(SELECT count(*) FROM monitoring.advised_tables() AS t
				WHERE t.kind IN ('r', 'm') AND pg_stat_get_dead_tuples(t.relation) > 2 * monitoring.vacuum_due_at(t.options, t.tuples)) AS waiting) AS w
	WHERE w.running >= current_setting('autovacuum_max_workers')::integer AND w.waiting >= current_setting('autovacuum_max_workers')::integer
	UNION ALL
	SELECT 'server', 'archiving', 'high', 0.9,
		format('WAL is not archived: the latest attempt, at %s, failed for %s.', a.last_failed_time, a.last_failed_wal),
		jsonb_build_object('failed', a.failed_count, 'archived', a.archived_count, 'last_archived_at', a.last_archived_time, 'last_failed_at', a.last_failed_time),
		NULL, NULL, NULL, 'SELECT a.last_archived_time > a.last_failed_time AS fixed FROM pg_stat_archiver AS a'
	FROM pg_stat_archiver AS a
	WHERE current_setting('archive_mode') <> 'off' AND a.last_failed_time > coalesce(a.last_archived_time, '-infinity')
		AND a.last_failed_time >= pg_postmaster_start_time()
$$;
COMMENT ON FUNCTION monitoring.find_load_settings(timestamptz, jsonb) IS 'Advisor load_settings: checkpoints, autovacuum workers, archiving, costs. Thresholds: min_requested checkpoints and low_requested_ratio, medium_requested_ratio of all.';

CREATE FUNCTION monitoring.find_waiting_settings(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'setting', s.name, 'low', 0.2::float8, format('A change of %s waits for a restart of the server.', s.name),
		jsonb_build_object('value', current_setting(s.name, true)), NULL::float8, NULL, NULL,
		format('SELECT NOT EXISTS (SELECT FROM pg_settings AS s WHERE s.name = %L AND s.pending_restart) AS fixed', s.name)
	FROM pg_settings AS s
	WHERE s.pending_restart
	UNION ALL
	SELECT 'setting', f.name, 'medium', 0.3, format('The configuration files have a value of %s that the server does not take: %s.', f.name, f.error),
		jsonb_build_object('value', current_setting(f.name, true), 'file', f.sourcefile, 'line', f.sourceline), NULL, NULL, NULL, NULL
	FROM (
		SELECT DISTINCT ON (f.name) f.*
		FROM pg_show_all_file_settings() AS f
		WHERE f.error IS NOT NULL AND f.name IS NOT NULL
			-- a change that waits for a restart is no error
			AND NOT EXISTS (SELECT FROM pg_settings AS s WHERE s.name = f.name AND s.pending_restart)
		ORDER BY f.name, f.seqno DESC) AS f
$$;
COMMENT ON FUNCTION monitoring.find_waiting_settings(timestamptz, jsonb) IS 'Advisor waiting_settings: changes that wait for a restart, and lines of configuration files that the server does not take.';

CREATE FUNCTION monitoring.find_extension_updates(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'extension', quote_ident(e.extname), 'low', 0.1::float8,
		format('Extension %I is of version %s, and %s is installed.', e.extname, e.extversion, a.default_version),
		jsonb_build_object('version', e.extversion, 'available', a.default_version), NULL::float8, NULL,
		format('ALTER EXTENSION %I UPDATE;', e.extname),
		format('SELECT NOT EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = %L AND e.extversion = %L) AS fixed', e.extname, e.extversion)
	FROM pg_extension AS e
	JOIN pg_available_extensions() AS a ON a.name = e.extname AND a.default_version <> e.extversion
	-- not if it is older
	WHERE EXISTS (SELECT FROM pg_extension_update_paths(e.extname) AS p WHERE p.source = e.extversion AND p.target = a.default_version AND p.path IS NOT NULL)
$$;
COMMENT ON FUNCTION monitoring.find_extension_updates(timestamptz, jsonb) IS 'Advisor extension_updates: extensions whose files are newer than what the database has.';

INSERT INTO monitoring.advisors (name, function, category, thresholds, description, builtin) VALUES
	('dangerous_settings', 'monitoring.find_dangerous_settings', 'settings', '{}', 'Settings that lose data or leave the server blind; checksums.', true),
	('memory_settings', 'monitoring.find_memory_settings', 'settings',
		'{"min_memory": 1073741824, "temp_bytes_per_hour": 1073741824, "large_data": 10737418240, "many_buffers": 8589934592}',
		'Memory settings against the memory of the machine, the size of the tables and what was written to temporary files.', true),
	('load_settings', 'monitoring.find_load_settings', 'settings',
		'{"min_requested": 5, "low_requested_ratio": 0.3, "medium_requested_ratio": 0.6}',
		'Checkpoints that max_wal_size forces, autovacuum workers that are all busy, WAL that is not archived, costs of random reads.', true),
	('waiting_settings', 'monitoring.find_waiting_settings', 'settings', '{}', 'Settings that wait for a restart, and faulty lines of configuration files.', true),
	('extension_updates', 'monitoring.find_extension_updates', 'settings', '{}', 'Extensions that can be updated.', true);
