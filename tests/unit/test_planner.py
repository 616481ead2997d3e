"""The planner takes the most selective way, and one that leaves out nothing that matches."""

import pytest

from lenticular.dicom_json import JsonElement
from lenticular.planner import (
    ByDate,
    ByEntityUID,
    ByNamePrefix,
    ByUID,
    ByValue,
    EveryStudy,
    Plan,
    explain,
    plan,
)
from lenticular.query import Model, read_query

LEVEL: dict[int, JsonElement] = {0x00080052: {"vr": "CS", "Value": ["STUDY"]}}


def _plan(*keys: tuple[int, str, object]) -> Plan:
    elements: dict[int, JsonElement] = dict(LEVEL)
    for tag, vr, value in keys:
        elements[tag] = {"vr": vr, "Value": [value]}
    return plan(read_query(Model.STUDY_ROOT, elements, relational=True))


def _name(alphabetic: str) -> tuple[int, str, object]:
    return 0x00100010, "PN", {"Alphabetic": alphabetic}


STUDY_UID = (0x0020000D, "UI", "1.2.3")
SERIES_UID = (0x0020000E, "UI", "1.2.3.4")
ACCESSION = (0x00080050, "SH", "A1")
PATIENT_ID = (0x00100020, "LO", "P1")
DATE = (0x00080020, "DA", "20260115-20260302")
R13 = range(1, 13)


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ([STUDY_UID, SERIES_UID, ACCESSION], ByUID(("1.2.3",))),
        ([SERIES_UID, ACCESSION], ByEntityUID(("1.2.3.4",))),
        ([ACCESSION, PATIENT_ID], ByValue("by-accession", "accession_number", ("A1",))),
        ([PATIENT_ID, _name("DOE*")], ByValue("by-patient", "patient_id", ("P1",))),
        ([_name("Doe^J*"), DATE], ByNamePrefix("doe^j")),
        ([DATE], ByDate("20260115", "20260302")),
        ([_name("Müller*")], ByNamePrefix("muller")),
        ([_name("Ива*")], ByNamePrefix("ива")),
        ([(0x00100010, "PN", {"Alphabetic": "Yama*", "Ideographic": "山*"})], ByNamePrefix("yama")),
        ([(0x00100010, "PN", {"Alphabetic": "Yama*", "Ideographic": "*"})], ByNamePrefix("yama")),
        ([], EveryStudy()),
    ],
)
def test_the_most_selective_key_leads(keys: list[tuple[int, str, object]], chosen: Plan) -> None:
    assert _plan(*keys) == chosen


@pytest.mark.parametrize(
    "key",
    [
        (0x00100020, "LO", "P*"),
        (0x00100020, "LO", '""'),
        (0x00100020, "LO", "P" * 201),
        _name('""'),
        _name("山田*"),
        _name("*"),
        _name("^"),
        (0x00100010, "PN", {"Ideographic": "山田"}),
    ],
)
def test_a_key_that_no_index_answers_in_full_reads_every_study(
    key: tuple[int, str, object],
) -> None:
    assert _plan(key) == EveryStudy()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("*DOE", ("doe",)),
        ("*Möl?er^*K* ", ("mol", "er", "k")),
        ("?^", ()),
        ("*^John ", ("^john",)),
        ("*a*bb*ccc*dddd*eeeee", ("eeeee", "dddd", "ccc", "bb")),
        ("*山*", ()),
        ("*DOE=*", ()),
    ],
)
def test_of_a_name_with_a_wildcard_first_its_longest_parts_lead(
    name: str, parts: tuple[str, ...]
) -> None:
    assert _plan(_name(name)) == EveryStudy(parts)


@pytest.mark.parametrize(
    ("key", "first", "last", "months"),
    [
        ("20260105", "20260105", "20260105", ["2026-01"]),
        ("2026.01.05", "20260105", "20260105", ["2026-01"]),
        ("20251130-20260102", "20251130", "20260102", ["2025-11", "2025-12", "2026-01"]),
        ("202511-2026", "202511", "2026", ["2025-11", "2025-12", *(f"2026-{m:02}" for m in R13)]),
        ("20260101-", "20260101", "", []),
        ("-20260101", "", "20260101", []),
        ("-", "", "", []),
        ("20000101-20260101", "20000101", "20260101", []),
    ],
)
def test_a_range_of_dates_is_read_month_by_month(
    key: str, first: str, last: str, months: list[str]
) -> None:
    chosen = _plan((0x00080020, "DA", key))
    assert chosen == ByDate(first, last)
    assert isinstance(chosen, ByDate)
    # Those of a long or an open range are looked up in the list of months.
    assert chosen.months() == (months if len(months) <= 12 else [])


def test_a_time_narrows_a_day_and_nothing_else() -> None:
    time = (0x00080030, "TM", "10-1130")
    assert _plan((0x00080020, "DA", "20260105"), time) == ByDate("20260105T10", "20260105T1130")
    assert _plan((0x00080020, "DA", "20260105-20260106"), time) == ByDate("20260105", "20260106")


def test_explaining_says_which_way_and_by_what() -> None:
    keys: dict[int, JsonElement] = {
        0x00080052: {"vr": "CS", "Value": ["IMAGE"]},
        0x0020000D: {"vr": "UI", "Value": ["1.2.3"]},
        0x0020000E: {"vr": "UI", "Value": ["1.2.3.4"]},
    }
    explained = explain(read_query(Model.STUDY_ROOT, keys, relational=False))
    assert explained == {
        "plan": "study-uid",
        "by": {"study_instance_uids": ("1.2.3",)},
        "then": [
            "1 by UID, of the series of each study that matches",
            "the instances of each series that matches",
        ],
    }


def test_a_key_below_the_level_leads_nowhere() -> None:
    keys: dict[int, JsonElement] = {
        0x00080052: {"vr": "CS", "Value": ["PATIENT"]},
        0x00080050: {"vr": "SH", "Value": ["A1"]},
        0x00080020: {"vr": "DA", "Value": ["20260115"]},
    }
    assert plan(read_query(Model.PATIENT_ROOT, keys, relational=False)) == EveryStudy()
    relational = plan(read_query(Model.PATIENT_ROOT, keys, relational=True))
    assert relational == ByValue("by-accession", "accession_number", ("A1",))


def test_what_is_no_uid_reads_nothing() -> None:
    assert _plan((0x0020000D, "UI", "1" * 3000)) == ByUID(())
