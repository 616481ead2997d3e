"""The outline of an encoded data set: which elements, where, in how many bytes. PS3.5 chapter 7.

Values are never decoded here. A data set is a run of elements; each header says its tag, in
explicit VR its VR, and its value's length. A length of FFFFFFFF means "until the delimiter", and
only such values have to be looked into to find where they end:

    sequence of undefined length    FFFE,E000 item ... FFFE,E0DD      (PS3.5 7.5.1)
    item of undefined length        elements ...       FFFE,E00D      (PS3.5 7.5.2)

Everything with a length is jumped over in one step, nested data sets included. What is open at one
moment is a list, not a chain of calls, so depth costs memory we bound and never the stack. Each
step moves at least eight bytes forward: no input makes this loop for ever or read behind its end.

A value with VR UN and undefined length holds items in Implicit VR Little Endian, whatever the data
set around it is written in (PS3.5 6.2.2).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from .element_headers import (
    ENCODINGS,
    HEADER_BYTES,
    ITEM,
    ITEM_DELIMITATION,
    ITEM_GROUP,
    SEQUENCE_DELIMITATION,
    SHORT_FORM_MAX_BYTES,
    SHORT_FORM_NAMES,
    UNDEFINED_LENGTH,
    ElementsError,
    Encoding,
    Fault,
    encode_typed_header,
    encoding_inside,
    header_at,
    untyped_header_at,
)

#: Values of undefined length inside one another that we follow. SR documents, the deepest of
#: honest data sets, stay below half of it.
MAX_DEPTH: Final = 64

#: Padded with NUL to an even length, PS3.5 6.2; all others with a space.
_NUL_PADDED: Final = frozenset({"UI", "OB", "OD", "OF", "OL", "OV", "OW", "UN"})

#: An element to encode: tag, VR, and either its value field or, of a sequence, its items.
EncodableElement: TypeAlias = (
    "tuple[int, str, bytes] | tuple[int, str, Sequence[Iterable[EncodableElement]]]"
)


class Element(NamedTuple):
    """One element of the outline.

    `vr` is None when the encoding does not say it. `value` is a view of the value field; of one
    with undefined length, of its items without the delimiter. `offset` is where the header starts,
    `end` where the next one does, behind the delimiter if there is one.
    """

    tag: int
    vr: str | None
    value: memoryview
    offset: int
    end: int
    undefined_length: bool


class Item(NamedTuple):
    """One item of a sequence, or one fragment of encapsulated pixel data."""

    content: memoryview
    undefined_length: bool


def walk(
    data: bytes | memoryview,
    *,
    explicit: bool,
    little_endian: bool,
    stop_tag: int | None = None,
) -> Iterator[Element]:
    """Yield the top-level elements in the order they come, up to the first at or above `stop_tag`.

    Raises ElementsError when the outline breaks off or makes no sense.
    """
    view = memoryview(data)
    encoding = ENCODINGS[explicit, little_endian]
    end = len(view)
    limit = 1 << 32 if stop_tag is None else stop_tag
    position = 0
    while position < end:
        tag, vr, start, length = header_at(view, position, end, encoding)
        if tag >= limit:
            return
        if tag >> 16 == ITEM_GROUP:
            raise ElementsError(Fault.MALFORMED, position, tag)
        if length == UNDEFINED_LENGTH:
            stop = undefined_length_end(view, start, end, encoding_inside(vr, encoding), tag)
            following = stop + HEADER_BYTES
        else:
            following = stop = start + length
            if stop > end:
                raise ElementsError(Fault.TRUNCATED, position, tag, wanted=stop)
        undefined = length == UNDEFINED_LENGTH
        yield Element(tag, vr, view[start:stop], position, following, undefined)
        position = following


def items(value: memoryview, *, explicit: bool, little_endian: bool) -> Iterator[memoryview]:
    """Yield the elements of each item in a sequence's value, as `delimited_items` does."""
    for item in delimited_items(value, explicit=explicit, little_endian=little_endian):
        yield item.content


def delimited_items(value: memoryview, *, explicit: bool, little_endian: bool) -> Iterator[Item]:
    """Yield each item in a sequence's value, its elements to be walked in their turn.

    The value of an element with VR UN is in Implicit VR Little Endian (PS3.5 6.2.2), and so are
    its items. Raises ElementsError with offsets inside `value`.
    """
    encoding = ENCODINGS[explicit, little_endian]
    end = len(value)
    position = 0
    while position < end:
        tag, length = untyped_header_at(value, position, end, encoding)
        # Some writers close a sequence of defined length with a delimiter as well.
        if tag == SEQUENCE_DELIMITATION:
            return
        if tag != ITEM:
            raise ElementsError(Fault.MALFORMED, position, tag)
        start = position + HEADER_BYTES
        if length == UNDEFINED_LENGTH:
            stop = undefined_length_end(value, start, end, encoding, ITEM)
            position = stop + HEADER_BYTES
        else:
            position = stop = start + length
            if stop > end:
                raise ElementsError(Fault.TRUNCATED, start, tag, wanted=stop)
        yield Item(value[start:stop], length == UNDEFINED_LENGTH)


def encode_element(
    tag: int, vr: str, value: bytes, *, explicit: bool = True, little_endian: bool = True
) -> bytes:
    """Encode one element, its value padded to an even length.

    `value` is in the byte order asked for. A value too long for the short form of its VR is
    written as UN, as PS3.5 6.2.2 allows.
    """
    if len(value) % 2:
        value += b"\0" if vr in _NUL_PADDED else b" "
    return encode_typed_header(tag, vr, len(value), ENCODINGS[explicit, little_endian]) + value


def element_writer(
    tag: int, vr: str, *, explicit: bool = True, little_endian: bool = True
) -> Callable[[bytes], bytes]:
    """Return what does as `encode_element` for one attribute, whose values come by the thousand."""
    header = encode_typed_header(tag, vr, 0, ENCODINGS[explicit, little_endian])
    is_short = explicit and vr in SHORT_FORM_NAMES
    length_of = Struct(("<" if little_endian else ">") + ("H" if is_short else "L"))
    start = header[: -length_of.size]
    pack = length_of.pack
    padding = b"\0" if vr in _NUL_PADDED else b" "

    def write(value: bytes) -> bytes:
        length = len(value)
        if length & 1:
            value += padding
            length += 1
        if is_short and length > SHORT_FORM_MAX_BYTES:
            return encode_element(tag, vr, value, explicit=explicit, little_endian=little_endian)
        return start + pack(length) + value

    return write


def encode_data_set(
    elements: Iterable[EncodableElement], *, explicit: bool = True, little_endian: bool = True
) -> bytes:
    """Encode elements in tag order; sequences and items are written with their lengths."""
    encoding = ENCODINGS[explicit, little_endian]
    return b"".join(
        encode_element(tag, vr, value, explicit=explicit, little_endian=little_endian)
        if isinstance(value, bytes)
        else _encode_sequence(tag, vr, value, encoding, little_endian=little_endian)
        for tag, vr, value in sorted(elements, key=_tag_of)
    )


def _tag_of(element: EncodableElement) -> int:
    return element[0]


def _encode_sequence(
    tag: int,
    vr: str,
    nested: Sequence[Iterable[EncodableElement]],
    encoding: Encoding,
    *,
    little_endian: bool,
) -> bytes:
    parts: list[bytes] = []
    for item in nested:
        content = encode_data_set(item, explicit=encoding.explicit, little_endian=little_endian)
        parts.append(encoding.untyped_header.pack(ITEM >> 16, ITEM & 0xFFFF, len(content)))
        parts.append(content)
    value = b"".join(parts)
    return encode_typed_header(tag, vr, len(value), encoding) + value


def undefined_length_end(
    data: memoryview, position: int, end: int, encoding: Encoding, outermost: int
) -> int:
    """Return where the delimiter stands that closes the value, or item, open at `position`.

    `outermost` is the tag of what is open: ITEM for an item, else a sequence or fragments.
    """
    in_item = outermost == ITEM
    # What encloses the innermost open value or item: is it an item, and how is it written.
    enclosing: list[tuple[bool, Encoding]] = []
    while True:
        if in_item:
            tag, vr, start, length = header_at(data, position, end, encoding)
            if tag == ITEM_DELIMITATION:
                if not enclosing:
                    return position
                in_item, encoding = enclosing.pop()
                position += HEADER_BYTES
                continue
            wrong = tag >> 16 == ITEM_GROUP
        else:
            tag, length = untyped_header_at(data, position, end, encoding)
            if tag == SEQUENCE_DELIMITATION:
                if not enclosing:
                    return position
                in_item, encoding = enclosing.pop()
                position += HEADER_BYTES
                continue
            vr, start = None, position + HEADER_BYTES
            wrong = tag != ITEM
        if wrong or len(enclosing) > 2 * MAX_DEPTH:
            raise ElementsError(Fault.MALFORMED, position, tag)
        if length == UNDEFINED_LENGTH:
            enclosing.append((in_item, encoding))
            encoding = encoding_inside(vr, encoding)
            in_item = not in_item
            position = start
        else:
            position = start + length
            if position > end:
                raise ElementsError(Fault.TRUNCATED, start, tag, wanted=position)
