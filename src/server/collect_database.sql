
-- collectors, database: tables, indexes, sequences and what is done to them. No
-- lock of theirs is waited for, and the number of series is bounded: only the
-- largest and the busiest have their own (monitoring.collected_tables).

CREATE FUNCTION monitoring.relation_sizes(relations oid[], OUT relation oid, OUT own_bytes bigint, OUT index_bytes bigint) RETURNS SETOF record
LANGUAGE c STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_relation_sizes';
COMMENT ON FUNCTION monitoring.relation_sizes(oid[]) IS 'Sizes of tables (with what is stored out of line) and of their indexes, or of indexes themselves, of those that nobody holds exclusively; the others, and what does not exist, are left out.';

CREATE FUNCTION monitoring.relation_label(schemaname text, relname text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN schemaname ~ '[."]' THEN quote_ident(schemaname) ELSE schemaname END || '.'
	|| CASE WHEN relname ~ '[."]' THEN quote_ident(relname) ELSE relname END;
COMMENT ON FUNCTION monitoring.relation_label(text, text) IS 'schema.name, as a label has it: as they are, but in double quotes where one holds a dot or a double quote, so that no two relations have the same.';

CREATE FUNCTION monitoring.sequence_position(sequence oid) RETURNS bigint
LANGUAGE c STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_sequence_position';
COMMENT ON FUNCTION monitoring.sequence_position(oid) IS 'The last value of a sequence; null when it has none yet or somebody holds it exclusively. Errors: no privilege on the sequence (42501).';

CREATE FUNCTION monitoring.collect_tables(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET stats_fetch_consistency = none SET work_mem = '32MB' AS $$
DECLARE
	here name := current_database();
	block float8 := current_setting('block_size')::float8;
	chosen oid[];
	sums record;
BEGIN
	-- One look at all tables, by the catalog and the shared statistics alone.
	WITH limits AS (
		SELECT current_setting('autovacuum_vacuum_threshold')::float8 AS vacuum, current_setting('autovacuum_vacuum_scale_factor')::float8 AS vacuum_scale,
			-- since 18; below zero: no limit
			current_setting('autovacuum_vacuum_max_threshold', true)::float8 AS vacuum_most,
			current_setting('autovacuum_analyze_threshold')::float8 AS analyze_rows, current_setting('autovacuum_analyze_scale_factor')::float8 AS analyze_scale,
			current_setting('autovacuum_freeze_max_age')::int AS freeze
	), tables AS MATERIALIZED (
		SELECT c.oid, c.relpages, greatest(c.reltuples, 0)::float8 AS rows, age(c.relfrozenxid) AS xid_age, c.reloptions,
			-- ours are in the sums only: there are many, and partitions come and go every hour
			c.relnamespace = 'monitoring'::regnamespace AS ours,
			pg_stat_get_live_tuples(c.oid)::float8 AS live, pg_stat_get_dead_tuples(c.oid)::float8 AS dead, pg_stat_get_mod_since_analyze(c.oid) AS changed,
			pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) AS written
		FROM pg_class AS c
		WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
	), options AS (
		SELECT t.oid, max(p.option_value::float8) FILTER (WHERE p.option_name = 'autovacuum_vacuum_threshold') AS vacuum,
			max(p.option_value::float8) FILTER (WHERE p.option_name = 'autovacuum_vacuum_scale_factor') AS vacuum_scale,
			max(p.option_value::float8) FILTER (WHERE p.option_name = 'autovacuum_vacuum_max_threshold') AS vacuum_most,
			max(p.option_value::float8) FILTER (WHERE p.option_name = 'autovacuum_analyze_threshold') AS analyze_rows,
			max(p.option_value::float8) FILTER (WHERE p.option_name = 'autovacuum_analyze_scale_factor') AS analyze_scale,
			max(p.option_value::float8) FILTER (WHERE p.option_name = 'autovacuum_freeze_max_age') AS freeze
		FROM tables AS t CROSS JOIN LATERAL pg_options_to_table(t.reloptions) AS p
		WHERE t.reloptions IS NOT NULL AND p.option_value ~ '^-?[0-9.]+$'
		GROUP BY t.oid
	), named AS MATERIALIZED (
		(SELECT t.oid, t.relpages, t.dead FROM tables AS t WHERE NOT t.ours ORDER BY t.relpages DESC, t.oid LIMIT current_setting('monitoring.collected_tables')::int)
		UNION
		(SELECT t.oid, t.relpages, t.dead FROM tables AS t WHERE NOT t.ours ORDER BY t.written DESC, t.oid LIMIT current_setting('monitoring.collected_tables')::int)
	), of_named AS (
		SELECT coalesce(sum(k.relpages), 0)::float8 AS pages, coalesce(sum(k.dead), 0) AS dead, array_agg(k.oid) AS oids FROM named AS k
	), of_all AS (
		SELECT count(*)::float8 AS n, coalesce(sum(t.live), 0) AS live, coalesce(sum(t.dead), 0) AS dead, coalesce(max(t.xid_age), 0)::float8 AS oldest,
			coalesce(sum(t.relpages), 0)::float8 AS pages,
			count(*) FILTER (WHERE t.dead > least(coalesce(o.vacuum, h.vacuum) + coalesce(o.vacuum_scale, h.vacuum_scale) * t.rows,
				CASE WHEN coalesce(o.vacuum_most, h.vacuum_most) >= 0 THEN coalesce(o.vacuum_most, h.vacuum_most) END))::float8 AS vacuum,
			count(*) FILTER (WHERE t.changed > coalesce(o.analyze_rows, h.analyze_rows) + coalesce(o.analyze_scale, h.analyze_scale) * t.rows)::float8 AS analyze_due,
			count(*) FILTER (WHERE t.xid_age > least(o.freeze, h.freeze))::float8 AS freeze
		FROM tables AS t CROSS JOIN limits AS h LEFT JOIN options AS o ON o.oid = t.oid
	)
	SELECT a.*, a.pages - k.pages AS others_pages, a.dead - k.dead AS others_dead, k.oids AS chosen INTO sums FROM of_all AS a CROSS JOIN of_named AS k;
	chosen := coalesce(sums.chosen, '{}');
	RETURN QUERY
	SELECT v.metric, 'gauge', jsonb_build_object('datname', here), v.value, NULL::timestamptz
	FROM (VALUES ('pg_tables', sums.n), ('pg_tables_live_tuples', sums.live), ('pg_tables_dead_tuples', sums.dead),
		('pg_tables_oldest_xid_age', sums.oldest), ('pg_tables_others_bytes', sums.others_pages * block), ('pg_tables_others_dead_tuples', sums.others_dead),
		('pg_tables_due_for_vacuum', sums.vacuum), ('pg_tables_due_for_analyze', sums.analyze_due), ('pg_tables_due_for_freeze', sums.freeze)) AS v (metric, value);

	RETURN QUERY
	WITH stats AS MATERIALIZED (
		SELECT s.*, jsonb_build_object('datname', here, 'schemaname', s.schemaname, 'relname', s.relname) AS labels FROM pg_stat_all_tables AS s WHERE s.relid = ANY (chosen)
	), sizes AS MATERIALIZED (
		SELECT z.* FROM monitoring.relation_sizes(chosen) AS z
	)
	SELECT 'pg_stat_user_tables_' || f.key, CASE WHEN f.key LIKE 'n\_live%' OR f.key LIKE 'n\_dead%' OR f.key LIKE 'n\_%\_since\_%' THEN 'gauge' ELSE 'counter' END,
		s.labels, f.value::float8, (r.fields ->> 'stats_reset')::timestamptz
	FROM stats AS s CROSS JOIN LATERAL (SELECT to_jsonb(s) - '{relid,labels}'::text[] AS fields OFFSET 0) AS r CROSS JOIN LATERAL jsonb_each(r.fields) AS f
	WHERE jsonb_typeof(f.value) = 'number'
	UNION ALL
	SELECT 'pg_stat_user_tables_' || v.name, 'gauge', s.labels, v.value, NULL
	FROM stats AS s LEFT JOIN sizes AS z ON z.relation = s.relid
	CROSS JOIN LATERAL (VALUES ('table_size_bytes', z.own_bytes::float8), ('index_size_bytes', z.index_bytes),
		('last_vacuum', extract(epoch FROM s.last_vacuum)), ('last_autovacuum', extract(epoch FROM s.last_autovacuum)),
		('last_analyze', extract(epoch FROM s.last_analyze)), ('last_autoanalyze', extract(epoch FROM s.last_autoanalyze))) AS v (name, value)
	UNION ALL
	SELECT v.metric, 'gauge', jsonb_build_object('database', here, 'table', monitoring.relation_label(s.schemaname, s.relname)), v.value, NULL
	FROM stats AS s LEFT JOIN sizes AS z ON z.relation = s.relid
	CROSS JOIN LATERAL (VALUES ('pg_table_bytes', (z.own_bytes + z.index_bytes)::float8),
		-- of small tables the share means nothing
		('pg_table_dead_tuples_ratio', CASE WHEN s.n_live_tup + s.n_dead_tup >= 10000 THEN s.n_dead_tup::float8 / (s.n_live_tup + s.n_dead_tup) END)) AS v (metric, value)
	UNION ALL
	SELECT 'pg_statio_user_tables_' || replace(f.key, 'blks', 'blocks'), 'counter',
		jsonb_build_object('datname', here, 'schemaname', s.schemaname, 'relname', s.relname), f.value::float8, NULL
	FROM pg_statio_all_tables AS s CROSS JOIN LATERAL jsonb_each(to_jsonb(s) - 'relid') AS f
	WHERE s.relid = ANY (chosen) AND jsonb_typeof(f.value) = 'number';
END $$;
COMMENT ON FUNCTION monitoring.collect_tables(timestamptz) IS 'Collector: statistics, I/O and sizes of the largest and the most written tables; of the others, and of all, sums; how many tables are due for vacuum, analyze and freezing.';

CREATE FUNCTION monitoring.collect_indexes(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET stats_fetch_consistency = none AS $$
DECLARE
	here name := current_database();
	chosen oid[];
BEGIN
	chosen := ARRAY(
		SELECT c.oid FROM pg_class AS c
		WHERE c.relkind = 'i' AND c.relpersistence <> 't' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace, 'monitoring'::regnamespace)
		ORDER BY c.relpages DESC, c.oid LIMIT current_setting('monitoring.collected_tables')::int);
	RETURN QUERY
	WITH named AS MATERIALIZED (
		SELECT c.oid, i.indexrelid, jsonb_build_object('datname', here, 'schemaname', n.nspname, 'relname', t.relname, 'indexrelname', c.relname) AS labels
		FROM pg_class AS c JOIN pg_index AS i ON i.indexrelid = c.oid JOIN pg_class AS t ON t.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
		WHERE c.oid = ANY (chosen)
	)
	SELECT v.metric, 'counter', x.labels, v.value, NULL::timestamptz
	FROM named AS x CROSS JOIN LATERAL (VALUES
		('pg_stat_user_indexes_idx_scan_total', pg_stat_get_numscans(x.oid)::float8),
		('pg_stat_user_indexes_idx_tup_read_total', pg_stat_get_tuples_returned(x.oid)),
		('pg_stat_user_indexes_idx_tup_fetch_total', pg_stat_get_tuples_fetched(x.oid)),
		('pg_statio_user_indexes_idx_blks_read_total', pg_stat_get_blocks_fetched(x.oid) - pg_stat_get_blocks_hit(x.oid)),
		('pg_statio_user_indexes_idx_blks_hit_total', pg_stat_get_blocks_hit(x.oid))) AS v (metric, value)
	UNION ALL
	SELECT 'pg_index_size_bytes', 'gauge', x.labels, z.own_bytes, NULL FROM named AS x JOIN monitoring.relation_sizes(chosen) AS z ON z.relation = x.oid
	UNION ALL
	SELECT 'pg_indexes', 'gauge', jsonb_build_object('datname', here), count(*), NULL
	FROM pg_class AS c WHERE c.relkind = 'i' AND c.relpersistence <> 't' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
	UNION ALL
	SELECT 'pg_invalid_indexes', 'gauge', jsonb_build_object('datname', here), count(*), NULL
	FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
	WHERE NOT i.indisvalid AND c.relkind = 'i' AND c.relpersistence <> 't' AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace);
END $$;
COMMENT ON FUNCTION monitoring.collect_indexes(timestamptz) IS 'Collector: scans, I/O and size of the largest indexes; how many indexes there are and how many are invalid.';

-- Where there are more than 5,000 sequences they take turns.
CREATE FUNCTION monitoring.collect_sequences(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	turns bigint := (SELECT count(*) / 5000 + 1 FROM pg_class AS c WHERE c.relkind = 'S');
	turn bigint := floor(extract(epoch FROM at) / 900)::bigint % turns;
BEGIN
	RETURN QUERY
	WITH positions AS MATERIALIZED (
		SELECT monitoring.relation_label(n.nspname, c.relname) AS sequence, s.seqincrement > 0 AS ascends, s.seqmin::float8 AS lowest, s.seqmax::float8 AS highest,
			l.lowest AS column_lowest, l.highest AS column_highest, CASE WHEN c.relkind = 'S' THEN monitoring.sequence_position(c.oid) END::float8 AS position
		FROM pg_class AS c
		JOIN pg_sequence AS s ON s.seqrelid = c.oid
		JOIN pg_namespace AS n ON n.oid = c.relnamespace
		LEFT JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
		LEFT JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
		LEFT JOIN (VALUES ('int2'::regtype, -32768::float8, 32767::float8), ('int4', -2147483648, 2147483647), ('int8', -9223372036854775808, 9223372036854775807))
			AS l (type, lowest, highest) ON l.type = a.atttypid
		WHERE c.relkind = 'S' AND NOT s.seqcycle AND c.relpersistence = 'p' AND c.oid::bigint % turns = turn
			AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT, USAGE') END
	)
	SELECT 'pg_sequence_used_ratio', 'gauge', jsonb_build_object('database', current_database(), 'sequence', u.sequence), u.used, NULL::timestamptz
	FROM (
		SELECT p.sequence, greatest(CASE WHEN p.ascends THEN (p.position - p.lowest) / nullif(least(p.highest, p.column_highest) - p.lowest, 0)
			ELSE (p.highest - p.position) / nullif(p.highest - greatest(p.lowest, p.column_lowest), 0) END, 0) AS used
		FROM positions AS p WHERE p.position IS NOT NULL) AS u
	WHERE u.used IS NOT NULL
	ORDER BY u.used DESC, u.sequence LIMIT current_setting('monitoring.collected_tables')::int;
END $$;
COMMENT ON FUNCTION monitoring.collect_sequences(timestamptz) IS 'Collector: how much of its range each sequence has used, or of that of the column which it is for, if that is smaller; the sequences nearest to their end. Sequences that begin anew at their end have none.';

CREATE FUNCTION monitoring.collect_progress(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	source text;
BEGIN
	-- which views there are depends on the version
	FOR source IN SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname LIKE 'pg\_stat\_progress\_%' AND c.relkind = 'v' LOOP
		RETURN QUERY EXECUTE format($query$
			WITH work AS MATERIALIZED (
				SELECT to_jsonb(p) AS fields FROM pg_catalog.%1$I AS p
			), named AS (
				SELECT w.fields - '{pid,datid,relid,index_relid,current_child_table_relid,current_locker_pid,cluster_index_relid,partitions_total_relid}'::text[] AS fields,
					w.fields ->> 'phase' AS phase,
					jsonb_strip_nulls(jsonb_build_object('datname', w.fields -> 'datname', 'relname', c.relname)) AS labels
				FROM work AS w LEFT JOIN pg_catalog.pg_class AS c ON c.oid = (w.fields ->> 'relid')::oid
				WHERE coalesce(w.fields ->> 'datname' = current_database(), monitoring.is_home())
			)
			SELECT %2$L || f.key, 'gauge', n.labels, sum(f.value::float8), NULL::timestamptz
			FROM named AS n CROSS JOIN LATERAL jsonb_each(n.fields) AS f WHERE jsonb_typeof(f.value) = 'number' GROUP BY 1, 3
			UNION ALL
			SELECT %2$L || 'phase', 'gauge', n.labels || jsonb_build_object('phase', n.phase), count(*), NULL FROM named AS n WHERE n.phase IS NOT NULL GROUP BY 3
		$query$, source, source || '_');
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.collect_progress(timestamptz) IS 'Collector: the views pg_stat_progress_..., all that there are, of this database.';

CREATE FUNCTION monitoring.collect_extensions(at timestamptz) RETURNS SETOF monitoring.reading
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT 'pg_extension_version', 'gauge', jsonb_build_object('datname', current_database(), 'extension', e.extname, 'version', e.extversion), 1::float8, NULL::timestamptz
	FROM pg_extension AS e
	UNION ALL
	SELECT 'pg_extensions_outdated', 'gauge', jsonb_build_object('datname', current_database()), count(*), NULL
	FROM pg_extension AS e JOIN pg_available_extensions() AS a ON a.name = e.extname WHERE a.default_version <> e.extversion;
END $$;
COMMENT ON FUNCTION monitoring.collect_extensions(timestamptz) IS 'Collector: extensions and their versions, and how many of them have a newer one installed on the machine.';

INSERT INTO monitoring.collectors (name, function, scope, every, cost_limit, description) VALUES
	('tables', 'monitoring.collect_tables', 'database', '5 minutes', '2 seconds', 'tables: use, I/O, size, vacuum'),
	('indexes', 'monitoring.collect_indexes', 'database', '5 minutes', '1 second', 'indexes: use, I/O, size'),
	('sequences', 'monitoring.collect_sequences', 'database', '15 minutes', '1 second', 'sequences near their end'),
	('progress', 'monitoring.collect_progress', 'database', '10 seconds', '500 milliseconds', 'progress of vacuum, analyze, CREATE INDEX, COPY and the like'),
	('extensions', 'monitoring.collect_extensions', 'database', '1 hour', '1 second', 'versions of extensions');
