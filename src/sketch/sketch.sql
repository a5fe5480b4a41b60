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
