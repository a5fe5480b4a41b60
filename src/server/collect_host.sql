
-- collectors, host: the machine and the server's processes.

CREATE FUNCTION monitoring.host_readings(root text DEFAULT '/') RETURNS SETOF monitoring.reading
LANGUAGE c STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_host_readings';
COMMENT ON FUNCTION monitoring.host_readings(text) IS 'The machine, from /proc and /sys below a directory, the volumes that the server lives on, and the limits of its control group. Names are those of node_exporter; with host_ begin those with the name of the machine as label host. What cannot be read is left out: node_scrape_collector_success is 0 for it. host_cpu_used_ratio is of the time since the session''s last call, and the first gives none. Needs the rights of pg_read_server_files (42501).';

CREATE FUNCTION monitoring.process_usage(pids int[], OUT pid int, OUT started_seconds float8, OUT user_seconds float8, OUT system_seconds float8,
	OUT dead_children_seconds float8, OUT resident_bytes float8, OUT private_bytes float8) RETURNS SETOF record
LANGUAGE c STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_process_usage';
COMMENT ON FUNCTION monitoring.process_usage(int[]) IS 'Processes, and the postmaster as the last: CPU seconds, seconds from the machine''s start to theirs, CPU seconds of children that have ended, memory, and what of it is not shared. Processes that have ended are left out. Needs the rights of pg_read_all_stats (42501).';

CREATE FUNCTION monitoring.collect_host(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT * FROM monitoring.host_readings()
$$;
COMMENT ON FUNCTION monitoring.collect_host(timestamptz) IS 'Collector: CPU, load, memory, swap, disks, network, pressure, file descriptors, volumes, limits of the control group.';

-- A group's CPU seconds fall when one of its processes ends; that is no reset.
CREATE FUNCTION monitoring.collect_processes(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH backends AS MATERIALIZED (
		SELECT a.pid, coalesce(a.backend_type, 'other') AS kind FROM pg_stat_get_activity(NULL) AS a
	), usage AS MATERIALIZED (
		SELECT u.*, coalesce(b.kind, 'postmaster') AS kind FROM monitoring.process_usage(ARRAY(SELECT b.pid FROM backends AS b)) AS u
		LEFT JOIN backends AS b ON b.pid = u.pid
	), grouped AS (
		SELECT u.kind, count(*) AS n, sum(u.user_seconds) AS user_seconds, sum(u.system_seconds) AS system_seconds,
			max(u.resident_bytes) AS resident, sum(u.private_bytes) AS private
		FROM usage AS u GROUP BY u.kind
	)
	SELECT v.metric, v.kind, jsonb_build_object('group', g.kind) || v.labels, v.value, '-infinity'::timestamptz
	FROM grouped AS g CROSS JOIN LATERAL (VALUES
		('pg_processes', 'gauge', '{}'::jsonb, g.n::float8),
		('pg_process_cpu_seconds_total', 'counter', '{"mode": "user"}', g.user_seconds),
		('pg_process_cpu_seconds_total', 'counter', '{"mode": "system"}', g.system_seconds),
		('pg_process_largest_resident_bytes', 'gauge', '{}', g.resident),
		('pg_process_private_bytes', 'gauge', '{}', g.private)) AS v (metric, kind, labels, value)
	UNION ALL
	-- of all processes there have been: those that have ended are in the postmaster's account
	SELECT 'pg_server_cpu_seconds_total', 'counter', '{}', sum(u.user_seconds + u.system_seconds + CASE WHEN u.kind = 'postmaster' THEN u.dead_children_seconds ELSE 0 END),
		pg_postmaster_start_time()
	FROM usage AS u HAVING count(*) > 0;
END $$;
COMMENT ON FUNCTION monitoring.collect_processes(timestamptz) IS 'Collector: how many processes of each kind the server has, their CPU time and the memory that they do not share; and the CPU time of the whole server. Of a group, the time of a process between its last reading and its end is missing.';

INSERT INTO monitoring.collectors (name, function, scope, every, description) VALUES
	('host', 'monitoring.collect_host', 'server', '10 seconds', 'the machine: CPU, memory, disks, network, pressure, limits'),
	('processes', 'monitoring.collect_processes', 'server', '30 seconds', 'the server''s processes by kind: CPU, memory');
