"""What a query reads follows its answer, not the archive, as Amazon's own engine counts it."""

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from typing import Any, Final

import pytest

from lenticular import answers
from lenticular.attributes import UNIQUE_KEY, Level
from lenticular.index import Index, Reading
from lenticular.index_items import Item, month_item, study_items
from lenticular.index_keys import STUDY_SORT_KEY, study_partition, study_uid_of
from lenticular.planner import plan
from lenticular.query import Model, Query, read_keys, read_query
from tests.cloud import clinic_of_studies
from tests.cloud.dynamodb_local import DynamoDBLocal

#: Before any other study, on one day of a week that lies in two months.
_DAY: Final = date(2015, 12, 30)
_FIRST: Final = 50_000_000
_UIDS: Final = [clinic_of_studies.study_uid(_FIRST + number) for number in range(10)]
#: Keys that ten studies match, in an archive of any size.
_QUERIES: Final = {
    "by-patient": ["PatientID=PID9999999"],
    "by-accession": ["AccessionNumber=SAME"],
    "study-uid": ["StudyInstanceUID=" + "\\".join(_UIDS)],
    "entity-uid": ["SeriesInstanceUID=" + "\\".join(f"{uid}.1" for uid in _UIDS)],
    "by-date, a day": ["StudyDate=20151230"],
    "by-date, a week": ["StudyDate=20151228-20160103"],
    "by-date, until": ["StudyDate=-20160103"],
    "by-name": ["PatientName=mullerheim*"],
    "by-name, accented": ["PatientName=Müllerheim^*"],
}
#: A key that no index leads to and nothing matches.
_NO_WAY_BUT_ALL: Final = ["StudyID=none"]


def _the_ten() -> Iterator[Item]:
    yield month_item(f"{_DAY:%Y-%m}")
    for number in range(_FIRST, _FIRST + 10):
        yield from study_items(
            clinic_of_studies.copies(
                number, patient=9_999_999, day=_DAY, name="Müllerheim^Ännchen", accession="SAME",
                instances=3,
            ),
            newest=True,
        )  # fmt: skip


def _query(*texts: str) -> Query:
    keys = read_keys(["QueryRetrieveLevel=STUDY", *texts])
    return read_query(Model.STUDY_ROOT, keys, relational=True)


def _ask(index: Index, *texts: str) -> tuple[set[str], Reading]:
    """Return the studies that were found, and what was read for it."""
    reading = Reading()
    found = [
        str(match.study.item["pk"]).removeprefix("STUDY#")
        for match in answers.find(index.noting(reading), _query(*texts))
    ]
    assert len(found) == len(set(found))
    return set(found), reading


@pytest.mark.slow
def test_the_same_answer_reads_the_same_in_an_archive_a_hundred_times_as_large(
    dynamodb_local: DynamoDBLocal,
) -> None:
    table = dynamodb_local.table()
    index = dynamodb_local.index(table)
    dynamodb_local.load(table, _the_ten())
    studies, costs = 0, {}
    for size in (1_000, 10_000, 100_000):
        # What is below a study would take minutes to load, and is in no index that leads to it.
        below = size < 100_000
        dynamodb_local.load(
            table, clinic_of_studies.items(size - studies, first=studies, below=below)
        )
        studies = size
        for name, keys in _QUERIES.items():
            found, reading = _ask(index, *keys)
            assert found == set(_UIDS), name
            assert plan(_query(*keys)).name == name.partition(",")[0]
            costs[size, name] = reading
        if size < 100_000:  # the engine takes minutes to scan so many
            found, reading = _ask(index, *_NO_WAY_BUT_ALL)
            assert found == set()
            # Study items, not one of any series, instance, tally or month.
            assert reading.items == size + 10
    for name in _QUERIES:
        read = [costs[size, name] for size in (1_000, 10_000, 100_000)]
        assert max(each.items for each in read) <= 1.1 * min(each.items for each in read)
        assert max(each.capacity_units for each in read) <= 1.1 * min(
            each.capacity_units for each in read
        )
        # Ten studies; behind series, the ten entries that lead there, and the ten series.
        assert max(each.items for each in read) <= 30


def test_instances_that_are_named_alone_are_read_and_not_their_study(
    dynamodb_local: DynamoDBLocal,
) -> None:
    table = dynamodb_local.table()
    index = dynamodb_local.index(table)
    [copy] = clinic_of_studies.copies(1, patient=1, day=_DAY, name="Müllerheim")
    uid = copy.key.study_instance_uid
    copies = [
        replace(
            copy,
            key=replace(
                copy.key,
                series_instance_uid=f"{uid}.{series}",
                sop_instance_uid=f"{uid}.{series}.{number}",
            ),
        )
        for series in range(20)
        for number in range(4)
    ]
    dynamodb_local.load(table, study_items(copies, newest=True))
    named = [f"{uid}.{series}.3" for series in range(0, 20, 2)]
    keys = read_keys(["QueryRetrieveLevel=IMAGE", "SOPInstanceUID=" + "\\".join(named)])
    reading = Reading()
    found = answers.find(index.noting(reading), read_query(Model.STUDY_ROOT, keys, relational=True))
    assert [str(match.instance.item["uid"]) for match in found if match.instance] == named
    # An entry, a series and an instance for each, and the study.
    assert reading.items == 3 * len(named) + 1


def test_what_is_named_is_read_a_hundred_at_a_time(dynamodb_local: DynamoDBLocal) -> None:
    table = dynamodb_local.table()
    index = dynamodb_local.index(table)
    dynamodb_local.load(table, clinic_of_studies.items(150, below=False))
    named = [clinic_of_studies.study_uid(number) for number in range(249, -1, -1)]
    reading = Reading()
    found = list(map(study_uid_of, index.noting(reading).named_studies(named)))
    assert found == named[100:]
    assert (reading.pages, reading.items) == (3, 150)
    # An item of up to 4 KB is half a unit; this engine charges nothing for what is not there.
    assert reading.capacity_units == 150 / 2


def test_what_dynamodb_leaves_out_of_a_long_answer_is_read_too(
    dynamodb_local: DynamoDBLocal,
) -> None:
    table = dynamodb_local.table()
    index = dynamodb_local.index(table)
    uids = [f"1.2.{number}" for number in range(50)]
    for uid in uids:
        item: Item = {"pk": study_partition(uid), "sk": STUDY_SORT_KEY, "filling": "x" * 390_000}
        dynamodb_local.load(table, [item])
    reading = Reading()
    found = index.noting(reading, whole_items=True).named_studies(uids)
    assert list(map(study_uid_of, found)) == uids
    assert reading.pages > 1


_ODD_DATES: Final = ("", "2020", "202003", "2020.03.05", "20201399", "20200305", "20200306", "1999")
_ODD_TIMES: Final = ("", "10", "103059.5", "10:30", "25")
_ODD_NAMES: Final[tuple[dict[str, str], ...]] = (
    {},
    {"Alphabetic": "Müller^Jürgen"},
    {"Alphabetic": "MULLER"},
    {"Alphabetic": "Иванов^Иван"},
    {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"},
    {"Ideographic": "山田^太郎"},
    {"Alphabetic": "山田^太郎"},
    {"Alphabetic": "O'Brien^^^Dr"},
    {"Alphabetic": "X" * 250 + "^Y"},
)
_ODD_IDS: Final = ("", "P1", "P1*", " P1", "p1", "P" * 250)


def _odd_studies() -> Iterator[Item]:
    """Make a study of each combination that is not like the others."""
    texts = itertools.product(_ODD_DATES, _ODD_TIMES, range(len(_ODD_NAMES)))
    for number, (day, time, name) in enumerate(texts):
        [copy] = clinic_of_studies.copies(number, patient=number, day=_DAY, name="")
        said: dict[Any, Any] = {level: dict(each) for level, each in copy.attributes.items()}
        patient, study, series, instance = said.values()
        patient["00100010"] = {"vr": "PN", "Value": [_ODD_NAMES[name]]}
        patient["00100020"] = {"vr": "LO", "Value": [_ODD_IDS[number % len(_ODD_IDS)] or None]}
        study["00080020"] = {"vr": "DA", "Value": [day or None]}
        study["00080030"] = {"vr": "TM", "Value": [time or None]}
        study["00080050"] = {"vr": "SH", "Value": [f"A{number % 7}"]}
        for each in (patient, study):
            for tag in [tag for tag, e in each.items() if e["Value"] in ([None], [{}])]:
                del each[tag]
        del series, instance
        object.__setattr__(copy, "attributes", said)
        items = study_items([copy], newest=True)
        yield from items
        months = {str(item["study_month"]) for item in items if "study_month" in item}
        yield from map(month_item, months - {"unknown"})


def _by_reading_all(
    index: Index, query: Query, studies: Iterable[answers.Entity]
) -> Iterator[answers.Match]:
    """Match as the archive does, but of candidates that no plan has chosen."""
    filters = answers._Filters(index, query)
    below = filters.restricts(Level.SERIES) or filters.restricts(Level.INSTANCE)
    for study in filter(filters.keep_study, studies):
        if query.level <= Level.STUDY and not below:
            yield answers.Match(study)
            continue
        series = list(answers._series(index, query, study, filters))
        if query.level <= Level.STUDY and series:
            yield answers.Match(study)
        elif query.level is Level.SERIES:
            yield from (answers.Match(study, each) for each in series)
        elif query.level is Level.INSTANCE:
            for each in series:
                instances = answers._instances(index, query, study, each, filters)
                yield from (answers.Match(study, each, instance) for instance in instances)


def _found(level: Level, matches: Iterable[answers.Match]) -> list[str]:
    """Name what was found, each once."""
    named = {
        str(answers._patient(match.study.elements))
        if level is Level.PATIENT
        else "/".join(
            str(entity.item["sk" if entity is not match.study else "pk"])
            for entity in (match.study, match.series, match.instance)
            if entity is not None
        )
        for match in matches
    }
    return sorted(named)


@pytest.mark.slow
def test_every_plan_finds_what_reading_every_study_finds(dynamodb_local: DynamoDBLocal) -> None:
    table = dynamodb_local.table()
    index = dynamodb_local.index(table)
    unique = {(item["pk"], item["sk"]): item for item in _odd_studies()}
    dynamodb_local.load(table, unique.values())
    everything = list(map(answers.Entity.study, index.every_study()))
    assert len(everything) == len(_ODD_DATES) * len(_ODD_TIMES) * len(_ODD_NAMES)
    choose = random.Random(5)  # noqa: S311 - a choice, not a secret
    days = (*_ODD_DATES[:1], "2020", "202003", "20200305", "20200306", "19990101", "2020.03.05")
    times = ("", "10", "1030", "103059.5", "103059.6", "11", "0000", "235959.9")
    plans, answered = set(), 0
    for _ in range(150):
        level, relational = choose.choice(list(Level)), choose.random() < 0.5
        keys = []
        for named in UNIQUE_KEY:
            # Below the level, a unique key is refused unless the query is relational.
            if named > Level.PATIENT and (relational or named <= level) and choose.random() < 0.15:
                numbers = choose.sample(range(len(everything)), choose.randint(1, 3))
                ends = {Level.STUDY: "", Level.SERIES: ".1", Level.INSTANCE: ".1.0"}
                uids = (clinic_of_studies.study_uid(number) + ends[named] for number in numbers)
                keys.append(f"{UNIQUE_KEY[named].keyword}=" + "\\".join(uids))
        if choose.random() < 0.7:
            first, last = choose.choice(days), choose.choice(days)
            keys.append("StudyDate=" + choose.choice((first, f"{first}-{last}", f"{first}-")))
        if choose.random() < 0.4:
            first, last = choose.choice(times), choose.choice(times)
            keys.append("StudyTime=" + choose.choice((first, f"{first}-{last}")))
        if choose.random() < 0.3:
            name = "=".join(choose.choice(_ODD_NAMES).values())
            begin, end = sorted(choose.randint(0, 260) for _ in "ab")
            part = choose.choice((name[:end], f"*{name[begin:end]}", f"?{name[1:end]}"))
            keys.append(f"PatientName={part}{choose.choice('*?^ =')}")
        if choose.random() < 0.2:
            keys.append(f"PatientID={choose.choice(_ODD_IDS)}")
        if choose.random() < 0.1:
            keys.append(f"AccessionNumber={choose.choice(('A1', 'A2 ', 'A?', 'a1'))}")
        # Not `read_query`, which wants what a hierarchical query needs of a level above.
        query = Query(level, read_keys(keys), relational, choose.random() < 0.5)
        wanted = _found(level, _by_reading_all(index, query, everything))
        found = list(answers.find(index, query))
        assert _found(level, found) == wanted, (level, relational, keys, plan(query))
        assert len(found) == len(wanted)
        plans.add(plan(query).name)
        answered += bool(wanted)
    assert plans == {
        *("study-uid", "entity-uid", "by-accession", "by-patient", "by-name", "by-date"),
        "every-study",
    }
    assert answered > 50
