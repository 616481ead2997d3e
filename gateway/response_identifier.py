"""Response identifiers of C-FIND: what was asked of each match, encoded. PS3.4 C.4.1.1.3.2.

A query asks every match for the same, so all that does not change is worked out once: which
attributes, from which level of a match, in which order, how the header of each begins. What an
entity says is encoded once for everything that is found below it:

    study    │ 0008,0020 ──────────── 0010,0010 ──────────── 0020,000D │   once a study
    series   │ ─────────── 0008,0060 ────────── 0020,000E ──────────── │   once a series
    instance │ ──────────────────────────────── ──────── 0020,0013 ─── │   once an instance
                    put together in the order of tags

An attribute that was asked for is there, empty where it is not known. The text is in the character
set of the query where that carries all of it, and in UTF-8 otherwise, match by match.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

from lenticular.answers import (
    COMPUTED_IN_ITEM,
    INSTANCE_AVAILABILITY,
    Entity,
    Match,
    patient_counts,
)
from lenticular.attributes import BY_TAG, Attribute, Level, computed_of_level
from lenticular.character_sets import UTF_8_TERM, CharacterSets, character_sets
from lenticular.dicom_json import JsonElement, character_set_terms, element_encoder
from lenticular.index import Index
from lenticular.query import QUERY_RETRIEVE_LEVEL, SPECIFIC_CHARACTER_SET, Query
from lenticular.transfer_syntaxes import BY_UID

from .data_set import deflate_data_set

_RETRIEVE_AE_TITLE: Final = 0x00080054
_INSTANCE_AVAILABILITY: Final = 0x00080056
_PATIENT_RELATED_STUDIES: Final = 0x00201200
_PATIENT_RELATED_SERIES: Final = 0x00201202
_PATIENT_RELATED_INSTANCES: Final = 0x00201204
_OF_PATIENT: Final = (_PATIENT_RELATED_STUDIES, _PATIENT_RELATED_SERIES, _PATIENT_RELATED_INSTANCES)

#: Encodes one attribute of an entity.
_Field = Callable[[Entity], bytes]


def asks_for_more(query: Query) -> bool:
    """Tell whether a key is one that is neither matched nor returned, PS3.4 C.4.1.1.4 (FF01)."""
    supported = {*_computed_up_to(query.level), QUERY_RETRIEVE_LEVEL, SPECIFIC_CHARACTER_SET}
    return any(tag not in supported and not _is_catalogued(query, tag) for tag in query.keys)


class ResponseIdentifiers:
    """Encodes the matches of one query, as they come; for one thread."""

    def __init__(
        self, query: Query, index: Index, *, ae_title: str, transfer_syntax_uid: str
    ) -> None:
        """Answer from `index` what has to be counted; all can be retrieved from `ae_title`."""
        self._index = index
        self._counted: tuple[Entity, tuple[int, int, int]] | None = None
        syntax = BY_UID[transfer_syntax_uid]
        self._deflated = syntax.deflated
        requested = character_set_terms(query.keys.get(SPECIFIC_CHARACTER_SET))
        if not character_sets(requested).known:
            requested = []

        def encoder(terms: Sequence[str]) -> _Encoder:
            fields = _Fields(
                character_sets(terms),
                explicit=syntax.explicit,
                little_endian=syntax.little_endian,
            )
            return _Encoder(fields.of(query, ae_title, terms, self._of_patient))

        self._as_requested = encoder(requested)
        self._in_utf_8 = encoder([UTF_8_TERM])

    def encode(self, match: Match) -> bytes:
        """Encode what was asked of a match.

        Raises:
            StoreUnavailable: what has to be counted could not be read.
        """
        try:
            data = self._as_requested.encode(match)
        except UnicodeError:
            data = self._in_utf_8.encode(match)
        return deflate_data_set(data) if self._deflated else data

    def _of_patient(self, which: int, study: Entity) -> list[str]:
        """Count what the patient of a study has; it costs a query, so only for those who ask."""
        if self._counted is None or self._counted[0] is not study:
            self._counted = study, patient_counts(self._index, study)
        return [str(self._counted[1][which])]


class _Fields:
    """Makes the fields of a query in one character set and transfer syntax."""

    def __init__(self, sets: CharacterSets, *, explicit: bool, little_endian: bool) -> None:
        self._sets = sets
        self._explicit = explicit
        self._little_endian = little_endian

    def of(
        self,
        query: Query,
        ae_title: str,
        terms: Sequence[str],
        of_patient: Callable[[int, Entity], list[str]],
    ) -> list[tuple[Level, _Field]]:
        """Return every field of a response in the order of tags, with the level it is read from."""
        fields = {
            QUERY_RETRIEVE_LEVEL: self._constant(
                QUERY_RETRIEVE_LEVEL, "CS", [query.level.query_retrieve_level]
            ),
            _RETRIEVE_AE_TITLE: self._constant(_RETRIEVE_AE_TITLE, "AE", [ae_title]),
        }
        if terms:
            fields[SPECIFIC_CHARACTER_SET] = self._constant(SPECIFIC_CHARACTER_SET, "CS", terms)
        for tag in query.keys.keys() - fields.keys():
            if tag == _INSTANCE_AVAILABILITY:
                fields[tag] = self._constant(tag, "CS", [INSTANCE_AVAILABILITY])
            elif (computed := _computed_up_to(query.level).get(tag)) is not None:
                fields[tag] = self._computed(computed, of_patient)
            elif _is_catalogued(query, tag):
                attribute = BY_TAG[tag]
                fields[tag] = max(attribute.level, Level.STUDY), self._catalogued(attribute)
        return [field for _, field in sorted(fields.items())]

    def _encoder(self, tag: int, vr: str) -> Callable[[JsonElement], bytes]:
        return element_encoder(
            tag, vr, self._sets, explicit=self._explicit, little_endian=self._little_endian
        )

    def _constant(self, tag: int, vr: str, values: Sequence[str]) -> tuple[Level, _Field]:
        encoded = self._encoder(tag, vr)({"vr": vr, "Value": values})
        return Level.STUDY, lambda _: encoded

    def _computed(
        self, attribute: Attribute, of_patient: Callable[[int, Entity], list[str]]
    ) -> tuple[Level, _Field]:
        tag, vr = attribute.tag, attribute.vr
        encode = self._encoder(tag, vr)
        if tag in _OF_PATIENT:
            which = _OF_PATIENT.index(tag)
            return Level.STUDY, lambda study: encode({"vr": vr, "Value": of_patient(which, study)})
        level, values = COMPUTED_IN_ITEM[tag]
        return level, lambda entity: encode({"vr": vr, "Value": values(entity.item)})

    def _catalogued(self, attribute: Attribute) -> _Field:
        tag, vr, name = attribute.tag, attribute.vr, f"{attribute.tag:08X}"
        encode = self._encoder(tag, vr)
        empty = encode({"vr": vr})

        def field(entity: Entity) -> bytes:
            element: Mapping[str, Any] | None = entity.elements.get(name)
            if element is None:
                return empty
            if element["vr"] == vr:
                return encode(element)
            # The sender said so, and the value is kept as it came.
            return self._encoder(tag, element["vr"])(element)

        return field


class _Encoder:
    """Puts fields together, each entity's encoded once while it stays the same."""

    def __init__(self, fields: Sequence[tuple[Level, _Field]]) -> None:
        self._of_level: dict[Level, list[_Field]] = {level: [] for level in Level}
        # Where the fields of each level stand in all of them.
        self._places: dict[Level, list[int]] = {level: [] for level in Level}
        for place, (level, field) in enumerate(fields):
            self._of_level[level].append(field)
            self._places[level].append(place)
        self._encoded = [b""] * len(fields)
        self._last: dict[Level, Entity | None] = {}

    def encode(self, match: Match) -> bytes:
        """Encode a match, raising UnicodeError when the character set cannot carry it."""
        for level, entity in (
            (Level.STUDY, match.study),
            (Level.SERIES, match.series),
            (Level.INSTANCE, match.instance),
        ):
            if entity is None or self._last.get(level) is entity:
                continue
            self._last[level] = None
            for place, field in zip(self._places[level], self._of_level[level], strict=True):
                self._encoded[place] = field(entity)
            self._last[level] = entity
        return b"".join(self._encoded)


def _is_catalogued(query: Query, tag: int) -> bool:
    attribute = BY_TAG.get(tag)
    return attribute is not None and attribute.level <= query.level


@cache
def _computed_up_to(level: Level) -> Mapping[int, Attribute]:
    return dict(
        chain.from_iterable(computed_of_level(each).items() for each in Level if each <= level)
    )
