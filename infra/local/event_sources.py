"""How events come to a function: one class for each type of event source that is run offline.

A source is made from what stands under a function's `Events` in the template, goes to the
function's process as JSON, and runs there until it is told to stop:

    source = SOURCES["SQS"].from_template(properties, site)     in the node
    source.run(invoke, stop)                                    in the function's process

A further type is a further class in `SOURCES`. `run` returns after `stop` is set and everything
that waited by then has been handed to the function.
"""

import base64
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from .template import Site

_log = logging.getLogger(__name__)

#: Calls the handler with an event and returns its answer as JSON has it.
Invoke = Callable[[dict[str, Any]], object]


class InvocationFailed(Exception):
    """The handler raised, or answered what is not JSON; it has been logged."""


class EventSourceError(ValueError):
    """The template asks for an event source that is not run offline."""


class EventSource(Protocol):
    """Brings events to a handler."""

    TYPE: ClassVar[str]

    @classmethod
    def from_template(cls, properties: Mapping[str, Any], site: "Site") -> Self:
        """Read what the template says, or raise `EventSourceError`."""

    def run(self, invoke: Invoke, stop: threading.Event) -> None:
        """Invoke until `stop` is set and nothing waits any more."""


# SQS gives and deletes ten messages a call at most.
_MESSAGES_PER_CALL: Final = 10
# A poll that finds nothing ends after this; a stop is noticed as late as that.
_POLL_SECONDS: Final = 1
_DELETING_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class SqsSource:
    """Messages of a queue in batches, as Lambda's event source mapping brings them.

    A thread receives, ten messages a call, and stays at most a batch ahead. A batch goes to the
    handler when it is full or `window_seconds` after its first message came. What the handler did
    is deleted; what it did not stays and comes back when its visibility time-out has passed, until
    the queue's own redrive policy makes it a dead letter.
    """

    TYPE: ClassVar[str] = "SQS"

    queue_url: str
    queue_arn: str
    region: str
    batch_size: int = 10
    window_seconds: float = 0
    partial_failures: bool = False

    # MaximumConcurrency bounds parallel invocations; here there is one at a time.
    _KNOWN: ClassVar[frozenset[str]] = frozenset({
        "Queue", "BatchSize", "MaximumBatchingWindowInSeconds", "FunctionResponseTypes", "Enabled",
        "ScalingConfig",
    })  # fmt: skip

    @classmethod
    def from_template(cls, properties: Mapping[str, Any], site: "Site") -> Self:
        """Read an SQS event of a function, or raise `EventSourceError`."""
        if unknown := sorted(set(properties) - cls._KNOWN):
            raise EventSourceError(f"has {unknown[0]}, which is not run offline")
        arn = str(properties.get("Queue", ""))
        service, region, account, name = (arn.split(":") + [""] * 6)[2:6]
        if service != "sqs":
            raise EventSourceError("has no ARN of a queue as its Queue")
        return cls(
            queue_url=f"{site.aws}/{account}/{name}",
            queue_arn=arn,
            region=region,
            batch_size=int(properties.get("BatchSize", 10)),
            window_seconds=float(properties.get("MaximumBatchingWindowInSeconds", 0)),
            partial_failures="ReportBatchItemFailures"
            in properties.get("FunctionResponseTypes", []),
        )

    def run(self, invoke: Invoke, stop: threading.Event) -> None:
        """Hand the queue's messages to `invoke` until `stop` is set and the queue is empty."""
        sqs: SQSClient = boto3.client("sqs", config=Config(max_pool_connections=16))
        # None ends the queue's messages. The bound keeps what waits here, with its visibility
        # time-out running, to about one batch.
        received: queue.Queue[list[MessageTypeDef] | None] = queue.Queue(
            maxsize=-(-self.batch_size // _MESSAGES_PER_CALL)
        )
        threading.Thread(target=self._receive, args=(sqs, received, stop), daemon=True).start()
        with ThreadPoolExecutor(_DELETING_THREADS) as deleting:
            for batch in self._batches(received):
                done = self._settle(batch, invoke)
                chunks = [done[at : at + _MESSAGES_PER_CALL]
                          for at in range(0, len(done), _MESSAGES_PER_CALL)]  # fmt: skip
                for _ in deleting.map(lambda chunk: self._delete(sqs, chunk), chunks):
                    pass

    def _receive(
        self,
        sqs: "SQSClient",
        received: "queue.Queue[list[MessageTypeDef] | None]",
        stop: threading.Event,
    ) -> None:
        while True:
            stopping = stop.is_set()
            try:
                messages = sqs.receive_message(
                    QueueUrl=self.queue_url,
                    MaxNumberOfMessages=min(self.batch_size, _MESSAGES_PER_CALL),
                    WaitTimeSeconds=0 if stopping else _POLL_SECONDS,
                    MessageSystemAttributeNames=["All"],
                    MessageAttributeNames=["All"],
                ).get("Messages", [])
            except (BotoCoreError, ClientError) as error:
                _log.warning("could not receive from %s: %s", self.queue_arn, error)
                messages = []
                stop.wait(_POLL_SECONDS)
            if messages:
                received.put(messages)
            elif stopping:
                received.put(None)
                return

    def _batches(
        self, received: "queue.Queue[list[MessageTypeDef] | None]"
    ) -> Iterator[list["MessageTypeDef"]]:
        """Gather messages into batches until None comes."""
        waiting: list[MessageTypeDef] = []
        open_ = True
        while open_ or waiting:
            if not waiting:
                first = received.get()
                if first is None:
                    return
                waiting = first
            deadline = time.monotonic() + self.window_seconds
            while open_ and len(waiting) < self.batch_size:
                try:
                    more = received.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                open_ = more is not None
                waiting += more or []
            yield waiting[: self.batch_size]
            waiting = waiting[self.batch_size :]

    def _settle(self, batch: Sequence["MessageTypeDef"], invoke: Invoke) -> list["MessageTypeDef"]:
        """Invoke with a batch and return the messages of it that are done."""
        try:
            answer = invoke({"Records": [self.record(message) for message in batch]})
        except InvocationFailed:
            return []
        if not self.partial_failures:
            return list(batch)
        failed = failed_ids(answer, {message["MessageId"] for message in batch})
        return [message for message in batch if message["MessageId"] not in failed]

    def _delete(self, sqs: "SQSClient", messages: Sequence["MessageTypeDef"]) -> None:
        # Not deleted means delivered again, which every handler must bear.
        try:
            answer = sqs.delete_message_batch(
                QueueUrl=self.queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )
        except (BotoCoreError, ClientError) as error:
            _log.warning("could not delete from %s: %s", self.queue_arn, error)
            return
        for failure in answer.get("Failed", []):
            _log.warning("could not delete from %s: %s", self.queue_arn, failure["Code"])

    def record(self, message: "MessageTypeDef") -> dict[str, Any]:
        """Return a message as Lambda writes it into an event's `Records`."""
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": dict(message.get("Attributes", {})),
            "messageAttributes": {
                name: _message_attribute(value)
                for name, value in message.get("MessageAttributes", {}).items()
            },
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self.queue_arn,
            "awsRegion": self.region,
        }


def _message_attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    attribute = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
    if "StringValue" in value:
        attribute["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        attribute["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode("ascii")
    return attribute


def failed_ids(answer: object, batch: Collection[str]) -> set[str]:
    """Return which messages of a batch an answer of ReportBatchItemFailures says have failed.

    No answer, an empty one, or one with no or null `batchItemFailures` means that all succeeded.
    Anything that cannot be read, or names a message that was not in the batch, means that all
    failed. Lambda developer guide, "Handling errors for an SQS event source".
    """
    if answer is None:
        return set()
    if not isinstance(answer, dict):
        return _malformed(batch)
    failures = answer.get("batchItemFailures")
    if failures is None:
        return set()
    if not isinstance(failures, list):
        return _malformed(batch)
    failed = set()
    for failure in failures:
        identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
        if not isinstance(identifier, str) or identifier not in batch:
            return _malformed(batch)
        failed.add(identifier)
    return failed


def _malformed(batch: Collection[str]) -> set[str]:
    _log.error("the handler's answer is no list of batchItemFailures: the whole batch has failed")
    return set(batch)


SOURCES: Final[Mapping[str, type[EventSource]]] = {source.TYPE: source for source in (SqsSource,)}


def event_source(event: Mapping[str, Any], site: "Site") -> EventSource | None:
    """Make the event source an entry of `Events` describes; None when it is switched off.

    Raises:
        EventSourceError: its type, or a property of it, is not run offline.
    """
    kind, properties = str(event.get("Type")), event.get("Properties", {})
    if kind not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        raise EventSourceError(f"is of type {kind}, which is not run offline; run is: {known}")
    if str(properties.get("Enabled", True)).lower() == "false":
        return None
    return SOURCES[kind].from_template(properties, site)
