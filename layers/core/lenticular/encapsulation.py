"""Encapsulated pixel data: fragments, frames and the tables of where they start. PS3.5 A.4.

    FFFE,E000 length   Basic Offset Table: where each frame starts, empty or 4 bytes each
    FFFE,E000 length   fragment, part of a frame or all of it
    ...
    FFFE,E0DD 0        end

A frame may be several fragments long. We write one fragment for each, and the table; where an
offset does not fit its 32 bits, the Extended Offset Table (PS3.3 C.7.6.3.1.8) takes its place.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from struct import Struct, pack, unpack
from typing import Final, NamedTuple

from .byte_ranges import ByteRanges
from .element_headers import ITEM, SEQUENCE_DELIMITATION, ElementsError, Fault
from .elements import encode_element
from .errors import CannotUnderstand

EXTENDED_OFFSET_TABLE: Final = 0x7FE00001
EXTENDED_OFFSET_TABLE_LENGTHS: Final = 0x7FE00002

_ITEM_HEADER: Final = Struct("<HHL")
ITEM_HEADER_BYTES: Final = _ITEM_HEADER.size
_OFFSET_BYTES: Final = 4
_MOST_OFFSET: Final = 0xFFFFFFFF
#: What a frame starts with in each compressed form; RLE has no such mark.
_STARTS_OF_STREAMS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")
_LONGEST_START: Final = max(map(len, _STARTS_OF_STREAMS))


class Fragment(NamedTuple):
    """Where a fragment's bytes are in the file."""

    start: int
    length: int


class Encapsulated(NamedTuple):
    """The outline of an encapsulated value: `end` is behind its delimiter."""

    offsets: Sequence[int]
    fragments: Sequence[Fragment]
    end: int


def read_fragments(file: ByteRanges, start: int) -> Encapsulated:
    """Follow the items of the value that starts at `start`, without reading the fragments.

    Raises:
        ElementsError: the value breaks off or holds what is no item.
    """
    fragments: list[Fragment] = []
    position = start
    while True:
        header = file.read(position, ITEM_HEADER_BYTES)
        if not header and fragments:
            break  # Some writers leave the delimiter out at the end of the file.
        if len(header) < ITEM_HEADER_BYTES:
            raise ElementsError(Fault.TRUNCATED, position, None)
        group, number, length = _ITEM_HEADER.unpack(header)
        tag = group << 16 | number
        position += ITEM_HEADER_BYTES
        if tag == SEQUENCE_DELIMITATION:
            break
        if tag != ITEM:
            raise ElementsError(Fault.MALFORMED, position - ITEM_HEADER_BYTES, tag)
        if position + length > file.size:
            raise ElementsError(Fault.TRUNCATED, position, tag)
        fragments.append(Fragment(position, length))
        position += length
    if not fragments:
        raise ElementsError(Fault.MALFORMED, start, None)
    table, *rest = fragments
    entries = table.length // _OFFSET_BYTES
    offsets = unpack(f"<{entries}L", file.read(table.start, entries * _OFFSET_BYTES))
    return Encapsulated(offsets, rest, position)


def frames(file: ByteRanges, encapsulated: Encapsulated, count: int) -> Iterator[bytes]:
    """Yield the stream of each of `count` frames.

    Raises:
        CannotUnderstand: which fragments make up which frame cannot be told.
    """
    for of_frame in _by_frame(file, encapsulated, count):
        parts = [file.read(each.start, each.length) for each in of_frame]
        yield bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def _by_frame(
    file: ByteRanges, encapsulated: Encapsulated, count: int
) -> Sequence[Sequence[Fragment]]:
    fragments = encapsulated.fragments
    if count == 1 and fragments:
        return [fragments]
    if len(fragments) == count:
        return [[each] for each in fragments]
    if len(encapsulated.offsets) == count:
        starts = set(encapsulated.offsets)
        # An offset is to the item's header, from the first item behind the table on.
        origin = fragments[0].start if fragments else 0
        begins = [each.start - origin in starts for each in fragments]
    else:
        begins = [
            bytes(file.read(each.start, min(each.length, _LONGEST_START))).startswith(
                _STARTS_OF_STREAMS
            )
            for each in fragments
        ]
    grouped: list[list[Fragment]] = []
    for fragment, begins_frame in zip(fragments, begins, strict=True):
        if begins_frame or not grouped:
            grouped.append([])
        grouped[-1].append(fragment)
    if len(grouped) != count:
        raise CannotUnderstand(
            f"{len(fragments)} fragments cannot be told apart into {count} frames"
        )
    return grouped


def needs_extended_offset_table(native_bytes: int, count: int) -> bool:
    """Tell whether an offset of `count` frames, together no longer than native, may not fit."""
    return native_bytes + 2 * ITEM_HEADER_BYTES * count > _MOST_OFFSET


def basic_offset_table(lengths: Sequence[int]) -> bytes:
    """Write where frames of these even lengths start: 4 bytes each."""
    return pack(f"<{len(lengths)}L", *_offsets(lengths))


def extended_offset_table(lengths: Sequence[int]) -> bytes:
    """Write where frames of these even lengths start, and the lengths, as two elements."""
    form = f"<{len(lengths)}Q"
    return encode_element(EXTENDED_OFFSET_TABLE, "OV", pack(form, *_offsets(lengths))) + (
        encode_element(EXTENDED_OFFSET_TABLE_LENGTHS, "OV", pack(form, *lengths))
    )


def _offsets(lengths: Sequence[int]) -> list[int]:
    """Sum up: an offset is to the header of the frame's item, from the first one on (A.4)."""
    steps = (ITEM_HEADER_BYTES + length for length in lengths[:-1])
    return list(accumulate(steps, initial=0))
