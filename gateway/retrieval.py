"""What C-MOVE and C-GET have in common (PS3.4 C.4.2, C.4.3): which instances, and how it went.

    identifier ─▶ find ─▶ fetch_ahead ─▶ C-STORE sub-operations ─▶ Progress ─▶ responses
                                         (move: over associations of ours, get: over the asker's)

Files are fetched ahead in parallel, so that S3's latency is paid once and not for each instance,
within a budget of bytes.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from lenticular.answers import instances_to_retrieve
from lenticular.dicom_json import JsonElement
from lenticular.errors import InstanceMissing, InvalidIdentifier, StoreUnavailable
from lenticular.index import Index
from lenticular.index_items import Item
from lenticular.part10 import data_set_offset
from lenticular.query import MODEL_OF, read_retrieval
from lenticular.status import MoveStatus, Status

from .association import Association
from .command_set import RESPONSE, CommandSet
from .custody import Custody
from .identifier import read_identifier, write_identifier
from .messages import Message
from .negotiation import QueryOption

_FETCHES_AHEAD: Final = 16
_BYTES_AHEAD: Final = 64 << 20
_FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058
#: The counts are of VR US (PS3.7 E.1); a patient may have more instances than that can say.
_MOST_COUNTED: Final = 0xFFFF
#: Error Comment (0000,0902) is an LO, PS3.7 C.1.
_COMMENT_CHARACTERS: Final = 64

#: A file that is on its way from the bucket.
FetchedFile: TypeAlias = "Future[memoryview]"


@dataclass(frozen=True, slots=True)
class Stored:
    """What a sub-operation needs to know of an instance."""

    object_key: str
    size: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @classmethod
    def from_item(cls, item: Item) -> "Stored":
        """Read it from an instance's item of the index."""
        return cls(
            str(item["object_key"]),
            int(str(item["size"])),
            str(item["sop_class_uid"]),
            str(item["uid"]),
            str(item["transfer_syntax_uid"]),
        )


@dataclass(slots=True)
class Progress:
    """The sub-operations of one retrieval, PS3.4 C.4.2.1.6 and C.4.3.1.5."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)

    def count(self, stored: Stored, status: int | None) -> None:
        """Count one sub-operation by the status of its C-STORE-RSP, None when there is none."""
        self.remaining -= 1
        if status == Status.SUCCESS:
            self.completed += 1
        elif status is not None and _is_warning(status):
            self.warning += 1
        else:
            self.failed.append(stored.sop_instance_uid)

    def final_status(self) -> Status | MoveStatus:
        """Return the status of the last response; PS3.4 tables C.4-2 and C.4-3."""
        if not self.failed and not self.warning:
            return Status.SUCCESS
        if not self.completed and not self.warning:
            return MoveStatus.CANNOT_PERFORM_SUB_OPERATIONS
        return MoveStatus.SUB_OPERATIONS_FAILED


class Retrieval:
    """One C-MOVE-RQ or C-GET-RQ, and the responses to it.

    Its methods raise `AssociationAborted` when the association that asked is gone.

    Attributes:
        association: that which asked
        log: a logger with its facts on each line
    """

    def __init__(self, association: Association, message: Message) -> None:
        """Answer `message` over the association it came by."""
        self.association = association
        self._message = message
        self.log = association.log

    @property
    def message_id(self) -> int:
        """The request's Message ID."""
        return self._message.command.message_id or 0

    def find(self, index: Index) -> list[Stored] | None:
        """Return the instances that are asked for; `None` when the request has been refused."""
        context = self._message.context
        try:
            keys = read_identifier(self._message.data or b"", context.transfer_syntax)
            model = MODEL_OF[context.abstract_syntax]
            query = read_retrieval(model, keys, relational=self._relational())
            return [Stored.from_item(item) for item in instances_to_retrieve(index, query)]
        except InvalidIdentifier as error:
            self.refuse(MoveStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, str(error))
        except StoreUnavailable as error:
            self.log.warning("retrieval not counted", extra={"reason": str(error)})
            self.refuse(MoveStatus.CANNOT_COUNT_MATCHES, "the index is unavailable")
        return None

    def data_set(self, stored: Stored, file: FetchedFile) -> memoryview | None:
        """Return the encoded data set of a file; `None`, and a log line, when it cannot be had."""
        try:
            whole = file.result()
        except (InstanceMissing, StoreUnavailable):
            self.log.exception(
                "stored instance not readable", extra={"object_key": stored.object_key}
            )
            return None
        return whole[data_set_offset(whole) :]

    def cancelled(self) -> bool:
        """Tell whether the requestor sent C-CANCEL."""
        return self.association.cancel_requested(self.message_id)

    def refuse(self, status: MoveStatus, comment: str) -> None:
        """End before any sub-operation."""
        command = self._response(status)
        command.error_comment = comment[:_COMMENT_CHARACTERS]
        self.association.send_response(self._message.context, command)

    def pending(self, progress: Progress) -> None:
        """Report the counts so far, unless nothing remains: the final response follows then."""
        if progress.remaining:
            command = self._counted(MoveStatus.PENDING, progress)
            command.number_of_remaining_suboperations = _count(progress.remaining)
            self.association.send_response(self._message.context, command)

    def final(self, progress: Progress, *, cancelled: bool, destination: str) -> None:
        """Report the outcome, to the log too; PS3.4 C.4.2.1.6: remaining only when cancelled."""
        command = self._counted(
            MoveStatus.CANCELLED if cancelled else progress.final_status(), progress
        )
        if cancelled:
            command.number_of_remaining_suboperations = _count(progress.remaining)
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
                "failed": len(progress.failed),
                "cancelled": cancelled,
            },
        )

    def _relational(self) -> bool:
        return self.association.peer.agreed_on(
            self._message.context.abstract_syntax, QueryOption.RELATIONAL
        )

    def _counted(self, status: int, progress: Progress) -> CommandSet:
        command = self._response(status)
        command.number_of_completed_suboperations = _count(progress.completed)
        command.number_of_failed_suboperations = _count(len(progress.failed))
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


def fetch_ahead(
    custody: Custody, instances: Sequence[Stored]
) -> Iterator[tuple[Stored, FetchedFile]]:
    """Yield each instance with its file, fetching those behind it meanwhile."""
    waiting = iter(instances)
    ahead: deque[tuple[Stored, FetchedFile]] = deque()
    bytes_ahead = 0
    with ThreadPoolExecutor(_FETCHES_AHEAD) as pool:
        try:
            while True:
                while len(ahead) < _FETCHES_AHEAD and (bytes_ahead < _BYTES_AHEAD or not ahead):
                    each = next(waiting, None)
                    if each is None:
                        break
                    ahead.append((each, pool.submit(custody.get, each.object_key)))
                    bytes_ahead += each.size
                if not ahead:
                    return
                each, file = ahead.popleft()
                yield each, file
                bytes_ahead -= each.size
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _count(sub_operations: int) -> int:
    return min(sub_operations, _MOST_COUNTED)


def _is_warning(status: int) -> bool:
    """Tell a C-STORE warning: 0001, 0107, 0116 or Bxxx; PS3.7 C.3."""
    return status in (0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000  # noqa: PLR2004
