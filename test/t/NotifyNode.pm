# What the tests of notifications share: a server that may send to this machine, an HTTP receiver beside it
# (test/lib/http_receiver.py), and ways to wait for what becomes of a notification.
package NotifyNode;

use strict;
use warnings;
use Exporter 'import';
use FindBin;
use IPC::Run;
use JsonLines;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RestartingServer qw(psql_if_up);
use Test::More;
use Time::HiRes qw(usleep time);

our @EXPORT = qw(new_node start_receiver stop_receiver requests wait_until wait_requests);
our @EXPORT_OK = qw(sql wait_for message outcome notifier senders log_has);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $node;
my $receiver;

# A server that has not been started; the functions below are about the one made last.
sub new_node
{
	my ($name, $conf, %init) = @_;
	$node = PostgreSQL::Test::Cluster->new($name);
	$node->init(%init);
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'monitoring'
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
max_worker_processes = 16
log_statement = none
restart_after_crash = on
CONF
	$node->append_conf('postgresql.conf', $conf) if $conf;
	return $node;
}

# ---- the receiver ----

sub requests_file { return "$PostgreSQL::Test::Utils::tmp_check/receiver.jsonl"; }

# Start it; its url.
sub start_receiver
{
	my ($in, $out) = ('', '');
	$receiver = IPC::Run::start([ 'python3', "$FindBin::Bin/../lib/http_receiver.py", requests_file() ], '<', \$in, '>', \$out, IPC::Run::timeout($timeout * 10));
	IPC::Run::pump($receiver) until $out =~ /port (\d+)\n/;
	return "http://127.0.0.1:$1";
}

sub stop_receiver { $receiver->kill_kill(grace => 1); return; }

# What arrived, in order; what arrived at a path.
sub all_requests { return json_lines(requests_file()); }

sub requests { my ($path) = @_; return grep { $_->{path} eq $path } all_requests(); }

# ---- waiting ----

# Poll a condition; the last value it had.
sub wait_until
{
	my ($condition) = @_;
	my $end = time() + $timeout;
	my $value;
	usleep(50_000) until ($value = $condition->()) || time() > $end;
	return $value;
}

sub wait_requests
{
	my ($path, $n, $name) = @_;
	wait_until(sub { requests($path) >= $n });
	is(scalar(requests($path)), $n, $name);
	return;
}

sub log_has { my ($from, $pattern) = @_; return wait_until(sub { substr(slurp_file($node->logfile), $from) =~ $pattern }); }

# ---- SQL ----

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Poll a query until it returns the expected text; the server may be restarting meanwhile.
sub wait_for
{
	my ($query, $expected, $name) = @_;
	my $got = '';
	wait_until(sub { my $status; ($status, $got) = psql_if_up($node, 'postgres', $query); return $status == 0 && $got eq $expected; });
	is($got, $expected, $name);
	return;
}

# The number of a test notification, and the query for what has become of one.
sub message { return sql("SELECT monitoring.test_receiver('$_[0]')"); }
sub outcome { return "SELECT $_[1] FROM monitoring.notifications WHERE id = $_[0]"; }

sub notifier { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND datname = 'postgres'}); }

# The sender of a notifier.
sub senders
{
	my ($pid) = @_;
	return grep { $_ } split /\s+/, `pgrep -P $pid -x monitoring_send`;
}

1;
