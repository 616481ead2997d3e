"""moto's queues, as the stand-in mends them, bear threads and a backlog."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest
from moto.sqs.models import Message

from infra.local.moto_queues import ThreadSafeQueue


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Let threads take turns so often that a race is run many times."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def _queue() -> ThreadSafeQueue:
    # moto's own class leaves an abstract method of its base class out.
    return ThreadSafeQueue("queue", "us-east-1", "123456789012")  # type: ignore[abstract]


def _messages(count: int, name: str) -> list[Message]:
    messages = [Message(f"{name}{number}", "body") for number in range(count)]
    for message in messages:
        message.mark_sent()
    return messages


@pytest.mark.usefixtures("eager_threads")
def test_deletes_at_once_neither_lose_what_arrives_nor_bring_back_what_is_gone() -> None:
    queue = _queue()
    done, arriving = _messages(300, "done"), _messages(3_000, "arriving")
    for message in done:
        queue.add_message(message)
        message.mark_received(visibility_timeout=30)

    def delete(messages: list[Message]) -> None:
        for message in messages:
            assert message.receipt_handle is not None
            queue.delete_message(message.receipt_handle)

    def add() -> None:
        for message in arriving:
            queue.add_message(message)
            time.sleep(0)  # gives the turn to another thread

    threads = [
        threading.Thread(target=add),
        threading.Thread(target=delete, args=(done[::2],)),
        threading.Thread(target=delete, args=(done[1::2],)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [message.id for message in queue.messages] == [message.id for message in arriving]


def test_a_deleted_message_may_be_deleted_again_and_an_unknown_one_may_not() -> None:
    queue = _queue()
    [message] = _messages(1, "m")
    queue.add_message(message)
    message.mark_received(visibility_timeout=30)
    assert message.receipt_handle is not None
    queue.delete_message(message.receipt_handle)
    queue.delete_message(message.receipt_handle)
    with pytest.raises(Exception, match="ReceiptHandleIsInvalid"):
        queue.delete_message("of no message")


def test_counts_tell_waiting_delayed_and_received_messages_apart() -> None:
    queue = _queue()
    waiting, delayed, received = _messages(3, "m")
    delayed.delay(30)
    received.mark_received(visibility_timeout=30)
    for message in (waiting, delayed, received):
        queue.add_message(message)
    assert queue.approximate_number_of_messages == 1
    assert queue.approximate_number_of_messages_delayed == 1
    assert queue.approximate_number_of_messages_not_visible == 1
