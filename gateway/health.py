"""Health checks over HTTP on a port of their own: `GET /alive` and `GET /ready`.

Alive is asked by whoever would start the process anew (ECS): 200 as long as it serves, also while
it drains; 503 when the thread that accepts connections has stopped turning. The load balancer of
infra/gateway.yaml asks it as well: it says there why. Ready is for people, and for whoever would
rather send nobody here: 200 while a new association would be of use, otherwise 503 and one line
that says why.

Whether bucket and table can be reached is looked at every `LOOK_SECONDS` by a thread, not for each
probe: probes cost nothing however many there are, and are answered at once however slow S3 is.

Another thread answers probes, all of them in one loop: a client that is slow, silent or one of a
crowd holds up nobody, and what it may cost is bounded. Probes are not logged. Each look that finds
the process not ready is, when that changes and every minute while it lasts: an alarm counts those.
"""

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from lenticular.aws import Patience, dynamodb_client, error_code, s3_client

_log: Final = logging.getLogger(__name__)

LOOK_SECONDS: Final = 10.0
#: A look that has not come back by then says as much as one that failed.
_OVERDUE_SECONDS: Final = 3 * LOOK_SECONDS
#: Probes that are served at a time; the oldest leaves for the newest.
_MAX_PROBES: Final = 64
#: Time and bytes a probe has to say what it wants.
_PROBE_SECONDS: Final = 5.0
_REQUEST_MAX_BYTES: Final = 8 * 1024
_BACKLOG: Final = 64
#: A thread that accepts connections and has not turned so long after it was asked to is stuck.
_STUCK_SECONDS: Final = 15.0
#: A process that stays not ready is said to be so often.
_SAY_AGAIN_SECONDS: Final = 60.0

_STUCK: Final = "the thread that accepts connections is stuck"
_DRAINING: Final = "draining"
_NOT_LOOKED_YET: Final = "the bucket and the table have not been looked at yet"
_OVERDUE: Final = "the bucket and the table have not answered for too long"


class StoreLook:
    """Looks whether bucket and table can be reached; calling it returns why not, or `None`."""

    def __init__(
        self, bucket: str, table: str, *, with_bucket: bool = True, with_table: bool = True
    ) -> None:
        """Raise `OperatorError` when AWS is not configured.

        With a spool the bucket is not looked at: the node is there for its senders exactly when S3
        is not. Nor is the table where anybody may send, for no instance needs it then.
        """
        self._with_bucket = with_bucket
        self._with_table = with_table
        self._bucket = bucket
        self._table = table
        self._s3 = s3_client(Patience.LOOK)
        self._dynamodb = dynamodb_client(Patience.LOOK)

    def __call__(self) -> str | None:
        """Ask S3 for the bucket and DynamoDB for an item that nobody writes."""
        if self._with_bucket:
            try:
                self._s3.head_bucket(Bucket=self._bucket)
            except (BotoCoreError, ClientError) as error:
                return f"the bucket cannot be reached: {error_code(error)}"
        if self._with_table:
            try:
                self._dynamodb.get_item(
                    TableName=self._table, Key={"pk": {"S": "HEALTH"}, "sk": {"S": "LOOK"}}
                )
            except (BotoCoreError, ClientError) as error:
                return f"the table cannot be reached: {error_code(error)}"
        return None


@dataclass(slots=True, eq=False)
class _Probe:
    """A connection whose request is not whole yet."""

    sock: socket.socket
    deadline: float
    request: bytearray = field(default_factory=bytearray)


class Health:
    """Answers health checks from `start` to `close`."""

    def __init__(  # noqa: PLR0913 - where to listen, what to look at, how often
        self,
        bind: str,
        port: int,
        *,
        is_draining: Callable[[], bool],
        beat: Callable[[], float],
        look: Callable[[], str | None],
        trouble: Callable[[], str | None] = lambda: None,
        look_seconds: float = LOOK_SECONDS,
        probe_seconds: float = _PROBE_SECONDS,
        stuck_seconds: float = _STUCK_SECONDS,
        say_again_seconds: float = _SAY_AGAIN_SECONDS,
    ) -> None:
        """Listen at once; raises `OSError` when it cannot.

        `beat` asks the thread that accepts connections to turn, and returns when it last did, as
        `monotonic` tells time. `look` returns why bucket and table cannot be reached, or `None`;
        `trouble`, asked for each probe, why this process itself is not ready.
        """
        self._is_draining = is_draining
        self._beat = beat
        self._stuck_seconds = stuck_seconds
        self._asked_to_turn: float | None = None
        self._look = look
        self._trouble = trouble
        self._look_seconds = look_seconds
        self._probe_seconds = probe_seconds
        self._say_again_seconds = say_again_seconds
        self._said: str | None = _NOT_LOOKED_YET
        self._say_again_at = 0.0
        self._listener = socket.create_server(
            (bind, port),
            family=socket.AF_INET6 if ":" in bind else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=bind == "::" and socket.has_dualstack_ipv6(),
        )
        self._listener.setblocking(False)
        host, actual_port, *_ = self._listener.getsockname()
        #: The address and port it listens on.
        self.address = (str(host), int(actual_port))
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_read, selectors.EVENT_READ, lambda: None)
        self._probes: dict[socket.socket, _Probe] = {}
        self._closing = threading.Event()
        self._found: str | None = _NOT_LOOKED_YET
        self._looked_at = monotonic()
        self._threads = [
            threading.Thread(target=self._serve, name="health", daemon=True),
            threading.Thread(target=self._keep_looking, name="health-look", daemon=True),
        ]

    def start(self) -> None:
        """Answer from now on, in threads of its own."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop answering; a look that is under way is not waited for."""
        self._closing.set()
        self._wake_write.send(b"\0")
        self._threads[0].join()
        self._selector.close()
        for sock in (self._listener, self._wake_read, self._wake_write):
            sock.close()

    def not_ready(self) -> str | None:
        """Say why a new association would be of no use now, or `None`."""
        if self._is_draining():
            return _DRAINING
        trouble = self._trouble()
        if trouble is not None:
            return trouble
        if self._found is None and monotonic() > self._looked_at + self._look_seconds + (
            _OVERDUE_SECONDS
        ):
            return _OVERDUE
        return self._found

    def _is_stuck(self) -> bool:
        """Ask for a turn, and tell whether the one asked for before has not come for too long."""
        turned = self._beat()
        now = monotonic()
        if self._asked_to_turn is None or turned >= self._asked_to_turn:
            self._asked_to_turn = now
            return False
        return now > self._asked_to_turn + self._stuck_seconds

    # In the thread that looks

    def _keep_looking(self) -> None:
        while True:
            try:
                found = self._look()
            except Exception:  # noqa: BLE001 - whoever cannot look must not say that all is well
                _log.exception("the look at bucket and table failed")
                found = "the look at bucket and table failed"
            # In this order, so that whoever hears a reason finds it in the log.
            if not self._is_draining():
                self._say(self._trouble() or found)
            self._found = found
            self._looked_at = monotonic()
            if self._closing.wait(self._look_seconds):
                return

    def _say(self, reason: str | None) -> None:
        """Log why this process is not ready, if there is something to say anew."""
        now = monotonic()
        if reason is None:
            if self._said is not None:
                _log.info("ready")
        elif reason != self._said or now >= self._say_again_at:
            _log.warning("not ready", extra={"reason": reason})
            self._say_again_at = now + self._say_again_seconds
        self._said = reason

    # In the thread that answers

    def _serve(self) -> None:
        while not self._closing.is_set():
            oldest = next(iter(self._probes.values()), None)
            wait = None if oldest is None else max(0.0, oldest.deadline - monotonic())
            for key, _ in self._selector.select(wait):
                key.data()
            now = monotonic()
            for probe in list(self._probes.values()):
                if probe.deadline > now:
                    break
                self._close(probe)
        for probe in list(self._probes.values()):
            self._close(probe)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # Mostly EMFILE, of which the DICOM port tells. Not to be tried again at once.
            self._closing.wait(0.1)
            return
        sock.setblocking(False)
        if len(self._probes) >= _MAX_PROBES:
            self._close(next(iter(self._probes.values())))
        probe = _Probe(sock, monotonic() + self._probe_seconds)
        self._probes[sock] = probe
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._read(probe))

    def _read(self, probe: _Probe) -> None:
        if probe.sock not in self._probes:
            return  # pushed out in this very turn
        try:
            received = probe.sock.recv(_REQUEST_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        probe.request += received
        if b"\r\n\r\n" in probe.request:
            with contextlib.suppress(OSError):
                probe.sock.send(self._answer(bytes(probe.request)))
            self._close(probe)
        elif not received or len(probe.request) > _REQUEST_MAX_BYTES:
            self._close(probe)

    def _answer(self, request: bytes) -> bytes:
        """Answer a whole request; the connection is closed afterwards."""
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "GET only", with_body=True)
        status, line = self._judge(path)
        return _response(status, line, with_body=method == b"GET")

    def _judge(self, path: bytes) -> tuple[HTTPStatus, str]:
        if path == b"/alive":
            if self._is_stuck():
                return HTTPStatus.SERVICE_UNAVAILABLE, _STUCK
            return HTTPStatus.OK, "alive"
        if path == b"/ready":
            reason = self.not_ready()
            if reason is None:
                return HTTPStatus.OK, "ready"
            return HTTPStatus.SERVICE_UNAVAILABLE, reason
        return HTTPStatus.NOT_FOUND, "/alive or /ready"

    def _close(self, probe: _Probe) -> None:
        if self._probes.pop(probe.sock, None) is not None:
            self._selector.unregister(probe.sock)
        probe.sock.close()


def _response(status: HTTPStatus, line: str, *, with_body: bool) -> bytes:
    body = f"{line}\n".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head + body if with_body else head
