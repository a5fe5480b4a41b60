# Logical replication between two servers that both have the extension: the application's schema is published, what is
# stored here is not; a publication of all tables is warned of and breaks nothing of ours; what the collectors say of
# slot and subscription, while it runs and when it fails.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($publisher, $subscriber) = map { PostgreSQL::Test::Cluster->new($_) } 'publisher', 'subscriber';
foreach my $node ($publisher, $subscriber)
{
	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.collect = off
max_worker_processes = 16
wal_retrieve_retry_interval = '100ms'
CONF
	$node->start;
}

sub reading
{
	my ($node, $collector, $metric) = @_;
	return $node->safe_psql('postgres', "SELECT monitoring.collect('{$collector}'); SELECT u.value FROM monitoring.collector_series AS s
		JOIN monitoring.collector_runs AS r USING (name), unnest(s.metrics, r.readings) AS u (metric, value) WHERE u.metric = '$metric'") =~ s/^\d+\n?//r;
}

# ---- a publication of all tables ----

$publisher->safe_psql('postgres', 'CREATE TABLE orders (id int PRIMARY KEY, item text); CREATE PUBLICATION everything FOR ALL TABLES');
my (undef, undef, $warning) = $publisher->psql('postgres', 'CREATE EXTENSION monitoring', on_error_die => 1);
like($warning, qr/WARNING:  publication "everything" is of all tables.*IN SCHEMA/s, 'CREATE EXTENSION warns of it');
(undef, undef, my $refused) = $publisher->psql('postgres', q{DO $$ DECLARE name text; BEGIN
	FOR name IN SELECT p.relation FROM monitoring.retention_policies AS p LOOP
		PERFORM monitoring.ensure_partition(name, timestamptz '2030-01-01');
		COMMIT; -- the worker makes several, too
	END LOOP;
	FOR name IN SELECT c.oid::regclass FROM pg_class AS c WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('r', 'p') LOOP
		BEGIN
			EXECUTE 'DELETE FROM ' || name || ' WHERE false';
		EXCEPTION WHEN object_not_in_prerequisite_state THEN
			RAISE WARNING '%: %', name, SQLERRM;
		END;
	END LOOP; END $$});
is($refused, '', 'rows of all our tables can be deleted all the same');

# ---- a publication of a schema, and a subscriber that monitors itself ----

(undef, undef, $warning) = $subscriber->psql('postgres', 'CREATE EXTENSION monitoring', on_error_die => 1);
is($warning, '', 'without such a publication there is no warning');
$publisher->safe_psql('postgres', q{DROP PUBLICATION everything; CREATE PUBLICATION application FOR TABLES IN SCHEMA public;
	INSERT INTO orders SELECT i, 'first' FROM generate_series(1, 100) AS i; SELECT monitoring.increment('sold_total', 100)});
$subscriber->safe_psql('postgres', 'CREATE TABLE orders (id int PRIMARY KEY, item text)');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION copied CONNECTION '" . $publisher->connstr . " dbname=postgres' PUBLICATION application");
$subscriber->wait_for_subscription_sync($publisher, 'copied');
$publisher->safe_psql('postgres', q{INSERT INTO orders SELECT i, 'then' FROM generate_series(101, 150) AS i; SELECT monitoring.increment('sold_total', 50)});
$publisher->wait_for_catchup('copied');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM orders'), '150', 'rows arrive');
is($publisher->safe_psql('postgres', "SELECT monitoring.value('sold_total', 'sum')"), '150', 'what is recorded stays');
is($subscriber->safe_psql('postgres', "SELECT monitoring.value('sold_total', 'sum')"), '', 'where it was recorded');

# ---- what is known of it on both sides ----

is(reading($publisher, 'replication', 'pg_replication_slots_active'), '1', 'the slot is in use');
is(reading($subscriber, 'subscriptions', 'pg_stat_subscription_running'), '1', 'the subscription runs');
is(reading($subscriber, 'subscriptions', 'pg_stat_subscription_apply_error_count_total'), '0', 'without errors');
$subscriber->safe_psql('postgres', "INSERT INTO orders VALUES (200, 'in the way')");
$publisher->safe_psql('postgres', "INSERT INTO orders VALUES (200, 'blocked')");
ok($subscriber->poll_query_until('postgres', 'SELECT apply_error_count > 0 FROM pg_stat_subscription_stats'), 'it fails');
cmp_ok(reading($subscriber, 'subscriptions', 'pg_stat_subscription_apply_error_count_total'), '>=', 1, 'which the metrics say');
SKIP:
{
	skip 'older servers do not count conflicts', 1 if $subscriber->pg_version < 18;
	cmp_ok(reading($subscriber, 'subscriptions', 'pg_stat_subscription_confl_insert_exists_total'), '>=', 1, 'with the kind of conflict');
}
ok($subscriber->poll_query_until('postgres', q{SELECT count(*) > 0 FROM monitoring.error_issues WHERE sqlstate = '23505'}), 'and so do the errors');
$subscriber->safe_psql('postgres', 'DELETE FROM orders WHERE id = 200');
$publisher->wait_for_catchup('copied');
is($subscriber->safe_psql('postgres', 'SELECT item FROM orders WHERE id = 200'), 'blocked', 'it goes on afterwards');

done_testing();
