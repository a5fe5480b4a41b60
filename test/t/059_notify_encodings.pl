# Notifications from databases that are not UTF-8: of LATIN1 they come out as they are, and what a database of encoding SQL_ASCII
# holds, which can be any bytes, keeps no alert from anybody.
use strict;
use warnings;

use JSON::PP;
use NotifyNode;
use Test::More;

sub decode { return JSON::PP->new->decode($_[0]); }

my $node = new_node('encodings', "monitoring.evaluation_interval = '200ms'");
$node->start;
my $url = start_receiver();

my %encodings = (
	west => { encoding => 'LATIN1', cafe => "caf\x{e9}", town => "K\x{f6}ln", name => 'caf=C3=A9' },
	bytes => { encoding => 'SQL_ASCII', cafe => 'caf%E9', town => 'K%F6ln', name => 'caf%E9' });

for my $db (sort keys %encodings)
{
	my $is = $encodings{$db};
	my $sql = sub { return $node->safe_psql($db, $_[0]); };

	$node->safe_psql('postgres', "CREATE DATABASE $db ENCODING '$is->{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	$sql->('CREATE EXTENSION monitoring');
	$sql->(qq{
		CREATE TABLE public.called (body jsonb);
		CREATE FUNCTION public.on_alert(j jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.called VALUES (j)';
		SELECT monitoring.create_receiver('hook', 'webhook', '$url/$db/hook');
		-- a secret, a name and a header that are no UTF-8 either
		SELECT monitoring.create_receiver('named', 'webhook', '$url/$db/named', E'{"username": "\\xe9", "password": "p\\xe9", "headers": {"X-A": "\\xe9"}}');
		SELECT monitoring.create_receiver('chat', 'slack', '$url/$db/chat', E'{"title": "\\xe9 {{alertname}}"}');
		SELECT monitoring.create_receiver('discord', 'discord', '$url/$db/discord');
		SELECT monitoring.create_receiver('teams', 'teams', '$url/$db/teams');
		SELECT monitoring.create_receiver('telegram', 'telegram', '$url/$db/telegram', '{"chat_id": 1, "bot_token": "t"}');
		SELECT monitoring.create_receiver('pager', 'pagerduty', '$url/$db/pager', '{"routing_key": "k"}');
		SELECT monitoring.create_receiver('genie', 'opsgenie', '$url/$db/genie', '{"api_key": "k"}');
		SELECT monitoring.create_receiver('sentry', 'sentry', '$url/$db/sentry/42', '{"public_key": "k"}');
		SELECT monitoring.create_receiver('sms', 'twilio', '$url/$db/sms',
			'{"username": "AC00000000000000000000000000000000", "password": "p", "to": "+4930123456", "from": "db"}');
		SELECT monitoring.create_receiver('channel', 'notify', config => '{"channel": "alerts"}');
		SELECT monitoring.create_receiver('function', 'sql', config => '{"function": "public.on_alert"}');
		SELECT monitoring.raise_alert(E'caf\\xe9', E'{"town": "K\\xf6ln"}', 'critical', E'caf\\xe9 \\xe9\\xe9')});

	ok($node->poll_query_until($db, q{SELECT count(*) = 12 AND bool_and(state = 'sent') FROM monitoring.notifications}), "$is->{encoding}: all kinds are told")
		or diag $sql->('SELECT receiver, state, error FROM monitoring.notifications');
	my ($hook) = requests("/$db/hook");
	my $alert = decode($hook->{body})->{alerts}[0];
	is("$alert->{labels}{alertname} $alert->{labels}{town}", "$is->{cafe} $is->{town}", '... of what there is');
	is(decode((requests("/$db/pager/v2/enqueue"))[0]{body})->{payload}{class}, $is->{cafe}, '... in every field');
	like(decode((requests("/$db/chat"))[0]{body})->{blocks}[0]{text}{text}, qr/\Q$is->{cafe}\E/, '... also through templates');
	my $form = (grep { $_->{path} =~ m{^/$db/sms/} } NotifyNode::all_requests())[0]{body};
	utf8::encode(my $octets = $is->{cafe});
	like($form, qr/Body=\S*\Q@{[ $octets =~ s{([^A-Za-z0-9])}{sprintf '%%%02X', ord $1}ger ]}\E/, '... in a form');
	is($sql->('SELECT count(*) FROM public.called'), '1', '... and to functions');
	$sql->(q{SELECT monitoring.create_receiver('mail', 'email', 'smtp://127.0.0.1:25', E'{"from": "a@example.com", "to": "\\xe9 <b@example.com>"}')});
	my $mail = $sql->(q{SELECT body FROM monitoring.preview_notification('mail', (SELECT alert_id FROM monitoring.alerts))});
	like($mail, qr/^Subject: =\?UTF-8\?B\?/m, '... and a mail is made');
}

stop_receiver();
$node->stop;
done_testing();
