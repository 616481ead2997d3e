"""Data sets that tests encode themselves, and the pieces that broken ones are made of."""

import zlib

from lenticular.elements import EncodableElement, encode_data_set
from lenticular.transfer_syntaxes import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)

PLAIN_SYNTAXES = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]
UNDEFINED = b"\xff\xff\xff\xff"
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
OPEN_SEQUENCE = b"\x08\x00\x40\x11SQ\x00\x00" + UNDEFINED
HEAD: list[EncodableElement] = [
    (0x00080005, "CS", b"ISO_IR 100"),
    (0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2"),
    (0x00080018, "UI", b"1.2.3.4"),
    (0x00081140, "SQ", [[(0x00081155, "UI", b"1.9"), (0x0020000D, "UI", b"6.6.6")]]),
    (0x0020000D, "UI", b"1.2.3"),
    (0x0020000E, "UI", b"1.2.3.1"),
    (0x00280010, "US", b"\0\1"),
]


def encode(elements: list[EncodableElement], syntax: TransferSyntax) -> bytes:
    """Encode elements in a syntax that is not deflated."""
    return encode_data_set(elements, explicit=syntax.explicit, little_endian=syntax.little_endian)


def nested_sequences(depth: int) -> bytes:
    """Encode sequences of undefined length inside one another."""
    return (OPEN_SEQUENCE + ITEM + UNDEFINED) * depth + (ITEM_END + SEQUENCE_END) * depth


def deflate(data: bytes) -> bytes:
    """Deflate without a zlib header and without padding, PS3.5 A.5."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()
