"""C-ECHO, the Verification service (PS3.4 A)."""

from typing import Final

from lenticular.status import Status

from .association import Association
from .messages import BufferSink, DataSetSink, Message


class VerificationService:
    """Answers C-ECHO for anyone who may associate."""

    failure_status: Final = Status.PROCESSING_FAILURE

    def begin(self, association: Association, message: Message) -> DataSetSink:  # noqa: ARG002 - the interface of a service
        """Bear a data set, though C-ECHO has none."""
        return BufferSink()

    def handle(
        self,
        association: Association,
        message: Message,
        sink: DataSetSink | None,  # noqa: ARG002 - the interface of a service
    ) -> None:
        """Answer Success."""
        association.send_response(message.context, message.command.response(Status.SUCCESS))
