# A job in which the server crashes does not crash it over and over: it is put off while everything else goes on, and
# runs again when it is mended.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RestartingServer qw(psql_if_up wait_for_sql);
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('crashing');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
restart_after_crash = on
monitoring.collect = off
max_worker_processes = 16
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION monitoring');

sub crashes
{
	return scalar(() = slurp_file($node->logfile) =~ /was terminated by signal 9/g);
}

# Crashes after the second one that came before the ten seconds for which the job is put off: on a slow machine they may be over.
sub too_soon
{
	my @at = map { $_->[0] * 3600 + $_->[1] * 60 + $_->[2] } map { [ /^\S+ (\d+):(\d+):([0-9.]+) / ] } grep { /was terminated by signal 9/ } split /\n/, slurp_file($node->logfile);
	return scalar(grep { ($at[$_] - $at[ $_ - 1 ]) % 86400 < 9 } 2 .. $#at);
}

my $state = q{(SELECT state FROM monitoring.status WHERE job = 'crashing')};

$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION public.crash(at timestamptz) RETURNS void LANGUAGE plpgsql AS
$$BEGIN COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'; END$$;
CREATE FUNCTION public.harmless(at timestamptz) RETURNS void LANGUAGE sql AS 'SELECT';
INSERT INTO monitoring.jobs (name, function, every) VALUES
	('crashing', 'public.crash', '1 second'), ('harmless', 'public.harmless', '200 ms');
SQL

ok(wait_for_sql($node, 'postgres', "SELECT $state = 'put off'"), 'a job that was running at two crashes is put off');
cmp_ok(crashes(), '>=', 2, 'not before');
# it is noted before the worker, started anew, comes to it
ok($node->wait_for_log(qr/monitoring job "crashing" is put off for \d+ seconds.*It was running when the server crashed, 2 times in a row/s), 'the log tells it');
ok(wait_for_sql($node, 'postgres', q{SELECT runs >= 20 FROM monitoring.status WHERE job = 'harmless'}), 'other jobs go on');
is(too_soon(), 0, 'and the server is up');

my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
sleep 1 while (psql_if_up($node, 'postgres', q{CREATE OR REPLACE FUNCTION public.crash(at timestamptz) RETURNS void LANGUAGE sql AS 'SELECT'}))[0] != 0 && time() < $end;
my $crashes = crashes();
ok(wait_for_sql($node, 'postgres', "SELECT $state = 'ok'"), 'it is tried again, and runs once it is mended');
is(crashes(), $crashes, 'without a crash');

# A crash of something else that finds an idle or a harmless job puts nothing off.
$node->safe_psql('postgres', q{UPDATE monitoring.jobs SET enabled = false WHERE name = 'crashing'});
for my $round (1 .. 2)
{
	$node->psql('postgres', q{COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'});
	ok(wait_for_sql($node, 'postgres', q{SELECT runs >= 3 FROM monitoring.status WHERE job = 'harmless'}), "crash $round of a session: jobs run");
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM monitoring.status WHERE state = 'put off'}), '0', 'no job is put off');

$node->stop;
done_testing();
