"""C-GET SCP, PS3.4 C.4.3: send what is stored, as it is stored, to whoever asks for it.

The C-STORE sub-operations go over the association that the request came by, on the storage contexts
for which role selection (PS3.7 D.3.3.4) made the requestor the SCP.
"""

from collections.abc import Mapping

from lenticular.index import Index
from lenticular.status import MoveStatus

from .association import Association
from .command_set import CommandField, CommandSet, Priority
from .custody import Custody
from .identifier import IDENTIFIER_MAX_BYTES
from .messages import BufferSink, DataSetSink, Message, PresentationContext
from .retrieval import FetchedFile, Progress, Retrieval, Stored, fetch_ahead


class GetService:
    """Serves C-GET."""

    failure_status = MoveStatus.UNABLE_TO_PROCESS

    def __init__(self, index: Index, custody: Custody) -> None:
        """Send from `custody` what `index` names."""
        self._index = index
        self._custody = custody

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
        instances = retrieval.find(self._index)
        if instances is None:
            return
        progress = Progress(len(instances))
        retrieval.pending(progress)
        cancelled = self._send_all(retrieval, instances, progress)
        retrieval.final(progress, cancelled=cancelled, destination=association.peer.calling_aet)

    def _send_all(self, retrieval: Retrieval, instances: list[Stored], progress: Progress) -> bool:
        """Send everything there is a context for; return whether the requestor cancelled."""
        contexts = _storage_contexts(retrieval.association)
        wanted: list[Stored] = []
        for each in instances:
            if (each.sop_class_uid, each.transfer_syntax_uid) in contexts:
                wanted.append(each)
            else:
                progress.count(each, None)
        for each, file in fetch_ahead(self._custody, wanted):
            if retrieval.cancelled():
                return True
            context = contexts[each.sop_class_uid, each.transfer_syntax_uid]
            progress.count(each, _send(retrieval, context, each, file))
            retrieval.pending(progress)
        return False


def _storage_contexts(
    association: Association,
) -> Mapping[tuple[str, str], PresentationContext]:
    """Return the contexts whose SCP the requestor is, by SOP class and transfer syntax."""
    return {
        (context.abstract_syntax, context.transfer_syntax): context
        for context in association.contexts.values()
        if association.peer.roles_for(context.abstract_syntax).scp
    }


def _send(
    retrieval: Retrieval, context: PresentationContext, stored: Stored, file: FetchedFile
) -> int | None:
    """Send one instance; return the requestor's status, None when the bucket did not give it."""
    data_set = retrieval.data_set(stored, file)
    if data_set is None:
        return None
    # No Move Originator: C-GET has none (PS3.7 9.1.1.1.6).
    response, _ = retrieval.association.request(
        context,
        CommandSet(
            CommandField.C_STORE_RQ,
            affected_sop_class_uid=stored.sop_class_uid,
            affected_sop_instance_uid=stored.sop_instance_uid,
            priority=Priority.MEDIUM,
        ),
        [data_set],
    )
    return response.status
