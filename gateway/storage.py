"""C-STORE SCP, PS3.4 annex B: take an instance into custody, then say so.

The data set is kept bit for bit. While it arrives it is hashed and held in memory, or in a scratch
file when it is long; when it is whole it becomes one object, and only then is 0000 sent. Where the
operator wants it, it is held against its IOD before (`lenticular.validation`).
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

from lenticular.archive import provenance
from lenticular.audit import Action, Outcome
from lenticular.errors import StoreUnavailable
from lenticular.identifiers import is_uid
from lenticular.part10 import file_head
from lenticular.placement import Placement, Problem, patient_id_in, place, with_end
from lenticular.sop_classes import may_be_storage
from lenticular.status import Status, StoreStatus
from lenticular.validation import Validator, Verdict

from .association import Association
from .audit import AuditTrail
from .command_set import CommandSet
from .custody import Keeper
from .messages import DataSetSink, Message

#: What a sender hears of a problem; PS3.4 B.2.3. One that only the index has (no study to put the
#: instance in) is no failure of the sender's: the instance is kept, and an operator sees it.
STATUS_OF: Final[Mapping[Problem | None, Status | StoreStatus]] = MappingProxyType(
    {
        None: Status.SUCCESS,
        Problem.NO_STUDY_INSTANCE_UID: Status.SUCCESS,
        Problem.NO_SERIES_INSTANCE_UID: Status.SUCCESS,
        Problem.UNKNOWN_TRANSFER_SYNTAX: StoreStatus.CANNOT_UNDERSTAND,
        Problem.UNREADABLE: StoreStatus.CANNOT_UNDERSTAND,
        Problem.BROKEN_OFF: StoreStatus.CANNOT_UNDERSTAND,
        Problem.INVALID_SOP_INSTANCE_UID: StoreStatus.CANNOT_UNDERSTAND,
        Problem.SOP_CLASS_DIFFERS: StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
        Problem.SOP_INSTANCE_DIFFERS: StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    }
)
#: Of an instance that has a study, the answers that say that it was kept.
_KEPT: Final = (Status.SUCCESS, StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING)
#: How much of a scratch file is looked at at a time.
_WINDOW_BYTES: Final = 64 << 10
#: Further behind the index does not look for UIDs either.
_LONGEST_HEAD_BYTES: Final = 8 << 20


class IncomingFile:
    """The file of an instance that is arriving: head and data set, with its running SHA-256.

    Attributes:
        size: bytes that came, head included
        failure: why the file is not whole although its sender did all it should
    """

    def __init__(self, head: bytes, memory_bytes: int, scratch: Callable[[], IO[bytes]]) -> None:
        """Start with the file's head; go to the file that `scratch` opens beyond `memory_bytes`."""
        self._digest = hashlib.sha256(head)
        self._buffer = bytearray(head)
        #: Of the data set, as far as it took to place it.
        self._beginning = memoryview(b"")
        self._head_bytes = len(head)
        self._memory_bytes = memory_bytes
        self._open_scratch = scratch
        self.scratch: IO[bytes] | None = None
        self.size = len(head)
        self.failure: StoreUnavailable | None = None

    def write(self, view: memoryview) -> None:
        """Take the next fragment; throw it away when the scratch disk has failed."""
        self.size += len(view)
        if self.failure is not None:
            return
        self._digest.update(view)
        try:
            if self.scratch is not None:
                self.scratch.write(view)
                return
            self._buffer += view
            if len(self._buffer) > self._memory_bytes:
                self.scratch = self._open_scratch()
                self.scratch.write(self._buffer)
                self._buffer = bytearray()
        except OSError as error:
            self._fail(error)

    def complete(self) -> None:
        """Make the last bytes readable."""
        if self.scratch is not None and self.failure is None:
            try:
                self.scratch.flush()
            except OSError as error:
                self._fail(error)

    def discard(self) -> None:
        """Free memory and disk."""
        if self.scratch is not None:
            # Closing writes what is still buffered, for which a full disk has no room either.
            with contextlib.suppress(OSError):
                self.scratch.close()
        self._buffer = bytearray()

    def _fail(self, error: OSError) -> None:
        # The rest is still read, so that the sender hears of it and the association goes on.
        self.failure = StoreUnavailable(f"the scratch disk failed: {error.strerror}")
        self.discard()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the whole file so far, hexadecimal."""
        return self._digest.hexdigest()

    def place(self, command: CommandSet, transfer_syntax_uid: str) -> Placement:
        """Decide where the instance belongs; raises `StoreUnavailable` when it cannot be read."""
        uids = {
            "sop_class_uid": command.affected_sop_class_uid or "",
            "sop_instance_uid": command.affected_sop_instance_uid or "",
            "transfer_syntax_uid": transfer_syntax_uid,
        }
        length = self.size - self._head_bytes
        try:
            self._beginning = self._read(0)
            placement = place(self._beginning, **uids)
            if not placement.head_complete and len(self._beginning) < length:
                self._beginning = self._read(0, _LONGEST_HEAD_BYTES)
                placement = place(self._beginning, **uids)
                if not placement.head_complete and len(self._beginning) < length:
                    placement = _unplaced(placement)
            # What its sender is told is wrong already need not be looked at for more.
            if STATUS_OF[placement.problem] is Status.SUCCESS:
                placement = with_end(placement, self._read, length, transfer_syntax_uid)
        except OSError as error:
            raise StoreUnavailable(f"the scratch disk failed: {error.strerror}") from error
        return placement

    def patient_id(self, transfer_syntax_uid: str) -> str:
        """Return the Patient ID in it, for the audit trail, once it has its place."""
        return patient_id_in(self._beginning, transfer_syntax_uid)

    def _read(self, offset: int, length: int = _WINDOW_BYTES) -> memoryview:
        """Return bytes of the data set; of one that is in memory all from `offset` on.

        A scratch file is not mapped: where its disk is lost that would be the end of the process.
        """
        start = self._head_bytes + offset
        if self.scratch is None:
            return memoryview(self._buffer)[start:]
        return memoryview(os.pread(self.scratch.fileno(), length, start))

    @contextlib.contextmanager
    def opened(self, scratch_dir: Path | None) -> Iterator[IO[bytes]]:
        """Give the whole file to another process by its descriptor; raises `StoreUnavailable`.

        One that is in memory goes to a file in `scratch_dir` for as long.
        """
        if self.scratch is not None:
            yield self.scratch
            return
        try:
            file = tempfile.TemporaryFile(dir=scratch_dir)  # noqa: SIM115 - closed below
            try:
                file.write(self._buffer)
                file.flush()
            except OSError:
                file.close()
                raise
        except OSError as error:
            raise StoreUnavailable(f"the scratch disk failed: {error.strerror}") from error
        with file:
            yield file

    def keep(self, custody: Keeper, key: str, metadata: Mapping[str, str]) -> bool:
        """Put the file into the bucket; see `Custody.keep`."""
        if self.scratch is None:
            return custody.keep(key, self._buffer, metadata)
        self.scratch.seek(0)
        return custody.keep_large(key, self.scratch, metadata)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A data set that is read to its end and thrown away, because the command alone is wrong."""

    status: Status | StoreStatus
    comment: str

    def write(self, view: memoryview) -> None:
        """Throw the fragment away."""

    def complete(self) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing."""


class StorageService:
    """Serves C-STORE."""

    failure_status = StoreStatus.INTERNAL_ERROR

    def __init__(  # noqa: PLR0913 - where instances go, and what is done beside
        self,
        custody: Keeper,
        *,
        memory_bytes: int,
        scratch_dir: Path | None = None,
        validator: Validator | None = None,
        reject_invalid: bool = False,
        audit: AuditTrail | None = None,
    ) -> None:
        """Keep instances in `custody`; hold at most `memory_bytes` of one in memory.

        What `validator` finds errors in is refused if `reject_invalid`, else kept with a warning.
        What it looks at goes to `scratch_dir`, by default the system's.
        """
        self._custody = custody
        self._scratch_dir = scratch_dir
        self._validator = validator
        self._reject_invalid = reject_invalid
        self._memory_bytes = memory_bytes
        self._audit = audit

    def begin(self, association: Association, message: Message) -> DataSetSink:
        """Open the file that the data set goes to."""
        command, context = message.command, message.context
        if "store" not in association.peer.permissions:
            # The context was accepted for the node to receive on, by C-GET.
            return Refusal(Status.NOT_AUTHORIZED, "this node may not store")
        # Whether unknown classes are taken was decided when the context was accepted.
        is_storage = may_be_storage(context.abstract_syntax)
        if not is_storage or command.affected_sop_class_uid != context.abstract_syntax:
            return Refusal(
                Status.SOP_CLASS_NOT_SUPPORTED,
                "SOP class is not a storage class negotiated for this context",
            )
        head = file_head(
            context.abstract_syntax,
            command.affected_sop_instance_uid or "",
            context.transfer_syntax,
        )
        return IncomingFile(head, self._memory_bytes, self._custody.scratch)

    def handle(self, association: Association, message: Message, sink: DataSetSink | None) -> None:
        """Answer Success only after the bytes are durable."""
        if isinstance(sink, Refusal):
            _respond(association, message, sink.status, sink.comment)
            return
        if not isinstance(sink, IncomingFile):
            _respond(association, message, StoreStatus.CANNOT_UNDERSTAND, "no data set came")
            return
        try:
            status, comment = self._take(association, message, sink)
        finally:
            sink.discard()
        _respond(association, message, status, comment)

    def _take(
        self, association: Association, message: Message, file: IncomingFile
    ) -> tuple[Status | StoreStatus, str | None]:
        if file.failure is not None:
            return _refused(association, message, file, file.failure)
        try:
            placement = file.place(message.command, message.context.transfer_syntax)
        except StoreUnavailable as error:
            return _refused(association, message, file, error)
        study = placement.study_instance_uid
        if self._audit is None or not study:
            # What has no study is in the list of quarantine, with who sent it.
            status, comment, _ = self._keep(association, message, file, placement)
            return status, comment
        syntax = message.context.transfer_syntax
        self._audit.study_comes(association, study, lambda: file.patient_id(syntax))
        action, outcome = Action.CREATE, Outcome.MINOR_FAILURE
        try:
            status, comment, is_new = self._keep(association, message, file, placement)
            # A.5.3.7: create where we did not hold it, read where we did and change nothing.
            action = Action.CREATE if is_new else Action.READ
            if status in _KEPT:
                outcome = Outcome.SUCCESS
        finally:
            sop_class = message.context.abstract_syntax
            self._audit.stored(association, study, sop_class, action, outcome)
        return status, comment

    def _keep(
        self, association: Association, message: Message, file: IncomingFile, placement: Placement
    ) -> tuple[Status | StoreStatus, str | None, bool]:
        """Keep an instance; return status and comment, and whether it was not there before."""
        key = placement.key(file.sha256)
        metadata = provenance(association.peer.calling_aet, association.peer.called_aet)
        status = STATUS_OF[placement.problem]
        try:
            # What the sender is told is wrong already need not be looked at for more.
            verdict = self._judge(association, file, key) if status is Status.SUCCESS else None
            if verdict is not None and self._reject_invalid:
                return StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, _found(verdict), True
            is_new = file.keep(self._custody, key, metadata)
        except StoreUnavailable as error:
            return *_refused(association, message, file, error), True
        if placement.problem is not None:
            association.log.warning(
                "instance quarantined", extra={"reason": placement.problem.value, "object_key": key}
            )
        if verdict is not None:
            return StoreStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING, _found(verdict), is_new
        comment = None if placement.problem is None else placement.problem.value
        return status, comment, is_new

    def _judge(self, association: Association, file: IncomingFile, key: str) -> Verdict | None:
        """Return what is wrong with an instance by its IOD, if anything is; note it."""
        if self._validator is None:
            return None
        with file.opened(self._scratch_dir) as opened:
            verdict = self._validator.judge(opened)
        if verdict is None:
            # The validator's failure is not the sender's: the instance is taken as it is.
            association.log.warning("instance not validated", extra={"object_key": key})
            return None
        if not verdict.errors:
            return None
        association.log.warning(
            "instance rejected as invalid" if self._reject_invalid else "instance invalid",
            extra={
                "object_key": key,
                "errors": verdict.errors,
                "attributes": verdict.attributes,
            },
        )
        return verdict


def _unplaced(placement: Placement) -> Placement:
    """Return what becomes of an instance whose head was too long to be read whole."""
    if placement.problem is Problem.UNREADABLE:
        return replace(placement, problem=Problem.NO_STUDY_INSTANCE_UID)
    return placement


def _found(verdict: Verdict) -> str:
    return f"{verdict.errors} IOD errors: {', '.join(verdict.attributes)}"


def _refused(
    association: Association, message: Message, file: IncomingFile, error: StoreUnavailable
) -> tuple[StoreStatus, str]:
    """Note that an instance could not be kept; return the status and comment for its sender."""
    uid = message.command.affected_sop_instance_uid or ""
    facts = {
        "reason": str(error),
        "bytes": file.size,
        # What is no UID may be anything.
        "sop_instance_uid": uid if is_uid(uid) else None,
    }
    association.log.warning("instance not stored", extra=facts)
    return StoreStatus.OUT_OF_RESOURCES, "storage is unavailable, send again later"


def _respond(association: Association, message: Message, status: int, comment: str | None) -> None:
    association.send_response(message.context, message.command.response(status, comment))
