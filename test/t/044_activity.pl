# What sessions wait for on a real server: samples in memory, by whom a lock is
# held, what a session sees of itself, who sees what, a standby, a crash.
# Samples are taken every 20 ms.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('activity');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.activity_interval = '20ms'
max_worker_processes = 16
max_prepared_transactions = 5
restart_after_crash = on
autovacuum = off
CONF
$node->start;

sub sql
{
	my ($query, @more) = @_;
	return $node->safe_psql('postgres', $query, @more);
}

sub session
{
	my ($application) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_safe("SET application_name = '$application'");
	return $session;
}

# until the query is true
sub wait_for
{
	my ($query, $name) = @_;
	ok($node->poll_query_until('postgres', $query), $name);
	return;
}

# start a statement that will wait
sub start_statement
{
	my ($session, $query) = @_;
	$session->{stdin} .= "$query;\n";
	$session->{run}->pump_nb();
	return;
}

sub pid_of
{
	my ($application) = @_;
	return sql("SELECT pid FROM pg_stat_activity WHERE application_name = '$application'");
}

# one transaction: the jobs never run, samples are rolled up by hand
sql('BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; COMMIT');
sql('CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) AS g');

# ---- the history ----

my $idle = session('idle one');
my $open = session('open one');
$open->query_safe('BEGIN; SELECT 1');
is(sql(q{SELECT count(*) > 3, bool_and(s.state = 'active'
		AND s.backend_type = 'client backend' AND s.database = 'postgres' AND s.username = current_user AND s.client IS NULL
		AND s.queryid <> 0 AND s.query_start <= s.at AND s.xact_start <= s.at AND s.interval_seconds = 0.02 AND s.blocked_by IS NULL)
	FROM pg_sleep(0.3), LATERAL (SELECT * FROM monitoring.active_session_history
		WHERE pid = pg_backend_pid() AND pg_sleep IS NOT NULL AND wait_event_type = 'Timeout' AND wait_event = 'PgSleep') AS s}), 't|t', 'a session that sleeps is seen sleeping');
is(sql("SELECT count(*) FROM monitoring.active_session_history WHERE application IN ('idle one', 'open one') AND wait_event_type IN ('Client', 'Activity')"),
	'0', 'sessions that wait for their clients are not seen');
is(sql("SELECT count(*) FROM monitoring.active_session_history WHERE wait_event_type IN ('Activity', 'Extension')"),
	'0', 'neither are processes that wait for work');
$open->query_safe('ROLLBACK');

is(sql("DO \$\$ DECLARE t timestamptz := clock_timestamp() + '0.3 s'; BEGIN WHILE clock_timestamp() < t LOOP END LOOP; END \$\$;
		SELECT count(*) > 3 FROM monitoring.active_session_history WHERE pid = pg_backend_pid() AND wait_event_type = 'CPU' AND wait_event = 'CPU'"),
	't', 'a session that computes is on a CPU');

# ---- what a session sees of itself ----

is(sql("SELECT wait_event_type, wait_event, samples > 3, share > 0.5 FROM pg_sleep(0.3), LATERAL monitoring.session_waits(statement_timestamp() + 0 * length(pg_sleep::text) * interval '1 s') WHERE wait_event = 'PgSleep'"),
	'Timeout|PgSleep|t|t', 'a statement knows what it has waited for');
is(sql("SELECT pg_sleep(0.2); SELECT count(*) FROM monitoring.session_waits(statement_timestamp()) WHERE wait_event = 'PgSleep'"),
	"\n0", 'not for what the statement before has');
is(sql("BEGIN; SELECT pg_sleep(0.2); SELECT wait_event, samples > 2 FROM monitoring.session_waits(transaction_timestamp()) WHERE wait_event = 'PgSleep'"),
	"\nPgSleep|t", 'unless it asks for that');
is(sql("SELECT count(*) FROM monitoring.session_waits('infinity')"), '0', 'nothing since a time to come');

# ---- who is in the way ----

my $holder = session('holder');
my $waiter = session('waiter');
my $second = session('second');
$holder->query_safe('BEGIN; UPDATE t SET v = 1 WHERE id = 1');
start_statement($waiter, 'BEGIN; UPDATE t SET v = 2 WHERE id = 1');
my ($holder_pid, $waiter_pid) = (pid_of('holder'), pid_of('waiter'));
wait_for("SELECT count(*) > 2 FROM monitoring.active_session_history WHERE pid = $waiter_pid AND wait_event_type = 'Lock' AND wait_event = 'transactionid' AND blocked_by = $holder_pid",
	'a session that waits for a lock is seen with the one that holds it');
start_statement($second, 'BEGIN; LOCK TABLE t');
my $second_pid = pid_of('second');
wait_for("SELECT count(*) > 0 FROM monitoring.active_session_history WHERE pid = $second_pid AND wait_event = 'relation' AND blocked_by IN ($holder_pid, $waiter_pid)",
	'so is one that waits for a table');
$holder->query_safe('COMMIT');
$waiter->query_safe('ROLLBACK');
$second->query_safe('ROLLBACK');

$holder->query_safe("BEGIN; UPDATE t SET v = 1 WHERE id = 2; PREPARE TRANSACTION 'left behind'");
start_statement($waiter, 'UPDATE t SET v = 2 WHERE id = 2');
wait_for("SELECT count(*) > 0 FROM monitoring.active_session_history WHERE pid = $waiter_pid AND blocked_by = 0", 'a prepared transaction is seen as 0');
sql("ROLLBACK PREPARED 'left behind'");
$waiter->query_safe('SELECT 1');

# ---- who sees what ----

sql(q{CREATE ROLE looker LOGIN; CREATE ROLE reader LOGIN; GRANT pg_read_all_stats TO reader;
	SELECT monitoring.grant_access('looker', 'viewer'); SELECT monitoring.grant_access('reader', 'viewer')});
my $hidden = "SELECT count(*) > 5, count(wait_event), count(queryid), count(backend_type), count(state) FROM monitoring.active_session_history WHERE pid = $waiter_pid";
is(sql("SET ROLE looker; $hidden"), 't|0|0|0|0', 'what others do is hidden');
like(sql("SET ROLE reader; $hidden"), qr/^t\|([1-9]\d*\|?){4}$/, 'unless one may read all statistics');
is($node->safe_psql('postgres', "SELECT pg_sleep(0.1); SELECT count(wait_event) > 0 FROM monitoring.active_session_history WHERE pid = pg_backend_pid()",
	extra_params => [ '-U', 'looker' ]), "\nt", 'what one does oneself is not');

# ---- the setting ----

sql("ALTER SYSTEM SET monitoring.activity_interval = 0; SELECT pg_reload_conf()");
wait_for("SELECT clock_timestamp() - sampled_at > '0.3 s' FROM monitoring.activity_buffer()", 'no samples are taken with an interval of 0');
sql("ALTER SYSTEM RESET monitoring.activity_interval; SELECT pg_reload_conf()");
wait_for("SELECT clock_timestamp() - sampled_at < '0.3 s' FROM monitoring.activity_buffer()", 'they are again when it is set');

# ---- a standby ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT pg_sleep(0.2); SELECT pg_is_in_recovery(), count(*) > 2 FROM monitoring.active_session_history WHERE wait_event = \'PgSleep\''),
	"\nt|t", 'a standby has a history of its own');

# ---- a crash ----

my $epoch = sql('SELECT epoch FROM monitoring.activity_buffer()');
my $sampler = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring sampler'");
$_->quit foreach $idle, $open, $holder, $waiter, $second;
kill 'KILL', $sampler;
wait_for("SELECT epoch > '$epoch' AND sampled_at > epoch FROM monitoring.activity_buffer()", 'after a crash samples are taken in new memory');
is(sql('SELECT count(*) > 0 FROM pg_sleep(0.2), LATERAL (SELECT * FROM monitoring.active_session_history WHERE pg_sleep IS NOT NULL AND pid = pg_backend_pid()) AS s'), 't',
	'and are there');

$standby->stop;
$node->stop;
done_testing();
