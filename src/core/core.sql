\echo Use "CREATE EXTENSION monitoring" to load this file. \quit

-- core: what every slice builds on.

COMMENT ON SCHEMA monitoring IS 'Metrics, alerts and server insight. Units are seconds, bytes and ratios 0..1; times are UTC.';

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
