"""Every layout of pixels comes out of every syntax we write as it went in, to the last bit."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lenticular.byte_ranges import InMemory
from lenticular.codecs import (
    CODECS,
    CannotDecode,
    CannotEncode,
    decode_frame,
    encode_frame,
)
from lenticular.decoding import native_data_set
from lenticular.image_files import read_image_file
from lenticular.splice import LeftAlone, Reason, restored, write_form
from lenticular.transfer_syntaxes import (
    BY_UID,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    HTJ2K_LOSSLESS_RPCL,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_LOSSLESS_SV1,
    TransferSyntax,
)
from tests import images
from tests.images import Image

WRITTEN = [BY_UID[uid] for uid, codec in CODECS.items() if codec.encode]
SOURCES = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]
#: Those whose form is shorter than the file.
LARGE = [image for image in images.ALL if min(image.rows, image.columns) > 1]


def form_of(file: bytes, target: TransferSyntax) -> bytes:
    out = io.BytesIO()
    write_form(InMemory(file), target, out)
    return out.getvalue()


def interleaved(image: Image) -> dict[str, Any]:
    """Return what is different in an image whose samples are side by side."""
    if image.planar_configuration != 1:
        return {}
    cells = np.frombuffer(image.pixels, np.uint8).reshape(image.frames, 3, -1)
    return {"pixels": cells.transpose(0, 2, 1).tobytes(), "planar_configuration": 0}


def by_name(image: Image | TransferSyntax) -> str:
    return image.name


@pytest.mark.parametrize("target", WRITTEN, ids=by_name)
@pytest.mark.parametrize("image", images.ALL, ids=by_name)
def test_a_frame_comes_out_as_it_went_in(image: Image, target: TransferSyntax) -> None:
    layout = read_image_file(InMemory(image.file())).image
    if target == HTJ2K_LOSSLESS_RPCL and image not in LARGE:
        with pytest.raises(CannotEncode):
            encode_frame(target.uid, memoryview(image.pixels), layout)
        return
    for number in range(layout.frames):
        cells = memoryview(image.pixels)[number * layout.frame_bytes :][: layout.frame_bytes]
        stream = encode_frame(target.uid, cells, layout)
        frame = decode_frame(target.uid, stream, layout, own=True)
        assert bytes(frame.cells) == bytes(cells)
        assert frame.photometric_interpretation == image.photometric_interpretation


@pytest.mark.parametrize("source", SOURCES, ids=by_name)
@pytest.mark.parametrize("target", WRITTEN, ids=by_name)
@pytest.mark.parametrize("image", images.ALL, ids=by_name)
def test_an_original_is_restored_from_its_form_to_the_last_byte(
    image: Image, target: TransferSyntax, source: TransferSyntax
) -> None:
    original = image.file(source)
    try:
        form = form_of(original, target)
    except LeftAlone as left_alone:
        # Odd frames of 8 bits in 16-bit words of big endian reach into each other; noise of
        # full range does not get smaller; a row has no levels of resolution.
        assert left_alone.reason in {Reason.NOTHING_GAINED, Reason.MALFORMED, Reason.REFUSED}  # noqa: PT017
        return
    assert b"".join(restored(InMemory(form))) == original
    assert len(form) < len(original)


@pytest.mark.parametrize("image", LARGE, ids=by_name)
def test_the_form_is_an_image_of_the_same_pixels(image: Image) -> None:
    form = form_of(image.file(), JPEG_LOSSLESS_SV1)
    native = b"".join(native_data_set(InMemory(form)))
    assert native == replace(image, **interleaved(image)).data_set()


def test_a_deflated_form_restores_whatever_its_pixels_are() -> None:
    one_bit = Image("bits", 1, 1, bytes(61 * 83 // 8 + 1))
    form = form_of(one_bit.file(), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    assert b"".join(restored(InMemory(form))) == one_bit.file()


def test_streams_for_resolution_progression_are_that_and_have_a_table_of_lengths() -> None:
    image = images.smooth("large", 5000, 200)
    layout = read_image_file(InMemory(image.file())).image
    stream = encode_frame(HTJ2K_LOSSLESS_RPCL.uid, memoryview(image.pixels), layout)
    coding = stream[stream.index(b"\xff\x52") + 4 :]
    # 15444-1 A.6.1: style, progression (2 is RPCL), layers, transform, levels.
    assert coding[1] == 2
    assert 5000 >> coding[5] <= 64
    assert b"\xff\x55" in stream[:300]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image("1-bit", 1, 1, bytes(633)), Reason.ONE_BIT),
        (Image("32-bit", 32, 32, bytes(61 * 83 * 4)), Reason.UNUSUAL_PIXELS),
        (replace(images.GREY[0], pixels=images.GREY[0].pixels[:-9]), Reason.MALFORMED),
        (
            replace(images.COLOUR[0], photometric_interpretation="YBR_FULL_422"),
            Reason.SUBSAMPLED,
        ),
        (replace(images.GREY[0], rows=0), Reason.MALFORMED),
    ],
    ids=lambda each: each.name,
)
def test_what_no_codec_keeps_exactly_is_left_alone(image: Image, reason: Reason) -> None:
    with pytest.raises(LeftAlone) as caught:
        form_of(image.file(), JPEG_LOSSLESS_SV1)
    assert caught.value.reason is reason


def test_forms_of_forms_are_not_made() -> None:
    image = images.smooth("smooth", 64, 64)
    form = form_of(image.file(), JPEG_LOSSLESS_SV1)
    with pytest.raises(LeftAlone) as caught:
        form_of(form, HTJ2K_LOSSLESS_RPCL)
    assert caught.value.reason is Reason.ENCAPSULATED


def test_what_cannot_be_written_or_read_says_so() -> None:
    layout = read_image_file(InMemory(images.GREY[0].file())).image
    with pytest.raises(CannotEncode):
        encode_frame("1.2.840.10008.1.2.4.50", memoryview(images.GREY[0].pixels), layout)
    with pytest.raises(CannotDecode):
        decode_frame("1.2.840.10008.1.2.4.100", b"", layout)
    for uid in CODECS:
        with pytest.raises(CannotDecode):
            decode_frame(uid, b"\xff\xd8\xff\xd9 this is no stream", layout)
