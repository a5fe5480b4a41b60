# The sender program by itself, spoken to as the notifier does (see src/outbound/sender/protocol.h): what it refuses, what
# hostile receivers and resolvers can do to it, and that nothing of its surroundings gets into a request.
use strict;
use warnings;

use FindBin;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use SenderClient;
use Test::More;
use Time::HiRes qw(time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $port = start_receiver();
my $url = "http://127.0.0.1:$port";

# ---- conversation ----

my $s = start_sender();
is(unpack('H*', read_frame($s)), unpack('H*', pack('a L', 'H', 3)), 'hello with the version of the protocol');
is(try_request($s, url => "$url/ok", body => 'text', headers => [ 'X-A' => 'b', 'X-Empty' => '' ]), 'r|200|', 'a request is sent');
my ($got) = requests('/ok');
is("$got->{method} $got->{body} $got->{headers}{'x-a'}|$got->{headers}{'x-empty'}|", 'POST text b||', '... with method, body and headers');
is(stop_sender($s), 0, 'it ends at the end of its input');

for my $case (
	[ 'a frame without end', pack('L', 0xffffffff) ],
	[ 'an empty frame', pack('L', 0) ],
	[ 'a frame of another type', pack('L/a*', 'Xabc') ],
	[ 'a request cut short', pack('L/a*', substr(request_frame(url => "$url/cut"), 4, -4)) ],
	[ 'a string longer than its frame', pack('L/a*', pack('C Q L L C L', ord('R'), 1, 1, 1, 1, 0xffffffff)) ],
	[ 'options without end', pack('L/a*', substr(request_frame(url => "$url/cut"), 4, -4) . pack('L', 0xffffffff)) ],
	[ 'headers without end', pack('L/a*', substr(request_frame(url => "$url/cut"), 4, -8) . pack('L', 0xffffffff)) ],
	[ 'a request with something behind it', pack('L/a*', substr(request_frame(url => "$url/cut"), 4) . 'x') ])
{
	$s = start_sender();
	read_frame($s);
	write_bytes($s, $case->[1]);
	is(ended($s), 4, "$case->[0] ends it");
}

$s = start_sender();
read_frame($s);

# ---- what is refused ----

my @refused = (
	[ 'ftp',               [ url => 'ftp://127.0.0.1/' ],               'the url is not a plain http, https, smtp or smtps url' ],
	[ 'file',              [ url => 'file:///etc/passwd' ],             'the url is not a plain http, https, smtp or smtps url' ],
	[ 'no scheme',         [ url => '127.0.0.1' ],                      'the url is not a plain http, https, smtp or smtps url' ],
	[ 'CR LF in the url',  [ url => "$url/\r\nX: y" ],                  'the url is not a plain http, https, smtp or smtps url' ],
	[ 'NUL in the url',    [ url => "$url/\0" ],                        'the url is not a plain http, https, smtp or smtps url' ],
	[ 'user',              [ url => "http://user\@127.0.0.1:$port/" ],  'the url holds credentials' ],
	[ 'password',          [ url => "http://:p\@127.0.0.1:$port/" ],    'the url holds credentials' ],
	[ 'port 65536',        [ url => 'http://127.0.0.1:65536/' ],        'the url cannot be parsed' ],
	[ 'no host',           [ url => 'http://:80/' ],                    'the url cannot be parsed' ],
	[ 'CONNECT',           [ method => 'CONNECT' ],                     'the method or a header is malformed' ],
	[ 'CR LF in a method', [ method => "GET / HTTP/1.1\r\n" ],          'the method or a header is malformed' ],
	[ 'CR LF in a header', [ headers => [ 'X-A' => "b\r\nX-B: c" ] ],   'the method or a header is malformed' ],
	[ 'NUL in a header',   [ headers => [ 'X-A' => "b\0" ] ],           'the method or a header is malformed' ],
	[ 'colon in a name',   [ headers => [ 'X-A:' => 'b' ] ],            'the method or a header is malformed' ],
	[ 'Host',              [ headers => [ 'hOST' => 'evil' ] ],         'the method or a header is malformed' ],
	[ 'Content-Length',    [ headers => [ 'Content-Length' => '1' ] ],  'the method or a header is malformed' ],
	[ 'no list',           [ hosts => '' ],                             "$url is not in monitoring.allowed_hosts" ],
	[ 'other host',        [ hosts => 'a.com' ],                        "$url is not in monitoring.allowed_hosts" ],
	[ 'other port',        [ hosts => '127.0.0.1:1' ],                  "$url is not in monitoring.allowed_hosts" ],
	[ 'other scheme',      [ hosts => 'https://127.0.0.1' ],            "$url is not in monitoring.allowed_hosts" ],
	[ 'host in percents',  [ url => 'http://%31%32.a.com/', hosts => 'b.com' ], 'http://12.a.com:80 is not in monitoring.allowed_hosts' ],
	[ 'host not ASCII',    [ url => 'http://%ff.a.com/', hosts => 'b.com' ], 'http://?.a.com:80 is not in monitoring.allowed_hosts' ]);
for my $case (@refused)
{
	my ($name, $r, $error) = @$case;
	is(try_request($s, url => "$url/refused", @$r), "x|0|$error", "refused: $name");
}
is(try_request($s, url => "$url/listed", hosts => "a.com, http://127.0.0.1:$port"), 'r|200|', 'host, scheme and port are listed');

for my $host ('127.0.0.1', '127.1', '2130706433', '0x7f000001', '0x7f.1', '017700000001', '0', '0.0.0.0', '127.0.0.1.', 'localhost',
	'LOCALHOST', 'x.localhost', '%6c%6fcalhost', '[::1]', '[::]', '[::127.0.0.1]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]',
	'[0:0:0:0:0:ffff:127.0.0.1]', '[64:ff9b::127.0.0.1]', '[fe80::1]', '[fe80::1%251]', '[fd00::1]', '[2002:7f00:1::]',
	'169.254.169.254', '10.0.0.1', '172.16.0.1', '192.168.0.1', '100.64.0.1', '224.0.0.1', '255.255.255.255')
{
	like(try_request($s, url => "http://$host:$port/private", private => 0),
		qr/^x\|0\|address .* is not public and monitoring\.allow_private_networks is off$|^n\|0\|Could not resolve host/, "not public: $host");
}
is(try_request($s, url => "$url/ok", private => 0), 'x|0|address 127.0.0.1 is not public and monitoring.allow_private_networks is off',
	'not public: a connection that is kept alive');
is(scalar(requests('/refused')) + scalar(requests('/private')), 0, 'none of these was sent');

# ---- hostile receivers ----

is(try_request($s, url => "$url/status/503"), 'r|503|HTTP status 503', 'status 503');
is(try_request($s, url => "$url/redirect"), 'r|302|HTTP status 302: redirects are not followed', 'redirect');
is(scalar(requests('/redirected')), 0, '... is not followed');
is(try_request($s, url => "$url/hang", total => 500), 'n|0|no response within 0.5 s', 'hangs');
is(try_request($s, url => "$url/dripheaders", total => 500), 'n|0|no response within 0.5 s', 'headers drip');
is(try_request($s, url => "$url/drip", total => 2000), 'r|200|', 'body drips: its status counts');
is(try_request($s, url => "$url/short"), 'r|200|', 'body ends early: its status counts');
is(try_request($s, url => "$url/endless"), 'r|200|', 'endless body');
is(try_request($s, url => "$url/endlessheaders"), 'n|0|the response has more than 64 kB of headers', 'endless headers');
is(try_request($s, url => "$url/continue"), 'n|0|the response has more than 64 kB of headers', 'endless interim responses');
is(try_request($s, url => "$url/redirect-meta", private => 1), 'r|302|HTTP status 302: redirects are not followed', 'redirect to a metadata address');
is(try_request($s, url => "$url/resetbody"), 'r|200|', 'connection reset in the body: its status counts');
for my $kind ([ 'discord', 2 ], [ 'telegram', 2 ])
{
	send_request($s, url => "$url/later/$kind->[0]");
	my $o = read_outcome($s);
	is("$o->{status} $o->{retry_after}", "429 $kind->[1]", "when to try again, in the body as $kind->[0] has it");
}
like(try_request($s, url => "$url/garbage"), qr/^n\|0\|./, 'not HTTP');
like(try_request($s, url => "$url/reset"), qr/^n\|0\|Empty reply/, 'closes without an answer');
like(try_request($s, url => "https://127.0.0.1:$port/tls"), qr/^n\|0\|.*SSL/i, 'https where there is none');

# A listener that never accepts.
my $mute = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $!";
is(try_request($s, url => 'https://127.0.0.1:' . $mute->sockport . '/', connect => 300), 'n|0|no connection within 0.3 s',
	'TLS handshake hangs');
my $closed = $mute->sockport;
close $mute;
like(try_request($s, url => "http://127.0.0.1:$closed/token"), qr/^n\|0\|Failed to connect to 127\.0\.0\.1(:| port )$closed\b/, 'nobody listens');

my $pem = "$tmp/cert.pem";
run_log([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1',
	'-keyout', $pem, '-out', "$tmp/cert.crt" ]) or die 'openssl';
append_to_file($pem, slurp_file("$tmp/cert.crt"));
my $tls_port = start_receiver($pem);
like(try_request($s, url => "https://127.0.0.1:$tls_port/tls"), qr/^n\|0\|SSL certificate .*self-signed/, 'a certificate nobody vouches for');
is(scalar(requests('/tls')), 0, '... gets no request');

try_request($s, url => "$url/cookie");
try_request($s, url => "$url/cookie");
is((requests('/cookie'))[1]{headers}{cookie}, undef, 'cookies are not kept');

# ---- many at once ----

my $other = start_receiver();
# As they take by themselves; those that hang take longer, however busy the machine is.
my $begin = time();
send_request($s, url => "http://127.0.0.1:$other/alone", tag => $_) for 1 .. 100;
read_outcome($s) for 1 .. 100;
my $hang = 2500 + int(4000 * (time() - $begin));
send_request($s, url => "$url/hang?many", tag => 1000 + $_, total => $hang) for 1 .. 70;
send_request($s, url => "http://127.0.0.1:$other/beside", tag => $_) for 1 .. 100;
my %outcome;
$outcome{ $_->{tag} } = $_ for map { read_outcome($s) } 1 .. 100;
is(scalar(grep { $_ <= 100 && $outcome{$_}{status} == 200 } keys %outcome), 100, '100 requests pass 70 that hang, without waiting for them');
$outcome{ $_->{tag} } = $_ for map { read_outcome($s) } 1 .. 70;
is(scalar(keys %outcome), 170, 'each request has one outcome');
is(scalar(grep { $_->{error} eq "no response within @{[ $hang / 1000 ]} s" } values %outcome), 70, 'a request that waited for its turn has all its time');
is(stop_sender($s), 0, 'it ends');

# ---- resolvers ----

my $preload = "$tmp/resolver.so";
run_log([ 'cc', '-shared', '-fPIC', '-o', $preload, "$FindBin::Bin/../lib/resolver.c", '-ldl' ]) or die 'cc';
$s = start_sender(LD_PRELOAD => $preload,
	TEST_HOSTS => 'slow.test=slow meta.test=169.254.169.254 mapped.test=::ffff:10.0.0.1 nat.test=64:ff9b::10.0.0.1 fine.test=127.0.0.1');
read_frame($s);
is(try_request($s, url => "http://fine.test:$port/fine"), 'r|200|', 'the resolver of this test is used');
for my $case ([ 'meta.test', '169.254.169.254' ], [ 'mapped.test', '(::ffff:)?10.0.0.1' ], [ 'nat.test', '64:ff9b::a00:1' ])
{
	like(try_request($s, url => "http://$case->[0]/", private => 0),
		qr/^x\|0\|address $case->[1] is not public and monitoring\.allow_private_networks is off$/, "a name for $case->[1]");
}
is(try_request($s, url => "http://fine.test:$port/fine", private => 0),
	'x|0|address 127.0.0.1 is not public and monitoring.allow_private_networks is off', 'a name that is resolved already');
# A name that is public when somebody checks and private when somebody connects, and the other way round: there is one look-up,
# or in newer releases of libcurl one for each kind of address, and what it gives is checked.
my $unreachable = qr/^x\|0\|address 127\.0\.0\.1 is not public|^n\|0\|/;
for my $hosts ('rebind.test=8.8.8.8|127.0.0.1', 'rebind.test=127.0.0.1|8.8.8.8')
{
	my $fresh = start_sender(LD_PRELOAD => $preload, TEST_HOSTS => $hosts);
	read_frame($fresh);
	like(try_request($fresh, url => "http://rebind.test:$port/rebound", private => 0, total => 700), $unreachable, "rebinding: $hosts");
	like(try_request($fresh, url => "http://rebind.test:$port/rebound", private => 0, total => 700), $unreachable, '... tried again at once');
	kill 'KILL', $fresh->{pid};
	waitpid($fresh->{pid}, 0);
}
is(scalar(requests('/rebound')), 0, 'nothing reaches a name that is bound anew');

$begin = time();
send_request($s, url => 'http://slow.test/', tag => 1, total => 500);
my $slow = read_outcome($s);
like("$slow->{kind}|$slow->{error}", qr/^n\|no (connection|response) within 0\.5 s$/, 'a name that takes a minute to resolve times out');
is(try_request($s, url => "$url/ok", tag => 2), 'r|200|', '... and the next request is sent');
cmp_ok(time() - $begin, '<', 50, '... without waiting for the name');
kill 'KILL', $s->{pid};
waitpid($s->{pid}, 0);

# ---- surroundings ----

my $home = "$tmp/home";
mkdir $home;
append_to_file("$home/.netrc", "machine 127.0.0.1 login netrc password netrc\n");
append_to_file("$home/.curlrc", "user = curlrc:curlrc\n");
my $proxy = "http://127.0.0.1:$closed";
$s = start_sender(HOME => $home, map { $_ => $proxy } qw(http_proxy HTTP_PROXY https_proxy all_proxy ALL_PROXY));
read_frame($s);
is(try_request($s, url => "$url/surroundings"), 'r|200|', 'a proxy of the environment is not used');
($got) = requests('/surroundings');
is($got->{headers}{authorization}, undef, 'nor .netrc or .curlrc');
is(stop_sender($s), 0, 'it ends');

stop_receivers();
done_testing();
