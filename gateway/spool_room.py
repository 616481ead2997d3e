"""The room that a spool has left: its limit, what is taken of it, and a disk that fails."""

import errno
import logging
import threading
from time import monotonic
from typing import Final

_log: Final = logging.getLogger(__name__)

#: Below this share of the limit a full spool counts as having room again.
_ROOM_AGAIN: Final = 0.9
#: A spool that goes on turning instances away is said to do so this often.
_SAY_AGAIN_SECONDS: Final = 60.0


class NoRoom(OSError):
    """The spool may not hold as much; the disk has no part in it."""

    def __init__(self, reason: str) -> None:
        """Say it as a disk with a quota does."""
        super().__init__(errno.EDQUOT, reason)


class Room:
    """How many bytes may be in the spool, and whether there is no room now.

    Tells in one log line each when the spool begins and when it ceases to turn instances away, and
    once a minute when one is turned away meanwhile, which an alarm counts.
    """

    def __init__(self, max_bytes: int) -> None:
        """Begin empty."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held = 0
        self._full = False
        self._disk_fault: str | None = None
        self._say_again_at = 0.0

    @property
    def held(self) -> int:
        """How many bytes are taken."""
        return self._held

    @property
    def disk_failed(self) -> bool:
        """Whether the disk has failed and not worked since."""
        return self._disk_fault is not None

    def shortage(self) -> str | None:
        """Say why an instance would be turned away now, or `None`."""
        return "the spool is full" if self._full else self._disk_fault

    def take(self, count: int, *, beyond: int = 0) -> None:
        """Take room for an instance that has `beyond` already, or raise `NoRoom`."""
        with self._lock:
            if beyond + count > self._max_bytes:
                raise NoRoom("the instance is longer than all of the spool may be")
            if self._held + count > self._max_bytes:
                begins, self._full = not self._full, True
                self._tell_shortage("the spool is full", begins=begins)
                raise NoRoom("the spool is full")
            self._held += count

    def occupy(self, count: int) -> None:
        """Count what is there already, whatever the limit."""
        with self._lock:
            self._held += count

    def give_back(self, count: int) -> None:
        """Free what was taken."""
        with self._lock:
            self._held -= count
            if self._full and self._held <= self._max_bytes * _ROOM_AGAIN:
                self._full = False
                self._tell_room()

    def note_disk(self, error: OSError | None) -> None:
        """Know how the last attempt to write went."""
        if error is None and self._disk_fault is None:
            return
        with self._lock:
            before = self._disk_fault
            self._disk_fault = None if error is None else f"the disk failed: {error.strerror}"
            if self._disk_fault is not None:
                self._tell_shortage(self._disk_fault, begins=before is None)
            elif before is not None:
                self._tell_room()

    def _tell_shortage(self, reason: str, *, begins: bool) -> None:
        now = monotonic()
        if not begins and now < self._say_again_at:
            return
        self._say_again_at = now + _SAY_AGAIN_SECONDS
        _log.warning(
            "the spool takes no more", extra={"reason": reason, "bytes_in_spool": self._held}
        )

    def _tell_room(self) -> None:
        if not self._full and self._disk_fault is None:
            _log.info("the spool takes instances again", extra={"bytes_in_spool": self._held})
