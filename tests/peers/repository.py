"""A repository of audit records of the tests' own, which takes syslog over TLS."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.peers.pki import Authority

FRAME: Final = re.compile(rb"(\d+) ")


@dataclass
class Repository:
    """Where it listens, what it got, and its connections."""

    port: int
    messages: list[str] = field(default_factory=list)
    connections: list[ssl.SSLSocket] = field(default_factory=list)

    def hang_up(self) -> None:
        """Close every connection."""
        for sock in self.connections:
            sock.shutdown(socket.SHUT_RDWR)

    def receive(self, sock: ssl.SSLSocket) -> None:
        """Read frames (RFC 5425 4.3) until the connection ends."""
        data = b""
        while received := sock.recv(65536):
            data += received
            while (frame := FRAME.match(data)) and len(data) >= frame.end() + int(frame[1]):
                end = frame.end() + int(frame[1])
                self.messages.append(data[frame.end() : end].decode("utf-8"))
                data = data[end:]


@contextmanager
def repository(authority: Authority) -> Iterator[Repository]:
    """Run one on a free port, one connection at a time."""
    identity = authority.issue("repository")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    listening = socket.create_server(("127.0.0.1", 0))
    running = Repository(listening.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as sock:
                    running.connections.append(sock)
                    running.receive(sock)
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        # `close` alone does not wake who accepts.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)
