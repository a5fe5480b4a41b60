-- One row per offence of the installed extension against the house rules; none means clean.

WITH members AS (
	SELECT d.classid, d.objid
	FROM pg_catalog.pg_depend d
	JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'monitoring'
	WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
), named AS (
	SELECT m.*, pg_catalog.pg_describe_object(m.classid, m.objid, 0) AS name FROM members m
), uncommented AS (
	SELECT n.name
	FROM named n
	LEFT JOIN pg_catalog.pg_class c ON n.classid = 'pg_catalog.pg_class'::regclass AND c.oid = n.objid
	LEFT JOIN pg_catalog.pg_type t ON n.classid = 'pg_catalog.pg_type'::regclass AND t.oid = n.objid
	WHERE pg_catalog.obj_description(n.objid, n.classid::regclass::name) IS NULL
	  -- described through their table, column or element type
	  AND (c.oid IS NULL OR c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND NOT c.relispartition)
	  AND (t.oid IS NULL OR t.typrelid = 0 AND t.typcategory <> 'A')
	  AND n.classid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass,
						'pg_catalog.pg_type'::regclass, 'pg_catalog.pg_operator'::regclass)
), unpinned AS (
	SELECT n.name
	FROM named n
	JOIN pg_catalog.pg_proc p ON n.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = n.objid
	JOIN pg_catalog.pg_language l ON l.oid = p.prolang
	WHERE (l.lanname = 'plpgsql' OR l.lanname = 'sql' AND p.prosqlbody IS NULL OR p.prosecdef)
	  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) s WHERE s = 'search_path=pg_catalog, pg_temp')
), public_relations AS (
	SELECT DISTINCT n.name
	FROM named n
	JOIN pg_catalog.pg_class c ON n.classid = 'pg_catalog.pg_class'::regclass AND c.oid = n.objid
	CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
	WHERE a.grantee = 0
), public_functions AS (
	-- to PUBLIC belong the sketch type and what only handles sketches
	SELECT n.name
	FROM named n
	JOIN pg_catalog.pg_proc p ON n.classid = 'pg_catalog.pg_proc'::regclass AND p.oid = n.objid
	CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
	WHERE a.grantee = 0
	  AND p.proname !~ 'sketch'
	  AND p.prorettype <> 'monitoring.sketch'::regtype
	  AND NOT 'monitoring.sketch'::regtype = ANY (p.proargtypes::oid[])
)
SELECT 'without a comment: ' || name FROM uncommented
UNION ALL
SELECT 'without SET search_path = pg_catalog, pg_temp: ' || name FROM unpinned
UNION ALL
SELECT 'granted to PUBLIC: ' || name FROM public_relations
UNION ALL
SELECT 'executable by PUBLIC: ' || name FROM public_functions
ORDER BY 1;
