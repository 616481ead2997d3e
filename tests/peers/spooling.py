"""Gateways with a spool, and what is in it."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.cloud.deadline import eventually
from tests.peers.custody import KIB, SMALL_MEMORY, in_bucket
from tests.peers.dimse import CT, EXPLICIT, RawPeer, associate_rq, p_data, store_rq_command
from tests.peers.gateway_process import Gateway

#: What a killed gateway has asked S3 for may still come to pass; with this it asks nobody.
S3_IS_NOWHERE: Final = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}


def spooling(folder: Path, **more: str) -> dict[str, str]:
    """Return the settings of a gateway with a spool; what is longer than 64 KiB is long."""
    return {
        **SMALL_MEMORY,
        "LENTICULAR_CUSTODY": "spool",
        "LENTICULAR_SPOOL_DIR": str(folder),
        **more,
    }


def entries(spool: Path) -> list[Path]:
    """Return the files of instances that S3 does not have yet."""
    return sorted(spool.glob("journal-*/*.entry"))


def wait_for_bucket(gateway: Gateway, expected: Mapping[str, str]) -> None:
    """Wait until the bucket holds exactly these contents under these keys."""
    eventually(lambda: len(gateway.object_keys()), until=lambda count: count >= len(expected))
    assert in_bucket(gateway) == expected


def left_in(spool: Path) -> list[str]:
    """Name everything that is in the spool but the journals' own directories and locks."""
    return [path.name for path in spool.rglob("*") if not path.is_dir() and path.suffix != ".lock"]


def journals(spool: Path) -> set[str]:
    """Name the journals that are in the spool."""
    return {path.name for path in spool.glob("journal-*") if path.is_dir()}


def half_sent(gateway: Gateway) -> RawPeer:
    """Begin to send an instance too long for memory."""
    peer = RawPeer(socket.create_connection((gateway.host, gateway.port)))
    peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
    peer.read_pdu()
    peer.send(p_data((1, 3, store_rq_command())))
    for _ in range(8):
        peer.send(p_data((1, 0, bytes(16 * KIB))))
    return peer
