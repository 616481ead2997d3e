"""One association that a peer opened with us: negotiation, then messages until it ends.

    request bytes ─▶ decode ─▶ Acceptance.decide ─▶ AC or RJ
                                                     │
             ┌───────────── message ◀────────────────┘
             ▼                                       ▲
    Service.begin ─▶ sink.write ... ─▶ Service.handle ─▶ responses

All of it happens in the association's own thread. It ends by the peer's A-RELEASE, by ours (or our
A-ABORT) after `idle_seconds` of silence, or by an abort of either side, and leaves one log line.
"""

import contextlib
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Protocol

from lenticular.errors import SenderError
from lenticular.identifiers import is_uid
from lenticular.settings import IdleEnd
from lenticular.status import FindStatus, Status

from .command_set import CommandField, CommandSet
from .messages import (
    Arrival,
    BufferSink,
    DataSetSink,
    Message,
    MessageExchange,
    PresentationContext,
)
from .negotiation import (
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_NOT_SUPPORTED,
    DEFAULT_ROLES,
    PROTOCOL_VERSION,
    TEMPORARY_CONGESTION,
    VERSION_NOT_SUPPORTED,
    Accepted,
    AssociationRequest,
    ContextResult,
    MalformedPdu,
    QueryOption,
    Rejected,
    RejectResult,
    Roles,
    TurnedAway,
    UserIdentity,
    decode_request,
    encode_acceptance,
    encode_rejection,
)
from .pdu import AbortReason, Pdu, State
from .wire import AssociationAborted, Outcome, Wire, tune

_log: Final = logging.getLogger(__name__)
#: After these more responses to the same request follow, PS3.7 C.3.
_PENDING: Final = frozenset({FindStatus.PENDING, FindStatus.PENDING_OPTIONAL_KEYS_NOT_SUPPORTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much and how long a peer may take.

    `drain_idle_seconds` takes the place of `idle_seconds` while the server drains: long enough for
    the pause between two instances of a study, short beside a drain's deadline.
    """

    max_associations: int = 10
    max_pdu_bytes: int = 128 * 1024
    artim_seconds: float = 30
    idle_seconds: float = 600
    idle_end: IdleEnd = "release"
    dimse_seconds: float = 60
    drain_idle_seconds: float = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end; `roles` (the requestor's) and `extended` are as we answered."""

    calling_aet: str
    called_aet: str
    address: str
    port: int
    implementation_class_uid: str
    implementation_version_name: str
    max_pdu_bytes: int
    roles: Mapping[str, Roles]
    extended: Mapping[str, bytes]
    permissions: frozenset[str]

    def roles_for(self, sop_class_uid: str) -> Roles:
        """Return the requestor's roles for a SOP class, negotiated or by default."""
        return self.roles.get(sop_class_uid, DEFAULT_ROLES)

    def agreed_on(self, sop_class_uid: str, option: QueryOption) -> bool:
        """Tell whether an option of a query class was negotiated; without a word it was not."""
        agreed = self.extended.get(sop_class_uid, b"")
        return len(agreed) > option and agreed[option] == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What an association did; `responses` counts our final ones by command field and status.

    `objects_missing` counts instances to be retrieved that the index has and the bucket has not.
    """

    outcome: Outcome
    seconds: float
    bytes_received: int
    bytes_sent: int
    responses: Mapping[tuple[int, int], int]
    objects_missing: int = 0


@dataclass(slots=True)
class Fate:
    """How an association ended, for who outlives it; `outcome` is None while it lives."""

    outcome: Outcome | None = None


class Acceptance(Protocol):
    """Decides who may associate and for what."""

    def decide(self, request: AssociationRequest) -> Accepted | Rejected:
        """Answer a request whose protocol version and application context are DICOM's."""


class Service(Protocol):
    """Serves the messages of one or more command fields; one object, many threads."""

    @property
    def failure_status(self) -> int:
        """Answered when `begin`, a sink or `handle` raises."""

    def begin(self, association: "Association", message: Message) -> DataSetSink:
        """Return where the data set goes; called when the command is there and a data set follows.

        `BufferSink()` serves whoever wants it in `message.data`.
        """

    def handle(
        self, association: "Association", message: Message, sink: DataSetSink | None
    ) -> None:
        """Act on a whole message and send its responses with `association.send_response`.

        `sink` is what `begin` returned, complete; `None` where no data set followed.
        """


class _FactsOnEachLine(logging.LoggerAdapter[logging.Logger]):
    """Adds an association's facts to those of each line."""

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[object, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class Association:
    """An association that a peer asks for, used only by its own thread, but for `cut`.

    Every method that touches the network raises `AssociationAborted` when the association is gone;
    services let it pass.

    Attributes:
        id: short random text, on every log line
        peer: who asked
        contexts: accepted presentation contexts by ID
        user_identity: as the peer gave it; not to be logged
        fate: how it ended, once it has
        log: a logger that puts `association`, `calling_aet`, `called_aet` and `address` on each
            line
        objects_missing: how many instances a service did not find where the index has them
        at_end: what is called when it is over, if it was ever established
    """

    peer: Peer
    user_identity: UserIdentity | None

    def __init__(  # noqa: PLR0913 - what an association needs of its server
        self,
        sock: socket.socket,
        address: tuple[str, int],
        *,
        acceptance: Acceptance,
        services: Mapping[int, Service],
        limits: Limits,
        drain_wake: int | None = None,
        on_end: Callable[[], None] = lambda: None,
        report: Callable[[Ended], None] | None = None,
        on_refusal: Callable[[TurnedAway], None] | None = None,
        on_rejection: Callable[[Rejected], None] | None = None,
    ) -> None:
        """Take over a connection whose A-ASSOCIATE-RQ has been read.

        `drain_wake` is a file descriptor that becomes readable when the server drains. `on_end` is
        called once, when the association no longer counts and before the peer can know it.
        `report` gets what it did, if it was ever established. `on_refusal` is told of a peer that
        is refused for good, `on_rejection` of each A-ASSOCIATE-RJ.
        """
        self.id = secrets.token_hex(4)
        self.at_end: list[Callable[[], None]] = []
        self._on_refusal = on_refusal
        self._on_rejection = on_rejection
        self.contexts: dict[int, PresentationContext] = {}
        self.fate = Fate()
        self.log = _FactsOnEachLine(_log, {"association": self.id, "address": address[0]})
        self._address = address
        self._acceptance = acceptance
        self._services = services
        self._limits = limits
        self._idle_seconds = limits.idle_seconds
        self._on_end: Callable[[], None] | None = on_end
        self._report = report
        self._responses: Counter[tuple[int, int]] = Counter()
        self.objects_missing = 0
        self._answered = False
        tune(sock)
        self._wire = Wire(
            sock,
            State.AWAITING_OUR_ANSWER,
            max_pdu_bytes=limits.max_pdu_bytes,
            dimse_seconds=limits.dimse_seconds,
            artim_seconds=limits.artim_seconds,
            wake=drain_wake,
        )
        self._tls_version = self._wire.tls_version
        self._exchange = MessageExchange(self._wire, self.contexts)
        self._refused: dict[str, str] = {}

    # For services

    @property
    def is_established(self) -> bool:
        """Whether messages can still be exchanged."""
        return self._wire.state is State.DATA_TRANSFER

    def send_response(
        self, context: PresentationContext, command: CommandSet, data: bytes | None = None
    ) -> None:
        """Send one response; the data set type is filled in.

        A small one leaves in a single write.
        """
        self._exchange.send(context, command, data)
        self._answered = command.status not in _PENDING
        if self._answered and command.status is not None:
            self._responses[command.command_field, command.status] += 1

    def send_pending(
        self, context: PresentationContext, command: CommandSet, data_sets: Sequence[bytes]
    ) -> None:
        """Send a pending response for each of some short data sets, in a single write.

        `command` serves for all of them; the data set type is filled in.
        """
        assert command.status in _PENDING
        self._exchange.send_each(context, command, data_sets)

    def cancel_requested(self, message_id: int | None) -> bool:
        """Look, without waiting, whether the peer sent C-CANCEL-RQ for `message_id`.

        Raises `AssociationAborted` when the look finds an A-ABORT or a closed connection.
        """
        return message_id is not None and self._exchange.cancel_requested(message_id)

    def request(
        self,
        context: PresentationContext,
        command: CommandSet,
        data: bytes | Iterable[bytes | memoryview] | None = None,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[CommandSet, bytes | None]:
        """Send a request of ours to the requestor and wait for its response.

        For sub-operations on the same association (C-GET, N-EVENT-REPORT). `message_id` is filled
        in when it is `None`. A C-CANCEL-RQ that comes meanwhile is kept for `cancel_requested`.
        `meanwhile` is called while the requestor is at it.
        """
        return self._exchange.request(
            context,
            command,
            data,
            response_seconds=self._limits.dimse_seconds,
            meanwhile=meanwhile,
        )

    def abort(self) -> None:
        """Send A-ABORT (service user); the association is then gone for every other method."""
        self._wire.abort()

    # For the server

    def cut(self, because: str, patience_seconds: float) -> None:
        """End the association from another thread; a write that runs has so long to end."""
        self._wire.cut(because, patience_seconds)

    def run(self, encoded_request: bytes) -> socket.socket | None:
        """Negotiate and serve until the association ends.

        Returns the connection where it is the peer's turn to close it (Sta13).
        """
        began = monotonic()
        self._wire.bytes_received = len(encoded_request)
        try:
            if self._negotiate(encoded_request):
                self._end(self._serve(), began)
        except Exception:
            # Nothing a peer does leads here; a mistake of ours must end one association only.
            self.log.exception("association failed")
            self._wire.abort()
        finally:
            self._no_longer_counts()
            for callback in self.at_end:
                callback()
        return self._wire.detach()

    def _no_longer_counts(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def _end(self, outcome: Outcome, began: float) -> None:
        self.fate.outcome = outcome
        ended = Ended(
            outcome=outcome,
            seconds=round(monotonic() - began, 3),
            bytes_received=self._wire.bytes_received,
            bytes_sent=self._wire.bytes_sent,
            responses=self._responses,
            objects_missing=self.objects_missing,
        )
        self.log.info(
            "association ended",
            extra={
                "outcome": outcome.value,
                "port": self.peer.port,
                "tls": self._tls_version,
                "messages": dict(self._exchange.counts),
                "refused_contexts": self._refused,
                "bytes_received": ended.bytes_received,
                "bytes_sent": ended.bytes_sent,
                "seconds": ended.seconds,
            },
        )
        if self._report is not None:
            self._report(ended)

    # Negotiation

    def _negotiate(self, encoded_request: bytes) -> bool:
        """Answer the request; tell whether there is an association now."""
        try:
            request = decode_request(encoded_request, *self._address)
        except MalformedPdu as error:
            self._no_longer_counts()
            with contextlib.suppress(AssociationAborted):
                self._wire.violation(AbortReason.INVALID_PDU_PARAMETER_VALUE, str(error))
            self.log.warning("association request not understood", extra={"reason": str(error)})
            return False
        titles = {"calling_aet": request.calling_aet, "called_aet": request.called_aet}
        self.log.extra = {**(self.log.extra or {}), **titles}
        verdict = self._decide(request)
        try:
            if isinstance(verdict, Accepted):
                self._accept(request, verdict)
                return True
            self.log.warning("association rejected", extra={"reason": verdict.why})
            if self._on_rejection is not None:
                self._on_rejection(verdict)
            if self._on_refusal is not None and verdict.result is RejectResult.PERMANENT:
                self._on_refusal(TurnedAway(request.address, verdict.why, **titles))
            self._no_longer_counts()
            self._wire.send_pdu(Pdu.ASSOCIATE_RJ, encode_rejection(verdict))
        except AssociationAborted as error:
            self.log.info("association request given up", extra={"reason": str(error)})
        return False

    def _decide(self, request: AssociationRequest) -> Accepted | Rejected:
        if not request.protocol_version & PROTOCOL_VERSION:
            return VERSION_NOT_SUPPORTED
        if request.application_context != APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT_NOT_SUPPORTED
        try:
            return self._acceptance.decide(request)
        except Exception:
            self.log.exception("acceptance of an association failed")
            return TEMPORARY_CONGESTION

    def _accept(self, request: AssociationRequest, accepted: Accepted) -> None:
        proposed = {context.context_id: context for context in request.contexts}
        for answer in accepted.contexts:
            if answer.result is ContextResult.ACCEPTANCE:
                self.contexts[answer.context_id] = PresentationContext(
                    answer.context_id,
                    proposed[answer.context_id].abstract_syntax,
                    answer.transfer_syntax,
                )
            else:
                abstract_syntax = proposed[answer.context_id].abstract_syntax
                self._refused[abstract_syntax] = answer.result.name.lower()
        self.user_identity = request.user_identity
        self.peer = Peer(
            calling_aet=request.calling_aet,
            called_aet=request.called_aet,
            address=request.address,
            port=request.port,
            implementation_class_uid=request.implementation_class_uid,
            implementation_version_name=request.implementation_version_name,
            max_pdu_bytes=request.max_pdu_bytes,
            roles=accepted.roles,
            extended=accepted.extended,
            permissions=accepted.permissions,
        )
        self._wire.set_peer_max_pdu(request.max_pdu_bytes)
        self._wire.send_pdu(
            Pdu.ASSOCIATE_AC, encode_acceptance(request, accepted, self._limits.max_pdu_bytes)
        )

    # Messages

    def _serve(self) -> Outcome:
        """Serve messages until the association ends; tell how it did."""
        try:
            while self._next_message_begins():
                arrival = self._exchange.receive(self._begin)
                if arrival is None:
                    # Before the peer can know: it may come again at once and find its slot taken.
                    self._no_longer_counts()
                    self.fate.outcome = Outcome.RELEASED
                    self._wire.answer_release()
                    return Outcome.RELEASED
                self._dispatch(arrival)
                self._exchange.forget_cancels()
            self._no_longer_counts()
            if self._limits.idle_end == "abort":
                self._wire.time_out("sent no message for too long")
            self._wire.release()
        except AssociationAborted as error:
            if error.outcome is not Outcome.RELEASED:
                self.log.warning("association aborted", extra={"reason": str(error)})
            return error.outcome
        return Outcome.RELEASED_IDLE

    def _next_message_begins(self) -> bool:
        """Wait for the peer's next message; False when it is time to release."""
        if not self.is_established:
            raise AssociationAborted("a service aborted the association", Outcome.ABORTED_BY_US)
        deadline = monotonic() + self._idle_seconds
        while not self._wire.wait(max(0.0, deadline - monotonic())):
            now = monotonic()
            if now >= deadline:
                return False
            # Woken by the server, which drains.
            self._idle_seconds = min(self._idle_seconds, self._limits.drain_idle_seconds)
            deadline = min(deadline, now + self._idle_seconds)
        return True

    def _begin(self, message: Message) -> DataSetSink:
        service = self._services.get(message.command.command_field)
        return BufferSink() if service is None else service.begin(self, message)

    def _dispatch(self, arrival: Arrival) -> None:
        """Have a message handled, or answer for the service that could not."""
        command = arrival.message.command
        if command.command_field == CommandField.C_CANCEL_RQ:
            return  # too late: what it would stop has been answered
        if command.is_response:
            self._wire.message_violation("a response came that nothing asked for")
        service = self._services.get(command.command_field)
        if service is None:
            self.log.warning(
                "no service for a message", extra={"command_field": command.command_field}
            )
            self._respond(arrival.message, Status.UNRECOGNIZED_OPERATION)
            return
        self._answered = False
        failure = arrival.failure
        if failure is None:
            try:
                service.handle(self, arrival.message, arrival.sink)
            except AssociationAborted as error:
                # A service may also have lost another association, which it opened itself.
                if not self.is_established:
                    raise
                failure = error
            except Exception as error:  # noqa: BLE001 - the peer must hear of any failure
                failure = error
        if failure is not None:
            self._log_failure(command, failure)
            if not self._answered and self.is_established:
                self._respond(arrival.message, service.failure_status)

    def _log_failure(self, command: CommandSet, failure: Exception) -> None:
        uid = command.affected_sop_instance_uid or ""
        facts = {
            "message_id": command.message_id,
            "command": CommandField(command.command_field).name,
            # What is no UID may be anything.
            "sop_instance_uid": uid if is_uid(uid) else None,
        }
        if isinstance(failure, SenderError):
            self.log.warning("message refused", extra={**facts, "reason": str(failure)})
        else:
            self.log.error("service failed", extra=facts, exc_info=failure)

    def _respond(self, message: Message, status: int) -> None:
        self.send_response(message.context, message.command.response(status))
