# What sessions wait for on a real server: samples in memory, by whom a lock is
# held, what a session sees of itself, who sees what, a standby, a crash.
# Samples are taken every 20 ms.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
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
max_connections = 40
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

# What a query gives that sleeps or computes for so many seconds (%s), and whether it was true; longer and longer, as a
# busy machine may take few samples.
sub in_time
{
	my ($query, $expected, $name) = @_;
	my $got;
	foreach my $seconds (0.3, 1, 3, 10)
	{
		$got = sql(sprintf $query, $seconds);
		last if $got eq $expected;
	}
	is($got, $expected, $name);
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

sql(q{CREATE ROLE looker LOGIN; CREATE ROLE reader LOGIN; GRANT pg_read_all_stats TO reader;
	SELECT monitoring.grant_access('looker', 'viewer'); SELECT monitoring.grant_access('reader', 'viewer')});

# ---- the history ----

my $idle = session('idle one');
my $open = session('open one');
$open->query_safe('BEGIN; SELECT 1');
in_time(q{SELECT count(*) > 3, bool_and(s.state = 'active'
		AND s.backend_type = 'client backend' AND s.database = 'postgres' AND s.username = current_user AND s.client IS NULL
		AND s.queryid <> 0 AND s.query_start <= s.at AND s.xact_start <= s.at AND s.interval_seconds = 0.02 AND s.blocked_by IS NULL)
	FROM pg_sleep(%s), LATERAL (SELECT * FROM monitoring.active_session_history
		WHERE pid = pg_backend_pid() AND pg_sleep IS NOT NULL AND wait_event_type = 'Timeout' AND wait_event = 'PgSleep') AS s}, 't|t', 'a session that sleeps is seen sleeping');
is(sql("SELECT count(*) FROM monitoring.active_session_history WHERE application IN ('idle one', 'open one') AND wait_event_type IN ('Client', 'Activity')"),
	'0', 'sessions that wait for their clients are not seen');
is(sql("SELECT count(*) FROM monitoring.active_session_history WHERE wait_event_type IN ('Activity', 'Extension')"),
	'0', 'neither are processes that wait for work');
$open->query_safe('ROLLBACK');

in_time("DO \$\$ DECLARE t timestamptz := clock_timestamp() + '%s s'; BEGIN WHILE clock_timestamp() < t LOOP END LOOP; END \$\$;
		SELECT count(*) > 3 FROM monitoring.active_session_history WHERE pid = pg_backend_pid() AND wait_event_type = 'CPU' AND wait_event = 'CPU'",
	't', 'a session that computes is on a CPU');

# ---- what a session sees of itself ----

in_time("SELECT wait_event_type, wait_event, samples > 3, share > 0.5 FROM pg_sleep(%s), LATERAL monitoring.session_waits(statement_timestamp() + 0 * length(pg_sleep::text) * interval '1 s') WHERE wait_event = 'PgSleep'",
	'Timeout|PgSleep|t|t', 'a statement knows what it has waited for');
is(sql("SELECT pg_sleep(0.2); SELECT count(*) FROM monitoring.session_waits(statement_timestamp()) WHERE wait_event = 'PgSleep'"),
	"\n0", 'not for what the statement before has');
in_time("BEGIN; SELECT pg_sleep(%s); SELECT wait_event, samples > 2 FROM monitoring.session_waits(transaction_timestamp()) WHERE wait_event = 'PgSleep'",
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

# ---- trees of locks ----

is(sql('SELECT count(*) FROM monitoring.blocking_tree'), '0', 'nobody waits');
$holder->query_safe('BEGIN; UPDATE t SET v = 1 WHERE id = 3');
start_statement($waiter, 'UPDATE t SET v = 4711 WHERE id = 3');
wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted", 'one waits for a row');
start_statement($second, 'DELETE FROM t WHERE id = 3');
wait_for("SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL", 'and another one');
is(sql("SELECT string_agg(concat_ws(' ', application, depth, state, blocks, blocked_by, lock_type, lock_mode, object, deadlock), E'\n') FROM monitoring.blocking_tree"),
	"holder 0 idle in transaction 2 {} f\n" .
	"waiter 1 active 1 {$holder_pid} transactionid ShareLock row (0,3) of public.t f\n" .
	"second 2 active 0 {$waiter_pid} tuple AccessExclusiveLock row (0,3) of public.t f", 'the tree of a row');
is(sql("SELECT bool_and(path LIKE '$holder_pid%' AND root_pid = $holder_pid), bool_and(wait_seconds BETWEEN 0 AND 60 AND waiting_since < now()) FILTER (WHERE depth > 0),
		max(query) FILTER (WHERE depth = 1), max(xact_seconds) BETWEEN 0 AND 60 FROM monitoring.blocking_tree"),
	't|t|UPDATE t SET v = $1 WHERE id = $2;|t', 'with paths, times and statements without literals');
like(sql('SELECT description FROM monitoring.blocking_tree_at(clock_timestamp() + interval \'5 min\') LIMIT 1'),
	qr/^pid $holder_pid \(holder, \w+\) is idle in transaction for 5 min and blocks 2 sessions$/, 'in words');
like(sql('SELECT description FROM monitoring.blocking_tree OFFSET 1 LIMIT 1'),
	qr/^pid $waiter_pid \(waiter, \w+\) waits \d+(\.\d)? s for ShareLock on row \(0,3\) of public.t, behind pid $holder_pid, and blocks 1 session$/, 'those that wait, too');
is(sql('SELECT rank, pid, action, safe, frees, frees_wait_seconds > 0, command, caution FROM monitoring.kill_advice'),
	"1|$holder_pid|terminate|t|2|t|SELECT pg_terminate_backend($holder_pid)|What its transaction has written is rolled back.",
	'the one to end is the one that does nothing');
is(sql("SET ROLE looker; SELECT string_agg(concat_ws(' ', depth, pid, blocks, query), E'\n') FROM monitoring.blocking_tree"),
	"0 $holder_pid 2 <insufficient privilege>\n1 $waiter_pid 1 <insufficient privilege>\n2 $second_pid 0 <insufficient privilege>",
	'who may not see what others do sees who waits for whom');
is(sql('SET ROLE looker; SELECT safe, caution FROM monitoring.kill_advice'), 'f|What it does is hidden from you.', 'and gets no careless advice');
sql(sql('SELECT command FROM monitoring.kill_advice WHERE rank = 1'));
wait_for("SELECT v = 4711 FROM t WHERE id = 3 UNION ALL SELECT true WHERE NOT EXISTS (SELECT FROM t WHERE id = 3)", 'which lets the others go on');
wait_for('SELECT count(*) = 0 FROM monitoring.blocking_tree', 'and nobody waits any more');
$waiter->query_safe('SELECT 1');
$second->query_safe('SELECT 1');
$holder->{run}->finish;
$holder = session('holder');
$holder_pid = pid_of('holder');

# what queues for a table keeps out those who would get along with its holder
$holder->query_safe('BEGIN; SELECT count(*) FROM t');
start_statement($waiter, 'ALTER TABLE t ADD COLUMN w int');
wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted", 'a change of a table waits for a reader');
start_statement($second, 'SELECT count(*) FROM t');
wait_for("SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL", 'and keeps another one out');
is(sql("SELECT string_agg(concat_ws(' ', application, depth, lock_mode, object), E'\n') FROM monitoring.blocking_tree"),
	"holder 0\nwaiter 1 AccessExclusiveLock public.t\nsecond 2 AccessShareLock public.t", 'the tree of a table');
is(sql("SELECT string_agg(concat_ws(' ', rank, application, action, safe, frees), E'\n') FROM monitoring.kill_advice"),
	"1 holder terminate t 2\n2 waiter cancel f 1", 'either could go');
sql(sql("SELECT command FROM monitoring.kill_advice WHERE application = 'waiter'"));
wait_for('SELECT count(*) = 0 FROM monitoring.blocking_tree', 'without the change all go on');
$holder->query_safe('COMMIT');
$second->query_safe('SELECT 1');
# what failed has left its message somewhere on the way
$waiter->quit;
$waiter = session('waiter');
$waiter_pid = pid_of('waiter');

# a prepared transaction
$holder->query_safe("BEGIN; UPDATE t SET v = 1 WHERE id = 5; PREPARE TRANSACTION 'it''s left'");
start_statement($waiter, 'UPDATE t SET v = 2 WHERE id = 5');
wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL", 'one waits for a prepared transaction');
is(sql("SELECT string_agg(concat_ws(' ', coalesce(gid, application), depth, state, blocks, blocked_by), E'\n') FROM monitoring.blocking_tree"),
	"it's left 0 prepared 1 {}\nwaiter 1 active 0 {0}", 'it is the root');
is(sql('SELECT action, safe, command FROM monitoring.kill_advice'), "rollback prepared|f|ROLLBACK PREPARED 'it''s left'", 'how to get rid of it');
sql(sql('SELECT command FROM monitoring.kill_advice'));
wait_for('SELECT v = 2 FROM t WHERE id = 5', 'helps');
$waiter->query_safe('SELECT 1');

# those that wait for each other
sql("ALTER SYSTEM SET deadlock_timeout = '1min'; SELECT pg_reload_conf()");
$_->query_safe("SET deadlock_timeout = '1min'") foreach $holder, $waiter, $second;
$holder->query_safe('BEGIN; SELECT pg_advisory_xact_lock(1)');
$waiter->query_safe('BEGIN; SELECT pg_advisory_xact_lock(2, 3)');
start_statement($holder, 'SELECT pg_advisory_xact_lock(2, 3)');
start_statement($waiter, 'SELECT pg_advisory_xact_lock(1)');
wait_for("SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL", 'two wait for each other');
start_statement($second, 'SELECT pg_advisory_xact_lock(1)');
wait_for("SELECT count(*) = 3 FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL", 'a circle, and one outside');
is(sql("SELECT string_agg(concat_ws(' ', application, deadlock, object), E'\n' ORDER BY application) FROM monitoring.blocking_tree"),
	"holder t advisory lock (2, 3)\nsecond f advisory lock 1\nwaiter t advisory lock 1", 'circles end');
is(sql('SELECT count(*) FROM monitoring.kill_advice'), '0', 'and are left to the server');
sql("SELECT pg_cancel_backend($holder_pid)");
wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted", 'one of them is cancelled');
$holder->quit;
$waiter->query_safe('ROLLBACK');
$second->query_safe('SELECT 1');
$holder = session('holder');
$holder_pid = pid_of('holder');

# ---- what has gone on for too long ----

$holder->query_safe('BEGIN; UPDATE t SET v = 1 WHERE id = 7');
start_statement($waiter, 'UPDATE t SET v = 2 WHERE id = 7');
wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL", 'one waits');
$open->query_safe("BEGIN; INSERT INTO t VALUES (100, 0); PREPARE TRANSACTION 'forgotten'");
my $problems = "SELECT string_agg(concat_ws(' ', coalesce(gid, application), problem, level, blocks), E'\n' ORDER BY problem, application)
	FROM (SELECT min(waitstart) AS at FROM pg_locks WHERE NOT granted) AS w, monitoring.problem_sessions_at(w.at + interval '%s') WHERE application <> '044_activity.pl'";
is(sql(sprintf($problems, '0 s')), '', 'nothing has gone on for too long');
is(sql(sprintf($problems, '12 s')), 'waiter lock wait warning 0', 'in 12 seconds a lock will have been waited for too long');
is(sql(sprintf($problems, '2 min')), "holder idle in transaction warning 1\nwaiter lock wait critical 0", 'in two minutes a transaction will have been idle');
is(sql(sprintf($problems, '31 min')), "holder idle in transaction critical 1\nwaiter lock wait critical 0\nholder long transaction critical 1\n" .
	"waiter long transaction critical 0\nforgotten prepared transaction warning 0", 'in half an hour all are found');
sql("UPDATE monitoring.session_limits SET ignored_applications = '^hold', critical = NULL WHERE problem = 'long transaction'");
is(sql(sprintf($problems, '31 min') . " AND problem = 'long transaction'"), 'waiter long transaction warning 0', 'the limits are rows');
like(sql("SELECT description FROM monitoring.problem_sessions_at(clock_timestamp() + interval '2 min') WHERE application = 'holder'"),
	qr/^idle in transaction: pid $holder_pid \(holder, \w+, postgres\) for 2 min, which blocks 1\. A client has begun/, 'in words');
is(sql("SELECT string_agg(concat_ws(' ', kind, name, xmin_age >= 0, remedy LIKE '%database postgres%'), E'\n' ORDER BY kind) FROM monitoring.xmin_holders WHERE name IN ('forgotten', 'waiter')"),
	"prepared transaction forgotten t t\nsession waiter t f", 'who holds back vacuum');
sql("ROLLBACK PREPARED 'forgotten'");
sql("SELECT pg_create_physical_replication_slot('unused', true)");

# ---- connections against their limits ----

sql('ALTER DATABASE postgres CONNECTION LIMIT 10; ALTER ROLE looker CONNECTION LIMIT 4');
my @lookers = map { $node->background_psql('postgres', extra_params => [ '-U', 'looker' ]) } 1 .. 4;
# sessions that have just ended may still be there for a moment
ok($node->poll_query_until('postgres', "SELECT string_agg(concat_ws(' ', scope, connections, active, waiting, idle, idle_in_transaction, max_connections, used_ratio, hint LIKE 'Nearly full, mostly of idle%'), ', ' ORDER BY scope)
		FROM monitoring.connection_pool WHERE scope = 'database' OR scope = 'role' AND name = 'looker' OR scope = 'state' AND name = 'idle in transaction'",
	'database 10 2 1 7 1 10 1 t, role 4 0 0 4 0 4 1 t, state 1 0 0 0 1'), 'the pool');
ok($node->poll_query_until('postgres', "SELECT connections, max_connections = current_setting('max_connections')::int - 3 FROM monitoring.connection_pool WHERE scope = 'server'", '10|t'), 'of the server');
$_->quit foreach @lookers;
sql('ALTER DATABASE postgres CONNECTION LIMIT -1');
$holder->query_safe('COMMIT');
$waiter->query_safe('SELECT 1');

# ---- who sees what ----

my $hidden = "SELECT count(*) > 5, count(wait_event), count(queryid), count(backend_type), count(state) FROM monitoring.active_session_history WHERE pid = $waiter_pid";
is(sql("SET ROLE looker; $hidden"), 't|0|0|0|0', 'what others do is hidden');
like(sql("SET ROLE reader; $hidden"), qr/^t\|([1-9]\d*\|?){4}$/, 'unless one may read all statistics');
is($node->safe_psql('postgres', "SELECT pg_sleep(0.5); SELECT count(wait_event) > 0 FROM monitoring.active_session_history WHERE pid = pg_backend_pid()",
	extra_params => [ '-U', 'looker' ]), "\nt", 'what one does oneself is not');

# ---- minutes ----

my $asleep = "FROM monitoring.wait_history WHERE wait_event = 'PgSleep'";
my $known = sql("SELECT sum(samples) $asleep");
cmp_ok($known, '>', 20, 'what is in memory is in the history');
is(sql("BEGIN; SELECT monitoring.roll_up_waits(clock_timestamp() + interval '2 min') > 0; SELECT sum(samples) = $known FROM monitoring.wait_minutes WHERE wait_event = 'PgSleep'; ROLLBACK"),
	"t\nt", 'minutes that are over are stored');
is(sql("SELECT count(*), (SELECT sum(samples) = $known $asleep) FROM monitoring.wait_minutes"), '0|t', 'what is rolled back stays in memory');
is(sql("SELECT monitoring.roll_up_waits(clock_timestamp() + interval '2 min') > 0; SELECT sum(samples) = $known $asleep"), "t\nt", 'and is stored the next time');
is(sql("SELECT monitoring.roll_up_waits(clock_timestamp() + interval '2 min') >= 0; SELECT sum(samples) = $known $asleep"), "t\nt", 'once');
is(sql("SELECT abs(monitoring.value('pg_wait_seconds_total', 'increase', '1 hour', '{\"wait_event\": \"PgSleep\", \"wait_event_type\": \"Timeout\"}')
		- (SELECT sum(seconds) FROM monitoring.wait_minutes WHERE wait_event = 'PgSleep')) < 1e-6"), 't', 'with the metric, which has it once, too');
sql("SELECT monitoring.snapshot_statements()");
is(sql("SELECT query, wait_event_type, wait_event, share > 0.9, seconds >= wait_seconds FROM monitoring.statement_waits WHERE wait_event = 'PgSleep' AND query = 'BEGIN; SELECT pg_sleep(\$1)' OR wait_event = 'transactionid' AND query LIKE 'UPDATE t SET v = \$1 WHERE id = \$2%' LIMIT 1"),
	'UPDATE t SET v = $1 WHERE id = $2|Lock|transactionid|t|t', 'what statements waited for');
is(sql("SELECT seconds > 0.2, round((seconds / samples)::numeric, 3), average_sessions > 0 FROM monitoring.waits WHERE wait_event = 'PgSleep'"), 't|0.020|t', 'and all of them');
is(sql('SELECT samples > 0, lost, hint FROM monitoring.activity_source'), 't|0|', 'nothing was lost');
like($node->safe_psql('postgres', "SELECT count(*) FROM monitoring.waits; SELECT count(*) FROM monitoring.statement_waits; SELECT count(*) FROM monitoring.wait_history;
	SELECT count(*) FROM monitoring.problem_sessions; SELECT count(*) FROM monitoring.xmin_holders; SELECT count(*) FROM monitoring.connection_pool;
	SELECT count(*) FROM monitoring.kill_rules; SELECT count(*) FROM monitoring.session_limits; SELECT count(*) FROM monitoring.activity_source",
	extra_params => [ '-U', 'looker' ]), qr/^(\d+\n){8}1$/, 'a viewer reads it all');

# ---- the setting ----

sql("ALTER SYSTEM SET monitoring.activity_interval = 0; SELECT pg_reload_conf()");
wait_for("SELECT clock_timestamp() - sampled_at > '0.3 s' FROM monitoring.activity_buffer()", 'no samples are taken with an interval of 0');
sql("ALTER SYSTEM RESET monitoring.activity_interval; SELECT pg_reload_conf()");
wait_for("SELECT clock_timestamp() - sampled_at < '0.3 s' FROM monitoring.activity_buffer()", 'they are again when it is set');

# ---- a standby ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = '1s'\nmax_standby_streaming_delay = -1\n"
	. "primary_conninfo = '" . $node->connstr . " application_name=reading\"room'");
$standby->start;
$node->wait_for_catchup('reading"room');
is($standby->safe_psql('postgres', 'SELECT pg_sleep(1); SELECT pg_is_in_recovery(), count(*) > 2 FROM monitoring.active_session_history WHERE wait_event = \'PgSleep\''),
	"\nt|t", 'a standby has a history of its own');
my $reader = $standby->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
sql(q{DO $$ BEGIN FOR i IN 1 .. 5000 LOOP BEGIN PERFORM pg_logical_emit_message(true, '', ''); EXCEPTION WHEN others THEN END; END LOOP; END $$});
my $held = q{SELECT string_agg(concat_ws(' ', object_name, severity, fix_sql, evidence ->> 'xmin_age'), ', ') FROM monitoring.find_xmin_holders(now(),
	'{"medium_time": "100 years", "high_time": "100 years", "medium_age": 3000, "high_age": 100000000}') WHERE object_type = 'standby'};
wait_for("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE age(backend_xmin) >= 3000)", 'a standby asks for old rows');
like(sql($held), qr/^"reading""room" medium \d+$/, 'an advisor tells of it');
is(sql("SELECT kind FROM monitoring.xmin_holders WHERE kind = 'standby' AND xmin_age >= 3000"), 'standby', 'as does the list of what holds xmin');
$reader->quit;
wait_for('SELECT NOT EXISTS (SELECT FROM pg_stat_replication WHERE age(backend_xmin) >= 3000)', 'it asks no more');
is(sql($held), '', 'nor does the advisor');

# ---- a crash ----

my $epoch = sql('SELECT epoch FROM monitoring.activity_buffer()');
my $sampler = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring sampler'");
$_->quit foreach $idle, $open, $holder, $waiter, $second;
kill 'KILL', $sampler;
ok(wait_for_sql($node, 'postgres', "SELECT epoch > '$epoch' AND sampled_at > epoch FROM monitoring.activity_buffer()"), 'after a crash samples are taken in new memory');
in_time('SELECT count(*) > 0 FROM pg_sleep(%s), LATERAL (SELECT * FROM monitoring.active_session_history WHERE pg_sleep IS NOT NULL AND pid = pg_backend_pid()) AS s', 't',
	'and are there');
is(sql("SELECT monitoring.roll_up_waits(clock_timestamp() + interval '2 min') > 0, (SELECT sum(samples) >= $known $asleep)"), 't|t', 'they are stored beside those from before the crash');

$standby->stop;
$node->stop;
done_testing();
