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


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ([STUDY_UID, SERIES_UID, ACCESSION], ByUID(("1.2.3",))),
        ([SERIES_UID, ACCESSION], ByEntityUID(("1.2.3.4",))),
        ([ACCESSION, PATIENT_ID], ByValue("by-accession", "accession_number", ("A1",))),
        ([PATIENT_ID, _name("DOE*")], ByValue("by-patient", "patient_id", ("P1",))),
        ([_name("Doe^J*"), DATE], ByNamePrefix("doe^j")),
        ([DATE], ByDate(("2026-01", "2026-02", "2026-03"), "20260115", "20260302")),
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
        _name("*DOE"),
        _name('""'),
        _name("Müller*"),
        (0x00080020, "DA", "20260101-"),
        (0x00080020, "DA", "20000101-20260101"),
    ],
)
def test_a_key_that_no_index_answers_in_full_reads_every_study(
    key: tuple[int, str, object],
) -> None:
    assert _plan(key) == EveryStudy()


def test_a_range_that_ends_before_it_begins_reads_nothing() -> None:
    assert _plan((0x00080020, "DA", "20260520-20260510")) == ByDate((), "20260520", "20260510")


def test_what_is_no_uid_reads_nothing() -> None:
    assert _plan((0x0020000D, "UI", "1" * 3000)) == ByUID(())
