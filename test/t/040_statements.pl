# Statements of a real server: every kind of them, counted once, beside
# pg_stat_statements; errors and cancellations; snapshots that fail, several
# databases and roles, more statements than there is room for, a standby, and
# the library that is not preloaded.  Snapshots are taken by hand; the jobs of
# the workers are off, and so is autovacuum.

use strict;
use warnings;

use IO::Socket::UNIX;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('statements');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pg_stat_statements, monitoring'
pg_stat_statements.track = 'all'
monitoring.slow_query_threshold = '1s'
autovacuum = off
max_worker_processes = 16
max_prepared_transactions = 2
CONF
$node->start;

sub sql
{
	my ($database, $query, @more) = @_;
	return $node->safe_psql($database, $query, @more);
}

# what fails is meant to
sub fails
{
	my ($database, $query) = @_;
	my ($status, $out, $err) = $node->psql($database, $query, on_error_stop => 0);
	return $err;
}

sub create_database
{
	my ($name, @extension) = @_;
	sql('postgres', "CREATE DATABASE $name");
	# one transaction: no job ever runs
	sql($name, "BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; COMMIT");
	sql($name, $_) foreach @extension;
	return;
}

# one value of the statements whose text is like the pattern, stored or not
sub counted
{
	my ($database, $pattern, $columns) = @_;
	$columns //= 'calls';
	return sql($database, "SELECT $columns FROM monitoring.statements_over('1 day') WHERE query LIKE '$pattern' AND query NOT LIKE '%statements_over%'");
}

my $levels = q{SELECT string_agg(toplevel || ' ' || calls, ', ' ORDER BY toplevel DESC) FROM (
	SELECT toplevel, sum(calls) AS calls FROM (
		SELECT queryid, toplevel, calls, query FROM monitoring.statement_live
		UNION ALL SELECT h.queryid, h.toplevel, h.calls, q.query FROM monitoring.statement_history h
			JOIN monitoring.statement_queries q USING (queryid, userid)) s
	WHERE query LIKE '%s' GROUP BY toplevel) t};

create_database('s1', 'CREATE EXTENSION pg_stat_statements', 'CREATE EXTENSION postgres_fdw', 'CREATE EXTENSION file_fdw');

# What takes long is begun here and looked at later: one too long for a session's own memory of a statement, and some that are so together.
create_database('long');
my @long = map {
	my @commands = map { ('-c', "SELECT pg_sleep($_)") } @$_;
	IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr('long'), @commands ], '>', '/dev/null', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default))
} [ 0.01, 4.5, 0.01 ], [ 1.6, 1.6, 1.6 ];

# ---- the main job: what is slow is seen at once, and kept ----

sql('s1', 'SELECT pg_sleep(1.1)');
sql('s1', 'SELECT pg_sleep(0.01), 1') foreach 1 .. 3;
is(sql('s1', "SELECT query, calls, mean_seconds BETWEEN 1.1 AND 100, p95_seconds = max_seconds, rows, database, username = current_user, share_of_total_time > 0.1
		FROM monitoring.slow_queries WHERE query LIKE '%pg_sleep%'"),
	'SELECT pg_sleep($1)|1|t|t|1|s1|t|t', 'a slow statement is found before any snapshot, and only that one');
is(counted('s1', 'SELECT pg_sleep($1), $2'), '3', 'executions are counted');
cmp_ok(sql('s1', 'SELECT monitoring.snapshot_statements()'), '>=', 2, 'a snapshot stores them');
is(counted('s1', 'SELECT pg_sleep($1), $2'), '3', 'once');
sql('s1', 'SELECT pg_sleep(0.0), 1');
is(counted('s1', 'SELECT pg_sleep($1), $2'), '4', 'with what came after');
is(sql('s1', "SELECT calls, toplevel, monitoring.sketch_count(latency) FROM monitoring.statement_history JOIN monitoring.statement_queries q USING (queryid, userid)
		WHERE query = 'SELECT pg_sleep(\$1), \$2'"), '3|t|3', 'and with its sketch');

# ---- every kind of statement, beside pg_stat_statements ----

my $workload = <<'SQL';
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT n, 'x' || n FROM generate_series(1, 1000) n;
UPDATE t SET v = 'y' WHERE id <= 10;
DELETE FROM t WHERE id > 990;
SELECT count(*) FROM t WHERE v LIKE 'x%';
COPY t TO '/dev/null';
COPY (SELECT * FROM t WHERE id < 7) TO '/dev/null';
CREATE TABLE u AS SELECT * FROM t WHERE id < 50;
CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
REFRESH MATERIALIZED VIEW m;
PREPARE p (int) AS SELECT v FROM t WHERE id = $1;
EXECUTE p(1);
EXECUTE p(2);
DEALLOCATE p;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM t ORDER BY id;
FETCH 5 FROM c;
FETCH 3 FROM c;
CLOSE c;
COMMIT;
EXPLAIN SELECT * FROM t WHERE id = 1;
EXPLAIN (ANALYZE, TIMING off) SELECT * FROM t WHERE id < 5;
CREATE FUNCTION f(int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE r int; BEGIN SELECT count(*) INTO r FROM t WHERE id < $1; RETURN r; END $$;
SELECT f(10);
SELECT f(n) FROM generate_series(1, 3) n;
CREATE FUNCTION g(int) RETURNS bigint LANGUAGE sql SET work_mem = '1MB' AS $$ SELECT count(*) FROM u WHERE id < $1 $$;
SELECT g(10);
CREATE PROCEDURE proc() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO u VALUES (1001, 'a'); COMMIT; INSERT INTO u VALUES (1002, 'b'); ROLLBACK; INSERT INTO u VALUES (1003, 'c'); END $$;
CALL proc();
DO $$ BEGIN FOR i IN 1..4 LOOP EXECUTE 'UPDATE u SET v = v WHERE id = 1'; END LOOP; END $$;
CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO u VALUES (new.id + 5000, 'from trigger'); RETURN new; END $$;
CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION trg();
INSERT INTO t VALUES (2001, 'a'), (2002, 'b');
BEGIN; SAVEPOINT a; SELECT 1 AS in_savepoint; ROLLBACK TO a; COMMIT;
BEGIN; INSERT INTO t VALUES (3001, 'two phases'); PREPARE TRANSACTION 'x';
COMMIT PREPARED 'x';
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
SELECT count(*) AS parallel FROM t AS a JOIN t AS b USING (v);
SET debug_parallel_query = on;
SELECT max(id) AS forced FROM t;
SELECT 1 AS twice, 2 AS both\; SELECT 1 AS twice, 2 AS both;
VACUUM t;
ANALYZE t;
SELECT pg_sleep(0.001) UNION ALL SELECT pg_sleep(0.002);
WITH w AS (INSERT INTO u VALUES (7, 'w') RETURNING *) SELECT * FROM w;
TABLE u;
VALUES (1, 'x'), (2, 'y');
BEGIN;
DECLARE s SCROLL CURSOR FOR SELECT id AS scrolled FROM t ORDER BY id;
FETCH LAST FROM s;
FETCH BACKWARD 3 FROM s;
MOVE ABSOLUTE 2 IN s;
DECLARE h CURSOR WITH HOLD FOR SELECT id AS held FROM t ORDER BY id;
FETCH 2 FROM h;
COMMIT;
FETCH 3 FROM h;
CLOSE h;
COPY u FROM PROGRAM 'printf "9001\\ta\\n9002\\tb\\n"';
CREATE INDEX CONCURRENTLY u_index ON u (id);
REINDEX INDEX u_index;
CLUSTER u USING u_index;
ALTER TABLE u ADD COLUMN w int DEFAULT 7;
BEGIN; DECLARE k CURSOR FOR SELECT id FROM u WHERE id = 9001 FOR UPDATE; FETCH k; UPDATE u SET w = 8 WHERE CURRENT OF k; COMMIT;
MERGE INTO u USING (VALUES (9001), (9003)) AS s (id) ON u.id = s.id WHEN MATCHED THEN UPDATE SET w = 9 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'm', 1);
INSERT INTO t VALUES (2001, 'again') ON CONFLICT (id) DO UPDATE SET v = 'again' RETURNING id;
CREATE FUNCTION caught(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 / (id - 5) FROM t WHERE id = $1; RETURN 0; EXCEPTION WHEN division_by_zero THEN PERFORM 2 AS after_error; RETURN 1; END $$;
SELECT sum(caught(n)) FROM generate_series(4, 6) AS n;
CREATE PROCEDURE loops() LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN FOR i IN 1 .. 3 LOOP INSERT INTO u VALUES (10000 + i, 'loop'); IF i % 2 = 0 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP;
	FOR r IN SELECT id AS kept_open FROM u WHERE id > 10000 ORDER BY id LOOP UPDATE u SET w = 0 WHERE id > 10000; COMMIT; END LOOP; END $$;
CALL loops();
CREATE FOREIGN TABLE file_rows (a text) SERVER files OPTIONS (program 'printf "x\\ny\\n"');
SELECT count(*) AS from_file FROM file_rows;
IMPORT FOREIGN SCHEMA public LIMIT TO (t) FROM SERVER loopback INTO far;
SELECT count(*) AS from_far, max(v) FROM far.t WHERE id < 300;
UPDATE far.t SET v = 'far' WHERE id < 3;
SELECT count(*) FROM pg_logical_slot_peek_changes('decoded', NULL, NULL) WHERE data ~ 'nothing';
SELECT json_agg(x) IS NULL, xmlforest(1 AS a) IS NULL FROM (SELECT) AS x WHERE false;
SELECT query_to_xml('SELECT count(*) AS by_spi FROM u', true, false, '') IS NOT NULL;
DROP PROCEDURE loops;
DROP FUNCTION caught;
DROP FOREIGN TABLE file_rows, far.t;
SQL
my $connection = 'host ' . "'" . $node->host . "', port '" . $node->port . "', dbname 's1'";
sql('s1', "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS ($connection);
	CREATE USER MAPPING FOR CURRENT_USER SERVER loopback; CREATE SCHEMA far; SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')");
append_to_file("$PostgreSQL::Test::Utils::tmp_check/pipeline.sql", "\\startpipeline\nSELECT count(*) AS piped FROM t WHERE id < :client_id + 5;\nSELECT 1 AS piped_too;\nUPDATE t SET v = 'p' WHERE id = 20 + :client_id;\n\\endpipeline\n");
append_to_file("$PostgreSQL::Test::Utils::tmp_check/plain.sql", "SELECT v AS plain FROM t WHERE id = :client_id + 1;\n");

# statements over every kind of connection: other protocols, pipelines, a walsender
sub run_workload
{
	sql('s1', $workload);
	foreach my $how ([ 'simple', 'plain' ], [ 'extended', 'plain' ], [ 'prepared', 'plain' ], [ 'extended', 'pipeline' ], [ 'prepared', 'pipeline' ])
	{
		$node->command_ok([ 'pgbench', '-h', $node->host, '-p', $node->port, '-n', '-c', 2, '-t', 20, '-M', $how->[0], '-f', "$PostgreSQL::Test::Utils::tmp_check/$how->[1].sql", 's1' ], "pgbench: @$how");
	}
	$node->command_ok([ 'psql', '-Xq', '-d', $node->connstr('s1') . ' replication=database', '-c', 'IDENTIFY_SYSTEM', '-c', 'SELECT now() IS NULL AS by_walsender' ], 'a walsender');
	return;
}
$workload =~ s/debug_parallel_query/force_parallel_mode/ if $node->pg_version < 16;
sub start_counting
{
	sql('s1', 'SELECT monitoring.snapshot_statements()');
	sql('s1', 'SELECT monitoring.forget_statements(); SELECT pg_stat_statements_reset()');
	return;
}
start_counting();
run_workload();
# From 18 on a cursor's query has an id, too: to pg_stat_statements it is one of the client's if the cursor is closed by COMMIT, else nested.
my $compare = q{SELECT count(*) AS compared,
		count(*) FILTER (WHERE o.calls IS DISTINCT FROM s.calls OR o.rows IS DISTINCT FROM s.rows),
		string_agg(format('%s: %s/%s calls, %s/%s rows', left(s.query, 60), o.calls, s.calls, o.rows, s.rows), '; ')
			FILTER (WHERE o.calls IS DISTINCT FROM s.calls OR o.rows IS DISTINCT FROM s.rows)
	FROM pg_stat_statements s
	LEFT JOIN monitoring.statement_live AS o ON o.queryid = s.queryid AND o.userid = s.userid AND (o.toplevel = s.toplevel OR s.query LIKE 'DECLARE %')
	WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.query !~ 'monitoring\.|pg_stat_statements|set_config|^SET |^EXPLAIN SELECT.*;$|kept_open FROM'};
my ($compared, $different, $how) = split /\|/, sql('s1', $compare), 3;
cmp_ok($compared, '>', 45, "every kind of statement: $compared compared with pg_stat_statements");
is($different, '0', 'calls and rows agree') or diag($how);
is(sql('s1', sprintf($levels, 'SELECT count(*) FROM t WHERE id < $1')), 'false 4', 'what a function runs is nested');
is(sql('s1', sprintf($levels, 'UPDATE u SET v = v WHERE id = $1')), 'false 4', 'and what DO executes');
is(sql('s1', sprintf($levels, '%SELECT v FROM t WHERE id = $1')), 'true 2', 'EXECUTE counts for its statement');
is(sql('s1', sprintf($levels, 'SELECT $1 AS twice, $2 AS both')), 'true 2', 'statements of one string are counted each, each with its own text');
is(sql('s1', q{SELECT string_agg(format('%s: %s/%s blocks, %s/%s bytes of log, %s/%s s', left(s.query, 20), o.shared_hit_bytes / 8192, s.shared_blks_hit,
			o.wal_bytes, s.wal_bytes, o.total_seconds, s.total_exec_time / 1000), '; ') FILTER (WHERE o.shared_hit_bytes / 8192 - s.shared_blks_hit NOT BETWEEN 0 AND 30 + 2 * o.calls -- those of planning
			OR o.wal_bytes <> s.wal_bytes OR abs(o.total_seconds - s.total_exec_time / 1000) > 0.002 + 0.1 * o.total_seconds), count(*)
		FROM pg_stat_statements s JOIN monitoring.statement_live o USING (queryid, userid, toplevel) WHERE s.query ~ '^(INSERT INTO t|UPDATE t|DELETE FROM t)'}),
	'|7', 'so do buffers, log and time');
# before version 16 pg_stat_statements has the rows of the last run alone
is(sql('s1', "SELECT calls, rows FROM monitoring.statement_live WHERE query LIKE 'SELECT id AS kept_open%'"), '1|2', 'a cursor that is kept beyond its transaction has all its rows');

# ---- errors and cancellations, at every depth ----

fails('s1', 'SELECT 1 / 0 AS at_planning');
fails('s1', 'SELECT 1 / (id - 5) AS at_run FROM t') foreach 1 .. 3;
fails('s1', q{DO $$ BEGIN PERFORM 1 / (id - 5) AS nested FROM t WHERE id > 0; EXCEPTION WHEN division_by_zero THEN PERFORM 'caught'; END $$});
fails('s1', q{SET statement_timeout = '50ms'; SELECT pg_sleep(5) AS timed_out});
fails('s1', 'INSERT INTO t VALUES (1)');
fails('s1', 'DROP TABLE no_such_table');
fails('s1', q{CREATE ROLE nobody; GRANT CONNECT ON DATABASE s1 TO nobody; SET ROLE nobody; SELECT count(*) AS denied FROM t});
fails('s1', q{CREATE FUNCTION deep(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF $1 = 0 THEN RETURN (SELECT 1 / (id - 1) AS deepest FROM t WHERE id = 1); END IF; RETURN deep($1 - 1); END $$;
	SELECT deep(20); SELECT 'level after errors'});
is(counted('s1', 'SELECT $1 / $2 AS at_planning', 'calls, errors, cancels'), '0|1|0', 'an error of the planner');
is(counted('s1', 'SELECT $1 / (id - $2) AS at_run FROM t', 'calls, errors, cancels'), '0|3|0', 'errors of the executor');
is(counted('s1', '%AS nested FROM t WHERE%', 'calls, errors, cancels'), '0|1|0', 'one that is caught');
is(counted('s1', 'SELECT pg_sleep($1) AS timed_out', 'calls, errors, cancels'), '0|0|1', 'a timeout');
is(counted('s1', 'INSERT INTO t VALUES ($1)', 'calls, errors'), '0|1', 'a constraint');
is(counted('s1', 'DROP TABLE no_such_table', 'calls, errors'), '0|1', 'a command');
is(sql('s1', "SELECT username, errors FROM monitoring.statements WHERE query = 'SELECT count(*) AS denied FROM t'"), 'nobody|1', 'a right that is missing, with the role');
is(counted('s1', 'SELECT deep($1)', 'calls, errors'), '0|1', 'a recursion that fails');
is(counted('s1', '%AS deepest FROM t WHERE id = %', 'errors'), '1', 'where it failed');
is(sql('s1', sprintf($levels, 'SELECT $1')), 'true 1', 'and the next statement of the session is at top level');

# ---- portals that are suspended, over the wire ----

{
	my $socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port) or die "cannot connect: $!";
	my $send = sub { my ($type, $body) = @_; print $socket $type . pack('N', length($body) + 4) . $body; $socket->flush };
	my $read_until = sub {
		my ($wanted) = @_;
		my $seen = '';
		while (index($seen, $wanted) < 0)
		{
			my ($head, $body) = ('', '');
			read($socket, $head, 5) == 5 or die 'the server closed the connection';
			my ($type, $len) = unpack('aN', $head);
			read($socket, $body, $len - 4) == $len - 4 or die 'the server closed the connection' if $len > 4;
			$seen .= $type;
		}
		return $seen;
	};
	local $SIG{ALRM} = sub { die 'no answer' };
	alarm($PostgreSQL::Test::Utils::timeout_default);
	my $user = sql('postgres', 'SELECT current_user');
	$send->('', pack('N', 196608) . "user\0$user\0database\0s1\0\0");
	$read_until->('Z');
	$send->('P', "\0SELECT n AS portal FROM generate_series(1, 10) n\0" . pack('n', 0));
	$send->('B', "\0\0" . pack('nnn', 0, 0, 0));
	$send->('E', "\0" . pack('N', 3));
	$send->('H', '');
	is(($read_until->('s') =~ tr/D//), 3, 'a portal gives three rows and waits');
	$send->('E', "\0" . pack('N', 4));
	$send->('H', '');
	$read_until->('s');
	$send->('E', "\0" . pack('N', 0));
	$send->('S', '');
	$read_until->('Z');
	# and one that is never finished
	$send->('P', "\0SELECT n AS abandoned FROM generate_series(1, 10) n WHERE n > 0\0" . pack('n', 0));
	$send->('B', "\0\0" . pack('nnn', 0, 0, 0));
	$send->('E', "\0" . pack('N', 2));
	$send->('H', '');
	$read_until->('s');
	$send->('S', '');
	$read_until->('Z');
	$send->('Q', "SELECT 'after portals'\0");
	$read_until->('Z');
	$send->('X', '');
	alarm(0);
	close $socket;
}
is(counted('s1', 'SELECT n AS portal FROM generate_series($1, $2) n', 'calls, rows'), '1|10', 'a portal is one execution, with all its rows');
is(counted('s1', 'SELECT n AS abandoned FROM generate_series%', 'calls, rows'), '1|2', 'one that is closed early, too');
is(sql('s1', sprintf($levels, 'SELECT $1')), 'true 2', 'and nesting is at zero');

# ---- texts ----

sql('s1', "CREATE ROLE someone PASSWORD 'se''cret\$x'; ALTER ROLE someone ENCRYPTED PASSWORD E'se\\'cret2' VALID UNTIL '2031-01-01'");
sql('s1', q{SELECT 'secret3', E'secret4', $$secret5$$, 123454321});
sql('s1', 'SELECT 1 AS "' . ('ü' x 20) . '" /* ' . ('ü' x 100_000) . ' */, true AS long, 0' . (' + "ü"' x 2000) . ' FROM (SELECT 1 AS "ü") x');
sql('s1', 'DROP ROLE someone');
sql('s1', 'SELECT monitoring.snapshot_statements()');
is(sql('s1', "SELECT count(*), count(*) FILTER (WHERE query ~ 'cret') FROM monitoring.statement_queries WHERE query ~* 'role someone'"),
	'3|0', 'passwords are not stored');
is(sql('s1', "SELECT count(*) FROM monitoring.statement_queries WHERE query ~ 'secret[0-9]|123454321'"), '0', 'nor other literals');
is(sql('s1', "SELECT octet_length(query) BETWEEN 8100 AND 8192 FROM monitoring.statement_queries WHERE query LIKE '%AS long%'"), 't', 'texts are cut');
sql('s1', 'SELECT count(*) FROM monitoring.statement_texts') foreach 1 .. 2;
is(sql('s1', 'SELECT count(*) - count(DISTINCT (queryid, userid)) FROM monitoring.statement_texts'), '0', 'and kept once');

# ---- snapshots: counted once, whether they commit or not ----

sql('s1', 'SELECT now() AS once') foreach 1 .. 7;
sql('s1', 'BEGIN; SELECT monitoring.snapshot_statements(); ROLLBACK');
is(counted('s1', 'SELECT now() AS once'), '7', 'a snapshot that is rolled back loses nothing');
sql('s1', 'SELECT now() AS once');
sql('s1', 'BEGIN; SAVEPOINT a; SELECT monitoring.snapshot_statements(); ROLLBACK TO a; SELECT monitoring.snapshot_statements(); COMMIT');
is(counted('s1', 'SELECT now() AS once'), '8', 'nor does one that is repeated after a savepoint');
my @running = map { $node->background_psql('s1') } 1 .. 2;
$running[0]->query_safe('BEGIN');
$running[0]->query_safe('SELECT monitoring.snapshot_statements()');
sql('s1', 'SELECT now() AS once') foreach 1 .. 2;
is(counted('s1', 'SELECT now() AS once'), '10', 'others see what a snapshot has not committed');
$running[1]->query_until(qr/started/, "\\echo started\nSELECT monitoring.snapshot_statements();\n");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 's1' AND wait_event_type = 'Lock'"),
	'a second snapshot waits for the first');
$running[0]->query_safe('COMMIT');
$_->quit foreach @running;
is(counted('s1', 'SELECT now() AS once'), '10', 'and counts nothing twice');
is(sql('s1', "SELECT sum(calls) FROM monitoring.statement_history JOIN monitoring.statement_queries q USING (queryid, userid) WHERE q.query = 'SELECT now() AS once'"),
	'10', 'all of it stored');
sql('s1', 'SELECT now() AS once');
is(counted('s1', 'SELECT now() AS once'), '11', 'what is in an idle session is not stranded');

# ---- several databases and roles ----

create_database('s2', 'CREATE EXTENSION pg_stat_statements');
sql('s1', 'SELECT pg_sleep(0.01), true, true, true');
sql('s2', 'SELECT pg_sleep(1.1), true, true, true');
is(counted($_, 'SELECT pg_sleep($1), true, true, true'), '1', "only its own statements are in $_") foreach 's1', 's2';
sql('postgres', "SELECT 'no extension here'") foreach 1 .. 3;
is(sql('s2', 'SELECT count(*) FROM monitoring.statements WHERE query LIKE \'%extension here%\''), '0', 'none of a database without the extension');

sql('s2', 'CREATE ROLE viewer LOGIN; CREATE ROLE reader LOGIN; GRANT pg_read_all_stats TO reader;
	SELECT monitoring.grant_access(r, \'viewer\') FROM unnest(\'{viewer,reader}\'::name[]) r');
sub as_role
{
	my ($role, $query) = @_;
	return $node->safe_psql('s2', $query, extra_params => [ '-U', $role ]);
}
as_role('viewer', 'SELECT pg_sleep(1.1) AS by_viewer');
foreach my $where ('in memory', 'stored')
{
	my $texts = 'SELECT username, query FROM monitoring.slow_queries WHERE query LIKE \'%by_viewer\' AND username = \'viewer\'';
	is(as_role('viewer', $texts), 'viewer|SELECT pg_sleep($1) AS by_viewer', "$where: a role sees the text of its own statement");
	is(as_role('viewer', 'SELECT count(*) > 0, count(*) FILTER (WHERE query NOT LIKE \'<insufficient%\') FROM monitoring.slow_queries WHERE username <> \'viewer\''),
		't|0', "$where: but not of others");
	is(as_role('reader', $texts), 'viewer|SELECT pg_sleep($1) AS by_viewer', "$where: with pg_read_all_stats it does");
	sql('s2', 'SELECT monitoring.snapshot_statements()');
}
like(fails('s2', 'SET ROLE viewer; SELECT monitoring.snapshot_statements()'), qr/permission denied/, 'who may read takes no snapshot');

# a copy of the database goes on with its own
sql('postgres', 'ALTER DATABASE s2 WITH ALLOW_CONNECTIONS false');
$node->poll_query_until('postgres', "SELECT count(pg_terminate_backend(pid)) = 0 FROM pg_stat_activity WHERE datname = 's2'");
sql('postgres', 'CREATE DATABASE s3 TEMPLATE s2; ALTER DATABASE s2 WITH ALLOW_CONNECTIONS true; ALTER DATABASE s3 WITH ALLOW_CONNECTIONS true');
sql('s3', 'SELECT 1 AS in_copy') foreach 1 .. 2;
is(counted('s3', 'SELECT $1 AS in_copy'), '2', 'a copied database counts its own');
is(counted('s2', 'SELECT $1 AS in_copy', 'count(*)'), '0', 'for itself');

# ---- what is counted ----

sql('s2', 'SET monitoring.track_statements = none; SELECT 1 AS untracked; SET monitoring.track_statements = top; SELECT 1 AS top;
	DO $$ BEGIN PERFORM 1 AS inner_one; END $$');
is(sql('s2', q{SELECT string_agg(query, ', ') FROM monitoring.statements WHERE query ~ ' AS (untracked|top|inner_one)$'}), 'SELECT $1 AS top',
	'monitoring.track_statements');
is(sql('s2', 'SELECT track, hint, pg_stat_statements IS NOT NULL, lost FROM monitoring.statement_source'), 'all||t|0', 'statement_source: all is well');
cmp_ok(sql('s1', q{SELECT count(*) FROM monitoring.compare_statements() WHERE calls = pg_stat_statements_calls AND query LIKE '%FROM t%'}), '>=', 5,
	'beside pg_stat_statements');

# ---- what takes long ----

ok(IPC::Run::finish($_), 'a session is done') foreach @long;
is(counted('long', 'SELECT pg_sleep($1)', 'calls, total_seconds >= 9.32, total_seconds < 9.32 + 60, max_seconds >= 4.5, round(p50_seconds::numeric, 1) >= 1.6'), '6|t|t|t|t', 'none of its time is lost');
is(sql('long', q{SELECT monitoring.snapshot_statements() > 0}) . counted('long', 'SELECT pg_sleep($1)'), 't6', '... nor counted twice');

# ---- more statements than there is room for ----

$node->append_conf('postgresql.conf', 'monitoring.max_statements = 100');
$node->restart;
# a list of another length is another statement
sql('s2', join(';', map { my $n = $_; map { 'SELECT ' . join(',', ('id') x $n) . ' FROM (SELECT 1 AS id) crowd' } 1 .. 2 } 1 .. 1500));
cmp_ok(sql('s2', "SELECT sum(calls) FROM monitoring.statements_over('1 hour') WHERE query LIKE '%crowd' OR query = '<others>' OR query IS NULL"), '>=', 3000,
	'those without room are counted as others');
is(sql('s2', "SELECT calls > 1000, monitoring.sketch_count(latency) = calls FROM monitoring.statement_live WHERE queryid = 0"), 't|t', 'with their latencies');
like(sql('s2', 'SELECT hint FROM monitoring.statement_source WHERE evictions > 1000 AND lost = 0'), qr/^Raise monitoring.max_statements/, 'and there is a hint');
my $before = sql('s2', 'SELECT sum(calls) FROM monitoring.statement_live');
sql('s2', 'SELECT monitoring.snapshot_statements()');
cmp_ok(sql('s2', 'SELECT sum(calls) FROM monitoring.statement_history WHERE bucket = (SELECT snapshot_at FROM monitoring.statement_clock)'), '>=', $before, 'totals are stored');

# ---- a standby counts in memory ----

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$standby->safe_psql('s2', 'SELECT 1 AS on_standby') foreach 1 .. 5;
is($standby->safe_psql('s2', "SELECT query, calls FROM monitoring.statements_over('1 hour') WHERE query LIKE '%on_standby'"), 'SELECT $1 AS on_standby|5', 'a standby counts');
$standby->promote;
is($standby->safe_psql('s2', "SELECT monitoring.snapshot_statements() > 0"), 't', 'and stores it when it is promoted');
is($standby->safe_psql('s2', "SELECT sum(calls) FROM monitoring.statement_history JOIN monitoring.statement_queries q USING (queryid, userid) WHERE query = 'SELECT \$1 AS on_standby'"),
	'5', 'once');
$standby->stop;

# ---- the other order of libraries; a dropped extension; not preloaded ----

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'monitoring, pg_stat_statements'\nmonitoring.max_statements = 5000\n");
$node->restart;
sql('s1', 'DROP TABLE t, u CASCADE; DROP FUNCTION f, g, deep, trg; DROP PROCEDURE proc');
start_counting();
run_workload();
($compared, $different, $how) = split /\|/, sql('s1', $compare), 3;
cmp_ok($compared, '>', 45, "loaded after us: $compared compared with pg_stat_statements");
is($different, '0', 'calls and rows agree') or diag($how);

sql('s3', 'SELECT 1 AS first_life; DROP EXTENSION monitoring; SELECT 1 AS between; CREATE EXTENSION monitoring; SELECT 1 AS second_life');
is(sql('s3', q{SELECT string_agg(query, ', ') FROM monitoring.statements WHERE query ~ ' AS (first_life|between|second_life)$'}), 'SELECT $1 AS second_life',
	'an extension that is created anew starts anew');

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
is(sql('s2', 'SELECT hint FROM monitoring.statement_source'), 'Add monitoring to shared_preload_libraries and restart the server.', 'not preloaded: a hint');
like(fails('s2', 'SELECT monitoring.snapshot_statements()'), qr/must be loaded at server start/, 'not preloaded: no snapshot');
cmp_ok(sql('s2', 'SELECT count(*) FROM monitoring.slow_queries'), '>', 0, 'and history stays readable');

$node->stop;
done_testing();
