
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
