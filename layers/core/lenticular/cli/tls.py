"""TLS with the peers that commands call: the options, and what to do when it cannot be spoken."""

import functools
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import click

from lenticular.errors import OperatorError
from lenticular.settings import PeerSettings
from lenticular.tls import keep_to, why

_NOT_TRUSTED: Final = (
    "shows a certificate of nobody that is trusted here: give the PEM file of who issued it by "
    "--tls-ca"
)
_NOT_FOR_HOST: Final = (
    "shows a certificate that is not for {host}: call it by a name that is in the certificate, or, "
    "if it is known to be the right one, give --tls-any-host"
)
#: What is wrong with a peer's certificate, by the codes of OpenSSL's x509_vfy.h.
_VERDICTS: Final[Mapping[int, str]] = {
    9: "shows a certificate that is not valid yet: compare the clocks of both sides",
    10: "shows a certificate that has expired: it needs a new one",
    **dict.fromkeys((2, 18, 19, 20, 21), _NOT_TRUSTED),
    **dict.fromkeys((62, 64), _NOT_FOR_HOST),
}
_NO_TLS: Final = (
    "speaks no TLS on this port: call it at its port for TLS (registered: 2762), or leave out --tls"
)
_TOO_OLD: Final = "speaks no TLS 1.2 or newer, and what is older is not safe (BCP 195)"
_NOTHING_IN_COMMON: Final = "has no cipher suite of BCP 195 in common with us"
_WANTS_A_CERTIFICATE: Final = "asks for a certificate of ours: give --tls-cert and --tls-key"
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


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """What a person typed of TLS; the settings say the rest."""

    wanted: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    any_host: bool = False


def tls_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of TLS, which it takes as the one parameter `tls`."""

    @click.option("--tls", is_flag=True, help="Speak TLS, which each of the next options implies.")
    @click.option(
        "--tls-ca",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Who issued the peer's certificate, PEM; default whom the system trusts.",
    )
    @click.option(
        "--tls-cert",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Certificate to show to a peer that asks for one, PEM.",
    )
    @click.option(
        "--tls-key",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Its private key, PEM, without password; default in the same file.",
    )
    @click.option(
        "--tls-any-host",
        is_flag=True,
        help="Take a trusted certificate even if it is not for the host that is called.",
    )
    @functools.wraps(command)
    def with_tls(
        *arguments: object,
        tls: bool,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_any_host: bool,
        **options: object,
    ) -> None:
        files = (tls_ca, tls_cert, tls_key)
        wanted = tls or tls_any_host or any(file is not None for file in files)
        command(*arguments, tls=TlsOptions(wanted, *files, any_host=tls_any_host), **options)

    return with_tls


@dataclass(frozen=True, slots=True)
class Tls:
    """How TLS is spoken with a peer."""

    context: ssl.SSLContext
    shows_certificate: bool

    @classmethod
    def of(cls, options: TlsOptions, settings: PeerSettings) -> "Tls":
        """Read the files, or raise `OperatorError`: the options first, then the settings."""
        certificate, key = options.certificate, options.key
        if certificate is None:
            if key is not None:
                raise OperatorError("--tls-key needs --tls-cert, the certificate it belongs to")
            certificate, key = settings.calling_tls_certificate, settings.calling_tls_key
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        keep_to(context, "bcp195")
        context.check_hostname = not options.any_host
        _trust(context, options.ca or settings.calling_tls_ca)
        if certificate is not None:
            _show(context, certificate, key or certificate)
        return cls(context, certificate is not None)

    def problem(self, error: OSError, host: str) -> str:
        """Say what a peer did so that there is no TLS session with it, and what to do."""
        if isinstance(error, ssl.SSLCertVerificationError):
            other = f"shows a certificate that cannot be accepted: {why(error)}"
            return _VERDICTS.get(error.verify_code, other).format(host=host)
        if isinstance(error, TimeoutError):
            return "does not answer the TLS handshake: does it speak TLS on this port?"
        if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
            return f"ended the connection in the TLS handshake{self._perhaps()}"
        reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
        if reason == "SSLV3_ALERT_HANDSHAKE_FAILURE" and not self.shows_certificate:
            # Until TLS 1.2 this is how a certificate that is missing is told, too.
            return f"{_NOTHING_IN_COMMON}, or {_WANTS_A_CERTIFICATE}"
        if reason in _REASONS:
            return _REASONS[reason]
        return f"cannot be spoken with by TLS: {why(error)}"

    def silence(self) -> str:
        """Say what a peer did that agreed on TLS and then brought no answer."""
        return f"agreed on TLS, and then did not answer the association request{self._perhaps()}"

    def _perhaps(self) -> str:
        return "" if self.shows_certificate else f"; perhaps it {_WANTS_A_CERTIFICATE}"


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
