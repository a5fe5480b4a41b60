-- Health checks on virtual time: retries, dependencies, maintenance, groups, heartbeats, transitions and uptime. All of it is
-- rolled back.
\i sql/health.inc
DELETE FROM monitoring.health_check_defs;
CREATE TEMP TABLE start AS SELECT date_trunc('day', clock_timestamp()) + interval '5 hours' AS t;
CREATE FUNCTION pg_temp.at(seconds float8) RETURNS timestamptz LANGUAGE sql AS $$ SELECT t + seconds * interval '1 s' FROM pg_temp.start $$;
CREATE FUNCTION pg_temp.seconds(at timestamptz) RETURNS int LANGUAGE sql AS $$ SELECT extract(epoch FROM at - t)::int FROM pg_temp.start $$;
-- what a check finds is in a table
CREATE TABLE public.hs_value (name text PRIMARY KEY, v float8);
CREATE FUNCTION pg_temp.make(name text, retries int DEFAULT 0, depends_on text[] DEFAULT '{}', every interval DEFAULT '1 minute', maintenance text[] DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.hs_value VALUES (name, 0);
	PERFORM monitoring.create_health_check(name, 'sql', jsonb_build_object('query', format('SELECT v FROM public.hs_value WHERE name = %L', name)), every => every,
		degraded => 1, unhealthy => 2, retries => retries, depends_on => depends_on, maintenance => maintenance, at => pg_temp.at(0));
END $$;
-- run what is due at a time, and how all stand then
CREATE FUNCTION pg_temp.tick(seconds float8, changes jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.hs_value AS v SET v = c.value::float8 FROM jsonb_each_text(changes) AS c WHERE c.key = v.name;
	PERFORM pg_temp.run_checks(pg_temp.at(seconds));
	RETURN (SELECT string_agg(format('%s %s%s%s next %s', s.name, s.status, CASE WHEN s.bad_results > 0 THEN ' +' || s.bad_results END,
		' by ' || s.suppressed_by, pg_temp.seconds(s.next_at)), ', ' ORDER BY s.name) FROM monitoring.health_status AS s);
END $$;
CREATE FUNCTION pg_temp.history(name text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s: %s -> %s', pg_temp.seconds(t.at), t.from_status, t.to_status) FROM monitoring.check_transitions AS t WHERE t.check_name = history.name ORDER BY t.id
$$;

-- ---- retries ----

SELECT pg_temp.make('a', retries => 2);
SELECT pg_temp.tick(0);
-- not before it is due
SELECT pg_temp.tick(59.9);
SELECT pg_temp.tick(60, '{"a": 5}');
SELECT pg_temp.tick(65);
SELECT pg_temp.tick(70);
-- the third in a row; it has been so since the first
SELECT pg_temp.tick(80);
SELECT pg_temp.tick(140, '{"a": 1.5}');
SELECT pg_temp.tick(200, '{"a": 0}');
-- one that is bad once is not told
SELECT pg_temp.tick(260, '{"a": 5}');
SELECT pg_temp.tick(270, '{"a": 0}');
SELECT pg_temp.tick(330, '{"a": 1}');
SELECT pg_temp.history('a');
SELECT monitoring.uptime('a', pg_temp.at(0), pg_temp.at(200));
SELECT check_name, uptime, downtime, degraded, unknown, outages FROM monitoring.health_uptime(pg_temp.at(0), pg_temp.at(200));
SELECT monitoring.uptime('a', pg_temp.at(-500), pg_temp.at(-100)) IS NULL AS "before there was any";
SELECT uptime FROM monitoring.health_uptime(pg_temp.at(61), pg_temp.at(62));
SELECT monitoring.uptime('a', pg_temp.at(61), pg_temp.at(62)), monitoring.uptime('a', pg_temp.at(201), pg_temp.at(300));
SELECT pg_temp.seconds(r.at), r.status, r.value FROM monitoring.check_results AS r WHERE r.check_name = 'a' ORDER BY r.at;
-- what was missed is made up for by one run, and the beat goes on
SELECT pg_temp.tick(1000);
SELECT pg_temp.tick(1005);
SELECT pg_temp.tick(1065);
-- the clock steps back by a day
SELECT pg_temp.tick(-86400);
SELECT monitoring.drop_health_check('a');

-- ---- dependencies ----

SELECT pg_temp.make('parent');
SELECT pg_temp.make('child', depends_on => '{parent}');
SELECT pg_temp.make('grandchild', depends_on => '{child}');
SELECT pg_temp.tick(2000);
-- all go down at once, and the child is asked first: it waits for what its parent says
UPDATE monitoring.health_check_states SET next_at = pg_temp.at(2090) WHERE check_name = 'parent';
SELECT pg_temp.tick(2060, '{"parent": 5, "child": 5, "grandchild": 5}');
SELECT pg_temp.tick(2065);
SELECT pg_temp.tick(2070);
-- not run while it is
SELECT pg_temp.tick(2130);
-- the parent is back: all are looked at again
SELECT pg_temp.tick(2190, '{"parent": 0, "child": 0, "grandchild": 0}');
SELECT pg_temp.tick(2195);
-- a child alone
SELECT pg_temp.tick(2255, '{"child": 5}');
SELECT pg_temp.tick(2256);
SELECT pg_temp.tick(2270);
SELECT pg_temp.tick(2340, '{"child": 0}');
SELECT pg_temp.history('child');
SELECT pg_temp.history('grandchild');
-- suppressed is neither up nor down
SELECT check_name, round(uptime::numeric, 4) AS uptime, downtime, unknown, outages FROM monitoring.health_uptime(pg_temp.at(2000), pg_temp.at(2250));
-- circles and what is still needed
DO $$ BEGIN PERFORM monitoring.alter_health_check('parent', '{"depends_on": ["grandchild"]}'); EXCEPTION WHEN invalid_parameter_value THEN RAISE WARNING '%', SQLERRM; END $$;
DO $$ BEGIN PERFORM monitoring.drop_health_check('parent'); EXCEPTION WHEN dependent_objects_still_exist THEN RAISE WARNING '%', SQLERRM; END $$;
SELECT monitoring.drop_health_check(name) FROM unnest('{grandchild,child,parent}'::text[]) AS name;

-- ---- maintenance ----

SELECT monitoring.set_time_interval('hs night', '{"times": [{"start_time": "05:10", "end_time": "05:20"}]}');
SELECT pg_temp.make('m', maintenance => '{"hs night"}');
SELECT pg_temp.make('n');
SELECT pg_temp.tick(0);
SELECT pg_temp.tick(590);
SELECT pg_temp.tick(601, '{"m": 5, "n": 5}');
SELECT pg_temp.tick(655);
SELECT pg_temp.tick(1201);
-- a silence that names the check; others hide alerts, but what happens counts
SELECT monitoring.create_silence('{"check": "n"}', '10 minutes', 'move', at => pg_temp.at(1300)) > 0 AS silenced;
SELECT monitoring.create_silence('{"severity": "low"}', '10 minutes', 'quiet', at => pg_temp.at(1300)) > 0 AS silenced;
SELECT pg_temp.tick(1310);
SELECT pg_temp.tick(1910, '{"m": 0, "n": 0}');
SELECT pg_temp.tick(1970);
SELECT pg_temp.history('m');
SELECT pg_temp.history('n');
SELECT check_name, round(uptime::numeric, 4) AS uptime, downtime, maintenance, unknown, outages FROM monitoring.health_uptime(pg_temp.at(0), pg_temp.at(1970));
-- the metric has no value meanwhile
SELECT monitoring.value('check_up', 'last', '1 hour', '{"check": "n"}');

-- ---- groups ----

SELECT pg_temp.make('g' || i) FROM generate_series(1, 3) AS i;
SELECT monitoring.create_health_check('z ' || c.mode, 'group', c.config || '{"members": ["g1", "g2", "g3"]}', retries => 0, at => pg_temp.at(2400))
FROM (VALUES ('worst', '{}'::jsonb), ('all', '{"mode": "all"}'), ('any', '{"mode": "any"}'), ('quorum', '{"mode": "quorum", "quorum": 2}')) AS c (mode, config);
CREATE FUNCTION pg_temp.groups(seconds float8, g1 float8, g2 float8, g3 float8) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_temp.tick(seconds, jsonb_build_object('g1', g1, 'g2', g2, 'g3', g3));
	RETURN QUERY SELECT string_agg(format('%s: %s', substr(s.name, 3), s.status), ', ' ORDER BY s.name) || '; ' || min(s.message) FROM monitoring.health_status AS s WHERE s.kind = 'group';
END $$;
SELECT pg_temp.groups(2400, 0, 0, 0);
SELECT pg_temp.groups(2460, 0, 1.5, 0);
SELECT pg_temp.groups(2520, 0, 5, 0);
SELECT pg_temp.groups(2580, 5, 5, 0);
SELECT pg_temp.groups(2640, 5, 5, 5);
SELECT monitoring.alter_health_check('g1', '{"enabled": false}', pg_temp.at(2641));
SELECT monitoring.alter_health_check('g2', '{"enabled": false}', pg_temp.at(2641));
SELECT pg_temp.groups(2700, 0, 0, 0);
SELECT monitoring.alter_health_check('g3', '{"enabled": false}', pg_temp.at(2701));
-- nothing is known, so nothing changes
SELECT pg_temp.groups(2760, 0, 0, 0);
SELECT latest FROM monitoring.health_status WHERE name = 'z all';
DO $$ BEGIN PERFORM monitoring.drop_health_check('g1'); EXCEPTION WHEN dependent_objects_still_exist THEN RAISE WARNING '%', SQLERRM; END $$;
SELECT monitoring.drop_health_check(name) FROM monitoring.health_status WHERE kind = 'group' ORDER BY name;

-- ---- heartbeats ----

SELECT monitoring.create_health_check('backup', 'heartbeat', degraded => 100, unhealthy => 200, retries => 0, at => pg_temp.at(3000));
CREATE FUNCTION pg_temp.beat(seconds float8) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_temp.run_checks(pg_temp.at(seconds));
	RETURN (SELECT format('%s %s %s', s.status, s.value, s.message) FROM monitoring.health_status AS s WHERE s.name = 'backup');
END $$;
SELECT pg_temp.beat(3001);
SELECT pg_temp.beat(3120);
SELECT monitoring.report_heartbeat('backup', message => E'42 GB\nin 3 min', at => pg_temp.at(3125));
-- the check looks at once
SELECT pg_temp.beat(3126);
SELECT pg_temp.beat(3300);
SELECT pg_temp.beat(3360);
SELECT monitoring.report_heartbeat('backup', at => pg_temp.at(3361));
SELECT pg_temp.beat(3362);
SELECT monitoring.report_heartbeat('backup', false, 'disk full', pg_temp.at(3370));
SELECT pg_temp.beat(3371);
-- an older one does not count
SELECT monitoring.report_heartbeat('backup', at => pg_temp.at(3369));
SELECT pg_temp.beat(3450);
SELECT pg_temp.history('backup');

-- ---- a failing check pages ----

SELECT outcome, count(*) FROM monitoring.install_rules('health') GROUP BY 1;
SELECT monitoring.record_check_metrics(clock_timestamp());
SELECT monitoring.evaluate_alerts() > 0 AS transitions;
SELECT rule, severity, labels ->> 'check' FROM monitoring.alerts WHERE state = 'firing' AND labels ->> 'check' IN (SELECT name FROM monitoring.health_checks) ORDER BY 1, 3;
-- and ends
SELECT monitoring.report_heartbeat('backup', at => pg_temp.at(3500));
SELECT pg_temp.beat(3501);
SELECT monitoring.evaluate_alerts(clock_timestamp() + interval '2 seconds') > 0 AS transitions;
SELECT count(*) FROM monitoring.alerts WHERE state = 'firing' AND labels ->> 'check' = 'backup';
ROLLBACK;
UPDATE monitoring.jobs SET enabled = true WHERE name IN ('health_checks', 'health_metrics', 'evaluate_alerts');
