-- dashboards: the state of everything in plain SQL. Panels are rows that name a metric and what is good or bad about it; a
-- dashboard is one line for each series of its panels, with the values of the last hour beside what it was a day before.
--
-- All panels of a dashboard are read in one pass over memory and storage (read_values), so that a dashboard that everybody
-- refreshes costs a few milliseconds.

CREATE TABLE monitoring.dashboard_panel_defs (
	dashboard text NOT NULL CHECK (dashboard ~ '^[a-z][a-z0-9_]{0,62}$'),
	item text NOT NULL CHECK (item ~ '^[^[:cntrl:]]{1,200}$'),
	sort_order integer NOT NULL DEFAULT 1000,
	section text NOT NULL DEFAULT '',
	metric text NOT NULL CHECK (metric <> ''),
	fn text NOT NULL,
	labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
	of_labels jsonb CHECK (jsonb_typeof(of_labels) = 'object'),
	by text[] NOT NULL DEFAULT '{}',
	step interval NOT NULL DEFAULT '5 minutes' CHECK (step >= '10 seconds' AND step <= '31 days'),
	unit text NOT NULL DEFAULT '',
	warning float8,
	critical float8,
	low_is_bad boolean NOT NULL DEFAULT false,
	max_series integer NOT NULL DEFAULT 5 CHECK (max_series BETWEEN 0 AND 100),
	optional boolean NOT NULL DEFAULT false,
	description text NOT NULL DEFAULT '',
	builtin boolean NOT NULL DEFAULT false,
	PRIMARY KEY (dashboard, item, builtin)
);
COMMENT ON TABLE monitoring.dashboard_panel_defs IS 'Panels of dashboards. Granted to nobody; see the view dashboard_panels, which also explains the columns.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.dashboard IS 'Name of the dashboard: lower-case letters, digits and underscores.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.item IS 'What the line shows.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.sort_order IS 'Order within the dashboard.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.section IS 'Heading under which it stands.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.metric IS 'Metric that is read.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.fn IS 'Function over it, as in value().';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.labels IS 'Selects series, as in value().';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.of_labels IS 'If not null, the value is divided by that of the series that this selects: the share of requests that fail is the rate of {"status_class": "5xx"} of {}.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.by IS 'Names of labels: a line for each combination of them.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.step IS 'Window of the value; the trend shows twelve of them.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.unit IS 'Unit of the value: seconds, bytes, ratio (0..1), per second, ...';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.warning IS 'From here on the status is warning; null: never.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.critical IS 'From here on the status is critical; null: never.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.low_is_bad IS 'Whether values at and below the thresholds are the bad ones, not those at and above.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.max_series IS 'At most so many lines, those with the worst values; 0 hides the panel.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.optional IS 'Whether nothing is shown while nothing is recorded.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.description IS 'What it means, and where to look next.';
COMMENT ON COLUMN monitoring.dashboard_panel_defs.builtin IS 'Whether it comes with the extension; one of the user''s stands in for one that does.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.dashboard_panel_defs', 'WHERE NOT builtin');

CREATE VIEW monitoring.dashboard_panels AS
SELECT p.dashboard, p.item, p.sort_order, p.section, p.metric, p.fn, p.labels, p.of_labels, p.by, p.step, p.unit, p.warning, p.critical, p.low_is_bad,
	p.max_series, p.optional, p.description, p.builtin
FROM monitoring.dashboard_panel_defs AS p
WHERE NOT p.builtin
	OR NOT EXISTS (SELECT FROM monitoring.dashboard_panel_defs AS own WHERE own.dashboard = p.dashboard AND own.item = p.item AND NOT own.builtin);
COMMENT ON VIEW monitoring.dashboard_panels IS 'What dashboard() shows, a row for each item; see set_dashboard_panel().';
SELECT monitoring.inherit_comments('monitoring.dashboard_panels', 'monitoring.dashboard_panel_defs');

CREATE FUNCTION monitoring.set_dashboard_panel(dashboard text, item text, metric text, fn text, labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	of_labels jsonb DEFAULT NULL, step interval DEFAULT '5 minutes', unit text DEFAULT '', warning float8 DEFAULT NULL, critical float8 DEFAULT NULL,
	low_is_bad boolean DEFAULT false, section text DEFAULT '', sort_order integer DEFAULT 1000, max_series integer DEFAULT 5,
	optional boolean DEFAULT false, description text DEFAULT '')
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_fn(fn);
	INSERT INTO monitoring.dashboard_panel_defs AS p (dashboard, item, metric, fn, labels, of_labels, by, step, unit, warning, critical, low_is_bad,
		section, sort_order, max_series, optional, description)
	VALUES (set_dashboard_panel.dashboard, set_dashboard_panel.item, set_dashboard_panel.metric, set_dashboard_panel.fn,
		set_dashboard_panel.labels, set_dashboard_panel.of_labels, set_dashboard_panel.by, set_dashboard_panel.step, set_dashboard_panel.unit, set_dashboard_panel.warning,
		set_dashboard_panel.critical, set_dashboard_panel.low_is_bad, set_dashboard_panel.section, set_dashboard_panel.sort_order,
		set_dashboard_panel.max_series, set_dashboard_panel.optional, set_dashboard_panel.description)
	ON CONFLICT ON CONSTRAINT dashboard_panel_defs_pkey DO UPDATE SET metric = excluded.metric, fn = excluded.fn, labels = excluded.labels,
		of_labels = excluded.of_labels, by = excluded.by, step = excluded.step, unit = excluded.unit, warning = excluded.warning, critical = excluded.critical,
		low_is_bad = excluded.low_is_bad, section = excluded.section, sort_order = excluded.sort_order, max_series = excluded.max_series,
		optional = excluded.optional, description = excluded.description;
	-- what cannot be read would be an error of the whole dashboard
	PERFORM FROM monitoring.read_values((SELECT array_agg(ROW(set_dashboard_panel.metric, set_dashboard_panel.fn, set_dashboard_panel.step, l.labels,
		set_dashboard_panel.by, interval '0')::monitoring.value_request)
		FROM unnest(ARRAY[set_dashboard_panel.labels, set_dashboard_panel.of_labels]) AS l (labels) WHERE l.labels IS NOT NULL), clock_timestamp());
END $$;
COMMENT ON FUNCTION monitoring.set_dashboard_panel(text, text, text, text, jsonb, text[], jsonb, interval, text, float8, float8, boolean, text, integer, integer, boolean, text) IS 'Add a panel to a dashboard, which comes into being with its first one, or change the one of that name: in place of one that comes with the extension, which stays as it is. The parameters are the columns of dashboard_panels. Errors: unknown fn, labels or names that value() would not take (22023), a value that its column does not allow (23514, 23502).';

CREATE FUNCTION monitoring.drop_dashboard_panel(dashboard text, item text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.dashboard_panel_defs AS p
	WHERE p.dashboard = drop_dashboard_panel.dashboard AND p.item = drop_dashboard_panel.item AND NOT p.builtin;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'dashboard "%" has no panel "%" of your own', dashboard, item
			USING ERRCODE = 'undefined_object', HINT = 'To hide a panel that comes with the extension, set one of its name with max_series => 0.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_dashboard_panel(text, text) IS 'Remove a panel that set_dashboard_panel() made; one that comes with the extension and had the same name is back. Errors: no such panel (42704).';

CREATE FUNCTION monitoring.threshold_status(value float8, warning float8, critical float8, low_is_bad boolean DEFAULT false) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
	WHEN value IS NULL THEN 'no data'
	WHEN low_is_bad AND value <= critical OR NOT low_is_bad AND value >= critical THEN 'critical'
	WHEN low_is_bad AND value <= warning OR NOT low_is_bad AND value >= warning THEN 'warning'
	WHEN warning IS NULL AND critical IS NULL THEN ''
	ELSE 'ok'
END;
COMMENT ON FUNCTION monitoring.threshold_status(float8, float8, float8, boolean) IS 'ok, warning or critical: a value against two thresholds, either of which may be null; "no data" for null, empty without thresholds.';

CREATE FUNCTION monitoring.sparkline(numbers float8[]) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
	SELECT string_agg(CASE
			WHEN n.number IS NULL THEN ' '
			WHEN getdatabaseencoding() = 'UTF8' THEN chr(9601 + b.height)
			ELSE substr('_.-~=+*#', b.height + 1, 1)
		END, '' ORDER BY n.ordinality)
	FROM unnest(numbers) WITH ORDINALITY AS n (number, ordinality)
	CROSS JOIN (SELECT min(m), max(m) FROM unnest(numbers) AS m) AS r (low, high)
	-- Halves, since the whole span may be too large for a double.
	CROSS JOIN LATERAL (
		SELECT CASE WHEN r.low = r.high THEN 3 ELSE least(7, floor(8 * ((n.number / 2 - r.low / 2) / (r.high / 2 - r.low / 2))))::integer END
	) AS b (height)
);
COMMENT ON FUNCTION monitoring.sparkline(float8[]) IS 'A row of numbers as a line of bars (U+2581 to U+2588; in a database whose encoding is not UTF8 the characters _.-~=+*#), from the lowest to the highest; a blank where there is null.';

CREATE TYPE monitoring.dashboard_line AS (section text, item text, series_labels jsonb, value float8, unit text, status text, trend text,
	day_before float8, description text);
COMMENT ON TYPE monitoring.dashboard_line IS 'A line of a dashboard: what it shows, of which series, the value and whether it is good (ok, warning, critical, "no data"; empty where nothing is good or bad), the hour before as a line of bars, the value a day earlier, and what else there is to say.';
COMMENT ON COLUMN monitoring.dashboard_line.section IS 'Heading.';
COMMENT ON COLUMN monitoring.dashboard_line.item IS 'What the line shows.';
COMMENT ON COLUMN monitoring.dashboard_line.series_labels IS 'Of which series, person or thing; {} if there is only one.';
COMMENT ON COLUMN monitoring.dashboard_line.value IS 'Value now.';
COMMENT ON COLUMN monitoring.dashboard_line.unit IS 'Its unit.';
COMMENT ON COLUMN monitoring.dashboard_line.status IS 'ok, warning, critical, error or "no data"; empty where nothing is good or bad.';
COMMENT ON COLUMN monitoring.dashboard_line.trend IS 'The last twelve steps, for most panels an hour, as a line of bars.';
COMMENT ON COLUMN monitoring.dashboard_line.day_before IS 'The value a day earlier.';
COMMENT ON COLUMN monitoring.dashboard_line.description IS 'What it means, what to do, or what it is about.';

CREATE FUNCTION monitoring.dashboard(dashboard text, at timestamptz DEFAULT clock_timestamp())
RETURNS SETOF monitoring.dashboard_line
LANGUAGE sql VOLATILE STRICT ROWS 50 SET search_path = pg_catalog, pg_temp AS $$
	WITH panels AS (
		SELECT p.*, row_number() OVER (ORDER BY p.sort_order, p.item) AS panel
		FROM monitoring.dashboard_panels AS p WHERE p.dashboard = dashboard.dashboard AND p.max_series > 0
	), requests AS (
		SELECT p.panel, s.slot, d.is_divisor, row_number() OVER (ORDER BY p.panel, s.slot, d.is_divisor) AS request,
			ROW(p.metric, p.fn, p.step, CASE WHEN d.is_divisor THEN p.of_labels ELSE p.labels END, p.by,
				CASE WHEN s.slot = 0 THEN interval '1 day' ELSE p.step * (12 - s.slot) END)::monitoring.value_request AS asked
		FROM panels AS p CROSS JOIN generate_series(0, 12) AS s (slot) CROSS JOIN (VALUES (false), (true)) AS d (is_divisor)
		WHERE p.of_labels IS NOT NULL OR NOT d.is_divisor
	), given AS (
		SELECT r.panel, r.slot, coalesce(v.series_labels, '{}') AS series_labels, min(v.value) FILTER (WHERE NOT r.is_divisor) AS value,
			min(v.value) FILTER (WHERE r.is_divisor) AS divisor, min(v.error) AS error
		FROM monitoring.read_values((SELECT array_agg(r.asked ORDER BY r.request) FROM requests AS r), at) AS v
		JOIN requests AS r ON r.request = v.request
		GROUP BY 1, 2, 3
	), answers AS (
		SELECT g.panel, g.slot, g.series_labels, g.error,
			CASE WHEN p.of_labels IS NULL THEN g.value ELSE coalesce(g.value, 0) / nullif(g.divisor, 0) END AS value
		FROM given AS g JOIN panels AS p ON p.panel = g.panel
	), series AS (
		SELECT a.panel, a.series_labels, min(a.value) FILTER (WHERE a.slot = 12) AS value,
			min(a.value) FILTER (WHERE a.slot = 0) AS day_before,
			min(a.error) AS error, jsonb_object_agg(a.slot, a.value::text) AS slots
		FROM answers AS a
		GROUP BY a.panel, a.series_labels
	), ranked AS (
		SELECT s.*, row_number() OVER (PARTITION BY s.panel
			ORDER BY CASE WHEN p.low_is_bad THEN s.value ELSE -s.value END NULLS LAST, s.series_labels) AS rank
		FROM series AS s JOIN panels AS p ON p.panel = s.panel
	)
	SELECT p.section, p.item, coalesce(r.series_labels, '{}'), r.value, p.unit,
		CASE WHEN r.error IS NULL THEN monitoring.threshold_status(r.value, p.warning, p.critical, p.low_is_bad) ELSE 'error' END,
		monitoring.sparkline(ARRAY(SELECT (r.slots ->> s.slot::text)::float8 FROM generate_series(1, 12) AS s (slot) ORDER BY s.slot)),
		r.day_before, coalesce(r.error, p.description)
	FROM panels AS p
	LEFT JOIN ranked AS r ON r.panel = p.panel AND r.rank <= p.max_series
	WHERE r.panel IS NOT NULL OR NOT p.optional
	ORDER BY p.panel, r.rank
$$;
COMMENT ON FUNCTION monitoring.dashboard(text, timestamptz) IS 'The panels of a dashboard (dashboard_panels) as of a time, in order: a line for each series. value is over the step that ends there, trend that and the eleven before as a line of bars, day_before the value a day earlier. The status is ok, warning or critical by the panel''s thresholds, empty if it has none, "no data" where nothing was recorded in the step; a panel without any series has one such line, or none if it is optional, and one whose fn does not go with its metric has the status "error" and says why in its description. Without rows if there is no such dashboard.';
