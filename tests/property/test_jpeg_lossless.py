"""What is written as lossless JPEG is what decoders that are not ours read."""

from typing import Any

import imagecodecs
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lenticular.jpeg_lossless import Samples, encode_jpeg_lossless
from tests import images

_SHAPES = st.one_of(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3)),
)


def _images(kind: str) -> st.SearchStrategy[Samples]:
    """Make images that are mostly of one value, so that codes are short, or of any."""
    return npst.arrays(kind, _SHAPES, elements=npst.from_dtype(np.dtype(kind)))


def _decoded(stream: bytes, pixels: Samples) -> Samples:
    # Told that the samples are RGB and wanted so, libjpeg-turbo transforms none.
    colours: dict[str, Any] = {}
    if pixels.ndim == 3:
        colours = {"colorspace": "rgb", "outcolorspace": "rgb"}
    decoded: Samples = imagecodecs.jpeg8_decode(stream, **colours)
    return decoded.reshape(pixels.shape)


@given(st.one_of(_images("u1"), _images("u2")), st.booleans())
def test_every_sample_is_read_as_it_was_written(pixels: Samples, rgb: bool) -> None:
    stream = encode_jpeg_lossless(pixels, rgb=rgb)
    assert np.array_equal(_decoded(stream, pixels), pixels)
    if pixels.ndim == 2:
        assert np.array_equal(imagecodecs.jpegsof3_decode(stream).reshape(pixels.shape), pixels)


@settings(max_examples=20)
@given(
    st.integers(0, 2**32),
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([1, 30, 3000, 65535]),
)
def test_noise_of_any_strength_fills_every_bit_of_the_stream(
    seed: int, rows: int, columns: int, strength: int
) -> None:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, strength, (rows, columns), endpoint=True).astype(np.uint16)
    assert np.array_equal(_decoded(encode_jpeg_lossless(pixels), pixels), pixels)


def test_codes_that_would_be_too_long_are_shortened() -> None:
    # Each category twice as rare as the one before: Huffman's own code has one of 17 bits.
    differences = np.repeat(
        np.array([0, *(1 << n for n in range(15)), 1 << 15], np.uint16),
        [1 << n for n in range(17, 0, -1)],
    )
    pixels = np.cumsum(differences, dtype=np.uint16).reshape(1, -1)[:, :60_000]
    both = np.concatenate((pixels, pixels[:, ::-1]))
    assert np.array_equal(_decoded(encode_jpeg_lossless(both), both), both)
    rare = np.array([[0, 1 << 15, 3, 1, 77, 65535, 0, 1000, 9]], np.uint16)
    assert np.array_equal(_decoded(encode_jpeg_lossless(rare), rare), rare)


def test_the_code_is_about_as_good_as_that_of_libjpeg() -> None:
    image = images.smooth("smooth", 512, 700)
    pixels = np.frombuffer(image.pixels, "<u2").reshape(512, 700)
    theirs = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=16)
    assert len(encode_jpeg_lossless(pixels)) < 1.001 * len(theirs)
