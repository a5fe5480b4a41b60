# Delivery of notifications on a real server: requests as they arrive, retries, safety rules, the sender's and the
# notifier's death, DROP EXTENSION. The dispatch job is called by hand where the worker does not run it, so that
# this test depends on nothing but the notify slice and the tables it reads.
use strict;
use warnings;

use FindBin;
use JSON::PP;
use JsonLines;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;

my $node = PostgreSQL::Test::Cluster->new('notify');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.allowed_hosts = '127.0.0.1, localhost'
monitoring.allow_private_networks = on
max_worker_processes = 16
log_min_messages = log
log_statement = none
CONF
$node->start;
# Alerts come from this test alone.
$node->safe_psql('postgres', q{
	BEGIN;
	CREATE EXTENSION monitoring;
	UPDATE monitoring.jobs SET enabled = false WHERE name = 'evaluate_alerts';
	COMMIT});

# ---- helpers ----

my $log = $PostgreSQL::Test::Utils::tmp_check . '/receiver.jsonl';
our %receiver;

sub start_receiver
{
	my ($port) = @_;
	my ($in, $out) = ('', '');
	$receiver{timer} = IPC::Run::timeout($timeout);
	$receiver{handle} = IPC::Run::start([ 'python3', "$FindBin::Bin/../lib/http_receiver.py", $log, $port // 0 ],
		'<', \$in, '>', \$out, $receiver{timer});
	IPC::Run::pump($receiver{handle}) until $out =~ /port (\d+)\n/;
	$receiver{timer}->reset;
	return $1;
}

sub stop_receiver
{
	$receiver{handle}->kill_kill(grace => 1);
}

# What arrived at a path, in order.
sub requests
{
	my ($path) = @_;
	return grep { $_->{path} eq $path } json_lines($log);
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Poll a query until it returns the expected text, dispatching meanwhile.
sub wait_for
{
	my ($query, $expected, $name, $seconds) = @_;
	my $end = time() + ($seconds // $timeout);
	my $got = '';
	while (time() < $end)
	{
		$got = sql("SELECT monitoring.notify_dispatch(clock_timestamp()); $query") =~ s/^\n//r;
		return pass($name) if $got eq $expected;
		usleep(50_000);
	}
	is($got, $expected, $name);
	return;
}

my $port = start_receiver();
my $url = "http://127.0.0.1:$port";

sub create
{
	my ($name, $path, $config, $kind) = @_;
	$config //= '{}';
	$kind //= 'webhook';
	sql("SELECT monitoring.create_receiver('$name', '$kind', '$url$path', '$config')");
	return;
}

sub outcome
{
	my ($id, $columns) = @_;
	return "SELECT $columns FROM monitoring.notifications WHERE id = $id";
}

sub test_message { return sql("SELECT monitoring.test_receiver('$_[0]')"); }

# ---- what arrives ----

create('hook', '/hook', '{"headers": {"X-Team": "shop"}}');
create('chat', '/chat?token=secret', '{}', 'slack');

sql(q{
	INSERT INTO monitoring.alert_rule_defs (name, metric, fn, over, op, threshold, severity, owner, receivers)
	VALUES ('High <latency> & errors', 'latency', 'p95', '5 minutes', '>', 0.5, 'high', 'postgres', '{hook,chat,order,latest}')});
# On dates that retention would drop.
sql(q{UPDATE monitoring.retention_policies SET enabled = false});
sql(q{SELECT monitoring.ensure_partition('alert_history', '2026-01-02 03:04:05+00')});

# One history row of the rule; returns its id.
sub transition
{
	my ($alert, $from, $to, $route, $at) = @_;
	return sql(qq{
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state,
			to_state, reason, value, threshold, op, annotations, active_at, fired_at, fingerprint)
		SELECT '$at', $alert, d.id, d.name, 'high', l, l, '$from', '$to', 'breach', 0.75, 0.5, '>',
			'{"summary": "p95 of \\"$route\\" is <!channel> 0.75", "runbook_url": "https://example.com/r"}', '$at',
			CASE '$to' WHEN 'pending' THEN NULL ELSE least('$at', timestamptz '2026-01-02 03:04:05.678+00') END, 'fp$alert'
		FROM monitoring.alert_rule_defs AS d CROSS JOIN jsonb_build_object('route', '$route') AS l
		WHERE d.name = 'High <latency> & errors' RETURNING id});
}

my @fired = (transition(1, 'pending', 'firing', '/cart', '2026-01-02 03:04:05.678+00'),
	transition(2, 'pending', 'firing', '/pay', '2026-01-02 03:04:05.678+00'));
my $pending = transition(3, 'inactive', 'pending', '/home', '2026-01-02 03:04:05.678+00');
is(sql("SELECT monitoring.route_alerts('{$fired[0],$fired[1],$pending}', '2026-01-02 03:04:05.678+00')"),
	2, 'two alerts of one rule are one notification for each receiver; pending is none');
wait_for(q{SELECT count(*) FROM monitoring.notifications WHERE state = 'sent' AND http_status = 200 AND attempts = 1
	AND latency > 0 AND sent_at IS NOT NULL}, 2, 'both are delivered');

my @got = requests('/hook');
is(scalar(@got), 1, 'the webhook got one request');
my $body = decode_json($got[0]{body});
my %labels = (alertname => 'High <latency> & errors', severity => 'high');
my %annotations = (runbook_url => 'https://example.com/r', value => '0.75');
is_deeply($body, {
		version => '4', groupKey => '{}:{alertname="High <latency> & errors"}', truncatedAlerts => 0,
		status => 'firing', receiver => 'hook', externalURL => '', notification_reason => 'first notification',
		groupLabels => { alertname => 'High <latency> & errors' },
		commonLabels => {%labels}, commonAnnotations => {%annotations},
		alerts => [
			map { {
					status => 'firing', labels => { %labels, route => $_->[1] },
					annotations => { %annotations, summary => qq{p95 of "$_->[1]" is <!channel> 0.75} },
					startsAt => '2026-01-02T03:04:05.678Z', endsAt => '0001-01-01T00:00:00Z',
					generatorURL => '', fingerprint => "fp$_->[0]" } } ([ 1, '/cart' ], [ 2, '/pay' ]) ] },
	'its body is that of Alertmanager\'s webhook, version 4');
is($got[0]{method}, 'POST', 'method');
is($got[0]{headers}{'content-type'}, 'application/json', 'content type');
is($got[0]{headers}{'x-team'}, 'shop', 'own header');
is($got[0]{headers}{'idempotency-key'},
	sql(q{SELECT idempotency_key FROM monitoring.notifications WHERE receiver = 'hook'}), 'idempotency key');

@got = requests('/chat?token=secret');
$body = decode_json($got[0]{body});
is($body->{blocks}[0]{text}{text}, '[FIRING:2] High &lt;latency&gt; &amp; errors', 'slack: header');
is($body->{blocks}[1]{text}{text}, "*p95 of \"/cart\" is &lt;!channel&gt; 0.75*\nvalue 0.75 (threshold > 0.5)\nroute=/cart, severity=high" =~ s/> 0\.5/&gt; 0.5/r . "\n<https://example.com/r|Runbook>",
	'slack: section, unable to mention anybody');
is(scalar(@{ $body->{blocks} }), 3, 'slack: a section for each alert');
like($body->{text}, qr/^\[FIRING:2\] High &lt;latency&gt;/, 'slack: fall-back text');
is(sql(q{SELECT url FROM monitoring.receivers WHERE name = 'chat'}), "$url/...", 'the view shows no token');
is(sql(q{SELECT config FROM monitoring.receivers WHERE name = 'hook'}), '{"headers": "***"}', 'nor headers');

my @resolved = map { transition($_->[0], 'firing', 'resolved', $_->[1], '2026-01-02 03:14:05+00') } ([ 1, '/cart' ], [ 2, '/pay' ]);
sql("SELECT monitoring.route_alerts('{$resolved[0],$resolved[1]}', '2026-01-02 03:14:05+00')");
wait_for(q{SELECT count(*) FROM monitoring.notifications WHERE state = 'sent' AND status = 'resolved'}, 2, 'resolved is delivered');
$body = decode_json((requests('/hook'))[1]{body});
is(join(' ', $body->{status}, @{ $body->{alerts}[0] }{qw(status startsAt endsAt)}),
	'resolved resolved 2026-01-02T03:04:05.678Z 2026-01-02T03:14:05.000Z', 'its status, start and end');

# ---- outcomes ----

create('gone', '/status/404');
my $id = test_message('gone');
wait_for(outcome($id, 'state, attempts, http_status, error'), 'dead|1|404|HTTP status 404', '404 is given up at once');

create('flaky', '/fail/2/500');
$id = test_message('flaky');
wait_for(outcome($id, 'state, attempts, http_status'), 'sent|3|200', '500 is tried again until it works');
my %keys = map { $_->{headers}{'idempotency-key'} => 1 } requests('/fail/2/500');
is(scalar(keys %keys), 1, 'with the same idempotency key');
is(sql("SELECT string_agg(concat_ws(' ', attempt, outcome, http_status), ', ' ORDER BY attempt) FROM monitoring.delivery_attempts WHERE notification_id = $id"),
	'1 response 500, 2 response 500, 3 response 200', 'every attempt is on record');

create('broken', '/status/503', '{"max_attempts": 2}');
$id = test_message('broken');
wait_for(outcome($id, 'state, attempts, error'), 'dead|2|HTTP status 503; given up (attempts: 2)', 'attempts are bounded');

for my $mode ('retry', 'retry-date')
{
	create($mode, "/$mode/3");
	$id = test_message($mode);
	wait_for(outcome($id, 'state, attempts, http_status'), 'sent|2|200', "429 ($mode) is tried again");
	@got = requests("/$mode/3");
	cmp_ok($got[1]{time} - $got[0]{time}, '>=', $mode eq 'retry' ? 3 : 1.5, '... not before Retry-After');
}

create('moved', '/redirect');
$id = test_message('moved');
wait_for(outcome($id, 'state, http_status, error'), 'dead|302|HTTP status 302: redirects are not followed', 'a redirect is refused');
is(scalar(requests('/redirected')), 0, '... and not followed');

create('endless', '/endless');
$id = test_message('endless');
wait_for(outcome($id, 'state, http_status'), 'sent|200', 'an endless body is cut off');

for my $mode ('bigheaders', 'reset', 'garbage')
{
	create($mode, "/$mode", '{"max_attempts": 1}');
	$id = test_message($mode);
	wait_for(outcome($id, 'state, http_status, error IS NOT NULL'), 'dead||t', "$mode: no response");
}

# ---- down, hanging ----

my $spare = PostgreSQL::Test::Cluster::get_free_port();
sql("SELECT monitoring.create_receiver('down', 'webhook', 'http://127.0.0.1:$spare/down')");
$id = test_message('down');
wait_for(outcome($id, 'state IN (\'failed\', \'sending\') AND attempts >= 2'), 't', 'a receiver that is down is tried again');
like(sql(outcome($id, 'error')), qr/connect/, 'with a reason');
{
	local %receiver;
	my $other = start_receiver($spare);
	wait_for(outcome($id, 'state, http_status'), 'sent|200', '... and delivered to when it is up');
	stop_receiver();
}

create('hanging', '/hang', '{"timeout_seconds": 30, "max_attempts": 1}');
my @hanging = map { test_message('hanging') } 1 .. 12;
wait_for(q{SELECT count(*) > 0 FROM monitoring.notifications WHERE receiver = 'hanging' AND state = 'sending'}, 't', 'a receiver hangs');
create('beside', '/beside');
sql(q{SELECT monitoring.test_receiver('beside') FROM generate_series(1, 100)});
wait_for(q{SELECT count(*) FROM monitoring.notifications WHERE receiver = 'beside' AND state = 'sent'}, 100, 'the one beside it gets all');
is(sql(outcome($hanging[11], 'state')), 'queued', '... before the hanging one is done');
sql(q{SELECT monitoring.drop_receiver('hanging')});
is(sql(q{SELECT count(*) FROM monitoring.notifications WHERE receiver = 'hanging' AND state <> 'dead'}), 0, 'dropping a receiver gives up its queue');
create('impatient', '/hang?briefly', '{"timeout_seconds": 1, "max_attempts": 1}');
wait_for(outcome(test_message('impatient'), 'state, error'), 'dead|no response within 1 s; given up (attempts: 1)', 'one that hangs times out');

# ---- order ----

create('order', '/fail/2/500?order');
create('latest', '/fail/2/500?latest');
sql(q{UPDATE monitoring.receiver_defs SET enabled = name IN ('order', 'latest')});
my @order = map { transition(9, @$_, '/x', '2026-01-02 04:00:00+00') } ([ 'pending', 'firing' ], [ 'firing', 'resolved' ], [ 'pending', 'firing' ]);
# messages that are no states of a group, such as digests, are each sent
sql('BEGIN; '
	  . join('', map { "SELECT monitoring.route_alerts('{$_}', '2026-01-02 04:00:00+00');" } @order)
	  . q{UPDATE monitoring.outbox SET payload = payload || '{"digest": {}}' WHERE receiver = 'order' AND state = 'queued'; COMMIT});
wait_for(q{SELECT count(*) FROM monitoring.notifications WHERE receiver = 'order' AND state = 'sent'}, 3, 'three messages of one group');
is(join(' ', map { decode_json($_->{body})->{status} } requests('/fail/2/500?order')),
	'firing firing firing resolved firing', 'arrive in order, although the first had to be tried again');
wait_for(q{SELECT string_agg(DISTINCT state || ' ' || status, ', ') FROM monitoring.notifications WHERE receiver = 'latest'},
	'sent firing, superseded firing, superseded resolved', 'of three changes of one alert the last stands for all');
is(join(' ', map { decode_json($_->{body})->{status} } requests('/fail/2/500?latest')), 'firing firing firing', '... until it has arrived');
sql(q{SELECT monitoring.enable_receiver(name) FROM monitoring.receiver_defs});

# ---- a formatter that fails, a kind of one's own ----

sql(q{
	CREATE ROLE formatter_owner;
	CREATE SCHEMA own AUTHORIZATION formatter_owner;
	SET ROLE formatter_owner;
	CREATE FUNCTION own.format(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE sql AS $$ SELECT 'PUT', receiver ->> 'url', '{}'::jsonb, current_user || ' ' || (notification ->> 'status') $$;
	CREATE FUNCTION own.format_bad(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN QUERY SELECT 'PUT', receiver ->> 'url', '{}'::jsonb, current_user::text; END $$;
	CREATE FUNCTION own.format_header(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE sql AS $$ SELECT 'POST', receiver ->> 'url', jsonb_build_object('X-A', E'b\r\nX-Evil: 1'), '' $$;
	RESET ROLE;
	INSERT INTO monitoring.receiver_kinds (kind, function, owner) VALUES ('own', 'own.format', 'formatter_owner'),
		('bad', 'own.format_bad', 'formatter_owner'), ('header', 'own.format_header', 'formatter_owner')});
create('mine', '/mine', '{}', 'own');
$id = test_message('mine');
wait_for(outcome($id, 'state'), 'sent', 'a kind of one\'s own');
is((requests('/mine'))[0]{body}, 'formatter_owner firing', '... runs as its owner');
is((requests('/mine'))[0]{method}, 'PUT', '... with its method');
create('bad', '/bad', '{}', 'bad');
$id = test_message('bad');
wait_for(outcome($id, 'state, error'), 'dead|the formatter failed with SQLSTATE 42501', '... and cannot become somebody else');
create('evil', '/evil', '{}', 'header');
$id = test_message('evil');
wait_for(outcome($id, 'state, error'), 'dead|the method or a header is malformed', 'a header with a line break is refused');
is(scalar(requests('/evil')), 0, '... and nothing is sent');

# ---- where it may go ----

sub reload_with
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	$node->poll_query_until('postgres', "SELECT current_setting('$name') = '$value'") or die "$name was not reloaded";
	return;
}

# The notifier may still be between two looks at its settings: what counts is that the rule holds from then on.
sub wait_for_refusal
{
	my ($name, $error) = @_;
	my $end = time() + $timeout;
	my $got = '';
	while ($got ne "dead||$error" && time() < $end)
	{
		my $n = test_message($name);
		$node->poll_query_until('postgres', "SELECT monitoring.notify_dispatch(clock_timestamp()) IS NOT NULL AND state IN ('sent', 'dead') FROM monitoring.notifications WHERE id = $n");
		$got = sql(outcome($n, 'state, http_status, error'));
	}
	return $got;
}

create('local', '/local');
$id = test_message('local');
wait_for(outcome($id, 'state'), 'sent', 'loopback is allowed by setting');
reload_with('monitoring.allow_private_networks', 'off');
is(wait_for_refusal('local', 'address 127.0.0.1 is not public and monitoring.allow_private_networks is off'),
	'dead||address 127.0.0.1 is not public and monitoring.allow_private_networks is off',
	'and refused without it, kept-alive connections included');
my $before = scalar(requests('/local'));
$id = test_message('local');
wait_for(outcome($id, 'state'), 'dead', 'refused again');
is(scalar(requests('/local')), $before, 'nothing reaches the receiver');
for my $host ('localhost', '2130706433', '[::ffff:127.0.0.1]')
{
	reload_with('monitoring.allowed_hosts', '*');
	sql("SELECT monitoring.create_receiver('at $host', 'webhook', 'http://$host:$port/$host')");
	$id = test_message("at $host");
	wait_for(outcome($id, q{state, error ~ 'address .* is not public'}), 'dead|t', "loopback as $host is refused");
}
reload_with('monitoring.allow_private_networks', 'on');
$id = test_message('local');
wait_for(outcome($id, 'state'), 'sent', 'and allowed again after a reload');
reload_with('monitoring.allowed_hosts', 'example.com, *.example.org');
is(wait_for_refusal('local', "$url is not in monitoring.allowed_hosts"),
	"dead||$url is not in monitoring.allowed_hosts", 'a host that is not listed is refused');
reload_with('monitoring.allowed_hosts', '127.0.0.1');

# ---- death and return ----

# Pids of the senders that belong to this server's notifiers.
sub senders
{
	my @notifiers = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring notifier'});
	return map { split /\s+/, `pgrep -P $_ -x monitoring_send` } @notifiers;
}

create('slow', '/hang?slow', '{"timeout_seconds": 30, "max_attempts": 3}');
$id = test_message('slow');
wait_for(outcome($id, 'state, attempts'), 'sending|1', 'a notification is under way');
my $tries = 0;
usleep(50_000) until requests('/hang?slow') >= 1 || $tries++ > 20 * $timeout;
my @senders = senders();
is(scalar(@senders), 1, 'one sender runs');
kill 'KILL', @senders;
$tries = 0;
usleep(50_000) until requests('/hang?slow') >= 2 || $tries++ > 20 * $timeout;
@got = requests('/hang?slow');
is($got[1]{headers}{'idempotency-key'}, $got[0]{headers}{'idempotency-key'}, 'the sender is killed: sent again with the same key');
is(sql("SELECT outcome, error FROM monitoring.delivery_attempts WHERE notification_id = $id"),
	'lost|the sender ended before it answered', 'the lost attempt is on record');

my $notifier = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring notifier'});
@senders = senders();
sql("SELECT pg_terminate_backend($notifier)");
$tries = 0;
while (requests('/hang?slow') < 3 && $tries++ < 10 * $timeout)
{
	sql('SELECT monitoring.notify_dispatch(clock_timestamp())');
	usleep(100_000);
}
@got = requests('/hang?slow');
is($got[2]{headers}{'idempotency-key'}, $got[0]{headers}{'idempotency-key'}, 'the notifier is terminated: sent again with the same key');
$tries = 0;
usleep(50_000) while (grep { kill 0, $_ } @senders) && $tries++ < 20 * $timeout;
is(scalar(grep { kill 0, $_ } @senders), 0, 'its sender went with it');
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'monitoring notifier'}), 1, 'one notifier runs');

# ---- DROP EXTENSION ----

$node->safe_psql('postgres', 'DROP EXTENSION monitoring CASCADE');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'monitoring notifier'}),
	'the notifier leaves when the extension is dropped');
sql('CREATE EXTENSION monitoring');
create('again', '/again');
$id = test_message('again');
wait_for(outcome($id, 'state'), 'sent', 'and works when it is created again');

# It has nothing to do now and leaves by itself.
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'monitoring notifier'}),
	'an idle notifier exits');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal 11|secret/, 'no crash and no secret in the log');

# ---- libcurl stays outside the server ----

my $libdir = $node->config_data('--pkglibdir');
unlike(scalar(`nm -D $libdir/monitoring.so`), qr/curl/, 'the library has no symbol of libcurl');
unlike(scalar(`ldd $libdir/monitoring.so`), qr/curl/, 'nor is it linked with it');

$node->stop;
stop_receiver();
done_testing();
