"""Data sets of messages in the transfer syntax of their context: identifiers, attribute lists."""

import zlib
from collections.abc import Mapping, Sequence

from lenticular.dicom_json import JsonElement, read_data_set, write_data_set
from lenticular.element_headers import ElementsError
from lenticular.errors import CannotUnderstand
from lenticular.transfer_syntaxes import BY_UID


def decode_data_set(
    data: bytes, transfer_syntax_uid: str, *, max_bytes: int, binary: bool = False
) -> dict[int, JsonElement]:
    """Decode a data set, by tag, or raise `CannotUnderstand`.

    `max_bytes` bounds what a deflated one may become. `binary` keeps values that are neither text
    nor numbers, private ones above all.
    """
    syntax = BY_UID[transfer_syntax_uid]
    try:
        if syntax.deflated:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            data = inflater.decompress(data, max_bytes)
            if inflater.unconsumed_tail:
                raise CannotUnderstand(f"the data set is longer than {max_bytes} bytes inflated")
        return read_data_set(
            data, explicit=syntax.explicit, little_endian=syntax.little_endian, binary=binary
        )
    except (ElementsError, zlib.error) as error:
        raise CannotUnderstand("the data set cannot be read in its transfer syntax") from error


def encode_data_set(
    elements: Mapping[int, JsonElement],
    transfer_syntax_uid: str,
    character_set_terms: Sequence[str] = (),
) -> bytes:
    """Encode a data set in the character set asked for, or UTF-8 when that cannot carry it."""
    syntax = BY_UID[transfer_syntax_uid]
    data = write_data_set(
        elements,
        character_set_terms,
        explicit=syntax.explicit,
        little_endian=syntax.little_endian,
    )
    return deflate_data_set(data) if syntax.deflated else data


def deflate_data_set(data: bytes) -> bytes:
    """Deflate an encoded data set, PS3.5 A.5: padded to an even length."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflate.compress(data) + deflate.flush()
    return deflated + b"\0" * (len(deflated) % 2)
