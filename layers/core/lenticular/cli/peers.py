"""Which DICOM peer a command speaks with: one of the nodes, this node, or any other."""

from dataclasses import dataclass, replace
from os import environ
from typing import Final

from lenticular.errors import OperatorError
from lenticular.identifiers import is_ae_title
from lenticular.nodes import TlsUse
from lenticular.settings import PeerSettings
from lenticular.tls_calling import Tls

from . import stores
from .tls import TlsOptions, tls_with

_PLAIN: Final = TlsOptions()


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity that can be called; with `tls`, over TLS."""

    aet: str
    address: str
    port: int
    tls: Tls | None = None

    def __str__(self) -> str:
        """Name it in a message as it is typed."""
        return f"{self.aet}@{self.address}:{self.port}"


def this_node(tls: TlsOptions = _PLAIN) -> Peer:
    """Return our own gateway, spoken with by TLS also if it takes nothing else.

    Raises:
        OperatorError: a setting is wrong, or TLS is not set up.
    """
    settings = PeerSettings.from_environment(environ)
    if tls.wanted or settings.port is None:
        if not settings.tls_port:
            raise OperatorError("LENTICULAR_TLS_PORT names no port that a command could call")
        return Peer(settings.ae_title, settings.host, settings.tls_port, tls_with(tls, settings))
    return Peer(settings.ae_title, settings.host, settings.port)


def own_ae_title() -> str:
    """Return the AE title of our own gateway, or raise `SettingsError`."""
    return PeerSettings.from_environment(environ).ae_title


def calling_ae_title() -> str:
    """Return what commands call themselves, or raise `SettingsError`."""
    return PeerSettings.from_environment(environ).calling_ae_title


def peer_named(text: str, tls: TlsOptions = _PLAIN) -> Peer:
    """Return the peer that a person names: AET of the nodes, or AET@address:port.

    A node that is called by TLS needs no option for it.

    Raises:
        OperatorError: there is no such node, or it has no port, or TLS is not set up.
    """
    peer, use = _named(text)
    if use != "none":
        tls = replace(tls, wanted=True)
    if not tls.wanted:
        return peer
    settings = PeerSettings.from_environment(environ)
    if use == "any-host" and (tls.ca or settings.calling_tls_ca):
        tls = replace(tls, any_host=True)
    return replace(peer, tls=tls_with(tls, settings))


def _named(text: str) -> tuple[Peer, TlsUse]:
    """Return who is called, and whether the nodes say that it is by TLS."""
    aet, at, place = text.rpartition("@")
    if at:
        address, _, port = place.rpartition(":")
        if not (is_ae_title(aet) and address and port.isdecimal() and 0 < int(port) < 1 << 16):
            raise OperatorError(f"{text!r} is not AET@address:port")
        return Peer(aet, address.strip("[]"), int(port)), "none"
    found = {node.aet: node for node in stores.node_table().all()}.get(text)
    if found is None:
        raise OperatorError(
            f"there is no node {text!r}: `lenticular nodes list` shows them; "
            "AET@address:port names any other"
        )
    if found.port is None:
        raise OperatorError(f"the node {text} has no port, so it cannot be called")
    return Peer(found.aet, found.address, found.port), found.tls
