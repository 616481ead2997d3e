"""C-MOVE SCP, PS3.4 C.4.2: send what is stored to a node we know.

One association carries every presentation context that is needed, as far as it is known by then; an
instance that needs another one gets a further association. To a node that takes `one-per-instance`
each instance goes over an association of its own.

A sub-operation that fails at the destination, on which the association breaks, or whose file S3
does not give, is tried once more on a fresh association, after all others. One that nothing can be
sent for is not: the same contexts would be answered the same. A destination that answers no more is
given up. While it keeps us waiting we look for C-CANCEL; a sub-operation that is broken off then
remains.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from time import monotonic, sleep
from typing import Final, TypeAlias

from lenticular import sop_classes
from lenticular.audit import Participant
from lenticular.errors import StoreUnavailable
from lenticular.index import Index
from lenticular.nodes import Node
from lenticular.status import MoveStatus, Status
from lenticular.tls_calling import Tls
from lenticular.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

from .association import Association
from .audit import AuditTrail
from .custody import Custody
from .identifier import IDENTIFIER_MAX_BYTES, is_refused
from .messages import BufferSink, DataSetSink, Message
from .negotiation import MAX_CONTEXTS, RejectResult
from .read_ahead import OutgoingFile, ReadAhead, Stored
from .requestor import RequestedAssociation, open_association
from .retrieval import Found, Memory, Progress, Retrieval, Unsendable, context_for, is_warning
from .wire import (
    LOOK_SECONDS,
    AssociationAborted,
    AssociationRefused,
    ConnectionFailed,
    Interrupted,
    PeerTimeout,
)


class _Trouble(Enum):
    """How an association comes to nothing, and how often in a row until the destination is gone."""

    #: It refuses for the moment, or nobody listens: it may have one slot, or be starting.
    BUSY = 4
    #: It refuses for good, or keeps us waiting until our time is up.
    SILENT = 3
    #: It ends an association that it took: for what it was sent then, and not for what comes next.
    BROKEN = 20


#: How long we wait after each time that the destination was busy.
_PAUSES_SECONDS: Final = (0.3, 1.0, 3.0)
#: Proposed for every SOP class. The second of them is every receiver's (PS3.5 10.1).
_UNCOMPRESSED: Final = (EXPLICIT_VR_LITTLE_ENDIAN.uid, IMPLICIT_VR_LITTLE_ENDIAN.uid)

#: Abstract syntaxes with the transfer syntaxes that are proposed for each.
_Contexts: TypeAlias = Sequence[tuple[str, Sequence[str]]]


class MoveService:
    """Serves C-MOVE."""

    failure_status = MoveStatus.UNABLE_TO_PROCESS

    def __init__(  # noqa: PLR0913 - what it reads, where it looks nodes up, how it calls out
        self,
        index: Index,
        custody: Custody,
        find_node: Callable[[str], Node | None],
        memory: Memory,
        *,
        tls_with: Callable[[Node], Tls | None],
        ae_title: str,
        max_pdu_bytes: int,
        dimse_seconds: float,
        audit: AuditTrail | None = None,
    ) -> None:
        """Send from `custody` what `index` names, as `ae_title`, to nodes `find_node` knows.

        `tls_with` says how TLS is spoken with a node, `None` where it is called without.
        """
        self._index = index
        self._custody = custody
        self._find_node = find_node
        self._memory = memory
        self._tls_with = tls_with
        self._ae_title = ae_title
        self._max_pdu_bytes = max_pdu_bytes
        self._dimse_seconds = dimse_seconds
        self._audit = audit

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002 - the interface of a service
        """Take the identifier into memory."""
        return BufferSink(IDENTIFIER_MAX_BYTES)

    def handle(
        self,
        association: Association,
        message: Message,
        sink: DataSetSink | None,  # noqa: ARG002 - the identifier is in the message
    ) -> None:
        """Find the instances, send them, and count."""
        if is_refused(association, message, sop_classes.MOVE, "move"):
            return
        retrieval = Retrieval(association, message, self._custody, self._memory)
        node = self._find_node(message.command.move_destination or "")
        if node is None or node.port is None:
            retrieval.refuse(
                MoveStatus.DESTINATION_UNKNOWN, "the move destination is not a known node"
            )
            return
        found = retrieval.find(self._index)
        if found is None:
            return
        receiver = Participant(node.aet, node.address)
        with retrieval.audited(self._audit, found, receiver) as progress:
            # The responses may take as long as the destination does; a pending one at once shows
            # the requestor that we are at it.
            retrieval.pending(progress)
            delivery = _Delivery(retrieval, node, found, progress, self._associate)
            cancelled = delivery.run(found.pages)
            retrieval.final(
                progress, cancelled=cancelled, destination=node.aet, failure=delivery.failure
            )

    def _associate(
        self, node: Node, contexts: _Contexts, interrupted: Callable[[], bool]
    ) -> RequestedAssociation:
        return open_association(
            node.address,
            node.port or 0,
            calling_aet=self._ae_title,
            called_aet=node.aet,
            contexts=contexts,
            max_pdu_bytes=self._max_pdu_bytes,
            dimse_seconds=self._dimse_seconds,
            tls=self._tls_with(node),
            interrupted=interrupted,
        )


class _Delivery:
    """The instances of one C-MOVE on their way to one node.

    Attributes:
        failure: why the index broke off, if it did
    """

    def __init__(
        self,
        retrieval: Retrieval,
        node: Node,
        found: Found,
        progress: Progress,
        associate: Callable[[Node, _Contexts, Callable[[], bool]], RequestedAssociation],
    ) -> None:
        self.failure: StoreUnavailable | None = None
        self._retrieval = retrieval
        self._node = node
        self._sop_class_uids = sorted(found.sop_class_uids)
        self._progress = progress
        self._associate = associate
        self._needed: dict[tuple[str, str], None] = {}
        self._proposed: frozenset[tuple[str, str]] = frozenset()
        #: Since a sub-operation was answered.
        self._troubles: Counter[_Trouble] = Counter()
        self._pause_seconds = 0.0

    @property
    def _is_gone(self) -> bool:
        return any(times >= trouble.value for trouble, times in self._troubles.items())

    def run(self, pages: Iterator[list[Stored]]) -> bool:
        """Send everything, what failed once more; return whether the requestor cancelled."""
        failed: list[Stored] = []
        with self._retrieval.read_ahead(pages, may_break_off=True) as files:
            cancelled = self._send_all(files, lambda stored, _: failed.append(stored))
        self.failure = files.failure
        before = self._progress.performed
        if failed and not cancelled:
            if not self._is_gone:
                # What ended the associations of the last ones says nothing of these.
                self._troubles.clear()
            with self._retrieval.read_ahead([failed], may_break_off=True) as files:
                cancelled = self._send_all(files, self._progress.count)
        # What failed once, and was cancelled before its second try, does not remain: PS3.4
        # C.4.2.1.6 counts as that what was not begun.
        for stored in failed[self._progress.performed - before :]:
            self._progress.count(stored, None)
        return cancelled

    def _send_all(self, files: ReadAhead, on_failure: Callable[[Stored, int | None], None]) -> bool:
        """Send every file over as few associations as it takes; tell whether it was cancelled."""
        while files.head() is not None:
            if self._is_gone:
                for stored in files.rest():
                    self._progress.count(stored, None)
                break
            destination = None
            try:
                self._pause()
                destination = self._open(files)
                with destination:
                    if self._send_over(destination, files, on_failure):
                        return True
            except Interrupted:
                return True
            except StoreUnavailable as error:
                self._retrieval.log.warning(
                    "stored instance not readable to its end", extra={"reason": str(error)}
                )
            except (AssociationAborted, AssociationRefused, ConnectionFailed) as error:
                # It may also be the association that asked for the retrieval which ended.
                if not self._retrieval.association.is_established:
                    raise
                self._note(error, taken=destination is not None)
                self._retrieval.log.warning(
                    "destination failed",
                    extra={"destination": self._node.aet, "reason": str(error)},
                )
                self._retrieval.pending(self._progress)
        return files.was_interrupted

    def _note(self, error: Exception, *, taken: bool) -> None:
        """Count what went wrong with an association, which may have been `taken` before."""
        if isinstance(error, ConnectionFailed) or (
            isinstance(error, AssociationRefused) and error.result == RejectResult.TRANSIENT
        ):
            trouble = _Trouble.BUSY
        elif taken and not isinstance(error, PeerTimeout):
            trouble = _Trouble.BROKEN
        else:
            trouble = _Trouble.SILENT
        self._troubles[trouble] += 1
        if trouble is _Trouble.BUSY and not self._is_gone:
            self._pause_seconds = _PAUSES_SECONDS[self._troubles[trouble] - 1]

    def _pause(self) -> None:
        """Leave a busy destination alone for a while; raise `Interrupted` on C-CANCEL."""
        until = monotonic() + self._pause_seconds
        self._pause_seconds = 0.0
        while (left := until - monotonic()) > 0:
            if self._retrieval.cancelled():
                raise Interrupted
            sleep(min(left, LOOK_SECONDS))

    def _send_over(
        self,
        destination: RequestedAssociation,
        files: ReadAhead,
        on_failure: Callable[[Stored, int | None], None],
    ) -> bool:
        """Send what one association carries; tell whether the requestor cancelled."""
        while (file := files.head()) is not None and self._carries(destination, file.stored):
            if self._retrieval.cancelled_before(file):
                return True
            try:
                self._send(destination, file, files, on_failure)
            finally:
                files.drop()
            self._retrieval.pending(self._progress)
            if self._node.associations == "one-per-instance":
                break
        return False

    def _send(
        self,
        destination: RequestedAssociation,
        file: OutgoingFile,
        files: ReadAhead,
        on_failure: Callable[[Stored, int | None], None],
    ) -> None:
        """Send one instance and count it, or call `on_failure` where the destination failed."""
        stored = file.stored
        try:
            context, data_set = self._retrieval.data_set(file, destination.accepted)
        except Unsendable as unsendable:
            if unsendable.for_now:
                on_failure(stored, None)
            else:
                self._progress.count(stored, None)
            return
        try:
            status = destination.store(
                context,
                sop_class_uid=stored.sop_class_uid,
                sop_instance_uid=stored.sop_instance_uid,
                data=data_set,
                priority=self._retrieval.priority,
                move_originator=(
                    self._retrieval.association.peer.calling_aet,
                    self._retrieval.message_id,
                ),
                meanwhile=files.ask_for_more,
            ).status
        except Interrupted:
            raise
        except (AssociationAborted, StoreUnavailable):
            on_failure(stored, None)
            raise
        self._troubles.clear()
        if status == Status.SUCCESS or (status is not None and is_warning(status)):
            self._progress.count(stored, status)
        else:
            on_failure(stored, status)

    def _carries(self, destination: RequestedAssociation, stored: Stored) -> bool:
        """Tell whether an association is the one for an instance: no other would do better."""
        own, *forms = _pairs(stored)
        if own not in self._proposed:
            return False
        taken = context_for(stored, destination.accepted) is not None
        return taken or self._proposed.issuperset(forms)

    def _open(self, files: ReadAhead) -> RequestedAssociation:
        """Associate, with a context for each transfer syntax of each class: that decides alone.

        First come what is at hand needs, then what was needed before, then the uncompressed
        syntaxes of classes that are known to follow.
        """
        near = list(files.known())
        classes = [(uid, _UNCOMPRESSED[0]) for uid in self._sop_class_uids]
        if self._node.associations == "one-per-instance":
            near, classes, self._needed = near[:1], [], {}
        at_hand = [pair for each in near for pair in _pairs(each)]
        self._needed = dict.fromkeys([*at_hand, *self._needed])
        pairs = dict.fromkeys(_with_uncompressed([*self._needed, *classes]))
        proposed = list(pairs)[:MAX_CONTEXTS]
        self._proposed = frozenset(proposed)
        contexts = [(abstract, [syntax]) for abstract, syntax in proposed]
        return self._associate(self._node, contexts, self._retrieval.cancelled)


def _pairs(stored: Stored) -> list[tuple[str, str]]:
    """Return the contexts of what came, and of its forms for a node that takes nothing else."""
    syntaxes = (stored.transfer_syntax_uid, *(form.transfer_syntax_uid for form in stored.forms))
    return [(stored.sop_class_uid, syntax) for syntax in syntaxes]


def _with_uncompressed(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for sop_class_uid, transfer_syntax_uid in pairs:
        yield sop_class_uid, transfer_syntax_uid
        yield from ((sop_class_uid, uncompressed) for uncompressed in _UNCOMPRESSED)
