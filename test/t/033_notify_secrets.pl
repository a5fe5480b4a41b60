# Secrets of receivers, from where they are kept into requests: formatters see markers only, secrets go where the markers
# stand, written as that place needs it; and no view, log, statistic or dump shows them.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use FindBin;
use IPC::Run;
use JSON::PP;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $tmp = $PostgreSQL::Test::Utils::tmp_check;

# Every secret of this test has this in it.
my $stamp = 's3cr3t';
my $pattern = 's[3]cr3t'; # which the queries of this test may have

$ENV{MONITORING_SECRET_TEST} = "env: \"$stamp\" \\ &/@";
my $node = PostgreSQL::Test::Cluster->new('secrets');
$node->init;
my $secrets = $node->basedir . '/secrets';
mkdir $secrets;
$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'pg_stat_statements, monitoring'
monitoring.allowed_hosts = '127.0.0.1'
monitoring.allow_private_networks = on
monitoring.secrets_directory = '$secrets'
max_worker_processes = 16
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length_on_error = -1
pg_stat_statements.track = all
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION monitoring; CREATE EXTENSION pg_stat_statements');

my $log = "$tmp/receiver.jsonl";
my ($in, $out) = ('', '');
my $receiver = IPC::Run::start([ 'python3', "$FindBin::Bin/../lib/http_receiver.py", $log ], '<', \$in, '>', \$out,
	IPC::Run::timeout($timeout * 5));
IPC::Run::pump($receiver) until $out =~ /port (\d+)\n/;
my $url = "http://127.0.0.1:$1";

# ---- helpers ----

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub requests
{
	my ($path) = @_;
	open my $fh, '<:raw', $log or return ();
	my @all = grep { index($_->{path}, $path) == 0 } map { decode_json($_) } <$fh>;
	close $fh;
	return @all;
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

sub write_file
{
	my ($name, $content, $mode) = @_;
	unlink "$secrets/$name";
	append_to_file("$secrets/$name", $content);
	chmod $mode // 0600, "$secrets/$name" or die $!;
	return;
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
write_file('password', "file $stamp\n");

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
ok($node->poll_query_until('postgres', q{SELECT state = 'sent' FROM monitoring.notifications WHERE receiver = 'genie'}), '... and is given: what waited is sent');
($got) = requests('/form');
is($got->{body}, "token=$percent&x=$percent", '... is percent-encoded');

create('text', 'text/plain');
sql(qq{SELECT monitoring.set_receiver_secret('text', 'later', file => '$secrets/password')});
is(delivered('text'), 'sent|', 'plain text');
($got) = requests('/text');
is($got->{body}, "token=$token&x=$token", '... is as it is');

sql(qq{SELECT monitoring.create_receiver('hook', 'webhook', config => '{"url": {"file": "$secrets/url"}}')});
write_file('url', "$url/hook/$stamp?a=b\r\n");
is(delivered('hook'), 'sent|', 'a url can be a secret');
is(scalar(requests("/hook/$stamp?a=b")), 1, '... all of it');

# ---- files that may not be read ----

sub refused
{
	my ($what, $pattern) = @_;
	like(delivered('hook'), qr/^failed\|secret "url" cannot be used: $pattern$/, "a file is not read: $what");
	return;
}

write_file('url', "$url/x", 0604);
refused('for everybody', 'its file may be read or written by everybody');
write_file('url', 'x' x 8193);
refused('too long', 'it is empty, too long, not UTF-8 or has a control character');
write_file('url', '');
refused('empty', 'it is empty, too long, not UTF-8 or has a control character');
write_file('url', "$url/\nX-Evil: 1");
refused('two lines', 'it is empty, too long, not UTF-8 or has a control character');
write_file('url', "\xff");
refused('not UTF-8', 'it is empty, too long, not UTF-8 or has a control character');
unlink "$secrets/url";
refused('missing', 'a file of the receiver cannot be used: No such file or directory');
mkdir "$secrets/url";
refused('a directory', 'its file is not a regular one');
rmdir "$secrets/url";
symlink "$secrets/../secrets.link", "$secrets/url";
append_to_file($node->basedir . '/secrets.link', "$url/link/$stamp");
chmod 0600, $node->basedir . '/secrets.link';
refused('a link out of the directory', 'a file of the receiver is not in monitoring.secrets_directory');
unlink "$secrets/url";
write_file('real', "$url/linked/$stamp");
symlink 'real', "$secrets/url";
is(delivered('hook'), 'sent|', 'a link within the directory is followed');
sql("SELECT monitoring.set_receiver_secret('hook', 'url', file => '$secrets/../secrets.link')");
refused('dots out of the directory', 'a file of the receiver is not in monitoring.secrets_directory');
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

# In tables and views: nothing but where they are kept.
my @relations = split /\n/, sql(q{
	SELECT c.oid::regclass FROM pg_class AS c
	WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('r', 'v', 'p') AND NOT c.relispartition AND c.relname <> 'receiver_secrets'
	ORDER BY 1});
my @telling = grep { sql("SELECT count(*) FROM $_ AS t WHERE t::text ~ '$pattern'") ne '0' } @relations;
is("@telling", '', 'no table and no view has a secret but receiver_secrets');
cmp_ok(scalar(@relations), '>', 50, '... of all there are');
is(sql(qq{SELECT string_agg(query, E'\\n') FROM pg_stat_statements WHERE query ~ '$pattern' AND query !~ '^(DO|PREPARE|EXECUTE)'}), '',
	'nor has pg_stat_statements, which stores DO as it is');
sql('SELECT monitoring.snapshot_statements()');
is(sql(qq{SELECT bool_or(strpos(query, 'set_receiver_secret(\$') > 0), bool_or(query ~ '$pattern') FROM monitoring.statement_texts}), 't|f',
	'our own texts of statements have none');

# ---- dumps ----

sub dump_of
{
	local $ENV{PGOPTIONS} = $_[0];
	my ($stdout, $stderr) = run_command([ 'pg_dump', '-d', $node->connstr('postgres'), '-t', 'monitoring.receiver_*' ]);
	($stdout) = run_command([ 'pg_dump', '-d', $node->connstr('postgres'), '--extension=monitoring' ]) if $stdout !~ /COPY/;
	return $stdout;
}

my $dump = dump_of('');
unlike($dump, qr/$stamp/, 'a dump has no secret');
like($dump, qr/COPY monitoring\.receiver_secrets .*environment\tMONITORING_SECRET_TEST/s, '... but references');
like(dump_of('-c monitoring.dump_secrets=on'), qr/\tvalue\tidle $stamp/, 'on request it has');

$node->stop;
$receiver->kill_kill(grace => 1);
done_testing();
