# Metrics on a running server: exact under concurrency, flushes, restarts and
# failures; readable on a standby; a clear error when not preloaded.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

sub settings
{
	my ($node) = @_;
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.collect = off
monitoring.shared_memory = 16MB
max_prepared_transactions = 4
CONF
	return;
}

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
settings($node);
$node->start;
# nothing records but this test
$node->safe_psql('postgres', q{BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name NOT IN ('flush', 'compact', 'retention'); COMMIT});

# Writers, flushes and readers at once: no read may see less than an earlier
# one, or more than was recorded; in the end the count is exact.
my @writers = map {
	$node->background_psql('postgres', on_error_stop => 1)
} 1 .. 2;
my ($per_round, $rounds) = (2000, 30);
my $last = 0;
my $sane = 1;
for my $round (1 .. $rounds)
{
	for my $w (@writers)
	{
		$w->{stdin} .= "SELECT count(monitoring.record('conc', i, '{\"w\": 1}')), "
		  . "count(monitoring.increment('conc_total')) FROM generate_series(1, $per_round) i;\n";
		$w->{run}->pump_nb;
	}
	$node->safe_psql('postgres', $round % 2 ? 'SELECT monitoring.flush()' : 'BEGIN; SELECT monitoring.flush(); ROLLBACK');
	my $seen = $node->safe_psql('postgres',
		q{SELECT coalesce(monitoring.value('conc', 'count', '1 hour'), 0)});
	$sane = 0 if $seen < $last || $seen > 2 * $per_round * $round;
	$last = $seen;
}
$node->poll_query_until('postgres',
	"SELECT monitoring.value('conc', 'count', '1 hour') = " . 2 * $per_round * $rounds)
  or diag('count ' . $node->safe_psql('postgres', q{SELECT monitoring.value('conc', 'count', '1 hour')}));
ok($sane, 'reads during flushes never go back and never see anything twice');
is( $node->safe_psql('postgres', q{SELECT monitoring.value('conc', 'count', '1 hour'), monitoring.value('conc_total', 'sum', '1 hour')}),
	2 * $per_round * $rounds . '|' . 2 * $per_round * $rounds,
	'two writers and flushes lose nothing');
$_->quit for @writers;
is( $node->safe_psql('postgres', 'SELECT accepted = persisted + pending + dropped FROM monitoring.self'),
	't', 'the account balances');

# Prepared transactions
$node->safe_psql('postgres', q{
	BEGIN; SELECT monitoring.increment('prep_total'); PREPARE TRANSACTION 'p1'; ROLLBACK PREPARED 'p1'});
is($node->safe_psql('postgres', q{SELECT monitoring.value('prep_total', 'sum')}), '1', 'recorded once around PREPARE');
my ($rc, $out, $err) = $node->psql('postgres', q{
	SET monitoring.transactional = on;
	BEGIN; SELECT monitoring.increment('prep_total'); PREPARE TRANSACTION 'p2'});
like($err, qr/cannot PREPARE a transaction that has recorded metrics/, 'PREPARE is refused with transactional records');

# A session that is idle in a transaction strands nothing.
my $idle = $node->background_psql('postgres');
$idle->query_safe(q{BEGIN; SELECT monitoring.record('idle_tx', 1)});
is($node->safe_psql('postgres', q{SELECT monitoring.value('idle_tx', 'count')}), '1', 'records of an open transaction are visible');
$idle->quit;

# A backend that is terminated in the middle of its transaction
my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $victim->query_safe('SELECT pg_backend_pid()');
$victim->query_safe(q{BEGIN; SELECT monitoring.increment('victim_total', 5)});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)");
is($node->safe_psql('postgres', q{SELECT monitoring.value('victim_total', 'sum')}), '5', 'a terminated backend loses nothing');

# A clean restart loses nothing.
$node->safe_psql('postgres', q{SELECT monitoring.increment('restart_total', 7)});
$node->restart;
is($node->safe_psql('postgres', q{SELECT monitoring.value('restart_total', 'sum', '1 hour'), monitoring.value('conc', 'count', '1 hour')}),
	'7|' . 2 * $per_round * $rounds, 'a fast shutdown flushes what is in memory');

# After a crash what was flushed is there, exactly once, and flushing goes on.
$node->safe_psql('postgres', q{SELECT monitoring.increment('crash_total', 3); SELECT monitoring.flush(); CHECKPOINT});
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', q{SELECT monitoring.increment('crash_total', 4); SELECT monitoring.flush()});
is($node->safe_psql('postgres', q{SELECT monitoring.value('crash_total', 'sum', '1 hour')}), '7', 'flushed data survives a crash once');

# The kind of a metric is remembered across restarts.
($rc, $out, $err) = $node->psql('postgres', q{SELECT monitoring.record('crash_total', 1)});
like($err, qr/metric "crash_total" is a counter, not a distribution/, 'kind survives a restart');

# Two databases do not see each other's metrics.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION monitoring; SELECT monitoring.increment('crash_total', 100)});
is($node->safe_psql('other', q{SELECT monitoring.value('crash_total', 'sum', '1 hour')}), '100', 'metrics belong to their database');
is($node->safe_psql('postgres', q{SELECT monitoring.value('crash_total', 'sum', '1 hour')}), '7', 'and to no other');

# A new extension starts empty.
$node->safe_psql('other', q{DROP EXTENSION monitoring; CREATE EXTENSION monitoring; SELECT monitoring.increment('fresh_total')});
is($node->safe_psql('other', q{SELECT coalesce(monitoring.value('crash_total', 'sum', '1 hour')::text, 'none'), monitoring.value('fresh_total', 'sum')}),
	'none|1', 'CREATE EXTENSION after DROP EXTENSION starts empty');

# A standby reads what is stored, and records into its own memory.
$node->backup('b1');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b1', has_streaming => 1);
$standby->start;
$node->safe_psql('postgres', q{SELECT monitoring.flush()});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT monitoring.value('crash_total', 'sum', '1 hour')}), '7', 'a standby reads stored metrics');
is($standby->safe_psql('postgres', q{SELECT monitoring.increment('crash_total', 2); SELECT monitoring.value('crash_total', 'sum', '1 hour')}),
	"\n9", 'and records into memory');
# Levels made by the primary meanwhile are read, beside what is in the standby's memory, before and after promotion.
$node->safe_psql('postgres', q{SELECT monitoring.record_at('level_total', 1, now() - interval '2 days', kind => 'counter'), monitoring.increment('level_total', 2);
	SELECT monitoring.compact(clock_timestamp() + interval '40 days'); SELECT monitoring.increment('level_total', 4), monitoring.flush()});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT monitoring.increment('level_total', 8); SELECT monitoring.value('level_total', 'sum', '3 days'), count(*) FROM monitoring.check_storage()}),
	"\n15|0", 'a standby reads all levels, late rows and its memory');
$standby->promote;
ok($standby->poll_query_until('postgres', q{SELECT monitoring.flush() >= 0}), 'after promotion it can flush');
is($standby->safe_psql('postgres', q{SELECT monitoring.compact() >= 0, monitoring.value('level_total', 'sum', '3 days'), monitoring.value('level_total', 'sum', '3 days') FROM monitoring.self}),
	't|15|15', 'and compact');
is($standby->safe_psql('postgres', q{SELECT monitoring.value('crash_total', 'sum', '1 hour')}), '9', 'nothing lost at promotion');
$standby->stop;

# Full shared memory: totals stay right, the application gets no error.
$node->append_conf('postgresql.conf', "monitoring.shared_memory = 4MB\nmonitoring.max_series = 1000000");
$node->restart;
is($node->safe_psql('postgres', q{
	SELECT count(monitoring.increment('full_total', 1, jsonb_build_object('n', i))) FROM generate_series(1, 50000) i}),
	'50000', 'recording into full memory raises nothing');
is($node->safe_psql('postgres', q{SELECT monitoring.value('full_total', 'sum', '1 hour')}), '50000', 'and the total is right');
is($node->safe_psql('postgres', q{SELECT overflow > 0, dropped, accepted = persisted + pending + dropped FROM monitoring.self}), 't|0|t', 'overflow is counted');
# Series that got a slot but no memory for their first value are flushed too.
$node->restart;
$node->safe_psql('postgres', q{SELECT count(monitoring.record('crowd_seconds', i, jsonb_build_object('k', i))) FROM generate_series(1, 30000) i});
$node->safe_psql('postgres', 'SELECT monitoring.flush()');
is($node->safe_psql('postgres', q{SELECT monitoring.value('crowd_seconds', 'count', '1 hour'), monitoring.value('crowd_seconds', 'sum', '1 hour')}),
	'30000|450015000', 'what was flushed without memory can be read');

# Not preloaded
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nmonitoring.shared_memory = 16MB");
$node->adjust_conf('postgresql.conf', 'monitoring.max_series', undef);
$node->restart;
($rc, $out, $err) = $node->psql('postgres', q{SELECT monitoring.record('x', 1)});
like($err, qr/monitoring must be loaded at server start.*shared_preload_libraries/s, 'a clear error when not preloaded');
is($node->safe_psql('postgres', q{SELECT monitoring.sketch_count(monitoring.sketch(i)) FROM generate_series(1, 10) i}), '10', 'sketches work all the same');
$node->safe_psql('postgres', 'CREATE DATABASE unprepared');
($rc, $out, $err) = $node->psql('unprepared', 'CREATE EXTENSION monitoring');
is($rc, 0, 'CREATE EXTENSION when not preloaded');
like($err, qr/WARNING: .*not loaded at server start.*HINT: .*shared_preload_libraries/s, '... warns');
$node->stop;
done_testing();
