-- advisors of indexes: unused, duplicate, invalid, and foreign keys without one.

CREATE FUNCTION monitoring.find_unused_indexes(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	-- an index on a partitioned table and those on its partitions are one
	WITH RECURSIVE indexes AS MATERIALIZED (
		SELECT * FROM monitoring.advised_indexes()
	), tree AS (
		SELECT i.index AS root, i.index FROM indexes AS i WHERE NOT i.partition
		UNION ALL
		SELECT t.root, h.inhrelid FROM tree AS t JOIN pg_inherits AS h ON h.inhparent = t.index
	), used AS (
		SELECT t.root, sum(i.bytes) AS bytes, sum(i.impact) AS impact, bool_or(i.needed OR i."unique") AS needed, bool_and(i.valid) AS valid,
			-- null if one of them has not been watched
			CASE WHEN count(u.relation) = count(*) THEN min(u.unused_for) END AS unused_for,
			sum(pg_stat_get_tuples_inserted(i.relation) + pg_stat_get_tuples_updated(i.relation)) AS writes
		FROM tree AS t
		JOIN indexes AS i ON i.index = t.index
		LEFT JOIN monitoring.usage_since(find_unused_indexes.at) AS u ON u.relation = i.index
		GROUP BY t.root
	), keys AS (
		SELECT DISTINCT k.conrelid, k.conkey FROM pg_constraint AS k WHERE k.contype = 'f'
	), referring AS (
		SELECT DISTINCT i.indexrelid
		FROM pg_index AS i
		JOIN keys AS k ON k.conrelid = i.indrelid AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
	)
	SELECT 'index', i.identity, CASE WHEN u.unused_for IS NULL THEN NULL WHEN s.standbys THEN 'info' WHEN u.bytes >= 1e9 THEN 'medium' ELSE 'low' END,
		least(u.impact, 1),
		format('Nobody has used index %s on %s for %s days.', i.identity, i.table_identity, round(extract(epoch FROM u.unused_for) / 86400))
			|| CASE WHEN s.standbys THEN ' Standbys may use it: look there, too.' ELSE '' END,
		jsonb_build_object('table', i.table_identity, 'columns', monitoring.index_columns(i.index), 'bytes', u.bytes,
			'unused_for_seconds', extract(epoch FROM u.unused_for), 'rows_written', u.writes, 'standbys', s.standbys),
		u.bytes, 'bytes',
		format('DROP INDEX %s%s;', CASE i.kind WHEN 'i' THEN 'CONCURRENTLY ' ELSE '' END, i.identity),
		format('SELECT to_regclass(%L) IS NULL AS fixed', i.identity)
	FROM used AS u
	JOIN indexes AS i ON i.index = u.root
	CROSS JOIN (SELECT monitoring.has_standbys()) AS s (standbys)
	WHERE NOT u.needed AND u.valid AND u.bytes >= (thresholds ->> 'min_bytes')::float8
		AND (u.unused_for IS NULL OR u.unused_for >= (thresholds ->> 'unused_for')::interval)
		AND NOT EXISTS (SELECT FROM referring AS r WHERE r.indexrelid = u.root)
	-- after a reset of the counters
	UNION ALL
	SELECT 'index', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	WHERE NOT EXISTS (SELECT FROM monitoring.usage_since(find_unused_indexes.at))
$$;
COMMENT ON FUNCTION monitoring.find_unused_indexes(timestamptz, jsonb) IS 'Advisor unused_indexes. Thresholds: min_bytes, unused_for (interval).';

CREATE FUNCTION monitoring.find_duplicate_indexes(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH indexes AS MATERIALIZED (
		-- positions in the source text do not matter to expressions
		SELECT a.*, i.indnkeyatts AS nkeys, i.indnatts AS ncolumns, i.indkey::int2[] AS keys, i.indclass::oid[] AS classes,
			i.indcollation::oid[] AS collations, i.indoption::int2[] AS options_of_keys, c.relam,
			coalesce(regexp_replace(i.indpred::text, ':location -?\d+', '', 'g'), '') AS predicate,
			coalesce(regexp_replace(i.indexprs::text, ':location -?\d+', '', 'g'), '') AS expressions,
			i.indimmediate, i.indnullsnotdistinct, pg_stat_get_numscans(a.index) AS scans
		FROM monitoring.advised_indexes() AS a
		JOIN pg_index AS i ON i.indexrelid = a.index
		JOIN pg_class AS c ON c.oid = a.index
		WHERE a.valid AND NOT a.partition
	), pairs AS (
		SELECT DISTINCT ON (d.index) d.identity, d.table_identity, d.index, d.kind, d.bytes, d.impact, d.scans, d.relation,
			k.identity AS kept, k.index AS kept_index, k.scans AS kept_scans,
			d.nkeys = k.nkeys AND d.ncolumns = k.ncolumns AS exact
		FROM indexes AS d
		JOIN indexes AS k ON k.relation = d.relation AND k.index <> d.index AND k.relam = d.relam AND k.predicate = d.predicate
			AND k.keys[0] = d.keys[0]
		JOIN pg_am AS m ON m.oid = d.relam
		WHERE NOT d.needed AND k.nkeys >= d.nkeys
			AND k.keys[0:d.nkeys - 1] = d.keys[0:d.nkeys - 1]
			AND k.classes[0:d.nkeys - 1] = d.classes[0:d.nkeys - 1]
			AND k.collations[0:d.nkeys - 1] = d.collations[0:d.nkeys - 1]
			AND k.options_of_keys[0:d.nkeys - 1] = d.options_of_keys[0:d.nkeys - 1]
			-- what the one has in its leaves the other must have somewhere
			AND d.keys <@ k.keys
			-- of expressions only whole lists can be compared
			AND (k.expressions = d.expressions OR d.expressions = '' AND 0 <> ALL (k.keys[0:d.nkeys - 1]))
			-- without order, a prefix is no index
			AND (k.nkeys = d.nkeys OR m.amname = 'btree')
			AND CASE WHEN k.nkeys = d.nkeys AND k.ncolumns = d.ncolumns
				THEN (NOT d."unique" OR k."unique" AND k.indimmediate AND k.indnullsnotdistinct = d.indnullsnotdistinct)
					AND (NOT k.needed, NOT k."unique", -k.scans, k.index) < (NOT d.needed, NOT d."unique", -d.scans, d.index)
				ELSE NOT d."unique" END
		ORDER BY d.index, k.nkeys DESC, k.ncolumns DESC, k.needed DESC, k."unique" DESC, k.scans DESC, k.index
	)
	SELECT 'index', p.identity, CASE WHEN p.exact THEN 'medium' ELSE 'low' END, p.impact,
		CASE WHEN p.exact THEN format('Index %s is the same as %s.', p.identity, p.kept)
			ELSE format('All that index %s can do, %s can do as well.', p.identity, p.kept) END,
		jsonb_build_object('table', p.table_identity, 'columns', monitoring.index_columns(p.index), 'kept', p.kept,
			'kept_columns', monitoring.index_columns(p.kept_index), 'bytes', p.bytes, 'scans', p.scans, 'kept_scans', p.kept_scans,
			'rows_written', pg_stat_get_tuples_inserted(p.relation) + pg_stat_get_tuples_updated(p.relation)),
		p.bytes, 'bytes',
		format('DROP INDEX %s%s;', CASE p.kind WHEN 'i' THEN 'CONCURRENTLY ' ELSE '' END, p.identity),
		format('SELECT to_regclass(%L) IS NULL OR to_regclass(%L) IS NULL AS fixed', p.identity, p.kept)
	FROM pairs AS p
	WHERE p.bytes >= (thresholds ->> 'min_bytes')::float8
$$;
COMMENT ON FUNCTION monitoring.find_duplicate_indexes(timestamptz, jsonb) IS 'Advisor duplicate_indexes: those that another index makes superfluous, with the same access method, operator classes, collations, order, predicate and expressions. Thresholds: min_bytes.';

CREATE FUNCTION monitoring.index_partitions_sql(index oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH missing AS (
		SELECT c.relkind, n.nspname, c.relname, format('%s_%s', left(c.relname, 50), i.indexrelid) AS name, m.amname, i.indisunique,
			format('%I.%I', pn.nspname, pc.relname) AS parent,
			(SELECT string_agg(quote_ident(x.name), ', ' ORDER BY x.place)
				FROM jsonb_array_elements_text(monitoring.index_columns(i.indexrelid)) WITH ORDINALITY AS x (name, place)) AS columns,
			-- names of columns say all there is
			i.indexprs IS NULL AND i.indpred IS NULL AND i.indnkeyatts = i.indnatts AND 0 = ALL (i.indoption::int2[])
				AND NOT EXISTS (
					SELECT FROM unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[]) AS k (number, class, "collation")
					JOIN pg_opclass AS o ON o.oid = k.class
					JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
					WHERE NOT o.opcdefault OR k."collation" <> a.attcollation) AS plain
		FROM pg_index AS i
		JOIN pg_class AS pc ON pc.oid = i.indexrelid
		JOIN pg_namespace AS pn ON pn.oid = pc.relnamespace
		JOIN pg_am AS m ON m.oid = pc.relam
		JOIN pg_inherits AS h ON h.inhparent = i.indrelid
		JOIN pg_class AS c ON c.oid = h.inhrelid
		JOIN pg_namespace AS n ON n.oid = c.relnamespace
		WHERE i.indexrelid = index_partitions_sql.index AND NOT EXISTS (
			SELECT FROM pg_index AS p JOIN pg_inherits AS a ON a.inhrelid = p.indexrelid
			WHERE p.indrelid = h.inhrelid AND a.inhparent = i.indexrelid)
	)
	SELECT CASE WHEN bool_and(m.plain AND m.relkind = 'r') THEN
		string_agg(format(E'CREATE %sINDEX CONCURRENTLY %I ON %I.%I USING %I (%s);\nALTER INDEX %s ATTACH PARTITION %I.%I;',
			CASE WHEN m.indisunique THEN 'UNIQUE ' ELSE '' END, m.name, m.nspname, m.relname, m.amname, m.columns, m.parent, m.nspname, m.name), E'\n'
			ORDER BY m.nspname, m.relname) END
	FROM missing AS m
$$;
COMMENT ON FUNCTION monitoring.index_partitions_sql(oid) IS 'For advisors: SQL that makes an index of a partitioned table on those partitions that lack it; null: a person has to write it, since it has more than columns, or partitions have partitions.';

CREATE FUNCTION monitoring.find_invalid_indexes(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	SELECT 'index', i.identity, CASE i.kind WHEN 'i' THEN 'high' ELSE 'low' END, i.impact,
		CASE WHEN i.kind = 'I' THEN format('Index %s is not on every partition of %s.', i.identity, i.table_identity)
			WHEN b.leftover THEN format('Index %s is what a REINDEX CONCURRENTLY has left that failed.', i.identity)
			ELSE format('Index %s is invalid: every write maintains it and no query may use it.', i.identity) END
			|| CASE WHEN i."unique" AND i.kind = 'i' AND NOT b.leftover THEN ' Rows that it forbids may be in the table.' ELSE '' END,
		jsonb_build_object('table', i.table_identity, 'columns', monitoring.index_columns(i.index), 'bytes', i.bytes, 'unique', i."unique"),
		CASE i.kind WHEN 'i' THEN i.bytes END, CASE i.kind WHEN 'i' THEN 'bytes' END,
		CASE WHEN i.kind = 'I' THEN monitoring.index_partitions_sql(i.index)
			WHEN b.leftover THEN format('DROP INDEX CONCURRENTLY %s;', i.identity)
			ELSE format('REINDEX INDEX CONCURRENTLY %s;', i.identity) END,
		format('SELECT NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indexrelid = to_regclass(%L) AND NOT (i.indisvalid AND i.indisready AND i.indislive)) AS fixed', i.identity)
	FROM monitoring.advised_indexes() AS i
	CROSS JOIN LATERAL (SELECT i.identity ~ '_cc(new|old)[0-9]*"?$' AS leftover) AS b
	WHERE NOT i.valid
		-- somebody is making it
		AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS g WHERE g.datname = current_database() AND g.relid = i.relation)
$$;
COMMENT ON FUNCTION monitoring.find_invalid_indexes(timestamptz, jsonb) IS 'Advisor invalid_indexes: those that a CREATE INDEX or REINDEX CONCURRENTLY has left that failed, not those that are being made.';

CREATE FUNCTION monitoring.find_unindexed_foreign_keys(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH keys AS MATERIALIZED (
		SELECT k.oid, k.conname, t.identity, k.conrelid, k.conkey, k.confrelid, t.kind, t.tuples, t.bytes, t.impact,
			format('%I.%I', n.nspname, r.relname) AS referred,
			pg_stat_get_tuples_deleted(k.confrelid) AS deleted, pg_stat_get_tuples_updated(k.confrelid) AS updated,
			(SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY x.place)
				FROM unnest(k.conkey) WITH ORDINALITY AS x (number, place)
				JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = x.number) AS columns
		FROM pg_constraint AS k
		JOIN monitoring.advised_tables() AS t ON t.relation = k.conrelid
		JOIN pg_class AS r ON r.oid = k.confrelid
		JOIN pg_namespace AS n ON n.oid = r.relnamespace
		-- those of partitions come with the whole table's
		WHERE k.contype = 'f' AND k.conparentid = 0
	)
	SELECT 'constraint', format('%s.%I', k.identity, k.conname),
		CASE WHEN k.deleted + k.updated > 0 AND k.tuples >= (thresholds ->> 'many_rows')::float8 THEN 'medium' ELSE 'low' END,
		k.impact,
		format('Foreign key %I of %s has no index on (%s): each row deleted from %s, or whose key changes there, reads the whole table.',
			k.conname, k.identity, k.columns, k.referred),
		jsonb_build_object('table', k.identity, 'columns', k.columns, 'rows', k.tuples, 'bytes', k.bytes, 'referred_table', k.referred,
			'referred_rows_deleted', k.deleted, 'referred_rows_updated', k.updated),
		NULL::float8, NULL,
		format('CREATE INDEX %sON %s (%s);', CASE k.kind WHEN 'r' THEN 'CONCURRENTLY ' ELSE '' END, k.identity, k.columns),
		format('SELECT NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = to_regclass(%L) AND k.conname = %L)'
			' OR EXISTS (SELECT FROM pg_constraint AS k JOIN pg_index AS i ON i.indrelid = k.conrelid'
			' WHERE k.conrelid = to_regclass(%1$L) AND k.conname = %2$L AND i.indisvalid AND i.indpred IS NULL'
			' AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey) AS fixed', k.identity, k.conname)
	FROM keys AS k
	WHERE k.tuples >= (thresholds ->> 'min_rows')::float8
		AND NOT EXISTS (
			SELECT FROM pg_index AS i
			WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL
				AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)
$$;
COMMENT ON FUNCTION monitoring.find_unindexed_foreign_keys(timestamptz, jsonb) IS 'Advisor unindexed_foreign_keys: those of which no whole index begins with their columns, in any order. Thresholds: min_rows, many_rows (above which, if rows of the referred table change, it is medium).';

INSERT INTO monitoring.advisors (name, function, category, thresholds, description, builtin) VALUES
	('unused_indexes', 'monitoring.find_unused_indexes', 'indexes', '{"min_bytes": 1048576, "unused_for": "7 days"}',
		'Indexes that nobody has used for a week, of 1 MB or more. Not those that are unique, or that a constraint, a foreign key, replication or CLUSTER needs.', true),
	('duplicate_indexes', 'monitoring.find_duplicate_indexes', 'indexes', '{"min_bytes": 0}',
		'Indexes that another index makes superfluous: the same, or one that begins with the same columns.', true),
	('invalid_indexes', 'monitoring.find_invalid_indexes', 'indexes', '{}',
		'Indexes that are maintained but not used, since making them concurrently has failed.', true),
	('unindexed_foreign_keys', 'monitoring.find_unindexed_foreign_keys', 'indexes', '{"min_rows": 1000, "many_rows": 10000}',
		'Foreign keys of tables of 1,000 rows or more without an index that begins with their columns.', true);
