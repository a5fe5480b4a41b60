-- advisor of missing indexes: tables that are read as a whole again and again, and the statements that do so.
--
-- What a statement compares is read from its normalised text, where a literal is $1: a column name of the table followed by = $n, IN ($n or
-- = ANY ($n, behind WHERE. When another table of the statement has a column of that name nobody can tell whose it is, and it does not
-- count. Whether an index helps is in the column's statistics.

CREATE FUNCTION monitoring.compares_column(query text, name name) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT substring(query FROM '(?i)\mwhere\M.*')
		~* ('(^|[^[:alnum:]_])' || regexp_replace(name, '([^[:alnum:]_])', '\\\1', 'g') || '"?\s*(=\s*\$[0-9]|=\s*any\s*\(\s*\$[0-9]|in\s*\(\s*\$[0-9])')
$$;
COMMENT ON FUNCTION monitoring.compares_column(text, name) IS 'Whether a normalised statement compares a column of that name with a parameter behind its first WHERE: = $1, = ANY ($1), IN ($1.';

CREATE FUNCTION monitoring.mentions(query text, name name) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT query ~* ('(^|[^[:alnum:]_])' || regexp_replace(name, '([^[:alnum:]_])', '\\\1', 'g') || '($|[^[:alnum:]_])')
$$;
COMMENT ON FUNCTION monitoring.mentions(text, name) IS 'Whether a name stands in a text as a word.';

CREATE FUNCTION monitoring.find_missing_indexes(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH tables AS MATERIALIZED (
		SELECT t.*, u.seq_scans, u.reads - u.seq_scans AS index_scans, extract(epoch FROM u.over)::float8 AS seconds
		FROM monitoring.advised_tables() AS t
		JOIN monitoring.usage_since(find_missing_indexes.at) AS u ON u.relation = t.relation
		WHERE t.kind IN ('r', 'm') AND t.tuples >= (thresholds ->> 'min_rows')::float8 AND u.over > '0'
			AND u.seq_scans * 3600 / extract(epoch FROM u.over) >= (thresholds ->> 'per_hour')::float8
		ORDER BY u.seq_scans * t.tuples DESC
		LIMIT 50
	), statements AS MATERIALIZED (
		SELECT s.queryid, max(s.query) AS query, sum(s.calls) AS calls, sum(s.total_seconds) AS seconds
		FROM monitoring.statements_over('1 day', find_missing_indexes.at) AS s
		WHERE s.queryid <> 0 AND s.query ~* '^\W*(select|update|delete|with|merge)\M' AND s.query ~* '\mwhere\M'
		GROUP BY s.queryid
		HAVING sum(s.calls) >= (thresholds ->> 'min_calls')::float8
		ORDER BY sum(s.total_seconds) DESC
		LIMIT 300
	), pairs AS MATERIALIZED (
		SELECT t.relation, t.table_name, t.tuples, s.*
		FROM tables AS t
		JOIN statements AS s ON monitoring.mentions(s.query, t.table_name)
	), compared AS MATERIALIZED (
		SELECT p.relation, p.queryid, p.query, p.calls, p.seconds, a.attnum, a.attname, a.atttypid,
			-- share of the rows that one value has
			(1 - s.stanullfrac) / greatest(CASE WHEN s.stadistinct > 0 THEN s.stadistinct ELSE -s.stadistinct * p.tuples END, 1) AS share,
			EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = p.relation AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum) AS indexed
		FROM pairs AS p
		JOIN pg_attribute AS a ON a.attrelid = p.relation AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_statistic AS s ON s.starelid = a.attrelid AND s.staattnum = a.attnum AND NOT s.stainherit
		WHERE monitoring.compares_column(p.query, a.attname)
	), best AS (
		-- where one column is enough, and an index begins with it, none is missing
		SELECT DISTINCT ON (c.relation, c.queryid) c.*
		FROM compared AS c
		WHERE c.share <= (thresholds ->> 'max_share')::float8
		ORDER BY c.relation, c.queryid, c.indexed DESC, c.share
	), missing AS (
		SELECT b.relation, b.attnum, b.attname, max(b.share) AS share, sum(b.calls) AS calls, sum(b.seconds) AS seconds,
			jsonb_agg(b.queryid::text ORDER BY b.seconds DESC) AS queryids
		FROM best AS b
		WHERE NOT b.indexed
			-- of a type that has an order of its own
			AND EXISTS (SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod AND m.amname = 'btree'
				WHERE o.opcdefault AND o.opcintype = CASE b.atttypid WHEN 'varchar'::regtype THEN 'text'::regtype ELSE b.atttypid END)
			AND NOT EXISTS (
				SELECT FROM pg_attribute AS x
				JOIN monitoring.advised_tables() AS o ON o.relation = x.attrelid AND NOT o.partition
				WHERE x.attname = b.attname AND x.attrelid <> b.relation AND NOT x.attisdropped AND monitoring.mentions(b.query, o.table_name))
		GROUP BY b.relation, b.attnum, b.attname
	)
	SELECT 'column', format('%s.%I', t.identity, m.attname), CASE WHEN m.seconds >= (thresholds ->> 'high_seconds')::float8 THEN 'high' ELSE 'medium' END,
		least(m.seconds / nullif((SELECT sum(s.seconds) FROM statements AS s), 0), 1),
		format('Table %s, of %s rows, is read as a whole %s times an hour, and %s statements look for values of %I, each of which is in %s rows.', t.identity,
			round(t.tuples::numeric), round((t.seq_scans * 3600 / t.seconds)::numeric), jsonb_array_length(m.queryids), m.attname,
			greatest(round((m.share * t.tuples)::numeric), 1)),
		jsonb_build_object('table', t.identity, 'column', m.attname, 'rows', t.tuples, 'rows_per_value', round((m.share * t.tuples)::numeric, 1),
			'sequential_scans', t.seq_scans, 'index_scans', t.index_scans, 'over_seconds', t.seconds, 'queryids', m.queryids, 'calls', m.calls,
			'total_seconds', round(m.seconds::numeric, 3)),
		-- what the scan costs falls to the share of the rows that are wanted, each fetched at random
		m.seconds * greatest(1 - m.share * current_setting('random_page_cost')::float8, 0), 'seconds_per_day',
		format('CREATE INDEX CONCURRENTLY ON %s (%I);', t.identity, m.attname),
		format('SELECT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass(%L) AND i.indisvalid AND i.indkey[0] ='
			' (SELECT a.attnum FROM pg_attribute AS a WHERE a.attrelid = i.indrelid AND a.attname = %L)) AS fixed', t.identity, m.attname)
	FROM missing AS m
	JOIN tables AS t ON t.relation = m.relation
	WHERE m.seconds >= (thresholds ->> 'min_seconds')::float8
	UNION ALL
	SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	WHERE NOT EXISTS (SELECT FROM monitoring.usage_since(find_missing_indexes.at))
$$;
COMMENT ON FUNCTION monitoring.find_missing_indexes(timestamptz, jsonb) IS 'Advisor missing_indexes: columns that statements of the last day compare with a value, of tables that are read as a whole meanwhile. Thresholds: min_rows of the table, per_hour scans; min_calls of a statement, min_seconds of all of them in a day, high_seconds; max_share of the rows that one value has.';

INSERT INTO monitoring.advisors (name, function, category, every, thresholds, description, builtin) VALUES
	('missing_indexes', 'monitoring.find_missing_indexes', 'indexes', '1 day',
		'{"min_rows": 10000, "per_hour": 50, "min_calls": 10, "min_seconds": 1, "high_seconds": 600, "max_share": 0.01}',
		'Columns by which statements look for a hundredth of the rows or less, of tables of 10,000 rows or more that are read as a whole 50 times an hour.', true);
