"""Files that are read piece by piece, wherever they are: in memory, on disk or in the bucket.

What is done with the frames of an image needs one of them at a time, so that an image of gigabytes
passes through a process of megabytes.
"""

import io
from collections.abc import Callable
from typing import IO, Final, Protocol, runtime_checkable

#: A request to S3 takes tens of milliseconds whatever it asks for; frames may be of some kilobytes.
_READ_AHEAD_BYTES: Final = 8 << 20


@runtime_checkable
class ByteRanges(Protocol):
    """A file of `size` bytes."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def read(self, start: int, length: int) -> memoryview:
        """Return `length` bytes from `start` on, fewer only where the file ends."""


class InMemory:
    """A file that is in memory; its ranges are views of it."""

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        """Read `content` without a copy."""
        self._content = memoryview(content).cast("B")
        self.size = len(self._content)

    def read(self, start: int, length: int) -> memoryview:
        """Return a view."""
        return self._content[start : start + length]


class OnDisk:
    """A file that is open for reading; only this object may move its position."""

    def __init__(self, file: IO[bytes]) -> None:
        """Read `file`, whose length must not change any more."""
        self._file = file
        self.size = file.seek(0, io.SEEK_END)

    def read(self, start: int, length: int) -> memoryview:
        """Return bytes read for this call."""
        self._file.seek(start)
        return memoryview(self._file.read(length))


class ReadAhead:
    """A file of which each range costs a request: more is asked for, and what is ahead kept."""

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        size: int,
        *,
        ahead_bytes: int = _READ_AHEAD_BYTES,
    ) -> None:
        """Get ranges by `fetch(start, length)`."""
        self._fetch = fetch
        self._ahead_bytes = ahead_bytes
        self._kept_start = 0
        self._kept = memoryview(b"")
        self.size = size

    def read(self, start: int, length: int) -> memoryview:
        """Return a view of what is kept, asking for the rest first."""
        length = min(length, self.size - start)
        if length <= 0:
            return memoryview(b"")
        at = start - self._kept_start
        if not 0 <= at <= len(self._kept) - length:
            head = self._kept[at:] if 0 <= at < len(self._kept) else memoryview(b"")
            missing = start + len(head)
            wanted = max(length - len(head), min(self._ahead_bytes, self.size - missing))
            fetched = self._fetch(missing, wanted)
            self._kept = memoryview(bytes(head) + fetched if head else fetched)
            self._kept_start, at = start, 0
        return self._kept[at : at + length]
