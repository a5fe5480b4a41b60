# Compaction with more to do than fits into a run: runs end in time, the next one goes on, whatever is read meanwhile is
# right, and neither late observations nor somebody who keeps flushes waiting can hold up the rest.

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Utils;
use QuietNode;
use Test::More;

my $series = 8000;
my $minutes = 120;

my $node = new_quiet_node('backlog', <<'CONF');
monitoring.shared_memory = 32MB
monitoring.max_series = 20000
monitoring.flush_interval = 1h
autovacuum = off
CONF
$node->start;

my $db = 'stepwise';
sub sql { return $node->safe_psql($db, $_[0]) }

# The last two hours of last month, as if nothing had been compacted since: one flush, repeated for every minute of them.
my $since = q{date_trunc('month', now(), 'UTC') - interval '2 hours'};
$node->safe_psql('postgres', 'CREATE DATABASE stepwise');
sql('BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; COMMIT');
sql(qq{SELECT count(monitoring.increment('many_total', i, jsonb_build_object('k', i))) FROM generate_series(1, $series) i});
sql('SELECT monitoring.flush()');
sql(qq{SELECT monitoring.ensure_partition('segments', $since + i * interval '1 hour') FROM generate_series(0, 1) i;
	CREATE TEMP TABLE row AS SELECT s.* FROM monitoring.segments s;
	DELETE FROM monitoring.segments;
	INSERT INTO monitoring.segments SELECT $since + i * interval '1 minute', seq, part, series, first_id, last_id, directory, points
	FROM row, generate_series(0, $minutes - 1) i});

sub state { return sql(q{SELECT minutes, chunks, chunks_next, hourly, hourly_next, daily, daily_next, (SELECT count(*) FROM monitoring.late) FROM monitoring.compaction_state}) }
sub hours { return sql(qq{SELECT value FROM monitoring.query('many_total', 'sum', $since, $since + interval '2 hours', '1 hour')}) }

my $hours = hours();
is($hours, join("\n", ($minutes / 2 * $series * ($series + 1) / 2) x 2), 'a backlog of two hours');
my ($runs, $all, $longest, $same) = (0, 0, 0, 1);

# The session that runs it, and the processor time of that, to which a machine that is busy adds nothing.
my $session = $node->background_psql($db);
my $pid = $session->query_safe('SELECT pg_backend_pid()');

sub processor_time
{
	my @fields = split / /, slurp_file("/proc/$pid/stat");
	return ($fields[13] + $fields[14]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# One run of the job; false when it had nothing to do.
sub run_job
{
	my $before = state();
	my $start = processor_time();
	$session->query_safe('SELECT monitoring.compact_job(clock_timestamp())');
	my $took = processor_time() - $start;
	my $after = state();
	return 0 if $after eq $before;
	$runs++;
	$all += $took;
	$longest = $took if $took > $longest;
	$same &&= hours() eq $hours;
	note(sprintf('%.1f s: %s', $took, $after));
	return 1;
}

# Run until a condition holds, at most 1000 times.
sub run_until
{
	my ($condition) = @_;
	for (1 .. 1000)
	{
		return 1 if sql("SELECT $condition FROM monitoring.compaction_state") eq 't';
		last if !run_job();
	}
	return 0;
}

# Many more late rows than a run can work in
my $late = 60000;
sql(qq{SELECT count(monitoring.record_at('late_total', 1, $since - i * interval '1 hour', jsonb_build_object('k', k), 'counter'))
	FROM generate_series(1, 20) i, generate_series(1, $late / 20) k});
ok(run_job(), 'the first run');
ok(run_until("minutes > $since + interval '1 hour'"), 'minutes of an hour');
my $holder = $node->background_psql($db);
$holder->query_safe('BEGIN; SELECT monitoring.flush()');
my $minutes_before = sql('SELECT minutes FROM monitoring.compaction_state');
run_job();
is(sql("SELECT minutes, chunks > $since OR chunks_next IS NOT NULL FROM monitoring.compaction_state"), "$minutes_before|t", 'while flushes have to wait, chunks are made');
$holder->query_safe('COMMIT');
$holder->quit;

ok(run_until("hourly > $since AND daily > $since"), 'hourly and daily points');
cmp_ok(sql('SELECT count(*) FROM monitoring.late'), '>', 0, 'are made while there are late rows');
1 while $runs < 1000 && run_job();
$session->quit;

ok($same, 'what is read between two runs is right');
cmp_ok($runs, '>=', 3, 'runs end before all is done');
cmp_ok($longest, '<', $all / 2, 'none did most of it');
is(sql(q{SELECT monitoring.value('late_total', 'sum', '60 days'), (SELECT count(*) FROM monitoring.late)}), "$late|0", 'late rows are worked in, too');
is(sql('SELECT (SELECT count(*) FROM monitoring.chunks), (SELECT count(*) FROM monitoring.hourly), (SELECT count(*) FROM monitoring.daily)'),
	join('|', 2 * $series + $late, $series + $late / 20, $series + $late / 20), 'in the end everything is compacted');

$node->stop;
done_testing();
