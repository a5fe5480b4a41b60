# Random kill -9 of the notifier (which restarts the server) and of the sender, while thousands of notifications are
# delivered: none is lost, and one that arrives twice was claimed twice, because nobody could know, and has the same
# idempotency key. MONITORING_TEST_SEED repeats a run; MONITORING_KILLS and MONITORING_DELIVERIES make it longer.
use strict;
use warnings;

use FindBin;
use IPC::Run;
use NotifyNode qw(new_node);
use PostgreSQL::Test::Utils;
use RestartingServer qw(psql_if_up);
use Test::More;
use Time::HiRes qw(usleep time);

my $kills = $ENV{MONITORING_KILLS} || 10;
my $deliveries = $ENV{MONITORING_DELIVERIES} || 3000;
my $seed = $ENV{MONITORING_TEST_SEED} || int(rand(1e9));
srand($seed);
note("seed $seed, $kills kills over $deliveries deliveries");

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $tmp = $PostgreSQL::Test::Utils::tmp_check;

run_log([ 'cc', '-O2', '-o', "$tmp/fast_receiver", "$FindBin::Bin/../lib/fast_receiver.c" ]) or die 'cc';
my ($in, $out) = ('', '');
my $log = "$tmp/receiver.log";
my $receiver = IPC::Run::start([ "$tmp/fast_receiver", $log ], '<', \$in, '>', \$out, IPC::Run::timeout($timeout * 20));
IPC::Run::pump($receiver) until $out =~ /port (\d+)\n/;
my $port = $1;

my $node = new_node('kills');
$node->start;
$node->safe_psql('postgres', qq{
	CREATE EXTENSION monitoring;
	SELECT monitoring.create_receiver('hook', 'webhook', 'http://127.0.0.1:$port/hook', '{"max_age_seconds": 86400}');
	SELECT monitoring.ensure_partition('outbox', clock_timestamp());
	INSERT INTO monitoring.outbox (created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	SELECT t, 'hook', 'group ' || n, 'Kills', 'firing', monitoring.make_payload('hook', 'group ' || n, 'firing', '{"alertname": "Kills"}',
		jsonb_build_array(jsonb_build_object('status', 'firing', 'labels', jsonb_build_object('alertname', 'Kills', 'n', n::text),
			'annotations', '{"summary": "one of many"}'::jsonb, 'startsAt', '2026-01-02T03:04:05Z', 'endsAt', '0001-01-01T00:00:00Z', 'fingerprint', md5(n::text)))),
		t, t + interval '1 day'
	FROM (SELECT clock_timestamp() AS t) AS c, generate_series(1, $deliveries) AS n});

# The keys of all requests so far, in order of arrival.
my @keys;
my $position = 0;
sub arrived
{
	open my $fh, '<', $log or return 0;
	seek $fh, $position, 0;
	while (my $line = <$fh>)
	{
		last if $line !~ /\n$/;
		$position += length $line;
		push @keys, (split / /, $line)[2] =~ s/\n//r;
	}
	close $fh;
	return scalar(@keys);
}

# Children of a process of that name.
sub children
{
	my ($parent, $name) = @_;
	my $of = $parent ? `pgrep -P $parent -f '$name'` : '';
	return split /\n/, $of;
}

sub postmaster { return (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0]; }

# Whom to kill, when he is there: the notifier or its sender.
sub victim
{
	my ($sender) = @_;
	my ($notifier) = children(postmaster(), 'postgres.*monitoring notifier');
	return $sender ? (children($notifier, 'monitoring_sender'))[0] : $notifier;
}

my %killed = (notifier => 0, sender => 0);
for my $n (1 .. $kills)
{
	my $sender = rand() < 0.5;
	my $from = int($deliveries * ($n - 1 + rand()) / ($kills + 1));
	my $end = time() + $timeout * 2;
	my $pid;
	usleep(2_000) while arrived() < $from && time() < $end;
	usleep(5_000) while !($pid = victim($sender)) && time() < $end;
	last if !$pid;
	usleep(int(rand(20_000)));
	$killed{ $sender ? 'sender' : 'notifier' } += kill 'KILL', $pid;
	# The same process is not killed twice, and what comes next begins with deliveries.
	usleep(2_000) while kill(0, $pid) && time() < $end;
}
is($killed{notifier} + $killed{sender}, $kills, "killed: the notifier $killed{notifier} times, the sender $killed{sender} times (seed $seed)");

my $states = '';
for (my $end = time() + $timeout * 3; $states ne "sent $deliveries" && time() < $end; usleep(100_000))
{
	(undef, $states) = psql_if_up($node, 'postgres', q{SELECT string_agg(state || ' ' || n, ', ') FROM (SELECT state, count(*) AS n FROM monitoring.outbox GROUP BY state) AS s});
}
is($states, "sent $deliveries", 'all are sent');

arrived();
my %count;
$count{$_}++ for @keys;
my %attempts = map { split /\|/ } split /\n/, $node->safe_psql('postgres', 'SELECT idempotency_key, attempts FROM monitoring.outbox');
is(scalar(grep { !$count{$_} } keys %attempts), 0, 'none is lost');
is(scalar(grep { !$attempts{$_} } keys %count), 0, 'nothing else arrived');
is(scalar(grep { $count{$_} > $attempts{$_} } keys %attempts), 0, 'none arrived more often than it was claimed');
my $twice = @keys - keys %count;
cmp_ok($twice, '<=', 64 * $kills, "arrived once more: $twice of $deliveries, at most what was in flight at each kill");
is($node->safe_psql('postgres', q{SELECT count(*) FROM monitoring.outbox AS o WHERE o.attempts <> 1 + (SELECT count(*) FROM monitoring.delivery_attempts AS a
	WHERE a.notification_id = o.id AND a.outcome = 'lost')}), 0, 'each further claim has a lost attempt on record');
is($node->safe_psql('postgres', q{SELECT count(*) FROM monitoring.delivery_attempts WHERE outcome = 'response'}), $deliveries, 'and each delivery its response');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal (11|6)/, 'no crash but those');

$node->stop;
$receiver->kill_kill(grace => 1);
done_testing();
