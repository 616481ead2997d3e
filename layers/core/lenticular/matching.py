"""Whether an attribute matches a key of a query. PS3.4 C.2.2.2, all of it.

A key is compiled once, by the VR of its attribute, to a matcher that is asked for each entity:

    key                         matches an attribute when
    empty, or only `*`          always, also when it is empty or missing     C.2.2.2.3, C.2.2.2.4
    two double quotes           it is empty or missing                       C.2.2.2.7
    one value                   one of its values is that value              C.2.2.2.1
    several values              one of its values is one of them             C.2.2.2.2, C.2.2.2.8
    text with `*` or `?`        one of its values fits                       C.2.2.2.4
    dates, times with `-`       one of its values lies between, ends included   C.2.2.2.5
    a sequence of one item      one item matches every key of that item      C.2.2.2.6

An attribute without a value matches nothing but the first two. Keys and values are in the DICOM
JSON model, so padding is gone. Comparison is by meaning where a VR has one: "1.50" is 1.5, "10:30"
is every second of that minute, "2024.05.17" (as ACR-NEMA wrote it) is a date. Person names are
compared without case and accents, as C.2.2.2.1 allows; all other text exactly.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, TypeAlias

from .attributes import BY_TAG
from .dicom_json import values_of
from .errors import InvalidIdentifier

#: Tells whether the values of an attribute ("Value" in the JSON model) match a key.
Matcher: TypeAlias = Callable[[Sequence[Any]], bool]
_ValueMatcher: TypeAlias = Callable[[Any], bool]

#: A date and the time that makes a moment of it, for keys that are matched as one (C.2.2.2.5).
TIME_OF_DATE: Final[Mapping[int, int]] = {
    0x00080020: 0x00080030,  # Study
    0x00080021: 0x00080031,  # Series
    0x00080022: 0x00080032,  # Acquisition
    0x00080023: 0x00080033,  # Content
    0x00100030: 0x00100032,  # Patient's Birth
    0x00400244: 0x00400245,  # Performed Procedure Step Start
}

# They say how to read the other keys and are none themselves (C.4.1.1.3.1): Specific Character
# Set, Query/Retrieve Level, Query/Retrieve View, Timezone Offset From UTC.
_QUALIFIERS: Final = frozenset({0x00080005, 0x00080052, 0x00080053, 0x00080201})

_EMPTY_VALUE: Final = '""'
_WILDCARDS: Final = re.compile(r"([*?])")
# C.2.2.2.4. Not UR: a question mark is part of many a URL.
_WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_NUMBER_VRS: Final = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def kind_of_matching(vr: str, tag: int) -> str:
    """Name what an attribute is matched by beside the kinds that all have; "" where it is not."""
    if tag in _QUALIFIERS:
        return ""
    if vr in _KINDS:
        return "range"
    if vr in _WILDCARD_VRS:
        return "wildcard"
    return {"UI": "list of UID", "SQ": "sequence"}.get(vr, "single value")


def compile_key(vr: str, tag: int, key: Mapping[str, Any]) -> Matcher:
    """Compile a key of an attribute that has this VR.

    Raises:
        InvalidIdentifier: a date, time or number that is none; names the key, never its value.
    """
    if tag in _QUALIFIERS:
        return _always
    values = [value for value in values_of(key) if value not in (None, "", {})]
    if vr == "SQ":
        return _compile_sequence(values)
    if key.get("vr") == "SQ":
        raise _invalid(tag, "no sequence")
    if not values or any(map(_is_universal, values)):
        return _always
    if all(map(_is_empty_value, values)):
        return _is_empty
    if vr == "UI":
        uids = {str(value).strip(" \0") for value in values}
        return lambda stored: any(uid in uids for uid in stored)
    compiled = [_COMPILERS.get(vr, _compile_text)(vr, tag, value) for value in values]
    if len(compiled) == 1:
        return _any_value(compiled[0])
    return _any_value(lambda value: any(matches(value) for matches in compiled))


def compile_date_and_time(
    date_tag: int, date_key: Mapping[str, Any], time_key: Mapping[str, Any]
) -> Callable[[Sequence[Any], Sequence[Any]], bool]:
    """Compile a date and its time for combined date-time matching, PS3.4 C.2.2.2.5.

    When both are ranges, "20240701-20240705" with "1000-1800" is one range from ten o'clock of the
    first day to six o'clock of the last. Otherwise each is matched on its own. To be used only
    when it was negotiated (C.5.1.1). An entity without a time is matched by its date.

    Raises:
        InvalidIdentifier: as `compile_key`.
    """
    matches_date = compile_key("DA", date_tag, date_key)
    matches_time = compile_key("TM", TIME_OF_DATE[date_tag], time_key)
    dates, times = _only_range(_DATE, date_key), _only_range(_TIME, time_key)
    if dates is None or times is None:
        return lambda date_values, time_values: (
            matches_date(date_values) and matches_time(time_values)
        )
    moments = _Range(_joined(dates.first, times.first), _joined(dates.last, times.last))

    def matches(date_values: Sequence[Any], time_values: Sequence[Any]) -> bool:
        date = _DATE.read(str(date_values[0])) if date_values else None
        if date is None:
            return False
        time = _TIME.read(str(time_values[0])) if time_values else None
        if time is None:
            return matches_date(date_values)
        return moments.contains(_Moment(date.full(_DATE) + time.full(_TIME)))

    return matches


def span_of(vr: str, key: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Return the digits of the first and last date or time that a key of one range can match.

    Either is as short as it was given, and empty where the range is open. None when the key is not
    exactly one value or range.
    """
    values = [value for value in values_of(key) if value]
    if len(values) != 1:
        return None
    span = _read_range(_KINDS[vr], str(values[0]))
    if span is None:
        return None
    return (
        "" if span.first is None else span.first.digits,
        "" if span.last is None else span.last.digits,
    )


def means_alphabetic_group(pattern: str) -> bool:
    """Tell whether a name key of one group can mean no other group than the alphabetic one.

    The other two are for Chinese, Japanese and Korean (PS3.5 6.2.1.2), whose scripts begin at
    U+1100. Every other script, and Latin letters with accents, is written in the first.
    """
    return all(character < "\u1100" for character in _fold(pattern)) and any(
        character not in "*?^ " for character in pattern
    )


def fold_person_name(name: str) -> str:
    """Return what is compared of a person name, or of the beginning of one.

    Without case, accents, the forms of a letter that only typography knows, and empty components
    at the end. What a folded name begins with is the folded beginning of the name, so an index of
    folded names can be searched by it.
    """
    return _SPACES_AROUND_DELIMITER.sub("^", _fold(name)).strip(" ").rstrip("^ ")


def _always(_: Sequence[Any]) -> bool:
    return True


def _is_empty(values: Sequence[Any]) -> bool:
    return all(value in (None, "", {}) for value in values)


def _any_value(matches: _ValueMatcher) -> Matcher:
    return lambda values: any(
        matches(value) for value in values if value is not None and value != ""
    )


def _is_universal(value: object) -> bool:
    """Tell whether a value is stars alone, which clients send for VRs without wildcards too.

    Of a name also where nothing stands but the delimiters of its components, as in "^" and "*^*".
    """
    if isinstance(value, dict):
        return not restricting_groups(value)
    return isinstance(value, str) and value.strip(" ").strip("*") == ""


def restricting_groups(name: Mapping[str, str]) -> dict[str, str]:
    """Return the component groups of a name key that say anything."""
    return {group: text for group, text in name.items() if text.strip(" *^")}


def _is_empty_value(value: object) -> bool:
    return value in (_EMPTY_VALUE, {"Alphabetic": _EMPTY_VALUE})


def _invalid(tag: int, what: str) -> InvalidIdentifier:
    attribute = BY_TAG.get(tag)
    name = attribute.keyword if attribute else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
    return InvalidIdentifier(f"{name} must be {what}")


# Text and numbers.


def _compile_text(vr: str, tag: int, value: object) -> _ValueMatcher:
    del tag
    pattern = str(value).rstrip(" ") if vr in {"LT", "ST", "UC", "UT"} else str(value).strip(" ")
    if vr in _WILDCARD_VRS and _WILDCARDS.search(pattern):
        fits = _compile_wildcards(_WILDCARDS.split(pattern))
        return lambda text: fits(str(text))
    return lambda text: str(text) == pattern


def _compile_number(vr: str, tag: int, value: object) -> _ValueMatcher:
    del vr
    number = _number(value)
    if number is None:
        raise _invalid(tag, "a number")
    return lambda stored: _number(stored) == number


def _number(value: object) -> Decimal | None:
    """Read a number by its meaning, None when it has none (or is "NaN", which equals nothing)."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _compile_wildcards(parts: list[str]) -> Callable[[str], bool]:
    """Compile literals with wildcards between them, in time proportional to text and pattern.

    Between two stars stands a segment of fixed length. The leftmost place where it fits is always
    good enough, so nothing is ever tried twice, whatever the number of stars.
    """
    segments: list[list[str]] = [[]]
    for part in parts:
        if part == "*":
            segments.append([])
        else:
            segments[-1].append(part)
    first, *others = [
        re.compile("".join("." if part == "?" else re.escape(part) for part in segment), re.DOTALL)
        for segment in segments
    ]
    if not others:
        return lambda text: first.fullmatch(text) is not None
    *middle, last = others
    last_length = sum(map(len, segments[-1]))

    def fits(text: str) -> bool:
        found = first.match(text)
        for segment in middle:
            if found is None:
                return False
            found = segment.search(text, found.end())
        last_start = len(text) - last_length
        return (
            found is not None
            and found.end() <= last_start
            and last.fullmatch(text, last_start) is not None
        )

    return fits


# Person names.

# Letters that Unicode does not take apart, and signs that differ in print but not in a name.
_ALIKE: Final = str.maketrans(
    {
        # Turkish: with or without its dot, in either case, it is one i.
        "\N{LATIN SMALL LETTER DOTLESS I}": "i",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "ł": "l",
        "ŧ": "t",
        "þ": "th",
        "æ": "ae",
        "œ": "oe",
        "ŋ": "n",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{MODIFIER LETTER APOSTROPHE}": "'",
        "\N{HYPHEN}": "-",
        "\N{NON-BREAKING HYPHEN}": "-",
        "\N{EN DASH}": "-",
    }
)
# Accents of Latin, Greek and Cyrillic, points of Hebrew and Arabic. Not every mark: without its
# marks a Thai or a Japanese word is a different word.
_ACCENTS: Final = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u064b-\u065f\u0670]")
_SPACES_AROUND_DELIMITER: Final = re.compile(r" *\^ *")


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    # One character at a time, so that folding keeps beginnings; NFKC first, which puts halfwidth
    # katakana and its voicing marks together.
    return "".join(map(_fold_character, unicodedata.normalize("NFKC", text)))


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    parted = unicodedata.normalize("NFD", character.casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", parted)).casefold().translate(_ALIKE)


def _compile_person_name(vr: str, tag: int, value: object) -> _ValueMatcher:
    """Compile a name key: every group it has must match, each the same group of the attribute.

    A key of one group may have been typed in any script. In an East Asian one it may mean any of
    the three; in any other the alphabetic group, which is what indexes of names are made of.
    """
    del vr, tag
    groups = restricting_groups(_groups_of(value))
    compiled = {name: _compile_name_group(text) for name, text in groups.items()}
    if set(groups) == {"Alphabetic"} and not means_alphabetic_group(groups["Alphabetic"]):
        matches = compiled["Alphabetic"]
        return lambda name: any(matches(text) for text in _groups_of(name).values() if text)
    return lambda name: _every_group_matches(compiled, _groups_of(name))


def _every_group_matches(
    compiled: Mapping[str, Callable[[str], bool]], groups: Mapping[str, str]
) -> bool:
    return all(matches(groups.get(name, "")) for name, matches in compiled.items())


def _groups_of(name: object) -> Mapping[str, str]:
    if isinstance(name, Mapping):
        return name
    return dict(zip(_GROUPS, str(name).split("=", 2), strict=False))


def _compile_name_group(pattern: str) -> Callable[[str], bool]:
    if _WILDCARDS.search(pattern) is None:
        folded = fold_person_name(pattern)
        return lambda text: fold_person_name(text) == folded
    # Wildcards are found before folding, which makes some of fullwidth signs.
    parts = [
        part if part in {"*", "?"} else _SPACES_AROUND_DELIMITER.sub("^", _fold(part))
        for part in _WILDCARDS.split(pattern.strip(" "))
    ]
    parts[-1] = parts[-1].rstrip("^ ")
    fits = _compile_wildcards(parts)
    delimiters = sum(part.count("^") for part in parts)

    def matches(text: str) -> bool:
        folded = fold_person_name(text)
        if not folded:
            return False
        # Empty components at the end may be left out (PS3.5 6.2.1.1): "SMITH" is "SMITH^".
        return fits(folded + "^" * (delimiters - folded.count("^")))

    return matches


# Dates, times and moments, all of them digits from the largest unit to the smallest. A value with
# fewer digits is a span: "2024" all of the year, "10" all of the hour. A key's end is compared on
# as many digits as it has, so its whole span is included; a stored value counts from its start.


_PUNCTUATION: Final = str.maketrans("", "", ".:")


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a VR writes its digits: what is legal, and what a value not given in full starts with."""

    pattern: re.Pattern[str]
    start: str
    what: str

    def read(self, text: str) -> "_Moment | None":
        """Read one value, None when it is none."""
        found = self.pattern.fullmatch(text.strip(" "))
        if found is None:
            return None
        digits = found[1].translate(_PUNCTUATION)
        return _Moment(digits, _minutes_of(found[2]) if found.re.groups > 1 else None)


@dataclass(frozen=True, slots=True)
class _Moment:
    """Digits, and of a date-time how many minutes its clock is ahead of UTC, if it says so."""

    digits: str
    utc_offset: int | None = None

    def full(self, kind: _Kind) -> str:
        """Return all digits of the start of the span."""
        return self.digits + kind.start[len(self.digits) :]

    def seen_from(self, other: "_Moment") -> str:
        """Return the digits as the clock of `other` shows them, when both clocks are known."""
        if self.utc_offset is None or other.utc_offset is None:
            return self.digits
        ahead = timedelta(minutes=other.utc_offset - self.utc_offset)
        try:
            moved = datetime.strptime(self.digits, "%Y%m%d%H%M%S%f") + ahead  # noqa: DTZ007
        except (ValueError, OverflowError):  # the thirty-first of February, the year 0000
            return self.digits
        return f"{moved.year:04}{moved:%m%d%H%M%S%f}"


@dataclass(frozen=True, slots=True)
class _Range:
    """From the start of `first` to the end of `last`; None is open."""

    first: _Moment | None
    last: _Moment | None

    def contains(self, moment: _Moment) -> bool:
        """Tell whether a moment, all its digits given, lies within."""
        if self.first is not None:
            digits = moment.seen_from(self.first)[: len(self.first.digits)]
            if digits < self.first.digits:
                return False
        if self.last is not None:
            digits = moment.seen_from(self.last)[: len(self.last.digits)]
            if digits > self.last.digits:
                return False
        return True


# PS3.5 6.2; ACR-NEMA's dots and colons, which the standard asks to be read.
_MONTH: Final = r"(?:0[1-9]|1[0-2])"
_DAY: Final = r"(?:0[1-9]|[12][0-9]|3[01])"
_HOUR: Final = r"(?:[01][0-9]|2[0-3])"
_SECONDS: Final = r"(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?"
_CLOCK: Final = rf"{_HOUR}(?::?[0-5][0-9](?::?{_SECONDS})?)?"
# No clock is further from UTC, so the year of a range's end cannot be taken for an offset.
_OFFSET: Final = r"(?:[+-](?:0[0-9]|1[0-4])[0-5][0-9])"
_DATE: Final = _Kind(
    re.compile(rf"([0-9]{{4}}(?:\.?{_MONTH}(?:\.?{_DAY})?)?)"),
    start="00000101",
    what="a date or a range of dates",
)
_TIME: Final = _Kind(
    re.compile(rf"({_CLOCK})"),
    start="000000000000",
    what="a time or a range of times",
)
_DATE_TIME: Final = _Kind(
    re.compile(rf"([0-9]{{4}}(?:{_MONTH}(?:{_DAY}(?:{_CLOCK})?)?)?)({_OFFSET})?"),
    start="00000101000000000000",
    what="a date-time or a range of date-times",
)
_KINDS: Final[Mapping[str, _Kind]] = {"DA": _DATE, "TM": _TIME, "DT": _DATE_TIME}


def _minutes_of(offset: str | None) -> int | None:
    if offset is None:
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return -minutes if offset[0] == "-" else minutes


def _compile_range(vr: str, tag: int, value: object) -> _ValueMatcher:
    kind = _KINDS[vr]
    span = _read_range(kind, str(value))
    if span is None:
        raise _invalid(tag, kind.what)

    def matches(stored: object) -> bool:
        moment = kind.read(str(stored))
        return moment is not None and span.contains(_Moment(moment.full(kind), moment.utc_offset))

    return matches


def _read_range(kind: _Kind, text: str) -> _Range | None:
    """Read a key of one value or of two with a hyphen between, either of which may be missing.

    A hyphen may also be the sign of an offset from UTC. What can be read as one value is one
    (PS3.5 6.2, DT); else the first hyphen that leaves values on both sides parts them.
    """
    single = kind.read(text)
    if single is not None:
        return _Range(single, single)
    for hyphen in re.finditer("-", text):
        first, last = text[: hyphen.start()].strip(" "), text[hyphen.end() :].strip(" ")
        span = _Range(kind.read(first), kind.read(last))
        if (span.first or not first) and (span.last or not last):
            return span
    return None


def _only_range(kind: _Kind, key: Mapping[str, Any]) -> _Range | None:
    """Return the range of a key that is one range and no single value."""
    values = [value for value in values_of(key) if value]
    if len(values) != 1 or kind.read(str(values[0])) is not None:
        return None
    return _read_range(kind, str(values[0]))


def _joined(date: _Moment | None, time: _Moment | None) -> _Moment | None:
    """Return the moment of a date and a time; without the date there is none."""
    if date is None or time is None or len(date.digits) < len(_DATE.start):
        return date
    return _Moment(date.digits + time.digits)


# Sequences.


def _compile_sequence(items: list[Any]) -> Matcher:
    """Compile a sequence's one item; a universal item matches any sequence, a missing one too."""
    if not items or not isinstance(items[0], Mapping):
        return _always
    keys = {
        tag: compile_key(str(key.get("vr", "UN")), int(tag, 16), key)
        for tag, key in items[0].items()
    }
    restricting = {tag: matches for tag, matches in keys.items() if matches is not _always}
    if not restricting:
        return _always
    return lambda stored: any(_item_matches(restricting, item) for item in stored)


def _item_matches(keys: Mapping[str, Matcher], item: object) -> bool:
    if not isinstance(item, Mapping):
        return False
    return all(matches(values_of(item.get(tag))) for tag, matches in keys.items())


_COMPILERS: Final[Mapping[str, Callable[[str, int, object], _ValueMatcher]]] = {
    "PN": _compile_person_name,
    **dict.fromkeys(_KINDS, _compile_range),
    **dict.fromkeys(_NUMBER_VRS, _compile_number),
}
