"""A journal of instances on a durable disk: each process has a directory of its own in it.

    {root}/{journal}.lock                 flock'ed by the process that the journal belongs to
    {root}/{journal}/{number}.part        is being written, and was acknowledged to nobody
    {root}/{journal}/{entry}.entry        is whole and durable; {entry} is {number}-{mark}
    {root}/{journal}-{entry}.unreadable   cannot be read, and waits for a person

The mark of an entry is a CRC of its SOP Instance UID: who looks for some among thousands of entries
need not open them all. What is in the file, `journal_entry` says. It is durable once these have
returned, in this order:

    write    all of it into .part
    fsync    of the file         what .part holds survives a crash of the machine
    rename   .part to .entry     atomic: an .entry is never half a file
    fsync    of the directory    its name survives as well

So what a kill leaves behind is told by its name: a .part was never acknowledged and is removed, an
.entry is whole. After a failed fsync the kernel may have dropped what it could not write and say
nothing the next time: such a file is given up at once.

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
import io
import itertools
import logging
import os
import secrets
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from lenticular.archive import InstanceKey

from .custody import Buffered
from .journal_entry import EntryFile, EntryUnreadable, Trailer
from .spool_room import Room

_log: Final = logging.getLogger(__name__)

_NAME: Final = "journal-"
_PART: Final = ".part"
_ENTRY: Final = ".entry"
_LOCK: Final = ".lock"
_UNREADABLE: Final = ".unreadable"
_BEFORE_MARK: Final = "-"
#: Of what has a place in quarantine, whatever its UID.
_NO_MARK: Final = "quarantine"
_PROBE_BYTES: Final = 1 << 20


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


def _mark(key: str) -> str:
    placed = InstanceKey.parse(key)
    return _NO_MARK if placed is None else _mark_of(placed.sop_instance_uid)


def _mark_of(sop_instance_uid: str) -> str:
    return f"{zlib.crc32(sop_instance_uid.encode()):08x}"


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

    def open(self) -> EntryFile:
        """Open it to be read, or raise `OSError` or `EntryUnreadable`."""
        return EntryFile(self.journal.open_entry(self.name), self.entry_bytes)

    def remove(self) -> None:
        """Remove it, for its file is in the bucket."""
        self.journal.remove_entry(self.name)

    def set_aside(self) -> str:
        """Put it where it is not looked at again; return its file's name."""
        return self.journal.set_aside(self.name)
