
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
