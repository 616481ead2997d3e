"""Where audit messages go: a file, a log group of CloudWatch Logs, and a repository by syslog.

The gateway's trail puts a queue and a thread before each (`gateway.audit`), commands write as they
go. A log group has a retention and readers of its own. A container has one stream of logs, and who
may read in it what goes wrong need not know who was a patient: so these lines do not go through
stdout, our own requests put them.

Syslog over TLS is PS3.15 A.6: RFC 5424 in the frames of RFC 5425. It has no acknowledgement: what
was on its way when a connection broke may be lost, and nobody can tell. So it passes copies on, for
repositories that take nothing else; the log group or the file is the record.
"""

import contextlib
import fcntl
import os
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from .audit import AuditMessage, Outcome
from .aws import logs_client
from .errors import LenticularError, OperatorError

#: What PutLogEvents takes at a time: bytes, where each event counts 26 more than it has, and span.
_MOST_BYTES: Final = 1_048_576
_EVENT_BYTES: Final = 26
_LONGEST_SPAN_MILLISECONDS: Final = 86_000_000

#: "Security/authorization messages", PS3.15 A.6.1.
_FACILITY: Final = 10
_WARNING: Final = 4
_NOTICE: Final = 5
_MESSAGE_ID: Final = "DICOM+RFC3881"
_APPLICATION: Final = "lenticular"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SECONDS: Final = 10.0
_GOODBYE_SECONDS: Final = 2.0

_Event = dict[str, Any]


class OutletFailed(LenticularError):
    """An outlet did not take what it was given; it is given it again."""


class Outlet(Protocol):
    """Where audit messages go. Used by one thread."""

    @property
    def name(self) -> str:
        """What our log calls it."""

    @property
    def gather_seconds(self) -> float:
        """How long after a message more of them are waited for, to go with it."""

    @property
    def is_record(self) -> bool:
        """Whether what was sent is there for certain; else it passes copies on."""

    def send(self, messages: Sequence[AuditMessage]) -> int:
        """Pass messages on; return how many were refused for good, or raise `OutletFailed`."""

    def close(self) -> None:
        """Pass on no more."""


class AuditFile:
    """Appends a line of JSON for each message to a file that only its owner may read.

    The file is opened anew each time, so it may be moved away while we run.
    """

    gather_seconds = 0.0
    is_record = True

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        self.name = "file"
        self._path = path

    def send(self, messages: Sequence[AuditMessage]) -> int:
        """Append all of them or none: what a full disk did not take comes again, as a whole.

        Other processes may append to the same file, each in its turn.
        """
        rest = "".join(f"{message.to_line()}\n" for message in messages).encode("ascii")
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                before = os.fstat(descriptor).st_size
                try:
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
                except OSError:
                    os.ftruncate(descriptor, before)
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutletFailed(error.strerror or type(error).__name__) from error
        return 0

    def close(self) -> None:
        """Do nothing: it is closed already."""


class LogGroup:
    """Puts a line of JSON for each message into a stream of this process's own."""

    gather_seconds = 1.0
    is_record = True

    def __init__(self, client: Any, group: str) -> None:  # noqa: ANN401 - boto3 without its stubs for logs
        """Use a CloudWatch Logs client."""
        self.name = "log group"
        self._client = client
        self._group = group
        self._stream = f"{socket.gethostname()}-{os.getpid()}"
        self._has_stream = False

    def send(self, messages: Sequence[AuditMessage]) -> int:
        """Put the messages, oldest first, or raise `OutletFailed`."""
        refused = 0
        try:
            if not self._has_stream:
                self._create_stream()
            for batch in _batches(messages):
                answer = self._client.put_log_events(
                    logGroupName=self._group, logStreamName=self._stream, logEvents=batch
                )
                # Too old or too new, by a clock that is wrong: CloudWatch does not say which.
                refused += len(batch) if answer.get("rejectedLogEventsInfo") else 0
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            if code == "ResourceNotFoundException":
                self._has_stream = False
            raise OutletFailed(f"CloudWatch Logs: {code}") from error
        except BotoCoreError as error:
            raise OutletFailed(f"CloudWatch Logs: {type(error).__name__}") from error
        return refused

    def close(self) -> None:
        """Do nothing: each request stands on its own."""

    def _create_stream(self) -> None:
        try:
            self._client.create_log_stream(logGroupName=self._group, logStreamName=self._stream)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "ResourceAlreadyExistsException":
                raise
        self._has_stream = True


def _batches(messages: Sequence[AuditMessage]) -> Iterator[list[_Event]]:
    """Cut messages into what one request takes."""
    batch: list[_Event] = []
    room = _MOST_BYTES
    for message in sorted(messages, key=lambda each: each.at):
        line = message.to_line()
        event = {"timestamp": int(message.at.timestamp() * 1000), "message": line}
        # The line is ASCII.
        needed = len(line) + _EVENT_BYTES
        spans = batch and event["timestamp"] - batch[0]["timestamp"] > _LONGEST_SPAN_MILLISECONDS
        if batch and (needed > room or spans):
            yield batch
            batch, room = [], _MOST_BYTES
        batch.append(event)
        room -= needed
    if batch:
        yield batch


def tls_context(authority: Path | None) -> ssl.SSLContext:
    """Trust who `authority` names, by default whom the system trusts; TLS 1.2 at least."""
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Syslog:
    """Passes messages on over one connection, which is made again when it has ended."""

    gather_seconds = 0.0
    is_record = False

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        """Connect to `host` when there is something to say."""
        self.name = "syslog"
        self._host = host
        self._port = port
        self._context = context
        self._sock: ssl.SSLSocket | None = None
        self._here = socket.gethostname() or "-"

    def send(self, messages: Sequence[AuditMessage]) -> int:
        """Send every message, or raise `OutletFailed`."""
        try:
            if self._sock is not None and self._has_ended(self._sock):
                self._drop()
            if self._sock is None:
                self._sock = self._connect()
            self._sock.sendall(b"".join(map(self._framed, messages)))
        except OSError as error:
            self._drop()
            raise OutletFailed(f"syslog: {type(error).__name__}") from error
        return 0

    def close(self) -> None:
        """End the connection when all that was sent has arrived."""
        if self._sock is not None:
            # Closed with something of TLS unread, a ticket say, TCP takes back what is under way.
            with contextlib.suppress(OSError):
                self._sock.settimeout(_GOODBYE_SECONDS)
                self._sock.unwrap()
            self._drop()

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((self._host, self._port), timeout=_SECONDS)
        try:
            return self._context.wrap_socket(plain, server_hostname=self._host)
        except OSError:
            plain.close()
            raise

    def _has_ended(self, sock: ssl.SSLSocket) -> bool:
        """Look whether the repository has closed the connection; it has nothing else to say."""
        sock.settimeout(0)
        try:
            return sock.recv(1) == b""
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        finally:
            sock.settimeout(_SECONDS)

    def _framed(self, message: AuditMessage) -> bytes:
        severity = _NOTICE if message.outcome is Outcome.SUCCESS else _WARNING
        header = (
            f"<{_FACILITY * 8 + severity}>1 {message.moment} {self._here} {_APPLICATION} "
            f"{os.getpid()} {_MESSAGE_ID} - "
        )
        text = header.encode("ascii", "replace") + _BYTE_ORDER_MARK + message.to_xml().encode()
        return b"%d " % len(text) + text


def open_outlets(
    log_group: str | None,
    file: Path | None,
    syslog: tuple[str, int] | None,
    syslog_authority: Path | None,
) -> list[Outlet]:
    """Return the places that are named, the record before its copy, or raise `OperatorError`."""
    outlets: list[Outlet] = []
    if log_group is not None:
        outlets.append(LogGroup(logs_client(), log_group))
    if file is not None:
        outlets.append(AuditFile(file))
    if syslog is not None:
        try:
            context = tls_context(syslog_authority)
        except (OSError, ValueError) as error:
            raise OperatorError(f"LENTICULAR_AUDIT_SYSLOG_CA cannot be used: {error}") from error
        outlets.append(Syslog(*syslog, context))
    return outlets
