# Machines that show little of themselves: a /proc of processes only, and of those of one's own account (hidepid=2,
# subset=pid), and one that is empty.  Each is mounted in a namespace of the server's own, which needs no rights.
# Then control groups of version 1, as a container sees them.

use strict;
use warnings;

use File::Path qw(make_path);
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $uid = $>;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = PostgreSQL::Test::Cluster->new('proc');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.collect = off
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
max_worker_processes = 16
CONF

# The command that mounts as root of a namespace and then runs a script as who we are.  That takes a namespace for users,
# which is made with the help of /proc, and so before that is hidden.
sub in_namespace
{
	my ($kinds, $mount, $run) = @_;
	unlink "$dir/ready", "$dir/go";
	system('mkfifo', "$dir/ready", "$dir/go") == 0 or die 'no fifo';
	return ('timeout', $PostgreSQL::Test::Utils::timeout_default * 2, 'unshare', '--user', '--map-root-user', '--mount', @$kinds, 'sh', '-c',
		"exec 3<&0; unshare --user --map-user=$uid sh -c 'echo > $dir/ready; read word < $dir/go; $run' <&3 & "
			. "read word < $dir/ready; $mount; echo \$? > $dir/mounted; echo > $dir/go; wait \$!; exit \$(cat $dir/mounted)");
}

sub possible
{
	my ($kinds, $mount) = @_;
	return system("unshare --user --map-root-user --mount @$kinds sh -c '$mount && unshare --user --map-user=12345 true' >/dev/null 2>&1") == 0;
}

my $server;
my $input;

sub start_in_namespace
{
	my ($kinds, $mount) = @_;
	my $pg_ctl = 'pg_ctl -D ' . $node->data_dir . ' -w';
	my $output = '';
	$input = '';
	$server = IPC::Run::start([ in_namespace($kinds, $mount, "$pg_ctl -l " . $node->logfile . " start >/dev/null && echo started; read word; $pg_ctl -m fast stop >/dev/null") ],
		'<', \$input, '>', \$output, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	IPC::Run::pump($server) until $output =~ /started/ || !$server->pumpable;
	return $output =~ /started/;
}

sub stop_in_namespace
{
	$input = "stop\n";
	return IPC::Run::finish($server);
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub latest
{
	my ($metric, $labels) = @_;
	return sql(sprintf(q{SELECT u.value FROM monitoring.collector_series s JOIN monitoring.collector_runs r USING (name),
		unnest(s.metrics, s.labels, r.readings) AS u (metric, labels, value) WHERE u.metric = '%s' AND u.labels @> '%s'}, $metric, $labels));
}

sub collect
{
	sql("SELECT monitoring.collect('{host,processes}')");
	return sql(q{SELECT string_agg(name || ' ' || outcome, ', ' ORDER BY name) FROM monitoring.collector_runs WHERE name IN ('host', 'processes')});
}

# ---- processes only ----

my @own_processes = ([ '--pid', '--fork', '--kill-child' ], 'mount -t proc -o hidepid=2,subset=pid proc /proc');

SKIP:
{
	skip 'no such /proc can be mounted here', 9 if !possible(@own_processes);

	ok(start_in_namespace(@own_processes), 'a server that sees its own processes, and nothing of the machine');
	sql('CREATE EXTENSION IF NOT EXISTS monitoring');
	is(sql(q{SELECT pg_read_file('/proc/self/mountinfo') ~ 'hidepid=(2|invisible),subset=pid', (pg_stat_file('/proc/stat', true)).size IS NULL}), 't|t', '... indeed');
	is(collect(), 'host ok, processes ok', 'nothing fails');
	is(latest('pg_processes', '{"group": "checkpointer"}'), '1', 'processes by kind');
	cmp_ok(latest('pg_process_private_bytes', '{"group": "postmaster"}'), '>', 0, '... with their memory');
	cmp_ok(latest('pg_server_cpu_seconds_total', '{}'), '>', 0, '... and time');
	is(latest('node_scrape_collector_success', '{"collector": "stat"}') . latest('node_scrape_collector_success', '{"collector": "filesystem"}'), '01', 'what is missing is said');
	cmp_ok(latest('host_disk_free_bytes', '{}') =~ /^(\d+)/ ? $1 : 0, '>', 0, 'volumes are looked at all the same');
	ok(stop_in_namespace(), 'a clean end');
}

# ---- nothing ----

my @nothing = ([], 'mount -t tmpfs -o ro tmpfs /proc');

SKIP:
{
	skip 'no volume can be mounted here', 9 if !possible([], 'mount -t tmpfs tmpfs /mnt');

	ok(start_in_namespace(@nothing), 'a server without /proc');
	sql('CREATE EXTENSION IF NOT EXISTS monitoring');
	is(sql(q{SELECT count(*) FROM pg_ls_dir('/proc')}), '0', '... indeed');
	is(collect(), 'host ok, processes ok', 'nothing fails');
	is(sql(q{SELECT string_agg(DISTINCT r.metric, ' ' ORDER BY r.metric) FROM monitoring.host_readings() AS r WHERE r.metric !~ '^node_filesystem'}),
		'host_disk_free_bytes host_disk_used_ratio node_scrape_collector_success', 'of the machine only what needs no /proc');
	is(sql(q{SELECT string_agg(r.labels ->> 'collector', ' ') FROM monitoring.host_readings() AS r WHERE r.metric = 'node_scrape_collector_success' AND r.value = 1}), 'filesystem', '... and what is missing is said');
	is(sql(q{SELECT r.labels ->> 'mount' FROM monitoring.host_readings() AS r WHERE r.metric = 'host_disk_free_bytes' LIMIT 1}), $node->data_dir, 'a volume of which no mount is known has the name of what is on it');
	is(sql('SELECT count(*) FROM monitoring.process_usage(ARRAY[pg_backend_pid()])') . sql('SELECT count(*) FROM monitoring.collect_processes(now())'), '00', 'no processes are told of');

	# The sender is another program, which must start there, too.
	my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "no socket: $!";
	sql(sprintf(q{SELECT monitoring.create_health_check('door', 'tcp', '{"host": "127.0.0.1", "port": %d}', every => '5 seconds')}, $listener->sockport));
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM monitoring.health_check_states WHERE check_name = 'door' AND status = 'healthy'}), 'requests are made');
	ok(stop_in_namespace(), 'a clean end');
}

# ---- control groups of version 1 ----

sub limits
{
	my (%files) = @_;
	my $group = "$dir/sys/fs/cgroup";
	make_path("$dir/proc/self", map { "$group/$_" } qw(memory/docker/x cpu/docker cpuacct));
	%files = ('../../../proc/self/cgroup' => "6:pids:/../..\n5:cpu,cpuacct:/docker\n4:memory:/docker/x\n0::/\n", %files);
	foreach my $file (keys %files)
	{
		open my $fh, '>', "$group/$file" or die "$file: $!";
		print $fh $files{$file};
		close $fh;
	}
	return sql(qq{SELECT string_agg(r.metric || ' ' || r.value, ', ' ORDER BY r.metric) FROM monitoring.host_readings('$dir') AS r WHERE r.metric ~ '^host_cgroup'});
}

$node->start;
sql('CREATE EXTENSION IF NOT EXISTS monitoring');
is(limits('memory/docker/x/memory.limit_in_bytes' => "4000000\n", 'memory/docker/x/memory.usage_in_bytes' => "1000000\n", 'memory/memory.limit_in_bytes' => "1\n",
		'cpu/cpu.cfs_quota_us' => "250000\n", 'cpu/cpu.cfs_period_us' => "100000\n", 'cpu/docker/cpu.stat' => "nr_throttled 1\nthrottled_time 2000000000\n", 'cpuacct/cpuacct.usage' => "7000000000\n"),
	'host_cgroup_cpu_limit_cores 2.5, host_cgroup_cpu_seconds_total 7, host_cgroup_cpu_throttled_seconds_total 2, '
		. 'host_cgroup_memory_limit_bytes 4000000, host_cgroup_memory_used_bytes 1000000, host_cgroup_memory_used_ratio 0.25',
	'limits and use, of its own group or of what it sees as the root');
is(limits('memory/docker/x/memory.limit_in_bytes' => "9223372036854771712\n", 'cpu/cpu.cfs_quota_us' => "-1\n", 'cpu/docker/cpu.stat' => '', 'cpuacct/cpuacct.usage' => "what\n"),
	'host_cgroup_memory_used_bytes 1000000', 'no limits, and files without sense');
$node->stop;
done_testing();
