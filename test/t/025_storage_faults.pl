# Storage that fails and recovers: full disk, refused flushes, memory running full, damaged rows, what a stop cannot keep,
# deleting beside compaction, retention that was shorter for a while, many series.  Nothing is lost but what is counted.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use QuietNode;
use StorageLoad;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_quiet_node('faults', <<'CONF', extra => ['--wal-segsize=1']);
monitoring.flush_interval = 100ms
monitoring.max_series = 20000
max_worker_processes = 16
autovacuum = off
CONF
$node->start;
# nothing records but this test
$node->safe_psql('postgres', q{BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name NOT IN ('flush', 'compact', 'retention'); COMMIT});

sub sql { return $node->safe_psql('postgres', @_) }

sub value
{
	my ($metric, $fn, $over) = @_;
	$over ||= '10 days';
	return sql("SELECT coalesce(monitoring.value('$metric', '$fn', '$over'), 0)");
}

sub balanced
{
	my ($name) = @_;
	is(sql('SELECT accepted - persisted - pending - dropped FROM monitoring.self'), '0', "the account balances: $name");
	return;
}

# Wait for a further run of a job with that outcome; its state may be "running" whenever one looks.
sub job_state
{
	my ($job, $state) = @_;
	my $count = $state eq 'failed' ? 'failures' : 'runs - failures';
	my $where = "FROM monitoring.status WHERE database = 'postgres' AND job = '$job'";
	my $before = sql("SELECT $count $where") || 0;
	return $node->poll_query_until('postgres', "SELECT $count > $before $where");
}

# ---- a full disk: no file may grow beyond 1 MB, as large as those of WAL are ----

my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];

sub limit_files
{
	my ($bytes) = @_;
	for my $pid ($postmaster, split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring worker'}))
	{
		system_or_bail('prlimit', '--pid', $pid, "--fsize=$bytes:");
	}
	return;
}

limit_files(1024 * 1024);
sql(q{SELECT count(monitoring.record_values('disk_seconds', ARRAY(SELECT exp(20 * random()) * i FROM generate_series(1, 1000) x), jsonb_build_object('k', i))) FROM generate_series(1, 1000) i})
  for 1 .. 4;
ok(job_state('flush', 'failed'), 'a flush fails on a full disk');
my ($rc, $out, $err) = $node->psql('postgres', 'SELECT monitoring.flush()');
like($err, qr/could not extend file/, 'and says why');
is(value('disk_seconds', 'count'), 4000000, 'what was recorded can be read from memory');
balanced('on a full disk');
limit_files('unlimited');
ok(job_state('flush', 'ok'), 'it works again when there is room');
is(value('disk_seconds', 'count'), 4000000, 'nothing was lost on the full disk');
is(sql(q{SELECT coalesce(sum(pending), 0), max(dropped) FROM monitoring.self}), '0|0', 'all of it is stored');

# ---- compaction that cannot write ----

sql(q{ALTER TABLE monitoring.minutes ADD CONSTRAINT never CHECK (seq < 0) NOT VALID});
($rc, $out, $err) = $node->psql('postgres', q{SELECT monitoring.compact(clock_timestamp() + interval '1 minute')});
like($err, qr/violates check constraint/, 'compaction fails');
is(value('disk_seconds', 'count'), 4000000, 'and changes nothing');
sql(q{ALTER TABLE monitoring.minutes DROP CONSTRAINT never});

# ---- refused flushes, while memory runs full ----

sql(q{ALTER TABLE monitoring.segments ADD CONSTRAINT never CHECK (seq < 0) NOT VALID});
sql(q{SELECT count(monitoring.increment('jam_total', 1, jsonb_build_object('k', i))) FROM generate_series(1, 15000) i});
ok(job_state('flush', 'failed'), 'flushes fail');
for my $round (1 .. 20)
{
	# a slot each, as if it were later by as many slots
	sql(qq{SELECT count(monitoring.record_at('jam_total', 1, clock_timestamp() - interval '$_ seconds', jsonb_build_object('k', i), 'counter')) FROM generate_series(1, 15000) i})
	  for (($round * 10) % 50);
	$node->psql('postgres', 'SELECT monitoring.flush()');
}
is(value('jam_total', 'sum'), 15000 * 21, 'nothing was lost while memory ran full');
is(sql('SELECT dropped FROM monitoring.self'), '0', 'nothing was dropped');
cmp_ok(sql('SELECT slots_merged FROM monitoring.self'), '>', 0, 'slots were merged');
balanced('memory full');

# ---- a stop while nothing can be written, and a start with less memory ----

$node->stop;
$node->append_conf('postgresql.conf', "monitoring.shared_memory = 4MB\n");
$node->start;
is(sql(q{SELECT monitoring.value('jam_total', 'sum', '1 hour') + dropped FROM monitoring.self}), 15000 * 21,
	'what found no room after a restart is counted as dropped');
cmp_ok(sql('SELECT dropped FROM monitoring.self'), '>', 0, 'and that was some');
balanced('restarted with less memory');
sql(q{ALTER TABLE monitoring.segments DROP CONSTRAINT never});
ok(job_state('flush', 'ok'), 'flushes work again');
is(sql(q{SELECT monitoring.value('jam_total', 'sum', '1 hour') + dropped FROM monitoring.self}), 15000 * 21, 'and store the rest');
$node->append_conf('postgresql.conf', "monitoring.shared_memory = 32MB\n");
$node->restart;

# ---- deleting while compaction waits ----

sql('CREATE DATABASE deleting');
$node->safe_psql('deleting', q{CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false;
	SELECT monitoring.increment('gone_total'), monitoring.flush()});
my $deleter = $node->background_psql('deleting');
$deleter->query_safe(q{BEGIN; SELECT monitoring.delete_series('gone_total')});
my $compactor = start_sql($node, 'deleting', q{SELECT monitoring.compact(clock_timestamp() + interval '40 days');});
ok($node->poll_query_until('deleting', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%compact(%' AND wait_event_type = 'Lock'}), 'compaction waits');
$deleter->query_safe('COMMIT');
finish_sql($compactor);
is($node->safe_psql('deleting', q{SELECT count(*) FROM monitoring.chunks}), '0', 'what was deleted meanwhile stays deleted');
$deleter->quit;

# ---- damaged rows ----

sql('CREATE DATABASE damaged');
$node->safe_psql('damaged', q{CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false});
sub dsql { return $node->safe_psql('damaged', @_) }
my $at = q{date_trunc('day', now(), 'UTC') - interval '2 days'};
dsql(qq{SELECT monitoring.record_at(m, 1, $at + i * interval '1 hour', kind => 'counter') FROM unnest('{sick_total,sound_total}'::text[]) m, generate_series(0, 23) i});
dsql('SELECT monitoring.compact()');
my $whole = "SELECT monitoring.value('%s', 'sum', '1 day', '{}', $at + interval '1 day')";
my $minutes = "SELECT sum(value) FROM monitoring.query('%s', 'sum', $at, $at + interval '1 day', '1 minute')";
my $flip = q{SET data = set_byte(data, 0, 255)};
my $sick = q{(SELECT series_id FROM monitoring.series_catalog WHERE metric = 'sick_total')};
dsql("UPDATE monitoring.chunks $flip WHERE series_id = $sick AND period = $at + interval '5 hours'");
($rc, $out, $err) = $node->psql('damaged', '\set VERBOSITY verbose' . "\n" . sprintf $minutes, 'sick_total');
like($err, qr/XX001: a stored chunk of metrics is corrupt.*chunks, series_id/s, 'a damaged chunk is a named error');
is(dsql(sprintf $minutes, 'sound_total'), 24, 'other series can be read');
is(dsql(sprintf $whole, 'sick_total'), 24, 'and other levels of the same');
is(dsql("SELECT monitoring.value('sick_total', 'sum', '150 minutes', '{}', $at + interval '150 minutes')"), 3, 'and other times');
is(dsql(q{SELECT relation || ' ' || problem FROM monitoring.check_storage()}), 'chunks the chunk cannot be read', 'check_storage() finds it');
# late ones for that hour wait for its repair; those for other hours do not, and coarser levels lose nothing
dsql("SELECT monitoring.record_at(m, 1, $at + i * interval '1 hour', kind => 'counter') FROM unnest('{sick_total,sound_total}'::text[]) m, unnest('{5,7}'::int[]) i");
($rc, $out, $err) = $node->psql('damaged', 'SELECT monitoring.compact()');
is($rc, 0, 'a damaged chunk does not stop compaction');
like($err, qr/WARNING:  compaction of metrics leaves out what is damaged/, 'which says so');
is(dsql('SELECT count(*) FROM monitoring.late'), 1, 'what belongs to it waits');
is(dsql(sprintf $whole, $_), 26, "nothing of $_ is lost in coarser levels") for qw(sick_total sound_total);
is(dsql(sprintf $minutes, 'sound_total'), 26, 'finer ones of the sound series are complete');
dsql("DELETE FROM monitoring.chunks WHERE series_id = $sick AND period = $at + interval '5 hours'");
dsql('SELECT monitoring.compact()');
is(dsql(sprintf $whole, 'sick_total'), 26, 'without the damaged chunk the coarser level keeps its hour and what waited');
is(dsql(sprintf $minutes, 'sick_total'), 25, 'of which minutes are only what waited');
is(dsql('SELECT count(*) FROM monitoring.late'), 0, 'nothing waits any more');
# a damaged late row
dsql("SELECT monitoring.record_at('sick_total', 1, $at + interval '9 hours', kind => 'counter'), monitoring.record_at('sound_total', 1, $at + interval '9 hours', kind => 'counter')");
dsql("UPDATE monitoring.late $flip WHERE series_id = $sick");
is(($node->psql('damaged', 'SELECT monitoring.compact()'))[0], 0, 'a damaged late row does not stop compaction');
is(dsql(sprintf $whole, 'sound_total'), 27, 'nor the others');
is(dsql('SELECT relation FROM monitoring.check_storage()'), 'late', 'it stays to be found');
dsql('DELETE FROM monitoring.late');

# segments and minutes: of two rows of the same time, the damaged one is left out
dsql(q{SELECT monitoring.increment('seg_total', 1), monitoring.flush()});
dsql(q{SELECT monitoring.increment('seg_total', 10), monitoring.flush()});
dsql(q{UPDATE monitoring.segments SET points = set_byte(points, 0, 255) WHERE seq = (SELECT max(seq) FROM monitoring.segments)});
($rc, $out, $err) = $node->psql('damaged', '\set VERBOSITY verbose' . "\n" . q{SELECT monitoring.value('seg_total', 'sum', '1 hour')});
like($err, qr/XX001: a stored metrics segment is corrupt/, 'a damaged segment is a named error');
is(dsql(q{SELECT DISTINCT relation FROM monitoring.check_storage()}), 'segments', 'check_storage() finds it');
is(dsql(q{SELECT count(*) > 0 FROM monitoring.storage_usage}), 't', 'storage_usage can be read');
($rc, $out, $err) = $node->psql('damaged', q{SELECT monitoring.compact(clock_timestamp() + interval '70 minutes')});
is($rc, 0, 'a damaged segment does not stop compaction');
like($err, qr/leaves out what is damaged.*monitoring.segments/s, 'which says so');
is(dsql(q{SELECT sum(value) FROM monitoring.query('seg_total', 'sum', date_trunc('hour', now()), date_trunc('hour', now()) + interval '1 hour', '1 hour')}), 1, 'the rest is there');

# rows of every level and column, changed at random: an error that names it or an answer, whatever is read; never anything else
my $seed = seed_from();
note("seed $seed");
dsql(qq{SELECT monitoring.record_at('any_' || k, x, $at + x * interval '97 seconds', jsonb_build_object('k', x % 3), k) FROM unnest('{counter,gauge,distribution}'::text[]) k, generate_series(1, 600) x});
dsql('SELECT monitoring.compact()');
dsql(qq{SELECT monitoring.record_at('any_' || k, x, $at + x * interval '97 seconds', jsonb_build_object('k', x % 3), k) FROM unnest('{counter,gauge,distribution}'::text[]) k, generate_series(1, 60) x});
dsql(q{SELECT monitoring.record('any_distribution', x), monitoring.increment('any_counter', x), monitoring.set_gauge('any_gauge', x) FROM generate_series(1, 50) x; SELECT monitoring.flush()});
dsql(q{CREATE FUNCTION public.mutate(old bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    n int := length(old);
    new bytea := old;
BEGIN
    CASE floor(random() * 5)::int
    WHEN 0 THEN RETURN substr(old, 1, floor(random() * n)::int);
    WHEN 1 THEN RETURN old || decode(md5(random()::text), 'hex');
    WHEN 2 THEN RETURN substr(old, 2 + floor(random() * 8)::int);
    ELSE
        FOR i IN 1 .. 1 + floor(random() * 3)::int LOOP
            new := set_byte(new, floor(random() ^ 2 * n)::int, floor(random() * 256)::int);
        END LOOP;
        RETURN new;
    END CASE;
END $$;
CREATE FUNCTION public.damage(relation text, col text, times int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    found int := 0;
    errors int;
    call text;
BEGIN
    FOR i IN 1 .. times LOOP
        BEGIN
            errors := 0;
            EXECUTE format('UPDATE monitoring.%1$s SET %2$s = public.mutate(%2$s) WHERE ctid = (SELECT ctid FROM monitoring.%1$s ORDER BY random() LIMIT 1)', relation, col);
            FOREACH call IN ARRAY ARRAY[
                $c$SELECT sum(monitoring.value('any_' || k, f, '4 days')) FROM (VALUES ('counter', 'sum'), ('gauge', 'last'), ('distribution', 'p95')) v (k, f)$c$,
                $c$SELECT sum(q.value) FROM unnest('{counter,gauge,distribution}'::text[]) k, monitoring.query('any_' || k, 'count', now() - interval '1 day', now() + interval '1 minute', '1 minute', '{}', '{k}') q$c$,
                $c$SELECT sum(q.value) FROM unnest('{counter,gauge,distribution}'::text[]) k, monitoring.query('any_' || k, 'sum', date_trunc('hour', now() - interval '4 days'), now(), '1 hour') q$c$,
                $c$SELECT sum(monitoring.percentile(s.sketch, 0.9)) FROM monitoring.sketches('any_distribution', date_trunc('day', now() - interval '4 days'), now(), '1 day') s$c$,
                $c$SELECT count(*) FROM monitoring.storage_usage$c$, $c$SELECT monitoring.compact()$c$, $c$SELECT monitoring.compact(clock_timestamp() + interval '40 days')$c$] LOOP
                BEGIN
                    EXECUTE call;
                EXCEPTION WHEN data_corrupted THEN
                    errors := errors + 1;
                END;
            END LOOP;
            found := found + ((SELECT count(*) FROM monitoring.check_storage()) > 0 OR errors > 0)::int;
            RAISE EXCEPTION 'undo';
        EXCEPTION WHEN raise_exception THEN
        END;
    END LOOP;
    RETURN found;
END $$});
for my $column ((map { ([ 'segments', $_ ], [ 'minutes', $_ ]) } qw(directory points)), (map { [ $_, 'data' ] } qw(chunks hourly daily late)))
{
	cmp_ok(dsql(sprintf "SET client_min_messages = error; SELECT setseed(%f); SELECT public.damage('%s', '%s', 25)", rand(2) - 1, @$column) =~ s/^\s*//r, '>', 5, "@$column damaged");
}
is(dsql("SELECT sum(monitoring.value('any_' || k, 'count', '4 days')) FROM unnest('{counter,gauge,distribution}'::text[]) k"), 3 * 710, 'and undone');
dsql(q{SELECT monitoring.delete_series('any_' || k) FROM unnest('{counter,gauge,distribution}'::text[]) k});

# ---- sums beyond the range of doubles are no damage ----

dsql(q{SELECT monitoring.increment('huge_total', 1e308), monitoring.increment('huge_total', 1e308); SELECT monitoring.set_gauge('huge', x) FROM unnest('{1e308,1e308}'::float8[]) x; SELECT monitoring.flush()});
is(dsql(q{SELECT monitoring.value('huge_total', 'sum'), monitoring.value('huge', 'avg'), monitoring.value('huge', 'max')}), 'Infinity|Infinity|1e+308', 'an overflown sum is stored');

# ---- chunks dropped by a retention that was shorter for a while ----

dsql(qq{UPDATE monitoring.retention_policies SET keep = '1 hour' WHERE relation = 'chunks'});
# what the worker is using is left for the next run
for (1 .. 100)
{
	last if dsql("SELECT sum(busy) FROM monitoring.apply_retention() WHERE relation = 'chunks'") == 0;
	usleep(100_000);
}
is(dsql("SELECT count(*) FROM monitoring.chunks WHERE period < $at + interval '1 day'"), 0, 'chunks are dropped');
dsql(qq{UPDATE monitoring.retention_policies SET keep = '90 days' WHERE relation = 'chunks'});
for my $more (1 .. 2)
{
	dsql("SELECT monitoring.record_at('sound_total', 1, $at + interval '3 hours', kind => 'counter')");
	dsql('SELECT monitoring.compact()');
	is(dsql(sprintf $whole, 'sound_total'), 27 + $more, "late observations are added to what only coarser levels have, $more");
}

# ---- compaction as of long ago comes to the present in no time ----

sql('CREATE DATABASE old');
$node->safe_psql('old', q{CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; SELECT monitoring.compact('0044-03-15 BC')});
$node->safe_psql('old', q{SELECT monitoring.increment('a_total'), monitoring.flush()});
is($node->safe_psql('old', q{SET statement_timeout = '20 s'; SELECT monitoring.compact(clock_timestamp() + interval '40 days') > 0; SELECT monitoring.value('a_total', 'sum')}), "t\n1", 'hours without data are passed over');

# ---- many series: batches, interrupted and continued, with late data in the middle ----

sql('CREATE DATABASE many');
sub msql { return $node->safe_psql('many', @_) }
msql(q{CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false});
msql(q{SELECT count(monitoring.increment('many_total', i, jsonb_build_object('k', i))) FROM generate_series(1, 12000) i});
msql('SELECT monitoring.flush()');
msql(q{SELECT monitoring.compact(clock_timestamp() + interval '2 minutes')});
my $sum = 12000 * 12001 / 2;
my $days = q{SELECT sum(value), count(DISTINCT series_labels) FROM monitoring.query('many_total', 'sum', date_trunc('day', now(), 'UTC'), date_trunc('day', now(), 'UTC') + interval '1 day', '1 day', '{}', '{k}')};
is(msql($days), "$sum|12000", 'minutes of many series');
msql(q{SELECT monitoring.compact(clock_timestamp() + interval '26 hours')});
is(msql($days), "$sum|12000", 'chunks and hourly points of many series');
is(msql('SELECT count(*) FROM monitoring.chunks'), 12000, 'a chunk each');
# as if the last run had stopped in the middle of the month's daily points
msql(q{SELECT monitoring.compact(clock_timestamp() + interval '40 days')});
is(msql($days), "$sum|12000", 'daily points of many series');
msql(q{UPDATE monitoring.compaction_state SET daily = date_trunc('month', now(), 'UTC'), daily_next = 0;
	DELETE FROM monitoring.daily WHERE series_id >= 0});
is(msql($days), "$sum|12000", 'a month that is half done is read from hourly points');
msql(q{SELECT count(monitoring.record_at('many_total', 1, date_trunc('day', now(), 'UTC') - interval '1 hour', jsonb_build_object('k', i), 'counter')) FROM generate_series(1, 3000) i});
msql(q{SELECT monitoring.compact(clock_timestamp() + interval '40 days')});
is(msql($days), "$sum|12000", 'late data in the middle of a roll-up is no part of another day');
is(msql(q{SELECT sum(value) FROM monitoring.query('many_total', 'sum', date_trunc('day', now(), 'UTC') - interval '1 day', date_trunc('day', now(), 'UTC'), '1 hour')}), 3000, 'and all there');
is(msql('SELECT * FROM monitoring.check_storage()'), '', 'storage is sound');

# ---- retention takes nothing that the next level has not taken over ----

is(msql(q{UPDATE monitoring.compaction_state SET minutes = now() - interval '9 hours'; SELECT sum(dropped) FROM monitoring.apply_retention(clock_timestamp() + interval '5 hours') WHERE relation = 'segments'}), '0', 'segments that minutes have not taken over stay');

$node->stop;
done_testing();
