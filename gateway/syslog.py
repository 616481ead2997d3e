"""Audit messages by syslog over TLS, PS3.15 A.6: RFC 5424 in the frames of RFC 5425.

Syslog has no acknowledgement: what was on its way when a connection broke may be lost, and nobody
can tell. So it passes copies on, for repositories that take nothing else; the log group or the file
is the record.
"""

import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lenticular.audit import AuditMessage, Outcome
from lenticular.audit_outlets import OutletFailed

#: "Security/authorization messages", PS3.15 A.6.1.
_FACILITY: Final = 10
_WARNING: Final = 4
_NOTICE: Final = 5
_MESSAGE_ID: Final = "DICOM+RFC3881"
_APPLICATION: Final = "lenticular"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SECONDS: Final = 10.0


def tls_context(authority: Path | None) -> ssl.SSLContext:
    """Trust who `authority` names, by default whom the system trusts; TLS 1.2 at least."""
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Syslog:
    """Passes messages on over one connection, which is made again when it has ended."""

    gather_seconds = 0.0

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
                self.close()
            if self._sock is None:
                self._sock = self._connect()
            self._sock.sendall(b"".join(map(self._framed, messages)))
        except OSError as error:
            self.close()
            raise OutletFailed(f"syslog: {type(error).__name__}") from error
        return 0

    def close(self) -> None:
        """End the connection."""
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
