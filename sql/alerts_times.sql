-- Time intervals: what is refused, and which times match.
SET timezone = 'UTC';
\set VERBOSITY terse
\t on
CREATE FUNCTION pg_temp.try(spec text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN monitoring.check_time_spec(spec::jsonb);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;

-- accepted, in the form in which it is stored
SELECT monitoring.check_time_spec('{"times": [{"start": "09:00", "end": "17:30"}, {"start_time": "22:00", "end_time": "24:00"}],
	"weekdays": ["Monday:FRIDAY", "sunday"], "days_of_month": ["1:5", "-3:-1", "5:-5"], "months": ["January", "3:may", "11"],
	"years": ["2026", "2030:2031"], "location": "Europe/Berlin"}');
SELECT monitoring.check_time_spec('[{"weekdays": ["saturday:monday"]}, {}]');
SELECT monitoring.check_time_spec(NULL) IS NULL;
-- what was stored is accepted again
SELECT monitoring.check_time_spec(monitoring.check_time_spec(s)) = monitoring.check_time_spec(s) FROM (VALUES ('{"times": [{"start_time": "00:00", "end_time": "24:00"}], "months": ["may"]}'::jsonb)) AS v (s);

-- refused
\pset format unaligned
SELECT s, pg_temp.try(s) FROM unnest(ARRAY[
	'5', '[]', '[5]', 'null', '{"hours": []}', '{"times": []}', '{"times": "09:00"}', '{"times": [1]}', '{"times": [{"start": "9:00", "end": "10:00"}]}',
	'{"times": [{"start": "22:00", "end": "06:00"}]}', '{"times": [{"start": "10:00", "end": "10:00"}]}', '{"times": [{"start": "22:00"}]}', '{"times": [{"start": "24:00", "end": "24:00"}]}',
	'{"times": [{"start": "23:60", "end": "24:00"}]}', '{"times": [{"start": "10:00", "end": "24:01"}]}',
	'{"weekdays": ["monday:someday"]}', '{"weekdays": [1]}', '{"weekdays": ["1"]}', '{"weekdays": ["monday:tuesday:friday"]}', '{"weekdays": [""]}',
	'{"days_of_month": ["0"]}', '{"days_of_month": ["-1:5"]}', '{"days_of_month": ["32"]}', '{"days_of_month": ["31:-31"]}', '{"days_of_month": ["5:1"]}', '{"days_of_month": ["-1:-5"]}', '{"days_of_month": [1]}',
	'{"months": ["13"]}', '{"months": ["5:3"]}', '{"months": ["0"]}', '{"months": ["brumaire"]}', '{"months": [null]}', '{"months": [["may"]]}',
	'{"years": ["0"]}', '{"years": ["2030:2026"]}', '{"years": ["99999999999"]}',
	'{"location": "Mars/Base"}', '{"location": "CEST"}', '{"location": "EST5EDT4,M1"}', '{"location": "Foo/Bar+3"}', '{"location": ""}', '{"location": 5}']) AS s;
SELECT z, pg_temp.try(jsonb_build_object('location', z)::text) FROM unnest('{UTC,utc,Europe/Berlin,america/argentina/ushuaia,America/Port-au-Prince,Etc/GMT+3,GMT}'::text[]) AS z;
SELECT pg_temp.try((SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 101))::text);
SELECT pg_temp.try((SELECT jsonb_build_object('years', jsonb_agg('2026'::text)) FROM generate_series(1, 101))::text);

-- the end is excluded, 24:00 is the end of the day
SELECT t, monitoring.time_matches('{"times": [{"start": "09:00", "end": "17:00"}, {"start": "23:30", "end": "24:00"}]}', t::timestamptz)
FROM unnest('{2026-06-01 08:59:59.999,2026-06-01 09:00,2026-06-01 16:59:59.999,2026-06-01 17:00,2026-06-01 23:29,2026-06-01 23:59:59.999,2026-06-02 00:00}'::text[]) AS t;
-- all keys must fit; one interval of a list must
SELECT t::date, to_char(t, 'FMday'), monitoring.time_matches('[{"weekdays": ["monday:wednesday"], "months": ["june"]}, {"days_of_month": ["7"]}]', t)
FROM generate_series('2026-05-31'::timestamptz, '2026-06-08', '1 day') AS t;
SELECT monitoring.time_matches('{}'), monitoring.time_matches('[{}]'), monitoring.time_matches('[]'), monitoring.time_matches(NULL) IS NULL;
-- over the week's end
SELECT string_agg(to_char(t, 'Dy'), ' ' ORDER BY t) FROM generate_series('2026-06-07'::timestamptz, '2026-06-13', '1 day') AS t WHERE monitoring.time_matches('{"weekdays": ["friday:monday"]}', t);
-- days from the end of a month, long or short; days that it does not have
SELECT m, s, (SELECT string_agg(to_char(t, 'DD'), ' ' ORDER BY t)
	FROM generate_series(m::timestamptz, m::timestamptz + '1 month - 1 day'::interval, '1 day') AS t
	WHERE monitoring.time_matches(jsonb_build_object('days_of_month', jsonb_build_array(s)), t))
FROM unnest('{2026-01-01,2026-02-01,2028-02-01}'::text[]) AS m, unnest('{-1,-3:-1,29:31,31,27:-2,-31:-28,30:-1}'::text[]) AS s ORDER BY m, s;
-- months and years
SELECT string_agg(to_char(t, 'YYYY-MM'), ' ' ORDER BY t) FROM generate_series('2025-01-01'::timestamptz, '2028-12-01', '1 month') AS t
WHERE monitoring.time_matches('{"months": ["january", "11:december"], "years": ["2026:2027"]}', t);

-- Berlin sets its clocks from 02:00 to 03:00 on 2026-03-29 and from 03:00 back to 02:00 on 2026-10-25
SELECT t, t AT TIME ZONE 'Europe/Berlin' AS local, monitoring.time_matches('{"times": [{"start": "02:00", "end": "03:00"}], "location": "Europe/Berlin"}', t) AS night,
	monitoring.time_matches('{"times": [{"start": "09:00", "end": "17:00"}], "location": "Europe/Berlin"}', t) AS office
FROM unnest(ARRAY['2026-03-28 07:59', '2026-03-28 08:00', '2026-03-29 00:59', '2026-03-29 01:00', '2026-03-29 06:59', '2026-03-29 07:00',
	'2026-10-24 07:00', '2026-10-24 23:59', '2026-10-25 00:00', '2026-10-25 00:59', '2026-10-25 01:00', '2026-10-25 01:59', '2026-10-25 02:00', '2026-10-25 07:00', '2026-10-25 08:00']::timestamptz[]) AS t;
-- two hours of local time are two hours of real time but on those days
SELECT d::date, count(*) FROM generate_series('2026-03-27 23:00'::timestamptz, '2026-03-30 21:59', '1 minute') AS t
CROSS JOIN LATERAL (SELECT date_trunc('day', t AT TIME ZONE 'Europe/Berlin') AS d) AS l
WHERE monitoring.time_matches('{"times": [{"start": "01:30", "end": "03:30"}], "location": "Europe/Berlin"}', t) GROUP BY 1 ORDER BY 1;
SELECT d::date, count(*) FROM generate_series('2026-10-23 22:00'::timestamptz, '2026-10-26 22:59', '1 minute') AS t
CROSS JOIN LATERAL (SELECT date_trunc('day', t AT TIME ZONE 'Europe/Berlin') AS d) AS l
WHERE monitoring.time_matches('{"times": [{"start": "01:30", "end": "03:30"}], "location": "Europe/Berlin"}', t) GROUP BY 1 ORDER BY 1;
-- it is another day elsewhere
SELECT monitoring.time_matches('{"weekdays": ["monday"], "location": "Pacific/Auckland"}', '2026-06-07 13:00'), monitoring.time_matches('{"weekdays": ["monday"]}', '2026-06-07 13:00');
-- the session's time zone does not matter
SET timezone = 'Asia/Tokyo';
SELECT monitoring.time_matches('{"times": [{"start": "09:00", "end": "17:00"}]}', '2026-06-01 09:00+00'), monitoring.time_matches('{"times": [{"start": "09:00", "end": "17:00"}]}', '2026-06-01 08:59+00');
SET timezone = 'UTC';

-- named intervals
SELECT monitoring.set_time_interval('nights', '{"times": [{"start": "00:00", "end": "06:00"}]}', '2026-01-01');
SELECT monitoring.set_time_interval('always', '{}', '2026-01-01');
SELECT monitoring.set_time_interval('nights', '{"times": [{"start": "00:00", "end": "05:00"}]}', '2026-01-02');
SELECT monitoring.set_time_interval('', '{}');
SELECT monitoring.set_time_interval('x', '{"weekdays": ["someday"]}');
SELECT monitoring.set_time_interval('x', NULL);
SELECT name, spec, created_by = current_user, updated_at FROM monitoring.mute_times ORDER BY name;
SELECT active FROM monitoring.mute_times WHERE name = 'always';
SELECT monitoring.drop_time_interval('nights');
SELECT monitoring.drop_time_interval('nights');
SELECT monitoring.drop_time_interval('always');
