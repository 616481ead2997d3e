"""The index: the one DynamoDB table, written from stored copies and read by queries.

Ingest needs no transaction. For a batch of copies of one study it

    1. writes each instance item, conditionally, so that the right copy is shown whatever the order;
    2. for each series touched: reads the series item, counts the instance items, merges, and
       replaces the series item only if it is still the one that was read;
    3. does the same for the study item from the series items.

Every read is strongly consistent and follows the write below it, and every replacement compares
before it sets. So of two batches that race, the one that replaces last has seen the writes of both:

    A: put i1 ──────── count=1 ─────────── replace? no, B was here → count=2 → replace
    B:      put i2 ── count=2 ── replace

A crash at any line leaves the queue's message undeleted, and doing it all again changes nothing.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from . import index_items
from .errors import StoreUnavailable
from .index_items import (
    INSTANCE_PREFIX,
    PROCEDURE_PREFIX,
    QUARANTINE_PARTITION,
    SERIES_PREFIX,
    STUDY_SORT_KEY,
    Copy,
    Item,
    Procedure,
    Registers,
    Series,
    from_dynamodb,
    instance_sort_key,
    instances_sort_prefix,
    procedure_sort_key,
    quarantine_item,
    registers_of,
    series_sort_key,
    study_of,
    study_partition,
    to_dynamodb,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

FINGERPRINT: Final = "fingerprint"
#: Races on one study end after a few rounds; more says that something else is wrong.
_MOST_ROUNDS: Final = 50
_PARALLEL_WRITES: Final = 16
#: Items that something is derived from: they change only if nobody changed them in between.
_FINGERPRINTED: Final = (STUDY_SORT_KEY, SERIES_PREFIX, PROCEDURE_PREFIX)


class Index:
    """Reads and writes the table. Safe to share between threads."""

    def __init__(self, client: "DynamoDBClient", table: str, *, newest_shown: bool = True) -> None:
        """Use `table`; `newest_shown` is the policy for copies that differ."""
        self._client = client
        self.table = table
        self.newest_shown = newest_shown

    # Writing

    def record(self, copies: Sequence[Copy]) -> None:
        """Make the index hold these copies, all of one study.

        Raises:
            StoreUnavailable: some of it was not written; doing it again is safe.
        """
        with ThreadPoolExecutor(min(_PARALLEL_WRITES, len(copies))) as pool:
            list(pool.map(self._record_instance, copies))
        by_series: dict[str, list[Copy]] = defaultdict(list)
        for copy in copies:
            by_series[copy.key.series_instance_uid].append(copy)
        for of_series in by_series.values():
            self._record_series(of_series)
        self._record_study(copies)

    def _record_instance(self, copy: Copy) -> None:
        """Show this copy if the policy prefers it to the one shown; list it in any case."""
        item = index_items.instance_item(copy, [copy.key])
        for _ in range(_MOST_ROUNDS):
            # The item that is there may be gone a moment later, when a rebuild removes it.
            if self.replace(item, None) or self._record_another_copy(to_dynamodb(item)):
                return
        raise StoreUnavailable("the instance is being written by too many at a time")

    def _record_another_copy(self, item: dict[str, Any]) -> bool:
        """Bring a copy into the item of an instance; False when there is no such item any more."""
        key = {"pk": item.pop("pk"), "sk": item.pop("sk")}
        copies = item.pop("copies")
        names = {f"#{name}": name for name in item}
        values = {f":{name}": value for name, value in item.items()}
        # A defect noted for the copy shown before must not stay with this one.
        leave_out = "" if "defect" in item else " REMOVE defect"
        order = "<" if self.newest_shown else ">"
        shown = self._attempt(
            self._client.update_item,
            Key=key,
            UpdateExpression="SET "
            + ", ".join(f"#{name} = :{name}" for name in item)
            + leave_out
            + " ADD copies :copies",
            ConditionExpression=f"#stamp {order} :stamp",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues={**values, ":copies": copies},
        )
        return shown or self._attempt(
            self._client.update_item,
            Key=key,
            UpdateExpression="ADD copies :copies",
            ConditionExpression="attribute_exists(pk)",
            ExpressionAttributeValues={":copies": copies},
        )

    def _record_series(self, copies: Sequence[Copy]) -> None:
        study_instance_uid = copies[0].key.study_instance_uid
        series_instance_uid = copies[0].key.series_instance_uid
        news = self._merged(Registers(), map(index_items.series_registers, copies))
        sop_class_uids = frozenset(copy.sop_class_uid for copy in copies)

        def derive(present: Item | None) -> Item:
            known = Series.from_item(present) if present else None
            return Series(
                study_instance_uid,
                series_instance_uid,
                self._merged(known.registers if known else Registers(), [news]),
                sop_class_uids | (known.sop_class_uids if known else frozenset()),
                self._count_instances(study_instance_uid, series_instance_uid),
            ).item()

        self._replace(
            study_partition(study_instance_uid), series_sort_key(series_instance_uid), derive
        )

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
        return self._conditionally(
            self._client.put_item, {"Item": to_dynamodb(item)}, unchanged=present
        )

    def remove(self, present: Item) -> bool:
        """Remove an item if it is still as it was read; False when it is not."""
        key = {"pk": {"S": str(present["pk"])}, "sk": {"S": str(present["sk"])}}
        return self._conditionally(self._client.delete_item, {"Key": key}, unchanged=present)

    def _conditionally(
        self, operation: Callable[..., Any], request: dict[str, Any], *, unchanged: Item | None
    ) -> bool:
        request["ConditionExpression"] = "attribute_not_exists(pk)"
        if unchanged is not None:
            # An instance item has no fingerprint of all it says: nothing of it changes without its
            # stamp or its copies.
            names = [name for name in (FINGERPRINT, "stamp", "copies") if name in unchanged]
            values = to_dynamodb({name: unchanged[name] for name in names})
            request["ConditionExpression"] = " AND ".join(f"#{name} = :{name}" for name in names)
            request["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
            request["ExpressionAttributeValues"] = {f":{name}": values[name] for name in names}
        return self._attempt(operation, **request)

    def _attempt(self, operation: Callable[..., Any], **request: Any) -> bool:  # noqa: ANN401
        """Make a conditional write; False when its condition does not hold."""
        try:
            operation(TableName=self.table, **request)
        except ClientError as error:
            if _condition_failed(error):
                return False
            raise _failure(error) from error
        except BotoCoreError as error:
            raise _failure(error) from error
        return True

    def quarantine(self, key: str, reason: str, received: str, calling_ae_title: str) -> None:
        """List an object that cannot be placed."""
        item = to_dynamodb(quarantine_item(key, reason, received, calling_ae_title))
        self._call(self._client.put_item, TableName=self.table, Item=item)

    # Reading

    def study(self, study_instance_uid: str) -> Item | None:
        """Return a study's item, None when there is no such study."""
        return self._get(study_partition(study_instance_uid), STUDY_SORT_KEY, consistent=False)

    def series(self, study_instance_uid: str, *, consistent: bool = False) -> Iterator[Item]:
        """Return the items of a study's series, in order of UID."""
        return self._partition(study_partition(study_instance_uid), SERIES_PREFIX, consistent)

    def one_series(self, study_instance_uid: str, series_instance_uid: str) -> Item | None:
        """Return one series' item, None when there is none."""
        pk, sk = study_partition(study_instance_uid), series_sort_key(series_instance_uid)
        return self._get(pk, sk, consistent=False)

    def instances(
        self, study_instance_uid: str, series_instance_uid: str | None = None
    ) -> Iterator[Item]:
        """Return the instance items of a series, or of a whole study."""
        prefix = (
            index_items.INSTANCE_PREFIX
            if series_instance_uid is None
            else instances_sort_prefix(series_instance_uid)
        )
        return self._partition(study_partition(study_instance_uid), prefix, consistent=False)

    def instance(
        self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str
    ) -> Item | None:
        """Return one instance's item, None when there is none."""
        return self._get(
            study_partition(study_instance_uid),
            instance_sort_key(series_instance_uid, sop_instance_uid),
            consistent=False,
        )

    def series_of(self, sop_instance_uid: str) -> list[tuple[str, str]]:
        """Return study and series of every instance with this UID, eventually consistent."""
        found = map(
            index_items.series_of_instance, self.by_key("by-uid", ("uid", sop_instance_uid))
        )
        return [place for place in found if place is not None]

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
        request = self._key_condition(study_partition(study_instance_uid), INSTANCE_PREFIX)
        del request["TableName"]
        pages = self._pages("query", ConsistentRead=True, ProjectionExpression="sk", **request)
        return (str(item["sk"]).rpartition("#")[2] for item in pages)

    def quarantined(self) -> Iterator[Item]:
        """Return what is listed in quarantine, in order of object key."""
        return self._partition(QUARANTINE_PARTITION, "", consistent=False)

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

    def every_study(self) -> Iterator[Item]:
        """Read every study item, and nothing else, in no order."""
        return self._pages("scan", IndexName="by-date")

    def partition(self, study_instance_uid: str) -> Iterator[Item]:
        """Return every item of a study, strongly consistent."""
        return self._partition(study_partition(study_instance_uid), "", consistent=True)

    def every_study_uid(self) -> set[str]:
        """Return the UID of every study the table has any item of."""
        items = self._pages("scan", ProjectionExpression="pk", ConsistentRead=True)
        partitions = {str(item["pk"]) for item in items}
        prefix = study_partition("")
        return {pk.removeprefix(prefix) for pk in partitions if pk.startswith(prefix)}

    def release_from_quarantine(self, key: str) -> None:
        """Take an object off the quarantine list."""
        self._call(
            self._client.delete_item,
            TableName=self.table,
            Key={"pk": {"S": QUARANTINE_PARTITION}, "sk": {"S": key}},
        )

    def _count_instances(self, study_instance_uid: str, series_instance_uid: str) -> int:
        request = self._key_condition(
            study_partition(study_instance_uid), instances_sort_prefix(series_instance_uid)
        )
        count: int = 0
        start: dict[str, Any] = {}
        while True:
            page = self._call(
                self._client.query, Select="COUNT", ConsistentRead=True, **request, **start
            )
            count += page["Count"]
            if "LastEvaluatedKey" not in page:
                return count
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _partition(self, pk: str, prefix: str, consistent: bool) -> Iterator[Item]:  # noqa: FBT001
        request = self._key_condition(pk, prefix)
        del request["TableName"]
        return self._pages("query", ConsistentRead=consistent, **request)

    def _key_condition(self, pk: str, prefix: str) -> dict[str, Any]:
        condition, values = "pk = :pk", {":pk": {"S": pk}}
        if prefix:
            condition += " AND begins_with(sk, :prefix)"
            values[":prefix"] = {"S": prefix}
        return {
            "TableName": self.table,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
        }

    def _get(self, pk: str, sk: str, *, consistent: bool) -> Item | None:
        answer = self._call(
            self._client.get_item,
            TableName=self.table,
            Key={"pk": {"S": pk}, "sk": {"S": sk}},
            ConsistentRead=consistent,
        )
        return from_dynamodb(answer["Item"]) if "Item" in answer else None

    def _pages(self, operation: Any, **request: Any) -> Iterator[Item]:  # noqa: ANN401
        """Yield items page by page, so that a reader who stops stops the reading."""
        pages = self._client.get_paginator(operation).paginate(TableName=self.table, **request)
        try:
            for page in pages:
                yield from map(from_dynamodb, page["Items"])
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error

    def _call(self, operation: Callable[..., Any], **request: Any) -> Any:  # noqa: ANN401
        try:
            return operation(**request)
        except (ClientError, BotoCoreError) as error:
            raise _failure(error) from error


def _condition_failed(error: ClientError) -> bool:
    return error.response["Error"]["Code"] == "ConditionalCheckFailedException"


def _failure(error: ClientError | BotoCoreError) -> StoreUnavailable:
    code = (
        error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
    )
    return StoreUnavailable(f"DynamoDB refused or did not answer: {code}")


def _fingerprint(item: Item) -> str:
    content = json.dumps(item, default=sorted, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
