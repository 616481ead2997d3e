"""The header of an element, written and read: tag, VR, length of the value. PS3.5 7.1 and 7.5.

In explicit VR a header has eight bytes, or twelve where the length takes 32 bits; in implicit VR,
and of items and delimiters in either, it has eight and no VR.
"""

from collections.abc import Iterable
from enum import StrEnum
from struct import Struct
from typing import Final, NamedTuple

from .errors import CannotUnderstand

ITEM: Final = 0xFFFEE000
ITEM_DELIMITATION: Final = 0xFFFEE00D
SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
UNDEFINED_LENGTH: Final = 0xFFFFFFFF
HEADER_BYTES: Final = 8
LONG_HEADER_BYTES: Final = 12
ITEM_GROUP: Final = 0xFFFE  # of items and delimiters

# PS3.5 7.1.2: these have 16 bits of length; all others, future ones too, have 32 after two bytes
# that are reserved.
SHORT_FORM: Final = {
    vr.encode(): vr
    for vr in (
        *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO"),
        *("LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
    )
}
SHORT_FORM_NAMES: Final = frozenset(SHORT_FORM.values())
_LONG_FORM: Final = (
    *(b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"),
)
#: The longest even value that a 16-bit length can announce.
SHORT_FORM_MAX_BYTES: Final = 0xFFFE


class Fault(StrEnum):
    """What is wrong with an outline: more bytes may mend the first, nothing the second."""

    TRUNCATED = "truncated"
    MALFORMED = "malformed"


class ElementsError(CannotUnderstand):
    """The outline cannot be followed; says where and in which element, never a value.

    `wanted` is how many bytes of the data set are needed, at least, to get past a truncation.
    """

    def __init__(self, fault: Fault, offset: int, tag: int | None, wanted: int = 0) -> None:
        """Name the byte and, when its header could be read, the element."""
        element = "" if tag is None else f" in ({tag >> 16:04X},{tag & 0xFFFF:04X})"
        super().__init__(f"data set {fault} at byte {offset}{element}")
        self.fault = fault
        self.offset = offset
        self.tag = tag
        self.wanted = wanted


class ElementHeader(NamedTuple):
    """What precedes a value: `length` is UNDEFINED_LENGTH where the encoding says so."""

    tag: int
    vr: str | None
    value_start: int
    length: int


class Encoding(NamedTuple):
    """How headers are written: in `header` of explicit VR the length is of the short form.

    `jump` reads of a header what it takes to jump over a value: VR as a number and length of the
    short form, or group and length. `short` and `long` are VRs as such numbers.
    """

    explicit: bool
    header: Struct
    untyped_header: Struct
    length: Struct
    jump: Struct
    short: frozenset[int]
    long: frozenset[int]


def _as_numbers(vrs: Iterable[bytes], order: str) -> frozenset[int]:
    return frozenset(Struct(f"{order}H").unpack(vr)[0] for vr in vrs)


ENCODINGS: Final = {
    (explicit, little_endian): Encoding(
        explicit,
        Struct(f"{order}HH2sH" if explicit else f"{order}HHL"),
        Struct(f"{order}HHL"),
        Struct(f"{order}L"),
        Struct(f"{order}4xHH" if explicit else f"{order}H2xL"),
        _as_numbers(SHORT_FORM, order),
        _as_numbers(_LONG_FORM, order),
    )
    for explicit in (True, False)
    for little_endian, order in ((True, "<"), (False, ">"))
}
IMPLICIT_LITTLE_ENDIAN: Final = ENCODINGS[False, True]


def encoding_inside(vr: str | None, encoding: Encoding) -> Encoding:
    """Tell how the items of a value of undefined length are written, PS3.5 6.2.2."""
    return IMPLICIT_LITTLE_ENDIAN if vr == "UN" else encoding


def is_long_form(vr: bytes) -> bool:
    """Tell the form of a VR that is not in the table of short ones.

    Two capital letters are a VR of the long form, perhaps one newer than this program. Anything
    else ("??", blanks, NULs) is not a VR; the writers of such data sets meant the short form, and
    DCMTK reads them so.
    """
    return vr.isalpha() and vr.isupper()


def header_at(
    data: memoryview, position: int, end: int, encoding: Encoding
) -> tuple[int, str | None, int, int]:
    """Return tag, VR, where the value starts and its length."""
    if position + HEADER_BYTES > end:
        raise ElementsError(Fault.TRUNCATED, position, None, wanted=position + HEADER_BYTES)
    if not encoding.explicit:
        group, number, length = encoding.header.unpack_from(data, position)
        return group << 16 | number, None, position + HEADER_BYTES, length
    group, number, raw_vr, length = encoding.header.unpack_from(data, position)
    tag = group << 16 | number
    if group == ITEM_GROUP:  # Items and delimiters have no VR, PS3.5 7.5.
        (length,) = encoding.length.unpack_from(data, position + 4)
        return tag, None, position + HEADER_BYTES, length
    vr = SHORT_FORM.get(raw_vr)
    if vr is not None or not is_long_form(raw_vr):
        return tag, vr, position + HEADER_BYTES, length
    start = position + LONG_HEADER_BYTES
    if start > end:
        raise ElementsError(Fault.TRUNCATED, position, tag, wanted=start)
    (length,) = encoding.length.unpack_from(data, position + HEADER_BYTES)
    return tag, raw_vr.decode("ascii"), start, length


def untyped_header_at(
    data: memoryview, position: int, end: int, encoding: Encoding
) -> tuple[int, int]:
    """Return tag and length of an item or a delimiter."""
    if position + HEADER_BYTES > end:
        raise ElementsError(Fault.TRUNCATED, position, None, wanted=position + HEADER_BYTES)
    group, number, length = encoding.untyped_header.unpack_from(data, position)
    return group << 16 | number, length


def read_header(
    data: bytes | memoryview, position: int, *, explicit: bool, little_endian: bool
) -> ElementHeader:
    """Read the header at `position`, whatever its length announces.

    Raises ElementsError when `data` ends before it does.
    """
    encoding = ENCODINGS[explicit, little_endian]
    return ElementHeader(*header_at(memoryview(data), position, len(data), encoding))


def encode_typed_header(tag: int, vr: str, length: int, encoding: Encoding) -> bytes:
    """Encode the header of an element, of which the VR is said in explicit VR alone."""
    if not encoding.explicit:
        return encoding.header.pack(tag >> 16, tag & 0xFFFF, length)
    if vr in SHORT_FORM_NAMES:
        if length <= SHORT_FORM_MAX_BYTES:
            return encoding.header.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)
        vr = "UN"
    reserved = encoding.header.pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0)
    return reserved + encoding.length.pack(length)


def encode_header(
    tag: int, vr: str, length: int, *, explicit: bool = True, little_endian: bool = True
) -> bytes:
    """Encode what precedes a value of `length` bytes, or of UNDEFINED_LENGTH.

    Items and delimiters have no VR. A length too long for the short form of its VR makes it UN.
    """
    encoding = ENCODINGS[explicit, little_endian]
    if tag >> 16 == ITEM_GROUP:
        return encoding.untyped_header.pack(tag >> 16, tag & 0xFFFF, length)
    return encode_typed_header(tag, vr, length, encoding)
