# SIGTERM, cancels and clean stops, at any moment and under load, lose nothing: what metrics hold is what clients
# committed and did not delete, always.  The environment sets MONITORING_TERMINATE_ROUNDS and MONITORING_TEST_SEED.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
use QuietNode;
use StorageLoad;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{MONITORING_TERMINATE_ROUNDS} || 25;
my $seed = seed_from();
note("seed $seed, $rounds rounds");

my $node = new_quiet_node('terminate', <<'CONF');
monitoring.flush_interval = 100ms
max_worker_processes = 16
max_connections = 50
CONF
$node->start;
my @databases = qw(one two);
for my $db (@databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	install_load($node, $db);
	$node->safe_psql($db, q{UPDATE monitoring.jobs SET every = '30 ms' WHERE name = 'compact'});
}

my %running;

sub start_clients
{
	for my $db (@databases)
	{
		$running{"$db $_"} = start_sql($node, $db, sprintf 'CALL public.work(1000000, %.6f);', rand) for 1 .. 2;
		$running{"$db deletion"} = start_sql($node, $db, sprintf 'CALL public.fill_and_delete(1000000, %.6f);', rand);
		$running{"$db compaction"} =
		  start_sql($node, $db, q{SET application_name = 'compaction'; } . 'SELECT monitoring.compact(clock_timestamp()) \watch 0.02');
		$running{"$db flush"} = start_sql($node, $db, q{SET application_name = 'flush'; } . 'SELECT monitoring.flush() \watch 0.01');
	}
	return;
}

sub signal
{
	my ($function, $where) = @_;
	return $node->safe_psql('postgres', "SELECT count($function(pid)) FROM pg_stat_activity WHERE $where AND pid <> pg_backend_pid()");
}

# End all clients, each wherever it is.
sub end_clients
{
	signal('pg_terminate_backend', q{backend_type = 'client backend'});
	finish_sql($_) for values %running;
	%running = ();
	return wait_for_sql($node, 'postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'});
}

my $worker = q{backend_type = 'monitoring worker'};
my %actions = (
	'terminate the workers' => sub { signal('pg_terminate_backend', $worker) },
	'cancel the workers' => sub { signal('pg_cancel_backend', $worker) for 1 .. 5 },
	'terminate the launcher' => sub { signal('pg_terminate_backend', q{backend_type = 'monitoring launcher'}) },
	'terminate a backend' => sub { signal('pg_terminate_backend', q{query ~ '^CALL' AND random() < 0.5}) },
	'cancel a backend' => sub { signal('pg_cancel_backend', q{query ~ '^CALL' AND random() < 0.5}) },
	'cancel flushes' => sub { signal('pg_cancel_backend', q{application_name = 'flush'}) for 1 .. 5 },
	'cancel compaction' => sub { signal('pg_cancel_backend', q{application_name = 'compaction'}) for 1 .. 5 },
	'reload' => sub { $node->reload },
	'fast stop' => sub { $node->stop('fast'); $node->start },
	'smart stop' => sub { end_clients(); $node->stop('smart'); $node->start });

my ($bad, $observations) = (0, 0);
for my $round (1 .. $rounds)
{
	my $did = $node->safe_psql('two', 'SELECT count(*) FROM did');
	start_clients();
	wait_for_sql($node, 'two', "SELECT count(*) > $did + 4 FROM did");
	usleep(rand(pick(50_000, 400_000)));
	my @names = map { pick(sort keys %actions) } 1 .. 3;
	for my $name (@names)
	{
		$actions{$name}->();
		usleep(rand(20_000));
	}
	end_clients() or $bad++;
	for my $db (@databases)
	{
		# The one look may fall before a flush and the other after it: both have to be right.
		for my $how ('in memory', 'flushed')
		{
			my $recorded = $node->safe_psql($db, RECORDED);
			my $done = $node->safe_psql($db, DONE);
			my $remains = $node->safe_psql($db, REMAINS);
			my $expected = $node->safe_psql($db, EXPECTED_REMAINS);
			my $account = $node->safe_psql($db, 'SELECT accepted - persisted - pending, dropped FROM monitoring.self');
			$observations = (split / /, $done)[0];
			if ($recorded ne $done || $remains ne $expected || $account ne '0|0')
			{
				$bad++;
				diag("round $round, database $db, @names, $how: recorded $recorded, done $done, remains $remains of $expected, account $account");
			}
			$node->safe_psql($db, 'SELECT monitoring.flush()');
		}
		if ($round % 10 == 0)
		{
			my $days = $round;
			$node->safe_psql($db, "SELECT monitoring.compact(clock_timestamp() + interval '$days days')");
		}
	}
}
is($bad, 0, "metrics hold what clients committed, always (seed $seed)");
cmp_ok($observations, '>', 1000 * $rounds / 25, "of $observations observations");
is($node->safe_psql($_, 'SELECT * FROM monitoring.check_storage()'), '', "storage of $_ is sound") for @databases;
like($node->safe_psql('one', "SELECT monitoring.value('late_seconds', 'sum', '40 days') = monitoring.value('late_seconds', 'sum', '400 days')"),
	qr/^t$/, 'however far back one looks');

$node->stop;
done_testing();
