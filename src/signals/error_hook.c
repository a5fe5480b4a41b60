/*-------------------------------------------------------------------------
 *
 * error_hook.c
 *	  Errors, as the server logs them.
 *
 * The hook sees what goes to the server's log, so neither errors that an EXCEPTION
 * clause has caught nor those below log_min_messages.  Hooks that were there
 * before run first: what they redact stays redacted.
 *
 *-------------------------------------------------------------------------
 */
#include "signals/client.h"
#include "signals/signals_internal.h"

#include "core/core.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include <limits.h>

typedef enum CaptureErrors
{
	CAPTURE_OFF,
	CAPTURE_ERROR,
	CAPTURE_WARNING,
	CAPTURE_LOG
} CaptureErrors;

static const struct config_enum_entry capture_options[] = {
	{"off", CAPTURE_OFF, false},
	{"error", CAPTURE_ERROR, false},
	{"warning", CAPTURE_WARNING, false},
	{"log", CAPTURE_LOG, false},
	{NULL, 0, false},
};

static int capture_errors = CAPTURE_ERROR;
static int errors_per_issue = 60; /* read by drains */

static emit_log_hook_type previous_log_hook = NULL;

/* What the server logs of its own accord, to clients or not. */
static bool
is_log_line(const ErrorData *edata)
{
	return edata->elevel == LOG || edata->elevel == LOG_SERVER_ONLY;
}

static bool
is_captured(const ErrorData *edata)
{
	if (edata->elevel >= ERROR)
		return capture_errors != CAPTURE_OFF;
	return (edata->elevel == WARNING && capture_errors >= CAPTURE_WARNING) ||
		(is_log_line(edata) && capture_errors == CAPTURE_LOG);
}

/* Statements of functions are quoted in the context with their literals. */
static void
put_context(Signal *s, const char *context)
{
	char out[600];
	size_t n = 0;

	for (const char *c = context; *c && n < sizeof(out); c++)
	{
		out[n++] = *c;
		if (*c != '\'')
			continue;
		while (c[1] && *++c != '\'')
			;
		if (*c == '\'' && n < sizeof(out))
			out[n++] = *c;
	}
	mon_signal_bytes(s, TEXT_CONTEXT, out, n);
}

static void
put_error(Signal *s, const ErrorData *edata)
{
	/* A line that logs a statement does not want it shown twice; others hide it for a reason. */
	bool hidden = edata->hide_stmt && !is_log_line(edata);
	const char *sql = hidden ? NULL : debug_query_string;
	size_t sql_len = sql ? strnlen(sql, 16 * 1024) : 0;
	bool secret = hidden || (sql && mon_find_password(sql, sql_len) != NULL);

	mon_signal_text(s, TEXT_TEMPLATE, edata->message_id);
	/* Some messages quote the statement where it stops making sense, log lines all of it. */
	mon_signal_text(s, TEXT_MESSAGE,
					secret && edata->message_id &&
							(edata->sqlerrcode == ERRCODE_SYNTAX_ERROR || is_log_line(edata))
						? edata->message_id
						: edata->message);
	if (!secret)
		mon_signal_text(s, TEXT_DETAIL, edata->detail_log ? edata->detail_log : edata->detail);
	mon_signal_text(s, TEXT_HINT, edata->hint);
	if (sql && !edata->hide_stmt)
		mon_signal_statement(s, sql, sql_len, secret);
	if (edata->context && !edata->hide_ctx && !secret)
		put_context(s, edata->context);
	mon_signal_text(s, TEXT_SCHEMA, edata->schema_name);
	mon_signal_text(s, TEXT_TABLE, edata->table_name);
	mon_signal_text(s, TEXT_COLUMN, edata->column_name);
	mon_signal_text(s, TEXT_DATATYPE, edata->datatype_name);
	mon_signal_text(s, TEXT_CONSTRAINT, edata->constraint_name);
	mon_signal_publish(s);
}

/* A client whose session has not begun yet. */
static bool
is_logging_in(void)
{
	return IsUnderPostmaster && MyProcPort != NULL && !IsNormalProcessingMode();
}

static void
keep_error(ErrorData *edata)
{
	Signal *s;

	if (previous_log_hook)
		previous_log_hook(edata);
	if (edata->elevel == FATAL && is_logging_in() && !mon_login_noted)
		mon_note_failed_login(edata);
	if (!is_captured(edata))
		return;
	s = mon_signal_begin(SIGNAL_ERROR, is_log_line(edata) ? LOG : edata->elevel, edata->sqlerrcode);
	if (s)
		put_error(s, edata);
}

void
mon_error_hook_init(void)
{
	DefineCustomEnumVariable(
		"monitoring.capture_errors", "Which messages of the server's log are kept as errors.",
		"error: ERROR, FATAL and PANIC; warning: WARNING, too; log: lines of severity LOG, too. "
		"What log_min_messages keeps from the log is not seen.",
		&capture_errors, CAPTURE_ERROR, capture_options, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("monitoring.errors_per_issue",
							"Rows that are stored per issue and minute.",
							"Further errors alike are counted with their issue only.",
							&errors_per_issue, 60, 1, INT_MAX, PGC_SUSET, 0, NULL, NULL, NULL);
	previous_log_hook = emit_log_hook;
	emit_log_hook = keep_error;
}
