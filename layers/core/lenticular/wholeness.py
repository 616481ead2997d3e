"""Whether a data set is whole: whether all is there that its headers announce.

Nothing is kept of what is passed, and every amount is bounded: this runs once an instance while its
sender waits, and whatever a sender may send, it ends within seconds.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Final

from .element_headers import (
    ENCODINGS,
    HEADER_BYTES,
    ITEM,
    ITEM_DELIMITATION,
    ITEM_GROUP,
    LONG_HEADER_BYTES,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    ElementsError,
    Encoding,
    Fault,
    encoding_inside,
    header_at,
    untyped_header_at,
)
from .elements import MAX_DEPTH
from .transfer_syntaxes import TransferSyntax

_DEFLATED_SLICE_BYTES: Final = 64 << 10
#: What `is_whole` inflates at most: a small stream may become any length. Half a second of zlib,
#: to which `_MOST_HEADERS` adds two seconds at most.
_MOST_INFLATED_BYTES: Final = 256 << 20
#: What `is_whole` follows at most. Frames by the ten thousand, with what is said of each, stay
#: below it; nothing else bounds how many empty elements there are in a gigabyte.
_MOST_HEADERS: Final = 1_000_000
#: `re` looks at zeros as fast as memory gives them, but lets no other thread run meanwhile.
_ZEROS: Final = re.compile(rb"\0*")
_ZEROS_AT_A_TIME: Final = 1 << 20


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
        self._encoding = ENCODINGS[transfer_syntax.explicit, transfer_syntax.little_endian]
        # Whether elements are next, or items; and the same of what encloses the innermost open one.
        self._in_item = True
        self._enclosing: list[tuple[bool, Encoding]] = []

    def follow(self, window: bytes | memoryview, offset: int) -> None:
        """Go on until a header begins that is not all in `window`, the bytes from `offset` on.

        Or until it is to give up. Raises ElementsError when what is there makes no sense.
        """
        view = memoryview(window)
        last = len(view) - HEADER_BYTES
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
            tag, vr, start, length = header_at(view, position, len(view), encoding)
        else:
            tag, length = untyped_header_at(view, position, len(view), encoding)
            vr, start = None, position + HEADER_BYTES
        if tag in (ITEM_DELIMITATION, SEQUENCE_DELIMITATION):
            if self._enclosing:
                if (tag == ITEM_DELIMITATION) != in_item:
                    raise ElementsError(Fault.MALFORMED, position, tag)
                self._in_item, self._encoding = self._enclosing.pop()
            return position + HEADER_BYTES
        if in_item == (tag >> 16 == ITEM_GROUP) or len(self._enclosing) > 2 * MAX_DEPTH:
            raise ElementsError(Fault.MALFORMED, position, tag)
        if not (tag or length):
            # Zeros are headers of empty elements: those that follow are passed at once.
            zeros = _ZEROS.match(view, start, start + _ZEROS_AT_A_TIME)
            return start if zeros is None else zeros.end() - (zeros.end() - start) % HEADER_BYTES
        if length != UNDEFINED_LENGTH:
            return start + length
        self._enclosing.append((in_item, encoding))
        self._in_item = not in_item
        self._encoding = encoding_inside(vr, encoding)
        return start


def _behind_explicit(
    view: memoryview, position: int, last: int, encoding: Encoding, headers_left: Iterator[bool]
) -> int:
    unpack, short, long = encoding.jump.unpack_from, encoding.short, encoding.long
    unpack_length = encoding.length.unpack_from
    for _ in headers_left:
        if position > last:
            break
        vr, length = unpack(view, position)
        if vr in short:
            position += HEADER_BYTES + length
            continue
        if vr not in long or position > last - 4:
            break
        (length,) = unpack_length(view, position + HEADER_BYTES)
        if length == UNDEFINED_LENGTH:
            break
        position += LONG_HEADER_BYTES + length
    return position


def _behind_implicit(
    view: memoryview, position: int, last: int, encoding: Encoding, headers_left: Iterator[bool]
) -> int:
    unpack = encoding.jump.unpack_from
    for _ in headers_left:
        if position > last:
            break
        group, length = unpack(view, position)
        # No data set has elements of group 0: these are zeros.
        if length == UNDEFINED_LENGTH or group == ITEM_GROUP or not group:
            break
        position += HEADER_BYTES + length
    return position


def _behind_items(
    view: memoryview, position: int, last: int, encoding: Encoding, headers_left: Iterator[bool]
) -> int:
    unpack = encoding.untyped_header.unpack_from
    for _ in headers_left:
        if position > last:
            break
        group, number, length = unpack(view, position)
        if length == UNDEFINED_LENGTH or (group << 16 | number) != ITEM:
            break
        position += HEADER_BYTES + length
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
