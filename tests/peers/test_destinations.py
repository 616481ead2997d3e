"""What a C-MOVE does as its destination takes, refuses or breaks off what it is sent."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
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

from lenticular.part10 import data_set_offset
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.archived import archive, image, transcode
from tests.peers.destination import MESSAGE_ID, counts, destination, get, requestor, responses
from tests.peers.gateway_process import running_gateway
from tests.peers.retrieval_site import (
    AHEAD,
    CT_AND_MR,
    FEW_SECONDS,
    FORM,
    INSTANCES,
    LATER,
    MIXED,
    PRIVATE,
    PRIVATE_CLASSES,
    STUDY,
    UIDS,
    UIDS_AHEAD,
    Site,
    at,
)

pytestmark = pytest.mark.peers

EVERYTHING: Mapping[str, Sequence[str]] = {
    sop_class: [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless]
    for sop_class in CT_AND_MR
}


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


def test_sub_operations_have_the_priority_of_their_request(site: Site) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", LATER
    for priority in (0, 1, 2):
        with at(site) as receiving, requestor(site.gateway) as association:
            list(association.send_c_move(identifier, "DEST", StudyRootMove, priority=priority))
        assert [request.Priority for request in receiving.requests] == [priority]
        contexts = [(CTImageStorage, [ExplicitVRLittleEndian])]
        assert get(site.gateway, LATER, contexts, priority).priorities == [priority]
