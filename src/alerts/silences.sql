-- alerts, silences: time intervals, and which alerts are kept quiet by silences, inhibition rules and parents of their rules.
--
-- Nothing here is stored per alert. What holds an alert is computed when somebody asks, for all alerts asked about at once, so
-- that a silence costs nothing while nobody is to be notified, and no copy can be out of date.

----------------------------------------------------------------------------------------------------------------------
-- Time intervals, as Alertmanager has them
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.time_range_end(field text, word text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	weekdays CONSTANT text[] := '{sunday,monday,tuesday,wednesday,thursday,friday,saturday}';
	months CONSTANT text[] := '{january,february,march,april,may,june,july,august,september,october,november,december}';
	number integer;
BEGIN
	IF field = 'weekdays' THEN
		RETURN array_position(weekdays, lower(word)) - 1;
	ELSIF word !~ '^-?[0-9]{1,4}$' THEN
		RETURN CASE field WHEN 'months' THEN array_position(months, lower(word)) END;
	END IF;
	number := word::integer;
	RETURN CASE WHEN number BETWEEN CASE field WHEN 'days_of_month' THEN -31 ELSE 1 END
			AND CASE field WHEN 'days_of_month' THEN 31 WHEN 'months' THEN 12 ELSE 9999 END AND number <> 0 THEN number END;
END $$;
COMMENT ON FUNCTION monitoring.time_range_end(text, text) IS 'Number of a word at either end of a range: a weekday (Sunday is 0), a day of the month (-31 to 31), a month or a year; null for what is none.';

CREATE FUNCTION monitoring.time_range(field text, range text) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	words text[] := string_to_array(range, ':');
	first integer := monitoring.time_range_end(field, words[1]);
	last integer := monitoring.time_range_end(field, words[cardinality(words)]);
BEGIN
	RETURN CASE WHEN cardinality(words) <= 2 AND first IS NOT NULL AND last IS NOT NULL THEN ARRAY[first, last] END;
END $$;
COMMENT ON FUNCTION monitoring.time_range(text, text) IS 'First and last number of a range such as "monday:friday" (Sunday is 0), "-3:-1", "march" or "2026:2030" of the fields weekdays, days_of_month, months and years of a time interval; null for what is no such range.';

CREATE FUNCTION monitoring.check_time_zone(zone text) RETURNS void
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- Abbreviations and POSIX rules, which the server would take too, know of no country's summer time. Reading the list
	-- of all zones takes long; a name of this form is either a zone or refused.
	IF zone ~ '^[A-Za-z_]+(/[A-Za-z_-]+)+$' THEN
		PERFORM '2000-01-01'::timestamp AT TIME ZONE zone;
	ELSIF upper(zone) <> 'UTC' AND NOT EXISTS (SELECT FROM pg_timezone_names AS z WHERE lower(z.name) = lower(zone)) THEN
		RAISE invalid_parameter_value;
	END IF;
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE EXCEPTION 'unknown time zone "%"', left(zone, 100)
		USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a name of pg_timezone_names, such as Europe/Berlin.';
END $$;
COMMENT ON FUNCTION monitoring.check_time_zone(text) IS 'Raises 22023 for what is not the full name of a time zone, such as an abbreviation.';

CREATE FUNCTION monitoring.check_time_interval(item jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
	times jsonb;
	ranges jsonb;
BEGIN
	IF item IS NULL OR jsonb_typeof(item) <> 'object' THEN
		RAISE EXCEPTION 'a time interval must be a JSON object or a list of them' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example: {"weekdays": ["monday:friday"], "times": [{"start": "09:00", "end": "17:00"}], "location": "Europe/Berlin"}.';
	END IF;
	SELECT min(e.key) INTO bad
	FROM jsonb_each(item) AS e
	WHERE CASE WHEN e.key = 'location' THEN jsonb_typeof(e.value) <> 'string'
		WHEN e.key = ANY ('{times,weekdays,days_of_month,months,years}'::text[])
			THEN jsonb_typeof(e.value) <> 'array' OR e.value = '[]' OR jsonb_array_length(e.value) > 100
		ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in a time interval is not valid', left(bad, 100) USING ERRCODE = 'invalid_parameter_value',
			HINT = 'times, weekdays, days_of_month, months and years are lists of 1 to 100 elements, location is the name of a time zone.';
	END IF;

	-- Alertmanager's names are understood too
	SELECT jsonb_agg(jsonb_build_object('start', r.first, 'end', r.last) ORDER BY r.place),
		min(CASE WHEN (r.first ~ c.clock AND r.last ~ c.clock AND r.first COLLATE "C" < r.last COLLATE "C") IS NOT TRUE
			THEN r.value::text END)
	INTO times, bad
	FROM (SELECT t.value, t.place, coalesce(t.value ->> 'start', t.value ->> 'start_time') AS first,
			coalesce(t.value ->> 'end', t.value ->> 'end_time') AS last
		FROM jsonb_array_elements(item -> 'times') WITH ORDINALITY AS t (value, place)) AS r
	CROSS JOIN (VALUES ('^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$')) AS c (clock);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'times % in a time interval are not valid', left(bad, 100) USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give them as {"start": "09:00", "end": "17:00"}, the end after the start and at most 24:00; a night is two ranges, to 24:00 and from 00:00.';
	END IF;

	-- A range of negative days must not end with a positive one; the shortest month tells whether it can hold any day.
	SELECT min(r.key || ': ' || r.value::text) FILTER (WHERE (jsonb_typeof(r.value) = 'string' AND CASE r.key
				WHEN 'weekdays' THEN r.bounds IS NOT NULL
				WHEN 'days_of_month' THEN (r.bounds[1] > 0 OR r.bounds[2] < 0)
					AND r.bounds[1] + CASE WHEN r.bounds[1] < 0 THEN 28 ELSE 0 END
						<= r.bounds[2] + CASE WHEN r.bounds[2] < 0 THEN 28 ELSE 0 END
				ELSE r.bounds[1] <= r.bounds[2] END) IS NOT TRUE),
		jsonb_object_agg(r.key, r.texts)
	INTO bad, ranges
	FROM (SELECT e.key, v.value, monitoring.time_range(e.key, v.value #>> '{}') AS bounds,
			to_jsonb(ARRAY(SELECT lower(t) FROM jsonb_array_elements_text(e.value) AS t)) AS texts
		FROM jsonb_each(item - '{times,location}'::text[]) AS e
		CROSS JOIN jsonb_array_elements(e.value) AS v) AS r;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'range % in a time interval is not valid', left(bad, 100) USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Ranges are text such as "monday:friday", "1:15", "-1" (the last day of the month), "march:may" and "2026", the end not before the beginning.';
	END IF;
	PERFORM monitoring.check_time_zone(item ->> 'location');
	RETURN jsonb_strip_nulls(jsonb_build_object('times', times, 'location', item -> 'location')) || coalesce(ranges, '{}');
END $$;
COMMENT ON FUNCTION monitoring.check_time_interval(jsonb) IS 'One time interval in the form in which it is stored. Error 22023 for what is not valid.';

CREATE FUNCTION monitoring.check_time_spec(spec jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF jsonb_typeof(spec) <> 'array' THEN
		spec := jsonb_build_array(spec);
	ELSIF jsonb_array_length(spec) NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'a list of time intervals has 1 to 100 elements' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN (SELECT jsonb_agg(monitoring.check_time_interval(i.value) ORDER BY i.place)
		FROM jsonb_array_elements(spec) WITH ORDINALITY AS i (value, place));
END $$;
COMMENT ON FUNCTION monitoring.check_time_spec(jsonb) IS 'Time intervals in the form in which they are stored: a list of objects with the keys times (list of {"start": "09:00", "end": "17:00"}, the end excluded), weekdays ("monday:friday"; may pass over Saturday), days_of_month ("1:5", "-1" is the last), months ("march", "3:5"), years and location (time zone, default UTC). A time is within an object when it fits every key, and fits a key when it fits one of its ranges. Takes one object or a list. Error 22023 for what is not valid; null for null.';

CREATE FUNCTION monitoring.time_matches(spec jsonb, at timestamptz DEFAULT clock_timestamp()) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	local timestamp;
	clock text COLLATE "C";
	days integer;
	i jsonb;
BEGIN
	-- each test that fails goes on with the next interval
	FOR i IN SELECT e FROM jsonb_array_elements(CASE jsonb_typeof(spec) WHEN 'array' THEN spec ELSE jsonb_build_array(spec) END) AS e LOOP
		local := at AT TIME ZONE coalesce(i ->> 'location', 'UTC');
		clock := to_char(local, 'HH24:MI');
		CONTINUE WHEN i ? 'times' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements(i -> 'times') AS r
			WHERE clock >= coalesce(r ->> 'start', r ->> 'start_time') AND clock < coalesce(r ->> 'end', r ->> 'end_time'));
		CONTINUE WHEN i ? 'weekdays' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'weekdays') AS r, monitoring.time_range('weekdays', r) AS b
			WHERE CASE WHEN b[1] <= b[2] THEN extract(dow FROM local) BETWEEN b[1] AND b[2]
				ELSE extract(dow FROM local) >= b[1] OR extract(dow FROM local) <= b[2] END);
		days := extract(day FROM date_trunc('month', local) + '1 month - 1 day'::interval);
		CONTINUE WHEN i ? 'days_of_month' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'days_of_month') AS r, monitoring.time_range('days_of_month', r) AS b
			WHERE extract(day FROM local) BETWEEN CASE WHEN b[1] < 0 THEN days + 1 ELSE 0 END + b[1]
				AND CASE WHEN b[2] < 0 THEN days + 1 ELSE 0 END + b[2]);
		CONTINUE WHEN i ? 'months' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'months') AS r, monitoring.time_range('months', r) AS b
			WHERE extract(month FROM local) BETWEEN b[1] AND b[2]);
		CONTINUE WHEN i ? 'years' AND NOT EXISTS (
			SELECT FROM jsonb_array_elements_text(i -> 'years') AS r, monitoring.time_range('years', r) AS b
			WHERE extract(year FROM local) BETWEEN b[1] AND b[2]);
		RETURN true;
	END LOOP;
	RETURN false;
END $$;
COMMENT ON FUNCTION monitoring.time_matches(jsonb, timestamptz) IS 'Whether a time lies within time intervals as check_time_spec returns them: within one of the list. Local times that happen twice when clocks are set back both count.';

-- A time zone that was known when the interval was saved may be gone after an upgrade of the server or a restore.
CREATE FUNCTION monitoring.time_matches(spec jsonb, at timestamptz, otherwise boolean) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN monitoring.time_matches(spec, at);
EXCEPTION WHEN data_exception THEN
	RETURN otherwise;
END $$;
COMMENT ON FUNCTION monitoring.time_matches(jsonb, timestamptz, boolean) IS 'As time_matches(spec, at), and otherwise where the intervals cannot be read any more, such as those in a time zone that the server does not know.';

CREATE TABLE monitoring.time_intervals (
	name text PRIMARY KEY,
	spec jsonb NOT NULL,
	created_by text NOT NULL,
	updated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.time_intervals IS 'Named time intervals, which routes name as mute times or active times. Use set_time_interval and drop_time_interval to change them.';
COMMENT ON COLUMN monitoring.time_intervals.name IS 'Name of the interval.';
COMMENT ON COLUMN monitoring.time_intervals.spec IS 'The times, as check_time_spec returns them.';
COMMENT ON COLUMN monitoring.time_intervals.created_by IS 'Role that made it.';
COMMENT ON COLUMN monitoring.time_intervals.updated_at IS 'When it last changed.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.time_intervals', '');

CREATE FUNCTION monitoring.set_time_interval(name text, spec jsonb, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a time interval''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF spec IS NULL THEN
		RAISE EXCEPTION 'time interval "%" needs times', name USING ERRCODE = 'invalid_parameter_value';
	END IF;
	INSERT INTO monitoring.time_intervals AS t (name, spec, created_by, updated_at)
	VALUES (set_time_interval.name, monitoring.check_time_spec(set_time_interval.spec), monitoring.calling_role(), at)
	ON CONFLICT ON CONSTRAINT time_intervals_pkey DO UPDATE SET spec = excluded.spec, updated_at = excluded.updated_at;
END $$;
COMMENT ON FUNCTION monitoring.set_time_interval(text, jsonb, timestamptz) IS 'Create a named time interval, or change the times of the one that has this name; takes what check_time_spec takes, such as {"weekdays": ["monday:friday"], "times": [{"start": "09:00", "end": "17:00"}], "location": "Europe/Berlin"}. Error 22023 for a bad name or times.';

CREATE FUNCTION monitoring.drop_time_interval(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route text;
BEGIN
	SELECT min(r.name) INTO route FROM monitoring.routes AS r WHERE drop_time_interval.name = ANY (r.mute_times || r.active_times);
	IF route IS NOT NULL THEN
		RAISE EXCEPTION 'time interval "%" is used by route "%"', name, route USING ERRCODE = 'dependent_objects_still_exist',
			HINT = 'Change the route with monitoring.update_route first.';
	END IF;
	DELETE FROM monitoring.time_intervals AS t WHERE t.name = drop_time_interval.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'time interval "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.mute_times.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_time_interval(text) IS 'Drop a named time interval. Errors: 42704 if it does not exist, 2BP01 while a route names it.';

CREATE VIEW monitoring.mute_times AS
	SELECT t.name, t.spec, monitoring.time_matches(t.spec, pg_catalog.clock_timestamp(), NULL) AS active, t.created_by, t.updated_at
	FROM monitoring.time_intervals AS t;
COMMENT ON VIEW monitoring.mute_times IS 'Named time intervals, and whether it is their time now.';
COMMENT ON COLUMN monitoring.mute_times.name IS 'Name of the interval.';
COMMENT ON COLUMN monitoring.mute_times.spec IS 'The times, as check_time_spec describes them.';
COMMENT ON COLUMN monitoring.mute_times.active IS 'Whether now is within it; null if the server does not know its time zone any more.';
COMMENT ON COLUMN monitoring.mute_times.created_by IS 'Role that made it.';
COMMENT ON COLUMN monitoring.mute_times.updated_at IS 'When it last changed.';

----------------------------------------------------------------------------------------------------------------------
-- Matchers
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.match_labels(labels jsonb[], selectors jsonb[], first_only boolean DEFAULT false)
RETURNS TABLE (labels_no integer, selector_no integer)
LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_match_labels';
COMMENT ON FUNCTION monitoring.match_labels(jsonb[], jsonb[], boolean) IS 'Which label sets match which selectors (labels_match), by their places in the arrays; with first_only the first selector that each set matches. Much faster than labels_match on every pair.';

CREATE FUNCTION monitoring.check_selector(selector jsonb) RETURNS void
LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_check_selector';
COMMENT ON FUNCTION monitoring.check_selector(jsonb) IS 'Raises what labels_match would raise for a selector, and refuses regular expressions that may take long: with back references (2201B) or too many states and arcs (54000).';

CREATE FUNCTION monitoring.check_matchers(matchers jsonb, what text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF matchers IS NULL OR jsonb_typeof(matchers) <> 'object' THEN
		RAISE EXCEPTION '% must be a JSON object', what USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example: {"alertname": "slow checkout", "instance": {"=~": "web.*"}, "severity": {"!=": "critical"}}.';
	ELSIF octet_length(matchers::text) > 65536 THEN
		RAISE EXCEPTION '% must not take more than 65536 bytes', what USING ERRCODE = 'program_limit_exceeded';
	END IF;
	PERFORM monitoring.check_selector(matchers);
	RETURN matchers;
END $$;
COMMENT ON FUNCTION monitoring.check_matchers(jsonb, text) IS 'The matchers, if labels_match takes them as a selector. Errors, which name them as what: 22023, 2201B or 54000 for a bad or too complex regular expression.';

CREATE FUNCTION monitoring.alert_labels(alert_ids bigint[], at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (alert_id bigint, rule_id bigint, state text, labels jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF alert_ids IS NULL THEN
		RETURN QUERY
		SELECT s.alert_id, s.rule_id, s.state, monitoring.alert_labels(d, s.series_labels)
			|| jsonb_build_object('alertname', d.name, 'severity', d.severity)
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		WHERE s.state <> 'resolved';
		RETURN;
	END IF;
	RETURN QUERY
	SELECT s.alert_id, s.rule_id, s.state, monitoring.alert_labels(d, s.series_labels)
		|| jsonb_build_object('alertname', d.name, 'severity', d.severity)
	FROM (SELECT DISTINCT u.id FROM unnest(alert_labels.alert_ids) AS u (id)) AS a
	JOIN monitoring.alert_states AS s ON s.alert_id = a.id
	JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id;
	-- of those that ended and are forgotten, history knows
	RETURN QUERY
	SELECT a.id, h.rule_id, h.to_state, h.labels || jsonb_build_object('alertname', h.rule_name, 'severity', h.severity)
	FROM (SELECT DISTINCT u.id
		FROM unnest(alert_labels.alert_ids) AS u (id)
		WHERE NOT EXISTS (
			SELECT FROM monitoring.alert_states AS s JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
			WHERE s.alert_id = u.id)) AS a
	CROSS JOIN LATERAL (
		SELECT t.rule_id, t.to_state, t.labels, t.rule_name, t.severity
		FROM monitoring.alert_history AS t
		WHERE t.alert_id = a.id AND t.at > alert_labels.at - '2 days'::interval
		ORDER BY t.id DESC
		LIMIT 1) AS h;
END $$;
COMMENT ON FUNCTION monitoring.alert_labels(bigint[], timestamptz) IS 'All labels of alerts, alertname and severity included, as matchers see them: of those given, ended ones within two days before `at` too, or (null) of all that are pending or firing.';

----------------------------------------------------------------------------------------------------------------------
-- Silences
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.silence_id_seq;
COMMENT ON SEQUENCE monitoring.silence_id_seq IS 'Ids of silences.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.silence_id_seq', '');

CREATE TABLE monitoring.silence_defs (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.silence_id_seq'),
	matchers jsonb NOT NULL,
	starts_at timestamptz NOT NULL,
	ends_at timestamptz NOT NULL CHECK (ends_at >= starts_at),
	created_by text NOT NULL,
	created_at timestamptz NOT NULL,
	comment text NOT NULL DEFAULT '',
	updated_by text,
	updated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.silence_defs IS 'Silences as stored, expired ones as long as alert_history keeps its rows. Use create_silence, extend_silence and expire_silence to change them, and the view silences to read them.';
COMMENT ON COLUMN monitoring.silence_defs.id IS 'Number of the silence.';
COMMENT ON COLUMN monitoring.silence_defs.matchers IS 'Labels of the alerts that it silences.';
COMMENT ON COLUMN monitoring.silence_defs.starts_at IS 'When it begins.';
COMMENT ON COLUMN monitoring.silence_defs.ends_at IS 'When it ends; at this time it holds no more.';
COMMENT ON COLUMN monitoring.silence_defs.created_by IS 'Role that created it.';
COMMENT ON COLUMN monitoring.silence_defs.created_at IS 'When it was created.';
COMMENT ON COLUMN monitoring.silence_defs.comment IS 'Why.';
COMMENT ON COLUMN monitoring.silence_defs.updated_by IS 'Role that last extended or ended it; null: nobody.';
COMMENT ON COLUMN monitoring.silence_defs.updated_at IS 'When it last changed.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.silence_defs', '');
-- expired ones are many, and nobody asks for them every second
CREATE INDEX silence_defs_ends_at_idx ON monitoring.silence_defs (ends_at);
COMMENT ON INDEX monitoring.silence_defs_ends_at_idx IS 'Finds the silences that have not ended.';

CREATE FUNCTION monitoring.create_silence(matchers jsonb, duration interval DEFAULT NULL, comment text DEFAULT '',
	starts_at timestamptz DEFAULT NULL, ends_at timestamptz DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	first timestamptz := coalesce(starts_at, at);
	last timestamptz := coalesce(ends_at, first + duration);
	new_id bigint;
BEGIN
	PERFORM monitoring.check_matchers(matchers, 'a silence''s matchers');
	IF monitoring.labels_match('{}', matchers) THEN
		RAISE EXCEPTION 'a silence''s matchers must ask for at least one label' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'These match alerts whatever labels they have.',
			HINT = 'To silence every alert, use {"alertname": {"exists": true}}.';
	ELSIF (duration IS NULL) = (ends_at IS NULL) THEN
		RAISE EXCEPTION 'a silence needs either a duration or an end' USING ERRCODE = 'invalid_parameter_value';
	ELSIF duration <= '0' THEN
		RAISE EXCEPTION 'a silence must last longer than zero' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT isfinite(first) OR NOT isfinite(last) THEN
		RAISE EXCEPTION 'a silence must start and end at finite times' USING ERRCODE = 'invalid_parameter_value';
	ELSIF last <= first THEN
		RAISE EXCEPTION 'a silence must not end before it starts' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('It would start at %s and end at %s.', first, last);
	ELSIF last <= at THEN
		RAISE EXCEPTION 'a silence must not end in the past' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	INSERT INTO monitoring.silence_defs AS s (matchers, starts_at, ends_at, created_by, created_at, comment, updated_at)
	VALUES (create_silence.matchers, first, last, monitoring.calling_role(), at,
		coalesce(monitoring.check_comment(create_silence.comment), ''), at)
	RETURNING s.id INTO new_id;
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.create_silence(jsonb, interval, text, timestamptz, timestamptz, timestamptz) IS 'Silence the alerts whose labels match, alertname and severity included, and return the silence''s id: nobody is notified of them. matchers are as in labels_match, such as {"instance": {"=~": "web.*"}}. It starts now or at starts_at and lasts for a duration, or until ends_at. Errors: 22023 for matchers that fit every alert, or an end that is missing, in the past or not after the start; 2201B or 54000 for a bad or too complex regular expression.';

CREATE FUNCTION monitoring.lock_silence(id bigint, at timestamptz) RETURNS monitoring.silence_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silence monitoring.silence_defs;
BEGIN
	SELECT s.* INTO silence FROM monitoring.silence_defs AS s WHERE s.id = lock_silence.id FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'silence % does not exist', id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.silences.';
	ELSIF silence.ends_at <= at THEN
		RAISE EXCEPTION 'silence % has expired', id
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Create a new one with monitoring.create_silence.';
	END IF;
	RETURN silence;
END $$;
COMMENT ON FUNCTION monitoring.lock_silence(bigint, timestamptz) IS 'The silence, locked for a change. Errors: 42704 if it does not exist, 55000 if it has expired.';

CREATE FUNCTION monitoring.extend_silence(id bigint, duration interval, at timestamptz DEFAULT clock_timestamp())
RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silence monitoring.silence_defs := monitoring.lock_silence(id, at);
BEGIN
	IF duration IS NULL OR duration <= '0' OR NOT isfinite(silence.ends_at + duration) THEN
		RAISE EXCEPTION 'a silence can be extended only by a time longer than zero' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'End it earlier with monitoring.expire_silence.';
	END IF;
	UPDATE monitoring.silence_defs AS s
	SET ends_at = silence.ends_at + duration, updated_by = monitoring.calling_role(), updated_at = at
	WHERE s.id = silence.id;
	RETURN silence.ends_at + duration;
END $$;
COMMENT ON FUNCTION monitoring.extend_silence(bigint, interval, timestamptz) IS 'Let a silence last longer by a duration, and return its new end. Errors: 42704 if it does not exist, 55000 if it has expired, 22023 for a duration that is not longer than zero.';

CREATE FUNCTION monitoring.expire_silence(id bigint, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silence monitoring.silence_defs := monitoring.lock_silence(id, at);
BEGIN
	UPDATE monitoring.silence_defs AS s
	SET starts_at = least(s.starts_at, at), ends_at = at, updated_by = monitoring.calling_role(), updated_at = at
	WHERE s.id = silence.id;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.expire_silence(bigint, timestamptz) IS 'End a silence now, also one that has not begun. Errors: 42704 if it does not exist, 55000 if it has expired.';

CREATE FUNCTION monitoring.silenced_alerts(at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (silence_id bigint, alert_id bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	silences bigint[];
	matchers jsonb[];
BEGIN
	SELECT array_agg(s.id ORDER BY s.id), array_agg(s.matchers ORDER BY s.id) INTO silences, matchers
	FROM monitoring.silence_defs AS s
	WHERE s.starts_at <= silenced_alerts.at AND s.ends_at > silenced_alerts.at;
	IF silences IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
	SELECT silences[m.selector_no], a.ids[m.labels_no]
	FROM (SELECT array_agg(l.alert_id) AS ids, array_agg(l.labels) AS labels
		FROM monitoring.alert_labels(NULL, silenced_alerts.at) AS l WHERE l.state = 'firing') AS a
	CROSS JOIN LATERAL monitoring.match_labels(a.labels, matchers) AS m;
END $$;
COMMENT ON FUNCTION monitoring.silenced_alerts(timestamptz) IS 'Which silences hold which firing alerts at a time.';

CREATE VIEW monitoring.silences AS
	SELECT s.id, CASE WHEN s.ends_at OPERATOR(pg_catalog.<=) now.at THEN 'expired'
			WHEN s.starts_at OPERATOR(pg_catalog.>) now.at THEN 'pending' ELSE 'active' END AS state,
		s.matchers, s.starts_at, s.ends_at, s.created_by, s.comment, coalesce(a.alerts, 0) AS alerts, s.created_at,
		s.updated_by, s.updated_at
	FROM (SELECT pg_catalog.clock_timestamp() AS at OFFSET 0) AS now
	CROSS JOIN monitoring.silence_defs AS s
	LEFT JOIN (
		SELECT h.silence_id, pg_catalog.count(*) AS alerts FROM monitoring.silenced_alerts() AS h GROUP BY h.silence_id
	) AS a ON a.silence_id OPERATOR(pg_catalog.=) s.id;
COMMENT ON VIEW monitoring.silences IS 'Silences and how many firing alerts each of them holds now.';
COMMENT ON COLUMN monitoring.silences.state IS 'pending (has not begun), active or expired.';
COMMENT ON COLUMN monitoring.silences.alerts IS 'Number of firing alerts that it holds; an alert may be held by several.';
SELECT monitoring.inherit_comments('monitoring.silences', 'monitoring.silence_defs');

----------------------------------------------------------------------------------------------------------------------
-- Inhibition
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.inhibition_rule_defs (
	name text PRIMARY KEY,
	source jsonb NOT NULL,
	target jsonb NOT NULL,
	equal text[] NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	created_by text NOT NULL,
	created_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.inhibition_rule_defs IS 'Inhibition rules as stored. Use create_inhibition_rule, enable_inhibition_rule and drop_inhibition_rule to change them, and the view inhibition_rules to read them.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.name IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.source IS 'Labels of the alerts that keep others quiet while they fire.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.target IS 'Labels of the alerts that are kept quiet.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.equal IS 'Labels that must have the same value on both; a missing label equals an empty one.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.enabled IS 'False: without effect.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.created_by IS 'Role that created it.';
COMMENT ON COLUMN monitoring.inhibition_rule_defs.created_at IS 'When it was created.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.inhibition_rule_defs', '');

CREATE FUNCTION monitoring.create_inhibition_rule(name text, source jsonb, target jsonb, equal text[] DEFAULT '{}',
	at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an inhibition rule''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_matchers(source, 'an inhibition rule''s source'),
		monitoring.check_matchers(target, 'an inhibition rule''s target');
	IF '{}' IN (source, target) THEN
		RAISE EXCEPTION 'an inhibition rule needs matchers for its source and its target' USING ERRCODE = 'invalid_parameter_value';
	ELSIF equal IS NULL OR array_ndims(equal) > 1 OR cardinality(equal) > 64
		OR EXISTS (SELECT FROM unnest(equal) AS l WHERE l IS NULL OR l = '' OR l ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'an inhibition rule''s "equal" must be a list of at most 64 names of labels'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give them as in ''{instance,database}''.';
	END IF;
	INSERT INTO monitoring.inhibition_rule_defs (name, source, target, equal, created_by, created_at)
	VALUES (create_inhibition_rule.name, create_inhibition_rule.source, create_inhibition_rule.target,
		ARRAY(SELECT DISTINCT l FROM unnest(create_inhibition_rule.equal) AS l ORDER BY l), monitoring.calling_role(), at)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'inhibition rule "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.create_inhibition_rule(text, jsonb, jsonb, text[], timestamptz) IS 'While an alert whose labels match source fires, nobody is notified of alerts that match target and have the same values of the labels in `equal` (a missing label is an empty one). Alerts that match both do not inhibit each other or themselves. A source does so whether or not it is silenced, acknowledged or inhibited itself. Errors: 22023, 2201B or 54000 for matchers that are not valid, 42710 if the name is taken.';

CREATE FUNCTION monitoring.enable_inhibition_rule(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.inhibition_rule_defs AS i SET enabled = coalesce(enable_inhibition_rule.enabled, true)
	WHERE i.name = enable_inhibition_rule.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'inhibition rule "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.inhibition_rules.';
	END IF;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.enable_inhibition_rule(text, boolean) IS 'Enable or disable an inhibition rule. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.drop_inhibition_rule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.inhibition_rule_defs AS i WHERE i.name = drop_inhibition_rule.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'inhibition rule "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.inhibition_rules.';
	END IF;
	PERFORM monitoring.request_routing('wake');
END $$;
COMMENT ON FUNCTION monitoring.drop_inhibition_rule(text) IS 'Drop an inhibition rule. Error 42704 if it does not exist.';

CREATE VIEW monitoring.inhibition_rules AS
	SELECT i.name, i.source, i.target, i.equal, i.enabled, i.created_by, i.created_at
	FROM monitoring.inhibition_rule_defs AS i;
COMMENT ON VIEW monitoring.inhibition_rules IS 'Inhibition rules: while an alert that matches source fires, nobody is notified of those that match target.';
SELECT monitoring.inherit_comments('monitoring.inhibition_rules', 'monitoring.inhibition_rule_defs');

-- Two alerts of which one inhibits the other are found by the values of the labels that must be equal, not by trying all
-- pairs. Only alerts of rules that a source can match by name and severity are looked at, and only inhibition rules that
-- have a source.
CREATE FUNCTION monitoring.inhibited_alerts(alert_ids bigint[], labels jsonb[], at timestamptz)
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	names text[];
	sources jsonb[];
	targets jsonb[];
	source_ids bigint[];
	source_labels jsonb[];
BEGIN
	SELECT array_agg(i.name ORDER BY i.name), array_agg(i.source ORDER BY i.name), array_agg(i.target ORDER BY i.name)
	INTO names, sources, targets
	FROM monitoring.inhibition_rule_defs AS i
	WHERE i.enabled;

	WITH rules AS (
		SELECT array_agg(d.id) AS ids, array_agg(jsonb_build_object('alertname', d.name, 'severity', d.severity)) AS labels
		FROM monitoring.alert_rule_defs AS d
	), possible AS (
		SELECT DISTINCT r.ids[m.labels_no] AS id
		FROM rules AS r
		CROSS JOIN LATERAL monitoring.match_labels(r.labels, ARRAY(
			SELECT s - ARRAY(SELECT jsonb_object_keys(s - '{alertname,severity}'::text[])) FROM unnest(sources) AS s)) AS m
	)
	SELECT array_agg(s.alert_id), array_agg(monitoring.alert_labels(d, s.series_labels)
		|| jsonb_build_object('alertname', d.name, 'severity', d.severity))
	INTO source_ids, source_labels
	FROM possible AS p
	JOIN monitoring.alert_rule_defs AS d ON d.id = p.id
	CROSS JOIN LATERAL (
		SELECT o.alert_id, o.series_labels FROM monitoring.alert_states AS o WHERE o.rule_id = p.id AND o.state = 'firing' OFFSET 0) AS s;

	RETURN QUERY
	WITH source_matches AS MATERIALIZED (
		SELECT m.labels_no, m.selector_no AS rule FROM monitoring.match_labels(source_labels, sources) AS m
	), used AS MATERIALIZED (
		SELECT u.rule, row_number() OVER (ORDER BY u.rule) AS place FROM (SELECT DISTINCT m.rule FROM source_matches AS m) AS u
	), target_matches AS MATERIALIZED (
		SELECT m.labels_no, u.rule
		FROM monitoring.match_labels(inhibited_alerts.labels, ARRAY(SELECT targets[v.rule] FROM used AS v ORDER BY v.place)) AS m
		JOIN used AS u ON u.place = m.selector_no
	), source_is_target AS MATERIALIZED (
		SELECT m.labels_no, u.rule
		FROM monitoring.match_labels(source_labels, ARRAY(SELECT targets[v.rule] FROM used AS v ORDER BY v.place)) AS m
		JOIN used AS u ON u.place = m.selector_no
	), target_is_source AS MATERIALIZED (
		SELECT m.labels_no, u.rule
		FROM monitoring.match_labels(inhibited_alerts.labels, ARRAY(SELECT sources[v.rule] FROM used AS v ORDER BY v.place)) AS m
		JOIN used AS u ON u.place = m.selector_no
	), source_keys AS MATERIALIZED (
		SELECT m.rule, k.key, min(source_ids[m.labels_no]) AS any_alert,
			min(source_ids[m.labels_no]) FILTER (WHERE t.rule IS NULL) AS pure_alert
		FROM source_matches AS m
		JOIN unnest(source_labels) WITH ORDINALITY AS l (labels, place) ON l.place = m.labels_no
		JOIN monitoring.inhibition_rule_defs AS i ON i.name = names[m.rule]
		LEFT JOIN source_is_target AS t ON t.labels_no = m.labels_no AND t.rule = m.rule
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT coalesce(l.labels ->> e, '') FROM unnest(i.equal) AS e) AS key) AS k
		GROUP BY m.rule, k.key
	), target_keys AS MATERIALIZED (
		SELECT m.rule, m.labels_no, s.rule IS NOT NULL AS source, k.key
		FROM target_matches AS m
		JOIN unnest(inhibited_alerts.labels) WITH ORDINALITY AS l (labels, place) ON l.place = m.labels_no
		JOIN monitoring.inhibition_rule_defs AS i ON i.name = names[m.rule]
		LEFT JOIN target_is_source AS s ON s.labels_no = m.labels_no AND s.rule = m.rule
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT coalesce(l.labels ->> e, '') FROM unnest(i.equal) AS e) AS key) AS k
	)
	SELECT inhibited_alerts.alert_ids[f.labels_no], 'inhibition', jsonb_build_object('rule', names[f.rule], 'alert_id', f.inhibitor)
	FROM (
		SELECT DISTINCT ON (t.labels_no) t.labels_no, t.rule, i.inhibitor
		FROM target_keys AS t
		JOIN source_keys AS s ON s.rule = t.rule AND s.key = t.key
		CROSS JOIN LATERAL (SELECT CASE WHEN t.source THEN s.pure_alert ELSE s.any_alert END AS inhibitor) AS i
		WHERE i.inhibitor IS NOT NULL
		ORDER BY t.labels_no, t.rule) AS f;
END $$;
COMMENT ON FUNCTION monitoring.inhibited_alerts(bigint[], jsonb[], timestamptz) IS 'Which of these alerts, given with their labels, are inhibited by alerts that fire.';

----------------------------------------------------------------------------------------------------------------------
-- Rules with a parent
----------------------------------------------------------------------------------------------------------------------

-- Alerts are compared by the labels that both have. Which those are depends on the names of their labels only, of which a
-- rule's alerts have few combinations: the values are then compared by hashing. No estimate is right here, and a nested loop
-- over all alerts would take minutes.
CREATE FUNCTION monitoring.alerts_with_firing_parent(alert_ids bigint[], rule_ids bigint[], labels jsonb[], at timestamptz)
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
	WITH RECURSIVE ancestors AS (
		SELECT c.id AS child, p.id, p.parent, p.name
		FROM monitoring.alert_rule_defs AS c
		JOIN monitoring.alert_rule_defs AS p ON p.name = c.parent
		WHERE c.id IN (SELECT u FROM unnest(rule_ids) AS u)
		UNION
		SELECT a.child, p.id, p.parent, p.name
		FROM ancestors AS a
		JOIN monitoring.alert_rule_defs AS p ON p.name = a.parent
	), parents AS MATERIALIZED (
		SELECT s.alert_id, s.rule_id, l.labels, ARRAY(SELECT jsonb_object_keys(l.labels)) AS names
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		CROSS JOIN LATERAL (SELECT monitoring.alert_labels(d, s.series_labels) - '{alertname,severity}'::text[] AS labels) AS l
		WHERE s.state = 'firing' AND s.rule_id IN (SELECT p.id FROM ancestors AS p)
	), children AS MATERIALIZED (
		SELECT a.alert_id, a.rule_id, l.labels, ARRAY(SELECT jsonb_object_keys(l.labels)) AS names
		FROM unnest(alert_ids, rule_ids, labels) AS a (alert_id, rule_id, labels)
		CROSS JOIN LATERAL (SELECT a.labels - '{alertname,severity}'::text[] AS labels) AS l
		WHERE a.rule_id IN (SELECT c.child FROM ancestors AS c WHERE c.id IN (SELECT p.rule_id FROM parents AS p))
	), common AS MATERIALIZED (
		SELECT a.child, a.id AS parent, a.name, c.names AS child_names, p.names AS parent_names,
			ARRAY(SELECT unnest(c.names) INTERSECT SELECT unnest(p.names) ORDER BY 1) AS names
		FROM ancestors AS a
		JOIN (SELECT DISTINCT x.rule_id, x.names FROM children AS x) AS c ON c.rule_id = a.child
		JOIN (SELECT DISTINCT x.rule_id, x.names FROM parents AS x) AS p ON p.rule_id = a.id
	), parent_keys AS MATERIALIZED (
		SELECT m.child, m.parent, m.name, m.child_names, m.names, k.key, min(p.alert_id) AS alert_id
		FROM common AS m
		JOIN parents AS p ON p.rule_id = m.parent AND p.names = m.parent_names
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT p.labels ->> n FROM unnest(m.names) AS n) AS key) AS k
		GROUP BY m.child, m.parent, m.name, m.child_names, m.names, k.key
	), child_keys AS MATERIALIZED (
		SELECT c.alert_id, c.rule_id, c.names AS child_names, m.names, k.key
		FROM (SELECT DISTINCT x.child, x.child_names, x.names FROM common AS x) AS m
		JOIN children AS c ON c.rule_id = m.child AND c.names = m.child_names
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT c.labels ->> n FROM unnest(m.names) AS n) AS key) AS k
	)
	SELECT DISTINCT ON (c.alert_id) c.alert_id, 'parent', jsonb_build_object('rule', p.name, 'alert_id', p.alert_id)
	FROM child_keys AS c
	JOIN parent_keys AS p ON p.child = c.rule_id AND p.child_names = c.child_names AND p.names = c.names AND p.key = c.key
	WHERE p.alert_id <> c.alert_id
	ORDER BY c.alert_id, p.name
$$;
COMMENT ON FUNCTION monitoring.alerts_with_firing_parent(bigint[], bigint[], jsonb[], timestamptz) IS 'Which of these alerts, given with their rules and labels, belong to a rule of which a parent, or its parent, fires with the same values of the labels that both alerts have.';
