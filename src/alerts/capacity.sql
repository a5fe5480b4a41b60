-- alerts, capacity: when what is limited will be used up, and how fast it grows.

CREATE TABLE monitoring.capacity_resources (
	resource text PRIMARY KEY CHECK (resource ~ '^[^[:cntrl:]]{1,150}$'),
	metric text NOT NULL,
	fn text NOT NULL,
	at_most float8 CHECK (at_most > '-Infinity' AND at_most < 'Infinity'),
	by_labels text[] NOT NULL DEFAULT '{}',
	over interval NOT NULL CHECK (over >= '10 minutes'),
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.capacity_resources IS 'What capacity() tells of. Change the rows, and add your own.';
COMMENT ON COLUMN monitoring.capacity_resources.resource IS 'Name of what is used up or grows.';
COMMENT ON COLUMN monitoring.capacity_resources.metric IS 'Metric that says how much is used.';
COMMENT ON COLUMN monitoring.capacity_resources.fn IS 'Function of its values, as in value().';
COMMENT ON COLUMN monitoring.capacity_resources.at_most IS 'Value at which it is used up; null: it only grows.';
COMMENT ON COLUMN monitoring.capacity_resources.by_labels IS 'Labels by which it is told apart, {...} for all.';
COMMENT ON COLUMN monitoring.capacity_resources.over IS 'Time through which the trend is laid.';
COMMENT ON COLUMN monitoring.capacity_resources.builtin IS 'True for the rows that CREATE EXTENSION made; a dump that is restored takes their place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.capacity_resources', '');

-- Transaction ids run out at 2^31; the server refuses to give any out three million before that.
INSERT INTO monitoring.capacity_resources (resource, metric, fn, at_most, by_labels, over, builtin) VALUES
	('disk', 'host_disk_used_ratio', 'last', 1, '{host,mount}', '7 days', true),
	('memory', 'host_memory_used_ratio', 'avg', 1, '{host}', '7 days', true),
	('connections', 'pg_connections_used_ratio', 'max', 1, '{}', '7 days', true),
	('transaction ids', 'pg_xid_age', 'last', 2144483647, '{database}', '7 days', true),
	('sequences', 'pg_sequence_used_ratio', 'last', 1, '{database,sequence}', '30 days', true),
	('databases', 'pg_database_bytes', 'last', NULL, '{database}', '30 days', true),
	('tables', 'pg_table_bytes', 'last', NULL, '{database,table}', '30 days', true);

CREATE TRIGGER restore BEFORE INSERT ON monitoring.capacity_resources
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.capacity_resources IS 'When a dump is restored its rows replace those of the extension.';

CREATE FUNCTION monitoring.capacity(resource text DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (resource text, labels jsonb, used float8, at_most float8, growth_per_day float8, exhausted_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off ROWS 100 AS $$
	WITH asked AS MATERIALIZED (
		SELECT c.* FROM monitoring.capacity_resources AS c WHERE capacity.resource IS NULL OR c.resource = capacity.resource
	), readings AS MATERIALIZED (
		SELECT c.resource, c.at_most, v.series_labels, v.value
		FROM asked AS c
		CROSS JOIN LATERAL monitoring.series_values(c.metric, c.fn, '1 hour', '{}', c.by_labels, capacity.at) AS v
	), trends AS MATERIALIZED (
		SELECT c.resource, t.series_labels, t.slope
		FROM asked AS c
		CROSS JOIN LATERAL monitoring.trend(c.metric, c.fn, c.over, '{}', c.by_labels, capacity.at) AS t
		WHERE t.steady
	)
	SELECT r.resource, r.series_labels, r.value, r.at_most, t.slope * 86400,
		CASE WHEN r.value >= r.at_most THEN capacity.at ELSE monitoring.crossing_time(r.value, t.slope, r.at_most, capacity.at) END AS exhausted_at
	FROM readings AS r
	LEFT JOIN trends AS t ON t.resource = r.resource AND t.series_labels = r.series_labels
	ORDER BY exhausted_at, r.value / r.at_most DESC NULLS LAST, r.resource, r.series_labels
$$;
COMMENT ON FUNCTION monitoring.capacity(text, timestamptz) IS 'How much of everything that is limited (capacity_resources: disk, memory, connections, transaction ids, sequences) is used at a time, by the last hour, and how fast it grows, sizes of databases and tables too; of one resource, or all whose metrics are recorded; what is used up first comes first. growth_per_day and exhausted_at are null without a steady trend (trend()), exhausted_at also when it shrinks or would take longer than ten years. Errors as query().';
