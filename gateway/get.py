"""C-GET SCP, PS3.4 C.4.3: send what is stored to whoever asks for it.

The C-STORE sub-operations go over the association that the request came by, on the storage contexts
for which role selection (PS3.7 D.3.3.4) made the requestor the SCP.
"""

from lenticular import sop_classes
from lenticular.index import Index
from lenticular.status import MoveStatus

from .association import Association
from .audit import AuditTrail, participant_of
from .command_set import CommandField, CommandSet
from .custody import Custody
from .identifier import IDENTIFIER_MAX_BYTES, is_refused
from .messages import BufferSink, DataSetSink, Message
from .read_ahead import OutgoingFile, ReadAhead
from .retrieval import Contexts, Memory, Progress, Retrieval, Unsendable, context_for
from .wire import Interrupted


class GetService:
    """Serves C-GET."""

    failure_status = MoveStatus.UNABLE_TO_PROCESS

    def __init__(
        self, index: Index, custody: Custody, memory: Memory, audit: AuditTrail | None = None
    ) -> None:
        """Send from `custody` what `index` names."""
        self._audit = audit
        self._index = index
        self._custody = custody
        self._memory = memory

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
        if is_refused(association, message, sop_classes.GET, "move"):
            return
        retrieval = Retrieval(association, message, self._custody, self._memory)
        found = retrieval.find(self._index)
        if found is None:
            return
        with retrieval.audited(self._audit, found, participant_of(association)) as progress:
            retrieval.pending(progress)
            contexts = _storage_contexts(association)
            with retrieval.read_ahead(
                found.pages,
                is_wanted=lambda stored: context_for(stored, contexts) is not None,
                may_break_off=False,
            ) as files:
                cancelled = _send_all(retrieval, files, contexts, progress)
            retrieval.final(
                progress,
                cancelled=cancelled,
                destination=association.peer.calling_aet,
                failure=files.failure,
            )


def _send_all(
    retrieval: Retrieval, files: ReadAhead, contexts: Contexts, progress: Progress
) -> bool:
    """Send every file; return whether the requestor cancelled."""
    while (file := files.head()) is not None:
        if retrieval.cancelled_before(file):
            return True
        try:
            progress.count(file.stored, _send(retrieval, file, files, contexts))
        except Interrupted:
            # Before anything of it was sent.
            return True
        files.drop()
        retrieval.pending(progress)
    return files.was_interrupted


def _storage_contexts(association: Association) -> Contexts:
    """Return the contexts whose SCP the requestor is."""
    return {
        (context.abstract_syntax, context.transfer_syntax): context
        for context in association.contexts.values()
        if association.peer.roles_for(context.abstract_syntax).scp
    }


def _send(
    retrieval: Retrieval, file: OutgoingFile, files: ReadAhead, contexts: Contexts
) -> int | None:
    """Send one instance; return the requestor's status, None when it could not be sent."""
    try:
        context, data_set = retrieval.data_set(file, contexts)
    except Unsendable:
        return None
    # No Move Originator: C-GET has none (PS3.7 9.1.1.1.6).
    response, _ = retrieval.association.request(
        context,
        CommandSet(
            CommandField.C_STORE_RQ,
            affected_sop_class_uid=file.stored.sop_class_uid,
            affected_sop_instance_uid=file.stored.sop_instance_uid,
            priority=retrieval.priority,
        ),
        data_set,
        meanwhile=files.ask_for_more,
    )
    return response.status
