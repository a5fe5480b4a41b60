# Launcher and database workers on a real server: who gets a worker, jobs and their errors, DDL that workers would
# block, death of every kind, shutdown, taking turns, promotion. Jobs are functions made here, so that this test
# depends on nothing but the worker slice.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IPC::Run;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('workers');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
max_worker_processes = 16
restart_after_crash = on
log_line_prefix = '%m [%p] %b '
CONF
$node->start;

# ---- helpers ----

sub worker_pid
{
	my ($db) = @_;
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring worker' AND datname = '$db'");
}

# Wait until the database's worker is up and idle, and is not the one with the given pid.
sub wait_for_worker
{
	my ($db, $not) = @_;
	$not ||= 0;
	return $node->poll_query_until($db, <<"SQL");
SELECT EXISTS (SELECT FROM monitoring.status WHERE database = current_database() AND pid <> $not
               AND worker_state IN ('idle', 'running') AND job IS NOT NULL)
SQL
}

sub wait_for_runs
{
	my ($db, $job, $more) = @_;
	my $runs = $node->safe_psql($db, status_of('runs', $job)) || 0;
	return $node->poll_query_until($db, 'SELECT (' . status_of('runs', $job) . ') >= ' . ($runs + $more));
}

sub status_of
{
	my ($column, $job) = @_;
	return "SELECT $column FROM monitoring.status WHERE database = current_database() AND job = '$job'";
}

# A database with the extension, only jobs of our own, and a table that they leave traces in.
sub make_database
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	set_up_jobs($db);
	return;
}

sub set_up_jobs
{
	my ($db) = @_;
	$node->safe_psql($db, <<'SQL');
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false;
CREATE TABLE public.trace (job text, who name DEFAULT current_user, path text DEFAULT current_setting('search_path'),
                           zone text DEFAULT current_setting('TimeZone'),
                           others text DEFAULT concat_ws(' ', current_setting('default_table_access_method'),
                               current_setting('array_nulls'), current_setting('exit_on_error'),
                               current_setting('plpgsql.extra_errors', true), current_setting('monitoring.transactional')));
CREATE FUNCTION public.tick(at timestamptz) RETURNS void LANGUAGE sql
    AS $$ INSERT INTO public.trace (job) VALUES ('tick') $$;
CREATE FUNCTION public.last(at timestamptz) RETURNS void LANGUAGE sql
    AS $$ INSERT INTO public.trace (job) VALUES ('last') $$;
INSERT INTO monitoring.jobs (name, function, every) VALUES ('tick', 'public.tick', '200 milliseconds');
INSERT INTO monitoring.jobs (name, function, every, run_at_shutdown) VALUES ('last', 'public.last', '1 year', true);
COMMIT;
SQL
	return;
}

# The job for the end has had its first run, too, after which only ends make it run.
sub settle
{
	my ($db) = @_;
	return $node->poll_query_until($db, 'SELECT (' . status_of('runs', 'last') . ') > 0');
}

# kill -9, then wait until the server has noticed and is up again. Not by queries, whose psql might die midway.
sub kill_hard
{
	my ($victim) = @_;
	my $log = -s $node->logfile;
	kill 'KILL', $victim;
	$node->wait_for_log(qr/\(PID $victim\) was terminated by signal 9/, $log);
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if system('pg_isready', '-q', '-h', $node->host, '-p', $node->port) == 0;
		usleep(100_000);
	}
	return 0;
}

sub traces
{
	my ($db, $job) = @_;
	return $node->safe_psql($db, "SELECT count(*) FROM public.trace WHERE job = '$job'");
}

# ---- who gets a worker ----

is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'monitoring launcher'"),
	'1', 'the launcher runs');

make_database('one');
my $start = time();
ok(wait_for_worker('one'), 'CREATE EXTENSION gets a worker');
cmp_ok(time() - $start, '<', 30, 'quickly, not when the launcher looks for it, once a minute');
make_database('two');
ok(wait_for_worker('two'), 'a second database gets one, too');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'monitoring worker'"),
	'2', 'one worker a database, none without the extension');
is($node->safe_psql('one', "SELECT worker, database IS NULL, pid > 0, worker_state, job FROM monitoring.status WHERE worker = 'launcher'"),
	'launcher|t|t|running|', 'the launcher is in status');
is($node->safe_psql('one', "SELECT count(DISTINCT database) FROM monitoring.status WHERE worker = 'database worker'"),
	'2', 'both workers are in status');
ok(wait_for_runs('one', 'tick', 3), 'a job runs again and again');
is($node->safe_psql('one', status_of('state, failures, last_duration >= 0, lag >= 0, last_run <= clock_timestamp()', 'tick')),
	'ok|0|t|t|t', 'status of a job that works');

# ---- jobs ----

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE jobber;
ALTER DATABASE one SET search_path = 'nowhere';
ALTER DATABASE one SET default_transaction_read_only = on;
ALTER DATABASE one SET TimeZone = 'Asia/Tokyo';
ALTER DATABASE one SET exit_on_error = on;
ALTER DATABASE one SET plpgsql.extra_errors = 'all';
ALTER DATABASE one SET array_nulls = off;
SQL
$node->safe_psql('one', <<'SQL');
SET default_transaction_read_only = off;
CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;
ALTER DATABASE one SET default_table_access_method = 'other';
SQL
ok(settle('one'), 'all jobs have run');
my $pid = worker_pid('one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok(wait_for_worker('one', $pid), 'a worker that got SIGTERM is replaced');
is(traces('one', 'last'), '2', 'after the jobs for the end have run');

$node->safe_psql('one', <<'SQL');
SET default_transaction_read_only = off;
GRANT INSERT ON public.trace TO jobber;
CREATE FUNCTION public.fail(at timestamptz) RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO public.trace (job) VALUES ('fail'); RAISE EXCEPTION 'no luck today'; END $$;
CREATE FUNCTION public.slow(at timestamptz) RETURNS void LANGUAGE sql AS 'SELECT pg_catalog.pg_sleep(600)';
CREATE FUNCTION public.owned(at timestamptz) RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO public.trace (job) VALUES ('owned'); PERFORM set_config('search_path', 'evil', false); END $$;
CREATE FUNCTION public.planted(at timestamptz) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.trace (job) VALUES ('planted') $$;
ALTER FUNCTION public.planted OWNER TO jobber;
CREATE FUNCTION public.definer(at timestamptz) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO public.trace (job) VALUES ('definer') $$;
ALTER FUNCTION public.definer OWNER TO jobber;
CREATE FUNCTION public.locker(at timestamptz) RETURNS void LANGUAGE sql AS 'SELECT pg_catalog.pg_advisory_lock(4711)';
CREATE FUNCTION public.climb(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; SET SESSION AUTHORIZATION DEFAULT; END $$;
INSERT INTO monitoring.jobs (name, function, every, priority, timeout, owner) VALUES
    ('fail', 'public.fail', '200 milliseconds', 1, '30 seconds', current_user),
    ('slow', 'public.slow', '1 second', 2, '100 milliseconds', current_user),
    ('owned', 'public.owned', '200 milliseconds', 3, '30 seconds', 'jobber'),
    ('climb', 'public.climb', '200 milliseconds', 4, '30 seconds', 'jobber'),
    ('nothing', 'public.nothing', '200 milliseconds', 5, '30 seconds', current_user),
    ('nobody', 'public.tick', '200 milliseconds', 6, '30 seconds', 'nobody_at_all'),
    ('planted', 'public.planted', '200 milliseconds', 7, '30 seconds', current_user),
    ('definer', 'public.definer', '200 milliseconds', 8, '30 seconds', current_user),
    ('locker', 'public.locker', '200 milliseconds', 9, '30 seconds', 'jobber');
SQL
ok($node->poll_query_until('one', "SELECT count(*) = 6 FROM monitoring.jobs WHERE last_state = 'failed'"),
	'failing jobs are recorded');
my %error = map { split /\|/, $_, 2 } split /\n/,
	$node->safe_psql('one', "SELECT name, last_error FROM monitoring.jobs WHERE last_state = 'failed'");
is($error{fail}, 'no luck today', 'with the error of the function');
is($error{slow}, 'canceling statement due to statement timeout', 'of the timeout');
like($error{climb}, qr/cannot set parameter "(role|session_authorization)" within security-(definer function|restricted operation)/,
	'of trying to become somebody else');
like($error{nothing}, qr/function public\.nothing\(timestamp with time zone\) does not exist/, 'of a missing function');
like($error{nobody}, qr/role "nobody_at_all" does not exist/, 'of a missing owner');
like($error{planted}, qr/belongs neither to role "postgres", as which it would run, nor to a superuser/,
	'of a function that another role could change');
is(traces('one', 'planted'), '0', 'which is not run');
ok(wait_for_runs('one', 'definer', 1), 'a SECURITY DEFINER function of another role is');
is($node->safe_psql('one', "SELECT DISTINCT who FROM public.trace WHERE job = 'definer'"), 'jobber', 'with its own rights');
ok(wait_for_runs('one', 'locker', 2), 'a job takes a lock of the session');
ok($node->poll_query_until('one', "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"),
	'which does not outlast the run');

my $row = $node->safe_psql('one', "SELECT xmin, last_error_at FROM monitoring.jobs WHERE name = 'fail'");
ok(wait_for_runs('one', 'fail', 3), 'a failing job is tried again');
is($node->safe_psql('one', "SELECT xmin, last_error_at FROM monitoring.jobs WHERE name = 'fail'"), $row,
	'its row is not written again for the same error');
is(traces('one', 'fail'), '0', 'what it did is rolled back');
is($node->safe_psql('one', status_of('state, failures = runs, last_error', 'fail')), 'failed|t|no luck today',
	'status of a job that fails');
ok(wait_for_runs('one', 'owned', 2), 'jobs beside it run');
ok(wait_for_runs('one', 'tick', 2), 'those of a later priority, too');
is($node->safe_psql('one', "SELECT DISTINCT who, path, zone, others FROM public.trace WHERE job = 'owned'"),
	'jobber|pg_catalog, pg_temp|UTC|heap on off none off', 'a job runs as its owner, with pinned settings, whatever a run before has set');
is($node->safe_psql('one', "SELECT count(DISTINCT path || zone) FROM public.trace"), '1', 'the others, too');

$node->safe_psql('one', <<'SQL');
SET default_transaction_read_only = off;
CREATE OR REPLACE FUNCTION public.fail(at timestamptz) RETURNS void LANGUAGE sql AS '';
SQL
ok($node->poll_query_until('one', "SELECT last_state = 'ok' FROM monitoring.jobs WHERE name = 'fail'"),
	'a job that works again is ok again');
$node->safe_psql('one', <<'SQL');
SET default_transaction_read_only = off;
DELETE FROM monitoring.jobs WHERE name IN ('fail', 'slow', 'owned', 'climb', 'nothing', 'nobody', 'planted', 'definer', 'locker', 'tick');
SQL
ok($node->poll_query_until('one', "SELECT count(*) = 1 FROM monitoring.status WHERE database = 'one'"),
	'a job that is deleted is gone from status at once');
is($node->safe_psql('one', <<'SQL'), '0', 'an idle worker has no transaction and no snapshot');
SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'monitoring%' AND datname IS DISTINCT FROM 'two'
   AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)
SQL

$node->safe_psql('one', <<'SQL');
SET default_transaction_read_only = off;
INSERT INTO monitoring.jobs (name, function, setting) VALUES
    ('by setting', 'public.tick', 'monitoring.evaluation_interval'), ('unset', 'public.tick', 'monitoring.no_such'),
    ('no number', 'public.tick', 'search_path');
SQL
ok(wait_for_runs('one', 'by setting', 1), 'a setting gives the interval');
ok($node->poll_query_until('one', "SELECT last_error = 'setting \"monitoring.no_such\" does not exist' FROM monitoring.jobs WHERE name = 'unset'"),
	'one that does not exist is an error of the job');
ok($node->poll_query_until('one', "SELECT last_error = 'setting \"search_path\" is no positive number' FROM monitoring.jobs WHERE name = 'no number'"),
	'one that is no number, too');
$node->append_conf('postgresql.conf', 'monitoring.evaluation_interval = 100');
$node->reload;
ok(wait_for_runs('one', 'by setting', 20), 'a changed setting takes effect');
$node->safe_psql('one', "SET default_transaction_read_only = off; DELETE FROM monitoring.jobs WHERE name IN ('by setting', 'unset', 'no number')");

# A cancel means the running job, and nothing when there is none.
$pid = worker_pid('one');
my $launcher_pid = $node->safe_psql('one', "SELECT pid FROM monitoring.status WHERE worker = 'launcher'");
$node->safe_psql('one', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity, generate_series(1, 20) WHERE pid IN ($pid, $launcher_pid)");
$node->safe_psql('one', "SET default_transaction_read_only = off; INSERT INTO monitoring.jobs (name, function, every) VALUES ('tick', 'public.tick', '10 milliseconds')");
ok(wait_for_runs('one', 'tick', 2), 'the worker goes on after cancels');
$node->safe_psql('one', "SELECT pg_cancel_backend($pid) FROM generate_series(1, 2000)");
is(worker_pid('one'), $pid, 'and after a lot of them');
is($node->safe_psql('one', "SELECT pid FROM monitoring.status WHERE worker = 'launcher'"), $launcher_pid, 'and so does the launcher');

# A job that does not let itself be cancelled.
$node->safe_psql('one', <<'SQL');
SET default_transaction_read_only = off;
CREATE FUNCTION public.stubborn(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        BEGIN
            PERFORM pg_catalog.pg_sleep(600);
        EXCEPTION WHEN query_canceled THEN
        END;
    END LOOP;
END $$;
UPDATE monitoring.jobs SET function = 'public.stubborn', every = '1 hour', timeout = '100 milliseconds' WHERE name = 'tick';
INSERT INTO monitoring.jobs (name, function, every) VALUES ('stubborn', 'public.stubborn', '1 second');
SQL
ok($node->poll_query_until('one', status_of("state = 'running'", 'stubborn')), 'a job runs that catches its cancellation');
my $sent = time();
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), 'SIGTERM ends its worker');
cmp_ok(time() - $sent, '<', 50, 'soon');
$node->safe_psql('one', <<'SQL');
SET default_transaction_read_only = off;
UPDATE monitoring.jobs SET timeout = '100 milliseconds' WHERE name = 'stubborn';
SQL
ok(wait_for_worker('one', $pid), 'another one comes');
$pid = worker_pid('one');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"),
	'a timeout that is caught ends the worker in the end');
$node->safe_psql('one', "SET default_transaction_read_only = off; DELETE FROM monitoring.jobs WHERE name IN ('tick', 'stubborn')");
ok(wait_for_worker('one', $pid), 'and another one comes');

# ---- partitions ----

# Privileges of tables change while partitions are attached to them: neither a deadlock nor a catalog row changed by both.
$node->safe_psql('two', 'CREATE ROLE looker');
my ($in, $result, $errors) = ('', '', '');
my $maker = $node->background_psql('two');
$maker->query_safe("BEGIN; SELECT monitoring.ensure_partition('alert_history', '2024-05-05')");
my $grant = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('two') . ' application_name=grant', '-c',
		"SELECT monitoring.grant_access('looker', 'viewer')", '-c', "SELECT monitoring.revoke_access('looker')" ],
	'<', \$in, '>', \$result, '2>', \$errors);
ok($node->poll_query_until('two', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'grant' AND wait_event_type = 'Lock'"),
	'grant_access waits for who attaches a partition');
$maker->query_safe("SELECT monitoring.ensure_partition('delivery_attempts', '2024-05-05'); COMMIT");
$maker->quit;
$grant->finish;
is($errors, '', 'and both go on');
$node->safe_psql('two', 'DROP ROLE looker');
pass('nothing is left of a level that was revoked');

$node->safe_psql('two', <<'SQL');
DELETE FROM monitoring.retention_policies;
CREATE TABLE monitoring.aa (at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE monitoring.zz (at timestamptz NOT NULL) PARTITION BY RANGE (at);
INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep) SELECT r, '1 day', 0, '3 days' FROM unnest('{aa,zz}'::text[]) r;
SELECT monitoring.ensure_partition('aa', '2024-05-05');
SQL
$maker = $node->background_psql('two');
$maker->query_safe("BEGIN; SELECT pg_advisory_xact_lock(77, hashtext('monitoring.aa'))");
$node->safe_psql('two', "SET lock_timeout = '50s'; SELECT monitoring.ensure_partition('aa', '2024-05-06')");
pass('no advisory lock that anybody could take keeps partitions from being made');
$maker->query_safe("ROLLBACK; BEGIN; SELECT monitoring.ensure_partition('aa', '2024-05-07')");
$node->safe_psql('two', "SET lock_timeout = '50s'; INSERT INTO monitoring.aa VALUES ('2024-05-05'); SELECT count(*) FROM monitoring.aa");
pass('readers and writers do not wait for who makes a partition');
my ($code, $made, $why) = $node->psql('two', "SELECT monitoring.ensure_partition('aa', '2024-05-08')");
like($why, qr/canceling statement due to lock timeout/, 'another maker waits, but not for ever');
# Who takes his locks in another order than retention does: it waits for none while it has others.
my $apply = "SELECT relation, made, dropped, busy, error FROM monitoring.apply_retention('2024-05-20')";
$maker->query_safe("ROLLBACK; BEGIN; SELECT monitoring.ensure_partition('zz', '2024-05-05')");
is($node->safe_psql('two', $apply), "aa|1|2|0|\nzz|0|0|1|", 'retention leaves for the next run what somebody else is at');
$maker->query_safe("SELECT monitoring.ensure_partition('aa', '2024-05-08'); COMMIT");
$maker->quit;
is($node->safe_psql('two', $apply), "aa|0|1|0|\nzz|1|1|0|", 'and then does it');
$node->safe_psql('two', "DELETE FROM monitoring.retention_policies; DROP TABLE monitoring.aa, monitoring.zz");


# ---- DDL ----

$pid = worker_pid('two');
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');
my ($ret, $out, $err) = $node->psql('postgres', 'SET ROLE stranger; DROP DATABASE two');
like($err, qr/must be owner of database two/, 'a stranger cannot drop the database');
($ret, $out, $err) = $node->psql('postgres', 'SET ROLE stranger; CREATE DATABASE copy TEMPLATE two');
like($err, qr/permission denied/, 'nor copy it');
is(worker_pid('two'), $pid, 'nor disturb its worker');

$node->safe_psql('postgres', 'ALTER DATABASE two RENAME TO deux');
pass('RENAME');
ok(wait_for_worker('deux'), 'the worker is there again after RENAME');
$pid = worker_pid('deux');
$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE deux RENAME TO two; ROLLBACK');
ok(wait_for_worker('deux', $pid), 'and after a RENAME that is rolled back');

my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN; ALTER DATABASE deux RENAME TO two');
is(worker_pid('deux'), '', 'no worker while the transaction with RENAME is open');
is($node->safe_psql('one', "SELECT DISTINCT worker_state FROM monitoring.status WHERE database = 'deux'"),
	'standing aside', 'status says so');
$session->query_safe('COMMIT');
$session->quit;
ok(wait_for_worker('two'), 'the worker is there again after the commit');

$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE two');
pass('CREATE DATABASE ... TEMPLATE');
ok(wait_for_worker('two'), 'the template has a worker again');
ok(wait_for_worker('copy'), 'the copy has one, too');

$ENV{SPACE} = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION '$ENV{SPACE}'");
$pid = worker_pid('copy');
$node->safe_psql('postgres', 'ALTER DATABASE copy SET TABLESPACE space');
ok(wait_for_worker('copy', $pid), 'SET TABLESPACE');

$node->safe_psql('copy', <<'SQL');
CREATE FUNCTION public.slow(at timestamptz) RETURNS void LANGUAGE sql AS 'SELECT pg_catalog.pg_sleep(600)';
INSERT INTO monitoring.jobs (name, function, every) VALUES ('slow', 'public.slow', '1 second');
SQL
ok($node->poll_query_until('copy', status_of("state = 'running'", 'slow')), 'a job that takes long runs');
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('postgres', 'DROP DATABASE other');
pass('DROP DATABASE of another database');
$start = time();
$node->safe_psql('postgres', 'DROP DATABASE copy');
cmp_ok(time() - $start, '<', 50, 'DROP DATABASE does not wait for the job');
is($node->safe_psql('one', "SELECT count(*) FROM monitoring.status WHERE database = 'copy'"), '0', 'status forgets it');

$node->safe_psql('postgres', 'DROP TABLESPACE space');

# ---- CREATE and DROP EXTENSION ----

$pid = worker_pid('two');
$node->safe_psql('two', 'BEGIN; DROP EXTENSION monitoring; ROLLBACK');
ok(wait_for_worker('two', $pid), 'a worker again after a DROP EXTENSION that is rolled back');
$node->safe_psql('two', 'DROP EXTENSION monitoring');
is(worker_pid('two'), '', 'no worker after DROP EXTENSION');
ok( $node->poll_query_until('one', "SELECT count(*) = 0 FROM monitoring.status WHERE database = 'two'"),
	'nor anything in status');
$node->safe_psql('two', 'DROP TABLE public.trace; DROP FUNCTION public.tick, public.last');
set_up_jobs('two');
ok(wait_for_worker('two'), 'a worker again after CREATE EXTENSION');
$session = $node->background_psql('two');
$session->query_safe('SET client_min_messages = error; BEGIN; DROP SCHEMA monitoring CASCADE');
is(worker_pid('two'), '', 'the worker has gone before the extension is dropped with its schema');
$session->query_safe('COMMIT');
$session->quit;
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'monitoring worker' AND datname = 'two'"),
	'the worker goes when the extension is dropped with its schema');
$node->safe_psql('two', 'DROP TABLE public.trace; DROP FUNCTION public.tick, public.last');
$node->safe_psql('two', 'BEGIN; CREATE EXTENSION monitoring; ROLLBACK');
for (1 .. 5)
{
	set_up_jobs('two');
	$node->safe_psql('two', 'DROP EXTENSION monitoring; DROP TABLE public.trace; DROP FUNCTION public.tick, public.last');
}
pass('CREATE and DROP EXTENSION in quick succession');
set_up_jobs('two');
ok(wait_for_worker('two'), 'the worker keeps up');

# ---- death ----

my $launcher = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring launcher'");
$pid = worker_pid('one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( $node->poll_query_until('one', "SELECT pid <> $launcher FROM monitoring.status WHERE worker = 'launcher' AND pid IS NOT NULL"),
	'a launcher that got SIGTERM is replaced');
is(worker_pid('one'), $pid, 'it takes over the workers');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok(wait_for_worker('one', $pid), 'and replaces them');

# SIGTERM at any moment: the jobs for the end run each time, once.
srand(20240505);
$node->safe_psql('two', <<'SQL');
INSERT INTO monitoring.jobs (name, function, every, priority) SELECT 'busy ' || n, 'public.tick', '1 millisecond', n FROM generate_series(1, 5) n;
SQL
ok(settle('two'), 'all jobs have run');
$node->safe_psql('two', 'TRUNCATE public.trace');
my $rounds = 20;
for my $round (1 .. $rounds)
{
	$node->poll_query_until('two', "SELECT pid > 0 AND pid <> @{[ $pid || 0 ]} AND runs > 0 FROM monitoring.status WHERE database = 'two' AND job = 'busy 1'")
		or die 'no worker in round ' . $round;
	$pid = worker_pid('two');
	usleep(rand 20000);
	kill 'TERM', $pid;
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid") or die "no end in round $round";
}
is(traces('two', 'last'), $rounds, "$rounds times SIGTERM in the midst of work: the jobs for the end ran each time");
is($node->safe_psql('two', "SELECT count(*) FROM monitoring.jobs WHERE last_state = 'failed'"), '0', 'no job is said to have failed');
$node->safe_psql('two', "DELETE FROM monitoring.jobs WHERE name LIKE 'busy%'");

# kill -9 at any moment, of a worker or of the launcher.
for my $round (1 .. 5)
{
	ok(wait_for_worker('one'), "kill -9, round $round: there is a worker");
	my $victim = $round % 2 ? worker_pid('one')
		: $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring launcher'");
	usleep(rand 50000);
	ok(kill_hard($victim), "kill -9, round $round: the server comes back");
}
$node->stop('immediate');
$node->start;
ok(wait_for_worker('one'), 'a worker after an immediate stop');

$pid = worker_pid('one');
ok(kill_hard($pid), 'kill -9 of a worker: the server comes back');
ok(wait_for_worker('one', $pid), 'and its worker');
ok(wait_for_worker('two'), 'and the other one');

# ---- shutdown ----

ok(settle('two'), 'all jobs have run');
$node->safe_psql('two', <<'SQL');
TRUNCATE public.trace;
CREATE FUNCTION public.slow(at timestamptz) RETURNS void LANGUAGE sql AS 'SELECT pg_catalog.pg_sleep(600)';
INSERT INTO monitoring.jobs (name, function, every) VALUES ('slow', 'public.slow', '1 second');
SQL
ok($node->poll_query_until('two', status_of("state = 'running'", 'slow')), 'a job runs when the server is stopped');
$node->stop('fast');
$node->append_conf('postgresql.conf', 'monitoring.max_workers = 1');
$node->start;
is(traces('two', 'last'), '1', 'a fast shutdown has run the jobs for the end');
is($node->safe_psql('two', "SELECT last_state FROM monitoring.jobs WHERE name = 'slow'"), 'new',
	'the job it cancelled is not said to have failed');
$node->safe_psql('two', "DELETE FROM monitoring.jobs WHERE name = 'slow'");

# ---- more databases than workers ----

make_database('three');
for my $db (qw(one two three))
{
	ok($node->poll_query_until($db, "SELECT sum(runs) > 0 FROM monitoring.status WHERE database = '$db'"),
		"with one worker for three databases, $db has its turn");
}
is($node->safe_psql('one', "SELECT count(DISTINCT pid) <= 1 FROM monitoring.status WHERE worker = 'database worker' AND worker_state <> 'waiting'"),
	't', 'never two at a time');
$node->append_conf('postgresql.conf', 'monitoring.max_workers = 4');
$node->reload;
ok(wait_for_worker($_), "with four, $_ keeps its worker") for qw(one two three);
is($node->safe_psql('one', "SELECT count(DISTINCT pid) FROM monitoring.status WHERE worker = 'database worker'"), '3',
	'all at a time');

# ---- standby ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is($standby->safe_psql('one', 'SELECT worker, worker_state FROM monitoring.status'), 'launcher|not running',
	'a standby has no launcher');
# Who reads on the standby keeps reading while the primary flushes, and flushes of the promoted server go on from there.
sub on_standby { return $standby->safe_psql('one', "SELECT monitoring.value('m', 'sum', '1 hour')"); }
for my $round (1 .. 3)
{
	$node->safe_psql('one', "SET default_transaction_read_only = off; SELECT monitoring.increment('m'); SELECT monitoring.flush()");
	$node->wait_for_catchup($standby);
	is(on_standby(), $round, "a read on the standby after flush $round of the primary");
}
$standby->promote;
$standby->safe_psql('one', "SET default_transaction_read_only = off; SELECT monitoring.increment('m'); SELECT monitoring.flush()");
is(on_standby(), '4', 'nothing is lost after promotion');
is($standby->safe_psql('one', 'SELECT count(DISTINCT seq) = 4 AND max(seq) = (SELECT seq FROM monitoring.flush_state) FROM monitoring.segments'), 't',
	'flushes are numbered on');
ok( $standby->poll_query_until('one',
		"SELECT count(*) > 0 FROM monitoring.status WHERE database = 'one' AND worker_state = 'idle'"),
	'after promotion it has, and workers');
$standby->stop;

# ---- no room for workers ----

$node->stop;
# Two slots: the launchers of logical replication and ours, or what else the library starts.
$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 1");
my $log_start = -s $node->logfile;
$node->start;
ok($node->wait_for_log(qr/monitoring found no free worker slot for database/, $log_start), 'no free worker slot is logged');
ok($node->wait_for_log(qr/Consider increasing max_worker_processes/, $log_start), 'with a hint');
is($node->safe_psql('one', 'SELECT count(*) FROM monitoring.jobs WHERE enabled') > 0 ? 1 : 0, 1, 'and harms nobody');
$node->stop;

done_testing();
