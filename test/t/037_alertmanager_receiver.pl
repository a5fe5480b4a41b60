# Alerts sent to a real Alertmanager: they arrive, stay as long as they fire, acknowledged or not, end there when they end here,
# and end by themselves when nothing is heard of us. test/run installs Alertmanager.
use strict;
use warnings;

use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my ($program) = grep { -x } map { my $d = $_; map { "$d/$_" } 'prometheus-alertmanager', 'alertmanager' } split(/:/, $ENV{PATH});
plan skip_all => 'no Alertmanager to send to' unless $program;

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $directory = $PostgreSQL::Test::Utils::tmp_check;

my $port = PostgreSQL::Test::Cluster::get_free_port();
append_to_file("$directory/alertmanager.yml", "route: {receiver: none}\nreceivers: [{name: none}]\n");
my $alertmanager = IPC::Run::start([ $program, "--config.file=$directory/alertmanager.yml", "--storage.path=$directory/alertmanager",
		"--web.listen-address=127.0.0.1:$port", '--cluster.listen-address=' ],
	'<', \undef, '>', "$directory/log/alertmanager.log", '2>&1', IPC::Run::timeout($timeout * 5));
my $http = HTTP::Tiny->new(timeout => 10);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
monitoring.external_url = 'https://pg.example.com'
max_worker_processes = 16
CONF
$node->start;
# Six seconds between signs of life, twenty-four to live: time for a busy machine.
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION monitoring;
CREATE TABLE breach (host text, value float8);
GRANT SELECT ON breach TO PUBLIC;
SELECT monitoring.create_receiver('am', 'alertmanager', 'http://127.0.0.1:$port', '{"keep_alive_seconds": 6}');
SELECT monitoring.create_alert_rule('Breach', NULL, NULL, '1 minute', '>', 0, kind => 'sql', severity => 'high', receivers => '{am}', runbook_url => 'https://run.example.com/breach',
	annotations => '{"summary": "\\"{{host}}\\" <b>", "my.note": "x"}', extra_labels => '{"my.label": "y"}',
	params => '{"query": "SELECT host, value FROM public.breach"}') IS NOT NULL;
SQL

# What Alertmanager has by that name of a host, once it is as wanted.
sub alert
{
	my ($host, $wanted) = @_;
	for (my $end = time() + $timeout; time() < $end; usleep(100_000))
	{
		my $response = $http->get("http://127.0.0.1:$port/api/v2/alerts");
		next unless $response->{success};
		my ($alert) = grep { $_->{labels}{host} eq $host } @{ decode_json($response->{content}) };
		return $alert // {} if $wanted->($alert);
	}
	return undef;
}
sub now { return strftime('%Y-%m-%dT%H:%M:%S', gmtime) }

$node->safe_psql('postgres', q{INSERT INTO breach VALUES ('db1', 1), ('db2', 1)});
my $alert = alert('db1', sub { $_[0] });
is_deeply($alert->{labels}, { alertname => 'Breach', severity => 'high', host => 'db1', my_label => 'y' }, 'an alert arrives with its labels');
is($alert->{annotations}{summary}, '"db1" <b>', 'and with its annotations as they are');
is($alert->{annotations}{my_note}, 'x', 'under names that Alertmanager takes');
like($alert->{generatorURL}, qr{^https://pg\.example\.com/#/alerts/\d+$}, 'and with a link to us');
ok(alert('db2', sub { $_[0] }), 'so does the other one of its group');

my $first = $alert->{endsAt};
ok(alert('db1', sub { $_[0] && $_[0]{endsAt} gt $first }), 'it is kept alive');
$node->safe_psql('postgres', q{SELECT monitoring.acknowledge_alerts('{"alertname": "Breach"}')});
ok(alert('db1', sub { $_[0] && now() gt $first }), 'it lives longer than it was said at first, also when it is acknowledged');

$node->safe_psql('postgres', q{UPDATE breach SET value = 0 WHERE host = 'db1'});
ok(alert('db1', sub { !$_[0] }), 'it ends there when it ends here');
my $other = alert('db2', sub { $_[0] });
cmp_ok(now(), 'lt', $other->{endsAt}, 'before it would have ended by itself');
ok($other, 'the other one stays');

$node->safe_psql('postgres', q{SELECT monitoring.enable_receiver('am', false)});
ok(alert('db2', sub { !$_[0] }), 'when we are silent, alerts end by themselves');
# Many at once: more than one notification lists, and none of them would end by itself for forty minutes.
sub hosts
{
	my $response = $http->get("http://127.0.0.1:$port/api/v2/alerts");
	return $response->{success} ? scalar(grep { $_->{labels}{host} =~ /^many/ } @{ decode_json($response->{content}) }) : -1;
}
sub wait_for_hosts
{
	my ($n) = @_;
	for (my $end = time() + $timeout; hosts() != $n && time() < $end; usleep(100_000)) { }
	return hosts();
}
$node->safe_psql('postgres', q{SELECT monitoring.alter_receiver('am', '{"keep_alive_seconds": 600}'), monitoring.enable_receiver('am');
	INSERT INTO breach SELECT 'many' || n, 1 FROM generate_series(1, 350) AS n});
is(wait_for_hosts(350), 350, 'hundreds of alerts arrive');
$node->safe_psql('postgres', q{UPDATE breach SET value = 0 WHERE host ~ '^many'});
is(wait_for_hosts(0), 0, '... and end there when all of them end at once');
ok(alert('db2', sub { $_[0] }), '... but for the one that goes on');

is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT state, ',') FROM monitoring.notifications WHERE state NOT IN ('sent', 'superseded')}), '', 'all that was sent was accepted');

$alertmanager->kill_kill(grace => 2);
$node->stop;
done_testing();
