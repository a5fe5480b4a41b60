/*-------------------------------------------------------------------------
 *
 * secrets.c
 *	  Secrets of requests: reading, markers, and what is not logged.
 *
 * What makes a request (a formatter, the function of a kind of health checks) is
 * anybody's code, so it gets a random marker in place of each secret.  When it
 * is done, the secrets go where the markers stand, written as that place needs
 * it; its table, error or trace never has them.
 *
 * Statements that bring secrets are hidden: hide_statement() replaces their text
 * in pg_stat_activity, and the log hook cuts off what follows the name of such a
 * function.  The hook takes no lock, allocates nothing and never raises.
 *
 *-------------------------------------------------------------------------
 */
#include "outbound/secrets.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "common/cryptohash.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "core/core.h"

#define MAX_SECRET 8192
#define MAX_FILLED                                                                                 \
	(900 * 1024) /* of a request with its secrets; the sender takes 1 MB with everything */
#define HMAC_MARK "hmac-sha256:"
#define ENVIRONMENT_PREFIX "MONITORING_SECRET_"

PG_FUNCTION_INFO_V1(mon_hide_statement);
PG_FUNCTION_INFO_V1(mon_secret_problem);

/* ---- reading ---- */

/* Control characters would end a header or a line of a mail. */
static bool
is_clean(const char *s, int len)
{
	for (int i = 0; i < len; i++)
		if ((unsigned char) s[i] < 0x20 || s[i] == 0x7f)
			return false;
	return len > 0 && len <= MAX_SECRET && pg_verify_mbstr(PG_UTF8, s, len, true);
}

/* The real path, which no link leads out of the directory. */
char *
mon_secrets_file(const char *path, char **error)
{
	char directory[PATH_MAX], file[PATH_MAX];
	size_t len;

	if (!mon_secrets_directory || !mon_secrets_directory[0])
		*error = pstrdup("monitoring.secrets_directory is not set");
	else if (!realpath(mon_secrets_directory, directory))
		*error = psprintf("monitoring.secrets_directory cannot be used: %m");
	else if (!realpath(path, file))
		*error = psprintf("the file of a secret or key cannot be used: %m");
	else
	{
		len = strlen(directory);
		if (strncmp(file, directory, len) == 0 && file[len] == '/')
			return pstrdup(file);
		*error = pstrdup("the file of a secret or key is not in monitoring.secrets_directory");
	}
	return NULL;
}

static bool
read_all(int fd, char *buf, int size, int *len)
{
	*len = 0;
	while (*len < size)
	{
		ssize_t n = read(fd, buf + *len, size - *len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		if (n == 0)
			break;
		*len += n;
	}
	return true;
}

/* The file's text without the line break at its end; NULL with *error. */
static char *
read_file(const char *path, char **error)
{
	char *file = mon_secrets_file(path, error);
	char buf[MAX_SECRET + 3];
	struct stat st;
	int fd, len;

	if (!file)
		return NULL;
	fd = open(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		*error = psprintf("its file cannot be read: %m");
	else if (!S_ISREG(st.st_mode))
		*error = pstrdup("its file is not a regular one");
	else if (st.st_mode & (S_IROTH | S_IWOTH))
		*error = pstrdup("its file may be read or written by everybody");
	else if (!read_all(fd, buf, sizeof(buf), &len))
		*error = psprintf("its file cannot be read: %m");
	else
	{
		close(fd);
		if (len > 0 && buf[len - 1] == '\n')
			len--;
		if (len > 0 && buf[len - 1] == '\r')
			len--;
		return pnstrdup(buf, len);
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

static char *
read_environment(const char *name, char **error)
{
	char *value = NULL;

	if (strncmp(name, ENVIRONMENT_PREFIX, strlen(ENVIRONMENT_PREFIX)) == 0)
		value = getenv(name);
	if (!value)
		*error = pstrdup("its environment variable is not set");
	return value ? pstrdup(value) : NULL;
}

static char *
read_secret(const char *key, const char *source, const char *value, char **error)
{
	char *secret = NULL;
	char *why = NULL;

	if (source == NULL)
		why = pstrdup("it is not set");
	else if (strcmp(source, "file") == 0)
		secret = read_file(value, &why);
	else if (strcmp(source, "environment") == 0)
		secret = read_environment(value, &why);
	else
		secret = mon_utf8_copy(value, strlen(value));

	if (secret && !is_clean(secret, strlen(secret)))
	{
		secret = NULL;
		why = pstrdup("it is empty, too long, not UTF-8 or has a control character");
	}
	if (!secret)
		*error = psprintf("secret \"%s\" cannot be used: %s", key, why);
	return secret;
}

/* Why a secret, or a file of a connection, could not be used now; null if it could. */
Datum
mon_secret_problem(PG_FUNCTION_ARGS)
{
	char *key = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *source = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	char *value = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	char *why = NULL;

	if (source == NULL || strcmp(source, "path") != 0)
		(void) read_secret(key, source, value, &why);
	else if (mon_secrets_file(value, &why) == NULL)
		why = psprintf("\"%s\" cannot be used: %s", key, why);
	if (why == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(why));
}

/* With this marker, or a new one. */
static void
keep_secret(MonSecrets *to, const char *key, const char *marker, char *value)
{
	MonSecret *secret;
	uint8 random[MON_MARKER_LENGTH / 2];

	if (to->secrets)
		to->secrets = repalloc(to->secrets, (to->n + 1) * sizeof(MonSecret));
	else
		to->secrets = palloc(sizeof(MonSecret));
	secret = &to->secrets[to->n++];
	secret->key = pstrdup(key);
	secret->value = value;
	if (marker)
	{
		if (strlen(marker) != MON_MARKER_LENGTH)
			elog(ERROR, "the marker of a secret has a wrong length");
		strcpy(secret->marker, marker);
		return;
	}
	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random bytes")));
	for (int i = 0; i < sizeof(random); i++)
		sprintf(secret->marker + 2 * i, "%02x", random[i]);
}

bool
mon_secrets_add(MonSecrets *secrets, const char *key, const char *marker, const char *source,
				const char *value, char **error)
{
	char *secret = read_secret(key, source, value, error);

	if (secret)
		keep_secret(secrets, key, marker, secret);
	return secret != NULL;
}

const char *
mon_secrets_get(const MonSecrets *secrets, const char *key)
{
	for (int i = 0; i < secrets->n; i++)
		if (strcmp(secrets->secrets[i].key, key) == 0)
			return secrets->secrets[i].value;
	return NULL;
}

void
mon_secrets_add_basic_auth(MonSecrets *secrets, const char *username, const char *marker)
{
	const char *password = mon_secrets_get(secrets, "password");
	char *pair, *encoded;
	int size, len;

	if (mon_secrets_get(secrets, "username"))
		username = mon_secrets_get(secrets, "username");
	if (!username || !password)
		return;
	pair = psprintf("%s:%s", username, password);
	size = pg_b64_enc_len(strlen(pair)) + 1;
	encoded = palloc(size);
	/* The type of the first argument depends on the release. */
	len = pg_b64_encode((const void *) pair, strlen(pair), encoded, size);
	if (len < 0)
		elog(ERROR, "could not encode a secret");
	encoded[len] = '\0';
	keep_secret(secrets, "basic_auth", marker, encoded);
}

/* ---- filling in ---- */

/* How a secret is written where its marker stood.  A colon is itself in a url: tokens of bots have one. */
typedef enum Place
{
	AS_IS,
	IN_JSON,
	IN_URL,
	IN_FORM
} Place;

static void
append_secret(StringInfo to, const char *value, Place place)
{
	if (place == IN_JSON)
	{
		StringInfoData quoted;

		initStringInfo(&quoted);
		escape_json(&quoted, value);
		appendBinaryStringInfo(to, quoted.data + 1, quoted.len - 2);
		pfree(quoted.data);
		return;
	}
	for (const char *c = value; *c; c++)
		if (place == AS_IS || isalnum((unsigned char) *c) || strchr("-._~", *c) ||
			(place == IN_URL && *c == ':'))
			appendStringInfoChar(to, *c);
		else
			appendStringInfo(to, "%%%02X", (unsigned char) *c);
}

/* The secret whose marker starts here; NULL if none does. */
static const MonSecret *
secret_at(const MonSecrets *secrets, const char *s)
{
	for (int i = 0; i < secrets->n; i++)
		if (strncmp(s, secrets->secrets[i].marker, sizeof(secrets->secrets[i].marker) - 1) == 0)
			return &secrets->secrets[i];
	return NULL;
}

static char *
fill(const MonSecrets *secrets, const char *text, Place place)
{
	StringInfoData result;

	initStringInfo(&result);
	for (const char *c = text; *c;)
	{
		const MonSecret *secret = isxdigit((unsigned char) *c) ? secret_at(secrets, c) : NULL;

		if (secret)
		{
			append_secret(&result, secret->value, place);
			c += sizeof(secret->marker) - 1;
		}
		else
			appendStringInfoChar(&result, *c++);
		if (result.len > MAX_FILLED)
			break;
	}
	return result.data;
}

/* A url that is a secret is whole; elsewhere in a url a secret must not end its part. */
static char *
fill_url(const MonSecrets *secrets, const char *url)
{
	const MonSecret *whole = secret_at(secrets, url);

	if (whole)
		return psprintf("%s%s", whole->value,
						fill(secrets, url + sizeof(whole->marker) - 1, IN_URL));
	return fill(secrets, url, IN_URL);
}

static char *
hmac_sha256(const char *key, const char *data)
{
	pg_hmac_ctx *ctx = pg_hmac_create(PG_SHA256);
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	char *hex = palloc(2 * sizeof(digest) + 1);
	bool done = ctx != NULL && pg_hmac_init(ctx, (const uint8 *) key, strlen(key)) == 0 &&
		pg_hmac_update(ctx, (const uint8 *) data, strlen(data)) == 0 &&
		pg_hmac_final(ctx, digest, sizeof(digest)) == 0;

	pg_hmac_free(ctx);
	if (!done)
		elog(ERROR, "could not sign a request");
	for (int i = 0; i < sizeof(digest); i++)
		sprintf(hex + 2 * i, "%02x", digest[i]);
	return hex;
}

/* "hmac-sha256:" before a marker asks for a signature of the body with that secret instead. */
static char *
fill_header(const MonSecrets *secrets, const char *value, const char *body)
{
	const char *mark = strstr(value, HMAC_MARK);
	const MonSecret *secret = mark ? secret_at(secrets, mark + strlen(HMAC_MARK)) : NULL;

	if (!secret)
		return fill(secrets, value, AS_IS);
	return psprintf("%s%s%s", fill(secrets, pnstrdup(value, mark - value), AS_IS),
					hmac_sha256(secret->value, body),
					fill(secrets, mark + strlen(HMAC_MARK) + sizeof(secret->marker) - 1, AS_IS));
}

static Place
body_place(const MonRequest *request)
{
	ListCell *cell;
	const char *first = request->body + strspn(request->body, " \t\r\n");

	foreach (cell, request->headers)
	{
		MonPair *header = lfirst(cell);

		if (pg_strcasecmp(header->name, "Content-Type") != 0)
			continue;
		if (strstr(header->value, "json"))
			return IN_JSON;
		return strstr(header->value, "x-www-form-urlencoded") ? IN_FORM : AS_IS;
	}
	return strcmp(request->method, "SMTP") != 0 && (*first == '{' || *first == '[') ? IN_JSON
																					: AS_IS;
}

bool
mon_secrets_fill(const MonSecrets *secrets, MonRequest *request, char **error)
{
	Size len;
	ListCell *cell;

	if (secrets->n == 0)
		return true;
	request->url = fill_url(secrets, request->url);
	request->body = fill(secrets, request->body, body_place(request));
	len = strlen(request->url) + strlen(request->body);
	foreach (cell, request->headers)
	{
		MonPair *header = lfirst(cell);

		header->value = fill_header(secrets, header->value, request->body);
		len += strlen(header->name) + strlen(header->value);
		if (len > MAX_FILLED)
			break;
	}
	if (len <= MAX_FILLED)
		return true;
	*error = psprintf("the request with its secrets is larger than %d kB", MAX_FILLED / 1024);
	return false;
}

/* ---- what others see of a statement ---- */

/* Functions whose arguments may be secrets. */
static const char *const secretive[] = {
	"set_receiver_secret", "create_receiver",     "alter_receiver",    "create_heartbeat",
	"set_check_secret",    "create_health_check", "alter_health_check"};

static emit_log_hook_type previous_log_hook = NULL;
static TimestampTz hidden_statement = 0; /* start of the one that hide_statement() was called in */

/* Where the name of such a function begins, whatever its case, and which it is; NULL if there is none. */
static char *
find_secretive(const char *text, const char **name)
{
	for (const char *c = text; c && *c; c++)
		for (int i = 0; i < lengthof(secretive); i++)
			if (pg_tolower((unsigned char) *c) == secretive[i][0] &&
				pg_strncasecmp(c, secretive[i], strlen(secretive[i])) == 0)
			{
				*name = secretive[i];
				return unconstify(char *, c);
			}
	return NULL;
}

/* End the text here, with a name, which fits, and asterisks, if they do. */
static void
cut(char *at, const char *name)
{
	int room = strlen(at) - strlen(name);

	memcpy(at, name, strlen(name));
	at += strlen(name);
	memset(at, '*', Min(room, 3));
	at[Min(room, 3)] = '\0';
}

/* Cut a text of a message that is about to be logged where it quotes a secretive statement. */
static void
redact(char *text, const char *statement)
{
	/* What stands before a quotation: of parameters, or of what could not be parsed. */
	static const char *const quoting[] = {"arameters: ", " at or near ", "Token ",
										  "JSON data, line ", "invalid input syntax for type "};
	const char *name = "";
	char *at;

	if (text == NULL)
		return;
	(void) find_secretive(statement, &name);
	if (statement && statement[0] && (at = strstr(text, statement)) != NULL)
		cut(at, name);
	else if ((at = find_secretive(text, &name)) != NULL)
		cut(at, name);
	for (int i = 0; i < lengthof(quoting); i++)
		if ((at = strstr(text, quoting[i])) != NULL)
			cut(at + strlen(quoting[i]), "");
}

static bool
mentions(const char *text)
{
	const char *name;

	return find_secretive(text, &name) != NULL;
}

static void
redact_log(ErrorData *edata)
{
	bool secret = mentions(debug_query_string) || mentions(edata->message) ||
		mentions(edata->detail) || mentions(edata->context) ||
		(hidden_statement != 0 && hidden_statement == GetCurrentStatementStartTimestamp());

	if (secret)
	{
		char *texts[] = {edata->message, edata->detail,  edata->detail_log,
						 edata->hint,    edata->context, edata->internalquery};

		edata->hide_stmt = true;
		for (int i = 0; i < lengthof(texts); i++)
			redact(texts[i], debug_query_string);
	}
	if (previous_log_hook)
		previous_log_hook(edata);
}

Datum
mon_hide_statement(PG_FUNCTION_ARGS)
{
	hidden_statement = GetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "<statement with secrets of monitoring>");
	PG_RETURN_VOID();
}

void
mon_secrets_init(void)
{
	previous_log_hook = emit_log_hook;
	emit_log_hook = redact_log;
}
