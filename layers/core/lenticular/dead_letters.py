"""Dead letters: messages that a function failed to do so often that its queue put them aside.

Which queues there are is asked of SQS: those whose name begins with the stack's, as template.yaml
names every queue that has dead letters, `{stack}-{name}`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from .aws import error_code
from .errors import OperatorError, StoreUnavailable
from .s3_events import object_keys

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

_MESSAGES_PER_CALL: Final = 10
#: SQS asks all of its servers only when it may wait.
_POLL_SECONDS: Final = 2
#: What is shown of a message whose form we do not know.
_MOST_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class QueueWithDeadLetters:
    """A queue by the name an operator calls it, and about how many messages there are."""

    name: str
    url: str
    dead_letters_url: str
    waiting: int
    dead: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: when it was sent (UTC), how often it was received, and what it is about."""

    message_id: str
    sent: str
    received: int
    about: str


class DeadLetters:
    """The dead letters of a stack."""

    def __init__(self, client: "SQSClient", stack: str) -> None:
        """Find the queues of `stack` through `client`."""
        self._client = client
        self._prefix = f"{stack}-"

    def all(self) -> list[QueueWithDeadLetters]:
        """Return every queue that has dead letters.

        Raises:
            OperatorError: there is none, so it is another stack's name that was told.
            StoreUnavailable: SQS refused or did not answer.
        """
        try:
            found = sorted(self._queues(), key=lambda queue: queue.name)
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error
        if not found:
            raise OperatorError(
                f"no stack {self._prefix[:-1]} has queues here: look at LENTICULAR_STACK, "
                "AWS_DEFAULT_REGION and whose the AWS credentials are"
            )
        return found

    def replay(self, name: str) -> int:
        """Send the dead letters of a queue back to it; return how many.

        A letter is deleted when its queue has it, so what stops half-way may send one twice and
        loses none. Raises `OperatorError` when there is no such queue.
        """
        queue = self._named(name)
        sent = 0
        try:
            while some := self._letters(queue):
                sent += self._send_back(queue, some)
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error
        return sent

    def show(self, name: str, most: int) -> list[Letter]:
        """Return dead letters of a queue, the `most` first of them; they stay where they are.

        While they are looked at, nobody else gets them. Raises `OperatorError` when there is no
        such queue.
        """
        queue = self._named(name)
        looked_at: list[MessageTypeDef] = []
        try:
            while len(looked_at) < most and (some := self._letters(queue)):
                looked_at += some
            for letter in looked_at:
                self._client.change_message_visibility(
                    QueueUrl=queue.dead_letters_url,
                    ReceiptHandle=letter["ReceiptHandle"],
                    VisibilityTimeout=0,
                )
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error
        return [_letter(each) for each in looked_at[:most]]

    def _named(self, name: str) -> QueueWithDeadLetters:
        known = {queue.name: queue for queue in self.all()}
        if name not in known:
            raise OperatorError(f"the stack has no queue {name}; it has: {', '.join(known)}")
        return known[name]

    def _queues(self) -> Iterator[QueueWithDeadLetters]:
        pages = self._client.get_paginator("list_queues").paginate(QueueNamePrefix=self._prefix)
        for url in (url for page in pages for url in page.get("QueueUrls", [])):
            attributes = self._attributes(url)
            policy = attributes.get("RedrivePolicy")
            name = url.rpartition("/")[2].removeprefix(self._prefix)
            # A name with a hyphen is of another stack, whose name begins with ours.
            if policy is None or "-" in name:
                continue
            target = str(json.loads(policy)["deadLetterTargetArn"]).rpartition(":")[2]
            dead_letters_url = self._client.get_queue_url(QueueName=target)["QueueUrl"]
            yield QueueWithDeadLetters(
                name=name,
                url=url,
                dead_letters_url=dead_letters_url,
                waiting=int(attributes["ApproximateNumberOfMessages"]),
                dead=int(self._attributes(dead_letters_url)["ApproximateNumberOfMessages"]),
            )

    def _attributes(self, url: str) -> dict[str, str]:
        answer = self._client.get_queue_attributes(
            QueueUrl=url, AttributeNames=["RedrivePolicy", "ApproximateNumberOfMessages"]
        )
        return {str(name): value for name, value in answer.get("Attributes", {}).items()}

    def _letters(self, queue: QueueWithDeadLetters) -> list["MessageTypeDef"]:
        return self._client.receive_message(
            QueueUrl=queue.dead_letters_url,
            MaxNumberOfMessages=_MESSAGES_PER_CALL,
            WaitTimeSeconds=_POLL_SECONDS,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        ).get("Messages", [])

    def _send_back(self, queue: QueueWithDeadLetters, letters: list["MessageTypeDef"]) -> int:
        entries: list[Any] = [
            {
                "Id": str(number),
                "MessageBody": letter["Body"],
                "MessageAttributes": {
                    name: {key: value for key, value in attribute.items() if value}
                    for name, attribute in letter.get("MessageAttributes", {}).items()
                },
            }
            for number, letter in enumerate(letters)
        ]
        answer = self._client.send_message_batch(QueueUrl=queue.url, Entries=entries)
        sent = [int(entry["Id"]) for entry in answer.get("Successful", [])]
        if sent:
            self._client.delete_message_batch(
                QueueUrl=queue.dead_letters_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": letters[number]["ReceiptHandle"]}
                    for number in sent
                ],
            )
        if len(sent) < len(letters):
            raise StoreUnavailable("SQS did not take every letter; run it again")
        return len(sent)


def _letter(message: "MessageTypeDef") -> Letter:
    attributes: Any = message.get("Attributes", {})
    body = message["Body"]
    try:
        # What S3 or the index function sent: object keys, which say all there is to say.
        about = " ".join(object_keys(body))
    except ValueError:
        about = body[:_MOST_CHARACTERS]
    sent = datetime.fromtimestamp(int(attributes.get("SentTimestamp", 0)) / 1000, UTC)
    return Letter(
        message["MessageId"],
        sent.strftime("%Y-%m-%dT%H:%M:%SZ"),
        int(attributes.get("ApproximateReceiveCount", 0)),
        about,
    )


def _failure(error: ClientError | BotoCoreError) -> StoreUnavailable:
    return StoreUnavailable(f"SQS refused or did not answer: {error_code(error)}")
