"""A data set is whole that brings what it announces, whatever it is read in, and within bounds."""

from struct import pack
from time import thread_time

import pytest

from lenticular.elements import encode_data_set, encode_element, walk
from lenticular.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from lenticular.wholeness import is_whole
from tests.encoded_data_sets import (
    HEAD,
    ITEM,
    ITEM_END,
    OPEN_SEQUENCE,
    PLAIN_SYNTAXES,
    SEQUENCE_END,
    UNDEFINED,
    deflate,
    encode,
)

ITEM_OPEN = ITEM + UNDEFINED
NESTED = encode_element(0x00400007, "LO", b"x")
PIXELS = encode_element(0x7FE00010, "OW", bytes(1000))
FRAGMENTS = ITEM + b"\0\0\0\0" + ITEM + b"\4\0\0\0" + b"\xff\xd8\xff\xd9"
OPEN_PIXELS = b"\xe0\x7f\x10\x00OB\x00\x00" + UNDEFINED
IMPLICIT_NESTED = encode_element(0x00400007, "LO", b"x", explicit=False)
OPEN_UNKNOWN = b"\x41\x00\x01\x10UN\x00\x00" + UNDEFINED

#: What DCMTK's dcmdump reads without an error, and zeros too few to be an element.
WHOLE = {
    "nothing": b"",
    "pixel data": PIXELS,
    "an odd length": b"\x28\0\x50\x10DS\3\x001.5" + PIXELS,
    "tags out of order": PIXELS + encode_data_set(HEAD),
    "a sequence": OPEN_SEQUENCE + ITEM_OPEN + NESTED + ITEM_END + SEQUENCE_END + PIXELS,
    "fragments": OPEN_PIXELS + FRAGMENTS + SEQUENCE_END,
    "UN": OPEN_UNKNOWN + ITEM_OPEN + IMPLICIT_NESTED + ITEM_END + SEQUENCE_END + PIXELS,
    "no VR": b"\x09\0\x10\0??\2\0ab\x09\0\x11\0\0\0\2\0ab" + PIXELS,
    "a VR of the future": b"\x09\0\x10\0ZZ\0\0\2\0\0\0ab" + PIXELS,
    "a delimiter that closes nothing": ITEM_END + PIXELS + ITEM_END,
    "one zero": PIXELS + bytes(1),
    "zeros": PIXELS + bytes(4099),
    "zeros behind fragments": OPEN_PIXELS + FRAGMENTS + SEQUENCE_END + bytes(10),
}
#: What announces more than there is, or makes no sense; dcmdump refuses each but "nothing open".
NOT_WHOLE = {
    "half of the pixel data": PIXELS[:500],
    "all but a byte": PIXELS[:-1],
    "a header alone": PIXELS[:12],
    "most of a header": PIXELS[:10],
    "half a header": PIXELS[:4],
    "text cut short": b"\x28\0\x50\x10DS\x08\x001.5",
    "a byte too many": PIXELS + b"x",
    "noise": b"\xff" * 4096,
    "spaces": PIXELS + b" " * 64,
    "nothing open": OPEN_SEQUENCE,
    "an open item": OPEN_SEQUENCE + ITEM_OPEN,
    "a sequence without its end": OPEN_SEQUENCE + ITEM_OPEN + NESTED + ITEM_END,
    "half a delimiter": OPEN_SEQUENCE + ITEM_OPEN + NESTED + ITEM_END + SEQUENCE_END[:4],
    "the wrong delimiter": OPEN_SEQUENCE + ITEM_OPEN + NESTED + SEQUENCE_END + PIXELS,
    "an item too long": OPEN_SEQUENCE + ITEM + b"\x40\0\0\0" + NESTED + SEQUENCE_END,
    "an item without a sequence": ITEM + b"\0\0\0\0" + PIXELS,
    "fragments without their end": OPEN_PIXELS + FRAGMENTS,
    "half a fragment": OPEN_PIXELS + FRAGMENTS[:-2],
    "zeros where a delimiter is due": OPEN_PIXELS + FRAGMENTS + bytes(8),
    "nesting without end": (OPEN_SEQUENCE + ITEM_OPEN) * 100_000,
}


def is_whole_by_any_window(data: bytes, syntax: TransferSyntax) -> bool:
    told = {
        is_whole(lambda at: data[at : at + window], len(data), syntax)  # noqa: B023 - called here
        for window in (len(data) + 1, 12, 13, 64)
    }
    [whole] = told
    return whole


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_data_set_that_brings_what_it_announces_is_whole(data: bytes) -> None:
    for before in (b"", encode_data_set(HEAD)):
        assert is_whole_by_any_window(before + data, EXPLICIT_VR_LITTLE_ENDIAN)
        assert is_whole_by_any_window(deflate(before + data), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("data", NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_a_data_set_that_brings_less_than_it_announces_is_not_whole(data: bytes) -> None:
    for before in (b"", encode_data_set(HEAD)):
        assert not is_whole_by_any_window(before + data, EXPLICIT_VR_LITTLE_ENDIAN)
        deflated = deflate(before + data)
        assert not is_whole_by_any_window(deflated, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
def test_a_data_set_is_whole_at_the_ends_of_its_elements_only(syntax: TransferSyntax) -> None:
    data = encode(HEAD, syntax)
    encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
    ends = {0} | {each.end for each in walk(data, **encoding)}

    for length in range(len(data) + 1):
        behind_an_end = data[max(end for end in ends if end <= length) : length]
        # The first byte of a tag in big endian may as well be padding.
        assert is_whole_by_any_window(data[:length], syntax) == (not any(behind_an_end))


def test_a_deflated_data_set_is_whole_with_the_end_of_its_stream_only() -> None:
    data = deflate(encode_data_set(HEAD) + PIXELS)
    syntax = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN

    assert is_whole_by_any_window(data, syntax)
    assert is_whole_by_any_window(data + b"\0", syntax)
    for length in range(1, len(data)):
        assert not is_whole_by_any_window(data[:length], syntax)


def test_a_deflate_bomb_is_followed_to_a_bound_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lenticular.wholeness._MOST_INFLATED_BYTES", 1 << 20)
    bomb = deflate(pack("<HH2sHL", 8, 8, b"UN", 0, 0x7FFFFFFE) + bytes(1 << 26))
    asked: list[int] = []

    def read(at: int) -> bytes:
        asked.append(at)
        return bomb[at : at + 64]

    assert is_whole(read, len(bomb), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    assert max(asked) < len(bomb) // 32


def test_zeros_behind_the_last_element_are_passed_in_no_time() -> None:
    data = encode_data_set(HEAD) + bytes(64 << 20)
    began = thread_time()

    for syntax in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        zeros = memoryview(encode(HEAD, syntax) + bytes(64 << 20))
        assert is_whole(lambda at: zeros[at:], len(zeros), syntax)  # noqa: B023 - called here
    deflated = deflate(data)
    assert is_whole(lambda at: deflated[at:], len(deflated), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)

    # One by one they took 16 s, 3 s and 16 s of a fast machine.
    assert thread_time() - began < 5


@pytest.mark.parametrize(
    "element",
    [
        encode_element(0x00080050, "SH", b""),
        pack("<HH2sH", 8, 8, b"??", 0),
        OPEN_SEQUENCE + SEQUENCE_END,
        bytes(8) + encode_element(0x00080050, "SH", b""),
    ],
)
def test_no_more_elements_are_followed_than_an_honest_data_set_has(
    monkeypatch: pytest.MonkeyPatch, element: bytes
) -> None:
    monkeypatch.setattr("lenticular.wholeness._MOST_HEADERS", 1000)
    broken = PIXELS[:-1]

    assert not is_whole_by_any_window(element * 90 + broken, EXPLICIT_VR_LITTLE_ENDIAN)
    for times in (1000, 20_000):
        data = element * times + broken
        assert is_whole_by_any_window(data, EXPLICIT_VR_LITTLE_ENDIAN)
        assert is_whole_by_any_window(deflate(data), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)


def test_pixel_data_is_jumped_over_and_not_read() -> None:
    data = encode_data_set(HEAD) + encode_element(0x7FE00010, "OW", bytes(10_000_000))
    asked: list[int] = []

    def read(at: int) -> bytes:
        asked.append(at)
        return data[at : at + 1024]

    assert is_whole(read, len(data), EXPLICIT_VR_LITTLE_ENDIAN)
    assert len(asked) == 1
