# Heartbeats with a service that listens: they come while all is well, and stay away, with word of it, when rules are not
# evaluated or notifications do not get through. The job is called by hand where time has to pass.
use strict;
use warnings;

use NotifyNode qw(:DEFAULT sql wait_for);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;

my $node = new_node('heartbeat', "log_statement = all\n", allows_streaming => 1);
$node->start;
my $url = start_receiver();
my $closed = PostgreSQL::Test::Cluster::get_free_port();

# ---- helpers ----

# What the job would do so many seconds from now, an evaluation being so long ago.
sub tick
{
	my ($seconds, $evaluated_before) = @_;
	$evaluated_before //= 0;
	sql("BEGIN; UPDATE monitoring.evaluation_state SET evaluated_at = clock_timestamp() + interval '$seconds seconds' - interval '$evaluated_before seconds';
		SELECT monitoring.send_heartbeats(clock_timestamp() + interval '$seconds seconds'); COMMIT");
	return;
}

sub state { return sql("SELECT concat_ws(' ', state, last_status, lagging) FROM monitoring.heartbeats WHERE name = '$_[0]'"); }

# ---- all is well ----

sql(qq{CREATE EXTENSION monitoring;
	SELECT monitoring.create_receiver('hook', 'webhook', '$url/hook');
	SELECT monitoring.create_heartbeat('alive', '$url/ping/s3cr3t', fail_url => '$url/ping/s3cr3t/fail', config => '{"headers": {"X-From": "db"}}')});
wait_requests('/ping/s3cr3t', 1, 'the worker sends a sign of life');
my ($sign) = requests('/ping/s3cr3t');
is("$sign->{method} $sign->{body} $sign->{headers}{'x-from'}", 'POST ok db', '... as it is to be');
wait_for(q{SELECT state, url, last_status, last_sent > clock_timestamp() - interval '1 minute', next_at > clock_timestamp() FROM monitoring.heartbeats},
	"ok|$url/...|200|t|t", 'the view says so');
sql(q{UPDATE monitoring.jobs SET enabled = false WHERE name = 'heartbeat'});
tick(30);
tick(61);
wait_requests('/ping/s3cr3t', 2, 'the next one comes when it is due');
wait_for(q{SELECT count(*), min(state) FROM monitoring.notifications WHERE receiver = 'alive'}, '1|sent', 'only the last one is kept');

sql(qq{SELECT monitoring.create_heartbeat('get', '$url/get', '10 seconds', config => '{"method": "GET"}')});
tick(65);
wait_requests('/get', 1, 'a heartbeat by GET');
is((requests('/get'))[0]{method} . (requests('/get'))[0]{body}, 'GET', '... has no body');
sql(q{SELECT monitoring.drop_heartbeat('get')});

# ---- alerts do not go there ----

sql(q{SELECT monitoring.create_alert_rule('high', 'load', 'last', '1 hour', '>', 1, severity => 'critical');
	SELECT monitoring.create_alert_rule('named', 'load', 'last', '1 hour', '>', 1, severity => 'critical', receivers => '{hook}');
	SELECT monitoring.set_gauge('load', 5)});
wait_requests('/hook', 2, 'alerts go to receivers');
is(sql(q{SELECT string_agg(DISTINCT receiver, ' ' ORDER BY receiver) FROM monitoring.notifications WHERE status = 'firing'}), 'hook', '... and to no heartbeat');
sql(q{SELECT monitoring.test_receiver('alive')});
wait_for(q{SELECT state, http_status FROM monitoring.notifications WHERE receiver = 'alive' AND status = 'test'}, 'sent|', 'a test of it is no sign of life');
is(scalar(requests('/ping/s3cr3t')), 2, '... and sends nothing');

# ---- a notification does not get through ----

sql(qq{SELECT monitoring.create_receiver('down', 'webhook', 'http://127.0.0.1:$closed/', '{"max_attempts": 100}');
	SELECT monitoring.send('down', 'nobody listens')});
wait_for(q{SELECT attempts > 0 FROM monitoring.notifications WHERE receiver = 'down'}, 't', 'a notification cannot be delivered');
tick(130);
wait_requests('/ping/s3cr3t', 3, 'which is no matter for a while');
wait_for(q{SELECT state FROM monitoring.heartbeats}, 'ok', '... that sign has arrived');
tick(200);
like(state('alive'), qr/^lagging 200 a notification for receiver "down" has been waiting since \S+Z$/, 'then no sign is sent');
tick(205);
wait_requests('/ping/s3cr3t/fail', 1, '... but word of it');
like((requests('/ping/s3cr3t/fail'))[0]{body}, qr/^a notification for receiver "down" has been waiting since \S+Z$/, '... that says why');
tick(210);
tick(266);
wait_requests('/ping/s3cr3t/fail', 2, '... once an interval');
is(scalar(requests('/ping/s3cr3t')), 3, '... and no sign of life');
sql(q{SELECT monitoring.cancel(id) FROM monitoring.notifications WHERE receiver = 'down' AND state = 'failed'; SELECT monitoring.drop_receiver('down')});
tick(270);
wait_requests('/ping/s3cr3t', 4, 'a sign as soon as nothing waits');

# ---- rules are not evaluated ----

sql(q{UPDATE monitoring.jobs SET enabled = false WHERE name = 'evaluate_alerts'});
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM monitoring.worker_status() WHERE job = 'evaluate_alerts'}) or die;
tick(450, 180.5);
like(state('alive'), qr/^lagging 200 alert rules were last evaluated at \S+Z$/, 'no sign while rules are not evaluated');
tick(455, 185.5);
wait_requests('/ping/s3cr3t/fail', 3, '... but word of it');
like((requests('/ping/s3cr3t/fail'))[2]{body}, qr/^alert rules were last evaluated at \S+Z$/, '... that says why');
is(scalar(requests('/ping/s3cr3t')), 4, '... and no sign of life');
sql(q{UPDATE monitoring.jobs SET enabled = true WHERE name IN ('evaluate_alerts', 'heartbeat')});
wait_requests('/ping/s3cr3t', 5, 'a sign by the worker as soon as they are');

# An evaluation that fails is none.
sql(q{UPDATE monitoring.jobs SET enabled = false WHERE name = 'heartbeat'; UPDATE monitoring.evaluation_state SET evaluated_at = clock_timestamp() - interval '4 minutes';
	ALTER TABLE monitoring.evaluation_state ADD CONSTRAINT never CHECK (evaluated_at IS NULL) NOT VALID});
wait_for(q{SELECT last_state FROM monitoring.jobs WHERE name = 'evaluate_alerts'}, 'failed', 'evaluations fail');
sql(q{UPDATE monitoring.heartbeat_states SET due_at = clock_timestamp(); SELECT monitoring.send_heartbeats(clock_timestamp())});
like(state('alive'), qr/^lagging 200 alert rules were last evaluated/, '... and no sign is sent');
sql(q{ALTER TABLE monitoring.evaluation_state DROP CONSTRAINT never});
wait_for(q{SELECT last_state FROM monitoring.jobs WHERE name = 'evaluate_alerts'}, 'ok', 'evaluations work again');

# ---- it does not arrive ----

sql(qq{SELECT monitoring.create_heartbeat('elsewhere', 'https://10.1.2.3/s3cr3t', '10 seconds'); SELECT monitoring.create_heartbeat('moved', '$url/redirect', '10 seconds')});
tick(0);
wait_for(q{SELECT name, state, last_error FROM monitoring.heartbeats WHERE name = 'elsewhere'},
	'elsewhere|failing|https://10.1.2.3:443 is not in monitoring.allowed_hosts', 'a heartbeat goes where receivers may be, and nowhere else');
wait_for(q{SELECT state, last_status, last_error FROM monitoring.heartbeats WHERE name = 'moved'},
	'failing|302|HTTP status 302: redirects are not followed', '... and follows no redirect');

# ---- on a standby ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
my $n = requests('/ping/s3cr3t');
$standby->poll_query_until('postgres', q{SELECT count(*) = 3 FROM monitoring.heartbeats WHERE state = 'standby'}) or die;
pass('a standby says that it sends none');
$node->stop;
$standby->promote;
$standby->safe_psql('postgres', q{UPDATE monitoring.heartbeat_states SET due_at = clock_timestamp(); UPDATE monitoring.jobs SET enabled = true WHERE name = 'heartbeat'});
wait_requests('/ping/s3cr3t', $n + 1, 'the promoted standby goes on');

# ---- secrets ----

is($standby->safe_psql('postgres', q{SELECT count(*) FROM (SELECT h::text AS t FROM monitoring.heartbeats AS h UNION ALL SELECT n::text FROM monitoring.notifications AS n
	UNION ALL SELECT a::text FROM monitoring.delivery_attempts AS a UNION ALL SELECT r::text FROM monitoring.receivers AS r
	UNION ALL SELECT s::text FROM monitoring.secrets AS s UNION ALL SELECT j::text FROM monitoring.jobs AS j) AS all_of_them WHERE t LIKE '%s3cr' || '3t%'}), '0', 'no view shows the token');
unlike(slurp_file($node->logfile) . slurp_file($standby->logfile), qr/s3cr3t/, 'nor does the log');
unlike(slurp_file($node->logfile) . slurp_file($standby->logfile), qr/PANIC|TRAP|terminated by signal 11/, 'no crash');

$standby->stop;
stop_receiver();
done_testing();
