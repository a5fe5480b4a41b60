-- advisor: what could be better in this database and server, ranked, each with its evidence and the SQL to run.
--
-- An advisor is a row that names a function; its findings are rows that it gives each time. advise() runs the functions confined, each
-- as the owner of its function, read-only and for a bounded time (src/core/confined.c), and compares what they give with what is
-- known: what is new opens, what is gone is done, what comes back is open again. What a function cannot judge now it says so, and
-- that stays as it is.
--
-- Nothing here waits behind a lock of a user's: sizes and counts come from the catalog and the statistics, as the latest vacuum, analyze
-- or index build left them, and the little that has to open tables gives up after lock_timeout.
--
-- The lock of a row of advisor_runs is held while its advisor runs: each runs once at a time.

----------------------------------------------------------------------------------------------------------------------
-- Tables
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.advisors (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,100}$'),
	function text NOT NULL CHECK (cardinality(parse_ident(function)) = 2),
	category text NOT NULL,
	every interval NOT NULL DEFAULT '1 day' CHECK (every >= '1 minute' AND every <= '10 years'),
	enabled boolean NOT NULL DEFAULT true,
	thresholds jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(thresholds) = 'object'),
	timeout interval NOT NULL DEFAULT '10 seconds' CHECK (timeout >= '1 millisecond' AND timeout <= '5 minutes'),
	max_findings integer NOT NULL DEFAULT 200 CHECK (max_findings BETWEEN 1 AND 10000),
	description text NOT NULL DEFAULT '',
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.advisors IS 'What advise() runs. Change the thresholds, and add your own: CREATE FUNCTION and INSERT.';
COMMENT ON COLUMN monitoring.advisors.name IS 'Name of the advisor.';
COMMENT ON COLUMN monitoring.advisors.function IS 'Schema-qualified name of a function f(at timestamptz, thresholds jsonb) that returns SETOF monitoring.advice_row, or a table of such columns. It runs with the rights of its owner and can change nothing.';
COMMENT ON COLUMN monitoring.advisors.category IS 'What it is about, such as indexes.';
COMMENT ON COLUMN monitoring.advisors.every IS 'Time between two runs of the job; advise() by hand runs it at once.';
COMMENT ON COLUMN monitoring.advisors.enabled IS 'Whether it runs, and its findings are in the view advice.';
COMMENT ON COLUMN monitoring.advisors.thresholds IS 'Given to the function; what an object needs to become a finding.';
COMMENT ON COLUMN monitoring.advisors.timeout IS 'A run that takes longer is cancelled.';
COMMENT ON COLUMN monitoring.advisors.max_findings IS 'So many findings of a run are taken, the weightiest.';
COMMENT ON COLUMN monitoring.advisors.description IS 'What it looks for.';
COMMENT ON COLUMN monitoring.advisors.builtin IS 'True for the rows that CREATE EXTENSION made.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.advisors', '');

-- pg_dump carries all advisors; those that CREATE EXTENSION has just made take over when and how they run.
CREATE TRIGGER restore BEFORE INSERT ON monitoring.advisors
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.take_over('name', 'every', 'enabled', 'thresholds', 'timeout', 'max_findings');
COMMENT ON TRIGGER restore ON monitoring.advisors IS 'Takes over changed advisors when a dump is restored.';

CREATE TABLE monitoring.advisor_runs (
	advisor text PRIMARY KEY,
	run_at timestamptz,
	run_seconds float8,
	given integer,
	run_error text
);
COMMENT ON TABLE monitoring.advisor_runs IS 'How each advisor''s latest run went. A row''s lock is held while its advisor runs.';
COMMENT ON COLUMN monitoring.advisor_runs.advisor IS 'Name of the advisor.';
COMMENT ON COLUMN monitoring.advisor_runs.run_at IS 'Time for which it was run last.';
COMMENT ON COLUMN monitoring.advisor_runs.run_seconds IS 'How long that took.';
COMMENT ON COLUMN monitoring.advisor_runs.given IS 'Findings that it gave.';
COMMENT ON COLUMN monitoring.advisor_runs.run_error IS 'Why it failed; null: it did not.';

CREATE TABLE monitoring.advisor_findings (
	finding bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	advisor text NOT NULL,
	object_type text NOT NULL,
	object_name text NOT NULL,
	state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'ignored')),
	severity text NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low', 'info')),
	impact float8 NOT NULL CHECK (impact BETWEEN 0 AND 1),
	summary text NOT NULL,
	evidence jsonb NOT NULL,
	gain float8,
	gain_unit text,
	fix_sql text,
	verify_sql text,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	opened_at timestamptz NOT NULL,
	done_at timestamptz,
	reopened integer NOT NULL DEFAULT 0,
	ignored_by text,
	ignored_at timestamptz,
	ignored_until timestamptz,
	ignore_reason text,
	UNIQUE (advisor, object_type, object_name),
	CHECK ((gain IS NULL) = (gain_unit IS NULL))
);
COMMENT ON TABLE monitoring.advisor_findings IS 'Findings of all times, one row for each advisor and object; see the views advice and findings, which also explains the columns.';
COMMENT ON COLUMN monitoring.advisor_findings.finding IS 'Number of the finding.';
COMMENT ON COLUMN monitoring.advisor_findings.advisor IS 'Name of the advisor.';
COMMENT ON COLUMN monitoring.advisor_findings.object_type IS 'What it is about: index, table, setting, statement, ...';
COMMENT ON COLUMN monitoring.advisor_findings.object_name IS 'Which, qualified and quoted.';
COMMENT ON COLUMN monitoring.advisor_findings.state IS 'open, done or ignored.';
COMMENT ON COLUMN monitoring.advisor_findings.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.advisor_findings.impact IS 'Ratio 0..1.';
COMMENT ON COLUMN monitoring.advisor_findings.summary IS 'What is wrong, in a sentence.';
COMMENT ON COLUMN monitoring.advisor_findings.evidence IS 'The figures it rests on.';
COMMENT ON COLUMN monitoring.advisor_findings.gain IS 'Estimated gain.';
COMMENT ON COLUMN monitoring.advisor_findings.gain_unit IS 'Its unit.';
COMMENT ON COLUMN monitoring.advisor_findings.fix_sql IS 'What to run.';
COMMENT ON COLUMN monitoring.advisor_findings.verify_sql IS 'A query that gives true once it is fixed; null: ask the advisor.';
COMMENT ON COLUMN monitoring.advisor_findings.first_seen IS 'When it was first found.';
COMMENT ON COLUMN monitoring.advisor_findings.last_seen IS 'When it was found last.';
COMMENT ON COLUMN monitoring.advisor_findings.opened_at IS 'When it was found first, or again after it had been done.';
COMMENT ON COLUMN monitoring.advisor_findings.done_at IS 'When it was noticed that it is fixed.';
COMMENT ON COLUMN monitoring.advisor_findings.reopened IS 'How often it came back.';
COMMENT ON COLUMN monitoring.advisor_findings.ignored_by IS 'Who ignored it.';
COMMENT ON COLUMN monitoring.advisor_findings.ignored_at IS 'When.';
COMMENT ON COLUMN monitoring.advisor_findings.ignored_until IS 'Until when; null: for good.';
COMMENT ON COLUMN monitoring.advisor_findings.ignore_reason IS 'Why.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.advisor_findings', '');
SELECT pg_catalog.pg_extension_config_dump('monitoring.advisor_findings_finding_seq', '');

----------------------------------------------------------------------------------------------------------------------
-- Counters of the server, some hours ago
----------------------------------------------------------------------------------------------------------------------

-- Not dumped: oids and counters are those of this server.
CREATE TABLE monitoring.advisor_samples (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	sampled_at timestamptz,
	counters jsonb,
	previous_at timestamptz,
	previous_counters jsonb
);
COMMENT ON TABLE monitoring.advisor_samples IS 'One row: the two latest samples of this database''s counters. Its lock is held while a sample is taken.';
COMMENT ON COLUMN monitoring.advisor_samples.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.advisor_samples.sampled_at IS 'Time of the latest sample; null before the first.';
COMMENT ON COLUMN monitoring.advisor_samples.counters IS 'What it was.';
COMMENT ON COLUMN monitoring.advisor_samples.previous_at IS 'Time of the one before.';
COMMENT ON COLUMN monitoring.advisor_samples.previous_counters IS 'What that was.';
INSERT INTO monitoring.advisor_samples DEFAULT VALUES;

CREATE TABLE monitoring.advisor_usage (
	relation oid PRIMARY KEY,
	reads bigint NOT NULL,
	seq_scans bigint NOT NULL,
	previous_reads bigint,
	previous_seq_scans bigint,
	unchanged_since timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.advisor_usage IS 'How often each table and index had been read at the two latest samples. Rows are written when they change.';
COMMENT ON COLUMN monitoring.advisor_usage.relation IS 'The table or index.';
COMMENT ON COLUMN monitoring.advisor_usage.reads IS 'Scans of it at the latest sample.';
COMMENT ON COLUMN monitoring.advisor_usage.seq_scans IS 'Those of them that read the whole table.';
COMMENT ON COLUMN monitoring.advisor_usage.previous_reads IS 'The same at the sample before; null: it was not there.';
COMMENT ON COLUMN monitoring.advisor_usage.previous_seq_scans IS 'The same at the sample before.';
COMMENT ON COLUMN monitoring.advisor_usage.unchanged_since IS 'Sample since which nobody is known to have read it.';

CREATE FUNCTION monitoring.advisor_counters() RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	counters jsonb;
	checkpoints jsonb;
BEGIN
	SELECT to_jsonb(d) INTO counters FROM pg_stat_database AS d WHERE d.datname = current_database();
	-- since 17 in a view of its own
	IF to_regclass('pg_catalog.pg_stat_checkpointer') IS NULL THEN
		SELECT jsonb_build_object('checkpoints_timed', b.checkpoints_timed, 'checkpoints_requested', b.checkpoints_req)
		INTO checkpoints FROM pg_stat_bgwriter AS b;
	ELSE
		EXECUTE $query$ SELECT jsonb_build_object('checkpoints_timed', c.num_timed, 'checkpoints_requested', c.num_requested)
			FROM pg_stat_checkpointer AS c $query$ INTO checkpoints;
	END IF;
	RETURN counters || checkpoints;
END $$;
COMMENT ON FUNCTION monitoring.advisor_counters() IS 'Counters of this database as in pg_stat_database, and checkpoints_timed and checkpoints_requested of the server.';

CREATE FUNCTION monitoring.sample_usage(at timestamptz DEFAULT clock_timestamp(), spacing interval DEFAULT '6 hours') RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET lock_timeout = '1s' AS $$
DECLARE
	last monitoring.advisor_samples;
	fresh jsonb;
	lost boolean;
BEGIN
	SELECT * INTO STRICT last FROM monitoring.advisor_samples FOR UPDATE;
	IF last.sampled_at > at - spacing THEN
		RETURN false;
	END IF;
	fresh := monitoring.advisor_counters();
	-- after a reset or a crash the counters say nothing about the time before
	lost := coalesce((fresh ->> 'xact_commit')::numeric < (last.counters ->> 'xact_commit')::numeric
		OR fresh -> 'stats_reset' IS DISTINCT FROM last.counters -> 'stats_reset', true);

	WITH now AS MATERIALIZED (
		SELECT i.indexrelid AS relation, pg_stat_get_numscans(i.indexrelid) AS reads, 0::bigint AS seq_scans
		FROM pg_index AS i
		UNION ALL
		SELECT t.relid, t.seq_scan + coalesce(t.idx_scan, 0), t.seq_scan
		FROM pg_stat_all_tables AS t
	)
	INSERT INTO monitoring.advisor_usage AS u (relation, reads, seq_scans, unchanged_since)
	SELECT n.relation, n.reads, n.seq_scans, at FROM now AS n
	ON CONFLICT (relation) DO UPDATE SET reads = excluded.reads, seq_scans = excluded.seq_scans,
		previous_reads = CASE WHEN NOT lost THEN u.reads END, previous_seq_scans = CASE WHEN NOT lost THEN u.seq_scans END,
		unchanged_since = CASE WHEN NOT lost AND excluded.reads = u.reads THEN u.unchanged_since ELSE excluded.unchanged_since END
	WHERE lost OR (u.reads, u.seq_scans, u.previous_reads, u.previous_seq_scans)
		IS DISTINCT FROM (excluded.reads, excluded.seq_scans, u.reads, u.seq_scans);
	DELETE FROM monitoring.advisor_usage AS u WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = u.relation);

	UPDATE monitoring.advisor_samples AS s
	SET sampled_at = at, counters = fresh, previous_at = CASE WHEN NOT lost THEN last.sampled_at END,
		previous_counters = CASE WHEN NOT lost THEN last.counters END;
	RETURN true;
END $$;
COMMENT ON FUNCTION monitoring.sample_usage(timestamptz, interval) IS 'Remember how often tables and indexes of this database have been read, and its counters, unless the latest sample is younger than spacing; returns whether it did. advise() calls it. Counters that were reset or lost start anew.';

CREATE FUNCTION monitoring.usage_since(at timestamptz)
RETURNS TABLE (relation oid, reads bigint, seq_scans bigint, over interval, unused_for interval)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	-- the older of the two samples: a window of hours, also right after a sample
	SELECT n.relation, n.reads - coalesce(u.previous_reads, u.reads), n.seq_scans - coalesce(u.previous_seq_scans, u.seq_scans),
		CASE WHEN u.previous_reads IS NOT NULL THEN usage_since.at - s.previous_at ELSE usage_since.at - s.sampled_at END,
		CASE WHEN n.reads = u.reads THEN usage_since.at - u.unchanged_since ELSE '0' END
	FROM (
		SELECT i.indexrelid AS relation, pg_stat_get_numscans(i.indexrelid) AS reads, 0::bigint AS seq_scans
		FROM pg_index AS i
		UNION ALL
		SELECT t.relid, t.seq_scan + coalesce(t.idx_scan, 0), t.seq_scan
		FROM pg_stat_all_tables AS t
	) AS n
	JOIN monitoring.advisor_usage AS u ON u.relation = n.relation
	CROSS JOIN monitoring.advisor_samples AS s
	CROSS JOIN pg_stat_database AS d
	WHERE d.datname = current_database() AND d.stats_reset IS NOT DISTINCT FROM (s.counters ->> 'stats_reset')::timestamptz
		AND d.xact_commit >= (s.counters ->> 'xact_commit')::bigint AND n.reads >= u.reads
$$;
COMMENT ON FUNCTION monitoring.usage_since(timestamptz) IS 'For advisors: how often each table and index was read since a sample some hours ago (over: how long), and for how long nobody is known to have read it. No rows before the first sample and after a reset of the counters; none for what is younger than the latest sample.';

CREATE FUNCTION monitoring.counters_since(at timestamptz, OUT seconds float8, OUT counters jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT extract(epoch FROM counters_since.at - b.since)::float8,
		(SELECT jsonb_object_agg(n.key, n.value::numeric - (b.counters ->> n.key)::numeric)
			FROM jsonb_each_text(c.now) AS n
			WHERE jsonb_typeof(c.now -> n.key) = 'number' AND jsonb_typeof(b.counters -> n.key) = 'number')
	FROM monitoring.advisor_samples AS s
	CROSS JOIN LATERAL (SELECT coalesce(s.previous_at, s.sampled_at) AS since, coalesce(s.previous_counters, s.counters) AS counters) AS b
	CROSS JOIN monitoring.advisor_counters() AS c (now)
	WHERE b.since < counters_since.at AND c.now -> 'stats_reset' IS NOT DISTINCT FROM s.counters -> 'stats_reset'
		AND (c.now ->> 'xact_commit')::bigint >= (s.counters ->> 'xact_commit')::bigint
$$;
COMMENT ON FUNCTION monitoring.counters_since(timestamptz) IS 'For advisors: what advisor_counters() grew by since a sample some hours ago, and how long that is. Null before the first sample and after a reset of the counters.';

----------------------------------------------------------------------------------------------------------------------
-- Running advisors
----------------------------------------------------------------------------------------------------------------------

CREATE TYPE monitoring.advice_row AS (object_type text, object_name text, severity text, impact float8, summary text, evidence jsonb,
	gain float8, gain_unit text, fix_sql text, verify_sql text);
COMMENT ON TYPE monitoring.advice_row IS 'What the function of an advisor returns. object_type, object_name: what a finding is about, its identity. severity: critical, high, medium, low or info; null: cannot be judged now, so what is known of the object stays as it is (object_name null: of all objects of the type; both null: of all). impact: ratio 0..1, of bytes, time or a limit, ranks findings of a severity. summary: a sentence. evidence: an object of figures. gain, gain_unit: estimated, such as bytes or seconds_per_day, or both null. fix_sql: statements to run, each to be sent by itself. verify_sql: a query that gives true once it is fixed; null: the advisor is asked.';

CREATE FUNCTION monitoring.advisor_query(advisor monitoring.advisors, OUT owner name, OUT query text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	found pg_proc;
BEGIN
	SELECT p.* INTO found FROM pg_proc AS p WHERE p.oid = to_regprocedure(advisor.function || '(timestamptz,jsonb)');
	IF found.oid IS NULL THEN
		RAISE EXCEPTION 'function %(timestamptz, jsonb) does not exist', advisor.function USING ERRCODE = 'undefined_function';
	END IF;
	owner := pg_get_userbyid(found.proowner);
	-- the weightiest whole, of the others only that they are there
	query := format($query$
		SELECT f.object_type, f.object_name, CASE WHEN f.place <= %4$s THEN pg_catalog.to_jsonb(f) END AS finding
		FROM (
			SELECT f.object_type, f.object_name, f.severity, f.impact, pg_catalog.left(f.summary, 1000) AS summary, f.evidence, f.gain,
				f.gain_unit, f.fix_sql, f.verify_sql, pg_catalog.row_number() OVER (ORDER BY
					pg_catalog.array_position('{critical,high,medium,low,info}', f.severity), f.impact DESC, f.object_type, f.object_name) AS place
			FROM %1$I.%2$I($1, %3$L::pg_catalog.jsonb) AS f
		) AS f
	$query$, found.pronamespace::regnamespace::name, found.proname, advisor.thresholds, advisor.max_findings);
END $$;
COMMENT ON FUNCTION monitoring.advisor_query(monitoring.advisors) IS 'The query that runs an advisor, and the role as which it is to run: the owner of its function. Error 42883: the function does not exist.';

CREATE FUNCTION monitoring.store_findings(advisor text, results jsonb, at timestamptz, OUT given integer, OUT opened integer, OUT done integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	-- ignored ones that nobody ignores any more are open again, if they are there
	UPDATE monitoring.advisor_findings AS f
	SET state = 'open', ignored_by = NULL, ignored_at = NULL, ignored_until = NULL, ignore_reason = NULL
	WHERE f.advisor = store_findings.advisor AND f.state = 'ignored' AND f.ignored_until <= at;

	WITH rows AS MATERIALIZED (
		SELECT r.*
		FROM jsonb_array_elements(results) AS e
		CROSS JOIN LATERAL jsonb_to_record(nullif(e -> 'finding', 'null')) AS r (object_type text, object_name text, severity text, impact float8,
			summary text, evidence jsonb, gain float8, gain_unit text, fix_sql text, verify_sql text)
		WHERE r.severity IS NOT NULL
	), written AS (
		INSERT INTO monitoring.advisor_findings AS f (advisor, object_type, object_name, severity, impact, summary, evidence, gain,
			gain_unit, fix_sql, verify_sql, first_seen, last_seen, opened_at)
		SELECT store_findings.advisor, g.object_type, g.object_name, g.severity, g.impact, g.summary, coalesce(g.evidence, '{}'), g.gain,
			g.gain_unit, g.fix_sql, g.verify_sql, at, at, at
		FROM rows AS g
		ORDER BY g.object_type, g.object_name
		ON CONFLICT ON CONSTRAINT advisor_findings_advisor_object_type_object_name_key DO UPDATE SET
			state = CASE f.state WHEN 'ignored' THEN 'ignored' ELSE 'open' END, severity = excluded.severity, impact = excluded.impact,
			summary = excluded.summary, evidence = excluded.evidence, gain = excluded.gain, gain_unit = excluded.gain_unit,
			fix_sql = excluded.fix_sql, verify_sql = excluded.verify_sql, last_seen = excluded.last_seen,
			opened_at = CASE f.state WHEN 'done' THEN excluded.opened_at ELSE f.opened_at END, done_at = NULL,
			reopened = f.reopened + (f.state = 'done')::integer
		RETURNING f.opened_at
	)
	SELECT count(*), count(*) FILTER (WHERE w.opened_at = at) INTO given, opened FROM written AS w;

	-- what the function did not mention is gone
	WITH mentioned AS MATERIALIZED (
		SELECT e ->> 'object_type' AS object_type, e ->> 'object_name' AS object_name FROM jsonb_array_elements(results) AS e
	)
	UPDATE monitoring.advisor_findings AS f
	SET state = 'done', done_at = at
	WHERE f.advisor = store_findings.advisor AND f.state = 'open'
		AND NOT EXISTS (SELECT FROM mentioned AS m WHERE m.object_type IS NULL)
		AND f.object_type NOT IN (SELECT m.object_type FROM mentioned AS m WHERE m.object_type IS NOT NULL AND m.object_name IS NULL)
		AND NOT EXISTS (SELECT FROM mentioned AS m WHERE m.object_type = f.object_type AND m.object_name = f.object_name);
	GET DIAGNOSTICS done = ROW_COUNT;
END $$;
COMMENT ON FUNCTION monitoring.store_findings(text, jsonb, timestamptz) IS 'Compare what an advisor gave, an array of rows of advisor_query(), with what is known: findings that it gave open or stay, those that it did not mention are done. Returns how many it gave, how many of them are new or came back, and how many are done.';

CREATE FUNCTION monitoring.run_advisor(advisor monitoring.advisors, at timestamptz, OUT given integer, OUT opened integer, OUT done integer,
	OUT failure text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	source record;
	results jsonb;
BEGIN
	source := monitoring.advisor_query(advisor);
	SELECT min(q.error), coalesce(jsonb_agg(q."row") FILTER (WHERE q.error IS NULL), '[]') INTO failure, results
	FROM monitoring.try_rule_query(source.owner, source.query, advisor.timeout, 200000, true, at) AS q;
	IF failure IS NULL THEN
		SELECT s.* INTO given, opened, done FROM monitoring.store_findings(advisor.name, results, at) AS s;
	END IF;
-- a cancel of the whole run is none of these
EXCEPTION WHEN others THEN
	failure := SQLERRM;
END $$;
COMMENT ON FUNCTION monitoring.run_advisor(monitoring.advisors, timestamptz) IS 'Run an advisor and store what it finds; failure: why that was not possible. It raises nothing but a cancel.';

CREATE FUNCTION monitoring.run_advisors(at timestamptz, advisor text, only_due boolean, until timestamptz)
RETURNS TABLE (name text, given integer, opened integer, done integer, seconds float8, failure text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' SET jit = off SET max_parallel_workers_per_gather = 0 AS $$
DECLARE
	a monitoring.advisors;
	started timestamptz;
BEGIN
	PERFORM monitoring.sample_usage(at);
	INSERT INTO monitoring.advisor_runs (advisor) SELECT v.name FROM monitoring.advisors AS v ORDER BY v.name ON CONFLICT DO NOTHING;
	FOR a IN
		SELECT v.*
		FROM monitoring.advisors AS v
		JOIN monitoring.advisor_runs AS r ON r.advisor = v.name
		WHERE v.enabled AND (run_advisors.advisor IS NULL OR v.name = run_advisors.advisor)
			AND (NOT only_due OR (r.run_at > at - v.every AND r.run_at <= at) IS NOT TRUE)
		ORDER BY r.run_at NULLS FIRST, v.name
	LOOP
		started := clock_timestamp();
		EXIT WHEN started >= until;
		-- somebody else runs it now
		PERFORM FROM monitoring.advisor_runs AS r WHERE r.advisor = a.name FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		SELECT x.given, x.opened, x.done, x.failure INTO given, opened, done, failure FROM monitoring.run_advisor(a, at) AS x;
		name := a.name;
		seconds := extract(epoch FROM clock_timestamp() - started);
		UPDATE monitoring.advisor_runs AS r
		SET run_at = at, run_seconds = run_advisors.seconds, given = coalesce(run_advisors.given, r.given), run_error = failure
		WHERE r.advisor = a.name;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.run_advisors(timestamptz, text, boolean, timestamptz) IS 'Run the enabled advisors, or one of them, or those that are due, in the order in which they ran last; those that would begin after `until` wait for the next time.';

CREATE FUNCTION monitoring.advise(at timestamptz DEFAULT clock_timestamp(), advisor text DEFAULT NULL)
RETURNS TABLE (name text, given integer, opened integer, done integer, seconds float8, failure text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF advise.advisor IS NOT NULL AND NOT EXISTS (SELECT FROM monitoring.advisors AS a WHERE a.name = advise.advisor AND a.enabled) THEN
		RAISE EXCEPTION 'there is no advisor "%" that is enabled', advise.advisor USING ERRCODE = 'undefined_object';
	END IF;
	RETURN QUERY SELECT r.* FROM monitoring.run_advisors(at, advise.advisor, false, 'infinity') AS r;
END $$;
COMMENT ON FUNCTION monitoring.advise(timestamptz, text) IS 'Run all enabled advisors now, or one of them, and return how each went: findings that it gave, how many of them are new or came back, how many are noticed as fixed, and why it failed, if it did; the others go on. What they found is in the view advice. Errors: no such advisor (42704), no finite time (22023).';

CREATE FUNCTION monitoring.advise_job(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM FROM monitoring.run_advisors(at, NULL, true, clock_timestamp() + interval '20 seconds');
	DELETE FROM monitoring.advisor_findings AS f
	WHERE f.state = 'done' AND f.done_at < at - interval '400 days';
	DELETE FROM monitoring.advisor_runs AS r WHERE NOT EXISTS (SELECT FROM monitoring.advisors AS a WHERE a.name = r.advisor);
END $$;
COMMENT ON FUNCTION monitoring.advise_job(timestamptz) IS 'Job of the worker: runs the advisors that are due, and forgets findings that have been done for 400 days.';

INSERT INTO monitoring.jobs (name, function, every, priority, timeout)
	VALUES ('advise', 'monitoring.advise_job', '10 minutes', 80, '6 minutes');

----------------------------------------------------------------------------------------------------------------------
-- What people do
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.set_finding_state(finding bigint, state text, reason text, until timestamptz, at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ignored boolean := state = 'ignored';
BEGIN
	IF at IS NULL OR NOT isfinite(at) OR until <= at THEN
		RAISE EXCEPTION 'the time must be finite, and until later' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	UPDATE monitoring.advisor_findings AS f
	SET state = set_finding_state.state, done_at = NULL,
		ignored_by = CASE WHEN ignored THEN monitoring.calling_role() END, ignored_at = CASE WHEN ignored THEN at END,
		ignored_until = CASE WHEN ignored THEN nullif(until, 'infinity') END, ignore_reason = CASE WHEN ignored THEN left(reason, 1000) END
	WHERE f.finding = set_finding_state.finding;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no finding %', finding USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.set_finding_state(bigint, text, text, timestamptz, timestamptz) IS 'Part of ignore_finding and reopen_finding.';

CREATE FUNCTION monitoring.ignore_finding(finding bigint, reason text, until timestamptz DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(reason, '') = '' THEN
		RAISE EXCEPTION 'say why the finding is to be ignored' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.set_finding_state(finding, 'ignored', reason, until, at);
END $$;
COMMENT ON FUNCTION monitoring.ignore_finding(bigint, text, timestamptz, timestamptz) IS 'A finding is not to be advised about, for the reason given, until a time, or for good (null), even if it goes away and comes back. Errors: no such finding (42704), no reason or a time that is over (22023).';

CREATE FUNCTION monitoring.reopen_finding(finding bigint, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.set_finding_state(finding, 'open', NULL, NULL, at);
END $$;
COMMENT ON FUNCTION monitoring.reopen_finding(bigint, timestamptz) IS 'A finding is open, whatever it was; the next run of its advisor finds out whether it is still there. Error 42704: no such finding.';

CREATE FUNCTION monitoring.check_finding(finding bigint, at timestamptz DEFAULT clock_timestamp()) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	known record;
	failure text;
BEGIN
	SELECT f.advisor, f.object_type, f.object_name INTO known FROM monitoring.findings AS f WHERE f.finding = check_finding.finding;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no finding %', finding USING ERRCODE = 'undefined_object';
	END IF;
	SELECT a.failure INTO failure FROM monitoring.advise(at, known.advisor) AS a;
	IF failure IS NOT NULL THEN
		RAISE EXCEPTION 'the advisor % failed: %', known.advisor, failure USING ERRCODE = 'object_not_in_prerequisite_state';
	END IF;
	RETURN (SELECT f.state = 'done' OR f.last_seen < at FROM monitoring.findings AS f WHERE f.finding = check_finding.finding);
END $$;
COMMENT ON FUNCTION monitoring.check_finding(bigint, timestamptz) IS 'Run the advisor of a finding; true if the finding is gone. Errors: no such finding (42704), the advisor failed (55000).';

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE VIEW monitoring.findings AS
	SELECT f.finding, a.category, f.advisor, f.object_type, f.object_name, f.state, f.severity, f.impact, f.summary, f.evidence,
		f.gain, f.gain_unit, f.fix_sql,
		coalesce(f.verify_sql, pg_catalog.format('SELECT monitoring.check_finding(%s) AS fixed', f.finding)) AS verify_sql,
		f.first_seen, f.last_seen, f.opened_at, f.done_at, f.reopened, f.ignored_by, f.ignored_at, f.ignored_until, f.ignore_reason
	FROM monitoring.advisor_findings AS f
	LEFT JOIN monitoring.advisors AS a ON a.name = f.advisor;
COMMENT ON VIEW monitoring.findings IS 'All findings of advisors, also those that are done or ignored.';
COMMENT ON COLUMN monitoring.findings.finding IS 'Number of the finding, for ignore_finding().';
COMMENT ON COLUMN monitoring.findings.category IS 'What its advisor is about; null: the advisor is not there any more.';
COMMENT ON COLUMN monitoring.findings.object_name IS 'Which, qualified and quoted; the queryid of a statement.';
COMMENT ON COLUMN monitoring.findings.state IS 'open, done (noticed as fixed) or ignored.';
COMMENT ON COLUMN monitoring.findings.impact IS 'Ratio 0..1 of what it is about: of the database''s bytes, of the time of all statements, of a limit.';
COMMENT ON COLUMN monitoring.findings.gain IS 'Estimated gain, where there is an estimate.';
COMMENT ON COLUMN monitoring.findings.gain_unit IS 'Its unit: bytes, seconds_per_day, ...';
COMMENT ON COLUMN monitoring.findings.fix_sql IS 'What to run; several statements are to be sent one by one, since CONCURRENTLY and ALTER SYSTEM want no transaction around them.';
SELECT monitoring.inherit_comments('monitoring.findings', 'monitoring.advisor_findings');

CREATE VIEW monitoring.advice AS
	SELECT row_number() OVER (ORDER BY s.place, f.impact DESC, f.finding) AS place, f.finding, f.severity, f.category, f.advisor,
		f.object_type, f.object_name, f.summary, q.query, f.evidence, f.impact, f.gain, f.gain_unit, f.fix_sql, f.verify_sql, f.opened_at,
		f.last_seen
	FROM monitoring.findings AS f
	JOIN monitoring.advisors AS a ON a.name = f.advisor AND a.enabled
	JOIN (VALUES ('critical', 1), ('high', 2), ('medium', 3), ('low', 4), ('info', 5)) AS s (severity, place) ON s.severity = f.severity
	LEFT JOIN LATERAL (
		SELECT t.query
		FROM monitoring.statement_queries AS t
		WHERE f.object_type = 'statement' AND t.queryid = CASE f.object_type WHEN 'statement' THEN f.object_name::bigint END
		ORDER BY t.query = '<insufficient privilege>', t.first_seen
		LIMIT 1
	) AS q ON true
	WHERE f.state = 'open'
	ORDER BY place;
COMMENT ON VIEW monitoring.advice IS 'What could be better: the open findings of enabled advisors, the weightiest first.';
COMMENT ON COLUMN monitoring.advice.place IS 'Rank: by severity, then by impact.';
COMMENT ON COLUMN monitoring.advice.query IS 'Text of the statement, if it is about one, as far as you may see it (statement_queries).';
SELECT monitoring.inherit_comments('monitoring.advice', 'monitoring.findings');

CREATE VIEW monitoring.advisor_status AS
	SELECT a.name AS advisor, a.category, a.enabled, a.every, r.run_at, r.run_seconds, r.run_error,
		(SELECT count(*) FROM monitoring.advisor_findings AS f WHERE f.advisor = a.name AND f.state = 'open') AS open,
		(SELECT count(*) FROM monitoring.advisor_findings AS f WHERE f.advisor = a.name AND f.state = 'ignored') AS ignored,
		(SELECT count(*) FROM monitoring.advisor_findings AS f WHERE f.advisor = a.name AND f.state = 'done') AS done,
		coalesce(r.given > a.max_findings - 1, false) AS cut_off, a.thresholds, a.description
	FROM monitoring.advisors AS a
	LEFT JOIN monitoring.advisor_runs AS r ON r.advisor = a.name;
COMMENT ON VIEW monitoring.advisor_status IS 'Every advisor: what it looks for, when it ran last and how that went.';
COMMENT ON COLUMN monitoring.advisor_status.advisor IS 'Name of the advisor.';
COMMENT ON COLUMN monitoring.advisor_status.category IS 'What it is about.';
COMMENT ON COLUMN monitoring.advisor_status.enabled IS 'Whether it runs.';
COMMENT ON COLUMN monitoring.advisor_status.every IS 'How often the job runs it.';
COMMENT ON COLUMN monitoring.advisor_status.run_at IS 'When it ran last.';
COMMENT ON COLUMN monitoring.advisor_status.run_seconds IS 'How long that took.';
COMMENT ON COLUMN monitoring.advisor_status.run_error IS 'Why it failed then; null: it did not.';
COMMENT ON COLUMN monitoring.advisor_status.open IS 'Findings that are open.';
COMMENT ON COLUMN monitoring.advisor_status.ignored IS 'Findings that are ignored.';
COMMENT ON COLUMN monitoring.advisor_status.done IS 'Findings that were noticed as fixed in the last 400 days.';
COMMENT ON COLUMN monitoring.advisor_status.cut_off IS 'True if there may be more than max_findings.';
COMMENT ON COLUMN monitoring.advisor_status.thresholds IS 'What an object needs to become a finding.';
COMMENT ON COLUMN monitoring.advisor_status.description IS 'What it looks for.';
