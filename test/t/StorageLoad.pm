# What the crash and fault tests share: clients that write down what they record, and ways to run, kill and compare them.
#
# Every transaction of a client records with monitoring.transactional and enters the same into the table "did"; so as
# long as nothing is lost, what metrics hold and what the table says are equal to the last observation.
package StorageLoad;

use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
use Time::HiRes qw(usleep);

our @EXPORT = qw(seed_from pick start_sql finish_sql install_load pids crash RECORDED DONE REMAINS EXPECTED_REMAINS);

# The seed of a test: from the environment, so that a failed run can be repeated.
sub seed_from
{
	my $seed = $ENV{MONITORING_TEST_SEED} || int(rand(2**31));
	srand($seed);
	return $seed;
}

sub pick { return $_[ int(rand(@_)) ] }

# Run SQL in a psql of its own that is connected when this returns; it may well not live to the end of the SQL.
sub start_sql
{
	my ($node, $db, $sql) = @_;
	# \q, since a server that is started meanwhile inherits the pipe: psql would never see its end.
	my %run = (in => "\\echo connected\n$sql\n\\q\n", out => '', err => '');
	my $timeout = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
	$run{handle} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db) ],
		'<', \$run{in}, '>', \$run{out}, '2>', \$run{err}, $timeout);
	$run{handle}->pump until $run{out} =~ /connected/;
	$timeout->reset;
	return \%run;
}

sub finish_sql
{
	my ($run) = @_;
	eval { $run->{handle}->finish; 1 };
	return $run;
}

# Processes of the server of a type, as pg_stat_activity calls it, but for the one that looks.
sub pids
{
	my ($node, $type) = @_;
	return split /\n/, $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type ~ '$type' AND pid <> pg_backend_pid()");
}

# Kill a process of the server, or stop all of it at once, and have it run again.
sub crash
{
	my ($node, $victim, $victims) = @_;
	my $pid = pick(@$victims) || 0;
	if ($victim eq 'immediate stop')
	{
		$node->stop('immediate');
		$node->start;
	}
	elsif ($victim eq 'postmaster')
	{
		my @children = split /\n/, `pgrep -P $node->{_pid}`;
		$node->kill9;
		kill 'KILL', @$victims; # who is busy would go on for long without noticing
		# Its children notice it in their own time, but not while they wait for a lock that a victim held.
		for my $try (1 .. 100)
		{
			last if $node->start(fail_ok => 1);
			undef $node->{_pid}; # as the dead one's file says
			kill 'KILL', @children if $try == 20;
			usleep(100_000);
		}
	}
	elsif (!kill 'KILL', $pid)
	{
		return crash($node, 'immediate stop'); # it has gone by itself
	}
	# A moment after the kill it may still be the old server, where the victim is as if it were alive.
	return wait_for_sql($node, 'postgres', "SELECT NOT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
}

# Sums of whole numbers, so that they are exact in whatever order they are added up.
use constant RECORDED => <<'SQL';
SELECT concat_ws(' ', coalesce(monitoring.value('sold_total', 'count', '40 days', '{}', t.at), 0), coalesce(monitoring.value('sold_total', 'sum', '40 days', '{}', t.at), 0),
                 coalesce(monitoring.value('wait_seconds', 'count', '40 days', '{}', t.at), 0), coalesce(monitoring.value('wait_seconds', 'sum', '40 days', '{}', t.at), 0)),
       concat_ws(' ', coalesce(monitoring.value('late_seconds', 'count', '40 days', '{}', t.at), 0), coalesce(monitoring.value('late_seconds', 'sum', '40 days', '{}', t.at), 0),
                 (SELECT coalesce(sum(q.value), 0) FROM monitoring.query('late_seconds', 'count', date_trunc('hour', t.at - interval '4 days'), date_trunc('hour', t.at + interval '1 hour'), '1 hour') q),
                 (SELECT coalesce(sum(q.value), 0) FROM monitoring.query('late_seconds', 'sum', date_trunc('day', t.at - interval '4 days', 'UTC'), date_trunc('day', t.at + interval '1 day', 'UTC'), '1 day') q))
FROM (SELECT clock_timestamp() + interval '30 seconds' AS at) t
SQL

use constant DONE => <<'SQL';
SELECT concat_ws(' ', coalesce(sum(d.live), 0), coalesce(sum(d.live_sum), 0), coalesce(sum(d.live), 0), coalesce(sum(d.live_sum), 0)),
       concat_ws(' ', coalesce(sum(d.late), 0), coalesce(sum(d.late_sum), 0), coalesce(sum(d.late), 0), coalesce(sum(d.late_sum), 0))
FROM public.did d
SQL

# What is left of series that are filled and deleted by turns, read from every level; and what should be.
use constant REMAINS => <<'SQL';
SELECT string_agg(concat_ws(' ', k, coalesce(monitoring.value('doomed_late', 'sum', '40 days', jsonb_build_object('k', k), t.at), 0),
                 (SELECT coalesce(sum(q.value), 0) FROM monitoring.query('doomed_late', 'sum', date_trunc('hour', t.at - interval '36 days'), date_trunc('hour', t.at + interval '1 hour'), '1 hour', jsonb_build_object('k', k)) q),
                 (SELECT coalesce(sum(q.value), 0) FROM monitoring.query('doomed_late', 'sum', date_trunc('day', t.at - interval '36 days', 'UTC'), date_trunc('day', t.at + interval '1 day', 'UTC'), '1 day', jsonb_build_object('k', k)) q)), ', ' ORDER BY k),
       string_agg(concat_ws(' ', k, coalesce(monitoring.value('doomed_live', 'sum', '40 days', jsonb_build_object('k', k), t.at), 0)), ', ' ORDER BY k)
FROM (SELECT clock_timestamp() + interval '30 seconds' AS at) t, generate_series(0, 2) k
SQL

use constant EXPECTED_REMAINS => <<'SQL';
SELECT string_agg(concat_ws(' ', s.k, d.late, d.late, d.late), ', ' ORDER BY s.k), string_agg(concat_ws(' ', s.k, d.live), ', ' ORDER BY s.k)
FROM generate_series(0, 2) AS s (k) CROSS JOIN LATERAL (SELECT coalesce(sum(o.late), 0) AS late, coalesce(sum(o.live), 0) AS live FROM public.doomed o WHERE o.k = s.k) d
SQL

sub install_load
{
	my ($node, $db) = @_;
	$node->safe_psql($db, <<'SQL');
BEGIN;
CREATE EXTENSION monitoring;
-- nothing records but the load
UPDATE monitoring.jobs SET enabled = false WHERE name NOT IN ('flush', 'compact', 'retention');
COMMIT;
CREATE TABLE public.did (live bigint, live_sum bigint, late bigint, late_sum bigint);
-- Transactions of some observations now and some in the past, of which a fifth and some savepoints are rolled back.
CREATE PROCEDURE public.work(transactions int, seed float8) LANGUAGE plpgsql AS $$
DECLARE
    live int;
    late int;
    keep boolean;
BEGIN
    PERFORM setseed(seed);
    FOR i IN 1 .. transactions LOOP
        PERFORM set_config('monitoring.transactional', 'on', true);
        live := 1 + (random() * 20)::int;
        late := (random() * 4)::int;
        keep := random() < 0.8;
        BEGIN
            PERFORM monitoring.record('wait_seconds', 1), monitoring.increment('sold_total'),
                    monitoring.record_at('late_seconds', 1, clock_timestamp() - interval '1 day');
            RAISE EXCEPTION 'rolled back';
        EXCEPTION WHEN raise_exception THEN
        END;
        PERFORM monitoring.record('wait_seconds', x, jsonb_build_object('k', x % 5)),
                monitoring.increment('sold_total', x, jsonb_build_object('k', x % 5)),
                monitoring.set_gauge('queue', x)
        FROM generate_series(1, live) x;
        PERFORM monitoring.increment('shared_total', 1, jsonb_build_object('k', live % 3)),
                monitoring.record_at('shared_late', 1, clock_timestamp() - interval '1 hour', jsonb_build_object('k', live % 3));
        PERFORM monitoring.record_at('late_seconds', x, clock_timestamp() - interval '61 seconds' - random() * interval '3 days', jsonb_build_object('k', x % 3))
        FROM generate_series(1, late) x;
        INSERT INTO public.did VALUES (live, live * (live + 1) / 2, late, late * (late + 1) / 2);
        IF keep THEN COMMIT; ELSE ROLLBACK; END IF;
    END LOOP;
END
$$;
CREATE TABLE public.doomed (k int, late bigint, live bigint);
-- Fill series with observations of all levels, then delete some or all of them, and of what others record meanwhile.
-- One at a time: what another filled between the deletion and that of the rows that stand for it would be there without.
CREATE PROCEDURE public.fill_and_delete(rounds int, seed float8) LANGUAGE plpgsql AS $$
DECLARE
    which int;
    how float8;
BEGIN
    PERFORM setseed(seed);
    FOR i IN 1 .. rounds LOOP
        PERFORM pg_advisory_xact_lock(0);
        PERFORM set_config('monitoring.transactional', 'on', true);
        PERFORM monitoring.record_at('doomed_late', x, clock_timestamp() - interval '61 seconds' - random() * interval '35 days', jsonb_build_object('k', k), 'counter')
        FROM generate_series(0, 2) k, generate_series(1, 5) x;
        PERFORM monitoring.increment('doomed_live', 1, jsonb_build_object('k', k)) FROM generate_series(0, 2) k;
        INSERT INTO public.doomed SELECT k, 15, 1 FROM generate_series(0, 2) k;
        IF random() < 0.8 THEN COMMIT; ELSE ROLLBACK; END IF;
        IF random() < 0.5 THEN
            PERFORM monitoring.flush();
            COMMIT;
        END IF;
        PERFORM pg_advisory_xact_lock(0);
        which := floor(random() * 3)::int;
        how := random();
        IF how < 0.4 THEN
            PERFORM monitoring.delete_series(m, jsonb_build_object('k', which)) FROM unnest('{doomed_late,doomed_live,shared_total,shared_late}'::text[]) m;
            DELETE FROM public.doomed WHERE doomed.k = which;
        ELSIF how < 0.6 THEN
            PERFORM monitoring.delete_series(m, jsonb_build_object('k', jsonb_build_object('!=', which))) FROM unnest('{doomed_late,doomed_live}'::text[]) m;
            DELETE FROM public.doomed WHERE doomed.k <> which;
        ELSE
            BEGIN
                PERFORM monitoring.reset(m) FROM unnest('{doomed_late,doomed_live}'::text[]) m;
                DELETE FROM public.doomed;
            EXCEPTION WHEN undefined_object THEN
            END;
        END IF;
        IF random() < 0.8 THEN COMMIT; ELSE ROLLBACK; END IF;
    END LOOP;
END
$$;
SQL
	return;
}

1;
