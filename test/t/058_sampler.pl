# The sampler when there is more to see than it has room for, and on bad days: samples that were overwritten, more
# combinations than a minute keeps, processes that are no sessions, a database that is dropped, a sampler that is sent
# away, a standby and its promotion.  Samples are taken every millisecond, and memory has room for a thousand.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('sampler');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.activity_interval = '1ms'
monitoring.activity_history = 1000
max_worker_processes = 16
autovacuum = off
CONF
$node->start;

sub sql { return $node->safe_psql('postgres', @_); }

sub wait_for
{
	my ($query, $name) = @_;
	ok($node->poll_query_until('postgres', $query), $name);
	return;
}

sub set_interval
{
	my ($interval) = @_;
	sql("ALTER SYSTEM SET monitoring.activity_interval = '$interval'; SELECT pg_reload_conf()");
	return;
}

# one transaction: the jobs never run, samples are rolled up by hand
sql('BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; COMMIT');
my $roll_up = "SELECT monitoring.roll_up_waits(clock_timestamp() + interval '2 min')";

# ---- samples that were overwritten before they were stored ----

sql($roll_up);
my ($seq, $lost, $stored) = split /\|/, sql('SELECT w.seq, w.lost, (SELECT coalesce(sum(samples), 0) FROM monitoring.wait_minutes) FROM monitoring.wait_state AS w');
my $sleeper = $node->background_psql('postgres', on_error_stop => 0);
$sleeper->query_until(qr/start/, "\\echo start\nSELECT pg_sleep(600);\n");
wait_for("SELECT latest > $seq + 3000 FROM monitoring.activity_buffer()", 'more samples than there is room for');
is(sql("SELECT samples <= 1000, lost FROM monitoring.activity_source"), "t|$lost", 'memory keeps the latest');
is(sql("BEGIN; $roll_up > 0; ROLLBACK; SELECT lost FROM monitoring.wait_state"), "t\n$lost", 'a roll-up that is rolled back has lost nothing');
is(sql("$roll_up > 0; SELECT lost > 1900, lost - $lost + (SELECT sum(samples) FROM monitoring.wait_minutes) - $stored = seq - $seq FROM monitoring.wait_state"),
	"t\nt|t", 'each is stored or counted as lost, while more are taken');
is(sql('SELECT abs(monitoring.value(\'pg_wait_seconds_total\', \'increase\', \'1 hour\') - (SELECT sum(seconds) FROM monitoring.wait_minutes)) < 1e-6'), 't', 'the metric has those that are stored');
like(sql('SELECT hint FROM monitoring.activity_source'), qr/^Raise monitoring.activity_history/, 'a hint says what to do');
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ 'pg_sleep.600' AND pid <> pg_backend_pid()");
$sleeper->quit;

# ---- more combinations than a minute keeps ----

$node->append_conf('postgresql.conf', 'monitoring.activity_history = 50000');
$node->restart;
sql("$roll_up; SELECT pg_sleep(0.1)");
$lost = sql('SELECT lost FROM monitoring.wait_state');
is(sql("$roll_up > 0; $roll_up >= 0; SELECT lost - $lost FROM monitoring.wait_state"), "t\nt\n0", 'with room for them none is lost');
my $combinations = 0;
# another operator makes another statement; they may fall into two minutes
my @files = map {
	my $file = "$PostgreSQL::Test::Utils::tmp_check/crowd$_.sql";
	my $part = $_;
	append_to_file($file, join('', map { my $n = $part * 400 + $_; 'SELECT pg_sleep(:seconds) WHERE ' . join(' AND ', map { $n >> $_ & 1 ? '1 = 1' : '1 < 2' } 0 .. 10) . ";\n" } 1 .. 400));
	$file;
} 0 .. 2;
# longer and longer, as a busy machine may take few samples
foreach my $seconds (0.003, 0.006, 0.012, 0.025, 0.05)
{
	sql($roll_up);
	my @crowd = map { IPC::Run::start([ 'psql', '-Xqt', '-v', "seconds=$seconds", '-d', $node->connstr('postgres'), '-f', $_ ], '>', \my $out) } @files;
	$_->finish foreach @crowd;
	$combinations = sql('SELECT max(n) FROM (SELECT count(DISTINCT (userid, queryid, wait_event)) AS n FROM monitoring.wait_live GROUP BY bucket) AS c');
	last if $combinations > 1000;
}
cmp_ok($combinations, '>', 1000, 'a minute with many combinations');
my $sums = 'SELECT string_agg(concat_ws(\' \', bucket, wait_event, samples, seconds), \'; \' ORDER BY bucket, wait_event)
	FROM (SELECT bucket, wait_event, sum(samples) AS samples, round(sum(seconds)::numeric, 3) AS seconds FROM %s WHERE wait_event = \'PgSleep\' GROUP BY 1, 2) AS s';
sql('DELETE FROM monitoring.wait_minutes');
my $before = sql("SET monitoring.track_statements = none; " . sprintf($sums, 'monitoring.wait_history'));
sql($roll_up);
is(sql(sprintf($sums, 'monitoring.wait_minutes')), $before, 'no sample is left out');
is(sql("SELECT max(named) <= 1000, max(named) > 900, bool_or(others > 0) FROM (SELECT count(*) FILTER (WHERE queryid <> 0) AS named, sum(samples) FILTER (WHERE queryid = 0 AND userid = 0 AND wait_event = 'PgSleep') AS others
	FROM monitoring.wait_minutes GROUP BY bucket) AS m"), 't|t|t', 'the rarest are added up without role and statement');

# ---- processes that are no sessions of clients ----

my $force = sql("SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')");
is(sql("SET $force = on; SELECT pg_sleep(0.5); RESET $force; SELECT count(*) > 5, bool_and(leader_pid = pg_backend_pid() AND pid <> pg_backend_pid() AND queryid <> 0 AND username = current_user AND database = 'postgres')
	FROM monitoring.active_session_history WHERE backend_type = 'parallel worker' AND wait_event = 'PgSleep'"), "\nt|t", 'a parallel worker, with its leader');
sql('CREATE TABLE dirty AS SELECT g AS a FROM generate_series(1, 20000) AS g');
my $backup = IPC::Run::start([ 'pg_basebackup', '-D', "$PostgreSQL::Test::Utils::tmp_check/slow", '-d', $node->connstr('postgres'), '--checkpoint=spread', '--max-rate=4M', '--wal-method=none', '--no-sync' ], '>', \my $backup_out, '2>', \my $backup_err);
my $seen = "SELECT count(*) > 2 AND bool_and(%s) FROM monitoring.active_session_history WHERE backend_type = '%s' AND wait_event = '%s'";
wait_for(sprintf($seen, 'database IS NULL AND username IS NULL AND queryid IS NULL', 'checkpointer', 'CheckpointWriteDelay'), 'the checkpointer');
sql('CHECKPOINT');
wait_for(sprintf($seen, 'username IS NOT NULL', 'walsender', 'BaseBackupThrottle'), 'a walsender that sends a backup');
$backup->kill_kill;
sql($roll_up);
is(sql("SELECT string_agg(DISTINCT concat_ws(' ', backend_type, in_database), ', ' ORDER BY concat_ws(' ', backend_type, in_database)) FROM monitoring.wait_minutes WHERE wait_event IN ('CheckpointWriteDelay', 'BaseBackupThrottle')"),
	'checkpointer f, walsender f', 'are stored as of no database');

# ---- a database that is dropped while its samples wait ----

sql('CREATE DATABASE short');
$node->safe_psql('short', 'SELECT pg_sleep(0.5)');
my $oid = sql("SELECT oid FROM pg_database WHERE datname = 'short'");
my $of_short = "monitoring.wait_samples(0) AS s JOIN monitoring.active_session_history AS h ON h.queryid = s.queryid AND h.at = s.at WHERE s.datid = $oid AND s.wait_event = 'PgSleep'";
is(sql("SELECT count(*) > 10, min(h.database) FROM $of_short"), 't|short', 'samples of another database');
sql('DROP DATABASE short');
is(sql("SELECT count(*) > 10, count(h.database) FROM $of_short"), 't|0', 'stay when it is dropped, without its name');
$lost = sql('SELECT lost FROM monitoring.wait_state');
is(sql("$roll_up >= 0; SELECT lost - $lost FROM monitoring.wait_state"), "t\n0", 'and are neither stored here nor lost');

# ---- the interval changes ----

set_interval('50ms');
is(sql("BEGIN; SELECT pg_sleep(1); SELECT count(*) BETWEEN 3 AND 1 + extract(epoch FROM clock_timestamp() - now()) / 0.05 FROM monitoring.active_session_history WHERE pid = pg_backend_pid() AND wait_event = 'PgSleep' AND interval_seconds = 0.05"), "\nt", 'another interval');
set_interval('0');
wait_for("SELECT clock_timestamp() - sampled_at > '0.3 s' FROM monitoring.activity_buffer()", 'none');
is(sql('SELECT hint FROM monitoring.activity_source'), 'Set monitoring.activity_interval: no samples are taken.', 'is said');
set_interval('10ms');
wait_for("SELECT clock_timestamp() - sampled_at < '0.3 s' FROM monitoring.activity_buffer()", 'and one again');

# ---- a sampler that is sent away comes back to the same memory; meanwhile a standby ----

my ($epoch, $latest) = split /\|/, sql('SELECT epoch, latest FROM monitoring.activity_buffer()');
my $sampler = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring sampler'");
is(sql("SELECT pg_terminate_backend($sampler, 60000)"), 't', 'a sampler is sent away');
sql($roll_up);
my $minutes = 'SELECT count(*), coalesce(sum(samples), 0) FROM monitoring.wait_minutes';
my $primary_minutes = sql($minutes);
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT pg_sleep(1) AS on_standby'), '', 'a standby');
my $asleep = q{SELECT coalesce(sum(samples), 0) FROM monitoring.%s WHERE wait_event = 'PgSleep' AND bucket > now() - interval '1 minute'};
my $on_standby = $standby->safe_psql('postgres', "SELECT count(*) FROM monitoring.active_session_history WHERE wait_event = 'PgSleep'");
cmp_ok($on_standby, '>', 5, 'which has a history of its own');
cmp_ok($standby->safe_psql('postgres', sprintf($asleep, 'wait_history')), '>=', $on_standby, 'that its views show');
my $err;
isnt($standby->psql('postgres', $roll_up, stderr => \$err), 0, 'nobody rolls it up');
like($err, qr/cannot execute .* during recovery|read-only transaction/, 'in recovery');
is($standby->safe_psql('postgres', $minutes), $primary_minutes, 'nothing is written');
my $standby_sampler = $standby->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring sampler'");
my $standby_epoch = $standby->safe_psql('postgres', 'SELECT epoch FROM monitoring.activity_buffer()');
$standby->promote;
is($standby->safe_psql('postgres', "SELECT pid = $standby_sampler, epoch = '$standby_epoch' FROM pg_stat_activity, monitoring.activity_buffer() WHERE backend_type = 'monitoring sampler'"), 't|t', 'after the promotion the same sampler goes on');
$standby->safe_psql('postgres', 'SELECT pg_sleep(1)');
cmp_ok($standby->safe_psql('postgres', "SELECT count(*) FROM monitoring.active_session_history WHERE wait_event = 'PgSleep'"), '>', $on_standby + 5, 'with the same history');
is($standby->safe_psql('postgres', "$roll_up > 0; SELECT lost = $lost FROM monitoring.wait_state; SELECT sum(samples) >= $on_standby FROM monitoring.wait_minutes WHERE bucket > now() - interval '3 minutes' AND wait_event = 'PgSleep'"),
	"t\nt\nt", 'and what was seen before it is stored');
$standby->stop;

wait_for("SELECT epoch = '$epoch' AND latest > $latest AND pid <> $sampler FROM pg_stat_activity, monitoring.activity_buffer() WHERE backend_type = 'monitoring sampler'",
	'the sampler is back, with the samples from before');

$node->stop;
done_testing();
