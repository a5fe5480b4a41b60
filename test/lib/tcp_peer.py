#!/usr/bin/env python3
"""A peer that speaks lines over TCP, for tests.

usage: tcp_peer.py [CERT]

Prints "port N" once it listens on 127.0.0.1; with CERT (key and certificate in
one PEM file) over TLS.  It greets with "220 hello", and answers the first line
by its first word:

  echo TEXT   the text, in two parts with a pause between them
  flood       bytes without end and without a line's end
  drip        a byte now and then
  silent      nothing
  close       the end of the connection, after "bye" without a line's end
  reset       part of an answer, then the connection is reset
  deaf        nothing, and nothing more is read
"""
import socket
import socketserver
import ssl
import struct
import sys
import time


class Peer(socketserver.StreamRequestHandler):
    timeout = 60

    def handle(self):
        self.wfile.write(b"220 hello\r\n")
        word, _, rest = self.rfile.readline(65536).strip().partition(b" ")
        if word == b"echo":
            self.wfile.write(rest[:len(rest) // 2])
            time.sleep(0.05)
            self.wfile.write(rest[len(rest) // 2:] + b"\r\n")
        elif word == b"flood":
            while True:
                self.wfile.write(b"x" * 65536)
        elif word == b"drip":
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif word == b"close":
            self.wfile.write(b"bye")
        elif word == b"reset":
            self.wfile.write(b"part")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            time.sleep(60)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):
            super().handle_error(request, client_address)


def main():
    server = Server(("127.0.0.1", 0), Peer)
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print("port", server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
