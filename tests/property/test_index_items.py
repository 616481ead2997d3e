"""The index must not depend on the order, number or grouping of the events that made it."""

from hypothesis import given
from hypothesis import strategies as st

from lenticular.archive import InstanceKey
from lenticular.attributes import Level
from lenticular.index_items import (
    PATIENT_TAGS,
    Copy,
    Registers,
    elements_of,
    from_dynamodb,
    members_of,
    study_items,
    to_dynamodb,
)
from lenticular.index_keys import study_moment

STUDY = "1.2.3"
TAGS = ("00100010", "00100020", "00081030", "00080060")


def _element(text: str) -> dict[str, object]:
    return {"vr": "LO", "Value": [text]} if text else {"vr": "LO"}


elements = st.dictionaries(st.sampled_from(TAGS), st.sampled_from(["", "A", "B"]).map(_element))
stamps = st.integers(0, 50).map(lambda number: f"2026-01-01T00:00:00.{number:06}Z/{'0' * 16}")
registers = st.builds(Registers.of, elements, stamps)


@st.composite
def copies(draw: st.DrawFn) -> Copy:
    """One copy of one of a few instances in a few series, with a content of its own."""
    sha256 = draw(st.text("0123456789abcdef", min_size=64, max_size=64))
    return Copy(
        key=InstanceKey(
            STUDY, draw(st.sampled_from(["1.2.3.1", "1.2.3.2"])),
            draw(st.sampled_from(["1.1", "1.2", "1.3"])), sha256,
        ),
        size=draw(st.integers(0, 1 << 40)),
        received=f"2026-01-01T00:00:00.{draw(st.integers(0, 9)):06}Z",
        sop_class_uid=draw(st.sampled_from(["1.2.840.1", "1.2.840.2"])),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        attributes={
            level: {
                tag: element
                for tag, element in draw(elements).items()
                if (tag in PATIENT_TAGS) is (level is Level.PATIENT)
            }
            for level in Level
        },
    )  # fmt: skip


@given(registers, registers, registers, st.booleans())
def test_merging_registers_is_associative_and_idempotent(
    a: Registers, b: Registers, c: Registers, newest: bool
) -> None:
    left = a.merged(b, newest=newest).merged(c, newest=newest)
    right = a.merged(b.merged(c, newest=newest), newest=newest)
    assert left == right
    assert left.merged(b, newest=newest) == left


@given(
    st.lists(copies(), max_size=12, unique_by=lambda copy: copy.key.sha256),
    st.randoms(),
    st.booleans(),
)
def test_items_of_a_study_do_not_depend_on_order_or_repetition(
    stored: list[Copy], random: object, newest: bool
) -> None:
    shuffled = stored + stored[: len(stored) // 2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def by_key(items: list[dict[str, object]]) -> dict[object, dict[str, object]]:
        return {item["sk"]: item for item in items}

    once = by_key(study_items(stored, newest=newest))  # type: ignore[arg-type]
    again = by_key(study_items(shuffled, newest=newest))  # type: ignore[arg-type]
    assert once == again


@given(st.lists(copies(), min_size=1, max_size=12, unique_by=lambda copy: copy.key.sha256))
def test_counts_are_those_of_distinct_instances(stored: list[Copy]) -> None:
    items = {item["sk"]: item for item in study_items(stored, newest=True)}
    instances = {(copy.key.series_instance_uid, copy.key.sop_instance_uid) for copy in stored}
    assert items["STUDY"]["instances"] == len(instances)
    assert items["STUDY"]["series"] == len({series for series, _ in instances})
    for series in {series for series, _ in instances}:
        expected = sum(1 for each, _ in instances if each == series)
        assert items[f"SERIES#{series}"]["instances"] == expected
        tallies = [item for sk, item in items.items() if str(sk).startswith(f"TALLY#{series}#")]
        assert len([member for item in tallies for member in members_of(item)]) == expected


@given(st.lists(copies(), min_size=1, max_size=12, unique_by=lambda copy: copy.key.sha256))
def test_every_copy_is_shown_or_listed_and_listed_only_beside_another(stored: list[Copy]) -> None:
    shown, listed = (
        [str(item["object_key"]) for item in study_items(stored, newest=False)
         if str(item["sk"]).startswith(prefix)]
        for prefix in ("INSTANCE#", "COPY#")
    )  # fmt: skip
    assert {*shown, *listed} == {str(copy.key) for copy in stored}
    instance_of = [key.rpartition("/")[0] for key in listed]
    assert len(set(listed)) == len(listed)
    assert all(instance_of.count(each) > 1 for each in instance_of)


@given(copies())
def test_an_item_survives_the_way_into_dynamodb_and_back(copy: Copy) -> None:
    for item in study_items([copy], newest=True):
        without_empty = {name: value for name, value in item.items() if value != frozenset()}
        assert from_dynamodb(to_dynamodb(item)) == without_empty


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_date_and_time_has_a_moment_that_can_be_a_key(date: str, time: str) -> None:
    month, moment = study_moment(
        {"00080020": {"vr": "DA", "Value": [date]}, "00080030": {"vr": "TM", "Value": [time]}}
    )
    assert month
    assert len(moment) == len("20260101T000000")


@given(st.lists(copies(), min_size=1, max_size=6, unique_by=lambda copy: copy.stamp))
def test_a_patient_is_never_made_of_two(stored: list[Copy]) -> None:
    (item,) = [item for item in study_items(stored, newest=True) if item["sk"] == "STUDY"]
    shown = {tag: each for tag, each in elements_of(item).items() if tag in PATIENT_TAGS}
    said = [
        {
            tag: each
            for tag, each in copy.attributes[Level.PATIENT].items()
            if tag in PATIENT_TAGS and each.get("Value")
        }
        for copy in stored
    ]
    assert shown in [*said, {}]
