"""What a C-FIND, C-MOVE or C-GET asks for, checked against its model. PS3.4 C.4, C.6."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from . import sop_classes
from .attributes import BY_QUERY_RETRIEVE_LEVEL, LEVEL_OF, UNIQUE_KEY, Level
from .character_sets import UTF_8_TERM
from .dicom_json import JsonElement, read_data_set, values_of, vr_of
from .elements import EncodableElement, encode_data_set
from .errors import InvalidIdentifier

QUERY_RETRIEVE_LEVEL: Final = 0x00080052
SPECIFIC_CHARACTER_SET: Final = 0x00080005


class Model(Enum):
    """An information model and the levels it has, PS3.4 C.6.1, C.6.2, C.6.3."""

    PATIENT_ROOT = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE)
    STUDY_ROOT = (Level.STUDY, Level.SERIES, Level.INSTANCE)
    PATIENT_STUDY_ONLY = (Level.PATIENT, Level.STUDY)


MODEL_OF: Final[Mapping[str, Model]] = MappingProxyType(
    {
        sop_classes.PATIENT_ROOT_FIND: Model.PATIENT_ROOT,
        sop_classes.PATIENT_ROOT_MOVE: Model.PATIENT_ROOT,
        sop_classes.PATIENT_ROOT_GET: Model.PATIENT_ROOT,
        sop_classes.STUDY_ROOT_FIND: Model.STUDY_ROOT,
        sop_classes.STUDY_ROOT_MOVE: Model.STUDY_ROOT,
        sop_classes.STUDY_ROOT_GET: Model.STUDY_ROOT,
        sop_classes.PATIENT_STUDY_ONLY_FIND: Model.PATIENT_STUDY_ONLY,
        sop_classes.PATIENT_STUDY_ONLY_MOVE: Model.PATIENT_STUDY_ONLY,
        sop_classes.PATIENT_STUDY_ONLY_GET: Model.PATIENT_STUDY_ONLY,
    }
)


def model_of(abstract_syntax: str) -> Model:
    """Return the model of a query or retrieve class; `InvalidIdentifier` where it is neither."""
    try:
        return MODEL_OF[abstract_syntax]
    except KeyError:
        raise InvalidIdentifier("the presentation context is not one for queries") from None


@dataclass(frozen=True, slots=True)
class Query:
    """An identifier: its level, its keys by tag, and how they are to be read.

    `relational` keys may be of any level (PS3.4 C.4.1.2.2.1); `combined_date_time` makes one range
    of a date's and its time's (C.2.2.2.5).
    """

    level: Level
    keys: Mapping[int, JsonElement]
    relational: bool = False
    combined_date_time: bool = False

    def key(self, tag: int) -> JsonElement | None:
        """Return a key if it is there and is one that is matched at this level."""
        level = LEVEL_OF.get(tag)
        if level is None or (level > self.level and not self.relational):
            return None
        return self.keys.get(tag)

    def values(self, tag: int) -> tuple[str, ...]:
        """Return a key's values that are not empty; a UID list comes as one value each."""
        values = values_of(self.key(tag))
        return tuple(value for value in values if isinstance(value, str) and value)

    def restricts(self, *levels: Level) -> bool:
        """Tell whether a key of one of these levels has a value and is matched."""
        return any(
            LEVEL_OF.get(tag) in levels and bool(values_of(self.key(tag))) for tag in self.keys
        )

    def unique_values(self, level: Level) -> tuple[str, ...]:
        """Return the values of a level's unique key that name entities: no wildcards."""
        values = self.values(UNIQUE_KEY[level].tag)
        return () if any("*" in value or "?" in value for value in values) else values


def read_query(
    model: Model,
    keys: Mapping[int, JsonElement],
    *,
    relational: bool,
    combined_date_time: bool = False,
) -> Query:
    """Check an identifier of a C-FIND (PS3.4 C.4.1.1.3, C.4.1.2.1).

    Raises:
        InvalidIdentifier: no such level in the model, or (unless `relational`) a level above
            whose unique key is missing or has more than one value, or one below whose unique key
            is there. The message names the key, never a value.
    """
    query = Query(_level(model, keys), keys, relational, combined_date_time)
    if not relational:
        _require_hierarchical_keys(model, query)
    return query


def read_keys(texts: Iterable[str]) -> dict[int, JsonElement]:
    """Read keys as a person types them for findscu: KEYWORD=VALUE or gggg,eeee=VALUE.

    Raises:
        InvalidIdentifier: there is no attribute of that name.
    """
    encoded: list[EncodableElement] = [(SPECIFIC_CHARACTER_SET, "CS", UTF_8_TERM.encode())]
    for text in texts:
        name, _, value = text.partition("=")
        tag = tag_named(name.strip())
        encoded.append((tag, vr_of(tag, None), value.encode()))
    keys = read_data_set(encode_data_set(encoded), explicit=True, little_endian=True)
    del keys[SPECIFIC_CHARACTER_SET]
    return keys


def tag_named(name: str) -> int:
    """Return the tag that a keyword or gggg,eeee names, or raise `InvalidIdentifier`."""
    if re.fullmatch(r"[0-9A-Fa-f]{4},[0-9A-Fa-f]{4}", name):
        return int(name.replace(",", ""), 16)
    # Imported on first use, for it takes most of a second: only a person at a keyboard needs it.
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415

    tag = tag_for_keyword(name)
    if tag is None:
        raise InvalidIdentifier(f"there is no attribute {name!r}: use a keyword or gggg,eeee")
    return tag


def read_retrieval(model: Model, keys: Mapping[int, JsonElement], *, relational: bool) -> Query:
    """Check an identifier of a C-MOVE or C-GET (PS3.4 C.4.2.2.1): unique keys only, lists allowed.

    Raises:
        InvalidIdentifier: as `read_query`, or the level's own unique key names nothing. A unique
            key below the level may be there, but without a value.
    """
    level = _level(model, keys)
    named = {UNIQUE_KEY[each].tag for each in Level if each > level or each in model.value}
    # Other keys have no meaning here, and must not leave out what is named: not even the Patient ID
    # where the model begins with studies.
    query = Query(level, {tag: key for tag, key in keys.items() if tag in named}, relational)
    if not query.unique_values(query.level):
        raise InvalidIdentifier(f"{UNIQUE_KEY[query.level].keyword} must name what to retrieve")
    if not relational:
        for each in Level:
            # To send all of the level, or less than that, would both be a guess.
            if each > level and any(values_of(keys.get(UNIQUE_KEY[each].tag))):
                raise _is_below(each, query)
        _require_unique_keys_above(model, query)
    return query


def _level(model: Model, keys: Mapping[int, JsonElement]) -> Level:
    values = values_of(keys.get(QUERY_RETRIEVE_LEVEL))
    level = BY_QUERY_RETRIEVE_LEVEL.get(str(values[0]).strip()) if values else None
    if level is None or level not in model.value:
        names = ", ".join(each.query_retrieve_level for each in model.value)
        raise InvalidIdentifier(f"QueryRetrieveLevel must be one of {names}")
    return level


def _require_hierarchical_keys(model: Model, query: Query) -> None:
    for level, unique_key in UNIQUE_KEY.items():
        if level > query.level and unique_key.tag in query.keys:
            raise _is_below(level, query)
        # An empty one is against the standard but common, and can only mean all of that level.
        is_empty = unique_key.tag in query.keys and not query.values(unique_key.tag)
        if level in model.value and not is_empty:
            _require_unique_key_above(level, query)


def _is_below(level: Level, query: Query) -> InvalidIdentifier:
    keyword = UNIQUE_KEY[level].keyword
    return InvalidIdentifier(f"{keyword} is below level {query.level.query_retrieve_level}")


def _require_unique_keys_above(model: Model, query: Query) -> None:
    for level in model.value:
        _require_unique_key_above(level, query)


def _require_unique_key_above(level: Level, query: Query) -> None:
    if level < query.level and len(query.unique_values(level)) != 1:
        keyword = UNIQUE_KEY[level].keyword
        raise InvalidIdentifier(
            f"{keyword} must have one value at level {query.level.query_retrieve_level}"
        )
