#!/usr/bin/env python3
"""receiver.py FILE PORTFILE: a local webhook receiver.

Listens on a free port of 127.0.0.1, writes the port into PORTFILE, and appends
every request it gets to FILE as one line of JSON: time, path, headers, body.
"""
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BODY = 1024 * 1024


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MAX_BODY))
        received = time.time()
        try:
            content = json.loads(body)
        except ValueError:
            content = body.decode("utf-8", "replace")
        line = json.dumps({"received_at": received, "path": self.path,
                           "headers": dict(self.headers.items()), "body": content})
        with open(sys.argv[1], "a", encoding="utf-8") as out:
            out.write(line + "\n")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    open(sys.argv[1], "a", encoding="utf-8").close()
    with open(sys.argv[2] + ".new", "w", encoding="utf-8") as out:
        out.write(str(server.server_port))
    os.rename(sys.argv[2] + ".new", sys.argv[2])
    server.serve_forever()


if __name__ == "__main__":
    main()
