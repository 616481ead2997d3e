"""What C-MOVE and C-GET have in common (PS3.4 C.4.2, C.4.3): which instances, and how it went.

    identifier ─▶ find ─▶ ReadAhead ─▶ C-STORE sub-operations ─▶ Progress ─▶ responses
                                       (move: over associations of ours, get: over the asker's)

An instance goes as it came where the receiver takes that transfer syntax, be it that the original
has to be restored from a form. Where it does not, it goes as the form is that we made of it, or
uncompressed, each value as it was; where it cannot be had so, its sub-operation fails.
"""

import mmap
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from time import monotonic
from traceback import extract_tb
from typing import Final, TypeAlias

from lenticular.answers import Selection, select
from lenticular.archive import Form, InstanceKey
from lenticular.audit import Action, Outcome, Participant
from lenticular.byte_ranges import InMemory
from lenticular.decoding import native_data_set
from lenticular.dicom_json import JsonElement
from lenticular.errors import (
    CannotUnderstand,
    InstanceMissing,
    InvalidIdentifier,
    StoreUnavailable,
)
from lenticular.index import Index, Reading
from lenticular.index_items import forms_of_content
from lenticular.part10 import data_set_offset
from lenticular.query import model_of, read_retrieval
from lenticular.reencoding import reencoded
from lenticular.splice import restored
from lenticular.status import MoveStatus, Status
from lenticular.transfer_syntaxes import (
    BY_UID,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)

from .abandoned import ABANDONED
from .association import Association
from .audit import AuditTrail, Tally
from .command_set import RESPONSE, CommandSet, Priority
from .custody import Custody
from .identifier import read_identifier, write_identifier
from .messages import Message, PresentationContext
from .negotiation import QueryOption
from .read_ahead import KeptWaiting, OutgoingFile, ReadAhead, Stored
from .wire import LOOK_SECONDS, AssociationAborted

_FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058
#: How many sub-operations are told of each. Those behind them are told of so often at most: to tell
#: of a thousand a second took a seventh of the processor, and nobody can read them.
_TOLD_EACH: Final = 50
_TOLD_SECONDS: Final = 0.02
#: The counts are of VR US (PS3.7 E.1); a patient may have more instances than that can say.
_MOST_COUNTED: Final = 0xFFFF
#: A data set that inflates, or is decoded, to more is taken for one made to fill the disk.
_LONGEST_DATA_SET_BYTES: Final = 8 << 30

#: What an instance is sent in where it cannot be sent as it is stored, best first.
_UNCOMPRESSED: Final = tuple(
    syntax.uid
    for syntax in (
        EXPLICIT_VR_LITTLE_ENDIAN,
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    )
)

#: Presentation contexts by SOP class and transfer syntax.
Contexts: TypeAlias = Mapping[tuple[str, str], PresentationContext]


@dataclass(frozen=True, slots=True)
class Memory:
    """What one retrieval may hold of the instances it sends; more goes to `scratch_dir`."""

    read_ahead_bytes: int
    scratch_dir: Path | None


@dataclass(slots=True)
class Progress:
    """The sub-operations of one retrieval, PS3.4 C.4.2.1.6 and C.4.3.1.5.

    `total` is what studies and series say they hold. While instances are being indexed there may
    be more. `failed` are SOP Instance UIDs, `not_found` counts what failed beside them: what the
    index did not name. `sent` is what the audit trail is told.
    """

    total: int
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)
    not_found: int = 0
    sent: Tally = field(default_factory=Tally)

    @property
    def performed(self) -> int:
        """How many have ended, in whichever way."""
        return self.completed + self.warning + self.failures

    @property
    def remaining(self) -> int:
        """How many are still to be performed."""
        return max(self.total - self.performed, 0)

    @property
    def failures(self) -> int:
        """How many failed."""
        return len(self.failed) + self.not_found

    def count(self, stored: Stored, status: int | None) -> None:
        """Count one sub-operation by the status of its C-STORE-RSP, None when there is none."""
        outcome = Outcome.SUCCESS
        if status == Status.SUCCESS:
            self.completed += 1
        elif status is not None and is_warning(status):
            self.warning += 1
        else:
            self.failed.append(stored.sop_instance_uid)
            outcome = Outcome.MINOR_FAILURE
        # "Read" is what a source says that does not know what the receiver held, PS3.15 A.5.3.7.
        self.sent.count(stored.study_instance_uid, stored.sop_class_uid, Action.READ, outcome)

    def final_status(self) -> Status | MoveStatus:
        """Return the status of the last response; PS3.4 tables C.4-2 and C.4-3."""
        if not self.failures and not self.warning:
            return Status.SUCCESS
        if not self.completed and not self.warning:
            return MoveStatus.CANNOT_PERFORM_SUB_OPERATIONS
        return MoveStatus.SUB_OPERATIONS_FAILED


@dataclass(frozen=True, slots=True)
class Found:
    """What a retrieval names: how many, of which SOP classes, and which, page by page of the index.

    Reading the pages may raise `StoreUnavailable`. `patients` are Patient IDs by study.
    """

    count: int
    sop_class_uids: frozenset[str]
    pages: Iterator[list[Stored]]
    patients: Mapping[str, str]


class Unsendable(Exception):
    """An instance cannot be sent, as the log says; `for_now` where S3 may give it later."""

    def __init__(self, *, for_now: bool) -> None:
        """Say whether it is worth another try."""
        super().__init__()
        self.for_now = for_now


class _NotWanted(Exception):
    """Nobody waits any more for what is being looked for in the index."""


def _read_no_more() -> None:
    raise _NotWanted


class Retrieval:
    """One C-MOVE-RQ or C-GET-RQ, and the responses to it.

    Its methods raise `AssociationAborted` when the association that asked is gone.

    Attributes:
        association: that which asked
        log: a logger with its facts on each line
    """

    def __init__(
        self, association: Association, message: Message, custody: Custody, memory: Memory
    ) -> None:
        """Answer `message` over the association it came by, with what is in `custody`."""
        self.association = association
        self._message = message
        self._custody = custody
        self._memory = memory
        self._index: Index | None = None
        self._reading = Reading()
        self._last_told = 0.0
        self.log = association.log

    @property
    def message_id(self) -> int:
        """The request's Message ID."""
        return self._message.command.message_id or 0

    @property
    def priority(self) -> int:
        """The request's priority, which is that of each of its sub-operations (C.4.2.1.2)."""
        priority = self._message.command.priority
        return priority if priority in (Priority.HIGH, Priority.LOW) else Priority.MEDIUM

    def find(self, index: Index) -> Found | None:
        """Return the instances that are asked for; `None` when the request has been answered."""
        self._index = index
        context = self._message.context
        try:
            keys = read_identifier(self._message.data or b"", context.transfer_syntax)
            model = model_of(context.abstract_syntax)
            query = read_retrieval(model, keys, relational=self._relational())
            noting = index.noting(self._reading, whole_items=True)
            selection = self._unless_cancelled(lambda: select(noting, query))
        except InvalidIdentifier as error:
            self.refuse(MoveStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, str(error))
            return None
        except StoreUnavailable as error:
            self.log.warning("retrieval not counted", extra={"reason": str(error)})
            self.refuse(MoveStatus.CANNOT_COUNT_MATCHES, "the index is unavailable")
            return None
        if selection is None:
            self.final(None, cancelled=True, destination="", failure=None)
            return None
        pages = (list(map(Stored.from_item, page)) for page in selection.pages)
        return Found(selection.count, selection.sop_class_uids, pages, selection.patients)

    def _unless_cancelled(self, look: Callable[[], Selection]) -> Selection | None:
        """Return what `look` returns in a thread of its own; `None` where C-CANCEL comes before."""
        if not ABANDONED.has_room():
            self.log.warning("retrieval waits, requests of others that were cancelled still hang")
            while not ABANDONED.has_room(LOOK_SECONDS):
                if self.cancelled():
                    return None
        pool = ThreadPoolExecutor(1, "select")
        looking = pool.submit(look)
        pool.shutdown(wait=False)
        try:
            while not wait([looking], LOOK_SECONDS).done:
                if self.cancelled():
                    return None
            return None if self.cancelled() else looking.result()
        finally:
            if not looking.done():
                self._reading.on_page = _read_no_more
                ABANDONED.leave([looking])

    @contextmanager
    def audited(
        self, audit: AuditTrail | None, found: Found, receiver: Participant
    ) -> Iterator[Progress]:
        """Tell the audit trail before and after instances are sent, however that ends."""
        progress = Progress(found.count)
        if audit is None:
            yield progress
            return
        audit.transfer_begins(self.association, receiver, found.patients)
        progress.sent.patients.update(found.patients)
        try:
            yield progress
        finally:
            audit.transferred(self.association, receiver, progress.sent)

    def read_ahead(
        self,
        pages: Iterable[list[Stored]],
        is_wanted: Callable[[Stored], bool] = lambda _: True,
        *,
        may_break_off: bool,
    ) -> ReadAhead:
        """Read files of instances ahead of their turn, but for those that will not be sent.

        C-CANCEL interrupts it; within a data set that is being sent only if that `may_break_off`,
        because it goes over another association than the final response.
        """
        return ReadAhead(
            self._custody,
            pages,
            budget_bytes=self._memory.read_ahead_bytes,
            is_wanted=is_wanted,
            restore=self._restored_now,
            interrupted=self.cancelled,
            may_break_off=may_break_off,
        )

    def data_set(
        self, file: OutgoingFile, contexts: Contexts
    ) -> tuple[PresentationContext, Iterable[bytes | memoryview]]:
        """Return what a file holds and the context to send it on, in whose transfer syntax it is.

        The pieces may raise `StoreUnavailable`.

        Raises:
            Unsendable: it cannot be sent, whatever is odd about it. A log line says why.
            Interrupted: C-CANCEL came while the file was gathered. The pieces may raise it, too.
        """
        stored = file.stored
        facts = {"object_key": stored.object_key}
        context = context_for(stored, contexts)
        if context is None:
            classes = {"sop_class": stored.sop_class_uid, "stored": stored.transfer_syntax_uid}
            self.log.warning("no presentation context for an instance", extra=facts | classes)
            raise Unsendable(for_now=False)
        try:
            try:
                return context, self._in_syntax(file, context.transfer_syntax)
            except (InstanceMissing, StoreUnavailable, CannotUnderstand) as error:
                if not (stored.retired or isinstance(error, InstanceMissing)):
                    raise
                # The original was retired, or the form written anew, since the item was read.
                return context, self._from_another_form(file, context.transfer_syntax, error)
        except InstanceMissing:
            # The index promised it. Whoever runs the node must hear of it: an alarm looks for this.
            self.association.objects_missing += 1
            self.log.error("object missing", extra=facts)  # noqa: TRY400 - a fact, not a mistake in the code
        except StoreUnavailable as error:
            extra = facts | {"reason": str(error)}
            self.log.warning("stored instance not readable", extra=extra)
            raise Unsendable(for_now=not isinstance(error, KeptWaiting)) from error
        except CannotUnderstand as error:
            told = {"stored": stored.transfer_syntax_uid, "wanted": context.transfer_syntax}
            extra = facts | told | {"reason": str(error)}
            self.log.warning("instance not converted", extra=extra)
        except AssociationAborted:
            raise
        except Exception as error:  # noqa: BLE001 - what is odd about one instance is not the others' fault
            # Its words may be a patient's data.
            told = {"error": type(error).__name__, "where": _where(error)}
            self.log.error("instance not converted", extra=facts | told)  # noqa: TRY400 - as above
        raise Unsendable(for_now=False)

    def _in_syntax(self, file: OutgoingFile, target_uid: str) -> Iterable[bytes | memoryview]:
        """Return a file's data set in a transfer syntax, or raise `CannotUnderstand`."""
        stored = file.stored
        if stored.retired:
            if target_uid == stored.forms[0].transfer_syntax_uid:
                return file.data_set()
            form = self._gathered(file.pieces())
            if target_uid == stored.transfer_syntax_uid:
                return [_data_set_of(self._restored(form, stored))]
            return [self._uncompressed(form, target_uid)]
        if target_uid == stored.transfer_syntax_uid:
            return file.data_set()
        if any(form.transfer_syntax_uid == target_uid for form in stored.forms):
            return self._from_form(file, stored, target_uid)
        return [self._uncompressed(self._gathered(file.pieces()), target_uid)]

    def _from_another_form(
        self, file: OutgoingFile, target_uid: str, error: Exception
    ) -> Iterable[bytes | memoryview]:
        """Return the data set from a form that the index names now, or raise `error`."""
        stored = file.stored
        forms = self._forms_now(file, may_break_off=True)
        if stored.retired:
            forms = tuple(form for form in forms if form != stored.forms[0])
        if not forms:
            raise error
        return self._from_form(file, replace(stored, forms=forms), target_uid)

    def _forms_now(self, file: OutgoingFile, *, may_break_off: bool) -> tuple[Form, ...]:
        index, key = self._index, InstanceKey.parse(file.stored.object_key)
        if index is None or key is None:
            return file.stored.forms
        uids = key.study_instance_uid, key.series_instance_uid, key.sop_instance_uid
        item = file.told(
            lambda: index.instance(*uids, consistent=True), may_break_off=may_break_off
        )
        return forms_of_content(item, key.sha256) if item else ()

    def _from_form(
        self, file: OutgoingFile, stored: Stored, target_uid: str
    ) -> Iterable[bytes | memoryview]:
        """Return the data set as `_in_syntax` does, from the closest form that gives it."""
        forms = sorted(
            stored.forms, key=lambda form: form.transfer_syntax_uid == target_uid, reverse=True
        )
        for form in forms[:-1]:
            try:
                return self._from_one_form(file, stored, form, target_uid)
            except (InstanceMissing, StoreUnavailable, CannotUnderstand) as error:
                extra = {"object_key": form.object_key, "reason": str(error)}
                self.log.warning("form not readable", extra=extra)
        return self._from_one_form(file, stored, forms[-1], target_uid)

    def _from_one_form(
        self, file: OutgoingFile, stored: Stored, form: Form, target_uid: str
    ) -> Iterable[bytes | memoryview]:
        whole = self._gathered(file.form(form, may_break_off=True))
        if target_uid == form.transfer_syntax_uid:
            return [_data_set_of(whole)]
        if target_uid == stored.transfer_syntax_uid:
            return [_data_set_of(self._restored(whole, stored))]
        return [self._uncompressed(whole, target_uid)]

    def _restored(self, form: memoryview, stored: Stored) -> memoryview:
        """Return the file of the original that a form was made of, and of nothing else."""
        original = self._gathered(restored(InMemory(form)))
        if sha256(original).hexdigest() != stored.sha256:
            raise CannotUnderstand("the form does not restore to its original")
        return original

    def _restored_now(self, file: OutgoingFile, *, may_break_off: bool) -> memoryview:
        """Return the file of an original that went while it was being sent, or `InstanceMissing`.

        Retiring it is the one thing that takes it away, and then a form restores to it.
        """
        stored = file.stored
        # A form that was being sent itself is not to be had from another one.
        for form in () if stored.retired else self._forms_now(file, may_break_off=may_break_off):
            try:
                whole = self._gathered(file.form(form, may_break_off=may_break_off))
                return self._restored(whole, stored)
            except (InstanceMissing, StoreUnavailable, CannotUnderstand) as error:
                extra = {"object_key": form.object_key, "reason": str(error)}
                self.log.warning("form not readable", extra=extra)
        raise InstanceMissing(f"nothing is left of {stored.object_key}")

    def _uncompressed(self, file: memoryview, target_uid: str) -> memoryview:
        """Return a file's data set in another transfer syntax, or raise `CannotUnderstand`.

        All of it is done before the first byte is sent, so that what fails fails alone.
        """
        target = BY_UID[target_uid]
        native = self._in_native_syntax(file, target)
        return self._gathered(_deflated(native) if target.deflated else native)

    def _in_native_syntax(
        self, stored: memoryview, target: TransferSyntax
    ) -> Iterator[bytes | memoryview]:
        if target in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
            yield from native_data_set(InMemory(stored), target)
        elif target.deflated:
            yield from native_data_set(InMemory(stored))
        else:
            explicit = self._gathered(native_data_set(InMemory(stored)))
            yield reencoded(explicit, EXPLICIT_VR_LITTLE_ENDIAN, target, group_lengths=False)

    def _gathered(self, pieces: Iterable[bytes | memoryview]) -> memoryview:
        """Return pieces as one, which is kept on disk when it is too long for memory."""
        whole = bytearray()
        remaining = iter(pieces)
        for piece in remaining:
            whole += piece
            if len(whole) > self._memory.read_ahead_bytes:
                return self._on_disk(whole, remaining)
        return memoryview(whole)

    def _on_disk(self, first: bytearray, remaining: Iterable[bytes | memoryview]) -> memoryview:
        # Unlinked from the start, and unmapped when the last view of it is gone.
        try:
            with tempfile.TemporaryFile(dir=self._memory.scratch_dir) as scratch:
                room = _LONGEST_DATA_SET_BYTES - scratch.write(first)
                first.clear()
                for piece in remaining:
                    room -= scratch.write(piece)
                    if room < 0:
                        raise CannotUnderstand("the data set becomes too long to be real")
                scratch.flush()
                return memoryview(mmap.mmap(scratch.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise StoreUnavailable(f"the scratch disk failed: {error.strerror}") from error

    def cancelled(self) -> bool:
        """Tell whether the requestor sent C-CANCEL."""
        return self.association.cancel_requested(self.message_id)

    def cancelled_before(self, file: OutgoingFile) -> bool:
        """Wait until a file begins to come; tell whether the requestor sent C-CANCEL before."""
        while not self.cancelled():
            if file.has_begun(LOOK_SECONDS):
                return False
        return True

    def refuse(self, status: MoveStatus, comment: str) -> None:
        """End before any sub-operation."""
        command = self._response(status)
        command.error_comment = comment
        self.association.send_response(self._message.context, command)

    def pending(self, progress: Progress) -> None:
        """Report the counts so far, unless they just were, or the final response follows."""
        now = monotonic()
        is_told = progress.performed < _TOLD_EACH or now >= self._last_told + _TOLD_SECONDS
        if progress.remaining and is_told:
            self._last_told = now
            command = self._counted(MoveStatus.PENDING, progress)
            command.number_of_remaining_suboperations = _count(progress.remaining)
            self.association.send_response(self._message.context, command)

    def final(
        self,
        counted: Progress | None,
        *,
        cancelled: bool,
        destination: str,
        failure: StoreUnavailable | None,
    ) -> None:
        """Report the outcome, to the log too; PS3.4 C.4.2.1.6: remaining only when cancelled.

        What else remains has failed: studies and series count it, and the index does not name it,
        be it for a `failure`. `counted` is `None` where C-CANCEL came before anything was: then
        nobody knows what remains.
        """
        progress = counted or Progress(0)
        if not cancelled and progress.remaining:
            progress.not_found = progress.remaining
            if failure is None:
                self.log.warning("instances not found", extra={"instances": progress.not_found})
        command = self._counted(
            MoveStatus.CANCELLED if cancelled else progress.final_status(), progress
        )
        if cancelled:
            if counted is not None:
                command.number_of_remaining_suboperations = _count(progress.remaining)
        elif failure is not None:
            self.log.warning("retrieval broken off", extra={"reason": str(failure)})
            command.status = MoveStatus.CANNOT_PERFORM_SUB_OPERATIONS
            command.error_comment = "the index became unavailable, not all was found"
        elif progress.not_found:
            command.error_comment = f"the index names {progress.not_found} fewer than it counts"
        data = None
        if progress.failed:
            failed: JsonElement = {"vr": "UI", "Value": list(progress.failed)}
            elements = {_FAILED_SOP_INSTANCE_UID_LIST: failed}
            data = write_identifier(elements, self._message.context.transfer_syntax)
        self.association.send_response(self._message.context, command, data)
        self.log.info(
            "retrieval ended",
            extra={
                "destination": destination,
                "completed": progress.completed,
                "warning": progress.warning,
                "failed": progress.failures,
                "cancelled": cancelled,
                "items": self._reading.items,
                "pages": self._reading.pages,
                "capacity_units": self._reading.capacity_units,
                "store_milliseconds": round(1000 * self._reading.seconds, 1),
            },
        )

    def _relational(self) -> bool:
        return self.association.peer.agreed_on(
            self._message.context.abstract_syntax, QueryOption.RELATIONAL
        )

    def _counted(self, status: int, progress: Progress) -> CommandSet:
        command = self._response(status)
        command.number_of_completed_suboperations = _count(progress.completed)
        command.number_of_failed_suboperations = _count(progress.failures)
        command.number_of_warning_suboperations = _count(progress.warning)
        return command

    def _response(self, status: int) -> CommandSet:
        request = self._message.command
        return CommandSet(
            request.command_field | RESPONSE,
            message_id_being_responded_to=request.message_id,
            affected_sop_class_uid=request.affected_sop_class_uid,
            status=status,
        )


def context_for(stored: Stored, contexts: Contexts) -> PresentationContext | None:
    """Return the context to send an instance on: of what it came in, of a form, or of neither."""
    forms = (form.transfer_syntax_uid for form in stored.forms)
    for transfer_syntax in (stored.transfer_syntax_uid, *forms, *_UNCOMPRESSED):
        context = contexts.get((stored.sop_class_uid, transfer_syntax))
        if context is not None:
            return context
    return None


def _data_set_of(file: memoryview) -> memoryview:
    return file[data_set_offset(file) :]


def _deflated(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Deflate a data set, to an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    length = 0
    for piece in pieces:
        deflated = deflater.compress(piece)
        length += len(deflated)
        yield deflated
    rest = deflater.flush()
    yield rest + bytes((length + len(rest)) % 2)


def _where(error: Exception) -> str:
    """Name the line of code that an exception came from; some of Python's own is in no file."""
    frames = extract_tb(error.__traceback__)
    frame = next(each for each in reversed(frames) if not each.filename.startswith("<"))
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _count(sub_operations: int) -> int:
    return min(sub_operations, _MOST_COUNTED)


def is_warning(status: int) -> bool:
    """Tell a C-STORE warning: 0001, 0107, 0116 or Bxxx; PS3.7 C.3."""
    return status in (0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000  # noqa: PLR2004
