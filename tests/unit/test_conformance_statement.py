"""The DICOM Conformance Statement says what the tables of the code say, in every place."""

import re
from enum import IntEnum
from typing import Any

import pytest

from infra.conformance import FILE, statement
from infra.conformance_tables import CHARACTER_SETS
from lenticular import audit
from lenticular.audit import Code
from lenticular.character_sets import character_sets
from lenticular.matching import compile_key
from lenticular.status import FindStatus, MoveStatus, StoreStatus

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


def statuses(table: str) -> dict[str, str]:
    """Return what a table of statuses says of each, by its number."""
    [rows] = re.findall(rf"^\*\*Table {table}\. .*\n\n((?:\|.*\n)+)", statement(), re.MULTILINE)
    return dict(re.findall(r"^\| ([0-9A-F]{4}) \| [^|]* \| ([^|]*) \|$", rows, re.MULTILINE))


def test_a_number_means_in_each_service_what_it_means_there() -> None:
    """A700, A702, A900, C001, FE00 and FF00 are several services', and differ."""
    store, find, move = (statuses(table) for table in ("5-2", "5-5", "5-6"))
    assert store["A700"].startswith("The instance could not be kept")
    assert find["A700"] == "The index cannot be read, or more match than may be answered"
    assert store["A702"] == "Internal error; the instance is not kept"
    assert move["A702"] == "All failed, or the index broke off"
    assert store["A900"].startswith("SOP class or instance UID of command and data set differ")
    assert find["A900"] == move["A900"] == "The identifier breaks a rule of its model"
    assert (find["FF00"], move["FF00"]) == ("A match", "Sub-operations go on")


@pytest.mark.parametrize(
    ("table", "service"), [("5-2", StoreStatus), ("5-5", FindStatus), ("5-6", MoveStatus)]
)
def test_every_status_of_a_service_is_explained(table: str, service: type[IntEnum]) -> None:
    explained = statuses(table)
    assert all(explained[f"{status.value:04X}"] for status in service)


#: A key of each kind of matching, a value that it matches, and one that it does not.
KEYS: dict[tuple[str, str], tuple[Any, Any, Any]] = {
    ("DA", "range"): ("20240101-20240131", "20240115", "20240215"),
    ("TM", "range"): ("1000-1200", "110000", "130000"),
    ("DT", "range"): ("20240101-20240131", "20240115110000", "20240215110000"),
    ("UI", "list of UID"): (["1.2", "1.3"], "1.3", "1.4"),
    ("IS", "single value"): ("7", "7", "8"),
    ("PN", "wildcard"): ({"Alphabetic": "A*"}, {"Alphabetic": "AB"}, {"Alphabetic": "B"}),
    ("SQ", "sequence"): (
        {"00080100": {"vr": "SH", "Value": ["A*"]}},
        {"00080100": {"vr": "SH", "Value": ["AB"]}},
        {"00080100": {"vr": "SH", "Value": ["B"]}},
    ),
}

OTHERWISE = {"wildcard": ("A?", "AB", "B"), "single value": ("7", "7", "8"), "": ("7", "7", "8")}


def test_every_key_is_matched_as_its_row_says() -> None:
    _, _, text = statement().partition("**Table 5-4.")
    [rows, *_] = re.findall(r"((?:^\|.*\n)+)", text, re.MULTILINE)
    listed = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()[2:]]
    assert len(listed) > 100
    for keyword, tag, vr, _, kind, _ in listed:
        key, fits, other = KEYS[vr, kind] if (vr, kind) in KEYS else OTHERWISE[kind]
        values = key if isinstance(key, list) else [key]
        matches = compile_key(vr, int(tag[1:-1].replace(",", ""), 16), {"vr": vr, "Value": values})
        assert (matches([fits]), matches([other])) == (True, not kind), keyword


def test_every_audit_message_is_named() -> None:
    [named] = re.findall(r"\*\*Audit trail\*\*[^)]*\)\. (.*?) messages", statement(), re.DOTALL)
    events = {
        code.meaning
        for code in vars(audit).values()
        if isinstance(code, Code) and "110100" <= code.value <= "110113"
    }
    assert len(events) == 9
    assert {re.sub(r"\s", " ", each) for each in re.split(r",\s|\sand\s", named)} == events


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
