"""A data set's elements in another encoding: PS3.5 A.1 to A.3. Values stay what they are.

Only headers are written anew, with the lengths of sequences that enclose them, and on the way from
or to big endian the bytes of numbers are turned. Implicit VR says nothing of VRs: they come from
the dictionary, and UN is what PS3.5 6.2.2 gives to those that are not in it. Back again the VRs are
dropped, so that the way there and back ends where it began.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from .element_headers import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    ElementsError,
    Fault,
    encode_header,
)
from .elements import MAX_DEPTH, Element, delimited_items, walk
from .transfer_syntaxes import TransferSyntax

#: Bytes of one number in values of each VR; the others are not of numbers, or (UN) not known.
_NUMBER_BYTES: Final = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
#: What an element is written as where the standard leaves a choice (PS3.5 A.1, PS3.6 6).
_CHOSEN: Final = {
    "US or SS": "US",
    "US or OW": "OW",
    "US or SS or OW": "OW",
    "OB or OW": "OW",
}
_PIXEL_REPRESENTATION: Final = 0x00280103
_GROUP_LENGTH_BYTES: Final = 4
_LAST_CREATOR: Final = 0xFF
_FIRST_CREATOR: Final = 0x10


def reencoded(
    data: bytes | memoryview,
    source: TransferSyntax,
    target: TransferSyntax,
    *,
    group_lengths: bool = True,
) -> bytes:
    """Return the elements of `data` as `target` writes them; neither is a deflated syntax.

    Group lengths are what they were, and so may be wrong now; with `group_lengths` False they are
    left out, as PS3.5 7.2 allows. Raises ElementsError when the data set breaks off, makes no
    sense, or has numbers of odd lengths.
    """
    if (source.explicit, source.little_endian) == (target.explicit, target.little_endian):
        return bytes(data)
    translation = _Translation(source, target, group_lengths)
    return b"".join(translation.elements(memoryview(data), signed=False, depth=0))


def is_group_length(element: Element) -> bool:
    """Tell whether an element is (gggg,0000), PS3.5 7.2."""
    return not element.tag & 0xFFFF


def group_lengths(
    data: bytes | bytearray, syntax: TransferSyntax
) -> Iterator[tuple[memoryview, bytes]]:
    """Yield the value of each group length, and what it should be, both as they are encoded.

    Those in the items of sequences too, in the order they come: it is that of the same data set in
    any other syntax. Values are views, to be written to in a bytearray. Raises ElementsError.
    """
    return _group_lengths(memoryview(data), syntax, depth=0)


def _group_lengths(
    data: memoryview, syntax: TransferSyntax, *, depth: int
) -> Iterator[tuple[memoryview, bytes]]:
    if depth > MAX_DEPTH:
        raise ElementsError(Fault.MALFORMED, 0, None)
    encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
    outline = list(walk(data, **encoding))
    for at, element in enumerate(outline):
        if is_group_length(element) and len(element.value) == _GROUP_LENGTH_BYTES:
            end = element.end
            for following in outline[at + 1 :]:
                if following.tag >> 16 != element.tag >> 16:
                    break
                end = following.end
            order: Literal["little", "big"] = "little" if syntax.little_endian else "big"
            yield element.value, (end - element.end).to_bytes(_GROUP_LENGTH_BYTES, order)
        elif _vr(element, syntax, signed=False) == "SQ":
            for item in delimited_items(element.value, **encoding):
                yield from _group_lengths(item.content, syntax, depth=depth + 1)


def _vr(element: Element, syntax: TransferSyntax, *, signed: bool) -> str:
    return element.vr or ("UN" if syntax.explicit else _dictionary_vr(element.tag, signed))


@dataclass(frozen=True, slots=True)
class _Translation:
    source: TransferSyntax
    target: TransferSyntax
    group_lengths: bool

    def elements(self, data: memoryview, *, signed: bool, depth: int) -> Iterator[bytes]:
        """Yield the elements of a data set or an item.

        `signed` is what Pixel Representation says of the data set around it.
        """
        if depth > MAX_DEPTH:
            raise ElementsError(Fault.MALFORMED, 0, None)
        source, target = self.source, self.target
        outline = list(walk(data, explicit=source.explicit, little_endian=source.little_endian))
        for element in outline:
            if element.tag == _PIXEL_REPRESENTATION and element.value:
                signed = any(element.value)
        for element in outline:
            if is_group_length(element) and not self.group_lengths:
                continue
            vr = _vr(element, source, signed=signed)
            if vr == "SQ":
                value = b"".join(self._items(element.value, signed=signed, depth=depth))
            elif element.undefined_length:
                # Encapsulated pixels of an icon, or UN: items in Implicit VR Little Endian.
                value = bytes(element.value)
            else:
                value = _value(element, vr, source, target)
            length = UNDEFINED_LENGTH if element.undefined_length else len(value)
            yield self._header(element.tag, vr, length)
            yield value
            if element.undefined_length:
                # That of UN is of its items, PS3.5 6.2.2.
                yield (
                    encode_header(SEQUENCE_DELIMITATION, "", 0, explicit=False)
                    if vr == "UN"
                    else self._header(SEQUENCE_DELIMITATION, "", 0)
                )

    def _items(self, value: memoryview, *, signed: bool, depth: int) -> Iterator[bytes]:
        source = self.source
        for item in delimited_items(
            value, explicit=source.explicit, little_endian=source.little_endian
        ):
            content = b"".join(self.elements(item.content, signed=signed, depth=depth + 1))
            yield self._header(
                ITEM, "", UNDEFINED_LENGTH if item.undefined_length else len(content)
            )
            yield content
            if item.undefined_length:
                yield self._header(ITEM_DELIMITATION, "", 0)

    def _header(self, tag: int, vr: str, length: int) -> bytes:
        target = self.target
        return encode_header(
            tag, vr, length, explicit=target.explicit, little_endian=target.little_endian
        )


def _value(element: Element, vr: str, source: TransferSyntax, target: TransferSyntax) -> bytes:
    size = _NUMBER_BYTES.get(vr, 1)
    if size == 1 or source.little_endian == target.little_endian:
        return bytes(element.value)
    if len(element.value) % size:
        raise ElementsError(Fault.MALFORMED, element.offset, element.tag)
    turned = bytearray(len(element.value))
    for byte in range(size):
        turned[byte::size] = element.value[size - 1 - byte :: size]
    return bytes(turned)


def _dictionary_vr(tag: int, signed: bool) -> str:  # noqa: FBT001 - asked for every element
    number = tag & 0xFFFF
    if not number:
        return "UL"  # Group Length, PS3.5 7.2
    if tag >> 16 & 1:
        return "LO" if _FIRST_CREATOR <= number <= _LAST_CREATOR else "UN"
    # pydicom takes a quarter of a second to load: with the first implicit data set, not before.
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415

    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return "SS" if signed and vr == "US or SS" else _CHOSEN.get(vr, vr)
