-- advisors, what several of them look at.
--
-- Tables and indexes of extensions, of the system and of this extension are nobody's to change, so they are left out everywhere.

CREATE FUNCTION monitoring.advised_tables()
RETURNS TABLE (relation oid, identity text, schema_name name, table_name name, kind "char", tuples float8, bytes float8, persistence "char",
	options text[], toast oid, partition boolean, impact float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	SELECT c.oid, format('%I.%I', n.nspname, c.relname), n.nspname, c.relname, c.relkind, greatest(c.reltuples, 0)::float8,
		greatest(c.relpages, 0) * b.size, c.relpersistence, c.reloptions, c.reltoastrelid, c.relispartition,
		coalesce(greatest(c.relpages, 0) / nullif(sum(greatest(c.relpages, 0)) OVER (), 0)::float8, 0)
	FROM pg_class AS c
	JOIN pg_namespace AS n ON n.oid = c.relnamespace
	CROSS JOIN (SELECT current_setting('block_size')::float8 AS size) AS b
	WHERE c.relkind IN ('r', 'm', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'monitoring')
		AND n.nspname !~ '^pg_temp_'
		AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
$$;
COMMENT ON FUNCTION monitoring.advised_tables() IS 'For advisors: the tables and materialised views that users have made, with their sizes as the latest vacuum or analyze left them (0 if there was none). impact: its share of the bytes of them all. identity is qualified and quoted. Opens none of them.';

CREATE FUNCTION monitoring.advised_indexes()
RETURNS TABLE (index oid, identity text, relation oid, table_identity text, kind "char", bytes float8, tuples float8, options text[],
	"unique" boolean, needed boolean, valid boolean, partition boolean, impact float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	SELECT i.indexrelid, format('%I.%I', t.schema_name, c.relname), i.indrelid, t.identity, c.relkind,
		c.relpages * b.size, greatest(c.reltuples, 0)::float8, c.reloptions, i.indisunique,
		i.indisprimary OR i.indisexclusion OR i.indisreplident OR i.indisclustered
			OR EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x', 'f')),
		i.indisvalid AND i.indisready AND i.indislive, c.relispartition,
		coalesce(c.relpages / nullif(sum(c.relpages) OVER (), 0)::float8, 0)
	FROM pg_index AS i
	JOIN monitoring.advised_tables() AS t ON t.relation = i.indrelid
	JOIN pg_class AS c ON c.oid = i.indexrelid
	CROSS JOIN (SELECT current_setting('block_size')::float8 AS size) AS b
$$;
COMMENT ON FUNCTION monitoring.advised_indexes() IS 'For advisors: the indexes of advised_tables(). needed: a constraint, a foreign key that refers to it, logical replication or CLUSTER needs it. impact: its share of the bytes of all indexes.';

CREATE FUNCTION monitoring.index_columns(index oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = index_columns.index AND a.attnum > 0
$$;
COMMENT ON FUNCTION monitoring.index_columns(oid) IS 'For advisors: names of an index''s columns. pg_get_indexdef() would open its table.';

CREATE FUNCTION monitoring.has_standbys() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (SELECT FROM pg_stat_replication) OR EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.slot_type = 'physical')
$$;
COMMENT ON FUNCTION monitoring.has_standbys() IS 'For advisors: whether there are standbys, whose reads this server does not count.';

CREATE FUNCTION monitoring.table_option(options text[], name text) RETURNS float8
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce((SELECT split_part(x, '=', 2)::float8 FROM unnest(options) AS x WHERE split_part(x, '=', 1) = name),
		current_setting(name, true)::float8)
$$;
COMMENT ON FUNCTION monitoring.table_option(text[], text) IS 'For advisors: a number among the storage parameters of a table; where it has none, the server''s setting of the same name; null where this version has none.';

CREATE FUNCTION monitoring.vacuum_due_at(options text[], tuples float8) RETURNS float8
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- 18 has an upper limit; one below zero is none
	SELECT least(monitoring.table_option(vacuum_due_at.options, 'autovacuum_vacuum_threshold')
			+ monitoring.table_option(vacuum_due_at.options, 'autovacuum_vacuum_scale_factor') * greatest(vacuum_due_at.tuples, 0), CASE WHEN l.most >= 0 THEN l.most END)
	FROM (SELECT monitoring.table_option(vacuum_due_at.options, 'autovacuum_vacuum_max_threshold') AS most) AS l
$$;
COMMENT ON FUNCTION monitoring.vacuum_due_at(text[], float8) IS 'At how many dead rows autovacuum comes to a table with these storage parameters and so many rows.';
