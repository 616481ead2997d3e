"""Whatever an image holds, its form restores to it; whatever is done to a form, it never lies."""

import io
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from lenticular.byte_ranges import InMemory, OnDisk, ReadAhead
from lenticular.element_headers import ITEM, SEQUENCE_DELIMITATION, encode_header
from lenticular.elements import (
    Element,
    EncodableElement,
    delimited_items,
    encode_data_set,
    encode_element,
    walk,
)
from lenticular.encapsulation import basic_offset_table, frames, read_fragments
from lenticular.errors import CannotUnderstand
from lenticular.image_files import read_image_file, read_meta, transfer_syntax_of
from lenticular.reencoding import group_lengths, is_group_length, reencoded
from lenticular.splice import LeftAlone, restored, write_form
from lenticular.transfer_syntaxes import (
    BY_UID,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from tests import images
from tests.images import Image

SOURCES = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]
TARGETS = [
    BY_UID[uid]
    for uid in ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5")
]

SEQUENCE = 0x00081140
#: Elements of a private group, whose VRs no dictionary knows, and a sequence of them.
private = st.tuples(st.integers(0x00291000, 0x002910FF), st.just("UN"), st.binary(max_size=40))
nested = st.lists(private, max_size=3, unique_by=lambda each: each[0])
more = st.lists(
    st.one_of(
        private,
        st.tuples(st.just(0x00281050), st.just("DS"), st.just(b"40\\400")),
        st.tuples(st.just(SEQUENCE), st.just("SQ"), st.lists(nested, max_size=2)),
    ),
    max_size=4,
    unique_by=lambda each: each[0],
)


def calm(rows: int, columns: int, frame_count: int, bits: int) -> Image:
    """Return an image that every codec makes smaller."""
    cell = (7).to_bytes(bits // 8, "little")
    return Image(
        "calm", bits, bits, cell * (rows * columns * frame_count),
        rows=rows, columns=columns, frames=frame_count,
    )  # fmt: skip


image_files = st.builds(
    lambda rows, columns, frame_count, bits, elements, syntax: replace(
        calm(rows, columns, frame_count, bits), more=tuple(elements)
    ).file(syntax),
    st.integers(40, 70),
    st.integers(40, 70),
    st.integers(1, 4),
    st.sampled_from([8, 16]),
    more,
    st.sampled_from(SOURCES),
)


def with_group_lengths(file: bytes, syntax: TransferSyntax, first: bytes | None) -> bytes:
    """Put a length before each group of a file and of the items in it, as old writers do.

    `first` is what the first one of all says, where it is to be wrong.
    """
    head, _ = read_meta(InMemory(file))
    counted = bytearray(_counted(memoryview(file)[len(head) :], syntax))
    for number, (value, right) in enumerate(group_lengths(counted, syntax)):
        value[:] = first if first is not None and not number else right
    return head + bytes(counted)


def _counted(data: memoryview, syntax: TransferSyntax) -> bytes:
    encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
    parts: list[bytes | memoryview] = []
    group = None
    for element in walk(data, **encoding):
        if element.tag >> 16 != group:
            group = element.tag >> 16
            parts.append(encode_element(group << 16, "UL", bytes(4), **encoding))
        if element.tag != SEQUENCE:
            parts.append(data[element.offset : element.end])
            continue
        items = [
            _counted(item.content, syntax) for item in delimited_items(element.value, **encoding)
        ]
        value = b"".join(encode_header(ITEM, "", len(item), **encoding) + item for item in items)
        parts += [encode_header(SEQUENCE, "SQ", len(value), **encoding), value]
    return b"".join(parts)


def form_of(original: bytes, target_number: int) -> bytes:
    out = io.BytesIO()
    try:
        write_form(InMemory(original), TARGETS[target_number], out)
    except LeftAlone:
        assume(False)
    return out.getvalue()


@given(image_files, st.sampled_from(range(len(TARGETS))))
def test_a_form_restores_to_its_original(original: bytes, target_number: int) -> None:
    form = form_of(original, target_number)
    assert b"".join(restored(InMemory(form))) == original


@given(image_files, st.binary(min_size=4, max_size=4), st.sampled_from(range(len(TARGETS))))
def test_group_lengths_of_a_form_are_right_and_those_of_its_original_come_back(
    original: bytes, wrong: bytes, target_number: int
) -> None:
    syntax = transfer_syntax_of(read_meta(InMemory(original))[1])
    for first_is_wrong in (False, True):
        counted = with_group_lengths(original, syntax, wrong if first_is_wrong else None)
        form = form_of(counted, target_number)
        assert b"".join(restored(InMemory(form))) == counted
        found = read_image_file(InMemory(form))
        # The pixels are not in the header: their group's length is of what is behind it.
        behind = found.tail_start - found.pixel_start + len(found.tail)
        lengths = list(group_lengths(found.header, EXPLICIT_VR_LITTLE_ENDIAN))
        *others, (of_pixels, _) = lengths
        assert int.from_bytes(of_pixels, "little") == behind
        if syntax != EXPLICIT_VR_LITTLE_ENDIAN or not first_is_wrong:
            assert all(bytes(value) == right for value, right in others)
        assert {
            each.tag >> 16 for each in walk(found.header, explicit=True, little_endian=True)
        } == {
            each.tag >> 16
            for each in walk(found.header, explicit=True, little_endian=True)
            if is_group_length(each)
        }


@given(st.binary(max_size=400), st.integers(0), st.integers(0, 7))
def test_a_form_that_is_damaged_restores_to_something_or_raises_what_is_expected(
    noise: bytes, where: int, bit: int
) -> None:
    # Whether that something is the original, its SHA-256 tells.
    form = form_of(images.smooth("small", 24, 24).file(), 0)
    flipped = bytearray(form)
    flipped[where % len(form)] ^= 1 << bit
    for broken in (flipped, noise, form[: len(noise)] + noise, form[:-300] + noise):
        try:
            b"".join(restored(InMemory(broken)))
        except CannotUnderstand:
            continue


@given(st.lists(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=3), min_size=1))
def test_frames_are_found_by_the_table_of_offsets(streams: list[list[bytes]]) -> None:
    even = [[part + bytes(len(part) % 2) for part in stream] for stream in streams]
    # To the table a frame of several fragments is as long as they and their headers.
    lengths = [sum(map(len, parts)) + 8 * (len(parts) - 1) for parts in even]
    table = basic_offset_table(lengths)
    value = encode_header(ITEM, "", len(table)) + table
    value += b"".join(encode_header(ITEM, "", len(part)) + part for parts in even for part in parts)
    file = InMemory(value + encode_header(SEQUENCE_DELIMITATION, "", 0))
    read = list(frames(file, read_fragments(file, 0), len(even)))
    assert read == [b"".join(parts) for parts in even]


@given(more, st.sampled_from([IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]))
def test_elements_in_another_encoding_come_back_as_they_were(
    elements: list[EncodableElement], syntax: TransferSyntax
) -> None:
    there = encode_data_set(elements, explicit=syntax.explicit, little_endian=syntax.little_endian)
    explicit = reencoded(there, syntax, EXPLICIT_VR_LITTLE_ENDIAN)
    assert reencoded(explicit, EXPLICIT_VR_LITTLE_ENDIAN, syntax) == there
    found: list[Element] = list(walk(explicit, explicit=True, little_endian=True))
    assert [each.tag for each in found] == sorted(each[0] for each in elements)


@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 320), st.integers(0, 80)), max_size=12),
    st.integers(1, 64),
)
def test_ranges_are_the_same_wherever_the_file_is(
    content: bytes, ranges: list[tuple[int, int]], ahead: int
) -> None:
    files = (
        InMemory(content),
        OnDisk(io.BytesIO(content)),
        ReadAhead(
            lambda start, length: content[start : start + length], len(content), ahead_bytes=ahead
        ),
    )
    for start, length in ranges:
        for file in files:
            assert bytes(file.read(start, length)) == content[start : start + length]
