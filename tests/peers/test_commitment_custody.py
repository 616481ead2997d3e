"""A request for commitment that was answered Success is worked on, whatever dies or is repeated."""

import json
import os
import queue
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import md5
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from pydicom.uid import CTImageStorage, generate_uid

from infra.local.children import Child, Ended, Events, Ready
from infra.local.functions import drives
from infra.local.node import worker
from infra.local.template import Stack
from lenticular.archive import Archive, InstanceKey, TransactionKey
from lenticular.attributes import Level
from lenticular.commitment import Request
from lenticular.index import Index
from lenticular.index_items import Copy, instance_item
from lenticular.indexing import index_objects
from tests.cloud.deadline import eventually
from tests.cloud.dynamodb_local import running_dynamodb_local
from tests.cloud.standin import OfflineCloud
from tests.peers import dcmtk
from tests.peers.commitment_requester import Requester, ask, requester
from tests.peers.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.peers.gateway_process import Gateway, Stores, running_gateway
from tests.peers.instances import altered, study
from tests.peers.node_process import ROOT
from tests.peers.nodes_file import nodes_file

pytestmark = [pytest.mark.peers, pytest.mark.slow]

AET = "CT1"
UNKNOWN = (str(CTImageStorage), "1.2.3.4.5")
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_SECONDS = 60


@dataclass
class Site:
    """A gateway with its own way to S3, a commit function that may be started, a requester."""

    stack: Stack
    gateway: Gateway
    s3: FaultyS3
    modality: Requester
    events: Events
    cloud: OfflineCloud
    elsewhere: Mapping[str, str]

    def start_function(self) -> Child:
        """Run the commit function on its queue from now on."""
        [drive] = [each for each in drives(self.stack, ROOT) if each.logical_id == "CommitFunction"]
        environment = {**self.cloud.environment, **self.elsewhere}
        child = worker(drive, environment, os.environ, self.events)
        child.start()
        # What an earlier one left behind comes first.
        while not isinstance(event := self.events.get(timeout=_SECONDS), Ready):
            assert isinstance(event, Ended), event
            assert event.child is not child, event
        return child

    def send(self, body: str) -> None:
        """Put a message into the commit queue."""
        sqs: Any = self.cloud.clients.sqs
        sqs.send_message(QueueUrl=self.stack.ref("CommitQueue"), MessageBody=body)

    def waiting(self) -> int:
        """Count the messages of the queue, those that are being worked on too."""
        sqs: Any = self.cloud.clients.sqs
        attributes = sqs.get_queue_attributes(
            QueueUrl=self.stack.ref("CommitQueue"), AttributeNames=["All"]
        )["Attributes"]
        return sum(int(value) for name, value in attributes.items() if name.startswith("Approx"))

    def item(self, key: TransactionKey) -> dict[str, Any]:
        """Read a transaction's item; empty when there is none."""
        dynamodb: Any = self.cloud.clients.dynamodb
        found: dict[str, Any] = dynamodb.get_item(
            TableName=self.gateway.table, Key={"pk": {"S": "COMMITMENT"}, "sk": {"S": str(key)}}
        ).get("Item", {})
        return found


@contextmanager
def running_site(
    cloud: OfflineCloud,
    folder: Path,
    settings: Mapping[str, str] = NOTHING,
    elsewhere: Mapping[str, str] = NOTHING,
    **parameters: str,
) -> Iterator[Site]:
    """Run a gateway and a requester; the function is not running yet.

    `elsewhere` is where both find AWS instead of in moto.
    """
    stack = cloud.stack(
        ROOT / "template.yaml", BucketPrefix=f"t{uuid.uuid4().hex[:20]}", **parameters
    )
    stores = Stores(cloud, stack.name("ArchiveBucket"), stack.name("Table"))
    events: Events = queue.SimpleQueue()
    with requester(AET) as modality, faulty_s3(cloud.endpoint) as s3:
        nodes = nodes_file(folder, {AET: modality.port})
        of_gateway = {
            **elsewhere,
            "AWS_ENDPOINT_URL_S3": s3.endpoint,
            "LENTICULAR_NODES_FILE": str(nodes),
            **settings,
        }
        with running_gateway(folder / "gateway.log", stores, of_gateway) as gateway:
            yield Site(stack, gateway, s3, modality, events, cloud, elsewhere)


@pytest.fixture
def site(cloud: OfflineCloud, tmp_path: Path) -> Iterator[Site]:
    """Run one that waits for nothing and nobody for long."""
    with running_site(
        cloud, tmp_path,
        CommitGraceSeconds="0", CommitPauseSeconds="1", CommitVisibilitySeconds="3",
    ) as running:  # fmt: skip
        yield running


@pytest.fixture
def function(site: Site) -> Iterator[Child]:
    """Run the commit function."""
    child = site.start_function()
    yield child
    child.kill()


def test_a_gateway_that_dies_right_after_its_answer_loses_nothing(
    site: Site, request: pytest.FixtureRequest
) -> None:
    uid = generate_uid()
    assert ask(site.gateway, AET, uid, [UNKNOWN]).Status == 0
    site.gateway.kill()
    request.getfixturevalue("function")
    [report] = eventually(lambda: list(site.modality.reports), within=_SECONDS)
    assert report.transaction_uid == uid


@pytest.mark.usefixtures("function")
def test_a_gateway_that_dies_while_s3_takes_the_request_has_promised_nothing_and_lost_nothing(
    site: Site,
) -> None:
    site.s3.fail(Fault.HELD, where="/commitments/requested/", times=1)
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(ask(site.gateway, AET, generate_uid(), [UNKNOWN]))
    )
    asking.start()
    eventually(lambda: site.s3.held)
    site.gateway.kill()
    asking.join(_SECONDS)
    assert [answer.get("Status") for answer in answers] == [None]
    # S3 does it all the same: then the requester is told, though nobody answered it.
    site.s3.heal()
    [report] = eventually(lambda: list(site.modality.reports), within=_SECONDS)
    assert report.failed == {UNKNOWN: 0x0112}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.ACCESS_DENIED, 0x0213),
        (Fault.NO_SUCH_BUCKET, 0x0213),
        (Fault.CONNECTION_RESET, 0x0213),
    ],
)
@pytest.mark.usefixtures("function")
def test_a_request_that_s3_does_not_take_is_refused_and_taken_when_it_comes_again(
    site: Site, fault: Fault, status: int
) -> None:
    uid = generate_uid()
    site.s3.fail(fault, where="/commitments/requested/")
    assert ask(site.gateway, AET, uid, [UNKNOWN]).Status == status
    site.s3.heal()
    assert site.modality.reports == []
    assert ask(site.gateway, AET, uid, [UNKNOWN]).Status == 0
    eventually(lambda: list(site.modality.reports), within=_SECONDS)


@pytest.mark.usefixtures("function")
def test_an_answer_of_s3_that_gets_lost_costs_at_most_a_second_report(site: Site) -> None:
    site.s3.fail(Fault.ANSWER_LOST, where="/commitments/requested/", times=1)
    uid = generate_uid()
    assert ask(site.gateway, AET, uid, [UNKNOWN]).Status == 0
    eventually(lambda: list(site.modality.reports), within=_SECONDS)
    eventually(site.waiting, until=lambda count: count == 0, within=_SECONDS)
    assert {report.transaction_uid for report in site.modality.reports} == {uid}
    assert len(site.modality.reports) <= 2


def test_an_event_that_comes_twice_brings_one_report(site: Site) -> None:
    uid = generate_uid()
    key = TransactionKey(AET, uid)
    assert ask(site.gateway, AET, uid, [UNKNOWN]).Status == 0
    event = {"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key.requested}}}
    for _ in range(4):
        site.send(json.dumps({"Records": [event, event]}))
    child = site.start_function()
    try:
        eventually(site.waiting, until=lambda count: count == 0, within=_SECONDS)
    finally:
        child.kill()
    assert len(site.modality.reports) == 1
    assert site.item(key)["state"] == {"S": "reported"}


def test_a_function_that_is_killed_while_it_reports_is_made_good(site: Site) -> None:
    site.modality.oddity = None
    blocked = threading.Event()
    site.modality.before_answer = blocked
    uid = generate_uid()
    assert ask(site.gateway, AET, uid, [UNKNOWN]).Status == 0
    first = site.start_function()
    eventually(lambda: site.modality.attempts, within=_SECONDS)
    first.kill()
    blocked.set()
    site.modality.before_answer = None
    assert site.item(TransactionKey(AET, uid))["state"] == {"S": "reporting"}
    before = site.modality.attempts
    dynamodb: Any = site.cloud.clients.dynamodb
    # The lease of the execution that died ends with its time-out, three minutes after it began.
    dynamodb.update_item(
        TableName=site.gateway.table,
        Key={"pk": {"S": "COMMITMENT"}, "sk": {"S": str(TransactionKey(AET, uid))}},
        UpdateExpression="SET leased = :now",
        ExpressionAttributeValues={":now": {"S": "-"}},
    )
    second = site.start_function()
    try:
        eventually(
            lambda: site.item(TransactionKey(AET, uid))["state"],
            until=lambda state: state == {"S": "reported"},
            within=_SECONDS,
        )
    finally:
        second.kill()
    assert site.modality.attempts == before + 1


def test_what_is_no_message_becomes_a_dead_letter_and_keeps_nobody_waiting(site: Site) -> None:
    site.send("nonsense")
    child = site.start_function()
    try:
        assert ask(site.gateway, AET, generate_uid(), [UNKNOWN]).Status == 0
        eventually(lambda: list(site.modality.reports), within=_SECONDS)
        sqs: Any = site.cloud.clients.sqs
        eventually(
            lambda: sqs.receive_message(QueueUrl=site.stack.ref("CommitDeadLetterQueue")).get(
                "Messages"
            ),
            within=_SECONDS,
        )
    finally:
        child.kill()


def test_a_content_that_is_still_in_the_spool_is_waited_for(
    cloud: OfflineCloud, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    settings = {"LENTICULAR_CUSTODY": "spool", "LENTICULAR_SPOOL_DIR": str(spool)}
    with running_site(cloud, tmp_path, settings, CommitPauseSeconds="1") as site:
        gateway = site.gateway
        s3: Any = cloud.clients.s3
        dynamodb: Any = cloud.clients.dynamodb
        archive, index = Archive(s3, gateway.bucket), Index(dynamodb, gateway.table)
        [first] = study(tmp_path / "first", 1)
        second = altered(first, tmp_path / "second")
        assert dcmtk.store(gateway, first.path) == [0]
        eventually(
            lambda: gateway.object_keys("instances/"), until=lambda keys: keys == [first.key]
        )
        assert index_objects(archive, index, [first.key]) == []
        site.s3.fail(Fault.HELD, where=f"PUT /{gateway.bucket}/instances/")
        assert dcmtk.store(gateway, second.path) == [0]
        by_another, uid = generate_uid(), generate_uid()
        reference = (str(CTImageStorage), first.sop_instance_uid)
        # Any gateway that shares the spool may be asked.
        of_another = {"AWS_ENDPOINT_URL_S3": site.s3.endpoint, **settings}
        stores = Stores(cloud, gateway.bucket, gateway.table)
        with running_gateway(tmp_path / "another.log", stores, of_another) as another:
            assert ask(another, AET, by_another, [reference, UNKNOWN]).Status == 0x0000
        assert ask(gateway, AET, uid, [reference]).Status == 0x0000
        for key in (TransactionKey(AET, by_another), TransactionKey(AET, uid)):
            kept = Request.from_document(archive.read(key.requested))
            assert kept.arriving == (second.key,)
        function = site.start_function()
        try:
            eventually(
                lambda: site.item(TransactionKey(AET, uid)).get("problem"),
                until=lambda problem: problem and "not every instance" in problem["S"],
                within=_SECONDS,
            )
            assert site.modality.reports == []
            site.s3.heal()
            eventually(lambda: second.key in gateway.object_keys("instances/"))
            assert index_objects(archive, index, [second.key]) == []
            [report] = eventually(site.modality.reports.copy, within=_SECONDS)
        finally:
            function.kill()
    assert (report.transaction_uid, report.event_type) == (uid, 1)


def test_ten_thousand_references_are_checked_and_reported(
    cloud: OfflineCloud, tmp_path: Path
) -> None:
    # moto reads its whole table for each page of it.
    with running_dynamodb_local() as dynamodb:
        table = dynamodb.table()
        elsewhere = {**dynamodb.environment, "LENTICULAR_TABLE": table}
        with running_site(cloud, tmp_path, elsewhere=elsewhere, CommitGraceSeconds="0",
                          CommitAnswerSeconds="60") as site:  # fmt: skip
            copies = _put_series(site, 10_000)
            dynamodb.load(table, map(instance_item, copies))
            references = [(each.sop_class_uid, each.key.sop_instance_uid) for each in copies]
            function = site.start_function()
            try:
                assert ask(site.gateway, AET, generate_uid(), references).Status == 0x0000
                [report] = eventually(site.modality.reports.copy, within=3 * _SECONDS)
            finally:
                function.kill()
    assert (report.event_type, report.failed) == (1, {})
    assert report.committed == frozenset(references)
    assert len(report.committed) == 10_000


def _put_series(site: Site, count: int) -> list[Copy]:
    """Put the objects of a series into the bucket; return what the index must say of them."""
    file = b"what is in it nobody reads, for size and ETag are as they were indexed"
    etag = md5(file, usedforsecurity=False).hexdigest()
    copies = [
        Copy(
            InstanceKey("1.2", "1.2.1", f"1.2.1.{number}", f"{number:064x}"),
            len(file),
            "2026-01-05T10:00:00.000000Z",
            str(CTImageStorage),
            "1.2.840.10008.1.2.1",
            {level: {} for level in Level},
            etag=etag,
        )
        for number in range(count)
    ]
    s3: Any = site.cloud.clients.s3
    bucket = site.gateway.bucket
    # Nobody is to be told of these: that would take longer than all the rest.
    told = s3.get_bucket_notification_configuration(Bucket=bucket)
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})

    def put(some: Sequence[Copy]) -> None:
        connection = HTTPConnection(urlsplit(site.cloud.endpoint).netloc)
        for copy in some:
            connection.request("PUT", f"/{bucket}/{copy.key}", file)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, (copies[first::4] for first in range(4))))
    told.pop("ResponseMetadata")
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=told)
    return copies
