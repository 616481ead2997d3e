"""What a retrieval does when S3, the index or the destination do not do their part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
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
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from lenticular.part10 import data_set_offset
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.archived import archive, image, transcode
from tests.peers.destination import Destination, counts, destination, get, requestor, responses
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.ports import free_port

pytestmark = pytest.mark.peers

ROOT = "1.2.826.0.1.90"
STUDY, MIXED, PRIVATE, LATER, RETIRED, RACED, LARGE, FORM = (
    f"{ROOT}.{number}" for number in range(1, 9)
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

    def moved(self, aet: str, *studies: str) -> tuple[Dataset, list[str]]:
        """Move studies; return the final response and what it lists as failed."""
        with requestor(self.gateway) as association:
            *_, final = responses(association, aet, *(studies or [STUDY]))
        return final


@pytest.fixture(scope="module")
def whole_site(cloud: OfflineCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Fill an archive and run a gateway over it that does not wait long for anyone."""
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
    archive(stores, *files)
    folder = tmp_path_factory.mktemp("site")
    ports = {aet: free_port() for aet in ("DEST", "OLD")}
    nodes = folder / "nodes.yaml"
    nodes.write_text(
        "nodes:\n"
        f"  - {{aet: DEST, address: 127.0.0.1, port: {ports['DEST']}}}\n"
        f"  - {{aet: OLD, address: 127.0.0.1, port: {ports['OLD']}, "
        "associations: one-per-instance}\n"
    )
    with faulty_s3(cloud.endpoint) as s3, faulty_s3(cloud.endpoint) as dynamodb:
        settings = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "AWS_ENDPOINT_URL_DYNAMODB": dynamodb.endpoint,
            "LENTICULAR_NODES_FILE": str(nodes),
            "LENTICULAR_RETRY_SECONDS": "0",
            "LENTICULAR_READ_AHEAD_BYTES": str(READ_AHEAD_BYTES),
            "LENTICULAR_DIMSE_SECONDS": str(FEW_SECONDS),
        }
        with running_gateway(folder / "gateway.log", stores, settings) as gateway:
            yield Site(gateway, stores, s3, dynamodb, ports)


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


def test_a_destination_that_never_answers_is_given_up_after_a_few_associations(
    site: Site,
) -> None:
    def on_store(_request: C_STORE, association: Association) -> int:
        # Until the gateway has aborted.
        eventually(lambda: not association.is_established, within=60)
        return 0

    with at(site, on_store) as receiving:
        final, failed = site.moved("DEST")
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
    with at(site):
        output = dcmtk.move(
            site.gateway, "DEST", "STUDY", f"StudyInstanceUID={STUDY}", options=("--cancel", "1")
        )
    final = output.rpartition("C-MOVE RSP")[2]
    assert "0xfe00" in final, output[-3000:]
