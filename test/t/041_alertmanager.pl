# Side by side with a real Alertmanager: the same routes, the same alerts at the same moments, in real time. Both must
# notify the same groups of the same alerts in the same order, about as early. test/run installs Alertmanager.

use strict;
use warnings;

use FindBin;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use JsonLines;
use List::Util qw(max min);
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my ($program) = grep { -x } map { my $d = $_; map { "$d/$_" } 'prometheus-alertmanager', 'alertmanager' } split(/:/, $ENV{PATH});
plan skip_all => 'no Alertmanager to compare with' unless $program;

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $directory = $PostgreSQL::Test::Utils::tmp_check;

# ---- a server, and one receiver for both: the first part of the path says who sent it ----

my $log = "$directory/requests.jsonl";
my ($in, $out) = ('', '');
my $receiver = IPC::Run::start([ 'python3', "$FindBin::Bin/../lib/http_receiver.py", $log, 0 ], '<', \$in, '>', \$out,
	IPC::Run::timeout($timeout * 5));
IPC::Run::pump($receiver) until $out =~ /port (\d+)\n/;
my $url = "http://127.0.0.1:$1";

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
max_worker_processes = 16
CONF
$node->start;

# What is compared in real time is compared once more, and slower, when the machine did not keep pace: a database and an
# Alertmanager each time.
my ($round, $scale, $database, $alertmanager, $port) = (0);
my $http = HTTP::Tiny->new(timeout => 10);

sub sql { return $node->safe_psql($database, $_[0]); }

# Alerts are the rows of a table.
sub create_database
{
	$node->safe_psql('postgres', "DROP DATABASE IF EXISTS $database WITH (FORCE)") if $database;
	$database = "round$round";
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	sql(<<'SQL');
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false WHERE name = 'evaluate_alerts';
COMMIT;
CREATE TABLE breach (rule text, labels jsonb);
CREATE FUNCTION breaches(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.id, b.labels, 1, NULL::jsonb, NULL::text
	FROM monitoring.alert_rule_defs AS d JOIN public.breach AS b ON b.rule = d.name WHERE d.id = ANY (rule_ids)
	UNION ALL
	SELECT d.id, s.series_labels, 0, NULL, NULL
	FROM monitoring.alert_states AS s JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
	WHERE d.id = ANY (rule_ids) AND s.state <> 'resolved' AND NOT EXISTS (SELECT FROM public.breach AS b WHERE (b.rule, b.labels) = (d.name, s.series_labels))
$$;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('breach', 'public.breaches');
SELECT monitoring.create_alert_rule(n, NULL, NULL, '1 minute', '>', 0, kind => 'breach')
FROM unnest('{collected,flaps,silenced,boss,worker,quiet,now,copied,copied too,short}'::text[]) AS n;
SELECT monitoring.drop_route(n) FROM unnest('{critical,high,medium,low,info}'::text[]) AS n;
SQL
	return;
}

sub evaluation
{
	my $began = time();
	sql('SELECT monitoring.evaluate_alerts()');
	return time() - $began;
}

# ---- the tree, for Alertmanager ----

sub start_alertmanager
{
	my ($wait, $interval, $repeat) = @_;
	my $files = "$directory/alertmanager$round";
	my $hooks = join '', map { <<"YAML" } ([ 'default', 'true' ], [ 'shop', 'true' ], [ 'first', 'true' ], [ 'second', 'false' ]);
- name: $_->[0]
  webhook_configs:
  - url: $url/alertmanager$round/$_->[0]
    send_resolved: $_->[1]
YAML
	append_to_file("$files.yml", <<"YAML");
route:
  receiver: default
  group_by: [alertname]
  group_wait: ${wait}s
  group_interval: ${interval}s
  repeat_interval: ${repeat}s
  routes:
  - matchers: ['team="shop"']
    receiver: shop
    group_by: [alertname, team]
    routes:
    - matchers: ['alertname="quiet"']
      mute_time_intervals: [always]
    - matchers: ['alertname="now"', 'zone!~"b.*"']
      group_wait: 0s
  - matchers: ['alertname=~"copied.*"']
    receiver: first
    continue: true
  - matchers: ['alertname="copied"']
    receiver: second
    group_by: ['...']
time_intervals:
- name: always
  time_intervals:
  - times: [{start_time: '00:00', end_time: '24:00'}]
inhibit_rules:
- source_matchers: ['alertname="boss"']
  target_matchers: ['alertname="worker"']
  equal: [site]
receivers:
$hooks
YAML
	$port = PostgreSQL::Test::Cluster::get_free_port();
	$alertmanager = IPC::Run::start([ $program, "--config.file=$files.yml", "--storage.path=$files",
			"--web.listen-address=127.0.0.1:$port", '--cluster.listen-address=' ],
		'<', \undef, '>', "$directory/log/alertmanager$round.log", '2>&1', IPC::Run::timeout($timeout * 5));
	my $end = time() + $timeout;
	usleep(50_000) until $http->get("http://127.0.0.1:$port/-/ready")->{success} || time() > $end;
	return;
}

sub post
{
	my ($path, $body) = @_;
	my $response = $http->post("http://127.0.0.1:$port/api/v2/$path",
		{ headers => { 'Content-Type' => 'application/json' }, content => encode_json($body) });
	die "$path: $response->{status} $response->{content}" unless $response->{success};
	return;
}

# ---- the tree, for us ----

sub create_tree
{
	my ($wait, $interval, $repeat) = @_;
	my $ours = "$url/ours$round";
	sql("SELECT monitoring.create_receiver('$_', 'webhook', '$ours/$_')") for qw(default shop first);
	sql(qq(SELECT monitoring.create_receiver('second', 'webhook', '$ours/second', '{"send_resolved": false}')));
	sql(<<"SQL");
SELECT monitoring.update_route('root', '{"receivers": ["default"], "group_by": ["alertname"], "group_wait": "$wait s", "group_interval": "$interval s", "repeat_interval": "$repeat s"}');
SELECT monitoring.set_time_interval('always', '{"times": [{"start": "00:00", "end": "24:00"}]}');
SELECT monitoring.create_route('shop', '{"team": "shop"}', receivers => '{shop}', group_by => '{alertname,team}');
SELECT monitoring.create_route('quiet', '{"alertname": "quiet"}', 'shop', mute_times => '{always}');
SELECT monitoring.create_route('now', '{"alertname": "now", "zone": {"!~": "b.*"}}', 'shop', group_wait => '0');
SELECT monitoring.create_route('first', '{"alertname": {"=~": "copied.*"}}', receivers => '{first}', continue_matching => true);
SELECT monitoring.create_route('second', '{"alertname": "copied"}', receivers => '{second}', group_by => '{...}');
SELECT monitoring.create_inhibition_rule('boss', '{"alertname": "boss"}', '{"alertname": "worker"}', '{site}');
SELECT monitoring.evaluate_alerts();
SQL
	return;
}

# ---- both sides of an act: one request, one transaction ----

my $canonical = JSON::PP->new->canonical;
my %active;

sub rfc3339 { my ($t) = @_; return strftime('%Y-%m-%dT%H:%M:%S', gmtime($t)) . sprintf('.%03dZ', ($t - int $t) * 1000); }

# fire => [ name, labels ], ok => [ name, labels ], silence => [ host, seconds ]
sub act
{
	my @alerts;
	my $sql = '';
	while (my ($what, $arguments) = splice @_, 0, 2)
	{
		my ($name, @rest) = @$arguments;
		if ($what eq 'silence')
		{
			post('silences', { matchers => [ { name => 'host', value => $name, isRegex => JSON::PP::false, isEqual => JSON::PP::true } ],
				startsAt => rfc3339(time()), endsAt => rfc3339(time() + $rest[0]), createdBy => 'test', comment => 'test' });
			$sql .= qq(SELECT monitoring.create_silence('{"host": "$name"}', '$rest[0] s', 'test'););
			next;
		}
		my $labels = $canonical->encode({@rest});
		push @alerts, { labels => { @rest, alertname => $name, severity => 'medium' },
			$what eq 'fire' ? (startsAt => rfc3339(time())) : (endsAt => rfc3339(time())) };
		$sql .= $what eq 'fire' ? "INSERT INTO breach VALUES ('$name', '$labels');" : "DELETE FROM breach WHERE rule = '$name' AND labels = '$labels';";
		$what eq 'fire' ? $active{"$name $labels"} = $arguments : delete $active{"$name $labels"};
	}
	post('alerts', \@alerts);
	sql("$sql SELECT monitoring.evaluate_alerts()");
	return;
}

# In units of scale seconds. Everything happens at multiples of four (or thereabouts), and groups are due two later: that this
# machine is slow changes nothing.
# A group that does not wait begins when the others are due.
my @script = (
	[ 0, sub {
		act(silence => [ 's', 8.5 * $scale ], (map { (fire => [ 'collected', team => 'shop', host => $_ ]) } qw(x y)), fire => [ 'flaps', host => 'x' ],
			fire => [ 'silenced', host => 's' ], fire => [ 'boss', site => '1' ], (map { (fire => [ 'worker', site => $_ ]) } '1', '2'),
			fire => [ 'quiet', team => 'shop', host => 'x' ], (map { (fire => [ $_, host => 'x' ]) } 'copied', 'copied too'));
	} ],
	[ 4, sub { act(fire => [ 'collected', team => 'shop', host => 'z' ], ok => [ 'boss', site => '1' ], fire => [ 'copied', host => 'y' ]) } ],
	[ 7.4, sub { act(ok => [ 'flaps', host => 'x' ]) } ],
	[ 8, sub { act(ok => [ 'collected', team => 'shop', host => 'y' ], ok => [ 'copied', host => 'y' ]) } ],
	[ 8.6, sub { act(fire => [ 'flaps', host => 'x' ]) } ],
	[ 12, sub { act(fire => [ 'short', host => 'x' ], fire => [ 'now', team => 'shop', zone => 'b' ]) } ],
	[ 12.6, sub { act(ok => [ 'short', host => 'x' ]) } ],
	[ 14, sub { act(fire => [ 'now', team => 'shop', zone => 'a' ]) } ],
	[ 24, sub { act(map { (ok => $_) } values %active) } ],
	[ 28, sub { act(fire => [ 'collected', team => 'shop', host => 'x' ]) } ]);
my $duration = 33;

sub heard
{
	my ($who, $start) = @_;
	my @got;
	for my $request (json_lines($log))
	{
		my $to = $request->{path} =~ s{^/$who$round/}{}r;
		next if $to eq $request->{path};
		my $body = decode_json($request->{body});
		push @got, { group => "$to $body->{groupKey}", time => $request->{time} - $start,
			text => join(' ', $body->{status}, sort map {
				my $alert = $_;
				'[' . join(' ', (map { "$_=$alert->{labels}{$_}" } grep { !/^(alertname|severity|team)$/ } sort keys %{ $alert->{labels} }), $alert->{status}) . ']'
			} @{ $body->{alerts} }) };
	}
	return sort { $a->{group} cmp $b->{group} || $a->{time} <=> $b->{time} } @got;
}

# ---- play ----

# When it began, and how long the slowest round of evaluating and acting took.
sub play
{
	my @acts = @script;
	my $start = time();
	my ($slowest, $before) = (0, $start);
	while (time() - $start < $duration * $scale)
	{
		if (@acts && time() - $start >= $acts[0][0] * $scale)
		{
			(shift @acts)->[1]->();
		}
		evaluation();
		my $now = time();
		$slowest = max($slowest, $now - $before);
		$before = $now;
		usleep(50_000);
	}
	return ($start, $slowest);
}

# The texts of what was notified, in order.
sub texts { return join "\n", map { "$_->{group}: $_->{text}" } @_; }

my ($delivered, @theirs, @ours, $apart);
while (++$round <= 3)
{
	create_database();
	# On a machine that is busy everything takes its time: all durations grow with what an evaluation takes.
	my $slow = max(map { evaluation() } 1 .. 10);
	$scale = min(4, max(($scale // 0.5) * 2, $slow < 0.3 ? 1 : $slow < 0.7 ? 2 : 4));
	my @durations = map { $_ * $scale } 2, 4, 9;
	start_alertmanager(@durations);
	create_tree(@durations);
	%active = ();
	my ($start, $slowest) = play();
	$delivered = $node->poll_query_until($database, q{SELECT bool_and(state = 'sent') FROM monitoring.notifications});
	@theirs = heard('alertmanager', $start);
	@ours = heard('ours', $start);
	$apart = @ours == @theirs ? max(map { abs($ours[$_]{time} - $theirs[$_]{time}) } 0 .. $#ours) : 999;
	$alertmanager->kill_kill(grace => 5);
	note(sprintf 'scale %d, slowest round: %.2f s', $scale, $slowest);
	note(sprintf '%5.1f s %s: %s', @{$_}{qw(time group text)}) for @theirs;
	last if $slowest < 0.4 * $scale || (texts(@ours) eq texts(@theirs) && $apart < 1.5 * $scale);
}
ok($delivered, 'everything was delivered');
cmp_ok(scalar(@theirs), '>', 20, 'Alertmanager had something to say');
is(texts(@ours), texts(@theirs), 'the same groups are notified of the same alerts in the same order');
cmp_ok($apart, '<', 1.5 * $scale, sprintf('within %.2f s of each other', $apart));

# What the scenario is there for was in it.
my $all = texts(@theirs);
like($all, qr/^shop .*collected.*: firing .*\[host=y resolved\]/m, 'some resolved');
like($all, qr/^default .*worker.*: firing \[site=1 firing\] \[site=2 firing\]/m, 'inhibition that ends');
like($all, qr/^default .*silenced/m, 'a silence that ends');
unlike($all, qr/short|quiet/, 'what ends within group_wait, and what is muted');
is(scalar(() = $all =~ /^second [^\n]*resolved/mg), 0, 'send_resolved: false');

$receiver->kill_kill(grace => 1);
$node->stop;
done_testing();
