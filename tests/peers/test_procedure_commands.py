"""What an operator sees of performed procedure steps, and the queues' dead letters."""

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from tests.cloud.deadline import eventually
from tests.commands import lenticular
from tests.peers import dcmtk
from tests.peers.conftest import Clinic
from tests.peers.instances import Instance, study
from tests.peers.procedures import PATIENT_NAME, ended, modality, series, started

pytestmark = pytest.mark.peers


def _performed(
    clinic: Clinic, folder: Path, count: int, day: str = "20260105"
) -> tuple[str, list[Instance]]:
    """Run a step that announces `count` instances; return its UID and them, not stored yet."""
    instances = study(folder, count, size=1 << 10)
    step = generate_uid(None)
    first = instances[0]
    with modality(clinic.node, aet="CT1") as sending:
        begun = started(first.study_instance_uid, PerformedProcedureStepStartDate=day)
        assert sending.create(step, begun) == 0
        uids = [each.sop_instance_uid for each in instances]
        assert sending.set(step, ended(series(first.series_instance_uid, uids))) == 0
    return step, instances


def _listed(clinic: Clinic, *options: str) -> list[dict[str, object]]:
    done = lenticular(clinic.node.environment(), "procedures", "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_operator_sees_what_of_a_study_has_not_come(clinic: Clinic, tmp_path: Path) -> None:
    step, instances = _performed(clinic, tmp_path, 3)
    of_study = ("--study", instances[0].study_instance_uid)
    [listed] = eventually(lambda: _listed(clinic, *of_study))
    assert (listed["state"], listed["announced"], listed["received"]) == ("COMPLETED", 3, 0)
    assert listed["calling_ae_title"] == "CT1"
    assert listed["accession_numbers"] == ["ACC-1"]
    dcmtk.store(clinic.node, *(each.path for each in instances[:2]))
    [listed] = eventually(
        lambda: _listed(clinic, *of_study, "--incomplete"),
        until=lambda found: found[0]["received"] == 2,
    )
    assert not listed["is_complete"]
    shown = lenticular(clinic.node.environment(), "procedures", "show", step)
    assert shown.returncode == 0, shown.stderr
    assert instances[2].sop_instance_uid in shown.stdout
    assert instances[0].sop_instance_uid not in shown.stdout
    dcmtk.store(clinic.node, instances[2].path)
    assert (
        eventually(
            lambda: _listed(clinic, *of_study, "--incomplete"), until=lambda found: not found
        )
        == []
    )
    table = lenticular(clinic.node.environment(), "procedures", "list", *of_study).stdout
    heading, line = table.splitlines()
    assert re.match("state +received +announced +calling ae title ", heading)
    assert re.match("COMPLETED +3 +3 +CT1 ", line)
    assert PATIENT_NAME not in shown.stdout + table + json.dumps(listed)


def test_steps_are_listed_by_when_they_started(clinic: Clinic, tmp_path: Path) -> None:
    days = [datetime.now(UTC) - timedelta(days=ago) for ago in (0, 10)]
    recent, older = [
        _performed(clinic, tmp_path / str(number), 1, f"{day:%Y%m%d}")
        for number, day in enumerate(days)
    ]
    for _, instances in (recent, older):
        of_study = ("--study", instances[0].study_instance_uid)
        eventually(partial(_listed, clinic, *of_study))

    def steps(*options: str) -> set[object]:
        return {each["sop_instance_uid"] for each in _listed(clinic, *options)}

    assert {recent[0], older[0]} & steps() == {recent[0]}
    assert {recent[0], older[0]} <= steps("--days", "11")


def test_a_rebuild_brings_the_steps_back(clinic: Clinic, tmp_path: Path) -> None:
    step, instances = _performed(clinic, tmp_path, 1)
    study_uid = instances[0].study_instance_uid
    [before] = eventually(lambda: _listed(clinic, "--study", study_uid))
    clinic.node.client("dynamodb").delete_item(
        TableName=clinic.node.table,
        Key={"pk": {"S": f"STUDY#{study_uid}"}, "sk": {"S": f"PROCEDURE#{step}"}},
    )
    assert _listed(clinic, "--study", study_uid) == []
    done = lenticular(clinic.node.environment(), "rebuild-index")
    assert done.returncode == 0, done.stderr
    assert _listed(clinic, "--study", study_uid) == [before]


@pytest.mark.parametrize("uid", ["1.2.3.99999", "../.."])
def test_a_step_that_there_is_none_of_is_told(clinic: Clinic, uid: str) -> None:
    done = lenticular(clinic.node.environment(), "procedures", "show", uid)
    assert done.returncode == 2
    assert "no performed procedure step" in done.stderr


def test_dead_letters_are_listed_and_sent_back(clinic: Clinic, tmp_path: Path) -> None:
    environment = clinic.node.environment()
    step, instances = _performed(clinic, tmp_path, 1)
    eventually(lambda: _listed(clinic, "--study", instances[0].study_instance_uid))
    clinic.node.client("dynamodb").delete_item(
        TableName=clinic.node.table,
        Key={
            "pk": {"S": f"STUDY#{instances[0].study_instance_uid}"},
            "sk": {"S": f"PROCEDURE#{step}"},
        },
    )
    letter = {
        "Records": [
            {
                "eventName": "ObjectCreated:Put",
                "s3": {"object": {"key": f"procedures/{step}/00002.json"}},
            }
        ]
    }
    sqs = clinic.node.client("sqs")
    dead = sqs.get_queue_url(QueueName="lenticular-ProceduresDeadLetterQueue")["QueueUrl"]
    sqs.send_message(QueueUrl=dead, MessageBody=json.dumps(letter))
    listed = lenticular(environment, "dead-letters", "list")
    assert listed.returncode == 0, listed.stderr
    [line] = [line for line in listed.stdout.splitlines() if line.startswith("procedures")]
    assert line.split() == ["procedures", "0", "1"]
    replayed = lenticular(environment, "dead-letters", "replay", "procedures")
    assert "1 messages sent back to procedures" in replayed.stdout
    assert eventually(lambda: _listed(clinic, "--study", instances[0].study_instance_uid))
