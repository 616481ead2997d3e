"""The index: the one DynamoDB table, written from stored copies and read by queries.

Ingest needs no transaction. For a batch of copies of one study it

    1. writes each instance item, conditionally, so that the right copy is shown whatever the order;
    2. for each series touched: adds the instances to its tallies, which are sets; then reads the
       series item, counts the members, merges, and replaces the series item only if it is still
       the one that was read;
    3. does the same for the study item from the series items; before the first of a month, it
       lists the month.

Every read is strongly consistent and follows the write below it, and every replacement compares
before it sets. So of two batches that race, the one that replaces last has seen the writes of both:

    A: add i1 ──────── count=1 ─────────── replace? no, B was here → count=2 → replace
    B:      add i2 ── count=2 ── replace

A crash at any line leaves the queue's message undeleted, and doing it all again changes nothing.

Whoever writes what it read of the bucket has a lease on the study meanwhile, for a deletion to wait
for (`deletion`): no lock, for nobody else does.
"""

import copy as copying
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from . import index_items
from .archive import InstanceKey
from .aws import conditional_write, error_code
from .errors import ItemRefused, StoreUnavailable
from .index_items import (
    CONVERSION_ATTRIBUTES,
    Converted,
    Copy,
    Item,
    Procedure,
    Registers,
    Series,
    from_dynamodb,
    quarantine_item,
    registers_of,
    study_of,
    to_dynamodb,
)
from .index_keys import (
    INDEXED_CHARACTERS,
    INSTANCE_PREFIX,
    MONTH_PARTITION,
    PROCEDURE_PREFIX,
    QUARANTINE_PARTITION,
    SERIES_PREFIX,
    STUDY_SORT_KEY,
    UNKNOWN_MONTH,
    copies_sort_prefix,
    instance_sort_key,
    instances_sort_prefix,
    lease_partition,
    procedure_sort_key,
    series_of_instance,
    series_sort_key,
    sop_instance_uid_of,
    study_partition,
    study_uid_of,
    tallies_sort_prefix,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

FINGERPRINT: Final = "fingerprint"
#: An item that is too large, or a key that is too long: the same request will never be taken.
_REFUSED_FOR_EVER: Final = frozenset(
    {"ItemCollectionSizeLimitExceededException", "ValidationException"}
)
#: Half of a study item says which copy each of its attributes came from; only writers ask that.
#: "Attributes" is a word of DynamoDB's own, and needs another name here.
_OF_INTEREST_TO_QUERIES: Final = {
    "ProjectionExpression": "pk, sk, uid, #attributes, series, instances, modalities, "
    "sop_class_uids, patient_id",
    "ExpressionAttributeNames": {"#attributes": "attributes"},
}
#: The index whose entries have nothing but keys; DynamoDB refuses to be asked for more of it.
_KEYS_ALONE: Final = "by-uid"
#: Races on one study end after a few rounds; more says that something else is wrong.
_MOST_ROUNDS: Final = 50
_PARALLEL_WRITES: Final = 16
#: What BatchGetItem takes.
_MOST_NAMED_AT_A_TIME: Final = 100
#: Items that something is derived from: they change only if nobody changed them in between.
_FINGERPRINTED: Final = (STUDY_SORT_KEY, SERIES_PREFIX, PROCEDURE_PREFIX)

_T = TypeVar("_T")


@dataclass(slots=True)
class Reading:
    """What has been read of the table on behalf of one query.

    Attributes:
        items: items that DynamoDB read, whether they match or not
        pages: answers of DynamoDB
        capacity_units: what DynamoDB charges for them; 0 where a stand-in does not say
        seconds: spent waiting for them
        before_page: called before each page is asked for
        on_page: called after each page; what either raises ends the reading
    """

    items: int = 0
    pages: int = 0
    capacity_units: float = 0.0
    seconds: float = 0.0
    before_page: Callable[[], None] = lambda: None
    on_page: Callable[[], None] = lambda: None


class Index:
    """Reads and writes the table. Safe to share between threads."""

    def __init__(self, client: "DynamoDBClient", table: str, *, newest_shown: bool = True) -> None:
        """Use `table`; `newest_shown` is the policy for copies that differ."""
        self._client = client
        self._reading: Reading | None = None
        self._whole_items = False
        self.table = table
        self.newest_shown = newest_shown

    def noting(self, reading: Reading, *, whole_items: bool = False) -> "Index":
        """Return this index, for a reader whose reading is noted; for one thread at a time.

        Without `whole_items` it reads of them what queries ask for.
        """
        noting = copying.copy(self)
        noting._reading = reading  # noqa: SLF001 - its own, of a copy of itself
        noting._whole_items = whole_items  # noqa: SLF001
        return noting

    # Writing

    def record(self, copies: Sequence[Copy]) -> None:
        """Make the index hold these copies, all of one study.

        Raises:
            StoreUnavailable: some of it was not written; doing it again is safe.
            ItemRefused: some of it can never be written.
        """
        with ThreadPoolExecutor(min(_PARALLEL_WRITES, len(copies))) as pool:
            copies = list(pool.map(self._record_instance, copies))
        by_series: dict[str, list[Copy]] = defaultdict(list)
        for copy in copies:
            by_series[copy.key.series_instance_uid].append(copy)
        for of_series in by_series.values():
            self._record_series(of_series)
        self._record_study(copies)

    def _record_instance(self, copy: Copy) -> Copy:
        """Show this copy if the policy prefers it to the one shown; list both when they differ.

        Return it as it is to be recorded: a content keeps the stamp that it first came with.
        """
        item = index_items.instance_item(copy)
        for _ in range(_MOST_ROUNDS):
            if self.replace(item, None):
                return copy
            present = self._get(str(item["pk"]), str(item["sk"]), consistent=True)
            if present is None:
                continue  # a rebuild removed it a moment ago
            # A retired original that is sent again is a new object: no news, whatever its date.
            copy = copy.first_received(self._known_stamp(item, present))
            item = index_items.instance_item(copy)
            stamp, shown = copy.stamp, str(present["stamp"])
            if present["object_key"] != item["object_key"]:
                # Both are listed before either is shown: behind it nobody knows the other's name.
                for each in (present, item):
                    self._put(index_items.copy_item(each))
            if stamp == shown or (stamp > shown) is not self.newest_shown:
                return copy
            # A retired content is to be had from its form alone, shown or not.
            forms = {"forms": present["forms"]} if "forms" in present else {}
            if self.replace(item | forms, present):
                return copy
        raise StoreUnavailable("the instance is being written by too many at a time")

    def _known_stamp(self, item: Item, present: Item) -> str | None:
        """Return the stamp that the content of `item` is known by, None when it is not known."""
        if present["object_key"] == item["object_key"]:
            return str(present["stamp"])
        listed = index_items.copy_item(item)
        known = self._get(str(listed["pk"]), str(listed["sk"]), consistent=True)
        return str(known["stamp"]) if known else None

    def _record_series(self, copies: Sequence[Copy]) -> None:
        study_instance_uid = copies[0].key.study_instance_uid
        series_instance_uid = copies[0].key.series_instance_uid
        news = self._merged(Registers(), map(index_items.series_registers, copies))
        sop_class_uids = frozenset(copy.sop_class_uid for copy in copies)
        self._add_to_tallies(copies)

        def derive(present: Item | None) -> Item:
            known = Series.from_item(present) if present else None
            return Series(
                study_instance_uid,
                series_instance_uid,
                self._merged(known.registers if known else Registers(), [news]),
                sop_class_uids | (known.sop_class_uids if known else frozenset()),
                sum(
                    len(index_items.members_of(tally))
                    for tally in self._tallies(study_instance_uid, series_instance_uid)
                ),
            ).item()

        self._replace(
            study_partition(study_instance_uid), series_sort_key(series_instance_uid), derive
        )

    def _add_to_tallies(self, copies: Sequence[Copy]) -> None:
        """Add instances of one series to its tallies; those that are in them change nothing."""
        key = copies[0].key
        uids = (copy.key.sop_instance_uid for copy in copies)
        tallies = index_items.tally_items(key.study_instance_uid, key.series_instance_uid, uids)

        def add(tally: Item) -> None:
            tagged = to_dynamodb(tally)
            self._call(
                self._client.update_item,
                TableName=self.table,
                Key={name: tagged[name] for name in ("pk", "sk")},
                UpdateExpression="ADD members :members",
                ExpressionAttributeValues={":members": tagged["members"]},
            )

        with ThreadPoolExecutor(len(tallies)) as pool:
            list(pool.map(add, tallies))

    def _record_study(self, copies: Sequence[Copy]) -> None:
        study_instance_uid = copies[0].key.study_instance_uid
        news = self._merged(Registers(), map(index_items.study_registers, copies))

        def derive(present: Item | None) -> Item:
            known = registers_of(present) if present else Registers()
            series = map(Series.from_item, self.series(study_instance_uid, consistent=True))
            return study_of(study_instance_uid, self._merged(known, [news]), series).item()

        self._replace(study_partition(study_instance_uid), STUDY_SORT_KEY, derive)

    def _merged(self, first: Registers, others: Iterable[Registers]) -> Registers:
        for other in others:
            first = first.merged(other, newest=self.newest_shown)
        return first

    def _replace(self, pk: str, sk: str, derive: Callable[[Item | None], Item]) -> None:
        """Replace an item by what `derive` makes of it, only if nobody else has in between."""
        for _ in range(_MOST_ROUNDS):
            present = self._get(pk, sk, consistent=True)
            if self.replace(derive(present), present):
                return
        raise StoreUnavailable("the study is being written by too many at a time")

    def replace(self, item: Item, present: Item | None) -> bool:
        """Write an item if what the table has is still `present`; False when it is not.

        `present` is the item as it was read, None where there was none. An item that is right
        already is not written.
        """
        # DynamoDB has no empty set, so an item that was read never shows one.
        item = {name: value for name, value in item.items() if value != frozenset()}
        if str(item["sk"]).startswith(_FINGERPRINTED):
            item = {**item, FINGERPRINT: _fingerprint(item)}
        if item == present:
            return True
        if item["sk"] == STUDY_SORT_KEY:
            month = str(item["study_month"])
            if present is None or present.get("study_month") != month:
                self.list_month(month)
        return self._conditionally(
            self._client.put_item, {"Item": to_dynamodb(item)}, unchanged=present
        )

    def remove(self, present: Item) -> bool:
        """Remove an item if it is still as it was read; False when it is not."""
        key = _key((str(present["pk"]), str(present["sk"])))
        return self._conditionally(self._client.delete_item, {"Key": key}, unchanged=present)

    def _conditionally(
        self, operation: Callable[..., Any], request: dict[str, Any], *, unchanged: Item | None
    ) -> bool:
        request["ConditionExpression"] = "attribute_not_exists(pk)"
        if unchanged is not None:
            # A study, series or procedure item has a fingerprint of all it says; of an instance
            # item or a listed content nothing changes without its stamp, of a tally only its
            # members.
            compared = (FINGERPRINT, "stamp", "members", *CONVERSION_ATTRIBUTES)
            names = [name for name in compared if name in unchanged]
            values = to_dynamodb({name: unchanged[name] for name in names})
            conditions = [f"#{name} = :{name}" for name in names]
            if str(unchanged["sk"]).startswith(INSTANCE_PREFIX):
                # Transcoding adds to it without a new stamp, and must not be lost.
                absent = [name for name in CONVERSION_ATTRIBUTES if name not in unchanged]
                conditions += [f"attribute_not_exists({name})" for name in absent]
            request["ConditionExpression"] = " AND ".join(conditions)
            request["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
            request["ExpressionAttributeValues"] = {f":{name}": values[name] for name in names}
        return conditional_write(operation, _failure, TableName=self.table, **request)

    def record_converted(
        self, original: InstanceKey, converted: Converted, *, shown: bool = True
    ) -> bool:
        """Say what became of an original; False when no item shows it (any more).

        Forms join those that are known, and take the place of an older one of the same object. A
        reason stands until another one comes. With `shown` False the forms join also those of an
        instance that shows another content, as they do in a rebuild; the rest is of what is shown.
        """
        pk = study_partition(original.study_instance_uid)
        sk = instance_sort_key(original.series_instance_uid, original.sop_instance_uid)
        for _ in range(_MOST_ROUNDS):
            present = self._get(pk, sk, consistent=True)
            if present is None:
                return False
            is_shown = present["object_key"] == str(original)
            if shown and not is_shown:
                return False
            attributes = converted.attributes(original.sha256) if is_shown else {}
            forms = {"forms": index_items.forms_with(present, converted.forms)}
            news = to_dynamodb(attributes | forms)
            condition = "object_key = :object_key AND "
            values: dict[str, Any] = {":object_key": {"S": str(present["object_key"])}}
            if "forms" in present:
                condition += "forms = :present"
                values[":present"] = to_dynamodb(present)["forms"]
            else:
                condition += "attribute_not_exists(forms)"
            if conditional_write(
                self._client.update_item,
                _failure,
                TableName=self.table,
                Key={"pk": {"S": pk}, "sk": {"S": sk}},
                UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in news),
                ConditionExpression=condition,
                ExpressionAttributeValues={
                    **values,
                    **{f":{name}": value for name, value in news.items()},
                },
            ):
                return True
        raise StoreUnavailable("the instance is being written by too many at a time")

    def quarantine(self, key: str, reason: str, received: str, calling_ae_title: str) -> None:
        """List an object that cannot be placed."""
        self._put(quarantine_item(key, reason, received, calling_ae_title))

    def list_month(self, month: str) -> None:
        """Make readers of open date ranges look into a month, before there is a study in it.

        A month stays listed when its last study goes: looking into it costs half a unit.
        """
        if month != UNKNOWN_MONTH:
            self._put(index_items.month_item(month))

    # Leases

    @contextmanager
    def leased(self, studies: Iterable[str]) -> Iterator[None]:
        """Within the block read of the bucket, and write what was read, of these studies.

        Raises `StoreUnavailable` behind the block too, when a deletion has not waited for its end:
        what was read may not be so any more. Doing it again is safe.
        """
        name = uuid4().hex
        leases: list[Item] = [
            {"pk": lease_partition(each), "sk": name} for each in dict.fromkeys(studies)
        ]
        with ThreadPoolExecutor(max(1, min(_PARALLEL_WRITES, len(leases)))) as pool:
            try:
                _all_of(pool, self._put, leases)
                yield
            except BaseException:
                with suppress(StoreUnavailable):
                    _all_of(pool, self._end, leases)
                raise
            ended = _all_of(pool, self._end, leases)
        if not all(ended):
            raise StoreUnavailable("this took so long that a deletion has gone on without it")

    def leases(self, study_instance_uid: str) -> frozenset[str]:
        """Return the names of the leases on a study, strongly consistent."""
        found = self._partition(lease_partition(study_instance_uid), "", consistent=True)
        return frozenset(str(item["sk"]) for item in found)

    def end_lease(self, study_instance_uid: str, name: str) -> None:
        """End a lease whose holder is not waited for any longer."""
        self._end({"pk": lease_partition(study_instance_uid), "sk": name})

    def _end(self, lease: Item) -> bool:
        """End a lease; False when it was ended before."""
        return conditional_write(
            self._client.delete_item,
            _failure,
            TableName=self.table,
            Key=to_dynamodb(lease),
            ConditionExpression="attribute_exists(pk)",
        )

    def _put(self, item: Item) -> None:
        """Write an item that is the same whoever writes it."""
        self._call(self._client.put_item, TableName=self.table, Item=to_dynamodb(item))

    # Reading

    def study(self, study_instance_uid: str, *, consistent: bool = False) -> Item | None:
        """Return a study's item, None when there is no such study."""
        pk = study_partition(study_instance_uid)
        return self._get(pk, STUDY_SORT_KEY, consistent=consistent)

    def series(self, study_instance_uid: str, *, consistent: bool = False) -> Iterator[Item]:
        """Return the items of a study's series, in order of UID."""
        return self._partition(
            study_partition(study_instance_uid), SERIES_PREFIX, consistent=consistent
        )

    def named_studies(self, study_instance_uids: Iterable[str]) -> Iterator[Item]:
        """Return the items of those studies that there are, in this order; each named once."""
        return self._named((study_partition(uid), STUDY_SORT_KEY) for uid in study_instance_uids)

    def named_series(
        self, study_instance_uid: str, series_instance_uids: Iterable[str]
    ) -> Iterator[Item]:
        """Return the items of those series that a study has, in this order; each named once."""
        pk = study_partition(study_instance_uid)
        return self._named((pk, series_sort_key(uid)) for uid in series_instance_uids)

    def named_instances(
        self, study_instance_uid: str, series_instance_uid: str, sop_instance_uids: Iterable[str]
    ) -> Iterator[Item]:
        """Return the items of those instances that a series has, in this order; each named once."""
        pk = study_partition(study_instance_uid)
        return self._named(
            (pk, instance_sort_key(series_instance_uid, uid)) for uid in sop_instance_uids
        )

    def instances(
        self, study_instance_uid: str, series_instance_uid: str | None = None
    ) -> Iterator[Item]:
        """Return the instance items of a series, or of a whole study."""
        prefix = instances_sort_prefix(series_instance_uid)
        return self._partition(study_partition(study_instance_uid), prefix, consistent=False)

    def instance_locations(
        self, study_instance_uid: str, series_instance_uid: str | None = None
    ) -> Iterator[list[Item]]:
        """Yield, page by page, what `INSTANCE_LOCATION` names of the items `instances` returns.

        It takes a fraction of the time to carry and to parse. It is strongly consistent: what a
        study or a series that was read before counts is there.
        """
        prefix = instances_sort_prefix(series_instance_uid)
        return self._whole_pages(
            "query",
            ConsistentRead=True,
            **_key_condition(study_partition(study_instance_uid), prefix),
            **_projection(index_items.INSTANCE_LOCATION),
        )

    def instance_contents(
        self, study_instance_uid: str, series_instance_uid: str
    ) -> Iterator[Item]:
        """Return of the instance items of a series what `INSTANCE_CONTENT` names."""
        prefix = instances_sort_prefix(series_instance_uid)
        return self._pages(
            "query",
            **_key_condition(study_partition(study_instance_uid), prefix),
            **_projection(index_items.INSTANCE_CONTENT),
        )

    def instance(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uid: str,
        *,
        consistent: bool = False,
    ) -> Item | None:
        """Return one instance's item, None when there is none."""
        return self._get(
            study_partition(study_instance_uid),
            instance_sort_key(series_instance_uid, sop_instance_uid),
            consistent=consistent,
        )

    def series_of(self, sop_instance_uid: str) -> list[tuple[str, str]]:
        """Return study and series of every instance with this UID, eventually consistent."""
        found = map(series_of_instance, self.by_key("by-uid", ("uid", sop_instance_uid)))
        return [place for place in found if place is not None]

    def uid_pages(self) -> Iterator[list[tuple[str, tuple[str, str]]]]:
        """Yield, page by page, every SOP Instance UID with study and series, as `series_of`."""
        for page in self._whole_pages("scan", IndexName="by-uid"):
            found = ((str(item["uid"]), series_of_instance(item)) for item in page)
            yield [(uid, series) for uid, series in found if series is not None]

    def procedure(self, study_instance_uid: str, sop_instance_uid: str) -> Item | None:
        """Return a performed procedure step's item of a study, None when there is none."""
        pk, sk = study_partition(study_instance_uid), procedure_sort_key(sop_instance_uid)
        return self._get(pk, sk, consistent=True)

    def procedures(self, study_instance_uid: str) -> Iterator[Procedure]:
        """Return the performed procedure steps of a study."""
        pk = study_partition(study_instance_uid)
        return map(Procedure.from_item, self._partition(pk, PROCEDURE_PREFIX, consistent=True))

    def procedures_since(self, month: str, moment: str) -> Iterator[Procedure]:
        """Return the steps of a month (`YYYY-MM`) that started at or after a moment, in order."""
        found = self.by_key(
            "by-procedure",
            ("procedure_month", month),
            "procedure_moment >= :moment",
            moment=moment,
        )
        return map(Procedure.from_item, found)

    def sop_instance_uids(self, study_instance_uid: str) -> Iterator[str]:
        """Return the SOP Instance UID of every instance of a study, strongly consistent."""
        items = self._pages(
            "query",
            ConsistentRead=True,
            ProjectionExpression="sk",
            **_key_condition(study_partition(study_instance_uid), INSTANCE_PREFIX),
        )
        return map(sop_instance_uid_of, items)

    def copies(
        self,
        study_instance_uid: str,
        series_instance_uid: str,
        sop_instance_uid: str | None = None,
    ) -> Iterator[Item]:
        """Return the listed contents of an instance, or of all of a series.

        An instance that has but the one it shows has none.
        """
        prefix = copies_sort_prefix(series_instance_uid, sop_instance_uid)
        return self._partition(study_partition(study_instance_uid), prefix, consistent=False)

    def months(self, first: str, last: str) -> list[str]:
        """Return the months from `first` to `last`, in order, that studies may be of."""
        items = self._pages(
            "query",
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":pk": {"S": MONTH_PARTITION},
                ":first": {"S": first},
                ":last": {"S": last},
            },
        )
        return [str(item["sk"]) for item in items]

    def quarantined(self, prefix: str = "") -> Iterator[Item]:
        """Return what is listed in quarantine under a prefix of the bucket, in order of key."""
        return self._partition(QUARANTINE_PARTITION, prefix, consistent=False)

    def by_key(
        self, index_name: str, hash_key: tuple[str, str], range_condition: str = "", **values: str
    ) -> Iterator[Item]:
        """Query a secondary index: `range_condition` uses `:name` for each of `values`."""
        name, value = hash_key
        condition = f"{name} = :hash" + (f" AND {range_condition}" if range_condition else "")
        return self._pages(
            "query",
            IndexName=index_name,
            KeyConditionExpression=condition,
            ExpressionAttributeValues={
                ":hash": {"S": value},
                **{f":{each}": {"S": text} for each, text in values.items()},
            },
        )

    def every_study(self, name_parts: Sequence[str] = ()) -> Iterator[Item]:
        """Read every study item, and nothing else, in no order.

        With `name_parts`, DynamoDB hands out those alone whose folded name has each of them, and
        those whose folded name may go on behind where it is cut off.
        """
        if not name_parts:
            return self._pages("scan", IndexName="by-date")
        parts = {f":part{number}": {"S": part} for number, part in enumerate(name_parts)}
        contained = " AND ".join(f"contains(name_folded, {part})" for part in parts)
        return self._pages(
            "scan",
            IndexName="by-date",
            # Whether `size` counts characters or bytes, there are no fewer than the characters.
            FilterExpression="attribute_exists(name_folded) AND "
            f"(({contained}) OR size(name_folded) >= :longest)",
            ExpressionAttributeValues={
                **parts,
                ":longest": {"N": str(INDEXED_CHARACTERS)},
            },
        )

    def partition(self, study_instance_uid: str) -> Iterator[Item]:
        """Return every item of a study, strongly consistent."""
        return self._partition(study_partition(study_instance_uid), "", consistent=True)

    def every_study_uid(self, *, of_procedures: bool = True) -> set[str]:
        """Return the UID of every study the table has any item of.

        Without `of_procedures` of no study that has performed procedure steps alone.
        """
        items = self._pages("scan", ProjectionExpression="pk, sk", ConsistentRead=True)
        wanted = (
            item
            for item in items
            if of_procedures or not str(item["sk"]).startswith(PROCEDURE_PREFIX)
        )
        return set(filter(None, map(study_uid_of, wanted)))

    def everything(self, names: Iterable[str]) -> Iterator[Item]:
        """Read some attributes of every item of the table, in no order."""
        return self._pages("scan", **_projection(names))

    def release_from_quarantine(self, key: str) -> None:
        """Take an object off the quarantine list."""
        self._call(
            self._client.delete_item,
            TableName=self.table,
            Key=_key((QUARANTINE_PARTITION, key)),
        )

    def _tallies(self, study_instance_uid: str, series_instance_uid: str) -> Iterator[Item]:
        prefix = tallies_sort_prefix(series_instance_uid)
        return self._partition(study_partition(study_instance_uid), prefix, consistent=True)

    def _partition(self, pk: str, prefix: str, *, consistent: bool) -> Iterator[Item]:
        return self._pages("query", ConsistentRead=consistent, **_key_condition(pk, prefix))

    def _get(self, pk: str, sk: str, *, consistent: bool) -> Item | None:
        answer = self._read(
            self._client.get_item,
            Key=_key((pk, sk)),
            ConsistentRead=consistent,
        )
        return from_dynamodb(answer["Item"]) if "Item" in answer else None

    def _named(self, keys: Iterable[tuple[str, str]]) -> Iterator[Item]:
        """Read items by their keys, as many at a time as DynamoDB takes, in the order of these."""
        left = iter(keys)
        while some := list(islice(left, _MOST_NAMED_AT_A_TIME)):
            asked = {"Keys": list(map(_key, some)), **self._of_interest()}
            page = self._noted(self._client.batch_get_item, RequestItems={self.table: asked})
            found = {
                (str(item["pk"]), str(item["sk"])): item
                for item in map(from_dynamodb, page["Responses"].get(self.table, ()))
            }
            unread = page["UnprocessedKeys"].get(self.table, {"Keys": []})["Keys"]
            for key in some:
                # What it left out of an answer, too long or too soon, is waited for one by one.
                item = found.get(key) or (
                    self._get(*key, consistent=False) if _key(key) in unread else None
                )
                if item:
                    yield item

    def _pages(self, operation: str, **request: Any) -> Iterator[Item]:  # noqa: ANN401
        for page in self._whole_pages(operation, **request):
            yield from page

    def _whole_pages(self, operation: str, **request: Any) -> Iterator[list[Item]]:  # noqa: ANN401
        """Yield pages as they are read, so that a reader who stops stops the reading."""
        while True:
            page = self._read(getattr(self._client, operation), **request)
            yield list(map(from_dynamodb, page["Items"]))
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _read(self, operation: Callable[..., Any], **request: Any) -> Any:  # noqa: ANN401
        """Read one item or one page of them."""
        keys_alone = request.get("IndexName") == _KEYS_ALONE
        wanted = {} if keys_alone else self._of_interest()
        return self._noted(operation, TableName=self.table, **wanted, **request)

    def _of_interest(self) -> Mapping[str, Any]:
        """Return what a request says of the attributes that are wanted."""
        return {} if self._reading is None or self._whole_items else _OF_INTEREST_TO_QUERIES

    def _noted(self, operation: Callable[..., Any], **request: Any) -> Any:  # noqa: ANN401
        """Read, and note what that took."""
        reading = self._reading
        if reading is None:
            return self._call(operation, **request)
        reading.before_page()
        began = perf_counter()
        page = self._call(operation, ReturnConsumedCapacity="TOTAL", **request)
        reading.seconds += perf_counter() - began
        reading.pages += 1
        reading.items += _items_read(page)
        reading.capacity_units += _capacity_units(page)
        reading.on_page()
        return page

    def _call(self, operation: Callable[..., Any], **request: Any) -> Any:  # noqa: ANN401
        try:
            return operation(**request)
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error


def _all_of(
    pool: ThreadPoolExecutor, write: Callable[[Item], _T], items: Iterable[Item]
) -> list[_T]:
    """Write every item, also where one of them fails; then raise the first failure."""
    writes = [pool.submit(write, each) for each in items]
    wait(writes)
    return [each.result() for each in writes]


def _items_read(page: Mapping[str, Any]) -> int:
    if "Responses" in page:
        return sum(map(len, page["Responses"].values()))
    return int(page.get("ScannedCount", "Item" in page))


def _capacity_units(page: Mapping[str, Any]) -> float:
    consumed = page.get("ConsumedCapacity", {})
    # Of a batch it is a list, of a table each.
    each = consumed if isinstance(consumed, list) else [consumed]
    return float(sum(of_table.get("CapacityUnits", 0.0) for of_table in each))


def _key(key: tuple[str, str]) -> dict[str, Any]:
    """Return partition and sort key as DynamoDB wants them."""
    pk, sk = key
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _key_condition(pk: str, prefix: str) -> dict[str, Any]:
    """Ask for a partition, or for what in it has sort keys that begin with `prefix`."""
    condition, values = "pk = :pk", {":pk": {"S": pk}}
    if prefix:
        condition += " AND begins_with(sk, :prefix)"
        values[":prefix"] = {"S": prefix}
    return {"KeyConditionExpression": condition, "ExpressionAttributeValues": values}


def _projection(names: Iterable[str]) -> dict[str, Any]:
    """Ask for these attributes alone, by other names, for some are words of DynamoDB's own."""
    aliases = {f"#{name}": name for name in names}
    return {"ProjectionExpression": ", ".join(aliases), "ExpressionAttributeNames": aliases}


def _failure(error: ClientError | BotoCoreError) -> StoreUnavailable | ItemRefused:
    code = error_code(error)
    if code in _REFUSED_FOR_EVER:
        return ItemRefused(f"DynamoDB does not take its index entry: {code}")
    return StoreUnavailable(f"DynamoDB refused or did not answer: {code}")


def _fingerprint(item: Item) -> str:
    content = json.dumps(item, default=sorted, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
