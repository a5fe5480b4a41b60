/*-------------------------------------------------------------------------
 *
 * client.h
 *	  What is known of a session's client: MyProcPort.
 *
 * The server's header wants those of Kerberos and OpenSSL installed, if the
 * server was built with them, for members of Port that we do not look at and
 * that come after or are as large as others without them.  So it is told that
 * there are none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SIGNALS_CLIENT_H
#define SIGNALS_CLIENT_H

#include "compat.h"

#undef ENABLE_GSS
#undef USE_OPENSSL
#include "libpq/libpq-be.h"

#endif /* SIGNALS_CLIENT_H */
