-- advisors of bloat: how much room tables and B-tree indexes take, and how much they would need.
--
-- What a page holds is in PostgreSQL's documentation, chapter "Database Page Layout", and in the README of nbtree; widths, nulls and
-- distinct values are those of pg_statistic. An estimate from the catalog opens nothing; pgstattuple reads every page.

-- Widths of columns, with what alignment adds on average when nothing is known of the offset.
CREATE FUNCTION monitoring.row_widths()
RETURNS TABLE (relation oid, columns bigint, known bigint, width float8, nulls boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH columns AS MATERIALIZED (
		SELECT a.attrelid, a.attnum, a.attlen, v.alignment,
			lag(a.attlen) OVER w AS previous_length, lag(v.alignment) OVER w AS previous_alignment
		FROM pg_attribute AS a
		CROSS JOIN LATERAL (SELECT CASE a.attalign WHEN 'd' THEN 8 WHEN 'i' THEN 4 WHEN 's' THEN 2 ELSE 1 END) AS v (alignment)
		WHERE a.attnum > 0 AND NOT a.attisdropped
		WINDOW w AS (PARTITION BY a.attrelid ORDER BY a.attnum)
	)
	SELECT c.attrelid, count(*), count(s.stawidth),
		sum((1 - s.stanullfrac) * (s.stawidth
			-- short values of variable length are not aligned
			+ CASE WHEN c.attlen = -1 AND s.stawidth < 127 OR c.previous_length IS NULL
				OR c.previous_length > 0 AND c.previous_length % c.alignment = 0 AND c.previous_alignment >= c.alignment THEN 0
				ELSE (c.alignment - 1) / 2.0 END)),
		bool_or(s.stanullfrac > 0)
	FROM columns AS c
	LEFT JOIN pg_statistic AS s ON s.starelid = c.attrelid AND s.staattnum = c.attnum AND NOT s.stainherit
	GROUP BY c.attrelid
$$;
COMMENT ON FUNCTION monitoring.row_widths() IS 'For advisors: bytes of the columns of a row of each table, on average, and how many columns there are statistics of.';

CREATE FUNCTION monitoring.table_bloat(at_least_bytes bigint DEFAULT 104857600)
RETURNS TABLE (relation regclass, identity text, tuples float8, bytes bigint, needed_bytes bigint, bloat_bytes bigint, bloat_ratio float8, fillfactor integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	SELECT t.relation, t.identity, t.tuples, t.bytes::bigint, n.bytes::bigint, greatest(t.bytes - n.bytes, 0)::bigint, greatest(1 - n.bytes / t.bytes, 0), o.fillfactor
	FROM monitoring.advised_tables() AS t
	JOIN monitoring.row_widths() AS w ON w.relation = t.relation AND w.known = w.columns
	CROSS JOIN (SELECT current_setting('block_size')::float8 AS size) AS b
	CROSS JOIN LATERAL (
		SELECT coalesce((SELECT split_part(x, '=', 2)::integer FROM unnest(t.options) AS x WHERE x LIKE 'fillfactor=%'), 100) AS fillfactor) AS o
	-- a row: header of 23 bytes and a bit for each column if one is null, aligned; columns, aligned; and 4 bytes that point to it
	CROSS JOIN LATERAL (
		SELECT 8 * ceil((23 + CASE WHEN w.nulls THEN ceil(w.columns / 8.0) ELSE 0 END) / 8) + 8 * ceil(w.width / 8) + 4 AS bytes) AS r
	CROSS JOIN LATERAL (SELECT ceil(t.tuples / greatest(floor((b.size - 24) * o.fillfactor / 100 / r.bytes), 1)) * b.size AS bytes) AS n
	WHERE t.kind IN ('r', 'm') AND t.bytes > 0 AND t.bytes >= at_least_bytes
$$;
COMMENT ON FUNCTION monitoring.table_bloat(bigint) IS 'Estimate of what each table of that size that was analyzed takes (as of the latest vacuum or analyze) and would need if it were written anew, in bytes, without TOAST.';

CREATE FUNCTION monitoring.index_bloat(at_least_bytes bigint DEFAULT 104857600)
RETURNS TABLE (index regclass, identity text, table_identity text, tuples float8, bytes bigint, needed_bytes bigint, bloat_bytes bigint,
	bloat_ratio float8, fillfactor integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH columns AS (
		SELECT i.indexrelid, i.indnkeyatts, count(*) AS columns, count(s.stawidth) AS known,
			sum((1 - s.stanullfrac) * s.stawidth) AS width, bool_or(s.stanullfrac > 0) AS nulls,
			-- equal keys share an entry if their type allows it: 4 is the number of that support function
			bool_and(EXISTS (SELECT FROM pg_amproc AS p JOIN pg_opclass AS o ON o.oid = k.class
				WHERE p.amprocfamily = o.opcfamily AND p.amproclefttype = o.opcintype AND p.amprocrighttype = o.opcintype AND p.amprocnum = 4))
				AND count(*) = 1 AND NOT i.indisunique AND i.indnatts = i.indnkeyatts AS shared, min(s.stadistinct) AS distinct_values
		FROM pg_index AS i
		CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k (number, class, place)
		-- of expressions the index has statistics
		LEFT JOIN pg_statistic AS s ON NOT s.stainherit
			AND s.starelid = CASE k.number WHEN 0 THEN i.indexrelid ELSE i.indrelid END
			AND s.staattnum = CASE k.number WHEN 0 THEN k.place ELSE k.number END
		GROUP BY i.indexrelid, i.indnkeyatts, i.indnatts, i.indisunique
	)
	SELECT i.index, i.identity, i.table_identity, i.tuples, i.bytes::bigint, n.bytes::bigint, greatest(i.bytes - n.bytes, 0)::bigint,
		greatest(1 - n.bytes / i.bytes, 0), o.fillfactor
	FROM monitoring.advised_indexes() AS i
	JOIN pg_class AS c ON c.oid = i.index
	JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
	JOIN columns AS w ON w.indexrelid = i.index AND w.known = w.columns
	CROSS JOIN (SELECT current_setting('block_size')::float8 AS size) AS b
	CROSS JOIN LATERAL (
		SELECT coalesce((SELECT split_part(x, '=', 2)::integer FROM unnest(i.options) AS x WHERE x LIKE 'fillfactor=%'), 90) AS fillfactor) AS o
	-- an entry: header of 8 bytes and as much again if one column is null; columns, aligned; and 4 bytes that point to it
	CROSS JOIN LATERAL (SELECT 8 + CASE WHEN w.nulls THEN 8 ELSE 0 END + 8 * ceil(w.width / 8) + 4 AS bytes) AS r
	CROSS JOIN LATERAL (
		SELECT greatest(CASE WHEN w.distinct_values > 0 THEN w.distinct_values ELSE -w.distinct_values * i.tuples END, 1) AS keys) AS d
	-- entries that share a key: 6 bytes for each row, aligned, a sixth of a page at most
	CROSS JOIN LATERAL (
		SELECT CASE WHEN w.shared AND i.tuples >= 2 * d.keys AND coalesce(array_position(i.options, 'deduplicate_items=off'), 0) = 0
			THEN least(i.tuples * r.bytes, i.tuples * 6 + (d.keys + i.tuples * 6 / (b.size / 6)) * (r.bytes + 4)) ELSE i.tuples * r.bytes END AS bytes) AS e
	-- a page has a header of 24 and 16 bytes at its end; one page describes the index
	CROSS JOIN LATERAL (SELECT (1 + ceil(e.bytes / ((b.size - 40) * o.fillfactor / 100))) * b.size AS bytes) AS n
	WHERE i.kind = 'i' AND i.valid AND i.bytes > 0 AND i.bytes >= at_least_bytes
$$;
COMMENT ON FUNCTION monitoring.index_bloat(bigint) IS 'Estimate of what each B-tree index of that size takes (as of the latest vacuum or analyze) and would need if it were made anew, in bytes.';

CREATE FUNCTION monitoring.find_bloated_tables(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'table', t.identity,
		CASE WHEN t.bloat_ratio > (thresholds ->> 'high_ratio')::float8 AND t.bloat_bytes > (thresholds ->> 'high_bytes')::float8
			THEN 'high' ELSE 'medium' END,
		t.bloat_bytes / nullif(sum(t.bytes) OVER (), 0)::float8,
		format('About %s of the %s of table %s are empty or dead.', pg_size_pretty(t.bloat_bytes), pg_size_pretty(t.bytes), t.identity),
		jsonb_build_object('bytes', t.bytes, 'needed_bytes', t.needed_bytes, 'bloat_bytes', t.bloat_bytes,
			'bloat_ratio', round(t.bloat_ratio::numeric, 3), 'rows', t.tuples, 'dead_rows', pg_stat_get_dead_tuples(t.relation), 'fillfactor', t.fillfactor),
		t.bloat_bytes::float8, 'bytes',
		-- nobody reads or writes the table meanwhile
		format('VACUUM (FULL, ANALYZE) %s;', t.identity), NULL
	FROM monitoring.table_bloat((thresholds ->> 'min_bytes')::float8::bigint) AS t
	WHERE t.bloat_ratio > (thresholds ->> 'min_ratio')::float8 AND t.bloat_bytes > (thresholds ->> 'min_bytes')::float8
$$;
COMMENT ON FUNCTION monitoring.find_bloated_tables(timestamptz, jsonb) IS 'Advisor bloated_tables, by table_bloat(). Thresholds: min_ratio and min_bytes of what is wasted, both; high_ratio and high_bytes, above which it is high.';

CREATE FUNCTION monitoring.find_bloated_indexes(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'index', i.identity, 'medium', i.bloat_bytes / nullif(sum(i.bytes) OVER (), 0)::float8,
		format('About %s of the %s of index %s are empty or dead.', pg_size_pretty(i.bloat_bytes), pg_size_pretty(i.bytes), i.identity),
		jsonb_build_object('table', i.table_identity, 'bytes', i.bytes, 'needed_bytes', i.needed_bytes, 'bloat_bytes', i.bloat_bytes,
			'bloat_ratio', round(i.bloat_ratio::numeric, 3), 'entries', i.tuples, 'fillfactor', i.fillfactor),
		i.bloat_bytes::float8, 'bytes', format('REINDEX INDEX CONCURRENTLY %s;', i.identity), NULL
	FROM monitoring.index_bloat((thresholds ->> 'min_bytes')::float8::bigint) AS i
	WHERE i.bloat_ratio > (thresholds ->> 'min_ratio')::float8 AND i.bloat_bytes > (thresholds ->> 'min_bytes')::float8
$$;
COMMENT ON FUNCTION monitoring.find_bloated_indexes(timestamptz, jsonb) IS 'Advisor bloated_indexes, by index_bloat(). Thresholds: min_ratio and min_bytes of what is wasted, both.';

INSERT INTO monitoring.advisors (name, function, category, thresholds, description, builtin) VALUES
	('bloated_tables', 'monitoring.find_bloated_tables', 'bloat',
		'{"min_ratio": 0.4, "min_bytes": 104857600, "high_ratio": 0.6, "high_bytes": 1073741824}',
		'Tables of which more than 40 % and 100 MB are wasted, by an estimate from statistics; high above 60 % and 1 GB.', true),
	('bloated_indexes', 'monitoring.find_bloated_indexes', 'bloat', '{"min_ratio": 0.5, "min_bytes": 104857600}',
		'B-tree indexes of which more than 50 % and 100 MB are wasted, by an estimate from statistics.', true);
