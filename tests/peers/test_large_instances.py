"""Instances of gigabytes: memory stays where it was, and half of one is nowhere to be seen."""

import hashlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.command_set import CommandField, CommandSet, encode
from lenticular.part10 import file_head
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.conftest import Clinic
from tests.peers.digesting_s3 import Part, digesting_s3
from tests.peers.dimse import CT, EXPLICIT, RawPeer, associate_rq, p_data
from tests.peers.faulty_s3 import Fault, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import study
from tests.peers.storing import store, storing

pytestmark = pytest.mark.peers

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
MIB: Final = 1 << 20
GIB: Final = 1 << 30
PART: Final = 16 * MIB
#: What the requirement allows.
MOST_GROWTH: Final = 200 * MIB
_FRAGMENT: Final = 128 * 1024 - 6


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Encode an element with a short length, in Explicit VR Little Endian."""
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def uid_element(tag: int, uid: str) -> bytes:
    return element(tag, b"UI", uid.encode() + b"\0" * (len(uid) % 2))


def head_of_data_set(uid: str, pixel_bytes: int) -> bytes:
    """Encode a CT image as far as the header of its pixels."""
    return (
        uid_element(0x00080016, CT)
        + uid_element(0x00080018, uid)
        + element(0x00100020, b"LO", b"P95 ")
        + uid_element(0x0020000D, f"{uid}.1")
        + uid_element(0x0020000E, f"{uid}.2")
        + element(0x00280008, b"IS", b"4096")
        + struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", pixel_bytes)
    )


def fragments(uid: str, pixel_bytes: int) -> Iterator[bytes]:
    """Make a data set piece by piece; no two pieces of pixels are the same."""
    yield head_of_data_set(uid, pixel_bytes)
    noise = hashlib.sha512(uid.encode()).digest() * (_FRAGMENT // 64 + 1)
    for start in range(0, pixel_bytes, _FRAGMENT):
        piece = struct.pack("<Q", start) + noise
        yield piece[: min(_FRAGMENT, pixel_bytes - start)]


def command(uid: str) -> bytes:
    return encode(
        CommandSet(
            CommandField.C_STORE_RQ,
            message_id=1,
            affected_sop_class_uid=CT,
            affected_sop_instance_uid=uid,
            priority=0,
            command_data_set_type=0,
        )
    )


class Parts:
    """Cuts a file into parts as they must reach S3, and digests each."""

    def __init__(self) -> None:
        self.digests: list[Part] = []
        self._digest = hashlib.sha256()
        self._size = 0

    def update(self, piece: bytes) -> None:
        while piece:
            taken, piece = piece[: PART - self._size], piece[PART - self._size :]
            self._digest.update(taken)
            self._size += len(taken)
            if self._size == PART:
                self.end()

    def end(self) -> None:
        if self._size:
            self.digests.append(Part(self._size, self._digest.hexdigest()))
        self._digest, self._size = hashlib.sha256(), 0


def associated(gateway: Gateway) -> RawPeer:
    peer = gateway.connect()
    peer.sock.settimeout(120)
    peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
    kind, _ = peer.read_pdu()
    assert kind == 2
    return peer


def send(peer: RawPeer, uid: str, pixel_bytes: int) -> Parts:
    """Send an instance that is in nobody's memory; return what its file is, part by part."""
    parts = Parts()
    parts.update(file_head(CT, uid, EXPLICIT))
    peer.send(p_data((1, 3, command(uid))))
    for fragment in fragments(uid, pixel_bytes):
        peer.send(p_data((1, 0, fragment)))
        parts.update(fragment)
    peer.send(p_data((1, 2, b"")))
    parts.end()
    return parts


@pytest.mark.slow
def test_an_instance_of_two_gibibytes_is_kept_in_little_memory(
    cloud: OfflineCloud, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (
        digesting_s3() as (endpoint, held),
        running_gateway(
            tmp_path / "gateway.log",
            Stores.in_cloud(cloud),
            {"AWS_ENDPOINT_URL_S3": endpoint, "LENTICULAR_SCRATCH_DIR": str(scratch)},
        ) as gateway,
        associated(gateway) as peer,
    ):
        before = gateway.peak_bytes()
        sent = send(peer, "1.2.826.0.1.95.2", 2 * GIB)
        assert peer.read_response().status == SUCCESS
        grown = gateway.peak_bytes() - before
        peer.release()
    print(f"2 GiB instance: {grown / MIB:.0f} MiB more memory at most")
    assert list(held.objects.values()) == [sent.digests]
    assert held.uploads == {}
    assert grown < MOST_GROWTH
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("fault", [Fault.CONNECTION_RESET, Fault.SLOW_DOWN, Fault.ACCESS_DENIED])
def test_an_upload_that_fails_midway_leaves_neither_object_nor_parts(
    cloud: OfflineCloud, tmp_path: Path, fault: Fault
) -> None:
    stores = Stores.in_cloud(cloud)
    instances = study(tmp_path / "sent", 1, size=90 * MIB)
    with (
        faulty_s3(cloud.endpoint) as s3,
        running_gateway(
            tmp_path / "gateway.log",
            stores,
            {"AWS_ENDPOINT_URL_S3": s3.endpoint, "LENTICULAR_RETRY_SECONDS": "0"},
        ) as gateway,
    ):
        s3.fail(fault, where="partNumber=4")
        assert store(gateway, *instances) == [OUT_OF_RESOURCES]
        assert gateway.object_keys() == []
        uploads = gateway.client("s3").list_multipart_uploads(Bucket=gateway.bucket)
        assert uploads.get("Uploads", []) == []
        s3.heal()
        assert store(gateway, *instances) == [SUCCESS]
        assert gateway.object_keys() == [instances[0].key]


def test_an_instance_on_its_way_to_s3_is_not_there_before_its_last_part(
    cloud: OfflineCloud, tmp_path: Path
) -> None:
    stores = Stores.in_cloud(cloud)
    instances = study(tmp_path / "sent", 1, size=40 * MIB)
    with (
        faulty_s3(cloud.endpoint) as s3,
        running_gateway(
            tmp_path / "gateway.log", stores, {"AWS_ENDPOINT_URL_S3": s3.endpoint}
        ) as gateway,
    ):
        s3.fail(Fault.HELD, where="partNumber=3")
        with storing(gateway, instances) as clients:
            eventually(lambda: s3.held)
            assert gateway.object_keys() == []
            s3.heal()
            assert clients.finish() == [SUCCESS]
        assert gateway.object_keys() == [instances[0].key]


def test_nothing_is_found_of_an_instance_whose_sender_died_midway(clinic: Clinic) -> None:
    node = clinic.node
    uid = "1.2.826.0.1.95.3"
    with RawPeer(socket.create_connection((node.host, node.port), timeout=10)) as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
        assert peer.read_pdu()[0] == 2
        peer.send(p_data((1, 3, command(uid))))
        pieces = fragments(uid, 40 * MIB)
        for _ in range(250):
            peer.send(p_data((1, 0, next(pieces))))
    # Whoever comes after is served, and by then the gateway has seen the end of the other.
    dcmtk.echo(node)
    assert dcmtk.find(node, "STUDY", f"StudyInstanceUID={uid}.1") == []
    assert not [key for key in node.object_keys() if uid in key]
    uploads = node.client("s3").list_multipart_uploads(Bucket=node.bucket)
    assert uploads.get("Uploads", []) == []
