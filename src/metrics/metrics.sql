
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
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'mon_self';
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
