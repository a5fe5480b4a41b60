
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

CREATE TABLE monitoring.series_catalog (
    series_id  bigint PRIMARY KEY,
    metric     text NOT NULL,
    labels     jsonb NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX series_catalog_metric_idx ON monitoring.series_catalog (metric);
COMMENT ON TABLE monitoring.series_catalog IS 'Every series that was ever stored. series_id is a hash of metric and labels, the same on every server.';
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
    points     bytea NOT NULL,
    PRIMARY KEY (slot_start, seq, part)
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
    points     bytea NOT NULL,
    PRIMARY KEY (slot_start, part)
) PARTITION BY RANGE (slot_start);
ALTER TABLE monitoring.minutes ALTER directory SET STORAGE EXTERNAL, ALTER points SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.minutes IS 'One-minute points of the last hours: the segments of each minute merged, in the same format. seq is the last flush when it was made.';

CREATE TABLE monitoring.chunks (
    series_id bigint NOT NULL,
    period    timestamptz NOT NULL,
    data      bytea NOT NULL,
    PRIMARY KEY (series_id, period)
) PARTITION BY RANGE (period);
ALTER TABLE monitoring.chunks ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.chunks IS 'One-minute points: a row per series and hour (period is its start). The format is described in src/metrics/chunk_codec.c.';

CREATE TABLE monitoring.hourly (
    series_id bigint NOT NULL,
    period    timestamptz NOT NULL,
    data      bytea NOT NULL,
    PRIMARY KEY (series_id, period)
) PARTITION BY RANGE (period);
ALTER TABLE monitoring.hourly ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE monitoring.hourly IS 'Hourly points: a row per series and day, made from chunks. Same format.';

CREATE TABLE monitoring.daily (
    series_id bigint NOT NULL,
    period    timestamptz NOT NULL,
    data      bytea NOT NULL,
    PRIMARY KEY (series_id, period)
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
                                          WHEN 'chunks' THEN c.hourly WHEN 'hourly' THEN c.daily END
                     FROM monitoring.compaction_state c), '-infinity')
$$;
COMMENT ON FUNCTION monitoring.compacted_before(text) IS 'The time before which everything in a table of metrics has been taken over by the next coarser one; guards retention.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, guard) VALUES
('segments', '1 hour', 2, '3 hours', 'monitoring.compacted_before'),
('minutes', '1 hour', 2, '3 hours', 'monitoring.compacted_before'),
('chunks', '1 day', 2, '90 days', 'monitoring.compacted_before'),
('hourly', '30 days', 1, '400 days', 'monitoring.compacted_before'),
('daily', '360 days', 1, '5 years', NULL);

-- Nothing in memory may remain of an extension that was dropped before.
CREATE FUNCTION monitoring.forget_database() RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'mon_forget_database';
COMMENT ON FUNCTION monitoring.forget_database() IS 'Forget all metrics of this database that are in memory. Used when the extension is created.';
SELECT monitoring.forget_database();

-- Recording

CREATE FUNCTION monitoring.record(metric text, value float8, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_record';
COMMENT ON FUNCTION monitoring.record(text, float8, jsonb) IS 'Record one observation of a distribution, such as a duration in seconds. Counts even if the transaction rolls back, unless monitoring.transactional is on. NaN and infinite values are refused and counted in monitoring.self. Labels are a JSON object of scalars. Errors: invalid metric name (42602), invalid labels (22023), the metric is of another kind (42809), library not preloaded (55000).';

CREATE FUNCTION monitoring.increment(metric text, by float8 DEFAULT 1, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_increment';
COMMENT ON FUNCTION monitoring.increment(text, float8, jsonb) IS 'Add to a counter; by must not be negative (22023). Otherwise as record().';

CREATE FUNCTION monitoring.set_gauge(metric text, value float8, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mon_set_gauge';
COMMENT ON FUNCTION monitoring.set_gauge(text, float8, jsonb) IS 'Set a gauge: a value that goes up and down, such as a queue length. Otherwise as record().';

CREATE FUNCTION monitoring.flush() RETURNS bigint
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_flush';
COMMENT ON FUNCTION monitoring.flush() IS 'Write what is in memory to storage now, in this transaction. Returns the number of points written. The worker does this every monitoring.flush_interval; reads never need it.';

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
COMMENT ON FUNCTION monitoring.check_fn(text) IS 'Error 22023 unless value() knows the function: count, sum, avg, min, max, last, rate, increase, or a percentile such as p95 or p99.9.';

CREATE FUNCTION monitoring.value(metric text, fn text, over interval DEFAULT '5 minutes', labels jsonb DEFAULT '{}',
                                 at timestamptz DEFAULT clock_timestamp()) RETURNS float8
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_value';
COMMENT ON FUNCTION monitoring.value(text, text, interval, jsonb, timestamptz) IS 'One number over the window that ends at a time, of all series whose labels contain the given ones: count, sum, avg, min, max, last (gauges), rate (per second), increase, or a percentile (p50, p95, p99.9; relative error at most 0.5415 %). NULL without data. Time is kept in slots of 10 seconds; every slot that overlaps the window counts.';

CREATE FUNCTION monitoring.percentile(metric text, q float8, over interval DEFAULT '5 minutes', labels jsonb DEFAULT '{}',
                                      at timestamptz DEFAULT clock_timestamp()) RETURNS float8
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_percentile';
COMMENT ON FUNCTION monitoring.percentile(text, float8, interval, jsonb, timestamptz) IS 'Percentile of a distribution over the window that ends at a time; q is 0..1 (22003 otherwise). The value of rank ceil(q * count), as percentile_disc gives it, with a relative error of at most 0.5415 %. NULL without data.';

CREATE FUNCTION monitoring.series_values(metric text, fn text, over interval, labels jsonb, by text[], at timestamptz)
RETURNS TABLE (series_labels jsonb, value float8)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_series_values';
COMMENT ON FUNCTION monitoring.series_values(text, text, interval, jsonb, text[], timestamptz) IS 'As value(), one row for each combination of the labels named in by that has data; labels a series lacks are left out of series_labels.';

CREATE FUNCTION monitoring.query(metric text, fn text, since timestamptz, until timestamptz, step interval,
                                 labels jsonb DEFAULT '{}', by text[] DEFAULT '{}')
RETURNS TABLE (bucket timestamptz, series_labels jsonb, value float8)
LANGUAGE c STRICT VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp
ROWS 100 AS 'MODULE_PATHNAME', 'mon_query';
COMMENT ON FUNCTION monitoring.query(text, text, timestamptz, timestamptz, interval, jsonb, text[]) IS 'A time series for charts: a row per bucket of length step from since to until, and per combination of the labels named in by; value is NULL where there is no data. fn as in value(); rate is per second. At most 100,000 buckets (54000). A slot of 10 seconds counts in the bucket where it starts, the one open at since in the first.';

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
