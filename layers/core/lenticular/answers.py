"""Answer a query from the index: candidates from the planner, matched, level by level.

Everything is a generator over pages of the table: nothing is held but one study's way down (and, at
PATIENT level, who was answered already), and a peer that cancels stops the reading.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, TypeAlias

from .attributes import BY_TAG, COMPUTED, UNIQUE_KEY, Level
from .dicom_json import JsonElement, first_text, values_of
from .identifiers import is_uid
from .index import Index
from .index_items import Item, elements_of
from .index_keys import study_uid_of
from .matching import TIME_OF_DATE, Matcher, compile_date_and_time, compile_key
from .planner import ByUID, plan
from .query import Query

_PATIENT_ID: Final = "00100020"
_ISSUER_OF_PATIENT_ID: Final = "00100021"
_PATIENT_NAME: Final = "00100010"
_UNIQUE_TAG: Final[Mapping[Level, str]] = {
    level: f"{attribute.tag:08X}" for level, attribute in UNIQUE_KEY.items()
}
_STUDY_INSTANCE_UID: Final = _UNIQUE_TAG[Level.STUDY]

_RETRIEVE_AE_TITLE: Final = 0x00080054
_INSTANCE_AVAILABILITY: Final = 0x00080056
_OF_PATIENT: Final = (0x00201200, 0x00201202, 0x00201204)
#: VRs of the computed attributes.
_COMPUTED_VRS: Final[Mapping[int, str]] = {each.tag: each.vr for each in COMPUTED}


@dataclass(frozen=True, slots=True)
class Entity:
    """A study (its patient included), series or instance: its item, and what that says, read once.

    `elements` are by tag in hexadecimal, the unique key of the level among them.
    """

    item: Item
    elements: Mapping[str, Any]

    @classmethod
    def study(cls, item: Item) -> "Entity":
        """Read the item of a study."""
        return cls(item, {**elements_of(item), _STUDY_INSTANCE_UID: _uid(study_uid_of(item))})

    @classmethod
    def below(cls, level: Level, item: Item) -> "Entity":
        """Read the item of a series or an instance."""
        return cls(item, {**elements_of(item), _UNIQUE_TAG[level]: _uid(str(item["uid"]))})


#: Tells whether an entity matches.
_Filter: TypeAlias = Callable[[Entity], bool]


@dataclass(frozen=True, slots=True)
class Match:
    """One entity that matches, with those above it in the hierarchy."""

    study: Entity
    series: Entity | None = None
    instance: Entity | None = None


def find(index: Index, query: Query, *, ae_title: str = "") -> Iterator[Match]:
    """Yield every entity of the query's level that matches (PS3.4 C.4.1.3).

    All can be retrieved from `ae_title`.

    Raises:
        StoreUnavailable: the table could not be read; what was yielded is not all.
    """
    if not _is_held_by(query, ae_title):
        return
    filters = _Filters(index, query)
    if _names_instances_alone(query):
        yield from _named_instances(index, query, filters)
        return
    studies = _studies(index, query, filters)
    if query.level is Level.PATIENT:
        yield from _patients(studies)
        return
    for study in studies:
        if query.level is Level.STUDY:
            yield Match(study)
            continue
        for series in _series(index, query, study, filters):
            if query.level is Level.SERIES:
                yield Match(study, series)
                continue
            for instance in _instances(index, query, study, series, filters):
                yield Match(study, series, instance)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a retrieval names (PS3.4 C.4.2.2.1), before all of it has been read.

    `count` and `sop_class_uids` are what studies and series say of themselves, so they are there
    at once; while instances are being indexed, `pages` may yield others. It yields each once, with
    what `INSTANCE_LOCATION` names. `patients` are the Patient IDs of the studies, by study.
    """

    count: int
    sop_class_uids: frozenset[str]
    pages: Iterator[list[Item]]
    patients: Mapping[str, str]


def select(index: Index, query: Query) -> Selection:
    """Find what a retrieval names, down to the level it is asked for.

    Raises:
        StoreUnavailable: the table could not be read. Reading the pages may raise it, too.
    """
    if query.level <= Level.STUDY:
        studies = [study.item for study in _studies(index, query, _Filters(index, query))]
        uids_of_studies = ((study_uid_of(study), None) for study in studies)
        return _selection(index, studies, uids_of_studies, _patient_ids(studies))
    matches = list(find(index, query))
    patients = _patient_ids([match.study.item for match in matches])
    if query.level is Level.SERIES:
        series = [
            (match.study.item, match.series.item) for match in matches if match.series is not None
        ]
        uids = ((study_uid_of(study), str(each["uid"])) for study, each in series)
        return _selection(index, [each for _, each in series], uids, patients)
    instances = [match.instance.item for match in matches if match.instance is not None]
    classes = frozenset(str(instance["sop_class_uid"]) for instance in instances)
    return Selection(len(instances), classes, iter([instances]), patients)


def _patient_ids(studies: Iterable[Item]) -> dict[str, str]:
    return {study_uid_of(study): patient_id_of(study) for study in studies}


def patient_id_of(study: Item) -> str:
    """Return the Patient ID in a study's item, empty where it has none."""
    return first_text(elements_of(study), _PATIENT_ID) or ""


def _selection(
    index: Index,
    entities: list[Item],
    below: Iterable[tuple[str, str | None]],
    patients: Mapping[str, str],
) -> Selection:
    """Select all instances of studies or series; `below` names them by study and series UID."""
    return Selection(
        sum(_number(entity, "instances") for entity in entities),
        frozenset(uid for entity in entities for uid in texts(entity, "sop_class_uids")),
        chain.from_iterable(index.instance_locations(*uids) for uids in below),
        patients,
    )


def patient_counts(index: Index, study: Entity) -> tuple[int, int, int]:
    """Count studies, series and instances of a study's patient, PS3.4 C.3.4."""
    patient = _patient(study.elements)
    patient_id = study.item.get("patient_id")
    candidates = (
        index.by_key("by-patient", ("patient_id", str(patient_id)))
        if patient_id
        else iter([study.item])
    )
    studies = [each for each in candidates if _patient(elements_of(each)) == patient]
    return (
        len(studies),
        sum(_number(each, "series") for each in studies),
        sum(_number(each, "instances") for each in studies),
    )


class _Filters:
    """The keys of a query as matchers, by the level whose items have the attribute.

    Keys below the query's level count in relational queries only (PS3.4 C.4.1.2.2.1): then an
    entity matches when there is something below it that matches them.
    """

    def __init__(self, index: Index, query: Query) -> None:
        self._by_level: dict[Level, list[_Filter]] = {level: [] for level in Level}
        keys = {
            tag: key
            for tag in query.keys
            if (key := query.key(tag)) is not None and key.get("Value")
        }
        times = _times_of_dates(query, keys)
        for tag, key in keys.items():
            attribute = BY_TAG.get(tag)
            if attribute is not None and tag not in times.values():
                # The instance's own UIDs are in its item whatever level the catalogue gives them.
                self._by_level[attribute.level].append(
                    _date_and_time(tag, key, times[tag], keys[times[tag]])
                    if tag in times
                    else _one(tag, compile_key(attribute.vr, tag, key))
                )
            elif tag in COMPUTED_IN_ITEM:
                level, values = COMPUTED_IN_ITEM[tag]
                self._by_level[level].append(_computed(tag, key, values))
        # Last, because counting costs a query for each study that matches all else.
        counts = [_count(index, tag, keys[tag]) for tag in _OF_PATIENT if tag in keys]
        self._by_level[Level.STUDY] += counts

    def keep_study(self, study: Entity) -> bool:
        """Tell whether the keys of patient and study match a study."""
        return self.keep(Level.PATIENT, study) and self.keep(Level.STUDY, study)

    def restricts(self, level: Level) -> bool:
        """Tell whether there is a key for a level's items."""
        return bool(self._by_level[level])

    def keep(self, level: Level, entity: Entity) -> bool:
        """Tell whether the keys of a level match an entity of that level."""
        return all(matches(entity) for matches in self._by_level[level])


def _is_held_by(query: Query, ae_title: str) -> bool:
    """Tell whether the keys allow what all entities have: where they are, and that they are."""
    constants = ((_RETRIEVE_AE_TITLE, ae_title), (_INSTANCE_AVAILABILITY, INSTANCE_AVAILABILITY))
    return all(
        compile_key(_COMPUTED_VRS[tag], tag, key)([value])
        for tag, value in constants
        if (key := query.key(tag)) is not None
    )


def _one(tag: int, matcher: Matcher) -> _Filter:
    name = f"{tag:08X}"
    return lambda entity: matcher(values_of(entity.elements.get(name)))


def _computed(tag: int, key: JsonElement, values: Callable[[Item], list[str]]) -> _Filter:
    matches = compile_key(_COMPUTED_VRS[tag], tag, key)
    return lambda entity: matches(values(entity.item))


def _count(index: Index, tag: int, key: JsonElement) -> _Filter:
    matches = compile_key(_COMPUTED_VRS[tag], tag, key)
    which = _OF_PATIENT.index(tag)
    return lambda study: matches([patient_counts(index, study)[which]])


def _date_and_time(date: int, date_key: JsonElement, time: int, time_key: JsonElement) -> _Filter:
    matches = compile_date_and_time(date, date_key, time_key)
    names = f"{date:08X}", f"{time:08X}"
    return lambda entity: matches(*(values_of(entity.elements.get(name)) for name in names))


def _times_of_dates(query: Query, keys: Mapping[int, JsonElement]) -> Mapping[int, int]:
    """Return the dates and times that are matched as one."""
    if not query.combined_date_time:
        return {}
    return {date: time for date, time in TIME_OF_DATE.items() if date in keys and time in keys}


def _studies(index: Index, query: Query, filters: _Filters) -> Iterator[Entity]:
    below = filters.restricts(Level.SERIES) or filters.restricts(Level.INSTANCE)
    for study in map(Entity.study, plan(query).studies(index)):
        if filters.keep_study(study) and (
            query.level > Level.STUDY or not below or any(_series(index, query, study, filters))
        ):
            yield study


def _names_instances_alone(query: Query) -> bool:
    """Tell whether instances are named, and nothing above them (a relational query)."""
    return (
        query.level is Level.INSTANCE
        and bool(query.unique_values(Level.INSTANCE))
        and not (query.unique_values(Level.SERIES) or query.unique_values(Level.STUDY))
    )


def _named_instances(index: Index, query: Query, filters: _Filters) -> Iterator[Match]:
    """Yield the instances that are named and match, from where the index says that they are."""
    places: dict[str, dict[str, list[str]]] = {}
    for uid in filter(is_uid, dict.fromkeys(query.unique_values(Level.INSTANCE))):
        for study_uid, series_uid in index.series_of(uid):
            places.setdefault(study_uid, {}).setdefault(series_uid, []).append(uid)
    for study in map(Entity.study, ByUID(tuple(places)).studies(index)):
        if not filters.keep_study(study):
            continue
        study_uid = study_uid_of(study.item)
        for found in index.named_series(study_uid, places[study_uid]):
            series = Entity.below(Level.SERIES, found)
            if not filters.keep(Level.SERIES, series):
                continue
            series_uid = str(found["uid"])
            uids = places[study_uid][series_uid]
            for item in index.named_instances(study_uid, series_uid, uids):
                instance = Entity.below(Level.INSTANCE, item)
                if filters.keep(Level.INSTANCE, instance):
                    yield Match(study, series, instance)


def _patients(studies: Iterator[Entity]) -> Iterator[Match]:
    """Yield one match for each patient; those seen are remembered, some hundred bytes each."""
    seen: set[tuple[str | None, str | None]] = set()
    for study in studies:
        patient = _patient(study.elements)
        if patient not in seen:
            seen.add(patient)
            yield Match(study)


def _patient(elements: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return what tells a patient from others: the ID and who issued it."""
    patient_id = first_text(elements, _PATIENT_ID)
    if patient_id is None:
        # Patients without an ID are told apart by name; there is nothing else.
        return None, str(elements.get(_PATIENT_NAME))
    return patient_id, first_text(elements, _ISSUER_OF_PATIENT_ID)


def _series(index: Index, query: Query, study: Entity, filters: _Filters) -> Iterator[Entity]:
    """Yield the series of a study that match."""
    study_uid, uids = study_uid_of(study.item), query.unique_values(Level.SERIES)
    named = index.named_series(study_uid, filter(is_uid, dict.fromkeys(uids)))
    below = filters.restricts(Level.INSTANCE) and query.level < Level.INSTANCE
    for item in named if uids else index.series(study_uid):
        series = Entity.below(Level.SERIES, item)
        if filters.keep(Level.SERIES, series):
            if below and not any(_instances(index, query, study, series, filters)):
                continue
            yield series


def _instances(
    index: Index, query: Query, study: Entity, series: Entity, filters: _Filters
) -> Iterator[Entity]:
    """Yield the instances of a series that match."""
    study_uid, series_uid = study_uid_of(study.item), str(series.item["uid"])
    uids = tuple(filter(is_uid, dict.fromkeys(query.unique_values(Level.INSTANCE))))
    # Of more than there are, reading all costs less.
    by_name = uids and len(uids) <= _number(series.item, "instances")
    named = index.named_instances(study_uid, series_uid, uids)
    for item in named if by_name else index.instances(study_uid, series_uid):
        instance = Entity.below(Level.INSTANCE, item)
        if filters.keep(Level.INSTANCE, instance):
            yield instance


def _uid(value: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": [value]}


def _number(item: Item, name: str) -> int:
    return int(str(item[name]))


def texts(item: Item, name: str) -> list[str]:
    """Return a set attribute of an item as a sorted list; empty when the item has none."""
    value = item.get(name, frozenset())
    return sorted(value) if isinstance(value, frozenset) else []


#: Instance Availability (0008,0056) of all there is.
INSTANCE_AVAILABILITY: Final = "ONLINE"

#: Computed attributes whose values are in an item, and of which level that is: modalities and SOP
#: classes in study, series and instances of a study, instances of a series.
COMPUTED_IN_ITEM: Final[Mapping[int, tuple[Level, Callable[[Item], list[str]]]]] = {
    0x00080061: (Level.STUDY, lambda study: texts(study, "modalities")),
    0x00080062: (Level.STUDY, lambda study: texts(study, "sop_class_uids")),
    0x00201206: (Level.STUDY, lambda study: [str(study["series"])]),
    0x00201208: (Level.STUDY, lambda study: [str(study["instances"])]),
    0x00201209: (Level.SERIES, lambda series: [str(series["instances"])]),
}
