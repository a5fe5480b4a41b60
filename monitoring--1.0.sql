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
CREATE FUNCTION monitoring.restore_policy() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE monitoring.retention_policies p
    SET partition_step = NEW.partition_step, premake = NEW.premake, keep = NEW.keep, enabled = NEW.enabled,
        dropped_before = NEW.dropped_before
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

CREATE FUNCTION monitoring.label_terms(metric text, labels jsonb) RETURNS int[]
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_label_terms';
COMMENT ON FUNCTION monitoring.label_terms(text, jsonb) IS 'A number for each of a series'' labels, a hash of metric, name and value: what series_catalog is searched by.';
-- Reads see what is entered at once: nothing is left in a list for later.
CREATE INDEX series_catalog_terms_idx ON monitoring.series_catalog USING gin (monitoring.label_terms(metric, labels))
WITH (fastupdate = off);
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
                                          WHEN 'chunks' THEN c.hourly
                                          WHEN 'hourly' THEN c.daily END
                     FROM monitoring.compaction_state c), '-infinity')
$$;
COMMENT ON FUNCTION monitoring.compacted_before(text) IS 'The time before which everything in a table of metrics has been taken over by the next coarser one; guards retention.';

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

CREATE TABLE monitoring.gap_log (
    since  timestamptz PRIMARY KEY,
    until  timestamptz NOT NULL,
    reason text NOT NULL CHECK (reason IN ('crash', 'residue', 'promotion', 'restore')),
    CHECK (until > since)
);
COMMENT ON TABLE monitoring.gap_log IS 'The rows of the view gaps. Written with the first flush after a start; kept as long as daily points are.';
COMMENT ON COLUMN monitoring.gap_log.since IS 'Time of the last flush that was stored.';
COMMENT ON COLUMN monitoring.gap_log.until IS 'Since when what is observed is kept again.';
COMMENT ON COLUMN monitoring.gap_log.reason IS 'crash, residue, promotion or restore: see the view gaps.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.gap_log', '');

CREATE VIEW monitoring.gaps AS SELECT g.since, g.until, g.reason FROM monitoring.gap_log g;
COMMENT ON VIEW monitoring.gaps IS 'Time of which it is not known what was observed, since the server ended without a clean stop, or this is another server than before. Counts, sums and rates over a piece of time that overlaps a gap may be too low; what was stored or late is read all the same. A row appears with the first flush after the start, a second or so.';
COMMENT ON COLUMN monitoring.gaps.since IS 'Time of the last flush that was stored.';
COMMENT ON COLUMN monitoring.gaps.until IS 'Since when what is observed is kept again.';
COMMENT ON COLUMN monitoring.gaps.reason IS 'crash: no clean stop; residue: what a clean stop had left in a file could not be written or read; promotion: the server was a standby, and what the primary had in memory is unknown; restore: it was restored from a backup.';

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
COMMENT ON FUNCTION monitoring.set_gauge(text, float8, jsonb) IS 'Set a gauge: a value that goes up and down, such as a queue length. Every call is kept in count, avg, min and max of its slot; first and last go by time. Otherwise as record().';

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
COMMENT ON FUNCTION monitoring.record_at(text, float8, timestamptz, jsonb, text) IS 'Record an observation that was made at another time: as record(), increment() or set_gauge() by kind distribution, counter or gauge. Up to a minute ago it is recorded as they do, and what is first and last of a gauge goes by at, whatever the order of the calls; what is older is stored when the transaction commits (in one-minute points, of which the one stored later is last), and rolls back with it. Others who record at the same time do not make that fail at any isolation level; only SERIALIZABLE transactions that also read metrics may conflict (40001), as with rows of any table. Errors besides theirs: more than a minute in the future, or older than one-minute points are kept (22008), unknown kind (22023).';

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
COMMENT ON FUNCTION monitoring.labels_match(jsonb, jsonb) IS 'Whether labels match a selector: an object whose scalars are the values asked for, and whose objects hold conditions by operator, as in {"route": "/cart", "status": {"!~": "2.."}, "tenant": {"exists": true}}. A missing label is taken for an empty one, but by exists; regular expressions (PostgreSQL''s) have to match the whole value. Errors: not such an object (22023), invalid regular expression (2201B).';

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
COMMENT ON FUNCTION monitoring.series_values(text, text, interval, jsonb, text[], timestamptz) IS 'As value(), one row for each combination of the labels named in by that has data; labels a series lacks are left out of series_labels. {...} is all labels: one row for each series. Without labels in by it is one row, or none without data. Errors as value().';

CREATE FUNCTION monitoring.last_observed(metric text, over interval DEFAULT '1 day', labels jsonb DEFAULT '{}',
                                         by text[] DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (series_labels jsonb, observed_at timestamptz)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_last_observed';
COMMENT ON FUNCTION monitoring.last_observed(text, interval, jsonb, text[], timestamptz) IS 'When there was data last in the window that ends at a time, one row for each combination of the labels named in by that has any. It is the end of the slot of 10 seconds that holds it, of the minute for what is older than a few hours, but no later than `at`; of gauges in slots the very moment. The whole window is read in minutes, as long as they are kept. Errors as value().';

CREATE TYPE monitoring.value_request AS (metric text, fn text, over interval, labels jsonb, by text[], shift interval);
COMMENT ON TYPE monitoring.value_request IS 'What read_values() is asked for: fn of a metric over a window, for the series that match labels (null: all), one value for each combination of the labels named in by (null: one for all). The window ends shift before the time that all requests share (null: at it).';
COMMENT ON COLUMN monitoring.value_request.metric IS 'Name of the metric.';
COMMENT ON COLUMN monitoring.value_request.fn IS 'Function, as in value().';
COMMENT ON COLUMN monitoring.value_request.over IS 'Length of the window.';
COMMENT ON COLUMN monitoring.value_request.labels IS 'Selects series, as in value(); null: all.';
COMMENT ON COLUMN monitoring.value_request.by IS 'Names of labels to group by; null: none.';
COMMENT ON COLUMN monitoring.value_request.shift IS 'How much earlier the window ends; null: not at all.';

CREATE FUNCTION monitoring.read_values(requests monitoring.value_request[], at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (request int, series_labels jsonb, value float8, newest timestamptz, error text)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 1000 AS 'MODULE_PATHNAME', 'mon_read_values';
COMMENT ON FUNCTION monitoring.read_values(monitoring.value_request[], timestamptz) IS 'As series_values(), for many requests in one pass: memory, catalog and storage are read once for all of them, as of one moment, and what several requests need is decoded once. A request is a row (metric text, fn text, over interval, labels jsonb, by text[], shift interval): null labels are all series, null by is no grouping, and shift, null for 0, is how much earlier than at its window ends. Returns a row for each request (by its position, from 1) and combination of labels that has data; one with nothing but an error where fn does not go with the metric''s kind. newest tells how old the data is: no observation that counts is later, and the last one is at most the width of a point earlier (10 seconds; a minute, hour or day where it is read so); of gauges in slots it is the very moment. Days and months of shift follow the calendar of the session''s time zone. Other errors as value(), with the number of the request in the context; metric, fn or over is null (22004).';

CREATE FUNCTION monitoring.query(metric text, fn text, since timestamptz, until timestamptz, step interval,
                                 labels jsonb DEFAULT '{}', by text[] DEFAULT '{}')
RETURNS TABLE (bucket timestamptz, series_labels jsonb, value float8)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_query';
COMMENT ON FUNCTION monitoring.query(text, text, timestamptz, timestamptz, interval, jsonb, text[]) IS 'A time series for charts: a row per bucket of length step from since to until, and per combination of the labels named in by; value is NULL where there is no data, never 0: nothing was observed, or it is not known what (see the view gaps). fn as in value(); rate is per second. Without data there are no groups, so no rows, unless by is empty. At most 100,000 buckets, and a million rows (54000); until must be later than since, step longer than zero (22023). Other errors as value(). Time is kept in slots of 10 seconds, which count in the bucket where they start; the first bucket starts with the slot of since, so that steps of a multiple of 10 seconds are exact.';

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
               accepted bigint, persisted bigint, pending bigint, dropped bigint, expired bigint, overflow bigint, refused bigint,
               flushes bigint, slots_merged bigint, next_flush bigint)
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_self';
COMMENT ON FUNCTION monitoring.self_values() IS 'The counters behind the view self.';

CREATE VIEW monitoring.self AS
SELECT v.*, CASE WHEN v.memory_bytes > 0 THEN v.memory_used_bytes::float8 / v.memory_bytes::float8 END AS memory_used_ratio,
       f.flushed_at AS last_flush
FROM monitoring.self_values() v LEFT JOIN monitoring.flush_state f ON true;
COMMENT ON VIEW monitoring.self IS 'The extension measures itself. Memory is shared by all databases; the rest is of this database since the server started: metrics and series in memory, slots not yet freed, observations accepted = persisted (written and committed) + pending (in memory) + dropped (no memory, or on a standby expired); overflow counts those kept in overflow series, refused the NaN and infinite values, slots_merged the slots made coarser because no flush came.';
COMMENT ON COLUMN monitoring.self.memory_bytes IS 'Memory for metrics, of all databases: monitoring.shared_memory.';
COMMENT ON COLUMN monitoring.self.memory_used_bytes IS 'Memory in use, of all databases.';
COMMENT ON COLUMN monitoring.self.metrics IS 'Metrics in memory.';
COMMENT ON COLUMN monitoring.self.series IS 'Series in memory.';
COMMENT ON COLUMN monitoring.self.slots IS '10-second slots in memory that are not freed yet.';
COMMENT ON COLUMN monitoring.self.accepted IS 'Observations taken: persisted + pending + dropped. Those made more than a minute ago are taken by the flush that follows their commit.';
COMMENT ON COLUMN monitoring.self.persisted IS 'Observations written to storage by flushes that committed.';
COMMENT ON COLUMN monitoring.self.pending IS 'Observations that are in memory only. A value that grows and grows means that flushes fail.';
COMMENT ON COLUMN monitoring.self.dropped IS 'Observations lost because not even an overflow series had room, or expired.';
COMMENT ON COLUMN monitoring.self.expired IS 'Of those dropped, the ones that a standby has let go after monitoring.standby_keep.';
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
	SELECT CASE WHEN strpos(query, '''') > 0 AND query ~* '(set_receiver_secret|create_receiver|alter_receiver)'
		THEN lower(substring(query FROM '(?i)(set_receiver_secret|create_receiver|alter_receiver)')) || '***'
		ELSE regexp_replace(regexp_replace(query,
		-- PASSWORD 'x', e'x' with escapes, or dollar-quoted; to the end if the literal was cut off
		'(\mpassword\s*)(''(''''|[^''])*(''|$)|e''(\\.|''''|[^''\\])*(''|$)|\$(\w*)\$.*(\$\7\$|$))', '\1''***''', 'gi'),
		-- in a connection string
		'(\mpassword=)(''''.*''''|[^\s'',;)$]+)', '\1***', 'gi')
		END
$$;
COMMENT ON FUNCTION monitoring.redact_statement(text) IS 'The text of a statement with passwords, in PASSWORD clauses and connection strings, replaced by ***; of one that gives literals to set_receiver_secret, create_receiver or alter_receiver only that name.';

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
	builtin boolean NOT NULL DEFAULT false,
	evaluation_order integer NOT NULL DEFAULT 0,
	every interval CHECK (every > '0')
);
COMMENT ON TABLE monitoring.alert_rule_kinds IS 'Kinds of alert rules. Each names a function(at timestamptz, rule_ids bigint[]) returning TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text) that gives the current values of all those rules in one statement; a row with an error says that its rule cannot be evaluated now. Add a kind with CREATE FUNCTION and INSERT; a function that does not belong to the owner of the extension must be SECURITY DEFINER.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.kind IS 'Name of the kind, as given to create_alert_rule.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.function IS 'Schema-qualified name of the function that gives the values; one row per rule and label set.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.check_function IS 'Schema-qualified name of a function(rule jsonb) returning void that raises an error for a rule that the kind cannot evaluate; null: nothing to check.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.description IS 'What the kind compares with the threshold.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.builtin IS 'True for kinds that come with the extension; they are not dumped.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.evaluation_order IS 'Kinds with lower numbers are evaluated first; a kind that reads other rules'' alerts needs a higher number than theirs.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.every IS 'How often rules of the kind are evaluated that do not say so themselves; null: at every evaluation.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_kinds', 'WHERE NOT builtin');

CREATE SEQUENCE monitoring.alert_rule_defs_id_seq;
COMMENT ON SEQUENCE monitoring.alert_rule_defs_id_seq IS 'Ids of alert rules.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_defs_id_seq', '');

CREATE TABLE monitoring.alert_rule_defs (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.alert_rule_defs_id_seq'),
	name text NOT NULL UNIQUE,
	kind text NOT NULL DEFAULT 'metric',
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
	last_error_at timestamptz,
	params jsonb NOT NULL DEFAULT '{}',
	every interval CHECK (every > '0'),
	repeat_every interval CHECK (repeat_every > '0'),
	no_data text NOT NULL DEFAULT 'ok' CHECK (no_data IN ('ok', 'alerting', 'keep', 'alert')),
	on_error text NOT NULL DEFAULT 'keep' CHECK (on_error IN ('keep', 'ok', 'alerting', 'alert')),
	max_instances integer NOT NULL DEFAULT 1000 CHECK (max_instances > 0),
	runbook_url text,
	impact_sql text,
	active_times jsonb,
	parent text,
	threshold_sql text,
	slo text,
	pack text,
	edited boolean NOT NULL DEFAULT false
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
COMMENT ON COLUMN monitoring.alert_rule_defs.extra_labels IS 'Labels attached to the rule''s alerts; {{label}}, {{severity}} and {{alertname}} are filled in.';
COMMENT ON COLUMN monitoring.alert_rule_defs.annotations IS 'Texts for people; {{value}}, {{threshold}}, {{severity}}, {{alertname}} and {{label}} are filled in.';
COMMENT ON COLUMN monitoring.alert_rule_defs.receivers IS 'Names of the receivers that are notified, at once and past the routes; null: as the routes say. Empty: nobody.';
COMMENT ON COLUMN monitoring.alert_rule_defs.enabled IS 'False: not evaluated.';
COMMENT ON COLUMN monitoring.alert_rule_defs.owner IS 'Role that created the rule.';
COMMENT ON COLUMN monitoring.alert_rule_defs.version IS 'Grows with every change of the definition, and when somebody ends an alert of the rule by hand: what an evaluation has read before is out of date.';
COMMENT ON COLUMN monitoring.alert_rule_defs.created_at IS 'When the rule was created.';
COMMENT ON COLUMN monitoring.alert_rule_defs.updated_at IS 'When the definition last changed.';
COMMENT ON COLUMN monitoring.alert_rule_defs.last_error IS 'Why the rule cannot be evaluated; null: it can.';
COMMENT ON COLUMN monitoring.alert_rule_defs.last_error_at IS 'Time of the evaluation at which last_error appeared.';
COMMENT ON COLUMN monitoring.alert_rule_defs.params IS 'What the kind needs besides metric, fn, over, selector and by_labels.';
COMMENT ON COLUMN monitoring.alert_rule_defs.every IS 'How often the rule is evaluated; null: at every evaluation.';
COMMENT ON COLUMN monitoring.alert_rule_defs.repeat_every IS 'Least time between two notifications about the same alert; null: as its route says.';
COMMENT ON COLUMN monitoring.alert_rule_defs.no_data IS 'What becomes of an alert without data for max_age: ok (it ends), alerting (it counts as a breach), keep (it stays), alert (it stays, and an alert with the label reason="no_data" is raised beside it).';
COMMENT ON COLUMN monitoring.alert_rule_defs.on_error IS 'What becomes of the alerts while the rule cannot be evaluated: keep (they stay), ok (they end), alerting (they count as breaches), alert (they stay, and an alert with the label reason="rule_error" is raised beside them).';
COMMENT ON COLUMN monitoring.alert_rule_defs.max_instances IS 'More label sets than this in one evaluation are an error of the rule; its alerts stay.';
COMMENT ON COLUMN monitoring.alert_rule_defs.runbook_url IS 'Where it is written what to do.';
COMMENT ON COLUMN monitoring.alert_rule_defs.impact_sql IS 'Query of one row that tells what an alert costs, run as the owner when it fires; its columns become details.impact.';
COMMENT ON COLUMN monitoring.alert_rule_defs.active_times IS 'Time intervals in which the rule is evaluated; outside them its alerts end. Null: always.';
COMMENT ON COLUMN monitoring.alert_rule_defs.parent IS 'Name of a rule; while it fires, alerts of this one are not notified.';
COMMENT ON COLUMN monitoring.alert_rule_defs.threshold_sql IS 'Query that gives thresholds by labels, run as the owner; an alert that no row fits takes threshold. Null: threshold for all.';
COMMENT ON COLUMN monitoring.alert_rule_defs.slo IS 'Objective that the rule watches; null: none.';
COMMENT ON COLUMN monitoring.alert_rule_defs.pack IS 'Pack that the rule came with; null: none.';
COMMENT ON COLUMN monitoring.alert_rule_defs.edited IS 'Whether the definition has changed since the rule was created: the pack or the objective that it came with leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_defs', '');

----------------------------------------------------------------------------------------------------------------------
-- State and history
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.alert_id_seq;
COMMENT ON SEQUENCE monitoring.alert_id_seq IS 'Ids of alerts.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_id_seq', '');

CREATE TABLE monitoring.alert_states (
	rule_id bigint NOT NULL,
	fingerprint text COLLATE "C" NOT NULL,
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
	threshold float8 NOT NULL,
	origin text NOT NULL DEFAULT 'value' CHECK (origin IN ('value', 'no_data', 'rule_error')),
	-- not series_labels: labels can be longer than an index entry
	PRIMARY KEY (rule_id, fingerprint)
) WITH (fillfactor = 50); -- room for a change of all rows of a page, which then touches no index
COMMENT ON TABLE monitoring.alert_states IS 'State of every alert that is pending, firing or lately resolved. A row is written when something about it changes, not at every evaluation.';
COMMENT ON COLUMN monitoring.alert_states.rule_id IS 'The rule (alert_rules.id).';
COMMENT ON COLUMN monitoring.alert_states.fingerprint IS 'Hash of the rule''s name, series_labels and, for alerts that tell of missing data or an error, origin; the same in every episode.';
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
COMMENT ON COLUMN monitoring.alert_states.threshold IS 'What the value was compared with at the last change.';
COMMENT ON COLUMN monitoring.alert_states.origin IS 'value, or which policy of the rule raised the alert: no_data or rule_error.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_states', '');

CREATE TABLE monitoring.evaluation_state (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	evaluated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.evaluation_state IS 'When alert rules were last evaluated, to the minute: after an outage timers of alerts start over. No row before the first evaluation.';
COMMENT ON COLUMN monitoring.evaluation_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.evaluation_state.evaluated_at IS 'Time of an evaluation that is at most a minute older than the last one.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.evaluation_state', '');

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
	fingerprint text COLLATE "C" NOT NULL
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
COMMENT ON COLUMN monitoring.alert_history.reason IS 'breach, clear, no_data, rule_error, inactive_hours, rule_changed, rule_disabled, rule_dropped or manual.';
COMMENT ON COLUMN monitoring.alert_history.value IS 'Value at that time; the last known one when there is no data.';
COMMENT ON COLUMN monitoring.alert_history.op IS 'The rule''s operator at that time.';
COMMENT ON COLUMN monitoring.alert_history.threshold IS 'What the value was compared with: the rule''s threshold at that time, or the one that its threshold_sql gave.';
COMMENT ON COLUMN monitoring.alert_history.annotations IS 'The rule''s annotations, filled in.';
COMMENT ON COLUMN monitoring.alert_history.details IS 'What the rule kind told about the value.';
COMMENT ON COLUMN monitoring.alert_history.active_at IS 'When the episode''s breach began.';
COMMENT ON COLUMN monitoring.alert_history.fired_at IS 'When the episode fired; null if it did not.';
COMMENT ON COLUMN monitoring.alert_history.fingerprint IS 'Hash of the rule''s name and series_labels.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('alert_history', '1 day', 2, '90 days', '{"PRIMARY KEY (at, id)",(alert_id)}');

----------------------------------------------------------------------------------------------------------------------
-- Checks
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.calling_role() RETURNS name
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'mon_calling_role';
COMMENT ON FUNCTION monitoring.calling_role() IS 'The role that a session acts as, also within functions that run with their owner''s rights. Error 42501 where the server runs somebody else''s code in the session: in maintenance commands and below the actions of foreign keys.';

CREATE FUNCTION monitoring.check_period(since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF since IS NULL OR until IS NULL OR NOT isfinite(since) OR NOT isfinite(until) OR since >= until THEN
		RAISE EXCEPTION 'a period must be finite and end after it began' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_period(timestamptz, timestamptz) IS 'Raises 22023 unless both times are finite and the second is later.';

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

CREATE FUNCTION monitoring.check_alert_rule(rule monitoring.alert_rule_defs, old_receivers text[] DEFAULT '{}')
RETURNS monitoring.alert_rule_defs
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
	ELSIF rule.every <= '0' OR rule.repeat_every <= '0' THEN
		RAISE EXCEPTION '"every" and repeat_every must be longer than zero'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave them out to evaluate at every evaluation, and to repeat as the route says.';
	ELSIF greatest(rule.over, rule.pending_for, rule.keep_firing_for, rule.max_age, rule.every, rule.repeat_every) > '100 years' THEN
		RAISE EXCEPTION 'an alert rule''s window, times and intervals are at most 100 years' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.no_data IS NULL OR rule.no_data NOT IN ('ok', 'alerting', 'keep', 'alert') THEN
		RAISE EXCEPTION 'unknown policy "%" for no data', rule.no_data
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Policies are ok, alerting, keep and alert.';
	ELSIF rule.on_error IS NULL OR rule.on_error NOT IN ('keep', 'ok', 'alerting', 'alert') THEN
		RAISE EXCEPTION 'unknown policy "%" for errors', rule.on_error
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Policies are keep, ok, alerting and alert.';
	ELSIF rule.max_instances IS NULL OR rule.max_instances NOT BETWEEN 1 AND 1000000 THEN
		RAISE EXCEPTION 'max_instances must be between 1 and 1000000' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.runbook_url !~ '^https?://[^[:cntrl:][:space:]]+$' OR octet_length(rule.runbook_url) > 2000 THEN
		RAISE EXCEPTION 'an alert rule''s runbook_url must start with http:// or https://, hold no spaces and not take more than 2000 bytes'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.params IS NULL OR jsonb_typeof(rule.params) <> 'object' THEN
		RAISE EXCEPTION 'an alert rule''s params must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	ELSIF greatest(octet_length(rule.params::text), octet_length(rule.impact_sql), octet_length(rule.threshold_sql)) > 65536 THEN
		RAISE EXCEPTION 'an alert rule''s params and queries must not take more than 65536 bytes each'
			USING ERRCODE = 'program_limit_exceeded';
	END IF;
	IF rule.active_times IS NOT NULL THEN
		rule.active_times := monitoring.check_time_spec(rule.active_times);
	END IF;
	IF rule.threshold_sql IS NOT NULL THEN
		PERFORM monitoring.check_rule_query(rule.owner::name, rule.threshold_sql);
	END IF;
	IF rule.impact_sql IS NOT NULL THEN
		PERFORM monitoring.check_rule_query(rule.owner::name, rule.impact_sql, any_columns => true);
	END IF;

	rule.severity := monitoring.canonical_severity(rule.severity);
	rule.selector := monitoring.check_text_map(rule.selector, 'labels', 4096);
	rule.extra_labels := monitoring.check_text_map(rule.extra_labels, 'extra labels', 4096);
	rule.annotations := monitoring.check_text_map(rule.annotations, 'annotations', 16384, E'\n\t');
	rule.enabled := coalesce(rule.enabled, true);
	IF rule.extra_labels ?| '{alertname,severity}' THEN
		RAISE EXCEPTION 'the labels alertname and severity of an alert are the name and the severity of its rule'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave them out of the extra labels.';
	END IF;

	IF rule.by_labels IS NULL OR array_ndims(rule.by_labels) > 1
		OR EXISTS (SELECT FROM unnest(rule.by_labels) AS l WHERE l IS NULL OR l = '' OR l ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'an alert rule''s "by" must be a list of names of labels'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give them as in ''{route,method}''.';
	END IF;
	-- sorted and without repeats: rules that read the same share one reading
	rule.by_labels := ARRAY(SELECT DISTINCT l FROM unnest(rule.by_labels) AS l ORDER BY l);

	SELECT min(n) INTO bad
	FROM unnest(rule.receivers) AS n
	WHERE n <> ALL (coalesce(old_receivers, '{}')) AND NOT EXISTS (SELECT FROM monitoring.receivers AS r WHERE r.name = n);
	IF bad IS NOT NULL OR array_position(rule.receivers, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.create_receiver first.';
	END IF;

	IF check_function IS NOT NULL THEN
		EXECUTE format('SELECT %s($1)', monitoring.alert_kind_function(check_function, 'jsonb')) USING to_jsonb(rule);
	END IF;
	RETURN rule;
END $$;
COMMENT ON FUNCTION monitoring.check_alert_rule(monitoring.alert_rule_defs, text[]) IS 'A rule in the form in which it is stored, after all checks; receivers that it named before need not exist. Errors: 22023 for anything that is not valid, 54000 for labels or annotations that are too long, 42704 for a receiver that does not exist.';

-- Rules on the way up are locked, so that two edits cannot close a circle together.
CREATE FUNCTION monitoring.check_rule_parent(rule monitoring.alert_rule_defs) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ancestor text := rule.parent;
	seen text[] := ARRAY[rule.name];
	next_one text;
BEGIN
	WHILE ancestor IS NOT NULL LOOP
		IF ancestor = ANY (seen) THEN
			RAISE EXCEPTION 'alert rule "%" cannot have the parent "%"', rule.name, rule.parent
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = 'The parents go in a circle: ' || array_to_string(seen || ancestor, ', ') || '.';
		END IF;
		SELECT d.parent INTO next_one FROM monitoring.alert_rule_defs AS d WHERE d.name = ancestor FOR SHARE;
		IF NOT FOUND THEN
			IF ancestor = rule.parent THEN
				RAISE EXCEPTION 'parent "%" of alert rule "%" does not exist', rule.parent, rule.name
					USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
			END IF;
			RETURN;
		END IF;
		seen := seen || ancestor;
		ancestor := next_one;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_parent(monitoring.alert_rule_defs) IS 'Raises 42704 if the rule''s parent does not exist, 22023 if the rule would be its own ancestor.';

CREATE FUNCTION monitoring.alert_fingerprint(rule_name text, series_labels jsonb, origin text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN left(encode(sha256(convert_to(rule_name || E'\n' || series_labels::text
	|| CASE origin WHEN 'value' THEN '' ELSE E'\n' || origin END, 'UTF8')), 'hex'), 16);
COMMENT ON FUNCTION monitoring.alert_fingerprint(text, jsonb, text) IS 'What tells an alert from all others, the same in every episode: a hash of the rule''s name, the labels and, for alerts that a policy raises, origin.';

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
	IF NOT EXISTS (
		SELECT FROM pg_proc AS p
		WHERE p.oid = to_regprocedure(monitoring.alert_kind_function(NEW.function, 'timestamptz, bigint[]') || '(timestamptz, bigint[])')
			AND p.proargnames[3:] = '{rule_id,series_labels,value,details,error}'
			AND p.proallargtypes[3:] = '{bigint,jsonb,float8,jsonb,text}'::regtype[]::oid[]
	) THEN
		RAISE EXCEPTION 'function % of an alert rule kind does not return the right columns', NEW.function
			USING ERRCODE = 'invalid_function_definition',
				HINT = 'It must return TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text).';
	END IF;
	IF NEW.check_function IS NOT NULL THEN
		PERFORM monitoring.alert_kind_function(NEW.check_function, 'jsonb');
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.alert_rule_kind_check() IS 'Trigger of alert_rule_kinds: the functions must exist (42883), run with their owner''s rights (42501) and return what an evaluation reads (42P13).';

CREATE TRIGGER alert_rule_kind_check BEFORE INSERT OR UPDATE ON monitoring.alert_rule_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.alert_rule_kind_check();
COMMENT ON TRIGGER alert_rule_kind_check ON monitoring.alert_rule_kinds IS 'Checks the functions that a kind names.';

CREATE TRIGGER keep_what_is_used BEFORE DELETE OR UPDATE OF kind ON monitoring.alert_rule_kinds
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') <> 'off')
	EXECUTE FUNCTION monitoring.keep_what_is_used('kind', 'alert_rule_defs');
COMMENT ON TRIGGER keep_what_is_used ON monitoring.alert_rule_kinds IS 'Refuses to take away what rows of alert_rule_defs name, unless a dump is being restored.';

----------------------------------------------------------------------------------------------------------------------
-- Creating and changing rules
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_alert_rule(name text, metric text, fn text, over interval, op text, threshold float8,
	pending_for interval DEFAULT '0', severity text DEFAULT 'medium', labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	annotations jsonb DEFAULT '{}', resolve_threshold float8 DEFAULT NULL, keep_firing_for interval DEFAULT '0',
	receivers text[] DEFAULT NULL, kind text DEFAULT 'metric', max_age interval DEFAULT '5 minutes',
	extra_labels jsonb DEFAULT '{}', params jsonb DEFAULT '{}', every interval DEFAULT NULL, repeat_every interval DEFAULT NULL,
	no_data text DEFAULT 'ok', on_error text DEFAULT 'keep', max_instances integer DEFAULT 1000, runbook_url text DEFAULT NULL,
	impact_sql text DEFAULT NULL, active_times jsonb DEFAULT NULL, parent text DEFAULT NULL, threshold_sql text DEFAULT NULL,
	slo text DEFAULT NULL, pack text DEFAULT NULL, enabled boolean DEFAULT true)
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
	rule.params := create_alert_rule.params;
	rule.every := create_alert_rule.every;
	rule.repeat_every := create_alert_rule.repeat_every;
	rule.no_data := create_alert_rule.no_data;
	rule.on_error := create_alert_rule.on_error;
	rule.max_instances := create_alert_rule.max_instances;
	rule.runbook_url := create_alert_rule.runbook_url;
	rule.impact_sql := create_alert_rule.impact_sql;
	rule.active_times := create_alert_rule.active_times;
	rule.parent := create_alert_rule.parent;
	rule.threshold_sql := create_alert_rule.threshold_sql;
	rule.slo := create_alert_rule.slo;
	rule.pack := create_alert_rule.pack;
	rule.enabled := create_alert_rule.enabled;
	rule.owner := monitoring.calling_role();
	-- it stays until we have committed
	PERFORM FROM monitoring.alert_rule_kinds AS k WHERE k.kind = rule.kind FOR KEY SHARE;
	rule := monitoring.check_alert_rule(rule);
	PERFORM monitoring.check_rule_parent(rule), monitoring.check_rule_slo(rule);

	rule.id := nextval('monitoring.alert_rule_defs_id_seq');
	rule.version := 1;
	rule.edited := false;
	rule.created_at := clock_timestamp();
	rule.updated_at := rule.created_at;
	INSERT INTO monitoring.alert_rule_defs SELECT rule.* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert rule "%" already exists', rule.name
			USING ERRCODE = 'duplicate_object', HINT = 'Change it with monitoring.update_alert_rule.';
	END IF;
	RETURN rule.id;
END $$;
COMMENT ON FUNCTION monitoring.create_alert_rule IS 'Create an alert rule and return its id. The alert is raised while fn of the metric''s values in the window `over` compares with op (>, >=, <, <=, =, <>) to threshold, and fires once that has lasted pending_for. labels choose the series, by gives one alert per combination of those labels'' values. annotations are texts with {{label}} and {{value}}. resolve_threshold and keep_firing_for make it stay firing longer. receivers: who is notified, at once; null: as the routes say (route_tree), empty: nobody. extra_labels are attached to the alerts and may use {{label}}. kind is one of alert_rule_kinds; other kinds than metric may take no metric and fn, and take what else they need from params. every: how often it is evaluated, if not at every evaluation. repeat_every: least time between two notifications of an alert. max_age is how long an alert keeps its state without data; then no_data decides: ok (it ends), alerting (a breach), keep (it stays), alert (it stays, beside an alert with the label reason="no_data"); alerting and alert raise an alert too when the rule finds nothing at all for that long. on_error decides while the rule cannot be evaluated: keep, ok, alerting, or alert (reason="rule_error"). max_instances: more label sets are an error. runbook_url is added to the annotations. impact_sql: a query whose row tells what the alert costs. active_times: intervals outside which the rule is not evaluated. parent: a rule that mutes this one''s alerts while it fires. threshold_sql: a query that gives thresholds by labels. slo, pack: where the rule belongs. Errors: 22023 for anything that is not valid, 42602 for a bad metric name, 54000 for labels, annotations or queries that are too long, 42704 for an unknown receiver, parent or objective, 42710 if the name is taken.';

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

-- JSON that is cast would say what is wrong with it, but not where.
CREATE FUNCTION monitoring.check_rule_types(definition jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	given record;
	fits boolean;
BEGIN
	FOR given IN
		SELECT p.key, p.type, d.value, jsonb_typeof(d.value) AS json_type
		FROM monitoring.rule_parameters() AS p
		JOIN jsonb_each(definition) AS d ON d.key = p.key AND d.value <> 'null' AND p.type <> 'jsonb'::regtype
	LOOP
		BEGIN
			fits := CASE given.type
				WHEN 'text[]'::regtype THEN given.json_type = 'array' AND NOT jsonb_path_exists(given.value, '$[*] ? (@.type() != "string")')
				WHEN 'boolean'::regtype THEN given.json_type = 'boolean'
				ELSE given.json_type IN ('string', 'number') END;
			IF fits AND given.type NOT IN ('text'::regtype, 'text[]', 'boolean') THEN
				EXECUTE format('SELECT ($1 #>> ''{}'')::%s', given.type) USING given.value;
			END IF;
		EXCEPTION WHEN data_exception THEN
			fits := false;
		END;
		IF NOT fits THEN
			RAISE EXCEPTION 'parameter "%" of an alert rule must be %', given.key,
				CASE given.type WHEN 'text[]'::regtype THEN 'a list of texts' WHEN 'boolean'::regtype THEN 'true or false'
					WHEN 'float8'::regtype THEN 'a number' WHEN 'integer'::regtype THEN 'a whole number'
					WHEN 'interval'::regtype THEN 'an interval such as "5 minutes"' ELSE 'a text' END
				USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is %s.', left(given.value::text, 100));
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_types(jsonb) IS 'Raises 22023 for parameters of create_alert_rule in a JSON object that are not of their type.';

CREATE FUNCTION monitoring.check_rule_slo(rule monitoring.alert_rule_defs) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule.slo IS NOT NULL THEN
		PERFORM monitoring.slo_of(rule.slo);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_slo(monitoring.alert_rule_defs) IS 'Raises 42704 if the rule names an objective that does not exist.';

CREATE FUNCTION monitoring.change_rule(rule monitoring.alert_rule_defs, changes jsonb, fixed text[] DEFAULT '{}')
RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- parameters of create_alert_rule whose columns are called otherwise
	renamed CONSTANT jsonb := '{"labels": "selector", "by": "by_labels"}';
	changeable CONSTANT text[] := '{kind,metric,fn,over,op,threshold,resolve_threshold,pending_for,keep_firing_for,max_age,severity,
		labels,by,extra_labels,annotations,receivers,params,every,repeat_every,no_data,on_error,max_instances,runbook_url,
		impact_sql,active_times,parent,threshold_sql,slo,pack,enabled}';
	bad text;
BEGIN
	IF changes IS NULL OR jsonb_typeof(changes) <> 'object' THEN
		RAISE EXCEPTION 'changes must be a JSON object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give the parameters of create_alert_rule that change, as in {"threshold": 0.5, "severity": "high"}.';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(changes) AS k WHERE k <> ALL (changeable) OR k = ANY (fixed);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION '"%" is nothing that can change in an alert rule', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'These can: ' || (SELECT string_agg(c, ', ' ORDER BY c) FROM unnest(changeable) AS c WHERE c <> ALL (fixed)) || '.';
	END IF;
	PERFORM monitoring.check_rule_types(changes);
	RETURN jsonb_populate_record(rule,
		(SELECT coalesce(jsonb_object_agg(coalesce(renamed ->> e.key, e.key), e.value), '{}') FROM jsonb_each(changes) AS e));
END $$;
COMMENT ON FUNCTION monitoring.change_rule(monitoring.alert_rule_defs, jsonb, text[]) IS 'The rule with some parameters of create_alert_rule changed, not checked yet. Error 22023 for what is no such parameter or among the fixed ones.';

CREATE FUNCTION monitoring.update_alert_rule(name text, changes jsonb, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	old_rule monitoring.alert_rule_defs := monitoring.lock_alert_rule(name);
	rule monitoring.alert_rule_defs := monitoring.change_rule(old_rule, changes, '{kind}');
BEGIN
	-- whose query it is, his rights it runs with
	IF (rule.params, rule.impact_sql, rule.threshold_sql)
		IS DISTINCT FROM (old_rule.params, old_rule.impact_sql, old_rule.threshold_sql) THEN
		rule.owner := monitoring.calling_role();
	END IF;
	-- What it names may be gone by now, and its owner too: that must not keep anybody from disabling it.
	IF rule.enabled IS DISTINCT FROM false OR changes - 'enabled' <> '{}' THEN
		rule := monitoring.check_alert_rule(rule, old_rule.receivers);
	END IF;
	IF rule = old_rule THEN
		RETURN;
	END IF;
	IF rule.parent IS DISTINCT FROM old_rule.parent THEN
		PERFORM monitoring.check_rule_parent(rule);
	END IF;
	IF rule.slo IS DISTINCT FROM old_rule.slo THEN
		PERFORM monitoring.check_rule_slo(rule);
	END IF;
	IF rule.receivers IS DISTINCT FROM old_rule.receivers THEN
		PERFORM monitoring.request_routing('reroute', rule.id);
	END IF;

	UPDATE monitoring.alert_rule_defs AS d
	SET (metric, fn, over, op, threshold, resolve_threshold, pending_for, keep_firing_for, max_age, severity, selector,
		by_labels, extra_labels, annotations, receivers, enabled, params, every, repeat_every, no_data, on_error, max_instances,
		runbook_url, impact_sql, active_times, parent, threshold_sql, slo, pack, owner, version, edited, updated_at, last_error, last_error_at)
		= (SELECT rule.metric, rule.fn, rule.over, rule.op, rule.threshold, rule.resolve_threshold, rule.pending_for,
			rule.keep_firing_for, rule.max_age, rule.severity, rule.selector, rule.by_labels, rule.extra_labels,
			rule.annotations, rule.receivers, rule.enabled, rule.params, rule.every, rule.repeat_every, rule.no_data, rule.on_error,
			rule.max_instances, rule.runbook_url, rule.impact_sql, rule.active_times, rule.parent, rule.threshold_sql, rule.slo,
			rule.pack, rule.owner, old_rule.version + 1, true, clock_timestamp(), NULL::text, NULL::timestamptz)
	WHERE d.id = rule.id;

	IF NOT rule.enabled THEN
		PERFORM monitoring.end_alerts(old_rule, 'rule_disabled', at);
	ELSIF (rule.metric, rule.fn, rule.selector, rule.by_labels, rule.params)
		IS DISTINCT FROM (old_rule.metric, old_rule.fn, old_rule.selector, old_rule.by_labels, old_rule.params) THEN
		PERFORM monitoring.end_alerts(old_rule, 'rule_changed', at);
	ELSIF rule.pending_for > old_rule.pending_for THEN
		PERFORM monitoring.demote_alerts(rule, at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.update_alert_rule(text, jsonb, timestamptz) IS 'Change a rule: changes is a JSON object of parameters of create_alert_rule (all but name and kind), such as {"threshold": 0.5, "over": "10 minutes", "receivers": null}; what it lacks stays. Disabling a rule ends its alerts, and so does a change of metric, fn, labels, by or params, since they tell of something else; other changes leave alerts and their timers alone, but that a longer pending_for takes a firing alert back to pending until its breach has lasted that long. Who changes params, impact_sql or threshold_sql becomes the rule''s owner. Errors: 42704 if there is no such rule, otherwise as create_alert_rule.';

CREATE FUNCTION monitoring.enable_alert_rule(name text, enabled boolean DEFAULT true, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.update_alert_rule(name, jsonb_build_object('enabled', enabled), at)
$$;
COMMENT ON FUNCTION monitoring.enable_alert_rule(text, boolean, timestamptz) IS 'Enable or disable a rule. Disabling ends its alerts. Error 42704 if there is no such rule.';

CREATE FUNCTION monitoring.drop_alert_rule(name text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule monitoring.alert_rule_defs := monitoring.lock_alert_rule(name);
BEGIN
	PERFORM monitoring.end_alerts(rule, 'rule_dropped', at);
	DELETE FROM monitoring.alert_rule_defs AS d WHERE d.id = rule.id;
END $$;
COMMENT ON FUNCTION monitoring.drop_alert_rule(text, timestamptz) IS 'Drop a rule; its alerts end. History stays. Error 42704 if there is no such rule.';

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.fill_text(template text, vars jsonb) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_fill_text';
COMMENT ON FUNCTION monitoring.fill_text(text, jsonb) IS 'The template with every {{name}} replaced by that member of vars; {{ $labels.name }} and {{ $value }} work too. Names that vars lacks stay as they are. Nothing is evaluated, and what is filled in is not read again. Of what is filled in beyond 64 kB, ... is left. Error 22023 if vars is not a JSON object.';

CREATE FUNCTION monitoring.fill_texts(texts jsonb, vars jsonb) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_fill_texts';
COMMENT ON FUNCTION monitoring.fill_texts(jsonb, jsonb) IS 'A JSON object with fill_text done to each of its texts; the 64 kB count for all of them together.';

CREATE FUNCTION monitoring.alert_labels(rule monitoring.alert_rule_defs, series_labels jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN rule.selector
	|| CASE WHEN rule.extra_labels = '{}' OR strpos(rule.extra_labels::text, '{{') = 0 THEN rule.extra_labels
		ELSE monitoring.fill_texts(rule.extra_labels,
			rule.selector || series_labels || jsonb_build_object('alertname', rule.name, 'severity', rule.severity)) END
	|| series_labels;
COMMENT ON FUNCTION monitoring.alert_labels(monitoring.alert_rule_defs, jsonb) IS 'All labels of an alert: the rule''s selector, its extra labels with {{label}} filled in, and those that tell the alert from the rule''s others.';

CREATE FUNCTION monitoring.pick_labels(labels jsonb, names text[]) RETURNS jsonb
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_pick_labels';
COMMENT ON FUNCTION monitoring.pick_labels(jsonb, text[]) IS 'Those of the labels that have these names; all of them when names is null. Errors: 22023 if labels is not a JSON object, 22004 for a name that is null.';

CREATE FUNCTION monitoring.short_number(value float8) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN abs(value) BETWEEN 1e-6 AND 1e9
	THEN trim_scale(round(value::numeric, greatest(0, 3 - floor(log(abs(value)))::int)))::text
	ELSE value::text END;
COMMENT ON FUNCTION monitoring.short_number(float8) IS 'A number for people to read: at least four significant digits, no more decimals than these need.';

CREATE FUNCTION monitoring.fill_annotations(rule monitoring.alert_rule_defs, state monitoring.alert_states) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN rule.runbook_url IS NULL THEN '{}' ELSE jsonb_build_object('runbook_url', rule.runbook_url) END
	|| CASE WHEN rule.annotations = '{}' THEN '{}'
		ELSE monitoring.fill_texts(rule.annotations,
			coalesce(state.details, '{}')
			|| CASE WHEN jsonb_typeof(state.details -> 'impact') = 'object' THEN state.details -> 'impact' ELSE '{}' END
			|| monitoring.alert_labels(rule, state.series_labels)
			|| jsonb_build_object('value', coalesce(monitoring.short_number(state.value), 'no value'),
				'threshold', monitoring.short_number(state.threshold), 'severity', rule.severity, 'alertname', rule.name)) END
	|| CASE state.origin WHEN 'value' THEN '{}'
		WHEN 'no_data' THEN jsonb_build_object('summary', format('Rule "%s" finds no data.', rule.name))
		ELSE jsonb_build_object('summary', format('Rule "%s" cannot be evaluated: %s', rule.name, state.details ->> 'error')) END;
COMMENT ON FUNCTION monitoring.fill_annotations(monitoring.alert_rule_defs, monitoring.alert_states) IS 'A rule''s annotations filled in for one of its alerts, with its runbook_url; an alert that a policy raised has a summary that says so.';

CREATE VIEW monitoring.alert_rules AS
	SELECT d.id, d.name, d.kind, d.metric, d.fn, d.over, d.op, d.threshold, d.resolve_threshold, d.pending_for,
		d.keep_firing_for, d.max_age, d.severity, d.selector AS labels, d.by_labels AS by, d.extra_labels, d.annotations,
		d.receivers, d.params, d.every, d.repeat_every, d.no_data, d.on_error, d.max_instances, d.runbook_url, d.impact_sql,
		d.active_times, d.parent, d.threshold_sql, d.slo, d.pack, d.enabled, d.owner,
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
COMMENT ON COLUMN monitoring.alert_rules.extra_labels IS 'Labels attached to the rule''s alerts; {{label}}, {{severity}} and {{alertname}} are filled in.';
COMMENT ON COLUMN monitoring.alert_rules.annotations IS 'Texts for people, not filled in.';
COMMENT ON COLUMN monitoring.alert_rules.receivers IS 'Names of the receivers that are notified, at once and past the routes; null: as the routes say. Empty: nobody.';
COMMENT ON COLUMN monitoring.alert_rules.params IS 'What the kind needs besides.';
COMMENT ON COLUMN monitoring.alert_rules.every IS 'How often the rule is evaluated; null: at every evaluation.';
COMMENT ON COLUMN monitoring.alert_rules.repeat_every IS 'Least time between two notifications about the same alert; null: as its route says.';
COMMENT ON COLUMN monitoring.alert_rules.no_data IS 'What becomes of an alert without data for max_age: ok, alerting, keep or alert.';
COMMENT ON COLUMN monitoring.alert_rules.on_error IS 'What becomes of the alerts while the rule cannot be evaluated: keep, ok, alerting or alert.';
COMMENT ON COLUMN monitoring.alert_rules.max_instances IS 'More label sets than this are an error of the rule.';
COMMENT ON COLUMN monitoring.alert_rules.runbook_url IS 'Where it is written what to do.';
COMMENT ON COLUMN monitoring.alert_rules.impact_sql IS 'Query that tells what an alert costs.';
COMMENT ON COLUMN monitoring.alert_rules.active_times IS 'Time intervals in which the rule is evaluated; null: always.';
COMMENT ON COLUMN monitoring.alert_rules.parent IS 'Name of a rule that mutes this one''s alerts while it fires.';
COMMENT ON COLUMN monitoring.alert_rules.threshold_sql IS 'Query that gives thresholds by labels.';
COMMENT ON COLUMN monitoring.alert_rules.slo IS 'Objective that the rule watches.';
COMMENT ON COLUMN monitoring.alert_rules.pack IS 'Pack that the rule came with.';
COMMENT ON COLUMN monitoring.alert_rules.enabled IS 'False: not evaluated.';
COMMENT ON COLUMN monitoring.alert_rules.owner IS 'Role that created the rule.';
COMMENT ON COLUMN monitoring.alert_rules.state IS 'disabled, error, firing, pending or ok.';
COMMENT ON COLUMN monitoring.alert_rules.pending IS 'Number of pending alerts.';
COMMENT ON COLUMN monitoring.alert_rules.firing IS 'Number of firing alerts.';
COMMENT ON COLUMN monitoring.alert_rules.last_error IS 'Why the rule cannot be evaluated; null: it can.';
COMMENT ON COLUMN monitoring.alert_rules.last_error_at IS 'Time of the evaluation at which last_error appeared.';
COMMENT ON COLUMN monitoring.alert_rules.created_at IS 'When the rule was created.';
COMMENT ON COLUMN monitoring.alert_rules.updated_at IS 'When the definition last changed.';
-- alerts, silences: time intervals, and which alerts are kept quiet by silences, inhibition rules and parents of their rules.
--
-- Nothing here is stored per alert. What holds an alert is computed when somebody asks, for all alerts asked about at once, so
-- that a silence costs nothing while nobody is to be notified, and no copy can be out of date.

----------------------------------------------------------------------------------------------------------------------
-- Time intervals, as Alertmanager has them
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.time_range_end(field text, word text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	weekdays CONSTANT text[] := '{sunday,monday,tuesday,wednesday,thursday,friday,saturday}';
	months CONSTANT text[] := '{january,february,march,april,may,june,july,august,september,october,november,december}';
	number integer;
BEGIN
	IF field = 'weekdays' THEN
		RETURN array_position(weekdays, lower(word)) - 1;
	ELSIF word !~ '^-?[0-9]{1,4}$' THEN
		RETURN CASE field WHEN 'months' THEN array_position(months, lower(word)) END;
	END IF;
	number := word::integer;
	RETURN CASE WHEN number BETWEEN CASE field WHEN 'days_of_month' THEN -31 ELSE 1 END
			AND CASE field WHEN 'days_of_month' THEN 31 WHEN 'months' THEN 12 ELSE 9999 END AND number <> 0 THEN number END;
END $$;
COMMENT ON FUNCTION monitoring.time_range_end(text, text) IS 'Number of a word at either end of a range: a weekday (Sunday is 0), a day of the month (-31 to 31), a month or a year; null for what is none.';

CREATE FUNCTION monitoring.time_range(field text, range text) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	words text[] := string_to_array(range, ':');
	first integer := monitoring.time_range_end(field, words[1]);
	last integer := monitoring.time_range_end(field, words[cardinality(words)]);
BEGIN
	RETURN CASE WHEN cardinality(words) <= 2 AND first IS NOT NULL AND last IS NOT NULL THEN ARRAY[first, last] END;
END $$;
COMMENT ON FUNCTION monitoring.time_range(text, text) IS 'First and last number of a range such as "monday:friday" (Sunday is 0), "-3:-1", "march" or "2026:2030" of the fields weekdays, days_of_month, months and years of a time interval; null for what is no such range.';

CREATE FUNCTION monitoring.check_time_zone(zone text) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- Abbreviations and POSIX rules, which the server would take too, know of no country's summer time. Reading the list
	-- of all zones takes long; a name of this form is either a zone or refused.
	IF zone ~ '^[A-Za-z_]+(/[A-Za-z_-]+)+$' THEN
		PERFORM '2000-01-01'::timestamp AT TIME ZONE zone;
	ELSIF upper(zone) <> 'UTC' AND NOT EXISTS (SELECT FROM pg_timezone_names AS z WHERE lower(z.name) = lower(zone)) THEN
		RAISE invalid_parameter_value;
	END IF;
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE EXCEPTION 'unknown time zone "%"', left(zone, 100)
		USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a name of pg_timezone_names, such as Europe/Berlin.';
END $$;
COMMENT ON FUNCTION monitoring.check_time_zone(text) IS 'Raises 22023 for what is not the full name of a time zone, such as an abbreviation.';

CREATE FUNCTION monitoring.check_time_interval(item jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
	times jsonb;
	ranges jsonb;
BEGIN
	IF item IS NULL OR jsonb_typeof(item) <> 'object' THEN
		RAISE EXCEPTION 'a time interval must be a JSON object or a list of them' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example: {"weekdays": ["monday:friday"], "times": [{"start": "09:00", "end": "17:00"}], "location": "Europe/Berlin"}.';
	END IF;
	SELECT min(e.key) INTO bad
	FROM jsonb_each(item) AS e
	WHERE CASE WHEN e.key = 'location' THEN jsonb_typeof(e.value) <> 'string'
		WHEN e.key = ANY ('{times,weekdays,days_of_month,months,years}'::text[])
			THEN jsonb_typeof(e.value) <> 'array' OR e.value = '[]' OR jsonb_array_length(e.value) > 100
		ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in a time interval is not valid', left(bad, 100) USING ERRCODE = 'invalid_parameter_value',
			HINT = 'times, weekdays, days_of_month, months and years are lists of 1 to 100 elements, location is the name of a time zone.';
	END IF;

	-- Alertmanager's names are understood too
	SELECT jsonb_agg(jsonb_build_object('start', r.first, 'end', r.last) ORDER BY r.place),
		min(CASE WHEN (r.first ~ c.clock AND r.last ~ c.clock AND r.first COLLATE "C" < r.last COLLATE "C") IS NOT TRUE
			THEN r.value::text END)
	INTO times, bad
	FROM (SELECT t.value, t.place, coalesce(t.value ->> 'start', t.value ->> 'start_time') AS first,
			coalesce(t.value ->> 'end', t.value ->> 'end_time') AS last
		FROM jsonb_array_elements(item -> 'times') WITH ORDINALITY AS t (value, place)) AS r
	CROSS JOIN (VALUES ('^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$')) AS c (clock);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'times % in a time interval are not valid', left(bad, 100) USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give them as {"start": "09:00", "end": "17:00"}, the end after the start and at most 24:00; a night is two ranges, to 24:00 and from 00:00.';
	END IF;

	-- A range of negative days must not end with a positive one; the shortest month tells whether it can hold any day.
	SELECT min(r.key || ': ' || r.value::text) FILTER (WHERE (jsonb_typeof(r.value) = 'string' AND CASE r.key
				WHEN 'weekdays' THEN r.bounds IS NOT NULL
				WHEN 'days_of_month' THEN (r.bounds[1] > 0 OR r.bounds[2] < 0)
					AND r.bounds[1] + CASE WHEN r.bounds[1] < 0 THEN 28 ELSE 0 END
						<= r.bounds[2] + CASE WHEN r.bounds[2] < 0 THEN 28 ELSE 0 END
				ELSE r.bounds[1] <= r.bounds[2] END) IS NOT TRUE),
		jsonb_object_agg(r.key, r.texts)
	INTO bad, ranges
	FROM (SELECT e.key, v.value, monitoring.time_range(e.key, v.value #>> '{}') AS bounds,
			to_jsonb(ARRAY(SELECT lower(t) FROM jsonb_array_elements_text(e.value) AS t)) AS texts
		FROM jsonb_each(item - '{times,location}'::text[]) AS e
		CROSS JOIN jsonb_array_elements(e.value) AS v) AS r;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'range % in a time interval is not valid', left(bad, 100) USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Ranges are text such as "monday:friday", "1:15", "-1" (the last day of the month), "march:may" and "2026", the end not before the beginning.';
	END IF;
	PERFORM monitoring.check_time_zone(item ->> 'location');
	RETURN jsonb_strip_nulls(jsonb_build_object('times', times, 'location', item -> 'location')) || coalesce(ranges, '{}');
END $$;
COMMENT ON FUNCTION monitoring.check_time_interval(jsonb) IS 'One time interval in the form in which it is stored. Error 22023 for what is not valid.';

CREATE FUNCTION monitoring.check_time_spec(spec jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF jsonb_typeof(spec) <> 'array' THEN
		spec := jsonb_build_array(spec);
	ELSIF jsonb_array_length(spec) NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'a list of time intervals has 1 to 100 elements' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN (SELECT jsonb_agg(monitoring.check_time_interval(i.value) ORDER BY i.place)
		FROM jsonb_array_elements(spec) WITH ORDINALITY AS i (value, place));
END $$;
COMMENT ON FUNCTION monitoring.check_time_spec(jsonb) IS 'Time intervals in the form in which they are stored: a list of objects with the keys times (list of {"start": "09:00", "end": "17:00"}, the end excluded), weekdays ("monday:friday"; may pass over Saturday), days_of_month ("1:5", "-1" is the last), months ("march", "3:5"), years and location (time zone, default UTC). A time is within an object when it fits every key, and fits a key when it fits one of its ranges. Takes one object or a list. Error 22023 for what is not valid; null for null.';

CREATE FUNCTION monitoring.time_matches(spec jsonb, at timestamptz DEFAULT clock_timestamp()) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	local timestamp;
	clock text COLLATE "C";
	days integer;
	i jsonb;
BEGIN
	-- each test that fails goes on with the next interval
	FOR i IN SELECT e FROM jsonb_array_elements(CASE jsonb_typeof(spec) WHEN 'array' THEN spec ELSE jsonb_build_array(spec) END) AS e LOOP
		local := at AT TIME ZONE coalesce(i ->> 'location', 'UTC');
		clock := to_char(local, 'HH24:MI');
		CONTINUE WHEN i ? 'times' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements(i -> 'times') AS r
			WHERE clock >= coalesce(r ->> 'start', r ->> 'start_time') AND clock < coalesce(r ->> 'end', r ->> 'end_time'));
		CONTINUE WHEN i ? 'weekdays' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'weekdays') AS r, monitoring.time_range('weekdays', r) AS b
			WHERE CASE WHEN b[1] <= b[2] THEN extract(dow FROM local) BETWEEN b[1] AND b[2]
				ELSE extract(dow FROM local) >= b[1] OR extract(dow FROM local) <= b[2] END);
		days := extract(day FROM date_trunc('month', local) + '1 month - 1 day'::interval);
		CONTINUE WHEN i ? 'days_of_month' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'days_of_month') AS r, monitoring.time_range('days_of_month', r) AS b
			WHERE extract(day FROM local) BETWEEN CASE WHEN b[1] < 0 THEN days + 1 ELSE 0 END + b[1]
				AND CASE WHEN b[2] < 0 THEN days + 1 ELSE 0 END + b[2]);
		CONTINUE WHEN i ? 'months' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'months') AS r, monitoring.time_range('months', r) AS b
			WHERE extract(month FROM local) BETWEEN b[1] AND b[2]);
		CONTINUE WHEN i ? 'years' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'years') AS r, monitoring.time_range('years', r) AS b
			WHERE extract(year FROM local) BETWEEN b[1] AND b[2]);
		RETURN true;
	END LOOP;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.time_matches(jsonb, timestamptz) IS 'Whether a time lies within time intervals as check_time_spec returns them: within one of the list. Local times that happen twice when clocks are set back both count.';

-- A time zone that was known when the interval was saved may be gone after an upgrade of the server or a restore.
CREATE FUNCTION monitoring.time_matches(spec jsonb, at timestamptz, otherwise boolean) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN monitoring.time_matches(spec, at);
EXCEPTION WHEN data_exception THEN
	RETURN otherwise;
END $$;
COMMENT ON FUNCTION monitoring.time_matches(jsonb, timestamptz, boolean) IS 'As time_matches(spec, at), and otherwise where the intervals cannot be read any more, such as those in a time zone that the server does not know.';

CREATE TABLE monitoring.time_intervals (
	name text PRIMARY KEY,
	spec jsonb NOT NULL,
	created_by text NOT NULL,
	updated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.time_intervals IS 'Named time intervals, which routes name as mute times or active times. Use set_time_interval and drop_time_interval to change them.';
COMMENT ON COLUMN monitoring.time_intervals.name IS 'Name of the interval.';
COMMENT ON COLUMN monitoring.time_intervals.spec IS 'The times, as check_time_spec returns them.';
COMMENT ON COLUMN monitoring.time_intervals.created_by IS 'Role that made it.';
COMMENT ON COLUMN monitoring.time_intervals.updated_at IS 'When it last changed.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.time_intervals', '');

CREATE FUNCTION monitoring.set_time_interval(name text, spec jsonb, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a time interval''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF spec IS NULL THEN
		RAISE EXCEPTION 'time interval "%" needs times', name USING ERRCODE = 'invalid_parameter_value';
	END IF;
	INSERT INTO monitoring.time_intervals AS t (name, spec, created_by, updated_at)
	VALUES (set_time_interval.name, monitoring.check_time_spec(set_time_interval.spec), monitoring.calling_role(), at)
	ON CONFLICT ON CONSTRAINT time_intervals_pkey DO UPDATE SET spec = excluded.spec, updated_at = excluded.updated_at;
END $$;
COMMENT ON FUNCTION monitoring.set_time_interval(text, jsonb, timestamptz) IS 'Create a named time interval, or change the times of the one that has this name; takes what check_time_spec takes, such as {"weekdays": ["monday:friday"], "times": [{"start": "09:00", "end": "17:00"}], "location": "Europe/Berlin"}. Error 22023 for a bad name or times.';

CREATE FUNCTION monitoring.drop_time_interval(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route text;
BEGIN
	SELECT min(r.name) INTO route FROM monitoring.routes AS r WHERE drop_time_interval.name = ANY (r.mute_times || r.active_times);
	IF route IS NOT NULL THEN
		RAISE EXCEPTION 'time interval "%" is used by route "%"', name, route USING ERRCODE = 'dependent_objects_still_exist',
			HINT = 'Change the route with monitoring.update_route first.';
	END IF;
	DELETE FROM monitoring.time_intervals AS t WHERE t.name = drop_time_interval.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'time interval "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.mute_times.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_time_interval(text) IS 'Drop a named time interval. Errors: 42704 if it does not exist, 2BP01 while a route names it.';

CREATE VIEW monitoring.mute_times AS
	SELECT t.name, t.spec, monitoring.time_matches(t.spec, pg_catalog.clock_timestamp(), NULL) AS active, t.created_by, t.updated_at
	FROM monitoring.time_intervals AS t;
COMMENT ON VIEW monitoring.mute_times IS 'Named time intervals, and whether it is their time now.';
COMMENT ON COLUMN monitoring.mute_times.name IS 'Name of the interval.';
COMMENT ON COLUMN monitoring.mute_times.spec IS 'The times, as check_time_spec describes them.';
COMMENT ON COLUMN monitoring.mute_times.active IS 'Whether now is within it; null if the server does not know its time zone any more.';
COMMENT ON COLUMN monitoring.mute_times.created_by IS 'Role that made it.';
COMMENT ON COLUMN monitoring.mute_times.updated_at IS 'When it last changed.';

----------------------------------------------------------------------------------------------------------------------
-- Matchers
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.match_labels(labels jsonb[], selectors jsonb[], first_only boolean DEFAULT false)
RETURNS TABLE (labels_no integer, selector_no integer)
LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_match_labels';
COMMENT ON FUNCTION monitoring.match_labels(jsonb[], jsonb[], boolean) IS 'Which label sets match which selectors (labels_match), by their places in the arrays; with first_only the first selector that each set matches. Much faster than labels_match on every pair.';

CREATE FUNCTION monitoring.check_selector(selector jsonb) RETURNS void
LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_check_selector';
COMMENT ON FUNCTION monitoring.check_selector(jsonb) IS 'Raises what labels_match would raise for a selector, and refuses regular expressions that may take long: with back references (2201B) or too many states and arcs (54000).';

CREATE FUNCTION monitoring.check_matchers(matchers jsonb, what text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF matchers IS NULL OR jsonb_typeof(matchers) <> 'object' THEN
		RAISE EXCEPTION '% must be a JSON object', what USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example: {"alertname": "slow checkout", "instance": {"=~": "web.*"}, "severity": {"!=": "critical"}}.';
	ELSIF octet_length(matchers::text) > 65536 THEN
		RAISE EXCEPTION '% must not take more than 65536 bytes', what USING ERRCODE = 'program_limit_exceeded';
	END IF;
	PERFORM monitoring.check_selector(matchers);
	RETURN matchers;
END $$;
COMMENT ON FUNCTION monitoring.check_matchers(jsonb, text) IS 'The matchers, if labels_match takes them as a selector. Errors, which name them as what: 22023, 2201B or 54000 for a bad or too complex regular expression.';

CREATE FUNCTION monitoring.alert_labels(alert_ids bigint[], at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (alert_id bigint, rule_id bigint, state text, labels jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF alert_ids IS NULL THEN
		RETURN QUERY
		SELECT s.alert_id, s.rule_id, s.state, monitoring.alert_labels(d, s.series_labels)
			|| jsonb_build_object('alertname', d.name, 'severity', d.severity)
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		WHERE s.state <> 'resolved';
		RETURN;
	END IF;
	RETURN QUERY
	SELECT s.alert_id, s.rule_id, s.state, monitoring.alert_labels(d, s.series_labels)
		|| jsonb_build_object('alertname', d.name, 'severity', d.severity)
	FROM (SELECT DISTINCT u.id FROM unnest(alert_labels.alert_ids) AS u (id)) AS a
	JOIN monitoring.alert_states AS s ON s.alert_id = a.id
	JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id;
	-- of those that ended and are forgotten, history knows
	RETURN QUERY
	SELECT a.id, h.rule_id, h.to_state, h.labels || jsonb_build_object('alertname', h.rule_name, 'severity', h.severity)
	FROM (SELECT DISTINCT u.id
		FROM unnest(alert_labels.alert_ids) AS u (id)
		WHERE NOT EXISTS (
			SELECT FROM monitoring.alert_states AS s JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
			WHERE s.alert_id = u.id)) AS a
	CROSS JOIN LATERAL (
		SELECT t.rule_id, t.to_state, t.labels, t.rule_name, t.severity
		FROM monitoring.alert_history AS t
		WHERE t.alert_id = a.id AND t.at > alert_labels.at - '2 days'::interval
		ORDER BY t.id DESC
		LIMIT 1) AS h;
END $$;
COMMENT ON FUNCTION monitoring.alert_labels(bigint[], timestamptz) IS 'All labels of alerts, alertname and severity included, as matchers see them: of those given, ended ones within two days before `at` too, or (null) of all that are pending or firing.';

----------------------------------------------------------------------------------------------------------------------
-- Silences
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.silence_id_seq;
COMMENT ON SEQUENCE monitoring.silence_id_seq IS 'Ids of silences.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.silence_id_seq', '');

CREATE TABLE monitoring.silence_defs (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.silence_id_seq'),
	matchers jsonb NOT NULL,
	starts_at timestamptz NOT NULL,
	ends_at timestamptz NOT NULL CHECK (ends_at >= starts_at),
	created_by text NOT NULL,
	created_at timestamptz NOT NULL,
	comment text NOT NULL DEFAULT '',
	updated_by text,
	updated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.silence_defs IS 'Silences as stored, expired ones as long as alert_history keeps its rows. Use create_silence, extend_silence and expire_silence to change them, and the view silences to read them.';
COMMENT ON COLUMN monitoring.silence_defs.id IS 'Number of the silence.';
COMMENT ON COLUMN monitoring.silence_defs.matchers IS 'Labels of the alerts that it silences.';
COMMENT ON COLUMN monitoring.silence_defs.starts_at IS 'When it begins.';
COMMENT ON COLUMN monitoring.silence_defs.ends_at IS 'When it ends; at this time it holds no more.';
COMMENT ON COLUMN monitoring.silence_defs.created_by IS 'Role that created it.';
COMMENT ON COLUMN monitoring.silence_defs.created_at IS 'When it was created.';
COMMENT ON COLUMN monitoring.silence_defs.comment IS 'Why.';
COMMENT ON COLUMN monitoring.silence_defs.updated_by IS 'Role that last extended or ended it; null: nobody.';
COMMENT ON COLUMN monitoring.silence_defs.updated_at IS 'When it last changed.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.silence_defs', '');
-- expired ones are many, and nobody asks for them every second
CREATE INDEX silence_defs_ends_at_idx ON monitoring.silence_defs (ends_at);
COMMENT ON INDEX monitoring.silence_defs_ends_at_idx IS 'Finds the silences that have not ended.';

CREATE FUNCTION monitoring.create_silence(matchers jsonb, duration interval DEFAULT NULL, comment text DEFAULT '',
	starts_at timestamptz DEFAULT NULL, ends_at timestamptz DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	first timestamptz := coalesce(starts_at, at);
	last timestamptz := coalesce(ends_at, first + duration);
	new_id bigint;
BEGIN
	PERFORM monitoring.check_matchers(matchers, 'a silence''s matchers');
	IF monitoring.labels_match('{}', matchers) THEN
		RAISE EXCEPTION 'a silence''s matchers must ask for at least one label' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'These match alerts whatever labels they have.',
			HINT = 'To silence every alert, use {"alertname": {"exists": true}}.';
	ELSIF (duration IS NULL) = (ends_at IS NULL) THEN
		RAISE EXCEPTION 'a silence needs either a duration or an end' USING ERRCODE = 'invalid_parameter_value';
	ELSIF duration <= '0' THEN
		RAISE EXCEPTION 'a silence must last longer than zero' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT isfinite(first) OR NOT isfinite(last) THEN
		RAISE EXCEPTION 'a silence must start and end at finite times' USING ERRCODE = 'invalid_parameter_value';
	ELSIF last <= first THEN
		RAISE EXCEPTION 'a silence must not end before it starts' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('It would start at %s and end at %s.', first, last);
	ELSIF last <= at THEN
		RAISE EXCEPTION 'a silence must not end in the past' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	INSERT INTO monitoring.silence_defs AS s (matchers, starts_at, ends_at, created_by, created_at, comment, updated_at)
	VALUES (create_silence.matchers, first, last, monitoring.calling_role(), at,
		coalesce(monitoring.check_comment(create_silence.comment), ''), at)
	RETURNING s.id INTO new_id;
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.create_silence(jsonb, interval, text, timestamptz, timestamptz, timestamptz) IS 'Silence the alerts whose labels match, alertname and severity included, and return the silence''s id: nobody is notified of them. matchers are as in labels_match, such as {"instance": {"=~": "web.*"}}. It starts now or at starts_at and lasts for a duration, or until ends_at. Errors: 22023 for matchers that fit every alert, or an end that is missing, in the past or not after the start; 2201B or 54000 for a bad or too complex regular expression.';

CREATE FUNCTION monitoring.lock_silence(id bigint, at timestamptz) RETURNS monitoring.silence_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silence monitoring.silence_defs;
BEGIN
	SELECT s.* INTO silence FROM monitoring.silence_defs AS s WHERE s.id = lock_silence.id FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'silence % does not exist', id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.silences.';
	ELSIF silence.ends_at <= at THEN
		RAISE EXCEPTION 'silence % has expired', id
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Create a new one with monitoring.create_silence.';
	END IF;
	RETURN silence;
END $$;
COMMENT ON FUNCTION monitoring.lock_silence(bigint, timestamptz) IS 'The silence, locked for a change. Errors: 42704 if it does not exist, 55000 if it has expired.';

CREATE FUNCTION monitoring.extend_silence(id bigint, duration interval, at timestamptz DEFAULT clock_timestamp())
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silence monitoring.silence_defs := monitoring.lock_silence(id, at);
BEGIN
	IF duration IS NULL OR duration <= '0' OR NOT isfinite(silence.ends_at + duration) THEN
		RAISE EXCEPTION 'a silence can be extended only by a time longer than zero' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'End it earlier with monitoring.expire_silence.';
	END IF;
	UPDATE monitoring.silence_defs AS s
	SET ends_at = silence.ends_at + duration, updated_by = monitoring.calling_role(), updated_at = at
	WHERE s.id = silence.id;
	RETURN silence.ends_at + duration;
END $$;
COMMENT ON FUNCTION monitoring.extend_silence(bigint, interval, timestamptz) IS 'Let a silence last longer by a duration, and return its new end. Errors: 42704 if it does not exist, 55000 if it has expired, 22023 for a duration that is not longer than zero.';

CREATE FUNCTION monitoring.expire_silence(id bigint, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silence monitoring.silence_defs := monitoring.lock_silence(id, at);
BEGIN
	UPDATE monitoring.silence_defs AS s
	SET starts_at = least(s.starts_at, at), ends_at = at, updated_by = monitoring.calling_role(), updated_at = at
	WHERE s.id = silence.id;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.expire_silence(bigint, timestamptz) IS 'End a silence now, also one that has not begun. Errors: 42704 if it does not exist, 55000 if it has expired.';

CREATE FUNCTION monitoring.silenced_alerts(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (silence_id bigint, alert_id bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silences bigint[];
	matchers jsonb[];
BEGIN
	SELECT array_agg(s.id ORDER BY s.id), array_agg(s.matchers ORDER BY s.id) INTO silences, matchers
	FROM monitoring.silence_defs AS s
	WHERE s.starts_at <= silenced_alerts.at AND s.ends_at > silenced_alerts.at;
	IF silences IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
	SELECT silences[m.selector_no], a.ids[m.labels_no]
	FROM (SELECT array_agg(l.alert_id) AS ids, array_agg(l.labels) AS labels
		FROM monitoring.alert_labels(NULL, silenced_alerts.at) AS l WHERE l.state = 'firing') AS a
	CROSS JOIN LATERAL monitoring.match_labels(a.labels, matchers) AS m;
END $$;
COMMENT ON FUNCTION monitoring.silenced_alerts(timestamptz) IS 'Which silences hold which firing alerts at a time.';

CREATE VIEW monitoring.silences AS
	SELECT s.id, CASE WHEN s.ends_at OPERATOR(pg_catalog.<=) now.at THEN 'expired'
			WHEN s.starts_at OPERATOR(pg_catalog.>) now.at THEN 'pending' ELSE 'active' END AS state,
		s.matchers, s.starts_at, s.ends_at, s.created_by, s.comment, coalesce(a.alerts, 0) AS alerts, s.created_at,
		s.updated_by, s.updated_at
	FROM (SELECT pg_catalog.clock_timestamp() AS at OFFSET 0) AS now
	CROSS JOIN monitoring.silence_defs AS s
	LEFT JOIN (
		SELECT h.silence_id, pg_catalog.count(*) AS alerts FROM monitoring.silenced_alerts() AS h GROUP BY h.silence_id
	) AS a ON a.silence_id OPERATOR(pg_catalog.=) s.id;
COMMENT ON VIEW monitoring.silences IS 'Silences and how many firing alerts each of them holds now.';
COMMENT ON COLUMN monitoring.silences.id IS 'Number of the silence.';
COMMENT ON COLUMN monitoring.silences.state IS 'pending (has not begun), active or expired.';
COMMENT ON COLUMN monitoring.silences.matchers IS 'Labels of the alerts that it silences.';
COMMENT ON COLUMN monitoring.silences.starts_at IS 'When it begins.';
COMMENT ON COLUMN monitoring.silences.ends_at IS 'When it ends.';
COMMENT ON COLUMN monitoring.silences.created_by IS 'Role that created it.';
COMMENT ON COLUMN monitoring.silences.comment IS 'Why.';
COMMENT ON COLUMN monitoring.silences.alerts IS 'Number of firing alerts that it holds; an alert may be held by several.';
COMMENT ON COLUMN monitoring.silences.created_at IS 'When it was created.';
COMMENT ON COLUMN monitoring.silences.updated_by IS 'Role that last extended or ended it.';
COMMENT ON COLUMN monitoring.silences.updated_at IS 'When it last changed.';

----------------------------------------------------------------------------------------------------------------------
-- Inhibition
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.inhibition_rule_defs (
	name text PRIMARY KEY,
	source jsonb NOT NULL,
	target jsonb NOT NULL,
	equal text[] NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_by text NOT NULL,
	created_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.inhibition_rule_defs IS 'Inhibition rules as stored. Use create_inhibition_rule, enable_inhibition_rule and drop_inhibition_rule to change them, and the view inhibition_rules to read them.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.name IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.source IS 'Labels of the alerts that keep others quiet while they fire.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.target IS 'Labels of the alerts that are kept quiet.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.equal IS 'Labels that must have the same value on both; a missing label equals an empty one.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.enabled IS 'False: without effect.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.created_by IS 'Role that created it.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.created_at IS 'When it was created.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.inhibition_rule_defs', '');

CREATE FUNCTION monitoring.create_inhibition_rule(name text, source jsonb, target jsonb, equal text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an inhibition rule''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_matchers(source, 'an inhibition rule''s source'),
		monitoring.check_matchers(target, 'an inhibition rule''s target');
	IF '{}' IN (source, target) THEN
		RAISE EXCEPTION 'an inhibition rule needs matchers for its source and its target' USING ERRCODE = 'invalid_parameter_value';
	ELSIF equal IS NULL OR array_ndims(equal) > 1 OR cardinality(equal) > 64
		OR EXISTS (SELECT FROM unnest(equal) AS l WHERE l IS NULL OR l = '' OR l ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'an inhibition rule''s "equal" must be a list of at most 64 names of labels'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give them as in ''{instance,database}''.';
	END IF;
	INSERT INTO monitoring.inhibition_rule_defs (name, source, target, equal, created_by, created_at)
	VALUES (create_inhibition_rule.name, create_inhibition_rule.source, create_inhibition_rule.target,
		ARRAY(SELECT DISTINCT l FROM unnest(create_inhibition_rule.equal) AS l ORDER BY l), monitoring.calling_role(), at)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'inhibition rule "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.create_inhibition_rule(text, jsonb, jsonb, text[], timestamptz) IS 'While an alert whose labels match source fires, nobody is notified of alerts that match target and have the same values of the labels in `equal` (a missing label is an empty one). Alerts that match both do not inhibit each other or themselves. A source does so whether or not it is silenced, acknowledged or inhibited itself. Errors: 22023, 2201B or 54000 for matchers that are not valid, 42710 if the name is taken.';

CREATE FUNCTION monitoring.enable_inhibition_rule(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.inhibition_rule_defs AS i SET enabled = coalesce(enable_inhibition_rule.enabled, true)
	WHERE i.name = enable_inhibition_rule.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'inhibition rule "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.inhibition_rules.';
	END IF;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.enable_inhibition_rule(text, boolean) IS 'Enable or disable an inhibition rule. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.drop_inhibition_rule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.inhibition_rule_defs AS i WHERE i.name = drop_inhibition_rule.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'inhibition rule "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.inhibition_rules.';
	END IF;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.drop_inhibition_rule(text) IS 'Drop an inhibition rule. Error 42704 if it does not exist.';

CREATE VIEW monitoring.inhibition_rules AS
	SELECT i.name, i.source, i.target, i.equal, i.enabled, i.created_by, i.created_at
	FROM monitoring.inhibition_rule_defs AS i;
COMMENT ON VIEW monitoring.inhibition_rules IS 'Inhibition rules: while an alert that matches source fires, nobody is notified of those that match target.';
COMMENT ON COLUMN monitoring.inhibition_rules.name IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.inhibition_rules.source IS 'Labels of the alerts that keep others quiet while they fire.';
COMMENT ON COLUMN monitoring.inhibition_rules.target IS 'Labels of the alerts that are kept quiet.';
COMMENT ON COLUMN monitoring.inhibition_rules.equal IS 'Labels that must have the same value on both; a missing label equals an empty one.';
COMMENT ON COLUMN monitoring.inhibition_rules.enabled IS 'False: without effect.';
COMMENT ON COLUMN monitoring.inhibition_rules.created_by IS 'Role that created it.';
COMMENT ON COLUMN monitoring.inhibition_rules.created_at IS 'When it was created.';

-- Two alerts of which one inhibits the other are found by the values of the labels that must be equal, not by trying all
-- pairs. Only alerts of rules that a source can match by name and severity are looked at, and only inhibition rules that
-- have a source.
CREATE FUNCTION monitoring.inhibited_alerts(alert_ids bigint[], labels jsonb[], at timestamptz)
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	names text[];
	sources jsonb[];
	targets jsonb[];
	source_ids bigint[];
	source_labels jsonb[];
BEGIN
	SELECT array_agg(i.name ORDER BY i.name), array_agg(i.source ORDER BY i.name), array_agg(i.target ORDER BY i.name)
	INTO names, sources, targets
	FROM monitoring.inhibition_rule_defs AS i
	WHERE i.enabled;

	WITH rules AS (
		SELECT array_agg(d.id) AS ids, array_agg(jsonb_build_object('alertname', d.name, 'severity', d.severity)) AS labels
		FROM monitoring.alert_rule_defs AS d
	), possible AS (
		SELECT DISTINCT r.ids[m.labels_no] AS id
		FROM rules AS r
		CROSS JOIN LATERAL monitoring.match_labels(r.labels, ARRAY(
			SELECT s - ARRAY(SELECT jsonb_object_keys(s - '{alertname,severity}'::text[])) FROM unnest(sources) AS s)) AS m
	)
	SELECT array_agg(s.alert_id), array_agg(monitoring.alert_labels(d, s.series_labels)
		|| jsonb_build_object('alertname', d.name, 'severity', d.severity))
	INTO source_ids, source_labels
	FROM possible AS p
	JOIN monitoring.alert_rule_defs AS d ON d.id = p.id
	CROSS JOIN LATERAL (
		SELECT o.alert_id, o.series_labels FROM monitoring.alert_states AS o WHERE o.rule_id = p.id AND o.state = 'firing' OFFSET 0) AS s;

	RETURN QUERY
	WITH source_matches AS MATERIALIZED (
		SELECT m.labels_no, m.selector_no AS rule FROM monitoring.match_labels(source_labels, sources) AS m
	), used AS MATERIALIZED (
		SELECT u.rule, row_number() OVER (ORDER BY u.rule) AS place FROM (SELECT DISTINCT m.rule FROM source_matches AS m) AS u
	), target_matches AS MATERIALIZED (
		SELECT m.labels_no, u.rule
		FROM monitoring.match_labels(inhibited_alerts.labels, ARRAY(SELECT targets[v.rule] FROM used AS v ORDER BY v.place)) AS m
		JOIN used AS u ON u.place = m.selector_no
	), source_is_target AS MATERIALIZED (
		SELECT m.labels_no, u.rule
		FROM monitoring.match_labels(source_labels, ARRAY(SELECT targets[v.rule] FROM used AS v ORDER BY v.place)) AS m
		JOIN used AS u ON u.place = m.selector_no
	), target_is_source AS MATERIALIZED (
		SELECT m.labels_no, u.rule
		FROM monitoring.match_labels(inhibited_alerts.labels, ARRAY(SELECT sources[v.rule] FROM used AS v ORDER BY v.place)) AS m
		JOIN used AS u ON u.place = m.selector_no
	), source_keys AS MATERIALIZED (
		SELECT m.rule, k.key, min(source_ids[m.labels_no]) AS any_alert,
			min(source_ids[m.labels_no]) FILTER (WHERE t.rule IS NULL) AS pure_alert
		FROM source_matches AS m
		JOIN unnest(source_labels) WITH ORDINALITY AS l (labels, place) ON l.place = m.labels_no
		JOIN monitoring.inhibition_rule_defs AS i ON i.name = names[m.rule]
		LEFT JOIN source_is_target AS t ON t.labels_no = m.labels_no AND t.rule = m.rule
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT coalesce(l.labels ->> e, '') FROM unnest(i.equal) AS e) AS key) AS k
		GROUP BY m.rule, k.key
	), target_keys AS MATERIALIZED (
		SELECT m.rule, m.labels_no, s.rule IS NOT NULL AS source, k.key
		FROM target_matches AS m
		JOIN unnest(inhibited_alerts.labels) WITH ORDINALITY AS l (labels, place) ON l.place = m.labels_no
		JOIN monitoring.inhibition_rule_defs AS i ON i.name = names[m.rule]
		LEFT JOIN target_is_source AS s ON s.labels_no = m.labels_no AND s.rule = m.rule
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT coalesce(l.labels ->> e, '') FROM unnest(i.equal) AS e) AS key) AS k
	)
	SELECT inhibited_alerts.alert_ids[f.labels_no], 'inhibition', jsonb_build_object('rule', names[f.rule], 'alert_id', f.inhibitor)
	FROM (
		SELECT DISTINCT ON (t.labels_no) t.labels_no, t.rule, i.inhibitor
		FROM target_keys AS t
		JOIN source_keys AS s ON s.rule = t.rule AND s.key = t.key
		CROSS JOIN LATERAL (SELECT CASE WHEN t.source THEN s.pure_alert ELSE s.any_alert END AS inhibitor) AS i
		WHERE i.inhibitor IS NOT NULL
		ORDER BY t.labels_no, t.rule) AS f;
END $$;
COMMENT ON FUNCTION monitoring.inhibited_alerts(bigint[], jsonb[], timestamptz) IS 'Which of these alerts, given with their labels, are inhibited by alerts that fire.';

----------------------------------------------------------------------------------------------------------------------
-- Rules with a parent
----------------------------------------------------------------------------------------------------------------------

-- Alerts are compared by the labels that both have. Which those are depends on the names of their labels only, of which a
-- rule's alerts have few combinations: the values are then compared by hashing. No estimate is right here, and a nested loop
-- over all alerts would take minutes.
CREATE FUNCTION monitoring.alerts_with_firing_parent(alert_ids bigint[], rule_ids bigint[], labels jsonb[], at timestamptz)
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
	WITH RECURSIVE ancestors AS (
		SELECT c.id AS child, p.id, p.parent, p.name
		FROM monitoring.alert_rule_defs AS c
		JOIN monitoring.alert_rule_defs AS p ON p.name = c.parent
		WHERE c.id IN (SELECT u FROM unnest(rule_ids) AS u)
		UNION
		SELECT a.child, p.id, p.parent, p.name
		FROM ancestors AS a
		JOIN monitoring.alert_rule_defs AS p ON p.name = a.parent
	), parents AS MATERIALIZED (
		SELECT s.alert_id, s.rule_id, l.labels, ARRAY(SELECT jsonb_object_keys(l.labels)) AS names
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		CROSS JOIN LATERAL (SELECT monitoring.alert_labels(d, s.series_labels) - '{alertname,severity}'::text[] AS labels) AS l
		WHERE s.state = 'firing' AND s.rule_id IN (SELECT p.id FROM ancestors AS p)
	), children AS MATERIALIZED (
		SELECT a.alert_id, a.rule_id, l.labels, ARRAY(SELECT jsonb_object_keys(l.labels)) AS names
		FROM unnest(alert_ids, rule_ids, labels) AS a (alert_id, rule_id, labels)
		CROSS JOIN LATERAL (SELECT a.labels - '{alertname,severity}'::text[] AS labels) AS l
		WHERE a.rule_id IN (SELECT c.child FROM ancestors AS c WHERE c.id IN (SELECT p.rule_id FROM parents AS p))
	), common AS MATERIALIZED (
		SELECT a.child, a.id AS parent, a.name, c.names AS child_names, p.names AS parent_names,
			ARRAY(SELECT unnest(c.names) INTERSECT SELECT unnest(p.names) ORDER BY 1) AS names
		FROM ancestors AS a
		JOIN (SELECT DISTINCT x.rule_id, x.names FROM children AS x) AS c ON c.rule_id = a.child
		JOIN (SELECT DISTINCT x.rule_id, x.names FROM parents AS x) AS p ON p.rule_id = a.id
	), parent_keys AS MATERIALIZED (
		SELECT m.child, m.parent, m.name, m.child_names, m.names, k.key, min(p.alert_id) AS alert_id
		FROM common AS m
		JOIN parents AS p ON p.rule_id = m.parent AND p.names = m.parent_names
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT p.labels ->> n FROM unnest(m.names) AS n) AS key) AS k
		GROUP BY m.child, m.parent, m.name, m.child_names, m.names, k.key
	), child_keys AS MATERIALIZED (
		SELECT c.alert_id, c.rule_id, c.names AS child_names, m.names, k.key
		FROM (SELECT DISTINCT x.child, x.child_names, x.names FROM common AS x) AS m
		JOIN children AS c ON c.rule_id = m.child AND c.names = m.child_names
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT c.labels ->> n FROM unnest(m.names) AS n) AS key) AS k
	)
	SELECT DISTINCT ON (c.alert_id) c.alert_id, 'parent', jsonb_build_object('rule', p.name, 'alert_id', p.alert_id)
	FROM child_keys AS c
	JOIN parent_keys AS p ON p.child = c.rule_id AND p.child_names = c.child_names AND p.names = c.names AND p.key = c.key
	WHERE p.alert_id <> c.alert_id
	ORDER BY c.alert_id, p.name
$$;
COMMENT ON FUNCTION monitoring.alerts_with_firing_parent(bigint[], bigint[], jsonb[], timestamptz) IS 'Which of these alerts, given with their rules and labels, belong to a rule of which a parent, or its parent, fires with the same values of the labels that both alerts have.';
-- alerts, lifecycle: what people do with alerts (acknowledge, assign, note, snooze, dismiss, resolve), and everything
-- that happened to them.
--
-- alert_states belongs to the evaluation, which changes its rows by their place under the rule's lock. What people do is kept
-- beside it, per episode: it ends with the episode, without anybody having to write. Nobody here waits for an evaluation, and
-- no evaluation waits for a transaction that somebody left open; only close_alert writes states, under the rule's lock.

----------------------------------------------------------------------------------------------------------------------
-- What people did
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.alert_handling (
	alert_id bigint PRIMARY KEY,
	acknowledged_at timestamptz,
	acknowledged_by text,
	acknowledged_until timestamptz,
	first_acknowledged_at timestamptz,
	assignee text,
	snoozed_until timestamptz,
	snoozed_by text,
	dismissed_at timestamptz,
	dismissed_by text,
	false_positive boolean NOT NULL DEFAULT false,
	updated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.alert_handling IS 'What people did with an episode of an alert. A row only for episodes that somebody acted on; kept as long as alert_history.';
COMMENT ON COLUMN monitoring.alert_handling.alert_id IS 'Number of the episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_handling.acknowledged_at IS 'When it was acknowledged; null: it is not. Does not say whether acknowledged_until has passed.';
COMMENT ON COLUMN monitoring.alert_handling.acknowledged_by IS 'Role that acknowledged it.';
COMMENT ON COLUMN monitoring.alert_handling.acknowledged_until IS 'When the acknowledgement expires; null: when the alert is resolved.';
COMMENT ON COLUMN monitoring.alert_handling.first_acknowledged_at IS 'When it was acknowledged for the first time; stays when an acknowledgement is withdrawn.';
COMMENT ON COLUMN monitoring.alert_handling.assignee IS 'Who works on it; null: nobody.';
COMMENT ON COLUMN monitoring.alert_handling.snoozed_until IS 'Nobody is notified before this time.';
COMMENT ON COLUMN monitoring.alert_handling.snoozed_by IS 'Role that snoozed it.';
COMMENT ON COLUMN monitoring.alert_handling.dismissed_at IS 'When it was dismissed; null: it is not.';
COMMENT ON COLUMN monitoring.alert_handling.dismissed_by IS 'Role that dismissed it.';
COMMENT ON COLUMN monitoring.alert_handling.false_positive IS 'Whether somebody said that it should not have fired.';
COMMENT ON COLUMN monitoring.alert_handling.updated_at IS 'When the row last changed.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_handling', '');

----------------------------------------------------------------------------------------------------------------------
-- Everything that happened
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.alert_events_id_seq;
COMMENT ON SEQUENCE monitoring.alert_events_id_seq IS 'Ids of what happened to alerts.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_events_id_seq', '');

CREATE TABLE monitoring.alert_events (
	id bigint NOT NULL DEFAULT nextval('monitoring.alert_events_id_seq'),
	at timestamptz NOT NULL,
	alert_id bigint NOT NULL,
	-- those of which there are 100,000 at once come before the expression, which takes longer than all else about a row
	kind text NOT NULL CHECK (kind IN ('notified', 'known', 'suppressed', 'unsuppressed', 'routed', 'escalated') OR kind ~ '^[a-z][a-z_]{0,62}$'),
	actor text,
	details jsonb NOT NULL DEFAULT '{}'
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.alert_events IS 'What people and the extension did about alerts, besides their transitions (alert_history); kept as long as retention_policies says (90 days). alert_timeline() shows both.';
COMMENT ON COLUMN monitoring.alert_events.id IS 'Number of the event, in order.';
COMMENT ON COLUMN monitoring.alert_events.at IS 'When it happened.';
COMMENT ON COLUMN monitoring.alert_events.alert_id IS 'Number of the episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_events.kind IS 'What happened, such as acknowledged, note, notified or suppressed.';
COMMENT ON COLUMN monitoring.alert_events.actor IS 'Role that did it; null: the extension.';
COMMENT ON COLUMN monitoring.alert_events.details IS 'What belongs to it, such as a comment or the receiver.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('alert_events', '1 day', 2, '90 days', '{(alert_id)}');

CREATE FUNCTION monitoring.add_alert_events(alert_ids bigint[], kind text, details jsonb DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), actor text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(cardinality(alert_ids), 0) = 0 THEN
		RETURN;
	END IF;
	PERFORM monitoring.ensure_partition('alert_events', at);
	INSERT INTO monitoring.alert_events (at, alert_id, kind, actor, details)
	SELECT add_alert_events.at, a.id, add_alert_events.kind, add_alert_events.actor, coalesce(add_alert_events.details, '{}')
	FROM unnest(alert_ids) AS a (id)
	ORDER BY a.id;
END $$;
COMMENT ON FUNCTION monitoring.add_alert_events(bigint[], text, jsonb, timestamptz, text) IS 'Note that the same thing happened to each of these alerts. actor: role that did it; null for the extension.';

CREATE FUNCTION monitoring.add_alert_event(alert_id bigint, kind text, details jsonb DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), actor text DEFAULT NULL)
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.add_alert_events(ARRAY[alert_id], kind, details, at, actor)
$$;
COMMENT ON FUNCTION monitoring.add_alert_event(bigint, text, jsonb, timestamptz, text) IS 'Note that something happened to an alert. actor: role that did it; null for the extension.';

----------------------------------------------------------------------------------------------------------------------
-- Acting on alerts
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_comment(comment text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF octet_length(comment) > 10000 THEN
		RAISE EXCEPTION 'a comment must not take more than 10000 bytes' USING ERRCODE = 'program_limit_exceeded';
	ELSIF translate(comment, E'\n\t', '') ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'a comment must not hold control characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN nullif(btrim(comment), '');
END $$;
COMMENT ON FUNCTION monitoring.check_comment(text) IS 'The comment without spaces around it; null for none. Errors: 54000 beyond 10000 bytes, 22023 for control characters but newline and tab.';

CREATE FUNCTION monitoring.check_alert(alert_id bigint, ended boolean DEFAULT false) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF EXISTS (SELECT FROM monitoring.alert_states AS s WHERE s.alert_id = check_alert.alert_id AND s.state <> 'resolved') THEN
		RETURN ARRAY[alert_id];
	ELSIF NOT EXISTS (SELECT FROM monitoring.alert_history AS h WHERE h.alert_id = check_alert.alert_id) THEN
		RAISE EXCEPTION 'alert % does not exist', alert_id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alerts.';
	ELSIF NOT coalesce(ended, false) THEN
		RAISE EXCEPTION 'alert % has ended', alert_id USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'When it comes back, it is another alert with a number of its own.';
	END IF;
	RETURN ARRAY[alert_id];
END $$;
COMMENT ON FUNCTION monitoring.check_alert(bigint, boolean) IS 'The alert as a list of one. Errors: 42704 if there is no such alert, 55000 if it has ended and ended ones will not do.';

CREATE FUNCTION monitoring.current_alerts(matchers jsonb, at timestamptz) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ARRAY(
		SELECT a.ids[m.labels_no]
		FROM (SELECT array_agg(l.alert_id) AS ids, array_agg(l.labels) AS labels
			FROM monitoring.alert_labels(NULL, current_alerts.at) AS l) AS a
		CROSS JOIN LATERAL monitoring.match_labels(a.labels,
			ARRAY[monitoring.check_matchers(current_alerts.matchers, 'matchers')]) AS m
		ORDER BY 1)
$$;
COMMENT ON FUNCTION monitoring.current_alerts(jsonb, timestamptz) IS 'The pending and firing alerts whose labels match, alertname and severity included.';

-- Who comes second changes nothing and is told so. Rows are written in the order of their numbers, so that two who act on
-- many alerts at once do not wait for each other in a circle.
CREATE FUNCTION monitoring.acknowledge(alert_ids bigint[], until timestamptz, comment text, at timestamptz, actor text)
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changed bigint[];
BEGIN
	IF until <= at OR NOT isfinite(until) THEN
		RAISE EXCEPTION 'an acknowledgement must end in the future' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Without an end it lasts until the alert is resolved.';
	END IF;
	comment := monitoring.check_comment(comment);
	WITH written AS (
		INSERT INTO monitoring.alert_handling AS h
			(alert_id, acknowledged_at, acknowledged_by, acknowledged_until, first_acknowledged_at, updated_at)
		SELECT a.id, acknowledge.at, acknowledge.actor, acknowledge.until, acknowledge.at, acknowledge.at
		FROM unnest(acknowledge.alert_ids) AS a (id)
		ORDER BY a.id
		ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
		SET acknowledged_at = CASE WHEN h.acknowledged_until <= excluded.acknowledged_at THEN excluded.acknowledged_at
				ELSE coalesce(h.acknowledged_at, excluded.acknowledged_at) END,
			acknowledged_by = excluded.acknowledged_by, acknowledged_until = excluded.acknowledged_until,
			first_acknowledged_at = coalesce(h.first_acknowledged_at, excluded.first_acknowledged_at),
			updated_at = excluded.updated_at
		WHERE h.acknowledged_at IS NULL
			OR coalesce(h.acknowledged_until, 'infinity') < coalesce(excluded.acknowledged_until, 'infinity')
		RETURNING h.alert_id)
	SELECT array_agg(w.alert_id) INTO changed FROM written AS w;
	INSERT INTO monitoring.routing_queue (kind, alert_id) SELECT 'acknowledged', c FROM unnest(changed) AS c;
	PERFORM monitoring.add_alert_events(changed, 'acknowledged',
		jsonb_strip_nulls(jsonb_build_object('until', until, 'comment', comment)), at, actor);
	RETURN coalesce(cardinality(changed), 0);
END $$;
COMMENT ON FUNCTION monitoring.acknowledge(bigint[], timestamptz, text, timestamptz, text) IS 'Acknowledge alerts in the name of a role, and return how many were not acknowledged before, or not for that long.';

CREATE FUNCTION monitoring.acknowledge_alert(alert_id bigint, until timestamptz DEFAULT NULL, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.acknowledge(monitoring.check_alert(alert_id), until, comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.acknowledge_alert(bigint, timestamptz, text, timestamptz) IS 'Say that you take care of an alert: it is neither notified again nor escalated until it is resolved, or until a time. False: somebody has acknowledged it already, for at least as long. When it comes back it is another alert, which nobody has acknowledged. Errors: 42704 if there is no such alert, 55000 if it has ended, 22023 for a time that is not in the future.';

CREATE FUNCTION monitoring.acknowledge_alerts(matchers jsonb, until timestamptz DEFAULT NULL, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.acknowledge(monitoring.current_alerts(matchers, at), until, comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.acknowledge_alerts(jsonb, timestamptz, text, timestamptz) IS 'Acknowledge all pending and firing alerts whose labels match, such as {"alertname": "slow checkout"}, and return how many that changed. Errors as acknowledge_alert, and those of matchers.';

CREATE FUNCTION monitoring.wake_groups_of(alert_id bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.request_routing('wake', s.rule_id) FROM monitoring.alert_states AS s WHERE s.alert_id = wake_groups_of.alert_id
$$;
COMMENT ON FUNCTION monitoring.wake_groups_of(bigint) IS 'Have the next evaluation look at the groups of an alert''s rule: somebody may have to be told of it again.';

CREATE FUNCTION monitoring.unacknowledge_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id);
	comment := monitoring.check_comment(comment);
	UPDATE monitoring.alert_handling AS h
	SET acknowledged_at = NULL, acknowledged_by = NULL, acknowledged_until = NULL, updated_at = at
	WHERE h.alert_id = unacknowledge_alert.alert_id AND h.acknowledged_at IS NOT NULL
		AND coalesce(h.acknowledged_until > at, true);
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, 'unacknowledged', jsonb_strip_nulls(jsonb_build_object('comment', comment)),
			at, monitoring.calling_role());
		PERFORM monitoring.wake_groups_of(alert_id);
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.unacknowledge_alert(bigint, text, timestamptz) IS 'Take an acknowledgement back: the alert is notified again. False: there was none. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.assign(alert_ids bigint[], assignee text, comment text, at timestamptz, actor text)
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changed bigint[];
BEGIN
	IF assignee !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an assignee''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	comment := monitoring.check_comment(comment);
	WITH written AS (
		INSERT INTO monitoring.alert_handling AS h (alert_id, assignee, updated_at)
		SELECT a.id, assign.assignee, assign.at FROM unnest(assign.alert_ids) AS a (id) ORDER BY a.id
		ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
		SET assignee = excluded.assignee, updated_at = excluded.updated_at
		WHERE h.assignee IS DISTINCT FROM excluded.assignee
		RETURNING h.alert_id)
	SELECT array_agg(w.alert_id) INTO changed FROM written AS w;
	PERFORM monitoring.add_alert_events(changed, 'assigned',
		jsonb_build_object('assignee', assignee) || jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, actor);
	RETURN coalesce(cardinality(changed), 0);
END $$;
COMMENT ON FUNCTION monitoring.assign(bigint[], text, text, timestamptz, text) IS 'Assign alerts in the name of a role, and return how many changed hands.';

CREATE FUNCTION monitoring.assign_alert(alert_id bigint, assignee text, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.assign(monitoring.check_alert(alert_id), assignee, comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.assign_alert(bigint, text, text, timestamptz) IS 'Say who works on an alert (null: nobody); any name will do. False: it was so before. It is notified as before. Errors: 42704 if there is no such alert, 55000 if it has ended, 22023 for a name that is not valid.';

CREATE FUNCTION monitoring.assign_alerts(matchers jsonb, assignee text, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.assign(monitoring.current_alerts(matchers, at), assignee, comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.assign_alerts(jsonb, text, text, timestamptz) IS 'Assign all pending and firing alerts whose labels match, and return how many that changed. Errors as assign_alert, and those of matchers.';

CREATE FUNCTION monitoring.note_alert(alert_id bigint, note text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	note := monitoring.check_comment(note);
	IF note IS NULL THEN
		RAISE EXCEPTION 'a note must not be empty' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.add_alert_events(monitoring.check_alert(alert_id, ended => true), 'note',
		jsonb_build_object('comment', note), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.note_alert(bigint, text, timestamptz) IS 'Write a note into the timeline of an alert, also of one that has ended. Errors: 42704 if there is no such alert, 22023 for an empty note, 54000 for more than 10000 bytes.';

CREATE FUNCTION monitoring.snooze(alert_ids bigint[], duration interval, comment text, at timestamptz, actor text)
RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF duration IS NULL OR duration <= '0' OR NOT isfinite(at + duration) THEN
		RAISE EXCEPTION 'an alert can be snoozed only for a time longer than zero' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	comment := monitoring.check_comment(comment);
	INSERT INTO monitoring.alert_handling AS h (alert_id, snoozed_until, snoozed_by, updated_at)
	SELECT a.id, snooze.at + snooze.duration, snooze.actor, snooze.at FROM unnest(snooze.alert_ids) AS a (id) ORDER BY a.id
	ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
	SET snoozed_until = excluded.snoozed_until, snoozed_by = excluded.snoozed_by, updated_at = excluded.updated_at;
	PERFORM monitoring.add_alert_events(alert_ids, 'snoozed',
		jsonb_strip_nulls(jsonb_build_object('until', at + duration, 'comment', comment)), at, actor);
	RETURN cardinality(alert_ids);
END $$;
COMMENT ON FUNCTION monitoring.snooze(bigint[], interval, text, timestamptz, text) IS 'Snooze alerts in the name of a role, and return how many.';

CREATE FUNCTION monitoring.snooze_alert(alert_id bigint, duration interval, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.snooze(monitoring.check_alert(alert_id), duration, comment, at, monitoring.calling_role());
	RETURN at + duration;
END $$;
COMMENT ON FUNCTION monitoring.snooze_alert(bigint, interval, text, timestamptz) IS 'Let nobody be notified of an alert for a time from now, longer or shorter than it was snoozed before, and return when that ends: if it still fires then, it is notified again. Errors: 42704 if there is no such alert, 55000 if it has ended, 22023 for a duration that is not longer than zero.';

CREATE FUNCTION monitoring.snooze_alerts(matchers jsonb, duration interval, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.snooze(monitoring.current_alerts(matchers, at), duration, comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.snooze_alerts(jsonb, interval, text, timestamptz) IS 'Snooze all pending and firing alerts whose labels match, and return how many. Alerts that fire later are not snoozed: create_silence holds them too. Errors as snooze_alert, and those of matchers.';

CREATE FUNCTION monitoring.unsnooze_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id);
	comment := monitoring.check_comment(comment);
	UPDATE monitoring.alert_handling AS h SET snoozed_until = NULL, snoozed_by = NULL, updated_at = at
	WHERE h.alert_id = unsnooze_alert.alert_id AND h.snoozed_until > at;
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, 'unsnoozed', jsonb_strip_nulls(jsonb_build_object('comment', comment)),
			at, monitoring.calling_role());
		PERFORM monitoring.wake_groups_of(alert_id);
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.unsnooze_alert(bigint, text, timestamptz) IS 'End the snoozing of an alert. False: it was not snoozed. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.dismiss(alert_ids bigint[], comment text, at timestamptz, actor text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changed bigint[];
BEGIN
	comment := monitoring.check_comment(comment);
	WITH written AS (
		INSERT INTO monitoring.alert_handling AS h (alert_id, dismissed_at, dismissed_by, updated_at)
		SELECT a.id, dismiss.at, dismiss.actor, dismiss.at FROM unnest(dismiss.alert_ids) AS a (id) ORDER BY a.id
		ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
		SET dismissed_at = excluded.dismissed_at, dismissed_by = excluded.dismissed_by, updated_at = excluded.updated_at
		WHERE h.dismissed_at IS NULL
		RETURNING h.alert_id)
	SELECT array_agg(w.alert_id) INTO changed FROM written AS w;
	PERFORM monitoring.add_alert_events(changed, 'dismissed', jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, actor);
	RETURN coalesce(cardinality(changed), 0);
END $$;
COMMENT ON FUNCTION monitoring.dismiss(bigint[], text, timestamptz, text) IS 'Dismiss alerts in the name of a role, and return how many were not dismissed before.';

CREATE FUNCTION monitoring.dismiss_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.dismiss(monitoring.check_alert(alert_id), comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.dismiss_alert(bigint, text, timestamptz) IS 'Say that an alert does not matter: nobody is notified of it any more until it is resolved, nor does anybody take care of it. False: it was dismissed before. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.dismiss_alerts(matchers jsonb, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.dismiss(monitoring.current_alerts(matchers, at), comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.dismiss_alerts(jsonb, text, timestamptz) IS 'Dismiss all pending and firing alerts whose labels match, and return how many that changed. Errors: those of matchers.';

CREATE FUNCTION monitoring.undismiss_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id);
	comment := monitoring.check_comment(comment);
	UPDATE monitoring.alert_handling AS h SET dismissed_at = NULL, dismissed_by = NULL, updated_at = at
	WHERE h.alert_id = undismiss_alert.alert_id AND h.dismissed_at IS NOT NULL;
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, 'undismissed', jsonb_strip_nulls(jsonb_build_object('comment', comment)),
			at, monitoring.calling_role());
		PERFORM monitoring.wake_groups_of(alert_id);
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.undismiss_alert(bigint, text, timestamptz) IS 'Take a dismissal back. False: the alert was not dismissed. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.mark_false_positive(alert_id bigint, false_positive boolean DEFAULT true, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_alert(alert_id, ended => true);
	comment := monitoring.check_comment(comment);
	INSERT INTO monitoring.alert_handling AS h (alert_id, false_positive, updated_at)
	VALUES (mark_false_positive.alert_id, coalesce(mark_false_positive.false_positive, true), at)
	ON CONFLICT ON CONSTRAINT alert_handling_pkey DO UPDATE
	SET false_positive = excluded.false_positive, updated_at = excluded.updated_at
	WHERE h.false_positive <> excluded.false_positive;
	IF FOUND THEN
		PERFORM monitoring.add_alert_event(alert_id, CASE WHEN false_positive IS FALSE THEN 'true_positive' ELSE 'false_positive' END,
			jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, monitoring.calling_role());
		RETURN true;
	END IF;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.mark_false_positive(bigint, boolean, text, timestamptz) IS 'Say that an alert should not have fired (or, with false, that it was right after all), also when it has ended; alert_statistics() counts them. It is notified as before. False: it was marked so before. Error 42704 if there is no such alert.';

----------------------------------------------------------------------------------------------------------------------
-- Resolving by hand
----------------------------------------------------------------------------------------------------------------------

-- An evaluation that read the states before it could lock the rule finds another version of it and leaves its alerts to the
-- next one.
CREATE FUNCTION monitoring.resolve(alert_ids bigint[], comment text, at timestamptz, actor text) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rules bigint[];
	ended bigint[];
	transitions bigint[];
BEGIN
	comment := monitoring.check_comment(comment);
	-- in the order of the names, as all who need both take their locks
	PERFORM monitoring.ensure_partition('alert_events', at);
	PERFORM monitoring.ensure_partition('alert_history', at);
	SELECT array_agg(l.id) INTO rules
	FROM (SELECT d.id
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT s.rule_id FROM monitoring.alert_states AS s WHERE s.alert_id = ANY (resolve.alert_ids))
		ORDER BY d.id
		FOR NO KEY UPDATE) AS l;
	UPDATE monitoring.alert_rule_defs AS d SET version = d.version + 1 WHERE d.id = ANY (rules);

	WITH resolved AS (
		UPDATE monitoring.alert_states AS s
		SET state = 'resolved', resolved_at = resolve.at, clear_since = NULL, missing_since = NULL, updated_at = resolve.at
		WHERE s.alert_id = ANY (resolve.alert_ids) AND s.state = 'firing'
		RETURNING s, 'firing' AS from_state, 'resolved' AS to_state
	), forgotten AS (
		DELETE FROM monitoring.alert_states AS s
		WHERE s.alert_id = ANY (resolve.alert_ids) AND s.state = 'pending'
		RETURNING s, 'pending', 'inactive'
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT resolve.at, (e.s).alert_id, d.id, d.name, d.severity, (e.s).series_labels,
			monitoring.alert_labels(d, (e.s).series_labels), e.from_state, e.to_state, 'manual', (e.s).value, d.op,
			(e.s).threshold, monitoring.fill_annotations(d, e.s), (e.s).details, (e.s).active_at, (e.s).fired_at, (e.s).fingerprint
		FROM (SELECT * FROM resolved UNION ALL SELECT * FROM forgotten) AS e
		JOIN monitoring.alert_rule_defs AS d ON d.id = (e.s).rule_id
		ORDER BY (e.s).alert_id
		RETURNING id, alert_id)
	SELECT array_agg(w.alert_id), coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO ended, transitions FROM written AS w;
	PERFORM monitoring.add_alert_events(ended, 'resolved', jsonb_strip_nulls(jsonb_build_object('comment', comment)), at, actor);
	PERFORM monitoring.queue_transitions(transitions, at);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.resolve(bigint[], text, timestamptz, text) IS 'End alerts in the name of a role, with history and notifications, and return how many were pending or firing.';

CREATE FUNCTION monitoring.close_alert(alert_id bigint, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.resolve(monitoring.check_alert(alert_id), comment, at, monitoring.calling_role()) = 1
$$;
COMMENT ON FUNCTION monitoring.close_alert(bigint, text, timestamptz) IS 'End an alert by hand; receivers are told that it is resolved. If its value still breaches the threshold, the next evaluation begins another one, which fires after the rule''s pending_for. False: it ended at the same moment. Errors: 42704 if there is no such alert, 55000 if it has ended.';

CREATE FUNCTION monitoring.close_alerts(matchers jsonb, comment text DEFAULT NULL,
	at timestamptz DEFAULT clock_timestamp())
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.resolve(monitoring.current_alerts(matchers, at), comment, at, monitoring.calling_role())
$$;
COMMENT ON FUNCTION monitoring.close_alerts(jsonb, text, timestamptz) IS 'End all pending and firing alerts whose labels match, and return how many. Errors: those of matchers.';

----------------------------------------------------------------------------------------------------------------------
-- What keeps alerts quiet
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.handled_alerts(alert_ids bigint[], at timestamptz)
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT h.alert_id, r.reason, jsonb_strip_nulls(r.details)
	FROM monitoring.alert_handling AS h
	CROSS JOIN LATERAL (VALUES
		('snoozed', h.snoozed_until > handled_alerts.at, jsonb_build_object('until', h.snoozed_until, 'by', h.snoozed_by)),
		('dismissed', h.dismissed_at IS NOT NULL, jsonb_build_object('at', h.dismissed_at, 'by', h.dismissed_by)),
		('acknowledged', h.acknowledged_at IS NOT NULL AND coalesce(h.acknowledged_until > handled_alerts.at, true),
			jsonb_build_object('at', h.acknowledged_at, 'by', h.acknowledged_by, 'until', h.acknowledged_until))
	) AS r (reason, holds, details)
	WHERE r.holds AND h.alert_id = ANY (handled_alerts.alert_ids)
$$;
COMMENT ON FUNCTION monitoring.handled_alerts(bigint[], timestamptz) IS 'Which of these alerts are quiet because somebody snoozed, dismissed or acknowledged them.';

CREATE FUNCTION monitoring.alert_suppressions(alert_ids bigint[], at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silences bigint[];
	matchers jsonb[];
	inhibits boolean := EXISTS (SELECT FROM monitoring.inhibition_rule_defs AS i WHERE i.enabled);
	depends boolean := EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.parent IS NOT NULL);
	ids bigint[];
	rules bigint[];
	labels jsonb[];
BEGIN
	-- the one that lasts longest is told of
	SELECT array_agg(s.id ORDER BY s.ends_at DESC, s.id), array_agg(s.matchers ORDER BY s.ends_at DESC, s.id)
	INTO silences, matchers
	FROM monitoring.silence_defs AS s
	WHERE s.starts_at <= alert_suppressions.at AND s.ends_at > alert_suppressions.at;

	-- labels are looked up only if something asks for them
	IF silences IS NOT NULL OR inhibits OR depends THEN
		SELECT array_agg(l.alert_id), array_agg(l.rule_id), array_agg(l.labels) INTO ids, rules, labels
		FROM monitoring.alert_labels(alert_suppressions.alert_ids, alert_suppressions.at) AS l;
	END IF;
	IF ids IS NOT NULL THEN
		RETURN QUERY
		SELECT ids[m.labels_no], 'silence', jsonb_build_object('silence', s.id, 'until', s.ends_at, 'by', s.created_by, 'comment', s.comment)
		FROM monitoring.match_labels(labels, matchers, true) AS m
		JOIN monitoring.silence_defs AS s ON s.id = silences[m.selector_no];
	END IF;
	IF ids IS NOT NULL AND inhibits THEN
		RETURN QUERY SELECT i.* FROM monitoring.inhibited_alerts(ids, labels, alert_suppressions.at) AS i;
	END IF;
	IF ids IS NOT NULL AND depends THEN
		RETURN QUERY SELECT p.* FROM monitoring.alerts_with_firing_parent(ids, rules, labels, alert_suppressions.at) AS p;
	END IF;
	RETURN QUERY SELECT h.* FROM monitoring.handled_alerts(coalesce(alert_suppressions.alert_ids,
		ARRAY(SELECT s.alert_id FROM monitoring.alert_handling AS g JOIN monitoring.alert_states AS s ON s.alert_id = g.alert_id
			WHERE s.state <> 'resolved')), alert_suppressions.at) AS h;
END $$;
COMMENT ON FUNCTION monitoring.alert_suppressions(bigint[], timestamptz) IS 'Why nobody is notified of these alerts (null: of all that are pending or firing) at a time, one row per alert and reason: silence, inhibition, parent, snoozed, dismissed or acknowledged. details say which silence, rule or person, and until when.';

CREATE FUNCTION monitoring.suppressed_now() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(a.alert_id, a.reasons), '{}')
	FROM (SELECT s.alert_id, string_agg(s.reason, ', ' ORDER BY s.reason COLLATE "C") AS reasons
		FROM monitoring.alert_suppressions(NULL) AS s
		GROUP BY s.alert_id) AS a
$$;
COMMENT ON FUNCTION monitoring.suppressed_now() IS 'Why nobody is notified now, by the number of the alert: an object of texts such as {"17": "acknowledged, silence"}.';

----------------------------------------------------------------------------------------------------------------------
-- The alerts
----------------------------------------------------------------------------------------------------------------------

-- The sub-select does not depend on the row: it runs once, and only if the column is read.
CREATE VIEW monitoring.alerts AS
	SELECT s.alert_id, d.name AS rule, d.severity, s.state,
		monitoring.alert_labels(d, s.series_labels) AS labels,
		s.value, d.op, s.threshold, s.active_at, s.fired_at, s.resolved_at,
		monitoring.fill_annotations(d, s) AS annotations, s.details, s.fingerprint, s.updated_at,
		CASE WHEN a.holds THEN h.acknowledged_at END AS acknowledged_at,
		CASE WHEN a.holds THEN h.acknowledged_by END AS acknowledged_by,
		CASE WHEN a.holds THEN h.acknowledged_until END AS acknowledged_until,
		h.assignee, COALESCE(h.false_positive, false) AS false_positive,
		(SELECT monitoring.suppressed_now()) OPERATOR(pg_catalog.->>) s.alert_id::pg_catalog.text AS suppressed
	FROM monitoring.alert_states AS s
	JOIN monitoring.alert_rule_defs AS d ON d.id OPERATOR(pg_catalog.=) s.rule_id
	LEFT JOIN monitoring.alert_handling AS h ON h.alert_id OPERATOR(pg_catalog.=) s.alert_id
	CROSS JOIN LATERAL (SELECT COALESCE(h.acknowledged_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp(), true) AS holds) AS a;
COMMENT ON VIEW monitoring.alerts IS 'Alerts that are pending, firing, or were resolved within the last day.';
COMMENT ON COLUMN monitoring.alerts.alert_id IS 'Number of the episode, from breach to end.';
COMMENT ON COLUMN monitoring.alerts.rule IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.alerts.severity IS 'Severity of the rule.';
COMMENT ON COLUMN monitoring.alerts.state IS 'pending, firing or resolved.';
COMMENT ON COLUMN monitoring.alerts.labels IS 'All labels: the rule''s selector, its extra labels and those of the group.';
COMMENT ON COLUMN monitoring.alerts.value IS 'Value at the last change.';
COMMENT ON COLUMN monitoring.alerts.op IS 'The rule''s operator.';
COMMENT ON COLUMN monitoring.alerts.threshold IS 'What the value was compared with at the last change.';
COMMENT ON COLUMN monitoring.alerts.active_at IS 'When the breach began.';
COMMENT ON COLUMN monitoring.alerts.fired_at IS 'When it fired; null while pending.';
COMMENT ON COLUMN monitoring.alerts.resolved_at IS 'When it was resolved; null before.';
COMMENT ON COLUMN monitoring.alerts.annotations IS 'The rule''s annotations, filled in.';
COMMENT ON COLUMN monitoring.alerts.details IS 'What the rule kind told about the value at the last change.';
COMMENT ON COLUMN monitoring.alerts.fingerprint IS 'Hash of the rule''s name and the group''s labels; the same in every episode.';
COMMENT ON COLUMN monitoring.alerts.updated_at IS 'Time of the evaluation that last changed the alert.';
COMMENT ON COLUMN monitoring.alerts.acknowledged_at IS 'Since when somebody takes care of it; null: nobody has acknowledged it, or no longer.';
COMMENT ON COLUMN monitoring.alerts.acknowledged_by IS 'Role that acknowledged it.';
COMMENT ON COLUMN monitoring.alerts.acknowledged_until IS 'When the acknowledgement expires; null: when the alert is resolved.';
COMMENT ON COLUMN monitoring.alerts.assignee IS 'Who works on it.';
COMMENT ON COLUMN monitoring.alerts.false_positive IS 'Whether somebody said that it should not have fired.';
COMMENT ON COLUMN monitoring.alerts.suppressed IS 'Why nobody is notified of it now, such as "acknowledged, silence"; alert_suppressions() knows more. Null: nothing keeps it quiet.';
-- alerts, rule kinds: functions that give the values of all rules of a kind in one statement, and those that check a rule
-- when it is saved.
--
-- Rules that read the same share one reading. What cannot be evaluated is a row with an error, so that other rules of
-- the kind are not disturbed.

----------------------------------------------------------------------------------------------------------------------
-- Checks of what rules of several kinds have
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_rule_params(rule jsonb, allowed text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text := (SELECT min(k) FROM jsonb_object_keys(rule -> 'params') AS k WHERE k <> ALL (allowed));
BEGIN
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'an alert rule of kind % takes no parameter "%"', rule ->> 'kind', left(bad, 100)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = CASE WHEN allowed = '{}' THEN 'Its params are empty.' ELSE 'Its params are ' || array_to_string(allowed, ', ') || '.' END;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_params(jsonb, text[]) IS 'Raises 22023 if a rule''s params hold anything but what is allowed. For the check functions of kinds.';

CREATE FUNCTION monitoring.check_rule_interval(rule jsonb, param text, longest interval DEFAULT '10 years') RETURNS interval
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
DECLARE
	length interval;
BEGIN
	length := (rule -> 'params' ->> param)::interval;
	IF length <= '0' OR length > longest THEN
		RAISE EXCEPTION 'out of range' USING ERRCODE = 'interval_field_overflow';
	END IF;
	RETURN length;
EXCEPTION WHEN data_exception THEN
	RAISE EXCEPTION 'parameter "%" of an alert rule must be an interval longer than zero and at most %', param, longest
		USING ERRCODE = 'invalid_parameter_value', HINT = 'Give text such as "1 week".';
END $$;
COMMENT ON FUNCTION monitoring.check_rule_interval(jsonb, text, interval) IS 'A parameter of a rule as an interval; null if it has none. Error 22023 unless it is one, longer than zero and at most longest.';

CREATE FUNCTION monitoring.check_rule_number(rule jsonb, param text, lowest float8, highest float8) RETURNS float8
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	given jsonb := rule -> 'params' -> param;
	number float8;
BEGIN
	IF given IS NULL THEN
		RETURN NULL;
	ELSIF jsonb_typeof(given) = 'number' THEN
		BEGIN
			number := given::float8;
		EXCEPTION WHEN numeric_value_out_of_range THEN
			number := NULL; -- JSON has numbers that are none of ours
		END;
	END IF;
	IF NOT coalesce(number BETWEEN lowest AND highest, false) THEN
		RAISE EXCEPTION 'parameter "%" of an alert rule must be a number between % and %', param, lowest, highest
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN number;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_number(jsonb, text, float8, float8) IS 'A parameter of a rule as a number; null if it has none. Error 22023 unless it is a number between the bounds.';

CREATE FUNCTION monitoring.check_metric_name(metric text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF metric !~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$' THEN
		RAISE EXCEPTION 'invalid metric name "%"', left(metric, 200)
			USING ERRCODE = 'invalid_name', DETAIL = 'A metric name matches [a-zA-Z_:][a-zA-Z0-9_:]* and has at most 200 characters.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_metric_name(text) IS 'Error 42602 unless it is the name of a metric, which need not exist.';

CREATE FUNCTION monitoring.check_rule_reading(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule ->> 'metric' IS NULL THEN
		RAISE EXCEPTION 'an alert rule of kind % needs a metric', rule ->> 'kind' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_metric_name(rule ->> 'metric');
	IF rule ->> 'fn' IS NULL THEN
		RAISE EXCEPTION 'an alert rule of kind % needs a function', rule ->> 'kind'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Functions are those of monitoring.value(), such as avg, rate or p95.';
	END IF;
	PERFORM monitoring.check_fn(rule ->> 'fn');
END $$;
COMMENT ON FUNCTION monitoring.check_rule_reading(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric or without a function that value() knows.';

CREATE FUNCTION monitoring.counts_events(fn text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN fn IN ('count', 'rate', 'increase');
COMMENT ON FUNCTION monitoring.counts_events(text) IS 'Whether a function of value() counts events, so that without data it is zero.';

----------------------------------------------------------------------------------------------------------------------
-- Queries that rules hold
----------------------------------------------------------------------------------------------------------------------

-- The settings are those of the worker, so that a query gives the same wherever it runs.
CREATE FUNCTION monitoring.run_rule_query(owner name, query text, timeout interval DEFAULT '1 second',
	max_rows integer DEFAULT 1000, any_columns boolean DEFAULT false, at timestamptz DEFAULT clock_timestamp(),
	over interval DEFAULT '0')
RETURNS TABLE (labels jsonb, value float8, "row" jsonb)
LANGUAGE c STRICT VOLATILE ROWS 100
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET row_security = on
AS 'MODULE_PATHNAME', 'mon_run_rule_query';
COMMENT ON FUNCTION monitoring.run_rule_query(name, text, interval, integer, boolean, timestamptz, interval) IS 'Run a query that a rule holds with the rights of its owner: a single SELECT that may use $1 (the time `at`) and $2 (the interval `over`). It can change nothing, whatever functions it calls, and cannot become another role. It sees names in pg_catalog only; others need their schema. One column is a number and becomes value, all others become labels (text, enums, booleans, UUIDs, addresses; nulls are left out, control characters become ?, each is cut off after 1024 bytes). With any_columns the whole row is given instead, as JSON. Errors: those of the query; canceled after timeout (57014); more than max_rows rows, or rows that are too large (54000); no or several numeric columns, a column of another type (42804), a label without a name (42611), labels that occur twice (21000); not a SELECT (0A000), several statements (42601); the caller has not the rights of owner (42501).';

CREATE FUNCTION monitoring.try_rule_query(owner name, query text, timeout interval DEFAULT '1 second',
	max_rows integer DEFAULT 1000, any_columns boolean DEFAULT false, at timestamptz DEFAULT clock_timestamp(),
	over interval DEFAULT '0')
RETURNS TABLE (labels jsonb, value float8, "row" jsonb, error text)
LANGUAGE c STRICT VOLATILE ROWS 100
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET row_security = on
AS 'MODULE_PATHNAME', 'mon_try_rule_query';
COMMENT ON FUNCTION monitoring.try_rule_query(name, text, interval, integer, boolean, timestamptz, interval) IS 'As run_rule_query, but when the query fails the result is one row with the error''s message. The session''s own statement timeout and pg_cancel_backend() remain errors.';

CREATE FUNCTION monitoring.check_rule_query(owner name, query text, timeout interval DEFAULT '1 second',
	max_rows integer DEFAULT 1000, any_columns boolean DEFAULT false, at timestamptz DEFAULT clock_timestamp(),
	over interval DEFAULT '0')
RETURNS void
LANGUAGE c STRICT VOLATILE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET row_security = on
AS 'MODULE_PATHNAME', 'mon_check_rule_query';
COMMENT ON FUNCTION monitoring.check_rule_query(name, text, interval, integer, boolean, timestamptz, interval) IS 'Plan a query as run_rule_query would run it, as its owner, without running it: raises what can be known, such as bad syntax, names that do not exist, missing rights and columns that do not fit. Errors as run_rule_query.';

CREATE FUNCTION monitoring.check_reading_params(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	conditions jsonb := rule -> 'params' -> 'where';
BEGIN
	IF jsonb_typeof(conditions) <> 'object' OR jsonb_path_exists(conditions, '$.* ? (@.type() != "object")') THEN
		RAISE EXCEPTION 'parameter "where" of an alert rule must be an object of conditions on labels'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example {"status": {"=~": "5.."}}; labels with one value are the rule''s labels.';
	END IF;
	PERFORM monitoring.check_selector(conditions);
	IF EXISTS (SELECT FROM jsonb_object_keys(conditions) AS k WHERE rule -> 'selector' ? k) THEN
		RAISE EXCEPTION 'a label cannot be both in labels and in "where" of an alert rule' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule -> 'params' -> 'multiply' = '0' THEN
		RAISE EXCEPTION 'parameter "multiply" of an alert rule must not be zero' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_rule_number(rule, 'multiply', -1e300, 1e300), monitoring.check_rule_number(rule, 'add', -1e300, 1e300);
END $$;
COMMENT ON FUNCTION monitoring.check_reading_params(jsonb) IS 'Checks the params "where", "multiply" and "add" of a rule that reads a metric: 22023, 2201B or 54000 for what is not valid.';

CREATE FUNCTION monitoring.scaled(value float8, params jsonb) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN params ? 'multiply' THEN (params ->> 'multiply')::float8 * value ELSE value END
	+ coalesce((params ->> 'add')::float8, 0);
COMMENT ON FUNCTION monitoring.scaled(float8, jsonb) IS 'A reading as a rule compares it: times "multiply", plus "add" of its params.';

----------------------------------------------------------------------------------------------------------------------
-- metric and slow_query
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.metric_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- rules that differ in operator, threshold or severity only share one request
	WITH requests AS MATERIALIZED (
		SELECT row_number() OVER () AS request, r.*
		FROM (
			SELECT d.metric, d.fn, d.over, d.selector, d.by_labels, d.params, array_agg(d.id) AS rules,
				d.fn IN ('count', 'rate', 'increase') AS counts
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (metric_rule_values.rule_ids)
			GROUP BY d.metric, d.fn, d.over, d.selector, d.by_labels, d.params
		) AS r
	), read AS MATERIALIZED (
		SELECT v.request, v.series_labels, v.value, v.error
		FROM monitoring.read_values(
			ARRAY(
				SELECT ROW(r.metric, r.fn, r.over, r.selector || coalesce(r.params -> 'where', '{}'),
					CASE WHEN r.params ? 'across' THEN '{...}' ELSE r.by_labels END, NULL)::monitoring.value_request
				FROM requests AS r
				ORDER BY r.request
			), metric_rule_values.at) AS v
	), readings AS MATERIALIZED (
		SELECT r.rules, r.counts, v.series_labels, v.value, v.error
		FROM read AS v
		JOIN requests AS r ON r.request = v.request
		WHERE r.params = '{}' OR v.error IS NOT NULL
		UNION ALL
		SELECT r.rules, r.counts, v.series_labels, monitoring.scaled(v.value, r.params), NULL
		FROM requests AS r
		CROSS JOIN LATERAL (
			SELECT o.series_labels, o.value FROM read AS o
			WHERE o.request = r.request AND o.error IS NULL AND NOT r.params ? 'across'
			UNION ALL
			SELECT l.series_labels, CASE r.params ->> 'across' WHEN 'sum' THEN sum(o.value) WHEN 'avg' THEN avg(o.value)
				WHEN 'min' THEN min(o.value) WHEN 'max' THEN max(o.value) WHEN 'count' THEN count(*) END
			FROM read AS o
			CROSS JOIN LATERAL (
				SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS series_labels
				FROM jsonb_each(o.series_labels) AS e
				WHERE e.key = ANY (r.by_labels)
			) AS l
			WHERE o.request = r.request AND o.error IS NULL AND r.params ? 'across'
			GROUP BY l.series_labels
		) AS v
		WHERE r.params <> '{}'
	)
	SELECT r.id, v.series_labels, v.value, NULL::jsonb, v.error
	FROM readings AS v
	CROSS JOIN LATERAL unnest(v.rules) AS r (id)
	UNION ALL
	-- Where events are counted, none means zero: an alert must not wait for the next one to know that they ended, and
	-- one that says that there are too few must not wait for the first.
	SELECT e.rule_id, e.series_labels, monitoring.scaled(0, e.params), NULL, NULL
	FROM (
		SELECT d.id AS rule_id, s.series_labels, d.params
		FROM monitoring.alert_rule_defs AS d
		JOIN monitoring.alert_states AS s ON s.rule_id = d.id AND s.state <> 'resolved' AND s.origin = 'value'
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase')
		UNION
		SELECT d.id, '{}', d.params
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (metric_rule_values.rule_ids) AND d.fn IN ('count', 'rate', 'increase') AND d.by_labels = '{}'
			AND EXISTS (SELECT FROM monitoring.metric_catalog AS m WHERE m.metric = d.metric)
	) AS e
	WHERE NOT EXISTS (
		SELECT FROM readings AS v
		CROSS JOIN LATERAL unnest(v.rules) AS r (id)
		WHERE v.counts AND (r.id, v.series_labels) = (e.rule_id, e.series_labels))
$$;
COMMENT ON FUNCTION monitoring.metric_rule_values(timestamptz, bigint[]) IS 'Rule kind metric: fn of a metric''s values in the window that ends at `at`, one row per rule and group of series with data; with the parameter across the sum, avg, min, max or count of what fn gives for each series. Without data, count, rate and increase are zero for pending and firing alerts, and for rules that do not group once their metric is known.';

CREATE FUNCTION monitoring.check_metric_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	across text := rule -> 'params' ->> 'across';
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{where,across,multiply,add}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_reading_params(rule);
	IF across NOT IN ('sum', 'avg', 'min', 'max', 'count') THEN
		RAISE EXCEPTION 'unknown way "%" to add up series', left(across, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Across series there are sum, avg, min, max and count.';
	ELSIF across IS NOT NULL AND rule -> 'by_labels' ? '...' THEN
		RAISE EXCEPTION 'an alert rule with one alert per series cannot take series together' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_metric_rule(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric, without a function that value() knows, or with params that are not valid; 2201B for a bad regular expression.';

CREATE FUNCTION monitoring.slow_query_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.over, d.selector, d.threshold
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (slow_query_rule_values.rule_ids)
	), active AS MATERIALIZED (
		SELECT r.id, r.over, r.threshold, s.series_labels
		FROM rules AS r
		JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved' AND s.origin = 'value'
	), statements AS MATERIALIZED (
		SELECT r.over, jsonb_build_object('database', v.database, 'queryid', v.queryid::text) AS series_labels, v.mean_seconds,
			jsonb_build_object('query', left(v.query, 1000), 'calls', v.calls) AS details
		FROM (SELECT d.over, min(d.threshold) AS at_least FROM rules AS d GROUP BY d.over) AS r
		CROSS JOIN LATERAL monitoring.slow_query_values(slow_query_rule_values.at, r.over, r.at_least,
			ARRAY(SELECT (a.series_labels ->> 'queryid')::bigint FROM active AS a WHERE a.over = r.over)) AS v
	)
	SELECT r.id, s.series_labels, s.mean_seconds, s.details, NULL::text
	FROM rules AS r
	JOIN statements AS s ON s.over = r.over AND s.series_labels @> r.selector
	UNION ALL
	-- a statement that does not run is not slow
	SELECT a.id, a.series_labels, 0, NULL, NULL
	FROM active AS a
	WHERE a.threshold > 0 AND NOT EXISTS (
		SELECT FROM statements AS s WHERE s.over = a.over AND s.series_labels = a.series_labels)
$$;
COMMENT ON FUNCTION monitoring.slow_query_rule_values(timestamptz, bigint[]) IS 'Rule kind slow_query: mean seconds of each statement in its slowest interval within the window that ends at `at`, with labels database and queryid and details query and calls. Statements below every threshold are left out unless they have an alert; that of one that did not run at all gets 0.';

CREATE FUNCTION monitoring.check_slow_query_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{}');
	IF rule ->> 'op' NOT IN ('>', '>=') OR rule ->> 'resolve_threshold' IS NOT NULL THEN
		RAISE EXCEPTION 'a slow-query rule compares with > or >= and has no resolve threshold'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	ELSIF (rule ->> 'threshold')::float8 < 0 OR rule ->> 'threshold_sql' IS NOT NULL THEN
		RAISE EXCEPTION 'a slow-query rule''s threshold is one number that is not negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'by_labels' <> '[]' THEN
		RAISE EXCEPTION 'a slow-query rule takes no metric, function or grouping'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use monitoring.create_slow_query_rule.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_slow_query_rule(jsonb) IS 'Raises 22023 for a slow-query rule with an operator that finds fast ones, a resolve threshold, a negative threshold, a metric, a function, params or labels to group by.';

----------------------------------------------------------------------------------------------------------------------
-- sql: any query
----------------------------------------------------------------------------------------------------------------------

-- Not random(): a query can set its seed, so that the same rules would come last each time.
CREATE FUNCTION monitoring.turn(rule_id bigint, at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashint8extended(rule_id, (date_part('epoch', at) * 1e6)::bigint);
COMMENT ON FUNCTION monitoring.turn(bigint, timestamptz) IS 'Orders rules in another way at each time, so that none is always the last.';

-- Queries may be slow: together they have ten seconds, in an order that is another one each time.
CREATE FUNCTION monitoring.sql_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH start AS MATERIALIZED (
		SELECT clock_timestamp() AS t
	), rules AS MATERIALIZED (
		SELECT d.id, d.owner, d.params, d.max_instances, d.over
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (sql_rule_values.rule_ids)
		ORDER BY monitoring.turn(d.id, sql_rule_values.at)
	)
	SELECT r.id, q.labels, q.value, NULL::jsonb, q.error
	FROM rules AS r
	CROSS JOIN start AS s
	CROSS JOIN LATERAL (
		SELECT least(coalesce((r.params ->> 'timeout')::interval, '1 second'), s.t + '10 seconds' - clock_timestamp()) AS left_over OFFSET 0
	) AS t
	CROSS JOIN LATERAL (
		SELECT f.labels, f.value, f.error
		FROM monitoring.try_rule_query(r.owner::name, r.params ->> 'query', t.left_over, r.max_instances, false, sql_rule_values.at, r.over) AS f
		WHERE t.left_over > '0'
		UNION ALL
		SELECT NULL, NULL, 'the queries of other rules took too long'
		WHERE t.left_over <= '0'
	) AS q
$$;
COMMENT ON FUNCTION monitoring.sql_rule_values(timestamptz, bigint[]) IS 'Rule kind sql: what each rule''s query gives, run as its owner with run_rule_query.';

CREATE FUNCTION monitoring.check_sql_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{query,timeout}');
	IF jsonb_typeof(rule -> 'params' -> 'query') IS DISTINCT FROM 'string' THEN
		RAISE EXCEPTION 'an alert rule of kind sql needs the parameter "query"'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example params => ''{"query": "SELECT state, count(*) FROM shop.orders GROUP BY state"}''.';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'selector' <> '{}' OR rule -> 'by_labels' <> '[]' THEN
		RAISE EXCEPTION 'an alert rule of kind sql takes no metric, function, labels or grouping'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Its query does all that; labels to be attached to alerts are extra_labels.';
	END IF;
	PERFORM monitoring.check_rule_interval(rule, 'timeout', '10 seconds');
	PERFORM monitoring.check_rule_query((rule ->> 'owner')::name, rule -> 'params' ->> 'query', '5 seconds', over => (rule ->> 'over')::interval);
END $$;
COMMENT ON FUNCTION monitoring.check_sql_rule(jsonb) IS 'Raises 22023 for a rule without a query, with a bad timeout, or with a metric, a function, labels or grouping; otherwise what check_rule_query raises for its query.';

----------------------------------------------------------------------------------------------------------------------
-- absence: how long nothing has been observed
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.absence_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH readings AS MATERIALIZED (
		SELECT r.rules, o.series_labels, o.observed_at
		FROM (
			SELECT d.metric, d.over, d.selector, d.by_labels, array_agg(d.id) AS rules
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (absence_rule_values.rule_ids)
			GROUP BY d.metric, d.over, d.selector, d.by_labels
		) AS r
		CROSS JOIN LATERAL monitoring.last_observed(r.metric, r.over, r.selector, r.by_labels, absence_rule_values.at) AS o
	)
	SELECT u.id, r.series_labels, date_part('epoch', absence_rule_values.at - r.observed_at),
		jsonb_build_object('observed_at', r.observed_at), NULL::text
	FROM readings AS r
	CROSS JOIN LATERAL unnest(r.rules) AS u (id)
	UNION ALL
	-- of a group only what the window has seen is known; a metric has been there before, or there is nothing to miss
	SELECT d.id, '{}', date_part('epoch', d.over), NULL, NULL
	FROM monitoring.alert_rule_defs AS d
	WHERE d.id = ANY (absence_rule_values.rule_ids) AND d.by_labels = '{}'
		AND NOT EXISTS (SELECT FROM readings AS r WHERE d.id = ANY (r.rules))
		AND EXISTS (SELECT FROM monitoring.series_catalog AS s WHERE s.metric = d.metric AND monitoring.labels_match(s.labels, d.selector))
$$;
COMMENT ON FUNCTION monitoring.absence_rule_values(timestamptz, bigint[]) IS 'Rule kind absence: seconds since the last observation of each group of series that was observed in the rule''s window; the length of the window for a rule that does not group and whose series were observed before it.';

CREATE FUNCTION monitoring.check_absence_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{}');
	IF rule ->> 'metric' IS NULL OR rule ->> 'fn' IS NOT NULL THEN
		RAISE EXCEPTION 'an alert rule of kind absence needs a metric and takes no function' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_metric_name(rule ->> 'metric');
	IF rule ->> 'op' NOT IN ('>', '>=') OR (rule ->> 'threshold')::float8 <= 0
		OR (rule ->> 'threshold')::float8 >= date_part('epoch', (rule ->> 'over')::interval) THEN
		RAISE EXCEPTION 'an alert rule of kind absence compares with > or >= to a number of seconds that is shorter than its window'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The window, such as ''1 day'', is how long something that fell silent is remembered.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_absence_rule(jsonb) IS 'Raises 42602 for a metric name that is not valid, 22023 for a rule without a metric, with a function or params, with an operator that finds what is not absent, or with a threshold that its window cannot reach.';

----------------------------------------------------------------------------------------------------------------------
-- change: against an earlier window
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.change_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET enable_nestloop = off SET jit = off AS $$
	WITH parts AS MATERIALIZED (
		SELECT dense_rank() OVER (ORDER BY d.metric, d.fn, d.over, d.selector, d.by_labels, w.shift) AS request, d.id, w.earlier, w.shift,
			d.metric, d.fn, d.over, d.selector, d.by_labels, coalesce(d.params ->> 'mode', 'ratio') AS mode,
			CASE WHEN monitoring.counts_events(d.fn) THEN 0::float8 END AS silence
		FROM monitoring.alert_rule_defs AS d
		CROSS JOIN LATERAL (VALUES (false, interval '0'), (true, coalesce((d.params ->> 'shift')::interval, '7 days'))) AS w (earlier, shift)
		WHERE d.id = ANY (change_rule_values.rule_ids)
	), read AS MATERIALIZED (
		SELECT v.request, v.series_labels, v.value, v.error
		FROM monitoring.read_values(
			ARRAY(
				SELECT DISTINCT ON (p.request) ROW(p.metric, p.fn, p.over, p.selector, p.by_labels, p.shift)::monitoring.value_request
				FROM parts AS p
				ORDER BY p.request
			), change_rule_values.at) AS v
	), values AS MATERIALIZED (
		SELECT coalesce(n.id, e.id) AS id, coalesce(n.mode, e.mode) AS mode, coalesce(n.series_labels, e.series_labels) AS series_labels,
			coalesce(n.value, e.silence) AS value, coalesce(e.value, n.silence) AS previous
		FROM (SELECT p.id, p.mode, p.silence, r.series_labels, r.value
			FROM parts AS p JOIN read AS r ON r.request = p.request WHERE NOT p.earlier AND r.error IS NULL) AS n
		FULL JOIN (SELECT p.id, p.mode, p.silence, r.series_labels, r.value
			FROM parts AS p JOIN read AS r ON r.request = p.request WHERE p.earlier AND r.error IS NULL) AS e
			ON e.id = n.id AND e.series_labels = n.series_labels
	), shown AS (
		SELECT v.id, v.mode, v.series_labels, v.value, v.previous FROM values AS v
		UNION ALL
		-- neither now nor then: what is counted has not changed
		SELECT p.id, p.mode, s.series_labels, 0, 0
		FROM parts AS p
		JOIN monitoring.alert_states AS s ON s.rule_id = p.id AND s.state <> 'resolved' AND s.origin = 'value'
		WHERE NOT p.earlier AND p.silence IS NOT NULL
			AND NOT EXISTS (SELECT FROM values AS v WHERE v.id = p.id AND v.series_labels = s.series_labels)
	)
	SELECT v.id, v.series_labels,
		CASE v.mode WHEN 'difference' THEN v.value - v.previous WHEN 'percent' THEN 100 * (v.value - v.previous) / nullif(abs(v.previous), 0)
			ELSE v.value / nullif(v.previous, 0) END,
		jsonb_build_object('current', v.value, 'previous', v.previous), NULL::text
	FROM shown AS v
	UNION ALL
	SELECT p.id, NULL, NULL, NULL, r.error FROM parts AS p JOIN read AS r ON r.request = p.request WHERE NOT p.earlier AND r.error IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.change_rule_values(timestamptz, bigint[]) IS 'Rule kind change: fn of a metric''s values in the window compared with the window that ends shift earlier, as ratio, difference or percent, one row per rule and group with data in one of them. Where events are counted, no data is zero. There is no ratio and no percentage of zero.';

CREATE FUNCTION monitoring.check_change_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{shift,mode}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_rule_interval(rule, 'shift');
	IF coalesce(rule -> 'params' ->> 'mode', 'ratio') NOT IN ('ratio', 'difference', 'percent') THEN
		RAISE EXCEPTION 'unknown mode "%" of a change', left(rule -> 'params' ->> 'mode', 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes are ratio, difference and percent.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_change_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, with a bad shift, or with a mode other than ratio, difference and percent; 42602 for a bad metric name.';

----------------------------------------------------------------------------------------------------------------------
-- ratio: of two metrics, or of one by different labels
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.ratio_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	-- numerators and denominators: rules share what they have in common, such as the number of all requests
	WITH parts AS MATERIALIZED (
		SELECT dense_rank() OVER (ORDER BY p.metric, p.fn, d.over, p.selector, d.by_labels) AS request, d.id, p.numerator,
			p.metric, p.fn, d.over, p.selector, d.by_labels, d.params,
			CASE WHEN monitoring.counts_events(d.fn) THEN 0::float8 END AS silence,
			coalesce((d.params ->> 'min_denominator')::float8, 0) AS least
		FROM monitoring.alert_rule_defs AS d
		CROSS JOIN LATERAL (VALUES
			(true, d.metric, d.fn, d.selector || coalesce(d.params -> 'where', '{}')),
			(false, coalesce(d.params ->> 'metric', d.metric), coalesce(d.params ->> 'fn', d.fn), coalesce(d.params -> 'labels', '{}'))
		) AS p (numerator, metric, fn, selector)
		WHERE d.id = ANY (ratio_rule_values.rule_ids)
	), read AS MATERIALIZED (
		SELECT v.request, v.series_labels, v.value, v.error
		FROM monitoring.read_values(
			ARRAY(
				SELECT DISTINCT ON (p.request) ROW(p.metric, p.fn, p.over, p.selector, p.by_labels, NULL)::monitoring.value_request
				FROM parts AS p
				ORDER BY p.request
			), ratio_rule_values.at) AS v
	)
	SELECT d.id, d.series_labels, monitoring.scaled(coalesce(n.value, d.silence) / d.value, d.params),
		jsonb_build_object('numerator', coalesce(n.value, d.silence), 'denominator', d.value), NULL::text
	FROM (SELECT p.id, p.params, p.silence, r.series_labels, r.value
		FROM parts AS p JOIN read AS r ON r.request = p.request
		WHERE NOT p.numerator AND r.value <> 0 AND r.value >= p.least) AS d
	LEFT JOIN (SELECT p.id, r.series_labels, r.value
		FROM parts AS p JOIN read AS r ON r.request = p.request
		WHERE p.numerator AND r.error IS NULL) AS n ON n.id = d.id AND n.series_labels = d.series_labels
	UNION ALL
	SELECT p.id, NULL, NULL, NULL, r.error FROM parts AS p JOIN read AS r ON r.request = p.request WHERE r.error IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.ratio_rule_values(timestamptz, bigint[]) IS 'Rule kind ratio: fn of the rule''s metric and labels, divided by that of the metric, fn and labels in its params, one row per rule and group whose denominator is not zero nor below min_denominator. A numerator that counts events is zero without data.';

CREATE FUNCTION monitoring.check_ratio_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	params jsonb := rule -> 'params';
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{where,metric,fn,labels,min_denominator,multiply,add}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_reading_params(rule);
	PERFORM monitoring.check_metric_name(params ->> 'metric'), monitoring.check_fn(params ->> 'fn');
	PERFORM monitoring.check_rule_number(rule, 'min_denominator', 0, 1e300);
	IF (coalesce(params ->> 'metric', rule ->> 'metric'), coalesce(params ->> 'fn', rule ->> 'fn'), coalesce(params -> 'labels', '{}'))
		= (rule ->> 'metric', rule ->> 'fn', (rule -> 'selector') || coalesce(params -> 'where', '{}')) THEN
		RAISE EXCEPTION 'a ratio of something to itself is always one'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the metric, fn or labels of the denominator in params.';
	END IF;
	PERFORM monitoring.check_matchers(params -> 'labels', 'the labels of a ratio''s denominator') WHERE params ? 'labels';
END $$;
COMMENT ON FUNCTION monitoring.check_ratio_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, for a denominator that is the numerator, or labels or min_denominator that are not valid; 42602 for a bad metric name; 2201B for a bad regular expression.';

----------------------------------------------------------------------------------------------------------------------
-- composite: of other rules
----------------------------------------------------------------------------------------------------------------------

-- A group is a combination of the values of the rule's "by" labels that an alert of a member has. An alert that lacks some
-- of these labels counts for every group that it does not contradict.
CREATE FUNCTION monitoring.composite_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.selector, d.by_labels, d.params ? 'all' AS needs_all, coalesce(d.params -> 'all', d.params -> 'any') AS names
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (composite_rule_values.rule_ids)
	), members AS MATERIALIZED (
		SELECT r.id, r.selector, r.by_labels, n.name, d.id AS member, d AS rule
		FROM rules AS r
		CROSS JOIN LATERAL (SELECT DISTINCT jsonb_array_elements_text(r.names)) AS n (name)
		LEFT JOIN monitoring.alert_rule_defs AS d ON d.name = n.name
	), firing AS MATERIALIZED (
		SELECT DISTINCT m.id, m.name, l.labels
		FROM members AS m
		CROSS JOIN LATERAL (
			SELECT a.labels
			FROM monitoring.alert_states AS s
			CROSS JOIN LATERAL (SELECT monitoring.alert_labels(m.rule, s.series_labels) AS labels) AS a
			WHERE s.rule_id = m.member AND s.state = 'firing' AND s.origin = 'value'
				AND (m.selector = '{}' OR monitoring.labels_match(a.labels, m.selector))
			-- that there is one is all that matters
			LIMIT CASE WHEN m.by_labels = '{}' THEN 1 END
		) AS s
		CROSS JOIN LATERAL (
			SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS labels
			FROM jsonb_each(s.labels) AS e
			WHERE e.key = ANY (m.by_labels)
		) AS l
	), groups AS (
		SELECT f.id, f.labels FROM firing AS f JOIN rules AS r ON r.id = f.id WHERE f.labels ?& r.by_labels
		UNION
		SELECT r.id, '{}' FROM rules AS r WHERE r.by_labels = '{}'
		UNION
		SELECT r.id, s.series_labels
		FROM rules AS r
		JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved' AND s.origin = 'value'
	)
	SELECT g.id, g.labels, (CASE WHEN r.needs_all THEN c.firing = c.members ELSE c.firing > 0 END)::integer, jsonb_build_object('firing', c.names), NULL::text
	FROM groups AS g
	JOIN rules AS r ON r.id = g.id
	CROSS JOIN LATERAL (
		SELECT count(*) AS members, count(f.name) AS firing, coalesce(jsonb_agg(f.name ORDER BY f.name) FILTER (WHERE f.name IS NOT NULL), '[]') AS names
		FROM members AS m
		LEFT JOIN (SELECT DISTINCT o.id, o.name FROM firing AS o WHERE o.id = g.id AND g.labels @> o.labels) AS f
			ON f.id = m.id AND f.name = m.name
		WHERE m.id = g.id
	) AS c
	WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.id = g.id AND m.member IS NULL)
	UNION ALL
	SELECT m.id, NULL, NULL, NULL, format('rule "%s" does not exist', m.name)
	FROM members AS m
	WHERE m.member IS NULL
$$;
COMMENT ON FUNCTION monitoring.composite_rule_values(timestamptz, bigint[]) IS 'Rule kind composite: 1 while all, or any, of the named rules have a firing alert that matches the rule''s labels, otherwise 0; one row per combination of the values of the labels in by.';

CREATE FUNCTION monitoring.check_composite_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	params jsonb := rule -> 'params';
	names jsonb := coalesce(params -> 'all', params -> 'any');
	bad text;
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{all,any}');
	IF (params ? 'all') = (params ? 'any') OR jsonb_typeof(names) <> 'array' OR jsonb_array_length(names) = 0
		OR EXISTS (SELECT FROM jsonb_array_elements(names) AS n WHERE jsonb_typeof(n) <> 'string') THEN
		RAISE EXCEPTION 'an alert rule of kind composite needs the names of rules as "all" or as "any"'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For example params => ''{"all": ["slow checkout", "many errors"]}''.';
	ELSIF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL THEN
		RAISE EXCEPTION 'an alert rule of kind composite takes no metric or function' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT monitoring.alert_breach(rule ->> 'op', 1, (rule ->> 'threshold')::float8)
		OR monitoring.alert_breach(rule ->> 'op', 0, (rule ->> 'threshold')::float8) THEN
		RAISE EXCEPTION 'an alert rule of kind composite must compare so that 1 is a breach and 0 is none'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the operator > and the threshold 0.';
	END IF;

	SELECT min(n) INTO bad
	FROM jsonb_array_elements_text(names) AS n
	WHERE n <> rule ->> 'name' AND NOT EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.name = n);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', bad USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
	END IF;

	WITH RECURSIVE below AS (
		SELECT n AS name FROM jsonb_array_elements_text(names) AS n
		UNION
		SELECT n.name
		FROM below AS b
		JOIN monitoring.alert_rule_defs AS d ON d.name = b.name AND d.name <> rule ->> 'name' AND d.kind = rule ->> 'kind'
		CROSS JOIN LATERAL monitoring.rule_members(d.params) AS n (name)
	)
	SELECT b.name INTO bad FROM below AS b WHERE b.name = rule ->> 'name';
	IF FOUND THEN
		RAISE EXCEPTION 'composite rule "%" cannot be made of itself', rule ->> 'name'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It is among its members, or among theirs.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_composite_rule(jsonb) IS 'Raises 22023 for a composite rule without members, with both "all" and "any", with a metric or function, with a comparison that does not tell 1 from 0, or that would be a member of itself; 42704 for a member that does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- The kinds
----------------------------------------------------------------------------------------------------------------------

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin, evaluation_order, every) VALUES
	('metric', 'monitoring.metric_rule_values', 'monitoring.check_metric_rule', 'A function of a metric''s values in the window. params: where (conditions on labels), across (sum, avg, min, max or count of the series), multiply (1), add (0).', true, 0, NULL),
	('slow_query', 'monitoring.slow_query_rule_values', 'monitoring.check_slow_query_rule', 'The mean execution time of each statement in its slowest interval within the window, in seconds.', true, 0, NULL),
	('sql', 'monitoring.sql_rule_values', 'monitoring.check_sql_rule', 'What a query gives: a numeric column is the value, the others are labels. params: query, timeout (1 second).', true, 0, '10 seconds'),
	('absence', 'monitoring.absence_rule_values', 'monitoring.check_absence_rule', 'Seconds since the metric was last observed.', true, 0, '10 seconds'),
	('change', 'monitoring.change_rule_values', 'monitoring.check_change_rule', 'A function of a metric''s values in the window compared with the same window earlier. params: shift (7 days), mode (ratio, difference or percent).', true, 0, NULL),
	('ratio', 'monitoring.ratio_rule_values', 'monitoring.check_ratio_rule', 'A function of a metric''s values divided by another one. params, of the denominator: metric, fn (those of the rule), labels, min_denominator (0); of the ratio: where, multiply (1), add (0).', true, 0, NULL),
	('composite', 'monitoring.composite_rule_values', 'monitoring.check_composite_rule', '1 while all, or any, of other rules fire, otherwise 0. params: all or any, names of rules.', true, 100, NULL);
-- alerts, forecasting: what is unusual and what comes, for people to ask and as the rule kinds anomaly and forecast.
--
-- Both read rollups in windows of equal length. Scores are computed by an aggregate in C (seasonal.c says how), trends by
-- the regression aggregates of the server.

----------------------------------------------------------------------------------------------------------------------
-- Anomalies
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.seasonal_score_trans(state internal, season integer, place integer, value float8, seasons integer,
	places integer, points integer, event float8, silent integer) RETURNS internal
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'mon_seasonal_score_trans';
COMMENT ON FUNCTION monitoring.seasonal_score_trans(internal, integer, integer, float8, integer, integer, integer, float8, integer) IS 'Transition function of the aggregate seasonal_score.';

CREATE FUNCTION monitoring.seasonal_score_final(state internal) RETURNS float8[]
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'mon_seasonal_score_final';
COMMENT ON FUNCTION monitoring.seasonal_score_final(internal) IS 'Final function of the aggregate seasonal_score.';

CREATE AGGREGATE monitoring.seasonal_score(season integer, place integer, value float8, seasons integer, places integer,
	points integer, event float8, silent integer) (
	SFUNC = monitoring.seasonal_score_trans, STYPE = internal, FINALFUNC = monitoring.seasonal_score_final,
	FINALFUNC_MODIFY = READ_WRITE
);
COMMENT ON AGGREGATE monitoring.seasonal_score(integer, integer, float8, integer, integer, integer, float8, integer) IS 'How unusual the latest values are, as {value, expected, spread, score, seasons, residuals}; null when too little is known. Season 0 holds the latest `points` values, the last of them in question; seasons 1 to `seasons` hold `places` past values each, the one in the middle as old as whole seasons. With one season all past values are alike. Of values that count events, event is what one of them adds, and silent the number of seasons for which no value means zero; otherwise both are 0.';

CREATE FUNCTION monitoring.season_windows(season text, over interval, history interval, points integer, location text, at timestamptz)
RETURNS TABLE (n integer, since timestamptz, until timestamptz, places integer)
LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET IntervalStyle = 'postgres' AS $$
DECLARE
	length float8 := date_part('epoch', over);
	-- to the minute, so that windows begin as stored points do
	until timestamptz := date_bin('1 minute', at, '2000-01-01');
	period interval := CASE season WHEN 'hour_of_week' THEN '7 days' WHEN 'hour_of_day' THEN '1 day' END;
	windows integer;
	reach integer;
BEGIN
	IF points IS NULL OR points NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'points must be between 1 and 100' USING ERRCODE = 'invalid_parameter_value';
	ELSIF over IS NULL OR over < '1 minute' OR over > '30 days' THEN
		RAISE EXCEPTION 'the window of an anomaly must be between 1 minute and 30 days' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT isfinite(at) THEN
		RAISE EXCEPTION 'at must be a finite time' USING ERRCODE = 'datetime_field_overflow';
	ELSIF season = 'none' THEN
		windows := least(floor(date_part('epoch', coalesce(history, greatest('1 day', over * 100))) / length), 1e6);
		IF windows NOT BETWEEN 2 * points AND 2016 THEN
			RAISE EXCEPTION 'the history of an anomaly without seasons must be % to 2016 windows long', 2 * points
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		RETURN QUERY VALUES (0, until - points * over, until, points),
			(1, until - (points + windows) * over, until - points * over, windows);
		RETURN;
	ELSIF period IS NULL THEN
		RAISE EXCEPTION 'unknown season "%"', left(season, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Seasons are hour_of_week, hour_of_day and none.';
	END IF;

	windows := floor(date_part('epoch', coalesce(history, 8 * period)) / date_part('epoch', period));
	IF windows IS NULL OR windows NOT BETWEEN 2 AND 104 THEN
		RAISE EXCEPTION 'the history of an anomaly must hold 2 to 104 seasons of %', period USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- two hours to both sides for windows of five minutes; never as far as the latest windows
	reach := least(greatest(6, least(24, floor(21600 / length))), floor(date_part('epoch', period) / length) - points - 1);
	IF reach < points THEN
		RAISE EXCEPTION 'the window of an anomaly is too long for its season' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN QUERY
		SELECT 0, until - points * over, until, points
		UNION ALL
		SELECT k, p.until - (reach + 1) * over, p.until + reach * over, 2 * reach + 1
		FROM generate_series(1, windows) AS k
		CROSS JOIN LATERAL (SELECT ((until AT TIME ZONE location) - k * period) AT TIME ZONE location AS until) AS p;
END $$;
COMMENT ON FUNCTION monitoring.season_windows(text, interval, interval, integer, text, timestamptz) IS 'The ranges of time that anomalies() reads: n = 0 for the latest windows, one for each past season, or one for the whole history without seasons. Errors: 22023 for an unknown season or time zone, a window shorter than a minute or too long for the season, points outside 1 to 100, or a history that holds too few or too many; 22008 for a time that is not finite.';

CREATE FUNCTION monitoring.anomalies(metric text, fn text, over interval DEFAULT '5 minutes', labels jsonb DEFAULT '{}',
	by text[] DEFAULT '{}', season text DEFAULT 'hour_of_week', history interval DEFAULT NULL, min_history interval DEFAULT NULL,
	points integer DEFAULT 3, location text DEFAULT 'UTC', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (series_labels jsonb, value float8, expected float8, spread float8, score float8)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET jit = off ROWS 100 AS $$
	WITH windows AS MATERIALIZED (
		SELECT w.n, w.since, w.until, w.places, max(w.n) OVER () AS seasons, max(w.places) OVER () AS most_places
		FROM monitoring.season_windows(season, over, history, points, location, at) AS w
	), options AS MATERIALIZED (
		SELECT CASE WHEN anomalies.fn = 'rate' THEN 1 / date_part('epoch', over) WHEN monitoring.counts_events(anomalies.fn) THEN 1 ELSE 0 END AS event,
			CASE season WHEN 'none' THEN greatest(30, date_part('epoch', min_history) / date_part('epoch', over))
				ELSE greatest(2, ceil(date_part('epoch', coalesce(min_history, CASE season WHEN 'hour_of_day' THEN '4 days' ELSE '14 days' END::interval))
					/ CASE season WHEN 'hour_of_day' THEN 86400 ELSE 604800 END)) END AS least_seasons
	), readings AS MATERIALIZED (
		SELECT w.n, w.since, w.seasons, w.most_places, q.series_labels, q.value,
			round(date_part('epoch', q.bucket - w.since) / date_part('epoch', over))::integer AS place
		FROM windows AS w
		CROSS JOIN LATERAL monitoring.query(anomalies.metric, anomalies.fn, w.since, w.until, over, anomalies.labels, anomalies.by) AS q
	-- since when a group that counts events has been known to be silent
	), known AS MATERIALIZED (
		SELECT k.series_labels, min(c.first_seen) AS since
		FROM options AS o
		JOIN monitoring.series_catalog AS c ON o.event > 0 AND c.metric = anomalies.metric AND monitoring.labels_match(c.labels, anomalies.labels)
		CROSS JOIN LATERAL (
			SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS series_labels FROM jsonb_each(c.labels) AS e WHERE e.key = ANY (anomalies.by)
		) AS k
		GROUP BY k.series_labels
	), scores AS (
		SELECT g.series_labels, g.s
		FROM (
			SELECT r.series_labels, monitoring.seasonal_score(r.n, r.place, r.value, r.seasons, r.most_places, points, o.event,
				coalesce((SELECT count(*) FROM windows AS w JOIN known AS k ON k.since <= w.since WHERE w.n > 0 AND k.series_labels = r.series_labels), 0)::integer) AS s
			FROM readings AS r
			CROSS JOIN options AS o
			GROUP BY r.series_labels
		) AS g
	)
	SELECT s.series_labels, s.s[1], s.s[2], s.s[3], s.s[4]
	FROM scores AS s
	CROSS JOIN options AS o
	WHERE s.s[5] >= o.least_seasons
$$;
COMMENT ON FUNCTION monitoring.anomalies(text, text, interval, jsonb, text[], text, interval, interval, integer, text, timestamptz) IS 'How unusual the latest values of a metric are, one row for each combination of the labels named in by that has enough history. value is fn over the window that ended at the last full minute; expected is the median of the same window in past seasons: of the same time of the week (hour_of_week, 8 weeks), of the day (hour_of_day, 8 days), or all windows of the last day (none). spread is how far past windows around that time were from what the other seasons foretold, as a standard deviation (by the median), at least 1 % of what is expected and, of counts, what chance makes. score is the mean deviation of the last `points` windows in spreads, of which one that stands out counts twice the next one at most; between -1000 and 1000. A group appears once it has min_history (2 weeks, 4 days, 30 windows). location: time zone whose clock seasons follow. Errors as season_windows() and query().';

CREATE FUNCTION monitoring.anomaly_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.metric, d.fn, d.over, d.selector, d.by_labels, d.params - 'two_sided' AS reading,
			coalesce((d.params ->> 'two_sided')::boolean, false) AS two_sided
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (anomaly_rule_values.rule_ids)
	), readings AS MATERIALIZED (
		SELECT r.rules, v.series_labels, v.score,
			jsonb_build_object('value', v.value, 'expected', v.expected, 'spread', v.spread, 'score', v.score) AS details
		FROM (
			SELECT r.metric, r.fn, r.over, r.selector, r.by_labels, r.reading, array_agg(r.id) AS rules
			FROM rules AS r
			GROUP BY r.metric, r.fn, r.over, r.selector, r.by_labels, r.reading
		) AS r
		CROSS JOIN LATERAL monitoring.anomalies(r.metric, r.fn, r.over, r.selector, r.by_labels, coalesce(r.reading ->> 'season', 'hour_of_week'),
			(r.reading ->> 'history')::interval, (r.reading ->> 'min_history')::interval, coalesce((r.reading ->> 'points')::integer, 3),
			coalesce(r.reading ->> 'location', 'UTC'), anomaly_rule_values.at) AS v
	)
	SELECT r.id, v.series_labels, CASE WHEN r.two_sided THEN abs(v.score) ELSE v.score END, v.details, NULL::text
	FROM readings AS v
	CROSS JOIN LATERAL unnest(v.rules) AS u (id)
	JOIN rules AS r ON r.id = u.id
	UNION ALL
	-- no events now and at this time of any season
	SELECT r.id, s.series_labels, 0, NULL, NULL
	FROM rules AS r
	JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved' AND s.origin = 'value'
	WHERE monitoring.counts_events(r.fn) AND NOT EXISTS (
		SELECT FROM readings AS v WHERE r.id = ANY (v.rules) AND v.series_labels = s.series_labels)
$$;
COMMENT ON FUNCTION monitoring.anomaly_rule_values(timestamptz, bigint[]) IS 'Rule kind anomaly: the score that anomalies() gives each group; with two_sided its size.';

CREATE FUNCTION monitoring.check_anomaly_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	params jsonb := rule -> 'params';
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{season,history,min_history,points,two_sided,location}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_rule_number(rule, 'points', 1, 100);
	IF jsonb_typeof(params -> 'two_sided') <> 'boolean' THEN
		RAISE EXCEPTION 'parameter "two_sided" of an alert rule must be true or false' USING ERRCODE = 'invalid_parameter_value';
	ELSIF monitoring.alert_breach(rule ->> 'op', 0, (rule ->> 'threshold')::float8) OR rule ->> 'op' IN ('=', '<>')
		OR abs((rule ->> 'threshold')::float8) NOT BETWEEN 0.1 AND 1000
		OR (params ->> 'two_sided')::boolean AND (rule ->> 'threshold')::float8 < 0 THEN
		RAISE EXCEPTION 'an alert rule of kind anomaly compares with a score that is not usual'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Use > and 3.25 for what is unusually high, < and -3.25 for what is unusually low, > and 3.25 with {"two_sided": true} for both.';
	ELSIF trunc((params ->> 'points')::numeric) <> (params ->> 'points')::numeric THEN
		RAISE EXCEPTION 'points must be a whole number' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_rule_interval(rule, 'history'), monitoring.check_rule_interval(rule, 'min_history');
	PERFORM monitoring.season_windows(coalesce(params ->> 'season', 'hour_of_week'), (rule ->> 'over')::interval, (params ->> 'history')::interval,
		coalesce((params ->> 'points')::integer, 3), coalesce(params ->> 'location', 'UTC'), '2026-01-01 00:00+00');
END $$;
COMMENT ON FUNCTION monitoring.check_anomaly_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, with an operator and a threshold that find what is usual or nothing, or for what season_windows refuses; 42602 for a bad metric name.';

----------------------------------------------------------------------------------------------------------------------
-- Trends
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.trend_step(over interval) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT CASE WHEN s >= 3600 THEN ceil(s / 3600) * '1 hour'::interval WHEN s > 30 THEN ceil(s / 60) * '1 minute'::interval
	ELSE greatest(1, ceil(s / 10)) * '10 seconds'::interval END FROM (SELECT date_part('epoch', over) / 60) AS w (s));
COMMENT ON FUNCTION monitoring.trend_step(interval) IS 'The distance of the points through which the trend over a window is laid: a sixtieth of it, rounded up to whole hours, minutes or 10 seconds, as points are stored.';

CREATE FUNCTION monitoring.trend(metric text, fn text, over interval, labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), step interval DEFAULT NULL)
RETURNS TABLE (series_labels jsonb, points bigint, mean float8, level float8, slope float8, r2 float8, steady boolean)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET jit = off ROWS 100 AS $$
	WITH grid AS MATERIALIZED (
		SELECT g.step, g.until - ceil(date_part('epoch', over) / date_part('epoch', g.step)) * g.step AS since, g.until
		FROM (
			SELECT s.step, date_bin(CASE WHEN s.step >= '1 hour' THEN '1 hour'::interval WHEN s.step >= '1 minute' THEN '1 minute' ELSE '10 seconds' END,
				trend.at, '2000-01-01') AS until
			FROM (SELECT coalesce(trend.step, monitoring.trend_step(over)) AS step) AS s
		) AS g
	), points AS (
		SELECT q.series_labels, date_part('epoch', q.bucket + g.step / 2 - trend.at) AS x,
			-- where events are counted, none is zero, from the first one on
			CASE WHEN monitoring.counts_events(trend.fn) AND q.bucket > min(q.bucket) FILTER (WHERE q.value IS NOT NULL) OVER (PARTITION BY q.series_labels)
				THEN coalesce(q.value, 0) ELSE q.value END AS y
		FROM grid AS g
		CROSS JOIN LATERAL monitoring.query(trend.metric, trend.fn, g.since, g.until, g.step, trend.labels, trend.by) AS q
	)
	SELECT p.series_labels, count(p.y), avg(p.y), regr_intercept(p.y, p.x), regr_slope(p.y, p.x), regr_r2(p.y, p.x),
		coalesce(count(p.y) >= 10 AND regr_sxx(p.y, p.x) > 0 AND regr_r2(p.y, p.x) >= 0.5
			AND max(p.x) FILTER (WHERE p.y IS NOT NULL) - min(p.x) FILTER (WHERE p.y IS NOT NULL) >= date_part('epoch', over) / 2, false)
	FROM points AS p
	GROUP BY p.series_labels
	HAVING count(p.y) > 0
$$;
COMMENT ON FUNCTION monitoring.trend(text, text, interval, jsonb, text[], timestamptz, interval) IS 'The straight line through a metric''s values over the window that ends at a time (least squares), one row for each combination of the labels named in by. The window is cut into steps (trend_step by default), whose values are those of fn; level is the line''s value at `at`, slope its growth per second, r2 the share of the variance that it explains, mean the mean of the points. steady: the line means something, that is, at least 10 points over half of the window lie along it (r2 at least 0.5). Errors as query().';

CREATE FUNCTION monitoring.forecast(metric text, fn text, over interval, horizon interval, labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), step interval DEFAULT NULL)
RETURNS TABLE (series_labels jsonb, value float8, level float8, slope float8, r2 float8, steady boolean)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 100 AS $$
	SELECT t.series_labels, CASE WHEN t.steady THEN t.level + t.slope * date_part('epoch', horizon) ELSE t.mean END, t.level, t.slope, t.r2, t.steady
	FROM monitoring.trend(metric, fn, over, labels, by, at, step) AS t
$$;
COMMENT ON FUNCTION monitoring.forecast(text, text, interval, interval, jsonb, text[], timestamptz, interval) IS 'What a metric will be at the end of the horizon if it goes on along its trend, one row for each combination of the labels named in by; the mean of the window where there is no steady trend. The other columns are those of trend(). Errors as query().';

CREATE FUNCTION monitoring.crossing_time(level float8, slope float8, threshold float8, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT at + s * '1 second'::interval FROM (SELECT (threshold - level) / nullif(slope, 0)) AS c (s) WHERE s BETWEEN 0 AND 315576000
$$;
COMMENT ON FUNCTION monitoring.crossing_time(float8, float8, float8, timestamptz) IS 'When a line with this level at `at` reaches the threshold; null if it does not within ten years, or has done so before.';

CREATE FUNCTION monitoring.crosses_at(metric text, fn text, threshold float8, over interval, labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), step interval DEFAULT NULL)
RETURNS TABLE (series_labels jsonb, crosses_at timestamptz, level float8, slope float8, r2 float8, steady boolean)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 100 AS $$
	SELECT t.series_labels, CASE WHEN t.steady THEN monitoring.crossing_time(t.level, t.slope, threshold, at) END, t.level, t.slope, t.r2, t.steady
	FROM monitoring.trend(metric, fn, over, labels, by, at, step) AS t
$$;
COMMENT ON FUNCTION monitoring.crosses_at(text, text, float8, interval, jsonb, text[], timestamptz, interval) IS 'When a metric will reach a threshold if it goes on along its trend: when the disk will be full, connections run out. One row for each combination of the labels named in by; crosses_at is null without a steady trend, when it leads away from the threshold, or farther than ten years. The other columns are those of trend(). Errors as query().';

CREATE FUNCTION monitoring.forecast_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH readings AS MATERIALIZED (
		SELECT r.rules, t.series_labels, t.points, t.mean, t.level, t.slope, t.r2, t.steady
		FROM (
			SELECT d.metric, d.fn, d.over, d.selector, d.by_labels, (d.params ->> 'step')::interval AS step, array_agg(d.id) AS rules
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (forecast_rule_values.rule_ids)
			GROUP BY d.metric, d.fn, d.over, d.selector, d.by_labels, (d.params ->> 'step')::interval
		) AS r
		CROSS JOIN LATERAL monitoring.trend(r.metric, r.fn, r.over, r.selector, r.by_labels, forecast_rule_values.at, r.step) AS t
	)
	SELECT d.id, t.series_labels, CASE WHEN t.steady THEN t.level + t.slope * date_part('epoch', (d.params ->> 'horizon')::interval) ELSE t.mean END,
		jsonb_build_object('level', t.level, 'slope', t.slope, 'r2', t.r2, 'points', t.points, 'steady', t.steady, 'crosses_at',
			CASE WHEN t.steady THEN monitoring.crossing_time(t.level, t.slope, d.threshold, forecast_rule_values.at) END),
		NULL::text
	FROM readings AS t
	CROSS JOIN LATERAL unnest(t.rules) AS u (id)
	JOIN monitoring.alert_rule_defs AS d ON d.id = u.id
$$;
COMMENT ON FUNCTION monitoring.forecast_rule_values(timestamptz, bigint[]) IS 'Rule kind forecast: what forecast() gives each group for the end of the rule''s horizon.';

CREATE FUNCTION monitoring.check_forecast_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	over interval := (rule ->> 'over')::interval;
	horizon interval := monitoring.check_rule_interval(rule, 'horizon');
	step interval := monitoring.check_rule_interval(rule, 'step');
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{horizon,step}');
	PERFORM monitoring.check_rule_reading(rule);
	IF horizon IS NULL THEN
		RAISE EXCEPTION 'an alert rule of kind forecast needs the parameter "horizon"'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For example params => ''{"horizon": "4 hours"}''.';
	ELSIF rule ->> 'op' NOT IN ('>', '>=', '<', '<=') THEN
		RAISE EXCEPTION 'an alert rule of kind forecast compares with >, >=, < or <=' USING ERRCODE = 'invalid_parameter_value';
	ELSIF over < '10 minutes' OR horizon > 10 * over THEN
		RAISE EXCEPTION 'a forecast looks ahead ten times its window at most, which must not be shorter than ten minutes'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF step < '10 seconds' OR step > over / 10 OR over / 2000 > step THEN
		RAISE EXCEPTION 'the step of a forecast must be at least 10 seconds and go into its window 10 to 2000 times'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_forecast_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, without a horizon or with one of more than ten times its window, with a window shorter than ten minutes, or with a bad step; 42602 for a bad metric name.';

----------------------------------------------------------------------------------------------------------------------
-- The kinds, and their rules by the defaults
----------------------------------------------------------------------------------------------------------------------

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin, evaluation_order, every) VALUES
	('anomaly', 'monitoring.anomaly_rule_values', 'monitoring.check_anomaly_rule', 'How far a function of a metric''s values is from what it usually is at this time, in standard deviations. params: season (hour_of_week), history, min_history, points (3), two_sided (false), location (UTC).', true, 0, '1 minute'),
	('forecast', 'monitoring.forecast_rule_values', 'monitoring.check_forecast_rule', 'What a function of a metric''s values will be at the end of a horizon, by its trend over the window. params: horizon, step.', true, 0, '1 minute');

CREATE FUNCTION monitoring.create_anomaly_rule(name text, metric text, fn text, over interval DEFAULT '5 minutes', threshold float8 DEFAULT 3.25,
	direction text DEFAULT 'both', severity text DEFAULT 'medium', labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	params jsonb DEFAULT '{}', annotations jsonb DEFAULT NULL, pending_for interval DEFAULT '0', receivers text[] DEFAULT NULL,
	extra_labels jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF direction IS NULL OR direction NOT IN ('above', 'below', 'both') THEN
		RAISE EXCEPTION 'unknown direction "%" of an anomaly', left(direction, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Directions are above, below and both.';
	END IF;
	RETURN monitoring.create_alert_rule(name, metric, fn, over, CASE direction WHEN 'below' THEN '<' ELSE '>' END,
		CASE direction WHEN 'below' THEN -threshold ELSE threshold END, pending_for => pending_for, severity => severity,
		labels => labels, by => by, receivers => receivers, kind => 'anomaly', extra_labels => extra_labels,
		params => params || CASE direction WHEN 'both' THEN '{"two_sided": true}' ELSE '{}' END::jsonb,
		annotations => coalesce(annotations, jsonb_build_object('summary',
			format('%s of %s was {{value}} standard deviations from what it usually is at this time.', fn, metric))));
END $$;
COMMENT ON FUNCTION monitoring.create_anomaly_rule(text, text, text, interval, float8, text, text, jsonb, text[], jsonb, jsonb, interval, text[], jsonb) IS 'Create a rule of kind anomaly that finds what is unusually high (direction above), low (below) or either (both), and return its id. The default threshold raises less than one false alert per series and week. Errors as create_alert_rule; unknown direction (22023).';

CREATE FUNCTION monitoring.create_forecast_rule(name text, metric text, fn text, threshold float8, horizon interval, over interval DEFAULT NULL,
	op text DEFAULT '>', severity text DEFAULT 'medium', labels jsonb DEFAULT '{}', by text[] DEFAULT '{}', annotations jsonb DEFAULT NULL,
	pending_for interval DEFAULT NULL, receivers text[] DEFAULT NULL, extra_labels jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
	SELECT monitoring.create_alert_rule(create_forecast_rule.name, create_forecast_rule.metric, create_forecast_rule.fn,
		coalesce(over, greatest('10 minutes', horizon)), create_forecast_rule.op, threshold,
		pending_for => coalesce(create_forecast_rule.pending_for, CASE WHEN horizon > '0' THEN horizon / 48 ELSE '0' END), severity => create_forecast_rule.severity,
		labels => create_forecast_rule.labels, by => create_forecast_rule.by, receivers => create_forecast_rule.receivers, kind => 'forecast',
		params => jsonb_build_object('horizon', horizon), extra_labels => create_forecast_rule.extra_labels,
		annotations => coalesce(create_forecast_rule.annotations, jsonb_build_object('summary',
			format('%s of %s will be {{value}} in %s, it reaches {{threshold}} at {{crosses_at}}.', create_forecast_rule.fn, create_forecast_rule.metric, horizon))))
$$;
COMMENT ON FUNCTION monitoring.create_forecast_rule(text, text, text, float8, interval, interval, text, text, jsonb, text[], jsonb, interval, text[], jsonb) IS 'Create a rule of kind forecast, which says that a metric will cross a threshold within a horizon, and return its id. By default the trend over a window as long as the horizon is followed, and must foretell the crossing for a 48th of the horizon. Errors as create_alert_rule.';
-- alerts, objectives: service-level objectives with their error budgets, and the rule kind burn_rate that watches them.
--
-- An objective counts good events and all events over a window. What it says is read from metrics whenever it is asked
-- for; nothing but definitions is stored.

----------------------------------------------------------------------------------------------------------------------
-- Objectives
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.slo_defs (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	description text NOT NULL DEFAULT '',
	good jsonb NOT NULL,
	total jsonb NOT NULL,
	latency_threshold float8 CHECK (latency_threshold > 0 AND latency_threshold < 'Infinity'),
	objective float8 NOT NULL CHECK (objective > 0 AND objective < 1),
	over interval NOT NULL CHECK (over >= '1 hour' AND over <= '400 days'),
	min_events float8 NOT NULL DEFAULT 1 CHECK (min_events >= 0 AND min_events < 'Infinity'),
	owner name NOT NULL,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE monitoring.slo_defs IS 'Service-level objectives; see create_slo, update_slo, drop_slo and slo_status.';
COMMENT ON COLUMN monitoring.slo_defs.name IS 'Name of the objective.';
COMMENT ON COLUMN monitoring.slo_defs.description IS 'What is promised, for people.';
COMMENT ON COLUMN monitoring.slo_defs.good IS 'The good events: {"metric": …, "labels": …} as in value().';
COMMENT ON COLUMN monitoring.slo_defs.total IS 'All events, in the same form.';
COMMENT ON COLUMN monitoring.slo_defs.latency_threshold IS 'Of the good events only those that took at most so long count, in the unit of the metric; null: all of them.';
COMMENT ON COLUMN monitoring.slo_defs.objective IS 'Share of events that must be good, such as 0.999.';
COMMENT ON COLUMN monitoring.slo_defs.over IS 'Window over which the objective holds.';
COMMENT ON COLUMN monitoring.slo_defs.min_events IS 'A window with fewer events than this burns nothing.';
COMMENT ON COLUMN monitoring.slo_defs.owner IS 'Role that created the objective.';
COMMENT ON COLUMN monitoring.slo_defs.created_at IS 'When it was created.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.slo_defs', '');

CREATE VIEW monitoring.slos AS
	SELECT s.name, s.description, s.good, s.total, s.latency_threshold, s.objective, s.over, s.min_events, s.owner, s.created_at
	FROM monitoring.slo_defs AS s;
COMMENT ON VIEW monitoring.slos IS 'Service-level objectives as they are defined; slo_status() tells how they stand.';
COMMENT ON COLUMN monitoring.slos.name IS 'Name of the objective.';
COMMENT ON COLUMN monitoring.slos.description IS 'What is promised.';
COMMENT ON COLUMN monitoring.slos.good IS 'The good events: metric and labels.';
COMMENT ON COLUMN monitoring.slos.total IS 'All events: metric and labels.';
COMMENT ON COLUMN monitoring.slos.latency_threshold IS 'Longest that a good event may take; null: any time.';
COMMENT ON COLUMN monitoring.slos.objective IS 'Share of events that must be good.';
COMMENT ON COLUMN monitoring.slos.over IS 'Window over which the objective holds.';
COMMENT ON COLUMN monitoring.slos.min_events IS 'A window with fewer events than this burns nothing.';
COMMENT ON COLUMN monitoring.slos.owner IS 'Role that created the objective.';
COMMENT ON COLUMN monitoring.slos.created_at IS 'When it was created.';

-- An operation that did not happen is neither good nor bad: no events, no share. Objectives and windows share what they have
-- in common, such as all requests to a service.
CREATE FUNCTION monitoring.slo_events(names text[], windows interval[], at timestamptz)
RETURNS TABLE (name text, over interval, good float8, total float8, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH parts AS MATERIALIZED (
		SELECT dense_rank() OVER (ORDER BY e.metric, e.fn, w.over, e.labels) AS request, w.n, e.part, e.metric, e.fn, w.over, e.labels
		FROM unnest(names, windows) WITH ORDINALITY AS w (name, over, n)
		JOIN monitoring.slo_defs AS s ON s.name = w.name
		CROSS JOIN LATERAL (VALUES
			('total', s.total ->> 'metric', 'increase', s.total -> 'labels'),
			('good', s.good ->> 'metric', 'increase', s.good -> 'labels'),
			('share', s.good ->> 'metric', format('share_below(%s)', s.latency_threshold), s.good -> 'labels')
		) AS e (part, metric, fn, labels)
		WHERE e.part <> 'share' OR s.latency_threshold IS NOT NULL
	), read AS MATERIALIZED (
		SELECT v.request, v.value, v.error
		FROM monitoring.read_values(
			ARRAY(
				SELECT DISTINCT ON (p.request) ROW(p.metric, p.fn, p.over, p.labels, '{}', NULL)::monitoring.value_request
				FROM parts AS p
				ORDER BY p.request
			), slo_events.at) AS v
	), counted AS (
		SELECT p.n, coalesce(max(r.value) FILTER (WHERE p.part = 'total'), 0) AS total,
			coalesce(max(r.value) FILTER (WHERE p.part = 'good'), 0) AS good,
			CASE WHEN bool_or(p.part = 'share') THEN coalesce(max(r.value) FILTER (WHERE p.part = 'share'), 0) ELSE 1 END AS share,
			min(r.error) AS error
		FROM parts AS p
		LEFT JOIN read AS r ON r.request = p.request
		GROUP BY p.n
	)
	SELECT w.name, w.over, CASE WHEN c.error IS NULL THEN least(c.good * c.share, c.total) END, CASE WHEN c.error IS NULL THEN c.total END, c.error
	FROM unnest(names, windows) WITH ORDINALITY AS w (name, over, n)
	JOIN counted AS c ON c.n = w.n
	ORDER BY w.n
$$;
COMMENT ON FUNCTION monitoring.slo_events(text[], interval[], timestamptz) IS 'How many events of objectives were good, and how many there were, in windows that end at a time: a row for each pair of a name and a window, all read in one pass. error: why they cannot be counted, as a metric is of another kind.';

CREATE FUNCTION monitoring.burn_rate(slo monitoring.slo_defs, good float8, total float8) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN total > 0 AND total >= slo.min_events THEN (1 - good / total) / (1 - slo.objective) ELSE 0 END
$$;
COMMENT ON FUNCTION monitoring.burn_rate(monitoring.slo_defs, float8, float8) IS 'How fast so many good events of so many use up the error budget: bad share / (1 - objective). At 1 the budget lasts just as long as the window of the objective. 0 below min_events.';

CREATE FUNCTION monitoring.slo_of(name text) RETURNS monitoring.slo_defs
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	slo monitoring.slo_defs;
BEGIN
	SELECT s.* INTO slo FROM monitoring.slo_defs AS s WHERE s.name = slo_of.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'objective "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.slos.';
	END IF;
	RETURN slo;
END $$;
COMMENT ON FUNCTION monitoring.slo_of(text) IS 'The objective of this name. Error 42704 if it does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- Rule kind burn_rate
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.burn_rate_windows(objective float8, over interval, severity text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	-- A factor that not even an outage reaches would watch nothing.
	SELECT jsonb_agg(jsonb_build_object('long', w.long, 'short', w.short, 'factor', trim_scale(round(least(
		w.share * extract(epoch FROM over)::numeric / extract(epoch FROM w.long::interval)::numeric,
		0.9 / (1 - objective)::numeric), 3))) ORDER BY w.share)
	FROM (VALUES ('critical', 0.02, '1 hour', '5 minutes'), ('critical', 0.05, '6 hours', '30 minutes'),
		('medium', 0.10, '1 day', '2 hours'), ('medium', 0.10, '3 days', '6 hours')) AS w (severity, share, long, short)
	WHERE w.severity = burn_rate_windows.severity
$$;
COMMENT ON FUNCTION monitoring.burn_rate_windows(float8, interval, text) IS 'Windows and factors for burn-rate rules as the Site Reliability Workbook (chapter 5) proposes them: critical when 2 % of the budget are used within an hour or 5 % within 6 hours, medium when 10 % are used within one or three days; factor = share * window of the objective / long window, which is 14.4, 6, 3 and 1 for 30 days.';

CREATE FUNCTION monitoring.burn_rate_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH pairs AS MATERIALIZED (
		SELECT d.id, d.params ->> 'slo' AS name, w.long, w.short, w.factor
		FROM monitoring.alert_rule_defs AS d
		CROSS JOIN jsonb_to_recordset(d.params -> 'windows') AS w (long interval, short interval, factor float8)
		WHERE d.id = ANY (burn_rate_rule_values.rule_ids)
	), windows AS MATERIALIZED (
		SELECT p.name, p.long AS over FROM pairs AS p UNION SELECT p.name, p.short FROM pairs AS p
	), readings AS MATERIALIZED (
		SELECT e.name, e.over, monitoring.burn_rate(s, e.good, e.total) AS burn, e.error
		FROM (SELECT array_agg(w.name) AS names, array_agg(w.over) AS overs FROM windows AS w) AS a
		CROSS JOIN LATERAL monitoring.slo_events(a.names, a.overs, burn_rate_rule_values.at) AS e
		JOIN monitoring.slo_defs AS s ON s.name = e.name
	)
	SELECT p.id, jsonb_build_object('slo', p.name), max(least(l.burn, s.burn) / p.factor),
		jsonb_build_object('burn_rates', jsonb_object_agg(p.long::text || ' / ' || p.short::text,
			jsonb_build_array(l.burn, s.burn))),
		coalesce(min(l.error), min(s.error), CASE WHEN count(l.name) = 0 THEN format('objective "%s" does not exist', p.name) END)
	FROM pairs AS p
	LEFT JOIN readings AS l ON l.name = p.name AND l.over = p.long
	LEFT JOIN readings AS s ON s.name = p.name AND s.over = p.short
	GROUP BY p.id, p.name
$$;
COMMENT ON FUNCTION monitoring.burn_rate_rule_values(timestamptz, bigint[]) IS 'Rule kind burn_rate: of each pair of windows the lower of the two burn rates, divided by the pair''s factor; the highest of these is the value, so that it is above 1 when in some pair both windows burn faster than its factor.';

CREATE FUNCTION monitoring.check_burn_rate_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad boolean;
BEGIN
	PERFORM monitoring.slo_of(coalesce(rule -> 'params' ->> 'slo', ''));
	IF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'by_labels' <> '[]' OR rule ->> 'op' NOT IN ('>', '>=') THEN
		RAISE EXCEPTION 'a burn-rate rule takes no metric, function or grouping, and compares with > or >='
			USING ERRCODE = 'invalid_parameter_value', HINT = 'monitoring.create_slo makes such rules.';
	END IF;
	BEGIN
		SELECT count(*) = 0 OR bool_or(coalesce(NOT (w.long > w.short AND w.short > '0' AND w.factor > 0), true)) INTO bad
		FROM jsonb_to_recordset(rule -> 'params' -> 'windows') AS w (long interval, short interval, factor float8);
	EXCEPTION WHEN data_exception THEN
		bad := true;
	END;
	IF bad OR rule -> 'params' -> 'windows' IS NULL THEN
		RAISE EXCEPTION 'the windows of a burn-rate rule are not valid'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give them as in {"slo": "checkout", "windows": [{"long": "1 hour", "short": "5 minutes", "factor": 14.4}]}.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_burn_rate_rule(jsonb) IS 'Raises 42704 for an objective that does not exist, 22023 for windows that are not pairs of a long and a short one with a factor above zero, or for a metric, function, grouping or another operator.';

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin) VALUES
	('burn_rate', 'monitoring.burn_rate_rule_values', 'monitoring.check_burn_rate_rule', 'How fast an objective''s error budget is used up, in several windows.', true);

----------------------------------------------------------------------------------------------------------------------
-- Creating and changing objectives
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_slo_events(events jsonb, what text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF events IS NULL OR jsonb_typeof(events) <> 'object' OR NOT events - 'labels' ? 'metric' OR events - '{metric,labels}'::text[] <> '{}'
		OR coalesce(jsonb_typeof(events -> 'labels'), 'object') <> 'object' OR jsonb_typeof(events -> 'metric') <> 'string' THEN
		RAISE EXCEPTION 'the % events of an objective must name a metric', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give them as in {"metric": "http_server_request_duration_seconds", "labels": {"service": "shop"}}.';
	END IF;
	events := jsonb_build_object('metric', events -> 'metric', 'labels', coalesce(events -> 'labels', '{}'));
	-- raises what value() would
	PERFORM monitoring.value(events ->> 'metric', 'increase', '1 minute', events -> 'labels');
	RETURN events;
END $$;
COMMENT ON FUNCTION monitoring.check_slo_events(jsonb, text) IS 'The events of an objective in the form in which they are stored. Errors: 22023 for what is not {"metric": …, "labels": …}, and those of value().';

CREATE FUNCTION monitoring.check_slo(slo monitoring.slo_defs) RETURNS monitoring.slo_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF slo.name IS NULL OR slo.name !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'an objective''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF slo.objective IS NULL OR NOT (slo.objective > 0 AND slo.objective < 1) THEN
		RAISE EXCEPTION 'an objective must be between 0 and 1'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a share such as 0.999; 1 leaves no budget for errors.';
	ELSIF slo.over IS NULL OR slo.over < '1 hour' OR slo.over > '400 days' THEN
		RAISE EXCEPTION 'the window of an objective must be between an hour and 400 days'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF slo.min_events IS NULL OR NOT (slo.min_events >= 0 AND slo.min_events < 'Infinity') THEN
		RAISE EXCEPTION 'the least number of events of an objective must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT (slo.latency_threshold > 0 AND slo.latency_threshold < 'Infinity') THEN
		RAISE EXCEPTION 'the latency threshold of an objective must be above zero' USING ERRCODE = 'invalid_parameter_value';
	ELSIF slo.good IS NULL AND slo.latency_threshold IS NULL THEN
		RAISE EXCEPTION 'an objective needs good events or a latency threshold' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	slo.total := monitoring.check_slo_events(slo.total, 'total');
	slo.good := monitoring.check_slo_events(coalesce(slo.good, slo.total), 'good');
	IF slo.latency_threshold IS NOT NULL THEN
		PERFORM monitoring.value(slo.good ->> 'metric', format('share_below(%s)', slo.latency_threshold), '1 minute', slo.good -> 'labels');
	END IF;
	slo.description := coalesce(slo.description, '');
	RETURN slo;
END $$;
COMMENT ON FUNCTION monitoring.check_slo(monitoring.slo_defs) IS 'An objective in the form in which it is stored, after all checks. Errors: 22023 for anything that is not valid, and those of value().';

CREATE FUNCTION monitoring.create_slo_rules(slo monitoring.slo_defs, receivers text[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.create_alert_rule(format('%s: %s', slo.name, r.what), NULL, NULL, slo.over, '>', 1, severity => r.severity,
		kind => 'burn_rate', receivers => create_slo_rules.receivers, every => '1 minute', slo => slo.name,
		params => jsonb_build_object('slo', slo.name, 'windows', monitoring.burn_rate_windows(slo.objective, slo.over, r.severity)),
		annotations => jsonb_build_object('summary', 'Objective {{slo}} uses up its error budget too fast.',
			'impact', r.impact, 'runbook', 'See monitoring.slo_status() and the errors behind it.'))
	FROM (VALUES
		('budget burns fast', 'critical', 'Within hours or days nothing is left of the budget.'),
		('budget burns', 'medium', 'The budget will not last as long as it must.')) AS r (what, severity, impact)
$$;
COMMENT ON FUNCTION monitoring.create_slo_rules(monitoring.slo_defs, text[]) IS 'Create the two burn-rate rules of an objective.';

CREATE FUNCTION monitoring.create_slo(name text, good jsonb, total jsonb, objective float8 DEFAULT 0.999,
	latency_threshold float8 DEFAULT NULL, over interval DEFAULT '30 days', min_events float8 DEFAULT 1,
	description text DEFAULT '', with_rules boolean DEFAULT true, receivers text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	slo monitoring.slo_defs;
BEGIN
	slo.name := create_slo.name;
	slo.description := create_slo.description;
	slo.good := create_slo.good;
	slo.total := create_slo.total;
	slo.latency_threshold := create_slo.latency_threshold;
	slo.objective := create_slo.objective;
	slo.over := create_slo.over;
	slo.min_events := create_slo.min_events;
	slo := monitoring.check_slo(slo);
	slo.owner := monitoring.calling_role();
	slo.created_at := clock_timestamp();
	INSERT INTO monitoring.slo_defs SELECT slo.* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'objective "%" already exists', name
			USING ERRCODE = 'duplicate_object', HINT = 'Change it with monitoring.update_slo.';
	END IF;
	IF with_rules THEN
		PERFORM monitoring.create_slo_rules(slo, receivers);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.create_slo(text, jsonb, jsonb, float8, float8, interval, float8, text, boolean, text[]) IS 'Create a service-level objective: that share `objective` of the total events, over any window of length over (30 days), are good. good and total are {"metric": …, "labels": …}: counters, or distributions, whose observations are the events. With latency_threshold only good events that took at most so long are good; good null: total''s. with_rules creates two burn-rate rules, critical and medium, for the receivers (null: as routed). Errors: 22023 for anything that is not valid, 42809 for a metric of the wrong kind, 42710 if the name is taken.';

CREATE FUNCTION monitoring.update_slo(name text, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	slo monitoring.slo_defs := monitoring.slo_of(name);
	bad text;
	rule record;
BEGIN
	IF changes IS NULL OR jsonb_typeof(changes) <> 'object' THEN
		RAISE EXCEPTION 'changes must be a JSON object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give the parameters of create_slo that change, as in {"objective": 0.995}.';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(changes) AS k
	WHERE k <> ALL ('{description,good,total,latency_threshold,objective,over,min_events}');
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION '"%" is nothing that can change in an objective', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'These can: description, good, latency_threshold, min_events, objective, over, total.';
	END IF;
	slo := monitoring.check_slo(jsonb_populate_record(slo, changes));
	UPDATE monitoring.slo_defs AS s
	SET (description, good, total, latency_threshold, objective, over, min_events)
		= (SELECT slo.description, slo.good, slo.total, slo.latency_threshold, slo.objective, slo.over, slo.min_events)
	WHERE s.name = slo.name;
	-- Rules that were edited keep their windows.
	FOR rule IN
		SELECT r.name, r.severity FROM monitoring.alert_rule_defs AS r
		WHERE r.slo = update_slo.name AND r.kind = 'burn_rate' AND NOT r.edited
	LOOP
		PERFORM monitoring.update_alert_rule(rule.name, jsonb_build_object('params', jsonb_build_object('slo', slo.name,
			'windows', monitoring.burn_rate_windows(slo.objective, slo.over, rule.severity))));
		UPDATE monitoring.alert_rule_defs AS r SET edited = false WHERE r.name = rule.name;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.update_slo(text, jsonb) IS 'Change an objective: changes is a JSON object of parameters of create_slo, such as {"objective": 0.995}. Its burn-rate rules follow unless they were edited. Errors: 42704 if there is no such objective, otherwise as create_slo.';

CREATE FUNCTION monitoring.drop_slo(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.slo_of(name);
	PERFORM monitoring.drop_alert_rule(r.name)
	FROM monitoring.alert_rule_defs AS r
	WHERE r.slo = drop_slo.name OR r.kind = 'burn_rate' AND r.params ->> 'slo' = drop_slo.name;
	DELETE FROM monitoring.slo_defs AS s WHERE s.name = drop_slo.name;
END $$;
COMMENT ON FUNCTION monitoring.drop_slo(text) IS 'Drop an objective and the rules that watch it. Error 42704 if there is none of this name.';

----------------------------------------------------------------------------------------------------------------------
-- How objectives stand
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.slo_status(name text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (slo text, objective float8, over interval, good float8, total float8, sli float8, budget_events float8,
	budget_remaining float8, burn_1h float8, burn_6h float8, burn_3d float8, exhausts_at timestamptz, state text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT r.name, r.objective, r.over, r.good, r.total, r.sli, r.total * (1 - r.objective), r.remaining,
		r.burn_1h, r.burn_6h, r.burn_3d, x.exhausts_at,
		CASE WHEN r.sli IS NULL THEN 'no data' WHEN r.remaining <= 0 THEN 'exhausted'
			WHEN x.exhausts_at < slo_status.at + r.over / 10 THEN 'at risk' ELSE 'ok' END
	FROM (
		SELECT s.name, s.objective, s.over, e.good[1] AS good, e.total[1] AS total, e.good[1] / nullif(e.total[1], 0) AS sli,
			1 - (1 - e.good[1] / nullif(e.total[1], 0)) / (1 - s.objective) AS remaining, e.burn[2] AS burn_1h, e.burn[3] AS burn_6h, e.burn[4] AS burn_3d
		FROM (
			SELECT i.name, array_agg(i.good ORDER BY i.n) AS good, array_agg(i.total ORDER BY i.n) AS total,
				array_agg(monitoring.burn_rate(d, i.good, i.total) ORDER BY i.n) AS burn
			FROM (SELECT array_agg(w.name ORDER BY w.name, o.n) AS names, array_agg(o.over ORDER BY w.name, o.n) AS overs
				FROM monitoring.slo_defs AS w
				CROSS JOIN LATERAL unnest(ARRAY[w.over, '1 hour', '6 hours', '3 days']) WITH ORDINALITY AS o (over, n)
				WHERE slo_status.name IS NULL OR w.name = slo_status.name) AS a
			CROSS JOIN LATERAL monitoring.slo_events(a.names, a.overs, slo_status.at) WITH ORDINALITY AS i (name, over, good, total, error, n)
			JOIN monitoring.slo_defs AS d ON d.name = i.name
			GROUP BY i.name) AS e
		JOIN monitoring.slo_defs AS s ON s.name = e.name
	) AS r
	CROSS JOIN LATERAL (SELECT CASE
		WHEN r.remaining <= 0 THEN slo_status.at
		WHEN r.burn_6h > 1 THEN slo_status.at + r.remaining / r.burn_6h * r.over END AS exhausts_at) AS x
	ORDER BY r.name
$$;
COMMENT ON FUNCTION monitoring.slo_status(text, timestamptz) IS 'How objectives (one, or all) stand at a time: good and total events in the window, sli = their ratio, budget_events = bad events that the objective allows, budget_remaining = share of the error budget that is left (below zero: overdrawn), burn rates of the last hour, 6 hours and 3 days (1 uses up the budget in just the window), exhausts_at = when nothing is left if it goes on as in the last 6 hours (null: not before budget comes back), state: ok, at risk (exhausted within a tenth of the window), exhausted, no data.';

CREATE FUNCTION monitoring.slo_history(name text, since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	step interval DEFAULT '1 day')
RETURNS TABLE (bucket timestamptz, good float8, total float8, sli float8, budget_remaining float8)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH slo AS MATERIALIZED (
		SELECT (monitoring.slo_of(slo_history.name)).*
	), total AS MATERIALIZED (
		SELECT q.bucket, q.value, w.value AS in_window
		FROM slo AS s
		CROSS JOIN LATERAL monitoring.query(s.total ->> 'metric', 'increase', since, until, step, s.total -> 'labels') AS q
		JOIN LATERAL monitoring.rolling(s.total ->> 'metric', 'increase', since, until, step, s.over, s.total -> 'labels') AS w
			ON w.bucket = q.bucket
	), good AS MATERIALIZED (
		SELECT q.bucket, q.value, w.value AS in_window
		FROM slo AS s
		CROSS JOIN LATERAL monitoring.query(s.good ->> 'metric', 'increase', since, until, step, s.good -> 'labels') AS q
		JOIN LATERAL monitoring.rolling(s.good ->> 'metric', 'increase', since, until, step, s.over, s.good -> 'labels') AS w
			ON w.bucket = q.bucket
	), fast AS MATERIALIZED (
		SELECT q.bucket, q.value, w.value AS in_window
		FROM slo AS s
		CROSS JOIN LATERAL (SELECT format('share_below(%s)', s.latency_threshold) AS share) AS f
		CROSS JOIN LATERAL monitoring.query(s.good ->> 'metric', f.share, since, until, step, s.good -> 'labels') AS q
		JOIN LATERAL monitoring.rolling(s.good ->> 'metric', f.share, since, until, step, s.over, s.good -> 'labels') AS w
			ON w.bucket = q.bucket
		WHERE s.latency_threshold IS NOT NULL
	), counted AS (
		SELECT t.bucket, s.objective, t.value AS total, t.in_window AS total_in_window,
			least(coalesce(g.value, 0) * c.share, t.value) AS good,
			least(coalesce(g.in_window, 0) * c.share_in_window, t.in_window) AS good_in_window
		FROM total AS t
		CROSS JOIN slo AS s
		LEFT JOIN good AS g ON g.bucket = t.bucket
		LEFT JOIN fast AS f ON f.bucket = t.bucket
		CROSS JOIN LATERAL (SELECT CASE WHEN s.latency_threshold IS NULL THEN 1 ELSE coalesce(f.value, 0) END AS share,
			CASE WHEN s.latency_threshold IS NULL THEN 1 ELSE coalesce(f.in_window, 0) END AS share_in_window) AS c
	)
	SELECT c.bucket, c.good, c.total, c.good / nullif(c.total, 0),
		1 - (1 - c.good_in_window / nullif(c.total_in_window, 0)) / (1 - c.objective)
	FROM counted AS c
	ORDER BY c.bucket
$$;
COMMENT ON FUNCTION monitoring.slo_history(text, timestamptz, timestamptz, interval) IS 'An objective bucket by bucket: good and total events and their ratio within the bucket, and the share of the error budget that was left at its end. Null without events. Errors: 42704 if there is no such objective, and those of query().';
-- alerts, components: what a status page shows, its uptime, and the report of what was promised.
--
-- The status of a component at any time is the worst of what people set by hand and of the alerts that concern it; under
-- maintenance nothing counts. It is computed from the history of alerts, so that nothing is stored twice.

CREATE TABLE monitoring.component_status_kinds (
	status text PRIMARY KEY,
	rank integer NOT NULL UNIQUE,
	downtime_weight float8 NOT NULL CHECK (downtime_weight BETWEEN 0 AND 1),
	severities text[] NOT NULL DEFAULT '{}',
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.component_status_kinds IS 'What the status of a component can be. How much of the time in a status counts as down, and which alerts bring it about, can be changed with UPDATE.';
COMMENT ON COLUMN monitoring.component_status_kinds.status IS 'Name of the status, as status pages use it.';
COMMENT ON COLUMN monitoring.component_status_kinds.rank IS 'The highest of several wins.';
COMMENT ON COLUMN monitoring.component_status_kinds.downtime_weight IS 'Share of the time in this status that counts as down.';
COMMENT ON COLUMN monitoring.component_status_kinds.severities IS 'A firing alert of these severities puts its components into this status.';
COMMENT ON COLUMN monitoring.component_status_kinds.builtin IS 'True for those that CREATE EXTENSION made; a dump that is restored takes their place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.component_status_kinds', '');
INSERT INTO monitoring.component_status_kinds VALUES
	('operational', 0, 0, '{}', true), ('degraded_performance', 1, 0, '{medium}', true), ('partial_outage', 2, 0.3, '{high}', true),
	('major_outage', 3, 1, '{critical}', true), ('under_maintenance', 4, 0, '{}', true);

CREATE TRIGGER restore BEFORE INSERT ON monitoring.component_status_kinds
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.component_status_kinds IS 'When a dump is restored its statuses replace those of the extension.';

CREATE TRIGGER keep_what_is_used BEFORE DELETE OR UPDATE OF status ON monitoring.component_status_kinds
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') <> 'off')
	EXECUTE FUNCTION monitoring.keep_what_is_used('status', 'component_statuses');
COMMENT ON TRIGGER keep_what_is_used ON monitoring.component_status_kinds IS 'Refuses to take away what rows of component_statuses name, unless a dump is being restored.';

CREATE TABLE monitoring.component_defs (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	description text NOT NULL DEFAULT '',
	selector jsonb,
	objective float8 NOT NULL CHECK (objective > 0 AND objective < 1),
	place integer NOT NULL DEFAULT 0,
	created_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.component_defs IS 'Components of the status page; see create_component and status_page.';
COMMENT ON COLUMN monitoring.component_defs.name IS 'Name of the component.';
COMMENT ON COLUMN monitoring.component_defs.description IS 'What it does, for its users.';
COMMENT ON COLUMN monitoring.component_defs.selector IS 'Alerts that match (labels_match), alertname and severity included, concern it; null: none does.';
COMMENT ON COLUMN monitoring.component_defs.objective IS 'Uptime that is promised.';
COMMENT ON COLUMN monitoring.component_defs.place IS 'Place on the page.';
COMMENT ON COLUMN monitoring.component_defs.created_at IS 'Since when it is watched.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.component_defs', '');

-- No foreign keys: pg_restore -j fills the tables of an extension in any order.
CREATE TABLE monitoring.component_statuses (
	component text NOT NULL,
	since timestamptz NOT NULL,
	status text NOT NULL,
	message text NOT NULL,
	actor name NOT NULL,
	PRIMARY KEY (component, since)
);
COMMENT ON TABLE monitoring.component_statuses IS 'Statuses that were set by hand, each until the next of its component.';
COMMENT ON COLUMN monitoring.component_statuses.component IS 'The component.';
COMMENT ON COLUMN monitoring.component_statuses.since IS 'From when on the status holds.';
COMMENT ON COLUMN monitoring.component_statuses.status IS 'The status; operational leaves it to the alerts.';
COMMENT ON COLUMN monitoring.component_statuses.message IS 'What users are told.';
COMMENT ON COLUMN monitoring.component_statuses.actor IS 'Who set it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.component_statuses', '');

----------------------------------------------------------------------------------------------------------------------
-- Setting up
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_component(name text, description text DEFAULT '', selector jsonb DEFAULT NULL,
	objective float8 DEFAULT 0.999, place integer DEFAULT 0, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'a component''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF objective IS NULL OR NOT (objective > 0 AND objective < 1) THEN
		RAISE EXCEPTION 'an objective must be between 0 and 1' USING ERRCODE = 'invalid_parameter_value';
	ELSIF selector IS NOT NULL THEN
		PERFORM monitoring.check_matchers(selector, 'a component''s selector');
	END IF;
	INSERT INTO monitoring.component_defs (name, description, selector, objective, place, created_at)
	VALUES (create_component.name, coalesce(create_component.description, ''), create_component.selector,
		create_component.objective, coalesce(create_component.place, 0), create_component.at)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'component "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.create_component(text, text, jsonb, float8, integer, timestamptz) IS 'Create a component of the status page. Alerts whose labels match the selector put it into a status by their severity (component_status_kinds); without a selector its status is set by hand alone. objective is the uptime that is promised. Errors: 22023 for anything that is not valid, 42710 if the name is taken.';

CREATE FUNCTION monitoring.drop_component(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.component_statuses AS s WHERE s.component = drop_component.name;
	DELETE FROM monitoring.component_defs AS c WHERE c.name = drop_component.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'component "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_component(text) IS 'Drop a component with the statuses that were set by hand. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.set_component_status(component text, status text, message text DEFAULT '',
	at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.component_defs AS c WHERE c.name = set_component_status.component) THEN
		RAISE EXCEPTION 'component "%" does not exist', component USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM FROM monitoring.component_status_kinds AS k WHERE k.status = set_component_status.status FOR KEY SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown status "%"', status USING ERRCODE = 'invalid_parameter_value',
			HINT = (SELECT 'Statuses are ' || string_agg(k.status, ', ' ORDER BY k.rank) || '.' FROM monitoring.component_status_kinds AS k);
	END IF;
	INSERT INTO monitoring.component_statuses AS s (component, since, status, message, actor)
	VALUES (set_component_status.component, at, set_component_status.status, coalesce(set_component_status.message, ''), monitoring.calling_role())
	ON CONFLICT ON CONSTRAINT component_statuses_pkey
	DO UPDATE SET status = excluded.status, message = excluded.message, actor = excluded.actor;
END $$;
COMMENT ON FUNCTION monitoring.set_component_status(text, text, text, timestamptz) IS 'Set a component''s status by hand from a time on, until it is set again: operational, degraded_performance, partial_outage, major_outage or under_maintenance, with a message for users. Alerts can make it worse, but not during maintenance. Errors: 42704 for an unknown component, 22023 for an unknown status.';

----------------------------------------------------------------------------------------------------------------------
-- Uptime
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.component_periods(since timestamptz, until timestamptz)
RETURNS TABLE (component text, rank integer, periods tstzmultirange)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH alert AS MATERIALIZED (
		SELECT h.labels || jsonb_build_object('alertname', h.rule_name, 'severity', h.severity) AS labels, h.severity,
			tstzrange(h.fired_at, h.at) AS period
		FROM monitoring.alert_history AS h
		WHERE h.from_state = 'firing' AND h.to_state <> 'firing' AND h.at > component_periods.since
			AND h.fired_at < component_periods.until
		UNION ALL
		SELECT a.labels || jsonb_build_object('alertname', a.rule, 'severity', a.severity), a.severity, tstzrange(a.fired_at, NULL)
		FROM monitoring.alerts AS a
		WHERE a.state = 'firing' AND a.fired_at < component_periods.until
	), period AS (
		SELECT c.name, k.rank, a.period
		FROM monitoring.component_defs AS c
		JOIN alert AS a ON c.selector IS NOT NULL AND monitoring.labels_match(a.labels, c.selector)
		JOIN monitoring.component_status_kinds AS k ON a.severity = ANY (k.severities)
		UNION ALL
		SELECT s.component, k.rank, tstzrange(s.since, lead(s.since) OVER (PARTITION BY s.component ORDER BY s.since))
		FROM monitoring.component_statuses AS s
		JOIN monitoring.component_status_kinds AS k ON k.status = s.status
	), level AS (
		SELECT p.name, p.rank, range_agg(p.period * tstzrange(component_periods.since, component_periods.until)) AS periods
		FROM period AS p
		GROUP BY p.name, p.rank
	)
	-- what a worse status covers is not counted twice
	SELECT l.name, l.rank, l.periods - coalesce((SELECT range_agg(r) FROM level AS w CROSS JOIN unnest(w.periods) AS r
		WHERE w.name = l.name AND w.rank > l.rank), '{}')
	FROM level AS l
	WHERE l.rank > 0
$$;
COMMENT ON FUNCTION monitoring.component_periods(timestamptz, timestamptz) IS 'When each component was in which status but operational, within a time; of several at once the one with the highest rank.';

-- However many spans are asked for, history is read once, from the earliest on.
CREATE FUNCTION monitoring.component_spans(since timestamptz[], until timestamptz)
RETURNS TABLE (component text, span bigint, uptime float8, downtime float8, maintenance float8, outages bigint, status text, status_since timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH span AS MATERIALIZED (
		SELECT s.since, s.n FROM unnest(component_spans.since) WITH ORDINALITY AS s (since, n)
	), period AS MATERIALIZED (
		SELECT p.component, k.status, k.downtime_weight, lower(r) AS starts, upper(r) AS ends
		-- the moment itself belongs to what is the case then
		FROM monitoring.component_periods((SELECT min(s.since) FROM span AS s), component_spans.until + interval '1 microsecond') AS p
		JOIN monitoring.component_status_kinds AS k ON k.rank = p.rank
		CROSS JOIN unnest(p.periods) AS r
	), part AS (
		SELECT s.n, p.component, p.status, p.downtime_weight,
			extract(epoch FROM least(p.ends, component_spans.until) - greatest(p.starts, s.since, d.created_at))::float8 AS seconds
		FROM span AS s
		CROSS JOIN period AS p
		-- an alert may have fired before there was the component
		JOIN monitoring.component_defs AS d ON d.name = p.component
		WHERE least(p.ends, component_spans.until) > greatest(p.starts, s.since, d.created_at)
	), total AS (
		SELECT c.name, s.n, coalesce(sum(p.seconds * p.downtime_weight), 0) AS down,
			coalesce(sum(p.seconds) FILTER (WHERE p.status = 'under_maintenance'), 0) AS maintained,
			count(p.seconds) FILTER (WHERE p.downtime_weight > 0) AS outages,
			extract(epoch FROM component_spans.until - greatest(s.since, c.created_at))::float8 AS watched
		FROM monitoring.component_defs AS c
		CROSS JOIN span AS s
		LEFT JOIN part AS p ON p.component = c.name AND p.n = s.n
		GROUP BY c.name, s.n, s.since
	)
	SELECT t.name, t.n, CASE WHEN t.watched > t.maintained THEN 1 - t.down / (t.watched - t.maintained) END, t.down, t.maintained, t.outages,
		o.status, o.starts
	FROM total AS t
	LEFT JOIN period AS o ON o.component = t.name AND o.starts <= component_spans.until AND o.ends > component_spans.until
$$;
COMMENT ON FUNCTION monitoring.component_spans(timestamptz[], timestamptz) IS 'Of every component and span, each from its since until the same time: uptime, seconds of downtime and maintenance, periods with downtime; and its status at that time with its begin, as far as the longest span tells (null: operational).';

CREATE FUNCTION monitoring.component_uptime(since timestamptz, until timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (component text, uptime float8, downtime interval, maintenance interval, outages bigint, objective float8, met boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT c.name, s.uptime, make_interval(secs => s.downtime), make_interval(secs => s.maintenance), s.outages, c.objective, s.uptime >= c.objective
	FROM monitoring.component_spans(ARRAY[component_uptime.since], component_uptime.until) AS s
	JOIN monitoring.component_defs AS c ON c.name = s.component
	ORDER BY c.place, c.name
$$;
COMMENT ON FUNCTION monitoring.component_uptime(timestamptz, timestamptz) IS 'Uptime of every component between two times: 1 - downtime / (time - maintenance), where downtime is the time in each status times its weight (component_status_kinds: a major outage in full, a partial one 0.3). Time before the component was created is left out; null when nothing remains. outages counts the periods with downtime.';

CREATE FUNCTION monitoring.status_page(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (component text, description text, status text, since timestamptz, message text,
	uptime_24h float8, uptime_7d float8, uptime_30d float8, uptime_90d float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	-- the latest 90 days say since when it has been so
	SELECT c.name, c.description, coalesce(min(s.status), k.status), min(s.status_since), m.message,
		min(s.uptime) FILTER (WHERE s.span = 1), min(s.uptime) FILTER (WHERE s.span = 2), min(s.uptime) FILTER (WHERE s.span = 3),
		min(s.uptime) FILTER (WHERE s.span = 4)
	FROM monitoring.component_defs AS c
	JOIN monitoring.component_spans(ARRAY[status_page.at - interval '1 day', status_page.at - interval '7 days',
		status_page.at - interval '30 days', status_page.at - interval '90 days'], status_page.at) AS s ON s.component = c.name
	JOIN monitoring.component_status_kinds AS k ON k.rank = 0
	LEFT JOIN LATERAL (
		SELECT o.message FROM monitoring.component_statuses AS o
		WHERE o.component = c.name AND o.since <= status_page.at
		ORDER BY o.since DESC LIMIT 1
	) AS m ON true
	GROUP BY c.name, k.status, m.message
	ORDER BY c.place, c.name
$$;
COMMENT ON FUNCTION monitoring.status_page(timestamptz) IS 'The status page: every component with its status, since when it has been so (null when operational), the latest message, and its uptime over 24 hours and 7, 30 and 90 days.';

CREATE FUNCTION monitoring.sla_report(since timestamptz, until timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (kind text, name text, objective float8, achieved float8, met boolean, good float8, total float8,
	downtime interval, budget_consumed float8)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT monitoring.check_period(since, until);
	SELECT 'objective', s.name, s.objective, e.good / nullif(e.total, 0), e.good / nullif(e.total, 0) >= s.objective,
		e.good, e.total, NULL::interval, (1 - e.good / nullif(e.total, 0)) / (1 - s.objective)
	FROM (SELECT array_agg(w.name) AS names, array_agg(sla_report.until - sla_report.since) AS windows FROM monitoring.slo_defs AS w) AS a
	CROSS JOIN LATERAL monitoring.slo_events(a.names, a.windows, sla_report.until) AS e
	JOIN monitoring.slo_defs AS s ON s.name = e.name
	UNION ALL
	SELECT 'component', u.component, u.objective, u.uptime, u.uptime >= u.objective, NULL, NULL, u.downtime,
		(1 - u.uptime) / (1 - u.objective)
	FROM monitoring.component_uptime(sla_report.since, sla_report.until) AS u
	ORDER BY 1 DESC, 2
$$;
COMMENT ON FUNCTION monitoring.sla_report(timestamptz, timestamptz) IS 'What was promised and what was kept between two times: objectives with their share of good events, components with their uptime and downtime; budget_consumed is the share of the error budget of that time that was used up (above 1: missed). Error 22023 for times that are not finite or not in order.';
-- alerts, setting changes: which settings of the server, of databases and of roles have changed, and when. What goes wrong
-- has often just been changed.
--
-- Nobody tells when a setting changes. So what is in force is remembered, and compared when the configuration has been
-- loaded anew or ALTER DATABASE or ALTER ROLE have written something; finding out whether that is so reads a few rows.

CREATE TABLE monitoring.setting_changes (
	at timestamptz NOT NULL,
	scope text NOT NULL,
	name text NOT NULL,
	old_value text,
	new_value text
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.setting_changes IS 'Changes of settings in the configuration files, on the command line, and by ALTER DATABASE and ALTER ROLE, kept as long as retention_policies says (400 days).';
COMMENT ON COLUMN monitoring.setting_changes.at IS 'When the configuration with the change was loaded or the server started; of databases and roles when it was noticed, at most a minute later.';
COMMENT ON COLUMN monitoring.setting_changes.scope IS 'server, or the database and role that the setting is for.';
COMMENT ON COLUMN monitoring.setting_changes.name IS 'The setting.';
COMMENT ON COLUMN monitoring.setting_changes.old_value IS 'What it was, as it was written; null: it was not set. (hidden) for what may hold secrets.';
COMMENT ON COLUMN monitoring.setting_changes.new_value IS 'What it is since then; null: it is not set any more.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('setting_changes', '30 days', 1, '400 days', '{(at)}');

-- Not dumped: another server has other settings, and starts to compare with its own.
CREATE TABLE monitoring.known_settings (
	scope text,
	name text,
	value text,
	digest bytea NOT NULL,
	PRIMARY KEY (scope, name)
);
COMMENT ON TABLE monitoring.known_settings IS 'Settings as they were when note_settings() last compared them.';
COMMENT ON COLUMN monitoring.known_settings.scope IS 'server, or the database and role that the setting is for.';
COMMENT ON COLUMN monitoring.known_settings.name IS 'The setting.';
COMMENT ON COLUMN monitoring.known_settings.value IS 'Its value as it may be shown.';
COMMENT ON COLUMN monitoring.known_settings.digest IS 'Hash of its value.';

CREATE TABLE monitoring.settings_seen (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	started_at timestamptz NOT NULL,
	loaded_at timestamptz NOT NULL,
	stored bytea NOT NULL
);
COMMENT ON TABLE monitoring.settings_seen IS 'Which state of the configuration note_settings() last compared. No row before the first time.';
COMMENT ON COLUMN monitoring.settings_seen.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.settings_seen.started_at IS 'When the server had started.';
COMMENT ON COLUMN monitoring.settings_seen.loaded_at IS 'When it had loaded its configuration.';
COMMENT ON COLUMN monitoring.settings_seen.stored IS 'Hash of what ALTER DATABASE and ALTER ROLE had stored.';

CREATE FUNCTION monitoring.shown_setting(name text, value text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- What applications set may be anything, what commands and connections are given as well; numbers are no secrets.
	SELECT CASE WHEN value IS NULL THEN NULL
		WHEN name ~* 'conninfo|command|pass|secret|token|key|credential|auth'
			AND coalesce((SELECT s.vartype FROM pg_settings AS s WHERE s.name = shown_setting.name), 'string') = 'string' THEN '(hidden)'
		WHEN strpos(name, '.') > 0 AND name NOT LIKE 'monitoring.%'
			AND coalesce((SELECT s.vartype FROM pg_settings AS s WHERE s.name = shown_setting.name), 'string') = 'string' THEN '(hidden)'
		ELSE left(value, 500) END
$$;
COMMENT ON FUNCTION monitoring.shown_setting(text, text) IS 'The value of a setting as people may see it: (hidden) for texts that may hold secrets, which are those of applications and extensions, and those whose name speaks of commands, connections, keys and the like.';

CREATE FUNCTION monitoring.settings_in_force() RETURNS TABLE (scope text, name text, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'server', f.name, f.setting
	FROM pg_file_settings AS f
	WHERE f.applied AND NOT EXISTS (SELECT FROM pg_settings AS s WHERE s.name = f.name AND s.source = 'command line')
	UNION ALL
	SELECT 'server', s.name, s.reset_val FROM pg_settings AS s WHERE s.source = 'command line'
	UNION ALL
	-- what waits for a restart is in force as it was
	SELECT DISTINCT k.scope, k.name, NULL
	FROM pg_file_settings AS f
	JOIN monitoring.known_settings AS k ON k.scope = 'server' AND k.name = f.name
	WHERE f.error IS NOT NULL AND NOT EXISTS (SELECT FROM pg_file_settings AS a WHERE a.name = f.name AND a.applied)
	UNION ALL
	SELECT concat_ws(' in ', CASE WHEN d.setrole <> 0 THEN format('role %s', r.rolname) END,
			CASE WHEN d.setdatabase <> 0 THEN format('database %s', current_database()) END),
		split_part(c.setting, '=', 1), substr(c.setting, strpos(c.setting, '=') + 1)
	FROM pg_db_role_setting AS d
	CROSS JOIN unnest(d.setconfig) AS c (setting)
	LEFT JOIN pg_roles AS r ON r.oid = d.setrole
	WHERE d.setdatabase IN (0, (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database()))
$$;
COMMENT ON FUNCTION monitoring.settings_in_force() IS 'The settings that the configuration files, the command line, and ALTER DATABASE and ALTER ROLE give, those of other databases left out. A null value: what is in the file waits for a restart, and what was known is in force.';

CREATE FUNCTION monitoring.note_settings(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	now_stored CONSTANT bytea := (SELECT sha256(convert_to(coalesce(string_agg(s::text, ',' ORDER BY s.setdatabase, s.setrole), ''), 'UTF8'))
		FROM pg_db_role_setting AS s);
	seen monitoring.settings_seen;
	first_time boolean;
	changed_at timestamptz;
BEGIN
	SELECT * INTO seen FROM monitoring.settings_seen;
	first_time := NOT FOUND;
	-- a session that has not loaded the latest configuration knows nothing new
	IF NOT first_time AND pg_postmaster_start_time() = seen.started_at AND pg_conf_load_time() <= seen.loaded_at AND now_stored = seen.stored THEN
		RETURN;
	END IF;
	IF first_time THEN
		INSERT INTO monitoring.settings_seen (started_at, loaded_at, stored) VALUES (pg_postmaster_start_time(), pg_conf_load_time(), now_stored)
		ON CONFLICT DO NOTHING;
	ELSE
		UPDATE monitoring.settings_seen AS e
		SET started_at = pg_postmaster_start_time(), loaded_at = greatest(pg_conf_load_time(), seen.loaded_at), stored = now_stored
		WHERE e.only_row IN (SELECT o.only_row FROM monitoring.settings_seen AS o FOR UPDATE SKIP LOCKED);
	END IF;
	IF NOT FOUND THEN
		RETURN; -- somebody else is comparing them
	END IF;
	changed_at := least(at, greatest(pg_postmaster_start_time(), pg_conf_load_time()));
	PERFORM monitoring.ensure_partition('setting_changes', at);
	PERFORM monitoring.ensure_partition('setting_changes', changed_at);

	WITH now AS MATERIALIZED (
		SELECT f.scope, f.name, f.value IS NULL AS waits, monitoring.shown_setting(f.name, f.value) AS value,
			sha256(convert_to(coalesce(f.value, ''), 'UTF8')) AS digest
		FROM monitoring.settings_in_force() AS f
	), changes AS MATERIALIZED (
		SELECT coalesce(n.scope, k.scope) AS scope, coalesce(n.name, k.name) AS name, k.value AS old_value, n.value AS new_value, n.digest
		FROM now AS n
		FULL JOIN monitoring.known_settings AS k ON k.scope = n.scope AND k.name = n.name
		WHERE n.waits IS NOT TRUE AND n.digest IS DISTINCT FROM k.digest
	), removed AS (
		DELETE FROM monitoring.known_settings AS k USING changes AS c WHERE k.scope = c.scope AND k.name = c.name AND c.digest IS NULL
	), kept AS (
		INSERT INTO monitoring.known_settings AS k (scope, name, value, digest)
		SELECT c.scope, c.name, c.new_value, c.digest FROM changes AS c WHERE c.digest IS NOT NULL
		ON CONFLICT ON CONSTRAINT known_settings_pkey DO UPDATE SET value = excluded.value, digest = excluded.digest
	)
	INSERT INTO monitoring.setting_changes (at, scope, name, old_value, new_value)
	SELECT CASE c.scope WHEN 'server' THEN changed_at ELSE note_settings.at END, c.scope, c.name, c.old_value, c.new_value
	FROM changes AS c
	WHERE NOT first_time
	ORDER BY c.scope, c.name;
END $$;
COMMENT ON FUNCTION monitoring.note_settings(timestamptz) IS 'Compare the settings in force with those that were known, and keep what has changed in setting_changes. Does nothing as long as neither the configuration was loaded nor ALTER DATABASE or ALTER ROLE wrote anything since the last time. A job, and part of taking evidence.';

INSERT INTO monitoring.jobs (name, function, every, priority) VALUES ('settings', 'monitoring.note_settings', '1 minute', 80);
-- alerts, evidence: what the server was doing at the moment when alerts fired, taken in the transaction that makes them fire.
--
-- There is one snapshot for all alerts that fire in an evaluation, and a bound on its size, so that a storm of alerts costs
-- no more than a single one. An alert that fires again and again has five in an hour, and all of an hour take no more than a
-- megabyte: what is left out says so. Texts of statements are kept without their literals.

CREATE TABLE monitoring.alert_evidence (
	at timestamptz NOT NULL,
	alert_ids bigint[] NOT NULL,
	evidence jsonb NOT NULL,
	fingerprints text[] COLLATE "C" NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.alert_evidence IS 'What the server was doing when alerts fired, kept as long as retention_policies says (90 days). See evidence_of().';
COMMENT ON COLUMN monitoring.alert_evidence.at IS 'Time of the evaluation in which they fired.';
COMMENT ON COLUMN monitoring.alert_evidence.alert_ids IS 'The alerts (alerts.alert_id) that fired; of more than 1000 those of the highest severities.';
COMMENT ON COLUMN monitoring.alert_evidence.evidence IS 'The snapshot: activity, waits, blockers, slow_statements, errors, deployments, settings; failed names parts that could not be read.; left_out says why there is no snapshot, alerts_left_out how many alerts beyond those of alert_ids fired.';
COMMENT ON COLUMN monitoring.alert_evidence.fingerprints IS 'Which alerts these are, the same in every episode; empty without a snapshot.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('alert_evidence', '1 day', 2, '90 days', '{(at)}');

CREATE TABLE monitoring.deployments (
	at timestamptz NOT NULL,
	service text NOT NULL,
	version text NOT NULL,
	outcome text NOT NULL DEFAULT 'ok' CHECK (outcome IN ('ok', 'failed', 'rolled_back')),
	description text NOT NULL DEFAULT '',
	actor name NOT NULL,
	PRIMARY KEY (service, at)
);
COMMENT ON TABLE monitoring.deployments IS 'Deployments, as mark_deployment() notes them.';
COMMENT ON COLUMN monitoring.deployments.at IS 'When it was deployed.';
COMMENT ON COLUMN monitoring.deployments.service IS 'What was deployed.';
COMMENT ON COLUMN monitoring.deployments.version IS 'Which version.';
COMMENT ON COLUMN monitoring.deployments.outcome IS 'ok, failed, or rolled_back for one that was taken back later.';
COMMENT ON COLUMN monitoring.deployments.description IS 'What it brought.';
COMMENT ON COLUMN monitoring.deployments.actor IS 'Role that noted it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.deployments', '');
CREATE INDEX deployments_at ON monitoring.deployments (at);

CREATE FUNCTION monitoring.mark_deployment(service text, version text, outcome text DEFAULT 'ok', description text DEFAULT '',
	at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(service, '') !~ '^[^[:cntrl:]]{1,200}$' OR coalesce(version, '') !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a deployment has a service and a version of 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF outcome IS NULL OR outcome NOT IN ('ok', 'failed', 'rolled_back') THEN
		RAISE EXCEPTION 'unknown outcome "%" of a deployment', outcome
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Outcomes are ok, failed and rolled_back.';
	ELSIF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a deployment must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	INSERT INTO monitoring.deployments (at, service, version, outcome, description, actor)
	VALUES (mark_deployment.at, mark_deployment.service, mark_deployment.version, mark_deployment.outcome,
		left(coalesce(mark_deployment.description, ''), 10000), monitoring.calling_role())
	ON CONFLICT ON CONSTRAINT deployments_pkey
	DO UPDATE SET version = excluded.version, outcome = excluded.outcome, description = excluded.description, actor = excluded.actor;
END $$;
COMMENT ON FUNCTION monitoring.mark_deployment(text, text, text, text, timestamptz) IS 'Note that a version of a service was deployed; the same service and time again corrects the note, such as its outcome (ok, failed or rolled_back). Alerts show recent deployments as evidence, and incident_metrics counts them. Error 22023 for anything that is not valid.';

----------------------------------------------------------------------------------------------------------------------
-- Taking evidence
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.scrub_sql(query text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	-- What a cut leaves open, and whatever follows a dollar quote, counts as a literal up to the end.
	SELECT regexp_replace(regexp_replace(left(query, 2000),
		'\$([A-Za-z_][A-Za-z_0-9]*)?\$.*|[eE]''(\\.|''''|[^''\\])*(''|\Z)|''(''''|[^''])*(''|\Z)|--[^\n]*|/\*([^*]|\*(?!/))*(\*/|\Z)', '?', 'g'),
		'(?<![A-Za-z0-9_$"])-?(0[xX][0-9A-Fa-f]+|\.?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?)(?![A-Za-z_])', '?', 'g')
$$;
COMMENT ON FUNCTION monitoring.scrub_sql(text) IS 'The first 2000 characters of a statement with its literals and comments replaced by question marks.';

CREATE FUNCTION monitoring.activity_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(a)) FROM (
		SELECT s.pid, s.datname AS database, s.usename AS "user", left(s.application_name, 64) AS application, s.state,
			concat_ws(': ', s.wait_event_type, s.wait_event) AS wait,
			round(extract(epoch FROM clock_timestamp() - s.query_start)::numeric, 3) AS seconds,
			round(extract(epoch FROM clock_timestamp() - s.xact_start)::numeric, 3) AS transaction_seconds,
			left(monitoring.scrub_sql(s.query), 500) AS query
		FROM pg_stat_activity AS s
		WHERE s.backend_type = 'client backend' AND s.pid <> pg_backend_pid() AND s.state <> 'idle'
		ORDER BY s.state <> 'active', s.query_start
		LIMIT 10) AS a
$$;
COMMENT ON FUNCTION monitoring.activity_evidence(timestamptz) IS 'Evidence: the ten sessions that have been running, or idle in a transaction, for the longest.';

CREATE FUNCTION monitoring.wait_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(w)) FROM (
		SELECT coalesce(concat_ws(': ', s.wait_event_type, s.wait_event), '') AS wait, count(*) AS sessions
		FROM pg_stat_activity AS s
		WHERE s.state = 'active' AND s.pid <> pg_backend_pid()
		GROUP BY 1
		ORDER BY 2 DESC, 1
		LIMIT 10) AS w
$$;
COMMENT ON FUNCTION monitoring.wait_evidence(timestamptz) IS 'Evidence: what active sessions wait for; an empty text is none, they run.';

CREATE FUNCTION monitoring.blocker_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- pg_blocking_pids() takes the locks of the lock table: for a bounded number of sessions, and only if there are any.
	SELECT jsonb_agg(to_jsonb(b)) FROM (
		SELECT w.blocker AS pid, array_agg(w.pid ORDER BY w.pid) AS blocked, s.state, s.usename AS "user",
			round(extract(epoch FROM clock_timestamp() - s.xact_start)::numeric, 3) AS transaction_seconds,
			left(monitoring.scrub_sql(s.query), 500) AS query
		FROM (
			SELECT l.pid, unnest(pg_blocking_pids(l.pid)) AS blocker
			FROM (SELECT a.pid FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock' ORDER BY a.query_start LIMIT 20) AS l
		) AS w
		LEFT JOIN pg_stat_activity AS s ON s.pid = w.blocker
		GROUP BY w.blocker, s.state, s.usename, s.xact_start, s.query
		ORDER BY count(*) DESC, w.blocker
		LIMIT 5) AS b
$$;
COMMENT ON FUNCTION monitoring.blocker_evidence(timestamptz) IS 'Evidence: the five sessions that block most others, and whom; looks at the twenty that have waited for the longest.';

CREATE FUNCTION monitoring.statement_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(q)) FROM (
		SELECT v.queryid, v.database, v.mean_seconds, v.calls, left(v.query, 500) AS query
		FROM monitoring.slow_query_values(statement_evidence.at, '10 minutes') AS v
		ORDER BY v.mean_seconds DESC
		LIMIT 5) AS q
$$;
COMMENT ON FUNCTION monitoring.statement_evidence(timestamptz) IS 'Evidence: the five statements with the highest mean execution time in an interval of the last ten minutes.';

CREATE FUNCTION monitoring.error_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(v.series_labels || jsonb_build_object('count', v.value))
	FROM monitoring.top('errors_total', 'increase', '{service,type}', '10 minutes', 5, '{}', error_evidence.at) AS v
$$;
COMMENT ON FUNCTION monitoring.error_evidence(timestamptz) IS 'Evidence: the types of error that errors_total counted most in the last ten minutes.';

CREATE FUNCTION monitoring.deployment_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(d)) FROM (
		SELECT p.at, p.service, p.version, p.outcome, left(p.description, 200) AS description
		FROM monitoring.deployments AS p
		WHERE p.at > deployment_evidence.at - interval '1 day' AND p.at <= deployment_evidence.at
		ORDER BY p.at DESC
		LIMIT 5) AS d
$$;
COMMENT ON FUNCTION monitoring.deployment_evidence(timestamptz) IS 'Evidence: the five latest deployments of the last day.';

CREATE FUNCTION monitoring.setting_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT nullif(jsonb_strip_nulls(jsonb_build_object(
		'changes', (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.at DESC, c.scope, c.name) FROM (
			SELECT h.at, nullif(h.scope, 'server') AS scope, h.name, left(h.old_value, 100) AS "from", left(h.new_value, 100) AS "to"
			FROM monitoring.setting_changes AS h
			WHERE h.at > setting_evidence.at - interval '1 day' AND h.at <= setting_evidence.at
			ORDER BY h.at DESC, h.scope, h.name
			LIMIT 20) AS c),
		'configuration_loaded_at', CASE WHEN pg_conf_load_time() > setting_evidence.at - interval '1 day'
			AND pg_conf_load_time() > pg_postmaster_start_time() THEN pg_conf_load_time() END,
		'pending_restart', (SELECT jsonb_agg(s.name ORDER BY s.name) FROM pg_settings AS s WHERE s.pending_restart))), '{}')
$$;
COMMENT ON FUNCTION monitoring.setting_evidence(timestamptz) IS 'Evidence: the latest twenty changes of settings within a day, from what to what; when the configuration was loaded last, if that was within a day and after the start; and settings that wait for a restart.';

CREATE TABLE monitoring.evidence_kinds (
	name text PRIMARY KEY,
	function text NOT NULL,
	place integer NOT NULL,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.evidence_kinds IS 'What belongs to the evidence of an alert. Each names a function(at timestamptz) returning jsonb, null for nothing; it must belong to the owner of the extension or be SECURITY DEFINER.';
COMMENT ON COLUMN monitoring.evidence_kinds.name IS 'Key in the evidence.';
COMMENT ON COLUMN monitoring.evidence_kinds.function IS 'Schema-qualified name of the function.';
COMMENT ON COLUMN monitoring.evidence_kinds.place IS 'Order in which evidence is taken: when there is no room for more, what comes later is left out.';
COMMENT ON COLUMN monitoring.evidence_kinds.builtin IS 'True for what comes with the extension; not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.evidence_kinds', 'WHERE NOT builtin');
INSERT INTO monitoring.evidence_kinds VALUES
	('activity', 'monitoring.activity_evidence', 10, true), ('waits', 'monitoring.wait_evidence', 20, true),
	('blockers', 'monitoring.blocker_evidence', 30, true), ('slow_statements', 'monitoring.statement_evidence', 40, true),
	('errors', 'monitoring.error_evidence', 50, true), ('deployments', 'monitoring.deployment_evidence', 60, true),
	('settings', 'monitoring.setting_evidence', 70, true);

CREATE FUNCTION monitoring.take_evidence(at timestamptz DEFAULT clock_timestamp()) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	max_bytes CONSTANT integer := 32768;
	stop_at CONSTANT timestamptz := clock_timestamp() + '3 seconds';
	evidence jsonb := '{}';
	kind record;
	part jsonb;
	failure text;
BEGIN
	FOR kind IN SELECT k.name, k.function FROM monitoring.evidence_kinds AS k ORDER BY k.place, k.name LOOP
		BEGIN
			part := NULL;
			failure := 'the other evidence took too long';
			IF clock_timestamp() < stop_at THEN
				SELECT nullif(q.row -> 'part', 'null'), q.error INTO part, failure
				FROM monitoring.try_rule_query(current_user,
					format('SELECT %s($1) AS part', monitoring.alert_kind_function(kind.function, 'timestamptz')), '1 second', 1, true, at) AS q;
			END IF;
			IF failure IS NOT NULL THEN
				RAISE EXCEPTION '%', failure;
			ELSIF octet_length(evidence::text) + octet_length(part::text) > max_bytes THEN
				evidence := jsonb_set(evidence, '{truncated}', coalesce(evidence -> 'truncated', '[]') || to_jsonb(kind.name));
			ELSIF part IS NOT NULL THEN
				evidence := evidence || jsonb_build_object(kind.name, part);
			END IF;
		EXCEPTION WHEN OTHERS THEN
			IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
				RAISE;
			END IF;
			evidence := evidence || jsonb_build_object('failed',
				coalesce(evidence -> 'failed', '{}') || jsonb_build_object(kind.name, left(SQLERRM, 200)));
		END;
	END LOOP;
	RETURN evidence;
END $$;
COMMENT ON FUNCTION monitoring.take_evidence(timestamptz) IS 'What the server is doing, as it is kept when an alert fires: one key for each of evidence_kinds, at most 32 kB; truncated names what had no room, failed what could not be read, with the error. Each function has a second, all have three, and none can change anything.';

-- Sizes are those that are stored, so nothing is read to know them.
CREATE FUNCTION monitoring.evidence_left_out(fingerprints text[], at timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH latest AS MATERIALIZED (
		SELECT pg_column_size(e.evidence) + pg_column_size(e.alert_ids) + pg_column_size(e.fingerprints) AS bytes, e.fingerprints
		FROM monitoring.alert_evidence AS e
		WHERE e.at > evidence_left_out.at - interval '1 hour' AND e.at <= evidence_left_out.at
	), had AS MATERIALIZED (
		SELECT u.fingerprint FROM latest AS l CROSS JOIN LATERAL unnest(l.fingerprints) AS u (fingerprint) GROUP BY u.fingerprint HAVING count(*) >= 5
	)
	SELECT CASE
		WHEN (SELECT sum(l.bytes) FROM latest AS l) >= 1048576 THEN 'the evidence of the last hour takes a megabyte'
		WHEN NOT EXISTS (SELECT unnest(evidence_left_out.fingerprints) EXCEPT SELECT h.fingerprint FROM had AS h)
			THEN 'there is evidence of five times within the last hour that it fired' END
$$;
COMMENT ON FUNCTION monitoring.evidence_left_out(text[], timestamptz) IS 'Why no evidence is taken of alerts that fire at a time: each has that of five times within the hour, or all of the hour takes a megabyte; null: it is taken.';

CREATE FUNCTION monitoring.capture_evidence(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	fired bigint[];
	fingerprints text[];
	number bigint;
	reason text;
BEGIN
	SELECT array_agg(f.alert_id ORDER BY f.alert_id), array_agg(f.fingerprint ORDER BY f.alert_id), max(f.number) INTO fired, fingerprints, number
	FROM (SELECT h.alert_id, h.fingerprint, count(*) OVER () AS number
		FROM unnest(transitions) AS t (id)
		JOIN monitoring.alert_history AS h ON h.id = t.id
		WHERE h.at = capture_evidence.at AND h.to_state = 'firing'
		ORDER BY array_position('{critical,high,medium,low,info}', h.severity), h.id LIMIT 1000) AS f;
	IF fired IS NULL THEN
		RETURN;
	END IF;
	-- Evidence must not keep anybody from being told: what goes wrong with it is only noted.
	BEGIN
		PERFORM monitoring.note_settings(at);
	EXCEPTION WHEN OTHERS THEN
		IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
			RAISE;
		END IF;
		RAISE WARNING 'could not compare settings: %', SQLERRM;
	END;
	BEGIN
		PERFORM monitoring.ensure_partition('alert_evidence', at);
		reason := monitoring.evidence_left_out(fingerprints, at);
		INSERT INTO monitoring.alert_evidence (at, alert_ids, evidence, fingerprints)
		VALUES (capture_evidence.at, fired,
			CASE WHEN reason IS NULL THEN monitoring.take_evidence(at) ELSE jsonb_build_object('left_out', reason) END
				|| CASE WHEN number > 1000 THEN jsonb_build_object('alerts_left_out', number - 1000) ELSE '{}' END,
			CASE WHEN reason IS NULL THEN fingerprints ELSE '{}' END);
	EXCEPTION WHEN OTHERS THEN
		IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
			RAISE;
		END IF;
		RAISE WARNING 'could not take evidence for alerts: %', SQLERRM;
	END;
END $$;
COMMENT ON FUNCTION monitoring.capture_evidence(bigint[], timestamptz) IS 'Take evidence for the alerts that fired in these transitions (alert_history.id), all made at that time; of more than 1000 for those of the highest severities. An error in it becomes a warning.';

CREATE FUNCTION monitoring.evidence_of(alert_id bigint) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT jsonb_build_object('at', e.at)
		|| CASE WHEN k.known THEN e.evidence
			ELSE '{"left_out": "more than 1000 alerts fired at once, and evidence is kept of those of the highest severities"}' END
	FROM (SELECT min(h.at) AS at FROM monitoring.alert_history AS h
		WHERE h.alert_id = evidence_of.alert_id AND h.to_state = 'firing') AS f
	JOIN monitoring.alert_evidence AS e ON e.at = f.at
	CROSS JOIN LATERAL (SELECT evidence_of.alert_id = ANY (e.alert_ids) AS known) AS k
	WHERE k.known OR e.evidence ? 'alerts_left_out'
	ORDER BY k.known DESC
	LIMIT 1
$$;
COMMENT ON FUNCTION monitoring.evidence_of(bigint) IS 'What the server was doing when an alert (alerts.alert_id) fired; left_out says why that was not taken; null if it has not fired or the evidence is gone.';
-- alerts, incidents: what belongs together of the alerts that fire, what people do about it, and what is learned from it.
--
-- A policy says of which alerts incidents are opened and which labels tell that two alerts have one cause. An alert that fires
-- joins the open incident with which it shares most of these labels, if that incident is recent; otherwise it opens one, with
-- those that fire together with it and share a label. An evaluation does that for all alerts at once. Evaluations do not run
-- beside each other, so no two open the same incident; people change an incident under its row's lock, for which no evaluation
-- waits: what concerns the incident is left to the next one, by way of routing_queue.

----------------------------------------------------------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.incident_policies (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	severities text[] NOT NULL,
	selector jsonb NOT NULL DEFAULT '{}',
	correlate_by text[] NOT NULL,
	within interval NOT NULL CHECK (within >= '0'),
	auto_resolve boolean NOT NULL DEFAULT true,
	place integer NOT NULL DEFAULT 0,
	enabled boolean NOT NULL DEFAULT true,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.incident_policies IS 'Of which alerts incidents are opened. The first policy that fits an alert takes it. Change them with set_incident_policy.';
COMMENT ON COLUMN monitoring.incident_policies.name IS 'Name of the policy.';
COMMENT ON COLUMN monitoring.incident_policies.severities IS 'Severities of the alerts.';
COMMENT ON COLUMN monitoring.incident_policies.selector IS 'Labels of the alerts (labels_match), alertname included.';
COMMENT ON COLUMN monitoring.incident_policies.correlate_by IS 'Labels that tell whether alerts belong together: they share one.';
COMMENT ON COLUMN monitoring.incident_policies.within IS 'How long after its latest alert an incident takes in further ones.';
COMMENT ON COLUMN monitoring.incident_policies.auto_resolve IS 'Whether an incident is resolved when all its alerts are.';
COMMENT ON COLUMN monitoring.incident_policies.place IS 'Order among the policies.';
COMMENT ON COLUMN monitoring.incident_policies.enabled IS 'False: opens nothing.';
COMMENT ON COLUMN monitoring.incident_policies.builtin IS 'True for the policy that CREATE EXTENSION made; a dump that is restored takes its place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_policies', '');

CREATE SEQUENCE monitoring.incident_id_seq;
COMMENT ON SEQUENCE monitoring.incident_id_seq IS 'Ids of incidents.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_id_seq', '');

CREATE TABLE monitoring.incident_defs (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.incident_id_seq'),
	title text NOT NULL,
	severity text NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low', 'info')),
	status text NOT NULL DEFAULT 'investigating' CHECK (status IN ('investigating', 'identified', 'monitoring', 'resolved')),
	source text NOT NULL CHECK (source IN ('alert', 'manual')),
	policy text,
	labels jsonb NOT NULL DEFAULT '{}',
	summary text NOT NULL DEFAULT '',
	started_at timestamptz NOT NULL,
	detected_at timestamptz NOT NULL,
	acknowledged_at timestamptz,
	mitigated_at timestamptz,
	resolved_at timestamptz,
	latest_alert_at timestamptz,
	post_mortem text,
	created_by text NOT NULL,
	forgotten_alerts bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
COMMENT ON TABLE monitoring.incident_defs IS 'Incidents; read the view incidents.';
COMMENT ON COLUMN monitoring.incident_defs.id IS 'Number of the incident.';
COMMENT ON COLUMN monitoring.incident_defs.title IS 'What it is about.';
COMMENT ON COLUMN monitoring.incident_defs.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.incident_defs.status IS 'investigating, identified, monitoring or resolved.';
COMMENT ON COLUMN monitoring.incident_defs.source IS 'alert or manual.';
COMMENT ON COLUMN monitoring.incident_defs.policy IS 'Policy that opened it; null for one that was opened by hand.';
COMMENT ON COLUMN monitoring.incident_defs.labels IS 'Labels by which alerts join it.';
COMMENT ON COLUMN monitoring.incident_defs.summary IS 'What is known, for readers.';
COMMENT ON COLUMN monitoring.incident_defs.started_at IS 'When the trouble began: when the first alert''s breach began.';
COMMENT ON COLUMN monitoring.incident_defs.detected_at IS 'When it was noticed: when the first alert fired.';
COMMENT ON COLUMN monitoring.incident_defs.acknowledged_at IS 'When somebody took it on; null: by acknowledging one of its alerts, or not yet.';
COMMENT ON COLUMN monitoring.incident_defs.mitigated_at IS 'When users no longer noticed it: when its status first became monitoring or resolved.';
COMMENT ON COLUMN monitoring.incident_defs.resolved_at IS 'When it was resolved.';
COMMENT ON COLUMN monitoring.incident_defs.latest_alert_at IS 'When an alert last joined it.';
COMMENT ON COLUMN monitoring.incident_defs.post_mortem IS 'What was learned.';
COMMENT ON COLUMN monitoring.incident_defs.created_by IS 'Role that opened it; monitoring for those opened by alerts.';
COMMENT ON COLUMN monitoring.incident_defs.forgotten_alerts IS 'How many of its alerts incident_alerts no longer has.';
CREATE INDEX incident_defs_open ON monitoring.incident_defs (id) WHERE resolved_at IS NULL;
CREATE INDEX incident_defs_detected_at ON monitoring.incident_defs (detected_at);
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_defs', '');

-- No foreign keys: pg_restore -j fills the tables of an extension in any order.
CREATE TABLE monitoring.incident_alerts (
	incident_id bigint NOT NULL,
	alert_id bigint PRIMARY KEY,
	joined_at timestamptz NOT NULL,
	ended_at timestamptz
) WITH (fillfactor = 50); -- room for the end of all alerts of a page, which then touches no index
CREATE INDEX incident_alerts_incident ON monitoring.incident_alerts (incident_id);
COMMENT ON TABLE monitoring.incident_alerts IS 'Alerts of incidents; of one that is resolved as long as alert_history keeps its rows.';
COMMENT ON COLUMN monitoring.incident_alerts.incident_id IS 'The incident.';
COMMENT ON COLUMN monitoring.incident_alerts.alert_id IS 'The alert (alerts.alert_id).';
COMMENT ON COLUMN monitoring.incident_alerts.joined_at IS 'When it joined.';
COMMENT ON COLUMN monitoring.incident_alerts.ended_at IS 'When the alert was resolved; null: it is firing.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_alerts', '');

CREATE SEQUENCE monitoring.incident_events_id_seq;
COMMENT ON SEQUENCE monitoring.incident_events_id_seq IS 'Ids of entries in the timelines of incidents.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_events_id_seq', '');

CREATE TABLE monitoring.incident_events (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.incident_events_id_seq'),
	incident_id bigint NOT NULL,
	at timestamptz NOT NULL,
	kind text NOT NULL CHECK (kind IN ('opened', 'alerts', 'status', 'severity', 'acknowledged', 'role', 'note', 'link', 'resolved', 'post_mortem')),
	actor text,
	details jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE monitoring.incident_events IS 'Timelines of incidents: every act, of people and of the extension.';
COMMENT ON COLUMN monitoring.incident_events.id IS 'Number of the entry, in order.';
COMMENT ON COLUMN monitoring.incident_events.incident_id IS 'The incident.';
COMMENT ON COLUMN monitoring.incident_events.at IS 'When it happened.';
COMMENT ON COLUMN monitoring.incident_events.kind IS 'opened, alerts, status, severity, acknowledged, role, note, link, resolved or post_mortem.';
COMMENT ON COLUMN monitoring.incident_events.actor IS 'Role that did it; null: the extension.';
COMMENT ON COLUMN monitoring.incident_events.details IS 'What belongs to it, such as message, from and to.';
CREATE INDEX incident_events_incident_id ON monitoring.incident_events (incident_id);
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_events', '');

CREATE TABLE monitoring.incident_roles (
	incident_id bigint NOT NULL,
	role text NOT NULL CHECK (role ~ '^[^[:cntrl:]]{1,100}$'),
	person text NOT NULL CHECK (person ~ '^[^[:cntrl:]]{1,200}$'),
	PRIMARY KEY (incident_id, role)
);
COMMENT ON TABLE monitoring.incident_roles IS 'Who does what in an incident.';
COMMENT ON COLUMN monitoring.incident_roles.incident_id IS 'The incident.';
COMMENT ON COLUMN monitoring.incident_roles.role IS 'The role, such as commander, communications or scribe.';
COMMENT ON COLUMN monitoring.incident_roles.person IS 'Who has it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.incident_roles', '');

INSERT INTO monitoring.incident_policies (name, severities, correlate_by, within, builtin)
VALUES ('critical', '{critical}', '{service,database,host,slo,tenant}', '30 minutes', true);

CREATE TRIGGER restore BEFORE INSERT ON monitoring.incident_policies
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.incident_policies IS 'When a dump is restored its policies replace those of the extension.';

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE VIEW monitoring.incidents AS
	SELECT i.id, i.title, i.severity, i.status, i.source, i.labels, i.summary, i.started_at, i.detected_at,
		LEAST(i.acknowledged_at, a.acknowledged_at) AS acknowledged_at, i.mitigated_at, i.resolved_at,
		COALESCE(a.firing, 0) AS firing, COALESCE(a.alerts, 0) OPERATOR(pg_catalog.+) i.forgotten_alerts AS alerts,
		(SELECT pg_catalog.jsonb_object_agg(r.role, r.person) FROM monitoring.incident_roles AS r
			WHERE r.incident_id OPERATOR(pg_catalog.=) i.id) AS roles,
		i.post_mortem IS NOT NULL AS reviewed, i.created_by
	FROM monitoring.incident_defs AS i
	LEFT JOIN (
		SELECT m.incident_id, pg_catalog.count(*) AS alerts, pg_catalog.count(*) FILTER (WHERE m.ended_at IS NULL) AS firing,
			pg_catalog.min(h.first_acknowledged_at) AS acknowledged_at
		FROM monitoring.incident_alerts AS m
		LEFT JOIN monitoring.alert_handling AS h ON h.alert_id OPERATOR(pg_catalog.=) m.alert_id
		GROUP BY m.incident_id
	) AS a ON a.incident_id OPERATOR(pg_catalog.=) i.id;
COMMENT ON VIEW monitoring.incidents IS 'Incidents, open and resolved.';
COMMENT ON COLUMN monitoring.incidents.id IS 'Number of the incident.';
COMMENT ON COLUMN monitoring.incidents.title IS 'What it is about.';
COMMENT ON COLUMN monitoring.incidents.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.incidents.status IS 'investigating, identified, monitoring or resolved.';
COMMENT ON COLUMN monitoring.incidents.source IS 'alert or manual.';
COMMENT ON COLUMN monitoring.incidents.labels IS 'Labels by which alerts join it.';
COMMENT ON COLUMN monitoring.incidents.summary IS 'What is known.';
COMMENT ON COLUMN monitoring.incidents.started_at IS 'When the trouble began.';
COMMENT ON COLUMN monitoring.incidents.detected_at IS 'When it was noticed.';
COMMENT ON COLUMN monitoring.incidents.acknowledged_at IS 'When somebody took it on, or acknowledged one of its alerts.';
COMMENT ON COLUMN monitoring.incidents.mitigated_at IS 'When users no longer noticed it.';
COMMENT ON COLUMN monitoring.incidents.resolved_at IS 'When it was resolved.';
COMMENT ON COLUMN monitoring.incidents.firing IS 'Number of its alerts that are firing.';
COMMENT ON COLUMN monitoring.incidents.alerts IS 'Number of its alerts.';
COMMENT ON COLUMN monitoring.incidents.roles IS 'Who does what.';
COMMENT ON COLUMN monitoring.incidents.reviewed IS 'Whether it has a post-mortem.';
COMMENT ON COLUMN monitoring.incidents.created_by IS 'Role that opened it.';

CREATE FUNCTION monitoring.incident_timeline(incident_id bigint)
RETURNS TABLE (at timestamptz, kind text, actor text, details jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT t.at, t.kind, t.actor, t.details
	FROM (
		SELECT e.at, e.kind, e.actor, e.details, 0 AS source, e.id
		FROM monitoring.incident_events AS e
		WHERE e.incident_id = incident_timeline.incident_id
		UNION ALL
		SELECT e.at, 'alert ' || e.kind, e.actor, e.details || jsonb_build_object('alert_id', e.alert_id), 1, e.id
		FROM monitoring.incident_alerts AS m
		JOIN monitoring.alert_events AS e ON e.alert_id = m.alert_id
		WHERE m.incident_id = incident_timeline.incident_id
	) AS t
	ORDER BY t.at, t.source, t.id
$$;
COMMENT ON FUNCTION monitoring.incident_timeline(bigint) IS 'Everything that happened in an incident and to its alerts, in order. actor is null for what the extension did.';

-- An evaluation leaves no event with each of thousands of alerts: that they are part of an incident says the same.
CREATE FUNCTION monitoring.incident_joined(alert_id bigint) RETURNS TABLE (at timestamptz, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT m.joined_at, jsonb_build_object('incident_id', m.incident_id)
	FROM monitoring.incident_alerts AS m
	WHERE m.alert_id = incident_joined.alert_id AND NOT EXISTS (
		SELECT FROM monitoring.alert_events AS e
		WHERE e.alert_id = m.alert_id AND e.kind = 'incident' AND e.details @> jsonb_build_object('incident_id', m.incident_id))
$$;
COMMENT ON FUNCTION monitoring.incident_joined(bigint) IS 'When the extension made an alert part of its incident; no row if a person did, which is an event.';

----------------------------------------------------------------------------------------------------------------------
-- What people do
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.set_incident_policy(name text, severities text[] DEFAULT '{critical}', selector jsonb DEFAULT '{}',
	correlate_by text[] DEFAULT '{service,database,host,slo,tenant}', within interval DEFAULT '30 minutes',
	auto_resolve boolean DEFAULT true, place integer DEFAULT 0, enabled boolean DEFAULT true)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'an incident policy''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF within IS NULL OR within < '0' OR within > '100 years' THEN
		RAISE EXCEPTION 'the time within which alerts join an incident must not be negative, nor longer than 100 years'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF correlate_by IS NULL OR array_position(correlate_by, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'the labels that alerts of an incident share must be a list of names' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_matchers(coalesce(selector, '{}'), 'an incident policy''s selector');
	INSERT INTO monitoring.incident_policies AS p
	VALUES (set_incident_policy.name, ARRAY(SELECT monitoring.canonical_severity(s) FROM unnest(severities) AS s),
		coalesce(set_incident_policy.selector, '{}'), set_incident_policy.correlate_by, set_incident_policy.within,
		coalesce(set_incident_policy.auto_resolve, true), coalesce(set_incident_policy.place, 0), coalesce(set_incident_policy.enabled, true))
	ON CONFLICT ON CONSTRAINT incident_policies_pkey
	DO UPDATE SET severities = excluded.severities, selector = excluded.selector, correlate_by = excluded.correlate_by,
		within = excluded.within, auto_resolve = excluded.auto_resolve, place = excluded.place, enabled = excluded.enabled;
END $$;
COMMENT ON FUNCTION monitoring.set_incident_policy(text, text[], jsonb, text[], interval, boolean, integer, boolean) IS 'Create a policy, or change the one of this name: alerts of these severities whose labels match the selector open incidents; those that share one of the labels correlate_by with an open incident join it, until `within` after its latest alert. Alerts with none of these labels join by time alone. auto_resolve: it is resolved with its last alert. The first policy by place takes an alert. Error 22023 for anything that is not valid.';

CREATE FUNCTION monitoring.drop_incident_policy(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.incident_policies AS p WHERE p.name = drop_incident_policy.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'incident policy "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the table monitoring.incident_policies.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_incident_policy(text) IS 'Drop a policy. Incidents that it opened stay; those that are open are resolved by hand from then on. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.add_incident_event(incident_id bigint, kind text, details jsonb, at timestamptz, actor text DEFAULT NULL)
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO monitoring.incident_events (incident_id, at, kind, actor, details)
	VALUES (incident_id, at, kind, actor, jsonb_strip_nulls(details))
$$;
COMMENT ON FUNCTION monitoring.add_incident_event(bigint, text, jsonb, timestamptz, text) IS 'Write an entry into the timeline of an incident. actor: role that did it; null for the extension.';

CREATE FUNCTION monitoring.lock_incident(id bigint) RETURNS monitoring.incident_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	incident monitoring.incident_defs;
BEGIN
	SELECT i.* INTO incident FROM monitoring.incident_defs AS i WHERE i.id = lock_incident.id FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'incident % does not exist', id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.incidents.';
	END IF;
	RETURN incident;
END $$;
COMMENT ON FUNCTION monitoring.lock_incident(bigint) IS 'The incident of this number, locked for a change. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.open_incident(title text, severity text DEFAULT 'high', summary text DEFAULT '',
	labels jsonb DEFAULT '{}', started_at timestamptz DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	new_id bigint;
	actor text := monitoring.calling_role();
BEGIN
	IF coalesce(title, '') = '' OR length(title) > 500 OR title ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'an incident''s title has 1 to 500 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF at IS NULL OR NOT isfinite(at) OR NOT isfinite(started_at) THEN
		RAISE EXCEPTION 'an incident starts and is noticed at finite times' USING ERRCODE = 'invalid_parameter_value';
	ELSIF started_at > at THEN
		RAISE EXCEPTION 'an incident cannot start after it is noticed' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	summary := monitoring.check_comment(summary);
	INSERT INTO monitoring.incident_defs (title, severity, source, labels, summary, started_at, detected_at, acknowledged_at, created_by)
	VALUES (open_incident.title, monitoring.canonical_severity(open_incident.severity), 'manual',
		monitoring.check_text_map(open_incident.labels, 'labels', 4096), coalesce(open_incident.summary, ''),
		coalesce(open_incident.started_at, open_incident.at), open_incident.at, open_incident.at, actor)
	RETURNING id INTO new_id;
	PERFORM monitoring.add_incident_event(new_id, 'opened', jsonb_build_object('title', title), at, actor);
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.open_incident(text, text, text, jsonb, timestamptz, timestamptz) IS 'Open an incident by hand and return its number. Whoever opens it has taken it on. started_at: when the trouble began, if that was before. Errors: 22023 for anything that is not valid, 54000 for a summary of more than 10000 bytes.';

CREATE FUNCTION monitoring.update_incident(id bigint, status text DEFAULT NULL, message text DEFAULT NULL,
	severity text DEFAULT NULL, title text DEFAULT NULL, summary text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	old monitoring.incident_defs := monitoring.lock_incident(id);
	actor text := monitoring.calling_role();
	new_severity text := monitoring.canonical_severity(coalesce(severity, old.severity));
BEGIN
	IF status IS NOT NULL AND status NOT IN ('investigating', 'identified', 'monitoring', 'resolved') THEN
		RAISE EXCEPTION 'unknown status "%" of an incident', status
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Statuses are investigating, identified, monitoring and resolved.';
	ELSIF title = '' OR length(title) > 500 OR title ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'an incident''s title has 1 to 500 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	message := monitoring.check_comment(message);
	UPDATE monitoring.incident_defs AS i
	SET status = coalesce(update_incident.status, i.status), severity = new_severity,
		title = coalesce(update_incident.title, i.title), summary = coalesce(monitoring.check_comment(update_incident.summary), i.summary),
		mitigated_at = CASE WHEN update_incident.status IN ('monitoring', 'resolved') THEN coalesce(i.mitigated_at, update_incident.at)
			WHEN update_incident.status IS NULL THEN i.mitigated_at END,
		resolved_at = CASE WHEN update_incident.status = 'resolved' THEN coalesce(i.resolved_at, update_incident.at)
			WHEN update_incident.status IS NULL THEN i.resolved_at END
	WHERE i.id = old.id;
	IF new_severity <> old.severity THEN
		PERFORM monitoring.add_incident_event(id, 'severity', jsonb_build_object('from', old.severity, 'to', new_severity), at, actor);
	END IF;
	IF status = 'resolved' AND old.status <> 'resolved' THEN
		PERFORM monitoring.add_incident_event(id, 'resolved', jsonb_build_object('from', old.status, 'message', message), at, actor);
	ELSIF status <> old.status OR message IS NOT NULL THEN
		PERFORM monitoring.add_incident_event(id, 'status',
			jsonb_build_object('from', old.status, 'to', coalesce(status, old.status), 'message', message), at, actor);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.update_incident(bigint, text, text, text, text, text, timestamptz) IS 'Change an incident: its status (investigating, identified, monitoring, resolved), with a message for its readers, its severity, title or summary; what is null stays. A resolved incident that gets another status is open again. Errors: 42704 if it does not exist, 22023 for anything that is not valid, 54000 for texts of more than 10000 bytes.';

CREATE FUNCTION monitoring.resolve_incident(id bigint, message text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.update_incident(id, 'resolved', message, at => at)
$$;
COMMENT ON FUNCTION monitoring.resolve_incident(bigint, text, timestamptz) IS 'Resolve an incident; its alerts stay as they are. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.acknowledge_incident(id bigint, message text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	UPDATE monitoring.incident_defs AS i SET acknowledged_at = coalesce(i.acknowledged_at, acknowledge_incident.at)
	WHERE i.id = acknowledge_incident.id;
	PERFORM monitoring.add_incident_event(id, 'acknowledged', jsonb_build_object('message', monitoring.check_comment(message)), at, monitoring.calling_role());
	-- those that have ended meanwhile need nobody
	PERFORM monitoring.acknowledge(ARRAY(
			SELECT m.alert_id FROM monitoring.incident_alerts AS m
			JOIN monitoring.alert_states AS s ON s.alert_id = m.alert_id AND s.state <> 'resolved'
			WHERE m.incident_id = acknowledge_incident.id AND m.ended_at IS NULL),
		NULL, NULL, acknowledge_incident.at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.acknowledge_incident(bigint, text, timestamptz) IS 'Take an incident on: its firing alerts are acknowledged too. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.set_incident_role(id bigint, role text, person text, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	IF coalesce(role, '') !~ '^[^[:cntrl:]]{1,100}$' OR person !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'roles and persons of an incident are texts of at most 100 and 200 characters without control characters'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF person IS NULL THEN
		DELETE FROM monitoring.incident_roles AS r WHERE r.incident_id = set_incident_role.id AND r.role = set_incident_role.role;
	ELSE
		INSERT INTO monitoring.incident_roles AS r VALUES (set_incident_role.id, set_incident_role.role, set_incident_role.person)
		ON CONFLICT ON CONSTRAINT incident_roles_pkey DO UPDATE SET person = excluded.person;
	END IF;
	PERFORM monitoring.add_incident_event(id, 'role', jsonb_build_object('role', role, 'person', person), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.set_incident_role(bigint, text, text, timestamptz) IS 'Give somebody a role in an incident, such as commander; person null: nobody has it. Errors: 42704 if the incident does not exist, 22023 for control characters.';

CREATE FUNCTION monitoring.note_incident(id bigint, note text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	IF coalesce(note, '') = '' OR length(note) > 10000 THEN
		RAISE EXCEPTION 'a note has 1 to 10000 characters' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.add_incident_event(id, 'note', jsonb_build_object('note', note), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.note_incident(bigint, text, timestamptz) IS 'Write a note into the timeline of an incident. Errors: 42704 if it does not exist, 22023 for an empty or too long note.';

CREATE FUNCTION monitoring.link_incident(id bigint, url text, title text DEFAULT '', at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	IF coalesce(url, '') !~ '^https?://[!-~]+$' OR length(url) > 2000 OR title ~ '[[:cntrl:]]' THEN
		RAISE EXCEPTION 'a link is an http or https url without spaces' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.add_incident_event(id, 'link', jsonb_build_object('url', url, 'title', title), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.link_incident(bigint, text, text, timestamptz) IS 'Add a link to an incident, such as a chat room or a ticket. Errors: 42704 if it does not exist, 22023 for what is no http or https url.';

CREATE FUNCTION monitoring.attach_alert(id bigint, alert_id bigint, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	left_incident bigint := (SELECT m.incident_id FROM monitoring.incident_alerts AS m WHERE m.alert_id = attach_alert.alert_id);
	ended timestamptz;
BEGIN
	-- both, in the order of their numbers; evaluations write an incident's alerts only under its lock
	PERFORM monitoring.lock_incident(least(id, left_incident));
	PERFORM monitoring.lock_incident(greatest(id, left_incident));
	SELECT CASE WHEN h.to_state IN ('resolved', 'inactive') THEN h.at END INTO ended
	FROM monitoring.alert_history AS h WHERE h.alert_id = attach_alert.alert_id ORDER BY h.id DESC LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert % does not exist', alert_id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alerts.';
	END IF;
	INSERT INTO monitoring.incident_alerts AS m
	VALUES (attach_alert.id, attach_alert.alert_id, attach_alert.at, ended)
	ON CONFLICT ON CONSTRAINT incident_alerts_pkey
	DO UPDATE SET incident_id = excluded.incident_id, joined_at = excluded.joined_at, ended_at = excluded.ended_at;
	UPDATE monitoring.incident_defs AS i SET latest_alert_at = greatest(i.latest_alert_at, attach_alert.at) WHERE i.id = attach_alert.id;
	PERFORM monitoring.add_incident_event(id, 'alerts', jsonb_build_object('alert_ids', jsonb_build_array(alert_id), 'count', 1), at, monitoring.calling_role());
	PERFORM monitoring.add_alert_event(alert_id, 'incident',
		jsonb_strip_nulls(jsonb_build_object('incident_id', id, 'from', left_incident)), at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.attach_alert(bigint, bigint, timestamptz) IS 'Make an alert part of an incident, taking it out of the one it may be part of. Error 42704 if either does not exist.';

CREATE FUNCTION monitoring.write_post_mortem(id bigint, markdown text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.lock_incident(id);
	UPDATE monitoring.incident_defs AS i SET post_mortem = markdown WHERE i.id = write_post_mortem.id;
	PERFORM monitoring.add_incident_event(id, 'post_mortem', '{}', at, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.write_post_mortem(bigint, text, timestamptz) IS 'Keep what was learned from an incident, as Markdown; null removes it. Error 42704 if the incident does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- What the evaluation does
----------------------------------------------------------------------------------------------------------------------

-- Nobody can estimate how many alerts fire at once and have how much in common: everything is hashed, as in run_evaluation().

-- Alerts that fire in one evaluation, fall under one policy and have the same correlating labels.
CREATE TYPE monitoring.alike_alerts AS (
	policy text,
	within interval,
	labels jsonb,
	history_ids bigint[],
	alert_ids bigint[],
	started_at timestamptz,
	severity text,
	rule text,
	title text
);
COMMENT ON TYPE monitoring.alike_alerts IS 'Alerts that fired in one evaluation, fall under one incident policy and have the same correlating labels: their transitions and numbers, when the first breach began, and severity, rule and title of the gravest.';

-- Which policy takes an alert is found once for all that agree in what policies ask for.
CREATE FUNCTION monitoring.alike_alerts(transitions bigint[], at timestamptz, late boolean) RETURNS SETOF monitoring.alike_alerts
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
	WITH policies AS MATERIALIZED (
		SELECT p.*, row_number() OVER (ORDER BY p.place, p.name) AS turn FROM monitoring.incident_policies AS p WHERE p.enabled
	), asked AS MATERIALIZED (
		SELECT ARRAY(SELECT DISTINCT s FROM policies AS p CROSS JOIN LATERAL unnest(p.severities) AS s) AS severities,
			ARRAY(SELECT DISTINCT k FROM policies AS p CROSS JOIN LATERAL jsonb_object_keys(p.selector) AS k) AS names
	), fired AS MATERIALIZED (
		SELECT h.id, h.alert_id, h.active_at, h.severity, h.rule_name, h.labels, monitoring.pick_labels(h.labels, (SELECT a.names FROM asked AS a)) AS asked
		FROM unnest(transitions) AS t (id)
		JOIN monitoring.alert_history AS h ON h.id = t.id
		WHERE h.at = alike_alerts.at AND h.to_state = 'firing' AND h.severity = ANY ((SELECT a.severities FROM asked AS a)::text[])
			AND (NOT late OR EXISTS (SELECT FROM monitoring.alert_states AS s WHERE s.alert_id = h.alert_id AND s.state = 'firing'))
	), chosen AS MATERIALIZED (
		SELECT DISTINCT ON (f.severity, f.rule_name, f.asked) f.severity, f.rule_name, f.asked, p.name AS policy, p.within, p.correlate_by,
			array_position('{critical,high,medium,low,info}', f.severity) AS rank
		FROM (SELECT DISTINCT o.severity, o.rule_name, o.asked FROM fired AS o) AS f
		CROSS JOIN policies AS p
		WHERE f.severity = ANY (p.severities)
			AND (p.selector = '{}' OR monitoring.labels_match(f.asked || jsonb_build_object('alertname', f.rule_name), p.selector))
		ORDER BY f.severity, f.rule_name, f.asked, p.turn
	), totals AS MATERIALIZED (
		SELECT s.policy, s.within, s.labels, array_agg(s.id) AS history_ids, array_agg(s.alert_id) AS alert_ids,
			min(s.active_at) AS started_at, min(s.id) AS first_id, min(ARRAY[s.rank, s.id]) AS gravest
		FROM (SELECT f.id, f.alert_id, f.active_at, c.policy, c.within, c.rank, monitoring.pick_labels(f.labels, c.correlate_by) AS labels
			FROM fired AS f
			JOIN chosen AS c ON c.severity = f.severity AND c.rule_name = f.rule_name AND c.asked = f.asked) AS s
		GROUP BY s.policy, s.within, s.labels
	)
	-- those that know most come first, so that others can join them
	SELECT t.policy, t.within, (SELECT coalesce(jsonb_object_agg(l.key, l.value), '{}') FROM jsonb_each_text(t.labels) AS l),
		t.history_ids, t.alert_ids, t.started_at, f.severity, f.rule_name, left(coalesce(f.annotations ->> 'summary', f.rule_name), 500)
	FROM totals AS t
	CROSS JOIN LATERAL (SELECT * FROM monitoring.alert_history AS h WHERE h.at = alike_alerts.at AND h.id = t.gravest[2] LIMIT 1) AS f
	ORDER BY cardinality(ARRAY(SELECT jsonb_object_keys(t.labels))) DESC, t.first_id
$$;
COMMENT ON FUNCTION monitoring.alike_alerts(bigint[], timestamptz, boolean) IS 'The alerts that fired in these transitions (alert_history.id), all made at that time, and of which incidents are opened, taken together by their correlating labels. late: only those that still fire.';

CREATE FUNCTION monitoring.label_pairs(labels jsonb) RETURNS TABLE (key text, value text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 3 SET search_path = pg_catalog, pg_temp AS $$
	SELECT l.key, l.value FROM jsonb_each_text(labels) AS l UNION ALL SELECT '', '' WHERE labels = '{}'
$$;
COMMENT ON FUNCTION monitoring.label_pairs(jsonb) IS 'The pairs by which alerts and incidents are correlated: those of the labels, or a pair of empty texts for none.';

-- Alerts that share a label belong together, and so do those that share one with a third. In each round all take the lowest
-- number among those with which they share; chains that are longer than the rounds make incidents of their own.
CREATE FUNCTION monitoring.linked_alerts(alike monitoring.alike_alerts[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	leaders bigint[] := ARRAY(SELECT generate_series(1, cardinality(alike)));
	next_leaders bigint[];
	members bigint[];
	links bigint[];
BEGIN
	SELECT array_agg(p.n), array_agg(p.link) INTO members, links
	FROM (SELECT a.n, dense_rank() OVER (ORDER BY a.policy, l.key, l.value) AS link, count(*) OVER (PARTITION BY a.policy, l.key, l.value) AS sharing
		FROM unnest(alike) WITH ORDINALITY AS a (policy, within, labels, history_ids, alert_ids, started_at, severity, rule, title, n)
		CROSS JOIN LATERAL monitoring.label_pairs(a.labels) AS l) AS p
	WHERE p.sharing > 1;
	FOR round IN 1 .. 20 LOOP
		EXIT WHEN members IS NULL;
		next_leaders := ARRAY(
			SELECT least(a.leader, m.leader)
			FROM unnest(leaders) WITH ORDINALITY AS a (leader, n)
			LEFT JOIN (
				SELECT p.n, min(k.leader) AS leader
				FROM unnest(members, links) AS p (n, link)
				JOIN (SELECT q.link, min(leaders[q.n]) AS leader FROM unnest(members, links) AS q (n, link) GROUP BY q.link) AS k ON k.link = p.link
				GROUP BY p.n) AS m ON m.n = a.n
			ORDER BY a.n);
		EXIT WHEN next_leaders = leaders;
		leaders := next_leaders;
	END LOOP;
	RETURN leaders;
END $$;
COMMENT ON FUNCTION monitoring.linked_alerts(monitoring.alike_alerts[]) IS 'For each of these the place of the first with which it belongs together, as they share a label with each other or with others between them.';

CREATE FUNCTION monitoring.joined_incidents(alike monitoring.alike_alerts[], leaders bigint[], at timestamptz) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH pairs AS MATERIALIZED (
		SELECT a.n, a.policy, a.within, l.key, l.value
		FROM unnest(alike) WITH ORDINALITY AS a (policy, within, labels, history_ids, alert_ids, started_at, severity, rule, title, n)
		CROSS JOIN LATERAL monitoring.label_pairs(a.labels) AS l
	), known AS MATERIALIZED (
		SELECT i.id, i.policy, coalesce(i.latest_alert_at, i.detected_at) AS latest_at, l.key, l.value
		FROM monitoring.incident_defs AS i
		CROSS JOIN LATERAL monitoring.label_pairs(i.labels) AS l
		WHERE i.resolved_at IS NULL AND (i.policy IS NOT NULL OR i.labels <> '{}')
	), shared AS (
		SELECT p.n, k.id, count(*) AS number
		FROM pairs AS p
		JOIN known AS k ON k.key = p.key AND k.value = p.value AND coalesce(k.policy = p.policy, true) AND k.latest_at >= joined_incidents.at - p.within
		GROUP BY p.n, k.id
	), best AS (
		SELECT DISTINCT ON (s.n) s.n, s.id FROM shared AS s ORDER BY s.n, s.number DESC, s.id
	)
	SELECT array_agg(p.incident_id ORDER BY p.n)
	FROM (SELECT l.n, coalesce(b.id, min(b.id) OVER (PARTITION BY l.leader)) AS incident_id
		FROM unnest(leaders) WITH ORDINALITY AS l (leader, n)
		LEFT JOIN best AS b ON b.n = l.n) AS p
$$;
COMMENT ON FUNCTION monitoring.joined_incidents(monitoring.alike_alerts[], bigint[], timestamptz) IS 'For each of these the open incident, of its policy or opened by hand, with which it shares most labels, else the one that those join with which it belongs together; null: it needs a new one.';

-- An incident that somebody is changing takes in its alerts at the next evaluation.
CREATE FUNCTION monitoring.take_into_incidents(alike monitoring.alike_alerts[], leaders bigint[], joined bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	WITH entries AS MATERIALIZED (
		SELECT a.*, leaders[a.n] AS leader, joined[a.n] AS incident_id, array_position('{critical,high,medium,low,info}', a.severity) AS rank
		FROM unnest(alike) WITH ORDINALITY AS a (policy, within, labels, history_ids, alert_ids, started_at, severity, rule, title, n)
	), free AS MATERIALIZED (
		SELECT i.id, i.severity FROM monitoring.incident_defs AS i
		WHERE i.id = ANY (joined) AND i.resolved_at IS NULL
		FOR NO KEY UPDATE SKIP LOCKED
	), fresh AS MATERIALIZED (
		SELECT nextval('monitoring.incident_id_seq') AS id, e.leader
		FROM (SELECT DISTINCT n.leader FROM entries AS n WHERE n.incident_id IS NULL ORDER BY n.leader) AS e
	), placed AS MATERIALIZED (
		SELECT coalesce(f.id, w.id) AS id, w.id IS NOT NULL AS is_new, f.severity AS old_severity, e.*
		FROM entries AS e
		LEFT JOIN free AS f ON f.id = e.incident_id
		LEFT JOIN fresh AS w ON w.leader = e.leader AND e.incident_id IS NULL
	), members AS MATERIALIZED (
		SELECT p.id, m.alert_id FROM placed AS p CROSS JOIN LATERAL unnest(p.alert_ids) AS m (alert_id) WHERE p.id IS NOT NULL
	-- of each incident: the gravest that join it, of these the first; their labels; their alerts
	), leads AS (
		SELECT DISTINCT ON (p.id) p.id, p.is_new, p.old_severity, p.policy, p.severity, p.rank, p.rule, p.title, min(p.started_at) OVER (PARTITION BY p.id) AS started_at
		FROM placed AS p
		WHERE p.id IS NOT NULL
		ORDER BY p.id, p.rank, p.n
	), labels AS (
		SELECT p.id, jsonb_object_agg(l.key, l.value ORDER BY p.n DESC) AS labels FROM placed AS p CROSS JOIN LATERAL jsonb_each_text(p.labels) AS l GROUP BY p.id
	), alerts AS (
		SELECT m.id, array_agg(m.alert_id ORDER BY m.alert_id) AS ids FROM members AS m GROUP BY m.id
	), totals AS MATERIALIZED (
		SELECT l.*, coalesce(b.labels, '{}') AS labels, a.ids, l.rank < array_position('{critical,high,medium,low,info}', l.old_severity) AS graver
		FROM leads AS l
		JOIN alerts AS a ON a.id = l.id
		LEFT JOIN labels AS b ON b.id = l.id
	), opened AS (
		INSERT INTO monitoring.incident_defs (id, title, severity, source, policy, labels, started_at, detected_at, latest_alert_at, created_by)
		SELECT t.id, t.title, t.severity, 'alert', t.policy, t.labels, t.started_at, take_into_incidents.at, take_into_incidents.at, 'monitoring'
		FROM totals AS t
		WHERE t.is_new
	), grown AS (
		-- labels that it had not known tell more of its cause; an earlier breach tells when it began
		UPDATE monitoring.incident_defs AS i
		SET labels = t.labels || i.labels, latest_alert_at = greatest(i.latest_alert_at, take_into_incidents.at),
			started_at = least(i.started_at, t.started_at), severity = CASE WHEN t.graver THEN t.severity ELSE i.severity END
		FROM totals AS t
		WHERE i.id = t.id AND NOT t.is_new
	), joined_now AS (
		INSERT INTO monitoring.incident_alerts (incident_id, alert_id, joined_at)
		SELECT m.id, m.alert_id, take_into_incidents.at FROM members AS m
		WHERE m.alert_id <> ALL (ARRAY(
			SELECT a.alert_id FROM monitoring.incident_alerts AS a WHERE a.alert_id = ANY (ARRAY(SELECT o.alert_id FROM members AS o))))
	), postponed AS (
		INSERT INTO monitoring.routing_queue (kind, history_at, history_id)
		SELECT 'incident', take_into_incidents.at, h.id FROM placed AS p CROSS JOIN LATERAL unnest(p.history_ids) AS h (id) WHERE p.id IS NULL
	)
	INSERT INTO monitoring.incident_events (incident_id, at, kind, details)
	SELECT t.id, take_into_incidents.at, e.kind, e.details
	FROM totals AS t
	CROSS JOIN LATERAL (VALUES
		(1, 'opened', t.is_new, jsonb_build_object('policy', t.policy)),
		(2, 'severity', t.graver, jsonb_build_object('from', t.old_severity, 'to', t.severity)),
		(3, 'alerts', true, jsonb_build_object('alert_ids', to_jsonb(t.ids[:100]), 'count', cardinality(t.ids), 'alert', t.rule))
	) AS e (place, kind, holds, details)
	WHERE e.holds
	ORDER BY t.id, e.place;
END $$;
COMMENT ON FUNCTION monitoring.take_into_incidents(monitoring.alike_alerts[], bigint[], bigint[], timestamptz) IS 'Make alerts that fired at a time part of the incidents that they join, or of new ones, one for all that belong together.';

CREATE FUNCTION monitoring.end_incident_alerts(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH ended AS MATERIALIZED (
		SELECT h.id AS history_id, h.alert_id
		FROM unnest(transitions) AS t (id)
		JOIN monitoring.alert_history AS h ON h.id = t.id
		WHERE h.at = end_incident_alerts.at AND h.to_state IN ('resolved', 'inactive')
	), concerned AS MATERIALIZED (
		SELECT e.history_id, m.incident_id, m.ctid AS place
		FROM monitoring.incident_alerts AS m
		JOIN ended AS e ON e.alert_id = m.alert_id
		WHERE m.alert_id = ANY (ARRAY(SELECT o.alert_id FROM ended AS o)) AND m.ended_at IS NULL
	), free AS MATERIALIZED (
		SELECT i.id FROM monitoring.incident_defs AS i
		WHERE i.id = ANY (ARRAY(SELECT DISTINCT c.incident_id FROM concerned AS c))
		FOR NO KEY UPDATE SKIP LOCKED
	), sorted AS MATERIALIZED (
		SELECT c.*, f.id IS NULL AS busy FROM concerned AS c LEFT JOIN free AS f ON f.id = c.incident_id
	), postponed AS (
		INSERT INTO monitoring.routing_queue (kind, history_at, history_id)
		SELECT 'incident', end_incident_alerts.at, s.history_id FROM sorted AS s WHERE s.busy
	), closed AS (
		UPDATE monitoring.incident_alerts AS m SET ended_at = end_incident_alerts.at
		FROM sorted AS s
		WHERE m.ctid = ANY (ARRAY(SELECT o.place FROM sorted AS o WHERE NOT o.busy)) AND m.ctid = s.place
	), over AS (
		-- all that had not ended when this began do so now
		UPDATE monitoring.incident_defs AS i
		SET status = 'resolved', resolved_at = end_incident_alerts.at, mitigated_at = coalesce(i.mitigated_at, end_incident_alerts.at)
		FROM (SELECT s.incident_id, count(*) AS alerts FROM sorted AS s WHERE NOT s.busy GROUP BY s.incident_id) AS c
		CROSS JOIN LATERAL (SELECT count(*) AS alerts FROM monitoring.incident_alerts AS m WHERE m.incident_id = c.incident_id AND m.ended_at IS NULL) AS o
		WHERE i.id = c.incident_id AND o.alerts = c.alerts AND i.resolved_at IS NULL
			AND i.policy IN (SELECT p.name FROM monitoring.incident_policies AS p WHERE p.auto_resolve)
		RETURNING i.id
	)
	INSERT INTO monitoring.incident_events (incident_id, at, kind, details)
	SELECT o.id, end_incident_alerts.at, 'resolved', '{"message": "All its alerts are resolved."}' FROM over AS o ORDER BY o.id;
END $$;
COMMENT ON FUNCTION monitoring.end_incident_alerts(bigint[], timestamptz) IS 'Note that alerts of incidents ended in these transitions (alert_history.id), all made at that time, and resolve the incidents whose last ones they were, where their policy says so.';

CREATE FUNCTION monitoring.update_incidents(transitions bigint[], at timestamptz, late boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	alike monitoring.alike_alerts[];
	leaders bigint[];
BEGIN
	-- Incidents must not keep anybody from being told: what goes wrong with them is noted, and tried again.
	BEGIN
		PERFORM monitoring.end_incident_alerts(transitions, at);
		alike := ARRAY(SELECT a FROM monitoring.alike_alerts(transitions, at, late) AS a);
		IF alike <> '{}' THEN
			leaders := monitoring.linked_alerts(alike);
			PERFORM monitoring.take_into_incidents(alike, leaders, monitoring.joined_incidents(alike, leaders, at), at);
		END IF;
	EXCEPTION WHEN OTHERS THEN
		IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
			RAISE;
		END IF;
		RAISE WARNING 'could not keep incidents up to date: %', SQLERRM;
		INSERT INTO monitoring.routing_queue (kind, history_at, history_id) SELECT 'incident', at, t FROM unnest(transitions) AS t;
	END;
END $$;
COMMENT ON FUNCTION monitoring.update_incidents(bigint[], timestamptz, boolean) IS 'Open incidents for the alerts that fired in these transitions (alert_history.id), all made at that time, and resolve those whose alerts ended. What cannot be done now, as somebody is changing the incident or because of an error, which becomes a warning, is left to the next evaluation, then late.';

----------------------------------------------------------------------------------------------------------------------
-- What is learned
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.incident_report(id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	incident monitoring.incidents;
	report jsonb;
BEGIN
	SELECT i.* INTO incident FROM monitoring.incidents AS i WHERE i.id = incident_report.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'incident % does not exist', id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.incidents.';
	END IF;
	report := to_jsonb(incident) || jsonb_build_object(
		'seconds_to_detect', extract(epoch FROM incident.detected_at - incident.started_at),
		'seconds_to_acknowledge', extract(epoch FROM incident.acknowledged_at - incident.detected_at),
		'seconds_to_mitigate', extract(epoch FROM incident.mitigated_at - incident.started_at),
		'seconds_to_resolve', extract(epoch FROM incident.resolved_at - incident.started_at),
		'post_mortem', (SELECT d.post_mortem FROM monitoring.incident_defs AS d WHERE d.id = incident_report.id));
	RETURN report || jsonb_build_object(
		'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object('alert_id', a.alert_id, 'joined_at', a.joined_at, 'ended_at', a.ended_at,
				'rule', h.rule_name, 'severity', h.severity, 'labels', h.labels, 'value', h.value, 'op', h.op,
				'threshold', h.threshold, 'summary', h.annotations ->> 'summary', 'impact', h.details -> 'impact') ORDER BY a.joined_at, h.rule_name, h.labels::text, a.alert_id), '[]')
			FROM (SELECT m.* FROM monitoring.incident_alerts AS m WHERE m.incident_id = incident_report.id
				ORDER BY m.joined_at, m.alert_id LIMIT 200) AS a
			LEFT JOIN LATERAL (SELECT t.* FROM monitoring.alert_history AS t
				WHERE t.alert_id = a.alert_id AND t.to_state = 'firing' ORDER BY t.id LIMIT 1) AS h ON true),
		'timeline', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(t)) ORDER BY t.n), '[]')
			FROM (SELECT row_number() OVER () AS n, l.* FROM monitoring.incident_timeline(incident_report.id) AS l LIMIT 1000) AS t),
		'evidence', (SELECT monitoring.evidence_of(m.alert_id) FROM monitoring.incident_alerts AS m
			WHERE m.incident_id = incident_report.id ORDER BY m.joined_at, m.alert_id LIMIT 1),
		'deployments', (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.at), '[]') FROM monitoring.deployments AS d
			WHERE d.at > incident.started_at - interval '1 day' AND d.at <= coalesce(incident.resolved_at, 'infinity')),
		'setting_changes', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(c)) ORDER BY c.at, c.scope, c.name), '[]')
			FROM (SELECT h.* FROM monitoring.setting_changes AS h
				WHERE h.at > incident.started_at - interval '1 day' AND h.at <= coalesce(incident.resolved_at, 'infinity')
				ORDER BY h.at, h.scope, h.name LIMIT 100) AS c));
END $$;
COMMENT ON FUNCTION monitoring.incident_report(bigint) IS 'Everything about an incident as JSON: its fields, seconds to detect (from start), to acknowledge (from detection), to mitigate and to resolve (from start), its first 200 alerts, timeline, the evidence of its first alert, deployments and changes of settings (the first 100) from the day before, and post_mortem. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.markdown_text(t text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT regexp_replace(regexp_replace(t, '[[:cntrl:]]+', ' ', 'g'), '([\\`*_{}\[\]<>()#+!|~-])', '\\\1', 'g')
$$;
COMMENT ON FUNCTION monitoring.markdown_text(text) IS 'Text that stands for itself in Markdown, on one line.';

CREATE FUNCTION monitoring.incident_report_markdown(id bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
SET TimeZone = 'UTC' SET IntervalStyle = 'postgres' AS $$
	WITH report AS MATERIALIZED (
		SELECT monitoring.incident_report(incident_report_markdown.id) AS r
	)
	SELECT format(E'# Incident %s: %s\n\n', r ->> 'id', monitoring.markdown_text(r ->> 'title'))
		|| format(E'| | |\n|---|---|\n| Severity | %s |\n| Status | %s |\n', r ->> 'severity', r ->> 'status')
		|| (SELECT string_agg(format(E'| %s | %s |\n', f.name, coalesce(to_char((r ->> f.key)::timestamptz, 'YYYY-MM-DD HH24:MI:SS "UTC"'), '–')), '' ORDER BY f.n)
			FROM (VALUES (1, 'Started', 'started_at'), (2, 'Detected', 'detected_at'), (3, 'Acknowledged', 'acknowledged_at'),
				(4, 'Mitigated', 'mitigated_at'), (5, 'Resolved', 'resolved_at')) AS f (n, name, key))
		|| (SELECT string_agg(format(E'| %s | %s |\n', f.name, coalesce(make_interval(secs => round((r ->> f.key)::float8))::text, '–')), '' ORDER BY f.n)
			FROM (VALUES (1, 'Time to detect', 'seconds_to_detect'), (2, 'Time to acknowledge', 'seconds_to_acknowledge'),
				(3, 'Time to resolve', 'seconds_to_resolve')) AS f (n, name, key))
		|| coalesce((SELECT string_agg(format(E'| %s | %s |\n', monitoring.markdown_text(o.key), monitoring.markdown_text(o.value)), '' ORDER BY o.key)
			FROM jsonb_each_text(nullif(r -> 'roles', 'null')) AS o), '')
		|| CASE WHEN r ->> 'summary' <> '' THEN format(E'\n%s\n', monitoring.markdown_text(r ->> 'summary')) ELSE '' END
		|| E'\n## Alerts\n\n'
		|| coalesce((SELECT string_agg(format(E'- **%s** (%s) %s\n', monitoring.markdown_text(a ->> 'rule'), a ->> 'severity',
				coalesce(monitoring.markdown_text(a ->> 'summary'), '')), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'alerts') WITH ORDINALITY AS e (a, n)), E'None.\n')
		|| E'\n## Timeline\n\n'
		|| coalesce((SELECT string_agg(format(E'- %s %s%s%s\n', to_char((t ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'), t ->> 'kind',
				coalesce(' by ' || monitoring.markdown_text(t ->> 'actor'), ''),
				CASE WHEN nullif(t -> 'details', '{}') IS NOT NULL THEN ': ' || (SELECT string_agg(monitoring.markdown_text(d.key || ' ' || d.value), ', ' ORDER BY d.key)
					FROM jsonb_each_text(t -> 'details') AS d) ELSE '' END), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'timeline') WITH ORDINALITY AS e (t, n)), '')
		|| E'\n## Deployments of the day before\n\n'
		|| coalesce((SELECT string_agg(format(E'- %s %s %s (%s)\n', to_char((d ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'),
				monitoring.markdown_text(d ->> 'service'), monitoring.markdown_text(d ->> 'version'), d ->> 'outcome'), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'deployments') WITH ORDINALITY AS e (d, n)), E'None.\n')
		|| coalesce((SELECT E'\n## Settings changed since the day before\n\n' || string_agg(format(E'- %s %s %s: %s to %s\n',
				to_char((c ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'), monitoring.markdown_text(c ->> 'scope'), monitoring.markdown_text(c ->> 'name'),
				coalesce(monitoring.markdown_text(c ->> 'old_value'), 'not set'), coalesce(monitoring.markdown_text(c ->> 'new_value'), 'not set')), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'setting_changes') WITH ORDINALITY AS e (c, n)), '')
		|| E'\n## What we learned\n\n' || coalesce((r ->> 'post_mortem') || E'\n', E'Not written yet.\n')
	FROM report
$$;
COMMENT ON FUNCTION monitoring.incident_report_markdown(bigint) IS 'The report of an incident as Markdown, times in UTC, for a post-incident review. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.incident_metrics(since timestamptz, until timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (severity text, incidents bigint, resolved bigint, mttd interval, mttd_median interval, mttd_p90 interval,
	mtta interval, mtta_median interval, mtta_p90 interval, mttr interval, mttr_median interval, mttr_p90 interval,
	downtime interval, mtbf interval)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT monitoring.check_period(since, until);
	-- One that goes on from before is no failure of this time, but down it is.
	WITH incident AS MATERIALIZED (
		SELECT i.severity, i.resolved_at, i.detected_at >= incident_metrics.since AS within, i.detected_at - i.started_at AS to_detect,
			greatest(i.acknowledged_at - i.detected_at, '0') AS to_acknowledge, i.resolved_at - i.started_at AS to_resolve,
			tstzrange(greatest(i.started_at, incident_metrics.since),
				greatest(i.started_at, incident_metrics.since, least(i.resolved_at, incident_metrics.until))) AS period
		FROM monitoring.incidents AS i
		WHERE i.detected_at < incident_metrics.until
			AND (i.detected_at >= incident_metrics.since OR coalesce(i.resolved_at > incident_metrics.since, true))
	), counted AS (
		SELECT i.severity, count(*) FILTER (WHERE i.within) AS incidents, count(i.resolved_at) FILTER (WHERE i.within) AS resolved,
			avg(i.to_detect) FILTER (WHERE i.within) AS mttd,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_detect) FILTER (WHERE i.within) AS ttd,
			avg(i.to_acknowledge) FILTER (WHERE i.within) AS mtta,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_acknowledge) FILTER (WHERE i.within) AS tta,
			avg(i.to_resolve) FILTER (WHERE i.within) AS mttr,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_resolve) FILTER (WHERE i.within) AS ttr,
			range_agg(i.period) AS periods
		FROM incident AS i
		GROUP BY GROUPING SETS ((), (i.severity))
		HAVING count(*) > 0
	)
	SELECT c.severity, c.incidents, c.resolved, c.mttd, c.ttd[1], c.ttd[2], c.mtta, c.tta[1], c.tta[2], c.mttr, c.ttr[1], c.ttr[2],
		d.downtime, CASE WHEN c.incidents > 0 THEN (incident_metrics.until - incident_metrics.since - d.downtime) / c.incidents END
	FROM counted AS c
	CROSS JOIN LATERAL (SELECT coalesce(sum(upper(r) - lower(r)), '0') AS downtime FROM unnest(c.periods) AS r) AS d
	ORDER BY c.severity IS NOT NULL, array_position('{critical,high,medium,low,info}', c.severity)
$$;
COMMENT ON FUNCTION monitoring.incident_metrics(timestamptz, timestamptz) IS 'Figures about the incidents that were detected between two times, for all severities (null) and each: mean, median and 90th percentile of the times to detect (detected - started), to acknowledge (acknowledged - detected, of those that were) and to resolve (resolved - started, of those that are); downtime = the time in which one was going on, also one from before; mtbf = (time - downtime) / incidents, null without any. Error 22023 for times that are not finite or not in order.';

CREATE FUNCTION monitoring.deployment_metrics(since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	blamed_for interval DEFAULT '1 hour')
RETURNS TABLE (service text, deployments bigint, per_day float8, failures bigint, change_failure_rate float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT monitoring.check_period(since, until);
	SELECT d.service, count(*), count(*) / (extract(epoch FROM deployment_metrics.until - deployment_metrics.since)::float8 / 86400),
		count(*) FILTER (WHERE d.failed), count(*) FILTER (WHERE d.failed)::float8 / count(*)
	FROM (
		SELECT p.service, p.outcome <> 'ok' OR EXISTS (
				SELECT FROM monitoring.incident_defs AS i
				WHERE i.started_at >= p.at AND i.started_at < p.at + blamed_for
					AND coalesce(i.labels ->> 'service', p.service) = p.service) AS failed
		FROM monitoring.deployments AS p
		WHERE p.at >= deployment_metrics.since AND p.at < deployment_metrics.until
	) AS d
	GROUP BY GROUPING SETS ((), (d.service))
	HAVING count(*) > 0
	ORDER BY d.service NULLS FIRST
$$;
COMMENT ON FUNCTION monitoring.deployment_metrics(timestamptz, timestamptz, interval) IS 'Deployments between two times, of all services (null) and of each: how many, how many a day, and how many failed: those marked as failed or rolled back, and those within blamed_for of which an incident began that has the service''s label or none. Error 22023 for times that are not finite or not in order.';
-- alerts, raised: alerts that applications raise and end themselves.
--
-- What they say is a queue at which nobody waits for anybody: a row for each call, in the caller's transaction. An
-- evaluation takes the rows that have been committed into raised_alerts, which is what rules of the kind "raised" see.

CREATE TABLE monitoring.raised_queue (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL,
	labels jsonb NOT NULL,
	raised boolean NOT NULL,
	severity text,
	summary text,
	description text,
	until timestamptz,
	caller name NOT NULL
);
COMMENT ON TABLE monitoring.raised_queue IS 'Calls of raise_alert and resolve_alert that no evaluation has taken yet.';
COMMENT ON COLUMN monitoring.raised_queue.id IS 'Order of the calls.';
COMMENT ON COLUMN monitoring.raised_queue.name IS 'Name of the alert.';
COMMENT ON COLUMN monitoring.raised_queue.labels IS 'Its labels.';
COMMENT ON COLUMN monitoring.raised_queue.raised IS 'Raised, or ended?';
COMMENT ON COLUMN monitoring.raised_queue.severity IS 'Severity of a rule that is made for it.';
COMMENT ON COLUMN monitoring.raised_queue.summary IS 'What happened.';
COMMENT ON COLUMN monitoring.raised_queue.description IS 'More about it.';
COMMENT ON COLUMN monitoring.raised_queue.until IS 'When it ends by itself; null: never.';
COMMENT ON COLUMN monitoring.raised_queue.caller IS 'Role that called.';

CREATE TABLE monitoring.raised_alerts (
	name text NOT NULL,
	fingerprint text NOT NULL,
	labels jsonb NOT NULL,
	details jsonb NOT NULL,
	until timestamptz,
	PRIMARY KEY (name, fingerprint)
);
CREATE INDEX ON monitoring.raised_alerts (until) WHERE until IS NOT NULL;
COMMENT ON TABLE monitoring.raised_alerts IS 'Alerts that applications have raised and not ended.';
COMMENT ON COLUMN monitoring.raised_alerts.name IS 'Name of the alert and of its rule.';
COMMENT ON COLUMN monitoring.raised_alerts.fingerprint IS 'Hash of the labels.';
COMMENT ON COLUMN monitoring.raised_alerts.labels IS 'Its labels.';
COMMENT ON COLUMN monitoring.raised_alerts.details IS 'summary, description and caller.';
COMMENT ON COLUMN monitoring.raised_alerts.until IS 'When it ends by itself; null: never.';

CREATE TRIGGER wake_worker AFTER INSERT ON monitoring.raised_queue
	FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker();
COMMENT ON TRIGGER wake_worker ON monitoring.raised_queue IS 'What applications raise is evaluated at commit.';

----------------------------------------------------------------------------------------------------------------------
-- For applications
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_raised_alert(name text, labels jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	found_kind text;
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an alert''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT d.kind INTO found_kind FROM monitoring.alert_rule_defs AS d WHERE d.name = check_raised_alert.name;
	IF found_kind <> 'raised' THEN
		RAISE EXCEPTION 'alert "%" is not raised by applications', name
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is an alert rule of kind %s.', found_kind);
	END IF;
	RETURN monitoring.check_text_map(labels, 'labels', 4096);
END $$;
COMMENT ON FUNCTION monitoring.check_raised_alert(text, jsonb) IS 'The labels of an alert that an application may raise, as text; otherwise an error: 22023 for a bad name or labels, 55000 if a rule of another kind has the name.';

CREATE FUNCTION monitoring.raise_alert(name text, labels jsonb DEFAULT '{}', severity text DEFAULT 'high', summary text DEFAULT NULL,
	description text DEFAULT NULL, lasts interval DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	labels := monitoring.check_raised_alert(name, labels);
	severity := monitoring.canonical_severity(severity);
	IF lasts <= '0' OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'an alert must be raised at a finite time, for longer than nothing' USING ERRCODE = 'invalid_parameter_value';
	ELSIF octet_length(summary) > 4096 OR octet_length(description) > 16384 THEN
		RAISE EXCEPTION 'the text of an alert is too long'
			USING ERRCODE = 'program_limit_exceeded', DETAIL = 'A summary has at most 4096 bytes, a description 16384.';
	END IF;
	INSERT INTO monitoring.raised_queue (name, labels, raised, severity, summary, description, until, caller)
	VALUES (name, labels, true, severity, summary, description, at + lasts, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.raise_alert(text, jsonb, text, text, text, interval, timestamptz) IS 'Raise an alert, or keep it raised, when the transaction commits; no session waits for another one in it. It ends with resolve_alert(name, labels), or when it has lasted so long (lasts, from at on; null: never). The first call makes an alert rule of that name, of kind raised and with that severity; update_alert_rule gives it receivers, a runbook, pending_for and all that other rules have. The texts are its annotations summary and description, as they are when it fires. Errors: 22023 for a bad name, labels, severity or time, 54000 for texts that are too long, 55000 if a rule of another kind has the name.';

CREATE FUNCTION monitoring.resolve_alert(name text, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	labels := monitoring.check_raised_alert(name, labels);
	INSERT INTO monitoring.raised_queue (name, labels, raised, caller) VALUES (name, labels, false, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.resolve_alert(text, jsonb) IS 'End an alert that raise_alert raised with these labels, when the transaction commits; if there is none, nothing happens. Of calls that are committed together the last one counts. Errors as raise_alert().';

----------------------------------------------------------------------------------------------------------------------
-- For evaluations
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.raised_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.id, r.labels, 1::float8, r.details, NULL::text
	FROM monitoring.alert_rule_defs AS d
	JOIN monitoring.raised_alerts AS r ON r.name = d.name
	WHERE d.id = ANY (raised_rule_values.rule_ids) AND coalesce(r.until > raised_rule_values.at, true)
	UNION ALL
	SELECT d.id, s.series_labels, 0, s.details, NULL
	FROM monitoring.alert_rule_defs AS d
	JOIN monitoring.alert_states AS s ON s.rule_id = d.id AND s.origin = 'value' AND s.state IN ('pending', 'firing')
	WHERE d.id = ANY (raised_rule_values.rule_ids) AND NOT EXISTS (
		SELECT FROM monitoring.raised_alerts AS r
		WHERE r.name = d.name AND r.fingerprint = md5(s.series_labels::text) AND coalesce(r.until > raised_rule_values.at, true))
$$;
COMMENT ON FUNCTION monitoring.raised_rule_values(timestamptz, bigint[]) IS 'Rule kind raised: 1 for what is raised, 0 for what was and is no more.';

CREATE FUNCTION monitoring.check_raised_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{}');
	IF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'by_labels' <> '[]' OR rule -> 'selector' <> '{}' THEN
		RAISE EXCEPTION 'an alert rule of kind raised takes no metric, function or labels' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT monitoring.alert_breach(rule ->> 'op', 1, (rule ->> 'threshold')::float8)
		OR monitoring.alert_breach(rule ->> 'op', 0, (rule ->> 'threshold')::float8) THEN
		RAISE EXCEPTION 'an alert rule of kind raised must compare so that 1 is a breach and 0 is none'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the operator > and the threshold 0.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_raised_rule(jsonb) IS 'Raises 22023 for a rule with a metric, function, labels or params, or that does not compare with 0 and 1.';

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin) VALUES
	('raised', 'monitoring.raised_rule_values', 'monitoring.check_raised_rule', '1 while an application has raised the alert (raise_alert), otherwise 0.', true);

CREATE FUNCTION monitoring.take_raised_alerts(at timestamptz) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	names text[];
	found monitoring.raised_queue;
BEGIN
	-- A rule for each name that has none, as it was raised first.
	FOR found IN
		SELECT DISTINCT ON (q.name) q.* FROM monitoring.raised_queue AS q
		WHERE q.raised AND NOT EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.name = q.name)
		ORDER BY q.name, q.id
	LOOP
		PERFORM monitoring.create_alert_rule(found.name, NULL, NULL, '1 minute', '>', 0, severity => found.severity, kind => 'raised',
			annotations => '{"summary": "{{summary}}", "description": "{{description}}"}');
	END LOOP;

	WITH taken AS (
		DELETE FROM monitoring.raised_queue AS q RETURNING q.*
	), latest AS MATERIALIZED (
		SELECT DISTINCT ON (t.name, t.labels) t.*, md5(t.labels::text) AS fingerprint
		FROM taken AS t
		ORDER BY t.name, t.labels, t.id DESC
	), ended AS (
		DELETE FROM monitoring.raised_alerts AS r USING latest AS l
		WHERE r.name = l.name AND r.fingerprint = l.fingerprint AND NOT l.raised
	), raised AS (
		INSERT INTO monitoring.raised_alerts AS r (name, fingerprint, labels, details, until)
		SELECT l.name, l.fingerprint, l.labels,
			jsonb_build_object('summary', coalesce(l.summary, l.name), 'description', coalesce(l.description, ''), 'caller', l.caller), l.until
		FROM latest AS l WHERE l.raised
		ON CONFLICT (name, fingerprint) DO UPDATE SET details = excluded.details, until = excluded.until
	)
	SELECT array_agg(DISTINCT l.name) INTO names FROM latest AS l;

	WITH over AS (DELETE FROM monitoring.raised_alerts AS r WHERE r.until <= take_raised_alerts.at RETURNING r.name)
	SELECT array_cat(names, array_agg(o.name)) INTO names FROM over AS o;
	RETURN names;
END $$;
COMMENT ON FUNCTION monitoring.take_raised_alerts(timestamptz) IS 'Take what applications have raised and ended since the last evaluation, make rules for new names, end what has lasted long enough, and return the names concerned.';
-- alerts, second part: the evaluation that turns the values of rule kinds into transitions.
--
-- An evaluation runs one statement per rule kind, whatever the number of rules: it reads the values of all enabled rules of
-- the kind, compares them with the stored states, and writes the states that change and their history. Outbox rows of all
-- kinds follow in the same transaction. Nothing changes, nothing is written.
--
-- Evaluations exclude each other by a lock on alert_rule_kinds that readers and writers of rules do not meet. It is a table
-- lock, not an advisory one, which any role could take and keep.

----------------------------------------------------------------------------------------------------------------------
-- The transition of one alert: pure functions, which the planner takes into the statement that uses them
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_breach(op text, value float8, bound float8) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE op WHEN '>' THEN value > bound WHEN '>=' THEN value >= bound WHEN '<' THEN value < bound
	WHEN '<=' THEN value <= bound WHEN '=' THEN value = bound WHEN '<>' THEN value <> bound END;
COMMENT ON FUNCTION monitoring.alert_breach(text, float8, float8) IS 'Whether value op bound holds; null without a value.';

CREATE FUNCTION monitoring.alert_verdict(at timestamptz, missing_since timestamptz, breach boolean, inactive boolean, failed boolean,
	max_age interval, no_data text, on_error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN inactive THEN 'end'
	WHEN failed THEN CASE on_error WHEN 'ok' THEN 'clear' WHEN 'alerting' THEN 'breach' ELSE 'keep' END
	WHEN breach THEN 'breach'
	WHEN NOT breach THEN 'clear'
	WHEN at - coalesce(missing_since, at) < max_age THEN 'keep'
	ELSE CASE no_data WHEN 'ok' THEN CASE WHEN max_age = '0' THEN 'clear' ELSE 'end' END
		WHEN 'alerting' THEN 'breach' ELSE 'keep' END
END;
COMMENT ON FUNCTION monitoring.alert_verdict(timestamptz, timestamptz, boolean, boolean, boolean, interval, text, text) IS 'How a pending or firing alert is judged: breach, clear, keep (it stays as it is) or end (at once), by whether its value breaches (null: there is none), whether the rule is outside its active times, whether it failed, and by its policies. With a max_age of 0 no value is a fine one.';

CREATE FUNCTION monitoring.next_alert_state(at timestamptz, state text, verdict text, fresh_breach boolean, since timestamptz,
	clear_since timestamptz, resolved_at timestamptz, pending_for interval, keep_firing_for interval) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN state IN ('pending', 'firing') THEN CASE
		WHEN verdict = 'keep' THEN state
		WHEN verdict = 'breach' THEN CASE WHEN state = 'firing' OR at - since >= pending_for THEN 'firing' ELSE 'pending' END
		WHEN state = 'pending' THEN 'inactive'
		WHEN verdict = 'end' OR at - coalesce(clear_since, at) >= keep_firing_for THEN 'resolved'
		ELSE 'firing'
	END
	WHEN fresh_breach THEN CASE WHEN pending_for = '0' THEN 'firing' ELSE 'pending' END
	WHEN state = 'resolved' THEN CASE WHEN at - resolved_at < '1 day' THEN 'resolved' ELSE 'forgotten' END
END;
COMMENT ON FUNCTION monitoring.next_alert_state(timestamptz, text, text, boolean, timestamptz, timestamptz, timestamptz, interval, interval) IS 'The state that an alert goes to: pending, firing, resolved; inactive: a pending one ends; forgotten: a resolved one is a day old; null: there is and will be none. fresh_breach: a value breaches, which begins an alert where there is none.';

----------------------------------------------------------------------------------------------------------------------
-- One statement for many rules
----------------------------------------------------------------------------------------------------------------------

-- Queries may be slow: together they have three seconds, in an order that is another one each time.
CREATE FUNCTION monitoring.rule_thresholds(rule_ids bigint[], at timestamptz)
RETURNS TABLE (rule_id bigint, names text[], labels jsonb, threshold float8, error text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = auto SET enable_nestloop = on
SET enable_mergejoin = on AS $$
DECLARE
	stop_at CONSTANT timestamptz := clock_timestamp() + '3 seconds';
	rule record;
BEGIN
	FOR rule IN
		SELECT d.id, d.owner::name, d.threshold_sql, d.over
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (rule_ids) AND d.threshold_sql IS NOT NULL
		ORDER BY monitoring.turn(d.id, rule_thresholds.at)
	LOOP
		IF clock_timestamp() < stop_at THEN
			RETURN QUERY
				SELECT rule.id, ARRAY(SELECT jsonb_object_keys(q.labels)), q.labels, q.value, 'threshold_sql: ' || coalesce(q.error,
					CASE WHEN q.value IS NULL OR q.value IN ('NaN', 'Infinity', '-Infinity')
						THEN format('no finite threshold for %s', q.labels) END)
				FROM monitoring.try_rule_query(rule.owner, rule.threshold_sql, '1 second', 10000, false, rule_thresholds.at,
					rule.over) AS q;
		ELSE
			RETURN QUERY SELECT rule.id, NULL::text[], NULL::jsonb, NULL::float8,
				'threshold_sql: the queries of other rules took too long';
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.rule_thresholds(bigint[], timestamptz) IS 'Thresholds that the rules'' threshold_sql gives, with the names of their labels; or why it gives none; all queries together have three seconds.';

CREATE FUNCTION monitoring.rule_values(source text, rule_ids bigint[], at timestamptz, failure text)
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE plpgsql ROWS 10000 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = auto SET enable_nestloop = on
SET enable_mergejoin = on AS $$
BEGIN
	IF source IS NOT NULL THEN
		RETURN QUERY EXECUTE format('SELECT f.rule_id, f.series_labels, f.value, f.details, f.error FROM %s($1, $2) AS f', source)
			USING at, rule_ids;
	ELSIF failure IS NOT NULL THEN
		RETURN QUERY SELECT u.id, NULL::jsonb, NULL::float8, NULL::jsonb, failure FROM unnest(rule_ids) AS u (id);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.rule_values(text, bigint[], timestamptz, text) IS 'Values of rules as the function of their kind gives them; without a function, the failure as an error of each.';

CREATE FUNCTION monitoring.note_rule_errors(rule_ids bigint[], errors text[], at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	UPDATE monitoring.alert_rule_defs AS d
	SET last_error = n.error, last_error_at = CASE WHEN n.error IS NOT NULL THEN at END
	FROM unnest(rule_ids, errors) AS n (id, error)
	WHERE d.id = n.id AND d.id IN (
		SELECT e.id FROM monitoring.alert_rule_defs AS e WHERE e.id = ANY (rule_ids) FOR NO KEY UPDATE SKIP LOCKED)
$$;
COMMENT ON FUNCTION monitoring.note_rule_errors(bigint[], text[], timestamptz) IS 'Set or clear (null) the errors of rules that nobody is editing.';

-- The plan is made once per session and is right for any number of rules and alerts: everything is hashed.
CREATE FUNCTION monitoring.run_evaluation(source text, rule_ids bigint[], at timestamptz, failure text DEFAULT NULL,
	inactive boolean DEFAULT false, purpose text DEFAULT 'record', OUT transitions bigint[], OUT shown jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_nestloop = off
SET enable_mergejoin = off SET jit = off SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
	repeated text;
	noted bigint[];
	errors text[];
BEGIN
	WITH observed AS MATERIALIZED (
		SELECT f.rule_id, coalesce(f.series_labels, '{}') AS series_labels, nullif(f.value, 'NaN') AS value,
			CASE WHEN jsonb_typeof(f.details) = 'object' THEN f.details END AS details,
			CASE WHEN jsonb_typeof(f.series_labels) <> 'object' THEN format('labels %s are not an object', f.series_labels)
				ELSE f.error END AS error
		FROM monitoring.rule_values(source, rule_ids, at, failure) AS f
	), thresholds AS MATERIALIZED (
		SELECT t.rule_id, t.names, t.labels, t.threshold, t.error
		FROM monitoring.rule_thresholds(rule_ids, at) AS t
		WHERE NOT inactive
	), rules AS MATERIALIZED (
		SELECT d.id, d.name, d.version, d.op, d.threshold, d.resolve_threshold, d.pending_for, d.keep_firing_for, d.max_age, d.no_data,
			d.on_error, d.last_error, coalesce(o.known, 0) AS known,
			coalesce(o.error, t.error,
				CASE WHEN o.label_sets > d.max_instances
					THEN format('more than max_instances (%s) label sets', d.max_instances) END) AS error
		FROM monitoring.alert_rule_defs AS d
		LEFT JOIN (
			SELECT g.rule_id, count(*) AS label_sets, count(g.value) AS known, min(g.error) AS error
			FROM observed AS g
			GROUP BY g.rule_id
		) AS o ON o.rule_id = d.id
		LEFT JOIN (SELECT l.rule_id, min(l.error) AS error FROM thresholds AS l GROUP BY l.rule_id) AS t ON t.rule_id = d.id
		WHERE d.id IN (SELECT u.id FROM unnest(rule_ids) AS u (id)) AND d.enabled
	-- the threshold with the most labels, all of which the alert has
	), own AS MATERIALIZED (
		SELECT DISTINCT ON (o.rule_id, o.series_labels) o.rule_id, o.series_labels, t.threshold
		FROM (SELECT DISTINCT l.rule_id, l.names FROM thresholds AS l) AS n
		JOIN monitoring.alert_rule_defs AS d ON d.id = n.rule_id
		JOIN observed AS o ON o.rule_id = n.rule_id
		JOIN thresholds AS t ON t.rule_id = n.rule_id AND t.names = n.names AND t.labels = (
			SELECT coalesce(jsonb_object_agg(a.name, monitoring.alert_labels(d, o.series_labels) -> a.name), '{}') FROM unnest(n.names) AS a (name))
		ORDER BY o.rule_id, o.series_labels, cardinality(t.names) DESC, t.names
	), known AS (
		SELECT s.*, s.ctid AS place
		FROM monitoring.alert_states AS s
		WHERE s.rule_id IN (SELECT u.id FROM unnest(rule_ids) AS u (id))
	-- alerts that tell of missing data or an error
	), policies AS (
		SELECT r.id AS rule_id, jsonb_build_object('reason', p.origin) AS series_labels, p.origin,
			CASE p.origin WHEN 'rule_error' THEN jsonb_build_object('error', r.error) END AS details
		FROM rules AS r
		CROSS JOIN LATERAL (
			SELECT 'rule_error' AS origin WHERE r.error IS NOT NULL AND r.on_error IN ('alerting', 'alert')
			UNION ALL
			SELECT 'no_data' WHERE r.error IS NULL AND r.known = 0 AND r.no_data IN ('alerting', 'alert')) AS p
		WHERE NOT inactive AND (p.origin = 'rule_error' AND r.on_error = 'alert' OR NOT EXISTS (
			SELECT FROM monitoring.alert_states AS a
			WHERE a.rule_id = r.id AND a.origin = 'value' AND a.state IN ('pending', 'firing')))
		-- UNION: alerts may differ in this very label
		UNION
		SELECT k.rule_id, k.series_labels || '{"reason": "no_data"}', 'no_data', NULL
		FROM rules AS r
		JOIN monitoring.alert_states AS k ON k.rule_id = r.id
		WHERE NOT inactive AND r.error IS NULL AND r.no_data = 'alert'
			AND k.origin = 'value' AND k.state IN ('pending', 'firing')
			AND NOT EXISTS (
				SELECT FROM observed AS o
				WHERE o.rule_id = k.rule_id AND o.series_labels = k.series_labels AND o.value IS NOT NULL)
	), compared AS (
		SELECT coalesce(i.rule_id, k.rule_id) AS rule_id, coalesce(i.series_labels, k.series_labels) AS series_labels,
			coalesce(i.origin, k.origin) AS origin, i.rule_id IS NOT NULL AS present, i.value AS new_value, i.details AS new_details,
			i.threshold AS own_threshold, k.fingerprint, k.alert_id, k.state, k.value, k.details, k.active_at, k.fired_at,
			k.resolved_at, k.clear_since, k.missing_since, k.threshold, k.place
		FROM (
			SELECT o.rule_id, o.series_labels, 'value' AS origin, o.value, o.details, w.threshold
			FROM observed AS o
			LEFT JOIN own AS w ON w.rule_id = o.rule_id AND w.series_labels = o.series_labels
			WHERE o.error IS NULL
			UNION ALL
			SELECT p.rule_id, p.series_labels, p.origin, NULL, p.details, NULL FROM policies AS p
		) AS i
		FULL JOIN known AS k ON k.rule_id = i.rule_id AND k.series_labels = i.series_labels AND k.origin = i.origin
	-- OFFSET 0: each step is computed once, not wherever a later one refers to it
	), judged AS NOT MATERIALIZED (
		SELECT c.*, r.name, r.version, r.keep_firing_for, r.max_age, r.no_data, r.on_error,
			coalesce(c.own_threshold, r.threshold) AS bound,
			c.state IN ('pending', 'firing') AS active,
			r.error IS NOT NULL AND c.origin <> 'rule_error' AS failed,
			CASE WHEN c.origin <> 'value' THEN c.present
				ELSE monitoring.alert_breach(r.op, c.new_value,
					CASE WHEN c.state = 'firing' AND r.resolve_threshold IS NOT NULL THEN
						CASE WHEN c.own_threshold IS NULL THEN r.resolve_threshold
							ELSE c.own_threshold + (r.resolve_threshold - r.threshold) END
						ELSE coalesce(c.own_threshold, r.threshold) END) END AS breach,
			CASE c.origin WHEN 'no_data' THEN r.max_age + CASE r.no_data WHEN 'alerting' THEN r.pending_for ELSE '0' END
				ELSE r.pending_for END AS pending_for
		FROM compared AS c
		JOIN rules AS r ON r.id = c.rule_id
		OFFSET 0
	), verdicts AS (
		SELECT j.*,
			-- never in the future, should the clock have been set back
			CASE WHEN j.active AND j.active_at <= at THEN j.active_at ELSE at END AS since,
			CASE WHEN j.clear_since > at THEN at ELSE j.clear_since END AS clear,
			CASE WHEN j.missing_since > at THEN at ELSE j.missing_since END AS missing,
			monitoring.alert_verdict(at, j.missing_since, j.breach, inactive, j.failed, j.max_age, j.no_data,
				j.on_error) AS verdict
		FROM judged AS j
		WHERE j.state IS NOT NULL OR j.breach
		OFFSET 0
	), moved AS (
		SELECT v.*,
			monitoring.next_alert_state(at, v.state, v.verdict, v.breach AND NOT inactive AND NOT v.failed,
				v.since, v.clear, v.resolved_at, v.pending_for, v.keep_firing_for) AS to_state
		FROM verdicts AS v
		OFFSET 0
	), timed AS (
		SELECT m.*,
			CASE WHEN m.to_state = 'firing' THEN
				CASE m.verdict WHEN 'keep' THEN m.clear WHEN 'clear' THEN coalesce(m.clear, at) END END AS next_clear_since,
			CASE WHEN m.to_state IN ('pending', 'firing') THEN
				CASE WHEN m.failed THEN m.missing WHEN m.breach IS NULL THEN coalesce(m.missing, at) END END AS next_missing_since
		FROM moved AS m
	), changed AS MATERIALIZED (
		SELECT t.rule_id, t.version, t.place, t.series_labels, t.origin, t.state AS old_state, t.active, t.to_state,
			CASE WHEN inactive THEN 'inactive_hours' WHEN t.failed THEN 'rule_error' WHEN t.breach IS NULL THEN 'no_data'
				WHEN NOT t.breach THEN 'clear' WHEN t.origin = 'value' THEN 'breach' ELSE t.origin END AS reason,
			coalesce(t.fingerprint, monitoring.alert_fingerprint(t.name, t.series_labels, t.origin)) AS fingerprint, t.alert_id,
			coalesce(t.new_value, t.value) AS value,
			CASE WHEN t.new_details IS NULL THEN t.details WHEN t.state = 'firing' AND t.details ? 'impact'
				THEN t.new_details || jsonb_build_object('impact', t.details -> 'impact') ELSE t.new_details END AS details,
			CASE WHEN t.new_value IS NULL THEN coalesce(t.threshold, t.bound) ELSE t.bound END AS threshold, t.since AS active_at,
			CASE WHEN t.to_state = 'firing' AND t.state IS DISTINCT FROM 'firing' THEN at
				WHEN t.active THEN t.fired_at END AS fired_at,
			CASE WHEN t.to_state = 'resolved' THEN at END AS resolved_at,
			t.next_clear_since AS clear_since, t.next_missing_since AS missing_since
		FROM timed AS t
		WHERE t.to_state IS DISTINCT FROM t.state
			OR t.active AND (t.since IS DISTINCT FROM t.active_at OR t.next_clear_since IS DISTINCT FROM t.clear_since
				OR t.next_missing_since IS DISTINCT FROM t.missing_since)
	-- from here on nobody else writes these rules' states: what was read is what is changed
	), locked AS MATERIALIZED (
		SELECT d.id, d.version
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT c.rule_id FROM changed AS c) AND d.enabled
		FOR SHARE SKIP LOCKED
	), ready AS MATERIALIZED (
		SELECT c.rule_id, c.place, c.series_labels, c.origin, c.old_state, c.active, c.to_state, c.reason, c.fingerprint,
			CASE WHEN c.active THEN c.alert_id ELSE nextval('monitoring.alert_id_seq') END AS alert_id, c.value, c.details,
			c.threshold, c.active_at, c.fired_at, c.resolved_at, c.clear_since, c.missing_since
		FROM changed AS c
		JOIN locked AS l ON l.id = c.rule_id AND l.version = c.version
	), inserted AS (
		INSERT INTO monitoring.alert_states (rule_id, fingerprint, series_labels, alert_id, state, value, details, active_at, fired_at,
			resolved_at, clear_since, missing_since, updated_at, threshold, origin)
		SELECT r.rule_id, r.fingerprint, r.series_labels, r.alert_id, r.to_state, r.value, r.details, r.active_at, r.fired_at,
			r.resolved_at, r.clear_since, r.missing_since, at, r.threshold, r.origin
		FROM ready AS r
		WHERE r.old_state IS NULL
		ON CONFLICT DO NOTHING -- the same labels twice, as is found below
		RETURNING 1
	), updated AS (
		UPDATE monitoring.alert_states AS s
		SET alert_id = r.alert_id, state = r.to_state, value = r.value, details = r.details, active_at = r.active_at,
			fired_at = r.fired_at, resolved_at = r.resolved_at, clear_since = r.clear_since, missing_since = r.missing_since,
			updated_at = at, threshold = r.threshold
		FROM ready AS r
		WHERE s.ctid = r.place AND r.to_state NOT IN ('inactive', 'forgotten')
		RETURNING 1
	), deleted AS (
		DELETE FROM monitoring.alert_states AS s
		USING ready AS r
		WHERE s.ctid = r.place AND r.to_state IN ('inactive', 'forgotten')
		RETURNING 1
	), transitions AS NOT MATERIALIZED (
		SELECT r.*, CASE WHEN r.active THEN r.old_state ELSE 'inactive' END AS from_state
		FROM ready AS r
		WHERE r.to_state IS DISTINCT FROM r.old_state AND r.to_state <> 'forgotten'
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT at, t.alert_id, d.id, d.name, d.severity, t.series_labels,
			monitoring.alert_labels(d, t.series_labels), t.from_state, t.to_state, t.reason, t.value, d.op, t.threshold,
			monitoring.fill_annotations(d, ROW(t.rule_id, t.fingerprint, t.series_labels, t.alert_id, t.to_state, t.value, t.details,
				t.active_at, t.fired_at, t.resolved_at, t.clear_since, t.missing_since, at, t.threshold,
				t.origin)::monitoring.alert_states),
			t.details, t.active_at, t.fired_at, t.fingerprint
		FROM transitions AS t
		JOIN monitoring.alert_rule_defs AS d ON d.id = t.rule_id
		WHERE purpose = 'record'
		-- as text, which compares faster than jsonb; {} before what has labels, these before the same with more
		ORDER BY d.id, rtrim(t.series_labels::text, '}') COLLATE "C"
		RETURNING id
	)
	SELECT (SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') FROM written AS w),
		CASE purpose
			WHEN 'simulate' THEN (
				SELECT jsonb_agg(u.shown ORDER BY u.series_labels NULLS FIRST)
				FROM (
					SELECT NULL::jsonb AS series_labels, jsonb_build_object(
						'from_state', CASE WHEN r.last_error IS NULL THEN 'ok' ELSE 'error' END,
						'to_state', CASE WHEN r.error IS NULL THEN 'ok' ELSE 'error' END, 'reason', r.error) AS shown
					FROM rules AS r
					WHERE r.id = ANY (n.ids)
					UNION ALL
					SELECT t.series_labels, jsonb_build_object('labels', monitoring.alert_labels(d, t.series_labels),
						'from_state', t.from_state, 'to_state', t.to_state, 'reason', t.reason, 'value', t.value,
						'threshold', t.threshold, 'details', t.details)
					FROM transitions AS t
					JOIN monitoring.alert_rule_defs AS d ON d.id = t.rule_id
				) AS u)
			WHEN 'show' THEN (
				SELECT jsonb_agg(u.shown ORDER BY u.series_labels NULLS FIRST)
				FROM (
					SELECT NULL::jsonb AS series_labels, jsonb_build_object('error', r.error) AS shown
					FROM rules AS r
					WHERE r.error IS NOT NULL
					UNION ALL
					SELECT j.series_labels, jsonb_build_object('labels', monitoring.alert_labels(d, j.series_labels), 'value', j.new_value,
						'threshold', j.bound, 'breach', j.breach, 'details', j.new_details)
					FROM judged AS j
					JOIN rules AS r ON r.id = j.rule_id
					JOIN monitoring.alert_rule_defs AS d ON d.id = j.rule_id
					WHERE j.present AND (r.error IS NULL OR j.origin <> 'value')
				) AS u)
		END,
		CASE WHEN (SELECT count(*) FROM ready)
				<> (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated) + (SELECT count(*) FROM deleted)
			THEN coalesce((
				SELECT min(r.series_labels::text)
				FROM (SELECT t.series_labels FROM ready AS t GROUP BY t.rule_id, t.fingerprint, t.series_labels HAVING count(*) > 1) AS r), '')
		END,
		n.ids, n.errors
	INTO transitions, shown, repeated, noted, errors
	FROM (
		SELECT array_agg(r.id ORDER BY r.id) AS ids, array_agg(left(r.error, 1000) ORDER BY r.id) AS errors
		FROM rules AS r
		WHERE NOT inactive AND left(r.error, 1000) IS DISTINCT FROM r.last_error
	) AS n;

	IF repeated = '' THEN
		RAISE EXCEPTION 'alerts were changed while they were evaluated'
			USING ERRCODE = 'serialization_failure', HINT = 'Only evaluations, and functions that lock the rule, may write monitoring.alert_states.';
	ELSIF repeated IS NOT NULL THEN
		RAISE EXCEPTION 'function % gave the labels % twice', source, repeated USING ERRCODE = 'cardinality_violation';
	END IF;
	IF noted IS NOT NULL THEN
		PERFORM monitoring.note_rule_errors(noted, errors, at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.run_evaluation(text, bigint[], timestamptz, text, boolean, text) IS 'Evaluate rules with the values from source in one statement: change their alerts'' states, write history and return its ids, note errors. Without a source the rules failed, or (inactive) are outside their active times. purpose: record; simulate, which returns the transitions instead of writing history; show, which returns the values that were compared.';

CREATE FUNCTION monitoring.evaluation_may_fail(sqlstate text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN left(sqlstate, 2) NOT IN ('25', '40', '57', '58') AND sqlstate NOT IN ('53100', '53300');
COMMENT ON FUNCTION monitoring.evaluation_may_fail(text) IS 'Whether an error can be a rule''s fault: transaction state, serialization, full disk, connections, intervention and the system are not.';

CREATE FUNCTION monitoring.evaluate_rules(kind_function text, rule_ids bigint[], at timestamptz) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	half integer := cardinality(rule_ids) / 2;
BEGIN
	RETURN (monitoring.run_evaluation(kind_function, rule_ids, at)).transitions;
EXCEPTION WHEN OTHERS THEN
	IF NOT monitoring.evaluation_may_fail(SQLSTATE) THEN
		RAISE;
	ELSIF half = 0 THEN
		RETURN (monitoring.run_evaluation(NULL, rule_ids, at, SQLERRM)).transitions;
	END IF;
	-- Halving finds the rule at fault; from then on it is evaluated apart from the others.
	RETURN monitoring.evaluate_rules(kind_function, rule_ids[:half], at)
		|| monitoring.evaluate_rules(kind_function, rule_ids[half + 1:], at);
END $$;
COMMENT ON FUNCTION monitoring.evaluate_rules(text, bigint[], timestamptz) IS 'Evaluate rules of one kind in one statement. A rule that fails gets its last_error, its alerts become what its on_error says, and it disturbs no other.';

CREATE FUNCTION monitoring.failed_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.id, NULL::jsonb, NULL::float8, NULL::jsonb, d.last_error
	FROM monitoring.alert_rule_defs AS d
	WHERE d.id = ANY (failed_rule_values.rule_ids)
$$;
COMMENT ON FUNCTION monitoring.failed_rule_values(timestamptz, bigint[]) IS 'As the function of a rule kind: the error that each rule had last.';

CREATE FUNCTION monitoring.evaluate_failed_rules(kind_function text, rule_ids bigint[], at timestamptz) RETURNS bigint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[] := '{}';
	-- One statement each, so a bounded number at a time: turns by the time need no memory of whose it is.
	tried bigint[];
	one bigint;
BEGIN
	RETURN (monitoring.run_evaluation(kind_function, rule_ids, at)).transitions;
EXCEPTION WHEN OTHERS THEN
	IF NOT monitoring.evaluation_may_fail(SQLSTATE) THEN
		RAISE;
	END IF;
	tried := ARRAY(SELECT f FROM unnest(rule_ids) AS f ORDER BY monitoring.turn(f, at) LIMIT 20);
	FOREACH one IN ARRAY tried LOOP
		transitions := transitions || monitoring.evaluate_rules(kind_function, ARRAY[one], at);
	END LOOP;
	-- for the others it is the same error still
	RETURN transitions || (monitoring.run_evaluation('monitoring.failed_rule_values',
		ARRAY(SELECT f FROM unnest(rule_ids) AS f WHERE f <> ALL (tried)), at)).transitions;
END $$;
COMMENT ON FUNCTION monitoring.evaluate_failed_rules(text, bigint[], timestamptz) IS 'Evaluate rules that failed before: together if their function tells their errors, else up to twenty one by one; for the others it is the same error still.';

----------------------------------------------------------------------------------------------------------------------
-- Transitions that no value makes
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
			monitoring.alert_labels(rule, (e.s).series_labels), (e.s).state,
			CASE (e.s).state WHEN 'firing' THEN 'resolved' ELSE 'inactive' END, end_alerts.reason, (e.s).value, rule.op,
			(e.s).threshold, monitoring.fill_annotations(rule, e.s), (e.s).details, (e.s).active_at, (e.s).fired_at,
			(e.s).fingerprint
		FROM ended AS e
		WHERE (e.s).state IN ('pending', 'firing')
		ORDER BY (e.s).alert_id
		RETURNING id
	)
	SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO transitions FROM written AS w;
	PERFORM monitoring.queue_transitions(transitions, at);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.end_alerts(monitoring.alert_rule_defs, text, timestamptz) IS 'End all alerts of a rule for a reason that is not their value, with history and notifications, and return how many were pending or firing.';

CREATE FUNCTION monitoring.demote_alerts(rule monitoring.alert_rule_defs, at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	transitions bigint[];
BEGIN
	PERFORM monitoring.ensure_partition('alert_history', at);
	WITH early AS MATERIALIZED (
		SELECT s AS old_state FROM monitoring.alert_states AS s
		WHERE s.rule_id = rule.id AND s.state = 'firing' AND s.origin = 'value' AND s.clear_since IS NULL
			AND demote_alerts.at - s.active_at < rule.pending_for
	), demoted AS (
		UPDATE monitoring.alert_states AS s
		SET state = 'pending', alert_id = nextval('monitoring.alert_id_seq'), fired_at = NULL, updated_at = demote_alerts.at
		FROM early AS e
		WHERE s.rule_id = rule.id AND s.fingerprint = (e.old_state).fingerprint
		RETURNING s AS new_state, e.old_state
	), written AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, op, threshold, annotations, details, active_at, fired_at, fingerprint)
		SELECT demote_alerts.at, (t.s).alert_id, rule.id, rule.name, rule.severity, (t.s).series_labels,
			monitoring.alert_labels(rule, (t.s).series_labels), t.from_state, t.to_state, 'rule_changed', (t.s).value, rule.op,
			(t.s).threshold, monitoring.fill_annotations(rule, t.s), (t.s).details, (t.s).active_at, (t.s).fired_at,
			(t.s).fingerprint
		FROM demoted AS d
		CROSS JOIN LATERAL (VALUES (d.old_state, 'firing', 'resolved'), (d.new_state, 'inactive', 'pending'))
			AS t (s, from_state, to_state)
		ORDER BY t.to_state DESC, (t.s).alert_id
		RETURNING id
	)
	SELECT coalesce(array_agg(w.id ORDER BY w.id), '{}') INTO transitions FROM written AS w;
	PERFORM monitoring.queue_transitions(transitions, at);
	RETURN cardinality(transitions);
END $$;
COMMENT ON FUNCTION monitoring.demote_alerts(monitoring.alert_rule_defs, timestamptz) IS 'After pending_for was raised: firing alerts whose breach has not lasted that long are resolved, and go on as pending ones whose breach began when it did.';

CREATE FUNCTION monitoring.restart_timers(at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	UPDATE monitoring.alert_states AS s
	SET active_at = CASE s.state WHEN 'pending' THEN at ELSE s.active_at END,
		clear_since = CASE WHEN s.clear_since IS NOT NULL THEN at END,
		missing_since = CASE WHEN s.missing_since IS NOT NULL THEN at END,
		updated_at = at
	WHERE (s.state = 'pending' OR s.state = 'firing' AND (s.clear_since IS NOT NULL OR s.missing_since IS NOT NULL))
		AND s.rule_id IN (SELECT d.id FROM monitoring.alert_rule_defs AS d FOR SHARE SKIP LOCKED)
$$;
COMMENT ON FUNCTION monitoring.restart_timers(timestamptz) IS 'Let all running timers of alerts start over. A rule that is being edited keeps its own.';

----------------------------------------------------------------------------------------------------------------------
-- Evaluation
----------------------------------------------------------------------------------------------------------------------

-- One query tells of all alerts: a row is about those that have its value in every column that is a label of theirs.
CREATE FUNCTION monitoring.note_impacts(transition_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	stop_at CONSTANT timestamptz := clock_timestamp() + '3 seconds';
	rule monitoring.alert_rule_defs;
	found_rows jsonb[];
	failure text;
BEGIN
	FOR rule IN
		SELECT d.* FROM monitoring.alert_rule_defs AS d
		WHERE d.impact_sql IS NOT NULL AND d.id IN (
			SELECT h.rule_id
			FROM unnest(transition_ids) AS t (id)
			JOIN monitoring.alert_history AS h ON h.id = t.id
			WHERE h.at = note_impacts.at AND h.to_state = 'firing')
		ORDER BY monitoring.turn(d.id, note_impacts.at)
	LOOP
		IF clock_timestamp() < stop_at THEN
			SELECT array_agg(q.row), min(q.error) INTO found_rows, failure
			FROM monitoring.try_rule_query(rule.owner::name, rule.impact_sql, '1 second', 1000, true, note_impacts.at, rule.over) AS q;
		ELSE
			failure := 'the queries of other rules took too long';
		END IF;
		WITH impacts AS (
			SELECT h.id, h.alert_id,
				CASE WHEN failure IS NOT NULL THEN jsonb_build_object('error', failure)
					ELSE coalesce((
						SELECT jsonb_strip_nulls(f.row)
						FROM unnest(found_rows) AS f (row)
						CROSS JOIN LATERAL (
							SELECT count(*) AS labels, coalesce(bool_and(c.value = h.labels ->> c.key), true) AS fits
							FROM jsonb_each_text(f.row) AS c
							WHERE h.labels ? c.key AND c.value IS NOT NULL) AS m
						WHERE m.fits AND octet_length(f.row::text) <= 8192
						ORDER BY m.labels DESC, f.row
						LIMIT 1), '{}') END AS impact
			FROM monitoring.alert_history AS h
			WHERE h.rule_id = rule.id AND h.at = note_impacts.at AND h.id = ANY (transition_ids) AND h.to_state = 'firing'
		), states AS (
			UPDATE monitoring.alert_states AS s
			SET details = coalesce(s.details, '{}') || jsonb_build_object('impact', i.impact)
			FROM impacts AS i
			WHERE s.alert_id = i.alert_id
			RETURNING i.id, s AS state
		)
		UPDATE monitoring.alert_history AS h
		SET details = (s.state).details, annotations = monitoring.fill_annotations(rule, s.state)
		FROM states AS s
		WHERE h.at = note_impacts.at AND h.id = s.id;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.note_impacts(bigint[], timestamptz) IS 'Ask the impact_sql of rules whose alerts fire and keep the answers in details.impact, where annotations find them. What goes wrong is kept as details.impact.error; all queries together have three seconds.';

-- The phase spreads rules of the same interval over it; a name's hash is the same on every server.
CREATE FUNCTION monitoring.rule_is_due(every interval, name text, previous timestamptz, at timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN every IS NULL OR previous IS NULL OR at < previous
	OR floor(date_part('epoch', at) / date_part('epoch', every) - hashtext(name) / 4294967296.0::float8)
		> floor(date_part('epoch', previous) / date_part('epoch', every) - hashtext(name) / 4294967296.0::float8);
COMMENT ON FUNCTION monitoring.rule_is_due(interval, text, timestamptz, timestamptz) IS 'Whether a multiple of the rule''s interval, shifted by a phase that depends on its name, lies after the previous evaluation and not after this one; true without an interval, if the previous evaluation is not known, and after the clock was set back.';

CREATE FUNCTION monitoring.previous_evaluation() RETURNS timestamptz
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_previous_evaluation';
COMMENT ON FUNCTION monitoring.previous_evaluation() IS 'Time of this session''s last evaluation that was not rolled back; null: it has made none.';

CREATE FUNCTION monitoring.remember_evaluation(at timestamptz) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_remember_evaluation';
COMMENT ON FUNCTION monitoring.remember_evaluation(timestamptz) IS 'Let previous_evaluation() return this time from now on, unless the transaction is rolled back; null: as if there had been no evaluation, so that all rules are due.';

CREATE FUNCTION monitoring.note_evaluation(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	last_one timestamptz := (SELECT e.evaluated_at FROM monitoring.evaluation_state AS e);
BEGIN
	PERFORM monitoring.remember_evaluation(at);
	IF at - last_one > '1 hour' THEN
		PERFORM monitoring.restart_timers(at);
	END IF;
	IF last_one IS NULL THEN
		INSERT INTO monitoring.evaluation_state (evaluated_at) VALUES (at);
	ELSIF at < last_one OR at - last_one >= '1 minute' THEN
		UPDATE monitoring.evaluation_state SET evaluated_at = at;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.note_evaluation(timestamptz) IS 'Keep the time of an evaluation, in the table once a minute. When the last one was more than an hour ago, what alerts did meanwhile is not known: timers start over.';

CREATE FUNCTION monitoring.rule_members(params jsonb) RETURNS SETOF text
LANGUAGE sql IMMUTABLE ROWS 5 SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT m.name
	FROM unnest('{all,any}'::text[]) AS k (key)
	CROSS JOIN LATERAL jsonb_array_elements_text(
		CASE jsonb_typeof(params -> k.key) WHEN 'array' THEN params -> k.key ELSE '[]' END) AS m (name)
$$;
COMMENT ON FUNCTION monitoring.rule_members(jsonb) IS 'Names of the rules that a rule of rules is made of, by its params.';

CREATE FUNCTION monitoring.rule_depths() RETURNS TABLE (rule_id bigint, depth integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH RECURSIVE rules AS MATERIALIZED (
		SELECT d.id, d.name, ARRAY(SELECT monitoring.rule_members(d.params)) AS members
		FROM monitoring.alert_rule_defs AS d
		JOIN monitoring.alert_rule_kinds AS k ON k.kind = d.kind
		WHERE k.evaluation_order > 0
	), above AS (
		SELECT r.id, r.name, 0 AS depth FROM rules AS r
		UNION
		SELECT r.id, r.name, a.depth + 1 FROM above AS a JOIN rules AS r ON a.name = ANY (r.members) WHERE a.depth < 20
	)
	SELECT a.id, max(a.depth) FROM above AS a GROUP BY a.id
$$;
COMMENT ON FUNCTION monitoring.rule_depths() IS 'Of rules that read other rules'' alerts: how many of these lie on the longest way down. They are evaluated from the bottom up.';

CREATE FUNCTION monitoring.follow_up(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.note_impacts(transitions, at);
	PERFORM monitoring.capture_evidence(transitions, at);
	PERFORM monitoring.route_alerts(transitions, at);
END $$;
COMMENT ON FUNCTION monitoring.follow_up(bigint[], timestamptz) IS 'What an evaluation does about its transitions: impact, evidence, notifications.';

CREATE FUNCTION monitoring.evaluate_all_rules(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	transitions bigint[] := '{}';
	previous timestamptz := monitoring.previous_evaluation();
	inactive bigint[];
	kind_function text;
	rules record;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of an evaluation must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- in the order of the names, as all who need both take their locks
	PERFORM monitoring.ensure_partition('alert_events', at);
	PERFORM monitoring.ensure_partition('alert_history', at);
	PERFORM monitoring.note_evaluation(at);
	PERFORM monitoring.take_raised_alerts(at);

	-- better an alert too many than none because of a time zone that is gone
	inactive := ARRAY(SELECT d.id FROM monitoring.alert_rule_defs AS d
		WHERE d.enabled AND d.active_times IS NOT NULL AND NOT monitoring.time_matches(d.active_times, evaluate_all_rules.at, true));
	IF cardinality(inactive) > 0 THEN
		transitions := (monitoring.run_evaluation(NULL, inactive, at, inactive => true)).transitions;
	END IF;

	FOR rules IN
		SELECT k.kind, k.function,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NULL), '{}') AS good,
			coalesce(array_agg(d.id ORDER BY d.id) FILTER (WHERE d.last_error IS NOT NULL), '{}') AS failed
		FROM monitoring.alert_rule_kinds AS k
		JOIN monitoring.alert_rule_defs AS d ON d.kind = k.kind
		LEFT JOIN monitoring.rule_depths() AS b ON b.rule_id = d.id
		WHERE d.enabled AND d.id <> ALL (inactive) AND monitoring.rule_is_due(coalesce(d.every, k.every), d.name, previous, evaluate_all_rules.at)
		GROUP BY k.kind, k.function, b.depth
		ORDER BY k.evaluation_order, b.depth, k.kind
	LOOP
		BEGIN
			kind_function := monitoring.alert_kind_function(rules.function, 'timestamptz, bigint[]');
		EXCEPTION WHEN undefined_function OR insufficient_privilege OR syntax_error OR invalid_schema_name OR undefined_object THEN
			transitions := transitions || (monitoring.run_evaluation(NULL, rules.good || rules.failed, at, SQLERRM)).transitions;
			CONTINUE;
		END;
		IF cardinality(rules.good) > 0 THEN
			transitions := transitions || monitoring.evaluate_rules(kind_function, rules.good, at);
		END IF;
		IF cardinality(rules.failed) > 0 THEN
			transitions := transitions || monitoring.evaluate_failed_rules(kind_function, rules.failed, at);
		END IF;
	END LOOP;
	PERFORM monitoring.follow_up(transitions, at);
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

-- What applications raise does not wait for the next evaluation. If one is under way it will be taken by the one after that.
CREATE FUNCTION monitoring.evaluate_raised_alerts(at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	names text[];
	ids bigint[];
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.raised_queue) THEN
		RETURN;
	END IF;
	BEGIN
		LOCK TABLE monitoring.alert_rule_kinds IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
	EXCEPTION WHEN lock_not_available THEN
		RETURN;
	END;
	PERFORM monitoring.ensure_partition('alert_events', at);
	PERFORM monitoring.ensure_partition('alert_history', at);
	names := monitoring.take_raised_alerts(at);
	ids := ARRAY(SELECT d.id FROM monitoring.alert_rule_defs AS d
		WHERE d.name = ANY (names) AND d.kind = 'raised' AND d.enabled
			AND coalesce(monitoring.time_matches(d.active_times, evaluate_raised_alerts.at, true), true));
	IF cardinality(ids) > 0 THEN
		PERFORM monitoring.follow_up(monitoring.evaluate_rules('monitoring.raised_rule_values', ids, at), at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.evaluate_raised_alerts(timestamptz) IS 'Evaluate the rules of what applications have raised or ended since the last evaluation, unless one is under way. A job that runs when they commit.';

INSERT INTO monitoring.jobs (name, function, setting, priority, run_on_wake)
VALUES ('evaluate_raised', 'monitoring.evaluate_raised_alerts', 'monitoring.evaluation_interval', 45, true);
-- alerts, backtest: what a rule would say now, and what it would have done.
--
-- A trial evaluates a copy of the rule, with the statement that evaluates rules, in a subtransaction that is rolled back: no
-- stored state is touched, and nobody else sees the copy.

CREATE FUNCTION monitoring.trial_copy(rule monitoring.alert_rule_defs) RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	rule.id := nextval('monitoring.alert_rule_defs_id_seq');
	rule.name := left(rule.name, 150) || ' ' || gen_random_uuid();
	rule.last_error := NULL;
	rule.last_error_at := NULL;
	RETURN rule;
END $$;
COMMENT ON FUNCTION monitoring.trial_copy(monitoring.alert_rule_defs) IS 'The rule under another id and name, as if it had never been evaluated.';

CREATE FUNCTION monitoring.trial_members(trial monitoring.alert_rule_defs) RETURNS SETOF monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	copies monitoring.alert_rule_defs[];
	names jsonb;
BEGIN
	WITH RECURSIVE members AS (
		SELECT m.name FROM monitoring.rule_members(trial.params) AS m (name)
		UNION
		SELECT n.name
		FROM members AS m
		JOIN monitoring.alert_rule_defs AS d ON d.name = m.name
		JOIN monitoring.alert_rule_kinds AS k ON k.kind = d.kind AND k.evaluation_order > 0
		CROSS JOIN LATERAL monitoring.rule_members(d.params) AS n (name)
	), copied AS MATERIALIZED (
		SELECT d.name, monitoring.trial_copy(d) AS copy FROM monitoring.alert_rule_defs AS d JOIN members AS m ON m.name = d.name
	)
	SELECT array_agg(c.copy), jsonb_object_agg(c.name, (c.copy).name) INTO copies, names FROM copied AS c;

	copies := coalesce(copies, '{}') || trial;
	FOR i IN 1 .. cardinality(copies) LOOP
		copies[i].params := copies[i].params || (
			SELECT coalesce(jsonb_object_agg(k.key, (
				SELECT jsonb_agg(coalesce(names -> m.name, to_jsonb(m.name)))
				FROM jsonb_array_elements_text(copies[i].params -> k.key) AS m (name))), '{}')
			FROM unnest('{all,any}'::text[]) AS k (key)
			WHERE jsonb_typeof(copies[i].params -> k.key) = 'array');
	END LOOP;
	RETURN QUERY SELECT c.* FROM unnest(copies) AS c;
END $$;
COMMENT ON FUNCTION monitoring.trial_members(monitoring.alert_rule_defs) IS 'Copies of all rules that a rule of rules is made of, and itself, made of the copies.';

CREATE FUNCTION monitoring.trial_rule(rule_name text, definition jsonb) RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	stored monitoring.alert_rule_defs;
	rule monitoring.alert_rule_defs;
BEGIN
	SELECT d.* INTO stored FROM monitoring.alert_rule_defs AS d WHERE d.name = rule_name;
	IF FOUND THEN
		rule := monitoring.change_rule(stored, definition, '{kind}');
	ELSIF definition = '{}' THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', rule_name
			USING ERRCODE = 'undefined_object', HINT = 'Give the definition of a rule that is not stored yet.';
	ELSE
		rule := monitoring.change_rule(jsonb_populate_record(NULL::monitoring.alert_rule_defs, jsonb_build_object('name', rule_name)
			|| '{"kind": "metric", "pending_for": "0", "keep_firing_for": "0", "max_age": "5 minutes", "severity": "medium",
				"selector": {}, "by_labels": [], "extra_labels": {}, "annotations": {}, "params": {}, "no_data": "ok",
				"on_error": "keep", "max_instances": 1000}'), definition);
	END IF;
	IF (rule.params, rule.impact_sql, rule.threshold_sql)
		IS DISTINCT FROM (stored.params, stored.impact_sql, stored.threshold_sql) THEN
		rule.owner := monitoring.calling_role();
	END IF;
	rule := monitoring.check_alert_rule(rule);
	rule.enabled := true;
	rule.version := 1;
	rule.edited := false;
	rule.created_at := clock_timestamp();
	rule.updated_at := rule.created_at;
	RETURN monitoring.trial_copy(rule);
END $$;
COMMENT ON FUNCTION monitoring.trial_rule(text, jsonb) IS 'A copy of a rule, with changes, or a new rule, under a name of its own, to be inserted and rolled back. Errors as create_alert_rule; 42704 for a rule that is not stored and has no definition.';

CREATE FUNCTION monitoring.run_trial(rule monitoring.alert_rule_defs, at timestamptz, purpose text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kind_function text;
BEGIN
	IF rule.active_times IS NOT NULL AND NOT monitoring.time_matches(rule.active_times, at, true) THEN
		RETURN (monitoring.run_evaluation(NULL, ARRAY[rule.id], at, inactive => true, purpose => run_trial.purpose)).shown;
	END IF;
	SELECT k.function INTO kind_function FROM monitoring.alert_rule_kinds AS k WHERE k.kind = rule.kind;
	RETURN (monitoring.run_evaluation(monitoring.alert_kind_function(kind_function, 'timestamptz, bigint[]'), ARRAY[rule.id], at,
		purpose => run_trial.purpose)).shown;
EXCEPTION WHEN OTHERS THEN
	IF NOT monitoring.evaluation_may_fail(SQLSTATE) THEN
		RAISE;
	END IF;
	RETURN (monitoring.run_evaluation(NULL, ARRAY[rule.id], at, SQLERRM, purpose => run_trial.purpose)).shown;
END $$;
COMMENT ON FUNCTION monitoring.run_trial(monitoring.alert_rule_defs, timestamptz, text) IS 'Evaluate one rule at a time as evaluate_alerts would, and return what run_evaluation shows for this purpose.';

CREATE FUNCTION monitoring.preview_rule(rule text, definition jsonb DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (labels jsonb, value float8, op text, threshold float8, breach boolean, details jsonb, error text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	trial monitoring.alert_rule_defs := monitoring.trial_rule(rule, definition);
	shown jsonb;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a preview must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	BEGIN
		INSERT INTO monitoring.alert_rule_defs SELECT trial.*;
		shown := monitoring.run_trial(trial, at, 'show');
		RAISE EXCEPTION 'end of the trial' USING ERRCODE = 'MON01';
	EXCEPTION WHEN SQLSTATE 'MON01' THEN
	END;
	RETURN QUERY
		SELECT s.labels, s.value, trial.op, s.threshold, s.breach, s.details, s.error
		FROM jsonb_to_recordset(shown) AS s (labels jsonb, value float8, threshold float8, breach boolean, details jsonb, error text);
END $$;
COMMENT ON FUNCTION monitoring.preview_rule(text, jsonb, timestamptz) IS 'What a rule finds at a time, without saving anything: one row per label set with its value and whether it breaches the threshold, or one with the error. definition is a JSON object of parameters of create_alert_rule as for update_alert_rule: all that a new rule needs, or the changes to the stored rule of this name. Errors as create_alert_rule, but not for a parent.';

CREATE FUNCTION monitoring.backtest_rule(rule text, since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	step interval DEFAULT NULL, definition jsonb DEFAULT '{}')
RETURNS TABLE (at timestamptz, labels jsonb, from_state text, to_state text, reason text, value float8, threshold float8, details jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	max_steps CONSTANT integer := 10000;
	max_transitions CONSTANT integer := 100000;
	trial monitoring.alert_rule_defs := monitoring.trial_rule(rule, definition);
	moment timestamptz := since;
	found jsonb;
	transitions jsonb[] := '{}';
	moments timestamptz[] := '{}';
	total integer := 0;
	members monitoring.alert_rule_defs[];
	member monitoring.alert_rule_defs;
BEGIN
	IF since IS NULL OR until IS NULL OR NOT isfinite(since) OR NOT isfinite(until) OR until <= since THEN
		RAISE EXCEPTION 'a backtest must end after it begins' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	step := coalesce(step, greatest(trial.every, '1 minute', make_interval(secs => ceil(date_part('epoch', until - since) / 1440))));
	IF step <= '0' THEN
		RAISE EXCEPTION 'the step of a backtest must be longer than zero' USING ERRCODE = 'invalid_parameter_value';
	ELSIF date_part('epoch', until - since) / date_part('epoch', step) >= max_steps THEN
		RAISE EXCEPTION 'a backtest cannot have more than % steps', max_steps
			USING ERRCODE = 'program_limit_exceeded', HINT = 'Give a longer step or a shorter time.';
	END IF;

	BEGIN
		IF EXISTS (SELECT FROM monitoring.alert_rule_kinds AS k WHERE k.kind = trial.kind AND k.evaluation_order > 0) THEN
			members := ARRAY(SELECT m FROM monitoring.trial_members(trial) AS m);
			INSERT INTO monitoring.alert_rule_defs SELECT m.* FROM unnest(members) AS m;
			members := ARRAY(SELECT m FROM unnest(members) AS m LEFT JOIN monitoring.rule_depths() AS b ON b.rule_id = m.id
				WHERE m.id <> trial.id AND m.enabled ORDER BY b.depth NULLS FIRST);
		ELSE
			INSERT INTO monitoring.alert_rule_defs SELECT trial.*;
			members := '{}';
		END IF;
		WHILE moment <= until LOOP
			FOREACH member IN ARRAY members LOOP
				PERFORM monitoring.run_trial(member, moment, 'simulate');
			END LOOP;
			found := monitoring.run_trial(trial, moment, 'simulate');
			IF found IS NOT NULL THEN
				transitions := transitions || found;
				moments := moments || moment;
				total := total + jsonb_array_length(found);
				IF total > max_transitions THEN
					RAISE EXCEPTION 'the rule makes more than % transitions', max_transitions
						USING ERRCODE = 'program_limit_exceeded', HINT = 'Give a shorter time.';
				END IF;
			END IF;
			moment := moment + step;
		END LOOP;
		RAISE EXCEPTION 'end of the trial' USING ERRCODE = 'MON01';
	EXCEPTION WHEN SQLSTATE 'MON01' THEN
	END;
	RETURN QUERY
		SELECT f.moment, s.labels, s.from_state, s.to_state, s.reason, s.value, s.threshold, s.details
		FROM unnest(moments, transitions) WITH ORDINALITY AS f (moment, found, n)
		CROSS JOIN LATERAL ROWS FROM (jsonb_to_recordset(f.found) AS (labels jsonb, from_state text, to_state text, reason text,
			value float8, threshold float8, details jsonb)) WITH ORDINALITY
			AS s (labels, from_state, to_state, reason, value, threshold, details, m)
		ORDER BY f.n, s.m;
END $$;
COMMENT ON FUNCTION monitoring.backtest_rule(text, timestamptz, timestamptz, interval, jsonb) IS 'The transitions that a rule would have made, had it been evaluated at since, since + step, and so on until the end, with the metrics that are stored; it starts without alerts. A row without labels says that the rule was in error (to_state error, reason the error) or no longer. step: by default a minute, or the rule''s "every" if that is longer, and not more than 1,440 steps. definition as in preview_rule: to try changes of the stored rule of this name, or a rule that is not stored. Queries and other rules give what they give now, unless they look at the time. Errors: 22023 for times that are not finite or not in order, 54000 for more than 10,000 steps or 100,000 transitions, others as create_alert_rule.';

-- alerts, statistics: how often alerts fire, how fast people act, how much of it is noise; and the story of one alert.
--
-- An episode is what alert_history tells of one alert_id. The row of its end knows when it began and fired, so that a period
-- is read once; what still fires is in alert_states.

----------------------------------------------------------------------------------------------------------------------
-- One alert
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_timeline(alert_id bigint)
RETURNS TABLE (at timestamptz, kind text, actor text, details jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT t.at, t.kind, t.actor, t.details
	FROM (
		SELECT h.at, 1 AS rank, h.id, h.to_state AS kind, NULL::text AS actor,
			jsonb_strip_nulls(jsonb_build_object('from', h.from_state, 'reason', h.reason, 'value', h.value, 'op', h.op,
				'threshold', h.threshold)) AS details
		FROM monitoring.alert_history AS h
		WHERE h.alert_id = alert_timeline.alert_id
		UNION ALL
		SELECT e.at, CASE WHEN e.actor IS NULL THEN 2 ELSE 0 END, e.id, e.kind, e.actor, e.details
		FROM monitoring.alert_events AS e
		WHERE e.alert_id = alert_timeline.alert_id
		UNION ALL
		SELECT i.at, 2, 0, 'incident', NULL, i.details FROM monitoring.incident_joined(alert_timeline.alert_id) AS i) AS t
	ORDER BY t.at, t.rank, t.id
$$;
COMMENT ON FUNCTION monitoring.alert_timeline(bigint) IS 'Everything that happened to an alert, in order: its transitions (kind pending, firing, resolved, or inactive for one that did not fire), what people did (actor says who) and what the extension decided.';

-- Events know the groups of alerts that have ended, too. All alerts of a digest are one group, which says nothing about them.
CREATE FUNCTION monitoring.group_keys(alert_ids bigint[], since timestamptz) RETURNS TABLE (alert_id bigint, keys text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT e.alert_id, array_agg(DISTINCT e.details ->> 'group_key')
	FROM monitoring.entered_groups(alert_ids, since) AS e
	WHERE NOT EXISTS (
		SELECT FROM monitoring.route_settings() AS r WHERE r.name = e.details ->> 'route' AND r.digest IS NOT NULL)
	GROUP BY e.alert_id
$$;
COMMENT ON FUNCTION monitoring.group_keys(bigint[], timestamptz) IS 'Keys of the groups that alerts have come to since a time, digests left out; no row for alerts that have come to none.';

CREATE FUNCTION monitoring.correlated_alerts(alert bigint, within interval DEFAULT '15 minutes', shared text[] DEFAULT NULL)
RETURNS TABLE (alert_id bigint, rule text, severity text, labels jsonb, fired_at timestamptz, same_group boolean, shared_labels jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	self record;
	own_keys text[];
BEGIN
	SELECT h.rule_id, h.labels, coalesce(h.fired_at, h.active_at) AS at INTO self
	FROM monitoring.alert_history AS h
	WHERE h.alert_id = alert
	ORDER BY h.id DESC
	LIMIT 1;
	IF NOT FOUND THEN
		PERFORM monitoring.check_alert(alert);
	ELSIF within IS NULL OR within < '0' OR NOT isfinite(self.at + within) THEN
		RAISE EXCEPTION 'the time between correlated alerts must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	own_keys := (SELECT k.keys FROM monitoring.group_keys(ARRAY[alert], self.at) AS k);
	RETURN QUERY
	WITH near AS MATERIALIZED (
		SELECT h.alert_id, h.rule_id, h.rule_name, h.severity, h.labels, h.fired_at, greatest(h.at - self.at, self.at - h.at) AS apart
		FROM monitoring.alert_history AS h
		WHERE h.at BETWEEN self.at - within AND self.at + within AND h.to_state = 'firing' AND h.alert_id <> alert
	), judged AS (
		SELECT n.*, CASE WHEN own_keys IS NULL THEN n.rule_id = self.rule_id ELSE coalesce(g.keys && own_keys, false) END AS same_group,
			c.pairs, c.number
		FROM near AS n
		LEFT JOIN monitoring.group_keys((SELECT array_agg(m.alert_id) FROM near AS m), self.at - within) AS g ON g.alert_id = n.alert_id
		CROSS JOIN LATERAL (
			SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS pairs, count(*) AS number
			FROM jsonb_each(n.labels) AS e
			WHERE self.labels -> e.key = e.value AND (shared IS NULL OR e.key = ANY (shared))) AS c
	)
	SELECT j.alert_id, j.rule_name, j.severity, j.labels, j.fired_at, j.same_group, j.pairs
	FROM judged AS j
	WHERE j.same_group OR j.number > 0
	ORDER BY j.number DESC, j.apart, j.alert_id;
END $$;
COMMENT ON FUNCTION monitoring.correlated_alerts(bigint, interval, text[]) IS 'Alerts that fired within a time before or after an alert did and came to the same group (see notification_groups; if the alert came to none, those of its rule) or share labels with it (of those in `shared`; null: any), closest relatives first. Errors: 42704 if there is no such alert, 22023 for a negative time.';

----------------------------------------------------------------------------------------------------------------------
-- Many alerts
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_episodes(since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	flap_within interval DEFAULT '30 minutes')
RETURNS TABLE (alert_id bigint, rule text, severity text, labels jsonb, fingerprint text, active_at timestamptz,
	fired_at timestamptz, ended_at timestamptz, firing_seconds float8, acknowledged_at timestamptz, false_positive boolean,
	refired boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_period(since, until);
	IF flap_within IS NULL OR flap_within < '0' THEN
		RAISE EXCEPTION 'the time within which an alert flaps must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN QUERY
	WITH episodes AS (
		SELECT h.alert_id, h.rule_name, h.severity, h.labels, h.fingerprint, h.active_at, h.fired_at,
			CASE WHEN h.at < alert_episodes.until THEN h.at END AS ended_at
		FROM monitoring.alert_history AS h
		WHERE h.at >= alert_episodes.since AND h.from_state = 'firing' AND h.to_state = 'resolved'
			AND h.fired_at < alert_episodes.until
		UNION ALL
		SELECT s.alert_id, d.name, d.severity, monitoring.alert_labels(d, s.series_labels), s.fingerprint, s.active_at,
			s.fired_at, NULL
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		WHERE s.state = 'firing' AND s.fired_at < alert_episodes.until
	)
	SELECT e.alert_id, e.rule_name, e.severity, e.labels, e.fingerprint, e.active_at, e.fired_at, e.ended_at,
		extract(epoch FROM coalesce(e.ended_at, alert_episodes.until) - greatest(e.fired_at, alert_episodes.since))::float8,
		CASE WHEN h.first_acknowledged_at < alert_episodes.until THEN h.first_acknowledged_at END,
		coalesce(h.false_positive, false),
		coalesce(e.fired_at - lag(e.ended_at) OVER (PARTITION BY e.fingerprint ORDER BY e.fired_at, e.alert_id)
			<= alert_episodes.flap_within, false)
	FROM episodes AS e
	LEFT JOIN monitoring.alert_handling AS h ON h.alert_id = e.alert_id;
END $$;
COMMENT ON FUNCTION monitoring.alert_episodes(timestamptz, timestamptz, interval) IS 'Alerts that fired at some time of a period, one row per episode, as things were at its end. ended_at is null for those that still fired then, firing_seconds the part of the period in which it fired; refired says that it fired again within flap_within after its previous episode. Error 22023 for a period that does not end after it began.';

CREATE FUNCTION monitoring.alert_statistics(since timestamptz DEFAULT NULL, until timestamptz DEFAULT clock_timestamp(),
	by text DEFAULT 'alertname', flap_within interval DEFAULT '30 minutes')
RETURNS TABLE (name text, firings bigint, firing_seconds float8, acknowledged bigint, mtta_seconds float8,
	mtta_median_seconds float8, mtta_p90_seconds float8, resolved bigint, mttr_seconds float8, mttr_median_seconds float8,
	mttr_p90_seconds float8, noise_ratio float8, flapping_ratio float8, false_positives bigint, false_positive_ratio float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT x.name, count(*) FILTER (WHERE x.fired), sum(x.firing_seconds), count(x.mtta),
		avg(x.mtta), percentile_cont(0.5) WITHIN GROUP (ORDER BY x.mtta), percentile_cont(0.9) WITHIN GROUP (ORDER BY x.mtta),
		count(x.mttr),
		avg(x.mttr), percentile_cont(0.5) WITHIN GROUP (ORDER BY x.mttr), percentile_cont(0.9) WITHIN GROUP (ORDER BY x.mttr),
		count(*) FILTER (WHERE x.mttr IS NOT NULL AND x.mtta IS NULL)::float8 / nullif(count(x.mttr), 0),
		count(*) FILTER (WHERE x.fired AND x.refired)::float8 / nullif(count(*) FILTER (WHERE x.fired), 0),
		count(*) FILTER (WHERE x.fired AND x.false_positive),
		count(*) FILTER (WHERE x.fired AND x.false_positive)::float8 / nullif(count(*) FILTER (WHERE x.fired), 0)
	FROM (
		SELECT (e.labels || jsonb_build_object('alertname', e.rule, 'severity', e.severity)) ->> by AS name, e.firing_seconds,
			e.refired, e.false_positive, p.fired,
			CASE WHEN p.fired AND e.acknowledged_at IS NOT NULL
				-- while it was pending: at once
				THEN greatest(extract(epoch FROM e.acknowledged_at - e.fired_at), 0)::float8 END AS mtta,
			CASE WHEN p.fired THEN extract(epoch FROM e.ended_at - e.active_at)::float8 END AS mttr
		FROM monitoring.alert_episodes(coalesce(since, until - '7 days'::interval), until, flap_within) AS e
		CROSS JOIN LATERAL (SELECT e.fired_at >= coalesce(since, until - '7 days'::interval) AS fired) AS p) AS x
	GROUP BY x.name
	ORDER BY 2 DESC, 1
$$;
COMMENT ON FUNCTION monitoring.alert_statistics(timestamptz, timestamptz, text, interval) IS 'Figures about the alerts of a period (default: the last seven days), one row per value of a label: alertname (one row per rule), severity, or any other, such as team. firings: alerts that fired in the period; all else but firing_seconds is about those. firing_seconds: time in which they fired within the period, of all instances together. mtta: from firing to acknowledged, where it was (acknowledged says how often); mttr: from the beginning of the breach to the end of the alert, where it has ended (resolved). Each as mean, median and 90th percentile, in seconds. noise_ratio: share of those that ended which nobody acknowledged. flapping_ratio: share of firings that came within flap_within after the same alert''s previous end. false_positive_ratio: share marked as such. Ratios are null where there is nothing to divide by. Error 22023 for a period that does not end after it began.';

CREATE VIEW monitoring.alert_counts AS
	SELECT v.severity, pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'pending') AS pending,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing') AS firing,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing' AND a.acknowledged_at IS NOT NULL) AS acknowledged,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing' AND a.suppressed IS NOT NULL) AS suppressed,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'resolved') AS resolved
	FROM (VALUES (1, 'critical'), (2, 'high'), (3, 'medium'), (4, 'low'), (5, 'info')) AS v (rank, severity)
	LEFT JOIN monitoring.alerts AS a ON a.severity OPERATOR(pg_catalog.=) v.severity
	GROUP BY v.rank, v.severity
	ORDER BY v.rank;
COMMENT ON VIEW monitoring.alert_counts IS 'How many alerts there are now by severity and state.';
COMMENT ON COLUMN monitoring.alert_counts.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.alert_counts.pending IS 'Alerts that are pending.';
COMMENT ON COLUMN monitoring.alert_counts.firing IS 'Alerts that fire.';
COMMENT ON COLUMN monitoring.alert_counts.acknowledged IS 'Firing ones that somebody has acknowledged.';
COMMENT ON COLUMN monitoring.alert_counts.suppressed IS 'Firing ones of which nobody is notified now, acknowledged ones among them.';
COMMENT ON COLUMN monitoring.alert_counts.resolved IS 'Alerts that were resolved within the last day.';

CREATE FUNCTION monitoring.flapping_alerts(since timestamptz DEFAULT NULL, until timestamptz DEFAULT clock_timestamp(),
	flap_within interval DEFAULT '30 minutes')
RETURNS TABLE (rule text, labels jsonb, fingerprint text, firings bigint, refirings bigint, flapping_ratio float8, last_fired_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT (array_agg(e.rule))[1], (array_agg(e.labels ORDER BY e.fired_at DESC))[1], e.fingerprint, count(*),
		count(*) FILTER (WHERE e.refired), count(*) FILTER (WHERE e.refired)::float8 / count(*), max(e.fired_at)
	FROM monitoring.alert_episodes(coalesce(since, until - '7 days'::interval), until, flap_within) AS e
	GROUP BY e.fingerprint
	HAVING bool_or(e.refired)
	ORDER BY 5 DESC, 7 DESC
$$;
COMMENT ON FUNCTION monitoring.flapping_alerts(timestamptz, timestamptz, interval) IS 'Alerts that fired again within flap_within after they had ended, in a period (default: the last seven days), those that did so most often first. A larger keep_firing_for or a resolve_threshold calms them. Error 22023 for a period that does not end after it began.';

----------------------------------------------------------------------------------------------------------------------
-- Forgetting
----------------------------------------------------------------------------------------------------------------------

-- A little at a time: an hour later there is more.
CREATE FUNCTION monitoring.forget_alerts(at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH history AS (
		SELECT forget_alerts.at - p.keep - p.partition_step AS since
		FROM monitoring.retention_policies AS p
		WHERE p.relation = 'alert_history' AND p.enabled
	), silences AS (
		DELETE FROM monitoring.silence_defs AS s
		WHERE s.id IN (
			SELECT o.id FROM monitoring.silence_defs AS o WHERE o.ends_at < (SELECT h.since FROM history AS h) LIMIT 10000)
	), handling AS (
		DELETE FROM monitoring.alert_handling AS a
		WHERE a.alert_id IN (
			SELECT o.alert_id
			FROM monitoring.alert_handling AS o
			WHERE o.updated_at < (SELECT h.since FROM history AS h)
				AND NOT EXISTS (SELECT FROM monitoring.alert_states AS s WHERE s.alert_id = o.alert_id)
			LIMIT 10000)
		RETURNING a.alert_id, a.first_acknowledged_at
	), alerts AS (
		-- what was done about them goes first
		DELETE FROM monitoring.incident_alerts AS m
		WHERE m.alert_id IN (
			SELECT o.alert_id
			FROM monitoring.incident_defs AS i
			JOIN monitoring.incident_alerts AS o ON o.incident_id = i.id
			WHERE i.resolved_at < (SELECT h.since FROM history AS h) AND o.ended_at < (SELECT h.since FROM history AS h)
				AND NOT EXISTS (SELECT FROM monitoring.alert_handling AS a WHERE a.alert_id = o.alert_id)
			LIMIT 10000)
		RETURNING m.incident_id
	)
	-- incidents are kept, and with them how many alerts they had and when somebody first acknowledged one
	UPDATE monitoring.incident_defs AS i
	SET acknowledged_at = least(i.acknowledged_at, f.acknowledged_at), forgotten_alerts = i.forgotten_alerts + f.alerts
	FROM (
		SELECT k.incident_id, min(k.acknowledged_at) AS acknowledged_at, count(*) FILTER (WHERE k.alert) AS alerts
		FROM (
			SELECT m.incident_id, d.first_acknowledged_at AS acknowledged_at, false AS alert
			FROM handling AS d
			JOIN monitoring.incident_alerts AS m ON m.alert_id = d.alert_id
			UNION ALL
			SELECT a.incident_id, NULL, true FROM alerts AS a
		) AS k
		GROUP BY k.incident_id
	) AS f
	WHERE i.id = f.incident_id AND (f.acknowledged_at IS NOT NULL OR f.alerts > 0)
$$;
COMMENT ON FUNCTION monitoring.forget_alerts(timestamptz) IS 'The periodic job that deletes silences, what was done about alerts, and the alerts of resolved incidents, once alert_history has forgotten them. Incidents stay.';

INSERT INTO monitoring.jobs (name, function, every, priority) VALUES ('forget_alerts', 'monitoring.forget_alerts', '1 hour', 200);
-- alerts, routing: the tree of routes, as Alertmanager has it, and which of them an alert takes. groups.sql and
-- dispatch.sql, which follow, group what the routes let through and decide when to send.
--
-- A route that leaves a setting null takes its parent's. Nothing here is kept ready: the tree is a few hundred rows at most,
-- and is read when an alert fires or a group is due.

----------------------------------------------------------------------------------------------------------------------
-- Routes
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.routes_id_seq;
COMMENT ON SEQUENCE monitoring.routes_id_seq IS 'Ids of routes.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routes_id_seq', '');

-- No foreign key to the parent: a dump brings the rows in any order. Rows that hang on nothing are never reached.
CREATE TABLE monitoring.routes (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.routes_id_seq'),
	parent_id bigint,
	position integer NOT NULL,
	name text NOT NULL UNIQUE,
	matchers jsonb NOT NULL DEFAULT '{}',
	receivers text[],
	group_by text[],
	group_wait interval CHECK (group_wait >= '0'),
	group_interval interval CHECK (group_interval > '0'),
	repeat_interval interval CHECK (repeat_interval > '0'),
	continue_matching boolean NOT NULL DEFAULT false,
	mute_times text[] NOT NULL DEFAULT '{}',
	active_times text[] NOT NULL DEFAULT '{}',
	escalation_policy text,
	digest interval CHECK (digest >= '0'),
	enabled boolean NOT NULL DEFAULT true,
	builtin boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX routes_root ON monitoring.routes ((parent_id IS NULL)) WHERE parent_id IS NULL;
COMMENT ON TABLE monitoring.routes IS 'Routes of alerts as stored. Use create_route, update_route, move_route and drop_route to change them, and the view route_tree to read them.';
COMMENT ON COLUMN monitoring.routes.id IS 'Number of the route.';
COMMENT ON COLUMN monitoring.routes.parent_id IS 'The route above it; null for the root.';
COMMENT ON COLUMN monitoring.routes.position IS 'Place among the routes with the same parent, which are tried in this order.';
COMMENT ON COLUMN monitoring.routes.name IS 'Name of the route.';
COMMENT ON COLUMN monitoring.routes.matchers IS 'What the labels of an alert must be to take the route, as for labels_match; alertname and severity are labels too.';
COMMENT ON COLUMN monitoring.routes.receivers IS 'Names of the receivers; an asterisk stands for every enabled one. Empty: nobody. Null: the parent''s, for the root every enabled one.';
COMMENT ON COLUMN monitoring.routes.group_by IS 'Labels by which alerts are grouped into one notification; {...} stands for all labels. Empty: one group. Null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.group_wait IS 'How long a new group waits for further alerts before it is sent; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.group_interval IS 'Least time between two notifications of a group; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.repeat_interval IS 'When a group that has not changed is sent again; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.continue_matching IS 'True: an alert that takes this route is offered to the following ones with the same parent too.';
COMMENT ON COLUMN monitoring.routes.mute_times IS 'Time intervals (time_intervals.name) in which nothing is sent. Not inherited.';
COMMENT ON COLUMN monitoring.routes.active_times IS 'Time intervals (time_intervals.name) outside which nothing is sent. Empty: always active. Not inherited.';
COMMENT ON COLUMN monitoring.routes.escalation_policy IS 'Escalation policy of its alerts; an empty text: none; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.digest IS 'Instead of groups, one message every so often with what has fired and ended; 0: no digest; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.enabled IS 'False: this route and those below it are passed over.';
COMMENT ON COLUMN monitoring.routes.builtin IS 'True for the routes that CREATE EXTENSION made; a dump that is restored takes their place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routes', '');

INSERT INTO monitoring.routes (parent_id, position, name, matchers, receivers, group_by, group_wait, group_interval,
	repeat_interval, escalation_policy, digest, builtin)
VALUES (NULL, 1, 'root', '{}', NULL, '{alertname}', '30 seconds', '5 minutes', '4 hours', NULL, NULL, true);
INSERT INTO monitoring.routes (parent_id, position, name, matchers, receivers, group_wait, group_interval, escalation_policy,
	digest, builtin)
SELECT r.id, s.position, s.severity, jsonb_build_object('severity', s.severity), s.receivers, s.group_wait, s.group_interval,
	s.escalation_policy, s.digest, true
FROM monitoring.routes AS r
CROSS JOIN (VALUES
	(1, 'critical', NULL::text[], interval '0', interval '1 minute', 'critical', NULL::interval),
	(2, 'high', '{team-lead}', '5 minutes', NULL, NULL, NULL),
	(3, 'medium', NULL, '15 minutes', NULL, NULL, NULL),
	(4, 'low', NULL, NULL, NULL, NULL, '1 hour'),
	(5, 'info', NULL, NULL, NULL, NULL, '1 day')
) AS s (position, severity, receivers, group_wait, group_interval, escalation_policy, digest)
ORDER BY s.position;

CREATE TRIGGER restore BEFORE INSERT ON monitoring.routes
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.routes IS 'When a dump is restored its routes replace those of the extension.';

CREATE FUNCTION monitoring.matchers_text(matchers jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT '{' || coalesce(string_agg(
		CASE WHEN o.key = 'exists' THEN m.key || CASE WHEN o.value::boolean THEN ' exists' ELSE ' is missing' END
			ELSE m.key || o.key || to_json(o.value)::text END, ',' ORDER BY m.key COLLATE "C", o.key COLLATE "C"), '') || '}'
	FROM jsonb_each(matchers) AS m
	CROSS JOIN LATERAL jsonb_each_text(CASE jsonb_typeof(m.value) WHEN 'object' THEN m.value
		ELSE jsonb_build_object('=', m.value) END) AS o
$$;
COMMENT ON FUNCTION monitoring.matchers_text(jsonb) IS 'Conditions on labels (labels_match) for people to read, as in {route="/cart",status!~"2.."}.';

CREATE FUNCTION monitoring.route_settings()
RETURNS TABLE (id bigint, name text, parent_id bigint, depth integer, place bigint[], enabled boolean, matchers jsonb,
	continue_matching boolean, receivers text[], group_by text[], group_wait interval, group_interval interval,
	repeat_interval interval, digest interval, escalation_policy text, mute_times text[], active_times text[], route_key text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE tree AS (
		SELECT r.id, r.name, r.parent_id, 0 AS depth, '{}'::bigint[] AS place, r.enabled, r.matchers, r.continue_matching,
			coalesce(r.receivers, '{*}') AS receivers, coalesce(r.group_by, '{}') AS group_by,
			coalesce(r.group_wait, '30 seconds') AS group_wait, coalesce(r.group_interval, '5 minutes') AS group_interval,
			coalesce(r.repeat_interval, '4 hours') AS repeat_interval, coalesce(r.digest, '0') AS digest,
			coalesce(r.escalation_policy, '') AS escalation_policy, r.mute_times, r.active_times, '{}' AS route_key
		FROM monitoring.routes AS r
		WHERE r.parent_id IS NULL
		UNION ALL
		SELECT r.id, r.name, r.parent_id, t.depth + 1, t.place || ARRAY[r.position, r.id], t.enabled AND r.enabled, r.matchers,
			r.continue_matching, coalesce(r.receivers, t.receivers), coalesce(r.group_by, t.group_by),
			coalesce(r.group_wait, t.group_wait), coalesce(r.group_interval, t.group_interval),
			coalesce(r.repeat_interval, t.repeat_interval), coalesce(r.digest, t.digest),
			coalesce(r.escalation_policy, t.escalation_policy), r.mute_times, r.active_times,
			t.route_key || '/' || monitoring.matchers_text(r.matchers)
		FROM tree AS t
		JOIN monitoring.routes AS r ON r.parent_id = t.id
	)
	SELECT t.id, t.name, t.parent_id, t.depth, t.place, t.enabled, t.matchers, t.continue_matching, t.receivers, t.group_by,
		t.group_wait, t.group_interval, t.repeat_interval, nullif(t.digest, '0'), nullif(t.escalation_policy, ''), t.mute_times,
		t.active_times, t.route_key
	FROM tree AS t
$$;
COMMENT ON FUNCTION monitoring.route_settings() IS 'All routes with the settings that are in force, inherited ones included. place orders them as alerts try them.';

CREATE VIEW monitoring.route_tree AS
	SELECT pg_catalog.repeat('    ', s.depth) OPERATOR(pg_catalog.||) s.name AS route, monitoring.matchers_text(s.matchers) AS matchers,
		s.receivers, s.group_by, s.group_wait, s.group_interval, s.repeat_interval, s.digest, s.escalation_policy, s.mute_times,
		s.active_times, s.continue_matching, s.enabled, s.name, s.depth, s.id, s.parent_id
	FROM monitoring.route_settings() AS s
	ORDER BY s.place;
COMMENT ON VIEW monitoring.route_tree IS 'The tree of routes in the order in which alerts try them, with the settings that are in force, inherited ones included.';
COMMENT ON COLUMN monitoring.route_tree.route IS 'Name of the route, set in by its depth.';
COMMENT ON COLUMN monitoring.route_tree.matchers IS 'What the labels of an alert must be.';
COMMENT ON COLUMN monitoring.route_tree.receivers IS 'Who is notified; an asterisk stands for every enabled receiver. When none of those named exists, every enabled one is.';
COMMENT ON COLUMN monitoring.route_tree.group_by IS 'Labels by which alerts are grouped.';
COMMENT ON COLUMN monitoring.route_tree.group_wait IS 'How long a new group waits.';
COMMENT ON COLUMN monitoring.route_tree.group_interval IS 'Least time between two notifications of a group.';
COMMENT ON COLUMN monitoring.route_tree.repeat_interval IS 'When a group that has not changed is sent again.';
COMMENT ON COLUMN monitoring.route_tree.digest IS 'Time between two digests; null: no digest.';
COMMENT ON COLUMN monitoring.route_tree.escalation_policy IS 'Escalation policy; null: none.';
COMMENT ON COLUMN monitoring.route_tree.mute_times IS 'Time intervals in which nothing is sent.';
COMMENT ON COLUMN monitoring.route_tree.active_times IS 'Time intervals outside which nothing is sent.';
COMMENT ON COLUMN monitoring.route_tree.continue_matching IS 'Whether the following routes are tried too.';
COMMENT ON COLUMN monitoring.route_tree.enabled IS 'Whether the route and all above it are enabled.';
COMMENT ON COLUMN monitoring.route_tree.name IS 'Name of the route.';
COMMENT ON COLUMN monitoring.route_tree.depth IS 'Number of routes above it.';
COMMENT ON COLUMN monitoring.route_tree.id IS 'Number of the route.';
COMMENT ON COLUMN monitoring.route_tree.parent_id IS 'Number of the route above it; null for the root.';

----------------------------------------------------------------------------------------------------------------------
-- Creating and changing routes
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_route_matchers(matchers jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	PERFORM monitoring.check_matchers(matchers, 'a route''s matchers');
	SELECT min(m.key) INTO bad
	FROM jsonb_each(matchers) AS m
	WHERE jsonb_typeof(m.value) IN ('array', 'null') OR m.value = '{}' OR m.key = '' OR m.key ~ '[[:cntrl:]]';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'matcher "%" of a route is not valid', regexp_replace(left(bad, 100), '[[:cntrl:]]', '?', 'g')
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A matcher is a value, or an object of conditions such as {"!=": "web"}; operators are =, !=, =~, !~ and exists.';
	END IF;
	-- As in Alertmanager, a label that is missing is an empty one.
	RETURN (SELECT coalesce(jsonb_object_agg(m.key, CASE WHEN jsonb_typeof(m.value) = 'object' THEN m.value
			WHEN m.value = '""' THEN '{"=": ""}' ELSE to_jsonb(m.value #>> '{}') END), '{}')
		FROM jsonb_each(matchers) AS m);
END $$;
COMMENT ON FUNCTION monitoring.check_route_matchers(jsonb) IS 'Matchers in the form in which a route stores them. Errors: 22023 for what is not valid, 2201B or 54000 for a bad or too complex regular expression.';

CREATE FUNCTION monitoring.check_route_times(route monitoring.routes) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	SELECT min(d.name) INTO bad
	FROM (VALUES ('group_wait', route.group_wait, interval '0'), ('group_interval', route.group_interval, '1 millisecond'),
		('repeat_interval', route.repeat_interval, '1 millisecond'), ('digest', nullif(route.digest, '0'), '1 minute')) AS d (name, duration, least)
	WHERE d.duration NOT BETWEEN d.least AND interval '400 days' OR extract(month FROM d.duration) <> 0 OR extract(year FROM d.duration) <> 0;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'a route''s % is out of range', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Durations are at most 400 days, without months; group_interval and repeat_interval are longer than zero, a digest''s is at least a minute, and 0 for no digest.';
	END IF;
	SELECT min(n) INTO bad
	FROM unnest(route.mute_times || route.active_times) AS n
	WHERE NOT EXISTS (SELECT FROM monitoring.time_intervals AS t WHERE t.name = n);
	IF bad IS NOT NULL OR array_position(route.mute_times || route.active_times, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'time interval "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.set_time_interval first.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_route_times(monitoring.routes) IS 'Raises 22023 for durations that are out of range, 42704 for a time interval that does not exist.';

CREATE FUNCTION monitoring.check_route(route monitoring.routes, old_receivers text[] DEFAULT '{}') RETURNS monitoring.routes
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	IF route.name IS NULL OR route.name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a route''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	route.matchers := monitoring.check_route_matchers(route.matchers);
	route.mute_times := coalesce(route.mute_times, '{}');
	route.active_times := coalesce(route.active_times, '{}');
	route.continue_matching := coalesce(route.continue_matching, false);
	route.enabled := coalesce(route.enabled, true);
	PERFORM monitoring.check_route_times(route);

	IF array_ndims(route.group_by) > 1 OR cardinality(route.group_by) > 64 OR ('...' = ANY (route.group_by) AND cardinality(route.group_by) > 1)
		OR EXISTS (SELECT FROM unnest(route.group_by) AS l WHERE l IS NULL OR l = '' OR l ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'a route''s group_by must be a list of at most 64 names of labels, or {...}' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	route.group_by := CASE WHEN route.group_by IS NOT NULL THEN ARRAY(SELECT DISTINCT l FROM unnest(route.group_by) AS l ORDER BY l) END;

	SELECT min(n) INTO bad
	FROM unnest(route.receivers) AS n
	WHERE n <> ALL (coalesce(old_receivers, '{}') || '*'::text) AND NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.name = n);
	IF bad IS NOT NULL OR array_position(route.receivers, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.create_receiver first.';
	ELSIF route.escalation_policy <> '' AND NOT EXISTS (
		SELECT FROM monitoring.escalation_policies AS p WHERE p.name = route.escalation_policy) THEN
		RAISE EXCEPTION 'escalation policy "%" does not exist', route.escalation_policy
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.set_escalation_policy first; an empty text is none.';
	END IF;

	IF route.parent_id IS NULL AND (route.matchers <> '{}' OR route.continue_matching OR NOT route.enabled
		OR route.mute_times <> '{}' OR route.active_times <> '{}') THEN
		RAISE EXCEPTION 'the root of the routes takes every alert at any time' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give matchers and times to a route below it.';
	END IF;
	RETURN route;
END $$;
COMMENT ON FUNCTION monitoring.check_route(monitoring.routes, text[]) IS 'A route in the form in which it is stored, after all checks; receivers that it named before need not exist. Errors: 22023 for anything that is not valid, 42704 for a receiver, a time interval or an escalation policy that does not exist, 2201B or 54000 for a bad or too complex regular expression.';

-- Whoever changes the tree changes it alone: positions and parents are checked against all of it.
CREATE FUNCTION monitoring.lock_route(name text) RETURNS monitoring.routes
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route monitoring.routes;
BEGIN
	LOCK TABLE monitoring.routes IN SHARE ROW EXCLUSIVE MODE;
	SELECT r.* INTO route FROM monitoring.routes AS r WHERE r.name = lock_route.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'route "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.route_tree.';
	END IF;
	RETURN route;
END $$;
COMMENT ON FUNCTION monitoring.lock_route(text) IS 'The route of this name, with the tree locked for an edit. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.place_route(route_id bigint, parent_id bigint, place integer) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- the route at its place among the others, all numbered anew
	UPDATE monitoring.routes AS r
	SET position = n.position, parent_id = place_route.parent_id
	FROM (
		SELECT o.id, row_number() OVER (ORDER BY o.place, o.id = place_route.route_id DESC) AS position
		FROM (SELECT s.id, row_number() OVER (ORDER BY s.position, s.id) AS place
			FROM monitoring.routes AS s
			WHERE s.parent_id = place_route.parent_id AND s.id <> place_route.route_id
			UNION ALL
			SELECT place_route.route_id, coalesce(place_route.place, 2147483647)) AS o
	) AS n
	WHERE r.id = n.id AND (r.position, r.parent_id) IS DISTINCT FROM (n.position, place_route.parent_id)
$$;
COMMENT ON FUNCTION monitoring.place_route(bigint, bigint, integer) IS 'Put a route below a parent, at this place from 1 on among the parent''s routes; null: the last.';

CREATE FUNCTION monitoring.create_route(name text, matchers jsonb DEFAULT '{}', parent text DEFAULT NULL, receivers text[] DEFAULT NULL,
	group_by text[] DEFAULT NULL, group_wait interval DEFAULT NULL, group_interval interval DEFAULT NULL,
	repeat_interval interval DEFAULT NULL, continue_matching boolean DEFAULT false, mute_times text[] DEFAULT '{}',
	active_times text[] DEFAULT '{}', escalation_policy text DEFAULT NULL, digest interval DEFAULT NULL, place integer DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	parent_route monitoring.routes := monitoring.lock_route(coalesce(parent, (SELECT r.name FROM monitoring.routes AS r WHERE r.parent_id IS NULL)));
	route monitoring.routes;
BEGIN
	route.name := create_route.name;
	route.parent_id := parent_route.id;
	route.matchers := create_route.matchers;
	route.receivers := create_route.receivers;
	route.group_by := create_route.group_by;
	route.group_wait := create_route.group_wait;
	route.group_interval := create_route.group_interval;
	route.repeat_interval := create_route.repeat_interval;
	route.continue_matching := create_route.continue_matching;
	route.mute_times := create_route.mute_times;
	route.active_times := create_route.active_times;
	route.escalation_policy := create_route.escalation_policy;
	route.digest := create_route.digest;
	route := monitoring.check_route(route);
	IF array_length((SELECT s.place FROM monitoring.route_settings() AS s WHERE s.id = parent_route.id), 1) >= 2 * 15 THEN
		RAISE EXCEPTION 'routes are at most 15 deep' USING ERRCODE = 'program_limit_exceeded';
	END IF;

	route.id := nextval('monitoring.routes_id_seq');
	route.position := 0;
	route.builtin := false;
	INSERT INTO monitoring.routes SELECT route.* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'route "%" already exists', route.name
			USING ERRCODE = 'duplicate_object', HINT = 'Change it with monitoring.update_route.';
	END IF;
	PERFORM monitoring.place_route(route.id, parent_route.id, create_route.place);
	PERFORM monitoring.request_routing('reroute');
	RETURN route.id;
END $$;
COMMENT ON FUNCTION monitoring.create_route(text, jsonb, text, text[], text[], interval, interval, interval, boolean, text[], text[], text, interval, integer) IS 'Create a route below another (default: the root) and return its id. An alert takes a route when its labels match (labels_match; alertname and severity are labels too): the routes below are tried in order, the first that matches takes the alert, and the following ones too if it has continue_matching; when none below matches, the alert is the route''s own. place is its place among its neighbours, from 1; null: the last. What is null is taken from the parent. Alerts that are firing are routed anew. Errors: 22023 for anything that is not valid, 42704 for an unknown parent, receiver, time interval or escalation policy, 42710 if the name is taken, 54000 beyond 15 levels.';

CREATE FUNCTION monitoring.update_route(name text, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changeable CONSTANT text[] := '{name,matchers,receivers,group_by,group_wait,group_interval,repeat_interval,continue_matching,mute_times,active_times,escalation_policy,digest,enabled}';
	old_route monitoring.routes := monitoring.lock_route(name);
	route monitoring.routes;
	bad text;
BEGIN
	IF changes IS NULL OR jsonb_typeof(changes) <> 'object' THEN
		RAISE EXCEPTION 'changes must be a JSON object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give the parameters of create_route that change, as in {"group_wait": "1 minute", "receivers": ["ops"]}.';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(changes) AS k WHERE k <> ALL (changeable);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION '"%" is nothing that can change in a route', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'These can: ' || array_to_string(changeable, ', ') || '. Use monitoring.move_route for its place.';
	END IF;
	route := monitoring.check_route(jsonb_populate_record(old_route, changes), old_route.receivers);
	IF route.name <> old_route.name AND EXISTS (SELECT FROM monitoring.routes AS r WHERE r.name = route.name) THEN
		RAISE EXCEPTION 'route "%" already exists', route.name USING ERRCODE = 'duplicate_object';
	END IF;
	UPDATE monitoring.routes AS r
	SET (name, matchers, receivers, group_by, group_wait, group_interval, repeat_interval, continue_matching, mute_times,
		active_times, escalation_policy, digest, enabled)
		= (SELECT route.name, route.matchers, route.receivers, route.group_by, route.group_wait, route.group_interval,
			route.repeat_interval, route.continue_matching, route.mute_times, route.active_times, route.escalation_policy,
			route.digest, route.enabled)
	WHERE r.id = route.id;
	PERFORM monitoring.request_routing('reroute');
END $$;
COMMENT ON FUNCTION monitoring.update_route(text, jsonb) IS 'Change a route: changes is a JSON object of parameters of create_route (all but parent and place) and "enabled", such as {"group_wait": "1 minute", "receivers": null}; what it lacks stays. A route that is disabled is passed over with all below it. Alerts that are firing are routed anew at the next evaluation. Errors: 42704 if there is no such route, 42710 if the new name is taken, otherwise as create_route.';

CREATE FUNCTION monitoring.move_route(name text, parent text DEFAULT NULL, place integer DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route monitoring.routes := monitoring.lock_route(name);
	parent_route monitoring.routes;
	levels integer;
BEGIN
	IF route.parent_id IS NULL THEN
		RAISE EXCEPTION 'the root of the routes cannot be moved' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	parent_route := monitoring.lock_route(coalesce(parent, (SELECT r.name FROM monitoring.routes AS r WHERE r.id = route.parent_id)));

	WITH RECURSIVE below AS (
		SELECT route.id AS id, 1 AS levels
		UNION ALL
		SELECT r.id, b.levels + 1 FROM below AS b JOIN monitoring.routes AS r ON r.parent_id = b.id
	)
	SELECT CASE WHEN bool_or(b.id = parent_route.id) THEN NULL ELSE max(b.levels) END INTO levels FROM below AS b;
	IF levels IS NULL THEN
		RAISE EXCEPTION 'route "%" cannot be moved below itself', route.name USING ERRCODE = 'invalid_parameter_value';
	ELSIF levels + (SELECT s.depth FROM monitoring.route_settings() AS s WHERE s.id = parent_route.id) > 15 THEN
		RAISE EXCEPTION 'routes are at most 15 deep' USING ERRCODE = 'program_limit_exceeded';
	END IF;
	PERFORM monitoring.place_route(route.id, parent_route.id, move_route.place);
	PERFORM monitoring.request_routing('reroute');
END $$;
COMMENT ON FUNCTION monitoring.move_route(text, text, integer) IS 'Put a route, with all below it, below another parent (null: the same) and at a place among its routes, from 1 on (null: the last). Errors: 42704 for an unknown route, 22023 for the root and for a parent below the route itself, 54000 beyond 15 levels.';

CREATE FUNCTION monitoring.drop_route(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route monitoring.routes := monitoring.lock_route(name);
BEGIN
	IF route.parent_id IS NULL THEN
		RAISE EXCEPTION 'the root of the routes cannot be dropped' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Change it with monitoring.update_route.';
	ELSIF EXISTS (SELECT FROM monitoring.routes AS r WHERE r.parent_id = route.id) THEN
		RAISE EXCEPTION 'there are routes below route "%"', route.name
			USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Drop or move them first, or disable the route.';
	END IF;
	DELETE FROM monitoring.routes AS r WHERE r.id = route.id;
	PERFORM monitoring.request_routing('reroute');
END $$;
COMMENT ON FUNCTION monitoring.drop_route(text) IS 'Drop a route without routes below it. Alerts that are firing are routed anew; whoever was told of them through it is still told when they end. Errors: 42704 if there is no such route, 22023 for the root, 2BP01 while there are routes below it.';

----------------------------------------------------------------------------------------------------------------------
-- Which routes an alert takes
----------------------------------------------------------------------------------------------------------------------

-- Set-based down the levels of the tree. Two things keep it from comparing every alert with every route: alerts that agree in
-- all labels that any route asks for are one, and a route that asks for a label's value is found by that pair.
CREATE FUNCTION monitoring.match_routes(label_sets jsonb[]) RETURNS TABLE (n bigint, route_id bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	RETURN QUERY
	WITH RECURSIVE asked AS MATERIALIZED (
		SELECT coalesce(array_agg(DISTINCT k.label), '{}') AS names
		FROM monitoring.routes AS r CROSS JOIN LATERAL jsonb_object_keys(r.matchers) AS k (label) WHERE r.enabled
	), alike AS MATERIALIZED (
		SELECT row_number() OVER () AS alike, p.places,
			(SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') FROM jsonb_each_text(p.labels) AS e WHERE e.value IS NOT NULL) AS labels
		FROM (
			SELECT s.labels, array_agg(s.n) AS places
			FROM (
				SELECT u.n, monitoring.pick_labels(coalesce(u.labels, '{}'), (SELECT a.names FROM asked AS a)) AS labels
				FROM unnest(label_sets) WITH ORDINALITY AS u (labels, n)) AS s
			GROUP BY s.labels) AS p
	), children AS MATERIALIZED (
		SELECT r.id, r.parent_id, r.position, r.continue_matching, r.matchers, coalesce(e.key, '') AS label, coalesce(e.value, '') AS value
		FROM monitoring.routes AS r
		LEFT JOIN LATERAL (
			SELECT m.key, m.value #>> '{}' AS value FROM jsonb_each(r.matchers) AS m
			WHERE jsonb_typeof(m.value) = 'string' ORDER BY m.key LIMIT 1) AS e ON true
		WHERE r.enabled AND r.parent_id IS NOT NULL
	), walk AS (
		SELECT a.alike, a.labels, r.id AS route_id, NULL::bigint AS parent_id
		FROM alike AS a CROSS JOIN monitoring.routes AS r
		WHERE r.parent_id IS NULL
		UNION ALL
		SELECT t.alike, t.labels, t.id, t.parent_id
		FROM (
			SELECT w.alike, w.labels, c.id, c.parent_id,
				count(*) FILTER (WHERE NOT c.continue_matching) OVER (PARTITION BY w.alike, c.parent_id
					ORDER BY c.position, c.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS taken
			-- OFFSET: the pairs first, then the routes that ask for them
			FROM (SELECT h.alike, h.labels, h.route_id, p.key, p.value
				FROM walk AS h
				CROSS JOIN LATERAL (SELECT e.key, e.value FROM jsonb_each_text(h.labels) AS e UNION ALL SELECT '', '') AS p
				OFFSET 0) AS w
			JOIN children AS c ON c.parent_id = w.route_id AND c.label = w.key AND c.value = w.value
			WHERE monitoring.labels_match(w.labels, c.matchers)) AS t
		WHERE t.taken = 0
	)
	SELECT unnest(a.places), w.route_id
	FROM walk AS w
	JOIN alike AS a ON a.alike = w.alike
	WHERE NOT EXISTS (SELECT FROM walk AS d WHERE d.alike = w.alike AND d.parent_id = w.route_id);
END $$;
COMMENT ON FUNCTION monitoring.match_routes(jsonb[]) IS 'The routes that alerts with these labels take: one row per place n in the array and route.';

CREATE FUNCTION monitoring.routing_labels() RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN bool_or('...' = ANY (s.group_by)) IS NOT TRUE THEN
		ARRAY(SELECT jsonb_object_keys(r.matchers) FROM monitoring.routes AS r WHERE r.enabled UNION SELECT unnest(r.group_by) FROM monitoring.routes AS r) END
	FROM monitoring.route_settings() AS s
$$;
COMMENT ON FUNCTION monitoring.routing_labels() IS 'Names of the labels that decide which routes an alert takes and into which of their groups it comes; null: all do.';

CREATE FUNCTION monitoring.labels_text(labels jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT '{' || coalesce(string_agg(l.key || '=' || to_json(l.value)::text, ', ' ORDER BY l.key COLLATE "C"), '') || '}'
	FROM jsonb_each_text(labels) AS l
$$;
COMMENT ON FUNCTION monitoring.labels_text(jsonb) IS 'Labels as Alertmanager writes them, as in {alertname="slow", route="/cart"}.';

CREATE FUNCTION monitoring.receivers_told(names text[], strict boolean) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(r.name ORDER BY r.name), '{}')
	FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.takes_alerts
	WHERE r.enabled AND (r.name = ANY (names) OR '*' = ANY (names)
		OR NOT strict AND names <> '{}' AND NOT EXISTS (SELECT FROM monitoring.receiver_defs AS o WHERE o.name = ANY (names)))
$$;
COMMENT ON FUNCTION monitoring.receivers_told(text[], boolean) IS 'The enabled receivers among those named that take alerts; an asterisk stands for all. When none of those named exists, all are, unless strict.';

CREATE FUNCTION monitoring.muted_by(mute_times text[], active_times text[], at timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN bool_or(m.matches AND m.name = ANY (mute_times)) THEN 'mute_time'
		WHEN NOT bool_or(coalesce(m.matches, true)) FILTER (WHERE m.name = ANY (active_times)) THEN 'active_time' END
	FROM (SELECT t.name, monitoring.time_matches(t.spec, at, NULL) AS matches
		FROM monitoring.time_intervals AS t
		WHERE t.name = ANY (mute_times || active_times)) AS m
$$;
COMMENT ON FUNCTION monitoring.muted_by(text[], text[], timestamptz) IS 'Why a route with these times sends nothing at that time: mute_time or active_time; null: it sends. Time intervals that do not exist are passed over, and those that cannot be read mute nothing.';

CREATE FUNCTION monitoring.test_route(labels jsonb, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (route text, verdict text, why text, receivers text[], group_key text, group_wait interval, group_interval interval,
	repeat_interval interval, digest interval, escalation_policy text, muted_by text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	WITH tree AS MATERIALIZED (
		SELECT s.*, p.route_id IS NOT NULL AS taken, p.group_key, monitoring.labels_match(test_route.labels, s.matchers) AS fits
		FROM monitoring.route_settings() AS s
		LEFT JOIN monitoring.alert_places(ARRAY[NULL::bigint], ARRAY[test_route.labels]) AS p ON p.route_id = s.id
	), judged AS (
		SELECT t.*, CASE
				WHEN t.taken THEN 'taken'
				WHEN EXISTS (SELECT FROM tree AS b WHERE b.taken AND b.place[:cardinality(t.place)] = t.place) THEN 'passed on'
				WHEN NOT t.enabled THEN 'disabled'
				WHEN t.fits THEN 'not reached'
				ELSE 'no match' END AS verdict
		FROM tree AS t
	)
	SELECT repeat('    ', j.depth) || j.name, j.verdict,
		CASE j.verdict
			WHEN 'taken' THEN monitoring.matchers_text(j.matchers) || ' fits' ||
				CASE WHEN EXISTS (SELECT FROM tree AS c WHERE c.parent_id = j.id) THEN ' and no route below does' ELSE '' END
			WHEN 'passed on' THEN monitoring.matchers_text(j.matchers) || ' fits and a route below takes it'
			WHEN 'not reached' THEN 'a route before it takes the alert'
			WHEN 'no match' THEN (
				SELECT string_agg(m.key || coalesce(' is ' || to_json(test_route.labels ->> m.key)::text, ' is missing'), ', ' ORDER BY m.key)
				FROM jsonb_each(j.matchers) AS m
				WHERE NOT monitoring.labels_match(test_route.labels, jsonb_build_object(m.key, m.value))) END,
		CASE WHEN j.taken THEN monitoring.receivers_told(j.receivers, false) END,
		CASE WHEN j.digest IS NULL THEN j.group_key END, CASE WHEN j.taken AND j.digest IS NULL THEN j.group_wait END, CASE WHEN j.taken AND j.digest IS NULL THEN j.group_interval END,
		CASE WHEN j.taken AND j.digest IS NULL THEN j.repeat_interval END, CASE WHEN j.taken THEN j.digest END,
		CASE WHEN j.taken THEN j.escalation_policy END,
		CASE WHEN j.taken THEN monitoring.muted_by(j.mute_times, j.active_times, test_route.at) END
	FROM judged AS j
	-- what lies below a route that does not match is never tried
	WHERE j.parent_id IS NULL OR EXISTS (SELECT FROM judged AS p WHERE p.id = j.parent_id AND p.verdict IN ('taken', 'passed on'))
	ORDER BY j.place
$$;
COMMENT ON FUNCTION monitoring.test_route(jsonb, timestamptz) IS 'Which routes an alert with these labels (alertname and severity among them) takes and why, one row per route that is tried: taken, passed on (to a route below), no match, not reached (one before it took the alert), disabled. For routes taken: the receivers that would be notified now, the group and its times, and muted_by: whether mute_time or active_time keeps the route quiet at that time. Rules with receivers of their own do not use the routes.';
-- alerts, groups: which alerts are told of together, and how they come into groups and leave them. dispatch.sql, which
-- follows, decides when who is told of a group.
--
-- A firing alert becomes a member of one group for each route that it takes (or of its rule's own group, where the rule names
-- receivers). A group has a time at which it is due; only groups that are due are looked at, and a group in which nothing can
-- change by itself is due when it is to be repeated. What each receiver was last told of a group is kept beside it and
-- written in the transaction that writes the outbox: after a crash nothing is told twice and nothing is left out.
--
-- All tables here but routing_queue are written by evaluations only, which exclude each other. What a session changes (it
-- drops a rule, edits a route, adds a receiver) goes through routing_queue, so that its transaction can stay open without
-- holding up anybody's notifications.

----------------------------------------------------------------------------------------------------------------------
-- Groups
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.routing_queue_id_seq;
COMMENT ON SEQUENCE monitoring.routing_queue_id_seq IS 'Order of what sessions ask for.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routing_queue_id_seq', '');

CREATE TABLE monitoring.routing_queue (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.routing_queue_id_seq'),
	kind text NOT NULL CHECK (kind IN ('transition', 'incident', 'wake', 'reroute', 'acknowledged')),
	history_at timestamptz,
	history_id bigint,
	rule_id bigint,
	alert_id bigint,
	CHECK ((kind IN ('transition', 'incident')) = (history_at IS NOT NULL AND history_id IS NOT NULL))
);
COMMENT ON TABLE monitoring.routing_queue IS 'What the next evaluation has to do: tell of transitions that sessions made (transition), keep an incident up to date that could not be changed when an alert came or went (incident), look at groups (wake), route what is firing anew (reroute), tell who wants to know that alerts are acknowledged (acknowledged).';
COMMENT ON COLUMN monitoring.routing_queue.id IS 'Order.';
COMMENT ON COLUMN monitoring.routing_queue.kind IS 'transition, incident, wake, reroute or acknowledged.';
COMMENT ON COLUMN monitoring.routing_queue.history_at IS 'Of a transition or incident: alert_history.at.';
COMMENT ON COLUMN monitoring.routing_queue.history_id IS 'Of a transition or incident: alert_history.id.';
COMMENT ON COLUMN monitoring.routing_queue.alert_id IS 'Of acknowledged: the alert (alerts.alert_id).';
COMMENT ON COLUMN monitoring.routing_queue.rule_id IS 'The rule whose alerts are routed anew, or whose groups are looked at; null: all.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routing_queue', '');

CREATE SEQUENCE monitoring.alert_groups_id_seq;
COMMENT ON SEQUENCE monitoring.alert_groups_id_seq IS 'Ids of groups of alerts.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_groups_id_seq', '');

CREATE TABLE monitoring.alert_groups (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.alert_groups_id_seq'),
	-- a hash: labels can be longer than an index entry
	key text COLLATE "C" NOT NULL UNIQUE,
	route_id bigint,
	rule_id bigint,
	group_key text NOT NULL,
	labels jsonb NOT NULL,
	opened_at timestamptz,
	flushed_at timestamptz,
	due_at timestamptz,
	CHECK ((route_id IS NULL) <> (rule_id IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX alert_groups_due ON monitoring.alert_groups (due_at);
COMMENT ON TABLE monitoring.alert_groups IS 'Groups of alerts that are notified together. One whose alerts have all ended goes, unless somebody must not be told of one of them again before a while.';
COMMENT ON COLUMN monitoring.alert_groups.id IS 'Number of the group.';
COMMENT ON COLUMN monitoring.alert_groups.key IS 'Hash of the route or rule and the labels.';
COMMENT ON COLUMN monitoring.alert_groups.route_id IS 'The route (routes.id), which may have been dropped since; null for a rule''s own group.';
COMMENT ON COLUMN monitoring.alert_groups.rule_id IS 'The rule whose own group it is, as it names receivers; null for a route''s.';
COMMENT ON COLUMN monitoring.alert_groups.group_key IS 'What receivers get as the key of the group.';
COMMENT ON COLUMN monitoring.alert_groups.labels IS 'The labels by which its alerts are grouped.';
COMMENT ON COLUMN monitoring.alert_groups.opened_at IS 'When its first alert came; null: all have ended.';
COMMENT ON COLUMN monitoring.alert_groups.flushed_at IS 'When it was last due; null: it still waits for further alerts.';
COMMENT ON COLUMN monitoring.alert_groups.due_at IS 'When it is looked at next; null: when an alert comes or goes.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_groups', '');

CREATE TABLE monitoring.alert_group_members (
	group_id bigint NOT NULL,
	fingerprint text COLLATE "C" NOT NULL,
	alert_id bigint NOT NULL,
	rule_id bigint NOT NULL,
	state text NOT NULL CHECK (state IN ('firing', 'resolved', 'moved', 'cooling')),
	history_at timestamptz NOT NULL,
	history_id bigint NOT NULL,
	told_at timestamptz,
	told_alert_id bigint,
	suppressed_by text,
	acknowledged boolean NOT NULL DEFAULT false,
	PRIMARY KEY (group_id, fingerprint)
) WITH (fillfactor = 50); -- room for a change of all rows of a page, which then touches no index
CREATE INDEX alert_group_members_alert ON monitoring.alert_group_members (alert_id);
COMMENT ON TABLE monitoring.alert_group_members IS 'The alerts of every group.';
COMMENT ON COLUMN monitoring.alert_group_members.group_id IS 'The group (alert_groups.id).';
COMMENT ON COLUMN monitoring.alert_group_members.fingerprint IS 'The alert; the same in every episode.';
COMMENT ON COLUMN monitoring.alert_group_members.alert_id IS 'The episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_group_members.rule_id IS 'The rule (alert_rules.id).';
COMMENT ON COLUMN monitoring.alert_group_members.state IS 'firing; resolved: its end is still to be told; moved: it goes to another group now, here only its end is told; cooling: it has ended, and is not told of again before the rule''s repeat_every.';
COMMENT ON COLUMN monitoring.alert_group_members.history_at IS 'The transition that made the state: alert_history.at.';
COMMENT ON COLUMN monitoring.alert_group_members.history_id IS 'The transition that made the state: alert_history.id.';
COMMENT ON COLUMN monitoring.alert_group_members.told_at IS 'When somebody was last told that it fires; null: never.';
COMMENT ON COLUMN monitoring.alert_group_members.told_alert_id IS 'The episode that somebody was last told of; null: none, or its end was told too.';
COMMENT ON COLUMN monitoring.alert_group_members.suppressed_by IS 'Why nobody is told of it now: a reason of alert_suppressions, mute_time, active_time or cooldown.';
COMMENT ON COLUMN monitoring.alert_group_members.acknowledged IS 'Whether somebody works on it: it is not repeated.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_group_members', '');

CREATE TABLE monitoring.alert_group_receivers (
	group_id bigint NOT NULL,
	receiver text NOT NULL,
	reason text NOT NULL,
	notified_at timestamptz NOT NULL,
	firing text[] COLLATE "C" NOT NULL,
	resolved text[] COLLATE "C" NOT NULL,
	kept_at timestamptz,
	acknowledged boolean NOT NULL DEFAULT false,
	PRIMARY KEY (group_id, receiver)
);
COMMENT ON TABLE monitoring.alert_group_receivers IS 'What each receiver was last told of a group, as long as there is the group: the notification log.';
COMMENT ON COLUMN monitoring.alert_group_receivers.group_id IS 'The group (alert_groups.id).';
COMMENT ON COLUMN monitoring.alert_group_receivers.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.alert_group_receivers.reason IS 'Why it was told, as send_reason gives it, or digest.';
COMMENT ON COLUMN monitoring.alert_group_receivers.notified_at IS 'When the group was due.';
COMMENT ON COLUMN monitoring.alert_group_receivers.firing IS 'Fingerprints of the alerts that it was told are firing.';
COMMENT ON COLUMN monitoring.alert_group_receivers.kept_at IS 'When it was last told that they still are, if its kind wants that (receiver_kinds.keep_alive).';
COMMENT ON COLUMN monitoring.alert_group_receivers.acknowledged IS 'Whether it was told that all of them are acknowledged, if its kind wants that (receiver_kinds.tell_acknowledged).';
COMMENT ON COLUMN monitoring.alert_group_receivers.resolved IS 'Fingerprints of the alerts that it was told are resolved.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_group_receivers', '');

CREATE TYPE monitoring.group_decision AS (
	group_id bigint,
	receiver text,
	reason text,
	send_resolved boolean,
	sends boolean,
	notification_id bigint
);
COMMENT ON TYPE monitoring.group_decision IS 'That a receiver is to be told of a group: why, whether resolved alerts are told too, whether anything is sent, and the number of the notification.';

----------------------------------------------------------------------------------------------------------------------
-- What sessions ask for
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.request_routing(kind text, rule_id bigint DEFAULT NULL) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO monitoring.routing_queue (kind, rule_id) VALUES (request_routing.kind, request_routing.rule_id)
$$;
COMMENT ON FUNCTION monitoring.request_routing(text, bigint) IS 'Have the next evaluation look at the groups (wake) or route what is firing anew (reroute), of one rule or of all.';

CREATE FUNCTION monitoring.queue_transitions(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO monitoring.routing_queue (kind, history_at, history_id)
	SELECT 'transition', queue_transitions.at, t FROM unnest(transitions) AS t
$$;
COMMENT ON FUNCTION monitoring.queue_transitions(bigint[], timestamptz) IS 'Have the next evaluation tell of transitions (alert_history.id) that this session made at that time. For whoever changes alerts outside an evaluation: it waits for no evaluation, and none waits for it.';

----------------------------------------------------------------------------------------------------------------------
-- Alerts come and go
----------------------------------------------------------------------------------------------------------------------

-- Without SET, so that they are inlined: names are looked up when they are made.
CREATE FUNCTION monitoring.next_tick(flushed_at timestamptz, every interval, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN every > '0' THEN flushed_at + pg_catalog.make_interval(secs =>
	(pg_catalog.ceil(extract(epoch FROM at - flushed_at) / extract(epoch FROM every)) * extract(epoch FROM every))::float8) ELSE at END;
COMMENT ON FUNCTION monitoring.next_tick(timestamptz, interval, timestamptz) IS 'The first of the times flushed_at, flushed_at + every, flushed_at + 2 every, ... that is not before `at`.';

CREATE FUNCTION monitoring.next_digest(digest interval, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.date_bin(digest, at, '2000-01-03 00:00:00+00') + digest;
COMMENT ON FUNCTION monitoring.next_digest(interval, timestamptz) IS 'When the next digest is due: full hours, days from midnight, weeks from Monday, in UTC.';

CREATE FUNCTION monitoring.alert_places(rule_ids bigint[], label_sets jsonb[])
RETURNS TABLE (n bigint, route_id bigint, rule_id bigint, key text, group_key text, labels jsonb, group_wait interval, digest interval)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	RETURN QUERY
	WITH alerts AS MATERIALIZED (
		SELECT a.n, a.rule_id, a.labels, d.receivers
		FROM unnest(rule_ids, label_sets) WITH ORDINALITY AS a (rule_id, labels, n)
		LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = a.rule_id
	), places AS MATERIALIZED (
		SELECT a.n, s.id AS route_id, 0 AS rule_id, s.route_key, s.group_wait, s.digest, CASE
				WHEN s.digest IS NOT NULL THEN '{}'
				WHEN s.group_by = '{...}' THEN a.labels
				ELSE monitoring.pick_labels(a.labels, s.group_by)
			END AS labels
		FROM alerts AS a
		JOIN monitoring.match_routes((SELECT array_agg(CASE WHEN o.receivers IS NULL THEN o.labels END ORDER BY o.n) FROM alerts AS o)) AS m
			ON m.n = a.n
		JOIN monitoring.route_settings() AS s ON s.id = m.route_id
		WHERE a.receivers IS NULL
		UNION ALL
		SELECT a.n, 0, a.rule_id, '{}', '0', NULL, jsonb_build_object('alertname', a.labels -> 'alertname')
		FROM alerts AS a
		WHERE a.receivers <> '{}'
	), alike AS MATERIALIZED (
		SELECT p.route_id, p.rule_id, p.group_wait, p.digest, p.labels, array_agg(p.n) AS places,
			left(encode(sha256(convert_to(concat_ws(' ', p.route_id, p.rule_id, p.digest IS NULL, p.labels), 'UTF8')), 'hex'), 32) AS key,
			p.route_key || ':' || monitoring.labels_text(p.labels) AS group_key
		FROM places AS p
		GROUP BY p.route_id, p.rule_id, p.route_key, p.group_wait, p.digest, p.labels
	)
	-- the key of the group is part of an index of the outbox, and what is too long for an index could not be told at all
	SELECT unnest(a.places), nullif(a.route_id, 0), nullif(a.rule_id, 0), a.key,
		CASE WHEN octet_length(a.group_key) <= 1200 THEN a.group_key ELSE left(a.group_key, 250) || '... ' || a.key END,
		a.labels, a.group_wait, a.digest
	FROM alike AS a;
END $$;
COMMENT ON FUNCTION monitoring.alert_places(bigint[], jsonb[]) IS 'The groups to which alerts of these rules with these labels belong: one row per alert n (its place in the arrays) and route that it takes, or one for the rule''s own group.';

CREATE FUNCTION monitoring.group_about(group_ids bigint[]) RETURNS TABLE (group_id bigint, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT g.id, jsonb_strip_nulls(jsonb_build_object('group', g.id, 'group_key', g.group_key, 'route', r.name))
	FROM monitoring.alert_groups AS g
	LEFT JOIN monitoring.routes AS r ON r.id = g.route_id
	WHERE g.id = ANY (group_ids)
$$;
COMMENT ON FUNCTION monitoring.group_about(bigint[]) IS 'What events of alerts say about the groups that hold them: group, group_key and route (none for a rule''s own group).';

-- An alert that enters a group leaves no event: it is a member, and what it is told by names the group. Only of one that leaves
-- without anybody having been told of it there is an event, routed.
CREATE FUNCTION monitoring.entered_groups(alert_ids bigint[], since timestamptz DEFAULT '-infinity')
RETURNS TABLE (alert_id bigint, at timestamptz, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH members AS MATERIALIZED (
		SELECT m.alert_id, m.history_at, m.group_id FROM monitoring.alert_group_members AS m WHERE m.alert_id = ANY (alert_ids)
	)
	SELECT DISTINCT ON (e.alert_id, e.details -> 'group') e.alert_id, e.at, e.details
	FROM (
		SELECT m.alert_id, m.history_at AS at, g.details
		FROM members AS m
		JOIN monitoring.group_about((SELECT array_agg(DISTINCT o.group_id) FROM members AS o)) AS g ON g.group_id = m.group_id
		UNION ALL
		SELECT v.alert_id, v.at, v.details - '{status,enqueued_at,receivers}'::text[]
		FROM monitoring.alert_events AS v
		WHERE v.alert_id = ANY (alert_ids) AND v.at >= entered_groups.since AND v.kind IN ('routed', 'notified', 'digest', 'known')
	) AS e
	WHERE e.at >= entered_groups.since
	ORDER BY e.alert_id, e.details -> 'group', e.at
$$;
COMMENT ON FUNCTION monitoring.entered_groups(bigint[], timestamptz) IS 'The groups that alerts have come to since a time, with group, group_key and route.';

-- Nobody can estimate how many alerts fire at once, and in how many groups: what is computed is hashed; rows of tables are
-- looked up one by one (LATERAL with LIMIT, or by their place). Alerts that agree in all that routes look at go the same way,
-- so that is worked out once for all of them.
--
-- A group that is new, or had no alerts left, waits for group_wait unless an alert has been firing for longer than that
-- already. One that was looked at before is due at its next interval, one that still waits when it was going to be.
CREATE FUNCTION monitoring.group_firing(history_ids bigint[], history_ats timestamptz[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	times CONSTANT timestamptz[] := ARRAY(SELECT DISTINCT t FROM unnest(history_ats) AS t);
	names CONSTANT text[] := monitoring.routing_labels();
BEGIN
	WITH fired AS MATERIALIZED (
		SELECT DISTINCT ON (h.fingerprint) h.id, h.at, h.alert_id, h.rule_id, h.rule_name, h.severity, h.fingerprint,
			coalesce(h.fired_at, h.at) AS fired_at, monitoring.pick_labels(h.labels, names) AS labels
		FROM unnest(history_ids, history_ats) AS t (id, at)
		JOIN monitoring.alert_history AS h ON h.id = t.id AND h.at = t.at
		WHERE h.at = ANY (times) AND h.to_state = 'firing'
		ORDER BY h.fingerprint, h.id DESC
	), alike AS MATERIALIZED (
		SELECT row_number() OVER () AS n, f.rule_id, f.rule_name, f.severity, f.labels
		FROM (SELECT DISTINCT o.rule_id, o.rule_name, o.severity, o.labels FROM fired AS o) AS f
	), placed AS MATERIALIZED (
		SELECT a.rule_id AS alert_rule_id, a.rule_name, a.severity, a.labels AS alert_labels, p.*, g.id AS group_id
		FROM monitoring.alert_places((SELECT array_agg(o.rule_id ORDER BY o.n) FROM alike AS o),
			(SELECT array_agg(o.labels || jsonb_build_object('alertname', o.rule_name, 'severity', o.severity) ORDER BY o.n) FROM alike AS o)) AS p
		JOIN alike AS a ON a.n = p.n
		LEFT JOIN LATERAL (SELECT o.id FROM monitoring.alert_groups AS o WHERE o.key = p.key LIMIT 1) AS g ON true
	), joined AS MATERIALIZED (
		-- that a route anew finds an alert where it was is no news
		SELECT f.id AS history_id, f.at AS history_at, f.alert_id, f.rule_id, f.fingerprint, f.fired_at, p.key, m.place
		FROM fired AS f
		JOIN placed AS p ON p.alert_rule_id = f.rule_id AND p.rule_name = f.rule_name AND p.severity = f.severity AND p.alert_labels = f.labels
		LEFT JOIN LATERAL (SELECT o.ctid AS place, o.alert_id, o.state FROM monitoring.alert_group_members AS o
			WHERE o.group_id = p.group_id AND o.fingerprint = f.fingerprint LIMIT 1) AS m ON p.group_id IS NOT NULL
		WHERE m.alert_id IS DISTINCT FROM f.alert_id OR m.state <> 'firing'
	), groups AS MATERIALIZED (
		SELECT coalesce(j.group_id, nextval('monitoring.alert_groups_id_seq')) AS id, j.group_id IS NULL AS is_new, j.key, j.route_id,
			j.rule_id, j.group_key, j.labels, j.digest,
			CASE WHEN j.digest IS NOT NULL THEN monitoring.next_digest(j.digest, group_firing.at)
				WHEN j.fired_at + j.group_wait < group_firing.at THEN group_firing.at
				ELSE group_firing.at + j.group_wait END AS first_due
		FROM (SELECT p.*, k.fired_at
			FROM (SELECT o.key, min(o.fired_at) AS fired_at, min(o.history_id) AS history_id FROM joined AS o GROUP BY o.key) AS k
			JOIN (SELECT DISTINCT ON (o.key) o.key, o.group_id, o.route_id, o.rule_id, o.group_key, o.labels, o.digest, o.group_wait
				FROM placed AS o ORDER BY o.key) AS p ON p.key = k.key
			ORDER BY k.history_id, p.route_id) AS j
	), opened AS (
		INSERT INTO monitoring.alert_groups (id, key, route_id, rule_id, group_key, labels, opened_at, due_at)
		SELECT g.id, g.key, g.route_id, g.rule_id, g.group_key, g.labels, group_firing.at, g.first_due FROM groups AS g WHERE g.is_new
	), touched AS (
		UPDATE monitoring.alert_groups AS g
		SET opened_at = coalesce(g.opened_at, group_firing.at), flushed_at = CASE WHEN g.opened_at IS NOT NULL THEN g.flushed_at END,
			due_at = CASE
				WHEN g.opened_at IS NULL THEN n.first_due
				WHEN g.flushed_at IS NULL OR n.digest IS NOT NULL THEN least(g.due_at, n.first_due)
				ELSE least(g.due_at, monitoring.next_tick(g.flushed_at, coalesce(s.group_interval, '0'), group_firing.at)) END,
			group_key = n.group_key
		FROM groups AS n
		LEFT JOIN monitoring.route_settings() AS s ON s.id = n.route_id
		WHERE g.id = n.id AND NOT n.is_new
	), returned AS (
		UPDATE monitoring.alert_group_members AS m
		SET alert_id = j.alert_id, rule_id = j.rule_id, state = 'firing', history_at = j.history_at, history_id = j.history_id,
			suppressed_by = NULL, acknowledged = false
		FROM joined AS j
		WHERE m.ctid = ANY (ARRAY(SELECT o.place FROM joined AS o WHERE o.place IS NOT NULL)) AND m.ctid = j.place
	)
	INSERT INTO monitoring.alert_group_members (group_id, fingerprint, alert_id, rule_id, state, history_at, history_id)
	SELECT g.id, j.fingerprint, j.alert_id, j.rule_id, 'firing', j.history_at, j.history_id
	FROM joined AS j
	JOIN groups AS g ON g.key = j.key
	WHERE j.place IS NULL;
END $$;
COMMENT ON FUNCTION monitoring.group_firing(bigint[], timestamptz[], timestamptz) IS 'Make alerts whose transitions (alert_history.id and at) went to firing members of their groups.';

CREATE FUNCTION monitoring.group_resolved(history_ids bigint[], history_ats timestamptz[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	times CONSTANT timestamptz[] := ARRAY(SELECT DISTINCT t FROM unnest(history_ats) AS t);
BEGIN
	WITH ended AS MATERIALIZED (
		SELECT h.id, h.at, h.alert_id
		FROM unnest(history_ids, history_ats) AS t (id, at)
		JOIN monitoring.alert_history AS h ON h.id = t.id AND h.at = t.at
		WHERE h.at = ANY (times) AND h.from_state = 'firing' AND h.to_state = 'resolved'
	), changed AS (
		UPDATE monitoring.alert_group_members AS m
		SET state = 'resolved', history_at = e.at, history_id = e.id
		FROM ended AS e
		WHERE m.alert_id = ANY (ARRAY(SELECT o.alert_id FROM ended AS o)) AND m.alert_id = e.alert_id AND m.state IN ('firing', 'moved')
		RETURNING m.group_id
	)
	UPDATE monitoring.alert_groups AS g
	SET due_at = CASE WHEN s.digest IS NOT NULL THEN least(g.due_at, monitoring.next_digest(s.digest, group_resolved.at))
		ELSE least(g.due_at, monitoring.next_tick(g.flushed_at, coalesce(s.group_interval, '0'), group_resolved.at)) END
	FROM (SELECT DISTINCT c.group_id FROM changed AS c) AS c, monitoring.alert_groups AS o
	LEFT JOIN monitoring.route_settings() AS s ON s.id = o.route_id
	WHERE g.id = c.group_id AND o.id = c.group_id AND (g.flushed_at IS NOT NULL OR s.digest IS NOT NULL);
END $$;
COMMENT ON FUNCTION monitoring.group_resolved(bigint[], timestamptz[], timestamptz) IS 'Mark alerts whose transitions (alert_history.id and at) ended them as resolved in the groups that hold them, whatever the routes say now.';

CREATE FUNCTION monitoring.wake_groups(rule_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.alert_groups AS g
	SET due_at = least(g.due_at, monitoring.next_tick(g.flushed_at, s.group_interval, wake_groups.at))
	FROM monitoring.group_settings(ARRAY(SELECT o.id FROM monitoring.alert_groups AS o
		WHERE rule_ids IS NULL OR o.id IN (SELECT m.group_id FROM monitoring.alert_group_members AS m WHERE m.rule_id = ANY (rule_ids))), at) AS s
	WHERE s.group_id = g.id AND g.opened_at IS NOT NULL AND g.flushed_at IS NOT NULL AND s.digest IS NULL;
END $$;
COMMENT ON FUNCTION monitoring.wake_groups(bigint[], timestamptz) IS 'Have all groups, or those with alerts of these rules, looked at when their next interval begins: who is to be told may have changed.';

CREATE FUNCTION monitoring.reroute_alerts(rule_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	history_ids bigint[];
	history_ats timestamptz[];
BEGIN
	SELECT array_agg(f.history_id ORDER BY f.history_id), array_agg(f.history_at ORDER BY f.history_id) INTO history_ids, history_ats
	FROM (
		SELECT DISTINCT ON (m.alert_id) m.history_id, m.history_at
		FROM monitoring.alert_group_members AS m
		WHERE m.state IN ('firing', 'moved') AND (rule_ids IS NULL OR m.rule_id = ANY (rule_ids))
		ORDER BY m.alert_id
	) AS f;
	-- those of rules that told nobody are in no group
	SELECT history_ids || array_agg(h.id), history_ats || array_agg(h.at) INTO history_ids, history_ats
	FROM monitoring.alert_states AS s
	CROSS JOIN LATERAL (
		SELECT x.id, x.at FROM monitoring.alert_history AS x
		WHERE x.at = s.fired_at AND x.alert_id = s.alert_id AND x.to_state = 'firing' LIMIT 1) AS h
	WHERE s.state = 'firing' AND (rule_ids IS NULL OR s.rule_id = ANY (rule_ids)) AND NOT EXISTS (
		SELECT FROM monitoring.alert_group_members AS m WHERE m.alert_id = s.alert_id);

	-- All leave their groups first; those that find themselves in the same group again have not left it.
	WITH fired AS MATERIALIZED (
		SELECT row_number() OVER () AS n, h.alert_id, h.rule_id,
			h.labels || jsonb_build_object('alertname', h.rule_name, 'severity', h.severity) AS labels
		FROM unnest(history_ids, history_ats) AS t (id, at)
		CROSS JOIN LATERAL (SELECT * FROM monitoring.alert_history AS x WHERE x.at = t.at AND x.id = t.id LIMIT 1) AS h
	), places AS MATERIALIZED (
		SELECT f.alert_id, p.key
		FROM monitoring.alert_places((SELECT array_agg(o.rule_id ORDER BY o.n) FROM fired AS o),
			(SELECT array_agg(o.labels ORDER BY o.n) FROM fired AS o)) AS p
		JOIN fired AS f ON f.n = p.n
	), left_behind AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.told_alert_id IS NOT NULL AS told
		FROM monitoring.alert_group_members AS m
		JOIN monitoring.alert_groups AS g ON g.id = m.group_id
		WHERE m.state = 'firing' AND (rule_ids IS NULL OR m.rule_id = ANY (rule_ids))
			AND NOT EXISTS (SELECT FROM places AS p WHERE p.alert_id = m.alert_id AND p.key = g.key)
	), moved AS (
		UPDATE monitoring.alert_group_members AS m SET state = 'moved', suppressed_by = NULL
		FROM left_behind AS l
		WHERE l.told AND m.group_id = l.group_id AND m.fingerprint = l.fingerprint
	), gone AS (
		DELETE FROM monitoring.alert_group_members AS m
		USING left_behind AS l
		WHERE NOT l.told AND m.group_id = l.group_id AND m.fingerprint = l.fingerprint
	), noted AS (
		INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
		SELECT reroute_alerts.at, l.alert_id, 'routed', a.details
		FROM left_behind AS l
		JOIN monitoring.group_about((SELECT array_agg(DISTINCT o.group_id) FROM left_behind AS o WHERE NOT o.told)) AS a ON a.group_id = l.group_id
		WHERE NOT l.told
	)
	UPDATE monitoring.alert_groups AS g SET due_at = least(g.due_at, reroute_alerts.at)
	WHERE g.id IN (SELECT l.group_id FROM left_behind AS l WHERE NOT l.told);
	PERFORM monitoring.group_firing(history_ids, history_ats, at);
	PERFORM monitoring.wake_groups(rule_ids, at);
END $$;
COMMENT ON FUNCTION monitoring.reroute_alerts(bigint[], timestamptz) IS 'Let everything that is firing, of these rules or of all (null), take the routes as they are now. Who was told of an alert through a route that it no longer takes is still told when it ends, and nothing else.';
-- alerts, dispatch: when who is told of a group of alerts, decided as Alertmanager decides it.
--
-- A look at the groups that are due is a few statements over all of them: what is suppressed, who is to be told
-- (send_reason is the table of decisions), the outbox, what was told, what has ended, when next. Nobody can estimate how many
-- alerts there are in a group and how many of them a receiver knows: everything is hashed, with tables read by group_id.

----------------------------------------------------------------------------------------------------------------------
-- When to send
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.send_reason(told boolean, told_firing bigint, firing bigint, new_firing bigint, resolved bigint,
	new_resolved bigint, send_resolved boolean, repeat_due boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	-- nothing left once what is suppressed has been taken away
	WHEN firing + resolved = 0 THEN NULL
	WHEN NOT told THEN CASE WHEN firing > 0 THEN 'first notification' END
	WHEN new_firing > 0 THEN CASE WHEN told_firing = 0 THEN 'first notification' ELSE 'new alerts added' END
	-- whatever send_resolved says: what the receiver was told must be forgotten
	WHEN firing = 0 THEN CASE WHEN told_firing > 0 THEN 'all alerts resolved' END
	WHEN send_resolved AND new_resolved > 0 THEN 'some alerts resolved'
	WHEN repeat_due THEN 'repeat interval elapsed'
END;
COMMENT ON FUNCTION monitoring.send_reason(boolean, bigint, bigint, bigint, bigint, bigint, boolean, boolean) IS 'Alertmanager''s decision whether a receiver is told of a group: the reason, or null. told: whether it was told before, told_firing: of how many firing alerts; firing and resolved: the group''s alerts now, without suppressed ones; new_firing and new_resolved: those of them that it was not told of; send_resolved: whether it wants to know of resolved ones; repeat_due: whether the repeat interval has elapsed (and an alert is not acknowledged).';

CREATE FUNCTION monitoring.group_settings(group_ids bigint[], at timestamptz)
RETURNS TABLE (group_id bigint, tick timestamptz, told text[], group_interval interval, repeat_interval interval, digest interval,
	escalation_policy text, muted_by text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	WITH groups AS MATERIALIZED (
		SELECT g.id, g.due_at, g.route_id, g.rule_id FROM monitoring.alert_groups AS g WHERE g.id = ANY (group_ids)
	), tree AS MATERIALIZED (
		SELECT * FROM monitoring.route_settings()
	), routes AS MATERIALIZED (
		SELECT t.*, monitoring.receivers_told(t.receivers, false) AS told, monitoring.muted_by(t.mute_times, t.active_times, group_settings.at) AS muted_by
		FROM tree AS t
		WHERE t.id IN (SELECT g.route_id FROM groups AS g)
	), rules AS MATERIALIZED (
		SELECT d.id, monitoring.receivers_told(d.receivers, true) AS told
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id IN (SELECT g.rule_id FROM groups AS g) AND d.receivers IS NOT NULL
	)
	-- Of a route or rule that is gone the end of its alerts is still told. An evaluation comes a little late; intervals count
	-- from when the group was due, unless that is long ago.
	SELECT g.id, CASE WHEN group_settings.at - g.due_at < coalesce(r.digest, r.group_interval, '0') THEN least(g.due_at, group_settings.at)
			ELSE group_settings.at END,
		coalesce(r.told, d.told, '{}'), coalesce(r.group_interval, '0'), coalesce(r.repeat_interval, root.repeat_interval), r.digest,
		r.escalation_policy, r.muted_by
	FROM groups AS g
	LEFT JOIN routes AS r ON r.id = g.route_id
	LEFT JOIN rules AS d ON d.id = g.rule_id
	CROSS JOIN (SELECT t.repeat_interval FROM tree AS t WHERE t.parent_id IS NULL) AS root;
END $$;
COMMENT ON FUNCTION monitoring.group_settings(bigint[], timestamptz) IS 'What holds for groups at a time: when their intervals begin if they are looked at now (tick), the receivers to be told, the intervals, and why the route is quiet, if it is.';

CREATE FUNCTION monitoring.refresh_suppressions(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH members AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.state, m.suppressed_by, m.acknowledged, s.muted_by,
			m.state = 'firing' AND m.told_alert_id IS DISTINCT FROM m.alert_id
				AND m.told_at + r.repeat_every > s.tick AS cooling
		FROM monitoring.alert_group_members AS m
		JOIN monitoring.group_settings(group_ids, refresh_suppressions.at) AS s ON s.group_id = m.group_id
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = m.rule_id AND r.repeat_every IS NOT NULL
		WHERE m.group_id = ANY (group_ids) AND m.state IN ('firing', 'resolved')
	), reasons AS MATERIALIZED (
		SELECT s.alert_id, bool_or(s.reason = 'acknowledged') AS acknowledged,
			(array_agg(s.reason ORDER BY s.reason) FILTER (WHERE s.reason <> 'acknowledged'))[1] AS reason,
			(array_agg(s.details ORDER BY s.reason) FILTER (WHERE s.reason <> 'acknowledged'))[1] AS details
		FROM monitoring.alert_suppressions(ARRAY(SELECT DISTINCT m.alert_id FROM members AS m), refresh_suppressions.at) AS s
		GROUP BY s.alert_id
	), judged AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.suppressed_by AS old_reason, r.details,
			coalesce(m.muted_by, r.reason, CASE WHEN m.cooling THEN 'cooldown' END) AS reason,
			coalesce(r.acknowledged, false) AS acknowledged
		FROM members AS m
		LEFT JOIN reasons AS r ON r.alert_id = m.alert_id
		WHERE (m.suppressed_by, m.acknowledged)
			IS DISTINCT FROM (coalesce(m.muted_by, r.reason, CASE WHEN m.cooling THEN 'cooldown' END), coalesce(r.acknowledged, false))
	), changed AS (
		UPDATE monitoring.alert_group_members AS m
		SET suppressed_by = j.reason, acknowledged = j.acknowledged
		FROM judged AS j
		WHERE m.group_id = j.group_id AND m.fingerprint = j.fingerprint AND m.group_id = ANY (group_ids)
	)
	INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
	SELECT refresh_suppressions.at, j.alert_id, CASE WHEN j.reason IS NULL THEN 'unsuppressed' ELSE 'suppressed' END,
		jsonb_build_object('group', j.group_id, 'reason', coalesce(j.reason, j.old_reason)) || coalesce(j.details, '{}')
	FROM judged AS j
	WHERE j.reason IS DISTINCT FROM j.old_reason
	ORDER BY j.alert_id, j.group_id;
END $$;
COMMENT ON FUNCTION monitoring.refresh_suppressions(bigint[], timestamptz) IS 'Note which alerts of groups nobody is told of now and why, and which are acknowledged; changes become events of the alerts.';

-- What a notification of a group is about: members that are not suppressed; of a digest, what nobody has been told of. Without
-- SET, so that it is inlined. place is where the row lies.
CREATE FUNCTION monitoring.listed_members(group_ids bigint[], at timestamptz)
RETURNS TABLE (group_id bigint, fingerprint text, alert_id bigint, rule_id bigint, state text, news boolean, acknowledged boolean,
	history_at timestamptz, history_id bigint, tick timestamptz, place tid)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT m.group_id, m.fingerprint, m.alert_id, m.rule_id, m.state, m.state = 'resolved' OR m.told_alert_id IS DISTINCT FROM m.alert_id,
		m.acknowledged, m.history_at, m.history_id, s.tick, m.ctid
	FROM monitoring.alert_group_members AS m
	JOIN monitoring.group_settings(group_ids, listed_members.at) AS s ON s.group_id = m.group_id
	WHERE m.group_id = ANY (group_ids) AND m.suppressed_by IS NULL AND m.state IN ('firing', 'resolved')
		AND (s.digest IS NULL OR m.state = 'resolved' OR m.told_alert_id IS DISTINCT FROM m.alert_id);
END;
COMMENT ON FUNCTION monitoring.listed_members(bigint[], timestamptz) IS 'The alerts of groups that a notification would be about: those that are not suppressed; for a digest, those that are news.';

CREATE FUNCTION monitoring.group_decisions(group_ids bigint[], at timestamptz) RETURNS SETOF monitoring.group_decision
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	RETURN QUERY
	WITH settings AS MATERIALIZED (
		SELECT * FROM monitoring.group_settings(group_ids, group_decisions.at)
	), listed AS MATERIALIZED (
		SELECT l.group_id, l.fingerprint, l.state, CASE WHEN l.state = 'firing' AND NOT l.acknowledged
				THEN coalesce(r.repeat_every, s.repeat_interval) END AS repeat_every
		FROM monitoring.listed_members(group_ids, group_decisions.at) AS l
		JOIN settings AS s ON s.group_id = l.group_id
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = l.rule_id AND r.repeat_every IS NOT NULL
	), totals AS MATERIALIZED (
		SELECT l.group_id, count(*) FILTER (WHERE l.state = 'firing') AS firing, count(*) FILTER (WHERE l.state = 'resolved') AS resolved,
			min(l.repeat_every) AS repeat_every
		FROM listed AS l
		GROUP BY l.group_id
	), entries AS MATERIALIZED (
		SELECT e.* FROM monitoring.alert_group_receivers AS e WHERE e.group_id = ANY (group_ids)
	), heard AS MATERIALIZED (
		SELECT e.group_id, e.receiver, 'firing' AS state, unnest(e.firing) AS fingerprint FROM entries AS e
		UNION ALL
		SELECT e.group_id, e.receiver, 'resolved', unnest(e.resolved) FROM entries AS e
	), known AS MATERIALIZED (
		SELECT h.group_id, h.receiver, count(*) FILTER (WHERE l.state = 'firing') AS firing, count(*) FILTER (WHERE l.state = 'resolved') AS resolved
		FROM heard AS h
		JOIN listed AS l ON l.group_id = h.group_id AND l.fingerprint = h.fingerprint AND l.state = h.state
		GROUP BY h.group_id, h.receiver
	), targets AS MATERIALIZED (
		SELECT s.group_id, t.receiver, true AS current FROM settings AS s CROSS JOIN LATERAL unnest(s.told) AS t (receiver)
		UNION ALL
		-- who was told that alerts are firing, and would not be told now, is told when they have ended
		SELECT e.group_id, e.receiver, false
		FROM entries AS e
		JOIN settings AS s ON s.group_id = e.group_id
		WHERE e.firing <> '{}' AND e.receiver <> ALL (s.told)
	), reasons AS MATERIALIZED (
		SELECT t.group_id, t.receiver, o.firing, r.send_resolved,
			CASE WHEN s.digest IS NOT NULL THEN CASE WHEN t.current THEN 'digest' END
				ELSE monitoring.send_reason(e.group_id IS NOT NULL, coalesce(cardinality(e.firing), 0), o.firing, o.firing - coalesce(k.firing, 0),
					o.resolved, o.resolved - coalesce(k.resolved, 0), r.send_resolved, e.notified_at + o.repeat_every <= s.tick) END AS reason,
			t.current
		FROM targets AS t
		JOIN settings AS s ON s.group_id = t.group_id
		JOIN totals AS o ON o.group_id = t.group_id
		JOIN (SELECT d.name, coalesce((d.config ->> 'send_resolved')::boolean, true) AS send_resolved
			FROM monitoring.receiver_defs AS d WHERE d.enabled) AS r ON r.name = t.receiver
		LEFT JOIN entries AS e ON e.group_id = t.group_id AND e.receiver = t.receiver
		LEFT JOIN known AS k ON k.group_id = t.group_id AND k.receiver = t.receiver
	)
	SELECT d.group_id, d.receiver, d.reason, d.send_resolved, d.firing > 0 OR d.send_resolved,
		CASE WHEN d.firing > 0 OR d.send_resolved THEN nextval('monitoring.outbox_id_seq') END
	FROM (SELECT r.* FROM reasons AS r WHERE r.reason IS NOT NULL AND (r.current OR r.reason = 'all alerts resolved')
		ORDER BY r.group_id, r.receiver) AS d;
END $$;
COMMENT ON FUNCTION monitoring.group_decisions(bigint[], timestamptz) IS 'Which receivers are to be told of which of these groups at a time, and why. Those who are not to be told are left out.';

----------------------------------------------------------------------------------------------------------------------
-- Sending
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.cut_annotations(annotations jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_object_agg(a.key, left(a.value, 500))
	FROM (SELECT e.key, e.value FROM jsonb_each_text(annotations) AS e ORDER BY e.key = 'summary' DESC, e.key LIMIT 20) AS a
$$;
COMMENT ON FUNCTION monitoring.cut_annotations(jsonb) IS 'At most twenty annotations of at most 500 characters each, the summary among them.';

CREATE FUNCTION monitoring.alert_document(status text, rule_name text, severity text, labels jsonb, annotations jsonb, value float8,
	op text, threshold float8, fired_at timestamptz, at timestamptz, fingerprint text, alert_id bigint DEFAULT NULL, details jsonb DEFAULT NULL)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_build_object(
	'status', status,
	'labels', labels || pg_catalog.jsonb_build_object('alertname', rule_name, 'severity', severity),
	'annotations', CASE WHEN value IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('value', value::text) END
		|| CASE WHEN pg_catalog.octet_length(annotations::text) <= 16384 THEN annotations ELSE monitoring.cut_annotations(annotations) END,
	'startsAt', pg_catalog.to_char(coalesce(fired_at, at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
	'endsAt', CASE WHEN status = 'firing' THEN '0001-01-01T00:00:00Z'
		ELSE pg_catalog.to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END,
	'fingerprint', fingerprint, 'value', value::text, 'threshold', threshold::text, 'op', op)
	|| CASE WHEN alert_id IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('alert_id', alert_id) END
	|| CASE WHEN details -> 'impact' IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('impact', details -> 'impact') END;
COMMENT ON FUNCTION monitoring.alert_document(text, text, text, jsonb, jsonb, float8, text, float8, timestamptz, timestamptz, text, bigint, jsonb) IS 'An alert as receivers get it. Annotations of more than 16 kB are cut.';

-- Without SET, so that it is inlined.
CREATE FUNCTION monitoring.member_document(alert_id bigint, state text, history_at timestamptz, history_id bigint, acknowledged boolean)
RETURNS TABLE (document jsonb)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT x.document || CASE WHEN member_document.acknowledged THEN jsonb_build_object('acknowledged', (
			SELECT jsonb_build_object('by', n.acknowledged_by, 'until', n.acknowledged_until)
			FROM monitoring.alert_handling AS n WHERE n.alert_id = member_document.alert_id)) ELSE '{}' END
	FROM (
		SELECT monitoring.alert_document(member_document.state, h.rule_name, h.severity, h.labels, h.annotations, h.value, h.op, h.threshold,
			h.fired_at, h.at, h.fingerprint, h.alert_id, h.details) AS document
		FROM monitoring.alert_history AS h
		WHERE h.at = member_document.history_at AND h.id = member_document.history_id
		UNION ALL
		-- history has been dropped meanwhile
		SELECT monitoring.alert_document(member_document.state, d.name, d.severity, monitoring.alert_labels(d, s.series_labels),
			monitoring.fill_annotations(d, s), s.value, d.op, s.threshold, s.fired_at, member_document.history_at, s.fingerprint,
			s.alert_id, s.details)
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		WHERE s.alert_id = member_document.alert_id
		LIMIT 1) AS x;
END;
COMMENT ON FUNCTION monitoring.member_document(bigint, text, timestamptz, bigint, boolean) IS 'A member of a group as receivers get it, by its transition (alert_history); no row when nothing is known of it any more.';

-- A notification lists at most 100 alerts and 256 kB of them, news first.
CREATE FUNCTION monitoring.enqueue_decisions(decisions monitoring.group_decision[], at timestamptz, now_at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	group_ids CONSTANT bigint[] := ARRAY(SELECT DISTINCT d.group_id FROM unnest(decisions) AS d WHERE d.sends);
BEGIN
	PERFORM monitoring.ensure_partition('outbox', now_at);
	WITH decided AS MATERIALIZED (
		SELECT d.* FROM unnest(decisions) AS d WHERE d.sends
	), listed AS MATERIALIZED (
		SELECT l.group_id, l.alert_id, l.state, l.acknowledged, l.history_at, l.history_id,
			CASE WHEN NOT l.news THEN 3 WHEN l.state = 'resolved' THEN 2 ELSE 1 END AS news
		FROM monitoring.listed_members(group_ids, enqueue_decisions.at) AS l
	-- the first hundred of a group are among the first hundred of each state
	), first_ones AS (
		SELECT s.*, row_number() OVER (PARTITION BY s.group_id ORDER BY s.news, s.history_at, s.history_id) AS place
		FROM (
			SELECT l.*, row_number() OVER (PARTITION BY l.group_id, l.state ORDER BY l.news, l.history_at, l.history_id) AS place_in_state
			FROM listed AS l) AS s
		WHERE s.place_in_state <= 100
	), totals AS MATERIALIZED (
		SELECT l.group_id, count(*) FILTER (WHERE l.state = 'firing') AS firing, count(*) FILTER (WHERE l.state = 'resolved') AS resolved
		FROM listed AS l
		GROUP BY l.group_id
	), documents AS MATERIALIZED (
		SELECT l.group_id, l.alert_id, l.state, l.place, l.place_in_state, x.document, octet_length(x.document::text) AS bytes
		FROM (SELECT * FROM first_ones AS i WHERE i.place <= 100 OR i.state = 'firing') AS l
		CROSS JOIN LATERAL monitoring.member_document(l.alert_id, l.state, l.history_at, l.history_id, l.acknowledged) AS x
	), chosen AS MATERIALIZED (
		SELECT c.group_id, c.receiver, c.send_resolved, count(*) AS listed, bool_or(c.state = 'firing') AS firing,
			array_agg(c.alert_id ORDER BY c.place) AS alert_ids, jsonb_agg(c.document ORDER BY c.place) AS alerts,
			CASE WHEN min(c.document -> 'labels' ->> 'alertname') = max(c.document -> 'labels' ->> 'alertname')
				THEN min(c.document -> 'labels' ->> 'alertname') END AS alert
		FROM (SELECT d.group_id, d.receiver, d.send_resolved, x.alert_id, x.state, x.place, x.document,
				sum(x.bytes) OVER (PARTITION BY d.group_id, d.receiver ORDER BY x.place) AS bytes,
				row_number() OVER (PARTITION BY d.group_id, d.receiver ORDER BY x.place) AS n
			FROM decided AS d
			JOIN documents AS x ON x.group_id = d.group_id AND (d.send_resolved OR x.state = 'firing')) AS c
		WHERE c.n <= 100 AND (c.bytes <= 262144 OR c.n = 1)
		GROUP BY c.group_id, c.receiver, c.send_resolved
	)
	INSERT INTO monitoring.outbox (id, created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT d.notification_id, now_at, enqueue_decisions.at, d.receiver, g.group_key, coalesce(c.alert, r.name, ''), x.status, c.alert_ids,
		monitoring.make_payload(d.receiver, g.group_key, x.status, g.labels, c.alerts, jsonb_strip_nulls(jsonb_build_object(
			'truncatedAlerts', t.firing + CASE WHEN d.send_resolved THEN t.resolved ELSE 0 END - c.listed, 'reason', d.reason,
			'digest', CASE WHEN d.reason = 'digest' THEN jsonb_build_object('route', r.name,
				'since', monitoring.format_time(coalesce(g.flushed_at, g.opened_at)), 'until', monitoring.format_time(enqueue_decisions.at)) END))),
		now_at, now_at + monitoring.max_age(f.config)
	FROM decided AS d
	JOIN chosen AS c ON c.group_id = d.group_id AND c.receiver = d.receiver
	CROSS JOIN LATERAL (SELECT CASE WHEN c.firing THEN 'firing' ELSE 'resolved' END) AS x (status)
	JOIN totals AS t ON t.group_id = d.group_id
	JOIN monitoring.alert_groups AS g ON g.id = d.group_id
	JOIN monitoring.receiver_defs AS f ON f.name = d.receiver
	LEFT JOIN monitoring.routes AS r ON r.id = g.route_id
	ORDER BY d.notification_id;
END $$;
COMMENT ON FUNCTION monitoring.enqueue_decisions(monitoring.group_decision[], timestamptz, timestamptz) IS 'Write the outbox rows of decisions of an evaluation, in their order; now_at is the real time.';

CREATE FUNCTION monitoring.record_decisions(group_ids bigint[], decisions monitoring.group_decision[], at timestamptz, now_at timestamptz)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	decided CONSTANT bigint[] := ARRAY(SELECT DISTINCT d.group_id FROM unnest(decisions) AS d);
BEGIN
	WITH listed AS (
		SELECT l.group_id, coalesce(array_agg(l.fingerprint) FILTER (WHERE l.state = 'firing'), '{}') AS firing,
			coalesce(array_agg(l.fingerprint) FILTER (WHERE l.state = 'resolved'), '{}') AS resolved
		FROM monitoring.listed_members(decided, record_decisions.at) AS l
		GROUP BY l.group_id
	)
	INSERT INTO monitoring.alert_group_receivers AS e (group_id, receiver, reason, notified_at, firing, resolved)
	SELECT d.group_id, d.receiver, d.reason, s.tick,
		CASE WHEN d.reason = 'digest' THEN '{}' ELSE l.firing END, CASE WHEN d.reason = 'digest' THEN '{}' ELSE l.resolved END
	FROM unnest(decisions) AS d
	JOIN listed AS l ON l.group_id = d.group_id
	JOIN monitoring.group_settings(group_ids, record_decisions.at) AS s ON s.group_id = d.group_id
	ON CONFLICT (group_id, receiver) DO UPDATE
	SET reason = excluded.reason, notified_at = excluded.notified_at, firing = excluded.firing, resolved = excluded.resolved,
		kept_at = NULL, acknowledged = e.acknowledged AND excluded.firing <> '{}';

	-- An alert that ended and fired again before its group was due is no news to anybody.
	WITH told AS MATERIALIZED (
		SELECT d.group_id, bool_or(d.reason <> 'new alerts added' AND d.reason !~ 'resolved$') AS whole_group,
			max(CASE WHEN d.reason = 'digest' THEN 'digest' ELSE 'notified' END) AS kind,
			jsonb_object_agg(d.receiver, jsonb_build_object('notification', d.notification_id, 'reason', d.reason))
				FILTER (WHERE d.reason <> 'all alerts resolved') AS of_firing,
			jsonb_object_agg(d.receiver, jsonb_build_object('notification', d.notification_id, 'reason', d.reason))
				FILTER (WHERE d.sends AND d.send_resolved) AS of_resolved
		FROM unnest(decisions) AS d
		GROUP BY d.group_id
	-- made once for a group, not for each of its alerts
	), texts AS MATERIALIZED (
		SELECT a.group_id, a.details || '{"status": "firing"}' AS known,
			a.details || jsonb_build_object('status', 'firing', 'enqueued_at', now_at, 'receivers', t.of_firing) AS of_firing,
			a.details || jsonb_build_object('status', 'resolved', 'enqueued_at', now_at, 'receivers', t.of_resolved) AS of_resolved
		FROM monitoring.group_about(group_ids) AS a
		LEFT JOIN told AS t ON t.group_id = a.group_id
	), listed AS MATERIALIZED (
		SELECT l.group_id, l.alert_id, l.state, l.tick, l.place, t.kind,
			coalesce(CASE WHEN l.state = 'resolved' THEN t.of_resolved IS NOT NULL
				ELSE t.of_firing IS NOT NULL AND (l.news OR t.whole_group) END, false) AS told
		FROM monitoring.listed_members(group_ids, record_decisions.at) AS l
		LEFT JOIN told AS t ON t.group_id = l.group_id
	), marked AS (
		UPDATE monitoring.alert_group_members AS m
		SET told_at = CASE WHEN l.told THEN l.tick ELSE m.told_at END, told_alert_id = m.alert_id
		FROM listed AS l
		WHERE m.ctid = ANY (ARRAY(SELECT o.place FROM listed AS o WHERE o.state = 'firing')) AND m.ctid = l.place
			AND (l.told OR m.told_alert_id <> m.alert_id)
		RETURNING m.group_id, m.alert_id, l.told
	)
	INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
	SELECT record_decisions.at, e.alert_id, e.kind,
		CASE e.status WHEN 'firing' THEN t.of_firing WHEN 'resolved' THEN t.of_resolved ELSE t.known END
	FROM (
		SELECT l.alert_id, l.group_id, l.kind, l.state AS status FROM listed AS l WHERE l.told
		UNION ALL
		SELECT m.alert_id, m.group_id, 'known', 'known' FROM marked AS m WHERE NOT m.told
	) AS e
	JOIN texts AS t ON t.group_id = e.group_id
	ORDER BY e.alert_id, e.group_id;
END $$;
COMMENT ON FUNCTION monitoring.record_decisions(bigint[], monitoring.group_decision[], timestamptz, timestamptz) IS 'Note what the receivers know of groups once decisions have been carried out; what an alert''s receivers were told becomes an event of the alert. now_at is the real time at which that was enqueued.';

CREATE FUNCTION monitoring.remove_ended(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH ended AS MATERIALIZED (
		SELECT m.group_id, m.fingerprint, m.alert_id, m.state, m.suppressed_by, coalesce(m.told_at + r.repeat_every > s.tick, false) AS cooling,
			m.state = 'resolved' AND m.told_alert_id IS DISTINCT FROM m.alert_id AS untold
		FROM monitoring.alert_group_members AS m
		JOIN monitoring.group_settings(group_ids, remove_ended.at) AS s ON s.group_id = m.group_id
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = m.rule_id AND r.repeat_every IS NOT NULL
		WHERE m.group_id = ANY (group_ids)
			-- a digest that may not be sent now lists them the next time
			AND (m.state = 'cooling' OR m.state = 'resolved' AND NOT (s.digest IS NOT NULL AND s.muted_by IS NOT NULL))
	), noted AS (
		INSERT INTO monitoring.alert_events (at, alert_id, kind, details)
		SELECT remove_ended.at, n.alert_id, 'routed', a.details
		FROM ended AS n
		JOIN monitoring.group_about(group_ids) AS a ON a.group_id = n.group_id
		WHERE n.untold
	), forgotten AS (
		-- A receiver that was not told of the end is told when the alert fires again; Alertmanager would leave it at that
		-- until the repeat interval has elapsed.
		UPDATE monitoring.alert_group_receivers AS e
		SET firing = ARRAY(SELECT unnest(e.firing) EXCEPT SELECT n.fingerprint FROM ended AS n WHERE n.group_id = e.group_id AND n.suppressed_by IS NOT NULL)
		WHERE e.firing <> '{}' AND e.group_id IN (SELECT n.group_id FROM ended AS n WHERE n.state = 'resolved' AND n.suppressed_by IS NOT NULL)
	), kept AS (
		UPDATE monitoring.alert_group_members AS m SET state = 'cooling', told_alert_id = NULL, suppressed_by = NULL
		FROM ended AS n
		WHERE m.group_id = n.group_id AND m.fingerprint = n.fingerprint AND n.cooling AND n.state = 'resolved' AND m.group_id = ANY (group_ids)
	)
	DELETE FROM monitoring.alert_group_members AS m
	USING ended AS n
	WHERE m.group_id = n.group_id AND m.fingerprint = n.fingerprint AND NOT n.cooling AND m.group_id = ANY (group_ids);
END $$;
COMMENT ON FUNCTION monitoring.remove_ended(bigint[], timestamptz) IS 'Take resolved alerts out of groups once they have been looked at, told or not; those that must not be told of again for a while stay as cooling.';

CREATE FUNCTION monitoring.schedule_groups(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	WITH state AS MATERIALIZED (
		SELECT s.group_id, s.tick, s.group_interval, s.repeat_interval, s.digest, s.told,
			count(*) FILTER (WHERE m.state <> 'cooling') AS alive,
			-- What keeps an alert quiet may end by itself. One that was told of before may be missing in what was told since;
			-- a digest tells of nothing again.
			bool_or(m.state = 'resolved' OR m.state = 'firing' AND m.suppressed_by IS NOT NULL
				AND (s.digest IS NULL OR m.told_alert_id IS DISTINCT FROM m.alert_id)) AS waiting,
			min(coalesce(r.repeat_every, s.repeat_interval)) FILTER (WHERE m.state = 'firing') AS repeat_every,
			max(m.told_at + r.repeat_every) FILTER (WHERE m.state = 'cooling') AS cool_at
		FROM monitoring.group_settings(group_ids, schedule_groups.at) AS s
		LEFT JOIN monitoring.alert_group_members AS m ON m.group_id = s.group_id AND m.group_id = ANY (group_ids)
		LEFT JOIN monitoring.alert_rule_defs AS r ON r.id = m.rule_id AND r.repeat_every IS NOT NULL
		GROUP BY s.group_id, s.tick, s.group_interval, s.repeat_interval, s.digest, s.told
	), known AS MATERIALIZED (
		SELECT e.group_id, min(e.notified_at) AS notified_at
		FROM monitoring.alert_group_receivers AS e
		JOIN state AS s ON s.group_id = e.group_id
		WHERE e.group_id = ANY (group_ids) AND e.receiver = ANY (s.told)
		GROUP BY e.group_id
	), planned AS MATERIALIZED (
		SELECT s.group_id, s.tick, s.alive > 0 AS open, CASE
			WHEN s.alive = 0 THEN s.cool_at
			WHEN s.digest IS NOT NULL THEN CASE WHEN s.waiting THEN monitoring.next_digest(s.digest, schedule_groups.at) END
			WHEN s.waiting THEN s.tick + p.pause
			ELSE greatest(s.tick + p.pause, monitoring.next_tick(s.tick, s.group_interval,
				coalesce(k.notified_at, s.tick) + coalesce(s.repeat_every, s.repeat_interval)))
			END AS due_at
		FROM state AS s
		LEFT JOIN known AS k ON k.group_id = s.group_id
		CROSS JOIN LATERAL (SELECT CASE WHEN s.group_interval > '0' THEN s.group_interval ELSE interval '10 seconds' END) AS p (pause)
	), gone AS (
		DELETE FROM monitoring.alert_groups AS g USING planned AS p WHERE g.id = p.group_id AND NOT p.open AND p.due_at IS NULL
	), unknown AS (
		DELETE FROM monitoring.alert_group_receivers AS e USING planned AS p WHERE e.group_id = p.group_id AND NOT p.open AND e.group_id = ANY (group_ids)
	)
	UPDATE monitoring.alert_groups AS g
	SET flushed_at = p.tick, opened_at = CASE WHEN p.open THEN g.opened_at END, due_at = p.due_at
	FROM planned AS p
	WHERE g.id = p.group_id AND (p.open OR p.due_at IS NOT NULL);
END $$;
COMMENT ON FUNCTION monitoring.schedule_groups(bigint[], timestamptz) IS 'When groups that have been looked at are due again: after group_interval while an alert waits to be told or is suppressed, otherwise when they are to be repeated. A group whose alerts have ended goes; one that has to remember some of them for a while stays that long.';

CREATE FUNCTION monitoring.flush_groups(at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- the rest is the next evaluation's
	due bigint[] := ARRAY(SELECT g.id FROM monitoring.alert_groups AS g WHERE g.due_at <= flush_groups.at ORDER BY g.due_at LIMIT 10000);
	decisions monitoring.group_decision[];
	now_at timestamptz := clock_timestamp();
BEGIN
	IF due = '{}' THEN
		RETURN 0;
	END IF;
	PERFORM monitoring.refresh_suppressions(due, at);
	decisions := ARRAY(SELECT d FROM monitoring.group_decisions(due, at) AS d);
	IF decisions <> '{}' THEN
		PERFORM monitoring.enqueue_decisions(decisions, at, now_at);
	END IF;
	PERFORM monitoring.record_decisions(due, decisions, at, now_at);
	PERFORM monitoring.start_escalations(due, at);
	PERFORM monitoring.tell_acknowledged(due, at);
	PERFORM monitoring.remove_ended(due, at);
	PERFORM monitoring.schedule_groups(due, at);
	RETURN cardinality(decisions);
END $$;
COMMENT ON FUNCTION monitoring.flush_groups(timestamptz) IS 'Look at the groups that are due, at most 10,000 of them, and tell their receivers what Alertmanager would tell them. Returns how many receivers of groups were told.';

CREATE FUNCTION monitoring.tell_again(group_ids bigint[], receivers text[], reason text, at timestamptz, now_at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.ensure_partition('outbox', now_at);
	WITH told AS MATERIALIZED (
		SELECT DISTINCT t.group_id, t.receiver FROM unnest(group_ids, receivers) AS t (group_id, receiver)
	), listed AS MATERIALIZED (
		SELECT t.group_id, t.receiver, m.alert_id, x.document,
			row_number() OVER so_far AS place, sum(octet_length(x.document::text)) OVER so_far AS bytes
		FROM told AS t
		JOIN monitoring.alert_group_receivers AS e ON e.group_id = t.group_id AND e.receiver = t.receiver
		JOIN monitoring.alert_group_members AS m ON m.group_id = t.group_id AND m.state IN ('firing', 'moved') AND m.fingerprint = ANY (e.firing)
		LEFT JOIN monitoring.alert_handling AS n ON n.alert_id = m.alert_id
		CROSS JOIN LATERAL monitoring.member_document(m.alert_id, 'firing', m.history_at, m.history_id,
			n.acknowledged_at IS NOT NULL AND coalesce(n.acknowledged_until > tell_again.at, true)) AS x
		WINDOW so_far AS (PARTITION BY t.group_id, t.receiver ORDER BY m.history_at, m.history_id)
	), parts AS (
		SELECT l.group_id, l.receiver, (l.place - 1) / 100 + l.bytes / 200000 AS part, array_agg(l.alert_id ORDER BY l.place) AS alert_ids,
			jsonb_agg(l.document ORDER BY l.place) AS alerts
		FROM listed AS l
		GROUP BY l.group_id, l.receiver, (l.place - 1) / 100 + l.bytes / 200000
	)
	INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT now_at, tell_again.at, p.receiver, g.group_key, coalesce(g.labels ->> 'alertname', p.alerts -> 0 -> 'labels' ->> 'alertname', ''), tell_again.reason, p.alert_ids,
		monitoring.make_payload(p.receiver, g.group_key, 'firing', g.labels, p.alerts, jsonb_build_object('reason', tell_again.reason)),
		now_at, now_at + monitoring.max_age(f.config)
	FROM parts AS p
	JOIN monitoring.alert_groups AS g ON g.id = p.group_id
	JOIN monitoring.receiver_defs AS f ON f.name = p.receiver
	ORDER BY p.group_id, p.receiver, p.part;
END $$;
COMMENT ON FUNCTION monitoring.tell_again(bigint[], text[], text, timestamptz, timestamptz) IS 'Tell receivers (the n-th of the n-th group) again which of the alerts that they know of still fire, whatever is suppressed now, at most a hundred and about 200 kB in each notification, whose status is the reason; now_at is the real time.';

CREATE FUNCTION monitoring.keep_alive(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	group_ids bigint[];
	receivers text[];
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.receiver_kinds AS k JOIN monitoring.receiver_defs AS r ON r.kind = k.kind WHERE k.keep_alive IS NOT NULL AND r.enabled) THEN
		RETURN;
	END IF;
	-- What was told is not all there is when it was more than fits into one notification. While an earlier one waits there
	-- is no sense in another.
	WITH due AS (
		UPDATE monitoring.alert_group_receivers AS e SET kept_at = keep_alive.at
		FROM (SELECT r.name, coalesce(make_interval(secs => (r.config ->> 'keep_alive_seconds')::float8), k.keep_alive) AS every
			FROM monitoring.receiver_defs AS r JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
			WHERE k.keep_alive IS NOT NULL AND r.enabled) AS r
		WHERE e.receiver = r.name AND e.firing <> '{}'
			AND (greatest(e.kept_at, e.notified_at) + r.every <= keep_alive.at OR e.kept_at IS NULL AND cardinality(e.firing) > 100)
		RETURNING e.group_id, e.receiver
	)
	SELECT array_agg(d.group_id ORDER BY d.group_id, d.receiver), array_agg(d.receiver ORDER BY d.group_id, d.receiver) INTO group_ids, receivers
	FROM due AS d
	JOIN monitoring.alert_groups AS g ON g.id = d.group_id
	WHERE NOT EXISTS (SELECT FROM monitoring.outbox AS o
		WHERE o.receiver || E'\n' || o.group_key = d.receiver || E'\n' || g.group_key AND o.state IN ('queued', 'sending', 'failed')
			AND o.status = 'still firing');
	IF group_ids IS NOT NULL THEN
		PERFORM monitoring.tell_again(group_ids, receivers, 'still firing', at, clock_timestamp());
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.keep_alive(timestamptz) IS 'Tell receivers that would take silence for the end of an alert (receiver_kinds.keep_alive) what still fires of what they were told, once the interval has passed; also what is acknowledged or suppressed meanwhile.';

CREATE FUNCTION monitoring.tell_acknowledged(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ids bigint[];
	receivers text[];
BEGIN
	WITH known AS MATERIALIZED (
		SELECT e.group_id, e.receiver, bool_and(n.acknowledged_at IS NOT NULL AND coalesce(n.acknowledged_until > tell_acknowledged.at, true)) AS acknowledged
		FROM monitoring.alert_group_receivers AS e
		JOIN monitoring.receiver_defs AS r ON r.name = e.receiver AND r.enabled
		JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.tell_acknowledged
		JOIN monitoring.alert_group_members AS m ON m.group_id = e.group_id AND m.state = 'firing' AND m.fingerprint = ANY (e.firing)
		LEFT JOIN monitoring.alert_handling AS n ON n.alert_id = m.alert_id
		WHERE e.group_id = ANY (group_ids)
		GROUP BY e.group_id, e.receiver
	), changed AS (
		UPDATE monitoring.alert_group_receivers AS e SET acknowledged = k.acknowledged
		FROM known AS k
		WHERE e.group_id = k.group_id AND e.receiver = k.receiver AND e.acknowledged <> k.acknowledged
		RETURNING e.group_id, e.receiver, e.acknowledged
	)
	SELECT array_agg(c.group_id ORDER BY c.group_id, c.receiver), array_agg(c.receiver ORDER BY c.group_id, c.receiver) INTO ids, receivers
	FROM changed AS c WHERE c.acknowledged;
	IF ids IS NOT NULL THEN
		PERFORM monitoring.tell_again(ids, receivers, 'acknowledged', at, clock_timestamp());
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.tell_acknowledged(bigint[], timestamptz) IS 'Tell receivers that want to know it (receiver_kinds.tell_acknowledged) which of these groups are acknowledged: every alert of them that they know of.';

-- Plans for the arrays at hand: one that suits a single alert takes hours for 100,000.
CREATE FUNCTION monitoring.route_alerts(transitions bigint[], at timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off SET work_mem = '64MB' AS $$
DECLARE
	history_ids bigint[];
	history_ats timestamptz[];
	kinds text[];
	rerouted bigint[];
	woken bigint[];
	late_ids bigint[];
	late_ats timestamptz[];
	taken_care_of bigint[];
	told integer;
BEGIN
	WITH asked AS (
		DELETE FROM monitoring.routing_queue AS q RETURNING q.id, q.kind, q.history_at, q.history_id, q.rule_id, q.alert_id
	)
	SELECT array_agg(q.history_id ORDER BY q.id) FILTER (WHERE q.kind = 'transition'),
		array_agg(q.history_at ORDER BY q.id) FILTER (WHERE q.kind = 'transition'), array_agg(DISTINCT q.kind),
		CASE WHEN bool_and(q.rule_id IS NOT NULL) FILTER (WHERE q.kind = 'reroute') THEN array_agg(q.rule_id) FILTER (WHERE q.kind = 'reroute') END,
		CASE WHEN bool_and(q.rule_id IS NOT NULL) FILTER (WHERE q.kind = 'wake') THEN array_agg(q.rule_id) FILTER (WHERE q.kind = 'wake') END,
		array_agg(q.history_id) FILTER (WHERE q.kind = 'incident'), array_agg(q.history_at) FILTER (WHERE q.kind = 'incident'),
		array_agg(q.alert_id) FILTER (WHERE q.kind = 'acknowledged')
	INTO history_ids, history_ats, kinds, rerouted, woken, late_ids, late_ats, taken_care_of
	FROM asked AS q;
	-- what has failed for an hour is given up
	PERFORM monitoring.update_incidents(array_agg(u.id), u.at, true) FROM unnest(late_ids, late_ats) AS u (id, at)
	WHERE u.at > route_alerts.at - '1 hour'::interval
	GROUP BY u.at ORDER BY u.at;
	history_ids := history_ids || transitions;
	history_ats := history_ats || array_fill(at, ARRAY[coalesce(cardinality(transitions), 0)]);

	IF history_ids <> '{}' OR kinds <> '{}' OR EXISTS (SELECT FROM monitoring.alert_groups AS g WHERE g.due_at <= route_alerts.at) THEN
		PERFORM monitoring.ensure_partition('alert_events', at);
	END IF;
	IF history_ids <> '{}' THEN
		PERFORM monitoring.ensure_partition('outbox', clock_timestamp());
		PERFORM monitoring.update_incidents(array_agg(u.id), u.at) FROM unnest(history_ids, history_ats) AS u (id, at) GROUP BY u.at;
		PERFORM monitoring.end_escalations(history_ids, history_ats, at);
		PERFORM monitoring.group_resolved(history_ids, history_ats, at);
		PERFORM monitoring.group_firing(history_ids, history_ats, at);
	END IF;
	IF 'reroute' = ANY (kinds) THEN
		PERFORM monitoring.reroute_alerts(rerouted, at);
	END IF;
	IF 'wake' = ANY (kinds) THEN
		PERFORM monitoring.wake_groups(woken, at);
	END IF;
	PERFORM monitoring.escalate(at);
	told := monitoring.flush_groups(at);
	IF taken_care_of <> '{}' THEN
		PERFORM monitoring.tell_acknowledged(ARRAY(SELECT DISTINCT m.group_id FROM monitoring.alert_group_members AS m WHERE m.alert_id = ANY (taken_care_of)), at);
	END IF;
	PERFORM monitoring.keep_alive(at);
	RETURN told;
END $$;
COMMENT ON FUNCTION monitoring.route_alerts(bigint[], timestamptz) IS 'What an evaluation does about incidents and notifications: let alerts of transitions (alert_history.id) that it made at that time take their routes, do what sessions asked for, and tell the receivers of groups that are due. Evaluations only; sessions use queue_transitions.';

CREATE VIEW monitoring.notification_groups AS
	SELECT g.id, g.group_key, r.name AS route, d.name AS rule, g.labels, m.firing, m.resolved, m.suppressed, g.opened_at, g.flushed_at, g.due_at,
		e.notified_at, coalesce(e.receivers, '{}') AS notified
	FROM monitoring.alert_groups AS g
	LEFT JOIN monitoring.routes AS r ON r.id OPERATOR(pg_catalog.=) g.route_id
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.id OPERATOR(pg_catalog.=) g.rule_id
	CROSS JOIN LATERAL (
		SELECT pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing') AS firing,
			pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'resolved') AS resolved,
			pg_catalog.count(a.suppressed_by) AS suppressed
		FROM monitoring.alert_group_members AS a
		WHERE a.group_id OPERATOR(pg_catalog.=) g.id) AS m
	CROSS JOIN LATERAL (
		SELECT pg_catalog.max(a.notified_at) AS notified_at,
			pg_catalog.array_agg(a.receiver ORDER BY a.receiver) FILTER (WHERE a.firing OPERATOR(pg_catalog.<>) '{}') AS receivers
		FROM monitoring.alert_group_receivers AS a
		WHERE a.group_id OPERATOR(pg_catalog.=) g.id) AS e
	WHERE g.opened_at IS NOT NULL;
COMMENT ON VIEW monitoring.notification_groups IS 'Groups of alerts that are notified together, and when that happens next.';
COMMENT ON COLUMN monitoring.notification_groups.id IS 'Number of the group.';
COMMENT ON COLUMN monitoring.notification_groups.group_key IS 'Key of the group, as receivers get it.';
COMMENT ON COLUMN monitoring.notification_groups.route IS 'Route that made it; null for a rule''s own group.';
COMMENT ON COLUMN monitoring.notification_groups.rule IS 'Rule whose own group it is; null for a route''s.';
COMMENT ON COLUMN monitoring.notification_groups.labels IS 'Labels by which its alerts are grouped.';
COMMENT ON COLUMN monitoring.notification_groups.firing IS 'Number of firing alerts.';
COMMENT ON COLUMN monitoring.notification_groups.resolved IS 'Number of resolved alerts whose end is still to be told.';
COMMENT ON COLUMN monitoring.notification_groups.suppressed IS 'Number of alerts of which nobody is told (silence, inhibition, mute time and so on), when the group was last looked at.';
COMMENT ON COLUMN monitoring.notification_groups.opened_at IS 'When its first alert came.';
COMMENT ON COLUMN monitoring.notification_groups.flushed_at IS 'When it was last looked at; null: it still waits for further alerts.';
COMMENT ON COLUMN monitoring.notification_groups.due_at IS 'When it is looked at next; null: when an alert comes or goes.';
COMMENT ON COLUMN monitoring.notification_groups.notified_at IS 'When somebody was last told of it.';
COMMENT ON COLUMN monitoring.notification_groups.notified IS 'Receivers that know of firing alerts in it.';
-- alerts, explanation: why somebody was told of an alert or not, and a way to try out how an alert would get to people.
--
-- explain_alert computes nothing anew: it reads what the evaluation and the dispatch have decided and recorded. Only what
-- holds back an alert now is asked of the functions that the dispatch asks.

CREATE FUNCTION monitoring.explain_value(alert_id bigint, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
			WHEN s.origin = 'no_data' THEN 'no data'
			WHEN s.origin = 'rule_error' THEN 'the rule is in error'
			WHEN s.state = 'resolved' THEN format('it ended with %s', coalesce(monitoring.short_number(s.value), 'no value'))
			WHEN s.missing_since IS NOT NULL THEN format('no data since %s; the last value was %s', monitoring.format_time(s.missing_since),
				coalesce(monitoring.short_number(s.value), 'none'))
			WHEN s.clear_since IS NOT NULL THEN format('%s %s %s no longer holds; kept firing for %s since %s', coalesce(monitoring.short_number(s.value), 'no value'),
				d.op, monitoring.short_number(coalesce(d.resolve_threshold, s.threshold)), d.keep_firing_for, monitoring.format_time(s.clear_since))
			WHEN s.state = 'pending' THEN format('%s %s %s holds; it fires at %s', monitoring.short_number(s.value), d.op,
				monitoring.short_number(s.threshold), monitoring.format_time(s.active_at + d.pending_for))
			ELSE format('%s %s %s holds', monitoring.short_number(s.value), d.op,
				monitoring.short_number(coalesce(d.resolve_threshold, s.threshold))) END,
		jsonb_strip_nulls(jsonb_build_object('value', s.value::text, 'op', d.op, 'threshold', s.threshold::text, 'resolve_threshold', d.resolve_threshold::text,
			'at', s.updated_at, 'active_at', s.active_at, 'missing_since', s.missing_since, 'clear_since', s.clear_since, 'details', s.details))
	FROM monitoring.alert_states AS s
	JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
	WHERE s.alert_id = explain_value.alert_id
$$;
COMMENT ON FUNCTION monitoring.explain_value(bigint, timestamptz) IS 'Part of explain_alert: the value of an alert at its last change and the comparison; no row once the alert is forgotten.';

CREATE FUNCTION monitoring.explain_rule(rule_id bigint, rule_name text, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
			WHEN d.id IS NULL THEN 'it has been dropped'
			WHEN NOT d.enabled THEN 'it is disabled'
			WHEN d.active_times IS NOT NULL AND NOT monitoring.time_matches(d.active_times, explain_rule.at, true) THEN 'it is not evaluated outside its active times'
			WHEN d.last_error IS NOT NULL THEN 'it cannot be evaluated: ' || d.last_error
			ELSE 'it is evaluated' END,
		jsonb_strip_nulls(jsonb_build_object('rule', rule_name, 'kind', d.kind, 'metric', d.metric, 'fn', d.fn, 'over', d.over, 'every', d.every,
			'pending_for', nullif(d.pending_for, '0'), 'keep_firing_for', nullif(d.keep_firing_for, '0'), 'max_age', d.max_age, 'no_data', d.no_data,
			'on_error', d.on_error, 'last_error_at', d.last_error_at, 'receivers', to_jsonb(d.receivers), 'repeat_every', d.repeat_every))
	FROM (SELECT) AS one
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = explain_rule.rule_id
$$;
COMMENT ON FUNCTION monitoring.explain_rule(bigint, text, timestamptz) IS 'Part of explain_alert: the state of the rule.';

CREATE FUNCTION monitoring.explain_routes(alert_id bigint) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN e.details ? 'route' THEN format('%s, as %s fits', e.details ->> 'route', regexp_replace(e.details ->> 'group_key', '\}:\{.*$', '}'))
			ELSE 'past the routes, to the receivers of the rule' END,
		e.details - 'route' || jsonb_build_object('at', e.at)
	FROM monitoring.entered_groups(ARRAY[explain_routes.alert_id]) AS e
	ORDER BY e.at, e.details -> 'group'
$$;
COMMENT ON FUNCTION monitoring.explain_routes(bigint) IS 'Part of explain_alert: the routes that an alert took when it fired.';

CREATE FUNCTION monitoring.explain_groups(alert_id bigint, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE m.state
			WHEN 'resolved' THEN 'its end is told when the group is due'
			WHEN 'moved' THEN 'it goes another way now; here only its end is told'
			WHEN 'cooling' THEN 'it has ended, and is not told of again before the rule''s repeat_every'
			ELSE CASE
				WHEN m.suppressed_by IS NOT NULL THEN 'held back: ' || m.suppressed_by
				WHEN g.flushed_at IS NULL THEN 'it waits for further alerts'
				WHEN m.told_alert_id IS DISTINCT FROM m.alert_id THEN 'it is told when the group is due'
				WHEN m.acknowledged THEN 'told; not repeated, as it is acknowledged'
				ELSE 'told' END END
			|| coalesce('; due at ' || monitoring.format_time(g.due_at), ''),
		jsonb_strip_nulls(jsonb_build_object('group', g.id, 'group_key', g.group_key, 'route', r.name, 'alerts', (
				SELECT count(*) FROM monitoring.alert_group_members AS o WHERE o.group_id = g.id AND o.state = 'firing'),
			'opened_at', g.opened_at, 'flushed_at', g.flushed_at, 'due_at', g.due_at, 'told_at', m.told_at, 'suppressed_by', m.suppressed_by,
			'group_interval', s.group_interval, 'repeat_interval', coalesce(d.repeat_every, s.repeat_interval), 'digest', s.digest,
			'receivers', to_jsonb(s.told), 'known_to', (SELECT jsonb_agg(e.receiver ORDER BY e.receiver)
				FROM monitoring.alert_group_receivers AS e WHERE e.group_id = g.id AND m.fingerprint = ANY (e.firing))))
	FROM monitoring.alert_group_members AS m
	JOIN monitoring.alert_groups AS g ON g.id = m.group_id
	JOIN monitoring.group_settings(ARRAY(SELECT o.group_id FROM monitoring.alert_group_members AS o WHERE o.alert_id = explain_groups.alert_id),
		explain_groups.at) AS s ON s.group_id = g.id
	LEFT JOIN monitoring.routes AS r ON r.id = g.route_id
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.id = m.rule_id
	WHERE m.alert_id = explain_groups.alert_id
	ORDER BY g.id
$$;
COMMENT ON FUNCTION monitoring.explain_groups(bigint, timestamptz) IS 'Part of explain_alert: the groups that hold an alert and when they are due.';

CREATE FUNCTION monitoring.explain_suppressions(alert_id bigint, at timestamptz) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.reason, s.details
	FROM monitoring.alert_suppressions(ARRAY[explain_suppressions.alert_id], explain_suppressions.at) AS s
	UNION ALL
	SELECT g.muted_by, jsonb_build_object('group', g.group_id)
	FROM monitoring.group_settings(ARRAY(SELECT o.group_id FROM monitoring.alert_group_members AS o WHERE o.alert_id = explain_suppressions.alert_id),
		explain_suppressions.at) AS g
	WHERE g.muted_by IS NOT NULL
	UNION ALL
	SELECT 'cooldown', jsonb_build_object('group', m.group_id, 'until', m.told_at + d.repeat_every)
	FROM monitoring.alert_group_members AS m
	JOIN monitoring.alert_rule_defs AS d ON d.id = m.rule_id
	WHERE m.alert_id = explain_suppressions.alert_id AND m.state = 'firing' AND m.told_alert_id IS DISTINCT FROM m.alert_id
		AND m.told_at + d.repeat_every > explain_suppressions.at
$$;
COMMENT ON FUNCTION monitoring.explain_suppressions(bigint, timestamptz) IS 'Part of explain_alert: what holds an alert back at that time.';

CREATE FUNCTION monitoring.explain_notifications(alert_id bigint) RETURNS TABLE (verdict text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
			WHEN r.key IS NULL THEN 'nobody: it fired again before the group was due, and its receivers know that it fires'
			WHEN r.value ->> 'notification' IS NULL THEN format('%s was not told that it is %s: it does not want to know', r.key, e.details ->> 'status')
			ELSE format('%s: %s, %s', r.key, e.details ->> 'status', coalesce(o.state, 'no longer on record')) END,
		jsonb_strip_nulls(jsonb_build_object('at', e.at, 'group', e.details -> 'group', 'reason', r.value ->> 'reason', 'notification', r.value -> 'notification',
			'attempts', o.attempts, 'http_status', o.http_status, 'error', o.error, 'sent_at', o.sent_at,
			'next_attempt_at', CASE WHEN o.state IN ('queued', 'failed') THEN o.next_attempt_at END, 'tries', (
				SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('at', a.at, 'outcome', a.outcome, 'http_status', a.http_status, 'error', a.error))
					ORDER BY a.attempt)
				FROM monitoring.delivery_attempts AS a
				WHERE a.notification_id = (r.value ->> 'notification')::bigint AND a.at >= (e.details ->> 'enqueued_at')::timestamptz)))
	FROM monitoring.alert_events AS e
	LEFT JOIN LATERAL jsonb_each(e.details -> 'receivers') AS r ON true
	LEFT JOIN LATERAL (
		SELECT * FROM monitoring.outbox AS b
		WHERE b.created_at = (e.details ->> 'enqueued_at')::timestamptz AND b.id = (r.value ->> 'notification')::bigint) AS o ON true
	WHERE e.alert_id = explain_notifications.alert_id AND e.kind IN ('notified', 'digest', 'known')
	ORDER BY e.id, r.key
$$;
COMMENT ON FUNCTION monitoring.explain_notifications(bigint) IS 'Part of explain_alert: who was told of an alert, why and with which outcome.';

CREATE FUNCTION monitoring.explain_next(last monitoring.alert_history, receivers text[], at timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN last.to_state = 'pending' THEN 'it fires when its breach has lasted long enough; then it takes its routes'
		WHEN receivers = '{}' THEN 'nobody is told: the rule names no receivers'
		WHEN EXISTS (SELECT FROM monitoring.routing_queue AS q WHERE q.history_id = last.id) THEN 'the next evaluation notes its end'
		WHEN m.groups IS NULL THEN 'nothing'
		WHEN last.to_state = 'resolved' THEN 'its end is told, to those who were told of it, at ' || coalesce(monitoring.format_time(m.due_at), 'the next digest')
		WHEN NOT m.heard THEN 'nobody is told: no receiver of its routes is enabled'
		WHEN m.held THEN 'it is told once nothing holds it back; the group is looked at again at ' || coalesce(monitoring.format_time(m.due_at), 'the next digest')
		WHEN m.waits THEN 'it is told at ' || coalesce(monitoring.format_time(m.due_at), 'the next digest')
		WHEN m.due_at IS NULL THEN 'its end is told in the next digest after it'
		WHEN m.acknowledged THEN 'its end is told; it is not repeated while it is acknowledged'
		ELSE 'it is repeated at ' || monitoring.format_time(m.due_at) || ', if it still fires and is not acknowledged' END
	FROM (
		SELECT max(g.id) AS groups, min(g.due_at) AS due_at, bool_and(o.acknowledged) AS acknowledged,
			bool_or(o.state = 'firing' AND o.told_alert_id IS DISTINCT FROM o.alert_id) AS waits, bool_and(o.suppressed_by IS NOT NULL) AS held,
			bool_or(s.told <> '{}') AS heard
		FROM monitoring.alert_group_members AS o
		JOIN monitoring.alert_groups AS g ON g.id = o.group_id
		JOIN monitoring.group_settings(ARRAY(SELECT i.group_id FROM monitoring.alert_group_members AS i WHERE i.alert_id = last.alert_id), explain_next.at) AS s
			ON s.group_id = g.id
		WHERE o.alert_id = last.alert_id AND o.state IN ('firing', 'resolved', 'moved')) AS m
$$;
COMMENT ON FUNCTION monitoring.explain_next(monitoring.alert_history, text[], timestamptz) IS 'Part of explain_alert: what happens next. last is the alert''s last transition, receivers those of its rule.';

CREATE FUNCTION monitoring.explain_alert(alert_id bigint, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (step text, verdict text, details jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	last monitoring.alert_history;
	receivers text[];
BEGIN
	PERFORM monitoring.check_alert(explain_alert.alert_id, true);
	SELECT h.* INTO last FROM monitoring.alert_history AS h WHERE h.alert_id = explain_alert.alert_id ORDER BY h.id DESC LIMIT 1;
	SELECT d.receivers INTO receivers FROM monitoring.alert_rule_defs AS d WHERE d.id = last.rule_id;

	RETURN QUERY SELECT 'alert', format('%s since %s', last.to_state, monitoring.format_time(last.at)), jsonb_build_object('rule', last.rule_name,
		'severity', last.severity, 'labels', last.labels, 'fingerprint', last.fingerprint);
	RETURN QUERY SELECT 'rule', r.* FROM monitoring.explain_rule(last.rule_id, last.rule_name, explain_alert.at) AS r;
	RETURN QUERY SELECT 'value', v.* FROM monitoring.explain_value(explain_alert.alert_id, explain_alert.at) AS v;
	RETURN QUERY SELECT 'transition', format('%s to %s: %s', h.from_state, h.to_state, h.reason), jsonb_strip_nulls(jsonb_build_object('at', h.at,
			'value', h.value::text, 'op', h.op, 'threshold', h.threshold::text))
		FROM (SELECT * FROM monitoring.alert_history AS t WHERE t.alert_id = explain_alert.alert_id ORDER BY t.id DESC LIMIT 20) AS h
		ORDER BY h.id;
	RETURN QUERY SELECT 'route', r.* FROM monitoring.explain_routes(explain_alert.alert_id) AS r;
	RETURN QUERY SELECT 'group', g.* FROM monitoring.explain_groups(explain_alert.alert_id, explain_alert.at) AS g;
	RETURN QUERY SELECT 'suppression', s.* FROM monitoring.explain_suppressions(explain_alert.alert_id, explain_alert.at) AS s;
	RETURN QUERY SELECT 'event', 'incident', i.details || jsonb_build_object('at', i.at) FROM monitoring.incident_joined(explain_alert.alert_id) AS i;
	RETURN QUERY SELECT 'event', e.kind || coalesce(': ' || (e.details ->> 'reason'), '') || coalesce(' by ' || e.actor, ''), e.details - 'reason' || jsonb_build_object('at', e.at)
		FROM monitoring.alert_events AS e
		WHERE e.alert_id = explain_alert.alert_id AND e.kind NOT IN ('routed', 'notified', 'digest', 'known')
		ORDER BY e.id;
	RETURN QUERY SELECT 'notification', n.* FROM monitoring.explain_notifications(explain_alert.alert_id) AS n;
	RETURN QUERY SELECT 'next', monitoring.explain_next(last, receivers, explain_alert.at), '{}'::jsonb;
END $$;
COMMENT ON FUNCTION monitoring.explain_alert(bigint, timestamptz) IS 'Why somebody was told of an alert or not, read from what was decided. Steps: alert (its state), rule, value (the comparison), transition (each), route (each that it took, and why), group (its times and receivers), suppression (what holds it back at that time: silence, inhibition, parent, snoozed, dismissed, acknowledged, mute_time, active_time, cooldown), event (what else happened), notification (to whom, why and with which outcome), next. Error 42704 if there is no such alert.';

----------------------------------------------------------------------------------------------------------------------
-- Trying it out
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.simulated_document(rule monitoring.alert_rule_defs, series_labels jsonb, status text, at timestamptz) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	state monitoring.alert_states;
	annotations jsonb;
BEGIN
	state.series_labels := series_labels;
	state.value := rule.threshold;
	state.threshold := rule.threshold;
	state.origin := 'value';
	annotations := monitoring.fill_annotations(rule, state);
	RETURN monitoring.alert_document(status, rule.name, rule.severity,
		monitoring.alert_labels(rule, series_labels) || '{"simulated": "true"}',
		annotations || jsonb_build_object('summary', concat_ws(' ', '[SIMULATED]', coalesce(annotations ->> 'summary', 'This is no real alert.'))),
		state.value, rule.op, rule.threshold, at, at, left(encode(sha256(convert_to('simulated' || rule.name || series_labels::text, 'UTF8')), 'hex'), 16));
END $$;
COMMENT ON FUNCTION monitoring.simulated_document(monitoring.alert_rule_defs, jsonb, text, timestamptz) IS 'A simulated alert of a rule as receivers get it, marked by its label and its summary.';

CREATE FUNCTION monitoring.simulated_suppression(rule_id bigint, labels jsonb, at timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT min(s.reason)
	FROM (
		SELECT 'silence' AS reason
		FROM monitoring.silence_defs AS d
		WHERE d.starts_at <= simulated_suppression.at AND d.ends_at > simulated_suppression.at
			AND monitoring.labels_match(simulated_suppression.labels, d.matchers)
		UNION ALL
		SELECT i.reason FROM monitoring.inhibited_alerts('{-1}', ARRAY[simulated_suppression.labels], simulated_suppression.at) AS i
		UNION ALL
		SELECT p.reason FROM monitoring.alerts_with_firing_parent('{-1}', ARRAY[simulated_suppression.rule_id], ARRAY[simulated_suppression.labels],
			simulated_suppression.at) AS p) AS s
$$;
COMMENT ON FUNCTION monitoring.simulated_suppression(bigint, jsonb, timestamptz) IS 'What would hold back an alert of a rule with these labels: silence, inhibition or parent; null: nothing.';

CREATE FUNCTION monitoring.simulate_alert(rule text, labels jsonb DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (route text, receiver text, waits interval, held_back_by text, group_key text, notifications bigint[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition monitoring.alert_rule_defs;
	all_labels jsonb;
	suppression text;
	now_at timestamptz := clock_timestamp();
	place record;
	target record;
BEGIN
	SELECT d.* INTO definition FROM monitoring.alert_rule_defs AS d WHERE d.name = simulate_alert.rule;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', simulate_alert.rule
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
	END IF;
	labels := monitoring.check_text_map(simulate_alert.labels, 'labels', 4096);
	all_labels := monitoring.alert_labels(definition, labels)
		|| jsonb_build_object('alertname', definition.name, 'severity', definition.severity);
	suppression := monitoring.simulated_suppression(definition.id, all_labels, at);
	PERFORM monitoring.ensure_partition('outbox', now_at);

	FOR place IN
		SELECT s.name, p.group_key, p.labels, CASE WHEN p.rule_id IS NULL THEN monitoring.receivers_told(s.receivers, false)
				ELSE monitoring.receivers_told(definition.receivers, true) END AS told,
			CASE WHEN p.digest IS NULL THEN p.group_wait ELSE monitoring.next_digest(p.digest, simulate_alert.at) - simulate_alert.at END AS waits,
			coalesce(suppression, monitoring.muted_by(s.mute_times, s.active_times, simulate_alert.at)) AS held_back_by
		FROM monitoring.alert_places(ARRAY[definition.id], ARRAY[all_labels]) AS p
		LEFT JOIN monitoring.route_settings() AS s ON s.id = p.route_id
		ORDER BY s.place
	LOOP
		FOR target IN
			SELECT t.name, r.config FROM (SELECT NULL) AS one
			LEFT JOIN unnest(place.told) AS t (name) ON true
			LEFT JOIN monitoring.receiver_defs AS r ON r.name = t.name
			ORDER BY t.name
		LOOP
			route := place.name;
			receiver := target.name;
			waits := place.waits;
			held_back_by := place.held_back_by;
			group_key := place.group_key;
			notifications := NULL;
			IF receiver IS NOT NULL AND held_back_by IS NULL THEN
				WITH sent AS (
					INSERT INTO monitoring.outbox AS o (created_at, at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
					SELECT now_at, simulate_alert.at, target.name, k.key, definition.name, 'test',
						monitoring.make_payload(target.name, k.key, s.status, place.labels,
							jsonb_build_array(monitoring.simulated_document(definition, simulate_alert.labels, s.status, simulate_alert.at)),
							'{"simulated": true}'),
						now_at, now_at + monitoring.max_age(target.config)
					FROM (VALUES (1, 'firing'), (2, 'resolved')) AS s (n, status)
					-- a key of its own, so that nothing real is opened or closed by it
					CROSS JOIN (SELECT place.group_key || ' (simulated ' || monitoring.format_time(now_at) || ')') AS k (key)
					WHERE s.status = 'firing' OR coalesce((target.config ->> 'send_resolved')::boolean, true)
					ORDER BY s.n
					RETURNING o.id)
				SELECT array_agg(s.id ORDER BY s.id) INTO notifications FROM sent AS s;
			END IF;
			RETURN NEXT;
		END LOOP;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.simulate_alert(text, jsonb, timestamptz) IS 'Send an alert of a rule, with these labels besides the rule''s own, the way that it would take: it fires and is resolved at once, marked by the label simulated="true" and its summary. The rule''s alerts are not touched. One row per route and receiver: how long a real alert would wait, what would hold it back (then nothing is sent), and the numbers of the notifications, whose outcome the view notifications shows. No row: nobody would be told. Errors: 42704 if there is no such rule, 22023 for bad labels.';
-- alerts, on call: people, and who of them is on call when.
--
-- A schedule has layers, the higher ones before the lower; a layer's members take turns, each for the length of a rotation
-- that is counted in the local time of the schedule's time zone, so that hand-over stays at the same hour when clocks change.
-- An override puts somebody else in for a time. All is computed from these rows; nothing has to be written when turns change.

CREATE TABLE monitoring.contacts (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	receivers text[] NOT NULL,
	description text NOT NULL DEFAULT ''
);
COMMENT ON TABLE monitoring.contacts IS 'People, and how they are reached. Use set_contact and drop_contact to change them.';
COMMENT ON COLUMN monitoring.contacts.name IS 'Name of the person.';
COMMENT ON COLUMN monitoring.contacts.receivers IS 'Names of the receivers that reach this person.';
COMMENT ON COLUMN monitoring.contacts.description IS 'What others should know, such as a team.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.contacts', '');

CREATE TABLE monitoring.schedules (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	time_zone text NOT NULL,
	description text NOT NULL DEFAULT ''
);
COMMENT ON TABLE monitoring.schedules IS 'On-call schedules. Use create_schedule and drop_schedule to change them.';
COMMENT ON COLUMN monitoring.schedules.name IS 'Name of the schedule.';
COMMENT ON COLUMN monitoring.schedules.time_zone IS 'Time zone in which its rotations are counted.';
COMMENT ON COLUMN monitoring.schedules.description IS 'What it is for.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedules', '');

-- No foreign keys: pg_restore -j fills the tables of an extension in any order.
CREATE TABLE monitoring.schedule_layers (
	schedule text NOT NULL,
	layer integer NOT NULL,
	members text[] NOT NULL CHECK (cardinality(members) > 0),
	starts_at timestamptz NOT NULL,
	ends_at timestamptz,
	rotation interval NOT NULL CHECK (rotation > '0'),
	active_times jsonb,
	PRIMARY KEY (schedule, layer)
);
COMMENT ON TABLE monitoring.schedule_layers IS 'Layers of on-call schedules. Use set_schedule_layer to change them.';
COMMENT ON COLUMN monitoring.schedule_layers.schedule IS 'The schedule.';
COMMENT ON COLUMN monitoring.schedule_layers.layer IS 'The highest layer in which somebody is on duty counts.';
COMMENT ON COLUMN monitoring.schedule_layers.members IS 'Names of contacts who take turns, in this order.';
COMMENT ON COLUMN monitoring.schedule_layers.starts_at IS 'When the first member''s first turn begins; its hour is that of every hand-over.';
COMMENT ON COLUMN monitoring.schedule_layers.ends_at IS 'When the layer ends; null: never.';
COMMENT ON COLUMN monitoring.schedule_layers.rotation IS 'Length of a turn, in local time.';
COMMENT ON COLUMN monitoring.schedule_layers.active_times IS 'Time intervals in which the layer is on duty, as check_time_spec returns them; null: always.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedule_layers', '');

CREATE SEQUENCE monitoring.schedule_overrides_id_seq;
COMMENT ON SEQUENCE monitoring.schedule_overrides_id_seq IS 'Ids of overrides.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedule_overrides_id_seq', '');

CREATE TABLE monitoring.schedule_overrides (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.schedule_overrides_id_seq'),
	schedule text NOT NULL,
	person text NOT NULL,
	starts_at timestamptz NOT NULL,
	ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
	created_by text NOT NULL
);
COMMENT ON TABLE monitoring.schedule_overrides IS 'Who stands in for whoever would be on call. Use override_schedule and drop_override to change them.';
COMMENT ON COLUMN monitoring.schedule_overrides.id IS 'Number of the override.';
COMMENT ON COLUMN monitoring.schedule_overrides.schedule IS 'The schedule.';
COMMENT ON COLUMN monitoring.schedule_overrides.person IS 'Who is on call instead.';
COMMENT ON COLUMN monitoring.schedule_overrides.starts_at IS 'From when.';
COMMENT ON COLUMN monitoring.schedule_overrides.ends_at IS 'Until when, excluded.';
COMMENT ON COLUMN monitoring.schedule_overrides.created_by IS 'Role that made it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedule_overrides', '');
CREATE INDEX schedule_overrides_schedule ON monitoring.schedule_overrides (schedule, ends_at);

----------------------------------------------------------------------------------------------------------------------
-- Setting up
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_contacts(names text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	missing text;
BEGIN
	SELECT min(coalesce(n, 'null')) INTO missing FROM unnest(names) AS n
	WHERE NOT EXISTS (SELECT FROM monitoring.contacts AS c WHERE c.name = n);
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'contact "%" does not exist', missing
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.set_contact first.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_contacts(text[]) IS 'Raises 42704 unless all these contacts exist.';

CREATE FUNCTION monitoring.set_contact(name text, receivers text[], description text DEFAULT '') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	missing text;
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'a contact''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(coalesce(r, 'null')) INTO missing FROM unnest(receivers) AS r
	WHERE NOT EXISTS (SELECT FROM monitoring.receiver_defs AS d WHERE d.name = r);
	IF missing IS NOT NULL OR receivers IS NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', missing
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.create_receiver first.';
	END IF;
	INSERT INTO monitoring.contacts AS c VALUES (set_contact.name, set_contact.receivers, coalesce(set_contact.description, ''))
	ON CONFLICT ON CONSTRAINT contacts_pkey DO UPDATE SET receivers = excluded.receivers, description = excluded.description;
END $$;
COMMENT ON FUNCTION monitoring.set_contact(text, text[], text) IS 'Create or change a person: the receivers that reach them. Errors: 22023 for a bad name, 42704 for a receiver that does not exist.';

CREATE FUNCTION monitoring.drop_contact(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	used text;
BEGIN
	SELECT min(u.place) INTO used FROM (
		SELECT format('schedule "%s"', l.schedule) AS place FROM monitoring.schedule_layers AS l WHERE drop_contact.name = ANY (l.members)
		UNION ALL
		SELECT format('escalation policy "%s"', s.policy) FROM monitoring.escalation_steps AS s WHERE drop_contact.name = ANY (s.contacts)
	) AS u;
	IF used IS NOT NULL THEN
		RAISE EXCEPTION 'contact "%" is still needed', name
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('It is part of %s.', used);
	END IF;
	DELETE FROM monitoring.contacts AS c WHERE c.name = drop_contact.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'contact "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_contact(text) IS 'Drop a person. Errors: 42704 if there is none of this name, 2BP01 while a schedule or an escalation policy needs it.';

CREATE FUNCTION monitoring.create_schedule(name text, time_zone text DEFAULT 'UTC', description text DEFAULT '') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'a schedule''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_time_zone(coalesce(time_zone, ''));
	INSERT INTO monitoring.schedules VALUES (create_schedule.name, create_schedule.time_zone, coalesce(create_schedule.description, ''))
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.create_schedule(text, text, text) IS 'Create an on-call schedule without layers. Errors: 22023 for a bad name or an unknown time zone, 42710 if the name is taken.';

CREATE FUNCTION monitoring.drop_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	used text;
BEGIN
	SELECT min(s.policy) INTO used FROM monitoring.escalation_steps AS s WHERE drop_schedule.name = ANY (s.schedules);
	IF used IS NOT NULL THEN
		RAISE EXCEPTION 'schedule "%" is still needed', name
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('It is part of escalation policy "%s".', used);
	END IF;
	DELETE FROM monitoring.schedule_layers AS l WHERE l.schedule = drop_schedule.name;
	DELETE FROM monitoring.schedule_overrides AS o WHERE o.schedule = drop_schedule.name;
	DELETE FROM monitoring.schedules AS s WHERE s.name = drop_schedule.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_schedule(text) IS 'Drop an on-call schedule with its layers and overrides. Errors: 42704 if there is none of this name, 2BP01 while an escalation policy needs it.';

CREATE FUNCTION monitoring.set_schedule_layer(schedule text, layer integer, members text[], starts_at timestamptz,
	rotation interval DEFAULT '7 days', active_times jsonb DEFAULT NULL, ends_at timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.schedules AS s WHERE s.name = set_schedule_layer.schedule) THEN
		RAISE EXCEPTION 'schedule "%" does not exist', schedule USING ERRCODE = 'undefined_object';
	ELSIF members = '{}' THEN
		DELETE FROM monitoring.schedule_layers AS l
		WHERE l.schedule = set_schedule_layer.schedule AND l.layer = set_schedule_layer.layer;
		RETURN;
	ELSIF layer IS NULL OR members IS NULL OR array_ndims(members) > 1 OR starts_at IS NULL OR NOT isfinite(starts_at) OR ends_at <= starts_at THEN
		RAISE EXCEPTION 'a layer of a schedule has a number, members, and an end after its start' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rotation IS NULL OR rotation < '1 minute' OR rotation > '10 years' THEN
		RAISE EXCEPTION 'a turn lasts a minute to ten years' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_contacts(members);
	INSERT INTO monitoring.schedule_layers AS l
	VALUES (set_schedule_layer.schedule, set_schedule_layer.layer, set_schedule_layer.members, set_schedule_layer.starts_at,
		set_schedule_layer.ends_at, set_schedule_layer.rotation, monitoring.check_time_spec(set_schedule_layer.active_times))
	ON CONFLICT ON CONSTRAINT schedule_layers_pkey
	DO UPDATE SET members = excluded.members, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
		rotation = excluded.rotation, active_times = excluded.active_times;
END $$;
COMMENT ON FUNCTION monitoring.set_schedule_layer(text, integer, text[], timestamptz, interval, jsonb, timestamptz) IS 'Create or change a layer of a schedule: from starts_at on its members take turns of length rotation, within active_times (null: always); no members remove it. In a higher layer that is on duty nobody looks at the lower ones. Errors: 42704 for an unknown schedule or contact, 22023 for anything else that is not valid.';

CREATE FUNCTION monitoring.override_schedule(schedule text, person text, starts_at timestamptz, ends_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	other monitoring.schedule_overrides;
	new_id bigint;
BEGIN
	-- two at once must see each other
	PERFORM FROM monitoring.schedules AS s WHERE s.name = override_schedule.schedule FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" does not exist', schedule USING ERRCODE = 'undefined_object';
	ELSIF (starts_at < ends_at AND isfinite(starts_at) AND isfinite(ends_at)) IS NOT TRUE THEN
		RAISE EXCEPTION 'an override must end after it starts' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_contacts(ARRAY[person]);
	SELECT o.* INTO other FROM monitoring.schedule_overrides AS o
	WHERE o.schedule = override_schedule.schedule AND o.starts_at < override_schedule.ends_at AND o.ends_at > override_schedule.starts_at
	ORDER BY o.starts_at LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'the override overlaps another one'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('"%s" stands in from %s to %s.', other.person, other.starts_at, other.ends_at),
				HINT = format('Remove that with monitoring.drop_override(%s).', other.id);
	END IF;
	INSERT INTO monitoring.schedule_overrides (schedule, person, starts_at, ends_at, created_by)
	VALUES (override_schedule.schedule, override_schedule.person, override_schedule.starts_at, override_schedule.ends_at, monitoring.calling_role())
	RETURNING id INTO new_id;
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.override_schedule(text, text, timestamptz, timestamptz) IS 'Put somebody on call for a time, whoever else would be, and return the number of the override. Errors: 42704 for an unknown schedule or contact, 22023 for an override that ends before it starts or overlaps another.';

CREATE FUNCTION monitoring.drop_override(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.schedule_overrides AS o WHERE o.id = drop_override.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'override % does not exist', id USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_override(bigint) IS 'Remove an override. Error 42704 if it does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- Who is on call
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.who_is_on_call(schedule text, at timestamptz DEFAULT clock_timestamp()) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	zone text;
	person text;
BEGIN
	SELECT s.time_zone INTO zone FROM monitoring.schedules AS s WHERE s.name = who_is_on_call.schedule;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" does not exist', schedule USING ERRCODE = 'undefined_object';
	END IF;
	-- somebody must be on call even where the server does not know the time zone any more
	BEGIN
		PERFORM at AT TIME ZONE zone;
	EXCEPTION WHEN invalid_parameter_value THEN
		zone := 'UTC';
	END;
	SELECT o.person INTO person FROM monitoring.schedule_overrides AS o
	WHERE o.schedule = who_is_on_call.schedule AND o.starts_at <= at AND o.ends_at > at;
	IF person IS NULL THEN
		-- Turns are counted on the local clock; a rotation of months counts with 30 days each, as extract() has it.
		SELECT l.members[1 + mod(floor(extract(epoch FROM (at AT TIME ZONE zone) - (l.starts_at AT TIME ZONE zone))
				/ extract(epoch FROM l.rotation))::bigint, cardinality(l.members))] INTO person
		FROM monitoring.schedule_layers AS l
		WHERE l.schedule = who_is_on_call.schedule AND l.starts_at <= at AND coalesce(l.ends_at > at, true)
			AND coalesce(monitoring.time_matches(l.active_times, at, true), true)
		ORDER BY l.layer DESC
		LIMIT 1;
	END IF;
	RETURN person;
END $$;
COMMENT ON FUNCTION monitoring.who_is_on_call(text, timestamptz) IS 'Who is on call in a schedule at a time: an override, or else whose turn it is in the highest layer that is on duty; null: nobody. A time zone that the server does not know any more counts as UTC. Error 42704 if the schedule does not exist.';

CREATE FUNCTION monitoring.on_call_shifts(schedule text, since timestamptz DEFAULT clock_timestamp(), until timestamptz DEFAULT NULL)
RETURNS TABLE (person text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	until := coalesce(until, since + interval '28 days');
	IF (since < until AND until - since <= interval '400 days') IS NOT TRUE THEN
		RAISE EXCEPTION 'shifts are shown for at most 400 days' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- Whoever is on call changes at a quarter of an hour, as intervals of time zones and hand-overs do, or with an override.
	RETURN QUERY
	WITH moment AS (
		SELECT t FROM generate_series(date_trunc('hour', since), until, interval '15 minutes') AS t WHERE t > since AND t < until
		UNION SELECT since
		UNION SELECT b.t FROM monitoring.schedule_overrides AS o CROSS JOIN LATERAL (VALUES (o.starts_at), (o.ends_at)) AS b (t)
			WHERE o.schedule = on_call_shifts.schedule AND b.t > since AND b.t < until
	), changed AS (
		SELECT m.t, m.who, lag(m.who) OVER w IS NOT DISTINCT FROM m.who AND row_number() OVER w > 1 AS same
		FROM (SELECT i.t, monitoring.who_is_on_call(on_call_shifts.schedule, i.t) AS who FROM moment AS i) AS m
		WINDOW w AS (ORDER BY m.t)
	)
	SELECT c.who, c.t, coalesce(lead(c.t) OVER (ORDER BY c.t), until) FROM changed AS c WHERE NOT c.same ORDER BY c.t;
END $$;
COMMENT ON FUNCTION monitoring.on_call_shifts(text, timestamptz, timestamptz) IS 'The shifts of a schedule between two times (28 days from now), to a quarter of an hour; a shift of nobody (null) is a gap. At most 400 days (22023). Error 42704 if the schedule does not exist.';

CREATE FUNCTION monitoring.on_call_gaps(since timestamptz DEFAULT clock_timestamp(), until timestamptz DEFAULT NULL)
RETURNS TABLE (schedule text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.name, f.starts_at, f.ends_at
	FROM monitoring.schedules AS s
	CROSS JOIN LATERAL monitoring.on_call_shifts(s.name, on_call_gaps.since, on_call_gaps.until) AS f
	WHERE f.person IS NULL
	ORDER BY 1, 2
$$;
COMMENT ON FUNCTION monitoring.on_call_gaps(timestamptz, timestamptz) IS 'When nobody is on call, for every schedule, between two times (28 days from now).';
-- alerts, escalation: who is told next when nobody acts on an alert.
--
-- The escalation of an alert begins when somebody is first told of it through a route with a policy. Its state is a row that
-- says which step is due when; a step that is due tells its targets, unless somebody has acknowledged the alert or is not to
-- be told of it. Evaluations only write these rows.

CREATE TABLE monitoring.escalation_policies (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	repeats integer NOT NULL DEFAULT 0 CHECK (repeats BETWEEN 0 AND 100),
	description text NOT NULL DEFAULT '',
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.escalation_policies IS 'Escalation policies, which routes name. Use set_escalation_policy and drop_escalation_policy to change them.';
COMMENT ON COLUMN monitoring.escalation_policies.name IS 'Name of the policy.';
COMMENT ON COLUMN monitoring.escalation_policies.repeats IS 'How often all steps are gone through again.';
COMMENT ON COLUMN monitoring.escalation_policies.description IS 'What it is for.';
COMMENT ON COLUMN monitoring.escalation_policies.builtin IS 'True for the policy that CREATE EXTENSION made; a dump that is restored takes its place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.escalation_policies', '');

-- No foreign keys: pg_restore -j fills the tables of an extension in any order.
CREATE TABLE monitoring.escalation_steps (
	policy text NOT NULL,
	step integer NOT NULL CHECK (step > 0),
	delay interval NOT NULL CHECK (delay >= '0'),
	receivers text[] NOT NULL DEFAULT '{}',
	contacts text[] NOT NULL DEFAULT '{}',
	schedules text[] NOT NULL DEFAULT '{}',
	builtin boolean NOT NULL DEFAULT false,
	PRIMARY KEY (policy, step)
);
COMMENT ON TABLE monitoring.escalation_steps IS 'Steps of escalation policies.';
COMMENT ON COLUMN monitoring.escalation_steps.policy IS 'The policy.';
COMMENT ON COLUMN monitoring.escalation_steps.step IS 'Number of the step, from 1.';
COMMENT ON COLUMN monitoring.escalation_steps.delay IS 'How long after the step before, or after the alert was first told.';
COMMENT ON COLUMN monitoring.escalation_steps.receivers IS 'Receivers that are told; an asterisk stands for all. When none of those named exists, all are.';
COMMENT ON COLUMN monitoring.escalation_steps.contacts IS 'People that are told.';
COMMENT ON COLUMN monitoring.escalation_steps.schedules IS 'Schedules whose person on call is told.';
COMMENT ON COLUMN monitoring.escalation_steps.builtin IS 'True for the step that CREATE EXTENSION made; a dump that is restored takes its place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.escalation_steps', '');

CREATE TABLE monitoring.escalations (
	alert_id bigint PRIMARY KEY,
	policy text NOT NULL,
	step integer NOT NULL,
	round integer NOT NULL,
	due_at timestamptz NOT NULL,
	told text[] NOT NULL DEFAULT '{}',
	message_key text,
	group_labels jsonb
) WITH (fillfactor = 70);
COMMENT ON TABLE monitoring.escalations IS 'Firing alerts with an escalation policy, and which step comes next unless somebody acts.';
COMMENT ON COLUMN monitoring.escalations.alert_id IS 'The alert (alerts.alert_id).';
COMMENT ON COLUMN monitoring.escalations.policy IS 'The policy.';
COMMENT ON COLUMN monitoring.escalations.step IS 'The step that comes next.';
COMMENT ON COLUMN monitoring.escalations.round IS 'How often all steps have been gone through.';
COMMENT ON COLUMN monitoring.escalations.due_at IS 'When it comes; infinity: all steps have been taken.';
COMMENT ON COLUMN monitoring.escalations.told IS 'Receivers that steps have told, and that are told of the end.';
COMMENT ON COLUMN monitoring.escalations.message_key IS 'Group of the messages to them; null: none yet.';
COMMENT ON COLUMN monitoring.escalations.group_labels IS 'Labels of that group.';
CREATE INDEX escalations_due_at ON monitoring.escalations (due_at);
SELECT pg_catalog.pg_extension_config_dump('monitoring.escalations', '');

INSERT INTO monitoring.escalation_policies VALUES ('critical', 0, 'Critical alerts that nobody has acknowledged after 15 minutes.', true);
INSERT INTO monitoring.escalation_steps (policy, step, delay, receivers, builtin) VALUES ('critical', 1, '15 minutes', '{*}', true);

CREATE TRIGGER restore BEFORE INSERT ON monitoring.escalation_policies
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.escalation_policies IS 'When a dump is restored its policies replace those of the extension.';

CREATE TRIGGER restore BEFORE INSERT ON monitoring.escalation_steps
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.escalation_steps IS 'When a dump is restored its steps replace those of the extension.';

----------------------------------------------------------------------------------------------------------------------
-- Setting up
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.set_escalation_policy(name text, steps jsonb, repeats integer DEFAULT 0, description text DEFAULT '')
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'an escalation policy''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF steps IS NULL OR jsonb_typeof(steps) <> 'array' OR jsonb_array_length(steps) NOT BETWEEN 1 AND 50
		OR jsonb_path_exists(steps, '$[*] ? (@.type() != "object")') THEN
		RAISE EXCEPTION 'the steps of an escalation policy must be a list of 1 to 50 objects' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example: [{"delay": "15 minutes", "schedules": ["backend"]}, {"delay": "30 minutes", "receivers": ["management"]}].';
	ELSIF repeats IS NULL OR repeats NOT BETWEEN 0 AND 100 THEN
		RAISE EXCEPTION 'an escalation policy repeats its steps 0 to 100 times' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_array_elements(steps) AS s CROSS JOIN jsonb_object_keys(s) AS k
	WHERE k <> ALL ('{delay,receivers,contacts,schedules}'::text[]);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in a step of an escalation policy', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Keys are delay, receivers, contacts and schedules.';
	ELSIF EXISTS (SELECT FROM jsonb_array_elements(steps) AS s
		WHERE NOT EXISTS (SELECT FROM unnest('{receivers,contacts,schedules}'::text[]) AS k WHERE s -> k <> '[]' AND jsonb_typeof(s -> k) = 'array')) THEN
		RAISE EXCEPTION 'a step of an escalation policy must tell somebody' USING ERRCODE = 'invalid_parameter_value';
	ELSIF EXISTS (SELECT FROM jsonb_array_elements(steps) AS s WHERE (s ->> 'delay')::interval < '0' OR (s ->> 'delay')::interval > '400 days') THEN
		RAISE EXCEPTION 'the delay of a step is between zero and 400 days' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	INSERT INTO monitoring.escalation_policies AS p VALUES (set_escalation_policy.name, set_escalation_policy.repeats,
		coalesce(set_escalation_policy.description, ''))
	ON CONFLICT ON CONSTRAINT escalation_policies_pkey DO UPDATE SET repeats = excluded.repeats, description = excluded.description;
	DELETE FROM monitoring.escalation_steps AS s WHERE s.policy = set_escalation_policy.name;
	INSERT INTO monitoring.escalation_steps (policy, step, delay, receivers, contacts, schedules)
	SELECT set_escalation_policy.name, s.n, coalesce((s.step ->> 'delay')::interval, '0'),
		ARRAY(SELECT jsonb_array_elements_text(coalesce(s.step -> 'receivers', '[]'))),
		ARRAY(SELECT jsonb_array_elements_text(coalesce(s.step -> 'contacts', '[]'))),
		ARRAY(SELECT jsonb_array_elements_text(coalesce(s.step -> 'schedules', '[]')))
	FROM jsonb_array_elements(steps) WITH ORDINALITY AS s (step, n);
	IF repeats > 0 AND NOT EXISTS (SELECT FROM monitoring.escalation_steps AS s WHERE s.policy = set_escalation_policy.name AND s.delay > '0') THEN
		RAISE EXCEPTION 'steps that are repeated need a delay' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	PERFORM monitoring.check_contacts(s.contacts) FROM monitoring.escalation_steps AS s WHERE s.policy = set_escalation_policy.name;
	SELECT min(n) INTO bad FROM monitoring.escalation_steps AS s CROSS JOIN unnest(s.schedules) AS n
	WHERE s.policy = set_escalation_policy.name AND NOT EXISTS (SELECT FROM monitoring.schedules AS d WHERE d.name = n);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'schedule "%" does not exist', bad USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.set_escalation_policy(text, jsonb, integer, text) IS 'Create or change an escalation policy. steps is a list of objects with delay (after the step before, the first after the alert was first told) and whom to tell: receivers ("*" for all), contacts, schedules (whoever is on call then). repeats: how often all steps are gone through again. Alerts that are being escalated go on with the steps as they are now. Errors: 22023 for anything that is not valid, 42704 for an unknown contact or schedule.';

CREATE FUNCTION monitoring.drop_escalation_policy(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	used text;
BEGIN
	-- as who edits a route does: none comes that names it
	LOCK TABLE monitoring.routes IN SHARE ROW EXCLUSIVE MODE;
	SELECT min(r.name) INTO used FROM monitoring.routes AS r WHERE r.escalation_policy = drop_escalation_policy.name;
	IF used IS NOT NULL THEN
		RAISE EXCEPTION 'escalation policy "%" is still needed', name
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('Route "%s" names it.', used);
	END IF;
	DELETE FROM monitoring.escalation_steps AS s WHERE s.policy = drop_escalation_policy.name;
	DELETE FROM monitoring.escalation_policies AS p WHERE p.name = drop_escalation_policy.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'escalation policy "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_escalation_policy(text) IS 'Drop an escalation policy; what it was escalating is not escalated further. Errors: 42704 if there is none of this name, 2BP01 while a route names it.';

----------------------------------------------------------------------------------------------------------------------
-- What evaluations do
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.start_escalations(group_ids bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
	INSERT INTO monitoring.escalations (alert_id, policy, step, round, due_at)
	SELECT a.alert_id, a.policy, f.step, 0, start_escalations.at + f.delay
	FROM (
		SELECT m.alert_id, min(s.escalation_policy) AS policy
		FROM monitoring.group_settings(group_ids, start_escalations.at) AS s
		JOIN monitoring.alert_group_members AS m ON m.group_id = s.group_id AND m.group_id = ANY (group_ids)
		WHERE s.escalation_policy IS NOT NULL AND m.state = 'firing' AND m.told_alert_id = m.alert_id
			AND NOT EXISTS (SELECT FROM monitoring.escalations AS e WHERE e.alert_id = m.alert_id)
		GROUP BY m.alert_id) AS a
	JOIN (SELECT DISTINCT ON (o.policy) o.policy, o.step, o.delay FROM monitoring.escalation_steps AS o ORDER BY o.policy, o.step) AS f
		ON f.policy = a.policy
	ORDER BY a.alert_id;
END $$;
COMMENT ON FUNCTION monitoring.start_escalations(bigint[], timestamptz) IS 'Begin to escalate the alerts of groups that somebody has been told of, or that came back before anybody was told of their end, where the route has a policy; of several the first by name. One that is being escalated, or has been, stays as it is.';

CREATE FUNCTION monitoring.end_escalations(history_ids bigint[], history_ats timestamptz[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
	times CONSTANT timestamptz[] := ARRAY(SELECT DISTINCT t FROM unnest(history_ats) AS t);
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.escalations) THEN
		RETURN;
	END IF;
	WITH over AS MATERIALIZED (
		SELECT h.alert_id, h.at, h.id
		FROM unnest(history_ids, history_ats) AS u (id, at)
		JOIN monitoring.alert_history AS h ON h.id = u.id AND h.at = u.at
		WHERE h.at = ANY (times) AND h.from_state = 'firing' AND h.to_state <> 'firing'
	), ended AS MATERIALIZED (
		DELETE FROM monitoring.escalations AS e
		USING over AS o
		WHERE e.alert_id = ANY (ARRAY(SELECT i.alert_id FROM over AS i)) AND e.alert_id = o.alert_id
		RETURNING e.alert_id, e.policy, e.told, e.message_key, e.group_labels, o.at, o.id
	), listed AS MATERIALIZED (
		SELECT e.*, t.receiver, row_number() OVER (PARTITION BY t.receiver, e.message_key ORDER BY e.alert_id) AS place
		FROM ended AS e
		CROSS JOIN LATERAL unnest(e.told) AS t (receiver)
	), messages AS (
		SELECT l.receiver, l.message_key, l.policy, l.group_labels, max(l.place) - count(*) FILTER (WHERE l.place <= 100) AS more,
			array_agg(l.alert_id ORDER BY l.place) FILTER (WHERE l.place <= 100) AS ids,
			CASE WHEN min(h.rule_name) = max(h.rule_name) THEN min(h.rule_name) ELSE l.policy END AS alert,
			jsonb_agg(monitoring.alert_document('resolved', h.rule_name, h.severity, h.labels, h.annotations, h.value, h.op, h.threshold,
				h.fired_at, h.at, h.fingerprint, h.alert_id, h.details) ORDER BY l.place) FILTER (WHERE l.place <= 100) AS alerts
		FROM listed AS l
		JOIN monitoring.alert_history AS h ON h.at = l.at AND h.id = l.id AND h.at = ANY (times)
		GROUP BY l.receiver, l.message_key, l.policy, l.group_labels
	), others AS (
		SELECT DISTINCT t.receiver, e.message_key
		FROM monitoring.escalations AS e
		CROSS JOIN LATERAL unnest(e.told) AS t (receiver)
		WHERE e.message_key IN (SELECT m.message_key FROM messages AS m) AND NOT EXISTS (SELECT FROM ended AS d WHERE d.alert_id = e.alert_id)
	)
	INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT n.now_at, end_escalations.at, m.receiver, m.message_key, m.alert, s.status, m.ids,
		monitoring.make_payload(m.receiver, m.message_key, s.status, m.group_labels, m.alerts, jsonb_build_object('truncatedAlerts', m.more,
			'reason', CASE s.status WHEN 'firing' THEN 'some alerts resolved' ELSE 'all alerts resolved' END,
			'escalation', jsonb_build_object('policy', m.policy))),
		n.now_at, n.now_at + monitoring.max_age(r.config)
	FROM messages AS m
	JOIN monitoring.receiver_defs AS r ON r.name = m.receiver AND r.enabled
	LEFT JOIN others AS o ON o.receiver = m.receiver AND o.message_key = m.message_key
	CROSS JOIN LATERAL (SELECT CASE WHEN o.receiver IS NULL THEN 'resolved' ELSE 'firing' END AS status) AS s
	CROSS JOIN (SELECT clock_timestamp() AS now_at) AS n
	WHERE coalesce((r.config ->> 'send_resolved')::boolean, true)
	ORDER BY m.ids[1], m.receiver;
END $$;
COMMENT ON FUNCTION monitoring.end_escalations(bigint[], timestamptz[], timestamptz) IS 'End the escalations of alerts that ended in these transitions (alert_history), and tell those receivers of it that steps had told, in one message for each group with at most 100 alerts.';

CREATE FUNCTION monitoring.escalation_receivers(step monitoring.escalation_steps, at timestamptz)
RETURNS TABLE (receiver text, via text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT ON (t.receiver) t.receiver, t.via
	FROM (
		SELECT r AS receiver, NULL AS via, 0 AS place FROM unnest(monitoring.receivers_told((step).receivers, false)) AS r
		UNION ALL
		SELECT r, p.person, 1
		FROM (SELECT unnest((step).contacts) AS person
			UNION SELECT monitoring.who_is_on_call(s.name, escalation_receivers.at) FROM monitoring.schedules AS s WHERE s.name = ANY ((step).schedules)) AS p
		JOIN monitoring.contacts AS c ON c.name = p.person
		CROSS JOIN LATERAL unnest(monitoring.receivers_told(c.receivers, true)) AS r
	) AS t
	ORDER BY t.receiver, t.place, t.via
$$;
COMMENT ON FUNCTION monitoring.escalation_receivers(monitoring.escalation_steps, timestamptz) IS 'The receivers that a step tells at a time, and through which person.';

-- One message per group of alerts and receiver, as when they were first told of: a storm must not become a storm of pages.
CREATE FUNCTION monitoring.tell_escalated(alert_ids bigint[], step monitoring.escalation_steps, at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	target record;
BEGIN
	FOR target IN SELECT * FROM monitoring.escalation_receivers(step, at) LOOP
		WITH escalated AS MATERIALIZED (
			SELECT DISTINCT ON (a.id) a.id, g.group_key, g.labels
			FROM unnest(alert_ids) AS a (id)
			LEFT JOIN monitoring.alert_group_members AS m ON m.alert_id = a.id AND m.state = 'firing'
			LEFT JOIN monitoring.alert_groups AS g ON g.id = m.group_id
			ORDER BY a.id, g.id
		), placed AS MATERIALIZED (
			SELECT e.id, e.group_key, e.labels, row_number() OVER (PARTITION BY e.group_key ORDER BY e.id) AS place,
				count(*) OVER (PARTITION BY e.group_key) AS number
			FROM escalated AS e
		), documents AS MATERIALIZED (
			SELECT p.group_key, p.labels, p.id, p.place, p.number, d.name, monitoring.alert_document('firing', d.name, d.severity,
				monitoring.alert_labels(d, s.series_labels), monitoring.fill_annotations(d, s), s.value, d.op, s.threshold, s.fired_at,
				tell_escalated.at, s.fingerprint, s.alert_id, s.details) AS document
			FROM placed AS p
			CROSS JOIN LATERAL (SELECT * FROM monitoring.alert_states AS o WHERE o.alert_id = p.id LIMIT 1) AS s
			JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
			WHERE p.place <= 100
		), bounded AS (
			SELECT d.*, sum(octet_length(d.document::text)) OVER (PARTITION BY d.group_key ORDER BY d.place) AS bytes FROM documents AS d
		), noted AS (
			UPDATE monitoring.escalations AS x
			SET told = CASE WHEN target.receiver = ANY (x.told) THEN x.told ELSE x.told || target.receiver END,
				message_key = coalesce(x.message_key, left(format('escalation/%s/%s', (tell_escalated.step).policy, e.group_key), 400)),
				group_labels = coalesce(x.group_labels, e.labels, '{}')
			FROM escalated AS e
			WHERE x.alert_id = e.id
		), messages AS (
			SELECT left(format('escalation/%s/%s', (step).policy, b.group_key), 400) AS key, coalesce(b.labels, '{}') AS labels, b.number - count(*) AS more,
				CASE WHEN min(b.name) = max(b.name) THEN min(b.name) ELSE (step).policy END AS alert,
				array_agg(b.id ORDER BY b.place) AS ids, jsonb_agg(b.document ORDER BY b.place) AS alerts
			FROM bounded AS b
			WHERE b.bytes <= 262144 OR b.place = 1
			GROUP BY b.group_key, b.labels, b.number
		)
		INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
		SELECT now_at, tell_escalated.at, target.receiver, m.key, m.alert, 'firing', m.ids,
			monitoring.make_payload(target.receiver, m.key, 'firing', m.labels, m.alerts,
				jsonb_strip_nulls(jsonb_build_object('truncatedAlerts', m.more, 'reason', 'escalation', 'escalation',
					jsonb_build_object('policy', (step).policy, 'step', (step).step, 'person', target.via)))),
			now_at, now_at + monitoring.max_age(r.config)
		FROM messages AS m
		JOIN monitoring.receiver_defs AS r ON r.name = target.receiver
		ORDER BY m.ids[1];
		PERFORM monitoring.add_alert_events(alert_ids, 'escalated', jsonb_strip_nulls(jsonb_build_object('policy', (step).policy,
			'step', (step).step, 'receiver', target.receiver, 'person', target.via)), at);
	END LOOP;
	IF NOT FOUND THEN
		PERFORM monitoring.add_alert_events(alert_ids, 'escalated', jsonb_build_object('policy', (step).policy, 'step', (step).step,
			'nobody', 'nobody is on call, or no receiver is enabled'), at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.tell_escalated(bigint[], monitoring.escalation_steps, timestamptz) IS 'Tell the targets of a step about alerts, in one message for each group with at most 100 of them and 256 kB, and note it with the alerts, also when there is nobody to tell.';

CREATE FUNCTION monitoring.escalate(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	due record;
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.escalations AS e WHERE e.due_at <= escalate.at) THEN
		RETURN;
	END IF;
	PERFORM monitoring.ensure_partition('outbox', clock_timestamp());
	-- Somebody works on it, or nobody is to be told: it is looked at again when that may have ended.
	UPDATE monitoring.escalations AS e
	SET due_at = escalate.at + interval '1 minute'
	FROM monitoring.alert_suppressions(ARRAY(SELECT d.alert_id FROM monitoring.escalations AS d WHERE d.due_at <= escalate.at), escalate.at) AS s
	WHERE e.alert_id = s.alert_id AND e.due_at <= escalate.at;

	FOR due IN
		SELECT s AS step, array_agg(e.alert_id ORDER BY e.alert_id) AS alert_ids
		FROM monitoring.escalations AS e
		JOIN monitoring.escalation_steps AS s ON s.policy = e.policy AND s.step = e.step
		WHERE e.due_at <= escalate.at
		GROUP BY s
	LOOP
		PERFORM monitoring.tell_escalated(due.alert_ids, due.step, at);
	END LOOP;

	-- the next step, or the first one of the next round, or the end
	UPDATE monitoring.escalations AS e
	SET step = coalesce(n.step, n.first, e.step), round = e.round + (n.step IS NULL)::integer,
		due_at = CASE WHEN n.step IS NOT NULL THEN escalate.at + n.delay
			WHEN e.round < n.repeats THEN escalate.at + n.first_delay ELSE 'infinity' END
	FROM (
		SELECT d.policy, d.step AS last, p.repeats, f.step AS first, f.delay AS first_delay, l.step, l.delay
		FROM (SELECT DISTINCT e.policy, e.step FROM monitoring.escalations AS e WHERE e.due_at <= escalate.at) AS d
		LEFT JOIN monitoring.escalation_policies AS p ON p.name = d.policy
		LEFT JOIN LATERAL (SELECT s.* FROM monitoring.escalation_steps AS s WHERE s.policy = d.policy ORDER BY s.step LIMIT 1) AS f ON true
		LEFT JOIN LATERAL (SELECT s.* FROM monitoring.escalation_steps AS s WHERE s.policy = d.policy AND s.step > d.step
			ORDER BY s.step LIMIT 1) AS l ON true
	) AS n
	WHERE e.policy = n.policy AND e.step = n.last AND e.due_at <= escalate.at;
END $$;
COMMENT ON FUNCTION monitoring.escalate(timestamptz) IS 'Take the steps of escalations that are due: of alerts that still fire, that nobody has acknowledged and that nothing suppresses. Alerts that are acknowledged or suppressed are looked at again every minute.';
-- alerts, packs: ready-made rules, and rules as documents that can be exported and imported. The packs themselves are the
-- data files in packs/, in the format of export_rules(); make appends an INSERT for each to the install script.

CREATE TABLE monitoring.rule_packs (
	pack text PRIMARY KEY CHECK (pack ~ '^[a-z][a-z0-9_-]{0,62}$'),
	document jsonb NOT NULL,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.rule_packs IS 'Packs of alert rules for install_rules(). Add your own with INSERT.';
COMMENT ON COLUMN monitoring.rule_packs.pack IS 'Name of the pack.';
COMMENT ON COLUMN monitoring.rule_packs.document IS 'The rules, as export_rules() writes them.';
COMMENT ON COLUMN monitoring.rule_packs.builtin IS 'True for packs that come with the extension; they are not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.rule_packs', 'WHERE NOT builtin');

----------------------------------------------------------------------------------------------------------------------
-- Rules as documents
----------------------------------------------------------------------------------------------------------------------

-- What can stand in a rule's definition: the parameters of create_alert_rule.
CREATE FUNCTION monitoring.rule_parameters() RETURNS TABLE (key text, type regtype, default_value jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
DECLARE
	parameter record;
BEGIN
	FOR parameter IN
		SELECT a.name, p.proargtypes[a.n - 1] AS type, pg_get_function_arg_default(p.oid, a.n::integer) AS value
		FROM pg_proc AS p
		CROSS JOIN unnest(p.proargnames) WITH ORDINALITY AS a (name, n)
		WHERE p.pronamespace = 'monitoring'::regnamespace AND p.proname = 'create_alert_rule'
		ORDER BY a.n
	LOOP
		key := parameter.name;
		type := parameter.type;
		default_value := NULL;
		IF parameter.value IS NOT NULL THEN
			EXECUTE format('SELECT to_jsonb(%s)', parameter.value) INTO default_value;
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.rule_parameters() IS 'The parameters of create_alert_rule, which are the keys of a rule in a document: name, type and default.';

CREATE FUNCTION monitoring.rule_documents(names text[] DEFAULT NULL) RETURNS TABLE (id bigint, document jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
	SELECT r.id, jsonb_object_agg(p.key, v.value)
	FROM monitoring.alert_rules AS r
	CROSS JOIN monitoring.rule_parameters() AS p
	CROSS JOIN LATERAL (SELECT to_jsonb(r) -> p.key AS value) AS v
	WHERE (names IS NULL OR r.name = ANY (names)) AND v.value IS DISTINCT FROM coalesce(p.default_value, 'null')
	GROUP BY r.id
$$;
COMMENT ON FUNCTION monitoring.rule_documents(text[]) IS 'The rules of these names (null: all) as they stand in a document: the parameters of create_alert_rule that are not at their defaults.';

CREATE FUNCTION monitoring.export_rules(names text[] DEFAULT NULL, pack text DEFAULT 'exported') RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('format', 'monitoring alert rules', 'version', 1, 'pack', export_rules.pack,
		'rules', coalesce(jsonb_agg(r.document ORDER BY r.id), '[]'))
	FROM monitoring.rule_documents(names) AS r
$$;
COMMENT ON FUNCTION monitoring.export_rules(text[], text) IS 'The rules of these names (null: all) as a JSON document that import_rules() takes, here or in another database. Defaults are left out, and so are state and owner; a disabled rule says so, and is imported disabled.';

CREATE FUNCTION monitoring.check_rules_document(document jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF document IS NULL OR jsonb_typeof(document) <> 'object' OR document ->> 'format' IS DISTINCT FROM 'monitoring alert rules' THEN
		RAISE EXCEPTION 'this is not a document of alert rules'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is an object as export_rules() writes it; Prometheus rule files are for import_prometheus_rules().';
	ELSIF document -> 'version' IS DISTINCT FROM '1' THEN
		RAISE EXCEPTION 'version % of documents of alert rules is not known', coalesce(document ->> 'version', 'null')
			USING ERRCODE = 'feature_not_supported', HINT = 'This version reads version 1.';
	ELSIF coalesce(jsonb_typeof(document -> 'rules'), '') <> 'array'
		OR jsonb_path_exists(document, '$.rules[*] ? (@.type() != "object")') THEN
		RAISE EXCEPTION '"rules" of a document of alert rules must be an array of objects'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_rules_document(jsonb) IS 'Raises 22023 for what is not a document of alert rules, 0A000 for one of a version that is not known.';

CREATE FUNCTION monitoring.create_rule_from(definition jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	unknown text;
	arguments text;
	rule_id bigint;
BEGIN
	SELECT min(k) INTO unknown FROM jsonb_object_keys(definition) AS k
	WHERE k NOT IN (SELECT p.key FROM monitoring.rule_parameters() AS p);
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in the definition of an alert rule', unknown
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Keys are the parameters of monitoring.create_alert_rule.';
	END IF;

	PERFORM monitoring.check_rule_types(definition);
	-- Required parameters are always given: create_alert_rule says what is wrong with a null.
	SELECT string_agg(format('%I => %s', p.key, CASE p.type
			WHEN 'jsonb'::regtype THEN format('nullif($1 -> %L, ''null'')', p.key)
			WHEN 'text[]'::regtype THEN format(
				'CASE WHEN jsonb_typeof($1 -> %1$L) <> ''null'' THEN ARRAY(SELECT jsonb_array_elements_text($1 -> %1$L)) END', p.key)
			ELSE format('($1 ->> %L)::%s', p.key, p.type) END), ', ')
	INTO arguments
	FROM monitoring.rule_parameters() AS p
	WHERE definition ? p.key OR p.default_value IS NULL AND p.key IN ('name', 'metric', 'fn', 'over', 'op', 'threshold');
	EXECUTE format('SELECT monitoring.create_alert_rule(%s)', arguments) INTO rule_id USING definition;
	RETURN rule_id;
END $$;
COMMENT ON FUNCTION monitoring.create_rule_from(jsonb) IS 'Create an alert rule from its definition in a document and return its id. Errors: as create_alert_rule, and 22023 for an unknown key.';

CREATE FUNCTION monitoring.change_rule_to(definition jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	name text := definition ->> 'name';
	before jsonb := (SELECT r.document FROM monitoring.rule_documents(ARRAY[name]) AS r);
	changes jsonb;
BEGIN
	IF coalesce(definition ->> 'kind', 'metric') <> coalesce(before ->> 'kind', 'metric') THEN
		RAISE EXCEPTION 'alert rule "%" is of kind %', name, coalesce(before ->> 'kind', 'metric')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Drop it first: a rule cannot change its kind.';
	END IF;
	SELECT coalesce(jsonb_object_agg(p.key, coalesce(p.default_value, 'null')), '{}') || (definition - '{name,kind}'::text[])
	INTO changes
	FROM monitoring.rule_parameters() AS p
	WHERE p.key NOT IN ('name', 'kind');
	PERFORM monitoring.update_alert_rule(name, changes);
	RETURN (SELECT r.document FROM monitoring.rule_documents(ARRAY[name]) AS r) <> before;
END $$;
COMMENT ON FUNCTION monitoring.change_rule_to(jsonb) IS 'Make the rule of this name what its definition says; parameters that it leaves out go back to their defaults. Returns whether anything changed. Errors: as update_alert_rule, and 22023 for a rule of another kind.';

CREATE FUNCTION monitoring.import_rules(document jsonb, replace boolean DEFAULT false)
RETURNS TABLE (rule text, outcome text, error text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition jsonb;
BEGIN
	PERFORM monitoring.check_rules_document(document);
	FOR definition IN SELECT d.value FROM jsonb_array_elements(document -> 'rules') AS d LOOP
		rule := definition ->> 'name';
		error := NULL;
		BEGIN
			IF NOT EXISTS (SELECT FROM monitoring.alert_rules AS r WHERE r.name = import_rules.rule) THEN
				PERFORM monitoring.create_rule_from(definition);
				outcome := 'created';
			ELSIF NOT replace THEN
				outcome := 'exists';
			ELSE
				outcome := CASE WHEN monitoring.change_rule_to(definition) THEN 'replaced' ELSE 'unchanged' END;
			END IF;
		EXCEPTION WHEN OTHERS THEN
			-- not what concerns the whole import: an intervention, a lost connection, a full disk
			IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
				RAISE;
			END IF;
			outcome := 'error';
			error := SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.import_rules(jsonb, boolean) IS 'Create the rules of a document that export_rules() wrote. One row a rule says what became of it: created; exists (a rule of that name is there and stays as it is); with replace => true replaced or unchanged; error, with the message: nothing of that rule was changed. Errors: 22023 for what is not such a document, 0A000 for one of a later version.';

----------------------------------------------------------------------------------------------------------------------
-- Packs
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.pack_document(pack text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	document jsonb;
BEGIN
	SELECT p.document INTO document FROM monitoring.rule_packs AS p WHERE p.pack = pack_document.pack;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no pack of alert rules named "%"', pack
			USING ERRCODE = 'undefined_object', HINT = 'monitoring.list_packs() lists them.';
	END IF;
	RETURN document;
END $$;
COMMENT ON FUNCTION monitoring.pack_document(text) IS 'The rules of a pack as a document. Error 42704 if there is no such pack.';

CREATE FUNCTION monitoring.install_rules(pack text) RETURNS TABLE (rule text, outcome text, error text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	FOR rule, outcome, error IN SELECT * FROM monitoring.import_rules(monitoring.pack_document(install_rules.pack)) LOOP
		IF outcome = 'created' THEN
			UPDATE monitoring.alert_rule_defs AS d SET pack = install_rules.pack WHERE d.name = install_rules.rule;
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.install_rules(text) IS 'Create the rules of a pack that are not there yet, owned by the caller, and say what became of each as import_rules() does. They are rules like any others: change, disable or drop them. Error 42704 if there is no such pack.';

CREATE FUNCTION monitoring.remove_rules(pack text) RETURNS TABLE (rule text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	edited boolean;
BEGIN
	FOR rule, edited IN
		SELECT d.name, d.edited FROM monitoring.alert_rule_defs AS d WHERE d.pack = remove_rules.pack ORDER BY d.id
	LOOP
		IF edited THEN
			UPDATE monitoring.alert_rule_defs AS d SET pack = NULL WHERE d.name = remove_rules.rule;
			outcome := 'kept';
		ELSE
			PERFORM monitoring.drop_alert_rule(rule);
			outcome := 'dropped';
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.remove_rules(text) IS 'Drop the rules that came with a pack and end their alerts. Rules that were edited since are kept, and belong to no pack from then on.';

CREATE FUNCTION monitoring.list_packs()
RETURNS TABLE (pack text, description text, rules bigint, installed bigint, edited bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT p.pack, p.document ->> 'description', jsonb_array_length(p.document -> 'rules'),
		count(d.id), count(d.id) FILTER (WHERE d.edited)
	FROM monitoring.rule_packs AS p
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.pack = p.pack
	GROUP BY p.pack
	ORDER BY p.pack
$$;
COMMENT ON FUNCTION monitoring.list_packs() IS 'The packs of alert rules there are, with how many rules each has, how many of them are installed, and how many of those were edited.';
-- alerts, rule files of Prometheus: YAML to jsonb, expressions to conditions of ours, and rules from both.
--
-- A rule that cannot say the same here is not made: why not is in the answer.

CREATE FUNCTION monitoring.yaml_document(yaml text) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS '$libdir/monitoring_yaml', 'mon_yaml_document';
COMMENT ON FUNCTION monitoring.yaml_document(text) IS 'A YAML document (JSON is one too) as jsonb. Scalars are texts as they stand there; what is empty, ~ or null is null. Error 22P02, with the line, for what is no YAML, longer than 4 MB, nested more than 32 deep, for a key that occurs twice, several documents, aliases and tags.';

CREATE FUNCTION monitoring.translate_promql(expr text) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_translate_promql';
COMMENT ON FUNCTION monitoring.translate_promql(text) IS 'The condition of a Prometheus alerting rule as parameters of create_alert_rule; or an object whose only member, reason, says why there is no such rule here, with the part of the expression at fault. Windows are as in the expression (5m).';

CREATE FUNCTION monitoring.prometheus_duration(duration text) RETURNS interval
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part text := '([0-9]{1,9})';
	parts bigint[] := regexp_match(duration, replace('^(?:#y)?(?:#w)?(?:#d)?(?:#h)?(?:#m)?(?:#s)?(?:#ms)?$', '#', part));
	seconds numeric;
BEGIN
	SELECT sum(p * u) INTO seconds FROM unnest(parts, '{31536000,604800,86400,3600,60,1,0.001}'::numeric[]) AS n (p, u);
	IF duration = '0' THEN
		RETURN '0';
	ELSIF seconds IS NULL OR seconds > 315360000 THEN
		RAISE EXCEPTION 'invalid duration "%"', left(duration, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Durations are as in 1h30m, and at most ten years.';
	END IF;
	RETURN make_interval(secs => seconds::float8);
END $$;
COMMENT ON FUNCTION monitoring.prometheus_duration(text) IS 'A duration of Prometheus, such as 1h30m. Error 22023 for what is none, or longer than ten years.';

-- {{ $value | humanize }} and {{ printf "%.2f" $value }} become {{value}}: numbers are written for people anyway.
CREATE FUNCTION monitoring.prometheus_template(template text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT regexp_replace(regexp_replace(template,
		'\{\{-?\s*(?:(?:humanize[0-9a-zA-Z]*|printf\s+"[^"]*")\s+)?(?:\$value|\.Value)\s*(?:\|\s*(?:humanize[0-9a-zA-Z]*|printf\s+"[^"]*")\s*)*-?\}\}', '{{value}}', 'g'),
		'\{\{-?\s*(?:\$labels|\.Labels)\.([a-zA-Z_][a-zA-Z0-9_]*)\s*-?\}\}', '{{\1}}', 'g')
$$;
COMMENT ON FUNCTION monitoring.prometheus_template(text) IS 'A text of a Prometheus rule with {{ $labels.name }} and {{ $value }} as ours: {{name}} and {{value}}. Other templates stay.';

CREATE FUNCTION monitoring.foreign_template(template text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT h.hole[1]
	FROM regexp_matches(template, '\{\{.*?\}\}', 'g') AS h (hole)
	WHERE h.hole[1] !~ '^\{\{[a-zA-Z_][a-zA-Z0-9_]*\}\}$'
	LIMIT 1
$$;
COMMENT ON FUNCTION monitoring.foreign_template(text) IS 'What is left in a text that is a template of Prometheus and none of ours; null: nothing.';

CREATE FUNCTION monitoring.prometheus_groups(document jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	groups jsonb := CASE WHEN document ->> 'kind' = 'PrometheusRule' THEN document -> 'spec' -> 'groups' ELSE document -> 'groups' END;
BEGIN
	IF jsonb_typeof(groups) IS DISTINCT FROM 'array' THEN
		RAISE EXCEPTION 'this is not a rule file of Prometheus'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Its member "groups" is a list of groups of rules.';
	ELSIF EXISTS (
		SELECT FROM jsonb_array_elements(groups) AS g (value)
		WHERE jsonb_typeof(g.value -> 'name') IS DISTINCT FROM 'string' OR coalesce(jsonb_typeof(g.value -> 'rules'), 'null') NOT IN ('array', 'null')
			OR jsonb_typeof(g.value -> 'rules') = 'array' AND jsonb_path_exists(g.value -> 'rules', '$[*] ? (@.type() != "object")')) THEN
		RAISE EXCEPTION 'a group of rules must have a name and a list of rules' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN groups;
END $$;
COMMENT ON FUNCTION monitoring.prometheus_groups(jsonb) IS 'The groups of a Prometheus rule file, or of a PrometheusRule of Kubernetes. Error 22023 for what is neither.';

-- An alert's name is its rule's here, and rules have different names: alerts of the same name are told apart by their
-- severities, or else by number.
CREATE FUNCTION monitoring.prometheus_rules(document jsonb)
RETURNS TABLE (place bigint, rule_group text, name text, rule jsonb, recorded boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT n.place, n.rule_group,
		CASE WHEN n.alert IS NULL THEN n.rule ->> 'record' WHEN n.alike = 1 THEN n.alert
			WHEN n.severity IS NOT NULL AND n.of_severity = 1 THEN format('%s (%s)', n.alert, n.severity)
			ELSE format('%s (%s)', n.alert, n.number) END,
		n.rule, n.alert IS NULL
	FROM (
		SELECT r.*, count(*) OVER (PARTITION BY r.alert) AS alike, count(*) OVER (PARTITION BY r.alert, r.severity) AS of_severity,
			row_number() OVER (PARTITION BY r.alert ORDER BY r.place) AS number
		FROM (
			SELECT row_number() OVER (ORDER BY g.ordinality, e.ordinality) AS place, g.value ->> 'name' AS rule_group,
				e.value ->> 'alert' AS alert, e.value -> 'labels' ->> 'severity' AS severity,
				e.value || jsonb_strip_nulls(jsonb_build_object('group labels', g.value -> 'labels', 'group interval', g.value -> 'interval',
					'group key', (SELECT min(k) FROM jsonb_object_keys(g.value) AS k
						WHERE k <> ALL ('{name,interval,limit,labels,rules,partial_response_strategy}')))) AS rule
			FROM jsonb_array_elements(monitoring.prometheus_groups(document)) WITH ORDINALITY AS g
			CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(g.value -> 'rules') WHEN 'array' THEN g.value -> 'rules' ELSE '[]' END)
				WITH ORDINALITY AS e
		) AS r
	) AS n
$$;
COMMENT ON FUNCTION monitoring.prometheus_rules(jsonb) IS 'The rules of a rule file in their order, with the name that each has here and, as members "group ...", what its group says. recorded: a recording rule.';

CREATE FUNCTION monitoring.prometheus_severity(severity text, severities jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN monitoring.canonical_severity(coalesce(severities ->> severity,
		CASE lower(severity) WHEN 'page' THEN 'critical' WHEN 'error' THEN 'high' WHEN 'major' THEN 'high' WHEN 'warn' THEN 'medium'
			WHEN 'minor' THEN 'low' WHEN 'notice' THEN 'info' WHEN 'information' THEN 'info' WHEN 'informational' THEN 'info'
			WHEN 'none' THEN 'info' ELSE severity END, 'medium'));
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE EXCEPTION 'severity "%" is not known; the parameter severities can say what it is', left(severity, 100)
		USING ERRCODE = 'feature_not_supported';
END $$;
COMMENT ON FUNCTION monitoring.prometheus_severity(text, jsonb) IS 'Our name for a severity in a rule file, by severities or by its usual meaning; medium without one. Error 0A000 for one that is not known.';

CREATE FUNCTION monitoring.check_prometheus_metric(metric text, fn text, recorded text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	problem text;
BEGIN
	IF metric = ANY (recorded) THEN
		problem := format('it reads %s, which a recording rule of the file makes', metric);
	ELSIF NOT EXISTS (SELECT FROM monitoring.metric_catalog AS m WHERE m.metric = check_prometheus_metric.metric) THEN
		problem := CASE WHEN metric ~ ':' THEN format('it reads %s, which recording rules make', metric)
			WHEN metric ~ '^(up|ALERTS|ALERTS_FOR_STATE|scrape_.*)$' THEN format('it reads %s, which Prometheus itself makes', metric) END;
	ELSIF fn IS NOT NULL THEN
		SELECT min(v.error) INTO problem
		FROM monitoring.read_values(ARRAY[ROW(metric, fn, '1 minute', '{}', '{}', NULL)::monitoring.value_request]) AS v;
	END IF;
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION '%', problem USING ERRCODE = 'feature_not_supported';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_prometheus_metric(text, text, text[]) IS 'Error 0A000 for a metric that nobody records here, or whose kind the function does not go with.';

CREATE FUNCTION monitoring.prometheus_condition(expr text, recorded text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
DECLARE
	condition jsonb := monitoring.translate_promql(expr);
	over interval;
BEGIN
	IF condition ? 'reason' THEN
		RAISE EXCEPTION '%', condition ->> 'reason' USING ERRCODE = 'feature_not_supported';
	END IF;
	PERFORM monitoring.check_prometheus_metric(condition ->> 'metric', condition ->> 'fn', recorded);
	IF condition -> 'params' ? 'metric' THEN
		PERFORM monitoring.check_prometheus_metric(condition -> 'params' ->> 'metric', condition -> 'params' ->> 'fn', recorded);
	END IF;
	over := monitoring.prometheus_duration(condition ->> 'over');
	IF condition ->> 'kind' = 'absence' THEN
		RETURN condition || jsonb_build_object('op', '>=', 'threshold', date_part('epoch', over), 'over', 2 * over);
	END IF;
	RETURN condition || jsonb_build_object('over', over);
END $$;
COMMENT ON FUNCTION monitoring.prometheus_condition(text, text[]) IS 'What translate_promql gives, with intervals. Error 0A000, with the reason, if the expression cannot be translated or reads what is not recorded here.';

CREATE FUNCTION monitoring.rule_file_labels(labels jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	translated jsonb := (SELECT coalesce(jsonb_object_agg(l.key, monitoring.prometheus_template(l.value)), '{}')
		FROM jsonb_each_text(labels) AS l WHERE l.key <> 'severity');
	bad text := (SELECT min(l.key) FROM jsonb_each_text(translated) AS l
		WHERE monitoring.foreign_template(l.value) IS NOT NULL OR strpos(l.value, '{{value}}') > 0);
BEGIN
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'the template in label "%" is not translated', bad USING ERRCODE = 'feature_not_supported';
	END IF;
	RETURN translated;
END $$;
COMMENT ON FUNCTION monitoring.rule_file_labels(jsonb) IS 'Labels of a rule file''s rule as extra_labels. Error 0A000 for templates of other than labels.';

CREATE FUNCTION monitoring.prometheus_definition(name text, rule jsonb, severities jsonb, recorded text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
DECLARE
	unknown text := (SELECT min(k) FROM jsonb_object_keys(rule) AS k WHERE k <> ALL (
		'{alert,expr,for,keep_firing_for,labels,annotations,group labels,group interval}'));
	labels jsonb := coalesce(rule -> 'group labels', '{}') || coalesce(nullif(rule -> 'labels', 'null'), '{}');
	annotations jsonb := coalesce(nullif(rule -> 'annotations', 'null'), '{}');
	runbook text := annotations ->> 'runbook_url';
BEGIN
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" is not translated', coalesce(rule ->> 'group key', unknown) USING ERRCODE = 'feature_not_supported';
	ELSIF coalesce(jsonb_typeof(rule -> 'expr'), '') <> 'string' THEN
		RAISE EXCEPTION 'there is no expression' USING ERRCODE = 'feature_not_supported';
	ELSIF jsonb_typeof(labels) <> 'object' OR jsonb_typeof(annotations) <> 'object' THEN
		RAISE EXCEPTION 'labels and annotations must be mappings' USING ERRCODE = 'feature_not_supported';
	END IF;
	-- a value that is not there ends a breach at once, as there; a metric has no more series in memory than that
	RETURN jsonb_strip_nulls(monitoring.prometheus_condition(rule ->> 'expr', recorded) || jsonb_build_object(
		'name', name, 'pending_for', monitoring.prometheus_duration(rule ->> 'for'),
		'keep_firing_for', monitoring.prometheus_duration(rule ->> 'keep_firing_for'),
		'every', monitoring.prometheus_duration(rule ->> 'group interval'),
		'severity', monitoring.prometheus_severity(labels ->> 'severity', severities),
		'extra_labels', monitoring.rule_file_labels(labels), 'max_age', '0', 'max_instances', 10000,
		'runbook_url', CASE WHEN runbook ~ '^https?://[^[:cntrl:][:space:]{}]+$' THEN runbook END,
		'annotations', (SELECT coalesce(jsonb_object_agg(a.key, monitoring.prometheus_template(a.value)), '{}')
			FROM jsonb_each_text(annotations) AS a
			WHERE a.key <> 'runbook_url' OR runbook !~ '^https?://[^[:cntrl:][:space:]{}]+$')));
END $$;
COMMENT ON FUNCTION monitoring.prometheus_definition(text, jsonb, jsonb, text[]) IS 'A rule of a rule file as a definition that import_rules() takes. Errors: 0A000, with the reason, for what cannot be translated; 22023 for a bad duration.';

CREATE FUNCTION monitoring.import_prometheus_rules(document text, replace boolean DEFAULT false, dry_run boolean DEFAULT false,
	severities jsonb DEFAULT '{}')
RETURNS TABLE (rule_group text, rule text, status text, reason text, definition jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rules jsonb := monitoring.yaml_document(document);
	recorded text[] := ARRAY(SELECT r.name FROM monitoring.prometheus_rules(rules) AS r WHERE r.recorded);
	source record;
BEGIN
	IF severities IS NULL OR jsonb_typeof(severities) <> 'object' THEN
		RAISE EXCEPTION 'severities must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"ticket": "low"}.';
	END IF;
	FOR source IN SELECT * FROM monitoring.prometheus_rules(rules) AS r ORDER BY r.place LOOP
		rule_group := source.rule_group;
		rule := source.name;
		reason := NULL;
		definition := NULL;
		BEGIN
			IF source.recorded THEN
				RAISE EXCEPTION 'it is a recording rule; reads need none' USING ERRCODE = 'feature_not_supported';
			END IF;
			definition := monitoring.prometheus_definition(source.name, source.rule, severities, recorded);
			SELECT format('%s is not filled in', monitoring.foreign_template(a.value)) INTO reason
			FROM jsonb_each_text(definition -> 'annotations') AS a
			WHERE monitoring.foreign_template(a.value) IS NOT NULL
			ORDER BY a.key LIMIT 1;
			IF NOT EXISTS (SELECT FROM monitoring.alert_rules AS r WHERE r.name = source.name) THEN
				PERFORM monitoring.create_rule_from(definition);
				status := 'imported';
			ELSIF NOT replace THEN
				status := 'exists';
			ELSE
				status := CASE WHEN monitoring.change_rule_to(definition) THEN 'updated' ELSE 'unchanged' END;
			END IF;
			IF dry_run THEN
				RAISE EXCEPTION 'end of the trial' USING ERRCODE = 'MON01';
			END IF;
		EXCEPTION
			WHEN SQLSTATE 'MON01' THEN
				NULL;
			WHEN feature_not_supported THEN
				status := 'not translatable';
				reason := SQLERRM;
			WHEN OTHERS THEN
				-- not what concerns the whole import: an intervention, a lost connection, a full disk
				IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
					RAISE;
				END IF;
				status := 'error';
				reason := SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.import_prometheus_rules(text, boolean, boolean, jsonb) IS 'Create alert rules from a rule file of Prometheus: YAML, or the same as JSON; a PrometheusRule of Kubernetes too. Only rules that say the same here are made. A row for each tells what became of it: imported; exists (a rule of that name is there and stays as it is); with replace => true updated or unchanged; not translatable, with the reason and the part of the expression; error, with the message. Of what is imported, reason names templates in annotations that are not filled in. definition is the rule as import_rules() takes it. dry_run: nothing is changed. severities: our names for severities of the file, such as {"ticket": "low"}. Alerts of the same name become rules whose names end with the severity or a number. Errors: 22P02 for what is no YAML, 22023 for what is no rule file.';
-- receivers: whom to notify and how: kinds, which are rows naming a formatter, and receivers with their configuration.

----------------------------------------------------------------------------------------------------------------------
-- Receiver kinds: rows naming a formatter
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
	function text NOT NULL,
	config_keys text[] NOT NULL DEFAULT '{}',
	secret_keys text[] NOT NULL DEFAULT '{}',
	url_required boolean NOT NULL DEFAULT true,
	schemes text[] NOT NULL DEFAULT '{http,https}',
	config_check text,
	ambiguous text NOT NULL DEFAULT 'repeat' CHECK (ambiguous IN ('repeat', 'never')),
	tell_acknowledged boolean NOT NULL DEFAULT false,
	keep_alive interval CHECK (keep_alive > '0'),
	timeout_seconds float8 NOT NULL DEFAULT 15 CHECK (timeout_seconds BETWEEN 0.01 AND 60),
	takes_alerts boolean NOT NULL DEFAULT true,
	description text NOT NULL DEFAULT '',
	owner name NOT NULL DEFAULT current_user,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.receiver_kinds IS 'Kinds of receivers. Each names a formatter function(receiver jsonb, notification jsonb) returning TABLE (method text, url text, headers jsonb, body text) with one row, or none when there is nothing to be sent; it runs with the rights of the row''s owner. Methods are those of HTTP, and SMTP (headers From and To are the envelope), NOTIFY (the url is a channel, the body its payload) and SQL (the url is the name of a function(jsonb), the body its argument; it runs as the receiver''s owner). Add a kind with CREATE FUNCTION and INSERT.';
COMMENT ON COLUMN monitoring.receiver_kinds.kind IS 'Name of the kind, as given to create_receiver.';
COMMENT ON COLUMN monitoring.receiver_kinds.function IS 'Schema-qualified name of the formatter.';
COMMENT ON COLUMN monitoring.receiver_kinds.config_keys IS 'Keys that a receiver''s config may hold besides those every kind takes.';
COMMENT ON COLUMN monitoring.receiver_kinds.secret_keys IS 'Keys of the config that hold secrets; the formatter gets a marker in place of each.';
COMMENT ON COLUMN monitoring.receiver_kinds.url_required IS 'Whether a receiver needs a url; otherwise the formatter knows one.';
COMMENT ON COLUMN monitoring.receiver_kinds.schemes IS 'Schemes that a receiver''s url may have.';
COMMENT ON COLUMN monitoring.receiver_kinds.config_check IS 'Schema-qualified name of a function(config jsonb) that raises an error for a config that will not do, with the url as a member and secrets replaced by ***; it runs with the rights of the row''s owner. Null: none.';
COMMENT ON COLUMN monitoring.receiver_kinds.ambiguous IS 'What to do when nobody knows whether a notification arrived: repeat it, or never.';
COMMENT ON COLUMN monitoring.receiver_kinds.tell_acknowledged IS 'Whether such receivers are told that all alerts of a group have been acknowledged.';
COMMENT ON COLUMN monitoring.receiver_kinds.keep_alive IS 'How often such receivers are told again what is firing, whatever the routes say, because they would take silence for its end; config key keep_alive_seconds overrides it. Null: never.';
COMMENT ON COLUMN monitoring.receiver_kinds.timeout_seconds IS 'How long an attempt may take unless the receiver''s config says.';
COMMENT ON COLUMN monitoring.receiver_kinds.takes_alerts IS 'Whether alerts go to such receivers. When false, routes and rules pass them over.';
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
	IF NEW.config_check IS NOT NULL AND to_regprocedure(NEW.config_check || '(jsonb)') IS NULL THEN
		RAISE EXCEPTION 'function %(jsonb), which is to check configs, does not exist', NEW.config_check
			USING ERRCODE = 'undefined_function', HINT = 'Give the schema too, as in myschema.check_mykind.';
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.receiver_kind_check() IS 'Trigger of receiver_kinds: the functions must exist (42883) and the writer must be a member of the owner (42501).';

CREATE TRIGGER receiver_kind_check BEFORE INSERT OR UPDATE ON monitoring.receiver_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.receiver_kind_check();
COMMENT ON TRIGGER receiver_kind_check ON monitoring.receiver_kinds IS 'Checks formatter and owner.';

CREATE TRIGGER keep_what_is_used BEFORE DELETE OR UPDATE OF kind ON monitoring.receiver_kinds
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') <> 'off')
	EXECUTE FUNCTION monitoring.keep_what_is_used('kind', 'receiver_defs');
COMMENT ON TRIGGER keep_what_is_used ON monitoring.receiver_kinds IS 'Refuses to take away what rows of receiver_defs name, unless a dump is being restored.';

----------------------------------------------------------------------------------------------------------------------
-- Receivers
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_defs (
	name text PRIMARY KEY,
	kind text NOT NULL,
	url text,
	config jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	owner name NOT NULL DEFAULT current_user
);
COMMENT ON TABLE monitoring.receiver_defs IS 'Receivers with their full urls and configuration, which may hold secrets: granted to nobody. See the view receivers.';
COMMENT ON COLUMN monitoring.receiver_defs.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_defs.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receiver_defs.url IS 'Where notifications go; may hold a token. Null: where the kind says, or a secret (config.url).';
COMMENT ON COLUMN monitoring.receiver_defs.config IS 'Options, as described for create_receiver; {"secret": key} stands for a row of receiver_secrets.';
COMMENT ON COLUMN monitoring.receiver_defs.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receiver_defs.created_at IS 'When the receiver was created.';
COMMENT ON COLUMN monitoring.receiver_defs.owner IS 'Role that said where notifications go: functions that they call run as it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_defs', '');

-- Written out rather than in functions: who may read a view need not be able to call what it calls.
CREATE VIEW monitoring.receivers AS
	SELECT r.name, r.kind,
		CASE WHEN r.config ? 'url' THEN '***'
			WHEN r.url IS NOT NULL THEN coalesce(substring(r.url FROM '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]+(?=[/?#]|$)'), '')
				|| CASE WHEN r.url ~ '^smtp' THEN '' ELSE '/…' END
		END AS url,
		(SELECT coalesce(jsonb_object_agg(e.key, CASE
				WHEN e.key = ANY ('{timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved,ca_file,cert_file,key_file,min_tls,http2,starttls,rate_per_second,burst,breaker_failures,fallback,fallback_after_seconds}'::text[])
					OR jsonb_typeof(e.value) = 'object' AND jsonb_typeof(e.value -> 'secret') = 'string' AND e.value - 'secret' = '{}'
					OR k.builtin AND e.key = ANY (k.config_keys)
					THEN e.value ELSE '"***"'::jsonb END), '{}')
			FROM jsonb_each(r.config) AS e) AS config,
		r.enabled, r.created_at, r.owner
	FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind;
COMMENT ON VIEW monitoring.receivers IS 'Receivers of notifications, secrets redacted.';
COMMENT ON COLUMN monitoring.receivers.name IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receivers.kind IS 'Kind, one of receiver_kinds.';
COMMENT ON COLUMN monitoring.receivers.url IS 'Scheme and host; null: where the kind says; *** if all of it is a secret.';
COMMENT ON COLUMN monitoring.receivers.config IS 'Options; values that may be secrets show as ***, {"secret": key} is one of the view secrets.';
COMMENT ON COLUMN monitoring.receivers.enabled IS 'False keeps the receiver''s notifications waiting.';
COMMENT ON COLUMN monitoring.receivers.created_at IS 'When the receiver was created.';
COMMENT ON COLUMN monitoring.receivers.owner IS 'Role that created it, or was the last to change url or config beyond the keys that every kind takes: functions that notifications call (kind sql) run as it.';

CREATE FUNCTION monitoring.max_age(config jsonb) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.make_interval(secs => coalesce((config ->> 'max_age_seconds')::float8, 3600));
COMMENT ON FUNCTION monitoring.max_age(jsonb) IS 'How long after it was enqueued a notification to a receiver with this config is given up.';

CREATE FUNCTION monitoring.check_receiver_url(url text, schemes text[] DEFAULT '{http,https}') RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	scheme text := lower(substring(url FROM '^([A-Za-z][A-Za-z0-9+.-]*)://'));
	authority text := substring(url FROM '^[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)');
BEGIN
	IF url IS NULL OR octet_length(url) > 4096 THEN
		RAISE EXCEPTION 'a receiver needs a url of at most 4096 bytes' USING ERRCODE = 'invalid_parameter_value';
	ELSIF url ~ '[^!-~]' OR strpos(url, E'\\') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds a space, a control character, a backslash or a non-ASCII character'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Percent-encode such characters.';
	ELSIF authority IS NULL OR scheme <> ALL (schemes) THEN
		RAISE EXCEPTION 'the receiver''s url must start with %', array_to_string(schemes, ':// or ') || '://'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF strpos(authority, '@') > 0 THEN
		RAISE EXCEPTION 'the receiver''s url holds credentials'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = CASE WHEN scheme ~ '^smtp' THEN 'Put them into the config, as username and password.'
					ELSE 'Put them into the config, as in {"headers": {"Authorization": {"value": "..."}}}.' END;
	ELSIF authority !~ '^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$' THEN
		RAISE EXCEPTION 'the receiver''s url has no valid host' USING ERRCODE = 'invalid_parameter_value';
	ELSIF scheme ~ '^smtp' AND url !~ '^[^/]*//[^/?#]*/?$' THEN
		RAISE EXCEPTION 'the url of a mail server is scheme, host and port only' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_url(text, text[]) IS 'Raises 22023 unless the text is a url of one of these schemes without credentials, spaces or control characters.';

CREATE FUNCTION monitoring.check_receiver_config(config jsonb, kind_keys text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	known text[] := '{headers,timeout_seconds,connect_timeout_seconds,max_attempts,max_age_seconds,send_resolved,ca_file,cert_file,key_file,min_tls,http2,rate_per_second,burst,breaker_failures,fallback,fallback_after_seconds}'::text[] || kind_keys;
	bad text;
BEGIN
	IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	-- A url stands here only as a secret.
	SELECT min(k) INTO bad FROM jsonb_object_keys(config) AS k WHERE k <> ALL (known || 'url'::text);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in the receiver''s config', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Known keys: ' || array_to_string(known, ', ') || '.';
	END IF;

	SELECT min(e.key) INTO bad
	FROM jsonb_each(config) AS e
	JOIN (VALUES ('timeout_seconds', 0.01, 60, false), ('connect_timeout_seconds', 0.01, 60, false), ('max_attempts', 1, 100, true),
		('max_age_seconds', 1, 86400, false), ('rate_per_second', 0.001, 10000, false), ('burst', 1, 10000, false),
		('breaker_failures', 0, 1000, true), ('fallback_after_seconds', 0, 86400, false)) AS b (key, low, high, whole) ON b.key = e.key
	WHERE CASE WHEN jsonb_typeof(e.value) = 'number'
			THEN (e.value)::numeric NOT BETWEEN b.low AND b.high OR b.whole AND (e.value)::numeric % 1 <> 0 ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is out of range', bad
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'timeout_seconds and connect_timeout_seconds take 0.01 to 60, max_attempts 1 to 100, max_age_seconds 1 to 86400, rate_per_second 0.001 to 10000, burst 1 to 10000, breaker_failures 0 to 1000, fallback_after_seconds 0 to 86400.';
	END IF;

	SELECT min(e.key) INTO bad FROM jsonb_each(config) AS e
	WHERE e.key = ANY ('{send_resolved,http2}'::text[]) AND jsonb_typeof(e.value) <> 'boolean';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config must be true or false', bad
			USING ERRCODE = 'invalid_parameter_value';
	END IF;

	SELECT min(e.key) INTO bad FROM jsonb_each(config) AS e
	WHERE e.key = ANY ('{ca_file,cert_file,key_file}'::text[])
		AND NOT (jsonb_typeof(e.value) = 'string' AND (e.value #>> '{}') ~ '^/[^[:cntrl:]]+$' AND octet_length(e.value #>> '{}') <= 1000);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config must be an absolute path without control characters', bad
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF (config ? 'key_file') <> (config ? 'cert_file') THEN
		RAISE EXCEPTION 'a client certificate is a cert_file and a key_file' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'min_tls' AND (config -> 'min_tls') NOT IN ('"1.2"', '"1.3"') THEN
		RAISE EXCEPTION 'key "min_tls" in the receiver''s config must be "1.2" or "1.3"' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'starttls' AND (config -> 'starttls') NOT IN ('"required"', '"never"') THEN
		RAISE EXCEPTION 'key "starttls" in the receiver''s config must be "required" or "never"' USING ERRCODE = 'invalid_parameter_value';
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
			OR jsonb_typeof(h.value) NOT IN ('string', 'object')
			OR jsonb_typeof(h.value) = 'string' AND (h.value #>> '{}') ~ '[\x01-\x08\x0a-\x1f\x7f]'
			OR octet_length(h.value #>> '{}') > 8192;
		IF bad IS NOT NULL THEN
			RAISE EXCEPTION 'header "%" in the receiver''s config is not allowed', regexp_replace(left(bad, 128), '[^!-~]', '?', 'g')
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'A header''s value is text without control characters; headers that frame, route or identify the request cannot be set.';
		END IF;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver_config(jsonb, text[]) IS 'Raises 22023 unless the config is an object of known keys with values in range.';

CREATE FUNCTION monitoring.run_config_check(function text, owner name, config jsonb) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_run_config_check';
COMMENT ON FUNCTION monitoring.run_config_check(text, name, jsonb) IS 'Call a kind''s config_check as the kind''s owner, for at most a second; what it raises is raised.';

CREATE FUNCTION monitoring.check_receiver(kind text, url text, config jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k monitoring.receiver_kinds;
BEGIN
	SELECT * INTO k FROM monitoring.receiver_kinds AS r WHERE r.kind = check_receiver.kind;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown receiver kind "%"', kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Known kinds: ' || (SELECT string_agg(r.kind, ', ' ORDER BY r.kind) FROM monitoring.receiver_kinds AS r) || '.';
	END IF;
	IF config ? 'url' AND url IS NOT NULL THEN
		RAISE EXCEPTION 'the receiver has a url and another one in its config' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT coalesce(config ? 'url', false) AND (k.url_required OR url IS NOT NULL) THEN
		PERFORM monitoring.check_receiver_url(url, k.schemes);
	END IF;
	PERFORM monitoring.check_receiver_config(config, k.config_keys || k.secret_keys);
	IF config ? 'fallback' AND NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r
		WHERE jsonb_typeof(check_receiver.config -> 'fallback') = 'string' AND r.name = check_receiver.config ->> 'fallback') THEN
		RAISE EXCEPTION 'receiver "%", which is to be the fallback, does not exist', config ->> 'fallback'
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	IF k.config_check IS NOT NULL THEN
		PERFORM monitoring.run_config_check(k.config_check, k.owner, jsonb_strip_nulls(jsonb_build_object('url', url)) || config
			|| (SELECT coalesce(jsonb_object_agg(s.key, '***'), '{}') FROM unnest(k.secret_keys) AS s (key) WHERE config ? s.key));
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_receiver(text, text, jsonb) IS 'Raises 22023 unless there can be a receiver of this kind with this url and config, in which secrets stand as {"secret": key}, and 42704 if its fallback does not exist.';

CREATE FUNCTION monitoring.create_receiver(name text, kind text, url text DEFAULT NULL, config jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	taken record;
BEGIN
	PERFORM monitoring.hide_statement();
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a receiver''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- it stays until we have committed
	PERFORM FROM monitoring.receiver_kinds AS k WHERE k.kind = create_receiver.kind FOR KEY SHARE;
	SELECT * INTO taken FROM monitoring.take_secrets(config,
		(SELECT k.secret_keys FROM monitoring.receiver_kinds AS k WHERE k.kind = create_receiver.kind));
	PERFORM monitoring.check_receiver(kind, url, taken.stripped);
	INSERT INTO monitoring.receiver_defs AS r (name, kind, url, config, owner)
	VALUES (create_receiver.name, create_receiver.kind, create_receiver.url, taken.stripped, monitoring.calling_role())
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	PERFORM monitoring.store_secret(name, s ->> 'key', s ->> 'source', s ->> 'value') FROM jsonb_array_elements(taken.secrets) AS s;
	PERFORM monitoring.request_routing('wake');
	RETURN name;
END $$;
COMMENT ON FUNCTION monitoring.create_receiver(text, text, text, jsonb) IS 'Create a receiver of notifications and return its name. Every enabled receiver gets the alerts of routes that name none; of what is firing already it is told when its groups are looked at next. The url''s host must be in monitoring.allowed_hosts when something is sent. Config keys of every kind, with defaults: headers (object of text), timeout_seconds (15, of a function 5) and connect_timeout_seconds (5) of one attempt, 0.01 to 60, max_attempts (10), 1 to 100, max_age_seconds (3600) after which a notification is given up, 1 to 86400, send_resolved (true), ca_file (instead of the system''s certificate authorities), cert_file and key_file (client certificate; the key in monitoring.secrets_directory), min_tls ("1.2" or "1.3"), http2 (true), rate_per_second (no limit), 0.001 to 10000, and burst (a second''s, at least 1), 1 to 10000, breaker_failures (5): after so many failures in a row it is paused, at first for a second, then for up to five minutes, and tried with one notification; 0 to 1000, 0: never; fallback (none): a receiver that gets what could not be delivered, and after fallback_after_seconds (300) of failing, 0 to 86400, all that waits. Each kind''s own keys are in docs/receivers.md. Secrets can be: the kind''s secret_keys, headers, and url in place of the argument; each is {"file": path}, {"environment": name}, {"value": text}, or {"secret": key} to be given to set_receiver_secret; text is a value where it cannot be anything else. The url is http or https (of e-mail smtp or smtps) without credentials; kinds with a fixed address need none. Errors: 22023 for a bad name, kind, url or config, 42710 if it exists.';

CREATE FUNCTION monitoring.alter_receiver(name text, config jsonb DEFAULT '{}', url text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r monitoring.receiver_defs;
	taken record;
BEGIN
	PERFORM monitoring.hide_statement();
	SELECT * INTO r FROM monitoring.receiver_defs AS d WHERE d.name = alter_receiver.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	r.config := r.config || config;
	r.config := r.config - ARRAY(SELECT c.key FROM jsonb_each(r.config) AS c WHERE c.value = 'null');
	IF url IS NOT NULL AND NOT config ? 'url' THEN
		r.config := r.config - 'url';
	END IF;
	r.url := CASE WHEN config -> 'url' <> 'null' THEN url ELSE coalesce(url, r.url) END;
	SELECT * INTO taken FROM monitoring.take_secrets(r.config,
		(SELECT k.secret_keys FROM monitoring.receiver_kinds AS k WHERE k.kind = r.kind));
	PERFORM monitoring.check_receiver(r.kind, r.url, taken.stripped);
	-- Who says where notifications go answers for it: a function that they call runs with their rights.
	UPDATE monitoring.receiver_defs AS d
	SET url = r.url, config = taken.stripped, owner = CASE WHEN d.url IS DISTINCT FROM r.url OR EXISTS (
			SELECT FROM monitoring.receiver_kinds AS k CROSS JOIN LATERAL unnest(k.config_keys || k.secret_keys || '{url,headers}') AS e (key)
			WHERE k.kind = d.kind AND d.config -> e.key IS DISTINCT FROM taken.stripped -> e.key)
		THEN monitoring.calling_role() ELSE d.owner END
	WHERE d.name = alter_receiver.name;
	PERFORM monitoring.store_secret(name, s ->> 'key', s ->> 'source', s ->> 'value') FROM jsonb_array_elements(taken.secrets) AS s;
	DELETE FROM monitoring.receiver_secrets AS s
	WHERE s.receiver = alter_receiver.name AND s.key NOT IN (SELECT k FROM monitoring.secret_keys(taken.stripped) AS k);
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.alter_receiver(text, jsonb, text) IS 'Change keys of a receiver''s config (those that are null go) and, unless it is null, its url. What is queued goes out as the receiver is then. Who changes the url, the headers or a key of the receiver''s kind becomes its owner. Errors: 42704 if it does not exist, and those of create_receiver.';

CREATE FUNCTION monitoring.enable_receiver(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.receiver_defs AS r SET enabled = coalesce(enable_receiver.enabled, true)
	WHERE r.name = enable_receiver.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.enable_receiver(text, boolean) IS 'Enable or disable a receiver. A disabled one gets no new alerts; what is queued waits until it is enabled or too old. Once enabled it is told of what fired meanwhile and still does, and of the end of alerts that it knew of. Error 42704 if it does not exist.';

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
COMMENT ON FUNCTION monitoring.drop_receiver(text) IS 'Drop a receiver; what is still queued for it becomes dead. Rules and routes that name it keep the name; a rule tells nobody under it until there is such a receiver again, a route tells every enabled receiver when none that it names exists. Error 42704 if it does not exist.';
-- secrets: what receivers authenticate with. Formatters get markers in their place; the notifier (secrets.c) puts in the
-- secrets when the request is ready, and reads those that are in files or in its environment.

CREATE TABLE monitoring.receiver_secrets (
	receiver text NOT NULL,
	key text NOT NULL CHECK (key ~ '^[A-Za-z][A-Za-z0-9_.-]{0,199}$'),
	source text NOT NULL CHECK (source IN ('value', 'file', 'environment')),
	value text NOT NULL,
	set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (receiver, key)
);
COMMENT ON TABLE monitoring.receiver_secrets IS 'Secrets of receivers: granted to nobody. pg_dump takes along references to files and environment variables; the secrets that stand here themselves only with monitoring.dump_secrets = on in its session. See the view secrets.';
COMMENT ON COLUMN monitoring.receiver_secrets.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_secrets.key IS 'Key of the secret, as in {"secret": key} in the receiver''s config.';
COMMENT ON COLUMN monitoring.receiver_secrets.source IS 'value (it is in the next column), file or environment (that has the path, or the variable''s name).';
COMMENT ON COLUMN monitoring.receiver_secrets.value IS 'The secret, path or name.';
COMMENT ON COLUMN monitoring.receiver_secrets.set_at IS 'When it was set.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.receiver_secrets',
	$$WHERE source <> 'value' OR pg_catalog.current_setting('monitoring.dump_secrets', true) = 'on'$$);

-- In place of a foreign key: a parallel restore fills the tables in any order.
CREATE FUNCTION monitoring.forget_secrets() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.receiver_secrets AS s WHERE s.receiver = OLD.name;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION monitoring.forget_secrets() IS 'Trigger of receiver_defs: secrets go with their receiver.';

CREATE TRIGGER forget_secrets AFTER DELETE ON monitoring.receiver_defs
	FOR EACH ROW EXECUTE FUNCTION monitoring.forget_secrets();
COMMENT ON TRIGGER forget_secrets ON monitoring.receiver_defs IS 'Secrets go with their receiver.';

CREATE FUNCTION monitoring.hide_statement() RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_hide_statement';
COMMENT ON FUNCTION monitoring.hide_statement() IS 'Take the text of the statement under way, which may hold a secret, out of pg_stat_activity and of what is logged of it from now on. Functions that take secrets call it.';

-- What a config names: a kind's secret keys, the url, headers.
CREATE FUNCTION monitoring.secret_keys(config jsonb) RETURNS SETOF text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT e.value ->> 'secret' FROM jsonb_each(config) AS e
	WHERE e.key <> 'headers' AND jsonb_typeof(e.value) = 'object' AND e.value ->> 'secret' IS NOT NULL
	UNION
	SELECT h.value ->> 'secret' FROM jsonb_each(CASE WHEN jsonb_typeof(config -> 'headers') = 'object' THEN config -> 'headers' END) AS h
	WHERE jsonb_typeof(h.value) = 'object'
$$;
COMMENT ON FUNCTION monitoring.secret_keys(jsonb) IS 'The keys of the secrets that a receiver''s config refers to.';

CREATE FUNCTION monitoring.place_secrets(receiver jsonb, marks jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT receiver || jsonb_build_object('config', placed.config - 'url')
		|| CASE WHEN placed.config ? 'url' THEN jsonb_build_object('url', placed.config -> 'url') ELSE '{}' END
	FROM (
		SELECT coalesce(jsonb_object_agg(e.key, CASE
					WHEN e.key = 'headers' THEN (
						SELECT coalesce(jsonb_object_agg(h.key, CASE WHEN jsonb_typeof(h.value) = 'object'
							THEN coalesce(marks -> (h.value ->> 'secret'), '"***"') ELSE h.value END), '{}')
						FROM jsonb_each(e.value) AS h)
					WHEN jsonb_typeof(e.value) = 'object' AND e.value ->> 'secret' IS NOT NULL THEN coalesce(marks -> (e.value ->> 'secret'), '"***"')
					ELSE e.value END), '{}')
			|| CASE WHEN receiver -> 'config' ? 'username' AND receiver -> 'config' ? 'password'
				THEN jsonb_build_object('basic_auth', coalesce(marks -> 'basic_auth', '"***"')) ELSE '{}' END AS config
		FROM jsonb_each(receiver -> 'config') AS e) AS placed
$$;
COMMENT ON FUNCTION monitoring.place_secrets(jsonb, jsonb) IS 'A receiver (object with name, kind, url, config) as its formatter gets it: with marks, an object by keys, in place of the secrets, or *** where there is no mark. A config with username and password has basic_auth too.';

CREATE FUNCTION monitoring.redacted_receiver(name text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.place_secrets(jsonb_build_object('name', r.name, 'kind', r.kind, 'url', r.url, 'config', r.config), NULL)
	FROM monitoring.receiver_defs AS r WHERE r.name = redacted_receiver.name
$$;
COMMENT ON FUNCTION monitoring.redacted_receiver(text) IS 'The receiver as formatters get it, secrets redacted; null if there is none.';

CREATE FUNCTION monitoring.take_secrets(config jsonb, secret_keys text[], OUT stripped jsonb, OUT secrets jsonb)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	spec record;
	key text;
	source text;
BEGIN
	stripped := config;
	secrets := '[]';
	IF jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
		RETURN;
	END IF;
	FOR spec IN
		SELECT ARRAY[e.key] AS path, e.value, e.key AS name, jsonb_typeof(e.value) = 'string' AS plain
		FROM jsonb_each(config) AS e WHERE e.key = ANY (secret_keys || 'url'::text)
		UNION ALL
		SELECT ARRAY['headers', h.key], h.value, 'header.' || h.key, false
		FROM jsonb_each(CASE WHEN jsonb_typeof(config -> 'headers') = 'object' THEN config -> 'headers' END) AS h
		WHERE jsonb_typeof(h.value) = 'object'
	LOOP
		IF spec.plain THEN
			source := 'value';
		ELSE
			SELECT min(k) INTO source FROM jsonb_object_keys(CASE WHEN jsonb_typeof(spec.value) = 'object' THEN spec.value END) AS k;
			IF source IS NULL OR source <> ALL ('{value,file,environment,secret}'::text[]) OR spec.value - source <> '{}'
				OR jsonb_typeof(spec.value -> source) <> 'string'
			THEN
				RAISE EXCEPTION 'secret "%" in the receiver''s config is malformed', regexp_replace(left(spec.name, 128), '[^!-~]', '?', 'g')
					USING ERRCODE = 'invalid_parameter_value',
						HINT = 'It is one of {"file": path}, {"environment": name}, {"value": text} and {"secret": key}.';
			END IF;
		END IF;
		key := CASE source WHEN 'secret' THEN spec.value ->> 'secret' ELSE spec.name END;
		IF key !~ '^[A-Za-z][A-Za-z0-9_.-]{0,199}$' OR key = 'basic_auth' THEN
			RAISE EXCEPTION 'key "%" of a secret is not allowed', regexp_replace(left(key, 128), '[^!-~]', '?', 'g')
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'A key has up to 200 letters, digits, underscores, dots and hyphens, the first of them a letter.';
		END IF;
		stripped := jsonb_set(stripped, spec.path, jsonb_build_object('secret', key));
		IF source <> 'secret' THEN
			secrets := secrets || jsonb_build_object('key', key, 'source', source,
				'value', CASE WHEN spec.plain THEN spec.value #>> '{}' ELSE spec.value ->> source END);
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.take_secrets(jsonb, text[]) IS 'A receiver''s config with {"secret": key} in place of its secrets, and these as an array of objects with key, source and value. Errors: 22023 for a malformed secret.';

CREATE FUNCTION monitoring.store_secret(receiver text, key text, source text, value text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	def monitoring.receiver_defs;
BEGIN
	IF source = 'value' AND (value = '' OR octet_length(value) > 8192 OR value ~ '[\x01-\x1f\x7f]') THEN
		RAISE EXCEPTION 'secret "%" must have 1 to 8192 bytes, none of them a control character', key
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF source = 'file' AND (value !~ '^/[^[:cntrl:]]+$' OR octet_length(value) > 1000) THEN
		RAISE EXCEPTION 'the file of secret "%" must be an absolute path without control characters', key
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It has to be in monitoring.secrets_directory.';
	ELSIF source = 'environment' AND value !~ '^MONITORING_SECRET_[A-Za-z0-9_]{1,100}$' THEN
		RAISE EXCEPTION 'the environment variable of secret "%" must have a name that starts with MONITORING_SECRET_', key
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT d.* INTO def FROM monitoring.receiver_defs AS d WHERE d.name = store_secret.receiver;
	IF source = 'value' AND key = ANY (ARRAY[def.config -> 'url' ->> 'secret', def.config -> 'fail_url' ->> 'secret']) THEN
		PERFORM monitoring.check_receiver_url(value, (SELECT k.schemes FROM monitoring.receiver_kinds AS k WHERE k.kind = def.kind));
	END IF;
	INSERT INTO monitoring.receiver_secrets AS s (receiver, key, source, value)
	VALUES (store_secret.receiver, store_secret.key, store_secret.source, store_secret.value)
	ON CONFLICT ON CONSTRAINT receiver_secrets_pkey DO UPDATE SET source = EXCLUDED.source, value = EXCLUDED.value, set_at = EXCLUDED.set_at;
END $$;
COMMENT ON FUNCTION monitoring.store_secret(text, text, text, text) IS 'Check and store a secret of a receiver, or change it. Errors: 22023 for one that cannot be used.';

CREATE FUNCTION monitoring.set_receiver_secret(receiver text, key text, value text DEFAULT NULL, file text DEFAULT NULL, environment text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	def monitoring.receiver_defs;
	keys text[];
BEGIN
	PERFORM monitoring.hide_statement();
	SELECT d.* INTO def FROM monitoring.receiver_defs AS d WHERE d.name = set_receiver_secret.receiver;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	ELSIF num_nonnulls(value, file, environment) <> 1 THEN
		RAISE EXCEPTION 'a secret is either a value, in a file, or in an environment variable' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	-- A key of the kind is used as soon as it is set.
	IF EXISTS (SELECT FROM monitoring.receiver_kinds AS k WHERE k.kind = def.kind AND set_receiver_secret.key = ANY (k.secret_keys))
		AND NOT def.config ? key
	THEN
		def.config := def.config || jsonb_build_object(key, jsonb_build_object('secret', key));
		UPDATE monitoring.receiver_defs AS d SET config = def.config WHERE d.name = def.name;
	END IF;
	keys := ARRAY(SELECT k FROM monitoring.secret_keys(def.config) AS k ORDER BY k);
	IF key IS NULL OR key <> ALL (keys) THEN
		RAISE EXCEPTION 'receiver "%" has no use for a secret of that key', receiver
			USING ERRCODE = 'invalid_parameter_value',
				HINT = CASE WHEN keys = '{}' THEN 'Its config refers to none; see create_receiver.' ELSE 'Its secrets: ' || array_to_string(keys, ', ') || '.' END;
	END IF;
	PERFORM monitoring.store_secret(receiver, key,
		CASE WHEN value IS NOT NULL THEN 'value' WHEN file IS NOT NULL THEN 'file' ELSE 'environment' END,
		coalesce(value, file, environment));
END $$;
COMMENT ON FUNCTION monitoring.set_receiver_secret(text, text, text, text, text) IS 'Set or change a secret of a receiver: its value, which should come as a bind parameter, or where the notifier reads it at each use: a file in monitoring.secrets_directory, or an environment variable of the server whose name starts with MONITORING_SECRET_. The key is one that the receiver''s config refers to, or one of its kind''s secret_keys. A secret has up to 8192 bytes and no control character; a line break at the end of a file does not count. Errors: 42704 for an unknown receiver, 22023 otherwise.';

CREATE FUNCTION monitoring.drop_receiver_secret(receiver text, key text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.receiver_secrets AS s WHERE s.receiver = drop_receiver_secret.receiver AND s.key = drop_receiver_secret.key;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" has no such secret', receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.secrets lists them.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_receiver_secret(text, text) IS 'Forget a secret. What the receiver''s config still refers to it for cannot be sent until it is set again. Error 42704 if it is not set.';

CREATE VIEW monitoring.secrets AS
	SELECT d.name AS receiver, k.key, s.source, CASE WHEN s.source <> 'value' THEN s.value END AS reference, s.set_at
	FROM monitoring.receiver_defs AS d
	CROSS JOIN LATERAL (
		SELECT e.value ->> 'secret' AS key FROM jsonb_each(d.config) AS e
		WHERE e.key <> 'headers' AND jsonb_typeof(e.value) = 'object' AND e.value ->> 'secret' IS NOT NULL
		UNION
		SELECT h.value ->> 'secret' FROM jsonb_each(d.config -> 'headers') AS h WHERE jsonb_typeof(h.value) = 'object') AS k
	LEFT JOIN monitoring.receiver_secrets AS s ON s.receiver = d.name AND s.key = k.key;
COMMENT ON VIEW monitoring.secrets IS 'The secrets that receivers refer to, and where they are; the secrets themselves are shown to nobody.';
COMMENT ON COLUMN monitoring.secrets.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.secrets.key IS 'Key of the secret, as for set_receiver_secret.';
COMMENT ON COLUMN monitoring.secrets.source IS 'value, file or environment; null if it is not set: nothing can be sent.';
COMMENT ON COLUMN monitoring.secrets.reference IS 'Path of the file, or name of the environment variable.';
COMMENT ON COLUMN monitoring.secrets.set_at IS 'When it was set.';
-- outbox: notifications to send and sent, the attempts to deliver them, and what formatters get.

CREATE SEQUENCE monitoring.outbox_id_seq;
COMMENT ON SEQUENCE monitoring.outbox_id_seq IS 'Ids of notifications.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.outbox_id_seq', '');

CREATE TABLE monitoring.outbox (
	id bigint NOT NULL DEFAULT nextval('monitoring.outbox_id_seq'),
	created_at timestamptz NOT NULL,
	at timestamptz,
	receiver text NOT NULL,
	idempotency_key text NOT NULL DEFAULT gen_random_uuid(),
	group_key text NOT NULL,
	alert text NOT NULL,
	status text NOT NULL,
	alert_ids bigint[] NOT NULL DEFAULT '{}',
	payload jsonb NOT NULL,
	state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sending', 'sent', 'failed', 'dead', 'superseded', 'cancelled')),
	attempts integer NOT NULL DEFAULT 0,
	next_attempt_at timestamptz NOT NULL,
	expires_at timestamptz NOT NULL,
	lease_until timestamptz,
	http_status integer,
	error text,
	latency float8,
	sent_at timestamptz
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE monitoring.outbox IS 'Notifications to send and sent, one row per receiver and group of alerts; written in the transaction that changes the alerts. Times are the real clock''s, but for at.';
COMMENT ON COLUMN monitoring.outbox.id IS 'Number of the notification, in order of creation.';
COMMENT ON COLUMN monitoring.outbox.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN monitoring.outbox.at IS 'Time of the evaluation that made it; null for a test.';
COMMENT ON COLUMN monitoring.outbox.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.outbox.idempotency_key IS 'The same in every attempt, so that a receiver can drop repeats.';
COMMENT ON COLUMN monitoring.outbox.group_key IS 'Group of alerts; a receiver gets the notifications of a group in order, one at a time.';
COMMENT ON COLUMN monitoring.outbox.alert IS 'Name of the alert rule; of the route where it tells of several.';
COMMENT ON COLUMN monitoring.outbox.status IS 'firing, resolved, acknowledged, still firing (told again to a receiver that would take silence for the end), message, heartbeat or test.';
COMMENT ON COLUMN monitoring.outbox.alert_ids IS 'The alerts (alerts.alert_id) that it lists.';
COMMENT ON COLUMN monitoring.outbox.payload IS 'What the formatter gets: group key, labels, annotations and alerts.';
COMMENT ON COLUMN monitoring.outbox.state IS 'queued; sending (claimed until lease_until); failed (tried again at next_attempt_at); sent; dead (given up); superseded (a later one says it all); cancelled.';
COMMENT ON COLUMN monitoring.outbox.attempts IS 'Attempts begun.';
COMMENT ON COLUMN monitoring.outbox.next_attempt_at IS 'Not tried before this time.';
COMMENT ON COLUMN monitoring.outbox.expires_at IS 'Given up at this time.';
COMMENT ON COLUMN monitoring.outbox.lease_until IS 'While sending: when the claim ends and the row may be sent again.';
COMMENT ON COLUMN monitoring.outbox.http_status IS 'Status of the last response, of a mail server its last reply; null if none came.';
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
	error text,
	bytes bigint,
	protocol text
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.delivery_attempts IS 'Every attempt to deliver a notification, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.delivery_attempts.at IS 'When the attempt ended.';
COMMENT ON COLUMN monitoring.delivery_attempts.notification_id IS 'The notification (notifications.id).';
COMMENT ON COLUMN monitoring.delivery_attempts.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.delivery_attempts.attempt IS 'Number of the attempt, from 1.';
COMMENT ON COLUMN monitoring.delivery_attempts.outcome IS 'response (http_status says which), network (no response), refused (against the outbound rules), delivered (in this database: NOTIFY, or the function returned), raised (the function failed, and may not the next time), rejected (it failed for good), nothing (the formatter had nothing to send), unformattable (the formatter failed; call it by hand for its message), unformatted (it failed, or a secret could not be read, but may work the next time), postponed (formatters of other notifications took too long), lost (the sender or the notifier ended before the outcome was known).';
COMMENT ON COLUMN monitoring.delivery_attempts.http_status IS 'Status of the response, of a mail server its last reply; null if none came.';
COMMENT ON COLUMN monitoring.delivery_attempts.latency IS 'Seconds the attempt took; null if nothing was sent.';
COMMENT ON COLUMN monitoring.delivery_attempts.error IS 'Why it failed; holds no secrets.';
COMMENT ON COLUMN monitoring.delivery_attempts.bytes IS 'Bytes of the response that were read, headers included; null if none came.';
COMMENT ON COLUMN monitoring.delivery_attempts.protocol IS 'What the response came by: HTTP/1.0, HTTP/1.1, HTTP/2, HTTP/3 or SMTP; NOTIFY or SQL of what was done in the database; null if none came.';

-- Of the outbox only unfinished rows are in the indexes besides the key: their size follows the backlog, not the
-- history. They serve a receiver's rows in order, other rows of a group, rows that become too old, and what is being sent.
-- A group's have one expression for a key, and the last has none that another has: a planner without statistics, as of
-- every new day, must not take the index of all that a receiver waits for instead.
INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes) VALUES
	('outbox', '1 day', 2, '30 days', ARRAY['PRIMARY KEY (created_at, id)',
		$$(receiver, id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$((receiver || E'\n' || group_key), id) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(expires_at) WHERE state IN ('queued', 'sending', 'failed')$$,
		$$(lease_until) WHERE state = 'sending'$$]),
	('delivery_attempts', '1 day', 2, '30 days', '{(notification_id)}');

CREATE VIEW monitoring.notifications AS
	SELECT o.id, o.receiver, o.alert, o.status, o.state, o.attempts, o.http_status, o.error, o.created_at, o.sent_at,
		o.latency, CASE WHEN o.state IN ('queued', 'failed') THEN o.next_attempt_at END AS next_attempt_at,
		o.idempotency_key, o.alert_ids, o.at, o.group_key, o.payload ->> 'reason' AS reason
	FROM monitoring.outbox AS o;
COMMENT ON VIEW monitoring.notifications IS 'Notifications with the state of their delivery, kept as long as retention_policies says (30 days).';
COMMENT ON COLUMN monitoring.notifications.id IS 'Number of the notification, as test_receiver returns it.';
COMMENT ON COLUMN monitoring.notifications.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.notifications.alert IS 'Name of the alert rule; of the route where it tells of several.';
COMMENT ON COLUMN monitoring.notifications.status IS 'firing, resolved, acknowledged, still firing (told again to a receiver that would take silence for the end), message, heartbeat or test.';
COMMENT ON COLUMN monitoring.notifications.state IS 'queued, sending, sent, failed (will be tried again), dead (given up), superseded (a later one of its group says it all) or cancelled.';
COMMENT ON COLUMN monitoring.notifications.attempts IS 'Attempts begun.';
COMMENT ON COLUMN monitoring.notifications.http_status IS 'HTTP status of the last response, of a mail server its last reply; null if none came.';
COMMENT ON COLUMN monitoring.notifications.error IS 'Why the last attempt failed.';
COMMENT ON COLUMN monitoring.notifications.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN monitoring.notifications.sent_at IS 'When it was delivered.';
COMMENT ON COLUMN monitoring.notifications.latency IS 'Seconds the last attempt took.';
COMMENT ON COLUMN monitoring.notifications.next_attempt_at IS 'When it is tried next; null if it is being sent or finished.';
COMMENT ON COLUMN monitoring.notifications.idempotency_key IS 'Key that the receiver sees in every attempt.';
COMMENT ON COLUMN monitoring.notifications.alert_ids IS 'The alerts that it lists.';
COMMENT ON COLUMN monitoring.notifications.at IS 'Time of the evaluation that made it; null for a test.';
COMMENT ON COLUMN monitoring.notifications.group_key IS 'Group of alerts that it tells of.';
COMMENT ON COLUMN monitoring.notifications.reason IS 'Why the group was told of, such as first notification or repeat interval elapsed.';

----------------------------------------------------------------------------------------------------------------------
-- Enqueueing
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.format_time(t timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;
COMMENT ON FUNCTION monitoring.format_time(timestamptz) IS 'A time as RFC 3339 text in UTC, with milliseconds.';

CREATE FUNCTION monitoring.common_pairs(alerts jsonb, member text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	common jsonb := coalesce(alerts -> 0 -> member, '{}');
	other jsonb;
BEGIN
	FOR other IN SELECT a.value -> member FROM jsonb_array_elements(alerts) AS a LOOP
		IF NOT other @> common THEN
			common := (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(common) AS c WHERE other -> c.key = c.value);
		END IF;
	END LOOP;
	RETURN common;
END $$;
COMMENT ON FUNCTION monitoring.common_pairs(jsonb, text) IS 'The keys, with their values, that this member (labels or annotations) of all the alerts has in common.';

CREATE FUNCTION monitoring.make_payload(receiver text, group_key text, status text, group_labels jsonb, alerts jsonb, more jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_build_object('receiver', receiver, 'groupKey', group_key, 'status', status, 'groupLabels', group_labels,
	'commonLabels', monitoring.common_pairs(alerts, 'labels'), 'commonAnnotations', monitoring.common_pairs(alerts, 'annotations'),
	'truncatedAlerts', 0, 'alerts', alerts) || more;
COMMENT ON FUNCTION monitoring.make_payload(text, text, text, jsonb, jsonb, jsonb) IS 'What formatters get as notification: receiver, groupKey, status, groupLabels, commonLabels, commonAnnotations, truncatedAlerts (how many more there are) and alerts, each with status, labels, annotations, startsAt, endsAt, fingerprint, value, threshold, op; and what more holds: the reason, as send_reason gives it, and of a digest, digest with route, since and until. The idempotencyKey is added when it is sent.';

CREATE FUNCTION monitoring.test_notification(receiver text, id bigint, at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.make_payload(receiver, format('{}:{alertname="TestNotification",test="%s"}', id), 'firing', '{"alertname": "TestNotification"}',
		jsonb_build_array(jsonb_build_object('status', 'firing', 'labels', '{"alertname": "TestNotification", "severity": "info"}'::jsonb,
			'annotations', '{"summary": "Test notification of monitoring: this receiver works."}'::jsonb,
			'startsAt', monitoring.format_time(at), 'endsAt', '0001-01-01T00:00:00Z', 'fingerprint', '5f24dd0f417d744d')))
$$;
COMMENT ON FUNCTION monitoring.test_notification(text, bigint, timestamptz) IS 'The notification with which a receiver is tested.';

CREATE FUNCTION monitoring.test_receiver(name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	new_id bigint := nextval('monitoring.outbox_id_seq');
	max_age interval;
	is_enabled boolean;
	payload jsonb := monitoring.test_notification(name, new_id, now_at);
BEGIN
	SELECT monitoring.max_age(r.config), r.enabled INTO max_age, is_enabled
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
	VALUES (new_id, now_at, name, payload ->> 'groupKey', 'TestNotification', 'test', payload,
		now_at, now_at + max_age);
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.test_receiver(text) IS 'Enqueue a test notification and return its id; the notifier sends it about a second after commit, and notifications shows the outcome. Errors: 42704 if the receiver does not exist, 55000 if it is disabled.';
-- send: messages of applications, past rules and routes.

CREATE FUNCTION monitoring.send(receiver text, title text, body text DEFAULT '', labels jsonb DEFAULT '{}', severity text DEFAULT 'info')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	now_at timestamptz := clock_timestamp();
	new_id bigint := nextval('monitoring.outbox_id_seq');
	config jsonb;
	key text := format('message:%s', new_id);
	title_labels jsonb;
BEGIN
	IF title IS NULL OR title !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a message''s title has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF octet_length(body) > 16384 THEN
		RAISE EXCEPTION 'the text of a message is too long'
			USING ERRCODE = 'program_limit_exceeded', DETAIL = 'It has at most 16384 bytes.';
	END IF;
	title_labels := monitoring.check_text_map(labels, 'labels', 4096)
		|| jsonb_build_object('alertname', title, 'severity', monitoring.canonical_severity(severity));
	SELECT r.config INTO config FROM monitoring.receiver_defs AS r WHERE r.name = send.receiver;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox (id, created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	VALUES (new_id, now_at, receiver, key, title, 'message',
		monitoring.make_payload(receiver, key, 'firing', jsonb_build_object('alertname', title), jsonb_build_array(jsonb_build_object(
			'status', 'firing', 'labels', title_labels,
			'annotations', jsonb_strip_nulls(jsonb_build_object('summary', title, 'description', nullif(body, ''))),
			'startsAt', monitoring.format_time(now_at), 'endsAt', '0001-01-01T00:00:00Z', 'fingerprint', left(md5(key), 16))),
			'{"reason": "message"}'),
		now_at, now_at + monitoring.max_age(config));
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.send(text, text, text, jsonb, text) IS 'Send a message to a receiver if the transaction commits, and return the number of the notification; the view notifications shows its outcome. Receivers get it as an alert that fires with that title as its name, the text as its description, and is never resolved. One that is disabled gets it when it is enabled, unless it is too old by then. Errors: 22023 for a title, labels or severity that are not valid, 54000 for too much of them, 42704 if there is no such receiver.';
-- templates: what people read of a notification, before it is put into the format of a receiver.
--
-- message() turns the payload of a notification into texts, as they are; escape_text() makes a text harmless for a format and
-- bounds it. Title and text can be templates of the receiver: what is filled into them is escaped for the format first,
-- so that no label or annotation can be markup, and shortened until the whole fits.

----------------------------------------------------------------------------------------------------------------------
-- Escaping
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.escape_text(t text, style text, max_length integer, one_line boolean DEFAULT false) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_escape_text';
COMMENT ON FUNCTION monitoring.escape_text(text, text, integer, boolean) IS 'Text escaped for a format (slack, discord, teams, html; text escapes nothing), without control characters but line ends and tabs (one_line: without these too), cut to so many UTF-16 units after escaping; what is cut ends with an ellipsis. Error 22023 for an unknown style.';

CREATE FUNCTION monitoring.text_units(t text) RETURNS integer
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_text_units';
COMMENT ON FUNCTION monitoring.text_units(text) IS 'Length of a text in UTF-16 units, as most receivers count.';

CREATE FUNCTION monitoring.safe_link(url text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN url ~ '^https?://[!-~]+$' AND pg_catalog.length(url) <= 1000 AND url !~ '["<>\\`|{}''^]'
	THEN pg_catalog.replace(pg_catalog.replace(url, '(', '%28'), ')', '%29') END;
COMMENT ON FUNCTION monitoring.safe_link(text) IS 'The url if it is one of http or https that can be put into a link of any format, otherwise null.';

CREATE FUNCTION monitoring.markup(style text, element text, content text, url text DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE element
	WHEN 'bold' THEN CASE style WHEN 'slack' THEN '*' || content || '*' WHEN 'html' THEN '<b>' || content || '</b>'
		WHEN 'text' THEN content ELSE '**' || content || '**' END
	WHEN 'link' THEN CASE style WHEN 'slack' THEN '<' || pg_catalog.replace(url, '&', '&amp;') || '|' || content || '>'
		WHEN 'html' THEN '<a href="' || pg_catalog.replace(url, '&', '&amp;') || '">' || content || '</a>'
		WHEN 'text' THEN content || ': ' || url ELSE '[' || content || '](' || url || ')' END
END;
COMMENT ON FUNCTION monitoring.markup(text, text, text, text) IS 'Escaped text as bold or as link to a safe_link() in the markup of a style.';

----------------------------------------------------------------------------------------------------------------------
-- Messages
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.severity_colours (
	severity text PRIMARY KEY,
	rank integer NOT NULL,
	colour integer NOT NULL CHECK (colour BETWEEN 0 AND 16777215)
);
COMMENT ON TABLE monitoring.severity_colours IS 'Colours of messages: of the gravest alert that fires, or of resolved.';
COMMENT ON COLUMN monitoring.severity_colours.severity IS 'Severity, or resolved.';
COMMENT ON COLUMN monitoring.severity_colours.rank IS 'The gravest is 1.';
COMMENT ON COLUMN monitoring.severity_colours.colour IS 'Red, green and blue, as in 16711680 (0xFF0000) for red.';
INSERT INTO monitoring.severity_colours VALUES ('critical', 1, 11674146), ('high', 2, 15094016), ('medium', 3, 16361509),
	('low', 4, 1402304), ('info', 5, 5533306), ('resolved', 6, 3046706);

CREATE FUNCTION monitoring.plain_pairs(pairs jsonb, separator text, skipped text[] DEFAULT '{}') RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(p.key || separator || left(p.value, 2000), ', ' ORDER BY p.key COLLATE "C")
	FROM (SELECT e.key, e.value FROM jsonb_each_text(CASE WHEN jsonb_typeof(pairs) = 'object' THEN pairs ELSE '{}' END) AS e
		WHERE e.key <> ALL (skipped) ORDER BY e.key COLLATE "C" LIMIT 50) AS p
$$;
COMMENT ON FUNCTION monitoring.plain_pairs(jsonb, text, text[]) IS 'Members of an object for people to read, as in a=1, b=2; the first fifty.';

CREATE FUNCTION monitoring.bounded_pairs(pairs jsonb, max_length integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(p.key, left(p.value, max_length)), '{}')
	FROM jsonb_each_text(CASE WHEN jsonb_typeof(pairs) = 'object' THEN pairs ELSE '{}' END) AS p
$$;
COMMENT ON FUNCTION monitoring.bounded_pairs(jsonb, integer) IS 'An object of texts, each cut to so many characters; what is not an object is an empty one.';

CREATE FUNCTION monitoring.short_evidence(alert_id bigint) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(format('%s: %s', replace(k.name, '_', ' '), p.pairs), E'\n' ORDER BY k.n)
	FROM monitoring.evidence_of(alert_id) AS e (evidence)
	CROSS JOIN unnest('{blockers,slow_statements,errors,deployments}'::text[]) WITH ORDINALITY AS k (name, n)
	CROSS JOIN LATERAL (
		SELECT string_agg(m.key || ' ' || left(regexp_replace(m.value, '\s+', ' ', 'g'), 120), ', ' ORDER BY length(m.value), m.key) AS pairs
		FROM jsonb_each_text(CASE WHEN jsonb_typeof(e.evidence -> k.name -> 0) = 'object' THEN e.evidence -> k.name -> 0 END) AS m
		WHERE m.value IS NOT NULL) AS p
	WHERE p.pairs IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.short_evidence(bigint) IS 'The first of each sort of evidence of an alert, a line each.';

CREATE FUNCTION monitoring.message_alert(alert jsonb, external_url text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- more than any message shows
	labels jsonb := monitoring.bounded_pairs(alert -> 'labels', 1000);
	notes jsonb := monitoring.bounded_pairs(alert -> 'annotations', 5000);
	console text := external_url || '/#/alerts/' || (alert ->> 'alert_id');
	runbook text := monitoring.safe_link(coalesce(alert ->> 'runbook_url', notes ->> 'runbook_url'));
	silence text := external_url || '/#/silences/new?alert=' || (alert ->> 'alert_id');
BEGIN
	RETURN jsonb_build_object(
		'status', coalesce(alert ->> 'status', 'firing'),
		'severity', labels ->> 'severity',
		'alertname', labels ->> 'alertname',
		'summary', coalesce(notes ->> 'summary', notes ->> 'description', labels ->> 'alertname'),
		'description', CASE WHEN notes ? 'summary' THEN notes ->> 'description' END,
		'value', alert ->> 'value', 'threshold', alert ->> 'threshold', 'op', alert ->> 'op',
		'reading', CASE WHEN alert ->> 'value' IS NOT NULL THEN concat_ws(' ', 'value', alert ->> 'value',
			'(threshold ' || (alert ->> 'op') || ' ' || (alert ->> 'threshold') || ')') END,
		'impact', CASE jsonb_typeof(alert -> 'impact') WHEN 'object' THEN monitoring.plain_pairs(alert -> 'impact', ' ')
			ELSE left(alert ->> 'impact', 2000) END,
		'labels', monitoring.plain_pairs(labels, '=', '{alertname}'),
		'startsAt', alert ->> 'startsAt',
		'endsAt', CASE WHEN alert ->> 'status' = 'resolved' THEN alert ->> 'endsAt' END,
		'fingerprint', alert ->> 'fingerprint', 'alert_id', alert ->> 'alert_id',
		'acknowledged_by', alert -> 'acknowledged' ->> 'by',
		'runbook_url', runbook, 'console_url', console, 'silence_url', silence,
		'label_map', labels, 'annotation_map', notes,
		'links', (SELECT coalesce(jsonb_agg(jsonb_build_object('text', l.text, 'url', l.url) ORDER BY l.n), '[]')
			FROM (SELECT 1, 'Runbook', runbook UNION ALL SELECT 2, 'Console', console
				UNION ALL SELECT 3, 'Silence', silence WHERE alert ->> 'status' IS DISTINCT FROM 'resolved'
				UNION ALL (SELECT 4, m.value ->> 'text', monitoring.safe_link(m.value ->> 'url')
					FROM jsonb_array_elements(CASE jsonb_typeof(alert -> 'links') WHEN 'array' THEN alert -> 'links' ELSE '[]' END) AS m LIMIT 5)
				) AS l (n, text, url) WHERE l.url IS NOT NULL AND l.text IS NOT NULL));
END $$;
COMMENT ON FUNCTION monitoring.message_alert(jsonb, text) IS 'An alert of a notification as texts for people, not yet escaped.';

CREATE FUNCTION monitoring.message(notification jsonb, max_alerts integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	external_url text := rtrim(nullif(current_setting('monitoring.external_url', true), ''), '/');
	alerts jsonb := CASE jsonb_typeof(notification -> 'alerts') WHEN 'array' THEN notification -> 'alerts' ELSE '[]' END;
	firing bigint := (SELECT count(*) FROM jsonb_array_elements(alerts) AS a WHERE a.value ->> 'status' = 'firing');
	more bigint := coalesce((notification ->> 'truncatedAlerts')::bigint, 0);
	total bigint := jsonb_array_length(alerts) + more;
	status text := coalesce(notification ->> 'status', 'firing');
	gravest text := (SELECT s.severity FROM jsonb_array_elements(alerts) AS a
		JOIN monitoring.severity_colours AS s ON s.severity = a.value -> 'labels' ->> 'severity'
		WHERE a.value ->> 'status' = status OR firing = 0 ORDER BY s.rank LIMIT 1);
	name text := coalesce(notification -> 'groupLabels' ->> 'alertname', 'digest of ' || (notification -> 'digest' ->> 'route'),
		notification -> 'commonLabels' ->> 'alertname', nullif(monitoring.labels_text(notification -> 'groupLabels'), '{}'), 'alerts');
	shown jsonb := (SELECT coalesce(jsonb_agg(monitoring.message_alert(a.value, external_url) ORDER BY a.ordinality), '[]')
		FROM jsonb_array_elements(alerts) WITH ORDINALITY AS a WHERE a.ordinality <= max_alerts);
BEGIN
	-- an application's message has its title for its name and its text for its description
	IF notification ->> 'reason' = 'message' THEN
		shown := (SELECT coalesce(jsonb_agg(a.value || jsonb_build_object('summary', coalesce(a.value ->> 'description', a.value ->> 'summary'), 'description', NULL)
				ORDER BY a.ordinality), '[]')
			FROM jsonb_array_elements(shown) WITH ORDINALITY AS a);
	END IF;
	RETURN jsonb_build_object(
		'status', status, 'severity', gravest, 'name', name,
		'title', coalesce(left(notification ->> 'title', 1000), CASE WHEN notification ->> 'reason' = 'message' THEN name END, format('[%s] %s', upper(CASE WHEN notification ->> 'reason' = 'acknowledged' THEN 'acknowledged'
			ELSE status END) || CASE WHEN total > 1 THEN ':' || total ELSE '' END, name)),
		'text', left(notification ->> 'text', 100000),
		'colour', (SELECT s.colour FROM monitoring.severity_colours AS s
			WHERE s.severity = CASE WHEN status = 'resolved' THEN 'resolved' ELSE coalesce(gravest, 'info') END),
		'count', total, 'firing', firing, 'resolved', jsonb_array_length(alerts) - firing,
		'group', monitoring.labels_text(coalesce(notification -> 'groupLabels', '{}')),
		'receiver', notification ->> 'receiver', 'reason', notification ->> 'reason', 'external_url', external_url,
		'evidence', monitoring.short_evidence((SELECT (a.value ->> 'alert_id')::bigint FROM jsonb_array_elements(alerts) WITH ORDINALITY AS a
			WHERE a.value ->> 'status' = 'firing' AND a.value ->> 'alert_id' ~ '^[0-9]{1,18}$' ORDER BY a.ordinality LIMIT 1)),
		'alerts', shown, 'more', total - jsonb_array_length(shown));
END $$;
COMMENT ON FUNCTION monitoring.message(jsonb, integer) IS 'A notification as texts for people, not yet escaped: title, text, status, severity, colour, counts, evidence of the first alert, so many alerts as message_alert() gives them, and how many more there are.';

----------------------------------------------------------------------------------------------------------------------
-- Templates
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.template_holes(template text) RETURNS TABLE (hole text, name text, of_label boolean)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT h.m[1], regexp_replace(btrim(h.m[1], '{} '), '^\$(labels\.)?', ''), btrim(h.m[1], '{} ') ~ '^\$?(labels|annotations)\..'
	FROM regexp_matches(template, '\{\{(.*?)\}\}', 'g') AS h (m)
$$;
COMMENT ON FUNCTION monitoring.template_holes(text) IS 'What a template has to be filled in: the text between the braces, the name that fill_text() looks up, and whether it is a label or an annotation by its own name.';

CREATE FUNCTION monitoring.template_variables() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{acknowledged_by,alert_id,alertname,console_url,count,description,endsAt,evidence,external_url,fingerprint,firing,group,impact,labels,op,reading,reason,receiver,resolved,runbook_url,severity,silence_url,startsAt,status,summary,threshold,title,value}'::text[];
COMMENT ON FUNCTION monitoring.template_variables() IS 'What title, text and html of a receiver may name, besides {{labels.name}} and {{annotations.name}}.';

CREATE FUNCTION monitoring.check_template(key text, template jsonb, max_length integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	t text := template #>> '{}';
	unknown text;
BEGIN
	IF jsonb_typeof(template) <> 'string' OR t = '' OR length(t) > max_length OR t ~ '[\x01-\x08\x0b-\x1f\x7f]'
		OR key = 'title' AND t ~ '[\n\t]' THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config must be a text of 1 to % characters without control characters', key, max_length
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(h.hole) INTO unknown FROM monitoring.template_holes(t) AS h
	WHERE NOT h.of_label AND h.name <> ALL (monitoring.template_variables());
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'unknown variable "{{%}}" in key "%" of the receiver''s config', left(unknown, 100), key
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Variables are '
				|| array_to_string(monitoring.template_variables(), ', ') || ', labels.NAME and annotations.NAME.';
	END IF;
	-- fill_text() takes the first }} for the end of a hole
	IF regexp_replace(t, '\{\{.*?\}\}', '', 'g') ~ '\{\{|\}\}' THEN
		RAISE EXCEPTION 'unbalanced braces in key "%" of the receiver''s config', key
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Variables are written as in {{summary}}.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_template(text, jsonb, integer) IS 'Raises 22023 unless a key of a config is a template that names known variables only.';

CREATE FUNCTION monitoring.fill_template(template text, vars jsonb, style text, max_length integer, one_line boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- {{labels.a}}, {{$labels.a}} and {{$value}}: as fill_text() looks them up
	raw jsonb := (SELECT coalesce(jsonb_object_agg(h.name, coalesce(
			CASE WHEN h.name ~ '^labels\.' THEN vars -> 'label_map' ->> substr(h.name, 8)
				WHEN h.name ~ '^annotations\.' THEN vars -> 'annotation_map' ->> substr(h.name, 13)
				WHEN h.hole ~ '^ *\$labels\.' THEN vars -> 'label_map' ->> h.name
				ELSE vars ->> h.name END, '')), '{}')
		FROM monitoring.template_holes(template) AS h);
	room integer := max_length;
	filled text;
BEGIN
	LOOP
		filled := monitoring.fill_text(template, (SELECT coalesce(jsonb_object_agg(r.key, monitoring.escape_text(r.value, style, room, one_line)), '{}')
			FROM jsonb_each_text(raw) AS r));
		EXIT WHEN room <= 1 OR monitoring.text_units(filled) <= max_length;
		room := room / 2;
	END LOOP;
	filled := CASE WHEN one_line THEN btrim(filled) ELSE filled END;
	-- only a template that is too long itself
	RETURN CASE WHEN monitoring.text_units(filled) <= max_length THEN filled ELSE monitoring.escape_text(filled, 'text', max_length, one_line) END;
END $$;
COMMENT ON FUNCTION monitoring.fill_template(text, jsonb, text, integer, boolean) IS 'A template filled from a message or one of its alerts, the values escaped for the style and cut until all of it has at most that length.';

CREATE FUNCTION monitoring.message_title(config jsonb, message jsonb, style text, max_length integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- no target takes an empty one
	SELECT coalesce(
		CASE WHEN config ? 'title' THEN nullif(monitoring.fill_template(config ->> 'title',
			coalesce(message -> 'alerts' -> 0, '{}') || jsonb_strip_nulls(message), style, max_length, true), '') END,
		nullif(btrim(monitoring.escape_text(message ->> 'title', style, max_length, true)), ''), 'alert')
$$;
COMMENT ON FUNCTION monitoring.message_title(jsonb, jsonb, text, integer) IS 'Title of a message in a style: the receiver''s template, or the default if that comes out empty. What belongs to an alert is the first alert''s.';

CREATE FUNCTION monitoring.alert_text(config jsonb, message jsonb, alert jsonb, style text, max_length integer) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	room integer := least(max_length, 1000);
	lines text;
	links text;
BEGIN
	IF config ? 'text' THEN
		RETURN monitoring.fill_template(config ->> 'text', jsonb_strip_nulls(message - 'severity' - 'status') || alert, style, max_length);
	END IF;
	SELECT string_agg(monitoring.markup(style, 'link', l.value ->> 'text', l.value ->> 'url'),
		CASE style WHEN 'text' THEN E'\n' ELSE ' | ' END ORDER BY l.ordinality) INTO links
	FROM jsonb_array_elements(alert -> 'links') WITH ORDINALITY AS l;
	-- The summary has most of the room; what does not fit is cut, links go last as they cannot be.
	LOOP
		lines := concat_ws(E'\n',
			monitoring.markup(style, 'bold', nullif(monitoring.escape_text(alert ->> 'summary'
				|| CASE WHEN alert ->> 'status' <> message ->> 'status' THEN format(' (%s)', alert ->> 'status') ELSE '' END, style, room), '')),
			monitoring.escape_text(alert ->> 'reading', style, least(room, 200)),
			monitoring.escape_text(alert ->> 'description', style, room),
			monitoring.escape_text('impact: ' || (alert ->> 'impact'), style, least(room, 300)),
			monitoring.escape_text('acknowledged by ' || (alert ->> 'acknowledged_by'), style, least(room, 100)),
			monitoring.escape_text(alert ->> 'labels', style, room));
		IF monitoring.text_units(lines) + coalesce(monitoring.text_units(links) + 1, 0) <= max_length THEN
			RETURN concat_ws(E'\n', lines, links);
		END IF;
		EXIT WHEN room <= 8;
		room := room / 2;
	END LOOP;
	RETURN CASE WHEN monitoring.text_units(lines) <= max_length THEN lines ELSE '' END;
END $$;
COMMENT ON FUNCTION monitoring.alert_text(jsonb, jsonb, jsonb, text, integer) IS 'What is said of an alert of a message in a style: the receiver''s template, or summary, value and threshold, description, impact, labels and links.';

CREATE FUNCTION monitoring.message_texts(config jsonb, message jsonb, style text, max_each integer, max_total integer) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- room for the line that says that something is missing
	room integer := max_total - 40;
	more bigint := (message ->> 'more')::bigint;
	texts text[] := '{}';
	alert jsonb;
	t text;
BEGIN
	t := monitoring.escape_text(nullif(message ->> 'text', ''), style, least(max_each, room));
	IF t IS NOT NULL THEN
		texts := texts || t;
		room := room - monitoring.text_units(t) - 2;
	END IF;
	FOR alert IN SELECT a.value FROM jsonb_array_elements(message -> 'alerts') WITH ORDINALITY AS a ORDER BY a.ordinality LOOP
		t := CASE WHEN room >= 50 THEN monitoring.alert_text(config, message, alert, style, least(max_each, room)) ELSE '' END;
		IF t = '' THEN
			more := more + 1;
		ELSE
			texts := texts || t;
			room := room - monitoring.text_units(t) - 2;
		END IF;
	END LOOP;
	IF message ->> 'evidence' IS NOT NULL AND room >= 100 THEN
		t := monitoring.escape_text('evidence' || E'\n' || (message ->> 'evidence'), style, least(max_each, room, 1000));
		texts := texts || t;
	END IF;
	RETURN CASE WHEN more > 0 THEN texts || format('and %s more', more) ELSE texts END;
END $$;
COMMENT ON FUNCTION monitoring.message_texts(jsonb, jsonb, text, integer, integer) IS 'The body of a message in a style, one text for each alert, each and all together bounded; what is left out is counted in the last one.';
-- formatters: what the functions that turn a notification into a request have in common. Those of the built-in kinds, and
-- the checks of their configs, are in formatters/.
--
-- PL/pgSQL keeps plans from call to call, which SQL functions do not. A secret stands in the config as a marker.

----------------------------------------------------------------------------------------------------------------------
-- Requests
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.request_headers(receiver jsonb, notification jsonb, own jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN own || coalesce(receiver -> 'config' -> 'headers', '{}')
	|| pg_catalog.jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey');
COMMENT ON FUNCTION monitoring.request_headers(jsonb, jsonb, jsonb) IS 'Headers of a request: the formatter''s own, those of the receiver''s config, and the Idempotency-Key.';

CREATE FUNCTION monitoring.authorization_header(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN config ? 'bearer_token' THEN pg_catalog.jsonb_build_object('Authorization', 'Bearer ' || (config ->> 'bearer_token'))
	WHEN config ? 'basic_auth' THEN pg_catalog.jsonb_build_object('Authorization', 'Basic ' || (config ->> 'basic_auth'))
	ELSE '{}' END;
COMMENT ON FUNCTION monitoring.authorization_header(jsonb) IS 'The Authorization header that a config asks for; none without bearer_token or username and password.';

CREATE FUNCTION monitoring.receiver_secret(receiver jsonb, key text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF receiver -> 'config' ->> key IS NULL THEN
		RAISE EXCEPTION 'receiver "%" has no "%"', receiver ->> 'name', key USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	RETURN receiver -> 'config' ->> key;
END $$;
COMMENT ON FUNCTION monitoring.receiver_secret(jsonb, text) IS 'The marker of a secret of a receiver. Error 55000 if it has none.';

CREATE FUNCTION monitoring.base_url(receiver jsonb, standard text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.rtrim(coalesce(receiver ->> 'url', standard), '/');
COMMENT ON FUNCTION monitoring.base_url(jsonb, text) IS 'The receiver''s url, or the standard one, without a slash at its end.';

CREATE FUNCTION monitoring.group_hash(notification jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(coalesce(notification ->> 'groupKey', ''), 'UTF8')), 'hex');
COMMENT ON FUNCTION monitoring.group_hash(jsonb) IS 'The group of a notification as 64 hexadecimal digits, for receivers that bound the length of keys.';

CREATE FUNCTION monitoring.form_encode(fields jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(f.key || '=' || coalesce(v.encoded, ''), '&' ORDER BY f.key)
	FROM jsonb_each_text(fields) AS f
	CROSS JOIN LATERAL (
		SELECT string_agg(CASE WHEN c.ch ~ '^[A-Za-z0-9._~-]$' THEN c.ch
			ELSE regexp_replace(upper(encode(convert_to(c.ch, 'UTF8'), 'hex')), '(..)', '%\1', 'g') END, '' ORDER BY c.n) AS encoded
		FROM string_to_table(f.value, NULL) WITH ORDINALITY AS c (ch, n)) AS v
	WHERE f.value IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.form_encode(jsonb) IS 'An object of texts as the body of a form (application/x-www-form-urlencoded).';

CREATE FUNCTION monitoring.hex_colour(colour integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '#' || pg_catalog.lpad(pg_catalog.to_hex(colour), 6, '0');
COMMENT ON FUNCTION monitoring.hex_colour(integer) IS 'A colour as in #FF0000, in small letters.';

----------------------------------------------------------------------------------------------------------------------
-- Checks of configs
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_config_text(config jsonb, key text, required boolean, pattern text, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT config ? key THEN
		IF required THEN
			RAISE EXCEPTION 'key "%" is missing in the receiver''s config', key USING ERRCODE = 'invalid_parameter_value', HINT = hint;
		END IF;
	ELSIF jsonb_typeof(config -> key) <> 'string' OR (config ->> key) ~ '[\x01-\x1f\x7f]' OR (config ->> key) !~ pattern THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is not valid', key USING ERRCODE = 'invalid_parameter_value', HINT = hint;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_config_text(jsonb, text, boolean, text, text) IS 'Raises 22023 with the hint unless a key of a config is text without control characters that matches, or is missing and not required.';

CREATE FUNCTION monitoring.check_templates(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_template(t.key, config -> t.key, t.max_length)
	FROM (VALUES ('title', 200), ('text', 1000), ('html', 10000)) AS t (key, max_length)
	WHERE config ? t.key;
END $$;
COMMENT ON FUNCTION monitoring.check_templates(jsonb) IS 'Raises 22023 unless title, text and html of a config are templates.';

----------------------------------------------------------------------------------------------------------------------
-- Preview
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.redact_url(url text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN pg_catalog.regexp_replace(url, '^([A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)[/?#].+$', '\1/***');
COMMENT ON FUNCTION monitoring.redact_url(text) IS 'A url with *** for path, query and fragment.';

CREATE FUNCTION monitoring.run_formatter(function text, owner name, receiver jsonb, notification jsonb) RETURNS jsonb
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_run_formatter';
COMMENT ON FUNCTION monitoring.run_formatter(text, name, jsonb, jsonb) IS 'Call a formatter as its kind''s owner, for at most a second; its row as an object, null if there is none. What it raises is raised.';

CREATE FUNCTION monitoring.notification_of_alert(receiver text, alert_id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	alert jsonb;
BEGIN
	SELECT monitoring.alert_document(CASE WHEN h.to_state = 'resolved' THEN 'resolved' ELSE 'firing' END, h.rule_name, h.severity, h.labels, h.annotations,
		h.value, h.op, h.threshold, h.fired_at, h.at, h.fingerprint, h.alert_id, h.details) INTO alert
	FROM monitoring.alert_history AS h
	WHERE h.alert_id = notification_of_alert.alert_id
	ORDER BY h.at DESC, h.id DESC
	LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert % does not exist', alert_id USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.alerts lists alerts.';
	END IF;
	RETURN monitoring.make_payload(receiver, format('{}:{alertname="%s"}', alert -> 'labels' ->> 'alertname'), alert ->> 'status',
		jsonb_build_object('alertname', alert -> 'labels' -> 'alertname'), jsonb_build_array(alert), '{"reason": "preview"}');
END $$;
COMMENT ON FUNCTION monitoring.notification_of_alert(text, bigint) IS 'A notification to a receiver about one alert (alerts.alert_id) as it is or was last. Error 42704 if there is no such alert.';

CREATE FUNCTION monitoring.preview_notification(receiver text, alert_id bigint DEFAULT NULL)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	r monitoring.receiver_defs;
	k monitoring.receiver_kinds;
	redacted jsonb;
	request jsonb;
	secret_url text;
BEGIN
	SELECT * INTO r FROM monitoring.receiver_defs AS d WHERE d.name = preview_notification.receiver;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'receiver "%" does not exist', preview_notification.receiver
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.receivers lists them.';
	END IF;
	SELECT * INTO STRICT k FROM monitoring.receiver_kinds AS i WHERE i.kind = r.kind;
	redacted := monitoring.redacted_receiver(r.name);
	IF redacted -> 'config' ? 'headers' THEN
		redacted := jsonb_set(redacted, '{config,headers}',
			(SELECT coalesce(jsonb_object_agg(h.key, '***'), '{}') FROM jsonb_object_keys(redacted -> 'config' -> 'headers') AS h (key)));
	END IF;
	request := monitoring.run_formatter(k.function, k.owner, redacted,
		CASE WHEN alert_id IS NULL THEN monitoring.test_notification(r.name, 0, clock_timestamp()) ELSE monitoring.notification_of_alert(r.name, alert_id) END
			|| jsonb_build_object('id', 0, 'idempotencyKey', '00000000-0000-0000-0000-000000000000'));
	-- path and query of a url are often all that one needs to know to write there
	secret_url := rtrim(r.url, '/');
	RETURN QUERY SELECT f.method, coalesce(replace(f.url, secret_url, monitoring.redact_url(secret_url)), f.url),
		coalesce(replace(f.headers::text, secret_url, monitoring.redact_url(secret_url))::jsonb, f.headers),
		coalesce(replace(f.body, secret_url, monitoring.redact_url(secret_url)), f.body)
	FROM jsonb_to_record(request) AS f (method text, url text, headers jsonb, body text)
	WHERE request IS NOT NULL;
END $$;
COMMENT ON FUNCTION monitoring.preview_notification(text, bigint) IS 'The exact request that a receiver would get about an alert (alerts.alert_id), or as a test, with *** for secrets and the path of its url; no row: nothing would be sent. Nothing is sent. Errors: 42704 for an unknown receiver or alert, and those of the kind''s formatter.';
-- formatters, chat: slack, discord, teams, telegram.

CREATE FUNCTION monitoring.format_slack(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
	title text := monitoring.message_title(config, message, 'slack', 150);
	-- a section takes 3000 characters, a message 50 blocks
	texts text[] := monitoring.message_texts(config, message, 'slack', 3000, 30000);
	-- what notifications on a phone show
	fallback text := monitoring.message_title(config, message, 'slack', 200)
		|| coalesce(': ' || monitoring.escape_text(coalesce(message ->> 'text', message -> 'alerts' -> 0 ->> 'summary'), 'slack', 300, true), '');
BEGIN
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'),
		jsonb_build_object(
			'text', fallback,
			'blocks', jsonb_build_array(jsonb_build_object('type', 'header', 'text', jsonb_build_object('type', 'plain_text', 'text', title)))
				|| (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'section', 'text', jsonb_build_object('type', 'mrkdwn', 'text', t.text)) ORDER BY t.n), '[]')
					FROM unnest(texts) WITH ORDINALITY AS t (text, n)),
			'attachments', jsonb_build_array(jsonb_build_object('color', monitoring.hex_colour((message ->> 'colour')::integer),
				'blocks', jsonb_build_array(jsonb_build_object('type', 'context', 'elements', jsonb_build_array(jsonb_build_object(
					'type', 'mrkdwn', 'text', monitoring.escape_text(concat_ws(' | ', message ->> 'severity', message ->> 'status', message ->> 'reason',
						message ->> 'group'), 'slack', 500, true))))))))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_slack(jsonb, jsonb) IS 'Formatter of the kind slack: a message for an incoming webhook, with fall-back text, a header, a section for each of the first ten alerts, and the severity''s colour.';

CREATE FUNCTION monitoring.format_discord(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
BEGIN
	-- A title takes 256 characters, a description 4096, all of a message 6000.
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'),
		jsonb_strip_nulls(jsonb_build_object(
			'username', config ->> 'username', 'avatar_url', config ->> 'avatar_url',
			'embeds', jsonb_build_array(jsonb_build_object(
				'title', monitoring.message_title(config, message, 'discord', 256),
				'description', array_to_string(monitoring.message_texts(config, message, 'discord', 3000, 4000), E'\n\n'),
				'color', message -> 'colour',
				'url', monitoring.safe_link(message -> 'alerts' -> 0 ->> 'console_url'),
				'timestamp', message -> 'alerts' -> 0 ->> 'startsAt',
				'footer', jsonb_build_object('text', monitoring.escape_text(concat_ws(' | ', message ->> 'severity', message ->> 'status',
					message ->> 'reason', message ->> 'group'), 'text', 500, true)))),
			'allowed_mentions', '{"parse": []}'::jsonb))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_discord(jsonb, jsonb) IS 'Formatter of the kind discord: a message for a webhook with an embed in the severity''s colour; it mentions nobody, whatever the alert says.';

CREATE FUNCTION monitoring.check_discord(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'username', false, '^.{1,80}$', 'The name that messages are from has 1 to 80 characters.');
	PERFORM monitoring.check_config_text(config, 'avatar_url', false, '^https?://[!-~]+$', 'The address of a picture.');
END $$;
COMMENT ON FUNCTION monitoring.check_discord(jsonb) IS 'Check of a config of the kind discord.';

CREATE FUNCTION monitoring.format_teams(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
	room integer := 16000;
	result jsonb;
BEGIN
	-- A webhook takes 28 kB. An empty line is what breaks a line.
	LOOP
		result := jsonb_build_object('type', 'message', 'summary', monitoring.message_title(config, message, 'text', 200),
			'attachments', jsonb_build_array(jsonb_build_object(
				'contentType', 'application/vnd.microsoft.card.adaptive', 'contentUrl', NULL,
				'content', jsonb_build_object(
					'$schema', 'http://adaptivecards.io/schemas/adaptive-card.json', 'type', 'AdaptiveCard', 'version', '1.4',
					'msteams', '{"width": "Full"}'::jsonb,
					'body', jsonb_build_array(jsonb_build_object('type', 'TextBlock', 'size', 'Large', 'weight', 'Bolder', 'wrap', true,
							'color', CASE WHEN message ->> 'status' = 'resolved' THEN 'Good' WHEN message ->> 'severity' IN ('critical', 'high') THEN 'Attention'
								WHEN message ->> 'severity' = 'medium' THEN 'Warning' ELSE 'Accent' END,
							'text', monitoring.message_title(config, message, 'teams', 300)))
						|| (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'TextBlock', 'wrap', true, 'separator', true,
								'text', replace(t.text, E'\n', E'\n\n')) ORDER BY t.n), '[]')
							FROM unnest(monitoring.message_texts(config, message, 'teams', 5000, room)) WITH ORDINALITY AS t (text, n)),
					'actions', (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'Action.OpenUrl', 'title', left(l.value ->> 'text', 50), 'url', l.value ->> 'url') ORDER BY l.ordinality), '[]')
						FROM jsonb_array_elements(message -> 'alerts' -> 0 -> 'links') WITH ORDINALITY AS l)))));
		EXIT WHEN octet_length(result::text) <= 27000 OR room < 200;
		room := room / 2;
	END LOOP;
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'), result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_teams(jsonb, jsonb) IS 'Formatter of the kind teams: an adaptive card for a webhook of Microsoft Teams (workflow or connector), at most 27,000 bytes.';

CREATE FUNCTION monitoring.format_telegram(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
	title text := monitoring.markup('html', 'bold', monitoring.message_title(config, message, 'html', 500));
BEGIN
	-- A text takes 4096 characters. Line ends are as they are, <br> is none.
	RETURN QUERY SELECT 'POST', monitoring.base_url(receiver, 'https://api.telegram.org') || '/bot' || monitoring.receiver_secret(receiver, 'bot_token') || '/sendMessage',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'),
		jsonb_strip_nulls(jsonb_build_object('chat_id', config -> 'chat_id', 'message_thread_id', config -> 'message_thread_id',
			'disable_notification', config -> 'disable_notification', 'parse_mode', 'HTML',
			'link_preview_options', '{"is_disabled": true}'::jsonb,
			'text', array_to_string(title || monitoring.message_texts(config, message, 'html', 3000, 3500), E'\n\n')))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_telegram(jsonb, jsonb) IS 'Formatter of the kind telegram: a message of a bot.';

CREATE FUNCTION monitoring.check_telegram(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	IF config -> 'chat_id' IS NULL OR config ->> 'chat_id' !~ '^(-?[0-9]{1,20}|@[A-Za-z0-9_]{1,64})$' THEN
		RAISE EXCEPTION 'key "chat_id" in the receiver''s config is %', CASE WHEN config ? 'chat_id' THEN 'not valid' ELSE 'missing' END
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The number of a chat, or @name of a channel.';
	ELSIF config ->> 'message_thread_id' !~ '^[0-9]{1,18}$' THEN
		RAISE EXCEPTION 'key "message_thread_id" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The number of a topic.';
	ELSIF config ? 'disable_notification' AND jsonb_typeof(config -> 'disable_notification') <> 'boolean' THEN
		RAISE EXCEPTION 'key "disable_notification" in the receiver''s config must be true or false' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_telegram(jsonb) IS 'Check of a config of the kind telegram.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, url_required, config_check, description, builtin) VALUES
	('slack', 'monitoring.format_slack', '{title,text}', '{}', true, 'monitoring.check_templates', 'message for a Slack incoming webhook', true),
	('discord', 'monitoring.format_discord', '{title,text,username,avatar_url}', '{}', true, 'monitoring.check_discord', 'message for a Discord webhook', true),
	('teams', 'monitoring.format_teams', '{title,text}', '{}', true, 'monitoring.check_templates', 'adaptive card for a Microsoft Teams webhook', true),
	('telegram', 'monitoring.format_telegram', '{chat_id,message_thread_id,disable_notification,title,text}', '{bot_token}', false,
		'monitoring.check_telegram', 'message of a Telegram bot', true);
-- formatters, services: what programs read: webhook, alertmanager, notify, sql, sentry.

CREATE FUNCTION monitoring.webhook_body(notification jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	external_url text := rtrim(coalesce(current_setting('monitoring.external_url', true), ''), '/');
BEGIN
	RETURN jsonb_build_object(
		'version', '4',
		'groupKey', notification -> 'groupKey',
		'truncatedAlerts', coalesce(notification -> 'truncatedAlerts', '0'),
		'status', notification -> 'status',
		'receiver', notification -> 'receiver',
		'groupLabels', coalesce(notification -> 'groupLabels', '{}'),
		'commonLabels', coalesce(notification -> 'commonLabels', '{}'),
		'commonAnnotations', coalesce(notification -> 'commonAnnotations', '{}'),
		'externalURL', external_url,
		'notification_reason', coalesce(notification ->> 'reason', ''),
		'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object(
				'status', a.value -> 'status', 'labels', a.value -> 'labels', 'annotations', a.value -> 'annotations',
				'startsAt', a.value -> 'startsAt', 'endsAt', a.value -> 'endsAt', 'fingerprint', a.value -> 'fingerprint',
				'generatorURL', CASE WHEN external_url <> '' AND a.value ->> 'alert_id' IS NOT NULL
					THEN external_url || '/#/alerts/' || (a.value ->> 'alert_id') ELSE '' END) ORDER BY a.ordinality), '[]')
			FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a))
		|| CASE WHEN notification ? 'title' OR notification ? 'text' THEN jsonb_build_object('title', monitoring.escape_text(notification ->> 'title', 'text', 1000),
			'text', monitoring.escape_text(notification ->> 'text', 'text', 100000)) ELSE '{}' END;
END $$;
COMMENT ON FUNCTION monitoring.webhook_body(jsonb) IS 'The body of Alertmanager''s webhook, version 4; with title and text where an application said them.';

CREATE FUNCTION monitoring.format_webhook(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
BEGIN
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'::jsonb || monitoring.authorization_header(config))
			|| CASE WHEN config ? 'signing_secret' THEN jsonb_build_object('X-Signature-SHA256', 'hmac-sha256:' || (config ->> 'signing_secret')) ELSE '{}' END,
		monitoring.webhook_body(notification)::text;
END $$;
COMMENT ON FUNCTION monitoring.format_webhook(jsonb, jsonb) IS 'Formatter of the kind webhook: the body of Alertmanager''s webhook, version 4, with an Idempotency-Key header and, if there is a signing_secret, the hexadecimal HMAC-SHA256 of the body as X-Signature-SHA256.';

CREATE FUNCTION monitoring.check_webhook(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_config_text(config, 'username', false, '^[^:]{1,255}$', 'A user name for basic authentication, without a colon.');
	IF config ? 'bearer_token' AND config ? 'username' THEN
		RAISE EXCEPTION 'the receiver''s config has both username and bearer_token' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_webhook(jsonb) IS 'Check of a config of the kind webhook.';

CREATE FUNCTION monitoring.prometheus_labels(labels jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(regexp_replace(regexp_replace(l.key, '[^a-zA-Z0-9_]', '_', 'g'), '^(?=[0-9])', '_'), l.value ORDER BY l.key DESC), '{}')
	FROM jsonb_each_text(CASE WHEN jsonb_typeof(labels) = 'object' THEN labels ELSE '{}' END) AS l
	WHERE l.value <> '' AND l.key <> ''
$$;
COMMENT ON FUNCTION monitoring.prometheus_labels(jsonb) IS 'Labels or annotations under names that Prometheus and Alertmanager take (letters, digits and underscores), without empty ones.';

CREATE FUNCTION monitoring.format_alertmanager(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	external_url text := rtrim(nullif(current_setting('monitoring.external_url', true), ''), '/');
	-- Who is not told again takes an alert for ended at that time: four times as long as until it is told again.
	ends_at text := monitoring.format_time(coalesce((notification ->> 'now')::timestamptz, clock_timestamp())
		+ 4 * make_interval(secs => coalesce((config ->> 'keep_alive_seconds')::float8, 120)));
	base text := monitoring.base_url(receiver, NULL);
	result jsonb := (SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
			'labels', monitoring.prometheus_labels(a.value -> 'labels'),
			'annotations', monitoring.prometheus_labels(a.value -> 'annotations'),
			'startsAt', a.value -> 'startsAt',
			'endsAt', CASE WHEN a.value ->> 'status' = 'firing' THEN ends_at ELSE a.value ->> 'endsAt' END,
			'generatorURL', external_url || '/#/alerts/' || (a.value ->> 'alert_id'))) ORDER BY a.ordinality)
		FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a);
BEGIN
	RETURN QUERY SELECT 'POST', CASE WHEN base ~ '/api/v2/alerts$' THEN base ELSE base || '/api/v2/alerts' END,
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'::jsonb || monitoring.authorization_header(config)),
		result::text
	WHERE result IS NOT NULL;
END $$;
COMMENT ON FUNCTION monitoring.format_alertmanager(jsonb, jsonb) IS 'Formatter of the kind alertmanager: the alerts for Alertmanager''s API v2. What fires ends by itself unless it is told again; that happens every two minutes, or keep_alive_seconds.';

CREATE FUNCTION monitoring.check_alertmanager(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_webhook(config);
	IF config ? 'keep_alive_seconds' AND (CASE WHEN jsonb_typeof(config -> 'keep_alive_seconds') = 'number'
		THEN (config ->> 'keep_alive_seconds')::numeric NOT BETWEEN 1 AND 3600 ELSE true END) THEN
		RAISE EXCEPTION 'key "keep_alive_seconds" in the receiver''s config is out of range'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It takes 1 to 3600.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_alertmanager(jsonb) IS 'Check of a config of the kind alertmanager.';

CREATE FUNCTION monitoring.format_notify(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	message jsonb := monitoring.message(notification, 100);
	shown integer := jsonb_array_length(message -> 'alerts');
	alerts jsonb := (SELECT coalesce(jsonb_agg(jsonb_build_object('status', a.value -> 'status', 'severity', a.value -> 'severity',
			'alertname', monitoring.escape_text(a.value ->> 'alertname', 'text', 200), 'summary', monitoring.escape_text(a.value ->> 'summary', 'text', 300),
			'alert_id', a.value -> 'alert_id', 'fingerprint', a.value -> 'fingerprint', 'startsAt', a.value -> 'startsAt') ORDER BY a.ordinality), '[]')
		FROM jsonb_array_elements(message -> 'alerts') WITH ORDINALITY AS a);
	result jsonb;
BEGIN
	-- NOTIFY takes less than 8000 bytes: the alerts that fit, and how many more there are.
	LOOP
		result := jsonb_build_object('id', notification -> 'id', 'status', message -> 'status', 'severity', message -> 'severity',
			'title', monitoring.message_title(receiver -> 'config', message, 'text', 300), 'text', monitoring.escape_text(message ->> 'text', 'text', 500),
			'groupKey', monitoring.escape_text(notification ->> 'groupKey', 'text', 300), 'group', monitoring.group_hash(notification),
			'receiver', left(notification ->> 'receiver', 200), 'reason', message -> 'reason',
			'alerts', (SELECT coalesce(jsonb_agg(a.value ORDER BY a.ordinality), '[]')
				FROM jsonb_array_elements(alerts) WITH ORDINALITY AS a WHERE a.ordinality <= shown),
			'more', (message ->> 'count')::bigint - shown);
		EXIT WHEN shown = 0 OR octet_length(convert_to(result::text, 'UTF8')) <= 7900;
		shown := shown * 7 / 8;
	END LOOP;
	RETURN QUERY SELECT 'NOTIFY', receiver -> 'config' ->> 'channel', '{}'::jsonb, result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_notify(jsonb, jsonb) IS 'Formatter of the kind notify: a JSON payload of at most 7900 bytes for a channel of LISTEN.';

CREATE FUNCTION monitoring.check_notify(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'channel', true, '^.+$', 'The name of the channel, as in {"channel": "alerts"}.');
	IF octet_length(config ->> 'channel') > 63 THEN
		RAISE EXCEPTION 'key "channel" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A channel''s name has at most 63 bytes.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_notify(jsonb) IS 'Check of a config of the kind notify.';

CREATE FUNCTION monitoring.format_sql(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY SELECT 'SQL', receiver -> 'config' ->> 'function', '{}'::jsonb,
		(monitoring.webhook_body(notification) || jsonb_build_object('id', notification -> 'id', 'idempotencyKey', notification -> 'idempotencyKey',
			'alerts', coalesce(notification -> 'alerts', '[]'), 'title', monitoring.message(notification, 0) -> 'title'))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_sql(jsonb, jsonb) IS 'Formatter of the kind sql: the argument of a function(jsonb): the body of the kind webhook with id, idempotencyKey and title, the alerts with all that is known of them.';

CREATE FUNCTION monitoring.check_sql(config jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_config_text(config, 'function', true, '^[^(]{1,63}\.[^(]{1,63}$', 'The name of a function(jsonb) with its schema, as in {"function": "shop.on_alert"}.');
	IF to_regprocedure((config ->> 'function') || '(jsonb)') IS NULL THEN
		RAISE EXCEPTION 'function %(jsonb) does not exist', config ->> 'function'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the schema too, as in shop.on_alert.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_sql(jsonb) IS 'Check of a config of the kind sql.';

CREATE FUNCTION monitoring.format_sentry(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 20);
	event_id text := replace(lower(notification ->> 'idempotencyKey'), '-', '');
	now_at timestamptz := coalesce((notification ->> 'now')::timestamptz, clock_timestamp());
	dsn text[] := regexp_match(monitoring.base_url(receiver, NULL), '^(https?://[^?#]*)/([0-9]+)$');
	event jsonb;
BEGIN
	IF message ->> 'status' <> 'firing' THEN
		RETURN; -- an issue there ends by not coming again
	END IF;
	event_id := CASE WHEN event_id ~ '^[0-9a-f]{32}$' THEN event_id ELSE md5(coalesce(event_id, '')) END;
	event := jsonb_strip_nulls(jsonb_build_object('event_id', event_id,
		'timestamp', coalesce(message -> 'alerts' -> 0 ->> 'startsAt', monitoring.format_time(now_at)),
		'platform', 'other', 'logger', 'monitoring',
		'level', CASE message ->> 'severity' WHEN 'critical' THEN 'fatal' WHEN 'high' THEN 'error' WHEN 'medium' THEN 'warning' ELSE 'info' END,
		'environment', config ->> 'environment', 'release', config ->> 'release',
		'server_name', monitoring.escape_text(message -> 'alerts' -> 0 -> 'label_map' ->> 'instance', 'text', 200, true),
		'transaction', monitoring.escape_text(message ->> 'name', 'text', 200, true),
		'fingerprint', jsonb_build_array(monitoring.group_hash(notification)),
		'logentry', jsonb_build_object('formatted', monitoring.message_title(config, message, 'text', 500)
			|| coalesce(E'\n' || nullif(array_to_string(monitoring.message_texts(config, message, 'text', 2000, 7000), E'\n\n'), ''), '')),
		'tags', (SELECT jsonb_object_agg(t.key, t.value) FROM (
			SELECT left(regexp_replace(l.key, '[^a-zA-Z0-9_.:-]', '_', 'g'), 32) AS key, monitoring.escape_text(l.value, 'text', 200, true) AS value
			FROM jsonb_each_text(notification -> 'commonLabels') AS l WHERE l.value <> '' LIMIT 50) AS t),
		'extra', jsonb_build_object('groupKey', monitoring.escape_text(notification ->> 'groupKey', 'text', 1000), 'reason', message -> 'reason',
			'count', message -> 'count', 'console', message -> 'alerts' -> 0 -> 'console_url', 'runbook', message -> 'alerts' -> 0 -> 'runbook_url')));
	RETURN QUERY SELECT 'POST', dsn[1] || '/api/' || dsn[2] || '/envelope/',
		monitoring.request_headers(receiver, notification, jsonb_build_object('Content-Type', 'application/x-sentry-envelope',
			'X-Sentry-Auth', 'Sentry sentry_version=7, sentry_client=monitoring/1.0, sentry_key=' || monitoring.receiver_secret(receiver, 'public_key'))),
		jsonb_build_object('event_id', event_id, 'sent_at', monitoring.format_time(now_at))::text || E'\n'
			|| jsonb_build_object('type', 'event', 'content_type', 'application/json', 'length', octet_length(convert_to(event::text, 'UTF8')))::text || E'\n'
			|| event::text || E'\n';
END $$;
COMMENT ON FUNCTION monitoring.format_sentry(jsonb, jsonb) IS 'Formatter of the kind sentry: an event in an envelope; groups of alerts become issues. Nothing is sent of what is resolved.';

CREATE FUNCTION monitoring.check_sentry(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'environment', false, '^[^/ ]{1,64}$', 'The name of an environment has 1 to 64 characters, without spaces and slashes.');
	PERFORM monitoring.check_config_text(config, 'release', false, '^[^/\\]{1,200}$', 'A release has 1 to 200 characters, without slashes.');
	IF config ->> 'url' !~ '^https?://[^?#]*/[0-9]+/?$' THEN
		RAISE EXCEPTION 'the receiver''s url must end with the number of the project'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is the DSN without the key and the @: https://o1.ingest.sentry.io/42 with the key in public_key.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_sentry(jsonb) IS 'Check of a config of the kind sentry.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, url_required, config_check, keep_alive, timeout_seconds, description, builtin) VALUES
	('webhook', 'monitoring.format_webhook', '{username}', '{password,bearer_token,signing_secret}', true, 'monitoring.check_webhook', NULL, 15,
		'JSON body of Alertmanager''s webhook, version 4', true),
	('alertmanager', 'monitoring.format_alertmanager', '{username,keep_alive_seconds}', '{password,bearer_token}', true,
		'monitoring.check_alertmanager', '2 minutes', 15, 'alerts for the API of an Alertmanager, kept alive', true),
	('notify', 'monitoring.format_notify', '{channel,title}', '{}', false, 'monitoring.check_notify', NULL, 15, 'payload for LISTEN', true),
	('sql', 'monitoring.format_sql', '{function}', '{}', false, 'monitoring.check_sql', NULL, 5, 'call of a function(jsonb)', true),
	('sentry', 'monitoring.format_sentry', '{title,text,environment,release}', '{public_key}', true, 'monitoring.check_sentry', NULL, 15,
		'event for a project of Sentry', true);
-- formatters, paging: what wakes people: pagerduty, opsgenie, twilio.

CREATE FUNCTION monitoring.format_pagerduty(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 100);
	first jsonb := message -> 'alerts' -> 0;
	shown integer := jsonb_array_length(message -> 'alerts');
	details jsonb := (SELECT coalesce(jsonb_agg(jsonb_build_object('status', a.value -> 'status', 'severity', a.value -> 'severity',
			'text', monitoring.alert_text(config, message, a.value, 'text', 2000),
			'startsAt', a.value -> 'startsAt', 'endsAt', a.value -> 'endsAt', 'alert_id', a.value -> 'alert_id') ORDER BY a.ordinality), '[]')
		FROM jsonb_array_elements(message -> 'alerts') WITH ORDINALITY AS a);
	event jsonb := jsonb_build_object('routing_key', monitoring.receiver_secret(receiver, 'routing_key'),
		'event_action', CASE WHEN message ->> 'status' = 'resolved' THEN 'resolve'
			WHEN message ->> 'reason' = 'acknowledged' THEN 'acknowledge' ELSE 'trigger' END,
		'dedup_key', monitoring.group_hash(notification));
	result jsonb := event;
BEGIN
	WHILE event ->> 'event_action' = 'trigger' LOOP
		result := event || jsonb_strip_nulls(jsonb_build_object('client', 'monitoring', 'client_url', monitoring.safe_link(message ->> 'external_url'),
			'links', (SELECT coalesce(jsonb_agg(jsonb_build_object('href', l.value ->> 'url', 'text', left(l.value ->> 'text', 100)) ORDER BY l.ordinality), '[]')
				FROM jsonb_array_elements(first -> 'links') WITH ORDINALITY AS l),
			'payload', jsonb_build_object(
				'summary', coalesce(nullif(monitoring.message_title(config, message, 'text', 200)
					|| coalesce(': ' || monitoring.escape_text(coalesce(message ->> 'text', first ->> 'summary'), 'text', 820, true), ''), ''), 'alert'),
				'source', coalesce(config ->> 'source', nullif(monitoring.escape_text(first -> 'label_map' ->> 'instance', 'text', 500, true), ''), current_database()::text),
				'severity', CASE message ->> 'severity' WHEN 'critical' THEN 'critical' WHEN 'high' THEN 'error' WHEN 'medium' THEN 'warning' ELSE 'info' END,
				'timestamp', first ->> 'startsAt',
				'component', monitoring.escape_text(coalesce(config ->> 'component', first -> 'label_map' ->> 'service'), 'text', 200, true),
				'group', monitoring.escape_text(message ->> 'group', 'text', 500, true),
				'class', monitoring.escape_text(message ->> 'name', 'text', 200, true),
				'custom_details', jsonb_build_object('firing', message -> 'firing', 'resolved', message -> 'resolved', 'reason', message -> 'reason',
					'evidence', monitoring.escape_text(message ->> 'evidence', 'text', 2000), 'more', (message ->> 'count')::bigint - shown,
					'alerts', (SELECT coalesce(jsonb_agg(a.value ORDER BY a.ordinality), '[]')
						FROM jsonb_array_elements(details) WITH ORDINALITY AS a WHERE a.ordinality <= shown)))));
		-- An event takes 512,000 bytes; some of them are for the key and what goes out of Unicode beyond it.
		EXIT WHEN shown = 0 OR octet_length(convert_to(result::text, 'UTF8')) <= 480000;
		shown := shown * 3 / 4;
	END LOOP;
	RETURN QUERY SELECT 'POST', CASE WHEN receiver ->> 'url' ~ '/v2/enqueue/?$' THEN monitoring.base_url(receiver, NULL)
			ELSE monitoring.base_url(receiver, 'https://events.pagerduty.com') || '/v2/enqueue' END,
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'), result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_pagerduty(jsonb, jsonb) IS 'Formatter of the kind pagerduty: an event of version 2. A group of alerts is an incident there: triggered, acknowledged when somebody has acknowledged all its alerts, resolved when all have ended. At most 512,000 bytes.';

CREATE FUNCTION monitoring.check_pagerduty(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, k, false, '^.{1,200}$', 'A text of 1 to 200 characters.') FROM unnest('{source,component}'::text[]) AS k;
END $$;
COMMENT ON FUNCTION monitoring.check_pagerduty(jsonb) IS 'Check of a config of the kind pagerduty.';

CREATE FUNCTION monitoring.format_opsgenie(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 20);
	first jsonb := message -> 'alerts' -> 0;
	alias text := monitoring.group_hash(notification);
	action text := CASE WHEN message ->> 'status' = 'resolved' THEN 'close' WHEN message ->> 'reason' = 'acknowledged' THEN 'acknowledge' END;
	result jsonb;
BEGIN
	-- message 130, alias 512, description 15,000, 20 tags of 50, all details 8000, entity 512, source 100 characters
	IF action IS NOT NULL THEN
		result := jsonb_strip_nulls(jsonb_build_object('source', 'monitoring', 'user', monitoring.escape_text(first ->> 'acknowledged_by', 'text', 100, true),
			'note', monitoring.message_title(config, message, 'text', 300)));
	ELSE
		result := jsonb_strip_nulls(jsonb_build_object('message', coalesce(nullif(monitoring.message_title(config, message, 'text', 130), ''), 'alert'),
			'alias', alias, 'description', array_to_string(monitoring.message_texts(config, message, 'text', 4000, 14500), E'\n\n'),
			'responders', config -> 'responders',
			'tags', (SELECT jsonb_agg(t.tag ORDER BY t.n) FROM (
				SELECT c.value AS tag, c.ordinality AS n FROM jsonb_array_elements_text(config -> 'tags') WITH ORDINALITY AS c
				UNION ALL SELECT message ->> 'severity', 100 WHERE message ->> 'severity' IS NOT NULL ORDER BY n LIMIT 20) AS t),
			'details', (SELECT jsonb_object_agg(d.key, d.value) FROM (
				SELECT monitoring.escape_text(l.key, 'text', 100, true) AS key, monitoring.escape_text(l.value, 'text', 200, true) AS value
				FROM jsonb_each_text(notification -> 'commonLabels') AS l ORDER BY l.key LIMIT 20) AS d)
				|| jsonb_strip_nulls(jsonb_build_object('runbook_url', first -> 'runbook_url', 'console_url', first -> 'console_url')),
			'entity', monitoring.escape_text(first -> 'label_map' ->> 'instance', 'text', 500, true), 'source', 'monitoring',
			'priority', CASE message ->> 'severity' WHEN 'critical' THEN 'P1' WHEN 'high' THEN 'P2' WHEN 'medium' THEN 'P3' WHEN 'low' THEN 'P4' ELSE 'P5' END));
	END IF;
	RETURN QUERY SELECT 'POST', monitoring.base_url(receiver, 'https://api.opsgenie.com') || '/v2/alerts'
			|| coalesce('/' || alias || '/' || action || '?identifierType=alias', ''),
		monitoring.request_headers(receiver, notification, jsonb_build_object('Content-Type', 'application/json',
			'Authorization', 'GenieKey ' || monitoring.receiver_secret(receiver, 'api_key'))), result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_opsgenie(jsonb, jsonb) IS 'Formatter of the kind opsgenie: a group of alerts is an alert there, found by its alias: created, acknowledged when somebody has acknowledged all of it, closed.';

CREATE FUNCTION monitoring.check_opsgenie(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	IF config ? 'tags' AND (CASE jsonb_typeof(config -> 'tags') WHEN 'array' THEN jsonb_array_length(config -> 'tags') > 19
		OR jsonb_path_exists(config -> 'tags', 'strict $[*] ? (@.type() != "string" || !(@ like_regex "^.{1,50}$"))') ELSE true END) THEN
		RAISE EXCEPTION 'key "tags" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'An array of at most 19 texts of 1 to 50 characters.';
	ELSIF config ? 'responders' AND (CASE jsonb_typeof(config -> 'responders') WHEN 'array' THEN jsonb_array_length(config -> 'responders') > 50
		OR EXISTS (SELECT FROM jsonb_array_elements(config -> 'responders') AS r
			WHERE r.value ->> 'type' IS NULL OR r.value ->> 'type' NOT IN ('team', 'user', 'escalation', 'schedule')) ELSE true END) THEN
		RAISE EXCEPTION 'key "responders" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'An array of at most 50 objects, as in [{"type": "team", "name": "ops"}]; types are team, user, escalation and schedule.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_opsgenie(jsonb) IS 'Check of a config of the kind opsgenie.';

CREATE FUNCTION monitoring.format_twilio(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 1);
	first jsonb := message -> 'alerts' -> 0;
	room integer := coalesce((config ->> 'max_length')::integer, 480);
	title text := monitoring.message_title(config, message, 'text', least(room, 200));
	content text := title;
BEGIN
	IF room > length(title) + 20 THEN
		content := concat_ws(E'\n', title, CASE WHEN config ? 'text' AND first IS NOT NULL
			THEN monitoring.alert_text(config, message, first, 'text', room - monitoring.text_units(title) - 1)
			ELSE monitoring.escape_text(coalesce(message ->> 'text', concat_ws(', ', first ->> 'summary', first ->> 'reading')), 'text',
				room - monitoring.text_units(title) - 1) END);
	END IF;
	RETURN QUERY SELECT 'POST', format('%s/2010-04-01/Accounts/%s/Messages.json', monitoring.base_url(receiver, 'https://api.twilio.com'),
			coalesce(config ->> 'account_sid', config ->> 'username')),
		monitoring.request_headers(receiver, notification, jsonb_build_object('Content-Type', 'application/x-www-form-urlencoded',
			'Authorization', 'Basic ' || monitoring.receiver_secret(receiver, 'basic_auth'))),
		monitoring.form_encode(jsonb_strip_nulls(jsonb_build_object('To', config ->> 'to', 'From', config ->> 'from',
			'MessagingServiceSid', config ->> 'messaging_service_sid', 'Body', content)));
END $$;
COMMENT ON FUNCTION monitoring.format_twilio(jsonb, jsonb) IS 'Formatter of the kind twilio: an SMS of at most max_length (480) characters.';

CREATE FUNCTION monitoring.check_twilio(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'username', true, '^(AC|SK)[0-9a-fA-F]{32}$', 'The SID of the account (AC...) or of an API key (SK...); its secret is the key password.');
	PERFORM monitoring.check_config_text(config, 'account_sid', left(config ->> 'username', 2) = 'SK', '^AC[0-9a-fA-F]{32}$', 'The SID of the account (AC...).');
	PERFORM monitoring.check_config_text(config, 'to', true, '^(whatsapp:)?\+[1-9][0-9]{4,14}$', 'A telephone number, as in +4930123456.');
	PERFORM monitoring.check_config_text(config, 'from', NOT config ? 'messaging_service_sid', '^((whatsapp:)?\+?[0-9]{3,15}|[A-Za-z0-9 ]{1,11})$', 'A telephone number or a name of at most 11 letters and digits; or give messaging_service_sid.');
	PERFORM monitoring.check_config_text(config, 'messaging_service_sid', false, '^MG[0-9a-fA-F]{32}$', 'The SID of a messaging service (MG...).');
	IF config ? 'max_length' AND (CASE WHEN jsonb_typeof(config -> 'max_length') = 'number'
		THEN (config ->> 'max_length')::numeric NOT BETWEEN 40 AND 1600 OR (config ->> 'max_length')::numeric % 1 <> 0 ELSE true END) THEN
		RAISE EXCEPTION 'key "max_length" in the receiver''s config is out of range' USING ERRCODE = 'invalid_parameter_value', HINT = 'It takes 40 to 1600.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_twilio(jsonb) IS 'Check of a config of the kind twilio.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, url_required, config_check, ambiguous, tell_acknowledged, description, builtin) VALUES
	('pagerduty', 'monitoring.format_pagerduty', '{title,text,source,component}', '{routing_key}', false, 'monitoring.check_pagerduty', 'repeat', true,
		'event for PagerDuty', true),
	('opsgenie', 'monitoring.format_opsgenie', '{title,text,responders,tags}', '{api_key}', false, 'monitoring.check_opsgenie', 'repeat', true,
		'alert for Opsgenie', true),
	('twilio', 'monitoring.format_twilio', '{username,account_sid,from,to,messaging_service_sid,max_length,title,text}', '{password}', false,
		'monitoring.check_twilio', 'never', false, 'SMS through Twilio', true);
-- formatters, mail: messages as RFC 5322 and MIME have them.
--
-- Nothing of an alert is in a header but the subject, which is an encoded word unless it is plain ASCII; the parts are
-- base64. So no text can end a header, forge a part or end the message.

CREATE FUNCTION monitoring.parse_mailboxes(list text) RETURNS TABLE (display text, address text)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rest text := btrim(list);
	m text[];
BEGIN
	IF list ~ '[\x01-\x1f\x7f]' THEN
		RAISE EXCEPTION 'a list of e-mail addresses holds a control character' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	LOOP
		-- "quoted name" <address>, name <address>, or the address alone
		m := regexp_match(rest, '^("(?:[^"\\]|\\.)*"|[^",<>@;:\\()\[\]]*)\s*<\s*([^<>\s]*)\s*>\s*(,|$)(.*)$');
		IF m IS NULL THEN
			m := regexp_match(rest, '^()([^<>",;:\s()\\]+)\s*(,|$)(.*)$');
		END IF;
		IF m IS NULL THEN
			RAISE EXCEPTION 'not a list of e-mail addresses: "%"', left(rest, 100)
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'Write them as in ops@example.com, "Doe, Ann" <ann@example.com>; a name with commas or other special characters needs quotes.';
		ELSIF m[2] !~ '^[A-Za-z0-9.!#$%&''*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$'
			OR m[2] ~ '(^\.|\.\.|\.@)' OR length(m[2]) > 254 THEN
			RAISE EXCEPTION '"%" is not an e-mail address', left(m[2], 100)
				USING ERRCODE = 'invalid_parameter_value', HINT = CASE WHEN m[2] ~ '[^ -~]'
					THEN 'Addresses are ASCII; write the domain in its xn-- form. Names before the address may be of any script.' ELSE 'Write it as in ops@example.com.' END;
		END IF;
		display := btrim(m[1]);
		IF display ~ '^"' THEN
			display := regexp_replace(substr(display, 2, length(display) - 2), '\\(.)', '\1', 'g');
		END IF;
		address := m[2];
		RETURN NEXT;
		EXIT WHEN m[3] = '';
		rest := btrim(m[4]);
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.parse_mailboxes(text) IS 'E-mail addresses separated by commas, each alone or as name <address> or "name" <address>; the name is as it is read. Error 22023 for anything else.';

CREATE FUNCTION monitoring.config_mailboxes(config jsonb, key text) RETURNS TABLE (display text, address text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT b.display, b.address
	FROM jsonb_array_elements_text(CASE jsonb_typeof(config -> key) WHEN 'array' THEN config -> key WHEN 'string' THEN jsonb_build_array(config -> key) ELSE '[]' END)
		WITH ORDINALITY AS l (list, n)
	CROSS JOIN LATERAL monitoring.parse_mailboxes(l.list) AS b
	ORDER BY l.n
$$;
COMMENT ON FUNCTION monitoring.config_mailboxes(jsonb, text) IS 'The e-mail addresses that a key of a config holds, as text or array of texts.';

CREATE FUNCTION monitoring.encode_words(t text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	chunk text := '';
	words text[] := '{}';
	c text;
BEGIN
	-- An encoded word has at most 75 characters, and whole characters only; a line of a header at most 78.
	IF t ~ '^[ -~]*$' AND t !~ '=\?|^ | $' AND length(t) <= 60 THEN
		RETURN t;
	END IF;
	FOREACH c IN ARRAY string_to_array(t, NULL) LOOP
		IF octet_length(convert_to(chunk || c, 'UTF8')) > 36 THEN
			words := words || chunk;
			chunk := '';
		END IF;
		chunk := chunk || c;
	END LOOP;
	RETURN (SELECT string_agg('=?UTF-8?B?' || encode(convert_to(w.word, 'UTF8'), 'base64') || '?=', E'\r\n ' ORDER BY w.n)
		FROM unnest(words || chunk) WITH ORDINALITY AS w (word, n));
END $$;
COMMENT ON FUNCTION monitoring.encode_words(text) IS 'Text for a header: as it is if that is short ASCII, otherwise encoded words (RFC 2047), folded.';

CREATE FUNCTION monitoring.mail_addresses(config jsonb, key text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(CASE WHEN b.display = '' THEN b.address
		WHEN b.display ~ '^[ -~]*$' AND length(b.display) <= 60 AND b.display !~ '=\?' THEN '"' || regexp_replace(b.display, '(["\\])', '\\\1', 'g') || '" <' || b.address || '>'
		ELSE monitoring.encode_words(b.display) || E'\r\n <' || b.address || '>' END, E',\r\n ')
	FROM monitoring.config_mailboxes(config, key) AS b
$$;
COMMENT ON FUNCTION monitoring.mail_addresses(jsonb, text) IS 'Addresses of a config as the value of a header, one a line; null: there are none.';

CREATE FUNCTION monitoring.mail_part(content_type text, content text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'Content-Type: ' || content_type || E'; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n'
	|| pg_catalog.replace(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.replace(content, E'\n', E'\r\n'), 'UTF8'), 'base64'), E'\n', E'\r\n') || E'\r\n';
COMMENT ON FUNCTION monitoring.mail_part(text, text) IS 'A part of a message of several parts.';

CREATE FUNCTION monitoring.mail_html(config jsonb, message jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT '<!DOCTYPE html><html><head><meta charset="utf-8"></head><body style="font-family:sans-serif;font-size:14px;color:#202124">'
		|| '<div style="border-left:6px solid ' || monitoring.hex_colour((message ->> 'colour')::integer) || ';padding-left:12px">'
		|| '<h2 style="margin:0 0 12px">' || monitoring.message_title(config, message, 'html', 1000) || '</h2>'
		|| (SELECT coalesce(string_agg('<p>' || replace(t.text, E'\n', '<br>') || '</p>', '' ORDER BY t.n), '')
			FROM unnest(monitoring.message_texts(CASE WHEN config ? 'html' THEN config || jsonb_build_object('text', config -> 'html') ELSE config - 'text' END,
				message, 'html', 10000, 100000)) WITH ORDINALITY AS t (text, n))
		|| '</div><p style="color:#5f6368;font-size:12px">' || monitoring.escape_text(concat_ws(' | ', message ->> 'status', message ->> 'severity',
			message ->> 'reason', message ->> 'group'), 'html', 1000) || '</p></body></html>'
$$;
COMMENT ON FUNCTION monitoring.mail_html(jsonb, jsonb) IS 'A message as HTML.';

CREATE FUNCTION monitoring.format_email(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 50);
	sender text := (SELECT b.address FROM monitoring.config_mailboxes(config, 'from') AS b);
	domain text := split_part(sender, '@', 2);
	thread text := '<group.' || left(monitoring.group_hash(notification), 32) || '@' || domain || '>';
	boundary text := 'monitoring-' || md5(coalesce(notification ->> 'idempotencyKey', ''));
	title text := monitoring.message_title(config, message, 'text', 200);
	texts text[] := monitoring.message_texts(config, message, 'text', 10000, 60000);
BEGIN
	RETURN QUERY SELECT 'SMTP', monitoring.base_url(receiver, NULL),
		jsonb_build_object('From', sender, 'To', (SELECT jsonb_agg(DISTINCT b.address)
			FROM unnest('{to,cc,bcc}'::text[]) AS k CROSS JOIN LATERAL monitoring.config_mailboxes(config, k) AS b)),
		concat_ws(E'\r\n',
			'From: ' || monitoring.mail_addresses(config, 'from'),
			'To: ' || coalesce(monitoring.mail_addresses(config, 'to'), 'undisclosed-recipients:;'),
			'Cc: ' || monitoring.mail_addresses(config, 'cc'),
			'Reply-To: ' || monitoring.mail_addresses(config, 'reply_to'),
			'Subject: ' || monitoring.encode_words(title),
			'Date: ' || to_char(coalesce((notification ->> 'now')::timestamptz, clock_timestamp()) AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS') || ' +0000',
			-- the same in every attempt: a server may drop repeats
			'Message-ID: <' || regexp_replace(coalesce(notification ->> 'idempotencyKey', ''), '[^A-Za-z0-9-]', '', 'g') || '.' || coalesce(notification ->> 'id', '0') || '@' || domain || '>',
			'In-Reply-To: ' || thread, 'References: ' || thread,
			'Auto-Submitted: auto-generated', 'X-Auto-Response-Suppress: All', 'Precedence: bulk',
			CASE WHEN message ->> 'severity' IN ('critical', 'high') AND message ->> 'status' = 'firing' THEN 'Importance: high' END,
			'MIME-Version: 1.0', E'Content-Type: multipart/alternative;\r\n boundary="' || boundary || '"', '',
			'--' || boundary, monitoring.mail_part('text/plain', array_to_string(title || texts, E'\n\n') || E'\n')
				|| '--' || boundary || E'\r\n' || monitoring.mail_part('text/html', monitoring.mail_html(config, message))
				|| '--' || boundary || '--', '');
END $$;
COMMENT ON FUNCTION monitoring.format_email(jsonb, jsonb) IS 'Formatter of the kind email: a message with text and HTML; messages about a group are a thread.';

CREATE FUNCTION monitoring.check_email(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k text;
BEGIN
	PERFORM monitoring.check_templates(config);
	FOREACH k IN ARRAY '{from,to,cc,bcc,reply_to}'::text[] LOOP
		IF config ? k AND (jsonb_typeof(config -> k) NOT IN ('string', 'array')
			OR jsonb_path_exists(config -> k, 'lax $[*] ? (@.type() != "string")')) THEN
			RAISE EXCEPTION 'key "%" in the receiver''s config must be a text or an array of texts', k USING ERRCODE = 'invalid_parameter_value';
		ELSIF k = 'from' AND (SELECT count(*) FROM monitoring.config_mailboxes(config, k)) <> 1
			OR k = 'to' AND NOT EXISTS (SELECT FROM monitoring.config_mailboxes(config, k))
			OR k <> 'from' AND (SELECT count(*) FROM monitoring.config_mailboxes(config, k)) > 100 THEN
			RAISE EXCEPTION 'key "%" in the receiver''s config needs %', k, CASE k WHEN 'from' THEN 'one e-mail address' ELSE '1 to 100 e-mail addresses' END
				USING ERRCODE = 'invalid_parameter_value', HINT = 'Write them as in ops@example.com, "Doe, Ann" <ann@example.com>.';
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.check_email(jsonb) IS 'Check of a config of the kind email.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, schemes, config_check, description, builtin) VALUES
	('email', 'monitoring.format_email', '{from,to,cc,bcc,reply_to,title,text,html,username,starttls}', '{password}', '{smtp,smtps}', 'monitoring.check_email',
		'e-mail of text and HTML', true);
-- delivery: what the notifier worker (notifier.c) calls. It claims rows of the outbox, lets the receiver kind's function
-- turn each into a request, sends it through the sender program, and records the outcome. All decisions (what is due,
-- what is tried again and when, what is given up, handed on or no longer worth sending) are made here.

----------------------------------------------------------------------------------------------------------------------
-- How receivers fare
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.receiver_states (
	receiver text PRIMARY KEY REFERENCES monitoring.receiver_defs (name) ON DELETE CASCADE,
	successes integer NOT NULL DEFAULT 0,
	failures integer NOT NULL DEFAULT 0,
	failing_since timestamptz,
	paused_until timestamptz,
	tokens float8,
	refilled_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE monitoring.receiver_states IS 'How delivery to each receiver fares: the circuit breaker and the token bucket. Written by the notifier alone.';
COMMENT ON COLUMN monitoring.receiver_states.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_states.successes IS 'Responses since the last failure, up to 64: so much more is sent to it at once.';
COMMENT ON COLUMN monitoring.receiver_states.failures IS 'Failures since the last response.';
COMMENT ON COLUMN monitoring.receiver_states.failing_since IS 'The first of these failures.';
COMMENT ON COLUMN monitoring.receiver_states.paused_until IS 'Nothing is sent to it before this time: it asked for that, or the breaker is open.';
COMMENT ON COLUMN monitoring.receiver_states.tokens IS 'What rate_per_second still allowed at refilled_at.';
COMMENT ON COLUMN monitoring.receiver_states.refilled_at IS 'When the tokens were counted.';

CREATE FUNCTION monitoring.breaker_failures(config jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((config ->> 'breaker_failures')::integer, 5);
COMMENT ON FUNCTION monitoring.breaker_failures(jsonb) IS 'After how many failures in a row a receiver with this config is paused; 0: never.';

CREATE FUNCTION monitoring.receiver_allowances(at timestamptz, per_receiver integer)
RETURNS TABLE (receiver text, sending bigint, allowed bigint, tokens float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT r.name, b.sending, greatest(least(coalesce(floor(k.tokens)::bigint, per_receiver), n.most - b.sending), 0), k.tokens
	FROM monitoring.receiver_defs AS r
	LEFT JOIN monitoring.receiver_states AS s ON s.receiver = r.name
	LEFT JOIN (
		SELECT o.receiver, count(*) AS sending FROM monitoring.outbox AS o
		WHERE o.state = 'sending' AND o.lease_until > receiver_allowances.at AND o.created_at > receiver_allowances.at - interval '2 days'
		GROUP BY o.receiver) AS w ON w.receiver = r.name
	CROSS JOIN LATERAL (SELECT coalesce(w.sending, 0) AS sending) AS b
	-- One at a time tries a receiver that failed; one that answers gets more and more.
	CROSS JOIN LATERAL (
		SELECT CASE WHEN s.failures >= nullif(monitoring.breaker_failures(r.config), 0) THEN 1
			ELSE least(per_receiver, 8 + coalesce(s.successes, 0)) END AS most) AS n
	CROSS JOIN LATERAL (
		SELECT least(coalesce((r.config ->> 'burst')::float8, greatest((r.config ->> 'rate_per_second')::float8, 1)),
			CASE WHEN s.refilled_at <= receiver_allowances.at THEN s.tokens
				+ (r.config ->> 'rate_per_second')::float8 * extract(epoch FROM receiver_allowances.at - s.refilled_at)::float8 END) AS full_or_less) AS t
	CROSS JOIN LATERAL (SELECT CASE WHEN r.config ? 'rate_per_second' THEN t.full_or_less END AS tokens) AS k
	-- No pause is longer than an hour, whatever the clock does.
	WHERE r.enabled AND coalesce(s.paused_until NOT BETWEEN receiver_allowances.at AND receiver_allowances.at + interval '1 hour', true)
$$;
COMMENT ON FUNCTION monitoring.receiver_allowances(timestamptz, integer) IS 'The enabled receivers that are not paused at that time: how many notifications are being sent to each, how many more may be (at most per_receiver at once, as its answers so far and its rate allow), and its tokens; null: its config has no rate_per_second.';

CREATE VIEW monitoring.receiver_health AS
	SELECT r.name AS receiver,
		CASE WHEN NOT r.enabled THEN 'disabled'
			WHEN s.failures >= nullif(coalesce((r.config ->> 'breaker_failures')::integer, 5), 0) THEN 'broken'
			WHEN s.paused_until > clock_timestamp() THEN 'paused'
			WHEN s.failures > 0 THEN 'failing'
			ELSE 'ok' END AS state,
		coalesce(s.failures, 0) AS failures, s.failing_since,
		CASE WHEN s.paused_until > clock_timestamp() THEN s.paused_until END AS paused_until,
		w.waiting, w.waiting_since, r.config ->> 'fallback' AS fallback
	FROM monitoring.receiver_defs AS r
	LEFT JOIN monitoring.receiver_states AS s ON s.receiver = r.name
	CROSS JOIN LATERAL (
		SELECT count(*) AS waiting, min(o.created_at) AS waiting_since FROM monitoring.outbox AS o
		WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed')) AS w;
COMMENT ON VIEW monitoring.receiver_health IS 'How delivery to each receiver fares.';
COMMENT ON COLUMN monitoring.receiver_health.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_health.state IS 'ok; failing; broken (breaker_failures failures in a row: it is tried with one notification after ever longer pauses); paused (it asked for that by Retry-After); disabled.';
COMMENT ON COLUMN monitoring.receiver_health.failures IS 'Failures since the last response.';
COMMENT ON COLUMN monitoring.receiver_health.failing_since IS 'The first of these failures.';
COMMENT ON COLUMN monitoring.receiver_health.paused_until IS 'Nothing is sent before this time.';
COMMENT ON COLUMN monitoring.receiver_health.waiting IS 'Notifications that are not finished.';
COMMENT ON COLUMN monitoring.receiver_health.waiting_since IS 'When the oldest of them was enqueued.';
COMMENT ON COLUMN monitoring.receiver_health.fallback IS 'Receiver that is told instead.';

CREATE FUNCTION monitoring.note_receiver_outcomes(at timestamptz, receivers text[], answered bigint[], failed bigint[], pauses float8[])
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- The breaker opens for a second after its failures, then twice as long each time, up to five minutes; the jitter keeps
	-- receivers that broke together from being tried together.
	WITH noted AS (
		SELECT r.name, n.answered, n.pause, monitoring.breaker_failures(r.config) AS threshold,
			least(s.successes, 64) AS successes, CASE WHEN n.answered > 0 THEN 0 ELSE coalesce(s.failures, 0) + n.failed END AS failures,
			CASE WHEN n.answered = 0 AND n.failed > 0 THEN coalesce(s.failing_since, note_receiver_outcomes.at) END AS failing_since
		FROM unnest(receivers, answered, failed, pauses) AS n (receiver, answered, failed, pause)
		JOIN monitoring.receiver_defs AS r ON r.name = n.receiver
		LEFT JOIN monitoring.receiver_states AS s ON s.receiver = n.receiver
		WHERE n.answered > 0 OR n.failed > 0 OR n.pause > 0
	), decided AS (
		SELECT n.name, CASE WHEN n.failures > 0 THEN 0 ELSE least(coalesce(n.successes, 0) + n.answered, 64) END AS successes, n.failures,
			n.failing_since,
			CASE WHEN p.pause > 0 THEN note_receiver_outcomes.at + make_interval(secs => p.pause) END AS paused_until
		FROM noted AS n
		CROSS JOIN LATERAL (
			SELECT greatest(CASE WHEN n.pause > 0 THEN least(n.pause, 3600) END, CASE WHEN n.threshold > 0 AND n.failures >= n.threshold
				THEN (1 + random()) / 2 * least(300, 2 ^ least(n.failures - n.threshold, 20)) END) AS pause) AS p
	)
	INSERT INTO monitoring.receiver_states AS s (receiver, successes, failures, failing_since, paused_until)
	SELECT d.name, d.successes, d.failures, d.failing_since, d.paused_until FROM decided AS d
	ON CONFLICT (receiver) DO UPDATE
	SET successes = excluded.successes, failures = excluded.failures, failing_since = excluded.failing_since, paused_until = excluded.paused_until
	WHERE (s.successes, s.failures, s.failing_since, s.paused_until)
		IS DISTINCT FROM (excluded.successes, excluded.failures, excluded.failing_since, excluded.paused_until)
$$;
COMMENT ON FUNCTION monitoring.note_receiver_outcomes(timestamptz, text[], bigint[], bigint[], float8[]) IS 'Take note, for each receiver named, how many attempts it answered, how many failed on its side and for how many seconds it asked to be left alone (at most an hour counts), and open or close its breaker.';

----------------------------------------------------------------------------------------------------------------------
-- What need not be sent, and what is handed on
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.notify_collapse(at timestamptz, days timestamptz[], firsts bigint[]) RETURNS TABLE (created_at timestamptz, id bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	-- A notification lists all that is firing in its group, so the last one stands for all that wait, but for the end of
	-- alerts that only an earlier one tells of. Of a group that the receiver has never heard of, alerts that are over
	-- already are nobody's business.
	RETURN QUERY
	WITH crowds AS MATERIALIZED (
		SELECT o.receiver, o.group_key, array_agg(o.id ORDER BY o.id) AS ids, max(o.id) AS last_id,
			bool_and(o.attempts = 0) AND (array_agg(o.payload ->> 'reason' ORDER BY o.id))[1] = 'first notification' AS unheard
		FROM unnest(days, firsts) AS k (created_at, id)
		JOIN monitoring.outbox AS f ON f.created_at = k.created_at AND f.id = k.id
		JOIN monitoring.outbox AS o ON o.receiver || E'\n' || o.group_key = f.receiver || E'\n' || f.group_key AND o.id >= f.id
			AND o.state IN ('queued', 'sending', 'failed') AND o.created_at > notify_collapse.at - interval '2 days'
		GROUP BY o.receiver, o.group_key
		HAVING count(*) > 1 AND bool_and(o.status IN ('firing', 'resolved') AND NOT o.payload ?| '{digest,escalation}'::text[])
	), mentions AS MATERIALIZED (
		SELECT o.id, c.last_id, c.unheard, a.ordinality, a.value AS document,
			first_value(a.value ->> 'status') OVER (PARTITION BY c.last_id, a.value ->> 'fingerprint' ORDER BY o.id) AS first_status,
			row_number() OVER (PARTITION BY c.last_id, a.value ->> 'fingerprint' ORDER BY o.id DESC) AS from_last
		FROM crowds AS c
		JOIN monitoring.outbox AS o ON o.receiver || E'\n' || o.group_key = c.receiver || E'\n' || c.group_key AND o.id = ANY (c.ids)
			AND o.state IN ('queued', 'sending', 'failed') AND o.created_at > notify_collapse.at - interval '2 days'
		CROSS JOIN LATERAL jsonb_array_elements(o.payload -> 'alerts') WITH ORDINALITY AS a
	), kept AS (
		SELECT m.last_id, count(*) FILTER (WHERE m.document ->> 'status' = 'firing') AS firing,
			jsonb_agg(m.document ORDER BY m.document ->> 'status', m.id DESC, m.ordinality) AS alerts
		FROM mentions AS m
		WHERE m.from_last = 1 AND CASE WHEN m.document ->> 'status' = 'firing' THEN m.id = m.last_id
			ELSE NOT (m.unheard AND m.first_status = 'firing') END
		GROUP BY m.last_id
	), superseded AS (
		UPDATE monitoring.outbox AS o
		SET state = 'superseded', lease_until = NULL, error = format('superseded by notification %s', c.last_id)
		FROM crowds AS c
		WHERE o.receiver || E'\n' || o.group_key = c.receiver || E'\n' || c.group_key AND o.id = ANY (c.ids) AND o.id <> c.last_id AND o.state IN ('queued', 'sending', 'failed')
			AND o.created_at > notify_collapse.at - interval '2 days'
	), merged AS (
		UPDATE monitoring.outbox AS o
		SET state = CASE WHEN k.alerts IS NULL THEN 'superseded' ELSE o.state END,
			error = CASE WHEN k.alerts IS NULL THEN 'all of it was over before any of it could be sent' ELSE o.error END,
			status = CASE WHEN k.firing > 0 THEN 'firing' ELSE 'resolved' END,
			payload = monitoring.make_payload(o.receiver, o.group_key, CASE WHEN k.firing > 0 THEN 'firing' ELSE 'resolved' END,
				o.payload -> 'groupLabels', coalesce(k.alerts, '[]'),
				o.payload - '{receiver,groupKey,status,groupLabels,commonLabels,commonAnnotations,alerts}'::text[]),
			alert_ids = (SELECT coalesce(array_agg(DISTINCT i ORDER BY i), '{}')
				FROM monitoring.outbox AS e CROSS JOIN LATERAL unnest(e.alert_ids) AS i
				WHERE e.receiver || E'\n' || e.group_key = c.receiver || E'\n' || c.group_key AND e.id = ANY (c.ids) AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_collapse.at - interval '2 days')
		FROM crowds AS c
		LEFT JOIN kept AS k ON k.last_id = c.last_id
		WHERE o.receiver || E'\n' || o.group_key = c.receiver || E'\n' || c.group_key AND o.id = c.last_id AND o.state IN ('queued', 'sending', 'failed')
			AND o.created_at > notify_collapse.at - interval '2 days'
		RETURNING o.created_at, o.id, o.state
	)
	SELECT m.created_at, m.id FROM merged AS m WHERE m.state <> 'superseded'
	UNION ALL
	SELECT k.created_at, k.id FROM unnest(days, firsts) AS k (created_at, id)
	WHERE NOT EXISTS (SELECT FROM crowds AS c WHERE k.id = ANY (c.ids));
END $$;
COMMENT ON FUNCTION monitoring.notify_collapse(timestamptz, timestamptz[], bigint[]) IS 'Of groups whose first unfinished notifications are named, by when they were enqueued and number, make one of all that wait, and return the rows to be sent in place of the first ones. What is no longer worth sending becomes superseded. Digests, tests, messages, acknowledgements and escalations stay as they are, and so does all that waits with one of them.';

CREATE FUNCTION monitoring.notify_fall_back(at timestamptz, days timestamptz[], ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
BEGIN
	PERFORM monitoring.ensure_partition('outbox', at);
	INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT notify_fall_back.at, o.at, f.name, o.group_key, o.alert, o.status, o.alert_ids,
		o.payload || jsonb_build_object('receiver', f.name, 'fallbackFrom', coalesce(o.payload -> 'fallbackFrom', '[]') || to_jsonb(o.receiver)),
		notify_fall_back.at, notify_fall_back.at + monitoring.max_age(f.config)
	FROM unnest(days, ids) AS k (created_at, id)
	JOIN monitoring.outbox AS o ON o.created_at = k.created_at AND o.id = k.id
	JOIN monitoring.receiver_defs AS r ON r.name = o.receiver
	JOIN monitoring.receiver_defs AS f ON f.name = r.config ->> 'fallback'
	WHERE o.status NOT IN ('test', 'still firing') AND f.enabled AND f.name <> o.receiver AND NOT coalesce(o.payload -> 'fallbackFrom', '[]') ? f.name
	ORDER BY o.id;
END $$;
COMMENT ON FUNCTION monitoring.notify_fall_back(timestamptz, timestamptz[], bigint[]) IS 'Enqueue what could not be delivered for the fallback receivers of its receivers, if those are enabled and have not failed with it before.';

----------------------------------------------------------------------------------------------------------------------
-- Claims and outcomes
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.notify_has_work(at timestamptz, running boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (
			SELECT FROM monitoring.receiver_allowances(notify_has_work.at, 64) AS r
			CROSS JOIN LATERAL (
				SELECT FROM monitoring.outbox AS o
				WHERE o.receiver = r.receiver AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= notify_has_work.at
					AND o.created_at > notify_has_work.at - interval '2 days'
					AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
						WHERE e.receiver || E'\n' || e.group_key = o.receiver || E'\n' || o.group_key AND e.id < o.id
							AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_has_work.at - interval '2 days' OFFSET 0)
				LIMIT 1) AS due
			WHERE r.allowed > 0)
		OR EXISTS (
			SELECT FROM monitoring.outbox AS o
			WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_has_work.at AND coalesce(o.lease_until <= notify_has_work.at, true))
		OR (NOT running AND EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			JOIN monitoring.outbox AS o ON o.receiver = r.name
			WHERE o.state = 'sending'));
END $$;
COMMENT ON FUNCTION monitoring.notify_has_work(timestamptz, boolean) IS 'Is a notification due, or too old, at that time? When no notifier is running, what is marked as being sent is work too: its notifier is gone.';

CREATE FUNCTION monitoring.notify_give_up(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
DECLARE
	days timestamptz[];
	ids bigint[];
BEGIN
	WITH gone AS (
		UPDATE monitoring.outbox AS o
		SET state = 'dead', lease_until = NULL,
			error = coalesce(o.error || '; ', '') || format('given up, too old (attempts: %s)', o.attempts)
		WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_give_up.at
			AND coalesce(o.lease_until <= notify_give_up.at, true)
		RETURNING o.created_at, o.id
	), unknown AS (
		UPDATE monitoring.outbox AS o
		SET state = 'dead', lease_until = NULL, error = 'the outcome was never known: it may have arrived, and is not repeated'
		FROM monitoring.receiver_defs AS r
		JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.ambiguous = 'never'
		WHERE o.receiver = r.name AND o.state = 'sending' AND o.lease_until <= notify_give_up.at AND o.expires_at > notify_give_up.at
	), handed_on AS (
		UPDATE monitoring.outbox AS o
		SET state = 'dead', error = coalesce(o.error || '; ', '') || format('handed to receiver "%s"', f.name)
		FROM monitoring.receiver_states AS s
		JOIN monitoring.receiver_defs AS r ON r.name = s.receiver
		JOIN monitoring.receiver_defs AS f ON f.name = r.config ->> 'fallback' AND f.enabled
		WHERE s.failures >= nullif(monitoring.breaker_failures(r.config), 0)
			AND s.failing_since <= notify_give_up.at - make_interval(secs => coalesce((r.config ->> 'fallback_after_seconds')::float8, 300))
			AND o.receiver = r.name AND o.state IN ('queued', 'failed') AND o.status NOT IN ('test', 'still firing') AND o.expires_at > notify_give_up.at
			AND f.name <> o.receiver AND NOT coalesce(o.payload -> 'fallbackFrom', '[]') ? f.name
		RETURNING o.created_at, o.id
	)
	SELECT array_agg(u.created_at), array_agg(u.id) INTO days, ids FROM (SELECT * FROM gone UNION ALL SELECT * FROM handed_on) AS u;
	IF ids IS NOT NULL THEN
		PERFORM monitoring.notify_fall_back(at, days, ids);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.notify_give_up(timestamptz) IS 'Mark as dead what is too old, what may have arrived at a receiver that must not be told twice, and what waits for a receiver that has been failing for fallback_after_seconds and has a fallback, which gets it.';

CREATE FUNCTION monitoring.notify_claim(at timestamptz, max_rows integer, per_receiver integer)
RETURNS TABLE (created_at timestamptz, id bigint, attempt integer, format_function oid, format_owner name,
	receiver jsonb, notification jsonb, connect_timeout float8, total_timeout float8, receiver_owner name, receiver_name text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	days timestamptz[];
	ids bigint[];
	crowded_days timestamptz[];
	crowded_ids bigint[];
	limited jsonb;
BEGIN
	PERFORM monitoring.notify_give_up(at);

	-- Nothing lives for more than a day (max_age_seconds): two days of partitions hold all that is unfinished. The
	-- receivers take turns, so that those whose requests hang do not keep the others from what is left of max_rows.
	-- OFFSET 0 keeps the planner from joining a backlog with itself when it does not know how long that is.
	WITH due AS MATERIALIZED (
		SELECT r.receiver, r.tokens, d.created_at, d.id, d.crowded
		FROM monitoring.receiver_allowances(notify_claim.at, per_receiver) AS r
		CROSS JOIN LATERAL (
			SELECT o.created_at, o.id, EXISTS (SELECT FROM monitoring.outbox AS l
					WHERE l.receiver || E'\n' || l.group_key = o.receiver || E'\n' || o.group_key AND l.id > o.id
						AND l.state IN ('queued', 'sending', 'failed') AND l.created_at > notify_claim.at - interval '2 days') AS crowded
			FROM monitoring.outbox AS o
			WHERE o.receiver = r.receiver AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= notify_claim.at
				AND o.created_at > notify_claim.at - interval '2 days'
				AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
					WHERE e.receiver || E'\n' || e.group_key = o.receiver || E'\n' || o.group_key AND e.id < o.id
						AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_claim.at - interval '2 days' OFFSET 0)
			ORDER BY o.id
			LIMIT r.allowed
			FOR UPDATE OF o SKIP LOCKED) AS d
		WHERE r.allowed > 0
		ORDER BY r.sending + row_number() OVER (PARTITION BY r.receiver ORDER BY d.id), d.id
		LIMIT max_rows
	)
	SELECT array_agg(d.created_at) FILTER (WHERE NOT d.crowded), array_agg(d.id) FILTER (WHERE NOT d.crowded),
		array_agg(d.created_at) FILTER (WHERE d.crowded), array_agg(d.id) FILTER (WHERE d.crowded),
		(SELECT jsonb_object_agg(t.receiver, t.tokens) FROM (SELECT DISTINCT i.receiver, i.tokens FROM due AS i WHERE i.tokens IS NOT NULL) AS t)
	INTO days, ids, crowded_days, crowded_ids, limited FROM due AS d;
	IF crowded_ids IS NOT NULL THEN
		SELECT days || array_agg(c.created_at), ids || array_agg(c.id) INTO days, ids
		FROM monitoring.notify_collapse(at, crowded_days, crowded_ids) AS c;
	END IF;

	IF limited IS NOT NULL THEN
		INSERT INTO monitoring.receiver_states AS s (receiver, tokens, refilled_at)
		SELECT o.receiver, (limited ->> o.receiver)::float8 - count(*), notify_claim.at
		FROM unnest(days, ids) AS k (created_at, id)
		JOIN monitoring.outbox AS o ON o.created_at = k.created_at AND o.id = k.id
		WHERE limited ? o.receiver
		GROUP BY o.receiver
		ON CONFLICT (receiver) DO UPDATE SET tokens = excluded.tokens, refilled_at = excluded.refilled_at;
	END IF;

	RETURN QUERY
	WITH timed AS (
		SELECT o.created_at, o.id, r.name, r.kind, r.url, r.config, r.owner, k.function, k.owner AS format_owner,
			coalesce((r.config ->> 'connect_timeout_seconds')::float8, 5) AS connect_timeout,
			coalesce((r.config ->> 'timeout_seconds')::float8, k.timeout_seconds) AS total_timeout
		FROM unnest(days, ids) AS c (created_at, id)
		JOIN monitoring.outbox AS o ON o.created_at = c.created_at AND o.id = c.id
		JOIN monitoring.receiver_defs AS r ON r.name = o.receiver
		JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
	)
	UPDATE monitoring.outbox AS o
	SET state = 'sending', attempts = o.attempts + 1,
		lease_until = notify_claim.at + make_interval(secs => t.total_timeout + 60),
		next_attempt_at = notify_claim.at + make_interval(secs => t.total_timeout + 60)
	FROM timed AS t
	WHERE o.created_at = t.created_at AND o.id = t.id
	RETURNING o.created_at, o.id, o.attempts, to_regprocedure(t.function || '(jsonb,jsonb)')::oid, t.format_owner,
		jsonb_build_object('name', t.name, 'kind', t.kind, 'url', t.url, 'config', t.config),
		o.payload || jsonb_build_object('idempotencyKey', o.idempotency_key, 'id', o.id),
		t.connect_timeout, t.total_timeout, t.owner, t.name;
END $$;
COMMENT ON FUNCTION monitoring.notify_claim(timestamptz, integer, integer) IS 'Give up what is to be given up (notify_give_up); claim due notifications, at most max_rows in all and to each receiver so many as receiver_allowances says, skipping any with an unfinished earlier one in its group. Where more wait behind one of them, all of these become one. The claim ends with the lease, a minute after the timeout.';

CREATE FUNCTION monitoring.notify_hold(created_at timestamptz, id bigint, attempt integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
	PERFORM FROM monitoring.outbox AS o
	WHERE o.created_at = notify_hold.created_at AND o.id = notify_hold.id AND o.state = 'sending' AND o.attempts = notify_hold.attempt
	FOR NO KEY UPDATE;
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION monitoring.notify_hold(timestamptz, bigint, integer) IS 'Is this attempt still claimed? If so nobody else can end it before this transaction does.';

CREATE FUNCTION monitoring.notify_record(at timestamptz, outcomes jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
DECLARE
	receivers text[];
	answered bigint[];
	failed bigint[];
	pauses float8[];
	dead_days timestamptz[];
	dead_ids bigint[];
BEGIN
	PERFORM monitoring.ensure_partition('delivery_attempts', at);

	WITH outcome AS (
		SELECT b.created_at, b.id, b.receiver, b.attempts, b.expires_at, x.outcome, x.http_status, x.latency, x.retry_after, x.error,
			x.bytes, x.protocol,
			coalesce((r.config ->> 'max_attempts')::integer, 10) AS max_attempts,
			x.outcome IN ('network', 'lost') AND coalesce(x.connected, true) AND k.ambiguous = 'never' AS ambiguous,
			CASE
				WHEN x.outcome = 'response' AND x.http_status BETWEEN 200 AND 299 OR x.outcome IN ('nothing', 'delivered') THEN 'sent'
				WHEN x.outcome IN ('network', 'raised', 'unformatted', 'postponed', 'lost') THEN 'failed'
				-- A mail server's 4xx is for now and its 5xx for good.
				WHEN x.protocol = 'SMTP' THEN CASE WHEN x.http_status BETWEEN 400 AND 499 THEN 'failed' ELSE 'dead' END
				WHEN x.http_status IN (408, 425, 429) OR x.http_status >= 500 THEN 'failed'
				ELSE 'dead'
			END AS verdict,
			-- Full jitter spreads receivers that failed together; Retry-After is a floor.
			notify_record.at + make_interval(secs => greatest(x.retry_after,
				random() * least(300, 2 ^ least(b.attempts - 1, 20)))) AS next_at
		FROM jsonb_to_recordset(outcomes) AS x (created_at timestamptz, id bigint, attempt integer, outcome text,
			http_status integer, latency float8, retry_after float8, connected boolean, error text,
			bytes bigint, protocol text)
		JOIN monitoring.outbox AS b ON b.created_at = x.created_at AND b.id = x.id
			AND b.state = 'sending' AND b.attempts = x.attempt
		LEFT JOIN monitoring.receiver_defs AS r ON r.name = b.receiver
		LEFT JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
	), decided AS (
		-- What was lost or postponed may be another notification's fault: only its age ends that.
		SELECT o.*, o.verdict = 'failed' AND o.attempts >= o.max_attempts AND o.outcome NOT IN ('lost', 'postponed') AS exhausted,
			o.verdict = 'failed' AND o.next_at >= o.expires_at AS too_late
		FROM outcome AS o
	), changed AS (
		UPDATE monitoring.outbox AS b
		SET state = CASE WHEN d.exhausted OR d.too_late OR d.ambiguous THEN 'dead' ELSE d.verdict END,
			lease_until = NULL, next_attempt_at = d.next_at, http_status = d.http_status, latency = d.latency,
			sent_at = CASE WHEN d.verdict = 'sent' THEN notify_record.at END,
			error = CASE
				WHEN d.ambiguous THEN d.error || '; it may have arrived, and is not repeated'
				WHEN d.exhausted THEN d.error || format('; given up (attempts: %s)', d.attempts)
				WHEN d.too_late THEN d.error || format('; given up, too old (attempts: %s)', d.attempts)
				ELSE d.error END
		FROM decided AS d
		WHERE b.created_at = d.created_at AND b.id = d.id
		RETURNING b.created_at, b.id, b.state, d.ambiguous
	), attempted AS (
		INSERT INTO monitoring.delivery_attempts (at, notification_id, receiver, attempt, outcome, http_status, latency, error, bytes, protocol)
		SELECT notify_record.at, d.id, d.receiver, d.attempts, d.outcome, d.http_status, d.latency, d.error, d.bytes, d.protocol FROM decided AS d
	), by_receiver AS (
		SELECT d.receiver, count(*) FILTER (WHERE d.outcome IN ('response', 'delivered', 'rejected') AND d.verdict <> 'failed') AS answered,
			count(*) FILTER (WHERE d.outcome IN ('response', 'network', 'raised') AND d.verdict = 'failed') AS failed, max(d.retry_after) AS pause
		FROM decided AS d
		GROUP BY d.receiver
	)
	SELECT r.receivers, r.answered, r.failed, r.pauses, c.days, c.ids
	INTO receivers, answered, failed, pauses, dead_days, dead_ids
	FROM (SELECT array_agg(b.receiver) AS receivers, array_agg(b.answered) AS answered, array_agg(b.failed) AS failed,
			array_agg(b.pause) AS pauses FROM by_receiver AS b) AS r
	CROSS JOIN (SELECT array_agg(c.created_at) AS days, array_agg(c.id) AS ids FROM changed AS c WHERE c.state = 'dead' AND NOT c.ambiguous) AS c;

	PERFORM monitoring.note_receiver_outcomes(at, receivers, answered, failed, pauses);
	IF dead_ids IS NOT NULL THEN
		PERFORM monitoring.notify_fall_back(at, dead_days, dead_ids);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.notify_record(timestamptz, jsonb) IS 'Record outcomes of attempts: 2xx is sent, and so is what was delivered in the database or the formatter makes nothing of; no response, a function that raised, 408, 425, 429, 5xx, and 4xx of mail servers, are tried again after a random delay that doubles up to 300 s and is at least what Retry-After asks, as is what could not be formatted for now or was lost; anything else is dead, and goes to the receiver''s fallback. What may have arrived at a receiver whose kind forbids repeats is dead. Outcomes of claims that have ended are ignored.';

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
-- By hand
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.cancel(notification bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	found_state text;
BEGIN
	UPDATE monitoring.outbox AS o
	SET state = 'cancelled', lease_until = NULL, error = coalesce(o.error || '; ', '') || format('cancelled by %s', monitoring.calling_role())
	WHERE o.id = cancel.notification AND o.state IN ('queued', 'failed');
	IF NOT FOUND THEN
		SELECT o.state INTO found_state FROM monitoring.outbox AS o WHERE o.id = cancel.notification;
		IF found_state IS NULL THEN
			RAISE EXCEPTION 'notification % does not exist', notification
				USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.notifications lists them.';
		END IF;
		RAISE EXCEPTION 'notification % cannot be cancelled', notification
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is %s.', found_state);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.cancel(bigint) IS 'Cancel a notification that waits to be sent or to be tried again. The next one of its group says again what is firing then. Errors: 42704 if there is no such notification, 55000 if it is being sent or finished.';

CREATE FUNCTION monitoring.resend(notification bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	old monitoring.outbox;
	now_at timestamptz := clock_timestamp();
	new_id bigint;
BEGIN
	SELECT * INTO old FROM monitoring.outbox AS o WHERE o.id = resend.notification;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'notification % does not exist', notification
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.notifications lists them.';
	ELSIF old.state IN ('queued', 'sending', 'failed') THEN
		RAISE EXCEPTION 'notification % is not finished', notification
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is %s.', old.state);
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox AS o (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT now_at, old.at, r.name, old.group_key, old.alert, old.status, old.alert_ids, old.payload,
		now_at, now_at + monitoring.max_age(r.config)
	FROM monitoring.receiver_defs AS r WHERE r.name = old.receiver
	RETURNING o.id INTO new_id;
	IF new_id IS NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', old.receiver
			USING ERRCODE = 'undefined_object', DETAIL = format('Notification %s was for it.', notification);
	END IF;
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.resend(bigint) IS 'Enqueue a finished notification again, as it was, with a new number and idempotency key, and return the number. Errors: 42704 if it or its receiver does not exist, 55000 if it is not finished.';
-- heartbeat: a sign of life for a service outside, which pages when it stops coming. It is sent only while alert rules are
-- evaluated and notifications get through: what is silent here is loud there.
--
-- A heartbeat is a receiver of a kind that takes no alerts, and each sign a notification to it. So urls, secrets and where it
-- may go are as for any receiver, and a sign that comes out has been all the way that an alert would go.

CREATE TABLE monitoring.heartbeat_states (
	receiver text PRIMARY KEY REFERENCES monitoring.receiver_defs (name) ON DELETE CASCADE,
	due_at timestamptz NOT NULL,
	lagging text,
	lagging_since timestamptz,
	failed_at timestamptz,
	ping_created_at timestamptz,
	ping_id bigint,
	sent_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE monitoring.heartbeat_states IS 'How far heartbeats are. Written by the job heartbeat alone.';
COMMENT ON COLUMN monitoring.heartbeat_states.receiver IS 'Name of the heartbeat.';
COMMENT ON COLUMN monitoring.heartbeat_states.due_at IS 'When the next sign of life is due.';
COMMENT ON COLUMN monitoring.heartbeat_states.lagging IS 'Why none is sent; null: all is well.';
COMMENT ON COLUMN monitoring.heartbeat_states.lagging_since IS 'Since when.';
COMMENT ON COLUMN monitoring.heartbeat_states.failed_at IS 'When fail_url was last told.';
COMMENT ON COLUMN monitoring.heartbeat_states.ping_created_at IS 'The latest sign (outbox.created_at).';
COMMENT ON COLUMN monitoring.heartbeat_states.ping_id IS 'The latest sign (outbox.id).';
COMMENT ON COLUMN monitoring.heartbeat_states.sent_at IS 'When the last one before that arrived.';

----------------------------------------------------------------------------------------------------------------------
-- The kind
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.heartbeat_seconds(config jsonb, key text) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((config ->> key)::float8,
	coalesce((config ->> 'every_seconds')::float8, 60) * CASE key WHEN 'every_seconds' THEN 1 ELSE 3 END);
COMMENT ON FUNCTION monitoring.heartbeat_seconds(jsonb, text) IS 'A time in the config of a heartbeat in seconds: every_seconds (60), or max_evaluation_lag_seconds and max_delivery_lag_seconds, which are three times that.';

CREATE FUNCTION monitoring.check_heartbeat(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	SELECT min(b.key) INTO bad
	FROM (VALUES ('every_seconds', 10), ('max_evaluation_lag_seconds', 10), ('max_delivery_lag_seconds', 10)) AS b (key, low)
	WHERE config ? b.key AND CASE WHEN jsonb_typeof(config -> b.key) = 'number'
		THEN (config -> b.key)::numeric NOT BETWEEN b.low AND 86400 ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is out of range', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It takes 10 to 86400 seconds.';
	ELSIF config ? 'method' AND (config -> 'method') NOT IN ('"GET"', '"POST"') THEN
		RAISE EXCEPTION 'key "method" in the receiver''s config must be "GET" or "POST"' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_heartbeat(jsonb) IS 'Check of a config of the kind heartbeat.';

CREATE FUNCTION monitoring.format_heartbeat(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	lagging text := notification ->> 'lagging';
	how text := coalesce(config ->> 'method', 'POST');
BEGIN
	-- Anything else that gets here, such as a test, would be a sign of life.
	IF notification ->> 'status' = 'heartbeat' THEN
		RETURN QUERY SELECT how, t.url, monitoring.request_headers(receiver, notification, CASE how WHEN 'POST' THEN '{"Content-Type": "text/plain; charset=utf-8"}' ELSE '{}' END::jsonb),
			CASE how WHEN 'POST' THEN coalesce(lagging, 'ok') ELSE '' END
		FROM (SELECT CASE WHEN lagging IS NULL THEN receiver ->> 'url' ELSE config ->> 'fail_url' END) AS t (url)
		WHERE t.url IS NOT NULL;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.format_heartbeat(jsonb, jsonb) IS 'Formatter of the kind heartbeat: a request without content that counts; nothing for any notification but a heartbeat''s.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, config_check, takes_alerts, description, builtin) VALUES
	('heartbeat', 'monitoring.format_heartbeat', '{every_seconds,max_evaluation_lag_seconds,max_delivery_lag_seconds,method}', '{fail_url}',
		'monitoring.check_heartbeat', false, 'sign of life for a service that pages when it stops; see create_heartbeat', true);

----------------------------------------------------------------------------------------------------------------------
-- For people
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_heartbeat(name text, url text, every interval DEFAULT '1 minute', max_evaluation_lag interval DEFAULT NULL,
	max_delivery_lag interval DEFAULT NULL, fail_url text DEFAULT NULL, config jsonb DEFAULT '{}')
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.hide_statement();
	IF every IS NULL THEN
		RAISE EXCEPTION 'a heartbeat needs an interval' USING ERRCODE = 'invalid_parameter_value';
	ELSIF jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- A sign that could not be sent is followed by the next, so there is nothing to pause for.
	RETURN monitoring.create_receiver(name, 'heartbeat', url, '{"breaker_failures": 0}' || config || jsonb_strip_nulls(jsonb_build_object(
		'every_seconds', extract(epoch FROM every), 'max_evaluation_lag_seconds', extract(epoch FROM max_evaluation_lag),
		'max_delivery_lag_seconds', extract(epoch FROM max_delivery_lag), 'fail_url', fail_url)));
END $$;
COMMENT ON FUNCTION monitoring.create_heartbeat(text, text, interval, interval, interval, text, jsonb) IS 'Send a sign of life to a url at this interval, 10 seconds to a day, and return the heartbeat''s name. The service there must page somebody when it stops. It is not sent while the last evaluation of alert rules is longer ago than max_evaluation_lag, or a notification for an enabled receiver has been waiting longer than max_delivery_lag (each three intervals, 10 seconds to a day), nor when the server, the worker or the notifier is down. With fail_url that url is told why, once an interval, as far as that is possible. The request is a POST with the text ok, or with why not; config may say {"method": "GET"}, and takes what create_receiver takes for every kind, also {"url": {"file": path}} in place of the url. A heartbeat is a receiver to which no alerts go: alter_receiver changes it, its name is taken among receivers. Errors: 22023 for a bad name, url, time or config, 42710 if the name is taken.';

CREATE FUNCTION monitoring.check_is_heartbeat(name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.name = check_is_heartbeat.name AND r.kind = 'heartbeat') THEN
		RAISE EXCEPTION 'heartbeat "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.heartbeats lists them.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_is_heartbeat(text) IS 'Raises 42704 unless there is such a heartbeat.';

CREATE FUNCTION monitoring.enable_heartbeat(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_is_heartbeat(name);
	PERFORM monitoring.enable_receiver(name, enabled);
END $$;
COMMENT ON FUNCTION monitoring.enable_heartbeat(text, boolean) IS 'Enable or disable a heartbeat. The service there pages when a disabled one stays away, unless it is told to pause. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.drop_heartbeat(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_is_heartbeat(name);
	PERFORM monitoring.drop_receiver(name);
END $$;
COMMENT ON FUNCTION monitoring.drop_heartbeat(text) IS 'Drop a heartbeat. Error 42704 if it does not exist.';

CREATE VIEW monitoring.heartbeats AS
	SELECT r.name,
		CASE WHEN r.config ? 'url' THEN '***'
			ELSE substring(r.url FROM '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]+(?=[/?#]|$)') || '/…' END AS url,
		make_interval(secs => coalesce((r.config ->> 'every_seconds')::float8, 60)) AS every,
		CASE WHEN pg_is_in_recovery() THEN 'standby'
			WHEN NOT r.enabled THEN 'disabled'
			WHEN s.lagging IS NOT NULL THEN 'lagging'
			WHEN o.state IN ('failed', 'dead', 'superseded') OR o.state = 'sending' AND o.attempts > 1 THEN 'failing'
			WHEN o.state = 'sent' OR s.sent_at IS NOT NULL THEN 'ok'
			ELSE 'new' END AS state,
		s.lagging, s.lagging_since, coalesce(o.sent_at, s.sent_at) AS last_sent, o.http_status AS last_status, o.error AS last_error,
		CASE WHEN r.enabled AND s.lagging IS NULL THEN s.due_at END AS next_at,
		make_interval(secs => coalesce((r.config ->> 'max_evaluation_lag_seconds')::float8, (r.config ->> 'every_seconds')::float8 * 3, 180)) AS max_evaluation_lag,
		make_interval(secs => coalesce((r.config ->> 'max_delivery_lag_seconds')::float8, (r.config ->> 'every_seconds')::float8 * 3, 180)) AS max_delivery_lag,
		r.config ? 'fail_url' AS tells_why, r.enabled
	FROM monitoring.receiver_defs AS r
	LEFT JOIN monitoring.heartbeat_states AS s ON s.receiver = r.name
	LEFT JOIN monitoring.outbox AS o ON o.created_at = s.ping_created_at AND o.id = s.ping_id
	WHERE r.kind = 'heartbeat';
COMMENT ON VIEW monitoring.heartbeats IS 'Signs of life for services outside. They are sent by the primary alone: after a promotion the new one goes on.';
COMMENT ON COLUMN monitoring.heartbeats.name IS 'Name of the heartbeat.';
COMMENT ON COLUMN monitoring.heartbeats.url IS 'Scheme and host; *** if all of it is a secret.';
COMMENT ON COLUMN monitoring.heartbeats.every IS 'Time between two signs.';
COMMENT ON COLUMN monitoring.heartbeats.state IS 'ok; new (none has been sent yet); lagging (none is sent: lagging says why); failing (the last one has not arrived: last_error says why); disabled; standby (the primary sends it).';
COMMENT ON COLUMN monitoring.heartbeats.lagging IS 'Why no sign is sent; null: all is well.';
COMMENT ON COLUMN monitoring.heartbeats.lagging_since IS 'Since when.';
COMMENT ON COLUMN monitoring.heartbeats.last_sent IS 'When the last sign, or word of a failure, arrived.';
COMMENT ON COLUMN monitoring.heartbeats.last_status IS 'HTTP status of the last response; null if none came.';
COMMENT ON COLUMN monitoring.heartbeats.last_error IS 'Why the latest sign has not arrived yet; holds no secrets.';
COMMENT ON COLUMN monitoring.heartbeats.next_at IS 'When the next sign is due.';
COMMENT ON COLUMN monitoring.heartbeats.max_evaluation_lag IS 'No sign is sent when the last evaluation of alert rules is longer ago.';
COMMENT ON COLUMN monitoring.heartbeats.max_delivery_lag IS 'No sign is sent when a notification has been waiting longer.';
COMMENT ON COLUMN monitoring.heartbeats.tells_why IS 'Whether there is a fail_url.';
COMMENT ON COLUMN monitoring.heartbeats.enabled IS 'False: none is sent.';

----------------------------------------------------------------------------------------------------------------------
-- The job
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.last_evaluation(at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- The table has it to the minute, the worker's memory exactly, of real time.
	SELECT greatest((SELECT e.evaluated_at FROM monitoring.evaluation_state AS e),
		(SELECT max(w.last_run) FROM monitoring.worker_status() AS w
		WHERE w.datid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
			AND w.job = 'evaluate_alerts' AND w.job_state = 'ok' AND w.last_run <= last_evaluation.at))
$$;
COMMENT ON FUNCTION monitoring.last_evaluation(timestamptz) IS 'When alert rules were last evaluated, as known at that time; null: never.';

CREATE FUNCTION monitoring.heartbeat_lag(config jsonb, at timestamptz) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	evaluated timestamptz := monitoring.last_evaluation(at);
	waiting record;
BEGIN
	-- what is to come was noted before the clock stepped back
	IF coalesce(at - evaluated > make_interval(secs => monitoring.heartbeat_seconds(heartbeat_lag.config, 'max_evaluation_lag_seconds')), true) THEN
		RETURN CASE WHEN evaluated IS NULL THEN 'alert rules have never been evaluated'
			ELSE format('alert rules were last evaluated at %s', monitoring.format_time(evaluated)) END;
	END IF;
	SELECT o.receiver, o.created_at INTO waiting
	FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.takes_alerts
	CROSS JOIN LATERAL (
		SELECT o.receiver, o.created_at FROM monitoring.outbox AS o
		WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed') AND o.status <> 'test'
			AND o.created_at > heartbeat_lag.at - interval '2 days'
		ORDER BY o.id LIMIT 1) AS o
	WHERE r.enabled AND heartbeat_lag.at - o.created_at > make_interval(secs => monitoring.heartbeat_seconds(heartbeat_lag.config, 'max_delivery_lag_seconds'))
	ORDER BY o.created_at, o.receiver LIMIT 1;
	IF FOUND THEN
		RETURN format('a notification for receiver "%s" has been waiting since %s', waiting.receiver, monitoring.format_time(waiting.created_at));
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION monitoring.heartbeat_lag(jsonb, timestamptz) IS 'Why a heartbeat with this config is not to be sent at that time; null: all is well.';

CREATE FUNCTION monitoring.enqueue_heartbeat(heartbeat text, lagging text, at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s monitoring.heartbeat_states;
	latest monitoring.outbox;
	key text := format('heartbeat:%s', heartbeat);
	now_at timestamptz := clock_timestamp();
	new_id bigint;
BEGIN
	SELECT * INTO s FROM monitoring.heartbeat_states AS h WHERE h.receiver = heartbeat;
	SELECT * INTO latest FROM monitoring.outbox AS o WHERE o.created_at = s.ping_created_at AND o.id = s.ping_id;
	-- A late sign would say that all is well now. Of those that arrived only the last is worth keeping.
	UPDATE monitoring.outbox AS o SET state = 'superseded', lease_until = NULL, error = coalesce(o.error || '; ', '') || 'superseded by the next one'
	WHERE o.receiver = heartbeat AND o.state IN ('queued', 'sending', 'failed') AND o.created_at > now_at - interval '2 days';
	IF latest.state = 'sent' THEN
		DELETE FROM monitoring.outbox AS o WHERE o.created_at = latest.created_at AND o.id = latest.id;
		DELETE FROM monitoring.delivery_attempts AS a WHERE a.notification_id = latest.id AND a.at >= latest.created_at;
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox AS o (created_at, at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	SELECT now_at, enqueue_heartbeat.at, r.name, key, r.name, 'heartbeat',
		monitoring.make_payload(r.name, key, 'heartbeat', '{}', '[]', jsonb_strip_nulls(jsonb_build_object('reason', 'heartbeat', 'lagging', lagging))),
		now_at, now_at + make_interval(secs => monitoring.heartbeat_seconds(r.config, 'every_seconds'))
	FROM monitoring.receiver_defs AS r WHERE r.name = heartbeat
	RETURNING o.id INTO new_id;
	UPDATE monitoring.heartbeat_states AS h
	SET ping_created_at = now_at, ping_id = new_id, sent_at = coalesce(latest.sent_at, h.sent_at)
	WHERE h.receiver = heartbeat;
END $$;
COMMENT ON FUNCTION monitoring.enqueue_heartbeat(text, text, timestamptz) IS 'Enqueue a sign of life, or why there is none, in place of any that has not been sent.';

CREATE FUNCTION monitoring.send_heartbeats(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	due record;
	lag text;
	every interval;
BEGIN
	FOR due IN
		SELECT r.name, r.config, s.receiver IS NULL AS is_new, s.due_at, s.lagging, s.lagging_since, s.failed_at
		FROM monitoring.receiver_defs AS r
		LEFT JOIN monitoring.heartbeat_states AS s ON s.receiver = r.name
		WHERE r.kind = 'heartbeat' AND r.enabled
			-- one that is due later than it can be was made before the clock stepped back, or has a shorter interval now
			AND coalesce(s.due_at <= send_heartbeats.at
				OR s.due_at > send_heartbeats.at + make_interval(secs => monitoring.heartbeat_seconds(r.config, 'every_seconds')), true)
		ORDER BY r.name
	LOOP
		every := make_interval(secs => monitoring.heartbeat_seconds(due.config, 'every_seconds'));
		lag := monitoring.heartbeat_lag(due.config, at);
		IF due.is_new THEN
			INSERT INTO monitoring.heartbeat_states (receiver, due_at) VALUES (due.name, at);
		END IF;
		IF lag IS NULL THEN
			PERFORM monitoring.enqueue_heartbeat(due.name, NULL, at);
			UPDATE monitoring.heartbeat_states AS s
			SET lagging = NULL, lagging_since = NULL, failed_at = NULL,
				due_at = CASE WHEN s.due_at BETWEEN send_heartbeats.at - every / 2 AND send_heartbeats.at THEN s.due_at ELSE send_heartbeats.at END + every
			WHERE s.receiver = due.name;
		-- Right after a start an evaluation may be about to come: it fails when it still lags at the next look.
		ELSIF due.lagging IS NOT NULL AND due.config ? 'fail_url' AND coalesce(due.failed_at NOT BETWEEN at - every AND at, true) THEN
			PERFORM monitoring.enqueue_heartbeat(due.name, lag, at);
			UPDATE monitoring.heartbeat_states AS s SET lagging = lag, failed_at = send_heartbeats.at WHERE s.receiver = due.name;
		ELSIF due.lagging IS DISTINCT FROM lag THEN
			UPDATE monitoring.heartbeat_states AS s SET lagging = lag, lagging_since = coalesce(s.lagging_since, send_heartbeats.at)
			WHERE s.receiver = due.name;
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.send_heartbeats(timestamptz) IS 'Enqueue the signs of life that are due at that time, or take note why not. A periodic job.';

-- after evaluations, before dispatch
INSERT INTO monitoring.jobs (name, function, every, priority) VALUES ('heartbeat', 'monitoring.send_heartbeats', '5 seconds', 55);

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
 '{*,alert_history,alert_events,delivery_attempts,setting_changes}',
 '{value,percentile,percentiles,query,series_values,read_values,last_observed,anomalies,trend,forecast,crosses_at,rolling,top,compare,sketch_over,sketches,
   live_series,self_values,check_fn,partitions,
   sketch,merge,sketch_count,sketch_sum,sketch_avg,sketch_min,sketch_max,sketch_stddev,share_below,max_relative_error,
   to_otlp,from_otlp,to_prometheus,from_prometheus,from_buckets,from_cumulative_buckets,from_buckets_relative_error,
   slow_queries_over,slow_query_values,worker_status,fill_annotations,fill_text,fill_texts,alert_labels,short_number,
   time_range_end,time_range,time_matches,check_time_zone,check_time_interval,check_time_spec,silenced_alerts,
   alert_suppressions,suppressed_now,alert_timeline,correlated_alerts,alert_episodes,alert_statistics,flapping_alerts,
   who_is_on_call,on_call_shifts,on_call_gaps,slo_status,slo_history,sla_report,component_uptime,status_page,evidence_of,incident_timeline,incident_report,
   incident_report_markdown,incident_metrics,deployment_metrics,export_rules,list_packs,translate_promql,
   test_route,route_settings,matchers_text,explain_alert,
   labels_match,segment_entries,chunk_points}', '{}',
 'reads metrics, statements, alerts and the state of the extension'),
('writer', '{}', '{ingest}', '{record,increment,set_gauge,record_at,record_values,record_batch,record_json,mark_deployment,
   raise_alert,resolve_alert,send}', '{ingest}',
 'records metrics, raises alerts, sends messages'),
('responder', '{viewer}', '{}',
 '{enable_alert_rule,test_receiver,preview_notification,simulate_alert,resend,cancel,
   acknowledge_alert,acknowledge_alerts,unacknowledge_alert,assign_alert,assign_alerts,note_alert,snooze_alert,snooze_alerts,
   unsnooze_alert,dismiss_alert,dismiss_alerts,undismiss_alert,close_alert,close_alerts,mark_false_positive,
   create_silence,extend_silence,expire_silence,override_schedule,drop_override,
   open_incident,update_incident,resolve_incident,acknowledge_incident,set_incident_role,note_incident,link_incident,attach_alert,
   write_post_mortem,mark_deployment,set_component_status}', '{}', 'works on alerts'),
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

INSERT INTO monitoring.rule_packs (pack, document, builtin) VALUES ('application', $pack${
  "format": "monitoring alert rules",
  "version": 1,
  "pack": "application",
  "description": "Requests, errors, jobs and connections of applications.",
  "rules": [
    {
      "name": "HttpErrorRateHigh",
      "kind": "ratio",
      "metric": "http_server_request_duration_seconds",
      "fn": "count",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.01,
      "resolve_threshold": 0.008,
      "labels": {
        "status_class": "5xx"
      },
      "by": [
        "service"
      ],
      "params": {
        "metric": "http_server_request_duration_seconds",
        "fn": "count",
        "min_denominator": 20
      },
      "severity": "high",
      "annotations": {
        "summary": "{{service}} fails to answer more than 1 % of its requests: {{value}} of all.",
        "impact": "Some users see errors.",
        "runbook": "Look at monitoring.top() of this metric with status_class 5xx by route, and at what was released last. Roll back if the release did it."
      }
    },
    {
      "name": "HttpErrorRateCritical",
      "kind": "ratio",
      "metric": "http_server_request_duration_seconds",
      "fn": "count",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.02,
      "resolve_threshold": 0.015,
      "labels": {
        "status_class": "5xx"
      },
      "by": [
        "service"
      ],
      "params": {
        "metric": "http_server_request_duration_seconds",
        "fn": "count",
        "min_denominator": 20
      },
      "severity": "critical",
      "annotations": {
        "summary": "{{service}} fails to answer more than 2 % of its requests: {{value}} of all.",
        "impact": "Many users see errors; orders and payments may be lost.",
        "runbook": "Roll back the last release if the errors began with it; otherwise look at the slowest dependency and at the database's errors."
      }
    },
    {
      "name": "HttpRouteErrorRateHigh",
      "kind": "ratio",
      "metric": "http_server_request_duration_seconds",
      "fn": "count",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.05,
      "resolve_threshold": 0.03,
      "labels": {
        "status_class": "5xx"
      },
      "by": [
        "service",
        "method",
        "route"
      ],
      "params": {
        "metric": "http_server_request_duration_seconds",
        "fn": "count",
        "min_denominator": 20
      },
      "severity": "high",
      "annotations": {
        "summary": "{{method}} {{route}} of {{service}} fails for more than 5 % of its requests: {{value}} of all.",
        "impact": "One function of the application is broken for some users.",
        "runbook": "Read the errors of this route and compare with the time of the last release."
      }
    },
    {
      "name": "ErrorsBurst",
      "metric": "errors_total",
      "fn": "increase",
      "over": "5 minutes",
      "op": ">",
      "threshold": 10,
      "by": [
        "service"
      ],
      "severity": "high",
      "annotations": {
        "summary": "{{service}} caught {{value}} errors within 5 minutes.",
        "impact": "Something is broken that worked before, or a new release brought it.",
        "runbook": "List the errors by type with monitoring.top(); the type that grew names the cause."
      }
    },
    {
      "name": "HttpLatencyHigh",
      "metric": "http_server_request_duration_seconds",
      "fn": "p95",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.5,
      "resolve_threshold": 0.45,
      "pending_for": "5 minutes",
      "by": [
        "service"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "5 % of the requests to {{service}} take longer than {{value}} s.",
        "impact": "Users notice that pages and forms are slow.",
        "runbook": "Find the slowest routes with monitoring.top(); compare with slow statements and with the load."
      }
    },
    {
      "name": "HttpLatencyVeryHigh",
      "metric": "http_server_request_duration_seconds",
      "fn": "p95",
      "over": "5 minutes",
      "op": ">",
      "threshold": 2,
      "resolve_threshold": 1.8,
      "pending_for": "2 minutes",
      "by": [
        "service"
      ],
      "severity": "high",
      "annotations": {
        "summary": "5 % of the requests to {{service}} take longer than {{value}} s.",
        "impact": "Users give up; calls of other services run into their timeouts.",
        "runbook": "Look for lock waits and slow statements first, then for a dependency that hangs."
      }
    },
    {
      "name": "HttpLatencyTail",
      "metric": "http_server_request_duration_seconds",
      "fn": "p99",
      "over": "5 minutes",
      "op": ">",
      "threshold": 5,
      "resolve_threshold": 4,
      "pending_for": "5 minutes",
      "by": [
        "service"
      ],
      "severity": "high",
      "annotations": {
        "summary": "1 % of the requests to {{service}} take longer than {{value}} s.",
        "impact": "A small part of the users waits for very long.",
        "runbook": "Look for one route, tenant or statement that is out of line."
      }
    },
    {
      "name": "HttpRouteSlow",
      "metric": "http_server_request_duration_seconds",
      "fn": "p95",
      "over": "5 minutes",
      "op": ">",
      "threshold": 1,
      "resolve_threshold": 0.9,
      "pending_for": "5 minutes",
      "by": [
        "service",
        "method",
        "route"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "5 % of the requests to {{method}} {{route}} of {{service}} take longer than {{value}} s.",
        "impact": "One function of the application is slow.",
        "runbook": "Look at the statements that this route runs."
      }
    },
    {
      "name": "HttpRequestsAbsent",
      "kind": "absence",
      "metric": "http_server_request_duration_seconds",
      "over": "1 hour",
      "op": ">",
      "threshold": 600,
      "by": [
        "service"
      ],
      "severity": "high",
      "annotations": {
        "summary": "{{service}} has not answered a request for {{value}} s.",
        "impact": "The service, or what leads to it, may be down.",
        "runbook": "Is the service running, and does it still record? Look at its load balancer."
      }
    },
    {
      "name": "WebsocketConnectionsLost",
      "kind": "change",
      "metric": "websocket_connections",
      "fn": "last",
      "over": "2 minutes",
      "op": "<",
      "threshold": 0.2,
      "by": [
        "endpoint"
      ],
      "params": {
        "shift": "2 minutes",
        "mode": "ratio"
      },
      "severity": "critical",
      "annotations": {
        "summary": "More than 80 % of the connections to {{endpoint}} were lost within two minutes.",
        "impact": "Users no longer get live updates.",
        "runbook": "Look at the gateway and at the last release; connections come back by themselves when the endpoint does."
      }
    },
    {
      "name": "JobFailuresHigh",
      "kind": "ratio",
      "metric": "job_duration_seconds",
      "fn": "count",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.1,
      "labels": {
        "outcome": "failed"
      },
      "by": [
        "queue"
      ],
      "params": {
        "metric": "job_duration_seconds",
        "fn": "count",
        "min_denominator": 5
      },
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} of the jobs of queue {{queue}} failed within the hour.",
        "impact": "Work is left undone.",
        "runbook": "Read the errors of the queue's jobs."
      }
    },
    {
      "name": "JobSuccessAbsent",
      "kind": "absence",
      "metric": "job_duration_seconds",
      "over": "2 days",
      "op": ">",
      "threshold": 86400,
      "labels": {
        "outcome": "ok"
      },
      "by": [
        "queue"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "No job of queue {{queue}} has succeeded for {{value}} s.",
        "impact": "What the job does is a day late.",
        "runbook": "Is its scheduler running?"
      }
    },
    {
      "name": "QueueDelayed",
      "metric": "queue_oldest_seconds",
      "fn": "last",
      "over": "5 minutes",
      "op": ">",
      "threshold": 300,
      "pending_for": "2 minutes",
      "by": [
        "queue"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "The oldest job of queue {{queue}} has waited for {{value}} s.",
        "impact": "Users wait for what the queue does.",
        "runbook": "Are its workers running, and is one job holding up the others?"
      }
    },
    {
      "name": "HealthScoreLow",
      "metric": "health_score",
      "fn": "last",
      "over": "10 minutes",
      "op": "<",
      "threshold": 70,
      "resolve_threshold": 75,
      "pending_for": "2 minutes",
      "severity": "high",
      "annotations": {
        "summary": "The health score is {{value}}.",
        "impact": "Several things are not as they should be.",
        "runbook": "The checks that take points off say what."
      }
    }
  ]
}
$pack$, true);

INSERT INTO monitoring.rule_packs (pack, document, builtin) VALUES ('business', $pack${
  "format": "monitoring alert rules",
  "version": 1,
  "pack": "business",
  "description": "Payments, orders, bookings, stock and customers.",
  "rules": [
    {
      "name": "PaymentSuccessLow",
      "kind": "ratio",
      "metric": "payments_total",
      "fn": "sum",
      "over": "15 minutes",
      "op": "<",
      "threshold": 0.99,
      "resolve_threshold": 0.992,
      "labels": {
        "outcome": "ok"
      },
      "params": {
        "metric": "payments_total",
        "fn": "sum",
        "min_denominator": 20
      },
      "severity": "critical",
      "annotations": {
        "summary": "Only {{value}} of the payments succeed.",
        "impact": "Sales are lost.",
        "runbook": "Group by provider and reason: one provider points to the provider, all of them to us."
      }
    },
    {
      "name": "PaymentFailuresHigh",
      "kind": "ratio",
      "metric": "payments_total",
      "fn": "sum",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.1,
      "resolve_threshold": 0.08,
      "labels": {
        "outcome": "failed"
      },
      "by": [
        "provider"
      ],
      "params": {
        "metric": "payments_total",
        "fn": "sum",
        "min_denominator": 20
      },
      "severity": "high",
      "annotations": {
        "summary": "{{value}} of the payments through {{provider}} fail.",
        "impact": "Sales through this provider are lost.",
        "runbook": "Look at the provider's status page and at the reasons; offer another payment method."
      }
    },
    {
      "name": "PaymentFailuresCritical",
      "kind": "ratio",
      "metric": "payments_total",
      "fn": "sum",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.15,
      "resolve_threshold": 0.12,
      "labels": {
        "outcome": "failed"
      },
      "by": [
        "provider"
      ],
      "params": {
        "metric": "payments_total",
        "fn": "sum",
        "min_denominator": 20
      },
      "severity": "critical",
      "annotations": {
        "summary": "{{value}} of the payments through {{provider}} fail.",
        "impact": "Sales through this provider are lost.",
        "runbook": "Look at the provider's status page and at the reasons; switch the provider off."
      }
    },
    {
      "name": "PaymentWebhookFailures",
      "kind": "ratio",
      "metric": "payment_webhooks_total",
      "fn": "sum",
      "over": "15 minutes",
      "op": ">",
      "threshold": 0.05,
      "labels": {
        "outcome": "failed"
      },
      "by": [
        "provider"
      ],
      "params": {
        "metric": "payment_webhooks_total",
        "fn": "sum",
        "min_denominator": 5
      },
      "severity": "high",
      "annotations": {
        "summary": "{{value}} of the messages from {{provider}} could not be handled.",
        "impact": "Orders stay unpaid though they were paid.",
        "runbook": "Read the errors of the webhook's route; ask the provider to send again."
      }
    },
    {
      "name": "OrdersStopped",
      "metric": "orders_total",
      "fn": "increase",
      "over": "10 minutes",
      "op": "<=",
      "threshold": 0,
      "severity": "critical",
      "annotations": {
        "summary": "No order for 10 minutes.",
        "impact": "Customers cannot order.",
        "runbook": "Place an order by hand. Where quiet times are normal, give the rule active_times."
      }
    },
    {
      "name": "OrdersUnusuallyLow",
      "kind": "anomaly",
      "metric": "orders_total",
      "fn": "increase",
      "over": "1 hour",
      "op": "<",
      "threshold": -4,
      "severity": "high",
      "annotations": {
        "summary": "Orders are far below what this hour of the week is used to ({{value}} deviations).",
        "impact": "Sales are being lost somewhere.",
        "runbook": "Compare the steps of the funnel with last week."
      }
    },
    {
      "name": "BookingConversionLow",
      "kind": "ratio",
      "metric": "bookings_total",
      "fn": "sum",
      "over": "1 hour",
      "op": "<",
      "threshold": 0.5,
      "resolve_threshold": 0.55,
      "labels": {
        "outcome": "ok"
      },
      "params": {
        "metric": "booking_steps_total",
        "fn": "sum",
        "labels": {
          "step": "start"
        },
        "min_denominator": 20
      },
      "severity": "high",
      "annotations": {
        "summary": "Only {{value}} of those who begin to book finish.",
        "impact": "Bookings are lost.",
        "runbook": "Find the step of the funnel where they leave."
      }
    },
    {
      "name": "InventoryLow",
      "metric": "inventory_items",
      "fn": "last",
      "over": "1 day",
      "op": "<",
      "threshold": 10,
      "max_age": "1 day",
      "by": [
        "category"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Only {{value}} items of {{category}} are left.",
        "impact": "They will be sold out.",
        "runbook": "Order more."
      }
    },
    {
      "name": "ChurnHigh",
      "kind": "ratio",
      "metric": "subscriptions_ended_total",
      "fn": "sum",
      "over": "30 days",
      "op": ">",
      "threshold": 0.03,
      "every": "1 hour",
      "params": {
        "metric": "subscriptions_active",
        "fn": "avg",
        "min_denominator": 50
      },
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} of the customers left within 30 days.",
        "impact": "Recurring revenue shrinks.",
        "runbook": "Group by plan and reason."
      }
    },
    {
      "name": "NpsLow",
      "kind": "sql",
      "over": "30 days",
      "op": "<",
      "threshold": 70,
      "every": "1 hour",
      "params": {
        "query": "SELECT 100 * (1 - monitoring.value('nps_score', 'share_below(8.5)', $2, '{}', $1) - monitoring.value('nps_score', 'share_below(6.5)', $2, '{}', $1)) AS nps WHERE monitoring.value('nps_score', 'count', $2, '{}', $1) >= 30"
      },
      "severity": "low",
      "annotations": {
        "summary": "The net promoter score is {{value}}.",
        "impact": "Customers do not recommend us.",
        "runbook": "Read what those who gave 6 or less wrote."
      }
    },
    {
      "name": "RatingLow",
      "metric": "rating_score",
      "fn": "avg",
      "over": "7 days",
      "op": "<",
      "threshold": 4.5,
      "max_age": "1 day",
      "every": "1 hour",
      "by": [
        "subject"
      ],
      "severity": "low",
      "annotations": {
        "summary": "The average rating of {{subject}} is {{value}}.",
        "impact": "Customers are not satisfied.",
        "runbook": "Read the latest ratings."
      }
    }
  ]
}
$pack$, true);

INSERT INTO monitoring.rule_packs (pack, document, builtin) VALUES ('database', $pack${
  "format": "monitoring alert rules",
  "version": 1,
  "pack": "database",
  "description": "The PostgreSQL server: connections, locks, replication, vacuum, slow statements.",
  "rules": [
    {
      "name": "DatabaseDown",
      "metric": "pg_up",
      "fn": "last",
      "over": "2 minutes",
      "op": "<",
      "threshold": 1,
      "max_age": "2 minutes",
      "no_data": "alerting",
      "severity": "critical",
      "annotations": {
        "summary": "The database server does not answer.",
        "impact": "Everything that uses it is down.",
        "runbook": "Look at the server's log and at its disk. If it has crashed, let it recover before anything else."
      }
    },
    {
      "name": "ConnectionsHigh",
      "metric": "pg_connections_used_ratio",
      "fn": "last",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.8,
      "resolve_threshold": 0.75,
      "pending_for": "1 minute",
      "severity": "high",
      "annotations": {
        "summary": "{{value}} of all connections are in use.",
        "impact": "New connections will be refused soon.",
        "runbook": "See pg_stat_activity by application and state; idle ones point to a pool that is too large."
      }
    },
    {
      "name": "ConnectionsCritical",
      "metric": "pg_connections_used_ratio",
      "fn": "last",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.95,
      "resolve_threshold": 0.9,
      "severity": "critical",
      "annotations": {
        "summary": "{{value}} of all connections are in use.",
        "impact": "Connections are being refused.",
        "runbook": "End idle sessions; then find who opened them."
      }
    },
    {
      "name": "ConnectionsWillRunOut",
      "kind": "forecast",
      "metric": "pg_connections_used_ratio",
      "fn": "avg",
      "over": "6 hours",
      "op": ">",
      "threshold": 1,
      "params": {
        "horizon": "4 hours"
      },
      "severity": "medium",
      "annotations": {
        "summary": "At its present growth the server runs out of connections within 4 hours.",
        "impact": "Connections will be refused.",
        "runbook": "See which application's share grows."
      }
    },
    {
      "name": "CacheHitLow",
      "metric": "pg_cache_hit_ratio",
      "fn": "avg",
      "over": "15 minutes",
      "op": "<",
      "threshold": 0.7,
      "resolve_threshold": 0.75,
      "pending_for": "15 minutes",
      "by": [
        "database"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Only {{value}} of the blocks that {{database}} reads are in shared buffers.",
        "impact": "Statements wait for the disk.",
        "runbook": "Look for a statement that began to read whole tables, then at shared_buffers."
      }
    },
    {
      "name": "ReplicationLagHigh",
      "metric": "pg_replication_lag_seconds",
      "fn": "max",
      "over": "5 minutes",
      "op": ">",
      "threshold": 10,
      "pending_for": "2 minutes",
      "by": [
        "standby"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Standby {{standby}} is {{value}} s behind.",
        "impact": "Reads from the standby are old; a fail-over would lose more.",
        "runbook": "Look at the network, the standby's disk and long queries on the standby."
      }
    },
    {
      "name": "ReplicationLagCritical",
      "metric": "pg_replication_lag_seconds",
      "fn": "max",
      "over": "5 minutes",
      "op": ">",
      "threshold": 60,
      "pending_for": "2 minutes",
      "by": [
        "standby"
      ],
      "severity": "critical",
      "annotations": {
        "summary": "Standby {{standby}} is {{value}} s behind.",
        "impact": "A fail-over would lose more than a minute.",
        "runbook": "Look at the network, the standby's disk and long queries on the standby."
      }
    },
    {
      "name": "SlotRetainsWal",
      "metric": "pg_replication_slot_retained_bytes",
      "fn": "last",
      "over": "5 minutes",
      "op": ">",
      "threshold": 1000000000.0,
      "by": [
        "slot"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Slot {{slot}} keeps {{value}} bytes of log.",
        "impact": "The disk fills up.",
        "runbook": "Is its consumer running? Drop the slot if it has none."
      }
    },
    {
      "name": "SlotRetainsWalCritical",
      "metric": "pg_replication_slot_retained_bytes",
      "fn": "last",
      "over": "5 minutes",
      "op": ">",
      "threshold": 10000000000.0,
      "by": [
        "slot"
      ],
      "severity": "critical",
      "annotations": {
        "summary": "Slot {{slot}} keeps {{value}} bytes of log.",
        "impact": "The disk fills up and the server stops.",
        "runbook": "Drop the slot, or set max_slot_wal_keep_size."
      }
    },
    {
      "name": "XidAgeHigh",
      "metric": "pg_xid_age",
      "fn": "last",
      "over": "15 minutes",
      "op": ">",
      "threshold": 500000000.0,
      "by": [
        "database"
      ],
      "severity": "high",
      "annotations": {
        "summary": "The oldest transaction id of {{database}} is {{value}} transactions old.",
        "impact": "At two thousand million the server stops taking writes.",
        "runbook": "Find what holds back vacuum: old transactions, slots, prepared transactions; then vacuum the oldest tables."
      }
    },
    {
      "name": "XidAgeCritical",
      "metric": "pg_xid_age",
      "fn": "last",
      "over": "15 minutes",
      "op": ">",
      "threshold": 1000000000.0,
      "by": [
        "database"
      ],
      "severity": "critical",
      "annotations": {
        "summary": "The oldest transaction id of {{database}} is {{value}} transactions old.",
        "impact": "The server will stop taking writes.",
        "runbook": "End what holds back vacuum and VACUUM FREEZE the oldest tables now."
      }
    },
    {
      "name": "LongTransaction",
      "metric": "pg_longest_transaction_seconds",
      "fn": "last",
      "over": "2 minutes",
      "op": ">",
      "threshold": 300,
      "resolve_threshold": 240,
      "by": [
        "database"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "A transaction in {{database}} has been open for {{value}} s.",
        "impact": "Vacuum cannot clean up; locks are held.",
        "runbook": "Find it in pg_stat_activity by xact_start."
      }
    },
    {
      "name": "VeryLongTransaction",
      "metric": "pg_longest_transaction_seconds",
      "fn": "last",
      "over": "2 minutes",
      "op": ">",
      "threshold": 1800,
      "by": [
        "database"
      ],
      "severity": "high",
      "annotations": {
        "summary": "A transaction in {{database}} has been open for {{value}} s.",
        "impact": "Tables bloat; locks are held.",
        "runbook": "End it unless it is a backup."
      }
    },
    {
      "name": "IdleInTransaction",
      "metric": "pg_longest_idle_transaction_seconds",
      "fn": "last",
      "over": "2 minutes",
      "op": ">",
      "threshold": 600,
      "by": [
        "database"
      ],
      "severity": "high",
      "annotations": {
        "summary": "A session in {{database}} has been idle in its transaction for {{value}} s.",
        "impact": "It holds locks and keeps vacuum from cleaning up.",
        "runbook": "End it, and set idle_in_transaction_session_timeout."
      }
    },
    {
      "name": "LockWaitLong",
      "metric": "pg_lock_longest_wait_seconds",
      "fn": "last",
      "over": "1 minute",
      "op": ">",
      "threshold": 60,
      "by": [
        "database"
      ],
      "severity": "high",
      "annotations": {
        "summary": "A session in {{database}} has waited for a lock for {{value}} s.",
        "impact": "Users wait.",
        "runbook": "Look at pg_blocking_pids() of the waiting session."
      }
    },
    {
      "name": "LockWaitsMany",
      "metric": "pg_locks_waiting",
      "fn": "last",
      "over": "1 minute",
      "op": ">",
      "threshold": 5,
      "pending_for": "1 minute",
      "by": [
        "database"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} sessions in {{database}} wait for locks.",
        "impact": "Users wait.",
        "runbook": "Find the session at the head of the queue; DDL is the usual one."
      }
    },
    {
      "name": "Deadlocks",
      "metric": "pg_deadlocks_total",
      "fn": "sum",
      "over": "10 minutes",
      "op": ">",
      "threshold": 0,
      "by": [
        "database"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} deadlocks in {{database}} within 10 minutes.",
        "impact": "Transactions were aborted.",
        "runbook": "The log shows the statements; let them take their locks in one order."
      }
    },
    {
      "name": "TempFilesLarge",
      "metric": "pg_temp_bytes_total",
      "fn": "sum",
      "over": "1 hour",
      "op": ">",
      "threshold": 1000000000.0,
      "by": [
        "database"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "{{database}} wrote {{value}} bytes of temporary files within an hour.",
        "impact": "Sorts and hashes wait for the disk.",
        "runbook": "Look for the statement in pg_stat_statements; raise work_mem for it."
      }
    },
    {
      "name": "RollbackRatioHigh",
      "kind": "ratio",
      "metric": "pg_transactions_total",
      "fn": "sum",
      "over": "15 minutes",
      "op": ">",
      "threshold": 0.1,
      "labels": {
        "outcome": "rolled_back"
      },
      "by": [
        "database"
      ],
      "params": {
        "metric": "pg_transactions_total",
        "fn": "sum",
        "min_denominator": 100
      },
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} of the transactions in {{database}} are rolled back.",
        "impact": "Work is lost or done twice.",
        "runbook": "Look at the errors in the log."
      }
    },
    {
      "name": "CheckpointsRequested",
      "kind": "ratio",
      "metric": "pg_checkpoints_total",
      "fn": "sum",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.3,
      "labels": {
        "cause": "requested"
      },
      "params": {
        "metric": "pg_checkpoints_total",
        "fn": "sum",
        "min_denominator": 4
      },
      "severity": "low",
      "annotations": {
        "summary": "{{value}} of the checkpoints were requested rather than timed.",
        "impact": "Writes are slower than they could be.",
        "runbook": "Raise max_wal_size."
      }
    },
    {
      "name": "ArchivingFails",
      "metric": "pg_archive_failed_total",
      "fn": "sum",
      "over": "10 minutes",
      "op": ">",
      "threshold": 0,
      "severity": "high",
      "annotations": {
        "summary": "{{value}} attempts to archive log failed within 10 minutes.",
        "impact": "Backups have a hole; the disk fills up.",
        "runbook": "Run the archive_command by hand as the server's user."
      }
    },
    {
      "name": "SequenceNearEnd",
      "metric": "pg_sequence_used_ratio",
      "fn": "last",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.85,
      "max_age": "1 day",
      "by": [
        "database",
        "sequence"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Sequence {{sequence}} in {{database}} is used up to {{value}}.",
        "impact": "Inserts will fail when it ends.",
        "runbook": "Change the column and the sequence to bigint."
      }
    },
    {
      "name": "SequenceNearEndCritical",
      "metric": "pg_sequence_used_ratio",
      "fn": "last",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.95,
      "max_age": "1 day",
      "by": [
        "database",
        "sequence"
      ],
      "severity": "critical",
      "annotations": {
        "summary": "Sequence {{sequence}} in {{database}} is used up to {{value}}.",
        "impact": "Inserts will fail soon.",
        "runbook": "Change the column and the sequence to bigint."
      }
    },
    {
      "name": "DeadTuplesMany",
      "metric": "pg_table_dead_tuples_ratio",
      "fn": "last",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.2,
      "pending_for": "1 hour",
      "max_age": "1 day",
      "by": [
        "database",
        "table"
      ],
      "severity": "low",
      "annotations": {
        "summary": "{{value}} of the rows of {{table}} in {{database}} are dead.",
        "impact": "Scans read what nobody needs.",
        "runbook": "Is autovacuum kept from it, or too slow for it?"
      }
    },
    {
      "name": "SlowQueries",
      "kind": "slow_query",
      "over": "10 minutes",
      "op": ">=",
      "threshold": 2,
      "repeat_every": "30 minutes",
      "severity": "medium",
      "annotations": {
        "summary": "A statement in database {{database}} took {{value}} s on average.",
        "impact": "Users wait, and what it holds others wait for.",
        "runbook": "The statement is: {{query}} Look at its plan, and at what it waited for."
      }
    }
  ]
}
$pack$, true);

INSERT INTO monitoring.rule_packs (pack, document, builtin) VALUES ('host', $pack${
  "format": "monitoring alert rules",
  "version": 1,
  "pack": "host",
  "description": "The machine: CPU, memory, disk.",
  "rules": [
    {
      "name": "CpuHigh",
      "metric": "host_cpu_used_ratio",
      "fn": "avg",
      "over": "15 minutes",
      "op": ">",
      "threshold": 0.8,
      "resolve_threshold": 0.75,
      "by": [
        "host"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "CPUs of {{host}} are busy: {{value}}.",
        "impact": "Everything on it gets slower.",
        "runbook": "Which processes use them, and since when?"
      }
    },
    {
      "name": "CpuCritical",
      "metric": "host_cpu_used_ratio",
      "fn": "avg",
      "over": "15 minutes",
      "op": ">",
      "threshold": 0.9,
      "resolve_threshold": 0.85,
      "by": [
        "host"
      ],
      "severity": "high",
      "annotations": {
        "summary": "CPUs of {{host}} are busy: {{value}}.",
        "impact": "Requests time out.",
        "runbook": "Which processes use them, and since when? Shed load."
      }
    },
    {
      "name": "MemoryHigh",
      "metric": "host_memory_used_ratio",
      "fn": "avg",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.8,
      "resolve_threshold": 0.75,
      "by": [
        "host"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Memory of {{host}} in use: {{value}}.",
        "impact": "The file cache shrinks.",
        "runbook": "Look at the largest processes and at work_mem times sessions."
      }
    },
    {
      "name": "MemoryCritical",
      "metric": "host_memory_used_ratio",
      "fn": "avg",
      "over": "5 minutes",
      "op": ">",
      "threshold": 0.9,
      "resolve_threshold": 0.85,
      "by": [
        "host"
      ],
      "severity": "critical",
      "annotations": {
        "summary": "Memory of {{host}} in use: {{value}}.",
        "impact": "The kernel may kill the server.",
        "runbook": "End what grows; then look at work_mem and at the number of sessions."
      }
    },
    {
      "name": "DiskHigh",
      "metric": "host_disk_used_ratio",
      "fn": "last",
      "over": "10 minutes",
      "op": ">",
      "threshold": 0.85,
      "resolve_threshold": 0.83,
      "by": [
        "host",
        "mount"
      ],
      "severity": "high",
      "annotations": {
        "summary": "{{mount}} of {{host}} is {{value}} full.",
        "impact": "The server stops when it is full.",
        "runbook": "What grows: data, log, temporary files or other programs' files?"
      }
    },
    {
      "name": "DiskCritical",
      "metric": "host_disk_used_ratio",
      "fn": "last",
      "over": "10 minutes",
      "op": ">",
      "threshold": 0.9,
      "resolve_threshold": 0.88,
      "by": [
        "host",
        "mount"
      ],
      "severity": "critical",
      "annotations": {
        "summary": "{{mount}} of {{host}} is {{value}} full.",
        "impact": "The server stops when it is full.",
        "runbook": "Make room now; never delete files of the server by hand."
      }
    },
    {
      "name": "DiskFullIn4Hours",
      "kind": "forecast",
      "metric": "host_disk_used_ratio",
      "fn": "avg",
      "over": "6 hours",
      "op": ">",
      "threshold": 0.98,
      "by": [
        "host",
        "mount"
      ],
      "params": {
        "horizon": "4 hours"
      },
      "severity": "critical",
      "annotations": {
        "summary": "At its present growth {{mount}} of {{host}} is full within 4 hours.",
        "impact": "The server stops when it is full.",
        "runbook": "Find what grows and stop it."
      }
    },
    {
      "name": "DiskFullIn4Days",
      "kind": "forecast",
      "metric": "host_disk_used_ratio",
      "fn": "avg",
      "over": "7 days",
      "op": ">",
      "threshold": 0.98,
      "every": "10 minutes",
      "by": [
        "host",
        "mount"
      ],
      "params": {
        "horizon": "4 days"
      },
      "severity": "medium",
      "annotations": {
        "summary": "At its present growth {{mount}} of {{host}} is full within 4 days.",
        "impact": "The server stops when it is full.",
        "runbook": "Add space, or shorten what is kept."
      }
    },
    {
      "name": "HostSilent",
      "kind": "absence",
      "metric": "host_cpu_used_ratio",
      "over": "1 day",
      "op": ">",
      "threshold": 300,
      "by": [
        "host"
      ],
      "severity": "high",
      "annotations": {
        "summary": "{{host}} has reported nothing for {{value}} s.",
        "impact": "The machine, or what watches it, may be down.",
        "runbook": "Is the machine running?"
      }
    }
  ]
}
$pack$, true);

INSERT INTO monitoring.rule_packs (pack, document, builtin) VALUES ('security', $pack${
  "format": "monitoring alert rules",
  "version": 1,
  "pack": "security",
  "description": "Failed log-ins, probing and certificates.",
  "rules": [
    {
      "name": "LoginFailuresHigh",
      "metric": "logins_total",
      "fn": "sum",
      "over": "5 minutes",
      "op": ">",
      "threshold": 20,
      "labels": {
        "outcome": "failed"
      },
      "by": [
        "service"
      ],
      "severity": "high",
      "annotations": {
        "summary": "{{value}} log-ins to {{service}} failed within 5 minutes.",
        "impact": "Somebody may be guessing passwords.",
        "runbook": "Look at where they come from; block the source, and look for a log-in that succeeded after them."
      }
    },
    {
      "name": "LoginFailureRatioHigh",
      "kind": "ratio",
      "metric": "logins_total",
      "fn": "sum",
      "over": "15 minutes",
      "op": ">",
      "threshold": 0.5,
      "labels": {
        "outcome": "failed"
      },
      "by": [
        "service"
      ],
      "params": {
        "metric": "logins_total",
        "fn": "sum",
        "min_denominator": 20
      },
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} of the log-ins to {{service}} fail.",
        "impact": "Either users cannot get in, or somebody is guessing.",
        "runbook": "Group by reason: one reason points to a fault of ours."
      }
    },
    {
      "name": "ServerLoginFailuresHigh",
      "metric": "pg_login_failures_total",
      "fn": "sum",
      "over": "5 minutes",
      "op": ">",
      "threshold": 10,
      "severity": "high",
      "annotations": {
        "summary": "{{value}} log-ins to the database server failed within 5 minutes.",
        "impact": "Somebody may be guessing, or a service has a wrong password.",
        "runbook": "The server's log has users and addresses; restrict pg_hba.conf."
      }
    },
    {
      "name": "SqlErrorsBurst",
      "metric": "pg_errors_total",
      "fn": "sum",
      "over": "5 minutes",
      "op": ">",
      "threshold": 50,
      "labels": {
        "sqlstate_class": "42"
      },
      "by": [
        "database"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} statements of database {{database}} failed for their syntax or missing rights within 5 minutes.",
        "impact": "Somebody may be probing for injection, or a release brought broken SQL.",
        "runbook": "Look at the statements in the log and at who sent them."
      }
    },
    {
      "name": "RateLimitBurst",
      "metric": "rate_limited_requests_total",
      "fn": "sum",
      "over": "5 minutes",
      "op": ">",
      "threshold": 100,
      "by": [
        "service"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "{{value}} requests to {{service}} were refused by a rate limit within 5 minutes.",
        "impact": "A client misbehaves, or the limit is too low.",
        "runbook": "Find the client; block it or raise its limit."
      }
    },
    {
      "name": "CertificateExpiring",
      "kind": "sql",
      "over": "1 day",
      "op": "<",
      "threshold": 1209600,
      "every": "1 hour",
      "params": {
        "query": "SELECT v.series_labels ->> 'check' AS \"check\", v.value - extract(epoch FROM $1) AS seconds_left FROM monitoring.series_values('certificate_expiry_timestamp_seconds', 'last', $2, '{}', '{check}', $1) AS v"
      },
      "severity": "medium",
      "annotations": {
        "summary": "The certificate of {{check}} ends in {{value}} s.",
        "impact": "Clients will refuse to connect.",
        "runbook": "Renew it."
      }
    },
    {
      "name": "CertificateExpiringSoon",
      "kind": "sql",
      "over": "1 day",
      "op": "<",
      "threshold": 259200,
      "every": "10 minutes",
      "params": {
        "query": "SELECT v.series_labels ->> 'check' AS \"check\", v.value - extract(epoch FROM $1) AS seconds_left FROM monitoring.series_values('certificate_expiry_timestamp_seconds', 'last', $2, '{}', '{check}', $1) AS v"
      },
      "severity": "critical",
      "annotations": {
        "summary": "The certificate of {{check}} ends in {{value}} s.",
        "impact": "Clients will refuse to connect within three days.",
        "runbook": "Renew it now."
      }
    }
  ]
}
$pack$, true);

INSERT INTO monitoring.rule_packs (pack, document, builtin) VALUES ('web', $pack${
  "format": "monitoring alert rules",
  "version": 1,
  "pack": "web",
  "description": "Page loads, web vitals and budgets, as browsers report them.",
  "rules": [
    {
      "name": "PageLoadSlow",
      "metric": "page_load_duration_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 3,
      "resolve_threshold": 2.8,
      "by": [
        "page"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "A quarter of the loads of {{page}} take longer than {{value}} s.",
        "impact": "Visitors leave before the page is there.",
        "runbook": "Compare by device and connection; look at what was released last and at the size of bundles."
      }
    },
    {
      "name": "LcpSlow",
      "metric": "web_vitals_lcp_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 3,
      "resolve_threshold": 2.8,
      "by": [
        "page"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Largest Contentful Paint of {{page}} is {{value}} s (p75).",
        "impact": "The page feels slow; search engines rank it lower.",
        "runbook": "Look at the largest image and at the server's time to first byte."
      }
    },
    {
      "name": "LcpPoor",
      "metric": "web_vitals_lcp_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 4,
      "resolve_threshold": 3.8,
      "by": [
        "page"
      ],
      "severity": "high",
      "annotations": {
        "summary": "Largest Contentful Paint of {{page}} is poor: {{value}} s (p75).",
        "impact": "Visitors leave before they see anything.",
        "runbook": "Look at the largest image and at the server's time to first byte."
      }
    },
    {
      "name": "InpSlow",
      "metric": "web_vitals_inp_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.2,
      "resolve_threshold": 0.18,
      "by": [
        "page"
      ],
      "severity": "low",
      "annotations": {
        "summary": "Interaction to Next Paint of {{page}} is {{value}} s (p75).",
        "impact": "Clicks feel sluggish.",
        "runbook": "Look for long tasks in the page's scripts."
      }
    },
    {
      "name": "InpPoor",
      "metric": "web_vitals_inp_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.5,
      "resolve_threshold": 0.45,
      "by": [
        "page"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Interaction to Next Paint of {{page}} is poor: {{value}} s (p75).",
        "impact": "Visitors think that the page hangs.",
        "runbook": "Look for long tasks in the page's scripts."
      }
    },
    {
      "name": "ClsHigh",
      "metric": "web_vitals_cls",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.1,
      "resolve_threshold": 0.09,
      "by": [
        "page"
      ],
      "severity": "low",
      "annotations": {
        "summary": "Layout of {{page}} shifts by {{value}} (p75).",
        "impact": "Visitors click on the wrong thing.",
        "runbook": "Give images, ads and late content their space."
      }
    },
    {
      "name": "ClsPoor",
      "metric": "web_vitals_cls",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.25,
      "resolve_threshold": 0.22,
      "by": [
        "page"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Layout of {{page}} shifts a lot: {{value}} (p75).",
        "impact": "Visitors click on the wrong thing.",
        "runbook": "Give images, ads and late content their space."
      }
    },
    {
      "name": "FcpPoor",
      "metric": "web_vitals_fcp_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 3,
      "resolve_threshold": 2.8,
      "by": [
        "page"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "First Contentful Paint of {{page}} is poor: {{value}} s (p75).",
        "impact": "Visitors look at an empty page.",
        "runbook": "Look at what blocks rendering and at the server's time to first byte."
      }
    },
    {
      "name": "TtfbPoor",
      "metric": "web_vitals_ttfb_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 1.8,
      "resolve_threshold": 1.6,
      "by": [
        "page"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "Time to First Byte of {{page}} is poor: {{value}} s (p75).",
        "impact": "Everything on the page starts late.",
        "runbook": "Look at the server's latency, its cache and the network."
      }
    },
    {
      "name": "FidPoor",
      "metric": "web_vitals_fid_seconds",
      "fn": "p75",
      "over": "1 hour",
      "op": ">",
      "threshold": 0.3,
      "resolve_threshold": 0.25,
      "by": [
        "page"
      ],
      "severity": "low",
      "annotations": {
        "summary": "First Input Delay of {{page}} is poor: {{value}} s (p75).",
        "impact": "The first click seems to be lost.",
        "runbook": "Look for long tasks while the page loads."
      }
    },
    {
      "name": "JsHeapLarge",
      "metric": "page_js_heap_bytes",
      "fn": "p95",
      "over": "1 hour",
      "op": ">",
      "threshold": 50000000,
      "resolve_threshold": 45000000,
      "by": [
        "page"
      ],
      "severity": "medium",
      "annotations": {
        "summary": "{{page}} uses {{value}} bytes of JavaScript heap (p95).",
        "impact": "The page slows down or crashes on small devices.",
        "runbook": "Look for what the page keeps when one navigates within it."
      }
    },
    {
      "name": "BundleOverBudget",
      "metric": "page_bundle_bytes",
      "fn": "last",
      "over": "1 day",
      "op": ">",
      "threshold": 100000,
      "max_age": "1 day",
      "by": [
        "bundle"
      ],
      "severity": "low",
      "annotations": {
        "summary": "Bundle {{bundle}} has {{value}} bytes, more than its budget of 100 kB.",
        "impact": "Pages load more slowly on weak connections.",
        "runbook": "Look at what the last release added to the bundle."
      }
    }
  ]
}
$pack$, true);
