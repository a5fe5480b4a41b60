# Missing indexes of several columns, and what the planner says of them where hypopg is installed: found, proven, made,
# done; what only looks like it is not found.  What users have written is planned and never run, with nobody's rights
# but those of the table's owner, and without waiting.
#
# Times of runs are virtual.

use strict;
use warnings;

use AdvisedNode;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('missing_indexes');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
autovacuum = off
max_worker_processes = 16
fsync = off
CONF
$node->start;
create_advised($node);
sql(<<'SQL');
UPDATE monitoring.advisors SET enabled = name = 'missing_indexes', thresholds = thresholds || '{"per_hour": 0.1}';
CREATE ROLE owner LOGIN;
CREATE ROLE mallory LOGIN;
CREATE SCHEMA shop AUTHORIZATION owner;
CREATE SCHEMA other AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA other TO owner;
GRANT USAGE ON SCHEMA shop TO mallory;
SET ROLE owner;
CREATE TABLE shop.events (id int PRIMARY KEY, region int, state int, kind int, at timestamptz, code text, note text);
INSERT INTO shop.events SELECT i, i % 50, i % 49, i % 3, now() - i * interval '1 minute', md5(i::text), 'n' || i FROM generate_series(1, 30000) AS i;
-- an index that does it, with its columns in another order
CREATE TABLE shop.covered (id int PRIMARY KEY, region int, state int);
INSERT INTO shop.covered SELECT i, i % 50, i % 49 FROM generate_series(1, 30000) AS i;
CREATE INDEX covered_state_region ON shop.covered (state, region);
SQL
sql('VACUUM ANALYZE shop.' . $_) foreach qw(events covered);

my %statements = (
	201 => 'select * from shop.events where region = $1 and state = $2 order by at desc limit $3',
	202 => 'select note from events e where e.state = $1 and e.region = $2',
	203 => 'update shop.events set note = $1 where code = $2',
	# looks for a value, but any row may be wanted
	204 => 'select * from shop.events where note = $1 or length(code) > $2',
	205 => 'select count(*) from shop.events where kind = $1 and at between $2 and $3',
	206 => 'select * from shop.covered where region = $1 and state = $2');
sub seq_scans { sql(join ';', map { "SELECT sum(region) FROM shop.$_" } (qw(events covered)) x 20); return }

# a sample, reads, and the statements of the day before the next look
sql(q{SELECT FROM monitoring.advise('2031-01-01')});
seq_scans();
sql(q{SELECT monitoring.snapshot_statements(); SELECT monitoring.ensure_partition('statement_deltas', '2031-01-08 23:00Z')});
foreach my $id (sort keys %statements)
{
	sql(qq{INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, latency)
		SELECT '2031-01-08 23:00Z', '2031-01-08 22:00Z', $id, 10, true, 20, 4, 0.2, monitoring.sketch(0.2 + 0 * i) FROM generate_series(1, 20) AS i});
	sql(qq{INSERT INTO monitoring.statement_texts (queryid, userid, query, first_seen) VALUES ($id, 10, \$t\$$statements{$id}\$t\$, '2031-01-08')});
}

sub found
{
	my ($at) = @_;
	is(sql("SELECT failure FROM monitoring.advise('$at')"), '', "the advisor runs on $at");
	return join "\n", sort split /\n/, sql(q{SELECT object_type || ' ' || object_name FROM monitoring.advice});
}

# ---- from the texts and the statistics ----

my ($code, $note, $three) = ('column shop.events.code', 'column shop.events.note', 'columns shop.events (region, state, at)');
is(found('2031-01-09'), "$code\n$note\n$three", 'columns that statements look for; what begins the same is one');
is(sql(q{SELECT evidence ->> 'queryids' || ' ' || (evidence ->> 'rows_per_value') || ' ' || (evidence ? 'cost_after') FROM monitoring.advice WHERE object_type = 'columns'}),
	'["201", "202"] 12.2 false', 'for two statements');

sub finish
{
	my ($at) = @_;
	foreach my $name (split /\n/, sql(q{SELECT object_name FROM monitoring.advice}))
	{
		my ($fix, $verify) = map { sql("SELECT $_ FROM monitoring.advice WHERE object_name = '$name'") } qw(fix_sql verify_sql);
		is(sql($verify), 'f', "$name is missing");
		sql($fix);
		is(sql($verify), 't', "$name is made");
	}
	is(found($at), '', 'nothing is missing');
	is(sql(q{SELECT DISTINCT state FROM monitoring.findings}), 'done', 'all is done');
	return;
}

if (sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'hypopg'}) eq '0')
{
	finish('2031-01-09 01:00Z');
	$node->stop;
	done_testing();
	exit;
}

# ---- what the planner says ----

sql('CREATE SCHEMA "Hypo"; CREATE EXTENSION hypopg SCHEMA "Hypo"');
is(found('2031-01-09 02:00Z'), "$code\n$three", 'an index that the planner does not use is not advised');
is(sql(q{SELECT state FROM monitoring.findings WHERE object_name = 'shop.events.note'}), 'done', 'any more');
is(sql(q{SELECT concat_ws(' ', evidence ->> 'statements_planned', evidence ->> 'statements_that_use_it', (evidence ->> 'cost_after')::float8 < (evidence ->> 'cost_before')::float8 / 5,
	gain > 7 AND gain < 8, evidence ? 'not_planned') FROM monitoring.advice WHERE object_type = 'columns'}), '2 2 t t f', 'both statements are planned, with and without');

# what it says is what is so
my $cost = q{EXPLAIN (FORMAT JSON) EXECUTE s(1, 1, 20)};
my $explain = sub {
	return sql(qq{SET plan_cache_mode = force_generic_plan; PREPARE s AS $statements{201}; $cost}) =~ /"Total Cost": ([0-9.]+)/ ? $1 : undef;
};
my $before = $explain->();
my ($said_bytes, $said_name) = split /\|/, sql(q{SELECT evidence ->> 'index_bytes', object_name FROM monitoring.advice WHERE object_type = 'columns'});
my $plans = q{FROM monitoring.hypothetical_plans('shop.events'::regclass, 'CREATE INDEX ON shop.events (region, state, at)', ARRAY[%s], 'shop', 'Hypo') AS p};
my ($told_before, $told_after) = split /\|/, sql(sprintf "SELECT p.plan #>> '{0,Plan,Total Cost}', p.plan_with_index #>> '{0,Plan,Total Cost}' $plans", "'$statements{201}'");
cmp_ok(abs($told_before - $before), '<', 0.02, 'costs are those of the generic plan');
sql('CREATE INDEX tried ON shop.events (region, state, at)');
my $after = $explain->();
cmp_ok(abs($told_after - $after), '<', $before / 20, "and with the index, $told_after, nearly those that it has then, $after");
my $bytes = sql(q{SELECT pg_relation_size('shop.tried')});
# an estimate of hypopg's, which knows of no entries that share a key
cmp_ok(abs(log($said_bytes / $bytes)), '<', log(4), "it takes $bytes, of which was said $said_bytes");
sql('DROP INDEX shop.tried');

# ---- nothing is left, nothing is run ----

is(sql(q{SELECT FROM "Hypo".hypopg_create_index('CREATE INDEX ON shop.events (kind)'); SELECT FROM monitoring.advise('2031-01-09 03:00Z');
	SELECT count(*), min(indexname) ~ 'kind' FROM "Hypo".hypopg(); SELECT count(*) FROM pg_prepared_statements}) =~ s/^\n+//r, "1|t\n0", 'the hypothetical indexes of a session are its own, and no other is left');

sql(<<'SQL');
SET ROLE mallory;
CREATE SEQUENCE other.calls;
CREATE FUNCTION other.evil(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$;
GRANT ALL ON ALL TABLES IN SCHEMA other TO PUBLIC;
CREATE TABLE other.mine (id int, region int);
CREATE INDEX ON other.mine (region) WHERE id > 0;
CREATE VIEW other.seen AS SELECT id FROM other.mine;
GRANT SELECT ON ALL TABLES IN SCHEMA other TO PUBLIC;
RESET ROLE;
SET ROLE owner;
CREATE TABLE shop.parent (id int, region int);
CREATE TABLE shop.child () INHERITS (shop.parent);
CREATE VIEW shop.view AS SELECT e.id, other.evil(1) AS x FROM shop.events AS e;
RESET ROLE;
ALTER TABLE shop.child OWNER TO mallory;
SQL
sub problem
{
	my ($query) = @_;
	return sql(sprintf "SELECT p.problem $plans", '$t$' . $query . '$t$');
}
like(problem('select other.evil(1) from shop.events where region = $1'), qr/functions that do not come with the server/, 'a function of a user is not called');
like(problem('select * from shop.view'), qr/functions that do not come with the server/, 'nor in a view');
like(problem('select * from shop.events where region = $1 and exists (select from other.mine m where m.id = $2)'), qr/does not belong to the owner/, 'tables of others are not planned');
like(problem('select * from shop.events where id in (select id from other.seen)'), qr/does not belong to the owner/, 'nor their views');
like(problem('select * from shop.events e join shop.parent using (id)'), qr/does not belong to the owner/, 'nor their tables below one');
like(problem($_), qr/not one statement|no SELECT/, "not planned: $_") foreach 'select 1; drop table shop.events', 'create table x as select * from shop.events', 'select * into x from shop.events', 'call x()', '';
like(problem('select from shop.covered'), qr/not a statement about the table/, 'nor what is about another table');
like(problem('select $1 from shop.events where region = $2 and $3 is null'), qr/type of a parameter|could not determine/, 'nor parameters of which nothing is known');
is(problem('delete from shop.events where region = $1'), '', 'a DELETE is planned');
is(sql('SELECT count(*) FROM shop.events'), '30000', 'and not run');
is(problem('insert into shop.events (id) select id + $1 from shop.events'), '', 'so is an INSERT');
is(sql('SELECT count(*) FROM shop.events'), '30000', 'and not run');
sql(q{GRANT USAGE ON SCHEMA monitoring TO mallory; GRANT EXECUTE ON FUNCTION monitoring.hypothetical_plans TO mallory});
my ($status, undef, $stderr) = $node->psql('advised', 'SET ROLE mallory; SELECT ' . sprintf("1 $plans", "'select 1'"));
like($stderr, qr/permission denied to run a statement as role "owner"/, 'nobody plans as another');

# ---- nobody waits ----

my $locker = $node->background_psql('advised');
$locker->query_safe('BEGIN; LOCK TABLE shop.events');
my $started = time;
is(found('2031-01-09 04:00Z'), "$code\n$note\n$three", 'without a proof what the texts say holds');
cmp_ok(time - $started, '<', 30, 'nobody waits for a lock');
like(sql(q{SELECT evidence ->> 'not_planned' FROM monitoring.advice WHERE object_type = 'columns'}), qr/lock timeout/, 'and why there is none is said');
$locker->quit;

# the owner's own function, in a partial index, that has become slow
sql(q{SET ROLE owner; CREATE FUNCTION shop.slow(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
	CREATE INDEX slow ON shop.events (kind) WHERE shop.slow(1);
	CREATE OR REPLACE FUNCTION shop.slow(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN true; END $$});
$started = time;
is(problem($statements{201}), 'canceled because it took longer than 500 ms', 'what takes long to plan is not waited for');
cmp_ok(time - $started, '<', 50, 'long');
is(found('2031-01-09 05:00Z'), "$code\n$note\n$three", 'and the advisor goes on');
sql(q{CREATE OR REPLACE FUNCTION shop.slow(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'I am %', current_user; END $$});
is(problem($statements{201}), 'I am owner', 'it has the rights of the owner of the table');
sql('DROP INDEX shop.slow');

# ---- done ----

is(found('2031-01-09 05:30Z'), "$code\n$three", 'proven again');
finish('2031-01-09 05:45Z');
$node->stop;
done_testing();
