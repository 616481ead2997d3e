"""The one place where tests wait for something that happens elsewhere."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 30.0
_LOOK_AGAIN_SECONDS: Final = 0.02
#: Pauses are so many times as long as looking took, so that it holds up what is waited for but
#: little: to read a whole table again and again would keep moto from everything else.
_PAUSES_TO_LOOKS: Final = 4
_LONGEST_PAUSE_SECONDS: Final = 2.0


def eventually(
    look: Callable[[], T], *, until: Callable[[T], object] = bool, within: float = _PATIENCE_SECONDS
) -> T:
    """Look at the real state until it is as wanted, and return it; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        began = time.monotonic()
        if until(state := look()):
            return state
        now = time.monotonic()
        assert now < deadline, f"still {state!r:.2000} after {within:g} s"
        pause = max(_LOOK_AGAIN_SECONDS, _PAUSES_TO_LOOKS * (now - began))
        time.sleep(min(pause, _LONGEST_PAUSE_SECONDS))
