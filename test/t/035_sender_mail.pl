# The sender and mail servers: STARTTLS and authentication, what becomes of each recipient, replies of every kind, and that
# nothing in an address or a text is a command. Then a mail all the way from the outbox.
use strict;
use warnings;

use JsonLines;
use IO::Socket::INET;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SenderClient;
use Test::More;
use Time::HiRes qw(usleep time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $tmp = $PostgreSQL::Test::Utils::tmp_check;
my $certs = "$tmp/certs";
my $log = "$tmp/mails.jsonl";
make_certificates($certs);

sub start_mail_server { return start_server('smtp_receiver.py', $log, @_); }

sub mails { return json_lines($log); }

my $port = start_mail_server('starttls', "$certs/good.pem", 'user', "pass \"\\ w\xc3\xb6rd");
my $url = "smtp://127.0.0.1:$port";
my @login = (username => 'user', password => "pass \"\\ w\xc3\xb6rd");
my @ca = (ca_file => "$certs/ca.pem");
my $text = "From: a\@example.com\r\nSubject: test\r\n\r\nhello\r\n";
my $s = start_sender();
read_frame($s);

# One mail; its outcome as "kind|status|error".
sub try_mail
{
	my (%r) = @_;
	my @to = map { (mail_rcpt => $_) } @{ delete $r{to} // ['b@example.com'] };
	my $from = delete $r{from} // 'a@example.com';
	my $login = delete $r{login} // \@login;
	my $more = delete $r{more} // \@ca;
	return try_request($s, method => 'SMTP', url => $url, body => $text, options => [ mail_from => $from, @to, @$login, @$more ], %r);
}

# ---- delivered ----

is(try_mail(url => "$url/db1.example.com"), 'r|250|', 'a mail is delivered');
my ($mail) = mails();
is($mail->{content}, $text, '... as it is');
is("$mail->{mail_from} @{ $mail->{rcpt} } $mail->{user} $mail->{greeting}", 'a@example.com b@example.com user db1.example.com', '... with its envelope, by the user, from the name');
ok($mail->{tls}, '... after STARTTLS');

is(try_mail(to => [ 'b@example.com', "j\xc3\xb6rg\@example.com", 'o\'neil+x@example.com' ], body => "Subject: dots\n\n.\n..\n.a\nb\rc\n"), 'r|250|', 'three recipients, dots and bare ends of lines');
$mail = (mails())[-1];
is(scalar(@{ $mail->{rcpt} }), 3, '... all are told');
is($mail->{content}, "Subject: dots\r\n\r\n.\r\n..\r\n.a\r\nb\r\nc\r\n", '... the text is whole');
is($mail->{peer}, (mails())[0]{peer}, 'a connection is used again');

send_request($s, method => 'SMTP', url => $url, body => $text, options => [ mail_from => 'a@example.com', mail_rcpt => 'b@example.com', @login, @ca ]);
my $o = read_outcome($s);
is($o->{protocol}, 1, 'the protocol is reported');
cmp_ok($o->{bytes}, '>', 20, '... and the size of the replies');

my $smtps = start_mail_server('smtps', "$certs/good.pem", @login[1, 3]);
is(try_mail(url => "smtps://127.0.0.1:$smtps"), 'r|250|', 'TLS from the start');
ok((mails())[-1]{tls} && (mails())[-1]{user} eq 'user', '... and authentication');

# ---- recipients one by one ----

is(try_mail(to => [ 'b@example.com', '550@recipient.example', 'c@example.com', '452@recipient.example' ]),
	'r|250|2 of 4 recipients were refused with SMTP reply 452', 'refused recipients do not keep the others from it');
is("@{ (mails())[-1]{rcpt} }", 'b@example.com c@example.com', '... who get it');
is(try_mail(to => [ '550@recipient.example', '553@recipient.example' ]), 'r|550|SMTP reply 550 to RCPT', 'all are refused');
is(try_mail(to => [ '451@recipient.example', '553@recipient.example' ]), 'r|451|SMTP reply 451 to RCPT', 'all are refused, one for now');

# ---- replies ----

is(try_mail(from => '451@sender.example'), 'r|451|SMTP reply 451 to MAIL', 'the sender is refused for now');
is(try_mail(from => '553@sender.example'), 'r|553|SMTP reply 553 to MAIL', 'the sender is refused');
is(try_mail(from => '452@data.example'), 'r|452|SMTP reply 452 to DATA', 'the text is refused for now');
is(try_mail(from => '554@data.example'), 'r|554|SMTP reply 554 to DATA', 'the text is refused');
is(try_mail(from => 'hang@data.example', total => 2000), 'n|0|no response within 2 s', 'no answer to the text');
like(try_mail(from => 'drop@data.example'), qr/^n\|0\|./, 'the connection ends instead of an answer');
is(try_mail(login => [ username => 'user', password => 'wrong' ]), 'r|535|SMTP reply 535 to AUTH', 'a wrong password');
is(try_mail(login => []), 'r|530|SMTP reply 530 to MAIL', 'no password');
is(try_mail(), 'r|250|', 'after all of that one more is delivered');

# ---- TLS ----

my $count = scalar(mails());
like(try_mail(more => []), qr/^n\|0\|SSL certificate .*unable to get local issuer/, 'a certificate of nobody known');
my $other = start_mail_server('starttls', "$certs/other.pem", @login[1, 3]);
like(try_mail(url => "smtp://127.0.0.1:$other"), qr/^n\|0\|.*(match|subject name)/, 'a certificate of another host');
my $plain = start_mail_server('plain');
is(try_mail(url => "smtp://127.0.0.1:$plain"), 'n|0|the mail server does not offer STARTTLS', 'no TLS: nothing is sent');
is(try_mail(url => "smtp://127.0.0.1:$plain", login => [], more => [ starttls => 'required' ]), 'n|0|the mail server does not offer STARTTLS', '... nor where it is required');
is(scalar(mails()), $count, 'none of these got a mail');
is(try_mail(url => "smtp://127.0.0.1:$plain", login => [], more => [ starttls => 'never' ]), 'r|250|', 'no TLS, as the receiver says');
ok(!(mails())[-1]{tls}, '... it was not');
my $preload = "$tmp/resolver.so";
run_log([ 'cc', '-shared', '-fPIC', '-o', $preload, "$FindBin::Bin/../lib/resolver.c", '-ldl' ]) or die 'cc';
{
	my $fooled = start_sender(LD_PRELOAD => $preload, TEST_HOSTS => 'public.test=8.8.8.8 meta.test=169.254.169.254 nat.test=64:ff9b::10.0.0.1 local.test=64:ff9b:1::8.8.8.8 teredo.test=2001::1 6to4.test=2002:a00:1::1');
	read_frame($fooled);
	my @mail = (method => 'SMTP', body => $text);
	is(try_request($fooled, @mail, url => 'smtp://public.test', options => [ mail_from => 'a@b', mail_rcpt => 'a@b', starttls => 'never' ]),
		'x|0|address 8.8.8.8 is public, where starttls cannot be never', 'no TLS to a public address is refused');
	for my $host ('meta.test', 'nat.test', 'local.test', 'teredo.test', '6to4.test')
	{
		like(try_request($fooled, @mail, url => "smtp://$host", private => 0, options => [ mail_from => 'a@b', mail_rcpt => 'a@b' ]),
			qr/^x\|0\|address \S+ is not public and monitoring\.allow_private_networks is off$/, "not public: $host");
	}
	stop_sender($fooled);
}
is(try_mail(private => 0), 'x|0|address 127.0.0.1 is not public and monitoring.allow_private_networks is off', 'nor is a connection that is kept');

# ---- refused ----

my $option = 'an option, such as a mail address or the proxy, is malformed';
for my $case (
	[ 'CR LF in an address', [ to   => ["b\@example.com>\r\nDATA"] ], $option ],
	[ 'NUL in an address',   [ from => "a\@example.com\0" ], $option ],
	[ 'display name',        [ to   => ['B <b@example.com>'] ], $option ],
	[ 'no address',          [ to   => ['nobody'] ], $option ],
	[ 'LF in a password',    [ login => [ username => 'u', password => "a\nb" ] ], $option ],
	[ 'no recipient',        [ to   => [] ], 'a mail needs a sender and a recipient' ],
	[ '101 recipients',      [ to   => [ map { "b$_\@example.com" } 1 .. 101 ] ], 'a mail has more than 100 recipients' ],
	[ 'NUL in the text',     [ body => "a\0b" ], 'the mail has a NUL or a line of more than 998 bytes' ],
	[ 'a long line',         [ body => 'x' x 999 ], 'the mail has a NUL or a line of more than 998 bytes' ],
	[ 'a header',            [ headers => [ 'X-A' => 'b' ] ], 'a mail has its headers in its body' ],
	[ 'another method',      [ method => 'POST' ], 'the method does not fit the url' ],
	[ 'another scheme',      [ url => "http://127.0.0.1:$port/" ], 'the method does not fit the url' ],
	[ 'a path',              [ url => "$url/a/b" ], 'the url of a mail server has nothing behind host and port but a name' ],
	[ 'CR LF as percents',   [ url => "$url/a%0d%0aDATA" ], 'the url of a mail server has nothing behind host and port but a name' ],
	[ 'a query',             [ url => "$url/?a" ], 'the url of a mail server has nothing behind host and port but a name' ],
	[ 'credentials',         [ url => "smtp://u:p\@127.0.0.1:$port" ], 'the url holds credentials' ],
	[ 'not allowed',         [ hosts => "smtps://127.0.0.1" ], "smtp://127.0.0.1:$port is not in monitoring.allowed_hosts" ],
	[ 'another port',        [ hosts => "127.0.0.1:25" ], "smtp://127.0.0.1:$port is not in monitoring.allowed_hosts" ])
{
	is(try_mail(@{ $case->[1] }), "x|0|$case->[2]", "refused: $case->[0]");
}

# A server that greets badly, or says too much.
for my $case ([ "554 go away\r\n", qr/^r\|554\|SMTP reply 554$/ ], [ "421 busy\r\n", qr/^r\|421\|SMTP reply 421$/ ], [ "\x00\xff garbage\r\n", qr/^n\|0\|./ ],
	[ '220-' . 'x' x 100 . "\r\n", qr/^n\|0\|the response has more than 64 kB of headers$/, 2000 ])
{
	my $mute = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $!";
	send_request($s, method => 'SMTP', url => 'smtp://127.0.0.1:' . $mute->sockport, body => $text, options => [ mail_from => 'a@b', mail_rcpt => 'a@b' ]);
	my $peer = $mute->accept;
	local $SIG{PIPE} = 'IGNORE';
	syswrite($peer, $case->[0]) // last for 1 .. $case->[2] // 1;
	my $bad = read_outcome($s);
	like("$bad->{kind}|$bad->{status}|$bad->{error}", $case->[1], 'a greeting: ' . substr($case->[0], 0, 8) =~ s/[^ -~]/?/gr);
}
is(stop_sender($s), 0, 'it ends');

# ---- from the outbox ----

my $node = PostgreSQL::Test::Cluster->new('mail');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
max_worker_processes = 16
CONF
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION monitoring;
	CREATE FUNCTION public.format_letter(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE sql AS $$
		SELECT 'SMTP', receiver ->> 'url', jsonb_build_object('From', 'monitor@example.com', 'To', receiver -> 'config' -> 'to'),
			concat_ws(E'\n', 'From: monitor@example.com', 'Message-ID: <' || (notification ->> 'idempotencyKey') || '@example.com>',
				'MIME-Version: 1.0', 'Content-Type: multipart/alternative; boundary="=b"', '',
				'--=b', 'Content-Type: text/plain', '', 'text', '--=b', 'Content-Type: text/html', '', '<p>html</p>', '--=b--', '')
	$$;
	INSERT INTO monitoring.receiver_kinds (kind, function, schemes, config_keys, secret_keys)
	VALUES ('letter', 'public.format_letter', '{smtp,smtps}', '{to,username,starttls}', '{password}')});

sub letter
{
	my ($name, $to, $password) = @_;
	$node->safe_psql('postgres', qq{SELECT monitoring.create_receiver('$name', 'letter', '$url', '{"to": $to, "username": "user",
		"password": "$password", "ca_file": "$certs/ca.pem", "max_attempts": 2}')});
	return $node->safe_psql('postgres', "SELECT monitoring.test_receiver('$name')");
}

sub wait_for
{
	my ($id, $expected, $name) = @_;
	$node->poll_query_until('postgres', "SELECT concat_ws('|', state, attempts, http_status, error) FROM monitoring.notifications WHERE id = $id", $expected);
	is($node->safe_psql('postgres', "SELECT concat_ws('|', state, attempts, http_status, error) FROM monitoring.notifications WHERE id = $id"), $expected, $name);
	return;
}

my $password = 'pass \\"\\\\ wörd';
my $id = letter('team', '["b@example.com", "c@example.com"]', $password);
wait_for($id, 'sent|1|250', 'a mail goes out');
$mail = (mails())[-1];
is("$mail->{mail_from} @{ $mail->{rcpt} } $mail->{user}", 'monitor@example.com b@example.com c@example.com user', '... with its envelope and password');
like($mail->{content}, qr/boundary="=b"\r\n\r\n--=b\r\n.*\r\n--=b--\r\n$/s, '... in its parts');
is($node->safe_psql('postgres', "SELECT protocol, bytes > 0 FROM monitoring.delivery_attempts WHERE notification_id = $id"), 'SMTP|t', '... which the attempt tells');
wait_for(letter('wrong', '"b@example.com"', 'wrong'), 'dead|1|535|SMTP reply 535 to AUTH', 'a mail server\'s 5xx is final');
wait_for(letter('later', '["451@recipient.example"]', $password), 'dead|2|451|SMTP reply 451 to RCPT; given up (attempts: 2)', 'its 4xx is tried again');

# The kind that comes with the extension.
$node->safe_psql('postgres', qq{SELECT monitoring.create_receiver('mail', 'email', '$url', '{"from": "\\"Datenbank Köln\\" <db\@example.com>",
	"to": ["Ann <ann\@example.com>", "ops\@example.com"], "bcc": "audit\@example.com", "username": "user", "password": "$password", "ca_file": "$certs/ca.pem"}')});
wait_for($node->safe_psql('postgres', q{SELECT monitoring.test_receiver('mail')}), 'sent|1|250', 'the kind email');
$mail = (mails())[-1];
is("$mail->{mail_from} " . join(' ', sort @{ $mail->{rcpt} }), 'db@example.com ann@example.com audit@example.com ops@example.com', '... with all of its recipients');
my ($head, $rest) = split /\r\n\r\n/, $mail->{content}, 2;
unlike($mail->{content}, qr/audit\@/, '... of whom nobody sees the blind ones');
like($head, qr/^Message-ID: <[^>\r\n]+>\r\nIn-Reply-To: <group\.[^>\r\n]+>\r\n/m, '... in its thread');
my ($boundary) = $head =~ /boundary="([^"]+)"/;
my @parts = split /--\Q$boundary\E(?:--)?\r\n/, $rest;
my %part = map { my ($h, $b) = split /\r\n\r\n/, $_, 2; (($h =~ /Content-Type: ([^;\r]+)/)[0] => decode_base64($b)) } grep { /Content-Type/ } @parts;
is(join(' ', sort keys %part), 'text/html text/plain', '... in two parts');
like($part{$_}, qr/Test notification of monitoring/, "... $_ tells") for sort keys %part;

$node->stop;
stop_receivers();
done_testing();
