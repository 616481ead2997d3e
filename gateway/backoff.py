"""Trying again what may succeed a moment later, with pauses that grow and differ."""

import random
from collections.abc import Callable
from time import monotonic, sleep
from typing import Final, TypeVar

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 3.0

_T = TypeVar("_T")


def persistently(
    attempt: Callable[[], _T], seconds: float, *, is_transient: Callable[[Exception], bool]
) -> _T:
    """Return what `attempt` returns; no attempt begins later than `seconds` after the first.

    An exception that is not transient, or the last one, goes on to the caller.
    """
    deadline = monotonic() + seconds
    longest = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return attempt()
        except Exception as error:
            # Not all at the same moment, or they would throttle each other again.
            pause = random.uniform(longest / 2, longest)  # noqa: S311 - no secret
            if not is_transient(error) or monotonic() + pause > deadline:
                raise
        sleep(pause)
        longest = min(longest * 2, _LONGEST_PAUSE_SECONDS)
