"""Audit messages to a log group of CloudWatch Logs, with a retention and readers of its own.

A container has one stream of logs, and who may read in it what goes wrong need not know who was a
patient. So these lines do not go through stdout: our own requests put them, in batches.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from lenticular.audit import AuditMessage

from .audit import OutletFailed

#: What PutLogEvents takes at a time: bytes, where each event counts 26 more than it has, and span.
_MOST_BYTES: Final = 1_048_576
_EVENT_BYTES: Final = 26
_LONGEST_SPAN_MILLISECONDS: Final = 86_000_000

_Event = dict[str, Any]


class LogGroup:
    """Puts a line of JSON for each message into a stream of this process's own."""

    gather_seconds = 1.0

    def __init__(self, client: Any, group: str) -> None:  # noqa: ANN401 - boto3 without its stubs for logs
        """Use a CloudWatch Logs client."""
        self.name = "log group"
        self._client = client
        self._group = group
        self._stream = f"{socket.gethostname()}-{os.getpid()}"
        self._has_stream = False

    def send(self, messages: Sequence[AuditMessage]) -> int:
        """Put the messages, oldest first, or raise `OutletFailed`."""
        refused = 0
        try:
            if not self._has_stream:
                self._create_stream()
            for batch in _batches(messages):
                answer = self._client.put_log_events(
                    logGroupName=self._group, logStreamName=self._stream, logEvents=batch
                )
                # Too old or too new, by a clock that is wrong: CloudWatch does not say which.
                refused += len(batch) if answer.get("rejectedLogEventsInfo") else 0
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            if code == "ResourceNotFoundException":
                self._has_stream = False
            raise OutletFailed(f"CloudWatch Logs: {code}") from error
        except BotoCoreError as error:
            raise OutletFailed(f"CloudWatch Logs: {type(error).__name__}") from error
        return refused

    def close(self) -> None:
        """Do nothing: each request stands on its own."""

    def _create_stream(self) -> None:
        try:
            self._client.create_log_stream(logGroupName=self._group, logStreamName=self._stream)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "ResourceAlreadyExistsException":
                raise
        self._has_stream = True


def _batches(messages: Sequence[AuditMessage]) -> Iterator[list[_Event]]:
    """Cut messages into what one request takes."""
    batch: list[_Event] = []
    room = _MOST_BYTES
    for message in sorted(messages, key=lambda each: each.at):
        line = message.to_line()
        event = {"timestamp": int(message.at.timestamp() * 1000), "message": line}
        # The line is ASCII.
        needed = len(line) + _EVENT_BYTES
        spans = batch and event["timestamp"] - batch[0]["timestamp"] > _LONGEST_SPAN_MILLISECONDS
        if batch and (needed > room or spans):
            yield batch
            batch, room = [], _MOST_BYTES
        batch.append(event)
        room -= needed
    if batch:
        yield batch
