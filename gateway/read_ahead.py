"""Files of a retrieval on their way from the bucket: ahead of their turn, in parts, in parallel.

    the index ─▶ instances ─▶ parts asked for ─▶ parts here ─▶ sent, in order
                              └── no more than `budget_bytes` ──┘

S3's latency is paid once and not for each instance, and a file of any length takes no more memory
than the budget. One thread sends and asks for more; others only wait for S3 and for the index.

A file of several parts is being sent before all of it is here, and half a data set on the wire can
be taken back only by an abort. So nothing is sent before the first part is here, and a later one
that S3 does not give is asked for again, for a while. Any part that S3 keeps us waiting for is
asked for a second time. Where the object has gone meanwhile, as it does when an original is
retired, `restore` may still have the file.

Whatever else it takes to send an instance, its forms and what the index says of it now, is had by
`OutgoingFile.form` and `OutgoingFile.told`: whoever waits looks a few times a second whether the
instance is still wanted, and does not wait for ever.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, Queue
from time import monotonic
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from lenticular.archive import Form, InstanceKey
from lenticular.errors import InstanceMissing, StoreUnavailable
from lenticular.index_items import Item, converted
from lenticular.part10 import data_set_offset

from .abandoned import ABANDONED
from .backoff import persistently
from .custody import Custody
from .wire import LOOK_SECONDS, Interrupted

#: With 30 ms for each GET these bring a thousand instances a second.
_FETCHES_AT_A_TIME: Final = 32
#: Parts that wait to be sent, so that of small instances not thousands are held.
_PARTS_AHEAD: Final = 64
_PARTS_OF_BUDGET: Final = 8
#: How long may take what is waited for in its turn, such as a later part, however often it is asked
#: for. Below the 30 s after which impatient receivers abort a message that does not go on.
_LONGEST_WAIT_SECONDS: Final = 20.0
#: After this long it is asked for a second time, for it may be the one connection that hangs.
_PATIENT_SECONDS: Final = 5.0
#: Pages of the index, of several hundred instances each.
_PAGES_AHEAD: Final = 2

_T = TypeVar("_T")


class KeptWaiting(StoreUnavailable):
    """What was waited for did not come, and has been waited for long enough."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What sending an instance takes to know of it.

    `object_key`, `size` and `transfer_syntax_uid` are those of the original. Where that is retired
    a form is read in its place.
    """

    object_key: str
    size: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    forms: tuple[Form, ...] = ()
    retired: bool = False

    @classmethod
    def from_item(cls, item: Item) -> Self:
        """Read it from an instance's item of the index."""
        became = converted(item)
        return cls(
            str(item["object_key"]),
            int(str(item["size"])),
            str(item["sop_class_uid"]),
            str(item["uid"]),
            str(item["transfer_syntax_uid"]),
            became.forms,
            # Without a form there is nothing else to be read, whatever became of the original.
            retired=became.retired and bool(became.forms),
        )

    @property
    def read_key(self) -> str:
        """The object that is read."""
        return self.forms[0].object_key if self.retired else self.object_key

    @property
    def read_size(self) -> int:
        """Its size in bytes."""
        return self.forms[0].size if self.retired else self.size

    @property
    def sha256(self) -> str:
        """The SHA-256 of the original's file, by its key."""
        key = InstanceKey.parse(self.object_key)
        return key.sha256 if key else ""

    @property
    def study_instance_uid(self) -> str:
        """The study, by the original's key."""
        key = InstanceKey.parse(self.object_key)
        return key.study_instance_uid if key else ""


@dataclass(slots=True)
class _Part:
    """Bytes of a file that have been asked for.

    Of the first part `waited_since` is when its turn came, and `again` a second request for it.
    """

    start: int
    length: int
    bytes: Future[memoryview]
    waited_since: float | None = None
    again: Future[memoryview] | None = None

    @property
    def came_by(self) -> Future[memoryview]:
        """The request that brought the bytes, else one that still may, else the first one."""
        asked = [self.bytes] if self.again is None else [self.bytes, self.again]
        # Looked at once: what is under way may end at any moment.
        under_way = [each for each in asked if not each.done()]
        for each in asked:
            if each not in under_way and each.exception() is None:
                return each
        return (under_way or asked)[0]


class OutgoingFile:
    """One file, whose parts come in order while it is at the head of its `ReadAhead`."""

    def __init__(self, stored: Stored, ahead: "ReadAhead") -> None:
        """Have nothing of it yet."""
        self.stored = stored
        self.parts: deque[_Part] = deque()
        self._ahead = ahead

    def has_begun(self, seconds: float) -> bool:
        """Wait for its first bytes; tell whether they are here, or known not to come."""
        self._ahead.ask_for_more()
        if not self.parts or self.parts[0].came_by.done():
            return True
        return self._ahead.await_first(self.stored, self.parts[0], seconds)

    def pieces(self) -> Iterator[memoryview]:
        """Return the file in pieces, when the first of them is there.

        Raises:
            InstanceMissing: the bucket holds no such object.
            StoreUnavailable: S3 did not give it. The iterator may raise it, too.
            Interrupted: nobody wants it any more. Only the iterator raises it.
        """
        return self._pieces(self._first_part(), may_break_off=True)

    def data_set(self) -> Iterator[memoryview]:
        """Return the encoded data set as `pieces` returns the file, to be sent as it comes.

        Raises CannotUnderstand when the object is not a file that this node wrote, too.
        """
        head = self._first_part()
        data_set = None if head is None else head[data_set_offset(head) :]
        return self._pieces(data_set, may_break_off=self._ahead.may_break_off)

    def form(self, form: Form, *, may_break_off: bool) -> Iterator[memoryview]:
        """Return another object in pieces, which is not read before it is asked for.

        The iterator raises what that of `pieces` does; `Interrupted` only if it `may_break_off`.
        """
        return self._ahead.read(form.object_key, form.size, may_break_off=may_break_off)

    def told(self, ask: Callable[[], _T], *, may_break_off: bool) -> _T:
        """Return what the index tells of the instance.

        Raises:
            StoreUnavailable: it did not tell, or not in time.
            Interrupted: nobody wants it any more, and it `may_break_off`.
        """
        return self._ahead.wait_for(ask, may_break_off=may_break_off)

    def _pieces(self, piece: memoryview | None, *, may_break_off: bool) -> Iterator[memoryview]:
        while piece is not None:
            yield piece
            part = self._next_part()
            if part is None:
                return
            try:
                piece = self._later(part, may_break_off=may_break_off)
            except InstanceMissing as error:
                try:
                    whole = self._ahead.restore(self, may_break_off=may_break_off)
                except InstanceMissing:
                    # It was there a moment ago. Whoever asks again is told what became of it.
                    raise StoreUnavailable("the object went while it was being read") from error
                yield whole[part.start :]
                return

    def _first_part(self) -> memoryview | None:
        part = self._next_part()
        if part is None:
            return None
        try:
            return part.came_by.result()
        finally:
            self._ahead.let_go(part)

    def _later(self, part: _Part, *, may_break_off: bool) -> memoryview:
        try:
            return self._ahead.insist(self.stored.read_key, part, may_break_off=may_break_off)
        finally:
            self._ahead.let_go(part)

    def _next_part(self) -> _Part | None:
        # Of other files only when this one is on its way: its receiver waits for us now.
        if self._ahead.is_to_ask_for(self):
            self._ahead.ask_for_more()
        return self.parts.popleft() if self.parts else None


class Restore(Protocol):
    """Returns a whole file of which the object has gone, or raises `InstanceMissing`."""

    def __call__(self, file: OutgoingFile, *, may_break_off: bool) -> memoryview:
        """Take it from what `OutgoingFile.form` gives."""


def _not_restored(file: OutgoingFile, *, may_break_off: bool) -> memoryview:  # noqa: ARG001 - the interface
    raise InstanceMissing(f"the bucket holds no object {file.stored.read_key}")


class ReadAhead:
    """The files of some instances, in order; used by one thread within a `with` block.

    Attributes:
        failure: why the instances broke off, once all that came before has been sent
        was_interrupted: whether they ended because nobody wanted to wait for more of them
        may_break_off, restore: as they were given
    """

    def __init__(  # noqa: PLR0913 - what it reads, and who may stop it
        self,
        custody: Custody,
        pages: Iterable[list[Stored]],
        *,
        budget_bytes: int,
        is_wanted: Callable[[Stored], bool] = lambda _: True,
        restore: Restore = _not_restored,
        interrupted: Callable[[], bool] = lambda: False,
        may_break_off: bool = True,
    ) -> None:
        """Read files from `custody`, but none that `is_wanted` says will not be sent.

        `interrupted` is asked while we wait for S3, but within a data set that is being sent only
        if it may be broken off there.
        """
        self.failure: StoreUnavailable | None = None
        self.was_interrupted = False
        self._custody = custody
        self._budget_bytes = budget_bytes
        self._part_bytes = budget_bytes // _PARTS_OF_BUDGET
        self._is_wanted = is_wanted
        self.restore = restore
        self._interrupted = interrupted
        self.may_break_off = may_break_off
        self._pool = ThreadPoolExecutor(_FETCHES_AT_A_TIME, "read-ahead")
        self._page: deque[Stored] = deque()
        #: What the index has given, and at the end nothing or why there is no more.
        self._pages: Queue[list[Stored] | Exception] = Queue(_PAGES_AHEAD)
        self._all_pages_are_here = False
        self._stopped = threading.Event()
        self._under_way: set[Future[Any]] = set()
        self._submit(self._read_index, pages)
        self._files: deque[OutgoingFile] = deque()
        self._not_asked_for: deque[tuple[OutgoingFile, int, int]] = deque()
        self._parts_ahead = 0
        self._bytes_ahead = 0
        #: Parts that are not wanted any more, and may come all the same.
        self._on_their_way: list[_Part] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        while not self._pages.empty():
            self._pages.get_nowait()
        # Whoever cancelled does not wait for an S3 that is slow to give what nobody wants any more.
        self._pool.shutdown(wait=False, cancel_futures=True)
        ABANDONED.leave(list(self._under_way))

    def head(self) -> OutgoingFile | None:
        """Return the file whose turn it is; None at the end, be it that of a `failure`.

        It is also the end where the index keeps us waiting and we are interrupted.
        """
        self.ask_for_more()
        return self._files[0] if self._files else None

    def drop(self) -> None:
        """Go on to the next file, whatever is left of this one."""
        file = self._files.popleft()
        while self._not_asked_for and self._not_asked_for[0][0] is file:
            self._not_asked_for.popleft()
        for part in file.parts:
            self.let_go(part)

    def known(self) -> Iterator[Stored]:
        """Yield the instances whose turn is near."""
        return (file.stored for file in self._files)

    def rest(self) -> Iterator[Stored]:
        """Yield every instance that is left, and read no file any more."""
        self._is_wanted = lambda _: False
        self._not_asked_for.clear()
        while (file := self.head()) is not None:
            yield file.stored
            self.drop()

    def ask_for_more(self) -> None:
        """Ask for parts in order, as long as the budget allows, and always for the next one."""
        while self._parts_ahead < _PARTS_AHEAD and len(self._files) <= _PARTS_AHEAD:
            if not self._not_asked_for and not self._add_file():
                return
            if not self._not_asked_for:
                continue
            file, start, length = self._not_asked_for[0]
            taken = self._bytes_ahead + self._bytes_on_their_way()
            if self._bytes_ahead and taken + length > self._budget_bytes:
                return
            self._not_asked_for.popleft()
            asked = self._submit(self._custody.get, file.stored.read_key, start, length)
            file.parts.append(_Part(start, length, asked))
            self._parts_ahead += 1
            self._bytes_ahead += length

    def await_first(self, stored: Stored, part: _Part, seconds: float) -> bool:
        """Wait for a first part, and ask for it a second time when that takes long.

        Tell whether it is here, or known not to come.
        """
        if part.waited_since is None:
            part.waited_since = monotonic()
        if part.again is None and monotonic() > part.waited_since + _PATIENT_SECONDS:
            key = stored.read_key
            part.again = self._submit(self._custody.get, key, part.start, part.length)
        if not part.came_by.done():
            asked = [part.bytes] if part.again is None else [part.bytes, part.again]
            wait([each for each in asked if not each.done()], seconds, FIRST_COMPLETED)
        return part.came_by.done()

    def read(self, key: str, size: int, *, may_break_off: bool) -> Iterator[memoryview]:
        """Read an object now, part by part, each of which is insisted on."""
        for start in range(0, size, self._part_bytes):
            length = min(self._part_bytes, size - start)
            asked = self._submit(self._custody.get, key, start, length)
            yield self.insist(key, _Part(start, length, asked), may_break_off=may_break_off)

    def wait_for(self, ask: Callable[[], _T], *, may_break_off: bool) -> _T:
        """Return what `ask` returns in a thread of its own.

        Raises:
            StoreUnavailable: it did not return in time.
            Interrupted: nobody wants it any more, and it `may_break_off`.
        """
        asked = self._submit(ask)
        deadline = monotonic() + _LONGEST_WAIT_SECONDS
        while not wait([asked], LOOK_SECONDS).done:
            if may_break_off and self._interrupted():
                raise Interrupted
            if monotonic() > deadline:
                raise KeptWaiting("the index kept us waiting")
        return asked.result()

    def is_to_ask_for(self, file: OutgoingFile) -> bool:
        """Tell whether there are parts of the file at the head that were not asked for yet."""
        return bool(self._not_asked_for) and self._not_asked_for[0][0] is file

    def insist(self, key: str, part: _Part, *, may_break_off: bool) -> memoryview:
        """Return a part that must come, because what is before it has been taken.

        Raises:
            InstanceMissing: the bucket does not hold the object any more.
            StoreUnavailable: S3 did not give it in time, asked twice or while it failed.
            Interrupted: nobody wants it any more, and it `may_break_off`.
        """
        began = monotonic()
        again: Future[memoryview] | None = None
        waiting: set[Future[memoryview]] = {part.bytes}
        while (left := began + _LONGEST_WAIT_SECONDS - monotonic()) > 0:
            done, waiting = wait(waiting, min(LOOK_SECONDS, left), FIRST_COMPLETED)
            for each in done:
                error = each.exception()
                if error is None:
                    return each.result()
                if each is again or not isinstance(error, (InstanceMissing, StoreUnavailable)):
                    raise error
            if again is None and (done or monotonic() > began + _PATIENT_SECONDS):
                again = self._submit(self._ask_again, key, part, left)
                waiting.add(again)
            if not done and may_break_off and self._interrupted():
                raise Interrupted
        raise KeptWaiting("S3 kept us waiting for the rest of the file")

    def _ask_again(self, key: str, part: _Part, seconds: float) -> memoryview:
        """Return bytes of a file that did not come; once more, or while S3 fails for a while."""
        return persistently(
            lambda: self._custody.get(key, part.start, part.length),
            seconds,
            is_transient=lambda error: isinstance(error, StoreUnavailable),
        )

    def let_go(self, part: _Part) -> None:
        """Give back to the budget what a part took of it; if it may still come, when it has."""
        self._parts_ahead -= 1
        self._bytes_ahead -= part.length
        if not part.bytes.cancel():
            self._on_their_way.append(part)

    def _bytes_on_their_way(self) -> int:
        self._on_their_way = [each for each in self._on_their_way if not each.bytes.done()]
        return sum(each.length for each in self._on_their_way)

    def _submit(self, ask: Callable[..., _T], *arguments: object) -> Future[_T]:
        asked = self._pool.submit(ask, *arguments)
        self._under_way.add(asked)
        asked.add_done_callback(self._under_way.discard)
        return asked

    def _add_file(self) -> bool:
        stored = self._next_instance()
        if stored is None:
            return False
        file = OutgoingFile(stored, self)
        self._files.append(file)
        if self._is_wanted(stored):
            self._not_asked_for.extend(
                (file, start, min(self._part_bytes, stored.read_size - start))
                for start in range(0, stored.read_size, self._part_bytes)
            )
        return True

    def _next_instance(self) -> Stored | None:
        """Take the next instance of the index; None at the end or, while others wait, not yet."""
        while not self._page:
            if self._all_pages_are_here or (self._files and self._pages.empty()):
                return None
            page = self._next_page()
            if page is None:
                return None
            if isinstance(page, StoreUnavailable):
                self.failure = page
                page = []
            if isinstance(page, Exception):
                raise page
            self._all_pages_are_here = not page
            self._page.extend(page)
        return self._page.popleft()

    def _next_page(self) -> list[Stored] | Exception | None:
        while not self.was_interrupted:
            try:
                return self._pages.get(timeout=LOOK_SECONDS)
            except Empty:
                self.was_interrupted = self._interrupted()
        return None

    def _read_index(self, pages: Iterable[list[Stored]]) -> None:
        """Read on in the index while files are being sent; in a thread of its own."""
        try:
            for page in pages:
                if page:
                    self._pages.put(page)
                if self._stopped.is_set():
                    return
            self._pages.put([])
        except Exception as error:  # noqa: BLE001 - it is raised where the page is taken
            self._pages.put(error)
