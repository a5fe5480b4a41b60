# Deliveries that stay in the database: NOTIFY, and calls of functions. What a function does is done exactly once, also when
# the notifier or the server is ended in the midst of it; it has its owner's rights, its own time, and nobody else's.
use strict;
use warnings;

use JSON::PP;
use NotifyNode qw(:DEFAULT sql wait_for outcome notifier);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;

my $node = new_node('calls');
$node->start;
my $url = start_receiver();

sub messages { return split /\n/, sql("SELECT monitoring.test_receiver('$_[0]') FROM generate_series(1, " . ($_[1] // 1) . ')'); }

sql(q{
	CREATE EXTENSION monitoring;
	CREATE ROLE operator;
	SELECT monitoring.grant_access('operator', 'admin');
	CREATE SCHEMA shop AUTHORIZATION operator;
	CREATE TABLE secrets (t text);
	SET ROLE operator;
	CREATE TABLE shop.calls (at timestamptz DEFAULT clock_timestamp(), key text, id bigint, who name, read_only text);
	CREATE FUNCTION shop.take(notification jsonb) RETURNS void LANGUAGE sql AS $$
		INSERT INTO shop.calls (key, id, who, read_only)
		SELECT notification ->> 'idempotencyKey', (notification ->> 'id')::bigint, current_user, current_setting('transaction_read_only') $$;
	CREATE FUNCTION shop.hang(notification jsonb) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM shop.take(notification);
			LOOP
				BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END;
			END LOOP;
		END $$;
	CREATE FUNCTION shop.slow(notification jsonb) RETURNS void LANGUAGE sql AS $$ SELECT shop.take(notification); SELECT pg_sleep(0.3) $$;
	CREATE FUNCTION shop.fail(notification jsonb) RETURNS void LANGUAGE plpgsql AS $$
		DECLARE code text := notification -> 'receiver' #>> '{}';
		BEGIN
			PERFORM shop.take(notification);
			RAISE EXCEPTION 's3cr3t' USING ERRCODE = code, DETAIL = 's3cr3t', HINT = 's3cr3t';
		END $$;
	CREATE FUNCTION shop.become(notification jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; INSERT INTO public.secrets VALUES ('in'); END $$;
	CREATE FUNCTION shop.peek(notification jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.secrets VALUES ('in'); END $$;
	CREATE FUNCTION shop.leave(notification jsonb) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_advisory_lock(42), set_config('statement_timeout', '1', false), set_config('shop.setting', 'left', false);
			PERFORM shop.take(notification);
		END $$;
	CREATE FUNCTION shop.format_notify(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE sql AS $$ SELECT 'NOTIFY', receiver -> 'config' ->> 'channel', '{}'::jsonb, repeat('x', (receiver -> 'config' ->> 'size')::int) $$;
	RESET ROLE;
	INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, url_required, owner) VALUES ('long', 'shop.format_notify', '{channel,size}', false, 'operator')});

sub create
{
	my ($name, $function, $config) = @_;
	sql("SET ROLE operator; SELECT monitoring.create_receiver('$name', 'sql', config => '{\"function\": \"shop.$function\"" . ($config // '') . "}')");
	return;
}

# ---- NOTIFY ----

sql(q{SELECT monitoring.create_receiver('channel', 'notify', config => '{"channel": "Alerts of shop"}')});
my $listener = $node->background_psql('postgres', on_error_stop => 1);
$listener->query_safe('LISTEN "Alerts of shop"');

# What has come since the last time.
my @heard;
sub heard
{
	my ($n) = @_;
	@heard = ();
	for (my $end = time() + $timeout; @heard < $n && time() < $end; usleep(50_000))
	{
		my $got = $listener->query('SELECT 1');
		push @heard, $1 while $got =~ /Asynchronous notification "Alerts of shop" with payload "(.*)" received/g;
	}
	return scalar(@heard);
}

my @ids = messages('channel', 5);
is(heard(5), 5, 'who listens hears of each notification');
is(join(' ', sort { $a <=> $b } map { decode_json($_)->{id} } @heard), join(' ', @ids), '... which says its number');
is(decode_json($heard[0])->{alerts}[0]{alertname}, 'TestNotification', '... and its alerts');
wait_for("SELECT string_agg(DISTINCT state || ' ' || attempts, ', ') FROM monitoring.notifications WHERE id = ANY ('{" . join(',', @ids) . "}')", 'sent 1', 'they are sent');
is(sql("SELECT DISTINCT outcome, protocol, http_status, error FROM monitoring.delivery_attempts WHERE receiver = 'channel'"), 'delivered|NOTIFY||', '... and on record');

# A group of many alerts, with texts that JSON and UTF-8 make longer.
sql(q{SELECT monitoring.ensure_partition('outbox', clock_timestamp());
	INSERT INTO monitoring.outbox (created_at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	SELECT t, 'channel', 'many', 'Many', 'firing', monitoring.make_payload('channel', 'many', 'firing', '{}', (SELECT jsonb_agg(jsonb_build_object('status', 'firing',
			'labels', jsonb_build_object('alertname', 'Many "ö" ' || n, 'severity', 'high'), 'annotations', jsonb_build_object('summary', repeat('"€', 100)), 'startsAt', '2026-01-02T03:04:05Z',
			'fingerprint', md5(n::text), 'alert_id', n)) FROM generate_series(1, 500) AS n)), t, t + interval '1 hour'
	FROM clock_timestamp() AS t});
is(heard(1), 1, 'a payload of 500 alerts is cut to what NOTIFY takes');
my $many = JSON::PP->new->decode($heard[0]);
cmp_ok(length($heard[0]), '<', 8000, '... in bytes');
is(scalar(@{ $many->{alerts} }) + $many->{more}, 500, '... and says how many alerts are not in it');
cmp_ok(scalar(@{ $many->{alerts} }), '>=', 5, '... which are no more than need be');
# One that is too long is its formatter's fault: nothing else waits for it.
sql(q{SELECT monitoring.create_receiver('long', 'long', config => '{"channel": "Alerts of shop", "size": 9000}')});
my ($id) = messages('long');
messages('channel');
wait_for(outcome($id, 'state, attempts, error'), 'dead|1|NOTIFY failed with SQLSTATE 22023', 'what does not fit is refused');
is(heard(1), 1, '... and others are delivered');
# Equal payloads of one moment are one.
sql(q{SELECT monitoring.alter_receiver('long', '{"size": 10, "breaker_failures": 0}')});
@ids = messages('long', 8);
wait_for("SELECT count(*) FROM monitoring.notifications WHERE id = ANY ('{" . join(',', @ids) . "}') AND state = 'sent'", 8, 'eight are sent whose payload is the same');
heard(1);
my $equal = grep { $_ eq 'x' x 10 } @heard;
cmp_ok($equal, '>=', 1, '... and heard of');
cmp_ok($equal, '<', 8, '... together');

$listener->quit;

# ---- calls ----

create('take', 'take');
is(sql(q{SELECT owner FROM monitoring.receivers WHERE name = 'take'}), 'operator', 'a receiver has an owner');
@ids = messages('take', 30);
wait_for('SELECT count(*) FROM shop.calls', 30, 'a function is called for each notification');
is(sql('SELECT count(DISTINCT key), string_agg(DISTINCT who || read_only, $$,$$) FROM shop.calls'), '30|operatoroff', '... as the owner of the receiver, and may write');
is(sql("SELECT count(*) FROM shop.calls AS c JOIN monitoring.notifications AS n ON n.id = c.id AND n.idempotency_key = c.key AND n.state = 'sent' AND n.attempts = 1"), 30,
	'... with its idempotency key');

# Classes of errors: what a function says may be over the next time; what will not be is given up.
for my $case ([ '40001', 'dead|3|the function failed with SQLSTATE 40001; given up (attempts: 3)' ], [ 'P0001', 'dead|3|the function failed with SQLSTATE P0001; given up (attempts: 3)' ],
	[ '57014', 'dead|3|the function failed with SQLSTATE 57014; given up (attempts: 3)' ], [ '23505', 'dead|1|the function failed with SQLSTATE 23505' ], [ '22012', 'dead|1|the function failed with SQLSTATE 22012' ])
{
	create($case->[0], 'fail', ', "max_attempts": 3');
	($id) = messages($case->[0]);
	wait_for(outcome($id, 'state, attempts, error'), $case->[1], "error $case->[0]");
}
for my $name ('become', 'peek')
{
	create($name, $name);
	($id) = messages($name);
	wait_for(outcome($id, 'state, error'), 'dead|the function failed with SQLSTATE 42501', "$name: a function has no more than its owner's rights");
}
create('gone', 'take');
sql(q{ALTER FUNCTION shop.take(jsonb) RENAME TO took});
($id) = messages('gone');
wait_for(outcome($id, 'state, error'), 'dead|the function failed with SQLSTATE 42883', 'a function that is no more');
sql(q{ALTER FUNCTION shop.took(jsonb) RENAME TO take});
is(sql('SELECT count(*) FROM shop.calls'), 30, 'of calls that failed nothing is left');
is(sql('SELECT count(*) FROM secrets'), 0, '... nowhere');

create('leave', 'leave');
($id) = messages('leave');
wait_for(outcome($id, 'state'), 'sent', 'a function takes locks and changes settings');
is(sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42}), 0, '... which do not outlast it');
@ids = messages('leave', 3);
wait_for("SELECT count(*) FROM monitoring.notifications WHERE id = ANY ('{" . join(',', @ids) . "}') AND state = 'sent'", 3, '... nor meet the next');

# Triggers and constraints that are deferred would run at the commit, with our rights: they are refused.
sql(q{
	SET ROLE operator;
	CREATE TABLE shop.parents (id int PRIMARY KEY);
	CREATE TABLE shop.deferred (id int REFERENCES shop.parents DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE shop.deferrable (id int REFERENCES shop.parents DEFERRABLE);
	CREATE FUNCTION shop.defer(notification jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO shop.deferred VALUES (1) $$;
	CREATE FUNCTION shop.set_deferred(notification jsonb) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO shop.deferrable VALUES (1); END $$;
	CREATE FUNCTION shop.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.secrets VALUES (current_user); RETURN NULL; END $$;
	CREATE TABLE shop.triggered (id int);
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON shop.triggered DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.late();
	CREATE FUNCTION shop.trigger_late(notification jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO shop.triggered VALUES (1) $$});
for my $name ('defer', 'set_deferred', 'trigger_late')
{
	create($name, $name);
	($id) = messages($name);
	wait_for(outcome($id, 'state, attempts, error'), 'dead|1|the function failed with SQLSTATE 42501', "$name: nothing is left for the commit");
}
is(sql('SELECT (SELECT count(*) FROM secrets), (SELECT count(*) FROM shop.deferred), (SELECT count(*) FROM shop.deferrable), (SELECT count(*) FROM shop.triggered)'), '0|0|0|0',
	'... and nothing done');

# ---- a function that hangs ----

create('hang', 'hang', ', "timeout_seconds": 2, "max_attempts": 2');
sql("SELECT monitoring.create_receiver('beside', 'webhook', '$url/beside')");
my @hanging = messages('hang', 30);
wait_for(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND wait_event = 'PgSleep'}, 't', 'a function hangs');
@ids = messages('beside', 20);
wait_for("SELECT count(*) FROM monitoring.notifications WHERE id = ANY ('{" . join(',', @ids) . "}') AND state = 'sent'", 20, 'others are delivered beside it');
# of sixty attempts, each of which ends by its timeout
cmp_ok(sql("SELECT count(*) FROM monitoring.delivery_attempts AS a WHERE a.receiver = 'hang' AND a.at < (SELECT max(sent_at) FROM monitoring.notifications WHERE id = ANY ('{" . join(',', @ids) . "}'))"), '<', 30,
	'... and wait for few of its calls');
wait_for(q{SELECT count(*) > 0 FROM monitoring.delivery_attempts WHERE receiver = 'hang'}, 't', 'a call of it ends');
like(sql("SELECT string_agg(DISTINCT error, '; ') FROM monitoring.delivery_attempts WHERE receiver = 'hang'"), qr/the function took longer than 2 s/, 'it is ended, whatever it catches');
sql(q{SELECT monitoring.drop_receiver('hang')});
is(sql('SELECT count(*) FROM shop.calls WHERE id = ANY ($${' . join(',', @hanging) . '}$$)'), 0, 'and has done nothing');

# ---- the end of the notifier, in the midst of calls ----

sql('TRUNCATE shop.calls');
create('slow', 'slow', ', "max_attempts": 100');
@ids = messages('slow', 12);
my $list = '{' . join(',', @ids) . '}';
for my $round (1 .. 4)
{
	wait_for(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND wait_event = 'PgSleep'}, 't', "round $round: a call is under way");
	my $pid = notifier();
	if ($round % 2) { sql("SELECT pg_terminate_backend($pid)"); }
	else { kill 'KILL', $pid; }
	for (my $end = time() + $timeout; kill(0, $pid) && time() < $end; usleep(20_000)) { }
}
wait_for("SELECT count(*) FROM monitoring.notifications WHERE id = ANY ('$list') AND state = 'sent'", 12, 'all are delivered at last');
is(sql('SELECT count(*), count(DISTINCT key) FROM shop.calls'), '12|12', '... and what the function did is done once for each');
is(sql("SELECT count(*) FROM shop.calls AS c JOIN monitoring.notifications AS n ON n.id = c.id AND n.idempotency_key = c.key"), 12, '... with their keys');
cmp_ok(sql("SELECT sum(attempts) FROM monitoring.notifications WHERE id = ANY ('$list')"), '>', 12, '... some in more than one attempt');

unlike(sql('SELECT string_agg(n::text, $$$$) FROM monitoring.notifications AS n') . sql('SELECT string_agg(d::text, $$$$) FROM monitoring.delivery_attempts AS d')
	  . slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal 11|s3cr3t/, 'no crash, and nothing of what functions say');

$node->stop;
stop_receiver();
done_testing();
