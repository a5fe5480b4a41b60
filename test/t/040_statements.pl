# Statements of a real server: slow ones, resets, evictions, roles, versions
# and schemas of pg_stat_statements, and its absence.  Snapshots are taken by
# hand at given times; the worker's own job is off.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('statements');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pg_stat_statements, monitoring'
pg_stat_statements.max = 100
monitoring.slow_query_threshold = '100ms'
max_worker_processes = 16
CONF
$node->start;

# one session per call; snapshot at a virtual time, some seconds after noon
sub sql
{
	my ($database, $query) = @_;
	return $node->safe_psql($database, $query);
}

sub snapshot
{
	my ($database, $second) = @_;
	return sql($database, "SELECT monitoring.snapshot_statements('2031-01-01 12:00+00'::timestamptz + $second * interval '1 s')");
}

sub create_database
{
	my ($name, @extension) = @_;
	sql('postgres', "CREATE DATABASE $name");
	# one transaction: the job never runs
	sql($name, "BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name = 'statements'; COMMIT");
	sql($name, $_) foreach @extension;
	return;
}

my $slow = "FROM monitoring.slow_queries WHERE query LIKE '%pg_sleep%'";

# ---- absence ----

create_database('s1');
is(sql('s1', 'SELECT installed, preloaded, hint FROM monitoring.statement_source'),
	'f|t|Run CREATE EXTENSION pg_stat_statements in this database.', 'extension missing: a hint');
is(snapshot('s1', 0), '0', 'extension missing: a snapshot does nothing');
is(sql('s1', 'SELECT count(*) FROM monitoring.slow_queries'), '0', 'and there are no slow queries');

# ---- in another schema, with a name that must be quoted ----

sql('s1', 'CREATE SCHEMA "Odd ""schema"; CREATE EXTENSION pg_stat_statements SCHEMA "Odd ""schema"');
my $odd = '"Odd ""schema".pg_stat_statements';
sql('s1', 'SELECT pg_sleep(0.2)');
is(snapshot('s1', 10), '0', 'the first snapshot stores no history');
is(sql('s1', 'SELECT installed, schema, hint FROM monitoring.statement_source'), 't|Odd "schema|', 'found in its schema');
is(sql('s1', "SELECT count(*) $slow"), '0', 'what happened before it is not slow now');

sql('s1', 'SELECT pg_sleep(0.2)');
sql('s1', 'SELECT pg_sleep(0.01), 1') foreach 1 .. 3;
cmp_ok(snapshot('s1', 20), '>=', 2, 'statements that ran are stored');
is(sql('s1', "SELECT query, calls, mean_seconds BETWEEN 0.2 AND 5, max_interval_mean_seconds = mean_seconds,
		abs(max_seconds - mean_seconds) < 0.000001, rows, database, username = current_user, last_seen - first_seen = '10 s', share_of_total_time BETWEEN 0.1 AND 1
		FROM monitoring.slow_queries WHERE query = 'SELECT pg_sleep(\$1)'"),
	'SELECT pg_sleep($1)|1|t|t|t|1|s1|t|t|t', 'the slow statement is found');
is(sql('s1', "SELECT count(*) $slow AND query LIKE '%,%'"), '0', 'a fast one is not');
is(sql('s1', "SELECT string_agg(calls::text, ',' ORDER BY bucket) FROM monitoring.statement_history h
		JOIN monitoring.statement_queries q USING (queryid, userid) WHERE query LIKE 'SELECT pg_sleep(%), %'"),
	'3', 'executions are counted');

# a slow interval among fast ones is not averaged away; a slow past does not make a fast present slow
sql('s1', 'SELECT pg_sleep(0.2), 1');
snapshot('s1', 30);
sql('s1', 'SELECT pg_sleep(0.0), 1') foreach 1 .. 40;
snapshot('s1', 40);
is(sql('s1', "SELECT calls, mean_seconds < 0.1, max_interval_mean_seconds >= 0.2, slowest_at = '2031-01-01 12:00:30+00',
		last_seen = '2031-01-01 12:00:40+00' $slow AND query LIKE '%,%'"),
	'44|t|t|t|t', 'slow in one interval');
my $values = "FROM monitoring.slow_query_values('2031-01-01 12:00:40+00', %s) WHERE query LIKE 'SELECT pg_sleep(%%), %%'";
is(sql('s1', 'SELECT mean_seconds >= 0.2, calls ' . sprintf($values, "'20 s'")), 't|41', 'a window with the slow interval');
is(sql('s1', 'SELECT mean_seconds < 0.1, calls ' . sprintf($values, "'10 s'")), 't|40', 'the window after it');
is(sql('s1', 'SELECT count(*) ' . sprintf($values, "'10 s', 0.1")), '0', 'values can be bounded below');
snapshot('s1', 50);
is(snapshot('s1', 60), '1', 'only what ran is stored');

# ---- passwords and long texts ----

sql('s1', "CREATE ROLE someone PASSWORD 'se''cret\$x'; ALTER ROLE someone ENCRYPTED PASSWORD E'se\\'cret2' VALID UNTIL '2031-01-01'");
sql('s1', 'SELECT pg_sleep(0.15) /* ' . ('ü' x 100_000) . ' */, true');
snapshot('s1', 130);
is(sql('s1', "SELECT count(*), count(*) FILTER (WHERE query ~ 'cret') FROM monitoring.statement_queries WHERE query ~* 'role someone'"),
	'2|0', 'passwords are not stored');
is(sql('s1', "SELECT octet_length(query) BETWEEN 8189 AND 8192 $slow AND query LIKE '%ü%'"), 't', 'texts are cut');
sql('s1', 'DROP ROLE someone');

# ---- resets ----

sql('s1', "SELECT ${odd}_reset()");
sql('s1', 'SELECT pg_sleep(0.0), 1') foreach 1 .. 60;
snapshot('s1', 140);
my $last = "SELECT calls FROM monitoring.statement_history JOIN monitoring.statement_queries q USING (queryid, userid)
	WHERE q.query LIKE 'SELECT pg_sleep(%), %' ORDER BY bucket DESC LIMIT 1";
is(sql('s1', $last), '60', 'after a reset counts start at zero, even when they are above the old ones');
is(sql('s1', 'SELECT resets FROM monitoring.statement_source'), '1', 'the reset is noticed');

sql('s1', "SELECT ${odd}_reset(0, 0, queryid) FROM $odd WHERE query LIKE 'SELECT pg_sleep(%), %'");
sql('s1', 'SELECT pg_sleep(0.0), 1') foreach 1 .. 5;
snapshot('s1', 150);
is(sql('s1', $last), '5', 'the reset of one statement');
is(sql('s1', "SELECT sum(calls) FROM monitoring.statement_history JOIN monitoring.statement_queries q USING (queryid, userid)
		WHERE q.query LIKE 'SELECT pg_sleep(%), %'"), '109', 'and nothing is lost or counted twice');

# ---- restarts ----

$node->restart;
sql('s1', 'SELECT pg_sleep(0.0), 1') foreach 1 .. 2;
snapshot('s1', 160);
is(sql('s1', $last), '2', 'a restart keeps the counters');
$node->stop('immediate');
$node->start;
sql('s1', 'SELECT pg_sleep(0.0), 1') foreach 1 .. 3;
snapshot('s1', 170);
is(sql('s1', $last), '3', 'a crash loses them: they start at zero');

# ---- evictions: room for 100 ----

sql('s1', 'SELECT pg_sleep(0.0) /* rare */, 2, 3');
snapshot('s1', 180);
# a value list of another length is another statement
sql('s1', join(';', map { my $n = $_; map { "SELECT " . join(',', (1) x $n) } 1 .. 2 } 10 .. 160));
snapshot('s1', 240);
my $rare = "query LIKE '%pg_sleep(%) /* rare */%'";
is(sql('s1', "SELECT count(*) FROM $odd WHERE $rare"), '0', 'the rare statement is evicted');
is(sql('s1', 'SELECT evictions > 0, evicted_at IS NOT NULL, hint LIKE \'Raise pg_stat_statements.max%\' FROM monitoring.statement_source'),
	't|t|t', 'evictions are noticed, with a hint');
sql('s1', 'SELECT pg_sleep(0.0) /* rare */, 2, 3') foreach 1 .. 3;
snapshot('s1', 250);
is(sql('s1', "SELECT string_agg(calls::text, ',' ORDER BY bucket) FROM monitoring.statement_history
		JOIN monitoring.statement_queries q USING (queryid, userid) WHERE $rare"), '1,3', 'what comes back counts from zero');
is(sql('s1', "SELECT calls FROM monitoring.statements WHERE $rare"), '4', 'on top of what was watched before');

# ---- several databases and roles ----

sql('s1', "SELECT ${odd}_reset()");
create_database('s2', 'CREATE EXTENSION pg_stat_statements');
snapshot('s1', 300);
snapshot('s2', 300);
sql($_, 'SELECT pg_sleep(0.2), true, true, true') foreach 's1', 's2';
snapshot($_, 310) foreach 's1', 's2';
is(sql($_, "SELECT calls, database $slow AND query LIKE 'SELECT pg_sleep(%), %, %, %'"), "1|$_", "only its own statements are in $_")
  foreach 's1', 's2';

sql('s2', 'CREATE ROLE viewer LOGIN; CREATE ROLE reader LOGIN; GRANT pg_read_all_stats TO reader; GRANT USAGE ON SCHEMA monitoring TO viewer, reader;
	GRANT SELECT ON monitoring.slow_queries, monitoring.statement_source TO viewer, reader');
sub as_role
{
	my ($role, $query) = @_;
	return $node->safe_psql('s2', $query, extra_params => [ '-U', $role ]);
}
as_role('viewer', 'SELECT pg_sleep(0.2) AS by_viewer');
snapshot('s2', 320);
my $texts = 'SELECT username, query FROM monitoring.slow_queries WHERE calls = 1 AND username = \'%s\'';
is(as_role('viewer', sprintf($texts, 'viewer')), 'viewer|SELECT pg_sleep($1) AS by_viewer', 'a role sees the text of its own statement');
is(as_role('viewer', 'SELECT count(*) > 0, count(*) FILTER (WHERE query NOT LIKE \'<insufficient%\') FROM monitoring.slow_queries WHERE username <> \'viewer\''),
	't|0', 'but not of others');
is(as_role('reader', sprintf($texts, 'viewer')), 'viewer|SELECT pg_sleep($1) AS by_viewer', 'with pg_read_all_stats it does');
is(as_role('viewer', 'SELECT installed FROM monitoring.statement_source'), 't', 'the state of the source is readable');

# a copy of the database starts anew
sql('postgres', 'ALTER DATABASE s2 WITH ALLOW_CONNECTIONS false');
$node->poll_query_until('postgres', "SELECT count(pg_terminate_backend(pid)) = 0 FROM pg_stat_activity WHERE datname = 's2'");
sql('postgres', 'CREATE DATABASE s3 TEMPLATE s2; ALTER DATABASE s2 WITH ALLOW_CONNECTIONS true; ALTER DATABASE s3 WITH ALLOW_CONNECTIONS true');
sql('s3', 'SELECT pg_sleep(0.2), true, true');
is(snapshot('s3', 330), '0', 'a copied database takes a baseline');
is(sql('s3', 'SELECT count(*) FROM monitoring.slow_queries'), '0', 'and has no slow statements yet');

# two snapshots at once count nothing twice
sql('s2', 'SELECT 1 AS twice') foreach 1 .. 7;
my @running = map { $node->background_psql('s2') } 1 .. 2;
$_->query_safe('SET application_name = \'racer\'') foreach @running;
$running[0]->query_safe('BEGIN');
$running[0]->query_safe("SELECT monitoring.snapshot_statements('2031-01-01 12:06+00')");
$running[1]->query_until(qr/started/, "\\echo started\nSELECT monitoring.snapshot_statements('2031-01-01 12:06:01+00');\n");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 's2' AND wait_event_type = 'Lock'"),
	'a second snapshot waits for the first');
$running[0]->query_safe('COMMIT');
$_->quit foreach @running;
$node->safe_psql('s2', "SELECT monitoring.fetch_statement_texts('2031-01-01 12:06:02+00')");
is(sql('s2', "SELECT sum(calls) FROM monitoring.statement_history JOIN monitoring.statement_queries q USING (queryid, userid)
		WHERE q.query LIKE 'SELECT % AS twice'"), '7', 'and counts nothing twice');

# ---- versions ----

foreach my $version ('1.4', '1.7', '1.8', '1.9')
{
	my $database = 'v' . ($version =~ tr/.//dr);
	create_database($database, "CREATE EXTENSION pg_stat_statements VERSION '$version'");
	is(snapshot($database, 400), '0', "version $version: baseline");
	sql($database, 'SELECT pg_sleep(0.2)');
	snapshot($database, 410);
	is(sql($database, "SELECT calls, mean_seconds BETWEEN 0.2 AND 5 $slow"), '1|t', "version $version: slow statement found");
	sql($database, 'DROP EXTENSION pg_stat_statements');
	is(snapshot($database, 420), '0', "version $version: dropped, no error");
	is(sql($database, "SELECT count(*) $slow"), '1', "version $version: history stays");
}

# ---- one entry for both levels: before 1.9 the same statement has two rows that cannot be told apart ----

create_database('levels', "CREATE EXTENSION pg_stat_statements VERSION '1.8'");
my $both = q{SET pg_stat_statements.track = 'all'; SELECT sum(n) AS both_levels FROM generate_series(1, 3) AS n;
	DO $$ BEGIN PERFORM 1; EXECUTE 'SELECT sum(n) AS both_levels FROM generate_series(1, 3) AS n'; END $$};
sql('levels', $both);
is(snapshot('levels', 420), '0', 'two rows of one statement: baseline');
sql('levels', $both) foreach 1 .. 2;
snapshot('levels', 430);
my $levels = "SELECT sum(calls) FROM monitoring.statement_history JOIN monitoring.statement_queries q USING (queryid, userid) WHERE q.query LIKE '%both_levels%' AND q.query LIKE 'SELECT%'";
is(sql('levels', $levels), '4', 'two rows of one statement are added up');

# ---- another version of the extension: what it newly counts did not happen now ----

sql('levels', "SELECT pg_sleep(0.2), 'before'") foreach 1 .. 3;
snapshot('levels', 440);
sql('levels', "ALTER EXTENSION pg_stat_statements UPDATE TO '1.10'");
is(snapshot('levels', 450), '0', 'after an update of the extension the counters are only noted');
is(sql('levels', 'SELECT resets FROM monitoring.statement_source'), '0', 'which is no reset');
sql('levels', $both);
sql('levels', 'CREATE SCHEMA elsewhere; DROP EXTENSION pg_stat_statements');
is(snapshot('levels', 455), '0', 'no extension, no snapshot');
sql('levels', q{CREATE EXTENSION pg_stat_statements VERSION '1.10'; ALTER EXTENSION pg_stat_statements SET SCHEMA elsewhere});
sql('levels', $both);
snapshot('levels', 460);
is(sql('levels', $levels), '8', 'then counting goes on, wherever the extension goes');
is(sql('levels', "SELECT calls FROM monitoring.slow_queries WHERE query LIKE 'SELECT pg_sleep(%'"), '3', 'what was watched before stays');

# ---- texts that this database cannot hold ----

sql('postgres', "CREATE DATABASE $_->[0] TEMPLATE template0 ENCODING '$_->[1]' LOCALE 'C'")
  foreach [ 'bytes', 'SQL_ASCII' ], [ 'unicode', 'UTF8' ];
sql('bytes', "SELECT 1 /* caf\xe9 */, true, false, true");
sql('unicode', "BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name = 'statements'; COMMIT;
	CREATE EXTENSION pg_stat_statements");
snapshot('unicode', 470);
sql('unicode', 'SELECT pg_sleep(0.2), false, false');
cmp_ok(snapshot('unicode', 480), '>', 0, 'unreadable texts do not keep numbers from being stored');
is(sql('unicode', 'SELECT count(*) > 0, count(query) FROM monitoring.slow_queries'), 't|0', 'without texts');
like(sql('unicode', 'SELECT hint FROM monitoring.statement_source'), qr/^Texts of statements cannot be read: invalid byte sequence/, 'and a hint says why');
sql('unicode', 'SELECT pg_stat_statements_reset()');
snapshot('unicode', 5000);
is(sql('unicode', 'SELECT hint FROM monitoring.statement_source'), '', 'which goes when they can be read again');

# ---- newer versions, played by functions of our own ----

create_database('newer', 'CREATE EXTENSION pg_stat_statements');
sql('newer', q{
	ALTER EXTENSION pg_stat_statements DROP VIEW pg_stat_statements;
	ALTER EXTENSION pg_stat_statements DROP VIEW pg_stat_statements_info;
	ALTER EXTENSION pg_stat_statements DROP FUNCTION pg_stat_statements(boolean);
	ALTER EXTENSION pg_stat_statements DROP FUNCTION pg_stat_statements_info();
	DROP VIEW pg_stat_statements, pg_stat_statements_info;
	DROP FUNCTION pg_stat_statements(boolean), pg_stat_statements_info();
	CREATE TABLE entry (calls bigint, total float8, low float8, high float8, since timestamptz);
	CREATE SEQUENCE readings;
	CREATE TABLE reset_while_reading AS SELECT false AS yes;
	-- 1.12
	CREATE FUNCTION pg_stat_statements(showtext boolean, OUT userid oid, OUT dbid oid, OUT toplevel bool, OUT queryid bigint, OUT query text,
		OUT calls bigint, OUT total_exec_time float8, OUT min_exec_time float8, OUT max_exec_time float8, OUT rows bigint,
		OUT shared_blks_hit bigint, OUT shared_blk_read_time float8, OUT local_blk_read_time float8, OUT wal_bytes numeric,
		OUT wal_buffers_full bigint, OUT jit_deform_time float8, OUT parallel_workers_launched bigint,
		OUT stats_since timestamptz, OUT minmax_stats_since timestamptz)
	RETURNS SETOF record LANGUAGE sql AS $$
		SELECT 10, d.oid, true, 99, 'select newer', e.calls, e.total, e.low, e.high, e.calls, 2 * e.calls, 1000 * e.calls, 500 * e.calls, 7 * e.calls,
			1, 250 * e.calls, 1, e.since, e.since
		FROM public.entry AS e, pg_database AS d WHERE d.datname = current_database()
	$$;
	CREATE FUNCTION pg_stat_statements_info(OUT dealloc bigint, OUT stats_reset timestamptz) LANGUAGE sql AS $$
		SELECT 0, '2030-01-01'::timestamptz + CASE WHEN yes THEN nextval('public.readings') ELSE 0 END * interval '1 s' FROM public.reset_while_reading
	$$;
	ALTER EXTENSION pg_stat_statements ADD FUNCTION pg_stat_statements(boolean);
	ALTER EXTENSION pg_stat_statements ADD FUNCTION pg_stat_statements_info();
	INSERT INTO entry VALUES (10, 1000, 50, 150, '2030-01-01')});
is(snapshot('newer', 600), '0', 'version 1.12: baseline');
sql('newer', 'UPDATE entry SET calls = 12, total = 2000, high = 600');
is(snapshot('newer', 610), '1', 'version 1.12: an increase');
is(sql('newer', 'SELECT calls, mean_seconds, max_seconds, rows, shared_hit_bytes, io_read_seconds, wal_bytes, jit_seconds FROM monitoring.statement_history'),
	'2|0.5|0.6|2|32768|3|14|0.5', 'version 1.12: its columns');
sql('newer', "UPDATE entry SET calls = 20, total = 4000, low = 10, high = 700, since = '2031-01-01 12:10:12+00'");
snapshot('newer', 620);
is(sql('newer', "SELECT calls, total_seconds FROM monitoring.statement_history WHERE bucket = '2031-01-01 12:10:20+00'"), '20|4',
	'an entry that is new counts from zero, though its counters are above those of the old one');
# the reset of minimum and maximum only
sql('newer', 'UPDATE entry SET calls = 21, total = 4200, low = 200, high = 200');
snapshot('newer', 630);
is(sql('newer', "SELECT calls, round(total_seconds::numeric, 6), max_seconds FROM monitoring.statement_history WHERE bucket = '2031-01-01 12:10:30+00'"),
	'1|0.200000|', 'a reset of minimum and maximum only is no reset');
is(sql('newer', 'SELECT calls, max_seconds FROM monitoring.statements'), '23|0.7', 'the longest execution stays known');
# a reset between the two readings of a snapshot would be counted twice
sql('newer', 'UPDATE entry SET calls = 1; UPDATE reset_while_reading SET yes = true');
my ($reset_status, $reset_out, $reset_err) = $node->psql('newer', "SELECT monitoring.snapshot_statements('2031-01-01 12:10:40+00')");
like($reset_err, qr/was reset during a snapshot/, 'a reset during a snapshot is an error');
sql('newer', 'UPDATE reset_while_reading SET yes = false');
snapshot('newer', 650);
is(sql('newer', "SELECT sum(calls) FROM monitoring.statement_history WHERE bucket > '2031-01-01 12:10:30+00'"), '1', 'and nothing is counted twice');

# ---- standing in the way ----

sql('s2', 'CREATE ROLE outsider LOGIN; GRANT USAGE ON SCHEMA monitoring TO outsider; GRANT EXECUTE ON FUNCTION monitoring.snapshot_statements(timestamptz) TO outsider');
my ($status, $out, $err) = $node->psql('s2', 'SELECT monitoring.snapshot_statements()', extra_params => [ '-U', 'outsider' ]);
like($err, qr/permission denied to read the statements of other roles/, 'a role without pg_read_all_stats takes no snapshot');

# ---- not preloaded ----

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'monitoring'\n");
$node->restart;
is(sql('s2', 'SELECT installed, preloaded, hint FROM monitoring.statement_source'),
	't|f|Add pg_stat_statements to shared_preload_libraries and restart the server.', 'not preloaded: a hint');
is(snapshot('s2', 500), '0', 'not preloaded: a snapshot does nothing');
cmp_ok(sql('s2', 'SELECT count(*) FROM monitoring.slow_queries'), '>', 0, 'and history stays readable');

$node->stop;
done_testing();
