
-- activity: what active sessions wait for. A process looks at them every second and keeps what it sees in shared memory
-- (src/server/activity_sampler.c); once a minute the minutes that are over become rows, and views add what is in memory still.

----------------------------------------------------------------------------------------------------------------------
-- Memory
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.activity_samples(after bigint DEFAULT 0)
RETURNS TABLE (seq bigint, at timestamptz, interval_seconds float8, pid integer, datid oid, userid oid, application text, client inet,
	backend_type text, state text, wait_event_type text, wait_event text, queryid bigint, xact_start timestamptz,
	query_start timestamptz, leader_pid integer, blocked_by integer)
LANGUAGE c VOLATILE STRICT ROWS 5000 AS 'MODULE_PATHNAME', 'mon_activity_samples';
COMMENT ON FUNCTION monitoring.activity_samples(bigint) IS 'Samples of active sessions of all databases in memory with a number greater than after, oldest first; for the columns see the view active_session_history. What other roles'' sessions do is null without the rights of pg_read_all_stats. Without the library preloaded there are no rows.';

CREATE FUNCTION monitoring.wait_samples(after bigint)
RETURNS TABLE (seq bigint, at timestamptz, interval_seconds float8, datid oid, userid oid, queryid bigint, backend_type text,
	wait_event_type text, wait_event text)
LANGUAGE c VOLATILE STRICT ROWS 5000 AS 'MODULE_PATHNAME', 'mon_wait_samples';
COMMENT ON FUNCTION monitoring.wait_samples(bigint) IS 'The same with what is stored of a sample only; 0 where there is no database, role or statement.';

CREATE FUNCTION monitoring.activity_buffer(OUT epoch timestamptz, OUT oldest bigint, OUT latest bigint, OUT capacity integer,
	OUT sampled_at timestamptz)
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mon_activity_buffer';
COMMENT ON FUNCTION monitoring.activity_buffer() IS 'The memory for samples: since when it exists (samples are numbered from 1 then), numbers of the oldest and of the latest one in it, for how many it has room, when sessions were last looked at. Null without the library preloaded.';

CREATE FUNCTION monitoring.session_waits(since timestamptz)
RETURNS TABLE (wait_event_type text, wait_event text, samples bigint, share float8)
LANGUAGE c VOLATILE STRICT ROWS 8 AS 'MODULE_PATHNAME', 'mon_session_waits';
COMMENT ON FUNCTION monitoring.session_waits(timestamptz) IS 'What this session has been seen waiting for since then, at most eight wait events, and its share of all samples of the session; type CPU if it waited for nothing. Earlier statements are known as far as memory reaches.';

CREATE VIEW monitoring.active_session_history AS
	SELECT s.at, s.pid, d.datname AS database, pg_catalog.pg_get_userbyid(s.userid) AS username, s.application, s.client, s.backend_type,
		s.state, s.wait_event_type, s.wait_event, s.queryid, s.xact_start, s.query_start, s.blocked_by, s.leader_pid, s.interval_seconds
	FROM monitoring.activity_samples() AS s
	LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.datid;
COMMENT ON VIEW monitoring.active_session_history IS 'What active sessions of all databases were seen doing: one row per session and sample, every monitoring.activity_interval, as many as memory has room for (monitoring.activity_history). Also on a standby. What other roles'' sessions do is null without the rights of pg_read_all_stats.';
COMMENT ON COLUMN monitoring.active_session_history.at IS 'When the sample was taken; all sessions of a sample have the same time.';
COMMENT ON COLUMN monitoring.active_session_history.pid IS 'Process id.';
COMMENT ON COLUMN monitoring.active_session_history.database IS 'Its database; null for processes that have none.';
COMMENT ON COLUMN monitoring.active_session_history.username IS 'Its role.';
COMMENT ON COLUMN monitoring.active_session_history.application IS 'application_name.';
COMMENT ON COLUMN monitoring.active_session_history.client IS 'Address of the client; null over a Unix socket.';
COMMENT ON COLUMN monitoring.active_session_history.backend_type IS 'As in pg_stat_activity; of a background worker that has ended only background worker.';
COMMENT ON COLUMN monitoring.active_session_history.state IS 'active; null for processes that report no state.';
COMMENT ON COLUMN monitoring.active_session_history.wait_event_type IS 'As in pg_stat_activity; CPU if it waited for nothing.';
COMMENT ON COLUMN monitoring.active_session_history.wait_event IS 'As in pg_stat_activity; CPU if it waited for nothing.';
COMMENT ON COLUMN monitoring.active_session_history.queryid IS 'Identity of the statement that it ran.';
COMMENT ON COLUMN monitoring.active_session_history.xact_start IS 'Start of its transaction.';
COMMENT ON COLUMN monitoring.active_session_history.query_start IS 'Start of the statement.';
COMMENT ON COLUMN monitoring.active_session_history.blocked_by IS 'If it waited for a lock: process id of a session that held it or was before it in the queue; 0 for a prepared transaction.';
COMMENT ON COLUMN monitoring.active_session_history.leader_pid IS 'Of a parallel worker, process id of the session that it works for.';
COMMENT ON COLUMN monitoring.active_session_history.interval_seconds IS 'Time that the sample stands for: monitoring.activity_interval.';
