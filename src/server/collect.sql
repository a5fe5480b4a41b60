
-- collectors: what is read from the server, the databases and the host, and how often.

CREATE TYPE monitoring.reading AS (
	metric text,
	kind   text,
	labels jsonb,
	value  float8,
	since  timestamptz
);
COMMENT ON TYPE monitoring.reading IS 'What a collector gives: one value of one series. kind is gauge, recorded as it is, or counter, the total so far, of which the growth since the run before is recorded. since, of a counter, is when it began to count: another than before says that it was reset; null, that this is not known, so that a lower value means a reset; -infinity, that it never is, so that a lower value means nothing. A reading whose value is null or not finite is left out.';

CREATE TABLE monitoring.collectors (
	name        text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
	function    text NOT NULL CHECK (cardinality(parse_ident(function)) = 2),
	scope       text NOT NULL DEFAULT 'database' CHECK (scope IN ('server', 'database')),
	every       interval NOT NULL DEFAULT '1 minute' CHECK (every >= '1 second' AND every <= '1 day'),
	cost_limit  interval NOT NULL DEFAULT '500 milliseconds' CHECK (cost_limit >= '1 millisecond' AND cost_limit <= '10 seconds'),
	enabled     boolean NOT NULL DEFAULT true,
	description text NOT NULL DEFAULT '',
	owner       name NOT NULL DEFAULT current_user
);
COMMENT ON TABLE monitoring.collectors IS 'What is read regularly, and recorded as metrics. A row takes effect within seconds. How they do: collector_status.';
COMMENT ON COLUMN monitoring.collectors.name IS 'Name of the collector: lower case, digits and underscores.';
COMMENT ON COLUMN monitoring.collectors.function IS 'Schema-qualified name of a function f(at timestamptz) returning SETOF monitoring.reading. It must belong to the collector''s owner or to a superuser, or be SECURITY DEFINER. It runs with the owner''s rights, read-only, and waits for no lock longer than 50 ms.';
COMMENT ON COLUMN monitoring.collectors.scope IS 'server: what is the same in all databases, read in one of those that have the extension; database: read in each.';
COMMENT ON COLUMN monitoring.collectors.every IS 'Time between two runs.';
COMMENT ON COLUMN monitoring.collectors.cost_limit IS 'A run is cancelled after that. A collector that reaches it is left out for twice its interval, then four times, up to a day, until a run is fast enough.';
COMMENT ON COLUMN monitoring.collectors.enabled IS 'Whether it is run.';
COMMENT ON COLUMN monitoring.collectors.description IS 'What it reads.';
COMMENT ON COLUMN monitoring.collectors.owner IS 'Role whose rights its function has.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.collectors', '');

CREATE TABLE monitoring.collector_runs (
	name          text PRIMARY KEY,
	outcome       text NOT NULL DEFAULT 'new' CHECK (outcome IN ('new', 'ok', 'slow', 'locked', 'failed')),
	ran_at        timestamptz,
	due_at        timestamptz NOT NULL DEFAULT '-infinity',
	seconds       float8,
	rows          int,
	runs          bigint NOT NULL DEFAULT 0,
	failures      bigint NOT NULL DEFAULT 0,
	total_seconds float8 NOT NULL DEFAULT 0,
	slow_runs     int NOT NULL DEFAULT 0,
	last_error    text,
	last_error_at timestamptz,
	read_at       timestamptz,
	layout        bigint,
	readings      float8[],
	since         timestamptz[]
) WITH (fillfactor = 50);
COMMENT ON TABLE monitoring.collector_runs IS 'How each collector''s latest run went, and what the latest good one has read: the values that the next one is compared with.';
COMMENT ON COLUMN monitoring.collector_runs.name IS 'The collector.';
COMMENT ON COLUMN monitoring.collector_runs.outcome IS 'new: never run; ok; slow: it reached its cost limit; locked: something that it reads was locked; failed.';
COMMENT ON COLUMN monitoring.collector_runs.ran_at IS 'Time of the latest run.';
COMMENT ON COLUMN monitoring.collector_runs.due_at IS 'When it is run next.';
COMMENT ON COLUMN monitoring.collector_runs.seconds IS 'How long the latest run took.';
COMMENT ON COLUMN monitoring.collector_runs.rows IS 'Readings of the latest run.';
COMMENT ON COLUMN monitoring.collector_runs.runs IS 'Runs so far.';
COMMENT ON COLUMN monitoring.collector_runs.failures IS 'Of these, those that gave nothing.';
COMMENT ON COLUMN monitoring.collector_runs.total_seconds IS 'How long all runs took together.';
COMMENT ON COLUMN monitoring.collector_runs.slow_runs IS 'Latest runs in a row that reached the cost limit.';
COMMENT ON COLUMN monitoring.collector_runs.last_error IS 'Message of the latest failure, kept after the collector works again.';
COMMENT ON COLUMN monitoring.collector_runs.last_error_at IS 'When that was.';
COMMENT ON COLUMN monitoring.collector_runs.read_at IS 'Time of the latest good run.';
COMMENT ON COLUMN monitoring.collector_runs.layout IS 'Hash of the series of readings, in their order.';
COMMENT ON COLUMN monitoring.collector_runs.readings IS 'Values, in the order of collector_series.';
COMMENT ON COLUMN monitoring.collector_runs.since IS 'When the counters among them began; null if that is known of none. A time of 2000-01-01 UTC stands for unknown.';

CREATE TABLE monitoring.collector_series (
	name     text PRIMARY KEY,
	metrics  text[] NOT NULL,
	counters boolean[] NOT NULL,
	labels   jsonb[] NOT NULL
);
COMMENT ON TABLE monitoring.collector_series IS 'The series of each collector''s latest readings: written when they are others than before.';
COMMENT ON COLUMN monitoring.collector_series.name IS 'The collector.';
COMMENT ON COLUMN monitoring.collector_series.metrics IS 'Name of the metric of each reading.';
COMMENT ON COLUMN monitoring.collector_series.counters IS 'Whether it is a counter; else a gauge.';
COMMENT ON COLUMN monitoring.collector_series.labels IS 'Its labels.';

CREATE FUNCTION monitoring.collector_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO monitoring.collector_runs (name) VALUES (NEW.name) ON CONFLICT DO NOTHING;
	ELSIF TG_OP = 'DELETE' OR NEW.name <> OLD.name OR NEW.function <> OLD.function THEN
		DELETE FROM monitoring.collector_runs AS r WHERE r.name = OLD.name;
		DELETE FROM monitoring.collector_series AS s WHERE s.name = OLD.name;
		IF TG_OP = 'UPDATE' THEN
			INSERT INTO monitoring.collector_runs (name) VALUES (NEW.name);
		END IF;
	ELSE
		UPDATE monitoring.collector_runs AS r SET due_at = '-infinity', slow_runs = 0 WHERE r.name = NEW.name;
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION monitoring.collector_row() IS 'Trigger of collectors: a collector has a row in collector_runs; it is run anew when its function changes, and soon when anything else does.';
CREATE TRIGGER collector_row AFTER INSERT OR UPDATE OR DELETE ON monitoring.collectors
	FOR EACH ROW EXECUTE FUNCTION monitoring.collector_row();
COMMENT ON TRIGGER collector_row ON monitoring.collectors IS 'Keeps collector_runs in step.';

CREATE TRIGGER restore BEFORE INSERT ON monitoring.collectors
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.take_over('name', 'every', 'cost_limit', 'enabled');
COMMENT ON TRIGGER restore ON monitoring.collectors IS 'Takes over changed collectors when a dump is restored.';

----------------------------------------------------------------------------------------------------------------------
-- Running
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.is_home() RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_is_home';
COMMENT ON FUNCTION monitoring.is_home() IS 'Whether this is the database that keeps what belongs to the whole server: of those whose workers were there within the last minute, the one that was made first. Error 55000: library not preloaded.';

-- Who decides what runs with the owner's rights?
CREATE FUNCTION monitoring.collector_refusal(function text, owner name) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN p.oid IS NULL THEN format('function %s(timestamp with time zone) does not exist', collector_refusal.function)
		WHEN p.prorettype <> 'monitoring.reading'::regtype OR NOT p.proretset THEN format('function %s does not return SETOF monitoring.reading', collector_refusal.function)
		WHEN NOT (p.prosecdef OR pg_get_userbyid(p.proowner) = collector_refusal.owner OR o.rolsuper)
			THEN format('function %s belongs neither to role "%s", as which it would run, nor to a superuser', collector_refusal.function, collector_refusal.owner)
	END
	FROM (SELECT to_regprocedure(collector_refusal.function || '(timestamp with time zone)') AS id) AS f
	LEFT JOIN pg_proc AS p ON p.oid = f.id
	LEFT JOIN pg_roles AS o ON o.oid = p.proowner
$$;
COMMENT ON FUNCTION monitoring.collector_refusal(text, name) IS 'Why a function cannot be a collector''s that belongs to a role; null if it can.';

CREATE FUNCTION monitoring.due_collectors(names text[], at timestamptz)
RETURNS TABLE (name text, call text, owner text, cost_limit int, refused text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT c.name, (SELECT string_agg(quote_ident(i), '.') FROM unnest(parse_ident(c.function)) AS i), c.owner::text,
		ceil(extract(epoch FROM c.cost_limit) * 1000)::int, monitoring.collector_refusal(c.function, c.owner)
	FROM monitoring.collector_runs AS r
	JOIN monitoring.collectors AS c ON c.name = r.name
	WHERE CASE WHEN due_collectors.names IS NULL
		-- a beat that came a little early; and the clock may have stepped back
		THEN c.enabled AND (r.due_at - least(c.every / 5, interval '1 second') <= due_collectors.at OR r.ran_at > due_collectors.at)
			AND (c.scope = 'database' OR monitoring.is_home())
		ELSE c.name = ANY (due_collectors.names) END
	ORDER BY c.every, c.name
	FOR UPDATE OF r SKIP LOCKED
$$;
COMMENT ON FUNCTION monitoring.due_collectors(text[], timestamptz) IS 'The collectors that are to be run at a time, or those named, but for those that another session runs now; their rows of collector_runs are locked. cost_limit is in milliseconds.';

CREATE FUNCTION monitoring.note_collector(collector text, at timestamptz, outcome text, error text, seconds float8, readings int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	before text;
	error_before text;
BEGIN
	SELECT r.outcome, r.last_error INTO before, error_before FROM monitoring.collector_runs AS r WHERE r.name = collector;
	UPDATE monitoring.collector_runs AS r
	SET outcome = note_collector.outcome, ran_at = note_collector.at, seconds = note_collector.seconds, rows = note_collector.readings,
		runs = r.runs + 1, failures = r.failures + (error IS NOT NULL)::int, total_seconds = r.total_seconds + note_collector.seconds,
		slow_runs = CASE WHEN note_collector.outcome = 'slow' THEN r.slow_runs + 1 ELSE 0 END,
		due_at = CASE WHEN note_collector.outcome = 'slow' THEN note_collector.at + least(c.every * 2 ^ least(r.slow_runs + 1, 20), greatest(c.every, interval '1 day'))
			-- keep the beat, but make up for no more than one missed run
			WHEN r.due_at > note_collector.at - c.every AND r.due_at <= note_collector.at + least(c.every / 5, interval '1 second') THEN r.due_at + c.every
			ELSE note_collector.at + c.every END,
		last_error = coalesce(error, r.last_error),
		last_error_at = CASE WHEN error IS NULL THEN r.last_error_at ELSE note_collector.at END
	FROM monitoring.collectors AS c
	WHERE r.name = collector AND c.name = collector;
	IF error IS NOT NULL AND (before IN ('new', 'ok') OR error IS DISTINCT FROM error_before) THEN
		RAISE LOG 'monitoring collector "%" gave nothing: %', collector, error;
	ELSIF error IS NULL AND before NOT IN ('new', 'ok') AND outcome = 'ok' THEN
		RAISE LOG 'monitoring collector "%" works again', collector;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.note_collector(text, timestamptz, text, text, float8, int) IS 'Note how a run of a collector went, and when the next one is.';

CREATE FUNCTION monitoring.collect(names text[] DEFAULT NULL, at timestamptz DEFAULT clock_timestamp()) RETURNS bigint
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp SET monitoring.transactional = on SET lock_timeout = '200ms'
AS 'MODULE_PATHNAME', 'mon_collect';
COMMENT ON FUNCTION monitoring.collect(text[], timestamptz) IS 'Run collectors, those that are due or those named, and record what they give as of a time. The worker does this every few seconds. Returns the number of readings. What one collector does wrong is noted in collector_status and leaves the others alone. Errors: no such collector (42704), the time is null (22004), library not preloaded (55000), a catalog that all of them need is locked (55P03): it does not queue behind that.';

CREATE FUNCTION monitoring.collect_job(at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.collect(NULL, collect_job.at)
$$;
COMMENT ON FUNCTION monitoring.collect_job(timestamptz) IS 'Run the collectors that are due: a job of the worker.';
INSERT INTO monitoring.jobs (name, function, every, priority, timeout, durable)
VALUES ('collect', 'monitoring.collect_job', '5 seconds', 40, '1 minute', false);

----------------------------------------------------------------------------------------------------------------------
-- Looking after them
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_collector(name text, function text, every interval DEFAULT '1 minute', scope text DEFAULT 'database',
	cost_limit interval DEFAULT '500 milliseconds', description text DEFAULT '') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	caller name := monitoring.calling_role();
	refusal text := monitoring.collector_refusal(function, caller);
BEGIN
	IF refusal IS NOT NULL THEN
		RAISE EXCEPTION '%', refusal USING ERRCODE = CASE WHEN refusal LIKE '%does not exist' THEN 'undefined_function'
				WHEN refusal LIKE '%does not return%' THEN 'invalid_function_definition' ELSE 'insufficient_privilege' END,
			HINT = 'A collector is a function f(at timestamptz) returning SETOF monitoring.reading, with its schema before its name.';
	END IF;
	INSERT INTO monitoring.collectors (name, function, scope, every, cost_limit, description, owner)
	VALUES (create_collector.name, create_collector.function, create_collector.scope, create_collector.every, create_collector.cost_limit,
		create_collector.description, caller);
END $$;
COMMENT ON FUNCTION monitoring.create_collector(text, text, interval, text, interval, text) IS 'Have a function f(at timestamptz) returning SETOF monitoring.reading called every so often with your rights, read-only and cancelled after its cost limit, and what it returns recorded as metrics. scope is database (every database of its own) or server (what all have in common). Errors: 42883 if there is no such function, 42P13 if it returns something else, 42501 if it belongs to somebody else, 23505 if the collector exists, 23514 for a value out of range.';

CREATE FUNCTION monitoring.change_collector(name text, every interval DEFAULT NULL, cost_limit interval DEFAULT NULL, enabled boolean DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE monitoring.collectors AS c
	SET every = coalesce(change_collector.every, c.every), cost_limit = coalesce(change_collector.cost_limit, c.cost_limit),
		enabled = coalesce(change_collector.enabled, c.enabled)
	WHERE c.name = change_collector.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'collector "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.change_collector(text, interval, interval, boolean) IS 'Change how often a collector is run, how long it may take, or whether it is run at all; what is null stays. One that was left out for being slow is tried again. Errors: 42704 if it does not exist, 23514 for a value out of range.';

CREATE FUNCTION monitoring.drop_collector(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.collectors AS c WHERE c.name = drop_collector.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'collector "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_collector(text) IS 'Remove a collector. What it has recorded stays. Error 42704 if it does not exist.';

CREATE VIEW monitoring.collector_status AS
SELECT c.name AS collector,
	CASE WHEN NOT c.enabled THEN 'disabled'
		WHEN c.scope = 'server' AND NOT monitoring.is_home() THEN 'elsewhere'
		WHEN r.outcome = 'slow' AND r.slow_runs > 0 THEN 'left out'
		ELSE r.outcome END AS state,
	c.scope, c.every, c.cost_limit, r.ran_at AS last_run, CASE WHEN isfinite(r.due_at) THEN r.due_at END AS next_run,
	r.seconds AS last_duration, r.rows AS readings, r.runs, r.failures,
	r.total_seconds / nullif(r.runs, 0) / extract(epoch FROM c.every)::float8 AS share_of_core_ratio,
	r.last_error, r.last_error_at, c.owner, c.description
FROM monitoring.collectors AS c
JOIN monitoring.collector_runs AS r ON r.name = c.name;
COMMENT ON VIEW monitoring.collector_status IS 'Every collector and how its runs went.';
COMMENT ON COLUMN monitoring.collector_status.collector IS 'Name of the collector.';
COMMENT ON COLUMN monitoring.collector_status.state IS 'new: not run yet; ok; failed; locked: something that it reads was locked, it is tried again at its next interval; left out: it took longer than its cost limit and is not run until next_run; disabled; elsewhere: it reads what all databases have in common, and another one does that.';
COMMENT ON COLUMN monitoring.collector_status.scope IS 'server or database.';
COMMENT ON COLUMN monitoring.collector_status.every IS 'Time between two runs.';
COMMENT ON COLUMN monitoring.collector_status.cost_limit IS 'A run is cancelled after that.';
COMMENT ON COLUMN monitoring.collector_status.last_run IS 'Time of the latest run.';
COMMENT ON COLUMN monitoring.collector_status.next_run IS 'When it is due.';
COMMENT ON COLUMN monitoring.collector_status.last_duration IS 'Seconds that the latest run took, with recording.';
COMMENT ON COLUMN monitoring.collector_status.readings IS 'Values of the latest run.';
COMMENT ON COLUMN monitoring.collector_status.runs IS 'Runs so far.';
COMMENT ON COLUMN monitoring.collector_status.failures IS 'Of these, those that gave nothing.';
COMMENT ON COLUMN monitoring.collector_status.share_of_core_ratio IS 'Mean duration to interval: what of a core''s time it takes at most.';
COMMENT ON COLUMN monitoring.collector_status.last_error IS 'Message of the latest failure, kept after it works again.';
COMMENT ON COLUMN monitoring.collector_status.last_error_at IS 'When that was.';
COMMENT ON COLUMN monitoring.collector_status.owner IS 'Role whose rights its function has.';
COMMENT ON COLUMN monitoring.collector_status.description IS 'What it reads.';
