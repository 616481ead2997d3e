"""An entry of a journal: an instance as one file on a durable disk.

It is the PS3.10 file as it goes into the bucket, then a trailer that says under which key and with
which metadata. A disk may go bad, so whatever is read back is held against the SHA-256 in the key,
which was computed while the instance arrived.
"""

import hashlib
import io
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from lenticular.archive import content_sha256

from .custody import Buffered

#: At the very end of an entry: length of the PS3.10 file, length of the text before, CRC-32 of text
#: and lengths, and what this is.
_LENGTHS: Final = struct.Struct(">QL")
_CRC: Final = struct.Struct(">L")
_MAGIC: Final = b"LNTCJRN1"
END_BYTES: Final = _LENGTHS.size + _CRC.size + len(_MAGIC)
#: A key and two AE titles are shorter by far; what claims to be longer is no trailer.
_TEXT_MAX_BYTES: Final = 16 << 10


class EntryUnreadable(Exception):
    """An entry is not what was written; the message says in what, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Trailer:
    """What the bucket is to be told of a file, key and metadata, and the length of the file."""

    key: str
    metadata: Mapping[str, str]
    file_bytes: int

    def encode(self) -> bytes:
        """Write what follows the file in its entry."""
        text = json.dumps([self.key, dict(self.metadata)]).encode()
        lengths = _LENGTHS.pack(self.file_bytes, len(text))
        return b"".join((text, lengths, _CRC.pack(_crc(text, lengths)), _MAGIC))

    @classmethod
    def decode(cls, tail: bytes, entry_bytes: int) -> Self:
        """Read the trailer of an entry that is so long, given its last bytes.

        Raises:
            EntryUnreadable: it does not end as an entry does.
        """
        at = len(tail) - END_BYTES
        if at < 0 or not tail.endswith(_MAGIC):
            raise EntryUnreadable("it does not end as an entry does")
        file_bytes, text_bytes = _LENGTHS.unpack_from(tail, at)
        (crc,) = _CRC.unpack_from(tail, at + _LENGTHS.size)
        text = tail[max(0, at - text_bytes) : at]
        lengths = tail[at : at + _LENGTHS.size]
        if file_bytes + text_bytes + END_BYTES != entry_bytes or crc != _crc(text, lengths):
            raise EntryUnreadable("its trailer is damaged")
        key, metadata = json.loads(text)
        return cls(key, metadata, file_bytes)


def _crc(text: bytes, lengths: bytes) -> int:
    return zlib.crc32(lengths, zlib.crc32(text))


class EntryFile(io.RawIOBase):
    """The PS3.10 file in an entry, without the trailer, to be read from its start to its end.

    The read that comes to the end raises `EntryUnreadable` when that was not the file whose
    SHA-256 is in the key: it has then not been given away whole.

    Attributes:
        trailer: what the entry says of the file
        damage: what a read has raised `EntryUnreadable` for, if so
    """

    def __init__(self, descriptor: int, entry_bytes: int) -> None:
        """Take over a file descriptor; raises `EntryUnreadable` or `OSError`, and it is closed."""
        self._descriptor = descriptor
        self._position = 0
        self._hashed = 0
        self._digest = hashlib.sha256()
        self.damage: str | None = None
        try:
            tail = os.pread(
                descriptor,
                min(entry_bytes, END_BYTES + _TEXT_MAX_BYTES),
                max(0, entry_bytes - END_BYTES - _TEXT_MAX_BYTES),
            )
            self.trailer = Trailer.decode(tail, entry_bytes)
        except BaseException:
            # Not the descriptor alone: the finalizer would close it again, or what is there then.
            self.close()
            raise

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes, for S3's client asks where the end is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere in the file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.trailer.file_bytes}
        self._position = start[whence] + offset
        return self._position

    def readinto(self, buffer: Buffered, /) -> int:
        """Read on."""
        size = self.trailer.file_bytes
        with memoryview(buffer).cast("B") as whole, whole[: max(0, size - self._position)] as view:
            count = os.preadv(self._descriptor, [view], self._position) if view else 0
            if view and not count:
                self._damage("it is shorter than its trailer says")
            if self._position == self._hashed:
                self._digest.update(view[:count])
                self._hashed += count
        self._position += count
        expected = content_sha256(self.trailer.key)
        if self._hashed == size and self._digest.hexdigest() != expected:
            self._damage("its file is not the one that its key names")
        return count

    def whole(self) -> bytearray:
        """Read all of it in one piece, from the start."""
        file = bytearray(self.trailer.file_bytes)
        with memoryview(file) as view:
            while self._position < len(view):
                self.readinto(view[self._position :])
        return file

    def _damage(self, how: str) -> None:
        self.damage = how
        raise EntryUnreadable(how)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
