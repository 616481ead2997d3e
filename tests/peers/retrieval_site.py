"""A gateway with studies to retrieve, and ways to S3, DynamoDB and destinations that fail."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from lenticular.element_headers import ITEM, encode_header
from lenticular.elements import encode_element
from tests.cloud.standin import OfflineCloud
from tests.peers.archived import archive, image
from tests.peers.destination import Destination, destination, get, requestor, responses
from tests.peers.faulty_s3 import FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

ROOT = "1.2.826.0.1.90"
STUDY, MIXED, PRIVATE, LATER, RETIRED, RACED, LARGE, FORM, COUNTED, ODD, AHEAD = (
    f"{ROOT}.{number}" for number in range(1, 12)
)
INSTANCES = 8
UIDS = [f"{STUDY}.1.{number}" for number in range(INSTANCES)]
#: More than fit an association together with the uncompressed syntaxes: 128 contexts.
PRIVATE_CLASSES = [f"1.2.826.0.1.90.99.{number}" for number in range(70)]
FEW_SECONDS = 2
READ_AHEAD_BYTES = 1 << 20
CT_AND_MR: Mapping[str, Sequence[str]] = {
    CTImageStorage: [ExplicitVRLittleEndian],
    MRImageStorage: [ExplicitVRLittleEndian],
}
#: More than may be held at a time, each of one part.
UIDS_AHEAD = [f"{AHEAD}.1.{number}" for number in range(30)]
#: Of the study `ODD`: what cannot be sent in Explicit VR Little Endian.
ODDITIES = [f"{ODD}.1.{number}" for number in (1, 2, 3)]


@dataclass(frozen=True)
class Site:
    """A gateway with studies, and the ways to S3 and to DynamoDB that it alone takes."""

    gateway: Gateway
    stores: Stores
    s3: FaultyS3
    dynamodb: FaultyS3
    ports: Mapping[str, int]
    settings: Mapping[str, str]

    def moved(self, aet: str, *studies: str) -> tuple[Dataset, list[str]]:
        """Move studies; return the final response and what it lists as failed."""
        with requestor(self.gateway) as association:
            *_, final = responses(association, aet, *(studies or [STUDY]))
        return final


@contextmanager
def running_site(cloud: OfflineCloud, folder: Path) -> Iterator[Site]:
    """Fill an archive and run a gateway over it that does not wait long for S3."""
    stores = Stores.in_cloud(cloud)
    files = [image(STUDY, f"{STUDY}.1", uid, PatientID="P90") for uid in UIDS]
    files += [
        image(MIXED, f"{MIXED}.1", f"{MIXED}.1.1", syntax=ExplicitVRLittleEndian),
        image(MIXED, f"{MIXED}.1", f"{MIXED}.1.2", syntax=ImplicitVRLittleEndian),
        image(MIXED, f"{MIXED}.2", f"{MIXED}.2.1", sop_class=MRImageStorage),
        image(MIXED, f"{MIXED}.2", f"{MIXED}.2.2", sop_class=MRImageStorage, syntax=RLELossless,
              pixels=b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x02\0\0\0\0\0"),
    ]  # fmt: skip
    files += [
        image(PRIVATE, f"{PRIVATE}.1", f"{PRIVATE}.1.{number}", sop_class=uid)
        for number, uid in enumerate(PRIVATE_CLASSES)
    ]
    files.append(image(LATER, f"{LATER}.1", f"{LATER}.1.1", PatientID="P90"))
    files += oddities()
    files += [image(AHEAD, f"{AHEAD}.1", uid, rows=160) for uid in UIDS_AHEAD]
    archive(stores, *files)
    ports = {aet: free_port() for aet in ("DEST", "OLD")}
    old = {"port": ports["OLD"], "associations": "one-per-instance"}
    rights = {"FINDS": {"may": ["find"]}, "MOVES": {"may": ["move"]}}
    nodes = nodes_file(folder, {"DEST": ports["DEST"], "OLD": old, **rights})
    with faulty_s3(cloud.endpoint) as s3, faulty_s3(cloud.endpoint) as dynamodb:
        settings = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.endpoint,
            "LENTICULAR_NODES_FILE": str(nodes),
            "LENTICULAR_RETRY_SECONDS": "0",
            "LENTICULAR_READ_AHEAD_BYTES": str(READ_AHEAD_BYTES),
        }
        with running_gateway(folder / "gateway.log", stores, settings) as gateway:
            yield Site(gateway, stores, s3, dynamodb, ports, settings)


def oddities() -> Iterator[bytes]:
    """Make images that cannot be had in another transfer syntax, for one reason each."""
    fits = image(ODD, f"{ODD}.1", f"{ODD}.1.0")
    yield fits
    # An odd number of bytes of words that have to be turned.
    odd = image(ODD, f"{ODD}.1", f"{ODD}.1.1", syntax=ExplicitVRBigEndian)
    assert odd[-516:-512] == (512).to_bytes(4)
    yield odd[:-516] + (511).to_bytes(4) + odd[-512:-1]
    # Frames of 32 MiB, of which a native value cannot hold so many.
    frame = imagecodecs.jpegls_encode(np.zeros((4096, 4096), np.uint16))
    fragment = encode_header(ITEM, "", len(frame) + len(frame) % 2) + frame + bytes(len(frame) % 2)
    yield image(
        ODD, f"{ODD}.1", f"{ODD}.1.2", syntax=JPEGLSLossless, rows=4096, NumberOfFrames=128,
        pixels=encode_header(ITEM, "", 0) + fragment * 128,
    )  # fmt: skip
    # Sequences within sequences within sequences, around what may be pixels.
    content = encode_element(0x00091002, "OB", b"\xe0\x7f\x10\0")
    for _ in range(500):
        item = encode_header(ITEM, "", len(content)) + content
        content = encode_header(0x00081140, "SQ", len(item)) + item
    compressed = dcmread(BytesIO(image(ODD, f"{ODD}.1", f"{ODD}.1.3")))
    compressed.compress(RLELossless, generate_instance_uid=False)
    buffer = BytesIO()
    compressed.save_as(buffer)
    whole = buffer.getvalue()
    name = whole.index(b"\x10\0\x10\0PN")
    yield whole[:name] + content + whole[name:]


@contextmanager
def at(
    site: Site,
    on_store: Callable[[C_STORE, Association], int] = lambda _request, _association: 0,
    aet: str = "DEST",
    **options: object,
) -> Iterator[Destination]:
    """Be a destination that takes CT and MR in Explicit VR Little Endian."""
    with destination(site.ports[aet], aet, CT_AND_MR, on_store, **options) as receiving:
        yield receiving


def retrieved(site: Site, by: str, study: str) -> tuple[Dataset, list[str], Mapping[str, bytes]]:
    """Move or get a study; return the final response, its list, and the files that came."""
    if by == "get":
        got = get(site.gateway, study, [(CTImageStorage, [ExplicitVRLittleEndian])])
        return got.final, got.failed, got.files
    with at(site) as receiving:
        final, failed = site.moved("DEST", study)
    return final, failed, receiving.files
