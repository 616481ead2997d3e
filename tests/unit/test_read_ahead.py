"""What is read ahead comes by whichever request brings it, and is within its budget."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from gateway.abandoned import Abandoned
from gateway.custody import Custody
from gateway.read_ahead import ReadAhead, Stored
from lenticular.archive import InstanceKey
from lenticular.errors import StoreUnavailable
from tests.cloud.deadline import eventually

FILE = memoryview(b"the file")
STORED = Stored(
    str(InstanceKey("1.2", "1.2.3", "1.2.3.4", "0" * 64)), len(FILE), "1.2", "1.2.3.4", ""
)


class Scripted(Custody):
    """Custody whose requests end, each in its turn, as a test says and when it does."""

    def __init__(self, *answers: "Future[memoryview]") -> None:
        self._answers = deque(answers)

    @property
    def left(self) -> int:
        """How many of these requests are still to come."""
        return len(self._answers)

    def get(self, key: str, start: int, length: int) -> memoryview:
        assert (key, start, length) == (STORED.object_key, 0, len(FILE))
        return self._answers.popleft().result(timeout=60)


@pytest.mark.parametrize("fails", [0, 1])
def test_a_request_that_fails_does_not_end_the_wait_for_the_other_one(
    monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    monkeypatch.setattr("gateway.read_ahead._PATIENT_SECONDS", 0)
    asked: list[Future[memoryview]] = [Future(), Future()]
    custody = Scripted(*asked)
    with ReadAhead(custody, [[STORED]], budget_bytes=1 << 20) as files:
        file = files.head()
        assert file is not None
        eventually(lambda: file.has_begun(0) or not custody.left)
        [part] = file.parts
        asked[fails].set_exception(StoreUnavailable("S3 did not give it"))
        eventually(lambda: part.again is not None and (part.bytes, part.again)[fails].done())
        assert not file.has_begun(0)
        asked[1 - fails].set_result(FILE)
        eventually(lambda: file.has_begun(0.1))
        assert b"".join(file.pieces()) == FILE


class Hanging(Custody):
    """Custody that gives nothing before `over`, and counts the bytes it has been asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.over = threading.Event()
        self._lock = threading.Lock()

    def get(self, key: str, start: int, length: int) -> memoryview:  # noqa: ARG002 - of Custody
        with self._lock:
            self.asked += length
        self.over.wait(60)
        return memoryview(bytes(length))


@contextmanager
def hanging() -> Iterator[Hanging]:
    custody = Hanging()
    try:
        yield custody
    finally:
        custody.over.set()


def test_what_hangs_of_a_file_that_is_given_up_still_counts() -> None:
    budget, part = 1 << 20, 1 << 17
    large = Stored(STORED.object_key, budget, "1.2", "1.2.3.4", "")
    with hanging() as custody, ReadAhead(custody, [[large] * 3], budget_bytes=budget) as files:
        files.head()
        eventually(lambda: custody.asked == budget)
        files.drop()
        following = files.head()
        assert following is not None
        # Always one, or it would never come to its turn.
        assert len(following.parts) == 1
        eventually(lambda: custody.asked == budget + part)
        custody.over.set()
        assert b"".join(following.pieces()) == bytes(budget)


def test_whoever_begins_anew_waits_until_little_hangs_of_what_was_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    abandoned = Abandoned(3)
    monkeypatch.setattr("gateway.read_ahead.ABANDONED", abandoned)
    with hanging() as custody:
        for asked in (1, 2, 3):
            assert abandoned.has_room()
            with ReadAhead(custody, [[STORED]], budget_bytes=1 << 20) as files:
                files.head()
                eventually(lambda: custody.asked, until=(asked * len(FILE)).__eq__)
        assert not abandoned.has_room()
        custody.over.set()
        assert abandoned.has_room(60)
