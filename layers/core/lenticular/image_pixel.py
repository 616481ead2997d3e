"""What describes the pixels of an image: the Image Pixel Module, PS3.3 C.7.6.3.

Rows, columns, samples and bits say how a value of Pixel Data is laid out (PS3.5 8.1.1); it cannot
be read without them. Only top-level elements count, as a nested icon has a description of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import unpack
from typing import Final

from .elements import Element
from .errors import CannotUnderstand

SOP_CLASS_UID: Final = 0x00080016
MODALITY: Final = 0x00080060
SAMPLES_PER_PIXEL: Final = 0x00280002
PHOTOMETRIC_INTERPRETATION: Final = 0x00280004
PLANAR_CONFIGURATION: Final = 0x00280006
NUMBER_OF_FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
BITS_ALLOCATED: Final = 0x00280100
BITS_STORED: Final = 0x00280101
PIXEL_REPRESENTATION: Final = 0x00280103
LOSSY_IMAGE_COMPRESSION: Final = 0x00282110

_DESCRIBING: Final = frozenset(
    {
        SOP_CLASS_UID,
        MODALITY,
        SAMPLES_PER_PIXEL,
        PHOTOMETRIC_INTERPRETATION,
        PLANAR_CONFIGURATION,
        NUMBER_OF_FRAMES,
        ROWS,
        COLUMNS,
        BITS_ALLOCATED,
        BITS_STORED,
        PIXEL_REPRESENTATION,
        LOSSY_IMAGE_COMPRESSION,
    }
)
_US_BYTES: Final = 2


class NotDescribed(CannotUnderstand):
    """An attribute without which the pixels cannot be read is absent or makes no sense."""


@dataclass(frozen=True, slots=True)
class ImagePixel:
    """How the pixels of an image are laid out; `planar_configuration` None where it is absent."""

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric_interpretation: str
    planar_configuration: int | None
    frames: int

    @property
    def frame_bits(self) -> int:
        """Bits of one frame in native form, PS3.5 8.1.1."""
        return self.rows * self.columns * self.samples_per_pixel * self.bits_allocated

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in native form; of 1-bit frames, rounded up."""
        return -(-self.frame_bits // 8)

    @property
    def native_bytes(self) -> int:
        """Bytes of all frames in native form, where 1-bit frames follow without a gap."""
        return -(-self.frame_bits * self.frames // 8)


def describing_values(elements: Iterable[Element]) -> dict[int, bytes]:
    """Pick the values of the elements that describe an image, as they are encoded."""
    return {each.tag: bytes(each.value) for each in elements if each.tag in _DESCRIBING}


def read_image_pixel(values: Mapping[int, bytes], *, little_endian: bool) -> ImagePixel:
    """Read the description of an image's pixels.

    Raises:
        NotDescribed: what the pixels cannot be read without is absent or makes no sense.
    """

    def number(tag: int, default: int | None = None) -> int:
        value = values.get(tag, b"")
        if not value and default is not None:
            return default
        if len(value) < _US_BYTES:
            raise NotDescribed(f"the image has no ({tag >> 16:04X},{tag & 0xFFFF:04X})")
        (first,) = unpack("<H" if little_endian else ">H", value[:_US_BYTES])
        return int(first)

    samples = number(SAMPLES_PER_PIXEL)
    bits_allocated = number(BITS_ALLOCATED)
    planar = values.get(PLANAR_CONFIGURATION)
    image = ImagePixel(
        rows=number(ROWS),
        columns=number(COLUMNS),
        samples_per_pixel=samples,
        bits_allocated=bits_allocated,
        bits_stored=number(BITS_STORED, bits_allocated),
        signed=number(PIXEL_REPRESENTATION, 0) == 1,
        photometric_interpretation=text_of(values, PHOTOMETRIC_INTERPRETATION),
        planar_configuration=number(PLANAR_CONFIGURATION) if planar else None,
        frames=_frames(values),
    )
    if not (image.frame_bits and image.frames):
        raise NotDescribed("the image has no pixels: rows, columns, samples, bits or frames is 0")
    return image


def text_of(values: Mapping[int, bytes], tag: int) -> str:
    """Read the first value of a text element, empty when it is absent."""
    return values.get(tag, b"").decode("ascii", "replace").partition("\\")[0].strip(" \0")


def _frames(values: Mapping[int, bytes]) -> int:
    text = text_of(values, NUMBER_OF_FRAMES)
    try:
        return int(text) if text else 1
    except ValueError as error:
        raise NotDescribed("the Number of Frames is not a number") from error
