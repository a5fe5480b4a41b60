
-- partitions: range-partitioned storage, made ahead and dropped behind.
--
-- Partitions are ordinary tables made at run time (not members of the
-- extension), so that pg_dump carries their rows.  Times are UTC.

CREATE TABLE monitoring.retention_policies (
    relation       text PRIMARY KEY,
    partition_step interval NOT NULL CHECK (partition_step >= interval '1 minute'),
    premake        int NOT NULL DEFAULT 2 CHECK (premake BETWEEN 0 AND 100),
    keep           interval NOT NULL CHECK (keep > interval '0'),
    enabled        boolean NOT NULL DEFAULT true,
    guard          text CHECK (cardinality(parse_ident(guard)) = 2)
);
COMMENT ON TABLE monitoring.retention_policies IS 'How long each partitioned table of this extension keeps its rows. Change keep to keep more or less; apply_retention() follows.';
COMMENT ON COLUMN monitoring.retention_policies.relation IS 'Table in the schema monitoring.';
COMMENT ON COLUMN monitoring.retention_policies.partition_step IS 'Time that one partition covers. Applies to partitions made from now on.';
COMMENT ON COLUMN monitoring.retention_policies.premake IS 'Partitions to make ahead of the current one.';
COMMENT ON COLUMN monitoring.retention_policies.keep IS 'A partition is dropped when all of it is older than this.';
COMMENT ON COLUMN monitoring.retention_policies.guard IS 'Schema-qualified name of a function f(relation text) returning timestamptz: a partition is dropped only when all of it is older than that, whatever keep says. NULL: no such condition.';
COMMENT ON COLUMN monitoring.retention_policies.enabled IS 'False: partitions are still made ahead but never dropped.';

CREATE FUNCTION monitoring.partitions(relation text DEFAULT NULL)
RETURNS TABLE (parent text, partition text, since timestamptz, until timestamptz, bytes bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO'
AS $$
    SELECT p.relname::text, c.relname::text,
           (regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1]::timestamptz,
           (regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1]::timestamptz,
           pg_total_relation_size(c.oid)
    FROM pg_inherits i
    JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'
    JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = 'monitoring'
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
    WHERE $1 IS NULL OR p.relname = $1
$$;
COMMENT ON FUNCTION monitoring.partitions(text) IS 'The partitions of one table of this extension, or of all: from since (included) to until (excluded), and their size with indexes in bytes.';

CREATE FUNCTION monitoring.ensure_partition(relation text, at timestamptz) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' SET timezone = 'UTC'
AS $$
DECLARE
    step  interval := (SELECT r.partition_step FROM monitoring.retention_policies r
                       WHERE r.relation = ensure_partition.relation);
    since timestamptz := date_bin(step, at, timestamptz '2000-01-03 00:00+00');
    part  text := format('%s_p%s_%s', relation, to_char(since, 'YYYYMMDDHH24MI'), (extract(epoch FROM step) / 60)::bigint);
BEGIN
    IF step IS NULL THEN
        RAISE EXCEPTION 'table "%" has no retention policy', relation
            USING ERRCODE = 'undefined_object',
                  HINT = 'Add a row to monitoring.retention_policies.';
    END IF;
    IF to_regclass(format('monitoring.%I', part)) IS NOT NULL THEN
        RETURN part;
    END IF;

    -- One maker at a time; who waited finds the partition made.
    PERFORM pg_advisory_xact_lock(77, hashtext('monitoring.' || relation));
    IF to_regclass(format('monitoring.%I', part)) IS NOT NULL
       OR EXISTS (SELECT FROM monitoring.partitions(relation) p
                  WHERE at >= p.since AND at < p.until) THEN
        RETURN part;
    END IF;

    -- A changed partition_step must not make partitions that overlap older ones.
    since := greatest(since, (SELECT max(p.until) FROM monitoring.partitions(relation) p WHERE p.until <= at));
    EXECUTE format('CREATE TABLE monitoring.%I (LIKE monitoring.%I INCLUDING ALL EXCLUDING IDENTITY)', part, relation);
    EXECUTE format('ALTER TABLE monitoring.%I ATTACH PARTITION monitoring.%I FOR VALUES FROM (%L) TO (%L)',
                   relation, part, since,
                   least(date_bin(step, at, timestamptz '2000-01-03 00:00+00') + step,
                         (SELECT min(p.since) FROM monitoring.partitions(relation) p WHERE p.since > at)));
    RETURN part;
END
$$;
COMMENT ON FUNCTION monitoring.ensure_partition(text, timestamptz) IS 'Make the partition of a table that holds the given time, if it does not exist. Returns its name.';

-- Drop one partition unless somebody uses the table right now: never wait, so
-- that no reader queues behind us.
CREATE FUNCTION monitoring.drop_partition(relation text, partition text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('LOCK TABLE ONLY monitoring.%I IN ACCESS EXCLUSIVE MODE NOWAIT', relation);
    EXECUTE format('LOCK TABLE monitoring.%I IN ACCESS EXCLUSIVE MODE NOWAIT', partition);
    EXECUTE format('DROP TABLE monitoring.%I', partition);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION monitoring.drop_partition(text, text) IS 'Drop a partition if no lock has to be waited for. Returns false when the table is in use; try again later.';

CREATE FUNCTION monitoring.apply_retention(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (relation text, made int, dropped int, busy int)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy    monitoring.retention_policies;
    drop_before timestamptz;
    part      record;
BEGIN
    IF at IS NULL OR NOT isfinite(at) THEN
        RAISE EXCEPTION 'at must be a finite time' USING ERRCODE = 'datetime_field_overflow';
    END IF;
    FOR policy IN SELECT r.* FROM monitoring.retention_policies r ORDER BY r.relation LOOP
        relation := policy.relation;
        made := (SELECT count(*) FROM monitoring.partitions(policy.relation));
        dropped := 0;
        busy := 0;
        PERFORM monitoring.ensure_partition(policy.relation, at + i * policy.partition_step)
        FROM generate_series(0, policy.premake) i;
        made := (SELECT count(*) FROM monitoring.partitions(policy.relation)) - made;

        drop_before := at - policy.keep;
        IF policy.guard IS NOT NULL THEN
            EXECUTE format('SELECT least(%s($1), $2)', policy.guard) INTO drop_before USING policy.relation, drop_before;
        END IF;
        FOR part IN
            SELECT p.partition FROM monitoring.partitions(policy.relation) p
            WHERE policy.enabled AND p.until <= drop_before ORDER BY p.until
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
COMMENT ON FUNCTION monitoring.apply_retention(timestamptz) IS 'Make partitions ahead and drop those whose rows are all older than their policy keeps, as of the given time. Returns per table how many were made, dropped, and left for the next run because the table was in use (busy).';

CREATE FUNCTION monitoring.apply_retention_job(at timestamptz) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT monitoring.apply_retention($1) $$;
COMMENT ON FUNCTION monitoring.apply_retention_job(timestamptz) IS 'The periodic job that applies retention.';
