"""moto as the node runs it, and small stacks in it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cloud.dynamodb_local import DynamoDBLocal, running_dynamodb_local
from tests.cloud.standin import DATA, OfflineCloud, RecorderStack, offline_cloud


@pytest.fixture(scope="session")
def cloud() -> Iterator[OfflineCloud]:
    """Run one moto for all tests; every stack in it has names of its own."""
    with offline_cloud() as running:
        yield running


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[DynamoDBLocal]:
    """Run one DynamoDB Local for all tests; each has tables of its own in it."""
    with running_dynamodb_local() as running:
        yield running


@pytest.fixture
def recorder(cloud: OfflineCloud, tmp_path: Path) -> Callable[..., RecorderStack]:
    """Return what creates the stack of data/template.yaml with the parameters of a test."""

    def create(**parameters: str) -> RecorderStack:
        journal = tmp_path / "journal"
        stack = cloud.stack(DATA / "template.yaml", Journal=str(journal), **parameters)
        made = RecorderStack(cloud, stack, journal)
        # S3 tries out a new notification with a message of its own.
        made.sqs.purge_queue(QueueUrl=made.url("Queue"))
        return made

    return create
