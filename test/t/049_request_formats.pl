# Requests of all kinds of receivers against the formats of their targets: schemas that were written from the targets'
# documentation (test/schemas), mail as Python reads it. Many shapes of notifications, and texts that want out of their place.
use strict;
use warnings;

use FindBin;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $python = '/usr/bin/python3';
plan skip_all => 'python3-jsonschema is not installed' if system("$python -c 'import jsonschema' 2>/dev/null") != 0;

my $node = PostgreSQL::Test::Cluster->new('formats');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'monitoring'
monitoring.external_url = 'https://pg.example.com/mon/'
max_worker_processes = 16
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION monitoring;
CREATE TABLE receiver (kind text, url text, config jsonb);
INSERT INTO receiver VALUES
	('slack', 'https://hooks.example.com/x', '{}'), ('discord', 'https://hooks.example.com/x', '{"username": "pg", "avatar_url": "https://x.example.com/a.png"}'),
	('teams', 'https://hooks.example.com/x', '{}'), ('telegram', NULL, '{"chat_id": -100, "message_thread_id": 3, "bot_token": "t"}'),
	('webhook', 'https://hooks.example.com/x', '{"signing_secret": "s"}'), ('alertmanager', 'http://am.example.com:9093', '{}'),
	('notify', NULL, '{"channel": "alerts"}'), ('sql', NULL, '{"function": "public.f"}'), ('sentry', 'https://o1.example.com/42', '{"public_key": "k", "environment": "prod"}'),
	('pagerduty', NULL, '{"routing_key": "k"}'), ('opsgenie', NULL, '{"api_key": "k", "tags": ["a"]}'),
	('twilio', NULL, '{"username": "AC0123456789abcdef0123456789abcdef", "basic_auth": "b", "from": "+15550001", "to": "+4930123456"}'),
	('email', 'smtp://mail.example.com', '{"from": "Überwachung <mon@example.com>", "to": ["\"Doe, Ann\" <ann@example.com>", "bob@example.com"], "cc": "名前名前名前名前名前名前名前名前 <c@example.com>", "reply_to": "r@example.com"}');

-- texts that want to be something else
CREATE TABLE hostile (name text, t text);
INSERT INTO hostile VALUES ('plain', 'Checkout is slow'), ('quotes', $$"'\ {"a": [1]} %s $1 {{value}} ''$$), ('html', '<script>alert(1)</script></b></a><img src=x onerror=x>&amp;&lt;'),
	('slack', '<!channel> <!here> <@U1> <http://evil.example.com|click> *_~`'), ('discord', '@everyone @here <@1> <#2> <:a:1> ||x|| [a](http://evil.example.com) > # '),
	('telegram', '</b><a href="tg://user?id=1">x</a> <pre'), ('mail', E'x\r\nBcc: evil@example.com\r\n\r\n.\r\nMIME-Version: 2\r\n--monitoring-'), ('words', '=?UTF-8?B?eA==?= =?x?'),
	('controls', E'a\u0001\u0008\u000b\u007f\u0085b\tc\nd'), ('rtl', U&'\202e gnp.exe \2066 \05e9\05dc\05d5\05dd'), ('emoji', U&'\+01F468\200d\+01F469\200d\+01F467 \+01F525'),
	('long', repeat(U&'\+01F525<&"*', 3000)), ('empty', ''), ('space', '   ');

CREATE FUNCTION alert(t text, n integer, status text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('status', status, 'labels', jsonb_build_object('alertname', coalesce(nullif(t, ''), 'Errors'), 'severity', (ARRAY['critical', 'high', 'medium', 'low', 'info'])[n % 5 + 1],
			'instance', t, 'my.label', t, '9' || left(t, 100), 'n' || n), 'annotations', jsonb_build_object('summary', t, 'description', 'because of ' || t, 'runbook_url', 'https://run.example.com/?a=1&b=(2)', 'my-note', t),
		'startsAt', '2026-01-01T00:00:00.000Z', 'endsAt', CASE status WHEN 'firing' THEN '0001-01-01T00:00:00Z' ELSE '2026-01-01T01:00:00.000Z' END,
		'fingerprint', 'f' || n, 'value', '3.5', 'threshold', '2', 'op', '>', 'alert_id', n, 'impact', jsonb_build_object('customers', 3, 'note', t))
$$;
CREATE VIEW notification AS
	SELECT c.name || ', ' || h.name AS name, monitoring.make_payload('r', c.name || h.t, c.status,
			CASE WHEN c.more ? 'digest' THEN '{}' ELSE jsonb_build_object('alertname', c.alerts -> 0 -> 'labels' -> 'alertname') END, c.alerts, c.more)
		|| '{"idempotencyKey": "01234567-89ab-cdef-0123-456789abcdef", "id": 7}' AS payload
	FROM hostile AS h
	CROSS JOIN LATERAL (VALUES
		('firing', 'firing', jsonb_build_array(alert(h.t, 1, 'firing')), '{"reason": "first notification"}'::jsonb),
		('resolved', 'resolved', jsonb_build_array(alert(h.t, 1, 'resolved')), '{}'),
		('acknowledged', 'firing', jsonb_build_array(alert(h.t, 1, 'firing') || '{"acknowledged": {"by": "ann"}}'), '{"reason": "acknowledged"}'),
		('grouped', 'firing', (SELECT jsonb_agg(alert(h.t, i, CASE WHEN i % 7 = 0 THEN 'resolved' ELSE 'firing' END)) FROM generate_series(1, 12) AS i), '{}'),
		('truncated', 'firing', (SELECT jsonb_agg(alert(h.t, i, 'firing')) FROM generate_series(1, 30) AS i), '{"truncatedAlerts": 400}'),
		('digest', 'firing', (SELECT jsonb_agg(alert(h.t, i, 'firing')) FROM generate_series(1, 3) AS i), '{"digest": {"route": "low"}, "reason": "digest"}')) AS c (name, status, alerts, more)
	WHERE h.name NOT IN ('emoji', 'space') OR c.name = 'firing'
	UNION ALL
	SELECT 'test', monitoring.test_notification('r', 1, '2026-01-01') || '{"idempotencyKey": "01234567-89ab-cdef-0123-456789abcdef", "id": 7}'
	UNION ALL
	SELECT 'message, ' || h.name, jsonb_build_object('title', h.t, 'text', h.t, 'status', 'firing', 'receiver', 'r', 'groupKey', 'g', 'alerts', '[]'::jsonb, 'groupLabels', '{}'::jsonb,
		'commonLabels', '{}'::jsonb, 'commonAnnotations', '{}'::jsonb, 'truncatedAlerts', 0, 'idempotencyKey', 'k', 'id', 1) FROM hostile AS h WHERE h.name NOT IN ('empty', 'space');
CREATE FUNCTION requests(templates jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR r IN SELECT v.*, k.function, CASE WHEN '{title,text}'::text[] <@ k.config_keys THEN templates ELSE '{}' END AS more
		FROM receiver AS v JOIN monitoring.receiver_kinds AS k ON k.kind = v.kind LOOP
		RETURN QUERY EXECUTE format('SELECT (jsonb_build_object(''kind'', $1, ''case'', n.name) || to_jsonb(f))::text FROM notification AS n CROSS JOIN LATERAL %s($2, n.payload) AS f', r.function)
			USING r.kind, jsonb_build_object('name', 'r', 'kind', r.kind, 'url', r.url, 'config', r.config || r.more);
	END LOOP;
END $$;
SQL

sub requests { return $node->safe_psql('postgres', "SELECT requests('$_[0]')"); }
sub check
{
	my ($lines) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ $python, "$FindBin::Bin/../lib/check_requests.py", "$FindBin::Bin/../schemas" ], '<', \$lines, '>', \$out, '2>', \$err)
		or die "check_requests.py failed: $err";
	return decode_json($out);
}

my $plain = requests('{}');
my $result = check($plain);
is_deeply($result->{wrong}, [], 'every request is as its target wants it');
is(scalar(keys %{ $result->{checked} }), 14, 'all formats were seen');
cmp_ok($result->{checked}{$_}, '>=', 10, "$_: $result->{checked}{$_} requests") for sort keys %{ $result->{checked} };
cmp_ok($result->{mutations}, '>=', 1000, "$result->{mutations} mutations of required members were refused");

$result = check(requests('{"title": "{{severity}} {{summary}} {{labels.instance}}", "text": "{{summary}} {{description}} {{impact}} {{labels.instance}} {{annotations.my-note}} {{runbook_url}}"}'));
is_deeply($result->{wrong}, [], 'so is every request with templates');

# The checks beside the schemas find what they are for.
my %breaks = (
	'mention' => [ 'discord', 'discord', sub { $_[0] =~ s/\\+@/@/gr } ],
	'unescaped text' => [ 'slack', 'slack', sub { $_[0] =~ s/&lt;!/<!/gr } ],
	'markup' => [ 'telegram', 'telegram', sub { $_[0] =~ s/&lt;\/b/<\/b/gr } ],
	'a line does not end with CR LF' => [ 'email', 'mail', sub { $_[0] =~ s/\\r\\n/\\n/gr } ]);
for my $what (sort keys %breaks)
{
	my ($kind, $name, $break) = @{ $breaks{$what} };
	my ($line) = grep { /"kind": "$kind"/ && /"case": "firing, $name"/ } split /\n/, $plain;
	my $found = check($break->($line))->{wrong};
	ok((grep { /\Q$what\E/ } @$found), "found when it is there: $what");
}

$node->stop;
done_testing();
