# What the tests of the advisor share: a database that is advised when the test asks for it, and ways to change it.
package AdvisedNode;

use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw(create_advised sql run_statements set_thresholds);

my $node;

# The database 'advised' on that server, whose worker gives no advice.
sub create_advised
{
	($node) = @_;
	$node->safe_psql('postgres', 'CREATE DATABASE advised');
	$node->safe_psql('advised', <<'SQL');
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false WHERE name IN ('advise', 'statements');
COMMIT;
SQL
	return;
}

sub sql
{
	my ($query) = @_;
	return $node->safe_psql('advised', $query);
}

# Statements one by one, as fix_sql has them.
sub run_statements
{
	my ($text) = @_;
	/\S/ and sql($_) foreach split /;\n?/, $text =~ s/^--.*$//mgr;
	return;
}

sub set_thresholds
{
	my ($advisor, $json) = @_;
	sql("UPDATE monitoring.advisors SET thresholds = thresholds || '$json' WHERE name = '$advisor'");
	return;
}

1;
