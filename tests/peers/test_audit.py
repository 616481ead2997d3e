"""A clinic's day with other people's programs, and what the audit trail says of it."""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.audit_schema import Read, read
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.conftest import WORKSTATION
from tests.peers.ct_files import ct_file
from tests.peers.gateway_process import Stores, running_gateway
from tests.peers.node_process import ROOT, Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.peers.pki import Authority
from tests.peers.procedures import MPPS, ended, modality, series, started
from tests.peers.repository import repository
from tests.ports import free_port

# One node for the module, which starts and ends while it is looked at.
pytestmark = [pytest.mark.peers, pytest.mark.slow]

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
FIRST, SECOND = "1.2.826.0.1.71.1", "1.2.826.0.1.71.2"
PATIENTS: Final = {FIRST: "PID-71-A", SECOND: "PID-71-Ä"}
SCANNER: Final = "CT1"
STEP: Final = "1.2.826.0.1.71.9"
HEADER: Final = re.compile(
    r"<(8[0-7])>1 (\S+) (\S+) lenticular (\d+) DICOM\+RFC3881 - \ufeff(.*)", re.DOTALL
)
BEGIN, TRANSFERRED = "Begin Transferring DICOM Instances", "DICOM Instances Transferred"
PROCEDURE: Final = "Procedure Record"


@dataclass(frozen=True)
class Day:
    """What a day left behind: lines of the file, what the repository got, and the log."""

    lines: list[dict[str, Any]]
    syslog: list[str]
    log: str
    node: str

    def of(self, event: str, **facts: object) -> list[Read]:
        """Return the messages of an event whose lines say this."""
        return [
            read(line["xml"])
            for line in self.lines
            if line["event"] == event
            and all(line.get(name) == fact for name, fact in facts.items())
        ]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("audited")
    port = free_port()
    titles = ("STORESCU", "FINDSCU", "MOVESCU", "GETSCU", SCANNER, WORKSTATION)
    nodes = nodes_file(folder, dict.fromkeys(titles, port))
    authority = Authority.create(folder)
    identity = authority.issue("node")
    tls_port = free_port()
    with repository(authority) as records:
        settings = {
            "LENTICULAR_ACCESS": "known-aet",
            "LENTICULAR_AUDIT_SYSLOG": f"127.0.0.1:{records.port}",
            "LENTICULAR_AUDIT_SYSLOG_CA": str(authority.certificate),
            "LENTICULAR_TLS_PORT": str(tls_port),
            "LENTICULAR_TLS_CERTIFICATE": str(identity.certificate),
            "LENTICULAR_TLS_KEY": str(identity.key),
        }
        log = folder / "node.log"
        with (
            running_node(log, "--nodes", str(nodes), settings=settings) as node,
            dcmtk.receiver(folder / "received", WORKSTATION, port),
        ):
            _spend(node, folder)
            # Who does not speak TLS where it is spoken.
            dcmtk.run("echoscu", node.host, str(tls_port), check=False)
        text = log.with_suffix(".audit").read_text("ascii")
        lines = [json.loads(line) for line in text.splitlines()]
        # Syslog has no answer to wait for, so the last of it may still be under way.
        eventually(lambda: len(records.messages) >= len(lines))
        yield Day(lines, records.messages, log.read_text("utf-8"), node.aet)


def _spend(node: Node, folder: Path) -> None:
    files = []
    for study, patient_id in PATIENTS.items():
        for number in (1, 2):
            kept = folder / f"{study}.{number}"
            kept.mkdir()
            values: dict[str, Any] = {
                "PatientID": patient_id,
                "SpecificCharacterSet": "ISO_IR 192",
            }
            files.append(ct_file(kept, study, f"{study}.1", f"{study}.1.{number}", **values))
    assert set(dcmtk.store(node, *files)) == {0}
    assert dcmtk.store(node, files[0]) == [0]
    keys = (f"StudyInstanceUID={FIRST}", "PatientName")
    eventually(lambda: dcmtk.find(node, "STUDY", *keys))
    eventually(lambda: dcmtk.find(node, "STUDY", f"StudyInstanceUID={SECOND}"))
    dcmtk.move(node, WORKSTATION, "STUDY", keys[0])
    dcmtk.get(node, folder / "got", "STUDY", f"StudyInstanceUID={SECOND}")
    over = ended(series(f"{FIRST}.1"))
    with modality(node, aet=SCANNER) as scanner:
        assert scanner.create(STEP, started(FIRST, PatientID=PATIENTS[FIRST])) == 0
        assert scanner.set(STEP, over) == 0
        # Nothing may follow the end, and of what is not there is nothing to be told.
        assert scanner.set(STEP, over) == 0x0110
        assert scanner.get(STEP, "PatientID") == 0
        assert scanner.get(f"{STEP}.1", "PatientID") == 0x0112
    dcmtk.run(
        "echoscu", "-aet", "STRANGER", "-aec", node.aet, node.host, str(node.port), check=False
    )


def test_the_start_and_the_end_of_the_application_frame_the_day(day: Day) -> None:
    assert day.lines[0]["type"] == "Application Start"
    assert day.lines[-1]["type"] == "Application Stop"
    [start] = day.of("Application Activity", type="Application Start")
    assert [each.alternative for each in start.parties] == [f"AETITLES={day.node}"]
    assert start.parties[0].roles == ("110150 Application",)


def test_what_was_stored_is_one_message_for_each_association_and_study(day: Day) -> None:
    for study, patient_id in PATIENTS.items():
        [message] = day.of(TRANSFERRED, study=study, requestor="STORESCU", action="C")
        assert message.party("110153 Source Role ID").address == "127.0.0.1"
        assert message.requestor.user == message.party("110153 Source Role ID").user == "STORESCU"
        assert message.party("110152 Destination Role ID").user == day.node
        assert message.instances == {CT: 2}
        assert message.objects["2 Patient Number"] == patient_id


def test_what_came_again_and_changed_nothing_says_so(day: Day) -> None:
    [message] = day.of(TRANSFERRED, study=FIRST, requestor="STORESCU", action="R")
    assert message.instances == {CT: 1}


def test_a_query_is_kept_as_it_came(day: Day) -> None:
    message = day.of("Query", study=FIRST)[0]
    assert message.requestor.user == message.party("110153 Source Role ID").user == "FINDSCU"
    assert message.party("110152 Destination Role ID").user == day.node
    assert message.objects == {"110181 SOP Class UID": STUDY_ROOT_FIND}
    assert message.query is not None
    assert FIRST.encode() in message.query
    assert message.details["TransferSyntax"].startswith(b"1.2.840.10008.1.2")


@pytest.mark.parametrize(
    ("event", "instances"), [(BEGIN, {}), (TRANSFERRED, {CT: 2})], ids=["before", "after"]
)
def test_a_move_names_who_asked_and_who_received(
    day: Day, event: str, instances: dict[str, int]
) -> None:
    [message] = day.of(event, study=FIRST, destination=WORKSTATION)
    assert message.requestor.user == "MOVESCU"
    assert message.party("110153 Source Role ID").user == day.node
    assert message.instances == instances
    assert message.objects["2 Patient Number"] == PATIENTS[FIRST]


def test_a_get_names_who_asked_as_who_received(day: Day) -> None:
    for event in (BEGIN, TRANSFERRED):
        [message] = day.of(event, study=SECOND, destination="GETSCU")
        assert message.requestor == message.party("110152 Destination Role ID")


def test_who_created_set_and_read_a_procedure_step_is_told_of_its_study_and_patient(
    day: Day,
) -> None:
    messages = day.of(PROCEDURE)
    assert [(each.action, each.outcome) for each in messages] == [
        ("C", "0"),
        ("U", "0"),
        ("U", "4"),
        ("R", "0"),
    ]
    for message in messages:
        assert message.requestor.user == SCANNER
        assert message.objects == {
            "110180 Study Instance UID": FIRST,
            "2 Patient Number": PATIENTS[FIRST],
        }
        assert (message.procedures, message.instances) == ((STEP,), {MPPS: 1})
    states = [line["state"] for line in day.lines if line["event"] == PROCEDURE]
    assert states == ["IN PROGRESS", "COMPLETED", "COMPLETED", "COMPLETED"]


def test_a_stranger_is_an_alert(day: Day) -> None:
    [message] = day.of("Security Alert", peer="STRANGER")
    assert message.types == ("110126 Node Authentication",)
    assert message.outcome == "4"
    assert {each.user for each in message.parties} == {day.node, "STRANGER"}
    assert message.details == {"Alert Description": b"calling AE title not recognized"}


def test_who_cannot_speak_tls_is_an_alert_under_its_address(day: Day) -> None:
    [message] = day.of("Security Alert", peer="")
    assert {each.user for each in message.parties} == {day.node, "127.0.0.1"}
    assert message.details["Alert Description"].startswith(b"TLS handshake failed: ")


def blocks_of_the_guide(heading: str) -> list[str]:
    """Return what the page about the audit trail has to be typed, below a heading."""
    page = (ROOT / "infra/guide/audit.md").read_text("utf-8")
    [section] = re.findall(rf"^## {re.escape(heading)}\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"```\n(.*?)```", section, re.DOTALL)


def found_by_logs_insights(query: str, lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do what CloudWatch Logs Insights does by the `filter` of a query, `like /.../` and `!=`."""
    [conditions] = re.findall(r"^\| filter (.*)$", query, re.MULTILINE)
    found = list(lines)
    for condition in conditions.split(" and "):
        if like := re.fullmatch(r"(\w+) like /(.*)/", condition):
            found = [line for line in found if re.search(like[2], line.get(like[1], ""))]
        else:
            field, value = re.fullmatch(r'(\w+) != "(.*)"', condition).groups()  # type: ignore[union-attr]
            found = [line for line in found if line.get(field) != value]
    return found


def found_by_shell(command: str, lines: Iterable[dict[str, Any]], folder: Path) -> list[Any]:
    trail = folder / ".lenticular/audit.jsonl"
    trail.parent.mkdir()
    trail.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "ascii")
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_who_asked_for_a_study_is_answered_by_one_search(day: Day, tmp_path: Path) -> None:
    """The searches of the guide, as they stand there, in CloudWatch Logs and in a file."""
    query, command = (
        block.replace(r"1\.2\.3", re.escape(FIRST))
        for block in blocks_of_the_guide("Who asked for this study?")
    )
    asked = [line for line in day.lines if line["event"] == "Query" and line["study"] == FIRST]
    lists = [f"1.9\\{FIRST}", f"{FIRST}\\1.9", f"1.9\\{FIRST}\\1.8"]
    others = [f"{FIRST}0", f"1{FIRST}", f"{FIRST}.4", f"9.{FIRST}", FIRST.replace(".", "0")]
    others += [f"1.9\\{FIRST}0", f"1{FIRST}\\1.9"]
    lines = day.lines + [{**asked[0], "study": study} for study in lists + others]
    found = found_by_logs_insights(query, lines)
    assert {line["study"] for line in found} == {FIRST, *lists}
    who = {(line["event"], line["requestor"]) for line in found}
    assert {("Query", "FINDSCU"), (TRANSFERRED, "MOVESCU")} <= who
    assert (TRANSFERRED, "GETSCU") not in who
    assert found_by_shell(command, lines, tmp_path) == found


def test_the_repository_gets_every_message_in_frames_of_syslog(day: Day) -> None:
    received = []
    for text in day.syslog:
        header = HEADER.fullmatch(text)
        assert header, text[:200]
        received.append(header[5])
    assert sorted(received) == sorted(line["xml"] for line in day.lines)


def test_the_log_says_nothing_of_patients(day: Day) -> None:
    assert "association ended" in day.log
    for patient_id in PATIENTS.values():
        assert patient_id not in day.log


def test_workers_write_one_trail(cloud: OfflineCloud, tmp_path: Path) -> None:
    trail = tmp_path / "audit.jsonl"
    settings = {"LENTICULAR_WORKERS": "2", "LENTICULAR_AUDIT_FILE": str(trail)}
    with running_gateway(tmp_path / "gateway.log", Stores.in_cloud(cloud), settings) as gateway:
        for number in (1, 2, 3, 4):
            kept = tmp_path / str(number)
            kept.mkdir()
            study = f"{FIRST}.{number}"
            assert dcmtk.store(gateway, ct_file(kept, study, f"{study}.1", f"{study}.1.1")) == [0]
        gateway.terminate()
        gateway.process.wait(60)
    lines = [json.loads(line) for line in trail.read_text("ascii").splitlines()]
    assert [line["type"] for line in lines if line.get("type")] == [
        "Application Start",
        "Application Stop",
    ]
    stored = [line["study"] for line in lines if line["event"] == TRANSFERRED]
    assert sorted(stored) == [f"{FIRST}.{number}" for number in (1, 2, 3, 4)]
