"""What a retrieval does when S3, the index or the destination do not do their part."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,
)

from gateway.command_set import CommandField
from lenticular.element_headers import ITEM, encode_header
from lenticular.elements import encode_element
from lenticular.index_keys import instance_sort_key, study_partition
from lenticular.part10 import data_set_offset
from lenticular.sop_classes import STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.archived import archive, image, transcode
from tests.peers.destination import (
    MESSAGE_ID,
    Destination,
    counts,
    destination,
    get,
    requestor,
    responses,
)
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.nodes_file import nodes_file
from tests.peers.raw_query import asking
from tests.ports import free_port

pytestmark = pytest.mark.peers

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
#: Who asks on a context of which SOP class for what, and what is answered.
OUT_OF_PLACE = [
    ("FINDS", STUDY_ROOT_FIND, CommandField.C_MOVE_RQ, 0x0124),
    ("FINDS", STUDY_ROOT_FIND, CommandField.C_GET_RQ, 0x0124),
    ("MOVES", STUDY_ROOT_MOVE, CommandField.C_FIND_RQ, 0x0124),
    ("MOVES", STUDY_ROOT_MOVE, CommandField.C_GET_RQ, 0x0122),
    ("MOVES", STUDY_ROOT_GET, CommandField.C_MOVE_RQ, 0x0122),
    ("ANYONE", STUDY_ROOT_FIND, CommandField.C_MOVE_RQ, 0x0122),
    ("ANYONE", STUDY_ROOT_FIND, CommandField.C_GET_RQ, 0x0122),
    ("ANYONE", STUDY_ROOT_MOVE, CommandField.C_FIND_RQ, 0x0122),
    ("ANYONE", CTImageStorage, CommandField.C_FIND_RQ, 0x0122),
    ("ANYONE", CTImageStorage, CommandField.C_MOVE_RQ, 0x0122),
]
EVERYTHING: Mapping[str, Sequence[str]] = {
    sop_class: [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless]
    for sop_class in CT_AND_MR
}


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


@pytest.fixture(scope="module")
def whole_site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
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
    folder = tmp_path_factory.mktemp("site")
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


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """Mend at the end of each test what it broke."""
    yield whole_site
    whole_site.s3.heal()
    whole_site.dynamodb.heal()


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


def test_one_association_carries_every_class_and_syntax(site: Site) -> None:
    with destination(site.ports["DEST"], "DEST", EVERYTHING) as receiving:
        final, failed = site.moved("DEST", MIXED)
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 4, 0, 0), [])
    [proposals] = receiving.proposals
    # A context for each syntax, so that it is decided by us; the default one among them always.
    assert all(len(syntaxes) == 1 for _, syntaxes in proposals)
    assert {(sop_class, syntax) for sop_class, [syntax] in proposals} == {
        (CTImageStorage, ExplicitVRLittleEndian),
        (CTImageStorage, ImplicitVRLittleEndian),
        (MRImageStorage, ExplicitVRLittleEndian),
        (MRImageStorage, ImplicitVRLittleEndian),
        (MRImageStorage, RLELossless),
    }
    stored = {uid: receiving.data_set(uid).file_meta.TransferSyntaxUID for uid in receiving.files}
    assert stored == {
        f"{MIXED}.1.1": ExplicitVRLittleEndian,
        f"{MIXED}.1.2": ImplicitVRLittleEndian,
        f"{MIXED}.2.1": ExplicitVRLittleEndian,
        f"{MIXED}.2.2": RLELossless,
    }


def test_an_old_receiver_gets_an_association_for_each_instance(site: Site) -> None:
    with at(site, aet="OLD") as receiving:
        final, _ = site.moved("OLD")
    assert (final.Status, counts(final)) == (0x0000, (-1, INSTANCES, 0, 0))
    assert len(receiving.proposals) == INSTANCES
    assert all({uid for uid, _ in each} == {CTImageStorage} for each in receiving.proposals)


def test_private_classes_are_sent_over_as_many_associations_as_their_contexts_take(
    site: Site, tmp_path: Path
) -> None:
    with dcmtk.receiver(
        tmp_path / "received", "DEST", site.ports["DEST"], "--promiscuous", "-d"
    ) as folder:
        final, _ = site.moved("DEST", PRIVATE)
        received = list(folder.iterdir())
    assert (final.Status, counts(final)) == (0x0000, (-1, len(PRIVATE_CLASSES), 0, 0))
    assert len(received) == len(PRIVATE_CLASSES)
    log = (tmp_path / "received.log").read_text("latin-1")
    assert 2 <= log.count("Association Release") <= 3


def test_what_broke_an_association_is_tried_again_on_a_fresh_one_and_all_else_is_sent(
    site: Site,
) -> None:
    broken: list[str] = []

    def on_store(request: C_STORE, association: Association) -> int:
        uid = str(request.AffectedSOPInstanceUID)
        if uid in (UIDS[2], UIDS[5]) and uid not in broken:
            broken.append(uid)
            association.abort()
        return 0

    with at(site, on_store) as receiving:
        final, failed = site.moved("DEST")
    assert (final.Status, counts(final), failed) == (0x0000, (-1, INSTANCES, 0, 0), [])
    assert len(receiving.proposals) == 4
    assert receiving.uids == [*UIDS, UIDS[2], UIDS[5]]


def test_instances_that_break_each_its_association_in_a_row_are_no_reason_to_give_up(
    site: Site,
) -> None:
    order: list[str] = []
    failing = 10

    def on_store(request: C_STORE, association: Association) -> int:
        uid = str(request.AffectedSOPInstanceUID)
        if uid not in order:
            order.append(uid)
            breaks = len(order) > len(UIDS_AHEAD) // 2
        else:
            breaks = order.index(uid) < len(UIDS_AHEAD) // 2 + failing
        if breaks:
            association.abort()
        return 0

    with at(site, on_store) as receiving:
        final, failed = site.moved("DEST", AHEAD)
    assert (final.Status, counts(final)) == (0xB000, (-1, len(UIDS_AHEAD) - failing, failing, 0))
    half = len(UIDS_AHEAD) // 2
    assert failed == order[half : half + failing]
    assert receiving.uids == [*order, *order[half:]]


def test_an_instance_that_breaks_every_association_fails_alone(site: Site) -> None:
    def on_store(request: C_STORE, association: Association) -> int:
        if request.AffectedSOPInstanceUID == UIDS[3]:
            association.abort()
        return 0

    with at(site, on_store) as receiving:
        final, failed = site.moved("DEST")
    assert (final.Status, counts(final)) == (0xB000, (-1, INSTANCES - 1, 1, 0))
    assert failed == [UIDS[3]]
    assert receiving.uids.count(UIDS[3]) == 2


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC000, 0x0122])
def test_what_the_destination_refuses_twice_fails(site: Site, status: int) -> None:
    with at(site, lambda _request, _association: status) as receiving:
        final, failed = site.moved("DEST")
    assert (final.Status, counts(final)) == (0xA702, (-1, 0, INSTANCES, 0))
    assert sorted(failed) == UIDS
    assert receiving.uids == [*UIDS, *UIDS]
    assert len(receiving.proposals) == 2


def test_a_destination_that_rejects_every_association_fails_all_at_once(site: Site) -> None:
    with at(site, require_calling_aet=["SOMEBODY"]) as receiving:
        final, failed = site.moved("DEST")
    assert (final.Status, counts(final)) == (0xA702, (-1, 0, INSTANCES, 0))
    assert sorted(failed) == UIDS
    assert len(receiving.proposals) == 3
    assert site.gateway.lines(message="destination failed")[-1]["reason"].endswith(
        "calling AE title not recognized"
    )


def test_a_destination_with_one_slot_that_is_taken_is_asked_again_after_a_while(
    site: Site,
) -> None:
    with at(site, aet="OLD", maximum_associations=1) as receiving:
        ae = AE(ae_title="ANOTHER")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        another = ae.associate("127.0.0.1", site.ports["OLD"], ae_title="OLD")
        assert another.is_established
        with requestor(site.gateway) as association:
            answers = responses(association, "OLD", STUDY)
            # One before anything is tried, and one when the slot was found taken.
            for _ in range(2):
                assert counts(next(answers)[0]) == (INSTANCES, 0, 0, 0)
            another.release()
            *_, (final, failed) = answers
    assert (final.Status, counts(final), failed) == (0x0000, (-1, INSTANCES, 0, 0), [])
    assert receiving.uids == UIDS


def test_a_cancel_is_heeded_while_a_destination_is_left_alone(site: Site) -> None:
    # Nobody listens there.
    with requestor(site.gateway) as association:
        answers = responses(association, "DEST", STUDY)
        for _ in range(3):
            next(answers)
        association.send_c_cancel(MESSAGE_ID, query_model=StudyRootMove)
        *_, (final, _) = answers
    assert (final.Status, counts(final)) == (0xFE00, (INSTANCES, 0, 0, 0))


def test_a_destination_that_never_answers_is_given_up_after_a_few_associations(
    site: Site, tmp_path: Path
) -> None:
    settings = {**site.settings, "LENTICULAR_DIMSE_SECONDS": str(FEW_SECONDS)}

    given_up = threading.Event()

    def on_store(_request: C_STORE, _association: Association) -> int:
        given_up.wait(60)
        return 0

    with (
        running_gateway(tmp_path / "gateway.log", site.stores, settings) as impatient,
        at(site, on_store) as receiving,
    ):
        try:
            final, failed = replace(site, gateway=impatient).moved("DEST")
        finally:
            given_up.set()
    assert (final.Status, counts(final)) == (0xA702, (-1, 0, INSTANCES, 0))
    assert sorted(failed) == UIDS
    assert len(receiving.requests) == 3


def test_a_destination_that_takes_no_context_of_an_instance_fails_it_alone(site: Site) -> None:
    with destination(site.ports["DEST"], "DEST", {CTImageStorage: [ExplicitVRLittleEndian]}):
        final, failed = site.moved("DEST", MIXED)
    assert (final.Status, counts(final)) == (0xB000, (-1, 2, 2, 0))
    assert sorted(failed) == [f"{MIXED}.2.1", f"{MIXED}.2.2"]


def test_an_object_that_is_not_in_the_bucket_fails_is_listed_and_raises_the_alarm(
    site: Site,
) -> None:
    site.s3.fail(Fault.NO_SUCH_BUCKET, where=f"/{UIDS[1]}/")
    with at(site) as receiving:
        final, failed = site.moved("DEST")
    assert (final.Status, counts(final)) == (0xB000, (-1, INSTANCES - 1, 1, 0))
    assert failed == [UIDS[1]]
    assert sorted(receiving.files) == sorted(set(UIDS) - {UIDS[1]})
    [line] = [
        line for line in site.gateway.lines(message="object missing")
        if f"/{UIDS[1]}/" in line["object_key"]
    ]  # fmt: skip
    assert line["level"] == "ERROR"


def test_an_object_that_s3_does_not_give_fails_and_is_listed(site: Site) -> None:
    site.s3.fail(Fault.SLOW_DOWN, where=f"/{UIDS[4]}/")
    with at(site):
        final, failed = site.moved("DEST")
    assert (final.Status, counts(final), failed) == (
        0xB000, (-1, INSTANCES - 1, 1, 0), [UIDS[4]],
    )  # fmt: skip
    assert site.gateway.lines(message="stored instance not readable")


def test_an_object_that_s3_does_not_give_at_first_is_asked_for_again_after_all_others(
    site: Site,
) -> None:
    # A request may be repeated within what counts as one.
    site.s3.fail(Fault.ACCESS_DENIED, where=f"/{UIDS[4]}/", times=1)
    with at(site) as receiving:
        final, failed = site.moved("DEST")
    assert (final.Status, counts(final), failed) == (0x0000, (-1, INSTANCES, 0, 0), [])
    assert receiving.uids == [*UIDS[:4], *UIDS[5:], UIDS[4]]
    assert len(receiving.proposals) == 2


@pytest.mark.parametrize("by", ["move", "get"])
def test_an_instance_that_is_odd_in_any_way_fails_alone(site: Site, by: str) -> None:
    final, failed, files = retrieved(site, by, ODD)
    assert (final.Status, counts(final)) == (0xB000, (-1, 1, len(ODDITIES), 0))
    assert sorted(failed) == sorted(ODDITIES)
    assert list(files) == [f"{ODD}.1.0"]
    logged = site.gateway.lines(message="instance not converted")[-len(ODDITIES) :]
    for uid, line in zip(ODDITIES, logged, strict=True):
        assert f"/{uid}/" in line["object_key"]
    assert ["reason" in line for line in logged] == [True, True, False]
    # Whatever else goes wrong is told without its words.
    assert logged[-1]["error"] == "RecursionError"
    assert re.fullmatch(r"\w+\.py:\d+", logged[-1]["where"])


def test_what_is_kept_in_another_form_alone_is_sent_as_it_was_received(
    site: Site,
) -> None:
    sent = image(RETIRED, f"{RETIRED}.1", f"{RETIRED}.1.1", rows=128)
    [key] = archive(site.stores, sent)
    transcode(site.stores, key, retire=True)
    with at(site) as receiving:
        final, failed = site.moved("DEST", RETIRED)
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 1, 0, 0), [])
    received = receiving.files[f"{RETIRED}.1.1"]
    assert received[data_set_offset(received) :] == sent[data_set_offset(sent) :]


def test_what_is_retired_while_it_is_being_asked_for_is_sent_all_the_same(
    site: Site,
) -> None:
    sent = image(RACED, f"{RACED}.1", f"{RACED}.1.1", rows=128)
    [key] = archive(site.stores, sent)
    site.s3.fail(Fault.HELD, where=f"/{RACED}.1.1/")
    with at(site) as receiving, requestor(site.gateway) as association:
        answers = responses(association, "DEST", RACED)
        next(answers)
        eventually(lambda: site.s3.held)
        transcode(site.stores, key, retire=True)
        site.s3.heal()
        *_, (final, failed) = answers
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 1, 0, 0), [])
    received = receiving.files[f"{RACED}.1.1"]
    assert received[data_set_offset(received) :] == sent[data_set_offset(sent) :]


@pytest.mark.parametrize("spoiled", [None, b"not a form", bytes(70_000)])
def test_where_a_form_is_spoiled_the_next_one_is_sent(
    site: Site, cloud: OfflineCloud, spoiled: bytes | None
) -> None:
    study = f"{RETIRED}.{len(spoiled or '')}"
    sent = image(study, f"{study}.1", f"{study}.1.1", rows=128)
    [key] = archive(site.stores, sent)
    first = transcode(site.stores, key, "jpeg-lossless")
    second = transcode(site.stores, key, "jpeg-ls", retire=True)
    assert first < second
    s3: Any = cloud.clients.s3
    s3.delete_object(Bucket=site.stores.bucket, Key=first)
    if spoiled is not None:
        s3.put_object(Bucket=site.stores.bucket, Key=first, Body=spoiled)
    with at(site) as receiving:
        final, failed = site.moved("DEST", study)
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 1, 0, 0), [])
    received = receiving.files[f"{study}.1.1"]
    assert received[data_set_offset(received) :] == sent[data_set_offset(sent) :]


@pytest.mark.parametrize(("times", "failing"), [(1, 0), (None, 1)])
def test_an_object_that_goes_while_it_is_being_sent_fails_alone(
    site: Site, times: int | None, failing: int
) -> None:
    study = f"{LARGE}.{failing}"
    uids = [f"{study}.1.{number}" for number in range(2)]
    archive(site.stores, *(image(study, f"{study}.1", uid, rows=1536) for uid in uids))
    # So many parts are not asked for before the first of them is being sent.
    site.s3.fail(Fault.NO_SUCH_BUCKET, where=f"/{uids[0]}/", times=times, after=20)
    with at(site) as receiving:
        final, failed = site.moved("DEST", study)
    assert counts(final) == (-1, 2 - failing, failing, 0)
    assert failed == uids[:failing]
    assert sorted(receiving.files) == uids[failing:]


def test_while_the_destination_is_at_an_instance_the_next_one_is_asked_for(site: Site) -> None:
    study = f"{LARGE}.2"
    uids = [f"{study}.1.{number}" for number in range(2)]
    # More than may be ahead, so that the second is not asked for from the start.
    archive(site.stores, *(image(study, f"{study}.1", uid, rows=1536) for uid in uids))
    site.s3.fail(Fault.HELD, where=f"/{uids[1]}/")

    def on_store(request: C_STORE, _: Association) -> int:
        if request.AffectedSOPInstanceUID == uids[0]:
            eventually(lambda: site.s3.held, within=FEW_SECONDS / 2)
            site.s3.heal()
        return 0

    with at(site, on_store):
        final, failed = site.moved("DEST", study)
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 2, 0, 0), [])


def large(site: Site, number: int) -> tuple[str, bytes, str]:
    """Archive an image of many parts; return its study, its file and the object's key."""
    study = f"{LARGE}.{number}"
    file = image(study, f"{study}.1", f"{study}.1.1", rows=1536)
    [key] = archive(site.stores, file)
    return study, file, key


@pytest.mark.parametrize(
    "fault",
    [
        Fault.SLOW_DOWN,
        Fault.INTERNAL_ERROR,
        Fault.CONNECTION_RESET,
        Fault.ANSWER_LOST,
        Fault.NO_SUCH_BUCKET,
    ],
    ids=lambda fault: fault.name,
)
def test_a_get_goes_on_where_s3_broke_it_off(site: Site, fault: Fault) -> None:
    study, file, _ = large(site, 10 + fault.value)
    # So many parts are not asked for before the first of them is being sent.
    site.s3.fail(fault, where=f"/{study}.1.1/", times=1 if fault is Fault.NO_SUCH_BUCKET else 4,
                 after=20)  # fmt: skip
    got = get(site.gateway, study, [(CTImageStorage, [ExplicitVRLittleEndian])])
    assert site.s3.failed[fault]
    assert (got.final.Status, counts(got.final), got.failed) == (0x0000, (-1, 1, 0, 0), [])
    received = got.files[f"{study}.1.1"]
    assert received[data_set_offset(received) :] == file[data_set_offset(file) :]


@pytest.mark.slow
def test_a_form_that_s3_keeps_waiting_for_fails_alone(site: Site) -> None:
    study = f"{FORM}.0"
    files = [image(study, f"{study}.1", f"{study}.1.{number}", rows=128) for number in range(2)]
    held, _ = (transcode(site.stores, key) for key in archive(site.stores, *files))
    site.s3.fail(Fault.HELD, where=f"/{held}")
    began = monotonic()
    with destination(
        site.ports["DEST"], "DEST", {CTImageStorage: [JPEGLosslessSV1]}, network_timeout=None
    ) as receiving:
        final, failed = site.moved("DEST", study)
    assert monotonic() - began < 30
    assert (final.Status, counts(final), failed) == (0xB000, (-1, 1, 1, 0), [f"{study}.1.0"])
    assert list(receiving.files) == [f"{study}.1.1"]


@pytest.mark.slow
def test_a_get_that_s3_keeps_waiting_ends_before_its_receiver_gives_up(site: Site) -> None:
    study, _, _ = large(site, 29)
    site.s3.fail(Fault.HELD, where=f"/{study}.1.1/", after=20)
    began = monotonic()
    got = get(site.gateway, study, [(CTImageStorage, [ExplicitVRLittleEndian])])
    assert "Status" not in got.final
    assert monotonic() - began < 30


def test_an_original_that_is_retired_while_it_is_being_got_goes_on_from_its_form(
    site: Site,
) -> None:
    study, file, key = large(site, 30)
    site.s3.fail(Fault.HELD, where=f"GET /{site.stores.bucket}/{key}", after=20)
    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(
            get, site.gateway, study, [(CTImageStorage, [ExplicitVRLittleEndian])]
        )
        eventually(lambda: site.s3.held)
        transcode(site.stores, key, retire=True)
        site.s3.heal()
        got = getting.result()
    assert (got.final.Status, counts(got.final), got.failed) == (0x0000, (-1, 1, 0, 0), [])
    received = got.files[f"{study}.1.1"]
    assert received[data_set_offset(received) :] == file[data_set_offset(file) :]


def test_only_an_object_that_is_gone_while_it_is_being_got_ends_the_association(
    site: Site,
) -> None:
    study, _, _ = large(site, 31)
    site.s3.fail(Fault.NO_SUCH_BUCKET, where=f"/{study}.1.1/", after=20)
    contexts = [(CTImageStorage, [ExplicitVRLittleEndian])]
    assert "Status" not in get(site.gateway, study, contexts).final
    # Before anything of it was sent, it fails alone.
    got = get(site.gateway, study, contexts)
    assert (got.final.Status, got.failed) == (0xA702, [f"{study}.1.1"])
    assert get(site.gateway, STUDY, contexts).final.Status == 0x0000


FORMATS: Mapping[str, tuple[str, Sequence[str]]] = {
    # The format's name in a policy, and a program of other people that decodes it.
    JPEGLosslessSV1: ("jpeg-lossless", ["dcmdjpeg"]),
    JPEGLSLossless: ("jpeg-ls", ["dcmdjpls"]),
    JPEG2000Lossless: ("jpeg-2000", ["gdcmconv", "--raw"]),
    HTJ2KLossless: ("htj2k", []),
    HTJ2KLosslessRPCL: ("htj2k-rpcl", []),
    RLELossless: ("rle", ["dcmdrle"]),
    DeflatedExplicitVRLittleEndian: ("deflate", ["dcmconv", "+te"]),
}


@pytest.mark.parametrize("syntax", FORMATS, ids=lambda uid: uid.name)
def test_a_destination_that_takes_the_form_s_syntax_alone_is_sent_the_form(
    site: Site, cloud: OfflineCloud, tmp_path: Path, syntax: str
) -> None:
    policy, program = FORMATS[syntax]
    study = f"{FORM}.{len(policy)}"
    # Such as every format makes shorter.
    lines = b"".join((row - 64).to_bytes(2, "little", signed=True) * 128 for row in range(128))
    sent = image(study, f"{study}.1", f"{study}.1.1", rows=128)
    sent = sent.replace(bytes(range(256)) * 128, lines)
    [key] = archive(site.stores, sent)
    form = transcode(site.stores, key, policy)
    with destination(site.ports["DEST"], "DEST", {CTImageStorage: [syntax]}) as receiving:
        final, failed = site.moved("DEST", study)
    assert (final.Status, counts(final), failed) == (0x0000, (-1, 1, 0, 0), [])
    received = receiving.files[f"{study}.1.1"]
    s3: Any = cloud.clients.s3
    kept = s3.get_object(Bucket=site.stores.bucket, Key=form)["Body"].read()
    assert received[data_set_offset(received) :] == kept[data_set_offset(kept) :]
    data_set = receiving.data_set(f"{study}.1.1")
    assert data_set.file_meta.TransferSyntaxUID == syntax
    if program:
        compressed, decoded = tmp_path / "compressed.dcm", tmp_path / "decoded.dcm"
        compressed.write_bytes(received)
        dcmtk.run(*program, compressed, decoded)
        pixels = dcmread(decoded).PixelData
    else:
        # OpenJPEG decodes what OpenJPH has encoded; of the programs from Debian none does.
        [stream] = generate_frames(data_set.PixelData, number_of_frames=1)
        pixels = imagecodecs.jpeg2k_decode(stream).tobytes()
    assert pixels == lines


def test_when_the_index_cannot_be_read_the_retrieval_is_refused(site: Site) -> None:
    site.dynamodb.fail(Fault.ACCESS_DENIED, where=f"STUDY#{STUDY}")
    with at(site) as receiving:
        final, _ = site.moved("DEST")
    assert final.Status == 0xA701
    assert final.ErrorComment == "the index is unavailable"
    assert receiving.proposals == []


def test_when_the_index_breaks_off_what_was_not_found_is_counted_as_failed(site: Site) -> None:
    # Both studies are found, and of the second the instances are not.
    site.dynamodb.fail(Fault.ACCESS_DENIED, where=f'STUDY#{LATER}"}}, ":prefix"')
    with at(site) as receiving:
        final, _ = site.moved("DEST", STUDY, LATER)
    assert (final.Status, counts(final)) == (0xA702, (-1, INSTANCES, 1, 0))
    assert "index" in final.ErrorComment
    assert sorted(receiving.files) == UIDS


@pytest.mark.parametrize("by", ["move", "get"])
def test_instances_that_are_counted_and_not_found_fail(
    site: Site, cloud: OfflineCloud, by: str
) -> None:
    study = f"{COUNTED}.{len(by)}"
    uids = [f"{study}.1.{number}" for number in range(3)]
    archive(site.stores, *(image(study, f"{study}.1", uid) for uid in uids))
    for left in (2, 0):
        for uid in uids[left:]:
            dynamodb: Any = cloud.clients.dynamodb
            key = {
                "pk": {"S": study_partition(study)},
                "sk": {"S": instance_sort_key(f"{study}.1", uid)},
            }
            dynamodb.delete_item(TableName=site.stores.table, Key=key)
        final, failed, files = retrieved(site, by, study)
        status = 0xB000 if left else 0xA702
        assert (final.Status, counts(final)) == (status, (-1, left, 3 - left, 0))
        # Nobody knows their UIDs.
        assert failed == []
        assert sorted(files) == uids[:left]
        line = site.gateway.lines(message="instances not found")[-1]
        assert (line["level"], line["instances"]) == ("WARNING", 3 - left)


def test_the_instances_are_read_as_they_are_and_not_as_they_were(site: Site) -> None:
    # Moto has no replicas that lag behind: such reads are told by how they are asked for.
    site.dynamodb.fail(
        Fault.ACCESS_DENIED,
        where='"ConsistentRead": true, "KeyConditionExpression": "pk = :pk AND begins_with',
    )
    with at(site):
        final, _ = site.moved("DEST")
    assert (final.Status, counts(final)) == (0xA702, (-1, 0, INSTANCES, 0))


def test_a_cancel_acts_while_we_look_for_what_is_to_be_sent(site: Site) -> None:
    def ended() -> list[dict[str, Any]]:
        return site.gateway.lines(message="retrieval ended", calling_aet="RAW")

    with (
        at(site) as receiving,
        asking(
            site.gateway.host, site.gateway.port, site.gateway.aet, model=STUDY_ROOT_MOVE
        ) as asker,
    ):
        asker.request(
            f"StudyInstanceUID={STUDY}\\{MIXED}\\{LATER}", model=STUDY_ROOT_MOVE, cancel=True,
            operation=CommandField.C_MOVE_RQ, destination="DEST",
        )  # fmt: skip
        [final] = asker.responses()
        command = final.command
        assert (command.status, command.number_of_remaining_suboperations) == (0xFE00, None)
        [line] = eventually(ended)
        # The three studies at most, and no instance.
        assert (line["items"] <= 3, line["cancelled"]) == (True, True)
        asker.request(
            f"StudyInstanceUID={STUDY}\\{LATER}", model=STUDY_ROOT_MOVE,
            operation=CommandField.C_MOVE_RQ, destination="DEST",
        )  # fmt: skip
        *_, final = asker.responses()
        assert final.command.status == 0x0000
    # Two studies, and the instances of each.
    _, line = eventually(ended, until=lambda lines: len(lines) > 1)
    assert (line["pages"], line["items"]) == (4, 2 + INSTANCES + 1)
    assert len(receiving.requests) == INSTANCES + 1


def test_a_request_on_a_context_of_another_operation_is_refused(site: Site) -> None:
    with at(site) as receiving:
        for calling, model, operation, status in OUT_OF_PLACE:
            where = site.gateway.host, site.gateway.port, site.gateway.aet
            with asking(*where, model=model, calling=calling) as asker:
                asker.request(
                    f"StudyInstanceUID={STUDY}", model=model, operation=operation,
                    destination="DEST" if operation == CommandField.C_MOVE_RQ else None,
                )  # fmt: skip
                [answer] = asker.responses()
            assert answer.command.status == status, (calling, model, operation)
    assert receiving.proposals == []


def test_instances_are_read_ahead_in_parallel_and_within_what_memory_allows(site: Site) -> None:
    site.s3.fail(Fault.HELD, where=f"/{AHEAD}/")
    with at(site), requestor(site.gateway) as association:
        answers = responses(association, "DEST", AHEAD)
        next(answers)
        eventually(lambda: site.s3.held >= 16)
        # Whatever else was asked for is here when all of this has been.
        assert site.moved("DEST", STUDY)[0].Status == 0x0000
        ranges = [each.rpartition("bytes=")[2].split("-") for each in site.s3.holding]
        site.s3.heal()
        *_, (final, _) = answers
    assert sum(int(last) + 1 - int(first) for first, last in ranges) <= READ_AHEAD_BYTES
    assert (final.Status, counts(final)) == (0x0000, (-1, len(UIDS_AHEAD), 0, 0))


def test_sub_operations_have_the_priority_of_their_request(site: Site) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", LATER
    for priority in (0, 1, 2):
        with at(site) as receiving, requestor(site.gateway) as association:
            list(association.send_c_move(identifier, "DEST", StudyRootMove, priority=priority))
        assert [request.Priority for request in receiving.requests] == [priority]
        contexts = [(CTImageStorage, [ExplicitVRLittleEndian])]
        assert get(site.gateway, LATER, contexts, priority).priorities == [priority]


def test_sending_begins_before_all_of_the_index_has_been_read(site: Site) -> None:
    site.dynamodb.fail(Fault.HELD, where=f'STUDY#{LATER}"}}, ":prefix"')

    with at(site) as receiving, requestor(site.gateway) as association:
        answers = responses(association, "DEST", STUDY, LATER)
        first, _ = next(answers)
        assert counts(first) == (INSTANCES + 1, 0, 0, 0)
        eventually(lambda: len(receiving.files) == INSTANCES)
        site.dynamodb.heal()
        *_, (final, _) = answers
    assert (final.Status, counts(final)) == (0x0000, (-1, INSTANCES + 1, 0, 0))


def test_movescu_cancels_and_hears_what_remains(site: Site) -> None:
    # Only the cancel ends it.
    site.s3.fail(Fault.HELD, where=f"/{STUDY}/")
    with at(site):
        output = dcmtk.move(
            site.gateway, "DEST", "STUDY", f"StudyInstanceUID={STUDY}", options=("--cancel", "1")
        )
    final = output.rpartition("C-MOVE RSP")[2]
    assert "0xfe00" in final, output[-3000:]
