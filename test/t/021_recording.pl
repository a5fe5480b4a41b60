# Recorded exactly once: whatever ends the transaction, the session or the
# statement; bounded whatever is recorded; definitions survive dump and restart.

use strict;
use warnings;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use QuietNode;
use Test::More;

my $node = new_quiet_node('main', <<'CONF');
max_prepared_transactions = 4
CONF
$node->start;
# nothing records but this test
$node->safe_psql('postgres', q{BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name NOT IN ('flush', 'compact', 'retention'); COMMIT});
my $is_16 = $node->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int >= 160000}) eq 't';

sub sum
{
	my ($metric) = @_;
	return $node->safe_psql('postgres',
		"SELECT coalesce(monitoring.value('$metric', 'sum', '2 hours'), 0)");
}

sub balanced
{
	my ($name) = @_;
	is($node->safe_psql('postgres', 'SELECT accepted - persisted - pending - dropped FROM monitoring.self'),
		'0', "the account balances: $name");
	return;
}

# What is late, and what is transactional, follows the transaction; the rest counts always.
sub observe
{
	my ($metric) = @_;
	return "monitoring.increment('$metric'), monitoring.record_at('${metric}_late', 1, now() - interval '1 hour', kind => 'counter')";
}

# Prepared transactions: late observations are their rows, counted when they are committed; the others were made.
sub accepted
{
	return $node->safe_psql('postgres', 'SELECT monitoring.flush(); SELECT accepted FROM monitoring.self') =~ s/.*\n//r;
}

sub prepare
{
	my ($gid, $metric) = @_;
	$node->safe_psql('postgres', 'BEGIN; SELECT ' . observe($metric) . "; PREPARE TRANSACTION '$gid'");
	return;
}

my $accepted = accepted();
prepare('p1', 'two_phase');
is(sum('two_phase') . sum('two_phase_late'), '10', 'late observations of a prepared transaction wait');
is(accepted() - $accepted, 1, 'and are not counted');
# New series, and nobody waits for the transaction that is the first to write them.
$node->safe_psql('postgres', 'SELECT ' . observe('two_phase') . q{; SELECT monitoring.increment('two_phase_late')});
is(sum('two_phase') . sum('two_phase_late'), '22', 'others record the same series meanwhile');
is(accepted() - $accepted, 4, 'and flush it');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p1'});
is(sum('two_phase') . sum('two_phase_late'), '23', 'they count once when it commits');
is(accepted() - $accepted, 5, 'in the account, too');
prepare('p2', 'two_phase');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p2'});
is(sum('two_phase') . sum('two_phase_late'), '33', 'and not at all when it rolls back');
is(accepted() - $accepted, 6, 'nor in the account');
balanced('prepared transactions');

# A crash between: what was prepared is there, whichever way it ends.
prepare($_, "two_phase_$_") for qw(p3 p4);
$node->stop('immediate');
$node->start;
$accepted = accepted();
$node->safe_psql('postgres', q{COMMIT PREPARED 'p3'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p4'});
is(sum('two_phase_p3_late') . sum('two_phase_p4_late'), '10', 'after a crash one commits and the other rolls back');
is(accepted() - $accepted, 1, 'counted once');
is($node->safe_psql('postgres', q{SELECT string_agg(metric, ',') FROM monitoring.metrics WHERE metric LIKE 'two\_phase\_p_\_late'}),
	'two_phase_p3_late', 'and only the one is known');
balanced('prepared transactions and a crash');

# What was deleted meanwhile comes back with what the transaction brings, and nothing else.
prepare('p5', 'two_phase_p3');
is($node->safe_psql('postgres', q{SELECT monitoring.delete_series('two_phase_p3_late')}), '1', 'deleting waits for no prepared transaction');
is(sum('two_phase_p3_late'), '0', 'a metric without series is read as one without data');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p5'; SELECT monitoring.flush()});
is(sum('two_phase_p3_late'), '1', 'what commits later is later');
is($node->safe_psql('postgres', q{SELECT monitoring.compact(clock_timestamp() + interval '5 hours') > 0, s.* FROM monitoring.check_storage() s}), '', 'no row is without its series');

# Nobody could flush until it is remembered.
for my $call ('flush()', 'compact()', q{reset('two_phase_p3_late')}, q{delete_series('two_phase_p3_late')})
{
	my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT monitoring.$call; PREPARE TRANSACTION 'p6'");
	like($err, qr/cannot PREPARE a transaction that has flushed, compacted or deleted metrics/, "PREPARE is refused after $call");
}
is(sum('two_phase_p3_late'), '1', 'and nothing was done');

# A transaction that defines a metric does not keep the worker from flushing the others; nor is this one lost.
$node->safe_psql('postgres', q{SELECT monitoring.increment('defining_total'); BEGIN; SELECT monitoring.flush_job(now()); ROLLBACK});
my $definer = $node->background_psql('postgres');
$definer->query_safe(q{BEGIN; SELECT monitoring.define_metric('defining_total', 'counter')});
$node->safe_psql('postgres', q{SET statement_timeout = '60s'; SELECT monitoring.increment('beside_total'), monitoring.increment('defining_total'); SELECT monitoring.flush_job(now())});
is($node->safe_psql('postgres', q{SELECT string_agg(metric, ',') FROM monitoring.series_catalog WHERE metric IN ('beside_total', 'defining_total')}),
	'beside_total', 'a flush leaves out what is being defined');
is(sum('defining_total') . sum('beside_total'), '21', 'which can be read all the same');
$definer->query_safe('COMMIT');
$definer->quit;
$node->safe_psql('postgres', 'SELECT monitoring.flush_job(now())');
is(sum('defining_total'), '2', 'and is flushed by the next one');
is($node->safe_psql('postgres', q{SELECT pending FROM monitoring.self}), '0', 'so nothing is pending');
balanced('definitions');

# Rollback, savepoints
$node->safe_psql('postgres', 'BEGIN; SELECT ' . observe('rb') . '; SAVEPOINT a; SELECT ' . observe('rb')
	  . '; ROLLBACK TO a; SELECT ' . observe('rb') . '; SAVEPOINT b; SELECT ' . observe('rb') . '; RELEASE b; COMMIT');
is(sum('rb') . sum('rb_late'), '43', 'a savepoint rolled back takes late observations with it');
$node->safe_psql('postgres', 'BEGIN; SELECT ' . observe('rb') . '; ROLLBACK');
is(sum('rb') . sum('rb_late'), '53', 'and so does a transaction');

# Procedures that commit
$node->safe_psql('postgres', 'CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. 10 LOOP PERFORM '
	  . observe('proc') . '; IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF; END LOOP; END $$; CALL p()');
is(sum('proc') . ' ' . sum('proc_late'), '10 5', 'procedures with COMMIT and ROLLBACK');
$node->safe_psql('postgres', 'SET monitoring.transactional = on; CALL p()');
is(sum('proc') . ' ' . sum('proc_late'), '15 10', 'and with monitoring.transactional');

# Deferred triggers, and a cursor that is materialised at commit
$node->safe_psql('postgres', 'CREATE TABLE t (i int); CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM '
	  . observe('deferred') . '; RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER tr AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED '
	  . 'FOR EACH ROW EXECUTE FUNCTION tr()');
$node->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 7)');
is(sum('deferred') . sum('deferred_late'), '77', 'triggers deferred to the commit');
$node->safe_psql('postgres', 'SET monitoring.transactional = on; BEGIN; INSERT INTO t SELECT generate_series(1, 7); COMMIT');
is(sum('deferred') . ' ' . sum('deferred_late'), '14 14', 'and with monitoring.transactional');
$node->safe_psql('postgres', 'BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT ' . observe('hold')
	  . ' FROM generate_series(1, 9); FETCH 2 FROM c; COMMIT; FETCH 3 FROM c');
# Materialising a cursor runs its query from the start.
is(sum('hold') . ' ' . sum('hold_late'), '11 11', 'a cursor held over the commit');

# Parallel query: functions that are marked safe run in workers.
my $mode = $is_16 ? 'debug_parallel_query' : 'force_parallel_mode';
$node->safe_psql('postgres', q{
	CREATE FUNCTION in_worker(metric text) RETURNS void LANGUAGE sql PARALLEL SAFE AS 'SELECT monitoring.increment(metric)';
	CREATE FUNCTION late_in_worker(metric text) RETURNS void LANGUAGE sql PARALLEL SAFE
		AS $$SELECT monitoring.record_at(metric, 1, now() - interval '1 hour', kind => 'counter')$$;
	CREATE TABLE many AS SELECT i FROM generate_series(1, 20000) i;
	ALTER TABLE many SET (parallel_workers = 2); ANALYZE many});
my $parallel = "SET $mode = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
	SET parallel_leader_participation = off; ";
$node->safe_psql('postgres', "$parallel SELECT count(in_worker('par')) FROM many");
is(sum('par'), '20000', 'parallel workers count once');
$node->safe_psql('postgres', "$parallel SELECT count(" . observe('leader') =~ s/, monitoring/), count(monitoring/r . ') FROM many');
is(sum('leader') . ' ' . sum('leader_late'), '20000 20000', 'the leader of a parallel query, late ones beyond the bound of memory');
my ($rc, $out, $err) = $node->psql('postgres', "$parallel SET monitoring.transactional = on; SELECT count(in_worker('par_tx')) FROM many");
like($err, qr/cannot be recorded in a parallel worker with monitoring.transactional/, 'a worker refuses what it could not publish at commit');
($rc, $out, $err) = $node->psql('postgres', "$parallel SELECT count(late_in_worker('par_late')) FROM many");
like($err, qr/cannot be recorded in a parallel worker/, 'and what it could not write');
is(sum('par_tx') . sum('par_late'), '00', 'nothing of it is left');
balanced('parallel query');

# Reads in the leader of one.
my %reads = (
	value => q{SELECT monitoring.value('par', 'sum', '2 hours')},
	series_values => q{SELECT value FROM monitoring.series_values('par', 'sum', '2 hours', '{}', '{}', now())},
	read_values => q{SELECT value FROM monitoring.read_values(ARRAY[ROW('par', 'sum', '2 hours', NULL, NULL, NULL)]::monitoring.value_request[])},
	query => q{SELECT sum(value) FROM monitoring.query('par', 'sum', now() - interval '2 hours', now() + interval '10 s', '10 s')},
	rolling => q{SELECT max(value) FROM monitoring.rolling('par', 'sum', now() - interval '1 hour', now() + interval '10 s', '10 s', '1 hour')},
	top => q{SELECT value FROM monitoring.top('par', 'sum', '{}', '2 hours')},
	compare => q{SELECT value FROM monitoring.compare('par', 'sum', '2 hours')},
	last_observed => q{SELECT 20000 FROM monitoring.last_observed('par', '2 hours')},
	self => q{SELECT 20000 FROM monitoring.self});
for my $function (sort keys %reads)
{
	my $query = "SELECT count(*), ($reads{$function}) FROM many";
	like($node->safe_psql('postgres', "$parallel EXPLAIN $query"), qr/Gather/, "$function() beside parallel workers: the plan");
	is($node->safe_psql('postgres', "$parallel $query"), '20000|20000', "$function() beside parallel workers");
}

# Backends that end in the middle
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $victim->query_safe('SELECT pg_backend_pid()');
$victim->{stdin} .= 'BEGIN; SELECT ' . observe('killed') . "; SELECT monitoring.increment('killed'), pg_sleep(600);\n";
$victim->{run}->pump_nb;
$node->poll_query_until('postgres', "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $pid");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)");
is(sum('killed') . sum('killed_late'), '20', 'a backend terminated within a statement');
eval { $victim->quit };

# One message, so that the transaction is not idle before its end.
my $idle = raw_connect();
$idle->syswrite(message('Q', 'SET idle_in_transaction_session_timeout = 1; BEGIN; SELECT ' . observe('timed_out') . "\0"));
eval { read_until($idle, '') };
like($@, qr/\bC25P03\b/, 'a session timed out');
read_until($idle, '');
is(sum('timed_out') . sum('timed_out_late'), '10', 'FATAL in an idle transaction');
close $idle;

# The protocol itself: portals left open, pipelines, a client that is gone.
sub message
{
	my ($type, $body) = @_;
	return $type . pack('N', 4 + length $body) . $body;
}

sub raw_connect
{
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or die "cannot connect to $path: $!";
	my $user = $node->safe_psql('postgres', 'SELECT current_user');
	$socket->syswrite(message('', pack('N', 196608) . "user\0$user\0database\0postgres\0\0"));
	read_until($socket, 'Z');
	return $socket;
}

# Messages up to one of a type, or to the backend's end, by type
sub read_until
{
	my ($socket, $last) = @_;
	my $types = '';
	while (1)
	{
		my ($head, $body);
		defined read($socket, $head, 5) && length $head == 5 or return $types;
		my ($type, $length) = unpack('aN', $head);
		read($socket, $body, $length - 4) if $length > 4;
		$types .= $type;
		die "error from the server: $body" if $type eq 'E';
		return $types if $type eq $last;
	}
}

sub parse_bind
{
	my ($sql, $portal) = @_;
	return message('P', "\0$sql\0" . pack('n', 0)) . message('B', "$portal\0\0" . pack('nnn', 0, 0, 0));
}

my $rows = q{ FROM generate_series(1, 10)};
my $socket = raw_connect();
$socket->syswrite(parse_bind('SELECT ' . observe('portal') . $rows, 'a')
	  . message('E', "a\0" . pack('N', 3)) . message('H', ''));
is(read_until($socket, 's'), '12DDDs', 'a portal is suspended after three rows');
is(sum('portal') . sum('portal_late'), '30', 'what it has recorded is visible while it is open');
$socket->syswrite(message('E', "a\0" . pack('N', 2)) . message('S', ''));
read_until($socket, 'Z');
is(sum('portal') . sum('portal_late'), '55', 'and counts once when it is closed unfinished');

$socket->syswrite(join('', map { parse_bind('SELECT ' . observe('pipeline'), '') . message('E', "\0" . pack('N', 0)) } 1 .. 50)
	  . message('S', ''));
read_until($socket, 'Z');
is(sum('pipeline') . ' ' . sum('pipeline_late'), '50 50', 'a pipeline of fifty calls in one transaction');

$socket->syswrite(parse_bind('SELECT ' . observe('gone') . $rows, 'a') . message('E', "a\0" . pack('N', 4)) . message('H', ''));
read_until($socket, 's');
close $socket;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'}),
	'the backend of a client that is gone ends');
is(sum('gone') . sum('gone_late'), '40', 'what it recorded stays, what it would have written does not');
balanced('backends that ended');

# COPY reports its rows; one that fails half-way is all or nothing with monitoring.transactional.
my $file = $node->basedir . '/rows';
append_to_file($file, join('', map { "copied\t$_\t{\"k\": \"" . $_ % 5 . "\"}\n" } 1 .. 1000));
($rc, $out, $err) = $node->psql('postgres', "\\set QUIET off\n\\copy monitoring.ingest (metric, value, labels) FROM '$file'");
is($out, 'COPY 1000', 'COPY counts');
append_to_file($file, "copied\t1\t{\"k\": []}\n");
($rc, $out, $err) = $node->psql('postgres', "SET monitoring.transactional = on;\n\\copy monitoring.ingest (metric, value, labels) FROM '$file'");
like($err, qr/CONTEXT:  COPY ingest, line 1001/, 'an error names the row');
is(sum('copied'), 500500, 'and nothing of that COPY counts');

# Bombs: a million series in one session, in one COPY, a million metrics.
my $memory = q{SELECT sum(total_bytes) < 100 * 1024 * 1024 FROM pg_backend_memory_contexts};
is( $node->safe_psql('postgres', q{SELECT count(monitoring.increment('bomb_total', 1, jsonb_build_object('n', i))) FROM generate_series(1, 1000000) i; } . $memory),
	"1000000\nt", 'a million series in one session');
is(sum('bomb_total'), '1000000', 'its total is right');
my $bomb = $node->basedir . '/bomb';
$node->safe_psql('postgres', "COPY (SELECT 'bomb_seconds', i, jsonb_build_object('n', i) FROM generate_series(1, 1000000) i) TO '$bomb'");
is($node->safe_psql('postgres', "COPY monitoring.ingest (metric, value, labels) FROM '$bomb'; $memory"), 't', 'a million series in one COPY');
is($node->safe_psql('postgres', q{SELECT monitoring.value('bomb_seconds', 'count', '2 hours')}), '1000000', 'its count is right');
unlink $bomb;
$node->safe_psql('postgres', q{SET monitoring.transactional = on; BEGIN;
	SELECT count(monitoring.record('bomb_' || i, 1)) FROM generate_series(1, 100000) i; COMMIT});
is( $node->safe_psql('postgres', 'SELECT memory_used_bytes <= memory_bytes, dropped > 0 FROM monitoring.self'), 't|t',
	'metrics beyond all memory are dropped and counted');
balanced('bombs');

# Definitions: heeded by other sessions, kept by dump and restart.
$node->restart;
my $other = $node->background_psql('postgres');
$other->query_safe(q{SELECT monitoring.increment('defined_total', 1, jsonb_build_object('n', i)) FROM generate_series(1, 2) i});
$node->safe_psql('postgres', q{SELECT monitoring.define_metric('defined_total', 'counter', '1', 'What it counts', 3)});
$other->query_safe(q{SELECT monitoring.increment('defined_total', 1, jsonb_build_object('n', i)) FROM generate_series(1, 10) i});
my $series = q{SELECT series, overflowing, unit, description, max_series FROM monitoring.metrics WHERE metric = 'defined_total'};
is($node->safe_psql('postgres', $series), '4|t|1|What it counts|3', 'a limit holds for sessions that were there before');
$other->quit;
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '--no-sync', '-d', $node->connstr('postgres'), '-T', 'monitoring.*_p2*', '-f', $dump ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'restore');
$node->safe_psql('restored', q{SELECT monitoring.increment('defined_total', 1, jsonb_build_object('m', i)) FROM generate_series(1, 10) i});
is($node->safe_psql('restored', q{SELECT live_series, unit, description, max_series FROM monitoring.metrics WHERE metric = 'defined_total'}),
	'4|1|What it counts|3', 'a dump carries the definition, and it holds where it is restored');
$node->restart;
$node->safe_psql('postgres', q{SELECT monitoring.increment('defined_total', 1, jsonb_build_object('o', i)) FROM generate_series(1, 10) i});
is($node->safe_psql('postgres', q{SELECT live_series FROM monitoring.metrics WHERE metric = 'defined_total'}), '4', 'it is loaded after a restart');

$node->stop;
done_testing();
