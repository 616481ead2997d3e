"""Writing lossless JPEG as DICOM has it: process 14 with selection value 1, T.81 annex H.

    samples ─▶ differences ─▶ words: Huffman code of the category, then its further bits ─▶ stream
              from the left    (H.1.2.2, table H.2)                                   FF stuffed

An encoder that takes sample after sample, and every sample twice (libjpeg's looks at all of them
for the best codes first), is the slowest part of making a form. Here a block of lines that fits the
cache of a processor goes through each step as one array, and the code is made from a part of the
lines. What decodes is libjpeg-turbo: nothing that is written here is proven by its own reader.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from heapq import heapify, heappop, heappush
from struct import pack
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.unsignedinteger[Any]]
Words: TypeAlias = NDArray[np.uint64]

#: Samples of the lines that are worked on at a time: their 64-bit words stay in a core's cache.
_BLOCK_SAMPLES: Final = 1 << 15
#: Samples that the code is made from: it is as good for the others, which are neighbours of these.
_LOOKED_AT_SAMPLES: Final = 1 << 18
_CATEGORIES: Final = 17
#: A difference of this category is 32768, and has no further bits (table H.2).
_LAST_CATEGORY: Final = 16
_LONGEST_CODE: Final = 16
_DIFFERENCES: Final = 1 << 16

_SOI, _EOI, _SOF3, _DHT, _SOS, _APP14 = 0xFFD8, 0xFFD9, 0xFFC3, 0xFFC4, 0xFFDA, 0xFFEE
_ONE_FOR_ONE: Final = 0x11
#: Component identifiers: readers take 1, 2, 3 for YCbCr and these for what it says.
_GREY_IDS: Final = (1,)
_RGB_IDS: Final = tuple(b"RGB")
_OTHER_IDS: Final = (0, 1, 2)
#: Adobe's marker: version 100, no flags, the samples are not transformed.
_ADOBE_RGB: Final = b"Adobe" + pack(">HHHB", 100, 0, 0, 0)


def encode_jpeg_lossless(pixels: Samples, *, rgb: bool = False) -> bytes:
    """Compress an image of 8 or 16 bits, as (rows, columns) or (rows, columns, 3).

    Three samples are of no colour space that a reader would transform, and marked as RGB if so.
    """
    rows, columns, *more = pixels.shape
    samples = more[0] if more else 1
    precision = 8 * pixels.itemsize
    identifiers = _GREY_IDS if samples == 1 else _RGB_IDS if rgb else _OTHER_IDS
    lines = pixels.reshape(rows, columns, samples)
    code = _code(_counts(lines), precision)
    frame = pack(">BHHB", precision, rows, columns, samples)
    frame += b"".join(bytes((each, _ONE_FOR_ONE, 0)) for each in identifiers)
    # All components with table 0; selection value 1, no point transform.
    scan = bytes((samples,)) + b"".join(bytes((each, 0)) for each in identifiers) + bytes((1, 0, 0))
    parts = [
        pack(">H", _SOI),
        _segment(_APP14, _ADOBE_RGB) if identifiers is _RGB_IDS else b"",
        _segment(_SOF3, frame),
        _segment(_DHT, bytes((0, *code.numbers, *code.categories))),
        _segment(_SOS, scan),
        *(part.replace(b"\xff", b"\xff\x00") for part in _scan(lines, code)),
        pack(">H", _EOI),
    ]
    return b"".join(parts)


class _Code(NamedTuple):
    """A Huffman code as DHT has it, and the word and its length in bits of each difference."""

    numbers: Sequence[int]
    categories: Sequence[int]
    words: Words
    lengths: Words


def _segment(marker: int, content: bytes) -> bytes:
    return pack(">HH", marker, len(content) + 2) + content


def _differences(lines: Samples, first: int, last: int) -> NDArray[np.uint16]:
    """Return the differences of some lines modulo 2^16 (H.1.2.1)."""
    some = lines[first:last]
    differences = np.empty(some.shape, np.uint16)
    np.subtract(some[:, 1:], some[:, :-1], out=differences[:, 1:], dtype=np.uint16)
    # The first of a line has but the one above it, and that of the first line not even this.
    np.subtract(some[1:, 0], some[:-1, 0], out=differences[1:, 0], dtype=np.uint16)
    above = lines[first - 1, 0] if first else np.uint16(1 << (8 * lines.itemsize - 1))
    np.subtract(some[0, 0], above, out=differences[0, 0], dtype=np.uint16)
    return differences.reshape(-1)


def _counts(lines: Samples) -> list[int]:
    """Count the differences of each category in lines that are spread over the image."""
    _, columns, samples = lines.shape
    step = max(1, lines.size // _LOOKED_AT_SAMPLES)
    some = lines[::step]
    categories, _ = _categories()
    counts = np.zeros(_CATEGORIES, np.intp)
    for first, last in _blocks(len(some), columns * samples):
        # From the left only: what is above is some other line here.
        block = some[first:last]
        differences = np.subtract(block[:, 1:], block[:, :-1], dtype=np.uint16)
        counts += np.bincount(categories[differences.reshape(-1)], minlength=_CATEGORIES)
    return [int(each) for each in counts]


def _blocks(rows: int, samples_per_line: int) -> Iterator[tuple[int, int]]:
    lines = max(1, _BLOCK_SAMPLES // samples_per_line)
    return ((first, min(first + lines, rows)) for first in range(0, rows, lines))


@cache
def _categories() -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Return the category of each difference, and its further bits (table H.2)."""
    differences = np.arange(_DIFFERENCES, dtype=np.uint16).view(np.int16).astype(np.int64)
    # The exponent of a float is the number of bits of the number it is of.
    categories = np.frexp(np.abs(differences).astype(np.float64))[1]
    further = np.where(differences < 0, differences - 1, differences) & ((1 << categories) - 1)
    further[categories == _LAST_CATEGORY] = 0
    return categories.astype(np.uint8), further.astype(np.uint64)


def _code(counts: Sequence[int], precision: int) -> _Code:
    """Make the best code for categories that come so often; every one that can come has a word."""
    numbers, ordered = _huffman([count + 1 for count in counts[: precision + 1]])
    words = np.zeros(_CATEGORIES, np.uint64)
    lengths = np.zeros(_CATEGORIES, np.uint64)
    # C.2: codes of one length follow one another, and those of the next begin behind them.
    word, waiting = 0, iter(ordered)
    for length, number in enumerate(numbers, 1):
        for _ in range(number):
            category = next(waiting)
            words[category], lengths[category] = word, length
            word += 1
        word <<= 1
    categories, further = _categories()
    more = categories.astype(np.uint64)
    more[categories == _LAST_CATEGORY] = 0
    return _Code(numbers, ordered, words[categories] << more | further, lengths[categories] + more)


def _huffman(counts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return how many codes there are of 1 to 16 bits, and the categories from short to long.

    As K.2 does: with one category more, the rarest, so that no code of ones alone is given out.
    """
    reserved = len(counts)
    sizes = [0] * (reserved + 1)
    heap: list[tuple[int, tuple[int, ...]]] = [
        (count, (category,)) for category, count in enumerate((*counts, 0))
    ]
    heapify(heap)
    while len(heap) > 1:
        (rarest, some), (rare, others) = heappop(heap), heappop(heap)
        for category in (*some, *others):
            sizes[category] += 1
        heappush(heap, (rarest + rare, (*some, *others)))
    numbers = [sizes.count(size) for size in range(2 * _LONGEST_CODE + 1)]
    # K.3: two codes that are too long give way to one that is a bit shorter, and to another pair.
    for size in range(2 * _LONGEST_CODE, _LONGEST_CODE, -1):
        while numbers[size]:
            shorter = next(each for each in range(size - 2, 0, -1) if numbers[each])
            numbers[size] -= 2
            numbers[size - 1] += 1
            numbers[shorter + 1] += 2
            numbers[shorter] -= 1
    longest = max(size for size, number in enumerate(numbers) if number)
    numbers[longest] -= 1
    return numbers[1 : _LONGEST_CODE + 1], sorted(range(reserved), key=sizes.__getitem__)


def _scan(lines: Samples, code: _Code) -> Iterator[bytes]:
    """Yield the bits of all lines, as bytes in which FF is not stuffed yet."""
    rows, columns, samples = lines.shape
    waiting, waiting_bits = np.uint64(0), 0
    for first, last in _blocks(rows, columns * samples):
        differences = _differences(lines, first, last)
        words, end = _packed(*_pairs(differences, code), waiting_bits)
        words[0] |= waiting
        whole, waiting_bits = divmod(end, 64)
        waiting = words[whole] if waiting_bits else np.uint64(0)
        yield words[:whole].astype(">u8").tobytes()
    # F.1.2.3: what is left of the last byte is ones.
    filled = int(waiting) | ((1 << (64 - waiting_bits)) - 1)
    yield filled.to_bytes(8, "big")[: -(-waiting_bits // 8)]


def _pairs(differences: NDArray[np.uint16], code: _Code) -> tuple[Words, Words]:
    """Return the words of every two differences as one, of 62 bits at most, and their lengths."""
    count = len(differences)
    indices = differences.astype(np.intp)
    words = np.zeros((count + 1) // 2 * 2, np.uint64)
    lengths = np.zeros_like(words)
    np.take(code.words, indices, out=words[:count], mode="clip")
    np.take(code.lengths, indices, out=lengths[:count], mode="clip")
    second = lengths[1::2]
    return words[::2] << second | words[1::2], lengths[::2] + second


def _packed(words: Words, lengths: Words, offset: int) -> tuple[Words, int]:
    """Lay words one behind the other, from bit `offset` on; return 64 bits a number, and the end.

    The last bit of every word is in one number, and of a word that begins in the number before it
    a part is there. No number is without a last bit, as no word is of 64 bits.
    """
    ends = np.cumsum(lengths)
    ends += np.uint64(offset)
    numbers = (ends - np.uint64(1)) >> np.uint64(6)
    left = -ends & np.uint64(63)
    begins = np.flatnonzero(numbers[1:] != numbers[:-1])
    begins += 1
    packed = np.zeros(int(numbers[-1]) + 1, np.uint64)
    at = int(numbers[0])
    firsts = np.concatenate((np.zeros(1, np.intp), begins))
    packed[at:] = np.bitwise_or.reduceat(words << left, firsts)
    if at:
        begins, at = firsts, 0
    # By 64 in two steps, for by 64 in one is not defined.
    packed[at : at + len(begins)] |= words[begins] >> np.uint64(1) >> (np.uint64(63) - left[begins])
    return packed, int(ends[-1])
