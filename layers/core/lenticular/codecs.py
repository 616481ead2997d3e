"""Frames in and out of each transfer syntax's compressed form, exactly. PS3.5 8.2.

A frame goes in and comes out as native pixel cells: little endian, samples of a pixel side by side
(Planar Configuration 0), every bit of Bits Allocated kept. The streams we write have the precision
Bits Allocated, not Bits Stored, so that overlays in high bits and signed values that were not
extended survive; DCMTK and GDCM write 16-bit images so as well.

No colour is ever converted in what we write (no reversible colour transform either), so that
Photometric Interpretation stays what it is. Reading the lossy JPEG of others is the one exception:
its YCbCr is turned into RGB, as DCMTK does, and the caller is told the label that holds then.

numpy and the codecs are loaded when the first frame is: whoever only stores never pays for them.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .errors import CannotUnderstand
from .image_pixel import ImagePixel
from .transfer_syntaxes import (
    DEFLATED_FRAMES,
    ENCAPSULATED_UNCOMPRESSED,
    HTJ2K,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_FULL_PROGRESSION,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_LS_NEAR_LOSSLESS,
    JPEG_SPECTRAL_SELECTION,
    RLE_LOSSLESS,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels: TypeAlias = NDArray[np.unsignedinteger[Any]]

#: An incompressible frame grows; the codec is given this much more than the frame to write into.
_GROWTH: Final = 4
_GROWTH_BYTES: Final = 4096
#: PS3.5 10.18: the lowest resolution of the RPCL syntax fits a thumbnail of 64 pixels.
_LOWEST_RESOLUTION: Final = 64
_FEWEST_LEVELS: Final = 5

_INFLATED_CHUNK_BYTES: Final = 1 << 20
_COLOUR_SAMPLES: Final = 3
_CONTAINER_BITS: Final = frozenset({8, 16, 32})


class CannotEncode(CannotUnderstand):
    """The codec refuses the frame, or its syntax has no room for it."""


class CannotDecode(CannotUnderstand):
    """The stream is not a frame of the image that it should be one of."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame as native pixel cells, and the label its colours have now."""

    cells: bytes | memoryview
    photometric_interpretation: str


@dataclass(frozen=True, slots=True)
class Codec:
    """What we do with one transfer syntax; `encode` is None where it is only read.

    `decode_own` is what our own streams are checked with where `decode` forgives faults.
    """

    decode: Callable[[bytes, ImagePixel], Frame]
    encode: Callable[[memoryview, ImagePixel], bytes] | None = None
    decode_own: Callable[[bytes, ImagePixel], Frame] | None = None


def encode_frame(uid: str, cells: memoryview, image: ImagePixel) -> bytes:
    """Compress one frame, given with its samples side by side.

    Raises:
        CannotEncode: nobody writes such frames in this syntax, or the codec refused.
    """
    codec = CODECS.get(uid)
    if codec is None or codec.encode is None:
        raise CannotEncode(f"frames are not written in {uid}")
    try:
        return codec.encode(cells, image)
    except (RuntimeError, ValueError) as error:
        raise CannotEncode(f"the codec refused the frame: {type(error).__name__}") from error


def decode_frame(uid: str, stream: bytes, image: ImagePixel, *, own: bool = False) -> Frame:
    """Decode one frame of `image`, samples side by side; of our `own`, forgive nothing.

    Raises:
        CannotDecode: the stream is damaged or does not fit the image's description.
    """
    codec = CODECS.get(uid)
    if codec is None:
        raise CannotDecode(f"frames are not read from {uid}")
    try:
        decode = (codec.decode_own if own else None) or codec.decode
        frame = decode(stream, image)
    except CannotDecode:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, zlib.error) as error:
        raise CannotDecode(f"the frame cannot be decoded: {type(error).__name__}") from error
    if len(frame.cells) != image.frame_bytes:
        raise CannotDecode("the stream is not as long as the image's description says")
    return frame


def interleaved(cells: memoryview, image: ImagePixel) -> memoryview:
    """Put the samples of each pixel side by side: Planar Configuration 1 to 0."""
    return _transposed(cells, image, (image.samples_per_pixel, image.rows * image.columns))


def planar(cells: bytes | memoryview, image: ImagePixel) -> memoryview:
    """Put each sample's plane behind the other: Planar Configuration 0 to 1."""
    return _transposed(cells, image, (image.rows * image.columns, image.samples_per_pixel))


def swapped(cells: bytes | memoryview) -> memoryview:
    """Swap the bytes of each 16-bit word, as Explicit VR Big Endian has them (PS3.5 7.3)."""
    import numpy as np

    return np.frombuffer(cells, "u2").byteswap().data.cast("B")


def _transposed(cells: bytes | memoryview, image: ImagePixel, shape: tuple[int, int]) -> memoryview:
    import numpy as np

    pixels = np.frombuffer(cells, f"u{image.bits_allocated // 8}").reshape(shape)
    return np.ascontiguousarray(pixels.T).data.cast("B")


@cache
def _imagecodecs() -> Any:  # noqa: ANN401 - what it takes differs between the versions we run on
    import imagecodecs

    return imagecodecs


@cache
def _takes(function: str, parameter: str) -> bool:
    """Tell whether this version of imagecodecs has a parameter; the one for 3.11 lacks some."""
    documented = getattr(_imagecodecs(), function)
    try:
        documented(b"", **{parameter: None})
    except TypeError as error:
        return parameter not in str(error)
    except Exception:  # noqa: BLE001 - it was taken, whatever the codec says of an empty stream
        return True
    return True


def _array(cells: memoryview, image: ImagePixel) -> "Pixels":
    import numpy as np

    if image.bits_allocated not in (8, 16):
        raise CannotEncode(f"{image.bits_allocated} bits allocated are not written compressed")
    shape: tuple[int, ...] = (image.rows, image.columns)
    if image.samples_per_pixel != 1:
        shape += (image.samples_per_pixel,)
    pixels: Pixels = np.frombuffer(cells, f"<u{image.bits_allocated // 8}").reshape(shape)
    return pixels


def _cells(array: Any, image: ImagePixel) -> memoryview:  # noqa: ANN401 - any integer array
    """Write decoded samples into cells of Bits Allocated; a signed one is extended."""
    import numpy as np

    shape: tuple[int, ...] = (image.rows, image.columns)
    if image.samples_per_pixel != 1:
        shape += (image.samples_per_pixel,)
    # An image with one row or column may lose that axis on the way.
    if array.shape != shape:
        if array.size != image.rows * image.columns * image.samples_per_pixel or (
            array.ndim >= 2 and array.shape[:2] != shape[:2] and min(shape[:2]) > 1  # noqa: PLR2004 - rows and columns
        ):
            raise CannotDecode("the stream has other rows, columns or samples than the image")
        array = array.reshape(shape)
    if image.bits_allocated not in _CONTAINER_BITS or array.dtype.kind not in "iu":
        raise CannotDecode("the image's cells are not of 8, 16 or 32 bits")
    cell_bytes = image.bits_allocated // 8
    if array.dtype.itemsize > cell_bytes:
        limits = np.iinfo(f"{array.dtype.kind}{cell_bytes}")
        if array.min() < limits.min or array.max() > limits.max:
            raise CannotDecode("the stream has more bits than the image's cells")
    if array.dtype.itemsize != cell_bytes:
        array = array.astype(f"{array.dtype.kind}{cell_bytes}")
    return np.ascontiguousarray(array).data.cast("B")


# JPEG: 10918-1 and its lossless process 14


def _encode_jpeg_lossless(cells: memoryview, image: ImagePixel) -> bytes:
    from .jpeg_lossless import encode_jpeg_lossless

    return encode_jpeg_lossless(_array(cells, image), rgb=image.photometric_interpretation == "RGB")


@dataclass(frozen=True, slots=True)
class _JpegHeader:
    """What the markers of a JPEG stream up to its frame header say (T.81 B.2)."""

    lossless: bool
    jfif: bool
    adobe_transform: int | None
    subsampled: bool


_SOF_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS_SOF_MARKERS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_APP0: Final = 0xE0
_APP14: Final = 0xEE
_ADOBE_TRANSFORM: Final = 11
_NO_SUBSAMPLING: Final = 0x11


def _read_jpeg_header(stream: bytes) -> _JpegHeader:
    jfif, adobe_transform = False, None
    position = 2
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:  # noqa: PLR2004 - how every marker starts
            break
        marker = stream[position + 1]
        if marker == 0xFF:  # noqa: PLR2004 - a fill byte
            position += 1
            continue
        segment = stream[
            position + 4 : position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        ]
        if marker in _SOF_MARKERS:
            components = [segment[at : at + 3] for at in range(6, 6 + 3 * segment[5], 3)]
            return _JpegHeader(
                marker in _LOSSLESS_SOF_MARKERS,
                jfif,
                adobe_transform,
                any(component[1] != _NO_SUBSAMPLING for component in components),
            )
        jfif = jfif or (marker == _APP0 and segment.startswith(b"JFIF\0"))
        if marker == _APP14 and segment.startswith(b"Adobe") and len(segment) > _ADOBE_TRANSFORM:
            adobe_transform = segment[_ADOBE_TRANSFORM]
        position += 4 + len(segment)
    raise CannotDecode("the stream is not a JPEG with a frame header")


def is_lossless_jpeg(stream: bytes) -> bool:
    """Tell whether a stream is lossless JPEG, whatever its label says; raises `CannotDecode`."""
    return _read_jpeg_header(stream).lossless


def _decode_jpeg(stream: bytes, image: ImagePixel) -> Frame:
    """Decode any JPEG by what the stream is: labels of files in the field are not always true."""
    label = image.photometric_interpretation
    colours: dict[str, str] = {}
    if image.samples_per_pixel == _COLOUR_SAMPLES:
        header = _read_jpeg_header(stream)
        # No colour is converted unless the stream is lossy and its samples are YCbCr. Some files
        # say RGB and carry a JFIF or subsampled stream, which can only be YCbCr.
        colours = {"colorspace": "rgb", "outcolorspace": "rgb"}
        if not header.lossless and (
            label.startswith("YBR") or header.jfif or header.subsampled or header.adobe_transform
        ):
            colours["colorspace"], label = "ycbcr", "RGB"
        elif label == "YBR_FULL_422":
            label = "YBR_FULL"  # the samples come out one for each pixel
    return Frame(_cells(_imagecodecs().jpeg8_decode(stream, **colours), image), label)


def _decode_third_party_jpeg(stream: bytes, image: ImagePixel) -> Frame:
    """Decode as `_decode_jpeg` does; what libjpeg-turbo refuses may still be lossless JPEG.

    The second decoder forgives Huffman tables that no standard allows and some modalities write.
    It forgives other faults as well, so what we wrote is never checked with it.
    """
    try:
        return _decode_jpeg(stream, image)
    except RuntimeError:
        if not _read_jpeg_header(stream).lossless:
            raise
        array = _imagecodecs().jpegsof3_decode(stream)
        label = image.photometric_interpretation
        return Frame(_cells(array, image), "YBR_FULL" if label == "YBR_FULL_422" else label)


# JPEG-LS: 14495-1


def _encode_jpeg_ls(cells: memoryview, image: ImagePixel) -> bytes:
    # The precision it writes is that of the array's type: Bits Allocated.
    room = len(cells) * _GROWTH // 3 + _GROWTH_BYTES
    stream = _imagecodecs().jpegls_encode(_array(cells, image), out=room)
    return bytes(stream)


def _decode_jpeg_ls(stream: bytes, image: ImagePixel) -> Frame:
    label = image.photometric_interpretation
    return Frame(_cells(_imagecodecs().jpegls_decode(stream), image), label)


# JPEG 2000: 15444-1, and high throughput, 15444-15


def _encode_jpeg_2000(cells: memoryview, image: ImagePixel) -> bytes:
    stream: bytes = _imagecodecs().jpeg2k_encode(
        _array(cells, image),
        level=0,
        reversible=True,
        mct=False,
        codecformat="j2k",
        planar=False,
        bitspersample=image.bits_allocated,
    )
    return stream


def _encode_htj2k(cells: memoryview, image: ImagePixel) -> bytes:
    return _htj2k(cells, image, {})


def _encode_htj2k_rpcl(cells: memoryview, image: ImagePixel) -> bytes:
    if 1 in (image.rows, image.columns):
        # OpenJPH 0.32 writes other samples than it was given, once the levels are asked for.
        raise CannotEncode("a single row or column is not written with levels of resolution")
    longest = max(image.rows, image.columns)
    levels = max(_FEWEST_LEVELS, (-(-longest // _LOWEST_RESOLUTION) - 1).bit_length())
    options: dict[str, Any] = {"tlm": True, "resolutions": levels}
    # Where the order cannot be asked for, it is the one that OpenJPH has by itself.
    if _takes("htj2k_encode", "prog_order"):
        options["prog_order"] = "RPCL"
    return _htj2k(cells, image, options)


def _htj2k(cells: memoryview, image: ImagePixel, options: Mapping[str, Any]) -> bytes:
    stream: bytes = _imagecodecs().htj2k_encode(
        _array(cells, image), reversible=True, rgb=False, planar=False, **options
    )
    return stream


def _decode_jpeg_2000(stream: bytes, image: ImagePixel) -> Frame:
    array = _imagecodecs().jpeg2k_decode(stream, planar=False)
    return Frame(_cells(array, image), _without_component_transform(image))


def _decode_htj2k(stream: bytes, image: ImagePixel) -> Frame:
    array = _imagecodecs().htj2k_decode(stream, planar=False)
    return Frame(_cells(array, image), _without_component_transform(image))


def _without_component_transform(image: ImagePixel) -> str:
    """Every decoder undoes the transforms that PS3.3 C.7.6.3.1.2 calls YBR_RCT and YBR_ICT."""
    label = image.photometric_interpretation
    return "RGB" if label in ("YBR_RCT", "YBR_ICT") else label


# RLE: PS3.5 annex G


def _encode_rle(cells: memoryview, image: ImagePixel) -> bytes:
    from rle.utils import encode_pixel_data

    _array(cells, image)
    stream: bytes = encode_pixel_data(
        bytes(cells),
        byteorder="<",
        rows=image.rows,
        columns=image.columns,
        samples_per_pixel=image.samples_per_pixel,
        bits_allocated=image.bits_allocated,
    )
    return stream


def _decode_rle(stream: bytes, image: ImagePixel) -> Frame:
    cells = _imagecodecs().dicomrle_decode(stream, f"<u{image.bits_allocated // 8}")
    label = image.photometric_interpretation
    if image.samples_per_pixel == 1:
        return Frame(cells, label)
    if len(cells) != image.frame_bytes:
        raise CannotDecode("the RLE segments are not as long as the image's description says")
    return Frame(interleaved(memoryview(cells), image), label)


# What is deflated, or only wrapped: PS3.5 A.5, A.4.11 and 8.2.16


def inflated(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Inflate a data set (A.5) piece by piece.

    Raises:
        CannotDecode: it is damaged, or breaks off.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            waiting: bytes | memoryview = piece
            while len(waiting) and not inflater.eof:
                yield inflater.decompress(waiting, _INFLATED_CHUNK_BYTES)
                waiting = inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error as error:
        raise CannotDecode("the deflated data set is damaged") from error
    if not inflater.eof:
        raise CannotDecode("the deflated data set breaks off")


def _decode_uncompressed(stream: bytes, image: ImagePixel) -> Frame:
    return _native_frame(stream, image)


def _decode_deflated(stream: bytes, image: ImagePixel) -> Frame:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    return _native_frame(inflater.decompress(stream, image.frame_bytes + 1), image)


def _native_frame(stream: bytes, image: ImagePixel) -> Frame:
    cells = memoryview(stream)[: image.frame_bytes]
    if image.samples_per_pixel > 1 and image.planar_configuration == 1:
        cells = interleaved(cells, image)
    return Frame(cells, image.photometric_interpretation)


CODECS: Final[Mapping[str, Codec]] = {
    JPEG_BASELINE.uid: Codec(_decode_third_party_jpeg),
    JPEG_EXTENDED.uid: Codec(_decode_third_party_jpeg),
    JPEG_SPECTRAL_SELECTION.uid: Codec(_decode_third_party_jpeg),
    JPEG_FULL_PROGRESSION.uid: Codec(_decode_third_party_jpeg),
    JPEG_LOSSLESS.uid: Codec(_decode_third_party_jpeg),
    JPEG_LOSSLESS_SV1.uid: Codec(_decode_third_party_jpeg, _encode_jpeg_lossless, _decode_jpeg),
    JPEG_LS_LOSSLESS.uid: Codec(_decode_jpeg_ls, _encode_jpeg_ls),
    JPEG_LS_NEAR_LOSSLESS.uid: Codec(_decode_jpeg_ls),
    JPEG_2000_LOSSLESS.uid: Codec(_decode_jpeg_2000, _encode_jpeg_2000),
    JPEG_2000.uid: Codec(_decode_jpeg_2000),
    HTJ2K_LOSSLESS.uid: Codec(_decode_htj2k, _encode_htj2k),
    HTJ2K_LOSSLESS_RPCL.uid: Codec(_decode_htj2k, _encode_htj2k_rpcl),
    # OpenJPH lets samples of lossy streams wrap around at their limits; OpenJPEG does not.
    HTJ2K.uid: Codec(_decode_jpeg_2000),
    RLE_LOSSLESS.uid: Codec(_decode_rle, _encode_rle),
    ENCAPSULATED_UNCOMPRESSED.uid: Codec(_decode_uncompressed),
    DEFLATED_FRAMES.uid: Codec(_decode_deflated),
}
