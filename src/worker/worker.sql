
-- worker: periodic jobs and the state of those who run them.

CREATE TABLE monitoring.jobs (
    name            text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 63),
    function        text NOT NULL CHECK (cardinality(parse_ident(function)) = 2),
    every           interval CHECK (every >= '1 millisecond' AND every <= '10 years'),
    setting         text,
    priority        int NOT NULL DEFAULT 100,
    timeout         interval NOT NULL DEFAULT '30 seconds' CHECK (timeout >= '1 millisecond' AND timeout <= '1 day'),
    enabled         boolean NOT NULL DEFAULT true,
    durable         boolean NOT NULL DEFAULT true,
    run_on_wake     boolean NOT NULL DEFAULT false,
    run_at_shutdown boolean NOT NULL DEFAULT false,
    owner           name NOT NULL DEFAULT current_user,
    last_state      text NOT NULL DEFAULT 'new' CHECK (last_state IN ('new', 'ok', 'failed')),
    last_error      text,
    last_error_at   timestamptz,
    CHECK ((every IS NULL) <> (setting IS NULL))
);
COMMENT ON TABLE monitoring.jobs IS 'What the database worker runs periodically, each job in a transaction of its own. A row takes effect when it is committed, within a minute after COMMIT PREPARED or without triggers. The 64 jobs that come first by priority are run.';
COMMENT ON COLUMN monitoring.jobs.name IS 'Name of the job, at most 63 bytes.';
COMMENT ON COLUMN monitoring.jobs.function IS 'Schema-qualified name of a function f(at timestamptz) returning void, called with the time of the run. It must belong to the job''s owner or to a superuser, or be SECURITY DEFINER: nobody else decides what runs with the owner''s rights.';
COMMENT ON COLUMN monitoring.jobs.every IS 'Time between two runs; null if setting gives it. What was missed is made up for by one run.';
COMMENT ON COLUMN monitoring.jobs.setting IS 'Name of a setting whose positive number of milliseconds gives the time between two runs; null if every gives it.';
COMMENT ON COLUMN monitoring.jobs.priority IS 'Jobs due at the same time run in this order, lowest first.';
COMMENT ON COLUMN monitoring.jobs.timeout IS 'A run that takes longer is cancelled; if it catches that and goes on for 5 seconds, its worker ends.';
COMMENT ON COLUMN monitoring.jobs.enabled IS 'Whether the job runs at all.';
COMMENT ON COLUMN monitoring.jobs.durable IS 'Whether its commit waits for the local disk. What a job that can be repeated writes may do without.';
COMMENT ON COLUMN monitoring.jobs.run_on_wake IS 'Run also whenever the worker is woken because there is something to do, whatever the interval.';
COMMENT ON COLUMN monitoring.jobs.run_at_shutdown IS 'Run once more when the worker ends in order: at a smart or fast shutdown of the server, or to let another database have its turn.';
COMMENT ON COLUMN monitoring.jobs.owner IS 'Role whose rights the function has.';
COMMENT ON COLUMN monitoring.jobs.last_state IS 'How the latest run ended: new (none yet), ok or failed.';
COMMENT ON COLUMN monitoring.jobs.last_error IS 'Message of the latest failure, kept after the job works again.';
COMMENT ON COLUMN monitoring.jobs.last_error_at IS 'When last_error was first seen: the row is written only when a job''s outcome changes.';

SELECT pg_catalog.pg_extension_config_dump('monitoring.jobs', '');

-- pg_dump carries all jobs; those that CREATE EXTENSION has just made take over when and whether they run.
CREATE TRIGGER restore BEFORE INSERT ON monitoring.jobs
FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
EXECUTE FUNCTION monitoring.take_over('name', 'every', 'setting', 'priority', 'timeout', 'enabled');
COMMENT ON TRIGGER restore ON monitoring.jobs IS 'Takes over changed jobs when a dump is restored.';

CREATE FUNCTION monitoring.server_stopping() RETURNS boolean
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'mon_server_stopping_sql';
COMMENT ON FUNCTION monitoring.server_stopping() IS 'Whether the server is shutting down, smart or fast: for jobs with run_at_shutdown, which also run when the worker lets another database have its turn.';

CREATE FUNCTION monitoring.wake_worker() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_wake_worker';
COMMENT ON FUNCTION monitoring.wake_worker() IS 'Trigger for each statement: wakes the worker of this database at commit to run the jobs with run_on_wake; with an argument (any) it reads the list of jobs again before.';

CREATE TRIGGER wake_worker
AFTER INSERT OR DELETE
   OR UPDATE OF name, function, every, setting, priority, timeout, enabled, durable, run_on_wake, run_at_shutdown, owner
ON monitoring.jobs
FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker('jobs');
COMMENT ON TRIGGER wake_worker ON monitoring.jobs IS 'The worker reads the jobs again at commit.';

INSERT INTO monitoring.jobs (name, function, every, setting, priority, timeout, durable, run_at_shutdown) VALUES
('flush', 'monitoring.flush_job', NULL, 'monitoring.flush_interval', 10, '30 seconds', false, true),
('compact', 'monitoring.compact_job', '5 seconds', NULL, 20, '5 minutes', false, false),
('retention', 'monitoring.apply_retention_job', '10 minutes', NULL, 90, '1 minute', true, false);

CREATE FUNCTION monitoring.worker_status(
    OUT worker text, OUT datid oid, OUT pid int, OUT worker_state text, OUT since timestamptz,
    OUT job text, OUT job_state text, OUT last_run timestamptz, OUT last_duration float8,
    OUT runs bigint, OUT failures bigint, OUT lag float8)
RETURNS SETOF record
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 20
AS 'MODULE_PATHNAME', 'mon_worker_status';
COMMENT ON FUNCTION monitoring.worker_status() IS 'Workers and their jobs in all databases, as shared memory has them: one row for the launcher, then one per database worker and job. Errors: not preloaded (55000).';

CREATE FUNCTION monitoring.companion_status(OUT worker text, OUT datid oid, OUT pid int, OUT worker_state text, OUT since timestamptz)
RETURNS SETOF record
LANGUAGE C STRICT VOLATILE PARALLEL SAFE ROWS 2
AS 'MODULE_PATHNAME', 'mon_companion_status';
COMMENT ON FUNCTION monitoring.companion_status() IS 'Workers that talk to others for a database (notifier, prober), as shared memory has them: those that run, and those that should. Errors: not preloaded (55000).';

CREATE VIEW monitoring.status AS
SELECT d.datname AS database,
       w.worker,
       w.pid,
       w.worker_state,
       w.since,
       w.job,
       w.job_state AS state,
       w.last_run,
       w.last_duration,
       w.runs,
       w.failures,
       j.last_error,
       j.last_error_at,
       w.lag
FROM (SELECT * FROM monitoring.worker_status()
      UNION ALL
      SELECT c.*, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM monitoring.companion_status() AS c) AS w
LEFT JOIN pg_catalog.pg_database d ON d.oid = w.datid
LEFT JOIN monitoring.jobs j ON j.name = w.job AND d.datname = pg_catalog.current_database()
ORDER BY d.datname NULLS FIRST, j.priority, w.job;
COMMENT ON VIEW monitoring.status IS 'The launcher, per database worker every enabled job, and the workers that talk to others (notifier, prober) while they run or should: one row each. Counters are since the server started. Errors are those of the current database''s jobs.';
COMMENT ON COLUMN monitoring.status.database IS 'Database of the worker; null for the launcher.';
COMMENT ON COLUMN monitoring.status.worker IS 'launcher, database worker, notifier or prober.';
COMMENT ON COLUMN monitoring.status.pid IS 'Process id; null while no process is there.';
COMMENT ON COLUMN monitoring.status.worker_state IS 'starting, idle, running, waiting (for its turn: there are more databases than monitoring.max_workers), standing aside (for a command on the database), restarting; of the launcher: running or not running (as on a standby); of notifier and prober: starting, running, restarting, or no free background worker (max_worker_processes is too low).';
COMMENT ON COLUMN monitoring.status.since IS 'Start of the process, or its end if there is none now.';
COMMENT ON COLUMN monitoring.status.job IS 'Name of the job; null for all but database workers, and for a worker that has not read its jobs yet.';
COMMENT ON COLUMN monitoring.status.state IS 'State of the job: new (has not run since the server started), running, ok, failed, put off (it was running when the server crashed, twice or more in a row; it is tried again after 10 seconds, then 40 and so on, at most after an hour).';
COMMENT ON COLUMN monitoring.status.last_run IS 'Start of the latest run.';
COMMENT ON COLUMN monitoring.status.last_duration IS 'Duration of the latest run in seconds.';
COMMENT ON COLUMN monitoring.status.runs IS 'Runs since the server started.';
COMMENT ON COLUMN monitoring.status.failures IS 'Failed runs since the server started.';
COMMENT ON COLUMN monitoring.status.last_error IS 'Message of the latest failure, kept after the job works again.';
COMMENT ON COLUMN monitoring.status.last_error_at IS 'When that failure was first seen.';
COMMENT ON COLUMN monitoring.status.lag IS 'Seconds by which the latest run started late or by which the next one is overdue, whichever is more.';
