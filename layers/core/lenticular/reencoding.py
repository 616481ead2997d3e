"""Write a data set in another transfer syntax of PS3.5 annex A, each value bit for bit the same.

Only how values are framed changes: whether VRs are stated, the order of bytes in numbers, lengths
of sequences and items. Long values are never copied where the order of bytes stays: what comes back
is pieces, most of them views of what went in.

Left out are group lengths (gggg,0000), whose number would be wrong and which PS3.5 7.2 has retired.
"""

import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias

from .elements import (
    ITEM,
    MAX_DEPTH,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    Element,
    encode_header,
    items,
    walk,
)
from .errors import CannotUnderstand
from .transfer_syntaxes import TransferSyntax

Piece: TypeAlias = "bytes | memoryview"

#: Bytes of one number, by VR, and the array that turns them; of all others the order is fixed.
_ARRAYS: Final = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), "H"),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), "I"),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), "Q"),
}
_PIXEL_REPRESENTATION: Final = 0x00280103
_PRIVATE_CREATORS: Final = range(0x0010, 0x0100)
_UNDEFINED: Final = UNDEFINED_LENGTH.to_bytes(4, "little")
_UNSIGNED_SHORT: Final = {True: Struct("<H"), False: Struct(">H")}
_INFLATED_AT_A_TIME: Final = 1 << 20
_DEFLATED_AT_A_TIME: Final = 64 << 10


def rewrite(data_set: memoryview, source: TransferSyntax, target: TransferSyntax) -> list[Piece]:
    """Return a data set written in `source` as the pieces of one written in `target`.

    Neither may be encapsulated or deflated. Raises CannotUnderstand when the data set's outline
    cannot be followed, which it is to its end.
    """
    if (source.explicit, source.little_endian) == (target.explicit, target.little_endian):
        return [data_set]
    pieces, _ = _Translation(source, target).data_set(data_set, signed=False, depth=0)
    return pieces


def inflate(deflated: Iterable[Piece], *, max_bytes: int) -> Iterator[bytes]:
    """Yield what a deflated data set holds, PS3.5 A.5.

    Raises CannotUnderstand when it is broken, cut short, or becomes longer than `max_bytes`.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    room = max_bytes
    for piece in deflated:
        for start in range(0, len(piece), _DEFLATED_AT_A_TIME):
            waiting: Piece = piece[start : start + _DEFLATED_AT_A_TIME]
            while waiting and not inflater.eof:
                try:
                    inflated = inflater.decompress(waiting, _INFLATED_AT_A_TIME)
                except zlib.error as error:
                    raise CannotUnderstand("the deflated data set is broken") from error
                waiting = inflater.unconsumed_tail
                room -= len(inflated)
                if room < 0:
                    raise CannotUnderstand(f"the data set inflates to more than {max_bytes} bytes")
                yield inflated
    # What zlib holds back after it took all input.
    yield inflater.flush()
    if not inflater.eof:
        raise CannotUnderstand("the deflated data set is cut short")


def deflate(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yield the deflated form of a data set, of an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    length = 0
    for piece in pieces:
        deflated = deflater.compress(piece)
        length += len(deflated)
        yield deflated
    rest = deflater.flush()
    yield rest + bytes((length + len(rest)) % 2)


@dataclass(frozen=True, slots=True)
class _Translation:
    source: TransferSyntax
    target: TransferSyntax

    def data_set(self, view: memoryview, *, signed: bool, depth: int) -> tuple[list[Piece], int]:
        """Return the pieces of a data set or an item, and their length.

        `signed` is what Pixel Representation says of the data set around it.
        """
        if depth > MAX_DEPTH:
            raise CannotUnderstand("sequences are nested too deeply")
        pieces: list[Piece] = []
        length = 0
        source = self.source
        outline = list(walk(view, explicit=source.explicit, little_endian=source.little_endian))
        for element in outline:
            if element.tag == _PIXEL_REPRESENTATION and len(element.value) >= 2:  # noqa: PLR2004 - a US
                (value,) = _UNSIGNED_SHORT[source.little_endian].unpack_from(element.value)
                signed = value == 1
        for element in outline:
            if element.tag & 0xFFFF:
                length += self._add(pieces, view, element, signed=signed, depth=depth)
        return pieces, length

    def _add(
        self, pieces: list[Piece], view: memoryview, element: Element, *, signed: bool, depth: int
    ) -> int:
        """Add an element's pieces; return their length."""
        vr = element.vr
        if vr is None:
            # Of explicit VR: two letters that are no VR. What it is nobody can tell.
            vr = "UN" if self.source.explicit else vr_of_implicit(element.tag, signed=signed)
        if vr == "SQ":
            return self._add_sequence(pieces, element, signed=signed, depth=depth)
        if self._is_undefined(view, element):
            return self._add_unknown_sequence(pieces, element, vr)
        value = self._turned(vr, element)
        header = self._header(element.tag, vr, len(value))
        pieces += (header, value)
        return len(header) + len(value)

    def _add_sequence(
        self, pieces: list[Piece], element: Element, *, signed: bool, depth: int
    ) -> int:
        source = self.source
        inner: list[Piece] = []
        length = 0
        for item in items(
            element.value, explicit=source.explicit, little_endian=source.little_endian
        ):
            content, content_length = self.data_set(item, signed=signed, depth=depth + 1)
            item_header = self._header(ITEM, "", content_length)
            inner.append(item_header)
            inner += content
            length += len(item_header) + content_length
        header = self._header(element.tag, "SQ", length)
        pieces.append(header)
        pieces += inner
        return len(header) + length

    def _add_unknown_sequence(self, pieces: list[Piece], element: Element, vr: str) -> int:
        """Add a sequence whose items are, and stay, in Implicit VR Little Endian, PS3.5 6.2.2."""
        if vr != "UN":
            raise CannotUnderstand("an uncompressed data set holds a compressed value")
        header = self._header(element.tag, "UN", UNDEFINED_LENGTH)
        delimiter = encode_header(SEQUENCE_DELIMITATION, "", 0, explicit=False)
        pieces += (header, element.value, delimiter)
        return len(header) + len(element.value) + len(delimiter)

    def _is_undefined(self, view: memoryview, element: Element) -> bool:
        # In explicit VR only the long form has room for it.
        at = element.offset + (8 if self.source.explicit else 4)
        long_form = not self.source.explicit or element.vr in ("UN", "OB", "OW")
        return long_form and view[at : at + 4] == _UNDEFINED

    def _turned(self, vr: str, element: Element) -> Piece:
        """Return a value in the byte order of the target."""
        typecode = _ARRAYS.get(vr)
        if self.source.little_endian == self.target.little_endian or typecode is None:
            return element.value
        numbers = array(typecode)
        if len(element.value) % numbers.itemsize:
            tag = f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})"
            raise CannotUnderstand(f"the value of {tag} is no whole number of {vr}")
        numbers.frombytes(element.value)
        numbers.byteswap()
        return memoryview(numbers).cast("B")

    def _header(self, tag: int, vr: str, length: int) -> bytes:
        target = self.target
        return encode_header(
            tag, vr, length, explicit=target.explicit, little_endian=target.little_endian
        )


def vr_of_implicit(tag: int, *, signed: bool) -> str:
    """Return the VR of an element of Implicit VR, PS3.5 A.1; UN of one nobody knows.

    Where PS3.6 leaves it open, numbers are as Pixel Representation says and all else is OW, in
    which an Implicit VR data set has it.
    """
    # Imported on first use: pydicom takes most of a second to import.
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415

    if tag >> 16 & 1:
        return "LO" if tag & 0xFFFF in _PRIVATE_CREATORS else "UN"
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    if " or " not in vr:
        return vr
    return ("SS" if signed else "US") if vr == "US or SS" else "OW"
