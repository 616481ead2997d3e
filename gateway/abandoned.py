"""Requests that are under way for nobody any more, as those of a retrieval that was cancelled.

No thread can be called back from a store, or a host, that takes a request and does not answer. So
whoever cancelled waits for none of them, and is not to begin anew before there are few.
"""

import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Final, NoReturn


class Abandoned:
    """Counts them until each has ended. Safe to share between threads."""

    def __init__(self, most: int) -> None:
        """Have room for one more whenever there are fewer than `most`."""
        self._most = most
        self._count = 0
        self._changed = threading.Condition()

    def leave(self, requests: Iterable[Future[Any]]) -> None:
        """Count requests that nobody waits for any more."""
        for request in requests:
            self._add(1)
            request.add_done_callback(lambda _: self._add(-1))

    def has_room(self, seconds: float = 0) -> bool:
        """Wait so long for room; tell whether there is some."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count < self._most, seconds)

    @property
    def are_there(self) -> bool:
        """Whether one has not ended yet."""
        return self._count > 0

    def _add(self, more: int) -> None:
        with self._changed:
            self._count += more
            self._changed.notify_all()


#: Those of this process. A retrieval has some thirty under way at a time.
ABANDONED: Final = Abandoned(64)


def end(status: int) -> NoReturn:
    """End this process; not even then are they waited for, as Python would."""
    if ABANDONED.are_there:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
