# kill -9 at any moment of a day of alerts: metrics come in, people act and change what is configured, evaluations follow (all of
# it is in scripted_day.sql). Steps that are interrupted are taken again, by the client who took them or by the worker once it
# is back. At the end, states, history, what happened to alerts, incidents, escalations, groups and notifications are those of
# the day that nobody disturbed. The environment sets MONITORING_DAY_ROUNDS (kills), MONITORING_DAY (another day, between -1
# and 1) and MONITORING_TEST_SEED (other moments).

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
use StorageLoad;
use Test::More;
use Time::HiRes qw(time usleep);

my $rounds = $ENV{MONITORING_DAY_ROUNDS} || 20;
my $rounds_per_day = 20;
my $day = $ENV{MONITORING_DAY} || 0.42;
my $seed = seed_from();
note("seed $seed, day $day, $rounds rounds");

my $node = PostgreSQL::Test::Cluster->new('day');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.shared_memory = 16MB
restart_after_crash = on
max_worker_processes = 16
autovacuum = off
jit = off
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE script');
$node->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v', "seed=$day", '-v', 'every=4', '-d', $node->connstr('script'),
		'-f', "$ENV{MONITORING_SRC}/test/t/scripted_day.sql" ], 'the script is written');
my $steps = $node->safe_psql('script', 'SELECT max(step) FROM public.steps');

# Sums depend in their last digits on what was flushed together.
sub rounded
{
	my ($line) = @_;
	$line =~ s/(\d+\.\d{9,}(e-?\d+)?)/sprintf '%.12g', $1/ge;
	$line =~ s/("crosses_at": "[^".]+\.\d{3})\d+/$1/g;
	return $line;
}

sub outcome
{
	my ($db) = @_;
	return map { rounded($_) } split /\n/, $node->safe_psql($db, 'SELECT line FROM public.outcome() ORDER BY line COLLATE "C"');
}

# The lines of one that the other has not, or has more seldom.
sub missing
{
	my ($from, $in) = @_;
	my %count;
	$count{$_}++ for @$in;
	return grep { !$count{$_} || $count{$_}-- < 1 } @$from;
}

# ---- the undisturbed day ----

$node->safe_psql('postgres', 'CREATE DATABASE calm TEMPLATE script');
my $began = time();
$node->safe_psql('calm', "UPDATE public.progress SET until = $steps; CALL public.take_steps()");
my $length = time() - $began;
is($node->safe_psql('calm', 'SELECT step FROM public.progress'), $steps, sprintf 'a day of %d steps', $steps);
my @calm = outcome('calm');
my %lines;
$lines{ (split / /, s/^at .*?: //r)[0] }++ for @calm;
note(join ', ', map { "$lines{$_} $_" } sort keys %lines);
cmp_ok($lines{$_} || 0, '>', 0, "there is something of what is compared: $_") for qw(state history event handling evidence incident escalation group notification rule silence status);
is(scalar(grep { /never was/ } @calm), 0, 'every alert that is named is known');
$node->safe_psql('postgres', 'DROP DATABASE calm WITH (FORCE)');

# ---- disturbed ones ----

my @victims = ('client backend', 'client backend', 'monitoring worker', 'monitoring worker', 'checkpointer', 'walwriter', 'postmaster', 'immediate stop');
my ($crashes, $interrupted, $by_worker, $again) = (0, 0, 0, 0);

# As somebody does who does not know whether the last step, if it was an evaluation, has been taken.
sub evaluate_again
{
	my ($db) = @_;
	my $transitions = $node->safe_psql($db, 'SELECT public.evaluate_again()');
	return if $transitions eq '';
	is($transitions, '0', "$db: an evaluation that is repeated makes no transition") if $transitions ne '0';
	$again++;
	return;
}

# Take the steps up to one, by a client or by the worker, with a kill at some moment.
sub disturb
{
	my ($db, $until, $pause) = @_;
	my $worker = rand() < 0.5;
	my $victim = pick(@victims);
	$node->safe_psql($db, "UPDATE public.progress SET until = $until");
	my $run;
	if ($worker)
	{
		$node->safe_psql($db, "UPDATE monitoring.jobs SET enabled = true WHERE name = 'steps'");
	}
	else
	{
		$run = start_sql($node, $db, 'CALL public.take_steps();');
	}
	my @pids = pids($node, $victim eq 'postmaster' ? 'client backend|monitoring worker' : $victim);
	$victim = 'immediate stop' if !@pids;
	usleep($pause * 1e6);
	$crashes += crash($node, $victim, \@pids);
	finish_sql($run) if $run;

	# What the worker has to do it does by itself.
	my $step = $node->safe_psql($db, 'SELECT step FROM public.progress');
	if (!$worker)
	{
		evaluate_again($db);
		$node->safe_psql($db, 'CALL public.take_steps()');
	}
	my $done = wait_for_sql($node, $db, "SELECT step = $until FROM public.progress");
	$node->safe_psql($db, "UPDATE monitoring.jobs SET enabled = false WHERE name = 'steps'");
	evaluate_again($db);
	$interrupted++ if $step < $until;
	$by_worker++ if $worker && $step < $until;
	note("$db, kill of $victim at step $step of $until, " . ($worker ? 'worker' : 'client'));
	return $done;
}

my $round = 0;
while ($round < $rounds)
{
	my $kills = $rounds - $round < $rounds_per_day ? $rounds - $round : $rounds_per_day;
	my $db = "day$round";
	$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE script");
	my $done = 0;
	# At once, if all steps were done before all the others: the machine was slower on the calm day.
	$done += disturb($db, int($steps * $_ / $kills), $interrupted || $_ < $kills / 2 ? rand(0.9 * $length / $kills) : 0) for 1 .. $kills;
	is($done, $kills, "$db: all steps are taken, with $kills kills");
	my @outcome = outcome($db);
	my @lost = missing(\@calm, \@outcome);
	my @extra = missing(\@outcome, \@calm);
	is(@lost + @extra, 0, "$db: what has become of it is what it would have been (seed $seed)");
	diag(map { "- $_\n" } @lost > 10 ? @lost[ 0 .. 9 ] : @lost) if @lost;
	diag(map { "+ $_\n" } @extra > 10 ? @extra[ 0 .. 9 ] : @extra) if @extra;
	is($node->safe_psql($db, 'SELECT * FROM monitoring.check_storage()'), '', "$db: storage is sound");
	$node->safe_psql('postgres', "DROP DATABASE $db WITH (FORCE)");
	$round += $kills;
}
is($crashes, $rounds, "the server came back $rounds times");
cmp_ok($interrupted, '>', 0, "kills came in the midst of it ($interrupted, $by_worker of them while the worker was at it; $again evaluations were made again)");

$node->stop;
done_testing();
