# Errors, log-ins and changes as the server's hooks see them, on a running server: what is stored is what happened, nothing
# is lost or stored twice when a drain fails, what finds no room is counted, no password is kept, and nobody's texts are
# shown to others.  MONITORING_ERRORS sets the length of the loop.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RestartingServer qw(wait_for_sql);
use Test::More;

my $errors = $ENV{MONITORING_ERRORS} || 50_000;

my $node = PostgreSQL::Test::Cluster->new('errors');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.log_buffer = 512kB
monitoring.errors_per_issue = 1000000
max_worker_processes = 16
max_connections = 20
max_prepared_transactions = 2
log_statement = none
log_line_prefix = ''
restart_after_crash = on
wal_level = replica
archive_mode = on
archive_command = 'true'
CONF
$node->start;
my $name = 'errors_test';
$node->safe_psql('postgres', "CREATE DATABASE $name");
# drains are by hand
$node->safe_psql($name, "BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false WHERE name = 'signals'; COMMIT");
$node->poll_query_until($name, "SELECT EXISTS (SELECT FROM monitoring.status WHERE database = '$name' AND job IS NOT NULL)");

sub sql { return $node->safe_psql($name, $_[0]); }
sub drain { return sql('SELECT monitoring.signals_waiting(); SELECT monitoring.drain_signals(100000)'); }

# what fails; its output
sub fails
{
	my ($query, %options) = @_;
	my ($out, $err) = ('', '');
	$node->psql($options{database} || $name, $query, stdout => \$out, stderr => \$err, on_error_stop => 0, %{ $options{psql} || {} });
	return $err;
}

sub recent { return sql("SELECT $_[0] FROM monitoring.recent_errors WHERE $_[1]"); }

# ---- what an error is ----

drain();
fails(<<'SQL');
SET application_name = 'shop';
CREATE TABLE item (id integer CONSTRAINT item_key PRIMARY KEY, price numeric CHECK (price > 0));
INSERT INTO item VALUES (1, 5);
INSERT INTO item VALUES (1, 17), (2, 18);
SELECT 'literal', 12345 / 0;
CREATE FUNCTION inner_one() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'order 4711 of "bob" is late' USING ERRCODE = 'XX123', HINT = 'Hurry.'; END $$;
CREATE FUNCTION outer_one() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM inner_one(), 'private'; END $$;
SELECT outer_one();
DO $$ BEGIN RAISE EXCEPTION 'order 4712 of "eve" is late' USING ERRCODE = 'XX123'; END $$;
SQL
drain();
is(recent("concat_ws('|', severity, sqlstate, message, detail, statement, schema_name, table_name, constraint_name, username, database, application, client, backend_type, occurrences)", "sqlstate = '23505'"),
	"ERROR|23505|duplicate key value violates unique constraint \"item_key\"|Key (id)=(1) already exists.|INSERT INTO item VALUES (\$1, \$2), (\$3, \$4)|public|item|item_key|"
		. sql('SELECT current_user') . "|$name|shop|[local]|client backend|1",
	'everything that is known of an error');
is(recent('statement', "sqlstate = '22012'"), 'SELECT $1, $2 / $3', 'its statement without literals');
like(recent('context', "message LIKE '%4711%'"), qr/inner_one\(\) line 1 at RAISE\nSQL statement "SELECT inner_one\(\), ''"\nPL\/pgSQL function outer_one/, 'where in functions, without literals');
is(sql("SELECT title, place, occurrences FROM monitoring.error_issues WHERE sqlstate = 'XX123' ORDER BY first_seen"),
	"order ? of ? is late|PL/pgSQL function inner_one() line ? at RAISE|1\norder ? of ? is late|PL/pgSQL function inline_code_block line ? at RAISE|1",
	'RAISE in two places is two issues');
is(sql("SELECT title, place FROM monitoring.error_issues WHERE sqlstate = '23505'"), 'duplicate key value violates unique constraint "%s"|item_key', 'the template of a message');

# ---- what the hook sees and what it does not ----

fails(<<'SQL');
DO $$ BEGIN BEGIN PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN BEGIN RAISE 'nested one'; EXCEPTION WHEN OTHERS THEN RAISE 'nested two'; END; END; END $$;
BEGIN;
SELECT nosuch_a;
SELECT nosuch_b;
ROLLBACK;
BEGIN; SAVEPOINT s; SELECT nosuch_c; ROLLBACK TO s; SELECT nosuch_d; COMMIT;
SET log_min_messages = fatal;
SELECT nosuch_e;
SET log_min_messages = panic;
SELECT nosuch_f;
RESET log_min_messages;
SET client_min_messages = error;
SELECT nosuch_g;
SET monitoring.capture_errors = off;
SELECT nosuch_h;
RESET monitoring.capture_errors;
DO $$ BEGIN RAISE WARNING 'a warning'; END $$;
SET monitoring.capture_errors = warning;
DO $$ BEGIN RAISE WARNING 'another warning'; RAISE NOTICE 'a notice'; RAISE LOG 'a log line'; END $$;
SQL
drain();
is(recent("string_agg(message, ', ' ORDER BY at)", "at > (SELECT max(at) FROM monitoring.recent_errors WHERE sqlstate = 'XX123')"),
	'nested two, column "nosuch_a" does not exist, current transaction is aborted, commands ignored until end of transaction block, '
		. 'column "nosuch_c" does not exist, column "nosuch_d" does not exist, column "nosuch_g" does not exist, another warning',
	'what the server logs, and nothing else');

# ---- passwords ----

my @secretive = ("CREATE ROLE leaky PASSWORD 's3cr3t1'", "ALTER ROLE leaky PASSWORD 's3cr3t2", "ALTER ROLE leaky PASSWORD s3cr3t3", 'ALTER ROLE leaky PASSWORD "s3cr3t4"',
	"ALTER ROLE nosuchrole PASSWORD 's3cr3t5'", "DO \$x\$ BEGIN EXECUTE 'ALTER ROLE nosuchrole PASSWORD ''s3cr3t6'''; END \$x\$",
	"DO \$x\$ BEGIN EXECUTE 'ALTER ROLE leaky PASSWORD ''s3cr3t7'''; EXECUTE 'ALTER ROLE leaky PASSWORD s3cr3t8'; END \$x\$",
	"SELECT monitoring.create_receiver('leaky', 'webhook', config => '{\"url\": \"s3cr3t9\"}', nosuch => 1)",
	"ALTER SYSTEM SET primary_conninfo = 'password=s3cr3ta'", "ALTER ROLE leaky SET search_path = 's3cr3tb'", 'DROP ROLE leaky');
fails($_) foreach @secretive;
drain();
is(sql("SELECT count(*) FROM (SELECT e::text AS line FROM monitoring.server_errors AS e UNION ALL SELECT i::text FROM monitoring.error_issue_states AS i
		UNION ALL SELECT c::text FROM monitoring.change_log AS c UNION ALL SELECT l::text FROM monitoring.login_attempts AS l) AS t WHERE line ~ 's[3]cr3t'"),
	'0', 'no password is stored');
is(recent('count(*)', "statement ~* 'ROLE|PASSWORD'"), '4', 'but that those statements failed is');

# ---- lines of the log ----

fails("SET monitoring.capture_errors = log;\nSET log_statement = 'all';\nSELECT 'a line of the log' AS l;\nALTER ROLE nosuchrole PASSWORD 's3cr3tl';\nSET log_statement = 'none';");
drain();
is(recent("string_agg(severity || ' ' || message, ', ' ORDER BY at)", "severity = 'LOG'"),
	q{LOG statement: SELECT 'a line of the log' AS l;, LOG statement: %s, LOG statement: SET log_statement = 'none';}, 'are kept, but no password');

# ---- changes ----

sql("ALTER SYSTEM RESET primary_conninfo");
is(sql("SELECT string_agg(concat_ws(':', class, command, statement), '; ' ORDER BY at, number) FROM monitoring.changes WHERE statement ~* 'leaky|primary_conninfo'"),
	'role:CREATE ROLE:CREATE ROLE leaky PASSWORD $1; setting:ALTER SYSTEM:ALTER SYSTEM SET primary_conninfo = $1; '
		. 'setting:ALTER ROLE:ALTER ROLE leaky SET search_path = $1; role:DROP ROLE:DROP ROLE leaky',
	'changes of roles and settings');
drain();
fails(<<'SQL');
CREATE ROLE changer;
BEGIN; CREATE TABLE rolled_back (a int); ROLLBACK;
BEGIN; CREATE TABLE kept (a int DEFAULT 5); SAVEPOINT s; ALTER TABLE kept ADD b int; ROLLBACK TO s; SAVEPOINT t; ALTER TABLE kept ADD c int; RELEASE t; COMMIT;
CREATE TABLE kept (a int);
CREATE TEMP TABLE passing (a int);
CREATE INDEX CONCURRENTLY kept_index ON kept (a);
DO $$ BEGIN GRANT SELECT ON kept TO changer; EXECUTE 'COMMENT ON TABLE kept IS ''x'''; END $$;
ALTER SYSTEM SET work_mem = '5MB'; ALTER DATABASE errors_test SET enable_seqscan = off;
ALTER TABLE kept OWNER TO changer;
SET ROLE changer; DROP TABLE kept; RESET ROLE;
SELECT monitoring.drain_signals();
DROP ROLE changer; ALTER SYSTEM RESET work_mem; ALTER DATABASE errors_test RESET ALL;
SQL
drain();
my $me = sql('SELECT current_user');
is(sql("SELECT concat_ws('|', class, command, statement, value, username, login = '$me') FROM monitoring.changes WHERE at > (SELECT max(at) FROM monitoring.changes WHERE statement ~ 'leaky') AND statement !~ 'conninfo' ORDER BY at, number"),
	join("\n", "role|CREATE ROLE|CREATE ROLE changer|$me|t", "schema|CREATE TABLE|CREATE TABLE kept (a int DEFAULT 5)|$me|t", "schema|ALTER TABLE|ALTER TABLE kept ADD c int|$me|t",
		"schema|CREATE INDEX|CREATE INDEX CONCURRENTLY kept_index ON kept (a)|$me|t", "grant|GRANT|GRANT SELECT ON kept TO changer|$me|t", "schema|COMMENT|COMMENT ON TABLE kept IS \$1|$me|t",
		"setting|ALTER SYSTEM|ALTER SYSTEM SET work_mem = \$1|5MB|$me|t", "setting|ALTER DATABASE|ALTER DATABASE errors_test SET enable_seqscan = off|off|$me|t",
		"grant|ALTER TABLE|ALTER TABLE kept OWNER TO changer|$me|t", "schema|DROP TABLE|DROP TABLE kept|changer|t", "role|DROP ROLE|DROP ROLE changer|$me|t",
		"setting|ALTER SYSTEM|ALTER SYSTEM RESET work_mem|$me|t", "setting|ALTER DATABASE|ALTER DATABASE errors_test RESET ALL|$me|t"),
	'what was committed, who did it, and nothing of partitions and temporary tables');

# ---- issues ----

my $issue = sql("SELECT issue FROM monitoring.error_issues WHERE sqlstate = '22012'");
sql("SELECT monitoring.resolve_error_issue($issue, 'fixed')");
is(sql("SELECT state, state_by, comment, regressions FROM monitoring.error_issues WHERE issue = $issue"), "resolved|$me|fixed|0", 'an issue is resolved');
fails('SELECT 1 / 0');
# another one that was there before somebody resolved it
fails('SELECT sqrt(-1)');
sql('SELECT pg_sleep(0.001)');
sql("INSERT INTO monitoring.error_issue_states (issue, database, severity, sqlstate, title, first_seen, last_seen, occurrences, users) SELECT issue, '', severity, sqlstate, title, first_seen, last_seen, 1, users FROM monitoring.error_issue_states WHERE issue = $issue");
drain();
is(sql("SELECT state, regressions, occurrences, regressed_at = last_seen FROM monitoring.error_issues WHERE issue = $issue AND database <> ''"), 'unresolved|1|2|t', 'it comes back: a regression');
my $other = sql("SELECT issue FROM monitoring.error_issues WHERE sqlstate = '2201F'");
fails('SELECT sqrt(-1)');
sql("SELECT monitoring.resolve_error_issue($other)");
drain();
is(sql("SELECT state, regressions, occurrences FROM monitoring.error_issues WHERE issue = $other"), 'resolved|0|2', 'what happened before it was resolved is none');
sql("SELECT monitoring.ignore_error_issue($other)");
fails('SELECT sqrt(-1)');
drain();
is(sql("SELECT state, occurrences FROM monitoring.error_issues WHERE issue = $other"), 'ignored|3', 'what is ignored stays so');
sql("SELECT monitoring.reopen_error_issue($other)");
is(sql("SELECT state FROM monitoring.error_issues WHERE issue = $other"), 'unresolved', 'until it is opened again');
like(fails('SELECT monitoring.resolve_error_issue(-1)'), qr/there is no issue -1/, 'no such issue');

# ---- rights ----

sql("CREATE ROLE seer LOGIN; CREATE ROLE nobody LOGIN; SELECT monitoring.grant_access('seer', 'viewer'); GRANT CREATE ON SCHEMA public TO seer");
fails('SELECT mine', psql => { extra_params => [ '-U', 'seer' ] });
drain();
my $as_seer = { extra_params => [ '-U', 'seer' ] };
is($node->safe_psql($name, "SELECT count(*) FILTER (WHERE message = 'column \"mine\" does not exist'), count(*) FILTER (WHERE username <> 'seer' AND coalesce(message, '') <> '<insufficient privilege>') FROM monitoring.recent_errors", %$as_seer),
	'1|0', 'a viewer sees his own texts');
is($node->safe_psql($name, "SELECT count(*) FILTER (WHERE title <> ''), count(*) FILTER (WHERE last_message <> '<insufficient privilege>') > 0 FROM monitoring.error_issues WHERE sqlstate = '22012' OR 'seer' = ANY (users)", %$as_seer) =~ /^[23]\|t$/,
	1, 'and every title');
is($node->safe_psql($name, 'SELECT count(*) FROM monitoring.logins', %$as_seer), '0', 'but no log-ins');
like(fails('SELECT * FROM monitoring.recent_errors', psql => { extra_params => [ '-U', 'nobody' ] }), qr/permission denied/, 'others see nothing');
like(fails('SELECT * FROM monitoring.server_errors', psql => $as_seer), qr/permission denied/, 'nor does anybody see the tables');
like(fails("SET monitoring.capture_errors = off", psql => $as_seer), qr/permission denied/, 'nobody hides his errors');

# ---- a drain that fails ----

drain();
my $before = sql('SELECT coalesce(sum(occurrences), 0) FROM monitoring.server_errors');
fails("SELECT unknown_$_") foreach 1 .. 5;
like(fails('BEGIN; SELECT monitoring.drain_signals(); SELECT 1 FROM nosuch_table; COMMIT'), qr/nosuch_table/, 'a drain that is rolled back');
sql('BEGIN; SAVEPOINT s; SELECT monitoring.drain_signals(); ROLLBACK TO s; COMMIT');
sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no room''; END'; CREATE TRIGGER refuse BEFORE INSERT ON monitoring.error_issue_states EXECUTE FUNCTION refuse()");
like(fails('SELECT monitoring.drain_signals()'), qr/no room/, 'one that cannot write');
sql('DROP TRIGGER refuse ON monitoring.error_issue_states; DROP FUNCTION refuse()');
sql('BEGIN; SAVEPOINT s; SELECT monitoring.drain_signals(); RELEASE s; COMMIT');
fails('SELECT unknown_6');
sql("BEGIN; SELECT monitoring.drain_signals(); PREPARE TRANSACTION 'taken'; SELECT 1");
is(sql('SELECT monitoring.drain_signals()'), '0', 'nobody drains while a prepared transaction has');
sql("ROLLBACK PREPARED 'taken'");
drain();
drain();
is(sql("SELECT sum(occurrences) - $before, count(*) FILTER (WHERE message ~ '\"unknown_') FROM monitoring.server_errors"), '8|6', 'everything is stored once');
is(sql('SELECT in_use < 4 FROM monitoring.signal_buffer()'), 't', 'and its room is free again');

# what cannot be stored does not keep others from it
sql("ALTER TABLE monitoring.server_errors ADD CONSTRAINT unlucky CHECK (message !~ 'poison')");
fails("SELECT $_") foreach qw(good_one poison good_two);
drain();
is(recent("string_agg(message, '; ' ORDER BY at)", "message ~ 'good_|poison'"), 'column "good_one" does not exist; column "good_two" does not exist', 'what cannot be stored is left out');
sql('ALTER TABLE monitoring.server_errors DROP CONSTRAINT unlucky');

# ---- metrics ----

sql('SELECT monitoring.flush()');
is(sql("SELECT monitoring.value('pg_errors_total', 'increase', '1 hour', '{\"sqlstate\": \"2201F\", \"database\": \"$name\", \"severity\": \"ERROR\", \"sqlstate_class\": \"22\"}')"), '3', 'errors as a metric');
is(sql("SELECT (SELECT sum(total) FROM monitoring.error_totals WHERE database = '$name') = monitoring.value('pg_errors_total', 'increase', '1 hour', '{\"database\": \"$name\"}')"), 't', 'which has all that were counted');
is(sql("SELECT occurrences, issues FROM monitoring.error_counts('{sqlstate,username}') WHERE error_labels = '{\"sqlstate\": \"2201F\", \"username\": \"$me\"}'"), '3|1', 'errors over a window');

# ---- many ----

sql('SELECT monitoring.drain_signals(100000)');
my $total = "(SELECT coalesce(sum(total), 0) || '|' || coalesce(sum(not_stored), 0) FROM monitoring.error_totals WHERE severity = 'WARNING' AND sqlstate = '01000')";
my ($total_before, $dropped_before) = split /\|/, sql("SELECT $total");
my $stored_before = sql("SELECT coalesce(sum(occurrences), 0) FROM monitoring.server_errors WHERE severity = 'WARNING'");
sql("UPDATE monitoring.jobs SET enabled = true WHERE name = 'signals'");
my $memory = "(SELECT regexp_replace(pg_read_file('/proc/self/status'), '.*VmRSS:\\s+(\\d+) kB.*', '\\1')::integer)";
my ($start, $end) = split /\|/, (split /\n/, sql(<<"SQL"))[-1];
SET client_min_messages = error;
SET monitoring.capture_errors = warning;
DO \$\$ BEGIN FOR i IN 1 .. 2000 LOOP RAISE WARNING 'number %', i; END LOOP; END \$\$;
CREATE TEMP TABLE rss AS SELECT $memory AS kb;
DO \$\$ BEGIN FOR i IN 2001 .. $errors LOOP RAISE WARNING 'number %', i; END LOOP; END \$\$;
SELECT kb, $memory FROM rss;
SQL
cmp_ok($end - $start, '<', 4096, 'memory stays as it was');
# errors take three quarters of the places; the polling itself makes log-ins
$node->poll_query_until($name, "SELECT sum(occurrences) - $stored_before + (SELECT sum(not_stored) FROM monitoring.error_totals WHERE severity = 'WARNING') - $dropped_before >= $errors
	FROM monitoring.server_errors WHERE severity = 'WARNING'") or die;
my ($counted, $dropped) = split /\|/, sql("SELECT $total");
my $stored = sql("SELECT sum(occurrences) FROM monitoring.server_errors WHERE severity = 'WARNING'");
is($counted - $total_before, $errors, 'every one of many is counted');
is($stored - $stored_before + $dropped - $dropped_before, $errors, 'and each is stored or counted as not stored');
note('stored ' . ($stored - $stored_before) . ' of ' . $errors);
cmp_ok(sql("SELECT count(*) FROM monitoring.error_issues WHERE title = 'number ?'"), '==', 1, 'as one issue');
sql("UPDATE monitoring.jobs SET enabled = false WHERE name = 'signals'");

# from several sessions at once, while drains go on
my ($sum_before) = split /\|/, sql("SELECT $total");
my $stored_and_dropped = "SELECT (SELECT sum(occurrences) FROM monitoring.server_errors WHERE severity = 'WARNING') + (SELECT sum(not_stored) FROM monitoring.error_totals WHERE severity = 'WARNING')";
my $balance_before = sql($stored_and_dropped);
my @sessions = map { IPC::Run::start([ 'psql', '-Xq', '-d', $node->connstr($name), '-c', 'SET client_min_messages = error', '-c', 'SET monitoring.capture_errors = warning',
	'-c', "DO 'BEGIN FOR i IN 1 .. 2000 LOOP RAISE WARNING ''session number %'', i; END LOOP; END'" ]) } 1 .. 4;
for (1 .. 20) { drain(); }
$_->finish foreach @sessions;
drain();
is((split /\|/, sql("SELECT $total"))[0] - $sum_before, 8000, 'sessions at once: counted');
is(sql($stored_and_dropped) - $balance_before, 8000, 'and stored once or counted as not stored');

# ---- texts of all kinds ----

fails("SELECT '" . ('x' x 3_000_000) . "', nosuch_" . ('ü' x 20));
fails('SELECT ' . ('ü' x 700) . ', 1');
fails('DO $$ BEGIN RAISE EXCEPTION \'%\', repeat(\'€\', 100000); END $$');
$node->safe_psql('postgres', "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
fails("SET client_encoding = 'UTF8'; SELECT \"grün\" FROM \"weiß\"", database => 'latin');
$node->safe_psql('postgres', "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'");
fails("SET client_encoding = 'SQL_ASCII'; SELECT \"\xff\xfe\xc3(\"", database => 'ascii');
drain();
is(recent('count(*), bool_and(octet_length(message) <= 1000 AND octet_length(statement) < 1000)', "message ~ '€|^column' AND at > now() - interval '1 minute' AND message !~ 'nosuch_[a-h]\"|unknown_|mine|good_'"), '4|t', 'long texts are cut between characters');
is(sql("SELECT message, database FROM monitoring.recent_errors WHERE database IN ('latin', 'ascii') ORDER BY at"), "relation \"wei?\" does not exist|latin\ncolumn \"???(\" does not exist|ascii",
	'texts of other encodings are made valid, and errors of databases without the extension kept');

fails('CREATE FUNCTION deep(i integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN deep(i + 1); END $$; SELECT deep(1)');
drain();
is(recent('count(*), max(octet_length(context)) > 500', "sqlstate = '54001'"), '1|t', 'an error at the end of the stack, with a context of thousands of lines');

# ---- out of memory ----

my $poor = $node->background_psql($name, on_error_stop => 0);
my $poor_pid = $poor->query('SELECT pg_backend_pid()');
my ($size) = slurp_file("/proc/$poor_pid/status") =~ /VmSize:\s+(\d+) kB/;
system_or_bail('prlimit', '--pid', $poor_pid, '--as=' . ($size + 65536) * 1024);
$poor->query("SELECT length(repeat('x', 900000000))") foreach 1 .. 3;
is($poor->query('SELECT 1'), '1', 'a session that had no memory goes on');
$poor->quit;
drain();
is(recent('sum(occurrences), min(message)', "sqlstate = '53200'"), '3|out of memory', 'its errors are stored');

# ---- processes without a database, and after a crash ----

sql("ALTER SYSTEM SET archive_command = 'false'");
sql('ALTER SYSTEM SET monitoring.capture_errors = warning');
$node->reload;
sql('CREATE TABLE written AS SELECT 1; SELECT pg_switch_wal()');
$node->poll_query_until($name, "SELECT sum(total) > 0 FROM monitoring.error_totals WHERE database = '' AND severity = 'WARNING'") or die;
drain();
like(recent("concat_ws('|', severity, backend_type, database, username, message)", "backend_type = 'archiver' LIMIT 1"), qr/^WARNING\|archiver\|\|archiving write-ahead log file /,
	'a warning of an auxiliary process');
sql("ALTER SYSTEM RESET archive_command");
sql("ALTER SYSTEM RESET monitoring.capture_errors");
$node->reload;

my $victim = $node->background_psql($name);
my $victim_pid = $victim->query('SELECT pg_backend_pid()');
like($victim_pid, qr/^[1-9]\d+$/, 'a backend') or die;
kill 'KILL', $victim_pid;
eval { $victim->quit };
# counters begin anew
wait_for_sql($node, $name, "SELECT coalesce(sum(total), 0) < 100 AND (SELECT count(*) FROM monitoring.status WHERE database = '$name' AND job IS NOT NULL) > 0
	FROM monitoring.error_totals") or die;
drain();
fails('SELECT after_the_crash');
drain();
is(recent('occurrences', "message ~ 'after_the_crash'"), '1', 'after a crash of the server errors are stored as before');

# ---- two databases, each with its own worker ----

$node->safe_psql('postgres', 'CREATE DATABASE another');
$node->safe_psql('another', 'CREATE EXTENSION monitoring');
fails('SELECT of_another', database => 'another');
$node->poll_query_until('another', "SELECT count(*) > 0 FROM monitoring.recent_errors WHERE message ~ 'of_another'") or die;
drain();
is(recent('count(*)', "message ~ 'of_another'"), '0', 'each database has its own errors');
is($node->safe_psql('another', 'SELECT count(*) FROM monitoring.login_attempts') . '|' . sql("SELECT count(*) > 0 FROM monitoring.logins WHERE database = 'another'"), '0|t', 'and one those of the server');
$node->safe_psql('postgres', 'DROP DATABASE another');

# ---- log-ins ----

$node->safe_psql('postgres', "SET password_encryption = 'scram-sha-256'; CREATE ROLE guarded LOGIN PASSWORD 'right'; CREATE ROLE few LOGIN CONNECTION LIMIT 0; CREATE ROLE locked NOLOGIN");
unlink($node->data_dir . '/pg_hba.conf');
$node->append_conf('pg_hba.conf', "local all guarded scram-sha-256\nlocal all refused reject\nlocal all all trust\n");
$node->reload;
drain();
sub connect_as
{
	my ($user, $database, $password) = @_;
	local $ENV{PGPASSWORD} = $password // 'none';
	return fails('SELECT 1', database => $database, psql => { extra_params => [ '-w', '-U', $user ] });
}
$node->poll_query_until($name, "SELECT count(*) = 3 FROM pg_hba_file_rules") or die;
like(connect_as('guarded', $name, 'wrong'), qr/password authentication failed/, 'a wrong password') foreach 1 .. 3;
is(connect_as('guarded', $name, 'right'), '', 'the right one');
like(connect_as('guarded', 'nosuchdb', 'right'), qr/does not exist/, 'no such database');
like(connect_as('nosuchuser', $name), qr/does not exist/, 'no such role');
like(connect_as('locked', $name), qr/not permitted to log in/, 'a role that may not');
like(connect_as('few', $name), qr/too many connections for role/, 'too many connections');
like(connect_as('refused', $name), qr/pg_hba.conf rejects/, 'no way in');
drain();
is(sql("SELECT concat_ws('|', outcome, reason, sum(attempts), min(username), min(database), min(client), min(sqlstate)) FROM monitoring.logins WHERE username <> '$me' AND username NOT IN ('seer', 'nobody') GROUP BY username, outcome, reason, database ORDER BY min(at)"),
	join("\n", "failed|password|3|guarded|$name|[local]", "ok|scram-sha-256|1|guarded|$name|[local]", 'ok|scram-sha-256|1|guarded|nosuchdb|[local]', 'failed|database|1|guarded|nosuchdb|[local]|3D000',
		"ok|trust|1|nosuchuser|$name|[local]", "failed|role|1|nosuchuser|$name|[local]|28000", "ok|trust|1|locked|$name|[local]", "failed|nologin|1|locked|$name|[local]|28000",
		"ok|trust|1|few|$name|[local]", "failed|too_many_connections|1|few|$name|[local]|53300", "failed|pg_hba|1|refused|$name|[local]|28000"),
	'log-ins, per user, database, address and reason');
is(recent("string_agg(message, '; ' ORDER BY at)", "severity = 'FATAL' AND username IN ('guarded', 'few') AND at > now() - interval '1 minute'") =~ /^password authentication failed .*; database "nosuchdb" does not exist; too many connections for role "few"$/,
	1, 'their errors are errors, too');
is(sql("SELECT monitoring.value('pg_login_failures_total', 'increase', '1 hour', '{\"reason\": \"password\"}')"), '3', 'failed log-ins as a metric');

# somebody guesses, and gets in
sql("SELECT count(*) FROM monitoring.install_rules('security')");
connect_as('guarded', $name, "guess $_") foreach 1 .. 11;
connect_as('guarded', $name, 'right');
sql('CREATE ROLE climber; ALTER ROLE climber SUPERUSER');
drain();
# which has room for five: attempts to connect while the server started, more than three on a busy machine, are others
like(sql("SELECT monitoring.error_evidence(clock_timestamp())"), qr/"title": "password authentication failed for user/, 'errors are evidence of alerts');
sql('SELECT monitoring.evaluate_alerts()');
is(sql("SELECT string_agg(concat_ws(' ', rule, labels ->> 'client', labels ->> 'username', value), '; ' ORDER BY rule) FROM monitoring.alerts
		WHERE state = 'firing' AND rule IN ('LoginBruteForce', 'LoginAfterFailures', 'PrivilegeEscalation')"),
	"LoginAfterFailures [local] guarded 14; LoginBruteForce [local] 15; PrivilegeEscalation $me 1", 'the rules of the pack security fire');
sql("UPDATE monitoring.jobs SET enabled = false WHERE name = 'evaluate_alerts'");

# all connections in use: the postmaster's children say so before they have anything
my $held = $node->background_psql($name);
my $limit = sql('SELECT setting::integer FROM pg_settings WHERE name = \'max_connections\'');
my @many = map { my ($in, $out) = ('', ''); IPC::Run::start([ 'psql', '-Xqt', '-d', $node->connstr($name) ], '<', \$in, '>', \$out, '2>', \my $err) } 1 .. $limit + 5;
my $seen = 0;
for (1 .. 600)
{
	$seen = $held->query("SELECT coalesce(sum(total), 0) FROM monitoring.error_totals WHERE sqlstate = '53300' AND severity = 'FATAL'");
	last if $seen >= 2;
	select undef, undef, undef, 0.05;
}
cmp_ok($seen, '>=', 2, 'too many connections are counted');
$_->kill_kill foreach @many;
$held->quit;

done_testing();
