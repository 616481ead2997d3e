"""moto as the node's AWS, on a listening socket that the node hands over.

    python -m infra.local.moto_server FILE_DESCRIPTOR

moto's own server is made for the few calls of a test. What is mended here, with moto 5.2 (its
queues have a module of their own):

- S3 and DynamoDB check a condition and write in two steps. AWS does both as one: so here one
  request at a time, which costs nothing since moto computes in Python under one lock anyhow. (SQS
  waits inside a request and has a lock for each queue instead.)
- Every response closes its connection, and every request lists the packages of moto on disk.
"""

import http
import io
import logging
import resource
import socket
import sys
import threading
from collections.abc import Iterable
from typing import Any, Final

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import ThreadedWSGIServer

from .moto_queues import use_in_moto

_log = logging.getLogger(__name__)

#: Loaded before the first request, so that it need not wait for imports.
SERVICES: Final = ("s3", "sqs", "dynamodb")
#: Whose requests check and write, and must do so as one.
_ONE_AT_A_TIME: Final = ("s3", "dynamodb")


class _Application(DomainDispatcherApplication):
    """moto's services behind one door, found without a look at the disk."""

    def __init__(self) -> None:
        super().__init__(create_backend_app)
        self._backends: dict[str | None, Any] = {}
        self._turns = {service: threading.Lock() for service in _ONE_AT_A_TIME}
        for service in SERVICES:
            backend = self.get_backend_for_host(f"{service}.us-east-1.amazonaws.com")
            self.app_instances[backend] = create_backend_app(backend)

    def get_backend_for_host(self, host: str | None) -> Any:  # noqa: ANN401 - moto's own signature
        if host not in self._backends:
            self._backends[host] = super().get_backend_for_host(host)
        return self._backends[host]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:  # noqa: ANN401
        application = self.get_application(environ)
        turn = self._turns.get(application.service)  # type: ignore[attr-defined]
        if turn is None:
            return application(environ, start_response)
        with turn:
            return application(environ, start_response)


class _RequestHandler(MotoRequestHandler):
    """HTTP/1.1 that keeps its connection: a request is read whole and answered in one write."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        if self.headers.get("Expect", "").strip().lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        environ = self.make_environ()
        if environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read()
        else:
            body = self.rfile.read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        status, headers, answer = self._answer(environ)
        if not status.startswith(("1", "204", "304")) and not any(
            name.lower() == "content-length" for name, _ in headers
        ):
            headers = [*headers, ("Content-Length", str(len(answer)))]
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        if self.command == "HEAD":
            answer = b""
        self.wfile.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + answer)

    def _answer(self, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _exc_info: object = None
        ) -> None:
            started.append((status, headers))

        try:
            chunks: Iterable[bytes] = self.server.app(environ, start_response)  # type: ignore[arg-type]
            answer = b"".join(chunks)
        except Exception:  # noqa: BLE001 - a server outlives its requests
            _log.exception("moto failed at %s", self.command)
            failed = http.HTTPStatus.INTERNAL_SERVER_ERROR
            return f"{failed.value} {failed.phrase}", [], b""
        if close := getattr(chunks, "close", None):
            close()
        return *started[-1], answer

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Write no access log."""


def main() -> None:
    """Serve on the inherited listening socket until the process is ended."""
    # An object above moto's buffer size, and a connection, is an open file each.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    use_in_moto()
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        host, port = listening.getsockname()
        server = ThreadedWSGIServer(
            host, port, _Application(), _RequestHandler, fd=listening.fileno()
        )
    server.serve_forever()


if __name__ == "__main__":
    main()
