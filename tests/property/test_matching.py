"""The matcher agrees with a reference that is slow, naive and written from the standard alone."""

import unicodedata
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lenticular.errors import InvalidIdentifier
from lenticular.matching import compile_date_and_time, compile_key, fold_person_name

TAG = 0x00100020


def matches(vr: str, key: list[object], values: Sequence[object]) -> bool:
    return compile_key(vr, TAG, {"vr": vr, "Value": key})(values)


# The reference: wildcards by the definition, one character at a time.


def reference_fits(pattern: str, text: str) -> bool:
    reachable = {0}
    for symbol in pattern:
        if symbol == "*":
            reachable = set(range(min(reachable, default=len(text) + 1), len(text) + 1))
        else:
            reachable = {
                place + 1
                for place in reachable
                if place < len(text) and symbol in ("?", text[place])
            }
    return len(text) in reachable


patterns = st.text("ab*?^", min_size=1, max_size=12)
texts = st.text("ab^", min_size=1, max_size=16)


@given(pattern=patterns, values=st.lists(texts, max_size=3))
@example(pattern="*a*ab", values=["aab"])
def test_wildcards_fit_as_the_reference_has_it(pattern: str, values: list[str]) -> None:
    expected = any(reference_fits(pattern, value) for value in values)
    if set(pattern) == {"*"}:
        expected = True

    assert matches("LO", [pattern], values) is expected


# The reference for names: each component folded by Unicode's own properties, then as above.


def reference_fold(name: str) -> str:
    marks_gone = "".join(
        character
        for character in unicodedata.normalize("NFD", name.casefold())
        if unicodedata.category(character) != "Mn"
    )
    components = [component.strip(" ") for component in marks_gone.split("^")]
    return "^".join(components).rstrip("^")


name_texts = st.text("aAéÉüß^^ñÑ", min_size=1, max_size=12)
name_patterns = st.text("aAéÉüß^^*?", min_size=1, max_size=10)


@given(pattern=name_patterns, name=name_texts)
def test_names_fit_as_the_reference_has_it(pattern: str, name: str) -> None:
    assume(set(pattern) - set("*^"))  # a key of nothing else has its own tests
    folded_name, folded_pattern = reference_fold(name), reference_fold(pattern)
    missing = folded_pattern.count("^") - folded_name.count("^")
    expected = bool(folded_name) and reference_fits(folded_pattern, folded_name + "^" * missing)

    assert matches("PN", [{"Alphabetic": pattern}], [{"Alphabetic": name}]) is expected


@given(name=st.text(max_size=20), length=st.integers(0, 20))
def test_a_folded_name_begins_with_its_folded_beginning(name: str, length: int) -> None:
    # An index of names relies on it. Compositions across the cut aside, which only marks and
    # jamo make.
    beginning, rest = name[:length].rstrip("^ "), name[length : length + 1]
    assume(not unicodedata.combining(rest or "x"))
    assume(unicodedata.normalize("NFKC", name).startswith(unicodedata.normalize("NFKC", beginning)))

    assert fold_person_name(name).startswith(fold_person_name(beginning))


@given(name=st.text(max_size=20))
def test_a_name_without_wildcards_matches_itself_in_any_case(name: str) -> None:
    assume(not set("*?=") & set(name) and fold_person_name(name))
    assume('"' not in name)

    key, value = {"Ideographic": name}, {"Ideographic": name}

    assert matches("PN", [key], [value])


# The reference for moments: spans of datetimes.

MICROSECOND = timedelta(microseconds=1)
PRECISIONS = ["%Y", "%Y%m", "%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"]
OFFSETS = [None, 0, 60, -300, 330, 840, -720]


def start_of(moment: datetime, precision: int) -> datetime:
    fields = [moment.month, moment.day, moment.hour, moment.minute, moment.second]
    firsts = [1, 1, 0, 0, 0]
    if precision > len(fields):
        return moment
    month, day, hour, minute, second = fields[:precision] + firsts[precision:]
    return datetime(moment.year, month, day, hour, minute, second)  # noqa: DTZ001


def end_of(moment: datetime, precision: int) -> datetime:
    start = start_of(moment, precision)
    if precision == 0:
        return start.replace(year=start.year + 1) - MICROSECOND
    if precision == 1:
        year, month = divmod(start.year * 12 + start.month, 12)
        return start.replace(year=year, month=month + 1) - MICROSECOND
    unit = ["days", "hours", "minutes", "seconds"][precision - 2]
    return start + timedelta(**{unit: 1}) - MICROSECOND


moments = st.tuples(
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
    st.integers(0, len(PRECISIONS) - 1),
    st.sampled_from(OFFSETS),
)
Moment = tuple[datetime, int, int | None]


def written(moment: Moment) -> str:
    clock, precision, offset = moment
    suffix = ""
    if offset is not None:
        sign = "-" if offset < 0 else "+"
        suffix = f"{sign}{abs(offset) // 60:02}{abs(offset) % 60:02}"
    return clock.strftime(PRECISIONS[precision]) + suffix


def is_before(one: datetime, its_offset: int | None, other: datetime, others: int | None) -> bool:
    if its_offset is None or others is None:
        return one < other
    zones = [timezone(timedelta(minutes=offset)) for offset in (its_offset, others)]
    return one.replace(tzinfo=zones[0]).astimezone(UTC) < other.replace(tzinfo=zones[1])


def reference_lies_between(value: Moment, first: Moment | None, last: Moment | None) -> bool:
    start = start_of(value[0], value[1])
    if first and is_before(start, value[2], start_of(first[0], first[1]), first[2]):
        return False
    return not (last and is_before(end_of(last[0], last[1]), last[2], start, value[2]))


@given(value=moments, first=st.none() | moments, last=st.none() | moments)
def test_moments_lie_in_ranges_as_the_reference_has_it(
    value: Moment, first: Moment | None, last: Moment | None
) -> None:
    assume(first or last)
    key = (written(first) if first else "") + "-" + (written(last) if last else "")

    expected = reference_lies_between(value, first, last)
    assert matches("DT", [key], [written(value)]) is expected


@given(value=moments, key=moments)
def test_a_moment_matches_all_of_its_span(value: Moment, key: Moment) -> None:
    assert matches("DT", [written(key)], [written(value)]) is reference_lies_between(
        value, key, key
    )


@given(value=st.dates(), first=st.none() | st.dates(), last=st.none() | st.dates())
def test_dates_lie_in_ranges_as_the_reference_has_it(
    value: date, first: date | None, last: date | None
) -> None:
    def digits(day: object) -> str:
        return "" if day is None else str(day).replace("-", "")

    expected = (first is None or first <= value) and (last is None or value <= last)

    assert matches("DA", [f"{digits(first)}-{digits(last)}"], [digits(value)]) is expected
    if first:
        assert matches("DA", [digits(first)], [digits(value)]) is (first == value)


@given(
    value=moments,
    first=moments,
    last=moments,
    time_precision=st.integers(3, len(PRECISIONS) - 1),
)
def test_combined_ranges_are_ranges_of_moments(
    value: Moment, first: Moment, last: Moment, time_precision: int
) -> None:
    def date_and_time(moment: datetime) -> tuple[str, str]:
        text = moment.strftime(PRECISIONS[time_precision])
        return text[:8], text[8:]

    (first_date, first_time), (last_date, last_time) = map(date_and_time, (first[0], last[0]))
    matcher = compile_date_and_time(
        0x00080020,
        {"Value": [f"{first_date}-{last_date}"]},
        {"Value": [f"{first_time}-{last_time}"]},
    )

    expected = reference_lies_between(
        (value[0], 6, None), (first[0], time_precision, None), (last[0], time_precision, None)
    )
    day, clock = value[0].strftime("%Y%m%d"), value[0].strftime("%H%M%S.%f")
    assert matcher([day], [clock]) is expected


@pytest.mark.parametrize("vr", ["IS", "DS"])
@given(
    key=st.decimals(-999, 999, places=2), value=st.decimals(-999, 999, places=1), plus=st.booleans()
)
def test_number_strings_match_as_numbers(vr: str, key: object, value: object, plus: bool) -> None:
    text = f"+{key}" if plus and not str(key).startswith("-") else str(key)

    assert matches(vr, [text], [str(value)]) is (key == value)
    assert matches(vr, [text], [f"{key}0"])


@pytest.mark.parametrize("vr", ["LO", "PN", "DA", "TM", "DT", "UI", "IS", "DS", "US", "SQ", "AT"])
@given(
    key=st.lists(st.text(max_size=12) | st.none(), max_size=3),
    values=st.lists(st.text(max_size=12) | st.none(), max_size=3),
)
def test_any_key_is_answered_or_refused(vr: str, key: list[object], values: list[object]) -> None:
    try:
        assert matches(vr, key, values) in {True, False}
    except InvalidIdentifier:
        assert vr in {"DA", "TM", "DT", "IS", "DS", "US"}
