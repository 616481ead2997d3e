"""Querying and retrieving with DCMTK: what a viewer does with a node, and what fails for it."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cloud.deadline import eventually
from tests.commands import lenticular
from tests.peers import dcmtk
from tests.peers.conftest import WORKSTATION, Clinic
from tests.peers.ct_files import ct_file
from tests.peers.nodes_file import nodes_file
from tests.ports import free_port

pytestmark = pytest.mark.peers

STUDY, OTHER_STUDY = "1.2.826.0.1.77.1", "1.2.826.0.1.77.2"
PATIENT_NAME = "0010,0010"
STUDY_UID = "0020,000d"
SERIES_UID = "0020,000e"
SOP_UID = "0008,0018"


@dataclass(frozen=True)
class Stored:
    """Two studies in the node: two series of two instances, and one of one."""

    clinic: Clinic
    files: list[Path]


@pytest.fixture(scope="module")
def stored(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Store both studies and wait until they can be found."""
    folder = tmp_path_factory.mktemp("files")
    files = [
        ct_file(
            folder, STUDY, f"{STUDY}.{series}", f"{STUDY}.{series}.{number}",
            PatientName="Müller^Jürgen", PatientID="P77", AccessionNumber="ACC77",
            StudyDate="20260105", StudyTime="101500", SeriesNumber=str(series),
            InstanceNumber=str(number), StudyDescription="Thorax nativ",
        )
        for series in (1, 2) for number in (1, 2)
    ]  # fmt: skip
    files.append(
        ct_file(
            folder, OTHER_STUDY, f"{OTHER_STUDY}.1", f"{OTHER_STUDY}.1.1",
            PatientName="Müller^Jürgen", PatientID="P77", AccessionNumber="ACC78",
            StudyDate="20260210", StudyTime="080000",
        )
    )  # fmt: skip
    node = clinic.node
    assert dcmtk.store(node, *files) == [0] * len(files)
    eventually(
        lambda: dcmtk.find(node, "STUDY", "PatientID=P77", "NumberOfStudyRelatedInstances"),
        until=lambda answers: sorted(each["0020,1208"] for each in answers) == ["1", "4"],
    )
    return Stored(clinic, files)


@pytest.mark.parametrize(
    ("keys", "studies"),
    [
        (["PatientID=P77"], {STUDY, OTHER_STUDY}),
        (["AccessionNumber=ACC77"], {STUDY}),
        ([f"StudyInstanceUID={STUDY}"], {STUDY}),
        ([f"StudyInstanceUID={STUDY}\\{OTHER_STUDY}"], {STUDY, OTHER_STUDY}),
        (["PatientName=MULLER*", "PatientID=P77"], {STUDY, OTHER_STUDY}),
        (["PatientName=muller^j*"], {STUDY, OTHER_STUDY}),
        (["PatientName=M?ller^J*", "PatientID=P7*"], {STUDY, OTHER_STUDY}),
        (["StudyDate=20260101-20260131", "PatientID=P77"], {STUDY}),
        (["StudyDate=20260105"], {STUDY}),
        (["StudyDate=20260106-", "PatientID=P77"], {OTHER_STUDY}),
        (["StudyDescription=*nativ*", "ModalitiesInStudy=CT"], {STUDY}),
        (["PatientID=P77", "ModalitiesInStudy=MR"], set()),
        (["PatientID=nobody"], set()),
    ],
)
def test_studies_are_found_by(stored: Stored, keys: list[str], studies: set[str]) -> None:
    if not any("StudyInstanceUID" in key for key in keys):
        keys = [*keys, "StudyInstanceUID"]
    answers = dcmtk.find(stored.clinic.node, "STUDY", *keys)
    # Other tests keep studies of the same days in this node.
    found = [answer[STUDY_UID] for answer in answers if answer[STUDY_UID] in (STUDY, OTHER_STUDY)]
    assert sorted(found) == sorted(studies)


def test_series_and_images_are_found_below_their_study(stored: Stored) -> None:
    node = stored.clinic.node
    in_study = f"StudyInstanceUID={STUDY}"
    series = dcmtk.find(
        node, "SERIES", in_study, "SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"
    )
    assert {answer[SERIES_UID] for answer in series} == {f"{STUDY}.1", f"{STUDY}.2"}
    assert {(answer["0008,0060"], answer["0020,1209"]) for answer in series} == {("CT", "2")}
    images = dcmtk.find(
        node, "IMAGE", in_study, f"SeriesInstanceUID={STUDY}.1", "SOPInstanceUID", "InstanceNumber"
    )
    assert {(answer[SOP_UID], answer["0020,0013"]) for answer in images} == {
        (f"{STUDY}.1.1", "1"),
        (f"{STUDY}.1.2", "2"),
    }


def test_a_patient_is_found_once_with_all_studies_counted(stored: Stored) -> None:
    (answer,) = dcmtk.find(
        stored.clinic.node, "PATIENT", "PatientID=P77", "PatientName",
        "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedInstances", model="-P",
    )  # fmt: skip
    assert (answer["0020,1200"], answer["0020,1204"]) == ("2", "5")


def test_the_answer_comes_in_the_character_set_of_the_question(stored: Stored) -> None:
    (answer,) = dcmtk.find(
        stored.clinic.node, "STUDY", "SpecificCharacterSet=ISO_IR 100", "AccessionNumber=ACC77",
        "PatientName",
    )  # fmt: skip
    # dcmtk.run reads what findscu prints as Latin-1, which is the set that was asked for.
    assert answer[PATIENT_NAME] == "Müller^Jürgen"


def test_a_query_that_breaks_the_hierarchy_is_refused(stored: Stored) -> None:
    with pytest.raises(dcmtk.PeerFailed, match="DataSetDoesNotMatchSOPClass"):
        dcmtk.find(stored.clinic.node, "SERIES", "SeriesInstanceUID")


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("STUDY", [f"StudyInstanceUID={STUDY}"], 4),
        (
            "IMAGE",
            [
                f"StudyInstanceUID={STUDY}",
                f"SeriesInstanceUID={STUDY}.1",
                f"SOPInstanceUID={STUDY}.1.2",
            ],
            1,
        ),
    ],
)
def test_what_is_named_is_sent_to_the_destination(
    stored: Stored, workstation: Path, level: str, keys: list[str], count: int
) -> None:
    output = dcmtk.move(stored.clinic.node, WORKSTATION, level, *keys)
    final = output.rpartition("C-MOVE RSP")[2]
    assert re.search(r"DIMSE Status\s*: 0x0000", final), output[-3000:]
    assert re.search(rf"Completed Suboperations\s*: {count}\b", final), output[-3000:]
    assert len(list(workstation.iterdir())) == count


def test_a_whole_patient_is_sent(stored: Stored, workstation: Path) -> None:
    output = dcmtk.move(stored.clinic.node, WORKSTATION, "PATIENT", "PatientID=P77", model="-P")
    assert re.search(r"Completed Suboperations\s*: 5\b", output.rpartition("C-MOVE RSP")[2])
    assert len(list(workstation.iterdir())) == len(stored.files)


def test_a_destination_that_aborts_midway_gets_the_rest_on_a_fresh_association(
    stored: Stored, tmp_path: Path
) -> None:
    # storescp aborts while it receives; what it broke on is tried once more, and then listed.
    with dcmtk.receiver(
        tmp_path / "aborting", WORKSTATION, stored.clinic.workstation_port, "--abort-during"
    ):
        output = dcmtk.move(
            stored.clinic.node, WORKSTATION, "STUDY", f"StudyInstanceUID={OTHER_STUDY}"
        )
    final = output.rpartition("C-MOVE RSP")[2]
    assert re.search(r"Failed Suboperations\s*: 1\b", final), output[-3000:]
    dcmtk.echo(stored.clinic.node)


def test_nodes_that_are_loaded_by_the_command_are_known_without_a_restart(
    stored: Stored, tmp_path: Path
) -> None:
    node = stored.clinic.node
    port = free_port()
    ports = {WORKSTATION: stored.clinic.workstation_port, "NEWCOMER": port}
    nodes = nodes_file(tmp_path, ports)
    assert lenticular(node.environment(), "nodes", "import", "--replace", nodes).returncode == 0
    with dcmtk.receiver(tmp_path / "newcomer", "NEWCOMER", port) as folder:
        # The gateway looks at the table every few seconds.
        eventually(
            lambda: dcmtk.move(node, "NEWCOMER", "STUDY", f"StudyInstanceUID={OTHER_STUDY}"),
            until=lambda output: "0x0000" in output.rpartition("C-MOVE RSP")[2],
        )
        assert len(list(folder.iterdir())) == 1
