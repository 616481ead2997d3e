"""TLS with peers that we call: whom we trust, what we show, and why it could not be spoken."""

import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

from .errors import OperatorError
from .settings import TlsProfile
from .tls import keep_to, why

_NOT_TRUSTED: Final = "shows a certificate of nobody that is trusted here: {authority}"
_NOT_FOR_HOST: Final = (
    "shows a certificate that is not for {host}: call it by a name that is in the certificate, or, "
    "if it is known to be the right one, {any_host}"
)
#: What is wrong with a peer's certificate, by the codes of OpenSSL's x509_vfy.h.
_VERDICTS: Final[Mapping[int, str]] = {
    9: "shows a certificate that is not valid yet: compare the clocks of both sides",
    10: "shows a certificate that has expired: it needs a new one",
    **dict.fromkeys((2, 18, 19, 20, 21), _NOT_TRUSTED),
    **dict.fromkeys((62, 64), _NOT_FOR_HOST),
}
_NO_TLS: Final = (
    "speaks no TLS on this port: call it at its port for TLS (registered: 2762), or {plain}"
)
_TOO_OLD: Final = "speaks no TLS 1.2 or newer, and what is older is not safe (BCP 195)"
_NOTHING_IN_COMMON: Final = "has no cipher suite of BCP 195 in common with us"
_WANTS_A_CERTIFICATE: Final = "asks for a certificate of ours: {certificate}"
_TAKES_NOT_OURS: Final = (
    "does not take the certificate that we show: it must be valid and of an authority that the "
    "peer trusts"
)
#: What ended a handshake, by OpenSSL's words. An alert (RFC 8446 6.2) is what the peer says.
_REASONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"),
        _NO_TLS,
    ),
    **dict.fromkeys(("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"), _TOO_OLD),
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": _NOTHING_IN_COMMON,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NOTHING_IN_COMMON,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_A_CERTIFICATE,
    **dict.fromkeys(
        (
            "TLSV1_ALERT_UNKNOWN_CA",
            "TLSV1_ALERT_ACCESS_DENIED",
            "TLSV1_ALERT_DECRYPT_ERROR",
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_CERTIFICATE_REVOKED",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        ),
        _TAKES_NOT_OURS,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """What there is to do, in the words of who is told; each ends a sentence.

    Attributes:
        authority: where the certificate is not of anybody that is trusted
        any_host: where it is the right one and for another host
        certificate: where the peer wants to see one of ours
        plain: where the peer speaks no TLS
    """

    authority: str
    any_host: str
    certificate: str
    plain: str


@dataclass(frozen=True, slots=True)
class Tls:
    """How TLS is spoken with a peer."""

    context: ssl.SSLContext
    shows_certificate: bool
    remedies: Remedies

    def problem(self, error: OSError, host: str) -> str:
        """Say what a peer did so that there is no TLS session with it, and what to do."""
        if isinstance(error, ssl.SSLCertVerificationError):
            verdict = _VERDICTS.get(error.verify_code)
            if verdict is None:
                return f"shows a certificate that cannot be accepted: {why(error)}"
            return verdict.format(host=host, **asdict(self.remedies))
        if isinstance(error, TimeoutError):
            return "does not answer the TLS handshake: does it speak TLS on this port?"
        if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
            return (
                "ended the connection in the TLS handshake; perhaps it speaks no TLS on this port, "
                f"or {self._objects()}"
            )
        reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
        if reason == "SSLV3_ALERT_HANDSHAKE_FAILURE" and not self.shows_certificate:
            # Until TLS 1.2 this is how a certificate that is missing is told, too.
            return f"{_NOTHING_IN_COMMON}, or {self._objects()}"
        if reason in _REASONS:
            return _REASONS[reason].format(**asdict(self.remedies))
        return f"cannot be spoken with by TLS: {why(error)}"

    def silence(self) -> str:
        """Say what a peer did that agreed on TLS and then brought no answer."""
        return (
            "agreed on TLS, and then did not answer the association request; perhaps it "
            f"{self._objects()}"
        )

    def _objects(self) -> str:
        """Say what a peer that tells nothing may have against our certificate."""
        sentence = _TAKES_NOT_OURS if self.shows_certificate else _WANTS_A_CERTIFICATE
        return sentence.format(**asdict(self.remedies))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallingFiles:
    """Who issues the certificates of those we call, and what we show, PEM.

    Attributes:
        authority: default whom the system trusts
        key: default in the same file as the certificate
        any_host: whether the certificate of a peer may be for another host than the one called
    """

    authority: Path | None
    certificate: Path | None = None
    key: Path | None = None
    any_host: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that is read."""
        files = (self.authority, self.certificate, self.key)
        return tuple(path for path in files if path is not None)

    def context(self, profile: TlsProfile) -> ssl.SSLContext:
        """Make the context of a requestor, or raise `OperatorError` that names a file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        keep_to(context, profile)
        context.check_hostname = not self.any_host
        _trust(context, self.authority)
        if self.certificate is not None:
            _show(context, self.certificate, self.key or self.certificate)
        return context


def _trust(context: ssl.SSLContext, authority: Path | None) -> None:
    if authority is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    # Whoever trusts one certificate of a peer need not trust who issued it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise OperatorError(
            f"{authority} cannot be used as PEM file of certificates to trust: {why(error)}"
        ) from error


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def has_password() -> NoReturn:
        raise OperatorError(
            f"the private key in {key} has a password: write it anew without one, readable by you "
            "alone"
        )

    try:
        context.load_cert_chain(certificate, key, password=has_password)
    except OSError as error:
        raise OperatorError(
            f"{certificate} and the private key in {key} cannot be used: {why(error)}"
        ) from error
