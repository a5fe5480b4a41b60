-- Jobs as rows: what is refused, and what status shows.
\set VERBOSITY terse
SET timezone = 'UTC';
CREATE FUNCTION public.worker_jobs_noop(at timestamptz) RETURNS void LANGUAGE sql AS '';

-- refused
INSERT INTO monitoring.jobs (name, function, every) VALUES ('', 'public.worker_jobs_noop', '1 hour');
INSERT INTO monitoring.jobs (name, function, every) VALUES (repeat('x', 64), 'public.worker_jobs_noop', '1 hour');
INSERT INTO monitoring.jobs (name, function, every) VALUES ('noop', 'worker_jobs_noop', '1 hour');
INSERT INTO monitoring.jobs (name, function, every) VALUES ('noop', 'pg_sleep(1), now', '1 hour');
INSERT INTO monitoring.jobs (name, function, every) VALUES ('noop', 'public.worker_jobs_noop', '0');
INSERT INTO monitoring.jobs (name, function, every) VALUES ('noop', 'public.worker_jobs_noop', '-1 hour');
INSERT INTO monitoring.jobs (name, function, every, timeout) VALUES ('noop', 'public.worker_jobs_noop', '1 hour', '0');
INSERT INTO monitoring.jobs (name, function) VALUES ('noop', 'public.worker_jobs_noop');
INSERT INTO monitoring.jobs (name, function, every, setting) VALUES ('noop', 'public.worker_jobs_noop', '1 hour', 'monitoring.flush_interval');
INSERT INTO monitoring.jobs (name, function, every) VALUES ('flush', 'public.worker_jobs_noop', '1 hour');
SELECT monitoring.wake_worker();

-- accepted
INSERT INTO monitoring.jobs (name, function, every) VALUES ('noop', 'public."worker_jobs_noop"', '1 hour')
RETURNING name, priority, timeout, enabled, durable, run_on_wake, run_at_shutdown, owner = current_user AS mine, last_state, last_error;
DELETE FROM monitoring.jobs WHERE name = 'noop';

-- ours
SELECT name, function, every, setting, priority, timeout, enabled, durable, run_at_shutdown
FROM monitoring.jobs WHERE name IN ('flush', 'retention') ORDER BY priority;

-- the launcher has a row without a database and without a job
SELECT database, worker, job, state, runs, failures, last_error, lag FROM monitoring.status WHERE worker = 'launcher';

-- who may look
CREATE ROLE worker_jobs_reader;
SET ROLE worker_jobs_reader;
SELECT count(*) FROM monitoring.status;
RESET ROLE;
SELECT monitoring.grant_access('worker_jobs_reader', 'viewer');
SET ROLE worker_jobs_reader;
SELECT count(*) FROM monitoring.status WHERE worker = 'launcher';
UPDATE monitoring.jobs SET enabled = false;
RESET ROLE;
SELECT monitoring.revoke_access('worker_jobs_reader');
DROP ROLE worker_jobs_reader;
DROP FUNCTION public.worker_jobs_noop;
