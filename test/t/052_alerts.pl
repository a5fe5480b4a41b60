# Alert rules on a running server: the number of statements does not grow with
# the rules, edits and evaluations do not hold each other up, timers survive.

use strict;
use warnings;
use List::Util qw(min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pg_stat_statements, monitoring'
monitoring.shared_memory = 16MB
monitoring.evaluation_interval = 1h
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements; CREATE EXTENSION monitoring');
# Nothing else runs statements while they are counted.
my $jobs = $node->safe_psql('postgres', q{WITH off AS (UPDATE monitoring.jobs SET enabled = false WHERE enabled RETURNING name)
	SELECT string_agg(quote_literal(name), ', ') FILTER (WHERE name <> 'evaluate_alerts') FROM off});
$node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM monitoring.status WHERE worker = 'database worker' AND job IS NOT NULL)}) or die;

sub q1
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Statements of one evaluation, nested ones included.
sub statements
{
	q1('SELECT pg_stat_statements_reset()');
	q1(q{SET pg_stat_statements.track = 'all'; SELECT monitoring.evaluate_alerts()});
	return q1(q{SELECT sum(s.calls) FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid
		WHERE s.query ~ 'alert' AND s.query !~ '^(UPDATE monitoring.jobs|SELECT sum)'});
}

# the first evaluation may make a partition
q1(q{SELECT monitoring.set_gauge('queue', 1); SELECT monitoring.evaluate_alerts()});
q1(q{SELECT count(monitoring.create_alert_rule('ten ' || n, 'queue', 'last', '1 hour', '>', n)) FROM generate_series(1, 10) AS n});
# once more, as one of them may make a partition
my $ten = min(map { statements() } 1 .. 2);
q1(q{SELECT count(monitoring.create_alert_rule('many ' || n, 'queue', 'last', '1 hour', '>', n)) FROM generate_series(1, 990) AS n});
my $many = min(map { statements() } 1 .. 2);
cmp_ok($ten, '>', 0, 'statements were counted');
is($many, $ten, 'as many statements for 1,000 rules as for 10');
q1("UPDATE monitoring.jobs SET enabled = true WHERE name IN ($jobs)");
q1(q{SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules});

# An edit in an open transaction puts off its own rule only.
q1(q{SELECT monitoring.create_alert_rule(n, 'load', 'last', '1 hour', '>', 1) FROM unnest('{a,b}'::text[]) AS n});
q1(q{SELECT monitoring.set_gauge('load', 2)});
my $edit = $node->background_psql('postgres', on_error_stop => 1);
$edit->query_safe(q{BEGIN; SELECT monitoring.update_alert_rule('a', '{"severity": "high"}')});
is(q1(q{SELECT monitoring.evaluate_alerts()}), '1', 'an evaluation goes past an open edit');
is(q1(q{SELECT string_agg(rule, ',') FROM monitoring.alerts}), 'b', 'the other rule is evaluated');
$edit->query_safe('COMMIT');
is(q1(q{SELECT monitoring.evaluate_alerts()}), '1', 'the edited rule follows');

# An open evaluation holds up neither edits of rules that do not change nor readers; a second evaluation gives up in time.
$edit->query_safe('BEGIN; SELECT monitoring.evaluate_alerts()');
q1(q{SET lock_timeout = '50s'; SELECT monitoring.update_alert_rule('a', '{"severity": "low"}')});
is(q1(q{SELECT count(*) FROM monitoring.alerts}), '2', 'an edit and a reader do not wait for an evaluation');
my ($code, $out, $err) = $node->psql('postgres', 'SELECT monitoring.evaluate_alerts()');
is("$code|$out", '0|0', 'a second evaluation gives up');
like($err, qr/another evaluation of the alert rules is under way/, 'and says so');
($code, $out, $err) = $node->psql('postgres', 'SELECT monitoring.evaluate_alerts_job(clock_timestamp())');
is($code, 3, 'the worker does not wait as long: its job fails, and status shows it');
like($err, qr/ERROR:  another evaluation of the alert rules is under way/, 'with the reason');
$edit->query_safe('COMMIT');
$edit->quit;

# A pending timer goes on after a restart, and after a crash.
q1(q{SELECT monitoring.create_alert_rule('waits', 'temperature', 'last', '1 hour', '>', 1, pending_for => '10 minutes')});
q1(q{SELECT monitoring.set_gauge('temperature', 2); SELECT monitoring.flush()});
q1(q{SELECT monitoring.evaluate_alerts()});
my $began = q1(q{SELECT state || active_at FROM monitoring.alerts WHERE rule = 'waits'});
# What people did outlives both, too.
q1(q{SELECT monitoring.acknowledge_alerts('{"alertname": "a"}', now() + interval '1 day'), monitoring.snooze_alerts('{"alertname": "b"}', '1 day'),
	monitoring.assign_alerts('{"alertname": "b"}', 'alice'), monitoring.create_silence('{"alertname": "a"}', '1 day')});
my $handled = q{SELECT rule, acknowledged_by, acknowledged_until, assignee, suppressed FROM monitoring.alerts ORDER BY rule};
my $before = q1($handled);
like($before, qr/^a\|\w+\|[^|]+\|\|acknowledged, silence\nb\|\|\|alice\|snoozed\nwaits\|\|\|\|$/, 'acknowledged, silenced, snoozed, assigned');
like($began, qr/^pending/, 'pending');
$node->stop('fast');
$node->start;
$node->stop('immediate');
$node->start;
is(q1($handled), $before, 'all as before the crash');
q1(q{SELECT monitoring.evaluate_alerts(clock_timestamp() + '9 minutes')});
is(q1(q{SELECT state || active_at FROM monitoring.alerts WHERE rule = 'waits'}), $began, 'still pending since then');
q1(q{SELECT monitoring.evaluate_alerts(active_at + '10 minutes') FROM monitoring.alerts WHERE rule = 'waits'});
is(q1(q{SELECT state FROM monitoring.alerts WHERE rule = 'waits'}), 'firing', 'fires when its time has come');

# So does a group that waits for further alerts, and what was told is known.
sub told { return q1(q{SELECT count(*) FROM monitoring.notifications WHERE alert = 'waits'}); }
q1(q{SELECT monitoring.create_receiver('nobody', 'webhook', 'https://example.invalid/')});
my $due = q1(q{SELECT due_at FROM monitoring.notification_groups WHERE labels ->> 'alertname' = 'waits'});
$node->stop('immediate');
$node->start;
q1("SELECT monitoring.evaluate_alerts('$due'::timestamptz - interval '1 second')");
is(told(), '0', 'a group waits on after a crash');
q1("SELECT monitoring.evaluate_alerts('$due')");
is(told(), '1', 'and is told when its time has come');
$node->stop('immediate');
$node->start;
q1("SELECT monitoring.evaluate_alerts('$due'::timestamptz + interval '1 hour')");
is(told(), '1', 'once');

# Rules, states, kinds and history go through dump and restore.
q1(q{CREATE DATABASE copy});
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'dump');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', $dump ], 'restore');
my $all = q{SELECT (SELECT md5(string_agg(d::text, ',' ORDER BY id)) FROM monitoring.alert_rule_defs AS d),
	(SELECT md5(string_agg(s::text, ',' ORDER BY alert_id)) FROM monitoring.alert_states AS s),
	(SELECT md5(string_agg(h::text, ',' ORDER BY id)) FROM monitoring.alert_history AS h), (SELECT count(*) FROM monitoring.alert_rule_kinds)};
is($node->safe_psql('copy', $all), q1($all), 'the same rules, states and history');

# The worker evaluates by itself.
$node->append_conf('postgresql.conf', q{monitoring.evaluation_interval = '1s'});
$node->reload;
q1(q{SELECT monitoring.create_alert_rule('by worker', 'work', 'last', '1 hour', '>', 1)});
q1(q{UPDATE monitoring.jobs SET enabled = true WHERE name = 'evaluate_alerts'});
q1(q{SELECT monitoring.set_gauge('work', 2)});
ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM monitoring.alerts WHERE rule = 'by worker' AND state = 'firing')}),
	'the worker raises an alert');
q1(q{SELECT monitoring.set_gauge('work', 0)});
ok($node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM monitoring.alerts WHERE rule = 'by worker' AND state = 'resolved')}),
	'and resolves it');

# Queries that misbehave are their rules' own problem: others are evaluated, the worker stays, and nothing is left in it.
q1(q{CREATE TABLE written (n int);
	CREATE FUNCTION stubborn() RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END;
		END LOOP;
	END $$;
	CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.written VALUES (1); RETURN 1; END $$});
my $worker = q1(q{SELECT pid FROM monitoring.status WHERE job = 'evaluate_alerts' AND database = 'postgres'});
q1(q{SELECT monitoring.create_alert_rule(name, NULL, NULL, '1 minute', '>', 0, kind => 'sql', every => '1 second',
		params => jsonb_build_object('query', query, 'timeout', '100 milliseconds'),
		impact_sql => 'SELECT count(*) AS held FROM pg_locks WHERE locktype = ''advisory'' AND pid = pg_backend_pid()')
	FROM (VALUES ('never ends', 'SELECT public.stubborn()'), ('writes', 'SELECT public.writes()'),
		('locks', 'SELECT pg_advisory_lock(4711)::text AS t, 1')) AS r (name, query)});
q1(q{CREATE TABLE later (n int); SELECT monitoring.create_alert_rule('changes', NULL, NULL, '1 minute', '>', 0, kind => 'sql', every => '1 second',
	params => '{"query": "SELECT * FROM public.later"}'); ALTER TABLE later ADD m int});
q1(q{SELECT monitoring.set_gauge('work', 2)});
ok($node->poll_query_until('postgres', q{SELECT string_agg(name || ': ' || coalesce(last_error, 'firing'), ', ' ORDER BY name)
	= 'by worker: firing, changes: the query has more than one numeric column: "n" and "m", locks: firing, '
	|| 'never ends: canceled because it took longer than 100 ms, writes: cannot execute INSERT in a read-only transaction'
	FROM monitoring.alert_rules WHERE name IN ('by worker', 'changes', 'locks', 'never ends', 'writes') AND (last_error IS NOT NULL OR firing > 0)}),
	'each rule has its own error, others their alerts') or diag(q1(q{SELECT name, state, last_error FROM monitoring.alert_rules}));
ok($node->poll_query_until('postgres', 'SELECT pg_try_advisory_lock(4711)'), 'a lock that a query took is not kept');
is(q1(q{SELECT details -> 'impact' FROM monitoring.alerts WHERE rule = 'locks'}), '{"held": 0}', 'not even until the next query');
is(q1(q{SELECT pid FROM monitoring.status WHERE job = 'evaluate_alerts' AND database = 'postgres'}), $worker, 'it is the same worker');
is(q1('SELECT count(*) FROM written'), '0', 'nothing was written');

# Rules that are evaluated now and then only: the worker knows when it evaluated last.
q1(q{SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules WHERE name <> 'by worker'});
q1(q{SELECT monitoring.create_alert_rule('seldom', NULL, NULL, '1 minute', '>', 0, kind => 'sql', every => '50 years', params => '{"query": "SELECT 1"}')});
for my $state ('resolved', 'firing')
{
	q1(sprintf q{SELECT monitoring.set_gauge('work', %d)}, $state eq 'firing' ? 2 : 0);
	$node->poll_query_until('postgres', qq{SELECT EXISTS (SELECT FROM monitoring.alerts WHERE rule = 'by worker' AND state = '$state')}) or die;
}
is(q1(q{SELECT state FROM monitoring.alert_rules WHERE name = 'seldom'}), 'ok', 'a rule that is not due is not evaluated by the worker');

# Settings of the server: what a reload changes, what waits for a restart; and it is part of the evidence.
q1(q{SELECT monitoring.note_settings(clock_timestamp())});
q1(qq{ALTER SYSTEM SET $_}) for ("work_mem = '33MB'", "max_connections = 123", "archive_command = 'cp secret'");
my $loaded = q1('SELECT pg_conf_load_time()');
$node->reload;
$node->poll_query_until('postgres', qq{SELECT pg_conf_load_time() > '$loaded'}) or die;
q1(q{SELECT monitoring.create_alert_rule('told', 'work', 'last', '1 hour', '>', 1)});
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM monitoring.alerts WHERE rule = 'told' AND state = 'firing')}) or die;
is(q1(q{SELECT string_agg(concat_ws(' ', c ->> 'name', c ->> 'from', c ->> 'to'), ', ' ORDER BY c ->> 'name')
	FROM monitoring.alerts AS a, jsonb_array_elements(monitoring.evidence_of(a.alert_id) -> 'settings' -> 'changes') AS c WHERE a.rule = 'told' AND c ->> 'name' !~ 'monitoring'}),
	'archive_command (hidden), work_mem 33MB', 'evidence names the settings that a reload has changed');
is(q1(q{SELECT monitoring.evidence_of(alert_id) -> 'settings' -> 'pending_restart' FROM monitoring.alerts WHERE rule = 'told'}), '["max_connections"]', 'and those that wait for a restart');
$node->restart;
q1(q{SELECT monitoring.note_settings(clock_timestamp())});
is(q1(q{SELECT scope || ' ' || new_value FROM monitoring.setting_changes WHERE name = 'max_connections' AND at = pg_postmaster_start_time()}), 'server 123',
	'which are changes once the server has been restarted');
is(q1(q{SELECT count(*) FROM monitoring.setting_changes WHERE name !~ 'monitoring'}), '3', 'nothing else has changed');

$node->stop;
done_testing();
