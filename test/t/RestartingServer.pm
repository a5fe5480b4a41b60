# Queries to a server that may be stopping, down or starting: they fail, but do not end the test.
package RestartingServer;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

our @EXPORT_OK = qw(psql_if_up wait_for_sql);

# Status and output of psql; the status is not 0 if the server was not there. Cluster's psql() dies then, if psql has
# ended before it was given the query.
sub psql_if_up
{
	my ($node, $db, $query) = @_;
	my ($status, $out) = eval { $node->psql($db, $query) };
	return ($status // 2, $out // '');
}

# Poll until a query gives what is expected, true if nothing is said; whether it did.
sub wait_for_sql
{
	my ($node, $db, $query, $expected) = @_;
	$expected //= 't';
	for (1 .. 10 * ($PostgreSQL::Test::Utils::timeout_default || 60))
	{
		my ($status, $out) = psql_if_up($node, $db, $query);
		return 1 if $status == 0 && $out eq $expected;
		usleep(100_000);
	}
	return 0;
}

1;
