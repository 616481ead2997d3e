"""What may succeed a moment later is tried again, for as long as it was said and no longer."""

from time import monotonic

import pytest

from gateway.backoff import persistently


class Attempts:
    """Fails so many times."""

    def __init__(self, failures: int) -> None:
        self.made = 0
        self._failures = failures

    def __call__(self) -> str:
        self.made += 1
        if self.made <= self._failures:
            raise ConnectionError
        return "done"


def persist(attempts: Attempts, seconds: float, *, is_transient: bool = True) -> str:
    return persistently(attempts, seconds, is_transient=lambda _: is_transient)


def test_it_is_tried_until_it_succeeds() -> None:
    attempts = Attempts(2)
    assert persist(attempts, 10) == "done"
    assert attempts.made == 3


def test_without_time_it_is_tried_once() -> None:
    attempts = Attempts(1)
    with pytest.raises(ConnectionError):
        persist(attempts, 0)
    assert attempts.made == 1


def test_what_cannot_pass_is_tried_once() -> None:
    attempts = Attempts(1)
    with pytest.raises(ConnectionError):
        persist(attempts, 10, is_transient=False)
    assert attempts.made == 1


def test_it_ends_when_the_time_has_run_out() -> None:
    attempts = Attempts(10**9)
    began = monotonic()
    with pytest.raises(ConnectionError):
        persist(attempts, 0.5)
    assert 1 < attempts.made < 10
    assert monotonic() - began < 5
