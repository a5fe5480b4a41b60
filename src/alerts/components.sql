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
