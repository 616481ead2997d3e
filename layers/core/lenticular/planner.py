"""Which way a query goes through the index: the most selective one its keys allow.

Every plan leads to study items that may match; matching itself is done on the items. So a plan
must never leave out a study that matches, and may bring some that do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .attributes import Level
from .dicom_json import values_of
from .identifiers import is_uid
from .index import Index
from .index_items import INDEXED_CHARACTERS, Item, name_index_key, study_partition
from .matching import fold_person_name
from .query import Query

_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_ACCESSION_NUMBER: Final = 0x00080050
_STUDY_DATE: Final = 0x00080020
_WILDCARDS: Final = ("*", "?")
#: Two quotation marks ask for an attribute that is empty (PS3.4 C.2.2.2.7); no index has those.
_EMPTY: Final = '""'
#: A query of the by-date index for each month of a longer range costs more than one scan of it.
_MOST_MONTHS: Final = 36
_DATE_CHARACTERS: Final = 8


@dataclass(frozen=True, slots=True)
class ByUID:
    """Read the named studies."""

    study_instance_uids: tuple[str, ...]

    def studies(self, index: Index) -> Iterator[Item]:
        """Read one item a study."""
        for uid in dict.fromkeys(self.study_instance_uids):
            if study := index.study(uid):
                yield study


@dataclass(frozen=True, slots=True)
class ByEntityUID:
    """Read the studies that series or instances of these UIDs are in."""

    uids: tuple[str, ...]

    def studies(self, index: Index) -> Iterator[Item]:
        """Read an index entry for each entity, then its study."""
        entries = (entry for uid in self.uids for entry in index.by_key("by-uid", ("uid", uid)))
        uids = dict.fromkeys(
            str(entry["pk"]).removeprefix(study_partition("")) for entry in entries
        )
        yield from ByUID(tuple(uids)).studies(index)


@dataclass(frozen=True, slots=True)
class ByValue:
    """Read the studies that an index files under exactly these values."""

    index_name: str
    key_name: str
    values: tuple[str, ...]

    def studies(self, index: Index) -> Iterator[Item]:
        """Read what the index has under each value."""
        for value in dict.fromkeys(self.values):
            yield from index.by_key(self.index_name, (self.key_name, value))


@dataclass(frozen=True, slots=True)
class ByNamePrefix:
    """Read the studies whose folded patient name begins so."""

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
    """Read the studies of these days, month by month."""

    months: tuple[str, ...]
    first_day: str
    last_day: str

    def studies(self, index: Index) -> Iterator[Item]:
        """Read one range of each month's partition of the by-date index."""
        for month in self.months:
            yield from index.by_key(
                "by-date",
                ("study_month", month),
                "study_moment BETWEEN :first AND :last",
                first=f"{self.first_day}T",
                last=f"{self.last_day}T~",
            )


@dataclass(frozen=True, slots=True)
class EveryStudy:
    """Read every study item there is."""

    def studies(self, index: Index) -> Iterator[Item]:
        """Scan the by-date index, which holds study items alone."""
        return index.every_study()


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
    return EveryStudy()


def _is_indexed(value: str) -> bool:
    """Tell whether an index files a study under exactly this value of a key."""
    return (
        0 < len(value) <= INDEXED_CHARACTERS
        and value != _EMPTY
        and not any(wildcard in value for wildcard in _WILDCARDS)
    )


def _name_prefix(query: Query) -> str | None:
    """Return what every matching name begins with once folded, None when nothing is sure.

    The index files a study under the alphabetic group alone, so a key that may match another
    group (anything but ASCII in it, or more groups than one) must not use it.
    """
    values = values_of(query.keys.get(_PATIENT_NAME))
    name = values[0] if len(values) == 1 else None
    if not isinstance(name, dict) or set(name) != {"Alphabetic"}:
        return None
    pattern = str(name["Alphabetic"])
    if not pattern.isascii() or "=" in pattern or pattern.strip(" ") == _EMPTY:
        return None
    literal = pattern
    for wildcard in _WILDCARDS:
        literal = literal.partition(wildcard)[0]
    # Trailing empty components and spaces are not significant, so they are not in the prefix.
    return fold_person_name(literal.rstrip("^ ")) or None


def _by_date(query: Query) -> ByDate | None:
    values = query.values(_STUDY_DATE)
    if len(values) != 1:
        return None
    first, dash, last = (part.strip().replace(".", "") for part in values[0].partition("-"))
    last = last if dash else first
    if not (_is_day(first) and _is_day(last)):
        return None
    if last < first:
        # DynamoDB refuses such a range; nothing is in it.
        return ByDate((), first, last)
    year, month = int(first[:4]), int(first[4:6])
    months: list[str] = []
    while f"{year:04}{month:02}" <= last[:6]:
        months.append(f"{year:04}-{month:02}")
        if len(months) > _MOST_MONTHS:
            return None
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)  # noqa: PLR2004
    return ByDate(tuple(months), first, last)


def _is_day(text: str) -> bool:
    return len(text) == _DATE_CHARACTERS and text.isdigit() and 1 <= int(text[4:6]) <= 12  # noqa: PLR2004
