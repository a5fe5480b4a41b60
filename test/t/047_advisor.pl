# Advisors: a database with one of each fault and of what only looks like one.
# All faults are found and nothing else; the SQL of each finding runs, its query
# tells before and after, and the finding is done.  Estimates of bloat beside
# pgstattuple; thousands of tables; tables that somebody has locked.
#
# Times of runs are virtual, a week apart; autovacuum is on and does not come.

use strict;
use warnings;

use AdvisedNode;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('advisor');
$node->init;
# A fault, which 18 and later do not make by themselves; before, there is nothing to switch off.
system_log('pg_checksums', '--no-sync', '--disable', $node->data_dir);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
autovacuum_naptime = '1d'
max_worker_processes = 16
max_prepared_transactions = 2
fsync = off
track_io_timing = on
checkpoint_completion_target = 0.5
random_page_cost = 1.1
effective_cache_size = '8MB'
CONF
$node->start;
create_advised($node);

# run them all; none fails
sub advise
{
	my ($at) = @_;
	is(sql("SELECT name || ': ' || failure FROM monitoring.advise('$at') WHERE failure IS NOT NULL"), '', "all advisors run on $at");
	return;
}

sub open_findings
{
	# in the years between now and then a worker's transaction of a moment is an old one
	my @found = sort split /\n/, sql(q{SELECT advisor || ' ' || object_name FROM monitoring.advice
		WHERE coalesce(evidence ->> 'backend_type', 'client backend') = 'client backend'});
	return @found;
}

# what happens in a week
sub use_indexes
{
	sql(join ';', 'SET enable_seqscan = off', 'SET enable_bitmapscan = off', "SELECT FROM shop.bloated WHERE code = 'code3'",
		"SELECT FROM shop.dense WHERE code = 'code3'");
	return;
}

# ---- faults and look-alikes ----

sql(<<'SQL');
CREATE SCHEMA shop;
CREATE TABLE shop.customers (id int PRIMARY KEY, email text NOT NULL, name text, region int);
INSERT INTO shop.customers SELECT i, 'c' || i || '@x', 'n' || i, i % 7 FROM generate_series(1, 12000) AS i;
CREATE TABLE shop."Order" (id bigint PRIMARY KEY, customer_id int NOT NULL REFERENCES shop.customers,
	"Referred by" int REFERENCES shop.customers, at timestamptz, total int, "Odd "" Col" text);
INSERT INTO shop."Order" SELECT i, 1 + i % 12000, 1 + i % 12000, now(), i, repeat('o', 100) || i FROM generate_series(1, 15000) AS i;
CREATE INDEX order_customer ON shop."Order" (customer_id, at);

-- unused: those that are unique, that a foreign key needs, or that are small are not
CREATE INDEX "Unused "" Idx" ON shop."Order" ("Odd "" Col");
CREATE UNIQUE INDEX unique_email ON shop.customers (email);
CREATE TABLE shop.small (id int PRIMARY KEY, v int);
CREATE INDEX small_v ON shop.small (v);

-- duplicates; and what only looks like them: other order, predicate, operator class, collation, method, unique prefix
CREATE INDEX order_customer_only ON shop."Order" (customer_id);
CREATE INDEX total ON shop."Order" (total);
CREATE INDEX total_again ON shop."Order" (total);
CREATE INDEX total_desc ON shop."Order" (total DESC NULLS LAST);
CREATE INDEX total_some ON shop."Order" (total) WHERE total > 10;
CREATE INDEX total_some_again ON shop."Order" (total)   WHERE   total > 10;
CREATE INDEX total_others ON shop."Order" (total) WHERE total > 11;
CREATE INDEX name ON shop.customers (name);
CREATE INDEX name_pattern ON shop.customers (name text_pattern_ops);
CREATE INDEX name_c ON shop.customers (name COLLATE "C");
CREATE INDEX name_hash ON shop.customers USING hash (name);
CREATE INDEX name_lower ON shop.customers (lower(name));
CREATE INDEX name_upper ON shop.customers (upper(name));
CREATE INDEX name_lower_region ON shop.customers (lower(name), region);
CREATE UNIQUE INDEX region_id ON shop.customers (region, id);
CREATE UNIQUE INDEX region_id_email ON shop.customers (region, id, email);
CREATE INDEX region_include ON shop.customers (region) INCLUDE (name);

-- foreign keys: an index in another order does, a partial one does not
CREATE TABLE shop.lines (a int, b int, c int, PRIMARY KEY (a, b));
CREATE TABLE shop.parts (id int PRIMARY KEY, b int, a int, c int REFERENCES shop.small, FOREIGN KEY (a, b) REFERENCES shop.lines);
CREATE INDEX parts_b_a ON shop.parts (b, a);
CREATE INDEX parts_c ON shop.parts (c) WHERE c > 0;
INSERT INTO shop.parts SELECT i FROM generate_series(1, 1500) AS i;

-- keys near their end
CREATE TABLE shop.serials (id serial PRIMARY KEY);
SELECT setval('shop.serials_id_seq', 2000000000);
CREATE TABLE shop.wide (id int PRIMARY KEY);
CREATE SEQUENCE shop."Wide Seq" AS bigint OWNED BY shop.wide.id;
SELECT setval('shop."Wide Seq"', 1700000000);
CREATE TABLE shop.bigserials (id bigserial PRIMARY KEY);
SELECT setval('shop.bigserials_id_seq', 2000000000);
CREATE SEQUENCE shop.cycles AS smallint CYCLE;
SELECT setval('shop.cycles', 32767);
CREATE SEQUENCE shop.half AS smallint;
SELECT setval('shop.half', 16000);
CREATE TABLE shop.numbered (id int PRIMARY KEY);
INSERT INTO shop.numbered SELECT 2000000000 + i FROM generate_series(1, 1000) AS i;
CREATE TABLE shop.numbered_big (id bigint PRIMARY KEY);
INSERT INTO shop.numbered_big SELECT 2000000000 + i FROM generate_series(1, 1000) AS i;

-- keys that are missing
CREATE TABLE shop.no_key (id int NOT NULL, v int);
CREATE UNIQUE INDEX no_key_id ON shop.no_key (id);
INSERT INTO shop.no_key SELECT i, i FROM generate_series(1, 2000) AS i;
CREATE TABLE shop.no_key_at_all AS SELECT i AS v FROM generate_series(1, 2000) AS i;
CREATE TABLE shop.no_key_small AS SELECT 1 AS v;

ALTER TABLE shop.customers ADD CONSTRAINT "Has Name" CHECK (name <> '') NOT VALID;
ALTER TABLE shop.customers ADD CHECK (email <> '');
CREATE UNLOGGED TABLE shop.unlogged (id int PRIMARY KEY);
INSERT INTO shop.unlogged VALUES (1);
CREATE UNLOGGED TABLE shop.unlogged_empty (id int PRIMARY KEY);

-- vacuum
CREATE TABLE shop.dead (id int PRIMARY KEY);
CREATE TABLE shop.little_dead (id int PRIMARY KEY);
INSERT INTO shop.dead SELECT i FROM generate_series(1, 40000) AS i;
INSERT INTO shop.little_dead SELECT i FROM generate_series(1, 40000) AS i;
CREATE TABLE shop.no_vacuum (id int PRIMARY KEY) WITH (autovacuum_enabled = off);
INSERT INTO shop.no_vacuum SELECT i FROM generate_series(1, 2000) AS i;
CREATE TABLE shop.no_vacuum_large (id int PRIMARY KEY, v text) WITH (toast.autovacuum_enabled = off);
INSERT INTO shop.no_vacuum_large SELECT i, 'x' FROM generate_series(1, 2000) AS i;
CREATE TABLE shop.vacuum_large (LIKE shop.no_vacuum_large INCLUDING ALL) WITH (toast.autovacuum_enabled = on, autovacuum_enabled = on);
INSERT INTO shop.vacuum_large SELECT i, 'x' FROM generate_series(1, 2000) AS i;
CREATE TABLE shop.unfrozen (id int PRIMARY KEY) WITH (autovacuum_freeze_max_age = 100000);

-- statistics; what was analyzed is not told here
CREATE TABLE shop.never_analyzed (id int PRIMARY KEY);
INSERT INTO shop.never_analyzed SELECT i FROM generate_series(1, 3000) AS i;
CREATE TABLE shop.measures (at int PRIMARY KEY) PARTITION BY RANGE (at);
CREATE TABLE shop.measures_1 PARTITION OF shop.measures FOR VALUES FROM (0) TO (20000);
INSERT INTO shop.measures SELECT i FROM generate_series(1, 12000) AS i;

-- bloat: every third row is left, and so are the pages; the other table was made so
CREATE TABLE shop.bloated (id int PRIMARY KEY, at timestamptz, flag boolean, code text, amount numeric, note text);
INSERT INTO shop.bloated SELECT i, now(), i % 2 = 0, 'code' || i, i / 7.0, repeat('x', i % 40) FROM generate_series(1, 60000) AS i;
CREATE INDEX bloated_code ON shop.bloated (code);
CREATE TABLE shop.dense (LIKE shop.bloated INCLUDING ALL);
INSERT INTO shop.dense SELECT * FROM shop.bloated;
DELETE FROM shop.bloated WHERE id % 3 <> 0;

-- cost
CREATE TABLE shop.archive (id int PRIMARY KEY, v text);
ALTER TABLE shop.archive ALTER v SET STORAGE PLAIN;
INSERT INTO shop.archive SELECT i, repeat('x', 900) FROM generate_series(1, 20000) AS i;
CREATE TABLE shop.scanned (id int PRIMARY KEY, v int);
INSERT INTO shop.scanned SELECT i, i FROM generate_series(1, 12000) AS i;

-- looked through: by a column that tells, by one that does not, by one that has an index; and what another table has as well
CREATE TABLE shop.visits (id int PRIMARY KEY, "Token" text, kind int, page int, note text, owner int);
INSERT INTO shop.visits SELECT i, md5(i::text), i % 3, i % 6000, 'n' || i, i FROM generate_series(1, 12000) AS i;
CREATE INDEX visits_page ON shop.visits (page);
CREATE TABLE shop.owners (owner int PRIMARY KEY);
CREATE EXTENSION pgstattuple VERSION '1.4';
SQL
# statistics of what was written come after it
sql('SELECT pg_stat_force_next_flush()');
sql('DELETE FROM shop.dead WHERE id <= 15000');
sql('DELETE FROM shop.little_dead WHERE id <= 9000');
sql('ANALYZE shop.' . $_) foreach qw(customers "Order" small parts numbered numbered_big no_key no_key_at_all unlogged dead
	little_dead no_vacuum no_vacuum_large vacuum_large measures_1 archive scanned visits serials wide no_key_small);
sql('VACUUM (ANALYZE) shop.' . $_) foreach qw(bloated dense);

# an index that could not be made, and one that is being made
sql('CREATE TABLE shop.doubles (id int PRIMARY KEY, v int)');
sql('INSERT INTO shop.doubles VALUES (1, 1), (2, 1)');
$node->psql('advised', 'CREATE UNIQUE INDEX CONCURRENTLY doubles_v ON shop.doubles (v)');
my $writer = $node->background_psql('advised');
$writer->query_safe(q{SET application_name = 'writer'; BEGIN; INSERT INTO shop.small VALUES (1, 1)});
my $builder = $node->background_psql('advised');
$builder->query_until(qr/started/, "\\echo started\nCREATE INDEX CONCURRENTLY small_id_v ON shop.small (id, v);\n");
$node->poll_query_until('advised', q{SELECT count(*) = 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'})
	or die 'no index is being made';
sql(q{BEGIN; INSERT INTO shop.small VALUES (2, 2); PREPARE TRANSACTION 'it''s old'});
# ids go by, in subtransactions
sql(q{DO $$ BEGIN FOR i IN 1 .. 115000 LOOP BEGIN PERFORM pg_logical_emit_message(true, '', ''); EXCEPTION WHEN others THEN END; END LOOP; END $$});

# what a small machine and a test can have
set_thresholds(@$_) foreach (
	[ 'unused_indexes', '{"min_bytes": 1500000}' ],
	[ 'bloated_tables', '{"min_bytes": 1000000, "high_bytes": 1e9}' ],
	[ 'bloated_indexes', '{"min_bytes": 300000}' ],
	[ 'unread_tables', '{"min_bytes": 15000000, "unused_for": "7 days"}' ],
	[ 'sequential_scans', '{"per_hour": 0.1}' ],
	[ 'missing_indexes', '{"per_hour": 0.1}' ],
	[ 'memory_settings', '{"min_memory": 0, "temp_bytes_per_hour": 1e18}' ],
	[ 'cache_misses', '{"min_read_bytes": 1e18}' ]);

# a sample, a week in which indexes are used, and another look
advise('2031-01-01');
is(join("\n", grep { /unused|unread|sequential|cache_misses/ } open_findings()), '', 'nobody knows yet what is not used');
use_indexes();
sql('SELECT sum(v) FROM shop.scanned') foreach 1 .. 30;
sql('SELECT sum(kind) FROM shop.visits') foreach 1 .. 30;
sql('SELECT count(*) FROM shop.never_analyzed');
sql('CHECKPOINT') foreach 1 .. 6;
sql(<<'SQL');
SELECT monitoring.snapshot_statements();
SELECT monitoring.ensure_partition('statement_deltas', '2031-01-08 23:00Z');
INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, latency, temp_written_bytes)
SELECT '2031-01-08 23:00Z', '2031-01-08 22:00Z', v.queryid, 10, true, v.calls, v.calls * v.seconds, v.seconds,
	(SELECT monitoring.sketch(v.seconds + 0 * i) FROM generate_series(1, v.calls) AS i), v.temp
-- slow and often; quick and often; slow once; with files
FROM (VALUES (101, 200, 5::float8, NULL::bigint), (102, 3000, 0.01, NULL), (103, 1, 30, NULL), (104, 20, 0.01, 2000000000),
	(105, 20, 0.2, NULL), (106, 20, 0.2, NULL), (107, 20, 0.2, NULL), (108, 20, 0.2, NULL), (109, 20, 0.2, NULL), (110, 20, 0.2, NULL)) AS v (queryid, calls, seconds, temp);
INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen) VALUES (101, 10, 'select slow', '2031-01-08'),
	(105, 10, 'SELECT * FROM shop.visits v WHERE kind = $1 AND v."Token" = $2', '2031-01-08'),
	(106, 10, 'select count(*) from visits where kind = $1', '2031-01-08'),
	(107, 10, 'select * from visits where page = $1 and note = $2', '2031-01-08'),
	(108, 10, 'select * from visits join owners using (owner) where owner = $1', '2031-01-08'),
	(109, 10, 'update visits set note = $1 where kind = $2', '2031-01-08'),
	(110, 10, 'select * from shop.revisits where note = $1', '2031-01-08');
SQL
sql(q{ALTER SYSTEM SET max_connections = 99});
$node->append_conf('postgresql.conf', 'hot_standby_feedback = maybe');
$node->reload;
$node->poll_query_until('advised', q{SELECT pending_restart FROM pg_settings WHERE name = 'max_connections'}) or die 'not reloaded';

my $session = $writer->query_safe('SELECT pg_backend_pid()');
# usage since the first sample, by the counters as they are now
advise('2031-01-09');
my @expected = (
	'autovacuum_off shop.no_vacuum',
	'autovacuum_off shop.no_vacuum_large',
	'bloated_indexes shop.bloated_code',
	'bloated_indexes shop.bloated_pkey',
	'bloated_tables shop.bloated',
	'dangerous_settings checksums',
	'dangerous_settings fsync',
	'duplicate_indexes shop.name_lower',
	'duplicate_indexes shop.order_customer_only',
	'duplicate_indexes shop.total_again',
	'duplicate_indexes shop.total_some_again',
	'extension_updates pgstattuple',
	'invalid_indexes shop.doubles_v',
	'keys_near_end shop."Wide Seq"',
	'keys_near_end shop.numbered.id',
	'keys_near_end shop.serials_id_seq',
	'load_settings checkpoint_completion_target',
	'load_settings max_wal_size',
	'memory_settings effective_cache_size',
	'missing_indexes shop.visits."Token"',
	'old_ids shop.unfrozen (transaction ids)',
	'sequential_scans shop.scanned',
	'sequential_scans shop.visits',
	'slow_statements 101',
	'spilling_statements 104',
	'stale_statistics shop.measures',
	'stale_statistics shop.never_analyzed',
	'tables_without_key shop.no_key',
	'tables_without_key shop.no_key_at_all',
	'unindexed_foreign_keys shop."Order"."Order_Referred by_fkey"',
	'unindexed_foreign_keys shop.parts.parts_c_fkey',
	'unlogged_tables shop.unlogged',
	'unread_tables shop.archive',
	'unused_indexes shop."Unused "" Idx"',
	'unvacuumed_tables shop.dead',
	'unvalidated_constraints shop.customers."Has Name"',
	'waiting_settings hot_standby_feedback',
	'waiting_settings max_connections',
	"xmin_holders $session",
	q{xmin_holders 'it''s old'});
is(join("\n", open_findings()), join("\n", sort @expected), 'every fault is found, and nothing else');
is(sql(q{SELECT query FROM monitoring.advice WHERE advisor = 'slow_statements'}), 'select slow', 'with the text of a statement');

# ---- estimates beside what is there ----

is(sql(q{SELECT string_agg(b.identity, ' ') FROM monitoring.table_bloat(500000) AS b CROSS JOIN LATERAL pgstattuple(b.relation) AS p
	WHERE abs(b.bloat_ratio - (p.free_percent + p.dead_tuple_percent) / 100) > 0.1}), '',
	'what tables waste is what pgstattuple finds, within a tenth of the table');
is(sql(q{SELECT string_agg(b.identity, ' ') FROM monitoring.index_bloat(250000) AS b
	CROSS JOIN LATERAL pgstatindex(b.index) AS p
	WHERE pg_stat_get_dead_tuples((SELECT i.indrelid FROM pg_index AS i WHERE i.indexrelid = b.index)) = 0
		AND abs(b.bloat_ratio - (1 - p.avg_leaf_density / b.fillfactor)) > 0.1}), '',
	'what indexes waste as well, without the dead entries');
cmp_ok(sql(q{SELECT count(*) FROM monitoring.index_bloat(250000)}), '>=', 10, 'of many indexes');

# ---- what is advised is done ----

# what keeps rows alive goes first, and lets the index be made
my @findings = map { [ split /\t/ ] } split /\x1e/,
	sql(q{SELECT string_agg(concat_ws(E'\t', finding, advisor || ' ' || object_name, encode(convert_to(coalesce(fix_sql, ''), 'UTF8'), 'hex'),
		encode(convert_to(verify_sql, 'UTF8'), 'hex')), E'\x1e' ORDER BY advisor <> 'xmin_holders', advisor LIKE 'waiting%', place) FROM monitoring.advice
		WHERE coalesce(evidence ->> 'backend_type', 'client backend') = 'client backend' AND (advisor <> 'unused_indexes' OR object_name NOT IN (SELECT object_name FROM monitoring.advice WHERE advisor = 'duplicate_indexes'))});
my ($untold, $unfixed) = ('', '');
sql('DELETE FROM shop.doubles WHERE id = 2');
sql('SELECT monitoring.reopen_finding(finding) FROM monitoring.advice LIMIT 1');
my %fixed;
foreach my $finding (@findings)
{
	my ($number, $name, $fix, $verify) = @$finding;
	$fix = pack 'H*', $fix // '';
	$verify = pack 'H*', $verify // '';
	next if $fix eq '';
	# what only the advisor can tell is asked of the runs below
	my $tells = $verify !~ /check_finding/;
	$untold .= "$name " if $tells && sql($verify) ne 'f';
	run_statements($fix);
	$node->poll_query_until('advised', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)") if $fix =~ /pg_terminate_backend\((\d+)/;
	$unfixed .= "$name " if $tells && sql($verify) ne 't';
	$fixed{$name} = 1;
}
is($untold, '', 'queries that verify say that nothing is fixed, before');
is($unfixed, '', 'and that it is, after the SQL of the finding');
$builder->quit;
$node->adjust_conf('postgresql.conf', 'hot_standby_feedback', undef);
$node->restart;
is(sql(q{SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings
	WHERE name IN ('fsync', 'checkpoint_completion_target', 'max_wal_size', 'max_connections')}),
	'checkpoint_completion_target=0.9 fsync=on max_connections=99 max_wal_size=2048', 'settings are in force');

# another week, of which the counters know nothing bad
sql('ALTER SYSTEM RESET fsync');
use_indexes();
advise('2031-01-16');
use_indexes();
# how long it takes when nothing is locked
my $usual = -time();
advise('2031-01-23');
$usual += time();
is(join("\n", grep { $fixed{$_} } open_findings()), '', 'what was fixed is not found any more');
is(join("\n", open_findings()), join("\n", 'dangerous_settings checksums', 'tables_without_key shop.no_key_at_all', 'unread_tables shop.archive'),
	'what nobody did anything about is');
is(join("\n", sort split /\n/, sql(q{SELECT advisor || ' ' || object_name FROM monitoring.findings
		WHERE state = 'done' AND done_at IS NOT NULL AND coalesce(evidence ->> 'backend_type', 'client backend') = 'client backend'})),
	join("\n", sort grep { !/checksums|no_key_at_all|archive/ } @expected), 'and the rest is done');

# ---- nobody waits, and thousands of tables take their time ----

my $locker = $node->background_psql('advised');
$locker->query_safe(q{BEGIN; LOCK TABLE shop.customers, shop."Order", shop.serials; ALTER SEQUENCE shop.serials_id_seq INCREMENT 2;
	DROP INDEX shop.parts_c; REINDEX TABLE shop.dense; CREATE TABLE shop.not_yet (id int)});
my $known = q{SELECT string_agg(concat_ws(' ', advisor, object_name, state), E'\n' ORDER BY finding)
	FROM monitoring.findings WHERE advisor <> 'xmin_holders'};
my $before = sql($known);
my $started = time;
advise('2031-01-24');
cmp_ok(time - $started, '<', 10 + 10 * $usual, 'nobody waits for locks');
is(sql($known), $before, 'and what is known stays');
$locker->query_safe('ROLLBACK');
$locker->quit;

$started = time;
sql(q{DO $$ BEGIN FOR i IN 1 .. 5000 LOOP EXECUTE format('CREATE TABLE many_%s (id int)', i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$});
sql(q{DO $$ BEGIN FOR i IN 1 .. 5000 BY 10 LOOP EXECUTE format('CREATE INDEX ON many_%s (id)', i); END LOOP; END $$});
# of what is made in a time, as this machine goes
my $made = time - $started;
$started = time;
advise('2031-01-25');
cmp_ok(time - $started, '<', 20 + 5 * $made, 'advice about 5,000 tables');
is(sql('SELECT count(*) FROM monitoring.advisor_usage') > 5000, 1, 'which have been counted');
done_testing();
