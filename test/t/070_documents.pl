# README.md and docs/*.md: their SQL runs, their links lead somewhere, and the
# table of settings is that of the server.
#
# The ```sql blocks of a page are run in order in a database of its own.  A
# comment on the line before a block says what is different about it:
#   <!-- not run: why -->       cannot run here
#   <!-- expect 42809 -->       ends with this SQLSTATE
# and SQL that readers do not need to see stands in a comment of its own:
#   <!-- sql
#   CREATE TABLE orders (...);
#   -->
# Grafana's macros are replaced as Grafana does.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::Bin/../..";
my @pages = ('README.md', map { s{^\Q$root\E/}{}r } sort glob("$root/docs/*.md"));
my %text = map { $_ => slurp_file("$root/$_") } @pages;

my $node = PostgreSQL::Test::Cluster->new('documents');
$node->init;
# Hosts that the documents name are not allowed: nothing leaves this machine.
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pg_stat_statements, monitoring'
monitoring.allowed_hosts = '127.0.0.1'
max_worker_processes = 16
CONF
$node->start;

# Blocks of a page: [line, SQL, SQLSTATE expected or ''].
sub blocks
{
	my ($page) = @_;
	my @blocks;
	while ($text{$page} =~ /^(?:<!-- (not run|expect)(?:: | )(.*?) -->\n)?```sql\n(.*?)^```$|^<!-- sql\n(.*?)^-->$/msg)
	{
		my ($marker, $what, $shown, $hidden, $at) = ($1 // '', $2 // '', $3, $4, $-[0]);
		next if $marker eq 'not run';
		my $line = 1 + (substr($text{$page}, 0, $at) =~ tr/\n//);
		push @blocks, [ $line, $shown // $hidden, $marker eq 'expect' ? $what : '' ];
	}
	return @blocks;
}

sub without_grafana
{
	my ($sql) = @_;
	$sql =~ s/\$__timeFrom\(\)/'2026-01-01T10:00:00Z'/g;
	$sql =~ s/\$__timeTo\(\)/'2026-01-01T16:00:00Z'/g;
	$sql =~ s/\$__timeFilter\((\w+)\)/$1 BETWEEN '2026-01-01T10:00:00Z' AND '2026-01-01T16:00:00Z'/g;
	$sql =~ s/\$__interval\b/15s/g;
	$sql =~ s/\$\{\w+:sqlstring\}/'it''s'/g;
	return $sql;
}

# The worker makes the first partitions some time within the first seconds; GRANT and REVOKE on all tables at that moment
# could fail.  After this it finds nothing to make.
sub make_partitions
{
	$node->safe_psql('page', 'SELECT count(*) FROM monitoring.apply_retention()');
	return;
}

sub create_extension
{
	my ($extension) = @_;
	$node->safe_psql('page', "CREATE EXTENSION $extension");
	make_partitions() if $extension eq 'monitoring';
	return;
}

my $roles = q{SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND NOT rolsuper ORDER BY 1};
my $run = 0;
foreach my $page (@pages)
{
	my @blocks = blocks($page) or next;
	my $all = join "\n", map { $_->[1] } @blocks;
	$node->safe_psql('postgres', 'CREATE DATABASE page');
	foreach my $extension ('pg_stat_statements', 'monitoring')
	{
		create_extension($extension) unless $all =~ /CREATE EXTENSION $extension/;
	}
	foreach my $block (@blocks)
	{
		my ($line, $sql, $expected) = @$block;
		my ($out, $err);
		$node->psql('page', without_grafana($sql), stdout => \$out, stderr => \$err,
			on_error_stop => 1, extra_params => [ '-v', 'VERBOSITY=sqlstate' ]);
		make_partitions() if $sql =~ /CREATE EXTENSION monitoring/;
		my @states = $err =~ /ERROR:\s+(\w{5})/g;
		is("@states", $expected, "$page, line $line") or diag("$sql\n$err");
		$run++;
	}
	$node->safe_psql('postgres', 'DROP DATABASE page WITH (FORCE)');
	$node->safe_psql('postgres', "DROP ROLE \"$_\"") foreach split /\n/, $node->safe_psql('postgres', $roles);
}
cmp_ok($run, '>=', 40, 'the blocks were found');
foreach my $page (@pages)
{
	my $fences = () = $text{$page} =~ /^```sql$/mg;
	my $found = () = $text{$page} =~ /^```sql\n.*?^```$/msg;
	is($found, $fences, "$page: every block has an end");
}

# The table of settings in the README.

my %documented = map { m{^\| `(monitoring\.\w+)` \| ([^|]+) \| ([^|]+) \|} ? ($1 => "$2, $3") : () } split /\n/, $text{'README.md'};
my %settings = map { split /\|/ } split /\n/, $node->safe_psql('postgres', q{
	SELECT name || '|' || CASE
			WHEN vartype = 'string' THEN coalesce(nullif(boot_val, ''), 'none')
			WHEN unit = 'ms' THEN boot_val::int / 1000 || ' s'
			WHEN unit = 'kB' THEN boot_val::int / 1024 || ' MB'
			ELSE boot_val END
		|| ', ' || CASE context WHEN 'postmaster' THEN 'restart' WHEN 'sighup' THEN 'reload'
			WHEN 'user' THEN 'anyone' ELSE context END
	FROM pg_settings WHERE name LIKE 'monitoring.%'});
is_deeply(\%documented, \%settings, 'README.md lists all settings with their defaults and who changes them');

# Links: the file exists, and the heading in it; every guide is linked from the README.

sub anchors
{
	my ($file) = @_;
	my (%anchors, %seen);
	my $fenced = 0;
	foreach my $line (split /\n/, slurp_file($file))
	{
		$fenced = !$fenced if $line =~ /^```/;
		next if $fenced || $line !~ /^#+ (.*)/;
		my $slug = lc $1;
		$slug =~ s/[^\w\- ]//g;
		$slug =~ s/ /-/g;
		$anchors{ $seen{$slug}++ ? "$slug-" . ($seen{$slug} - 1) : $slug } = 1;
	}
	return \%anchors;
}

my (%anchors, %linked, @broken);
foreach my $page (@pages)
{
	my $prose = $text{$page} =~ s/^```.*?^```$//msgr;
	while ($prose =~ /\]\(([^)\s]+)\)/g)
	{
		my $link = $1;
		next if $link =~ m{^https?://};
		my ($file, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
		my $target = $file eq '' ? $page : ($page =~ m{^docs/} ? "docs/$file" : $file);
		$target =~ s{^docs/\.\./}{};
		$linked{$target} = 1 if $page eq 'README.md';
		if (!-e "$root/$target")
		{
			push @broken, "$page: $link";
		}
		elsif (defined $anchor)
		{
			$anchors{$target} //= anchors("$root/$target");
			push @broken, "$page: $link" unless $anchors{$target}{$anchor};
		}
	}
}
is_deeply(\@broken, [], 'links lead somewhere');
is_deeply([ grep { !$linked{$_} } grep { m{^docs/} } @pages ], [], 'README.md links every guide');

$node->stop;
done_testing();
