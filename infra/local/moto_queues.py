"""moto's queues, made to carry a backlog of thousands and to lose nothing of it.

Two things are wrong with them in moto 5.2 for more than a few calls of a test:

- They are not safe under threads. A delete builds a list of the messages but one and puts it in the
  place of the old one. Of two deletes at once, one undoes the other, and a message that arrived
  between them is gone:

      delete A              delete B              PutObject notifies
      reads the list
                            reads the list
                            replaces it
                                                  appends an event to B's list
      replaces it with a list that still has what B deleted, and not the event

- Each send, and each message received, counts all waiting messages three times and reads the clock
  three times for each, so the work grows with the square of the backlog: 50 messages a second at a
  backlog of 600.
"""

from threading import Condition
from typing import Any

import moto.sqs.models
import moto.sqs.urls
from moto.core.utils import unix_time, unix_time_millis
from moto.sqs.exceptions import ReceiptHandleIsInvalid
from moto.sqs.models import Message, Queue, SQSBackend, sqs_backends


class ThreadSafeQueue(Queue):
    """A queue that threads may share and that reads the clock once an operation."""

    @property
    def lock(self) -> Condition:
        """Guard of the messages; waiting for messages lets go of it."""
        return self._messages_lock

    @property
    def messages(self) -> list[Message]:
        """The messages that may be received now."""
        now = unix_time_millis()
        return [m for m in self._messages if m.visible_at < now and m.delayed_until <= now]

    @property
    def approximate_number_of_messages_delayed(self) -> int:
        """How many messages are not to be received yet."""
        now = unix_time_millis()
        return sum(message.delayed_until > now for message in self._messages)

    @property
    def approximate_number_of_messages_not_visible(self) -> int:
        """How many messages someone has received and may still delete."""
        now = unix_time_millis()
        return sum(message.visible_at >= now for message in self._messages)

    def delete_message(self, receipt_handle: str) -> None:
        """Delete in place: the list others append to stays the list."""
        with self.lock:
            if receipt_handle in self.deleted_messages:
                return
            for position, message in enumerate(self._messages):
                if message.had_receipt_handle(receipt_handle):
                    self.pending_messages.discard(message)
                    handles = [handle for handle in message.all_receipt_handles if handle]
                    self.deleted_messages.update(handles)
                    del self._messages[position]
                    return
        raise ReceiptHandleIsInvalid


class ThreadSafeSQSBackend(SQSBackend):
    """SQS whose every change of a queue holds the queue's lock."""

    @property
    def _url_module(self) -> Any:  # noqa: ANN401 - a module
        # moto looks for a service's URLs beside the module of its backend.
        return moto.sqs.urls

    def receive_message(
        self,
        queue_name: str,
        count: int,
        wait_seconds_timeout: int,
        visibility_timeout: int,
        message_attribute_names: list[str] | None = None,
    ) -> list[Message]:
        """Receive as one step; waiting for messages lets go of the lock."""
        with self._lock(queue_name):
            return super().receive_message(
                queue_name, count, wait_seconds_timeout, visibility_timeout, message_attribute_names
            )

    def change_message_visibility(
        self, queue_name: str, receipt_handle: str, visibility_timeout: int
    ) -> None:
        """Change it while nobody receives."""
        with self._lock(queue_name):
            super().change_message_visibility(queue_name, receipt_handle, visibility_timeout)

    def purge_queue(self, queue_name: str) -> None:
        """Forget all messages while nobody receives."""
        with self._lock(queue_name):
            super().purge_queue(queue_name)

    def is_message_valid_based_on_retention_period(self, queue_name: str, message: Message) -> bool:
        """Ask the queue for one attribute, where moto computes all of them."""
        kept_seconds: int = self.get_queue(queue_name).message_retention_period  # type: ignore[attr-defined]
        return kept_seconds + message.sent_timestamp / 1000 > unix_time()  # type: ignore[operator]

    def _lock(self, queue_name: str) -> Condition:
        queue = self.get_queue(queue_name)
        assert isinstance(queue, ThreadSafeQueue)  # create_queue makes no other
        return queue.lock


def use_in_moto() -> None:
    """Make moto create these queues instead of its own, from now on."""
    moto.sqs.models.Queue = ThreadSafeQueue  # type: ignore[misc]
    sqs_backends.backend = ThreadSafeSQSBackend
