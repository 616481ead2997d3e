"""A way to AWS that leads through a test: HTTP requests that a handler sees before moto does."""

import http.client
import http.server
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

_FORWARD_SECONDS: Final = 60.0
#: How often the server looks whether it is to stop.
_POLL_SECONDS: Final = 0.02
#: They belong to one connection, RFC 9110 7.6.1, or are written anew.
_NOT_FORWARDED: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})


@dataclass(frozen=True)
class Answer:
    """What is said to a request."""

    status: int
    headers: Sequence[tuple[str, str]]
    content: bytes


class ReverseProxy(http.server.ThreadingHTTPServer):
    """Hears requests until it is closed.

    Attributes:
        endpoint: where clients find it
        behind: host and port of what it stands in front of
    """

    daemon_threads = True
    # As many as a test has associations; the default of 5 drops connections.
    request_queue_size = 128

    def __init__(self, endpoint: str, handler: "type[Forwarding]") -> None:
        """Stand in front of `endpoint`."""
        super().__init__(("127.0.0.1", 0), handler)
        self.behind = urlsplit(endpoint).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class Forwarding(http.server.BaseHTTPRequestHandler):
    """Can pass a request on, and an answer back."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def forward(self, body: bytes) -> Answer:
        """Ask what is behind the proxy, with all that came but for the body, and hear it out."""
        behind = cast("ReverseProxy", self.server).behind
        connection = http.client.HTTPConnection(behind, timeout=_FORWARD_SECONDS)
        try:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _NOT_FORWARDED
            }
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        kept = [
            (name, value)
            for name, value in response.getheaders()
            if name.lower() not in _NOT_FORWARDED or self.command == "HEAD"
        ]
        return Answer(response.status, kept, content)

    def answer(self, answer: Answer) -> None:
        """Say it to the client."""
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)
