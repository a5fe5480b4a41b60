# Collectors on a real server: what other sessions hold and do, locked tables
# and catalogs, tables that go while they are read, many tables, several
# databases, a worker that is restarted, statistics that are reset, a standby
# and its slot; the machine; and what Prometheus gets.  The worker's own runs
# are switched on for its part only.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('collectors');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.collect = off
max_worker_processes = 16
max_prepared_transactions = 2
autovacuum = off
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('one', 'CREATE EXTENSION monitoring');

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('one', $query);
}

# run collectors, then the latest value of a metric with these labels
sub reading
{
	my ($collector, $metric, $labels) = @_;
	sql("SELECT monitoring.collect('{$collector}')");
	return latest($metric, $labels);
}

sub latest
{
	my ($metric, $labels) = @_;
	return sql(sprintf(q{SELECT u.value FROM monitoring.collector_series s JOIN monitoring.collector_runs r USING (name),
		unnest(s.metrics, s.labels, r.readings) AS u (metric, labels, value) WHERE u.metric = '%s' AND u.labels @> '%s'}, $metric, $labels // '{}'));
}

sub outcome
{
	my ($collector) = @_;
	return sql("SELECT outcome FROM monitoring.collector_runs WHERE name = '$collector'");
}

# ---- sessions and locks ----

sql('CREATE TABLE busy (id int); INSERT INTO busy SELECT generate_series(1, 1000); CREATE TABLE free (id int); INSERT INTO free VALUES (1)');
my $holder = $node->background_psql('one');
$holder->query_safe('BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE');
is(reading('sessions', 'pg_connections', '{"database": "one", "state": "idle in transaction"}'), '1', 'a session that is idle in a transaction');
cmp_ok(latest('pg_longest_idle_transaction_seconds', '{"database": "one"}'), '>', 0, 'for some time');
is(latest('pg_stat_activity_count', '{"datname": "one", "state": "idle in transaction", "backend_type": "client backend"}'), '1', 'as postgres_exporter says it');
my $waiter = $node->background_psql('one');
$waiter->query_until(qr/began/, "\\echo began\nSELECT count(*) FROM busy;\n");
$node->poll_query_until('one', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted");
is(reading('locks', 'pg_locks_waiting', '{"database": "one"}'), '1', 'one waits for a lock');
cmp_ok(latest('pg_lock_longest_wait_seconds', '{"database": "one"}'), '>', 0, 'for some time');
cmp_ok(latest('pg_locks_count', '{"datname": "one", "mode": "accessexclusivelock"}'), '>=', 1, 'locks by mode');

# ---- what is locked is left out, and nobody queues ----

is(reading('tables', 'pg_table_bytes', '{"table": "public.busy"}'), '', 'a locked table has no size');
cmp_ok(latest('pg_table_bytes', '{"table": "public.free"}'), '>', 0, 'the others have theirs');
is(outcome('tables'), 'ok', 'and the run is a good one');
$holder->query_safe('COMMIT');
$waiter->quit;
cmp_ok(reading('tables', 'pg_table_bytes', '{"table": "public.busy"}'), '>', 0, 'free again, it has one');
$holder->query_safe('BEGIN; LOCK TABLE pg_catalog.pg_sequence IN ACCESS EXCLUSIVE MODE');
like(sql("SELECT monitoring.collect('{sequences,server}')"), qr/^5$/, 'a locked catalog: the other collectors run');
is(outcome('sequences'), 'locked', 'what reads it gives up');
$holder->query_safe('COMMIT');
sql("SELECT monitoring.collect('{sequences}')");
is(outcome('sequences'), 'ok', 'and works again');

# ---- tables that go while they are read ----

$holder->query_safe(q{CREATE PROCEDURE churn() LANGUAGE plpgsql AS $$
	BEGIN FOR i IN 1 .. 60 LOOP CREATE TABLE passing AS SELECT 1 AS a; COMMIT; DROP TABLE passing; COMMIT; END LOOP; END $$});
$holder->query_until(qr/began/, "\\echo began\nCALL churn();\n");
sql("DO \$\$ BEGIN FOR i IN 1 .. 8 LOOP PERFORM monitoring.collect('{tables,indexes,sequences}'); COMMIT; END LOOP; END \$\$");
is(sql("SELECT string_agg(DISTINCT last_error, ' ') FROM monitoring.collector_runs WHERE name IN ('tables', 'indexes') AND failures > 0"), '', 'dropped tables are no error');
$holder->quit;

# ---- many tables ----

sql('DO $$ BEGIN FOR i IN 1 .. 2000 LOOP EXECUTE format(\'CREATE TABLE many_%s (id int)\', i); END LOOP; END $$');
sql("SELECT monitoring.collect('{tables}')");
cmp_ok(latest('pg_tables', '{}'), '>=', 2000, 'all tables are counted');
cmp_ok(sql("SELECT count(DISTINCT l ->> 'relname') FROM monitoring.collector_series s, unnest(s.labels) AS l WHERE s.name = 'tables'"), '<=', 100, 'few have series of their own');
is(outcome('tables'), 'ok', 'within the cost limit');
sql("SELECT monitoring.collect(array_agg(name)) FROM monitoring.collectors") foreach 1 .. 2;
my $share = sql("SELECT sum(seconds / extract(epoch FROM every)) FROM monitoring.collector_runs JOIN monitoring.collectors USING (name)");
note("all collectors take $share of a core at most, with 2,000 tables");
cmp_ok($share, '<', 0.05, 'what all collectors cost is a small part of a core, even on a machine that is busy');

# ---- counters: restarts and resets ----

sub added
{
	return sql("SELECT coalesce(monitoring.value('pg_temp_bytes_total', 'sum', '1 hour', '{\"database\": \"one\"}'), 0)");
}
my $spill = "SET work_mem = '64kB'; SELECT count(*) FROM (SELECT g FROM generate_series(1, 50000) g ORDER BY random()) s";
sql("SELECT monitoring.collect('{databases}')");
sql($spill);
sql("SELECT monitoring.collect('{databases}')");
my $first = added();
cmp_ok($first, '>', 100000, 'temporary files are counted');
$node->restart;
sql("SELECT monitoring.collect('{databases}')");
is(added(), $first, 'a restart counts nothing twice');
sql($spill);
sql("SELECT pg_stat_reset()");
sql($spill);
sql("SELECT monitoring.collect('{databases}')");
cmp_ok(added(), '<', 2.5 * $first, 'after a reset only what came since is counted');
cmp_ok(added(), '>=', 1.5 * $first, 'and all of that');

# ---- a standby and its slot ----

$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('held', true)");
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_slot_name = 'held'\nprimary_conninfo = '" . $node->connstr . " application_name=reader'");
$standby->start;
sql('INSERT INTO free SELECT generate_series(1, 1000)');
$node->wait_for_catchup('reader', 'replay');
is(reading('replication', 'pg_replication_lag_bytes', '{"standby": "reader"}') < 1e6, 1, 'a standby that keeps up');
is(latest('pg_replication_slots_slot_is_active', '{"slot_name": "held", "slot_type": "physical"}'), '1', 'its slot is active');
is(latest('pg_replication_standbys', '{"sync_state": "async"}'), '1', 'it is asynchronous');
$standby->safe_psql('one', 'SELECT pg_wal_replay_pause()');
sql('INSERT INTO free SELECT generate_series(1, 50000)');
my $written = $node->lsn('flush');
$node->poll_query_until('one', "SELECT flush_lsn >= '$written' FROM pg_stat_replication");
cmp_ok(reading('replication', 'pg_replication_lag_bytes', '{"standby": "reader"}'), '>', 1e6, 'one that does not');
my $there = $standby->safe_psql('one', 'SELECT monitoring.prometheus_exposition()');
like($there, qr/^pg_replication_is_replica 1$/m, 'on the standby the exposition tells of the standby');
like($there, qr/^pg_replication_lag_seconds [0-9.e-]+$/m, 'and of its lag');
$standby->stop;
sql('INSERT INTO free SELECT generate_series(1, 50000)');
is(reading('replication', 'pg_replication_slots_active', '{"slot_name": "held"}'), '0', 'without it the slot is not active');
cmp_ok(latest('pg_replication_slot_retained_bytes', '{"slot": "held"}'), '>', 1e6, 'and retains log');

# ---- the machine ----

my $root = PostgreSQL::Test::Utils::tempdir();
mkdir "$root/$_" foreach 'proc', 'proc/self', 'proc/net', 'proc/pressure', 'sys', 'sys/fs', 'sys/fs/cgroup', 'sys/fs/cgroup/app', 'proc/meminfo';
my %files = ('proc/stat' => "cpu  100 0 100 800 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0\n", 'proc/loadavg' => "what is this\n", 'proc/vmstat' => '',
	'proc/diskstats' => "8 0 sda 1 2 3\n", 'proc/pressure/io' => "some avg10=25.00 avg60=0.00 avg300=0.00 total=3000000\n", 'proc/self/cgroup' => "0::/app\n",
	'sys/fs/cgroup/app/memory.max' => "1000000\n", 'sys/fs/cgroup/app/memory.current' => "900000\n", 'sys/fs/cgroup/app/cpu.max' => "150000 100000\n",
	'sys/fs/cgroup/app/cpu.stat' => "usage_usec 5000000\nthrottled_usec 1000000\n");
append_to_file("$root/$_", $files{$_}) foreach keys %files;
chmod 0755, $root;
my $host = sql("SELECT string_agg(metric || ' ' || coalesce(labels ->> 'collector', labels ->> 'resource', '') || ' ' || value, ', ' ORDER BY metric, labels ->> 'collector')
	FROM monitoring.host_readings('$root') WHERE metric ~ '^host_(cg|pr)|success'");
is($host, 'host_cgroup_cpu_limit_cores  1.5, host_cgroup_cpu_seconds_total  5, host_cgroup_cpu_throttled_seconds_total  1, host_cgroup_memory_limit_bytes  1000000, '
	. 'host_cgroup_memory_used_bytes  900000, host_cgroup_memory_used_ratio  0.9, host_pressure_ratio io 0.25, '
	. join(', ', map { "node_scrape_collector_success $_" } 'diskstats 0', 'filefd 0', 'filesystem 1', 'loadavg 0', 'meminfo 0', 'netdev 0', 'pressure_io 1', 'stat 1', 'vmstat 0'),
	'what cannot be read is reported, and the rest goes on');
append_to_file("$root/proc/stat", '');
is(sql("SELECT r.value FROM monitoring.host_readings('$root') AS r WHERE r.metric = 'host_cpu_used_ratio'"), '', 'the first reading gives no share');
$node->safe_psql('postgres', 'CREATE ROLE curious');
sql("SELECT monitoring.grant_access('curious', 'admin')");
like(($node->psql('one', "SET ROLE curious; SELECT count(*) FROM monitoring.host_readings('$root')"))[2], qr/permission denied to read files/, 'not for everybody');
my ($device) = sql("SELECT labels ->> 'mount' || ' ' || (value BETWEEN 0 AND 1) FROM monitoring.host_readings() WHERE metric = 'host_disk_used_ratio' LIMIT 1");
like($device, qr/^\/.* true$/, 'the volume of the data directory');
cmp_ok(reading('processes', 'pg_processes', '{"group": "checkpointer"}'), '==', 1, 'processes by kind');
cmp_ok(latest('pg_process_private_bytes', '{"group": "postmaster"}'), '>', 0, 'with their memory');

# ---- the worker runs them, in one database what is the server's ----

$node->safe_psql('postgres', 'CREATE DATABASE two');
$node->safe_psql('two', 'CREATE EXTENSION monitoring');
$node->append_conf('postgresql.conf', 'monitoring.collect = on');
$node->reload;
$node->poll_query_until($_, "SELECT max(ran_at) FILTER (WHERE name = 'progress') > now() - interval '1 minute' FROM monitoring.collector_runs") foreach 'one', 'two';
$node->poll_query_until('one', "SELECT monitoring.value('host_cpu_used_ratio', 'last', '1 minute') IS NOT NULL") or die 'no share of CPU';
is($node->safe_psql('two', "SELECT string_agg(DISTINCT state, ' ') FROM monitoring.collector_status WHERE scope = 'server'"), 'elsewhere', 'the second database leaves the server to the first');
is($node->safe_psql('two', "SELECT sum(runs) > 0, bool_or(name = 'sessions' AND runs > 0) FROM monitoring.collector_runs"), 't|f', 'and runs its own');
is(sql("SELECT string_agg(name, ' ') FROM monitoring.collector_runs WHERE outcome NOT IN ('ok', 'new')"), '', 'no collector fails');

# ---- Prometheus ----

my $text = sql('SELECT monitoring.prometheus_exposition()');
cmp_ok(scalar(() = $text =~ /^[a-z]/mg), '>', 500, 'a set for Prometheus');
my %seen;
my @twice = grep { $seen{$_}++ } $text =~ /^([a-z_A-Z0-9]+(?:\{.*\})?) /mg;
is("@twice", '', 'no series is there twice');
my @order = $text =~ /^# TYPE (\S+)/mg;
my %types;
is(scalar(grep { $types{$_}++ } @order), 0, 'each metric stands together');
unlike($text, qr/^(?!# (?:HELP|TYPE) |[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*")*\})? -?[0-9.e+-]+$)/m, 'every line has the form it must have');
sql(q{CREATE SCHEMA own; CREATE FUNCTION own.odd(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE sql AS
	$$ SELECT 'own_odd', 'gauge', jsonb_build_object('a_b', E'back\\\\slash "quote"\nline'), 0.5::float8, NULL::timestamptz $$;
	SELECT monitoring.create_collector('odd', 'own.odd', description => E'two\nlines'), monitoring.collect('{odd}')});
$text = sql('SELECT monitoring.prometheus_exposition()');
like($text, qr/^# HELP own_odd two\\nlines\n# TYPE own_odd gauge\nown_odd\{a_b="back\\\\slash \\"quote\\"\?line"\} 0\.5$/m, 'odd labels are escaped');
unlike(sql("SELECT monitoring.prometheus_exposition(clock_timestamp() + interval '1 hour')"), qr/pg_up/, 'what is old is left out');

SKIP:
{
	skip 'no promtool', 1 unless -x '/usr/bin/promtool';
	my ($out, $err) = ('', '');
	IPC::Run::run(['promtool', 'check', 'metrics'], '<', \$text, '>', \$out, '2>', \$err);
	my @complaints = grep { !/should have "_total" suffix|should not have "_(count|total)" suffix|use base unit|no help text|abbreviated units|should not contain|snake_case/ } split /\n/, $out . $err;
	is("@complaints", '', 'promtool reads it');
}

$node->stop;
done_testing();
