
-- partitions: range-partitioned storage, made ahead and dropped behind.
--
-- Partitions are ordinary tables made at run time (not members of the
-- extension), so that pg_dump carries their rows.  Keys and indexes belong to
-- the partitions alone: an index on a parent, which CREATE EXTENSION makes,
-- would be built on a restored partition when it is attached, and the dump's
-- own definition of it would fail.  Times are UTC.

CREATE TABLE monitoring.retention_policies (
    relation       text PRIMARY KEY,
    partition_step interval NOT NULL CHECK (partition_step >= interval '1 minute' AND partition_step <= interval '3650 days'
                                            AND extract(year FROM partition_step) = 0 AND extract(month FROM partition_step) = 0),
    premake        int NOT NULL DEFAULT 2 CHECK (premake BETWEEN 0 AND 100),
    keep           interval NOT NULL CHECK (keep > interval '0'),
    enabled        boolean NOT NULL DEFAULT true,
    guard          text CHECK (cardinality(parse_ident(guard)) = 2),
    indexes        text[] NOT NULL DEFAULT '{}',
    dropped_before timestamptz
);
COMMENT ON TABLE monitoring.retention_policies IS 'How long each partitioned table of this extension keeps its rows. Change keep to keep more or less; apply_retention() follows.';
COMMENT ON COLUMN monitoring.retention_policies.relation IS 'Table in the schema monitoring.';
COMMENT ON COLUMN monitoring.retention_policies.partition_step IS 'Time that one partition covers, without months and years. Applies to partitions made from now on.';
COMMENT ON COLUMN monitoring.retention_policies.premake IS 'Partitions to make ahead of the current one.';
COMMENT ON COLUMN monitoring.retention_policies.keep IS 'A partition is dropped when all of it is older than this.';
COMMENT ON COLUMN monitoring.retention_policies.guard IS 'Schema-qualified name of a function f(relation text) returning timestamptz: a partition is dropped only when all of it is older than that, whatever keep says. NULL: no such condition.';
COMMENT ON COLUMN monitoring.retention_policies.enabled IS 'False: partitions are still made ahead but never dropped.';
COMMENT ON COLUMN monitoring.retention_policies.dropped_before IS 'Partitions up to this time have been dropped, so one of that time that is made again does not hold all there was. Set by drop_partition().';
COMMENT ON COLUMN monitoring.retention_policies.indexes IS 'What every partition gets besides the indexes of the table: PRIMARY KEY (columns), or what follows CREATE INDEX ON partition.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.retention_policies', '');

-- pg_dump carries all policies; those that CREATE EXTENSION has just made take over what the restored row says.
CREATE TRIGGER restore BEFORE INSERT ON monitoring.retention_policies
FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
EXECUTE FUNCTION monitoring.take_over('relation', 'partition_step', 'premake', 'keep', 'enabled', 'dropped_before');
COMMENT ON TRIGGER restore ON monitoring.retention_policies IS 'Takes over changed policies when a dump is restored.';

CREATE FUNCTION monitoring.partition_range(partition oid) RETURNS tstzrange
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO'
AS $$
DECLARE
    bound text := (SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.oid = partition AND c.relispartition);
BEGIN
    RETURN CASE WHEN bound IS NOT NULL THEN
        tstzrange((regexp_match(bound, 'FROM \(''([^'']+)''\)'))[1]::timestamptz, (regexp_match(bound, 'TO \(''([^'']+)''\)'))[1]::timestamptz) END;
END
$$;
COMMENT ON FUNCTION monitoring.partition_range(oid) IS 'The times that a partition holds; null for what is no partition.';

CREATE FUNCTION monitoring.partitions(relation text DEFAULT NULL)
RETURNS TABLE (parent text, partition text, since timestamptz, until timestamptz, bytes bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.relname::text, c.relname::text, lower(r.range), upper(r.range), pg_total_relation_size(c.oid)
    FROM pg_inherits i
    JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'
    JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = 'monitoring'
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (SELECT monitoring.partition_range(c.oid) AS range) r
    WHERE $1 IS NULL OR p.relname = $1
$$;
COMMENT ON FUNCTION monitoring.partitions(text) IS 'The partitions of one table of this extension, or of all: from since (included) to until (excluded), and their size with indexes in bytes.';

-- The partitions of one table without looking at their files, which would wait for whoever drops one.
CREATE FUNCTION monitoring.partition_ranges(parent oid)
RETURNS TABLE (partition text, range tstzrange)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.relname::text, monitoring.partition_range(c.oid)
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = $1
$$;
COMMENT ON FUNCTION monitoring.partition_ranges(oid) IS 'The partitions of a table and the times that each holds.';

-- One maker at a time, by the lock that ATTACH PARTITION takes anyway.  Readers
-- and writers do not notice it, and it cannot be held by those who may only
-- read.  Who waited finds the partition made.
CREATE FUNCTION monitoring.make_partition(relation text, at timestamptz, since timestamptz, until timestamptz, partition text,
                                          wait boolean DEFAULT true)
RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' SET timezone = 'UTC'
SET lock_timeout = '5s' SET default_table_access_method = 'heap'
AS $$
DECLARE
    parent     oid := format('monitoring.%I', relation)::regclass;
    found_part text;
    definition text;
BEGIN
    EXECUTE format('LOCK TABLE ONLY monitoring.%I IN SHARE UPDATE EXCLUSIVE MODE %s', relation, CASE WHEN wait THEN '' ELSE 'NOWAIT' END);
    SELECT r.partition INTO found_part FROM monitoring.partition_ranges(parent) r WHERE r.range @> at;
    IF FOUND THEN
        RETURN found_part;
    END IF;
    IF to_regclass(format('monitoring.%I', partition)) IS NOT NULL THEN
        -- made since our snapshot was taken
        IF pg_partition_root(to_regclass(format('monitoring.%I', partition))) = parent THEN
            RETURN partition;
        END IF;
        -- somebody has detached and kept it
        partition := left(partition, 48) || to_char(clock_timestamp(), '_YYYYMMDDHH24MISS');
    END IF;

    -- A changed partition_step must not make partitions that overlap older ones.
    SELECT greatest(since, max(upper(r.range)) FILTER (WHERE upper(r.range) <= at)),
           least(until, min(lower(r.range)) FILTER (WHERE lower(r.range) > at))
    INTO since, until
    FROM monitoring.partition_ranges(parent) r;
    EXECUTE format('CREATE TABLE monitoring.%I (LIKE monitoring.%I INCLUDING ALL EXCLUDING IDENTITY)', partition, relation);
    FOREACH definition IN ARRAY (SELECT p.indexes FROM monitoring.retention_policies p WHERE p.relation = make_partition.relation) LOOP
        IF starts_with(definition, 'PRIMARY KEY') THEN
            EXECUTE format('ALTER TABLE monitoring.%I ADD %s', partition, definition);
        ELSE
            EXECUTE format('CREATE INDEX ON monitoring.%I %s', partition, definition);
        END IF;
    END LOOP;
    -- A publication of all tables would let nobody delete from one without a key.
    IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = format('monitoring.%I', partition)::regclass AND i.indisprimary) THEN
        EXECUTE format('ALTER TABLE monitoring.%I REPLICA IDENTITY FULL', partition);
    END IF;
    EXECUTE format('ALTER TABLE monitoring.%I ATTACH PARTITION monitoring.%I FOR VALUES FROM (%L) TO (%L)',
                   relation, partition, since, until);
    RETURN partition;
END
$$;
COMMENT ON FUNCTION monitoring.make_partition(text, timestamptz, timestamptz, timestamptz, text, boolean) IS 'Make a partition that holds the given time and reaches from since to until at most. Returns its name, or that of the one which has been made meanwhile. Errors: another session is at it for 5 seconds, or, without wait, now (55P03).';

CREATE FUNCTION monitoring.ensure_partition(relation text, at timestamptz, wait boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    parent     oid := to_regclass(format('monitoring.%I', relation));
    step       interval := (SELECT r.partition_step FROM monitoring.retention_policies r
                            WHERE r.relation = ensure_partition.relation);
    since      timestamptz := date_bin(step, at, timestamptz '2000-01-03 00:00+00');
    part       text := format('%s_p%s_%s', relation, to_char(since, 'YYYYMMDDHH24MI'), (extract(epoch FROM step) / 60)::bigint);
    child      oid := to_regclass(format('monitoring.%I', part));
    found_part text;
BEGIN
    IF step IS NULL THEN
        RAISE EXCEPTION 'table "%" has no retention policy', relation
            USING ERRCODE = 'undefined_object',
                  HINT = 'Add a row to monitoring.retention_policies.';
    END IF;
    IF parent IS NULL THEN
        RAISE EXCEPTION 'table "monitoring.%" does not exist', relation USING ERRCODE = 'undefined_table';
    END IF;
    -- The usual case; an old snapshot may not show the range of a new partition.
    IF pg_partition_root(child) = parent AND coalesce(monitoring.partition_range(child) @> at, true) THEN
        RETURN part;
    END IF;
    -- After a change of partition_step.
    SELECT r.partition INTO found_part FROM monitoring.partition_ranges(parent) r WHERE r.range @> at;
    IF FOUND THEN
        RETURN found_part;
    END IF;
    RETURN monitoring.make_partition(relation, at, since, since + step, part, wait);
END
$$;
COMMENT ON FUNCTION monitoring.ensure_partition(text, timestamptz, boolean) IS 'Make the partition of a table that holds the given time, if it does not exist. Returns its name. Errors: no retention policy (42704), no such table (42P01), another session is making one for 5 seconds, or, without wait, now (55P03).';

-- Drop one partition unless somebody uses the table right now: never wait, so
-- that no reader queues behind us; not for the policy's row either, since we hold
-- readers off by then.
CREATE FUNCTION monitoring.drop_partition(relation text, partition text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    until timestamptz := upper(monitoring.partition_range(to_regclass(format('monitoring.%I', partition))));
BEGIN
    PERFORM FROM monitoring.retention_policies p WHERE p.relation = drop_partition.relation FOR UPDATE NOWAIT;
    EXECUTE format('LOCK TABLE ONLY monitoring.%I IN ACCESS EXCLUSIVE MODE NOWAIT', relation);
    EXECUTE format('LOCK TABLE monitoring.%I IN ACCESS EXCLUSIVE MODE NOWAIT', partition);
    EXECUTE format('DROP TABLE monitoring.%I', partition);
    UPDATE monitoring.retention_policies p SET dropped_before = greatest(p.dropped_before, until)
    WHERE p.relation = drop_partition.relation;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION monitoring.drop_partition(text, text) IS 'Drop a partition if no lock has to be waited for. Returns false when the table or its policy is in use; try again later.';

-- Nothing here waits for a lock: what is in use is left for the next run.  So
-- the locks that it has on one table when it comes to the next keep others
-- waiting, but never in a circle, in whatever order they take theirs.  What
-- fails for one table does not keep the others from being served.
CREATE FUNCTION monitoring.apply_retention(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (relation text, made int, dropped int, busy int, error text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy  monitoring.retention_policies;
    part    record;
    drop_before timestamptz;
    existed text[];
    created jsonb := '{}';
    in_use  text[] := '{}';
    failed  jsonb := '{}';
BEGIN
    IF at IS NULL OR NOT isfinite(at) THEN
        RAISE EXCEPTION 'at must be a finite time' USING ERRCODE = 'datetime_field_overflow';
    END IF;
    FOR policy IN SELECT r.* FROM monitoring.retention_policies r ORDER BY r.relation LOOP
        BEGIN
            existed := ARRAY(SELECT r.partition
                             FROM monitoring.partition_ranges(to_regclass(format('monitoring.%I', policy.relation))) r);
            created := created || jsonb_build_object(policy.relation,
                (SELECT count(DISTINCT e.partition)
                 FROM generate_series(0, policy.premake) i
                 CROSS JOIN LATERAL monitoring.ensure_partition(policy.relation, at + i * policy.partition_step, false) AS e(partition)
                 WHERE e.partition <> ALL (existed)));
        EXCEPTION WHEN lock_not_available THEN
            in_use := in_use || policy.relation;
        WHEN OTHERS THEN
            failed := failed || jsonb_build_object(policy.relation, SQLERRM);
            RAISE WARNING 'partitions of "%" could not be made: %', policy.relation, SQLERRM;
        END;
    END LOOP;

    FOR policy IN SELECT r.* FROM monitoring.retention_policies r ORDER BY r.relation LOOP
        relation := policy.relation;
        made := coalesce((created ->> policy.relation)::int, 0);
        dropped := 0;
        busy := (policy.relation = ANY (in_use))::int;
        error := failed ->> policy.relation;
        drop_before := at - policy.keep;
        IF policy.guard IS NOT NULL THEN
            EXECUTE format('SELECT least(%s($1), $2)', policy.guard) INTO drop_before USING policy.relation, drop_before;
        END IF;
        FOR part IN
            SELECT p.partition
            FROM monitoring.partition_ranges(to_regclass(format('monitoring.%I', policy.relation))) p
            WHERE policy.enabled AND upper(p.range) <= drop_before ORDER BY upper(p.range)
        LOOP
            IF monitoring.drop_partition(policy.relation, part.partition) THEN
                dropped := dropped + 1;
            ELSE
                busy := busy + 1;
            END IF;
        END LOOP;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION monitoring.apply_retention(timestamptz) IS 'Make partitions ahead and drop those whose rows are all older than their policy keeps, as of the given time. Returns per table how many were made, dropped, and left for the next run because the table or its policy was in use (busy; one for those that it would have made), and why none could be made (error).';

CREATE FUNCTION monitoring.apply_retention_job(at timestamptz) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT monitoring.apply_retention($1) $$;
COMMENT ON FUNCTION monitoring.apply_retention_job(timestamptz) IS 'The periodic job that applies retention.';
