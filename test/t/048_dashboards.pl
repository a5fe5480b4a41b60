# The dashboard views on a server where things go wrong: each shows what is wrong, and nothing else is in alarm.
# Databases of other encodings have them too.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('dashboards');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
max_worker_processes = 16
max_prepared_transactions = 2
monitoring.evaluation_interval = '100ms'
# The test library's off would be a finding of an advisor, sooner or later.
fsync = on
CONF
$node->start;
# How busy and how full this machine is, is not the point.
$node->safe_psql('postgres', q{BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.collectors SET enabled = false WHERE name = 'host'; COMMIT; CREATE TABLE held (a integer)});

sub sql { return $node->safe_psql('postgres', $_[0]); }

# lines(VIEW, ITEM): series, value and status of an item.
sub lines
{
	my ($view, $item) = @_;
	return sql("SELECT series_labels, value, status FROM monitoring.$view WHERE item = '$item'");
}

# shows(VIEW, ITEM, PATTERN, WHAT): within a minute the view has a line of that item that looks like this.
sub shows
{
	my ($view, $item, $pattern, $what) = @_;
	ok($node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM monitoring.$view AS l WHERE l.item = '$item' AND l::text ~ '$pattern')"), $what)
		or diag(sql("TABLE monitoring.$view"));
}

# ---- nothing is wrong ----

shows('overview', 'connections', 'ratio,ok', 'the server is watched from the start');
shows('overview', 'health score', '100,"of 100",ok', 'health is there');
is(sql("SELECT string_agg(item, ', ') FROM monitoring.overview WHERE status IN ('critical', 'error')"), '', 'nothing is in alarm');
is(sql(q{SELECT string_agg(DISTINCT column_name, ' ') FROM (
	SELECT table_name, string_agg(column_name, ',' ORDER BY ordinal_position) AS column_name FROM information_schema.columns
	WHERE table_schema = 'monitoring' AND table_name IN ('overview', 'dashboard_operations', 'dashboard_database', 'dashboard_security') GROUP BY 1) AS c}),
	'section,item,series_labels,value,unit,status,trend,day_before,description', 'all views have the same columns');

# ---- an alert, an incident, a receiver that takes nothing, a job that fails ----

sql("SELECT monitoring.create_receiver('dead', 'webhook', 'http://127.0.0.1:1/')");
sql("SELECT monitoring.raise_alert('dashboards on fire', '{\"host\": \"a\"}', severity => 'critical')");
shows('overview', 'alerts firing', 'critical.*,1,', 'an alert fires');
shows('dashboard_operations', 'notifications waiting', 'dead', 'its receiver is listed');
sql("INSERT INTO monitoring.jobs (name, function, every) VALUES ('broken', 'public.no_such_function', '1 second')");
shows('overview', 'job fails', 'broken.*critical', 'a job that fails is shown');
sql("DELETE FROM monitoring.jobs WHERE name = 'broken'");

# ---- a session that waits for another ----

my $holder = $node->background_psql('postgres');
$holder->query('BEGIN; LOCK held');
my $waiter = $node->background_psql('postgres', on_error_stop => 0);
$waiter->query_until(qr/waiting/, "\\echo waiting\nSELECT * FROM held;\n");
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted") or die;
sql("SELECT monitoring.collect('{locks}')");
shows('dashboard_operations', 'sessions that wait for locks', '"".*,1,', 'a session that waits is counted');
shows('dashboard_operations', 'what would free most', 'pg_terminate_backend', 'and whom to send away is said');
$holder->query('COMMIT');
$holder->quit;
$waiter->quit;

# ---- statements ----

sql("SET monitoring.slow_query_threshold = '10ms'; SELECT pg_sleep(1.2)");
shows('dashboard_database', 'longest execution', 'seconds,warning', 'a slow execution is marked');
shows('dashboard_database', 'p95 of a statement', 'pg_sleep', 'its statement is among those that took most time');

shows('dashboard_database', 'Timeout', 'PgSleep', 'so is what sessions waited for');

# ---- advice ----

sql('CREATE TABLE serial_numbers (id integer PRIMARY KEY, n integer); CREATE INDEX once ON serial_numbers (n); CREATE INDEX twice ON serial_numbers (n)');
sql("SELECT monitoring.advise(advisor => 'duplicate_indexes')");
shows('dashboard_database', 'duplicate_indexes', 'twice|once', 'advice is shown');

# ---- security ----

sql('CREATE ROLE mallory SUPERUSER LOGIN');
$node->psql('postgres', 'SELECT 1', extra_params => [ '-U', 'nobody_of_that_name' ]);
shows('dashboard_security', 'log-ins failed, 24 hours', 'nobody_of_that_name', 'a failed log-in is shown');
shows('dashboard_security', 'CREATE ROLE', 'mallory.*', 'a new superuser is shown');
is(lines('dashboard_security', 'superusers that can log in'), '{}|2|ok', 'and counted');

# ---- a viewer sees the same ----

sql("CREATE ROLE guest LOGIN; SELECT monitoring.grant_access('guest', 'viewer')");
foreach my $view (qw(overview dashboard_operations dashboard_database dashboard_security))
{
	my ($code, $out, $err) = $node->psql('postgres', "SELECT count(*) > 5 FROM monitoring.$view", extra_params => [ '-U', 'guest' ]);
	is("$out$err", 't', "a viewer reads $view");
}

# ---- other encodings ----

foreach my $encoding (qw(LATIN1 EUC_JP SQL_ASCII))
{
	my $name = lc("db_$encoding");
	sql("CREATE DATABASE $name ENCODING '$encoding' TEMPLATE template0 LOCALE 'C'");
	$node->safe_psql($name, 'CREATE EXTENSION monitoring');
	ok($node->poll_query_until($name, "SELECT EXISTS (SELECT FROM monitoring.overview WHERE item = 'metrics of the server')"), 'a second database says that the server is watched elsewhere');
	is($node->safe_psql($name, "SET client_encoding = 'SQL_ASCII'; SELECT count(*) > 5, monitoring.sparkline('{1,2,3}') FROM monitoring.overview"), 't|_=#', "a database in $encoding");
}

$node->stop;
done_testing();
