# The sender and TLS: whom it trusts, what it shows of itself, connections that are used again, HTTP/2, a proxy.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SenderClient;
use Test::More;

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $certs = "$PostgreSQL::Test::Utils::tmp_check/certs";
make_certificates($certs);
my $s = start_sender();
read_frame($s);

my @ca = (ca_file => "$certs/ca.pem");

# ---- whom it trusts ----

my %port = map { $_ => start_receiver("$certs/$_.pem") } qw(good expired other self unknown);
is(try_request($s, url => "https://127.0.0.1:$port{good}/good", options => \@ca), 'r|200|', 'a good certificate');
like(try_request($s, url => "https://127.0.0.1:$port{good}/refused"), qr/^n\|0\|SSL certificate .*unable to get local issuer/, '... is nothing to the system\'s authorities');
my %error = (
	expired => qr/certificate has expired/,
	other   => qr/does not match|no alternative certificate subject name matches/,
	self    => qr/self[- ]signed/,
	unknown => qr/unable to get local issuer/);
for my $name (sort keys %error)
{
	like(try_request($s, url => "https://127.0.0.1:$port{$name}/refused", options => \@ca), qr/^n\|0\|.*$error{$name}/, "refused: $name");
}
is(try_request($s, url => "https://127.0.0.1:$port{self}/self", options => [ ca_file => "$certs/self.crt" ]), 'r|200|',
	'a self-signed certificate that is trusted itself');
like(try_request($s, url => "https://127.0.0.1:$port{good}/refused", options => [ ca_file => "$certs/missing.pem" ]), qr/^n\|0\|.*missing\.pem/,
	'a file that is not there');
is(scalar(requests('/refused')), 0, 'none of these got a request');

# ---- versions ----

my $old = start_receiver("$certs/good.pem", '', '1.1');
like(try_request($s, url => "https://127.0.0.1:$old/refused", options => \@ca), qr/^n\|0\|.*(version|SSL|TLS)/i, 'TLS 1.1 is too old');
my $tls12 = start_receiver("$certs/good.pem", '', '1.2');
is(try_request($s, url => "https://127.0.0.1:$tls12/tls12", options => [ @ca, min_tls => '1.2' ]), 'r|200|', 'TLS 1.2 will do');
like(try_request($s, url => "https://127.0.0.1:$tls12/refused", options => [ @ca, min_tls => '1.3' ]), qr/^n\|0\|.*(version|SSL|TLS)/i, '... not if it has to be 1.3');
is(try_request($s, url => "https://127.0.0.1:$port{good}/tls13", options => [ @ca, min_tls => '1.3' ]), 'r|200|', 'TLS 1.3');

# ---- client certificates ----

my $asks = start_receiver("$certs/good.pem", "$certs/ca.pem");
my @client = (@ca, cert_file => "$certs/client.crt", key_file => "$certs/client.key");
is(try_request($s, url => "https://127.0.0.1:$asks/client", options => \@client), 'r|200|', 'a client certificate');
is((requests('/client'))[0]{client}, 'client', '... is shown');
like(try_request($s, url => "https://127.0.0.1:$asks/refused", options => \@ca), qr/^n\|0\|./, 'without one the server refuses');
like(try_request($s, url => "https://127.0.0.1:$asks/refused", options => [ @ca, cert_file => "$certs/unknown.crt", key_file => "$certs/unknown.key" ]),
	qr/^n\|0\|./, '... and one of another authority');
my $asks_too = start_receiver("$certs/good.pem", "$certs/ca.pem");
like(try_request($s, url => "https://127.0.0.1:$asks_too/refused", options => [ @ca, cert_file => "$certs/client.crt", key_file => "$certs/good.key" ]),
	qr/^n\|0\|./, 'a key of another certificate');
is(scalar(requests('/refused')), 0, 'none of these got a request');

# ---- connections are used again ----

sub connections { my %c = map { $_->{connection} => 1 } requests($_[0]); return scalar(keys %c); }

my $plain = start_receiver();
try_request($s, url => "http://127.0.0.1:$plain/again") for 1 .. 5;
try_request($s, url => "https://127.0.0.1:$port{good}/again-tls", options => \@ca) for 1 .. 5;
is(scalar(requests('/again')) . ' ' . connections('/again'), '5 1', 'five requests over one connection');
is(scalar(requests('/again-tls')) . ' ' . connections('/again-tls'), '5 1', '... also with TLS');
try_request($s, url => "https://127.0.0.1:$asks/as-client", options => \@client);
like(try_request($s, url => "https://127.0.0.1:$asks/as-nobody", options => \@ca), qr/^n\|0\|./, 'but not one that was opened with a certificate for a request without');

# ---- HTTP/2 ----

sub of_h2 { send_request(@_); my $o = read_outcome($_[0]); return "$o->{kind} $o->{status} $o->{protocol}"; }

{
	my $www = "$PostgreSQL::Test::Utils::tmp_check/www";
	mkdir $www;
	append_to_file("$www/hook", "ok\n");
	my $h2 = PostgreSQL::Test::Cluster::get_free_port();
	my ($in, $out, $err) = ('', '', '');
	my ($nghttpd) = grep { -x } map { "$_/nghttpd" } split(/:/, $ENV{PATH}), '/usr/sbin';
	# line by line, since newer releases keep what a pipe gets until they end
	my $server = IPC::Run::start([ 'stdbuf', '-oL', $nghttpd, '-v', '-a', '127.0.0.1', '-d', $www, $h2, "$certs/good.key", "$certs/good.crt" ], '<', \$in, '>', \$out,
		'2>', \$err, IPC::Run::timeout($timeout));
	IPC::Run::pump($server) until $out =~ /listen/i;
	is(of_h2($s, url => "https://127.0.0.1:$h2/hook", options => \@ca), 'r 200 20', 'HTTP/2 where it is offered');
	send_request($s, url => "https://127.0.0.1:$h2/hook", options => \@ca, tag => $_) for 1 .. 20;
	is(scalar(grep { $_->{status} == 200 && $_->{protocol} == 20 } map { read_outcome($s) } 1 .. 20), 20, 'twenty at once');
	IPC::Run::pump_nb($server);
	my %ids = map { $_ => 1 } $out =~ /\[id=(\d+)\]/g;
	cmp_ok(scalar(keys %ids), '<=', 3, '... over the connection that is there');
	is(of_h2($s, url => "https://127.0.0.1:$h2/hook", options => [ @ca, http2 => 'never' ]), 'n 0 0', 'a server that has only HTTP/2, and a receiver without');
	$server->kill_kill(grace => 1);
}
is(of_h2($s, url => "https://127.0.0.1:$port{good}/h1", options => \@ca), 'r 200 11', 'HTTP/1.1 where it is not');
my $o = do { send_request($s, url => "http://127.0.0.1:$plain/bytes"); read_outcome($s) };
cmp_ok($o->{bytes}, '>', 50, 'the size of the response is reported');

# ---- a proxy ----

my $proxy = start_receiver();
is(try_request($s, url => 'http://far.example/through', options => [ proxy => "http://127.0.0.1:$proxy" ], private => 0), 'r|200|',
	'a proxy gets what is for a name that only it may know');
is((requests('http://far.example/through'))[0]{headers}{host}, 'far.example', '... with that name');
is(try_request($s, url => 'http://169.254.169.254/meta', options => [ proxy => "http://127.0.0.1:$proxy" ], private => 0),
	'x|0|the host is not public and monitoring.allow_private_networks is off', '... but no address that is not public');
is(scalar(requests('http://169.254.169.254/meta')), 0, '... of which it does not hear');
is(try_request($s, url => 'http://far.example/through', hosts => 'a.com', options => [ proxy => "http://127.0.0.1:$proxy" ]),
	'x|0|http://far.example:80 is not in monitoring.allowed_hosts', 'the host has to be allowed all the same');
is(try_request($s, url => 'http://far.example/', options => [ proxy => "socks5://127.0.0.1:$proxy" ]),
	'x|0|an option, such as a mail address or the proxy, is malformed', 'another kind of proxy is refused');

for my $bad ([ ca_file => 'relative.pem' ], [ cert_file => "/a\nb" ], [ min_tls => '1.1' ], [ http2 => 'x' ], [ nonsense => '1' ], [ ca_file => '/a', ca_file => '/b' ])
{
	is(try_request($s, url => "http://127.0.0.1:$plain/refused", options => $bad), 'x|0|an option, such as a mail address or the proxy, is malformed',
		"refused: " . join(' ', @$bad) =~ s/\n/\\n/r);
}

is(stop_sender($s), 0, 'it ends');
stop_receivers();
done_testing();
