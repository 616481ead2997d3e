"""Forms: an instance's file with its pixels in another syntax, and the way back, byte for byte.

Only the pixel data is written anew, and what must change with it. All else is spliced through:

    original   head │ header        │ pixel data, native       │ tail
    form       head'│ header, re-   │ frames, encapsulated     │ tail, re-headed
               +recipe  headed

What the form does not show of the original is its recipe: the head, the VR and padding of the pixel
data, the order of the samples, group lengths where the form has others. It is kept in the form's
own file meta information as private information (PS3.10 table 7.1-1), which is valid DICOM, is
never lost on the way and never sent to a peer. A form is proven by restoring the original from it:
nothing here is trusted to be reversible.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import IO, Final, Self

from . import IMPLEMENTATION_CLASS_UID
from .byte_ranges import ByteRanges, InMemory
from .codecs import (
    CannotEncode,
    decode_frame,
    encode_frame,
    inflated,
    interleaved,
    is_lossless_jpeg,
    planar,
    swapped,
)
from .element_headers import ITEM, SEQUENCE_DELIMITATION, UNDEFINED_LENGTH, encode_header
from .elements import walk
from .encapsulation import (
    EXTENDED_OFFSET_TABLE,
    EXTENDED_OFFSET_TABLE_LENGTHS,
    basic_offset_table,
    extended_offset_table,
    frames,
    needs_extended_offset_table,
)
from .errors import CannotUnderstand
from .image_files import (
    PIXEL_DATA,
    HeaderTooLong,
    ImageFile,
    read_image_file,
    read_meta,
    transfer_syntax_of,
)
from .image_pixel import PLANAR_CONFIGURATION
from .part10 import PRIVATE_INFORMATION, file_head
from .reencoding import group_lengths, reencoded
from .transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    TransferSyntax,
)

#: What precedes the pixels is in memory while a form is made, several times over.
MOST_HEADER_BYTES: Final = 16 << 20

_VERSION: Final = 1
_SOP_CLASS_UID: Final = 0x00020002
_SOP_INSTANCE_UID: Final = 0x00020003
_CREATOR: Final = 0x00020100
_PIXEL_GROUP: Final = PIXEL_DATA >> 16
_PIXEL_GROUP_LENGTH: Final = _PIXEL_GROUP << 16
_GROUP_LENGTH_BYTES: Final = 4
_COPIED_CHUNK_BYTES: Final = 1 << 20
_DEFLATE_LEVEL: Final = 6
#: More than a pad byte behind the frames is not padding but something we do not understand.
_MOST_PADDING_BYTES: Final = 4096
_SAMPLES: Final = frozenset({1, 3})
_WRITTEN_BITS: Final = frozenset({8, 16})


class Reason(StrEnum):
    """Why an original has no form; the value is part of an object's key and of an index item."""

    POLICY = "policy-keeps-it"
    LOSSY = "lossy-original"
    ENCAPSULATED = "compressed-already"
    MISLABELLED = "label-lies"
    DEFLATED = "deflated-already"
    NO_PIXELS = "no-pixel-data"
    FLOAT_PIXELS = "float-pixels"
    ONE_BIT = "one-bit-pixels"
    UNUSUAL_PIXELS = "unusual-pixels"
    SUBSAMPLED = "subsampled-native"
    LONG_HEADER = "long-header"
    MALFORMED = "malformed"
    REFUSED = "codec-refuses"
    NOT_REVERSIBLE = "not-reversible"
    NOTHING_GAINED = "nothing-gained"
    NOT_ITS_CONTENT = "content-differs-from-key"


class LeftAlone(CannotUnderstand):
    """The original stays as it is, for a reason that is no fault of ours."""

    def __init__(self, reason: Reason) -> None:
        """Say why."""
        super().__init__(f"the original is left as it is: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Recipe:
    """What of an original its form does not show.

    `group_lengths` are the original's, of header and tail, nested ones too; none where the form has
    the very same.
    """

    head: bytes
    pixel_vr: str | None
    planar_configuration: int | None
    padding: bytes
    group_lengths: bytes = b""

    def encode(self) -> bytes:
        """Write it as JSON in ASCII."""
        return json.dumps(
            {
                "recipe": _VERSION,
                "head": base64.b64encode(zlib.compress(self.head, 9)).decode("ascii"),
                "vr": self.pixel_vr,
                "planar": self.planar_configuration,
                "padding": self.padding.hex(),
                "group_lengths": self.group_lengths.hex(),
            },
            separators=(",", ":"),
        ).encode("ascii")

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Read it, or raise `CannotUnderstand`."""
        try:
            read = json.loads(encoded.rstrip(b"\0"))
            if read["recipe"] != _VERSION:
                raise CannotUnderstand("the recipe is of a version that this program does not know")
            return cls(
                zlib.decompress(base64.b64decode(read["head"])),
                read["vr"],
                read["planar"],
                bytes.fromhex(read["padding"]),
                # Recipes that were written before there was this key have none.
                bytes.fromhex(read.get("group_lengths", "")),
            )
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise CannotUnderstand("the recipe cannot be read") from error


def write_form(original: ByteRanges, target: TransferSyntax, out: IO[bytes]) -> None:
    """Write the form of an original in `target` to a seekable file that is empty.

    Raises:
        LeftAlone: the original is not of the kind that has a form in `target`, or gains nothing.
    """
    if target == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        _write_deflated(original, out)
        return
    try:
        found = read_image_file(original, most_header_bytes=MOST_HEADER_BYTES)
        refuse(found)
        header = reencoded(found.header, found.transfer_syntax, EXPLICIT_VR_LITTLE_ENDIAN)
        tail = reencoded(found.tail, found.transfer_syntax, EXPLICIT_VR_LITTLE_ENDIAN)
        # The tail is copied as it is in most cases; but what cannot be followed is not a data set.
        for _ in walk(tail, explicit=True, little_endian=True):
            pass
        header, tail, others = _with_right_group_lengths(found, header, tail)
    except LeftAlone:
        raise
    except HeaderTooLong as error:
        raise LeftAlone(Reason.LONG_HEADER) from error
    except CannotUnderstand as error:
        raise LeftAlone(_reason_of(original)) from error
    image = found.image
    planar_configuration = image.planar_configuration
    if planar_configuration == 1:
        header = _with_planar_configuration(header, 0)
    padding_start = found.value_start + image.native_bytes
    padding = bytes(original.read(padding_start, found.tail_start - padding_start))
    recipe = Recipe(found.head, found.pixel_vr, planar_configuration, padding, others)
    out.write(_form_head(found.meta, target, recipe))
    header_start = out.tell()
    out.write(header)
    _write_frames(found, target, out)
    if _PIXEL_GROUP_LENGTH in found.header_tags:
        _write_pixel_group_length(out, header_start, header, tail)
    out.write(tail)
    if out.tell() >= original.size:
        raise LeftAlone(Reason.NOTHING_GAINED)


def refuse(found: ImageFile) -> None:
    """Raise `LeftAlone` unless the original's pixels can be written compressed, and exactly."""
    if found.pixel_tag is None:
        raise LeftAlone(Reason.NO_PIXELS)
    if found.pixel_tag != PIXEL_DATA:
        raise LeftAlone(Reason.FLOAT_PIXELS)
    if found.encapsulated:
        raise LeftAlone(_encapsulated_reason(found))
    image = found.image
    if image.bits_allocated == 1:
        raise LeftAlone(Reason.ONE_BIT)
    if image.photometric_interpretation.endswith(("_422", "_420")):
        raise LeftAlone(Reason.SUBSAMPLED)
    if (
        image.bits_allocated not in _WRITTEN_BITS
        or image.samples_per_pixel not in _SAMPLES
        or image.bits_stored > image.bits_allocated
    ):
        raise LeftAlone(Reason.UNUSUAL_PIXELS)
    # Big endian turns 16-bit words, which must not reach from one frame into the next.
    odd_words = not found.transfer_syntax.little_endian and image.frame_bytes % 2
    padding = found.value_length - image.native_bytes
    if (
        not 0 <= padding <= _MOST_PADDING_BYTES
        or odd_words
        or (image.samples_per_pixel > 1 and image.planar_configuration not in (0, 1))
        or {EXTENDED_OFFSET_TABLE, EXTENDED_OFFSET_TABLE_LENGTHS} & found.header_tags
    ):
        raise LeftAlone(Reason.MALFORMED)


def restored(form: ByteRanges) -> Iterator[bytes | memoryview]:
    """Yield, in pieces, the file that a form was made of.

    Nothing says that it is: compare its SHA-256 with the one in the original's key.

    Raises:
        CannotUnderstand: the file is not a form of ours, or damaged.
    """
    head, meta = read_meta(form)
    if meta.get(_CREATOR, b"").rstrip(b"\0").decode("ascii", "replace") != IMPLEMENTATION_CLASS_UID:
        raise CannotUnderstand("the file is not a form that this node made")
    recipe = Recipe.decode(meta.get(PRIVATE_INFORMATION, b""))
    yield recipe.head
    if transfer_syntax_of(meta).deflated:
        yield from inflated(
            form.read(position, _COPIED_CHUNK_BYTES)
            for position in range(len(head), form.size, _COPIED_CHUNK_BYTES)
        )
    else:
        yield from _restored_data_set(read_image_file(form), recipe)


def restored_sha256(form: ByteRanges) -> str:
    """Return the SHA-256 of the file that a form restores to, in hexadecimal; as `restored`."""
    digest = sha256()
    for piece in restored(form):
        digest.update(piece)
    return digest.hexdigest()


def _restored_data_set(found: ImageFile, recipe: Recipe) -> Iterator[bytes | memoryview]:
    original = _syntax_of_head(recipe.head)
    image = found.image
    header = _without_offset_tables(found)
    if recipe.planar_configuration == 1:
        header = _with_planar_configuration(header, 1)
    header = reencoded(header, EXPLICIT_VR_LITTLE_ENDIAN, original)
    tail = reencoded(found.tail, EXPLICIT_VR_LITTLE_ENDIAN, original)
    if recipe.group_lengths:
        header, tail = _with_group_lengths(header, tail, original, recipe.group_lengths)
    yield header
    encoding = {"explicit": original.explicit, "little_endian": original.little_endian}
    length = image.native_bytes + len(recipe.padding)
    yield encode_header(PIXEL_DATA, recipe.pixel_vr or "OW", length, **encoding)
    turned = not original.little_endian and recipe.pixel_vr == "OW"
    uid = found.transfer_syntax.uid
    for stream in frames(found.file, found.fragments, image.frames):
        cells = decode_frame(uid, stream, image, own=True).cells
        if recipe.planar_configuration == 1:
            cells = planar(cells, image)
        yield swapped(cells) if turned else cells
    yield recipe.padding
    yield tail


def _with_right_group_lengths(
    found: ImageFile, header: bytes, tail: bytes
) -> tuple[bytes, bytes, bytes]:
    """Return header and tail of the form with group lengths that are right, and the original's.

    That of the pixels is written when it is known how long they are.
    """
    source = found.transfer_syntax
    if source == EXPLICIT_VR_LITTLE_ENDIAN and _PIXEL_GROUP_LENGTH not in found.header_tags:
        return header, tail, b""
    parts = [bytearray(header), bytearray(tail)]
    others = [
        bytes(value)
        for part in (found.header, found.tail)
        for value, _ in group_lengths(part, source)
    ]
    for part in parts:
        for value, right in group_lengths(part, EXPLICIT_VR_LITTLE_ENDIAN):
            value[:] = right
    return bytes(parts[0]), bytes(parts[1]), b"".join(others)


def _with_group_lengths(
    header: bytes, tail: bytes, syntax: TransferSyntax, values: bytes
) -> tuple[bytes, bytes]:
    """Return header and tail of the original with the values that it had."""
    parts = [bytearray(header), bytearray(tail)]
    position = 0
    for part in parts:
        for value, _ in group_lengths(part, syntax):
            value[:] = values[position : position + len(value)].ljust(len(value), b"\0")
            position += len(value)
    return bytes(parts[0]), bytes(parts[1])


def _write_pixel_group_length(
    out: IO[bytes], header_start: int, header: bytes, tail: bytes
) -> None:
    """Say how long group 7FE0 is (PS3.5 7.2), now that its pixels are written."""
    end = out.tell()
    of_group = end
    for element in walk(tail, explicit=True, little_endian=True):
        if element.tag >> 16 != _PIXEL_GROUP:
            break
        of_group = end + element.end
    for element in walk(header, explicit=True, little_endian=True):
        if element.tag == _PIXEL_GROUP_LENGTH and len(element.value) == _GROUP_LENGTH_BYTES:
            behind = header_start + element.end
            out.seek(behind - _GROUP_LENGTH_BYTES)
            out.write((of_group - behind).to_bytes(_GROUP_LENGTH_BYTES, "little"))
    out.seek(end)


def _write_frames(found: ImageFile, target: TransferSyntax, out: IO[bytes]) -> None:
    image, original = found.image, found.file
    # Both tables have a size that is known before the first frame is compressed: room is left, and
    # filled at the end.
    extended = needs_extended_offset_table(image.native_bytes, image.frames)
    table_start = out.tell()
    out.write(extended_offset_table([0] * image.frames) if extended else b"")
    out.write(encode_header(PIXEL_DATA, "OB", UNDEFINED_LENGTH))
    if not extended:
        table_start = out.tell()
        out.write(encode_header(ITEM, "", 4 * image.frames) + bytes(4 * image.frames))
    else:
        out.write(encode_header(ITEM, "", 0))
    lengths = []
    for number in range(image.frames):
        cells = original.read(found.value_start + number * image.frame_bytes, image.frame_bytes)
        stream = _compressed(cells, found, target)
        lengths.append(len(stream) + len(stream) % 2)
        out.write(encode_header(ITEM, "", lengths[-1]))
        out.write(stream)
        out.write(bytes(len(stream) % 2))
        if out.tell() > original.size:
            raise LeftAlone(Reason.NOTHING_GAINED)
    out.write(encode_header(SEQUENCE_DELIMITATION, "", 0))
    end = out.tell()
    out.seek(table_start)
    if extended:
        out.write(extended_offset_table(lengths))
    else:
        out.write(encode_header(ITEM, "", 4 * image.frames) + basic_offset_table(lengths))
    out.seek(end)


def _compressed(cells: memoryview, found: ImageFile, target: TransferSyntax) -> bytes:
    image = found.image
    if not found.transfer_syntax.little_endian and found.pixel_vr == "OW":
        cells = swapped(cells)
    if image.planar_configuration == 1 and image.samples_per_pixel > 1:
        cells = interleaved(cells, image)
    try:
        return encode_frame(target.uid, cells, image)
    except CannotEncode as error:
        raise LeftAlone(Reason.REFUSED) from error


def _write_deflated(original: ByteRanges, out: IO[bytes]) -> None:
    """Deflate the whole data set (PS3.5 A.5): it needs no pixels, and must be explicit already."""
    try:
        head, meta = read_meta(original)
        source = transfer_syntax_of(meta)
    except CannotUnderstand as error:
        raise LeftAlone(Reason.MALFORMED) from error
    if source != EXPLICIT_VR_LITTLE_ENDIAN:
        raise LeftAlone(
            Reason.LOSSY if source.lossy
            else Reason.ENCAPSULATED if source.encapsulated
            else Reason.DEFLATED if source.deflated
            else Reason.REFUSED
        )  # fmt: skip
    recipe = Recipe(head, None, None, b"")
    out.write(_form_head(meta, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, recipe))
    deflater = zlib.compressobj(_DEFLATE_LEVEL, wbits=-zlib.MAX_WBITS)
    start = out.tell()
    for position in range(len(head), original.size, _COPIED_CHUNK_BYTES):
        out.write(deflater.compress(original.read(position, _COPIED_CHUNK_BYTES)))
    out.write(deflater.flush())
    out.write(bytes((out.tell() - start) % 2))
    if out.tell() >= original.size:
        raise LeftAlone(Reason.NOTHING_GAINED)


def _form_head(meta: Mapping[int, bytes], target: TransferSyntax, recipe: Recipe) -> bytes:
    sop_class_uid, sop_instance_uid = (
        meta.get(tag, b"").decode("ascii", "replace").strip(" \0")
        for tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID)
    )
    return file_head(
        sop_class_uid, sop_instance_uid, target.uid, private_information=recipe.encode()
    )


def _syntax_of_head(head: bytes) -> TransferSyntax:
    return transfer_syntax_of(read_meta(InMemory(head))[1])


def _with_planar_configuration(header: bytes, value: int) -> bytes:
    """Patch the two bytes of the value, which are there: `refuse` saw to it."""
    for element in walk(header, explicit=True, little_endian=True):
        if element.tag == PLANAR_CONFIGURATION:
            end = element.end
            return header[: end - 2] + value.to_bytes(2, "little") + header[end:]
    raise CannotUnderstand("the form has no Planar Configuration")


def _without_offset_tables(found: ImageFile) -> bytes:
    """Drop the tables of a form: no native original that has a form had any."""
    if EXTENDED_OFFSET_TABLE not in found.header_tags:
        return found.header
    for element in walk(found.header, explicit=True, little_endian=True):
        if element.tag == EXTENDED_OFFSET_TABLE:
            return found.header[: element.offset]
    return found.header


def _reason_of(original: ByteRanges) -> Reason:
    """Tell a deflated original from one that cannot be followed."""
    try:
        deflated = transfer_syntax_of(read_meta(original)[1]).deflated
    except CannotUnderstand:
        return Reason.MALFORMED
    return Reason.DEFLATED if deflated else Reason.MALFORMED


def _encapsulated_reason(found: ImageFile) -> Reason:
    syntax = found.transfer_syntax
    if syntax.lossy:
        return Reason.LOSSY
    if syntax in (JPEG_LOSSLESS, JPEG_LOSSLESS_SV1):
        try:
            first = next(frames(found.file, found.fragments, found.image.frames))
            if not is_lossless_jpeg(first):
                return Reason.MISLABELLED
        except CannotUnderstand:
            return Reason.MALFORMED
    return Reason.ENCAPSULATED
