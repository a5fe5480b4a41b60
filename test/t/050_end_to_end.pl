# The main job from end to end: an application records metrics, the worker
# notices the breach and a slow statement, and a request arrives over HTTP.

use strict;
use warnings;

use FindBin;
use IPC::Run;
use JSON::PP;
use JsonLines;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pg_stat_statements, monitoring'
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
monitoring.slow_query_threshold = '200ms'
max_worker_processes = 16
CONF
$node->start;

my $log = $PostgreSQL::Test::Utils::tmp_check . '/requests.jsonl';
my ($in, $out) = ('', '');
my $receiver = IPC::Run::start([ 'python3', "$FindBin::Bin/../lib/http_receiver.py", $log, 0 ], '<', \$in, '>', \$out,
	IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
IPC::Run::pump($receiver) until $out =~ /port (\d+)\n/;
my $port = $1;

# Requests at /hook whose body names the alert and the status.
sub arrived
{
	my ($alert, $status) = @_;
	return grep {
		my $body = eval { decode_json($_->{body}) } // {};
		$body->{status} eq $status && grep { $_->{labels}{alertname} eq $alert } @{ $body->{alerts} }
	} grep { $_->{path} eq '/hook' } json_lines($log);
}

sub wait_for_request
{
	my ($alert, $status, $seconds) = @_;
	my $end = time() + $seconds;
	while (time() < $end)
	{
		return 1 if arrived($alert, $status);
		usleep(20_000);
	}
	return 0;
}

$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements; CREATE EXTENSION monitoring');
ok($node->poll_query_until('postgres', q{
	SELECT count(*) > 0 FROM monitoring.status WHERE job = 'evaluate_alerts' AND runs > 0}),
	'CREATE EXTENSION starts a worker that runs the jobs');

$node->safe_psql('postgres', qq{
	SELECT monitoring.create_receiver('hook', 'webhook', 'http://127.0.0.1:$port/hook');
	SELECT monitoring.create_alert_rule('slow checkout', 'checkout_seconds', 'p95', '10 seconds', '>', 0.5, by => '{route}', receivers => '{hook}');
	SELECT monitoring.create_slow_query_rule('slow statement', '200 ms', receivers => '{hook}');});

# A breach recorded by the application, in a transaction that rolls back.
my $start = time();
$node->safe_psql('postgres', q{
	BEGIN;
	SELECT monitoring.record('checkout_seconds', 2, '{"route": "/pay"}') FROM generate_series(1, 100);
	ROLLBACK});
ok(wait_for_request('slow checkout', 'firing', $PostgreSQL::Test::Utils::timeout_default), 'the receiver is told of the breach');
my $latency = time() - $start;
note(sprintf 'from breach to request: %.2f s', $latency);
is($node->safe_psql('postgres', q{SELECT state, labels->>'route' FROM monitoring.alerts WHERE rule = 'slow checkout'}),
	'firing|/pay', 'the alert fires for its route');

# It resolves when the breach has left the window and the data is good.
ok($node->poll_query_until('postgres', q{
	SELECT count(monitoring.record('checkout_seconds', 0.01, '{"route": "/pay"}')) >= 0
	   AND (SELECT state FROM monitoring.alerts WHERE rule = 'slow checkout') = 'resolved'
	FROM generate_series(1, 5000)}), 'the alert resolves');
ok(wait_for_request('slow checkout', 'resolved', $PostgreSQL::Test::Utils::timeout_default), 'the receiver is told of the resolution');

# A slow statement of the application's
$node->safe_psql('postgres', q{SELECT pg_sleep(0.1)}) for 1 .. 2;
$node->safe_psql('postgres', q{SELECT 'checkout report', pg_sleep(0.4)}) for 1 .. 2;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM monitoring.slow_queries WHERE query LIKE '%pg_sleep%' AND calls >= 1}),
	'the slow statement is found, and only that one');
ok(wait_for_request('slow statement', 'firing', $PostgreSQL::Test::Utils::timeout_default), 'and told of');
is($node->safe_psql('postgres', q{SELECT count(*) FROM monitoring.slow_queries WHERE query LIKE '%monitoring.%'}), '0',
	'our own work is not among them');

# Every notification was sent once and its outcome recorded.
ok($node->poll_query_until('postgres', q{SELECT bool_and(state = 'sent' AND attempts = 1 AND http_status = 200) FROM monitoring.notifications}),
	'all notifications are recorded as sent');

# DROP EXTENSION under load, then all over again
my $load = $node->background_psql('postgres', on_error_stop => 0);
$load->{stdin} .= "SELECT count(monitoring.record('load', i)) FROM generate_series(1, 200000) i;\n";
$load->{run}->pump_nb;
$node->safe_psql('postgres', 'DROP EXTENSION monitoring');
$load->quit;
$node->safe_psql('postgres', q{CREATE EXTENSION monitoring; SELECT monitoring.increment('again_total')});
ok($node->poll_query_until('postgres', q{SELECT persisted >= 1 FROM monitoring.self}), 'a new extension is served by a new worker');
is($node->safe_psql('postgres', q{SELECT monitoring.value('again_total', 'sum')}), '1', 'and starts empty');

# A database that goes away under load
$node->safe_psql('postgres', 'CREATE DATABASE gone');
$node->safe_psql('gone', q{CREATE EXTENSION monitoring; SELECT monitoring.increment('x_total')});
ok($node->poll_query_until('gone', q{SELECT persisted >= 1 FROM monitoring.self}), 'a second database is served');
$node->safe_psql('postgres', 'DROP DATABASE gone');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'gone'}), '0', 'DROP DATABASE succeeds with workers running');

$receiver->kill_kill(grace => 1);
$node->stop('fast');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal 11|was terminated by signal/, 'no crash in the log');
done_testing();
