-- advisor of missing indexes: tables that are read as a whole again and again, and the statements that do so.
--
-- What a statement compares is read from its normalised text, where a literal is $1: behind WHERE a column name of the table followed by
-- = $n, IN ($n or = ANY ($n (equal), or by < > <= >= $n or BETWEEN $n (range); or the name that comes first in ORDER BY, if there is a
-- LIMIT (order). When another table of the statement has a column of that name nobody can tell whose it is, and it does not count.
--
-- A candidate has the columns that are compared for equality, those that tell most first, as many as are needed, and then one of a range or
-- an order. Whether it helps is in the statistics of the columns; and if the extension hypopg is installed, the planner is asked
-- (hypothetical.c), which plans the statements with and without it.

CREATE FUNCTION monitoring.column_use(query text, name name) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN c.conditions ~* (n.pattern || '(=\s*\$[0-9]|=\s*any\s*\(\s*\$[0-9]|in\s*\(\s*\$[0-9])') THEN 'equal'
		WHEN c.conditions ~* (n.pattern || '([<>]=?\s*\$[0-9]|between\s+\$[0-9])') THEN 'range'
		WHEN c.conditions ~* '\m(limit|fetch)\M' AND substring(c.conditions FROM '(?i)\morder\s+by\s+(.*)')
			~* ('^([[:alnum:]_"]+\.)?"?' || n.name || '"?(\s+(asc|desc))?(\s+nulls\s+(first|last))?\s*(,|\m(limit|offset|fetch)\M)') THEN 'order' END
	FROM (SELECT substring(query FROM '(?i)\mwhere\M.*') AS conditions) AS c
	CROSS JOIN (SELECT regexp_replace(name, '([^[:alnum:]_])', '\\\1', 'g') AS name) AS q
	CROSS JOIN LATERAL (SELECT q.name, '(^|[^[:alnum:]_])' || q.name || '"?\s*' AS pattern) AS n
$$;
COMMENT ON FUNCTION monitoring.column_use(text, name) IS 'How a normalised statement uses a column of that name behind its first WHERE: equal (= $1, = ANY ($1, IN ($1), range (<, >, <=, >=, BETWEEN) or order (first in ORDER BY, with a LIMIT); null: not in these ways.';

CREATE FUNCTION monitoring.mentions(query text, name name) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT query ~* ('(^|[^[:alnum:]_])' || regexp_replace(name, '([^[:alnum:]_])', '\\\1', 'g') || '($|[^[:alnum:]_])')
$$;
COMMENT ON FUNCTION monitoring.mentions(text, name) IS 'Whether a name stands in a text as a word.';

CREATE FUNCTION monitoring.hypothetical_plans(relation oid, definition text, queries text[], search_path text, hypopg name)
RETURNS TABLE (place integer, plan json, plan_with_index json, index_name text, index_bytes bigint, problem text)
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'mon_hypothetical_plans';
COMMENT ON FUNCTION monitoring.hypothetical_plans(oid, text, text[], text, name) IS 'For advisors: plans of statements without and with an index that the extension hypopg (in the schema hypopg) pretends, and its estimated size. definition: CREATE INDEX on the table relation. The statements, in which parameters are $1 and so on, are planned as the owner of the table with that search_path and never run; problem: why one was not, as when it reads tables of others, calls functions that do not come with the server, or a lock is held. Errors: no rights of the owner (42501), no such table (42P01).';

CREATE FUNCTION monitoring.prove_index(relation oid, schema_name name, definition text, queries text[], seconds float8[], until timestamptz) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	hypopg name := (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'hypopg');
BEGIN
	IF hypopg IS NULL OR clock_timestamp() >= until THEN
		RETURN NULL;
	END IF;
	-- names lead first to where the table is
	RETURN (
		SELECT jsonb_strip_nulls(jsonb_build_object('statements_planned', count(c.before),
			'statements_that_use_it', count(*) FILTER (WHERE c.uses), 'index_bytes', CASE WHEN count(c.before) > 0 THEN max(p.index_bytes) END,
			'cost_before', round(sum(c.before)::numeric, 2), 'cost_after', round(sum(c.after)::numeric, 2),
			'cost_ratio', round((sum(c.after / nullif(c.before, 0) * s.seconds) / nullif(sum(s.seconds) FILTER (WHERE c.before > 0), 0))::numeric, 6),
			'not_planned', min(p.problem)))
		FROM monitoring.hypothetical_plans(relation, definition, queries, format('%I, "$user", public, pg_temp', schema_name), hypopg) AS p
		CROSS JOIN LATERAL (SELECT (p.plan #>> '{0,Plan,Total Cost}')::float8 AS before, (p.plan_with_index #>> '{0,Plan,Total Cost}')::float8 AS after,
			strpos(p.plan_with_index::text, to_json(p.index_name)::text) > 0 AS uses) AS c
		CROSS JOIN LATERAL (SELECT prove_index.seconds[p.place] AS seconds) AS s);
-- a table that is gone or locked, a hypopg that is broken: there is no proof
EXCEPTION WHEN others THEN
	RETURN jsonb_build_object('not_planned', SQLERRM);
END $$;
COMMENT ON FUNCTION monitoring.prove_index(oid, name, text, text[], float8[], timestamptz) IS 'For advisors: what the planner says of an index on a table in that schema, and of statements on which so many seconds are spent. Evidence: statements_planned, statements_that_use_it, index_bytes, cost_before and cost_after (sums), cost_ratio (after to before, weighted by the seconds), not_planned (why a statement was not). Null: hypopg is not installed, or it is later than until.';

CREATE FUNCTION monitoring.missing_index_candidates(at timestamptz, thresholds jsonb)
RETURNS TABLE (relation oid, identity text, schema_name name, columns name[], share float8, calls numeric, seconds float8, all_seconds float8, queryids jsonb,
	queries text[], query_seconds float8[], tuples float8, seq_scans bigint, index_scans bigint, over_seconds float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH tables AS MATERIALIZED (
		SELECT t.*, u.seq_scans, u.reads - u.seq_scans AS index_scans, extract(epoch FROM u.over)::float8 AS seconds
		FROM monitoring.advised_tables() AS t
		JOIN monitoring.usage_since(missing_index_candidates.at) AS u ON u.relation = t.relation
		WHERE t.kind IN ('r', 'm') AND t.tuples >= (thresholds ->> 'min_rows')::float8 AND u.over > '0'
			AND u.seq_scans * 3600 / extract(epoch FROM u.over) >= (thresholds ->> 'per_hour')::float8
		ORDER BY u.seq_scans * t.tuples DESC
		LIMIT 50
	), statements AS MATERIALIZED (
		SELECT s.queryid, max(s.query) AS query, sum(s.calls) AS calls, sum(s.total_seconds) AS seconds
		FROM monitoring.statements_over('1 day', missing_index_candidates.at, ARRAY(
			SELECT c.queryid FROM monitoring.statement_sums('1 day', missing_index_candidates.at) AS c GROUP BY c.queryid
			HAVING sum(c.calls) >= (thresholds ->> 'min_calls')::float8)) AS s
		WHERE s.queryid <> 0 AND s.query ~* '^\W*(select|update|delete|with|merge)\M' AND s.query ~* '\mwhere\M'
		GROUP BY s.queryid
		ORDER BY sum(s.total_seconds) DESC
		LIMIT 300
	), pairs AS MATERIALIZED (
		SELECT t.relation, t.table_name, t.tuples, s.*
		FROM tables AS t
		JOIN statements AS s ON monitoring.mentions(s.query, t.table_name)
	), used AS MATERIALIZED (
		SELECT p.relation, p.queryid, p.tuples, a.attnum, a.attname, u.how,
			-- share of the rows that one value has
			least((1 - s.stanullfrac) / greatest(CASE WHEN s.stadistinct > 0 THEN s.stadistinct ELSE -s.stadistinct * p.tuples END, 1), 1) AS share
		FROM pairs AS p
		JOIN pg_attribute AS a ON a.attrelid = p.relation AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_statistic AS s ON s.starelid = a.attrelid AND s.staattnum = a.attnum AND NOT s.stainherit
		CROSS JOIN LATERAL monitoring.column_use(p.query, a.attname) AS u (how)
		WHERE u.how IS NOT NULL
			-- of a type that has an order of its own
			AND EXISTS (SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod AND m.amname = 'btree'
				WHERE o.opcdefault AND o.opcintype = CASE a.atttypid WHEN 'varchar'::regtype THEN 'text'::regtype ELSE a.atttypid END)
			AND NOT EXISTS (
				SELECT FROM pg_attribute AS x
				JOIN monitoring.advised_tables() AS o ON o.relation = x.attrelid AND NOT o.partition
				WHERE x.attname = a.attname AND x.attrelid <> p.relation AND NOT x.attisdropped AND monitoring.mentions(p.query, o.table_name))
	), ranked AS (
		-- share of the rows that the columns before it leave
		SELECT u.*, row_number() OVER w AS place, exp(coalesce(sum(ln(u.share + 1e-12)) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)) AS left_share
		FROM used AS u
		WHERE u.how = 'equal'
		WINDOW w AS (PARTITION BY u.relation, u.queryid ORDER BY u.share, u.attnum)
	), equal AS (
		SELECT r.relation, r.queryid, r.tuples, array_agg(r.attnum ORDER BY r.place) AS all_numbers, array_agg(r.share ORDER BY r.place) AS all_shares,
			array_agg(r.attname ORDER BY r.place) FILTER (WHERE f.taken) AS names, exp(sum(ln(r.share + 1e-12)) FILTER (WHERE f.taken)) AS share
		FROM ranked AS r
		-- a column more must leave fewer rows
		CROSS JOIN LATERAL (SELECT r.place = 1 OR r.place <= (thresholds ->> 'max_columns')::integer AND r.share <= 0.5
			AND r.left_share * r.tuples > (thresholds ->> 'enough_rows')::float8 AS taken) AS f
		GROUP BY r.relation, r.queryid, r.tuples
	), wanted AS (
		SELECT e.relation, e.queryid, e.share,
			e.names || CASE WHEN e.share * e.tuples > (thresholds ->> 'enough_rows')::float8 THEN (
				SELECT u.attname FROM used AS u
				WHERE u.relation = e.relation AND u.queryid = e.queryid AND u.how <> 'equal'
				ORDER BY u.how = 'order', u.share, u.attnum LIMIT 1) END AS columns
		FROM equal AS e
		WHERE e.share <= (thresholds ->> 'max_share')::float8
			-- no index is missing where the first columns of one that is there leave as few rows
			AND NOT EXISTS (
				SELECT FROM pg_index AS i
				CROSS JOIN LATERAL (
					SELECT exp(sum(ln(e.all_shares[array_position(e.all_numbers, k.number)] + 1e-12))) AS share
					FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
					WHERE k.place < coalesce((SELECT min(x.place) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS x (number, place)
						WHERE x.number <> ALL (e.all_numbers) OR x.place > i.indnkeyatts), 1000)) AS l
				WHERE i.indrelid = e.relation AND i.indisvalid AND i.indpred IS NULL AND l.share <= (thresholds ->> 'max_share')::float8)
	), candidates AS (
		SELECT w.*, array_remove(w.columns, NULL) AS names FROM wanted AS w
	), merged AS (
		-- an index that begins with the columns of another does for both
		SELECT c.relation, c.queryid, c.share, (
			SELECT l.names FROM candidates AS l
			WHERE l.relation = c.relation AND l.names[1:cardinality(c.names)] = c.names
			ORDER BY cardinality(l.names) DESC, l.names LIMIT 1) AS columns
		FROM candidates AS c
	)
	SELECT m.relation, t.identity, t.schema_name, m.columns, max(m.share), sum(s.calls), sum(s.seconds), max(x.seconds),
		jsonb_agg(s.queryid::text ORDER BY s.seconds DESC, s.queryid), (array_agg(s.query ORDER BY s.seconds DESC, s.queryid))[1:5], (array_agg(s.seconds ORDER BY s.seconds DESC, s.queryid))[1:5],
		t.tuples, t.seq_scans, t.index_scans, t.seconds
	FROM merged AS m
	JOIN tables AS t ON t.relation = m.relation
	JOIN statements AS s ON s.queryid = m.queryid
	CROSS JOIN (SELECT sum(a.seconds) AS seconds FROM statements AS a) AS x
	GROUP BY m.relation, t.identity, t.schema_name, m.columns, t.tuples, t.seq_scans, t.index_scans, t.seconds
	HAVING sum(s.seconds) >= (thresholds ->> 'min_seconds')::float8
$$;
COMMENT ON FUNCTION monitoring.missing_index_candidates(timestamptz, jsonb) IS 'For the advisor missing_indexes: columns that an index could have, with the share of the rows that values of its equality columns have, the statements that look for them (queries: the five that take longest) and how the table is read. all_seconds: of all statements that were looked at.';

CREATE FUNCTION monitoring.find_missing_indexes(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT CASE WHEN cardinality(c.columns) = 1 THEN 'column' ELSE 'columns' END,
		CASE WHEN cardinality(c.columns) = 1 THEN format('%s.%s', c.identity, l.list) ELSE format('%s (%s)', c.identity, l.list) END,
		CASE WHEN c.seconds >= (thresholds ->> 'high_seconds')::float8 THEN 'high' ELSE 'medium' END,
		least(c.seconds / nullif(c.all_seconds, 0), 1),
		format('Table %s, of %s rows, is read as a whole %s times an hour, and %s statements look for rows by %s: each time for %s rows.', c.identity,
			round(c.tuples::numeric), round((c.seq_scans * 3600 / c.over_seconds)::numeric), jsonb_array_length(c.queryids), l.list,
			greatest(round((c.share * c.tuples)::numeric), 1)),
		jsonb_build_object('table', c.identity, 'columns', to_jsonb(c.columns), 'rows', c.tuples, 'rows_per_value', round((c.share * c.tuples)::numeric, 1),
			'sequential_scans', c.seq_scans, 'index_scans', c.index_scans, 'over_seconds', c.over_seconds, 'queryids', c.queryids, 'calls', c.calls,
			'total_seconds', round(c.seconds::numeric, 3)) || coalesce(p.proof, '{}'),
		-- by the planner; or what the scan costs falls to the share of the rows that are wanted, each fetched at random
		c.seconds * greatest(1 - coalesce((p.proof ->> 'cost_ratio')::float8, c.share * current_setting('random_page_cost')::float8), 0), 'seconds_per_day',
		format('CREATE INDEX CONCURRENTLY ON %s (%s);', c.identity, l.list),
		format('SELECT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = to_regclass(%L) AND i.indisvalid AND (i.indkey::int2[])[0:%s] ='
			' (SELECT array_agg(a.attnum ORDER BY x.place) FROM unnest(%L::name[]) WITH ORDINALITY AS x (name, place)'
			' JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attname = x.name)) AS fixed', c.identity, cardinality(c.columns) - 1, c.columns)
	FROM (SELECT clock_timestamp() + '5 seconds' AS until) AS b
	CROSS JOIN monitoring.missing_index_candidates(find_missing_indexes.at, thresholds) AS c
	CROSS JOIN LATERAL (SELECT string_agg(quote_ident(n.name), ', ' ORDER BY n.place) AS list FROM unnest(c.columns) WITH ORDINALITY AS n (name, place)) AS l
	CROSS JOIN LATERAL monitoring.prove_index(c.relation, c.schema_name, format('CREATE INDEX ON %s (%s)', c.identity, l.list), c.queries, c.query_seconds,
		b.until) AS p (proof)
	-- what the planner was asked and does not want is no advice
	WHERE (p.proof ->> 'statements_planned')::integer > 0 IS NOT TRUE
		OR (p.proof ->> 'statements_that_use_it')::integer > 0 AND (p.proof ->> 'cost_ratio')::float8 <= (thresholds ->> 'max_cost_ratio')::float8
	UNION ALL
	SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	WHERE NOT EXISTS (SELECT FROM monitoring.usage_since(find_missing_indexes.at))
$$;
COMMENT ON FUNCTION monitoring.find_missing_indexes(timestamptz, jsonb) IS 'Advisor missing_indexes: columns by which statements of the last day look for rows, of tables that are read as a whole meanwhile. Thresholds: min_rows of the table, per_hour scans; min_calls of a statement, min_seconds of all of them in a day, high_seconds; max_share of the rows that the values of the equality columns have; enough_rows, from which on one more column is worth it, and max_columns that are compared for equality; max_cost_ratio of what the planner reckons with the index to without it, where hypopg is installed.';

INSERT INTO monitoring.advisors (name, function, category, every, timeout, thresholds, description, builtin) VALUES
	('missing_indexes', 'monitoring.find_missing_indexes', 'indexes', '1 day', '20 seconds',
		'{"min_rows": 10000, "per_hour": 50, "min_calls": 10, "min_seconds": 1, "high_seconds": 600, "max_share": 0.01, "enough_rows": 10, "max_columns": 3, "max_cost_ratio": 0.9}',
		'Columns by which statements look for a hundredth of the rows or less, of tables of 10,000 rows or more that are read as a whole 50 times an hour.', true);
