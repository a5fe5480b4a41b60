# Secrets of health checks, from where they are kept into requests; and when there is a prober, and what is told when there
# can be none.
use strict;
use warnings;

use FindBin;
use JSON::PP;
use JsonLines;
use MIME::Base64;
use PostgreSQL::Test::Utils;
use SecretsNode;
use SenderClient;
use Test::More;
use Time::HiRes qw(sleep time);

my $tmp = $PostgreSQL::Test::Utils::tmp_check;

$ENV{MONITORING_SECRET_PROBE} = "env \"$stamp\" \\&/";
my ($node, $secrets) = start_secrets_node('health');
secret_file('password', "file $stamp\n");
sub is_running { return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'monitoring prober'}); }

make_certificates("$tmp/certs");
my $url = 'http://127.0.0.1:' . start_receiver();
my $tls = 'https://127.0.0.1:' . start_receiver("$tmp/certs/good.pem", "$tmp/certs/ca.pem");

# ---- when there is a prober ----

$node->poll_query_until('postgres', q{SELECT runs > 0 FROM monitoring.status WHERE job = 'health_checks'}) or die;
is(is_running(), '0', 'while nothing is to be probed there is no prober');
is(sql('SELECT monitoring.next_probe_in(now()) IS NULL'), 't', '... and nothing is due');
sql(qq{SELECT monitoring.create_health_check('one', 'http', '{"url": "$url/one"}', every => '1 minute'), monitoring.wake_prober()});
$node->poll_query_until('postgres', q{SELECT status = 'healthy' FROM monitoring.health_status WHERE name = 'one'}) or die;
is(sql(q{SELECT worker_state, pid > 0, job IS NULL FROM monitoring.status WHERE worker = 'prober' AND database = 'postgres'}), 'running|t|t', 'with a check there is one, and status tells');

# It sleeps until a check is due.
sub switches
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m ? $1 : die;
}
my $prober = sql(q{SELECT pid FROM monitoring.status WHERE worker = 'prober'});
my ($sender) = split /\s+/, (run_command([ 'pgrep', '-P', $prober ]))[0];
# now and then the server wakes all of its processes
my @switched;
for (1 .. 5)
{
	my @before = map { switches($_) } $prober, $sender;
	sleep 2;
	@switched = (switches($prober) - $before[0], switches($sender) - $before[1]);
	last if $switched[0] <= 3 && $switched[1] == 0;
}
cmp_ok($switched[0], '<=', 3, 'which sleeps until a check is due');
is($switched[1], 0, '... as its sender does');
sql(q{SELECT monitoring.drop_health_check('one'); SELECT monitoring.wake_prober()});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM monitoring.status WHERE worker = 'prober'}), '... and ends when there is none');

# ---- where secrets go ----

# A kind of somebody's, which keeps what it gets.
sql(q{
	CREATE TABLE public.seen (definition jsonb);
	CREATE FUNCTION public.run_seen(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.seen VALUES (definition);
		RETURN monitoring.run_http_check(at, definition, progress);
	END $$;
	INSERT INTO monitoring.health_check_kinds (kind, function, config_keys, network) VALUES ('seen', 'public.run_seen', '{url,method,headers,body,secrets}', true)});

sub create
{
	my ($name, $kind, $config) = @_;
	my $json = encode_json($config);
	$node->psql('postgres', "SELECT monitoring.create_health_check('$name', '$kind', \$c\$$json\$c\$, retries => 0), monitoring.wake_prober()");
	return;
}
my %places = (method => 'POST', headers => { Authorization => 'Basic {{basic_auth}}', 'X-Token' => 'Bearer {{token}}', 'X-Sign' => 'hmac-sha256:{{token}}' },
	body => '{"password": "{{password}}", "token": "{{token}}"}');
my %given = (token => { environment => 'MONITORING_SECRET_PROBE' }, username => 'probe', password => { file => "$secrets/password" });
create('seen', 'seen', { url => "$url/seen/{{token}}?q={{token}}", %places, secrets => \%given });
create('steps', 'synthetic', { secrets => { login => "plain $stamp" }, steps => [
	{ url => "$url/json", method => 'POST', body => '{"login": "{{login}}"}', save => { token => 'json:$.user.token' } },
	{ url => "$url/second", method => 'POST', headers => { 'X-Token' => '{{token}}', 'X-Login' => '{{login}}' } } ] });
create('unset', 'http', { url => "$url/unset", headers => { 'X-Token' => '{{token}}' }, secrets => { token => { environment => 'MONITORING_SECRET_NONE' } } });
create('later', 'http', { url => "$url/later", headers => { 'X-Token' => '{{token}}' }, secrets => { token => { secret => 'token' } } });
my %client = (ca_file => "$tmp/certs/ca.pem", cert_file => "$tmp/certs/client.crt");
create('certificate', 'http', { url => "$tls/client", %client, key_file => secret_file('client.key', slurp_file("$tmp/certs/client.key")) });
create('no certificate', 'http', { url => "$tls/none", ca_file => "$tmp/certs/ca.pem" });
create('key elsewhere', 'http', { url => "$tls/elsewhere", %client, key_file => "$tmp/certs/client.key" });
$node->poll_query_until('postgres', q{SELECT count(*) = 7 FROM monitoring.health_status WHERE kind IN ('http', 'synthetic', 'seen') AND checked_at IS NOT NULL}) or die;

my ($got) = grep { $_->{path} =~ /^\/seen/ } json_lines(SenderClient::log_file());
my $token = $ENV{MONITORING_SECRET_PROBE};
my $percent = $token =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord $1)/ger;
is($got->{path}, "/seen/$percent?q=$percent", 'in a url a secret is percent-encoded');
is($got->{headers}{'x-token'}, "Bearer $token", 'in a header it is as it is');
is(decode_base64($got->{headers}{authorization} =~ s/^Basic //r), "probe:file $stamp", 'username and password are basic_auth');
like($got->{headers}{'x-sign'}, qr/^[0-9a-f]{64}$/, 'a header can be a signature of the body');
is_deeply(decode_json($got->{body}), { password => "file $stamp", token => $token }, 'in JSON it is escaped');
is(sql(q{SELECT status FROM monitoring.health_status WHERE name = 'seen'}), 'healthy', 'the check with secrets is healthy');
is(sql(qq{SELECT count(*) > 1 AND bool_and(definition::text !~ '$pattern'), bool_and(definition -> 'config' -> 'secrets' ->> 'token' ~ '^[0-9a-f]{32}\$'),
	count(DISTINCT definition -> 'config' -> 'secrets' ->> 'token') = count(*) FROM public.seen}), 't|t|t', 'the kind gets markers, new ones each time');
my ($second) = requests('/second');
is_deeply([ @{ $second->{headers} }{qw(x-token x-login)} ], [ 'a b&c"1', "plain $stamp" ], 'steps have secrets and what earlier ones saved');
is((requests('/client'))[0]{client}, 'client', 'a client with a certificate');
like(sql(q{SELECT status || message FROM monitoring.health_status WHERE name = 'no certificate'}), qr/^unhealthy/, '... and one without');
is(sql(q{SELECT message FROM monitoring.health_status WHERE name = 'key elsewhere'}), 'the file of a secret or key is not in monitoring.secrets_directory', 'its key is a secret');
is(sql(q{SELECT status, message FROM monitoring.health_status WHERE name = 'unset'}),
	'unhealthy|secret "token" cannot be used: its environment variable is not set', 'a variable that is not set');
is(sql(q{SELECT status, message FROM monitoring.health_status WHERE name = 'later'}), 'unhealthy|secret "token" cannot be used: it is not set', 'a secret that is not set');
is(sql(q{SELECT check_name, key, source, reference FROM monitoring.health_check_secrets WHERE check_name IN ('later', 'unset', 'steps') ORDER BY 1}),
	"later|token||\nsteps|login|value|\nunset|token|environment|MONITORING_SECRET_NONE", 'what names which secret, and where it is');
is(scalar(requests('/unset')) + scalar(requests('/later')), 0, '... and nothing was sent');

my $psql = $node->background_psql('postgres', on_error_stop => 1);
$psql->query_safe(q{PREPARE p (text) AS SELECT monitoring.set_check_secret('later', 'token', $1)});
$psql->query_safe("BEGIN; EXECUTE p('bound $stamp')");
is(sql(q{SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'}), '<statement with secrets of monitoring>', 'pg_stat_activity does not show who sets one');
$psql->query_safe('COMMIT; SELECT monitoring.wake_prober()');
$psql->quit;
$node->poll_query_until('postgres', q{SELECT status = 'healthy' FROM monitoring.health_status WHERE name = 'later'}) or die;
is((requests('/later'))[0]{headers}{'x-token'}, "bound $stamp", 'a secret that is set later');

# ---- what others see ----

create('bad', 'http', { url => "$url/", secrets => { token => "literal $stamp\n" } });
create('bad', 'http', { url => "http://{{token}}/", secrets => { token => "literal $stamp" } });
$node->psql('postgres', qq{SELECT monitoring.alter_health_check('steps', '{"config": {"secrets": {"login": "altered $stamp"}}}')});
$node->psql('postgres', qq{SELECT monitoring.alter_health_check('steps', '{"config": {"secrets": {"login": "altered $stamp}}}')});
$node->psql('postgres', "SELECT monitoring.set_check_secret('none', 'token', 'literal $stamp')");
$node->psql('postgres', "SELECT monitoring.set_check_secret('later', 'token', \$1), 1 / 0 \\bind 'bound $stamp' \\g");
my $log = slurp_file($node->logfile);
is(join("\n", grep { /\Q$stamp\E/ } split /\n/, $log), '', 'the log has no secret');
like($log, qr/statement: create_health_check\*\*\*$/m, '... but says who got one');
no_relation_tells('check|health|slow|activity|issue|error', 'check_secrets', 10);
is(sql(q{SELECT config -> 'secrets' FROM monitoring.health_checks WHERE name = 'steps'}), '{"login": "***"}', 'the view shows their names');

my $dump = dump_of('');
unlike($dump, qr/$stamp/, 'a dump has no secret');
like($dump, qr/COPY monitoring\.check_secrets .*environment\tMONITORING_SECRET_PROBE/s, '... but references');
like(dump_of('-c monitoring.dump_secrets=on'), qr/\tvalue\taltered $stamp/, 'on request it has');
sql(q{SELECT monitoring.alter_health_check('steps', '{"config": {"secrets": null, "steps": [{"query": "SELECT 1"}]}}'), monitoring.drop_health_check('seen')});
is(sql(q{SELECT count(*) FROM monitoring.check_secrets WHERE check_name IN ('steps', 'seen')}), '0', 'what names no secret any more has none');

# ---- many that are slow ----

# A hundred queries that take all of their time are no reason for alerts and metrics to be late.
sql(q{SELECT monitoring.create_health_check('quick', 'sql', '{"query": "SELECT true"}', every => '5 seconds', retries => 0);
	SELECT monitoring.create_health_check('slow ' || i, 'sql', '{"query": "SELECT pg_sleep(60)"}', every => '5 seconds', timeout => '3 seconds', retries => 0) FROM generate_series(1, 100) AS i});
my $others = q{FROM monitoring.status WHERE job IN ('flush', 'evaluate_alerts') AND database = 'postgres'};
my $runs = sql("SELECT sum(runs) $others");
my $lag = 0;
my $began = time();
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	my $now = sql("SELECT max(lag) $others");
	$lag = $now if $now > $lag;
	last if sql(q{SELECT count(*) > 0 AND (SELECT count(*) > 1 FROM monitoring.check_results WHERE check_name = 'quick') FROM monitoring.check_results WHERE check_name LIKE 'slow %'}) eq 't';
	select(undef, undef, undef, 0.1);
}
is(sql(q{SELECT DISTINCT message FROM monitoring.health_status WHERE name LIKE 'slow %' AND checked_at IS NOT NULL}), 'canceled because it took longer than 3000 ms', 'one that is slow has all of its time, alone');
cmp_ok(sql(q{SELECT count(*) FROM monitoring.check_results WHERE check_name LIKE 'slow %'}), '<=', 1 + (time() - $began) / 3, '... and others wait');
# all of them at once would take five minutes
cmp_ok($lag, '<', 30, 'alerts and metrics are hardly late');
cmp_ok(sql("SELECT sum(runs) $others"), '>', $runs + 2, '... and go on');
is(sql(q{SELECT status FROM monitoring.health_status WHERE name = 'quick'}), 'healthy', 'so do checks that are quick');
sql(q{SELECT monitoring.drop_health_check(name) FROM monitoring.health_checks WHERE name LIKE 'slow %'});

# ---- no room for a prober ----

# launcher, sampler, the server's own, the database's worker
$node->append_conf('postgresql.conf', 'max_worker_processes = 4');
$node->restart;
$node->poll_query_until('postgres', q{SELECT worker_state = 'no free background worker' FROM monitoring.status WHERE worker = 'prober'}) or die;
pass('status tells that there is no room for a prober');
sql('SELECT monitoring.wake_prober()') for 1 .. 20;
my @told = slurp_file($node->logfile) =~ /could not start the monitoring prober: no free background worker/g;
is(scalar(@told), 1, '... and so does the log, once');
like(sql(q{SELECT d.why FROM monitoring.health_deductions(now() + interval '10 minutes') AS d WHERE d.check_name IS NULL}), qr/have not run since they were due.*monitoring.status/, '... and health, when checks are overdue');
$node->stop;
stop_receivers();
done_testing();
