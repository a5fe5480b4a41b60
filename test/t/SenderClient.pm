# What tests of the sender program share: receivers, and the protocol (src/outbound/sender/protocol.h) as the notifier speaks
# it.
package SenderClient;
use strict;
use warnings;

use FindBin;
use IO::Select;
use IPC::Run;
use JsonLines;
use POSIX ();
use PostgreSQL::Test::Utils;
use Socket;
use Exporter 'import';
use Time::HiRes qw(time usleep);

our @EXPORT = qw(start_receiver start_server stop_receivers requests start_sender read_frame write_bytes request_frame
	send_request read_outcome try_request try_probe ended stop_sender make_certificates);

# What is known only once the test runs.
sub timeout { return $PostgreSQL::Test::Utils::timeout_default; }
sub log_file { return "$PostgreSQL::Test::Utils::tmp_check/receiver.jsonl"; }

sub sender_path
{
	return $ENV{MONITORING_SENDER} if $ENV{MONITORING_SENDER};
	my ($out, $err) = run_command([ 'pg_config', '--pkglibdir' ]);
	return "$out/monitoring_sender";
}

# ---- receivers ----

my @receivers;

# Start a program of test/lib that says on which port it listens.
sub start_server
{
	my ($program, @more) = @_;
	my ($in, $out) = ('', '');
	my $handle = IPC::Run::start([ '/usr/bin/python3', "$FindBin::Bin/../lib/$program", @more ], '<', \$in, '>', \$out,
		IPC::Run::timeout(timeout() * 3));
	IPC::Run::pump($handle) until $out =~ /port (\d+)\n/;
	push @receivers, $handle;
	return $1;
}

sub start_receiver { return start_server('http_receiver.py', log_file(), 0, '127.0.0.1', @_); }

sub stop_receivers
{
	$_->kill_kill(grace => 1) for @receivers;
	return;
}

sub requests
{
	my ($path) = @_;
	return grep { $_->{path} eq $path } json_lines(log_file());
}

# ---- the protocol ----

sub start_sender
{
	my (%env) = @_;
	socketpair(my $ours, my $its, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		POSIX::dup2(fileno($its), 0);
		POSIX::dup2(fileno($its), 1);
		my $path = sender_path();
		%ENV = %env;
		exec($path) or POSIX::_exit(127);
	}
	close $its;
	return { pid => $pid, sock => $ours, in => '' };
}

# Bytes or undef at the end of the file; dies when nothing comes.
sub read_more
{
	my ($s) = @_;
	IO::Select->new($s->{sock})->can_read(timeout()) or die 'the sender does not answer';
	return sysread($s->{sock}, $s->{in}, 65536, length $s->{in}) ? 1 : undef;
}

sub read_frame
{
	my ($s) = @_;
	until (length $s->{in} >= 4 && length $s->{in} >= 4 + unpack('L', $s->{in}))
	{
		read_more($s) or return;
	}
	my $len = unpack('L', substr($s->{in}, 0, 4, ''));
	return substr($s->{in}, 0, $len, '');
}

sub write_bytes
{
	my ($s, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes)
	{
		my $n = syswrite($s->{sock}, $bytes) // return;
		substr($bytes, 0, $n, '');
	}
	return;
}

# As long as a machine may stall; what is about time has a time of its own.
sub request_frame
{
	my (%r) = (tag => 1, connect => 50_000, total => 50_000, private => 1, hosts => '*', method => 'POST', body => '{}', headers => [], options => [], @_);
	my $frame = pack('C Q L L C L/a* L/a* L/a* L/a* L', ord('R'), @r{qw(tag connect total private hosts method url body)},
		@{ $r{headers} } / 2);
	$frame .= pack('L/a*', $_) for @{ $r{headers} };
	$frame .= pack('L', @{ $r{options} } / 2);
	$frame .= pack('L/a*', $_) for @{ $r{options} };
	return pack('L/a*', $frame);
}

sub send_request { my ($s, @r) = @_; return write_bytes($s, request_frame(@r)); }

sub read_outcome
{
	my ($s) = @_;
	my $frame = read_frame($s) // return { kind => 'end' };
	my %o;
	(my $type, @o{qw(tag kind status latency retry_after bytes protocol begun error)}) = unpack('a Q a L Q q Q C C L/a*', $frame);
	die "frame of type $type" if $type ne 'O';
	return \%o;
}

# One request, its outcome as "kind|status|error".
sub try_request
{
	my ($s, @r) = @_;
	send_request($s, @r);
	my $o = read_outcome($s);
	return join('|', map { $_ // '' } @$o{qw(kind status error)});
}

# One probe, its answer as a hash; `sort` and `redirects` are its own.
sub try_probe
{
	my ($s, %r) = @_;
	my $frame = substr(request_frame(method => 'GET', body => '', %r), 4);
	substr($frame, 0, 1) = 'P';
	$frame .= pack('a C', $r{sort}, $r{redirects} // 0);
	write_bytes($s, pack('L/a*', $frame));
	$frame = read_frame($s) // return { kind => 'end' };
	my %a;
	(my $type, @a{qw(tag kind status protocol redirected latency dns connect tls first_byte bytes error certificate_error addresses certificates headers body)})
		= unpack('a Q a L C C Q Q Q Q Q Q L/a* L/a* L/a* L/a* L/a* L/a*', $frame);
	die "frame of type $type" if $type ne 'A';
	return \%a;
}

# Wait for the process to end by itself; its exit status, or -1.
sub ended
{
	my ($s) = @_;
	my $end = time() + timeout();
	while (time() < $end)
	{
		return $? >> 8 if waitpid($s->{pid}, POSIX::WNOHANG()) == $s->{pid};
		select(undef, undef, undef, 0.02);
	}
	return -1;
}

sub stop_sender
{
	my ($s) = @_;
	close $s->{sock};
	return ended($s);
}

# ---- certificates ----

# An authority and certificates of its own and of others, below the directory: ca.pem, and NAME.pem (key and certificate) for
# good, expired, other (another host), self and client.
sub make_certificates
{
	my ($dir) = @_;
	my $run = sub { run_log([ 'openssl', @_ ]) or die "openssl @_"; return; };
	mkdir $dir;
	append_to_file("$dir/ext.cnf", "[host]\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n[elsewhere]\nsubjectAltName=DNS:elsewhere.example\n"
		. "[ca]\nbasicConstraints=critical,CA:true\n[ca2]\ndefault_ca=ours\n"
		. "[ours]\nnew_certs_dir=$dir\ndatabase=$dir/index\nserial=$dir/serial\ndefault_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n");
	append_to_file("$dir/index", '');
	append_to_file("$dir/serial", "1000\n");
	for my $ca ('ca', 'stranger')
	{
		$run->('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=test $ca", '-days', '30', '-keyout', "$dir/$ca.key", '-out', "$dir/$ca.pem");
	}
	for my $case ([ 'good', 'host', 'ca' ], [ 'other', 'elsewhere', 'ca' ], [ 'expired', 'host', 'ca' ], [ 'client', 'host', 'ca' ],
		[ 'unknown', 'host', 'stranger' ])
	{
		my ($name, $ext, $ca) = @$case;
		my @dates = $name eq 'expired' ? ('-startdate', '20200101000000Z', '-enddate', '20200201000000Z') : ('-days', '30');
		$run->('req', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr");
		$run->('ca', '-batch', '-notext', '-config', "$dir/ext.cnf", '-name', 'ours', '-extfile', "$dir/ext.cnf", '-extensions', $ext, '-cert', "$dir/$ca.pem",
			'-keyfile', "$dir/$ca.key", '-in', "$dir/$name.csr", '-out', "$dir/$name.crt", @dates);
		append_to_file("$dir/$name.pem", slurp_file("$dir/$name.key") . slurp_file("$dir/$name.crt"));
	}
	$run->('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', "$dir/self.key",
		'-out', "$dir/self.crt");
	append_to_file("$dir/self.pem", slurp_file("$dir/self.key") . slurp_file("$dir/self.crt"));
	return;
}

1;
