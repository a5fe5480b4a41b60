# Advisors of the server: settings, memory, connections, slots, ids, archiving, damaged pages.
# Each fault is found with its evidence and what only looks like it is not, the SQL of a finding
# runs as it is given, its query tells before and after, and what is fixed is done.
#
# Ids are old because the server was told so; what a machine has and how counters grew is put into
# what advisors read.  Times of runs are virtual.

use strict;
use warnings;

use AdvisedNode;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('advisor_server');
$node->init(allows_streaming => 'logical', extra => ['--data-checksums']);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
autovacuum = off
autovacuum_naptime = '1s'
autovacuum_max_workers = 1
autovacuum_vacuum_cost_delay = '100ms'
autovacuum_vacuum_cost_limit = 1
autovacuum_freeze_max_age = 2000000000
autovacuum_multixact_freeze_max_age = 2000000000
max_worker_processes = 16
max_connections = 600
superuser_reserved_connections = 3
shared_buffers = '2MB'
work_mem = '64kB'
maintenance_work_mem = '16MB'
random_page_cost = 4
effective_cache_size = '600MB'
max_wal_size = '1GB'
archive_mode = on
archive_command = 'false'
full_page_writes = off
zero_damaged_pages = on
ignore_checksum_failure = on
track_io_timing = on
CONF

# 1.2 billion transactions ago, and 600 million multixacts
my $segment = 1144;
system_or_bail('pg_resetwal', '-x', $segment * 1048576, $node->data_dir);
append_to_file($node->data_dir . sprintf('/pg_xact/%04X', $segment), "\0" x 262144);
my $offsets = 9155;
system_or_bail('pg_resetwal', '-m', $offsets * 65536 . ',1', $node->data_dir);
append_to_file($node->data_dir . sprintf('/pg_multixact/offsets/%04X', $offsets), "\0" x 262144);
$node->start;
create_advised($node);

# What the machine has; how counters of the database have grown in two hours; both as advisors read them.
sub machine
{
	my ($memory, $huge_pages, $rotating) = @_;
	sql("CREATE OR REPLACE FUNCTION monitoring.machine(OUT memory_bytes float8, OUT huge_pages bigint, OUT rotating boolean)
		LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS 'SELECT $memory, ${huge_pages}::bigint, $rotating'");
	return;
}

sub counters_grew
{
	my (%by) = @_;
	my $json = join ', ', map { "'$_', (n ->> '$_')::numeric - $by{$_}" } sort keys %by;
	sql("UPDATE monitoring.advisor_samples SET sampled_at = '2030-12-31 22:00Z', counters = n || jsonb_build_object($json),
		previous_at = NULL, previous_counters = NULL FROM monitoring.advisor_counters() AS n");
	return;
}

# run one of them, and tell what it has found
sub found
{
	my ($advisor, $which) = @_;
	is(sql("SELECT failure FROM monitoring.advise('2031-01-01 00:00Z', '$advisor')"), '', "$advisor runs");
	return sql("SELECT string_agg(concat_ws(' ', object_name, severity, gain_unit), ', ' ORDER BY place) FROM monitoring.advice
		WHERE advisor = '$advisor'" . ($which ? " AND $which" : ''));
}

sub evidence
{
	my ($advisor, $object, $expression) = @_;
	return sql("SELECT $expression FROM monitoring.advice WHERE advisor = '$advisor' AND object_name = '$object'");
}

# what it says is run; its query says no before and yes after
sub fix
{
	my ($advisor, $object, $later) = @_;
	my ($fix, $verify) = map { pack 'H*', $_ } split /\|/, sql("SELECT encode(convert_to(fix_sql, 'UTF8'), 'hex'), encode(convert_to(verify_sql, 'UTF8'), 'hex')
		FROM monitoring.advice WHERE advisor = '$advisor' AND object_name = \$\$$object\$\$");
	isnt($fix, '', "SQL for $object") or return;
	my $asks = $verify =~ /check_finding/;
	is(sql($verify), 'f', "$object is not fixed") if !$asks;
	run_statements($fix);
	is(sql($verify), 't', "$object is fixed") if !$asks && !$later;
	return;
}

sub state
{
	my ($advisor, $object) = @_;
	return sql("SELECT state || ' ' || (done_at IS NOT NULL) FROM monitoring.findings WHERE advisor = '$advisor' AND object_name = \$\$$object\$\$");
}

# ---- ids ----

is(found('old_ids', q{object_type = 'database'}), join(', ', (map { "$_ (transaction ids) high" } qw(advised postgres template0 template1)),
	map { "$_ (multixact ids) medium" } qw(advised postgres template0 template1)), 'databases with old rows');
cmp_ok(evidence('old_ids', 'advised (transaction ids)', q{(evidence ->> 'used_ratio')::float8 BETWEEN 0.55 AND 0.57 AND abs(impact - (evidence ->> 'used_ratio')::float8) < 0.001}),
	'eq', 't', 'are more than half way to where the server stops');
is(evidence('old_ids', 'advised (multixact ids)', q{(evidence ->> 'used_ratio')::float8 BETWEEN 0.27 AND 0.29}), 't', 'multixacts have limits of their own');
is(evidence('old_ids', 'template1 (transaction ids)', 'fix_sql IS NULL'), 't', 'what has to be done elsewhere is not proposed here');
fix('old_ids', 'advised (transaction ids)');
is(found('old_ids', q{object_name = 'advised (transaction ids)'}), '', 'a database that was frozen is not found');
is(state('old_ids', "advised ($_ ids)"), 'done true', "and its finding is done: $_ ids") foreach qw(transaction multixact);
set_thresholds('old_ids', '{"critical_ratio": 0.5}');
is(found('old_ids', q{object_name LIKE 'template1 (t%'}), 'template1 (transaction ids) critical', 'near the end it is critical');

# a temporary table that grows old, and one that does not; a slot that nobody reads keeps rows of the catalog
sql(q{SELECT pg_create_physical_replication_slot('unread', true), pg_create_logical_replication_slot('followed', 'pgoutput')});
my $session = $node->background_psql('advised');
$session->query_safe('CREATE TEMPORARY TABLE old (id int)');
sql(q{DO $$ BEGIN FOR i IN 1 .. 12000 LOOP BEGIN PERFORM pg_logical_emit_message(true, '', ''); EXCEPTION WHEN others THEN END; END LOOP; END $$});
# workers of a moment before are gone
$node->poll_query_until('advised', 'SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE age(backend_xmin) > 5000)') or die 'something is old';
$session->query_safe('CREATE TEMPORARY TABLE young (id int)');
set_thresholds('old_ids', '{"times_freeze_age": 0.000005}');
like(found('old_ids', q{object_type = 'temporary table'}), qr/^pg_temp_\d+\.old medium$/, 'a temporary table of long ago');
my $verify = evidence('old_ids', $1, 'verify_sql') if sql(q{SELECT object_name FROM monitoring.advice WHERE object_type = 'temporary table'}) =~ /(.*)/;
is(sql($verify), 'f', 'is there');
$session->quit;
$node->poll_query_until('advised', $verify) or die 'the temporary table stays';
is(found('old_ids', q{object_type = 'temporary table'}), '', 'and gone with its session');
set_thresholds('xmin_holders', '{"medium_age": 10000, "medium_time": "100 years", "high_time": "100 years"}');
is(found('xmin_holders', q{object_type <> 'session'}), 'followed medium', 'a slot that keeps old rows; not the one that keeps none');
fix('xmin_holders', 'followed');
is(found('xmin_holders', q{object_type <> 'session'}), '', 'it is dropped');
is(state('xmin_holders', 'followed'), 'done true', 'done');

# ---- slots ----

set_thresholds('inactive_slots', '{"min_bytes": 3e7}');
is(found('inactive_slots'), '', 'a slot that keeps little is not found');
sql(q{SELECT pg_logical_emit_message(false, '', 'x'); SELECT pg_switch_wal()}) foreach 1 .. 3;
sql(q{CHECKPOINT; SELECT pg_create_physical_replication_slot('recent', true)});
is(found('inactive_slots'), 'unread medium bytes', 'one that keeps much is');
is(evidence('inactive_slots', 'unread', q{gain > 3e7 AND gain = (evidence ->> 'kept_bytes')::float8 AND impact BETWEEN 0.002 AND 0.01}), 't', 'with what it keeps');
sql(q{ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'});
$node->reload;
sql('SELECT pg_logical_emit_message(false, \'\', \'x\'); SELECT pg_switch_wal(); CHECKPOINT');
set_thresholds('inactive_slots', '{"min_bytes": 1e12}');
like(found('inactive_slots'), qr/^unread high bytes/, 'what has lost WAL is found, however little it keeps');
like(evidence('inactive_slots', 'unread', 'summary'), qr/has lost WAL/, 'and said to have');
fix('inactive_slots', 'unread');
sql(q{SELECT pg_drop_replication_slot('recent')});
is(found('inactive_slots'), '', 'no slots');
is(state('inactive_slots', 'unread'), 'done true', 'done');

# ---- what has changed since it was analyzed, large values that nobody reads ----

sql(q{CREATE TABLE changed AS SELECT i FROM generate_series(1, 3000) AS i; CREATE TABLE little_changed AS TABLE changed});
# not in the transaction of the rows, which would count as later changes
sql('ANALYZE changed; ANALYZE little_changed');
sql('UPDATE changed SET i = i; UPDATE little_changed SET i = i WHERE i < 500');
is(found('stale_statistics'), 'public.changed low', 'a table that has changed since it was analyzed; not one of which little has');
fix('stale_statistics', 'public.changed');
is(found('stale_statistics'), '', 'it was analyzed');
is(state('stale_statistics', 'public.changed'), 'done true', 'done');
set_thresholds('unread_tables', '{"min_bytes": 1e6}');
sql(q{CREATE TABLE papers (id int PRIMARY KEY, v text); ALTER TABLE papers ALTER v SET STORAGE EXTERNAL; INSERT INTO papers SELECT i, repeat('x', 5000) FROM generate_series(1, 500) AS i});
sql('VACUUM papers');
# known for two months
sql(q{INSERT INTO monitoring.advisor_usage (relation, reads, seq_scans, unchanged_since) SELECT t.relid, t.seq_scan + coalesce(t.idx_scan, 0), t.seq_scan, '2030-11-01'
	FROM pg_stat_all_tables AS t JOIN pg_class AS c ON t.relid IN (c.oid, c.reltoastrelid) WHERE c.relname = 'papers'});
sql('SELECT sum(id) FROM papers');
is(found('unread_tables'), 'public.papers info bytes', 'values that nobody reads, of a table that is read');
is(evidence('unread_tables', 'public.papers', q{object_type || ' ' || (gain > 2e6)}), 'large values true', 'take room');
sql('SELECT max(md5(v)) FROM papers');
is(found('unread_tables'), '', 'somebody reads them');
is(state('unread_tables', 'public.papers'), 'done true', 'done');

# ---- archiving, autovacuum workers, costs ----

$node->poll_query_until('advised', 'SELECT failed_count > 0 FROM pg_stat_archiver') or die 'nothing has failed';
machine(1288490188, 0, 'false');
counters_grew(checkpoints_requested => 3, checkpoints_timed => 100);
is(found('load_settings'), 'archiving high, random_page_cost info', 'what is not archived; disks that do not rotate; not some checkpoints that were requested');
cmp_ok(evidence('load_settings', 'archiving', q{(evidence ->> 'failed')::bigint}), '>', 0, 'so often');
$verify = evidence('load_settings', 'archiving', 'verify_sql');
isnt(sql($verify), 't', 'it goes on');
sql(q{ALTER SYSTEM SET archive_command = 'true'});
$node->reload;
$node->poll_query_until('advised', $verify) or die 'nothing is archived';
fix('load_settings', 'random_page_cost');
sql('ALTER SYSTEM SET autovacuum = on');
$node->reload;
sql(q{CREATE TABLE waits_1 AS SELECT i FROM generate_series(1, 20000) AS i; CREATE TABLE waits_2 AS TABLE waits_1; DELETE FROM waits_1; DELETE FROM waits_2});
$node->poll_query_until('advised', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'autovacuum worker')}) or die 'no autovacuum';
is(found('load_settings'), 'autovacuum_max_workers medium', 'workers that are busy while tables wait; not archiving that has failed once, and costs that fit');
fix('load_settings', 'autovacuum_max_workers');
machine(1288490188, 0, 'true');
sql('ALTER SYSTEM SET random_page_cost = 4');
$node->reload;
is(found('load_settings', q{object_name = 'random_page_cost'}), '', 'where a disk rotates random reads do cost more');

# ---- memory ----

set_thresholds('memory_settings', '{"large_data": 1e6, "many_buffers": 1e6, "min_memory": 2e8}');
sql(q{CREATE TABLE large AS SELECT i, repeat('x', 500) AS v FROM generate_series(1, 6000) AS i; ALTER TABLE large ADD PRIMARY KEY (i); VACUUM ANALYZE large});
counters_grew(temp_bytes => 1e9, temp_files => 10);
is(found('memory_settings'), 'shared_buffers medium, huge_pages low, maintenance_work_mem info', 'too few buffers, in small pages, and little for maintenance');
is(evidence('memory_settings', 'shared_buffers', q{evidence ->> 'value' || ' ' || (evidence ->> 'proposed')}), '2MB 307MB', 'a quarter of the memory is proposed');
counters_grew(temp_bytes => 10e9, temp_files => 100);
like(found('memory_settings'), qr/work_mem medium, /, 'sorts that go to disk; 500 MB an hour do not count');
is(evidence('memory_settings', 'work_mem', q{evidence ->> 'proposed'}), '256kB', 'what all sessions together may take');
fix('memory_settings', $_) foreach qw(shared_buffers maintenance_work_mem work_mem);
machine(3e6, 10, 'true');
is(found('memory_settings'), 'shared_buffers medium', 'buffers that take nearly all of the memory');
like(evidence('memory_settings', 'shared_buffers', 'summary'), qr/more than 60 %/, 'is another fault');
machine('NULL::float8', 'NULL', 'NULL::boolean');
is(found('memory_settings'), '', 'of a machine that is not known nothing is told');

# ---- caches ----

set_thresholds('cache_misses', '{"min_read_bytes": 1e8}');
counters_grew(blks_read => 10000, blks_hit => 10000);
is(found('cache_misses'), '', 'few reads need no cache');
counters_grew(blks_read => 100000, blks_hit => 9900000);
is(found('cache_misses'), '', 'one of a hundred is no fault');
counters_grew(blks_read => 800000, blks_hit => 9200000);
is(found('cache_misses'), 'advised low', 'eight of a hundred are');
counters_grew(blks_read => 3000000, blks_hit => 7000000);
is(found('cache_misses'), 'advised medium', 'thirty are worse');
is(evidence('cache_misses', 'advised', q{round((evidence ->> 'hit_ratio')::numeric, 2) || ' ' || (evidence ->> 'over_seconds')}), '0.70 7200', 'with the ratio');
is(sql(q{SELECT monitoring.check_finding(finding, '2031-01-01 00:10Z') FROM monitoring.advice WHERE advisor = 'cache_misses'}), 'f', 'asked, it says that it is still so');
counters_grew(blks_read => 1000, blks_hit => 9900000);
is(found('cache_misses'), '', 'fixed');
is(state('cache_misses', 'advised'), 'done true', 'done');

# ---- settings that are dangerous ----

is(found('dangerous_settings', q{object_name <> 'fsync'}), 'full_page_writes critical, zero_damaged_pages critical, ignore_checksum_failure critical', 'settings that lose data; checksums are on');
fix('dangerous_settings', $_) foreach qw(full_page_writes zero_damaged_pages ignore_checksum_failure);

# ---- tables ----

sql(<<'SQL');
CREATE TABLE published (id int);
CREATE TABLE unpublished (id int);
CREATE TABLE published_full (id int);
ALTER TABLE published_full REPLICA IDENTITY FULL;
CREATE PUBLICATION told FOR TABLE published, published_full;
CREATE TABLE parted (id int, at int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE "Parted 2" PARTITION OF parted FOR VALUES FROM (10) TO (20);
CREATE INDEX parted_at ON ONLY parted (at, id);
CREATE INDEX parted_id ON parted (id);
CREATE INDEX parted_lower ON ONLY parted (abs(at));
CREATE INDEX large_v_ccnew ON large (v);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'large_v_ccnew'::regclass;
SQL
is(found('tables_without_key', q{severity = 'high'}), 'public.published high', 'a published table without a key');
is(found('invalid_indexes'), 'public.large_v_ccnew high bytes, public.parted_at low, public.parted_lower low', 'indexes that some partitions lack; what a REINDEX has left');
is(evidence('invalid_indexes', 'public.parted_lower', 'fix_sql IS NULL'), 't', 'an index of an expression has to be written by hand');
fix('invalid_indexes', $_) foreach qw(public.parted_at public.large_v_ccnew);
is(found('invalid_indexes'), 'public.parted_lower low', 'the others are whole');
is(state('invalid_indexes', 'public.parted_at'), 'done true', 'done');

# ---- many connections, too few of them; a page that is damaged ----

is(found('connection_use'), 'max_connections info', 'hundreds of connections that nobody uses');
fix('connection_use', 'max_connections');
sql('CREATE TABLE damaged AS SELECT i FROM generate_series(1, 1000) AS i; CHECKPOINT');
my $file = $node->data_dir . '/' . sql(q{SELECT pg_relation_filepath('damaged')});
$node->append_conf('postgresql.conf', "autovacuum_naptime = '1d'");
$node->stop;
open my $page, '+<', $file or die "cannot open $file: $!";
seek $page, 4000, 0;
print $page 'damage' x 10;
close $page;
$node->start;
is(sql(q{SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('max_connections', 'shared_buffers', 'autovacuum_max_workers', 'full_page_writes', 'zero_damaged_pages', 'work_mem')}),
	'autovacuum_max_workers=2 full_page_writes=on max_connections=100 shared_buffers=39296 work_mem=256 zero_damaged_pages=off', 'all that was advised is in force');
is(found('dangerous_settings', q{object_name <> 'fsync'}), '', 'nothing is dangerous');
machine(1288490188, 0, 'true');
sql('VACUUM waits_1; VACUUM waits_2');
is(found('load_settings', q{object_name IN ('autovacuum_max_workers', 'archiving')}), '', 'no table waits');
is(found('memory_settings', q{object_name <> 'huge_pages'}), '', 'the memory fits');
is(state('memory_settings', $_), 'done true', "$_ is done") foreach qw(shared_buffers work_mem maintenance_work_mem);
is(state('dangerous_settings', $_), 'done true', "$_ is done") foreach qw(full_page_writes zero_damaged_pages);
is(found('connection_use'), '', 'a hundred connections are not many');
my ($status) = $node->psql('advised', 'SELECT count(*) FROM damaged');
isnt($status, 0, 'a page cannot be read');
sql('SELECT pg_stat_force_next_flush()');
$node->poll_query_until('advised', q{SELECT checksum_failures > 0 FROM pg_stat_database WHERE datname = 'advised'}) or die 'not counted';
is(found('dangerous_settings', q{object_name = 'damaged pages'}), 'damaged pages critical', 'storage that damages data');

counters_grew(sessions => 20000, session_time => 20000 * 300);
is(found('connection_use'), 'advised low connections_per_day', 'sessions that live for a moment');
is(evidence('connection_use', 'advised', q{round((evidence ->> 'mean_session_seconds')::numeric, 1) || ' ' || round(gain / 1000)}), '0.3 240', 'so many a day');
counters_grew(sessions => 20000, session_time => 20000 * 60000);
is(found('connection_use'), '', 'many that live for a minute are no fault');

$node->append_conf('postgresql.conf', 'superuser_reserved_connections = 90');
$node->restart;
# Until no other sessions are there than these: one that has ended stays for a moment.
sub settle
{
	my $n = @_;
	$_[0]->query_safe("DO \$\$ BEGIN FOR i IN 1 .. 600 LOOP PERFORM pg_stat_clear_snapshot(); EXIT WHEN (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') = $n; PERFORM pg_sleep(0.1); END LOOP; END \$\$");
	return;
}
# 10 for others than superusers; the one that looks is one of them
my @sessions = map { $node->background_psql('advised') } 1 .. 6;
settle(@sessions);
is(found('connection_use', q{object_name = 'connections'}), '', 'seven of ten are no fault');
push @sessions, $node->background_psql('advised');
settle(@sessions);
is(found('connection_use', q{object_name = 'connections'}), 'connections high', 'eight are');
push @sessions, map { $node->background_psql('advised') } 1 .. 2;
settle(@sessions);
is(found('connection_use', q{object_name = 'connections'}), 'connections critical', 'ten are all');
is(found('connection_use', q{object_name = 'idle connections'}), '', 'nine that idle');
set_thresholds('connection_use', '{"min_idle": 9}');
is(found('connection_use', q{object_name = 'idle connections'}), 'idle connections low connections', 'may be many');
$_->quit foreach @sessions[ 1 .. $#sessions ];
settle($sessions[0]);
$sessions[0]->quit;
is(found('connection_use'), '', 'they have gone');
is(state('connection_use', 'connections'), 'done true', 'done');
is(sql(q{SELECT string_agg(DISTINCT advisor, ' ') FROM monitoring.findings WHERE reopened > 0 AND advisor NOT IN ('cache_misses', 'memory_settings')}), '', 'nothing has come back');

$node->stop;
done_testing();
