"""DIMSE-N requests, PS3.7 chapter 10: what every one is asked before a SOP class's own rules.

    services = {CommandField.N_SET_RQ: NormalizedService({MPPS: Operation("mpps", perform)})}

A service serves one command field. `perform` gets a request whose SOP class is that of its context,
whose SOP Instance UID is a UID, whose sender has the permission and whose data set has been read;
it returns an `Answer` or raises `Refused`. An operation works with one data set in memory, so a
data set has a limit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from lenticular.dicom_json import JsonElement
from lenticular.errors import CannotUnderstand, SenderError, StoreUnavailable
from lenticular.identifiers import is_uid
from lenticular.status import CommitmentFailure, Status

from .association import Association
from .command_set import CommandField
from .data_set import decode_data_set, encode_data_set
from .messages import BufferSink, DataSetSink, Message

#: 10,000 references with UIDs at their longest take 1.9 MB; a study of four times as many fits in.
DATA_SET_MAX_BYTES: Final = 8 << 20

#: What a data set is called in each operation decides what is wrong when it cannot be read.
_UNREADABLE: Final[Mapping[int, Status]] = MappingProxyType(
    {CommandField.N_ACTION_RQ: Status.INVALID_ARGUMENT_VALUE}
)


class Refused(SenderError):
    """A request that is answered with a failure, PS3.7 annex C.

    `attributes` are the offending ones, by tag. `comment` is for the person who looks after the
    peer, in 64 characters, without a value from the data set.
    """

    def __init__(
        self,
        status: Status | CommitmentFailure,
        comment: str,
        *,
        attributes: tuple[int, ...] = (),
        error_id: int | None = None,
    ) -> None:
        """Say what the response will."""
        super().__init__(comment)
        self.status = status
        self.comment = comment
        self.attributes = attributes
        self.error_id = error_id


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has passed what all are asked.

    `sop_instance_uid` is None only where an N-CREATE leaves it to us, and `elements` is empty where
    no data set came. `action_type_id` is of N-ACTION, `attributes` the list of N-GET.
    """

    association: Association
    sop_class_uid: str
    sop_instance_uid: str | None
    elements: Mapping[int, JsonElement]
    action_type_id: int | None
    attributes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request that succeeded is answered.

    `sop_instance_uid` is needed where the request had none. `elements` go out in the character set
    that they name themselves.
    """

    status: int = Status.SUCCESS
    sop_instance_uid: str | None = None
    elements: Mapping[int, JsonElement] | None = None
    character_set: tuple[str, ...] = ()
    comment: str | None = None
    attributes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """What a SOP class does on a request, and what its sender needs in its `may`.

    `also` are the SOP classes a request may name beside that of its context: classes of one
    family share their instances.
    """

    permission: str
    perform: Callable[[Request], Answer]
    also: frozenset[str] = field(default_factory=frozenset)


class _Bounded(BufferSink):
    """Takes a data set up to the limit and remembers that there was more."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._left = max_bytes
        self.overflowed = False

    def write(self, view: memoryview) -> None:
        """Keep the fragment, or nothing any more."""
        self._left -= len(view)
        if self._left >= 0:
            super().write(view)
        elif not self.overflowed:
            self.overflowed = True
            self.discard()


class NormalizedService:
    """Serves one command field of DIMSE-N; the SOP class of the context says how."""

    failure_status: Final = Status.PROCESSING_FAILURE

    def __init__(
        self, operations: Mapping[str, Operation], *, max_bytes: int = DATA_SET_MAX_BYTES
    ) -> None:
        """Perform `operations`, by SOP class; refuse longer data sets with 0213."""
        self._operations = operations
        self._max_bytes = max_bytes

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002 - the interface of a service
        """Take the data set into memory."""
        return _Bounded(self._max_bytes)

    def handle(self, association: Association, message: Message, sink: DataSetSink | None) -> None:
        """Perform the operation and answer."""
        try:
            operation, request = self._request(association, message, sink)
            answer = operation.perform(request)
        except Refused as refused:
            association.log.warning(
                "request refused",
                extra={
                    "command": CommandField(message.command.command_field).name,
                    "status": f"{refused.status:04X}",
                    "reason": refused.comment,
                    "sop_instance_uid": _loggable(message),
                },
            )
            _refuse(association, message, refused)
        except StoreUnavailable as error:
            association.log.warning(
                "request not performed",
                extra={"reason": str(error), "sop_instance_uid": _loggable(message)},
            )
            unavailable = Refused(
                Status.RESOURCE_LIMITATION, "storage is unavailable, send again later"
            )
            _refuse(association, message, unavailable)
        else:
            _answer(association, message, answer)

    def _request(
        self, association: Association, message: Message, sink: DataSetSink | None
    ) -> tuple[Operation, Request]:
        command, context = message.command, message.context
        operation = self._operations.get(context.abstract_syntax)
        if operation is None:
            raise Refused(
                Status.UNRECOGNIZED_OPERATION, "the SOP class of this context has no such operation"
            )
        if operation.permission not in association.peer.permissions:
            raise Refused(
                Status.NOT_AUTHORIZED, f"this node has no permission {operation.permission}"
            )
        creates = command.command_field == CommandField.N_CREATE_RQ
        sop_class_uid = (
            command.affected_sop_class_uid if creates else command.requested_sop_class_uid
        ) or ""
        if sop_class_uid not in {context.abstract_syntax, *operation.also}:
            raise Refused(Status.NO_SUCH_SOP_CLASS, "the SOP class is not that of the context")
        uid = command.affected_sop_instance_uid if creates else command.requested_sop_instance_uid
        if not (uid is None and creates) and not is_uid(uid or ""):
            raise Refused(Status.INVALID_OBJECT_INSTANCE, "the SOP Instance UID is not a UID")
        if isinstance(sink, _Bounded) and sink.overflowed:
            raise Refused(
                Status.RESOURCE_LIMITATION, f"the data set is longer than {self._max_bytes} bytes"
            )
        return operation, Request(
            association,
            sop_class_uid,
            uid,
            self._elements(message),
            command.action_type_id,
            command.attribute_identifier_list or (),
        )

    def _elements(self, message: Message) -> Mapping[int, JsonElement]:
        try:
            return decode_data_set(
                message.data or b"",
                message.context.transfer_syntax,
                max_bytes=self._max_bytes,
                binary=True,
            )
        except CannotUnderstand as error:
            status = _UNREADABLE.get(message.command.command_field, Status.PROCESSING_FAILURE)
            raise Refused(status, str(error)) from error


def _answer(association: Association, message: Message, answer: Answer) -> None:
    response = message.command.response(answer.status, answer.comment)
    response.affected_sop_instance_uid = (
        answer.sop_instance_uid or response.affected_sop_instance_uid
    )
    response.attribute_identifier_list = answer.attributes or None
    # PS3.7 10.3.4.2: needed where there is an action reply, allowed always.
    response.action_type_id = message.command.action_type_id
    syntax = message.context.transfer_syntax
    data = (
        None
        if answer.elements is None
        else encode_data_set(answer.elements, syntax, answer.character_set)
    )
    association.send_response(message.context, response, data)


def _refuse(association: Association, message: Message, refused: Refused) -> None:
    response = message.command.response(refused.status, refused.comment)
    response.error_id = refused.error_id
    response.attribute_identifier_list = refused.attributes or None
    association.send_response(message.context, response)


def _loggable(message: Message) -> str | None:
    command = message.command
    uid = command.requested_sop_instance_uid or command.affected_sop_instance_uid or ""
    # What is no UID may be anything.
    return uid if is_uid(uid) else None
