\echo Use "CREATE EXTENSION monitoring" to load this file. \quit

-- core: what every slice builds on.

COMMENT ON SCHEMA monitoring IS 'Metrics, alerts and server insight. Units are seconds, bytes and ratios 0..1; times are UTC.';
-- sketch: the distribution of many values in a few hundred bytes.

CREATE TYPE monitoring.sketch;

CREATE FUNCTION monitoring.sketch_in(cstring) RETURNS monitoring.sketch
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_in';
CREATE FUNCTION monitoring.sketch_out(monitoring.sketch) RETURNS cstring
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_out';
CREATE FUNCTION monitoring.sketch_recv(internal) RETURNS monitoring.sketch
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_recv';
CREATE FUNCTION monitoring.sketch_send(monitoring.sketch) RETURNS bytea
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_send';

COMMENT ON FUNCTION monitoring.sketch_in(cstring) IS
	'Input function of the type sketch: base64 of its encoded form. Error 22P02 for anything else.';
COMMENT ON FUNCTION monitoring.sketch_out(monitoring.sketch) IS
	'Output function of the type sketch: base64 of its encoded form.';
COMMENT ON FUNCTION monitoring.sketch_recv(internal) IS
	'Binary input function of the type sketch: its encoded form. Error 22P03 for anything else.';
COMMENT ON FUNCTION monitoring.sketch_send(monitoring.sketch) IS
	'Binary output function of the type sketch: its encoded form.';

-- Not compressible: pglz saves nothing on the encoded form.
CREATE TYPE monitoring.sketch (
	INPUT = monitoring.sketch_in,
	OUTPUT = monitoring.sketch_out,
	RECEIVE = monitoring.sketch_recv,
	SEND = monitoring.sketch_send,
	INTERNALLENGTH = VARIABLE,
	STORAGE = external
);
COMMENT ON TYPE monitoring.sketch IS
	'The distribution of many float8 values: count, sum, min and max exactly, percentiles within max_relative_error() (0.5415 %). Merging sketches in any order gives the sketch of all values.';

-- Equality: of everything the sketch knows; enough for DISTINCT, GROUP BY and joins.

CREATE FUNCTION monitoring.sketch_eq(monitoring.sketch, monitoring.sketch) RETURNS boolean
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_eq';
CREATE FUNCTION monitoring.sketch_ne(monitoring.sketch, monitoring.sketch) RETURNS boolean
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_ne';
CREATE FUNCTION monitoring.sketch_hash(monitoring.sketch) RETURNS integer
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_hash';
CREATE FUNCTION monitoring.sketch_hash_extended(monitoring.sketch, bigint) RETURNS bigint
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_hash_extended';

COMMENT ON FUNCTION monitoring.sketch_eq(monitoring.sketch, monitoring.sketch) IS
	'Operator = of sketches: the same buckets, count, sum, min and max. Sums of fractions may differ in the last digits when values were added in another order.';
COMMENT ON FUNCTION monitoring.sketch_ne(monitoring.sketch, monitoring.sketch) IS
	'Operator <> of sketches: not the same buckets, count, sum, min and max.';
COMMENT ON FUNCTION monitoring.sketch_hash(monitoring.sketch) IS
	'Hash of a sketch, for hash joins and GROUP BY.';
COMMENT ON FUNCTION monitoring.sketch_hash_extended(monitoring.sketch, bigint) IS
	'Hash of a sketch with a seed, for hash partitions.';

CREATE OPERATOR monitoring.= (
	FUNCTION = monitoring.sketch_eq, LEFTARG = monitoring.sketch, RIGHTARG = monitoring.sketch,
	COMMUTATOR = OPERATOR(monitoring.=), NEGATOR = OPERATOR(monitoring.<>),
	RESTRICT = pg_catalog.eqsel, JOIN = pg_catalog.eqjoinsel, HASHES
);
CREATE OPERATOR monitoring.<> (
	FUNCTION = monitoring.sketch_ne, LEFTARG = monitoring.sketch, RIGHTARG = monitoring.sketch,
	COMMUTATOR = OPERATOR(monitoring.<>), NEGATOR = OPERATOR(monitoring.=),
	RESTRICT = pg_catalog.neqsel, JOIN = pg_catalog.neqjoinsel
);
COMMENT ON OPERATOR monitoring.= (monitoring.sketch, monitoring.sketch) IS 'equal sketches';
COMMENT ON OPERATOR monitoring.<> (monitoring.sketch, monitoring.sketch) IS 'different sketches';

CREATE OPERATOR CLASS monitoring.sketch_hash_ops DEFAULT FOR TYPE monitoring.sketch USING hash AS
	OPERATOR 1 monitoring.= (monitoring.sketch, monitoring.sketch),
	FUNCTION 1 monitoring.sketch_hash(monitoring.sketch),
	FUNCTION 2 monitoring.sketch_hash_extended(monitoring.sketch, bigint);
COMMENT ON OPERATOR CLASS monitoring.sketch_hash_ops USING hash IS 'hashing of sketches';
COMMENT ON OPERATOR FAMILY monitoring.sketch_hash_ops USING hash IS 'hashing of sketches';

-- What a sketch knows.

CREATE FUNCTION monitoring.sketch_count(sketch monitoring.sketch) RETURNS bigint
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_count';
CREATE FUNCTION monitoring.sketch_sum(sketch monitoring.sketch) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_sum';
CREATE FUNCTION monitoring.sketch_avg(sketch monitoring.sketch) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_avg';
CREATE FUNCTION monitoring.sketch_min(sketch monitoring.sketch) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_min';
CREATE FUNCTION monitoring.sketch_max(sketch monitoring.sketch) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_max';
CREATE FUNCTION monitoring.sketch_stddev(sketch monitoring.sketch) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_stddev';
CREATE FUNCTION monitoring.share_below(sketch monitoring.sketch, x float8) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_share_below';
CREATE FUNCTION monitoring.percentile(sketch monitoring.sketch, q float8) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_percentile';
CREATE FUNCTION monitoring.percentiles(sketch monitoring.sketch, q float8[]) RETURNS float8[]
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_percentiles';
CREATE FUNCTION monitoring.max_relative_error(sketch monitoring.sketch) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_max_relative_error';

COMMENT ON FUNCTION monitoring.sketch_count(monitoring.sketch) IS
	'How many values the sketch holds; exact.';
COMMENT ON FUNCTION monitoring.sketch_sum(monitoring.sketch) IS
	'Sum of the values of the sketch, exact but for float8 rounding; Infinity when it is beyond float8, 0 for an empty sketch.';
COMMENT ON FUNCTION monitoring.sketch_avg(monitoring.sketch) IS
	'Mean of the values of the sketch, exact but for float8 rounding; NULL for an empty sketch.';
COMMENT ON FUNCTION monitoring.sketch_min(monitoring.sketch) IS
	'Smallest value of the sketch; exact; NULL for an empty sketch.';
COMMENT ON FUNCTION monitoring.sketch_max(monitoring.sketch) IS
	'Largest value of the sketch; exact; NULL for an empty sketch.';
COMMENT ON FUNCTION monitoring.sketch_stddev(monitoring.sketch) IS
	'Standard deviation of the population (as stddev_pop), estimated: off by at most max_relative_error(sketch) times the root mean square of the values. NULL for an empty sketch.';
COMMENT ON FUNCTION monitoring.share_below(monitoring.sketch, float8) IS
	'Share (0..1) of the values that are <= x. Exact for an x outside minimum and maximum, for 0 and where x is the upper bound of a bucket of positive values, as powers of two are; otherwise the share at the lower or the upper bound of the bucket that holds x, within 0.55 % of x at the default resolution. NULL for an empty sketch; error 22003 for NaN.';
COMMENT ON FUNCTION monitoring.percentile(monitoring.sketch, float8) IS
	'Value at fraction q (0..1) of the sketch, as percentile_disc, within max_relative_error(sketch); q = 0 and 1 are exact. NULL for an empty sketch; error 22003 for a q outside 0..1.';
COMMENT ON FUNCTION monitoring.percentiles(monitoring.sketch, float8[]) IS
	'Values at several fractions (0..1) of the sketch in one pass: an array of the same shape, NULL where the fraction is NULL. Otherwise as percentile(sketch, float8).';
COMMENT ON FUNCTION monitoring.max_relative_error(monitoring.sketch) IS
	'Guaranteed relative error of the percentiles of this sketch, as a ratio: 0.005415 unless values of one sign are further apart than 1 : 1.8e19. It does not hold for magnitudes below 2.3e-308.';

-- Aggregates.

CREATE FUNCTION monitoring.sketch_trans(internal, float8) RETURNS internal
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_trans';
CREATE FUNCTION monitoring.sketch_merge_trans(internal, monitoring.sketch) RETURNS internal
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_merge_trans';
CREATE FUNCTION monitoring.sketch_combine(internal, internal) RETURNS internal
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_combine';
CREATE FUNCTION monitoring.sketch_serialize(internal) RETURNS bytea
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_serialize';
CREATE FUNCTION monitoring.sketch_deserialize(bytea, internal) RETURNS internal
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_deserialize';
CREATE FUNCTION monitoring.sketch_final(internal) RETURNS monitoring.sketch
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_final';

COMMENT ON FUNCTION monitoring.sketch_trans(internal, float8) IS
	'Transition function of the aggregate sketch(float8). Error 22003 for NaN and infinities.';
COMMENT ON FUNCTION monitoring.sketch_merge_trans(internal, monitoring.sketch) IS
	'Transition function of the aggregate merge(sketch).';
COMMENT ON FUNCTION monitoring.sketch_combine(internal, internal) IS
	'Combine function of the sketch aggregates.';
COMMENT ON FUNCTION monitoring.sketch_serialize(internal) IS
	'Serialisation function of the sketch aggregates.';
COMMENT ON FUNCTION monitoring.sketch_deserialize(bytea, internal) IS
	'Deserialisation function of the sketch aggregates.';
COMMENT ON FUNCTION monitoring.sketch_final(internal) IS
	'Final function of the sketch aggregates.';

CREATE AGGREGATE monitoring.sketch(float8) (
	SFUNC = monitoring.sketch_trans,
	STYPE = internal,
	SSPACE = 4096,
	FINALFUNC = monitoring.sketch_final,
	COMBINEFUNC = monitoring.sketch_combine,
	SERIALFUNC = monitoring.sketch_serialize,
	DESERIALFUNC = monitoring.sketch_deserialize,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE monitoring.sketch(float8) IS
	'The sketch of the values; NULLs are skipped, NULL without values. Error 22003 for NaN and infinities.';

CREATE AGGREGATE monitoring.merge(monitoring.sketch) (
	SFUNC = monitoring.sketch_merge_trans,
	STYPE = internal,
	SSPACE = 4096,
	FINALFUNC = monitoring.sketch_final,
	COMBINEFUNC = monitoring.sketch_combine,
	SERIALFUNC = monitoring.sketch_serialize,
	DESERIALFUNC = monitoring.sketch_deserialize,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE monitoring.merge(monitoring.sketch) IS
	'The sketch of all values of the sketches; NULLs are skipped, NULL without sketches.';

-- interchange: sketches to and from the histograms of other systems.

CREATE FUNCTION monitoring.to_otlp(sketch monitoring.sketch) RETURNS jsonb
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_to_otlp';
CREATE FUNCTION monitoring.from_otlp(point jsonb) RETURNS monitoring.sketch
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_from_otlp';
CREATE FUNCTION monitoring.to_prometheus(sketch monitoring.sketch) RETURNS jsonb
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_to_prometheus';
CREATE FUNCTION monitoring.from_prometheus(histogram jsonb) RETURNS monitoring.sketch
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_from_prometheus';

COMMENT ON FUNCTION monitoring.to_otlp(monitoring.sketch) IS
	'The sketch as a data point of an OTLP exponential histogram in JSON; from_otlp() gives back the same sketch. Labels and times are for the caller to add: to_otlp(s) || jsonb_build_object(''timeUnixNano'', ...).';
COMMENT ON FUNCTION monitoring.from_otlp(jsonb) IS
	'The sketch of a data point of an OTLP exponential histogram in JSON. Exact up to scale 8, above brought down to 8; the zero bucket counts as 0; a missing sum, min or max is estimated within max_relative_error(). Errors 22023 for what is no such point, 22003 for numbers out of range.';
COMMENT ON FUNCTION monitoring.to_prometheus(monitoring.sketch) IS
	'The sketch as a Prometheus native histogram (spans and deltas) in JSON: everything but min and max. Error 22003 for a scale below -4.';
COMMENT ON FUNCTION monitoring.from_prometheus(jsonb) IS
	'The sketch of a Prometheus native histogram (integer, exponential schema) in JSON. Exact but for min and max, which are estimated within max_relative_error(); the zero bucket counts as 0. Errors 22023 for what is no such histogram, 22003 for numbers out of range.';

-- Not STRICT: the sum may be NULL.
CREATE FUNCTION monitoring.from_buckets(bounds float8[], counts bigint[], sum float8 DEFAULT NULL)
	RETURNS monitoring.sketch
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_from_buckets';
CREATE FUNCTION monitoring.from_cumulative_buckets(bounds float8[], counts bigint[], sum float8 DEFAULT NULL)
	RETURNS monitoring.sketch
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_sketch_from_cumulative_buckets';
CREATE FUNCTION monitoring.from_buckets_relative_error(bounds float8[]) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_buckets_relative_error';
CREATE FUNCTION monitoring.from_buckets_relative_error(bounds float8[], counts bigint[], q float8) RETURNS float8
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_buckets_percentile_error';

COMMENT ON FUNCTION monitoring.from_buckets(float8[], bigint[], float8) IS
	'A sketch of a classic histogram (explicitBounds and bucketCounts of OTLP): counts[i] values above the bound before and up to bounds[i], and one more count for those above the last. Each bucket becomes one value; from_buckets_relative_error() says how far off percentiles can be. NULL without bounds or counts; without a sum it is estimated. Error 22023 for what is no histogram.';
COMMENT ON FUNCTION monitoring.from_cumulative_buckets(float8[], bigint[], float8) IS
	'A sketch of a Prometheus classic histogram: bounds are the values of le, the last one Infinity, and counts the values up to each. Otherwise as from_buckets().';
COMMENT ON FUNCTION monitoring.from_buckets_relative_error(float8[]) IS
	'Guaranteed relative error, as a ratio, of those percentiles of from_buckets() that lie between two bounds of the same sign, whatever the counts; NULL when there are no two such bounds.';
COMMENT ON FUNCTION monitoring.from_buckets_relative_error(float8[], bigint[], float8) IS
	'Guaranteed relative error, as a ratio, of percentile q of from_buckets(bounds, counts): Infinity when it lies in a bucket that reaches zero, 1 above the last bound. NULL without values.';

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
    indexes        text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE monitoring.retention_policies IS 'How long each partitioned table of this extension keeps its rows. Change keep to keep more or less; apply_retention() follows.';
COMMENT ON COLUMN monitoring.retention_policies.relation IS 'Table in the schema monitoring.';
COMMENT ON COLUMN monitoring.retention_policies.partition_step IS 'Time that one partition covers, without months and years. Applies to partitions made from now on.';
COMMENT ON COLUMN monitoring.retention_policies.premake IS 'Partitions to make ahead of the current one.';
COMMENT ON COLUMN monitoring.retention_policies.keep IS 'A partition is dropped when all of it is older than this.';
COMMENT ON COLUMN monitoring.retention_policies.guard IS 'Schema-qualified name of a function f(relation text) returning timestamptz: a partition is dropped only when all of it is older than that, whatever keep says. NULL: no such condition.';
COMMENT ON COLUMN monitoring.retention_policies.enabled IS 'False: partitions are still made ahead but never dropped.';

COMMENT ON COLUMN monitoring.retention_policies.indexes IS 'What every partition gets besides the indexes of the table: PRIMARY KEY (columns), or what follows CREATE INDEX ON partition.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.retention_policies', '');

-- pg_dump carries all policies; those that CREATE EXTENSION has just made take over what the restored row says.
CREATE FUNCTION monitoring.restore_policy() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE monitoring.retention_policies p
    SET partition_step = NEW.partition_step, premake = NEW.premake, keep = NEW.keep, enabled = NEW.enabled
    WHERE p.relation = NEW.relation;
    RETURN CASE WHEN FOUND THEN NULL ELSE NEW END;
END
$$;
COMMENT ON FUNCTION monitoring.restore_policy() IS 'Trigger: a policy that a dump brings and that exists is changed to what the dump says.';

CREATE TRIGGER restore BEFORE INSERT ON monitoring.retention_policies
FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
EXECUTE FUNCTION monitoring.restore_policy();
COMMENT ON TRIGGER restore ON monitoring.retention_policies IS 'Takes over changed policies when a dump is restored.';

CREATE FUNCTION monitoring.partition_range(partition oid) RETURNS tstzrange
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO'
AS $$
    SELECT tstzrange((regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1]::timestamptz,
                     (regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1]::timestamptz)
    FROM pg_class c
    CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
    WHERE c.oid = $1 AND c.relispartition
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
CREATE FUNCTION monitoring.make_partition(relation text, at timestamptz, since timestamptz, until timestamptz, partition text)
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
    EXECUTE format('LOCK TABLE ONLY monitoring.%I IN SHARE UPDATE EXCLUSIVE MODE', relation);
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
    EXECUTE format('ALTER TABLE monitoring.%I ATTACH PARTITION monitoring.%I FOR VALUES FROM (%L) TO (%L)',
                   relation, partition, since, until);
    RETURN partition;
END
$$;
COMMENT ON FUNCTION monitoring.make_partition(text, timestamptz, timestamptz, timestamptz, text) IS 'Make a partition that holds the given time and reaches from since to until at most. Returns its name, or that of the one which has been made meanwhile. Errors: another session is at it for 5 seconds (55P03).';

CREATE FUNCTION monitoring.ensure_partition(relation text, at timestamptz) RETURNS text
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
    RETURN monitoring.make_partition(relation, at, since, since + step, part);
END
$$;
COMMENT ON FUNCTION monitoring.ensure_partition(text, timestamptz) IS 'Make the partition of a table that holds the given time, if it does not exist. Returns its name. Errors: no retention policy (42704), no such table (42P01), another session is making one for 5 seconds (55P03).';

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

-- First all that may wait, then all that locks readers out: nobody queues
-- behind a lock that waits for another.  What fails for one table does not
-- keep the others from being served.
CREATE FUNCTION monitoring.apply_retention(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (relation text, made int, dropped int, busy int, error text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy  monitoring.retention_policies;
    part    record;
    drop_before timestamptz;
    existed bigint;
    created jsonb := '{}';
    failed  jsonb := '{}';
BEGIN
    IF at IS NULL OR NOT isfinite(at) THEN
        RAISE EXCEPTION 'at must be a finite time' USING ERRCODE = 'datetime_field_overflow';
    END IF;
    FOR policy IN SELECT r.* FROM monitoring.retention_policies r ORDER BY r.relation LOOP
        BEGIN
            existed := (SELECT count(*) FROM monitoring.partitions(policy.relation));
            PERFORM monitoring.ensure_partition(policy.relation, at + i * policy.partition_step)
            FROM generate_series(0, policy.premake) i;
            created := created || jsonb_build_object(policy.relation,
                (SELECT count(*) FROM monitoring.partitions(policy.relation)) - existed);
        EXCEPTION WHEN OTHERS THEN
            failed := failed || jsonb_build_object(policy.relation, SQLERRM);
            RAISE WARNING 'partitions of "%" could not be made: %', policy.relation, SQLERRM;
        END;
    END LOOP;

    FOR policy IN SELECT r.* FROM monitoring.retention_policies r ORDER BY r.relation LOOP
        relation := policy.relation;
        made := coalesce((created ->> policy.relation)::int, 0);
        dropped := 0;
        busy := 0;
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
COMMENT ON FUNCTION monitoring.apply_retention(timestamptz) IS 'Make partitions ahead and drop those whose rows are all older than their policy keeps, as of the given time. Returns per table how many were made, dropped, and left for the next run because the table was in use (busy), and why none could be made (error).';

CREATE FUNCTION monitoring.apply_retention_job(at timestamptz) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT monitoring.apply_retention($1) $$;
COMMENT ON FUNCTION monitoring.apply_retention_job(timestamptz) IS 'The periodic job that applies retention.';

-- metrics: recording, storage and reading of metrics.

CREATE TABLE monitoring.metric_catalog (
    metric      text PRIMARY KEY,
    kind        smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    first_seen  timestamptz NOT NULL DEFAULT clock_timestamp(),
    unit        text,
    description text,
    max_series  int CHECK (max_series > 0),
    scale       smallint NOT NULL DEFAULT 6 CHECK (scale BETWEEN 0 AND 8),
    defined     boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.metric_catalog IS 'Every metric that was ever stored or defined; kind 1 counter, 2 gauge, 3 distribution. unit, description, max_series and scale are what define_metric() said, when defined.';
COMMENT ON COLUMN monitoring.metric_catalog.metric IS 'Name of the metric.';
COMMENT ON COLUMN monitoring.metric_catalog.kind IS '1 counter, 2 gauge, 3 distribution.';
COMMENT ON COLUMN monitoring.metric_catalog.first_seen IS 'When it was first stored or defined.';
COMMENT ON COLUMN monitoring.metric_catalog.unit IS 'Unit of its values, as defined.';
COMMENT ON COLUMN monitoring.metric_catalog.description IS 'What it measures, as defined.';
COMMENT ON COLUMN monitoring.metric_catalog.max_series IS 'Series it may have in memory; null for monitoring.max_series.';
COMMENT ON COLUMN monitoring.metric_catalog.scale IS 'Resolution of a distribution''s sketches.';
COMMENT ON COLUMN monitoring.metric_catalog.defined IS 'True once define_metric() was called for it.';

CREATE TABLE monitoring.series_catalog (
    series_id  bigint PRIMARY KEY,
    metric     text NOT NULL,
    labels     jsonb NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX series_catalog_metric_idx ON monitoring.series_catalog (metric);
COMMENT ON TABLE monitoring.series_catalog IS 'Every series that was ever stored. series_id is a hash of metric and labels, the same on every server.';
COMMENT ON COLUMN monitoring.series_catalog.series_id IS 'Hash of metric and labels.';
COMMENT ON COLUMN monitoring.series_catalog.metric IS 'Name of the metric.';
COMMENT ON COLUMN monitoring.series_catalog.labels IS 'Labels of the series in canonical form: every value is text.';
COMMENT ON COLUMN monitoring.series_catalog.first_seen IS 'When it was first stored.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.metric_catalog', '');
SELECT pg_catalog.pg_extension_config_dump('monitoring.series_catalog', '');

CREATE TABLE monitoring.segments (
    slot_start timestamptz NOT NULL,
    seq        bigint NOT NULL,
    part       int NOT NULL,
    series     int NOT NULL,
    first_id   bigint NOT NULL,
    last_id    bigint NOT NULL,
    directory  bytea NOT NULL,
    points     bytea NOT NULL
) PARTITION BY RANGE (slot_start);
ALTER TABLE monitoring.segments ALTER directory SET STORAGE EXTERNAL, ALTER points SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.segments IS 'Observations as they were flushed: a row per flush and 10-second slot, of all series, or of a range of series ids where there are many. The format is described in src/metrics/segment.c; read it with value() and query().';

CREATE TABLE monitoring.minutes (
    slot_start timestamptz NOT NULL,
    seq        bigint NOT NULL,
    part       int NOT NULL,
    series     int NOT NULL,
    first_id   bigint NOT NULL,
    last_id    bigint NOT NULL,
    directory  bytea NOT NULL,
    points     bytea NOT NULL
) PARTITION BY RANGE (slot_start);
ALTER TABLE monitoring.minutes ALTER directory SET STORAGE EXTERNAL, ALTER points SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.minutes IS 'One-minute points of the last hours: the segments of each minute merged, in the same format. seq is the last flush when it was made.';

CREATE TABLE monitoring.chunks (
    series_id bigint NOT NULL,
    period    timestamptz NOT NULL,
    data      bytea NOT NULL
) PARTITION BY RANGE (period);
ALTER TABLE monitoring.chunks ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.chunks IS 'One-minute points: a row per series and hour (period is its start). The format is described in src/metrics/chunk_codec.c.';

CREATE TABLE monitoring.hourly (
    series_id bigint NOT NULL,
    period    timestamptz NOT NULL,
    data      bytea NOT NULL
) PARTITION BY RANGE (period);
ALTER TABLE monitoring.hourly ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.hourly IS 'Hourly points: a row per series and day, made from chunks. Same format.';

CREATE TABLE monitoring.daily (
    series_id bigint NOT NULL,
    period    timestamptz NOT NULL,
    data      bytea NOT NULL
) PARTITION BY RANGE (period);
ALTER TABLE monitoring.daily ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.daily IS 'Daily points: a row per series and month, made from hourly. Same format.';

CREATE TABLE monitoring.late (
    series_id bigint NOT NULL,
    period    timestamptz NOT NULL,
    seq       bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    data      bytea NOT NULL,
    PRIMARY KEY (series_id, period, seq)
);
ALTER TABLE monitoring.late ALTER data SET STORAGE EXTERNAL;
CREATE INDEX late_period_idx ON monitoring.late (period);
COMMENT ON TABLE monitoring.late IS 'One-minute points that came after their time, in the format of chunks. Reads add them; compaction works them into the chunk of their hour and deletes them.';

CREATE TABLE monitoring.late_series (
    seq          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    series_id    bigint NOT NULL,
    metric       text NOT NULL,
    kind         smallint NOT NULL,
    labels       jsonb NOT NULL,
    observations bigint NOT NULL
);
CREATE INDEX late_series_metric_idx ON monitoring.late_series (metric);
COMMENT ON TABLE monitoring.late_series IS 'Series of late rows that were committed since the last flush, and how many observations: the next flush enters them into the catalogs and counts them. Who records what is late waits for no other transaction so, and none for it.';

COMMENT ON COLUMN monitoring.segments.slot_start IS 'Start of the 10-second slot.';
COMMENT ON COLUMN monitoring.segments.seq IS 'Number of the flush that wrote the row.';
COMMENT ON COLUMN monitoring.segments.part IS 'Number of the row among those of the same slot and flush: a large one is divided.';
COMMENT ON COLUMN monitoring.segments.series IS 'How many series the row holds.';
COMMENT ON COLUMN monitoring.segments.directory IS 'Ids of the series in ascending order, each with the offset of its point.';
COMMENT ON COLUMN monitoring.segments.points IS 'One encoded point per series, in the order of the directory.';

CREATE TABLE monitoring.flush_state (
    only_row   boolean PRIMARY KEY CHECK (only_row),
    seq        bigint NOT NULL,
    sealed_at  timestamptz NOT NULL,
    flushed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE monitoring.flush_state IS 'Number and time of the last flush; advanced in the transaction that writes its segments. What was observed before sealed_at is stored.';

CREATE TABLE monitoring.compaction_state (
    only_row    boolean PRIMARY KEY CHECK (only_row),
    minutes     timestamptz NOT NULL,
    chunks      timestamptz NOT NULL,
    hourly      timestamptz NOT NULL,
    daily       timestamptz NOT NULL,
    chunks_next bigint,
    hourly_next bigint,
    daily_next  bigint
);
COMMENT ON TABLE monitoring.compaction_state IS 'How far each level of storage is complete: everything before the time. The columns _next say with which series the work on the next period goes on, when it has begun.';

CREATE FUNCTION monitoring.compacted_before(relation text) RETURNS timestamptz
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT CASE relation WHEN 'segments' THEN c.minutes WHEN 'minutes' THEN c.chunks
                                          WHEN 'chunks' THEN least(c.hourly, (SELECT min(l.period) FROM monitoring.late l))
                                          WHEN 'hourly' THEN c.daily END
                     FROM monitoring.compaction_state c), '-infinity')
$$;
COMMENT ON FUNCTION monitoring.compacted_before(text) IS 'The time before which everything in a table of metrics has been taken over by the next coarser one, late points included; guards retention.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, guard, indexes) VALUES
('segments', '1 hour', 2, '3 hours', 'monitoring.compacted_before', '{"PRIMARY KEY (slot_start, seq, part)"}'),
('minutes', '1 hour', 2, '3 hours', 'monitoring.compacted_before', '{"PRIMARY KEY (slot_start, part)"}'),
('chunks', '1 day', 2, '90 days', 'monitoring.compacted_before', '{"PRIMARY KEY (series_id, period)"}'),
('hourly', '30 days', 1, '400 days', 'monitoring.compacted_before', '{"PRIMARY KEY (series_id, period)"}'),
('daily', '360 days', 1, '5 years', NULL, '{"PRIMARY KEY (series_id, period)"}');

-- Between two sessions of a parallel restore a worker may have flushed or compacted: what the dump says holds.
CREATE FUNCTION monitoring.restore_state() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('DELETE FROM monitoring.%I', TG_TABLE_NAME);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION monitoring.restore_state() IS 'Trigger: the state that a dump brings replaces the one that is there.';

CREATE TRIGGER restore BEFORE INSERT ON monitoring.flush_state
FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
EXECUTE FUNCTION monitoring.restore_state();
COMMENT ON TRIGGER restore ON monitoring.flush_state IS 'Takes over the state of flushes when a dump is restored.';
CREATE TRIGGER restore BEFORE INSERT ON monitoring.compaction_state
FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
EXECUTE FUNCTION monitoring.restore_state();
COMMENT ON TRIGGER restore ON monitoring.compaction_state IS 'Takes over the watermarks when a dump is restored.';

SELECT pg_catalog.pg_extension_config_dump('monitoring.flush_state', '');
SELECT pg_catalog.pg_extension_config_dump('monitoring.compaction_state', '');
SELECT pg_catalog.pg_extension_config_dump('monitoring.late', '');
SELECT pg_catalog.pg_extension_config_dump('monitoring.late_seq_seq', '');
SELECT pg_catalog.pg_extension_config_dump('monitoring.late_series', '');
SELECT pg_catalog.pg_extension_config_dump('monitoring.late_series_seq_seq', '');
COMMENT ON COLUMN monitoring.flush_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.flush_state.seq IS 'Number of the last flush that committed.';
COMMENT ON COLUMN monitoring.flush_state.flushed_at IS 'When it ran.';

-- Nothing in memory may remain of an extension that was dropped before.
CREATE FUNCTION monitoring.forget_database() RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'mon_forget_database';
COMMENT ON FUNCTION monitoring.forget_database() IS 'Forget all metrics of this database that are in memory. Used when the extension is created.';
SELECT monitoring.forget_database();

-- Recording

CREATE FUNCTION monitoring.record(metric text, value float8, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_record';
COMMENT ON FUNCTION monitoring.record(text, float8, jsonb) IS 'Record one observation of a distribution, such as a duration in seconds. Counts even if the transaction rolls back, unless monitoring.transactional is on. NaN and infinite values are refused and counted in monitoring.self. Labels are a JSON object of at most 64 scalars and 4096 bytes. A null argument records nothing. Beyond monitoring.max_series or monitoring.shared_memory the observation goes to the metric''s series {"overflow": "true"}, without an error. Errors: invalid metric name (42602), invalid labels (22023), the metric is of another kind (42809), library not preloaded (55000).';

CREATE FUNCTION monitoring.increment(metric text, by float8 DEFAULT 1, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_increment';
COMMENT ON FUNCTION monitoring.increment(text, float8, jsonb) IS 'Add to a counter: the number of events since the last call, or an amount such as bytes; not the total so far. by must not be negative (22023). Otherwise as record().';

CREATE FUNCTION monitoring.set_gauge(metric text, value float8, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_set_gauge';
COMMENT ON FUNCTION monitoring.set_gauge(text, float8, jsonb) IS 'Set a gauge: a value that goes up and down, such as a queue length. Every call is kept in count, avg, min and max of its slot; last is the latest. Otherwise as record().';

CREATE FUNCTION monitoring.flush() RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_flush';
COMMENT ON FUNCTION monitoring.flush() IS 'Write what is in memory to storage now, in this transaction. Returns the number of points written, one per series and 10-second slot. The worker does this every monitoring.flush_interval; reads never need it. Errors: on a standby or in a read-only transaction (25006), library not preloaded (55000).';

CREATE FUNCTION monitoring.flush_job(at timestamptz) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mon_flush_job';
COMMENT ON FUNCTION monitoring.flush_job(timestamptz) IS 'The periodic job that flushes metrics; does nothing when another flush is under way.';

CREATE FUNCTION monitoring.compact(at timestamptz DEFAULT clock_timestamp()) RETURNS bigint
LANGUAGE c STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_compact';
COMMENT ON FUNCTION monitoring.compact(timestamptz) IS 'Flush, then compact all metrics observed before a time: segments to minutes, full hours to chunks, full days to hourly and full months to daily points. Returns the number of rows written. The worker does this by itself, a bounded amount at a time; reads never need it. What is observed before that time from now on is late, which is allowed but costs more.';

CREATE FUNCTION monitoring.compact_job(at timestamptz) RETURNS void
LANGUAGE c STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_compact_job';
COMMENT ON FUNCTION monitoring.compact_job(timestamptz) IS 'The periodic job that compacts metrics, for about a second at most; does nothing while compact() is under way.';

CREATE FUNCTION monitoring.record_at(metric text, value float8, at timestamptz, labels jsonb DEFAULT '{}', kind text DEFAULT 'distribution') RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_record_at';
COMMENT ON FUNCTION monitoring.record_at(text, float8, timestamptz, jsonb, text) IS 'Record an observation that was made at another time: as record(), increment() or set_gauge() by kind distribution, counter or gauge. Up to a minute ago it is recorded as they do; what is older is stored when the transaction commits (in one-minute points), and rolls back with it. Errors besides theirs: more than a minute in the future, or older than one-minute points are kept (22008), unknown kind (22023).';

-- Many observations at once

CREATE FUNCTION monitoring.record_values(metric text, observations float8[], labels jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_record_values';
COMMENT ON FUNCTION monitoring.record_values(text, float8[], jsonb) IS 'Record many observations of one series of a distribution, the fastest way there is. Returns how many were recorded: NaN and infinite values are refused and counted in monitoring.self. Otherwise as record(). Errors besides its: a null element (22004).';

CREATE FUNCTION monitoring.record_batch(metrics text[], observations float8[], labels jsonb[] DEFAULT NULL,
                                        kinds text[] DEFAULT NULL, times timestamptz[] DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_record_batch';
COMMENT ON FUNCTION monitoring.record_batch(text[], float8[], jsonb[], text[], timestamptz[]) IS 'Record a batch: the elements at one position of the arrays are an observation, as in record_at(). Without labels, kinds or times they are {}, distribution and now. All are recorded or, after an error, none; the error''s context says which element it was. Returns how many were recorded: NaN and infinite values are refused and counted. Errors besides those of record_at(): arrays of different lengths or several dimensions (2202E), a null element (22004).';

CREATE FUNCTION monitoring.record_json(batch jsonb) RETURNS bigint
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_record_json';
COMMENT ON FUNCTION monitoring.record_json(jsonb) IS 'Record a batch given as a JSON array of objects: metric and value, and if need be labels ({}), kind (distribution) and ts (now; text with a time, or seconds since 1970). As record_batch(). Errors besides its: an object of another form (22023).';

CREATE FUNCTION monitoring.ingest_row() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'mon_ingest_row';
COMMENT ON FUNCTION monitoring.ingest_row() IS 'The trigger that records what is inserted into the view ingest.';

CREATE VIEW monitoring.ingest AS
SELECT NULL::text AS metric, NULL::float8 AS value, NULL::jsonb AS labels, NULL::text AS kind, NULL::timestamptz AS ts
WHERE false;
COMMENT ON VIEW monitoring.ingest IS 'Rows inserted here, by COPY, INSERT or a driver''s bulk insert, are observations: as record_at(), with labels {}, kind distribution and the time now where those are null or left out. It has no rows to be selected. An error ends the statement; rows before it are recorded unless monitoring.transactional is on or they are more than a minute old.';

COMMENT ON COLUMN monitoring.ingest.metric IS 'Name of the metric.';
COMMENT ON COLUMN monitoring.ingest.value IS 'What was observed.';
COMMENT ON COLUMN monitoring.ingest.labels IS 'Labels, a JSON object of scalars; null for none.';
COMMENT ON COLUMN monitoring.ingest.kind IS 'counter, gauge or distribution; null for distribution.';
COMMENT ON COLUMN monitoring.ingest.ts IS 'When it was observed; null for now.';

CREATE TRIGGER ingest_row INSTEAD OF INSERT ON monitoring.ingest
FOR EACH ROW EXECUTE FUNCTION monitoring.ingest_row();

-- Definitions

CREATE FUNCTION monitoring.pin_definition(metric text, kind text, max_series int, scale int) RETURNS smallint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_pin_definition';
COMMENT ON FUNCTION monitoring.pin_definition(text, text, int, int) IS 'Check a definition and apply it to the metrics in memory when the transaction commits; part of define_metric(). Returns the kind as the catalog has it.';

CREATE FUNCTION monitoring.define_metric(metric text, kind text, unit text DEFAULT NULL, description text DEFAULT NULL,
                                         max_series int DEFAULT NULL, scale int DEFAULT 6) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    code smallint;
BEGIN
    code := monitoring.pin_definition(metric, kind, max_series, scale);
    INSERT INTO monitoring.metric_catalog AS m (metric, kind, unit, description, max_series, scale, defined)
    VALUES (define_metric.metric, code, define_metric.unit, define_metric.description, define_metric.max_series,
            define_metric.scale, true)
    ON CONFLICT ON CONSTRAINT metric_catalog_pkey DO UPDATE
    SET unit = EXCLUDED.unit, description = EXCLUDED.description, max_series = EXCLUDED.max_series,
        scale = EXCLUDED.scale, defined = true
    WHERE m.kind = EXCLUDED.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'metric "%" exists already with another kind', metric USING ERRCODE = 'wrong_object_type';
    END IF;
END
$$;
COMMENT ON FUNCTION monitoring.define_metric(text, text, text, text, int, int) IS 'Say what a metric is: its kind (counter, gauge or distribution), unit and meaning, how many series it may have in memory (instead of monitoring.max_series), and the resolution of a distribution: at scale 6 percentiles are within 0.54 %, each step up to 8 halves the error and down to 0 doubles it. Called again it replaces all but the kind. Takes effect when the transaction commits, the scale with the next slot of 10 seconds; a metric need not be defined to be recorded. Errors: invalid name (42602), unknown kind, scale outside 0 to 8, limit below 1 (22023), the metric is of another kind (42809).';

-- Reading

CREATE FUNCTION monitoring.labels_match(labels jsonb, selector jsonb) RETURNS boolean
LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_labels_match';
COMMENT ON FUNCTION monitoring.labels_match(jsonb, jsonb) IS 'Whether labels match a selector: an object whose scalars are the values asked for, and whose objects hold conditions by operator, as in {"route": "/cart", "status": {"!~": "2.."}, "tenant": {"exists": true}}. =, !=, =~ and !~ take a missing label for an empty one; regular expressions (PostgreSQL''s) have to match the whole value. Errors: not such an object (22023), invalid regular expression (2201B).';

CREATE FUNCTION monitoring.check_fn(fn text) RETURNS void
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_check_fn';
COMMENT ON FUNCTION monitoring.check_fn(text) IS 'Error 22023 unless value() knows the function: count, sum, avg, min, max, first, last, delta, rate, increase, series, stddev, share_below(x), apdex(t), or a percentile such as p95 or p99.9.';

CREATE FUNCTION monitoring.value(metric text, fn text, over interval DEFAULT '5 minutes', labels jsonb DEFAULT '{}',
                                 at timestamptz DEFAULT clock_timestamp()) RETURNS float8
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_value';
COMMENT ON FUNCTION monitoring.value(text, text, interval, jsonb, timestamptz) IS 'One number over the window that ends at a time, of all series whose labels match a selector (labels_match) taken together. fn: count, sum, avg; min, max; first and last in time and delta = last - first (gauges); rate (per second) and increase, of a counter''s sum or a distribution''s count; series, the number of series with data; and from the sketch of a distribution: a percentile (p50, p95, p99.9; relative error at most 0.5415 %), stddev (of the population; off by at most 0.5415 % of the root mean square of the values), share_below(x) = the share of values <= x (exact where x is a bound of a bucket, 2^(i/64), otherwise that of the lower or the upper bound of the bucket that holds x, within 0.55 % of x), apdex(t) = (share_below(t) + share_below(4t)) / 2. NULL without data, also for a metric that does not exist. Counters have count (of calls), sum, avg, rate, increase and series; gauges count, sum, avg, min, max, first, last, delta and series; distributions all but first, last and delta. Time is kept in slots of 10 seconds; every slot that overlaps the window counts, and rate divides by the time they cover. What is older than a few hours or came late is kept in one-minute points, later in hours, then days: the beginning of the window is rounded down to what is left. Errors: unknown fn, window not longer than zero, invalid labels (22023), fn that does not go with the metric''s kind (42809), time that is not finite (22008).';

CREATE FUNCTION monitoring.percentile(metric text, q float8, over interval DEFAULT '5 minutes', labels jsonb DEFAULT '{}',
                                      at timestamptz DEFAULT clock_timestamp()) RETURNS float8
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_percentile';
COMMENT ON FUNCTION monitoring.percentile(text, float8, interval, jsonb, timestamptz) IS 'Percentile of a distribution over the window that ends at a time; q is 0..1 (22003 otherwise). The value of rank ceil(q * count), as percentile_disc gives it, with a relative error of at most 0.5415 %. NULL without data. Errors as value().';

CREATE FUNCTION monitoring.series_values(metric text, fn text, over interval, labels jsonb, by text[], at timestamptz)
RETURNS TABLE (series_labels jsonb, value float8)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_series_values';
COMMENT ON FUNCTION monitoring.series_values(text, text, interval, jsonb, text[], timestamptz) IS 'As value(), one row for each combination of the labels named in by that has data; labels a series lacks are left out of series_labels. Without labels in by it is one row, or none without data. Errors as value().';

CREATE FUNCTION monitoring.query(metric text, fn text, since timestamptz, until timestamptz, step interval,
                                 labels jsonb DEFAULT '{}', by text[] DEFAULT '{}')
RETURNS TABLE (bucket timestamptz, series_labels jsonb, value float8)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_query';
COMMENT ON FUNCTION monitoring.query(text, text, timestamptz, timestamptz, interval, jsonb, text[]) IS 'A time series for charts: a row per bucket of length step from since to until, and per combination of the labels named in by; value is NULL where there is no data. fn as in value(); rate is per second. Without data there are no groups, so no rows, unless by is empty. At most 100,000 buckets, and a million rows (54000); until must be later than since, step longer than zero (22023). Other errors as value(). Time is kept in slots of 10 seconds, which count in the bucket where they start; the first bucket starts with the slot of since, so that steps of a multiple of 10 seconds are exact.';

CREATE FUNCTION monitoring.rolling(metric text, fn text, since timestamptz, until timestamptz, step interval, over interval,
                                   labels jsonb DEFAULT '{}', by text[] DEFAULT '{}')
RETURNS TABLE (bucket timestamptz, series_labels jsonb, value float8)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_rolling';
COMMENT ON FUNCTION monitoring.rolling(text, text, timestamptz, timestamptz, interval, interval, jsonb, text[]) IS 'Moving windows: as query(), but the value of a bucket is that of the window of length over which ends where the bucket ends. Percentiles are those of all values in the window, by merging; every stored point is read once, however long the window is. A point counts in the windows in which it starts; rate divides by over. At most 100,000 steps (54000), those before since that the first window needs included. Otherwise as query().';

CREATE FUNCTION monitoring.sketch_over(metric text, over interval DEFAULT '5 minutes', labels jsonb DEFAULT '{}',
                                       at timestamptz DEFAULT clock_timestamp()) RETURNS monitoring.sketch
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_sketch_over';
COMMENT ON FUNCTION monitoring.sketch_over(text, interval, jsonb, timestamptz) IS 'The sketch of a distribution over the window that ends at a time, of all series whose labels match, for your own calculations. NULL without data. Errors as value(); the metric is no distribution (42809).';

CREATE FUNCTION monitoring.sketches(metric text, since timestamptz, until timestamptz, step interval,
                                    labels jsonb DEFAULT '{}', by text[] DEFAULT '{}')
RETURNS TABLE (bucket timestamptz, series_labels jsonb, sketch monitoring.sketch)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_sketches';
COMMENT ON FUNCTION monitoring.sketches(text, timestamptz, timestamptz, interval, jsonb, text[]) IS 'As query(), but with the sketch of each bucket instead of a value: NULL where there is no data. Errors as query(); the metric is no distribution (42809).';

CREATE FUNCTION monitoring.top(metric text, fn text, by text[], over interval DEFAULT '5 minutes', n int DEFAULT 10,
                               labels jsonb DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (series_labels jsonb, value float8)
LANGUAGE sql STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 10
AS $$
    SELECT v.series_labels, v.value
    FROM monitoring.series_values(metric, fn, over, labels, by, at) v
    ORDER BY v.value DESC, v.series_labels
    LIMIT n
$$;
COMMENT ON FUNCTION monitoring.top(text, text, text[], interval, int, jsonb, timestamptz) IS 'The n combinations of the labels named in by with the highest values, highest first: series_values() in order. Errors as value(); n is negative (2201W).';

CREATE FUNCTION monitoring.compare(metric text, fn text, over interval DEFAULT '5 minutes', shift interval DEFAULT '1 day',
                                   labels jsonb DEFAULT '{}', by text[] DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (series_labels jsonb, value float8, previous float8, change float8, ratio float8)
LANGUAGE sql STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100
AS $$
    SELECT coalesce(n.series_labels, p.series_labels), n.value, p.value, n.value - p.value, n.value / nullif(p.value, 0)
    FROM monitoring.series_values(metric, fn, over, labels, by, at) n
    FULL JOIN monitoring.series_values(metric, fn, over, labels, by, at - shift) p ON p.series_labels = n.series_labels
    ORDER BY 1
$$;
COMMENT ON FUNCTION monitoring.compare(text, text, interval, interval, jsonb, text[], timestamptz) IS 'The value over a window and over the one that ends shift earlier (yesterday, last week), as value(), one row for each combination of the labels named in by that has data in one of them. change = value - previous, ratio = value / previous (NULL when that is 0). Days and months of shift follow the calendar of the session''s time zone. Errors as value().';

CREATE FUNCTION monitoring.live_series()
RETURNS TABLE (series_id bigint, metric text, kind smallint, labels jsonb, is_overflow boolean, pending_slots int, last_recorded timestamptz)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_live_series';
COMMENT ON FUNCTION monitoring.live_series() IS 'The series of this database that are in memory, with the number of 10-second slots not yet freed and the time of the last observation.';

CREATE VIEW monitoring.series AS
SELECT coalesce(l.metric, c.metric) AS metric,
       coalesce(l.labels, c.labels) AS labels,
       CASE coalesce(l.kind, m.kind) WHEN 1 THEN 'counter' WHEN 2 THEN 'gauge' WHEN 3 THEN 'distribution' END AS kind,
       coalesce(l.series_id, c.series_id) AS series_id,
       l.series_id IS NOT NULL AS live,
       coalesce(l.is_overflow, c.labels = '{"overflow": "true"}') AS overflow,
       l.last_recorded,
       c.first_seen
FROM monitoring.series_catalog c
JOIN monitoring.metric_catalog m ON m.metric = c.metric
FULL JOIN monitoring.live_series() l ON l.series_id = c.series_id;
COMMENT ON VIEW monitoring.series IS 'Every series: its metric, labels and kind, whether it is live in memory, whether it collects what a full metric could not keep apart (overflow), when it was last recorded (while live) and first stored.';
COMMENT ON COLUMN monitoring.series.metric IS 'Name of the metric.';
COMMENT ON COLUMN monitoring.series.labels IS 'Labels of the series; every value is text.';
COMMENT ON COLUMN monitoring.series.kind IS 'counter, gauge or distribution.';
COMMENT ON COLUMN monitoring.series.series_id IS 'Hash of metric and labels, the same on every server.';
COMMENT ON COLUMN monitoring.series.live IS 'True if the series is in memory: recorded lately, or not yet stored.';
COMMENT ON COLUMN monitoring.series.overflow IS 'True for the series that collects what had no room of its own.';
COMMENT ON COLUMN monitoring.series.last_recorded IS 'Time of the last observation; null if the series is not live.';
COMMENT ON COLUMN monitoring.series.first_seen IS 'When it was first stored; null before the first flush.';

CREATE VIEW monitoring.metrics AS
SELECT coalesce(s.metric, m.metric) AS metric,
       coalesce(s.kind, CASE m.kind WHEN 1 THEN 'counter' WHEN 2 THEN 'gauge' WHEN 3 THEN 'distribution' END) AS kind,
       coalesce(s.series, 0) AS series, coalesce(s.live_series, 0) AS live_series,
       coalesce(s.overflowing, false) AS overflowing, s.last_recorded, coalesce(s.first_seen, m.first_seen) AS first_seen,
       m.unit, m.description, m.max_series, m.scale
FROM (SELECT e.metric, e.kind, count(*) AS series, count(*) FILTER (WHERE e.live) AS live_series,
             bool_or(e.overflow) AS overflowing, max(e.last_recorded) AS last_recorded, min(e.first_seen) AS first_seen
      FROM monitoring.series e
      GROUP BY e.metric, e.kind) s
FULL JOIN monitoring.metric_catalog m ON m.metric = s.metric;
COMMENT ON VIEW monitoring.metrics IS 'Every metric: its kind, how many series it has and how many of them are live in memory, whether some were folded into its overflow series, and what define_metric() said of it (max_series is null where the setting holds).';
COMMENT ON COLUMN monitoring.metrics.metric IS 'Name of the metric.';
COMMENT ON COLUMN monitoring.metrics.kind IS 'counter, gauge or distribution.';
COMMENT ON COLUMN monitoring.metrics.series IS 'Series, live or stored.';
COMMENT ON COLUMN monitoring.metrics.live_series IS 'Series in memory.';
COMMENT ON COLUMN monitoring.metrics.overflowing IS 'True if some label sets were folded into the overflow series.';
COMMENT ON COLUMN monitoring.metrics.last_recorded IS 'Time of the last observation; null if no series is live.';
COMMENT ON COLUMN monitoring.metrics.first_seen IS 'When it was first stored; null before the first flush.';
COMMENT ON COLUMN monitoring.metrics.unit IS 'Unit of its values, as defined.';
COMMENT ON COLUMN monitoring.metrics.description IS 'What it measures, as defined.';
COMMENT ON COLUMN monitoring.metrics.max_series IS 'Series it may have in memory; null for monitoring.max_series.';
COMMENT ON COLUMN monitoring.metrics.scale IS 'Resolution of a distribution''s sketches; null before the first flush.';

CREATE FUNCTION monitoring.self_values()
RETURNS TABLE (memory_bytes bigint, memory_used_bytes bigint, metrics bigint, series bigint, slots bigint,
               accepted bigint, persisted bigint, pending bigint, dropped bigint, overflow bigint, refused bigint,
               flushes bigint, slots_merged bigint, next_flush bigint)
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_self';
COMMENT ON FUNCTION monitoring.self_values() IS 'The counters behind the view self.';

CREATE VIEW monitoring.self AS
SELECT v.*, CASE WHEN v.memory_bytes > 0 THEN v.memory_used_bytes::float8 / v.memory_bytes::float8 END AS memory_used_ratio,
       f.flushed_at AS last_flush
FROM monitoring.self_values() v LEFT JOIN monitoring.flush_state f ON true;
COMMENT ON VIEW monitoring.self IS 'The extension measures itself. Memory is shared by all databases; the rest is of this database since the server started: metrics and series in memory, slots not yet freed, observations accepted = persisted (written and committed) + pending (in memory) + dropped (no memory); overflow counts those kept in overflow series, refused the NaN and infinite values, slots_merged the slots made coarser because no flush came.';
COMMENT ON COLUMN monitoring.self.memory_bytes IS 'Memory for metrics, of all databases: monitoring.shared_memory.';
COMMENT ON COLUMN monitoring.self.memory_used_bytes IS 'Memory in use, of all databases.';
COMMENT ON COLUMN monitoring.self.metrics IS 'Metrics in memory.';
COMMENT ON COLUMN monitoring.self.series IS 'Series in memory.';
COMMENT ON COLUMN monitoring.self.slots IS '10-second slots in memory that are not freed yet.';
COMMENT ON COLUMN monitoring.self.accepted IS 'Observations taken: persisted + pending + dropped. Those made more than a minute ago are taken by the flush that follows their commit.';
COMMENT ON COLUMN monitoring.self.persisted IS 'Observations written to storage by flushes that committed.';
COMMENT ON COLUMN monitoring.self.pending IS 'Observations that are in memory only. A value that grows and grows means that flushes fail.';
COMMENT ON COLUMN monitoring.self.dropped IS 'Observations lost because not even an overflow series had room.';
COMMENT ON COLUMN monitoring.self.overflow IS 'Observations recorded in an overflow series: counted, but without their labels.';
COMMENT ON COLUMN monitoring.self.refused IS 'NaN and infinite values, which are not recorded.';
COMMENT ON COLUMN monitoring.self.flushes IS 'Flushes.';
COMMENT ON COLUMN monitoring.self.slots_merged IS 'Slots made coarser than 10 seconds because no flush came for long.';
COMMENT ON COLUMN monitoring.self.next_flush IS 'Number of the next flush.';
COMMENT ON COLUMN monitoring.self.memory_used_ratio IS 'memory_used_bytes to memory_bytes, 0..1.';
COMMENT ON COLUMN monitoring.self.last_flush IS 'Time of the last flush that wrote something; null before.';

-- manage: what metrics cost, whether storage is sound, and deleting.

CREATE TABLE monitoring.deleted_series (
    series_id  bigint PRIMARY KEY,
    seq        bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE monitoring.deleted_series IS 'Series whose observations up to flush seq were deleted: rows of segments and minutes hold many series and are not rewritten, so reads and compaction leave these out. Emptied when those rows have gone.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.deleted_series', '');

CREATE FUNCTION monitoring.flush_before_delete() RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_flush_before_delete';
COMMENT ON FUNCTION monitoring.flush_before_delete() IS 'Hold off compaction and flushes until the transaction ends, and flush. Returns the number of the flush.';

CREATE FUNCTION monitoring.forget_series(series_ids bigint[]) RETURNS void
LANGUAGE c STRICT VOLATILE AS 'MODULE_PATHNAME', 'mon_forget_series';
COMMENT ON FUNCTION monitoring.forget_series(bigint[]) IS 'Take series out of memory when the transaction commits; those that are recorded again by then are entered into the catalog anew.';

CREATE FUNCTION monitoring.delete_observations(series_ids bigint[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    flushed bigint := monitoring.flush_before_delete();
BEGIN
    -- The clock may have stepped back: kept as long as the rows that hold what was deleted.
    INSERT INTO monitoring.deleted_series (series_id, seq, deleted_at)
    SELECT i, flushed, greatest(clock_timestamp(), (SELECT max(s.slot_start) FROM monitoring.segments s),
                                (SELECT max(m.slot_start) FROM monitoring.minutes m))
    FROM unnest(series_ids) i ORDER BY i
    ON CONFLICT (series_id) DO UPDATE SET seq = EXCLUDED.seq, deleted_at = EXCLUDED.deleted_at;
    DELETE FROM monitoring.chunks c WHERE c.series_id = ANY (series_ids);
    DELETE FROM monitoring.hourly h WHERE h.series_id = ANY (series_ids);
    DELETE FROM monitoring.daily d WHERE d.series_id = ANY (series_ids);
    DELETE FROM monitoring.late l WHERE l.series_id = ANY (series_ids);
END
$$;
COMMENT ON FUNCTION monitoring.delete_observations(bigint[]) IS 'Delete everything observed of some series until now, in all levels of storage.';

CREATE FUNCTION monitoring.reset(metric text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids bigint[];
BEGIN
    PERFORM monitoring.flush_before_delete();
    ids := ARRAY(SELECT s.series_id FROM monitoring.series_catalog s WHERE s.metric = reset.metric);
    IF ids = '{}' THEN
        RAISE EXCEPTION 'metric "%" does not exist', metric USING ERRCODE = 'undefined_object';
    END IF;
    PERFORM monitoring.delete_observations(ids);
    RETURN cardinality(ids);
END
$$;
COMMENT ON FUNCTION monitoring.reset(text) IS 'Delete everything observed of a metric until now; the metric and its series stay known. Returns the number of series. Error: no such metric (42704).';

CREATE FUNCTION monitoring.delete_series(metric text, labels jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids bigint[];
BEGIN
    PERFORM monitoring.flush_before_delete();
    ids := ARRAY(SELECT s.series_id FROM monitoring.series_catalog s
                 WHERE s.metric = delete_series.metric AND monitoring.labels_match(s.labels, delete_series.labels));
    PERFORM monitoring.delete_observations(ids);
    DELETE FROM monitoring.series_catalog s WHERE s.series_id = ANY (ids);
    DELETE FROM monitoring.metric_catalog m
    WHERE m.metric = delete_series.metric AND NOT m.defined
      AND NOT EXISTS (SELECT FROM monitoring.series_catalog s WHERE s.metric = m.metric);
    PERFORM monitoring.forget_series(ids);
    RETURN cardinality(ids);
END
$$;
COMMENT ON FUNCTION monitoring.delete_series(text, jsonb) IS 'Delete the series of a metric that match labels (as in value()), with all that was observed of them and the labels themselves. Returns how many there were. What is recorded after it makes them anew.';

-- What storage costs

CREATE FUNCTION monitoring.segment_entries(directory bytea, points bytea)
RETURNS TABLE (series_id bigint, bytes int)
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE ROWS 1000 AS 'MODULE_PATHNAME', 'mon_segment_entries';
COMMENT ON FUNCTION monitoring.segment_entries(bytea, bytea) IS 'The series that a row of segments or minutes holds, and the bytes that each takes. Error: corrupt (XX001).';

CREATE FUNCTION monitoring.chunk_points(data bytea) RETURNS int
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_chunk_points';
COMMENT ON FUNCTION monitoring.chunk_points(bytea) IS 'The number of points in a chunk of any level; NULL when it is corrupt.';

CREATE FUNCTION monitoring.segment_is_sound(directory bytea, points bytea) RETURNS boolean
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_segment_is_sound';
COMMENT ON FUNCTION monitoring.segment_is_sound(bytea, bytea) IS 'Whether every point of a row of segments or minutes can be read.';

CREATE VIEW monitoring.storage_usage AS
WITH entries AS (
    SELECT 'segments' AS level, e.series_id, 1 AS points, e.bytes
    FROM monitoring.segments s CROSS JOIN LATERAL monitoring.segment_entries(s.directory, s.points) e
    UNION ALL
    SELECT 'minutes', e.series_id, 1, e.bytes
    FROM monitoring.minutes m CROSS JOIN LATERAL monitoring.segment_entries(m.directory, m.points) e
    UNION ALL
    SELECT 'chunks', c.series_id, monitoring.chunk_points(c.data), pg_column_size(c.data) + 84 FROM monitoring.chunks c
    UNION ALL
    SELECT 'hourly', h.series_id, monitoring.chunk_points(h.data), pg_column_size(h.data) + 84 FROM monitoring.hourly h
    UNION ALL
    SELECT 'daily', d.series_id, monitoring.chunk_points(d.data), pg_column_size(d.data) + 84 FROM monitoring.daily d
    UNION ALL
    SELECT 'late', l.series_id, monitoring.chunk_points(l.data), pg_column_size(l.data) + 84 FROM monitoring.late l
)
SELECT c.metric, e.level, count(DISTINCT e.series_id) AS series, sum(e.points) AS points, sum(e.bytes) AS bytes,
       sum(e.bytes)::float8 / nullif(sum(e.points), 0) AS bytes_per_point
FROM entries e LEFT JOIN monitoring.series_catalog c ON c.series_id = e.series_id
GROUP BY c.metric, e.level;
COMMENT ON VIEW monitoring.storage_usage IS 'What each metric costs in each level of storage: series, points and bytes, the bytes of a row''s header and index entry included as 84. Reads all of storage. Series that were deleted and whose rows have not gone yet have a null metric.';

CREATE FUNCTION monitoring.check_storage()
RETURNS TABLE (relation text, series_id bigint, period timestamptz, problem text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'segments', NULL::bigint, s.slot_start, format('flush %s, part %s cannot be read', s.seq, s.part)
    FROM monitoring.segments s WHERE NOT monitoring.segment_is_sound(s.directory, s.points)
    UNION ALL
    SELECT 'minutes', NULL, m.slot_start, format('part %s cannot be read', m.part)
    FROM monitoring.minutes m WHERE NOT monitoring.segment_is_sound(m.directory, m.points)
    UNION ALL
    SELECT t.relation, t.series_id, t.period, 'the chunk cannot be read'
    FROM (SELECT 'chunks' AS relation, c.series_id, c.period, c.data FROM monitoring.chunks c
          UNION ALL SELECT 'hourly', h.series_id, h.period, h.data FROM monitoring.hourly h
          UNION ALL SELECT 'daily', d.series_id, d.period, d.data FROM monitoring.daily d
          UNION ALL SELECT 'late', l.series_id, l.period, l.data FROM monitoring.late l) t
    WHERE monitoring.chunk_points(t.data) IS NULL
    UNION ALL
    SELECT t.relation, t.series_id, t.period, 'the series is not in the catalog'
    FROM (SELECT 'segments' AS relation, e.series_id, s.slot_start AS period, s.seq
          FROM monitoring.segments s CROSS JOIN LATERAL monitoring.segment_entries(s.directory, s.points) e
          UNION ALL SELECT 'minutes', e.series_id, m.slot_start, m.seq
          FROM monitoring.minutes m CROSS JOIN LATERAL monitoring.segment_entries(m.directory, m.points) e
          UNION ALL SELECT 'chunks', c.series_id, c.period, NULL FROM monitoring.chunks c
          UNION ALL SELECT 'hourly', h.series_id, h.period, NULL FROM monitoring.hourly h
          UNION ALL SELECT 'daily', d.series_id, d.period, NULL FROM monitoring.daily d
          UNION ALL SELECT 'late', l.series_id, l.period, NULL FROM monitoring.late l) t
    WHERE NOT EXISTS (SELECT FROM monitoring.series_catalog s WHERE s.series_id = t.series_id)
      AND NOT EXISTS (SELECT FROM monitoring.late_series s WHERE s.series_id = t.series_id)
      AND NOT EXISTS (SELECT FROM monitoring.deleted_series s WHERE s.series_id = t.series_id AND t.seq <= s.seq)
$$;
COMMENT ON FUNCTION monitoring.check_storage() IS 'Read everything that is stored of metrics and list what is damaged; no rows when all is well. Reads of other series and times work all the same.';

-- worker: periodic jobs and the state of those who run them.

CREATE TABLE monitoring.jobs (
    name            text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    function        text NOT NULL CHECK (cardinality(parse_ident(function)) = 2),
    every           interval CHECK (every >= '1 millisecond' AND every <= '10 years'),
    setting         text,
    priority        int NOT NULL DEFAULT 100,
    timeout         interval NOT NULL DEFAULT '30 seconds' CHECK (timeout >= '1 millisecond' AND timeout <= '1 day'),
    enabled         boolean NOT NULL DEFAULT true,
    durable         boolean NOT NULL DEFAULT true,
    run_on_wake     boolean NOT NULL DEFAULT false,
    run_at_shutdown boolean NOT NULL DEFAULT false,
    owner           name NOT NULL DEFAULT current_user,
    last_state      text NOT NULL DEFAULT 'new' CHECK (last_state IN ('new', 'ok', 'failed')),
    last_error      text,
    last_error_at   timestamptz,
    CHECK ((every IS NULL) <> (setting IS NULL))
);
COMMENT ON TABLE monitoring.jobs IS 'What the database worker runs periodically, each job in a transaction of its own. A row takes effect when it is committed. The 64 jobs that come first by priority are run.';
COMMENT ON COLUMN monitoring.jobs.name IS 'Name of the job, at most 63 bytes.';
COMMENT ON COLUMN monitoring.jobs.function IS 'Schema-qualified name of a function f(at timestamptz) returning void, called with the time of the run. It must belong to the job''s owner or to a superuser, or be SECURITY DEFINER: nobody else decides what runs with the owner''s rights.';
COMMENT ON COLUMN monitoring.jobs.every IS 'Time between two runs; null if setting gives it. What was missed is made up for by one run.';
COMMENT ON COLUMN monitoring.jobs.setting IS 'Name of a setting whose positive number of milliseconds gives the time between two runs; null if every gives it.';
COMMENT ON COLUMN monitoring.jobs.priority IS 'Jobs due at the same time run in this order, lowest first.';
COMMENT ON COLUMN monitoring.jobs.timeout IS 'A run that takes longer is cancelled; if it catches that and goes on for 5 seconds, its worker ends.';
COMMENT ON COLUMN monitoring.jobs.enabled IS 'Whether the job runs at all.';
COMMENT ON COLUMN monitoring.jobs.durable IS 'Whether its commit waits for the local disk. What a job that can be repeated writes may do without.';
COMMENT ON COLUMN monitoring.jobs.run_on_wake IS 'Run also whenever the worker is woken because there is something to do, whatever the interval.';
COMMENT ON COLUMN monitoring.jobs.run_at_shutdown IS 'Run once more when the worker ends in order: at a smart or fast shutdown of the server, or to let another database have its turn.';
COMMENT ON COLUMN monitoring.jobs.owner IS 'Role whose rights the function has.';
COMMENT ON COLUMN monitoring.jobs.last_state IS 'How the latest run ended: new (none yet), ok or failed.';
COMMENT ON COLUMN monitoring.jobs.last_error IS 'Message of the latest failure, kept after the job works again.';
COMMENT ON COLUMN monitoring.jobs.last_error_at IS 'When last_error was first seen: the row is written only when a job''s outcome changes.';

SELECT pg_catalog.pg_extension_config_dump('monitoring.jobs', '');

-- pg_dump carries all jobs; those that CREATE EXTENSION has just made take over when and whether they run.
CREATE FUNCTION monitoring.restore_job() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE monitoring.jobs j
    SET every = NEW.every, setting = NEW.setting, priority = NEW.priority, timeout = NEW.timeout, enabled = NEW.enabled
    WHERE j.name = NEW.name;
    RETURN CASE WHEN FOUND THEN NULL ELSE NEW END;
END
$$;
COMMENT ON FUNCTION monitoring.restore_job() IS 'Trigger: a job that a dump brings and that exists is changed to what the dump says.';

CREATE TRIGGER restore BEFORE INSERT ON monitoring.jobs
FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
EXECUTE FUNCTION monitoring.restore_job();
COMMENT ON TRIGGER restore ON monitoring.jobs IS 'Takes over changed jobs when a dump is restored.';

CREATE FUNCTION monitoring.wake_worker() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_wake_worker';
COMMENT ON FUNCTION monitoring.wake_worker() IS 'Trigger for each statement: wakes the worker of this database at commit; it looks at its jobs again and runs those with run_on_wake.';

CREATE TRIGGER wake_worker
AFTER INSERT OR DELETE
   OR UPDATE OF name, function, every, setting, priority, timeout, enabled, durable, run_on_wake, run_at_shutdown, owner
ON monitoring.jobs
FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker();
COMMENT ON TRIGGER wake_worker ON monitoring.jobs IS 'The worker looks at the jobs again at commit.';

INSERT INTO monitoring.jobs (name, function, every, setting, priority, timeout, durable, run_at_shutdown) VALUES
('flush', 'monitoring.flush_job', NULL, 'monitoring.flush_interval', 10, '30 seconds', false, true),
('compact', 'monitoring.compact_job', '5 seconds', NULL, 20, '5 minutes', false, false),
('retention', 'monitoring.apply_retention_job', '10 minutes', NULL, 90, '1 minute', true, false);

CREATE FUNCTION monitoring.worker_status(
    OUT worker text, OUT datid oid, OUT pid int, OUT worker_state text, OUT since timestamptz,
    OUT job text, OUT job_state text, OUT last_run timestamptz, OUT last_duration float8,
    OUT runs bigint, OUT failures bigint, OUT lag float8)
RETURNS SETOF record
LANGUAGE C STRICT VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mon_worker_status';
COMMENT ON FUNCTION monitoring.worker_status() IS 'Workers and their jobs in all databases, as shared memory has them: one row for the launcher, then one per database worker and job. Errors: not preloaded (55000).';

CREATE VIEW monitoring.status AS
SELECT d.datname AS database,
       w.worker,
       w.pid,
       w.worker_state,
       w.since,
       w.job,
       w.job_state AS state,
       w.last_run,
       w.last_duration,
       w.runs,
       w.failures,
       j.last_error,
       j.last_error_at,
       w.lag
FROM monitoring.worker_status() w
LEFT JOIN pg_catalog.pg_database d ON d.oid = w.datid
LEFT JOIN monitoring.jobs j ON j.name = w.job AND d.datname = pg_catalog.current_database()
ORDER BY d.datname NULLS FIRST, j.priority, w.job;
COMMENT ON VIEW monitoring.status IS 'The launcher and, per database worker, every enabled job: one row each. Counters are since the server started. Errors are those of the current database''s jobs.';
COMMENT ON COLUMN monitoring.status.database IS 'Database of the worker; null for the launcher.';
COMMENT ON COLUMN monitoring.status.worker IS 'launcher or database worker.';
COMMENT ON COLUMN monitoring.status.pid IS 'Process id; null while no process is there.';
COMMENT ON COLUMN monitoring.status.worker_state IS 'starting, idle, running, waiting (for its turn: there are more databases than monitoring.max_workers), standing aside (for a command on the database), restarting; of the launcher: running or not running (as on a standby).';
COMMENT ON COLUMN monitoring.status.since IS 'Start of the process, or its end if there is none now.';
COMMENT ON COLUMN monitoring.status.job IS 'Name of the job; null for the launcher and for a worker that has not read its jobs yet.';
COMMENT ON COLUMN monitoring.status.state IS 'State of the job: new (has not run since the server started), running, ok, failed.';
COMMENT ON COLUMN monitoring.status.last_run IS 'Start of the latest run.';
COMMENT ON COLUMN monitoring.status.last_duration IS 'Duration of the latest run in seconds.';
COMMENT ON COLUMN monitoring.status.runs IS 'Runs since the server started.';
COMMENT ON COLUMN monitoring.status.failures IS 'Failed runs since the server started.';
COMMENT ON COLUMN monitoring.status.last_error IS 'Message of the latest failure, kept after the job works again.';
COMMENT ON COLUMN monitoring.status.last_error_at IS 'When that failure was first seen.';
COMMENT ON COLUMN monitoring.status.lag IS 'Seconds by which the latest run started late or by which the next one is overdue, whichever is more.';
-- server: what pg_stat_statements knows, as history. Every snapshot writes, for the statements of this database, what
-- was added to their counters since the snapshot before. The row of statement_state is locked by every snapshot, so
-- that two at once cannot count the same increase twice; nothing else here takes a lock.
--
-- Roles are stored by oid, databases not at all: pg_stat_statements shows the whole cluster, but each database keeps
-- only its own statements. A copy of the database (CREATE DATABASE ... TEMPLATE) is recognised by its oid.

----------------------------------------------------------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.statement_state (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	dbid oid,
	version text,
	baseline_at timestamptz,
	snapshot_at timestamptz,
	statements integer NOT NULL DEFAULT 0,
	stats_reset timestamptz,
	resets bigint NOT NULL DEFAULT 0,
	dealloc bigint,
	evictions bigint NOT NULL DEFAULT 0,
	evicted_at timestamptz,
	texts_at timestamptz,
	texts_seconds float8 NOT NULL DEFAULT 0,
	texts_error text,
	purged_at timestamptz
);
COMMENT ON TABLE monitoring.statement_state IS 'One row: how far the snapshots of pg_stat_statements have come. Its lock is held during a snapshot. See the view statement_source.';
COMMENT ON COLUMN monitoring.statement_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.statement_state.dbid IS 'Database that the counters are from; another one means that this database is a copy.';
COMMENT ON COLUMN monitoring.statement_state.version IS 'Version of pg_stat_statements that they are from; each counts other things.';
COMMENT ON COLUMN monitoring.statement_state.baseline_at IS 'Time of the first snapshot, before which nothing was watched.';
COMMENT ON COLUMN monitoring.statement_state.snapshot_at IS 'Time of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.statements IS 'Statements of this database in the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.stats_reset IS 'Time of the last reset of all of pg_stat_statements, as of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.resets IS 'Resets of all statements noticed.';
COMMENT ON COLUMN monitoring.statement_state.dealloc IS 'Counter dealloc of pg_stat_statements_info as of the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_state.evictions IS 'Times that pg_stat_statements threw its least used entries out to make room, since the baseline.';
COMMENT ON COLUMN monitoring.statement_state.evicted_at IS 'Snapshot that last noticed evictions.';
COMMENT ON COLUMN monitoring.statement_state.texts_at IS 'Snapshot that last read query texts.';
COMMENT ON COLUMN monitoring.statement_state.texts_seconds IS 'How long that took.';
COMMENT ON COLUMN monitoring.statement_state.texts_error IS 'Why it could not; null: it could.';
COMMENT ON COLUMN monitoring.statement_state.purged_at IS 'Snapshot that last removed forgotten statements.';
INSERT INTO monitoring.statement_state DEFAULT VALUES;

-- Half of each page is left free, so that every snapshot's updates stay in their page and touch no index.
CREATE TABLE monitoring.statement_counters (
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	toplevel boolean NOT NULL,
	present boolean NOT NULL DEFAULT true,
	stats_since timestamptz,
	calls bigint NOT NULL,
	total_seconds float8 NOT NULL,
	min_seconds float8 NOT NULL,
	max_seconds float8 NOT NULL,
	rows bigint NOT NULL,
	planning_seconds float8 NOT NULL,
	shared_hit_bytes bigint NOT NULL,
	shared_read_bytes bigint NOT NULL,
	shared_dirtied_bytes bigint NOT NULL,
	shared_written_bytes bigint NOT NULL,
	temp_read_bytes bigint NOT NULL,
	temp_written_bytes bigint NOT NULL,
	io_read_seconds float8 NOT NULL,
	io_write_seconds float8 NOT NULL,
	wal_bytes bigint NOT NULL,
	jit_seconds float8 NOT NULL,
	watched_calls bigint NOT NULL,
	watched_seconds float8 NOT NULL,
	watched_rows bigint NOT NULL,
	watched_max_seconds float8 NOT NULL,
	slowest_interval_seconds float8 NOT NULL,
	slowest_interval_at timestamptz,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz,
	PRIMARY KEY (queryid, userid, toplevel)
) WITH (fillfactor = 45);
COMMENT ON TABLE monitoring.statement_counters IS 'Statements of this database: the counters of pg_stat_statements as last read, which the next snapshot is compared with, and what was watched since. Granted to nobody; see the views statements and slow_queries.';
COMMENT ON COLUMN monitoring.statement_counters.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_counters.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_counters.toplevel IS 'True if sent by a client, false if run inside a function; always true before pg_stat_statements 1.9.';
COMMENT ON COLUMN monitoring.statement_counters.present IS 'False once pg_stat_statements no longer has the entry; when it comes back, it counts from zero.';
COMMENT ON COLUMN monitoring.statement_counters.stats_since IS 'When the entry began to count; null before pg_stat_statements 1.11.';
COMMENT ON COLUMN monitoring.statement_counters.calls IS 'Executions, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.total_seconds IS 'Execution time, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.min_seconds IS 'Shortest execution of the entry, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.max_seconds IS 'Longest execution of the entry, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.rows IS 'Rows returned or affected, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.planning_seconds IS 'Planning time (pg_stat_statements.track_planning), as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_hit_bytes IS 'Bytes found in shared buffers, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_read_bytes IS 'Bytes read into shared buffers, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.shared_written_bytes IS 'Bytes of shared buffers written, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.temp_read_bytes IS 'Bytes read from temporary files, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.temp_written_bytes IS 'Bytes written to temporary files, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.io_read_seconds IS 'Time spent reading blocks (track_io_timing), as last read.';
COMMENT ON COLUMN monitoring.statement_counters.io_write_seconds IS 'Time spent writing blocks (track_io_timing), as last read.';
COMMENT ON COLUMN monitoring.statement_counters.wal_bytes IS 'Bytes of write-ahead log, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.jit_seconds IS 'Time spent in just-in-time compilation, as last read.';
COMMENT ON COLUMN monitoring.statement_counters.watched_calls IS 'Executions since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.watched_seconds IS 'Execution time since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.watched_rows IS 'Rows since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.watched_max_seconds IS 'Longest execution known to have happened since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.slowest_interval_seconds IS 'Largest mean execution time of one interval since first_seen.';
COMMENT ON COLUMN monitoring.statement_counters.slowest_interval_at IS 'End of that interval.';
COMMENT ON COLUMN monitoring.statement_counters.first_seen IS 'First snapshot that had the statement.';
COMMENT ON COLUMN monitoring.statement_counters.last_seen IS 'Last snapshot before which it had run; null if it has not run since the baseline.';

-- What is zero is stored as null, which takes no room.
CREATE TABLE monitoring.statement_deltas (
	bucket timestamptz NOT NULL,
	since timestamptz NOT NULL,
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	toplevel boolean NOT NULL,
	calls bigint NOT NULL CHECK (calls > 0),
	total_seconds float8 NOT NULL,
	max_seconds float8,
	rows bigint,
	planning_seconds float8,
	shared_hit_bytes bigint,
	shared_read_bytes bigint,
	shared_dirtied_bytes bigint,
	shared_written_bytes bigint,
	temp_read_bytes bigint,
	temp_written_bytes bigint,
	io_read_seconds float8,
	io_write_seconds float8,
	wal_bytes bigint,
	jit_seconds float8
) PARTITION BY RANGE (bucket);
COMMENT ON TABLE monitoring.statement_deltas IS 'What each statement that ran added to its counters between two snapshots. Zero is stored as null. Granted to nobody; see the view statement_history, which also explains the columns.';
COMMENT ON COLUMN monitoring.statement_deltas.bucket IS 'End of the interval: the time of the snapshot.';
COMMENT ON COLUMN monitoring.statement_deltas.since IS 'Start of the interval: the time of the snapshot before.';
COMMENT ON COLUMN monitoring.statement_deltas.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_deltas.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_deltas.toplevel IS 'True if sent by a client, false if run inside a function.';
COMMENT ON COLUMN monitoring.statement_deltas.calls IS 'Executions that ended in the interval.';
COMMENT ON COLUMN monitoring.statement_deltas.total_seconds IS 'Their time together.';
COMMENT ON COLUMN monitoring.statement_deltas.max_seconds IS 'Longest execution, where it can be told.';
COMMENT ON COLUMN monitoring.statement_deltas.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statement_deltas.planning_seconds IS 'Planning time.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_hit_bytes IS 'Bytes found in shared buffers.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_read_bytes IS 'Bytes read into shared buffers.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied.';
COMMENT ON COLUMN monitoring.statement_deltas.shared_written_bytes IS 'Bytes of shared buffers that the statement itself had to write.';
COMMENT ON COLUMN monitoring.statement_deltas.temp_read_bytes IS 'Bytes read from temporary files.';
COMMENT ON COLUMN monitoring.statement_deltas.temp_written_bytes IS 'Bytes written to temporary files.';
COMMENT ON COLUMN monitoring.statement_deltas.io_read_seconds IS 'Time spent reading blocks.';
COMMENT ON COLUMN monitoring.statement_deltas.io_write_seconds IS 'Time spent writing blocks.';
COMMENT ON COLUMN monitoring.statement_deltas.wal_bytes IS 'Bytes of write-ahead log.';
COMMENT ON COLUMN monitoring.statement_deltas.jit_seconds IS 'Time spent in just-in-time compilation.';

-- Windows of time (equal values share one entry), and the statements of 0.1 seconds or more on average, which alert rules
-- ask for every second.
INSERT INTO monitoring.retention_policies (relation, partition_step, keep, indexes)
VALUES ('statement_deltas', '1 day', '7 days',
        ARRAY['(bucket)', '(bucket) WHERE total_seconds >= calls * 0.1::float8']);

CREATE TABLE monitoring.statement_texts (
	queryid bigint NOT NULL,
	userid oid NOT NULL,
	query text NOT NULL CHECK (octet_length(query) <= 8192),
	first_seen timestamptz NOT NULL,
	PRIMARY KEY (queryid, userid)
);
COMMENT ON TABLE monitoring.statement_texts IS 'Text of each statement, once, as the role ran it first: at most 8192 bytes, passwords removed. Granted to nobody; see the view statement_queries.';
COMMENT ON COLUMN monitoring.statement_texts.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_texts.userid IS 'Role that ran it: texts that differ only in comments or names have the same queryid, and PostgreSQL shows each role its own.';
COMMENT ON COLUMN monitoring.statement_texts.query IS 'The normalised text.';
COMMENT ON COLUMN monitoring.statement_texts.first_seen IS 'Snapshot that stored it.';

----------------------------------------------------------------------------------------------------------------------
-- The source
----------------------------------------------------------------------------------------------------------------------

CREATE VIEW monitoring.statement_source AS
	SELECT e.oid IS NOT NULL AS installed, e.extversion AS version, n.nspname AS schema,
		p.setting IS NOT NULL AS preloaded, p.setting::integer AS capacity, t.setting AS track,
		s.baseline_at AS watching_since, s.snapshot_at, s.statements, s.resets, s.evictions, s.evicted_at,
		CASE
			WHEN p.setting IS NULL THEN
				'Add pg_stat_statements to shared_preload_libraries and restart the server.'
			WHEN e.oid IS NULL THEN
				'Run CREATE EXTENSION pg_stat_statements in this database.'
			WHEN q.setting = 'off' THEN
				'Set compute_query_id to auto or on: statements have no identity without it.'
			WHEN t.setting = 'none' AND t.source <> 'session' THEN
				'Set pg_stat_statements.track to top or all.'
			WHEN s.evicted_at > s.snapshot_at - interval '1 hour' THEN
				'Raise pg_stat_statements.max: entries are thrown out to make room, so statements that run rarely may be missed.'
			WHEN s.texts_error IS NOT NULL THEN
				'Texts of statements cannot be read: ' || s.texts_error
		END AS hint
	FROM monitoring.statement_state AS s
	LEFT JOIN pg_catalog.pg_extension AS e ON e.extname = 'pg_stat_statements'
	LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
	-- settings that only a loaded library has are not in pg_settings otherwise
	LEFT JOIN pg_catalog.pg_settings AS p ON p.name = 'pg_stat_statements.max'
	LEFT JOIN pg_catalog.pg_settings AS t ON t.name = 'pg_stat_statements.track'
	LEFT JOIN pg_catalog.pg_settings AS q ON q.name = 'compute_query_id';
COMMENT ON VIEW monitoring.statement_source IS 'One row: whether statements of this database can be watched, and what to do if not.';
COMMENT ON COLUMN monitoring.statement_source.installed IS 'True if the extension pg_stat_statements is installed in this database.';
COMMENT ON COLUMN monitoring.statement_source.version IS 'Its version.';
COMMENT ON COLUMN monitoring.statement_source.schema IS 'Its schema.';
COMMENT ON COLUMN monitoring.statement_source.preloaded IS 'True if the server has loaded its library.';
COMMENT ON COLUMN monitoring.statement_source.capacity IS 'Statements it keeps for the whole server: pg_stat_statements.max.';
COMMENT ON COLUMN monitoring.statement_source.track IS 'Which statements it counts: pg_stat_statements.track as this session has it.';
COMMENT ON COLUMN monitoring.statement_source.watching_since IS 'First snapshot; null before.';
COMMENT ON COLUMN monitoring.statement_source.snapshot_at IS 'Latest snapshot; null before the first.';
COMMENT ON COLUMN monitoring.statement_source.statements IS 'Statements of this database in the latest snapshot.';
COMMENT ON COLUMN monitoring.statement_source.resets IS 'Resets of all statements noticed since.';
COMMENT ON COLUMN monitoring.statement_source.evictions IS 'Times that pg_stat_statements made room by throwing entries out, since then; counted from version 1.9 on.';
COMMENT ON COLUMN monitoring.statement_source.evicted_at IS 'Snapshot that last noticed evictions.';
COMMENT ON COLUMN monitoring.statement_source.hint IS 'What to do; null if all is well.';

CREATE FUNCTION monitoring.statement_source_function(name text, arguments text, OUT function text, OUT columns text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format('%I.%I', n.nspname, p.proname), p.proargnames
	FROM pg_extension AS e
	JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
		AND d.classid = 'pg_proc'::regclass
	JOIN pg_proc AS p ON p.oid = d.objid AND p.proname = $1 AND oidvectortypes(p.proargtypes) = $2
	JOIN pg_namespace AS n ON n.oid = p.pronamespace
	WHERE e.extname = 'pg_stat_statements'
$$;
COMMENT ON FUNCTION monitoring.statement_source_function(text, text) IS 'Qualified, quoted name and argument names of the function (name, argument types) of pg_stat_statements, wherever it is installed; nulls if there is none.';

CREATE FUNCTION monitoring.statement_source_columns(columns text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(format(CASE WHEN 'toplevel' = ANY (columns) THEN '%1$s AS %3$I' ELSE '%2$s AS %3$I' END,
			coalesce(v.expression, '0'), format(m.merged, coalesce(v.expression, '0')), m.target), ', ' ORDER BY m.position)
		|| CASE WHEN 'toplevel' = ANY (columns) THEN ', s.toplevel' ELSE ', true AS toplevel' END
		|| CASE WHEN 'stats_since' = ANY (columns) THEN ', s.stats_since' ELSE ', NULL::timestamptz AS stats_since' END
	FROM (VALUES
		(1, 'calls', '{calls}'::text[], '(%s)', 'sum(%s)::bigint'),
		(2, 'total_seconds', '{total_time,total_exec_time}', '(%s) / 1000', 'sum(%s)'),
		(3, 'min_seconds', '{min_time,min_exec_time}', '(%s) / 1000', 'min(%s)'),
		(4, 'max_seconds', '{max_time,max_exec_time}', '(%s) / 1000', 'max(%s)'),
		(5, 'rows', '{rows}', '(%s)', 'sum(%s)::bigint'),
		(6, 'planning_seconds', '{total_plan_time}', '(%s) / 1000', 'sum(%s)'),
		(7, 'shared_hit_bytes', '{shared_blks_hit}', '(%s) * $6', 'sum(%s)::bigint'),
		(8, 'shared_read_bytes', '{shared_blks_read}', '(%s) * $6', 'sum(%s)::bigint'),
		(9, 'shared_dirtied_bytes', '{shared_blks_dirtied}', '(%s) * $6', 'sum(%s)::bigint'),
		(10, 'shared_written_bytes', '{shared_blks_written}', '(%s) * $6', 'sum(%s)::bigint'),
		(11, 'temp_read_bytes', '{temp_blks_read}', '(%s) * $6', 'sum(%s)::bigint'),
		(12, 'temp_written_bytes', '{temp_blks_written}', '(%s) * $6', 'sum(%s)::bigint'),
		(13, 'io_read_seconds', '{blk_read_time,shared_blk_read_time,local_blk_read_time,temp_blk_read_time}', '(%s) / 1000', 'sum(%s)'),
		(14, 'io_write_seconds', '{blk_write_time,shared_blk_write_time,local_blk_write_time,temp_blk_write_time}', '(%s) / 1000', 'sum(%s)'),
		(15, 'wal_bytes', '{wal_bytes}', '(%s)::bigint', 'sum(%s)::bigint'),
		(16, 'jit_seconds', '{jit_generation_time,jit_inlining_time,jit_optimization_time,jit_emission_time,jit_deform_time}', '(%s) / 1000', 'sum(%s)')
	) AS m (position, target, sources, form, merged)
	CROSS JOIN LATERAL (
		SELECT replace(m.form, '%s', string_agg(format('s.%I', c.name), ' + ')) AS expression
		FROM unnest(m.sources) AS c (name)
		WHERE c.name = ANY (columns)
	) AS v
$$;
COMMENT ON FUNCTION monitoring.statement_source_columns(text[]) IS 'Select list that turns the given columns of pg_stat_statements (alias s), which differ between versions, into ours: seconds and bytes, zero for what the version does not have. $6 is the block size. Without the column toplevel a statement may have two rows, which the list adds up.';

----------------------------------------------------------------------------------------------------------------------
-- Snapshots
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.statement_snapshot_query(source text, columns text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format($query$
		WITH source AS MATERIALIZED (
			SELECT s.userid, s.queryid, %1$s
			FROM %2$s(false) AS s
			WHERE s.dbid = $3 AND s.queryid IS NOT NULL
			%3$s
		),
		-- a counter that continues the one we know; any that went back began anew
		delta AS MATERIALIZED (
			SELECT s.*, c.queryid IS NULL AS anew,
				CASE WHEN $4 THEN 0 ELSE s.calls - coalesce(c.calls, 0) END AS d_calls,
				CASE WHEN $4 THEN 0 ELSE s.total_seconds - coalesce(c.total_seconds, 0) END AS d_seconds,
				CASE WHEN $4 THEN 0 ELSE s.rows - coalesce(c.rows, 0) END AS d_rows,
				CASE WHEN NOT $4 AND (c.queryid IS NULL OR s.max_seconds > c.max_seconds) THEN s.max_seconds END AS d_max,
				s.planning_seconds - coalesce(c.planning_seconds, 0) AS d_planning,
				s.shared_hit_bytes - coalesce(c.shared_hit_bytes, 0) AS d_hit,
				s.shared_read_bytes - coalesce(c.shared_read_bytes, 0) AS d_read,
				s.shared_dirtied_bytes - coalesce(c.shared_dirtied_bytes, 0) AS d_dirtied,
				s.shared_written_bytes - coalesce(c.shared_written_bytes, 0) AS d_written,
				s.temp_read_bytes - coalesce(c.temp_read_bytes, 0) AS d_temp_read,
				s.temp_written_bytes - coalesce(c.temp_written_bytes, 0) AS d_temp_written,
				s.io_read_seconds - coalesce(c.io_read_seconds, 0) AS d_io_read,
				s.io_write_seconds - coalesce(c.io_write_seconds, 0) AS d_io_write,
				s.wal_bytes - coalesce(c.wal_bytes, 0) AS d_wal,
				s.jit_seconds - coalesce(c.jit_seconds, 0) AS d_jit
			FROM source AS s
			LEFT JOIN monitoring.statement_counters AS c
				ON c.queryid = s.queryid AND c.userid = s.userid AND c.toplevel = s.toplevel AND c.present AND NOT $5
				AND CASE
					WHEN s.stats_since IS NOT NULL THEN s.stats_since IS NOT DISTINCT FROM c.stats_since
					ELSE s.total_seconds >= c.total_seconds AND s.min_seconds <= c.min_seconds AND s.max_seconds >= c.max_seconds
				END
				AND s.calls >= c.calls AND s.rows >= c.rows
			WHERE $4 OR c.queryid IS NULL OR s.calls <> c.calls
		),
		known AS (
			UPDATE monitoring.statement_counters AS c SET
				present = true, stats_since = d.stats_since, calls = d.calls, total_seconds = d.total_seconds,
				min_seconds = d.min_seconds, max_seconds = d.max_seconds, rows = d.rows,
				planning_seconds = d.planning_seconds, shared_hit_bytes = d.shared_hit_bytes,
				shared_read_bytes = d.shared_read_bytes, shared_dirtied_bytes = d.shared_dirtied_bytes,
				shared_written_bytes = d.shared_written_bytes, temp_read_bytes = d.temp_read_bytes,
				temp_written_bytes = d.temp_written_bytes, io_read_seconds = d.io_read_seconds,
				io_write_seconds = d.io_write_seconds, wal_bytes = d.wal_bytes, jit_seconds = d.jit_seconds,
				watched_calls = c.watched_calls + d.d_calls, watched_seconds = c.watched_seconds + d.d_seconds,
				watched_rows = c.watched_rows + d.d_rows,
				watched_max_seconds = greatest(c.watched_max_seconds, d.d_max),
				slowest_interval_seconds = greatest(c.slowest_interval_seconds, d.d_seconds / nullif(d.d_calls, 0)),
				slowest_interval_at = CASE WHEN d.d_calls > 0 AND (c.slowest_interval_at IS NULL
					OR d.d_seconds / d.d_calls > c.slowest_interval_seconds) THEN $1 ELSE c.slowest_interval_at END,
				last_seen = CASE WHEN d.d_calls > 0 THEN $1 ELSE c.last_seen END
			FROM delta AS d
			WHERE c.queryid = d.queryid AND c.userid = d.userid AND c.toplevel = d.toplevel
		),
		added AS (
			INSERT INTO monitoring.statement_counters
			SELECT d.queryid, d.userid, d.toplevel, true, d.stats_since, d.calls, d.total_seconds, d.min_seconds,
				d.max_seconds, d.rows, d.planning_seconds, d.shared_hit_bytes, d.shared_read_bytes,
				d.shared_dirtied_bytes, d.shared_written_bytes, d.temp_read_bytes, d.temp_written_bytes,
				d.io_read_seconds, d.io_write_seconds, d.wal_bytes, d.jit_seconds,
				d.d_calls, d.d_seconds, d.d_rows, CASE WHEN d.d_calls > 0 THEN d.d_max ELSE 0 END,
				CASE WHEN d.d_calls > 0 THEN d.d_seconds / d.d_calls ELSE 0 END,
				CASE WHEN d.d_calls > 0 THEN $1 END, $1, CASE WHEN d.d_calls > 0 THEN $1 END
			FROM delta AS d
			WHERE d.anew AND NOT EXISTS (SELECT FROM monitoring.statement_counters AS c
				WHERE c.queryid = d.queryid AND c.userid = d.userid AND c.toplevel = d.toplevel)
		),
		gone AS (
			UPDATE monitoring.statement_counters AS c SET present = false
			WHERE c.present AND NOT EXISTS (SELECT FROM source AS s
				WHERE s.queryid = c.queryid AND s.userid = c.userid AND s.toplevel = c.toplevel)
		),
		written AS (
			INSERT INTO monitoring.statement_deltas
			SELECT $1, $2, d.queryid, d.userid, d.toplevel, d.d_calls, d.d_seconds, d.d_max, nullif(d.d_rows, 0),
				nullif(d.d_planning, 0), nullif(d.d_hit, 0), nullif(d.d_read, 0), nullif(d.d_dirtied, 0),
				nullif(d.d_written, 0), nullif(d.d_temp_read, 0), nullif(d.d_temp_written, 0),
				nullif(d.d_io_read, 0), nullif(d.d_io_write, 0), nullif(d.d_wal, 0), nullif(d.d_jit, 0)
			FROM delta AS d
			WHERE d.d_calls > 0
			RETURNING 1
		)
		SELECT (SELECT count(*)::integer FROM source), (SELECT count(*)::integer FROM written)
	$query$, monitoring.statement_source_columns(columns), source,
		CASE WHEN 'toplevel' = ANY (columns) THEN '' ELSE 'GROUP BY s.userid, s.queryid' END)
$$;
COMMENT ON FUNCTION monitoring.statement_snapshot_query(text, text[]) IS 'The one statement that a snapshot is, for a source function with the given columns. Parameters: $1 time, $2 time of the snapshot before, $3 database, $4 baseline (note the counters, whatever they added), $5 everything was reset, $6 block size. Returns the numbers of statements read and of deltas written.';

CREATE FUNCTION monitoring.clip_text(value text, max_bytes integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	cut text := left(value, max_bytes);
	excess integer;
BEGIN
	-- a character has at most four bytes, so this never cuts more than needed
	LOOP
		excess := octet_length(cut) - max_bytes;
		EXIT WHEN excess <= 0 OR cut = '';
		cut := left(cut, -((excess + 3) / 4));
	END LOOP;
	RETURN cut;
END $$;
COMMENT ON FUNCTION monitoring.clip_text(text, integer) IS 'The longest beginning of the text that has at most max_bytes (1 or more) bytes, cut between characters.';

-- Utility statements are not normalised, so that a password may stand in them.
CREATE FUNCTION monitoring.redact_statement(query text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT regexp_replace(regexp_replace(query,
		-- PASSWORD 'x', e'x' with escapes, or dollar-quoted; to the end if the literal was cut off
		'(\mpassword\s*)(''(''''|[^''])*(''|$)|e''(\\.|''''|[^''\\])*(''|$)|\$(\w*)\$.*(\$\7\$|$))', '\1''***''', 'gi'),
		-- in a connection string
		'(\mpassword=)(''''.*''''|[^\s'',;)$]+)', '\1***', 'gi')
$$;
COMMENT ON FUNCTION monitoring.redact_statement(text) IS 'The text of a statement with passwords, in PASSWORD clauses and connection strings, replaced by ***.';

CREATE FUNCTION monitoring.fetch_statement_texts(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	source text := (SELECT f.function FROM monitoring.statement_source_function('pg_stat_statements', 'boolean') AS f);
	fetched integer;
BEGIN
	IF source IS NULL THEN
		RETURN 0;
	END IF;
	EXECUTE format($query$
		INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen)
		SELECT DISTINCT ON (s.queryid, s.userid) s.queryid, s.userid,
			monitoring.clip_text(monitoring.redact_statement(monitoring.clip_text(s.query, 65536)), 8192), $1
		FROM %s(true) AS s
		WHERE s.dbid = $2 AND s.query IS NOT NULL
		  AND EXISTS (SELECT FROM monitoring.statement_counters AS c
			WHERE c.queryid = s.queryid AND c.userid = s.userid AND c.present)
		  AND NOT EXISTS (SELECT FROM monitoring.statement_texts AS t
			WHERE t.queryid = s.queryid AND t.userid = s.userid)
		ON CONFLICT DO NOTHING
	$query$, source) USING at, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
	GET DIAGNOSTICS fetched = ROW_COUNT;
	RETURN fetched;
END $$;
COMMENT ON FUNCTION monitoring.fetch_statement_texts(timestamptz) IS 'Stores the texts of statements that have none yet; returns how many. Makes pg_stat_statements read its whole file of texts.';

CREATE FUNCTION monitoring.purge_statements(at timestamptz, max_forgotten integer DEFAULT 20000) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	purged integer;
BEGIN
	WITH forgotten AS (
		SELECT c.ctid, coalesce(c.last_seen, c.first_seen) AS seen,
			row_number() OVER (ORDER BY coalesce(c.last_seen, c.first_seen) DESC) AS place
		FROM monitoring.statement_counters AS c
		WHERE NOT c.present
	)
	DELETE FROM monitoring.statement_counters AS c
	USING forgotten AS f
	WHERE c.ctid = f.ctid AND (f.place > max_forgotten OR f.seen < at - (
		SELECT r.keep FROM monitoring.retention_policies AS r WHERE r.relation = 'statement_deltas'));
	GET DIAGNOSTICS purged = ROW_COUNT;

	DELETE FROM monitoring.statement_texts AS t
	WHERE NOT EXISTS (SELECT FROM monitoring.statement_counters AS c WHERE c.queryid = t.queryid AND c.userid = t.userid);
	RETURN purged;
END $$;
COMMENT ON FUNCTION monitoring.purge_statements(timestamptz, integer) IS 'Removes statements, with their texts, that pg_stat_statements no longer has and that have not run for as long as history is kept, or that are not among the max_forgotten last seen ones of these. Returns how many. Snapshots do it once an hour.';

-- A function's rows are estimated far too low here: nested loops over them would be slow, and compiling never pays.
CREATE FUNCTION monitoring.snapshot_statements(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off SET lock_timeout = '10s' AS $$
DECLARE
	own oid := (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
	state monitoring.statement_state;
	source record;
	info text;
	reset_at timestamptz;
	reset_after timestamptz;
	dealloc_now bigint;
	first boolean;
	baseline boolean;
	version_now text := (SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'pg_stat_statements');
	was_reset boolean;
	wanted boolean;
	started timestamptz;
	text_problem text;
	found_statements integer;
	written integer;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a snapshot must be a finite timestamp' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN
		RAISE EXCEPTION 'permission denied to read the statements of other roles'
			USING ERRCODE = 'insufficient_privilege', HINT = 'Grant pg_read_all_stats to the role.';
	END IF;

	-- pg_settings has the setting only if the server has loaded the library
	SELECT * INTO source FROM monitoring.statement_source_function('pg_stat_statements', 'boolean') AS f
	WHERE f.function IS NOT NULL AND EXISTS (SELECT FROM pg_settings AS p WHERE p.name = 'pg_stat_statements.max');
	IF source.function IS NULL THEN
		RETURN 0;
	END IF;

	SELECT * INTO STRICT state FROM monitoring.statement_state FOR UPDATE;
	SELECT f.function INTO info FROM monitoring.statement_source_function('pg_stat_statements_info', '') AS f;
	IF info IS NOT NULL THEN
		EXECUTE format('SELECT i.stats_reset, i.dealloc FROM %s() AS i', info) INTO reset_at, dealloc_now;
	END IF;

	first := state.dbid IS DISTINCT FROM own;
	-- another version counts other things and splits entries differently: no difference to the old numbers is an increase
	baseline := first OR state.version IS DISTINCT FROM version_now;
	was_reset := NOT baseline AND reset_at IS DISTINCT FROM state.stats_reset AND reset_at IS NOT NULL;
	IF first THEN
		DELETE FROM monitoring.statement_counters;
	END IF;

	PERFORM monitoring.ensure_partition('statement_deltas', at);
	EXECUTE monitoring.statement_snapshot_query(source.function, source.columns)
		INTO found_statements, written
		USING at, least(state.snapshot_at, at), own, baseline, was_reset, current_setting('block_size')::bigint;
	IF info IS NOT NULL THEN
		EXECUTE format('SELECT i.stats_reset FROM %s() AS i', info) INTO reset_after;
		IF reset_after IS DISTINCT FROM reset_at THEN
			RAISE EXCEPTION 'pg_stat_statements was reset during a snapshot'
				USING ERRCODE = 'serialization_failure', DETAIL = 'Nothing was stored; the next snapshot will notice the reset.';
		END IF;
	END IF;

	UPDATE monitoring.statement_state AS s SET
		dbid = own, version = version_now, baseline_at = CASE WHEN first THEN at ELSE s.baseline_at END, snapshot_at = at,
		statements = found_statements, stats_reset = reset_at, dealloc = dealloc_now,
		resets = s.resets + was_reset::integer,
		evictions = s.evictions + CASE WHEN first THEN 0 WHEN was_reset THEN dealloc_now
			ELSE greatest(coalesce(dealloc_now - s.dealloc, 0), 0) END,
		evicted_at = CASE WHEN NOT first AND dealloc_now > CASE WHEN was_reset THEN 0 ELSE s.dealloc END THEN at
			ELSE s.evicted_at END;

	-- Texts cost reading the file of all texts, so that takes at most a hundredth of the time.
	wanted := EXISTS (
		SELECT FROM monitoring.statement_counters AS c
		WHERE c.present AND NOT EXISTS (SELECT FROM monitoring.statement_texts AS t
			WHERE t.queryid = c.queryid AND t.userid = c.userid));
	IF wanted AND (state.texts_at IS NULL OR at < state.texts_at
		OR at >= state.texts_at + least(state.texts_seconds * 100, 3600) * interval '1 s') THEN
		started := clock_timestamp();
		BEGIN
			PERFORM monitoring.fetch_statement_texts(at);
			text_problem := NULL;
		-- one text of another database that this one's encoding cannot hold makes all unreadable
		EXCEPTION WHEN data_exception OR program_limit_exceeded OR out_of_memory THEN
			text_problem := left(SQLERRM, 500);
		END;
		UPDATE monitoring.statement_state
			SET texts_at = at, texts_seconds = extract(epoch FROM clock_timestamp() - started), texts_error = text_problem;
	END IF;

	IF state.purged_at IS NULL OR at >= state.purged_at + interval '1 hour' THEN
		PERFORM monitoring.purge_statements(at);
		UPDATE monitoring.statement_state SET purged_at = at;
	END IF;
	RETURN written;
END $$;
COMMENT ON FUNCTION monitoring.snapshot_statements(timestamptz) IS 'Stores what the statements of this database added to their counters in pg_stat_statements since the last snapshot, and the texts of new ones; returns the number of statements that ran. The first snapshot only notes the counters. Entries that were reset or evicted count from zero. Without pg_stat_statements it does nothing and returns 0; see the view statement_source. Raises 22023 for a null or infinite time, 40001 if pg_stat_statements is reset meanwhile, 42501 without the rights of pg_read_all_stats, 55P03 if another snapshot takes longer than 10 s.';

CREATE FUNCTION monitoring.snapshot_statements_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.snapshot_statements(at);
END $$;
COMMENT ON FUNCTION monitoring.snapshot_statements_job(timestamptz) IS 'Job of the worker: snapshot_statements(at).';

INSERT INTO monitoring.jobs (name, function, every, priority)
	VALUES ('statements', 'monitoring.snapshot_statements_job', '10 seconds', 30);

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE VIEW monitoring.statement_queries AS
	SELECT t.queryid, t.userid, pg_catalog.pg_get_userbyid(t.userid) AS username,
		CASE WHEN a.everything OR t.userid = a.userid THEN t.query ELSE '<insufficient privilege>' END AS query, t.first_seen
	FROM monitoring.statement_texts AS t
	CROSS JOIN (
		SELECT r.oid AS userid, pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS everything
		FROM pg_catalog.pg_roles AS r
		WHERE r.rolname = current_user
	) AS a;
COMMENT ON VIEW monitoring.statement_queries IS 'Texts of statements. As in pg_stat_statements, you see those that you ran; with the rights of pg_read_all_stats, all.';
COMMENT ON COLUMN monitoring.statement_queries.queryid IS 'Identity of the normalised statement, as in pg_stat_statements and pg_stat_activity.';
COMMENT ON COLUMN monitoring.statement_queries.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_queries.username IS 'Name of that role.';
COMMENT ON COLUMN monitoring.statement_queries.query IS 'Normalised text, at most 8192 bytes, passwords replaced by ***; or <insufficient privilege>.';
COMMENT ON COLUMN monitoring.statement_queries.first_seen IS 'Snapshot that stored it.';

CREATE VIEW monitoring.statement_history AS
	SELECT d.bucket, d.since, d.queryid, d.userid, pg_catalog.pg_get_userbyid(d.userid) AS username, d.toplevel,
		d.calls, d.total_seconds / d.calls AS mean_seconds, d.max_seconds, d.total_seconds,
		coalesce(d.rows, 0) AS rows, coalesce(d.planning_seconds, 0) AS planning_seconds,
		coalesce(d.shared_hit_bytes, 0) AS shared_hit_bytes, coalesce(d.shared_read_bytes, 0) AS shared_read_bytes,
		coalesce(d.shared_dirtied_bytes, 0) AS shared_dirtied_bytes,
		coalesce(d.shared_written_bytes, 0) AS shared_written_bytes,
		coalesce(d.temp_read_bytes, 0) AS temp_read_bytes, coalesce(d.temp_written_bytes, 0) AS temp_written_bytes,
		coalesce(d.io_read_seconds, 0) AS io_read_seconds, coalesce(d.io_write_seconds, 0) AS io_write_seconds,
		coalesce(d.wal_bytes, 0) AS wal_bytes, coalesce(d.jit_seconds, 0) AS jit_seconds
	FROM monitoring.statement_deltas AS d;
COMMENT ON VIEW monitoring.statement_history IS 'What every statement that ran did between two snapshots, 10 s apart by default, for 7 days. What a version of pg_stat_statements does not count is 0.';
COMMENT ON COLUMN monitoring.statement_history.bucket IS 'End of the interval.';
COMMENT ON COLUMN monitoring.statement_history.since IS 'Start of the interval.';
COMMENT ON COLUMN monitoring.statement_history.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statement_history.userid IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statement_history.username IS 'Name of that role.';
COMMENT ON COLUMN monitoring.statement_history.toplevel IS 'True if sent by a client, false if run inside a function.';
COMMENT ON COLUMN monitoring.statement_history.calls IS 'Executions that ended in the interval.';
COMMENT ON COLUMN monitoring.statement_history.mean_seconds IS 'Their mean time.';
COMMENT ON COLUMN monitoring.statement_history.max_seconds IS 'Longest execution, where it can be told: it was the longest since the entry began to count. Null otherwise.';
COMMENT ON COLUMN monitoring.statement_history.total_seconds IS 'Their time together.';
COMMENT ON COLUMN monitoring.statement_history.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statement_history.planning_seconds IS 'Planning time; needs pg_stat_statements.track_planning.';
COMMENT ON COLUMN monitoring.statement_history.shared_hit_bytes IS 'Bytes found in shared buffers.';
COMMENT ON COLUMN monitoring.statement_history.shared_read_bytes IS 'Bytes read into shared buffers.';
COMMENT ON COLUMN monitoring.statement_history.shared_dirtied_bytes IS 'Bytes of shared buffers dirtied.';
COMMENT ON COLUMN monitoring.statement_history.shared_written_bytes IS 'Bytes of shared buffers that the statement itself had to write.';
COMMENT ON COLUMN monitoring.statement_history.temp_read_bytes IS 'Bytes read from temporary files.';
COMMENT ON COLUMN monitoring.statement_history.temp_written_bytes IS 'Bytes written to temporary files.';
COMMENT ON COLUMN monitoring.statement_history.io_read_seconds IS 'Time spent reading blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.statement_history.io_write_seconds IS 'Time spent writing blocks; needs track_io_timing.';
COMMENT ON COLUMN monitoring.statement_history.wal_bytes IS 'Bytes of write-ahead log.';
COMMENT ON COLUMN monitoring.statement_history.jit_seconds IS 'Time spent in just-in-time compilation.';

CREATE VIEW monitoring.statements AS
	SELECT c.queryid, pg_catalog.current_database()::text AS database, c.username, q.query, c.calls,
		c.total_seconds / c.calls AS mean_seconds, c.max_interval_mean_seconds,
		greatest(c.max_seconds, c.max_interval_mean_seconds) AS max_seconds, c.total_seconds, c.rows,
		c.total_seconds / nullif(sum(c.total_seconds) OVER (), 0) AS share_of_total_time,
		c.first_seen, c.last_seen, c.slowest_at
	FROM (
		SELECT c.queryid, c.userid, pg_catalog.pg_get_userbyid(c.userid) AS username, sum(c.watched_calls)::bigint AS calls,
			sum(c.watched_seconds) AS total_seconds, sum(c.watched_rows)::bigint AS rows,
			max(c.slowest_interval_seconds) AS max_interval_mean_seconds, max(c.watched_max_seconds) AS max_seconds,
			min(c.first_seen) AS first_seen, max(c.last_seen) AS last_seen,
			(array_agg(c.slowest_interval_at ORDER BY c.slowest_interval_seconds DESC))[1] AS slowest_at
		FROM monitoring.statement_counters AS c
		WHERE c.watched_calls > 0
		GROUP BY c.queryid, c.userid
	) AS c
	LEFT JOIN monitoring.statement_queries AS q ON q.queryid = c.queryid AND q.userid = c.userid;
COMMENT ON VIEW monitoring.statements IS 'Every statement of this database that ran while being watched, one row per statement and role, since first_seen.';
COMMENT ON COLUMN monitoring.statements.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.statements.database IS 'This database.';
COMMENT ON COLUMN monitoring.statements.username IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.statements.query IS 'Its text, as in the view statement_queries; null if not read yet.';
COMMENT ON COLUMN monitoring.statements.calls IS 'Executions.';
COMMENT ON COLUMN monitoring.statements.mean_seconds IS 'Mean time of an execution.';
COMMENT ON COLUMN monitoring.statements.max_interval_mean_seconds IS 'Mean time of an execution in the slowest interval between two snapshots.';
COMMENT ON COLUMN monitoring.statements.max_seconds IS 'Longest execution known: at least max_interval_mean_seconds, and exact when it was the longest since pg_stat_statements began to count the statement. What happened before first_seen does not enter.';
COMMENT ON COLUMN monitoring.statements.total_seconds IS 'Time of all executions.';
COMMENT ON COLUMN monitoring.statements.rows IS 'Rows returned or affected.';
COMMENT ON COLUMN monitoring.statements.share_of_total_time IS 'Ratio 0..1 of total_seconds to that of all statements watched.';
COMMENT ON COLUMN monitoring.statements.first_seen IS 'First snapshot that had the statement.';
COMMENT ON COLUMN monitoring.statements.last_seen IS 'Last snapshot before which it had run.';
COMMENT ON COLUMN monitoring.statements.slowest_at IS 'End of the slowest interval.';

CREATE VIEW monitoring.slow_queries AS
	SELECT s.queryid, s.database, s.username, s.query, s.calls, s.mean_seconds, s.max_interval_mean_seconds, s.max_seconds,
		s.total_seconds, s.rows, s.share_of_total_time, s.first_seen, s.last_seen, s.slowest_at
	FROM monitoring.statements AS s
	WHERE s.max_interval_mean_seconds >= extract(epoch FROM
		coalesce(nullif(pg_catalog.current_setting('monitoring.slow_query_threshold', true), ''), '1s')::interval);
COMMENT ON VIEW monitoring.slow_queries IS 'Statements whose mean time in at least one interval between two snapshots reached monitoring.slow_query_threshold. A statement that has not run for as long as history is kept, and that pg_stat_statements forgot, leaves the view.';
COMMENT ON COLUMN monitoring.slow_queries.queryid IS 'Identity of the normalised statement.';
COMMENT ON COLUMN monitoring.slow_queries.database IS 'This database.';
COMMENT ON COLUMN monitoring.slow_queries.username IS 'Role that ran it.';
COMMENT ON COLUMN monitoring.slow_queries.query IS 'Its text, as in the view statement_queries; null if not read yet.';
COMMENT ON COLUMN monitoring.slow_queries.calls IS 'Executions since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.mean_seconds IS 'Mean time of an execution since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.max_interval_mean_seconds IS 'Mean time of an execution in the slowest interval between two snapshots.';
COMMENT ON COLUMN monitoring.slow_queries.max_seconds IS 'Longest execution known, as in the view statements.';
COMMENT ON COLUMN monitoring.slow_queries.total_seconds IS 'Time of all executions since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.rows IS 'Rows returned or affected since first_seen.';
COMMENT ON COLUMN monitoring.slow_queries.share_of_total_time IS 'Ratio 0..1 of total_seconds to that of all statements watched.';
COMMENT ON COLUMN monitoring.slow_queries.first_seen IS 'First snapshot that had the statement.';
COMMENT ON COLUMN monitoring.slow_queries.last_seen IS 'Last snapshot before which it had run.';
COMMENT ON COLUMN monitoring.slow_queries.slowest_at IS 'End of the slowest interval.';

CREATE FUNCTION monitoring.slow_queries_over(over interval, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (queryid bigint, database text, username name, query text, calls bigint, mean_seconds float8,
	max_interval_mean_seconds float8, max_seconds float8, total_seconds float8, rows bigint, share_of_total_time float8,
	first_seen timestamptz, last_seen timestamptz, slowest_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT w.queryid, current_database()::text, w.username, q.query, w.calls, w.total_seconds / w.calls, w.slowest,
		greatest(w.max_seconds, w.slowest), w.total_seconds, w.rows, w.total_seconds / nullif(w.everything, 0),
		w.first_seen, w.last_seen, w.slowest_at
	FROM (
		SELECT h.queryid, h.userid, h.username, sum(h.calls)::bigint AS calls, sum(h.total_seconds) AS total_seconds,
			sum(h.rows)::bigint AS rows, max(h.mean_seconds) AS slowest, max(h.max_seconds) AS max_seconds,
			sum(sum(h.total_seconds)) OVER () AS everything, min(h.bucket) AS first_seen, max(h.bucket) AS last_seen,
			(array_agg(h.bucket ORDER BY h.mean_seconds DESC))[1] AS slowest_at
		FROM monitoring.statement_history AS h
		WHERE h.bucket > slow_queries_over.at - slow_queries_over.over AND h.bucket <= slow_queries_over.at
		GROUP BY h.queryid, h.userid, h.username
	) AS w
	LEFT JOIN monitoring.statement_queries AS q ON q.queryid = w.queryid AND q.userid = w.userid
	WHERE w.slowest >= extract(epoch FROM
		coalesce(nullif(current_setting('monitoring.slow_query_threshold', true), ''), '1s')::interval)
	ORDER BY w.total_seconds DESC
$$;
COMMENT ON FUNCTION monitoring.slow_queries_over(interval, timestamptz) IS 'The view slow_queries for one window of time, the intervals that end in (at - over, at]: calls, times, share, first and last seen are those of the window. Costliest first.';

CREATE FUNCTION monitoring.slow_query_values(at timestamptz, over interval, at_least float8 DEFAULT 0,
	also bigint[] DEFAULT '{}')
RETURNS TABLE (queryid bigint, database text, mean_seconds float8, calls bigint, query text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- A statement's mean over all roles can only be at_least if that of one of them is.
	WITH candidate AS MATERIALIZED (
		SELECT h.queryid
		FROM monitoring.statement_history AS h
		WHERE slow_query_values.at_least >= 0.1 AND h.total_seconds >= h.calls * 0.1::float8
			AND h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			AND h.total_seconds >= h.calls * slow_query_values.at_least * (1 - 1e-9)
		UNION
		SELECT h.queryid
		FROM monitoring.statement_history AS h
		WHERE (slow_query_values.at_least >= 0.1) IS NOT TRUE
			AND h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			AND h.total_seconds >= h.calls * slow_query_values.at_least * (1 - 1e-9)
		UNION
		SELECT unnest(slow_query_values.also)
	)
	SELECT w.queryid, current_database()::text, w.slowest, w.calls, q.query
	FROM (
		SELECT i.queryid, max(i.mean_seconds) AS slowest, sum(i.calls)::bigint AS calls
		FROM (
			SELECT h.queryid, sum(h.calls) AS calls, sum(h.total_seconds) / sum(h.calls) AS mean_seconds
			FROM candidate AS c
			JOIN monitoring.statement_history AS h ON h.queryid = c.queryid
			WHERE h.bucket > slow_query_values.at - slow_query_values.over AND h.bucket <= slow_query_values.at
			GROUP BY h.queryid, h.bucket
		) AS i
		GROUP BY i.queryid
	) AS w
	LEFT JOIN LATERAL (
		SELECT t.query
		FROM monitoring.statement_queries AS t
		WHERE t.queryid = w.queryid
		ORDER BY t.query = '<insufficient privilege>', t.first_seen
		LIMIT 1
	) AS q ON true
	WHERE w.slowest >= slow_query_values.at_least OR w.queryid = ANY (slow_query_values.also)
$$;
COMMENT ON FUNCTION monitoring.slow_query_values(timestamptz, interval, float8, bigint[]) IS 'For alert rules: per statement, over all roles, the mean execution time (seconds) of its slowest interval that ended in (at - over, at], the executions in the window, and the text. Statements below at_least seconds are left out, except those whose queryid is in also.';
-- alerts: rules, their kinds, and the tables in which the state of every alert lives. evaluate.sql, which follows, turns
-- rules into alerts.
--
-- A rule row is locked FOR UPDATE by whoever edits it, and FOR SHARE SKIP LOCKED by an evaluation that is about to change
-- one of its alerts: an edit in a transaction that stays open puts off its own rule only.

----------------------------------------------------------------------------------------------------------------------
-- Rules
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.alert_rule_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
	function text NOT NULL,
	check_function text,
	description text NOT NULL DEFAULT '',
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.alert_rule_kinds IS 'Kinds of alert rules. Each names a function(at timestamptz, rule_ids bigint[]) returning TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb) that gives the current values of all those rules in one statement. Add a kind with CREATE FUNCTION and INSERT; a function that does not belong to the owner of the extension must be SECURITY DEFINER.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.kind IS 'Name of the kind, as given to create_alert_rule.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.function IS 'Schema-qualified name of the function that gives the values; one row per rule and label set.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.check_function IS 'Schema-qualified name of a function(rule jsonb) returning void that raises an error for a rule that the kind cannot evaluate; null: nothing to check.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.description IS 'What the kind compares with the threshold.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.builtin IS 'True for kinds that come with the extension; they are not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_kinds', 'WHERE NOT builtin');

CREATE SEQUENCE monitoring.alert_rule_defs_id_seq;
COMMENT ON SEQUENCE monitoring.alert_rule_defs_id_seq IS 'Ids of alert rules.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_defs_id_seq', '');

CREATE TABLE monitoring.alert_rule_defs (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.alert_rule_defs_id_seq'),
	name text NOT NULL UNIQUE,
	kind text NOT NULL DEFAULT 'metric' REFERENCES monitoring.alert_rule_kinds (kind),
	metric text,
	fn text,
	over interval NOT NULL CHECK (over > '0'),
	op text NOT NULL CHECK (op IN ('>', '>=', '<', '<=', '=', '<>')),
	threshold float8 NOT NULL CHECK (threshold > '-Infinity' AND threshold < 'Infinity'),
	resolve_threshold float8 CHECK (resolve_threshold > '-Infinity' AND resolve_threshold < 'Infinity'),
	pending_for interval NOT NULL DEFAULT '0' CHECK (pending_for >= '0'),
	keep_firing_for interval NOT NULL DEFAULT '0' CHECK (keep_firing_for >= '0'),
	max_age interval NOT NULL DEFAULT '5 minutes' CHECK (max_age >= '0'),
	severity text NOT NULL DEFAULT 'medium' CHECK (severity IN ('critical', 'high', 'medium', 'low', 'info')),
	selector jsonb NOT NULL DEFAULT '{}',
	by_labels text[] NOT NULL DEFAULT '{}',
	extra_labels jsonb NOT NULL DEFAULT '{}',
	annotations jsonb NOT NULL DEFAULT '{}',
	receivers text[],
	enabled boolean NOT NULL DEFAULT true,
	owner text NOT NULL,
	version integer NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	last_error text,
	last_error_at timestamptz
);
COMMENT ON TABLE monitoring.alert_rule_defs IS 'Alert rules as stored. Use create_alert_rule, update_alert_rule and drop_alert_rule to change them, and the view alert_rules to read them.';
COMMENT ON COLUMN monitoring.alert_rule_defs.id IS 'Number of the rule.';
COMMENT ON COLUMN monitoring.alert_rule_defs.name IS 'Name of the rule; part of the fingerprint of its alerts, so it never changes.';
COMMENT ON COLUMN monitoring.alert_rule_defs.kind IS 'What is evaluated, one of alert_rule_kinds.';
COMMENT ON COLUMN monitoring.alert_rule_defs.metric IS 'Metric that is read; null for kinds that read none.';
COMMENT ON COLUMN monitoring.alert_rule_defs.fn IS 'Function of the metric''s values in the window, as for value().';
COMMENT ON COLUMN monitoring.alert_rule_defs.over IS 'Length of the window that ends at the time of the evaluation.';
COMMENT ON COLUMN monitoring.alert_rule_defs.op IS 'How the value is compared with the threshold: >, >=, <, <=, = or <>.';
COMMENT ON COLUMN monitoring.alert_rule_defs.threshold IS 'The alert is raised while value op threshold holds.';
COMMENT ON COLUMN monitoring.alert_rule_defs.resolve_threshold IS 'A firing alert stays while value op resolve_threshold holds; null: the threshold itself.';
COMMENT ON COLUMN monitoring.alert_rule_defs.pending_for IS 'How long the breach must last before the alert fires; 0: at once.';
COMMENT ON COLUMN monitoring.alert_rule_defs.keep_firing_for IS 'How long a firing alert must be clear before it is resolved; 0: at once.';
COMMENT ON COLUMN monitoring.alert_rule_defs.max_age IS 'How long an alert keeps its state without data; then it ends with reason no_data.';
COMMENT ON COLUMN monitoring.alert_rule_defs.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.alert_rule_defs.selector IS 'Labels that a series must have to be read.';
COMMENT ON COLUMN monitoring.alert_rule_defs.by_labels IS 'Labels to group by: one alert per combination of their values. Empty: one alert.';
COMMENT ON COLUMN monitoring.alert_rule_defs.extra_labels IS 'Labels attached to the rule''s alerts.';
COMMENT ON COLUMN monitoring.alert_rule_defs.annotations IS 'Texts for people; {{value}}, {{threshold}}, {{severity}}, {{alertname}} and {{label}} are filled in.';
COMMENT ON COLUMN monitoring.alert_rule_defs.receivers IS 'Names of the receivers that are notified; null: every enabled receiver.';
COMMENT ON COLUMN monitoring.alert_rule_defs.enabled IS 'False: not evaluated.';
COMMENT ON COLUMN monitoring.alert_rule_defs.owner IS 'Role that created the rule.';
COMMENT ON COLUMN monitoring.alert_rule_defs.version IS 'Grows with every change of the definition.';
COMMENT ON COLUMN monitoring.alert_rule_defs.created_at IS 'When the rule was created.';
COMMENT ON COLUMN monitoring.alert_rule_defs.updated_at IS 'When the definition last changed.';
COMMENT ON COLUMN monitoring.alert_rule_defs.last_error IS 'Why the rule cannot be evaluated; null: it can.';
COMMENT ON COLUMN monitoring.alert_rule_defs.last_error_at IS 'Time of the evaluation at which last_error appeared.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_defs', '');

----------------------------------------------------------------------------------------------------------------------
-- State and history
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.alert_id_seq;
COMMENT ON SEQUENCE monitoring.alert_id_seq IS 'Ids of alerts.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_id_seq', '');

CREATE TABLE monitoring.alert_states (
	rule_id bigint NOT NULL,
	fingerprint text NOT NULL,
	series_labels jsonb NOT NULL,
	alert_id bigint NOT NULL UNIQUE,
	state text NOT NULL CHECK (state IN ('pending', 'firing', 'resolved')),
	value float8,
	details jsonb,
	active_at timestamptz NOT NULL,
	fired_at timestamptz,
	resolved_at timestamptz,
	clear_since timestamptz,
	missing_since timestamptz,
	updated_at timestamptz NOT NULL,
	-- not series_labels: labels can be longer than an index entry
	PRIMARY KEY (rule_id, fingerprint)
) WITH (fillfactor = 50); -- room for a change of all rows of a page, which then touches no index
COMMENT ON TABLE monitoring.alert_states IS 'State of every alert that is pending, firing or lately resolved. A row is written when something about it changes, not at every evaluation.';
COMMENT ON COLUMN monitoring.alert_states.rule_id IS 'The rule (alert_rules.id).';
COMMENT ON COLUMN monitoring.alert_states.fingerprint IS 'Hash of the rule''s name and series_labels; the same in every episode.';
COMMENT ON COLUMN monitoring.alert_states.series_labels IS 'Labels that tell this alert from the rule''s others.';
COMMENT ON COLUMN monitoring.alert_states.alert_id IS 'Number of the episode, from breach to end; a new one when the alert comes back.';
COMMENT ON COLUMN monitoring.alert_states.state IS 'pending, firing or resolved.';
COMMENT ON COLUMN monitoring.alert_states.value IS 'Value at the last change.';
COMMENT ON COLUMN monitoring.alert_states.details IS 'What the rule kind told about the value at the last change.';
COMMENT ON COLUMN monitoring.alert_states.active_at IS 'When the breach began.';
COMMENT ON COLUMN monitoring.alert_states.fired_at IS 'When it fired; null while pending.';
COMMENT ON COLUMN monitoring.alert_states.resolved_at IS 'When it was resolved; null before.';
COMMENT ON COLUMN monitoring.alert_states.clear_since IS 'While keep_firing_for runs: when the breach ended.';
COMMENT ON COLUMN monitoring.alert_states.missing_since IS 'While max_age runs: when data ended.';
COMMENT ON COLUMN monitoring.alert_states.updated_at IS 'Time of the evaluation that last changed the row.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_states', '');

CREATE SEQUENCE monitoring.alert_history_id_seq;
COMMENT ON SEQUENCE monitoring.alert_history_id_seq IS 'Ids of transitions.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_history_id_seq', '');

CREATE TABLE monitoring.alert_history (
	id bigint NOT NULL DEFAULT nextval('monitoring.alert_history_id_seq'),
	at timestamptz NOT NULL,
	alert_id bigint NOT NULL,
	rule_id bigint NOT NULL,
	rule_name text NOT NULL,
	severity text NOT NULL,
	series_labels jsonb NOT NULL,
	labels jsonb NOT NULL,
	from_state text NOT NULL,
	to_state text NOT NULL,
	reason text NOT NULL,
	value float8,
	op text NOT NULL,
	threshold float8 NOT NULL,
	annotations jsonb NOT NULL,
	details jsonb,
	active_at timestamptz NOT NULL,
	fired_at timestamptz,
	fingerprint text NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.alert_history IS 'Every transition of every alert, kept as long as retention_policies says (90 days).';
COMMENT ON COLUMN monitoring.alert_history.id IS 'Number of the transition.';
COMMENT ON COLUMN monitoring.alert_history.at IS 'Time of the evaluation that made it.';
COMMENT ON COLUMN monitoring.alert_history.alert_id IS 'Number of the episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_history.rule_id IS 'The rule (alert_rules.id), which may have been dropped since.';
COMMENT ON COLUMN monitoring.alert_history.rule_name IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.alert_history.severity IS 'Severity at that time.';
COMMENT ON COLUMN monitoring.alert_history.series_labels IS 'Labels that tell this alert from the rule''s others.';
COMMENT ON COLUMN monitoring.alert_history.labels IS 'All labels: the rule''s selector, its extra labels and series_labels.';
COMMENT ON COLUMN monitoring.alert_history.from_state IS 'inactive, pending or firing.';
COMMENT ON COLUMN monitoring.alert_history.to_state IS 'pending, firing, resolved, or inactive for a pending alert that did not fire.';
COMMENT ON COLUMN monitoring.alert_history.reason IS 'breach, clear, no_data, rule_changed, rule_disabled or rule_dropped.';
COMMENT ON COLUMN monitoring.alert_history.value IS 'Value at that time; the last known one when there is no data.';
COMMENT ON COLUMN monitoring.alert_history.op IS 'The rule''s operator at that time.';
COMMENT ON COLUMN monitoring.alert_history.threshold IS 'The rule''s threshold at that time.';
COMMENT ON COLUMN monitoring.alert_history.annotations IS 'The rule''s annotations, filled in.';
COMMENT ON COLUMN monitoring.alert_history.details IS 'What the rule kind told about the value.';
COMMENT ON COLUMN monitoring.alert_history.active_at IS 'When the episode''s breach began.';
COMMENT ON COLUMN monitoring.alert_history.fired_at IS 'When the episode fired; null if it did not.';
COMMENT ON COLUMN monitoring.alert_history.fingerprint IS 'Hash of the rule''s name and series_labels.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('alert_history', '1 day', 2, '90 days', '{"PRIMARY KEY (at, id)",(id),(alert_id),"(rule_id, at)"}');

----------------------------------------------------------------------------------------------------------------------
-- Checks
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.canonical_severity(severity text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	canonical text;
BEGIN
	SELECT s.severity INTO canonical
	FROM (VALUES ('critical', '{p0}'::text[]), ('high', '{p1}'), ('medium', '{p2,warning}'), ('low', '{p3}'),
		('info', '{p4}')) AS s (severity, aliases)
	WHERE lower(canonical_severity.severity) = s.severity OR lower(canonical_severity.severity) = ANY (s.aliases);
	IF canonical IS NULL THEN
		RAISE EXCEPTION 'unknown severity "%"', severity
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Severities are critical, high, medium, low and info; P0 to P4 and warning are understood too.';
	END IF;
	RETURN canonical;
END $$;
COMMENT ON FUNCTION monitoring.canonical_severity(text) IS 'A severity''s own name: critical, high, medium, low or info. Takes P0 to P4 and warning (medium) too, in any case. Error 22023 for others.';

CREATE FUNCTION monitoring.check_text_map(map jsonb, what text, max_bytes integer, allowed_control text DEFAULT '')
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	IF map IS NULL OR jsonb_typeof(map) <> 'object' THEN
		RAISE EXCEPTION 'an alert rule''s % must be a JSON object', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Its values are text, numbers or booleans, such as {"route": "/cart", "status": 200}.';
	ELSIF octet_length(map::text) > max_bytes THEN
		RAISE EXCEPTION 'an alert rule''s % must not take more than % bytes', what, max_bytes
			USING ERRCODE = 'program_limit_exceeded';
	END IF;
	SELECT min(e.key) INTO bad
	FROM jsonb_each(map) AS e
	WHERE jsonb_typeof(e.value) IN ('object', 'array') OR e.key = '' OR e.key ~ '[[:cntrl:]]'
		OR translate(e.value #>> '{}', allowed_control, '') ~ '[[:cntrl:]]';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in an alert rule''s % is not valid', regexp_replace(left(bad, 100), '[[:cntrl:]]', '?', 'g'), what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Values are text, numbers or booleans; neither keys nor values hold control characters.';
	END IF;
	RETURN (SELECT coalesce(jsonb_object_agg(e.key, e.value #>> '{}') FILTER (WHERE jsonb_typeof(e.value) <> 'null'), '{}')
		FROM jsonb_each(map) AS e);
END $$;
COMMENT ON FUNCTION monitoring.check_text_map(jsonb, text, integer, text) IS 'A JSON object of scalars with every value turned into text, nulls left out, as labels are stored. Control characters are refused but for those in allowed_control. Errors: 22023, or 54000 beyond max_bytes; both name it as what.';

CREATE FUNCTION monitoring.check_alert_rule(rule monitoring.alert_rule_defs) RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ops CONSTANT jsonb := '{">": ">", ">=": ">=", "<": "<", "<=": "<=", "=": "=", "==": "=", "<>": "<>", "!=": "<>"}';
	check_function text;
	bad text;
BEGIN
	IF rule.name IS NULL OR rule.name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an alert rule''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;

	SELECT k.check_function INTO check_function FROM monitoring.alert_rule_kinds AS k WHERE k.kind = rule.kind;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown alert rule kind "%"', rule.kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Known kinds: ' || (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM monitoring.alert_rule_kinds AS k) || '.';
	END IF;

	IF rule.op IS NULL OR NOT ops ? rule.op THEN
		RAISE EXCEPTION 'unknown operator "%"', rule.op
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Operators are >, >=, <, <=, = and <>.';
	END IF;
	rule.op := ops ->> rule.op;

	IF rule.threshold IS NULL OR rule.threshold IN ('NaN', 'Infinity', '-Infinity')
		OR rule.resolve_threshold IN ('NaN', 'Infinity', '-Infinity') THEN
		RAISE EXCEPTION 'an alert rule''s threshold must be a finite number' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.op IN ('=', '<>') AND rule.resolve_threshold IS NOT NULL THEN
		RAISE EXCEPTION 'operator % takes no resolve threshold', rule.op USING ERRCODE = 'invalid_parameter_value';
	ELSIF (rule.op IN ('>', '>=') AND rule.resolve_threshold > rule.threshold)
		OR (rule.op IN ('<', '<=') AND rule.resolve_threshold < rule.threshold) THEN
		RAISE EXCEPTION 'resolve threshold % is on the wrong side of threshold %', rule.resolve_threshold, rule.threshold
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It must be easier to stay firing than to fire: not above the threshold for > and >=, not below it for < and <=.';
	END IF;

	IF rule.over IS NULL OR rule.over <= '0' THEN
		RAISE EXCEPTION 'an alert rule''s window must be longer than zero'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a window such as ''5 minutes''.';
	ELSIF rule.pending_for IS NULL OR rule.pending_for < '0' THEN
		RAISE EXCEPTION 'pending_for must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.keep_firing_for IS NULL OR rule.keep_firing_for < '0' THEN
		RAISE EXCEPTION 'keep_firing_for must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.max_age IS NULL OR rule.max_age < '0' THEN
		RAISE EXCEPTION 'max_age must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	rule.severity := monitoring.canonical_severity(rule.severity);
	rule.selector := monitoring.check_text_map(rule.selector, 'labels', 4096);
	rule.extra_labels := monitoring.check_text_map(rule.extra_labels, 'extra labels', 4096);
	rule.annotations := monitoring.check_text_map(rule.annotations, 'annotations', 16384, E'\n\t');
	rule.enabled := coalesce(rule.enabled, true);

	IF rule.by_labels IS NULL OR array_ndims(rule.by_labels) > 1
		OR EXISTS (SELECT FROM unnest(rule.by_labels) AS l WHERE l IS NULL OR l = '' OR l ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'an alert rule''s "by" must be a list of names of labels'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give them as in ''{route,method}''.';
	END IF;
	-- sorted and without repeats: rules that read the same share one reading
	rule.by_labels := ARRAY(SELECT DISTINCT l FROM unnest(rule.by_labels) AS l ORDER BY l);

	SELECT min(n) INTO bad
	FROM unnest(rule.receivers) AS n
	WHERE NOT EXISTS (SELECT FROM monitoring.receivers AS r WHERE r.name = n);
	IF bad IS NOT NULL OR array_position(rule.receivers, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.create_receiver first.';
	END IF;

	IF check_function IS NOT NULL THEN
		EXECUTE format('SELECT %s($1)', monitoring.alert_kind_function(check_function, 'jsonb')) USING to_jsonb(rule);
	END IF;
	RETURN rule;
END $$;
COMMENT ON FUNCTION monitoring.check_alert_rule(monitoring.alert_rule_defs) IS 'A rule in the form in which it is stored, after all checks. Errors: 22023 for anything that is not valid, 54000 for labels or annotations that are too long, 42704 for a receiver that does not exist.';

CREATE FUNCTION monitoring.alert_kind_function(function text, arguments text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	f regprocedure := to_regprocedure(format('%s(%s)', function, arguments));
BEGIN
	IF f IS NULL THEN
		RAISE EXCEPTION 'function %(%) of an alert rule kind does not exist', function, arguments
			USING ERRCODE = 'undefined_function', HINT = 'Name it with its schema in monitoring.alert_rule_kinds.';
	END IF;
	-- An evaluation runs with the rights of the extension's owner, which nobody else's code may have.
	IF NOT EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = f AND (p.prosecdef
		OR p.proowner = (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'monitoring'))) THEN
		RAISE EXCEPTION 'function % of an alert rule kind must be SECURITY DEFINER', f
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'It does not belong to the owner of the extension.',
				HINT = 'Use ALTER FUNCTION with SECURITY DEFINER and SET search_path.';
	END IF;
	RETURN f::regproc::text;
END $$;
COMMENT ON FUNCTION monitoring.alert_kind_function(text, text) IS 'The quoted name of a rule kind''s function with these argument types. Errors: 42883 if it does not exist, 42501 if it would run with rights that are not its owner''s.';

CREATE FUNCTION monitoring.alert_rule_kind_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.alert_kind_function(NEW.function, 'timestamptz, bigint[]');
	IF NEW.check_function IS NOT NULL THEN
		PERFORM monitoring.alert_kind_function(NEW.check_function, 'jsonb');
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.alert_rule_kind_check() IS 'Trigger of alert_rule_kinds: the functions must exist (42883) and run with their owner''s rights (42501).';

CREATE TRIGGER alert_rule_kind_check BEFORE INSERT OR UPDATE ON monitoring.alert_rule_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.alert_rule_kind_check();
COMMENT ON TRIGGER alert_rule_kind_check ON monitoring.alert_rule_kinds IS 'Checks the functions that a kind names.';

----------------------------------------------------------------------------------------------------------------------
-- Creating and changing rules
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_alert_rule(name text, metric text, fn text, over interval, op text, threshold float8,
	pending_for interval DEFAULT '0', severity text DEFAULT 'medium', labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	annotations jsonb DEFAULT '{}', resolve_threshold float8 DEFAULT NULL, keep_firing_for interval DEFAULT '0',
	receivers text[] DEFAULT NULL, kind text DEFAULT 'metric', max_age interval DEFAULT '5 minutes',
	extra_labels jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule monitoring.alert_rule_defs;
BEGIN
	rule.name := create_alert_rule.name;
	rule.kind := create_alert_rule.kind;
	rule.metric := create_alert_rule.metric;
	rule.fn := create_alert_rule.fn;
	rule.over := create_alert_rule.over;
	rule.op := create_alert_rule.op;
	rule.threshold := create_alert_rule.threshold;
	rule.resolve_threshold := create_alert_rule.resolve_threshold;
	rule.pending_for := create_alert_rule.pending_for;
	rule.keep_firing_for := create_alert_rule.keep_firing_for;
	rule.max_age := create_alert_rule.max_age;
	rule.severity := create_alert_rule.severity;
	rule.selector := create_alert_rule.labels;
	rule.by_labels := create_alert_rule.by;
	rule.extra_labels := create_alert_rule.extra_labels;
	rule.annotations := create_alert_rule.annotations;
	rule.receivers := create_alert_rule.receivers;
	rule := monitoring.check_alert_rule(rule);

	rule.id := nextval('monitoring.alert_rule_defs_id_seq');
	-- current_user is the owner of this function
	rule.owner := CASE WHEN current_setting('role') = 'none' THEN session_user ELSE current_setting('role') END;
	rule.version := 1;
	rule.created_at := clock_timestamp();
	rule.updated_at := rule.created_at;
	INSERT INTO monitoring.alert_rule_defs SELECT rule.* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert rule "%" already exists', rule.name
			USING ERRCODE = 'duplicate_object', HINT = 'Change it with monitoring.update_alert_rule.';
	END IF;
	RETURN rule.id;
END $$;
COMMENT ON FUNCTION monitoring.create_alert_rule(text, text, text, interval, text, float8, interval, text, jsonb, text[], jsonb, float8, interval, text[], text, interval, jsonb) IS 'Create an alert rule and return its id. The alert is raised while fn of the metric''s values in the window `over` compares with op (>, >=, <, <=, =, <>) to threshold, and fires once that has lasted pending_for. labels choose the series, by gives one alert per combination of those labels'' values. annotations are texts with {{label}} and {{value}}. resolve_threshold and keep_firing_for make it stay firing longer, max_age is how long it keeps its state without data. receivers: null for every enabled one, empty for nobody. extra_labels are attached to the alerts. kind is one of alert_rule_kinds; other kinds than metric may take no metric and fn. Errors: 22023 for anything that is not valid, 42602 for a bad metric name, 54000 for labels or annotations that are too long, 42704 for an unknown receiver, 42710 if the name is taken.';

CREATE FUNCTION monitoring.create_slow_query_rule(name text, threshold interval DEFAULT NULL, over interval DEFAULT '10 minutes',
	severity text DEFAULT 'medium', pending_for interval DEFAULT '0', labels jsonb DEFAULT '{}', annotations jsonb DEFAULT NULL,
	keep_firing_for interval DEFAULT '0', receivers text[] DEFAULT NULL, extra_labels jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.create_alert_rule(
		name, NULL, NULL, over, '>=',
		extract(epoch FROM coalesce(threshold, current_setting('monitoring.slow_query_threshold')::interval))::float8,
		pending_for, severity, labels, '{}',
		coalesce(annotations, jsonb_build_object(
			'summary', 'A statement in database {{database}} took {{value}} seconds on average.',
			'query', '{{query}}')),
		NULL, keep_firing_for, receivers, 'slow_query', '0', extra_labels)
$$;
COMMENT ON FUNCTION monitoring.create_slow_query_rule(text, interval, interval, text, interval, jsonb, jsonb, interval, text[], jsonb) IS 'Create a rule that raises an alert for each statement whose mean execution time in some interval within the window `over` was at or above the threshold (default: monitoring.slow_query_threshold as it is now), and return its id. Alerts carry the labels database and queryid; labels such as {"database": "shop"} choose among them. Annotations may use {{query}} and {{calls}}. An alert ends when no interval within the window was slow any more. Needs pg_stat_statements. Errors as create_alert_rule.';

CREATE FUNCTION monitoring.lock_alert_rule(name text) RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule monitoring.alert_rule_defs;
BEGIN
	SELECT d.* INTO rule FROM monitoring.alert_rule_defs AS d WHERE d.name = lock_alert_rule.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
	END IF;
	RETURN rule;
END $$;
COMMENT ON FUNCTION monitoring.lock_alert_rule(text) IS 'The rule of this name, locked for an edit. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.update_alert_rule(name text, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changeable CONSTANT jsonb := '{"metric": "metric", "fn": "fn", "over": "over", "op": "op", "threshold": "threshold",
		"resolve_threshold": "resolve_threshold", "pending_for": "pending_for", "keep_firing_for": "keep_firing_for",
		"max_age": "max_age", "severity": "severity", "labels": "selector", "by": "by_labels",
		"extra_labels": "extra_labels", "annotations": "annotations", "receivers": "receivers", "enabled": "enabled"}';
	old_rule monitoring.alert_rule_defs := monitoring.lock_alert_rule(name);
	rule monitoring.alert_rule_defs;
	bad text;
BEGIN
	IF changes IS NULL OR jsonb_typeof(changes) <> 'object' THEN
		RAISE EXCEPTION 'changes must be a JSON object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give the parameters of create_alert_rule that change, as in {"threshold": 0.5, "severity": "high"}.';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(changes) AS k WHERE NOT changeable ? k;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION '"%" is nothing that can change in an alert rule', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'These can: ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(changeable) AS k) || '.';
	END IF;

	rule := jsonb_populate_record(old_rule,
		(SELECT coalesce(jsonb_object_agg(changeable ->> e.key, e.value), '{}') FROM jsonb_each(changes) AS e));
	rule := monitoring.check_alert_rule(rule);
	IF rule = old_rule THEN
		RETURN;
	END IF;

	UPDATE monitoring.alert_rule_defs AS d
	SET (metric, fn, over, op, threshold, resolve_threshold, pending_for, keep_firing_for, max_age, severity, selector,
		by_labels, extra_labels, annotations, receivers, enabled, version, updated_at, last_error, last_error_at)
		= (SELECT rule.metric, rule.fn, rule.over, rule.op, rule.threshold, rule.resolve_threshold, rule.pending_for,
			rule.keep_firing_for, rule.max_age, rule.severity, rule.selector, rule.by_labels, rule.extra_labels,
			rule.annotations, rule.receivers, rule.enabled, old_rule.version + 1, clock_timestamp(), NULL::text, NULL::timestamptz)
	WHERE d.id = rule.id;

	IF NOT rule.enabled THEN
		PERFORM monitoring.end_alerts(old_rule, 'rule_disabled');
	ELSIF (rule.metric, rule.fn, rule.selector, rule.by_labels)
		IS DISTINCT FROM (old_rule.metric, old_rule.fn, old_rule.selector, old_rule.by_labels) THEN
		PERFORM monitoring.end_alerts(old_rule, 'rule_changed');
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.update_alert_rule(text, jsonb) IS 'Change a rule: changes is a JSON object of parameters of create_alert_rule (all but name and kind) and "enabled", such as {"threshold": 0.5, "over": "10 minutes", "receivers": null}; what it lacks stays. Disabling a rule ends its alerts, and so does a change of metric, fn, labels or by, since they tell of something else. Errors: 42704 if there is no such rule, otherwise as create_alert_rule.';

CREATE FUNCTION monitoring.enable_alert_rule(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.update_alert_rule(name, jsonb_build_object('enabled', enabled))
$$;
COMMENT ON FUNCTION monitoring.enable_alert_rule(text, boolean) IS 'Enable or disable a rule. Disabling ends its alerts. Error 42704 if there is no such rule.';

CREATE FUNCTION monitoring.drop_alert_rule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule monitoring.alert_rule_defs := monitoring.lock_alert_rule(name);
BEGIN
	PERFORM monitoring.end_alerts(rule, 'rule_dropped');
	DELETE FROM monitoring.alert_rule_defs AS d WHERE d.id = rule.id;
END $$;
COMMENT ON FUNCTION monitoring.drop_alert_rule(text) IS 'Drop a rule; its alerts end. History stays. Error 42704 if there is no such rule.';

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.fill_text(template text, vars jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	filled text := '';
	rest text := template;
	start integer;
	length integer;
	hole text;
BEGIN
	-- One pass: what is filled in is never read again, so a label's value cannot ask for another.
	LOOP
		start := strpos(rest, '{{');
		length := strpos(substr(rest, start + 2), '}}') + 3;
		EXIT WHEN start = 0 OR length = 3;
		hole := substr(rest, start, length);
		filled := filled || left(rest, start - 1)
			|| coalesce(vars ->> regexp_replace(btrim(hole, '{} '), '^\$(labels\.)?', ''), hole);
		rest := substr(rest, start + length);
	END LOOP;
	RETURN filled || rest;
END $$;
COMMENT ON FUNCTION monitoring.fill_text(text, jsonb) IS 'The template with every {{name}} replaced by that member of vars; {{ $labels.name }} and {{ $value }} work too. Names that vars lacks stay as they are. Nothing is evaluated.';

CREATE FUNCTION monitoring.short_number(value float8) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN abs(value) BETWEEN 1e-6 AND 1e9
		THEN trim_scale(round(value::numeric, greatest(0, 3 - floor(log(abs(value)))::int)))::text
		ELSE value::text END
$$;
COMMENT ON FUNCTION monitoring.short_number(float8) IS 'A number for people to read: at least four significant digits, no more decimals than these need.';

CREATE FUNCTION monitoring.fill_annotations(rule monitoring.alert_rule_defs, state monitoring.alert_states) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	vars jsonb;
BEGIN
	IF strpos(rule.annotations::text, '{{') = 0 THEN
		RETURN rule.annotations;
	END IF;
	vars := coalesce(state.details, '{}') || rule.selector || rule.extra_labels || state.series_labels
		|| jsonb_build_object('value', monitoring.short_number(state.value), 'threshold', monitoring.short_number(rule.threshold), 'severity', rule.severity,
			'alertname', rule.name);
	RETURN (SELECT jsonb_object_agg(a.key, monitoring.fill_text(a.value, vars)) FROM jsonb_each_text(rule.annotations) AS a);
END $$;
COMMENT ON FUNCTION monitoring.fill_annotations(monitoring.alert_rule_defs, monitoring.alert_states) IS 'A rule''s annotations filled in for one of its alerts.';

CREATE VIEW monitoring.alert_rules AS
	SELECT d.id, d.name, d.kind, d.metric, d.fn, d.over, d.op, d.threshold, d.resolve_threshold, d.pending_for,
		d.keep_firing_for, d.max_age, d.severity, d.selector AS labels, d.by_labels AS by, d.extra_labels, d.annotations,
		d.receivers, d.enabled, d.owner,
		CASE WHEN NOT d.enabled THEN 'disabled' WHEN d.last_error IS NOT NULL THEN 'error' WHEN s.firing > 0 THEN 'firing'
			WHEN s.pending > 0 THEN 'pending' ELSE 'ok' END AS state,
		coalesce(s.pending, 0) AS pending, coalesce(s.firing, 0) AS firing, d.last_error, d.last_error_at, d.created_at,
		d.updated_at
	FROM monitoring.alert_rule_defs AS d
	LEFT JOIN (
		SELECT a.rule_id, pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'pending') AS pending,
			pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing') AS firing
		FROM monitoring.alert_states AS a
		GROUP BY a.rule_id
	) AS s ON s.rule_id OPERATOR(pg_catalog.=) d.id;
COMMENT ON VIEW monitoring.alert_rules IS 'Alert rules and how many alerts of each are pending and firing.';
COMMENT ON COLUMN monitoring.alert_rules.id IS 'Number of the rule.';
COMMENT ON COLUMN monitoring.alert_rules.name IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.alert_rules.kind IS 'What is evaluated, one of alert_rule_kinds.';
COMMENT ON COLUMN monitoring.alert_rules.metric IS 'Metric that is read; null for kinds that read none.';
COMMENT ON COLUMN monitoring.alert_rules.fn IS 'Function of the metric''s values in the window, as for value().';
COMMENT ON COLUMN monitoring.alert_rules.over IS 'Length of the window.';
COMMENT ON COLUMN monitoring.alert_rules.op IS 'How the value is compared with the threshold.';
COMMENT ON COLUMN monitoring.alert_rules.threshold IS 'The alert is raised while value op threshold holds.';
COMMENT ON COLUMN monitoring.alert_rules.resolve_threshold IS 'A firing alert stays while value op resolve_threshold holds; null: the threshold itself.';
COMMENT ON COLUMN monitoring.alert_rules.pending_for IS 'How long the breach must last before the alert fires.';
COMMENT ON COLUMN monitoring.alert_rules.keep_firing_for IS 'How long a firing alert must be clear before it is resolved.';
COMMENT ON COLUMN monitoring.alert_rules.max_age IS 'How long an alert keeps its state without data.';
COMMENT ON COLUMN monitoring.alert_rules.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.alert_rules.labels IS 'Labels that a series must have to be read.';
COMMENT ON COLUMN monitoring.alert_rules.by IS 'Labels to group by.';
COMMENT ON COLUMN monitoring.alert_rules.extra_labels IS 'Labels attached to the rule''s alerts.';
COMMENT ON COLUMN monitoring.alert_rules.annotations IS 'Texts for people, not filled in.';
COMMENT ON COLUMN monitoring.alert_rules.receivers IS 'Names of the receivers that are notified; null: every enabled receiver.';
COMMENT ON COLUMN monitoring.alert_rules.enabled IS 'False: not evaluated.';
COMMENT ON COLUMN monitoring.alert_rules.owner IS 'Role that created the rule.';
COMMENT ON COLUMN monitoring.alert_rules.state IS 'disabled, error, firing, pending or ok.';
COMMENT ON COLUMN monitoring.alert_rules.pending IS 'Number of pending alerts.';
COMMENT ON COLUMN monitoring.alert_rules.firing IS 'Number of firing alerts.';
COMMENT ON COLUMN monitoring.alert_rules.last_error IS 'Why the rule cannot be evaluated; null: it can.';
COMMENT ON COLUMN monitoring.alert_rules.last_error_at IS 'Time of the evaluation at which last_error appeared.';
COMMENT ON COLUMN monitoring.alert_rules.created_at IS 'When the rule was created.';
COMMENT ON COLUMN monitoring.alert_rules.updated_at IS 'When the definition last changed.';

CREATE VIEW monitoring.alerts AS
	SELECT s.alert_id, d.name AS rule, d.severity, s.state,
		d.selector OPERATOR(pg_catalog.||) d.extra_labels OPERATOR(pg_catalog.||) s.series_labels AS labels,
		s.value, d.op, d.threshold, s.active_at, s.fired_at, s.resolved_at,
		monitoring.fill_annotations(d, s) AS annotations, s.details, s.fingerprint, s.updated_at
	FROM monitoring.alert_states AS s
	JOIN monitoring.alert_rule_defs AS d ON d.id OPERATOR(pg_catalog.=) s.rule_id;
COMMENT ON VIEW monitoring.alerts IS 'Alerts that are pending, firing, or were resolved within the last day.';
COMMENT ON COLUMN monitoring.alerts.alert_id IS 'Number of the episode, from breach to end.';
COMMENT ON COLUMN monitoring.alerts.rule IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.alerts.severity IS 'Severity of the rule.';
COMMENT ON COLUMN monitoring.alerts.state IS 'pending, firing or resolved.';
COMMENT ON COLUMN monitoring.alerts.labels IS 'All labels: the rule''s selector, its extra labels and those of the group.';
COMMENT ON COLUMN monitoring.alerts.value IS 'Value at the last change.';
COMMENT ON COLUMN monitoring.alerts.op IS 'The rule''s operator.';
COMMENT ON COLUMN monitoring.alerts.threshold IS 'The rule''s threshold.';
COMMENT ON COLUMN monitoring.alerts.active_at IS 'When the breach began.';
COMMENT ON COLUMN monitoring.alerts.fired_at IS 'When it fired; null while pending.';
COMMENT ON COLUMN monitoring.alerts.resolved_at IS 'When it was resolved; null before.';
COMMENT ON COLUMN monitoring.alerts.annotations IS 'The rule''s annotations, filled in.';
COMMENT ON COLUMN monitoring.alerts.details IS 'What the rule kind told about the value at the last change.';
COMMENT ON COLUMN monitoring.alerts.fingerprint IS 'Hash of the rule''s name and the group''s labels; the same in every episode.';
COMMENT ON COLUMN monitoring.alerts.updated_at IS 'Time of the evaluation that last changed the alert.';
-- alerts, second part: rule kinds, and the evaluation that turns values into transitions.
--
-- An evaluation runs one statement per rule kind, whatever the number of rules: it reads the values of all enabled rules of
-- the kind, compares them with the stored states, and writes the states that change and their history. Outbox rows of all
-- kinds follow in the same transaction. Nothing changes, nothing is written.
--
-- Evaluations exclude each other by a lock on alert_rule_kinds that readers and writers of rules do not meet. It is a table
-- lock, not an advisory one, which any role could take and keep.

----------------------------------------------------------------------------------------------------------------------
-- Rule kinds
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.metric_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- rules that differ in operator, threshold or severity only share one reading
	WITH readings AS MATERIALIZED (
		SELECT r.rules, r.counts, v.series_labels, v.value
		FROM (
			SELECT d.metric, d.fn, d.over, d.selector, d.by_labels, array_agg(d.id) AS rules,
				d.fn IN ('count', 'rate', 'increase') AS counts
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (metric_rule_values.rule_ids)
			GROUP BY d.metric, d.fn, d.over, d.selector, d.by_labels
		) AS r
		CROSS JOIN LATERAL monitoring.series_values(r.metric, r.fn, r.over, r.selector, r.by_labels, metric_rule_values.at) AS v
	)
	SELECT r.id, v.series_labels, v.value, NULL::jsonb
	FROM readings AS v
	CROSS JOIN LATERAL unnest(v.rules) AS r (id)
	UNION ALL
	-- Where events are counted, none means zero: an alert must not wait for the next one to know that they ended, and
	-- one that says that there are too few must not wait for the first.
	SELECT e.rule_id, e.series_labels, 0, NULL
	FROM (
		SELECT d.id AS rule_id, s.series_labels
		FROM monitoring.alert_rule_defs AS d
		JOIN monitoring.alert_states AS s ON s.rule_id = d.id AND s.state <> 'resolved'
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase')
		UNION
		SELECT d.id, '{}'
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase') AND d.by_labels = '{}'
			AND EXISTS (SELECT FROM monitoring.metric_catalog AS m WHERE m.metric = d.metric)
	) AS e
	WHERE NOT EXISTS (
		SELECT FROM readings AS v
		CROSS JOIN LATERAL unnest(v.rules) AS r (id)
		WHERE v.counts AND (r.id, v.series_labels) = (e.rule_id, e.series_labels))
$$;
COMMENT ON FUNCTION monitoring.metric_rule_values(timestamptz, bigint[]) IS 'Rule kind metric: fn of a metric''s values in the window that ends at `at`, one row per rule and group of series with data. Without data, count, rate and increase are zero for pending and firing alerts, and for rules that do not group once their metric is known.';

CREATE FUNCTION monitoring.check_metric_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule ->> 'metric' IS NULL THEN
		RAISE EXCEPTION 'a metric rule needs a metric' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ->> 'metric' !~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$' THEN
		RAISE EXCEPTION 'invalid metric name "%"', left(rule ->> 'metric', 200)
			USING ERRCODE = 'invalid_name', DETAIL = 'A metric name matches [a-zA-Z_:][a-zA-Z0-9_:]* and has at most 200 characters.';
	ELSIF rule ->> 'fn' IS NULL THEN
		RAISE EXCEPTION 'a metric rule needs a function'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Functions are those of monitoring.value(), such as avg, rate or p95.';
	END IF;
	PERFORM monitoring.check_fn(rule ->> 'fn');
END $$;
COMMENT ON FUNCTION monitoring.check_metric_rule(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric or without a function that value() knows.';

CREATE FUNCTION monitoring.slow_query_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.over, d.selector, d.threshold
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (slow_query_rule_values.rule_ids)
	), active AS MATERIALIZED (
		SELECT r.id, r.over, r.threshold, s.series_labels
		FROM rules AS r
		JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved'
	), statements AS MATERIALIZED (
		SELECT r.over, jsonb_build_object('database', v.database, 'queryid', v.queryid::text) AS series_labels, v.mean_seconds,
			jsonb_build_object('query', left(v.query, 1000), 'calls', v.calls) AS details
		FROM (SELECT d.over, min(d.threshold) AS at_least FROM rules AS d GROUP BY d.over) AS r
		CROSS JOIN LATERAL monitoring.slow_query_values(slow_query_rule_values.at, r.over, r.at_least,
			ARRAY(SELECT (a.series_labels ->> 'queryid')::bigint FROM active AS a WHERE a.over = r.over)) AS v
	)
	SELECT r.id, s.series_labels, s.mean_seconds, s.details
	FROM rules AS r
	JOIN statements AS s ON s.over = r.over AND s.series_labels @> r.selector
	UNION ALL
	-- a statement that does not run is not slow
	SELECT a.id, a.series_labels, 0, NULL
	FROM active AS a
	WHERE a.threshold > 0 AND NOT EXISTS (
		SELECT FROM statements AS s WHERE s.over = a.over AND s.series_labels = a.series_labels)
$$;
COMMENT ON FUNCTION monitoring.slow_query_rule_values(timestamptz, bigint[]) IS 'Rule kind slow_query: mean seconds of each statement in its slowest interval within the window that ends at `at`, with labels database and queryid and details query and calls. Statements below every threshold are left out unless they have an alert; that of one that did not run at all gets 0.';

CREATE FUNCTION monitoring.check_slow_query_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule ->> 'op' NOT IN ('>', '>=') OR rule ->> 'resolve_threshold' IS NOT NULL THEN
		RAISE EXCEPTION 'a slow-query rule compares with > or >= and has no resolve threshold'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	ELSIF (rule ->> 'threshold')::float8 < 0 THEN
		RAISE EXCEPTION 'a slow-query rule''s threshold must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'by_labels' <> '[]' THEN
		RAISE EXCEPTION 'a slow-query rule takes no metric, function or grouping'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_slow_query_rule(jsonb) IS 'Raises 22023 for a slow-query rule with an operator that finds fast ones, a resolve threshold, a negative threshold, a metric, a function or labels to group by.';

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin) VALUES
	('metric', 'monitoring.metric_rule_values', 'monitoring.check_metric_rule', 'A function of a metric''s values in the window.', true),
	('slow_query', 'monitoring.slow_query_rule_values', 'monitoring.check_slow_query_rule', 'The mean execution time of each statement in its slowest interval within the window, in seconds.', true);

----------------------------------------------------------------------------------------------------------------------
-- Transitions
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.end_alerts(rule monitoring.alert_rule_defs, reason text, at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[];
BEGIN
	PERFORM monitoring.ensure_partition('alert_history', at);
	WITH ended AS (
		DELETE FROM monitoring.alert_states AS s WHERE s.rule_id = rule.id RETURNING s
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT end_alerts.at, (e.s).alert_id, rule.id, rule.name, rule.severity, (e.s).series_labels,
			rule.selector || rule.extra_labels || (e.s).series_labels, (e.s).state,
			CASE (e.s).state WHEN 'firing' THEN 'resolved' ELSE 'inactive' END, end_alerts.reason, (e.s).value, rule.op,
			rule.threshold, monitoring.fill_annotations(rule, e.s), (e.s).details, (e.s).active_at, (e.s).fired_at,
			(e.s).fingerprint
		FROM ended AS e
		WHERE (e.s).state IN ('pending', 'firing')
		ORDER BY (e.s).alert_id
		RETURNING id
	)
	SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO transitions FROM written AS w;
	PERFORM monitoring.enqueue_notifications(transitions);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.end_alerts(monitoring.alert_rule_defs, text, timestamptz) IS 'End all alerts of a rule for a reason that is not their value, with history and notifications, and return how many were pending or firing.';

----------------------------------------------------------------------------------------------------------------------
-- Evaluation
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.note_rule_errors(rule_ids bigint[], error text, at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	UPDATE monitoring.alert_rule_defs AS d
	SET last_error = left(error, 1000), last_error_at = CASE WHEN error IS NOT NULL THEN at END
	WHERE d.id IN (
		SELECT e.id
		FROM monitoring.alert_rule_defs AS e
		WHERE e.id = ANY (note_rule_errors.rule_ids) AND e.last_error IS DISTINCT FROM left(note_rule_errors.error, 1000)
		FOR NO KEY UPDATE SKIP LOCKED)
$$;
COMMENT ON FUNCTION monitoring.note_rule_errors(bigint[], text, timestamptz) IS 'Set or clear (null) the error of rules where it changes.';

-- What the functions of kinds return is estimated far too low; sorting labels to merge them would cost more than all else.
CREATE FUNCTION monitoring.evaluate_rules(kind_function text, rule_ids bigint[], at timestamptz, had_error boolean)
RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_mergejoin = off AS $$
DECLARE
	transitions bigint[];
	unique_labels boolean;
	half integer := cardinality(rule_ids) / 2;
BEGIN
	-- $1 the time, $2 the rules
	EXECUTE format($statement$
	WITH compared AS (
		SELECT coalesce(o.rule_id, s.rule_id) AS rule_id, coalesce(o.series_labels, s.series_labels) AS series_labels,
			o.value AS new_value, o.details AS new_details, s.fingerprint, s.alert_id, s.state, s.value, s.details,
			s.active_at, s.fired_at, s.resolved_at, s.clear_since, s.missing_since, s.place
		FROM (
			SELECT f.rule_id, coalesce(f.series_labels, '{}') AS series_labels, nullif(f.value, 'NaN') AS value, f.details
			FROM %s($1, $2) AS f
		) AS o
		FULL JOIN (SELECT a.*, a.ctid AS place FROM monitoring.alert_states AS a WHERE a.rule_id = ANY ($2)) AS s
			ON s.rule_id = o.rule_id AND s.series_labels = o.series_labels
	), judged AS (
		SELECT c.*, d.name, d.version, d.pending_for, d.keep_firing_for, d.max_age,
			c.state IS NOT NULL AND c.state <> 'resolved' AS active,
			CASE d.op
				WHEN '>' THEN c.new_value > b.bound
				WHEN '>=' THEN c.new_value >= b.bound
				WHEN '<' THEN c.new_value < b.bound
				WHEN '<=' THEN c.new_value <= b.bound
				WHEN '=' THEN c.new_value = b.bound
				WHEN '<>' THEN c.new_value <> b.bound
			END AS breach,
			-- never in the future, should the clock have been set back
			least(c.active_at, $1) AS since,
			least(c.clear_since, $1) AS clear,
			least(c.missing_since, $1) AS missing
		FROM compared AS c
		JOIN monitoring.alert_rule_defs AS d ON d.id = c.rule_id
		CROSS JOIN LATERAL (SELECT CASE WHEN c.state = 'firing' THEN coalesce(d.resolve_threshold, d.threshold)
			ELSE d.threshold END AS bound) AS b
		WHERE d.id = ANY ($2) AND d.enabled
	), moved AS (
		SELECT j.*,
			CASE
				WHEN NOT j.active AND j.breach THEN CASE WHEN j.pending_for = '0' THEN 'firing' ELSE 'pending' END
				WHEN NOT j.active THEN CASE WHEN $1 - j.resolved_at < '1 day' THEN 'resolved' ELSE 'forgotten' END
				WHEN j.breach THEN CASE WHEN $1 - j.since >= j.pending_for THEN 'firing' ELSE j.state END
				WHEN j.breach IS NULL AND $1 - j.missing < j.max_age THEN j.state
				WHEN j.state = 'pending' THEN 'inactive'
				WHEN j.breach IS NULL OR $1 - coalesce(j.clear, $1) >= j.keep_firing_for THEN 'resolved'
				ELSE 'firing'
			END AS to_state
		FROM (SELECT g.rule_id, g.series_labels, g.new_value, g.new_details, g.fingerprint, g.alert_id, g.state, g.value,
				g.details, g.active_at, g.fired_at, g.resolved_at, g.clear_since, g.missing_since, g.place, g.name, g.version,
				g.pending_for, g.keep_firing_for, g.max_age, g.active, g.breach, g.since, g.clear,
				CASE WHEN g.breach IS NULL THEN coalesce(g.missing, $1) END AS missing
			FROM judged AS g
			WHERE g.state IS NOT NULL OR g.breach) AS j
	), changed AS MATERIALIZED (
		SELECT m.rule_id, m.version, m.place, m.state AS old_state, m.active, m.to_state,
			CASE WHEN m.to_state IN ('pending', 'firing') THEN 'breach' WHEN m.breach IS NULL THEN 'no_data' ELSE 'clear' END AS reason,
			ROW(m.rule_id,
				coalesce(m.fingerprint, left(encode(sha256(convert_to(m.name || E'\n' || m.series_labels::text, 'UTF8')), 'hex'), 16)),
				m.series_labels,
				CASE WHEN m.active THEN m.alert_id ELSE nextval('monitoring.alert_id_seq') END,
				m.to_state,
				coalesce(m.new_value, m.value),
				coalesce(m.new_details, m.details),
				CASE WHEN m.active THEN m.since ELSE $1 END,
				CASE WHEN m.to_state = 'firing' AND m.state IS DISTINCT FROM 'firing' THEN $1 WHEN m.active THEN m.fired_at END,
				CASE WHEN m.to_state = 'resolved' THEN $1 END,
				CASE WHEN m.to_state = 'firing' AND NOT coalesce(m.breach, false) THEN
					CASE WHEN m.breach IS NULL THEN m.clear ELSE coalesce(m.clear, $1) END END,
				CASE WHEN m.to_state IN ('pending', 'firing') THEN m.missing END,
				$1)::monitoring.alert_states AS next
		FROM moved AS m
		WHERE m.to_state IS DISTINCT FROM m.state
			OR m.active AND (
				m.since IS DISTINCT FROM m.active_at
				OR m.missing IS DISTINCT FROM m.missing_since
				OR CASE WHEN m.breach THEN m.clear_since IS NOT NULL WHEN m.breach IS NULL THEN m.clear IS DISTINCT FROM m.clear_since
					ELSE m.state = 'firing' AND coalesce(m.clear, $1) IS DISTINCT FROM m.clear_since END)
	-- from here on nobody else writes these rules' states: what was read is what is changed
	), locked AS MATERIALIZED (
		SELECT d.id, d.version, d AS rule
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT c.rule_id FROM changed AS c) AND d.enabled
		FOR SHARE SKIP LOCKED
	), ready AS MATERIALIZED (
		SELECT c.*, l.rule FROM changed AS c JOIN locked AS l ON l.id = c.rule_id AND l.version = c.version
	), inserted AS (
		INSERT INTO monitoring.alert_states SELECT (r.next).* FROM ready AS r WHERE r.old_state IS NULL
		RETURNING 1
	), updated AS (
		UPDATE monitoring.alert_states AS s
		SET alert_id = (r.next).alert_id, state = (r.next).state, value = (r.next).value, details = (r.next).details,
			active_at = (r.next).active_at, fired_at = (r.next).fired_at, resolved_at = (r.next).resolved_at,
			clear_since = (r.next).clear_since, missing_since = (r.next).missing_since, updated_at = (r.next).updated_at
		FROM ready AS r
		WHERE s.ctid = r.place AND r.to_state NOT IN ('inactive', 'forgotten')
		RETURNING 1
	), deleted AS (
		DELETE FROM monitoring.alert_states AS s
		USING ready AS r
		WHERE s.ctid = r.place AND r.to_state IN ('inactive', 'forgotten')
		RETURNING 1
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT $1, (r.next).alert_id, r.rule_id, (r.rule).name, (r.rule).severity, (r.next).series_labels,
			(r.rule).selector || (r.rule).extra_labels || (r.next).series_labels,
			CASE WHEN r.active THEN r.old_state ELSE 'inactive' END, r.to_state, r.reason, (r.next).value, (r.rule).op,
			(r.rule).threshold, monitoring.fill_annotations(r.rule, r.next), (r.next).details, (r.next).active_at,
			(r.next).fired_at, (r.next).fingerprint
		FROM ready AS r
		WHERE r.to_state IS DISTINCT FROM r.old_state AND r.to_state <> 'forgotten'
		ORDER BY r.rule_id, (r.next).series_labels
		RETURNING id
	)
	SELECT (SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') FROM written AS w),
		(SELECT count(*) FROM ready)
			= (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated) + (SELECT count(*) FROM deleted)
	$statement$, kind_function) INTO transitions, unique_labels USING at, rule_ids;

	-- a new label set twice violates the primary key
	IF NOT unique_labels THEN
		RAISE EXCEPTION 'function % gave a value of the same labels twice', kind_function
			USING ERRCODE = 'cardinality_violation';
	END IF;
	IF had_error THEN
		PERFORM monitoring.note_rule_errors(rule_ids, NULL, at);
	END IF;
	RETURN transitions;
EXCEPTION WHEN OTHERS THEN
	-- what is no rule's fault: transaction state, serialization, full disk, connections, intervention, the system
	IF left(SQLSTATE, 2) IN ('25', '40', '57', '58') OR SQLSTATE IN ('53100', '53300') THEN
		RAISE;
	ELSIF half = 0 THEN
		PERFORM monitoring.note_rule_errors(rule_ids, SQLERRM, at);
		RETURN '{}';
	END IF;
	-- Halving finds the rule at fault; from then on it is evaluated apart from the others.
	RETURN monitoring.evaluate_rules(kind_function, rule_ids[:half], at, had_error)
		|| monitoring.evaluate_rules(kind_function, rule_ids[half + 1:], at, had_error);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_rules(text, bigint[], timestamptz, boolean) IS 'Evaluate rules of one kind in one statement: change their alerts'' states, write history and return its ids. A rule that fails gets its last_error and disturbs no other; had_error says that these rules have one, to be cleared on success.';

CREATE FUNCTION monitoring.evaluate_all_rules(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[] := '{}';
	kind_function text;
	rules record;
	failed_rule bigint;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of an evaluation must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.ensure_partition('alert_history', at);

	FOR rules IN
		SELECT k.kind, k.function,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NULL), '{}') AS good,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NOT NULL), '{}') AS failed
		FROM monitoring.alert_rule_kinds AS k
		JOIN monitoring.alert_rule_defs AS d ON d.kind = k.kind
		WHERE d.enabled
		GROUP BY k.kind, k.function
		ORDER BY k.kind
	LOOP
		BEGIN
			kind_function := monitoring.alert_kind_function(rules.function, 'timestamptz, bigint[]');
		EXCEPTION WHEN undefined_function OR insufficient_privilege OR syntax_error OR invalid_schema_name OR undefined_object THEN
			PERFORM monitoring.note_rule_errors(rules.good || rules.failed, SQLERRM, at);
			CONTINUE;
		END;
		IF cardinality(rules.good) > 0 THEN
			transitions := transitions || monitoring.evaluate_rules(kind_function, rules.good, at, false);
		END IF;
		-- One statement each, so a bounded number at a time: a random choice needs no memory of whose turn it is.
		FOR failed_rule IN SELECT f FROM unnest(rules.failed) AS f ORDER BY random() LIMIT 20 LOOP
			transitions := transitions || monitoring.evaluate_rules(kind_function, ARRAY[failed_rule], at, true);
		END LOOP;
	END LOOP;
	PERFORM monitoring.enqueue_notifications(transitions);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_all_rules(timestamptz) IS 'What evaluate_alerts does once it has the lock that keeps evaluations apart.';

CREATE FUNCTION monitoring.evaluate_alerts(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
	BEGIN
		LOCK TABLE monitoring.alert_rule_kinds IN SHARE UPDATE EXCLUSIVE MODE;
	EXCEPTION WHEN lock_not_available THEN
		RAISE NOTICE 'another evaluation of the alert rules is under way';
		RETURN 0;
	END;
	RETURN monitoring.evaluate_all_rules(at);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_alerts(timestamptz) IS 'Evaluate all enabled alert rules as of the given time and return the number of transitions. Alerts that do not change write nothing. A second call waits up to 5 seconds for one that is running, then returns 0 with a notice. Error 22023 for a time that is not finite.';

-- The worker has more to do than to wait; that evaluations do not happen must show.
CREATE FUNCTION monitoring.evaluate_alerts_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
BEGIN
	BEGIN
		LOCK TABLE monitoring.alert_rule_kinds IN SHARE UPDATE EXCLUSIVE MODE;
	EXCEPTION WHEN lock_not_available THEN
		RAISE EXCEPTION 'another evaluation of the alert rules is under way'
			USING ERRCODE = 'lock_not_available',
				HINT = 'A session that has called monitoring.evaluate_alerts() must end its transaction.';
	END;
	PERFORM monitoring.evaluate_all_rules(at);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_alerts_job(timestamptz) IS 'The job that evaluates the alert rules every monitoring.evaluation_interval. Error 55P03 if another evaluation does not end within half a second.';

INSERT INTO monitoring.jobs (name, function, setting, priority)
VALUES ('evaluate_alerts', 'monitoring.evaluate_alerts_job', 'monitoring.evaluation_interval', 50);
-- notify: receivers, outbox, formatters. The notifier worker (notifier.c) claims rows of the outbox, lets the receiver
-- kind's function turn each into a request, sends it through the sender program, and records the outcome. All decisions
-- (what is due, what is tried again and when, what is given up) are made here.

----------------------------------------------------------------------------------------------------------------------
-- Receiver kinds: rows naming a formatter
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
	function text NOT NULL,
	config_keys text[] NOT NULL DEFAULT '{}',
	description text NOT NULL DEFAULT '',
	owner name NOT NULL DEFAULT current_user,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.receiver_kinds IS 'Kinds of receivers. Each names a formatter function(receiver jsonb, notification jsonb) returning TABLE (method text, url text, headers jsonb, body text) with exactly one row; it runs with the rights of the row''s owner. Add a kind with CREATE FUNCTION and INSERT.';
COMMENT ON COLUMN monitoring.receiver_kinds.kind IS 'Name of the kind, as given to create_receiver.';
COMMENT ON COLUMN monitoring.receiver_kinds.function IS 'Schema-qualified name of the formatter.';
COMMENT ON COLUMN monitoring.receiver_kinds.config_keys IS 'Keys that a receiver''s config may hold besides those every kind takes.';
COMMENT ON COLUMN monitoring.receiver_kinds.description IS 'What the kind sends.';
COMMENT ON COLUMN monitoring.receiver_kinds.owner IS 'Role that the formatter runs as; you must be a member of it.';
COMMENT ON COLUMN monitoring.receiver_kinds.builtin IS 'True for kinds that come with the extension; they are not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_kinds', 'WHERE NOT builtin');

CREATE FUNCTION monitoring.receiver_kind_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT pg_has_role(current_user, NEW.owner, 'MEMBER') THEN
		RAISE EXCEPTION 'permission denied to let a formatter run as role "%"', NEW.owner
			USING ERRCODE = 'insufficient_privilege';
	END IF;
	IF to_regprocedure(NEW.function || '(jsonb,jsonb)') IS NULL THEN
		RAISE EXCEPTION 'formatter %(jsonb, jsonb) does not exist', NEW.function
			USING ERRCODE = 'undefined_function', HINT = 'Give the schema too, as in myschema.format_mykind.';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.receiver_kind_check() IS 'Trigger of receiver_kinds: the formatter must exist (42883) and the writer must be a member of the owner (42501).';

CREATE TRIGGER receiver_kind_check BEFORE INSERT OR UPDATE ON monitoring.receiver_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.receiver_kind_check();
COMMENT ON TRIGGER receiver_kind_check ON monitoring.receiver_kinds IS 'Checks formatter and owner.';

----------------------------------------------------------------------------------------------------------------------
-- Receivers
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_defs (
	name text PRIMARY KEY,
	kind text NOT NULL REFERENCES monitoring.receiver_kinds (kind),
	url text NOT NULL,
	config jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE monitoring.receiver_defs IS 'Receivers with their full urls and configuration, which hold secrets: granted to nobody. See the view receivers.';
COMMENT ON COLUMN monitoring.receiver_defs.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_defs.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receiver_defs.url IS 'Where notifications go; may hold a token.';
COMMENT ON COLUMN monitoring.receiver_defs.config IS 'Options, as described for create_receiver.';
COMMENT ON COLUMN monitoring.receiver_defs.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receiver_defs.created_at IS 'When the receiver was created.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_defs', '');

-- Written out rather than in functions: who may read a view need not be able to call what it calls.
CREATE VIEW monitoring.receivers AS
	SELECT r.name, r.kind,
		coalesce(substring(r.url FROM '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]+(?=[/?#]|$)'), '') || '/…' AS url,
		(SELECT coalesce(jsonb_object_agg(e.key, CASE
				WHEN e.key = ANY ('{timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved}'::text[])
					THEN e.value ELSE '"***"'::jsonb END), '{}')
			FROM jsonb_each(r.config) AS e) AS config,
		r.enabled, r.created_at
	FROM monitoring.receiver_defs AS r;
COMMENT ON VIEW monitoring.receivers IS 'Receivers of notifications, secrets redacted.';
COMMENT ON COLUMN monitoring.receivers.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receivers.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receivers.url IS 'Scheme and host.';
COMMENT ON COLUMN monitoring.receivers.config IS 'Options; values that may be secrets show as ***.';
COMMENT ON COLUMN monitoring.receivers.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receivers.created_at IS 'When the receiver was created.';

CREATE FUNCTION monitoring.check_receiver_url(url text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	authority text := substring(url FROM '^[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)');
BEGIN
	IF url IS NULL OR octet_length(url) > 4096 THEN
		RAISE EXCEPTION 'a receiver needs a url of at most 4096 bytes' USING ERRCODE = 'invalid_parameter_value';
	ELSIF url ~ '[^!-~]' OR strpos(url, E'\\') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds a space, a control character, a backslash or a non-ASCII character'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Percent-encode such characters.';
	ELSIF authority IS NULL THEN
		RAISE EXCEPTION 'the receiver''s url must start with http:// or https://'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF strpos(authority, '@') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds credentials'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Put them into the config, as in {"headers": {"Authorization": "..."}}.';
	ELSIF authority !~ '^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$' THEN
		RAISE EXCEPTION 'the receiver''s url has no valid host' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_url(text) IS 'Raises 22023 unless the text is an http or https url without credentials, spaces or control characters.';

CREATE FUNCTION monitoring.check_receiver_config(config jsonb, kind_keys text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	known text[] := '{headers,timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved}'::text[] || kind_keys;
	bad text;
BEGIN
	IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	SELECT min(k) INTO bad FROM jsonb_object_keys(config) AS k WHERE k <> ALL (known);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in the receiver''s config', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Known keys: ' || array_to_string(known, ', ') || '.';
	END IF;

	SELECT min(e.key) INTO bad
	FROM jsonb_each(config) AS e
	JOIN (VALUES ('timeout_seconds', 0.01, 60), ('connect_timeout_seconds', 0.01, 60), ('max_attempts', 1, 100),
		('max_age_seconds', 1, 86400)) AS b (key, low, high) ON b.key = e.key
	WHERE CASE WHEN jsonb_typeof(e.value) = 'number' THEN (e.value)::numeric NOT BETWEEN b.low AND b.high ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is out of range', bad
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'timeout_seconds and connect_timeout_seconds take 0.01 to 60, max_attempts 1 to 100, max_age_seconds 1 to 86400.';
	END IF;

	IF config ? 'send_resolved' AND jsonb_typeof(config -> 'send_resolved') <> 'boolean' THEN
		RAISE EXCEPTION 'key "send_resolved" in the receiver''s config must be true or false'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;

	IF config ? 'headers' THEN
		IF jsonb_typeof(config -> 'headers') <> 'object' THEN
			RAISE EXCEPTION 'key "headers" in the receiver''s config must be an object'
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		SELECT min(h.key) INTO bad
		FROM jsonb_each(config -> 'headers') AS h
		WHERE h.key !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,128}$'
			OR lower(h.key) = ANY ('{idempotency-key,host,content-length,transfer-encoding,connection,upgrade,te,trailer,expect,keep-alive,proxy-authorization,proxy-connection}'::text[])
			OR jsonb_typeof(h.value) <> 'string' OR (h.value #>> '{}') ~ '[\x01-\x08\x0a-\x1f\x7f]'
			OR octet_length(h.value #>> '{}') > 8192;
		IF bad IS NOT NULL THEN
			RAISE EXCEPTION 'header "%" in the receiver''s config is not allowed', regexp_replace(left(bad, 128), '[^!-~]', '?', 'g')
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'A header''s value is text without control characters; headers that frame, route or identify the request cannot be set.';
		END IF;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_config(jsonb, text[]) IS 'Raises 22023 unless the config is an object of known keys with values in range.';

CREATE FUNCTION monitoring.create_receiver(name text, kind text, url text, config jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kind_keys text[];
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a receiver''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT k.config_keys INTO kind_keys FROM monitoring.receiver_kinds AS k WHERE k.kind = create_receiver.kind;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown receiver kind "%"', kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Known kinds: ' || (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM monitoring.receiver_kinds AS k) || '.';
	END IF;
	PERFORM monitoring.check_receiver_url(url);
	PERFORM monitoring.check_receiver_config(config, kind_keys);

	INSERT INTO monitoring.receiver_defs AS r (name, kind, url, config)
	VALUES (create_receiver.name, create_receiver.kind, create_receiver.url, create_receiver.config)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	RETURN name;
END $$;
COMMENT ON FUNCTION monitoring.create_receiver(text, text, text, jsonb) IS 'Create a receiver of notifications and return its name. Every enabled receiver gets the alerts of rules that name no receivers. The url''s host must be in monitoring.allowed_hosts when something is sent. Config keys of every kind, with defaults: headers (object of text), timeout_seconds (15) and connect_timeout_seconds (5) of one attempt, 0.01 to 60, max_attempts (10), 1 to 100, max_age_seconds (3600) after which a notification is given up, 1 to 86400, send_resolved (true). The url is http or https without credentials. Errors: 22023 for a bad name, kind, url or config, 42710 if it exists.';

CREATE FUNCTION monitoring.enable_receiver(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.receiver_defs AS r SET enabled = coalesce(enable_receiver.enabled, true)
	WHERE r.name = enable_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.enable_receiver(text, boolean) IS 'Enable or disable a receiver. A disabled one gets no new alerts, nor later those that fired meanwhile; what is queued waits until it is enabled or too old. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.drop_receiver(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.receiver_defs AS r WHERE r.name = drop_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	UPDATE monitoring.outbox AS o SET state = 'dead', lease_until = NULL, error = 'the receiver was dropped'
	WHERE o.receiver = drop_receiver.name AND o.state IN ('queued', 'sending', 'failed');
END $$;
COMMENT ON FUNCTION monitoring.drop_receiver(text) IS 'Drop a receiver; what is still queued for it becomes dead. Rules that name it keep the name and tell nobody under it until there is such a receiver again. Error 42704 if it does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- Outbox
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.outbox_id_seq;
COMMENT ON SEQUENCE monitoring.outbox_id_seq IS 'Ids of notifications.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.outbox_id_seq', '');

CREATE TABLE monitoring.outbox (
	id bigint NOT NULL DEFAULT nextval('monitoring.outbox_id_seq'),
	created_at timestamptz NOT NULL,
	receiver text NOT NULL,
	idempotency_key text NOT NULL DEFAULT gen_random_uuid(),
	group_key text NOT NULL,
	alert text NOT NULL,
	status text NOT NULL,
	alert_ids bigint[] NOT NULL DEFAULT '{}',
	payload jsonb NOT NULL,
	state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sending', 'sent', 'failed', 'dead')),
	attempts integer NOT NULL DEFAULT 0,
	next_attempt_at timestamptz NOT NULL,
	expires_at timestamptz NOT NULL,
	lease_until timestamptz,
	http_status integer,
	error text,
	latency float8,
	sent_at timestamptz
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE monitoring.outbox IS 'Notifications to send and sent, one row per receiver and group of alerts; written in the transaction that changes the alerts. Times are the real clock''s.';
COMMENT ON COLUMN monitoring.outbox.id IS 'Number of the notification, in order of creation.';
COMMENT ON COLUMN monitoring.outbox.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN monitoring.outbox.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.outbox.idempotency_key IS 'The same in every attempt, so that a receiver can drop repeats.';
COMMENT ON COLUMN monitoring.outbox.group_key IS 'Group of alerts; a receiver gets the notifications of a group in order, one at a time.';
COMMENT ON COLUMN monitoring.outbox.alert IS 'Name of the alert rule.';
COMMENT ON COLUMN monitoring.outbox.status IS 'firing, resolved or test.';
COMMENT ON COLUMN monitoring.outbox.alert_ids IS 'The alerts (alerts.alert_id) it tells of.';
COMMENT ON COLUMN monitoring.outbox.payload IS 'What the formatter gets: group key, labels, annotations and alerts.';
COMMENT ON COLUMN monitoring.outbox.state IS 'queued; sending (claimed until lease_until); failed (tried again at next_attempt_at); sent; dead (given up).';
COMMENT ON COLUMN monitoring.outbox.attempts IS 'Attempts begun.';
COMMENT ON COLUMN monitoring.outbox.next_attempt_at IS 'Not tried before this time.';
COMMENT ON COLUMN monitoring.outbox.expires_at IS 'Given up at this time.';
COMMENT ON COLUMN monitoring.outbox.lease_until IS 'While sending: when the claim ends and the row may be sent again.';
COMMENT ON COLUMN monitoring.outbox.http_status IS 'Status of the last response; null if none came.';
COMMENT ON COLUMN monitoring.outbox.error IS 'Why the last attempt failed; holds no secrets.';
COMMENT ON COLUMN monitoring.outbox.latency IS 'Seconds the last attempt took.';
COMMENT ON COLUMN monitoring.outbox.sent_at IS 'When it was delivered.';

CREATE TABLE monitoring.delivery_attempts (
	at timestamptz NOT NULL,
	notification_id bigint NOT NULL,
	receiver text NOT NULL,
	attempt integer NOT NULL,
	outcome text NOT NULL,
	http_status integer,
	latency float8,
	error text
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.delivery_attempts IS 'Every attempt to deliver a notification, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.delivery_attempts.at IS 'When the attempt ended.';
COMMENT ON COLUMN monitoring.delivery_attempts.notification_id IS 'The notification (notifications.id).';
COMMENT ON COLUMN monitoring.delivery_attempts.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.delivery_attempts.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN monitoring.delivery_attempts.outcome IS 'response (http_status says which), network (no response), refused (against the outbound rules), unformattable (the formatter failed; call it by hand for its message), unformatted (it failed, but may work the next time), postponed (formatters of other notifications took too long), lost (the sender or the notifier ended before the outcome was known).';
COMMENT ON COLUMN monitoring.delivery_attempts.http_status IS 'Status of the response; null if none came.';
COMMENT ON COLUMN monitoring.delivery_attempts.latency IS 'Seconds the attempt took; null if nothing was sent.';
COMMENT ON COLUMN monitoring.delivery_attempts.error IS 'Why it failed; holds no secrets.';

-- Of the outbox only unfinished rows are in the indexes besides the key: their size follows the backlog, not the
-- history. They serve a receiver's rows in order, earlier rows of a group, and rows that become too old.
INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes) VALUES
	('outbox', '1 day', 2, '30 days', ARRAY['PRIMARY KEY (created_at, id)',
		$$(receiver, id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(receiver, group_key, id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(expires_at) WHERE state IN ('queued', 'sending', 'failed')$$]),
	('delivery_attempts', '1 day', 2, '30 days', '{(notification_id)}');

CREATE VIEW monitoring.notifications AS
	SELECT o.id, o.receiver, o.alert, o.status, o.state, o.attempts, o.http_status, o.error, o.created_at, o.sent_at,
		o.latency, CASE WHEN o.state IN ('queued', 'failed') THEN o.next_attempt_at END AS next_attempt_at,
		o.idempotency_key, o.alert_ids
	FROM monitoring.outbox AS o;
COMMENT ON VIEW monitoring.notifications IS 'Notifications with the state of their delivery, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.notifications.id IS 'Number of the notification, as test_receiver returns it.';
COMMENT ON COLUMN monitoring.notifications.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.notifications.alert IS 'Name of the alert rule.';
COMMENT ON COLUMN monitoring.notifications.status IS 'firing, resolved or test.';
COMMENT ON COLUMN monitoring.notifications.state IS 'queued, sending, sent, failed (will be tried again) or dead (given up).';
COMMENT ON COLUMN monitoring.notifications.attempts IS 'Attempts begun.';
COMMENT ON COLUMN monitoring.notifications.http_status IS 'HTTP status of the last response; null if none came.';
COMMENT ON COLUMN monitoring.notifications.error IS 'Why the last attempt failed.';
COMMENT ON COLUMN monitoring.notifications.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN monitoring.notifications.sent_at IS 'When it was delivered.';
COMMENT ON COLUMN monitoring.notifications.latency IS 'Seconds the last attempt took.';
COMMENT ON COLUMN monitoring.notifications.next_attempt_at IS 'When it is tried next; null if it is being sent or finished.';
COMMENT ON COLUMN monitoring.notifications.idempotency_key IS 'Key that the receiver sees in every attempt.';
COMMENT ON COLUMN monitoring.notifications.alert_ids IS 'The alerts it tells of.';

----------------------------------------------------------------------------------------------------------------------
-- Enqueueing
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.format_time(t timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;
COMMENT ON FUNCTION monitoring.format_time(timestamptz) IS 'A time as RFC 3339 text in UTC, with milliseconds.';

CREATE FUNCTION monitoring.common_pairs(objects jsonb[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}')
	FROM (SELECT e.key, min(e.value) AS value
		FROM unnest(objects) AS o CROSS JOIN jsonb_each_text(o) AS e
		GROUP BY e.key
		HAVING count(*) = cardinality(objects) AND min(e.value) = max(e.value)) AS c
$$;
COMMENT ON FUNCTION monitoring.common_pairs(jsonb[]) IS 'The keys, with their values, that all the objects have in common.';

CREATE FUNCTION monitoring.make_payload(receiver text, group_key text, status text, group_labels jsonb, alerts jsonb)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('receiver', receiver, 'groupKey', group_key, 'status', status, 'groupLabels', group_labels,
		'commonLabels', monitoring.common_pairs(array_agg(a -> 'labels')),
		'commonAnnotations', monitoring.common_pairs(array_agg(a -> 'annotations')),
		'alerts', alerts)
	FROM jsonb_array_elements(alerts) AS a
$$;
COMMENT ON FUNCTION monitoring.make_payload(text, text, text, jsonb, jsonb) IS 'What formatters get as notification: receiver, groupKey, status, groupLabels, commonLabels, commonAnnotations and alerts, each with status, labels, annotations, startsAt, endsAt, fingerprint, value, threshold, op. The idempotencyKey is added when it is sent.';

CREATE FUNCTION monitoring.enqueue_notifications(transition_ids bigint[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	enqueued integer;
BEGIN
	IF coalesce(cardinality(transition_ids), 0) = 0 OR NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.enabled) THEN
		RETURN 0;
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);

	-- One notification tells a receiver of at most 50 alerts of one rule that went the same way.
	WITH transitions AS (
		SELECT h.id, h.alert_id, h.rule_id, h.rule_name, h.to_state, d.receivers,
			jsonb_build_object(
				'status', h.to_state,
				'labels', h.labels || jsonb_build_object('alertname', h.rule_name, 'severity', h.severity),
				'annotations', CASE WHEN h.value IS NULL THEN '{}' ELSE jsonb_build_object('value', h.value::text) END
					|| coalesce(h.annotations, '{}'),
				'startsAt', monitoring.format_time(coalesce(h.fired_at, h.at)),
				'endsAt', CASE WHEN h.to_state = 'firing' THEN '0001-01-01T00:00:00Z' ELSE monitoring.format_time(h.at) END,
				'fingerprint', h.fingerprint, 'value', h.value::text, 'threshold', h.threshold::text, 'op', h.op) AS doc
		FROM monitoring.alert_history AS h
		LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = h.rule_id
		WHERE h.id = ANY (transition_ids)
			AND (h.to_state = 'firing' OR (h.to_state = 'resolved' AND h.from_state = 'firing'))
	), routed AS (
		SELECT r.name AS receiver, coalesce((r.config ->> 'max_age_seconds')::float8, 3600) AS max_age, t.*,
			(row_number() OVER (PARTITION BY r.name, t.rule_id, t.to_state ORDER BY t.id) - 1) / 50 AS part
		FROM transitions AS t
		JOIN monitoring.receiver_defs AS r ON r.enabled AND (t.receivers IS NULL OR r.name = ANY (t.receivers))
		WHERE t.to_state = 'firing' OR coalesce((r.config ->> 'send_resolved')::boolean, true)
	), grouped AS (
		SELECT g.receiver, g.max_age, g.rule_name, g.to_state, min(g.id) AS first_id,
			format('{}:{alertname=%s}', to_json(g.rule_name)) AS group_key,
			array_agg(g.alert_id ORDER BY g.id) AS alert_ids, jsonb_agg(g.doc ORDER BY g.id) AS alerts
		FROM routed AS g
		GROUP BY g.receiver, g.max_age, g.rule_id, g.rule_name, g.to_state, g.part
	)
	INSERT INTO monitoring.outbox (created_at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT now_at, g.receiver, g.group_key, g.rule_name, g.to_state, g.alert_ids,
		monitoring.make_payload(g.receiver, g.group_key, g.to_state, jsonb_build_object('alertname', g.rule_name), g.alerts),
		now_at, now_at + make_interval(secs => g.max_age)
	FROM grouped AS g
	ORDER BY g.first_id, g.receiver;
	GET DIAGNOSTICS enqueued = ROW_COUNT;
	RETURN enqueued;
END $$;
COMMENT ON FUNCTION monitoring.enqueue_notifications(bigint[]) IS 'Write outbox rows for alert_history rows that went to firing, or from firing to resolved: to the rule''s receivers, or to every enabled one. Returns how many were enqueued.';

CREATE FUNCTION monitoring.test_receiver(name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	new_id bigint := nextval('monitoring.outbox_id_seq');
	max_age float8;
	is_enabled boolean;
	key text := format('{}:{alertname="TestNotification",test="%s"}', new_id);
	labels jsonb := '{"alertname": "TestNotification", "severity": "info"}';
BEGIN
	SELECT coalesce((r.config ->> 'max_age_seconds')::float8, 3600), r.enabled INTO max_age, is_enabled
	FROM monitoring.receiver_defs AS r WHERE r.name = test_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF NOT is_enabled THEN
		RAISE EXCEPTION 'receiver "%" is disabled', name
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Enable it with monitoring.enable_receiver.';
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox (id, created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	VALUES (new_id, now_at, name, key, 'TestNotification', 'test',
		monitoring.make_payload(name, key, 'firing', '{"alertname": "TestNotification"}', jsonb_build_array(jsonb_build_object(
			'status', 'firing', 'labels', labels,
			'annotations', '{"summary": "Test notification of monitoring: this receiver works."}'::jsonb,
			'startsAt', monitoring.format_time(now_at), 'endsAt', '0001-01-01T00:00:00Z',
			'fingerprint', left(md5(labels::text), 16)))),
		now_at, now_at + make_interval(secs => max_age));
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.test_receiver(text) IS 'Enqueue a test notification and return its id; the notifier sends it about a second after commit, and notifications shows the outcome. Errors: 42704 if the receiver does not exist, 55000 if it is disabled.';

----------------------------------------------------------------------------------------------------------------------
-- Delivery: called by the notifier
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.notify_has_work(at timestamptz, running boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			CROSS JOIN LATERAL (
				SELECT FROM monitoring.outbox AS o
				WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= at
					AND o.created_at > at - interval '2 days'
					AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
						WHERE e.receiver = o.receiver AND e.group_key = o.group_key AND e.id < o.id
							AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > at - interval '2 days')
				LIMIT 1) AS due
			WHERE r.enabled)
		OR EXISTS (
			SELECT FROM monitoring.outbox AS o
			WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= at AND coalesce(o.lease_until <= at, true))
		OR (NOT running AND EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			JOIN monitoring.outbox AS o ON o.receiver = r.name
			WHERE o.state = 'sending'));
END $$;
COMMENT ON FUNCTION monitoring.notify_has_work(timestamptz, boolean) IS 'Is a notification due, or too old, at that time? When no notifier is running, what is marked as being sent is work too: its notifier is gone.';

CREATE FUNCTION monitoring.notify_claim(at timestamptz, max_rows integer, per_receiver integer)
RETURNS TABLE (created_at timestamptz, id bigint, attempt integer, format_function oid, format_owner name,
	receiver jsonb, notification jsonb, connect_timeout float8, total_timeout float8)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	UPDATE monitoring.outbox AS o
	SET state = 'dead', lease_until = NULL,
		error = coalesce(o.error || '; ', '') || format('given up, too old (attempts: %s)', o.attempts)
	WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_claim.at
		AND coalesce(o.lease_until <= notify_claim.at, true);

	-- Nothing lives for more than a day (max_age_seconds): two days of partitions hold all that is unfinished. The
	-- receivers take turns, so that those whose requests hang do not keep the others from what is left of max_rows.
	RETURN QUERY
	WITH due AS MATERIALIZED (
		SELECT d.created_at, d.id, r.name, r.kind, r.url, r.config
		FROM monitoring.receiver_defs AS r
		CROSS JOIN LATERAL (
			SELECT count(*) AS sending FROM monitoring.outbox AS s
			WHERE s.receiver = r.name AND s.state = 'sending' AND s.lease_until > notify_claim.at
				AND s.created_at > notify_claim.at - interval '2 days') AS busy
		CROSS JOIN LATERAL (
			SELECT o.created_at, o.id FROM monitoring.outbox AS o
			WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= notify_claim.at
				AND o.created_at > notify_claim.at - interval '2 days'
				AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
					WHERE e.receiver = o.receiver AND e.group_key = o.group_key AND e.id < o.id
						AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_claim.at - interval '2 days')
			ORDER BY o.id
			LIMIT greatest(per_receiver - busy.sending, 0)
			FOR UPDATE OF o SKIP LOCKED) AS d
		WHERE r.enabled
		ORDER BY busy.sending + row_number() OVER (PARTITION BY r.name ORDER BY d.id), d.id
		LIMIT max_rows
	), timed AS (
		SELECT d.*, coalesce((d.config ->> 'connect_timeout_seconds')::float8, 5) AS connect_timeout,
			coalesce((d.config ->> 'timeout_seconds')::float8, 15) AS total_timeout
		FROM due AS d
	)
	UPDATE monitoring.outbox AS o
	SET state = 'sending', attempts = o.attempts + 1,
		lease_until = notify_claim.at + make_interval(secs => t.total_timeout + 60),
		next_attempt_at = notify_claim.at + make_interval(secs => t.total_timeout + 60)
	FROM timed AS t
	JOIN monitoring.receiver_kinds AS k ON k.kind = t.kind
	WHERE o.created_at = t.created_at AND o.id = t.id
	RETURNING o.created_at, o.id, o.attempts, to_regprocedure(k.function || '(jsonb,jsonb)')::oid, k.owner,
		jsonb_build_object('name', t.name, 'kind', t.kind, 'url', t.url, 'config', t.config),
		o.payload || jsonb_build_object('idempotencyKey', o.idempotency_key, 'id', o.id),
		t.connect_timeout, t.total_timeout;
END $$;
COMMENT ON FUNCTION monitoring.notify_claim(timestamptz, integer, integer) IS 'Mark as dead what is too old; claim due notifications, at most max_rows in all and so many that per_receiver are under way to each receiver, skipping any with an unfinished earlier one in its group. The claim ends with the lease, a minute after the timeout.';

CREATE FUNCTION monitoring.notify_record(at timestamptz, outcomes jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.ensure_partition('delivery_attempts', at);

	WITH outcome AS (
		SELECT b.created_at, b.id, b.receiver, b.attempts, b.expires_at, x.outcome, x.http_status, x.latency, x.error,
			coalesce((r.config ->> 'max_attempts')::integer, 10) AS max_attempts,
			CASE
				WHEN x.outcome = 'response' AND x.http_status BETWEEN 200 AND 299 THEN 'sent'
				WHEN x.outcome IN ('network', 'unformatted', 'postponed', 'lost') OR x.http_status IN (408, 425, 429) OR x.http_status >= 500 THEN 'failed'
				ELSE 'dead'
			END AS verdict,
			-- Full jitter spreads receivers that failed together; Retry-After is a floor.
			notify_record.at + make_interval(secs => greatest(x.retry_after,
				random() * least(300, 2 ^ least(b.attempts - 1, 20)))) AS next_at
		FROM jsonb_to_recordset(outcomes) AS x (created_at timestamptz, id bigint, attempt integer, outcome text,
			http_status integer, latency float8, retry_after float8, error text)
		JOIN monitoring.outbox AS b ON b.created_at = x.created_at AND b.id = x.id
			AND b.state = 'sending' AND b.attempts = x.attempt
		LEFT JOIN monitoring.receiver_defs AS r ON r.name = b.receiver
	), decided AS (
		-- What was lost or postponed may be another notification's fault: only its age ends that.
		SELECT o.*, o.verdict = 'failed' AND o.attempts >= o.max_attempts AND o.outcome NOT IN ('lost', 'postponed') AS exhausted,
			o.verdict = 'failed' AND o.next_at >= o.expires_at AS too_late
		FROM outcome AS o
	), changed AS (
		UPDATE monitoring.outbox AS b
		SET state = CASE WHEN d.exhausted OR d.too_late THEN 'dead' ELSE d.verdict END,
			lease_until = NULL, next_attempt_at = d.next_at, http_status = d.http_status, latency = d.latency,
			sent_at = CASE WHEN d.verdict = 'sent' THEN notify_record.at END,
			error = CASE
				WHEN d.exhausted THEN d.error || format('; given up (attempts: %s)', d.attempts)
				WHEN d.too_late THEN d.error || format('; given up, too old (attempts: %s)', d.attempts)
				ELSE d.error END
		FROM decided AS d
		WHERE b.created_at = d.created_at AND b.id = d.id
	)
	INSERT INTO monitoring.delivery_attempts (at, notification_id, receiver, attempt, outcome, http_status, latency, error)
	SELECT notify_record.at, d.id, d.receiver, d.attempts, d.outcome, d.http_status, d.latency, d.error FROM decided AS d;
END $$;
COMMENT ON FUNCTION monitoring.notify_record(timestamptz, jsonb) IS 'Record outcomes of attempts: 2xx is sent; no response, 408, 425, 429 and 5xx are tried again after a random delay that doubles up to 300 s and is at least what Retry-After asks, as is what could not be formatted for now or was lost; anything else is dead. Outcomes of claims that have ended are ignored.';

CREATE FUNCTION monitoring.notify_release(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	claims jsonb;
BEGIN
	SELECT jsonb_agg(jsonb_build_object('created_at', o.created_at, 'id', o.id, 'attempt', o.attempts, 'outcome', 'lost',
		'error', 'the notifier ended before the outcome was known'))
	INTO claims
	FROM monitoring.outbox AS o WHERE o.state = 'sending';
	IF claims IS NOT NULL THEN
		PERFORM monitoring.notify_record(at, claims);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.notify_release(timestamptz) IS 'Record what a notifier that is gone had claimed as lost, to be tried again with the usual delay; a database has one notifier at a time, so a new one calls this first.';

CREATE FUNCTION monitoring.notify_dispatch(at timestamptz) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_notify_dispatch';
COMMENT ON FUNCTION monitoring.notify_dispatch(timestamptz) IS 'Start this database''s notifier, or wake it, if a notification is due at that time. A periodic job.';

INSERT INTO monitoring.jobs (name, function, setting, priority, run_on_wake)
VALUES ('dispatch', 'monitoring.notify_dispatch', 'monitoring.evaluation_interval', 60, true);

CREATE TRIGGER wake_worker AFTER INSERT ON monitoring.outbox
	FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker();
COMMENT ON TRIGGER wake_worker ON monitoring.outbox IS 'New notifications are dispatched at commit.';

----------------------------------------------------------------------------------------------------------------------
-- Formatters
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.format_webhook(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'POST', receiver ->> 'url',
		'{"Content-Type": "application/json"}'::jsonb || coalesce(receiver -> 'config' -> 'headers', '{}')
			|| jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey'),
		jsonb_build_object(
			'version', '4',
			'groupKey', notification -> 'groupKey',
			'truncatedAlerts', 0,
			'status', notification -> 'status',
			'receiver', notification -> 'receiver',
			'groupLabels', notification -> 'groupLabels',
			'commonLabels', notification -> 'commonLabels',
			'commonAnnotations', notification -> 'commonAnnotations',
			'externalURL', '',
			'alerts', (SELECT jsonb_agg(jsonb_build_object(
					'status', a.value -> 'status', 'labels', a.value -> 'labels', 'annotations', a.value -> 'annotations',
					'startsAt', a.value -> 'startsAt', 'endsAt', a.value -> 'endsAt', 'generatorURL', '',
					'fingerprint', a.value -> 'fingerprint') ORDER BY a.ordinality)
				FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a))::text
$$;
COMMENT ON FUNCTION monitoring.format_webhook(jsonb, jsonb) IS 'Formatter of the kind webhook: the body of Alertmanager''s webhook, version 4, with an Idempotency-Key header.';

CREATE FUNCTION monitoring.slack_escape(t text, max_length integer) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	WITH piece AS (
		SELECT c.n, replace(replace(replace(c.ch, '&', '&amp;'), '<', '&lt;'), '>', '&gt;') AS e
		FROM string_to_table(left(t, max_length + 1), NULL) WITH ORDINALITY AS c (ch, n)
	), running AS (
		SELECT p.n, p.e, sum(length(p.e)) OVER (ORDER BY p.n) AS so_far, sum(length(p.e)) OVER () AS total FROM piece AS p
	)
	SELECT coalesce(string_agg(r.e, '' ORDER BY r.n) FILTER (WHERE r.so_far <= max_length - (r.total > max_length)::integer), '')
		|| CASE WHEN max(r.total) > max_length THEN '…' ELSE '' END
	FROM running AS r
$$;
COMMENT ON FUNCTION monitoring.slack_escape(text, integer) IS 'Text for Slack with & < > escaped, so that it can neither link nor mention; cut to so many characters after escaping, marked by an ellipsis.';

CREATE FUNCTION monitoring.format_slack(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH alert AS (
		SELECT a.ordinality AS n, a.value -> 'labels' AS labels, a.value -> 'annotations' AS annotations,
			coalesce(a.value -> 'annotations' ->> 'summary', a.value -> 'annotations' ->> 'description',
				a.value -> 'labels' ->> 'alertname') AS summary,
			CASE WHEN a.value ->> 'value' IS NOT NULL THEN concat_ws(' ', 'value', a.value ->> 'value',
				'(threshold ' || (a.value ->> 'op') || ' ' || (a.value ->> 'threshold') || ')') END AS reading,
			(SELECT string_agg(l.key || '=' || l.value, ', ' ORDER BY l.key COLLATE "C")
				FROM jsonb_each_text(a.value -> 'labels') AS l WHERE l.key <> 'alertname') AS label_text
		FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a
	), title AS (
		SELECT format('[%s] %s', upper(notification ->> 'status')
			|| CASE WHEN count(*) > 1 THEN ':' || count(*) ELSE '' END, notification -> 'groupLabels' ->> 'alertname') AS t
		FROM alert
	)
	-- The pieces keep Slack's limits: header 150 characters, section 3000.
	SELECT 'POST', receiver ->> 'url',
		'{"Content-Type": "application/json"}'::jsonb || coalesce(receiver -> 'config' -> 'headers', '{}')
			|| jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey'),
		jsonb_build_object(
			'text', (SELECT monitoring.slack_escape(title.t || ': ' || (SELECT summary FROM alert WHERE n = 1), 500) FROM title),
			'blocks', jsonb_build_array(
				jsonb_build_object('type', 'header', 'text', jsonb_build_object('type', 'plain_text',
					'text', (SELECT monitoring.slack_escape(title.t, 150) FROM title))))
			|| (SELECT jsonb_agg(jsonb_build_object('type', 'section', 'text', jsonb_build_object('type', 'mrkdwn',
					'text', concat_ws(E'\n', '*' || monitoring.slack_escape(a.summary, 1000) || '*',
						monitoring.slack_escape(a.reading, 200), monitoring.slack_escape(a.label_text, 1500)))) ORDER BY a.n)
				FROM alert AS a WHERE a.n <= 10)
			|| (SELECT CASE WHEN count(*) > 10 THEN jsonb_build_array(jsonb_build_object('type', 'section', 'text',
					jsonb_build_object('type', 'mrkdwn', 'text', format('… and %s more', count(*) - 10)))) ELSE '[]' END
				FROM alert))::text
$$;
COMMENT ON FUNCTION monitoring.format_slack(jsonb, jsonb) IS 'Formatter of the kind slack: a message for an incoming webhook, with fall-back text, a header and a section for each of the first ten alerts.';

INSERT INTO monitoring.receiver_kinds (kind, function, description, builtin) VALUES
	('webhook', 'monitoring.format_webhook', 'JSON body of Alertmanager''s webhook, version 4', true),
	('slack', 'monitoring.format_slack', 'message for a Slack incoming webhook', true);

-- grants: who may do what.  Roles are cluster-wide, so the extension makes
-- none; it grants plain privileges to roles you have.

CREATE TABLE monitoring.access_levels (
    level       text PRIMARY KEY,
    includes    text[] NOT NULL,
    views       text[] NOT NULL,
    functions   text[] NOT NULL,
    insertable  text[] NOT NULL,
    description text NOT NULL
);
COMMENT ON TABLE monitoring.access_levels IS 'What each level of grant_access() may read (views, and the partitioned tables that users read directly), call (functions, all signatures of a name) and insert into (views), on top of the levels it includes. An asterisk stands for all views or functions.';
COMMENT ON COLUMN monitoring.access_levels.level IS 'Name of the level, as given to grant_access().';
COMMENT ON COLUMN monitoring.access_levels.includes IS 'Levels whose rights it has too.';
COMMENT ON COLUMN monitoring.access_levels.views IS 'Names of views and partitioned tables it may read.';
COMMENT ON COLUMN monitoring.access_levels.functions IS 'Names of functions it may call.';
COMMENT ON COLUMN monitoring.access_levels.insertable IS 'Names of views it may insert into.';
COMMENT ON COLUMN monitoring.access_levels.description IS 'What the level is for.';
COMMENT ON COLUMN monitoring.access_levels.insertable IS 'Names of views it may insert into.';

INSERT INTO monitoring.access_levels VALUES
('viewer', '{}',
 '{*,alert_history,delivery_attempts}',
 '{value,percentile,percentiles,query,series_values,rolling,top,compare,sketch_over,sketches,
   live_series,self_values,check_fn,partitions,
   sketch,merge,sketch_count,sketch_sum,sketch_avg,sketch_min,sketch_max,sketch_stddev,share_below,max_relative_error,
   to_otlp,from_otlp,to_prometheus,from_prometheus,from_buckets,from_cumulative_buckets,from_buckets_relative_error,
   slow_queries_over,slow_query_values,worker_status,fill_annotations,fill_text,short_number,
   labels_match,segment_entries,chunk_points}', '{}',
 'reads metrics, statements, alerts and the state of the extension'),
('writer', '{}', '{ingest}', '{record,increment,set_gauge,record_at,record_values,record_batch,record_json}', '{ingest}',
 'records metrics'),
('responder', '{viewer}', '{}', '{enable_alert_rule,test_receiver}', '{}', 'works on alerts'),
('auditor', '{viewer}', '{}', '{}', '{}', 'reads everything that is recorded about use and access'),
('admin', '{viewer,writer,responder,auditor}', '{*}', '{*}', '{*}', 'configures everything');

-- The objects of a level and of all it includes.
CREATE FUNCTION monitoring.access_objects(level text)
RETURNS TABLE (privilege text, kind text, object text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM monitoring.access_levels l WHERE l.level = access_objects.level) THEN
        RAISE EXCEPTION 'unknown access level "%"', level
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Levels are viewer, writer, responder, auditor and admin.';
    END IF;
    RETURN QUERY
    WITH RECURSIVE levels AS (
        SELECT l.* FROM monitoring.access_levels l WHERE l.level = access_objects.level
        UNION
        SELECT i.* FROM levels JOIN monitoring.access_levels i ON i.level = ANY (levels.includes)
    )
    SELECT 'SELECT', 'TABLE', c.oid::regclass::text
    FROM pg_class c JOIN levels l ON c.relname = ANY (l.views) OR '*' = ANY (l.views) AND c.relkind = 'v'
    WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('v', 'p') AND NOT c.relispartition
    UNION
    SELECT 'INSERT', 'TABLE', c.oid::regclass::text
    FROM pg_class c JOIN levels l ON c.relname = ANY (l.insertable) OR '*' = ANY (l.insertable)
    WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind = 'v'
      AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid)
    UNION
    SELECT 'EXECUTE', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure::text
    FROM pg_proc p JOIN levels l ON p.proname = ANY (l.functions) OR '*' = ANY (l.functions)
    WHERE p.pronamespace = 'monitoring'::regnamespace;
END
$$;
COMMENT ON FUNCTION monitoring.access_objects(text) IS 'What an access level may do with which tables, views and functions.';

-- Changing the privileges of a table and attaching a partition to it both write
-- the table's row of pg_class: take the lock that makers of partitions take,
-- in the order in which they do.
CREATE FUNCTION monitoring.lock_for_grant(relation regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'p') THEN
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION monitoring.lock_for_grant(regclass) IS 'Keep partitions from being attached to a table while its privileges are changed.';

CREATE FUNCTION monitoring.grant_access(role name, level text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o record;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA monitoring TO %I', role);
    FOR o IN SELECT * FROM monitoring.access_objects(level) ORDER BY kind, object, privilege LOOP
        IF o.kind = 'TABLE' THEN
            PERFORM monitoring.lock_for_grant(o.object::regclass);
        END IF;
        EXECUTE format('GRANT %s ON %s %s TO %I', o.privilege, o.kind, o.object, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION monitoring.grant_access(name, text) IS 'Let a role use the extension as viewer (reads), writer (records metrics), responder (works on alerts), auditor, or admin; several calls add up. It grants what exists now. Only the owner of the extension and superusers can. Errors: unknown level (22023), unknown role (42704).';

CREATE FUNCTION monitoring.revoke_access(role name) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o record;
BEGIN
    -- Only what it has: partitions come and go meanwhile.
    FOR o IN
        SELECT DISTINCT c.oid::regclass AS relation, c.oid::regclass::text AS name
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('r', 'p', 'v')
          AND a.grantee = quote_ident(role)::regrole
        ORDER BY 2
    LOOP
        PERFORM monitoring.lock_for_grant(o.relation);
        EXECUTE format('REVOKE ALL ON TABLE %s FROM %I', o.relation, role);
    END LOOP;
    EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA monitoring FROM %I', role);
    EXECUTE format('REVOKE ALL ON SCHEMA monitoring FROM %I', role);
END
$$;
COMMENT ON FUNCTION monitoring.revoke_access(name) IS 'Take from a role every privilege on the schema and what is in it. Error 42704 for an unknown role.';

REVOKE ALL ON ALL ROUTINES IN SCHEMA monitoring FROM PUBLIC;
SELECT monitoring.grant_access('pg_monitor', 'viewer');
