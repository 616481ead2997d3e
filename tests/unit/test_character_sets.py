"""Text of every Specific Character Set is read, and written as the standard's examples are."""

import pytest

from lenticular.character_sets import (
    PERSON_NAME_DELIMITERS,
    TEXT_DELIMITERS,
    character_sets,
    choose_character_set,
)

# The person names of PS3.5 annexes H, I, J and K, and of PS3.5 6.1.2.5.3.
STANDARD_EXAMPLES = [
    pytest.param(
        ["", "ISO 2022 IR 87"],
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        id="H.3.1 Japanese, ASCII first",
    ),
    pytest.param(
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"
        b"=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        id="H.3.2 Japanese, katakana first",
    ),
    pytest.param(
        ["", "ISO 2022 IR 149"],
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"
        b"=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
        id="I.2 Korean",
    ),
    pytest.param(
        ["", "ISO 2022 IR 58"],
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
        id="K.2 Chinese, GB 2312",
    ),
    pytest.param(
        ["ISO_IR 192"],
        b"Wang^XiaoDong=\xe7\x8e\x8b^\xe5\xb0\x8f\xe6\x9d\xb1=",
        "Wang^XiaoDong=王^小東=",
        id="J.1 Chinese, UTF-8",
    ),
    pytest.param(
        ["GB18030"],
        b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=",
        "Wang^XiaoDong=王^小东=",
        id="J.2 Chinese, GB18030",
    ),
    pytest.param(
        ["GBK"], b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", "Wang^XiaoDong=王^小东=", id="GBK"
    ),
    pytest.param(
        ["ISO 2022 IR 87", "ISO 2022 IR 159"],
        b"\x1b$(D\x30\x21\x1b$B\x30\x21\x1b(B",
        "丂亜",
        id="JIS X 0212 beside JIS X 0208",
    ),
    pytest.param(
        ["", "ISO 2022 IR 100", "ISO 2022 IR 144"],
        b"Buc^J\x1b-A\xe9r\xf4me=\x1b-L\xbb\xee",
        "Buc^Jérôme=Лю",
        id="two single-byte sets",
    ),
]
SINGLE_BYTE_SETS = [
    ("ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    ("ISO_IR 101", b"W\xb3adys\xb3aw", "Władysław"),
    ("ISO_IR 109", b"\xa1a\xbfa", "Ħaża"),
    ("ISO_IR 110", b"\xa3\xb3", "Ŗŗ"),
    ("ISO_IR 126", b"\xc4\xe9\xef\xed", "Διον"),
    ("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea", "قباني"),
    ("ISO_IR 138", b"\xf9\xf8\xe5\xef", "שרון"),
    ("ISO_IR 144", b"\xbb\xee\xda\x63\xd0", "Люкcа"),
    ("ISO_IR 148", b"\xc7a\xf0r\xfd", "Çağrı"),
    ("ISO_IR 166", b"\xb9\xd3\xe4\xbb", "นำไป"),
    ("ISO_IR 203", b"\xa4\xbd", "€œ"),
    ("ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
]


@pytest.mark.parametrize(("terms", "raw", "text"), STANDARD_EXAMPLES)
def test_an_example_of_the_standard_is_read_and_written(
    terms: list[str], raw: bytes, text: str
) -> None:
    sets = character_sets(terms)

    assert sets.decode(raw, PERSON_NAME_DELIMITERS) == text
    assert sets.encode(text, PERSON_NAME_DELIMITERS) == raw


@pytest.mark.parametrize(("term", "raw", "text"), SINGLE_BYTE_SETS)
def test_a_single_byte_set_is_read_and_written(term: str, raw: bytes, text: str) -> None:
    assert character_sets([term]).decode(raw) == text
    assert character_sets([term]).encode(text) == raw


@pytest.mark.parametrize(("term", "raw", "text"), SINGLE_BYTE_SETS)
def test_a_single_byte_set_may_be_written_with_code_extensions(
    term: str, raw: bytes, text: str
) -> None:
    sets = character_sets([term.replace("ISO_IR", "ISO 2022 IR"), "ISO 2022 IR 87"])

    assert sets.decode(raw) == text
    assert sets.encode(text) == raw


def test_a_second_value_is_announced_anew_behind_each_delimiter() -> None:
    sets = character_sets(["", "ISO 2022 IR 100"])

    assert sets.encode("é\\é^é", PERSON_NAME_DELIMITERS) == b"\x1b-A\xe9\\\x1b-A\xe9^\x1b-A\xe9"
    assert sets.encode("é^é", TEXT_DELIMITERS) == b"\x1b-A\xe9^\xe9"


def test_a_delimiter_brings_the_first_set_back() -> None:
    sets = character_sets(["ISO 2022 IR 100", "ISO 2022 IR 144"])

    assert sets.decode(b"\x1b-L\xee^\xee", PERSON_NAME_DELIMITERS) == "ю^î"


def test_a_byte_of_a_pair_is_no_delimiter() -> None:
    # 0x5C5C is a pair of JIS X 0208 and 0xD25C a character of GBK.
    assert "\\" not in character_sets(["", "ISO 2022 IR 87"]).decode(b"\x1b$B\x5c\x5c\x1b(B")
    assert len(character_sets(["GBK"]).decode(b"\xd2\x5c")) == 1


@pytest.mark.parametrize(
    "term", ["ISO-IR 100", "ISO_IR_100", "iso ir 100", "ISO IR100", "LATIN1", "ISO_IR 100 "]
)
def test_a_misspelt_term_is_understood(term: str) -> None:
    assert character_sets([term]).decode(b"\xe9") == "é"


@pytest.mark.parametrize("term", ["UTF8", "utf-8", "ISO_IR192", "ISO IR 192"])
def test_utf_8_is_understood_under_its_other_names(term: str) -> None:
    assert character_sets([term]).decode("é王".encode()) == "é王"


@pytest.mark.parametrize("terms", [[], [""], ["ISO_IR 6"], ["NO SUCH SET"]])
def test_bytes_nobody_announced_are_utf_8_or_else_latin_1(terms: list[str]) -> None:
    assert character_sets(terms).decode("Jérôme".encode()) == "Jérôme"
    assert character_sets(terms).decode("Jérôme".encode("latin-1")) == "Jérôme"


def test_a_set_that_is_announced_is_understood_without_its_escape() -> None:
    # As pydicom 3.0 writes GB 2312.
    raw = "张^小东".encode("gb2312")
    assert character_sets(["", "ISO 2022 IR 58"]).decode(raw) == "张^小东"
    assert character_sets(["", "ISO 2022 IR 87"]).decode("Müller".encode()) == "Müller"


def test_an_escape_nobody_announced_is_understood() -> None:
    assert character_sets([]).decode(b"\x1b$B;3ED\x1b(B") == "山田"


@pytest.mark.parametrize(
    ("terms", "raw"),
    [
        (["ISO_IR 192"], b"A\xff\xfeB"),
        (["GB18030"], b"A\xffB"),
        (["ISO_IR 126"], b"A\xffB"),
        (["ISO_IR 13"], b"A\xf0B"),
        (["", "ISO 2022 IR 87"], b"A\x1b$B\x7e\x7e\x1b(BB"),
        (["", "ISO 2022 IR 149"], b"A\x1b$)C\xff\x1b(BB"),
        (["", "ISO 2022 IR 87"], b"A\x1b%zB"),
        (["", "ISO 2022 IR 87"], b"A\x1b$B\x30"),
        ([], b"A\x1b"),
    ],
)
def test_what_has_no_meaning_is_replaced(terms: list[str], raw: bytes) -> None:
    text = character_sets(terms).decode(raw)

    assert text.startswith("A")
    assert "\N{REPLACEMENT CHARACTER}" in text


@pytest.mark.parametrize(
    ("requested", "texts", "chosen"),
    [
        ([], ["plain"], []),
        ([], ["é"], ["ISO_IR 192"]),
        (["ISO_IR 100"], ["plain"], ["ISO_IR 100"]),
        (["ISO_IR 100"], ["plain", "é"], ["ISO_IR 100"]),
        (["ISO_IR 100"], ["é", "王"], ["ISO_IR 192"]),
        (["", "ISO 2022 IR 87"], ["山田"], ["", "ISO 2022 IR 87"]),
        (["", "ISO 2022 IR 87"], ["é"], ["ISO_IR 192"]),
        (["GB18030"], ["é王"], ["GB18030"]),
        (["GBK"], ["홍"], ["ISO_IR 192"]),
        (["NO SUCH SET"], ["plain"], []),
        (["NO SUCH SET"], ["é"], ["ISO_IR 192"]),
    ],
)
def test_the_askers_set_is_chosen_when_it_carries_the_answer(
    requested: list[str], texts: list[str], chosen: list[str]
) -> None:
    assert choose_character_set(requested, texts) == chosen
