"""A whole clinic day, offline: nothing is missing, everything is bit for bit, all counts add up.

Three modalities without a worklist each begin a procedure step, store a third of 2,000 real files
on two associations while S3 fails in turn in each way that it can, send again what was refused, end
the step, and ask for storage commitment. The functions index, transcode, follow the steps and
commit, while S3 and DynamoDB fail for them as well. Then a viewer queries, everything goes to a
second gateway, and a study to a receiver of the internal storage format alone.
"""

import hashlib
import json
import os
import queue
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from threading import Lock
from typing import Any, Final

import pydicom
import pytest
from pydicom.uid import JPEGLosslessSV1, generate_uid
from pynetdicom import _config

from infra.local.children import Child, Ended, Events, Ready
from infra.local.functions import drives
from infra.local.node import worker
from infra.local.template import Stack
from lenticular.archive import FormKey
from lenticular.dead_letters import DeadLetters
from lenticular.part10 import data_set_offset
from tests.cloud.deadline import eventually
from tests.cloud.standin import OfflineCloud
from tests.commands import lenticular
from tests.peers import commitment_requester, dcmtk, pynetdicom_peer
from tests.peers.clinic_day import DayInstance, studies
from tests.peers.commitment_requester import Requester, requester
from tests.peers.custody import in_bucket
from tests.peers.destination import destination
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.node_process import ROOT
from tests.peers.procedures import ended, modality, series, started
from tests.ports import free_port

pytestmark = [pytest.mark.peers, pytest.mark.slow]

INSTANCES: Final = 2_000
MODALITIES: Final = ("CT1", "MR1", "US1")
#: The second gateway, and a receiver that takes one transfer syntax.
SECOND: Final = "SECOND"
READER: Final = "READER"
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
BROKEN_CONNECTIONS: Final = {Fault.CONNECTION_RESET, Fault.RESET_WITHIN_BODY, Fault.ANSWER_LOST}
#: And those of what the functions work with; a few boto3 gets over, of many it gives up.
FAULTS_OF_FUNCTIONS: Final = (
    ("dynamodb", Fault.THROTTLED, "POST /", TIMES),
    ("s3", Fault.SLOW_DOWN, "GET /", TIMES),
    ("dynamodb", Fault.INTERNAL_ERROR, "POST /", TIMES),
    ("s3", Fault.CONNECTION_RESET, "GET /", TIMES),
    # The write is done, and comes again.
    ("dynamodb", Fault.ANSWER_LOST, "POST /", TIMES),
    ("s3", Fault.ANSWER_LOST, "PUT /", TIMES),
    ("dynamodb", Fault.CONNECTION_RESET, "POST /", TIMES),
    ("s3", Fault.INTERNAL_ERROR, "PUT /", TIMES),
    ("dynamodb", Fault.THROTTLED, "POST /", 40 * TIMES),
)
#: For what the functions still have to do at the end of the day, on a machine that is busy.
PATIENCE_SECONDS: Final = 900.0


@dataclass
class Day:
    """The clinic: its node, the ways to AWS, the modalities that hear reports, and what was sent.

    Attributes:
        s3: the gateway's way to S3
        of_functions: theirs to S3 and to DynamoDB
        second: the gateway that everything goes to
        ports: where others listen, by AE title
        refused: C-STORE-RSPs that were not Success
        steps_refused: responses to N-CREATE and N-SET that were not
        planned: how many requests of the functions are to fail, on which way and how
    """

    cloud: OfflineCloud
    stack: Stack
    gateway: Gateway
    second: Gateway
    s3: FaultyS3
    of_functions: dict[str, FaultyS3]
    requesters: dict[str, Requester]
    ports: dict[str, int]
    sent: int = 0
    refused: int = 0
    steps_refused: int = 0
    planned: dict[str, Counter[Fault]] = field(default_factory=lambda: defaultdict(Counter))
    faults: Iterator[Fault] = field(default_factory=lambda: cycle(FAULTS))
    faults_of_functions: Iterator[tuple[str, Fault, str, int]] = field(
        default_factory=lambda: cycle(FAULTS_OF_FUNCTIONS)
    )
    lock: Lock = field(default_factory=Lock)

    def before_sending(self) -> None:
        """Let S3 and DynamoDB fail now and then."""
        with self.lock:
            self.sent += 1
            if self.sent >= INSTANCES:
                return
            if self.sent % EACH == 0:
                self.s3.fail(next(self.faults), where="PUT /", times=TIMES)
            elif self.sent % EACH == EACH // 2:
                way, fault, where, times = next(self.faults_of_functions)
                self.of_functions[way].fail(fault, where=where, times=times)
                self.planned[way][fault] += times

    def items(self) -> list[dict[str, Any]]:
        """Read the whole table."""
        pages = self.gateway.client("dynamodb").get_paginator("scan")
        return [
            item
            for page in pages.paginate(TableName=self.gateway.table, ConsistentRead=True)
            for item in page["Items"]
        ]


@contextmanager
def _functions(environment: Mapping[str, str], stack: Stack) -> Iterator[None]:
    """Run every function of the template on its queue."""
    events: Events = queue.SimpleQueue()
    children: list[Child] = []
    try:
        for drive in drives(stack, ROOT):
            child = worker(drive, environment, os.environ, events)
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
        # What failed comes again soon, and as often as it takes.
        IndexVisibilitySeconds="45",
        IndexMaxReceiveCount="50",
        TranscodeVisibilitySeconds="45",
        ProceduresVisibilitySeconds="45",
        CommitVisibilitySeconds="45",
    )
    stores = Stores(cloud, stack.name("ArchiveBucket"), stack.name("Table"))
    with ExitStack() as opened:
        requesters = {aet: opened.enter_context(requester(aet)) for aet in MODALITIES}
        second = opened.enter_context(
            running_gateway(
                tmp_path / "second.log", Stores.in_cloud(cloud), {"LENTICULAR_AE_TITLE": SECOND}
            )
        )
        ports = {aet: each.port for aet, each in requesters.items()}
        ports |= {SECOND: second.port, READER: free_port()}
        nodes = tmp_path / "nodes.yaml"
        nodes.write_text(
            json.dumps(
                {
                    "nodes": [
                        {"aet": aet, "address": "127.0.0.1", "port": port}
                        for aet, port in (ports | dict.fromkeys(VIEWERS)).items()
                    ]
                }
            )
        )
        s3 = opened.enter_context(faulty_s3(cloud.endpoint))
        ways = {
            name: opened.enter_context(faulty_s3(cloud.endpoint)) for name in ("s3", "dynamodb")
        }
        environment = {
            f"AWS_ENDPOINT_URL_{name.upper()}": way.endpoint for name, way in ways.items()
        }
        opened.enter_context(_functions({**cloud.environment, **environment}, stack))
        settings = {
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "LENTICULAR_NODES_FILE": str(nodes),
            "LENTICULAR_ACCESS": "known-aet",
            # Every fault reaches the modality.
            "LENTICULAR_RETRY_SECONDS": "0",
        }
        gateway = opened.enter_context(running_gateway(tmp_path / "gateway.log", stores, settings))
        yield Day(cloud, stack, gateway, second, s3, ways, requesters, ports)


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
    steps_refused = 0
    with modality(day.gateway, aet=aet) as sending:
        # S3 may fail here as well; a modality then tries again.
        begun = started(instances[0].study_instance_uid, PerformedStationAETitle=aet)
        while sending.create(step, begun) != 0:
            steps_refused += 1
    with ThreadPoolExecutor(2) as pool:
        halves = (instances[::2], instances[1::2])
        refused = list(pool.map(lambda half: _store(day, aet, half), halves))
    by_series: dict[str, list[str]] = {}
    for each in instances:
        by_series.setdefault(each.series_instance_uid, []).append(each.sop_instance_uid)
    with modality(day.gateway, aet=aet) as sending:
        over = ended(*(series(uid, images) for uid, images in by_series.items()))
        while sending.set(step, over) != 0:
            steps_refused += 1
    with day.lock:
        day.refused += sum(refused)
        day.steps_refused += steps_refused
    return step


# pydicom says of some real files that they are padded.
@pytest.mark.filterwarnings("ignore:The pixel data is:UserWarning")
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
    # S3 failed in every way, and each time it said so, one request of a modality failed. Of a
    # connection that broke the HTTP client may have made another, where it had been used before.
    failed = day.s3.failed
    assert failed.keys() == set(FAULTS)
    said = sum(times for fault, times in failed.items() if fault not in BROKEN_CONNECTIONS)
    assert said <= day.refused + day.steps_refused <= sum(failed.values())

    # The bucket holds each instance, once, byte for byte as it was sent.
    assert in_bucket(day.gateway, "instances/") == {each.key: each.sha256 for each in instances}
    assert day.gateway.object_keys("quarantine/") == []

    transactions = {aet: _ask_for_commitment(day, aet, work[aet]) for aet in work}
    _each_step_is_complete(day, steps, work)
    _each_modality_was_told_that_all_is_safe(day, transactions, work)
    _each_instance_is_in_the_index_and_has_a_form_or_a_reason(day, instances)
    _each_study_is_found_whole(day, work)
    _all_goes_to_a_second_gateway_as_it_was_sent(day, work)
    _who_takes_the_internal_format_alone_gets_it(day, work["MR1"], tmp_path)
    _what_the_gateway_counted_is_what_happened(day)
    for name, way in day.of_functions.items():
        assert way.failed == day.planned[name]
        assert way.failed.keys() == {each[1] for each in FAULTS_OF_FUNCTIONS if each[0] == name}
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
    # One object each: a form that is kept, or the reason why there is none.
    assert len(day.gateway.object_keys("transcoded/")) == INSTANCES
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


def _move(day: Day, aet: str, instances: Sequence[DayInstance]) -> tuple[int, ...]:
    """Move a study; return the final status, and the counts of completed, failed and warning."""
    uid = instances[0].study_instance_uid
    output = dcmtk.move(day.gateway, aet, "STUDY", f"StudyInstanceUID={uid}")
    final = output.rpartition("C-MOVE RSP")[2]
    status = re.search(r"DIMSE Status\s*: 0x([0-9a-f]{4})", final)
    counts = [
        re.search(rf"{name} Suboperations\s*: (\d+)", final)
        for name in ("Completed", "Failed", "Warning")
    ]
    assert status, final
    return (int(status[1], 16), *(int(each[1]) if each else 0 for each in counts))


def _all_goes_to_a_second_gateway_as_it_was_sent(
    day: Day, work: Mapping[str, Sequence[DayInstance]]
) -> None:
    for of_study in work.values():
        assert _move(day, SECOND, of_study) == (0x0000, len(of_study), 0, 0)
    instances = [each for of_study in work.values() for each in of_study]
    # It keeps what it got, and that is the same file under the same name, if it is not an odd one.
    assert in_bucket(day.second) == dict(each.sent_on for each in instances)


def _who_takes_the_internal_format_alone_gets_it(
    day: Day, of_study: Sequence[DayInstance], folder: Path
) -> None:
    keys = map(FormKey.parse, day.gateway.object_keys("transcoded/"))
    forms = {key.original.sop_instance_uid: key for key in keys if key is not None}
    assert {key.transfer_syntax_uid for key in forms.values()} == {JPEGLosslessSV1}
    sent = {each.sop_instance_uid: each for each in of_study}
    expected = {
        uid
        for uid, each in sent.items()
        if uid in forms or each.transfer_syntax_uid == JPEGLosslessSV1
    }
    takes = {each.sop_class_uid: [JPEGLosslessSV1] for each in of_study}
    with destination(day.ports[READER], READER, takes) as reader:
        counted = _move(day, READER, of_study)
    failed = len(sent) - len(expected)
    assert counted == (0xB000 if failed else 0x0000, len(expected), failed, 0)
    assert sorted(reader.uids) == sorted(expected)
    s3 = day.gateway.client("s3")
    looked_at: set[str] = set()
    for uid, file in reader.files.items():
        data_set = file[data_set_offset(file) :]
        if uid not in forms:
            assert data_set == sent[uid].data_set
            continue
        kept = s3.get_object(Bucket=day.gateway.bucket, Key=str(forms[uid]))["Body"].read()
        assert data_set == kept[data_set_offset(kept) :]
        # The same few images many times; of each, DCMTK decodes one.
        original = pydicom.dcmread(sent[uid].path)
        pixels = hashlib.sha256(original.PixelData).hexdigest()
        if pixels in looked_at or original.file_meta.TransferSyntaxUID.is_compressed:
            continue
        looked_at.add(pixels)
        compressed, decoded = folder / "compressed.dcm", folder / "decoded.dcm"
        compressed.write_bytes(file)
        dcmtk.run("dcmdjpeg", "+cn", compressed, decoded)
        assert (pydicom.dcmread(decoded).pixel_array == original.pixel_array).all(), uid
    assert looked_at


def _what_the_gateway_counted_is_what_happened(day: Day) -> None:
    messages: Counter[str] = Counter()
    # Of each modality two for its step, two to store, one for commitment; of the viewer two queries
    # and a retrieval of each study, and one retrieval more.
    expected = 5 * len(MODALITIES) + 3 * len(MODALITIES) + 1
    associations = eventually(
        lambda: day.gateway.lines(message="association ended"),
        until=lambda lines: len(lines) == expected,
    )
    for line in associations:
        messages.update(line["messages"])
    steps = 2 * len(MODALITIES)
    expected_messages = {
        "C_STORE": INSTANCES + day.refused,
        "N_ACTION": len(MODALITIES),
        "C_FIND": 2 * len(MODALITIES),
        "C_MOVE": len(MODALITIES) + 1,
    }
    assert {name: messages[f"{name}_RQ"] for name in expected_messages} == expected_messages
    assert messages["N_CREATE_RQ"] + messages["N_SET_RQ"] == steps + day.steps_refused
    for name in ("C_STORE", "N_ACTION", "N_CREATE", "N_SET"):
        assert messages[f"{name}_RSP"] == messages[f"{name}_RQ"]
    assert len(day.gateway.lines(message="instance not stored")) == day.refused
    # The objects of a step: as it began, and as it ended.
    written = Counter(key.split("/")[1] for key in day.gateway.object_keys("procedures/"))
    assert sorted(written.values()) == [2] * len(MODALITIES)
    assert not day.gateway.lines(level="ERROR")
    assert not day.second.lines(level="ERROR")
    received = sum(
        line["messages"].get("C_STORE_RQ", 0)
        for line in day.second.lines(message="association ended")
    )
    assert received == INSTANCES
