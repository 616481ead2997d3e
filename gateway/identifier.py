"""What requests of queries and retrievals have in common: who may ask, identifiers. PS3.4 C.4."""

from collections.abc import Collection
from typing import Final

from lenticular.dicom_json import JsonElement
from lenticular.errors import CannotUnderstand, InvalidIdentifier
from lenticular.status import Status

from .association import Association
from .data_set import decode_data_set
from .data_set import encode_data_set as write_identifier
from .messages import Message

__all__ = ["IDENTIFIER_MAX_BYTES", "is_refused", "read_identifier", "write_identifier"]

#: An identifier is a few hundred bytes; some thousand UIDs make it some hundred thousand.
IDENTIFIER_MAX_BYTES: Final = 1 << 20


def is_refused(
    association: Association, message: Message, sop_classes: Collection[str], permission: str
) -> bool:
    """Answer a request that came on a context of another operation, or whose sender may not ask.

    A context is accepted for what its SOP class is for. The command is the peer's own word.
    """
    if permission not in association.peer.permissions:
        status, comment = Status.NOT_AUTHORIZED, f"this node has no permission {permission}"
    elif message.context.abstract_syntax not in sop_classes:
        status = Status.SOP_CLASS_NOT_SUPPORTED
        comment = "the SOP class of this context has no such operation"
    else:
        return False
    association.log.warning("request refused", extra={"reason": comment, "status": f"{status:04X}"})
    association.send_response(message.context, message.command.response(status, comment))
    return True


def read_identifier(data: bytes, transfer_syntax_uid: str) -> dict[int, JsonElement]:
    """Decode an identifier, by tag, or raise `InvalidIdentifier`."""
    try:
        return decode_data_set(data, transfer_syntax_uid, max_bytes=IDENTIFIER_MAX_BYTES)
    except CannotUnderstand as error:
        raise InvalidIdentifier("the identifier cannot be read in its transfer syntax") from error
