"""What a function failed to do is done when the operator has its dead letters replayed.

That of the mpps function is in test_procedure_commands.py.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from lenticular.archive import TRANSCODED, TransactionKey
from lenticular.commitment import Reference, Request
from tests import images
from tests.cloud.deadline import eventually
from tests.commands import lenticular
from tests.peers.node_process import Node, running_node

pytestmark = pytest.mark.peers

CT = images.smooth("ct", 64, 64)
TRANSACTION = TransactionKey("MODALITY", "1.2.3.4")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Run a node that has an instance with a form, and a commitment that nobody was told of."""
    folder = tmp_path_factory.mktemp("node")
    request = Request(
        TRANSACTION, "LENTICULAR", datetime.now(UTC), (Reference("1.2.840.1", "1.2.3"),)
    )
    with running_node(folder / "node.log", "--set", "Transcode=jpeg-lossless") as running:
        s3 = running.client("s3")
        s3.put_object(Bucket=running.bucket, Key=CT.key(), Body=CT.file())
        s3.put_object(Bucket=running.bucket, Key=TRANSACTION.requested, Body=request.document())
        eventually(lambda: forms(running))
        eventually(lambda: item(running, "COMMITMENT", str(TRANSACTION)))
        yield running


def forms(node: Node) -> list[str]:
    return node.object_keys(TRANSCODED)


def item(node: Node, partition: str, sort: str) -> object:
    key = {"pk": {"S": partition}, "sk": {"S": sort}}
    return node.client("dynamodb").get_item(TableName=node.table, Key=key).get("Item")


def forget(node: Node, partition: str, sort: str) -> None:
    key = {"pk": {"S": partition}, "sk": {"S": sort}}
    node.client("dynamodb").delete_item(TableName=node.table, Key=key)
    assert item(node, partition, sort) is None


def waiting(node: Node, queue: str) -> int:
    """Count the messages of a queue, those that are being worked on too."""
    sqs = node.client("sqs")
    url = sqs.get_queue_url(QueueName=f"lenticular-{queue}")["QueueUrl"]
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return sum(int(value) for name, value in counts.items() if name.startswith("Approx"))


def replayed(node: Node, queue: str, letter: object, done: Callable[[], object]) -> None:
    """Put a dead letter where SQS puts it, and run the command as an operator does."""
    sqs = node.client("sqs")
    dead = f"lenticular-{queue.capitalize()}DeadLetterQueue"
    url = sqs.get_queue_url(QueueName=dead)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(letter))
    command = lenticular(node.environment(), "dead-letters", "replay", queue)
    assert command.stdout == f"1 messages sent back to {queue}\n", command.stderr
    assert eventually(done)


def event_of(key: str) -> object:
    return {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": key}}}]}


def test_an_instance_is_indexed(node: Node) -> None:
    study, instance = f"STUDY#{images.STUDY}", f"INSTANCE#{images.STUDY}.1#{CT.uid}"
    assert item(node, study, instance)
    forget(node, study, instance)
    replayed(node, "index", event_of(CT.key()), lambda: item(node, study, instance))


def test_an_instance_is_transcoded(node: Node) -> None:
    [form] = forms(node)
    # What was indexed again just before may still be about to be transcoded again, too.
    eventually(lambda: waiting(node, "index") + waiting(node, "transcode") == 0)
    node.client("s3").delete_object(Bucket=node.bucket, Key=form)
    assert forms(node) == []
    replayed(node, "transcode", {"object_key": CT.key()}, lambda: forms(node))
    assert forms(node) == [form]


def test_a_commitment_is_worked_on(node: Node) -> None:
    forget(node, "COMMITMENT", str(TRANSACTION))
    replayed(
        node,
        "commit",
        event_of(TRANSACTION.requested),
        lambda: item(node, "COMMITMENT", str(TRANSACTION)),
    )
