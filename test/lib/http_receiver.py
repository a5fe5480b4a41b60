#!/usr/bin/env python3
"""A small HTTP receiver with fault modes, for tests and the demo.

usage: http_receiver.py LOG [PORT [HOST [CERT [CA [VERSION]]]]]

Prints "port N" once it listens; with CERT (key and certificate in one PEM
file) over TLS, at most of that VERSION (1.1, 1.2, 1.3), with CA for clients
that have a certificate of that authority.  Every request is appended to LOG as
a line of JSON: n, time, connection (the client's port), client (the name in its
certificate), method, path, headers (names in lower case), body.  The first part of the path
chooses the answer:

  /status/CODE       that status
  /fail/N/CODE       CODE for the first N requests of this path, then 200
  /retry/SECONDS     429 with Retry-After on the first request, then 200
  /retry-date/S      the same, Retry-After as an HTTP date
  /hang              never answers
  /wait/SECONDS      200 after that time
  /redirect          302 to /redirected
  /redirect-meta     302 to the address where clouds keep their metadata
  /endless           200 and a body without end
  /bigheaders        200 and a megabyte of headers
  /reset             closes the connection without an answer
  /garbage           an answer that is not HTTP
  /latin             503 with reason, headers and a body that are not UTF-8
  /drip              200 and a body that comes byte by byte
  /dripheaders       headers that come byte by byte
  /endlessheaders    headers without end
  /continue          interim responses without end
  /short             200 and less of a body than announced
  /cookie            200 and a cookie
  /go/CODE?URL       that status, and the URL as the place to go to
  /loop              302 to itself
  /secure            200 with headers that protect users
  /json              200 and an object with a token that is this request's number
  /later/KIND        429 on the first request, when to try again in the body as
                     discord and telegram have it, then 200
  /gzip              200 and a megabyte of zeros that is compressed to a kilobyte
  /resetbody         200 and part of a body, then the connection is reset
  anything else      200
"""
import email.utils
import gzip
import json
import socket
import ssl
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LATER = {
    "discord": b'{"message": "You are being rate limited.", "retry_after": 1.2, "global": false}',
    "telegram": b'{"ok":false,"error_code":429,"parameters":{"retry_after":2}}',
}

lock = threading.Lock()
seen = {}
log = None


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def answer(self, status, headers=(), body=b"ok\n"):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def note(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode("utf-8", "replace")
        with lock:
            n = seen[self.path] = seen.get(self.path, 0) + 1
            log.write(json.dumps({
                "n": n, "time": time.time(), "connection": self.client_address[1],
                "client": self.client_name(), "method": self.command, "path": self.path,
                "headers": {k.lower(): v for k, v in self.headers.items()}, "body": body}) + "\n")
            log.flush()
        return n

    def client_name(self):
        if not isinstance(self.connection, ssl.SSLSocket):
            return None
        names = dict(pair[0] for pair in (self.connection.getpeercert() or {}).get("subject", ()))
        return names.get("commonName")

    def handle_any(self):
        n = self.note()
        mode, *args = self.path.split("?")[0].strip("/").split("/")
        if mode == "status":
            self.answer(int(args[0]))
        elif mode == "fail":
            self.answer(int(args[1]) if n <= int(args[0]) else 200)
        elif mode in ("retry", "retry-date") and n == 1:
            after = args[0]
            if mode == "retry-date":
                after = email.utils.formatdate(time.time() + float(after), usegmt=True)
            self.answer(429, [("Retry-After", after)])
        elif mode == "hang":
            self.close_connection = True
            time.sleep(60)
        elif mode == "wait":
            time.sleep(float(args[0]))
            self.answer(200)
        elif mode == "redirect":
            self.answer(302, [("Location", "/redirected")])
        elif mode == "redirect-meta":
            self.answer(302, [("Location", "http://169.254.169.254/latest/meta-data/")])
        elif mode == "endless":
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)
        elif mode == "bigheaders":
            self.answer(200, [("X-Filler-%d" % i, "x" * 1000) for i in range(1000)])
        elif mode == "reset":
            self.close_connection = True
        elif mode == "garbage":
            self.close_connection = True
            self.wfile.write(b"\x00\xff not http \r\n\r\n")
        elif mode == "latin":
            body = b'{"error": "\xe4\xff\x00\xc0\x80"}'
            self.start_raw(b"HTTP/1.1 503 Nicht verf\xfcgbar\r\nX-Why: \xff\xfe\r\nContent-Length: %d\r\n\r\n%s"
                           % (len(body), body))
        elif mode == "drip":
            self.start_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            self.repeat(b"x", 0.05)
        elif mode == "dripheaders":
            self.start_raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self.repeat(b"x", 0.05)
        elif mode == "endlessheaders":
            self.start_raw(b"HTTP/1.1 200 OK\r\n")
            self.repeat(b"X-More: %s\r\n" % (b"x" * 1000))
        elif mode == "continue":
            self.start_raw(b"")
            self.repeat(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif mode == "short":
            self.start_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
        elif mode == "later" and n == 1:
            self.answer(429, [("Content-Type", "application/json")], LATER[args[0]])
        elif mode == "resetbody":
            self.start_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif mode == "gzip":
            self.answer(200, [("Content-Encoding", "gzip")], gzip.compress(bytes(1 << 20)))
        elif mode == "go":
            self.answer(int(args[0]), [("Location", self.path.split("?", 1)[1])])
        elif mode == "loop":
            self.answer(302, [("Location", "/loop")])
        elif mode == "secure":
            self.answer(200, [("Strict-Transport-Security", "max-age=31536000"), ("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'"),
                              ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"), ("Permissions-Policy", "camera=()")])
        elif mode == "json":
            self.answer(200, [("Content-Type", "application/json"), ("X-Session", "s-%d" % n)], b'{"user": {"token": "a b&c\\"%d"}}' % n)
        elif mode == "cookie":
            self.answer(200, [("Set-Cookie", "a=b; Path=/")])
        else:
            self.answer(200)

    def start_raw(self, data):
        self.close_connection = True
        self.wfile.write(data)

    def repeat(self, data, pause=0):
        end = time.time() + 60
        while time.time() < end:
            self.wfile.write(data)
            time.sleep(pause)

    do_POST = do_PUT = do_GET = do_HEAD = handle_any

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def main():
    global log
    log = open(sys.argv[1], "a", encoding="utf-8")
    server = Server((sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1",
                     int(sys.argv[2]) if len(sys.argv) > 2 else 0), Receiver)
    if len(sys.argv) > 4:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[4])
        if len(sys.argv) > 5 and sys.argv[5]:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(sys.argv[5])
        if len(sys.argv) > 6:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = getattr(ssl.TLSVersion, "TLSv" + sys.argv[6].replace(".", "_"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print("port", server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
