"""DIMSE messages on a wire: a command set, perhaps a data set, in fragments (PS3.7 6.3, PS3.8 E).

`MessageExchange` is both sides' half of it: the acceptor reads requests and writes responses, the
requestor the other way round, and C-GET and N-EVENT-REPORT turn the acceptor into a requestor for a
while. What is a violation here is one of order (fragments of two messages mixed, a data set without
its command, a response nobody waits for), and ends the association: after it, nothing that comes
could be told apart any more.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from lenticular.errors import SenderError

from .command_set import (
    DATA_SET_PRESENT,
    NO_DATA_SET,
    CommandField,
    CommandSet,
    CommandSetError,
    decode,
    encode,
)
from .pdu import COMMAND_FRAGMENT, DATA_SET_FRAGMENT, LAST_FRAGMENT, AbortReason, Pdv
from .wire import AssociationAborted, Outcome, Wire

#: Data sets of ordinary services (identifiers, action information) stay below this.
BUFFERED_DATA_SET_MAX_BYTES: Final = 16 << 20
#: A command set with every element at its longest takes 1 KiB, and a list of attribute tags of
#: N-GET the rest.
COMMAND_SET_MAX_BYTES: Final = 64 << 10

_MESSAGE_ID_MAX: Final = 0xFFFF
_NAMES: Final[Mapping[int, str]] = {field.value: field.name for field in CommandField}


@dataclass(frozen=True, slots=True)
class PresentationContext:
    """What both sides agreed to speak under one context ID."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


class DataSetTooLong(SenderError):
    """The peer's data set is longer than its service takes."""


class DataSetSink(Protocol):
    """Takes one data set, fragment by fragment, while it arrives.

    Either `complete` or `discard` ends it. An exception of `write` or `complete` fails this message
    alone: `discard` is called, the rest of the data set is read and thrown away, and the peer hears
    the service's `failure_status`. After `complete` the sink is the service's own.
    """

    def write(self, view: memoryview) -> None:
        """Take the next bytes; the view is only valid during the call."""

    def complete(self) -> None:
        """Know that the data set is whole; `Service.handle` follows."""

    def discard(self) -> None:
        """Forget everything, for the message will not be handled. Must not raise."""


class BufferSink:
    """Keeps a data set in memory, up to a limit; `Message.data` then has it."""

    def __init__(self, max_bytes: int = BUFFERED_DATA_SET_MAX_BYTES) -> None:
        """Refuse data sets longer than `max_bytes` with `DataSetTooLong`."""
        self._max_bytes = max_bytes
        self._data = bytearray()

    def write(self, view: memoryview) -> None:
        """Keep a copy of the fragment."""
        if len(self._data) + len(view) > self._max_bytes:
            raise DataSetTooLong(f"the data set is longer than {self._max_bytes} bytes")
        self._data += view

    def complete(self) -> None:
        """Do nothing: the bytes are there."""

    def discard(self) -> None:
        """Free the memory."""
        self._data = bytearray()

    def data(self) -> bytes:
        """Return the data set."""
        return bytes(self._data)


@dataclass(slots=True)
class Message:
    """One message as a service sees it.

    `data` is the data set where the sink was a `BufferSink`; it is `None` where no data set came,
    where the service's own sink took it, and always in `Service.begin`.
    """

    command: CommandSet
    context: PresentationContext
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that has been read to its end.

    `failure` is what `begin` or the sink raised; the sink has been discarded then.
    """

    message: Message
    sink: DataSetSink | None
    failure: Exception | None


class _Intake:
    """A service's sink that may fail without costing the association.

    Whatever the service raises is kept, so that the data set is read to its end and the next
    message is found.
    """

    def __init__(self, message: Message, begin: Callable[[Message], DataSetSink]) -> None:
        self.sink: DataSetSink | None = None
        self.failure: Exception | None = None
        try:
            self.sink = begin(message)
        except Exception as error:  # noqa: BLE001 - see the class
            self.failure = error

    def write(self, view: memoryview) -> None:
        if self.sink is not None and self.failure is None:
            try:
                self.sink.write(view)
            except Exception as error:  # noqa: BLE001 - see the class
                self._fail(error)

    def complete(self) -> None:
        if self.sink is not None and self.failure is None:
            try:
                self.sink.complete()
            except Exception as error:  # noqa: BLE001 - see the class
                self._fail(error)

    def discard(self) -> None:
        if self.sink is not None and self.failure is None:
            self.sink.discard()

    def _fail(self, error: Exception) -> None:
        self.discard()
        self.failure = error


def _buffer(_message: Message) -> DataSetSink:
    return BufferSink()


class MessageExchange:
    """Reads and writes whole messages on an established association.

    Attributes:
        contexts: accepted presentation contexts by ID
        counts: messages that came and went, by the name of their command field
    """

    def __init__(self, wire: Wire, contexts: Mapping[int, PresentationContext]) -> None:
        """Speak over `wire`, on `contexts` only."""
        self.contexts = contexts
        self.counts: Counter[str] = Counter()
        self._wire = wire
        self._cancelled: set[int] = set()
        self._last_message_id = 0

    def receive(self, begin: Callable[[Message], DataSetSink]) -> Arrival | None:
        """Read one message into what `begin` returns; `None` when release is asked for instead."""
        self._wire.begin_message()
        first = self._wire.next_pdv()
        if first is None:
            return None
        message = Message(*self._receive_command(first))
        self.counts[_name(message.command)] += 1
        if not message.command.has_data_set:
            return Arrival(message, None, None)
        return self._receive_data_set(message, begin)

    def _receive_command(self, pdv: Pdv | None) -> tuple[CommandSet, PresentationContext]:
        first = pdv
        encoded = bytearray()
        while True:
            if pdv is None or first is None:
                self._broken_off()
            self._check(pdv, first.context_id, COMMAND_FRAGMENT)
            left = pdv.length
            if len(encoded) + left > COMMAND_SET_MAX_BYTES:
                self._wire.message_violation(
                    f"a command set is longer than {COMMAND_SET_MAX_BYTES} bytes"
                )
            while left:
                view = self._wire.take(left)
                encoded += view
                left -= len(view)
            if pdv.control & LAST_FRAGMENT:
                break
            pdv = self._wire.next_pdv()
        try:
            return decode(bytes(encoded)), self.contexts[first.context_id]
        except CommandSetError as error:
            self._wire.message_violation(str(error))

    def _receive_data_set(
        self, message: Message, begin: Callable[[Message], DataSetSink]
    ) -> Arrival:
        intake = _Intake(message, begin)
        last = False
        try:
            while not last:
                pdv = self._wire.next_pdv()
                if pdv is None:
                    self._broken_off()
                self._check(pdv, message.context.context_id, DATA_SET_FRAGMENT)
                left = pdv.length
                while left:
                    view = self._wire.take(left)
                    left -= len(view)
                    intake.write(view)
                last = bool(pdv.control & LAST_FRAGMENT)
        except BaseException:
            intake.discard()
            raise
        intake.complete()
        if isinstance(intake.sink, BufferSink):
            message.data = intake.sink.data()
        return Arrival(message, intake.sink, intake.failure)

    def _check(self, pdv: Pdv, context_id: int, kind: int) -> None:
        """Hold a fragment against PS3.8 E.1: one message at a time, command before data set."""
        if pdv.context_id not in self.contexts:
            self._wire.violation(
                AbortReason.INVALID_PDU_PARAMETER_VALUE,
                f"presentation context {pdv.context_id} was not accepted",
            )
        if pdv.context_id != context_id:
            self._wire.violation(
                AbortReason.UNEXPECTED_PDU_PARAMETER,
                "a message goes on in another presentation context",
            )
        if pdv.control & COMMAND_FRAGMENT != kind:
            self._wire.violation(
                AbortReason.UNEXPECTED_PDU_PARAMETER,
                "a fragment of a data set came where a command was due"
                if kind == COMMAND_FRAGMENT
                else "a fragment of a command came where a data set was due",
            )

    def _broken_off(self) -> NoReturn:
        self._wire.answer_release()
        raise AssociationAborted(
            "the peer released the association within a message", Outcome.RELEASED
        )

    def send(
        self,
        context: PresentationContext,
        command: CommandSet,
        data: bytes | Iterable[bytes | memoryview] | None = None,
    ) -> None:
        """Send one message; fills in its data set type."""
        command.command_data_set_type = NO_DATA_SET if data is None else DATA_SET_PRESENT
        self._wire.send_message(context.context_id, encode(command), data)
        self.counts[_name(command)] += 1

    def send_each(
        self, context: PresentationContext, command: CommandSet, data_sets: Sequence[bytes]
    ) -> None:
        """Send a message for each data set, all of one command set, in one write."""
        command.command_data_set_type = DATA_SET_PRESENT
        self._wire.send_messages(context.context_id, encode(command), data_sets)
        self.counts[_name(command)] += len(data_sets)

    def request(
        self,
        context: PresentationContext,
        command: CommandSet,
        data: bytes | Iterable[bytes | memoryview] | None = None,
        *,
        response_seconds: float,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[CommandSet, bytes | None]:
        """Send a request and wait for its response; fills in a missing message ID.

        `meanwhile` is called while the peer is at it.
        """
        if command.message_id is None:
            self._last_message_id = self._last_message_id % _MESSAGE_ID_MAX + 1
            command.message_id = self._last_message_id
        self.send(context, command, data)
        if meanwhile is not None:
            meanwhile()
        while True:
            if not self._wire.wait(response_seconds):
                self._wire.time_out(f"did not answer {_name(command)} in {response_seconds:g} s")
            arrival = self.receive(_buffer)
            if arrival is None:
                self._wire.answer_release()
                raise AssociationAborted(
                    f"the peer released the association instead of answering {_name(command)}",
                    Outcome.RELEASED,
                )
            answer = arrival.message.command
            if answer.command_field == CommandField.C_CANCEL_RQ:
                self.note_cancel(answer)
            elif (
                not answer.is_response
                or answer.message_id_being_responded_to != command.message_id
                or answer.status is None
            ):
                self._wire.message_violation(
                    f"{_name(answer)} came where the response to {_name(command)} was due"
                )
            elif arrival.failure is not None:
                self._wire.abort()
                raise AssociationAborted(
                    f"the response to {_name(command)} cannot be taken: {arrival.failure}",
                    Outcome.ABORTED_BY_US,
                )
            else:
                return answer, arrival.message.data

    def note_cancel(self, command: CommandSet) -> None:
        """Remember a C-CANCEL-RQ, PS3.7 9.3.2.3; it has no response."""
        if command.message_id_being_responded_to is not None:
            self._cancelled.add(command.message_id_being_responded_to)

    def forget_cancels(self) -> None:
        """Drop C-CANCEL-RQs that came too late: their operation has ended."""
        self._cancelled.clear()

    def cancel_requested(self, message_id: int) -> bool:
        """Look, without waiting, for a C-CANCEL-RQ; anything else stays to be received."""
        while message_id not in self._cancelled:
            peeked = self._wire.peek_fragment()
            if peeked is None:
                return False
            pdv, view = peeked
            if pdv.context_id not in self.contexts or not _is_whole_command(pdv):
                return False
            try:
                command = decode(view)
            except CommandSetError:
                return False
            if command.command_field != CommandField.C_CANCEL_RQ or command.has_data_set:
                return False
            self._wire.drop_peeked(pdv)
            self.counts[_name(command)] += 1
            self.note_cancel(command)
        return True


def _is_whole_command(pdv: Pdv) -> bool:
    return bool(pdv.control & COMMAND_FRAGMENT and pdv.control & LAST_FRAGMENT)


def _name(command: CommandSet) -> str:
    """Return the message's name, one for all that do not exist: it becomes a key of the counts."""
    return _NAMES.get(command.command_field, "UNKNOWN")
