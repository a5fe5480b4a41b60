-- Partitions are made ahead and dropped behind; all on virtual time.
SET client_min_messages = warning;
SET timezone = 'UTC';
-- not in the midst of it the worker's run on real time
UPDATE monitoring.jobs SET enabled = false WHERE name = 'retention';
DO $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM monitoring.status WHERE database = current_database() AND job = 'retention' AND state = 'running');
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
CREATE TABLE monitoring.ret_test (at timestamptz NOT NULL, x int, PRIMARY KEY (at, x)) PARTITION BY RANGE (at);
INSERT INTO monitoring.retention_policies VALUES ('ret_test', '1 day', 2, '3 days');
SELECT * FROM monitoring.apply_retention('2024-03-10 12:00') WHERE relation = 'ret_test';
SELECT partition, since, until FROM monitoring.partitions('ret_test') ORDER BY since;
INSERT INTO monitoring.ret_test SELECT d, 1 FROM generate_series('2024-03-10'::timestamptz, '2024-03-12', '6 hours') d;
-- twice changes nothing
SELECT * FROM monitoring.apply_retention('2024-03-10 12:00') WHERE relation = 'ret_test';
SELECT * FROM monitoring.apply_retention('2024-03-14 00:00') WHERE relation = 'ret_test';
SELECT partition, since, until FROM monitoring.partitions('ret_test') ORDER BY since;
SELECT count(*), min(at) FROM monitoring.ret_test;
-- a disabled policy keeps everything
UPDATE monitoring.retention_policies SET enabled = false WHERE relation = 'ret_test';
SELECT * FROM monitoring.apply_retention('2024-04-14 00:00') WHERE relation = 'ret_test';
SELECT count(*) FROM monitoring.ret_test;
-- a longer step does not overlap what exists
UPDATE monitoring.retention_policies SET enabled = true, partition_step = '7 days', premake = 1, keep = '1000 days' WHERE relation = 'ret_test';
SELECT monitoring.ensure_partition('ret_test', '2024-03-17 12:00'), monitoring.ensure_partition('ret_test', '2024-03-20');
INSERT INTO monitoring.ret_test VALUES ('2024-03-17', 1), ('2024-03-20', 2);
SELECT count(*) FROM monitoring.ret_test;
-- the name is that of the partition which holds the time, also after a change of the step
SELECT monitoring.ensure_partition('ret_test', '2024-03-17 13:00'), monitoring.ensure_partition('ret_test', '2024-03-11');
-- a partition that somebody has detached and kept is not in the way
ALTER TABLE monitoring.ret_test DETACH PARTITION monitoring.ret_test_p202403110000_1440;
UPDATE monitoring.retention_policies SET partition_step = '1 day' WHERE relation = 'ret_test';
SELECT monitoring.ensure_partition('ret_test', '2024-03-11') ~ '^ret_test_p202403110000_1440_\d+$';
INSERT INTO monitoring.ret_test VALUES ('2024-03-11', 1);
DROP TABLE monitoring.ret_test_p202403110000_1440;
DELETE FROM monitoring.retention_policies WHERE relation = 'ret_test';
DROP TABLE monitoring.ret_test;

-- keys and indexes of our own tables belong to the partitions
SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT to_regclass('monitoring.' || relation) FROM monitoring.retention_policies);
CREATE TABLE monitoring.ret_test (at timestamptz NOT NULL, x int) PARTITION BY RANGE (at);
INSERT INTO monitoring.retention_policies (relation, partition_step, keep, indexes)
VALUES ('ret_test', '1 day', '3 days', '{"PRIMARY KEY (at, x)","(x) WHERE x > 0"}');
SELECT monitoring.ensure_partition('ret_test', '2024-03-10');
SELECT indexdef FROM pg_indexes WHERE tablename = 'ret_test_p202403100000_1440' ORDER BY 1;

-- what fails for one table does not keep the others from being served
SET client_min_messages = error;
INSERT INTO monitoring.retention_policies VALUES ('ret_nothing', '1 day', 0, '1 day');
SELECT * FROM monitoring.apply_retention('2024-03-20') WHERE relation LIKE 'ret%' ORDER BY 1;
DELETE FROM monitoring.retention_policies WHERE relation LIKE 'ret%';
DROP TABLE monitoring.ret_test;

-- refused
\set VERBOSITY terse
INSERT INTO monitoring.retention_policies VALUES ('ret_test', '1 month', 2, '3 days');
INSERT INTO monitoring.retention_policies VALUES ('ret_test', '10 seconds', 2, '3 days');
SELECT monitoring.ensure_partition('ret_test', '2024-03-10');
SELECT monitoring.apply_retention('infinity');
-- who may only read cannot hold the lock that makers of partitions take
CREATE ROLE ret_reader;
SELECT monitoring.grant_access('ret_reader', 'viewer');
SET ROLE ret_reader;
BEGIN;
LOCK TABLE ONLY monitoring.alert_history IN SHARE UPDATE EXCLUSIVE MODE;
ROLLBACK;
RESET ROLE;
SELECT monitoring.revoke_access('ret_reader');
DROP ROLE ret_reader;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'retention';
