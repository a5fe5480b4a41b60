# What the tests of secrets share: a server that logs and counts every statement, files that hold secrets, and ways to see
# where one has got to.
package SecretsNode;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw($stamp $pattern start_secrets_node sql secret_file no_relation_tells dump_of);

our $stamp = 's3cr3t';     # every secret of a test has this in it
our $pattern = 's[3]cr3t'; # which its queries may have

my $node;
my $directory;

# A server with the extension; and the directory of its secrets.
sub start_secrets_node
{
	my ($name) = @_;
	$node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$directory = $node->basedir . '/secrets';
	mkdir $directory;
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'pg_stat_statements, monitoring'
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
monitoring.secrets_directory = '$directory'
max_worker_processes = 16
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length_on_error = -1
pg_stat_statements.track = all
CONF
	$node->start;
	sql('CREATE EXTENSION monitoring; CREATE EXTENSION pg_stat_statements');
	return ($node, $directory);
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Make a file of that directory anew; its path.
sub secret_file
{
	my ($name, $content, $mode) = @_;
	my $path = "$directory/$name";
	unlink $path;
	append_to_file($path, $content);
	chmod $mode // 0600, $path or die $!;
	return $path;
}

# Of the relations whose name is like that, which are more than $least, only the one where secrets are kept has any.
sub no_relation_tells
{
	my ($names, $but, $least) = @_;
	my @relations = split /\n/, sql(qq{
		SELECT c.oid::regclass FROM pg_class AS c
		WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('r', 'v', 'p') AND NOT c.relispartition
			AND c.relname ~ '$names' AND c.relname <> '$but'
		ORDER BY 1});
	my @telling = grep { sql("SELECT count(*) FROM $_ AS t WHERE t::text ~ '$pattern'") ne '0' } @relations;
	is("@telling", '', "no table and no view has a secret but $but");
	cmp_ok(scalar(@relations), '>', $least, '... of all there are');
	return;
}

# The rows of the extension's tables as pg_dump writes them with these options of the session.
sub dump_of
{
	local $ENV{PGOPTIONS} = $_[0];
	return (run_command([ 'pg_dump', '-d', $node->connstr('postgres'), '--extension=monitoring' ]))[0];
}

1;
