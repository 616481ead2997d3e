"""A whole clinic day, offline: nothing is missing, everything is bit for bit, all counts add up.

Three modalities without a worklist each begin a procedure step, store a third of 2,000 real files
on two associations while S3 fails in turn in each way that it can, send again what was refused, end
the step, and ask for storage commitment. The functions index, transcode, follow the steps and
commit. Then a viewer queries, and everything goes to a second node.
"""

import json
import os
import queue
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from threading import Lock
from typing import Any, Final

import pytest
from pydicom.uid import generate_uid
from pynetdicom import _config

from infra.local.children import Child, Ended, Events, Ready
from infra.local.functions import drives
from infra.local.node import worker
from infra.local.template import Stack
from lenticular.dead_letters import DeadLetters
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.commands import lenticular
from tests.peers import commitment_requester, dcmtk, pynetdicom_peer
from tests.peers.clinic_day import DayInstance, studies
from tests.peers.commitment_requester import Requester, requester
from tests.peers.conftest import free_port
from tests.peers.custody import in_bucket
from tests.peers.destination import destination
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.node_process import ROOT
from tests.peers.procedures import ended, modality, series, started

pytestmark = [pytest.mark.peers, pytest.mark.slow]

INSTANCES: Final = 2_000
MODALITIES: Final = ("CT1", "MR1", "US1")
WORKSTATION: Final = "WORKSTATION"
#: What DCMTK's programs call themselves.
VIEWERS: Final = ("FINDSCU", "MOVESCU")
OUT_OF_RESOURCES: Final = 0xA700
#: How often the next fault of S3 begins, and how many requests it is for.
EACH: Final = 60
TIMES: Final = 4
FAULTS: Final = (
    Fault.SLOW_DOWN,
    Fault.INTERNAL_ERROR,
    Fault.CONNECTION_RESET,
    Fault.RESET_WITHIN_BODY,
    Fault.ANSWER_LOST,
    Fault.CONFLICT,
    Fault.BODY_ALTERED,
)
#: For what the functions still have to do at the end of the day, on a machine that is busy.
PATIENCE_SECONDS: Final = 900.0


@dataclass
class Day:
    """The clinic: its node, the way to S3, the modalities that hear reports, and what was sent."""

    cloud: OfflineCloud
    stack: Stack
    gateway: Gateway
    s3: FaultyS3
    requesters: dict[str, Requester]
    workstation_port: int
    sent: int = 0
    refused: int = 0
    faults: Iterator[Fault] = field(default_factory=lambda: cycle(FAULTS))
    lock: Lock = field(default_factory=Lock)

    def before_sending(self) -> None:
        """Let S3 fail now and then."""
        with self.lock:
            self.sent += 1
            if self.sent % EACH == 0 and self.sent < INSTANCES:
                self.s3.fail(next(self.faults), where="PUT /", times=TIMES)

    def items(self) -> list[dict[str, Any]]:
        """Read the whole table."""
        pages = self.gateway.client("dynamodb").get_paginator("scan")
        return [
            item
            for page in pages.paginate(TableName=self.gateway.table, ConsistentRead=True)
            for item in page["Items"]
        ]


@contextmanager
def _functions(cloud: OfflineCloud, stack: Stack) -> Iterator[None]:
    """Run every function of the template on its queue."""
    events: Events = queue.SimpleQueue()
    children: list[Child] = []
    try:
        for drive in drives(stack, ROOT):
            child = worker(drive, cloud.environment, os.environ, events)
            child.start()
            children.append(child)
        for _ in children:
            ready = events.get(timeout=60)
            assert isinstance(ready, Ready), ready
        yield
    finally:
        for child in children:
            child.kill()
        for _ in children:
            assert isinstance(events.get(timeout=30), Ended)


@pytest.fixture
def day(cloud: OfflineCloud, tmp_path: Path) -> Iterator[Day]:
    """Open the clinic."""
    stack = cloud.stack(
        ROOT / "template.yaml",
        BucketPrefix=f"t{uuid.uuid4().hex[:20]}",
        # Looks at most 50 s apart.
        ProcedurePatienceSeconds="800",
    )
    stores = Stores(cloud, stack.name("ArchiveBucket"), stack.name("Table"))
    port = free_port()
    with ExitStack() as opened:
        requesters = {aet: opened.enter_context(requester(aet)) for aet in MODALITIES}
        ports: dict[str, int | None] = {aet: each.port for aet, each in requesters.items()}
        ports |= {WORKSTATION: port, **dict.fromkeys(VIEWERS)}
        nodes = tmp_path / "nodes.yaml"
        nodes.write_text(
            json.dumps(
                {
                    "nodes": [
                        {"aet": aet, "address": "127.0.0.1", "port": each}
                        for aet, each in ports.items()
                    ]
                }
            )
        )
        s3 = opened.enter_context(faulty_s3(cloud.endpoint))
        opened.enter_context(_functions(cloud, stack))
        settings = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "LENTICULAR_NODES_FILE": str(nodes),
            "LENTICULAR_ACCESS": "known-aet",
            # Every fault reaches the modality.
            "LENTICULAR_RETRY_SECONDS": "0",
        }
        gateway = opened.enter_context(running_gateway(tmp_path / "gateway.log", stores, settings))
        yield Day(cloud, stack, gateway, s3, requesters, port)


def _store(day: Day, aet: str, instances: Sequence[DayInstance]) -> int:
    """Send over one association, each instance until it is taken; return how many were refused."""
    contexts = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in instances})
    refused = 0
    with (
        pynetdicom_peer.association(day.gateway, contexts, aet) as association,
        pynetdicom_peer.undisturbed(association) as opened,
    ):
        for instance in instances:
            day.before_sending()
            while (status := opened.send_c_store(instance.path).get("Status")) != 0:
                assert status == OUT_OF_RESOURCES, instance
                refused += 1
    return refused


def _work(day: Day, aet: str, instances: Sequence[DayInstance]) -> str:
    """Do what a modality does on a patient; return the UID of the procedure step."""
    step = generate_uid(None)
    with modality(day.gateway, aet=aet) as sending:
        # S3 may fail here as well; a modality then tries again.
        begun = started(instances[0].study_instance_uid, PerformedStationAETitle=aet)
        while sending.create(step, begun) != 0:
            pass
    with ThreadPoolExecutor(2) as pool:
        halves = (instances[::2], instances[1::2])
        refused = list(pool.map(lambda half: _store(day, aet, half), halves))
    by_series: dict[str, list[str]] = {}
    for each in instances:
        by_series.setdefault(each.series_instance_uid, []).append(each.sop_instance_uid)
    with modality(day.gateway, aet=aet) as sending:
        over = ended(*(series(uid, images) for uid, images in by_series.items()))
        while sending.set(step, over) != 0:
            pass
    with day.lock:
        day.refused += sum(refused)
    return step


def test_at_the_end_of_a_clinic_day_nothing_is_missing_and_all_counts_add_up(
    day: Day, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pynetdicom then sends a file's data set as it is.
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    work = dict(
        zip(MODALITIES, studies(tmp_path / "sent", len(MODALITIES), INSTANCES), strict=True)
    )
    instances = [each for of_study in work.values() for each in of_study]
    assert len({each.sop_instance_uid for each in instances}) == INSTANCES
    with ThreadPoolExecutor(len(work)) as pool:
        steps = dict(zip(work, pool.map(lambda each: _work(day, *each), work.items()), strict=True))
    day.s3.heal()
    assert day.refused >= len(FAULTS), "S3 never failed"

    # The bucket holds each instance, once, byte for byte as it was sent.
    assert in_bucket(day.gateway, "instances/") == {each.key: each.sha256 for each in instances}
    assert day.gateway.object_keys("quarantine/") == []

    transactions = {aet: _ask_for_commitment(day, aet, work[aet]) for aet in work}
    _each_step_is_complete(day, steps, work)
    _each_modality_was_told_that_all_is_safe(day, transactions, work)
    _each_instance_is_in_the_index_and_has_a_form_or_a_reason(day, instances)
    _each_study_is_found_whole(day, work)
    _all_goes_to_a_second_node_as_it_was_sent(day, instances)
    _what_the_gateway_counted_is_what_happened(day)
    for letters in DeadLetters(day.cloud.clients.sqs, day.stack.site.stack).all():
        assert (letters.waiting, letters.dead) == (0, 0), letters


def _ask_for_commitment(day: Day, aet: str, instances: Sequence[DayInstance]) -> str:
    transaction = generate_uid(None)
    references = [(each.sop_class_uid, each.sop_instance_uid) for each in instances]
    answer = commitment_requester.ask(day.gateway, aet, transaction, references)
    assert answer.Status == 0
    return transaction


def _each_step_is_complete(
    day: Day, steps: dict[str, str], work: dict[str, list[DayInstance]]
) -> None:
    def listed() -> dict[str, tuple[str, str, int, int]]:
        return {
            item["calling_ae_title"]["S"]: (
                item["sk"]["S"].removeprefix("PROCEDURE#"),
                item["state"]["S"],
                int(item["announced"]["N"]),
                int(item["received"]["N"]),
            )
            for item in day.items()
            if item["sk"]["S"].startswith("PROCEDURE#")
        }

    expected = {
        aet: (steps[aet], "COMPLETED", len(of_study), len(of_study))
        for aet, of_study in work.items()
    }
    eventually(listed, until=lambda found: found == expected, within=PATIENCE_SECONDS)
    shown = lenticular(day.gateway.environment(), "procedures", "list", "--incomplete", "--json")
    assert (shown.returncode, shown.stdout) == (0, ""), shown.stderr


def _each_modality_was_told_that_all_is_safe(
    day: Day, transactions: dict[str, str], work: dict[str, list[DayInstance]]
) -> None:
    for aet, of_study in work.items():
        [report] = eventually(day.requesters[aet].reports.copy, within=PATIENCE_SECONDS)
        assert report.transaction_uid == transactions[aet]
        assert report.failed == {}
        assert report.committed == {
            (each.sop_class_uid, each.sop_instance_uid) for each in of_study
        }


def _each_instance_is_in_the_index_and_has_a_form_or_a_reason(
    day: Day, instances: Sequence[DayInstance]
) -> None:
    def done() -> tuple[int, int]:
        """Count the instances that are listed, and those of them that transcoding is done with."""
        items = [item for item in day.items() if item["sk"]["S"].startswith("INSTANCE#")]
        return len(items), sum("forms" in item or "left_alone" in item for item in items)

    eventually(done, until=lambda found: found == (INSTANCES,) * 2, within=PATIENCE_SECONDS)
    listed = {item["object_key"]["S"]: item for item in day.items() if "object_key" in item}
    assert listed.keys() == {each.key for each in instances}
    # Of everything that has pixels to compress, something was.
    assert sum("forms" in item for item in listed.values()) > INSTANCES // 10


def _each_study_is_found_whole(day: Day, work: dict[str, list[DayInstance]]) -> None:
    # Study Instance UID, Series Instance UID, and the numbers of related instances.
    study, series_of, in_study, in_series = "0020,000d", "0020,000e", "0020,1208", "0020,1209"
    for of_study in work.values():
        uid = of_study[0].study_instance_uid
        [found] = dcmtk.find(day.gateway, "STUDY", f"{study}={uid}", in_study)
        assert int(found[in_study]) == len(of_study)
        counted_by_series = Counter(each.series_instance_uid for each in of_study)
        found_series = dcmtk.find(
            day.gateway,
            "SERIES",
            f"{study}={uid}",
            series_of,
            in_series,
        )
        assert counted_by_series == {each[series_of]: int(each[in_series]) for each in found_series}


def _all_goes_to_a_second_node_as_it_was_sent(day: Day, instances: Sequence[DayInstance]) -> None:
    takes: dict[str, set[str]] = {}
    for each in instances:
        takes.setdefault(each.sop_class_uid, set()).add(each.transfer_syntax_uid)
    every_kind = {sop_class: sorted(syntaxes) for sop_class, syntaxes in takes.items()}
    with destination(day.workstation_port, WORKSTATION, every_kind) as second:
        for uid in dict.fromkeys(each.study_instance_uid for each in instances):
            dcmtk.move(day.gateway, WORKSTATION, "STUDY", f"StudyInstanceUID={uid}")
    # Each once.
    assert sorted(second.uids) == sorted(each.sop_instance_uid for each in instances)
    sent = {each.sop_instance_uid: each.data_set for each in instances}
    for request in second.requests:
        uid = str(request.AffectedSOPInstanceUID)
        assert request.DataSet is not None
        assert request.DataSet.getvalue() == sent[uid], uid


def _what_the_gateway_counted_is_what_happened(day: Day) -> None:
    messages: Counter[str] = Counter()
    associations = eventually(
        lambda: day.gateway.lines(message="association ended"),
        until=lambda lines: len(lines) >= 5 * len(MODALITIES),
    )
    for line in associations:
        messages.update(line["messages"])
    assert messages["C_STORE_RQ"] == messages["C_STORE_RSP"] == INSTANCES + day.refused
    assert len(day.gateway.lines(message="instance not stored")) == day.refused
    assert len(day.gateway.lines(message="procedure created")) <= len(MODALITIES)
    for request in ("N_CREATE", "N_SET", "N_ACTION", "C_MOVE", "C_FIND"):
        assert messages[f"{request}_RQ"], request
    assert messages["N_CREATE_RQ"] == messages["N_CREATE_RSP"]
    assert messages["N_SET_RQ"] == messages["N_SET_RSP"]
    steps = Counter(key.split("/")[1] for key in day.gateway.object_keys("procedures/"))
    assert sorted(steps.values()) == [2] * len(MODALITIES)
    assert not day.gateway.lines(level="ERROR")
