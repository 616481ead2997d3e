"""What one side writes the other reads, ours and pydicom's; no bytes are too strange to read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import charset

from lenticular.character_sets import PERSON_NAME_DELIMITERS, character_sets

LATIN = "".join(map(chr, range(0xA1, 0x100)))
CYRILLIC = "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩ"
KANJI = "山田太郎東京病院放射線科やまだたろうヤマダ"
KATAKANA = "ﾔﾏﾀﾞﾀﾛｳ"
JIS_X_0212 = "丂丄丅丌丒"
HANGUL = "홍길동洪吉洞김희중"
HANZI = "张小东王医院"
MOST_SETS_AT_ONCE = 4

ALPHABETS = [
    ((), ""),
    (("ISO_IR 100",), LATIN),
    (("ISO_IR 144",), CYRILLIC),
    (("ISO_IR 13",), KATAKANA),
    (("ISO_IR 192",), LATIN + KANJI + HANGUL + HANZI + "\U0001f600"),
    (("GB18030",), LATIN + KANJI + HANGUL + HANZI + "\U0001f600"),
    (("GBK",), HANZI),
    (("", "ISO 2022 IR 87"), KANJI),
    (("ISO 2022 IR 13", "ISO 2022 IR 87"), KATAKANA + KANJI),
    (("", "ISO 2022 IR 87", "ISO 2022 IR 159"), KANJI + JIS_X_0212),
    (("", "ISO 2022 IR 149"), HANGUL),
    (("", "ISO 2022 IR 58"), HANZI),
    (("ISO 2022 IR 100", "ISO 2022 IR 144"), LATIN + CYRILLIC),
    (("", "ISO 2022 IR 100", "ISO 2022 IR 87", "ISO 2022 IR 149"), LATIN + KANJI + HANGUL),
]
# pydicom leaves the escapes of GB 2312 in the text, knows no more than one code element at a time,
# and writes no text of romaji and katakana mixed.
PYDICOM_READS = [
    (terms, alphabet)
    for terms, alphabet in ALPHABETS
    if "ISO 2022 IR 58" not in terms and len(terms) < MOST_SETS_AT_ONCE
]
PYDICOM_WRITES = [(terms, alphabet) for terms, alphabet in PYDICOM_READS if alphabet != KATAKANA]
ASCII = "ABCxyz 019.-"


def texts(alphabet: str, delimiters: str = "") -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(alphabet + ASCII + delimiters), max_size=20)


@pytest.mark.parametrize(("terms", "alphabet"), ALPHABETS)
@given(data=st.data())
def test_we_read_what_we_write(terms: tuple[str, ...], alphabet: str, data: st.DataObject) -> None:
    text = data.draw(texts(alphabet, "^=\\\r\n"))
    sets = character_sets(terms)

    encoded = sets.encode(text, PERSON_NAME_DELIMITERS)

    assert sets.decode(encoded, PERSON_NAME_DELIMITERS) == text


@pytest.mark.parametrize(("terms", "alphabet"), PYDICOM_READS)
@given(data=st.data())
def test_pydicom_reads_what_we_write(
    terms: tuple[str, ...], alphabet: str, data: st.DataObject
) -> None:
    # As pydicom does of a value, one component at a time.
    text = data.draw(texts(alphabet))
    encoded = character_sets(terms).encode(text, PERSON_NAME_DELIMITERS)

    encodings = charset.convert_encodings(list(terms))
    assert charset.decode_bytes(encoded, encodings, set(PERSON_NAME_DELIMITERS)) == text


@pytest.mark.parametrize(("terms", "alphabet"), PYDICOM_WRITES)
@given(data=st.data())
def test_we_read_what_pydicom_writes(
    terms: tuple[str, ...], alphabet: str, data: st.DataObject
) -> None:
    text = data.draw(texts(alphabet))
    encoded = charset.encode_string(text, charset.convert_encodings(list(terms)))

    assert character_sets(terms).decode(encoded, PERSON_NAME_DELIMITERS) == text


@pytest.mark.parametrize("terms", [terms for terms, _ in ALPHABETS])
@given(text=st.text(max_size=20))
def test_a_set_carries_a_text_or_says_that_it_cannot(terms: tuple[str, ...], text: str) -> None:
    sets = character_sets(terms)

    if sets.can_encode(text):
        assert sets.decode(sets.encode(text)) == text


@given(
    terms=st.lists(st.sampled_from([*{term for terms, _ in ALPHABETS for term in terms}, "X"])),
    raw=st.one_of(
        st.binary(max_size=60),
        st.lists(
            st.sampled_from([b"\x1b", b"$", b"(", b")", b"B", b"\x1b$B", b"\x1b-A", b"^", b"\xe9"])
        ).map(b"".join),
    ),
)
def test_any_bytes_can_be_read(terms: list[str], raw: bytes) -> None:
    assert isinstance(character_sets(terms).decode(raw, PERSON_NAME_DELIMITERS), str)
