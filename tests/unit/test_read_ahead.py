"""What is read ahead comes by whichever request brings it."""

from collections import deque
from concurrent.futures import Future

import pytest

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
