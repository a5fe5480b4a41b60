-- alerts, forecasting: what is unusual and what comes, for people to ask and as the rule kinds anomaly and forecast.
--
-- Both read rollups in windows of equal length. Scores are computed by an aggregate in C (seasonal.c says how), trends by
-- the regression aggregates of the server.

----------------------------------------------------------------------------------------------------------------------
-- Anomalies
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.seasonal_score_trans(state internal, season integer, place integer, value float8, seasons integer,
	places integer, points integer, event float8, silent integer) RETURNS internal
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'mon_seasonal_score_trans';
COMMENT ON FUNCTION monitoring.seasonal_score_trans(internal, integer, integer, float8, integer, integer, integer, float8, integer) IS 'Transition function of the aggregate seasonal_score.';

CREATE FUNCTION monitoring.seasonal_score_final(state internal) RETURNS float8[]
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'mon_seasonal_score_final';
COMMENT ON FUNCTION monitoring.seasonal_score_final(internal) IS 'Final function of the aggregate seasonal_score.';

CREATE AGGREGATE monitoring.seasonal_score(season integer, place integer, value float8, seasons integer, places integer,
	points integer, event float8, silent integer) (
	SFUNC = monitoring.seasonal_score_trans, STYPE = internal, FINALFUNC = monitoring.seasonal_score_final,
	FINALFUNC_MODIFY = READ_WRITE
);
COMMENT ON AGGREGATE monitoring.seasonal_score(integer, integer, float8, integer, integer, integer, float8, integer) IS 'How unusual the latest values are, as {value, expected, spread, score, seasons, residuals}; null when too little is known. Season 0 holds the latest `points` values, the last of them in question; seasons 1 to `seasons` hold `places` past values each, the one in the middle as old as whole seasons. With one season all past values are alike. Of values that count events, event is what one of them adds, and silent the number of seasons for which no value means zero; otherwise both are 0.';

CREATE FUNCTION monitoring.season_windows(season text, over interval, history interval, points integer, location text, at timestamptz)
RETURNS TABLE (n integer, since timestamptz, until timestamptz, places integer)
LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET IntervalStyle = 'postgres' AS $$
DECLARE
	length float8 := date_part('epoch', over);
	-- to the minute, so that windows begin as stored points do
	until timestamptz := date_bin('1 minute', at, '2000-01-01');
	period interval := CASE season WHEN 'hour_of_week' THEN '7 days' WHEN 'hour_of_day' THEN '1 day' END;
	windows integer;
	reach integer;
BEGIN
	IF points IS NULL OR points NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'points must be between 1 and 100' USING ERRCODE = 'invalid_parameter_value';
	ELSIF over IS NULL OR over < '1 minute' OR over > '30 days' THEN
		RAISE EXCEPTION 'the window of an anomaly must be between 1 minute and 30 days' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT isfinite(at) THEN
		RAISE EXCEPTION 'at must be a finite time' USING ERRCODE = 'datetime_field_overflow';
	ELSIF season = 'none' THEN
		windows := least(floor(date_part('epoch', coalesce(history, greatest('1 day', over * 100))) / length), 1e6);
		IF windows NOT BETWEEN 2 * points AND 2016 THEN
			RAISE EXCEPTION 'the history of an anomaly without seasons must be % to 2016 windows long', 2 * points
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		RETURN QUERY VALUES (0, until - points * over, until, points),
			(1, until - (points + windows) * over, until - points * over, windows);
		RETURN;
	ELSIF period IS NULL THEN
		RAISE EXCEPTION 'unknown season "%"', left(season, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Seasons are hour_of_week, hour_of_day and none.';
	END IF;

	windows := floor(date_part('epoch', coalesce(history, 8 * period)) / date_part('epoch', period));
	IF windows IS NULL OR windows NOT BETWEEN 2 AND 104 THEN
		RAISE EXCEPTION 'the history of an anomaly must hold 2 to 104 seasons of %', period USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- two hours to both sides for windows of five minutes; never as far as the latest windows
	reach := least(greatest(6, least(24, floor(21600 / length))), floor(date_part('epoch', period) / length) - points - 1);
	IF reach < points THEN
		RAISE EXCEPTION 'the window of an anomaly is too long for its season' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN QUERY
		SELECT 0, until - points * over, until, points
		UNION ALL
		SELECT k, p.until - (reach + 1) * over, p.until + reach * over, 2 * reach + 1
		FROM generate_series(1, windows) AS k
		CROSS JOIN LATERAL (SELECT ((until AT TIME ZONE location) - k * period) AT TIME ZONE location AS until) AS p;
END $$;
COMMENT ON FUNCTION monitoring.season_windows(text, interval, interval, integer, text, timestamptz) IS 'The ranges of time that anomalies() reads: n = 0 for the latest windows, one for each past season, or one for the whole history without seasons. Errors: 22023 for an unknown season or time zone, a window shorter than a minute or too long for the season, points outside 1 to 100, or a history that holds too few or too many; 22008 for a time that is not finite.';

CREATE FUNCTION monitoring.anomalies(metric text, fn text, over interval DEFAULT '5 minutes', labels jsonb DEFAULT '{}',
	by text[] DEFAULT '{}', season text DEFAULT 'hour_of_week', history interval DEFAULT NULL, min_history interval DEFAULT NULL,
	points integer DEFAULT 3, location text DEFAULT 'UTC', at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (series_labels jsonb, value float8, expected float8, spread float8, score float8)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET jit = off ROWS 100 AS $$
	WITH windows AS MATERIALIZED (
		SELECT w.n, w.since, w.until, w.places, max(w.n) OVER () AS seasons, max(w.places) OVER () AS most_places
		FROM monitoring.season_windows(season, over, history, points, location, at) AS w
	), options AS MATERIALIZED (
		SELECT CASE WHEN anomalies.fn = 'rate' THEN 1 / date_part('epoch', over) WHEN monitoring.counts_events(anomalies.fn) THEN 1 ELSE 0 END AS event,
			CASE season WHEN 'none' THEN greatest(30, date_part('epoch', min_history) / date_part('epoch', over))
				ELSE greatest(2, ceil(date_part('epoch', coalesce(min_history, CASE season WHEN 'hour_of_day' THEN '4 days' ELSE '14 days' END::interval))
					/ CASE season WHEN 'hour_of_day' THEN 86400 ELSE 604800 END)) END AS least_seasons
	), readings AS MATERIALIZED (
		SELECT w.n, w.since, w.seasons, w.most_places, q.series_labels, q.value,
			round(date_part('epoch', q.bucket - w.since) / date_part('epoch', over))::integer AS place
		FROM windows AS w
		CROSS JOIN LATERAL monitoring.query(anomalies.metric, anomalies.fn, w.since, w.until, over, anomalies.labels, anomalies.by) AS q
	-- since when a group that counts events has been known to be silent
	), known AS MATERIALIZED (
		SELECT k.series_labels, min(c.first_seen) AS since
		FROM options AS o
		JOIN monitoring.series_catalog AS c ON o.event > 0 AND c.metric = anomalies.metric AND monitoring.labels_match(c.labels, anomalies.labels)
		CROSS JOIN LATERAL (
			SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS series_labels FROM jsonb_each(c.labels) AS e WHERE e.key = ANY (anomalies.by)
		) AS k
		GROUP BY k.series_labels
	), scores AS (
		SELECT g.series_labels, g.s
		FROM (
			SELECT r.series_labels, monitoring.seasonal_score(r.n, r.place, r.value, r.seasons, r.most_places, points, o.event,
				coalesce((SELECT count(*) FROM windows AS w JOIN known AS k ON k.since <= w.since WHERE w.n > 0 AND k.series_labels = r.series_labels), 0)::integer) AS s
			FROM readings AS r
			CROSS JOIN options AS o
			GROUP BY r.series_labels
		) AS g
	)
	SELECT s.series_labels, s.s[1], s.s[2], s.s[3], s.s[4]
	FROM scores AS s
	CROSS JOIN options AS o
	WHERE s.s[5] >= o.least_seasons
$$;
COMMENT ON FUNCTION monitoring.anomalies(text, text, interval, jsonb, text[], text, interval, interval, integer, text, timestamptz) IS 'How unusual the latest values of a metric are, one row for each combination of the labels named in by that has enough history. value is fn over the window that ended at the last full minute; expected is the median of the same window in past seasons: of the same time of the week (hour_of_week, 8 weeks), of the day (hour_of_day, 8 days), or all windows of the last day (none). spread is how far past windows around that time were from what the other seasons foretold, as a standard deviation (by the median), at least 1 % of what is expected and, of counts, what chance makes. score is the mean deviation of the last `points` windows in spreads, of which one that stands out counts twice the next one at most; between -1000 and 1000. A group appears once it has min_history (2 weeks, 4 days, 30 windows). location: time zone whose clock seasons follow. Errors as season_windows() and query().';

CREATE FUNCTION monitoring.anomaly_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH rules AS MATERIALIZED (
		SELECT d.id, d.metric, d.fn, d.over, d.selector, d.by_labels, d.params - 'two_sided' AS reading,
			coalesce((d.params ->> 'two_sided')::boolean, false) AS two_sided
		FROM monitoring.alert_rule_defs AS d
		WHERE d.id = ANY (anomaly_rule_values.rule_ids)
	), readings AS MATERIALIZED (
		SELECT r.rules, v.series_labels, v.score,
			jsonb_build_object('value', v.value, 'expected', v.expected, 'spread', v.spread, 'score', v.score) AS details
		FROM (
			SELECT r.metric, r.fn, r.over, r.selector, r.by_labels, r.reading, array_agg(r.id) AS rules
			FROM rules AS r
			GROUP BY r.metric, r.fn, r.over, r.selector, r.by_labels, r.reading
		) AS r
		CROSS JOIN LATERAL monitoring.anomalies(r.metric, r.fn, r.over, r.selector, r.by_labels, coalesce(r.reading ->> 'season', 'hour_of_week'),
			(r.reading ->> 'history')::interval, (r.reading ->> 'min_history')::interval, coalesce((r.reading ->> 'points')::integer, 3),
			coalesce(r.reading ->> 'location', 'UTC'), anomaly_rule_values.at) AS v
	)
	SELECT r.id, v.series_labels, CASE WHEN r.two_sided THEN abs(v.score) ELSE v.score END, v.details, NULL::text
	FROM readings AS v
	CROSS JOIN LATERAL unnest(v.rules) AS u (id)
	JOIN rules AS r ON r.id = u.id
	UNION ALL
	-- no events now and at this time of any season
	SELECT r.id, s.series_labels, 0, NULL, NULL
	FROM rules AS r
	JOIN monitoring.alert_states AS s ON s.rule_id = r.id AND s.state <> 'resolved' AND s.origin = 'value'
	WHERE monitoring.counts_events(r.fn) AND NOT EXISTS (
		SELECT FROM readings AS v WHERE r.id = ANY (v.rules) AND v.series_labels = s.series_labels)
$$;
COMMENT ON FUNCTION monitoring.anomaly_rule_values(timestamptz, bigint[]) IS 'Rule kind anomaly: the score that anomalies() gives each group; with two_sided its size.';

CREATE FUNCTION monitoring.check_anomaly_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	params jsonb := rule -> 'params';
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{season,history,min_history,points,two_sided,location}');
	PERFORM monitoring.check_rule_reading(rule);
	PERFORM monitoring.check_rule_number(rule, 'points', 1, 100);
	IF jsonb_typeof(params -> 'two_sided') <> 'boolean' THEN
		RAISE EXCEPTION 'parameter "two_sided" of an alert rule must be true or false' USING ERRCODE = 'invalid_parameter_value';
	ELSIF monitoring.alert_breach(rule ->> 'op', 0, (rule ->> 'threshold')::float8) OR rule ->> 'op' IN ('=', '<>')
		OR abs((rule ->> 'threshold')::float8) NOT BETWEEN 0.1 AND 1000
		OR (params ->> 'two_sided')::boolean AND (rule ->> 'threshold')::float8 < 0 THEN
		RAISE EXCEPTION 'an alert rule of kind anomaly compares with a score that is not usual'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Use > and 3.25 for what is unusually high, < and -3.25 for what is unusually low, > and 3.25 with {"two_sided": true} for both.';
	ELSIF trunc((params ->> 'points')::numeric) <> (params ->> 'points')::numeric THEN
		RAISE EXCEPTION 'points must be a whole number' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_rule_interval(rule, 'history'), monitoring.check_rule_interval(rule, 'min_history');
	PERFORM monitoring.season_windows(coalesce(params ->> 'season', 'hour_of_week'), (rule ->> 'over')::interval, (params ->> 'history')::interval,
		coalesce((params ->> 'points')::integer, 3), coalesce(params ->> 'location', 'UTC'), '2026-01-01 00:00+00');
END $$;
COMMENT ON FUNCTION monitoring.check_anomaly_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, with an operator and a threshold that find what is usual or nothing, or for what season_windows refuses; 42602 for a bad metric name.';

----------------------------------------------------------------------------------------------------------------------
-- Trends
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.trend_step(over interval) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT CASE WHEN s >= 3600 THEN ceil(s / 3600) * '1 hour'::interval WHEN s > 30 THEN ceil(s / 60) * '1 minute'::interval
	ELSE greatest(1, ceil(s / 10)) * '10 seconds'::interval END FROM (SELECT date_part('epoch', over) / 60) AS w (s));
COMMENT ON FUNCTION monitoring.trend_step(interval) IS 'The distance of the points through which the trend over a window is laid: a sixtieth of it, rounded up to whole hours, minutes or 10 seconds, as points are stored.';

CREATE FUNCTION monitoring.trend(metric text, fn text, over interval, labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), step interval DEFAULT NULL)
RETURNS TABLE (series_labels jsonb, points bigint, mean float8, level float8, slope float8, r2 float8, steady boolean)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET jit = off ROWS 100 AS $$
	WITH grid AS MATERIALIZED (
		SELECT g.step, g.until - ceil(date_part('epoch', over) / date_part('epoch', g.step)) * g.step AS since, g.until
		FROM (
			SELECT s.step, date_bin(CASE WHEN s.step >= '1 hour' THEN '1 hour'::interval WHEN s.step >= '1 minute' THEN '1 minute' ELSE '10 seconds' END,
				trend.at, '2000-01-01') AS until
			FROM (SELECT coalesce(trend.step, monitoring.trend_step(over)) AS step) AS s
		) AS g
	), points AS (
		SELECT q.series_labels, date_part('epoch', q.bucket + g.step / 2 - trend.at) AS x,
			-- where events are counted, none is zero, from the first one on
			CASE WHEN monitoring.counts_events(trend.fn) AND q.bucket > min(q.bucket) FILTER (WHERE q.value IS NOT NULL) OVER (PARTITION BY q.series_labels)
				THEN coalesce(q.value, 0) ELSE q.value END AS y
		FROM grid AS g
		CROSS JOIN LATERAL monitoring.query(trend.metric, trend.fn, g.since, g.until, g.step, trend.labels, trend.by) AS q
	)
	SELECT p.series_labels, count(p.y), avg(p.y), regr_intercept(p.y, p.x), regr_slope(p.y, p.x), regr_r2(p.y, p.x),
		coalesce(count(p.y) >= 10 AND regr_sxx(p.y, p.x) > 0 AND regr_r2(p.y, p.x) >= 0.5
			AND max(p.x) FILTER (WHERE p.y IS NOT NULL) - min(p.x) FILTER (WHERE p.y IS NOT NULL) >= date_part('epoch', over) / 2, false)
	FROM points AS p
	GROUP BY p.series_labels
	HAVING count(p.y) > 0
$$;
COMMENT ON FUNCTION monitoring.trend(text, text, interval, jsonb, text[], timestamptz, interval) IS 'The straight line through a metric''s values over the window that ends at a time (least squares), one row for each combination of the labels named in by. The window is cut into steps (trend_step by default), whose values are those of fn; level is the line''s value at `at`, slope its growth per second, r2 the share of the variance that it explains, mean the mean of the points. steady: the line means something, that is, at least 10 points over half of the window lie along it (r2 at least 0.5). Errors as query().';

CREATE FUNCTION monitoring.forecast(metric text, fn text, over interval, horizon interval, labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), step interval DEFAULT NULL)
RETURNS TABLE (series_labels jsonb, value float8, level float8, slope float8, r2 float8, steady boolean)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 100 AS $$
	SELECT t.series_labels, CASE WHEN t.steady THEN t.level + t.slope * date_part('epoch', horizon) ELSE t.mean END, t.level, t.slope, t.r2, t.steady
	FROM monitoring.trend(metric, fn, over, labels, by, at, step) AS t
$$;
COMMENT ON FUNCTION monitoring.forecast(text, text, interval, interval, jsonb, text[], timestamptz, interval) IS 'What a metric will be at the end of the horizon if it goes on along its trend, one row for each combination of the labels named in by; the mean of the window where there is no steady trend. The other columns are those of trend(). Errors as query().';

CREATE FUNCTION monitoring.crossing_time(level float8, slope float8, threshold float8, at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT at + s * '1 second'::interval FROM (SELECT (threshold - level) / nullif(slope, 0)) AS c (s) WHERE s BETWEEN 0 AND 315576000
$$;
COMMENT ON FUNCTION monitoring.crossing_time(float8, float8, float8, timestamptz) IS 'When a line with this level at `at` reaches the threshold; null if it does not within ten years, or has done so before.';

CREATE FUNCTION monitoring.crosses_at(metric text, fn text, threshold float8, over interval, labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp(), step interval DEFAULT NULL)
RETURNS TABLE (series_labels jsonb, crosses_at timestamptz, level float8, slope float8, r2 float8, steady boolean)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 100 AS $$
	SELECT t.series_labels, CASE WHEN t.steady THEN monitoring.crossing_time(t.level, t.slope, threshold, at) END, t.level, t.slope, t.r2, t.steady
	FROM monitoring.trend(metric, fn, over, labels, by, at, step) AS t
$$;
COMMENT ON FUNCTION monitoring.crosses_at(text, text, float8, interval, jsonb, text[], timestamptz, interval) IS 'When a metric will reach a threshold if it goes on along its trend: when the disk will be full, connections run out. One row for each combination of the labels named in by; crosses_at is null without a steady trend, when it leads away from the threshold, or farther than ten years. The other columns are those of trend(). Errors as query().';

CREATE FUNCTION monitoring.forecast_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH readings AS MATERIALIZED (
		SELECT r.rules, t.series_labels, t.points, t.mean, t.level, t.slope, t.r2, t.steady
		FROM (
			SELECT d.metric, d.fn, d.over, d.selector, d.by_labels, (d.params ->> 'step')::interval AS step, array_agg(d.id) AS rules
			FROM monitoring.alert_rule_defs AS d
			WHERE d.id = ANY (forecast_rule_values.rule_ids)
			GROUP BY d.metric, d.fn, d.over, d.selector, d.by_labels, (d.params ->> 'step')::interval
		) AS r
		CROSS JOIN LATERAL monitoring.trend(r.metric, r.fn, r.over, r.selector, r.by_labels, forecast_rule_values.at, r.step) AS t
	)
	SELECT d.id, t.series_labels, CASE WHEN t.steady THEN t.level + t.slope * date_part('epoch', (d.params ->> 'horizon')::interval) ELSE t.mean END,
		jsonb_build_object('level', t.level, 'slope', t.slope, 'r2', t.r2, 'points', t.points, 'steady', t.steady, 'crosses_at',
			CASE WHEN t.steady THEN monitoring.crossing_time(t.level, t.slope, d.threshold, forecast_rule_values.at) END),
		NULL::text
	FROM readings AS t
	CROSS JOIN LATERAL unnest(t.rules) AS u (id)
	JOIN monitoring.alert_rule_defs AS d ON d.id = u.id
$$;
COMMENT ON FUNCTION monitoring.forecast_rule_values(timestamptz, bigint[]) IS 'Rule kind forecast: what forecast() gives each group for the end of the rule''s horizon.';

CREATE FUNCTION monitoring.check_forecast_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	over interval := (rule ->> 'over')::interval;
	horizon interval := monitoring.check_rule_interval(rule, 'horizon');
	step interval := monitoring.check_rule_interval(rule, 'step');
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{horizon,step}');
	PERFORM monitoring.check_rule_reading(rule);
	IF horizon IS NULL THEN
		RAISE EXCEPTION 'an alert rule of kind forecast needs the parameter "horizon"'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For example params => ''{"horizon": "4 hours"}''.';
	ELSIF rule ->> 'op' NOT IN ('>', '>=', '<', '<=') THEN
		RAISE EXCEPTION 'an alert rule of kind forecast compares with >, >=, < or <=' USING ERRCODE = 'invalid_parameter_value';
	ELSIF over < '10 minutes' OR horizon > 10 * over THEN
		RAISE EXCEPTION 'a forecast looks ahead ten times its window at most, which must not be shorter than ten minutes'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF step < '10 seconds' OR step > over / 10 OR over / 2000 > step THEN
		RAISE EXCEPTION 'the step of a forecast must be at least 10 seconds and go into its window 10 to 2000 times'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_forecast_rule(jsonb) IS 'Raises 22023 for a rule without a metric or a function that value() knows, without a horizon or with one of more than ten times its window, with a window shorter than ten minutes, or with a bad step; 42602 for a bad metric name.';

----------------------------------------------------------------------------------------------------------------------
-- The kinds, and their rules by the defaults
----------------------------------------------------------------------------------------------------------------------

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin, evaluation_order, every) VALUES
	('anomaly', 'monitoring.anomaly_rule_values', 'monitoring.check_anomaly_rule', 'How far a function of a metric''s values is from what it usually is at this time, in standard deviations. params: season (hour_of_week), history, min_history, points (3), two_sided (false), location (UTC).', true, 0, '1 minute'),
	('forecast', 'monitoring.forecast_rule_values', 'monitoring.check_forecast_rule', 'What a function of a metric''s values will be at the end of a horizon, by its trend over the window. params: horizon, step.', true, 0, '1 minute');

CREATE FUNCTION monitoring.create_anomaly_rule(name text, metric text, fn text, over interval DEFAULT '5 minutes', threshold float8 DEFAULT 3.25,
	direction text DEFAULT 'both', severity text DEFAULT 'medium', labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	params jsonb DEFAULT '{}', annotations jsonb DEFAULT NULL, pending_for interval DEFAULT '0', receivers text[] DEFAULT NULL,
	extra_labels jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF direction IS NULL OR direction NOT IN ('above', 'below', 'both') THEN
		RAISE EXCEPTION 'unknown direction "%" of an anomaly', left(direction, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Directions are above, below and both.';
	END IF;
	RETURN monitoring.create_alert_rule(name, metric, fn, over, CASE direction WHEN 'below' THEN '<' ELSE '>' END,
		CASE direction WHEN 'below' THEN -threshold ELSE threshold END, pending_for => pending_for, severity => severity,
		labels => labels, by => by, receivers => receivers, kind => 'anomaly', extra_labels => extra_labels,
		params => params || CASE direction WHEN 'both' THEN '{"two_sided": true}' ELSE '{}' END::jsonb,
		annotations => coalesce(annotations, jsonb_build_object('summary',
			format('%s of %s was {{value}} standard deviations from what it usually is at this time.', fn, metric))));
END $$;
COMMENT ON FUNCTION monitoring.create_anomaly_rule(text, text, text, interval, float8, text, text, jsonb, text[], jsonb, jsonb, interval, text[], jsonb) IS 'Create a rule of kind anomaly that finds what is unusually high (direction above), low (below) or either (both), and return its id. The default threshold raises less than one false alert per series and week. Errors as create_alert_rule; unknown direction (22023).';

CREATE FUNCTION monitoring.create_forecast_rule(name text, metric text, fn text, threshold float8, horizon interval, over interval DEFAULT NULL,
	op text DEFAULT '>', severity text DEFAULT 'medium', labels jsonb DEFAULT '{}', by text[] DEFAULT '{}', annotations jsonb DEFAULT NULL,
	pending_for interval DEFAULT NULL, receivers text[] DEFAULT NULL, extra_labels jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres' AS $$
	SELECT monitoring.create_alert_rule(create_forecast_rule.name, create_forecast_rule.metric, create_forecast_rule.fn,
		coalesce(over, greatest('10 minutes', horizon)), create_forecast_rule.op, threshold,
		pending_for => coalesce(create_forecast_rule.pending_for, CASE WHEN horizon > '0' THEN horizon / 48 ELSE '0' END), severity => create_forecast_rule.severity,
		labels => create_forecast_rule.labels, by => create_forecast_rule.by, receivers => create_forecast_rule.receivers, kind => 'forecast',
		params => jsonb_build_object('horizon', horizon), extra_labels => create_forecast_rule.extra_labels,
		annotations => coalesce(create_forecast_rule.annotations, jsonb_build_object('summary',
			format('%s of %s will be {{value}} in %s, it reaches {{threshold}} at {{crosses_at}}.', create_forecast_rule.fn, create_forecast_rule.metric, horizon))))
$$;
COMMENT ON FUNCTION monitoring.create_forecast_rule(text, text, text, float8, interval, interval, text, text, jsonb, text[], jsonb, interval, text[], jsonb) IS 'Create a rule of kind forecast, which says that a metric will cross a threshold within a horizon, and return its id. By default the trend over a window as long as the horizon is followed, and must foretell the crossing for a 48th of the horizon. Errors as create_alert_rule.';
