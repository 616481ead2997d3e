"""Any stored file as a native data set, for a peer that takes no syntax it is stored in.

Pixels come out as every other decoder has them, frame by frame. What changes with them in the
header changes: Planar Configuration is 0, a Photometric Interpretation that was true of the stream
alone is replaced, offset tables and group lengths go, icons in sequences are decoded too. All else
is copied.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from .byte_ranges import ByteRanges, InMemory
from .codecs import CODECS, CannotDecode, decode_frame, inflated
from .element_headers import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    encode_header,
)
from .elements import Element, delimited_items, encode_element, walk
from .encapsulation import (
    EXTENDED_OFFSET_TABLE,
    EXTENDED_OFFSET_TABLE_LENGTHS,
    frames,
    read_fragments,
)
from .errors import CannotUnderstand
from .image_files import PIXEL_DATA, ImageFile, read_image_file, read_meta, transfer_syntax_of
from .image_pixel import (
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    ImagePixel,
    describing_values,
    read_image_pixel,
)
from .reencoding import is_group_length, reencoded
from .transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, TransferSyntax

_COPIED_CHUNK_BYTES: Final = 4 << 20
#: The greatest even length that is not "undefined", PS3.5 7.1.1.
_LONGEST_VALUE_BYTES: Final = 0xFFFFFFFE
#: Tag, VR, reserved bytes and length of encapsulated pixel data.
_PIXEL_HEADER_BYTES: Final = 12
_PIXEL_HEADER_MARK: Final = b"\xe0\x7f\x10\x00"


def native_data_set(
    file: ByteRanges, target: TransferSyntax = EXPLICIT_VR_LITTLE_ENDIAN
) -> Iterator[bytes | memoryview]:
    """Yield, in pieces, the data set of a PS3.10 file in Explicit or Implicit VR Little Endian.

    A damaged frame is noticed when its turn comes, so what was yielded by then is of no use.

    Raises:
        CannotDecode: the pixels are in a form that is not read here, or damaged.
        CannotUnderstand: the file cannot be followed.
    """
    head, meta = read_meta(file)
    source = transfer_syntax_of(meta)
    if source.deflated:
        yield from _inflated(file, len(head), target)
        return
    if (source.uid, source.encapsulated) == (target.uid, False):
        yield from _copied(file, len(head), file.size)
        return
    found = read_image_file(file)
    if found.pixel_tag is None or not found.encapsulated:
        yield from _with_native_pixels(found, target)
    else:
        yield from _with_decoded_pixels(found, target)


def _inflated(file: ByteRanges, start: int, target: TransferSyntax) -> Iterator[bytes]:
    """PS3.5 A.5: a deflated data set is one in Explicit VR Little Endian."""
    pieces = inflated(_copied(file, start, file.size))
    if target.explicit:
        yield from pieces
    else:
        yield _reencoded(b"".join(pieces), EXPLICIT_VR_LITTLE_ENDIAN, target)


def _with_native_pixels(found: ImageFile, target: TransferSyntax) -> Iterator[bytes | memoryview]:
    source = found.transfer_syntax
    yield _reencoded(found.header, source, target)
    if found.pixel_tag is None:
        return
    if found.pixel_tag == PIXEL_DATA:
        vr = found.pixel_vr or "OW"
        turned = vr == "OW" and not source.little_endian
        if turned and found.value_length % 2:
            raise CannotUnderstand("the pixel data is no whole number of words")
        yield encode_header(PIXEL_DATA, vr, found.value_length, explicit=target.explicit)
        for piece in _copied(found.file, found.value_start, found.tail_start):
            yield _turned(piece) if turned else piece
    else:
        # Float pixels: rare enough to be read whole.
        pixels = found.file.read(found.pixel_start, found.tail_start - found.pixel_start)
        yield _reencoded(pixels, source, target)
    yield _reencoded(found.tail, source, target)


def _turned(piece: memoryview) -> bytes:
    turned = bytearray(piece)
    turned[::2], turned[1::2] = piece[1::2], piece[::2]
    return bytes(turned)


def _with_decoded_pixels(found: ImageFile, target: TransferSyntax) -> Iterator[bytes | memoryview]:
    uid, image = found.transfer_syntax.uid, found.image
    if uid not in CODECS:
        raise CannotDecode(f"pixels in {found.transfer_syntax.name} are not decoded")
    padding = image.native_bytes % 2
    if image.native_bytes + padding > _LONGEST_VALUE_BYTES:
        raise CannotDecode("the decoded pixels are longer than one value may be")
    streams = frames(found.file, found.fragments, image.frames)
    first = decode_frame(uid, next(streams), image)
    changes = _changes(image, first.photometric_interpretation)
    header = _edited(found.header, changes, uid)
    yield _reencoded(header, EXPLICIT_VR_LITTLE_ENDIAN, target)
    vr = "OB" if image.bits_allocated <= 8 else "OW"  # noqa: PLR2004 - PS3.5 A.2
    yield encode_header(PIXEL_DATA, vr, image.native_bytes + padding, explicit=target.explicit)
    yield first.cells
    del first
    for stream in streams:
        yield decode_frame(uid, stream, image).cells
    yield bytes(padding)
    yield _reencoded(found.tail, EXPLICIT_VR_LITTLE_ENDIAN, target)


def _changes(image: ImagePixel, label: str) -> dict[int, bytes | None]:
    """Return what a header must say of decoded pixels: new elements by tag, None to drop one."""
    changes: dict[int, bytes | None] = {
        EXTENDED_OFFSET_TABLE: None,
        EXTENDED_OFFSET_TABLE_LENGTHS: None,
    }
    if label != image.photometric_interpretation:
        changes[PHOTOMETRIC_INTERPRETATION] = encode_element(
            PHOTOMETRIC_INTERPRETATION, "CS", label.encode("ascii")
        )
    if image.samples_per_pixel > 1 and image.planar_configuration != 0:
        changes[PLANAR_CONFIGURATION] = encode_element(PLANAR_CONFIGURATION, "US", bytes(2))
    return changes


def _edited(data: bytes | memoryview, changes: Mapping[int, bytes | None], uid: str) -> bytes:
    """Replace, insert or drop top-level elements, and decode icons; all in explicit VR."""
    waiting = dict(sorted(changes.items()))
    parts: list[bytes | memoryview] = []
    view = memoryview(data)
    for element in walk(view, explicit=True, little_endian=True):
        if is_group_length(element):
            continue  # It may be wrong now, and may be left out (PS3.5 7.2).
        due = [tag for tag in waiting if tag < element.tag]
        parts += [waiting.pop(tag) or b"" for tag in due]
        if element.tag in waiting:
            parts.append(waiting.pop(element.tag) or b"")
        elif element.vr == "SQ" and _PIXEL_HEADER_MARK in bytes(element.value):
            parts.append(_with_native_icons(element, uid))
        else:
            parts.append(view[element.offset : element.end])
    parts += [added for added in waiting.values() if added]
    return b"".join(parts)


def _with_native_icons(sequence: Element, uid: str) -> bytes:
    """Decode encapsulated pixels in the items of a sequence, which a native syntax cannot hold."""
    parts: list[bytes] = []
    for item in delimited_items(sequence.value, explicit=True, little_endian=True):
        content = _native_item(item.content, uid)
        if item.undefined_length:
            parts += [encode_header(ITEM, "", UNDEFINED_LENGTH), content]
            parts.append(encode_header(ITEM_DELIMITATION, "", 0))
        else:
            parts += [encode_header(ITEM, "", len(content)), content]
    value = b"".join(parts)
    if sequence.undefined_length:
        start = encode_header(sequence.tag, "SQ", UNDEFINED_LENGTH)
        return start + value + encode_header(SEQUENCE_DELIMITATION, "", 0)
    return encode_header(sequence.tag, "SQ", len(value)) + value


def _native_item(content: memoryview, uid: str) -> bytes:
    elements = list(walk(content, explicit=True, little_endian=True))
    pixels = next((each for each in elements if each.tag == PIXEL_DATA), None)
    if pixels is None or not pixels.undefined_length:
        return _edited(content, {}, uid)
    image = read_image_pixel(describing_values(elements), little_endian=True)
    of_item = InMemory(content[pixels.offset : pixels.end])
    (stream,) = frames(of_item, read_fragments(of_item, _PIXEL_HEADER_BYTES), 1)
    frame = decode_frame(uid, stream, image)
    vr = "OB" if image.bits_allocated <= 8 else "OW"  # noqa: PLR2004 - PS3.5 A.2
    changes = _changes(image, frame.photometric_interpretation)
    changes[PIXEL_DATA] = encode_element(PIXEL_DATA, vr, bytes(frame.cells))
    return _edited(content, changes, uid)


def _reencoded(data: bytes | memoryview, source: TransferSyntax, target: TransferSyntax) -> bytes:
    return reencoded(data, source, target, group_lengths=False)


def _copied(file: ByteRanges, start: int, end: int) -> Iterator[memoryview]:
    for position in range(start, end, _COPIED_CHUNK_BYTES):
        yield file.read(position, min(_COPIED_CHUNK_BYTES, end - position))
