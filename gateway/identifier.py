"""Identifiers of queries and retrievals. PS3.4 C.4."""

from typing import Final

from lenticular.dicom_json import JsonElement
from lenticular.errors import CannotUnderstand, InvalidIdentifier

from .data_set import decode_data_set
from .data_set import encode_data_set as write_identifier

__all__ = ["IDENTIFIER_MAX_BYTES", "read_identifier", "write_identifier"]

#: An identifier is a few hundred bytes; some thousand UIDs make it some hundred thousand.
IDENTIFIER_MAX_BYTES: Final = 1 << 20


def read_identifier(data: bytes, transfer_syntax_uid: str) -> dict[int, JsonElement]:
    """Decode an identifier, by tag, or raise `InvalidIdentifier`."""
    try:
        return decode_data_set(data, transfer_syntax_uid, max_bytes=IDENTIFIER_MAX_BYTES)
    except CannotUnderstand as error:
        raise InvalidIdentifier("the identifier cannot be read in its transfer syntax") from error
