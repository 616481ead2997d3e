"""A journal of instances on a durable disk: each process has a directory of its own in it.

    {root}/{journal}.lock                 flock'ed by the process that the journal belongs to
    {root}/{journal}/{number}.part        is being written, and was acknowledged to nobody
    {root}/{journal}/{entry}.entry        is whole and durable; {entry} is {number}-{mark}
    {root}/{journal}-{entry}.unreadable   cannot be read, and waits for a person

An entry is one file: the PS3.10 file as it goes into the bucket, then a trailer that says under
which key and with which metadata. The mark is a CRC of its SOP Instance UID: who looks for some
among thousands of entries need not open them all. It is durable once these have returned, in this
order:

    write    all of it into .part
    fsync    of the file         what .part holds survives a crash of the machine
    rename   .part to .entry     atomic: an .entry is never half a file
    fsync    of the directory    its name survives as well

So what a kill leaves behind is told by its name: a .part was never acknowledged and is removed, an
.entry is whole. A disk may still go bad, so whatever is read back is held against the SHA-256 in
its key, which was computed while the instance arrived. After a failed fsync the kernel may have
dropped what it could not write and say nothing the next time: such a file is given up at once.

A process that ends lets go of its lock, however it ends; any other may then take the journal over.
A lock on NFS can also be lost by a process that lives but was cut off for longer than its lease.
Then two empty one journal, which is harmless, for what they do is idempotent. And the first owner
cannot acknowledge what nobody will look for: its heir removes each .part and, when nothing else is
left, the directory, and whoever renames a file, or into a directory, that is gone hears of it: from
a local disk as ENOENT, from NFS as ESTALE.

Only open, write, fsync, rename, unlink and flock are asked of the file system, as EFS and NFSv4
have them: no O_TMPFILE, no link, no file that two processes write to.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import json
import logging
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, Self

from lenticular.archive import InstanceKey, content_sha256

from .custody import Buffered

_log: Final = logging.getLogger(__name__)

_NAME: Final = "journal-"
_PART: Final = ".part"
_ENTRY: Final = ".entry"
_LOCK: Final = ".lock"
_UNREADABLE: Final = ".unreadable"
_BEFORE_MARK: Final = "-"
#: Of what has a place in quarantine, whatever its UID.
_NO_MARK: Final = "quarantine"
#: At the very end of an entry: length of the PS3.10 file, length of the text before, CRC-32 of text
#: and lengths, and what this is.
_LENGTHS: Final = struct.Struct(">QL")
_CRC: Final = struct.Struct(">L")
_MAGIC: Final = b"LNTCJRN1"
END_BYTES: Final = _LENGTHS.size + _CRC.size + len(_MAGIC)
#: A key and two AE titles are shorter by far; what claims to be longer is no trailer.
_TEXT_MAX_BYTES: Final = 16 << 10
_PROBE_BYTES: Final = 1 << 20
#: Below this share of the limit a full spool counts as having room again.
_ROOM_AGAIN: Final = 0.9
#: A spool that goes on turning instances away is said to do so this often.
_SAY_AGAIN_SECONDS: Final = 60.0


def is_gone(error: Exception) -> bool:
    """Tell whether a file, or the directory it was in, was removed by somebody else."""
    return isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESTALE)


@contextlib.contextmanager
def _gone_or_not() -> Iterator[None]:
    """Be content when what is to be removed or looked at is gone already."""
    try:
        yield
    except OSError as error:
        if not is_gone(error):
            raise


class NoRoom(OSError):
    """The spool may not hold as much; the disk has no part in it."""

    def __init__(self, reason: str) -> None:
        """Say it as a disk with a quota does."""
        super().__init__(errno.EDQUOT, reason)


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


def _mark(key: str) -> str:
    placed = InstanceKey.parse(key)
    return _NO_MARK if placed is None else _mark_of(placed.sop_instance_uid)


def _mark_of(sop_instance_uid: str) -> str:
    return f"{zlib.crc32(sop_instance_uid.encode()):08x}"


def _crc(text: bytes, lengths: bytes) -> int:
    return zlib.crc32(lengths, zlib.crc32(text))


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


class Draft(io.FileIO):
    """A file of a journal that is still being written; closed before it is an entry, it is gone."""

    def __init__(self, journal: "Journal", name: str, room: Room) -> None:
        """Create the file, and take of `room` as it grows."""
        self.journal = journal
        self.name_in_journal = name
        #: Bytes taken of the room.
        self.taken = 0
        self._room = room
        self._is_entry = False
        super().__init__(journal.create_part(name), "rb+")

    def write(self, piece: Buffered) -> int:
        """Write all of it, or raise `OSError`."""
        with memoryview(piece) as view:
            length = len(view)
            self._room.take(length, beyond=self.taken)
            self.taken += length
            try:
                at = 0
                while at < length:
                    at += super().write(view[at:])
            except OSError as error:
                if not is_gone(error):
                    self._room.note_disk(error)
                raise
        return length

    def became_entry(self) -> None:
        """Know that it is not to be removed any more."""
        self._is_entry = True

    def close(self) -> None:
        """Close the file; unless it became an entry, remove it."""
        if self.closed:
            return
        try:
            super().close()
        finally:
            if not self._is_entry:
                self.journal.remove(f"{self.name_in_journal}{_PART}")
                self._room.give_back(self.taken)


class Journal:
    """A directory of entries that belongs to this process. Safe to share between threads."""

    def __init__(self, root: Path, name: str, lock: int) -> None:
        """Use a journal whose lock this process holds; raises `OSError` when it is not there."""
        self.name = name
        self._root = root
        self._lock = lock
        self._directory = os.open(root / name, os.O_RDONLY | os.O_DIRECTORY)
        self._numbers = itertools.count(1)

    @classmethod
    def create(cls, root: Path) -> Self:
        """Begin a journal of this process, or raise `OSError`."""
        lock = None
        while lock is None:
            name = f"{_NAME}{secrets.token_hex(8)}"
            lock = _acquire(root, name, os.O_CREAT)
        (root / name).mkdir()
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(root, name, lock)

    @classmethod
    def adopt(cls, root: Path, name: str) -> Self | None:
        """Take over a journal whose process has ended; None when it lives or there is none.

        Raises `OSError` when it cannot be opened.
        """
        # One without its directory is being ended; of one without its lock a person took it.
        lock = _acquire(root, name, os.O_CREAT if (root / name).is_dir() else 0)
        if lock is None:
            return None
        try:
            return cls(root, name, lock)
        except OSError as error:
            try:
                if not is_gone(error):
                    raise
                # Whoever began or ended it did not get to the other half.
                _remove_lock(root, name)
            finally:
                os.close(lock)
        return None

    # Writing

    def add(self, file: Buffered, key: str, trailer: bytes) -> "Entry":
        """Write an entry; it is durable when this returns. Raises `OSError`: there is none."""
        name = self._next_name()
        part = self.create_part(name)
        try:
            try:
                with memoryview(file) as view:
                    length = len(view) + len(trailer)
                    written = os.writev(part, (view, trailer))
                    while written < length:
                        rest = view[written:] or trailer[written - len(view) :]
                        written += os.write(part, rest)
                os.fsync(part)
            finally:
                os.close(part)
            entry = self._publish(name, key)
        except OSError:
            self.remove(f"{name}{_PART}")
            raise
        return Entry(self, entry, length)

    def draft(self, room: Room) -> Draft:
        """Begin an entry that is written piece by piece, or raise `OSError`."""
        return Draft(self, self._next_name(), room)

    def commit(self, draft: Draft, key: str) -> "Entry":
        """Make an entry of a draft of this journal, its trailer included; as `add` otherwise."""
        os.fsync(draft.fileno())
        entry = self._publish(draft.name_in_journal, key)
        draft.became_entry()
        return Entry(self, entry, draft.taken)

    def create_part(self, name: str) -> int:
        """Open a new file to be written and read."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        return os.open(f"{name}{_PART}", flags, 0o600, dir_fd=self._directory)

    def probe(self) -> None:
        """Write something and throw it away, or raise `OSError`."""
        name = self._next_name()
        part = self.create_part(name)
        try:
            os.write(part, bytes(_PROBE_BYTES))
            os.fsync(part)
        finally:
            os.close(part)
            self.remove(f"{name}{_PART}")

    def _next_name(self) -> str:
        return f"{next(self._numbers):012d}"

    def _publish(self, name: str, key: str) -> str:
        directory = self._directory
        entry = f"{name}{_BEFORE_MARK}{_mark(key)}"
        os.rename(f"{name}{_PART}", f"{entry}{_ENTRY}", src_dir_fd=directory, dst_dir_fd=directory)
        try:
            os.fsync(directory)
        except OSError:
            # Acknowledged to nobody; and what cannot be removed either is whole all the same.
            self.remove(f"{entry}{_ENTRY}")
            raise
        return entry

    # Reading

    def sweep(self) -> tuple[list["Entry"], int]:
        """Remove what nobody finished writing; return the entries, oldest first, and how many.

        Only for a journal that nobody writes to any more.
        """
        entries = []
        unfinished = 0
        with _gone_or_not(), os.scandir(self._directory) as found:
            for each in found:
                if each.name.endswith(_PART):
                    self.remove(each.name)
                    unfinished += 1
                elif each.name.endswith(_ENTRY):
                    with _gone_or_not():
                        about = each.stat()
                        name = each.name.removesuffix(_ENTRY)
                        entries.append(Entry(self, name, about.st_size, about.st_mtime))
        return sorted(entries, key=lambda entry: entry.name), unfinished

    def open_entry(self, name: str) -> int:
        """Open an entry to be read."""
        return os.open(f"{name}{_ENTRY}", os.O_RDONLY, dir_fd=self._directory)

    # Removing

    def remove_entry(self, name: str) -> None:
        """Remove an entry whose file is in the bucket."""
        self.remove(f"{name}{_ENTRY}")

    def set_aside(self, name: str) -> str:
        """Put an entry where it is not looked at again; return its file's name."""
        aside = f"{self.name}-{name}{_UNREADABLE}"
        os.rename(f"{name}{_ENTRY}", self._root / aside, src_dir_fd=self._directory)
        return aside

    def remove(self, file_name: str) -> None:
        """Remove a file; one that cannot be removed is found again by whoever comes next."""
        try:
            with _gone_or_not():
                os.unlink(file_name, dir_fd=self._directory)
        except OSError as error:
            _log.error(
                "a file of the spool cannot be removed",
                extra={"file": f"{self.name}/{file_name}", "reason": error.strerror},
            )

    def retire(self) -> bool:
        """End an empty journal; False when there is something in it."""
        try:
            with _gone_or_not():
                (self._root / self.name).rmdir()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        # Until this has worked it may be asked for again, so nothing is closed before.
        _remove_lock(self._root, self.name)
        os.close(self._directory)
        os.close(self._lock)
        return True


def journals(root: Path) -> list[str]:
    """Name all journals, those that are half there too, in a fixed order."""
    found = (path.name.removesuffix(_LOCK) for path in root.glob(f"{_NAME}*"))
    return sorted({name for name in found if "." not in name})


def trailers(root: Path, sop_instance_uids: Collection[str]) -> Iterator[Trailer]:
    """Read what may have one of these UIDs in any journal; what cannot be read is left out.

    Raises `OSError`. An entry that goes meanwhile is in the bucket.
    """
    marks = set(map(_mark_of, sop_instance_uids))
    for name in journals(root):
        with _gone_or_not(), os.scandir(root / name) as found:
            for each in found:
                if not each.name.endswith(_ENTRY):
                    continue
                _, marked, mark = each.name.removesuffix(_ENTRY).partition(_BEFORE_MARK)
                # Those of earlier versions have none.
                if marked and mark not in marks:
                    continue
                # Whoever uploads it sets it aside, and tells of it.
                with _gone_or_not(), contextlib.suppress(EntryUnreadable):
                    descriptor = os.open(each.path, os.O_RDONLY)
                    with EntryFile(descriptor, os.fstat(descriptor).st_size) as file:
                        yield file.trailer


def _acquire(root: Path, name: str, create: int) -> int | None:
    """Lock a journal; None when somebody else has it, or has ended it."""
    path = root / f"{name}{_LOCK}"
    try:
        # NFS gives an exclusive lock only on what may be written.
        lock = os.open(path, os.O_RDWR | create, 0o600)
    except OSError as error:
        if create or not is_gone(error):
            raise
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have removed the file since we opened it.
        if os.path.samestat(path.stat(), os.fstat(lock)):
            return lock
    except BlockingIOError:
        pass
    except OSError as error:
        if not is_gone(error):
            os.close(lock)
            raise
    os.close(lock)
    return None


def _remove_lock(root: Path, name: str) -> None:
    with _gone_or_not():
        (root / f"{name}{_LOCK}").unlink()


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry on the disk, trailer included in its length.

    `arrived` is in seconds since the epoch, 0 where whoever wrote it knows better.
    """

    journal: Journal
    name: str
    entry_bytes: int
    arrived: float = 0.0

    def open(self) -> "EntryFile":
        """Open it to be read, or raise `OSError` or `EntryUnreadable`."""
        return EntryFile(self.journal.open_entry(self.name), self.entry_bytes)

    def remove(self) -> None:
        """Remove it, for its file is in the bucket."""
        self.journal.remove_entry(self.name)

    def set_aside(self) -> str:
        """Put it where it is not looked at again; return its file's name."""
        return self.journal.set_aside(self.name)


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
