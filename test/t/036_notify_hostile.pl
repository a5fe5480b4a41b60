# Every kind of hostile receiver at the same time: what becomes of each one's notification, and that evaluation and the good
# receiver beside them do not wait for any.
use strict;
use warnings;

use NotifyNode qw(:DEFAULT sql);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;

my $node = new_node('hostile', "monitoring.allowed_hosts = '127.0.0.1, localhost, 169.254.169.254'\n");
$node->start;
sql('CREATE EXTENSION monitoring');
my $url = start_receiver();
my $closed = PostgreSQL::Test::Cluster::get_free_port();

# name, url, what becomes of its notification as "state|http_status|error"
my $given_up = '; given up (attempts: 2)';
my @hostile = (
	[ 'refuses',         "http://127.0.0.1:$closed/",   qr/^dead\|\|Failed to connect to 127\.0\.0\.1.*\Q$given_up\E$/ ],
	[ 'hangs',           "$url/hang",                   qr/^dead\|\|no response within 3 s\Q$given_up\E$/ ],
	[ 'resets',          "$url/reset",                  qr/^dead\|\|Empty reply from server\Q$given_up\E$/ ],
	[ 'resets mid-body', "$url/resetbody",              qr/^sent\|200\|$/ ],
	[ 'short body',      "$url/short",                  qr/^sent\|200\|$/ ],
	[ 'drips headers',   "$url/dripheaders",            qr/^dead\|\|no response within 3 s\Q$given_up\E$/ ],
	[ 'drips',           "$url/drip",                   qr/^sent\|200\|$/ ],
	[ 'endless body',    "$url/endless",                qr/^sent\|200\|$/ ],
	[ 'endless headers', "$url/endlessheaders",         qr/^dead\|\|the response has more than 64 kB of headers\Q$given_up\E$/ ],
	[ '1 MB of headers', "$url/bigheaders",             qr/^dead\|\|the response has more than 64 kB of headers\Q$given_up\E$/ ],
	[ 'not HTTP',        "$url/garbage",                qr/^dead\|\|.+\Q$given_up\E$/ ],
	[ 'not UTF-8',       "$url/latin",                  qr/^dead\|503\|HTTP status 503\Q$given_up\E$/ ],
	[ '429 in seconds',  "$url/retry/2",                qr/^sent\|200\|$/, 2 ],
	[ '429 with a date', "$url/retry-date/3",           qr/^sent\|200\|$/, 1.5 ],
	[ '429 as discord',  "$url/later/discord",          qr/^sent\|200\|$/, 1.2 ],
	[ '429 as telegram', "$url/later/telegram",         qr/^sent\|200\|$/, 2 ],
	[ '500 once',        "$url/fail/1/500",             qr/^sent\|200\|$/ ],
	[ '500 always',      "$url/status/500",             qr/^dead\|500\|HTTP status 500\Q$given_up\E$/ ],
	[ 'redirects',       "$url/redirect-meta",          qr/^dead\|302\|HTTP status 302: redirects are not followed$/ ],
	[ 'is elsewhere',    'http://10.1.2.3/',            qr/^dead\|\|http:\/\/10\.1\.2\.3:80 is not in monitoring\.allowed_hosts$/ ],
	[ 'no TLS',          ($url =~ s/http/https/r) . '/x', qr/^dead\|\|.*SSL.*\Q$given_up\E$/i ]);
# Those that answer have all the time that a busy machine needs.
my $patient = '{"timeout_seconds": 60, "connect_timeout_seconds": 60, "max_attempts": 2}';
my $impatient = '{"timeout_seconds": 3, "max_attempts": 2}';
my %id;
sql("SELECT monitoring.create_receiver('good', 'webhook', '$url/good')");
for my $case (@hostile)
{
	my $config = $case->[0] =~ /hangs|drips/ ? $impatient : $patient;
	sql("SELECT monitoring.create_receiver('$case->[0]', 'webhook', '$case->[1]', '$config')");
	$id{ $case->[0] } = sql("SELECT monitoring.test_receiver('$case->[0]')");
	# More of those that keep connections: as many as a receiver may have at once.
	sql("SELECT monitoring.test_receiver('$case->[0]') FROM generate_series(1, 10)") if $case->[0] =~ /hangs|drips|refuses/;
}

# An alert on the way through all of that, again and again.
sql(q{SELECT monitoring.create_alert_rule('queue', 'queue', 'last', '1 hour', '>', 1, severity => 'critical', receivers => '{good}', keep_firing_for => '0')});
my @took;
for my $round (1 .. 6)
{
	my $value = $round % 2 ? 5 : 0;
	my $begin = time();
	sql("SELECT monitoring.set_gauge('queue', $value)");
	usleep(20_000) until scalar(requests('/good')) >= $round || time() > $begin + $timeout;
	push @took, time() - $begin;
}
is(scalar(requests('/good')), 6, 'alerts come through to the good receiver') or diag("@took");
# one after the other those that hang would take a minute and more
cmp_ok((sort { $a <=> $b } @took)[-1], '<', 30, '... each within seconds of the value') or diag("@took");
is(sql(q{SELECT count(*) FROM monitoring.jobs WHERE last_state = 'failed'}), 0, 'no job fails');

for my $case (@hostile)
{
	my ($name, $where, $pattern, $pause) = @$case;
	my $query = "SELECT concat_ws('|', state, coalesce(http_status::text, ''), coalesce(error, '')) FROM monitoring.notifications WHERE id = $id{$name}";
	my $got = '';
	my $end = time() + $timeout;
	usleep(100_000) until ($got = sql($query)) =~ /^(sent|dead)/ || time() > $end;
	like($got, $pattern, $name);
	next if !$pause;
	my ($first, $second) = requests($where =~ s/^\Q$url\E//r);
	cmp_ok($second->{time} - $first->{time}, '>=', $pause, '... and not before it said so');
}
is(scalar(requests('/latest/meta-data/')), 0, 'no redirect was followed');

# A burst of 500: what fails does not wait for what fails, no attempt is made in vain while it lasts, and all of it arrives.
# 16 are more than are tried before 8 failures are known; the pauses, which grow with each, are cut short.
sql("SELECT monitoring.create_receiver('bursts', 'webhook', '$url/fail/16/500', '{\"breaker_failures\": 8, \"max_attempts\": 50}')");
sql(q{SELECT monitoring.send('bursts', 'message ' || i) FROM generate_series(1, 30) AS i});
my $end = time() + $timeout;
usleep(50_000) until sql(q{SELECT state FROM monitoring.receiver_health WHERE receiver = 'bursts'}) eq 'broken' || time() > $end;
cmp_ok(scalar(requests('/fail/16/500')), '<', 30, 'a burst of 500 opens the breaker before all have been tried');
my $before = requests('/good');
sql("SELECT monitoring.test_receiver('good')");
usleep(50_000) until requests('/good') > $before || time() > $end;
is(scalar(requests('/good')), $before + 1, '... and holds up nobody else');
while (sql(q{SELECT count(*) FROM monitoring.notifications WHERE receiver = 'bursts' AND state = 'sent'}) < 30 && time() < $end)
{
	sql(q{UPDATE monitoring.receiver_states SET paused_until = NULL WHERE receiver = 'bursts'});
	usleep(100_000);
}
is(sql(q{SELECT count(*) FILTER (WHERE state = 'sent'), sum(attempts), max(http_status) FROM monitoring.notifications WHERE receiver = 'bursts'}), '30|46|200',
	'all of them arrive, after no more attempts than failures');
is(sql(q{SELECT state, failures FROM monitoring.receiver_health WHERE receiver = 'bursts'}), 'ok|0', '... and the breaker is closed');

# Names that resolve to what is not public, once that is forbidden.
sql(q{ALTER SYSTEM SET monitoring.allow_private_networks = off});
sql('SELECT pg_reload_conf()');
sql("SELECT monitoring.create_receiver('named', 'webhook', '" . ($url =~ s/127\.0\.0\.1/localhost/r) . "/named', '$patient')");
sql("SELECT monitoring.create_receiver('metadata', 'webhook', 'http://169.254.169.254/latest/meta-data/', '$patient')");
$node->poll_query_until('postgres', q{SELECT current_setting('monitoring.allow_private_networks') = 'off'});
for my $name ('named', 'metadata')
{
	my $got = '';
	my $end = time() + $timeout;
	# The notifier may still be between two looks at its settings.
	while ($got !~ /is not public/ && time() < $end)
	{
		my $n = sql("SELECT monitoring.test_receiver('$name')");
		$node->poll_query_until('postgres', "SELECT state IN ('sent', 'dead') FROM monitoring.notifications WHERE id = $n");
		$got = sql("SELECT state, error FROM monitoring.notifications WHERE id = $n");
	}
	like($got, qr/^dead\|address \S+ is not public and monitoring\.allow_private_networks is off$/, "not public: $name");
}

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal 11|malformed frame/, 'no crash, and the sender held');
stop_receiver();
done_testing();
