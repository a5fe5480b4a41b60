# The server's clock steps back an hour, forward a day and back again while clients record: nothing is lost or counted
# twice, workers go on with their jobs and new ones start, partitions fit together.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use QuietNode;
use POSIX qw(strftime);
use StorageLoad;
use Test::More;
use Time::HiRes qw(usleep);

my $tmp = PostgreSQL::Test::Utils::tempdir();
run_log([ 'cc', '-shared', '-fPIC', '-o', "$tmp/clock.so", "$FindBin::Bin/../lib/clock.c" ]) or die 'cc';

sub set_clock
{
	my ($seconds) = @_;
	append_to_file("$tmp/clock.new", "$seconds\n");
	rename "$tmp/clock.new", "$tmp/clock" or die "cannot set the clock: $!";
	return;
}
set_clock(0);

my $node = new_quiet_node('clock', <<'CONF');
monitoring.flush_interval = 100ms
max_worker_processes = 16
CONF
{
	local $ENV{TEST_CLOCK} = "$tmp/clock";
	local $ENV{LD_PRELOAD} = join ' ', grep { $_ } $ENV{LD_PRELOAD}, "$tmp/clock.so";
	$node->start;
}
$node->safe_psql('postgres', 'CREATE DATABASE load');
install_load($node, 'load');
sub sql { return $node->safe_psql('load', @_) }
sql(q{UPDATE monitoring.jobs SET every = '50 ms' WHERE name IN ('compact', 'retention')});

# All that was ever recorded, whatever the clock said.
my $until = strftime('%Y-%m-%d %H:%M:%S+00', gmtime(time + 3 * 86400));

sub recorded
{
	return sql('SELECT ' . join ', ', map { my $m = $_; map { "monitoring.value('$m', '$_', '50 days', '{}', '$until')" } qw(count sum) } qw(sold_total wait_seconds late_seconds));
}

sub done
{
	return sql('SELECT sum(live), sum(live_sum), sum(live), sum(live_sum), sum(late), sum(late_sum) FROM did');
}

sub runs { return sql("SELECT runs FROM monitoring.status WHERE database = 'load' AND job = '$_[0]'") }

# Record while the clock steps, and see that jobs run meanwhile.
sub step
{
	my ($seconds, $name) = @_;
	my @clients = map { start_sql($node, 'load', sprintf 'CALL public.work(1000000, %.6f);', rand) } 1 .. 2;
	my $did = sql('SELECT count(*) FROM did');
	ok($node->poll_query_until('load', "SELECT count(*) > $did + 20 FROM did"), "$name: clients record before");
	my %before = map { $_ => runs($_) } qw(flush compact retention);
	$did = sql('SELECT count(*) FROM did');
	set_clock($seconds);
	for my $job (sort keys %before)
	{
		ok($node->poll_query_until('load', "SELECT runs > $before{$job} + 3 FROM monitoring.status WHERE database = 'load' AND job = '$job'"), "$name: $job goes on");
	}
	ok($node->poll_query_until('load', "SELECT count(*) > $did + 20 FROM did"), "$name: clients record after");
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^CALL'});
	finish_sql($_) for @clients;
	$node->poll_query_until('load', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE query ~ '^CALL'});
	is(recorded(), done(), "$name: nothing is lost and nothing counts twice");
	sql('SELECT monitoring.flush()');
	is(recorded(), done(), "$name: nor after a flush");
	is(sql('SELECT accepted - persisted - pending, dropped FROM monitoring.self'), '0|0', "$name: the account balances");
	is(sql('SELECT * FROM monitoring.check_storage()'), '', "$name: storage is sound");
	is(sql(q{SELECT a.partition, b.partition FROM monitoring.partitions() a JOIN monitoring.partitions() b ON a.parent = b.parent AND a.since < b.since AND a.until > b.since}), '', "$name: partitions do not overlap");
	cmp_ok(sql('SELECT max(n) FROM (SELECT count(*) AS n FROM monitoring.partitions() GROUP BY parent) p'), '<', 20, "$name: and are few");
	return;
}

step(0, 'no step');
step(-3600, 'back an hour');
$node->safe_psql('postgres', 'CREATE DATABASE fresh');
$node->safe_psql('fresh', 'CREATE EXTENSION monitoring');
ok($node->poll_query_until('fresh', q{SELECT count(*) > 0 FROM monitoring.status WHERE database = 'fresh' AND job = 'flush' AND runs > 0}), 'back an hour: a new database gets its worker');
step(86400, 'forward a day');
ok($node->poll_query_until('load', q{SELECT minutes > clock_timestamp() - interval '10 minutes' FROM monitoring.compaction_state}), 'forward a day: compaction has followed');
step(0, 'back a day');

# What was deleted stays deleted although rows of a time to come hold it.
is(sql(q{SELECT monitoring.reset('sold_total') > 0}), 't', 'deleted');
is(sql(qq{SELECT count(*) > 0 FROM monitoring.segments WHERE slot_start > clock_timestamp() + interval '20 hours'}), 't', 'segments of a time to come');
set_clock(6 * 3600);
ok($node->poll_query_until('load', q{SELECT min(since) > clock_timestamp() - interval '5 hours' FROM monitoring.partitions('segments')}), 'older ones are dropped');
is(sql("SELECT monitoring.value('sold_total', 'count', '50 days', '{}', '$until')"), '', 'what was deleted does not come back');

# In the end all of it is compacted.
set_clock(2 * 86400);
my $late = sql("SELECT monitoring.value('late_seconds', 'sum', '50 days', '{}', '$until')");
# Retention leaves what others are using for its next run.
for (1 .. 100)
{
	sql(q{SELECT monitoring.compact(), monitoring.apply_retention(), monitoring.compact()});
	last if sql('SELECT count(*) FROM monitoring.late') == 0;
	usleep(100_000);
}
is(sql("SELECT monitoring.value('late_seconds', 'sum', '50 days', '{}', '$until'), (SELECT count(*) FROM monitoring.late)"), "$late|0", 'late observations are worked in');
is(sql(q{SELECT monitoring.value('sold_total', 'count', '50 days', '{}', clock_timestamp()) IS NULL}), 't', 'and what was deleted is not');
is(sql('SELECT * FROM monitoring.check_storage()'), '', 'storage is sound');

$node->stop;
done_testing();
