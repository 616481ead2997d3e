"""How long after its end a worker process is started again."""

import pytest

from gateway import supervisor
from gateway.supervisor import _Worker


def test_a_worker_that_never_was_ready_is_started_later_and_later_however_long_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whatever it takes to start and fail is long.
    monkeypatch.setattr(supervisor, "_STEADY_SECONDS", 0.0)
    worker = _Worker(1, ["false"])
    pauses = []
    for _ in range(4):
        worker.start()
        assert worker.close() != 0
        pauses.append(worker.start_again_later())
    assert pauses == [0.0, 0.5, 1.0, 2.0]


def test_a_worker_that_was_ready_for_long_is_started_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "_STEADY_SECONDS", 0.0)
    worker = _Worker(1, ["sleep"])
    for _ in range(3):
        worker.start()
        worker.answered()
        worker.close()
        assert worker.start_again_later() == 0.0
