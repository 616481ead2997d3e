"""Which way a query goes through the index: the most selective one its keys allow.

Every plan leads to study items that may match; matching itself is done on the items. So a plan
must never leave out a study that matches, and may bring some that do not. The plans in the order in
which they are preferred, with what they read:

    study-uid      an item for each Study Instance UID
    entity-uid     an entry for each SOP or Series Instance UID, then its study
    by-accession   the studies of each accession number
    by-patient     the studies of each patient ID
    by-name        the studies of the patients whose name begins so
    by-date        the studies of the days, month by month; of an open or a long range, the list of
                   the months that have studies first
    every-study    all study items, and no others; of a name with a wildcard first, those that lack
                   the rest of it are read (and paid for) as well, but stay in the store
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, Final

from .attributes import Level
from .dicom_json import values_of
from .identifiers import is_uid
from .index import Index
from .index_items import Item
from .index_keys import INDEXED_CHARACTERS, name_index_key, study_uid_of
from .matching import fold_person_name, means_alphabetic_group, restricting_groups, span_of
from .query import Query

_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_ACCESSION_NUMBER: Final = 0x00080050
_STUDY_DATE: Final = 0x00080020
_STUDY_TIME: Final = 0x00080030
_WILDCARDS: Final = ("*", "?")
_BETWEEN: Final = re.compile(r"[*?]")
#: An expression of DynamoDB has 4 KB at most; the longest parts tell most names apart.
_MOST_NAME_PARTS: Final = 4
#: Two quotation marks ask for an attribute that is empty (PS3.4 C.2.2.2.7); no index has those.
_EMPTY: Final = '""'
#: Of a longer range the list of months is read first: a query for each month that has no study
#: would cost more.
_MOST_MONTHS_UNLISTED: Final = 12
_MONTH_DIGITS: Final = 6
_DAY_DIGITS: Final = 8
_MOMENT_TIME_DIGITS: Final = 6
#: Comes behind every character of a moment.
_END: Final = "~"


@dataclass(frozen=True, slots=True)
class ByUID:
    """Read the named studies."""

    name: ClassVar[str] = "study-uid"

    study_instance_uids: tuple[str, ...]

    def studies(self, index: Index) -> Iterator[Item]:
        """Read one item a study."""
        return index.named_studies(dict.fromkeys(self.study_instance_uids))


@dataclass(frozen=True, slots=True)
class ByEntityUID:
    """Read the studies that series or instances of these UIDs are in."""

    name: ClassVar[str] = "entity-uid"

    uids: tuple[str, ...]

    def studies(self, index: Index) -> Iterator[Item]:
        """Read an index entry for each entity, then its study."""
        entries = (entry for uid in self.uids for entry in index.by_key("by-uid", ("uid", uid)))
        yield from ByUID(tuple(dict.fromkeys(map(study_uid_of, entries)))).studies(index)


@dataclass(frozen=True, slots=True)
class ByValue:
    """Read the studies that an index files under exactly these values."""

    name: str
    key_name: str
    values: tuple[str, ...]

    def studies(self, index: Index) -> Iterator[Item]:
        """Read what the index has under each value."""
        for value in dict.fromkeys(self.values):
            yield from index.by_key(self.name, (self.key_name, value))


@dataclass(frozen=True, slots=True)
class ByNamePrefix:
    """Read the studies whose folded patient name begins so."""

    name: ClassVar[str] = "by-name"
    prefix: str

    def studies(self, index: Index) -> Iterator[Item]:
        """Read one range of one partition of the by-name index."""
        return index.by_key(
            "by-name",
            ("name_initial", name_index_key(self.prefix)),
            "begins_with(name_folded, :prefix)",
            prefix=self.prefix,
        )


@dataclass(frozen=True, slots=True)
class ByDate:
    """Read the studies from one moment to another, month by month.

    The moments are digits from the year on, and a time behind a `T`; the last includes all that
    begins with it. One that is empty is open.
    """

    name: ClassVar[str] = "by-date"
    first: str
    last: str

    def studies(self, index: Index) -> Iterator[Item]:
        """Read one range of each month's partition of the by-date index."""
        if self.last and self.last + _END < self.first:
            return  # DynamoDB refuses such a range; nothing is in it
        for month in self.months() or index.months(*self._month_range()):
            yield from index.by_key(
                "by-date",
                ("study_month", month),
                "study_moment BETWEEN :first AND :last",
                first=self.first or "0",
                last=f"{self.last}{_END}",
            )

    def months(self) -> list[str]:
        """Return the months of a short range; none when the list of months is to be read."""
        first, last = self._month_range()
        months: list[str] = []
        year, month = int(first[:4]), int(first[5:])
        while (each := f"{year:04}-{month:02}") <= last:
            months.append(each)
            if len(months) > _MOST_MONTHS_UNLISTED:
                return []
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)  # noqa: PLR2004
        return months

    def _month_range(self) -> tuple[str, str]:
        """Return the first month and the last one; the sort keys of the list lie between."""
        first = f"{self.first[:_MONTH_DIGITS]:0<6}" if self.first else "000001"
        last = f"{self.last[:_MONTH_DIGITS]:9<6}" if self.last else "999999"
        return f"{first[:4]}-{max(first[4:], '01')}", f"{last[:4]}-{last[4:]}"


@dataclass(frozen=True, slots=True)
class EveryStudy:
    """Read every study item there is, and take those whose folded name has each of these parts."""

    name: ClassVar[str] = "every-study"
    name_parts: tuple[str, ...] = ()

    def studies(self, index: Index) -> Iterator[Item]:
        """Scan the by-date index, which holds study items alone."""
        return index.every_study(self.name_parts)


Plan = ByUID | ByEntityUID | ByValue | ByNamePrefix | ByDate | EveryStudy


def plan(query: Query) -> Plan:
    """Choose the way for a query; the first that its keys allow, most selective first."""
    # What is no UID names nothing, and may be too long for a key.
    if uids := query.unique_values(Level.STUDY):
        return ByUID(tuple(filter(is_uid, uids)))
    for level in (Level.INSTANCE, Level.SERIES):
        if uids := query.unique_values(level):
            return ByEntityUID(tuple(filter(is_uid, uids)))
    for tag, index_name, key_name in (
        (_ACCESSION_NUMBER, "by-accession", "accession_number"),
        (_PATIENT_ID, "by-patient", "patient_id"),
    ):
        values = tuple(value.strip(" ") for value in query.values(tag))
        if values and all(map(_is_indexed, values)):
            return ByValue(index_name, key_name, values)
    if prefix := _name_prefix(query):
        return ByNamePrefix(prefix)
    if by_date := _by_date(query):
        return by_date
    return EveryStudy(_name_parts(query))


def explain(query: Query) -> dict[str, object]:
    """Say which way a query goes: the plan, what it goes by, and what is read below a study."""
    chosen = plan(query)
    below = []
    if query.level >= Level.SERIES or query.restricts(Level.SERIES, Level.INSTANCE):
        below.append(_below(query, Level.SERIES, "the series of each study that matches"))
    if query.level >= Level.INSTANCE or query.restricts(Level.INSTANCE):
        below.append(_below(query, Level.INSTANCE, "the instances of each series that matches"))
    by = {name: value for name, value in asdict(chosen).items() if value != ()}
    return {"plan": chosen.name, "by": by, "then": below}


def _below(query: Query, level: Level, everything: str) -> str:
    named = query.unique_values(level)
    what = f"{len(named)} by UID, of " if named else ""
    return what + everything


def _is_indexed(value: str) -> bool:
    """Tell whether an index files a study under exactly this value of a key."""
    return (
        0 < len(value) <= INDEXED_CHARACTERS
        and value != _EMPTY
        and not any(wildcard in value for wildcard in _WILDCARDS)
    )


def _name_prefix(query: Query) -> str | None:
    """Return what every matching name begins with once folded, None when nothing is sure."""
    return _folded_literals(query)[0][:INDEXED_CHARACTERS] or None


def _name_parts(query: Query) -> tuple[str, ...]:
    """Return what every matching name has in it once folded; none when nothing is sure."""
    parts = sorted(set(_folded_literals(query)) - {""}, key=lambda part: (-len(part), part))
    return tuple(parts[:_MOST_NAME_PARTS])


def _folded_literals(query: Query) -> list[str]:
    """Return what stands between the wildcards of a name, the first what it begins with.

    The index files a study under the alphabetic group alone, so a key that may match another
    group must not use it.
    """
    values = values_of(query.key(_PATIENT_NAME))
    name = values[0] if len(values) == 1 else None
    groups = restricting_groups(name) if isinstance(name, dict) else {}
    pattern = groups.get("Alphabetic", "")
    if len(groups) == 1 and not means_alphabetic_group(pattern):
        return [""]
    if not pattern or "=" in pattern or pattern.strip(" ") == _EMPTY:
        return [""]
    # Trailing empty components and spaces are not significant, so they are in none of them.
    return [fold_person_name(literal.rstrip("^ ")) for literal in _BETWEEN.split(pattern)]


def _by_date(query: Query) -> ByDate | None:
    days = span_of("DA", query.key(_STUDY_DATE))
    if days is None:
        return None
    first, last = days
    times = span_of("TM", query.key(_STUDY_TIME))
    # Of one day, the time narrows the range. Not where the two are matched as one: there a study
    # without a time matches by its day.
    if times and first == last and len(first) == _DAY_DIGITS and not query.combined_date_time:
        first, last = (f"{first}T{time[:_MOMENT_TIME_DIGITS]}" for time in times)
    return ByDate(first, last)
