"""The template, deployed by the SAM CLI into ministack, which executes it and its policies.

ministack makes every resource, runs the functions from their zip files on event source mappings of
its own, and lets each role do what its policies allow and no more. The gateway is ours, with the
variables of the deployed task and the credentials of its role.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, CTImageStorage, JPEGLosslessSV1, generate_uid
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind as StudyRootFind,
)

from infra.local.template import read_template
from lenticular.archive import INSTANCES, QUARANTINE, TRANSCODED
from lenticular.dead_letters import DeadLetters
from tests.cloud.deadline import eventually
from tests.deployed import fitted
from tests.deployed.account import MINISTACK, Account, Decision, running_account
from tests.deployed.permissions import (
    NOT_ASKED_FOR,
    OPERATORS,
    READERS,
    Permission,
    declared,
    excuse,
)
from tests.deployed.stack import (
    STACK,
    DeployedNode,
    DeployedStack,
    person,
    running_node,
    sam_build,
)
from tests.peers import commitment_requester, dcmtk
from tests.peers.commitment_requester import Oddity, Requester, requester
from tests.peers.ct_files import ct_file
from tests.peers.destination import Destination, destination
from tests.peers.node_process import ROOT
from tests.peers.procedures import ended, modality, series, started
from tests.ports import free_port
from tests.template import sam

pytestmark = [pytest.mark.slow, pytest.mark.peers]

MODALITY: Final = "CT1"
WORKSTATION: Final = "WORKSTATION"
#: What DCMTK's programs call themselves.
PROGRAMS: Final = ("ECHOSCU", "STORESCU", "FINDSCU", "MOVESCU", "GETSCU")
PATIENT: Final = {
    "PatientName": "Meyer^Anna",
    "PatientID": "P-1",
    "AccessionNumber": "A-1",
    "StudyDate": "20260105",
}
#: A function's first call takes seconds, and an instance's way leads through two.
PATIENCE_SECONDS: Final = 240.0


@dataclass(frozen=True)
class Study:
    """A study to send, and its files by SOP Instance UID."""

    uid: str
    series_uid: str
    files: dict[str, Path]

    @property
    def transaction_uid(self) -> str:
        """What it is committed to by."""
        return f"{self.uid}.1"

    @property
    def references(self) -> list[tuple[str, str]]:
        """What a commitment to it names."""
        return [(CTImageStorage, uid) for uid in self.files]

    @classmethod
    def write(cls, folder: Path, count: int) -> "Study":
        """Write one, whose last instance is too long for the gateway's memory."""
        uid, series_uid = generate_uid(None), generate_uid(None)
        instances = [generate_uid(None) for _ in range(count)]
        rows = dict.fromkeys(instances, 16) | {instances[-1]: 256}
        return cls(
            uid,
            series_uid,
            {
                each: ct_file(folder, uid, series_uid, each, rows=rows[each], **PATIENT)
                for each in instances
            },
        )


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with running_account(tmp_path) as running:
        yield running


def test_what_is_left_out_is_exactly_what_ministack_lacks() -> None:
    templates = (sam.transform(sam.read()), _read("gateway"), _read("network"))
    types = {
        each["Type"] for template in templates for each in template.document["Resources"].values()
    }
    lacking = types - fitted.types_it_has(MINISTACK)
    assert lacking == fitted.LACKING.keys() | fitted.WRITTEN_OTHERWISE.keys()


def test_a_deployed_node_does_a_clinics_work_is_updated_and_deleted_and_nothing_is_lost(
    account: Account, tmp_path: Path
) -> None:
    stack = DeployedStack.create(account, fitted.fit(sam_build(tmp_path / "build")))
    roles = {physical: logical for logical, physical in stack.resources().items()}
    port = free_port()
    first, during, after = (Study.write(tmp_path, 3) for _ in range(3))
    with (
        running_node(stack, tmp_path) as node,
        requester(MODALITY) as reports,
        destination(port, WORKSTATION, {CTImageStorage: [JPEGLosslessSV1]}) as forms,
    ):
        known = {**dict.fromkeys(PROGRAMS), MODALITY: reports.port, WORKSTATION: port}
        node.replace_nodes(tmp_path, {**known, "LEFT": None})
        node.replace_nodes(tmp_path, known)
        dcmtk.echo(node.gateway)
        _a_study_is_taken(node, first)
        _it_is_found_by_whatever_there_is_an_index_for(node, first)
        _what_has_no_place_is_in_quarantine(node, tmp_path)
        _a_workstation_gets_forms(node, first, forms)
        _a_commitment_is_reported_when_its_requester_is_back(node, first, reports)
        _it_is_reported_again_when_it_is_asked_for_again(node, first, reports)

        # The node works on while it is updated.
        with ThreadPoolExecutor(1) as pool:
            updating = pool.submit(stack.deploy, RetireOriginal="true", IndexMaxReceiveCount="7")
            step = _a_procedure_step_ends_before_its_instances_come(node, during)
            _a_study_is_taken(node, during)
            updating.result()
        assert "RetirePolicy" in stack.resources()
        _it_is_complete_when_they_have_come(node, during, step)
        _a_study_is_taken(node, after)
        _originals_are_retired(node, after)
        for study in (first, during, after):
            _it_can_be_had(node, study, tmp_path / study.uid)
        _what_is_retired_is_committed_to(node, after, reports)
        _no_message_is_left(node)
        _people_do_their_work_with_the_policies_for_it(node, first, step, tmp_path)
        _no_message_is_left(node)

    kept, audit_log = (node.versions(), node.items()), stack.outputs()["AuditLogName"]
    stack.delete()
    assert (node.versions(), node.items()) == kept
    _nothing_is_left_but_what_must_be_kept(account, audit_log)
    roles |= {each: each for each in (READERS, OPERATORS)}
    _every_call_was_allowed_and_every_permission_is_needed(account.decisions(), roles)


def _read(name: str) -> sam.Template:
    """Read a nested template."""
    return sam.Template(read_template(ROOT / f"infra/{name}.yaml"))


def _a_study_is_taken(node: DeployedNode, study: Study) -> None:
    """Store it and wait until it is indexed, and each instance has a form."""
    assert dcmtk.store(node.gateway, *study.files.values()) == [0] * len(study.files)
    eventually(
        lambda: dcmtk.find(node.gateway, "STUDY", f"0020,000d={study.uid}", "0020,1208"),
        until=lambda found: [each["0020,1208"] for each in found] == [str(len(study.files))],
        within=PATIENCE_SECONDS,
    )
    eventually(
        lambda: {key.split("/")[3] for key in node.keys(f"{TRANSCODED}{study.uid}/")},
        until=lambda found: found == study.files.keys(),
        within=PATIENCE_SECONDS,
    )


def _it_is_found_by_whatever_there_is_an_index_for(node: DeployedNode, study: Study) -> None:
    for key in (
        "PatientID=P-1",
        "AccessionNumber=A-1",
        "StudyDate=20260105",
        "PatientName=Meyer*",
        "ModalitiesInStudy=CT",
    ):
        [found] = dcmtk.find(node.gateway, "STUDY", key, "0020,000d")
        assert found["0020,000d"] == study.uid, key
    instance = next(iter(study.files))
    assert _relational_find(node, "IMAGE", SOPInstanceUID=instance) == [study.uid]


def _relational_find(node: DeployedNode, level: str, **keys: str) -> list[str]:
    """Find below the level of studies without naming one; return the studies' UIDs."""
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = level, ""
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    relational = SOPClassExtendedNegotiation()
    relational.sop_class_uid = UID(StudyRootFind)
    relational.service_class_application_information = b"\x01"
    ae = AE(ae_title="FINDSCU")
    ae.add_requested_context(StudyRootFind)
    opened = ae.associate(
        node.gateway.host, node.gateway.port, ae_title=node.gateway.aet, ext_neg=[relational]
    )
    assert opened.is_established
    try:
        answers = [answer for _, answer in opened.send_c_find(query, StudyRootFind)]
    finally:
        opened.release()
    return [str(answer.StudyInstanceUID) for answer in answers if answer]


def _what_has_no_place_is_in_quarantine(node: DeployedNode, folder: Path) -> None:
    uid = generate_uid(None)
    file = ct_file(folder, "", generate_uid(None), uid, rows=16, **PATIENT)
    assert dcmtk.store(node.gateway, file) == [0]
    [key] = node.keys(QUARANTINE)
    eventually(
        node.items,
        until=lambda items: {"S": key} in [item["sk"] for item in items],
        within=PATIENCE_SECONDS,
    )


def _a_workstation_gets_forms(node: DeployedNode, study: Study, workstation: Destination) -> None:
    """Move to one that takes nothing but JPEG Lossless."""
    dcmtk.move(node.gateway, WORKSTATION, "STUDY", f"StudyInstanceUID={study.uid}")
    assert workstation.files.keys() == study.files.keys()


def _a_procedure_step_ends_before_its_instances_come(node: DeployedNode, study: Study) -> str:
    """Announce the study's instances; return the step's UID."""
    step = generate_uid(None)
    with modality(node.gateway, aet=MODALITY) as sending:
        assert sending.create(step, started(study.uid)) == 0
    with modality(node.gateway, aet=MODALITY) as sending:
        assert sending.set(step, ended(series(study.series_uid, list(study.files)))) == 0
    _wait_for_item(node, sk=f"PROCEDURE#{step}", state="COMPLETED", received=0)
    return step


def _it_is_complete_when_they_have_come(node: DeployedNode, study: Study, step: str) -> None:
    count = len(study.files)
    _wait_for_item(node, sk=f"PROCEDURE#{step}", announced=count, received=count)


def _wait_for_item(node: DeployedNode, **attributes: str | int) -> None:
    """Wait until the table has an item that has these attributes."""
    wanted = {
        name: {"N" if isinstance(value, int) else "S": str(value)}
        for name, value in attributes.items()
    }
    eventually(
        node.items,
        until=lambda items: any(wanted.items() <= item.items() for item in items),
        within=PATIENCE_SECONDS,
    )


def _a_commitment_is_reported_when_its_requester_is_back(
    node: DeployedNode, study: Study, reports: Requester
) -> None:
    reports.oddity = Oddity.FAILS
    _ask_for_commitment(node, study)
    eventually(lambda: reports.attempts, within=PATIENCE_SECONDS)
    reports.oddity = None
    _wait_for_report(reports, 1, study)


def _it_is_reported_again_when_it_is_asked_for_again(
    node: DeployedNode, study: Study, reports: Requester
) -> None:
    _ask_for_commitment(node, study)
    _wait_for_report(reports, 2, study)


def _what_is_retired_is_committed_to(node: DeployedNode, study: Study, reports: Requester) -> None:
    _ask_for_commitment(node, study)
    _wait_for_report(reports, 3, study)


def _ask_for_commitment(node: DeployedNode, study: Study) -> None:
    answer = commitment_requester.ask(
        node.gateway, MODALITY, study.transaction_uid, study.references
    )
    assert answer.Status == 0


def _wait_for_report(reports: Requester, number: int, study: Study) -> None:
    report = eventually(
        reports.reports.copy, until=lambda came: len(came) >= number, within=PATIENCE_SECONDS
    )[number - 1]
    assert (report.transaction_uid, report.failed) == (study.transaction_uid, {})
    assert report.committed == set(study.references)


def _originals_are_retired(node: DeployedNode, study: Study) -> None:
    prefix = f"{INSTANCES}{study.uid}/"
    eventually(lambda: node.keys(prefix), until=lambda keys: not keys, within=PATIENCE_SECONDS)


def _it_can_be_had(node: DeployedNode, study: Study, folder: Path) -> None:
    dcmtk.get(node.gateway, folder, "STUDY", f"StudyInstanceUID={study.uid}")
    received = {str(each.SOPInstanceUID): each for each in map(dcmread, folder.iterdir())}
    assert received == {uid: dcmread(file) for uid, file in study.files.items()}


def _people_do_their_work_with_the_policies_for_it(
    node: DeployedNode, study: Study, step: str, folder: Path
) -> None:
    """Run each command that looks as a reader, and those that change something as an operator."""
    letters = DeadLetters(node.stack.account.client("sqs"), STACK)
    [dead] = (each.dead_letters_url for each in letters.all() if each.name == "index")
    # What S3 sends when it is told of a queue, and nothing follows from.
    letter = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"})
    node.stack.account.client("sqs").send_message(QueueUrl=dead, MessageBody=letter)
    [quarantined] = node.keys(QUARANTINE)
    looks = (
        "nodes list",
        "nodes export",
        "quarantine list",
        f"quarantine show {quarantined}",
        "stats",
        "stats --by month",
        "verify --no-repair --grace-minutes 0",
        "commitments list",
        "commitments list --lost",
        f"commitments show {MODALITY} {study.transaction_uid}",
        "procedures list",
        f"procedures show {step}",
        "dead-letters list",
        "dead-letters show index",
        f"delete {study.uid}",
        "deletions",
    )
    with (
        person(node.stack, READERS, "ReaderPolicy") as reader,
        ThreadPoolExecutor(2) as pool,
    ):
        list(pool.map(lambda line: node.command(reader, *line.split()), looks))
    everything = ("ReaderPolicy", "OperatorPolicy", "DeleterPolicy")
    with person(node.stack, OPERATORS, *everything) as operator:
        for line in (
            "nodes add NEW 127.0.0.1",
            "nodes remove NEW",
            "quarantine retry --all",
            f"export {study.uid} {folder / 'exported'}",
            f"delete {study.uid} --yes --reason test --despite-retention",
            "deletions --finish",
            f"restore {study.uid}",
            "rebuild-index",
            "verify --grace-minutes 0",
            "transcode",
            f"commitments retry {MODALITY} {study.transaction_uid}",
            "dead-letters replay index",
        ):
            node.command(operator, *line.split())
    _it_can_be_had(node, study, folder / "after-people")


def _no_message_is_left(node: DeployedNode) -> None:
    letters = DeadLetters(node.stack.account.client("sqs"), STACK)
    eventually(
        lambda: [each for each in letters.all() if (each.waiting, each.dead) != (0, 0)],
        until=lambda left: not left,
        within=PATIENCE_SECONDS,
    )


def _nothing_is_left_but_what_must_be_kept(account: Account, audit_log: str) -> None:
    """Look for what could be read or is paid for, and for what could still do something."""
    [key] = account.client("kms").list_keys()["Keys"]
    state = account.client("kms").describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"]
    assert state == "Enabled"
    groups = account.client("logs").describe_log_groups()["logGroups"]
    assert [each["logGroupName"] for each in groups] == [audit_log]
    for service, operation, listed in (
        ("cloudwatch", "describe_alarms", "MetricAlarms"),
        ("ecs", "list_clusters", "clusterArns"),
        ("elbv2", "describe_load_balancers", "LoadBalancers"),
        ("iam", "list_roles", "Roles"),
        ("lambda", "list_event_source_mappings", "EventSourceMappings"),
        ("lambda", "list_functions", "Functions"),
        ("sqs", "list_queues", "QueueUrls"),
    ):
        assert not getattr(account.client(service), operation)().get(listed), operation


def _every_call_was_allowed_and_every_permission_is_needed(
    decisions: list[Decision], roles: dict[str, str]
) -> None:
    assert [each for each in decisions if not each.allowed] == []
    used = {Permission(roles[each.role], each.sid, each.action) for each in decisions}
    unused = declared(sam.read(), _read("gateway")) - used
    assert sorted(each for each in unused if excuse(each) is None) == []
    # And nothing is excused that need not be.
    assert {excuse(each) for each in unused} == NOT_ASKED_FOR.keys()
