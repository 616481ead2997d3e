"""Where things are in the file of an image: meta information, header, pixel data, what follows it.

    preamble and group 0002 │ header │ tag, VR, length of (7FE0,0010) │ value      │ tail
    head                             │ pixel_start                    │ value_start│ tail_start

Only what precedes the pixels is read into memory; of encapsulated pixels, the outline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from . import image_pixel
from .byte_ranges import ByteRanges
from .element_headers import UNDEFINED_LENGTH, ElementsError, Fault, read_header
from .elements import walk
from .encapsulation import Encapsulated, read_fragments
from .errors import CannotUnderstand
from .image_pixel import ImagePixel
from .part10 import PREAMBLE_AND_PREFIX_BYTES, data_set_offset
from .transfer_syntaxes import BY_UID, TransferSyntax

PIXEL_DATA: Final = 0x7FE00010
#: Float Pixel Data; Double Float Pixel Data stands between it and Pixel Data (PS3.3 C.7.6.24).
_FLOAT_PIXEL_DATA: Final = 0x7FE00008
_TRANSFER_SYNTAX_UID: Final = 0x00020010

_FIRST_BYTES: Final = 64 << 10
_GROWTH: Final = 4
#: The header of an element is this long at most.
_ELEMENT_HEADER_BYTES: Final = 12


@dataclass(frozen=True)
class ImageFile:
    """The file of an instance, cut at its pixel data.

    `pixel_tag` is None when there is no pixel data, and then `header` is the whole data set.
    `values` are those of `image_pixel`, as they are encoded; `header_tags` is every element before
    the pixels. `value_length` is UNDEFINED_LENGTH when the pixels are encapsulated.
    """

    file: ByteRanges
    transfer_syntax: TransferSyntax
    meta: Mapping[int, bytes]
    head: bytes
    header: bytes
    header_tags: frozenset[int]
    values: Mapping[int, bytes]
    pixel_tag: int | None
    pixel_vr: str | None
    pixel_start: int
    value_start: int
    value_length: int

    @cached_property
    def image(self) -> ImagePixel:
        """The description of the pixels, or raise `NotDescribed`."""
        return image_pixel.read_image_pixel(
            self.values, little_endian=self.transfer_syntax.little_endian
        )

    @property
    def encapsulated(self) -> bool:
        """Tell whether the pixels are in fragments."""
        return self.value_length == UNDEFINED_LENGTH

    @cached_property
    def fragments(self) -> Encapsulated:
        """The outline of encapsulated pixels, or raise `ElementsError`."""
        return read_fragments(self.file, self.value_start)

    @cached_property
    def tail_start(self) -> int:
        """Where what follows the pixel data starts."""
        if self.pixel_tag is None:
            return self.file.size
        return self.fragments.end if self.encapsulated else self.value_start + self.value_length

    @cached_property
    def tail(self) -> bytes:
        """What follows the pixel data; a few bytes in honest files."""
        return bytes(self.file.read(self.tail_start, self.file.size - self.tail_start))


class HeaderTooLong(CannotUnderstand):
    """So much precedes the pixel data, or there is so much without any, that it is not read."""


def read_image_file(file: ByteRanges, *, most_header_bytes: int | None = None) -> ImageFile:
    """Cut a file at its pixel data. Its data set must not be deflated.

    Raises:
        CannotUnderstand: the file is not PS3.10, its transfer syntax is unknown or deflated, or the
            data set breaks off before, or in, the pixel data.
        HeaderTooLong: more than `most_header_bytes` would have to be in memory.
    """
    most = file.size if most_header_bytes is None else most_header_bytes
    length = _FIRST_BYTES
    while True:
        if min(length, file.size) > most:
            raise HeaderTooLong("what precedes the pixel data is too long to be read")
        start = file.read(0, length)
        whole = len(start) == file.size
        try:
            return _cut(file, start, most, whole=whole)
        except ElementsError as error:
            if error.fault is not Fault.TRUNCATED or whole:
                raise
            length *= _GROWTH


def read_meta(file: ByteRanges) -> tuple[bytes, dict[int, bytes]]:
    """Return all that precedes the data set, and the values of group 0002 without padding.

    Raises:
        CannotUnderstand: the file is not PS3.10.
    """
    start = file.read(0, _FIRST_BYTES)
    offset = data_set_offset(start)
    if offset > len(start):
        start = file.read(0, offset)
    head = bytes(start[:offset])
    elements = walk(memoryview(head)[PREAMBLE_AND_PREFIX_BYTES:], explicit=True, little_endian=True)
    return head, {each.tag: bytes(each.value) for each in elements}


def transfer_syntax_of(meta: Mapping[int, bytes]) -> TransferSyntax:
    """Return the transfer syntax that meta information names, or raise `CannotUnderstand`."""
    uid = meta.get(_TRANSFER_SYNTAX_UID, b"").decode("ascii", "replace").strip(" \0")
    if uid not in BY_UID:
        raise CannotUnderstand("the file's transfer syntax is not one this node knows")
    return BY_UID[uid]


def _cut(file: ByteRanges, start: memoryview, most: int, *, whole: bool) -> ImageFile:
    head, meta = read_meta(file)
    transfer_syntax = transfer_syntax_of(meta)
    if transfer_syntax.deflated:
        raise CannotUnderstand("a deflated data set has no pixel data to be found")
    data_set = start[len(head) :]
    encoding = {
        "explicit": transfer_syntax.explicit,
        "little_endian": transfer_syntax.little_endian,
    }
    elements = list(walk(data_set, **encoding, stop_tag=_FLOAT_PIXEL_DATA))
    end = elements[-1].end if elements else 0
    tag, vr, value_start, length = None, None, len(data_set), 0
    if not (whole and end == len(data_set)):
        if end + _ELEMENT_HEADER_BYTES > len(data_set) and not whole:
            raise ElementsError(Fault.TRUNCATED, end, None)
        tag, vr, value_start, length = read_header(data_set, end, **encoding)
        value_start += len(head)
        if length != UNDEFINED_LENGTH and value_start + length > file.size:
            raise CannotUnderstand("the file ends within its pixel data")
        if tag > PIXEL_DATA:
            # No pixels: what is behind their place belongs to the header, or is out of order.
            if file.size > most:
                raise HeaderTooLong("a data set without pixel data is too long to be read")
            list(walk(file.read(len(head), file.size), **encoding))
            tag, vr, value_start, length = None, None, file.size, 0
            end = file.size - len(head)
            data_set = file.read(len(head), end)
    return ImageFile(
        file=file,
        transfer_syntax=transfer_syntax,
        meta=meta,
        head=head,
        header=bytes(data_set[:end]),
        header_tags=frozenset(each.tag for each in elements),
        values=image_pixel.describing_values(elements),
        pixel_tag=tag,
        pixel_vr=vr,
        pixel_start=len(head) + end,
        value_start=value_start,
        value_length=length,
    )
