"""Elements become DICOM JSON and return to bytes without loss of what an index needs."""

import pytest

from lenticular.character_sets import character_sets
from lenticular.dicom_json import (
    MAX_DEPTH,
    JsonElement,
    character_set_terms,
    encode_values,
    read_data_set,
    read_element,
    texts_of,
    vr_of,
    write_data_set,
)
from lenticular.element_headers import ElementsError
from lenticular.elements import EncodableElement, encode_data_set, encode_element, walk


def read(tag: int, vr: str, value: bytes, terms: tuple[str, ...] = ()) -> JsonElement:
    encoded = encode_element(tag, vr, value)
    (element,) = walk(encoded, explicit=True, little_endian=True)
    return read_element(element, character_sets(terms), explicit=True, little_endian=True)


@pytest.mark.parametrize(
    ("tag", "vr", "raw", "values"),
    [
        (0x00100020, "LO", b" 123 ", ["123"]),
        (0x00100020, "LO", b"A\\B", ["A", "B"]),
        (0x00080008, "CS", b"DERIVED\\\\X ", ["DERIVED", None, "X"]),
        (0x0020000D, "UI", b"1.2.3\0", ["1.2.3"]),
        (0x0020000D, "UI", b"1.2.3 ", ["1.2.3"]),
        (0x00280030, "DS", b"+0.50\\1.0e-3 ", ["+0.50", "1.0e-3"]),
        (0x00200013, "IS", b"007 ", ["007"]),
        (0x00080020, "DA", b"20240101", ["20240101"]),
        (0x00104000, "LT", b"  one\\two\r\n ", ["  one\\two\r\n"]),
        (0x00280010, "US", b"\0\2", [512]),
        (0x00090010, "SS", b"\xff\xff\1\0", [-1, 1]),
        (0x00090010, "FD", b"\0\0\0\0\0\0\xe0\x3f", [0.5]),
        (0x00090010, "AT", b"\x10\0\x20\0", ["00100020"]),
        (0x00090010, "UR", b"http://x/a\\b ", ["http://x/a\\b"]),
        (0x00090010, "UC", b" leading\\two ", [" leading", "two"]),
    ],
)
def test_a_value_is_read_without_its_padding(
    tag: int, vr: str, raw: bytes, values: list[object]
) -> None:
    assert read(tag, vr, raw) == {"vr": vr, "Value": values}


@pytest.mark.parametrize(
    ("vr", "raw"),
    [("LO", b""), ("LO", b"  "), ("CS", b"\\"), ("US", b""), ("PN", b"^".strip(b"^"))],
)
def test_an_empty_value_has_no_value(vr: str, raw: bytes) -> None:
    assert read(0x00090010, vr, raw) == {"vr": vr}


@pytest.mark.parametrize("vr", ["OB", "OW", "UN", "OF", "ZZ"])
def test_bulk_data_is_left_out(vr: str) -> None:
    assert read(0x00090010, vr, b"\1\2") == {"vr": vr}


def test_the_groups_of_a_person_name_have_their_names() -> None:
    read_name = read(0x00100010, "PN", "Hong^Gildong=洪^吉洞=홍^길동".encode(), ("ISO_IR 192",))

    assert read_name["Value"] == [
        {"Alphabetic": "Hong^Gildong", "Ideographic": "洪^吉洞", "Phonetic": "홍^길동"}
    ]


def test_a_missing_group_of_a_person_name_is_missing() -> None:
    assert read(0x00100010, "PN", "=山田".encode(), ("ISO_IR 192",))["Value"] == [
        {"Ideographic": "山田"}
    ]


def test_the_catalogue_decides_between_kinds_of_text() -> None:
    assert read(0x00100020, "SH", b"123") == {"vr": "LO", "Value": ["123"]}


def test_a_number_is_read_as_it_is_written_whatever_the_catalogue_says() -> None:
    assert read(0x00200013, "US", b"\7\0") == {"vr": "US", "Value": [7]}


def test_unknown_is_read_as_the_catalogue_has_it() -> None:
    assert read(0x00280010, "UN", b"\0\2") == {"vr": "US", "Value": [512]}


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00080100, "SH"),
        (0x00280106, "US"),
        (0x00081150, "UI"),
        (0x00200000, "UL"),
        (0x00091001, "UN"),
    ],
)
def test_implicit_vr_is_looked_up(tag: int, vr: str) -> None:
    assert vr_of(tag, None) == vr


def code(value: str) -> list[EncodableElement]:
    return [(0x00080100, "SH", value.encode()), (0x00080102, "SH", b"99X")]


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("little_endian", [True, False])
def test_a_sequence_is_read_item_by_item(explicit: bool, little_endian: bool) -> None:
    encoded = encode_data_set(
        [(0x0040A043, "SQ", [code("A"), [], code("B")])],
        explicit=explicit,
        little_endian=little_endian,
    )

    read_set = read_data_set(encoded, explicit=explicit, little_endian=little_endian)

    coding = {"vr": "SH", "Value": ["99X"]}
    assert read_set[0x0040A043]["Value"] == [
        {"00080100": {"vr": "SH", "Value": ["A"]}, "00080102": coding},
        {},
        {"00080100": {"vr": "SH", "Value": ["B"]}, "00080102": coding},
    ]


def test_a_sequence_hidden_in_unknown_is_read_as_implicit() -> None:
    implicit = encode_data_set([(0x0040A043, "SQ", [code("A")])], explicit=False)
    hidden = encode_element(0x0040A043, "UN", implicit[8:])

    read_set = read_data_set(hidden, explicit=True, little_endian=True)

    assert read_set[0x0040A043]["Value"][0]["00080100"]["Value"] == ["A"]


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    name: EncodableElement = (0x00100010, "PN", "王".encode())
    encoded = encode_data_set(
        [
            (0x00080005, "CS", b"ISO_IR 100"),
            (0x00400275, "SQ", [[(0x00080005, "CS", b"ISO_IR 192"), name]]),
            (0x00400300, "LO", b"\xe9"),
        ]
    )

    read_set = read_data_set(encoded, explicit=True, little_endian=True)

    assert read_set[0x00400275]["Value"][0]["00100010"]["Value"] == [{"Alphabetic": "王"}]
    assert read_set[0x00400300]["Value"] == ["é"]
    assert character_set_terms(read_set[0x00080005]) == ["ISO_IR 100"]


def test_no_character_set_has_no_terms_and_an_empty_first_one_stays() -> None:
    encoded = encode_data_set([(0x00080005, "CS", b"\\ISO 2022 IR 87")])

    assert character_set_terms(None) == []
    assert character_set_terms(
        read_data_set(encoded, explicit=True, little_endian=True)[0x00080005]
    ) == ["", "ISO 2022 IR 87"]


def test_nesting_is_read_to_a_bound() -> None:
    nested: list[EncodableElement] = []
    for _ in range(MAX_DEPTH + 50):
        nested = [(0x0040A043, "SQ", [nested])]

    value = read_data_set(encode_data_set(nested), explicit=True, little_endian=True)[0x0040A043]
    depth = 0
    while value.get("Value"):
        depth += 1
        value = value["Value"][0]["0040A043"]

    assert depth == MAX_DEPTH


def test_a_sequence_that_cannot_be_followed_comes_out_empty() -> None:
    assert read(0x00400275, "SQ", b"not items at all") == {"vr": "SQ"}


def test_a_data_set_with_a_sequence_that_cannot_be_followed_is_refused() -> None:
    encoded = encode_element(0x00400275, "SQ", b"not items at all")

    with pytest.raises(ElementsError):
        read_data_set(encoded, explicit=True, little_endian=True)


def test_group_lengths_are_left_out() -> None:
    encoded = encode_data_set([(0x00080000, "UL", b"\4\0\0\0"), (0x00080060, "CS", b"CT")])

    assert list(read_data_set(encoded, explicit=True, little_endian=True)) == [0x00080060]


def test_an_answer_is_written_in_the_askers_character_set() -> None:
    written = write_data_set(
        {0x00100010: {"vr": "PN", "Value": [{"Alphabetic": "Jürgen"}]}}, ["ISO_IR 100"]
    )

    assert written == encode_data_set(
        [(0x00080005, "CS", b"ISO_IR 100"), (0x00100010, "PN", b"J\xfcrgen")]
    )


def test_an_answer_the_askers_character_set_cannot_carry_is_in_utf_8() -> None:
    name = {"vr": "PN", "Value": [{"Alphabetic": "Wang", "Phonetic": "ワン"}]}

    written = write_data_set({0x00100010: name}, ["ISO_IR 100"])

    assert written == encode_data_set(
        [(0x00080005, "CS", b"ISO_IR 192"), (0x00100010, "PN", "Wang==ワン".encode())]
    )


def test_text_inside_a_sequence_counts_when_the_character_set_is_chosen() -> None:
    item = {"00080104": {"vr": "LO", "Value": ["王"]}}

    written = write_data_set({0x0040A043: {"vr": "SQ", "Value": [item]}}, ["ISO_IR 100"])

    read_set = read_data_set(written, explicit=True, little_endian=True)
    assert character_set_terms(read_set[0x00080005]) == ["ISO_IR 192"]
    assert read_set[0x0040A043]["Value"] == [item]


def test_an_answer_in_ascii_to_nothing_requested_names_no_character_set() -> None:
    stored = {"vr": "CS", "Value": ["ISO_IR 192"]}

    written = write_data_set({0x00080005: stored, 0x00080060: {"vr": "CS", "Value": ["CT"]}})

    assert written == encode_element(0x00080060, "CS", b"CT")


@pytest.mark.parametrize(
    ("element", "encoded"),
    [
        ({"vr": "IS", "Value": [12]}, b"12"),
        ({"vr": "DS", "Value": ["+0.50", 2]}, b"+0.50\\2"),
        ({"vr": "CS", "Value": ["A", None, "B"]}, b"A\\\\B"),
        ({"vr": "US", "Value": [512, None]}, b"\0\2"),
        ({"vr": "FL", "Value": [0.5]}, b"\0\0\0\x3f"),
        ({"vr": "AT", "Value": ["00100020"]}, b"\x10\0\x20\0"),
        ({"vr": "LT", "Value": ["a\\b"]}, b"a\\b"),
        ({"vr": "OB", "Value": ["?"]}, b""),
        ({"vr": "LO"}, b""),
    ],
)
def test_values_are_encoded(element: JsonElement, encoded: bytes) -> None:
    assert encode_values(element, character_sets(())) == encoded


def test_numbers_turn_round_in_big_endian() -> None:
    sets = character_sets(())

    assert encode_values({"vr": "US", "Value": [1]}, sets, little_endian=False) == b"\0\1"
    assert encode_values({"vr": "AT", "Value": ["00100020"]}, sets, little_endian=False) == (
        b"\0\x10\0\x20"
    )


def test_only_text_that_the_character_set_applies_to_counts() -> None:
    elements: list[JsonElement] = [
        {"vr": "CS", "Value": ["é"]},
        {"vr": "LO", "Value": ["x", None]},
        {"vr": "LO"},
    ]

    assert list(texts_of(elements)) == ["x", ""]


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("little_endian", [True, False])
def test_binary_values_asked_for_survive_any_encoding(
    *, explicit: bool, little_endian: bool
) -> None:
    elements: dict[int, JsonElement] = {
        0x00091010: {"vr": "UN", "InlineBinary": "AQID/w=="},
        0x00660023: {"vr": "OW", "InlineBinary": "AQIDBA=="},
        0x0040A730: {
            "vr": "SQ",
            "Value": [{"00420011": {"vr": "OB", "InlineBinary": "JVBERg=="}}],
        },
    }
    written = write_data_set(elements, explicit=explicit, little_endian=little_endian)
    read = read_data_set(written, explicit=explicit, little_endian=little_endian, binary=True)
    assert read == elements


def test_words_are_kept_little_endian_whatever_they_came_in() -> None:
    written = bytes.fromhex("7fe0 0010 4f57 0000 00000004 0102 0304")
    read = read_data_set(written, explicit=True, little_endian=False, binary=True)
    assert read[0x7FE00010] == {"vr": "OW", "InlineBinary": "AgEEAw=="}
