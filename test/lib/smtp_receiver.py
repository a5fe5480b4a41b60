#!/usr/bin/env python3
"""A mail server (python3-aiosmtpd) with fault modes, for tests.

usage: smtp_receiver.py LOG MODE [CERT [USER PASSWORD]]

Prints "port N" once it listens on 127.0.0.1.  MODE is plain (no TLS), starttls
(TLS is required), optional (TLS is offered), or smtps (TLS from the start).
With USER and PASSWORD a client has to authenticate, over TLS where that is
offered.  Every mail is appended to LOG as a line of JSON: mail_from, rcpt,
content (the message as text), peer (the client's port), tls, user, greeting.

What it does depends on the addresses:

  CODE@sender.example       as sender: MAIL is answered with CODE
  CODE@recipient.example    as recipient: RCPT is answered with CODE
  CODE@data.example         as sender: the message is answered with CODE
  hang@data.example         as sender: the message is never answered
  drop@data.example         as sender: the connection ends instead of an answer
"""
import asyncio
import json
import ssl
import sys
import time

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


def code_of(address, domain):
    name, _, host = address.partition("@")
    return name if host == domain else None


class Handler:
    def __init__(self, log):
        self.log = log

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):
        code = code_of(address, "sender.example")
        if code:
            return code + " no"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        code = code_of(address, "recipient.example")
        if code:
            return code + " no"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        code = code_of(envelope.mail_from, "data.example")
        if code == "hang":
            await asyncio.sleep(60)
        if code == "drop":
            server.transport.abort()
            return "451 dropped"
        if code:
            return code + " no"
        self.log.write(json.dumps({
            "time": time.time(), "mail_from": envelope.mail_from, "rcpt": envelope.rcpt_tos,
            "content": envelope.original_content.decode("utf-8", "replace"), "peer": session.peer[1],
            "tls": server.transport.get_extra_info("cipher") is not None, "user": session.auth_data, "greeting": session.host_name}) + "\n")
        self.log.flush()
        return "250 OK"


def authenticator(user, password):
    def check(server, session, envelope, mechanism, auth_data):
        good = isinstance(auth_data, LoginPassword) and auth_data.login == user.encode() \
            and auth_data.password == password.encode()
        if good:
            session.auth_data = auth_data.login.decode()
        return AuthResult(success=good, auth_data=session.auth_data if good else None, handled=good)
    return check


async def main():
    log = open(sys.argv[1], "a", encoding="utf-8")
    mode = sys.argv[2]
    context = None
    if len(sys.argv) > 3 and sys.argv[3]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[3])
    options = {"enable_SMTPUTF8": True, "hostname": "mail.example"}
    if mode in ("starttls", "optional"):
        options.update(tls_context=context, require_starttls=mode == "starttls")
    if len(sys.argv) > 5:
        options.update(authenticator=authenticator(sys.argv[4], sys.argv[5]), auth_required=True,
                       auth_require_tls=mode in ("starttls", "optional"))
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(Handler(log), **options), "127.0.0.1", 0, ssl=context if mode == "smtps" else None)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
