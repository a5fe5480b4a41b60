# What a server that ended badly has lost is noted as a gap: once, per database, and never after a clean stop.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
use QuietNode;
use Test::More;

my $node = new_quiet_node('main', <<'CONF', allows_streaming => 1);
monitoring.flush_interval = 100ms
max_worker_processes = 16
restart_after_crash = on
autovacuum = off
CONF
$node->start;
# nothing records but this test
$node->safe_psql('postgres', q{BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name NOT IN ('flush', 'compact', 'retention'); COMMIT});

sub sql { return $node->safe_psql('postgres', @_) }

sub gaps
{
	my ($db, $server) = @_;
	return ($server || $node)->safe_psql($db || 'postgres', q{SELECT coalesce(string_agg(reason, ' ' ORDER BY since), 'none') FROM monitoring.gaps});
}

# Whether the worker has flushed since the server started, so that gaps would be known.
sub flushed
{
	my ($db, $server) = @_;
	return ($server || $node)->poll_query_until($db || 'postgres', 'SELECT flushes > 0 FROM monitoring.self');
}

sub flush_job
{
	my ($enabled) = @_;
	return sql("UPDATE monitoring.jobs SET enabled = $enabled WHERE name = 'flush'");
}

# No flush by the worker from here on, so that what is in memory stays there.
sub stop_flushing
{
	flush_job('false');
	return wait_for_sql($node, 'postgres', q{SELECT count(*) = 0 FROM monitoring.status WHERE database = 'postgres' AND job = 'flush'});
}

# ---- a clean stop leaves none ----

flushed();
is(gaps(), 'none', 'no gap at first');
stop_flushing();
sql(q{SELECT monitoring.increment('kept_total', 3)});
my $slot = sql(q{SELECT date_bin('10 s', clock_timestamp(), '2000-01-01')});
sql(qq{SELECT monitoring.record_at('kept_level', 5, '$slot'::timestamptz + interval '5 s', kind => 'gauge')});
$node->restart;
sql(qq{SELECT monitoring.record_at('kept_level', t, '$slot'::timestamptz + t * interval '1 s', kind => 'gauge') FROM unnest('{6,4}'::int[]) t});
is(sql(q{SELECT monitoring.value('kept_level', 'first', '1 hour'), monitoring.value('kept_level', 'last', '1 hour')}), '4|6', 'it keeps the times of a gauge');
sql('SELECT monitoring.flush()');
is(gaps() . ' ' . sql(q{SELECT monitoring.value('kept_total', 'sum', '1 hour')}), 'none 3', 'a clean stop loses nothing, and leaves no gap');

# ---- an immediate stop ----

# as if nothing had been flushed for the last hour
sql(q{SELECT monitoring.record_at('seen_total', 1, now() - i * interval '5 minutes', kind => 'counter') FROM unnest('{13,15}'::int[]) i});
sql(q{UPDATE monitoring.flush_state SET sealed_at = now() - interval '1 hour'});
my $last_flush = sql('SELECT sealed_at FROM monitoring.flush_state');
sql(q{SELECT monitoring.increment('lost_total', 5)});
$node->stop('immediate');
my $stopped = sql_time();
$node->start;
is(sql(q{SELECT coalesce(monitoring.value('lost_total', 'sum', '1 hour')::text, 'unknown')}), 'unknown', 'what was in memory at an immediate stop is not trusted');
is(gaps(), 'none', 'the gap is noted with the first flush');
sql(q{SELECT monitoring.increment('seen_total')});
$node->psql('postgres', 'BEGIN; SELECT monitoring.flush(); ROLLBACK');
is(gaps(), 'none', 'and not by one that is rolled back');
sql('BEGIN; SAVEPOINT a; SELECT monitoring.flush(); ROLLBACK TO a; SELECT monitoring.flush(); COMMIT');
is(gaps(), 'crash', 'but by the next');
sql('SELECT monitoring.flush()') for 1 .. 2;
is(sql(qq{SELECT count(*), min(since) = '$last_flush', min(until) >= '$stopped', min(until) <= now() FROM monitoring.gaps}), '1|t|t|t',
	'it lasts from the last flush to the first use, and is noted once');

# Buckets within it are null whatever is asked for; others have what is known.
for my $fn (qw(count sum rate increase series))
{
	is(sql(qq{SELECT string_agg(CASE WHEN q.value IS NULL THEN '-' WHEN q.value > 0 THEN '+' ELSE '0' END, '' ORDER BY q.bucket)
		FROM monitoring.query('seen_total', '$fn', date_bin('10 s', '$last_flush', '2000-01-01') - interval '20 minutes', date_bin('10 s', '$last_flush', '2000-01-01') + interval '70 minutes', '10 minutes') q}),
		'++------+', "$fn is unknown within the gap, not 0");
}

sub sql_time
{
	# Of the same clock, also while the server is down.
	return scalar gmtime(time) . ' UTC';
}

# ---- kill -9 of one process ----

flush_job('true');
flushed();
my $last = sql('SELECT max(until) FROM monitoring.gaps');
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $victim->query_safe('SELECT pg_backend_pid()');
kill 'KILL', $pid;
eval { $victim->quit };
ok(wait_for_sql($node, 'postgres', q{SELECT count(*) = 2 FROM monitoring.gaps}), 'a process killed, the worker notes the gap');
is(sql(qq{SELECT reason, since > '$last' FROM monitoring.gaps ORDER BY since DESC LIMIT 1}), 'crash|t', 'from the last flush on');

# ---- the other databases ----

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION monitoring; SELECT monitoring.flush()');
is(gaps('other'), 'none', 'a database made after the crash has no gap');
flush_job('false');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'monitoring worker'});
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE other');
$node->safe_psql('copy', 'SELECT monitoring.flush()');
is(gaps('copy'), 'none', 'nor has a copy of it');
$node->stop('immediate');
$node->start;
ok(wait_for_sql($node, $_, q{SELECT count(*) = 1 FROM monitoring.gaps}), "after the next crash $_ has one") for qw(other copy);
is(gaps(), 'crash crash', 'each when it flushes');
sql('SELECT monitoring.flush()');
is(gaps(), 'crash crash crash', 'and for itself');

# ---- old ones go with the points of their time ----

sql(q{INSERT INTO monitoring.gap_log VALUES (now() - interval '7 years', now() - interval '6 years', 'crash'), (now() - interval '6 years', now() - interval '4 years', 'crash')});
sql(q{SELECT monitoring.increment('lost_total')});
$node->stop('immediate');
$node->start;
sql('SELECT monitoring.flush()');
is(sql(q{SELECT count(*), min(since) > now() - interval '7 years' FROM monitoring.gaps}), '5|t', 'a gap is kept as long as points of its time are');

# ---- a file that a clean stop has left is damaged, or could not be written ----

sub damaged
{
	my ($damage) = @_;
	sql(q{DELETE FROM monitoring.gap_log; SELECT monitoring.flush(); SELECT monitoring.increment('damaged_total')});
	$node->stop('fast');
	$damage->($node->data_dir . '/pg_stat/monitoring.residue');
	$node->start;
	sql('SELECT monitoring.flush()');
	return gaps();
}

stop_flushing();
is(damaged(sub { append_to_file($_[0], 'x') }), 'residue', 'what a clean stop has left is damaged');
is(damaged(sub { }), 'none', 'it is not');
# No file can grow: neither that one, nor those of the log.
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
sql(q{DELETE FROM monitoring.gap_log; SELECT monitoring.flush(); SELECT count(monitoring.record_values('damaged_seconds', ARRAY(SELECT random() FROM generate_series(1, 1000)), jsonb_build_object('k', i))) FROM generate_series(1, 100) i});
system_or_bail('prlimit', '--pid', $postmaster, '--fsize=10000:');
$node->stop('fast');
is(-s $node->data_dir . '/pg_stat/monitoring.residue', 0, 'what a clean stop could not write');
$node->start;
sql('SELECT monitoring.flush()');
is(gaps(), 'residue', 'is noted as a gap');

# ---- dumps carry them ----

my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'restore');
$node->safe_psql('restored', 'SELECT monitoring.flush()');
is(gaps('restored'), 'residue', 'a dump carries gaps, and restoring one makes none');

# ---- late observations of what retention has dropped ----

sql('CREATE DATABASE late');
sub late { return $node->safe_psql('late', @_) }
late('CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false');
my $hour = "'" . late(q{SELECT date_trunc('day', now(), 'UTC') - interval '43 hours'}) . "'::timestamptz";
sub at { return "$hour + interval '$_[0] minutes'" }
sub observe_late { return "SELECT count(monitoring.record_at(m, 1, " . at($_[0]) . ", kind => 'counter')) FROM unnest('{$_[1]}'::text[]) m" }
# What three reads say: of the hour, of an hour that begins and ends in the middle of it, and of the day.
sub reads
{
	my ($metric) = @_;
	return late(sprintf q{SELECT concat_ws(' ', (SELECT sum(q.value) FROM monitoring.query('%1$s', 'sum', %2$s, %2$s + interval '1 hour', '1 hour') q),
		coalesce(monitoring.value('%1$s', 'sum', '10 minutes', '{}', %3$s), 0), monitoring.value('%1$s', 'sum', '1 day', '{}', %2$s + interval '19 hours'))}, $metric, $hour, at(40));
}

sub drop_before
{
	my ($relation, $keep) = @_;
	late("UPDATE monitoring.retention_policies SET keep = '1 hour' WHERE relation = '$relation'");
	my $dropped = late("SELECT dropped > 0, busy FROM monitoring.apply_retention() WHERE relation = '$relation'");
	late("UPDATE monitoring.retention_policies SET keep = '$keep' WHERE relation = '$relation'");
	return $dropped;
}

late(observe_late($_, 'late_total,other_total')) for 0 .. 29;
late('SELECT monitoring.compact()');
is(reads('late_total'), '30 0 30', 'points of a minute') or diag(reads('other_total'));
# Transactions that have observed something of that hour, and are open while its points are dropped
my $open = $node->background_psql('late');
$open->query_safe('BEGIN; ' . observe_late(35, 'late_total'));
my $policy = $node->background_psql('late');
$policy->query_safe(q{BEGIN; UPDATE monitoring.retention_policies SET premake = 3 WHERE relation = 'hourly'});
is(drop_before('chunks', '90 days'), 't|0', 'points of minutes are dropped');
is(reads('late_total'), '30 30 30', 'then hours are read');
$open->query_safe('COMMIT');
$open->quit;
is(reads('late_total'), '31 31 31', 'what is late beside them');
late('SELECT monitoring.compact()');
is(reads('late_total') . ', ' . reads('other_total'), '31 31 31, 30 30 30', 'and with them, when it was worked in');
is(late('SELECT count(*) FROM monitoring.late'), '0', 'which it was');
late(observe_late(36, 'late_total,new_total'));
late('SELECT monitoring.compact()');
is(join(', ', map { reads($_) } qw(late_total other_total new_total)), '32 32 32, 30 30 30, 1 1 1', 'so with what comes later, also of a series that had nothing then');
# The same of hours; first while somebody is at the policy
late('SELECT monitoring.compact(clock_timestamp() + interval \'40 days\')');
my $busy = late(q{SET lock_timeout = '10s'; SELECT monitoring.drop_partition('hourly', (SELECT min(partition) FROM monitoring.partitions('hourly')))});
is($busy, 'f', 'a policy that is being changed is not waited for');
$policy->query_safe('COMMIT');
$policy->quit;
is(late(q{SELECT monitoring.drop_partition('hourly', (SELECT min(partition) FROM monitoring.partitions('hourly')))}), 't', 'hours are dropped');
is(reads('late_total'), '32 32 32', 'then days are read');
late(observe_late(37, 'late_total,new_total'));
late('SELECT monitoring.compact()');
is(join(', ', map { reads($_) } qw(late_total other_total new_total)), '33 33 33, 30 30 30, 2 2 2', 'and late ones are worked into these');
is(late('SELECT count(*) FROM monitoring.check_storage()'), '0', 'storage is sound');

# A transaction that is open while everything finer than hours is taken over and dropped
late(q{SELECT monitoring.increment('slow_total', 5), monitoring.flush()});
$open = $node->background_psql('late');
$open->query_safe(q{BEGIN; SELECT monitoring.record_at('slow_total', 1, now() - interval '61 seconds', kind => 'counter')});
late(q{SELECT monitoring.compact(clock_timestamp() + interval '26 hours')});
is(late(q{SELECT string_agg(relation, ' ' ORDER BY relation) FROM monitoring.apply_retention(clock_timestamp() + interval '30 hours') WHERE dropped > 0}), 'minutes segments', 'segments are dropped');
$open->query_safe('COMMIT');
$open->quit;
late('SELECT monitoring.compact()');
is(late(q{SELECT monitoring.value('slow_total', 'sum', '5 minutes'), monitoring.value('slow_total', 'sum', '1 day'), (SELECT count(*) FROM monitoring.late)}), '6|6|0', 'a slow transaction is added to what was');

# ---- a standby ----

flush_job('true');
sql(q{DELETE FROM monitoring.gap_log; SELECT monitoring.flush()});
$node->backup('b1');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b1', has_streaming => 1);
$standby->start;
$standby->restart;
$standby->stop('immediate');
$standby->start;
$node->wait_for_catchup($standby);
is(gaps('postgres', $standby), 'none', 'a standby starts however it likes');
$node->stop;
my $replicated = $standby->safe_psql('postgres', 'SELECT sealed_at FROM monitoring.flush_state');
$standby->promote;
ok(wait_for_sql($standby, 'postgres', q{SELECT count(*) = 1 FROM monitoring.gaps}), 'a promoted one notes the gap');
is($standby->safe_psql('postgres', qq{SELECT reason, since = '$replicated', until <= now() FROM monitoring.gaps}), 'promotion|t|t', 'from the last flush that was replicated on');
$standby->restart;
flushed('postgres', $standby);
is(gaps('postgres', $standby), 'promotion', 'once');
$standby->stop;

# ---- memory of a standby ----

# Nobody flushes there: what is old makes room for what is new.
$standby = PostgreSQL::Test::Cluster->new('crowded');
$standby->init_from_backup($node, 'b1', has_restoring => 1, standby => 1);
$standby->append_conf('postgresql.conf', "monitoring.shared_memory = 4MB\nmonitoring.max_series = 100000");
$standby->start;
sub on_standby { return $standby->safe_psql('postgres', @_) }
# Series of a metric, numbered, observed so many seconds ago
sub crowd
{
	my ($metric, $from, $to, $ago) = @_;
	return on_standby(qq{SELECT count(monitoring.record_at('$metric', 1, clock_timestamp() - interval '$ago s', jsonb_build_object('n', i), 'counter')) FROM generate_series($from, $to) i});
}

sub account { return on_standby('SELECT overflow > 0, expired > 0, accepted - persisted - pending - dropped, dropped - expired FROM monitoring.self') }

on_standby(qq{SELECT monitoring.record_at('steady_level', i, clock_timestamp() - i * interval '10 s', kind => 'gauge') FROM generate_series(0, 5) i});
my $slots = q{SELECT pending_slots FROM monitoring.live_series() WHERE metric = 'steady_level'};
is(on_standby($slots), '6', 'a standby keeps what is recorded there, in slots');
crowd('old_total', 1, 5000, 50);
is(account() . ' ' . on_standby(q{SELECT monitoring.value('old_total', 'sum')}), 'f|f|0|0 5000', 'and series');
crowd('old_total', 5001, 15000, 45);
is(account() . ' ' . on_standby(q{SELECT monitoring.value('old_total', 'sum')}), 't|f|0|0 15000', 'until its memory is full');
my $overflow = on_standby('SELECT overflow FROM monitoring.self');
$standby->append_conf('postgresql.conf', q{monitoring.standby_keep = '10 s'});
$standby->reload;
ok($standby->poll_query_until('postgres', q{SELECT current_setting('monitoring.standby_keep') = '10s'}), 'it is to keep less');
on_standby(q{SELECT monitoring.record_at('steady_level', 7, clock_timestamp() + interval '20 s', kind => 'gauge')});
cmp_ok(on_standby($slots), '<=', 3, 'slots expire when another is opened');
crowd('new_total', 1, 5000, 0);
is(account() . ' ' . on_standby(q{SELECT monitoring.value('new_total', 'series')}), 't|t|0|0 5000', 'then what is older makes room');
is(on_standby('SELECT overflow FROM monitoring.self'), $overflow, 'and nothing of it goes to an overflow series');
# As if for a long time: many more series than there is memory for, but not at the same time
crowd('passing_total', 1000 * $_, 1000 * $_ + 999, 55) for 1 .. 30;
is(on_standby('SELECT overflow FROM monitoring.self'), $overflow, 'series that come and go do not fill it');
is(account(), 't|t|0|0', 'all that has gone is counted');
# A metric with as many as it may have
$standby->append_conf('postgresql.conf', 'monitoring.max_series = 100');
$standby->reload;
ok($standby->poll_query_until('postgres', q{SELECT current_setting('monitoring.max_series') = '100'}), 'there are to be fewer series');
on_standby(q{SELECT count(monitoring.record_at('few_seconds', 1, clock_timestamp() - interval '50 s', jsonb_build_object('n', i))) FROM generate_series(1, 100) i});
on_standby(q{SELECT count(monitoring.record('few_seconds', 1, jsonb_build_object('m', i))) FROM generate_series(1, 100) i});
is(on_standby('SELECT overflow FROM monitoring.self'), $overflow, 'those of a metric make room for as many others');
# From its promotion on, it stores what it has.
my $recent = on_standby(q{SELECT monitoring.value('few_seconds', 'count', '5 minutes')});
$standby->promote;
flushed('postgres', $standby);
ok($standby->poll_query_until('postgres', 'SELECT pending = 0 AND persisted > 0 FROM monitoring.self'), 'a promoted one stores what it has');
is(on_standby(q{SELECT monitoring.value('few_seconds', 'count', '5 minutes')}), $recent, 'all of it');
is(account(), 't|t|0|0', 'and the account balances');
$standby->stop;

# A backup that is restored up to where its log ends
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($node, 'b1', has_restoring => 1, standby => 0);
$restored->start;
ok(wait_for_sql($restored, 'postgres', q{SELECT string_agg(reason, ' ') = 'restore' FROM monitoring.gaps}), 'so does one that was restored from a backup');
$restored->stop;

done_testing();
