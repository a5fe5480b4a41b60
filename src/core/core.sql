\echo Use "CREATE EXTENSION monitoring" to load this file. \quit

-- core: what every slice builds on.

COMMENT ON SCHEMA monitoring IS 'Metrics, alerts and server insight. Units are seconds, bytes and ratios 0..1; times are UTC.';

DO $$
DECLARE
	publication name;
BEGIN
	FOR publication IN SELECT p.pubname FROM pg_catalog.pg_publication AS p WHERE p.puballtables LOOP
		RAISE WARNING 'publication "%" is of all tables, from now on also of those of monitoring, without which its subscriptions stop', publication
			USING HINT = 'Publish the schemas of the application: CREATE PUBLICATION ... FOR TABLES IN SCHEMA ...';
	END LOOP;
END $$;

-- Tables whose first rows CREATE EXTENSION makes, and which people change as they like: pg_dump carries all rows, and the
-- first that is restored takes the place of those that CREATE EXTENSION has just made.
CREATE FUNCTION monitoring.replace_builtin() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('DELETE FROM %s WHERE builtin', TG_RELID::regclass);
	NEW.builtin := false;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.replace_builtin() IS 'Trigger: rows that a dump brings replace the builtin ones of their table.';

-- Tables whose first rows CREATE EXTENSION makes, and of which people change some columns and newer versions the others: of a row
-- that is there the dump brings only what people may have changed.
CREATE FUNCTION monitoring.take_over() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rows bigint;
BEGIN
	-- an object keeps the keys that only the newer version knows
	EXECUTE (
		SELECT format('UPDATE %s AS r SET %s WHERE r.%3$I = $1.%3$I', TG_RELID::regclass, string_agg(format(
			CASE a.atttypid WHEN 'jsonb'::regtype THEN '%1$I = r.%1$I || $1.%1$I' ELSE '%1$I = $1.%1$I' END, a.attname), ', '), TG_ARGV[0])
		FROM pg_attribute AS a
		WHERE a.attrelid = TG_RELID AND a.attname = ANY (TG_ARGV[1:])
	) USING NEW;
	GET DIAGNOSTICS rows = ROW_COUNT;
	RETURN CASE WHEN rows = 0 THEN NEW END;
END $$;
COMMENT ON FUNCTION monitoring.take_over() IS 'Trigger with the arguments key and columns: of a row that a dump brings and whose key is there, these columns are taken over; those of type jsonb, objects, are laid over what is there. Other rows are inserted.';

-- What a column holds is said once in this script: views of it, and tables like its own, take that over.
CREATE FUNCTION monitoring.inherit_comments(relation regclass, source regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	c record;
BEGIN
	FOR c IN
		SELECT a.attname, d.description
		FROM pg_attribute AS a
		JOIN pg_attribute AS s ON s.attrelid = source AND s.attname = a.attname
		JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = source AND d.objsubid = s.attnum
		WHERE a.attrelid = relation AND a.attnum > 0 AND col_description(relation, a.attnum) IS NULL
	LOOP
		EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', relation, c.attname, c.description);
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.inherit_comments(regclass, regclass) IS 'Columns of a relation that have no comment get that of the column of the same name of another one.';

-- Instead of foreign keys between tables that pg_dump carries: pg_restore -j fills the tables of an extension in any order.
-- Who makes a row that names a kind locks the kind FOR KEY SHARE before he looks whether it exists, as a foreign key would.
CREATE FUNCTION monitoring.keep_what_is_used() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	key text := to_jsonb(OLD) ->> TG_ARGV[0];
	used boolean;
BEGIN
	IF TG_OP = 'UPDATE' AND to_jsonb(NEW) ->> TG_ARGV[0] = key THEN
		RETURN NEW;
	END IF;
	EXECUTE format('SELECT EXISTS (SELECT FROM monitoring.%I AS r WHERE r.%I = $1)', TG_ARGV[1], TG_ARGV[0]) INTO used USING key;
	IF used THEN
		RAISE EXCEPTION '"%" of % is still needed', key, TG_RELID::regclass
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('Rows of monitoring.%I name it.', TG_ARGV[1]);
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
COMMENT ON FUNCTION monitoring.keep_what_is_used() IS 'Trigger with the arguments column and table: a row whose value of this column rows of the table name can be neither deleted nor renamed (2BP01).';

-- Kinds of rules, checks and evidence name functions, which people may write.
CREATE FUNCTION monitoring.kind_function(kind text, function text, arguments text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f regprocedure := to_regprocedure(format('%s(%s)', function, arguments));
BEGIN
	IF f IS NULL THEN
		RAISE EXCEPTION 'function %(%) of % does not exist', function, arguments, kind
			USING ERRCODE = 'undefined_function', HINT = 'Name it with its schema in the table of kinds.';
	END IF;
	-- The workers have the rights of the extension's owner, which nobody else's code may have.
	IF NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = f AND (p.prosecdef
		OR p.proowner = (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'monitoring'))) THEN
		RAISE EXCEPTION 'function % of % must be SECURITY DEFINER', f, kind
			USING ERRCODE = 'insufficient_privilege', DETAIL = 'It does not belong to the owner of the extension.',
				HINT = 'Use ALTER FUNCTION with SECURITY DEFINER and SET search_path.';
	END IF;
	RETURN f::regproc::text;
END $$;
COMMENT ON FUNCTION monitoring.kind_function(text, text, text) IS 'The quoted name of the function of a kind, such as ''an alert rule kind'', with these argument types. Errors: 42883 if it does not exist, 42501 if it would run with rights that are not its owner''s.';

CREATE FUNCTION monitoring.utf8_bytes(t text) RETURNS bytea
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_utf8_bytes';
COMMENT ON FUNCTION monitoring.utf8_bytes(text) IS 'A text in UTF-8, whatever the encoding of the database. Unlike convert_to() it raises no error: bytes that cannot be converted, as a database of encoding SQL_ASCII may hold them, are written as %E9.';
