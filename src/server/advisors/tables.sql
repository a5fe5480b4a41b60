-- advisors of tables: keys that run out, statistics, constraints, durability, and what nobody reads.

CREATE FUNCTION monitoring.column_maximum(relation oid, number smallint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT max(v.value::text::bigint)
	FROM pg_statistic AS s
	CROSS JOIN LATERAL (VALUES (s.stakind1, s.stavalues1::text::text[]), (s.stakind2, s.stavalues2::text::text[]), (s.stakind3, s.stavalues3::text::text[])) AS k (kind, slot)
	CROSS JOIN LATERAL unnest(k.slot) AS v (value)
	-- 1: most common values, 2: histogram
	WHERE s.starelid = column_maximum.relation AND s.staattnum = column_maximum.number AND k.kind IN (1, 2)
$$;
COMMENT ON FUNCTION monitoring.column_maximum(oid, smallint) IS 'For advisors: the largest value of an integer column that the latest analyze met.';

CREATE FUNCTION monitoring.find_keys_near_end(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH types (type, highest) AS (
		VALUES ('int2'::regtype::oid, 32767::float8), ('int4'::regtype, 2147483647), ('int8'::regtype, 9223372036854775807)
	), owned AS (
		SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS number
		FROM pg_depend AS d
		WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
	), sequences AS MATERIALIZED (
		SELECT format('%I.%I', n.nspname, c.relname) AS identity, s.seqincrement, s.seqtypid, o.relation, o.number, a.attname, a.atttypid,
			s.seqmin, s.seqmax, CASE WHEN has_sequence_privilege(s.seqrelid, 'SELECT, USAGE') THEN monitoring.sequence_position(s.seqrelid) END AS position,
			-- the column may be narrower than the sequence
			least(s.seqmax, coalesce(t.highest, s.seqmax)) AS highest, greatest(s.seqmin, 1) AS lowest
		FROM pg_sequence AS s
		JOIN pg_class AS c ON c.oid = s.seqrelid
		JOIN pg_namespace AS n ON n.oid = c.relnamespace
		LEFT JOIN owned AS o ON o.sequence = s.seqrelid
		LEFT JOIN pg_attribute AS a ON a.attrelid = o.relation AND a.attnum = o.number
		LEFT JOIN types AS t ON t.type = a.atttypid
		WHERE NOT s.seqcycle AND s.seqincrement > 0 AND n.nspname <> 'monitoring' AND n.nspname !~ '^pg_'
			AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.deptype = 'e')
	), used AS (
		SELECT s.*, t.identity AS table_identity, (s.position - s.lowest) / nullif(s.highest - s.lowest, 0) AS ratio,
			(thresholds ->> 'warn_ratio')::float8 AS warn, (thresholds ->> 'high_ratio')::float8 AS high
		FROM sequences AS s
		LEFT JOIN monitoring.advised_tables() AS t ON t.relation = s.relation
	), columns AS (
		-- keys that applications number themselves
		SELECT t.identity, a.attname, m.value AS position, y.highest, m.value / y.highest AS ratio,
			(thresholds ->> 'warn_ratio')::float8 AS warn, (thresholds ->> 'high_ratio')::float8 AS high
		FROM pg_index AS i
		JOIN monitoring.advised_tables() AS t ON t.relation = i.indrelid AND NOT t.partition
		JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
		JOIN types AS y ON y.type = a.atttypid AND y.type <> 'int8'::regtype
		CROSS JOIN LATERAL monitoring.column_maximum(a.attrelid, a.attnum) AS m (value)
		WHERE i.indisprimary AND i.indnkeyatts = 1 AND a.attnum > 0
			AND NOT EXISTS (SELECT FROM owned AS o WHERE o.relation = a.attrelid AND o.number = a.attnum)
	)
	SELECT 'sequence', u.identity, CASE WHEN u.ratio >= u.high THEN 'high' ELSE 'medium' END, least(u.ratio, 1),
		format('Sequence %s has given out %s %% of its numbers%s.', u.identity, floor(u.ratio * 100),
			CASE WHEN u.table_identity IS NOT NULL THEN format(' for %s.%I', u.table_identity, u.attname) ELSE '' END),
		jsonb_build_object('last_value', u.position, 'highest', u.highest, 'used_ratio', round(u.ratio::numeric, 4), 'table', u.table_identity,
			'column', u.attname, 'type', format_type(coalesce(u.atttypid, u.seqtypid), NULL)),
		u.highest - u.position, 'numbers',
		concat_ws(E'\n',
			CASE WHEN u.table_identity IS NOT NULL AND u.atttypid <> 'int8'::regtype
				-- writes the table anew, and nobody reads or writes it meanwhile
				THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint;', u.table_identity, u.attname) END,
			format('ALTER SEQUENCE %s AS bigint NO MAXVALUE;', u.identity)), NULL
	FROM used AS u
	WHERE u.ratio >= u.warn
	UNION ALL
	SELECT 'sequence', u.identity, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	FROM used AS u
	WHERE u.position IS NULL
	UNION ALL
	SELECT 'column', format('%s.%I', c.identity, c.attname), CASE WHEN c.ratio >= c.high THEN 'high' ELSE 'medium' END, least(c.ratio, 1),
		format('The key %I of %s has come to %s %% of what its type can hold.', c.attname, c.identity, floor(c.ratio * 100)),
		jsonb_build_object('highest_met', c.position, 'highest', c.highest, 'used_ratio', round(c.ratio::numeric, 4)),
		c.highest - c.position, 'numbers', format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint;', c.identity, c.attname), NULL
	FROM columns AS c
	WHERE c.ratio >= c.warn
$$;
COMMENT ON FUNCTION monitoring.find_keys_near_end(timestamptz, jsonb) IS 'Advisor keys_near_end: sequences, of which the narrower of sequence and column counts, and primary keys that no sequence numbers. Thresholds: warn_ratio, high_ratio of what is used.';

CREATE FUNCTION monitoring.find_stale_statistics(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH tables AS (
		SELECT t.*, EXISTS (SELECT FROM pg_statistic AS s WHERE s.starelid = t.relation AND NOT s.stainherit) AS analyzed,
			pg_stat_get_mod_since_analyze(t.relation) AS changed, pg_stat_get_live_tuples(t.relation) AS live,
			greatest(pg_stat_get_last_analyze_time(t.relation), pg_stat_get_last_autoanalyze_time(t.relation)) AS analyzed_at,
			monitoring.table_option(t.options, 'autovacuum_analyze_threshold')
				+ monitoring.table_option(t.options, 'autovacuum_analyze_scale_factor') * t.tuples AS due_at
		FROM monitoring.advised_tables() AS t
	)
	SELECT 'table', t.identity, CASE WHEN t.analyzed THEN 'low' ELSE 'medium' END, t.impact,
		CASE WHEN NOT t.analyzed THEN format('The planner knows nothing of the values in %s: nobody has analyzed it.', t.identity)
			ELSE format('%s rows of %s have changed since it was analyzed, and autovacuum has not come.', t.changed, t.identity) END,
		jsonb_build_object('rows', t.live, 'rows_changed', t.changed, 'analyzed_at', t.analyzed_at, 'autovacuum_due_at', round(t.due_at::numeric)),
		NULL::float8, NULL, format('ANALYZE %s;', t.identity),
		format('SELECT coalesce(pg_stat_get_mod_since_analyze(to_regclass(%L)) < %s, true) AS fixed', t.identity, greatest(round(t.due_at::numeric), 1))
	FROM tables AS t
	WHERE t.kind IN ('r', 'm') AND t.live >= (thresholds ->> 'min_rows')::float8 AND t.changed > t.due_at * (thresholds ->> 'times_due')::float8
		-- autovacuum needs a while to come to a new table
		AND CASE WHEN t.analyzed THEN t.analyzed_at < find_stale_statistics.at - (thresholds ->> 'min_age')::interval
			ELSE EXISTS (SELECT FROM monitoring.usage_since(find_stale_statistics.at) AS u
				WHERE u.relation = t.relation AND u.over >= (thresholds ->> 'min_known')::interval) END
	-- nobody analyzes a partitioned table as a whole unless he is told
	UNION ALL
	SELECT 'table', t.identity, 'low', p.impact,
		format('The planner knows nothing of the values in %s as a whole: autovacuum analyzes its partitions only.', t.identity),
		jsonb_build_object('rows', p.rows, 'partitions', p.partitions), NULL, NULL, format('ANALYZE %s;', t.identity),
		format('SELECT EXISTS (SELECT FROM pg_statistic AS s WHERE s.starelid = to_regclass(%L) AND s.stainherit) AS fixed', t.identity)
	FROM tables AS t
	CROSS JOIN LATERAL (
		SELECT sum(c.tuples) AS rows, count(*) AS partitions, least(sum(c.impact), 1) AS impact
		FROM pg_inherits AS h
		JOIN tables AS c ON c.relation = h.inhrelid
		WHERE h.inhparent = t.relation
	) AS p
	WHERE t.kind = 'p' AND NOT t.partition AND p.rows >= (thresholds ->> 'min_partitioned_rows')::float8
		AND NOT EXISTS (SELECT FROM pg_statistic AS s WHERE s.starelid = t.relation AND s.stainherit)
$$;
COMMENT ON FUNCTION monitoring.find_stale_statistics(timestamptz, jsonb) IS 'Advisor stale_statistics. Thresholds: min_rows; times_due: so many times the changes at which autovacuum is to analyze it; min_age since it was; min_known since the table is known, if it never was; min_partitioned_rows.';

CREATE FUNCTION monitoring.find_tables_without_key(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	SELECT 'table', t.identity, CASE WHEN p.published THEN 'high' ELSE 'low' END, t.impact,
		format('Table %s has no primary key%s.', t.identity,
			CASE WHEN p.published THEN ': since it is published, its rows cannot be updated or deleted' ELSE '' END),
		jsonb_build_object('rows', t.tuples, 'published', p.published, 'unique_index', u.name), NULL::float8, NULL,
		CASE WHEN u.name IS NOT NULL THEN format('ALTER TABLE %s ADD PRIMARY KEY USING INDEX %I;', t.identity, u.name) END,
		format('SELECT to_regclass(%1$L) IS NULL OR EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass(%1$L) AND i.indisprimary) AS fixed', t.identity)
	FROM monitoring.advised_tables() AS t
	JOIN pg_class AS c ON c.oid = t.relation
	CROSS JOIN LATERAL (
		SELECT c.relreplident IN ('d', 'n') AND EXISTS (
			SELECT FROM pg_publication AS p
			WHERE (p.pubupdate OR p.pubdelete) AND (p.puballtables
				OR EXISTS (SELECT FROM pg_publication_rel AS r WHERE r.prpubid = p.oid AND r.prrelid = t.relation)
				OR EXISTS (SELECT FROM pg_publication_namespace AS n WHERE n.pnpubid = p.oid AND n.pnnspid = c.relnamespace))) AS published) AS p
	-- one that could be it
	LEFT JOIN LATERAL (
		SELECT x.relname AS name
		FROM pg_index AS i
		JOIN pg_class AS x ON x.oid = i.indexrelid
		WHERE i.indrelid = t.relation AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND t.kind = 'r'
			AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
			AND NOT EXISTS (
				SELECT FROM unnest(i.indkey::int2[]) AS k (number)
				LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
				WHERE a.attnotnull IS NOT TRUE)
		ORDER BY i.indnatts, x.relname
		LIMIT 1
	) AS u ON true
	WHERE t.kind IN ('r', 'p') AND NOT t.partition AND (t.tuples >= (thresholds ->> 'min_rows')::float8 OR p.published)
		AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = t.relation AND i.indisprimary)
$$;
COMMENT ON FUNCTION monitoring.find_tables_without_key(timestamptz, jsonb) IS 'Advisor tables_without_key. Thresholds: min_rows, which does not count for tables that are published.';

CREATE FUNCTION monitoring.find_unvalidated_constraints(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	SELECT 'constraint', format('%s.%I', t.identity, k.conname), 'low', t.impact,
		format('Constraint %I of %s was never checked for the rows that were there before it: the planner does not use it.', k.conname, t.identity),
		jsonb_build_object('table', t.identity, 'kind', CASE k.contype WHEN 'f' THEN 'foreign key' WHEN 'c' THEN 'check' ELSE 'not null' END, 'rows', t.tuples),
		NULL::float8, NULL, format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', t.identity, k.conname),
		format('SELECT NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = to_regclass(%L) AND k.conname = %L AND NOT k.convalidated) AS fixed',
			t.identity, k.conname)
	FROM pg_constraint AS k
	JOIN monitoring.advised_tables() AS t ON t.relation = k.conrelid
	-- of a constraint that is not enforced (18) nothing can be validated
	WHERE NOT k.convalidated AND k.conparentid = 0 AND k.coninhcount = 0 AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
$$;
COMMENT ON FUNCTION monitoring.find_unvalidated_constraints(timestamptz, jsonb) IS 'Advisor unvalidated_constraints.';

CREATE FUNCTION monitoring.find_unlogged_tables(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'table', t.identity, CASE WHEN r.referred THEN 'medium' ELSE 'info' END, t.impact,
		format('Table %s is unlogged: a crash of the server empties it, and standbys and backups do not have its rows.', t.identity),
		jsonb_build_object('rows', t.tuples, 'bytes', t.bytes, 'other_tables_refer_to_it', r.referred), NULL::float8, NULL,
		format('ALTER TABLE %s SET LOGGED;', t.identity),
		format('SELECT NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = to_regclass(%L) AND c.relpersistence = ''u'') AS fixed', t.identity)
	FROM monitoring.advised_tables() AS t
	CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_constraint AS k WHERE k.confrelid = t.relation AND k.contype = 'f')) AS r (referred)
	WHERE t.persistence = 'u' AND t.kind IN ('r', 'm') AND t.tuples >= (thresholds ->> 'min_rows')::float8
$$;
COMMENT ON FUNCTION monitoring.find_unlogged_tables(timestamptz, jsonb) IS 'Advisor unlogged_tables. Thresholds: min_rows.';

CREATE FUNCTION monitoring.find_unread_tables(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	SELECT 'table', t.identity, 'info', t.impact,
		format('Nobody has read table %s (%s) for %s days.', t.identity, pg_size_pretty(t.bytes::bigint), round(extract(epoch FROM u.unused_for) / 86400))
			|| CASE WHEN s.standbys THEN ' Standbys may read it: look there, too.' ELSE '' END,
		jsonb_build_object('bytes', t.bytes, 'rows', t.tuples, 'unread_for_seconds', extract(epoch FROM u.unused_for),
			'rows_written', pg_stat_get_tuples_inserted(t.relation) + pg_stat_get_tuples_updated(t.relation) + pg_stat_get_tuples_deleted(t.relation),
			'standbys', s.standbys),
		t.bytes, 'bytes', NULL, NULL
	FROM monitoring.advised_tables() AS t
	JOIN monitoring.usage_since(find_unread_tables.at) AS u ON u.relation = t.relation
	CROSS JOIN (SELECT monitoring.has_standbys()) AS s (standbys)
	WHERE t.bytes >= (thresholds ->> 'min_bytes')::float8 AND u.unused_for >= (thresholds ->> 'unused_for')::interval
	UNION ALL
	-- what is too large for a row, and is fetched through the index of the TOAST table
	SELECT 'large values', t.identity, 'info', t.impact,
		format('Nobody has read the large values of table %s (%s) for %s days.', t.identity, pg_size_pretty(b.bytes::bigint),
			round(extract(epoch FROM u.unused_for) / 86400)),
		jsonb_build_object('bytes', b.bytes, 'table_bytes', t.bytes, 'unread_for_seconds', extract(epoch FROM u.unused_for), 'standbys', s.standbys),
		b.bytes, 'bytes', NULL, NULL
	FROM monitoring.advised_tables() AS t
	JOIN pg_class AS c ON c.oid = t.toast
	JOIN monitoring.usage_since(find_unread_tables.at) AS u ON u.relation = t.toast
	CROSS JOIN LATERAL (SELECT c.relpages * current_setting('block_size')::float8) AS b (bytes)
	CROSS JOIN (SELECT monitoring.has_standbys()) AS s (standbys)
	WHERE b.bytes >= (thresholds ->> 'min_bytes')::float8 AND u.unused_for >= (thresholds ->> 'unused_for')::interval
	UNION ALL
	SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	WHERE NOT EXISTS (SELECT FROM monitoring.usage_since(find_unread_tables.at))
$$;
COMMENT ON FUNCTION monitoring.find_unread_tables(timestamptz, jsonb) IS 'Advisor unread_tables: what takes room and nobody reads. A backup by pg_dump reads everything. Thresholds: min_bytes, unused_for (interval).';

CREATE FUNCTION monitoring.find_sequential_scans(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH scans AS (
		SELECT t.*, u.seq_scans, u.reads - u.seq_scans AS index_scans, extract(epoch FROM u.over)::float8 AS seconds
		FROM monitoring.advised_tables() AS t
		JOIN monitoring.usage_since(find_sequential_scans.at) AS u ON u.relation = t.relation
		WHERE t.kind IN ('r', 'm') AND t.tuples >= (thresholds ->> 'min_rows')::float8
	)
	SELECT 'table', s.identity, 'low', s.seq_scans * s.tuples / nullif(sum(s.seq_scans * s.tuples) OVER (), 0),
		format('Table %s, of %s rows, is read as a whole %s times an hour.', s.identity, round(s.tuples::numeric), round((s.seq_scans * 3600 / s.seconds)::numeric)),
		jsonb_build_object('rows', s.tuples, 'bytes', s.bytes, 'sequential_scans', s.seq_scans, 'index_scans', s.index_scans, 'over_seconds', s.seconds),
		s.seq_scans * s.bytes * 86400 / s.seconds, 'bytes_per_day', NULL, NULL
	FROM scans AS s
	WHERE s.seconds > 0 AND s.seq_scans * 3600 / s.seconds >= (thresholds ->> 'per_hour')::float8
		AND s.seq_scans > s.index_scans * (thresholds ->> 'times_index_scans')::float8
	UNION ALL
	SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	WHERE NOT EXISTS (SELECT FROM monitoring.usage_since(find_sequential_scans.at))
$$;
COMMENT ON FUNCTION monitoring.find_sequential_scans(timestamptz, jsonb) IS 'Advisor sequential_scans, from the counters of the last hours. Thresholds: min_rows of the table, per_hour, times_index_scans: so many times more than scans by index.';

INSERT INTO monitoring.advisors (name, function, category, thresholds, description, builtin) VALUES
	('keys_near_end', 'monitoring.find_keys_near_end', 'tables', '{"warn_ratio": 0.75, "high_ratio": 0.9}',
		'Sequences and integer keys of which 75 % of the numbers are used; high from 90 %.', true),
	('stale_statistics', 'monitoring.find_stale_statistics', 'tables',
		'{"min_rows": 1000, "times_due": 2, "min_age": "7 days", "min_known": "1 hour", "min_partitioned_rows": 10000}',
		'Tables that autovacuum should have analyzed and has not for a week, or never; partitioned tables that nobody has analyzed.', true),
	('tables_without_key', 'monitoring.find_tables_without_key', 'tables', '{"min_rows": 1000}', 'Tables without a primary key.', true),
	('unvalidated_constraints', 'monitoring.find_unvalidated_constraints', 'tables', '{}', 'Constraints that are NOT VALID.', true),
	('unlogged_tables', 'monitoring.find_unlogged_tables', 'tables', '{"min_rows": 1}', 'Tables whose rows a crash takes.', true),
	('unread_tables', 'monitoring.find_unread_tables', 'cost', '{"min_bytes": 104857600, "unused_for": "30 days"}',
		'Tables, and large values, of 100 MB or more that nobody has read for 30 days.', true),
	('sequential_scans', 'monitoring.find_sequential_scans', 'tables', '{"min_rows": 10000, "per_hour": 50, "times_index_scans": 10}',
		'Tables of 10,000 rows or more that are read as a whole 50 times an hour.', true);
