"""Performed procedure steps against the running node, by pynetdicom and dcmjs-dimse. PS3.4 F."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from lenticular.archive import procedure_prefix
from lenticular.status import Status
from tests.cloud.deadline import eventually
from tests.peers.conftest import Clinic
from tests.peers.procedures import (
    MPPS,
    MPPS_RETRIEVE,
    PATIENT_NAME,
    data_set,
    ended,
    get_by_dcmjs,
    modality,
    send_by_dcmjs,
    series,
    started,
)

pytestmark = pytest.mark.peers

NO_LONGER = "Performed Procedure Step Object may no longer be updated"


def test_a_step_of_dcmjs_dimse_begins_goes_on_and_ends(clinic: Clinic) -> None:
    study, step, performed = (generate_uid(None) for _ in range(3))
    answers = send_by_dcmjs(
        clinic.node,
        step,
        ("n-create", started(study)),
        ("n-set", {"PerformedSeriesSequence": [series(performed, ["1.2.3.1"])]}),
        ("n-set", ended(series(performed, ["1.2.3.1", "1.2.3.2"], ["1.2.3.3"]))),
        ("n-set", {"PerformedProcedureStepDescription": "too late"}),
    )
    assert [answer["status"] for answer in answers] == [0, 0, 0, Status.PROCESSING_FAILURE]
    assert answers[3]["comment"] == NO_LONGER
    with modality(clinic.node) as asking:
        assert asking.get(step) == Status.SUCCESS
    assert asking.returned is not None
    assert asking.returned.PerformedProcedureStepStatus == "COMPLETED"
    assert asking.returned.PerformedProcedureStepDescription == ""
    [kept] = asking.returned.PerformedSeriesSequence
    assert [each.ReferencedSOPInstanceUID for each in kept.ReferencedImageSequence] == [
        "1.2.3.1", "1.2.3.2",
    ]  # fmt: skip


@pytest.mark.parametrize("under", [MPPS, MPPS_RETRIEVE])
def test_dcmjs_dimse_gets_all_of_a_step_and_what_it_names(clinic: Clinic, under: str) -> None:
    study, step, performed = (generate_uid(None) for _ in range(3))
    send_by_dcmjs(
        clinic.node,
        step,
        ("n-create", started(study)),
        ("n-set", ended(series(performed, ["1.2.3.1", "1.2.3.2"]))),
    )
    named = ["PerformedProcedureStepStatus", "Modality", "PerformedSeriesSequence"]
    everything, some, warned = get_by_dcmjs(
        clinic.node, step, [], named, [*named, "PixelSpacing"], under=under
    )
    assert [everything["status"], some["status"], warned["status"]] == [0, 0, 0x0001]
    assert everything["data"]["PatientID"] == "PID-SECRET-4711"
    assert everything["data"]["PerformedProcedureStepEndDate"] == "20260105"
    for answer in (some, warned):
        data = answer["data"]
        assert set(named) <= data.keys()
        assert not {"PatientID", "PixelSpacing"} & data.keys()
        assert (data["PerformedProcedureStepStatus"], data["Modality"]) == ("COMPLETED", "CT")
        [kept] = items(data["PerformedSeriesSequence"])
        images = items(kept["ReferencedImageSequence"])
        assert [each["ReferencedSOPInstanceUID"] for each in images] == ["1.2.3.1", "1.2.3.2"]
    [unknown] = get_by_dcmjs(clinic.node, "1.2.3.99", [], under=under)
    assert unknown["status"] == Status.NO_SUCH_SOP_INSTANCE


def items(sequence: Any) -> list[Any]:
    """Read a sequence as dcmjs does: one item is no list."""
    return sequence if isinstance(sequence, list) else [sequence]


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_after_its_end_a_step_stays_as_it_is(clinic: Clinic, status: str) -> None:
    step = generate_uid(None)
    with modality(clinic.node) as sending:
        assert sending.create(step, started(generate_uid(None))) == Status.SUCCESS
        assert sending.set(step, ended(series("1.2.3"), status=status)) == Status.SUCCESS
        for late in ("IN PROGRESS", "COMPLETED", "DISCONTINUED"):
            refused = sending.set(step, ended(series("1.2.3"), status=late))
            assert refused == Status.PROCESSING_FAILURE
            assert sending.status.ErrorComment == NO_LONGER
            assert sending.status.ErrorID == 0xA710
        assert sending.get(step, "PerformedProcedureStepStatus") == Status.SUCCESS
    assert sending.returned is not None
    assert sending.returned.PerformedProcedureStepStatus == status


def test_the_same_end_again_on_another_association_is_refused_to_who_heard_the_answer(
    clinic: Clinic,
) -> None:
    step, study = generate_uid(None), generate_uid(None)
    for _ in range(2):
        with modality(clinic.node) as sending:
            created = sending.create(step, started(study))
            over = sending.set(step, ended(series("1.2.3")))
    assert created == Status.DUPLICATE_SOP_INSTANCE
    assert over == Status.PROCESSING_FAILURE


def test_who_lost_the_answer_may_send_the_same_again(clinic: Clinic) -> None:
    step, study = generate_uid(None), generate_uid(None)
    prefix = procedure_prefix(step)
    for request in (("create", started(study)), ("set", ended(series("1.2.3")))):
        for _ in range(2):
            with modality(clinic.node) as sending:
                send = getattr(sending, request[0])
                assert send(step, request[1]) == Status.SUCCESS
                # As a broken line does: no release, and the answer may never have arrived.
                sending.opened.abort()
    assert len(clinic.node.object_keys(prefix)) == 2
    with modality(clinic.node) as sending:
        other = started(study, PerformedStationName="CT in room 2")
        assert sending.create(step, other) == Status.DUPLICATE_SOP_INSTANCE
        late = ended(series("1.2.3"), status="DISCONTINUED")
        assert sending.set(step, late) == Status.PROCESSING_FAILURE


def test_a_step_without_a_uid_gets_one(clinic: Clinic) -> None:
    study = generate_uid(None)
    made: list[str] = []
    with modality(clinic.node) as sending:
        for _ in range(2):
            assert sending.create(None, started(study)) == Status.SUCCESS
    listed = eventually(
        lambda: [
            item["sk"]["S"].removeprefix("PROCEDURE#")
            for item in clinic.node.client("dynamodb").query(
                TableName=clinic.node.table,
                KeyConditionExpression="pk = :study",
                ExpressionAttributeValues={":study": {"S": f"STUDY#{study}"}},
            )["Items"]
        ],
        until=lambda found: len(found) == 2,
    )
    made = listed
    with modality(clinic.node) as asking:
        for uid in made:
            assert asking.get(uid, "PerformedProcedureStepStatus") == Status.SUCCESS


def test_an_unknown_step_is_neither_set_nor_got(clinic: Clinic) -> None:
    with modality(clinic.node) as sending:
        assert sending.set("1.2.3.99", ended(series("1.2.3"))) == Status.NO_SUCH_SOP_INSTANCE
        assert sending.get("1.2.3.99") == Status.NO_SUCH_SOP_INSTANCE


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"PerformedProcedureStepStatus": None}, Status.MISSING_ATTRIBUTE),
        ({"Modality": None}, Status.MISSING_ATTRIBUTE),
        ({"ScheduledStepAttributesSequence": None}, Status.MISSING_ATTRIBUTE),
        ({"ScheduledStepAttributesSequence": [{}]}, Status.MISSING_ATTRIBUTE),
        ({"ScheduledStepAttributesSequence": []}, Status.MISSING_ATTRIBUTE_VALUE),
        ({"PerformedStationAETitle": ""}, Status.MISSING_ATTRIBUTE_VALUE),
        ({"PerformedProcedureStepStatus": ""}, Status.MISSING_ATTRIBUTE_VALUE),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, Status.INVALID_ATTRIBUTE_VALUE),
        ({"PerformedProcedureStepStatus": "STARTED"}, Status.INVALID_ATTRIBUTE_VALUE),
        # Of type 2, and left out by many: taken as sent empty.
        ({"StudyID": None, "PatientSex": None, "ProcedureCodeSequence": None}, Status.SUCCESS),
    ],
)
def test_an_n_create_must_say_what_the_standard_asks_for(
    clinic: Clinic, attributes: Mapping[str, Any], expected: Status
) -> None:
    step = generate_uid(None)
    with modality(clinic.node) as sending:
        assert sending.create(step, started(generate_uid(None), **attributes)) == expected
        found = sending.get(step, *attributes)
    if expected == Status.SUCCESS:
        assert found == Status.SUCCESS
        assert sending.returned is not None
        assert sending.returned.StudyID == ""
    else:
        assert found == Status.NO_SUCH_SOP_INSTANCE


@pytest.mark.parametrize(
    ("modifications", "expected"),
    [
        (ended(series("1.2.3"), PatientID="OTHER"), Status.INVALID_ATTRIBUTE_VALUE),
        (ended(series("1.2.3"), PatientID="PID-SECRET-4711"), Status.SUCCESS),
        (
            ended(series("1.2.3"), PerformedProcedureStepEndDate=None),
            Status.MISSING_ATTRIBUTE_VALUE,
        ),
        (ended(), Status.MISSING_ATTRIBUTE_VALUE),
        (ended({"ProtocolName": "Thorax"}), Status.MISSING_ATTRIBUTE),
        (ended({**series("1.2.3"), "ProtocolName": ""}), Status.MISSING_ATTRIBUTE_VALUE),
        (ended(series("1.2.3"), status="DONE"), Status.INVALID_ATTRIBUTE_VALUE),
    ],
)
def test_an_n_set_may_change_what_the_standard_allows(
    clinic: Clinic, modifications: Mapping[str, Any], expected: Status
) -> None:
    step = generate_uid(None)
    with modality(clinic.node) as sending:
        assert sending.create(step, started(generate_uid(None))) == Status.SUCCESS
        assert sending.set(step, modifications) == expected
        assert sending.get(step, "PerformedProcedureStepStatus") == Status.SUCCESS
    assert sending.returned is not None
    assert sending.returned.PerformedProcedureStepStatus == (
        "COMPLETED" if expected == Status.SUCCESS else "IN PROGRESS"
    )


def test_attributes_that_there_are_none_of_are_named_with_a_warning(clinic: Clinic) -> None:
    step = generate_uid(None)
    with modality(clinic.node) as sending:
        sending.create(step, started(generate_uid(None)))
        for under in (MPPS, "1.2.840.10008.3.1.2.3.4"):
            assert sending.get(step, "Modality", "PixelSpacing", under=under) == 0x0001
            assert sending.returned is not None
            assert sending.returned.Modality == "CT"
            assert "PixelSpacing" not in sending.returned


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_text_and_private_attributes_survive_whatever_they_came_in(
    clinic: Clinic, syntax: str
) -> None:
    step = generate_uid(None)
    first = data_set(started(generate_uid(None), PatientName=None))
    first.SpecificCharacterSet = "ISO_IR 100"
    first.PatientName = "Müller^Jürgen"
    first.add_new(0x00091001, "UN", b"\x01\x02\x03\x04")
    first.add_new(0x00090010, "LO", "SOMEBODY")
    last = data_set(ended(series("1.2.3")))
    last.SpecificCharacterSet = "ISO_IR 144"
    last.CommentsOnThePerformedProcedureStep = "Контраст"
    with modality(clinic.node, syntax) as sending:
        assert sending.create(step, first) == Status.SUCCESS
        assert sending.get(step) == Status.SUCCESS
        assert sending.returned is not None
        assert sending.returned.SpecificCharacterSet == "ISO_IR 100"
        assert sending.returned.PatientName == "Müller^Jürgen"
        assert sending.set(step, last) == Status.SUCCESS
    # No single-byte set has both alphabets.
    with modality(clinic.node) as asking:
        assert asking.get(step) == Status.SUCCESS
    assert asking.returned is not None
    assert asking.returned.SpecificCharacterSet == "ISO_IR 192"
    assert asking.returned.PatientName == "Müller^Jürgen"
    assert asking.returned.CommentsOnThePerformedProcedureStep == "Контраст"
    assert asking.returned[0x00091001].value == b"\x01\x02\x03\x04"


def test_a_step_may_announce_ten_thousand_instances(clinic: Clinic) -> None:
    step = generate_uid(None)
    uids = [f"1.2.826.0.1.3680043.8.498.{10**37 + number}" for number in range(10_000)]
    with modality(clinic.node) as sending:
        assert sending.create(step, started(generate_uid(None))) == Status.SUCCESS
        assert sending.set(step, ended(series("1.2.3", uids))) == Status.SUCCESS
        assert sending.get(step, "PerformedSeriesSequence") == Status.SUCCESS
    assert sending.returned is not None
    [kept] = sending.returned.PerformedSeriesSequence
    assert [each.ReferencedSOPInstanceUID for each in kept.ReferencedImageSequence] == uids


def test_of_n_sets_that_race_none_is_lost(clinic: Clinic) -> None:
    step = generate_uid(None)
    with modality(clinic.node) as sending:
        assert sending.create(step, started(generate_uid(None))) == Status.SUCCESS
    statuses: list[int | None] = []

    def one(keyword: str) -> None:
        with modality(clinic.node, aet=keyword[:16]) as racing:
            statuses.append(racing.set(step, {keyword: "set"}))

    keywords = (
        "PerformedProcedureStepDescription",
        "PerformedProcedureTypeDescription",
        "CommentsOnThePerformedProcedureStep",
    )
    threads = [threading.Thread(target=one, args=(keyword,)) for keyword in keywords]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [Status.SUCCESS] * 3
    assert len(clinic.node.object_keys(procedure_prefix(step))) == 4
    with modality(clinic.node) as asking:
        asking.get(step, *keywords)
    assert isinstance(asking.returned, Dataset)
    assert [asking.returned.get(keyword) for keyword in keywords] == ["set"] * 3


def test_no_log_line_names_the_patient(clinic: Clinic) -> None:
    with modality(clinic.node) as sending:
        sending.create(generate_uid(None), started(generate_uid(None)))
        sending.create(generate_uid(None), started(generate_uid(None), Modality=""))
    log = clinic.node.log.read_text("utf-8")
    assert "procedure created" in log
    assert PATIENT_NAME not in log
    assert "PID-SECRET" not in log
