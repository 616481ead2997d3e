"""C-MOVE SCP, PS3.4 C.4.2: send what is stored, as it is stored, to a node we know.

Sub-operations go over as few associations as the presentation contexts allow. What fails on an
association that broke is tried once more on a fresh one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from lenticular.index import Index
from lenticular.nodes import Node
from lenticular.status import MoveStatus

from .association import Association
from .custody import Custody
from .identifier import IDENTIFIER_MAX_BYTES
from .messages import BufferSink, DataSetSink, Message
from .negotiation import MAX_CONTEXTS
from .requestor import RequestedAssociation, open_association
from .retrieval import FetchedFile, Progress, Retrieval, Stored, fetch_ahead
from .wire import AssociationAborted, AssociationRefused, ConnectionFailed

_TRIES: Final = 2


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
        return BufferSink(IDENTIFIER_MAX_BYTES)

    def handle(
        self,
        association: Association,
        message: Message,
        sink: DataSetSink | None,  # noqa: ARG002 - the identifier is in the message
    ) -> None:
        """Find the instances, send them, and count."""
        retrieval = Retrieval(association, message)
        node = self._find_node(message.command.move_destination or "")
        if node is None or node.port is None:
            retrieval.refuse(
                MoveStatus.DESTINATION_UNKNOWN, "the move destination is not a known node"
            )
            return
        instances = retrieval.find(self._index)
        if instances is None:
            return
        progress = Progress(len(instances))
        # The responses may take as long as the destination does; a pending one at once shows the
        # requestor that we are at it.
        retrieval.pending(progress)
        cancelled = self._send_all(retrieval, node, instances, progress)
        retrieval.final(progress, cancelled=cancelled, destination=node.aet)

    def _send_all(
        self, retrieval: Retrieval, node: Node, instances: Sequence[Stored], progress: Progress
    ) -> bool:
        """Send everything, what broke once more; return whether the requestor cancelled."""
        waiting = list(instances)
        for _ in range(_TRIES):
            broken: list[Stored] = []
            for group in _groups(waiting):
                if self._send_group(retrieval, node, group, progress, broken):
                    return True
            waiting = broken
        for each in waiting:
            progress.count(each, None)
        return False

    def _send_group(
        self,
        retrieval: Retrieval,
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
                for each, file in fetch_ahead(self._custody, group):
                    if retrieval.cancelled():
                        return True
                    progress.count(each, _send(retrieval, destination, each, file))
                    unsent.popleft()
                    retrieval.pending(progress)
        except (AssociationAborted, AssociationRefused, ConnectionFailed) as error:
            # It may also be the association that asked for the retrieval which ended.
            if not retrieval.association.is_established:
                raise
            retrieval.log.warning(
                "destination failed", extra={"destination": node.aet, "reason": str(error)}
            )
            broken.extend(unsent)
        return False


def _send(
    retrieval: Retrieval, destination: RequestedAssociation, stored: Stored, file: FetchedFile
) -> int | None:
    """Send one instance; return the destination's status, None when it could not be sent."""
    context = destination.accepted.get((stored.sop_class_uid, stored.transfer_syntax_uid))
    data_set = None if context is None else retrieval.data_set(stored, file)
    if context is None or data_set is None:
        return None
    return destination.store(
        context,
        sop_class_uid=stored.sop_class_uid,
        sop_instance_uid=stored.sop_instance_uid,
        data=[data_set],
        move_originator=(retrieval.association.peer.calling_aet, retrieval.message_id),
    ).status


def _groups(stored: Sequence[Stored]) -> Iterator[list[Stored]]:
    """Split into runs whose presentation contexts fit one association."""
    contexts: set[tuple[str, str]] = set()
    group: list[Stored] = []
    for each in stored:
        context = (each.sop_class_uid, each.transfer_syntax_uid)
        if context not in contexts and len(contexts) == MAX_CONTEXTS:
            yield group
            contexts, group = set(), []
        contexts.add(context)
        group.append(each)
    if group:
        yield group
