# Secrets of receivers, from where they are kept into requests: formatters see markers only, secrets go where the markers
# stand, written as that place needs it; and no view, log, statistic or dump shows them.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use IPC::Run;
use JSON::PP;
use JsonLines;
use MIME::Base64;
use PostgreSQL::Test::Utils;
use SecretsNode;
use Test::More;
use Time::HiRes qw(usleep time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $tmp = $PostgreSQL::Test::Utils::tmp_check;

$ENV{MONITORING_SECRET_TEST} = "env: \"$stamp\" \\ &/@";
my ($node, $secrets) = start_secrets_node('secrets');

my $log = "$tmp/receiver.jsonl";
my ($in, $out) = ('', '');
my $receiver = IPC::Run::start([ 'python3', "$FindBin::Bin/../lib/http_receiver.py", $log ], '<', \$in, '>', \$out,
	IPC::Run::timeout($timeout * 5));
IPC::Run::pump($receiver) until $out =~ /port (\d+)\n/;
my $url = "http://127.0.0.1:$1";

# ---- helpers ----

sub requests
{
	my ($path) = @_;
	return grep { index($_->{path}, $path) == 0 } json_lines($log);
}

# Send a test notification; state and error when it is decided.
sub delivered
{
	my ($name) = @_;
	my $id = sql("SELECT monitoring.test_receiver('$name')");
	my $got = '';
	my $end = time() + $timeout;
	until ($got =~ /^(sent|dead|failed)/ || time() > $end)
	{
		usleep(50_000);
		$got = sql("SELECT state, error FROM monitoring.notifications WHERE id = $id");
	}
	return $got;
}

# ---- a kind that puts its secrets everywhere ----

sql(q{
	CREATE TABLE public.seen (receiver jsonb);
	CREATE FUNCTION public.format_everywhere(receiver jsonb, notification jsonb) RETURNS TABLE (method text, url text, headers jsonb, body text)
	LANGUAGE plpgsql AS $$
	DECLARE
		token text := receiver -> 'config' ->> 'token';
	BEGIN
		INSERT INTO public.seen VALUES (receiver);
		RETURN QUERY SELECT 'POST', (receiver ->> 'url') || '/' || token || '?q=' || token,
			jsonb_build_object('Content-Type', receiver -> 'config' -> 'type', 'X-Token', 'Bearer ' || token,
				'X-Signature', 'sha256=hmac-sha256:' || token, 'Authorization', 'Basic ' || (receiver -> 'config' ->> 'basic_auth'))
				|| (receiver -> 'config' -> 'headers'),
			CASE receiver -> 'config' ->> 'type' WHEN 'application/json' THEN jsonb_build_object('token', token, 'text', 'häßlich')::text
				ELSE 'token=' || token || '&x=' || token END;
	END $$;
	INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys)
	VALUES ('everywhere', 'public.format_everywhere', '{type,username}', '{token,password}')});
secret_file('password', "file $stamp\n");

# The value comes as a bind parameter, as it should.
sub create
{
	my ($name, $type) = @_;
	sql(qq{SELECT monitoring.create_receiver('$name', 'everywhere', '$url/$name', '{"type": "$type", "username": "üser",
		"token": {"environment": "MONITORING_SECRET_TEST"}, "password": {"file": "$secrets/password"},
		"headers": {"X-Later": {"secret": "later"}}}')});
	return;
}

create('json', 'application/json');
like(delivered('json'), qr/^failed\|secret "later" cannot be used: it is not set$/, 'nothing is sent without a secret that is not set');
my $psql = $node->background_psql('postgres', on_error_stop => 1);
$psql->query_safe(qq{PREPARE p (text) AS SELECT monitoring.set_receiver_secret('json', 'later', \$1)});
$psql->query_safe(qq{EXECUTE p('value $stamp')});
$psql->quit;
is(delivered('json'), 'sent|', 'with all of its secrets it is');

my ($got) = requests('/json');
my $token = $ENV{MONITORING_SECRET_TEST};
my $percent = $token =~ s/([^A-Za-z0-9._~-])/sprintf('%%%02X', ord $1)/ger;
my $in_url = $percent =~ s/%3A/:/r;
is($got->{path}, "/json/$in_url?q=$in_url", 'in a url a secret is percent-encoded, but for colons');
is($got->{headers}{'x-token'}, "Bearer $token", 'in a header it is as it is');
is($got->{headers}{'x-later'}, "value $stamp", 'a header of the config can be one');
is(decode_json($got->{body} =~ s/([^\x00-\x7f])/sprintf('\\u%04x', ord $1)/ger)->{token}, $token, 'in JSON it is escaped');
my $body = $got->{body};
utf8::encode($body);
my $key = $token;
is($got->{headers}{'x-signature'}, 'sha256=' . hmac_sha256_hex($body, $key), 'the signature is of the body as it is sent');
is(decode_base64($got->{headers}{authorization} =~ s/^Basic //r), "\xc3\xbcser:file $stamp", 'username and password are HTTP\'s basic_auth');
is(sql(qq{SELECT count(*) FROM public.seen WHERE receiver::text ~ '$pattern'}), 0, 'the formatter sees no secret');
is(sql(q{SELECT count(DISTINCT receiver -> 'config' ->> 'token') = count(*), bool_and(receiver -> 'config' ->> 'token' ~ '^[0-9a-f]{32}$') FROM public.seen}),
	't|t', '... but markers, new ones each time');

create('form', 'application/x-www-form-urlencoded');
sql(qq{SELECT monitoring.set_receiver_secret('form', 'later', environment => 'MONITORING_SECRET_TEST')});
is(delivered('form'), 'sent|', 'a form');

# A kind that cannot do without one: what waits is sent as soon as it is there.
sql("SELECT monitoring.create_receiver('genie', 'opsgenie', '$url/genie')");
is(delivered('genie'), 'failed|the formatter lacks something, such as a secret (SQLSTATE 55000)', 'a secret that was never given');
sql(qq{SELECT monitoring.set_receiver_secret('genie', 'api_key', '$stamp')});
ok($node->poll_query_until('postgres', q{SELECT state = 'sent' FROM monitoring.notifications WHERE receiver = 'genie' ORDER BY id LIMIT 1}), '... and is given: what waited is sent');
# what the test has opened there is closed: in a minute, or now
sql(q{UPDATE monitoring.outbox SET next_attempt_at = clock_timestamp() WHERE receiver = 'genie' AND state = 'queued'});
ok($node->poll_query_until('postgres', q{SELECT string_agg(state, ' ') = 'sent sent' FROM monitoring.notifications WHERE receiver = 'genie'}), 'the end of the test follows');
my ($opened, $closed) = map { $_->{path} =~ s/\?.*//r } requests('/genie/');
is($closed, "$opened/" . decode_json((requests('/genie/'))[0]{body})->{alias} . '/close', '... and closes what it opened');
($got) = requests('/form');
is($got->{body}, "token=$percent&x=$percent", '... is percent-encoded');

create('text', 'text/plain');
sql(qq{SELECT monitoring.set_receiver_secret('text', 'later', file => '$secrets/password')});
is(delivered('text'), 'sent|', 'plain text');
($got) = requests('/text');
is($got->{body}, "token=$token&x=$token", '... is as it is');

sql(qq{SELECT monitoring.create_receiver('hook', 'webhook', config => '{"url": {"file": "$secrets/url"}}')});
secret_file('url', "$url/hook/$stamp?a=b\r\n");
is(delivered('hook'), 'sent|', 'a url can be a secret');
is(scalar(requests("/hook/$stamp?a=b")), 1, '... all of it');

# ---- files that may not be read ----

sub refused
{
	my ($what, $pattern) = @_;
	like(delivered('hook'), qr/^failed\|secret "url" cannot be used: $pattern$/, "a file is not read: $what");
	return;
}

secret_file('url', "$url/x", 0604);
refused('for everybody', 'its file may be read or written by everybody');
secret_file('url', 'x' x 8193);
refused('too long', 'it is empty, too long, not UTF-8 or has a control character');
secret_file('url', '');
refused('empty', 'it is empty, too long, not UTF-8 or has a control character');
secret_file('url', "$url/\nX-Evil: 1");
refused('two lines', 'it is empty, too long, not UTF-8 or has a control character');
secret_file('url', "\xff");
refused('not UTF-8', 'it is empty, too long, not UTF-8 or has a control character');
unlink "$secrets/url";
refused('missing', 'the file of a secret or key cannot be used: No such file or directory');
mkdir "$secrets/url";
refused('a directory', 'its file is not a regular one');
rmdir "$secrets/url";
symlink "$secrets/../secrets.link", "$secrets/url";
append_to_file($node->basedir . '/secrets.link', "$url/link/$stamp");
chmod 0600, $node->basedir . '/secrets.link';
refused('a link out of the directory', 'the file of a secret or key is not in monitoring.secrets_directory');
unlink "$secrets/url";
secret_file('real', "$url/linked/$stamp");
symlink 'real', "$secrets/url";
is(delivered('hook'), 'sent|', 'a link within the directory is followed');
sql("SELECT monitoring.set_receiver_secret('hook', 'url', file => '$secrets/../secrets.link')");
refused('dots out of the directory', 'the file of a secret or key is not in monitoring.secrets_directory');
mkdir "${secrets}2";
sql("SELECT monitoring.set_receiver_secret('hook', 'url', file => '${secrets}2/../secrets/real')");
is(delivered('hook'), 'sent|', 'dots that come back are');
sql(q{SELECT monitoring.set_receiver_secret('hook', 'url', environment => 'MONITORING_SECRET_UNSET')});
refused('variable that is not set', 'its environment variable is not set');

# ---- what others see ----

# Statements as nobody should write them.
$node->psql('postgres', "SELECT monitoring.set_receiver_secret('json', 'later', 'literal $stamp')");
$node->psql('postgres', "SELECT Monitoring . SET_Receiver_Secret('json', 'none', 'literal $stamp')");
$node->psql('postgres', "SELECT monitoring.set_receiver_secret('json', 'later', 'literal $stamp' x)");
$node->psql('postgres', "SELECT monitoring.set_receiver_secret('json', 'later', 'literal $stamp)");
$node->psql('postgres', "SELECT monitoring.set_receiver_secret('literal $stamp')");
$node->psql('postgres', "SELECT monitoring.create_receiver('bad', 'webhook', 'ftp://127.0.0.1/$stamp')");
$node->psql('postgres', qq{SELECT monitoring.alter_receiver('json', '{"token": "$stamp"}')});
$node->psql('postgres', qq{SELECT monitoring.alter_receiver('json', '{"token": "$stamp\\n"}')});
$node->psql('postgres', "DO \$\$ BEGIN PERFORM monitoring.set_receiver_secret('json', 'none', 'literal $stamp'); END \$\$");
$node->psql('postgres', "SELECT monitoring.set_receiver_secret('json', 'later', \$1), 1 / 0 \\bind 'bound $stamp' \\g");
$node->psql('postgres', "CREATE FUNCTION public.wrapped(s text) RETURNS void LANGUAGE sql AS \$\$ SELECT monitoring.set_receiver_secret('json', 'none', s) \$\$");
$node->psql('postgres', "SELECT public.wrapped('wrapped $stamp')", on_error_stop => 0) for 1;

my $session = $node->background_psql('postgres', on_error_stop => 1);
$session->query_safe(qq{BEGIN; SELECT monitoring.set_receiver_secret('json', 'later', 'idle $stamp')});
is(sql(q{SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'}), '<statement with secrets of monitoring>',
	'pg_stat_activity does not show the statement that sets one');
$session->query_safe('COMMIT');
$session->quit;

my $text = slurp_file($node->logfile);
my @lines = grep { /\Q$stamp\E/ && !/wrapped/ } split /\n/, $text;
is(join("\n", @lines), '', 'the log has no secret');
like($text, qr/statement: set_receiver_secret\*\*\*$/m, '... but says that one was set');
is(join("\n", grep { /STATEMENT:.*wrapped/ } split /\n/, $text), '', 'an error behind a function of one\'s own shows no statement');

no_relation_tells('', 'receiver_secrets', 50);
is(sql(qq{SELECT string_agg(query, E'\\n') FROM pg_stat_statements WHERE query ~ '$pattern' AND query !~ '^(DO|PREPARE|EXECUTE)'}), '',
	'nor has pg_stat_statements, which stores DO as it is');
sql('SELECT monitoring.snapshot_statements()');
is(sql(qq{SELECT bool_or(strpos(query, 'set_receiver_secret(\$') > 0), bool_or(query ~ '$pattern') FROM monitoring.statement_texts}), 't|f',
	'our own texts of statements have none');

# ---- dumps ----

my $dump = dump_of('');
unlike($dump, qr/$stamp/, 'a dump has no secret');
like($dump, qr/COPY monitoring\.receiver_secrets .*environment\tMONITORING_SECRET_TEST/s, '... but references');
like(dump_of('-c monitoring.dump_secrets=on'), qr/\tvalue\tidle $stamp/, 'on request it has');

$node->stop;
$receiver->kill_kill(grace => 1);
done_testing();
