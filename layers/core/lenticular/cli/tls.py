"""TLS with the peers that commands call: the options, and what they are for."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from lenticular.errors import OperatorError
from lenticular.settings import PeerSettings
from lenticular.tls_calling import CallingFiles, Remedies, Tls

_REMEDIES: Final = Remedies(
    authority="give the PEM file of who issued it by --tls-ca",
    any_host="give --tls-any-host",
    certificate="give --tls-cert and --tls-key",
    plain="leave out --tls, or have its node say `--tls none`",
)


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


def tls_with(options: TlsOptions, settings: PeerSettings) -> Tls:
    """Read the files, or raise `OperatorError`: the options first, then the settings."""
    certificate, key = options.certificate, options.key
    if certificate is None:
        if key is not None:
            raise OperatorError("--tls-key needs --tls-cert, the certificate it belongs to")
        certificate, key = settings.calling_tls_certificate, settings.calling_tls_key
    files = CallingFiles(
        authority=options.ca or settings.calling_tls_ca,
        certificate=certificate,
        key=key,
        any_host=options.any_host,
    )
    return Tls(files.context("bcp195"), certificate is not None, _REMEDIES)
