# Health checks through the network, against real servers: the probes of the sender program by itself, then the prober, what
# the kinds make of the answers, and what a hung target, a sender that dies and DDL do to it.
use strict;
use warnings;

use FindBin;
use IO::Socket::INET;
use JSON::PP;
use JsonLines;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SenderClient;
use Test::More;

my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $certs = "$tmp/certs";
make_certificates($certs);
my @ca = (ca_file => "$certs/ca.pem");
my $port = start_receiver();
my %tls = map { $_ => start_receiver("$certs/$_.pem") } qw(good expired other self);
my $url = "http://127.0.0.1:$port";
my $closed = PostgreSQL::Test::Cluster::get_free_port();

# ---- the sender ----

my $resolver = "$tmp/resolver.so";
run_log([ 'cc', '-shared', '-fPIC', '-o', $resolver, "$FindBin::Bin/../lib/resolver.c", '-ldl' ]) or die 'resolver';
my $s = start_sender(LD_PRELOAD => $resolver, TEST_HOSTS => 'two.test=127.0.0.1 inner.test=10.1.2.3 slow.test=slow');
read_frame($s);

my $a = try_probe($s, sort => 'h', url => "$url/cookie");
is("$a->{kind} $a->{status} $a->{body}", "r 200 ok\n", 'an answer with its body');
like($a->{headers}, qr/^Set-Cookie: a=b; Path=\/\r$/m, '... and headers');
is($a->{addresses}, '127.0.0.1', '... and the address');
ok($a->{latency} > 0 && $a->{connect} > 0 && $a->{first_byte} > 0 && $a->{tls} == 0 && $a->{connect} + $a->{first_byte} <= $a->{latency}, '... and the times of its phases');
$a = try_probe($s, sort => 'h', url => "$url/endless");
is("$a->{kind} $a->{status} " . length $a->{body}, 'r 200 65536', 'of a body without end a part is read');
is(try_probe($s, sort => 'h', url => "$url/bigheaders")->{error}, 'the response has more than 64 kB of headers', 'headers without end');
is(try_probe($s, sort => 'h', url => "$url/hang", total => 300)->{error}, 'no response within 0.3 s', 'no answer');
is(try_probe($s, sort => 'h', url => "$url/wait/0.1", method => 'HEAD')->{status}, 200, 'HEAD');
is(try_probe($s, sort => 'h', url => "$url/x", hosts => 'a.com')->{kind}, 'x', 'a host that is not allowed');
like(try_probe($s, sort => 'h', url => "$url/x", private => 0)->{error}, qr/^address 127.0.0.1 is not public/, 'an address that is not public');

# Peers that mean no good: each is bounded in time or in what is kept, and is no success.
my %hostile = (
	drip => 'the response did not end within 2 s', dripheaders => 'no response within 2 s', endlessheaders => 'the response has more than 64 kB of headers',
	continue => qr/64 kB of headers|status/i, short => qr/995 bytes (remaining|missing)/, resetbody => qr/reset|recv/i, reset => qr/empty reply|reset/i, garbage => qr/HTTP\/0.9|unsupported|weird/i);
for my $mode (sort keys %hostile)
{
	$a = try_probe($s, sort => 'h', url => "$url/$mode", $mode =~ /^drip/ ? (total => 2000) : ());
	ok($a->{kind} eq 'n' && $a->{error} =~ (ref $hostile{$mode} ? $hostile{$mode} : qr/^\Q$hostile{$mode}\E$/) && $a->{latency} < 45_000_000, "hostile: $mode") or diag("$a->{kind} $a->{status} $a->{error}");
}
$a = try_probe($s, sort => 'h', url => "$url/gzip");
ok($a->{status} == 200 && length $a->{body} < 4096 && $a->{body} =~ /^\x1f\x8b/, 'what is compressed is not blown up');

# redirects: none unless asked for, and each hop is checked
my @auth = (headers => [ 'X-Key' => 'k' ]);
is(try_probe($s, sort => 'h', url => "$url/redirect")->{status}, 302, 'redirects are not followed');
$a = try_probe($s, sort => 'h', url => "$url/redirect", redirects => 2, @auth);
is("$a->{status} $a->{redirected}", '200 1', '... unless they are asked for');
is((requests('/redirected'))[-1]{headers}{'x-key'}, 'k', '... with the headers, on the same host');
is(try_probe($s, sort => 'h', url => "$url/loop", redirects => 3)->{error}, 'more than 3 redirects', 'a loop ends');
is(scalar(requests('/loop')), 4, '... after so many');
like(try_probe($s, sort => 'h', url => "$url/redirect-meta", redirects => 3, hosts => '127.0.0.1')->{error}, qr/^http:\/\/169.254.169.254:80 is not in monitoring.allowed_hosts/,
	'a hop to a host that is not allowed');
like(try_probe($s, sort => 'h', url => "$url/go/302?file:///etc/passwd", redirects => 3)->{error}, qr/^a redirect leads to no plain http/, 'a hop to a file');
like(try_probe($s, sort => 'h', url => "https://127.0.0.1:$tls{good}/go/302?$url/x", redirects => 3, options => \@ca)->{error}, qr/^a redirect leads from https to http/,
	'a hop out of TLS');
$a = try_probe($s, sort => 'h', url => "$url/go/307?http://two.test:$port/moved", redirects => 1, method => 'PUT', @auth);
is("$a->{status} $a->{addresses}", '200 127.0.0.1 127.0.0.1', 'a hop to another host');
my ($moved) = requests('/moved');
is("$moved->{method} " . ($moved->{headers}{'x-key'} // 'none'), 'PUT none', '... keeps the method, and not the headers');
foreach my $case ([ 307, 'POST' ], [ 308, 'POST' ], [ 302, 'PUT' ])
{
	is(try_probe($s, sort => 'h', url => "$url/go/$case->[0]?http://two.test:$port/taken", redirects => 1, method => $case->[1], body => 'password')->{error},
		'a redirect would take the body to another host', "$case->[1] and $case->[0]: a body stays with its host");
}
is(scalar(requests('/taken')), 0, '... nothing is sent there');
is(try_probe($s, sort => 'h', url => "$url/go/302?http://two.test:$port/got", redirects => 1, method => 'POST', body => 'x')->{status}, 200, 'where it becomes a GET, it goes there');
is(try_probe($s, sort => 'h', url => "$url/go/307?/same", redirects => 1, method => 'POST', body => 'x')->{status}, 200, 'on the same host the body is sent again');
is((requests('/same'))[0]{body}, 'x', '... as it was');
try_probe($s, sort => 'h', url => "$url/go/303?/seen", redirects => 1, method => 'POST', body => 'x');
is((requests('/seen'))[0]{method} . (requests('/seen'))[0]{body}, 'GET', '303 makes it a GET without a body');
is(try_probe($s, sort => 'h', url => "$url/go/302?/hang", redirects => 1, total => 400)->{error}, 'no response within 0.4 s', 'the time is that of all hops');

# TLS
$a = try_probe($s, sort => 's', url => "https://127.0.0.1:$tls{good}/", options => \@ca);
ok($a->{kind} eq 'r' && $a->{tls} > 0, 'a certificate that is good');
like($a->{certificates}, qr/^Subject:.*good\nIssuer:.*test ca\nStart date:.*\nExpire date:/, '... and what it says');
my %wrong = (expired => qr/expired/, other => qr/does not match|no alternative/, self => qr/self[- ]signed/);
for my $name (sort keys %wrong)
{
	$a = try_probe($s, sort => 's', url => "https://127.0.0.1:$tls{$name}/", options => \@ca);
	like($a->{certificate_error}, $wrong{$name}, "a certificate that is not: $name");
	like($a->{certificates}, qr/^Expire date:/m, '... says when it expires all the same');
}
like(try_probe($s, sort => 's', url => "https://127.0.0.1:$port/", options => \@ca)->{kind}, qr/n/, 'no TLS at all');

for my $name (sort keys %wrong)
{
	like(try_probe($s, sort => 'h', url => "https://127.0.0.1:$tls{$name}/", options => \@ca)->{error}, $wrong{$name}, "a request over TLS with a certificate that is not good: $name");
}

# TCP and what is said over it
my $peer = start_server('tcp_peer.py');
my $peer_tls = start_server('tcp_peer.py', "$certs/good.pem");
sub say_to
{
	my ($line, $until, %more) = @_;
	my $a = try_probe($s, sort => 't', url => "http://127.0.0.1:$peer/", body => $line, options => [ defined $until ? (until => $until) : () ], %more);
	return join '|', $a->{kind}, $a->{error}, length $a->{body} > 100 ? length $a->{body} : $a->{body};
}
is(say_to('', "\n"), "r||220 hello\r\n", 'a greeting');
is(say_to("echo one two three\r\n", 'two three'), "r||220 hello\r\none two three\r\n", 'an answer, in several parts');
is(say_to("echo x\n", undef), 'r||', 'only said');
is(say_to("flood\n", 'nothing'), 'r||65536', 'bytes without end');
is(say_to("close\n", 'nothing'), "r||220 hello\r\nbye", 'the end comes before what is waited for');
like(say_to("drip\n", 'nothing', total => 2000), qr/^n\|no answer that ends within 2 s\|220 hello\r\nx+$/, 'a byte now and then');
is(say_to("silent\n", 'nothing', total => 2000), "n|no answer that ends within 2 s|220 hello\r\n", 'no answer');
like(say_to("reset\n", 'nothing'), qr/^n\|the connection broke\|/, 'a connection that is reset');
is(say_to('', "\n", url => "https://127.0.0.1:$peer_tls/", options => [ until => "\n", @ca ]), "r||220 hello\r\n", 'over TLS');
is(say_to('', undef, url => "https://127.0.0.1:$peer_tls/", options => [ send_hex => unpack('H*', "echo \x01\x00\xff end\n"), until => 'end', @ca ]), "r||220 hello\r\n\x01\x00\xff end\r\n", '... bytes that are no text');
like(say_to('', "\n", url => "https://127.0.0.1:$peer/"), qr/^n\|.*(SSL|TLS|wrong version)/i, '... with one that speaks none');
is(say_to('x', undef, options => [ send_hex => '00' ]), 'x|an option, such as a mail address or the proxy, is malformed|', 'two things to say');
is(say_to('', undef, options => [ send_hex => '0g' ]), 'x|an option, such as a mail address or the proxy, is malformed|', 'what is not hexadecimal');

# TCP, DNS
is(try_probe($s, sort => 't', url => "http://127.0.0.1:$port/")->{kind}, 'r', 'a port that is open');
like(try_probe($s, sort => 't', url => "http://127.0.0.1:$closed/")->{error}, qr/refused|connect/i, 'one that is closed');
is(try_probe($s, sort => 't', url => "http://127.0.0.1:$port/", private => 0)->{kind}, 'x', 'one that may not be asked');
is(try_probe($s, sort => 'd', url => 'http://two.test:80/', private => 0)->{addresses}, '127.0.0.1', 'a name');
is(try_probe($s, sort => 'd', url => 'http://inner.test:80/')->{addresses}, '10.1.2.3', '... of which nobody is asked');
like(try_probe($s, sort => 'd', url => 'http://nothing.invalid:80/')->{error}, qr/resolve/i, 'one that does not exist');
my $began = time();
is(try_probe($s, sort => 'd', url => 'http://slow.test:80/', total => 500, connect => 500)->{kind}, 'n', 'one that takes long');
cmp_ok(time() - $began, '<', 50, '... is given up');
is(try_probe($s, sort => 'h', url => "$url/after")->{status}, 200, '... and holds up nobody');
is(try_probe($s, sort => 'q', url => "$url/x")->{error}, 'there is no such probe', 'another probe');
stop_sender($s);

# ---- the prober ----

my $node = PostgreSQL::Test::Cluster->new('health');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.allowed_hosts = '127.0.0.1, localhost, nothing.invalid'
monitoring.allow_private_networks = on
max_worker_processes = 16
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION monitoring');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub is_running { return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'monitoring prober'}); }
is(is_running(), '0', 'without checks of the network there is no prober');

# Some that hang, one of them for long, and the others meanwhile.
sub create
{
	my ($name, $kind, $config, $more) = @_;
	my $json = encode_json($config);
	$more //= '';
	$more .= ($more && ', ') . q{timeout => '1 minute'} if $more !~ /timeout/;
	return "SELECT monitoring.create_health_check('$name', '$kind', \$\$$json\$\$, retries => 0, $more);";
}
my %expect = (
	ok          => [ 'http', { url => "$url/ok", match => '^ok' }, undef, qr/^healthy\|HTTP status 200/ ],
	'no match'  => [ 'http', { url => "$url/ok", match => 'welcome' }, undef, qr/^unhealthy\|the body does not match/ ],
	error       => [ 'http', { url => "$url/ok", not_match => 'ok' }, undef, qr/^unhealthy\|the body matches what it must not/ ],
	500         => [ 'http', { url => "$url/status/500" }, undef, qr/^unhealthy\|HTTP status 500/ ],
	503         => [ 'http', { url => "$url/status/503", expect_status => [ '500-599' ] }, undef, qr/^healthy/ ],
	slow        => [ 'http', { url => "$url/wait/0.4" }, 'degraded => 0.3, unhealthy => 50', qr/^degraded\|/ ],
	slower      => [ 'http', { url => "$url/wait/0.4" }, 'degraded => 0.1, unhealthy => 0.2', qr/^unhealthy\|/ ],
	hang        => [ 'http', { url => "$url/hang" }, q{timeout => '2 seconds'}, qr/^unhealthy\|no response within 2 s/ ],
	'hang on'   => [ 'http', { url => "$url/hang" }, q{timeout => '1 minute'} ],
	loop        => [ 'http', { url => "$url/loop", max_redirects => 5 }, undef, qr/^unhealthy\|more than 5 redirects/ ],
	elsewhere   => [ 'http', { url => 'http://10.1.2.3/' }, undef, qr/^unhealthy\|http:\/\/10.1.2.3:80 is not in monitoring.allowed_hosts/ ],
	grade       => [ 'http', { url => "$url/secure", min_headers_grade => 'B' }, undef, qr/^healthy/ ],
	'bad grade' => [ 'http', { url => "$url/ok", min_headers_grade => 'B' }, undef, qr/^degraded\|security headers have grade F/ ],
	odd         => [ 'http', { url => "$url/latin", match => '"error"' , expect_status => [503] }, undef, qr/^healthy/ ],
	open        => [ 'tcp', { host => '127.0.0.1', port => $port + 0 }, undef, qr/^healthy\|connected/ ],
	greeting    => [ 'tcp', { host => '127.0.0.1', port => $peer + 0, match => '^220 ' }, undef, qr/^healthy\|answered in/ ],
	'no match here' => [ 'tcp', { host => '127.0.0.1', port => $peer + 0, not_match => 'hello' }, undef, qr/^unhealthy\|the answer matches what it must not/ ],
	said        => [ 'tcp', { host => '127.0.0.1', port => $peer_tls + 0, tls => JSON::PP::true, @ca, send => "echo {{x}} +PONG\r\n", expect => '+PONG' }, undef, qr/^healthy\|answered in/ ],
	unsaid      => [ 'tcp', { host => '127.0.0.1', port => $peer + 0, send => "close\n", expect => 'never' }, undef, qr/^unhealthy\|what is expected is not in the answer/ ],
	closed      => [ 'tcp', { host => '127.0.0.1', port => $closed + 0 }, undef, qr/^unhealthy\|/ ],
	name        => [ 'dns', { host => 'localhost', expect => ['127.0.0.1'] }, undef, qr/^healthy\|/ ],
	'odd name'  => [ 'dns', { host => 'localhost', expect => ['10.9.8.7'] }, undef, qr/^unhealthy\|10.9.8.7 is not among/ ],
	'no name'   => [ 'dns', { host => 'nothing.invalid' }, undef, qr/^unhealthy\|Could not resolve/ ],
	good        => [ 'tls', { host => '127.0.0.1', port => $tls{good} + 0, @ca }, undef, qr/^healthy\|(29|30) days left/ ],
	'ends soon' => [ 'tls', { host => '127.0.0.1', port => $tls{good} + 0, @ca }, 'degraded => 60, unhealthy => 7', qr/^degraded\|/ ],
	expired     => [ 'tls', { host => '127.0.0.1', port => $tls{expired} + 0, @ca }, undef, qr/^unhealthy\|.*expired/ ],
	self        => [ 'tls', { host => '127.0.0.1', port => $tls{self} + 0, @ca }, undef, qr/^unhealthy\|.*self/ ],
	other       => [ 'tls', { host => '127.0.0.1', port => $tls{other} + 0, @ca }, undef, qr/^unhealthy\|/ ],
	steps       => [ 'synthetic', { steps => [
		{ name => 'log in', url => "$url/json", method => 'POST', body => '{"user": "x"}', save => { token => 'json:$.user.token', session => 'header:X-Session' } },
		{ name => 'look', query => 'SELECT {{token}} AS token, length({{token}}) AS n', save => { n => 'column:n' } },
		{ name => 'buy', url => "$url/buy/{{n}}?t={{token}}", method => 'POST', headers => { Cookie => '{{session}}' }, body => '{"t": "{{token}}"}' } ] }, undef, qr/^healthy\|3 steps/ ],
	'bad steps' => [ 'synthetic', { steps => [ { name => 'one', url => "$url/ok" }, { name => 'two', url => "$url/status/404" }, { name => 'three', url => "$url/never" } ] }, undef, qr/^unhealthy\|step two: HTTP status 404/ ],
	'no token'  => [ 'synthetic', { steps => [ { url => "$url/ok", save => { token => 'json:$.token' } } ] }, undef, qr/^unhealthy\|step 1: "token" is not in the answer/ ]);
sql(join("\n", map { create($_, @{ $expect{$_} }[ 0 .. 2 ]) } sort keys %expect) . ' SELECT monitoring.wake_prober();');
$node->poll_query_until('postgres', q{SELECT bool_and(checked_at IS NOT NULL) FROM monitoring.health_status WHERE kind NOT IN ('sql', 'group') AND name <> 'hang on'}) or die;
is(sql(q{SELECT checked_at IS NULL FROM monitoring.health_status WHERE name = 'hang on'}), 't', 'nobody waits for the one that hangs');
for my $name (grep { $expect{$_}[3] } sort keys %expect)
{
	like(sql("SELECT status || '|' || message FROM monitoring.health_status WHERE name = '$name'"), $expect{$name}[3], "check: $name");
}
is(scalar(requests('/never')), 0, 'after a step that fails there is none');
my ($buy) = grep { $_->{path} =~ /^\/buy/ } json_lines(SenderClient::log_file());
is("$buy->{path} $buy->{headers}{cookie} $buy->{body}", '/buy/7?t=a%20b%26c%221 s-1 {"t": "a b&c\\"1"}', 'values are carried on, each as its place takes it');
is(sql(q{SELECT details ->> 'headers_grade', (details -> 'phases' ->> 'total')::float8 BETWEEN 0 AND 50 FROM monitoring.health_status WHERE name = 'grade'}), 'A|t', 'details tell the grade and the phases');
is(sql(q{SELECT s ->> 'url', s ->> 'body', s -> 'headers' ->> 'Cookie' FROM (SELECT config -> 'steps' -> 2 AS s FROM monitoring.health_checks WHERE name = 'steps') AS c}),
	"$url/buy/{{n}}?...|***|***", 'bodies, headers and queries of urls are not shown');
cmp_ok(sql(q{SELECT monitoring.value('certificate_expiry_timestamp_seconds', 'last', '1 hour', '{"check": "good"}') - extract(epoch FROM now())}), '>', 28 * 86400, 'when a certificate expires is a metric');
is(sql(q{SELECT monitoring.run_health_check('ok')}), '{"status": "enqueued"}', 'a check of the network runs in the prober');
sub wait_for_requests
{
	my ($path, $more) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if requests($path) >= $more;
		select(undef, undef, undef, 0.1);
	}
	return scalar(requests($path));
}
my $n = scalar(requests('/ok'));
sql(q{SELECT monitoring.run_health_check('ok')});
cmp_ok(wait_for_requests('/ok', $n + 1), '>', $n, '... soon');
# also while one is under way
sql(create('asked', 'http', { url => "$url/wait/2?asked" }, q{every => '1 day'}) . ' SELECT monitoring.wake_prober();');
wait_for_requests('/wait/2?asked', 1);
sql(q{SELECT monitoring.run_health_check('asked')});
is(wait_for_requests('/wait/2?asked', 2), 2, '... or once what is under way has ended');

# a sender that dies costs nothing but a result
# it hangs for longer than a slow machine takes to find the sender
sql(q{SELECT monitoring.alter_health_check('hang', '{"timeout": "60 seconds"}');
	UPDATE monitoring.health_check_states SET next_at = clock_timestamp() WHERE check_name = 'hang'; SELECT monitoring.wake_prober()});
$node->poll_query_until('postgres', q{SELECT leased_until IS NOT NULL FROM monitoring.health_check_states WHERE check_name = 'hang'}) or die;
my $prober = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring prober'});
my ($sender) = split /\s+/, (run_command([ 'pgrep', '-P', $prober ]))[0];
kill 'KILL', $sender;
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM monitoring.check_results WHERE check_name = 'hang' AND status = 'unknown'}) or die;
is(sql(q{SELECT status FROM monitoring.health_status WHERE name = 'hang'}), 'unhealthy', 'what is not known changes no status');
sql(q{UPDATE monitoring.health_check_states SET next_at = clock_timestamp() WHERE check_name = 'ok'});
$n = sql(q{SELECT count(*) FROM monitoring.check_results WHERE check_name = 'ok' AND status = 'healthy'});
$node->poll_query_until('postgres', "SELECT count(*) > $n FROM monitoring.check_results WHERE check_name = 'ok' AND status = 'healthy'") or die;
pass('another sender goes on');

# DDL
$node->safe_psql('postgres', 'DROP EXTENSION monitoring CASCADE');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'monitoring prober'}) or die;
pass('the prober goes with the extension');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash');
stop_receivers();
done_testing();
