-- Evidence in storms: of whom it is kept when more than a thousand alerts fire at once, and what bounds it over time.
\set VERBOSITY terse
\pset format unaligned
SET client_min_messages = warning;
BEGIN;
\set ECHO none
\i sql/breaches.inc
\set ECHO all
DELETE FROM monitoring.evidence_kinds;
CREATE FUNCTION public.ev_small(at timestamptz) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"seen"'::jsonb $$;
INSERT INTO monitoring.evidence_kinds (name, function, place) VALUES ('small', 'public.ev_small', 1);
CREATE FUNCTION pg_temp.evaluate(after interval) RETURNS integer LANGUAGE sql AS $$ SELECT monitoring.evaluate_alerts('2030-02-04'::timestamptz + after) $$;
CREATE FUNCTION pg_temp.evidence(rule text, host text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT monitoring.evidence_of(a.alert_id) - 'at' FROM monitoring.alerts AS a WHERE a.rule = evidence.rule AND a.labels ->> 'host' = host AND a.state = 'firing'
$$;
SELECT pg_temp.rule('EvLow', 'low', '{}'), pg_temp.rule('EvHigh', 'high', '{}'), pg_temp.rule('EvOther', 'low', '{}');

-- those of the highest severity have it, whatever the order in which they fire; the others are told why they have none
SELECT pg_temp.fire('EvLow', VARIADIC (SELECT array_agg('l' || g) FROM generate_series(1, 1500) AS g)),
	pg_temp.fire('EvHigh', VARIADIC (SELECT array_agg('h' || g) FROM generate_series(1, 30) AS g));
SELECT pg_temp.evaluate('0');
SELECT count(*) FILTER (WHERE e ? 'small') AS have, count(*) FILTER (WHERE e ? 'left_out') AS have_not, count(*) FILTER (WHERE e ? 'small' AND a.rule = 'EvHigh') AS high
FROM monitoring.alerts AS a CROSS JOIN LATERAL monitoring.evidence_of(a.alert_id) AS e WHERE a.state = 'firing' AND a.rule LIKE 'Ev%';
SELECT DISTINCT monitoring.evidence_of(a.alert_id) - 'at' AS evidence FROM monitoring.alerts AS a WHERE a.rule LIKE 'Ev%' AND a.state = 'firing' ORDER BY 1;
DELETE FROM pg_temp.breach;
SELECT pg_temp.evaluate('1 min');

-- an alert that fires again and again has evidence of five times in an hour; one that fires with it has it
CREATE FUNCTION pg_temp.flap(after interval) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	evidence jsonb;
BEGIN
	PERFORM pg_temp.fire('EvOther', 'x'), pg_temp.evaluate(after);
	evidence := pg_temp.evidence('EvOther', 'x');
	DELETE FROM pg_temp.breach;
	PERFORM pg_temp.evaluate(after + '10 s');
	RETURN evidence;
END $$;
SELECT n, pg_temp.flap('2 hours' + n * interval '1 min') AS evidence FROM generate_series(1, 7) AS n;
SELECT pg_temp.fire('EvOther', 'x', 'y');
SELECT pg_temp.evaluate('2 hours 8 min');
SELECT pg_temp.evidence('EvOther', 'x') AS x, pg_temp.evidence('EvOther', 'y') AS y;
DELETE FROM pg_temp.breach;
SELECT pg_temp.evaluate('2 hours 9 min');
SELECT pg_temp.flap('3 hours 10 min') AS an_hour_later;

-- all of an hour take a megabyte at most, of which a note remains; the hour before does not count
CREATE FUNCTION pg_temp.noise(bytes integer) RETURNS jsonb LANGUAGE sql AS $$
	SELECT to_jsonb(string_agg(encode(sha256(n::text::bytea), 'base64'), '')) FROM generate_series(1, bytes / 32) AS n
$$;
INSERT INTO monitoring.alert_evidence (at, alert_ids, evidence, fingerprints)
SELECT '2030-02-04 08:00', '{}', pg_temp.noise(300000), '{}' FROM generate_series(1, 4);
SELECT pg_temp.flap('8 hours 30 min') AS within, pg_temp.flap('9 hours') AS after_an_hour;
SELECT max(pg_column_size(evidence)) < 200 AS small FROM monitoring.alert_evidence WHERE at = '2030-02-04 08:30';
ROLLBACK;
