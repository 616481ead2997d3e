"""Storage commitment with dcmjs-dimse, Orthanc and pynetdicom as requesters, against a node."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from gateway.tls import TlsFiles
from infra.local import REGION
from lenticular.archive import TransactionKey
from lenticular.commitment import MOST_REFERENCES, Request
from tests.cloud.deadline import eventually
from tests.peers import dcmjs_dimse, dcmtk, orthanc
from tests.peers.commitment_requester import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Oddity,
    Reference,
    ask,
    requester,
)
from tests.peers.instances import Instance, study
from tests.peers.node_process import Node, running_node
from tests.peers.nodes_file import nodes_file
from tests.peers.pki import Authority
from tests.ports import free_port

pytestmark = pytest.mark.peers

#: On a loaded machine a report may be a while in coming.
_SECONDS = 120
_AETS = ("CT1", "MR1", "DCMJS", orthanc.AET)
_BY_TLS = "CT2"
_SECRET = "lenticular-tls"


@dataclass(frozen=True)
class Site:
    """A node, and the port at which it looks for each of the requesters."""

    node: Node
    ports: dict[str, int]


@contextlib.contextmanager
def _site(folder: Path, *parameters: str) -> Iterator[Site]:
    ports = {aet: free_port() for aet in (*_AETS, _BY_TLS)}
    no_right = {"port": 4, "may": ["store", "find"]}
    by_tls = {"port": ports[_BY_TLS], "tls": "host"}
    nodes = nodes_file(folder, {**ports, _BY_TLS: by_tls, "NO_PORT": {}, "NO_RIGHT": no_right})
    settings = [argument for each in parameters for argument in ("--set", each)]
    with running_node(folder / "node.log", "--nodes", str(nodes), *settings) as node:
        yield Site(node, ports)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a node that waits for what is not indexed as long as it does by default."""
    with _site(
        tmp_path_factory.mktemp("patient"),
        "CommitPauseSeconds=1", "MutualTls=yes",
        f"TlsSecretArn=arn:aws:secretsmanager:{REGION}:123456789012:secret:{_SECRET}",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run a node that waits for nothing and nobody for long."""
    with _site(
        tmp_path_factory.mktemp("hasty"),
        "CommitGraceSeconds=0", "CommitPauseSeconds=1", "CommitAnswerSeconds=2",
    ) as running:  # fmt: skip
        yield running


def _references(instances: Sequence[Instance]) -> list[Reference]:
    return [(str(CTImageStorage), each.sop_instance_uid) for each in instances]


def _stored_and_indexed(node: Node, folder: Path, count: int) -> list[Instance]:
    instances = study(folder, count)
    assert dcmtk.store(node, *(each.path for each in instances)) == [0] * count
    uid = instances[0].study_instance_uid
    eventually(lambda: _indexed(node, uid), until=lambda found: found == count, within=_SECONDS)
    return instances


def _indexed(node: Node, study_instance_uid: str) -> int:
    key = {"pk": {"S": f"STUDY#{study_instance_uid}"}, "sk": {"S": "STUDY"}}
    item = node.client("dynamodb").get_item(TableName=node.table, Key=key).get("Item")
    return 0 if item is None else int(item["instances"]["N"])


def _problem(node: Node, transaction_uid: str, aet: str = "CT1") -> str:
    """Return why a requester has not been told yet, as the table has it."""
    key = {"pk": {"S": "COMMITMENT"}, "sk": {"S": f"{aet}/{transaction_uid}"}}
    item = node.client("dynamodb").get_item(TableName=node.table, Key=key).get("Item", {})
    return str(item.get("problem", {}).get("S", ""))


@contextlib.contextmanager
def _held(node: Node, function: str) -> Iterator[None]:
    """Let the processes of a node's function do nothing until the block is left."""
    named = f"AWS_LAMBDA_FUNCTION_NAME=lenticular-{function}".encode()
    children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text()
    pids = [
        int(pid) for pid in children.split()
        if named in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]  # fmt: skip
    assert pids, f"no process of {function}"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _items(references: Sequence[Reference]) -> list[dict[str, str]]:
    """Write references as dcmjs does."""
    return [
        {"ReferencedSOPClassUID": sop_class, "ReferencedSOPInstanceUID": instance}
        for sop_class, instance in references
    ]


def _as_set(sequence: Any) -> set[Reference]:
    """Read references as dcmjs does: one item is no list."""
    items = sequence if isinstance(sequence, list) else [sequence] if sequence else []
    return {(each["ReferencedSOPClassUID"], each["ReferencedSOPInstanceUID"]) for each in items}


def _ask_by_dcmjs(node: Node, transaction_uid: str, references: Sequence[Reference]) -> int:
    [response] = dcmjs_dimse.responses(
        dcmjs_dimse.run(
            node,
            {
                "type": "n-action",
                "sop_class": PUSH_MODEL,
                "sop_instance": PUSH_MODEL_INSTANCE,
                "action": 1,
                "data": {
                    "TransactionUID": transaction_uid,
                    "ReferencedSOPSequence": _items(references),
                },
            },
        )
    )
    status: int = response["status"]
    return status


def test_dcmjs_dimse_is_told_that_everything_is_committed_to(site: Site, tmp_path: Path) -> None:
    instances = study(tmp_path, 5)
    stored = dcmjs_dimse.run(
        site.node, *({"type": "store", "file": str(each.path)} for each in instances)
    )
    assert [e["status"] for e in stored if e["event"] == "response"] == [0] * 5
    transaction_uid = generate_uid()
    with dcmjs_dimse.server(port=site.ports["DCMJS"]) as server:
        assert _ask_by_dcmjs(site.node, transaction_uid, _references(instances)) == 0
        [report] = eventually(lambda: server.of("report"), within=_SECONDS)
    assert report["event_type"] == 1
    assert (report["sop_class"], report["sop_instance"]) == (PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assert report["data"]["TransactionUID"] == transaction_uid
    assert _as_set(report["data"]["ReferencedSOPSequence"]) == set(_references(instances))
    assert "FailedSOPSequence" not in report["data"]


def test_dcmjs_dimse_is_told_what_is_not_committed_to_and_why(hasty: Site, tmp_path: Path) -> None:
    first, second = _references(_stored_and_indexed(hasty.node, tmp_path, 2))
    wrong_class = (str(MRImageStorage), second[1])
    unknown = (str(CTImageStorage), generate_uid())
    with dcmjs_dimse.server(port=hasty.ports["DCMJS"]) as server:
        assert _ask_by_dcmjs(hasty.node, generate_uid(), [first, wrong_class, unknown]) == 0
        [report] = eventually(lambda: server.of("report"), within=_SECONDS)
    assert report["event_type"] == 2
    assert _as_set(report["data"]["ReferencedSOPSequence"]) == {first}
    reasons = {
        each["ReferencedSOPInstanceUID"]: each["FailureReason"]
        for each in report["data"]["FailedSOPSequence"]
    }
    assert reasons == {second[1]: 0x0119, unknown[1]: 0x0112}


def test_a_requester_that_is_called_by_tls_is_shown_the_certificate_of_the_secret(
    site: Site, tmp_path: Path
) -> None:
    references = _references(_stored_and_indexed(site.node, tmp_path, 2))
    authority = Authority.create(tmp_path)
    ours, theirs = authority.issue("ours"), authority.issue("theirs")
    secret = {
        "certificate": ours.certificate.read_text(),
        "key": ours.key.read_text(),
        "client_ca": authority.certificate.read_text(),
    }
    context = TlsFiles(
        certificate=theirs.certificate, key=theirs.key, client_ca=authority.certificate
    ).context("bcp195")
    transaction_uid = generate_uid()
    with requester(_BY_TLS, port=site.ports[_BY_TLS], tls=context) as peer:
        assert ask(site.node, _BY_TLS, transaction_uid, references).Status == 0
        # There is no secret yet, and plain text is no way out.
        eventually(
            lambda: _problem(site.node, transaction_uid, _BY_TLS),
            until=lambda told: "cannot be read: ResourceNotFoundException" in told,
            within=_SECONDS,
        )
        assert peer.attempts == 0
        site.node.client("secretsmanager").create_secret(
            Name=_SECRET, SecretString=json.dumps(secret)
        )
        [report] = eventually(lambda: peer.reports, within=_SECONDS)
    assert report.committed == frozenset(references)


def test_orthanc_stores_with_commitment_and_is_told_of_success(site: Site, tmp_path: Path) -> None:
    instances = study(tmp_path, 3)
    with orthanc.running_orthanc(
        tmp_path / "orthanc", site.node, port=site.ports[orthanc.AET]
    ) as peer:
        names = [peer.upload(each.path) for each in instances]
        sent = peer.post(
            f"/modalities/{orthanc.NODE}/store",
            {"Resources": names, "StorageCommitment": True, "Synchronous": True},
        )
        report = _orthanc_report(peer, sent["StorageCommitmentTransactionUID"])
    assert report["Status"] == "Success"
    assert {each["SOPInstanceUID"] for each in report["Success"]} == {
        each.sop_instance_uid for each in instances
    }


def test_orthanc_is_told_of_what_failed(hasty: Site, tmp_path: Path) -> None:
    first, second = _references(_stored_and_indexed(hasty.node, tmp_path, 2))
    unknown = (str(CTImageStorage), generate_uid())
    with orthanc.running_orthanc(
        tmp_path / "orthanc", hasty.node, port=hasty.ports[orthanc.AET]
    ) as peer:
        asked = peer.post(
            f"/modalities/{orthanc.NODE}/storage-commitment",
            {"DicomInstances": [first, second, unknown]},
        )
        report = _orthanc_report(peer, asked["ID"])
    assert report["Status"] == "Failure"
    assert {each["SOPInstanceUID"] for each in report["Success"]} == {first[1], second[1]}
    [failed] = report["Failures"]
    assert (failed["SOPInstanceUID"], failed["FailureReason"]) == (unknown[1], 0x0112)


def _orthanc_report(peer: orthanc.Orthanc, transaction_uid: str) -> dict[str, Any]:
    report: dict[str, Any] = eventually(
        lambda: peer.get(f"/storage-commitment/{transaction_uid}"),
        until=lambda report: report["Status"] != "Pending",
        within=_SECONDS,
    )
    return report


def test_a_commitment_asked_for_right_after_storing_waits_for_the_index(
    site: Site, tmp_path: Path
) -> None:
    instances, uid = study(tmp_path, 5), generate_uid()
    with requester("CT1", port=site.ports["CT1"]) as modality:
        with _held(site.node, "IndexFunction"):
            assert set(dcmtk.store(site.node, *(each.path for each in instances))) == {0}
            assert ask(site.node, "CT1", uid, _references(instances)).Status == 0
            eventually(
                lambda: _problem(site.node, uid),
                until=lambda text: "not every instance is in the index" in text,
                within=_SECONDS,
            )
            assert modality.reports == []
        [report] = eventually(lambda: list(modality.reports), within=_SECONDS)
    assert report.event_type == 1
    assert report.committed == frozenset(_references(instances))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("answers_role", [True, False])
def test_a_requester_is_told_in_the_syntax_it_takes_whether_it_answers_the_role_or_not(
    hasty: Site, syntax: str, *, answers_role: bool
) -> None:
    with requester(
        "CT1", port=hasty.ports["CT1"], transfer_syntaxes=[syntax], answers_role=answers_role
    ) as modality:
        unknown = (str(CTImageStorage), generate_uid())
        answer = ask(hasty.node, "CT1", generate_uid(), [unknown], transfer_syntax=syntax)
        assert answer.Status == 0
        [report] = eventually(lambda: list(modality.reports), within=_SECONDS)
    assert report.transfer_syntax == syntax
    assert report.is_scp is True
    assert (report.committed, report.failed) == (frozenset(), {unknown: 0x0112})
    assert (report.calling_aet, report.retrieve_aet) == (hasty.node.aet, hasty.node.aet)


_UNKNOWN = (str(CTImageStorage), "1.2.3.4.5")


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (0x0123, lambda node: ask(node, "CT1", generate_uid(), [_UNKNOWN], action_type=2)),
        (0x0112, lambda node: ask(node, "CT1", generate_uid(), [_UNKNOWN], instance_uid="1.2")),
        (0x0115, lambda node: ask(node, "CT1", None, [_UNKNOWN])),
        (0x0115, lambda node: ask(node, "CT1", generate_uid(), [])),
        (0x0115, lambda node: ask(node, "CT1", generate_uid(), [(CTImageStorage, "")])),
        (0x0110, lambda node: ask(node, "STRANGER", generate_uid(), [_UNKNOWN])),
        (0x0110, lambda node: ask(node, "NO_PORT", generate_uid(), [_UNKNOWN])),
        (
            0x0213,
            lambda node: ask(node, "CT1", generate_uid(), [_UNKNOWN] * (MOST_REFERENCES + 1)),
        ),
    ],
    ids=[
        "no such action",
        "no such instance",
        "no transaction",
        "no references",
        "no UID",
        "stranger",
        "no port",
        "too many",
    ],
)
def test_a_request_that_cannot_be_kept_is_refused_with_its_reason(
    hasty: Site, status: int, request_: Callable[[Node], Any]
) -> None:
    before = hasty.node.object_keys("commitments/")
    answer = request_(hasty.node)
    assert answer.Status == status
    assert answer.ErrorComment
    assert hasty.node.object_keys("commitments/") == before


def test_ten_thousand_references_are_kept_before_they_are_answered(site: Site) -> None:
    uid = generate_uid()
    references = [(str(CTImageStorage), f"1.2.826.0.1.3680043.{each}") for each in range(10_000)]
    assert ask(site.node, "CT1", uid, references).Status == 0
    key = TransactionKey("CT1", uid).requested
    body = site.node.client("s3").get_object(Bucket=site.node.bucket, Key=key)["Body"].read()
    assert Request.from_document(body).references == tuple(references)


def test_a_node_without_the_permission_gets_no_context(hasty: Site) -> None:
    with pytest.raises(AssertionError, match="refused"):
        ask(hasty.node, "NO_RIGHT", generate_uid(), [_UNKNOWN])


def test_a_transaction_uid_serves_one_request_however_often_it_comes(hasty: Site) -> None:
    uid = generate_uid()
    with requester("CT1", port=hasty.ports["CT1"]) as modality:
        assert ask(hasty.node, "CT1", uid, [_UNKNOWN]).Status == 0
        eventually(lambda: len(modality.reports), until=lambda count: count == 1, within=_SECONDS)
        # It may have missed the report, so it gets another.
        assert ask(hasty.node, "CT1", uid, [_UNKNOWN]).Status == 0
        eventually(lambda: len(modality.reports), until=lambda count: count == 2, within=_SECONDS)
        other = (str(CTImageStorage), "1.2.3.4.6")
        answer = ask(hasty.node, "CT1", uid, [_UNKNOWN, other])
        assert answer.Status == 0x0131
        assert [set(report.failed) for report in modality.reports] == [{_UNKNOWN}, {_UNKNOWN}]


@pytest.mark.parametrize("oddity", Oddity)
def test_an_odd_requester_is_tried_again_and_keeps_nobody_else_waiting(
    hasty: Site, oddity: Oddity
) -> None:
    with (
        requester("CT1", port=hasty.ports["CT1"], oddity=oddity) as odd,
        requester("MR1", port=hasty.ports["MR1"]) as other,
    ):
        uid = generate_uid()
        assert ask(hasty.node, "CT1", uid, [_UNKNOWN]).Status == 0
        eventually(lambda: odd.attempts, within=_SECONDS)
        assert ask(hasty.node, "MR1", generate_uid(), [_UNKNOWN]).Status == 0
        # While the odd one is as odd as before: it would be waited for to no end.
        eventually(lambda: list(other.reports), within=_SECONDS)
        eventually(lambda: odd.attempts, until=lambda count: count >= 2, within=_SECONDS)
        assert odd.reports == []
        odd.oddity = None
        eventually(
            lambda: [each for each in odd.reports if each.transaction_uid == uid], within=_SECONDS
        )


def test_a_requester_that_is_switched_on_later_is_told_then(hasty: Site) -> None:
    uid = generate_uid()
    assert ask(hasty.node, "CT1", uid, [_UNKNOWN]).Status == 0
    eventually(
        lambda: _problem(hasty.node, uid),
        until=lambda text: "cannot be reached" in text,
        within=_SECONDS,
    )
    with requester("CT1", port=hasty.ports["CT1"]) as modality:
        [report] = eventually(
            lambda: [each for each in modality.reports if each.transaction_uid == uid],
            within=_SECONDS,
        )
    assert report.event_type == 2
