"""Dead letters are counted and sent back, whichever function they are of."""

from typing import Any

import pytest

from infra.local.template import Stack
from lenticular.dead_letters import DeadLetters
from lenticular.errors import OperatorError
from tests.cloud.standin import OfflineCloud
from tests.cloud.stored_instances import ROOT

_PREFIX = "deadletters"


@pytest.fixture
def stack(cloud: OfflineCloud) -> Stack:
    """Create the resources of the real template under names of their own."""
    return cloud.stack(ROOT / "template.yaml", BucketPrefix=_PREFIX)


@pytest.fixture
def letters(cloud: OfflineCloud, stack: Stack) -> DeadLetters:
    """Return the dead letters of that stack."""
    return DeadLetters(cloud.clients.sqs, stack.site.stack)


def _bodies(cloud: OfflineCloud, url: str) -> list[tuple[str, Any]]:
    """Take every message of a queue."""
    taken = []
    while messages := cloud.clients.sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages"):
        taken += [(each["Body"], each.get("MessageAttributes")) for each in messages]
    return taken


def test_every_queue_of_the_stack_that_has_dead_letters_is_listed(
    cloud: OfflineCloud, stack: Stack, letters: DeadLetters
) -> None:
    cloud.clients.sqs.purge_queue(QueueUrl=stack.ref("IndexQueue"))
    cloud.clients.sqs.send_message(QueueUrl=stack.ref("IndexQueue"), MessageBody="waits")
    cloud.clients.sqs.send_message(QueueUrl=stack.ref("IndexDeadLetterQueue"), MessageBody="dead")
    listed = {queue.name: (queue.waiting, queue.dead) for queue in letters.all()}
    assert listed["index"] == (1, 1)
    assert listed["procedures"][1] == 0
    with_dead_letters = [
        queue for queue in stack.of_type("AWS::SQS::Queue") if "RedrivePolicy" in queue.properties
    ]
    assert len(listed) == len(with_dead_letters)


def test_a_stack_whose_name_begins_with_ours_is_left_alone(
    cloud: OfflineCloud, stack: Stack, letters: DeadLetters
) -> None:
    sqs = cloud.clients.sqs
    policy = sqs.get_queue_attributes(
        QueueUrl=stack.ref("IndexQueue"), AttributeNames=["RedrivePolicy"]
    )["Attributes"]
    name = f"{stack.site.stack}-drill-index"
    other = sqs.create_queue(QueueName=name, Attributes=policy)["QueueUrl"]
    assert other not in {queue.url for queue in letters.all()}


def test_dead_letters_go_back_to_their_queue_whole(
    cloud: OfflineCloud, stack: Stack, letters: DeadLetters
) -> None:
    sqs = cloud.clients.sqs
    queue = stack.ref("ProceduresQueue")
    dead = stack.ref("ProceduresDeadLetterQueue")
    sqs.purge_queue(QueueUrl=queue)
    for number in range(23):
        sqs.send_message(
            QueueUrl=dead,
            MessageBody=f"letter {number}",
            MessageAttributes={"why": {"DataType": "String", "StringValue": "because"}},
        )
    assert letters.replay("procedures") == 23
    returned = _bodies(cloud, queue)
    assert sorted(body for body, _ in returned) == sorted(f"letter {n}" for n in range(23))
    assert all(attributes["why"]["StringValue"] == "because" for _, attributes in returned)
    assert letters.replay("procedures") == 0


def test_a_queue_that_there_is_none_of_is_told(letters: DeadLetters) -> None:
    with pytest.raises(OperatorError, match=r"no queue nonsense; it has: .*index"):
        letters.replay("nonsense")
