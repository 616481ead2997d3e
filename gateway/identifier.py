"""Identifiers of queries and retrievals, in the transfer syntax of their context. PS3.4 C.4."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from lenticular.dicom_json import JsonElement, read_data_set, write_data_set
from lenticular.elements import ElementsError
from lenticular.errors import InvalidIdentifier
from lenticular.transfer_syntaxes import BY_UID

#: An identifier is a few hundred bytes; some thousand UIDs make it some hundred thousand.
IDENTIFIER_MAX_BYTES: Final = 1 << 20


def read_identifier(data: bytes, transfer_syntax_uid: str) -> dict[int, JsonElement]:
    """Decode an identifier, by tag, or raise `InvalidIdentifier`."""
    syntax = BY_UID[transfer_syntax_uid]
    try:
        if syntax.deflated:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, IDENTIFIER_MAX_BYTES)
        return read_data_set(data, explicit=syntax.explicit, little_endian=syntax.little_endian)
    except (ElementsError, zlib.error) as error:
        raise InvalidIdentifier("the identifier cannot be read in its transfer syntax") from error


def write_identifier(
    elements: Mapping[int, JsonElement],
    transfer_syntax_uid: str,
    character_set_terms: Sequence[str] = (),
) -> bytes:
    """Encode an identifier in the asker's character set, or UTF-8 when that cannot carry it."""
    syntax = BY_UID[transfer_syntax_uid]
    data = write_data_set(
        elements,
        character_set_terms,
        explicit=syntax.explicit,
        little_endian=syntax.little_endian,
    )
    if not syntax.deflated:
        return data
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflate.compress(data) + deflate.flush()
    # PS3.5 A.5: padded to an even length.
    return deflated + b"\0" * (len(deflated) % 2)
