"""The offline stand-in's parts, without the gateway, for tests of one of them."""

import contextlib
import json
import os
import queue
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from infra.local.children import Child, Ended, Events, Ready
from infra.local.cloud import Clients, clients, create
from infra.local.functions import drives
from infra.local.node import aws_environment, moto, worker
from infra.local.template import Site, Stack, read_template

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

DATA: Final = Path(__file__).with_name("data")


@dataclass
class OfflineCloud:
    """moto in its own process, as the node starts it."""

    endpoint: str
    environment: Mapping[str, str]
    clients: Clients

    def stack(self, template: Path, **parameters: str) -> Stack:
        """Create the resources of a template under names of their own."""
        site = Site(self.endpoint, stack=f"s{uuid.uuid4().hex[:12]}")
        document = read_template(template)
        for name, parameter in document["Parameters"].items():
            # Lambda, which is not here, wants its functions' time-outs. No test waits so long.
            if name.endswith("VisibilitySeconds"):
                parameter.pop("MinValue", None)
        stack = Stack(document, parameters, site)
        create(stack, self.clients)
        return stack


@contextlib.contextmanager
def offline_cloud() -> Iterator[OfflineCloud]:
    """Run moto on a free port."""
    events: Events = queue.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = aws_environment(endpoint, {})
        child = moto(listening, environment, os.environ, events)
        child.start()
    try:
        yield OfflineCloud(endpoint, environment, clients(environment))
    finally:
        child.kill()
        while not isinstance(events.get(timeout=30), Ended):
            pass


@dataclass
class RecorderStack:
    """The stack of data/template.yaml and what its functions wrote down."""

    cloud: OfflineCloud
    stack: Stack
    journal: Path
    events: Events = field(default_factory=queue.SimpleQueue)

    @property
    def sqs(self) -> "SQSClient":
        """SQS as the functions meet it."""
        return self.cloud.clients.sqs

    def url(self, logical_id: str) -> str:
        """Return the URL of a queue."""
        return str(self.stack.ref(logical_id))

    def send(self, *bodies: str, to: str = "Queue") -> list[str]:
        """Send messages and return their ids."""
        ids = []
        for at in range(0, len(bodies), 10):
            answer = self.sqs.send_message_batch(
                QueueUrl=self.url(to),
                Entries=[
                    {"Id": str(number), "MessageBody": body}
                    for number, body in enumerate(bodies[at : at + 10])
                ],
            )
            ids += [entry["MessageId"] for entry in answer["Successful"]]
        return ids

    def counts(self, logical_id: str = "Queue") -> tuple[int, int]:
        """Return how many messages of a queue wait and how many are being worked on."""
        attributes = self.sqs.get_queue_attributes(
            QueueUrl=self.url(logical_id), AttributeNames=["All"]
        )["Attributes"]
        return (
            int(attributes["ApproximateNumberOfMessages"]),
            int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        )

    def invocations(self) -> list[dict[str, Any]]:
        """Return what the functions wrote down, one entry a call."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text("utf-8").splitlines(keepends=True)
        # The last one may be half written.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def records(self) -> list[dict[str, Any]]:
        """Return every record of every call."""
        return [
            record for invocation in self.invocations() for record in invocation["event"]["Records"]
        ]

    def bodies(self) -> list[str]:
        """Return the bodies of the records."""
        return [record["body"] for record in self.records()]

    @contextlib.contextmanager
    def running(
        self, function: str = "Recorder", environment: Mapping[str, str] = os.environ
    ) -> Iterator[Child]:
        """Run a function on its event source until the end of the block."""
        [drive] = [drive for drive in drives(self.stack, DATA) if drive.logical_id == function]
        child = worker(drive, self.cloud.environment, environment, self.events)
        child.start()
        ready = self.events.get(timeout=30)
        assert isinstance(ready, Ready), ready
        try:
            yield child
        finally:
            child.kill()

    def ended(self) -> int:
        """Wait for the function's process to end and return its exit status."""
        event = self.events.get(timeout=30)
        assert isinstance(event, Ended), event
        return event.status
