"""The operator's commands against a running node, and what they say when something is wrong."""

from pathlib import Path

import pytest

from tests.cloud.deadline import eventually
from tests.peers import dcmtk
from tests.peers.commands import lenticular
from tests.peers.conftest import Clinic
from tests.peers.ct_files import ct_file

pytestmark = pytest.mark.peers


def test_what_was_quarantined_is_listed_with_its_reason(clinic: Clinic, tmp_path: Path) -> None:
    file = ct_file(tmp_path, "", "1.2.3.1", "1.2.3.99.1", PatientName="Secret^Name")
    assert dcmtk.store(clinic.node, file) == [0]
    listed = eventually(
        lambda: lenticular(clinic.node.environment(), "quarantine").stdout,
        until=lambda output: "1.2.3.99.1" in output,
    )
    assert "no valid Study Instance UID" in listed
    assert "Secret" not in listed


def test_a_rebuild_leaves_what_can_be_found_as_it_was(clinic: Clinic, tmp_path: Path) -> None:
    node = clinic.node
    file = ct_file(tmp_path, "1.2.3.98", "1.2.3.98.1", "1.2.3.98.1.1", PatientID="REBUILD")
    dcmtk.store(node, file)
    keys = ("PatientID=REBUILD", "StudyInstanceUID", "NumberOfStudyRelatedInstances")
    before = eventually(lambda: dcmtk.find(node, "STUDY", *keys))
    done = lenticular(node.environment(), "rebuild-index")
    assert done.returncode == 0, done.stderr
    assert dcmtk.find(node, "STUDY", *keys) == before


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("AWS_DEFAULT_REGION", "AWS is not configured"),
        ("LENTICULAR_TABLE", "LENTICULAR_TABLE is not set"),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(clinic: Clinic, missing: str, told: str) -> None:
    environment = clinic.node.environment()
    del environment[missing]
    done = lenticular(environment, "nodes", "list")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
