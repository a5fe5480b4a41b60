# pg_dump and restore, and pg_upgrade, of a database with metrics, rules, receivers and history: no error, nothing lost,
# nothing made twice, while the workers are as busy as settings allow; and the rule that makes it so: workers stay out of
# a database that is being restored.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('dump');
$node->init;
my $settings = <<'CONF';
shared_preload_libraries = 'monitoring'
monitoring.shared_memory = 16MB
monitoring.flush_interval = 100ms
max_worker_processes = 16
CONF
$node->append_conf('postgresql.conf', $settings);
$node->start;

sub worker
{
	my ($db) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'monitoring worker' AND datname = '$db'");
}

sub wait_for_worker
{
	my ($db) = @_;
	return $node->poll_query_until($db,
		"SELECT EXISTS (SELECT FROM monitoring.status WHERE database = '$db' AND worker_state IN ('idle', 'running') AND job IS NOT NULL)");
}

# ---- a database in use ----

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', <<'SQL');
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false WHERE name IN ('dispatch', 'evaluate_alerts', 'compact', 'retention', 'signals', 'collect', 'waits', 'health_checks', 'health_metrics');
COMMIT;
SQL
ok(wait_for_worker('source'), 'the worker runs');
$node->safe_psql('source', <<'SQL');
SELECT monitoring.record('wait_seconds', x / 7.0, jsonb_build_object('kind', x % 3)) FROM generate_series(1, 1000) x;
SELECT monitoring.increment('sold_total', x, '{"shop": "a"}') FROM generate_series(1, 100) x;
SELECT monitoring.set_gauge('queue', 42);
SELECT monitoring.create_receiver('hook', 'webhook', 'https://hooks.example.com/x');
SELECT monitoring.create_receiver('another', 'webhook', config => '{"url": {"environment": "MONITORING_SECRET_X"}, "headers": {"X-A": {"file": "/x"}}}');
SELECT monitoring.enable_receiver('another', false);
SELECT monitoring.create_alert_rule('full', 'queue', 'last', '1 hour', '>', 1, severity => 'critical');
SELECT monitoring.evaluate_alerts();
SELECT monitoring.acknowledge_alerts('{"alertname": "full"}', comment => 'mine'), monitoring.assign_alerts('{"alertname": "full"}', 'alice');
SELECT monitoring.create_silence('{"host": {"=~": "web.*"}}', '1 hour', 'new disks'), monitoring.create_inhibition_rule('host', '{"alertname": "host"}', '{"alertname": "full"}', '{host}');
SELECT monitoring.set_time_interval('nights', '{"times": [{"start": "00:00", "end": "06:00"}]}');
SELECT monitoring.drop_route('info'), monitoring.create_route('shop', '{"team": "shop"}', parent => 'critical', receivers => '{hook}');
SELECT monitoring.move_route('low', place => 1);
SELECT monitoring.apply_retention();
UPDATE monitoring.retention_policies SET keep = '1000 days' WHERE relation = 'segments';
UPDATE monitoring.jobs SET every = '1 hour' WHERE name = 'retention';
CREATE TABLE monitoring.own (at timestamptz NOT NULL, x int, PRIMARY KEY (at, x)) PARTITION BY RANGE (at);
INSERT INTO monitoring.retention_policies VALUES ('own', '1 day', 1, '3 days', false);
SELECT monitoring.ensure_partition('own', '2024-05-05');
INSERT INTO monitoring.own VALUES ('2024-05-05', 1);
CREATE FUNCTION public.own_job(at timestamptz) RETURNS void LANGUAGE sql AS '';
INSERT INTO monitoring.jobs (name, function, every) VALUES ('own', 'public.own_job', '1 year');
SQL
# Kinds of one's own and what is of them; what comes with the extension, changed or gone
$node->safe_psql('source', <<'SQL');
CREATE FUNCTION public.own_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql AS $$ SELECT r, '{}'::jsonb, 1::float8, NULL::jsonb, NULL::text FROM unnest(rule_ids) AS r $$;
INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('own', 'public.own_values');
SELECT monitoring.create_alert_rule('own', NULL, NULL, '1 minute', '>', 1, kind => 'own');
CREATE FUNCTION public.own_format(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql AS $$ SELECT 'POST', receiver ->> 'url', '{}'::jsonb, '' $$;
INSERT INTO monitoring.receiver_kinds (kind, function) VALUES ('own', 'public.own_format');
SELECT monitoring.create_receiver('own', 'own', 'https://own.example.com/');
UPDATE monitoring.component_status_kinds SET rank = 5 WHERE status = 'under_maintenance';
UPDATE monitoring.component_status_kinds SET rank = 4, downtime_weight = 0.9 WHERE status = 'major_outage';
INSERT INTO monitoring.component_status_kinds VALUES ('odd', 3, 0.1, '{low}');
SELECT monitoring.create_component('shop', at => '2024-05-05'), monitoring.set_component_status('shop', 'odd', at => '2024-05-06');
SELECT monitoring.create_health_check('own', 'sql', '{"query": "SELECT 1"}'), monitoring.alter_health_check('connections', '{"degraded": 0.7}'), monitoring.drop_health_check('temp_files');
SELECT monitoring.create_health_check('job', 'heartbeat', unhealthy => 10), monitoring.report_heartbeat('job', false, 'broken');
UPDATE monitoring.health_weights SET unhealthy = 41 WHERE severity = 'critical';
UPDATE monitoring.collectors SET every = '7 minutes', enabled = false WHERE name = 'sequences';
UPDATE monitoring.session_limits SET warning = '17 s', critical = NULL WHERE problem = 'lock wait';
UPDATE monitoring.advisors SET every = '3 days', thresholds = thresholds || '{"min_bytes": 77}', max_findings = 5 WHERE name = 'unused_indexes';
SELECT monitoring.set_incident_policy('critical', '{critical,high}', within => '5 minutes'), monitoring.set_incident_policy('another', '{low}');
SELECT monitoring.set_escalation_policy('critical', '[{"delay": "1 minute", "receivers": ["hook"]}, {"delay": "2 minutes", "receivers": ["*"]}]', 3);
SQL
# All levels of storage, late rows that wait, and a deleted series that rows of segments still hold
$node->safe_psql('source', <<'SQL');
SELECT monitoring.increment('gone_total', 3), monitoring.increment('kept_total', 5);
SELECT monitoring.record_at('kept_total', 7, clock_timestamp() - interval '3 days', kind => 'counter');
SELECT monitoring.record_at('all_' || k, x / 7.0, clock_timestamp() - x * interval '77 minutes', jsonb_build_object('x', x % 3), k)
FROM unnest('{counter,gauge,distribution}'::text[]) k, generate_series(1, 900) x;
SELECT monitoring.compact(clock_timestamp() + interval '40 days');
SELECT monitoring.record_at('all_' || k, x * 7.0, clock_timestamp() - x * interval '13 hours', jsonb_build_object('x', x % 3), k)
FROM unnest('{counter,gauge,distribution}'::text[]) k, generate_series(1, 80) x;
SELECT monitoring.compact();
SELECT monitoring.record_at('all_' || k, x * 9.0, clock_timestamp() - x * interval '90 seconds', jsonb_build_object('x', x % 3), k)
FROM unnest('{counter,gauge,distribution}'::text[]) k, generate_series(1, 50) x;
SELECT monitoring.record('all_distribution', 3), monitoring.increment('all_counter', 3), monitoring.set_gauge('all_gauge', 3);
SELECT monitoring.delete_series('gone_total');
SELECT monitoring.increment('kept_total', 11), monitoring.increment('gone_total', 1);
SELECT monitoring.flush();
SQL
ok($node->poll_query_until('source', 'SELECT pending = 0 AND persisted > 0 FROM monitoring.self'), 'all is stored');

my $now = $node->safe_psql('source', 'SELECT clock_timestamp()');
my %look = (
	'value()' => join(' UNION ALL ', map { "SELECT '$_', monitoring.value('wait_seconds', '$_', '1 hour', '{}', '$now')" } qw(count sum min max p50 p99)),
	'value() of one series' => "SELECT monitoring.value('sold_total', 'increase', '1 hour', '{\"shop\": \"a\"}', '$now'), monitoring.value('queue', 'last', '1 hour', '{}', '$now')",
	'value() of all levels' => "SELECT monitoring.value('kept_total', 'sum', '5 days', '{}', '$now'), monitoring.value('gone_total', 'sum', '5 days', '{}', '$now')",
	'watermarks' => 'SELECT c.* FROM monitoring.compaction_state c',
	'late rows' => q{SELECT l.series_id, l.period, l.seq, l.data FROM monitoring.late l JOIN monitoring.series s USING (series_id) WHERE s.metric NOT SIMILAR TO '(check|health|pg)\_%' ORDER BY 1, 2, 3},
	'deleted series' => 'SELECT series_id, seq FROM monitoring.deleted_series ORDER BY 1',
	'chunks' => join(' UNION ALL ', map { "SELECT '$_', c.series_id, c.period, c.data FROM monitoring.$_ c" } qw(chunks hourly daily)) . ' ORDER BY 1, 2, 3',
	'query()' => "SELECT * FROM monitoring.query('wait_seconds', 'p95', date_bin('1 hour', '$now'::timestamptz - interval '1 hour', '2000-01-01'), '$now', '10 minutes', '{}', '{kind}')",
	'query() of all levels' => join(' UNION ALL ', map { my ($kind, $fn) = @$_; map { my ($step, $days) = @$_;
		"(SELECT '$kind $fn $step', q.* FROM monitoring.query('all_$kind', '$fn', date_trunc('day', '$now'::timestamptz, 'UTC') - interval '$days days', date_trunc('day', '$now'::timestamptz, 'UTC') + interval '1 day', '$step', '{}', '{x}') q WHERE q.value IS NOT NULL ORDER BY 2, 3)"
	} ['1 minute', 2], ['1 hour', 50], ['1 day', 50], ['17 days', 50] } [qw(counter sum)], [qw(gauge last)], [qw(gauge min)], [qw(distribution count)], [qw(distribution p95)]),
	# health checks go on
	'series' => q{SELECT metric, labels, kind, series_id FROM monitoring.series WHERE metric NOT SIMILAR TO '(check|health|pg)\_%' ORDER BY series_id},
	'rules' => 'SELECT d.* FROM monitoring.alert_rule_defs d ORDER BY id',
	'alerts' => 'SELECT s.* FROM monitoring.alert_states s ORDER BY alert_id',
	'history' => 'SELECT h.* FROM monitoring.alert_history h ORDER BY id',
	'acts' => 'SELECT h.* FROM monitoring.alert_handling h ORDER BY alert_id',
	'health checks' => 'SELECT d.name, d.kind, d.config, d.owner, d.degraded, d.unhealthy, d.severity, b.at, b.ok, b.message, w.unhealthy FROM monitoring.health_check_defs d'
		. ' LEFT JOIN monitoring.health_beats b ON b.check_name = d.name JOIN monitoring.health_weights w USING (severity) ORDER BY 1',
	'events' => 'SELECT e.* FROM monitoring.alert_events e ORDER BY id',
	'silences' => 'SELECT s.* FROM monitoring.silence_defs s ORDER BY id',
	'inhibition rules' => 'SELECT i.* FROM monitoring.inhibition_rule_defs i ORDER BY name',
	'time intervals' => 'SELECT t.* FROM monitoring.time_intervals t ORDER BY name',
	'routes' => 'SELECT t.* FROM monitoring.route_tree t',
	'kinds' => 'SELECT kind, function FROM monitoring.alert_rule_kinds UNION ALL SELECT kind, function FROM monitoring.receiver_kinds ORDER BY 1, 2',
	'statuses' => 'SELECT status, rank, downtime_weight, severities FROM monitoring.component_status_kinds ORDER BY rank',
	'components' => 'SELECT c.*, s.* FROM monitoring.component_defs c JOIN monitoring.component_statuses s ON s.component = c.name',
	'incident policies' => q{SELECT to_jsonb(p) - 'builtin' FROM monitoring.incident_policies p ORDER BY name},
	'escalation policies' => q{SELECT to_jsonb(p) - 'builtin', to_jsonb(s) - 'builtin' FROM monitoring.escalation_policies p JOIN monitoring.escalation_steps s ON s.policy = p.name ORDER BY name, step},
	'groups of alerts' => 'SELECT g.*, m.*, r.* FROM monitoring.alert_groups g JOIN monitoring.alert_group_members m ON m.group_id = g.id JOIN monitoring.alert_group_receivers r ON r.group_id = g.id',
	'what sessions asked for' => 'SELECT q.* FROM monitoring.routing_queue q ORDER BY id',
	'receivers' => 'SELECT r.* FROM monitoring.receiver_defs r ORDER BY name',
	'secrets' => 'SELECT s.* FROM monitoring.receiver_secrets s ORDER BY receiver, key',
	'notifications' => 'SELECT o.* FROM monitoring.outbox o ORDER BY id',
	'policies' => 'SELECT p.* FROM monitoring.retention_policies p ORDER BY relation',
	'jobs' => 'SELECT name, function, every, setting, priority, timeout, enabled FROM monitoring.jobs ORDER BY name',
	'collectors' => 'SELECT c.* FROM monitoring.collectors c ORDER BY name',
	'session limits' => 'SELECT l.* FROM monitoring.session_limit_defs l ORDER BY problem',
	'advisors' => 'SELECT a.* FROM monitoring.advisors a ORDER BY name',
	'partitions' => 'SELECT parent, partition, since, until FROM monitoring.partitions() ORDER BY 1, 2',
	'indexes' => "SELECT i.indexdef FROM pg_indexes i WHERE i.schemaname = 'monitoring' ORDER BY 1",
	'dumped tables' => q{SELECT c::regclass FROM pg_extension, unnest(extconfig) c WHERE extname = 'monitoring' ORDER BY 1},
	'own table' => 'SELECT * FROM monitoring.own');
my %before = map { $_ => $node->safe_psql('source', $look{$_}) } sort keys %look;
isnt($before{$_}, '', "there are $_ to compare") for sort keys %look;
is($before{'value() of all levels'}, '23|1', 'levels, late rows and what was deleted add up');
like($before{indexes}, qr/CREATE UNIQUE INDEX segments_p\w+_pkey .* \(slot_start, seq, part\)/, 'partitions have keys');

sub same
{
	my ($db, $how) = @_;
	ok(wait_for_worker($db), "$how: the worker takes over");
	is($node->safe_psql($db, $look{$_}), $before{$_}, "$how: the same $_") for sort keys %look;
	# It goes on where the other stopped.
	$node->safe_psql($db, "SELECT monitoring.set_gauge('queue', 43); SELECT monitoring.apply_retention()");
	ok( $node->poll_query_until($db, 'SELECT pending = 0 AND persisted > 0 FROM monitoring.self'),
		"$how: what is recorded now is stored");
	is($node->safe_psql($db, "SELECT monitoring.value('queue', 'last', '1 hour'), monitoring.value('wait_seconds', 'count', '2 hours')"),
		'43|1000', "$how: new and old are read as one");
	is($node->safe_psql($db, "SELECT count(*) FROM monitoring.jobs WHERE last_state = 'failed'"), '0', "$how: no job fails");
	return;
}

# ---- restored in one session ----

my $dump = $node->basedir . '/plain.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-f', $dump ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', $dump ], 'psql');
same('plain', 'plain text');

# ---- restored by several sessions ----

$dump = $node->basedir . '/custom.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('source'), '-f', $dump ], 'pg_dump -Fc');
$node->safe_psql('postgres', 'CREATE DATABASE parallel');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '3', '-d', $node->connstr('parallel'), $dump ], 'pg_restore -j');
same('parallel', 'in parallel');

# A worker that came between two sessions of a parallel restore has flushed and compacted: the dump's state holds.
$node->safe_psql('postgres', 'CREATE DATABASE between');
$node->safe_psql('between', 'CREATE EXTENSION monitoring; SELECT monitoring.flush(), monitoring.compact()');
$node->safe_psql('between', <<'SQL');
SET check_function_bodies = off;
COPY monitoring.flush_state (only_row, seq, sealed_at, flushed_at) FROM stdin;
t	5000	2024-05-05 00:00:00+00	2024-05-05 00:00:00+00
\.
COPY monitoring.compaction_state (only_row, minutes, chunks, hourly, daily) FROM stdin;
t	2024-05-05 00:00:00+00	2024-05-05 00:00:00+00	2024-05-05 00:00:00+00	2024-05-01 00:00:00+00
\.
SQL
is($node->safe_psql('between', "SELECT count(*), min(minutes) < '2024-05-06' OR min(minutes) > now() - interval '1 hour', (SELECT count(*) FROM monitoring.flush_state WHERE seq >= 5000) FROM monitoring.compaction_state"),
	'1|t|1', 'the state of a dump replaces that of a worker who came too early');

# What an older version has dumped: newer keys of an object stay, what only the newer version says stays as it says it
$node->safe_psql('between', <<'SQL');
SET check_function_bodies = off;
COPY monitoring.advisors (name, function, category, every, enabled, thresholds, description) FROM stdin;
unused_indexes	monitoring.of_old	of old	9 days	f	{"min_bytes": 5}	of old
\.
SQL
is($node->safe_psql('between', "SELECT function, category, every, enabled, thresholds FROM monitoring.advisors WHERE name = 'unused_indexes'"),
	'monitoring.find_unused_indexes|indexes|9 days|f|{"min_bytes": 5, "unused_for": "7 days"}', 'columns that people change are taken over, and no others');

# What was recorded late and not flushed
$node->safe_psql('postgres', 'CREATE DATABASE unflushed');
$node->safe_psql('unflushed', <<'SQL');
BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; COMMIT;
SELECT monitoring.record_at('late_total', 5, clock_timestamp() - interval '2 days', kind => 'counter');
SQL
$dump = $node->basedir . '/unflushed.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('unflushed'), '-f', $dump ], 'pg_dump before a flush');
$node->safe_psql('postgres', 'CREATE DATABASE reflushed');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('reflushed'), '-f', $dump ], 'restored');
is($node->safe_psql('reflushed', q{SELECT monitoring.value('late_total', 'sum', '3 days'); SELECT monitoring.flush() > 0; SELECT monitoring.value('late_total', 'sum', '3 days'), (SELECT count(*) FROM monitoring.series_catalog)}),
	"5\nf\n5|1", 'series of late rows are dumped, too');

# ---- the rule ----

$node->safe_psql('postgres', 'CREATE DATABASE target');
$node->safe_psql('postgres', 'CREATE DATABASE other');
my $session = $node->background_psql('target');
$session->query_safe('SET check_function_bodies = off; CREATE EXTENSION monitoring');
$node->safe_psql('other', 'CREATE EXTENSION monitoring');
ok(wait_for_worker('other'), 'the launcher has looked at a database that was made later');
is(worker('target'), '0', 'no worker where a session restores a dump');
$session->query_safe('SET check_function_bodies = on');
ok(wait_for_worker('target'), 'a worker when the session turns to something else');
$session->query_safe("SET check_function_bodies = off; COPY monitoring.series_catalog FROM '/dev/null'");
is(worker('target'), '0', 'none when it brings rows');
$session->quit;
ok(wait_for_worker('target'), 'a worker when the session has ended');

my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring worker' AND datname = 'target'");
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');
$node->psql('target', "SET check_function_bodies = off; SET ROLE stranger; COPY monitoring.series_catalog FROM STDIN");
is($node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring worker' AND datname = 'target'"),
	$pid, 'a stranger cannot send the worker away so');

# ---- pg_upgrade: the same binaries, all databases of this server ----

my $new = PostgreSQL::Test::Cluster->new('upgraded');
$new->init;
$new->append_conf('postgresql.conf', $settings);
%before = map { $_ => $node->safe_psql('source', $look{$_}) } sort keys %look;
$node->safe_psql('postgres', "DROP DATABASE $_ WITH (FORCE)") for qw(parallel between unflushed reflushed target other);
$node->stop;
my ($bindir) = map { s/\/pg_upgrade$//r } grep { -x $_ } map { "$_/pg_upgrade" } split /:/, $ENV{PATH};
chdir $new->basedir or die "cannot enter " . $new->basedir;
command_ok([ 'pg_upgrade', '--no-sync', '-b', $bindir, '-B', $bindir, '-d', $node->data_dir, '-D', $new->data_dir,
		'-s', $node->host, '-p', $node->port, '-P', $new->port ], 'pg_upgrade');
$new->start;
$node = $new;
same('source', 'pg_upgrade');
is($node->safe_psql($_, 'SELECT * FROM monitoring.check_storage()'), '', "pg_upgrade: storage of $_ is sound") for qw(source plain);

$node->stop;
done_testing();
