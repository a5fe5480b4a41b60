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
COMMENT ON COLUMN monitoring.slo_defs.good IS 'The good events: {"metric": ..., "labels": ...} as in value().';
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
COMMENT ON COLUMN monitoring.slos.good IS 'The good events: metric and labels.';
COMMENT ON COLUMN monitoring.slos.total IS 'All events: metric and labels.';
COMMENT ON COLUMN monitoring.slos.latency_threshold IS 'Longest that a good event may take; null: any time.';
SELECT monitoring.inherit_comments('monitoring.slos', 'monitoring.slo_defs');

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
COMMENT ON FUNCTION monitoring.check_slo_events(jsonb, text) IS 'The events of an objective in the form in which they are stored. Errors: 22023 for what is not {"metric": ..., "labels": ...}, and those of value().';

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
COMMENT ON FUNCTION monitoring.create_slo(text, jsonb, jsonb, float8, float8, interval, float8, text, boolean, text[]) IS 'Create a service-level objective: that share `objective` of the total events, over any window of length over (30 days), are good. good and total are {"metric": ..., "labels": ...}: counters, or distributions, whose observations are the events. With latency_threshold only good events that took at most so long are good; good null: total''s. with_rules creates two burn-rate rules, critical and medium, for the receivers (null: as routed). Errors: 22023 for anything that is not valid, 42809 for a metric of the wrong kind, 42710 if the name is taken.';

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
