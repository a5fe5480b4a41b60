/*-------------------------------------------------------------------------
 *
 * roles.c
 *	  Who calls.
 *
 * Functions that run with their owner's rights note who called them: in
 * histories, and as the owner of SQL that is later run in his name. The role
 * is that of the session. Where the server runs somebody else's code in
 * another's session (index expressions in ANALYZE, triggers below a foreign
 * key's action) that would be the wrong one, so there it is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(mon_calling_role);

Datum
mon_calling_role(PG_FUNCTION_ARGS)
{
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	if (context & (SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot do this on behalf of a role within a "
						"security-restricted operation")));
	return DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(GetOuterUserId(), false)));
}
