# A server whose metrics are those of the test: it neither collects nor counts anything by itself.
package QuietNode;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;

our @EXPORT = qw(new_quiet_node);

# Not started yet. $conf: what the test wants besides; %init: for the cluster's init().
sub new_quiet_node
{
	my ($name, $conf, %init) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(%init);
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'monitoring'
monitoring.collect = off
monitoring.capture_errors = off
monitoring.capture_logins = off
monitoring.capture_changes = off
monitoring.slow_query_threshold = '1h'
monitoring.shared_memory = 16MB
$conf
CONF
	return $node;
}

1;
