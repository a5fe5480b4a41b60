-- Partitions are made ahead and dropped behind; all on virtual time, in a transaction, so that the periodic job,
-- which goes by the real one, does not see the policy.
SET client_min_messages = warning;
SET timezone = 'UTC';
BEGIN;
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
DELETE FROM monitoring.retention_policies WHERE relation = 'ret_test';
DROP TABLE monitoring.ret_test;
COMMIT;
