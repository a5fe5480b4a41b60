
-- waits: samples of active sessions by the minute, for a month. Each database keeps those of its own sessions and of processes that
-- belong to no database.
--
-- A roll-up stores the minutes that are over and moves wait_state to the last sample it has stored, in one transaction under the
-- row's lock; memory is not changed by it. So whatever is rolled back, nothing is lost or stored twice.

CREATE TABLE monitoring.wait_state (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	epoch timestamptz,
	seq bigint NOT NULL DEFAULT 0,
	lost bigint NOT NULL DEFAULT 0,
	rolled_up_at timestamptz
);
COMMENT ON TABLE monitoring.wait_state IS 'One row: up to which sample memory is stored. Its lock is held during a roll-up.';
COMMENT ON COLUMN monitoring.wait_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.wait_state.epoch IS 'Memory that seq counts in: see activity_buffer().';
COMMENT ON COLUMN monitoring.wait_state.seq IS 'Number of the latest sample that is stored.';
COMMENT ON COLUMN monitoring.wait_state.lost IS 'Samples, of all databases, that were overwritten before they were stored.';
COMMENT ON COLUMN monitoring.wait_state.rolled_up_at IS 'Time of the latest roll-up.';
INSERT INTO monitoring.wait_state (epoch, seq) SELECT b.epoch, coalesce(b.latest, 0) FROM monitoring.activity_buffer() AS b;

CREATE TABLE monitoring.wait_minutes (
	bucket timestamptz NOT NULL,
	in_database boolean NOT NULL,
	userid oid NOT NULL,
	queryid bigint NOT NULL,
	backend_type text NOT NULL,
	wait_event_type text NOT NULL,
	wait_event text NOT NULL,
	samples integer NOT NULL,
	seconds float8 NOT NULL
) PARTITION BY RANGE (bucket);
COMMENT ON TABLE monitoring.wait_minutes IS 'Samples of active sessions by the minute. Granted to nobody; see the view wait_history, which also explains the columns.';
COMMENT ON COLUMN monitoring.wait_minutes.bucket IS 'End of the minute.';
COMMENT ON COLUMN monitoring.wait_minutes.in_database IS 'True for sessions of this database, false for processes that belong to none.';
COMMENT ON COLUMN monitoring.wait_minutes.userid IS 'Role; 0: none, or several.';
COMMENT ON COLUMN monitoring.wait_minutes.queryid IS 'Identity of the statement; 0: unknown, none, or several.';
COMMENT ON COLUMN monitoring.wait_minutes.backend_type IS 'As in pg_stat_activity.';
COMMENT ON COLUMN monitoring.wait_minutes.wait_event_type IS 'As in pg_stat_activity, or CPU.';
COMMENT ON COLUMN monitoring.wait_minutes.wait_event IS 'As in pg_stat_activity, or CPU.';
COMMENT ON COLUMN monitoring.wait_minutes.samples IS 'Samples.';
COMMENT ON COLUMN monitoring.wait_minutes.seconds IS 'Time that they stand for.';
INSERT INTO monitoring.retention_policies (relation, partition_step, keep, indexes)
VALUES ('wait_minutes', '1 day', '30 days', ARRAY['(bucket)']);

-- What is in memory and not stored, of this database and of none.
CREATE VIEW monitoring.wait_live AS
	SELECT s.seq, s.at, pg_catalog.date_trunc('minute', s.at, 'UTC') + interval '1 minute' AS bucket, s.datid <> 0 AS in_database, s.userid,
		s.queryid, s.backend_type, s.wait_event_type, s.wait_event, s.interval_seconds
	FROM monitoring.wait_state AS w
	CROSS JOIN monitoring.activity_buffer() AS b
	CROSS JOIN LATERAL monitoring.wait_samples(CASE WHEN b.epoch = w.epoch THEN w.seq ELSE 0 END) AS s
	WHERE s.datid IN (0, (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()));
COMMENT ON VIEW monitoring.wait_live IS 'Samples in memory that no minute has yet, of sessions of this database and of processes that belong to none.';
COMMENT ON COLUMN monitoring.wait_live.seq IS 'Number of the sample.';
COMMENT ON COLUMN monitoring.wait_live.at IS 'When it was taken.';
COMMENT ON COLUMN monitoring.wait_live.bucket IS 'End of its minute.';
COMMENT ON COLUMN monitoring.wait_live.in_database IS 'False for processes that belong to no database.';
COMMENT ON COLUMN monitoring.wait_live.userid IS 'Role; 0: none.';
COMMENT ON COLUMN monitoring.wait_live.queryid IS 'Identity of the statement; 0: unknown or none.';
COMMENT ON COLUMN monitoring.wait_live.backend_type IS 'As in pg_stat_activity.';
COMMENT ON COLUMN monitoring.wait_live.wait_event_type IS 'As in pg_stat_activity, or CPU.';
COMMENT ON COLUMN monitoring.wait_live.wait_event IS 'As in pg_stat_activity, or CPU.';
COMMENT ON COLUMN monitoring.wait_live.interval_seconds IS 'Time that the sample stands for.';

-- A minute has at most 1000 rows for each wait event, role and statement; the rest of its samples is added up by wait event.
CREATE FUNCTION monitoring.roll_up_waits(at timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET lock_timeout = '10s' AS $$
DECLARE
	state monitoring.wait_state;
	buffer record;
	edge bigint;
	seen bigint;
	minutes monitoring.wait_minutes[];
	event record;
	written integer;
BEGIN
	IF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a roll-up must be a finite timestamp' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT * INTO STRICT state FROM monitoring.wait_state FOR UPDATE;
	SELECT * INTO buffer FROM monitoring.activity_buffer();
	IF buffer.epoch IS NULL THEN
		RETURN 0;
	END IF;
	IF buffer.epoch IS DISTINCT FROM state.epoch THEN
		state.seq := 0;
	END IF;

	-- One look at memory, which goes on being overwritten: what is stored, what is recorded and what was lost agree.  Samples are in
	-- the order of their numbers; of their times only if the clock was never set back.
	WITH samples AS MATERIALIZED (
		SELECT s.* FROM monitoring.wait_samples(state.seq) AS s
	), past AS MATERIALIZED (
		SELECT max(s.seq) AS edge FROM samples AS s WHERE s.at < date_trunc('minute', roll_up_waits.at, 'UTC')
	), counted AS (
		SELECT date_trunc('minute', s.at, 'UTC') + interval '1 minute' AS bucket, s.datid <> 0 AS in_database, s.userid, s.queryid,
			s.backend_type, s.wait_event_type, s.wait_event, count(*) AS samples, sum(s.interval_seconds) AS seconds
		FROM samples AS s
		WHERE s.seq <= (SELECT p.edge FROM past AS p)
			AND s.datid IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
		GROUP BY 1, 2, 3, 4, 5, 6, 7
	), ranked AS (
		SELECT c.*, row_number() OVER (PARTITION BY c.bucket ORDER BY c.samples DESC) <= 1000 AS kept FROM counted AS c
	), stored AS (
		SELECT r.bucket, r.in_database, CASE WHEN r.kept THEN r.userid ELSE 0 END AS userid, CASE WHEN r.kept THEN r.queryid ELSE 0 END AS queryid,
			r.backend_type, r.wait_event_type, r.wait_event, sum(r.samples)::integer AS samples, sum(r.seconds) AS seconds
		FROM ranked AS r
		GROUP BY 1, 2, 3, 4, 5, 6, 7
	)
	SELECT p.edge, (SELECT count(*) FROM samples AS s WHERE s.seq <= p.edge),
		(SELECT array_agg(ROW(s.bucket, s.in_database, s.userid, s.queryid, s.backend_type, s.wait_event_type, s.wait_event, s.samples,
			s.seconds)::monitoring.wait_minutes) FROM stored AS s)
	INTO edge, seen, minutes
	FROM past AS p;

	PERFORM monitoring.ensure_partition('wait_minutes', b.bucket) FROM (SELECT DISTINCT m.bucket FROM unnest(minutes) AS m) AS b;
	INSERT INTO monitoring.wait_minutes (bucket, in_database, userid, queryid, backend_type, wait_event_type, wait_event, samples, seconds)
	SELECT m.bucket, m.in_database, m.userid, m.queryid, m.backend_type, m.wait_event_type, m.wait_event, m.samples, m.seconds
	FROM unnest(minutes) AS m;
	GET DIAGNOSTICS written = ROW_COUNT;

	-- with the transaction or not at all
	PERFORM set_config('monitoring.transactional', 'on', true);
	FOR event IN
		SELECT m.wait_event_type, m.wait_event, sum(m.seconds) AS seconds
		FROM unnest(minutes) AS m
		GROUP BY m.wait_event_type, m.wait_event
	LOOP
		PERFORM monitoring.increment('pg_wait_seconds_total', event.seconds,
			jsonb_build_object('wait_event_type', event.wait_event_type, 'wait_event', event.wait_event));
	END LOOP;

	UPDATE monitoring.wait_state AS w
	SET epoch = buffer.epoch, seq = coalesce(edge, state.seq), rolled_up_at = at, lost = w.lost + coalesce(edge - state.seq - seen, 0);
	RETURN written;
END $$;
COMMENT ON FUNCTION monitoring.roll_up_waits(timestamptz) IS 'Stores the minutes that were over at that time as rows of wait_minutes, and records what they hold as the metric pg_wait_seconds_total; returns the number of rows. The worker does it every minute.';

CREATE FUNCTION monitoring.waits_job(at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS 'SELECT monitoring.roll_up_waits(at)';
COMMENT ON FUNCTION monitoring.waits_job(timestamptz) IS 'Job: roll_up_waits().';
INSERT INTO monitoring.jobs (name, function, every, priority, timeout, durable, run_at_shutdown)
VALUES ('waits', 'monitoring.waits_job', '1 minute', 50, '30 seconds', false, true);

CREATE VIEW monitoring.wait_history AS
	SELECT h.bucket, CASE WHEN h.in_database THEN pg_catalog.current_database() END AS database,
		CASE WHEN h.userid <> 0 THEN pg_catalog.pg_get_userbyid(h.userid) END AS username, nullif(h.queryid, 0) AS queryid,
		h.backend_type, h.wait_event_type, h.wait_event, h.samples, h.seconds
	FROM (
		SELECT m.bucket, m.in_database, m.userid, m.queryid, m.backend_type, m.wait_event_type, m.wait_event, m.samples, m.seconds
		FROM monitoring.wait_minutes AS m
		UNION ALL
		SELECT l.bucket, l.in_database, l.userid, l.queryid, l.backend_type, l.wait_event_type, l.wait_event, count(*)::integer,
			sum(l.interval_seconds)
		FROM monitoring.wait_live AS l
		GROUP BY l.bucket, l.in_database, l.userid, l.queryid, l.backend_type, l.wait_event_type, l.wait_event
	) AS h;
COMMENT ON VIEW monitoring.wait_history IS 'What active sessions of this database, and processes that belong to none, did or waited for: by the minute, with what is in memory. See retention_policies (wait_minutes) for how far it goes back.';
COMMENT ON COLUMN monitoring.wait_history.bucket IS 'End of the minute.';
COMMENT ON COLUMN monitoring.wait_history.database IS 'This database; null for processes that belong to none.';
COMMENT ON COLUMN monitoring.wait_history.username IS 'Role; null: none, or those of a minute that had too many combinations.';
COMMENT ON COLUMN monitoring.wait_history.queryid IS 'Identity of the statement; null: unknown, none, or those of a minute that had too many combinations.';
COMMENT ON COLUMN monitoring.wait_history.backend_type IS 'As in pg_stat_activity.';
COMMENT ON COLUMN monitoring.wait_history.wait_event_type IS 'As in pg_stat_activity; CPU if nothing was waited for.';
COMMENT ON COLUMN monitoring.wait_history.wait_event IS 'As in pg_stat_activity; CPU if nothing was waited for.';
COMMENT ON COLUMN monitoring.wait_history.samples IS 'Samples.';
COMMENT ON COLUMN monitoring.wait_history.seconds IS 'Time that they stand for, of all sessions together.';

CREATE FUNCTION monitoring.wait_profile(since timestamptz, until timestamptz DEFAULT clock_timestamp(), queryid bigint DEFAULT NULL,
	username name DEFAULT NULL)
RETURNS TABLE (wait_event_type text, wait_event text, samples bigint, seconds float8, share float8, average_sessions float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT h.wait_event_type, h.wait_event, sum(h.samples), sum(h.seconds), sum(h.seconds) / nullif(sum(sum(h.seconds)) OVER (), 0),
		sum(h.seconds) / nullif(extract(epoch FROM least(wait_profile.until, clock_timestamp()) - wait_profile.since)::float8, 0)
	FROM monitoring.wait_history AS h
	WHERE h.bucket > wait_profile.since AND h.bucket < wait_profile.until + interval '1 minute'
		AND (wait_profile.queryid IS NULL OR h.queryid = wait_profile.queryid)
		AND (wait_profile.username IS NULL OR h.username = wait_profile.username)
	GROUP BY h.wait_event_type, h.wait_event
	ORDER BY 4 DESC, 1, 2
$$;
COMMENT ON FUNCTION monitoring.wait_profile(timestamptz, timestamptz, bigint, name) IS 'What sessions waited for between two times, of a statement and of a role, if given; in whole minutes, that in which since falls included. seconds are those of all sessions together, share is the ratio 0..1 to all rows, average_sessions how many did it at a time.';

CREATE VIEW monitoring.waits AS
	SELECT p.wait_event_type, p.wait_event, p.samples, p.seconds, p.share, p.average_sessions
	FROM monitoring.wait_profile(pg_catalog.now() - interval '1 hour') AS p;
COMMENT ON VIEW monitoring.waits IS 'What sessions of this database, and processes that belong to none, waited for in the last hour, most first. For other windows see wait_profile().';
COMMENT ON COLUMN monitoring.waits.wait_event_type IS 'As in pg_stat_activity; CPU if nothing was waited for.';
COMMENT ON COLUMN monitoring.waits.wait_event IS 'As in pg_stat_activity; CPU if nothing was waited for.';
COMMENT ON COLUMN monitoring.waits.samples IS 'Samples.';
COMMENT ON COLUMN monitoring.waits.seconds IS 'Time that they stand for, of all sessions together.';
COMMENT ON COLUMN monitoring.waits.share IS 'Ratio 0..1 of that to all.';
COMMENT ON COLUMN monitoring.waits.average_sessions IS 'How many sessions did it at a time, on average.';

CREATE FUNCTION monitoring.statement_waits_over(over interval, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (queryid bigint, query text, seconds float8, wait_event_type text, wait_event text, wait_seconds float8, share float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH waits AS MATERIALIZED (
		SELECT h.queryid, h.wait_event_type, h.wait_event, sum(h.seconds) AS seconds
		FROM monitoring.wait_history AS h
		WHERE h.bucket > statement_waits_over.at - statement_waits_over.over AND h.bucket < statement_waits_over.at + interval '1 minute'
			AND h.queryid IS NOT NULL
		GROUP BY h.queryid, h.wait_event_type, h.wait_event
	), texts AS (
		SELECT DISTINCT ON (q.queryid) q.queryid, q.query
		FROM monitoring.statement_queries AS q
		WHERE q.queryid IN (SELECT w.queryid FROM waits AS w)
		ORDER BY q.queryid, q.query = '<insufficient privilege>', q.first_seen
	)
	SELECT w.queryid, t.query, sum(w.seconds) OVER statement, w.wait_event_type, w.wait_event, w.seconds,
		w.seconds / nullif(sum(w.seconds) OVER statement, 0)
	FROM waits AS w
	LEFT JOIN texts AS t ON t.queryid = w.queryid
	WINDOW statement AS (PARTITION BY w.queryid)
	ORDER BY 3 DESC, 1, 6 DESC
$$;
COMMENT ON FUNCTION monitoring.statement_waits_over(interval, timestamptz) IS 'What each statement waited for in (at - over, at], in whole minutes; for the columns see the view statement_waits. The text is null until a snapshot has stored it.';

CREATE VIEW monitoring.statement_waits AS
	SELECT s.queryid, s.query, s.seconds, s.wait_event_type, s.wait_event, s.wait_seconds, s.share
	FROM monitoring.statement_waits_over('1 hour') AS s;
COMMENT ON VIEW monitoring.statement_waits IS 'What each statement of this database waited for in the last hour, that with most time first. For other windows see statement_waits_over().';
COMMENT ON COLUMN monitoring.statement_waits.queryid IS 'Identity of the statement.';
COMMENT ON COLUMN monitoring.statement_waits.query IS 'Its text, as in the view statement_queries.';
COMMENT ON COLUMN monitoring.statement_waits.seconds IS 'Time that sessions spent in it, of all sessions together.';
COMMENT ON COLUMN monitoring.statement_waits.wait_event_type IS 'As in pg_stat_activity; CPU if nothing was waited for.';
COMMENT ON COLUMN monitoring.statement_waits.wait_event IS 'As in pg_stat_activity; CPU if nothing was waited for.';
COMMENT ON COLUMN monitoring.statement_waits.wait_seconds IS 'Of that time, what went into this wait event.';
COMMENT ON COLUMN monitoring.statement_waits.share IS 'The same as a ratio 0..1.';

CREATE VIEW monitoring.activity_source AS
	SELECT b.capacity, b.latest - b.oldest + 1 AS samples, b.sampled_at, w.rolled_up_at, w.lost,
		CASE
			WHEN b.capacity IS NULL THEN 'Add monitoring to shared_preload_libraries and restart the server.'
			WHEN i.setting = '0' THEN 'Set monitoring.activity_interval: no samples are taken.'
			WHEN b.sampled_at IS NULL OR b.sampled_at < pg_catalog.clock_timestamp() - interval '1 minute' - i.setting::integer * interval '1 ms'
				THEN 'The sampler does not run: look into the log, and whether max_worker_processes is high enough.'
			WHEN w.lost > 0 THEN 'Raise monitoring.activity_history: samples were overwritten before they were stored.'
		END AS hint
	FROM monitoring.wait_state AS w
	CROSS JOIN monitoring.activity_buffer() AS b
	LEFT JOIN pg_catalog.pg_settings AS i ON i.name = 'monitoring.activity_interval';
COMMENT ON VIEW monitoring.activity_source IS 'One row: how sessions are sampled, and what to do if they are not.';
COMMENT ON COLUMN monitoring.activity_source.capacity IS 'Samples that memory has room for: monitoring.activity_history.';
COMMENT ON COLUMN monitoring.activity_source.samples IS 'Samples in it, of all databases.';
COMMENT ON COLUMN monitoring.activity_source.sampled_at IS 'When sessions were last looked at.';
COMMENT ON COLUMN monitoring.activity_source.rolled_up_at IS 'When minutes were last stored.';
COMMENT ON COLUMN monitoring.activity_source.lost IS 'Samples, of all databases, that were overwritten before they were stored.';
COMMENT ON COLUMN monitoring.activity_source.hint IS 'What to do; null if all is well.';
