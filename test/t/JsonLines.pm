# Lines of JSON that a program of test/lib is still writing: those that are whole.
package JsonLines;

use strict;
use warnings;
use Exporter 'import';
use JSON::PP;

our @EXPORT = qw(json_lines);

# Of each file what its lines have said so far, and where they end.
my %files;

# What the lines of a file say, in order; none while there is no file.
sub json_lines
{
	my ($file) = @_;
	my $known = $files{$file} //= { said => [], end => 0 };
	if (open my $fh, '<:raw', $file)
	{
		seek $fh, $known->{end}, 0;
		while (my $line = <$fh>)
		{
			last if $line !~ /\n\z/;
			push @{ $known->{said} }, decode_json($line);
			$known->{end} += length $line;
		}
		close $fh;
	}
	return @{ $known->{said} };
}

1;
