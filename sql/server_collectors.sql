-- Collectors: what those that come with the extension give, compared with the catalog; counters, resets and time going back;
-- collectors of users, and what is refused. What needs other sessions is tested in test/t/045_collectors.pl.
SET client_min_messages = warning;
\set VERBOSITY terse
SET timezone = 'UTC';
UPDATE monitoring.jobs SET enabled = false WHERE name = 'collect';
DO $$
BEGIN
	FOR i IN 1 .. 3000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM monitoring.status WHERE database = current_database() AND job = 'collect');
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

-- ---- each collector gives what it promises ----
CREATE SCHEMA co;
CREATE TABLE co.things (id serial PRIMARY KEY, small smallserial, note text) WITH (autovacuum_enabled = off);
INSERT INTO co.things (note) SELECT repeat('x', 100) FROM generate_series(1, 20000);
DELETE FROM co.things WHERE id <= 10000;
CREATE INDEX things_note ON co.things (note, id);
CREATE SEQUENCE co.up MAXVALUE 200;
CREATE SEQUENCE co.down INCREMENT -1 MINVALUE -101;
CREATE SEQUENCE co.round MAXVALUE 10 CYCLE;
CREATE SEQUENCE co.unused MAXVALUE 10;
SELECT setval('co.up', 181), setval('co.down', -91), setval('co.round', 9), setval('co.things_small_seq', 32700);
SELECT pg_stat_force_next_flush();
-- a machine that is busy or stalls takes longer than what they may cost
CREATE TEMP TABLE limits AS SELECT name, cost_limit FROM monitoring.collectors;
UPDATE monitoring.collectors SET cost_limit = '10 seconds';
SELECT monitoring.collect(array_agg(name)) > 500 AS readings FROM monitoring.collectors;
SELECT collector, state, last_error FROM monitoring.collector_status WHERE state NOT IN ('ok', 'elsewhere');
SELECT s.collector, s.scope, s.every, l.cost_limit FROM monitoring.collector_status AS s JOIN limits AS l ON l.name = s.collector ORDER BY s.collector COLLATE "C";
SELECT collector FROM monitoring.collector_status WHERE runs <> 1 + failures AND runs < 1 OR last_duration IS NULL OR share_of_core_ratio IS NULL;

-- ---- and tells the truth ----
CREATE VIEW co.latest AS
	SELECT s.name, u.metric, u.counter, u.labels, u.value
	FROM monitoring.collector_series AS s JOIN monitoring.collector_runs AS r USING (name)
	CROSS JOIN LATERAL unnest(s.metrics, s.counters, s.labels, r.readings) AS u (metric, counter, labels, value);
-- one series at most of what a query gives
CREATE FUNCTION co.reading(metric text, labels jsonb DEFAULT '{}') RETURNS float8 LANGUAGE sql AS $$
	SELECT l.value FROM co.latest AS l WHERE l.metric = reading.metric AND l.labels @> reading.labels
$$;
SELECT co.reading('pg_up') AS up, co.reading('pg_replication_is_replica') AS is_replica,
	co.reading('pg_postmaster_start_time_seconds') = extract(epoch FROM pg_postmaster_start_time())::float8 AS started,
	co.reading('pg_static', jsonb_build_object('short_version', split_part(current_setting('server_version'), ' ', 1))) AS version,
	co.reading('pg_settings_max_connections') = current_setting('max_connections')::float8 AS max_connections,
	co.reading('pg_settings_shared_buffers_bytes') = pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
	co.reading('pg_settings_checkpoint_timeout_seconds') = extract(epoch FROM current_setting('checkpoint_timeout')::interval)::float8 AS timeout,
	co.reading('pg_settings_fsync') = (current_setting('fsync') = 'on')::int AS fsync;
SELECT count(*) AS states, min(value) >= 0 AS none_negative FROM co.latest WHERE metric = 'pg_connections' AND labels ->> 'database' = current_database();
SELECT co.reading('pg_connections_used_ratio') BETWEEN 0 AND 1 AS used, co.reading('pg_locks_used_ratio') BETWEEN 0 AND 1 AS locks,
	co.reading('pg_longest_transaction_seconds', jsonb_build_object('database', current_database())) >= 0 AS longest,
	(SELECT count(*) FROM co.latest WHERE metric = 'pg_locks_count' AND labels ->> 'datname' = current_database()) AS lock_modes;
SELECT (SELECT count(*) FROM co.latest WHERE metric = 'pg_stat_database_xact_commit') = (SELECT count(*) FROM pg_stat_database) AS all_databases,
	co.reading('pg_xid_age', jsonb_build_object('database', current_database())) BETWEEN 1 AND age(datfrozenxid) AS xid_age,
	co.reading('pg_database_connection_limit', jsonb_build_object('datname', datname)) AS connection_limit,
	co.reading('pg_stat_database_xact_commit', jsonb_build_object('datname', datname)) BETWEEN 1 AND pg_stat_get_db_xact_commit(oid) AS commits,
	co.reading('pg_transactions_total', jsonb_build_object('database', datname, 'outcome', 'committed')) = co.reading('pg_stat_database_xact_commit', jsonb_build_object('datname', datname)) AS same
FROM pg_database WHERE datname = current_database();
SELECT co.reading('pg_stat_user_tables_n_tup_ins', '{"relname": "things"}') AS inserted, co.reading('pg_stat_user_tables_n_tup_del', '{"relname": "things"}') AS deleted,
	co.reading('pg_stat_user_tables_n_dead_tup', '{"relname": "things"}') AS dead,
	co.reading('pg_table_dead_tuples_ratio', jsonb_build_object('table', 'co.things', 'database', current_database())) AS dead_ratio,
	co.reading('pg_stat_user_tables_table_size_bytes', '{"schemaname": "co", "relname": "things"}') = pg_table_size('co.things') AS table_size,
	co.reading('pg_stat_user_tables_index_size_bytes', '{"schemaname": "co", "relname": "things"}') = pg_indexes_size('co.things') AS index_size,
	co.reading('pg_table_bytes', '{"table": "co.things"}') = pg_total_relation_size('co.things') AS total_size,
	co.reading('pg_statio_user_tables_heap_blocks_hit', '{"relname": "things"}') > 0 AS hits;
SELECT co.reading('pg_index_size_bytes', '{"indexrelname": "things_note"}') = pg_relation_size('co.things_note') AS index_size,
	co.reading('pg_invalid_indexes') AS invalid, co.reading('pg_tables') BETWEEN count(*) - 20 AND count(*) AS tables
FROM pg_class WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace);
SELECT labels ->> 'sequence' AS sequence, round(value::numeric, 4) AS used FROM co.latest WHERE metric = 'pg_sequence_used_ratio' AND labels ->> 'sequence' LIKE 'co.%' ORDER BY 1;
SELECT bool_and(value = pg_database_size(labels ->> 'datname')) AS other_databases FROM co.latest WHERE metric = 'pg_database_size_bytes' AND labels ->> 'datname' = 'template1';
SELECT co.reading('pg_wal_segments') >= 1 AS segments, co.reading('pg_wal_size_bytes') = co.reading('pg_wal_segments') * pg_size_bytes(current_setting('wal_segment_size')) AS size,
	co.reading('pg_wal_bytes_total') > 0 AS written, co.reading('pg_checkpoints_total', '{"cause": "requested"}') >= 0 AS checkpoints,
	co.reading('pg_stat_bgwriter_buffers_alloc_total') > 0 AS allocated, co.reading('pg_stat_bgwriter_checkpoints_req_total') IS NOT NULL AS old_family,
	(co.reading('pg_stat_checkpointer_num_requested_total') IS NOT NULL) = (current_setting('server_version_num')::int >= 170000) AS new_family,
	(SELECT count(*) > 0 FROM co.latest WHERE metric LIKE 'pg_stat_io_%') = (current_setting('server_version_num')::int >= 160000) AS io,
	(SELECT count(*) > 0 FROM co.latest WHERE metric LIKE 'pg_stat_lock_%') = (current_setting('server_version_num')::int >= 190000) AS waits_by_lock;
SELECT co.reading('pg_extension_version', '{"extension": "monitoring"}') AS extension, co.reading('pg_extensions_outdated') AS outdated;
SELECT labels ->> 'holder' AS holder, value >= 0 AS age FROM co.latest WHERE metric = 'pg_xmin_horizon_age' ORDER BY 1;
-- our partitions have no series: they come and go
SELECT count(*) FROM co.latest WHERE labels ->> 'relname' ~ '^(segments|minutes|chunks)_';
-- what the rules of the packs about the server and the machine read is there, but for what needs a standby, a slot, a second look or samples of waits
SELECT DISTINCT r.rule ->> 'metric' AS metric FROM monitoring.rule_packs AS p CROSS JOIN LATERAL jsonb_array_elements(p.document -> 'rules') AS r (rule)
WHERE p.pack IN ('database', 'host') AND r.rule ? 'metric' AND r.rule ->> 'metric' NOT IN (SELECT metric FROM co.latest) ORDER BY 1;
-- all of it is in the metrics (other tests record what rules read)
SELECT monitoring.value('pg_up', 'last') AS up, monitoring.value('pg_settings_max_connections', 'last') = co.reading('pg_settings_max_connections') AS setting,
	monitoring.value('pg_scrape_collector_success', 'last', '5 minutes', '{"collector": "tables"}') AS success;
-- counters begin with what is added from now on
SELECT coalesce(monitoring.value('pg_stat_user_tables_n_tup_ins', 'sum', '5 minutes', '{"schemaname": "co", "relname": "things"}'), 0) AS inserted;
INSERT INTO co.things (note) SELECT 'y' FROM generate_series(1, 7);
SELECT pg_stat_force_next_flush();
SELECT monitoring.collect('{tables}') > 0 AS again;
SELECT monitoring.collect('{tables,tabels}');
SELECT monitoring.value('pg_stat_user_tables_n_tup_ins', 'sum', '5 minutes', '{"schemaname": "co", "relname": "things"}') AS inserted;
SELECT pg_stat_reset_single_table_counters('co.things'::regclass);
INSERT INTO co.things (note) SELECT 'y' FROM generate_series(1, 5);
SELECT pg_stat_force_next_flush();
SELECT monitoring.collect('{tables}') > 0 AS after_reset;
SELECT monitoring.value('pg_stat_user_tables_n_tup_ins', 'sum', '5 minutes', '{"schemaname": "co", "relname": "things"}') AS inserted;

-- ---- counters and gauges of a collector of one's own ----
CREATE TABLE co.source (metric text, kind text, labels jsonb, value float8, since timestamptz);
CREATE FUNCTION co.own(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE sql AS 'SELECT * FROM co.source';
SELECT monitoring.create_collector('own', 'co.own', '1 hour', cost_limit => '10 seconds', description => 'a test');
CREATE FUNCTION co.total(metric text) RETURNS float8 LANGUAGE sql AS $$ SELECT monitoring.value(metric, 'sum', '10 minutes') $$;
-- the first time only gauges count, and counters that began since the run before
INSERT INTO co.source VALUES ('co_gauge', 'gauge', '{"a": 1}', 5, NULL), ('co_jobs_total', 'counter', NULL, 1000, NULL), ('co_since_total', 'counter', '{}', 50, '2020-01-01'),
	('co_sum_total', 'counter', '{}', 500, '-infinity'), ('co_null', 'gauge', '{}', NULL, NULL), ('co_nan', 'gauge', '{}', 'NaN', NULL);
SELECT monitoring.collect('{own}');
SELECT monitoring.value('co_gauge', 'last', '10 minutes', '{"a": "1"}') AS gauge, co.total('co_jobs_total') AS jobs, co.total('co_since_total') AS since, co.total('co_sum_total') AS sum,
	monitoring.value('co_null', 'last') AS null_value, monitoring.value('co_nan', 'last') AS nan_value;
-- what they grow by; a lower value is a reset, of what is never reset it is nothing; so is another beginning, however high the value
UPDATE co.source SET value = value + 10 WHERE kind = 'counter';
SELECT monitoring.collect('{own}');
SELECT co.total('co_jobs_total') AS jobs, co.total('co_since_total') AS since, co.total('co_sum_total') AS sum;
UPDATE co.source SET value = 3 WHERE metric IN ('co_jobs_total', 'co_sum_total');
UPDATE co.source SET value = 70, since = '2020-01-02' WHERE metric = 'co_since_total';
SELECT monitoring.collect('{own}');
SELECT co.total('co_jobs_total') AS jobs, co.total('co_since_total') AS since, co.total('co_sum_total') AS sum;
-- series that come, go, and are in another order
INSERT INTO co.source VALUES ('co_jobs_total', 'counter', '{"queue": "new"}', 1000, NULL), ('co_late_total', 'counter', '{}', 6, clock_timestamp());
UPDATE co.source SET value = 5 WHERE metric = 'co_jobs_total' AND labels IS NULL;
SELECT monitoring.collect('{own}');
SELECT co.total('co_jobs_total') AS jobs, co.total('co_late_total') AS late;
-- time goes back, nothing is counted twice; what is rolled back is counted once
UPDATE co.source SET value = value + 1 WHERE metric = 'co_jobs_total';
SELECT monitoring.collect('{own}', clock_timestamp() - interval '30 seconds');
UPDATE co.source SET value = value + 100 WHERE metric = 'co_jobs_total';
BEGIN;
SELECT monitoring.collect('{own}');
ROLLBACK;
SELECT co.total('co_jobs_total') AS jobs;
SELECT monitoring.collect('{own}');
SELECT co.total('co_jobs_total') AS jobs;
-- when it is due: a run that is named does not wait for it, time going back does not keep it waiting
SELECT next_run - last_run AS next, state, readings, failures, owner = current_user AS mine FROM monitoring.collector_status WHERE collector = 'own';
UPDATE monitoring.collectors SET enabled = false WHERE name <> 'own';
SELECT monitoring.collect(NULL, clock_timestamp() + interval '1 second') AS not_due, monitoring.collect(NULL, clock_timestamp() - interval '30 seconds') AS clock_went_back;
UPDATE monitoring.collectors SET enabled = true WHERE name <> 'own';

-- ---- what goes wrong ----
CREATE FUNCTION co.outcome() RETURNS TABLE (readings bigint, outcome text, error text) LANGUAGE plpgsql AS $$
BEGIN
	readings := monitoring.collect('{own,server}');
	SELECT r.outcome, CASE WHEN r.outcome <> 'ok' THEN r.last_error END INTO outcome, error FROM monitoring.collector_runs AS r WHERE r.name = 'own';
	RETURN NEXT;
END $$;
TRUNCATE co.source;
INSERT INTO co.source VALUES ('co_gauge', 'gauge', '{"a": 1}', 5, NULL), ('co_gauge', 'gauge', '{"a": "1"}', 6, NULL);
SELECT * FROM co.outcome();
UPDATE co.source SET kind = 'counter';
DELETE FROM co.source WHERE value = 6;
SELECT * FROM co.outcome();
UPDATE co.source SET kind = 'distribution';
SELECT * FROM co.outcome();
UPDATE co.source SET kind = 'gauge', metric = 'not a name';
SELECT * FROM co.outcome();
UPDATE co.source SET metric = NULL;
SELECT * FROM co.outcome();
UPDATE co.source SET metric = 'co_gauge', labels = '[1]';
SELECT * FROM co.outcome();
TRUNCATE co.source;
INSERT INTO co.source SELECT 'co_many', 'gauge', jsonb_build_object('n', n), n FROM generate_series(1, 10001) AS n;
SELECT * FROM co.outcome();
TRUNCATE co.source;
CREATE OR REPLACE FUNCTION co.own(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE plpgsql AS $$ BEGIN DELETE FROM co.source; END $$;
SELECT * FROM co.outcome();
CREATE OR REPLACE FUNCTION co.own(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE plpgsql AS $$ BEGIN RAISE division_by_zero; END $$;
SELECT * FROM co.outcome();
-- slower than its limit, also when it catches the cancel: left out for longer and longer, the others go on
SELECT monitoring.change_collector('own', cost_limit => '20 milliseconds');
CREATE OR REPLACE FUNCTION co.own(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(60);
EXCEPTION WHEN query_canceled THEN
	PERFORM pg_sleep(60);
END $$;
SELECT * FROM co.outcome();
SELECT state, next_run - last_run AS next FROM monitoring.collector_status WHERE collector = 'own';
SELECT * FROM co.outcome();
SELECT state, next_run - last_run AS next, runs, failures FROM monitoring.collector_status WHERE collector = 'own';
SELECT monitoring.change_collector('own', every => '2 hours', cost_limit => '10 seconds');
CREATE OR REPLACE FUNCTION co.own(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE sql AS $$ SELECT 'co_gauge', 'gauge', '{}'::jsonb, 1::float8, NULL::timestamptz $$;
SELECT * FROM co.outcome();
SELECT state, next_run - last_run AS next, last_error IS NOT NULL AS remembered FROM monitoring.collector_status WHERE collector = 'own';

-- ---- who may ----
CREATE ROLE regress_collector_user;
SELECT monitoring.grant_access('regress_collector_user', 'viewer');
GRANT USAGE, CREATE ON SCHEMA co TO regress_collector_user;
SET ROLE regress_collector_user;
SELECT count(*) > 10 AS sees FROM monitoring.collector_status;
SELECT monitoring.create_collector('mine', 'co.own');
SELECT monitoring.collect();
RESET ROLE;
SELECT monitoring.grant_access('regress_collector_user', 'admin');
SET ROLE regress_collector_user;
SELECT monitoring.create_collector('mine', 'co.none');
SELECT monitoring.create_collector('mine', 'pg_catalog.pg_sleep');
CREATE FUNCTION co.mine(at timestamptz) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT monitoring.create_collector('mine', 'co.mine');
DROP FUNCTION co.mine;
CREATE FUNCTION co.mine(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT 'co_mine', 'gauge', jsonb_build_object('role', current_user), 1::float8, NULL::timestamptz;
	PERFORM count(*) FROM co.source;
END $$;
SELECT monitoring.create_collector('Mine!', 'co.mine');
SELECT monitoring.create_collector('mine', 'co.mine', scope => 'world');
SELECT monitoring.create_collector('mine', 'co.mine', every => '0');
SELECT monitoring.create_collector('mine', 'co.mine');
SELECT monitoring.create_collector('mine', 'co.mine');
RESET ROLE;
-- it has its owner's rights, no more
SELECT monitoring.collect('{mine}');
SELECT state, last_error FROM monitoring.collector_status WHERE collector = 'mine';
GRANT SELECT ON co.source TO regress_collector_user;
SELECT monitoring.collect('{mine}');
SELECT labels FROM co.latest WHERE name = 'mine';
-- nobody else decides what runs with them
CREATE ROLE regress_collector_other;
ALTER FUNCTION co.mine OWNER TO regress_collector_other;
SELECT monitoring.collect('{mine}');
SELECT state, last_error FROM monitoring.collector_status WHERE collector = 'mine';
DROP FUNCTION co.mine;
SELECT monitoring.collect('{mine}');
SELECT state, last_error FROM monitoring.collector_status WHERE collector = 'mine';
SELECT monitoring.drop_collector('mine'), monitoring.drop_collector('own');
SELECT monitoring.drop_collector('own');
SELECT monitoring.change_collector('own', enabled => false);
SELECT monitoring.collect('{server}', NULL);
SELECT count(*) FROM monitoring.collector_runs WHERE name IN ('mine', 'own');
-- hundreds of databases: those with the most transactions are listed, the oldest ids are known, and a run keeps its bound
BEGIN;
SET LOCAL allow_system_table_mods = on;
INSERT INTO pg_database
SELECT (jsonb_populate_record(d, jsonb_build_object('oid', 4000000000 + i, 'datname', 'regress_many_' || i, 'datallowconn', true, 'datistemplate', false))).*
FROM pg_database AS d, generate_series(1, 700) AS i WHERE d.datname = 'template0';
SELECT count(*), bool_or(d = 0) AS common, bool_or(d = (SELECT oid FROM pg_database WHERE datname = current_database())) AS this
FROM monitoring.listed_databases() AS d;
SELECT count(*) < 10000 AS bounded, count(DISTINCT labels) FILTER (WHERE metric = 'pg_stat_database_xact_commit') AS counted,
	count(*) FILTER (WHERE metric = 'pg_xid_age') AS aged, bool_or(metric = 'pg_xid_age' AND labels ->> 'database' LIKE 'regress_many%') AS oldest
FROM monitoring.collect_databases(clock_timestamp());
SELECT count(DISTINCT labels ->> 'datname') BETWEEN 90 AND 101 AS listed FROM monitoring.collect_locks(clock_timestamp()) WHERE metric = 'pg_locks_count';
ROLLBACK;
SELECT monitoring.revoke_access('regress_collector_user');
DROP SCHEMA co CASCADE;
DROP ROLE regress_collector_user;
DROP ROLE regress_collector_other;
UPDATE monitoring.collectors AS c SET cost_limit = l.cost_limit FROM limits AS l WHERE l.name = c.name;
UPDATE monitoring.jobs SET enabled = true WHERE name = 'collect';
