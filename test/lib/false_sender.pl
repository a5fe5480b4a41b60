#!/usr/bin/perl
# In place of monitoring_sender, for tests: one that strangers have taken over. It says hello and answers every request
# with what the file false_sender.answer beside it holds in hex, in which TT stands for the request's tag.
use strict;
use warnings;

use FindBin;

binmode STDIN;
binmode STDOUT;
$| = 1;
open my $fh, '<', "$FindBin::Bin/false_sender.answer" or die;
chomp(my $hex = <$fh>);
print pack('L C L', 5, ord('H'), 3);
while (read(STDIN, my $head, 4) == 4)
{
	read(STDIN, my $frame, unpack('L', $head));
	my $tag = unpack('H*', substr($frame, 1, 8));
	print pack('H*', $hex =~ s/TT/$tag/r);
}
