"""A data set's elements in another encoding: PS3.5 A.1 to A.3. Values stay what they are.

Only headers are written anew, with the lengths of sequences that enclose them, and on the way from
or to big endian the bytes of numbers are turned. Implicit VR says nothing of VRs: they come from
the dictionary, and UN is what PS3.5 6.2.2 gives to those that are not in it. Back again the VRs are
dropped, so that the way there and back ends where it began.
"""

from collections.abc import Iterator
from typing import Final

from .elements import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    Element,
    ElementsError,
    Fault,
    delimited_items,
    encode_header,
    walk,
)
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
_LAST_CREATOR: Final = 0xFF
_FIRST_CREATOR: Final = 0x10


def reencoded(data: bytes | memoryview, source: TransferSyntax, target: TransferSyntax) -> bytes:
    """Return the elements of `data` as `target` writes them; neither is a deflated syntax.

    Raises:
        ElementsError: the data set breaks off, makes no sense, or has numbers of odd lengths.
    """
    if (source.explicit, source.little_endian) == (target.explicit, target.little_endian):
        return bytes(data)
    return b"".join(_elements(memoryview(data), source, target))


def _elements(data: memoryview, source: TransferSyntax, target: TransferSyntax) -> Iterator[bytes]:
    for element in walk(data, explicit=source.explicit, little_endian=source.little_endian):
        vr = element.vr or (_dictionary_vr(element.tag) if not source.explicit else "UN")
        if vr == "SQ":
            value = b"".join(_items(element.value, source, target))
        elif element.undefined_length:
            # Encapsulated pixels of an icon, or UN: items in Implicit VR Little Endian.
            value = bytes(element.value)
        else:
            value = _value(element, vr, source, target)
        encoding = {"explicit": target.explicit, "little_endian": target.little_endian}
        if element.undefined_length:
            yield encode_header(element.tag, vr, UNDEFINED_LENGTH, **encoding)
            yield value
            yield encode_header(SEQUENCE_DELIMITATION, "", 0, **encoding)
        else:
            yield encode_header(element.tag, vr, len(value), **encoding)
            yield value


def _items(value: memoryview, source: TransferSyntax, target: TransferSyntax) -> Iterator[bytes]:
    encoding = {"explicit": target.explicit, "little_endian": target.little_endian}
    for item in delimited_items(
        value, explicit=source.explicit, little_endian=source.little_endian
    ):
        content = b"".join(_elements(item.content, source, target))
        length = UNDEFINED_LENGTH if item.undefined_length else len(content)
        yield encode_header(ITEM, "", length, **encoding)
        yield content
        if item.undefined_length:
            yield encode_header(ITEM_DELIMITATION, "", 0, **encoding)


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


def _dictionary_vr(tag: int) -> str:
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
    return _CHOSEN.get(vr, vr)
