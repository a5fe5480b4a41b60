# Slow executions of a real server: percentiles beside what auto_explain logs of the same executions, a storm of which
# few are kept and all are counted, locks that are waited for, texts of any size and encoding, parallel queries, and
# what is left after a restart and after databases are dropped.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring, auto_explain'
log_line_prefix = '%Q|%a|'
max_worker_processes = 16
jit = off
CONF
$node->start;
sub sql { return $node->safe_psql(@_); }
sql('postgres', "BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name = 'statements'; COMMIT");

# ---- percentiles agree with the executions that auto_explain logs ----

my %script = (
	'sum' => q{\set n random_exponential(3000, 30000, 4)
SELECT sum(abalance) FROM pgbench_accounts WHERE aid BETWEEN 1 AND :n},
	'sort' => q{\set n random(1500, 6000)
SELECT aid FROM pgbench_accounts WHERE aid BETWEEN 100 AND :n ORDER BY md5(aid::text) LIMIT 1},
	'change' => q{\set n random(1, 80000)
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid BETWEEN :n AND :n + 60});
$node->command_ok([ 'pgbench', '-h', $node->host, '-p', $node->port, '-i', '-q', 'postgres' ], 'tables');
my @files = map { "-f" . do { my $f = "$PostgreSQL::Test::Utils::tmp_check/$_.sql"; append_to_file($f, "$script{$_};\n"); $f } } sort keys %script;
my $offset = -s $node->logfile;
{
	local $ENV{PGOPTIONS} = '-c auto_explain.log_min_duration=0 -c auto_explain.log_nested_statements=off';
	local $ENV{PGAPPNAME} = 'percentiles';
	$node->command_ok([ 'pgbench', '-h', $node->host, '-p', $node->port, '-n', '-M', 'prepared', '-c', 2, '-t', 450, @files, 'postgres' ], 'a workload');
}
my %logged;
foreach (split /\n/, slurp_file($node->logfile, $offset))
{
	push @{ $logged{$1} }, $2 / 1000 if /^(-?\d+)\|percentiles\|LOG:  duration: ([\d.]+) ms  plan:/;
}
my $compared = 0;
foreach my $id (sort keys %logged)
{
	my @all = sort { $a <=> $b } @{ $logged{$id} };
	my ($calls, $errors, @ours) = split /\|/, sql('postgres', "SELECT calls, errors, p50_seconds, p95_seconds, p99_seconds FROM monitoring.statements_over('1 day') WHERE queryid = $id");
	is("$calls $errors", scalar(@all) . ' 0', "$calls executions are counted as logged");
	foreach my $q (0.5, 0.95, 0.99)
	{
		my $rank = int($q * @all) + (int($q * @all) < $q * @all ? 1 : 0);
		my $theirs = $all[ $rank - 1 ];
		my $mine = shift @ours;
		cmp_ok(abs($mine / $theirs - 1), '<=', 0.0055 + 0.02, sprintf('percentile %s: %.6f s, logged %.6f s', $q, $mine, $theirs));
		$compared++;
	}
}
cmp_ok($compared, '>=', 9, 'percentiles of three statements');

# ---- a storm ----

sub totals { return split /\|/, sql('postgres', "SELECT total, not_stored FROM monitoring.slow_execution_totals WHERE database = 'postgres' UNION ALL SELECT 0, 0 ORDER BY 1 DESC LIMIT 1"); }
sub drained
{
	my ($rows) = @_;
	return $node->poll_query_until('postgres', "SELECT monitoring.drain_signals() >= 0 AND $rows");
}
my ($total, $dropped) = totals();
append_to_file("$PostgreSQL::Test::Utils::tmp_check/storm.sql", "SELECT 'a storm', count(*) FROM generate_series(1, 10);\n");
append_to_file("$PostgreSQL::Test::Utils::tmp_check/rare.sql", "SELECT 'rare', pg_sleep(0.001);\n");
{
	local $ENV{PGOPTIONS} = '-c monitoring.slow_query_threshold=0';
	local $ENV{PGAPPNAME} = 'storm';
	$node->command_ok([ 'pgbench', '-h', $node->host, '-p', $node->port, '-n', '-c', 2, '-t', 500, '-f', "$PostgreSQL::Test::Utils::tmp_check/storm.sql", 'postgres' ], 'a storm');
	$node->command_ok([ 'pgbench', '-h', $node->host, '-p', $node->port, '-n', '-c', 1, '-t', 3, '-f', "$PostgreSQL::Test::Utils::tmp_check/rare.sql", 'postgres' ], 'and something rare');
}
my ($after, $dropped_after) = totals();
cmp_ok($after - $total, '>=', 1003, 'all are counted');
my $kept = ($after - $total) - ($dropped_after - $dropped);
ok(drained("(SELECT count(*) FROM monitoring.slow_executions WHERE application = 'storm') = $kept"), 'what is not dropped is stored');
my $rows = sql('postgres', "SELECT count(*) FROM monitoring.slow_executions WHERE statement LIKE '%generate_series%' AND application = 'storm'");
ok($rows >= 10 && $rows <= 60, "of one statement a quarter of the rate: $rows");
is(sql('postgres', q{SELECT count(*) FROM monitoring.slow_executions WHERE statement LIKE '%pg_sleep%' AND application = 'storm'}), '3', 'what is rare is kept all the same');
$node->append_conf('postgresql.conf', 'monitoring.slow_query_rate = 0');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT current_setting('monitoring.slow_query_rate') = '0'"), 'none is to be kept');
sql('postgres', "SET application_name = 'none'; SET monitoring.slow_query_threshold = 0; SELECT 1; SELECT 2");
my ($last, $last_dropped) = totals();
ok($last - $after >= 2 && $last - $after == $last_dropped - $dropped_after, 'all are counted, none is kept');
$node->append_conf('postgresql.conf', 'monitoring.slow_query_rate = 60000');
$node->reload;
ok($node->poll_query_until('postgres', "SELECT current_setting('monitoring.slow_query_rate') = '60000'"), 'many');

# ---- waiting for a lock before it begins, and who holds it ----

sql('postgres', 'CREATE TABLE locked (a int)');
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE locked');
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
my $waiter = $node->background_psql('postgres');
$waiter->query_safe("SET application_name = 'waiter'; SET monitoring.slow_query_threshold = '1ms'");
$waiter->query_until(qr/start/, "\\echo start\nSELECT count(*) FROM locked;\n");
ok($node->poll_query_until('postgres', "SELECT count(*) > 0 FROM monitoring.active_session_history WHERE wait_event = 'relation' AND application = 'waiter'"), 'a session waits and is seen');
$holder->query_safe('COMMIT');
$_->quit foreach $waiter, $holder;
ok(drained("(SELECT count(*) > 0 FROM monitoring.slow_executions WHERE application = 'waiter')"), 'it is slow');
is(sql('postgres', "SELECT preparing_seconds > 0.001, duration_seconds < preparing_seconds, blocked_by_pid = $pid, waits ? 'Lock:relation', toplevel, outcome FROM monitoring.slow_executions WHERE application = 'waiter' AND statement LIKE '%locked%'"),
	't|t|t|t|t|ok', 'for waiting before it began, for whom is known');

# ---- texts of any size and encoding; parallel queries; a plan that cannot be shown ----

my $long = 'x' x 10_000_000;
append_to_file("$PostgreSQL::Test::Utils::tmp_check/long.sql", "SET application_name = 'long'; SET monitoring.slow_query_threshold = 0; SET monitoring.slow_query_literals = on;\nSELECT length('$long') /* a */;\nSET monitoring.slow_query_literals = off;\nSELECT length('$long'), 17 AS y;\n");
$node->command_ok([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', "$PostgreSQL::Test::Utils::tmp_check/long.sql" ], 'texts of 10 MB');
ok(drained("(SELECT count(*) >= 2 FROM monitoring.slow_executions WHERE application = 'long' AND statement LIKE '%length(%')"), 'are stored');
is(sql('postgres', "SELECT string_agg(CASE WHEN length(statement) > 100 THEN length(statement)::text ELSE statement END, ', ' ORDER BY number) FROM monitoring.slow_executions WHERE application = 'long' AND statement LIKE '%length(%'"),
	'4096, SELECT length($1', 'cut with literals, and as far as it is looked at without');
sql('postgres', "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
# what is of a database without a worker is stored elsewhere
sql('bytes', 'CREATE EXTENSION monitoring; SELECT monitoring.signals_waiting()');
append_to_file("$PostgreSQL::Test::Utils::tmp_check/bytes.sql", "SET application_name = 'bytes'; SET monitoring.slow_query_threshold = 0;\nSELECT 1 AS \"a\xff\xc3\";\n");
$node->command_ok([ 'psql', '-X', '-q', '-d', $node->connstr('bytes'), '-f', "$PostgreSQL::Test::Utils::tmp_check/bytes.sql" ], 'bytes of no encoding');
ok($node->poll_query_until('bytes', "SELECT monitoring.drain_signals() >= 0 AND EXISTS (SELECT FROM monitoring.slow_executions WHERE application = 'bytes' AND statement LIKE 'SELECT \$1 AS %')"), 'are stored');
sql('postgres', q{
	CREATE TABLE big AS SELECT g AS a FROM generate_series(1, 20000) AS g;
	ALTER TABLE big SET (parallel_workers = 2);
	CREATE FUNCTION gone(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
	CREATE FUNCTION drops() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN EXECUTE ''DROP FUNCTION IF EXISTS gone(int)''; RETURN true; END';
	SET client_min_messages = error;
	SET application_name = 'plans';
	SET monitoring.slow_query_plans = on;
	SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	SET monitoring.slow_query_threshold = 0;
	SELECT count(*) FROM big;
	SELECT a FROM big WHERE a = 7 AND gone(a) AND drops();
	SELECT 'the session goes on'});
ok(drained("(SELECT count(*) >= 3 FROM monitoring.slow_executions WHERE application = 'plans' AND toplevel AND statement LIKE 'SELECT%')"), 'a parallel query, and one whose plan cannot be shown any more');
is(sql('postgres', "SELECT string_agg(concat_ws(' ', statement, outcome, rows, CASE WHEN plan ~ 'Gather' THEN 'Gather' WHEN plan IS NULL THEN 'no plan' END), ', ' ORDER BY number)
	FROM monitoring.slow_executions WHERE application = 'plans' AND toplevel AND statement LIKE 'SELECT%'"),
	'SELECT count(*) FROM big ok 1 Gather, SELECT a FROM big WHERE a = $1 AND gone(a) AND drops() ok 1 no plan, SELECT $1 ok 1', 'are one execution each');
# plans are shown in a subtransaction: at the end of a transaction there can be one, in what runs beside parallel workers none
is(sql('postgres', q{
	CREATE FUNCTION inner_one(int) RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN (SELECT count(*) FROM big AS b WHERE b.a < $1 AND b.a < 10); END';
	SET client_min_messages = error; SET application_name = 'subplans'; SET monitoring.slow_query_plans = on; SET monitoring.slow_query_threshold = 0;
	SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT a FROM big ORDER BY a; COMMIT; FETCH 2 FROM c; CLOSE c;
	SELECT sum(inner_one(a)) FROM big WHERE a < 30;
	BEGIN; SAVEPOINT s; SELECT count(*) FROM big WHERE a = 7 AND drops(); RELEASE s; SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'transactionid'; COMMIT}),
	"1\n2\n216\n1\n0", 'statements do not notice');
ok(drained("(SELECT count(*) >= 3 FROM monitoring.slow_executions WHERE application = 'subplans' AND toplevel AND statement LIKE 'SELECT%')"), 'nor are they kept less');
is(sql('postgres', "SELECT count(*) FILTER (WHERE statement LIKE 'SELECT sum(inner_one%' AND plan ~ 'Gather'), count(*) FILTER (WHERE statement LIKE '%count(*) FROM pg_locks%' AND plan IS NOT NULL) FROM monitoring.slow_executions WHERE application = 'subplans'"),
	'1|1', 'with plans where there are some');
unlike(slurp_file($node->logfile), qr/leak|not closed|PANIC|TRAP/, 'nothing is left behind');

# ---- ended with their sessions ----

sub start_session
{
	my ($application, $queries) = @_;
	local $ENV{PGAPPNAME} = $application;
	local $ENV{PGOPTIONS} = '-c monitoring.slow_query_threshold=1ms -c client_connection_check_interval=10ms';
	my ($out, $err) = ('', '');
	my $session = IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('postgres'), map { ('-c', $_) } split(/; /, $queries) ], '>', \$out, '2>', \$err);
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$application' AND wait_event = 'PgSleep' AND clock_timestamp() > query_start + '10 ms'") or die;
	return $session;
}
sql('postgres', q{
	CREATE FUNCTION sleeps(float8) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep($1); RETURN 1; END';
	CREATE PROCEDURE works() LANGUAGE plpgsql AS 'BEGIN INSERT INTO big VALUES (1); COMMIT; PERFORM sleeps(600); END'});
my %ended = (
	'killed' => [ 'SELECT pg_sleep(600)', 'SELECT pg_sleep($1) t terminated 57P01' ],
	'killed deep' => [ 'SELECT 1 AS first; SELECT 1 + sleeps(600)', 'SELECT pg_sleep($1) f terminated 57P01, SELECT $1 + sleeps($2) t terminated 57P01' ],
	'killed in a procedure' => [ 'CALL works()', 'SELECT pg_sleep($1) f terminated 57P01, SELECT sleeps($1) f terminated 57P01, CALL works() t terminated 57P01' ],
	'killed behind an error' => [ 'SELECT 1 / (a - 7) FROM big; COPY (SELECT pg_sleep(600)) TO STDOUT', 'COPY (SELECT pg_sleep($1)) TO STDOUT f terminated 57P01, COPY (SELECT pg_sleep($1)) TO STDOUT t terminated 57P01' ],
	'gone' => [ 'SELECT pg_sleep(600) IS NULL', 'SELECT pg_sleep($1) IS NULL t terminated 08006' ]);
sql('postgres', 'SELECT monitoring.snapshot_statements() > 0');
foreach my $name (sort keys %ended)
{
	my $session = start_session($name, $ended{$name}[0]);
	if ($name eq 'gone') { $session->kill_kill; }
	else { sql('postgres', "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = '$name'"); $session->finish; }
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = '$name'"), "$name: the session ends");
	my $rows = "FROM monitoring.slow_executions WHERE application = '$name' AND (outcome NOT IN ('ok', 'error') OR duration_seconds > 5)";
	my $wanted = 1 + ($ended{$name}[1] =~ tr/,//);
	ok(drained("(SELECT count(*) >= $wanted $rows)"), "$name: it is kept");
	is(sql('postgres', "SELECT string_agg(concat_ws(' ', statement, toplevel, outcome, sqlstate), ', ' ORDER BY number) $rows"), $ended{$name}[1], "$name: with what it ended by");
	is(sql('postgres', "SELECT bool_and(duration_seconds BETWEEN 0.001 AND 60), max(waits ->> 'Timeout:PgSleep') IS NOT NULL OR max(wait_samples) = 0 $rows"), 't|t', "$name: and how long it took");
}
is(sql('postgres', "SELECT string_agg(query || ' ' || calls || ' ' || errors, ', ' ORDER BY query COLLATE \"C\") FROM monitoring.statements_over('1 hour') WHERE query IN ('SELECT sleeps(\$1)', 'CALL works()', 'SELECT \$1 + sleeps(\$2)')"),
	'CALL works() 0 1, SELECT $1 + sleeps($2) 0 1, SELECT sleeps($1) 0 1', 'and counted as an error');
is(sql('postgres', "SELECT count(*) FROM monitoring.recent_errors WHERE severity = 'FATAL' AND application LIKE 'killed%' AND sqlstate = '57P01'"), '4', 'as the error is');
# a session that is ended while it does nothing has executed nothing, whatever it has open
my $idle = $node->background_psql('postgres', on_error_stop => 0);
my $idle_pid = $idle->query_safe("SELECT pg_backend_pid()");
$idle->query_safe("SET application_name = 'idle'; SET monitoring.slow_query_threshold = 0");
$idle->query_safe("BEGIN; DECLARE c CURSOR FOR SELECT a AS of_idle FROM big; FETCH 2 FROM c");
sql('postgres', "SELECT pg_terminate_backend($idle_pid, 60000)");
ok(drained("(SELECT count(*) >= 3 FROM monitoring.slow_executions WHERE application = 'idle')"), 'a session is ended while it is idle');
is(sql('postgres', "SELECT count(*) FROM monitoring.slow_executions WHERE application = 'idle' AND outcome <> 'ok'"), '0', 'nothing is terminated');
eval { $idle->quit };

# ---- databases that were dropped have no place in memory; a clean stop loses nothing ----

sql('postgres', 'CREATE DATABASE short_lived');
sql('short_lived', 'CREATE EXTENSION monitoring');
sql('short_lived', 'SELECT 1');
my $databases = sql('postgres', 'SELECT monitoring.snapshot_statements() > 0; SELECT databases FROM monitoring.statement_registry()');
sql('postgres', 'DROP DATABASE short_lived');
is(sql('postgres', 'SELECT monitoring.snapshot_statements() > 0; SELECT databases FROM monitoring.statement_registry()'), "t\n" . ((split /\n/, $databases)[1] - 1), 'the place of a dropped database is free');
sql('postgres', "UPDATE monitoring.jobs SET enabled = true WHERE name = 'statements'");
sql('postgres', "SELECT length('restart') + 42;" x 7);
my $count = "SELECT calls FROM monitoring.statements WHERE query = 'SELECT length(\$1) + \$2'";
is(sql('postgres', $count), 7, 'statements in memory');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM monitoring.status WHERE database = 'postgres' AND job = 'statements'"), 'the job is on');
$node->restart;
is(sql('postgres', $count), 7, 'are there after a restart');
is(sql('postgres', 'SELECT entries < 20 FROM monitoring.statement_registry()'), 't', 'from tables, not from memory');

done_testing();
