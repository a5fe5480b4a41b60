# Side by side with Prometheus: a rule file and series made at random (from a seed) go to us and to promtool, both on virtual
# time. After every step promtool is told which alerts we have, pending or firing, with their labels and since when, and says
# whether Prometheus has the same. test/run installs Prometheus.
#
# What is known to differ is left out: samples come every two minutes, so that no window of an odd number of minutes begins at
# one; counters have grown before the first step, and are compared with numbers far from what extrapolation makes of them; the
# end of a series is a gap, since only Prometheus has marks for it; everything has been recorded once before it is missed. The
# last part shows the differences that the guide names.

use strict;
use warnings;

use JSON::PP;
use List::Util qw(min max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no Prometheus to compare with' unless grep { -x "$_/promtool" } split(/:/, $ENV{PATH});

my $seed = $ENV{SEED} // 20260105;
my $cases = 100;
my $steps = 45;
my $minutes = 2; # between steps
my $base = 1_000_000;
my $directory = $PostgreSQL::Test::Utils::tmp_check;
my $json = JSON::PP->new->canonical;

srand($seed);
sub any { return $_[ int rand @_ ]; }

# ---- series ----

my (@samples, @series); # what is recorded at each step; what promtool reads

sub selector
{
	my ($metric, $labels) = @_;
	return $metric . '{' . join(',', map { qq($_="$labels->{$_}") } sort keys %$labels) . '}';
}

# Values that stay for some steps; undef is a gap, now and then a long one.
sub walk
{
	my ($first, @values) = @_;
	my @walk = ($first);
	while (@walk < $steps)
	{
		my $value = rand() < 0.15 ? undef : any(@values);
		push @walk, ($value) x (1 + int rand(defined $value ? 5 : 6));
	}
	return @walk[ 0 .. $steps - 1 ];
}

sub gauge
{
	my ($metric, $labels, @walk) = @_;
	push @series, [ selector($metric, $labels), map { $_ // '_' } @walk ];
	for my $step (grep { defined $walk[$_] } 0 .. $#walk)
	{
		push @{ $samples[$step] }, { metric => $metric, labels => $labels, kind => 'gauge', value => $walk[$step], ago => 0 };
	}
	return;
}

# What is counted before a step is recorded a minute and a half before it: Prometheus has it in all windows that reach back
# beyond the sample before that.
sub counter
{
	my ($metric, $labels, @walk) = @_;
	my $total = $base;
	push @series, [ selector($metric, $labels), map { $total += $_ // 0 } @walk ];
	for my $step (grep { $walk[$_] } 0 .. $#walk)
	{
		push @{ $samples[$step] }, { metric => $metric, labels => $labels, kind => 'counter', value => $walk[$step], ago => 90 };
	}
	return;
}

# A hundred observations of 0.1 or 3 seconds, or none.
sub distribution
{
	my ($metric, $labels, @walk) = @_;
	my %total = (fast => $base, all => $base, sum => $base);
	my %values;
	for my $step (0 .. $#walk)
	{
		if (my $value = $walk[$step])
		{
			$total{fast} += 100 if $value < 1;
			$total{all} += 100;
			$total{sum} += 100 * $value;
			push @{ $samples[$step] }, map { { metric => $metric, labels => $labels, kind => 'distribution', value => $value, ago => 90 } } 1 .. 100;
		}
		push @{ $values{$_} }, $total{$_} for keys %total;
	}
	for my $bucket ([ '0.5', 'fast' ], [ '1', 'fast' ], [ '5', 'all' ], [ '+Inf', 'all' ])
	{
		push @series, [ selector("${metric}_bucket", { %$labels, le => $bucket->[0] }), @{ $values{ $bucket->[1] } } ];
	}
	push @series, [ selector("${metric}_count", $labels), @{ $values{all} } ], [ selector("${metric}_sum", $labels), @{ $values{sum} } ];
	return;
}

# ---- cases ----

my @hosts = map { my $host = $_; map { { host => $host, disk => $_ } } qw(x y) } qw(a b);

sub gauges
{
	my ($metric, @values) = @_;
	gauge($metric, $_, walk(@values)) for @hosts;
	return $metric;
}

sub counters
{
	my ($metric, @values) = @_;
	counter($metric, $_, walk(0, @values)) for @hosts;
	return $metric;
}

# None but of something: there is no ratio to zero here.
sub errors
{
	my ($metric) = @_;
	for my $labels (@hosts)
	{
		my @failed = walk(0, 0, 100, 900);
		counter("${metric}_failed_total", $labels, @failed);
		counter("${metric}_total", $labels, 0, map { $_ || rand() < 0.6 ? 1000 : 0 } @failed[ 1 .. $#failed ]);
	}
	return;
}

sub distributions
{
	my ($metric) = @_;
	distribution($metric, $_, walk(0, 0, 0.1, 3)) for @hosts;
	return $metric;
}

# Each makes the series of a case and returns its expression.
my @kinds = (
	[ 'comparisons' => sub { return gauges($_[0], 5, 5, 10, 15) . ' ' . any('>', '>=', '<', '<=', '==', '!=') . ' 10' } ],
	[ 'number first' => sub { return '10 ' . any('<', '>=') . ' ' . gauges($_[0], 5, 10, 15) } ],
	[ 'matchers' => sub { return gauges($_[0], 5, 5, 15) . '{' . any('disk!="x"', 'host="a"', 'host=~"a|c",disk!~"[yz]"', 'none="",disk=~"x?"') . '} > 10' } ],
	[ 'arithmetic' => sub { return any('-', '100 - 2 * ', '3 + ') . gauges($_[0], 5, 10, 15) . any(' * 2', ' / 5', ' - 1') . any(' > ', ' < ') . any(-20, 0, 12, 85) } ],
	[ 'sums' => sub { my $m = gauges($_[0], 5, 5, 10, 15); return any('sum', 'avg', 'min', 'max') . any(' by (host) ', ' by (disk) ', ' ') . "($m)" . any(' > ', ' <= ') . any(9, 12, 20, 30) } ],
	[ 'counts of series' => sub { my $m = gauges($_[0], 5, 10); return 'count' . any(' by (host) ', ' ') . "($m)" . any(' < ', ' >= ') . any(2, 3) } ],
	[ 'windows' => sub { my $m = gauges($_[0], 5, 10, 15); return any('max', 'min', 'avg', 'last') . "_over_time($m\[" . any('3m', '5m', '9m') . ']) ' . any('>', '<') . ' 9' } ],
	[ 'sums of windows' => sub { return 'sum_over_time(' . gauges($_[0], 5, 10, 15) . '[5m]) > 25' } ],
	[ 'counts of samples' => sub { return 'count_over_time(' . gauges($_[0], 1, 1) . '[7m]) > ' . any(1, 2) } ],
	[ 'sums over windows' => sub { return 'sum by (host) (max_over_time(' . gauges($_[0], 5, 10, 15) . '[5m])) > 24' } ],
	[ 'ratios' => sub { my ($m, $n) = (gauges($_[0], 5, 10, 15), gauges("$_[0]_of", 20, 20, 40)); return any("$m / $n", "($n - $m) / $n", "1 - $m / $n") . any(' > ', ' < ') . any(0.3, 0.6) } ],
	[ 'guarded ratios' => sub { my ($m, $n) = (gauges($_[0], 5, 15), gauges("$_[0]_of", 20, 0, 20)); return "$m / $n * 100 > 50 and $n > 0" } ],
	[ 'increases' => sub { my $m = counters("$_[0]_total", 0, 0, 100); return any('increase', 'rate') . "($m\[5m]) > 0" } ],
	[ 'sums of increases' => sub { my $m = counters("$_[0]_total", 0, 0, 100, 10000); return 'sum' . any(' by (host) ', ' ') . "(increase($m\[5m])) > " . any(0, 30, 1500) } ],
	[ 'largest rate' => sub { return 'max by (disk) (rate(' . counters("$_[0]_total", 0, 0, 100) . '[5m])) > 0' } ],
	[ 'nothing counted' => sub { counter("$_[0]_total", $_, 0, 1000, (walk(0, (0) x 5, 100))[ 2 .. $steps - 1 ]) for @hosts; return "sum(increase($_[0]_total[5m])) < 10" } ],
	[ 'rates of errors' => sub { errors($_[0]); my $by = any(' by (host) ', ' '); return "sum$by(rate($_[0]_failed_total[5m])) / sum$by(rate($_[0]_total[5m])) > 0.4" } ],
	[ 'percentiles' => sub { return 'histogram_quantile(0.9, sum by (le, host) (rate(' . distributions($_[0]) . '_bucket[5m]))) > 0.75' } ],
	[ 'percentiles of each' => sub { return 'histogram_quantile(0.9, rate(' . distributions($_[0]) . '_bucket[5m])) > 0.75' } ],
	[ 'means' => sub { my $m = distributions($_[0]); my $by = any(' by (host) ', ' '); return "sum$by(rate(${m}_sum[5m])) / sum$by(rate(${m}_count[5m])) > 1" } ],
	[ 'absence' => sub { gauge($_[0], { host => 'a' }, walk(1, (1) x 2)); return "absent($_[0]\{host=\"a\"})" } ],
	[ 'absence for long' => sub { gauge($_[0], { host => 'a' }, walk(1, 1)); return "absent_over_time($_[0]\[9m])" } ]);

my @rules;
for my $case (1 .. $cases)
{
	my ($what, $make) = @{ $kinds[ ($case - 1) % @kinds ] };
	push @rules, { what => $what, alert => sprintf('Case%03d', $case), expr => $make->(sprintf('side_%03d', $case)),
		for => any('0s', '0s', '2m', '3m', '5m', '9m'), keep_firing_for => any('0s', '0s', '2m', '3m', '7m'), severity => any(qw(critical high medium low info)) };
}
my $file = "groups:\n- name: side by side\n  rules:\n" . join '', map { <<"YAML" } @rules;
  - alert: $_->{alert}
    expr: '$_->{expr}'
    for: $_->{for}
    keep_firing_for: $_->{keep_firing_for}
    labels: {severity: $_->{severity}, case: $_->{alert}}
YAML

# ---- we ----

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
max_worker_processes = 16
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
BEGIN;
CREATE EXTENSION monitoring;
UPDATE monitoring.jobs SET enabled = false WHERE name = 'evaluate_alerts';
COMMIT;
CREATE TABLE start AS SELECT date_trunc('hour', now()) - interval '3 hours' AS t;
CREATE TABLE seen (step int, rule text, labels jsonb, state text, since float8);
CREATE FUNCTION step(step int, samples jsonb) RETURNS void LANGUAGE sql AS $$
	SELECT monitoring.record_batch(array_agg(s.metric), array_agg(s.value), array_agg(s.labels), array_agg(s.kind), array_agg(t + step * interval '2 minutes' - s.ago * interval '1 second'))
	FROM start, jsonb_to_recordset(samples) AS s (metric text, value float8, labels jsonb, kind text, ago int)
$$;
CREATE FUNCTION look(step int) RETURNS void LANGUAGE sql AS $$
	SELECT monitoring.flush();
	SELECT monitoring.evaluate_alerts(t + step * interval '2 minutes') FROM start;
	INSERT INTO seen
	SELECT step, a.rule, a.labels || jsonb_build_object('alertname', a.rule, 'severity', a.severity), a.state, extract(epoch FROM a.active_at - t)
	FROM monitoring.alerts AS a, start WHERE a.state IN ('pending', 'firing')
$$;
SQL

sub quoted { my ($text) = @_; return "'" . $text =~ s/'/''/gr . "'"; }

my $imported = $node->safe_psql('postgres', "SELECT rule || ': ' || status || coalesce(', ' || reason, '') FROM monitoring.import_prometheus_rules(" . quoted($file) . ") WHERE status <> 'imported'");
is($imported, '', 'every rule is imported');
$node->safe_psql('postgres', join "\n", map { "SELECT step($_, " . quoted($json->encode($samples[$_] // [])) . "); SELECT look($_);" } 0 .. $steps - 1);
my $seen = decode_json($node->safe_psql('postgres', q{SELECT coalesce(json_agg(s), '[]') FROM seen AS s}));
is($node->safe_psql('postgres', 'SELECT count(*) FROM monitoring.alert_rules WHERE last_error IS NOT NULL'), '0', 'no rule has an error');

# ---- and they ----

# The samples that Prometheus must have at a step, of an alert of ours.
sub alerts_sample { my ($s) = @_; return { labels => selector('ALERTS', { %{ $s->{labels} }, alertstate => $s->{state} }), value => 1 }; }
sub since_sample { my ($s) = @_; return { labels => selector('ALERTS_FOR_STATE', $s->{labels}), value => 0 + $s->{since} }; }

# What promtool says of an expectation; false ones make it say what it got.
sub promtool
{
	my ($name, $rules, @tests) = @_;
	my ($out, $err);
	PostgreSQL::Test::Utils::append_to_file("$directory/$name.rules.yml", $rules);
	# JSON is YAML
	PostgreSQL::Test::Utils::append_to_file("$directory/$name.test.yml", $json->encode({
		rule_files => ["$name.rules.yml"], evaluation_interval => "${minutes}m",
		tests => [ { interval => "${minutes}m", input_series => [ map { my ($s, @v) = @$_; { series => $s, values => join(' ', @v) } } @series ],
			promql_expr_test => \@tests } ] }));
	my $good = IPC::Run::run([ 'promtool', 'test', 'rules', "$directory/$name.test.yml" ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(500));
	return ($good, "$out$err");
}

sub expectations
{
	my (@alerts) = @_;
	my %at;
	push @{ $at{ $_->{labels}{case} }[ $_->{step} ] }, $_ for @alerts;
	my @tests;
	for my $rule (@rules)
	{
		for my $step (0 .. $steps - 1)
		{
			my @now = @{ $at{ $rule->{alert} }[$step] // [] };
			push @tests, { expr => qq(ALERTS{case="$rule->{alert}"}), eval_time => $step * $minutes . 'm', exp_samples => [ map { alerts_sample($_) } @now ] },
				{ expr => qq(ALERTS_FOR_STATE{case="$rule->{alert}"}), eval_time => $step * $minutes . 'm', exp_samples => [ map { since_sample($_) } @now ] };
		}
	}
	return @tests;
}

my ($good, $said) = promtool('side', $file, expectations(@$seen));
my %differs;
# one block for each expectation that does not hold
for my $block (split /(?=expr: ")/, $said)
{
	$differs{$1} //= $block if $block =~ /case=\\?"(Case\d+)/;
}
for my $rule (@rules)
{
	my $of = grep { $_->{rule} eq $rule->{alert} } @$seen;
	ok(!$differs{ $rule->{alert} }, "$rule->{alert}, $rule->{what}: $rule->{expr}, for $rule->{for}, keep_firing_for $rule->{keep_firing_for} (seen $of times)")
		or diag($differs{ $rule->{alert} });
}
ok($good, 'Prometheus has the same alerts with the same labels since the same times at every step') or diag(substr($said, 0, 4000));

# ---- and back again ----

# Our rules as a rule file of ours: Prometheus has the same alerts by it.
is($node->safe_psql('postgres', q{SELECT string_agg(rule || ': ' || status || coalesce(', ' || reason, ''), E'\n') FROM monitoring.export_prometheus_rules() WHERE status <> 'exported' OR reason IS NOT NULL}),
	'', 'every rule is exported');
my $exported = $node->safe_psql('postgres', 'SELECT monitoring.prometheus_rule_file()');
my %ours = map { $_->{alert} => $_->{expr} } map { @{ $_->{rules} } } @{ decode_json($exported)->{groups} };
($good, $said) = promtool('exported', $exported, expectations(@$seen));
%differs = ();
for my $block (split /(?=expr: ")/, $said)
{
	$differs{$1} //= $block if $block =~ /case=\\?"(Case\d+)/;
}
is(join("\n", map { "$_->{alert}: $_->{expr} became $ours{ $_->{alert} }: $differs{ $_->{alert} }" } grep { $differs{ $_->{alert} } } @rules), '', 'what was exported says the same to Prometheus');
ok($good, 'all of it') or diag(substr($said, 0, 2000));

# ---- that this can fail, and that it was about something ----

my %states = map { $_ => scalar grep { $_->{state} eq 'pending' } @$seen } 'pending';
my $quiet = grep { my $rule = $_; !grep { $_->{rule} eq $rule->{alert} } @$seen } @rules;
my $ends = $node->safe_psql('postgres', q{SELECT count(*) FROM monitoring.alert_history WHERE to_state = 'resolved'});
cmp_ok($states{pending}, '>', 300, 'alerts were pending');
cmp_ok($ends, '>', 300, 'alerts were resolved');
cmp_ok($quiet, '<', $cases / 5, 'few rules never had an alert');
note("seed $seed: " . @$seen . " alerts at $steps steps, $states{pending} of them pending, $ends ends, $quiet rules without an alert");

# one alert each that is changed before Prometheus is asked
my @firing = do { my %of; grep { $_->{state} eq 'firing' && $_->{step} > 3 && !$of{ $_->{rule} }++ } @$seen };
my %change = (
	'an alert that is missing' => sub { return; },
	'another state' => sub { return { %{ $_[0] }, state => 'pending' } },
	'another label' => sub { return { %{ $_[0] }, labels => { %{ $_[0]{labels} }, more => 'x' } } },
	'another time' => sub { return { %{ $_[0] }, since => $_[0]{since} + 120 } });
my %changed = map { $_ => shift @firing } sort keys %change;
my @few = map {
	my $what = $_;
	my @of = map { $_ == $changed{$what} ? $change{$what}->($_) : $_ } grep { $_->{rule} eq $changed{$what}{rule} } @$seen;
	grep { $_->{expr} =~ /"$changed{$what}{rule}"/ } expectations(@of)
} sort keys %changed;
(undef, $said) = promtool('changed', $file, @few);
like($said, qr/case=\\?"$changed{$_}{rule}/, "$_ shows") for sort keys %changed;

# ---- differences ----

# What Prometheus and we have at the end of the series; empty: no alert.
@series = ();
@samples = ();
gauge('differ_gauge', $hosts[0], (1) x $steps);
counter('differ_total', $hosts[0], 0, (100) x ($steps - 1));
my @differences = (
	[ 'labels that the selector fixes', 'sum by (host) (differ_gauge{disk="x"}) > 0', { host => 'a' }, { host => 'a', disk => 'x' } ],
	[ 'extrapolation of increases', 'increase(differ_total[5m]) > 220', $hosts[0], undef ],
	[ 'what was never recorded', 'absent(differ_unknown)', {}, undef ]);
$file = "groups:\n- name: differences\n  rules:\n" . join '', map { "  - {alert: Differ$_, expr: '$differences[$_][1]', labels: {case: Differ$_, severity: high}}\n" } 0 .. $#differences;
is($node->safe_psql('postgres', 'SELECT string_agg(DISTINCT status, $$,$$) FROM monitoring.import_prometheus_rules(' . quoted($file) . ')'), 'imported', 'the rules that differ are imported');
$node->safe_psql('postgres', join "\n", 'TRUNCATE seen;', (map { "SELECT step($_, " . quoted($json->encode($samples[$_] // [])) . ');' } 0 .. $steps - 1), "SELECT look($steps - 1);");
$seen = decode_json($node->safe_psql('postgres', q{SELECT coalesce(json_agg(s), '[]') FROM seen AS s WHERE rule LIKE 'Differ%'}));
for my $number (0 .. $#differences)
{
	my ($what, $expr, $theirs, $ours) = @{ $differences[$number] };
	my %more = (alertname => "Differ$number", case => "Differ$number", severity => 'high');
	my @sample = $theirs ? { labels => selector('ALERTS', { %$theirs, %more, alertstate => 'firing' }), value => 1 } : ();
	my ($same, $got) = promtool("differ$number", $file, { expr => qq(ALERTS{case="Differ$number"}), eval_time => ($steps - 1) * $minutes . 'm', exp_samples => \@sample });
	ok($same, "$what, in Prometheus") or diag($got);
	is_deeply([ map { $_->{labels} } grep { $_->{rule} eq "Differ$number" } @$seen ], [ $ours ? { %$ours, %more } : () ], "$what, here");
}

# ---- packs ----

# Whatever of the packs can be said in PromQL is a rule file that Prometheus takes.
$node->safe_psql('postgres', q{SELECT count(monitoring.drop_alert_rule(name)) FROM monitoring.alert_rules});
$node->safe_psql('postgres', q{SELECT count(monitoring.define_metric(m, CASE WHEN m ~ '_total$' THEN 'counter' WHEN m ~ '_seconds$' AND fn IN ('count', 'avg') THEN 'distribution' ELSE 'gauge' END))
	FROM (SELECT DISTINCT ON (1) n.m, n.fn FROM monitoring.rule_packs AS p CROSS JOIN LATERAL jsonb_array_elements(p.document -> 'rules') AS r (rule)
		CROSS JOIN LATERAL (VALUES (r.rule ->> 'metric', r.rule ->> 'fn'), (r.rule -> 'params' ->> 'metric', r.rule -> 'params' ->> 'fn')) AS n (m, fn)
		WHERE n.m IS NOT NULL AND n.fn !~ '^p[0-9]' AND n.m !~ '^(page|web_vitals)' ORDER BY 1, n.fn = 'count' DESC) AS k});
$node->safe_psql('postgres', q{SELECT count(r) FROM monitoring.rule_packs AS p CROSS JOIN LATERAL monitoring.install_rules(p.pack) AS r});
my $number = $node->safe_psql('postgres', q{SELECT count(*) FROM monitoring.export_prometheus_rules() WHERE status = 'exported'});
cmp_ok($number, '>', 60, 'most rules of the packs are exported');
PostgreSQL::Test::Utils::append_to_file("$directory/packs.yml", $node->safe_psql('postgres', 'SELECT monitoring.prometheus_rule_file()'));
my ($checked, $complaint);
IPC::Run::run([ 'promtool', 'check', 'rules', "$directory/packs.yml" ], '<', \undef, '>', \$checked, '2>', \$complaint, IPC::Run::timeout(500));
like($checked, qr/SUCCESS: $number rules found/, 'Prometheus takes all of them') or diag("$checked$complaint");

$node->stop;
done_testing();
