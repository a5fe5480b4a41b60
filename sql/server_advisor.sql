-- advisor: own advisors, states of findings, who may do what. What the advisors find is tested in test/t/047_advisor.pl.
SET timezone = 'UTC';
SET datestyle = 'ISO';
\set VERBOSITY terse
-- the worker's job would run advisors, too
BEGIN;
UPDATE monitoring.jobs SET enabled = false WHERE name = 'advise';
COMMIT;
BEGIN;
LOCK TABLE monitoring.advisor_runs;
COMMIT;

-- every builtin advisor runs; those who have nothing to say are not listed
SELECT a.name, r.failure
FROM monitoring.advisors AS a
LEFT JOIN monitoring.advise('2031-01-01') AS r USING (name)
WHERE r.name IS NULL OR r.failure IS NOT NULL ORDER BY 1;
UPDATE monitoring.advisors SET enabled = false;

-- an advisor of one's own: what is in a table
CREATE SCHEMA regress_advisor;
CREATE TABLE regress_advisor.faults (object text, severity text, impact float8);
INSERT INTO regress_advisor.faults VALUES ('one', 'low', 0.5), ('two', 'high', 0.1), ('three', 'low', 0.7), ('four', 'info', 1);
CREATE FUNCTION regress_advisor.find(at timestamptz, thresholds jsonb)
RETURNS TABLE (object_type text, object_name text, severity text, impact float8, summary text, evidence jsonb, gain float8, gain_unit text,
	fix_sql text, verify_sql text)
LANGUAGE sql AS $$
	SELECT 'fault', f.object, f.severity, f.impact, f.object || ' is wrong', jsonb_build_object('at', at), 1, 'bytes',
		format('DELETE FROM regress_advisor.faults WHERE object = %L;', f.object), NULL
	FROM regress_advisor.faults AS f
	WHERE f.impact >= (thresholds ->> 'impact')::float8
$$;
INSERT INTO monitoring.advisors (name, function, category, thresholds) VALUES ('own', 'regress_advisor.find', 'own', '{"impact": 0}');
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-01', 'own');
SELECT place, severity, object_name, summary, evidence, impact, gain, gain_unit, fix_sql, opened_at FROM monitoring.advice WHERE advisor = 'own';
SELECT verify_sql = format('SELECT monitoring.check_finding(%s) AS fixed', finding) AS asks_the_advisor FROM monitoring.advice WHERE object_name = 'two';

-- fixed is done, what comes back is open again, a threshold that rises is a way to be done
DELETE FROM regress_advisor.faults WHERE object = 'two';
SELECT monitoring.check_finding(finding, '2031-01-02') AS fixed, object_name FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;
SELECT object_name, state, first_seen, last_seen, done_at, reopened FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;
INSERT INTO regress_advisor.faults VALUES ('two', 'medium', 0.2);
UPDATE monitoring.advisors SET thresholds = '{"impact": 0.2}' WHERE name = 'own';
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-03', 'own');
SELECT object_name, severity, state, first_seen, last_seen, opened_at, done_at, reopened FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;

-- ignored stays ignored, until it is not
SELECT monitoring.ignore_finding(finding, 'it is meant', '2031-01-10', '2031-01-03') FROM monitoring.findings WHERE object_name = 'two' AND advisor = 'own';
SELECT monitoring.ignore_finding(finding, 'for good', at => '2031-01-03') FROM monitoring.findings WHERE object_name = 'four' AND advisor = 'own';
DELETE FROM regress_advisor.faults WHERE object = 'four';
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-04', 'own');
INSERT INTO regress_advisor.faults VALUES ('four', 'info', 1);
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-09', 'own');
SELECT object_name, state, ignore_reason, ignored_at, ignored_until, ignored_by = current_user AS by_me FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;
SELECT object_name FROM monitoring.advice WHERE advisor = 'own' ORDER BY place;
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-10', 'own');
SELECT object_name, state, ignore_reason, ignored_until FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;
SELECT monitoring.reopen_finding(finding) FROM monitoring.findings WHERE object_name = 'four' AND advisor = 'own';
SELECT object_name FROM monitoring.advice WHERE advisor = 'own' ORDER BY place;

-- of too many the weightiest are taken, and those that were known stay
UPDATE monitoring.advisors SET max_findings = 1, thresholds = '{"impact": 0}' WHERE name = 'own';
INSERT INTO regress_advisor.faults VALUES ('five', 'critical', 0);
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-11', 'own');
SELECT object_name, state, last_seen FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;
SELECT advisor, open, ignored, done, cut_off, run_at, run_error FROM monitoring.advisor_status WHERE advisor = 'own';
UPDATE monitoring.advisors SET max_findings = 10 WHERE name = 'own';

-- what cannot be judged stays as it is
UPDATE regress_advisor.faults SET severity = NULL WHERE object = 'one';
DELETE FROM regress_advisor.faults WHERE object = 'five';
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-12', 'own');
SELECT object_name, state, last_seen FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;
INSERT INTO regress_advisor.faults VALUES (NULL, NULL, 1);
DELETE FROM regress_advisor.faults WHERE object IN ('one', 'two');
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-13', 'own');
DELETE FROM regress_advisor.faults WHERE object IS NULL;
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-14', 'own');

-- those that fail do not stop others, and change nothing; they run as their owners and can only read
CREATE FUNCTION regress_advisor.fails(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row LANGUAGE plpgsql AS $$
BEGIN
	CASE thresholds ->> 'how'
		WHEN 'slow' THEN PERFORM pg_sleep(10);
		WHEN 'writes' THEN DELETE FROM regress_advisor.faults;
		WHEN 'who' THEN RAISE EXCEPTION 'I am %', current_user;
		WHEN 'severity' THEN RETURN NEXT ('fault', 'x', 'dreadful', 0, '', '{}', NULL, NULL, NULL, NULL)::monitoring.advice_row;
		WHEN 'impact' THEN RETURN NEXT ('fault', 'x', 'low', 2, '', '{}', NULL, NULL, NULL, NULL)::monitoring.advice_row;
		WHEN 'twice' THEN
			RETURN NEXT ('fault', 'x', 'low', 0.1, '', '{}', NULL, NULL, NULL, NULL)::monitoring.advice_row;
			RETURN NEXT ('fault', 'x', 'low', 0.2, '', '{}', NULL, NULL, NULL, NULL)::monitoring.advice_row;
		WHEN 'nan' THEN RETURN NEXT ('fault', 'x', 'low', 'NaN', '', '{}', NULL, NULL, NULL, NULL)::monitoring.advice_row;
	END CASE;
END $$;
CREATE ROLE regress_advisor_owner;
ALTER FUNCTION regress_advisor.fails OWNER TO regress_advisor_owner;
GRANT USAGE ON SCHEMA regress_advisor TO regress_advisor_owner;
GRANT ALL ON regress_advisor.faults TO regress_advisor_owner;
GRANT USAGE ON SCHEMA monitoring TO regress_advisor_owner;
INSERT INTO monitoring.advisors (name, function, category, thresholds, timeout)
SELECT 'fails: ' || h, 'regress_advisor.fails', 'own', jsonb_build_object('how', h), '100 milliseconds'
FROM unnest('{slow,writes,who,severity,impact,twice,nan}'::text[]) AS h;
INSERT INTO monitoring.advisors (name, function, category) VALUES ('fails: gone', 'regress_advisor.gone', 'own');
SELECT name, given, opened, done, failure FROM monitoring.advise('2031-01-15') ORDER BY name;
SELECT count(*) FROM regress_advisor.faults;
SELECT advisor, run_at, run_error FROM monitoring.advisor_status WHERE advisor LIKE 'fails%' AND advisor <> 'fails: slow' ORDER BY 1;
DELETE FROM monitoring.advisors WHERE name LIKE 'fails%';

-- when autovacuum comes: by the table's parameters, and no later than at the upper limit, which 18 has
SELECT monitoring.vacuum_due_at(o || '{}', 100) AS due, monitoring.vacuum_due_at(o || '{autovacuum_vacuum_max_threshold=20}', 100) AS limited,
	monitoring.vacuum_due_at(o || '{autovacuum_vacuum_max_threshold=-1}', 100) AS unlimited
FROM (VALUES ('{autovacuum_vacuum_threshold=10,autovacuum_vacuum_scale_factor=0.5}'::text[])) AS v (o);
-- the job runs what is due, and forgets what has long been done
SELECT monitoring.advise_job('2031-01-15 12:00');
SELECT run_at FROM monitoring.advisor_status WHERE advisor = 'own';
SELECT monitoring.advise_job('2031-01-16');
SELECT run_at FROM monitoring.advisor_status WHERE advisor = 'own';
SELECT monitoring.advise_job('2033-01-16');
SELECT object_name, state FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;

-- wrong arguments
SELECT monitoring.advise('infinity');
SELECT monitoring.advise(NULL);
SELECT monitoring.advise('2033-01-17', 'nobody');
SELECT monitoring.ignore_finding(-1, 'why');
SELECT monitoring.ignore_finding(1, '');
SELECT monitoring.ignore_finding(1, 'why', '2001-01-01');
SELECT monitoring.reopen_finding(-1);
SELECT monitoring.check_finding(-1);
INSERT INTO monitoring.advisors (name, function, category) VALUES ('x', 'unqualified', 'x');
INSERT INTO monitoring.advisors (name, function, category, thresholds) VALUES ('x', 'a.b', 'x', '[]');

-- viewers read; responders run advisors and decide about findings
CREATE ROLE regress_advisor_viewer;
CREATE ROLE regress_advisor_responder;
SELECT monitoring.grant_access('regress_advisor_viewer', 'viewer'), monitoring.grant_access('regress_advisor_responder', 'responder');
SET ROLE regress_advisor_viewer;
SELECT object_name, state FROM monitoring.findings WHERE advisor = 'own' ORDER BY object_name;
SELECT count(*) > 0 AS reads FROM monitoring.advisor_status;
SELECT monitoring.advise();
SELECT monitoring.ignore_finding(1, 'why');
SELECT FROM monitoring.advisor_findings;
SET ROLE regress_advisor_responder;
SELECT name, failure FROM monitoring.advise('2033-02-01', 'own');
SELECT monitoring.ignore_finding(finding, 'I say so', at => '2033-02-01') FROM monitoring.findings WHERE object_name = 'four' AND advisor = 'own';
SELECT ignored_by FROM monitoring.findings WHERE object_name = 'four' AND advisor = 'own';
INSERT INTO monitoring.advisors (name, function, category) VALUES ('mine', 'regress_advisor.find', 'own');
RESET ROLE;

-- counters: a sample in six hours at most; after a reset everything starts anew
DELETE FROM monitoring.advisor_usage;
UPDATE monitoring.advisor_samples SET sampled_at = NULL, counters = NULL, previous_at = NULL, previous_counters = NULL;
SELECT seconds, counters FROM monitoring.counters_since('2034-01-01');
SELECT count(*) FROM monitoring.usage_since('2034-01-01');
SELECT monitoring.sample_usage('2034-01-01'), monitoring.sample_usage('2034-01-01 05:59');
SELECT monitoring.sample_usage('2034-01-01 06:00'), monitoring.sample_usage('2034-01-01 18:00');
SELECT DISTINCT over FROM monitoring.usage_since('2034-01-01 20:00') WHERE relation = 'regress_advisor.faults'::regclass;
SELECT seconds FROM monitoring.counters_since('2034-01-01 20:00');
UPDATE monitoring.advisor_samples SET counters = counters || '{"stats_reset": "2000-01-01 00:00Z"}';
SELECT seconds FROM monitoring.counters_since('2034-01-01 20:00');
SELECT count(*) FROM monitoring.usage_since('2034-01-01 20:00');
SELECT monitoring.sample_usage('2034-01-02');
SELECT seconds FROM monitoring.counters_since('2034-01-02 01:00');
SELECT DISTINCT over FROM monitoring.usage_since('2034-01-02 01:00');

DELETE FROM monitoring.advisors WHERE name = 'own';
DELETE FROM monitoring.advisor_findings;
DELETE FROM monitoring.advisor_usage;
UPDATE monitoring.advisor_samples SET sampled_at = NULL, counters = NULL, previous_at = NULL, previous_counters = NULL;
DELETE FROM monitoring.advisor_runs;
UPDATE monitoring.advisors SET enabled = true;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'advise';
DROP SCHEMA regress_advisor CASCADE;
SELECT monitoring.revoke_access('regress_advisor_viewer'), monitoring.revoke_access('regress_advisor_responder');
REVOKE ALL ON SCHEMA monitoring FROM regress_advisor_owner;
DROP ROLE regress_advisor_viewer, regress_advisor_responder, regress_advisor_owner;
