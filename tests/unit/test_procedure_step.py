"""Table F.7.2-1 of PS3.4, row by row, and the states of a performed procedure step."""

from typing import Any

import pytest

from lenticular.procedure_step import (
    ATTRIBUTES,
    Cause,
    State,
    Step,
    StepRefused,
    Violation,
    created,
    digest,
)

CAUSE = Cause("2026-01-05T08:15:00.000000Z", "CT1", "0" * 64)
LATER = Cause("2026-01-05T08:30:00.000000Z", "CT1", "1" * 64)
EMPTY: dict[str, Any] = {"vr": "LO"}

TYPE_1 = {
    0x00400270: "Scheduled Step Attributes Sequence",
    0x00400253: "Performed Procedure Step ID",
    0x00400241: "Performed Station AE Title",
    0x00400244: "Performed Procedure Step Start Date",
    0x00400245: "Performed Procedure Step Start Time",
    0x00400252: "Performed Procedure Step Status",
    0x00080060: "Modality",
}
TYPE_2 = {
    0x00100010: "Patient's Name",
    0x00100020: "Patient ID",
    0x00100030: "Patient's Birth Date",
    0x00100040: "Patient's Sex",
    0x00081120: "Referenced Patient Sequence",
    0x00400242: "Performed Station Name",
    0x00400243: "Performed Location",
    0x00400254: "Performed Procedure Step Description",
    0x00400255: "Performed Procedure Type Description",
    0x00081032: "Procedure Code Sequence",
    0x00400250: "Performed Procedure Step End Date",
    0x00400251: "Performed Procedure Step End Time",
    0x00200010: "Study ID",
    0x00400260: "Performed Protocol Code Sequence",
    0x00400340: "Performed Series Sequence",
}
TYPE_3 = {
    0x00100021: "Issuer of Patient ID",
    0x00100024: "Issuer of Patient ID Qualifiers Sequence",
    0x00101002: "Other Patient IDs Sequence",
    0x00380010: "Admission ID",
    0x00380014: "Issuer of Admission ID Sequence",
    0x00380060: "Service Episode ID",
    0x00380064: "Issuer of Service Episode ID Sequence",
    0x00380062: "Service Episode Description",
}
#: Whatever else there is, private attributes too, may be set.
SETTABLE = {
    0x00400252, 0x00400254, 0x00400255, 0x00081032, 0x00400250, 0x00400251, 0x00400260, 0x00400340,
}  # fmt: skip
FINAL = {0x00400250, 0x00400251, 0x00400340}


def _sequence(*items: dict[str, Any]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": list(items)}


def _text(text: str, vr: str = "LO") -> dict[str, Any]:
    return {"vr": vr, "Value": [text]}


def _attributes() -> dict[int, Any]:
    attributes: dict[int, Any] = dict.fromkeys(TYPE_2, EMPTY)
    attributes |= dict.fromkeys(TYPE_1, _text("1"))
    attributes[0x00400340] = {"vr": "SQ"}
    attributes[0x00400270] = _sequence({"0020000D": _text("1.2.3", "UI")})
    attributes[0x00400252] = _text("IN PROGRESS", "CS")
    return attributes


def _series(**other: Any) -> dict[str, Any]:
    return {"0020000E": _text("1.2.3.1", "UI"), "00181030": _text("Thorax"), **other}


def _end(state: str = "COMPLETED") -> dict[int, Any]:
    return {
        0x00400252: _text(state, "CS"),
        0x00400250: _text("20260105", "DA"),
        0x00400251: _text("083000", "TM"),
        0x00400340: _sequence(_series()),
    }


def _step() -> Step:
    return created("1.2.3.4", _attributes(), CAUSE)


def _refused(action: Any, *arguments: Any) -> tuple[Violation, tuple[int, ...]]:
    with pytest.raises(StepRefused) as caught:
        action(*arguments)
    return caught.value.violation, caught.value.tags


def test_the_table_is_the_one_of_the_standard() -> None:
    types = {1: TYPE_1, 2: TYPE_2, 3: TYPE_3}
    assert {tag: rule.created for tag, rule in ATTRIBUTES.items()} == {
        tag: number for number, of_type in types.items() for tag in of_type
    }
    assert {tag for tag, rule in ATTRIBUTES.items() if rule.settable} == SETTABLE
    assert {tag for tag, rule in ATTRIBUTES.items() if rule.final} == FINAL


@pytest.mark.parametrize("tag", TYPE_1, ids=TYPE_1.get)
def test_what_is_of_type_1_must_be_there_with_a_value(tag: int) -> None:
    attributes = _attributes()
    attributes[tag] = {"vr": attributes[tag]["vr"]}
    assert _refused(created, "1.2", attributes, CAUSE) == (Violation.EMPTY, (tag,))
    attributes[tag] = {**attributes[tag], "Value": [None]}
    if tag != 0x00400270:
        assert _refused(created, "1.2", attributes, CAUSE) == (Violation.EMPTY, (tag,))
    del attributes[tag]
    assert _refused(created, "1.2", attributes, CAUSE) == (Violation.MISSING, (tag,))


@pytest.mark.parametrize("tag", TYPE_2, ids=TYPE_2.get)
def test_what_is_of_type_2_and_left_out_is_taken_as_empty(tag: int) -> None:
    attributes = _attributes()
    del attributes[tag]
    step = created("1.2", attributes, CAUSE)
    assert "Value" not in step.elements[tag]
    assert step.elements[tag]["vr"] != "UN"


@pytest.mark.parametrize("tag", [*TYPE_1, *TYPE_2, *TYPE_3])
def test_an_n_set_changes_what_it_may_and_repeats_what_it_may_not(tag: int) -> None:
    step = _step()
    assert step.modified({tag: step.elements.get(tag, EMPTY)}, LATER).number == 2
    if tag == 0x00400270:
        new = _sequence({"0020000D": _text("1.2.4", "UI")})
    elif tag in (0x00400252, 0x00400340):
        return
    else:
        new = _text("NEW")
    if tag in SETTABLE:
        assert step.modified({tag: new}, LATER).elements[tag] == new
    else:
        assert _refused(step.modified, {tag: new}, LATER) == (Violation.INVALID, (tag,))


@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED"])
def test_a_step_ends_and_then_nothing_changes_it(state: str) -> None:
    over = _step().modified(_end(state), LATER)
    assert over.state is State(state)
    assert over.is_final
    assert over.ended == "20260105T083000"
    for modifications in ({}, _end(state), {0x00400254: _text("late")}):
        assert _refused(over.modified, modifications, LATER) == (Violation.FINAL, (0x00400252,))


@pytest.mark.parametrize("tag", FINAL)
def test_a_step_does_not_end_without_what_its_end_needs(tag: int) -> None:
    end = _end()
    del end[tag]
    assert _refused(_step().modified, end, LATER) == (Violation.EMPTY, (tag,))
    # An earlier N-SET may have brought it.
    earlier = _step().modified({tag: _end()[tag]}, LATER)
    assert earlier.modified(end, LATER).is_final


@pytest.mark.parametrize(
    ("state", "violation"),
    [
        ({"vr": "CS"}, Violation.EMPTY),
        ({"vr": "CS", "Value": [None]}, Violation.EMPTY),
        (_text("DONE", "CS"), Violation.INVALID),
        (_text("completed", "CS"), Violation.INVALID),
    ],
)
def test_a_state_that_there_is_none_of_is_refused(
    state: dict[str, Any], violation: Violation
) -> None:
    assert _refused(_step().modified, {0x00400252: state}, LATER) == (violation, (0x00400252,))


@pytest.mark.parametrize("state", ["COMPLETED", "DISCONTINUED", "DONE"])
def test_a_step_begins_in_progress(state: str) -> None:
    attributes = {**_attributes(), 0x00400252: _text(state, "CS")}
    assert _refused(created, "1.2", attributes, CAUSE) == (Violation.INVALID, (0x00400252,))


@pytest.mark.parametrize(
    ("series", "violation", "tag"),
    [
        ({"00181030": _text("Thorax")}, Violation.MISSING, 0x0020000E),
        ({"0020000E": _text("1.2", "UI")}, Violation.MISSING, 0x00181030),
        (_series(**{"00181030": EMPTY}), Violation.EMPTY, 0x00181030),
        (_series(**{"0020000E": _text("../..", "UI")}), Violation.INVALID, 0x0020000E),
        (
            _series(**{"00081140": _sequence({"00081150": _text("1.2", "UI")})}),
            Violation.MISSING,
            0x00081155,
        ),
        (
            _series(
                **{
                    "00400220": _sequence(
                        {"00081150": _text("1.2", "UI"), "00081155": _text("1..2", "UI")}
                    )
                }
            ),
            Violation.INVALID,
            0x00081155,
        ),
    ],
)
def test_performed_series_and_references_say_which(
    series: dict[str, Any], violation: Violation, tag: int
) -> None:
    performed = {0x00400340: _sequence(series)}
    assert _refused(_step().modified, performed, LATER) == (violation, (tag,))
    assert _refused(created, "1.2", {**_attributes(), **performed}, CAUSE) == (violation, (tag,))


def test_a_sequence_that_is_written_as_none_is_refused() -> None:
    attributes = {**_attributes(), 0x00400270: _text("1.2.3", "UI")}
    assert _refused(created, "1.2", attributes, CAUSE) == (Violation.INVALID, (0x00400270,))


def test_a_sequence_replaces_the_one_before_and_the_character_set_stays() -> None:
    first = _step().modified({0x00400340: _sequence(_series(), _series())}, LATER)
    second = first.modified(
        {0x00400340: _sequence(_series()), 0x00080005: _text("ISO_IR 144", "CS")}, LATER
    )
    assert len(second.elements[0x00400340]["Value"]) == 1
    assert 0x00080005 not in second.elements


def test_what_was_announced_is_counted_once() -> None:
    def references(*uids: str) -> dict[str, Any]:
        return _sequence(
            *({"00081150": _text("1.2", "UI"), "00081155": _text(uid, "UI")} for uid in uids)
        )

    performed = [
        _series(**{"00081140": references("1.1", "1.2"), "00400220": references("1.3")}),
        _series(**{"00081140": references("1.2", "1.4"), "00400220": {"vr": "SQ"}}),
    ]
    step = _step().modified({0x00400340: _sequence(*performed)}, LATER)
    assert step.announced == {"1.1", "1.2", "1.3", "1.4"}
    assert _step().announced == frozenset()


def test_a_record_is_read_as_it_was_written() -> None:
    attributes = {
        **_attributes(),
        0x00100010: {"vr": "PN", "Value": [{"Alphabetic": "Müller^Eva", "Ideographic": "山田"}]},
        0x00091001: {"vr": "UN", "InlineBinary": "AQI="},
    }
    step = created("1.2.3.4", attributes, CAUSE)
    assert Step.from_json(step.to_json()) == step


def test_the_digest_of_a_request_is_of_what_it_says() -> None:
    attributes = _attributes()
    assert digest(attributes) == digest(dict(reversed(attributes.items())))
    assert digest(attributes) != digest({**attributes, 0x00400242: _text("CT 2")})


def test_a_refusal_names_attributes_and_no_value() -> None:
    refused = StepRefused(Violation.MISSING, 0x00400241, 0x00080060)
    assert str(refused) == "missing: (0040,0241), (0008,0060)"
