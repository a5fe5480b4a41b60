-- Levels of access, with roles of this test alone.
SET client_min_messages = warning;
CREATE ROLE mon_test_viewer;
CREATE ROLE mon_test_writer;
CREATE ROLE mon_test_none;
SELECT monitoring.grant_access('mon_test_viewer', 'viewer');
SELECT monitoring.grant_access('mon_test_writer', 'writer');

SET ROLE mon_test_writer;
SELECT monitoring.increment('acc_total', 2);
SELECT monitoring.value('acc_total', 'sum');
SELECT count(*) FROM monitoring.segments;
RESET ROLE;
SET ROLE mon_test_viewer;
SELECT monitoring.value('acc_total', 'sum');
SELECT count(*) FROM monitoring.metrics WHERE metric = 'acc_total';
SELECT count(*) FROM monitoring.self;
SELECT count(*) >= 0 FROM monitoring.alert_history;
SELECT monitoring.increment('acc_total', 2);
SELECT count(*) FROM monitoring.segments;
SELECT monitoring.apply_retention();
RESET ROLE;
SET ROLE mon_test_none;
SELECT monitoring.value('acc_total', 'sum');
SELECT monitoring.record('acc_total', 1);
RESET ROLE;

-- every view can be read by a viewer
SET ROLE mon_test_viewer;
DO $$
DECLARE v record;
BEGIN
    FOR v IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind = 'v' ORDER BY 1 LOOP
        EXECUTE format('SELECT count(*) FROM (SELECT * FROM monitoring.%I) x', v.relname);
    END LOOP;
END $$;
RESET ROLE;

-- nothing to PUBLIC but the sketch type
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'monitoring'::regnamespace
AND has_function_privilege('mon_test_none', p.oid, 'EXECUTE');
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('r', 'v', 'p', 'S')
AND has_any_column_privilege('mon_test_none', c.oid, 'SELECT,INSERT,UPDATE,REFERENCES');

SELECT monitoring.revoke_access('mon_test_viewer'), monitoring.revoke_access('mon_test_writer');
DROP ROLE mon_test_viewer, mon_test_writer, mon_test_none;
