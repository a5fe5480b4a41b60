# Collectors on a real server: what other sessions hold and do, locked tables
# and catalogs, tables that go while they are read, many tables, several
# databases, a worker that is restarted, statistics that are reset, a standby
# and its slot; the machine; and what Prometheus gets.  The worker's own runs
# are switched on for its part only.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

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
# Where what a collector may cost is not the point it is more than a busy machine takes.
$node->safe_psql('one', "CREATE EXTENSION monitoring; CREATE TABLE limits AS SELECT name, cost_limit FROM monitoring.collectors; UPDATE monitoring.collectors SET cost_limit = '10 s'");

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
	return sql(latest_query(@_));
}

sub latest_query
{
	my ($metric, $labels) = @_;
	return sprintf(q{SELECT u.value FROM monitoring.collector_series s JOIN monitoring.collector_runs r USING (name),
		unnest(s.metrics, s.labels, r.readings) AS u (metric, labels, value) WHERE u.metric = '%s' AND u.labels @> '%s'}, $metric, $labels // '{}');
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
# catalogs that planning and executing read (behind pg_class the server's own parser waits)
my $reader = $node->background_psql('one', on_error_stop => 0);
my $all = "SET statement_timeout = '60s'; SELECT monitoring.collect(array_agg(name)) FROM monitoring.collectors;\n\\echo :SQLSTATE";
$reader->query($all) foreach 1 .. 2;
foreach my $catalog ('pg_statistic', 'pg_attribute', 'pg_stat_all_tables')
{
	$holder->query_safe("BEGIN; LOCK TABLE pg_catalog.$catalog IN ACCESS EXCLUSIVE MODE");
	like($reader->query($all), qr/^(?:00000|55P03)$/m, "$catalog is locked: nobody queues behind that");
	$holder->query_safe('COMMIT');
	like($reader->query($all), qr/^00000$/m, 'and all goes on afterwards');
}
$reader->quit;
is(sql("SELECT string_agg(name || ' ' || outcome, ', ') FROM monitoring.collector_runs WHERE outcome <> 'ok'"), '', 'all of them');

# ---- tables that go while they are read ----

sql('UPDATE monitoring.collector_runs SET failures = 0, last_error = NULL');

$holder->query_safe(q{CREATE PROCEDURE churn() LANGUAGE plpgsql AS $$
	BEGIN FOR i IN 1 .. 60 LOOP CREATE TABLE passing AS SELECT 1 AS a; COMMIT; DROP TABLE passing; COMMIT; END LOOP; END $$});
$holder->query_until(qr/began/, "\\echo began\nCALL churn();\n");
sql("DO \$\$ BEGIN FOR i IN 1 .. 8 LOOP PERFORM monitoring.collect('{tables,indexes,sequences}'); COMMIT; END LOOP; END \$\$");
is(sql("SELECT string_agg(DISTINCT last_error, ' ') FROM monitoring.collector_runs WHERE name IN ('tables', 'indexes') AND failures > 0"), '', 'dropped tables are no error');
$holder->quit;

# databases and tables that a transaction still sees
$node->safe_psql('postgres', 'CREATE DATABASE leaving');
sql('CREATE TABLE leaving (id serial)');
$reader = $node->background_psql('one');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_database');
$node->safe_psql('postgres', 'DROP DATABASE leaving');
sql('DROP TABLE leaving');
$reader->query_safe("SELECT monitoring.collect('{databases,database_sizes,sessions,tables,indexes,sequences}'); COMMIT");
is(sql("SELECT string_agg(name || ' ' || last_error, ', ') FROM monitoring.collector_runs WHERE outcome <> 'ok'"), '', 'a dropped database is no error either');
is(latest('pg_database_bytes', '{"database": "leaving"}'), '', 'it has no size');
cmp_ok(latest('pg_database_bytes', '{"database": "one"}'), '>', 0, 'the others have theirs');
$reader->quit;

# ---- many tables (SCALE_TABLES=100000 for very many) ----

my $many = $ENV{SCALE_TABLES} // 2000;

sql("SET synchronous_commit = off; CREATE SCHEMA many; CREATE PROCEDURE many.make(number int) LANGUAGE plpgsql AS \$\$
	BEGIN
		FOR i IN 1 .. number LOOP
			EXECUTE format('CREATE TABLE many.t%s (id int)', i);
			IF i % 5 = 0 THEN EXECUTE format('CREATE INDEX ON many.t%s (id)', i); END IF;
			IF i % 200 = 0 THEN COMMIT; END IF;
		END LOOP;
	END \$\$");
$node->psql('one', "SET synchronous_commit = off; CALL many.make($many)", on_error_die => 1, timeout => 3600);
sql("INSERT INTO many.t7 SELECT generate_series(1, 5000); INSERT INTO many.t8 SELECT generate_series(1, 3000); DELETE FROM many.t8; ALTER TABLE many.t9 SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
	INSERT INTO many.t9 VALUES (1); DELETE FROM many.t9; SELECT pg_stat_force_next_flush()");
sql("VACUUM ANALYZE many.t7");
# each at its quickest of some runs, as if nothing else ran on the machine
sql("SELECT monitoring.collect(array_agg(name)) FROM monitoring.collectors; CREATE TABLE quickest AS SELECT name, seconds FROM monitoring.collector_runs");
sql("SELECT monitoring.collect(array_agg(name)) FROM monitoring.collectors; UPDATE quickest AS q SET seconds = least(q.seconds, r.seconds) FROM monitoring.collector_runs AS r WHERE r.name = q.name") foreach 1 .. 4;
is(sql("SELECT string_agg(name || ' ' || outcome, ', ') FROM monitoring.collector_runs WHERE outcome <> 'ok'"), '', "$many tables: all collectors run");
is(sql("SELECT string_agg(q.name || ' ' || q.seconds, ', ') FROM quickest AS q JOIN limits AS l USING (name) WHERE q.seconds > extract(epoch FROM l.cost_limit)"), '', 'all of them keep within their limits');

# Counted and compared in one snapshot: the worker may make a partition at any moment.
$reader = $node->background_psql('one');
$reader->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT monitoring.collect('{tables,indexes}')");
is($reader->query_safe(sprintf("SELECT concat_ws(' ', (%s), (%s))", latest_query('pg_tables'), latest_query('pg_indexes'))),
	$reader->query_safe(q{SELECT concat_ws(' ', count(*) FILTER (WHERE relkind IN ('r', 'm') AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)),
			count(*) FILTER (WHERE relkind = 'i' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)))
		FROM pg_class WHERE relpersistence <> 't'}), 'all tables and indexes are counted');
is($reader->query_safe(q{
	WITH readings AS (
		SELECT u.metric, u.labels, u.value
		FROM monitoring.collector_series s JOIN monitoring.collector_runs r USING (name), unnest(s.metrics, s.labels, r.readings) AS u (metric, labels, value)
		WHERE s.name = 'tables'
	), own AS (
		SELECT c.*
		FROM pg_class AS c JOIN readings AS r ON r.metric = 'pg_stat_user_tables_n_live_tup' AND c.relname = r.labels ->> 'relname'
			AND c.relnamespace = (r.labels ->> 'schemaname')::regnamespace
	), every AS (
		SELECT sum(relpages) AS pages FROM pg_class
		WHERE relkind IN ('r', 'm') AND relpersistence <> 't' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
	)
	SELECT (SELECT value FROM readings WHERE metric = 'pg_tables_others_bytes') = (e.pages - (SELECT sum(relpages) FROM own)) * 8192 FROM every AS e}),
	't', 'the others are in a sum');
$reader->query_safe('COMMIT');
$reader->quit;

cmp_ok(sql("SELECT count(DISTINCT l ->> 'relname') FROM monitoring.collector_series s, unnest(s.labels) AS l WHERE s.name = 'tables'"), '<=', 100, 'few have series of their own');
cmp_ok(sql("SELECT rows FROM monitoring.collector_runs WHERE name = 'tables'"), '<=', 100 * 32, 'and so there are no more than a bounded number');
is(latest('pg_stat_user_tables_n_tup_ins', '{"relname": "t7"}') . ' ' . latest('pg_stat_user_tables_n_dead_tup', '{"relname": "t8"}'), '5000 3000', 'the most written are among them');
is(latest('pg_tables_dead_tuples', '{}') - latest('pg_tables_others_dead_tuples', '{}') >= 3000 && latest('pg_tables_due_for_vacuum', '{}') >= 2, 1, 'as is what is due, by the settings of the table');
SKIP:
{
	skip 'older servers have no upper limit of dead rows', 1 if $node->pg_version < 18;
	my $due = latest('pg_tables_due_for_vacuum', '{}');
	my $ours = sql("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'monitoring'::regnamespace");
	sql(q{DO $$ BEGIN FOR i IN 200 .. 699 LOOP
			EXECUTE format('INSERT INTO many.t%1$s VALUES (1); DELETE FROM many.t%1$s', i);
			EXECUTE format('ALTER TABLE many.t%s SET (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_max_threshold = 0)', i);
		END LOOP; END $$; SELECT pg_stat_force_next_flush()});
	cmp_ok(reading('tables', 'pg_tables_due_for_vacuum', '{}'), '>=', $due + 500 - $ours, 'a table is due at the upper limit of dead rows, however many rows it has');
}
my $share = sql("SELECT sum(seconds / extract(epoch FROM every)) FROM quickest JOIN monitoring.collectors USING (name)");
note("all collectors take $share of a core at most, with $many tables; the slowest: " . sql("SELECT string_agg(name || ' ' || round(seconds::numeric, 3), ', ' ORDER BY seconds DESC) FROM quickest WHERE seconds > 0.02"));
cmp_ok($share, '<', 0.05, 'what all collectors cost is a small part of a core, even on a machine that is busy');
if ($many > 2000)
{
	for my $query ('SELECT length(monitoring.prometheus_exposition())', map { "SELECT count(*) FROM monitoring.$_" } 'overview', 'dashboard_operations', 'dashboard_database', 'dashboard_security', 'blocking_tree',
		'statements', 'apply_retention()', 'advise()')
	{
		my $began = Time::HiRes::time();
		my $got = sql($query);
		note(sprintf '%s: %s, %.0f ms', $query, $got, 1000 * (Time::HiRes::time() - $began));
	}
	is(sql("SELECT string_agg(advisor || ' ' || run_error, ', ') FROM monitoring.advisor_status WHERE run_error IS NOT NULL"), '', 'no advisor fails');
}

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
# from here on new processes can be held up
my $held_up = "$PostgreSQL::Test::Utils::tmp_check/held_up";
run_log([ 'cc', '-shared', '-fPIC', '-o', "$held_up.so", "$FindBin::Bin/../lib/slow_fork.c", '-ldl' ]) or die 'cc';
{
	local $ENV{TEST_FORK} = $held_up;
	local $ENV{LD_PRELOAD} = join ' ', grep { $_ } $ENV{LD_PRELOAD}, "$held_up.so";
	$node->restart;
}
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
is($standby->safe_psql('one', "SELECT status, description FROM monitoring.overview WHERE item = 'jobs'"), 'ok|a standby: they run on the primary', 'no jobs run there, which is no alarm');
$standby->stop;
sql('INSERT INTO free SELECT generate_series(1, 50000)');
is(reading('replication', 'pg_replication_slots_active', '{"slot_name": "held"}'), '0', 'without it the slot is not active');
SKIP:
{
	skip 'older servers do not say since when', 1 if $node->pg_version < 17;
	like(latest('pg_replication_slots_inactive_seconds', '{"slot_name": "held"}'), qr/^[0-9]/, 'and since when');
}
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

# A worker that is forked before the settings are read again, and begins after it, has them all the same.
sub processes { return scalar(split /\n/, (run_command([ 'pgrep', '-P', (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0] ]))[0]); }
$node->safe_psql('postgres', 'CREATE DATABASE two');
my $second = $node->background_psql('two');
$node->append_conf('postgresql.conf', 'monitoring.collect = on');
append_to_file($held_up, '');
my $processes = processes();
$second->query_safe('CREATE EXTENSION monitoring');
for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if processes() > $processes;
	Time::HiRes::usleep(10_000);
}
$node->reload;
unlink $held_up;
$second->quit;
$node->poll_query_until($_, "SELECT max(ran_at) FILTER (WHERE name = 'progress') > now() - interval '1 minute' FROM monitoring.collector_runs") or die "no collector in $_" foreach 'one', 'two';
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
