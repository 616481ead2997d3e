"""The DICOM Conformance Statement says what the tables of the code say, in every place."""

import re

from infra.conformance import CHARACTER_SETS, FILE, statement
from lenticular.character_sets import character_sets

#: What only a set with this repertoire, or Unicode, can write.
SAMPLES = {
    "ASCII": "A",
    "Latin alphabet No. 1": "ã",
    "Latin alphabet No. 2": "ř",
    "Latin alphabet No. 3": "ħ",
    "Latin alphabet No. 4": "ķ",
    "Latin alphabet No. 5": "ğ",
    "Latin alphabet No. 9": "€",
    "Cyrillic": "Ж",
    "Arabic": "ق",
    "Greek": "Ω",
    "Hebrew": "ש",
    "Thai": "ก",
    "Japanese, JIS X 0201": "ヤ".translate({0x30E4: 0xFF94}),
    "Japanese, JIS X 0208": "山",
    "Japanese, JIS X 0212": "丂",
    "Korean, KS X 1001": "김",
    "Simplified Chinese, GB 2312": "张",
    "Unicode in UTF-8": "Ж山€",
    "Chinese, GB 18030": "张€",
    "Chinese, GBK": "張",
}


def test_the_statement_is_what_the_code_writes() -> None:
    assert FILE.read_text("utf-8") == statement(), "run `make guide`"


def test_every_character_set_it_names_is_one_that_is_read_and_written() -> None:
    assert SAMPLES.keys() == {repertoire for _, repertoire in CHARACTER_SETS}
    for terms, repertoire in CHARACTER_SETS:
        sample = SAMPLES[repertoire]
        for term in terms.replace(" (default)", "").split(", "):
            # What is "ISO 2022" stands as a second value, as an extension of the first.
            sets = character_sets(("", term) if term.startswith("ISO 2022") else (term,))
            assert sets.can_encode(sample), term
            assert sets.decode(sets.encode(sample)) == sample, term


def test_its_sections_are_those_of_the_standard_in_their_order() -> None:
    """PS3.2 annex N and section 6: overview, contents, introduction, model, services, ..."""
    assert re.findall(r"^## (.*)$", statement(), re.MULTILINE) == [
        "1. Overview",
        "2. Table of Contents",
        "3. Introduction",
        "4. Implementation Model",
        "5. Service and Interoperability Description",
        "6. Configuration",
        "7. Network Communication Details",
        "8. Security",
        "Annexes",
    ]
