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

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from .errors import CannotUnderstand
from .transfer_syntaxes import TransferSyntax

ITEM: Final = 0xFFFEE000
ITEM_DELIMITATION: Final = 0xFFFEE00D
SEQUENCE_DELIMITATION: Final = 0xFFFEE0DD
UNDEFINED_LENGTH: Final = 0xFFFFFFFF

#: Values of undefined length inside one another that we follow. SR documents, the deepest of
#: honest data sets, stay below half of it.
MAX_DEPTH: Final = 64
#: What `find_uids` inflates at most: elements come in tag order (PS3.5 7.1), the UIDs are early.
MAX_INFLATED_BYTES: Final = 1 << 20

_HEADER_BYTES: Final = 8
_LONG_HEADER_BYTES: Final = 12
_ITEM_GROUP: Final = 0xFFFE
#: Inflating 16 KiB is enough for almost every head and takes a sixtieth of the time of the most.
_DEFLATED_SLICE_BYTES: Final = 64 << 10
_FIRST_INFLATED_BYTES: Final = 1 << 14
#: What `is_whole` inflates at most: a small stream may become any length. Half a second of zlib,
#: to which `_MOST_HEADERS` adds two seconds at most.
_MOST_INFLATED_BYTES: Final = 256 << 20
#: What `is_whole` follows at most. Frames by the ten thousand, with what is said of each, stay
#: below it; nothing else bounds how many empty elements there are in a gigabyte.
_MOST_HEADERS: Final = 1_000_000
#: `re` looks at zeros as fast as memory gives them, but lets no other thread run meanwhile.
_ZEROS: Final = re.compile(rb"\0*")
_ZEROS_AT_A_TIME: Final = 1 << 20

# PS3.5 7.1.2: these have 16 bits of length; all others, future ones too, have 32 after two bytes
# that are reserved.
_SHORT_FORM: Final = {
    vr.encode(): vr
    for vr in (
        *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO"),
        *("LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
    )
}
_SHORT_FORM_NAMES: Final = frozenset(_SHORT_FORM.values())
_LONG_FORM: Final = (
    *(b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"),
)
#: The longest even value that a 16-bit length can announce.
_SHORT_FORM_MAX_BYTES: Final = 0xFFFE
#: Padded with NUL to an even length, PS3.5 6.2; all others with a space.
_NUL_PADDED: Final = frozenset({"UI", "OB", "OD", "OF", "OL", "OV", "OW", "UN"})

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_IDENTIFYING: Final = frozenset(
    {_SOP_CLASS_UID, _SOP_INSTANCE_UID, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID}
)
_LAST_IDENTIFYING: Final = max(_IDENTIFYING)

#: An element to encode: tag, VR, and either its value field or, of a sequence, its items.
EncodableElement: TypeAlias = (
    "tuple[int, str, bytes] | tuple[int, str, Sequence[Iterable[EncodableElement]]]"
)


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


class ElementHeader(NamedTuple):
    """What precedes a value: `length` is UNDEFINED_LENGTH where the encoding says so."""

    tag: int
    vr: str | None
    value_start: int
    length: int


class Item(NamedTuple):
    """One item of a sequence, or one fragment of encapsulated pixel data."""

    content: memoryview
    undefined_length: bool


@dataclass(frozen=True, slots=True)
class Identification:
    """The UIDs in the head of a data set, None where absent or empty.

    They are as the sender wrote them, without padding and not checked in any other way. Unless
    `complete`, more of the data set may bring more of them.
    """

    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    complete: bool

    @property
    def is_identified(self) -> bool:
        """Whether there is any of the four."""
        return bool(
            self.sop_instance_uid
            or self.sop_class_uid
            or self.study_instance_uid
            or self.series_instance_uid
        )


class _Encoding(NamedTuple):
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


_ENCODINGS: Final = {
    (explicit, little_endian): _Encoding(
        explicit,
        Struct(f"{order}HH2sH" if explicit else f"{order}HHL"),
        Struct(f"{order}HHL"),
        Struct(f"{order}L"),
        Struct(f"{order}4xHH" if explicit else f"{order}H2xL"),
        _as_numbers(_SHORT_FORM, order),
        _as_numbers(_LONG_FORM, order),
    )
    for explicit in (True, False)
    for little_endian, order in ((True, "<"), (False, ">"))
}
_IMPLICIT_LITTLE_ENDIAN: Final = _ENCODINGS[False, True]


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
    encoding = _ENCODINGS[explicit, little_endian]
    end = len(view)
    limit = 1 << 32 if stop_tag is None else stop_tag
    position = 0
    while position < end:
        tag, vr, start, length = _read_header(view, position, end, encoding)
        if tag >= limit:
            return
        if tag >> 16 == _ITEM_GROUP:
            raise ElementsError(Fault.MALFORMED, position, tag)
        if length == UNDEFINED_LENGTH:
            stop = _undefined_length_end(view, start, end, _inside(vr, encoding), tag)
            following = stop + _HEADER_BYTES
        else:
            following = stop = start + length
            if stop > end:
                raise ElementsError(Fault.TRUNCATED, position, tag, wanted=stop)
        undefined = length == UNDEFINED_LENGTH
        yield Element(tag, vr, view[start:stop], position, following, undefined)
        position = following


def read_header(
    data: bytes | memoryview, position: int, *, explicit: bool, little_endian: bool
) -> ElementHeader:
    """Read the header at `position`, whatever its length announces.

    Raises ElementsError when `data` ends before it does.
    """
    encoding = _ENCODINGS[explicit, little_endian]
    return ElementHeader(*_read_header(memoryview(data), position, len(data), encoding))


def items(value: memoryview, *, explicit: bool, little_endian: bool) -> Iterator[memoryview]:
    """Yield the elements of each item in a sequence's value, as `delimited_items` does."""
    for item in delimited_items(value, explicit=explicit, little_endian=little_endian):
        yield item.content


def delimited_items(value: memoryview, *, explicit: bool, little_endian: bool) -> Iterator[Item]:
    """Yield each item in a sequence's value, its elements to be walked in their turn.

    The value of an element with VR UN is in Implicit VR Little Endian (PS3.5 6.2.2), and so are
    its items. Raises ElementsError with offsets inside `value`.
    """
    encoding = _ENCODINGS[explicit, little_endian]
    end = len(value)
    position = 0
    while position < end:
        tag, length = _read_untyped_header(value, position, end, encoding)
        # Some writers close a sequence of defined length with a delimiter as well.
        if tag == SEQUENCE_DELIMITATION:
            return
        if tag != ITEM:
            raise ElementsError(Fault.MALFORMED, position, tag)
        start = position + _HEADER_BYTES
        if length == UNDEFINED_LENGTH:
            stop = _undefined_length_end(value, start, end, encoding, ITEM)
            position = stop + _HEADER_BYTES
        else:
            position = stop = start + length
            if stop > end:
                raise ElementsError(Fault.TRUNCATED, start, tag, wanted=stop)
        yield Item(value[start:stop], length == UNDEFINED_LENGTH)


def find_uids(data: bytes | memoryview, transfer_syntax: TransferSyntax) -> Identification:
    """Find the four identifying UIDs in the head of a data set of which more may be to come.

    Looks no further than the first element behind (0020,000E). Elements out of order before it
    are taken as they come. Raises ElementsError when the head is malformed; a head that breaks
    off is not an error but not `complete`.
    """
    encoding = _ENCODINGS[transfer_syntax.explicit, transfer_syntax.little_endian]
    if transfer_syntax.deflated:
        return _find_deflated_uids(data, encoding)
    return _find_uids(data, encoding)


def is_whole(
    read: Callable[[int], bytes | memoryview], length: int, transfer_syntax: TransferSyntax
) -> bool:
    """Tell whether all that a data set of so many bytes announces is there.

    `read` returns bytes from an offset on, as many as it likes, but those of a header; what it
    raises goes on. Values of defined length are jumped over, whatever is in them. A data set of
    more headers than we follow, or that inflates to more than we inflate, is taken for whole.
    """
    outline = _Outline(transfer_syntax)
    try:
        if transfer_syntax.deflated:
            return _inflates_whole(read, outline)
        while (position := outline.position) < length:
            outline.follow(read(position), position)
            if outline.gave_up:
                return True
            if outline.position == position:
                return outline.may_end(length, read(position))
    except ElementsError:
        return False
    return outline.may_end(length, b"")


def encode_element(
    tag: int, vr: str, value: bytes, *, explicit: bool = True, little_endian: bool = True
) -> bytes:
    """Encode one element, its value padded to an even length.

    `value` is in the byte order asked for. A value too long for the short form of its VR is
    written as UN, as PS3.5 6.2.2 allows.
    """
    if len(value) % 2:
        value += b"\0" if vr in _NUL_PADDED else b" "
    return _encode_header(tag, vr, len(value), _ENCODINGS[explicit, little_endian]) + value


def element_writer(
    tag: int, vr: str, *, explicit: bool = True, little_endian: bool = True
) -> Callable[[bytes], bytes]:
    """Return what does as `encode_element` for one attribute, whose values come by the thousand."""
    header = _encode_header(tag, vr, 0, _ENCODINGS[explicit, little_endian])
    is_short = explicit and vr in _SHORT_FORM_NAMES
    length_of = Struct(("<" if little_endian else ">") + ("H" if is_short else "L"))
    start = header[: -length_of.size]
    pack = length_of.pack
    padding = b"\0" if vr in _NUL_PADDED else b" "

    def write(value: bytes) -> bytes:
        length = len(value)
        if length & 1:
            value += padding
            length += 1
        if is_short and length > _SHORT_FORM_MAX_BYTES:
            return encode_element(tag, vr, value, explicit=explicit, little_endian=little_endian)
        return start + pack(length) + value

    return write


def encode_data_set(
    elements: Iterable[EncodableElement], *, explicit: bool = True, little_endian: bool = True
) -> bytes:
    """Encode elements in tag order; sequences and items are written with their lengths."""
    encoding = _ENCODINGS[explicit, little_endian]
    return b"".join(
        encode_element(tag, vr, value, explicit=explicit, little_endian=little_endian)
        if isinstance(value, bytes)
        else _encode_sequence(tag, vr, value, encoding, little_endian=little_endian)
        for tag, vr, value in sorted(elements, key=_tag_of)
    )


def encode_header(
    tag: int, vr: str, length: int, *, explicit: bool = True, little_endian: bool = True
) -> bytes:
    """Encode what precedes a value of `length` bytes, or of UNDEFINED_LENGTH.

    Items and delimiters have no VR. A length too long for the short form of its VR makes it UN.
    """
    encoding = _ENCODINGS[explicit, little_endian]
    if tag >> 16 == _ITEM_GROUP:
        return encoding.untyped_header.pack(tag >> 16, tag & 0xFFFF, length)
    return _encode_header(tag, vr, length, encoding)


def _tag_of(element: EncodableElement) -> int:
    return element[0]


def _encode_sequence(
    tag: int,
    vr: str,
    nested: Sequence[Iterable[EncodableElement]],
    encoding: _Encoding,
    *,
    little_endian: bool,
) -> bytes:
    parts: list[bytes] = []
    for item in nested:
        content = encode_data_set(item, explicit=encoding.explicit, little_endian=little_endian)
        parts.append(encoding.untyped_header.pack(ITEM >> 16, ITEM & 0xFFFF, len(content)))
        parts.append(content)
    value = b"".join(parts)
    return _encode_header(tag, vr, len(value), encoding) + value


def _encode_header(tag: int, vr: str, length: int, encoding: _Encoding) -> bytes:
    if not encoding.explicit:
        return encoding.header.pack(tag >> 16, tag & 0xFFFF, length)
    if vr in _SHORT_FORM_NAMES:
        if length <= _SHORT_FORM_MAX_BYTES:
            return encoding.header.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)
        vr = "UN"
    reserved = encoding.header.pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0)
    return reserved + encoding.length.pack(length)


def _inside(vr: str | None, encoding: _Encoding) -> _Encoding:
    """Tell how the items of a value of undefined length are written, PS3.5 6.2.2."""
    return _IMPLICIT_LITTLE_ENDIAN if vr == "UN" else encoding


def _is_long_form(vr: bytes) -> bool:
    """Tell the form of a VR that is not in the table of short ones.

    Two capital letters are a VR of the long form, perhaps one newer than this program. Anything
    else ("??", blanks, NULs) is not a VR; the writers of such data sets meant the short form, and
    DCMTK reads them so.
    """
    return vr.isalpha() and vr.isupper()


def _read_header(
    data: memoryview, position: int, end: int, encoding: _Encoding
) -> tuple[int, str | None, int, int]:
    """Return tag, VR, where the value starts and its length."""
    if position + _HEADER_BYTES > end:
        raise ElementsError(Fault.TRUNCATED, position, None, wanted=position + _HEADER_BYTES)
    if not encoding.explicit:
        group, number, length = encoding.header.unpack_from(data, position)
        return group << 16 | number, None, position + _HEADER_BYTES, length
    group, number, raw_vr, length = encoding.header.unpack_from(data, position)
    tag = group << 16 | number
    if group == _ITEM_GROUP:  # Items and delimiters have no VR, PS3.5 7.5.
        (length,) = encoding.length.unpack_from(data, position + 4)
        return tag, None, position + _HEADER_BYTES, length
    vr = _SHORT_FORM.get(raw_vr)
    if vr is not None or not _is_long_form(raw_vr):
        return tag, vr, position + _HEADER_BYTES, length
    start = position + _LONG_HEADER_BYTES
    if start > end:
        raise ElementsError(Fault.TRUNCATED, position, tag, wanted=start)
    (length,) = encoding.length.unpack_from(data, position + _HEADER_BYTES)
    return tag, raw_vr.decode("ascii"), start, length


def _read_untyped_header(
    data: memoryview, position: int, end: int, encoding: _Encoding
) -> tuple[int, int]:
    """Return tag and length of an item or a delimiter."""
    if position + _HEADER_BYTES > end:
        raise ElementsError(Fault.TRUNCATED, position, None, wanted=position + _HEADER_BYTES)
    group, number, length = encoding.untyped_header.unpack_from(data, position)
    return group << 16 | number, length


def _undefined_length_end(
    data: memoryview, position: int, end: int, encoding: _Encoding, outermost: int
) -> int:
    """Return where the delimiter stands that closes the value, or item, open at `position`.

    `outermost` is the tag of what is open: ITEM for an item, else a sequence or fragments.
    """
    in_item = outermost == ITEM
    # What encloses the innermost open value or item: is it an item, and how is it written.
    enclosing: list[tuple[bool, _Encoding]] = []
    while True:
        if in_item:
            tag, vr, start, length = _read_header(data, position, end, encoding)
            if tag == ITEM_DELIMITATION:
                if not enclosing:
                    return position
                in_item, encoding = enclosing.pop()
                position += _HEADER_BYTES
                continue
            wrong = tag >> 16 == _ITEM_GROUP
        else:
            tag, length = _read_untyped_header(data, position, end, encoding)
            if tag == SEQUENCE_DELIMITATION:
                if not enclosing:
                    return position
                in_item, encoding = enclosing.pop()
                position += _HEADER_BYTES
                continue
            vr, start = None, position + _HEADER_BYTES
            wrong = tag != ITEM
        if wrong or len(enclosing) > 2 * MAX_DEPTH:
            raise ElementsError(Fault.MALFORMED, position, tag)
        if length == UNDEFINED_LENGTH:
            enclosing.append((in_item, encoding))
            encoding = _inside(vr, encoding)
            in_item = not in_item
            position = start
        else:
            position = start + length
            if position > end:
                raise ElementsError(Fault.TRUNCATED, start, tag, wanted=position)


def _undefined_length_end_if_there(
    data: bytes | memoryview, position: int, encoding: _Encoding, outermost: int
) -> int | None:
    """Return what `_undefined_length_end` does, or None when the delimiter is yet to come."""
    try:
        return _undefined_length_end(memoryview(data), position, len(data), encoding, outermost)
    except ElementsError as error:
        if error.fault is Fault.TRUNCATED:
            return None
        raise


def _find_uids(data: bytes | memoryview, encoding: _Encoding) -> Identification:
    """Walk without `walk`: this runs once an instance while its sender waits."""
    found: dict[int, str] = {}
    unpack = encoding.header.unpack_from
    explicit = encoding.explicit
    end = len(data)
    position = 0
    complete = False
    vr: bytes | None = None
    while position + _HEADER_BYTES <= end:
        if explicit:
            group, number, vr, length = unpack(data, position)
        else:
            group, number, length = unpack(data, position)
        tag = group << 16 | number
        if tag > _LAST_IDENTIFYING:
            complete = True
            break
        start = position + _HEADER_BYTES
        if vr is not None and vr not in _SHORT_FORM and _is_long_form(vr):
            if start + 4 > end:
                break
            (length,) = encoding.length.unpack_from(data, start)
            start += 4
        if length == UNDEFINED_LENGTH:
            inside = _IMPLICIT_LITTLE_ENDIAN if vr == b"UN" else encoding
            stop = _undefined_length_end_if_there(data, start, inside, tag)
            if stop is None:
                break
            position = stop + _HEADER_BYTES
            continue
        position = start + length
        if tag in _IDENTIFYING and position <= end and tag not in found:
            found[tag] = bytes(data[start:position]).decode("ascii", "replace").strip(" \0")
            if len(found) == len(_IDENTIFYING):
                complete = True
                break
    return Identification(
        sop_class_uid=found.get(_SOP_CLASS_UID) or None,
        sop_instance_uid=found.get(_SOP_INSTANCE_UID) or None,
        study_instance_uid=found.get(_STUDY_INSTANCE_UID) or None,
        series_instance_uid=found.get(_SERIES_INSTANCE_UID) or None,
        complete=complete,
    )


def _find_deflated_uids(data: bytes | memoryview, encoding: _Encoding) -> Identification:
    """Inflate the head step by step; PS3.5 A.5 deflates without a zlib header."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    head = b""
    waiting = b""
    position = 0
    step = _FIRST_INFLATED_BYTES
    while True:
        if not waiting:
            # In slices: zlib copies all of the input that it has not used.
            waiting = bytes(data[position : position + _DEFLATED_SLICE_BYTES])
            position += len(waiting)
        try:
            inflated = inflater.decompress(waiting, step)
        except zlib.error as error:
            raise ElementsError(Fault.MALFORMED, position - len(waiting), None) from error
        head += inflated
        waiting = inflater.unconsumed_tail
        identification = _find_uids(head, encoding)
        # zlib may hold back output after it took all input: only a step not filled is the end.
        at_end = not waiting and position >= len(data) and len(inflated) < step
        if identification.complete or at_end or len(head) >= MAX_INFLATED_BYTES:
            return identification
        step = MAX_INFLATED_BYTES - len(head)


class _Outline:
    """Follows an outline over windows of its data set and keeps nothing of what it passes.

    It goes as `walk` does but yields nothing: this runs once an instance while its sender waits.
    And it lets pass at the top level what other receivers let pass, too: a delimiter that closes
    nothing, and zeros behind the last element.

    Attributes:
        position: where the next header starts
        gave_up: whether there were more than `_MOST_HEADERS`, so that how it ends is not known
    """

    def __init__(self, transfer_syntax: TransferSyntax) -> None:
        """Begin before the first element."""
        self.position = 0
        self.gave_up = False
        # One is taken at each header, two where it is not simply jumped over. Adding up numbers
        # instead would take a quarter of the time of all the rest.
        self._headers_left = repeat(True, _MOST_HEADERS)
        self._encoding = _ENCODINGS[transfer_syntax.explicit, transfer_syntax.little_endian]
        # Whether elements are next, or items; and the same of what encloses the innermost open one.
        self._in_item = True
        self._enclosing: list[tuple[bool, _Encoding]] = []

    def follow(self, window: bytes | memoryview, offset: int) -> None:
        """Go on until a header begins that is not all in `window`, the bytes from `offset` on.

        Or until it is to give up. Raises ElementsError when what is there makes no sense.
        """
        view = memoryview(window)
        last = len(view) - _HEADER_BYTES
        position = self.position - offset
        while position <= last:
            position = self._jump(view, position, last)
            if position > last:
                break
            if not next(self._headers_left, False):
                self.gave_up = True
                break
            try:
                position = self._step(view, position)
            except ElementsError as error:
                if error.fault is Fault.TRUNCATED:
                    break
                raise
        self.position = position + offset

    def may_end(self, length: int, rest: bytes | memoryview) -> bool:
        """Tell whether the data set may be over after `length` bytes, of which `rest` is left."""
        return self.position + len(rest) == length and not (self._enclosing or any(rest))

    def _jump(self, view: memoryview, position: int, last: int) -> int:
        """Pass whatever has a defined length; return where that ends, perhaps behind the window."""
        headers_left = self._headers_left
        if not self._in_item:
            return _behind_items(view, position, last, self._encoding, headers_left)
        if self._encoding.explicit:
            return _behind_explicit(view, position, last, self._encoding, headers_left)
        return _behind_implicit(view, position, last, self._encoding, headers_left)

    def _step(self, view: memoryview, position: int) -> int:
        """Take one header of any kind; return where the next one is."""
        in_item, encoding = self._in_item, self._encoding
        if in_item:
            tag, vr, start, length = _read_header(view, position, len(view), encoding)
        else:
            tag, length = _read_untyped_header(view, position, len(view), encoding)
            vr, start = None, position + _HEADER_BYTES
        if tag in (ITEM_DELIMITATION, SEQUENCE_DELIMITATION):
            if self._enclosing:
                if (tag == ITEM_DELIMITATION) != in_item:
                    raise ElementsError(Fault.MALFORMED, position, tag)
                self._in_item, self._encoding = self._enclosing.pop()
            return position + _HEADER_BYTES
        if in_item == (tag >> 16 == _ITEM_GROUP) or len(self._enclosing) > 2 * MAX_DEPTH:
            raise ElementsError(Fault.MALFORMED, position, tag)
        if not (tag or length):
            # Zeros are headers of empty elements: those that follow are passed at once.
            zeros = _ZEROS.match(view, start, start + _ZEROS_AT_A_TIME)
            return start if zeros is None else zeros.end() - (zeros.end() - start) % _HEADER_BYTES
        if length != UNDEFINED_LENGTH:
            return start + length
        self._enclosing.append((in_item, encoding))
        self._in_item = not in_item
        self._encoding = _inside(vr, encoding)
        return start


def _behind_explicit(
    view: memoryview, position: int, last: int, encoding: _Encoding, headers_left: Iterator[bool]
) -> int:
    unpack, short, long = encoding.jump.unpack_from, encoding.short, encoding.long
    unpack_length = encoding.length.unpack_from
    for _ in headers_left:
        if position > last:
            break
        vr, length = unpack(view, position)
        if vr in short:
            position += _HEADER_BYTES + length
            continue
        if vr not in long or position > last - 4:
            break
        (length,) = unpack_length(view, position + _HEADER_BYTES)
        if length == UNDEFINED_LENGTH:
            break
        position += _LONG_HEADER_BYTES + length
    return position


def _behind_implicit(
    view: memoryview, position: int, last: int, encoding: _Encoding, headers_left: Iterator[bool]
) -> int:
    unpack = encoding.jump.unpack_from
    for _ in headers_left:
        if position > last:
            break
        group, length = unpack(view, position)
        # No data set has elements of group 0: these are zeros.
        if length == UNDEFINED_LENGTH or group == _ITEM_GROUP or not group:
            break
        position += _HEADER_BYTES + length
    return position


def _behind_items(
    view: memoryview, position: int, last: int, encoding: _Encoding, headers_left: Iterator[bool]
) -> int:
    unpack = encoding.untyped_header.unpack_from
    for _ in headers_left:
        if position > last:
            break
        group, number, length = unpack(view, position)
        if length == UNDEFINED_LENGTH or (group << 16 | number) != ITEM:
            break
        position += _HEADER_BYTES + length
    return position


def _inflates_whole(read: Callable[[int], bytes | memoryview], outline: _Outline) -> bool:
    """Do as `is_whole` for a deflated data set, piece by piece."""
    length = 0
    rest = b""
    for piece in _inflated(read):
        rest += piece
        length += len(piece)
        outline.follow(rest, length - len(rest))
        rest = rest[max(0, outline.position - (length - len(rest))) :]
        if length >= _MOST_INFLATED_BYTES or outline.gave_up:
            return True
    return outline.may_end(length, rest)


def _inflated(read: Callable[[int], bytes | memoryview]) -> Iterator[bytes]:
    """Inflate to the end of the deflated stream; what follows it is padding, PS3.5 A.5."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    source = memoryview(b"")
    waiting = b""
    position = 0
    while not inflater.eof:
        if not waiting:
            source = source or memoryview(read(position))
            waiting = bytes(source[:_DEFLATED_SLICE_BYTES])
            source = source[_DEFLATED_SLICE_BYTES:]
            position += len(waiting)
        at_end = not waiting
        try:
            piece = inflater.decompress(waiting, _DEFLATED_SLICE_BYTES)
        except zlib.error as error:
            raise ElementsError(Fault.MALFORMED, position, None) from error
        # zlib may hold back output after it took all input.
        if at_end and not piece:
            raise ElementsError(Fault.TRUNCATED, position, None)
        waiting = inflater.unconsumed_tail
        yield piece
