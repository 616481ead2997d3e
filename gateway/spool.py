"""Custody mode `spool`: an instance is acknowledged from a durable disk and goes to S3 afterwards.

    association ──▶ keep ──▶ journal (write, fsync, rename, fsync) ──▶ Success
                                 │
    uploaders  ◀── waiting ◀─────┘        PUT under the same key, with the same metadata
        │                                 and the same rules as in mode `s3`
        └──▶ S3 has it ──▶ the entry is removed

What becomes of an instance (its key, whether it is one for quarantine) is decided before it is
answered, in `storage`, for both modes alike; what an entry says of it is final. So what happens
here needs no DICOM: `Custody` is given what it would have been given without a spool, only later.

S3 may be away for as long as it likes: what it does not take is tried again for ever, with pauses
that grow, each entry in its turn so that none holds up the others. When the spool is full, or its
disk is, senders hear A700 and keep their copies.

Several processes may share the directory; each has a journal of its own there, of which `journal`
tells. One thread looks from time to time for journals whose process has ended, also right at the
start, and has them uploaded like our own.
"""

import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Final

from lenticular.archive import InstanceKey
from lenticular.errors import OperatorError, StoreUnavailable

from .custody import Buffered, Custody
from .journal import Draft, Entry, Journal, is_gone, journals, trailers
from .journal_entry import EntryUnreadable, Trailer
from .spool_room import NoRoom, Room

_log: Final = logging.getLogger(__name__)

#: What was just acknowledged is uploaded from memory, up to so many bytes; the rest is read back.
_FRESH_MAX_BYTES: Final = 64 << 20
_LOOK_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.1
#: Between two attempts of one uploader, and of one entry.
_LONGEST_PAUSE_SECONDS: Final = 3.0
_LONGEST_WAIT_SECONDS: Final = 10.0
#: What uploads get to end that are under way when the time is over.
_IN_HAND_SECONDS: Final = 2.0
#: When another uploader is at the same file.
_SAME_FILE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A file that is still in memory."""

    trailer: Trailer
    file: Buffered | bytearray


@dataclass(slots=True, eq=False)
class _Waiting:
    """An entry on its way to S3."""

    number: int
    entry: Entry
    fresh: _Fresh | None = None
    failures: int = 0


class _SameFileUnderWay(Exception):
    """Another uploader has the same file in hand."""


class Spool:
    """Keeps files in a journal until S3 has them. Safe to share between threads, not by fork."""

    def __init__(
        self, root: Path, custody: Custody, *, max_bytes: int, uploads: int, memory_bytes: int
    ) -> None:
        """Begin a journal in `root`.

        `max_bytes` is what this process may have in it; `uploads` go on at a time, each with at
        most `memory_bytes` in memory. Raises `OperatorError` when `root` cannot be written to.
        """
        self._root = root
        self._custody = custody
        self._memory_bytes = memory_bytes
        self._room = Room(max_bytes)
        try:
            self._journal = Journal.create(root)
        except OSError as error:
            raise OperatorError(
                f"LENTICULAR_SPOOL_DIR cannot be used: {error.strerror}; it must be a directory "
                "this process may write to, on a file system with locks"
            ) from error
        self._replacing = threading.Lock()
        self._adopted: set[Journal] = set()
        #: Names of journals that cannot be looked after.
        self._failing: set[str] = set()
        self._changed = threading.Condition()
        #: When each entry arrived, by its number; those in hand too.
        self._arrived: dict[int, float] = {}
        self._left: Counter[Journal] = Counter()
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, _Waiting]] = []
        self._fresh_bytes = 0
        self._keys_in_hand: set[str] = set()
        self._s3_fails = False
        self._closing = threading.Event()
        self._stopping = threading.Event()
        self._looker = threading.Thread(target=self._look, name="spool", daemon=True)
        self._uploaders = [
            threading.Thread(target=self._upload_all, name=f"upload-{number}", daemon=True)
            for number in range(uploads)
        ]

    def start(self) -> None:
        """Upload what is there and what comes, in threads of its own."""
        for thread in (self._looker, *self._uploaders):
            thread.start()

    def close(self, deadline: float | None) -> None:
        """Upload what is left until `deadline`, as `monotonic` tells time; the rest stays.

        Without a deadline nobody asked for an end, and nothing is waited for.
        """
        deadline = deadline or 0.0
        self._closing.set()
        self._looker.join(_LOOK_SECONDS)
        with self._changed:
            self._changed.wait_for(lambda: not self._arrived, max(0.0, deadline - monotonic()))
            self._stopping.set()
            self._changed.notify_all()
        cut = monotonic() + _IN_HAND_SECONDS
        for thread in self._uploaders:
            thread.join(max(0.0, cut - monotonic()))
        left = len(self._arrived)
        if left:
            _log.warning(
                "instances are left in the spool",
                extra={"instances": left, "bytes_in_spool": self._room.held},
            )
        if not self._looker.is_alive():
            for journal in (self._journal, *self._adopted):
                with contextlib.suppress(OSError):
                    journal.retire()

    def shortage(self) -> str | None:
        """Say why an instance would be turned away now, or `None`."""
        return self._room.shortage()

    def gauges(self) -> dict[str, float]:
        """Tell how much is in the spool and for how many seconds the oldest has been."""
        with self._changed:
            depth = len(self._arrived)
            oldest = min(self._arrived.values(), default=None)
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        return {
            "SpoolDepth": depth,
            "SpoolBytes": self._room.held,
            "SpoolOldestAge": round(age, 3),
        }

    # As `Custody` has them

    def scratch(self) -> Draft:
        """Open a file for an instance too long for memory, or raise `OSError`.

        It is in the journal already, so that what it holds is written once.
        """
        journal = self._journal
        try:
            return journal.draft(self._room)
        except OSError as error:
            self._note(error, journal)
            raise

    def keep(self, key: str, file: Buffered | bytearray, metadata: Mapping[str, str]) -> bool:
        """Write a file into the journal and return once it is durable: True.

        Raises:
            StoreUnavailable: the spool did not take it, and it is not there.
        """
        with memoryview(file) as view:
            trailer = Trailer(key, metadata, len(view))
        tail = trailer.encode()
        taken = trailer.file_bytes + len(tail)
        try:
            self._room.take(taken)
        except OSError as error:
            raise _unavailable(error) from error
        journal = self._journal
        try:
            entry = journal.add(file, key, tail)
        except OSError as error:
            self._room.give_back(taken)
            self._note(error, journal)
            raise _unavailable(error) from error
        self._room.note_disk(None)
        self._enqueue(entry, _Fresh(trailer, file))
        return True

    def keep_large(self, key: str, file: IO[bytes], metadata: Mapping[str, str]) -> bool:
        """Make an entry of what `scratch` opened; as `keep` otherwise."""
        assert isinstance(file, Draft)
        try:
            file.seek(0, 2)
            file.write(Trailer(key, metadata, file.tell()).encode())
            # Not of the journal that is ours by now: its files have the same numbers.
            entry = file.journal.commit(file, key)
        except OSError as error:
            self._note(error, file.journal)
            raise _unavailable(error) from error
        self._room.note_disk(None)
        self._enqueue(entry)
        return True

    def _note(self, error: OSError, journal: Journal) -> None:
        """Draw from what a journal did not take what it means for the next instance."""
        if is_gone(error):
            self._replace(journal)
        elif not isinstance(error, NoRoom):
            self._room.note_disk(error)

    def _replace(self, journal: Journal) -> None:
        """Begin another journal: we were cut off and taken for dead, and our heir emptied it."""
        with self._replacing:
            if self._journal is not journal:
                return
            try:
                self._journal = Journal.create(self._root)
            except OSError as error:
                self._room.note_disk(error)
            else:
                _log.warning("the journal went to another process; a new one is begun")

    def _enqueue(self, entry: Entry, fresh: _Fresh | None = None) -> None:
        with self._changed:
            if fresh is not None and (
                self._fresh_bytes + fresh.trailer.file_bytes > _FRESH_MAX_BYTES
            ):
                fresh = None
            if fresh is not None:
                self._fresh_bytes += fresh.trailer.file_bytes
            waiting = _Waiting(next(self._numbers), entry, fresh)
            self._arrived[waiting.number] = entry.arrived or time.time()
            self._left[entry.journal] += 1
            heapq.heappush(self._waiting, (0.0, waiting.number, waiting))
            self._changed.notify()

    def arriving(self, sop_instance_uids: Collection[str]) -> Iterator[str]:
        """Yield keys of what is in the spool under these UIDs, whichever process has it in hand.

        Raises:
            StoreUnavailable: the disk failed.
        """
        try:
            for trailer in trailers(self._root, sop_instance_uids):
                key = InstanceKey.parse(trailer.key)
                if key is not None and key.sop_instance_uid in sop_instance_uids:
                    yield trailer.key
        except OSError as error:
            raise StoreUnavailable(f"the spool cannot be read: {error.strerror}") from error

    # In the threads that upload

    def _upload_all(self) -> None:
        failures = 0
        while (waiting := self._next()) is not None:
            try:
                self._upload(waiting)
            except _SameFileUnderWay:
                self._put_off(waiting, _SAME_FILE_SECONDS)
            except EntryUnreadable as error:
                self._set_aside(waiting, str(error))
            except Exception as error:  # noqa: BLE001 - nothing may end this thread
                if is_gone(error):
                    # Whoever else had this journal in hand has uploaded it.
                    self._done(waiting)
                    continue
                failures += 1
                waiting.failures += 1
                self._note_failure(error)
                self._put_off(waiting, _pause(waiting.failures, _LONGEST_WAIT_SECONDS))
                self._stopping.wait(_pause(failures, _LONGEST_PAUSE_SECONDS))
            else:
                failures = 0
                self._note_success()
                waiting.entry.remove()
                self._done(waiting)

    def _next(self) -> _Waiting | None:
        """Wait for an entry that is due; None when there will be no more."""
        with self._changed:
            while not self._stopping.is_set():
                wait = None
                if self._waiting:
                    wait = self._waiting[0][0] - monotonic()
                    if wait <= 0:
                        return heapq.heappop(self._waiting)[2]
                self._changed.wait(wait)
        return None

    def _upload(self, waiting: _Waiting) -> None:
        """Put a file into the bucket; raises what says that it is not there."""
        if waiting.fresh is not None:
            trailer = waiting.fresh.trailer
            with self._in_hand(trailer.key):
                self._custody.keep(trailer.key, waiting.fresh.file, trailer.metadata)
            return
        with waiting.entry.open() as file, self._in_hand(file.trailer.key):
            trailer = file.trailer
            if trailer.file_bytes <= self._memory_bytes:
                self._custody.keep(trailer.key, file.whole(), trailer.metadata)
                return
            try:
                self._custody.keep_large(trailer.key, file, trailer.metadata)
            except Exception as error:
                if file.damage is not None:
                    raise EntryUnreadable(file.damage) from error
                raise

    @contextlib.contextmanager
    def _in_hand(self, key: str) -> Iterator[None]:
        """Have a key for oneself: of the same file, sent twice, one upload is enough at a time."""
        with self._changed:
            if key in self._keys_in_hand:
                raise _SameFileUnderWay
            self._keys_in_hand.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._keys_in_hand.discard(key)

    def _put_off(self, waiting: _Waiting, seconds: float) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (monotonic() + seconds, waiting.number, waiting))
            self._changed.notify()

    def _set_aside(self, waiting: _Waiting, reason: str) -> None:
        facts: dict[str, str | None] = {"journal": waiting.entry.journal.name, "reason": reason}
        try:
            facts["file"] = waiting.entry.set_aside()
        except OSError as error:
            facts["left_in_place"] = error.strerror
        _log.error("an entry of the spool cannot be read and is not uploaded", extra=facts)
        self._done(waiting)

    def _done(self, waiting: _Waiting) -> None:
        """Forget an entry that is in the journal no more."""
        self._room.give_back(waiting.entry.entry_bytes)
        with self._changed:
            if waiting.fresh is not None:
                self._fresh_bytes -= waiting.fresh.trailer.file_bytes
            del self._arrived[waiting.number]
            self._left[waiting.entry.journal] -= 1
            if not self._arrived:
                self._changed.notify_all()

    def _note_failure(self, error: Exception) -> None:
        if not isinstance(error, (StoreUnavailable, OSError)):
            _log.error("an upload from the spool failed", exc_info=error)
        with self._changed:
            before, self._s3_fails = self._s3_fails, True
        if not before:
            _log.warning("the spool cannot be uploaded", extra={"reason": str(error)})

    def _note_success(self) -> None:
        if self._s3_fails:
            with self._changed:
                before, self._s3_fails = self._s3_fails, False
            if before:
                _log.info("the spool can be uploaded again")

    # In the thread that looks after the directory

    def _look(self) -> None:
        while not self._closing.is_set():
            try:
                self._retire_adopted()
                self._adopt_orphans()
                if self._room.disk_failed:
                    self._probe()
            except Exception:  # noqa: BLE001 - nothing may end this thread
                _log.exception("the spool's directory cannot be looked after")
            self._closing.wait(_LOOK_SECONDS)

    @contextlib.contextmanager
    def _telling_once(self, name: str) -> Iterator[None]:
        """Have a journal that fails hold up no other, and tell of it when that begins."""
        try:
            yield
        except OSError as error:
            if name not in self._failing:
                self._failing.add(name)
                _log.error(
                    "a journal cannot be looked after",
                    extra={"journal": name, "reason": error.strerror},
                )
        else:
            self._failing.discard(name)

    def _adopt_orphans(self) -> None:
        held = {journal.name for journal in (self._journal, *self._adopted)}
        for name in journals(self._root):
            if name in held:
                continue
            with self._telling_once(name):
                journal = Journal.adopt(self._root, name)
                if journal is not None:
                    self._adopt(journal)

    def _adopt(self, journal: Journal) -> None:
        self._adopted.add(journal)
        entries, unfinished = journal.sweep()
        count = sum(entry.entry_bytes for entry in entries)
        self._room.occupy(count)
        for entry in entries:
            self._enqueue(entry)
        if entries or unfinished:
            _log.info(
                "a journal is taken over",
                extra={
                    "journal": journal.name,
                    "instances": len(entries),
                    "bytes_in_journal": count,
                    "unfinished": unfinished,
                },
            )

    def _retire_adopted(self) -> None:
        for journal in list(self._adopted):
            if self._left[journal]:
                continue
            del self._left[journal]
            with self._telling_once(journal.name):
                if journal.retire():
                    self._adopted.discard(journal)
                else:
                    # Its first owner lives after all, or something could not be moved or removed.
                    self._adopt(journal)

    def _probe(self) -> None:
        journal = self._journal
        try:
            journal.probe()
        except OSError as error:
            self._note(error, journal)
        else:
            self._room.note_disk(None)


def _pause(failures: int, longest: float) -> float:
    return min(longest, _FIRST_PAUSE_SECONDS * float(1 << min(failures - 1, 16)))


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"the spool did not take the file: {error.strerror}")
