"""Associations that the gateway opens, for C-STORE sub-operations.

The same wire and messages as the acceptor's, from the other side. Every failure is one exception
with one sentence that names the peer.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import MappingProxyType, TracebackType
from typing import Final, Self

from lenticular.sop_classes import VERIFICATION
from lenticular.tls_calling import Tls

from .abandoned import ABANDONED
from .command_set import CommandField, CommandSet, Priority
from .messages import MessageExchange, PresentationContext
from .negotiation import (
    MAX_CONTEXTS,
    REJECT_REASONS,
    Answer,
    ContextResult,
    MalformedPdu,
    ProposedContext,
    RejectResult,
    Roles,
    decode_acceptance,
    encode_request,
)
from .pdu import Pdu, State
from .wire import (
    LOOK_SECONDS,
    AssociationAborted,
    AssociationRefused,
    ConnectionFailed,
    Interrupted,
    Outcome,
    PeerTimeout,
    Wire,
    tune,
)

__all__ = [
    "AssociationAborted",
    "AssociationRefused",
    "ConnectionFailed",
    "Interrupted",
    "PeerTimeout",
    "RequestedAssociation",
    "open_association",
]

_NO_ROLES: Final[Mapping[str, Roles]] = MappingProxyType({})


class RequestedAssociation:
    """An association we opened; used by one thread at a time.

    A context manager: leaving the block releases, or aborts when an exception leaves it.

    Attributes:
        accepted: contexts by (abstract syntax, transfer syntax)
        roles: what the acceptor answered to proposed roles, by SOP class
        peer_name: the called AE title and where it is, for messages
    """

    def __init__(
        self,
        wire: Wire,
        contexts: Sequence[PresentationContext],
        roles: Mapping[str, Roles],
        *,
        peer_name: str,
        dimse_seconds: float,
    ) -> None:
        """Take over an established association."""
        self.accepted: Mapping[tuple[str, str], PresentationContext] = {
            (context.abstract_syntax, context.transfer_syntax): context for context in contexts
        }
        self.roles = roles
        self.peer_name = peer_name
        self._wire = wire
        self._dimse_seconds = dimse_seconds
        self._exchange = MessageExchange(
            wire, {context.context_id: context for context in contexts}
        )

    @property
    def is_established(self) -> bool:
        """Whether requests can still be sent; a failed one may have ended it."""
        return self._wire.state is State.DATA_TRANSFER

    def context_for(self, abstract_syntax: str) -> PresentationContext | None:
        """Return an accepted context for an abstract syntax, whatever its transfer syntax."""
        return next(
            (
                context
                for (abstract, _), context in self.accepted.items()
                if abstract == abstract_syntax
            ),
            None,
        )

    def store(  # noqa: PLR0913 - the parameters of the C-STORE service, PS3.7 9.1.1.1
        self,
        context: PresentationContext,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        data: bytes | Iterable[bytes | memoryview],
        priority: int = Priority.MEDIUM,
        move_originator: tuple[str, int] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> CommandSet:
        """Send one encoded data set and return the C-STORE-RSP; its `status` is never `None`.

        Chunks of `data` must not change once given. `meanwhile` is called when the instance has
        been sent and the acceptor is at it. When it raises, half an instance has been
        sent: the association is aborted and the exception goes on.
        """
        originator_aet, originator_message_id = move_originator or (None, None)
        response, _ = self.request(
            context,
            CommandSet(
                CommandField.C_STORE_RQ,
                affected_sop_class_uid=sop_class_uid,
                affected_sop_instance_uid=sop_instance_uid,
                priority=priority,
                move_originator_ae_title=originator_aet,
                move_originator_message_id=originator_message_id,
            ),
            data,
            meanwhile=meanwhile,
        )
        return response

    def echo(self) -> CommandSet:
        """Send C-ECHO-RQ on the accepted Verification context, or raise `ConnectionFailed`."""
        context = self.context_for(VERIFICATION)
        if context is None:
            raise ConnectionFailed(f"{self.peer_name} did not accept Verification")
        response, _ = self.request(
            context, CommandSet(CommandField.C_ECHO_RQ, affected_sop_class_uid=VERIFICATION)
        )
        return response

    def request(
        self,
        context: PresentationContext,
        command: CommandSet,
        data: bytes | Iterable[bytes | memoryview] | None = None,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[CommandSet, bytes | None]:
        """Send a request and return its response; `message_id` is filled in when `None`."""
        return self._exchange.request(
            context,
            command,
            data,
            response_seconds=self._dimse_seconds,
            meanwhile=meanwhile,
        )

    def release(self) -> None:
        """End the association in order; the peer has `artim_seconds` to agree.

        Nothing is raised when it does not: every response is here already.
        """
        if self.is_established:
            with contextlib.suppress(AssociationAborted):
                self._wire.release()
        # Where it was not agreed to; otherwise there is nobody left to hear of it.
        self._wire.abort()
        self._wire.close()

    def abort(self) -> None:
        """End the association at once."""
        self._wire.abort()
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.release()
        else:
            self.abort()


def open_association(  # noqa: PLR0913 - each is negotiated or limits what a peer can do to us
    address: str,
    port: int,
    *,
    calling_aet: str,
    called_aet: str,
    contexts: Sequence[tuple[str, Sequence[str]]],
    max_pdu_bytes: int = 128 * 1024,
    connect_seconds: float = 10,
    artim_seconds: float = 30,
    dimse_seconds: float = 60,
    roles: Mapping[str, Roles] = _NO_ROLES,
    tls: Tls | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> RequestedAssociation:
    """Connect, negotiate `contexts`: pairs of abstract syntax and transfer syntaxes, 128 at most.

    `roles` proposes SCP/SCU roles by SOP class. An association on which no context was accepted is
    returned like any other: `accepted` is empty. `interrupted` is asked a few times a second
    whenever the peer keeps us waiting, now and later, whether the association is wanted no more.

    Raises:
        ConnectionFailed: nobody listens there, or there is no TLS session with who does.
        AssociationRefused: the peer rejected it; the sentence names the reason.
        AssociationAborted: it ended instead of being answered.
        PeerTimeout: there was no answer in `artim_seconds`.
        Interrupted: `interrupted` said so.
    """
    if not 1 <= len(contexts) <= MAX_CONTEXTS:
        raise ValueError(f"an association has 1 to {MAX_CONTEXTS} contexts, not {len(contexts)}")
    peer_name = f"{called_aet} at {address}:{port}"
    proposed = [
        ProposedContext(2 * position + 1, abstract, tuple(transfer))
        for position, (abstract, transfer) in enumerate(contexts)
    ]
    wire = Wire(
        _connect(address, port, peer_name, connect_seconds, tls, interrupted),
        State.CONNECTED,
        max_pdu_bytes=max_pdu_bytes,
        dimse_seconds=dimse_seconds,
        artim_seconds=artim_seconds,
        interrupted=interrupted,
    )
    try:
        wire.send_pdu(
            Pdu.ASSOCIATE_RQ,
            encode_request(
                calling_aet=calling_aet,
                called_aet=called_aet,
                contexts=proposed,
                roles=roles,
                max_pdu_bytes=max_pdu_bytes,
            ),
        )
        answer = _answer(wire, peer_name)
    except AssociationAborted as error:
        wire.close()
        if tls is None or error.outcome is not Outcome.CONNECTION_LOST:
            raise
        # In TLS 1.3 a client has shaken hands before the server has seen its certificate.
        lost = error.__cause__
        why = tls.problem(lost, address) if isinstance(lost, ssl.SSLError) else tls.silence()
        raise ConnectionFailed(f"{peer_name} {why}") from error
    except BaseException:
        wire.close()
        raise
    wire.set_peer_max_pdu(answer.max_pdu_bytes)
    return RequestedAssociation(
        wire, _accepted(proposed, answer), answer.roles,
        peer_name=peer_name, dimse_seconds=dimse_seconds,
    )  # fmt: skip


def _connect(  # noqa: PLR0913, PLR0917 - what `open_association` was given
    address: str,
    port: int,
    peer_name: str,
    connect_seconds: float,
    tls: Tls | None,
    interrupted: Callable[[], bool] | None,
) -> socket.socket:
    def connect() -> socket.socket:
        sock = socket.create_connection((address, port), timeout=connect_seconds)
        try:
            tune(sock)
            return sock if tls is None else _shake_hands(sock, address, peer_name, tls)
        except BaseException:
            sock.close()
            raise

    try:
        return connect() if interrupted is None else _unless(interrupted, connect)
    except OSError as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or error
        raise ConnectionFailed(f"{peer_name} cannot be reached: {reason}") from error


def _shake_hands(sock: socket.socket, address: str, peer_name: str, tls: Tls) -> socket.socket:
    try:
        return tls.context.wrap_socket(sock, server_hostname=address)
    except OSError as error:
        raise ConnectionFailed(f"{peer_name} {tls.problem(error, address)}") from error


def _unless(interrupted: Callable[[], bool], connect: Callable[[], socket.socket]) -> socket.socket:
    """Connect in another thread, and look meanwhile whether that is still wanted."""
    pool = ThreadPoolExecutor(1, "connect")
    connecting = pool.submit(connect)
    pool.shutdown(wait=False)
    with contextlib.ExitStack() as giving_up:
        giving_up.callback(connecting.add_done_callback, _close_at_once)
        giving_up.callback(ABANDONED.leave, [connecting])
        while not wait([connecting], LOOK_SECONDS).done:
            if interrupted():
                raise Interrupted
        giving_up.pop_all()
    return connecting.result()


def _close_at_once(connecting: Future[socket.socket]) -> None:
    if connecting.exception() is None:
        connecting.result().close()


def _answer(wire: Wire, peer_name: str) -> Answer:
    pdu, encoded = wire.read_association_answer()
    if pdu is Pdu.ASSOCIATE_RJ:
        result, source, reason = encoded[7:10]
        lasting = "for now" if result == RejectResult.TRANSIENT else "permanently"
        why = REJECT_REASONS.get((source, reason), f"source {source}, reason {reason}")
        raise AssociationRefused(
            f"{peer_name} refused the association {lasting}: {why}", result, source, reason
        )
    try:
        return decode_acceptance(encoded)
    except MalformedPdu as error:
        wire.abort()
        raise AssociationAborted(
            f"{peer_name} sent an A-ASSOCIATE-AC that cannot be read", Outcome.VIOLATION
        ) from error


def _accepted(proposed: Sequence[ProposedContext], answer: Answer) -> list[PresentationContext]:
    """Return the contexts the peer accepted with a transfer syntax that we proposed."""
    return [
        PresentationContext(context.context_id, context.abstract_syntax, accepted.transfer_syntax)
        for context in proposed
        if (accepted := answer.contexts.get(context.context_id)) is not None
        and accepted.result is ContextResult.ACCEPTANCE
        and accepted.transfer_syntax in context.transfer_syntaxes
    ]
