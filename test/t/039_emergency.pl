# Databases that cannot write: who is to be told of that is told from the notifier's memory, once an interval, and of the end.
# Volumes are filled, databases made read-only, transaction ids used up.
use strict;
use warnings;

use JSON::PP;
use NotifyNode qw(start_receiver stop_receiver requests wait_until);
use PostgreSQL::Test::Utils;
use RestartingServer qw(psql_if_up);
use Test::More;
use Time::HiRes qw(time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $url = start_receiver();

# ---- helpers ----

my $node;
my $database = 'postgres';

sub sql { return $node->safe_psql($database, "SET default_transaction_read_only = off;\n$_[0]"); }

sub alert { my ($request) = @_; return decode_json($request->{body})->{alerts}[0]; }

# Further messages of a status to a path, and a cause if there is one.
sub told
{
	my ($path, $status, $cause) = @_;
	return grep { alert($_)->{status} eq $status && (!$cause || alert($_)->{labels}{cause} eq $cause) } requests($path);
}

sub is_told
{
	my ($path, $status, $cause, $n, $name) = @_;
	return ok(wait_until(sub { told($path, $status, $cause) >= $n }), $name);
}

sub new_node
{
	my ($name, $conf) = @_;
	$node = NotifyNode::new_node($name, <<"CONF", extra => ['--wal-segsize=1']);
monitoring.emergency_interval = '4s'
monitoring.min_free_disk = 0
monitoring.flush_interval = '200ms'
autovacuum = off
$conf
CONF
	$database = 'postgres';
	return;
}

sub setting
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = $value");
	sql('SELECT pg_reload_conf()');
	return;
}

# The messages are ready: it is the notifier that waits with them.
sub wait_for_notifier
{
	my ($name) = @_;
	ok($node->poll_query_until($database, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND datname = current_database()}), $name);
	# and has looked at least once since
	my $first = sql(q{SELECT query_start FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND datname = current_database()});
	wait_until(sub { sql(q{SELECT coalesce(min(query_start)::text, '') FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND datname = current_database()}) ne $first });
	return;
}

sub create
{
	my ($name, $path, $config) = @_;
	$config //= '{"emergency": true}';
	sql("SELECT monitoring.create_receiver('$name', 'webhook', '$url$path', '$config')");
	return;
}

# ---- read-only ----

new_node('read_only', '');
$node->start;
sql('CREATE EXTENSION monitoring');
create('hook', '/ro/s3cr3t');
create('other', '/other', '{}');
sql(qq{SELECT monitoring.create_receiver('mailer', 'slack', '$url/fail/2/500', '{"emergency": true}')});
wait_for_notifier('a notifier stays for emergencies');
is(scalar(requests('/ro/s3cr3t')), 0, 'and says nothing while all is well');
setting('default_transaction_read_only', 'on');
is_told('/ro/s3cr3t', 'firing', 'read_only', 1, 'a database is made read-only: it is told');
my ($first) = told('/ro/s3cr3t', 'firing');
my $a = alert($first);
is("$a->{labels}{alertname} $a->{labels}{severity} $a->{labels}{datname}: $a->{annotations}{summary}",
	'DatabaseCannotWrite critical postgres: postgres: The database is read-only', '... with all that one needs to know');
is_told('/ro/s3cr3t', 'firing', 'read_only', 2, '... and again');
my @times = map { $_->{time} } told('/ro/s3cr3t', 'firing');
# of 4 s; the first may be the one that was longer on its way
cmp_ok($times[1] - $times[0], '>', 2, '... once an interval');
my %keys = map { $_->{headers}{'idempotency-key'} => 1 } requests('/ro/s3cr3t');
is(scalar(keys %keys), scalar(requests('/ro/s3cr3t')), '... each with a key of its own');
is(scalar(grep { !/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/ } keys %keys), 0, '... that looks like one');
ok(wait_until(sub { requests('/fail/2/500') >= 3 }), 'a receiver that fails is tried again');
is(scalar(requests('/other')), 0, 'only those who are to be told are');

# the sender dies meanwhile
my ($notifier) = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring notifier'});
my @senders = split /\s+/, `pgrep -P $notifier -x monitoring_send`;
kill 'KILL', @senders;
my $n = told('/ro/s3cr3t', 'firing');
is_told('/ro/s3cr3t', 'firing', 'read_only', $n + 1, 'a new sender goes on');

setting('default_transaction_read_only', 'off');
is_told('/ro/s3cr3t', 'resolved', 'read_only', 1, 'it can write again: that is told');
my ($end) = told('/ro/s3cr3t', 'resolved');
is(decode_json($end->{body})->{groupKey}, decode_json($first->{body})->{groupKey}, '... in the same group');
ok(wait_until(sub { sql(q{SELECT count(*) FROM monitoring.emergencies}) == 2 }), 'and taken down');
is(sql(q{SELECT receiver, cause, error, delivered >= 2 AND failed = (receiver = 'mailer')::int * 2 AND until > since FROM monitoring.emergencies WHERE receiver = 'mailer'}),
	'mailer|read_only|default_transaction_read_only is on|t', '... with what became of the messages');
is(sql('SELECT count(*) FROM monitoring.outbox'), 0, 'nothing of it was in the outbox');

# of one database alone, when the messages could not be made anew for a while: those that are there serve
my $offset = -s $node->logfile;
sql(q{ALTER FUNCTION monitoring.emergency_messages RENAME TO emergency_messages_; SELECT monitoring.alter_receiver('mailer', '{"max_attempts": 3}')});
ok(wait_until(sub { substr(slurp_file($node->logfile), $offset) =~ /could not make the messages about emergencies: function monitoring\.emergency_messages/ }), 'messages that cannot be made anew are reported');
sql('ALTER DATABASE postgres SET default_transaction_read_only = on');
is_told('/ro/s3cr3t', 'firing', 'read_only', $n + 2, 'one database is made read-only');
is_told('/ro/s3cr3t', 'firing', 'read_only', $n + 3, '... and it is told again');
%keys = map { $_->{headers}{'idempotency-key'} => 1 } requests('/ro/s3cr3t');
is(scalar(keys %keys), scalar(requests('/ro/s3cr3t')), '... with keys of their own still');
sql(q{ALTER FUNCTION monitoring.emergency_messages_ RENAME TO emergency_messages});
sql('ALTER DATABASE postgres RESET default_transaction_read_only');
is_told('/ro/s3cr3t', 'resolved', 'read_only', 2, '... and writable');

# ---- the outbox cannot be written to ----

sql(q{ALTER TABLE monitoring.outbox ADD CONSTRAINT never CHECK (id < 0) NOT VALID});
is_told('/ro/s3cr3t', 'firing', 'unwritable', 1, 'the outbox takes no rows');
sql(q{ALTER TABLE monitoring.outbox DROP CONSTRAINT never});
is_told('/ro/s3cr3t', 'resolved', 'unwritable', 1, '... and takes them again');
is(scalar(told('/ro/s3cr3t', 'resolved')), 3, 'each end was told once');

# ---- a formatter that takes too long ----

# Messages for those before it are there; that the others have none is in the log.
$offset = -s $node->logfile;
sql(qq{CREATE FUNCTION public.format_slowly(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE sql AS \$\$ SELECT 'POST', receiver ->> 'url', '{}'::jsonb, 'x' || pg_sleep(0.7)::text \$\$;
	INSERT INTO monitoring.receiver_kinds (kind, function) VALUES ('slowly', 'public.format_slowly');
	SELECT monitoring.create_receiver('slow', 'slowly', '$url/slow', '{"emergency": true}')});
ok(wait_until(sub { substr(slurp_file($node->logfile), $offset) =~ /monitoring made only (\d+) of (\d+) messages about emergencies within 2 s\n.*DETAIL:  From receiver "slow" on/
			&& $1 < $2 }), 'messages that there was no time to make are in the log');
sql(q{SELECT monitoring.drop_receiver('slow')});

# ---- nobody is to be told any more ----

sql(q{SELECT monitoring.alter_receiver('hook', '{"emergency": false}'); SELECT monitoring.drop_receiver('mailer')});
ok($node->poll_query_until($database, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'monitoring notifier'}), 'without receivers for emergencies the notifier does not stay');
unlike(slurp_file($node->logfile), qr/s3cr3t/, 'no secret in the log');
$node->stop;

# ---- transaction ids ----

new_node('transaction_ids', 'wal_level = logical');
$node->start;
sql('CREATE EXTENSION monitoring');
create('hook', '/xid');
# what holds back the oldest transaction id, so that no vacuum makes room (a prepared transaction would, too, but takes a minute to start with)
sql(q{SELECT pg_create_logical_replication_slot('holder', 'pgoutput')});
$node->stop;
{
	my $xid = 2**31 - 2_900_000;
	my $segment = sprintf '%s/pg_xact/%04X', $node->data_dir, $xid / (8192 * 4 * 32);
	append_to_file($segment, "\0" x (8192 * 32));
	command_ok([ 'pg_resetwal', '-x', $xid, $node->data_dir ], 'nearly all transaction ids are used up');
}
$node->start;
is_told('/xid', 'firing', 'transaction_ids', 1, 'no transaction id is left: it is told by a notifier that started in that state');
$node->stop('immediate');

# ---- volumes ----

# Start the server where a small volume is mounted: in a namespace of its own, which needs no rights.
sub start_with_volume
{
	my ($script) = @_;
	my $uid = $>;
	my @start = ('unshare', '--user', "--map-user=$uid", 'pg_ctl', '-D', $node->data_dir, '-l', $node->logfile, '-w', 'start');
	return system('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', "$script && exec @start >/dev/null 2>&1") == 0 && ($node->_update_pid(1) || 1);
}

my $possible = system(q{unshare --user --map-root-user --mount sh -c 'mount -t tmpfs tmpfs /mnt && unshare --user --map-user=12345 true' >/dev/null 2>&1}) == 0;

SKIP:
{
	skip 'volumes cannot be mounted here', 13 if !$possible;

	# The database is on a volume that gets full; the WAL is elsewhere.
	new_node('full', '');
	my $volume = $node->basedir . '/volume';
	mkdir $volume;
	ok(start_with_volume("mount -t tmpfs -o size=48m tmpfs $volume && mkdir $volume/space"), 'a server with a small volume');
	$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$volume/space'");
	$node->safe_psql('postgres', 'CREATE DATABASE small TABLESPACE small');
	$database = 'small';
	sql('CREATE EXTENSION monitoring');
	create('hook', '/full');
	wait_for_notifier('with a notifier');
	sub fill { my ($free) = @_; $node->safe_psql('postgres', "COPY (SELECT 1) TO PROGRAM 'head -c \$((\$(stat -f -c %a*%S $volume)-$free*1024)) /dev/zero > $volume/filler || true'"); return; }

	sub empty { $node->safe_psql('postgres', "COPY (SELECT 1) TO PROGRAM 'rm $volume/filler'"); return; }
	fill(0);
	# more than fits into the pages that are there
	sql(q{SELECT count(monitoring.record_values('disk_seconds', ARRAY(SELECT exp(20 * random()) * i FROM generate_series(1, 100) x), jsonb_build_object('k', i))) FROM generate_series(1, 1000) i});
	is_told('/full', 'firing', 'disk_full', 1, 'a full disk is told');
	like($node->safe_psql('small', q{SELECT last_error FROM monitoring.jobs WHERE name = 'flush'}) . slurp_file($node->logfile), qr/No space left on device/, '... as it really is full');
	is_told('/full', 'firing', 'disk_full', 2, '... again and again');
	empty();
	is_told('/full', 'resolved', 'disk_full', 1, 'room is made: that is told');
	ok(wait_until(sub { sql(q{SELECT count(*) FROM monitoring.emergencies}) == 1 }), '... and taken down');
	is(sql(q{SELECT accepted - persisted - pending - dropped, dropped FROM monitoring.self}), '0|0', 'nothing was lost');

	setting('monitoring.min_free_disk', "'8MB'");
	fill(6 * 1024);
	is_told('/full', 'firing', 'low_disk', 1, 'a disk that is nearly full is told, too');
	empty();
	is_told('/full', 'resolved', 'low_disk', 1, '... and that it is no more');
	$node->stop;

	# The WAL is on a volume that gets full: word comes before the server stops.
	new_node('wal', "monitoring.min_free_disk = '8MB'\nwal_level = replica\nmax_wal_senders = 2\nmin_wal_size = 2MB\nmax_wal_size = 2MB\nrestart_after_crash = off");
	my $wal = $node->data_dir . '/pg_wal';
	$volume = $wal;
	ok(start_with_volume("cp -a $wal $wal.saved && mount -t tmpfs -o size=24m tmpfs $wal && cp -a $wal.saved/. $wal"), 'a server with a small volume for WAL');
	sql('CREATE EXTENSION monitoring');
	create('hook', '/wal');
	sql("SELECT monitoring.create_heartbeat('alive', '$url/alive', '10 seconds')");
	ok(wait_until(sub { requests('/alive') > 0 }), 'with a sign of life');
	is(scalar(requests('/wal')), 0, '... and no emergency');
	# a slot that nobody reads keeps all WAL
	sql(q{CREATE TABLE t (x text); SELECT pg_create_physical_replication_slot('keeps', true)});
	my $end = time() + $timeout;
	$node->psql('postgres', q{INSERT INTO t SELECT repeat(md5(i::text), 30) FROM generate_series(1, 500) i}) until requests('/wal') || time() > $end;
	like(join('', map { $_->{body} } requests('/wal')), qr/Almost no space is left/, 'the volume of the WAL is nearly full: word comes');
	ok(wait_until(sub {
		psql_if_up($node, 'postgres', q{INSERT INTO t SELECT repeat(md5(i::text), 30) FROM generate_series(1, 5000) i});
		return slurp_file($node->logfile) =~ /PANIC:.*No space left on device/;
	}), '... before the server stops');
	kill 'KILL', $node->{_pid} if $node->{_pid} && kill(0, $node->{_pid});
	$node->{_pid} = undef;
}

stop_receiver();
done_testing();
