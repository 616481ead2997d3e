"""C-MOVE SCP, PS3.4 C.4.2: send what is stored, as it is stored, to a node we know.

Sub-operations go over as few associations as the presentation contexts allow. Files are fetched
ahead in parallel, so that S3's latency is paid once and not for each instance, within a budget of
bytes. What fails on an association that broke is tried once more on a fresh one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from lenticular.answers import instances_to_retrieve
from lenticular.dicom_json import JsonElement
from lenticular.errors import InstanceMissing, InvalidIdentifier, StoreUnavailable
from lenticular.index import Index
from lenticular.index_items import Item
from lenticular.nodes import Node
from lenticular.part10 import data_set_offset
from lenticular.query import MODEL_OF, read_retrieval
from lenticular.status import MoveStatus, Status

from .association import Association
from .command_set import CommandField, CommandSet
from .custody import Custody
from .identifier import read_identifier, write_identifier
from .messages import BufferSink, DataSetSink, Message
from .requestor import RequestedAssociation, open_association
from .wire import AssociationAborted, AssociationRefused, ConnectionFailed

#: PS3.8 9.3.2.2: context IDs are odd and fit a byte.
_MOST_CONTEXTS: Final = 128
_FETCHES_AHEAD: Final = 16
_BYTES_AHEAD: Final = 64 << 20
_FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058
_TRIES: Final = 2


class _RequestorGone(Exception):
    """The association that asked for the retrieval ended; not to be taken for the destination's."""

    def __init__(self, ended: AssociationAborted) -> None:
        super().__init__()
        self.ended = ended


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
    """The sub-operations of one retrieval, PS3.4 C.4.2.1.6."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed: list[str] = field(default_factory=list)

    def final_status(self) -> Status | MoveStatus:
        """Return the status of the last response; PS3.4 table C.4-2."""
        if not self.failed and not self.warning:
            return Status.SUCCESS
        if not self.completed and not self.warning:
            return MoveStatus.CANNOT_PERFORM_SUB_OPERATIONS
        return MoveStatus.SUB_OPERATIONS_FAILED


class MoveService:
    """Serves C-MOVE."""

    failure_status = MoveStatus.UNABLE_TO_PROCESS

    def __init__(  # noqa: PLR0913 - what it reads, where it looks nodes up, how it calls out
        self,
        index: Index,
        custody: Custody,
        find_node: Callable[[str], Node | None],
        *,
        ae_title: str,
        max_pdu_bytes: int,
        dimse_seconds: float,
    ) -> None:
        """Send from `custody` what `index` names, as `ae_title`, to nodes `find_node` knows."""
        self._index = index
        self._custody = custody
        self._find_node = find_node
        self._ae_title = ae_title
        self._max_pdu_bytes = max_pdu_bytes
        self._dimse_seconds = dimse_seconds

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002 - the interface of a service
        """Take the identifier into memory."""
        return BufferSink()

    def handle(
        self,
        association: Association,
        message: Message,
        sink: DataSetSink | None,  # noqa: ARG002 - the identifier is in the message
    ) -> None:
        """Find the instances, send them, and count."""
        try:
            self._retrieve(association, message)
        except _RequestorGone as gone:
            raise gone.ended from gone

    def _retrieve(self, association: Association, message: Message) -> None:
        answer = _Answer(association, message)
        node = self._find_node(message.command.move_destination or "")
        if node is None or node.port is None:
            answer.refuse(
                MoveStatus.DESTINATION_UNKNOWN, "the move destination is not a known node"
            )
            return
        try:
            keys = read_identifier(message.data or b"", message.context.transfer_syntax)
            query = read_retrieval(MODEL_OF[message.context.abstract_syntax], keys)
            stored = [Stored.from_item(item) for item in instances_to_retrieve(self._index, query)]
        except InvalidIdentifier as error:
            answer.refuse(MoveStatus.IDENTIFIER_DOES_NOT_MATCH_SOP_CLASS, str(error))
            return
        except StoreUnavailable as error:
            association.log.warning("retrieval not counted", extra={"reason": str(error)})
            answer.refuse(MoveStatus.CANNOT_COUNT_MATCHES, "the index is unavailable")
            return
        progress = Progress(len(stored))
        # The responses may take as long as the destination does; a pending one at once shows the
        # requestor that we are at it.
        answer.pending(progress)
        cancelled = self._send_all(answer, node, stored, progress)
        answer.final(progress, cancelled=cancelled)
        association.log.info(
            "retrieval ended",
            extra={
                "destination": node.aet,
                "completed": progress.completed,
                "failed": len(progress.failed),
                "cancelled": cancelled,
            },
        )

    def _send_all(
        self, answer: "_Answer", node: Node, stored: Sequence[Stored], progress: Progress
    ) -> bool:
        """Send everything, what broke once more; return whether the requestor cancelled."""
        waiting = list(stored)
        for attempt in range(1, _TRIES + 1):
            broken: list[Stored] = []
            for group in _groups(waiting):
                if self._send_group(answer, node, group, progress, broken):
                    return True
            waiting = broken
            if not waiting:
                break
            if attempt == _TRIES:
                progress.failed += [each.sop_instance_uid for each in waiting]
                progress.remaining -= len(waiting)
        return False

    def _send_group(
        self,
        answer: "_Answer",
        node: Node,
        group: Sequence[Stored],
        progress: Progress,
        broken: list[Stored],
    ) -> bool:
        """Send what one association can carry; what it breaks on and behind goes to `broken`."""
        contexts = dict.fromkeys((each.sop_class_uid, each.transfer_syntax_uid) for each in group)
        unsent = deque(group)
        try:
            with open_association(
                node.address,
                node.port or 0,
                calling_aet=self._ae_title,
                called_aet=node.aet,
                contexts=[(abstract, [transfer]) for abstract, transfer in contexts],
                max_pdu_bytes=self._max_pdu_bytes,
                dimse_seconds=self._dimse_seconds,
            ) as destination:
                for each, file in self._fetch_ahead(group):
                    if answer.cancelled():
                        return True
                    self._send_one(answer, destination, each, file, progress)
                    unsent.popleft()
                    answer.pending(progress)
        except (AssociationAborted, AssociationRefused, ConnectionFailed) as error:
            answer.log.warning(
                "destination failed", extra={"destination": node.aet, "reason": str(error)}
            )
            broken.extend(unsent)
        return False

    def _send_one(
        self,
        answer: "_Answer",
        destination: RequestedAssociation,
        stored: Stored,
        file: "Future[memoryview]",
        progress: Progress,
    ) -> None:
        context = destination.accepted.get((stored.sop_class_uid, stored.transfer_syntax_uid))
        status: int | None = None
        if context is not None:
            try:
                bytes_of_file = file.result()
                response = destination.store(
                    context,
                    sop_class_uid=stored.sop_class_uid,
                    sop_instance_uid=stored.sop_instance_uid,
                    data=[bytes_of_file[data_set_offset(bytes_of_file) :]],
                    move_originator=answer.originator,
                )
                status = response.status
            except (InstanceMissing, StoreUnavailable):
                answer.log.exception(
                    "stored instance not readable", extra={"object_key": stored.object_key}
                )
        progress.remaining -= 1
        if status == Status.SUCCESS:
            progress.completed += 1
        elif status is not None and _is_warning(status):
            progress.warning += 1
        else:
            progress.failed.append(stored.sop_instance_uid)

    def _fetch_ahead(
        self, group: Sequence[Stored]
    ) -> Iterator[tuple[Stored, "Future[memoryview]"]]:
        """Yield each instance with its file, fetching those behind it meanwhile."""
        waiting = iter(group)
        ahead: deque[tuple[Stored, Future[memoryview]]] = deque()
        bytes_ahead = 0
        with ThreadPoolExecutor(_FETCHES_AHEAD) as pool:
            try:
                while True:
                    while len(ahead) < _FETCHES_AHEAD and (bytes_ahead < _BYTES_AHEAD or not ahead):
                        each = next(waiting, None)
                        if each is None:
                            break
                        ahead.append((each, pool.submit(self._custody.get, each.object_key)))
                        bytes_ahead += each.size
                    if not ahead:
                        return
                    each, file = ahead.popleft()
                    yield each, file
                    bytes_ahead -= each.size
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


class _Answer:
    """The responses to one C-MOVE-RQ."""

    def __init__(self, association: Association, message: Message) -> None:
        self._association = association
        self._message = message
        self.log = association.log
        self.originator = (association.peer.calling_aet, message.command.message_id or 0)

    def cancelled(self) -> bool:
        """Tell whether the requestor sent C-CANCEL."""
        try:
            return self._association.cancel_requested(self._message.command.message_id or 0)
        except AssociationAborted as error:
            raise _RequestorGone(error) from error

    def refuse(self, status: MoveStatus, comment: str) -> None:
        """End before any sub-operation."""
        self._send(CommandSet(CommandField.C_MOVE_RSP, status=status, error_comment=comment[:64]))

    def pending(self, progress: Progress) -> None:
        """Report the counts so far."""
        self._send(self._counted(MoveStatus.PENDING, progress, remaining=True))

    def final(self, progress: Progress, *, cancelled: bool) -> None:
        """Report the outcome; PS3.4 C.4.2.1.6: remaining only when cancelled."""
        status = MoveStatus.CANCELLED if cancelled else progress.final_status()
        data = None
        if progress.failed:
            failed: JsonElement = {"vr": "UI", "Value": list(progress.failed)}
            elements = {_FAILED_SOP_INSTANCE_UID_LIST: failed}
            data = write_identifier(elements, self._message.context.transfer_syntax)
        self._send(self._counted(status, progress, remaining=cancelled), data)

    def _counted(self, status: int, progress: Progress, *, remaining: bool) -> CommandSet:
        return CommandSet(
            CommandField.C_MOVE_RSP,
            status=status,
            number_of_remaining_suboperations=progress.remaining if remaining else None,
            number_of_completed_suboperations=progress.completed,
            number_of_failed_suboperations=len(progress.failed),
            number_of_warning_suboperations=progress.warning,
        )

    def _send(self, command: CommandSet, data: bytes | None = None) -> None:
        request = self._message.command
        command.message_id_being_responded_to = request.message_id
        command.affected_sop_class_uid = request.affected_sop_class_uid
        try:
            self._association.send_response(self._message.context, command, data)
        except AssociationAborted as error:
            raise _RequestorGone(error) from error


def _groups(stored: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Split into runs whose presentation contexts fit one association."""
    contexts: set[tuple[str, str]] = set()
    group: list[Stored] = []
    for each in stored:
        context = (each.sop_class_uid, each.transfer_syntax_uid)
        if context not in contexts and len(contexts) == _MOST_CONTEXTS:
            yield group
            contexts, group = set(), []
        contexts.add(context)
        group.append(each)
    if group:
        yield group


def _is_warning(status: int) -> bool:
    """Tell a C-STORE warning: 0001, 0107, 0116 or Bxxx; PS3.7 C.3."""
    return status in (0x0001, 0x0107, 0x0116) or status & 0xF000 == 0xB000  # noqa: PLR2004
