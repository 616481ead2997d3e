"""The outline of a data set is found without decoding it, and no input leads astray."""

import pytest

from lenticular.element_headers import ElementsError, Fault
from lenticular.elements import MAX_DEPTH, Element, encode_data_set, encode_element, items, walk
from lenticular.errors import CannotUnderstand
from lenticular.transfer_syntaxes import TransferSyntax
from tests.encoded_data_sets import (
    HEAD,
    ITEM,
    ITEM_END,
    OPEN_SEQUENCE,
    PLAIN_SYNTAXES,
    SEQUENCE_END,
    UNDEFINED,
    encode,
    nested_sequences,
)


def outline(data: bytes, *, stop_tag: int | None = None) -> list[Element]:
    return list(walk(data, explicit=True, little_endian=True, stop_tag=stop_tag))


def written(element: Element) -> tuple[int, str | None, bytes, int]:
    return element.tag, element.vr, bytes(element.value), element.offset


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


def test_nesting_is_followed_to_a_bound() -> None:
    assert len(outline(nested_sequences(MAX_DEPTH))) == 1


@pytest.mark.parametrize("depth", [MAX_DEPTH + 3, 100_000])
def test_nesting_beyond_the_bound_is_malformed(depth: int) -> None:
    with pytest.raises(ElementsError) as caught:
        outline(nested_sequences(depth))

    assert caught.value.fault is Fault.MALFORMED
