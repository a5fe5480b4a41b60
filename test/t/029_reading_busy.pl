# Reads while flushes move what they read from memory to storage, series come
# into the catalog and others are deleted: nothing is seen twice or not at all.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use QuietNode;
use Test::More;

my $rounds = $ENV{READING_ROUNDS} || 250;

my $node = new_quiet_node('main', <<'CONF');
fsync = off
CONF
$node->start;
# Flushes are only those of this test.
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; COMMIT');

sub script
{
	my ($name, $content) = @_;
	my $file = $node->basedir . "/$name.sql";
	append_to_file($file, $content);
	return $file;
}

# Each client knows what it has observed, of a series that is new every few times.
# A wrong sum is a division by zero, which ends the client.
my $reader = script('reader', <<'SQL');
\set n :n + 1
\set k :n / 5
SELECT monitoring.increment('busy_total', 1, '{"c": :client_id, "k": :k}');
SELECT 1 / (monitoring.value('busy_total', 'sum', '1 hour', '{"c": :client_id}') = :n)::int;
SELECT 1 / (count(*) = 2)::int FROM monitoring.read_values(ARRAY[
	ROW('busy_total', 'sum', '30 minutes', '{"c": :client_id}', NULL, NULL),
	ROW('busy_total', 'increase', '1 hour', '{"c": {"=": ":client_id"}}', NULL, NULL)]::monitoring.value_request[]) WHERE value = :n;
SQL
my $flusher = script('flusher', "SELECT monitoring.flush();\n");
my $deleter = script('deleter', <<'SQL');
SELECT monitoring.increment('busy_total', 1, '{"c": "another"}');
SELECT 1 / (monitoring.value('busy_total', 'sum', '1 hour', '{"c": "another"}') = 1)::int;
SELECT monitoring.delete_series('busy_total', '{"c": "another"}');
SQL

# Beside the readers, until they are done.
sub beside
{
	my ($file) = @_;
	my ($in, $out, $err) = ('', '', '');
	my $run = IPC::Run::start([ 'pgbench', '-n', '-f', $file, '-T', $PostgreSQL::Test::Utils::timeout_default, $node->connstr('postgres') ],
		\$in, \$out, \$err);
	return { run => $run, err => \$err };
}
my @others = map { beside($_) } ($flusher, $deleter);
$node->command_ok(
	[ 'pgbench', '-n', '-f', $reader, '-D', 'n=0', '-c', 3, '-t', $rounds, $node->connstr('postgres') ],
	'every client reads at once exactly what it has observed');
for my $other (@others)
{
	$other->{run}->signal('INT');
	eval { $other->{run}->finish };
	unlike(${ $other->{err} }, qr/ERROR/, 'beside it all went well');
}

my $flushes = $node->safe_psql('postgres', 'SELECT flushes FROM monitoring.self');
cmp_ok($flushes, '>', 20, "there were flushes meanwhile ($flushes)");
is($node->safe_psql('postgres', q{SELECT monitoring.value('busy_total', 'sum', '1 hour', '{"c": {"!=": "another"}}')}), 3 * $rounds,
	'the sum of all');
is($node->safe_psql('postgres', 'SELECT accepted - persisted - pending - dropped FROM monitoring.self'), '0', 'the account balances');

# What is needed to look at a series is given back before the next one is looked at.
$node->safe_psql('postgres', q{SELECT monitoring.increment('crowd_total', 1, jsonb_build_object('n', i, 'tenth', i % 10)) FROM generate_series(1, 8000) i});
$node->safe_psql('postgres', 'SELECT monitoring.flush()');
my $memory = q{SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s+(\d+)')};
my $crowd = q{SELECT count(*), min(value) FROM monitoring.read_values(ARRAY(
	SELECT ROW('crowd_total', 'sum', i * interval '1 hour', NULL, '{tenth}', NULL)::monitoring.value_request FROM generate_series(1, %d) i))};
my ($one, $before, $twenty, $after) = split /\n/, $node->safe_psql('postgres',
	join('; ', sprintf($crowd, 1), $memory, sprintf($crowd, 20), $memory));
is("$one $twenty", '10|800 200|800', 'twenty reads of thousands of series');
cmp_ok($after - $before, '<', 65536, 'take little memory');
$node->safe_psql('postgres', 'ANALYZE');
is($node->safe_psql('postgres', q{SET jit_above_cost = 100; SELECT monitoring.value('crowd_total', 'sum', '1 hour', '{"n": 7}');
	SELECT pg_read_file('/proc/self/maps') ~ 'llvmjit'}), "1\nf", 'nothing is compiled to find a series');

$node->stop;
done_testing();
