
-- exposition: what collectors have read, for Prometheus.

CREATE FUNCTION monitoring.prometheus_exposition(at timestamptz DEFAULT clock_timestamp()) RETURNS text
LANGUAGE c STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'mon_prometheus_exposition';
COMMENT ON FUNCTION monitoring.prometheus_exposition(timestamptz) IS 'The latest readings of all collectors in the text format of Prometheus: one set of all that there is, counters as totals. Readings older than three intervals of their collector, or a minute if that is longer, are left out. On a standby, where nothing is collected, the collectors are run for it.';
