"""What a retrieval does when S3 or the index do not do their part."""

import re
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLosslessSV1
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from gateway.command_set import CommandField
from lenticular.index_keys import instance_sort_key, study_partition
from lenticular.part10 import data_set_offset
from lenticular.sop_classes import STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.archived import archive, image, transcode
from tests.peers.destination import counts, destination, get, requestor, responses
from tests.peers.faulty_s3 import Fault
from tests.peers.raw_query import asking
from tests.peers.retrieval_site import (
    AHEAD,
    COUNTED,
    FEW_SECONDS,
    FORM,
    INSTANCES,
    LARGE,
    LATER,
    MIXED,
    ODD,
    ODDITIES,
    RACED,
    READ_AHEAD_BYTES,
    RETIRED,
    STUDY,
    UIDS,
    UIDS_AHEAD,
    Site,
    at,
    retrieved,
)

pytestmark = pytest.mark.peers

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
    assert (line["pages"], line["items"]) == (3, 2 + INSTANCES + 1)
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
