/*-------------------------------------------------------------------------
 *
 * login_hook.c
 *	  Log-ins, and those that fail.
 *
 * Authentication tells how it ended through its hook.  What fails outside of it
 * (no matching line in pg_hba.conf, no such database, too many connections) ends
 * the session with an error before it began; the log hook passes that on.
 *
 *-------------------------------------------------------------------------
 */
#include "signals/client.h"
#include "signals/signals_internal.h"

#include "core/core.h"
#include "libpq/auth.h"
#include "libpq/hba.h"
#include "utils/guc.h"

typedef enum CaptureLogins
{
	LOGINS_OFF,
	LOGINS_FAILED,
	LOGINS_ALL
} CaptureLogins;

static const struct config_enum_entry capture_options[] = {
	{"off", LOGINS_OFF, false},
	{"failed", LOGINS_FAILED, false},
	{"all", LOGINS_ALL, false},
	{NULL, 0, false},
};

static int capture_logins = LOGINS_ALL;

bool mon_login_noted = false;

static ClientAuthentication_hook_type previous_authentication_hook = NULL;

static void
note_authentication(Port *port, int status)
{
	Signal *s;

	if (previous_authentication_hook)
		previous_authentication_hook(port, status);
	/* A client that has gone to ask its user for the password has not tried one. */
	if (status == STATUS_EOF || capture_logins < (status == STATUS_OK ? LOGINS_ALL : LOGINS_FAILED))
		return;
	mon_login_noted = status != STATUS_OK;
	s = mon_signal_begin(SIGNAL_LOGIN, 0, status == STATUS_OK ? LOGIN_OK : LOGIN_REFUSED);
	if (!s)
		return;
	if (port->hba)
		mon_signal_text(s, TEXT_TEMPLATE, hba_authname(port->hba->auth_method));
	mon_signal_publish(s);
}

void
mon_note_failed_login(const ErrorData *edata)
{
	Signal *s;

	mon_login_noted = true;
	if (capture_logins < LOGINS_FAILED)
		return;
	s = mon_signal_begin(SIGNAL_LOGIN, edata->sqlerrcode, LOGIN_FAILED);
	if (!s)
		return;
	mon_signal_text(s, TEXT_TEMPLATE, edata->message_id);
	mon_signal_text(s, TEXT_MESSAGE, edata->message);
	mon_signal_publish(s);
}

void
mon_login_hook_init(void)
{
	DefineCustomEnumVariable("monitoring.capture_logins", "Which log-ins are kept.",
							 "failed: those that failed; all: every one.", &capture_logins,
							 LOGINS_ALL, capture_options, PGC_SIGHUP, 0, NULL, NULL, NULL);
	previous_authentication_hook = ClientAuthentication_hook;
	ClientAuthentication_hook = note_authentication;
}
