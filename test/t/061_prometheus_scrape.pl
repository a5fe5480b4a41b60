# A real Prometheus scrapes what prometheus_exposition() gives, by the server that the guide shows, run as it stands there:
# every series that collectors have read is in Prometheus with the same labels and the same value, however odd its name, and
# nothing else is.  test/run installs Prometheus.

use strict;
use warnings;

use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'no Prometheus' unless grep { -x "$_/prometheus" } split(/:/, $ENV{PATH});

my $directory = $PostgreSQL::Test::Utils::tmp_check;
my $http = HTTP::Tiny->new(timeout => 10);
my $json = JSON::PP->new->canonical->allow_nonref;

my $node = PostgreSQL::Test::Cluster->new('scraped');
$node->init(extra => [ '--encoding', 'UTF8', '--locale', 'C' ]);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.collect = off
max_worker_processes = 16
CONF
$node->start;
# names of databases are in whatever encoding they were made in
$node->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0});
$node->safe_psql('latin', qq{SET client_encoding = 'LATIN1'; ALTER DATABASE template1 CONNECTION LIMIT 7; CREATE DATABASE "caf\xe9" STRATEGY = wal_log CONNECTION LIMIT 5});
$node->safe_psql('postgres', 'CREATE DATABASE main');
$node->safe_psql('main', "CREATE EXTENSION monitoring; CREATE ROLE prometheus LOGIN; SELECT monitoring.grant_access('prometheus', 'viewer')");

sub sql { return $node->safe_psql('main', $_[0]); }
sub collect { return sql('SELECT monitoring.collect(array_agg(name)) FROM monitoring.collectors'); }

# names that are the same once they are labels, and names that only look so
sql(q{
	CREATE SCHEMA "a"; CREATE SCHEMA "a.b"; CREATE TABLE a."b.c" (id serial); CREATE TABLE "a.b".c (id serial);
	CREATE TABLE "back\slash ""quote"" üñ€ {brace}, = comma" (id int);
	CREATE TABLE "na?me" (id int); CREATE TABLE U&"na\000Ame" (id int); CREATE TABLE U&"na\0009me" (id int);
	INSERT INTO "na?me" SELECT generate_series(1, 1000); INSERT INTO U&"na\000Ame" VALUES (1)});
# a collector of one's own
sql(q{
	CREATE SCHEMA own; CREATE TABLE own.source (metric text, kind text, labels jsonb, value float8, since timestamptz);
	CREATE FUNCTION own.odd(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE sql AS 'SELECT * FROM own.source';
	CREATE FUNCTION own.failing(at timestamptz) RETURNS SETOF monitoring.reading LANGUAGE plpgsql AS 'BEGIN RAISE division_by_zero; END';
	INSERT INTO own.source VALUES
		('odd_gauge', 'gauge', jsonb_build_object('path', 'C:\dir "x" ü', 'empty', ''), -1.5e-300, NULL),
		('odd_gauge', 'gauge', '{"path": "\\\\n", "a-b": 1, "a_b": 2, "a+b": 3}', 1e300, NULL),
		('odd_gauge', 'gauge', '{"__name__": "x", "größe": true, "1st": 0.5, "le": "1", "job": "theirs"}', 9007199254740993, NULL),
		('odd_gauge', 'gauge', '{"none": null}', 123456789012345678, NULL),
		('odd_jobs_total', 'counter', '{}', 100, NULL),
		('odd_seconds_bucket', 'counter', '{"le": "0.1"}', 0, NULL), ('odd_seconds_bucket', 'counter', '{"le": "0.5"}', 0, NULL), ('odd_seconds_bucket', 'counter', '{"le": "+Inf"}', 0, NULL),
		('odd_seconds_sum', 'counter', '{}', 0, NULL), ('odd_seconds_count', 'counter', '{}', 0, NULL);
	SELECT monitoring.create_collector('odd', 'own.odd', description => E'odd, \\\\ "quoted"\nlines ü'), monitoring.create_collector('failing', 'own.failing')});
collect();
is(sql("SELECT string_agg(collector || ': ' || coalesce(last_error, state), ', ') FROM monitoring.collector_status WHERE state <> 'ok'"), 'failing: division_by_zero',
	'no name stops a collector');

# ---- the server of the guide ----

my ($program) = slurp_file("$ENV{MONITORING_SRC}/docs/collectors.md") =~ /^```python\n(.*?)^```$/ms;
append_to_file("$directory/exporter.py", $program);
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $exporter = do
{
	local @ENV{qw(PGHOST PGPORT PGDATABASE PGUSER)} = ($node->host, $node->port, 'main', 'prometheus');
	IPC::Run::start([ 'python3', "$directory/exporter.py", "127.0.0.1:$port" ], '<', \undef, '>', "$directory/exporter.log", '2>&1');
};

sub until_true
{
	my ($what, $test) = @_;
	my $give_up = time() + $PostgreSQL::Test::Utils::timeout_default;
	until (time() > $give_up)
	{
		my $result = $test->();
		return $result if $result;
		sleep(0.05);
	}
	return fail("$what in time");
}

my ($page, $took);
until_true('the server answers', sub {
	my $began = time();
	$page = $http->get("http://127.0.0.1:$port/metrics");
	$took = time() - $began;
	return $page->{status} == 200;
});
is($page->{headers}{'content-type'}, 'text/plain; version=0.0.4; charset=utf-8', 'the content type is that of the text format');
is($http->get("http://127.0.0.1:$port/")->{status}, 404, 'nothing else is there');
my $text = $page->{content};
like($text, qr/^# HELP odd_gauge odd, \\\\ "quoted"\\nlines \xc3\xbc\n# TYPE odd_gauge gauge\nodd_gauge/m, 'what a metric is about is escaped');
my (%kinds, %explained);
$kinds{$1}++ while $text =~ /^# TYPE (\S+) (?:gauge|counter)$/mg;
$explained{$1}++ while $text =~ /^# HELP (\S+) /mg;
is_deeply([ grep { $_ != 1 } values %kinds, values %explained ], [], 'HELP and TYPE are there once for each metric');
is_deeply([ sort keys %kinds ], [ sort keys %explained ], 'for each');
unlike($text, qr/^[a-z]\w*(?:\{(?:\w+="(?:[^"\\]|\\.)*",?)*\})? \S+ \S+$/m, 'there are no timestamps');
my ($said, $complaint) = ('', '');
IPC::Run::run([ 'promtool', 'check', 'metrics' ], '<', \$text, '>', \$said, '2>', \$complaint);
unlike($said . $complaint, qr/error while linting|parse|invalid|duplicate|inconsistent/i, 'promtool reads it');

# ---- Prometheus ----

my $prometheus_port = PostgreSQL::Test::Cluster::get_free_port();
# a busy machine takes its time for a page
my $every = 1 + int(5 * $took) . 's';
append_to_file("$directory/prometheus.yml", $json->encode({
	global => { scrape_interval => $every, scrape_timeout => $every },
	scrape_configs => [ { job_name => 'postgres', static_configs => [ { targets => ["127.0.0.1:$port"] } ] } ] }));
my $prometheus = IPC::Run::start([ 'prometheus', "--config.file=$directory/prometheus.yml", "--storage.tsdb.path=$directory/prometheus",
	"--web.listen-address=127.0.0.1:$prometheus_port", '--log.level=warn' ], '<', \undef, '>', "$directory/prometheus.log", '2>&1');

sub ask
{
	my ($query) = @_;
	utf8::decode($query);
	my $answer = $http->post_form("http://127.0.0.1:$prometheus_port/api/v1/query", { query => $query });
	return [] unless $answer->{status} == 200;
	return $json->decode($answer->{content})->{data}{result};
}
# the value, if there is one series
sub asked
{
	my ($query) = @_;
	my $result = ask($query);
	return @$result == 1 ? $result->[0]{value}[1] : undef;
}

until_true('Prometheus scrapes', sub { return asked('up{job="postgres"}') // 0 });
my ($target) = @{ $json->decode($http->get("http://127.0.0.1:$prometheus_port/api/v1/targets")->{content})->{data}{activeTargets} };
is("$target->{health} $target->{lastError}", 'up ', 'without a complaint');

my %ours;
for my $reading (@{ $json->decode(sql(q{
	SELECT json_agg(json_build_array(u.metric, u.labels, u.value::text)) FROM monitoring.collector_series AS s JOIN monitoring.collector_runs AS r USING (name)
	CROSS JOIN LATERAL unnest(s.metrics, s.labels, r.readings) AS u (metric, labels, value)})) })
{
	my ($metric, $labels, $value) = @$reading;
	my %labels = map { $_ => $labels->{$_} } grep { $labels->{$_} ne '' } keys %$labels;
	$ours{ $metric . $json->encode(\%labels) } = 0 + $value;
}
my %theirs;
# nothing is there for as long as the latest scrape has failed
until_true('there is a scrape', sub {
	for my $sample (@{ ask('{job="postgres"}') })
	{
		my %labels = %{ $sample->{metric} };
		my $metric = delete $labels{__name__};
		delete @labels{qw(job instance)};
		next if $metric =~ /^(up|scrape_.*|pg_scrape_.*)$/;
		$theirs{ $metric . $json->encode(\%labels) } = 0 + $sample->{value}[1];
	}
	return scalar(%theirs);
});
cmp_ok(scalar(keys %ours), '>', 800, 'about many series');
# two of the odd ones have other names of labels there
my %odd = map { $_ => 1 } grep { /^odd_gauge.*(?:a-b|a_b|1st)/ } keys %ours, keys %theirs;
is_deeply([ grep { !exists $theirs{$_} && !$odd{$_} } sort keys %ours ], [], 'Prometheus has every series');
is_deeply([ grep { !exists $ours{$_} && !$odd{$_} } sort keys %theirs ], [], 'and no other');
is_deeply([ grep { exists $theirs{$_} && $theirs{$_} != $ours{$_} } sort keys %ours ], [], 'with the same values');

is(asked('odd_gauge{path="C:\\\\dir \\"x\\" ü"}'), '-1.5e-300', 'quotes, backslashes and UTF-8 in values');
is(0 + (asked('odd_gauge{path="\\\\n"}') // 0), 1e300, 'a backslash before an n is no line feed');
is(0 + (asked('odd_gauge{a_b="3",a_b_="1",a_b__="2"}') // 0), 1e300, 'names of labels that are the same in Prometheus');
is(asked('odd_gauge{label__name__="x",gr____e="true",_1st="0.5",exported_job="theirs"}'), '9007199254740992', 'names of labels that are none');
is(asked('pg_database_connection_limit{datname="caf?"}'), '5', 'a name in another encoding');
is(asked('sum(pg_stat_user_tables_n_tup_ins{relname="na?me"})'), '1000', 'of names that are the same as labels, the one that is such');
is(asked('count(pg_table_bytes{table=~"a[.].*|\\"a.*"})'), '2', 'dots in names tell them apart');
is(asked('pg_scrape_collector_success{collector="failing"}'), '0', 'a collector that fails');
is(asked('count(pg_scrape_collector_success == 1)'), sql("SELECT count(*) - 1 FROM monitoring.collectors"), 'those that do not');

# ---- totals as they go on ----

my @buckets = map { [ $_, 'odd_seconds_bucket', qq({"le": "$_"}) ] } '0.1', '0.5', '+Inf';
for my $step ([ 160, 90, 100, 100 ], [ 5, 180, 200, 200 ])
{
	my ($total, @counts) = @$step;
	sql(qq{UPDATE own.source SET value = $total WHERE metric = 'odd_jobs_total'; UPDATE own.source SET value = $counts[2] WHERE metric = 'odd_seconds_count';}
		. join ';', map { qq{UPDATE own.source SET value = $counts[$_] WHERE metric = 'odd_seconds_bucket' AND labels = '$buckets[$_][2]'} } 0 .. 2);
	sql("SELECT monitoring.collect('{odd}')");
	until_true("a total of $total is scraped", sub { return (asked('odd_jobs_total') // 0) == $total });
}
my @seen = do { my $last = -1; grep { my $new = $_ != $last; $last = $_; $new } map { $_->[1] } @{ ask('odd_jobs_total[5m]')->[0]{values} } };
is("@seen", '100 160 5', 'a total with a reset');
is(asked('resets(odd_jobs_total[5m])'), '1', 'which Prometheus sees');
is(sql(q{SELECT monitoring.value('odd_jobs_total', 'sum', '5 minutes')}), '65', 'and we');
is(sprintf('%.6f', asked('histogram_quantile(0.95, increase(odd_seconds_bucket[5m]))') // -1), '0.300000', 'counters that are a histogram');

# ---- other encodings, and none ----

$node->safe_psql('postgres', q{CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0});
$node->safe_psql('plain', qq{CREATE EXTENSION monitoring; CREATE TABLE "utf \xc3\xbc" (id int); CREATE TABLE "latin \xfc" (id int); SELECT monitoring.collect('{tables,extensions}')});
my $plain = $node->safe_psql('plain', q{SET client_encoding = 'UTF8'; SELECT monitoring.prometheus_exposition()});
like($plain, qr/^pg_stat_user_tables_n_tup_ins\{.*relname="utf \xc3\xbc"/m, 'a database without an encoding: what is UTF-8 stays');
like($plain, qr/^pg_stat_user_tables_n_tup_ins\{.*relname="latin \?"/m, 'what is not does not spoil the rest');

unlike(slurp_file("$directory/prometheus.log"), qr/level=(warn|error)/, 'Prometheus has nothing to say');
$node->stop;
is($http->get("http://127.0.0.1:$port/metrics")->{status}, 503, 'without the database the server says so');
until_true('Prometheus knows', sub { return (asked('up{job="postgres"}') // 1) == 0 });
$_->kill_kill(grace => 5) for $prometheus, $exporter;
done_testing();
