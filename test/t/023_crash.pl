# kill -9 of any server process, at any moment, whatever was under way: flushes, compaction through all levels, clients,
# deletions.  What was flushed is there exactly; what was in memory since then may be lost; nothing counts twice; rows in
# the past, which follow their transaction, are all there; a deletion has happened or has not.  The environment sets
# MONITORING_CRASH_ROUNDS and MONITORING_TEST_SEED.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
use QuietNode;
use StorageLoad;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{MONITORING_CRASH_ROUNDS} || 50;
my $rounds_per_database = 5;
my $seed = seed_from();
note("seed $seed, $rounds rounds");

my $node = new_quiet_node('crash', <<'CONF');
monitoring.flush_interval = 100ms
restart_after_crash = on
max_worker_processes = 16
autovacuum = off
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE load');
install_load($node, 'load');
$node->safe_psql('load', q{UPDATE monitoring.jobs SET every = '50 ms' WHERE name = 'compact'});

sub look
{
	my ($db, $query) = @_;
	my @both = split /\|/, $node->safe_psql($db, $query);
	return map { [ split / / ] } @both;
}

# What is late, and what was flushed or may be lost, of series that are deleted by turns.
sub remains
{
	my ($db, $query) = @_;
	my @both = split /\|/, $node->safe_psql($db, $query);
	return map { [ split /,? / ] } @both;
}

# Whether no number of a is larger than that of b.
sub at_most
{
	my ($a, $b) = @_;
	return !grep { $a->[$_] > $b->[$_] } 0 .. $#$a;
}

my @when = ('0 seconds', '0 seconds', '70 minutes', '26 hours', '40 days');
my %operations = (
	'flushes' => sub { 'SELECT monitoring.flush() \watch 0.01' },
	'compaction' => sub { ("SELECT monitoring.compact(clock_timestamp() + interval '" . pick(@when) . "');\n") x 3 },
	'rolled back compaction' => sub { ("BEGIN; SELECT monitoring.compact(clock_timestamp() + interval '" . pick(@when) . "'); ROLLBACK;\n") x 3 },
	'clients' => sub { sprintf "CALL public.work(500, %.6f);", rand },
	'deletions' => sub { sprintf 'CALL public.fill_and_delete(500, %.6f);', rand },
	'retention' => sub { 'SELECT monitoring.apply_retention() \watch 0.01' });
my @victims = ('monitoring worker', 'monitoring launcher', 'client backend', 'checkpointer', 'walwriter', 'postmaster', 'immediate stop');

my ($db, $flushed);
my ($bad, $crashes) = (0, 0);

sub check
{
	my ($ok, $what, @details) = @_;
	return if $ok;
	$bad++;
	diag("$what: ", join('; ', map { ref $_ ? "@$_" : $_ } @details));
	return;
}

for my $round (1 .. $rounds)
{
	if ($round % $rounds_per_database == 1)
	{
		$db = "db$round";
		$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE load");
	}

	# What is flushed now is to be there for good.
	$node->safe_psql($db, sprintf 'CALL public.work(20, %.6f)', rand);
	$node->safe_psql($db, 'SELECT monitoring.flush()');
	my ($live_before, undef) = look($db, RECORDED);

	my $name = pick(sort keys %operations);
	my $victim = pick(@victims);
	my @runs = (start_sql($node, $db, $operations{$name}->()), start_sql($node, $db, $operations{clients}->()));
	push @runs, start_sql($node, $db, $operations{deletions}->()) if rand() < 0.5;
	my @pids = pids($node, $victim eq 'postmaster' ? 'client backend' : $victim);
	$victim = 'immediate stop' if !@pids;
	usleep(rand(pick(5_000, 50_000, 200_000)));
	$crashes += crash($node, $victim, \@pids);
	# A worker may have gone by itself just before it was killed: then clients are still there.
	# The server may still be about to restart for the process that was killed.
	wait_for_sql($node, 'postgres', q{SELECT count(pg_terminate_backend(pid)) >= 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
	finish_sql($_) for @runs;
	wait_for_sql($node, $db, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE query ~ 'CALL|compact|flush|retention' AND pid <> pg_backend_pid() AND backend_type = 'client backend'});

	my $context = "round $round, kill of $victim during $name";
	my ($live, $late) = look($db, RECORDED);
	my ($done_live, $done_late) = look($db, DONE);
	note("$context: flushed @$live_before, now @$live of @$done_live");
	check(at_most($live_before, $live), "$context: what was flushed is lost", $live_before, $live);
	check(at_most($live, $done_live), "$context: something counts twice", $live, $done_live);
	check("@$late" eq "@$done_late", "$context: what is late is not what was committed", $late, $done_late);

	my $damage = $node->safe_psql($db, 'SELECT * FROM monitoring.check_storage()');
	check($damage eq '', "$context: storage is damaged", $damage);
	my ($remains, $remains_live) = remains($db, REMAINS);
	my ($expected, $expected_live) = remains($db, EXPECTED_REMAINS);
	check("@$remains" eq "@$expected", "$context: a deletion is there in part", $remains, $expected);
	check(at_most($remains_live, $expected_live), "$context: what was deleted is there", $remains_live, $expected_live);

	# Nothing changes when all that is due is compacted, and then still later.
	if ($round % $rounds_per_database == 0 || $round == $rounds)
	{
		for my $when ('0 seconds', '70 minutes', '26 hours', '40 days')
		{
			$node->safe_psql($db, "SELECT monitoring.compact(clock_timestamp() + interval '$when')");
			my ($live_now, $late_now) = look($db, RECORDED);
			my ($remains_now) = remains($db, REMAINS);
			check("@$remains_now" eq "@$remains", "$context: what was deleted, compacted up to $when from now", $remains, $remains_now);
			check("@$live_now @$late_now" eq "@$live @$late", "$context: compacted up to $when from now", $live, $late, $live_now, $late_now);
		}
		my $account = $node->safe_psql($db, 'SELECT accepted - persisted - pending - dropped FROM monitoring.self');
		check($account eq '0', "$context: the account does not balance", $account);
		$node->safe_psql('postgres', "DROP DATABASE $db WITH (FORCE)");
	}
}
is($crashes, $rounds, "the server came back $rounds times");
is($bad, 0, "nothing flushed is lost and nothing counts twice (seed $seed)");

$node->stop;
done_testing();
