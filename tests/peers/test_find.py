"""What a C-FIND costs is bounded and said: by C-CANCEL, by a limit, in the log and in metrics.

findscu asks where a program that is not ours can; where the moment counts, bytes do.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom.dataset import Dataset

from infra.local.cloud import clients
from lenticular.attributes import Level
from lenticular.dicom_json import write_data_set
from lenticular.index_items import Copy, Elements, Item, study_items
from tests.cloud import clinic_of_studies
from tests.cloud.deadline import eventually
from tests.cloud.dynamodb_local import DynamoDBLocal, running_dynamodb_local
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.dimse import PATIENT_ROOT_FIND
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.raw_query import Asker, asking

_STUDIES: Final = 400
#: Every study says so much that a page of DynamoDB, 1 MB, holds two dozen; and all of them more
#: than the buffers of a connection do: who does not read on keeps us from sending on.
_LONG_TEXT: Final = "x" * 40_000
_NAME: Final = "Geheimrat^Eusebius"
_LIMIT: Final = 390
#: A name of which no index knows the beginning.
_IDEOGRAPHIC: Final = {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}


@pytest.fixture(scope="module")
def dynamodb() -> Iterator[DynamoDBLocal]:
    """Run an engine that has pages and counts units as DynamoDB does."""
    with running_dynamodb_local() as running:
        yield running


@pytest.fixture(scope="module")
def stores(dynamodb: DynamoDBLocal) -> Stores:
    """Return a table of four hundred studies, eight of them of one patient; there is no bucket."""
    table = dynamodb.table()
    items = []
    for number in range(_STUDIES):
        [copy] = clinic_of_studies.copies(
            number, patient=number // 8, day=date(2026, 1, 1 + number // 20), name=_NAME
        )
        history: Elements = {"001021B0": {"vr": "LT", "Value": [_LONG_TEXT]}}
        items += study_items([_saying(copy, Level.STUDY, history)], newest=True)
    items += _special_study()
    items += _study_of_yamada()
    dynamodb.load(table, items)
    environment = {**dynamodb.environment, "AWS_ENDPOINT_URL": dynamodb.endpoint}
    cloud = OfflineCloud(dynamodb.endpoint, environment, clients(environment))
    return Stores(cloud, "no-bucket", table)


def _special_study() -> list[Item]:
    """Make a study of two instances with a code sequence and an offset from UTC."""
    copies = clinic_of_studies.copies(
        900, patient=9000, day=date(2025, 1, 1), name="Code^One", instances=2
    )
    code = {
        "00080100": {"vr": "SH", "Value": ["CTTHX"]},
        "00080104": {"vr": "LO", "Value": ["Thorax"]},
    }
    study: Elements = {
        "00080201": {"vr": "SH", "Value": ["+0100"]},
        "00081032": {"vr": "SQ", "Value": [code]},
    }
    return study_items([_saying(copy, Level.STUDY, study) for copy in copies], newest=True)


def _study_of_yamada() -> list[Item]:
    """Make a study of a patient whose name has two groups."""
    [copy] = clinic_of_studies.copies(901, patient=9001, day=date(2025, 2, 1), name="")
    name: Elements = {"00100010": {"vr": "PN", "Value": [_IDEOGRAPHIC]}}
    return study_items([_saying(copy, Level.PATIENT, name)], newest=True)


def _saying(copy: Copy, level: Level, more: Elements) -> Copy:
    """Return a copy that says more of one level."""
    said = {**copy.attributes[level], **more}
    return replace(copy, attributes={**copy.attributes, level: said})


@pytest.fixture(scope="module")
def gateway(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Run a gateway that answers nearly all of them at most."""
    settings = {"LENTICULAR_MAX_RESPONSES": str(_LIMIT), "LENTICULAR_METRICS": "emf"}
    log = tmp_path_factory.mktemp("gateway") / "log"
    with running_gateway(log, stores, settings) as running:
        yield running


def _identifier(**keys: Any) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    for keyword, value in ({"StudyInstanceUID": ""} | keys).items():
        setattr(identifier, keyword, value)
    return identifier


def _query_line(gateway: Gateway, seen: int) -> dict[str, Any]:
    """Wait for the log line of a query, the first behind those seen."""
    lines = eventually(
        lambda: gateway.lines(message="query ended"), until=lambda lines: len(lines) > seen
    )
    return lines[seen]


def test_a_cancel_acts_within_one_page_though_nothing_matches(gateway: Gateway) -> None:
    seen = len(gateway.lines(message="query ended"))
    with asking(gateway.host, gateway.port, gateway.aet) as asker:
        # Nothing has this ID of a study, so there is no match at which to look for a cancel.
        asker.request("StudyID=nothing", cancel=True)
        [final] = asker.responses()
        assert final.command.status == 0xFE00
        first = _query_line(gateway, seen)
        [final] = asker.ask("StudyID=nothing")
        assert final.command.status == 0
    second = _query_line(gateway, seen + 1)
    assert (first["status"], first["pages"]) == ("FE00", 1)
    assert (second["status"], second["items"]) == ("0000", _STUDIES + 2)
    assert second["pages"] >= 4


def test_who_leaves_before_the_answer_has_cancelled(gateway: Gateway) -> None:
    seen = len(gateway.lines(message="query ended"))
    asker = Asker.associate(gateway.host, gateway.port, gateway.aet)
    asker.request("StudyID=nothing")
    asker.peer.sock.close()
    assert _query_line(gateway, seen)["status"] == "FE00"


def test_a_cancel_of_findscu_ends_what_it_reads_no_further(gateway: Gateway) -> None:
    seen = len(gateway.lines(message="query ended"))
    output = dcmtk.run(
        "findscu", "-v", "-S", "-aec", gateway.aet, "--cancel", "1",
        "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyDate=2026", "-k", "AdditionalPatientHistory",
        gateway.host, str(gateway.port),
    )  # fmt: skip
    assert "Sending Cancel Request" in output
    assert "Cancel: MatchingTerminatedDueToCancelRequest" in output
    line = _query_line(gateway, seen)
    assert line["status"] == "FE00"
    assert output.count("(Pending)") == line["matches"] < _LIMIT


def test_more_matches_than_the_limit_end_with_a_warning_and_a_status(
    gateway: Gateway, tmp_path: Path
) -> None:
    uids = list(map(clinic_of_studies.study_uid, range(_LIMIT + 1)))
    too_many, all_there_are = dcmtk.find_each(
        gateway,
        tmp_path,
        _identifier(StudyInstanceUID=uids),
        _identifier(StudyInstanceUID=uids[1:]),
    )
    # What was found before it is sent, and as many as the limit are no failure.
    assert [match["0020,000d"] for match in too_many.matches] == uids[:-1]
    assert too_many.final == "Refused: OutOfResources"
    assert [match["0020,000d"] for match in all_there_are.matches] == uids[1:]
    assert all_there_are.final == "Success"
    with asking(gateway.host, gateway.port, gateway.aet) as asker:
        *_, final = asker.ask("StudyDate=2026")
        assert final.command.status == 0xA700
        assert final.command.error_comment == f"more than {_LIMIT} match, ask for less"
    [warning, *_] = gateway.lines(message="query stopped")
    assert warning["level"] == "WARNING"
    assert warning["max_responses"] == _LIMIT


def test_each_query_says_what_it_read_and_nothing_of_what_it_asked(
    gateway: Gateway, stores: Stores
) -> None:
    del stores
    seen = len(gateway.lines(message="query ended"))
    with asking(gateway.host, gateway.port, gateway.aet) as asker:
        asker.ask("AccessionNumber=ACC00000009", "PatientName")
        asker.ask(f"PatientName={_NAME}", "PatientID=PID0000003", level="STUDY")
        asker.ask("StudyInstanceUID=" + clinic_of_studies.study_uid(3), level="SERIES")
    lines = [_query_line(gateway, seen + number) for number in range(3)]
    facts = [(line["plan"], line["query_level"], line["items"], line["matches"]) for line in lines]
    assert facts == [
        ("by-accession", "STUDY", 1, 1),
        ("by-patient", "STUDY", 8, 8),
        ("study-uid", "SERIES", 2, 1),
    ]
    for line in lines:
        assert line["model"] == "STUDY_ROOT"
        assert line["capacity_units"]
        assert line["milliseconds"] >= line["store_milliseconds"] > 0
        assert line["association"]
    log = gateway.log.read_text("utf-8")
    for secret in ("Geheimrat", "PID0000003", "ACC00000009"):
        assert secret not in log


def test_each_query_is_a_line_of_metrics(stores: Stores, tmp_path: Path) -> None:
    settings = {"LENTICULAR_METRICS": "emf"}
    with running_gateway(tmp_path / "log", stores, settings) as gateway:
        with asking(gateway.host, gateway.port, gateway.aet) as asker:
            asker.ask("AccessionNumber=ACC00000009", "PatientName")
        gateway.terminate()
        assert gateway.process.wait(30) == 0
        assert gateway.process.stdout is not None
        lines = [json.loads(line) for line in gateway.process.stdout]
    [query] = [line for line in lines if "Queries" in line]
    assert (query["QueryItemsRead"], query["QueryMatches"]) == (1, 1)
    assert (query["Plan"], query["Level"]) == ("by-accession", "STUDY")
    assert "ACC00000009" not in json.dumps(lines)


def test_a_wrong_identifier_is_refused_with_a_comment_that_names_the_key(gateway: Gateway) -> None:
    with asking(gateway.host, gateway.port, gateway.aet) as asker:
        for keys, level, named in (
            (["StudyDate=geheim"], "STUDY", "StudyDate"),
            ([], "SERIES", "StudyInstanceUID"),
            ([], "PATIENT", "QueryRetrieveLevel"),
        ):
            [final] = asker.ask(*keys, level=level)
            assert final.command.status == 0xA900
            assert named in (final.command.error_comment or "")
            assert "geheim" not in (final.command.error_comment or "")
        asker.request_encoded(b"\x08\x00\x52\x00CS\xff\xff")
        [final] = asker.responses()
        assert final.command.status == 0xA900
        assert "transfer syntax" in (final.command.error_comment or "")


def test_patients_are_found_in_the_patient_root(gateway: Gateway) -> None:
    with asking(gateway.host, gateway.port, gateway.aet, model=PATIENT_ROOT_FIND) as asker:
        match, final = asker.ask(
            "PatientID=PID0000003", "PatientName", level="PATIENT", model=PATIENT_ROOT_FIND
        )
    assert final.command.status == 0
    assert match.elements()[0x00100010]["Value"] == [{"Alphabetic": _NAME}]


@pytest.mark.parametrize(("code", "found"), [("CTTHX", 1), ("CT*", 1), ("MRTHX", 0)])
def test_a_study_is_found_by_an_item_of_a_sequence_and_returned_with_it(
    gateway: Gateway, code: str, found: int
) -> None:
    identifier = write_data_set(
        {
            0x00080052: {"vr": "CS", "Value": ["STUDY"]},
            0x00080020: {"vr": "DA", "Value": ["20250101"]},
            0x00081032: {
                "vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": [code]}}],
            },
        }
    )  # fmt: skip
    with asking(gateway.host, gateway.port, gateway.aet) as asker:
        asker.request_encoded(identifier)
        *matches, final = asker.responses()
    assert (len(matches), final.command.status) == (found, 0)
    for match in matches:
        [item] = match.elements()[0x00081032]["Value"]
        assert item["00080104"]["Value"] == ["Thorax"]


def test_what_is_worked_out_is_answered_at_its_level(gateway: Gateway) -> None:
    study = f"StudyInstanceUID={clinic_of_studies.study_uid(900)}"
    computed = [
        "RetrieveAETitle", "InstanceAvailability", "ModalitiesInStudy", "SOPClassesInStudy",
        "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances", "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances", "TimezoneOffsetFromUTC", "NumberOfSeriesRelatedInstances",
    ]  # fmt: skip
    with asking(gateway.host, gateway.port, gateway.aet) as asker:
        match, _ = asker.ask(study, *computed, level="SERIES")
        by_modality, _ = asker.ask("StudyDate=20250101", "ModalitiesInStudy=CT")
        [none] = asker.ask("StudyDate=20250101", "ModalitiesInStudy=MR")
        by_class, _ = asker.ask("StudyDate=20250101", f"SOPClassesInStudy={clinic_of_studies.CT}")
        [no_class] = asker.ask("StudyDate=20250101", "SOPClassesInStudy=1.2.3")
    assert match.command.status == 0xFF00
    said = {tag: element.get("Value") for tag, element in match.elements().items()}
    assert said[0x00080054] == [gateway.aet]
    assert said[0x00080056] == ["ONLINE"]
    assert said[0x00080061] == ["CT"]
    assert said[0x00080062] == [clinic_of_studies.CT]
    assert said[0x00080201] == ["+0100"]
    counts = (0x00201200, 0x00201202, 0x00201204, 0x00201206, 0x00201208, 0x00201209)
    assert [said[tag] for tag in counts] == [["1"], ["1"], ["2"], ["1"], ["2"], ["2"]]
    assert {by_modality.command.status, by_class.command.status} == {0xFF00}
    assert {none.command.status, no_class.command.status} == {0}


def test_a_key_that_is_not_known_is_answered_with_ff01(gateway: Gateway, tmp_path: Path) -> None:
    unknown, below, known = dcmtk.find_each(
        gateway, tmp_path,
        _identifier(StudyDate="20250101", PatientReligiousPreference=""),
        _identifier(StudyDate="20250101", SeriesNumber=None),
        _identifier(StudyDate="20250101", PatientName=""),
    )  # fmt: skip
    for answer in (unknown, below):
        assert answer.pending == ["Pending: WarningUnsupportedOptionalKeys"]
        assert answer.final == "Success"
    assert (known.pending, known.final) == (["Pending"], "Success")


def test_what_no_index_leads_to_reads_every_study_and_nothing_else(
    gateway: Gateway, tmp_path: Path
) -> None:
    seen = len(gateway.lines(message="query ended"))
    asked: list[dict[str, str]] = [
        {"PatientName": "山田*"},
        {"PatientName": "*太?"},
        {"PatientName": "?amada^TAR*"},
        {"PatientID": "*9001"},
    ]
    said = {"SpecificCharacterSet": "ISO_IR 192", "StudyID": ""}
    answered = dcmtk.find_each(gateway, tmp_path, *(_identifier(**said, **keys) for keys in asked))
    for number, (keys, answer) in enumerate(zip(asked, answered, strict=True)):
        assert [match["0020,0010"] for match in answer.matches] == ["901"], keys
        line = _query_line(gateway, seen + number)
        assert (line["plan"], line["items"]) == ("every-study", _STUDIES + 2), keys


def test_a_store_that_fails_is_never_an_empty_success(
    dynamodb: DynamoDBLocal, stores: Stores, tmp_path: Path
) -> None:
    gone = Stores(stores.cloud, stores.bucket, dynamodb.table())
    with (
        running_gateway(tmp_path / "log", gone) as gateway,
        asking(gateway.host, gateway.port, gateway.aet) as asker,
    ):
        dynamodb.client.delete_table(TableName=gone.table)
        [final] = asker.ask("PatientID=P1")
        assert final.command.status == 0xA700
        assert final.command.error_comment == "the index is unavailable, ask again later"
        [answer] = dcmtk.find_each(gateway, tmp_path / "asked", _identifier(PatientID="P1"))
        assert (answer.pending, answer.final) == ([], "Refused: OutOfResources")
    assert json.dumps(gateway.lines(message="query ended")).count("A700") == 2


def test_a_mistake_of_ours_is_c001_and_never_an_empty_success(
    dynamodb: DynamoDBLocal, stores: Stores, tmp_path: Path
) -> None:
    table = dynamodb.table()
    # An item no version of ours wrote: what it says is no JSON.
    [study] = [
        each
        for each in study_items(
            clinic_of_studies.copies(1, patient=1, day=date(2026, 1, 1), name=_NAME), newest=True
        )
        if each["sk"] == "STUDY"
    ]
    dynamodb.load(table, [{**study, "attributes": "{"}])
    broken = Stores(stores.cloud, stores.bucket, table)
    with (
        running_gateway(tmp_path / "log", broken) as gateway,
        asking(gateway.host, gateway.port, gateway.aet) as asker,
    ):
        [final] = asker.ask("PatientID=PID0000001", "PatientName=G*")
        assert final.command.status == 0xC001
        by_patient, everything = dcmtk.find_each(
            gateway, tmp_path / "asked", _identifier(PatientID="PID0000001"), _identifier()
        )
        for answer in (by_patient, everything):
            assert (answer.pending, answer.final) == ([], "Failed: UnableToProcess")
    assert gateway.lines(message="service failed")
