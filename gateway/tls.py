"""TLS behind the DICOM port and towards nodes, with certificates that change while we serve.

The context that a connection gets stays its own for as long as it lives. Whoever renews a
certificate replaces its files; connections made a few seconds later have the new one. Files
that do not fit together (a new certificate beside the key of the old one, for a moment or for good)
change nothing but the log.
"""

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

from lenticular.errors import OperatorError
from lenticular.nodes import Node
from lenticular.settings import TlsProfile
from lenticular.tls import keep_to, why
from lenticular.tls_calling import CallingFiles, Remedies, Tls

_log: Final = logging.getLogger(__name__)

#: How old a look at the files may be when a connection is made.
_LOOK_SECONDS: Final = 2.0

_REMEDIES: Final = Remedies(
    authority="LENTICULAR_TLS_CA must name the PEM file of who issued it",
    any_host="let the node say `tls: any-host`, which takes LENTICULAR_TLS_CA",
    certificate="LENTICULAR_TLS_CERTIFICATE and LENTICULAR_TLS_KEY must name it",
    plain="let the node say `tls: none`",
)

_PEM_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_PEM_END: Final = "-----END CERTIFICATE-----"
# Of DER, X.690 8.1.2 and 8.1.3.5.
_VERSION_TAG: Final = 0xA0
_UTC_TIME_TAG: Final = 0x17
_LONG_LENGTH: Final = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where our certificate and key are, and who may issue our peers' certificates."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that is read."""
        files = (self.certificate, self.key, self.client_ca)
        return tuple(path for path in files if path is not None)

    def context(self, profile: TlsProfile) -> ssl.SSLContext:
        """Make the context of an acceptor, or raise `OperatorError` when the files do not do."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        keep_to(context, profile)
        try:
            # Without this OpenSSL would ask on the terminal for a password.
            context.load_cert_chain(self.certificate, self.key, password="")
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:
            raise OperatorError(
                f"TLS cannot be spoken with the certificate {self.certificate}: {why(error)}"
            ) from error
        return context


class Certificates:
    """The TLS context for a connection that is made now. Safe to share between threads."""

    def __init__(
        self,
        files: TlsFiles | CallingFiles,
        profile: TlsProfile,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Read the files, or raise `OperatorError`."""
        self._files = files
        self._profile: TlsProfile = profile
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._looked = clock()
        self._context = files.context(profile)

    def context(self) -> ssl.SSLContext:
        """Return the context of the newest files that could be used."""
        with self._lock:
            now = self._clock()
            if now >= self._looked + _LOOK_SECONDS:
                self._looked = now
                # Looked at before they are read: what changes meanwhile is seen the next time.
                stamps = self._stamps()
                if stamps != self._seen:
                    self._seen = stamps
                    self._reload()
            return self._context

    def _reload(self) -> None:
        facts = {"files": [str(path) for path in self._files.paths]}
        try:
            self._context = self._files.context(self._profile)
        except OperatorError as error:
            _log.warning(
                "the new certificate cannot be used, the old one stays",
                extra={**facts, "reason": str(error)},
            )
        else:
            _log.info("certificate reloaded", extra=facts)

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._files.paths]


class Calling:
    """How TLS is spoken with the nodes that we call. Safe to share between threads."""

    def __init__(self, files: CallingFiles, profile: TlsProfile) -> None:
        """Read the files, or raise `OperatorError`."""
        self._shows_certificate = files.certificate is not None
        self._to_host = Certificates(files, profile)
        # Of those whom the system trusts, anybody may have a certificate.
        self._to_any_host = (
            self._to_host
            if files.authority is None
            else Certificates(replace(files, any_host=True), profile)
        )

    def with_node(self, node: Node) -> Tls | None:
        """Return how TLS is spoken with a node, `None` where it is called without."""
        if node.tls == "none":
            return None
        certificates = self._to_any_host if node.tls == "any-host" else self._to_host
        return Tls(certificates.context(), self._shows_certificate, _REMEDIES)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def expiry(certificate: Path) -> datetime:
    """Return when the first certificate of a PEM file ends, UTC; `OSError` or `ValueError` if none.

    Python's `ssl` tells that of peers' certificates only. RFC 5280 4.1: of a certificate's first
    member the fourth, not counting a version, holds its beginning and its end.
    """
    text = certificate.read_text("ascii")
    first = text[text.index(_PEM_BEGIN) : text.index(_PEM_END) + len(_PEM_END)]
    [(_, whole)] = _members(ssl.PEM_cert_to_DER_cert(first))
    (_, to_be_signed), *_ = _members(whole)
    members = [each for each in _members(to_be_signed) if each[0] != _VERSION_TAG]
    _, _, _, (_, validity), *_ = members
    _, (tag, moment) = _members(validity)
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME_TAG else "%Y%m%d%H%M%SZ"
    return datetime.strptime(moment.decode("ascii"), form).replace(tzinfo=UTC)


def _members(encoded: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of each element of a run of DER, X.690 8.1; `ValueError` if cut."""
    found, at = [], 0
    while at < len(encoded):
        if at + 2 > len(encoded):
            raise ValueError("the certificate is cut off")
        tag, length = encoded[at], encoded[at + 1]
        at += 2
        if length >= _LONG_LENGTH:
            size = length - _LONG_LENGTH
            length = int.from_bytes(encoded[at : at + size], "big")
            at += size
        if at + length > len(encoded):
            raise ValueError("the certificate is cut off")
        found.append((tag, encoded[at : at + length]))
        at += length
    return found


def beneath(sock: ssl.SSLSocket) -> socket.socket:
    """End our half of a TLS session, without waiting, and return the TCP connection beneath."""
    sock.setblocking(False)
    with contextlib.suppress(OSError, ValueError):
        # Sends close_notify and raises, unless the peer's has come already. Without a session,
        # after a failed handshake, there is nothing to end.
        sock.unwrap()
    return socket.socket(fileno=sock.detach())
