"""The outline of a data set is found without decoding it, and no input leads astray."""

import zlib
from struct import pack
from time import thread_time

import pytest

from lenticular.element_headers import ElementsError, Fault
from lenticular.elements import (
    MAX_DEPTH,
    Element,
    EncodableElement,
    encode_data_set,
    encode_element,
    items,
    walk,
)
from lenticular.errors import CannotUnderstand
from lenticular.identification import MAX_INFLATED_BYTES, find_uids
from lenticular.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TransferSyntax,
)
from lenticular.wholeness import is_whole

PLAIN_SYNTAXES = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]
UNDEFINED = b"\xff\xff\xff\xff"
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
OPEN_SEQUENCE = b"\x08\x00\x40\x11SQ\x00\x00" + UNDEFINED
HEAD: list[EncodableElement] = [
    (0x00080005, "CS", b"ISO_IR 100"),
    (0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2"),
    (0x00080018, "UI", b"1.2.3.4"),
    (0x00081140, "SQ", [[(0x00081155, "UI", b"1.9"), (0x0020000D, "UI", b"6.6.6")]]),
    (0x0020000D, "UI", b"1.2.3"),
    (0x0020000E, "UI", b"1.2.3.1"),
    (0x00280010, "US", b"\0\1"),
]


def outline(data: bytes, *, stop_tag: int | None = None) -> list[Element]:
    return list(walk(data, explicit=True, little_endian=True, stop_tag=stop_tag))


def written(element: Element) -> tuple[int, str | None, bytes, int]:
    return element.tag, element.vr, bytes(element.value), element.offset


def encode(elements: list[EncodableElement], syntax: TransferSyntax) -> bytes:
    return encode_data_set(elements, explicit=syntax.explicit, little_endian=syntax.little_endian)


def test_a_short_element_is_encoded_as_the_standard_shows() -> None:
    assert encode_element(0x00080018, "UI", b"1.2") == b"\x08\x00\x18\x00UI\x04\x001.2\x00"


def test_a_long_element_has_reserved_bytes_and_a_long_length() -> None:
    encoded = encode_element(0x7FE00010, "OB", b"\1\2\3")

    assert encoded == b"\xe0\x7f\x10\x00OB\x00\x00\x04\x00\x00\x00\1\2\3\0"


def test_big_endian_turns_tag_and_length_round() -> None:
    encoded = encode_element(0x00080060, "CS", b"CT", little_endian=False)

    assert encoded == b"\x00\x08\x00\x60CS\x00\x02CT"


def test_implicit_vr_leaves_the_vr_out() -> None:
    encoded = encode_element(0x00080060, "CS", b"OTH", explicit=False)

    assert encoded == b"\x08\x00\x60\x00\x04\x00\x00\x00OTH "


@pytest.mark.parametrize(
    ("vr", "padding"), [("UI", b"\0"), ("OB", b"\0"), ("UN", b"\0"), ("LO", b" "), ("PN", b" ")]
)
def test_an_odd_value_is_padded_as_its_vr_wants(vr: str, padding: bytes) -> None:
    assert encode_element(0x00090010, vr, b"1").endswith(b"1" + padding)


def test_a_text_too_long_for_its_short_form_is_written_as_unknown() -> None:
    encoded = encode_element(0x00104000, "LT", b"x" * 0x10000)

    assert encoded.startswith(b"\x10\x00\x00\x40UN\x00\x00\x00\x00\x01\x00")
    assert outline(encoded)[0].value == b"x" * 0x10000


def test_elements_are_encoded_in_tag_order() -> None:
    encoded = encode_data_set([(0x00100010, "PN", b"B"), (0x00080060, "CS", b"CT")])

    assert [element.tag for element in outline(encoded)] == [0x00080060, 0x00100010]


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
def test_a_sequence_can_be_walked_item_by_item(syntax: TransferSyntax) -> None:
    encoding = {"explicit": syntax.explicit, "little_endian": syntax.little_endian}
    encoded = encode([(0x00081140, "SQ", [[(0x00081155, "UI", b"1.9")], []])], syntax)

    (sequence,) = walk(encoded, **encoding)
    nested = [list(walk(item, **encoding)) for item in items(sequence.value, **encoding)]

    assert [[(each.tag, bytes(each.value)) for each in item] for item in nested] == [
        [(0x00081155, b"1.9\0")],
        [],
    ]


def test_a_sequence_of_undefined_length_ends_before_its_delimiter() -> None:
    item = ITEM + UNDEFINED + encode_element(0x00081155, "UI", b"1.9") + ITEM_END
    data = OPEN_SEQUENCE + item + item + SEQUENCE_END + encode_element(0x00100010, "PN", b"A^B")

    sequence, name = outline(data)

    assert written(sequence) == (0x00081140, "SQ", item + item, 0)
    assert name.offset == len(data) - 12
    assert len(list(items(sequence.value, explicit=True, little_endian=True))) == 2


def test_a_delimiter_inside_a_sequence_of_defined_length_ends_it() -> None:
    item = ITEM + b"\x00\x00\x00\x00"

    assert len(list(items(memoryview(item + SEQUENCE_END), explicit=True, little_endian=True))) == 1


def test_unknown_of_undefined_length_is_implicit_inside() -> None:
    inside = encode_element(0x00081155, "UI", b"1.9", explicit=False)
    item = ITEM + UNDEFINED + inside + ITEM_END
    data = b"\x09\x00\x01\x10UN\x00\x00" + UNDEFINED + item + SEQUENCE_END

    (unknown,) = outline(data)

    assert (unknown.vr, bytes(unknown.value)) == ("UN", item)
    (nested,) = items(unknown.value, explicit=False, little_endian=True)
    assert nested == inside


def test_unknown_of_undefined_length_is_little_endian_inside_even_in_big_endian() -> None:
    item = ITEM + UNDEFINED + encode_element(0x00081155, "UI", b"1", explicit=False) + ITEM_END
    data = b"\x00\x09\x10\x01UN\x00\x00" + UNDEFINED + item + SEQUENCE_END

    (unknown,) = walk(data, explicit=True, little_endian=False)

    assert unknown.value == item


def test_fragments_of_pixel_data_are_one_value() -> None:
    fragments = ITEM + b"\0\0\0\0" + ITEM + b"\4\0\0\0" + b"\xff\xd8\xff\xd9"
    data = b"\xe0\x7f\x10\x00OB\x00\x00" + UNDEFINED + fragments + SEQUENCE_END

    (pixel_data,) = outline(data)

    assert written(pixel_data) == (0x7FE00010, "OB", fragments, 0)


@pytest.mark.parametrize("vr", [b"??", b"  ", b"\0\0"])
def test_what_is_no_vr_is_read_in_the_short_form(vr: bytes) -> None:
    data = b"\x09\x00\x10\x00" + vr + b"\x02\x00ab" + encode_element(0x00100010, "PN", b"A")

    assert [(each.tag, each.vr) for each in outline(data)] == [
        (0x00090010, None),
        (0x00100010, "PN"),
    ]


def test_a_vr_of_the_future_is_read_in_the_long_form() -> None:
    data = b"\x09\x00\x10\x00ZZ\x00\x00\x02\x00\x00\x00ab"

    (element,) = outline(data)

    assert written(element) == (0x00090010, "ZZ", b"ab", 0)


def test_the_walk_stops_before_the_tag_it_is_told() -> None:
    data = encode_data_set(HEAD) + b"\xe0\x7f\x10\x00OW\x00\x00\x00\x00\x10\x00 not all here"

    assert outline(data, stop_tag=0x7FE00010)[-1].tag == 0x00280010


def test_elements_out_of_order_are_taken_as_they_come() -> None:
    name = encode_element(0x00100010, "PN", b"A")
    modality = encode_element(0x00080060, "CS", b"CT")

    assert [each.tag for each in outline(name + modality)] == [0x00100010, 0x00080060]


def test_what_came_before_a_break_is_yielded() -> None:
    walked = walk(encode_data_set(HEAD)[:-1], explicit=True, little_endian=True)

    assert next(walked).tag == 0x00080005
    with pytest.raises(ElementsError):
        list(walked)


def test_a_truncation_says_where_in_which_element_and_how_much_is_wanted() -> None:
    data = encode_element(0x00080060, "CS", b"CT") + encode_element(0x00100010, "PN", b"SECRET^A")

    with pytest.raises(ElementsError) as caught:
        outline(data[:-3])

    assert caught.value.fault is Fault.TRUNCATED
    assert (caught.value.offset, caught.value.tag) == (10, 0x00100010)
    assert caught.value.wanted == len(data)
    assert str(caught.value) == "data set truncated at byte 10 in (0010,0010)"
    assert isinstance(caught.value, CannotUnderstand)


@pytest.mark.parametrize("length", range(1, 8))
def test_a_header_that_breaks_off_is_truncated(length: int) -> None:
    with pytest.raises(ElementsError) as caught:
        outline(encode_element(0x00080060, "CS", b"CT")[:length])

    assert (caught.value.fault, caught.value.tag, caught.value.wanted) == (Fault.TRUNCATED, None, 8)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(ITEM + b"\0\0\0\0", id="an item without a sequence"),
        pytest.param(SEQUENCE_END, id="a delimiter without a sequence"),
        pytest.param(OPEN_SEQUENCE + ITEM_END, id="the wrong delimiter in a sequence"),
        pytest.param(OPEN_SEQUENCE + ITEM + UNDEFINED + SEQUENCE_END, id="and in an item"),
        pytest.param(OPEN_SEQUENCE + encode_element(0x00080060, "CS", b"CT"), id="no item"),
    ],
)
def test_an_outline_that_makes_no_sense_is_malformed(data: bytes) -> None:
    with pytest.raises(ElementsError) as caught:
        outline(data)

    assert caught.value.fault is Fault.MALFORMED


def test_an_undefined_length_that_never_ends_is_truncated() -> None:
    with pytest.raises(ElementsError) as caught:
        outline(OPEN_SEQUENCE + ITEM + UNDEFINED)

    assert caught.value.fault is Fault.TRUNCATED


def nested_sequences(depth: int) -> bytes:
    return (OPEN_SEQUENCE + ITEM + UNDEFINED) * depth + (ITEM_END + SEQUENCE_END) * depth


def test_nesting_is_followed_to_a_bound() -> None:
    assert len(outline(nested_sequences(MAX_DEPTH))) == 1


@pytest.mark.parametrize("depth", [MAX_DEPTH + 3, 100_000])
def test_nesting_beyond_the_bound_is_malformed(depth: int) -> None:
    with pytest.raises(ElementsError) as caught:
        outline(nested_sequences(depth))

    assert caught.value.fault is Fault.MALFORMED


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
def test_the_uids_are_found_at_the_top_level_only(syntax: TransferSyntax) -> None:
    found = find_uids(encode(HEAD, syntax), syntax)

    assert found.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert found.sop_instance_uid == "1.2.3.4"
    assert found.study_instance_uid == "1.2.3"
    assert found.series_instance_uid == "1.2.3.1"
    assert found.complete


@pytest.mark.parametrize("syntax", PLAIN_SYNTAXES, ids=lambda each: each.name)
def test_a_head_is_complete_exactly_when_its_last_uid_has_arrived(syntax: TransferSyntax) -> None:
    head = encode(HEAD[:-1], syntax)

    assert find_uids(head, syntax).complete
    for length in range(len(head)):
        assert not find_uids(head[:length], syntax).complete


def test_uids_that_are_absent_or_empty_are_none() -> None:
    head: list[EncodableElement] = [
        (0x00080018, "UI", b""),
        (0x0020000D, "UI", b"1.2.3"),
        HEAD[-1],
    ]

    found = find_uids(encode_data_set(head), EXPLICIT_VR_LITTLE_ENDIAN)

    assert found.complete
    assert found.sop_class_uid is found.sop_instance_uid is found.series_instance_uid is None
    assert found.study_instance_uid == "1.2.3"


def test_uids_out_of_order_are_found() -> None:
    head = b"".join(encode_data_set([element]) for element in reversed(HEAD[:-1]))

    assert find_uids(head, EXPLICIT_VR_LITTLE_ENDIAN).sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"


def test_sequences_of_undefined_length_before_the_uids_are_passed_over() -> None:
    head = nested_sequences(3) + encode_data_set(HEAD)

    assert find_uids(head, EXPLICIT_VR_LITTLE_ENDIAN).study_instance_uid == "1.2.3"
    assert not find_uids(nested_sequences(3)[:-1], EXPLICIT_VR_LITTLE_ENDIAN).complete


def deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def test_uids_are_found_in_a_deflated_data_set_of_which_the_head_has_arrived() -> None:
    data = deflate(encode_data_set([*HEAD, (0x7FE00010, "OW", bytes(range(256)) * 4096)]))

    found = find_uids(data[: len(data) // 2], DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)

    assert found.complete
    assert found.series_instance_uid == "1.2.3.1"


def test_uids_behind_much_that_deflates_to_little_are_found() -> None:
    padding: EncodableElement = (0x00080008, "UN", bytes(MAX_INFLATED_BYTES // 2))

    found = find_uids(
        deflate(encode_data_set([padding, *HEAD])), DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    )

    assert found.complete


def test_a_deflate_bomb_is_inflated_to_a_bound_only() -> None:
    bomb = deflate(pack("<HH2sHL", 8, 8, b"UN", 0, 0x7FFFFFFE) + bytes(1 << 26))

    assert not find_uids(bomb, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN).complete


def test_bytes_that_were_never_deflated_are_malformed() -> None:
    with pytest.raises(ElementsError) as caught:
        find_uids(b"\xff" * 64, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)

    assert caught.value.fault is Fault.MALFORMED


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
