# Delivery on bad days: a sender that lies or is not there, transactions that fail, slow formatters, and the end of
# notifier, server and database while something is under way. Nothing is lost; what may have arrived is sent again with
# the same idempotency key, and only where nobody could know.
# Runs alone: it replaces the installed sender.
use strict;
use warnings;

use File::Copy qw(copy);
use FindBin;
use NotifyNode qw(:DEFAULT sql wait_for message outcome notifier senders log_has);
use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_node('faults');
$node->start;
sql('CREATE EXTENSION monitoring');
my $url = start_receiver();

# ---- helpers ----

sub create { sql("SELECT monitoring.create_receiver('$_[0]', '" . ($_[3] // 'webhook') . "', '$url$_[1]', '" . ($_[2] // '{}') . "')"); return; }
sub gone { my ($pid) = @_; return wait_until(sub { !kill 0, $pid }); }

# The requests of a path, all with the same idempotency key?
sub one_key
{
	my %keys = map { $_->{headers}{'idempotency-key'} => 1 } requests($_[0]);
	return keys(%keys) == 1;
}

# ---- a transaction that fails ----

create('slow', '/wait/1?locked');
my $locker = $node->background_psql('postgres', on_error_stop => 1);
$locker->query_safe('BEGIN; LOCK TABLE monitoring.delivery_attempts IN ACCESS EXCLUSIVE MODE');
my $offset = -s $node->logfile;
my $id = message('slow');
wait_until(sub { requests('/wait/1?locked') });
my $before = notifier();
ok(log_has($offset, qr/canceling statement due to lock timeout/), 'an outcome cannot be recorded');
$locker->query_safe('COMMIT');
$locker->quit;
wait_for(outcome($id, 'state, attempts'), 'sent|1', '... is kept and recorded later');
is(join(' ', scalar(requests('/wait/1?locked')), notifier()), "1 $before", '... by the same notifier, and the request is not repeated');

# ---- what somebody else has locked ----

# Whoever drops a receiver, or cancels, in a transaction that stays open keeps nobody waiting.
create('beside', '/beside');
create('dropped', '/wait/4?dropped');
create('expires', '/hang?expires');
my $waiting = message('expires');
sql(q{SELECT monitoring.enable_receiver('expires', false)});
sql("UPDATE monitoring.outbox SET state = 'queued', lease_until = NULL WHERE id = $waiting");
# all is ready before the request is under way, and before the other one ends
$locker = $node->background_psql('postgres', on_error_stop => 1);
$id = message('dropped');
wait_until(sub { requests('/wait/4?dropped') });
$locker->query_safe("UPDATE monitoring.outbox SET expires_at = clock_timestamp() + interval '2 seconds' WHERE id = $waiting");
$locker->query_safe("BEGIN; SELECT monitoring.drop_receiver('dropped'); SELECT monitoring.cancel($waiting); SELECT monitoring.alter_receiver('beside', '{\"max_attempts\": 3}')");
wait_until(sub { sql("SELECT expires_at < clock_timestamp() - interval '1 second' FROM monitoring.outbox WHERE id = $waiting") eq 't' });
my $beside = message('beside');
wait_for(outcome($beside, 'state, attempts, sent_at - created_at < interval $$40 seconds$$'), 'sent|1|t', 'open transactions that hold notifications do not keep others waiting');
is(sql(outcome($id, 'state')) . sql(outcome($waiting, 'state')), 'sendingqueued', '... while what they hold stays as it is');
$locker->query_safe('ROLLBACK');
$locker->quit;
wait_for(outcome($id, 'state, attempts'), 'sent|1', '... and is recorded when they end');
wait_for(outcome($waiting, 'state'), 'dead', '... or given up');
is(scalar(requests('/wait/4?dropped')), 1, 'nothing was sent twice for it');
unlike(substr(slurp_file($node->logfile), $offset), qr/lock timeout.*lock timeout/s, 'nothing waited for a lock');
sql(q{SELECT monitoring.drop_receiver('expires')});

# ---- told to go ----

create('leaving', '/wait/0.3?leaving');
$id = message('leaving');
wait_until(sub { requests('/wait/0.3?leaving') });
# As pg_terminate_backend() and the postmaster do it: the process, then its group; the first may have been handled.
$before = notifier();
kill 'TERM', $before;
usleep(20_000);
kill 'TERM', $before;
wait_for(outcome($id, 'state, attempts'), 'sent|1', 'a notifier that is terminated takes the answer that is about to come');

$id = message('leaving');
wait_until(sub { requests('/wait/0.3?leaving') == 2 });
$node->restart;
is(sql(outcome($id, 'state, attempts')), 'sent|1', '... and so it does when the server stops');
is(scalar(requests('/wait/0.3?leaving')), 2, 'each was sent once');

# ---- a slow formatter, one that tells a secret ----

sql(q{
	CREATE FUNCTION public.format_slow(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE sql AS $$ SELECT 'POST', receiver ->> 'url', '{}'::jsonb, pg_sleep(3600)::text $$;
	CREATE FUNCTION public.format_telling(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'cannot post to %', receiver ->> 'url'; END $$;
	INSERT INTO monitoring.receiver_kinds (kind, function) VALUES ('slow', 'public.format_slow'), ('telling', 'public.format_telling')});
create('molasses', '/never', '{}', 'slow');
my @slow = map { message('molasses') } 1 .. 4;
$id = message('beside');
wait_for(outcome($id, 'state'), 'sent', 'a notification passes formatters that do not return');
wait_for("SELECT bool_and(state <> 'dead' AND error ~ '57014|took too long') FROM monitoring.notifications WHERE id IN (" . join(',', @slow) . ')', 't',
	'... which are called again later');
sql(q{SELECT monitoring.drop_receiver('molasses')});

create('telling', '/hook/s3cr3t', '{"headers": {"X-Token": "s3cr3t"}}', 'telling');
$id = message('telling');
wait_for(outcome($id, 'state, error'), 'dead|the formatter failed with SQLSTATE P0001', 'a formatter\'s message is not shown');

# ---- a sender that lies ----

my $libdir = $node->config_data('--pkglibdir');

# Replace the sender by another file, or by none; running ones go on.
sub swap_sender
{
	my ($file) = @_;
	unlink "$libdir/monitoring_sender";
	return if !$file;
	copy($file, "$libdir/monitoring_sender.new") && chmod(0755, "$libdir/monitoring_sender.new")
		&& rename("$libdir/monitoring_sender.new", "$libdir/monitoring_sender") or die "cannot replace the sender: $!";
	return;
}

sub kill_senders { kill 'KILL', senders($_) for grep { $_ } notifier(); return; }

sub outcome_frame
{
	my ($kind, $status, $latency, $retry_after, $error) = @_;
	my $fields = unpack('H*', pack('a L Q q Q C C L/a*', $kind, $status, $latency, $retry_after, 0, $status ? 11 : 0, 1, $error));
	return unpack('H*', pack('L', 9 + length($fields) / 2)) . '4fTT' . $fields;
}

# Also when this test dies on the way: others need it.
END
{
	local $?;
	if ($libdir && -e "$libdir/monitoring_sender.true")
	{
		swap_sender("$libdir/monitoring_sender.true");
		unlink "$libdir/monitoring_sender.true", "$libdir/false_sender.answer";
	}
}

SKIP:
{
	skip "$libdir cannot be written to", 21 if !-w $libdir;
	copy("$libdir/monitoring_sender", "$libdir/monitoring_sender.true") or die $!;

	create('lied', '/lied', '{"max_attempts": 1}');
	my %lies = (
		'status'      => outcome_frame('r', 4294967295, 0, -1, ''),
		'Retry-After' => outcome_frame('r', 429, 0, 9223372036854775807, ''),
		'error'       => outcome_frame('n', 0, 0, -1, "\xff\x00\xff"),
		'tag'         => outcome_frame('r', 200, 0, -1, '') =~ s/TT/ff00000001000000/r,
		'frame'       => 'ffffffff00');
	for my $lie (sort keys %lies)
	{
		swap_sender("$FindBin::Bin/../lib/false_sender.pl");
		open my $fh, '>', "$libdir/false_sender.answer" or die $!;
		print $fh "$lies{$lie}\n";
		close $fh;
		kill_senders();
		$offset = -s $node->logfile;
		$id = message('lied');
		ok(log_has($offset, qr/the monitoring sender sent a malformed frame/), "a sender that lies is ended: $lie");
		$before = notifier();
		swap_sender("$libdir/monitoring_sender.true");
		wait_for(outcome($id, 'state, http_status'), 'sent|200', '... and the notification delivered by the next');
		is(notifier(), $before, '... of the same notifier');
	}

	# ---- no sender at all ----

	swap_sender();
	kill_senders();
	$offset = -s $node->logfile;
	$id = message('beside');
	ok(log_has($offset, qr/the monitoring sender ended.*HINT:  Is "[^"]*" installed/s), 'a missing sender is reported');
	sql(q{
		CREATE TABLE public.calls (id text);
		CREATE FUNCTION public.called(jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.calls VALUES ($1 ->> 'id') $$;
		SELECT monitoring.create_receiver('near', 'sql', config => '{"function": "public.called"}');
		SELECT monitoring.create_receiver('nearer', 'notify', config => '{"channel": "near"}')});
	wait_for(outcome(message($_), 'state, attempts'), 'sent|1', "what needs no sender does not wait for it: $_") for qw(near nearer);
	is(sql(outcome($id, 'state, attempts')), 'queued|0', '... but what does, does');
	is(() = substr(slurp_file($node->logfile), $offset) =~ /the monitoring sender ended.*\n.*HINT/g, 1, 'it is reported once');
	swap_sender("$libdir/monitoring_sender.true");
	wait_for(outcome($id, 'state, attempts'), 'sent|1', '... and then delivered');
}

# ---- the end of the server, in every way ----

create('hanging', '/hang?end', '{"timeout_seconds": 60}');
$id = message('hanging');

# Wait until it is under way once more; notifier and sender.
sub under_way
{
	my ($path, $times) = @_;
	wait_until(sub { requests($path) >= $times });
	my $pid = notifier();
	return ($pid, senders($pid));
}

my ($pid, @senders) = under_way('/hang?end', 1);
is(scalar(@senders), 1, 'a request hangs');
is(scalar(grep { slurp_file("/proc/$_/cmdline") =~ /s3cr3t|127\.0\.0\.1/ } $pid, @senders), 0, 'arguments show no secret');
$node->stop('immediate');
ok(gone($senders[0]), 'immediate stop: the sender ends');
$node->start;
($pid, @senders) = under_way('/hang?end', 2);
is(scalar(requests('/hang?end')), 2, '... and the request is sent again');

kill 'KILL', $pid;
ok(gone($senders[0]), 'the notifier is killed: the sender ends');
wait_for_sql($node, 'postgres', 'SELECT true');
($pid, @senders) = under_way('/hang?end', 3);
is(scalar(requests('/hang?end')), 3, '... and the request is sent again');

$node->kill9;
ok(gone($senders[0]), 'the postmaster is killed: the sender ends');
# Its processes may still hold its shared memory; a start that failed has to be cleaned up.
ok(wait_until(sub { $node->start(fail_ok => 1) || !$node->stop('fast', fail_ok => 1) && 0 }), 'the server starts again');
under_way('/hang?end', 4);
is(scalar(requests('/hang?end')), 4, '... and the request is sent again');
ok(one_key('/hang?end'), 'always with the same key');
is(sql("SELECT string_agg(DISTINCT outcome || ': ' || error, ', ') FROM monitoring.delivery_attempts WHERE notification_id = $id"),
	'lost: the notifier ended before the outcome was known', 'every lost attempt is on record');
sql(q{SELECT monitoring.drop_receiver('hanging')});

# ---- the end of the database ----

sql('CREATE DATABASE brief');
$node->safe_psql('brief', "CREATE EXTENSION monitoring; SELECT monitoring.create_receiver('hanging', 'webhook', '$url/hang?brief')");
$node->safe_psql('brief', q{SELECT monitoring.test_receiver('hanging')});
wait_until(sub { requests('/hang?brief') });
$pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND datname = 'brief'});
@senders = senders($pid);
sql('DROP DATABASE brief');
ok(gone($senders[0]), 'DROP DATABASE ends its notifier and the sender');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal 11|s3cr3t/, 'no crash and no secret in the log');
$node->stop;
stop_receiver();
done_testing();
