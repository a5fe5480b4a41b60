-- alerts, silences: who is not told of which alert: silences, inhibition, time intervals.

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

----------------------------------------------------------------------------------------------------------------------
-- What keeps alerts quiet
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_suppressions(alert_ids bigint[], at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (alert_id bigint, reason text, details jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN QUERY
	SELECT h.alert_id, r.reason, jsonb_strip_nulls(r.details)
	FROM monitoring.alert_handling AS h
	CROSS JOIN LATERAL (VALUES
		('snoozed', h.snoozed_until > alert_suppressions.at, jsonb_build_object('until', h.snoozed_until, 'by', h.snoozed_by)),
		('dismissed', h.dismissed_at IS NOT NULL, jsonb_build_object('at', h.dismissed_at, 'by', h.dismissed_by)),
		('acknowledged', h.acknowledged_at IS NOT NULL AND coalesce(h.acknowledged_until > alert_suppressions.at, true),
			jsonb_build_object('at', h.acknowledged_at, 'by', h.acknowledged_by, 'until', h.acknowledged_until))
	) AS r (reason, holds, details)
	WHERE r.holds AND h.alert_id = ANY (alert_suppressions.alert_ids);
END $$;
COMMENT ON FUNCTION monitoring.alert_suppressions(bigint[], timestamptz) IS 'Why nobody is notified of these alerts at a time, one row per alert and reason: silence, inhibition, parent, snoozed, dismissed or acknowledged.';
