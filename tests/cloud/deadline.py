"""The one place where tests wait for something that happens elsewhere."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 30.0
_LOOK_AGAIN_SECONDS: Final = 0.02


def eventually(
    look: Callable[[], T], *, until: Callable[[T], object] = bool, within: float = _PATIENCE_SECONDS
) -> T:
    """Look at the real state until it is as wanted, and return it; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not until(state := look()):
        assert time.monotonic() < deadline, f"still {state!r:.2000} after {within:g} s"
        time.sleep(_LOOK_AGAIN_SECONDS)
    return state
